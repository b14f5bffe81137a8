//! Any bytes as the documents of an image, and any text as its name: nothing panics, and what is read is written as it was meant.

#![no_main]

use libfuzzer_sys::fuzz_target;
use punnet_images::oci::{ImageConfig, Index, Manifest, to_json};
use punnet_images::{Platform, Reference};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(index) = Index::from_json(bytes) {
        Index::from_json(&to_json(&index)).expect("what was read can be read again");
    }
    if let Ok(manifest) = Manifest::from_json(bytes) {
        Manifest::from_json(&to_json(&manifest)).expect("what was read can be read again");
        manifest.layer_bytes();
    }
    if let Ok(config) = ImageConfig::from_json(bytes) {
        ImageConfig::from_json(&to_json(&config)).expect("what was read can be read again");
        config.platform();
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(reference) = text.parse::<Reference>() {
            let again: Reference = reference.to_string().parse().expect("a printed reference is one");
            assert_eq!(again.to_string(), reference.to_string());
        }
        drop(text.parse::<Platform>());
    }
});
