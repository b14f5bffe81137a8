//! A stored tree as one layer: a tar that is made while it is read, so that it takes neither memory nor disk.
//!
//! Its bytes depend on nothing but the tree: directories before what is in them, names in order of their bytes, times, owners, modes and attributes
//! as they are stored. Files are hard links of each other where the image said so ([`super::unpack`] keeps a list), not where the store shares them.
//! What a header of POSIX.1-1988 (ustar) cannot hold goes into an extended one (PAX).
//!
//! Device nodes are not in the store (see [`super`]), so they are not here either.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid};

use super::object::Metadata;
use super::{LINKS, tree};
use crate::tar_stream::BLOCK;
use crate::{Error, Result};

/// Bytes of a ustar header's name and of its link name.
const USTAR_NAME_BYTES: usize = 100;

/// The archive of one tree, from its beginning.
#[derive(Debug)]
pub struct TreeArchive {
    root: OwnedFd,
    /// Directories that are being gone through: path, and the names still to come, the next one last.
    open: Vec<(PathBuf, Vec<OsString>)>,
    /// Inodes of files that the image has under several names, and the first name each was written under.
    linked: BTreeSet<u64>,
    written: BTreeMap<u64, PathBuf>,
    /// Headers and padding on their way out, and how far they are.
    bytes: Vec<u8>,
    position: usize,
    /// The file whose content is on its way out, and how much of it is left.
    content: Option<(File, PathBuf, u64)>,
    ended: bool,
}

impl TreeArchive {
    /// Of the image in this folder of the store.
    pub fn open(folder: &Path) -> Result<Self> {
        let root = tree::open_folder(&folder.join("rootfs"))?;
        let linked = linked_inodes(&root, &folder.join(LINKS))?;
        let mut archive = Self {
            root,
            open: Vec::new(),
            linked,
            written: BTreeMap::new(),
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
        while let Some((folder, names)) = self.open.last_mut() {
            let Some(name) = names.pop() else {
                self.open.pop();
                continue;
            };
            let path = folder.join(&name);
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
        let mut names: Vec<OsString> = super::entries(&tree::at(&folder, OsStr::new(".")))?
            .iter()
            .filter_map(|entry| entry.file_name().map(OsStr::to_owned))
            .collect();
        names.reverse();
        // A slash says that it is a directory to those who read old archives; the root is `./`.
        let mut shown = tree::at_root(&path).as_os_str().to_owned();
        shown.push("/");
        self.header(b'5', Path::new(&shown), OsStr::new(""), &metadata, 0);
        self.open.push((path, names));
        Ok(())
    }

    fn add_file(&mut self, path: PathBuf) -> Result<()> {
        let fd = self.open_at(&path, OFlag::O_NONBLOCK)?;
        let file = File::from(fd);
        let metadata = Metadata::of_file(&file).map_err(Error::at("look at", &path))?;
        let found = file.metadata().map_err(Error::at("look at", &path))?;
        if self.linked.contains(&found.ino()) {
            if let Some(first) = self.written.get(&found.ino()).cloned() {
                self.header(b'1', &path, first.as_os_str(), &metadata, 0);
                return Ok(());
            }
            self.written.insert(found.ino(), path.clone());
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
            self.next_entry().map_err(io::Error::other)?;
        }
    }
}

/// The files that hard links were made to or from.
fn linked_inodes(root: &OwnedFd, list: &Path) -> Result<BTreeSet<u64>> {
    let names = match fs::read(list) {
        // No hard links.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        other => other.map_err(Error::at("read", list))?,
    };
    let mut inodes = BTreeSet::new();
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        // A later entry may have taken the name away again.
        let Ok(fd) = tree::open(
            root,
            Path::new(OsStr::from_bytes(name)),
            OFlag::O_PATH | OFlag::O_NOFOLLOW,
        ) else {
            continue;
        };
        let file = File::from(fd);
        inodes.insert(file.metadata().map_err(Error::at("look at", list))?.ino());
    }
    Ok(inodes)
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
