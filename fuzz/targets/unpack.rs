//! Any bytes as the layers of an image: a store takes it whole or not at all, writes nothing outside of itself, and can give back what it has taken.

#![no_main]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use punnet_images::oci::{Descriptor, ImageConfig, Index, Manifest, RootFs, media_type, to_json};
use punnet_images::{Blobs, Digest, ImportOptions, Source, Store};

/// A folder of this process, in RAM where that can be.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let ram = Path::new("/dev/shm");
        let parent = if ram.is_dir() {
            ram.to_owned()
        } else {
            std::env::temp_dir()
        };
        let folder = parent.join(format!("punnet-fuzz-unpack-{}", std::process::id()));
        fs::create_dir_all(folder.join("layout/blobs/sha256")).expect("a folder in RAM");
        fs::write(
            folder.join("layout/oci-layout"),
            br#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .expect("a file in RAM");
        folder
    })
}

fn blob(media_type: &str, bytes: &[u8]) -> Descriptor {
    let descriptor = Descriptor::of(media_type, bytes);
    let path = folder().join("layout/blobs/sha256").join(descriptor.digest.hex());
    fs::write(path, bytes).expect("a file in RAM");
    descriptor
}

fn source(layers: &[&[u8]]) -> Source {
    drop(fs::remove_dir_all(folder().join("layout/blobs/sha256")));
    fs::create_dir_all(folder().join("layout/blobs/sha256")).expect("a folder in RAM");
    let config = ImageConfig {
        architecture: "amd64".into(),
        os: "linux".into(),
        rootfs: RootFs {
            kind: "layers".into(),
            diff_ids: layers.iter().map(|layer| Digest::of(layer)).collect(),
        },
        ..ImageConfig::default()
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: media_type::MANIFEST.into(),
        config: blob(media_type::CONFIG, &to_json(&config)),
        layers: layers
            .iter()
            .map(|layer| blob(media_type::LAYER, layer))
            .collect(),
        annotations: Default::default(),
    };
    let index = Index::of(vec![blob(media_type::MANIFEST, &to_json(&manifest))]);
    fs::write(folder().join("layout/index.json"), to_json(&index)).expect("a file in RAM");
    Source::open(folder().join("layout")).expect("a layout of ours")
}

fuzz_target!(|bytes: &[u8]| {
    // Blocks of two layers, when the first byte says so.
    let Some((&kind, archive)) = bytes.split_first() else {
        return;
    };
    let middle = archive.len() / 1024 * 512;
    let (first, second) = archive.split_at(if kind & 1 == 0 { archive.len() } else { middle });
    let layers: Vec<&[u8]> = [first, second]
        .into_iter()
        .filter(|layer| !layer.is_empty())
        .collect();
    let store =
        Store::open(folder().join("store")).expect("a store of ours opens, whatever was tried before");
    let source = source(&layers);
    let mut options = ImportOptions {
        name: None,
        platform: "linux/amd64".parse().expect("a platform"),
        reference: Some("app".parse().expect("a reference")),
        expect: None,
        blobs: Blobs::Leave,
        progress: &mut |_| {},
    };
    if let Ok(image) = store.import(&source, &mut options) {
        assert_eq!(store.verify(&image).expect("its list can be read"), []);
        let (one_layer, manifest) = image.source().expect("it can be given back");
        let (document, _) = one_layer.read_manifest(&manifest).expect("a manifest of ours");
        let mut layer = one_layer.blob_of(&document.layers[0]).expect("a layer of ours");
        std::io::copy(&mut layer, &mut std::io::sink()).expect("it can be read again");
        store.remove("app").expect("it can be removed");
    }
    assert!(store.list().expect("it can be listed").is_empty());
    let left: Vec<_> = fs::read_dir(folder().join("store/staging"))
        .expect("it is there")
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let beside = fs::read_dir(folder()).expect("it is there").count();
    assert_eq!(beside, 2, "something was written outside of the store");
});
