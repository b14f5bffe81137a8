//! What can be wrong with a board file or a board's own devices.

use std::io;
use std::path::PathBuf;

/// What this crate's functions return. The error is one pointer wide: each `?` passes it on, and errors are rare.
pub type Result<T, E = Box<BoardError>> = std::result::Result<T, E>;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// A file cannot be read.
    #[error("cannot read the board file {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what a board file should be; the text has line and column.
    #[error("{path}: {text}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// What and where.
        text: String,
    },
    /// `inherit` leads in a circle, or deeper than any sane chain.
    #[error("{path}: the chain of `inherit` goes through more than {depth_max} files")]
    InheritDepth {
        /// The file it began with.
        path: PathBuf,
        /// The bound.
        depth_max: usize,
    },
    /// A GPIO line cannot be used.
    #[error("cannot drive line {line} of {chip}: is it there, free, and may this user open it?")]
    Gpio {
        /// The chip's device node.
        chip: PathBuf,
        /// Offset of the line.
        line: u32,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A LED of the kernel's LED class cannot be used.
    #[error("cannot switch the LED {path}")]
    LedClass {
        /// Its `brightness` file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
