//! `punnet init`: the first process of a board that is nothing but kernel and initramfs.
//!
//! PID 1 ([`supervisor`]) does as little as can be: it makes the root usable, starts the roles below, starts them again when they end,
//! reaps, feeds the watchdog and shuts down. All that reads foreign bytes is a process of its own, the same binary in another role,
//! so that no panic there takes the board down:
//!
//! | role | what it does | ends |
//! |---|---|---|
//! | `setup` | mounts, modules, devices, boot and data partition, time floor, host name | when that is done |
//! | `attend` | device events, network, time | never |
//! | `agent` | becomes `punnet agent` | never |
//! | `apps` | becomes `punnet apps serve`, where the boot partition has app files | never |
//! | `console` | a prompt on the serial line, when something is wrong or it was asked for | when its reader does |
//!
//! What one role tells another is in /run/init ([`handover`]). What is decided is in [`plan`], without I/O.
//!
//! **Invariant:** PID 1 has one thread and parses nothing but two words of `setup`'s.

#![forbid(unsafe_code)]

mod agent;
mod attend;
mod console;
mod data;
mod error;
mod handover;
mod modules;
mod net;
mod partitions;
pub mod plan;
mod preload;
mod setup;
mod shutdown;
mod supervisor;
pub mod system;

use std::io;
use std::path::Path;
use std::process::ExitCode;

pub use error::{InitError, Result};

/// What this crate does not know itself.
#[derive(Clone, Copy)]
pub struct Hooks {
    /// Checks an enrolment file's content; the device's name, or what is wrong.
    pub check_enrolment: fn(&[u8]) -> Result<String, String>,
}

/// Runs a role; PID 1's when none is named.
pub fn run(role: Option<&str>, hooks: Hooks) -> Result<ExitCode> {
    if role.is_some() {
        // PID 1 blocks what it reads from a descriptor, and its children inherit that: nothing could end them in order.
        nix::sys::signal::SigSet::empty()
            .thread_set_mask()
            .map_err(InitError::at("unblock", "signals"))?;
    }
    match role {
        None if std::process::id() == 1 => supervisor::run(),
        None => Err(InitError::NotPid1.into()),
        Some("setup") => {
            setup::run(hooks);
            Ok(ExitCode::SUCCESS)
        }
        Some("attend") => attend::run().map(|()| ExitCode::SUCCESS),
        Some("agent") => agent::run(),
        Some("apps") => agent::run_apps(),
        Some("console") => {
            console::run();
            Ok(ExitCode::SUCCESS)
        }
        Some(other) => Err(InitError::Role(other.into()).into()),
    }
}

/// One line on the serial console, written at once: others write there too.
fn say(text: impl std::fmt::Display) {
    let line = format!("punnet init: {text}\n");
    eprint!("{line}");
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line += &format!(": {error}");
        cause = error.source();
    }
    line
}

/// A small file of the kernel's, without its line end; empty when it cannot be read.
fn read_word(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// The words of the kernel's command line that begin with `punnet.NAME=`, or are `punnet.NAME`.
fn kernel_word(name: &str) -> Option<String> {
    let line = read_word("/proc/cmdline");
    line.split_whitespace()
        .filter_map(|word| word.strip_prefix("punnet."))
        .find_map(|word| match word.split_once('=') {
            Some((key, value)) => (key == name).then(|| value.to_owned()),
            None => (word == name).then(String::new),
        })
}

/// Mounts by path: everything here is ours alone, nothing foreign runs yet.
fn mount(
    source: &str,
    target: &str,
    kind: Option<&str>,
    flags: nix::mount::MsFlags,
    options: &str,
) -> Result<()> {
    nix::mount::mount(Some(source), target, kind, flags, Some(options))
        .map_err(io::Error::from)
        .map_err(InitError::at("mount", target))
}

/// Mounts one step of the plan, on a folder that is made for it.
fn make_and_mount(step: &plan::mounts::MountStep) -> Result<()> {
    std::fs::create_dir_all(step.target).map_err(InitError::at("make", step.target))?;
    mount(step.kind, step.target, Some(step.kind), step.flags, step.options)
}
