//! Memory that does not grow with an image: a table and a queue that go on in files once they are long.
//!
//! The files have no name and are gone with their value. Small images never write them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Entries kept in memory: what a hash table of 8192 places takes before it grows, some 340 KiB.
const MEMORY_ENTRIES_MAX: usize = 7168;

/// Places in the file: twice as many as an image may have entries, so that a search is short. Those that are not used are holes.
const SLOTS: u64 = 1 << 21;

/// Entries in the file, directories that no entry names included.
const FILE_ENTRIES_MAX: u64 = SLOTS / 4 * 3;

/// Keys that follow each other, as inodes do, lie together: blocks of so many.
const BLOCK_BITS: u32 = 6;

/// Longest value: the name of an object, and a number.
const VALUE_BYTES: usize = 34;

/// What a number stands for.
pub type Value = [u8; VALUE_BYTES];

/// A value before anything is put into it: arrays of this length have no default.
pub const EMPTY: Value = [0; VALUE_BYTES];

/// From numbers to values.
#[derive(Debug)]
pub struct Table {
    /// Where the file is made; it loses its name at once.
    path: PathBuf,
    /// Of each value, so many bytes are kept in the file.
    value_bytes: usize,
    memory: HashMap<u64, Value>,
    file: Option<Slots>,
}

impl Table {
    /// An empty one, for values of up to 34 bytes.
    pub fn new(path: PathBuf, value_bytes: usize) -> Self {
        Self {
            path,
            value_bytes: value_bytes.min(VALUE_BYTES),
            memory: HashMap::new(),
            file: None,
        }
    }

    /// Gives a number a value, instead of the one it may have had. True when it had none.
    pub fn put(&mut self, key: u64, value: Value) -> Result<bool> {
        if self.file.is_none() {
            if self.memory.len() < MEMORY_ENTRIES_MAX || self.memory.contains_key(&key) {
                return Ok(self.memory.insert(key, value).is_none());
            }
            let mut slots =
                Slots::make(&self.path, self.value_bytes).map_err(Error::at("create", &self.path))?;
            for (key, value) in std::mem::take(&mut self.memory) {
                slots.put(key, &value).map_err(Error::at("write", &self.path))?;
            }
            self.file = Some(slots);
        }
        match &mut self.file {
            Some(slots) if slots.count < FILE_ENTRIES_MAX => {
                slots.put(key, &value).map_err(Error::at("write", &self.path))
            }
            _ => Err(Error::Limit {
                what: "the number of entries and of directories above them".into(),
                limit: FILE_ENTRIES_MAX.to_string(),
            }
            .into()),
        }
    }

    /// The value of a number.
    pub fn get(&mut self, key: u64) -> Result<Option<Value>> {
        match &mut self.file {
            None => Ok(self.memory.get(&key).copied()),
            Some(slots) => slots.get(key).map_err(Error::at("read", &self.path)),
        }
    }

    /// True when the number has one.
    pub fn has(&mut self, key: u64) -> Result<bool> {
        Ok(self.get(key)?.is_some())
    }
}

/// A hash table in a file: open addressing, one page of it in memory. An empty place is zero, and so is no key.
#[derive(Debug)]
struct Slots {
    file: File,
    slot_bytes: usize,
    page: Vec<u8>,
    page_number: u64,
    is_changed: bool,
    count: u64,
}

/// What a page of the table has room for, bytes.
const PAGE_BYTES: usize = 4096;

impl Slots {
    fn make(path: &Path, value_bytes: usize) -> io::Result<Self> {
        let slots = Self {
            file: nameless(path)?,
            slot_bytes: 8 + value_bytes,
            page: vec![0; PAGE_BYTES],
            page_number: 0,
            is_changed: false,
            count: 0,
        };
        slots
            .file
            .set_len((SLOTS / slots.slots_of_page() + 1) * PAGE_BYTES as u64)?;
        Ok(slots)
    }

    fn slots_of_page(&self) -> u64 {
        (PAGE_BYTES / self.slot_bytes) as u64
    }

    fn put(&mut self, key: u64, value: &Value) -> io::Result<bool> {
        let (at, is_new) = self.find(key)?;
        self.page[at..at + 8].copy_from_slice(&key.max(1).to_le_bytes());
        let value_bytes = self.slot_bytes - 8;
        self.page[at + 8..at + 8 + value_bytes].copy_from_slice(&value[..value_bytes]);
        self.is_changed = true;
        self.count += u64::from(is_new);
        Ok(is_new)
    }

