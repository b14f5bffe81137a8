//! `cargo xtask powercut`: the store on an ext4 disk whose power is cut again and again while images are loaded, built, upgraded and pruned.
//!
//! A cut is what the disk holds at one moment, and nothing of what the kernel was still going to write. Two ways to get one:
//!
//! * The disk is a file on XFS, which can be cloned (`ioctl_ficlonerange(2)`): a clone is all that was written before and nothing that came after,
//!   made while the work goes on. Thousands of cuts in minutes, on this machine's kernel.
//! * `--vm`: the disk belongs to a virtual machine that is killed and booted again, whose kernel's memory is lost with it.
//!
//! After each cut the disk is mounted, which replays its journal, and the store is opened: `verify` finds nothing damaged, the last-known-good image is there and
//! runs, an upgraded name names the old or the new image, and after `prune` nothing is left that no image has.
//!
//! What neither shows: a disk that reports data as written and loses it, or writes it in another order, in spite of flushes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::packages;
use crate::process::{interrupted, output_of, run, shown, stdout_of, wait_for};
use crate::stand::Programs;
use crate::vm::{Ending, Machine};

/// What the cuts need, and the Debian package of each.
const PROGRAMS: &[(&str, &str)] = &[
    ("mkfs.xfs", "xfsprogs"),
    ("mkfs.ext4", "e2fsprogs"),
    ("losetup", "mount"),
];

/// Size of the disk whose power is cut, bytes: a few times what the images take.
const DISK_BYTES: u64 = 512 << 20;

/// Size of the file system that holds it and its clones, bytes; the file has holes.
const OUTER_BYTES: u64 = 16 << 30;

/// Longest time between two cuts, milliseconds: a load of the images below takes about so long.
const PAUSE_MS_MAX: u64 = 300;

/// Files of a test image, and bytes of the largest.
const FILES: u64 = 120;
const FILE_BYTES_MAX: u64 = 40_000;

/// How long a virtual machine may take until it does what it is told to.
const BOOT_TIMEOUT: Duration = Duration::from_secs(600);

/// How long a mount may stay busy.
const UNMOUNT_TIMEOUT: Duration = Duration::from_secs(30);

/// Options of `powercut`.
#[derive(clap::Args)]
pub struct Options {
    /// How many times
    #[arg(long, default_value_t = 1000)]
    cuts: u32,
    /// Decides when
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Kill a virtual machine instead: slow
    #[arg(long)]
    vm: bool,
    /// Use the programs in this folder instead of building them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// Runs the command.
pub fn run_command(options: &Options) -> Result<()> {
    let programs = match &options.programs {
        Some(folder) => Programs::in_folder(folder),
        None => Programs::build()?,
    };
    if options.vm {
        return cut_machine(&programs, options.cuts, options.seed);
    }
    cut_disk(&programs, options.cuts, options.seed)
}

/// What the tests do: enough to notice what breaks at once.
pub fn run_few() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        println!("    SKIPPED: mounting disks takes root");
        return Ok(());
    }
    cut_disk(&Programs::build()?, 40, 1)
}

/// Cuts on this machine's kernel, in a mount namespace of its own: nobody else's copy keeps our mounts, and they end with us however we end.
fn cut_disk(programs: &Programs, cuts: u32, seed: u64) -> Result<()> {
    packages::ensure(PROGRAMS)?;
    let alone = || {
        unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
            .context("cannot part with the mounts of others")?;
        cut_clones(programs, cuts, seed)
    };
    // A namespace belongs to a thread, and to those that it starts.
    let ended = std::thread::scope(|scope| scope.spawn(alone).join());
    ended.map_err(|_| anyhow::anyhow!("the cuts have panicked"))?
}

