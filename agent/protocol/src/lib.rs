//! The wire between a fleet controller and its devices.
//!
//! Plain data and pure functions: names, messages, topics, the envelope and what is signed. No I/O, no clock, no
//! allocation, no crate of ours. Transport is MQTT 3.1.1 QoS 1; payloads are postcard inside [`envelope`].
//!
//! Compatibility: [`SCHEMA_VERSION`] changes when a decoder of the old version could misread the new one. Within a version
//! enums only grow at the end, and `tests/golden/v1/` holds bytes that are never edited. A message is of the oldest version that can say it:
//! a device without troubles is understood by a controller that knows version 1 alone.

#![no_std]
#![forbid(unsafe_code)]

mod bounded;
pub mod envelope;
mod messages;
mod names;
pub mod signed;
pub mod topics;
mod views;

pub use bounded::{Strings, StringsError, StringsIter, Text, clipped};
pub use messages::{
    App, AppReport, AppState, Arch, Block, BlockAnswer, BlockRefusal, BlockWant, BoardInfo, Command,
    CommandAction, Desired, ImageSource, Limits, LogChunk, Mount, Network, Outcome, Presence, Rejection,
    Reply, ReplyTo, Report, Reported, RestartPolicy, Troubles,
};
pub use names::{Digest, Name, NameError};
pub use views::{BlockAnswerView, BlockView, DesiredView, LogChunkView};

/// Version of every message in this crate but one; the first byte of each packet.
pub const SCHEMA_VERSION: u8 = 1;

/// Version of a [`Report`] that has troubles. Since 0.1.0 of 2026-11-26; a controller from before takes it for no message.
pub const TROUBLED_VERSION: u8 = 2;

/// Largest MQTT payload either side sends or accepts, bytes. AWS IoT Core's publish limit, the smallest of the brokers we
/// know, is 128 KiB for the whole packet; the rest is left for topic and headers.
pub const PAYLOAD_BYTES_MAX: usize = 120 * 1024;

/// Bytes of a name: a DNS label, so that a device name can be a host name (RFC 1123).
pub const NAME_BYTES_MAX: usize = 63;

/// Apps in one desired state. A board of this class runs a handful; sixteen keep the decoded state under 100 KiB.
pub const APPS_MAX: usize = 16;

/// Packed bytes of one app's entrypoint and arguments together.
pub const ARGS_BYTES_MAX: usize = 1024;

/// Packed bytes of one app's environment.
pub const ENV_BYTES_MAX: usize = 2048;

/// Bind mounts of one app.
pub const MOUNTS_MAX: usize = 4;

/// Device classes (gpio, i2c, ...) of one app.
pub const DEVICE_CLASSES_MAX: usize = 8;

/// Bytes of a path on the wire.
pub const PATH_BYTES_MAX: usize = 128;

/// Bytes of an image reference kept for people to read; the digest is what counts.
pub const REFERENCE_BYTES_MAX: usize = 128;

/// Bytes of a sentence meant for people: why something was rejected or failed.
pub const DETAIL_BYTES_MAX: usize = 192;

/// Troubles of one device; more are not told, and the serial console has them all.
pub const TROUBLES_MAX: usize = 8;

/// Data bytes of one [`Block`]. Small enough for every broker's default limit and a slow link's keep-alive, large enough
/// that the round trip, not the header, dominates.
pub const BLOCK_BYTES_MAX: usize = 16 * 1024;

/// Data bytes of one [`LogChunk`].
pub const LOG_BYTES_MAX: usize = 4 * 1024;
