//! Standard streams and pseudo terminals. pty(7), devpts(5)

use crate::channel::{Channel, Message, send_fd};
use crate::error::{Error, OsContext, Result};
use crate::paths::{create_file, open_in_root, open_no_follow};
use crate::plan::ProcessPlan;
use crate::rootfs::is_on;
use nix::fcntl::OFlag;
use nix::sys::stat::{SFlag, fstat};
use nix::sys::statfs::FsType;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{Uid, dup2_stderr, dup2_stdin, dup2_stdout, fchown};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// DEVPTS_SUPER_MAGIC of linux/magic.h.
const DEVPTS: i64 = 0x1cd1;

/// The program's standard streams, when it has no terminal; what is not given is inherited.
#[derive(Debug, Default)]
pub struct Stdio {
    /// File descriptor 0.
    pub stdin: Option<OwnedFd>,
    /// File descriptor 1.
    pub stdout: Option<OwnedFd>,
    /// File descriptor 2.
    pub stderr: Option<OwnedFd>,
}

impl Stdio {
    /// Puts the given descriptors in place.
    pub(crate) fn take(&self) -> Result<()> {
        if let Some(fd) = &self.stdin {
            dup2_stdin(fd).os("replace", "standard input")?;
        }
        if let Some(fd) = &self.stdout {
            dup2_stdout(fd).os("replace", "standard output")?;
        }
        if let Some(fd) = &self.stderr {
            dup2_stderr(fd).os("replace", "standard error")?;
        }
        Ok(())
    }

    /// Pipes and terminals are given to the program's user, so that it can open /dev/stdout again.
    pub(crate) fn give_to(&self, process: &ProcessPlan) -> Result<()> {
        for fd in [
            std::io::stdin().as_fd(),
            std::io::stdout().as_fd(),
            std::io::stderr().as_fd(),
        ] {
            let stat = fstat(fd).os("inspect", "a standard stream")?;
            let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
            if kind == SFlag::S_IFIFO && stat.st_uid != process.uid {
                // Somebody else's pipe stays theirs; the program can still use the open descriptor.
                fchown(fd, Some(Uid::from_raw(process.uid)), None).ok();
            }
        }
        Ok(())
    }
}

/// Makes a pseudo terminal in the container's own devpts, becomes its session, and sends the master to the runtime.
pub(crate) fn set_up(root: BorrowedFd<'_>, process: &ProcessPlan, channel: &Channel) -> Result<()> {
    let peer = open_pair(root, process, channel)?;
    // Bound by descriptor onto a fresh file: what the image has at /dev/console is not followed (CVE-2025-52565).
    create_file(root, Path::new("/dev/console")).os("make", "/dev/console")?;
    let target = open_no_follow(root, Path::new("/dev/console")).os("open", "/dev/console")?;
    let kind =
        SFlag::from_bits_truncate(fstat(&target).os("inspect", "/dev/console")?.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFREG && kind != SFlag::S_IFCHR {
        return Err(Error::config(
            "process.terminal",
            "/dev/console in the image is a link or something else that is neither a file nor a device",
        ));
    }
    let clone = punnet_sys::open_tree_clone(peer.as_fd(), c"", false).os("bind", "/dev/console")?;
    punnet_sys::move_mount(clone.as_fd(), target.as_fd()).os("bind", "/dev/console")
}

/// The part that `exec` shares: the pair, the controlling terminal, the standard streams.
pub(crate) fn open_pair(root: BorrowedFd<'_>, process: &ProcessPlan, channel: &Channel) -> Result<OwnedFd> {
    let path = Path::new("/dev/pts/ptmx");
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
    let master = open_in_root(root, path, flags).os("open the terminal multiplexer", path.display())?;
    if !is_on(&master, FsType(DEVPTS as _)).os("inspect", path.display())? {
        return Err(Error::config(
            "process.terminal",
            "/dev/pts in the container is not a devpts file system",
        ));
    }
    punnet_sys::unlock_pty(master.as_fd()).os("unlock", "the pseudo terminal")?;
    let peer = punnet_sys::open_pty_peer(master.as_fd()).os("open", "the pseudo terminal")?;
    if let Some((rows, columns)) = process.console_size {
        punnet_sys::set_window_size(peer.as_fd(), rows, columns).os("size", "the pseudo terminal")?;
    }
    fchown(&peer, Some(Uid::from_raw(process.uid)), None).os("give away", "the pseudo terminal")?;
    punnet_sys::set_controlling_terminal(peer.as_fd()).os("take", "the pseudo terminal")?;
    for result in [dup2_stdin(&peer), dup2_stdout(&peer), dup2_stderr(&peer)] {
        result.os("use", "the pseudo terminal")?;
    }
    channel.send(&Message::Terminal(master))?;
    Ok(peer)
}

/// Hands the master to whoever listens on `--console-socket`, as runc does: one byte string with the descriptor.
pub(crate) fn send_to_console_socket(path: &Path, master: BorrowedFd<'_>) -> Result<()> {
    let socket = UnixStream::connect(path).os("connect to the console socket", path.display())?;
    send_fd(socket.as_fd(), b"/dev/pts/ptmx", master)
}

/// The caller's own terminal in raw mode until dropped; does nothing when standard input is not a terminal.
pub(crate) struct RawMode(Option<Termios>);

impl RawMode {
    pub fn enter() -> Self {
        let stdin = std::io::stdin();
        let Ok(before) = tcgetattr(&stdin) else {
            return Self(None);
        };
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        Self(
            tcsetattr(&stdin, SetArg::TCSADRAIN, &raw)
                .is_ok()
                .then_some(before),
        )
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // The terminal may have gone with its window.
            tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, before).ok();
        }
    }
}

/// Gives a pseudo terminal the size of the caller's.
pub(crate) fn copy_size(master: BorrowedFd<'_>) {
    if let Ok((rows, columns)) = punnet_sys::window_size(std::io::stdin().as_fd()) {
        // Only looks: a wrong size harms nobody.
        punnet_sys::set_window_size(master, rows, columns).ok();
    }
}
