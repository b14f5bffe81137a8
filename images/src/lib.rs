//! The image half of Punnet: references, digests, OCI images in and out, the store, the builder, and the way from an image to
//! an OCI bundle. A library only: it executes nothing and starts no thread; sockets are opened by [`registry`] alone.
//!
//! An image comes in by [`Source`] (an OCI layout directory, an OCI archive, a docker-archive, or a registry), is unpacked once into the
//! [`Store`], and is turned into a runtime configuration by [`bundle`]. [`build`] makes images from a Containerfile; [`export`]
//! writes stored images back out.
#![forbid(unsafe_code)]

mod error;

mod base64;
mod digest;
pub mod oci;
pub mod platform;
mod reference;

mod decompress;
mod source;
pub mod tar_stream;
mod zstd;

pub mod registry;

pub mod signature;
pub mod store;

pub mod build;

pub mod export;

pub mod bundle;
pub mod users;

pub use digest::{Digest, HashingReader, HashingWriter};
pub use error::{Error, Result, chain};
pub use oci::Platform;
pub use reference::Reference;
pub use source::{Blob, NamedImage, Source};
pub use store::{Blobs, Image, ImportOptions, Store, remove_tree};
pub use zstd::read_as_zstd;
