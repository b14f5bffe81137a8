//! What the tests need from outside, and how it gets here.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use crate::build::cargo;
use crate::process::{is_installed, run, stdout_of};

/// A program the tests use and the Debian package that has it.
const PROGRAMS: &[(&str, &str)] = &[
    ("mosquitto", "mosquitto"),
    ("mosquitto_pub", "mosquitto-clients"),
    ("openssl", "openssl"),
    ("skopeo", "skopeo"),
    ("umoci", "umoci"),
    ("docker-registry", "docker-registry"),
    ("podman", "podman"),
    ("buildah", "buildah"),
    ("debootstrap", "debootstrap"),
    ("runc", "runc"),
    ("crun", "crun"),
    ("busybox", "busybox-static"),
    ("newuidmap", "uidmap"),
    ("setpriv", "util-linux"),
    ("ip", "iproute2"),
    ("apparmor_parser", "apparmor"),
    ("secilc", "secilc"),
    ("mkfs.ext4", "e2fsprogs"),
    ("fincore", "util-linux-extra"),
    ("mformat", "mtools"),
    ("systemd-analyze", "systemd"),
    ("findmnt", "util-linux"),
    ("strace", "strace"),
    ("qemu-aarch64-static", "qemu-user-static"),
    ("zstd", "zstd"),
    ("shellcheck", "shellcheck"),
    ("cc", "gcc"),
    ("c++", "g++"),
];

/// What the tests need.
pub fn ensure_programs() -> Result<()> {
    ensure(PROGRAMS)
}

/// Installs what is missing of these (program, Debian package) when root; says what to install otherwise.
pub fn ensure(programs: &[(&str, &str)]) -> Result<()> {
    // apt does one thing at a time; boards are made ready side by side.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let missing: Vec<_> = programs
        .iter()
        .filter(|(program, _)| !is_installed(program))
        .map(|&(_, package)| package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing)
}

/// Installs Debian packages when root; says so otherwise.
pub fn install(packages: &[&str]) -> Result<()> {
    if !nix::unistd::geteuid().is_root() || !is_installed("apt-get") {
        bail!("please install first: apt-get install {}", packages.join(" "));
    }
    eprintln!("    installing {}", packages.join(" "));
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .args(["-qq", "-o=Dpkg::Use-Pty=0"])
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive");
        run(command.stdin(Stdio::null()).stdout(Stdio::null()))
    };
    apt(&["update"])?;
    apt(&[&["install", "--yes", "--no-install-recommends"], packages].concat())?;
    stop_services_we_did_not_ask_for();
    Ok(())
}

/// Debian starts a broker and a registry with their packages; the tests start their own.
fn stop_services_we_did_not_ask_for() {
    if is_installed("systemctl")
        && !Command::new("systemctl")
            .args(["stop", "mosquitto", "docker-registry"])
            .output()
            .is_ok_and(|o| o.status.success())
    {
        eprintln!(
            "    (no service manager stopped the packaged broker and registry; the tests use ports of their own)"
        );
    }
}

/// busybox, which programs without any library are made of.
pub fn busybox() -> Result<PathBuf> {
    let found = ["/bin/busybox", "/usr/bin/busybox"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.is_file());
    found.context("busybox is not installed (Debian: busybox-static)")
}

/// Installs a cargo subcommand when it is missing. Which version is known to work is said, so that a fresh machine is like this one.
pub fn ensure_cargo_tool(tool: &str, version: &str) -> Result<()> {
    if stdout_of(Command::new(tool).arg("--version")).is_ok() {
        return Ok(());
    }
    eprintln!("    installing {tool} {version} (some minutes)");
    run(cargo().args(["install", "--quiet", "--locked", "--version", version, tool]))
}
