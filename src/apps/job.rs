//! Processes of the supervisor's: the commands it runs on an app, and how processes end.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use punnet_apps::plan::Step;

use super::Orders;
use crate::container::file;
use crate::error::Result;
use crate::roots::Roots;

/// As shells count: 128 + the signal that ended it.
pub fn exit_code(status: WaitStatus) -> Option<(Pid, i32)> {
    match status {
        WaitStatus::Exited(pid, code) => Some((pid, code)),
        WaitStatus::Signaled(pid, signal, _) => Some((pid, 128 + signal as i32)),
        _ => None,
    }
}

/// A pidfd is readable when its process has ended. pidfd_open(2)
pub fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Starts a command of our own binary; what it complains of goes to a file.
pub fn job(roots: &Roots, orders: &Orders, app: &str, words: &[String]) -> Result<Child> {
    let path = orders.path(app, "job");
    let complaint = File::create(&path).map_err(file("cannot write", &path))?;
    let exe = Path::new("/proc/self/exe");
    let mut command = Command::new(exe);
    command
        .arg("--data-root")
        .arg(roots.data()?)
        .arg("--run-root")
        .arg(roots.run()?);
    // Those are between systemd and this process alone.
    command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC");
    command
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(complaint);
    command.spawn().map_err(file("cannot run", exe))
}

/// What a step does, for people.
pub const fn verb(step: Step) -> &'static str {
    match step {
        Step::Nothing => "wait",
        Step::Pull => "fetch its image",
        Step::Create => "make its container",
        Step::Start => "start",
        Step::Stop => "stop",
        Step::Remove => "remove its container",
    }
}

/// One line on standard error; systemd's clock tells when.
pub fn say(app: &str, what: impl std::fmt::Display) {
    eprintln!("punnet apps: {app}: {what}");
}
