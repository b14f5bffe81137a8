//! Puts back what is damaged, and nothing else: of the layers only those that damaged files came with are read, and each until they have been found in it.
//!
//! Directories and links come first, of all images: what they were is written down (nodes.rs). Then what no layer has is removed from all of them (added.rs). A damaged file may be shared by other images: its good copy takes its place in all of them, one rename a path, each before or after. What is
//! interrupted is found by the next `verify` and repaired again. Directories keep their times. Files that a running container has open stay
//! what they are for it until it opens them again.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FlockArg, OFlag, renameat};
use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;
use nix::unistd::syncfs;
use sha2::Digest as _;

use super::added::Listed;
use super::object::Metadata;
use super::staging::Staging;
use super::unpack::COPY_BYTES;
use super::verify::{self, Problem};
use super::{Image, Store, WINDOW, nodes, tree};
use crate::decompress::decompressed;
use crate::oci::{DOCUMENT_BYTES_MAX, Descriptor};
use crate::tar_stream::{Entry, EntryKind, Sequential, TarStream};
use crate::{Digest, Error, Result};

/// What has been put right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, punnet_json::ToJson)]
pub struct Repaired {
    /// Different files.
    pub files: u64,
    /// Paths in all images.
    pub paths: u64,
    /// Directories, symbolic links and named pipes in all images.
    pub nodes: u64,
    /// Files, directories and whatever else that no layer has, removed from all images; what was in such a directory is not counted.
    pub removed: u64,
    /// Bytes of layers, as transferred, that were read for it.
    pub read_bytes: u64,
}

/// A layer as it is transferred.
type Fetched<E> = Result<Box<dyn Read>, E>;

/// Objects that are looked for.
type Wanted = BTreeMap<Digest, Place>;

/// Where an object is found, and how it is told from most others.
struct Place {
    size: u64,
    layer: Option<u16>,
}

/// True when something wanted came with this layer, or with nobody knows which.
fn is_worth_reading(layer: usize, wanted: &Wanted) -> bool {
    let came_with = |place: &Place| place.layer.is_none_or(|number| usize::from(number) == layer);
    wanted.values().any(came_with)
}

impl Store {
    /// Repairs what [`Store::verify`] has found in this image. `fetch` opens a layer as it is transferred, and is called only when one is needed. What
    /// no layer has stays damaged.
    pub fn repair<E: From<Box<Error>>>(
        &self,
        image: &Image,
        problems: &[Problem],
        fetch: &mut dyn FnMut(&Descriptor) -> Fetched<E>,
    ) -> Result<Repaired, E> {
        let _lock = self.lock(FlockArg::LockExclusive)?;
        let images = self.list()?;
        let mut repaired = Repaired::default();
        for image in &images {
            repaired.nodes += nodes::mend(&image.folder)?;
            repaired.removed += remove_added(image)?;
        }
        let damaged: BTreeSet<Digest> = problems.iter().filter_map(|problem| problem.object).collect();
        let staging = Staging::make(&self.root.join("staging"))?;
        let manifest = image.manifest_document()?;
        if damaged.contains(&manifest.config.digest)
            && put_configuration(&mut *fetch(&manifest.config)?, &manifest.config, image, &staging)?
        {
            (repaired.files, repaired.paths) = (1, 1);
        }
        let mut wanted = self.wanted(image, &damaged)?;
        self.find_stored(&mut wanted, &staging)?;
        for (number, layer) in manifest.layers.iter().enumerate().rev() {
            if !is_worth_reading(number, &wanted) {
                continue;
            }
            let mut read = 0;
            let blob = Counted {
                inner: fetch(layer)?,
                read: &mut read,
            };
            let found = self.find(
                number,
                &mut *decompressed(Box::new(blob), layer, staging.path().join(WINDOW))?,
                &mut wanted,
                &staging,
            );
            repaired.read_bytes += read;
            found.map_err(|source| {
                Box::new(Error::Layer {
                    digest: layer.digest,
                    source,
                })
            })?;
        }
        let (files, paths) = self.replace(&staging, &images)?;
        repaired.files += files;
        repaired.paths += paths;
        Ok(repaired)
    }

    /// What to look for.
    fn wanted(&self, image: &Image, damaged: &BTreeSet<Digest>) -> Result<Wanted> {
        let mut wanted = Wanted::new();
        verify::for_each_file(&image.folder, &mut |record| {
            if damaged.contains(&record.object) {
                let (size, layer) = (record.size, record.layer);
                wanted.insert(record.object, Place { size, layer });
            }
            Ok(())
        })?;
        Ok(wanted)
    }

    /// What is merely missing from this image may be whole as an object.
    fn find_stored(&self, wanted: &mut Wanted, staging: &Staging) -> Result<()> {
        let whole: Vec<Digest> = wanted
            .iter()
            .filter(|(object, place)| {
                let file = File::open(self.object_path(object));
                file.and_then(|file| verify::check(&file, object, place.size))
                    .is_ok_and(|damage| damage.is_none())
            })
            .map(|(object, _)| *object)
            .collect();
        for object in whole {
            let (from, place) = (self.object_path(&object), staging.path().join(object.hex()));
            fs::hard_link(&from, &place).map_err(Error::at("create", &place))?;
            wanted.remove(&object);
        }
        Ok(())
    }

    fn object_path(&self, object: &Digest) -> PathBuf {
        let hex = object.hex();
        self.root.join("objects").join(&hex[..2]).join(&hex[2..])
    }