fn cut_clones(programs: &Programs, cuts: u32, seed: u64) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("punnet-powercut-").tempdir()?;
    let path = |name: &str| folder.path().join(name);
    File::create(path("outer.img"))?.set_len(OUTER_BYTES)?;
    run(Command::new("mkfs.xfs")
        .args(["-q", "-m", "reflink=1"])
        .arg(path("outer.img")))?;
    let outer = Mount::file(&path("outer.img"), &path("outer"), "noatime")?;
    let disk = outer.0.join("disk.img");
    make_disk(&disk)?;
    let images = Images::make(programs, &path("images"))?;
    let mounted = Mount::file(&disk, &path("disk"), "commit=1")?;
    let work = Device::new(programs, &mounted.0, &path("run"));
    work.prepare(&images)?;
    let stop = AtomicBool::new(false);
    let mut checked = Tally::default();
    let began = Instant::now();
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| work.go_on(&images, &stop));
        let mut random = Random(seed);
        let mut cut = || -> Result<()> {
            for number in 1..=cuts {
                ensure!(!interrupted() && !worker.is_finished(), "interrupted");
                std::thread::sleep(Duration::from_millis(random.below(PAUSE_MS_MAX)));
                let clone = outer.0.join("cut.img");
                run(Command::new("cp").arg("--reflink=always").arg(&disk).arg(&clone))?;
                let at = format!("cut {number} of {cuts} (seed {seed})");
                let found = Mount::file(&clone, &path("cut"), "noatime")?;
                let device = Device::new(programs, &found.0, &path("run-cut"));
                device.check(&images, &mut checked).with_context(|| at.clone())?;
                drop(found);
                std::fs::remove_file(&clone)?;
                if number % 100 == 0 {
                    println!("    {at}: {checked}, {:.0} s", began.elapsed().as_secs_f64());
                }
            }
            Ok(())
        };
        let outcome = cut();
        stop.store(true, Ordering::Relaxed);
        let worked = worker
            .join()
            .map_err(|_| anyhow::anyhow!("the work has panicked"))?;
        outcome?;
        let rounds = worked?;
        println!("    {cuts} cuts in {rounds} rounds of load, build, upgrade, remove and prune: {checked}");
        Ok(())
    })
}

/// Cuts by killing a virtual machine; the next boot checks.
fn cut_machine(programs: &Programs, cuts: u32, seed: u64) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("punnet-powercut-").tempdir()?;
    let disk = folder.path().join("disk.img");
    make_disk(&disk)?;
    let images = Images::make(programs, &folder.path().join("images"))?;
    // Programs and images are in the machine at the same paths, except below /tmp, which is new there.
    let visible = format!(
        "{},{}",
        folder.path().display(),
        folder_of(&programs.punnet)?.display()
    );
    let boot = |check: bool, work: bool| -> Result<Machine> {
        let mut words: Vec<String> = std::env::current_exe()?
            .to_str()
            .map(str::to_owned)
            .into_iter()
            .collect();
        words.extend(["powercut-inside".into(), "--disk".into(), "/dev/vdb".into()]);
        words.extend(["--images".into(), images.folder.display().to_string()]);
        words.extend(["--punnet".into(), programs.punnet.display().to_string()]);
        words.extend(check.then(|| "--check".into()));
        words.extend(work.then(|| "--work".into()));
        Ok(Machine::new(&words)?.with_disk(&disk).with_visible(&visible))
    };
    let mut random = Random(seed);
    for number in 1..=cuts {
        let after = Duration::from_millis(random.below(PAUSE_MS_MAX * 20));
        let ending = boot(number > 1, true)?.run_until_ready_and(BOOT_TIMEOUT, after)?;
        ensure!(
            ending == Ending::Killed,
            "the virtual machine ended before it was killed"
        );
        println!(
            "    virtual machine killed {number} of {cuts} times, {} ms after it began",
            after.as_millis()
        );
    }
    let code = boot(true, false)?.run(BOOT_TIMEOUT)?;
    ensure!(code == 0, "the store does not stand the cut");
    println!("    {cuts} cuts of a virtual machine: the store was whole after each");
    Ok(())
}

/// Options of the half that runs in the virtual machine.
#[derive(clap::Args)]
pub struct InsideOptions {
    #[arg(long)]
    disk: PathBuf,
    #[arg(long)]
    images: PathBuf,
    #[arg(long)]
    punnet: PathBuf,
    #[arg(long)]
    check: bool,
    #[arg(long)]
    work: bool,
}

