//! What can go wrong, in the user's words. `Display` states this level only; the cause is `source()`.

use crate::hooks::HookKind;
use nix::errno::Errno;
use punnet_spec::Status;
use std::fmt::{self, Write as _};

/// Shorthand for results of this crate. The error is one pointer wide: each of the many `?` passes it on, and errors are rare.
pub type Result<T, E = Box<Error>> = std::result::Result<T, E>;

/// Exit status when the runtime itself failed, as users know it from Docker.
pub const EXIT_RUNTIME: u8 = 125;
/// Exit status when the program is there and cannot be executed.
pub const EXIT_NOT_EXECUTABLE: u8 = 126;
/// Exit status when the program is not there.
pub const EXIT_NOT_FOUND: u8 = 127;

/// An error and its causes as one sentence.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a String cannot fail.
        write!(text, ": {error}").unwrap_or_default();
        cause = error.source();
    }
    text
}

/// Errors of the runtime, by what a caller can act on.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The command line.
    #[error("{0}")]
    Usage(String),
    /// Not an id that we accept.
    #[error("{id:?} is not a container id: {why}")]
    InvalidId {
        /// What was given, shortened.
        id: String,
        /// Which rule it breaks.
        why: &'static str,
    },
    /// The id is taken.
    #[error("container {0} exists already; delete it first or choose another id")]
    Exists(String),
    /// No such id.
    #[error("container {0} does not exist")]
    NotFound(String),
    /// The container is not in the state the operation needs.
    #[error("cannot {operation} container {id}: {}", why_not(*.status))]
    WrongStatus {
        /// The verb.
        operation: &'static str,
        /// The container.
        id: String,
        /// Where in its life it is.
        status: Status,
    },
    /// config.json asks for something wrong or unsupported.
    #[error("config.json: {field}: {reason}")]
    Config {
        /// Path of the field, as `process.cwd`.
        field: String,
        /// Why it is refused.
        reason: String,
    },
    /// config.json or another document is not the JSON it should be.
    #[error("cannot read {path}")]
    Json {
        /// The file.
        path: String,
        /// Line, column, what was expected.
        #[source]
        source: punnet_json::Error,
    },
    /// A system call failed.
    #[error("cannot {operation} {subject}")]
    Os {
        /// What was tried.
        operation: String,
        /// On what: a path, an id, a name.
        subject: String,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// A limit that cannot be enforced here.
    #[error("cannot limit {what}: the cgroup controller `{controller}` is {problem}; {remedy}")]
    Limit {
        /// The field of config.json.
        what: String,
        /// cgroup controller.
        controller: String,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// The program is not in the container.
    #[error("{0}: executable file not found in the container")]
    ProgramNotFound(String),
    /// The program is there and cannot be executed.
    #[error("{program}: {why}")]
    ProgramNotExecutable {
        /// As asked for.
        program: String,
        /// Permission, format, architecture.
        why: String,
    },
    /// A hook failed.
    #[error("{kind} hook {path} {why}")]
    Hook {
        /// Which of the six.
        kind: &'static str,
        /// The program.
        path: String,
        /// How it ended.
        why: String,
    },
    /// The container's process ended during set-up without a word.
    #[error("the container's process ended during set-up without saying why (killed, or out of memory?)")]
    InitDied,
    /// An error inside the container's set-up, as its process told it.
    #[error("{0}")]
    Setup(String),
}

/// containerd knows by "container not running" that there is nothing left to kill.
fn why_not(status: Status) -> String {
    let word = status.as_str();
    match status {
        Status::Stopped => format!("it is {word} (container not running)"),
        _ => format!("it is {word}"),
    }
}

/// In people's words too: what the derive would write out is more code, and says less.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(self))
    }
}

