//! Pull and unpack beside skopeo with umoci, podman, and tar alone: time, memory, and what is written.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::Summary;
use super::disk::Disk;
use super::images::{Bench, Sizes, files_of, print};
use crate::process::{interrupted, is_installed, peak_rss_kib, run};
use crate::stand::elapsed_ms;

/// The most memory a pull may have had at its highest, KiB, whatever the image: a budget of ours.
pub(super) const PULL_HWM_KIB_MAX: u64 = 8192;

/// Bytes written for each byte that tar writes when it unpacks the same layers on the same kind of disk: a budget of ours.
const WRITTEN_RATIO_MAX: f64 = 1.05;

/// Programs that pull, the first of them ours.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Puller {
    Punnet,
    SkopeoUmoci,
    Podman,
    /// Of layers that are there already: the least that any program can do.
    Tar,
}

impl Puller {
    fn name(self) -> &'static str {
        match self {
            Self::Punnet => "punnet pull",
            Self::SkopeoUmoci => "skopeo copy + umoci unpack",
            Self::Podman => "podman pull",
            Self::Tar => "tar -x, layers at hand",
        }
    }

    /// What it needs that is not here.
    fn missing(self) -> Option<&'static str> {
        let programs: &[&str] = match self {
            Self::Punnet => &[],
            Self::SkopeoUmoci => &["umoci"],
            Self::Podman => &["podman"],
            Self::Tar => &["tar"],
        };
        programs.iter().copied().find(|program| !is_installed(program))
    }
}

/// What one pull took.
struct Pulled {
    ms: f64,
    /// Until everything was on the disk.
    synced_ms: f64,
    peak_kib: u64,
    written_bytes: u64,
}

