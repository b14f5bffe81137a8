//! Any text as a Containerfile: it is parsed or refused with a place that it has.

#![no_main]

use libfuzzer_sys::fuzz_target;
use punnet_images::{Error, build};

fuzz_target!(|text: &str| {
    match build::parse(text) {
        Ok(file) => assert!(file.instructions.iter().all(|instruction| instruction.line >= 1)),
        Err(error) => match *error {
            Error::Containerfile { line, .. } => assert!(line as usize <= text.lines().count() + 1),
            other => panic!("no place: {other}"),
        },
    }
});
