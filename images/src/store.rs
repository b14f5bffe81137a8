//! Images on a disk that may lose power at any moment.
//!
//! ```text
//! <store>/
//!   version                    "punnet-store 1"
//!   lock                       held shared by whoever adds or names, exclusively by whoever removes objects (flock(2): it dies with its holder)
//!   objects/<2 hex>/<62 hex>   each regular file of any image once: SHA-256 of its metadata and content (object.rs)
//!   images/<manifest hex>/     whole or not there: renamed into place after everything in it is on the disk
//!     rootfs/                  all layers applied; its regular files are hard links to objects
//!     manifest.json config.json
//!     files                    digest, size and path of every regular file, for `verify`
//!     layers                   for each record of `files`, which layer it came with: `verify --repair` reads only that
//!     nodes                    kind, metadata, attributes, path and target of all else that is in it, likewise (nodes.rs)
//!     links                    names of files that are hard links of each other in the image, NUL after each
//!     summary.json             sizes, for `images`
//!     layout/                  only for images built here: their blobs as an OCI layout, for export
//!   refs/<reference>           names a manifest's digest; `/` is written `+`, which no reference has; the folder is locked by who changes names
//!   signatures/<manifest hex>  what shows where an image comes from (signature.rs); only when there is something
//!   partial/<name hex>/        only with `pull --keep-partial`: layers as they were transferred, until the image is whole
//!   staging/<name>/            being made or removed; <name>.lock beside it is held by who does
//! ```
//! A layer is read once, from the source through decompression and hashing into the tree; nothing is copied in between. The link count
//! is the reference count: an object with one link is garbage. Staging without a living holder is removed by whoever opens the store.
//!
//! Ownership and device nodes: root stores the archive's uid and gid; an ordinary user owns all files. Device nodes are passed over: a
//! container gets its devices from the runtime. Of extended attributes `user.*` are kept, and `security.capability` by root.

mod added;
mod copy;
mod evidence;
mod flatten;
mod nodes;
mod object;
mod repair;
mod staging;
mod table;
pub(crate) mod tree;
mod unpack;
mod usage;
mod verify;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::syncfs;
use punnet_json::{FromJson, ToJson};

use crate::oci::{ContainerConfig, Descriptor, ImageConfig, Manifest, Platform, to_json};
use crate::{Digest, Error, HashingReader, Reference, Result, Source};
use unpack::Unpacker;

pub use flatten::TreeArchive;
pub(crate) use object::{Metadata, read_xattrs};
pub use repair::Repaired;
pub use staging::Staging;
pub(crate) use table::nameless as nameless_file;
pub use tree::remove as remove_tree;
pub use usage::{ImageUsage, Usage};
pub use verify::{Damage, PROBLEMS_MAX, Problem};

const VERSION: &str = "punnet-store 1";

/// How often an image is unpacked that others remove again and again: more than once is rare, for ever is wrong.
const IMPORT_ATTEMPTS_MAX: u32 = 3;

/// Beginning of the names of files that are being written; no reference begins so.
const TEMPORARY: &str = ".new-";

/// Name that what zstd looks back at has in staging, for a moment.
const WINDOW: &str = "window";

/// Name of the list of hard links in an image's folder.
const LINKS: &str = "links";

/// Shortest abbreviation of a digest that is looked up: shorter ones are typing errors.
const PREFIX_HEX_MIN: usize = 6;

/// An opened store.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    asks_for_signatures: bool,
}

/// An image of the store.
#[derive(Clone, Debug)]
pub struct Image {
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Its names, in order.
    pub references: Vec<Reference>,
    /// What is on the disk of it.
    pub summary: Summary,
    folder: PathBuf,
}

/// Sizes of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
pub struct Summary {
    /// Regular files.
    pub files: u64,
    /// Bytes in them, counting each path.
    pub size_bytes: u64,
}

/// How to take an image in.
pub struct ImportOptions<'a> {
    /// Which image of the source; `None` when it has only one.
    pub name: Option<&'a str>,
    /// The platform to choose.
    pub platform: Platform,
    /// The name it gets here.
    pub reference: Option<Reference>,
    /// The manifest's digest that it must have.
    pub expect: Option<Digest>,
    /// What becomes of the blobs.
    pub blobs: Blobs,
    /// Told how far it is, at most once a layer and 128 KiB.
    pub progress: &'a mut dyn FnMut(Progress),
}

