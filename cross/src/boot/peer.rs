//! `cargo xtask boot --beside-debian`: the start of one app on one emulated board, under Punnet and under Debian's systemd and podman: the same machine,
//! RAM and kernel, the same image, no network.
//!
//! Debian's root is debootstrap(8)'s, on a disk of its own; the second stage runs on the emulated board itself, once, and is kept below the target
//! directory. An initramfs of busybox and the modules that the disk takes is all that comes before systemd: less than Debian's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use punnet_boards::{Arch, Drive};

use super::measure::Start;
use super::story::seconds_before;
use super::{BoardPrograms, Variant, image_options};
use crate::build::target_dir;
use crate::debian;
use crate::emulator::{Conditions, Machine};
use crate::image::{self, Artefacts};
use crate::initramfs::Initramfs;
use crate::kernel::{Kernel, debian_package};
use crate::process::{run, stdout_of};
use crate::stand::Stand;

/// The image's name on both.
const IMAGE: &str = "hello:1";
/// docs/apps.md
const APP: &str = "image: hello:1\nenv: [GREETING=beside]\nargs: [--uptime]\n";
/// What makes a Debian that starts an app by podman.
const PACKAGES: &str = "systemd-sysv,dbus,udev,kmod,podman,crun,netavark";
/// The disk with Debian's root; the file has holes.
const DISK_BYTES: &str = "4G";
/// Unpacking and configuring two hundred packages takes a board its time and more RAM than running them.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(3600);
const PREPARE_RAM: [&str; 2] = ["-m", "1024"];
/// For a start, by instructions on a loaded machine.
const START_TIMEOUT: Duration = Duration::from_secs(1200);
/// What has to be there before Debian's root is; the rest is loaded by udev, as on any Debian.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "crc32c_generic",
    "ext4",
];

/// Prints both starts and their ratio.
pub fn beside_debian(board: &str, programs: &BoardPrograms, variant: Variant) -> Result<()> {
    let found = crate::cross::board(board)?;
    let drive = found.qemu.as_ref().map(|qemu| qemu.drive);
    ensure!(
        matches!(drive, Some(Drive::Virtio)),
        "{board} is not emulated with room for a second disk: take one of QEMU's own machines"
    );
    let folder = tempfile::Builder::new().prefix("punnet-beside-").tempdir()?;
    let archive = folder.path().join("hello.oci.tar");
    let stand = Stand::new(programs.here.clone())?;
    stand.save_hello_for(found.board.arch.platform(), IMAGE, &archive)?;
    eprintln!("==> {board}: Punnet");
    let ours = start_of_ours(board, programs, variant, &archive, folder.path())?;
    println!("    | punnet: {ours}");
    eprintln!("==> {board}: Debian");
    let disk = folder.path().join("debian.img");
    let base = debian_disk(board, programs, found.board.arch)?;
    run(Command::new("cp").arg("--sparse=always").arg(base).arg(&disk))?;
    let debian = Debian::new(board, programs, &folder.path().join("debian"), disk)?;
    let theirs = debian.start(variant, &archive)?;
    println!("    | debian: {theirs}");
    println!(
        "    | PID 1 to first output: punnet {:.2} s, systemd and podman {:.2} s, ratio {:.1}; with the initramfs before systemd {:.2} s, ratio {:.1}",
        ours.after_pid_1_s(),
        theirs.output_s - theirs.systemd_s,
        (theirs.output_s - theirs.systemd_s) / ours.after_pid_1_s(),
        theirs.output_s - theirs.first_process_s,
        (theirs.output_s - theirs.first_process_s) / ours.after_pid_1_s(),
    );
    Ok(())
}

/// The second start of a card that was made with the app on it.
fn start_of_ours(
    board: &str,
    programs: &BoardPrograms,
    variant: Variant,
    archive: &Path,
    folder: &Path,
) -> Result<Start> {
    let apps = folder.join("apps");
    fs::create_dir_all(&apps)?;
    fs::write(apps.join("hello.yaml"), APP)?;
    let mut options = image_options(board, programs, None);
    (options.preload, options.apps) = (vec![archive.into()], Some(apps));
    let artefacts = image::make(&options, &folder.join("punnet"))?;
    let mut machine = switch_on(&artefacts, variant, &["punnet.console"], &[])?;
    machine.wait_for("the console", START_TIMEOUT, |output| {
        Ok(output.contains("punnet> ").then_some(()))
    })?;
    machine.ask_until("logs hello", START_TIMEOUT, |answer| answer.contains("beside: "))?;
    machine.type_line("poweroff")?;
    machine.wait_ended(START_TIMEOUT)?;
    let began = Instant::now();
    let mut machine = switch_on(&artefacts, variant, &["punnet.console"], &[])?;
    let start = Start::of(&mut machine, began, "beside: ")?;
    machine.cut_power()?;
    Ok(start)
}

