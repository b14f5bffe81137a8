//! The one error of this crate, in the words its users read. `Display` says this level only; the cause is `source()`.

use crate::Digest;
use nix::errno::Errno;
use std::io;
use std::path::{Path, PathBuf};

/// What this crate's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an image could not be read, stored, built or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call or a read or write failed.
    #[error("cannot {operation} {path}", path = path.display())]
    Io {
        /// What was being done, as a verb.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The file system is full, or the user's quota is used up. Nothing of the operation remains.
    #[error("no space left to {operation} {path}: free some space (`punnet prune` removes what no image needs)", path = path.display())]
    Full {
        /// What was being done, as a verb.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
    },
    /// A stream ended early or could not be decoded.
    #[error("cannot read the data: {0}")]
    Stream(#[source] io::Error),
    /// Text that is not an image reference.
    #[error("`{text}` is not an image reference: {why}")]
    Reference {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Text that is not a digest.
    #[error("`{text}` is not a digest: {why}")]
    Digest {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Text that is not a platform.
    #[error(
        "`{text}` is not a platform: write os/architecture or os/architecture/variant, for example linux/arm/v7"
    )]
    Platform {
        /// What was given.
        text: String,
    },
    /// A file or directory that holds no image.
    #[error("{path} holds no image: {why}", path = path.display())]
    NotAnImage {
        /// What was opened.
        path: PathBuf,
        /// Why it is not one.
        why: String,
    },
    /// A manifest, index or configuration that breaks the specification or our bounds.
    #[error("{what} is malformed: {why}")]
    Malformed {
        /// Which document.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// Something the image asks for that Punnet does not do.
    #[error("{what} is not supported: {why}")]
    Unsupported {
        /// What was found.
        what: String,
        /// Why not, and what to do.
        why: String,
    },
    /// Bytes that are not the ones the digest names.
    #[error("{what} is damaged: its digest is {actual}, not {expected}; fetch or copy the image again")]
    Mismatch {
        /// What was read.
        what: String,
        /// The digest it must have.
        expected: Digest,
        /// The digest it has.
        actual: Digest,
    },
    /// A blob whose length is not the declared one.
    #[error(
        "{what} is damaged: it has {actual} bytes, its descriptor says {expected}; fetch or copy the image again"
    )]
    Size {
        /// What was read.
        what: String,
        /// The declared size in bytes.
        expected: u64,
        /// The size in bytes, or how far the read came before it was stopped.
        actual: u64,
    },
    /// No manifest for the platform asked for.
    #[error("{0}")]
    WrongPlatform(String),
    /// A tar archive that cannot be parsed.
    #[error("the tar archive is malformed at byte {offset}: {why}")]
    Archive {
        /// Offset of the header in the uncompressed archive.
        offset: u64,
        /// What is wrong with it.
        why: String,
    },
    /// A tar entry that is refused.
    #[error("entry `{entry}` was refused: {why}")]
    Entry {
        /// Its name, as far as it could be read.
        entry: String,
        /// Why.
        why: String,
    },
    /// A layer that was refused; the source says why.
    #[error("layer {digest} was refused")]
    Layer {
        /// The layer's digest as the manifest names it.
        digest: Digest,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// A bound was reached: more entries, bytes or files than we take.
    #[error("{what} is over the limit of {limit}")]
    Limit {
        /// What grew too large.
        what: String,
        /// The bound, with its unit.
        limit: String,
    },
    /// No such image in the store or in the source.
    #[error("no image `{name}` in {place}", place = place.display())]
    NotFound {
        /// What was asked for.
        name: String,
        /// Where it was looked for.
        place: PathBuf,
    },
    /// More than one image answers to the name.
    #[error("`{name}` fits more than one image: {candidates}")]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// What it fits.
        candidates: String,
    },
    /// The store was written by another version of Punnet.
    #[error("the store at {path} has format {found:?}; this version of punnet reads format {expected:?}", path = path.display())]
    StoreFormat {
        /// The store.
        path: PathBuf,
        /// What its version file says.
        found: String,
        /// What we read.
        expected: &'static str,
    },
    /// A line of a Containerfile that cannot be built.
    #[error("{file}:{line}:{column}: {why}")]
    Containerfile {
        /// The file as it was named.
        file: String,
        /// From 1.
        line: u32,
        /// From 1.
        column: u32,
        /// What is wrong, and what to do about it.
        why: String,
    },
    /// A container cannot be described from its image and options.
    #[error("{0}")]
    Run(String),
}

impl Error {
    /// Wraps an I/O error with what was done and to which file; a full disk becomes its own variant.
    pub(crate) fn io(operation: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let path = path.as_ref().to_path_buf();
        match source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOSPC | Errno::EDQUOT) => Self::Full { operation, path },
            _ => Self::Io {
                operation,
                path,
                source,
            },
        }
    }

    /// For `map_err`: [`Error::io`] with its first two arguments given.
    pub(crate) fn at<E: Into<io::Error>>(
        operation: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::io(operation, path, source)
    }

    pub(crate) fn malformed(what: impl Into<String>, why: impl ToString) -> Self {
        Self::Malformed {
            what: what.into(),
            why: why.to_string(),
        }
    }
}
