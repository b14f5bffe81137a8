//! The same bytes as some of the [messages](crate::messages), read or written without a copy.
//!
//! A decoded [`Desired`](crate::Desired) takes about 90 KiB whatever is in it, a [`Block`](crate::Block) 16 KiB: too much for a
//! small board's stack when the payload is there anyway. `tests/it/views.rs` holds that both forms are the same on the wire.

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::envelope::EnvelopeError;
use crate::{APPS_MAX, App, BLOCK_BYTES_MAX, BlockRefusal, Digest, Name};

/// A [`Desired`](crate::Desired) whose apps stay encoded in the payload.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredView<'p> {
    /// As in [`Desired`](crate::Desired).
    pub fleet: Name,
    /// As in [`Desired`](crate::Desired).
    pub device: Name,
    /// As in [`Desired`](crate::Desired).
    pub generation: u64,
    /// As in [`Desired`](crate::Desired).
    pub signed_at_s: u64,
    apps: &'p [u8],
}

#[derive(Deserialize)]
struct Head {
    fleet: Name,
    device: Name,
    generation: u64,
    signed_at_s: u64,
    // A sequence is its length, then its elements.
    apps: usize,
}

impl<'p> DesiredView<'p> {
    /// Reads the bytes of a message (see [`crate::signed::open`]) and checks that all of it decodes, one app at a time.
    pub fn read(message: &'p [u8]) -> Result<Self, EnvelopeError> {
        let (head, apps): (Head, _) = postcard::take_from_bytes(message).map_err(|_| EnvelopeError::Body)?;
        if head.apps > APPS_MAX {
            return Err(EnvelopeError::Body);
        }
        let Head {
            fleet,
            device,
            generation,
            signed_at_s,
            ..
        } = head;
        let view = Self {
            fleet,
            device,
            generation,
            signed_at_s,
            apps,
        };
        let mut rest = apps;
        for _ in 0..head.apps {
            (_, rest) = take_app(rest).ok_or(EnvelopeError::Body)?;
        }
        if rest.is_empty() {
            Ok(view)
        } else {
            Err(EnvelopeError::Body)
        }
    }

    /// The apps in order, each with its encoded bytes.
    pub fn apps(&self) -> impl Iterator<Item = (App, &'p [u8])> + use<'p> {
        let mut rest = self.apps;
        core::iter::from_fn(move || {
            let (app, after) = take_app(rest)?;
            let encoded = &rest[..rest.len() - after.len()];
            rest = after;
            Some((app, encoded))
        })
    }
}

fn take_app(bytes: &[u8]) -> Option<(App, &[u8])> {
    postcard::take_from_bytes(bytes).ok()
}

/// A [`BlockAnswer`](crate::BlockAnswer) whose data stays in the payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlockAnswerView<'p> {
    /// The bytes.
    #[serde(borrow)]
    Data(BlockView<'p>),
    /// No bytes, and why.
    Refused {
        /// Digest of the blob asked for.
        blob: Digest,
        /// Why.
        reason: BlockRefusal,
    },
}

/// A [`Block`](crate::Block) whose data stays in the payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockView<'p> {
    /// As in [`Block`](crate::Block).
    pub blob: Digest,
    /// As in [`Block`](crate::Block).
    pub offset: u64,
    /// As in [`Block`](crate::Block).
    pub total_bytes: u64,
    /// As in [`Block`](crate::Block).
    #[serde(borrow, deserialize_with = "block_data")]
    pub data: &'p [u8],
}

fn block_data<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'de [u8], D::Error> {
    let data = <&'de [u8]>::deserialize(deserializer)?;
    if data.len() > BLOCK_BYTES_MAX {
        return Err(de::Error::custom("a block is too long"));
    }
    Ok(data)
}

/// A [`LogChunk`](crate::LogChunk) whose data lies elsewhere; only to be encoded.
#[derive(Clone, Debug, Serialize)]
pub struct LogChunkView<'p> {
    /// As in [`LogChunk`](crate::LogChunk).
    pub session: u64,
    /// As in [`LogChunk`](crate::LogChunk).
    pub app: &'p Name,
    /// As in [`LogChunk`](crate::LogChunk).
    pub offset: u64,
    /// As in [`LogChunk`](crate::LogChunk).
    pub seen_at_ms: u64,
    /// As in [`LogChunk`](crate::LogChunk).
    pub last: bool,
    /// At most [`crate::LOG_BYTES_MAX`].
    pub data: &'p [u8],
}
