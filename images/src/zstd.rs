//! zstd (RFC 8878) as a stream: frames one after another, skippable ones passed over, with a bound on what a frame may ask for.
//!
//! A frame may look back over 8 MiB and more. Memory holds the end of that, a file the rest, so that it takes some 3 MiB whatever the frame
//! asks for; that is why this is not one of the decoders that there are. Not checked: a frame's checksum. The layer's digests are.

mod bits;
mod block;
mod fse;
mod huffman;
mod window;

use std::io::{self, BufReader, Read};
use std::path::PathBuf;

use block::{BLOCK_BYTES_MAX, Decoder};
use window::Window;

/// The window that RFC 8878 (3.1.1.1.2) wants every decoder to have: beyond it only `--ultra` and `--long` go. It bounds what is kept.
const WINDOW_BYTES_MAX: u64 = 8 << 20;
/// First four bytes of a frame.
const FRAME_MAGIC: u32 = 0xFD2F_B528;
/// First four bytes of a skippable one, less their last four bits.
const SKIPPABLE_MAGIC: u32 = 0x184D_2A50;
/// Magic number, descriptor, window, dictionary, content size.
const HEADER_BYTES_MAX: usize = 4 + 1 + 1 + 4 + 8;
/// Piece in which data comes from below.
const BUFFER_BYTES: usize = 16 * 1024;
/// Bytes of a checksum behind a frame that has one.
const CHECKSUM_BYTES: u64 = 4;

/// Unpacks while it reads.
pub struct ZstdReader<'a> {
    source: BufReader<Box<dyn Read + 'a>>,
    window: Window,
    frame: Option<Frame>,
    block: Vec<u8>,
}

/// The frame that is being read.
struct Frame {
    decoder: Decoder,
    has_checksum: bool,
    was_last: bool,
}

impl<'a> ZstdReader<'a> {
    /// Nothing is read yet. What memory does not hold goes to a file of this name, which it loses at once.
    pub fn new(source: Box<dyn Read + 'a>, scratch: Option<PathBuf>) -> Self {
        Self {
            source: BufReader::with_capacity(BUFFER_BYTES, source),
            window: Window::new(scratch),
            frame: None,
            block: Vec::with_capacity(BLOCK_BYTES_MAX),
        }
    }

    /// Comes to the next frame; `None` at the end.
    fn begin(&mut self) -> io::Result<Option<Frame>> {
        let mut header = [0; HEADER_BYTES_MAX];
        loop {
            if self.source.by_ref().take(1).read(&mut header)? == 0 {
                return Ok(None);
            }
            self.source.read_exact(&mut header[1..4])?;
            let magic = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
            if magic == FRAME_MAGIC {
                break;
            }
            if magic & !15 != SKIPPABLE_MAGIC {
                return Err(malformed("it is not zstd".to_owned()));
            }
            let mut length = [0; 4];
            self.source.read_exact(&mut length)?;
            self.pass_over(u32::from_le_bytes(length).into())?;
        }
        self.source.read_exact(&mut header[4..5])?;
        let length = header_bytes(header[4]);
        self.source.read_exact(&mut header[5..length])?;
        let header = &header[..length];
        let window = window_bytes(header);
        if window > WINDOW_BYTES_MAX {
            return Err(malformed(format!(
                "its window is {window} bytes, over the limit of {WINDOW_BYTES_MAX}; compress without --long and --ultra"
            )));
        }
        if header[4] & RESERVED != 0 || dictionary(header).iter().any(|&byte| byte != 0) {
            return Err(malformed("it needs a dictionary, or a newer decoder".to_owned()));
        }
        self.window.begin(window as usize);
        Ok(Some(Frame {
            decoder: Decoder::new(),
            has_checksum: header[4] & CHECKSUM != 0,
            was_last: false,
        }))
    }

