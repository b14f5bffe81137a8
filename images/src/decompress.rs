//! A layer as it was before it was compressed.

use std::io::Read;
use std::path::PathBuf;

use flate2::read::MultiGzDecoder;

use crate::Result;
use crate::oci::{Compression, Descriptor};
use crate::zstd::ZstdReader;

/// Members of gzip. Of one type for all sources: a decoder is some KiB of code for each.
pub(crate) fn gunzip<'a>(from: Box<dyn Read + 'a>) -> MultiGzDecoder<Box<dyn Read + 'a>> {
    MultiGzDecoder::new(from)
}

/// What the blob of this descriptor holds, uncompressed. Memory is bounded, the length is not: that is for who reads. zstd puts what it looks back at
/// into a file that is made at `window` and loses its name at once.
pub(crate) fn decompressed<'a>(
    blob: Box<dyn Read + 'a>,
    descriptor: &Descriptor,
    window: PathBuf,
) -> Result<Box<dyn Read + 'a>> {
    Ok(match descriptor.compression()? {
        Compression::None => blob,
        Compression::Gzip => Box::new(gunzip(blob)),
        Compression::Zstd => Box::new(ZstdReader::new(blob, Some(window))),
    })
}
