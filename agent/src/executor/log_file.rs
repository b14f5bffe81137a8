//! A container's output file as it lies on the run root, read only.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The open file.
pub struct LogFile(File);

impl LogFile {
    /// Opens the log in a container's folder.
    pub fn open(folder: &Path) -> io::Result<Self> {
        File::open(folder.join("log")).map(Self)
    }

    /// Where it ends.
    pub fn end(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    /// Reads at `offset`; returns where the bytes are from and how many.
    pub fn read_from(&self, offset: u64, buffer: &mut [u8]) -> io::Result<(u64, usize)> {
        Ok((offset, self.0.read_at(buffer, offset)?))
    }
}
