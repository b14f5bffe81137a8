//! What goes wrong on the command line, in the user's words, and the exit code each has.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Exit code for a command line that makes no sense.
pub const USAGE: u8 = 2;
/// Exit code when the same may work later (EX_TEMPFAIL of sysexits.h).
#[cfg(feature = "images")]
const TRY_LATER: u8 = 75;

/// What this crate's functions return. The error is one pointer wide: each `?` passes it on, and errors are rare.
pub type Result<T, E = Box<CliError>> = std::result::Result<T, E>;

/// Errors of the user's verbs.
#[derive(thiserror::Error)]
pub enum CliError {
    /// The command line makes no sense.
    #[error("{0} (punnet --help shows the verbs, punnet VERB --help what one takes)")]
    Usage(String),
    /// An ordinary user without a home.
    #[error("no place for images: set HOME, PUNNET_DATA_ROOT or --data-root")]
    NoHome,
    /// An ordinary user without a runtime directory.
    #[error(
        "no place for running containers: set XDG_RUNTIME_DIR (a folder in RAM of your own), PUNNET_RUN_ROOT or --run-root"
    )]
    NoRuntimeDir,
    /// A file of ours.
    #[error("{what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A record that is not what we wrote.
    #[error("{path} is damaged; remove the container with `punnet rm --force`")]
    Record {
        /// Which.
        path: PathBuf,
        /// Where.
        source: punnet_json::Error,
    },
    /// Names are unique.
    #[error("a container named {0} exists already; choose another --name or remove it with `punnet rm {0}`")]
    NameTaken(String),
    /// No such container.
    #[error("no container is named {0}; `punnet ps --all` lists them")]
    NoContainer(String),
    /// No file for it.
    #[cfg(feature = "agent")]
    #[error("no app is named {0}: there is no {0}.yaml in {1}")]
    NoApp(String, PathBuf),
    /// The server could not do it.
    #[cfg(feature = "agent")]
    #[error("{0} does not start: {1}; `punnet apps` shows how it goes on")]
    AppFailed(String, String),
    /// It runs already.
    #[error("{0} is running already")]
    Running(String),
    /// It does not run.
    #[error("{0} is not running")]
    NotRunning(String),
    /// It runs and must not.
    #[error("{0} is running; stop it first or use --force")]
    StillRunning(String),
    /// Its layers are not here, and nobody said where they are.
    #[error(
        "the layers of {0} were not kept here, and it has no name to fetch it by: give --from with a layout or an archive of the image"
    )]
    NothingToRepairFrom(String),
    /// Containers need it.
    #[error("{0} is the image of a container; remove the container first or use --force")]
    ImageInUse(String),
    /// Files are not as they were stored.
    #[error("{damaged} of {all} images are damaged; remove them and load them again")]
    Damaged {
        /// How many.
        damaged: usize,
        /// Of how many.
        all: usize,
    },
    /// A signal came while a step of a build ran.
    #[error("interrupted by {0}; the step was ended")]
    Interrupted(&'static str),
    /// A step's root file system cannot be mounted.
    #[error(
        "RUN needs overlayfs, and there is no other way to do it here (is the kernel's overlay module there? can the data root's file system hold its upper directory?)"
    )]
    NoOverlay(#[source] Box<CliError>),
    /// From the image half.
    #[cfg(feature = "images")]
    #[error(transparent)]
    Images(#[from] Box<punnet_images::Error>),
    /// From the board's description.
    #[cfg(feature = "images")]
    #[error(transparent)]
    Board(#[from] Box<punnet_boards::BoardError>),
    /// From the agent.
    #[cfg(feature = "agent")]
    #[error(transparent)]
    Agent(#[from] Box<punnet_agent::AgentError>),
    /// From PID 1's half.
    #[cfg(feature = "init")]
    #[error(transparent)]
    Init(#[from] Box<punnet_init::InitError>),
    /// From the runtime.
    #[error(transparent)]
    Runtime(#[from] Box<punnet_runtime::Error>),
    /// From the log file.
    #[cfg(feature = "images")]
    #[error(transparent)]
    Log(#[from] Box<punnet_logs::LogError>),
    /// The kernel refuses the container's root.
    #[cfg(feature = "images")]
    #[error("{0}\n  a container made with `--writable-layer copy` needs no overlayfs")]
    OverlayRefused(String),
    /// Any of the above within `run`, `create`, `start` or `exec`, where Docker's users expect 125.
    #[error(transparent)]
    Engine(Box<CliError>),
    /// Several things were asked for and some failed; each has been printed.
    #[error("{failed} of {all} failed")]
    Some {
        /// How many failed.
        failed: usize,
        /// Of how many.
        all: usize,
    },
}

impl CliError {
    /// A command line that makes no sense.
    #[cold]
    #[inline(never)]
    pub fn usage(why: fmt::Arguments<'_>) -> Box<Self> {
        Box::new(Self::Usage(why.to_string()))
    }

    /// A file of ours that could not be used.
    #[cold]
    #[inline(never)]
    pub fn file(what: &'static str, path: &Path, source: io::Error) -> Box<Self> {
        Box::new(Self::File {
            what,
            path: path.into(),
            source,
        })
    }

    /// What the process ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => USAGE,
            Self::Engine(inner) => match &**inner {
                Self::Runtime(error) => error.exit_code(),
                _ => 125,
            },
            #[cfg(feature = "images")]
            Self::Images(error) if error.is_temporary() => TRY_LATER,
            _ => 1,
        }
    }
}

impl From<lexopt::Error> for CliError {
    fn from(error: lexopt::Error) -> Self {
        Self::Usage(error.to_string())
    }
}

/// For `?` on what other crates return.
macro_rules! boxed {
    ($($(#[$feature:meta])? $error:ty),* $(,)?) => {
        $($(#[$feature])?
        impl From<$error> for Box<CliError> {
            #[cold]
            #[inline(never)]
            fn from(error: $error) -> Self {
                Self::new(error.into())
            }
        })*
    };
}

boxed! {
    lexopt::Error,
    Box<punnet_runtime::Error>,
    #[cfg(feature = "images")]
    Box<punnet_images::Error>,
    #[cfg(feature = "images")]
    Box<punnet_boards::BoardError>,
    #[cfg(feature = "images")]
    Box<punnet_logs::LogError>,
    #[cfg(feature = "agent")]
    Box<punnet_agent::AgentError>,
    #[cfg(feature = "init")]
    Box<punnet_init::InitError>,
}

/// In people's words, as the runtime's errors.
impl fmt::Debug for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&punnet_runtime::chain(self))
    }
}

/// Prints an error and its causes in one line.
pub fn print_chain(error: &dyn Error) {
    eprintln!("punnet: {}", punnet_runtime::chain(error));
}
