//! A stored tree as one layer: a tar that is made while it is read. Memory is bounded: of a long directory the next names in order are kept, and it is
//! read again for those that follow; what must be known of very many hard links goes on in files without a name (table.rs).
//!
//! Its bytes depend on nothing but the tree: directories before what is in them, names in order of their bytes, times, owners, modes and attributes
//! as they are stored. Files are hard links of each other where the image said so ([`super::unpack`] keeps a list), not where the store shares them.
//! What a header of POSIX.1-1988 (ustar) cannot hold goes into an extended one (PAX).
//!
//! Device nodes are not in the store (see [`super`]), so they are not here either.

use std::collections::BinaryHeap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid};

use super::object::Metadata;
use super::table::{EMPTY, Spool, Table};
use super::{LINKS, tree};
use crate::tar_stream::{BLOCK, PATH_BYTES_MAX};
use crate::{Error, Result};

/// Bytes of a ustar header's name and of its link name.
const USTAR_NAME_BYTES: usize = 100;

/// Names of all directories that are being gone through, at once: some 2 MB when all are as long as names can be. 10^6 files in one directory are read
/// in 245 turns.
const NAMES_MAX: usize = 8 * 1024;

/// Names of one directory, however many are kept of those above it.
const NAMES_MIN: usize = 16;

/// The archive of one tree, from its beginning.
#[derive(Debug)]
pub struct TreeArchive {
    root: OwnedFd,
    open: Vec<Open>,
    links: Links,
    /// Headers and padding on their way out, and how far they are.
    bytes: Vec<u8>,
    position: usize,
    /// The file whose content is on its way out, and how much of it is left.
    content: Option<(File, PathBuf, u64)>,
    ended: bool,
}

/// A directory that is being gone through.
#[derive(Debug)]
struct Open {
    path: PathBuf,
    /// Names still to come, the next one last.
    names: Vec<OsString>,
    /// There are more behind them.
    is_cut: bool,
}

impl TreeArchive {
    /// Of the image in this folder of the store.
    pub fn open(folder: &Path) -> Result<Self> {
        let root = tree::open_folder(&folder.join("rootfs"))?;
        let links = Links::read(&root, folder)?;
        let mut archive = Self {
            root,
            open: Vec::new(),
            links,
            bytes: Vec::new(),
            position: 0,
            content: None,
            ended: false,
        };
        archive.add_folder(PathBuf::new())?;
        Ok(archive)
    }

    /// Puts the next entry's header into `bytes`; its content follows when it has one.
    fn next_entry(&mut self) -> Result<()> {
        while let Some(folder) = self.open.last_mut() {
            let Some(name) = folder.names.pop() else {
                self.open.pop();
                continue;
            };
            let path = folder.path.join(&name);
            if folder.names.is_empty() && folder.is_cut {
                let folder = folder.path.clone();
                let more = self.names_behind(&folder, Some(&name))?;
                self.open.pop();
                self.open.push(more);
            }
            return self.add(path);
        }
        self.ended = true;
        // Two empty blocks end an archive.
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        Ok(())
    }

