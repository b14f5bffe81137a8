//! The envelope around every payload.
//!
//! | bytes | content |
//! |---|---|
//! | 0 | the schema version of this message: [`SCHEMA_VERSION`], or [`TROUBLED_VERSION`] |
//! | 1..5 | length of the body, little endian |
//! | 5..9 | CRC-32 (IEEE 802.3) of the body, little endian |
//! | 9.. | the body: postcard, or signature and postcard ([`crate::signed`]) |
//!
//! The checksum finds damage, not malice: that is the signature's work.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::{PAYLOAD_BYTES_MAX, SCHEMA_VERSION, TROUBLED_VERSION};

/// Bytes before the body.
pub const HEADER_BYTES: usize = 9;

/// A payload is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvelopeError {
    /// Larger than [`PAYLOAD_BYTES_MAX`] or than the buffer given.
    TooLarge,
    /// Shorter than its header, or longer or shorter than its header says.
    Length,
    /// Another schema version.
    Version(u8),
    /// The checksum does not fit.
    Checksum,
    /// The body does not decode, breaks a bound, or has bytes left over.
    Body,
}

impl fmt::Display for EnvelopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => write!(f, "larger than {PAYLOAD_BYTES_MAX} bytes"),
            Self::Length => f.write_str("its length is not the one in its header"),
            Self::Version(version) => {
                write!(f, "schema version {version}, this side speaks {SCHEMA_VERSION}")
            }
            Self::Checksum => f.write_str("its checksum is wrong"),
            Self::Body => f.write_str("its content does not decode"),
        }
    }
}

impl core::error::Error for EnvelopeError {}

/// Encodes `message` into `buffer` and returns the payload.
pub fn encode<'b, T: Serialize>(message: &T, buffer: &'b mut [u8]) -> Result<&'b [u8], EnvelopeError> {
    encode_version(SCHEMA_VERSION, message, buffer)
}

/// The same in another schema version.
pub(crate) fn encode_version<'b, T: Serialize>(
    version: u8,
    message: &T,
    buffer: &'b mut [u8],
) -> Result<&'b [u8], EnvelopeError> {
    let body = buffer.get_mut(HEADER_BYTES..).ok_or(EnvelopeError::TooLarge)?;
    let body_bytes = postcard::to_slice(message, body)
        .map_err(|_| EnvelopeError::TooLarge)?
        .len();
    seal(version, buffer, body_bytes)
}

/// Decodes a payload whose body is plain postcard.
pub fn decode<'p, T: Deserialize<'p>>(payload: &'p [u8]) -> Result<T, EnvelopeError> {
    from_body(open(payload)?)
}

/// Writes the header before a body of `body_bytes` that already stands in `buffer` behind [`HEADER_BYTES`].
pub(crate) fn seal(version: u8, buffer: &mut [u8], body_bytes: usize) -> Result<&[u8], EnvelopeError> {
    let end = HEADER_BYTES + body_bytes;
    if end > PAYLOAD_BYTES_MAX || end > buffer.len() {
        return Err(EnvelopeError::TooLarge);
    }
    let checksum = crc32fast::hash(&buffer[HEADER_BYTES..end]);
    let length = u32::try_from(body_bytes).map_err(|_| EnvelopeError::TooLarge)?;
    buffer[0] = version;
    buffer[1..5].copy_from_slice(&length.to_le_bytes());
    buffer[5..9].copy_from_slice(&checksum.to_le_bytes());
    Ok(&buffer[..end])
}

/// Checks the header, the version too, and returns the body.
pub(crate) fn open(payload: &[u8]) -> Result<&[u8], EnvelopeError> {
    match open_any(payload)? {
        (SCHEMA_VERSION, body) => Ok(body),
        (version, _) => Err(EnvelopeError::Version(version)),
    }
}

/// Checks the header and returns the version and the body.
pub(crate) fn open_any(payload: &[u8]) -> Result<(u8, &[u8]), EnvelopeError> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(EnvelopeError::TooLarge);
    }
    let Some((header, body)) = payload.split_first_chunk::<HEADER_BYTES>() else {
        return Err(EnvelopeError::Length);
    };
    if !matches!(header[0], SCHEMA_VERSION | TROUBLED_VERSION) {
        return Err(EnvelopeError::Version(header[0]));
    }
    if u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize != body.len() {
        return Err(EnvelopeError::Length);
    }
    if u32::from_le_bytes([header[5], header[6], header[7], header[8]]) != crc32fast::hash(body) {
        return Err(EnvelopeError::Checksum);
    }
    Ok((header[0], body))
}

/// Decodes a whole body: bytes left over mean that the sender knows a field that we do not.
pub(crate) fn from_body<'p, T: Deserialize<'p>>(body: &'p [u8]) -> Result<T, EnvelopeError> {
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        _ => Err(EnvelopeError::Body),
    }
}
