//! `cargo xtask`: everything a person or CI does with this repository.
//!
//! | command | what it does | file |
//! |---|---|---|
//! | `demo` | builds all, deploys a scratch container over MQTT to an agent on this machine, shows it | demo.rs |
//! | `test` | installs what is missing, then every check there is; CI runs exactly this | test.rs |
//! | `build` | static binaries for boards | cross.rs |
//! | `image` | a card, kernel and initramfs for a board | image.rs |
//! | `boot` | a board's image in QEMU, with a fleet controller | boot.rs |
//! | `dist` | archives, Debian packages, SBOM, checksums, signature | dist.rs |
//! | `docs` | docs/boards.md out of the board files | docs.rs |
//! | `where` | function and source line of an internal error on a board | locate.rs |
//! | `size` | size of the device binary, by feature and dependency | size.rs |
//! | `fuzz` | the fuzz targets, for longer than the tests do | fuzz.rs |
//! | `powercut` | cuts the power of a disk that the store works on, a thousand times | powercut.rs |
//! | `engines` | podman, docker and containerd on our runtime, in the virtual machine | engines.rs |
//! | `oci-validation` | the validation programs of opencontainers/runtime-tools, beside crun and runc | validation.rs |
//! | `vm` | a command in a virtual machine with cgroup v2 | vm.rs |
//! | `bench` | speed and memory beside the peers that are installed | bench.rs |

#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use xtask::{
    bench, boot, cross, demo, dist, docs, engines, fuzz, image, locate, order, powercut, process, size, test,
    validation, vm,
};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Everything a person or CI does with this repository"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build everything and let a fleet controller run a scratch container on this machine, over MQTT
    Demo(demo::Options),
    /// Install what is missing, then format check, lints, dependency check, all tests; what CI runs
    Test(test::Options),
    /// Cross-compile the static device binary for boards
    Build(cross::Options),
    /// Make a bootable card for a board, without root
    Image(image::Options),
    /// Boot a board's image in QEMU and let a fleet controller work with it
    Boot(boot::Options),
    /// Make what people install: archives, Debian packages, an SBOM, signed checksums
    Dist(dist::Options),
    /// Write docs/boards.md out of the board files
    Docs(docs::Options),
    /// Find out what the runtime's commands execute, for the linker to put it side by side
    Order(order::Options),
    /// Tell which function and source line an address is, that a board's binary says of an internal error
    Where(locate::Options),
    /// Print the size of the static device binary and what each feature and dependency adds
    Size(size::Options),
    /// Run the fuzz targets
    Fuzz(fuzz::Options),
    /// Run a command in a virtual machine: this machine's root, another kernel, cgroup v2, all capabilities
    Vm(vm::Options),
    /// Cut the power of a disk while the store works on it, and look at what is left
    Powercut(powercut::Options),
    /// What `powercut --vm` runs in the virtual machine
    #[command(hide = true)]
    PowercutInside(powercut::InsideOptions),
    /// Let podman, docker and containerd use our runtime, in the virtual machine
    Engines(engines::Options),
    /// Run the validation programs of opencontainers/runtime-tools on our runtime, crun and runc, in the virtual machine
    OciValidation(validation::Options),
    /// Measure speed and memory beside the peers that are installed
    Bench(bench::Options),
}

fn main() -> anyhow::Result<()> {
    let command = Cli::parse().command;
    process::catch_interrupts()?;
    match command {
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => test::run_all(&options),
        Command::Build(options) => cross::run_command(&options),
        Command::Image(options) => image::run_command(&options),
        Command::Boot(options) => boot::run_command(&options),
        Command::Dist(options) => dist::run_command(&options),
        Command::Docs(options) => docs::run(&options),
        Command::Order(options) => order::run_command(&options),
        Command::Where(options) => locate::run_command(&options),
        Command::Size(options) => size::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Vm(options) => vm::run_command(&options),
        Command::Powercut(options) => powercut::run_command(&options),
        Command::PowercutInside(options) => powercut::run_inside(&options),
        Command::Engines(options) => engines::run_all(&options),
        Command::OciValidation(options) => validation::run_command(&options),
        Command::Bench(options) => bench::run_all(&options),
    }
}