    fn get(&mut self, key: u64) -> io::Result<Option<Value>> {
        let (at, is_new) = self.find(key)?;
        if is_new {
            return Ok(None);
        }
        let mut value = EMPTY;
        let value_bytes = self.slot_bytes - 8;
        value[..value_bytes].copy_from_slice(&self.page[at + 8..at + 8 + value_bytes]);
        Ok(Some(value))
    }

    /// Where a key is in its page, or the place it gets. There is a free place always: see [`FILE_ENTRIES_MAX`].
    fn find(&mut self, key: u64) -> io::Result<(usize, bool)> {
        // Fibonacci hashing (Knuth, 6.4) of the blocks; within one, keys keep their order.
        let block =
            (key >> BLOCK_BITS).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - (SLOTS.ilog2() - BLOCK_BITS));
        let mut slot = (block << BLOCK_BITS) | (key & ((1 << BLOCK_BITS) - 1));
        let key = key.max(1).to_le_bytes();
        loop {
            self.turn_to(slot / self.slots_of_page())?;
            let at = (slot % self.slots_of_page()) as usize * self.slot_bytes;
            match &self.page[at..at + 8] {
                found if found == key => return Ok((at, false)),
                [0, 0, 0, 0, 0, 0, 0, 0] => return Ok((at, true)),
                _ => slot = (slot + 1) % SLOTS,
            }
        }
    }

    fn turn_to(&mut self, number: u64) -> io::Result<()> {
        if number == self.page_number {
            return Ok(());
        }
        if self.is_changed {
            self.file
                .write_all_at(&self.page, self.page_number * PAGE_BYTES as u64)?;
            self.is_changed = false;
        }
        self.file
            .read_exact_at(&mut self.page, number * PAGE_BYTES as u64)?;
        self.page_number = number;
        Ok(())
    }
}

/// Paths that are still to be looked at, first in, first out.
pub struct Queue {
    path: PathBuf,
    end: BufWriter<File>,
    start: BufReader<File>,
}

impl Queue {
    /// An empty one.
    pub fn make(path: &Path) -> Result<Self> {
        let end = File::create_new(path).map_err(Error::at("create", path))?;
        // A position of its own, which a copy of the descriptor has not.
        let start = File::open(path).map_err(Error::at("open", path))?;
        std::fs::remove_file(path).map_err(Error::at("remove", path))?;
        Ok(Self {
            path: path.into(),
            start: BufReader::new(start),
            end: BufWriter::new(end),
        })
    }

    /// Adds a path, which has no NUL.
    pub fn push(&mut self, path: &Path) -> Result<()> {
        let written = self.end.write_all(path.as_os_str().as_bytes());
        written
            .and_then(|()| self.end.write_all(&[0]))
            .map_err(Error::at("write", &self.path))
    }

    /// The next path.
    pub fn pop(&mut self) -> Result<Option<PathBuf>> {
        let mut bytes = Vec::new();
        let mut read = |bytes: &mut Vec<u8>| {
            self.start
                .read_until(0, bytes)
                .map_err(Error::at("read", &self.path))
        };
        read(&mut bytes)?;
        if bytes.last() != Some(&0) {
            self.end.flush().map_err(Error::at("write", &self.path))?;
            read(&mut bytes)?;
        }
        Ok(bytes.pop().map(|_| std::ffi::OsString::from_vec(bytes).into()))
    }
}

/// Bytes of paths kept in memory.
const SPOOL_BYTES_MAX: usize = 256 * 1024;

/// Paths that are asked for again, by where they were put.
#[derive(Debug)]
pub struct Spool {
    /// Where the file is made; it loses its name at once.
    path: PathBuf,
    /// What is not in the file yet.
    memory: Vec<u8>,
    file: Option<File>,
    file_bytes: u64,
}