/// What becomes of an image's blobs when it has been unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blobs {
    /// The store has its files only.
    Leave,
    /// They are kept, for export with the same digests. The source's files get one more name where that can be: nobody may write to them any more.
    Keep,
    /// They are kept, and a source that is a layout of this image alone, on the store's file system, is moved into the store: nobody else has it, and it is not
    /// there any more.
    Take,
}

/// How far an import is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// From 0.
    pub layer: usize,
    /// Of how many.
    pub layers: usize,
    /// Bytes of all layers as transferred that have been read.
    pub done_bytes: u64,
    /// Of how many.
    pub total_bytes: u64,
}

/// What [`Store::prune`] has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ToJson)]
pub struct Pruned {
    /// Images without a name.
    pub images: u64,
    /// Files that no image needed any more.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Store {
    /// Opens the store, making it when there is none, and removes what interrupted work has left.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let store = Self {
            root: root.into(),
            asks_for_signatures: false,
        };
        for folder in ["objects", "images", "refs", "staging"] {
            let path = store.root.join(folder);
            fs::create_dir_all(&path).map_err(Error::at("create", &path))?;
        }
        let found = fs::metadata(&store.root).map_err(Error::at("look at", &store.root))?;
        if found.permissions().mode() & 0o777 != 0o700 {
            let private = fs::Permissions::from_mode(0o700);
            fs::set_permissions(&store.root, private).map_err(Error::at("protect", &store.root))?;
        }
        let version = store.root.join("version");
        match fs::read_to_string(&version) {
            Ok(found) if found.trim_end() == VERSION => {}
            Ok(found) => {
                return Err(Error::StoreFormat {
                    path: store.root,
                    found: found.trim_end().into(),
                    expected: VERSION,
                }
                .into());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                write_durably(&version, format!("{VERSION}\n").as_bytes())?;
            }
            Err(error) => return Err(Error::io("read", &version, error)),
        }
        store.clear_abandoned()?;
        Ok(store)
    }

    /// Removes what interrupted work has left, unless somebody is adding: then the next one does. A store on a disk that cannot be written to can be read.
    fn clear_abandoned(&self) -> Result<()> {
        let staging = self.root.join("staging");
        if entries(&staging)?.is_empty() {
            return Ok(());
        }
        match self.lock(FlockArg::LockExclusiveNonblock) {
            Ok(_lock) => staging::remove_abandoned(&staging),
            Err(_) => Ok(()),
        }
    }

    /// The lock of who adds. While it is held nothing of an interrupted import is there: files of it would look like those of an image.
    fn lock_to_add(&self) -> Result<Flock<File>> {
        let staging = self.root.join("staging");
        loop {
            let lock = self.lock(FlockArg::LockShared)?;
            if !staging::is_abandoned(&staging)? {
                return Ok(lock);
            }
            drop(lock);
            let _lock = self.lock(FlockArg::LockExclusive)?;
            staging::remove_abandoned(&staging)?;
        }
    }

    /// A folder on the store's disk for work in progress.
    pub fn scratch(&self) -> Result<Staging> {
        Staging::make(&self.root.join("staging"))
    }

    /// Asks registries for the signatures of images too. Layouts and archives give theirs in any case.
    pub fn asking_for_signatures(mut self, yes: bool) -> Self {
        self.asks_for_signatures = yes;
        self
    }

    /// Takes an image in: chosen by platform, every digest checked, whole or not at all.
    pub fn import(&self, source: &Source, options: &mut ImportOptions<'_>) -> Result<Image> {
        let descriptor = source.select(options.name, &options.platform)?;
        if let Some(expected) = options.expect.filter(|expected| *expected != descriptor.digest) {
            return Err(Error::Mismatch {
                what: "the image's manifest".into(),
                expected,
                actual: descriptor.digest,
            }
            .into());
        }
        // First, while the source is there for certain.
        let evidence = source.evidence(
            options.name,
            &options.platform,
            &descriptor.digest,
            self.asks_for_signatures,
        )?;
        let _lock = self.lock_to_add()?;
        for _ in 0..IMPORT_ATTEMPTS_MAX {
            let mut prepared = None;
            if !self.folder(&descriptor.digest).is_dir() {
                prepared = self.unpack(source, &descriptor, options)?;
            }
            self.add_evidence(&descriptor.digest, &evidence)?;
            match self.name(&descriptor.digest, options.reference.as_ref(), prepared) {
                // Somebody removed it just now.
                Err(error) if matches!(*error, Error::NotFound { .. }) => {}
                other => return other,
            }
        }
        Err(self.not_found(&descriptor.digest.to_string()))
    }

    /// Unpacks into staging, makes it durable, and only then gives it its place. The file of its name is on the disk by then, too, and waits for its own.
    fn unpack(
        &self,
        source: &Source,
        descriptor: &Descriptor,
        options: &mut ImportOptions<'_>,
    ) -> Result<Option<PreparedName>> {
        let manifest_json = source.document(descriptor)?;
        let (manifest, config) = source.read_manifest(descriptor)?;
        self.check_space(&manifest)?;
        let staging = Staging::make(&self.root.join("staging"))?;
        let mut unpacker = Unpacker::new(staging.path(), &self.root.join("objects"))?;
        let (layers, total_bytes) = (manifest.layers.len(), manifest.layer_bytes());
        let mut done_bytes = 0;
        for (layer, (blob, diff_id)) in manifest.layers.iter().zip(&config.rootfs.diff_ids).enumerate() {
            let refused = |source| {
                Box::new(Error::Layer {
                    digest: blob.digest,
                    source,
                })
            };
            let mut progress = |bytes| {
                (options.progress)(Progress {
                    layer,
                    layers,
                    done_bytes: done_bytes + bytes,
                    total_bytes,
                });
            };
            unpacker
                .layer(source.blob_of(blob)?, blob, diff_id, &mut progress)
                .map_err(refused)?;
            done_bytes += blob.size;
        }
        let summary = unpacker.finish(&staging.path().join("files"))?;
        let write = |name: &str, bytes: &[u8]| {
            let path = staging.path().join(name);
            fs::write(&path, bytes).map_err(Error::at("write", &path))
        };
        write("manifest.json", &manifest_json)?;
        write("config.json", &source.document(&manifest.config)?)?;
        write("summary.json", &to_json(&summary))?;
        let layout = staging.path().join("layout");
        let is_taken = options.blobs == Blobs::Take && take_blobs(source, descriptor, &layout)?;
        if options.blobs != Blobs::Leave && !is_taken {
            keep_blobs(source, descriptor, &manifest, &layout)?;
        }
        let name = options.reference.as_ref();
        let name = name.map(|name| self.prepare_reference(name, &descriptor.digest));
        let name = name.transpose()?;
        self.publish(staging, &descriptor.digest)?;
        Ok(name)
    }

    /// The order is the point: data, then name.
    fn publish(&self, staging: Staging, digest: &Digest) -> Result<()> {
        // 1. Everything this file system has of the image, objects included, is on the disk.
        let root = File::open(&self.root).map_err(Error::at("open", &self.root))?;
        syncfs(&root).map_err(Error::at("sync", &self.root))?;
        // 2. It gets its name. Somebody else may have been faster with the same content.
        let place = self.folder(digest);
        match fs::rename(staging.path(), &place) {
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOTEMPTY) => {}
            other => other.map_err(Error::at("publish", &place))?,
        }
        // 3. The name is on the disk before anything refers to it.
        sync_folder(&self.root.join("images"))
    }

    /// An image by reference, digest, or the first hex digits of its digest.
    pub fn get(&self, name: &str) -> Result<Image> {
        if let Ok(digest) = name.parse::<Digest>() {
            return self.load(&digest);
        }
        let is_prefix =
            name.len() >= PREFIX_HEX_MIN && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
        let reference: Reference = name.parse()?;
        match (self.read_reference(&reference)?, reference.digest()) {
            (Some(digest), _) => self.load(&digest),
            // The digest of a manifest, or that of an index, which an image that was pulled by it has in its name.
            (None, Some(digest)) => self.load(&digest),
            (None, None) if is_prefix => self.by_prefix(name),
            (None, None) => Err(self.not_found(name)),
        }
    }

    fn by_prefix(&self, prefix: &str) -> Result<Image> {
        let mut fits = self.digests()?;
        fits.retain(|digest| digest.hex().starts_with(prefix));
        match fits.as_slice() {
            [digest] => self.load(digest),
            [] => Err(self.not_found(prefix)),
            several => {
                let candidates = several
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", ");
                Err(Error::Ambiguous {
                    name: prefix.into(),
                    candidates,
                }
                .into())
            }
        }
    }

    /// All images, in order of their names; those without one last.
    pub fn list(&self) -> Result<Vec<Image>> {
        let mut images = Vec::new();
        for digest in self.digests()? {
            match self.load(&digest) {
                // Somebody removes it just now.
                Err(error) if matches!(*error, Error::NotFound { .. }) => {}
                other => images.push(other?),
            }
        }
        images.sort_by(|a, b| {
            (a.references.is_empty(), &a.references).cmp(&(b.references.is_empty(), &b.references))
        });
        Ok(images)
    }

    /// Gives an image one more name, which another image may lose by that.
    pub fn tag(&self, image: &Image, reference: &Reference) -> Result<()> {
        let _lock = self.lock_to_add()?;
        self.name(&image.manifest, Some(reference), None).map(drop)
    }

    /// Gives an image that is there a name; one that is being removed does not get one any more.
    fn name(
        &self,
        manifest: &Digest,
        reference: Option<&Reference>,
        prepared: Option<PreparedName>,
    ) -> Result<Image> {
        let _names = self.lock_names()?;
        if let Some(reference) = reference.filter(|_| self.folder(manifest).is_dir()) {
            match prepared {
                Some(prepared) => prepared.publish(&self.reference_path(reference))?,
                None => self.write_reference(reference, manifest)?,
            }
        }
        self.load(manifest)
    }

    /// Writes the file of a name, which is not synced.
    fn prepare_reference(&self, reference: &Reference, digest: &Digest) -> Result<PreparedName> {
        let temporary = temporary_beside(&self.reference_path(reference));
        let prepared = PreparedName {
            temporary: Some(temporary.clone()),
        };
        fs::write(&temporary, text_of_reference(digest)).map_err(Error::at("write", &temporary))?;
        Ok(prepared)
    }

    /// Whoever changes names does it alone: what has only this name and what is removed with it are one decision.
    fn lock_names(&self) -> Result<Flock<File>> {
        let folder = self.root.join("refs");
        let file = File::open(&folder).map_err(Error::at("open", &folder))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| Error::io("lock", &folder, errno))
    }

    /// Removes a name, and the image with its last name. Returns the image when it is gone.
    pub fn remove(&self, name: &str) -> Result<Option<Digest>> {
        let lock = self.lock_to_add()?;
        let Some((manifest, removed)) = self.take_away_named(name)? else {
            return Ok(None);
        };
        removed.remove()?;
        drop(lock);
        // Only with nobody adding: an object with one link may be on its way into a new image.
        if let Ok(_lock) = self.lock(FlockArg::LockExclusiveNonblock) {
            self.remove_garbage()?;
        }
        Ok(Some(manifest))
    }

    /// Removes a name; when it was the last one the image is out of sight too, and its remains are returned.
    fn take_away_named(&self, name: &str) -> Result<Option<(Digest, Staging)>> {
        let _names = self.lock_names()?;
        let image = self.get(name)?;
        let asked = name.parse::<Reference>().ok();
        let by_name = asked.filter(|reference| image.references.contains(reference));
        if by_name.is_none() && image.references.len() > 1 {
            let names: Vec<_> = image.references.iter().map(ToString::to_string).collect();
            return Err(Error::Ambiguous {
                name: name.into(),
                candidates: names.join(", "),
            }
            .into());
        }
        for reference in image
            .references
            .iter()
            .filter(|other| by_name.as_ref().is_none_or(|name| name == *other))
        {
            let path = self.reference_path(reference);
            fs::remove_file(&path).map_err(Error::at("remove", &path))?;
        }
        sync_folder(&self.root.join("refs"))?;
        if image.references.len() > 1 {
            return Ok(None);
        }
        Ok(Some((image.manifest, self.take_away(&image.manifest)?)))
    }

    /// Where what was transferred of an image of this name is kept until it is whole.
    pub fn partial(&self, name: &str) -> PathBuf {
        let folder = Digest::of(name.as_bytes()).hex();
        self.root.join("partial").join(folder)
    }

    /// Removes it: the image is whole, or what is there is of no use.
    pub fn remove_partial(&self, name: &str) -> Result<()> {
        remove_folder(&self.partial(name))
    }

    /// Removes images without a name that nobody says are in use, and files that no image has.
    pub fn prune(&self, in_use: impl Fn(&Digest) -> bool) -> Result<Pruned> {
        let _lock = self.lock(FlockArg::LockExclusive)?;
        staging::remove_abandoned(&self.root.join("staging"))?;
        self.remove_unfinished()?;
        remove_folder(&self.root.join("partial"))?;
        let mut images = 0;
        for image in self
            .list()?
            .iter()
            .filter(|image| image.references.is_empty() && !in_use(&image.manifest))
        {
            self.take_away(&image.manifest)?.remove()?;
            images += 1;
        }
        self.remove_unused_evidence()?;
        Ok(Pruned {
            images,
            ..self.remove_garbage()?
        })
    }

    /// Looks at all of an image and returns what is not as it was stored, up to [`PROBLEMS_MAX`].
    pub fn verify(&self, image: &Image) -> Result<Vec<Problem>> {
        let inode = || fs::metadata(&image.folder).map(|found| found.ino()).ok();
        loop {
            let before = inode();
            let problems = verify::verify(image);
            let is_whole = problems.as_ref().is_ok_and(Vec::is_empty);
            match inode() {
                // What is being removed is not damaged.
                None if !is_whole => return Err(self.not_found(&image.manifest.to_string())),
                // It was removed and has come back.
                after if !is_whole && after != before => {}
                _ => return problems,
            }
        }
    }

    /// Takes the image out of sight at once; its files follow, after a power cut when the store is opened next.
    fn take_away(&self, digest: &Digest) -> Result<Staging> {
        let staging = Staging::make(&self.root.join("staging"))?;
        let place = self.folder(digest);
        fs::rename(&place, staging.path().join("removed")).map_err(Error::at("remove", &place))?;
        sync_folder(&self.root.join("images"))?;
        Ok(staging)
    }

    /// Files that somebody was writing when it was interrupted, and names of images that are gone.
    fn remove_unfinished(&self) -> Result<()> {
        for path in entries(&self.root)?
            .into_iter()
            .chain(entries(&self.root.join("refs"))?)
        {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let is_dangling = || {
                let reference = reference_of(&name)?;
                self.read_reference(&reference).ok().filter(Option::is_none)
            };
            if name.starts_with(TEMPORARY) || (path.parent() != Some(&self.root) && is_dangling().is_some()) {
                fs::remove_file(&path).map_err(Error::at("remove", &path))?;
            }
        }
        Ok(())
    }

    fn remove_garbage(&self) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        for fan in entries(&self.root.join("objects"))? {
            for object in entries(&fan)? {
                let metadata = fs::symlink_metadata(&object).map_err(Error::at("look at", &object))?;
                if metadata.nlink() == 1 {
                    fs::remove_file(&object).map_err(Error::at("remove", &object))?;
                    pruned.objects += 1;
                    pruned.bytes += metadata.len();
                }
            }
        }
        Ok(pruned)
    }

    fn load(&self, digest: &Digest) -> Result<Image> {
        let folder = self.folder(digest);
        if !folder.is_dir() {
            return Err(self.not_found(&digest.to_string()));
        }
        let summary = folder.join("summary.json");
        let bytes = match fs::read(&summary) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !folder.is_dir() => {
                return Err(self.not_found(&digest.to_string()));
            }
            other => other.map_err(Error::at("read", &summary))?,
        };
        let summary = crate::oci::parse("summary.json", &bytes)?;
        let mut references = Vec::new();
        for path in entries(&self.root.join("refs"))? {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            let Some(reference) = reference_of(name) else {
                continue;
            };
            if self.read_reference(&reference)? == Some(*digest) {
                references.push(reference);
            }
        }
        references.sort_unstable();
        Ok(Image {
            manifest: *digest,
            references,
            summary,
            folder,
        })
    }

    fn digests(&self) -> Result<Vec<Digest>> {
        let folders = entries(&self.root.join("images"))?;
        let name = |path: &PathBuf| Digest::from_hex(path.file_name()?.to_str()?);
        Ok(folders.iter().filter_map(name).collect())
    }

    fn folder(&self, digest: &Digest) -> PathBuf {
        self.root.join("images").join(digest.hex())
    }

    fn reference_path(&self, reference: &Reference) -> PathBuf {
        self.root
            .join("refs")
            .join(reference.to_string().replace('/', "+"))
    }

    /// A reference whose image is gone names nothing.
    fn read_reference(&self, reference: &Reference) -> Result<Option<Digest>> {
        let path = self.reference_path(reference);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", &path, error)),
            Ok(text) => Ok(text
                .trim_end()
                .parse()
                .ok()
                .filter(|digest| self.folder(digest).is_dir())),
        }
    }

    fn write_reference(&self, reference: &Reference, digest: &Digest) -> Result<()> {
        write_durably(
            &self.reference_path(reference),
            text_of_reference(digest).as_bytes(),
        )
    }

    /// What does not even fit as transferred is refused before it is read. Layers that another image has count nothing: their files are here.
    fn check_space(&self, manifest: &Manifest) -> Result<()> {
        let mut known = BTreeSet::new();
        for image in self.list()? {
            // One that cannot be read says nothing; `verify` tells what is wrong with it.
            let layers = image.manifest_document().map_or(Vec::new(), |known| known.layers);
            known.extend(layers.iter().map(|layer| layer.digest));
        }
        let new = manifest
            .layers
            .iter()
            .filter(|layer| !known.contains(&layer.digest));
        let bytes = new.fold(0, |sum: u64, layer| sum.saturating_add(layer.size));
        let stat = nix::sys::statvfs::statvfs(&self.root).map_err(Error::at("look at", &self.root))?;
        #[allow(clippy::useless_conversion, reason = "both are narrower on 32-bit boards")]
        let free = u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size()));
        if free < bytes {
            return Err(Error::Full {
                operation: "unpack the image into",
                path: self.root.clone(),
            }
            .into());
        }
        Ok(())
    }

    fn lock(&self, how: FlockArg) -> Result<Flock<File>> {
        let path = self.root.join("lock");
        let mut options = File::options();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::at("open", &path))?;
        Flock::lock(file, how).map_err(|(_, errno)| Error::io("lock", &path, errno))
    }

    fn not_found(&self, name: &str) -> Box<Error> {
        Error::NotFound {
            name: name.into(),
            place: self.root.clone(),
        }
        .into()
    }
}

