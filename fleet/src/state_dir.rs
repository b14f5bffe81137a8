//! The state directory: what is where, how it is written, and the lock.
//!
//! ```text
//! STATE/
//!   lock             held by the running controller (flock); its process id
//!   fleet.sqlite3    devices, apps, images, commands (and -wal, -shm)
//!   fleet.key        the fleet's Ed25519 key, PKCS#8, 0600
//!   api.token        bearer token of the API, 0600
//!   api.address      http://127.0.0.1:PORT; there only while the controller is ready
//!   broker.address   mqtt://HOST:PORT of the embedded broker, or the external one without its password
//!   blobs/sha256/    image blobs by digest
//!   blobs/tmp/       blobs being written; cleared by the next `images add`
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A state directory that exists.
#[derive(Clone, Debug)]
pub struct StateDir(PathBuf);

/// Held as long as the controller runs.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the lock lives as long as the open file")] File);

impl StateDir {
    /// Opens `path`, made with mode 0700 when it is not there.
    pub fn open(path: &Path) -> Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(Error::io("make", path))?;
        Ok(Self(path.to_owned()))
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.0.join("fleet.sqlite3")
    }

    /// The fleet key.
    pub fn key(&self) -> PathBuf {
        self.0.join("fleet.key")
    }

    /// The API's bearer token.
    pub fn api_token(&self) -> PathBuf {
        self.0.join("api.token")
    }

    /// The API's address.
    pub fn api_address(&self) -> PathBuf {
        self.0.join("api.address")
    }

    /// The broker's address.
    pub fn broker_address(&self) -> PathBuf {
        self.0.join("broker.address")
    }

    /// Image blobs.
    pub fn blobs(&self) -> PathBuf {
        self.0.join("blobs")
    }

    /// Takes the lock, or says who has it. It goes with the process, however that ends.
    pub fn lock(&self) -> Result<Lock> {
        let path = self.0.join("lock");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).map_err(Error::io("read", &path))?;
                return Err(Error::Locked {
                    path: self.0.clone(),
                    pid: pid.trim().to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(Error::io("lock", &path)(source)),
        }
        file.set_len(0).map_err(Error::io("write", &path))?;
        writeln!(file, "{}", std::process::id()).map_err(Error::io("write", &path))?;
        Ok(Lock(file))
    }
}

/// Writes `content` with `mode` so that a reader finds the old file or the new one, never half of one.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let dir = parent(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = dir.join(format!(".{name}.{}", std::process::id()));
    let written = write_new(&temporary, content, mode)
        .and_then(|()| fs::rename(&temporary, path).map_err(Error::io("rename to", path)));
    if written.is_err() {
        fs::remove_file(&temporary).ok();
        return written;
    }
    sync_dir(dir)
}

/// Makes the names in `dir` durable.
pub fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(Error::io("sync", dir))
}

/// The directory of `path`; `.` for a bare name.
pub fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    fs::remove_file(path).ok();
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(mode)
        .open(path)
        .map_err(Error::io("write", path))?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(Error::io("write", path))
}