impl Error {
    /// Exit status for `run` and `exec`: 126 and 127 speak of the program, 125 of everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::ProgramNotFound(_) => EXIT_NOT_FOUND,
            Self::ProgramNotExecutable { .. } => EXIT_NOT_EXECUTABLE,
            _ => EXIT_RUNTIME,
        }
    }

    /// The kernel's answer, when it was one.
    pub(crate) fn errno(&self) -> Option<Errno> {
        match self {
            Self::Os { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// This error and its causes in one line, as it is printed at the edge.
    pub fn chain(&self) -> String {
        chain(self)
    }

    /// A field of config.json refused.
    pub(crate) fn config(field: impl Into<String>, reason: impl Into<String>) -> Box<Self> {
        Self::config_of(field.into(), reason.into())
    }

    #[cold]
    #[inline(never)]
    fn config_of(field: String, reason: String) -> Box<Self> {
        Box::new(Self::Config { field, reason })
    }

    /// A command line that makes no sense.
    #[cold]
    #[inline(never)]
    pub(crate) fn usage(why: std::fmt::Arguments<'_>) -> Box<Self> {
        Box::new(Self::Usage(why.to_string()))
    }

    /// A failed system call.
    #[cold]
    #[inline(never)]
    pub(crate) fn os(operation: &str, subject: &dyn std::fmt::Display, errno: Errno) -> Box<Self> {
        Box::new(Self::Os {
            operation: operation.to_owned(),
            subject: subject.to_string(),
            errno,
        })
    }

    /// For sending over the set-up socket: kind, errno and up to two strings.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (kind, errno, first, second) = match self {
            Self::Os {
                operation,
                subject,
                errno,
            } => ('o', *errno as i32, operation.clone(), subject.clone()),
            Self::ProgramNotFound(program) => ('n', 0, program.clone(), String::new()),
            Self::ProgramNotExecutable { program, why } => ('x', 0, program.clone(), why.clone()),
            Self::Config { field, reason } => ('c', 0, field.clone(), reason.clone()),
            // Only these two kinds run in the container's process.
            Self::Hook { kind, path, why } => {
                let number = i32::from(*kind == HookKind::StartContainer.as_str());
                ('h', number, path.clone(), why.clone())
            }
            other => ('s', 0, other.chain(), String::new()),
        };
        format!("E{kind}{errno}\0{first}\0{second}").into_bytes()
    }

    /// The reverse of [`Error::encode`]; anything else becomes its text.
    pub(crate) fn decode(message: &[u8]) -> Box<Self> {
        let text = String::from_utf8_lossy(message);
        let mut parts = text.splitn(3, '\0');
        let (head, first, second) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default().to_owned(),
            parts.next().unwrap_or_default().to_owned(),
        );
        let number = head.get(2..).and_then(|number| number.parse().ok());
        let errno = number.map_or(Errno::UnknownErrno, Errno::from_raw);
        Box::new(match head.get(..2) {
            Some("Eo") => Self::Os {
                operation: first,
                subject: second,
                errno,
            },
            Some("En") => Self::ProgramNotFound(first),
            Some("Ex") => Self::ProgramNotExecutable {
                program: first,
                why: second,
            },
            Some("Ec") => Self::Config {
                field: first,
                reason: second,
            },
            Some("Eh") => Self::Hook {
                kind: match number {
                    Some(1) => HookKind::StartContainer.as_str(),
                    _ => HookKind::CreateContainer.as_str(),
                },
                path: first,
                why: second,
            },
            _ => Self::Setup(first),
        })
    }
}

/// Adds what was tried and on what to a system call's errno.
pub(crate) trait OsContext<T> {
    /// `cannot {operation} {subject}: {errno}`
    fn os(self, operation: &str, subject: impl std::fmt::Display) -> Result<T>;
}

impl<T> OsContext<T> for nix::Result<T> {
    fn os(self, operation: &str, subject: impl std::fmt::Display) -> Result<T> {
        self.map_err(|errno| Error::os(operation, &subject, errno))
    }
}

impl<T> OsContext<T> for std::io::Result<T> {
    fn os(self, operation: &str, subject: impl std::fmt::Display) -> Result<T> {
        self.map_err(|error| {
            let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
            Error::os(operation, &subject, errno)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_keep_their_kind_over_the_setup_socket() {
        let errors = [
            Error::os("mount", &"/proc", Errno::EPERM),
            Error::ProgramNotFound("sh".into()).into(),
            Error::ProgramNotExecutable {
                program: "sh".into(),
                why: "built for arm".into(),
            }
            .into(),
            Error::config("process.cwd", "outside the root"),
            Error::Hook {
                kind: "startContainer",
                path: "/hook".into(),
                why: "ended with status 1".into(),
            }
            .into(),
        ];
        for error in errors {
            let back = Error::decode(&error.encode());
            assert_eq!(back.chain(), error.chain());
            assert_eq!(back.exit_code(), error.exit_code());
        }
        assert_eq!(Error::decode(b"\xff\xff\0garbage").exit_code(), EXIT_RUNTIME);
    }
}
