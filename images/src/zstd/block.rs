//! Compressed blocks: literals, and sequences that say where they go and what is repeated between them (RFC 8878, 3.1.1.3).

use std::io;

use super::bits::Backward;
use super::fse::Table;
use super::huffman::Codes;
use super::malformed;
use super::window::Window;

/// Most that a block holds, compressed and not.
pub const BLOCK_BYTES_MAX: usize = 128 * 1024;

/// What blocks of one frame leave to those after them.
pub struct Decoder {
    codes: Option<Codes>,
    literal_lengths: Option<Table>,
    offsets: Option<Table>,
    match_lengths: Option<Table>,
    /// Offsets that were used last, the newest first.
    recent: [usize; 3],
    literals: Vec<u8>,
}

/// A kind of symbols in sequences: what they are by default, and how they may be coded.
struct Kind {
    what: &'static str,
    distribution: &'static [i16],
    log: u32,
    log_max: u32,
    symbols: usize,
}

const LITERAL_LENGTHS: Kind = Kind {
    what: "lengths of literals",
    distribution: &[
        4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1,
        -1, -1, -1,
    ],
    log: 6,
    log_max: 9,
    symbols: LITERAL_LENGTH_BITS.len(),
};

const MATCH_LENGTHS: Kind = Kind {
    what: "lengths of matches",
    distribution: &[
        1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
        1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1,
    ],
    log: 6,
    log_max: 9,
    symbols: MATCH_LENGTH_BITS.len(),
};

const OFFSETS: Kind = Kind {
    what: "offsets",
    distribution: &[
        1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1,
    ],
    log: 5,
    log_max: 8,
    symbols: 32,
};

/// Bits that follow each code of a length; each begins where the one before ends.
const LITERAL_LENGTH_BITS: [u8; 36] = [
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13,
    14, 15, 16,
];
const MATCH_LENGTH_BITS: [u8; 53] = [
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1,
    1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
];
const LITERAL_LENGTH_BASES: [u32; 36] = bases(0, LITERAL_LENGTH_BITS);
const MATCH_LENGTH_BASES: [u32; 53] = bases(3, MATCH_LENGTH_BITS);

const fn bases<const N: usize>(first: u32, bits: [u8; N]) -> [u32; N] {
    let mut bases = [first; N];
    let mut code = 1;
    while code < N {
        bases[code] = bases[code - 1] + (1 << bits[code - 1]);
        code += 1;
    }
    bases
}

impl Decoder {
    pub fn new() -> Self {
        Self {
            codes: None,
            literal_lengths: None,
            offsets: None,
            match_lengths: None,
            recent: [1, 4, 8],
            literals: Vec::with_capacity(BLOCK_BYTES_MAX),
        }
    }

    /// Adds what a compressed block holds.
    pub fn decode(&mut self, block: &[u8], window: &mut Window) -> io::Result<()> {
        self.literals.clear();
        let rest = self.read_literals(block).ok_or_else(|| bad("literals"))?;
        if self.literals.len() > BLOCK_BYTES_MAX {
            return Err(bad("literals"));
        }
        let (count, rest) = count_of_sequences(rest).ok_or_else(|| bad("number of sequences"))?;
        let used = match count {
            0 if !rest.is_empty() => return Err(bad("end")),
            0 => 0,
            _ => self.execute(count, rest, window)?,
        };
        window.push(&self.literals[used..]);
        Ok(())
    }

