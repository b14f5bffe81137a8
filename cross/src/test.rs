//! `cargo xtask test`: every check there is, in stages. CI runs exactly this.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::build::{cargo, root, target_dir};
use crate::process::{run, stdout_of};
use crate::vm::Machine;
use crate::{bench, boot, demo, dist, engines, fuzz, packages, powercut, reproducible, size};

/// Options of `test`.
#[derive(clap::Args)]
pub struct Options {
    /// Run only the stages whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Only boot every board that QEMU emulates; CI boots some of them each time
    #[arg(long, conflicts_with = "only")]
    boards: bool,
    /// Only run the runtime's whole suite on crun and runc; CI runs some of it on them each time
    #[arg(long, conflicts_with_all = ["only", "boards"])]
    references: bool,
}

/// How long the runtime's suite may take in the virtual machine: some two minutes are usual, ten for all of it on both references.
const VIRTUAL_MACHINE_TIMEOUT: Duration = Duration::from_secs(20 * 60);

/// What the references are asked in CI. Where they differ says a table of the suite, runtime/tests/it/references.rs.
const TESTS_ON_REFERENCES: &[&str] = &[
    "limits::",
    "process::",
    "operations::",
    "delegation::",
    "terminal::",
];

type Stage = (&'static str, fn() -> Result<()>);

/// In this order: what fails fast comes first.
const STAGES: &[Stage] = &[
    ("programs", packages::ensure_programs),
    ("format", format),
    ("clippy", clippy),
    ("dependencies", dependencies),
    ("tests", tests),
    ("doc-tests", || {
        run(cargo().args([
            "test",
            "--quiet",
            "--workspace",
            "--doc",
            "--all-features",
            "--locked",
        ]))
    }),
    ("documentation", documentation),
    ("fuzz", fuzz::run_each_briefly),
    ("size", || size::run(&size::Options::default())),
    ("packages", dist::check::run_in_ci),
    ("reproducible", reproducible::run_in_ci),
    ("virtual-machine", virtual_machine),
    ("engines", || engines::run_all(&engines::Options::of_ours())),
    ("powercut", powercut::run_few),
    ("boards", boot::run_in_ci),
    ("demo", || demo::run(&demo::Options::default())),
    ("demo-rootless", demo_rootless),
    ("bench", || bench::run_all(&bench::Options::shortest())),
];

/// Runs the stages.
pub fn run_all(options: &Options) -> Result<()> {
    if options.boards {
        return boot::run_on_all();
    }
    if options.references {
        return on_references(&runtime_suite()?, &[]);
    }
    let began = Instant::now();
    let mut done = 0;
    for (name, stage) in STAGES {
        if options
            .only
            .as_ref()
            .is_some_and(|only| !name.contains(only.as_str()))
        {
            continue;
        }
        let stage_began = Instant::now();
        println!("==> {name}");
        if let Err(error) = stage() {
            println!(
                "==> {name} FAILED after {:.0} s",
                stage_began.elapsed().as_secs_f64()
            );
            return Err(error.context(format!("stage {name}")));
        }
        println!(
            "==> {name} passed in {:.0} s",
            stage_began.elapsed().as_secs_f64()
        );
        done += 1;
    }
    if done == 0 {
        bail!(
            "no stage has that in its name; there are: {}",
            STAGES
                .iter()
                .map(|(name, _)| *name)
                .collect::<Vec<_>>()
                .join(", ")
        );
    }
    println!(
        "==> all {done} stages passed in {:.0} s",
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

/// The fuzz targets are a workspace of their own.
fn format() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo().args(["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]))
}

fn clippy() -> Result<()> {
    run(cargo().args([
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]))?;
    // The small builds must stand on their own.
    for features in ["runtime", "images"] {
        run(cargo()
            .args([
                "clippy",
                "--quiet",
                "--package",
                "punnet",
                "--no-default-features",
                "--features",
                features,
                "--locked",
            ])
            .args(["--", "-D", "warnings"]))?;
    }
    Ok(())
}

/// Licences, sources, duplicate and banned crates. The advisory database is not in a package registry: it is asked where it can be reached, by hand.
fn dependencies() -> Result<()> {
    packages::ensure_cargo_tool("cargo-deny", "0.20.2")?;
    // It looks at the crates for every platform; so far only those for this one have been fetched.
    run(cargo().args(["fetch", "--quiet", "--locked"]))?;
    run(cargo().args([
        "deny",
        "--offline",
        "--all-features",
        "--log-level",
        "error",
        "check",
        "bans",
        "licenses",
        "sources",
    ]))
}

/// What builds every test.
const WORKSPACE_TESTS: [&str; 5] = [
    "test",
    "--workspace",
    "--all-features",
    "--all-targets",
    "--locked",
];

fn tests() -> Result<()> {
    run(cargo().args(WORKSPACE_TESTS).arg("--no-fail-fast"))
}

/// The emulator of 64-bit ARM as Debian's qemu-user-static and its systemd or binfmt-support register it, for all; then the tests behind it.
const WITH_EMULATOR: &str = "mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc && \
    cat /usr/lib/binfmt.d/qemu-aarch64.conf > /proc/sys/fs/binfmt_misc/register";

/// The runtime's suite again where limits act and nothing is missing, and a part of it on the references, so that it is right.
fn virtual_machine() -> Result<()> {
    let suite = runtime_suite()?;
    let verbs = test_program(&WORKSPACE_TESTS, "")?;
    let all = format!("{suite} && {WITH_EMULATOR} && {verbs} emulation::an_emulator_that_all_know");
    // What Debian's packages are kept in.
    let folder = format!("CARGO_TARGET_DIR={}", target_dir().display());
    run_inside(
        &Machine::new(&["sh", "-c", &all])?.with_environment(&[folder]),
        "punnet",
    )?;
    on_references(&suite, TESTS_ON_REFERENCES)?;
    // As a Raspberry Pi's firmware boots it: what cannot be limited is refused, and the doctor says why. With the other security module besides.
    let both = format!("{suite} without_a_controller labels:: && {verbs} doctor::");
    let raspberry = Machine::new(&["sh", "-c", &both])?
        .with_kernel_words("cgroup_disable=memory security=selinux selinux=1 enforcing=0");
    run_inside(&raspberry, "punnet, as on a Raspberry Pi")
}

fn runtime_suite() -> Result<String> {
    let words = ["test", "--package", "punnet-runtime", "--test", "it", "--locked"];
    test_program(&words, "runtime")
}

/// These tests, or all when none is named, on crun and then on runc, in one machine.
fn on_references(suite: &str, tests: &[&str]) -> Result<()> {
    let tests = tests.join(" ");
    let both = format!("RUNTIME=crun {suite} {tests} && RUNTIME=runc {suite} {tests}");
    run_inside(&Machine::new(&["sh", "-c", &both])?, "the references")
}

fn run_inside(machine: &Machine, what: &str) -> Result<()> {
    let code = machine.run(VIRTUAL_MACHINE_TIMEOUT)?;
    ensure!(
        code == 0,
        "the tests ended with exit code {code} on {what} in the virtual machine"
    );
    Ok(())
}

/// The file of the integration tests of the package in this folder, built by these words to cargo.
fn test_program(words: &[&str], folder: &str) -> Result<String> {
    run(cargo().args(words).args(["--quiet", "--no-run"]))?;
    let listing = stdout_of(cargo().args(words).args(["--no-run", "--message-format", "json"]))?;
    let manifest = root().join(folder).join("Cargo.toml");
    listing
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "it")
        .filter(|message| {
            message["manifest_path"]
                .as_str()
                .is_some_and(|path| Path::new(path) == manifest)
        })
        .find_map(|message| message["executable"].as_str().map(str::to_owned))
        .with_context(|| format!("cargo names no test program of {}", manifest.display()))
}

fn documentation() -> Result<()> {
    run(cargo()
        .args([
            "doc",
            "--quiet",
            "--workspace",
            "--no-deps",
            "--all-features",
            "--locked",
        ])
        .env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links"))
}

/// The demo again as an ordinary user, when root runs the tests; otherwise the demo before was that.
fn demo_rootless() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        println!("    (not root: the demo has been run rootless already)");
        return Ok(());
    }
    demo::run_as_ordinary_user()
}