impl Spool {
    /// An empty one.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            memory: Vec::new(),
            file: None,
            file_bytes: 0,
        }
    }

    /// Keeps a path; where.
    pub fn put(&mut self, path: &Path) -> Result<u64> {
        let at = self.file_bytes + self.memory.len() as u64;
        let bytes = path.as_os_str().as_bytes();
        self.memory.extend((bytes.len() as u32).to_le_bytes());
        self.memory.extend(bytes);
        if self.memory.len() > SPOOL_BYTES_MAX {
            self.spill().map_err(Error::at("write", &self.path))?;
        }
        Ok(at)
    }

    fn spill(&mut self) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(nameless(&self.path)?),
        };
        file.write_all_at(&self.memory, self.file_bytes)?;
        self.file_bytes += self.memory.len() as u64;
        self.memory.clear();
        Ok(())
    }

    /// The path that was put there.
    pub fn get(&self, at: u64) -> Result<PathBuf> {
        let read = |at: u64, bytes: &mut [u8]| match (&self.file, at.checked_sub(self.file_bytes)) {
            (_, Some(at)) => (&self.memory[at as usize..]).read_exact(bytes),
            (Some(file), None) => file.read_exact_at(bytes, at),
            (None, None) => Err(io::ErrorKind::UnexpectedEof.into()),
        };
        let mut length = [0; 4];
        let mut bytes = Vec::new();
        read(at, &mut length)
            .and_then(|()| {
                bytes.resize(u32::from_le_bytes(length) as usize, 0);
                read(at + 4, &mut bytes)
            })
            .map_err(Error::at("read", &self.path))?;
        Ok(std::ffi::OsString::from_vec(bytes).into())
    }
}

/// A file that is gone with its last descriptor.
pub fn nameless(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    let file = options.read(true).write(true).create_new(true).open(path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_the_same_in_memory_and_in_its_file() {
        let folder = tempfile::tempdir().unwrap();
        for value_bytes in [0, VALUE_BYTES] {
            let mut table = Table::new(folder.path().join("table"), value_bytes);
            let value = |number: u64| {
                let mut value = [0; VALUE_BYTES];
                value[..value_bytes].fill(number as u8);
                value
            };
            // Inodes in a row, some far away, and such as hashes of paths are.
            let keys = |number: u64| [number, number << 40, number.wrapping_mul(0xD6E8_FEB8_6659_FD93)];
            let count = MEMORY_ENTRIES_MAX as u64;
            for number in 1..count {
                for key in keys(number) {
                    assert!(table.put(key, value(number)).unwrap(), "{key}");
                }
            }
            assert!(table.file.is_some());
            assert!(!table.put(7, value(8)).unwrap());
            assert_eq!(table.get(7).unwrap(), Some(value(8)));
            for number in 8..count {
                for key in keys(number) {
                    assert_eq!(table.get(key).unwrap(), Some(value(number)), "{key}");
                }
                assert!(!table.has(number + (1 << 33)).unwrap());
            }
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_table_takes_no_more_than_its_file_has_places_for() {
        let folder = tempfile::tempdir().unwrap();
        let mut table = Table::new(folder.path().join("table"), 0);
        for key in 0..=MEMORY_ENTRIES_MAX as u64 {
            table.put(key, EMPTY).unwrap();
        }
        // As if the others were in it.
        let slots = table.file.as_mut().unwrap();
        assert_eq!(slots.count, MEMORY_ENTRIES_MAX as u64 + 1);
        slots.count = FILE_ENTRIES_MAX - 1;
        assert!(table.put(1 << 40, EMPTY).unwrap());
        let error = table.put(1 << 41, EMPTY).unwrap_err().to_string();
        assert!(
            error.contains("the number of entries and of directories"),
            "{error}"
        );
        assert!(table.has(1 << 40).unwrap() && !table.has(1 << 41).unwrap());
    }

    #[test]
    fn a_spool_gives_back_what_was_put_where() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(folder.path().join("spool"));
        let path = |number: usize| PathBuf::from(format!("{number}-{}", "n".repeat(number % 300)));
        let places: Vec<u64> = (0..5000)
            .map(|number| spool.put(&path(number)).unwrap())
            .collect();
        assert!(spool.file_bytes > 0 && !spool.memory.is_empty());
        for (number, at) in places.iter().enumerate().rev() {
            assert_eq!(spool.get(*at).unwrap(), path(number));
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_queue_gives_back_what_is_put_in_while_it_is_emptied() {
        let folder = tempfile::tempdir().unwrap();
        let mut queue = Queue::make(&folder.path().join("queue")).unwrap();
        assert_eq!(queue.pop().unwrap(), None);
        // More than the buffers hold, and paths across their ends.
        let name = |number: usize| PathBuf::from(format!("{number}-{}", "n".repeat(number % 300)));
        let mut next = 0;
        for number in 0..2000 {
            queue.push(&name(number)).unwrap();
            if number % 3 == 0 {
                assert_eq!(queue.pop().unwrap(), Some(name(next)));
                next += 1;
            }
        }
        queue.push(Path::new("")).unwrap();
        for number in next..2000 {
            assert_eq!(queue.pop().unwrap(), Some(name(number)));
        }
        assert_eq!(queue.pop().unwrap(), Some(PathBuf::new()));
        assert_eq!(queue.pop().unwrap(), None);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
