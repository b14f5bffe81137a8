//! OCI runtime: a bundle becomes a running container. Synchronous and single-threaded: no async, no threads, no process of its own that
//! stays.
//!
//! Reading order: `plan` decides (pure data), `launch` makes the process, `init` is the ordered list of security steps that it takes
//! upon itself, `runtime` holds the verbs, `cli` the command line of container engines.
#![forbid(unsafe_code)]

pub mod plan;
pub mod probe;
pub mod seccomp;

mod runtime;

mod control;

mod launch;

mod init;

mod rootfs;

mod program;

mod elf;

mod terminal;

mod foreground;

mod cgroup;
mod channel;
pub mod cli;
mod controllers;
mod copy_tree;
mod error;
mod freezer;
mod hooks;
mod host;
mod id;
mod idmap;
mod listener;
mod net_devices;
mod netlink;
mod own_file;
mod passwd;
mod paths;
mod state;
mod stats;

pub use control::{Seen, Watch};
pub use controllers::{ControllerFacts, Missing};
pub use error::{EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, EXIT_RUNTIME, Error, Result, chain};
pub use id::{ContainerId, ID_BYTES_MAX};
pub use idmap::as_root_of;
pub use own_file::{OutOfReach, guard as guard_own_file};
pub use passwd::user_name;
pub use runtime::{CreateOptions, ExecOptions, Listed, Runtime, Warnings};
pub use state::state_from_json;
pub use stats::Stats;
pub use terminal::Stdio;
