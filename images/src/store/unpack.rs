//! Applies layers to a tree, one after another, each read once as a stream.
//!
//! Memory: 40 bytes for each regular file of the image, 8 for each entry of the current layer, and the metadata of its directories; nothing
//! grows with the size of files.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fstatat, mkdirat, utimensat};
use nix::unistd::{fchownat, geteuid, linkat, mkfifoat, symlinkat};
use sha2::Digest as _;

use super::object::Metadata;
use super::{Summary, drain, tree};
use crate::decompress::decompressed;
use crate::oci::Descriptor;
use crate::source::Blob;
use crate::tar_stream::{Entry, EntryKind, PATH_BYTES_MAX, Sequential, TarStream};
use crate::{Digest, Error, HashingReader, Result};

/// Entries of all layers together. A full desktop has some 300,000 files; it bounds the memory named above.
const ENTRIES_MAX: u64 = 1_000_000;

/// Bytes of all files together: more than any card of such a board holds of one image, and an end for what never ends.
const UNPACKED_BYTES_MAX: u64 = 64 << 30;

/// Bytes after the end of the archive within a layer: tar pads to records of 10 KiB, some tools to more.
const TRAILER_BYTES_MAX: u64 = 1 << 20;

/// Piece in which file contents pass through.
pub(super) const COPY_BYTES: usize = 64 * 1024;

/// Bytes between two calls of `progress`.
const PROGRESS_BYTES: u64 = 128 << 10;

/// A tree that layers are applied to.
pub struct Unpacker {
    root: OwnedFd,
    temporary: PathBuf,
    objects: PathBuf,
    /// Directories by path, whose metadata is set when nothing is put into them any more.
    folders: BTreeMap<PathBuf, Metadata>,
    /// Inode and object name of each regular file, replaced ones too, in the order of unpacking.
    files: Vec<(u64, [u8; 32])>,
    /// The list of hard links, once there is one: both names of each.
    links: Option<BufWriter<File>>,
    links_path: PathBuf,
    entries: u64,
    bytes: u64,
}

/// The archive inside a layer.
type Archive<'a> = TarStream<Sequential<&'a mut dyn Read>>;

impl Unpacker {
    /// An empty tree in a staging folder.
    pub fn new(staging: &Path, objects: &Path) -> Result<Self> {
        let root_path = staging.join("rootfs");
        Ok(Self {
            root: tree::make_folder(&root_path)?,
            temporary: staging.join("file"),
            objects: objects.into(),
            folders: BTreeMap::new(),
            files: Vec::new(),
            links: None,
            links_path: staging.join(super::LINKS),
            entries: 0,
            bytes: 0,
        })
    }

    /// Applies one layer, and only then compares its digests: staging is thrown away when they are wrong.
    pub fn layer(
        &mut self,
        blob: Blob,
        descriptor: &Descriptor,
        diff_id: &Digest,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let mut blob = HashingReader::new(Watched {
            inner: blob,
            read: 0,
            told: 0,
            progress,
        });
        let mut unpacked = HashingReader::new(decompressed(&mut blob, descriptor)?);
        let applied = self.apply(TarStream::new(Sequential(&mut unpacked)));
        // Damage upsets the archive first; that the layer is damaged is what its reader must know.
        let drained = drain(&mut unpacked, TRAILER_BYTES_MAX).map_err(Error::Stream);
        let (_, actual_diff_id) = unpacked.finish();
        // A stream that failed tells why here, before what follows from that.
        drain(&mut blob, u64::MAX).map_err(Error::stream)?;
        let (_, actual) = blob.finish();
        let mismatch = |what: &str, expected: &Digest, actual| Error::Mismatch {
            what: what.into(),
            expected: *expected,
            actual,
        };
        if actual != descriptor.digest {
            return Err(mismatch("the layer", &descriptor.digest, actual));
        }
        applied?;
        if drained? == TRAILER_BYTES_MAX {
            return Err(Error::malformed(
                "the layer",
                format!("more than {TRAILER_BYTES_MAX} bytes follow its archive"),
            ));
        }
        if actual_diff_id != *diff_id {
            return Err(mismatch("the unpacked layer", diff_id, actual_diff_id));
        }
        Ok(())
    }

