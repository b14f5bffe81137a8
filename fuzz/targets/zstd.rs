//! Any bytes as a layer that is compressed with zstd: what it unpacks to, or an error, within bounds.

#![no_main]

use libfuzzer_sys::fuzz_target;

/// More than the largest window that is kept in memory.
const BYTES_MAX: u64 = 12 << 20;

fuzz_target!(|bytes: &[u8]| punnet_images::read_as_zstd(bytes, BYTES_MAX));
