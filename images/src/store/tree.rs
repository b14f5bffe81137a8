//! A root file system being made, touched only by descriptor: no path in it is ever joined to a path of the host.
//!
//! Every lookup is openat2(2) with RESOLVE_BENEATH: `..`, an absolute name or a symlink that leads out of the tree ends in an error, whatever
//! was unpacked before. A relative symlink to a directory inside the tree is followed: distributions have `bin -> usr/bin`.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::tar_stream::PATH_BYTES_MAX;
use crate::{Error, Result};

/// Mode of directories that the archive does not list.
const IMPLIED_DIRECTORY: Mode = Mode::from_bits_truncate(0o755);

/// The name of an entry, checked: no `..`, not absolute, not too long; `None` for the root itself.
pub fn split(name: &[u8]) -> Result<Option<(Vec<OsString>, OsString)>> {
    let refused = |why: &str| {
        Box::new(Error::Entry {
            entry: shown(name),
            why: why.into(),
        })
    };
    if name.len() > PATH_BYTES_MAX {
        return Err(refused("its name is longer than 4096 bytes"));
    }
    if name.contains(&0) {
        return Err(refused("its name has a NUL byte inside"));
    }
    // umoci names the root directory so; there is nothing else that it could mean.
    if name == b"/" {
        return Ok(None);
    }
    let mut parts = Vec::new();
    for component in Path::new(OsStr::from_bytes(name)).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_owned()),
            Component::CurDir => {}
            Component::ParentDir => return Err(refused("its name has `..` in it")),
            Component::RootDir | Component::Prefix(_) => return Err(refused("its name is absolute")),
        }
    }
    Ok(parts.pop().map(|last| (parts, last)))
}

/// What a message shows of a name from an archive.
pub fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(200).collect()
}

/// openat2(2) takes no empty path.
pub fn at_root(path: &Path) -> &Path {
    if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    }
}

/// Opens something below `root`.
pub fn open(root: &OwnedFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    open_resolving(root, path, flags, ResolveFlag::RESOLVE_NO_MAGICLINKS)
}

/// Opens something below `root` whose path goes through no symlink.
pub fn open_unlinked(root: &OwnedFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    open_resolving(root, path, flags, ResolveFlag::RESOLVE_NO_SYMLINKS)
}

