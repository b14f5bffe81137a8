//! The tools behind `cargo xtask` (src/main.rs has the list), and the test stand that the end-to-end tests share with the demo.

#![forbid(unsafe_code)]

pub mod bench;
pub mod boot;
pub mod build;
mod chrony;
pub mod cross;
pub mod debian;
pub mod demo;
pub mod dist;
pub mod docs;
pub mod emulator;
pub mod engines;
pub mod fuzz;
pub mod image;
mod initramfs;
mod kernel;
pub mod locate;
mod mosquitto;
pub mod order;
mod packages;
pub mod powercut;
pub mod process;
pub mod registry;
pub mod reproducible;
pub mod size;
pub mod stand;
pub mod test;
pub mod validation;
pub mod vm;

pub use kernel::debian_package;
