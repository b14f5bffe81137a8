//! All that is in an image, and the documents that describe it, against what they were when it was stored, and what somebody has added (added.rs).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use sha2::Digest as _;

use super::added::Listed;
use super::object::{self, Metadata};
use super::{Image, nodes, tree};
use crate::oci::Manifest;
use crate::tar_stream::PATH_BYTES_MAX;
use crate::{Digest, Error, Result};

/// Longest record: digest, size, path and what stands between them.
const RECORD_BYTES_MAX: u64 = 64 + 20 + PATH_BYTES_MAX as u64 + 3;

/// Name of the list in an image's folder that has, for each record of `files`, the number of the layer that the file came with: two bytes, the lower
/// one first.
pub const LAYERS: &str = "layers";

/// Problems that are returned at once: some 2 MB of memory. `--repair` goes on with those behind them.
pub const PROBLEMS_MAX: usize = 10_000;

/// Something that is not as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its path in the image.
    pub path: PathBuf,
    /// What is wrong with it.
    pub damage: Damage,
    /// The object that it must be; none when it is no regular file.
    pub(super) object: Option<Digest>,
}

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It is not there.
    Missing,
    /// It is a file, a directory, a link or something else, and was another of those.
    Kind,
    /// It has another length.
    Size {
        /// Bytes it was stored with.
        expected: u64,
        /// Bytes it has.
        actual: u64,
    },
    /// Its content or its metadata differ.
    Content,
    /// A symbolic link leads elsewhere.
    Target,
    /// Mode, owner or time of what is no regular file differ.
    Metadata,
    /// It has extended attributes, such as capabilities, that it was not stored with, or a directory lacks some.
    Attributes,
    /// The disk does not give it back.
    Unreadable,
    /// No layer has it.
    Added,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.path.display();
        match self.damage {
            Damage::Missing => write!(out, "{path}: is missing"),
            Damage::Kind => write!(out, "{path}: is of another kind than it was"),
            Damage::Target => write!(out, "{path}: leads elsewhere than it did"),
            Damage::Metadata => write!(out, "{path}: mode, owner or time has changed"),
            Damage::Attributes => write!(out, "{path}: extended attributes have changed"),
            Damage::Size { expected, actual } => {
                write!(out, "{path}: has {actual} bytes instead of {expected}")
            }
            Damage::Content => write!(out, "{path}: content or metadata has changed"),
            Damage::Unreadable => write!(out, "{path}: cannot be read"),
            Damage::Added => write!(out, "{path}: was added, no layer has it"),
        }
    }
}

/// Checks all of the image.
pub fn verify(image: &Image) -> Result<Vec<Problem>> {
    let folder = image.folder.as_path();
    let mut problems = verify_documents(folder);
    let mut add = |path: &Path, damage, object| {
        problems.push(Problem {
            path: path.into(),
            damage,
            object,
        });
        problems.len() < PROBLEMS_MAX
    };
    let root = match tree::open_folder(&image.rootfs()) {
        Err(error) if error.is_missing_file() => None,
        other => Some(other?),
    };
    let (mut has_room, mut listed) = (true, Listed::new());
    nodes::for_each_node(folder, &mut |node| {
        listed.add(node.path);
        let found = has_room.then(|| or_missing(&root, |root| nodes::check(root, node)));
        if let Some(damage) = found.transpose()?.flatten() {
            has_room = add(tree::at_root(node.path), damage, None);
        }
        Ok(())
    })?;
    let mut files = 0;
    for_each_file(folder, &mut |record| {
        files += 1;
        listed.add(record.path);
        let found = has_room.then(|| or_missing(&root, |root| check_path(root, record)));
        if let Some(damage) = found.transpose()?.flatten() {
            has_room = add(record.path, damage, Some(record.object));
        }
        Ok(())
    })?;
    // A disk that lost power may have cut the list itself between two records.
    if files != image.summary.files {
        return Err(cut_list("files"));
    }
    let Some(root) = root.filter(|_| has_room) else {
        return Ok(problems);
    };
    let looked = listed.for_each_added(folder, &root, &mut |path| Ok(add(path, Damage::Added, None)));
    if let Err(error) = looked {
        match *error {
            // One of the directories.
            Error::Io { path, .. } => drop(add(tree::at_root(&path), Damage::Unreadable, None)),
            other => return Err(other.into()),
        }
    }
    Ok(problems)
}

/// Without the tree all of it is missing.
fn or_missing(
    root: &Option<OwnedFd>,
    check: impl FnOnce(&OwnedFd) -> Result<Option<Damage>>,
) -> Result<Option<Damage>> {
    root.as_ref().map_or(Ok(Some(Damage::Missing)), check)
}

