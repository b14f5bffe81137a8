//! Opens an image that lies in files: an OCI image layout directory, an OCI archive (a tar of one) or a docker-archive
//! (`docker save`), found out by looking; or, by way of [`crate::registry`], one on a server. Gives an index and blobs as streams;
//! nothing is unpacked or copied.
//!
//! An archive is read once for the places of its members, then blobs are read in place: memory does not grow with the image. A
//! docker-archive carries no manifest: one is made from its manifest.json, with plain layers named by their diff IDs, so that a
//! wrong layer still fails its check when it is read.
//!
//! <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>

mod docker;
mod tree;

use crate::decompress::gunzip;
use crate::oci::{
    self, ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME, Descriptor, ImageConfig, Index, Manifest, Platform,
    media_type,
};
use crate::registry::{Remote, RemoteBlob};
use crate::signature::{self, Evidence};
use crate::store::TreeArchive;
use crate::tar_stream::{Advance, EntryKind, TarStream};
use crate::{Digest, Error, HashingReader, Reference, Result, platform};
use nix::fcntl::OFlag;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Members of one archive: blobs and names of very many images, yet a bound on the memory of the list.
const MEMBERS_MAX: usize = 65_536;
/// Depth of indexes in indexes.
const INDEX_DEPTH_MAX: usize = 4;
/// How gzip data begins (RFC 1952).
pub const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// Piece in which a stream passes through.
const SPOOL_BYTES: usize = 64 << 10;
/// Links followed from a member of an old docker-archive.
const MEMBER_LINKS_MAX: usize = 8;

/// An opened layout or archive.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    index: Index,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Blobs are files under `blobs/sha256`.
    Directory,
    /// Blobs are members of a tar.
    Archive {
        file: Arc<File>,
        blobs: BTreeMap<Digest, Place>,
        documents: BTreeMap<Digest, Vec<u8>>,
    },
    /// Small blobs in memory.
    Documents(BTreeMap<Digest, Vec<u8>>),
    /// One layer, made of an image's folder in the store.
    Tree {
        folder: PathBuf,
        layer: Descriptor,
        documents: BTreeMap<Digest, Vec<u8>>,
    },
    /// Blobs are on a server.
    Remote(Remote),
}

/// Where a member's data is in the archive.
#[derive(Clone, Copy, Debug)]
struct Place {
    offset: u64,
    size: u64,
}

/// An image of the source's index, with the name it goes by there.
#[derive(Clone, Debug)]
pub struct NamedImage {
    /// `org.opencontainers.image.ref.name`, or the whole reference where containerd or Docker wrote one.
    pub name: Option<String>,
    /// The manifest or the index of its platforms.
    pub descriptor: Descriptor,
}

/// The bytes of one blob, in order. They are not checked here: wrap in [`HashingReader`], or use [`Source::document`].
#[derive(Debug)]
pub struct Blob {
    size: u64,
    data: BlobData,
}

#[derive(Debug)]
enum BlobData {
    Window(Window),
    Tree(Box<TreeArchive>),
    Bytes(io::Cursor<Vec<u8>>),
    Remote(Box<RemoteBlob>),
}

impl Blob {
    /// Of bytes in memory.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        Self {
            size: bytes.len() as u64,
            data: BlobData::Bytes(io::Cursor::new(bytes.to_vec())),
        }
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads at a position, as pread(2) does: for serving parts of a blob that lies here.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match &self.data {
            BlobData::Window(window) => window.read_at(buffer, offset),
            // Made from its beginning, always: who wants parts saves it to a file first.
            BlobData::Tree(_) => Err(io::ErrorKind::Unsupported.into()),
            BlobData::Bytes(bytes) => {
                let bytes = bytes
                    .get_ref()
                    .get(usize::try_from(offset).unwrap_or(usize::MAX)..)
                    .unwrap_or_default();
                let count = bytes.len().min(buffer.len());
                buffer[..count].copy_from_slice(&bytes[..count]);
                Ok(count)
            }
            BlobData::Remote(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.data {
            BlobData::Window(window) => window.read(buffer),
            BlobData::Tree(archive) => archive.read(buffer),
            BlobData::Bytes(bytes) => bytes.read(buffer),
            BlobData::Remote(remote) => remote.read(buffer),
        }
    }
}

