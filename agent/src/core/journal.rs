//! What the agent must not forget: one record in two slots, written by turns.
//!
//! A slot's file, little endian:
//!
//! | bytes | content |
//! |---|---|
//! | 0..4 | `PNJ1` |
//! | 4..12 | sequence; the slot with the greater one counts |
//! | 12..16 | length of the body |
//! | 16..20 | CRC-32 of bytes 4..16 and of the body |
//! | 20.. | the body: [`Record`] in postcard |
//!
//! A write that power interrupts damages the slot that did not count. The signed payloads are kept as they came and their
//! signatures are checked again when they are read: whoever writes to the flash cannot make the agent run anything.

use punnet_protocol::{Digest, PAYLOAD_BYTES_MAX};
use serde::{Deserialize, Serialize};

use super::backoff::pause_ms;
use super::{Action, Core, Job, Level, Now, Packet};

/// Files the record is written to by turns.
pub const SLOTS: usize = 2;

/// Largest slot file: two signed payloads, and room for the rest.
pub const RECORD_BYTES_MAX: usize = 2 * PAYLOAD_BYTES_MAX + 8 * 1024;

const MAGIC: &[u8; 4] = b"PNJ1";
const HEADER_BYTES: usize = 20;

/// Pauses between attempts to write when the disk is full: soon, since a slot is small, but not so often that a failing
/// card is hammered.
const RETRY_FIRST_MS: u64 = 2_000;
const RETRY_MOST_MS: u64 = 60_000;

/// The record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Newest generation accepted.
    pub generation: u64,
    /// Newest `signed_at_s` accepted.
    pub time_floor_s: u64,
    /// The signed payload of `generation`.
    pub desired: Vec<u8>,
    /// The signed payload of the newest desired state all of whose apps have run well; to go back to.
    pub good: Vec<u8>,
    /// Specs that have run well, of those in `desired`.
    pub soaked: Vec<Digest>,
    /// Specs that failed and are not tried again, of those in `desired`.
    pub refused: Vec<Digest>,
    /// Specs whose process ended for good by its restart policy, and its code: a reboot must not run it again.
    pub ended: Vec<(Digest, i32)>,
}

/// A desired state that was found good and is not yet durable.
#[derive(Debug)]
pub struct Pending {
    pub generation: u64,
    pub signed_at_s: u64,
    pub payload: Vec<u8>,
    /// To be acknowledged once it is durable.
    pub packets: Vec<Packet>,
    /// The controller was told that it could not be stored.
    pub storage_reported: bool,
}

/// The record and how it gets to the flash.
#[derive(Debug, Default)]
pub struct Journal {
    pub record: Record,
    pub pending: Option<Pending>,
    /// `record` has changed since it was last given to be written.
    pub dirty: bool,
    sequence: u64,
    /// A write is under way; the generation it makes durable when it carries a pending desired state.
    writing: Option<Option<u64>>,
    failures: u32,
    retry_at: Option<u64>,
}

impl Journal {
    /// The newest whole record of the slots.
    pub fn read(slots: &[Option<Vec<u8>>; SLOTS]) -> Self {
        let newest = slots
            .iter()
            .flatten()
            .filter_map(|file| decode(file))
            .max_by_key(|(sequence, _)| *sequence);
        let (sequence, record) = newest.unwrap_or_default();
        Self {
            record,
            sequence,
            ..Self::default()
        }
    }

    pub fn generation(&self) -> u64 {
        self.record.generation
    }

    pub fn time_floor_s(&self) -> u64 {
        self.record.time_floor_s
    }

    pub fn wake_at(&self) -> Option<u64> {
        self.retry_at
    }

    /// The record with the pending desired state in it.
    fn with_pending(&self) -> Record {
        let mut record = self.record.clone();
        if let Some(pending) = &self.pending {
            record.generation = pending.generation;
            record.time_floor_s = record.time_floor_s.max(pending.signed_at_s);
            record.desired.clone_from(&pending.payload);
        }
        record
    }
}

impl Core {
    /// Gives the record to be written when it needs to be and nothing is being written.
    pub(super) fn save(&mut self, now: Now) {
        let journal = &mut self.journal;
        let wanted = journal.dirty || journal.pending.is_some();
        if !wanted || journal.writing.is_some() || journal.retry_at.is_some_and(|at| now.ms < at) {
            return;
        }
        journal.retry_at = None;
        journal.dirty = false;
        journal.writing = Some(journal.pending.as_ref().map(|pending| pending.generation));
        let sequence = journal.sequence + 1;
        let record = encode(sequence, &journal.with_pending());
        let slot = usize::from(sequence % 2 == 1);
        self.job(Job::Persist { slot, record });
    }