/// Runs in the virtual machine: checks what the last cut has left, then works until the next.
pub fn run_inside(options: &InsideOptions) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let programs = Programs {
        punnet: options.punnet.clone(),
        fleet: PathBuf::new(),
        hello: PathBuf::new(),
    };
    let images = Images {
        folder: options.images.clone(),
    };
    let at = folder.path().join("disk");
    std::fs::create_dir(&at)?;
    run(Command::new("mount")
        .args(["-o", "commit=1"])
        .arg(&options.disk)
        .arg(&at))?;
    let device = Device::new(&programs, &at, &folder.path().join("run"));
    if options.check {
        let mut checked = Tally::default();
        device.check(&images, &mut checked)?;
        println!("    {checked}");
    } else {
        device.prepare(&images)?;
    }
    if options.work {
        // Whoever holds the switch waits for this.
        std::fs::write("/dev/ttyS1", "ready\n")?;
        device.go_on(&images, &AtomicBool::new(false))?;
    }
    run(Command::new("umount").arg(&at))
}

fn folder_of(program: &Path) -> Result<&Path> {
    program.parent().context("a program has a folder")
}

fn make_disk(path: &Path) -> Result<()> {
    File::create(path)?.set_len(DISK_BYTES)?;
    run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(path))
}

/// A mount of a file that ends with this value.
struct Mount(PathBuf);

impl Mount {
    fn file(file: &Path, at: &Path, options: &str) -> Result<Self> {
        std::fs::create_dir_all(at)?;
        run(Command::new("mount")
            .args(["-o", &format!("loop,{options}")])
            .arg(file)
            .arg(at))?;
        Ok(Self(at.into()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A loop device lets go of its file a moment after its own mount has ended.
        let unmounted = || {
            let output = output_of(Command::new("umount").arg(&self.0))?;
            Ok(output.status.success().then_some(()))
        };
        if let Err(error) = wait_for("a mount to end", UNMOUNT_TIMEOUT, unmounted) {
            eprintln!("warning: {} stays mounted: {error:#}", self.0.display());
        }
    }
}

/// What is loaded and built.
struct Images {
    folder: PathBuf,
}

impl Images {
    /// `good.tar`, `old.tar`, `new.tar` (three quarters of whose files are those of `old`) and `context/`, each with a program that runs.
    fn make(programs: &Programs, folder: &Path) -> Result<Self> {
        std::fs::create_dir(folder)?;
        for (name, first) in [
            ("good", 0),
            ("old", 1000),
            ("new", 1000 + FILES / 4),
            ("context", 5000),
        ] {
            let context = folder.join(name);
            std::fs::create_dir_all(context.join("files"))?;
            for number in first..first + FILES {
                let mut random = Random(number);
                let size = random.below(FILE_BYTES_MAX);
                let content: Vec<u8> = std::iter::repeat_with(|| random.below(256) as u8)
                    .take(usize::try_from(size)?)
                    .collect();
                std::fs::write(context.join(format!("files/{number}")), content)?;
            }
            std::fs::copy(&programs.hello, context.join("hello"))?;
            let text = "FROM scratch\nCOPY hello /\nCOPY files /files\nENTRYPOINT [\"/hello\", \"--once\"]\n";
            std::fs::write(context.join("Containerfile"), text)?;
            if name != "context" {
                let archive = folder.join(format!("{name}.tar"));
                let mut build = Command::new(&programs.punnet);
                build
                    .arg("--data-root")
                    .arg(folder.join("data"))
                    .args(["build", "--output"]);
                run(build.arg(&archive).arg(&context).stdout(Stdio::null()))?;
            }
        }
        Ok(Self {
            folder: folder.into(),
        })
    }

    fn archive(&self, name: &str) -> String {
        self.folder.join(name).with_extension("tar").display().to_string()
    }
}

/// Punnet on the disk.
struct Device<'a> {
    punnet: &'a Path,
    data: PathBuf,
    run: PathBuf,
}

impl<'a> Device<'a> {
    fn new(programs: &'a Programs, disk: &Path, run: &Path) -> Self {
        Self {
            punnet: &programs.punnet,
            data: disk.join("data"),
            run: run.into(),
        }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.punnet);
        command
            .arg("--data-root")
            .arg(&self.data)
            .arg("--run-root")
            .arg(&self.run);
        command.args(words);
        command
    }

