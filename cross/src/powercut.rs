//! `cargo xtask powercut`: the store on an ext4 disk whose power is cut again and again while images are pulled, loaded, built, upgraded and pruned.
//!
//! A cut is what the disk holds at one moment, and nothing of what was still to come. Two ways to get one:
//!
//! * The disk is a file on XFS, which can be cloned (`ioctl_ficlonerange(2)`): a clone is all that was written before and nothing that came after,
//!   made while the work goes on. Thousands of cuts in minutes, on this machine's kernel. What this machine's kernel had not written yet is lost.
//! * `--vm`: the disk belongs to a virtual machine that is killed (SIGKILL) and booted again. Its kernel's memory is lost, and more: what it has written to
//!   the disk and not flushed. The disk is a qcow2 file over the disk as it was at boot, and QEMU keeps in its own memory where new clusters are until the
//!   machine asks it to flush; later writes to the same place stay. So the disk loses and reorders what was not flushed, and each boot proves that on a
//!   disk for this purpose. A clone of the file while the machine works is what a kill at that moment would have left: some are taken before each kill, and the
//!   next boot looks at all of them.
//!
//! After each cut the disk is mounted, which replays its journal, and the store is opened: `verify` finds nothing damaged, the last-known-good image is there and
//! runs, an upgraded name names the old or the new image, what a build takes from the cache gives the same image, a pull that was begun can be ended, and after
//! `prune` nothing is left that no image has.
//!
//! What neither shows: a disk that loses what it was told to flush.

mod clones;
mod device;
mod machine;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::packages;
use crate::process::{output_of, run, wait_for};
use crate::stand::Programs;

pub use machine::{InsideOptions, run_inside};

/// What the cuts need, and the Debian package of each.
const PROGRAMS: &[(&str, &str)] = &[
    ("mkfs.xfs", "xfsprogs"),
    ("mkfs.ext4", "e2fsprogs"),
    ("losetup", "mount"),
    ("docker-registry", "docker-registry"),
    ("busybox", "busybox-static"),
    ("qemu-img", "qemu-utils"),
];

/// Size of the disk whose power is cut, bytes: a few times what the images take.
const DISK_BYTES: u64 = 512 << 20;

/// Size of the file system that holds it and its clones, bytes; the file has holes.
const OUTER_BYTES: u64 = 16 << 30;

/// How long a mount may stay busy.
const UNMOUNT_TIMEOUT: Duration = Duration::from_secs(30);

/// Cuts on this machine's kernel, and of the virtual machine, in the tests: enough to notice what breaks at once.
const FEW_CLONES: u32 = 40;
const FEW_OF_MACHINE: u32 = 6;

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
    let cut = if options.vm { machine::cut } else { clones::cut };
    on_a_file_system_of_clones(|outer| cut(&programs, outer, options.cuts, options.seed))
}

/// What the tests do.
pub fn run_few() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        println!("    SKIPPED: mounting disks takes root");
        return Ok(());
    }
    let programs = Programs::build()?;
    on_a_file_system_of_clones(|outer| clones::cut(&programs, outer, FEW_CLONES, 1))?;
    on_a_file_system_of_clones(|outer| machine::cut(&programs, outer, FEW_OF_MACHINE, 1))
}

/// Does `act` with a file system whose files can be cloned, in a mount namespace of its own: nobody else's copy keeps our mounts, and they end with us
/// however we end.
fn on_a_file_system_of_clones(act: impl FnOnce(&Outer) -> Result<()> + Send) -> Result<()> {
    packages::ensure(PROGRAMS)?;
    let alone = || {
        unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
            .context("cannot part with the mounts of others")?;
        act(&Outer::make()?)
    };
    // A namespace belongs to a thread, and to those that it starts.
    let ended = std::thread::scope(|scope| scope.spawn(alone).join());
    ended.map_err(|_| anyhow::anyhow!("the cuts have panicked"))?
}

/// A file system whose files can be cloned, and a folder beside it.
struct Outer {
    mount: Mount,
    folder: tempfile::TempDir,
}

impl Outer {
    fn make() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("punnet-powercut-").tempdir()?;
        let file = folder.path().join("outer.img");
        File::create(&file)?.set_len(OUTER_BYTES)?;
        run(Command::new("mkfs.xfs")
            .args(["-q", "-m", "reflink=1"])
            .arg(&file))?;
        let mount = Mount::file(&file, &folder.path().join("outer"), "noatime")?;
        Ok(Self { mount, folder })
    }

    /// A path on the file system.
    fn file(&self, name: &str) -> PathBuf {
        self.mount.0.join(name)
    }

    /// A path beside it.
    fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// All that was written to `file` until now, and nothing that comes after.
fn clone(file: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg("--reflink=always").arg(file).arg(to))
}

/// An empty disk.
fn make_disk(path: &Path) -> Result<()> {
    File::create(path)?.set_len(DISK_BYTES)?;
    run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(path))
}

/// A mount that ends with this value.
struct Mount(PathBuf);

impl Mount {
    fn file(file: &Path, at: &Path, options: &str) -> Result<Self> {
        Self::make(file, at, &format!("loop,{options}"))
    }

    /// A file, or a disk.
    fn make(what: &Path, at: &Path, options: &str) -> Result<Self> {
        std::fs::create_dir_all(at)?;
        run(Command::new("mount").args(["-o", options]).arg(what).arg(at))?;
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