impl Image {
    /// Its unpacked tree: read only, since files are shared between images.
    pub fn rootfs(&self) -> PathBuf {
        self.folder.join("rootfs")
    }

    /// The image configuration.
    pub fn config(&self) -> Result<ImageConfig> {
        ImageConfig::from_json(&self.read("config.json")?)
    }

    /// The manifest.
    pub fn manifest_document(&self) -> Result<Manifest> {
        Manifest::from_json(&self.read("manifest.json")?)
    }

    /// The blobs as an OCI layout, when the image was built here.
    pub fn layout(&self) -> Option<PathBuf> {
        Some(self.folder.join("layout")).filter(|path| path.is_dir())
    }

    /// The image with layers: its own where they were kept, otherwise one that is made of its tree. Both are the same every time; the second has another
    /// manifest than this image, because it has other layers.
    pub fn source(&self) -> Result<(Source, Descriptor)> {
        if let Some(layout) = self.layout() {
            let source = Source::open(layout)?;
            let entry = source
                .index()
                .manifests
                .iter()
                .find(|entry| entry.digest == self.manifest);
            if let Some(entry) = entry.cloned() {
                return Ok((source, entry));
            }
        }
        Source::of_tree(&self.folder, &self.manifest)
    }

    /// What a container of it is started with.
    pub fn container_config(&self) -> Result<ContainerConfig> {
        Ok(self.config()?.config)
    }

