//! `cargo xtask build`: static binaries for boards, cross-compiled on this machine.
//!
//! The C library and the linker are zig's, through cargo-zigbuild; one package brings them for every target. Rust's standard library is
//! compiled with the binary, for size (see RUSTFLAGS below), which needs its source: of the toolchain that runs us, when rustup has
//! brought it (`rustup component add rust-src`), else of Debian's.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use punnet_boards::{Arch, Description};

use crate::build::{Strip, cargo, features_name, keep, root, target_dir};
use crate::order;
use crate::packages;
use crate::process::{is_installed, run, stdout_of};

/// Options of `build`.
#[derive(clap::Args)]
pub struct Options {
    /// Build for this board (a file in board-configs/, without .toml)
    #[arg(long, value_name = "BOARD")]
    board: Option<String>,
    /// Build for every architecture there is
    #[arg(long, conflicts_with = "board")]
    all: bool,
    /// Only these features: runtime; images (with runtime); agent (all, the default)
    #[arg(long, value_delimiter = ',')]
    features: Vec<String>,
}

/// Builds and prints what came of it.
pub fn run_command(options: &Options) -> Result<()> {
    let archs: Vec<_> = match &options.board {
        Some(name) => vec![board(name)?.board.arch],
        None if options.all => Arch::ALL.into(),
        None => bail!("which board? --board {}, or --all", board_names()?.join("|")),
    };
    let compiler = Compiler::find()?;
    let features: Vec<_> = options.features.iter().map(String::as_str).collect();
    for arch in archs {
        let binary = compiler.build("punnet", arch, &features)?;
        let kib = std::fs::metadata(&binary)?.len().div_ceil(1024);
        println!("{:<32} {kib:>6} KiB  {}", arch.target(), binary.display());
    }
    Ok(())
}

/// A board's description.
///
/// `rpi-` is short for `raspberry-pi-`.
pub fn board(name: &str) -> Result<Description> {
    let long = name
        .strip_prefix("rpi-")
        .map(|model| format!("raspberry-pi-{model}"));
    let name = long.as_deref().unwrap_or(name);
    punnet_boards::describe(&root().join("board-configs"), name)
        .with_context(|| format!("there are: {}", board_names().unwrap_or_default().join(", ")))
}

fn board_names() -> Result<Vec<String>> {
    let boards = punnet_boards::load_all(&root().join("board-configs"))?;
    Ok(boards.into_iter().map(|found| found.board.name).collect())
}

/// A compiler with the source of its standard library.
pub struct Compiler {
    cargo: PathBuf,
    rustc: PathBuf,
    /// The source of the standard library.
    library: PathBuf,
}

impl Compiler {
    /// The toolchain that runs us if it has the source, else Debian's, which is installed when root asks; with zig.
    pub fn find() -> Result<Self> {
        let found = Self::with_source()?;
        Self::ensure_zig()?;
        Ok(found)
    }

    fn with_source() -> Result<Self> {
        let ours = Self::at(PathBuf::from(cargo().get_program()), "rustc".into())?;
        if let Some(found) = ours {
            return Ok(found);
        }
        let debian = || Self::at("/usr/bin/cargo".into(), "/usr/bin/rustc".into());
        if let Some(found) = debian()? {
            return Ok(found);
        }
        packages::install(&["rustc-web", "cargo-web", "rust-web-src"])
            .context("no compiler here has the source of its standard library: `rustup component add rust-src` brings it")?;
        debian()?.context("Debian's rust-web-src has no library source where it should be")
    }

    fn at(cargo: PathBuf, rustc: PathBuf) -> Result<Option<Self>> {
        if ![&cargo, &rustc]
            .iter()
            .all(|program| is_installed(&program.to_string_lossy()))
        {
            return Ok(None);
        }
        let sysroot = stdout_of(Command::new(&rustc).args(["--print", "sysroot"]))?;
        let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library");
        Ok(library.join("Cargo.lock").exists().then_some(Self {
            cargo,
            rustc,
            library,
        }))
    }

    fn ensure_zig() -> Result<()> {
        if stdout_of(Command::new("python3").args(["-m", "ziglang", "version"])).is_err()
            && !is_installed("zig")
        {
            eprintln!("    installing zig, for its C libraries and its linker");
            run(Command::new("python3").args(["-m", "pip", "install", "--quiet", ZIG]))
                .context("zig is not here and pip cannot install it: see ziglang.org")?;
        }
        packages::ensure_cargo_tool("cargo-zigbuild", "0.24.1")
    }

    /// Builds a package's binary as small as we ship it.
    pub fn build(&self, package: &str, arch: Arch, features: &[&str]) -> Result<PathBuf> {
        self.build_with(package, arch, features, Strip::Yes)
    }

    /// The same, with its symbols when one wants to look into it.
    pub fn build_with(&self, package: &str, arch: Arch, features: &[&str], strip: Strip) -> Result<PathBuf> {
        self.build_at(&Place::usual()?, package, arch, features, strip)
    }

