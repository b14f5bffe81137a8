//! Blocks of image blobs, for devices that reach nothing but the broker.
//!
//! Devices ask ([`BlockWant`]), one thread answers: in the order asked for each device, one block of each device in turn. A
//! blob is read where it is wanted; it is never in memory as a whole.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

use punnet_protocol::{
    BLOCK_BYTES_MAX, Block, BlockAnswer, BlockRefusal, BlockWant, Digest, Name, PAYLOAD_BYTES_MAX, envelope,
};
use rusqlite::Connection;
use tokio::sync::mpsc;

use crate::db::{devices, images};
use crate::image_store;
use crate::serve::Counters;
use crate::session::BlockOut;

/// Blocks that one device may have asked for and not been sent: 256 KiB, enough to fill a link of 10 Mbit/s with 200 ms
/// round trip.
pub const WANTS_PER_DEVICE_MAX: usize = 16;

/// Wants of all devices together; about 100 bytes each.
const WANTS_MAX: usize = 64 * 1024;

/// Block answers that wait for the broker: the thread stops reading beyond it.
pub const ANSWERS_MAX: usize = 32;

/// Blob files held open. Devices of one roll-out read the same few.
const FILES_MAX: usize = 32;

/// Wants by device, served in turn.
#[derive(Default)]
pub struct Queue {
    by_device: HashMap<Name, VecDeque<BlockWant>>,
    /// Devices with wants, next one first.
    turns: VecDeque<Name>,
    wants: usize,
}

impl Queue {
    /// Takes a want; gives it back when the device has too many waiting.
    pub fn push(&mut self, device: Name, want: BlockWant) -> Result<(), BlockWant> {
        if self.wants >= WANTS_MAX {
            return Err(want);
        }
        let waiting = self.by_device.entry(device.clone()).or_default();
        // Asked again because the answer took long: it comes once.
        if waiting.contains(&want) {
            return Ok(());
        }
        if waiting.len() >= WANTS_PER_DEVICE_MAX {
            return Err(want);
        }
        if waiting.is_empty() {
            self.turns.push_back(device);
        }
        waiting.push_back(want);
        self.wants += 1;
        Ok(())
    }

    /// The next want: the oldest of the device whose turn it is.
    pub fn pop(&mut self) -> Option<(Name, BlockWant)> {
        let device = self.turns.pop_front()?;
        let waiting = self.by_device.get_mut(&device)?;
        let want = waiting.pop_front()?;
        if waiting.is_empty() {
            self.by_device.remove(&device);
        } else {
            self.turns.push_back(device.clone());
        }
        self.wants -= 1;
        Some((device, want))
    }
}

/// The door of the block thread.
#[derive(Clone)]
pub struct Blocks(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: Queue,
    refused: VecDeque<(Name, Digest)>,
    ending: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What the block thread works with.
pub struct BlockServer {
    /// For devices and blob sizes.
    pub database: Connection,
    /// The blob directory.
    pub blobs: PathBuf,
    /// Where the answers go.
    pub answers: mpsc::Sender<BlockOut>,
    /// What was ignored.
    pub counters: Arc<Counters>,
}

impl Blocks {
    /// Starts the thread.
    pub fn start(server: BlockServer) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let blocks = Self(shared.clone());
        thread::Builder::new()
            .name("blocks".into())
            .spawn(move || server.run(&shared))?;
        Ok(blocks)
    }

    /// Takes what a device asks for. Never waits: beyond the bounds the device is told to ask again later.
    pub fn want(&self, device: Name, want: BlockWant) {
        let mut state = self.0.lock();
        if let Err(want) = state.queue.push(device.clone(), want)
            && state.refused.len() < WANTS_PER_DEVICE_MAX * ANSWERS_MAX
        {
            state.refused.push_back((device, want.blob));
        }
        drop(state);
        self.0.changed.notify_one();
    }

    /// Ends the thread.
    pub fn end(&self) {
        self.0.lock().ending = true;
        self.0.changed.notify_one();
    }
}

enum Task {
    Answer(Name, BlockWant),
    Busy(Name, Digest),
}

impl BlockServer {
    fn run(self, shared: &Shared) {
        let mut files = Files::default();
        let mut buffer = vec![0; PAYLOAD_BYTES_MAX];
        while let Some(task) = next_task(shared) {
            let (device, answer) = match task {
                Task::Busy(device, blob) => (
                    device,
                    BlockAnswer::Refused {
                        blob,
                        reason: BlockRefusal::Busy,
                    },
                ),
                Task::Answer(device, want) => match devices::exists(&self.database, &device) {
                    Ok(true) => (device, self.answer(&want, &mut files)),
                    Ok(false) | Err(_) => {
                        self.counters.unknown_device.add();
                        continue;
                    }
                },
            };
            let Ok(payload) = envelope::encode(&answer, &mut buffer) else {
                continue;
            };
            if self.answers.blocking_send((device, payload.to_vec())).is_err() {
                return;
            }
        }
    }