impl Bench {
    /// Pull and unpack: time, memory, and what is written.
    pub(super) fn pull(&self, image: &str, what: &str, sizes: Sizes) -> Result<()> {
        let all = [Puller::Punnet, Puller::SkopeoUmoci, Puller::Podman, Puller::Tar];
        let (pullers, absent): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|puller| puller.missing().is_none());
        for puller in absent {
            println!(
                "| pull and unpack {what} | {} | SKIPPED: not installed | | |",
                puller.name()
            );
        }
        let mut pulled: Vec<Vec<Pulled>> = pullers.iter().map(|_| Vec::new()).collect();
        let mut tree_bytes = 0;
        for _ in 0..sizes.rounds {
            for (puller, pulled) in pullers.iter().zip(&mut pulled) {
                ensure!(!interrupted(), "interrupted");
                let disk = self.disk("pull")?;
                pulled.push(self.pull_once(*puller, image, &disk)?);
                if *puller == Puller::Punnet {
                    tree_bytes = blocks_below(&disk.path().join("data/store/images"))?;
                }
            }
        }
        let column = |of: &dyn Fn(&Pulled) -> f64| -> Vec<Vec<f64>> {
            pulled
                .iter()
                .map(|rounds| rounds.iter().map(of).collect())
                .collect()
        };
        let names: Vec<_> = pullers.iter().map(|puller| puller.name()).collect();
        print(
            &format!("pull and unpack {what}"),
            &names,
            "ms",
            column(&|pulled| pulled.ms),
        );
        print(
            &format!("the same until it is on the disk, {what}"),
            &names,
            "ms",
            column(&|pulled| pulled.synced_ms),
        );
        let peaks = column(&|pulled| pulled.peak_kib as f64);
        let peak = peaks[0].iter().copied().fold(0.0, f64::max);
        print(&format!("peak RSS of it, {what}"), &names, "KiB", peaks);
        let mut written = column(&|pulled| pulled.written_bytes as f64 / tree_bytes as f64);
        for (name, ratios) in names.iter().zip(&mut written) {
            let Summary { low, median, high } = Summary::of(ratios);
            println!(
                "| bytes written to the disk by it, {what} | {name} | {:.0} MB | | {median:.3} times the tree's blocks ({low:.3} to {high:.3}) |",
                median * tree_bytes as f64 / 1e6
            );
        }
        let most = |pulled: &[Pulled]| {
            pulled
                .iter()
                .map(|pulled| pulled.written_bytes)
                .max()
                .unwrap_or(0)
        };
        let floor_bytes = pullers
            .iter()
            .position(|puller| *puller == Puller::Tar)
            .map_or(0, |at| most(&pulled[at]));
        let budget_bytes = (floor_bytes as f64 * WRITTEN_RATIO_MAX) as u64 + sizes.written_more_bytes;
        let written_bytes = most(&pulled[0]);
        if peak > PULL_HWM_KIB_MAX as f64 {
            self.over(format!(
                "a pull of {what} has needed {peak} KiB of memory; its budget is {PULL_HWM_KIB_MAX} KiB"
            ));
        }
        if written_bytes > budget_bytes {
            self.over(format!(
                "a pull of {what} has written {written_bytes} bytes; its budget is {budget_bytes}"
            ));
        }
        Ok(())
    }

    fn pull_once(&self, puller: Puller, image: &str, disk: &Disk) -> Result<Pulled> {
        let at = |name: &str| disk.path().join(name);
        let reference = self.reference(image);
        let commands = match puller {
            Puller::Punnet => vec![self.command(&at("data"), &["pull", "--quiet", &reference])],
            Puller::SkopeoUmoci => {
                let layout = format!("{}:1", at("layout").display());
                let mut copy = Command::new("skopeo");
                copy.args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]);
                copy.arg(format!("docker://{reference}"))
                    .arg(format!("oci:{layout}"));
                let mut unpack = Command::new("umoci");
                unpack.args(["unpack", "--image", &layout]).arg(at("bundle"));
                vec![copy, unpack]
            }
            Puller::Podman => {
                let mut pull = Command::new("podman");
                pull.arg("--root")
                    .arg(at("root"))
                    .arg("--runroot")
                    .arg(self.folder.join("podman-run"));
                pull.args(["pull", "--quiet", "--tls-verify=false", &reference]);
                vec![pull]
            }
            Puller::Tar => {
                std::fs::create_dir(at("tree"))?;
                layers_of(&self.layout(image))?
                    .iter()
                    .map(|layer| {
                        let mut tar = Command::new("tar");
                        tar.arg("-C").arg(at("tree")).arg("-xzf").arg(layer);
                        tar
                    })
                    .collect()
            }
        };
        let written_before = disk.written_bytes()?;
        let began = Instant::now();
        let mut peak_kib = 0;
        for mut command in commands {
            peak_kib = peak_kib.max(peak_rss_kib(command.stdout(Stdio::null()))?);
        }
        let ms = elapsed_ms(began);
        disk.sync()?;
        let synced_ms = elapsed_ms(began);
        let pulled = Pulled {
            ms,
            synced_ms,
            peak_kib,
            written_bytes: disk.written_bytes()? - written_before,
        };
        if puller == Puller::Podman {
            // It may leave a mount of its own on the disk.
            let mut reset = Command::new("podman");
            reset
                .arg("--root")
                .arg(at("root"))
                .arg("--runroot")
                .arg(self.folder.join("podman-run"));
            run(reset.args(["rmi", "--all", "--force"]).stdout(Stdio::null()))?;
            let overlay = at("root").join("overlay");
            if overlay.exists() {
                // Fails when it is no mount, which is as well.
                Command::new("umount")
                    .arg(&overlay)
                    .stderr(Stdio::null())
                    .status()?;
            }
        }
        Ok(pulled)
    }
}

/// The blobs of an image's layers, the lowest first.
fn layers_of(layout: &Path) -> Result<Vec<PathBuf>> {
    let blob = |digest: &serde_json::Value| {
        let digest = digest.as_str().unwrap_or_default();
        layout
            .join("blobs/sha256")
            .join(digest.trim_start_matches("sha256:"))
    };
    let read =
        |path: &Path| -> Result<serde_json::Value> { Ok(serde_json::from_slice(&std::fs::read(path)?)?) };
    let index = read(&layout.join("index.json"))?;
    let manifest = read(&blob(&index["manifests"][0]["digest"]))?;
    let layers = manifest["layers"]
        .as_array()
        .context("the manifest has no layers")?;
    Ok(layers.iter().map(|layer| blob(&layer["digest"])).collect())
}

/// Bytes that files below a folder take on the disk.
fn blocks_below(folder: &Path) -> Result<u64> {
    let files = files_of(folder)?;
    let blocks = files
        .values()
        .map(|file| Ok(std::fs::metadata(file)?.blocks() * 512));
    blocks.sum()
}
