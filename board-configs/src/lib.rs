//! Boards as data: what each kind of board is, and the small board I/O that Punnet itself does (the status LED).
//!
//! A board is one TOML file in this folder; `inherit` names the file whose values it starts from. The tools read TOML (feature
//! `toml`) and write the resolved board as JSON; a device reads only that JSON, so that no TOML parser is paid for on a board.
//! GPIO goes through `linux-embedded-hal`'s Linux back end.
//!
//! **Invariant:** no code of ours depends on the `embedded-hal` traits.

#![forbid(unsafe_code)]

mod board;
mod error;
#[cfg(feature = "toml")]
mod image;
mod led;
#[cfg(feature = "toml")]
mod raw;
pub mod slots;

pub use board::{Arch, Board, DeviceClass, GpioLine, LedConfig, Watchdog};
pub use error::{BoardError, Result};
#[cfg(feature = "toml")]
pub use image::{BootLoader, ChangedProperty, Description, Drive, Image, Qemu};
pub use led::{Led, LedPattern, Line};
#[cfg(feature = "toml")]
pub use raw::{describe, load, load_all};
