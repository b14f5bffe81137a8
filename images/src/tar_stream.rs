//! Reads a tar archive as a stream, with a bound on everything: ustar, old tar, GNU long names and PAX extended headers.
//!
//! Parsed here rather than by an archive library because each bound must hold while the header is read, PAX values may hold any
//! byte (`security.capability` does), and a size that two headers tell differently must not move the next header. Sparse files
//! are read whole, their holes as zeros. Global PAX headers are passed over, as Go's reader does for Docker.
//!
//! tar(5); <https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html>

mod sparse;

use crate::{Error, Result};
use sparse::{Map, Piece};
use std::io::{self, Read};

/// Size of a tar block.
pub const BLOCK: usize = 512;
/// Bytes of one extended header: Linux allows 64 KiB of extended attributes on a file, and two paths.
pub const EXTENSION_BYTES_MAX: u64 = 256 << 10;
/// Bytes of a path: PATH_MAX.
pub const PATH_BYTES_MAX: usize = 4096;

/// What an entry creates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file with data.
    File,
    /// Another name for an earlier file.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// A character or block device.
    Device,
}

/// One entry, with all its headers merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name as it stands in the archive.
    pub path: Vec<u8>,
    /// Target of a link.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes of the file, holes included; 0 for anything but files.
    pub size: u64,
    /// The data in the archive is not the file as it is: only reading the entry gives it.
    pub is_sparse: bool,
    /// Permission bits, with set-id and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime_seconds: i64,
    /// And nanoseconds, 0 to 999,999,999.
    pub mtime_nanoseconds: u32,
    /// Extended attributes, in the order of the archive.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Offset of the data in the archive.
    pub offset: u64,
}

/// A stream that can pass over data.
pub trait Advance: Read {
    /// Passes over `count` bytes; fails when there are fewer.
    fn advance(&mut self, count: u64) -> io::Result<()>;
}

/// A stream that can only be read.
pub struct Sequential<'a>(pub &'a mut dyn Read);

