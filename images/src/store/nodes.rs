//! What an image has beside regular files: directories, symbolic links and named pipes, as they were when it was unpacked.
//!
//! `nodes` in the image's folder has a record for each, parents before what is in them: kind and metadata, path, target, each with a NUL behind it.
//! The target of a directory is `a`, and ` name:value` in hex for each of its extended attributes. Where it is empty they were not kept, because an older
//! version stored the image.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, readlinkat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, mkdirat};
use nix::unistd::{geteuid, mkfifoat, symlinkat};

use super::object::{Metadata, Xattrs, has_foreign_xattrs, read_xattrs};
use super::tree;
use super::unpack::set_link_metadata;
use super::verify::Damage;
use crate::digest::{hex, unhex};
use crate::tar_stream::EXTENSION_BYTES_MAX;
use crate::{Error, Result};

/// Name of the list in an image's folder.
pub const NODES: &str = "nodes";

/// Stands at the end, so that a list that was cut is not taken for a whole one.
const END: &[u8] = b"end\0";

/// What one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory,
    Symlink,
    Fifo,
}

impl Kind {
    const ALL: [(Self, &'static str); 3] = [(Self::Directory, "d"), (Self::Symlink, "l"), (Self::Fifo, "p")];

    /// Of a file that is no regular one.
    pub fn of(kind: fs::FileType) -> Option<Self> {
        use std::os::unix::fs::FileTypeExt;
        match kind {
            _ if kind.is_dir() => Some(Self::Directory),
            _ if kind.is_symlink() => Some(Self::Symlink),
            _ if kind.is_fifo() => Some(Self::Fifo),
            _ => None,
        }
    }
}

/// One of them as it was stored.
pub struct Node<'a> {
    pub kind: Kind,
    pub metadata: Metadata,
    pub path: &'a Path,
    /// Of a symbolic link.
    pub target: &'a OsStr,
    /// The metadata has its attributes, too.
    pub knows_xattrs: bool,
}

/// Bytes of one string of the list: a path, a target, or attributes in hex, of which an archive has no more in an entry.
const STRING_BYTES_MAX: u64 = 4 * EXTENSION_BYTES_MAX;

/// The list being written.
pub struct NodeList {
    out: BufWriter<File>,
    path: PathBuf,
}

impl NodeList {
    /// An empty one.
    pub fn make(path: PathBuf) -> Result<Self> {
        let file = File::create(&path).map_err(Error::at("create", &path))?;
        let out = BufWriter::new(file);
        Ok(Self { out, path })
    }

    pub fn add(&mut self, node: &Node<'_>) -> Result<()> {
        let (_, letter) = Kind::ALL[node.kind as usize];
        let head = write!(self.out, "{letter} {}\0", node.metadata.to_text());
        let xattrs = xattrs_to_text(node.metadata.xattrs());
        let target = match node.kind {
            Kind::Directory => OsStr::new(&xattrs),
            Kind::Symlink | Kind::Fifo => node.target,
        };
        let strings = [node.path.as_os_str(), target];
        head.and_then(|()| {
            strings.iter().try_for_each(|string| {
                self.out.write_all(string.as_bytes())?;
                self.out.write_all(&[0])
            })
        })
        .map_err(Error::at("write", &self.path))
    }

    pub fn finish(mut self) -> Result<()> {
        self.out
            .write_all(END)
            .and_then(|()| self.out.flush())
            .map_err(Error::at("write", &self.path))
    }
}

/// Goes through the list in the image's folder. An image that was stored before there were such lists has none.
pub fn for_each_node(folder: &Path, act: &mut dyn FnMut(&Node<'_>) -> Result<()>) -> Result<()> {
    let list = folder.join(NODES);
    let mut records = match File::open(&list) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => BufReader::new(other.map_err(Error::at("open", &list))?),
    };
    let mut strings = [const { Vec::new() }; 3];
    loop {
        for string in &mut strings {
            string.clear();
            (&mut records)
                .take(STRING_BYTES_MAX)
                .read_until(0, string)
                .map_err(Error::at("read", &list))?;
            if string == END {
                return Ok(());
            }
        }
        let node = parse(&strings).ok_or_else(|| super::verify::cut_list("directories and links"))?;
        act(&node)?;
    }
}

fn parse([head, path, target]: &[Vec<u8>; 3]) -> Option<Node<'_>> {
    let (letter, metadata) = std::str::from_utf8(head.strip_suffix(&[0])?)
        .ok()?
        .split_once(' ')?;
    let (kind, _) = Kind::ALL.into_iter().find(|(_, known)| *known == letter)?;
    let mut metadata = Metadata::from_text(metadata)?;
    let target = target.strip_suffix(&[0])?;
    let knows_xattrs = kind == Kind::Directory && !target.is_empty();
    if knows_xattrs {
        metadata = metadata.with_xattrs(xattrs_from_text(std::str::from_utf8(target).ok()?)?);
    }
    Some(Node {
        kind,
        metadata,
        path: Path::new(OsStr::from_bytes(path.strip_suffix(&[0])?)),
        target: OsStr::from_bytes(target),
        knows_xattrs,
    })
}

