//! Folders for work in progress, which die with whoever works in them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::{entries, tree};
use crate::{Error, Result};

/// Names tried before giving up; more than one only when processes race for the same.
const ATTEMPTS_MAX: u32 = 1000;

/// A folder under `staging` that is removed when this value goes, and when its process has been killed by the next one that opens the store.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    lock_path: PathBuf,
    _lock: Flock<File>,
}

impl Staging {
    /// Makes an empty one.
    pub fn make(parent: &Path) -> Result<Self> {
        for attempt in 0..ATTEMPTS_MAX {
            let path = parent.join(format!("{}-{attempt}", std::process::id()));
            let lock_path = path.with_extension("lock");
            let mut options = File::options();
            let file = match options.write(true).create_new(true).open(&lock_path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other.map_err(Error::at("create", &lock_path))?,
            };
            let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
                continue;
            };
            // Between the two calls somebody may have taken the file for abandoned and removed it.
            let ours = lock.metadata().map_err(Error::at("look at", &lock_path))?.ino();
            if fs::metadata(&lock_path).map(|found| found.ino()).ok() != Some(ours) {
                continue;
            }
            fs::create_dir(&path).map_err(Error::at("create", &path))?;
            return Ok(Self {
                path,
                lock_path,
                _lock: lock,
            });
        }
        Err(Error::Limit {
            what: "the number of interrupted operations".into(),
            limit: format!("{ATTEMPTS_MAX}"),
        }
        .into())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it now, telling when that fails.
    pub fn remove(self) -> Result<()> {
        self.clear()
    }

    fn clear(&self) -> Result<()> {
        tree::remove(&self.path)?;
        // The lock file last: a folder without one has no owner.
        remove_if_there(&self.lock_path)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now is removed when the store is opened next.
        drop(self.clear());
    }
}

/// Removes what nobody holds any more. Only with nobody adding: half of what is removed here may not be relied upon.
pub fn remove_abandoned(parent: &Path) -> Result<()> {
    for_each_abandoned(parent, &mut |lock_path| {
        tree::remove(&lock_path.with_extension(""))?;
        remove_if_there(lock_path)
    })
}

/// True when somebody was interrupted and nobody has cleared up since.
pub fn is_abandoned(parent: &Path) -> Result<bool> {
    let mut found = false;
    for_each_abandoned(parent, &mut |_| {
        found = true;
        Ok(())
    })?;
    Ok(found)
}

fn for_each_abandoned(parent: &Path, act: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    for lock_path in entries(parent)? {
        if lock_path.extension().is_none_or(|extension| extension != "lock") {
            continue;
        }
        let file = match File::options().write(true).open(&lock_path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(Error::at("open", &lock_path))?,
        };
        if let Ok(_lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            act(&lock_path)?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, error)),
        _ => Ok(()),
    }
}
