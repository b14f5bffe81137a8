//! Trees on the disk: an image's files, what a RUN has written into the upper directory of an overlay, and layers of ours unpacked to go below one.
//!
//! Everything is opened below a descriptor (openat2(2)), links never followed. In an upper directory overlayfs marks what is gone: a character
//! device 0:0 for a name, an attribute for a directory of which nothing shows through.
//! <https://docs.kernel.org/filesystems/overlayfs.html>

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, geteuid, symlinkat, unlinkat};

use super::layer::{Body, Layer, Meta};
use super::tree::{Node, NodeKind, Tree};
use crate::decompress::gunzip;
use crate::store::{Metadata, read_xattrs, tree};
use crate::tar_stream::{EntryKind, Sequential, TarStream};
use crate::{Error, Result};

/// Directories in directories: as deep as a path can be.
const DEPTH_MAX: usize = 2048;

/// Entries of one tree: what the store takes of an image.
const ENTRIES_MAX: usize = 1_000_000;

/// A directory whose files are read.
pub struct Disk {
    root: OwnedFd,
    path: PathBuf,
}

/// One entry of it.
struct Entry {
    stat: FileStat,
    kind: Kind,
}

enum Kind {
    Folder {
        opaque: bool,
    },
    File,
    Link(PathBuf),
    Fifo,
    /// Something that a lower layer has is gone.
    Whiteout,
    /// A device or a socket, which no layer has.
    Other,
}

