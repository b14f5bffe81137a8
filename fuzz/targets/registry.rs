//! Any bytes as what a registry or a token service sends: head, challenges, redirects, chunks, token. Nothing panics, nothing is unbounded.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| punnet_images::registry::read_as_answer(bytes));