    fn add(&mut self, path: PathBuf) -> Result<()> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let folder = self.open_at(tree::at_root(parent), OFlag::O_DIRECTORY)?;
        let place = tree::at(&folder, path.file_name().unwrap_or_default());
        let found = fs::symlink_metadata(&place).map_err(Error::at("look at", &path))?;
        let kind = found.file_type();
        if kind.is_dir() {
            self.add_folder(path)
        } else if kind.is_file() {
            self.add_file(path)
        } else if kind.is_symlink() {
            let target = fs::read_link(&place).map_err(Error::at("read", &path))?;
            self.header(b'2', &path, target.as_os_str(), &Metadata::of_link(&found), 0);
            Ok(())
        } else if kind.is_fifo() {
            self.header(b'6', &path, OsStr::new(""), &Metadata::of_link(&found), 0);
            Ok(())
        } else {
            Err(Error::malformed(
                "the stored tree",
                format!("{} is of no kind that is stored", path.display()),
            ))
        }
    }

    fn add_folder(&mut self, path: PathBuf) -> Result<()> {
        let folder = self.open_at(tree::at_root(&path), OFlag::O_DIRECTORY)?;
        let metadata =
            Metadata::of_file(&tree::as_file(&folder, &path)?).map_err(Error::at("look at", &path))?;
        let names = self.names_behind(&path, None)?;
        // A slash says that it is a directory to those who read old archives; the root is `./`.
        let mut shown = tree::at_root(&path).as_os_str().to_owned();
        shown.push("/");
        self.header(b'5', Path::new(&shown), OsStr::new(""), &metadata, 0);
        self.open.push(names);
        Ok(())
    }

    /// The next names of a directory in order, behind this one: as many as there is room for.
    fn names_behind(&self, path: &Path, last: Option<&OsStr>) -> Result<Open> {
        let held: usize = self.open.iter().map(|folder| folder.names.len()).sum();
        // Half of what is left is for the directories in this one.
        let room = (NAMES_MAX.saturating_sub(held) / 2).max(NAMES_MIN);
        let folder = self.open_at(tree::at_root(path), OFlag::O_DIRECTORY)?;
        let failed = |error| Error::io("list", path, error);
        let mut next = BinaryHeap::new();
        let mut is_cut = false;
        for entry in fs::read_dir(tree::at(&folder, OsStr::new("."))).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if last.is_some_and(|last| name.as_os_str() <= last) {
                continue;
            }
            if next.len() < room {
                next.push(name);
                continue;
            }
            is_cut = true;
            if let Some(mut highest) = next.peek_mut()
                && *highest > name
            {
                *highest = name;
            }
        }
        let mut names = next.into_sorted_vec();
        names.reverse();
        Ok(Open {
            path: path.into(),
            names,
            is_cut,
        })
    }

    fn add_file(&mut self, path: PathBuf) -> Result<()> {
        let fd = self.open_at(&path, OFlag::O_NONBLOCK)?;
        let file = File::from(fd);
        let metadata = Metadata::of_file(&file).map_err(Error::at("look at", &path))?;
        let found = file.metadata().map_err(Error::at("look at", &path))?;
        if let Some(first) = self.links.first(found.ino(), &path)? {
            self.header(b'1', &path, first.as_os_str(), &metadata, 0);
            return Ok(());
        }
        self.header(b'0', &path, OsStr::new(""), &metadata, found.len());
        self.content = Some((file, path, found.len()));
        Ok(())
    }

    fn open_at(&self, path: &Path, flags: OFlag) -> Result<OwnedFd> {
        tree::open(&self.root, path, flags | OFlag::O_RDONLY | OFlag::O_NOFOLLOW)
            .map_err(Error::at("open", path))
    }

    fn header(&mut self, kind: u8, path: &Path, link: &OsStr, metadata: &Metadata, size: u64) {
        let (name, link) = (path.as_os_str().as_bytes(), link.as_bytes());
        let extended = extended_records(name, link, metadata);
        if !extended.is_empty() {
            let header = ustar(b'x', b"././@PaxHeader", b"", None, extended.len() as u64);
            self.bytes.extend_from_slice(header.as_bytes());
            self.bytes.extend_from_slice(&extended);
            self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        }
        let header = ustar(kind, name, link, Some(metadata), size);
        self.bytes.extend_from_slice(header.as_bytes());
    }

    fn read_content(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some((file, path, left)) = &mut self.content else {
            return Ok(0);
        };
        let wanted = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        let count = file.read(&mut buffer[..wanted])?;
        if count == 0 && *left > 0 {
            let why = format!(
                "{} is shorter than it was: punnet verify tells what is damaged",
                path.display()
            );
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        *left -= count as u64;
        if *left == 0 {
            let size = file.metadata()?.len();
            self.bytes
                .resize((size.next_multiple_of(BLOCK as u64) - size) as usize, 0);
            self.content = None;
        }
        Ok(count)
    }
}

impl Read for TreeArchive {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let waiting = &self.bytes[self.position..];
            if !waiting.is_empty() {
                let count = waiting.len().min(buffer.len());
                buffer[..count].copy_from_slice(&waiting[..count]);
                self.position += count;
                return Ok(count);
            }
            self.bytes.clear();
            self.position = 0;
            if self.content.as_ref().is_some_and(|(_, _, left)| *left > 0) {
                return self.read_content(buffer);
            }
            self.content = None;
            if self.ended || buffer.is_empty() {
                return Ok(0);
            }
            self.next_entry().map_err(Error::into_io)?;
        }
    }
}

/// The files that the image has under several names.
#[derive(Debug)]
struct Links {
    /// By inode, where the first name it was written under is in `names`, and one more; 0 before.
    inodes: Table,
    names: Spool,
}

