//! Keeps the runtime's own file from being written by a container (CVE-2019-5736).
//!
//! A process that enters a container is still this program until execve(2). It is not dumpable, so nobody inside can open its /proc/PID/exe,
//! and `program` sees to it that this file is not what is executed. Two things remain: a container with CAP_SYS_PTRACE opens it all the same and
//! writes it once nobody executes it any more, and hooks and programs for another CPU are executed by their path inside the container. Where
//! others are inside already, or such hooks or programs are to be run, the process therefore executes itself anew from a file that cannot be
//! written, before it goes near the container.

use crate::error::{OsContext, Result};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, SealFlag, fcntl, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, stat};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, eaccess, execveat, geteuid};
use punnet_sys::attr;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

/// This program's file, whatever its name is by now.
const OWN_FILE: &str = "/proc/self/exe";

/// Proof that this process runs from a file that no container can write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfReach(());

/// Returns once this process runs from a file that no container can write; executes it anew, with the same arguments, when it does not yet.
/// To be called before anything is opened or changed.
pub fn guard() -> Result<OutOfReach> {
    if is_out_of_reach().os("inspect", OWN_FILE)? {
        return Ok(OutOfReach(()));
    }
    // The mount costs least; an ordinary user may not make one.
    let file = match read_only_view() {
        Err(Errno::EPERM | Errno::ENOSYS | Errno::EINVAL) => {
            sealed_copy().os("copy into memory", OWN_FILE)?
        }
        result => result.os("make a read-only view of", OWN_FILE)?,
    };
    let text = |words: &mut dyn Iterator<Item = Vec<u8>>| -> Vec<CString> {
        words.filter_map(|word| CString::new(word).ok()).collect()
    };
    let args = text(&mut std::env::args_os().map(OsStringExt::into_vec));
    let env =
        text(&mut std::env::vars_os().map(|(name, value)| [name.into_vec(), value.into_vec()].join(&b'=')));
    execveat(&file, c"", &args, &env, AtFlags::AT_EMPTY_PATH)
        .os("execute again from a read-only view", OWN_FILE)
        .map(|never| match never {})
}

fn is_out_of_reach() -> nix::Result<bool> {
    if statvfs(OWN_FILE)?.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(true);
    }
    let euid = geteuid();
    let is_owner = stat(OWN_FILE)?.st_uid == euid.as_raw();
    if !euid.is_root() && !is_owner && eaccess(OWN_FILE, AccessFlags::W_OK).is_err() {
        // What the caller cannot write, the root of a user namespace of the caller's cannot write either.
        return Ok(true);
    }
    let file = open(OWN_FILE, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    // Only a memory file has seals; others answer EINVAL.
    Ok(fcntl(&file, FcntlArg::F_GET_SEALS).is_ok_and(|seals| seals & SealFlag::F_SEAL_WRITE.bits() != 0))
}

/// A detached read-only mount of the file alone. Its namespace ends with the descriptor: nobody can change its options any more.
fn read_only_view() -> nix::Result<OwnedFd> {
    let own = open(OWN_FILE, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let view = punnet_sys::open_tree_clone(own.as_fd(), c"", false)?;
    punnet_sys::mount_setattr(
        view.as_fd(),
        false,
        attr::RDONLY | attr::NOSUID | attr::NODEV,
        0,
        0,
    )?;
    Ok(view)
}

fn sealed_copy() -> io::Result<OwnedFd> {
    let mut from = File::open(OWN_FILE)?;
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut to = File::from(memfd_create(c"punnet", flags)?);
    io::copy(&mut from, &mut to)?;
    let seals =
        SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&to, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(to.into())
}