    /// The same at any place.
    pub fn build_at(
        &self,
        place: &Place,
        package: &str,
        arch: Arch,
        features: &[&str],
        strip: Strip,
    ) -> Result<PathBuf> {
        let target = arch.target();
        let mut flags = self.flags(place, arch);
        let kind = if strip == Strip::NoAndLines {
            flags += " -Cdebuginfo=line-tables-only";
            "lines"
        } else {
            "all"
        };
        // One for each architecture, so that several are built at a time: cargo locks it.
        let folder = place.output.join("boards").join(kind).join(target);
        let mut command = Command::new("cargo-zigbuild");
        command
            .current_dir(&place.source)
            .args([
                "rustc",
                "--release",
                "--locked",
                "--package",
                package,
                "--bin",
                package,
            ])
            .args(["--target", target])
            .args([
                "-Zbuild-std=std,panic_abort",
                "-Zbuild-std-features=optimize_for_size",
                "--target-dir",
            ])
            .arg(&folder)
            // A released compiler that takes -Z, as the library's source is of the same release.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTC", &self.rustc)
            .env("CARGO", &self.cargo)
            .env("CARGO_HOME", &place.cargo_home)
            .env("RUSTFLAGS", flags);
        if !features.is_empty() {
            command.args(["--no-default-features", "--features", &features.join(",")]);
        }
        if arch == Arch::ArmV7 {
            let zig = zig_for_thumb(place)?;
            let target = target.replace('-', "_");
            command
                .env(format!("CC_{target}"), &zig)
                .env(format!("CARGO_TARGET_{}_LINKER", target.to_uppercase()), &zig);
        }
        // For the last link alone: the dependencies need not be compiled anew when it changes. No -Os among it: zig's C library would be 7 KiB smaller, with
        // a memcpy(3) that goes byte by byte.
        command.arg("--").arg(format!(
            "-Clink-arg=-Wl,-T,{}",
            order::script_for_linker(place)?.display()
        ));
        command.args(last_flags(arch));
        if strip != Strip::Yes {
            command.arg("-Cstrip=none");
        }
        run(&mut command)?;
        // What all features share is compiled once, in one folder, where the next features' program takes the place of this one.
        let built = folder.join(target).join("release").join(package);
        let own = folder.join(features_name(features));
        let (new, kept) = (own.join("new"), own.join(package));
        std::fs::create_dir_all(own)?;
        std::fs::copy(&built, &new).with_context(|| built.display().to_string())?;
        std::fs::rename(new, &kept)?;
        Ok(kept)
    }

    /// For each crate, the standard library's too. Paths of this machine do not reach the binary: the same source gives the same bytes anywhere.
    fn flags(&self, place: &Place, arch: Arch) -> String {
        format!(
            "{} {} --remap-path-prefix={}=punnet --remap-path-prefix={}=cargo --remap-path-prefix={}=std",
            FLAGS.join(" "),
            flags_of(arch).join(" "),
            place.source.display(),
            place.cargo_home.display(),
            self.library.display()
        )
    }
}

/// Its C library and its linker are part of what we ship, whose size has a budget: another version is taken on purpose.
const ZIG: &str = "ziglang==0.17.1";

/// For every architecture.
const FLAGS: [&str; 6] = [
    "-Clink-self-contained=no",
    "-Cforce-unwind-tables=no",
    // A panic is a trap instruction and no message: formatting messages is some 6 % of the program. What stands for them is `punnet_sys::report_traps`,
    // and `cargo xtask where` afterwards.
    "-Zunstable-options",
    "-Cpanic=immediate-abort",
    // The compiler warns of unstable flags for each crate; clippy has shown all other warnings.
    "-Awarnings",
    // zig links to a fixed address whatever the code was compiled for: code for any address is only larger.
    "-Crelocation-model=static",
];

/// For one architecture. Every ARMv7 processor has Thumb-2, whose code is two thirds of the size. ARMv6 has only Thumb-1, which cannot do all.
const fn flags_of(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::Amd64 | Arch::Arm64 | Arch::ArmV6 => &[],
        Arch::ArmV7 => &["-Ctarget-feature=+thumb-mode"],
    }
}

/// For the last link alone, which compiles all as one: sequences of instructions that recur become functions. LLVM does it for 64-bit ARM when size
/// counts, for 32-bit ARM when told to; on x86-64 the pages that a command touches count for more. Once only: `-machine-outliner-reruns` gave wrong code for
/// ARMv7 (Rust 1.96), and 0.2 % there.
const fn last_flags(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::Amd64 | Arch::Arm64 => &[],
        Arch::ArmV7 | Arch::ArmV6 => &["-Cllvm-args=-enable-machine-outliner=always"],
    }
}

/// C for ARMv7 in Thumb-2 too, ring's and the C library's (not assembly, part of which is for the other mode alone): an architecture of its own to zig,
/// and none to cargo-zigbuild. The rest is what cargo-zigbuild says for the target: not every ARMv7 has NEON and registers above d15.
const ZIG_FOR_THUMB: &str = r#"#!/bin/sh
case "$*" in *.S) arch=arm ;; *) arch=thumb ;; esac
exec cargo-zigbuild zig cc -- -g -fno-sanitize=all -mcpu=generic+v7a+vfp3-d32+thumb2-neon -target $arch-linux-musleabihf "$@"
"#;

fn zig_for_thumb(place: &Place) -> Result<PathBuf> {
    let path = place.output.join("zig-for-thumb");
    keep(&path, ZIG_FOR_THUMB, 0o755)?;
    Ok(path)
}

/// Where a build's files are. Nothing of it reaches the binary (`reproducible.rs`).
pub struct Place {
    /// The repository.
    pub source: PathBuf,
    /// Where cargo writes.
    pub output: PathBuf,
    /// Where cargo keeps the source of dependencies.
    pub cargo_home: PathBuf,
}

impl Place {
    /// Where we are.
    pub fn usual() -> Result<Self> {
        let named = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let cargo_home = named.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cargo")));
        Ok(Self {
            source: root().into(),
            output: target_dir(),
            cargo_home: cargo_home.context("neither CARGO_HOME nor HOME is set")?,
        })
    }
}