impl Links {
    /// The files that hard links were made to or from.
    fn read(root: &OwnedFd, folder: &Path) -> Result<Self> {
        let temporary = |name: &str| folder.join(format!(".{name}-{}", std::process::id()));
        let mut links = Self {
            inodes: Table::new(temporary("inodes"), 8),
            names: Spool::new(temporary("names")),
        };
        let path = folder.join(LINKS);
        let mut list = match File::open(&path) {
            // No hard links.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(links),
            other => BufReader::new(other.map_err(Error::at("open", &path))?),
        };
        let mut name = Vec::new();
        loop {
            name.clear();
            let read = (&mut list)
                .take(PATH_BYTES_MAX as u64 + 1)
                .read_until(0, &mut name);
            if read.map_err(Error::at("read", &path))? == 0 {
                return Ok(links);
            }
            let name = Path::new(OsStr::from_bytes(name.strip_suffix(&[0]).unwrap_or(&name)));
            // A later entry may have taken the name away again.
            let Ok(fd) = tree::open(root, name, OFlag::O_PATH | OFlag::O_NOFOLLOW) else {
                continue;
            };
            let inode = File::from(fd)
                .metadata()
                .map_err(Error::at("look at", &path))?
                .ino();
            links.inodes.put(inode, EMPTY)?;
        }
    }

    /// The name that a file of several has been written under; `None` when this is the first, or the only one.
    fn first(&mut self, inode: u64, path: &Path) -> Result<Option<PathBuf>> {
        let Some(value) = self.inodes.get(inode)? else {
            return Ok(None);
        };
        let mut place = [0; 8];
        place.copy_from_slice(&value[..8]);
        if let Some(at) = u64::from_le_bytes(place).checked_sub(1) {
            return self.names.get(at).map(Some);
        }
        let mut value = EMPTY;
        value[..8].copy_from_slice(&(self.names.put(path)? + 1).to_le_bytes());
        self.inodes.put(inode, value)?;
        Ok(None)
    }
}

/// A header block; what does not fit stands in the extended header before it.
fn ustar(kind: u8, name: &[u8], link: &[u8], metadata: Option<&Metadata>, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    let fields = header.as_ustar_mut().expect("it was made as one");
    for (field, text) in [(&mut fields.name, name), (&mut fields.linkname, link)] {
        let count = text.len().min(USTAR_NAME_BYTES);
        field[..count].copy_from_slice(&text[..count]);
    }
    fields.typeflag[0] = kind;
    let (mode, (uid, gid), mtime) = match metadata {
        Some(metadata) => (metadata.mode().bits(), metadata.owner(), metadata.mtime_parts().0),
        None => (0o644, (Uid::from_raw(0), Gid::from_raw(0)), 0),
    };
    header.set_mode(mode);
    header.set_uid(uid.as_raw().into());
    header.set_gid(gid.as_raw().into());
    header.set_mtime(u64::try_from(mtime).unwrap_or(0));
    header.set_size(size);
    header.set_cksum();
    header
}

/// The records of an extended header, empty when none is needed.
fn extended_records(name: &[u8], link: &[u8], metadata: &Metadata) -> Vec<u8> {
    let mut records = Vec::new();
    if link.len() > USTAR_NAME_BYTES {
        add_record(&mut records, b"linkpath", link);
    }
    let (seconds, nanoseconds) = metadata.mtime_parts();
    if nanoseconds != 0 || seconds < 0 {
        add_record(&mut records, b"mtime", decimal(seconds, nanoseconds).as_bytes());
    }
    if name.len() > USTAR_NAME_BYTES {
        add_record(&mut records, b"path", name);
    }
    for (name, value) in metadata.xattrs() {
        add_record(&mut records, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    records
}

/// Seconds as PAX writes them: the fraction of a time before 1970 counts backwards.
fn decimal(seconds: i64, nanoseconds: u32) -> String {
    match (seconds, nanoseconds) {
        (_, 0) => seconds.to_string(),
        (0.., _) => format!("{seconds}.{nanoseconds:09}"),
        _ => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds),
    }
}

/// `LENGTH KEY=VALUE\n`, the length counting itself.
fn add_record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for count in [0, 1, 80, 88, 89, 90, 91, 980, 990, 1000] {
            let mut records = Vec::new();
            add_record(&mut records, b"path", &vec![b'x'; count]);
            let space = records.iter().position(|&byte| byte == b' ').unwrap();
            let length: usize = std::str::from_utf8(&records[..space]).unwrap().parse().unwrap();
            assert_eq!(length, records.len(), "{count}");
        }
    }

    #[test]
    fn times_before_1970_are_written_as_they_are_read() {
        for (seconds, nanoseconds, text) in [
            (5, 0, "5"),
            (5, 7, "5.000000007"),
            (0, 500_000_000, "0.500000000"),
            (-1, 500_000_000, "-0.500000000"),
            (-2, 0, "-2"),
        ] {
            assert_eq!(decimal(seconds, nanoseconds), text);
        }
    }
}
