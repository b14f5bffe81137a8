//! The tools behind `cargo xtask` (src/main.rs has the list), and the test stand that the end-to-end tests share with the demo.

#![forbid(unsafe_code)]

pub mod bench;
pub mod build;
pub mod cross;
pub mod demo;
pub mod fuzz;
mod initramfs;
mod packages;
pub mod process;
pub mod size;
pub mod stand;
pub mod test;
pub mod vm;
