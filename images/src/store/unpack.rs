//! Applies layers to a tree, one after another, each read once as a stream.
//!
//! Memory does not grow, neither with the size of files nor with their number: what must be known of every entry goes on in files (table.rs).

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fstat, fstatat, futimens, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{fchownat, geteuid, linkat, mkfifoat, symlinkat};
use sha2::Digest as _;

use super::nodes::{Kind, NODES, Node, NodeList};
use super::object::{Metadata, read_xattrs};
use super::table::{EMPTY, Queue, Table, Value};
use super::verify::LAYERS;
use super::{Summary, WINDOW, drain, tree};
use crate::decompress::decompressed;
use crate::oci::Descriptor;
use crate::source::Blob;
use crate::tar_stream::{Entry, EntryKind, PATH_BYTES_MAX, Sequential, TarStream};
use crate::{Digest, Error, HashingReader, Result};

/// Entries of all layers together. A full desktop has some 300,000 files; it bounds the files that table.rs writes.
const ENTRIES_MAX: u64 = 1_000_000;

/// Bytes of all files together: more than any card of such a board holds of one image, and an end for what never ends.
const UNPACKED_BYTES_MAX: u64 = 64 << 30;

/// Bytes of the archives of all layers together: of the files, and of each entry's headers, which are 4 KiB in the mean at most. What else an archive may have,
/// such as data of directories, comes to an end with this.
const ARCHIVE_BYTES_MAX: u64 = UNPACKED_BYTES_MAX + 4096 * ENTRIES_MAX;

/// Bytes after the end of the archive within a layer: tar pads to records of 10 KiB, some tools to more.
const TRAILER_BYTES_MAX: u64 = 1 << 20;

/// Piece in which file contents pass through.
pub(super) const COPY_BYTES: usize = 64 * 1024;

/// Bytes between two calls of `progress`.
const PROGRESS_BYTES: u64 = 128 << 10;

/// A tree that layers are applied to.
pub struct Unpacker {
    root: Rc<OwnedFd>,
    staging: PathBuf,
    temporary: PathBuf,
    objects: PathBuf,
    /// Which folders of objects are there for certain, by the first byte of the objects' names.
    fans: [bool; 256],
    /// By inode, of each regular file its object's name and its layer's number, of each directory the time that it gets when nothing is put into it any more. What is replaced
    /// leaves its inode to what is made next, which is entered anew.
    inodes: Table,
    /// The directory that the last entry lies in: most entries follow their neighbours.
    last_folder: Option<(Vec<OsString>, Rc<OwnedFd>)>,
    /// The list of hard links, once there is one: both names of each.
    links: Option<BufWriter<File>>,
    links_path: PathBuf,
    buffer: Box<[u8]>,
    /// Layers that were begun.
    layers: u16,
    total: Total,
    /// Of those that were begun.
    archive_bytes: u64,
}

/// The archive inside a layer.
impl Unpacker {
    /// An empty tree in a staging folder.
    pub fn new(staging: &Path, objects: &Path) -> Result<Self> {
        let mut unpacker = Self {
            root: Rc::new(tree::make_folder(&staging.join("rootfs"))?),
            staging: staging.into(),
            temporary: staging.join("file"),
            objects: objects.into(),
            fans: [false; 256],
            inodes: Table::new(staging.join("inodes"), INODE_VALUE_BYTES),
            last_folder: None,
            links: None,
            links_path: staging.join(super::LINKS),
            buffer: vec![0; COPY_BYTES].into(),
            layers: 0,
            total: Total::default(),
            archive_bytes: 0,
        };
        let root = unpacker.root.clone();
        unpacker.give(&root, &Metadata::of_implied_folder(), Path::new(""))?;
        Ok(unpacker)
    }

