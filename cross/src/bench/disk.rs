//! A disk of our own for each program of a row: an ext4 file system in a file, whose block device counts what is written to it.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{output_of, run, stdout_of, wait_for};

/// Size of a disk; its file has holes.
const DISK_BYTES: u64 = 8 << 30;

/// Bytes of a sector in the block layer's counters, whatever the device has (kernel, Documentation/block/stat.rst).
const SECTOR_BYTES: u64 = 512;

/// How long a mount may stay busy.
const UNMOUNT_TIMEOUT: Duration = Duration::from_secs(30);

/// A mounted file system that ends with this value.
pub struct Disk {
    file: PathBuf,
    mount: PathBuf,
}

impl Disk {
    /// An empty one with room for so many files. Nothing is left to be initialised later: only what a program writes is counted.
    pub fn make(file: &Path, mount: &Path, files_max: u64) -> Result<Self> {
        File::create(file)?.set_len(DISK_BYTES)?;
        run(Command::new("mkfs.ext4")
            .args(["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-N"])
            .arg(files_max.to_string())
            .arg(file)
            .stdout(Stdio::null()))?;
        let disk = Self {
            file: file.into(),
            mount: mount.into(),
        };
        disk.mount()?;
        disk.sync()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Unmounts and mounts it: nothing of it is in memory any more.
    pub fn forget(&self) -> Result<()> {
        self.unmount()?;
        self.mount()
    }

    /// Waits until all of it is on the device.
    pub fn sync(&self) -> Result<()> {
        run(Command::new("sync").arg("--file-system").arg(&self.mount))
    }

    /// Bytes the device has been told to write since it was attached.
    pub fn written_bytes(&self) -> Result<u64> {
        let device = std::fs::metadata(&self.mount)?.dev();
        let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
        let path = format!("/sys/dev/block/{major}:{minor}/stat");
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let sectors = text
            .split_whitespace()
            .nth(6)
            .context("no sectors written in it")?;
        Ok(sectors.parse::<u64>()? * SECTOR_BYTES)
    }

    /// Bytes in use on the file system.
    pub fn used_bytes(&self) -> Result<u64> {
        self.sync()?;
        let stat = nix::sys::statvfs::statvfs(&self.mount)?;
        Ok((stat.blocks() - stat.blocks_free()) * stat.fragment_size())
    }

    fn mount(&self) -> Result<()> {
        std::fs::create_dir_all(&self.mount)?;
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&self.file)
            .arg(&self.mount))?;
        let device = stdout_of(
            Command::new("findmnt")
                .args(["-n", "-o", "SOURCE"])
                .arg(&self.mount),
        )?;
        // Past the page cache of the file: what is read again comes from the machine's disk.
        run(Command::new("losetup").args(["--direct-io=on", device.trim()]))
    }

    fn unmount(&self) -> Result<()> {
        let unmounted = || {
            let output = output_of(Command::new("umount").arg(&self.mount))?;
            Ok(output.status.success().then_some(()))
        };
        wait_for("a mount to end", UNMOUNT_TIMEOUT, unmounted)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            eprintln!("warning: {} stays mounted: {error:#}", self.mount.display());
        }
    }
}
