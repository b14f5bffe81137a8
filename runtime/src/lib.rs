//! OCI runtime: bundle to running container.
#![forbid(unsafe_code)]
pub mod cli;
