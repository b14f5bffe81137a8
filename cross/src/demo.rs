//! `cargo xtask demo`: the main job, for a newcomer, from nothing.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::build::static_target;
use crate::process::{self, interrupted, shown};
use crate::stand::{Broker, Programs, Stand, elapsed_ms};

/// Lines of the container's output that are shown.
const LINES_SHOWN: usize = 3;

/// Whom the rootless demo runs as when root starts it: an id that no account, file or subordinate range of a fresh machine has.
const ORDINARY_USER: &str = "20001";

/// Options of `demo`.
#[derive(clap::Args, Default)]
pub struct Options {
    /// Leave everything running and print how to look around
    #[arg(long)]
    keep: bool,
    /// Use the programs in this folder instead of building them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// Runs the demo.
pub fn run(options: &Options) -> Result<()> {
    let programs = match &options.programs {
        Some(folder) => Programs::in_folder(folder),
        None => build()?,
    };
    let mut stand = Stand::new(programs)?;
    let outcome = show(&mut stand);
    if options.keep && outcome.is_ok() {
        let (fleet, punnet) = (shown(&stand.fleet(&[])), shown(&stand.punnet(&[])));
        let (folder, servers) = stand.keep();
        let servers = servers.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        println!("\nStill running. Look around:");
        println!(
            "  {fleet} status\n  {fleet} logs --follow demo hello\n  {punnet} ps\n  {punnet} exec hello /hello --once"
        );
        println!(
            "End it:\n  kill -KILL {servers}; {punnet} rm --force hello; rm -rf {}",
            folder.display()
        );
        return Ok(());
    }
    eprintln!("==> cleaning up");
    stand.remove()?;
    outcome
}

/// The demo as a user without any privilege, started by root.
pub fn run_as_ordinary_user() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    build()?.copy_to(path)?;
    // By this name it is found even when it was built anew meanwhile.
    std::fs::copy("/proc/self/exe", path.join("xtask")).context("cannot copy this program")?;
    let identity = [
        format!("--reuid={ORDINARY_USER}"),
        format!("--regid={ORDINARY_USER}"),
        "--clear-groups".into(),
    ];
    let mut command = Command::new("setpriv");
    command
        .args(identity)
        .arg(path.join("xtask"))
        .args(["demo", "--programs"])
        .arg(path);
    process::run(
        command
            .current_dir("/")
            .env("HOME", "/nonexistent")
            .env_remove("XDG_RUNTIME_DIR"),
    )
}

fn build() -> Result<Programs> {
    eprintln!("==> building punnet and punnet-fleet (some minutes the first time)");
    if !static_target()?.is_static {
        eprintln!(
            "    this machine's C library has no static half (libc.a): the binary will be dynamic here"
        );
    }
    Programs::build()
}

fn stage<T>(what: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
    if interrupted() {
        bail!("interrupted");
    }
    eprintln!("==> {what}");
    act()
}

fn show(stand: &mut Stand) -> Result<()> {
    let archive = stage("building the example image FROM scratch", || stand.build_hello())?;
    stage("starting the controller with its embedded broker", || {
        stand.start_controller(Broker::Embedded)
    })?;
    stage("enrolling and starting one device", || {
        stand.enrol("demo")?;
        stand.start_agent()?;
        stand.wait_online("demo")
    })?;
    stage("adding the image to the fleet", || stand.add_image(&archive))?;
    let began = Instant::now();
    stage("deploying it over MQTT", || stand.deploy("hello", "demo"))?;
    let lines = stand.first_lines("hello", "demo", 1)?;
    let deploy_ms = elapsed_ms(began);
    let lines = if LINES_SHOWN > 1 {
        stand.first_lines("hello", "demo", LINES_SHOWN)?
    } else {
        lines
    };

    println!("\nThe container's own output, back over MQTT:");
    lines.iter().for_each(|line| println!("  | {line}"));
    println!("\nThe fleet:");
    process::run(&mut stand.fleet(&["devices"]))?;
    println!();
    process::run(&mut stand.fleet(&["status"]))?;
    println!("\nOn the device:");
    process::run(&mut stand.punnet(&["ps"]))?;
    println!("\nMeasured:");
    println!("  deploy command to first output   {deploy_ms:.0} ms");
    println!(
        "  agent memory (PSS)               {} KiB",
        stand.agent_pss_kib()?
    );
    println!(
        "  image as transferred             {} KiB",
        std::fs::metadata(&archive)?.len().div_ceil(1024)
    );
    Ok(())
}
