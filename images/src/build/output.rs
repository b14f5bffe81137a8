//! A finished stage as an image: its layers as blobs, its configuration, its manifest, and the index over several platforms.

use std::fs;
use std::path::Path;

use super::cache;
use super::disk::Disk;
use super::layer::{self, Blob, Layer};
use super::stage::{Stage, StageLayer, key_of};
use super::{Built, Shop};
use crate::oci::{
    self, ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME, Descriptor, History, ImageConfig, Index, Manifest,
    media_type,
};
use crate::{Digest, Error, Image, Reference, Result};

/// Keys of the image specification: labels of these names are annotations of the manifest too, where registries look for them.
const ANNOTATIONS: &str = "org.opencontainers.image.";

/// All layers of an image with what the configuration says of them.
#[derive(Default)]
struct Layers {
    descriptors: Vec<Descriptor>,
    diff_ids: Vec<Digest>,
    history: Vec<History>,
}

impl Layers {
    fn push(&mut self, blob: &Blob) {
        self.descriptors.push(blob.descriptor());
        self.diff_ids.push(blob.diff_id);
    }
}

impl Stage {
    /// Writes it among the blobs of the layout; returns its manifest with its platform.
    pub fn write(mut self, shop: &Shop<'_>) -> Result<Descriptor> {
        self.config.labels.extend(shop.options.labels.iter().cloned());
        let mut layers = Layers::default();
        for layer in &self.layers {
            match layer {
                StageLayer::Base(image) => base_layers(image, &mut layers, shop)?,
                StageLayer::Copied(blob, _) => {
                    keep(blob, shop)?;
                    layers.push(blob);
                }
                StageLayer::Ran(upper, key) => {
                    let key = key_of(&["layer", &key.hex(), &shop.epoch.to_string()]);
                    let write = || {
                        let mut layer = Layer::create(shop.scratch)?;
                        Disk::open(upper)?.write(&mut layer, shop.epoch)?;
                        layer.finish()
                    };
                    layers.push(&known_or_written(&key, shop, &write)?);
                }
            }
        }
        oci::check_layers(layers.descriptors.len())?;
        layers.history.append(&mut self.history);
        let mut annotations: punnet_json::Map<String> = self
            .config
            .labels
            .iter()
            .filter(|(name, _)| name.starts_with(ANNOTATIONS))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if let Some((name, digest)) = &self.base {
            annotations.insert(format!("{ANNOTATIONS}base.name"), name.to_string());
            annotations.insert(format!("{ANNOTATIONS}base.digest"), digest.to_string());
        }
        let config = ImageConfig {
            created: Some(shop.created.clone()),
            author: self.author,
            architecture: self.platform.architecture.clone(),
            os: self.platform.os.clone(),
            variant: self.platform.variant.clone(),
            config: self.config,
            rootfs: oci::RootFs {
                kind: "layers".into(),
                diff_ids: layers.diff_ids,
            },
            history: layers.history,
            ..ImageConfig::default()
        };
        let manifest = Manifest {
            schema_version: 2,
            media_type: media_type::MANIFEST.into(),
            config: write_blob(shop.layout, media_type::CONFIG, &oci::to_json(&config))?,
            layers: layers.descriptors,
            annotations,
        };
        let mut manifest = write_blob(shop.layout, media_type::MANIFEST, &oci::to_json(&manifest))?;
        manifest.platform = Some(self.platform);
        Ok(manifest)
    }
}

/// The base's own layers where they were kept; otherwise its files as one.
fn base_layers(image: &Image, layers: &mut Layers, shop: &Shop<'_>) -> Result<()> {
    let (source, descriptor) = image.source()?;
    let (manifest, config) = source.read_manifest(&descriptor)?;
    if descriptor.digest != image.manifest {
        // A layer that is made of the tree is plain: it is compressed like all others here.
        let (Some(plain), Some(diff_id)) = (manifest.layers.first(), config.rootfs.diff_ids.first()) else {
            return Err(Error::malformed("the base image", "it has no layer"));
        };
        let key = key_of(&["base", &diff_id.hex()]);
        let write = || layer::compress(&mut source.blob_of(plain)?, shop.scratch);
        layers.push(&known_or_written(&key, shop, &write)?);
        layers.history.extend(config.history);
        return Ok(());
    }
    for layer in &manifest.layers {
        let hex = layer.digest.hex();
        let from = source.path().join("blobs/sha256").join(&hex);
        cache::link(&from, &shop.layout.join("blobs/sha256").join(&hex))?;
        let mut layer = layer.clone();
        layer.media_type = media_type::oci_layer(&layer.media_type).to_owned();
        layers.descriptors.push(layer);
    }
    layers.diff_ids.extend(config.rootfs.diff_ids);
    layers.history.extend(config.history);
    Ok(())
}

fn known_or_written(key: &Digest, shop: &Shop<'_>, write: &dyn Fn() -> Result<Blob>) -> Result<Blob> {
    let known = match &shop.cache {
        Some(cache) => cache.find_blob(key, shop.scratch)?,
        None => None,
    };
    let blob = match known {
        Some(blob) => blob,
        None => {
            let blob = write()?;
            if let Some(cache) = &shop.cache {
                cache.put_blob(key, &blob, shop.scratch)?;
            }
            blob
        }
    };
    keep(&blob, shop)?;
    Ok(blob)
}

/// Only layers of what was asked for get into the layout.
fn keep(blob: &Blob, shop: &Shop<'_>) -> Result<()> {
    let hex = blob.digest.hex();
    cache::link(
        &shop.scratch.join(&hex),
        &shop.layout.join("blobs/sha256").join(&hex),
    )
}

/// Makes the layout one: an index over the manifests when there are several, and the file that names what there is.
pub fn finish(layout: &Path, manifests: Vec<Descriptor>, reference: Option<&Reference>) -> Result<Built> {
    let mut image = match manifests.as_slice() {
        [one] => one.clone(),
        _ => write_blob(
            layout,
            media_type::INDEX,
            &oci::to_json(&Index::of(manifests.clone())),
        )?,
    };
    if let Some(reference) = reference {
        let tag = reference.tag().unwrap_or("latest");
        let names = [
            (ANNOTATION_IMAGE_NAME, reference.to_string()),
            (ANNOTATION_REF_NAME, tag.to_owned()),
        ];
        image
            .annotations
            .extend(names.map(|(name, value)| (name.to_owned(), value)));
    }
    write(&layout.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    write(
        &layout.join("index.json"),
        &oci::to_json(&Index::of(vec![image.clone()])),
    )?;
    Ok(Built { image, manifests })
}

fn write_blob(layout: &Path, media_type: &str, bytes: &[u8]) -> Result<Descriptor> {
    let descriptor = Descriptor::of(media_type, bytes);
    write(&layout.join("blobs/sha256").join(descriptor.digest.hex()), bytes)?;
    Ok(descriptor)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(Error::at("write", path))
}