impl Read for Sequential<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Advance for Sequential<'_> {
    fn advance(&mut self, count: u64) -> io::Result<()> {
        if io::copy(&mut (&mut self.0).take(count), &mut io::sink())? < count {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

/// The entries of an archive. Data of the current entry is read through [`Read`]; what is left of it is passed over by `next`.
pub struct TarStream<'a> {
    inner: Box<dyn Advance + 'a>,
    offset: u64,
    data_left: u64,
    padding: u64,
    /// Of the current entry, when it is a sparse file.
    sparse: Option<Map>,
}

impl<'a> TarStream<'a> {
    /// Starts at the first header.
    pub fn new(inner: impl Advance + 'a) -> Self {
        Self {
            inner: Box::new(inner),
            offset: 0,
            data_left: 0,
            padding: 0,
            sparse: None,
        }
    }

    /// The next entry, or `None` at the end of the archive.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        let mut extended = Extended::default();
        loop {
            let Some(header) = self.next_header()? else {
                return if extended.seen {
                    Err(self.malformed("an extended header stands before the end"))
                } else {
                    Ok(None)
                };
            };
            let size = number(&header.as_old().size)
                .filter(|size| *size >= 0)
                .ok_or_else(|| self.malformed("the size is not a number"))? as u64;
            match header.as_old().linkflag[0] {
                b'x' => extended
                    .read_pax(&self.extension(size)?)
                    .map_err(|why| self.malformed(why))?,
                b'g' => drop(self.extension(size)?),
                b'L' => extended.read_long(size, self, true)?,
                b'K' => extended.read_long(size, self, false)?,
                _ => return self.entry(&header, size, extended).map(Some),
            }
        }
    }

    /// The next header block with a right checksum.
    fn next_header(&mut self) -> Result<Option<tar::Header>> {
        let (data, padding) = (self.data_left, self.padding);
        (self.data_left, self.padding, self.sparse) = (0, 0, None);
        self.inner.advance(data).map_err(|error| self.stream(error))?;
        self.offset += data;
        match self.inner.advance(padding) {
            // Content that is whole and not filled up: so umoci's `insert` ends its layers, and Go's archive/tar reads them.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other.map_err(|error| self.stream(error))?,
        }
        self.offset += padding;
        let mut header = tar::Header::new_old();
        if !self.block(header.as_mut_bytes())? {
            return Ok(None);
        }
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            let mut second = [0; BLOCK];
            return match self.block(&mut second)? && second.iter().any(|byte| *byte != 0) {
                true => Err(self.malformed("data follows an empty block")),
                false => Ok(None),
            };
        }
        let bytes = header.as_bytes();
        let sum: u32 = bytes[..148]
            .iter()
            .chain(&bytes[156..])
            .map(|byte| u32::from(*byte))
            .sum();
        if number(&header.as_old().cksum) != Some(i64::from(sum + 8 * u32::from(b' '))) {
            return Err(self.malformed("the header's checksum is wrong"));
        }
        Ok(Some(header))
    }

    /// Fills one block; false at a clean end of the stream.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(self.stream(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.stream(error)),
            }
        }
        self.offset += BLOCK as u64;
        Ok(true)
    }

    /// The data of an extended header.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > EXTENSION_BYTES_MAX {
            return Err(self.malformed(format!(
                "an extended header of {size} bytes is over the limit of {EXTENSION_BYTES_MAX}"
            )));
        }
        self.begin_data(size);
        let mut data = vec![0; size as usize];
        self.read_exact(&mut data).map_err(|error| self.stream(error))?;
        Ok(data)
    }

    fn begin_data(&mut self, size: u64) {
        self.data_left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    /// Merges header and extensions.
    fn entry(&mut self, header: &tar::Header, header_size: u64, mut extended: Extended) -> Result<Entry> {
        let old = header.as_old();
        let sparse_name = extended.sparse.as_mut().and_then(|records| records.name.take());
        let path = sparse_name
            .or(extended.path)
            .unwrap_or_else(|| header_path(header));
        let refused = |why: String| {
            Box::new(Error::Entry {
                entry: String::from_utf8_lossy(&path).chars().take(200).collect(),
                why,
            })
        };
        let size = extended.size.unwrap_or(header_size);
        let kind = match old.linkflag[0] {
            b'0' | 0 if path.ends_with(b"/") => EntryKind::Directory,
            b'0' | 0 | b'7' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' | b'4' => EntryKind::Device,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            b'S' => EntryKind::File,
            other => {
                return Err(refused(format!(
                    "its type `{}` is not known",
                    char::from(other).escape_default()
                )));
            }
        };
        // A link's size tells of the file it points to: no data follows. Directories may carry some, which is passed over.
        let follows = if matches!(kind, EntryKind::File | EntryKind::Directory) {
            size
        } else {
            0
        };
        let mut data_bytes = follows;
        if follows > i64::MAX as u64 - 2 * BLOCK as u64 {
            return Err(refused(format!("its size of {follows} bytes cannot be")));
        }
        let id = |given: Option<u64>, field: &[u8], what: &str| {
            let value = given.map_or_else(|| number(field), |value| i64::try_from(value).ok());
            value
                .and_then(|value| u32::try_from(value).ok())
                .ok_or_else(|| refused(format!("its {what} is not a 32-bit number")))
        };
        let (uid, gid) = (
            id(extended.uid, &old.uid, "owner")?,
            id(extended.gid, &old.gid, "group")?,
        );
        let mode =
            number(&old.mode).ok_or_else(|| refused("its mode is not a number".to_owned()))? as u32 & 0o7777;
        let mtime = extended
            .mtime
            .or_else(|| number(&old.mtime).map(|seconds| (seconds, 0)));
        let (mtime_seconds, mtime_nanoseconds) =
            mtime.ok_or_else(|| refused("its time is not a number".to_owned()))?;
        let link = extended.link.unwrap_or_else(|| until_nul(&old.linkname).to_vec());
        let mut size = if kind == EntryKind::File { size } else { 0 };
        let map = match (old.linkflag[0], extended.sparse) {
            (b'S', _) => Some(Map::of_header(header.as_bytes(), follows, || self.whole_block())),
            (_, Some(records)) if kind == EntryKind::File => {
                let map = records.into_map(follows, || self.whole_block());
                Some(map.map(|(map, read)| {
                    // The map was the beginning of the data.
                    data_bytes -= read;
                    map
                }))
            }
            _ => None,
        };
        let (offset, xattrs) = (self.offset, extended.xattrs);
        self.begin_data(data_bytes);
        if let Some(map) = map {
            let map = map.map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => refused(error.to_string()),
                _ => self.stream(error),
            })?;
            size = map.size();
            self.sparse = Some(map);
        }
        let is_sparse = self.sparse.is_some();
        Ok(Entry {
            path,
            link,
            kind,
            size,
            is_sparse,
            mode,
            uid,
            gid,
            mtime_seconds,
            mtime_nanoseconds,
            xattrs,
            offset,
        })
    }

    /// A block that must be there.
    fn whole_block(&mut self) -> io::Result<[u8; BLOCK]> {
        let mut block = [0; BLOCK];
        self.inner.read_exact(&mut block)?;
        self.offset += BLOCK as u64;
        Ok(block)
    }

    fn read_data(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer
            .len()
            .min(usize::try_from(self.data_left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.inner.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.data_left -= count as u64;
        self.offset += count as u64;
        Ok(count)
    }

    fn malformed(&self, why: impl Into<String>) -> Box<Error> {
        Error::Archive {
            offset: self.offset,
            why: why.into(),
        }
        .into()
    }

    fn stream(&self, error: io::Error) -> Box<Error> {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return self.malformed("it ends in the middle of an entry");
        }
        Error::stream(error)
    }
}

