//! One blob on its way here: what to ask for, and what to do with what comes.
//!
//! Blocks are taken strictly in order (MQTT keeps the order of what it does not lose); after a loss all is asked for again from
//! the first byte missing.

use punnet_protocol::{BLOCK_BYTES_MAX, BlockView, Digest};
use sha2::{Digest as _, Sha256};

use super::backoff::pause_ms;

/// Blocks asked for and not yet on disk. Four keep a link busy through a round trip of 100 ms at 5 Mbit/s, and take 64 KiB.
pub const WINDOW_BLOCKS: u64 = 4;
/// Silence after which blocks count as lost, at first and at most.
const SILENCE_FIRST_MS: u64 = 5_000;
const SILENCE_MOST_MS: u64 = 60_000;
/// Silences in a row after which people are told.
const SILENCES_TOLD: u32 = 3;

/// A blob of which `received` bytes are here.
#[derive(Debug)]
pub struct Transfer {
    pub blob: Digest,
    pub total: u64,
    hash: Box<Sha256>,
    /// Bytes that came in order.
    pub received: u64,
    /// Bytes on disk.
    written: u64,
    /// Bytes asked for.
    asked: u64,
    silences: u32,
    /// When what was asked for counts as lost; or, with nothing asked for, before which nothing is asked for.
    deadline: Option<u64>,
    quiet_until: u64,
}

/// What became of a block.
#[derive(Debug, PartialEq)]
pub enum Taken {
    /// Not the one that is missing; nothing changes.
    Ignored,
    /// In order: to be written at this offset.
    Write(u64),
    /// It contradicts what is known of the blob.
    Wrong(String),
}

impl Transfer {
    pub fn new(blob: Digest, total: u64, here: u64, hash: Box<Sha256>) -> Self {
        let (received, written, asked) = (here, here, here);
        Self {
            blob,
            total,
            hash,
            received,
            written,
            asked,
            silences: 0,
            deadline: None,
            quiet_until: 0,
        }
    }

    /// Offset and length of the next block to ask for.
    pub fn next_want(&mut self, now_ms: u64) -> Option<(u64, u32)> {
        let block = BLOCK_BYTES_MAX as u64;
        if self.asked >= self.total || self.asked + block > self.written + WINDOW_BLOCKS * block {
            return None;
        }
        if now_ms < self.quiet_until {
            return None;
        }
        let length = block.min(self.total - self.asked);
        let offset = self.asked;
        self.asked += length;
        self.deadline
            .get_or_insert(now_ms + pause_ms(self.silences + 1, SILENCE_FIRST_MS, SILENCE_MOST_MS));
        Some((offset, length as u32))
    }

    pub fn take(&mut self, now_ms: u64, block: &BlockView<'_>) -> Taken {
        if block.blob != self.blob || block.offset != self.received || self.received >= self.asked {
            return Taken::Ignored;
        }
        if block.total_bytes != self.total {
            let (said, known) = (block.total_bytes, self.total);
            return Taken::Wrong(format!(
                "the fleet says it has {said} bytes, the image says {known}"
            ));
        }
        let expected = (BLOCK_BYTES_MAX as u64).min(self.total - self.received);
        if block.data.len() as u64 != expected {
            return Taken::Wrong(format!(
                "a block has {} bytes, {expected} were asked for",
                block.data.len()
            ));
        }
        self.hash.update(block.data);
        let offset = self.received;
        self.received += expected;
        self.silences = 0;
        let more = self.asked > self.received;
        self.deadline = more.then(|| now_ms + SILENCE_FIRST_MS);
        Taken::Write(offset)
    }

    /// Bytes up to `end` are on disk.
    pub fn wrote(&mut self, end: u64) {
        self.written = self.written.max(end).min(self.received);
    }

    pub fn is_written(&self) -> bool {
        self.written == self.total
    }

    /// The SHA-256 of the whole blob is its digest.
    pub fn is_genuine(&self) -> bool {
        Digest((*self.hash).clone().finalize().into()) == self.blob
    }

    /// The connection is gone and with it all that was asked for.
    pub fn disconnected(&mut self) {
        self.asked = self.received;
        self.deadline = None;
    }

    /// The fleet has too much to do.
    pub fn busy(&mut self, now_ms: u64) {
        self.silences = self.silences.saturating_add(1);
        self.asked = self.received;
        self.deadline = None;
        self.quiet_until = now_ms + pause_ms(self.silences, SILENCE_FIRST_MS / 5, SILENCE_MOST_MS);
    }

    /// Gives up waiting when it is time to; true when people should know.
    pub fn check_silence(&mut self, now_ms: u64) -> bool {
        if self.deadline.is_none_or(|at| now_ms < at) {
            return false;
        }
        self.silences = self.silences.saturating_add(1);
        self.asked = self.received;
        self.deadline = None;
        self.silences.is_multiple_of(SILENCES_TOLD)
    }

