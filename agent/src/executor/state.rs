//! The agent's own files.
//!
//! ```text
//! <data root>/agent/
//!   enrolment.json           crate::enrolment
//!   lock                     held while an agent runs
//!   session                  how often the agent has started, decimal
//!   state.0 state.1          the journal (core/journal.rs)
//!   partial/<manifest hex>/  images on their way (executor/blobs.rs)
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::core::{RECORD_BYTES_MAX, SLOTS};
use crate::{AgentError, Result};

/// The agent's folder, locked.
pub struct State {
    folder: PathBuf,
    _lock: File,
}

impl State {
    /// Makes the folder if need be and locks it.
    pub fn open(data_root: &Path) -> Result<Self> {
        let folder = data_root.join("agent");
        let mut builder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder
            .recursive(true)
            .create(&folder)
            .map_err(AgentError::file("create", &folder))?;
        let path = folder.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path);
        let lock = lock.map_err(AgentError::file("open", &path))?;
        let is_ours = punnet_sys::lock_for_process(&lock)
            .map_err(|errno| AgentError::file("lock", &path)(errno.into()))?;
        if !is_ours {
            let data_root = data_root.into();
            return Err(AgentError::AlreadyRunning { data_root }.into());
        }
        Ok(Self { folder, _lock: lock })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the slots hold.
    pub fn slots(&self) -> [Option<Vec<u8>>; SLOTS] {
        std::array::from_fn(|slot| {
            let file = File::open(self.slot(slot)).ok()?;
            let mut content = Vec::new();
            file.take(RECORD_BYTES_MAX as u64 + 1)
                .read_to_end(&mut content)
                .ok()?;
            Some(content)
        })
    }

    /// Makes a slot hold `record`, durably. The other slot is not touched.
    pub fn persist(&self, slot: usize, record: &[u8]) -> io::Result<()> {
        let mut file = private(&self.slot(slot))?;
        file.write_all(record)?;
        file.sync_all()?;
        File::open(&self.folder)?.sync_all()
    }

    /// Counts one more start, durably if that can be.
    pub fn count_start(&self) -> (u32, io::Result<()>) {
        let path = self.folder.join("session");
        let before: u32 = fs::read_to_string(&path)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0);
        let starts = before.saturating_add(1);
        let new = self.folder.join("session.new");
        let write = || {
            let mut file = private(&new)?;
            file.write_all(starts.to_string().as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)
        };
        (starts, write())
    }

    fn slot(&self, slot: usize) -> PathBuf {
        self.folder.join(format!("state.{slot}"))
    }
}

fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_counted_and_slots_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        assert_eq!(state.slots(), [None, None]);
        state.persist(1, b"record").unwrap();
        assert_eq!((state.count_start().0, state.count_start().0), (1, 2));
        drop(state);
        let state = State::open(folder.path()).unwrap();
        assert_eq!(state.slots(), [None, Some(b"record".to_vec())]);
        assert_eq!(state.count_start().0, 3);
    }
}
