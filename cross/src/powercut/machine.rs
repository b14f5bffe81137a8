//! Cuts of a virtual machine: this half switches it on and off; the other runs inside, checks what the cuts before the boot have left, and works until the
//! next.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::device::{Device, Images, Tally};
use super::{Mount, Outer, Random, clone, make_disk};
use crate::process::{run, stdout_of};
use crate::registry::{DockerRegistry, Door};
use crate::stand::Programs;
use crate::vm::Machine;

/// How long a machine may take until it has checked what it finds and works.
const BOOT_TIMEOUT: Duration = Duration::from_secs(600);

/// Cuts in one boot: all but the last are clones of the disk, the last is the kill. A boot takes as long as two cuts.
const CUTS_A_BOOT: u32 = 3;

/// Longest time between two cuts, milliseconds: an emulated pull, build or load takes about so long.
const PAUSE_MS_MAX: u64 = 2000;

/// Where the machine sees this one's loopback (QEMU's user network).
const HOST_INSIDE: &str = "10.0.2.2";

/// Bytes of a cluster of the qcow2 files: no larger than a block of the file system, so that each is lost or kept for itself.
const CLUSTER_BYTES: &str = "4k";

/// What is written to the disk that shows what a kill loses: flushed, and then not.
const KEPT: (&str, u64) = ("FLUSHED", 0);
const LOST: (&str, u64) = ("NOT FLUSHED", 1 << 20);

/// Size of that disk.
const WITNESS_SIZE: &str = "2M";

/// What the machine says when it has checked and begins to work; its tally stands before.
const READY: &str = "ready";