    /// `manifest.json` or `config.json` as it came, with what we do not know of it.
    pub fn document(&self, name: &str) -> Result<punnet_json::Value> {
        crate::oci::parse(name, &self.read(name)?)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.folder.join(name);
        fs::read(&path).map_err(Error::at("read", &path))
    }
}

fn text_of_reference(digest: &Digest) -> String {
    format!("{digest}\n")
}

/// The file of a reference, whole and under another name.
struct PreparedName {
    temporary: Option<PathBuf>,
}

impl PreparedName {
    /// Gives it its name, durably. What is in it must be on the disk.
    fn publish(mut self, place: &Path) -> Result<()> {
        if let Some(temporary) = &self.temporary {
            fs::rename(temporary, place).map_err(Error::at("write", place))?;
        }
        self.temporary = None;
        sync_folder(place.parent().unwrap_or(Path::new("/")))
    }
}

impl Drop for PreparedName {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // What cannot be removed now, `prune` removes.
            drop(fs::remove_file(temporary));
        }
    }
}

/// The reference that a file of `refs` is for.
fn reference_of(file_name: &str) -> Option<Reference> {
    file_name.replace('+', "/").parse().ok()
}

/// Moves the source's layout, when it is of this image alone; whether it was.
fn take_blobs(source: &Source, descriptor: &Descriptor, layout: &Path) -> Result<bool> {
    let is_alone = matches!(source.index().manifests.as_slice(), [one] if one.digest == descriptor.digest);
    if !is_alone || !source.path().is_dir() {
        return Ok(false);
    }
    match fs::rename(source.path(), layout) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => Ok(false),
        other => other.map(|()| true).map_err(Error::at("move", source.path())),
    }
}

