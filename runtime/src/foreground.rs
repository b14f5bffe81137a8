//! Stays with a container's process until it ends: signals go to it, its terminal comes here, its exit status is ours.

use crate::error::{OsContext, Result};
use crate::runtime::give_back_code;
use crate::terminal::{self, RawMode};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, read, write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Room for what moves through a terminal at once: a pipe's page.
const BUFFER_BYTES: usize = 4096;

/// Signals held back since before the container was made, so that none is lost between.
pub(crate) struct Signals {
    fd: SignalFd,
    before: SigSet,
}

impl Signals {
    /// Blocks every signal that is to be passed on.
    pub fn hold() -> Result<Self> {
        let mut set = SigSet::all();
        // Ours, or of use to nobody but us.
        for own in [
            Signal::SIGCHLD,
            Signal::SIGPIPE,
            Signal::SIGTTIN,
            Signal::SIGTTOU,
            Signal::SIGSEGV,
            Signal::SIGBUS,
        ] {
            set.remove(own);
        }
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut before)).os("block", "signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let fd = SignalFd::with_flags(&set, flags).os("receive", "signals")?;
        Ok(Self { fd, before })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // A mask that was valid before is valid now.
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None).ok();
    }
}

/// Waits for a child process behind `pidfd`; exit status, or 128 and the signal.
pub(crate) fn wait(
    pid: Pid,
    pidfd: BorrowedFd<'_>,
    signals: &Signals,
    master: Option<OwnedFd>,
) -> Result<u8> {
    give_back_code();
    let raw = master.as_ref().map(|_| RawMode::enter());
    if let Some(master) = &master {
        terminal::copy_size(master.as_fd());
    }
    let mut stdin_open = master.is_some();
    let mut master = master;
    loop {
        let stdin = std::io::stdin();
        let mut fds = vec![
            PollFd::new(pidfd, PollFlags::POLLIN),
            PollFd::new(signals.fd.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(master) = &master {
            fds.push(PollFd::new(master.as_fd(), PollFlags::POLLIN));
            if stdin_open {
                fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
            }
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            result => result.os("wait for", "the container")?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
        drop(fds);
        if ready[1] {
            forward_signals(signals, pidfd, master.as_ref())?;
        }
        let output_ended = match &master {
            Some(master) if ready[2] => !copy(master.as_fd(), std::io::stdout().as_fd()),
            _ => false,
        };
        if let (Some(master), Some(true)) = (&master, ready.get(3)) {
            stdin_open = copy(stdin.as_fd(), master.as_fd());
        }
        if output_ended {
            master = None;
        }
        if ready[0] {
            break;
        }
    }
    if let Some(master) = &master {
        drain(master.as_fd());
    }
    drop(raw);
    exit_status(pid)
}

/// What the program wrote before it ended is still in the terminal.
fn drain(master: BorrowedFd<'_>) {
    loop {
        let mut fds = [PollFd::new(master, PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::ZERO) {
            Ok(1..) if copy(master, std::io::stdout().as_fd()) => {}
            _ => return,
        }
    }
}

/// Moves what is there; false when no more will come or nobody takes it.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut buffer = [0; BUFFER_BYTES];
    let length = match read(from, &mut buffer) {
        Err(Errno::EINTR | Errno::EAGAIN) => return true,
        // A pseudo terminal whose other side is closed answers EIO.
        Ok(0) | Err(_) => return false,
        Ok(length) => length,
    };
    let mut rest = &buffer[..length];
    while !rest.is_empty() {
        match write(to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
    true
}

fn forward_signals(signals: &Signals, pidfd: BorrowedFd<'_>, master: Option<&OwnedFd>) -> Result<()> {
    while let Some(info) = signals.fd.read_signal().os("read", "a signal")? {
        let signal = info.ssi_signo.cast_signed();
        if let (Some(master), true) = (master, signal == Signal::SIGWINCH as i32) {
            terminal::copy_size(master.as_fd());
            continue;
        }
        match punnet_sys::pidfd_send_signal(pidfd, signal) {
            // It has just ended: the next round sees it.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(errno).os("pass on", format_args!("signal {signal}")),
        }
    }
    Ok(())
}

/// Reaps a child that has ended or is about to.
pub(crate) fn exit_status(pid: Pid) -> Result<u8> {
    loop {
        match waitpid(pid, None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(code as u8),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128_u8.wrapping_add(signal as u8)),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).os("wait for", "the container"),
        }
    }
}