/// Without network.
fn switch_on(artefacts: &Artefacts, variant: Variant, words: &[&str], arguments: &[&str]) -> Result<Machine> {
    let own = variant.arguments();
    let arguments: Vec<_> = arguments
        .iter()
        .copied()
        .chain(own.iter().map(String::as_str))
        .chain(["-netdev", "user,id=alone,restrict=on"])
        .collect();
    let conditions = Conditions {
        arguments: &arguments,
        network: Some("alone"),
        ..Conditions::default()
    };
    Machine::start(artefacts, &[words, variant.words()].concat(), &conditions)
}

/// A board that finds Debian on its second disk.
struct Debian {
    artefacts: Artefacts,
    disk: PathBuf,
}

/// Where the time went, seconds after the kernel's start but for the first.
struct StartOfDebian {
    firmware_s: f64,
    first_process_s: f64,
    systemd_s: f64,
    unit_s: f64,
    container_s: f64,
    output_s: f64,
}

impl std::fmt::Display for StartOfDebian {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "start: emulator {:.2} s, kernel {:.2} s, initramfs {:.2} s, systemd to the unit {:.2} s, podman to the container's process {:.2} s, from there to its first output {:.2} s",
            self.firmware_s,
            self.first_process_s,
            self.systemd_s - self.first_process_s,
            self.unit_s - self.systemd_s,
            self.container_s - self.unit_s,
            self.output_s - self.container_s
        )
    }
}

impl Debian {
    /// The board's kernel, started as for Punnet, with another initramfs.
    fn new(board: &str, programs: &BoardPrograms, folder: &Path, disk: PathBuf) -> Result<Self> {
        let artefacts = image::make(&image_options(board, programs, None), folder)?;
        let kernel = kernel_of(&artefacts)?;
        let arch = artefacts.description.board.arch;
        let mut made = Initramfs::default();
        let busybox = debian_package("busybox-static", arch)?.join("bin/busybox");
        made.add_file("bin/busybox", &busybox)?;
        made.add("init", include_bytes!("peer/init.sh"));
        made.add_device("dev/console", 5, 1);
        let mut order = String::new();
        let wanted: Vec<_> = MODULES.iter().map(|name| (*name).to_owned()).collect();
        for module in kernel.list()?.choose(&wanted, &[])? {
            made.add_file(&format!("modules/{}", module.name), &module.file)?;
            order += &format!("{}\n", module.name);
        }
        made.add("modules/order", order.as_bytes());
        let put = |name: &str, content: &[u8]| -> Result<()> {
            let file = folder.join("changed");
            fs::write(&file, content)?;
            image::put_on_card(&artefacts.card, &file, name)
        };
        put("a/initramfs", &image::gzip(&made.finish())?)?;
        // Debian does not take the watchdog over.
        let config = image::read_on_card(&artefacts.card, "config.txt")?.context("a card has one")?;
        let config = String::from_utf8(config)?.replace("kernel_watchdog_timeout=60", "");
        put("config.txt", config.as_bytes())?;
        Ok(Self { artefacts, disk })
    }

    fn switch_on(&self, variant: Variant, words: &[&str], arguments: &[&str]) -> Result<Machine> {
        let drive = format!("file={},format=raw,if=virtio,cache=unsafe", self.disk.display());
        let arguments = [&["-drive", &drive], arguments].concat();
        switch_on(&self.artefacts, variant, words, &arguments)
    }

    /// The first start takes the image up; what is measured is the second.
    fn start(&self, variant: Variant, archive: &Path) -> Result<StartOfDebian> {
        let script = self.disk.with_extension("debugfs");
        fs::write(&script, format!("write {} /hello.oci.tar\n", archive.display()))?;
        stdout_of(
            Command::new("debugfs")
                .args(["-w", "-f"])
                .arg(&script)
                .arg(&self.disk),
        )?;
        self.switch_on(Variant::default(), &[], &PREPARE_RAM)?
            .wait_ended(PREPARE_TIMEOUT)?;
        let began = Instant::now();
        let mut machine = self.switch_on(variant, &[], &[])?;
        let first_process_s = machine.wait_for("the first process", START_TIMEOUT, |output| {
            Ok(seconds_before(output, " s after the kernel"))
        })?;
        let firmware_s = began.elapsed().as_secs_f64() - first_process_s;
        let start = machine.wait_for("the app under Debian", START_TIMEOUT, |output| Ok(parsed(output)))?;
        machine.cut_power()?;
        Ok(StartOfDebian { firmware_s, ..start })
    }
}