    pub(super) fn persisted(&mut self, now: Now, result: Result<(), String>) {
        let journal = &mut self.journal;
        let Some(generation) = journal.writing.take() else {
            return;
        };
        if let Err(error) = result {
            journal.failures = journal.failures.saturating_add(1);
            journal.retry_at = Some(now.ms + pause_ms(journal.failures, RETRY_FIRST_MS, RETRY_MOST_MS));
            journal.dirty = true;
            self.log(Level::Error, format!("cannot store the state: {error}"));
            return self.storage_failed(now, &error);
        }
        // Only now does the other slot hold the older record.
        journal.sequence += 1;
        journal.failures = 0;
        // A newer desired state may have come meanwhile; it is written next.
        let durable = journal
            .pending
            .as_ref()
            .is_some_and(|pending| Some(pending.generation) == generation);
        if durable && let Some(pending) = journal.pending.take() {
            journal.record.generation = pending.generation;
            journal.record.time_floor_s = journal.record.time_floor_s.max(pending.signed_at_s);
            journal.record.desired = pending.payload;
            self.out.extend(pending.packets.into_iter().map(Action::Ack));
            self.desired_is_durable(now);
        }
    }
}

fn encode(sequence: u64, record: &Record) -> Vec<u8> {
    let mut file = vec![0; HEADER_BYTES];
    // Writing to memory does not fail; an empty body would be refused when read.
    let body = postcard::to_allocvec(record).unwrap_or_default();
    file[..4].copy_from_slice(MAGIC);
    file[4..12].copy_from_slice(&sequence.to_le_bytes());
    file[12..16].copy_from_slice(&(body.len() as u32).to_le_bytes());
    file.extend_from_slice(&body);
    let checksum = checksum(&file);
    file[16..20].copy_from_slice(&checksum.to_le_bytes());
    file
}

fn decode(file: &[u8]) -> Option<(u64, Record)> {
    let (header, body) = file.split_first_chunk::<HEADER_BYTES>()?;
    let length = u32::from_le_bytes(header[12..16].try_into().ok()?) as usize;
    let found = u32::from_le_bytes(header[16..20].try_into().ok()?);
    if !header.starts_with(MAGIC) || length != body.len() || found != checksum(file) {
        return None;
    }
    let sequence = u64::from_le_bytes(header[4..12].try_into().ok()?);
    match postcard::take_from_bytes(body) {
        Ok((record, [])) => Some((sequence, record)),
        _ => None,
    }
}

fn checksum(file: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&file[4..16]);
    hasher.update(&file[HEADER_BYTES..]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(generation: u64) -> Record {
        Record {
            generation,
            desired: vec![1, 2, 3],
            refused: vec![Digest([4; 32])],
            ..Record::default()
        }
    }

    #[test]
    fn the_slot_with_the_greater_sequence_counts() {
        let slots = [Some(encode(9, &record(3))), Some(encode(10, &record(4)))];
        assert_eq!(Journal::read(&slots).record, record(4));
        let [a, b] = slots;
        assert_eq!(Journal::read(&[b, a]).record, record(4));
    }

    #[test]
    fn a_slot_cut_short_or_altered_anywhere_does_not_count() {
        let older = encode(9, &record(3));
        let newer = encode(10, &record(4));
        for cut in 0..newer.len() {
            let slots = [Some(older.clone()), Some(newer[..cut].to_vec())];
            assert_eq!(Journal::read(&slots).record, record(3), "cut at {cut}");
        }
        for at in 0..newer.len() {
            let mut altered = newer.clone();
            altered[at] ^= 0x40;
            assert_eq!(
                Journal::read(&[Some(older.clone()), Some(altered)]).record,
                record(3),
                "byte {at}"
            );
        }
    }

    #[test]
    fn no_slot_is_an_empty_record() {
        assert_eq!(Journal::read(&[None, None]).record, Record::default());
        assert_eq!(
            Journal::read(&[Some(vec![]), Some(vec![0; 4096])]).record,
            Record::default()
        );
    }
}
