//! The most memory a program has had, read at its very end: getrusage(2) would count what its parent had when it was started.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

use anyhow::{Context, Result, ensure};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};

use crate::process::{high_water_mark_kib, start_stopped};

/// PTRACE_EVENT_EXIT of linux/ptrace.h.
const EVENT_EXIT: i32 = 6;

/// Runs the words to their end, which must be a success; VmHWM of proc_pid_status(5), KiB.
pub(super) fn peak_kib(words: &[String]) -> Result<u64> {
    let pid = start_stopped(words, Path::new("."))?;
    ptrace::seize(pid, Options::PTRACE_O_TRACEEXIT).context("cannot trace a program of ours")?;
    kill(pid, Signal::SIGCONT)?;
    let mut peak = None;
    loop {
        let signal = match waitpid(pid, None)? {
            WaitStatus::Exited(_, code) => {
                let status = ExitStatus::from_raw(code << 8);
                ensure!(status.success(), "{} ended with {status}", words.join(" "));
                return peak.context("its end was not seen");
            }
            WaitStatus::PtraceEvent(_, _, EVENT_EXIT) => {
                peak = Some(high_water_mark_kib(&format!("/proc/{pid}/status"))?);
                None
            }
            WaitStatus::Stopped(_, signal) => Some(signal),
            _ => None,
        };
        ptrace::cont(pid, signal)?;
    }
}