    fn pass_over(&mut self, count: u64) -> io::Result<()> {
        match io::copy(&mut self.source.by_ref().take(count), &mut io::sink())? == count {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Reads the next block of the frame into the window (RFC 8878, 3.1.1.2).
    fn next_block(&mut self, frame: &mut Frame) -> io::Result<()> {
        self.window.make_room()?;
        let mut head = [0; 4];
        self.source.read_exact(&mut head[..3])?;
        let head = u32::from_le_bytes(head);
        frame.was_last = head & 1 != 0;
        let (kind, size) = (head >> 1 & 3, head as usize >> 3);
        if size > BLOCK_BYTES_MAX {
            return Err(malformed(format!("a block has {size} bytes")));
        }
        const RAW: u32 = 0;
        const REPEATED: u32 = 1;
        const COMPRESSED: u32 = 2;
        self.block.resize(if kind == REPEATED { 1 } else { size }, 0);
        self.source.read_exact(&mut self.block)?;
        match kind {
            RAW => self.window.push(&self.block),
            REPEATED => self.window.push_repeated(self.block[0], size),
            COMPRESSED => frame.decoder.decode(&self.block, &mut self.window)?,
            _ => return Err(malformed("a block is of no kind".to_owned())),
        }
        Ok(())
    }
}

impl Read for ZstdReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.window.read(out);
            if count > 0 || out.is_empty() {
                return Ok(count);
            }
            let next = match self.frame.take() {
                Some(frame) if !frame.was_last => Some(frame),
                ended => {
                    if ended.is_some_and(|frame| frame.has_checksum) {
                        self.pass_over(CHECKSUM_BYTES)?;
                    }
                    self.begin()?
                }
            };
            let Some(mut frame) = next else {
                return Ok(0);
            };
            self.next_block(&mut frame)?;
            self.frame = Some(frame);
        }
    }
}

/// Reads bytes as zstd, up to so many: for the fuzz target, which cannot reach the parts.
pub fn read_as_zstd(bytes: &[u8], bytes_max: u64) {
    drop(io::copy(
        &mut ZstdReader::new(Box::new(bytes), None).take(bytes_max),
        &mut io::sink(),
    ));
}

/// Bits of a header's descriptor (RFC 8878, 3.1.1.1.1).
const SINGLE_SEGMENT: u8 = 0x20;
const RESERVED: u8 = 0x08;
const CHECKSUM: u8 = 0x04;

/// Bytes of a header by its descriptor.
fn header_bytes(descriptor: u8) -> usize {
    let single_segment = descriptor & SINGLE_SEGMENT != 0;
    let content_size = match descriptor >> 6 {
        0 => usize::from(single_segment),
        flag => 1 << flag,
    };
    5 + usize::from(!single_segment) + dictionary_bytes(descriptor) + content_size
}

fn dictionary_bytes(descriptor: u8) -> usize {
    [0, 1, 2, 4][usize::from(descriptor & 3)]
}

/// The number of the dictionary in a header.
fn dictionary(header: &[u8]) -> &[u8] {
    let begin = 5 + usize::from(header[4] & SINGLE_SEGMENT == 0);
    &header[begin..begin + dictionary_bytes(header[4])]
}

/// What a frame wants to look back at; of a single segment, all of its content.
fn window_bytes(header: &[u8]) -> u64 {
    let descriptor = header[4];
    if descriptor & SINGLE_SEGMENT == 0 {
        let base = 1u64 << (10 + (header[5] >> 3));
        return base + base / 8 * u64::from(header[5] & 7);
    }
    let digits = &header[5 + dictionary_bytes(descriptor)..];
    let size = digits
        .iter()
        .rev()
        .fold(0, |sum: u64, &byte| sum << 8 | u64::from(byte));
    if digits.len() == 2 { size + 256 } else { size }
}

