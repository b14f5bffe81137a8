//! Suspends and resumes all processes of a cgroup. cgroups(7), cgroup-v2.rst "cgroup.freeze"

use crate::cgroup::put;
use crate::error::{Error, OsContext, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the kernel may take to stop the last process: it does so as each returns to user mode, so only one that is stuck in the kernel
/// takes longer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Whether this cgroup itself was told to freeze; false when it cannot be told.
pub(crate) fn is_frozen(cgroup: &Path) -> bool {
    std::fs::read(cgroup.join("cgroup.freeze")).is_ok_and(|text| text.starts_with(b"1"))
}

/// Suspends every process, and returns once all are; on failure none is.
pub(crate) fn freeze(cgroup: &Path) -> Result<()> {
    write(cgroup, "1")?;
    wait_until_frozen(cgroup).inspect_err(|_| {
        // The first error is the one to tell.
        drop(write(cgroup, "0"));
    })
}

/// Lets every process go on.
pub(crate) fn thaw(cgroup: &Path) -> Result<()> {
    write(cgroup, "0")
}

fn write(cgroup: &Path, value: &str) -> Result<()> {
    put(&cgroup.join("cgroup.freeze"), value).os("suspend or resume the processes of", cgroup.display())
}

/// cgroup.events says `frozen 1` once it is true of every process below; poll(2) reports each change of the file.
fn wait_until_frozen(cgroup: &Path) -> Result<()> {
    let path = cgroup.join("cgroup.events");
    let mut events = std::fs::File::open(&path).os("watch", path.display())?;
    let end = Instant::now() + TIMEOUT;
    loop {
        let mut text = String::new();
        events.rewind().os("read", path.display())?;
        events.read_to_string(&mut text).os("read", path.display())?;
        if text.lines().any(|line| line == "frozen 1") {
            return Ok(());
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Setup(format!(
                "the processes of {} were not suspended within {} s: one is stuck in the kernel",
                cgroup.display(),
                TIMEOUT.as_secs()
            ))
            .into());
        }
        let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).os("watch", path.display()),
        }
    }
}