    /// Reads a layer as far as needed and keeps what is wanted of it, durably.
    fn find(
        &self,
        number: usize,
        layer: &mut dyn Read,
        wanted: &mut Wanted,
        staging: &Staging,
    ) -> Result<()> {
        let mut archive = TarStream::new(Sequential(layer));
        while let Some(entry) = archive.next_entry()? {
            if entry.kind != EntryKind::File || !wanted.values().any(|place| place.size == entry.size) {
                continue;
            }
            let (found, path) = write_object(&entry, &mut archive, staging.path())?;
            if wanted.remove(&found).is_some() {
                let place = staging.path().join(found.hex());
                fs::rename(&path, &place).map_err(Error::at("create", &place))?;
            }
            if !is_worth_reading(number, wanted) {
                break;
            }
        }
        let folder = File::open(staging.path()).map_err(Error::at("open", staging.path()))?;
        syncfs(&folder).map_err(Error::at("sync", staging.path()))
    }

    /// Puts good copies into the places of their objects and of every path that is to be one; how many files and paths.
    fn replace(&self, staging: &Staging, images: &[Image]) -> Result<(u64, u64)> {
        let good: BTreeSet<Digest> = super::entries(staging.path())?
            .iter()
            .filter_map(|path| Digest::from_hex(path.file_name()?.to_str()?))
            .collect();
        let mut paths = 0;
        for image in images {
            let root = tree::open_folder(&image.rootfs())?;
            verify::for_each_file(&image.folder, &mut |record| {
                if good.contains(&record.object) && verify::check_path(&root, record)?.is_some() {
                    put(&staging.path().join(record.object.hex()), &root, record.path)?;
                    paths += 1;
                }
                Ok(())
            })?;
        }
        for digest in &good {
            let (from, object) = (staging.path().join(digest.hex()), self.object_path(digest));
            fs::rename(&from, &object).map_err(Error::at("replace", &object))?;
        }
        let root = File::open(&self.root).map_err(Error::at("open", &self.root))?;
        syncfs(&root).map_err(Error::at("sync", &self.root))?;
        Ok((good.len() as u64, paths))
    }
}

/// Removes what no layer has; how many names there were. Where the directories are those of the image, nothing else is found.
fn remove_added(image: &Image) -> Result<u64> {
    let root = tree::open_folder(&image.rootfs())?;
    let mut removed = 0;
    // What is removed does not move what is still to come (readdir(3p)).
    Listed::of(&image.folder)?.for_each_added(&image.folder, &root, &mut |path| {
        keeping_times(&root, path, tree::remove_at)?;
        removed += 1;
        Ok(true)
    })?;
    Ok(removed)
}

/// Puts the configuration back, durably, when this is it.
fn put_configuration(
    blob: &mut dyn Read,
    config: &Descriptor,
    image: &Image,
    staging: &Staging,
) -> Result<bool> {
    let mut bytes = Vec::new();
    blob.take(DOCUMENT_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(Error::Stream)?;
    if Digest::of(&bytes) != config.digest {
        return Ok(false);
    }
    let (new, place) = (
        staging.path().join("configuration"),
        image.folder.join("config.json"),
    );
    let mut file = File::create(&new).map_err(Error::at("create", &new))?;
    file.write_all(&bytes)
        .and_then(|()| file.sync_all())
        .map_err(Error::at("write", &new))?;
    fs::rename(&new, &place).map_err(Error::at("replace", &place))?;
    super::sync_folder(&image.folder)?;
    Ok(true)
}

/// One more link to the good copy, in the place of what is there.
fn put(good: &Path, root: &OwnedFd, path: &Path) -> Result<()> {
    let link = good.with_file_name("link");
    fs::hard_link(good, &link).map_err(Error::at("create", &link))?;
    keeping_times(root, path, |folder, name| {
        let rename = || renameat(AT_FDCWD, &link, folder, name);
        match rename() {
            Err(Errno::EISDIR) => {
                tree::remove_at(folder, name)?;
                rename()
            }
            other => other,
        }
        .map_err(Error::at("repair", path))
    })
}

/// Changes what a name stands for; the directory that it is in keeps its times.
pub(super) fn keeping_times(
    root: &OwnedFd,
    path: &Path,
    change: impl FnOnce(&OwnedFd, &OsStr) -> Result<()>,
) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new(""));
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY;
    let folder = tree::open(root, tree::at_root(parent), flags).map_err(Error::at("open", parent))?;
    let before = tree::as_file(&folder, parent)?
        .metadata()
        .map_err(Error::at("look at", parent))?;
    change(&folder, path.file_name().unwrap_or_default())?;
    let mtime = TimeSpec::new(before.mtime() as _, before.mtime_nsec() as _);
    futimens(&folder, &mtime, &mtime).map_err(Error::at("repair", path))
}

/// Writes an entry as the store would have it; its object's name, and where it is for now.
fn write_object(entry: &Entry, archive: &mut TarStream<'_>, staging: &Path) -> Result<(Digest, PathBuf)> {
    let path = staging.join("file");
    let metadata = Metadata::of_entry(entry);
    let mut hasher = metadata.hasher(entry.size);
    let mut file = File::create(&path).map_err(Error::at("create", &path))?;
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let read = archive.read(&mut buffer).map_err(Error::Stream)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        file.write_all(&buffer[..read])
            .map_err(Error::at("write", &path))?;
    }
    metadata
        .apply(file.as_fd())
        .map_err(Error::at("set the metadata of", &path))?;
    Ok((Digest::from_bytes(hasher.finalize().into()), path))
}

/// Counts what is read.
struct Counted<'a> {
    inner: Box<dyn Read>,
    read: &'a mut u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        *self.read += count as u64;
        Ok(count)
    }
}
