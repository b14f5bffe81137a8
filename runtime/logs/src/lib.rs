//! A container's output: a file in RAM that nobody needs to watch.
//!
//! The container holds `log`, opened for appending, as its stdout and stderr: a write never blocks, never fails for want of a reader and
//! survives the death of whoever started it. Whoever comes by (the agent on a wake-up, any `punnet` command) punches holes behind the tail
//! (fallocate(2), FALLOC_FL_PUNCH_HOLE), so that at most [`KEPT_BYTES`] and a page stay in memory; offsets keep counting from the first byte ever
//! written. Time stamps are as fine as those visits: `log.times` says how far the log reached when somebody looked.
//!
//! ```text
//! <folder>/log         output as written, holes before the tail
//! <folder>/log.times   at most TIMES_MAX pairs of little-endian u64: end of the log, unix milliseconds
//! ```
//!
//! A writer may truncate its own stdout: then the log begins anew.

#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use nix::unistd::{Whence, lseek64};

/// What is kept of a container's output. Some two thousand lines: enough to see why it died, little enough for ten containers in 2.5 MiB of RAM.
pub const KEPT_BYTES: u64 = 256 * 1024;

/// Holes begin and end at multiples of this: smaller ones would free nothing.
const PAGE_BYTES: u64 = 4096;

/// Pairs in `log.times`: one page.
const TIMES_MAX: usize = 256;

/// Bytes of one pair.
const TIME_BYTES: usize = 16;

/// What this crate's functions return. The error is one pointer wide: each `?` passes it on, and errors are rare.
pub type Result<T, E = Box<LogError>> = std::result::Result<T, E>;

/// What can go wrong with a log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A system call failed.
    #[error("cannot {what} the log {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file system cannot free part of a file.
    #[error(
        "the log {path} cannot be kept small: its file system has no hole punching; put the run root on a tmpfs"
    )]
    NoHoles {
        /// The log.
        path: PathBuf,
    },
}

impl LogError {
    /// Whether there is no log, or none any more.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Opens the log for a container to write to, making it when there is none.
pub fn open_for_container(folder: &Path) -> Result<File> {
    let path = folder.join("log");
    let mut options = OpenOptions::new();
    options
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed("create", &path))
}

/// A log to read and to trim.
pub struct LogFile {
    file: File,
    path: PathBuf,
}

impl LogFile {
    /// Opens the log in a container's folder.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("log");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(failed("open", &path))?;
        Ok(Self { file, path })
    }

    /// All bytes ever written.
    pub fn end(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(failed("look at", &self.path))?.len())
    }

    /// The first byte that is still there; [`LogFile::end`] when none is.
    pub fn tail_start(&self) -> Result<u64> {
        match lseek64(&self.file, 0, Whence::SeekData) {
            Ok(offset) => Ok(u64::try_from(offset).expect("lseek(2) gives no negative offset")),
            Err(Errno::ENXIO) => self.end(),
            Err(errno) => Err(failed("seek in", &self.path)(errno.into())),
        }
    }

    /// Reads from `offset`, or from the tail's start when that has moved beyond it. Returns where the bytes are from and how many.
    pub fn read_from(&self, offset: u64, buffer: &mut [u8]) -> Result<(u64, usize)> {
        let offset = offset.max(self.tail_start()?);
        let read = self
            .file
            .read_at(buffer, offset)
            .map_err(failed("read", &self.path))?;
        Ok((offset, read))
    }

    /// Frees all but the last `kept_bytes`, rounded up to a page.
    pub fn trim(&self, kept_bytes: u64) -> Result<()> {
        let hole_end = self.end()?.saturating_sub(kept_bytes) / PAGE_BYTES * PAGE_BYTES;
        if hole_end <= self.tail_start()? {
            return Ok(());
        }
        let length = i64::try_from(hole_end).expect("files end below 2^63");
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(&self.file, flags, 0, length) {
            Ok(()) => Ok(()),
            Err(Errno::EOPNOTSUPP) => Err(LogError::NoHoles {
                path: self.path.clone(),
            }
            .into()),
            Err(errno) => Err(failed("trim", &self.path)(errno.into())),
        }
    }

    /// Records that the log reached its present end by `now_ms` (unix milliseconds).
    pub fn note_time(&self, now_ms: u64) -> Result<()> {
        let (end, tail) = (self.end()?, self.tail_start()?);
        let path = self.times_path();
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        // Two visitors must not lose each other's notes.
        let file = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| failed("lock", &path)(errno.into()))?;
        let mut times = read_times(&path)?;
        if times.last().is_some_and(|&(noted, _)| noted == end) {
            return Ok(());
        }
        // Gone: what lies before the tail, and what a writer that truncated made untrue.
        times.retain(|&(noted, _)| noted > tail && noted < end);
        times.push((end, now_ms));
        let first = times.len().saturating_sub(TIMES_MAX);
        let bytes: Vec<u8> = times[first..]
            .iter()
            .flat_map(|(end, ms)| [end.to_le_bytes(), ms.to_le_bytes()])
            .flatten()
            .collect();
        file.set_len(bytes.len() as u64)
            .and_then(|()| file.write_all_at(&bytes, 0))
            .map_err(failed("write", &path))
    }

    /// When the byte at `offset` had been written at the latest, unix milliseconds; `None` when nobody has looked since.
    pub fn time_at(&self, offset: u64) -> Result<Option<u64>> {
        Ok(read_times(&self.times_path())?
            .into_iter()
            .find(|&(end, _)| end > offset)
            .map(|(_, ms)| ms))
    }

    fn times_path(&self) -> PathBuf {
        self.path.with_extension("times")
    }
}

