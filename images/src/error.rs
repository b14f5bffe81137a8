//! The one error of this crate, in the words its users read. `Display` says this level only; the cause is `source()`.

use crate::Digest;
use nix::errno::Errno;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What this crate's functions return. The error is one pointer wide: each of the many `?` passes it on, and errors are rare.
pub type Result<T, E = Box<Error>> = std::result::Result<T, E>;

/// Why an image could not be read, stored, built or written.
#[derive(thiserror::Error)]
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
    /// A server could not be reached, or the link to it broke too often: trying again later may help.
    #[error("cannot get {url}: {why}")]
    Network {
        /// What was asked for, without its query.
        url: String,
        /// The last of what went wrong.
        why: String,
    },
    /// Any of these, as a stream tells it that was given up; it may be asked more than once.
    #[error(transparent)]
    Transfer(Arc<Error>),
    /// The registry wants to know who asks, or does not let this one.
    #[error("{registry} refuses access to {what}: {why}")]
    Denied {
        /// Its name.
        registry: String,
        /// Which repository.
        what: String,
        /// Why, and what to do.
        why: String,
    },
    /// The registry does not have it.
    #[error("{registry} has no {what}")]
    NotThere {
        /// What was asked for.
        what: String,
        /// Who was asked.
        registry: String,
    },
    /// An answer that no registry gives.
    #[error("{url} does not answer as a registry: {why}")]
    Answer {
        /// What was asked for, without its query.
        url: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// A server that cannot be trusted to be the one that was meant.
    #[error("cannot trust {origin}: {why}")]
    Distrust {
        /// Scheme, host and port.
        origin: String,
        /// Why not, and what to do.
        why: String,
    },
    /// The signature policy does not let it run.
    #[error("{image} may not run: {why}")]
    Untrusted {
        /// Its name, or its digest.
        image: String,
        /// What is missing.
        why: String,
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

/// An error and its causes as one sentence, for where they have to be text.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// In people's words too: what the derive would write out is 1.6 KiB, and says less.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(self))
    }
}

impl Error {
    /// Wraps an I/O error with what was done and to which file; a full disk becomes its own variant.
    pub(crate) fn io(
        operation: &'static str,
        path: impl AsRef<Path>,
        source: impl Into<io::Error>,
    ) -> Box<Self> {
        Self::io_of(operation, path.as_ref(), source.into())
    }

    #[cold]
    #[inline(never)]
    fn io_of(operation: &'static str, path: &Path, source: io::Error) -> Box<Self> {
        let path = path.to_path_buf();
        Box::new(match source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOSPC | Errno::EDQUOT) => Self::Full { operation, path },
            _ => Self::Io {
                operation,
                path,
                source,
            },
        })
    }

    /// For `map_err`: [`Error::io`] with its first two arguments given.
    pub(crate) fn at<E: Into<io::Error>>(
        operation: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(E) -> Box<Self> {
        move |source| Self::io(operation, path, source)
    }

    /// A failed read of a stream. What our own stream says for itself is the error.
    #[cold]
    #[inline(never)]
    pub(crate) fn stream(source: io::Error) -> Box<Self> {
        Box::new(source.downcast::<Self>().unwrap_or_else(Self::Stream))
    }

    /// For readers, which know no other errors; [`Error::stream`] is the way back.
    pub(crate) fn into_io(self: Box<Self>) -> io::Error {
        // As itself, not as a box in a box: that is what `stream` looks for.
        io::Error::other(self as Box<dyn std::error::Error + Send + Sync>)
    }

    /// Whether a file or a directory is not there.
    pub(crate) fn is_missing_file(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether the same may work later without anybody changing anything: the network, not the image.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Network { .. } => true,
            Self::Layer { source, .. } => source.is_temporary(),
            Self::Transfer(source) => source.is_temporary(),
            _ => false,
        }
    }

    pub(crate) fn malformed(what: impl Into<String>, why: impl ToString) -> Box<Self> {
        Self::malformed_of(what.into(), why.to_string())
    }

    #[cold]
    #[inline(never)]
    fn malformed_of(what: String, why: String) -> Box<Self> {
        Box::new(Self::Malformed { what, why })
    }
}