fn xattrs_to_text(xattrs: &[(Vec<u8>, Vec<u8>)]) -> String {
    let words = xattrs
        .iter()
        .map(|(name, value)| format!(" {}:{}", hex(name), hex(value)));
    std::iter::once("a".to_owned()).chain(words).collect()
}

fn xattrs_from_text(text: &str) -> Option<Xattrs> {
    let words = text.strip_prefix('a')?.split(' ').skip(1);
    words
        .map(|word| {
            let (name, value) = word.split_once(':')?;
            Some((unhex(name)?, unhex(value)?))
        })
        .collect()
}

/// What is wrong with one, if anything.
pub fn check(root: &OwnedFd, node: &Node<'_>) -> Result<Option<Damage>> {
    let fd = match tree::open(root, tree::at_root(node.path), OFlag::O_PATH | OFlag::O_NOFOLLOW) {
        Err(Errno::EACCES | Errno::EIO) => return Ok(Some(Damage::Unreadable)),
        Err(_) => return Ok(Some(Damage::Missing)),
        Ok(fd) => fd,
    };
    let Ok(found) = tree::as_file(&fd, node.path)?.metadata() else {
        return Ok(Some(Damage::Unreadable));
    };
    if Kind::of(found.file_type()) != Some(node.kind) {
        return Ok(Some(Damage::Kind));
    }
    if node.kind == Kind::Symlink && readlinkat(&fd, "").ok().as_deref() != Some(node.target) {
        return Ok(Some(Damage::Target));
    }
    if Metadata::of_link(&found).with_xattrs(node.metadata.xattrs().to_vec()) != node.metadata {
        return Ok(Some(Damage::Metadata));
    }
    if !node.knows_xattrs {
        return Ok(None);
    }
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_NOFOLLOW;
    let Ok(folder) = tree::open(root, tree::at_root(node.path), flags) else {
        return Ok(Some(Damage::Unreadable));
    };
    let same = read_xattrs(folder.as_fd(), geteuid().is_root())
        .and_then(|xattrs| Ok(xattrs == node.metadata.xattrs() && !has_foreign_xattrs(folder.as_fd())?));
    Ok(match same {
        Ok(true) => None,
        Ok(false) => Some(Damage::Attributes),
        Err(_) => Some(Damage::Unreadable),
    })
}

/// Puts back all that is damaged of the image in this folder; how many there were. Files are not put back, but find their directories.
pub fn mend(folder: &Path) -> Result<u64> {
    let rootfs = folder.join("rootfs");
    if !rootfs.is_dir() {
        fs::create_dir(&rootfs).map_err(Error::at("create", &rootfs))?;
    }
    let root = tree::open_folder(&rootfs)?;
    let mut mended = 0;
    for_each_node(folder, &mut |node| {
        if let Some(damage) = check(&root, node)? {
            put(&root, node, damage)?;
            mended += 1;
        }
        Ok(())
    })?;
    Ok(mended)
}

fn put(root: &OwnedFd, node: &Node<'_>, damage: Damage) -> Result<()> {
    let failed = |errno: Errno| Error::io("repair", node.path, errno);
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY;
    let is_directory = node.kind == Kind::Directory;
    if is_directory && matches!(damage, Damage::Metadata | Damage::Attributes) {
        let folder = tree::open(root, tree::at_root(node.path), flags).map_err(failed)?;
        if node.knows_xattrs {
            let removed = node.metadata.remove_others(folder.as_fd());
            removed.map_err(Error::at("repair", node.path))?;
        }
        return node.metadata.apply(folder.as_fd()).map_err(failed);
    }
    super::repair::keeping_times(root, node.path, |parent, name| {
        tree::remove_at(parent, name)?;
        match node.kind {
            Kind::Directory => mkdirat(parent, name, Mode::S_IRWXU).map_err(failed)?,
            Kind::Symlink => symlinkat(node.target, parent, name).map_err(failed)?,
            Kind::Fifo => {
                mkfifoat(parent, name, Mode::S_IRUSR).map_err(failed)?;
                // What umask(2) took.
                fchmodat(parent, name, node.metadata.mode(), FchmodatFlags::FollowSymlink).map_err(failed)?;
            }
        }
        match is_directory {
            true => tree::open(parent, Path::new(name), flags)
                .and_then(|folder| node.metadata.apply(folder.as_fd())),
            false => set_link_metadata(parent, name, &node.metadata),
        }
        .map_err(failed)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back_and_an_older_list_says_nothing_of_them() {
        let xattrs = vec![
            (b"user.a b".to_vec(), vec![0, 255, b':']),
            (b"user.c".to_vec(), vec![]),
        ];
        for xattrs in [xattrs, Vec::new()] {
            let text = xattrs_to_text(&xattrs);
            assert_eq!(xattrs_from_text(&text), Some(xattrs), "{text}");
        }
        for bad in ["b", "a 1", "a x:00", "a 00:0g"] {
            assert_eq!(xattrs_from_text(bad), None, "{bad}");
        }
        for (target, knows) in [(&b"\0"[..], false), (b"a\0", true)] {
            let strings = [b"d 755 0 0 0 0\0".to_vec(), b"folder\0".to_vec(), target.to_vec()];
            assert_eq!(parse(&strings).unwrap().knows_xattrs, knows);
        }
    }
}