/// The manifest is what the folder's name says, and the configuration what the manifest says.
fn verify_documents(folder: &Path) -> Vec<Problem> {
    let damaged = |name: &str, object| {
        let bytes = fs::read(folder.join(name)).ok();
        let is_whole = bytes.as_ref().map(|bytes| Digest::of(bytes) == object);
        let damage = match is_whole {
            None => Damage::Missing,
            Some(false) => Damage::Content,
            Some(true) => return Ok(bytes.unwrap_or_default()),
        };
        let path = name.into();
        Err(vec![Problem {
            path,
            damage,
            object: Some(object),
        }])
    };
    let name = folder.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let Some(manifest) = Digest::from_hex(name) else {
        return Vec::new();
    };
    let checked = damaged("manifest.json", manifest).and_then(|bytes| match Manifest::from_json(&bytes) {
        Ok(manifest) => damaged("config.json", manifest.config.digest),
        Err(_) => Ok(bytes),
    });
    checked.err().unwrap_or_default()
}

/// What is wrong with one file, if anything.
pub fn check_path(root: &OwnedFd, record: &Record<'_>) -> Result<Option<Damage>> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    Ok(match tree::open(root, record.path, flags) {
        Ok(fd) => check(&tree::as_file(&fd, record.path)?, &record.object, record.size)
            .unwrap_or(Some(Damage::Unreadable)),
        Err(Errno::EACCES | Errno::EIO) => Some(Damage::Unreadable),
        // A symbolic link; a socket.
        Err(Errno::ELOOP | Errno::ENXIO) => Some(Damage::Kind),
        Err(_) => Some(Damage::Missing),
    })
}

/// One regular file of an image.
pub struct Record<'a> {
    /// Name of its object.
    pub object: Digest,
    /// Its bytes.
    pub size: u64,
    /// Its path in the image.
    pub path: &'a Path,
    /// Number of the layer it came with, from 0; unknown for images that were stored before it was kept.
    pub layer: Option<u16>,
}

/// Goes through the list of an image's files.
pub fn for_each_file(folder: &Path, act: &mut dyn FnMut(&Record<'_>) -> Result<()>) -> Result<()> {
    let list = folder.join("files");
    let mut records = BufReader::new(File::open(&list).map_err(Error::at("open", &list))?);
    let mut layers = File::open(folder.join(LAYERS)).map(BufReader::new);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let read = (&mut records)
            .take(RECORD_BYTES_MAX)
            .read_until(0, &mut bytes)
            .map_err(Error::at("read", &list))?;
        if read == 0 {
            return Ok(());
        }
        let mut record = parse(&bytes).ok_or_else(|| cut_list("files"))?;
        let mut number = [0; 2];
        record.layer = layers
            .as_mut()
            .ok()
            .and_then(|layers| layers.read_exact(&mut number).ok())
            .map(|()| u16::from_le_bytes(number));
        act(&record)?;
    }
}

/// Without its lists nobody knows what an image was.
pub fn cut_list(of: &str) -> Box<Error> {
    Error::malformed(
        format!("the image's list of {of}"),
        "it is cut or altered: remove the image and load it again",
    )
}

/// `<64 hex> <size> <path>\0`
fn parse(record: &[u8]) -> Option<Record<'_>> {
    let record = record.strip_suffix(&[0])?;
    let (name, rest) = record.split_at_checked(64)?;
    let rest = rest.strip_prefix(b" ")?;
    let space = rest.iter().position(|&b| b == b' ')?;
    let object = Digest::from_hex(std::str::from_utf8(name).ok()?)?;
    let size = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
    let path = Path::new(OsStr::from_bytes(&rest[space + 1..]));
    Some(Record {
        object,
        size,
        path,
        layer: None,
    })
}

/// What is wrong with an open file, if anything.
pub fn check(file: &File, name: &Digest, expected: u64) -> io::Result<Option<Damage>> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(Some(Damage::Kind));
    }
    if metadata.len() != expected {
        return Ok(Some(Damage::Size {
            expected,
            actual: metadata.len(),
        }));
    }
    if object::has_foreign_xattrs(file.as_fd())? {
        return Ok(Some(Damage::Attributes));
    }
    let mut hasher = Metadata::of_file(file)?.hasher(expected);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match (&*file).read(&mut buffer)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    Ok((Digest::from_bytes(hasher.finalize().into()) != *name).then_some(Damage::Content))
}
