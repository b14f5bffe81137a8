//! Any bytes as a tar archive: entries come out or an error, and no entry is longer than the archive says.

#![no_main]

use std::io::Read;

use libfuzzer_sys::fuzz_target;
use punnet_images::tar_stream::{Sequential, TarStream};

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes;
    let mut archive = TarStream::new(Sequential(&mut bytes));
    while let Ok(Some(entry)) = archive.next_entry() {
        let mut content = Vec::new();
        if archive.by_ref().read_to_end(&mut content).is_err() {
            break;
        }
        drop(format!("{entry:?}"));
    }
});