impl Read for TarStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(mut map) = self.sparse.take() else {
            return self.read_data(buffer);
        };
        let up_to = |count: u64| buffer.len().min(usize::try_from(count).unwrap_or(usize::MAX));
        let read = match map.next() {
            Piece::End => Ok(0),
            Piece::Zeros(count) => {
                let count = up_to(count);
                buffer[..count].fill(0);
                Ok(count)
            }
            Piece::Data(count) => {
                let count = up_to(count);
                self.read_data(&mut buffer[..count])
            }
        };
        map.advance(*read.as_ref().unwrap_or(&0) as u64);
        self.sparse = Some(map);
        read
    }
}

/// What the headers before an entry's own say about it.
#[derive(Default)]
struct Extended {
    seen: bool,
    sparse: Option<sparse::Records>,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Extended {
    fn read_long(&mut self, size: u64, stream: &mut TarStream<'_>, is_path: bool) -> Result<()> {
        let data = stream.extension(size)?;
        self.seen = true;
        *(if is_path { &mut self.path } else { &mut self.link }) = Some(until_nul(&data).to_vec());
        Ok(())
    }

    /// Records are `LENGTH KEY=VALUE\n`, the length counting itself.
    fn read_pax(&mut self, mut data: &[u8]) -> Result<(), String> {
        self.seen = true;
        while !data.is_empty() && data[0] != 0 {
            let space = data
                .iter()
                .take(20)
                .position(|byte| *byte == b' ')
                .ok_or("a PAX record has no length")?;
            let length = decimal(&data[..space]).ok_or("a PAX record's length is not a number")?;
            let record = usize::try_from(length)
                .ok()
                .and_then(|length| data.get(space + 1..length))
                .ok_or("a PAX record is longer than its header")?;
            let (record, end) = record
                .split_at_checked(record.len().wrapping_sub(1))
                .ok_or("a PAX record is empty")?;
            let equals = record
                .iter()
                .position(|byte| *byte == b'=')
                .ok_or("a PAX record has no `=`")?;
            if end != b"\n" {
                return Err("a PAX record does not end where its length says".to_owned());
            }
            self.set(&record[..equals], &record[equals + 1..])?;
            data = &data[length as usize..];
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let needed = |number: Option<u64>| {
            number.ok_or_else(|| format!("PAX {} is not a number", String::from_utf8_lossy(key)))
        };
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(needed(decimal(value))?),
            b"uid" => self.uid = Some(needed(decimal(value))?),
            b"gid" => self.gid = Some(needed(decimal(value))?),
            b"mtime" => self.mtime = Some(pax_time(value).ok_or("PAX mtime is not a time")?),
            _ => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    let records = self.sparse.get_or_insert_default();
                    records
                        .set(key, value)
                        .ok_or("a PAX record of a sparse file is malformed")?;
                } else if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.retain(|(known, _)| known != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// ustar's prefix and name, or the old name alone.
fn header_path(header: &tar::Header) -> Vec<u8> {
    let name = until_nul(&header.as_old().name);
    match header.as_ustar().map(|ustar| until_nul(&ustar.prefix)) {
        Some(prefix) if !prefix.is_empty() => [prefix, b"/", name].concat(),
        _ => name.to_vec(),
    }
}

fn until_nul(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|byte| *byte == 0).unwrap_or(field.len())]
}

fn decimal(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?
        .parse()
        .ok()
}

/// `[-]seconds[.fraction]`
fn pax_time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds = i64::try_from(decimal(seconds.as_bytes())?).ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds = u32::try_from(decimal(digits.as_bytes())?).ok()?;
    match (negative, nanoseconds) {
        (false, _) => Some((seconds, nanoseconds)),
        (true, 0) => Some((-seconds, 0)),
        (true, _) => Some((-seconds - 1, 1_000_000_000 - nanoseconds)),
    }
}

/// A header's number: octal, or GNU's base 256. Blank is 0.
fn number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 != 0 {
        return base256(field);
    }
    let is_blank = |byte: &u8| *byte == b' ' || *byte == 0;
    let start = field
        .iter()
        .position(|byte| !is_blank(byte))
        .unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(is_blank).unwrap_or(digits.len());
    if digits[end..].iter().any(|byte| !is_blank(byte)) {
        return None;
    }
    digits[..end].iter().try_fold(0i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

/// Two's complement, big endian, with the top bit of the first byte as a mark.
fn base256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let first = if negative { field[0] } else { field[0] & 0x7f };
    let start = if negative { -1i64 } else { 0 };
    std::iter::once(first)
        .chain(field[1..].iter().copied())
        .try_fold(start, |value, byte| {
            Some(value.checked_mul(256)? | i64::from(byte))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mut bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>> {
        let mut stream = TarStream::new(Sequential(&mut bytes));
        let mut entries = Vec::new();
        while let Some(entry) = stream.next_entry()? {
            let mut data = Vec::new();
            stream.read_to_end(&mut data).map_err(Error::Stream)?;
            entries.push((entry, data));
        }
        Ok(entries)
    }

    fn file(name: &str, data: &[u8]) -> Vec<u8> {
        raw(b'0', name, data)
    }

    fn raw(kind: u8, name: &str, data: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_mode(0o644);
        header.set_uid(7);
        header.set_gid(8);
        header.set_size(data.len() as u64);
        header.as_old_mut().linkflag[0] = kind;
        header.set_cksum();
        let mut out = header.as_bytes().to_vec();
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        out
    }

    fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
        let mut data = Vec::new();
        for (key, value) in records {
            let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
            let mut length = body.len() + 1;
            while length != body.len() + length.to_string().len() {
                length = body.len() + length.to_string().len();
            }
            data.extend_from_slice(length.to_string().as_bytes());
            data.extend_from_slice(&body);
        }
        raw(b'x', "pax", &data)
    }

    #[test]
    fn plain_entries_are_read_with_their_data() {
        let entries = read(
            &[
                file("a", b"hello"),
                raw(b'5', "d/", b""),
                file("b", b""),
                vec![0; 1024],
            ]
            .concat(),
        )
        .unwrap();
        assert_eq!(entries.len(), 3);
        assert_eq!(
            (
                entries[0].0.path.as_slice(),
                entries[0].1.as_slice(),
                entries[0].0.uid
            ),
            (&b"a"[..], &b"hello"[..], 7)
        );
        assert_eq!(entries[1].0.kind, EntryKind::Directory);
    }

    #[test]
    fn the_last_content_need_not_be_filled_up() {
        let whole = file("a", b"hello");
        for length in [BLOCK + 5, BLOCK + 100, whole.len()] {
            let entries = read(&whole[..length]).unwrap();
            assert_eq!(
                (entries.len(), entries[0].1.as_slice()),
                (1, &b"hello"[..]),
                "{length}"
            );
        }
    }

    #[test]
    fn pax_overrides_and_binary_attributes_hold() {
        let long = "x/".repeat(200) + "y";
        let capability = b"\x01\n=\0\x02";
        let records: &[(&str, &[u8])] = &[
            ("path", long.as_bytes()),
            ("mtime", b"-1.25"),
            ("uid", b"100000"),
            ("SCHILY.xattr.security.capability", capability),
        ];
        let entries = read(&[pax(records), file("short", b"1")].concat()).unwrap();
        let entry = &entries[0].0;
        assert_eq!((entry.path.as_slice(), entry.uid), (long.as_bytes(), 100_000));
        assert_eq!((entry.mtime_seconds, entry.mtime_nanoseconds), (-2, 750_000_000));
        assert_eq!(
            entry.xattrs,
            [(b"security.capability".to_vec(), capability.to_vec())]
        );
    }

    #[test]
    fn gnu_long_names_hold_for_one_entry() {
        let long = "n".repeat(300);
        let entries = read(
            &[
                raw(b'L', "././@LongLink", format!("{long}\0").as_bytes()),
                file("n", b"1"),
                file("m", b"2"),
            ]
            .concat(),
        )
        .unwrap();
        assert_eq!(
            entries.iter().map(|entry| entry.0.path.len()).collect::<Vec<_>>(),
            [300, 1]
        );
    }

    #[test]
    fn what_cannot_be_trusted_is_refused() {
        let huge = pax(&[("size", b"9223372036854775807")]);
        let mut bad_sum = file("a", b"");
        bad_sum[0] = b'b';
        for (bytes, part) in [
            (file("a", b"hello")[..515].to_vec(), "unexpected end of file"),
            (bad_sum, "checksum"),
            (
                [pax(&[("GNU.sparse.major", b"1")]), file("a", b"")].concat(),
                "in the middle of an entry",
            ),
            (raw(b'Z', "a", b""), "not known"),
            ([huge, file("a", b"")].concat(), "cannot be"),
            (raw(b'x', "p", b"99 path=a\n"), "longer than its header"),
            (raw(b'x', "p", b"5 a=b\n"), "does not end"),
            (pax(&[("path", b"a")]), "before the end"),
            (
                raw(b'x', "p", &vec![b'0'; EXTENSION_BYTES_MAX as usize + 1]),
                "over the limit",
            ),
            ([vec![0; BLOCK], file("a", b"")].concat(), "empty block"),
            (
                pax(&[("uid", b"99999999999")])
                    .into_iter()
                    .chain(file("a", b""))
                    .collect(),
                "32-bit",
            ),
        ] {
            let error = read(&bytes).unwrap_err().to_string();
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn numbers_are_octal_or_base_256() {
        for (field, expected) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"  644 \0\0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"12x45678", None),
            (b"1 2 3 4 ", None),
        ] {
            assert_eq!(number(field), expected, "{field:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered(blocks in proptest::collection::vec((0usize..6, proptest::collection::vec(proptest::num::u8::ANY, 0..600)), 0..8)) {
            let kinds = [b'0', b'x', b'L', b'5', b'1', b'g'];
            let bytes: Vec<u8> = blocks.iter().flat_map(|(kind, data)| raw(kinds[*kind], "n", data)).collect();
            drop(read(&bytes));
            let loose: Vec<u8> = blocks.into_iter().flat_map(|(_, data)| data).collect();
            drop(read(&loose));
        }
    }
}
