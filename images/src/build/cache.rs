//! Steps of builds that need not be done again.
//!
//! ```text
//! <data root>/build/cache/
//!   lock                 held shared by builds, exclusively by who removes (flock(2): it dies with its holder)
//!   <key hex>/           whole or not there: renamed into place
//!     blob layer.json    a layer: its bytes, and its digests and size; or
//!     upper/ nonce       what a RUN has changed, as overlayfs left it, and a word that no other execution has
//!   .new-*, .old-*       being made, or replaced; removed by the next build or prune that is alone
//! ```
//! A key is the digest of all that a step depends on. The bytes of a blob are checked whenever they are used; an upper directory is on the disk before
//! it has its name.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::syncfs;

use super::layer::Blob;
use crate::store::tree;
use crate::{Digest, Error, HashingReader, Result, oci};

/// Steps that are kept; the oldest go. Some ten images with some ten steps each.
const ENTRIES_MAX: usize = 128;

/// An opened cache, which nobody empties meanwhile.
pub struct Cache {
    root: PathBuf,
    _lock: Flock<File>,
    /// False: nothing in it is used, everything is done and put into it again.
    is_read: bool,
    made: std::cell::Cell<u32>,
}

/// What [`prune`] has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrunedSteps {
    /// Steps.
    pub steps: u64,
    /// Bytes of their files.
    pub bytes: u64,
}

impl Cache {
    /// Opens it, making it when there is none.
    pub fn open(root: &Path, is_read: bool) -> Result<Self> {
        fs::create_dir_all(root).map_err(Error::at("create", root))?;
        if let Some(alone) = lock(root, FlockArg::LockExclusiveNonblock)? {
            sweep(root)?;
            drop(alone);
        }
        let lock =
            lock(root, FlockArg::LockShared)?.ok_or_else(|| Error::Run("the cache is locked".into()))?;
        Ok(Self {
            root: root.into(),
            _lock: lock,
            is_read,
            made: std::cell::Cell::new(0),
        })
    }

    /// Puts a step's layer among `blobs`, when it is here and undamaged.
    pub fn find_blob(&self, key: &Digest, blobs: &Path) -> Result<Option<Blob>> {
        if !self.is_read {
            return Ok(None);
        }
        let entry = self.entry(key);
        let Ok(bytes) = fs::read(entry.join("layer.json")) else {
            return Ok(None);
        };
        let Ok(blob) = oci::parse::<Blob>("a layer of the cache", &bytes) else {
            return Ok(None);
        };
        let Ok(file) = File::open(entry.join("blob")) else {
            return Ok(None);
        };
        let mut content = HashingReader::new(file);
        if io::copy(&mut content, &mut io::sink()).is_err() || content.finish() != (blob.size, blob.digest) {
            return Ok(None);
        }
        link(&entry.join("blob"), &blobs.join(blob.digest.hex()))?;
        Ok(Some(blob))
    }

    /// Keeps a step's layer.
    pub fn put_blob(&self, key: &Digest, blob: &Blob, blobs: &Path) -> Result<()> {
        let entry = self.entry(key);
        let text = oci::to_json(blob);
        // Done again because that was asked for, and it came to the same.
        if !self.is_read && fs::read(entry.join("layer.json")).is_ok_and(|known| known == text) {
            return Ok(());
        }
        let temporary = self.make_temporary()?;
        link(&blobs.join(blob.digest.hex()), &temporary.join("blob"))?;
        let record = temporary.join("layer.json");
        fs::write(&record, text).map_err(Error::at("write", &record))?;
        self.publish(&temporary, &entry)
    }

    /// What a RUN has changed, and the word of that execution.
    pub fn find_upper(&self, key: &Digest) -> Option<(PathBuf, String)> {
        let entry = self.entry(key);
        let nonce = fs::read_to_string(entry.join("nonce")).ok()?;
        let upper = entry.join("upper");
        (self.is_read && upper.is_dir()).then_some((upper, nonce))
    }

