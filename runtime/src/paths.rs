//! Paths inside a root file system, resolved by the kernel below a directory descriptor: a symbolic link cannot lead out, and a link of
//! /proc cannot lead anywhere. openat2(2)

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{Mode, mkdirat};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// How often a lookup that raced with a rename is repeated: the kernel answers EAGAIN to each race, and one attacker's thread loses most.
const RACES_MAX: usize = 128;
/// Links that are followed while directories are made: the kernel's own bound (MAXSYMLINKS).
const LINKS_MAX: usize = 40;

/// Opens `path` as a process with this root would, without following links such as /proc/self/fd/7.
pub(crate) fn open_in_root(root: BorrowedFd<'_>, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    retry(|| openat2(root, path, how))
}

/// Opens a path of the caller's own root, without following links such as /proc/self/fd/7.
pub(crate) fn open_plain(path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    retry(|| openat2(AT_FDCWD, path, how))
}

fn retry(mut open: impl FnMut() -> nix::Result<OwnedFd>) -> nix::Result<OwnedFd> {
    for _ in 0..RACES_MAX {
        match open() {
            Err(Errno::EAGAIN) => {}
            result => return result,
        }
    }
    Err(Errno::EAGAIN)
}

/// Opens a directory inside the root, making those on its way that are not there.
pub(crate) fn create_dir_all(root: BorrowedFd<'_>, path: &Path) -> nix::Result<OwnedFd> {
    create_dirs(root, path, LINKS_MAX)
}

fn create_dirs(root: BorrowedFd<'_>, path: &Path, links_left: usize) -> nix::Result<OwnedFd> {
    let open = || open_in_root(root, path, OFlag::O_PATH | OFlag::O_DIRECTORY);
    match open() {
        Err(Errno::ENOENT) => {}
        result => return result,
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return open();
    };
    let parent_fd = create_dirs(root, parent, links_left)?;
    match mkdirat(&parent_fd, name, Mode::from_bits_truncate(0o755)) {
        Ok(()) => open(),
        // Made by somebody else meanwhile, or a link to a place that is not there: make that.
        Err(Errno::EEXIST) => match readlinkat(&parent_fd, name) {
            Err(_) => open(),
            Ok(_) if links_left == 0 => Err(Errno::ELOOP),
            Ok(target) => create_dirs(root, &joined(parent, &target), links_left - 1),
        },
        Err(errno) => Err(errno),
    }
}

fn joined(parent: &Path, target: &OsStr) -> PathBuf {
    parent.join(target)
}

/// Opens what is at `path` inside the root, making an empty file (and the directories on its way) when nothing is.
pub(crate) fn create_file(root: BorrowedFd<'_>, path: &Path) -> nix::Result<OwnedFd> {
    match open_in_root(root, path, OFlag::O_PATH) {
        Err(Errno::ENOENT) => {}
        result => return result,
    }
    let (parent, name) = split(path)?;
    let parent = create_dir_all(root, parent)?;
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    match openat(&parent, name, flags, Mode::from_bits_truncate(0o644)) {
        Ok(_) | Err(Errno::EEXIST) => open_in_root(root, path, OFlag::O_PATH),
        Err(errno) => Err(errno),
    }
}

/// Opens what is at `path` itself: the last component is not followed when it is a link.
pub(crate) fn open_no_follow(root: BorrowedFd<'_>, path: &Path) -> nix::Result<OwnedFd> {
    let (parent, name) = split(path)?;
    let parent = open_in_root(root, parent, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    openat(
        parent.as_fd(),
        name,
        OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
}

/// Directory and name; EISDIR for a path that ends in neither.
pub(crate) fn split(path: &Path) -> nix::Result<(&Path, &OsStr)> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok((parent, name)),
        _ => Err(Errno::EISDIR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let fd = open_plain(dir.path(), OFlag::O_PATH | OFlag::O_DIRECTORY).unwrap();
        (dir, fd)
    }

    #[test]
    fn links_stay_inside_the_root() {
        let (dir, fd) = root();
        symlink("/etc", dir.path().join("absolute")).unwrap();
        symlink("../../../../../etc", dir.path().join("relative")).unwrap();
        for link in ["/absolute/new", "/relative/newer", "/../../etc/newest"] {
            create_dir_all(fd.as_fd(), Path::new(link)).unwrap();
        }
        for name in ["new", "newer", "newest"] {
            assert!(dir.path().join("etc").join(name).is_dir(), "{name}");
        }
    }

    #[test]
    fn a_link_to_itself_ends_in_an_error() {
        let (dir, fd) = root();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        assert_eq!(
            create_dir_all(fd.as_fd(), Path::new("/a/x")).unwrap_err(),
            Errno::ELOOP
        );
    }

    #[test]
    fn magic_links_are_not_followed() {
        let found = open_plain(Path::new("/proc/self/exe"), OFlag::O_PATH);
        assert_eq!(found.unwrap_err(), Errno::ELOOP);
        assert!(open_plain(Path::new("/proc/self/fd/0/x"), OFlag::O_PATH).is_err());
    }

    #[test]
    fn files_are_made_empty_and_kept_when_there() {
        let (dir, fd) = root();
        create_file(fd.as_fd(), Path::new("/a/b/file")).unwrap();
        assert_eq!(std::fs::read(dir.path().join("a/b/file")).unwrap(), b"");
        std::fs::write(dir.path().join("kept"), "x").unwrap();
        create_file(fd.as_fd(), Path::new("/kept")).unwrap();
        assert_eq!(std::fs::read(dir.path().join("kept")).unwrap(), b"x");
    }
}