fn open_resolving(root: &OwnedFd, path: &Path, flags: OFlag, how: ResolveFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | how);
    // EAGAIN: a rename elsewhere raced with the lookup of `..` in a symlink (openat2(2)).
    loop {
        match openat2(root, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// Opens the directory an entry lies in, making what is missing; `made` is told of each that was.
pub fn open_parent(
    root: &OwnedFd,
    parents: &[OsString],
    entry: &[u8],
    made: &mut dyn FnMut(&OwnedFd, &Path) -> Result<()>,
) -> Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY;
    let whole: std::path::PathBuf = if parents.is_empty() {
        ".".into()
    } else {
        parents.iter().collect()
    };
    let refused = |errno: Errno| {
        let why = match errno {
            Errno::EXDEV => "a symlink in its path leads out of the image".into(),
            Errno::ENOTDIR => "its path goes through something that is no directory".into(),
            Errno::ELOOP => "its path goes through too many symlinks".into(),
            other => return Error::io("open", &whole, other),
        };
        Error::Entry {
            entry: shown(entry),
            why,
        }
        .into()
    };
    match open(root, &whole, flags) {
        Err(Errno::ENOENT) => {}
        other => return other.map_err(refused),
    }
    let mut path = std::path::PathBuf::new();
    let mut folder = open(root, Path::new("."), flags).map_err(refused)?;
    for part in parents {
        path.push(part);
        folder = match open(root, &path, flags) {
            Err(Errno::ENOENT) => {
                // A symlink to nowhere is there too: mkdir says EEXIST, and the second open says ENOENT.
                let is_new = match mkdirat(&folder, part.as_os_str(), IMPLIED_DIRECTORY) {
                    Ok(()) => true,
                    Err(Errno::EEXIST) => false,
                    Err(errno) => return Err(Error::io("create", &path, errno)),
                };
                let folder = open(root, &path, flags).map_err(refused)?;
                if is_new {
                    made(&folder, &path)?;
                }
                folder
            }
            other => other.map_err(refused)?,
        };
    }
    Ok(folder)
}

/// Removes one name in a directory, whatever it is; a name that is not there is fine.
pub fn remove_at(folder: &OwnedFd, name: &OsStr) -> Result<()> {
    remove(&at(folder, name))
}

/// A path to a name in an open directory. The directory cannot be exchanged; the name is not followed by who removes or stats it.
pub fn at(folder: &OwnedFd, name: &OsStr) -> std::path::PathBuf {
    use std::os::fd::AsRawFd;
    Path::new("/proc/self/fd")
        .join(folder.as_fd().as_raw_fd().to_string())
        .join(name)
}

/// Directories that are gone into while they are removed: each takes a descriptor, of which a process has 1024 by default.
const REMOVE_DEPTH_MAX: usize = 128;

/// Like `rm -rf`: never follows a link, opens directories that forbid it, succeeds when there is nothing. Any depth and any length of path can be
/// removed, also those that no name reaches: what lies too deep is moved up first.
pub fn remove(path: &Path) -> Result<()> {
    remove_inner(path).map_err(Error::at("remove", path))
}

fn remove_inner(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if !metadata.is_dir() {
        return fs::remove_file(path);
    }
    let top = open_to_empty(AT_FDCWD, path)?;
    let mut moved = 0;
    loop {
        let before = moved;
        empty(&top, &top, 0, &mut moved)?;
        if moved == before {
            return fs::remove_dir(path);
        }
    }
}

/// Removes what is in `folder`; what is too deep in it goes to `top`, for the next round.
fn empty(folder: &OwnedFd, top: &OwnedFd, depth: usize, moved: &mut u64) -> io::Result<()> {
    for entry in fs::read_dir(at(folder, OsStr::new(".")))? {
        let entry = entry?;
        let name = entry.file_name();
        if !entry.file_type()?.is_dir() {
            unlinkat(folder, name.as_os_str(), UnlinkatFlags::NoRemoveDir)?;
            continue;
        }
        let below = open_to_empty(folder.as_fd(), Path::new(&name))?;
        if depth < REMOVE_DEPTH_MAX {
            empty(&below, top, depth + 1, moved)?;
            unlinkat(folder, name.as_os_str(), UnlinkatFlags::RemoveDir)?;
            continue;
        }
        loop {
            *moved += 1;
            match renameat(folder, name.as_os_str(), top, format!(".deep-{moved}").as_str()) {
                Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR) => {}
                other => break other?,
            }
        }
    }
    Ok(())
}

/// Opens a directory so that names in it can be removed.
fn open_to_empty(at: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let allow = || fchmodat(at, path, Mode::S_IRWXU, FchmodatFlags::FollowSymlink);
    let folder = match openat(at, path, flags, Mode::empty()) {
        // Not followed just now, and nobody else works in here.
        Err(Errno::EACCES) => {
            allow()?;
            openat(at, path, flags, Mode::empty())?
        }
        other => other?,
    };
    if fstat(&folder)?.st_mode & 0o700 != 0o700 {
        fchmod(&folder, Mode::S_IRWXU)?;
    }
    Ok(folder)
}

/// Opens a directory of the host.
pub fn open_folder(path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, Mode::empty()).map_err(Error::at("open", path))
}

/// Makes a directory of the host and opens it.
pub fn make_folder(path: &Path) -> Result<OwnedFd> {
    fs::create_dir(path).map_err(Error::at("create", path))?;
    fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(Error::at("protect", path))?;
    open_folder(path)
}

/// The same open file for std's methods.
pub fn as_file(fd: &OwnedFd, path: &Path) -> Result<File> {
    Ok(File::from(fd.try_clone().map_err(Error::at("open", path))?))
}
