//! Huffman codes of literals (RFC 8878, 4.2).

use super::bits::Backward;
use super::fse::Table;

/// Longest code.
const CODE_BITS_MAX: u32 = 11;
/// Largest accuracy of the table that weights are coded with.
const WEIGHTS_LOG_MAX: u32 = 6;
/// Weights that can stand in a description; that of the last symbol follows from the others.
const WEIGHTS_MAX: usize = 255;

/// Symbol and length of the code that the next bits begin with.
pub struct Codes {
    bits: u32,
    entries: Vec<(u8, u8)>,
}

impl Codes {
    /// Reads the description of a code, and what follows it.
    pub fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (&head, rest) = bytes.split_first()?;
        if head < 128 {
            let (coded, rest) = rest.split_at_checked(head.into())?;
            return Some((Self::of_weights(coded_weights(coded)?)?, rest));
        }
        let count = usize::from(head) - 127;
        let (packed, rest) = rest.split_at_checked(count.div_ceil(2))?;
        let mut weights: Vec<u8> = packed.iter().flat_map(|byte| [byte >> 4, byte & 15]).collect();
        weights.truncate(count);
        Some((Self::of_weights(weights)?, rest))
    }

    fn of_weights(mut weights: Vec<u8>) -> Option<Self> {
        let places = |weight: u8| if weight == 0 { 0 } else { 1usize << (weight - 1) };
        if weights.iter().any(|&weight| u32::from(weight) > CODE_BITS_MAX) {
            return None;
        }
        let sum: usize = weights.iter().map(|&weight| places(weight)).sum();
        let bits = sum.checked_ilog2()? + 1;
        let last = (1usize << bits) - sum;
        if bits > CODE_BITS_MAX || !last.is_power_of_two() {
            return None;
        }
        weights.push(last.ilog2() as u8 + 1);
        let mut entries = Vec::with_capacity(1 << bits);
        for weight in 1..=bits as u8 {
            for (symbol, _) in weights.iter().enumerate().filter(|(_, other)| **other == weight) {
                let entry = (symbol as u8, bits as u8 + 1 - weight);
                entries.resize(entries.len() + places(weight), entry);
            }
        }
        (entries.len() == 1 << bits).then_some(Self { bits, entries })
    }

    /// Decodes so many symbols, which must be all there are.
    pub fn decode(&self, stream: &[u8], count: usize, out: &mut Vec<u8>) -> Option<()> {
        let mut bits = Backward::new(stream)?;
        // As many codes as surely fit into one look.
        const AT_ONCE: usize = 4;
        let look = self.bits * AT_ONCE as u32;
        let mask = (1 << self.bits) - 1;
        for _ in 0..count / AT_ONCE {
            let seen = bits.peek(look);
            let mut left = look;
            let four = [(); AT_ONCE].map(|()| {
                let (symbol, used) = self.entries[(seen >> (left - self.bits) & mask) as usize];
                left -= u32::from(used);
                symbol
            });
            out.extend_from_slice(&four);
            bits.skip(look - left);
        }
        for _ in 0..count % AT_ONCE {
            let (symbol, used) = self.entries[bits.peek(self.bits) as usize];
            out.push(symbol);
            bits.skip(used.into());
        }
        (bits.left() == 0).then_some(())
    }
}

/// Weights in a stream of two states that take turns (4.2.1.2).
fn coded_weights(bytes: &[u8]) -> Option<Vec<u8>> {
    let (table, stream) = Table::read(bytes, WEIGHTS_LOG_MAX, WEIGHTS_MAX)?;
    let mut bits = Backward::new(stream)?;
    let mut states = [table.begin(&mut bits), table.begin(&mut bits)];
    let mut weights = Vec::new();
    while bits.left() >= 0 && weights.len() < WEIGHTS_MAX {
        weights.push(table.symbol(states[0]));
        states[0] = table.next(states[0], &mut bits);
        states.swap(0, 1);
    }
    // The state whose turn it was could not be renewed: the other one has the last symbol.
    weights.push(table.symbol(states[0]));
    (weights.len() <= WEIGHTS_MAX).then_some(weights)
}
