//! Images beside skopeo with umoci, podman and sha256sum: pull and unpack, start, verify, and what a second image of nearly the same files costs.
//!
//! The images come from Debian's docker-registry on loopback. Each program has a disk of its own, made anew in each round (disk.rs).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::disk::Disk;
use super::offer::{Registry, many_files, one_file};
use super::pull::PULL_HWM_KIB_MAX;
use super::{Options, Summary};
use crate::process::{interrupted, is_installed, run, shown, stdout_of};
use crate::stand::elapsed_ms;

/// Files that a disk has room for: more than any image of the pulls.
const FILES_MAX: u64 = 100_000;

/// Sizes of the images.
#[derive(Clone, Copy)]
pub struct Sizes {
    many_bytes: u64,
    one_bytes: u64,
    entries: u64,
    /// Written besides, whatever the image: the store's 256 folders of objects and the journal's first blocks on an empty disk.
    pub(super) written_more_bytes: u64,
    pub(super) rounds: usize,
}

impl Sizes {
    /// 300 MB of many files, and one of 1 GiB; a twentieth of that when nobody asks for it.
    pub fn new(is_full: bool) -> Self {
        if is_full {
            Self {
                many_bytes: 300_000_000,
                one_bytes: 1 << 30,
                entries: 1_000_000,
                written_more_bytes: 0,
                rounds: 3,
            }
        } else {
            Self {
                many_bytes: 15_000_000,
                one_bytes: 50 << 20,
                entries: 100_000,
                written_more_bytes: 4 << 20,
                rounds: 2,
            }
        }
    }
}

/// All rows of images. Mounting disks takes root.
pub(super) fn rows(punnet: &Path, options: &Options) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        println!("| pull and unpack | all | SKIPPED: mounting disks takes root | | |");
        return Ok(());
    }
    if let Some(missing) = ["docker-registry", "skopeo"]
        .into_iter()
        .find(|name| !is_installed(name))
    {
        println!("| pull and unpack | all | SKIPPED: {missing} is not installed | | |");
        return Ok(());
    }
    let alone = || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
        measure(punnet, options)
    };
    // A namespace belongs to a thread, and to those that it starts: our mounts end with it however we end.
    std::thread::scope(|scope| scope.spawn(alone).join()).expect("a measuring thread does not panic")
}

fn measure(punnet: &Path, options: &Options) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("punnet-bench-").tempdir()?;
    let sizes = Sizes::new(options.full);
    let bench = Bench {
        punnet: punnet.into(),
        folder: folder.path().into(),
        registry: Registry::start(folder.path())?,
        over: RefCell::default(),
    };
    bench.offer("many", |context| many_files(context, sizes.many_bytes, 0))?;
    bench.offer("next", |context| many_files(context, sizes.many_bytes, 1))?;
    bench.offer("one", |context| one_file(context, sizes.one_bytes))?;
    let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
    bench.pull(
        "many",
        &format!("{} MB in many files", megabytes(sizes.many_bytes)),
        sizes,
    )?;
    bench.pull(
        "one",
        &format!("{} MB in one file", megabytes(sizes.one_bytes)),
        sizes,
    )?;
    bench.memory()?;
    super::entries::rows(&bench, sizes.entries)?;
    let disk = bench.disk("ours")?;
    bench.second_image(&disk)?;
    bench.verify(&disk, sizes.rounds)?;
    bench.first_output(options.rounds)?;
    let over = bench.over.take();
    ensure!(over.is_empty(), "{}", over.join("; "));
    Ok(())
}

pub(super) struct Bench {
    punnet: PathBuf,
    pub(super) folder: PathBuf,
    registry: Registry,
    /// Budgets that were not kept.
    over: RefCell<Vec<String>>,
}

impl Bench {
    /// Builds an image and puts it on the registry.
    fn offer(&self, name: &str, make: impl FnOnce(&Path) -> Result<String>) -> Result<()> {
        let context = self.folder.join("context");
        std::fs::create_dir(&context)?;
        let lines = make(&context)?;
        std::fs::write(context.join("Containerfile"), lines)?;
        let layout = self.layout(name);
        let mut build = self.command(&self.folder.join("builder"), &["build", "--quiet", "--output"]);
        run(build.arg(layout.join("")).arg(&context).stdout(Stdio::null()))?;
        run(Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
            .arg(format!("oci:{}", layout.display()))
            .arg(format!("docker://{}", self.reference(name))))?;
        for folder in [&context, &self.folder.join("builder")] {
            std::fs::remove_dir_all(folder)?;
        }
        Ok(())
    }

