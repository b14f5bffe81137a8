//! Finite State Entropy: tables from the distributions of symbols (RFC 8878, 4.1.1).

use super::bits::{Backward, Forward};

/// A symbol, and how the next state follows from this one.
#[derive(Clone, Copy, Default)]
struct Entry {
    symbol: u8,
    bits: u8,
    base: u16,
}

/// What decodes one kind of symbols.
pub struct Table {
    log: u32,
    entries: Vec<Entry>,
}

impl Table {
    /// Of one symbol that needs no bits.
    pub fn of_one(symbol: u8) -> Self {
        let (bits, base) = (0, 0);
        Self {
            log: 0,
            entries: vec![Entry { symbol, bits, base }],
        }
    }

    /// Of how often each symbol comes among 2^`log`; -1 is less than once. `None` when it does not add up.
    pub fn of_distribution(distribution: &[i16], log: u32) -> Option<Self> {
        let size = 1usize << log;
        let sum: usize = distribution
            .iter()
            .map(|count| usize::from(count.unsigned_abs()))
            .sum();
        if sum != size {
            return None;
        }
        let mut entries = vec![Entry::default(); size];
        let mut next = [0u16; 256];
        let mut end = size;
        for (symbol, _) in distribution.iter().enumerate().filter(|(_, count)| **count == -1) {
            end -= 1;
            entries[end].symbol = symbol as u8;
            next[symbol] = 1;
        }
        let step = (size >> 1) + (size >> 3) + 3;
        let mut at = 0;
        for (symbol, &count) in distribution.iter().enumerate().filter(|(_, count)| **count > 0) {
            next[symbol] = count as u16;
            for _ in 0..count {
                entries[at].symbol = symbol as u8;
                loop {
                    at = (at + step) & (size - 1);
                    // There is such a place: this symbol's was one.
                    if at < end {
                        break;
                    }
                }
            }
        }
        for entry in &mut entries {
            let state = &mut next[usize::from(entry.symbol)];
            let bits = log - state.checked_ilog2()?;
            entry.bits = bits as u8;
            entry.base = u16::try_from((usize::from(*state) << bits) - size).ok()?;
            *state += 1;
        }
        Some(Self { log, entries })
    }

    /// Reads a distribution of at most so many symbols, and what follows it.
    pub fn read(bytes: &[u8], log_max: u32, symbols_max: usize) -> Option<(Self, &[u8])> {
        let mut bits = Forward::new(bytes);
        let log = bits.read(4) as u32 + 5;
        if log > log_max {
            return None;
        }
        let mut distribution = Vec::with_capacity(symbols_max);
        let mut remaining = 1i32 << log;
        while remaining > 0 && distribution.len() < symbols_max {
            let count_bits = (remaining + 1).ilog2() + 1;
            let value = bits.peek(count_bits) as i32;
            let low = (1 << (count_bits - 1)) - 1;
            let threshold = (1 << count_bits) - 1 - (remaining + 1);
            let (value, used) = match value {
                _ if value & low < threshold => (value & low, count_bits - 1),
                _ if value > low => (value - threshold, count_bits),
                _ => (value, count_bits),
            };
            bits.skip(used);
            let count = value - 1;
            remaining -= count.abs();
            distribution.push(count as i16);
            let mut has_more = count == 0;
            while has_more && distribution.len() <= symbols_max {
                let more = bits.read(2) as usize;
                distribution.resize(distribution.len() + more, 0);
                has_more = more == 3;
            }
        }
        let is_whole = remaining == 0 && distribution.len() <= symbols_max;
        let table = is_whole.then(|| Self::of_distribution(&distribution, log))??;
        Some((table, bits.rest()?))
    }

    /// The first state.
    pub fn begin(&self, bits: &mut Backward<'_>) -> usize {
        bits.read(self.log) as usize
    }

    pub fn symbol(&self, state: usize) -> u8 {
        self.entries[state].symbol
    }

    pub fn next(&self, state: usize, bits: &mut Backward<'_>) -> usize {
        let entry = self.entries[state];
        usize::from(entry.base) + bits.read(entry.bits.into()) as usize
    }
}
