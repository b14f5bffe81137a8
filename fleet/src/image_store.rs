//! The controller's image store: blobs by digest in `blobs/sha256`, what they belong to in the database.
//!
//! A blob is written beside its place, hashed on the way, synced and renamed: what has the name has the content. An image is
//! in the database only once all its blobs are there. Nothing is unpacked; devices do that.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use punnet_images::oci::{self, Descriptor, Index, media_type};
use punnet_images::{HashingReader, Reference, Source};
use punnet_protocol::Digest;
use rusqlite::Connection;

use crate::db::images::{self, Image};
use crate::error::{Error, Result};
use crate::platform::{Manifest, Platform};
use crate::state_dir::sync_dir;

/// Depth of indexes in indexes.
const INDEX_DEPTH_MAX: usize = 4;

/// The file of a blob under `blobs`.
pub fn blob_path(blobs: &Path, digest: &Digest) -> PathBuf {
    blobs.join("sha256").join(crate::hex(&digest.0))
}

/// A reference as it is stored: `hello` is `hello:latest`.
pub fn reference(text: &str) -> Result<String> {
    let parsed: Reference = text.parse().map_err(|why| Error::invalid("image name", why))?;
    Ok(parsed.to_string())
}

/// Adds the image at `path` (an OCI layout, an OCI archive or a docker-archive), with all its platforms. `name` chooses the
/// image when there are several, and names it.
pub fn add(connection: &mut Connection, blobs: &Path, path: &Path, name: Option<&str>) -> Result<Image> {
    let store = Store::lock(blobs)?;
    let source = Source::open(path).map_err(unreadable(path))?;
    let (reference, entries) = pick(&source, path, name)?;
    let mut reading = Reading {
        source: &source,
        path,
        blobs: BTreeMap::new(),
        manifests: Vec::new(),
    };
    for entry in &entries {
        reading.visit(entry, 0)?;
    }
    if reading.manifests.is_empty() {
        return Err(Error::invalid(
            path.display().to_string(),
            "the image has no manifest for any platform",
        ));
    }
    let Reading {
        blobs: mut wanted,
        manifests,
        ..
    } = reading;
    let root = match entries.as_slice() {
        [only] => only.digest,
        // Several manifests without an index of their own: they get one.
        several => {
            let index = oci::to_json(&Index::of(several.to_vec()));
            store.write_bytes(&index)?;
            let made = Descriptor::of(media_type::INDEX, &index);
            // copy() finds it in its place.
            wanted.insert(made.digest, made.size);
            made.digest
        }
    };
    for (digest, bytes) in &wanted {
        store.copy(&source, path, digest, *bytes)?;
    }
    sync_dir(&store.dir())?;
    let image = Image {
        reference,
        root: ours(&root),
        added_s: crate::now_s(),
        bytes_total: wanted.values().sum(),
        manifests,
        blobs: wanted
            .iter()
            .map(|(digest, bytes)| (ours(digest), *bytes))
            .collect(),
    };
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    images::replace(&transaction, &image)?;
    transaction.commit()?;
    store.collect_garbage(connection)?;
    Ok(image)
}

/// Removes an image and the blobs that no other image has.
pub fn remove(connection: &mut Connection, blobs: &Path, reference: &str) -> Result<()> {
    let store = Store::lock(blobs)?;
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    images::remove(&transaction, reference)?;
    transaction.commit()?;
    store.collect_garbage(connection)
}

/// Which image of the source is meant, and its reference here.
fn pick(source: &Source, path: &Path, name: Option<&str>) -> Result<(String, Vec<Descriptor>)> {
    let found = source.images();
    let mut names: Vec<&str> = found.iter().filter_map(|image| image.name.as_deref()).collect();
    names.sort_unstable();
    names.dedup();
    let wanted = name.map(reference).transpose()?;
    let same = |known: &str| name == Some(known) || (wanted.is_some() && reference(known).ok() == wanted);
    let chosen = match (names.as_slice(), names.iter().find(|known| same(known))) {
        ([] | [_], _) => None,
        (_, Some(known)) => Some(*known),
        (several, None) => {
            return Err(Error::invalid(
                path.display().to_string(),
                format!(
                    "it holds several images; choose one with --name: {}",
                    several.join(", ")
                ),
            ));
        }
    };
    let entries: Vec<Descriptor> = found
        .iter()
        .filter(|image| chosen.is_none() || image.name.as_deref() == chosen)
        .map(|image| image.descriptor.clone())
        .collect();
    let reference = match (wanted, names.first()) {
        (Some(wanted), _) => wanted,
        (None, Some(known)) => reference(known).map_err(|_| {
            Error::invalid(
                path.display().to_string(),
                "its name is no image name; give --name",
            )
        })?,
        (None, None) => {
            return Err(Error::invalid(
                path.display().to_string(),
                "the image has no name; give it one with --name",
            ));
        }
    };
    Ok((reference, entries))
}

/// Collects what an image is made of, and checks that its documents fit together.
struct Reading<'a> {
    source: &'a Source,
    path: &'a Path,
    blobs: BTreeMap<punnet_images::Digest, u64>,
    manifests: Vec<Manifest>,
}