/// A part of a file, read without moving the file's own position.
#[derive(Debug)]
struct Window {
    file: Arc<File>,
    start: u64,
    size: u64,
    position: u64,
}

impl Window {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = self.size.saturating_sub(offset);
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.file.read_at(&mut buffer[..wanted], self.start + offset)
    }
}

impl Read for Window {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.read_at(buffer, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Advance for Window {
    fn advance(&mut self, count: u64) -> io::Result<()> {
        if count > self.size - self.position {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += count;
        Ok(())
    }
}

impl Source {
    /// Opens a layout directory or an archive.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let metadata = path.metadata().map_err(Error::at("open", path))?;
        if metadata.is_dir() {
            return Self::open_directory(path);
        }
        if !metadata.is_file() {
            return Err(not_an_image(
                path,
                "it is neither a directory nor a file that can be read twice; save the stream to a file first",
            ));
        }
        Self::open_archive(path)
    }

    fn open_directory(path: &Path) -> Result<Self> {
        let layout = path.join("oci-layout");
        if !layout.exists() {
            return Err(not_an_image(path, "the directory has no `oci-layout` file"));
        }
        let index = read_bounded(&mut open_file(&path.join("index.json"))?, "index.json")?;
        check_layout(&read_bounded(&mut open_file(&layout)?, "oci-layout")?)?;
        Ok(Self {
            path: path.to_owned(),
            index: Index::from_json(&index)?,
            kind: Kind::Directory,
        })
    }

    /// Reads an archive to its end, uncompressed when it is compressed, into a file in `folder` that has no name and goes with this value.
    pub fn from_stream(mut stream: impl Read, folder: &Path) -> Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(OFlag::O_TMPFILE.bits())
            .open(folder)
            .map_err(Error::at("create a file in", folder))?;
        let mut magic = Vec::new();
        (&mut stream)
            .take(2)
            .read_to_end(&mut magic)
            .map_err(Error::stream)?;
        let whole = io::Cursor::new(magic.clone()).chain(stream);
        let mut whole: Box<dyn Read> = match magic == GZIP_MAGIC {
            true => Box::new(gunzip(Box::new(whole))),
            false => Box::new(whole),
        };
        copy(&mut whole, &file, folder)?;
        Self::of_archive(Path::new("the archive on standard input"), file)
    }

    fn open_archive(path: &Path) -> Result<Self> {
        Self::of_archive(path, open_file(path)?)
    }

    fn of_archive(path: &Path, file: File) -> Result<Self> {
        let file = Arc::new(file);
        let members = Members::list(path, &file)?;
        if let Some(layout) = members.find("oci-layout") {
            check_layout(&members.read(layout, "oci-layout")?)?;
            let index = members
                .find("index.json")
                .ok_or_else(|| not_an_image(path, "it has an `oci-layout` but no index.json"))?;
            let index = Index::from_json(&members.read(index, "index.json")?)?;
            let blobs = members.blobs();
            return Ok(Self {
                path: path.to_owned(),
                index,
                kind: Kind::Archive {
                    file,
                    blobs,
                    documents: BTreeMap::new(),
                },
            });
        }
        let Some(manifest) = members.find("manifest.json") else {
            return Err(not_an_image(
                path,
                "the archive has neither an `oci-layout` (OCI) nor a `manifest.json` (docker save)",
            ));
        };
        let made = docker::synthesise(&members, &members.read(manifest, "manifest.json")?)?;
        Ok(Self {
            path: path.to_owned(),
            index: made.index,
            kind: Kind::Archive {
                file,
                blobs: made.blobs,
                documents: made.documents,
            },
        })
    }

    /// One on a server, with what its index is.
    pub(crate) fn remote(place: PathBuf, index: Index, remote: Remote) -> Self {
        Self {
            path: place,
            index,
            kind: Kind::Remote(remote),
        }
    }

    /// The artifact that carries these signatures of a manifest.
    pub fn of_signatures(signatures: &[signature::Signature]) -> (Self, Descriptor) {
        let artifact = signature::to_artifact(signatures);
        let manifest = artifact.last().map(|(descriptor, _)| descriptor.clone());
        let manifest = manifest.expect("an artifact ends with its manifest");
        let documents = artifact
            .into_iter()
            .map(|(descriptor, bytes)| (descriptor.digest, bytes));
        let source = Self {
            path: PathBuf::new(),
            index: Index::of(vec![manifest.clone()]),
            kind: Kind::Documents(documents.collect()),
        };
        (source, manifest)
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The top index: `index.json`.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// What the index holds, with names.
    pub fn images(&self) -> Vec<NamedImage> {
        let name = |entry: &Descriptor| {
            let whole = entry.annotations.get(ANNOTATION_IMAGE_NAME);
            whole
                .or_else(|| entry.annotations.get(ANNOTATION_REF_NAME))
                .cloned()
        };
        let tag = |name: &str| name.rsplit(':').next().is_some_and(signature::is_tag);
        self.index
            .manifests
            .iter()
            // Signatures of an image are no image.
            .filter(|entry| !name(entry).is_some_and(|name| tag(&name)))
            .map(|entry| NamedImage {
                name: name(entry),
                descriptor: entry.clone(),
            })
            .collect()
    }

    /// A blob by its digest, unchecked.
    pub fn blob(&self, digest: &Digest) -> Result<Blob> {
        match &self.kind {
            Kind::Directory => {
                let path = self.path.join("blobs/sha256").join(digest.hex());
                let file = match open_file(&path) {
                    Err(error) if error.is_missing_file() => {
                        return Err(self.no_blob(digest));
                    }
                    other => other?,
                };
                let size = file.metadata().map_err(Error::at("read", &path))?.len();
                Ok(Blob {
                    size,
                    data: BlobData::Window(Window {
                        file: Arc::new(file),
                        start: 0,
                        size,
                        position: 0,
                    }),
                })
            }
            Kind::Archive {
                file,
                blobs,
                documents,
            } => {
                if let Some(document) = documents.get(digest) {
                    return Ok(Blob::of_bytes(document));
                }
                let place = blobs.get(digest).ok_or_else(|| self.no_blob(digest))?;
                Ok(Blob {
                    size: place.size,
                    data: BlobData::Window(place.open(file)),
                })
            }
            Kind::Documents(documents) => {
                let document = documents.get(digest).ok_or_else(|| self.no_blob(digest))?;
                Ok(Blob::of_bytes(document))
            }
            Kind::Tree {
                folder,
                layer,
                documents,
            } => {
                if layer.digest == *digest {
                    return Ok(Blob {
                        size: layer.size,
                        data: BlobData::Tree(Box::new(TreeArchive::open(folder)?)),
                    });
                }
                let document = documents.get(digest).ok_or_else(|| self.no_blob(digest))?;
                Ok(Blob::of_bytes(document))
            }
            // Only a descriptor tells how much to expect of a server.
            Kind::Remote(_) => Err(self.no_blob(digest)),
        }
    }

    /// A blob that must have the descriptor's size; its content is for the reader to check.
    pub fn blob_of(&self, descriptor: &Descriptor) -> Result<Blob> {
        if let Kind::Remote(remote) = &self.kind {
            return Ok(Blob {
                size: descriptor.size,
                data: BlobData::Remote(Box::new(remote.blob(descriptor))),
            });
        }
        let blob = self.blob(&descriptor.digest)?;
        if blob.size != descriptor.size {
            return Err(Error::Size {
                what: format!("blob {}", descriptor.digest),
                expected: descriptor.size,
                actual: blob.size,
            }
            .into());
        }
        Ok(blob)
    }

    /// A whole manifest, index or configuration, with size and digest checked.
    pub fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        if let Kind::Remote(remote) = &self.kind {
            return remote.document(descriptor);
        }
        let what = format!("blob {}", descriptor.digest);
        let bytes = read_bounded(&mut self.blob_of(descriptor)?, &what)?;
        descriptor.digest.check(&bytes, &what)?;
        Ok(bytes)
    }

    /// The manifest for `host`: of the image called `name` (a tag, a reference or a digest), or of the only image there is.
    /// Fails, before any layer is read, when none fits.
    pub fn select(&self, name: Option<&str>, host: &Platform) -> Result<Descriptor> {
        Ok(self.select_through(name, host)?.0)
    }

    /// The same, with the index documents that led to it, outermost first.
    fn select_through(&self, name: Option<&str>, host: &Platform) -> Result<(Descriptor, Vec<Vec<u8>>)> {
        let mut indexes = Vec::new();
        let runs_32bit = platform::host_runs_32bit_arm();
        let mut entries = self.named(name)?;
        for _ in 0..INDEX_DEPTH_MAX {
            let chosen = platform::choose(&entries, host, runs_32bit)?.clone();
            if media_type::is_index(&chosen.media_type) {
                let document = self.document(&chosen)?;
                entries = Index::from_json(&document)?.manifests;
                indexes.push(document);
                continue;
            }
            let (_, config) = self.read_manifest(&chosen)?;
            platform::check(&config.platform(), host, runs_32bit)?;
            return Ok((chosen, indexes));
        }
        Err(Error::malformed(
            "the index",
            format!("indexes are nested more than {INDEX_DEPTH_MAX} deep"),
        ))
    }

    /// The signatures that are offered with an image: in the artifact `sha256-HEX.sig` of its manifest, or of an index that led to it.
    /// A registry is asked for it only when `ask_registry`.
    pub fn evidence(
        &self,
        name: Option<&str>,
        host: &Platform,
        manifest: &Digest,
        ask_registry: bool,
    ) -> Result<Evidence> {
        let (_, indexes) = self.select_through(name, host)?;
        let mut evidence = Evidence {
            signatures: Vec::new(),
            indexes,
        };
        for tag in evidence.digests(manifest).iter().map(signature::tag_of) {
            for entry in self.tagged(&tag, ask_registry)? {
                let artifact = Manifest::from_json(&self.document(&entry)?)?;
                let found = signature::of_artifact(&artifact, |payload| self.document(payload))?;
                evidence.signatures.extend(found);
            }
        }
        // Indexes are kept for the sake of signatures only.
        if evidence.signatures.is_empty() {
            evidence.indexes.clear();
        }
        Ok(evidence)
    }

    /// What has this tag.
    fn tagged(&self, tag: &str, ask_registry: bool) -> Result<Vec<Descriptor>> {
        if let Kind::Remote(remote) = &self.kind
            && remote.is_registry()
        {
            let found = if ask_registry {
                remote.resolve(tag, None)?
            } else {
                None
            };
            return Ok(found.into_iter().collect());
        }
        let has_tag = |entry: &&Descriptor| {
            let names = [ANNOTATION_REF_NAME, ANNOTATION_IMAGE_NAME].map(|key| entry.annotations.get(key));
            names
                .into_iter()
                .flatten()
                .any(|name| name.rsplit(':').next() == Some(tag))
        };
        Ok(self.index.manifests.iter().filter(has_tag).cloned().collect())
    }

    /// A manifest and its configuration, checked against each other.
    pub fn read_manifest(&self, descriptor: &Descriptor) -> Result<(Manifest, ImageConfig)> {
        let manifest = Manifest::from_json(&self.document(descriptor)?)?;
        let config = ImageConfig::from_json(&self.document(&manifest.config)?)?;
        if manifest.layers.len() != config.rootfs.diff_ids.len() {
            let why = format!(
                "it has {} layers, but the configuration names {}",
                manifest.layers.len(),
                config.rootfs.diff_ids.len()
            );
            return Err(Error::malformed("the manifest", why));
        }
        Ok((manifest, config))
    }

    /// The index entries that answer to `name`.
    fn named(&self, name: Option<&str>) -> Result<Vec<Descriptor>> {
        let images = self.images();
        let not_found = |name: &str| {
            Box::new(Error::NotFound {
                name: name.to_owned(),
                place: self.path.clone(),
            })
        };
        let Some(name) = name else {
            let mut names: Vec<&str> = images.iter().filter_map(|image| image.name.as_deref()).collect();
            names.dedup();
            if names.len() > 1 {
                return Err(Error::Ambiguous {
                    name: self.path.display().to_string(),
                    candidates: names.join(", "),
                }
                .into());
            }
            if images.is_empty() {
                return Err(not_an_image(&self.path, "its index is empty"));
            }
            return Ok(images.into_iter().map(|image| image.descriptor).collect());
        };
        let wanted = name.parse::<Reference>().ok();
        let fits = |image: &NamedImage| {
            let Some(known) = &image.name else {
                return image.descriptor.digest.to_string() == name;
            };
            let same_tag = wanted.as_ref().is_some_and(|wanted| {
                wanted.tag() == Some(known) || known.parse().is_ok_and(|known: Reference| known == *wanted)
            });
            known == name || same_tag || image.descriptor.digest.to_string() == name
        };
        let found: Vec<Descriptor> = images
            .into_iter()
            .filter(fits)
            .map(|image| image.descriptor)
            .collect();
        if found.is_empty() {
            Err(not_found(name))
        } else {
            Ok(found)
        }
    }

    fn no_blob(&self, digest: &Digest) -> Box<Error> {
        Error::NotFound {
            name: format!("blob {digest}"),
            place: self.path.clone(),
        }
        .into()
    }
}

/// The members of a tar archive, by name.
struct Members {
    file: Arc<File>,
    places: BTreeMap<String, Member>,
}

enum Member {
    Data(Place),
    Link(String),
}

impl Members {
    fn list(path: &Path, file: &Arc<File>) -> Result<Self> {
        let size = file.metadata().map_err(Error::at("read", path))?.len();
        let mut magic = [0; 4];
        if file.read_at(&mut magic, 0).map_err(Error::at("read", path))? >= 2 && magic[..2] == GZIP_MAGIC {
            return Err(not_an_image(
                path,
                "the archive is compressed; decompress it with `gunzip` first",
            ));
        }
        let mut stream = TarStream::new(Place { offset: 0, size }.open(file));
        let mut places = BTreeMap::new();
        while let Some(entry) = stream.next_entry().map_err(|error| tar_or_not(path, *error))? {
            let Ok(name) = String::from_utf8(entry.path) else {
                continue;
            };
            let name = name.trim_start_matches("./").to_owned();
            if entry.is_sparse {
                let why = format!("`{name}` in it is a sparse file: make the archive without --sparse");
                return Err(not_an_image(path, &why));
            }
            let member = match entry.kind {
                EntryKind::File => Member::Data(Place {
                    offset: entry.offset,
                    size: entry.size,
                }),
                EntryKind::Symlink | EntryKind::HardLink => {
                    Member::Link(link_target(&name, &entry.link, entry.kind))
                }
                _ => continue,
            };
            places.insert(name, member);
            if places.len() > MEMBERS_MAX {
                return Err(Error::Limit {
                    what: format!("the number of files in {}", path.display()),
                    limit: MEMBERS_MAX.to_string(),
                }
                .into());
            }
        }
        Ok(Self {
            file: Arc::clone(file),
            places,
        })
    }

