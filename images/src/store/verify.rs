//! Every file of an image against what it was when it was stored.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use sha2::Digest as _;

use super::object::Metadata;
use super::tree;
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
    let list = folder.join("files");
    let mut records = BufReader::new(File::open(&list).map_err(Error::at("open", &list))?);
    let root = tree::open_folder(&folder.join("rootfs"))?;
    let mut problems = Vec::new();
    let mut record = Vec::new();
    loop {
        record.clear();
        let read = (&mut records)
            .take(RECORD_BYTES_MAX)
            .read_until(0, &mut record)
            .map_err(Error::at("read", &list))?;
        if read == 0 {
            return Ok(problems);
        }
        let (name, size, path) = parse(&record)
            .ok_or_else(|| Error::malformed("the image's list of files", "a record is cut or altered"))?;
        let opened = tree::open(
            &root,
            path,
            OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK,
        );
        let damage = match opened {
            Ok(fd) => check(&tree::as_file(&fd, path)?, &name, size).unwrap_or(Some(Damage::Unreadable)),
            Err(nix::errno::Errno::EACCES | nix::errno::Errno::EIO) => Some(Damage::Unreadable),
            Err(_) => Some(Damage::Missing),
        };
        problems.extend(damage.map(|damage| Problem {
            path: path.into(),
            damage,
        }));
    }
}

/// `<64 hex> <size> <path>\0`
fn parse(record: &[u8]) -> Option<(Digest, u64, &Path)> {
    let record = record.strip_suffix(&[0])?;
    let (name, rest) = record.split_at_checked(64)?;
    let rest = rest.strip_prefix(b" ")?;
    let space = rest.iter().position(|&b| b == b' ')?;
    let name = Digest::from_hex(std::str::from_utf8(name).ok()?)?;
    let size = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
    Some((name, size, Path::new(OsStr::from_bytes(&rest[space + 1..]))))
}

fn check(file: &File, name: &Digest, expected: u64) -> io::Result<Option<Damage>> {
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
