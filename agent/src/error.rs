//! Why the agent cannot go on. What can be tried again is no error here: it is reported and tried again.

use std::io;
use std::path::{Path, PathBuf};

/// What this crate's functions return. The error is one pointer wide: each `?` passes it on, and errors are rare.
pub type Result<T, E = Box<AgentError>> = std::result::Result<T, E>;

/// What ends the agent, or keeps it from starting.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// A file or folder could not be used.
    #[error("cannot {operation} {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The device has no enrolment file.
    #[error("this device is not enrolled: {} is missing. Make a file with `punnet-fleet enroll` and pass it with --enrolment FILE", path.display())]
    NotEnrolled {
        /// Where it would be.
        path: PathBuf,
    },
    /// The enrolment file is not as it must be.
    #[error("enrolment file {}: {why}", path.display())]
    Enrolment {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Another agent works on the same data root.
    #[error("another agent runs with the data root {}", data_root.display())]
    AlreadyRunning {
        /// Which data root.
        data_root: PathBuf,
    },
    /// Keys and certificates of the enrolment cannot be used.
    #[error("TLS: {0}")]
    Tls(String),
    /// Something the agent needs of the operating system is not there.
    #[error("cannot {operation}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl AgentError {
    /// Adds what was tried, on which file.
    pub(crate) fn file(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Box<Self> {
        move |source| Self::file_of(operation, path, source)
    }

    #[cold]
    #[inline(never)]
    fn file_of(operation: &'static str, path: &Path, source: io::Error) -> Box<Self> {
        Box::new(Self::File {
            operation,
            path: path.into(),
            source,
        })
    }
}
