//! Sparse files in the four forms that GNU tar writes: its own header, and PAX formats 0.0, 0.1 and 1.0.
//!
//! A map says which parts of the file stand in the archive; all between is zero. The map is checked before anything of the file is read: parts in
//! order, none beyond the end, and together as long as the data in the archive.
//!
//! <https://www.gnu.org/software/tar/manual/html_section/Sparse-Formats.html>

use std::io;

/// Parts of one file: 16 bytes of memory each. A disk image of some GiB with a hole after every written MiB has fewer.
const PARTS_MAX: usize = 16_384;

/// Bytes of the old header from the first part on, and of a part.
const HEADER_PARTS: std::ops::Range<usize> = 386..482;
const PART_BYTES: usize = 24;
/// The byte that says whether more parts follow, in the header and in a block of parts.
const HEADER_MORE: usize = 482;
const BLOCK_MORE: usize = 504;
/// The file's size, in the header.
const HEADER_SIZE: std::ops::Range<usize> = 483..495;

/// Offset and length of a part.
type Part = (u64, u64);

/// What PAX records say of a sparse file.
#[derive(Default)]
pub struct Records {
    /// Its name: the entry's own is one for readers that do not know of sparse files.
    pub name: Option<Vec<u8>>,
    size: Option<u64>,
    parts: Vec<Part>,
    /// An offset whose length is still to come (format 0.0).
    offset: Option<u64>,
    is_map_in_data: bool,
}

/// The parts of a file, checked, and how far it has been read.
pub struct Map {
    parts: Vec<Part>,
    next: usize,
    position: u64,
    size: u64,
}

impl Records {
    /// A record whose key begins with `GNU.sparse.`, without that.
    pub fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(super::decimal(value)?),
            b"offset" => self.offset = Some(super::decimal(value)?),
            b"numbytes" => self.parts.push((self.offset.take()?, super::decimal(value)?)),
            b"map" => {
                let numbers = value
                    .split(|&byte| byte == b',')
                    .map(super::decimal)
                    .collect::<Option<Vec<_>>>()?;
                self.parts.extend(
                    numbers
                        .chunks(2)
                        .filter_map(|pair| Some((pair[0], *pair.get(1)?))),
                );
            }
            b"major" => self.is_map_in_data = super::decimal(value)? == 1,
            // The number of parts, and the minor version of a format that has only one.
            b"numblocks" | b"minor" => {}
            _ => return None,
        }
        (self.parts.len() <= PARTS_MAX).then_some(())
    }

    /// The map, which format 1.0 has in the first blocks of the data. `block` reads one of them; returns how many bytes they were.
    pub fn into_map(
        mut self,
        data_bytes: u64,
        mut block: impl FnMut() -> io::Result<[u8; 512]>,
    ) -> io::Result<(Map, u64)> {
        let mut read = 0;
        if self.is_map_in_data {
            let mut numbers = Vec::new();
            let mut digits = Vec::new();
            // The number of parts, then offset and length of each, a line each, padded to a block.
            while numbers
                .first()
                .is_none_or(|&count: &u64| (numbers.len() as u64) < 1 + 2 * count)
            {
                read += 512;
                for byte in block()? {
                    match byte {
                        b'\n' => {
                            numbers.push(super::decimal(&digits).ok_or_else(bad)?);
                            digits.clear();
                        }
                        0 => {}
                        digit if digits.len() < 20 => digits.push(digit),
                        _ => return Err(bad()),
                    }
                }
                if numbers.first().is_some_and(|&count| count > PARTS_MAX as u64)
                    || read > (PARTS_MAX * 48) as u64
                {
                    return Err(bad());
                }
            }
            self.parts = numbers[1..]
                .chunks(2)
                .filter_map(|pair| Some((pair[0], *pair.get(1)?)))
                .collect();
        }
        let size = self.size.ok_or_else(bad)?;
        Ok((
            Map::checked(self.parts, size, data_bytes.checked_sub(read).ok_or_else(bad)?)?,
            read,
        ))
    }
}

impl Map {
    /// From GNU's own header; `block` reads the blocks of further parts.
    pub fn of_header(
        header: &[u8; 512],
        data_bytes: u64,
        mut block: impl FnMut() -> io::Result<[u8; 512]>,
    ) -> io::Result<Self> {
        let mut parts = Vec::new();
        add_parts(&mut parts, &header[HEADER_PARTS])?;
        let mut more = header[HEADER_MORE] != 0;
        while more {
            let block = block()?;
            add_parts(&mut parts, &block[..BLOCK_MORE])?;
            more = block[BLOCK_MORE] != 0;
            if parts.len() > PARTS_MAX {
                return Err(bad());
            }
        }
        Self::checked(parts, number(&header[HEADER_SIZE])?, data_bytes)
    }

    fn checked(mut parts: Vec<Part>, size: u64, data_bytes: u64) -> io::Result<Self> {
        let (mut end, mut sum) = (0, 0u64);
        for &(offset, length) in &parts {
            if offset < end {
                return Err(bad());
            }
            end = offset.checked_add(length).ok_or_else(bad)?;
            sum += length;
        }
        if end > size || sum != data_bytes {
            return Err(bad());
        }
        // An empty part at the end stands for the size.
        parts.retain(|&(_, length)| length > 0);
        Ok(Self {
            parts,
            next: 0,
            position: 0,
            size,
        })
    }

    /// The file's bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What comes next of the file: so many zeros, or so many bytes of data, or nothing more.
    pub fn next(&self) -> Piece {
        let left = |end: u64| end - self.position;
        match self.parts.get(self.next) {
            Some(&(offset, _)) if self.position < offset => Piece::Zeros(left(offset)),
            Some(&(offset, length)) => Piece::Data(left(offset + length)),
            None if self.position < self.size => Piece::Zeros(left(self.size)),
            None => Piece::End,
        }
    }

    /// So many bytes of it have been taken.
    pub fn advance(&mut self, count: u64) {
        self.position += count;
        if self
            .parts
            .get(self.next)
            .is_some_and(|&(offset, length)| self.position >= offset + length)
        {
            self.next += 1;
        }
    }
}

/// What is at a place of a sparse file.
pub enum Piece {
    /// A hole, or what is left of it.
    Zeros(u64),
    /// A part, or what is left of it.
    Data(u64),
    /// Nothing.
    End,
}

fn add_parts(parts: &mut Vec<Part>, bytes: &[u8]) -> io::Result<()> {
    for part in bytes.chunks_exact(PART_BYTES).filter(|part| part[0] != 0) {
        parts.push((number(&part[..12])?, number(&part[12..])?));
    }
    Ok(())
}

fn number(field: &[u8]) -> io::Result<u64> {
    super::number(field)
        .and_then(|number| u64::try_from(number).ok())
        .ok_or_else(bad)
}

fn bad() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the map of a sparse file contradicts itself",
    )
}