fn malformed(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf 'hello' | zstd` and a raw block written by hand: both are frames.
    fn frame(content: &[u8]) -> Vec<u8> {
        assert!(content.len() < 256);
        let mut bytes = FRAME_MAGIC.to_le_bytes().to_vec();
        // Single segment, content size in one byte; then one raw block, the last.
        bytes.extend([0x20, content.len() as u8]);
        let block = (content.len() as u32) << 3 | 1;
        bytes.extend(&block.to_le_bytes()[..3]);
        bytes.extend(content);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<String, String> {
        let mut text = String::new();
        match ZstdReader::new(Box::new(bytes), None).read_to_string(&mut text) {
            Ok(_) => Ok(text),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn frames_follow_each_other_and_skippable_ones_are_passed_over() {
        let skipped = [0x5A, 0x2A, 0x4D, 0x18, 3, 0, 0, 0, 1, 2, 3];
        let whole = [&frame(b"hello")[..], &skipped, &frame(b""), &frame(b", world")].concat();
        assert_eq!(read(&whole), Ok("hello, world".into()));
        assert_eq!(read(b""), Ok(String::new()));
    }

    #[test]
    fn what_is_cut_or_none_of_it_is_an_error() {
        let whole = frame(b"hello");
        for end in 1..whole.len() {
            assert!(read(&whole[..end]).is_err(), "{end}");
        }
        assert!(read(b"\x1f\x8b\x08\x00").unwrap_err().contains("not zstd"));
        assert!(read(&[0x50, 0x2A, 0x4D, 0x18, 255, 255, 255, 255]).is_err());
    }

    #[test]
    fn a_frame_that_wants_more_memory_than_the_bound_is_refused() {
        let magic = FRAME_MAGIC.to_le_bytes();
        // Window 2^(10+13) is 8 MiB; one step more is too much.
        assert_eq!(
            window_bytes(&[&magic[..], &[0, 13 << 3]].concat()),
            WINDOW_BYTES_MAX
        );
        let error = read(&[&magic[..], &[0, 13 << 3 | 1]].concat()).unwrap_err();
        assert!(error.contains("over the limit"), "{error}");
        let single = [&magic[..], &[0x20 | 0xC0], &u64::MAX.to_le_bytes()].concat();
        assert!(read(&single).unwrap_err().contains("over the limit"));
    }

    /// What the zstd program makes of this.
    fn compressed(content: &[u8], options: &[&str]) -> Vec<u8> {
        use std::io::Write;
        use std::process::{Command, Stdio};
        let mut zstd = Command::new("zstd")
            .args(["--stdout", "--quiet", "-"])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("zstd is installed");
        let mut input = zstd.stdin.take().unwrap();
        let content = content.to_vec();
        let writer = std::thread::spawn(move || input.write_all(&content).unwrap());
        let output = zstd.wait_with_output().unwrap();
        writer.join().unwrap();
        assert!(output.status.success());
        output.stdout
    }

    /// Text of few words, with long repetitions of what was up to `far` bytes ago.
    fn content(length: usize, far: usize) -> Vec<u8> {
        let mut state = 1u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize
        };
        let mut bytes = Vec::new();
        while bytes.len() < length {
            match next() % 8 {
                0 => bytes.extend((0..next() % 2000).map(|_| next() as u8)),
                1 => bytes.resize(bytes.len() + next() % 5000, next() as u8),
                2..5 if bytes.len() > 10 => {
                    let from = bytes.len() - 1 - next() % far.min(bytes.len() - 1);
                    let count = (next() % 3000).min(bytes.len() - from);
                    bytes.extend_from_within(from..from + count);
                }
                _ => bytes.extend(["usr", "/lib", "/share", ".so", "0", "e"][next() % 6].bytes()),
            }
        }
        bytes
    }

    fn assert_read_back(content: &[u8], compressed: &[u8], what: &str) {
        let folder = tempfile::tempdir().unwrap();
        for scratch in [None, Some(folder.path().join("window"))] {
            let with_file = scratch.is_some();
            let mut unpacked = Vec::new();
            let read = ZstdReader::new(Box::new(compressed), scratch).read_to_end(&mut unpacked);
            read.unwrap_or_else(|error| panic!("{what}, {with_file}: {error}"));
            assert!(unpacked == content, "{what}, {with_file}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_zstd_writes_at_any_level_is_read() {
        for (length, far) in [
            (0, 1),
            (1, 1),
            (300, 100),
            (70_000, 60_000),
            (3_000_000, 2_000_000),
        ] {
            let content = content(length, far);
            for options in ["-1", "-3", "-7", "-12", "-19", "--fast=5", "--no-check"] {
                let what = format!("{length} bytes, {options}");
                assert_read_back(&content, &compressed(&content, &[options]), &what);
            }
        }
    }

    #[test]
    fn what_lies_far_behind_is_read_from_the_file() {
        let content = content(25_000_000, 8_000_000);
        let compressed = compressed(&content, &["-12", "--zstd=wlog=23"]);
        assert!(compressed.len() < content.len() / 2);
        assert_read_back(&content, &compressed, "25 MB");
    }

    #[test]
    fn no_damage_is_more_than_an_error() {
        let content = content(40_000, 30_000);
        for options in ["-1", "-19"] {
            let whole = compressed(&content, &[options, "--no-check"]);
            for at in 0..whole.len() {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << (at % 8);
                let mut out = io::sink();
                drop(io::copy(
                    &mut ZstdReader::new(Box::new(&damaged[..]), None).take(1 << 20),
                    &mut out,
                ));
                drop(io::copy(
                    &mut ZstdReader::new(Box::new(&whole[..at]), None),
                    &mut out,
                ));
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            drop(read(&[&FRAME_MAGIC.to_le_bytes()[..], &bytes].concat()));
        }
    }
}
