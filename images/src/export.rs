//! Writes an image whose blobs are there as an OCI image layout, an OCI archive, or a docker-archive.
//!
//! Written under a temporary name beside the target, synced and renamed: whole or not there. Archives depend on nothing but the image and its name.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::decompress::decompressed;
use crate::oci::{ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME, Descriptor, Index, to_json};
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

/// Writes the image that `manifest` points to. A regular file at the target, or at the end of a symbolic link there, is replaced by an archive;
/// whatever else is there is an error and stays.
pub fn write(
    source: &Source,
    manifest: &Descriptor,
    reference: Option<&Reference>,
    format: Format,
    to: &Path,
) -> Result<()> {
    let to = &place(to, format)?;
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let (mut temporary, mut out) = Temporary::create(to.with_file_name(name), format)?;
    match format {
        Format::OciDir | Format::OciArchive => write_layout(source, manifest, reference, &mut out)?,
        Format::DockerArchive => write_docker(source, manifest, reference, &mut out)?,
    }
    out.finish(&temporary.path)?;
    fs::rename(&temporary.path, to).map_err(Error::at("write", to))?;
    temporary.is_ours = false;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync(parent.unwrap_or(Path::new(".")))
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

fn write_layout(
    source: &Source,
    manifest: &Descriptor,
    reference: Option<&Reference>,
    out: &mut Out,
) -> Result<()> {
    let mut entry = manifest.clone();
    entry.annotations.remove(ANNOTATION_IMAGE_NAME);
    entry.annotations.remove(ANNOTATION_REF_NAME);
    if let Some(reference) = reference {
        entry
            .annotations
            .insert(ANNOTATION_IMAGE_NAME.into(), reference.to_string());
        entry.annotations.insert(
            ANNOTATION_REF_NAME.into(),
            reference.tag().unwrap_or("latest").into(),
        );
    }
    out.add_bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    out.add_bytes("index.json", &to_json(&Index::of(vec![entry])))?;
    let (document, _) = source.read_manifest(manifest)?;
    let mut blobs: Vec<&Descriptor> = std::iter::once(manifest)
        .chain([&document.config])
        .chain(&document.layers)
        .collect();
    blobs.sort_by_key(|blob| blob.digest);
    blobs.dedup_by_key(|blob| blob.digest);
    for blob in blobs {
        let mut content = HashingReader::new(source.blob_of(blob)?);
        out.add(
            &format!("blobs/sha256/{}", blob.digest.hex()),
            blob.size,
            &mut content,
        )?;
        expect(content, blob.digest, &format!("blob {}", blob.digest))?;
    }
    Ok(())
}

/// What was passed on is what the digest names: damage is told here, not on the machine that the image goes to.
fn expect(content: HashingReader<impl Read>, expected: Digest, what: &str) -> Result<()> {
    let (_, actual) = content.finish();
    if actual == expected {
        return Ok(());
    }
    Err(Error::Mismatch {
        what: what.to_owned(),
        expected,
        actual,
    })
}

/// <https://github.com/moby/docker-image-spec>: manifest.json, the configuration, and plain layers by their diff IDs.
fn write_docker(
    source: &Source,
    manifest: &Descriptor,
    reference: Option<&Reference>,
    out: &mut Out,
) -> Result<()> {
    let (document, config) = source.read_manifest(manifest)?;
    let config_name = format!("{}.json", document.config.digest.hex());
    // read_manifest has checked this one.
    out.add(
        &config_name,
        document.config.size,
        &mut source.blob_of(&document.config)?,
    )?;
    let mut layers = Vec::new();
    for (layer, diff_id) in document.layers.iter().zip(&config.rootfs.diff_ids) {
        let name = format!("{}/layer.tar", diff_id.hex());
        if !layers.contains(&name) {
            // tar wants the size first: the layer is unpacked once to count and once to write.
            let size = io::copy(&mut plain(source, layer)?, &mut io::sink()).map_err(Error::Stream)?;
            let mut content = HashingReader::new(plain(source, layer)?);
            out.add(&name, size, &mut content)?;
            expect(content, *diff_id, &format!("layer {}, unpacked,", layer.digest))?;
        }
        layers.push(name);
    }
    let tags: Vec<String> = reference.iter().map(ToString::to_string).collect();
    let list = serde_json::json!([{ "Config": config_name, "RepoTags": tags, "Layers": layers }]);
    out.add_bytes("manifest.json", &to_json(&list))
}

fn plain(source: &Source, layer: &Descriptor) -> Result<Box<dyn Read>> {
    decompressed(source.blob_of(layer)?, layer)
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
            Out::Archive(Box::new(tar::Builder::new(file)), path.clone())
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
    Archive(Box<tar::Builder<File>>, PathBuf),
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
                .and_then(|file| file.sync_all())
                .map_err(Error::at("write", path)),
        }
    }
}