    /// Applies one layer, and only then compares its digests: staging is thrown away when they are wrong.
    pub fn layer(
        &mut self,
        blob: Blob,
        descriptor: &Descriptor,
        diff_id: &Digest,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        self.layers = self.layers.saturating_add(1);
        let mut blob = HashingReader::new(Watched {
            inner: blob,
            read: 0,
            told: 0,
            progress,
        });
        let mut unpacked = HashingReader::new(Bounded {
            inner: decompressed(Box::new(&mut blob), descriptor, self.staging.join(WINDOW))?,
            left: ARCHIVE_BYTES_MAX - self.archive_bytes,
        });
        let applied = self.apply(TarStream::new(Sequential(&mut unpacked)));
        // Damage upsets the archive first; that the layer is damaged is what its reader must know.
        let drained = drain(&mut unpacked, TRAILER_BYTES_MAX).map_err(Error::Stream);
        let (archive_bytes, actual_diff_id) = unpacked.finish();
        self.archive_bytes += archive_bytes;
        // A stream that failed tells why here, before what follows from that.
        drain(&mut blob, u64::MAX).map_err(Error::stream)?;
        let (_, actual) = blob.finish();
        let mismatch = |what: &str, expected: &Digest, actual| {
            Box::new(Error::Mismatch {
                what: what.into(),
                expected: *expected,
                actual,
            })
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

    /// Gives directories their times, lists all that is there for `verify`, and counts files.
    pub fn finish(mut self, list: &Path) -> Result<Summary> {
        let file = File::create(list).map_err(Error::at("create", list))?;
        let layers = self.staging.join(LAYERS);
        let mut list = List {
            out: BufWriter::new(file),
            path: list,
            summary: Summary::default(),
            layers: BufWriter::new(File::create(&layers).map_err(Error::at("create", &layers))?),
            nodes: NodeList::make(self.staging.join(NODES))?,
        };
        let mut folders = Queue::make(&self.staging.join("folders"))?;
        folders.push(Path::new(""))?;
        while let Some(path) = folders.pop()? {
            self.list_folder(&path, &mut folders, &mut list)?;
        }
        if let Some(links) = &mut self.links {
            links.flush().map_err(Error::at("write", &self.links_path))?;
        }
        list.out
            .flush()
            .and_then(|()| list.layers.flush())
            .map_err(Error::at("write", list.path))?;
        list.nodes.finish()?;
        Ok(list.summary)
    }

    /// Lists the files of a directory, and leaves the directories in it for later.
    fn list_folder(&mut self, path: &Path, folders: &mut Queue, list: &mut List<'_>) -> Result<()> {
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
                }
                .into());
            }
            other => other.map_err(Error::at("open", path))?,
        };
        let inode = fstat(&folder).map_err(Error::at("look at", path))?.st_ino;
        let time = time_of(self.inodes.get(inode)?.unwrap_or(EMPTY));
        futimens(&folder, &time, &time).map_err(Error::at("set the time of", path))?;
        let failed = |error| Error::io("list", path, error);
        let found = tree::as_file(&folder, path)?.metadata().map_err(failed)?;
        let xattrs = read_xattrs(folder.as_fd(), geteuid().is_root()).map_err(failed)?;
        let metadata = Metadata::of_link(&found).with_xattrs(xattrs);
        list.add_node(Kind::Directory, metadata, path, OsStr::new(""))?;
        for entry in fs::read_dir(tree::at(&folder, OsStr::new("."))).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let below = path.join(entry.file_name());
            let found = entry.metadata().map_err(Error::at("look at", &below))?;
            match Kind::of(found.file_type()) {
                Some(Kind::Directory) => folders.push(&below)?,
                Some(Kind::Symlink) => {
                    let target = fs::read_link(entry.path()).map_err(Error::at("read", &below))?;
                    list.add_node(
                        Kind::Symlink,
                        Metadata::of_link(&found),
                        &below,
                        target.as_os_str(),
                    )?;
                }
                Some(Kind::Fifo) => {
                    list.add_node(Kind::Fifo, Metadata::of_link(&found), &below, OsStr::new(""))?;
                }
                None => {
                    let object = self.inodes.get(found.ino())?;
                    let object = object
                        .ok_or_else(|| Error::malformed("the tree", "it has a file that was not unpacked"))?;
                    list.add(&object, found.len(), &below)?;
                }
            }
        }
        Ok(())
    }

    fn apply(&mut self, mut archive: TarStream<'_>) -> Result<()> {
        // What this layer has made, by the hashes of its paths: a whiteout does not hide it. The first layer has nothing to hide.
        let mut layer = (self.total.entries > 0).then(|| Table::new(self.staging.join("layer"), 0));
        while let Some(entry) = archive.next_entry()? {
            self.total.add(entry.size)?;
            let Some((parents, name)) = tree::split(&entry.path)? else {
                let root = self.root.clone();
                self.give_again(&root, &Metadata::of_entry(&entry), Path::new(""))?;
                continue;
            };
            let folder = self.open_parent(&parents, &entry.path)?;
            let parent: PathBuf = parents.iter().collect();
            match (whiteout(&name), &mut layer) {
                (Some(_), None) => {}
                (Some(Whiteout::Opaque), Some(layer)) => self.hide_all(&parent, layer)?,
                (Some(Whiteout::Name(hidden)), Some(layer)) => {
                    if !layer.has(key(&parent.join(hidden)))? {
                        self.clear(&folder, hidden)?;
                    }
                }
                (None, layer) => {
                    self.create(&folder, &parent, &name, &entry, &mut archive)?;
                    let Some(layer) = layer else { continue };
                    let path = parent.join(&name);
                    for path in path.ancestors() {
                        // Whose path is known, its ancestors are.
                        if !layer.put(key(path), EMPTY)? {
                            break;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The directory an entry lies in; what is missing of its path is made.
    fn open_parent(&mut self, parents: &[OsString], entry: &[u8]) -> Result<Rc<OwnedFd>> {
        if let Some((_, folder)) = self.last_folder.as_ref().filter(|(path, _)| path == parents) {
            return Ok(folder.clone());
        }
        let root = self.root.clone();
        let folder = tree::open_parent(&root, parents, entry, &mut |made, path| {
            self.give(made, &Metadata::of_implied_folder(), path)
        })?;
        let folder = Rc::new(folder);
        self.last_folder = Some((parents.to_vec(), folder.clone()));
        Ok(folder)
    }

    /// Gives a new directory its metadata; its time again when all is in it.
    fn give(&mut self, folder: &OwnedFd, metadata: &Metadata, path: &Path) -> Result<()> {
        metadata
            .apply(folder.as_fd())
            .map_err(Error::at("set the metadata of", path))?;
        let inode = fstat(folder).map_err(Error::at("look at", path))?.st_ino;
        self.inodes.put(inode, value_of(metadata.mtime_parts())).map(drop)
    }

    /// The same for one that may have other metadata.
    fn give_again(&mut self, folder: &OwnedFd, metadata: &Metadata, path: &Path) -> Result<()> {
        metadata
            .remove_others(folder.as_fd())
            .map_err(Error::at("set the metadata of", path))?;
        self.give(folder, metadata, path)
    }

    fn create(
        &mut self,
        folder: &OwnedFd,
        parent: &Path,
        name: &OsStr,
        entry: &Entry,
        archive: &mut TarStream<'_>,
    ) -> Result<()> {
        let path = parent.join(name);
        let metadata = Metadata::of_entry(entry);
        let failed = |errno: Errno| Error::io("create", &path, errno);
        match entry.kind {
            EntryKind::Directory => {
                let is_there = is_folder(folder, name);
                if !is_there {
                    self.clear(folder, name)?;
                    mkdirat(folder, name, Mode::S_IRWXU).map_err(failed)?;
                }
                let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_NOFOLLOW;
                let made = tree::open(folder, Path::new(name), flags).map_err(failed)?;
                match is_there {
                    true => self.give_again(&made, &metadata, &path)?,
                    false => self.give(&made, &metadata, &path)?,
                }
            }
            EntryKind::File => {
                let stored = self.store_file(entry, &metadata, archive)?;
                self.place_file(stored, folder, name)?;
            }
            EntryKind::HardLink => self.hard_link(folder, parent, name, entry)?,
            EntryKind::Symlink => {
                self.clear(folder, name)?;
                symlinkat(OsStr::from_bytes(&entry.link), folder, name).map_err(failed)?;
                set_link_metadata(folder, name, &metadata).map_err(failed)?;
            }
            EntryKind::Fifo => {
                self.clear(folder, name)?;
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
        archive: &mut TarStream<'_>,
    ) -> Result<Stored> {
        let failed = |error: io::Error| Error::io("write", tree::shown(&entry.path), error);
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.temporary)
            .map_err(failed)?;
        let mut hasher = metadata.hasher(entry.size);
        let (mut position, mut written) = (0, 0);
        loop {
            let read = match archive.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => return Err(Error::stream(error)),
            };
            let piece = &self.buffer[..read];
            hasher.update(piece);
            // What is zero need not be written: a sparse file stays one, and flash is spared.
            if piece.iter().any(|&byte| byte != 0) {
                file.write_all_at(piece, position).map_err(failed)?;
                written = position + read as u64;
            }
            position += read as u64;
        }
        // A hole at the end is there only with this.
        if position > written {
            file.set_len(position).map_err(failed)?;
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
        if !std::mem::replace(&mut self.fans[usize::from(stored.name[0])], true) {
            match fs::create_dir(&fan) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Error::io("create", &fan, error));
                }
                _ => {}
            }
        }
        // Another image may have it too: then it was on the disk before that image got its name.
        let shared = fs::symlink_metadata(&object)
            .ok()
            .filter(|found| found.nlink() > 1 && found.len() == stored.size);
        let shared = shared.filter(|_| self.link(&object, folder, name).is_ok());
        let inode = match shared {
            Some(found) => {
                fs::remove_file(&self.temporary).map_err(Error::at("remove", &self.temporary))?;
                found.ino()
            }
            // None, garbage of an interrupted import whose content cannot be relied upon, or one that has as many links as the file system allows.
            None => {
                let temporary = self.temporary.clone();
                self.link(&temporary, folder, name)?;
                fs::rename(&self.temporary, &object).map_err(Error::at("create", &object))?;
                stored.inode
            }
        };
        let value = object_value(stored.name, self.layers.saturating_sub(1));
        self.inodes.put(inode, value).map(drop)
    }

    /// One more name for a file, in the place of what may be there.
    fn link(&mut self, from: &Path, folder: &OwnedFd, name: &OsStr) -> Result<()> {
        let link = || linkat(AT_FDCWD, from, folder, name, AtFlags::empty());
        match link() {
            Err(Errno::EEXIST) => {
                self.clear(folder, name)?;
                link()
            }
            other => other,
        }
        .map_err(Error::at("create", name))
    }

    fn hard_link(&mut self, folder: &OwnedFd, parent: &Path, name: &OsStr, entry: &Entry) -> Result<()> {
        let refused = |why: String| {
            Box::new(Error::Entry {
                entry: tree::shown(&entry.path),
                why,
            })
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
        self.clear(folder, name)?;
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
    fn clear(&mut self, folder: &OwnedFd, name: &OsStr) -> Result<()> {
        self.last_folder = None;
        tree::remove_at(folder, name)
    }

    /// An opaque whiteout: removes what earlier layers have put into a directory, wherever in this layer's archive it stands.
    fn hide_all(&mut self, path: &Path, layer: &mut Table) -> Result<()> {
        let folder = match tree::open(
            &self.root,
            tree::at_root(path),
            OFlag::O_DIRECTORY | OFlag::O_RDONLY,
        ) {
            Err(Errno::ENOENT) => return Ok(()),
            other => other.map_err(Error::at("open", path))?,
        };
        let failed = |error| Error::io("list", path, error);
        // What is removed meanwhile does not move what is still to come (readdir(3p)).
        for entry in fs::read_dir(tree::at(&folder, OsStr::new("."))).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let below = path.join(&name);
            if !layer.has(key(&below))? {
                self.clear(&folder, &name)?;
            } else if is_folder(&folder, &name) {
                self.hide_all(&below, layer)?;
            }
        }
        Ok(())
    }
}

/// What all layers together have so far, by what their headers say: it is counted before any of it is written.
#[derive(Default)]
struct Total {
    entries: u64,
    bytes: u64,
}

impl Total {
    fn add(&mut self, size: u64) -> Result<()> {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(size);
        let limit = |what: &str, limit: String| {
            Err(Box::new(Error::Limit {
                what: what.into(),
                limit,
            }))
        };
        if self.entries > ENTRIES_MAX {
            return limit("the number of entries", format!("{ENTRIES_MAX}"));
        }
        if self.bytes > UNPACKED_BYTES_MAX {
            return limit("the unpacked size", format!("{UNPACKED_BYTES_MAX} bytes"));
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

/// The lists that `verify` reads.
struct List<'a> {
    out: BufWriter<File>,
    path: &'a Path,
    summary: Summary,
    /// A number for each record of `out`.
    layers: BufWriter<File>,
    nodes: NodeList,
}

impl List<'_> {
    fn add_node(&mut self, kind: Kind, metadata: Metadata, path: &Path, target: &OsStr) -> Result<()> {
        self.nodes.add(&Node {
            kind,
            metadata,
            path,
            target,
            knows_xattrs: kind == Kind::Directory,
        })
    }

    fn add(&mut self, object: &Value, size: u64, path: &Path) -> Result<()> {
        self.summary.files += 1;
        self.summary.size_bytes += size;
        let (name, layer) = object
            .split_first_chunk()
            .expect("a name is shorter than a value");
        let head = write!(self.out, "{} {size} ", Digest::from_bytes(*name).hex());
        let written = head
            .and_then(|()| self.out.write_all(path.as_os_str().as_bytes()))
            .and_then(|()| self.out.write_all(&[0]))
            .and_then(|()| self.layers.write_all(layer));
        written.map_err(Error::at("write", self.path))
    }
}

/// Bytes of what is known of an inode: the name of an object, and the number of its layer.
const INODE_VALUE_BYTES: usize = 34;

/// A file's object and layer.
fn object_value(name: [u8; 32], layer: u16) -> Value {
    let mut value = EMPTY;
    value[..32].copy_from_slice(&name);
    value[32..].copy_from_slice(&layer.to_le_bytes());
    value
}

/// A directory's time among the names of objects.
fn value_of((seconds, nanoseconds): (i64, u32)) -> Value {
    let mut value = EMPTY;
    value[..8].copy_from_slice(&seconds.to_le_bytes());
    value[8..12].copy_from_slice(&nanoseconds.to_le_bytes());
    value
}

fn time_of(value: Value) -> TimeSpec {
    let part = |bytes: &[u8]| {
        let mut whole = [0; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        i64::from_le_bytes(whole)
    };
    // Seconds beyond 32 bits are cut on boards whose time_t has no more.
    TimeSpec::new(part(&value[..8]) as _, part(&value[8..12]) as _)
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

/// What stands for a path where all paths would be too many.
pub(super) fn key(path: &Path) -> u64 {
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

/// Fails beyond a number of bytes.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let left = self.left.checked_sub(count as u64);
        self.left = left.ok_or_else(|| {
            io::Error::other(Error::Limit {
                what: "the length of the layers' archives".into(),
                limit: format!("{ARCHIVE_BYTES_MAX} bytes"),
            })
        })?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::media_type;

    #[test]
    fn what_is_passed_over_is_bounded_too() {
        let mut header = tar::Header::new_ustar();
        header.set_path("d/").unwrap();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(2048);
        header.set_cksum();
        let archive = [header.as_bytes().as_slice(), &[0; 2048 + 1024]].concat();
        let descriptor = Descriptor::of(media_type::LAYER, &archive);
        let after = |bytes: u64| {
            let folder = tempfile::tempdir().unwrap();
            let mut unpacker = Unpacker::new(folder.path(), folder.path()).unwrap();
            unpacker.archive_bytes = bytes;
            let blob = Blob::of_bytes(&archive);
            unpacker.layer(blob, &descriptor, &Digest::of(&archive), &mut |_| {})
        };
        let left = ARCHIVE_BYTES_MAX - archive.len() as u64;
        after(left).unwrap();
        let error = after(left + 1).unwrap_err().to_string();
        assert!(
            error.contains("the length of the layers' archives is over the limit of 72815476736 bytes"),
            "{error}"
        );
    }

    #[test]
    fn an_image_may_have_as_much_as_the_limits_say_and_no_more() {
        let refused = |outcome: Result<()>| outcome.unwrap_err().to_string();
        let mut total = Total::default();
        for _ in 0..ENTRIES_MAX {
            total.add(0).unwrap();
        }
        let error = refused(total.add(0));
        assert!(
            error.contains("the number of entries") && error.contains("1000000"),
            "{error}"
        );
        // Of several files, whose sum passes the largest number in the end.
        let mut total = Total::default();
        total.add(UNPACKED_BYTES_MAX - 5).unwrap();
        total.add(5).unwrap();
        total.add(0).unwrap();
        for size in [1, u64::MAX, u64::MAX] {
            let error = refused(total.add(size));
            assert!(
                error.contains("the unpacked size") && error.contains("68719476736 bytes"),
                "{error}"
            );
        }
    }
}
