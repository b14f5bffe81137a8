//! The agent from outside: its core under a simulator and under scripted input, its session against a real broker.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod core;
mod device;
mod fleet;

mod broker;
mod end_to_end;
mod sim;
