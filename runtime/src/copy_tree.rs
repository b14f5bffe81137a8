//! Copies a directory of the image into a tmpfs that is about to be mounted over it (`tmpcopyup`). By descriptors: a link is copied, never
//! followed. Devices, sockets and mounts below are left out; owners, modes and attributes come along.

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, fchown, fchownat, mkfifoat, symlinkat};
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

/// Directories within directories: each holds two descriptors open, and 1024 is the usual bound on those.
const DEPTH_MAX: usize = 128;

/// Copies what is in `from` into `to`; both are directories.
pub(crate) fn copy(from: &OwnedFd, to: &OwnedFd) -> nix::Result<()> {
    let (from, to) = (reopen(from)?, reopen(to)?);
    copy_directory(from, &to, DEPTH_MAX)
}

/// A descriptor that only names a directory, for reading.
fn reopen(directory: &OwnedFd) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat(directory, ".", flags, Mode::empty())
}

fn copy_directory(from: OwnedFd, to: &OwnedFd, depth_left: usize) -> nix::Result<()> {
    let stat = fstat(&from)?;
    let mut entries = Dir::from_fd(from.try_clone().map_err(|_| Errno::EMFILE)?)?;
    for entry in entries.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            copy_entry(&from, to, name, depth_left)?;
        }
    }
    give(to, &stat)
}

fn copy_entry(from: &OwnedFd, to: &OwnedFd, name: &CStr, depth_left: usize) -> nix::Result<()> {
    let stat = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let (uid, gid) = owner(&stat);
    let private = Mode::from_bits_truncate(0o700);
    match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFDIR => {
            let Some(depth_left) = depth_left.checked_sub(1) else {
                return Err(Errno::ELOOP);
            };
            let Some(inner) = open(from, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY)? else {
                return Ok(());
            };
            mkdirat(to, name, private)?;
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let made = openat(to, name, flags, Mode::empty())?;
            copy_directory(inner, &made, depth_left)
        }
        SFlag::S_IFREG => {
            let Some(source) = open(from, name, OFlag::O_RDONLY)? else {
                return Ok(());
            };
            let flags =
                OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let made = openat(to, name, flags, private)?;
            let mut file = File::from(made.try_clone().map_err(|_| Errno::EMFILE)?);
            std::io::copy(&mut File::from(source), &mut file)
                .map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
            give(&made, &stat)
        }
        SFlag::S_IFLNK => {
            let target = readlinkat(from, name)?;
            symlinkat(target.as_os_str(), to, name)?;
            fchownat(to, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
        }
        SFlag::S_IFIFO => {
            mkfifoat(to, name, Mode::from_bits_truncate(stat.st_mode & 0o7777))?;
            fchownat(to, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
        }
        // Devices come from config.json, sockets from whoever listens.
        _ => Ok(()),
    }
}

/// Opens an entry for reading; `None` for one on another file system.
fn open(directory: &OwnedFd, name: &CStr, flags: OFlag) -> nix::Result<Option<OwnedFd>> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .resolve(
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS,
        );
    match openat2(directory, name, how) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::EXDEV) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn owner(stat: &FileStat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
}

/// Owner first: changing it takes set-user-id bits away.
fn give(to: &OwnedFd, stat: &FileStat) -> nix::Result<()> {
    let (uid, gid) = owner(stat);
    fchown(to.as_fd(), uid, gid)?;
    fchmod(to.as_fd(), Mode::from_bits_truncate(stat.st_mode & 0o7777))
}
