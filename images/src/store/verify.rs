//! Every file of an image, and the documents that describe it, against what they were when it was stored.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use sha2::Digest as _;

use super::object::Metadata;
use super::tree;
use crate::oci::Manifest;
use crate::tar_stream::PATH_BYTES_MAX;
use crate::{Digest, Error, Result};

/// Longest record: digest, size, path and what stands between them.
const RECORD_BYTES_MAX: u64 = 64 + 20 + PATH_BYTES_MAX as u64 + 3;

/// A file that is not as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its path in the image.
    pub path: PathBuf,
    /// What is wrong with it.
    pub damage: Damage,
    /// The object that it must be.
    pub(super) object: Digest,
}

/// What can be wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It is not there, or no regular file.
    Missing,
    /// It has another length.
    Size {
        /// Bytes it was stored with.
        expected: u64,
        /// Bytes it has.
        actual: u64,
    },
    /// Its content or its metadata differ.
    Content,
    /// The disk does not give it back.
    Unreadable,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.path.display();
        match self.damage {
            Damage::Missing => write!(out, "{path}: is missing"),
            Damage::Size { expected, actual } => {
                write!(out, "{path}: has {actual} bytes instead of {expected}")
            }
            Damage::Content => write!(out, "{path}: content or metadata has changed"),
            Damage::Unreadable => write!(out, "{path}: cannot be read"),
        }
    }
}

/// Checks all files of the image in this folder of the store.
pub fn verify(folder: &Path) -> Result<Vec<Problem>> {
    let root = tree::open_folder(&folder.join("rootfs"))?;
    let mut problems = verify_documents(folder);
    for_each_file(folder, |record| {
        problems.extend(check_path(&root, record)?.map(|damage| Problem {
            path: record.path.into(),
            damage,
            object: record.object,
        }));
        Ok(())
    })?;
    Ok(problems)
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
        Err(vec![Problem { path, damage, object }])
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
        Err(nix::errno::Errno::EACCES | nix::errno::Errno::EIO) => Some(Damage::Unreadable),
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
}

/// Goes through the list of an image's files.
pub fn for_each_file(folder: &Path, mut act: impl FnMut(&Record<'_>) -> Result<()>) -> Result<()> {
    let list = folder.join("files");
    let mut records = BufReader::new(File::open(&list).map_err(Error::at("open", &list))?);
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
        let record = parse(&bytes).ok_or_else(|| {
            Error::malformed(
                "the image's list of files",
                "a record is cut or altered: remove the image and load it again",
            )
        })?;
        act(&record)?;
    }
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
    Some(Record { object, size, path })
}

/// What is wrong with an open file, if anything.
pub fn check(file: &File, name: &Digest, expected: u64) -> io::Result<Option<Damage>> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(Some(Damage::Missing));
    }
    if metadata.len() != expected {
        return Ok(Some(Damage::Size {
            expected,
            actual: metadata.len(),
        }));
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
