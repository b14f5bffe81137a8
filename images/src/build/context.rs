//! The directory that COPY takes from. Everything in it is opened by openat2(2) below its descriptor: no `..`, no link leads out of it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

use super::ignore::{self, Ignore};
use super::layer::Item;
use crate::{Error, Result};

/// Bytes of a .dockerignore.
const IGNORE_BYTES_MAX: u64 = 1 << 20;

/// Entries that one COPY takes: a bound on the memory of the list.
const ITEMS_MAX: usize = 1_000_000;

/// Directories in directories: as deep as a path can be.
const DEPTH_MAX: usize = 2048;

/// Compressed and plain archives, by what they begin with or have at byte 257: ADD would have to unpack them.
const ARCHIVE_MAGIC: [(usize, &[u8]); 5] = [
    (0, b"\x1f\x8b"),
    (0, b"BZh"),
    (0, b"\xfd7zXZ\0"),
    (0, b"\x28\xb5\x2f\xfd"),
    (257, b"ustar"),
];

/// An opened context.
pub struct Context {
    root: OwnedFd,
    path: PathBuf,
    ignore: Ignore,
}

impl Context {
    /// Opens the directory and reads its .dockerignore.
    pub fn open(path: &Path) -> Result<Self> {
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
                });
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

    /// The paths that sources name, patterns resolved. Each must name something.
    pub fn find(&self, sources: &[String], is_add: bool) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for source in sources {
            if source.split('/').any(|part| part == "..") {
                return Err(self.outside(source));
            }
            let parts: Vec<&str> = source
                .split('/')
                .filter(|part| !part.is_empty() && *part != ".")
                .collect();
            let before = found.len();
            self.resolve("", &parts, &mut found)?;
            found[before..].sort();
            if found.len() == before {
                return Err(Error::NotFound {
                    name: source.clone(),
                    place: self.path.clone(),
                });
            }
        }
        if is_add {
            found.iter().try_for_each(|path| self.refuse_archive(path))?;
        }
        Ok(found)
    }

    fn resolve(&self, at: &str, parts: &[&str], found: &mut Vec<String>) -> Result<()> {
        let Some((first, rest)) = parts.split_first() else {
            if at.is_empty() || !self.hides(at)? {
                found.push(at.to_owned());
            }
            return Ok(());
        };
        if !ignore::is_pattern(first) {
            let below = join(at, first);
            return match self.below(&below, OFlag::O_PATH) {
                Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(()),
                Err(Errno::EXDEV) => Err(self.outside(&below)),
                Err(errno) => Err(Error::io("open", self.path.join(&below), errno)),
                Ok(_) => self.resolve(&below, rest, found),
            };
        }
        for name in self.names(at)? {
            if ignore::fits(first, &name) {
                self.resolve(&join(at, &name), rest, found)?;
            }
        }
        Ok(())
    }

    /// What a source brings: the file itself, or everything in the directory but not the directory.
    pub fn collect(
        &self,
        source: &str,
        target: &str,
        into_folder: bool,
        mode: Option<u32>,
        items: &mut BTreeMap<String, Item>,
    ) -> Result<()> {
        // The source itself is followed when it is a link; links below it are copied as links.
        let stat = self.stat(source, OFlag::empty())?;
        let real = self.real(source)?;
        if is(&stat, SFlag::S_IFDIR) {
            return self.collect_folder(&real, target, mode, items, 0);
        }
        let name = source.rsplit('/').next().unwrap_or(source);
        let path = if into_folder {
            join(target, name)
        } else {
            target.to_owned()
        };
        place(items, source, path, self.item(&real, &stat, mode)?)
    }

    fn collect_folder(
        &self,
        source: &str,
        target: &str,
        mode: Option<u32>,
        items: &mut BTreeMap<String, Item>,
        depth: usize,
    ) -> Result<()> {
        if items.len() > ITEMS_MAX || depth > DEPTH_MAX {
            return Err(Error::Limit {
                what: format!("what COPY takes from {source:?}"),
                limit: format!("{ITEMS_MAX} entries, {DEPTH_MAX} levels"),
            });
        }
        for name in self.names(source)? {
            let (from, to) = (join(source, &name), join(target, &name));
            let stat = self.stat(&from, OFlag::O_NOFOLLOW)?;
            let hidden = self.ignore.hides(&from);
            if is(&stat, SFlag::S_IFDIR) {
                if !hidden {
                    let mode = mode.unwrap_or(stat.st_mode & 0o7777);
                    place(items, &from, to.clone(), Item::Folder { mode })?;
                }
                // A pattern with `!` may bring something back below a hidden directory.
                self.collect_folder(&from, &to, mode, items, depth + 1)?;
            } else if !hidden {
                place(items, &from, to, self.item(&from, &stat, mode)?)?;
            }
        }
        Ok(())
    }

    fn item(&self, path: &str, stat: &FileStat, mode: Option<u32>) -> Result<Item> {
        if is(stat, SFlag::S_IFLNK) {
            let link = self
                .below(path, OFlag::O_PATH | OFlag::O_NOFOLLOW)
                .map_err(Error::at("open", path))?;
            let target = readlinkat(&link, "").map_err(Error::at("read the link", path))?;
            return Ok(Item::Symlink {
                target: target.into(),
            });
        }
        if !is(stat, SFlag::S_IFREG) {
            return Err(Error::Unsupported {
                what: format!("{path:?} in the context"),
                why: "it is neither file, directory nor symbolic link".into(),
            });
        }
        Ok(Item::File {
            source: path.to_owned(),
            mode: mode.unwrap_or(stat.st_mode & 0o7777),
        })
    }

    /// Opens a file of the context for reading.
    pub fn read(&self, path: &str) -> Result<File> {
        self.below(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)
            .map(File::from)
            .map_err(Error::at("open", self.path.join(path)))
    }

    fn refuse_archive(&self, path: &str) -> Result<()> {
        use std::os::unix::fs::FileExt;
        if !is(&self.stat(path, OFlag::empty())?, SFlag::S_IFREG) {
            return Ok(());
        }
        let file = self.read(path)?;
        let mut head = [0; 262];
        let read = file.read_at(&mut head, 0).map_err(Error::at("read", path))?;
        if ARCHIVE_MAGIC
            .iter()
            .any(|(at, magic)| head[..read].get(*at..at + magic.len()) == Some(*magic))
        {
            return Err(Error::Unsupported {
                what: format!("ADD of the archive {path:?}"),
                why: "unpack it first and COPY the files".into(),
            });
        }
        Ok(())
    }

    fn stat(&self, path: &str, flags: OFlag) -> Result<FileStat> {
        let fd = self
            .below(path, OFlag::O_PATH | flags)
            .map_err(|errno| self.failed(path, errno))?;
        fstat(&fd).map_err(Error::at("look at", path))
    }

    /// The path without links, below the context: what .dockerignore speaks of.
    fn real(&self, path: &str) -> Result<String> {
        let name_of = |fd: &OwnedFd| fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let found = self
            .below(path, OFlag::O_PATH)
            .map_err(|errno| self.failed(path, errno))?;
        let (root, found) = (name_of(&self.root), name_of(&found));
        let (root, found) = root
            .and_then(|root| Ok((root, found?)))
            .map_err(Error::at("look at", path))?;
        let below = found.strip_prefix(&root).ok().and_then(Path::to_str);
        below.map(str::to_owned).ok_or_else(|| self.outside(path))
    }

    /// Whether .dockerignore leaves out what the path leads to. A link that leads nowhere is only its own name.
    fn hides(&self, path: &str) -> Result<bool> {
        if self.ignore.hides(path) {
            return Ok(true);
        }
        match self.below(path, OFlag::O_PATH) {
            Err(Errno::ENOENT | Errno::ELOOP) => Ok(false),
            _ => Ok(self.ignore.hides(&self.real(path)?)),
        }
    }

    fn failed(&self, path: &str, errno: Errno) -> Error {
        match errno {
            Errno::EXDEV => self.outside(path),
            errno => Error::io("open", self.path.join(path), errno),
        }
    }

    fn names(&self, path: &str) -> Result<Vec<String>> {
        let folder = match self.below(path, OFlag::O_DIRECTORY | OFlag::O_RDONLY) {
            Err(Errno::ENOTDIR) => return Ok(Vec::new()),
            other => other.map_err(Error::at("open", self.path.join(path)))?,
        };
        let mut names = Vec::new();
        for entry in
            fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd())).map_err(Error::at("list", path))?
        {
            let name = entry.map_err(Error::at("list", path))?.file_name();
            let text = std::str::from_utf8(OsStr::as_bytes(&name));
            names.push(
                text.map_err(|_| Error::Unsupported {
                    what: format!("{name:?} in the context"),
                    why: "its name is not UTF-8".into(),
                })?
                .to_owned(),
            );
        }
        names.sort();
        Ok(names)
    }

    fn below(&self, path: &str, flags: OFlag) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(&self.root, if path.is_empty() { "." } else { path }, how)
    }

    fn outside(&self, path: &str) -> Error {
        Error::Unsupported {
            what: format!("{path:?}"),
            why: format!("it lies outside of the context {}", self.path.display()),
        }
    }
}

/// Takes an entry up. Of several files for one place the last counts; a file and a folder cannot both be there.
fn place(items: &mut BTreeMap<String, Item>, from: &str, path: String, item: Item) -> Result<()> {
    if let Some(there) = items.get(&path) {
        super::fits(&path, &item.node(), &there.node()).map_err(|error| {
            let other = match there {
                Item::File { source, .. } => format!("{source:?}"),
                _ => "another source".to_owned(),
            };
            Error::Run(format!("{from:?} and {other} cannot both be copied: {error}"))
        })?;
    }
    items.insert(path, item);
    Ok(())
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    }
}

fn is(stat: &FileStat, kind: SFlag) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == kind
}