    fn find(&self, name: &str) -> Option<Place> {
        let mut name = name.trim_start_matches("./");
        for _ in 0..MEMBER_LINKS_MAX {
            match self.places.get(name)? {
                Member::Data(place) => return Some(*place),
                Member::Link(target) => name = target,
            }
        }
        None
    }

    fn read(&self, place: Place, what: &str) -> Result<Vec<u8>> {
        read_bounded(&mut place.open(&self.file), what)
    }

    fn blobs(&self) -> BTreeMap<Digest, Place> {
        let blob = |(name, member): (&String, &Member)| match member {
            Member::Data(place) => Some((Digest::from_hex(name.strip_prefix("blobs/sha256/")?)?, *place)),
            Member::Link(_) => None,
        };
        self.places.iter().filter_map(blob).collect()
    }
}

impl Place {
    fn open(self, file: &Arc<File>) -> Window {
        Window {
            file: Arc::clone(file),
            start: self.offset,
            size: self.size,
            position: 0,
        }
    }
}

/// A link of an old docker-archive, `../ID/layer.tar`, as a member's name.
fn link_target(name: &str, link: &[u8], kind: EntryKind) -> String {
    let link = String::from_utf8_lossy(link);
    if kind == EntryKind::HardLink {
        return link.trim_start_matches("./").to_owned();
    }
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn tar_or_not(path: &Path, error: Error) -> Box<Error> {
    match error {
        Error::Archive { offset: 0..=512, why } => {
            not_an_image(path, &format!("it is not a tar archive ({why})"))
        }
        Error::Stream(source) => Error::io("read", path, source),
        other => other.into(),
    }
}

fn not_an_image(path: &Path, why: &str) -> Box<Error> {
    Error::NotAnImage {
        path: path.to_owned(),
        why: why.to_owned(),
    }
    .into()
}

/// Opens for reading without being held up by a FIFO or led on by a link.
fn open_file(path: &Path) -> Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = File::options()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)
        .map_err(Error::at("open", path))?;
    if !file.metadata().map_err(Error::at("open", path))?.is_file() {
        return Err(not_an_image(path, "it is not a regular file"));
    }
    Ok(file)
}

