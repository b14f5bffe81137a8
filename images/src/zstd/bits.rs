//! Bits of a compressed block: forwards in descriptions of tables, backwards everywhere else (RFC 8878, 4.1).

/// Up to 32 bits from a position on, the lowest first; beyond the end are zeros.
fn bits_at(bytes: &[u8], position: usize, count: u32) -> u64 {
    let from = position / 8;
    let word = match bytes.get(from..).and_then(|rest| rest.first_chunk()) {
        Some(word) => u64::from_le_bytes(*word),
        None => {
            let rest = bytes.get(from..).unwrap_or_default();
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            u64::from_le_bytes(word)
        }
    };
    word >> (position % 8) & ((1 << count) - 1)
}

/// Reads from the first byte on.
pub struct Forward<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Forward<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub fn peek(&self, count: u32) -> u64 {
        bits_at(self.bytes, self.position, count)
    }

    pub fn skip(&mut self, count: u32) {
        self.position += count as usize;
    }

    pub fn read(&mut self, count: u32) -> u64 {
        let bits = self.peek(count);
        self.skip(count);
        bits
    }

    /// What follows the byte that was begun; `None` when more was read than there is.
    pub fn rest(&self) -> Option<&'a [u8]> {
        self.bytes.get(self.position.div_ceil(8)..)
    }
}

/// Reads from the last bit on, which is below the highest one that is set.
pub struct Backward<'a> {
    bytes: &'a [u8],
    /// Bits that are left; less than none when more was read than there was.
    left: isize,
}

impl<'a> Backward<'a> {
    /// `None` without a bit that is set in the last byte.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let last = bytes.last()?.checked_ilog2()?;
        let left = (bytes.len() as isize - 1) * 8 + last as isize;
        Some(Self { bytes, left })
    }

    /// The next bits, the first of them highest; before the beginning are zeros.
    #[inline]
    pub fn peek(&self, count: u32) -> u64 {
        match self.left - count as isize {
            from @ 0.. => bits_at(self.bytes, from as usize, count),
            _ if self.left <= 0 => 0,
            from => bits_at(self.bytes, 0, self.left as u32) << -from,
        }
    }

    #[inline]
    pub fn skip(&mut self, count: u32) {
        self.left -= count as isize;
    }

    #[inline]
    pub fn read(&mut self, count: u32) -> u64 {
        let bits = self.peek(count);
        self.skip(count);
        bits
    }

    pub fn left(&self) -> isize {
        self.left
    }
}