    /// Gives directories their metadata, lists all files for `verify`, and counts.
    pub fn finish(mut self, list: &Path) -> Result<Summary> {
        let mut listed = HashSet::new();
        // The deepest first: a parent's mode may forbid what is still to do below it.
        for (path, metadata) in std::mem::take(&mut self.folders).iter().rev() {
            match tree::open(
                &self.root,
                tree::at_root(path),
                OFlag::O_DIRECTORY | OFlag::O_RDONLY,
            ) {
                // Gone again, or something else now.
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                other => {
                    let folder = other.map_err(Error::at("open", path))?;
                    metadata
                        .apply(folder.as_fd())
                        .map_err(Error::at("set the metadata of", path))?;
                    let file = tree::as_file(&folder, path)?;
                    listed.insert(file.metadata().map_err(Error::at("look at", path))?.ino());
                }
            }
        }
        // Stable: of the files that had an inode one after another, the last is the one in the tree.
        self.files.sort_by_key(|&(inode, _)| inode);
        let file = File::create(list).map_err(Error::at("create", list))?;
        let mut list = List {
            out: BufWriter::new(file),
            path: list,
            summary: Summary::default(),
        };
        self.list_folder(Path::new(""), &listed, &mut list)?;
        if let Some(links) = &mut self.links {
            links.flush().map_err(Error::at("write", &self.links_path))?;
        }
        list.out.flush().map_err(Error::at("write", list.path))?;
        Ok(list.summary)
    }

    /// Lists what is below a directory, and gives it a time and a mode that are the same everywhere when no entry has.
    fn list_folder(&self, path: &Path, listed: &HashSet<u64>, list: &mut List<'_>) -> Result<()> {
        let folder = match tree::open(
            &self.root,
            tree::at_root(path),
            OFlag::O_DIRECTORY | OFlag::O_RDONLY,
        ) {
            // Symbolic links make longer ones than an entry can have.
            Err(Errno::ENAMETOOLONG) => {
                return Err(Error::Limit {
                    what: "the length of a path in the image".into(),
                    limit: format!("{PATH_BYTES_MAX} bytes"),
                });
            }
            other => other.map_err(Error::at("open", path))?,
        };
        let here = File::from(folder.try_clone().map_err(Error::at("open", path))?);
        if !listed.contains(&here.metadata().map_err(Error::at("look at", path))?.ino()) {
            Metadata::of_implied_folder()
                .apply(here.as_fd())
                .map_err(Error::at("set the metadata of", path))?;
        }
        let entries = super::entries(&tree::at(&folder, OsStr::new(".")))?;
        let mut folders = Vec::new();
        for entry in entries {
            let below = path.join(entry.file_name().unwrap_or_default());
            let metadata = fs::symlink_metadata(&entry).map_err(Error::at("look at", &below))?;
            if metadata.is_dir() {
                folders.push(below);
            } else if metadata.is_file() {
                let name = self
                    .name_of(metadata.ino())
                    .ok_or_else(|| Error::malformed("the tree", "it has a file that was not unpacked"))?;
                list.add(&Digest::from_bytes(name), metadata.len(), &below)?;
            }
        }
        // No descriptor is held on the way down: an image may be deeper than a process may have files open.
        drop((folder, here));
        folders
            .iter()
            .try_for_each(|below| self.list_folder(below, listed, list))
    }

    /// The object that an inode of the tree is. A file replaced by a later entry leaves its inode to the next one that is made.
    fn name_of(&self, inode: u64) -> Option<[u8; 32]> {
        let end = self.files.partition_point(|&(other, _)| other <= inode);
        let (last, name) = self.files[..end].last()?;
        (*last == inode).then_some(*name)
    }