fn read_bounded(reader: &mut impl Read, what: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader
        .take(oci::DOCUMENT_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::Stream)?;
    if bytes.len() as u64 > oci::DOCUMENT_BYTES_MAX {
        return Err(Error::Limit {
            what: format!("the size of {what}"),
            limit: format!("{} bytes", oci::DOCUMENT_BYTES_MAX),
        }
        .into());
    }
    Ok(bytes)
}

pub(crate) fn check_layout(bytes: &[u8]) -> Result<()> {
    #[derive(punnet_json::FromJson)]
    struct Layout {
        #[json(rename = "imageLayoutVersion")]
        version: String,
    }
    let layout: Layout = oci::parse("oci-layout", bytes)?;
    if layout.version.starts_with("1.") {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!("image layout version {}", layout.version),
        why: "version 1 is".to_owned(),
    }
    .into())
}

/// Copies to the end; what fails is the reading or the writing, and is told so.
fn copy(from: &mut dyn Read, mut to: &File, folder: &Path) -> Result<()> {
    let mut buffer = vec![0; SPOOL_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => to
                .write_all(&buffer[..count])
                .map_err(Error::at("write to", folder))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::stream(error)),
        }
    }
}

/// Reads a blob to its end for its digest: for layers whose name does not tell it.
fn digest_of(window: Window) -> Result<Digest> {
    let mut reader = HashingReader::new(window);
    io::copy(&mut reader, &mut io::sink()).map_err(Error::Stream)?;
    Ok(reader.finish().1)
}
