//! What a frame has given so far, as far as it may look back: the end of it in memory, the rest in a file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::block::BLOCK_BYTES_MAX;
use super::{WINDOW_BYTES_MAX, malformed};

/// Kept in memory where there is a file for the rest. Most matches are near.
const NEAR_BYTES: usize = 512 << 10;

/// A frame's output.
pub struct Window {
    /// Where the file is made; it loses its name at once. Without it all is kept in memory.
    scratch: Option<PathBuf>,
    /// A ring: byte n of the frame is at n modulo its length.
    file: Option<File>,
    bytes: Vec<u8>,
    /// Bytes of the frame before those in memory.
    before: u64,
    /// Of those in memory, so many have been read.
    read: usize,
    /// How far a match may reach.
    size: usize,
}

impl Window {
    pub fn new(scratch: Option<PathBuf>) -> Self {
        Self {
            scratch,
            file: None,
            bytes: Vec::new(),
            before: 0,
            read: 0,
            size: 0,
        }
    }

    /// Begins a frame with a window of this size.
    pub fn begin(&mut self, size: usize) {
        self.bytes.clear();
        (self.before, self.read, self.size) = (0, 0, size);
        // At once: what grows leaves its smaller predecessors behind. What is not written to is no memory yet.
        self.bytes.reserve(self.near() + NEAR_BYTES + BLOCK_BYTES_MAX);
    }

    /// Bytes that stay in memory.
    fn near(&self) -> usize {
        match self.scratch {
            Some(_) => self.size.min(NEAR_BYTES),
            None => self.size,
        }
    }

    /// Gives what has not been read yet.
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        let count = out.len().min(self.bytes.len() - self.read);
        out[..count].copy_from_slice(&self.bytes[self.read..self.read + count]);
        self.read += count;
        count
    }

    /// Makes room for the next block, when all has been read.
    pub fn make_room(&mut self) -> io::Result<()> {
        let near = self.near();
        if self.bytes.len() < near + NEAR_BYTES {
            return Ok(());
        }
        let far = self.bytes.len() - near;
        if self.size > near {
            self.write_to_file(far)?;
        }
        self.bytes.drain(..far);
        self.before += far as u64;
        self.read -= far;
        Ok(())
    }

    fn write_to_file(&mut self, count: usize) -> io::Result<()> {
        let file = match (&self.file, &self.scratch) {
            (Some(file), _) => file,
            (None, Some(path)) => self.file.insert(crate::store::nameless_file(path)?),
            (None, None) => return Ok(()),
        };
        let (mut piece, mut at) = (&self.bytes[..count], self.before);
        while !piece.is_empty() {
            let (place, room) = place_of(at);
            let (now, rest) = piece.split_at(piece.len().min(room));
            file.write_all_at(now, place)?;
            (piece, at) = (rest, at + now.len() as u64);
        }
        Ok(())
    }

    /// Bytes of the frame.
    pub fn len(&self) -> u64 {
        self.before + self.bytes.len() as u64
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn push_repeated(&mut self, byte: u8, count: usize) {
        self.bytes.resize(self.bytes.len() + count, byte);
    }

    /// Repeats what came so many bytes ago; it may reach into what is being made.
    pub fn repeat(&mut self, offset: usize, mut count: usize) -> io::Result<()> {
        if offset == 0 || offset > self.size || offset as u64 > self.len() {
            return Err(malformed("it looks back over more than there is".into()));
        }
        while count > 0 {
            let end = self.bytes.len();
            let copied = match end.checked_sub(offset) {
                Some(from) => {
                    let copied = count.min(offset);
                    self.bytes.extend_from_within(from..from + copied);
                    copied
                }
                None => {
                    let copied = count.min(offset - end);
                    self.read_from_file(self.len() - offset as u64, copied)?
                }
            };
            count -= copied;
        }
        Ok(())
    }

    /// Adds what the file has from there on; as much as lies in one piece.
    fn read_from_file(&mut self, at: u64, count: usize) -> io::Result<usize> {
        let end = self.bytes.len();
        let (place, room) = place_of(at);
        let count = count.min(room);
        self.bytes.resize(end + count, 0);
        let file = self
            .file
            .as_ref()
            .ok_or_else(|| malformed("its window has no file".into()))?;
        file.read_exact_at(&mut self.bytes[end..], place)?;
        Ok(count)
    }
}

/// Where a byte of the frame is in the ring, and how many bytes are there without a break.
fn place_of(at: u64) -> (u64, usize) {
    let place = at % WINDOW_BYTES_MAX;
    (place, (WINDOW_BYTES_MAX - place) as usize)
}
