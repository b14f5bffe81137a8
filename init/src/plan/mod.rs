//! What PID 1 and its helpers decide, as pure functions to plain data: no file, socket or clock is touched below this folder.

pub mod dhcp;
pub mod disk;
pub mod health;
pub mod modules;
pub mod mounts;
pub mod netlink;
pub mod settings;
pub mod slots;
pub mod sntp;
pub mod uevent;
