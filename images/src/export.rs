//! Writes an image whose blobs are there as an OCI image layout, an OCI archive, or a docker-archive.
//!
//! Written under a temporary name beside the target, synced and renamed: whole or not there. Archives depend on nothing but the image and its name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::decompress::decompressed;
use crate::oci::{ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME, Descriptor, Index, media_type, to_json};
pub use crate::source::GZIP_MAGIC;
use crate::{Digest, Error, HashingReader, Reference, Result, Source};

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A directory: OCI image-layout.
    OciDir,
    /// A tar of one.
    OciArchive,
    /// What `docker save` writes.
    DockerArchive,
}

/// An image to be written.
#[derive(Debug)]
pub struct Saved {
    /// Where its blobs are.
    pub source: Source,
    /// Points to its manifest there.
    pub manifest: Descriptor,
    /// The names it gets.
    pub references: Vec<Reference>,
}

/// One image, borrowed.
type Part<'a> = (&'a Source, &'a Descriptor, &'a [Reference]);

/// Writes the image that `manifest` points to, as [`write_all`] does.
pub fn write(
    source: &Source,
    manifest: &Descriptor,
    reference: Option<&Reference>,
    format: Format,
    to: &Path,
) -> Result<()> {
    let names: Vec<Reference> = reference.cloned().into_iter().collect();
    write_parts(&[(source, manifest, &names)], format, to)
}

/// Writes images. A regular file at the target, or at the end of a symbolic link there, is replaced by an archive;
/// whatever else is there is an error and stays.
pub fn write_all(images: &[Saved], format: Format, to: &Path) -> Result<()> {
    write_parts(&parts(images), format, to)
}

/// Writes an archive to a stream, which whoever reads it must not take for whole before it has ended. `scratch` is a directory for what memory need not
/// hold, in a file that loses its name at once.
pub fn write_stream(images: &[Saved], format: Format, to: Box<dyn Write>, scratch: &Path) -> Result<()> {
    if format == Format::OciDir {
        return Err(Error::Unsupported {
            what: "a layout directory on a stream".into(),
            why: "choose an archive, or give a path".into(),
        }
        .into());
    }
    let path = Path::new("the output");
    let mut out = Out::Archive(Box::new(tar::Builder::new(to)), path.into());
    let window = scratch.join(format!(".new-window-{}", std::process::id()));
    write_members(&parts(images), format, &mut out, &window)?;
    let Out::Archive(archive, _) = out else {
        return Ok(());
    };
    let flushed = archive.into_inner().and_then(|mut to| to.flush());
    flushed.map_err(Error::at("write", path))
}

fn parts(images: &[Saved]) -> Vec<Part<'_>> {
    images
        .iter()
        .map(|image| (&image.source, &image.manifest, image.references.as_slice()))
        .collect()
}

