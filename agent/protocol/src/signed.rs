//! What the fleet key signs, so that a broker can neither make nor change it.
//!
//! Body: a 64-byte Ed25519 signature (RFC 8032), then the message in postcard. What is signed is the kind's domain text, a
//! NUL byte and the message's bytes: a signature on one kind of message never fits another. Who it is for and its generation
//! or id are inside the message. This crate has no cryptography: the caller brings the two functions.

use serde::{Deserialize, Serialize};

use crate::envelope::{self, EnvelopeError, HEADER_BYTES};
use crate::{Command, Desired, DesiredView, PAYLOAD_BYTES_MAX, SCHEMA_VERSION};

/// Bytes of an Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;

/// Messages that count only with the fleet's signature.
pub trait Signed: Serialize + for<'de> Deserialize<'de> {
    /// Says which kind of message a signature is for.
    const DOMAIN: &'static [u8];

    /// Decodes all of a message's bytes.
    fn read(message: &[u8]) -> Result<Self, EnvelopeError> {
        envelope::from_body(message)
    }
}

impl Signed for Desired {
    const DOMAIN: &'static [u8] = b"punnet desired state v1";

    // One app at a time into its place: serde's way holds a copy of the whole (90 KiB) on the stack at each of its levels,
    // more than a thread's 2 MiB in a build without optimisation.
    fn read(message: &[u8]) -> Result<Self, EnvelopeError> {
        let view = DesiredView::read(message)?;
        let apps = view.apps().map(|(app, _)| app).collect();
        let DesiredView {
            fleet,
            device,
            generation,
            signed_at_s,
            ..
        } = view;
        Ok(Self {
            fleet,
            device,
            generation,
            signed_at_s,
            apps,
        })
    }
}

impl Signed for Command {
    const DOMAIN: &'static [u8] = b"punnet command v1";
}

/// A signed payload was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignedError {
    /// The envelope or the message is not well-formed.
    Envelope(EnvelopeError),
    /// The signature is not the fleet key's.
    Signature,
}

impl From<EnvelopeError> for SignedError {
    fn from(error: EnvelopeError) -> Self {
        Self::Envelope(error)
    }
}

impl core::fmt::Display for SignedError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Envelope(error) => error.fmt(f),
            Self::Signature => f.write_str("it is not signed by the fleet key"),
        }
    }
}

impl core::error::Error for SignedError {}

/// Encodes and signs `message`. `sign` gets the bytes to sign.
pub fn encode<'b, T: Signed>(
    message: &T,
    buffer: &'b mut [u8],
    sign: impl FnOnce(&[u8]) -> [u8; SIGNATURE_BYTES],
) -> Result<&'b [u8], EnvelopeError> {
    // The domain is written where the signature will stand, so that what is signed is one slice without a copy.
    let message_at = HEADER_BYTES + SIGNATURE_BYTES;
    let space = buffer.get_mut(message_at..).ok_or(EnvelopeError::TooLarge)?;
    let message_bytes = postcard::to_slice(message, space)
        .map_err(|_| EnvelopeError::TooLarge)?
        .len();
    let end = message_at + message_bytes;
    if end > PAYLOAD_BYTES_MAX {
        return Err(EnvelopeError::TooLarge);
    }
    let signed_at = message_at - T::DOMAIN.len() - 1;
    buffer[signed_at..message_at - 1].copy_from_slice(T::DOMAIN);
    buffer[message_at - 1] = 0;
    let signature = sign(&buffer[signed_at..end]);
    buffer[HEADER_BYTES..message_at].copy_from_slice(&signature);
    envelope::seal(SCHEMA_VERSION, buffer, SIGNATURE_BYTES + message_bytes)
}

/// Checks the signature with `verify(signed bytes, signature)`, then decodes. Nothing of the message is looked at before.
///
/// `scratch` must hold the payload; [`PAYLOAD_BYTES_MAX`] always does.
pub fn decode<T: Signed>(
    payload: &[u8],
    scratch: &mut [u8],
    verify: impl FnOnce(&[u8], &[u8; SIGNATURE_BYTES]) -> bool,
) -> Result<T, SignedError> {
    Ok(T::read(open::<T>(payload, scratch, verify)?)?)
}

/// Checks the signature as [`decode`] does and returns the message's bytes, still encoded, for a view to read.
pub fn open<'p, T: Signed>(
    payload: &'p [u8],
    scratch: &mut [u8],
    verify: impl FnOnce(&[u8], &[u8; SIGNATURE_BYTES]) -> bool,
) -> Result<&'p [u8], SignedError> {
    let body = envelope::open(payload)?;
    let (signature, message) = body
        .split_first_chunk::<SIGNATURE_BYTES>()
        .ok_or(EnvelopeError::Body)?;
    let head = T::DOMAIN.len() + 1;
    let signed = scratch
        .get_mut(..head + message.len())
        .ok_or(EnvelopeError::TooLarge)?;
    signed[..head - 1].copy_from_slice(T::DOMAIN);
    signed[head - 1] = 0;
    signed[head..].copy_from_slice(message);
    if !verify(signed, signature) {
        return Err(SignedError::Signature);
    }
    Ok(message)
}