    fn apply(&mut self, mut archive: Archive<'_>) -> Result<()> {
        let mut layer = HashSet::new();
        while let Some(entry) = archive.next_entry()? {
            self.count(entry.size)?;
            let Some((parents, name)) = tree::split(&entry.path)? else {
                self.folders.insert(PathBuf::new(), Metadata::of_entry(&entry));
                continue;
            };
            let folder = tree::open_parent(&self.root, &parents, &entry.path)?;
            let parent: PathBuf = parents.iter().collect();
            match whiteout(&name) {
                Some(Whiteout::Opaque) => self.hide_all(&parent, &layer)?,
                Some(Whiteout::Name(hidden)) => {
                    if !layer.contains(&key(&parent.join(hidden))) {
                        self.clear(&folder, &parent, hidden)?;
                    }
                }
                None => {
                    self.create(&folder, &parent, &name, &entry, &mut archive)?;
                    // Whose path is known, its ancestors are.
                    let path = parent.join(&name);
                    path.ancestors()
                        .map(key)
                        .take_while(|key| layer.insert(*key))
                        .for_each(drop);
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, size: u64) -> Result<()> {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(size);
        let limit = |what: &str, limit: String| {
            Err(Error::Limit {
                what: what.into(),
                limit,
            })
        };
        if self.entries > ENTRIES_MAX {
            return limit("the number of entries", format!("{ENTRIES_MAX}"));
        }
        if self.bytes > UNPACKED_BYTES_MAX {
            return limit("the unpacked size", format!("{UNPACKED_BYTES_MAX} bytes"));
        }
        Ok(())
    }

    fn create(
        &mut self,
        folder: &OwnedFd,
        parent: &Path,
        name: &OsStr,
        entry: &Entry,
        archive: &mut Archive<'_>,
    ) -> Result<()> {
        let path = parent.join(name);
        let metadata = Metadata::of_entry(entry);
        let failed = |errno: Errno| Error::io("create", &path, errno);
        match entry.kind {
            EntryKind::Directory => {
                if !is_folder(folder, name) {
                    self.clear(folder, parent, name)?;
                    mkdirat(folder, name, Mode::S_IRWXU).map_err(failed)?;
                }
                self.folders.insert(path, metadata);
            }
            EntryKind::File => {
                let stored = self.store_file(entry, &metadata, archive)?;
                self.clear(folder, parent, name)?;
                self.place_file(stored, folder, name)?;
            }
            EntryKind::HardLink => self.hard_link(folder, parent, name, entry)?,
            EntryKind::Symlink => {
                self.clear(folder, parent, name)?;
                symlinkat(OsStr::from_bytes(&entry.link), folder, name).map_err(failed)?;
                set_link_metadata(folder, name, &metadata).map_err(failed)?;
            }
            EntryKind::Fifo => {
                self.clear(folder, parent, name)?;
                mkfifoat(folder, name, metadata.mode()).map_err(failed)?;
                set_link_metadata(folder, name, &metadata).map_err(failed)?;
            }
            EntryKind::Device => {}
        }
        Ok(())
    }

    /// Writes the content to a temporary file while it is hashed, and makes an object of it or finds the one there is.
    fn store_file(
        &mut self,
        entry: &Entry,
        metadata: &Metadata,
        archive: &mut Archive<'_>,
    ) -> Result<Stored> {
        let path = &self.temporary;
        let failed = |error: io::Error| Error::io("write", tree::shown(&entry.path), error);
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        let mut hasher = metadata.hasher(entry.size);
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let read = match archive.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => return Err(Error::Stream(error)),
            };
            hasher.update(&buffer[..read]);
            // What is zero need not be written: a sparse file stays one, and flash is spared.
            if buffer[..read].iter().all(|&byte| byte == 0) {
                (&file).seek(SeekFrom::Current(read as i64)).map_err(failed)?;
            } else {
                (&file).write_all(&buffer[..read]).map_err(failed)?;
            }
        }
        // A hole at the end is there only with this.
        if (&file).stream_position().map_err(failed)? > file.metadata().map_err(failed)?.len() {
            file.set_len(entry.size).map_err(failed)?;
        }
        metadata
            .apply(file.as_fd())
            .map_err(|errno| failed(errno.into()))?;
        Ok(Stored {
            name: hasher.finalize().into(),
            size: entry.size,
            inode: file.metadata().map_err(failed)?.ino(),
        })
    }

    /// Gives a stored file its place, sharing the object that has the same content and metadata.
    fn place_file(&mut self, stored: Stored, folder: &OwnedFd, name: &OsStr) -> Result<()> {
        let hex = Digest::from_bytes(stored.name).hex();
        let fan = self.objects.join(&hex[..2]);
        let object = fan.join(&hex[2..]);
        match fs::create_dir(&fan) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io("create", &fan, error));
            }
            _ => {}
        }
        let link_to = |from: &Path| linkat(AT_FDCWD, from, folder, name, AtFlags::empty());
        let mut inode = stored.inode;
        match fs::symlink_metadata(&object) {
            // Another image has it too: then it was on the disk before that image got its name.
            Ok(found) if found.nlink() > 1 && found.len() == stored.size && link_to(&object).is_ok() => {
                inode = found.ino();
                fs::remove_file(&self.temporary).map_err(Error::at("remove", &self.temporary))?;
            }
            // None, garbage of an interrupted import whose content cannot be relied upon, or one that has as many links as the file system allows.
            _ => {
                link_to(&self.temporary).map_err(Error::at("create", name))?;
                fs::rename(&self.temporary, &object).map_err(Error::at("create", &object))?;
            }
        }
        self.files.push((inode, stored.name));
        Ok(())
    }

    fn hard_link(&mut self, folder: &OwnedFd, parent: &Path, name: &OsStr, entry: &Entry) -> Result<()> {
        let refused = |why: String| Error::Entry {
            entry: tree::shown(&entry.path),
            why,
        };
        let target = || tree::shown(&entry.link);
        let split = tree::split(&entry.link)
            .map_err(|_| refused(format!("it is a hard link out of the image, to `{}`", target())))?;
        let (parents, last) =
            split.ok_or_else(|| refused("it is a hard link to the root directory".into()))?;
        let target_parent: PathBuf = parents.iter().collect();
        if target_parent == parent && last == name {
            return Ok(());
        }
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY;
        let missing = |errno| {
            refused(format!(
                "it is a hard link to `{}`, which is not in the image ({errno})",
                target()
            ))
        };
        let target_folder = tree::open(&self.root, tree::at_root(&target_parent), flags).map_err(missing)?;
        fstatat(&target_folder, last.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW).map_err(missing)?;
        self.clear(folder, parent, name)?;
        match linkat(&target_folder, last.as_os_str(), folder, name, AtFlags::empty()) {
            Err(Errno::EPERM) => Err(refused(format!(
                "it is a hard link to `{}`, which is a directory",
                target()
            ))),
            Err(Errno::ENOENT) => Err(missing(Errno::ENOENT)),
            other => other.map_err(Error::at("create", parent.join(name))),
        }?;
        self.keep_link([&parent.join(name), &target_parent.join(&last)])
    }

    /// That two names are one file cannot be seen in the store, which shares equal files: it is written down.
    fn keep_link(&mut self, names: [&Path; 2]) -> Result<()> {
        let failed = |path: &Path| Error::at::<io::Error>("write", path.to_owned());
        let links = match &mut self.links {
            Some(links) => links,
            none => {
                let file = File::create(&self.links_path).map_err(failed(&self.links_path))?;
                none.insert(BufWriter::new(file))
            }
        };
        for name in names {
            let written = links
                .write_all(name.as_os_str().as_bytes())
                .and_then(|()| links.write_all(&[0]));
            written.map_err(failed(&self.links_path))?;
        }
        Ok(())
    }

    /// Makes room for a new entry.
    fn clear(&mut self, folder: &OwnedFd, parent: &Path, name: &OsStr) -> Result<()> {
        if is_folder(folder, name) {
            let path = parent.join(name);
            // What lies below a path follows it in the map: no walk over all of it for each entry of an archive that replaces many.
            let below = self
                .folders
                .range(path.clone()..)
                .map(|(folder, _)| folder.clone());
            let below: Vec<_> = below.take_while(|folder| folder.starts_with(&path)).collect();
            below.iter().for_each(|folder| drop(self.folders.remove(folder)));
        }
        tree::remove_at(folder, name)
    }

    /// An opaque whiteout: removes what earlier layers have put into a directory, wherever in this layer's archive it stands.
    fn hide_all(&mut self, path: &Path, layer: &HashSet<u64>) -> Result<()> {
        let folder = match tree::open(
            &self.root,
            tree::at_root(path),
            OFlag::O_DIRECTORY | OFlag::O_RDONLY,
        ) {
            Err(Errno::ENOENT) => return Ok(()),
            other => other.map_err(Error::at("open", path))?,
        };
        let here = tree::at(&folder, OsStr::new("."));
        for entry in super::entries(&here)? {
            let name: OsString = entry.file_name().unwrap_or_default().into();
            let below = path.join(&name);
            if !layer.contains(&key(&below)) {
                self.clear(&folder, path, &name)?;
            } else if is_folder(&folder, &name) {
                self.hide_all(&below, layer)?;
            }
        }
        Ok(())
    }
}

