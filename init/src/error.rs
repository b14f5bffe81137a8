//! What keeps a board from coming up as it should, for people at a serial line.

use std::io;
use std::path::{Path, PathBuf};

/// What this crate's functions return. The error is one pointer wide: each `?` passes it on, and errors are rare.
pub type Result<T, E = Box<InitError>> = std::result::Result<T, E>;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Something of the kernel's or a file could not be used.
    #[error("cannot {operation} {path}")]
    Os {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Only the kernel starts this.
    #[error(
        "punnet init is the first process of a board (PID 1) and is started by the kernel: see docs/boards.md"
    )]
    NotPid1,
    /// An update of the system cannot be done here; the text says why.
    #[error("the system cannot be updated: {0}")]
    System(String),
    /// No such role.
    #[error("punnet init has no role {0:?}")]
    Role(String),
}

impl InitError {
    /// Adds what was tried, on what.
    pub(crate) fn at<E: Into<io::Error>>(
        operation: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(E) -> Box<Self> {
        move |source| Self::at_of(operation, path.as_ref(), source.into())
    }

    #[cold]
    #[inline(never)]
    fn at_of(operation: &'static str, path: &Path, source: io::Error) -> Box<Self> {
        Box::new(Self::Os {
            operation,
            path: path.into(),
            source,
        })
    }
}
