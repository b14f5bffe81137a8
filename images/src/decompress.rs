//! A layer as it was before it was compressed.

use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::Result;
use crate::oci::{Compression, Descriptor};
use crate::zstd::ZstdReader;

/// What the blob of this descriptor holds, uncompressed. Memory is bounded, the length is not: that is for who reads. In a folder for work in progress zstd
/// puts what it looks back at into a file; without one it keeps up to 9 MiB of it in memory.
pub(crate) fn decompressed<'a>(
    blob: impl Read + 'a,
    descriptor: &Descriptor,
    scratch: Option<&Path>,
) -> Result<Box<dyn Read + 'a>> {
    Ok(match descriptor.compression()? {
        Compression::None => Box::new(blob),
        Compression::Gzip => Box::new(MultiGzDecoder::new(blob)),
        Compression::Zstd => Box::new(ZstdReader::new(blob, scratch.map(|folder| folder.join("window")))),
    })
}