/// Takes an image's blobs, which have been checked before, into a layout of their own.
fn keep_blobs(source: &Source, descriptor: &Descriptor, manifest: &Manifest, layout: &Path) -> Result<()> {
    let folder = layout.join("blobs/sha256");
    fs::create_dir_all(&folder).map_err(Error::at("create", &folder))?;
    for blob in std::iter::once(descriptor)
        .chain([&manifest.config])
        .chain(&manifest.layers)
    {
        let path = folder.join(blob.digest.hex());
        let from = source.path().join("blobs/sha256").join(blob.digest.hex());
        if fs::hard_link(from, &path).is_ok() {
            continue;
        }
        let mut file = File::create(&path).map_err(Error::at("create", &path))?;
        let mut content = HashingReader::new(source.blob_of(blob)?);
        io::copy(&mut content, &mut file).map_err(Error::at("write", &path))?;
        let (_, actual) = content.finish();
        if actual != blob.digest {
            return Err(Error::Mismatch {
                what: format!("blob {}", blob.digest),
                expected: blob.digest,
                actual,
            }
            .into());
        }
    }
    let index = crate::oci::Index::of(vec![descriptor.clone()]);
    for (name, bytes) in [
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json", to_json(&index)),
    ] {
        let path = layout.join(name);
        fs::write(&path, bytes).map_err(Error::at("write", &path))?;
    }
    Ok(())
}

fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, error)),
        _ => Ok(()),
    }
}

/// The paths in a folder, in order.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::at("list", folder))? {
        paths.push(entry.map_err(Error::at("list", folder))?.path());
    }
    paths.sort_unstable();
    Ok(paths)
}

/// A temporary file under a name no reference has, synced, renamed, and the folder synced: whole or not there.
fn write_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let temporary = temporary_beside(path);
    let mut file = File::create(&temporary).map_err(Error::at("create", &temporary))?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    let written = written
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(Error::at("write", path));
    if written.is_err() {
        // Nothing half-done stays; the first error is the one to tell.
        drop(fs::remove_file(&temporary));
    }
    written.and_then(|()| sync_folder(folder))
}

fn temporary_beside(path: &Path) -> PathBuf {
    path.with_file_name(format!("{TEMPORARY}{}", std::process::id()))
}

fn sync_folder(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(Error::at("sync", path))
}

/// Reads to the end of a stream that should have ended, within a bound.
fn drain(reader: &mut impl Read, bytes_max: u64) -> io::Result<u64> {
    io::copy(&mut reader.take(bytes_max), &mut io::sink())
}