/// Makes so many cuts, of which one in each boot is a kill.
pub fn cut(programs: &Programs, outer: &Outer, cuts: u32, seed: u64) -> Result<()> {
    let registry = DockerRegistry::start(Door::Open)?;
    let images = Images::make(programs, &outer.beside("images"), &registry.address)?;
    let port = registry.address.rsplit(':').next().unwrap_or_default();
    let images = images.with_registry(format!("{HOST_INSIDE}:{port}"));
    let plan = outer.beside("images/plan.json");
    std::fs::write(&plan, serde_json::to_vec(&images)?)?;
    let mut random = Random(seed);
    let mut found = Tally::default();
    let (mut left, mut clones, mut boot) = (cuts, Vec::new(), 0);
    let began = Instant::now();
    make_disk(&outer.file("base-0"))?;
    loop {
        let disk = overlay(outer, boot)?;
        let witness = outer.file("witness");
        make_qcow2(&[&shown(&witness), WITNESS_SIZE])?;
        let disks: Vec<_> = std::iter::once(disk.clone())
            .chain(clones.iter().cloned())
            .chain([witness.clone()])
            .collect();
        let words = inside(programs, &plan, clones.len(), boot, &mut random)?;
        let visible = format!(
            "{},{}",
            shown(images.folder()),
            shown(folder_of(&programs.punnet)?)
        );
        let machine = Machine::new(&words)?.with_disks(&disks).with_visible(&visible);
        let now = left.min(CUTS_A_BOOT);
        let mut made = Vec::new();
        machine
            .run_until(BOOT_TIMEOUT, READY, |said| {
                found.add(serde_json::from_str(said).context("the machine did not say what it found")?);
                for number in 1..=now {
                    std::thread::sleep(Duration::from_millis(random.below(PAUSE_MS_MAX)));
                    if number < now {
                        made.push(outer.file(&format!("cut-{boot}-{number}")));
                        clone(&disk, &made[made.len() - 1])?;
                    }
                }
                Ok(())
            })
            .with_context(|| format!("boot {boot} (seed {seed}), after {} cuts", cuts - left))?;
        assert_loses_what_was_not_flushed(outer, &witness)?;
        for old in clones.drain(..) {
            std::fs::remove_file(old)?;
        }
        if left == 0 {
            break;
        }
        // What the kill has left is what the next boot begins with; the clones are over what this one began with.
        qemu_img(&[
            "convert",
            "-q",
            "-O",
            "raw",
            &shown(&disk),
            &shown(&base(outer, boot + 1)),
        ])?;
        (left, clones, boot) = (left - now, made, boot + 1);
        println!(
            "    {} of {cuts} cuts (seed {seed}): {:.0} s",
            cuts - left,
            began.elapsed().as_secs_f64()
        );
    }
    println!(
        "    {cuts} cuts of a virtual machine, {boot} by killing it: {found}; {:.0} s",
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

fn base(outer: &Outer, boot: u32) -> PathBuf {
    outer.file(&format!("base-{boot}"))
}

/// The disk of a boot: what the boot before has left, and over it a file in which all that is new comes to new clusters.
fn overlay(outer: &Outer, boot: u32) -> Result<PathBuf> {
    // The clones that this boot looks at are over what the last one began with, and need nothing older.
    if boot > 1 {
        std::fs::remove_file(base(outer, boot - 2))?;
    }
    let disk = outer.file("disk");
    let base = shown(&base(outer, boot));
    make_qcow2(&["-b", &base, "-F", "raw", &shown(&disk)])?;
    Ok(disk)
}

fn make_qcow2(words: &[&str]) -> Result<()> {
    let options = format!("cluster_size={CLUSTER_BYTES}");
    qemu_img(&[&["create", "-q", "-f", "qcow2", "-o", &options], words].concat())
}

fn qemu_img(words: &[&str]) -> Result<()> {
    run(Command::new("qemu-img").args(words))
}

/// The kill must have lost what the machine had only written, or these cuts are too kind.
fn assert_loses_what_was_not_flushed(outer: &Outer, witness: &Path) -> Result<()> {
    let raw = outer.file("witness.raw");
    qemu_img(&["convert", "-q", "-O", "raw", &shown(witness), &shown(&raw)])?;
    let bytes = std::fs::read(&raw)?;
    let has = |(text, at): (&str, u64)| bytes[at as usize..].starts_with(text.as_bytes());
    ensure!(has(KEPT), "the emulated disk has lost what was flushed");
    ensure!(!has(LOST), "the emulated disk has kept what was never flushed");
    Ok(())
}

/// The command inside.
fn inside(
    programs: &Programs,
    plan: &Path,
    clones: usize,
    boot: u32,
    random: &mut Random,
) -> Result<Vec<String>> {
    let program = std::env::current_exe().context("who am I")?;
    let mut words = vec![shown(&program), "powercut-inside".into()];
    // /dev/vda is the machine's own; then come the one that it works on, the clones and the witness.
    let disk = |number: usize| format!("/dev/vd{}", char::from(b'b' + number as u8));
    for (option, value) in [
        ("--disk", disk(0)),
        ("--witness", disk(clones + 1)),
        ("--plan", shown(plan)),
        ("--punnet", shown(&programs.punnet)),
        ("--first", random.below(100).to_string()),
    ] {
        words.extend([option.to_owned(), value]);
    }
    for number in 1..=clones {
        words.extend(["--cut".to_owned(), disk(number)]);
    }
    words.extend((boot == 0).then(|| "--new".into()));
    Ok(words)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn folder_of(program: &Path) -> Result<&Path> {
    program.parent().context("a program has a folder")
}

/// Options of the half that runs in the virtual machine.
#[derive(clap::Args)]
pub struct InsideOptions {
    /// The disk to work on
    #[arg(long)]
    disk: PathBuf,
    /// Nothing is on it yet
    #[arg(long)]
    new: bool,
    /// Clones of what was worked on before
    #[arg(long)]
    cut: Vec<PathBuf>,
    /// The disk that shows what a kill loses
    #[arg(long)]
    witness: PathBuf,
    /// What is pulled, loaded and built
    #[arg(long)]
    plan: PathBuf,
    #[arg(long)]
    punnet: PathBuf,
    /// Which piece of work comes first
    #[arg(long)]
    first: usize,
}

/// Runs in the virtual machine: checks what the last cuts have left, then works until the next.
pub fn run_inside(options: &InsideOptions) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let images: Images = serde_json::from_slice(&std::fs::read(&options.plan)?)?;
    let mut found = Tally::default();
    let device = |disk: &Mount, run| Device::new(&options.punnet, &disk.0, &folder.path().join(run), &images);
    let disk = Mount::make(&options.disk, &folder.path().join("disk"), "commit=1")?;
    let device_of_disk = device(&disk, "run");
    std::thread::scope(|scope| {
        // The machine has two processors.
        let clones = scope.spawn(|| -> Result<Tally> {
            let mut found = Tally::default();
            for cut in &options.cut {
                let disk = Mount::make(cut, &folder.path().join("cut"), "noatime")?;
                let checked = device(&disk, "run-cut").check(&mut found);
                checked.with_context(|| format!("clone {}", cut.display()))?;
            }
            Ok(found)
        });
        if options.new {
            device_of_disk.prepare()?;
        } else {
            device_of_disk.check(&mut found).context("after the kill")?;
        }
        let clones = clones.join();
        found.add(clones.map_err(|_| anyhow::anyhow!("the check has panicked"))??);
        anyhow::Ok(())
    })?;
    testify(&options.witness, folder.path())?;
    // Whoever holds the switch waits for this.
    std::fs::write(
        "/dev/ttyS1",
        format!("{}\n{READY}\n", serde_json::to_string(&found)?),
    )?;
    device_of_disk
        .go_on(options.first, &AtomicBool::new(false))
        .map(drop)
}

/// Writes to the disk that shows what a kill loses, past the kernel's memory.
fn testify(witness: &Path, folder: &Path) -> Result<()> {
    for ((text, at), convert) in [(KEPT, "sync,notrunc,fsync"), (LOST, "sync,notrunc")] {
        let file = folder.join("word");
        std::fs::write(&file, text)?;
        stdout_of(
            Command::new("dd")
                .arg(format!("if={}", file.display()))
                .arg(format!("of={}", witness.display()))
                .args(["bs=4096", "oflag=direct", "status=none"])
                .arg(format!("conv={convert}"))
                .arg(format!("seek={}", at / 4096)),
        )?;
    }
    Ok(())
}
