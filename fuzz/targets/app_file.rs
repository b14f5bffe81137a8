//! Any text as an app file: nothing panics, a place that is named lies in the text, and what is accepted is within its bounds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use punnet_apps::{App, FileError};

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let name = "web".parse().expect("this is a name");
    match App::parse(&name, &text) {
        Ok(app) => {
            assert!(!app.image.is_empty() && app.mounts.len() <= 4 && app.device_classes.len() <= 8);
            assert!(app.create_args().iter().all(|word| !word.contains('\0')));
            assert!(app.mounts.iter().all(|mount| mount.source.starts_with('/')));
        }
        Err(error) => {
            let FileError { place, what } = *error;
            assert!(!what.is_empty() && place.line >= 1 && place.column >= 1);
            // The end of the text is a place, too.
            assert!(place.line as usize <= text.split('\n').count());
        }
    }
});
