//! The fleet controller: what each device shall run, signed; the broker that carries it; the blocks of the images; what the
//! devices report.
//!
//! The binary is `punnet-fleet`. One process (`serve`) owns the MQTT session and answers the HTTP API; the other verbs are its
//! clients, or work on the state directory itself where that is safe beside a running controller (`enroll`, `keygen`,
//! `images`).
//!
//! Reading order: [`state_dir`] (what is on disk), [`db`] (the rows), [`desired`] and [`state`] (what decides, without I/O),
//! [`broker`], [`gate`] and [`session`] (MQTT), [`serve`] (what ties it together), [`api`] and [`cli`] (the two faces).

#![forbid(unsafe_code)]

pub mod api;
pub mod blocks;
pub mod broker;
pub mod broker_url;
pub mod cli;
pub mod client;
pub mod commands;
pub mod core;
pub mod db;
pub mod desired;
pub mod enrolment;
pub mod error;
pub mod gate;
pub mod image_store;
pub mod key;
pub mod log_streams;
pub mod message;
pub mod platform;
pub mod progress;
pub mod serve;
pub mod session;
pub mod spec;
pub mod state;
pub mod state_dir;
pub mod view;

use std::time::{SystemTime, UNIX_EPOCH};

use punnet_protocol::PAYLOAD_BYTES_MAX;

/// Largest MQTT packet that the embedded broker takes from a device: the payload, its topic and headers.
pub const PACKET_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + 1024;

/// Seconds since 1970 by this machine's clock; 0 when it stands before.
pub fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// A line about what the controller does, to standard output. One that nobody reads any more stops nothing.
pub(crate) fn say(line: &str) {
    use std::io::Write;
    writeln!(std::io::stdout(), "{line}").ok();
}

/// A line about what went wrong, to standard error.
pub(crate) fn warn(line: &str) {
    use std::io::Write;
    writeln!(std::io::stderr(), "{line}").ok();
}

/// `bytes` in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a String does not fail");
            text
        })
}