    fn run(&self, words: &[&str]) -> Result<String> {
        stdout_of(&mut self.command(words))
    }

    /// The last-known-good image, and the old one under the name that is upgraded.
    fn prepare(&self, images: &Images) -> Result<()> {
        self.run(&["load", "--tag", "good", &images.archive("good")])?;
        self.run(&["load", "--tag", "app", &images.archive("old")])?;
        // What was there before the power cuts begin is on the disk by Punnet's own doing, not by a sync of ours.
        Ok(())
    }

    /// Works until told to stop; returns how many rounds that were.
    fn go_on(&self, images: &Images, stop: &AtomicBool) -> Result<u32> {
        let context = images.folder.join("context").display().to_string();
        let (old, new) = (images.archive("old"), images.archive("new"));
        let round: [&[&str]; 8] = [
            &["load", "--tag", "app", &new],
            &["prune"],
            &["build", "--tag", "built", &context],
            &["tag", "good", "another"],
            &["load", "--tag", "app", &old],
            &["rmi", "built"],
            &["rmi", "another"],
            &["prune"],
        ];
        let mut rounds = 0;
        loop {
            for words in round {
                if stop.load(Ordering::Relaxed) || interrupted() {
                    return Ok(rounds);
                }
                self.run(words)?;
            }
            rounds += 1;
        }
    }

    /// What must be true after every cut.
    fn check(&self, images: &Images, tally: &mut Tally) -> Result<()> {
        let began = self.json(&["images", "--json"])?;
        let name_of = |row: &serde_json::Value| row["reference"].as_str().unwrap_or("<none>").to_owned();
        let rows = began.as_array().context("images --json is a list")?;
        tally.count(rows.iter().map(name_of).collect());
        self.run(&["verify"])
            .context("what claims to be there is damaged")?;
        for name in ["good", "app"] {
            self.run(&["inspect", name])?;
            let output = output_of(&mut self.command(&["run", "--rm", name]))?;
            ensure!(
                output.status.success() && !output.stdout.is_empty(),
                "{name} does not run: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        self.run(&["prune"])?;
        self.assert_nothing_leaked()?;
        self.run(&["load", "--tag", "app", &images.archive("new")])?;
        self.run(&["verify"])?;
        Ok(())
    }

    fn json(&self, words: &[&str]) -> Result<serde_json::Value> {
        let mut command = self.command(words);
        let text = stdout_of(&mut command)?;
        serde_json::from_str(&text).with_context(|| format!("{} printed no JSON", shown(&command)))
    }

    fn assert_nothing_leaked(&self) -> Result<()> {
        let usage = self.json(&["du", "--json"])?;
        ensure!(usage["garbage_bytes"] == 0, "prune leaves {usage}");
        let store = self.data.join("store");
        let left: Vec<_> = std::fs::read_dir(store.join("staging"))?.collect();
        ensure!(left.is_empty(), "in staging there is {left:?}");
        let mut parts = Vec::new();
        for folder in ["store", "", "build", "build/cache", "build/work"] {
            let folder = self.data.join(folder);
            // Nothing was built yet when the power went.
            if !folder.exists() {
                continue;
            }
            for entry in std::fs::read_dir(&folder)? {
                parts.push(entry?.file_name().to_string_lossy().into_owned());
            }
        }
        parts.retain(|part| {
            let known = [
                "images",
                "lock",
                "objects",
                "refs",
                "staging",
                "version",
                "store",
                "containers",
                "build",
                "cache",
                "work",
            ];
            !known.contains(&part.as_str())
        });
        if !parts.is_empty() {
            bail!("left behind: {}", parts.join(", "));
        }
        Ok(())
    }
}

/// In which states the cuts have found the store: that they come at different moments is to be seen.
#[derive(Default)]
struct Tally(std::collections::BTreeMap<String, u32>);

impl Tally {
    fn count(&mut self, mut names: Vec<String>) {
        names.sort();
        *self.0.entry(names.join("+")).or_default() += 1;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let states: Vec<_> = self
            .0
            .iter()
            .map(|(names, count)| format!("{count} with {names}"))
            .collect();
        write!(out, "{}", states.join(", "))
    }
}

/// Numbers that come again with their seed (Knuth's MMIX generator; its high bits).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}
