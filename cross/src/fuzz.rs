//! `cargo xtask fuzz`: the fuzz targets of `fuzz/`, with libFuzzer built from its crate: no nightly compiler, no further tool.
//!
//! The tests run every target's corpus and then new inputs: for a minute where images and registries are read, for seconds elsewhere. A campaign is the same with
//! `--seconds`.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, ensure};

use crate::build::{cargo, root, static_target, target_dir};
use crate::process::{self, output_of};

/// Targets that get a minute in the tests: what reads images and answers of registries, which anybody may send.
const LONG: &[&str] = &["containerfile", "image_documents", "registry", "unpack", "zstd"];

/// Seconds each of them gets in the tests.
const SECONDS_LONG: u32 = 60;

/// Seconds each other target gets in the tests: its corpus, and enough to find the shallow.
const SECONDS_SHORT: u32 = 6;

/// Targets at a time. Two processors are the least that CI has.
const AT_A_TIME: usize = 2;

/// Longest input, bytes: several times the largest structure a parser looks for.
const INPUT_BYTES_MAX: u32 = 16 * 1024;

/// Most memory a target may take, MiB: beyond it an input has found something unbounded.
const MEMORY_MIB_MAX: u32 = 512;

/// What `cargo fuzz` gives the compiler, less the sanitizer: our crates forbid unsafe code.
const INSTRUMENTATION: &str = "--cfg=fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

/// Options of `fuzz`.
#[derive(clap::Args)]
pub struct Options {
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Only this target
    #[arg(long)]
    target: Option<String>,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<()> {
    let mut all = targets()?;
    if let Some(only) = &options.target {
        all.retain(|name| name == only);
        ensure!(!all.is_empty(), "there is no fuzz target {only}");
    }
    run_targets(all.into_iter().map(|name| (name, options.seconds)).collect())
}

/// A minute for some, a few seconds for the others.
pub fn run_each_briefly() -> Result<()> {
    let all = targets()?;
    for name in LONG {
        ensure!(
            all.iter().any(|target| target == name),
            "there is no fuzz target {name}"
        );
    }
    let (long, short): (Vec<_>, Vec<_>) = all.into_iter().partition(|name| LONG.contains(&name.as_str()));
    let seconds = |names: Vec<String>, seconds| names.into_iter().map(move |name| (name, seconds));
    run_targets(
        seconds(long, SECONDS_LONG)
            .chain(seconds(short, SECONDS_SHORT))
            .collect(),
    )
}

/// Builds all, and runs these for so many seconds each.
fn run_targets(left: VecDeque<(String, u32)>) -> Result<()> {
    let folder = target_dir().join("fuzz");
    let host = static_target()?.triple.replace("-musl", "-gnu");
    let mut build = cargo();
    // An explicit target, so that build scripts and macros are left without instrumentation.
    build
        .args([
            "build",
            "--release",
            "--locked",
            "--quiet",
            "--target",
            &host,
            "--manifest-path",
        ])
        .arg(root().join("fuzz/Cargo.toml"));
    process::run(
        build
            .arg("--target-dir")
            .arg(&folder)
            .env("RUSTFLAGS", INSTRUMENTATION),
    )?;
    let programs = folder.join(&host).join("release");
    let left = Mutex::new(left);
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let work = |_| {
        while let Some((name, seconds)) = next() {
            println!("    {name}: {seconds} s");
            run_target(&programs, &folder, &name, seconds)?;
        }
        Ok(())
    };
    process::side_by_side(0..AT_A_TIME, work).map(drop)
}

fn run_target(programs: &Path, folder: &Path, name: &str, seconds: u32) -> Result<()> {
    // New inputs go to the target folder; the corpus in the repository is only read.
    let found = folder.join("found").join(name);
    std::fs::create_dir_all(&found)?;
    let mut fuzzer = Command::new(programs.join(name));
    fuzzer.arg(&found).arg(root().join("fuzz/corpus").join(name));
    fuzzer.args([
        "-print_final_stats=0",
        "-verbosity=0",
        &format!("-max_total_time={seconds}"),
        &format!("-max_len={INPUT_BYTES_MAX}"),
    ]);
    fuzzer
        .arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"))
        .arg(format!("-artifact_prefix={}/crash-{name}-", folder.display()));
    let output = output_of(&mut fuzzer)?;
    ensure!(
        output.status.success(),
        "fuzz target {name} found something; the input is kept as {}/crash-{name}-*\n{}",
        folder.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// One file, one target.
fn targets() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root().join("fuzz/targets"))? {
        let path: PathBuf = entry?.path();
        names.extend(
            path.file_stem()
                .and_then(|stem| stem.to_str())
                .map(str::to_string),
        );
    }
    names.sort();
    Ok(names)
}