    /// Reads the literals, and returns what follows them.
    fn read_literals<'a>(&mut self, block: &'a [u8]) -> Option<&'a [u8]> {
        const RAW: u8 = 0;
        const REPEATED: u8 = 1;
        const COMPRESSED: u8 = 2;
        let head = *block.first()?;
        let (kind, format) = (head & 3, head >> 2 & 3);
        let mut digits = [0; 8];
        let known = block.len().min(5);
        digits[..known].copy_from_slice(&block[..known]);
        let digits = u64::from_le_bytes(digits);
        if kind <= REPEATED {
            let (head_bytes, size) = match format {
                1 => (2, digits >> 4 & 0xFFF),
                3 => (3, digits >> 4 & 0xF_FFFF),
                _ => (1, digits >> 3 & 0x1F),
            };
            let size = usize::try_from(size)
                .ok()
                .filter(|&size| size <= BLOCK_BYTES_MAX)?;
            let rest = block.get(head_bytes..)?;
            if kind == RAW {
                let (literals, rest) = rest.split_at_checked(size)?;
                self.literals.extend_from_slice(literals);
                return Some(rest);
            }
            let (&byte, rest) = rest.split_first()?;
            self.literals.resize(size, byte);
            return Some(rest);
        }
        let (head_bytes, size_bits) = [(3, 10), (3, 10), (4, 14), (5, 18)][usize::from(format)];
        let size_at = |at: u32| (digits >> at & ((1 << size_bits) - 1)) as usize;
        let (size, compressed) = (size_at(4), size_at(4 + size_bits));
        let (mut streams, rest) = block.get(head_bytes..)?.split_at_checked(compressed)?;
        if kind == COMPRESSED {
            let (codes, after) = Codes::read(streams)?;
            (self.codes, streams) = (Some(codes), after);
        }
        let codes = self.codes.as_ref()?;
        if size > BLOCK_BYTES_MAX {
            return None;
        }
        if format == 0 {
            codes.decode(streams, size, &mut self.literals)?;
            return Some(rest);
        }
        let (lengths, mut streams) = streams.split_at_checked(6)?;
        let each = size.div_ceil(4);
        for pair in lengths.chunks_exact(2) {
            let length = u16::from_le_bytes([pair[0], pair[1]]).into();
            let (stream, after) = streams.split_at_checked(length)?;
            codes.decode(stream, each, &mut self.literals)?;
            streams = after;
        }
        codes.decode(streams, size.checked_sub(each * 3)?, &mut self.literals)?;
        Some(rest)
    }

    /// Puts literals and matches where the sequences say; how many literals they took.
    fn execute(&mut self, count: usize, rest: &[u8], window: &mut Window) -> io::Result<usize> {
        let (&modes, mut rest) = rest.split_first().ok_or_else(|| bad("sequences"))?;
        for (kind, table, mode) in [
            (&LITERAL_LENGTHS, &mut self.literal_lengths, modes >> 6),
            (&OFFSETS, &mut self.offsets, modes >> 4 & 3),
            (&MATCH_LENGTHS, &mut self.match_lengths, modes >> 2 & 3),
        ] {
            rest = read_table(kind, table, mode, rest).ok_or_else(|| bad(kind.what))?;
        }
        let missing = || bad("sequences");
        let (Some(lengths), Some(offsets), Some(matches)) =
            (&self.literal_lengths, &self.offsets, &self.match_lengths)
        else {
            return Err(missing());
        };
        let mut bits = Backward::new(rest).ok_or_else(missing)?;
        let mut length_state = lengths.begin(&mut bits);
        let mut offset_state = offsets.begin(&mut bits);
        let mut match_state = matches.begin(&mut bits);
        let (begin, mut used) = (window.len(), 0);
        for number in 1..=count {
            let offset_code = offsets.symbol(offset_state);
            let offset = (1usize << offset_code) + bits.read(offset_code.into()) as usize;
            let code = usize::from(matches.symbol(match_state));
            let match_length =
                MATCH_LENGTH_BASES[code] as usize + bits.read(MATCH_LENGTH_BITS[code].into()) as usize;
            let code = usize::from(lengths.symbol(length_state));
            let length =
                LITERAL_LENGTH_BASES[code] as usize + bits.read(LITERAL_LENGTH_BITS[code].into()) as usize;
            if number < count {
                length_state = lengths.next(length_state, &mut bits);
                match_state = matches.next(match_state, &mut bits);
                offset_state = offsets.next(offset_state, &mut bits);
            }
            let literals = self.literals.get(used..used + length).ok_or_else(missing)?;
            window.push(literals);
            used += length;
            window.repeat(distance(&mut self.recent, offset, length == 0), match_length)?;
            if window.len() - begin > BLOCK_BYTES_MAX as u64 {
                return Err(bad("length"));
            }
        }
        if bits.left() != 0
            || window.len() - begin + (self.literals.len() - used) as u64 > BLOCK_BYTES_MAX as u64
        {
            return Err(bad("end"));
        }
        Ok(used)
    }
}

/// How far back an offset reaches: the first three values stand for recent ones (3.1.1.5). 0 is none.
fn distance(recent: &mut [usize; 3], offset: usize, without_literals: bool) -> usize {
    if offset > 3 {
        *recent = [offset - 3, recent[0], recent[1]];
        return recent[0];
    }
    let index = offset - 1 + usize::from(without_literals);
    let distance = match index {
        3 => recent[0] - 1,
        _ => recent[index],
    };
    match index {
        0 => {}
        1 => *recent = [distance, recent[0], recent[2]],
        _ => *recent = [distance, recent[0], recent[1]],
    }
    distance
}

fn count_of_sequences(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let number = |at: usize| bytes.get(at).map(|&byte| usize::from(byte));
    Some(match number(0)? {
        head @ 0..128 => (head, &bytes[1..]),
        head @ 128..255 => (((head - 128) << 8) + number(1)?, &bytes[2..]),
        _ => (number(1)? + (number(2)? << 8) + 0x7F00, &bytes[3..]),
    })
}

/// Reads the table of one kind of symbols into its place, and returns what follows it.
fn read_table<'a>(kind: &Kind, table: &mut Option<Table>, mode: u8, bytes: &'a [u8]) -> Option<&'a [u8]> {
    match mode {
        0 => {
            *table = Table::of_distribution(kind.distribution, kind.log);
            Some(bytes)
        }
        1 => {
            let (&symbol, rest) = bytes.split_first()?;
            *table = (usize::from(symbol) < kind.symbols).then(|| Table::of_one(symbol));
            Some(rest)
        }
        2 => {
            let (read, rest) = Table::read(bytes, kind.log_max, kind.symbols)?;
            *table = Some(read);
            Some(rest)
        }
        // As in the block before.
        _ => Some(bytes),
    }
}

fn bad(what: &str) -> io::Error {
    malformed(format!("the {what} of a block are damaged"))
}
