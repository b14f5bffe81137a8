//! One layer as a gzip-compressed tar whose bytes depend on nothing but what is in it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};

use super::context::Context;
use super::tree::Node;
use crate::oci::{Descriptor, media_type};
use crate::{Digest, Error, HashingWriter, Result};

/// "Unknown" in RFC 1952: the same on every machine.
const GZIP_OS_UNKNOWN: u8 = 255;

/// An entry to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A directory.
    Folder {
        /// Permission bits.
        mode: u32,
    },
    /// A regular file of the context.
    File {
        /// Its path there.
        source: String,
        /// Permission bits.
        mode: u32,
    },
    /// A symbolic link.
    Symlink {
        /// As it stands in the context.
        target: PathBuf,
    },
}

impl Item {
    /// A directory that an instruction makes, or that a path goes through.
    pub fn folder() -> Self {
        Self::Folder { mode: 0o755 }
    }

    /// What it is in the image's tree.
    pub fn node(&self) -> Node {
        match self {
            Self::Folder { .. } => Node::Folder,
            Self::File { .. } => Node::File,
            Self::Symlink { target } => Node::Link(target.to_string_lossy().into_owned()),
        }
    }
}

type Compressed = GzEncoder<HashingWriter<File>>;

/// A layer being written.
pub struct Layer {
    archive: tar::Builder<HashingWriter<Compressed>>,
    temporary: PathBuf,
    blobs: PathBuf,
    mtime: u64,
}

impl Layer {
    /// An empty one among the blobs; its name is known only at the end.
    pub fn create(blobs: &Path, mtime: u64) -> Result<Self> {
        let temporary = blobs.join("layer");
        let file = File::create(&temporary).map_err(Error::at("create", &temporary))?;
        let encoder = GzBuilder::new()
            .mtime(0)
            .operating_system(GZIP_OS_UNKNOWN)
            .write(HashingWriter::new(file), Compression::default());
        let mut archive = tar::Builder::new(HashingWriter::new(encoder));
        archive.sparse(false);
        Ok(Self {
            archive,
            temporary,
            blobs: blobs.into(),
            mtime,
        })
    }

    /// Writes one entry.
    pub fn add(&mut self, path: &str, item: &Item, owner: (u32, u32), context: &Context) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_uid(owner.0.into());
        header.set_gid(owner.1.into());
        header.set_mtime(self.mtime);
        header.set_size(0);
        let written = match item {
            Item::Folder { mode } => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                self.archive
                    .append_data(&mut header, format!("{path}/"), std::io::empty())
            }
            Item::Symlink { target } => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                self.archive.append_link(&mut header, path, target)
            }
            Item::File { source, mode } => {
                use std::io::Read;
                let file = context.read(source)?;
                let size = file.metadata().map_err(Error::at("look at", source))?.len();
                header.set_entry_type(tar::EntryType::Regular);
                header.set_mode(*mode);
                header.set_size(size);
                let mut content = file.take(size);
                let written = self.archive.append_data(&mut header, path, &mut content);
                if written.is_ok() && content.limit() > 0 {
                    return Err(Error::Size {
                        what: format!("{source:?} in the context"),
                        expected: size,
                        actual: size - content.limit(),
                    });
                }
                written
            }
        };
        written.map_err(Error::at("write", &self.temporary))
    }

    /// Ends it and gives it its name.
    pub fn finish(self) -> Result<(Descriptor, Digest)> {
        let at = |operation| Error::at::<std::io::Error>(operation, &self.temporary);
        let (encoder, _, diff_id) = self.archive.into_inner().map_err(at("write"))?.finish();
        let (file, size, digest) = encoder.finish().map_err(at("write"))?.finish();
        drop(file);
        fs::rename(&self.temporary, self.blobs.join(digest.hex())).map_err(at("rename"))?;
        let mut descriptor = Descriptor::of(media_type::LAYER_GZIP, &[]);
        (descriptor.digest, descriptor.size) = (digest, size);
        Ok((descriptor, diff_id))
    }
}