    /// Keeps what a RUN has changed; returns where it is now.
    pub fn put_upper(&self, key: &Digest, upper: &Path, nonce: &str) -> Result<PathBuf> {
        let entry = self.entry(key);
        let temporary = self.make_temporary()?;
        let (kept, word) = (temporary.join("upper"), temporary.join("nonce"));
        fs::rename(upper, &kept).map_err(Error::at("rename", upper))?;
        fs::write(&word, nonce).map_err(Error::at("write", &word))?;
        // Data before name: after a power cut a file that is there is whole.
        let root = File::open(&self.root).map_err(Error::at("open", &self.root))?;
        syncfs(&root).map_err(Error::at("sync", &self.root))?;
        self.publish(&temporary, &entry)?;
        Ok(entry.join("upper"))
    }

    fn publish(&self, temporary: &Path, entry: &Path) -> Result<()> {
        match fs::rename(temporary, entry) {
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOTEMPTY) => {
                // Somebody may be using the old one: it only loses its name now.
                let old = self.temporary("old");
                fs::rename(entry, &old).map_err(Error::at("rename", entry))?;
                fs::rename(temporary, entry).map_err(Error::at("rename", entry))
            }
            other => other.map_err(Error::at("rename", entry)),
        }
    }

    fn entry(&self, key: &Digest) -> PathBuf {
        self.root.join(key.hex())
    }

    fn make_temporary(&self) -> Result<PathBuf> {
        let path = self.temporary("new");
        // One of a process that had this number before and was killed.
        tree::remove(&path)?;
        fs::create_dir(&path).map_err(Error::at("create", &path))?;
        Ok(path)
    }

    fn temporary(&self, kind: &str) -> PathBuf {
        self.made.set(self.made.get() + 1);
        self.root
            .join(format!(".{kind}-{}-{}", std::process::id(), self.made.get()))
    }
}

/// Removes every step. `None` when a build is running.
pub fn prune(root: &Path) -> Result<Option<PrunedSteps>> {
    if !root.is_dir() {
        return Ok(Some(PrunedSteps::default()));
    }
    let Some(_lock) = lock(root, FlockArg::LockExclusiveNonblock)? else {
        return Ok(None);
    };
    let mut pruned = PrunedSteps::default();
    for path in entries(root)? {
        pruned.bytes += bytes_below(&path);
        pruned.steps += 1;
        tree::remove(&path)?;
    }
    Ok(Some(pruned))
}

/// Removes what interrupted builds have left, and the oldest steps beyond the bound.
fn sweep(root: &Path) -> Result<()> {
    let mut kept: Vec<(SystemTime, PathBuf)> = Vec::new();
    for path in entries(root)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let made = fs::metadata(&path).and_then(|metadata| metadata.modified());
        match made {
            Ok(made) if !name.starts_with('.') => kept.push((made, path)),
            _ => tree::remove(&path)?,
        }
    }
    kept.sort_unstable();
    let over = kept.len().saturating_sub(ENTRIES_MAX);
    kept[..over].iter().try_for_each(|(_, path)| tree::remove(path))
}

/// All but the lock.
fn entries(root: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(root).map_err(Error::at("list", root))? {
        let path = entry.map_err(Error::at("list", root))?.path();
        if path.file_name().is_some_and(|name| name != "lock") {
            paths.push(path);
        }
    }
    Ok(paths)
}

fn bytes_below(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return 0;
    };
    if !metadata.is_dir() {
        // What a file shares with another name does not get free.
        return if metadata.nlink() == 1 { metadata.len() } else { 0 };
    }
    let below = fs::read_dir(path).into_iter().flatten().flatten();
    below.map(|entry| bytes_below(&entry.path())).sum()
}

fn lock(root: &Path, how: FlockArg) -> Result<Option<Flock<File>>> {
    let path = root.join("lock");
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.open(&path).map_err(Error::at("open", &path))?;
    match Flock::lock(file, how) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(Error::io("lock", &path, errno)),
    }
}

/// One more name for a file of ours, or a copy where the file system has no second names.
pub fn link(from: &Path, to: &Path) -> Result<()> {
    match fs::hard_link(from, to) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(_) => fs::copy(from, to).map(drop).map_err(Error::at("write", to)),
        Ok(()) => Ok(()),
    }
}