impl Disk {
    /// Opens it.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self {
            root: tree::open_folder(path)?,
            path: path.into(),
        })
    }

    /// Opens a regular file in it.
    pub fn read(&self, path: &Path) -> Result<File> {
        let fd = self.readable(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, 0o400)?;
        Ok(File::from(fd))
    }

    /// Enters everything into a stage's tree: what is there, and what is there no more.
    pub fn enter_into(&self, tree: &mut Tree, layer: usize) -> Result<()> {
        self.visit(&mut |path, entry| {
            let Some(name) = path.to_str() else { return Ok(()) };
            let kind = match &entry.kind {
                Kind::Whiteout => {
                    tree.remove(name);
                    return Ok(());
                }
                Kind::Folder { opaque } => {
                    if *opaque || !tree.has_folder(name) {
                        tree.remove_below(name);
                    }
                    NodeKind::Folder
                }
                Kind::File => NodeKind::File,
                Kind::Link(target) => NodeKind::Link(target.to_string_lossy().into_owned()),
                Kind::Fifo | Kind::Other => NodeKind::Other,
            };
            if kind != NodeKind::Folder {
                tree.remove_below(name);
            }
            let node = Node {
                kind,
                mode: entry.stat.st_mode & 0o7777,
                owner: owner(&entry.stat),
                layer,
            };
            tree.set(name.to_owned(), node);
            Ok(())
        })
    }

    /// Writes everything as entries of a layer. Times later than `mtime_max` become that.
    pub fn write(&self, layer: &mut Layer, mtime_max: u64) -> Result<()> {
        let mut written: HashMap<(u64, u64), PathBuf> = HashMap::new();
        self.visit(&mut |path, entry| {
            let mtime = u64::try_from(entry.stat.st_mtime).unwrap_or(0);
            let mut meta = Meta {
                mode: entry.stat.st_mode & 0o7777,
                owner: owner(&entry.stat),
                mtime: mtime.min(mtime_max),
                xattrs: Vec::new(),
            };
            let marker = |name: &[u8]| {
                let name = [b".wh.", name].concat();
                path.with_file_name(OsStr::from_bytes(&name))
            };
            if !matches!(entry.kind, Kind::Whiteout) {
                super::refuse_whiteout(&path.to_string_lossy())?;
            }
            match &entry.kind {
                Kind::Other => Ok(()),
                Kind::Whiteout => {
                    let name = path.file_name().unwrap_or_default().as_bytes();
                    layer.append(&marker(name), &Meta::default(), Body::File(&mut io::empty(), 0))
                }
                Kind::Link(target) => layer.append(path, &meta, Body::Symlink(target)),
                Kind::Fifo => layer.append(path, &meta, Body::Fifo),
                Kind::Folder { opaque } => {
                    meta.xattrs = self.attributes(path, OFlag::O_DIRECTORY, 0o500)?;
                    layer.append(path, &meta, Body::Folder)?;
                    if *opaque {
                        let marker = path.join(".wh..wh..opq");
                        layer.append(&marker, &Meta::default(), Body::File(&mut io::empty(), 0))?;
                    }
                    Ok(())
                }
                Kind::File => {
                    #[allow(clippy::useless_conversion, reason = "narrower on 32-bit boards")]
                    let inode = (u64::from(entry.stat.st_dev), u64::from(entry.stat.st_ino));
                    let shared = entry.stat.st_nlink > 1;
                    if let Some(first) = written.get(&inode).filter(|_| shared) {
                        return layer.append(path, &meta, Body::HardLink(first));
                    }
                    meta.xattrs = self.attributes(path, OFlag::empty(), 0o400)?;
                    let size = u64::try_from(entry.stat.st_size).unwrap_or(0);
                    layer.append(path, &meta, Body::File(&mut self.read(path)?, size))?;
                    if shared {
                        written.insert(inode, path.to_owned());
                    }
                    Ok(())
                }
            }
        })
    }

    /// Removes what a step has not done but its set-up: mount points that were not there before, and directories that are in the
    /// upper one only because of them.
    pub fn tidy(&self, before: &Tree, mounted: &[String]) -> Result<()> {
        let mut candidates = BTreeSet::new();
        for destination in mounted {
            let path = destination.trim_matches('/');
            candidates.insert(path.to_owned());
            candidates.extend(Tree::parents(path).map(str::to_owned));
        }
        candidates.remove("");
        // The deepest first: a directory may be empty once what is in it is gone.
        for path in candidates.iter().rev() {
            let at = Path::new(path);
            let Some(entry) = self.entry(at)? else { continue };
            let removed = match (&entry.kind, before.get(path)) {
                (Kind::File, None) if entry.stat.st_size == 0 => self.remove(at, UnlinkatFlags::NoRemoveDir),
                (Kind::Folder { .. }, None) => self.remove(at, UnlinkatFlags::RemoveDir),
                (Kind::Folder { opaque: false }, Some(node)) if is_same(&entry.stat, node) => {
                    self.remove(at, UnlinkatFlags::RemoveDir)
                }
                _ => continue,
            };
            match removed {
                // Something else is in it.
                Err(Errno::ENOTEMPTY) => {}
                other => other.map_err(Error::at("remove", at))?,
            }
        }
        Ok(())
    }

    fn remove(&self, path: &Path, flags: UnlinkatFlags) -> nix::Result<()> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let folder = self.open_at(parent, OFlag::O_DIRECTORY | OFlag::O_PATH)?;
        unlinkat(&folder, path.file_name().unwrap_or_default(), flags)
    }

    /// True when nothing is in it.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.names(Path::new(""))?.is_empty())
    }

    /// Calls for every entry, a directory before what is in it, names in order.
    fn visit(&self, act: &mut dyn FnMut(&Path, &Entry) -> Result<()>) -> Result<()> {
        let mut seen = 0;
        self.visit_folder(Path::new(""), &mut seen, 0, act)
    }

    fn visit_folder(
        &self,
        folder: &Path,
        seen: &mut usize,
        depth: usize,
        act: &mut dyn FnMut(&Path, &Entry) -> Result<()>,
    ) -> Result<()> {
        for name in self.names(folder)? {
            let path = folder.join(OsStr::from_bytes(&name));
            *seen += 1;
            if *seen > ENTRIES_MAX || depth > DEPTH_MAX {
                return Err(Error::Limit {
                    what: self.path.display().to_string(),
                    limit: format!("{ENTRIES_MAX} entries, {DEPTH_MAX} levels"),
                }
                .into());
            }
            let Some(entry) = self.entry(&path)? else { continue };
            act(&path, &entry)?;
            if matches!(entry.kind, Kind::Folder { .. }) {
                self.visit_folder(&path, seen, depth + 1, act)?;
            }
        }
        Ok(())
    }

    fn names(&self, folder: &Path) -> Result<Vec<Vec<u8>>> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY;
        let fd = self.readable(folder, flags, 0o500)?;
        let mut names = Vec::new();
        let listed = fs::read_dir(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        for entry in listed.map_err(Error::at("list", self.path.join(folder)))? {
            let entry = entry.map_err(Error::at("list", self.path.join(folder)))?;
            names.push(entry.file_name().as_bytes().to_vec());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn entry(&self, path: &Path) -> Result<Option<Entry>> {
        let fd = match self.open_at(path, OFlag::O_PATH | OFlag::O_NOFOLLOW) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            other => other.map_err(Error::at("open", self.path.join(path)))?,
        };
        let stat = fstat(&fd).map_err(Error::at("look at", path))?;
        let kind = match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFDIR => Kind::Folder {
                opaque: self.is_opaque(path)?,
            },
            SFlag::S_IFREG => Kind::File,
            SFlag::S_IFLNK => Kind::Link(
                readlinkat(&fd, "")
                    .map_err(Error::at("read the link", path))?
                    .into(),
            ),
            SFlag::S_IFIFO => Kind::Fifo,
            SFlag::S_IFCHR if stat.st_rdev == 0 => Kind::Whiteout,
            _ => Kind::Other,
        };
        Ok(Some(Entry { stat, kind }))
    }

    fn is_opaque(&self, path: &Path) -> Result<bool> {
        let name = if geteuid().is_root() {
            c"trusted.overlay.opaque"
        } else {
            c"user.overlay.opaque"
        };
        let fd = self.readable(path, OFlag::O_DIRECTORY | OFlag::O_RDONLY, 0o500)?;
        let mut value = [0; 1];
        Ok(matches!(
            punnet_sys::fgetxattr(fd.as_fd(), name, &mut value),
            Ok(1) if value == *b"y"
        ))
    }

    fn attributes(&self, path: &Path, flags: OFlag, needed: u32) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let flags = flags | OFlag::O_RDONLY | OFlag::O_NONBLOCK;
        let fd = self.readable(path, flags, needed)?;
        read_xattrs(fd.as_fd(), geteuid().is_root()).map_err(Error::at("read the attributes of", path))
    }

    /// Opens what its owner may have forbidden to itself: an ordinary user's step can do that, and the mode stays what it is.
    fn readable(&self, path: &Path, flags: OFlag, needed: u32) -> Result<OwnedFd> {
        let shown = || self.path.join(path);
        match self.open_at(path, flags | OFlag::O_NOFOLLOW) {
            Err(Errno::EACCES) if !geteuid().is_root() => {}
            other => return other.map_err(Error::at("open", shown())),
        }
        let fd = self
            .open_at(path, OFlag::O_PATH | OFlag::O_NOFOLLOW)
            .map_err(Error::at("open", shown()))?;
        let mode = fstat(&fd).map_err(Error::at("look at", shown()))?.st_mode & 0o7777;
        let set = |mode: u32| {
            use std::os::unix::fs::PermissionsExt;
            let permissions = fs::Permissions::from_mode(mode);
            fs::set_permissions(format!("/proc/self/fd/{}", fd.as_raw_fd()), permissions)
                .map_err(Error::at("open", shown()))
        };
        set(mode | needed)?;
        let opened = self.open_at(path, flags | OFlag::O_NOFOLLOW);
        set(mode)?;
        opened.map_err(Error::at("open", shown()))
    }

    fn open_at(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let here = Path::new(".");
        let path = if path.as_os_str().is_empty() { here } else { path };
        tree::open(&self.root, path, flags)
    }
}

