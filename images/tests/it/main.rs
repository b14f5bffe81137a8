//! Effects of the image half on real files: what it builds and writes, read back by itself and by skopeo and umoci.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

mod build;
mod export;
mod support;
