//! An image of the store whose layers were not kept, as an OCI image of one plain layer, which is made anew whenever it is read.
//!
//! Its configuration is the stored one with that layer's diff ID, and with a history that says what became of the layers. So the manifest is another
//! than the image's own, and the same every time.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use punnet_json::{Value, json};

use super::{Kind, Source};
use crate::oci::{self, Descriptor, ImageConfig, Index, Manifest, media_type};
use crate::store::TreeArchive;
use crate::{Digest, Error, HashingReader, Result};

impl Source {
    /// Of the image in this folder of the store. Reads the whole tree once for the layer's digest.
    pub(crate) fn of_tree(folder: &Path, image: &Digest) -> Result<(Self, Descriptor)> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).map_err(Error::at("read", &path))
        };
        let mut archive = HashingReader::new(TreeArchive::open(folder)?);
        io::copy(&mut archive, &mut io::sink()).map_err(Error::Stream)?;
        let (size, digest) = archive.finish();
        let layer = Descriptor {
            digest,
            size,
            ..Descriptor::of(media_type::LAYER, b"")
        };
        let config = config_of_one_layer(&read("config.json")?, &digest, image)?;
        let platform = ImageConfig::from_json(&config)?.platform();
        let manifest = Manifest {
            schema_version: 2,
            media_type: media_type::MANIFEST.into(),
            config: Descriptor::of(media_type::CONFIG, &config),
            layers: vec![layer.clone()],
            annotations: Manifest::from_json(&read("manifest.json")?)?.annotations,
        };
        let manifest_json = oci::to_json(&manifest);
        let mut descriptor = Descriptor::of(media_type::MANIFEST, &manifest_json);
        descriptor.platform = Some(platform);
        let documents = BTreeMap::from([
            (manifest.config.digest, config),
            (descriptor.digest, manifest_json),
        ]);
        let source = Self {
            path: folder.into(),
            index: Index::of(vec![descriptor.clone()]),
            kind: Kind::Tree {
                folder: folder.into(),
                layer,
                documents,
            },
        };
        Ok((source, descriptor))
    }
}

/// Edited as JSON: what we do not know of it stays.
fn config_of_one_layer(config: &[u8], layer: &Digest, image: &Digest) -> Result<Vec<u8>> {
    let mut config: Value = oci::parse("the image configuration", config)?;
    let created = config.get("created").cloned();
    let mut history = config
        .get("history")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    for step in history.iter_mut().filter_map(Value::as_object_mut) {
        step.insert("empty_layer".into(), Value::Bool(true));
    }
    let mut whole =
        json!({ "created_by": "punnet save", "comment": format!("all layers of {image} as one") });
    if let (Some(created), Some(whole)) = (created, whole.as_object_mut()) {
        whole.insert("created".into(), created);
    }
    history.push(whole);
    let fields = config
        .as_object_mut()
        .ok_or_else(|| Error::malformed("the image configuration", "it is no object"))?;
    fields.insert("history".into(), Value::Array(history));
    fields.insert("rootfs".into(), json!({ "type": "layers", "diff_ids": [layer] }));
    Ok(oci::to_json(&config))
}