    fn answer(&self, want: &BlockWant, files: &mut Files) -> BlockAnswer {
        let refused = |reason| BlockAnswer::Refused {
            blob: want.blob,
            reason,
        };
        let total_bytes = match images::blob_bytes(&self.database, &want.blob) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return refused(BlockRefusal::Unknown),
            Err(_) => return refused(BlockRefusal::Busy),
        };
        let Some(length) = length(want, total_bytes) else {
            return refused(BlockRefusal::OutOfRange);
        };
        let mut data = heapless::Vec::new();
        data.resize_default(length).expect("length() keeps the bound");
        let read = files
            .get(&self.blobs, &want.blob)
            .and_then(|file| file.read_exact_at(&mut data, want.offset));
        match read {
            Ok(()) => BlockAnswer::Data(Block {
                blob: want.blob,
                offset: want.offset,
                total_bytes,
                data,
            }),
            Err(error) => {
                crate::warn(&format!(
                    "cannot read blob {} at {}: {error}",
                    want.blob, want.offset
                ));
                files.forget(&want.blob);
                refused(BlockRefusal::Unknown)
            }
        }
    }
}

/// Bytes to send for a want; `None` when it lies outside the blob or the bounds.
fn length(want: &BlockWant, total_bytes: u64) -> Option<usize> {
    let left = total_bytes.checked_sub(want.offset).filter(|left| *left > 0)?;
    let wanted = usize::try_from(want.length)
        .ok()
        .filter(|wanted| (1..=BLOCK_BYTES_MAX).contains(wanted))?;
    Some(usize::try_from(left).map_or(wanted, |left| left.min(wanted)))
}

fn next_task(shared: &Shared) -> Option<Task> {
    let mut state = shared.lock();
    loop {
        if state.ending {
            return None;
        }
        if let Some((device, blob)) = state.refused.pop_front() {
            return Some(Task::Busy(device, blob));
        }
        if let Some((device, want)) = state.queue.pop() {
            return Some(Task::Answer(device, want));
        }
        state = shared
            .changed
            .wait(state)
            .unwrap_or_else(|poisoned| poisoned.into_inner());
    }
}

/// Open blob files, most recently used last.
#[derive(Default)]
struct Files(Vec<(Digest, File)>);

impl Files {
    fn get(&mut self, blobs: &std::path::Path, digest: &Digest) -> std::io::Result<&File> {
        let found = match self.0.iter().position(|(held, _)| held == digest) {
            Some(at) => self.0.remove(at),
            None => (*digest, File::open(image_store::blob_path(blobs, digest))?),
        };
        if self.0.len() >= FILES_MAX {
            self.0.remove(0);
        }
        self.0.push(found);
        Ok(&self.0.last().expect("just pushed").1)
    }

    fn forget(&mut self, digest: &Digest) {
        self.0.retain(|(held, _)| held != digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn want(offset: u64) -> BlockWant {
        BlockWant {
            blob: Digest([0; 32]),
            offset,
            length: 10,
        }
    }

    #[test]
    fn devices_take_turns_and_each_gets_its_own_order() {
        let mut queue = Queue::default();
        for offset in 0..3 {
            queue.push(name("greedy"), want(offset)).unwrap();
        }
        queue.push(name("modest"), want(9)).unwrap();
        let order: Vec<_> = std::iter::from_fn(|| queue.pop())
            .map(|(d, w)| (d.to_string(), w.offset))
            .collect();
        let expected = [("greedy", 0), ("modest", 9), ("greedy", 1), ("greedy", 2)];
        assert_eq!(order, expected.map(|(d, o)| (d.to_owned(), o)));
        assert!(queue.by_device.is_empty() && queue.turns.is_empty() && queue.wants == 0);
    }

    #[test]
    fn a_device_has_a_bound_of_its_own_and_repeats_count_once() {
        let mut queue = Queue::default();
        for offset in 0..WANTS_PER_DEVICE_MAX as u64 {
            queue.push(name("pi"), want(offset)).unwrap();
            queue.push(name("pi"), want(offset)).unwrap();
        }
        assert!(queue.push(name("pi"), want(99)).is_err());
        assert!(queue.push(name("other"), want(99)).is_ok());
    }

    #[test]
    fn only_what_lies_in_the_blob_and_the_bounds_is_sent() {
        let table = [
            (0, 10, 100, Some(10)),
            (95, 10, 100, Some(5)),
            (100, 10, 100, None),
            (u64::MAX, 10, 100, None),
            (0, 0, 100, None),
            (0, BLOCK_BYTES_MAX as u32 + 1, u64::MAX, None),
            (0, u32::MAX, 100, None),
            (0, BLOCK_BYTES_MAX as u32, u64::MAX, Some(BLOCK_BYTES_MAX)),
            (0, 10, 0, None),
        ];
        for (offset, wanted, total, expected) in table {
            let want = BlockWant {
                blob: Digest([0; 32]),
                offset,
                length: wanted,
            };
            assert_eq!(length(&want, total), expected, "{offset} {wanted} {total}");
        }
    }
}
