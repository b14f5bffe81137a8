//! `cargo xtask boot`: a board's image in QEMU, beside a fleet controller on this machine. What a user counts on is tried in order
//! (`story.rs`): the board enrols, runs what it is told, survives a power cut in the middle of an update, runs without network what it last
//! ran, updates its own system (`system.rs`).

mod alone;
mod lowest;
mod measure;
mod peer;
mod story;
mod system;
mod trouble;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::build;
use crate::cross::Compiler;
use crate::emulator::{self, Machine};
use crate::image;
use crate::process::side_by_side;
use crate::stand::Programs;

pub use story::{Clock, Variant, scenario};

/// Options of `boot`.
#[derive(clap::Args)]
pub struct Options {
    /// Which board (a file in board-configs/ with a [qemu] part, without .toml)
    #[arg(long, value_name = "BOARD")]
    board: String,
    /// Take the programs in this folder instead of compiling them: punnet and punnet-fleet of this machine, and the board's punnet, hello
    /// and blink in a folder named like its Rust target
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Give it so much RAM
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,
    /// Let its clock count instructions, 2 ns each on one processor: what is measured is the same whatever else this machine does
    #[arg(long)]
    counted: bool,
    /// Only compare its start with Debian's, where systemd and podman start the same app: same emulated board, RAM, kernel and image
    #[arg(long, conflicts_with = "interactive")]
    beside_debian: bool,
    /// Only search the least RAM with which it enrols, fetches and runs an app, and print what of that is Punnet's
    #[arg(long, conflicts_with_all = ["interactive", "beside_debian", "memory"])]
    lowest_memory: bool,
    /// Only boot it, with the terminal as its serial console (Ctrl-A X ends)
    #[arg(long)]
    interactive: bool,
}

/// Makes the image and tries everything.
pub fn run_command(options: &Options) -> Result<()> {
    let programs = BoardPrograms::get(&options.board, options.programs.as_deref())?;
    if options.interactive {
        let folder = tempfile::tempdir()?;
        let image = image_options(&options.board, &programs, None);
        return Machine::interactive(&image::make(&image, folder.path())?);
    }
    let variant = Variant {
        memory_mib: options.memory,
        clock: if options.counted {
            Clock::Counted
        } else {
            Clock::Real
        },
        ..Variant::default()
    };
    if options.lowest_memory {
        return lowest::search(&options.board, &programs, variant);
    }
    if options.beside_debian {
        return peer::beside_debian(&options.board, &programs, variant);
    }
    scenario(&options.board, programs, variant)
}

/// Programs for the board and for this machine.
#[derive(Clone)]
pub struct BoardPrograms {
    /// The board's device binary.
    punnet: PathBuf,
    /// The board's example of GPIO.
    blink: PathBuf,
    /// What runs here, and the board's example.
    here: Programs,
}

impl BoardPrograms {
    /// Builds them, or takes them from a folder.
    pub fn get(board: &str, folder: Option<&Path>) -> Result<Self> {
        let arch = crate::cross::board(board)?.board.arch;
        if let Some(folder) = folder {
            let own = folder.join(arch.target());
            let mut here = Programs::in_folder(folder);
            here.hello = own.join("hello");
            return Ok(Self {
                punnet: own.join("punnet"),
                blink: own.join("blink"),
                here,
            });
        }
        let here = |package| build::device_binary(package, &[], build::Strip::Yes);
        // This machine's own kind of board runs what this machine runs, when that is static: nothing is compiled twice.
        let is_own = build::static_target()?.is_static && arch.target().starts_with(std::env::consts::ARCH);
        let compiler = if is_own { None } else { Some(Compiler::find()?) };
        let there = |package| match &compiler {
            Some(compiler) => compiler.build(package, arch, &[]),
            None => here(package),
        };
        Ok(Self {
            punnet: there("punnet")?,
            blink: there("blink")?,
            here: Programs {
                hello: there("hello")?,
                punnet: here("punnet")?,
                fleet: build::fleet_binary()?,
            },
        })
    }
}

fn image_options(board: &str, programs: &BoardPrograms, enroll: Option<PathBuf>) -> image::Options {
    image::Options {
        board: board.into(),
        enroll,
        settings: None,
        firmware: None,
        debian_firmware: false,
        preload: Vec::new(),
        apps: None,
        punnet: Some(programs.punnet.clone()),
        kernel: None,
        name: None,
        no_hotplug: false,
        emulated: true,
    }
}

/// What every CI run has time for: the boards of a turn side by side, as each waits most of its time. The Pi is alone: the network on its emulated USB
/// goes when QEMU gets too little of the processor.
const TURNS_OF_CI: &[&[&str]] = &[&["qemu-x86_64", LEAST], &["raspberry-pi-zero"]];
/// The board that gets no more RAM than the least that all must do with.
const LEAST: &str = "qemu-virt-aarch64";

/// The whole story on the boards that every CI run has time for.
pub fn run_in_ci() -> Result<()> {
    let turn = |boards: &&[&'static str]| -> Result<Vec<_>> {
        let programs = |&board| Ok((board, BoardPrograms::get(board, None)?));
        boards.iter().map(programs).collect()
    };
    // Compiled before anything runs: a compiler beside it would make every board late.
    let turns = TURNS_OF_CI.iter().map(turn).collect::<Result<Vec<_>>>()?;
    let tell = |(board, programs)| {
        let variant = Variant {
            memory_mib: (board == LEAST).then_some(lowest::ENOUGH_MIB),
            ..Variant::default()
        };
        scenario(board, programs, variant).context(board)
    };
    turns
        .into_iter()
        .try_for_each(|turn| side_by_side(turn, tell).map(drop))
}

/// The whole story on every board that QEMU emulates.
pub fn run_on_all() -> Result<()> {
    for found in punnet_boards::load_all(&build::root().join("board-configs"))? {
        let Some(qemu) = &found.qemu else { continue };
        let name = &found.board.name;
        match emulator::program(qemu) {
            Ok(_) => scenario(name, BoardPrograms::get(name, None)?, Variant::default())?,
            Err(error) => println!("SKIPPED: {name}: {error:#}"),
        }
    }
    Ok(())
}