/// A file whose content is on its way into the objects.
struct Stored {
    name: [u8; 32],
    size: u64,
    inode: u64,
}

/// The list that `verify` reads.
struct List<'a> {
    out: BufWriter<File>,
    path: &'a Path,
    summary: Summary,
}

impl List<'_> {
    fn add(&mut self, name: &Digest, size: u64, path: &Path) -> Result<()> {
        self.summary.files += 1;
        self.summary.size_bytes += size;
        let head = write!(self.out, "{} {size} ", name.hex());
        let written = head
            .and_then(|()| self.out.write_all(path.as_os_str().as_bytes()))
            .and_then(|()| self.out.write_all(&[0]));
        written.map_err(Error::at("write", self.path))
    }
}

enum Whiteout<'a> {
    Opaque,
    Name(&'a OsStr),
}

/// OCI image-spec layer.md, "Whiteouts".
fn whiteout(name: &OsStr) -> Option<Whiteout<'_>> {
    let hidden = name.as_bytes().strip_prefix(b".wh.")?;
    if hidden == b".wh..opq" {
        return Some(Whiteout::Opaque);
    }
    // AUFS bookkeeping (`.wh..wh.plnk` and such) hides a name that no layer has; `.wh.` alone or `.wh...` would hide the directory itself.
    if matches!(hidden, b"" | b"." | b"..") {
        None
    } else {
        Some(Whiteout::Name(OsStr::from_bytes(hidden)))
    }
}

fn key(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

fn is_folder(folder: &OwnedFd, name: &OsStr) -> bool {
    let stat = fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW);
    stat.is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR)
}

/// Owner and time of what cannot be opened.
pub(super) fn set_link_metadata(folder: &OwnedFd, name: &OsStr, metadata: &Metadata) -> nix::Result<()> {
    if geteuid().is_root() {
        let (uid, gid) = metadata.owner();
        fchownat(folder, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    }
    let mtime = metadata.mtime();
    utimensat(folder, name, &mtime, &mtime, UtimensatFlags::NoFollowSymlink)
}

/// Tells how much has been read.
struct Watched<'a, R> {
    inner: R,
    read: u64,
    told: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read += count as u64;
        if self.read - self.told >= PROGRESS_BYTES || (count == 0 && self.read > self.told) {
            self.told = self.read;
            (self.progress)(self.read);
        }
        Ok(count)
    }
}
