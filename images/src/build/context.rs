//! The directory that COPY takes from. Everything in it is opened by openat2(2) below its descriptor: no `..`, no link leads out of it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

use super::copy::{Files, Found, ITEMS_MAX, join, outside};
use super::ignore::Ignore;
use super::tree::NodeKind;
use crate::{Error, Result};

/// Bytes of a .dockerignore.
const IGNORE_BYTES_MAX: u64 = 1 << 20;

/// Directories in directories: as deep as a path can be.
const DEPTH_MAX: usize = 2048;

/// An opened context.
pub struct Context {
    root: OwnedFd,
    path: PathBuf,
    ignore: Ignore,
}

impl Context {
    /// Opens the directory and reads its .dockerignore.
    pub fn new(path: &Path) -> Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let root = open(path, flags, Mode::empty()).map_err(Error::at("open", path))?;
        let ignore = path.join(".dockerignore");
        // Only where there is none nothing is left out: one that cannot be read would let in what it keeps out.
        let is_there = ignore.is_symlink();
        let ignore = match fs::metadata(&ignore) {
            Err(error) if error.kind() == ErrorKind::NotFound && !is_there => Ignore::default(),
            Err(error) => return Err(Error::io("read", &ignore, error)),
            Ok(found) if found.len() > IGNORE_BYTES_MAX => {
                return Err(Error::Limit {
                    what: ".dockerignore".into(),
                    limit: format!("{IGNORE_BYTES_MAX} bytes"),
                }
                .into());
            }
            Ok(_) => {
                let text = fs::read_to_string(&ignore).map_err(Error::at("read", &ignore))?;
                Ignore::parse(&text).map_err(|why| Error::Malformed {
                    what: ignore.display().to_string(),
                    why,
                })?
            }
        };
        Ok(Self {
            root,
            path: path.into(),
            ignore,
        })
    }

    fn stat(&self, path: &str, flags: OFlag) -> Result<FileStat> {
        let fd = self
            .open(path, OFlag::O_PATH | flags)
            .map_err(|errno| self.failed(path, errno))?;
        fstat(&fd).map_err(Error::at("look at", path))
    }

    fn failed(&self, path: &str, errno: Errno) -> Box<Error> {
        match errno {
            Errno::EXDEV => outside(self, path),
            errno => Error::io("open", self.path.join(path), errno),
        }
    }

    fn open(&self, path: &str, flags: OFlag) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(&self.root, if path.is_empty() { "." } else { path }, how)
    }

    fn collect_below(
        &self,
        at: &str,
        within: &str,
        found: &mut Vec<(String, Found)>,
        depth: usize,
    ) -> Result<()> {
        if found.len() > ITEMS_MAX || depth > DEPTH_MAX {
            return Err(Error::Limit {
                what: format!("what COPY takes from {at:?}"),
                limit: format!("{ITEMS_MAX} entries, {DEPTH_MAX} levels"),
            }
            .into());
        }
        for name in self.names(at)? {
            let (from, to) = (join(at, &name), join(within, &name));
            let stat = self.stat(&from, OFlag::O_NOFOLLOW)?;
            let is_folder = is(&stat, SFlag::S_IFDIR);
            if !self.ignore.hides(&from) {
                found.push((to.clone(), self.found(&from, &stat)?));
            }
            // A pattern with `!` may bring something back below a hidden directory.
            if is_folder {
                self.collect_below(&from, &to, found, depth + 1)?;
            }
        }
        Ok(())
    }

    fn found(&self, path: &str, stat: &FileStat) -> Result<Found> {
        let kind = if is(stat, SFlag::S_IFDIR) {
            NodeKind::Folder
        } else if is(stat, SFlag::S_IFREG) {
            NodeKind::File
        } else if is(stat, SFlag::S_IFLNK) {
            let link = self
                .open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW)
                .map_err(Error::at("open", path))?;
            let target = readlinkat(&link, "").map_err(Error::at("read the link", path))?;
            NodeKind::Link(target.into_string().map_err(|_| not_utf8(path))?)
        } else {
            NodeKind::Other
        };
        Ok(Found {
            kind,
            mode: stat.st_mode & 0o7777,
            // Who owns the files of a context says nothing about the image.
            owner: (0, 0),
        })
    }
}

impl Files for Context {
    fn look(&self, path: &str) -> Result<Option<Found>> {
        match self.open(path, OFlag::O_PATH) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(self.failed(path, errno)),
            Ok(fd) => {
                let stat = fstat(&fd).map_err(Error::at("look at", path))?;
                self.found(path, &stat).map(Some)
            }
        }
    }

    /// The path without links, below the context: what .dockerignore speaks of.
    fn real(&self, path: &str) -> Result<String> {
        let name_of = |fd: &OwnedFd| fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let found = self
            .open(path, OFlag::O_PATH)
            .map_err(|errno| self.failed(path, errno))?;
        let (root, found) = (name_of(&self.root), name_of(&found));
        let (root, found) = root
            .and_then(|root| Ok((root, found?)))
            .map_err(Error::at("look at", path))?;
        let below = found.strip_prefix(&root).ok().and_then(Path::to_str);
        below.map(str::to_owned).ok_or_else(|| outside(self, path))
    }

    fn names(&self, path: &str) -> Result<Vec<String>> {
        let folder = match self.open(path, OFlag::O_DIRECTORY | OFlag::O_RDONLY) {
            Err(Errno::ENOTDIR) => return Ok(Vec::new()),
            other => other.map_err(Error::at("open", self.path.join(path)))?,
        };
        let mut names = Vec::new();
        for entry in
            fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd())).map_err(Error::at("list", path))?
        {
            let name = entry.map_err(Error::at("list", path))?.file_name();
            let text = std::str::from_utf8(OsStr::as_bytes(&name));
            names.push(text.map_err(|_| not_utf8(&name))?.to_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn below(&self, folder: &str) -> Result<Vec<(String, Found)>> {
        let mut found = Vec::new();
        self.collect_below(folder, "", &mut found, 0)?;
        Ok(found)
    }

    /// Whether .dockerignore leaves out what the path leads to. A link that leads nowhere is only its own name.
    fn hides(&self, path: &str) -> Result<bool> {
        if self.ignore.hides(path) {
            return Ok(true);
        }
        match self.open(path, OFlag::O_PATH) {
            Err(Errno::ENOENT | Errno::ELOOP) => Ok(false),
            _ => Ok(self.ignore.hides(&self.real(path)?)),
        }
    }

    fn read(&self, path: &str) -> Result<File> {
        self.open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)
            .map(File::from)
            .map_err(Error::at("open", self.path.join(path)))
    }

    fn place(&self) -> &Path {
        &self.path
    }
}

fn not_utf8(name: impl std::fmt::Debug) -> Box<Error> {
    Error::Unsupported {
        what: format!("{name:?} in the context"),
        why: "its name is not UTF-8".into(),
    }
    .into()
}

fn is(stat: &FileStat, kind: SFlag) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == kind
}
