//! zstd (RFC 8878) as a stream: frames one after another, skippable ones passed over, with a bound on what a frame may ask for.
//!
//! Not checked: a frame's checksum. The layer's digests are.

use std::io::{self, BufReader, Read};

use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// The window that RFC 8878 (3.1.1.1.2) wants every decoder to have: beyond it only `--ultra` and `--long` go. It bounds the memory.
const WINDOW_BYTES_MAX: u64 = 8 << 20;
/// First four bytes of a frame.
const FRAME_MAGIC: u32 = 0xFD2F_B528;
/// First four bytes of a skippable one, less their last four bits.
const SKIPPABLE_MAGIC: u32 = 0x184D_2A50;
/// Magic number, descriptor, window, dictionary, content size.
const HEADER_BYTES_MAX: usize = 4 + 1 + 1 + 4 + 8;
/// Piece in which data comes from below.
const BUFFER_BYTES: usize = 16 * 1024;

/// Unpacks while it reads.
pub struct ZstdReader<R> {
    source: BufReader<R>,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: Read> ZstdReader<R> {
    /// Nothing is read yet.
    pub fn new(source: R) -> Self {
        Self {
            source: BufReader::with_capacity(BUFFER_BYTES, source),
            decoder: FrameDecoder::new(),
            in_frame: false,
        }
    }

    /// Comes to the next frame; false at the end.
    fn begin(&mut self) -> io::Result<bool> {
        let mut header = [0; HEADER_BYTES_MAX];
        loop {
            if self.source.by_ref().take(1).read(&mut header)? == 0 {
                return Ok(false);
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
            let length = u64::from(u32::from_le_bytes(length));
            if io::copy(&mut self.source.by_ref().take(length), &mut io::sink())? < length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
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
        self.decoder
            .reset(header)
            .map_err(|error| malformed(error.to_string()))?;
        Ok(true)
    }
}

/// Bytes of a header by its descriptor (RFC 8878, 3.1.1.1.1).
fn header_bytes(descriptor: u8) -> usize {
    let single_segment = descriptor & 0x20 != 0;
    let content_size = match descriptor >> 6 {
        0 => usize::from(single_segment),
        flag => 1 << flag,
    };
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    5 + usize::from(!single_segment) + dictionary + content_size
}

/// What a frame wants to look back at; of a single segment, all of its content.
fn window_bytes(header: &[u8]) -> u64 {
    let descriptor = header[4];
    if descriptor & 0x20 == 0 {
        let base = 1u64 << (10 + (header[5] >> 3));
        return base + base / 8 * u64::from(header[5] & 7);
    }
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let digits = &header[5 + dictionary..];
    let size = digits
        .iter()
        .rev()
        .fold(0, |sum: u64, &byte| sum << 8 | u64::from(byte));
    if digits.len() == 2 { size + 256 } else { size }
}

impl<R: Read> Read for ZstdReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.in_frame {
                if !self.begin()? {
                    return Ok(0);
                }
                self.in_frame = true;
            }
            let count = self.decoder.read(out)?;
            if count > 0 || out.is_empty() {
                return Ok(count);
            }
            if self.decoder.is_finished() {
                self.in_frame = false;
                continue;
            }
            self.decoder
                .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                .map_err(|error| malformed(error.to_string()))?;
        }
    }
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
        match ZstdReader::new(bytes).read_to_string(&mut text) {
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

    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            drop(read(&[&FRAME_MAGIC.to_le_bytes()[..], &bytes].concat()));
        }
    }
}