    /// The most memory of taking in the large file from the registry and from a layout, and of writing it out, by compression.
    fn memory(&self) -> Result<()> {
        let zstd = self.layout("zstd");
        run(Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet"])
            .args(["--dest-compress", "--dest-compress-format", "zstd"])
            .arg(format!("oci:{}", self.layout("one").display()))
            .arg(format!("oci:{}:1", zstd.display())))?;
        let is_zstd = files_of(&zstd)?.values().any(|blob| has_magic(blob, ZSTD_MAGIC));
        ensure!(is_zstd, "skopeo has not compressed by zstd");
        run(Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
            .arg("--preserve-digests")
            .arg(format!("oci:{}:1", zstd.display()))
            .arg(format!("docker://{}", self.reference("zstd"))))?;
        for (image, compression) in [("one", "gzip"), ("zstd", "zstd")] {
            let layout = self.layout(image);
            let of = |verb: &str| format!("{verb} of a large {compression} layer");
            let data = |disk: &Disk| disk.path().join("data");
            let disk = self.disk("memory")?;
            self.peak(
                &data(&disk),
                &["pull", "--quiet", &self.reference(image)],
                &of("pull"),
            )?;
            drop(disk);
            let disk = self.disk("memory")?;
            let layout = layout.display().to_string();
            let load = ["load", "--keep-blobs", "--tag", "kept", &layout];
            self.peak(&data(&disk), &load, &of("load"))?;
            let archive = disk.path().join("saved.tar").display().to_string();
            let save = ["save", "--format", "docker-archive", "--output", &archive, "kept"];
            self.peak(&data(&disk), &save, &of("save"))?;
        }
        Ok(())
    }

    /// The most memory of a command, read at its very end: a row, and a budget of ours.
    pub(super) fn peak(&self, data: &Path, words: &[&str], what: &str) -> Result<u64> {
        let command = self.command(data, words);
        let words: Vec<_> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        let peak = super::peak::peak_kib(&words)?;
        println!("| peak RSS: {what} | punnet | {peak} KiB | | |");
        if peak > PULL_HWM_KIB_MAX {
            self.over(format!(
                "the {what} has needed {peak} KiB of memory; its budget is {PULL_HWM_KIB_MAX} KiB"
            ));
        }
        Ok(peak)
    }

    /// Where an image is as it was built.
    pub(super) fn layout(&self, name: &str) -> PathBuf {
        self.folder.join(format!("layout-{name}"))
    }

    pub(super) fn reference(&self, name: &str) -> String {
        format!("{}/{name}:1", self.registry.address)
    }

    pub(super) fn command(&self, data: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(&self.punnet);
        command
            .arg("--data-root")
            .arg(data)
            .arg("--run-root")
            .arg(self.folder.join("run"));
        command.args(words);
        command
    }

    pub(super) fn over(&self, what: String) {
        self.over.borrow_mut().push(what);
    }

    pub(super) fn disk(&self, name: &str) -> Result<Disk> {
        self.disk_for(name, FILES_MAX)
    }

    /// One with room for so many files.
    pub(super) fn disk_for(&self, name: &str, files_max: u64) -> Result<Disk> {
        let file = self.folder.join(format!("{name}.img"));
        Disk::make(&file, &self.folder.join(name), files_max)
    }

    /// A second image with nine tenths of the files of the first: disk, and page cache when all of both is read.
    fn second_image(&self, disk: &Disk) -> Result<()> {
        let data = disk.path().join("data");
        let mut used = vec![disk.used_bytes()?];
        for image in ["many", "next"] {
            run(self
                .command(&data, &["pull", "--quiet", &self.reference(image)])
                .stdout(Stdio::null()))?;
            used.push(disk.used_bytes()?);
        }
        let cost = |first: u64, second: u64| {
            format!(
                "{:.1} / {:.1} MB | | {:.2} |",
                first as f64 / 1e6,
                second as f64 / 1e6,
                second as f64 / first as f64
            )
        };
        println!(
            "| disk for an image / for a second with 90 % of its files | punnet pull | {}",
            cost(used[1] - used[0], used[2] - used[1])
        );
        if !is_installed("fincore") {
            println!("| page cache of both | punnet | SKIPPED: fincore is not installed | | |");
            return Ok(());
        }
        disk.forget()?;
        let mut cached = Vec::new();
        for image in ["many", "next"] {
            for file in files_of(&self.rootfs(&data, image)?)?.values() {
                std::io::copy(&mut std::fs::File::open(file)?, &mut std::io::sink())?;
            }
            cached.push(cached_bytes(&data.join("store/objects"))?);
        }
        println!(
            "| page cache when all files of one are read / of the second too | punnet | {}",
            cost(cached[0], cached[1] - cached[0])
        );
        Ok(())
    }

    fn rootfs(&self, data: &Path, image: &str) -> Result<PathBuf> {
        let text = stdout_of(&mut self.command(data, &["images", "--json"]))?;
        let rows: serde_json::Value = serde_json::from_str(&text)?;
        let reference = self.reference(image);
        let row = rows
            .as_array()
            .into_iter()
            .flatten()
            .find(|row| row["reference"] == reference.as_str());
        let manifest = row
            .and_then(|row| row["manifest"].as_str())
            .context("the image is not stored")?;
        Ok(data
            .join("store/images")
            .join(manifest.trim_start_matches("sha256:"))
            .join("rootfs"))
    }

