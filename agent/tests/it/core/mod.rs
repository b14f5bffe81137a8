//! The core under scripted input: what a controller, a stranger and a broker can send, and what the device makes of it.

mod bench;
mod commands;
mod desired;
mod images;
mod link;
mod system;
mod versions;

use bench::Bench;
