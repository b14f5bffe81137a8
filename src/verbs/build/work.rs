//! A build's folder for work in progress.
//!
//! ```text
//! <data root>/build/
//!   cache/                 steps that need not be done again (punnet_images::build)
//!   work/<pid>-<n>/        one build; <pid>-<n>.lock beside it is held by who builds (flock(2): it dies with its holder)
//!     layout/ <layer hex> layers/ run-<n>/ ...
//!     container            name of the container of a RUN, written before there is one
//! ```
//! A build that was killed may leave a work folder and a running step. The next `build` or `prune` ends the step and removes the folder.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use punnet_images::build::{self, PrunedSteps};
use punnet_runtime::ContainerId;

use crate::container::file;
use crate::error::Result;
use crate::roots::Roots;
use crate::verbs::containers::runtime;

/// Ends what killed builds have left running, and removes their folders.
pub fn reclaim(roots: &Roots) -> Result<()> {
    let parent = roots.data()?.join("build/work");
    let entries = match fs::read_dir(&parent) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(file("cannot list", &parent))?,
    };
    for entry in entries {
        let lock_path = entry.map_err(file("cannot list", &parent))?.path();
        if lock_path.extension().is_none_or(|extension| extension != "lock") {
            continue;
        }
        let Ok(lock) = File::options().write(true).open(&lock_path) else {
            continue;
        };
        let Ok(_lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else {
            continue;
        };
        let folder = lock_path.with_extension("");
        // Without the whole name there was no container yet, or a power cut has ended it and taken the name's data.
        let name = fs::read_to_string(folder.join("container")).unwrap_or_default();
        if let Ok(id) = ContainerId::new(&name) {
            runtime(roots)?.delete(&id, true)?;
        }
        clear(&folder, &lock_path)?;
    }
    Ok(())
}

/// Forgets all steps. `None` while somebody builds.
pub fn prune(roots: &Roots) -> Result<Option<PrunedSteps>> {
    reclaim(roots)?;
    Ok(build::prune(&roots.data()?.join("build/cache"))?)
}

fn clear(folder: &Path, lock_path: &Path) -> Result<()> {
    punnet_images::remove_tree(folder)?;
    Ok(punnet_images::remove_tree(lock_path)?)
}

/// A folder that ends with this value.
pub struct Work {
    pub path: PathBuf,
    pub name: String,
    lock_path: PathBuf,
    _lock: Flock<File>,
}

impl Work {
    /// Makes an empty one.
    pub fn make(data: &Path) -> Result<Self> {
        let parent = data.join("build/work");
        fs::create_dir_all(&parent).map_err(file("cannot create", &parent))?;
        let name = std::process::id().to_string();
        let (path, lock_path) = (parent.join(&name), parent.join(format!("{name}.lock")));
        let mut options = File::options();
        let opened = options.write(true).create(true).truncate(false).open(&lock_path);
        let opened = opened.map_err(file("cannot create", &lock_path))?;
        // Whoever had this number before is gone, or somebody else is just removing what is left of it.
        let lock = Flock::lock(opened, FlockArg::LockExclusive)
            .map_err(|(_, errno)| file("cannot lock", &lock_path)(errno.into()))?;
        if !lock_path.exists() {
            return Self::make(data);
        }
        fs::create_dir(&path).map_err(file("cannot create", &path))?;
        Ok(Self {
            path,
            name,
            lock_path,
            _lock: lock,
        })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(error) = clear(&self.path, &self.lock_path) {
            crate::error::print_chain(&error);
        }
    }
}