    /// All files against their digests, beside sha256sum of the same files; from the disk, and from memory.
    fn verify(&self, disk: &Disk, rounds: usize) -> Result<()> {
        let data = disk.path().join("data");
        let rootfs = self.rootfs(&data, "many")?;
        let mut samples = vec![Vec::new(); 4];
        for _ in 0..rounds {
            for (index, samples) in samples.iter_mut().enumerate() {
                let mut command = match index % 2 {
                    0 => self.command(&data, &["verify", &self.reference("many")]),
                    _ => {
                        let mut all = Command::new("sh");
                        all.args(["-c", "find \"$0\" -type f -print0 | xargs -0 sha256sum"])
                            .arg(&rootfs);
                        all
                    }
                };
                if index < 2 {
                    disk.forget()?;
                }
                let began = Instant::now();
                run(command.stdout(Stdio::null()))?;
                samples.push(elapsed_ms(began));
            }
        }
        let warm = samples.split_off(2);
        print(
            "verify, nothing in memory",
            &["punnet verify", "sha256sum"],
            "ms",
            samples,
        );
        print(
            "verify, all in memory",
            &["punnet verify", "sha256sum"],
            "ms",
            warm,
        );
        Ok(())
    }

    /// A stored image until its process says something, beside the runtime alone with a bundle of the same.
    fn first_output(&self, rounds: usize) -> Result<()> {
        let data = self.folder.join("run-data");
        let context = self.folder.join("run-context");
        std::fs::create_dir(&context)?;
        std::fs::copy(crate::packages::busybox()?, context.join("echo"))?;
        std::fs::write(
            context.join("Containerfile"),
            "FROM scratch\nCOPY echo /echo\nCMD [\"/echo\", \"here\"]\n",
        )?;
        run(self
            .command(&data, &["build", "--quiet", "--tag", "echo"])
            .arg(&context)
            .stdout(Stdio::null()))?;
        let bundle = self.folder.join("bundle");
        std::fs::create_dir_all(bundle.join("rootfs"))?;
        std::fs::copy(context.join("echo"), bundle.join("rootfs/echo"))?;
        stdout_of(
            Command::new(&self.punnet)
                .args(["oci", "spec"])
                .current_dir(&bundle),
        )?;
        let path = bundle.join("config.json");
        let mut spec: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        spec["process"]["terminal"] = false.into();
        spec["process"]["args"] = serde_json::json!(["/echo", "here"]);
        spec["process"]["rlimits"] = serde_json::json!([]);
        std::fs::write(&path, serde_json::to_vec(&spec)?)?;
        let mut samples = vec![Vec::new(); 2];
        for round in 0..super::WARM_UP_ROUNDS + rounds {
            ensure!(!interrupted(), "interrupted");
            let mut alone = Command::new(&self.punnet);
            alone
                .args(["oci", "--root"])
                .arg(self.folder.join("oci"))
                .args(["run", "--bundle"])
                .arg(&bundle)
                .arg("bench");
            let commands = [self.command(&data, &["run", "--rm", "echo"]), alone];
            for (command, samples) in commands.into_iter().zip(&mut samples) {
                let ms = first_line_ms(command)?;
                if round >= super::WARM_UP_ROUNDS {
                    samples.push(ms);
                }
            }
        }
        print(
            "start to first output",
            &["punnet run IMAGE", "punnet oci run, of a bundle"],
            "ms",
            samples,
        );
        Ok(())
    }
}

/// First four bytes of what zstd compresses.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

fn has_magic(file: &Path, magic: [u8; 4]) -> bool {
    let mut head = [0; 4];
    let read = std::fs::File::open(file).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && head == magic
}

/// A row for each program; ratios are to the first.
pub(super) fn print(what: &str, names: &[&str], unit: &str, mut samples: Vec<Vec<f64>>) {
    let ours = Summary::of(&mut samples[0]).median;
    for (name, mut samples) in names.iter().zip(samples) {
        Summary::of(&mut samples).print(what, name, unit, ours);
    }
}

/// Until the first line of its output; its end is waited for, but not counted.
fn first_line_ms(mut command: Command) -> Result<f64> {
    let began = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    let stdout = child.stdout.take().context("no standard output")?;
    let read = BufReader::new(stdout).read_line(&mut line);
    let ms = elapsed_ms(began);
    let status = child.wait()?;
    ensure!(
        status.success() && read? > 0,
        "{} ended with {status}",
        shown(&command)
    );
    Ok(ms)
}

/// Regular files below a folder, by inode.
pub(super) fn files_of(folder: &Path) -> Result<BTreeMap<u64, PathBuf>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let found = entry.metadata()?;
            if found.is_dir() {
                folders.push(entry.path());
            } else if found.is_file() {
                files.insert(found.ino(), entry.path());
            }
        }
    }
    Ok(files)
}

/// Bytes of files below a folder that are in the page cache, each file once.
fn cached_bytes(folder: &Path) -> Result<u64> {
    let text = stdout_of(
        Command::new("sh")
            .args([
                "-c",
                "find \"$0\" -type f -print0 | xargs -0 fincore -b -n -o RES",
            ])
            .arg(folder),
    )?;
    text.lines().map(|line| Ok(line.trim().parse::<u64>()?)).sum()
}