/// As an ordinary user's container has it: the user is root there.
fn owner(stat: &FileStat) -> (u32, u32) {
    if geteuid().is_root() {
        (stat.st_uid, stat.st_gid)
    } else {
        (0, 0)
    }
}

fn is_same(stat: &FileStat, node: &Node) -> bool {
    let same_owner = !geteuid().is_root() || node.owner == (stat.st_uid, stat.st_gid);
    node.kind == NodeKind::Folder && node.mode == stat.st_mode & 0o7777 && same_owner
}

/// Unpacks a layer that COPY has made to go below an overlay: it has no whiteouts and no hard links. The directories it lies in get what
/// the stage's tree says of them, for they cover those of the layers below.
pub fn unpack_below(blob: File, into: &Path, stage: &Tree) -> Result<()> {
    let root = tree::make_folder(into)?;
    let mut unpacked = gunzip(Box::new(blob));
    let mut archive = TarStream::new(Sequential(&mut unpacked));
    let mut folders: BTreeMap<PathBuf, (u32, (u32, u32))> = BTreeMap::new();
    while let Some(entry) = archive.next_entry()? {
        let Some((parents, name)) = tree::split(&entry.path)? else {
            continue;
        };
        let folder = tree::open_parent(&root, &parents, &entry.path, &mut |_, _| Ok(()))?;
        let mut path: PathBuf = parents.iter().collect();
        for parent in path.ancestors().filter(|parent| !parent.as_os_str().is_empty()) {
            let node = parent.to_str().and_then(|parent| stage.get(parent));
            let (mode, owner) = node.map_or((0o755, (0, 0)), |node| (node.mode, node.owner));
            folders.entry(parent.to_owned()).or_insert((mode, owner));
        }
        path.push(&name);
        let failed = |errno: Errno| Error::io("create", into.join(&path), errno);
        match entry.kind {
            EntryKind::Directory => {
                match mkdirat(&folder, name.as_os_str(), Mode::S_IRWXU) {
                    Err(Errno::EEXIST) => {}
                    other => other.map_err(failed)?,
                }
                folders.insert(path, (entry.mode & 0o7777, (entry.uid, entry.gid)));
            }
            EntryKind::File => {
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
                let fd =
                    nix::fcntl::openat(&folder, name.as_os_str(), flags, Mode::S_IRUSR).map_err(failed)?;
                let mut file = File::from(fd);
                io::copy(&mut archive, &mut file).map_err(Error::at("write", into.join(&path)))?;
                Metadata::of_entry(&entry).apply(file.as_fd()).map_err(failed)?;
            }
            EntryKind::Symlink => {
                symlinkat(OsStr::from_bytes(&entry.link), &folder, name.as_os_str()).map_err(failed)?;
                if geteuid().is_root() {
                    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
                    let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
                    fchownat(&folder, name.as_os_str(), Some(uid), Some(gid), flags).map_err(failed)?;
                }
            }
            EntryKind::HardLink | EntryKind::Fifo | EntryKind::Device => {}
        }
    }
    // The deepest first: a parent's mode may forbid what is still to do below it.
    for (path, (mode, (uid, gid))) in folders.iter().rev() {
        let failed = |errno: Errno| Error::io("set the metadata of", into.join(path), errno);
        let fd = tree::open(&root, path, OFlag::O_DIRECTORY | OFlag::O_RDONLY).map_err(failed)?;
        if geteuid().is_root() {
            fchown(&fd, Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid))).map_err(failed)?;
        }
        // An ordinary user must be able to enter and to remove it.
        let own = if geteuid().is_root() { 0 } else { 0o700 };
        fchmod(&fd, Mode::from_bits_truncate(*mode | own)).map_err(failed)?;
    }
    Ok(())
}