fn write_parts(images: &[Part<'_>], format: Format, to: &Path) -> Result<()> {
    let to = &place(to, format)?;
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let (mut temporary, mut out) = Temporary::create(to.with_file_name(name), format)?;
    let window = temporary.path.with_added_extension("window");
    write_members(images, format, &mut out, &window)?;
    out.finish(&temporary.path)?;
    fs::rename(&temporary.path, to).map_err(Error::at("write", to))?;
    temporary.is_ours = false;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync(parent.unwrap_or(Path::new(".")))
}

fn write_members(images: &[Part<'_>], format: Format, out: &mut Out, window: &Path) -> Result<()> {
    match format {
        Format::OciDir | Format::OciArchive => write_layout(images, out),
        Format::DockerArchive => write_docker(images, out, window),
    }
}

/// Where it is to be written, links followed.
fn place(to: &Path, format: Format) -> Result<PathBuf> {
    // `a/` and `a` are the same place.
    let to: PathBuf = to.components().collect();
    let refuse = |problem: &str| {
        let problem = io::Error::new(io::ErrorKind::AlreadyExists, problem.to_owned());
        Err(Error::io("write", &to, problem))
    };
    match fs::symlink_metadata(&to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(to),
        Err(error) => Err(Error::io("look at", &to, error)),
        Ok(found) if found.is_dir() => refuse("a directory is there"),
        Ok(_) if format == Format::OciDir => refuse("something is there that is no directory of ours"),
        Ok(found) if found.is_symlink() => {
            place(&fs::canonicalize(&to).map_err(Error::at("follow", &to))?, format)
        }
        Ok(found) if found.is_file() => Ok(to),
        Ok(_) => {
            refuse("what is there is neither a file nor a directory (for a pipe: write a file, then cat it)")
        }
    }
}

fn sync(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(Error::at("sync", folder))
}

fn write_layout(images: &[Part<'_>], out: &mut Out) -> Result<()> {
    let mut entries = Vec::new();
    let mut blobs = BTreeMap::new();
    for &(source, manifest, references) in images {
        entries.extend(named_entries(manifest, references));
        blobs
            .entry(manifest.digest)
            .or_insert_with(|| (source, manifest.clone()));
        for manifest in manifests_of(source, manifest)? {
            let (document, _) = source.read_manifest(&manifest)?;
            for blob in [&manifest, &document.config].into_iter().chain(&document.layers) {
                blobs.entry(blob.digest).or_insert_with(|| (source, blob.clone()));
            }
        }
    }
    out.add_bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    out.add_bytes("index.json", &to_json(&Index::of(entries)))?;
    for (digest, (source, blob)) in blobs {
        let mut content = HashingReader::new(source.blob_of(&blob)?);
        let name = format!("blobs/sha256/{}", digest.hex());
        out.add(&name, blob.size, &mut content)?;
        expect(content, digest, &format!("blob {digest}"))?;
    }
    Ok(())
}

/// The manifest itself, or those of an index.
fn manifests_of(source: &Source, image: &Descriptor) -> Result<Vec<Descriptor>> {
    if !media_type::is_index(&image.media_type) {
        return Ok(vec![image.clone()]);
    }
    Ok(Index::from_json(&source.document(image)?)?.manifests)
}

/// One entry of the index for each name, one without when there is none.
fn named_entries(manifest: &Descriptor, references: &[Reference]) -> Vec<Descriptor> {
    let mut plain = manifest.clone();
    plain.annotations.remove(ANNOTATION_IMAGE_NAME);
    plain.annotations.remove(ANNOTATION_REF_NAME);
    if references.is_empty() {
        return vec![plain];
    }
    let named = |reference: &Reference| {
        let mut entry = plain.clone();
        let tag = reference.tag().unwrap_or("latest");
        entry.annotations.extend([
            (ANNOTATION_IMAGE_NAME.into(), reference.to_string()),
            (ANNOTATION_REF_NAME.into(), tag.into()),
        ]);
        entry
    };
    references.iter().map(named).collect()
}

/// What was passed on is what the digest names: damage is told here, not on the machine that the image goes to.
fn expect(content: HashingReader<'_>, expected: Digest, what: &str) -> Result<()> {
    let (_, actual) = content.finish();
    if actual == expected {
        return Ok(());
    }
    Err(Error::Mismatch {
        what: what.to_owned(),
        expected,
        actual,
    }
    .into())
}

/// <https://github.com/moby/docker-image-spec>: manifest.json, the configuration, and plain layers by their diff IDs.
fn write_docker(images: &[Part<'_>], out: &mut Out, window: &Path) -> Result<()> {
    let mut written = BTreeSet::new();
    let mut list = Vec::new();
    for &(source, manifest, references) in images {
        let (document, config) = source.read_manifest(manifest)?;
        let config_name = format!("{}.json", document.config.digest.hex());
        if written.insert(config_name.clone()) {
            // read_manifest has checked this one.
            let mut content = source.blob_of(&document.config)?;
            out.add(&config_name, document.config.size, &mut content)?;
        }
        let mut layers = Vec::new();
        for (layer, diff_id) in document.layers.iter().zip(&config.rootfs.diff_ids) {
            let name = format!("{}/layer.tar", diff_id.hex());
            if written.insert(name.clone()) {
                // tar wants the size first: the layer is unpacked once to count and once to write.
                let plain = || decompressed(Box::new(source.blob_of(layer)?), layer, window.into());
                let size = io::copy(&mut plain()?, &mut io::sink()).map_err(Error::Stream)?;
                let mut content = HashingReader::new(plain()?);
                out.add(&name, size, &mut content)?;
                expect(content, *diff_id, &format!("layer {}, unpacked,", layer.digest))?;
            }
            layers.push(name);
        }
        let tags: Vec<String> = references.iter().map(ToString::to_string).collect();
        list.push(punnet_json::json!({ "Config": config_name, "RepoTags": tags, "Layers": layers }));
    }
    out.add_bytes("manifest.json", &to_json(&list))
}

/// A file or directory that we have made, and that goes with this value unless it was renamed away.
struct Temporary {
    path: PathBuf,
    is_ours: bool,
}

impl Temporary {
    /// Makes it; what is there already is an error, and stays.
    fn create(path: PathBuf, format: Format) -> Result<(Self, Out)> {
        let out = if format == Format::OciDir {
            fs::create_dir(&path).map_err(Error::at("create", &path))?;
            Out::Folder(path.clone())
        } else {
            let file = File::create_new(&path).map_err(Error::at("create", &path))?;
            let to: Box<dyn Write> = Box::new(file);
            Out::Archive(Box::new(tar::Builder::new(to)), path.clone())
        };
        Ok((Self { path, is_ours: true }, out))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.is_ours {
            // One of the two is right for what it is.
            drop(fs::remove_file(&self.path));
            drop(fs::remove_dir_all(&self.path));
        }
    }
}

/// Where members go.
enum Out {
    Folder(PathBuf),
    Archive(Box<tar::Builder<Box<dyn Write>>>, PathBuf),
}

impl Out {
    fn add_bytes(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.add(name, bytes.len() as u64, &mut &*bytes)
    }

    fn add(&mut self, name: &str, size: u64, content: &mut dyn Read) -> Result<()> {
        match self {
            Self::Folder(folder) => {
                let path = folder.join(name);
                let parent = path.parent().unwrap_or(folder);
                fs::create_dir_all(parent).map_err(Error::at("create", parent))?;
                let mut file = File::create(&path).map_err(Error::at("create", &path))?;
                io::copy(content, &mut file)
                    .and_then(|_| file.sync_all())
                    .map_err(Error::at("write", &path))
            }
            Self::Archive(archive, path) => {
                let mut header = tar::Header::new_gnu();
                header.set_size(size);
                header.set_mode(0o644);
                header.set_mtime(0);
                header.set_uid(0);
                header.set_gid(0);
                archive
                    .append_data(&mut header, name, content.take(size))
                    .map_err(Error::at("write", path))
            }
        }
    }

    fn finish(self, path: &Path) -> Result<()> {
        match self {
            // The files are synced one by one; their names are in these three.
            Self::Folder(folder) => ["blobs/sha256", "blobs", ""]
                .iter()
                .try_for_each(|name| sync(&folder.join(name))),
            Self::Archive(archive, _) => archive
                .into_inner()
                .and_then(|_| File::open(path)?.sync_all())
                .map_err(Error::at("write", path)),
        }
    }
}