    /// The fleet has not answered for long.
    pub fn is_silent(&self) -> bool {
        self.silences >= SILENCES_TOLD
    }

    pub fn wake_at(&self, now_ms: u64) -> Option<u64> {
        let quiet = (self.quiet_until > now_ms).then_some(self.quiet_until);
        self.deadline.or(quiet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = BLOCK_BYTES_MAX as u64;

    fn blob(bytes: usize) -> (Vec<u8>, Digest) {
        let data: Vec<u8> = (0..bytes).map(|n| (n * 7 % 251) as u8).collect();
        let digest = Digest(Sha256::digest(&data).into());
        (data, digest)
    }

    fn block(data: &[u8], digest: Digest, offset: u64) -> BlockView<'_> {
        let end = data.len().min(offset as usize + BLOCK_BYTES_MAX);
        BlockView {
            blob: digest,
            offset,
            total_bytes: data.len() as u64,
            data: &data[offset as usize..end],
        }
    }

    #[test]
    fn the_window_bounds_what_is_asked_until_it_is_on_disk() {
        let (data, digest) = blob(10 * BLOCK_BYTES_MAX + 5);
        let mut transfer = Transfer::new(digest, data.len() as u64, 0, Box::default());
        let asked: Vec<_> = std::iter::from_fn(|| transfer.next_want(0)).collect();
        assert_eq!(asked.len() as u64, WINDOW_BLOCKS);
        assert_eq!(transfer.take(0, &block(&data, digest, 0)), Taken::Write(0));
        assert_eq!(transfer.next_want(0), None, "not on disk yet");
        transfer.wrote(BLOCK);
        assert_eq!(transfer.next_want(0), Some((4 * BLOCK, BLOCK as u32)));
    }

    #[test]
    fn a_resumed_blob_is_whole_and_genuine_at_its_end() {
        let (data, digest) = blob(2 * BLOCK_BYTES_MAX + 5);
        let here = 777;
        let hash = Box::new(Sha256::new_with_prefix(&data[..here]));
        let mut transfer = Transfer::new(digest, data.len() as u64, here as u64, hash);
        while let Some((offset, length)) = transfer.next_want(0) {
            let view = block(&data, digest, offset);
            assert_eq!(view.data.len(), length as usize);
            assert_eq!(transfer.take(0, &view), Taken::Write(offset));
            transfer.wrote(offset + u64::from(length));
        }
        assert!(transfer.is_written() && transfer.is_genuine());
    }

    #[test]
    fn an_altered_byte_is_found_at_the_end() {
        let (mut data, digest) = blob(100);
        let mut transfer = Transfer::new(digest, 100, 0, Box::default());
        transfer.next_want(0);
        data[50] ^= 1;
        assert_eq!(transfer.take(0, &block(&data, digest, 0)), Taken::Write(0));
        transfer.wrote(100);
        assert!(transfer.is_written() && !transfer.is_genuine());
    }

    #[test]
    fn after_a_loss_all_is_asked_again_from_the_first_byte_missing() {
        let (data, digest) = blob(10 * BLOCK_BYTES_MAX);
        let mut transfer = Transfer::new(digest, data.len() as u64, 0, Box::default());
        while transfer.next_want(0).is_some() {}
        assert_eq!(
            transfer.take(1, &block(&data, digest, BLOCK)),
            Taken::Ignored,
            "not the one missing"
        );
        assert_eq!(transfer.take(1, &block(&data, digest, 0)), Taken::Write(0));
        assert_eq!(
            transfer.take(1, &block(&data, digest, 0)),
            Taken::Ignored,
            "it is here already"
        );
        transfer.wrote(BLOCK);
        assert!(!transfer.check_silence(SILENCE_FIRST_MS));
        assert_eq!(transfer.next_want(10), Some((4 * BLOCK, BLOCK as u32)));
        transfer.check_silence(1 + SILENCE_FIRST_MS);
        assert_eq!(
            transfer.next_want(1 + SILENCE_FIRST_MS),
            Some((BLOCK, BLOCK as u32))
        );
    }

    #[test]
    fn blocks_that_contradict_the_image_are_wrong() {
        let (data, digest) = blob(100);
        let mut transfer = Transfer::new(digest, 100, 0, Box::default());
        assert_eq!(
            transfer.take(0, &block(&data, digest, 0)),
            Taken::Ignored,
            "nobody asked"
        );
        transfer.next_want(0);
        let longer = BlockView {
            total_bytes: 101,
            ..block(&data, digest, 0)
        };
        assert!(matches!(transfer.take(0, &longer), Taken::Wrong(_)));
        let shorter = BlockView {
            data: &data[..99],
            ..block(&data, digest, 0)
        };
        assert!(matches!(transfer.take(0, &shorter), Taken::Wrong(_)));
        assert_eq!(
            transfer.take(0, &block(&data, Digest([0; 32]), 0)),
            Taken::Ignored,
            "another blob"
        );
    }
}