/// What the serial line says of a start, once it says all.
fn parsed(output: &str) -> Option<StartOfDebian> {
    let number = |before: &str, after: &str| {
        let (_, rest) = output.split_once(before)?;
        rest.split_once(after)?.0.trim().parse::<f64>().ok()
    };
    Some(StartOfDebian {
        firmware_s: 0.0,
        first_process_s: number("first process, ", " s after")?,
        systemd_s: number("UserspaceTimestampMonotonic=", "\n")? / 1e6,
        unit_s: number("InactiveExitTimestampMonotonic=", "\n")? / 1e6,
        container_s: super::measure::started_at_s(output)?,
        output_s: number("beside: ", " s after the kernel")?,
    })
}

fn kernel_of(artefacts: &Artefacts) -> Result<Kernel> {
    let package = artefacts.description.image.as_ref();
    let package = package.and_then(|image| image.kernel_package.as_deref());
    Kernel::get(
        package.context("QEMU's own machines have Debian's kernel")?,
        artefacts.description.board.arch,
    )
}

/// A disk with Debian's root, made once.
fn debian_disk(board: &str, programs: &BoardPrograms, arch: Arch) -> Result<PathBuf> {
    let kept = target_dir()
        .join("debian")
        .join(format!("podman-{}.img", arch.target()));
    if kept.is_file() {
        return Ok(kept);
    }
    eprintln!("    (making Debian's root on the emulated board, once: half an hour on a busy machine)");
    fs::create_dir_all(target_dir().join("debian"))?;
    // Whole or not there.
    let folder = tempfile::tempdir_in(target_dir())?;
    let root = folder.path().join("root");
    debian::first_stage(arch, PACKAGES, &root)?;
    let units = root.join("etc/systemd/system");
    let wants = units.join("multi-user.target.wants");
    fs::create_dir_all(&wants)?;
    for (name, unit) in [
        ("hello.service", include_str!("peer/hello.service")),
        ("first.service", include_str!("peer/first.service")),
    ] {
        fs::write(units.join(name), unit)?;
        std::os::unix::fs::symlink(Path::new("..").join(name), wants.join(name))?;
    }
    let disk = folder.path().join("disk");
    let board = Debian::new(board, programs, &folder.path().join("board"), disk.clone())?;
    let kernel = kernel_of(&board.artefacts)?;
    let version = kernel.modules.file_name().context("a version has a name")?;
    fs::create_dir_all(root.join("usr/lib/modules"))?;
    run(Command::new("cp")
        .arg("-r")
        .arg(&kernel.modules)
        .arg(root.join("usr/lib/modules").join(version)))?;
    run(Command::new("mkfs.ext4")
        .args(["-q", "-F", "-L", "debian", "-d"])
        .arg(&root)
        .arg(&disk)
        .arg(DISK_BYTES)
        .stderr(Stdio::null()))?;
    let mut machine = board.switch_on(Variant::default(), &["debian.prepare"], &PREPARE_RAM)?;
    machine.wait_for("Debian to be prepared", PREPARE_TIMEOUT, |output| {
        Ok(output.contains("Debian is prepared").then_some(()))
    })?;
    machine.cut_power()?;
    fs::rename(&disk, &kept)?;
    Ok(kept)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "this is a test")]

    #[test]
    fn a_start_is_read_off_the_serial_line_once_all_of_it_is_there() {
        let said = "first process, 1.77 s after the kernel\n\
            [    9.100000] hello[210]: beside: 9.01 s after the kernel\n\
            hello[230]: UserspaceTimestampMonotonic=2500000\n\
            hello[231]: InactiveExitTimestampMonotonic=7250000\n\
            hello[240]: 222 (hello) S 1 222 222 0 -1 4194560 40 0 0 0 0 0 0 0 20 0 1 0 898 1 2\n";
        let start = super::parsed(said).unwrap();
        let found = [
            start.first_process_s,
            start.systemd_s,
            start.unit_s,
            start.container_s,
            start.output_s,
        ];
        assert_eq!(found, [1.77, 2.5, 7.25, 8.98, 9.01]);
        assert!(super::parsed(&said[..said.len() - 12]).is_none());
    }
}
