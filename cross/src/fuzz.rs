//! `cargo xtask fuzz`: the fuzz targets of `fuzz/`, with libFuzzer built from its crate: no nightly compiler, no further tool.
//!
//! The tests run every target's corpus and then new inputs for a few seconds; a campaign is the same with `--seconds`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::build::{cargo, root, static_target, target_dir};
use crate::process::{self, output_of};

/// Seconds each target gets in the tests: its corpus, and enough to find the shallow.
const SECONDS_EACH: u32 = 6;

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
    run_targets(options.seconds, options.target.as_deref())
}

/// A few seconds for each target.
pub fn run_each_briefly() -> Result<()> {
    run_targets(SECONDS_EACH, None)
}

fn run_targets(seconds: u32, only: Option<&str>) -> Result<()> {
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
    for name in targets()?
        .iter()
        .filter(|name| only.is_none_or(|only| only == **name))
    {
        println!("    {name}: {seconds} s");
        // New inputs go to the target folder; the corpus in the repository is only read.
        let found = folder.join("found").join(name);
        std::fs::create_dir_all(&found)?;
        let mut fuzzer = Command::new(folder.join(&host).join("release").join(name));
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
    }
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
