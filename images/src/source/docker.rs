//! A docker-archive as an OCI index: manifests are made from `manifest.json`, blobs stay where they are.
//!
//! <https://github.com/moby/docker-image-spec/blob/main/v1.2.md>

use super::{Members, Place, digest_of};
use crate::oci::{self, ANNOTATION_IMAGE_NAME, Descriptor, ImageConfig, Index, Manifest, media_type};
use crate::{Digest, Error, Reference, Result};
use punnet_json::FromJson;
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;

/// What the archive is as an OCI layout.
pub(super) struct Synthesised {
    pub index: Index,
    pub blobs: BTreeMap<Digest, Place>,
    /// Manifests: they exist only in memory.
    pub documents: BTreeMap<Digest, Vec<u8>>,
}

/// One image of `manifest.json`.
#[derive(FromJson)]
#[json(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    #[json(default)]
    repo_tags: Option<Vec<String>>,
    #[json(default)]
    layers: Option<Vec<String>>,
}

pub(super) fn synthesise(members: &Members, manifest_json: &[u8]) -> Result<Synthesised> {
    let images: Vec<SavedImage> = oci::parse("manifest.json", manifest_json)?;
    if images.len() > oci::INDEX_ENTRIES_MAX {
        return Err(Error::Limit {
            what: "the number of images in the archive".to_owned(),
            limit: oci::INDEX_ENTRIES_MAX.to_string(),
        }
        .into());
    }
    let mut made = Synthesised {
        index: Index::of(Vec::new()),
        blobs: BTreeMap::new(),
        documents: BTreeMap::new(),
    };
    for image in images {
        add(members, image, &mut made)?;
    }
    Ok(made)
}

fn add(members: &Members, image: SavedImage, made: &mut Synthesised) -> Result<()> {
    let missing = |name: &str| {
        Error::malformed(
            "manifest.json",
            format!("it names `{name}`, which is not in the archive"),
        )
    };
    let config_place = members
        .find(&image.config)
        .ok_or_else(|| missing(&image.config))?;
    let config_bytes = members.read(config_place, &image.config)?;
    let config = ImageConfig::from_json(&config_bytes)?;
    let layer_names = image.layers.unwrap_or_default();
    if layer_names.len() != config.rootfs.diff_ids.len() {
        let why = format!(
            "it names {} layers, the image configuration {}",
            layer_names.len(),
            config.rootfs.diff_ids.len()
        );
        return Err(Error::malformed("manifest.json", why));
    }
    let mut layers = Vec::new();
    for (name, diff_id) in layer_names.iter().zip(&config.rootfs.diff_ids) {
        let place = members.find(name).ok_or_else(|| missing(name))?;
        let layer = describe_layer(members, place, *diff_id)?;
        made.blobs.insert(layer.digest, place);
        layers.push(layer);
    }
    let config_descriptor = Descriptor::of(media_type::CONFIG, &config_bytes);
    made.blobs.insert(config_descriptor.digest, config_place);
    let manifest = Manifest {
        schema_version: 2,
        media_type: media_type::MANIFEST.to_owned(),
        config: config_descriptor,
        layers,
        annotations: Default::default(),
    };
    let manifest = oci::to_json(&manifest);
    let mut descriptor = Descriptor::of(media_type::MANIFEST, &manifest);
    descriptor.platform = Some(config.platform());
    made.documents.insert(descriptor.digest, manifest);
    let tags = image.repo_tags.unwrap_or_default();
    if tags.is_empty() {
        made.index.manifests.push(descriptor.clone());
    }
    for tag in tags {
        // Shown in the form references are compared in; text that is no reference stays as it is.
        let tag = tag
            .parse::<Reference>()
            .map_or(tag, |reference| reference.to_string());
        let mut named = descriptor.clone();
        named.annotations.insert(ANNOTATION_IMAGE_NAME.to_owned(), tag);
        made.index.manifests.push(named);
    }
    Ok(())
}

/// `docker save` writes plain layers: the diff ID is the digest. Other tools may leave them compressed: then it is computed.
fn describe_layer(members: &Members, place: Place, diff_id: Digest) -> Result<Descriptor> {
    let mut magic = [0; 4];
    let count = members
        .file
        .read_at(&mut magic, place.offset)
        .map_err(Error::Stream)?;
    let (kind, digest) = match magic {
        [0x1f, 0x8b, ..] if count == 4 => (media_type::LAYER_GZIP, digest_of(place.open(&members.file))?),
        [0x28, 0xb5, 0x2f, 0xfd] => (media_type::LAYER_ZSTD, digest_of(place.open(&members.file))?),
        _ => (media_type::LAYER, diff_id),
    };
    Ok(Descriptor {
        digest,
        size: place.size,
        ..Descriptor::of(kind, b"")
    })
}
