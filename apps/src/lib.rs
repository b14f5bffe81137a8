//! Apps that a board runs by its own files, without a controller: `/etc/punnet/apps/NAME.yaml`.
//!
//! [`App`] is one file, checked; [`yaml`] is the subset of YAML it is written in; [`plan`] decides what is done about an app. The doing is in
//! the device binary (src/apps/).
//!
//! **Invariant:** no I/O, no clock.

#![forbid(unsafe_code)]

mod app;
pub mod plan;
pub mod yaml;

pub use app::{App, KEYS, Mount, Restart, order_errors};
pub use yaml::{FileError, Place, Result};

/// Largest app file, bytes: some ten times what the bounds of an app allow in one.
pub const FILE_BYTES_MAX: usize = 64 * 1024;
