//! What images take on the disk, alone and together.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Image, Store, entries, verify};
use crate::{Digest, Error, Result};

/// What one image takes.
#[derive(Clone, Debug, PartialEq, Eq, punnet_json::ToJson)]
pub struct ImageUsage {
    /// Its manifest.
    pub manifest: Digest,
    /// Its names.
    pub references: Vec<String>,
    /// Bytes of its files, each once.
    pub files_bytes: u64,
    /// Of those, bytes of files that other images have too: they stay when this one goes.
    pub shared_bytes: u64,
    /// Bytes of its layers as transferred, where they were kept.
    pub layers_bytes: u64,
}

/// What the store takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, punnet_json::ToJson)]
pub struct Usage {
    /// In the order of the names.
    pub images: Vec<ImageUsage>,
    /// Bytes of all stored files, each once, and of kept layers.
    pub total_bytes: u64,
    /// Bytes that `prune` would free: files that no image has. Images without a name are not counted, their files are.
    pub garbage_bytes: u64,
}

impl ImageUsage {
    /// What its removal frees.
    pub fn own_bytes(&self) -> u64 {
        self.files_bytes - self.shared_bytes + self.layers_bytes
    }
}

/// Start of an object's name: enough to tell a million apart (one wrong in 10^7 stores of that size, and then in this count only).
type Key = u64;

impl Store {
    /// Counts files by what they are, not by how often they are linked.
    pub fn usage(&self) -> Result<Usage> {
        let images = self.list()?;
        // In how many images an object is, and the last image it was counted for.
        let mut objects: HashMap<Key, (u32, usize)> = HashMap::new();
        for (number, image) in images.iter().enumerate() {
            for_each_object(image, &mut |key, _| {
                let (count, last) = objects.entry(key).or_insert((0, usize::MAX));
                if *last != number {
                    (*count, *last) = (*count + 1, number);
                }
            })?;
        }
        let mut usage = Usage::default();
        for (number, image) in images.iter().enumerate() {
            usage
                .images
                .push(image_usage(image, number + images.len(), &mut objects)?);
        }
        for fan in entries(&self.root.join("objects"))? {
            for object in entries(&fan)? {
                let found = fs::symlink_metadata(&object).map_err(Error::at("look at", &object))?;
                usage.total_bytes += found.len();
                if found.nlink() == 1 {
                    usage.garbage_bytes += found.len();
                }
            }
        }
        usage.total_bytes += usage.images.iter().map(|image| image.layers_bytes).sum::<u64>();
        Ok(usage)
    }
}

fn image_usage(image: &Image, mark: usize, objects: &mut HashMap<Key, (u32, usize)>) -> Result<ImageUsage> {
    let (mut files_bytes, mut shared_bytes) = (0, 0);
    for_each_object(image, &mut |key, size| {
        let Some((count, last)) = objects.get_mut(&key) else {
            return;
        };
        if *last != mark {
            *last = mark;
            files_bytes += size;
            shared_bytes += if *count > 1 { size } else { 0 };
        }
    })?;
    let layers_bytes = match image.layout() {
        Some(layout) => entries(&layout.join("blobs/sha256"))?
            .iter()
            .map(|blob| bytes_of(blob))
            .sum::<Result<u64>>()?,
        None => 0,
    };
    Ok(ImageUsage {
        manifest: image.manifest,
        references: image.references.iter().map(ToString::to_string).collect(),
        files_bytes,
        shared_bytes,
        layers_bytes,
    })
}

fn bytes_of(path: &Path) -> Result<u64> {
    Ok(fs::symlink_metadata(path)
        .map_err(Error::at("look at", path))?
        .len())
}

fn for_each_object(image: &Image, act: &mut dyn FnMut(Key, u64)) -> Result<()> {
    verify::for_each_file(&image.folder, &mut |record| {
        let bytes = record.object.as_bytes();
        act(
            u64::from_le_bytes(bytes[..8].try_into().expect("a digest has 32 bytes")),
            record.size,
        );
        Ok(())
    })
}
