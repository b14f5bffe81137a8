//! Effects of the image half on real files: what it builds, writes and stores, read back by itself and by skopeo and umoci.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

mod build;
mod build_stages;
mod export;
mod flatten;
mod registry;
mod registry_server;
mod signatures;
mod store_crash;
mod store_full;
mod store_input;
mod store_many;
mod store_verify;
mod support;
