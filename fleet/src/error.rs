//! What can go wrong, in the user's words, and the HTTP status each has at the API.

use std::io;
use std::path::{Path, PathBuf};

/// Any failure of the controller or its verbs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such device is enrolled.
    #[error(
        "no device is called '{0}'; `punnet-fleet devices` lists them, `punnet-fleet enroll {0}` makes one"
    )]
    NoDevice(String),
    /// The device has no such app.
    #[error("device '{device}' has no app called '{app}'; `punnet-fleet status {device}` lists its apps")]
    NoApp {
        /// Which device.
        device: String,
        /// Which app.
        app: String,
    },
    /// The image store has no such reference.
    #[error("the image store has no '{0}'; `punnet-fleet images add PATH --name {0}` adds it")]
    NoImage(String),
    /// The image has nothing for the device's CPU.
    #[error(
        "image '{reference}' offers {offered}, but device '{device}' is {wanted}; build or add the image for {wanted}"
    )]
    WrongPlatform {
        /// The image.
        reference: String,
        /// Its platforms.
        offered: String,
        /// Which device.
        device: String,
        /// The device's platform.
        wanted: String,
    },
    /// Something given does not fit.
    #[error("{what}: {why}")]
    Invalid {
        /// What was given.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// It is there already, or still needed.
    #[error("{0}")]
    Conflict(String),
    /// The device must be there for this.
    #[error(
        "device '{0}' is offline; it gets what is deployed when it is back, but logs and restarts need it online"
    )]
    Offline(String),
    /// The device said no.
    #[error("device '{device}' rejected it: {why}")]
    Rejected {
        /// Which device.
        device: String,
        /// Its reason.
        why: String,
    },
    /// The device did not answer.
    #[error("device '{device}' did not answer within {seconds} s")]
    NoAnswer {
        /// Which device.
        device: String,
        /// How long was waited.
        seconds: u64,
    },
    /// Nothing answers behind the state directory.
    #[error("no controller runs on {}; start one with `punnet-fleet --state {} serve`", .0.display(), .0.display())]
    NotServing(PathBuf),
    /// Another controller has the state directory.
    #[error("another controller runs on {}{}; stop it first, or give this one its own --state", .path.display(), pid_note(.pid))]
    Locked {
        /// The state directory.
        path: PathBuf,
        /// What the lock file says.
        pid: String,
    },
    /// The API token is missing or wrong.
    #[error("the API token is missing or wrong")]
    Unauthorized,
    /// The controller said no, in its own words.
    #[error("{0}")]
    Api(String),
    /// A file operation failed.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The network said no.
    #[error("cannot {operation} {address}")]
    Network {
        /// What was tried.
        operation: &'static str,
        /// On what.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The database said no.
    #[error("the fleet database failed")]
    Database(#[from] rusqlite::Error),
    /// The database failed while committing, after the work itself was done; nothing was kept.
    #[error("the fleet database failed: {0}")]
    Commit(String),
    /// The image cannot be read.
    #[error("cannot read the image {}", path.display())]
    Image {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The controller is ending.
    #[error("the controller is ending")]
    Ending,
}

/// What most functions here return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// For `map_err` on file operations.
    pub fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            operation,
            path,
            source,
        }
    }

    /// Something given does not fit.
    pub fn invalid(what: impl Into<String>, why: impl ToString) -> Self {
        Self::Invalid {
            what: what.into(),
            why: why.to_string(),
        }
    }

    /// The HTTP status of the API's answer.
    pub fn status(&self) -> u16 {
        match self {
            Self::NoDevice(_) | Self::NoApp { .. } | Self::NoImage(_) => 404,
            Self::WrongPlatform { .. } | Self::Invalid { .. } | Self::Image { .. } => 422,
            Self::Conflict(_) | Self::Offline(_) | Self::Locked { .. } | Self::Rejected { .. } => 409,
            Self::NoAnswer { .. } => 504,
            Self::Unauthorized => 401,
            Self::NotServing(_) | Self::Ending => 503,
            Self::Api(_) | Self::Io { .. } | Self::Network { .. } | Self::Database(_) | Self::Commit(_) => {
                500
            }
        }
    }

    /// This error and its causes on one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

fn pid_note(pid: &str) -> String {
    if pid.is_empty() {
        String::new()
    } else {
        format!(" (process {pid})")
    }
}