fn read_times(path: &Path) -> Result<Vec<(u64, u64)>> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed("read", path))?,
    };
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes of a pair"));
    // Half a pair at the end is a note that a power cut interrupted; in RAM there is no other.
    Ok(bytes
        .chunks_exact(TIME_BYTES)
        .take(TIMES_MAX)
        .map(|pair| (number(&pair[..8]), number(&pair[8..])))
        .collect())
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Box<LogError> {
    move |source| {
        Box::new(LogError::Io {
            what,
            path: path.into(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn log_of(text: &[u8]) -> (tempfile::TempDir, File, LogFile) {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = open_for_container(folder.path()).unwrap();
        writer.write_all(text).unwrap();
        let log = LogFile::open(folder.path()).unwrap();
        (folder, writer, log)
    }

    #[test]
    fn a_chatty_writer_stays_within_the_bound_and_the_tail_is_whole() {
        let (_folder, mut writer, log) = log_of(b"");
        let line = [b'x'; 1023];
        for number in 0..100_000_u32 {
            writer.write_all(&line).unwrap();
            writer.write_all(b"\n").unwrap();
            if number % 512 == 0 {
                log.trim(KEPT_BYTES).unwrap();
                let allocated = log.file.metadata().unwrap().blocks() * 512;
                assert!(
                    allocated <= KEPT_BYTES + 2 * PAGE_BYTES,
                    "{allocated} bytes are allocated"
                );
            }
        }
        log.trim(KEPT_BYTES).unwrap();
        assert_eq!(log.end().unwrap(), 100_000 * 1024);
        let mut buffer = vec![0; 2 * KEPT_BYTES as usize];
        let (offset, read) = log.read_from(0, &mut buffer).unwrap();
        assert!(read as u64 >= KEPT_BYTES && offset + read as u64 == log.end().unwrap());
        assert!(buffer[..read].iter().all(|&b| b == b'x' || b == b'\n'));
    }

    #[test]
    fn a_short_log_is_left_whole() {
        let (_folder, _writer, log) = log_of(b"one\ntwo\n");
        log.trim(KEPT_BYTES).unwrap();
        let mut buffer = [0; 64];
        assert_eq!(log.read_from(4, &mut buffer).unwrap(), (4, 4));
        assert_eq!(&buffer[..4], b"two\n");
        assert_eq!(log.read_from(99, &mut buffer).unwrap(), (99, 0));
    }

    #[test]
    fn an_empty_log_has_no_tail() {
        let (_folder, _writer, log) = log_of(b"");
        assert_eq!((log.tail_start().unwrap(), log.end().unwrap()), (0, 0));
        assert_eq!(log.read_from(0, &mut [0; 8]).unwrap(), (0, 0));
    }

    #[test]
    fn a_byte_has_the_time_of_the_first_visit_after_it() {
        let (_folder, mut writer, log) = log_of(b"one\n");
        log.note_time(1000).unwrap();
        log.note_time(1500).unwrap();
        writer.write_all(b"two\n").unwrap();
        assert_eq!(log.time_at(4).unwrap(), None);
        log.note_time(2000).unwrap();
        assert_eq!(
            (log.time_at(0).unwrap(), log.time_at(4).unwrap()),
            (Some(1000), Some(2000))
        );
    }

    #[test]
    fn notes_of_time_are_bounded() {
        let (folder, mut writer, log) = log_of(b"");
        for now in 0..3 * TIMES_MAX as u64 {
            writer.write_all(b"x").unwrap();
            log.note_time(now).unwrap();
        }
        assert_eq!(
            fs::metadata(folder.path().join("log.times")).unwrap().len(),
            (TIMES_MAX * TIME_BYTES) as u64
        );
        assert_eq!(
            log.time_at(3 * TIMES_MAX as u64 - 1).unwrap(),
            Some(3 * TIMES_MAX as u64 - 1)
        );
    }

    #[test]
    fn a_writer_that_truncates_begins_anew() {
        let (_folder, mut writer, log) = log_of(b"before\n");
        log.note_time(1).unwrap();
        writer.set_len(0).unwrap();
        writer.write_all(b"new\n").unwrap();
        log.note_time(2).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(log.read_from(0, &mut buffer).unwrap(), (0, 4));
        assert_eq!(log.time_at(0).unwrap(), Some(2));
    }
}
