//! SHA-256 digests: parsed once, compared as bytes, and computed while data streams by.
//!
//! <https://github.com/opencontainers/image-spec/blob/main/descriptor.md#digests>

use crate::{Error, Result};
use punnet_json::{FromJson, Reader, ToJson, Writer};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

const ALGORITHM: &str = "sha256:";

/// A SHA-256 digest, written `sha256:` and 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// From the raw 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// From 64 lower-case hex digits, without the algorithm.
    pub fn from_hex(hex: &str) -> Option<Self> {
        Some(Self(unhex(hex)?.try_into().ok()?))
    }

    /// The 64 hex digits, without the algorithm.
    pub fn hex(&self) -> String {
        hex(&self.0)
    }

    /// Fails unless `bytes` have this digest; `what` names them in the error.
    pub fn check(&self, bytes: &[u8], what: &str) -> Result<()> {
        let actual = Self::of(bytes);
        if actual == *self {
            return Ok(());
        }
        Err(Error::Mismatch {
            what: what.to_owned(),
            expected: *self,
            actual,
        }
        .into())
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{ALGORITHM}{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for Digest {
    type Err = Box<Error>;
    fn from_str(text: &str) -> Result<Self> {
        let bad = |why| {
            Box::new(Error::Digest {
                text: text.chars().take(100).collect(),
                why,
            })
        };
        let hex = text
            .strip_prefix(ALGORITHM)
            .ok_or_else(|| bad("only sha256: digests are supported"))?;
        Self::from_hex(hex).ok_or_else(|| bad("64 lower-case hex digits must follow sha256:"))
    }
}

impl ToJson for Digest {
    fn write(&self, writer: &mut Writer) {
        writer.string(&self.to_string());
    }
}

impl FromJson for Digest {
    /// Of no bytes: it stays only where a document need not have one.
    fn empty() -> Self {
        Self([0; 32])
    }

    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), punnet_json::Error> {
        let text = reader.string()?;
        *self = text
            .parse()
            .map_err(|error: Box<Error>| reader.error(error.to_string()))?;
        Ok(())
    }
}

/// Lower-case hex digits, two a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|n| char::from(b"0123456789abcdef"[n as usize]))
        .collect()
}

/// What [`hex`] made, and nothing else.
pub(crate) fn unhex(hex: &str) -> Option<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2);
    pairs
        .map(|pair| Some(nibble(*pair.first()?)? << 4 | nibble(*pair.get(1)?)?))
        .collect()
}

/// Passes data through and keeps its length and digest.
pub struct HashingReader<'a> {
    inner: Box<dyn Read + 'a>,
    hasher: Sha256,
    bytes: u64,
}

impl<'a> HashingReader<'a> {
    /// Starts at zero bytes.
    pub fn new(inner: impl Read + 'a) -> Self {
        Self {
            inner: Box::new(inner),
            hasher: Sha256::new(),
            bytes: 0,
        }
    }

    /// How many bytes have passed.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Length and digest of all that has passed.
    pub fn finish(self) -> (u64, Digest) {
        (self.bytes, Digest(self.hasher.finalize().into()))
    }
}

impl Read for HashingReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}

/// The writing side of [`HashingReader`]: for what is made here.
pub struct HashingWriter<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W: io::Write> HashingWriter<W> {
    /// Starts at zero bytes.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            bytes: 0,
        }
    }

    /// The writer behind, and length and digest of all that has passed.
    pub fn finish(self) -> (W, u64, Digest) {
        (self.inner, self.bytes, Digest(self.hasher.finalize().into()))
    }
}

impl<W: io::Write> io::Write for HashingWriter<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_of_nothing_is_the_known_one() {
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), text);
        assert_eq!(text.parse::<Digest>().unwrap(), Digest::of(b""));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "sha256:",
            "sha512:00",
            "sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855",
            "sha256:../../etc",
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }
}