impl Reading<'_> {
    fn visit(&mut self, descriptor: &Descriptor, depth: usize) -> Result<()> {
        // Attestations and signatures that builders put beside the images: nothing runs them.
        if descriptor
            .platform
            .as_ref()
            .is_some_and(|platform| platform.os == "unknown")
        {
            return Ok(());
        }
        if media_type::is_index(&descriptor.media_type) {
            return self.visit_index(descriptor, depth);
        }
        let unreadable = || unreadable(self.path);
        let (manifest, config) = self.source.read_manifest(descriptor).map_err(unreadable())?;
        for layer in &manifest.layers {
            layer.compression().map_err(unreadable())?;
        }
        let parts: Vec<&Descriptor> = [descriptor, &manifest.config]
            .into_iter()
            .chain(&manifest.layers)
            .collect();
        let total_bytes = parts
            .iter()
            .fold(0_u64, |sum, part| sum.saturating_add(part.size));
        self.blobs
            .extend(parts.iter().map(|part| (part.digest, part.size)));
        let of_config = config.platform();
        // Older builders leave the variant out of the configuration; the index has it then.
        let of_index = descriptor
            .platform
            .as_ref()
            .and_then(|platform| platform.variant.clone());
        self.manifests.push(Manifest {
            digest: ours(&descriptor.digest),
            platform: Platform {
                os: of_config.os,
                architecture: of_config.architecture,
                variant: of_config.variant.or(of_index).unwrap_or_default(),
            },
            manifest_bytes: u32::try_from(descriptor.size)
                .map_err(|_| Error::invalid(self.path.display().to_string(), "a manifest is too large"))?,
            total_bytes,
        });
        Ok(())
    }

    fn visit_index(&mut self, descriptor: &Descriptor, depth: usize) -> Result<()> {
        if depth >= INDEX_DEPTH_MAX {
            let why = format!("indexes are nested more than {INDEX_DEPTH_MAX} deep");
            return Err(Error::invalid(self.path.display().to_string(), why));
        }
        let document = self.source.document(descriptor).map_err(unreadable(self.path))?;
        let index = Index::from_json(&document).map_err(unreadable(self.path))?;
        self.blobs.insert(descriptor.digest, descriptor.size);
        index
            .manifests
            .iter()
            .try_for_each(|entry| self.visit(entry, depth + 1))
    }
}

/// The blob directory, held against other processes that add or remove.
struct Store<'a> {
    blobs: &'a Path,
    _lock: File,
}

impl<'a> Store<'a> {
    fn lock(blobs: &'a Path) -> Result<Self> {
        for dir in ["sha256", "tmp"] {
            let dir = blobs.join(dir);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .map_err(Error::io("make", &dir))?;
        }
        let path = blobs.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        lock.lock().map_err(Error::io("lock", &path))?;
        let store = Self { blobs, _lock: lock };
        store.clear_temporary()?;
        Ok(store)
    }

    fn dir(&self) -> PathBuf {
        self.blobs.join("sha256")
    }

    /// Nobody else writes here while the lock is held: what lies here was interrupted.
    fn clear_temporary(&self) -> Result<()> {
        let dir = self.blobs.join("tmp");
        for entry in fs::read_dir(&dir).map_err(Error::io("read", &dir))? {
            let path = entry.map_err(Error::io("read", &dir))?.path();
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
        Ok(())
    }

    fn copy(&self, source: &Source, path: &Path, digest: &punnet_images::Digest, bytes: u64) -> Result<()> {
        let target = blob_path(self.blobs, &ours(digest));
        // It has the name, so it has the content.
        if target.metadata().is_ok_and(|metadata| metadata.len() == bytes) {
            return Ok(());
        }
        let blob = source.blob(digest).map_err(unreadable(path))?;
        let temporary = self.blobs.join("tmp").join(digest.hex());
        let file = create(&temporary)?;
        let copied = copy_checked(blob, &file, &temporary, digest, bytes, path);
        if copied.is_err() {
            // Above all when the disk is full.
            fs::remove_file(&temporary).ok();
        }
        copied.and_then(|()| publish(&file, &temporary, &target))
    }

    fn write_bytes(&self, bytes: &[u8]) -> Result<()> {
        let digest = punnet_images::Digest::of(bytes);
        let temporary = self.blobs.join("tmp").join(digest.hex());
        let mut file = create(&temporary)?;
        file.write_all(bytes).map_err(Error::io("write", &temporary))?;
        publish(&file, &temporary, &blob_path(self.blobs, &ours(&digest)))
    }

    /// Removes blobs that no image has.
    fn collect_garbage(&self, connection: &Connection) -> Result<()> {
        let dir = self.dir();
        for entry in fs::read_dir(&dir).map_err(Error::io("read", &dir))? {
            let entry = entry.map_err(Error::io("read", &dir))?;
            let name = entry.file_name();
            let digest = name
                .to_str()
                .and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
            let needed = match digest {
                Some(digest) => images::blob_bytes(connection, &digest)?.is_some(),
                None => true,
            };
            if !needed {
                fs::remove_file(entry.path()).map_err(Error::io("remove", &entry.path()))?;
            }
        }
        Ok(())
    }
}

fn copy_checked(
    blob: punnet_images::Blob,
    mut file: &File,
    temporary: &Path,
    digest: &punnet_images::Digest,
    bytes: u64,
    path: &Path,
) -> Result<()> {
    let mut reader = HashingReader::new(blob);
    io::copy(&mut reader, &mut file).map_err(Error::io("copy a blob to", temporary))?;
    let (copied, actual) = reader.finish();
    if actual == *digest && copied == bytes {
        return Ok(());
    }
    let why = format!("blob {digest} is damaged: it has {copied} bytes of {bytes} and the digest {actual}");
    Err(Error::invalid(path.display().to_string(), why))
}

fn create(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::io("write", path))
}

fn publish(file: &File, temporary: &Path, target: &Path) -> Result<()> {
    file.sync_all().map_err(Error::io("sync", temporary))?;
    fs::rename(temporary, target).map_err(Error::io("rename to", target))
}

fn ours(digest: &punnet_images::Digest) -> Digest {
    Digest(*digest.as_bytes())
}

fn unreadable(path: &Path) -> impl FnOnce(Box<punnet_images::Error>) -> Error {
    let path = path.to_owned();
    move |source| Error::Image { path, source }
}
