//! `cargo xtask bench`: speed and memory, beside the peers that are installed, in one run.
//!
//! Programs take turns, so that a slow second hits all of them; each row gives median, quartiles and the ratio of medians to ours.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::process::{interrupted, is_installed, output_of, run, stdout_of};
use crate::stand::{Broker, Programs, Stand, elapsed_ms};

/// Rounds thrown away before measuring: caches and cgroup creation settle.
const WARM_UP_ROUNDS: usize = 3;

/// Containers kept alive for the memory row.
const CONTAINERS: usize = 10;

/// Options of `bench`.
#[derive(clap::Args)]
pub struct Options {
    /// Measured rounds of each row
    #[arg(long, default_value_t = 30)]
    rounds: usize,
    /// Rounds of the deployment row, each of which takes about a second
    #[arg(long, default_value_t = 5)]
    deployments: usize,
    /// Use the programs in this folder instead of building them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

impl Options {
    /// Enough to see every row made: the tests assert no time.
    pub fn shortest() -> Self {
        Self {
            rounds: 3,
            deployments: 1,
            programs: None,
        }
    }
}

/// Runs all rows.
pub fn run_all(options: &Options) -> Result<()> {
    let programs = match &options.programs {
        Some(folder) => Programs::in_folder(folder),
        None => Programs::build()?,
    };
    println!("| what | program | median | quartiles | ratio to punnet |\n|---|---|---|---|---|");
    run_from_bundle(&programs.punnet, options.rounds)?;
    build_rows(Stand::new(programs.clone())?, options.rounds)?;
    fleet_rows(programs, options.deployments)
}

/// Wall time of `run` of a bundle whose process is a static `true`.
fn run_from_bundle(punnet: &Path, rounds: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut runtimes = vec![Runtime {
        name: "punnet oci",
        program: punnet.into(),
        words: &["oci"],
    }];
    runtimes.extend(
        ["crun", "runc"]
            .into_iter()
            .filter(|name| is_installed(name))
            .map(Runtime::peer),
    );
    for (runtime, usable) in runtimes.iter().map(|runtime| {
        (
            runtime,
            make_bundle(punnet, folder.path(), runtime).and_then(|()| runtime.run_once(folder.path())),
        )
    }) {
        if let Err(error) = usable {
            println!(
                "| run `true` from a bundle | {} | SKIPPED: {error:#} | | |",
                runtime.name
            );
        }
    }
    runtimes.retain(|runtime| runtime.run_once(folder.path()).is_ok());
    let mut samples = vec![Vec::new(); runtimes.len()];
    for round in 0..WARM_UP_ROUNDS + rounds {
        for (runtime, samples) in runtimes.iter().zip(&mut samples) {
            ensure!(!interrupted(), "interrupted");
            let began = Instant::now();
            runtime.run_once(folder.path())?;
            if round >= WARM_UP_ROUNDS {
                samples.push(elapsed_ms(began));
            }
        }
    }
    let ours = Summary::of(&mut samples[0]).median;
    for (runtime, samples) in runtimes.iter().zip(&mut samples) {
        Summary::of(samples).print("run `true` from a bundle", runtime.name, "ms", ours);
    }
    Ok(())
}

/// The scratch example from a Containerfile into the store: with nothing there, and again with nothing changed.
fn build_rows(stand: Stand, rounds: usize) -> Result<()> {
    let context = stand.hello_context()?;
    let mut samples = vec![Vec::new(); 3];
    let quiet = |mut command: Command| run(command.stdout(Stdio::null()).stderr(Stdio::null()));
    let timed = |mut command: Command| -> Result<f64> {
        command.arg(&context);
        let began = Instant::now();
        quiet(command)?;
        Ok(elapsed_ms(began))
    };
    let has_peer = is_installed("buildah") && nix::unistd::geteuid().is_root();
    for round in 0..WARM_UP_ROUNDS + rounds {
        ensure!(!interrupted(), "interrupted");
        let mut taken = vec![
            timed(stand.punnet(&["build", "--quiet", "--tag", "bench", "--no-cache"]))?,
            timed(stand.punnet(&["build", "--quiet", "--tag", "bench"]))?,
        ];
        quiet(stand.punnet(&["rmi", "bench"]))?;
        if has_peer {
            let mut buildah = Command::new("buildah");
            buildah.arg("--root").arg(stand.path().join("buildah"));
            buildah.arg("--runroot").arg(stand.path().join("buildah-run"));
            buildah.args([
                "--storage-driver",
                "vfs",
                "build",
                "--quiet",
                "--no-cache",
                "--isolation",
                "chroot",
            ]);
            taken.push(timed(buildah)?);
        }
        if round >= WARM_UP_ROUNDS {
            samples.iter_mut().zip(taken).for_each(|(row, ms)| row.push(ms));
        }
    }
    let what = "build of the scratch example";
    let ours = Summary::of(&mut samples[0]).median;
    for (row, program) in samples
        .iter_mut()
        .zip(["punnet", "punnet, nothing changed", "buildah"])
    {
        if row.is_empty() {
            println!("| {what} | {program} | SKIPPED: not installed, or not root | | |");
        } else {
            Summary::of(row).print(what, program, "ms", ours);
        }
    }
    stand.remove()
}

/// Deployment to first output, and the agent's memory.
fn fleet_rows(programs: Programs, deployments: usize) -> Result<()> {
    let mut stand = Stand::new(programs)?;
    let archive = stand.build_hello()?;
    stand.start_controller(Broker::Embedded)?;
    stand.enrol("bench")?;
    stand.start_agent()?;
    stand.wait_online("bench")?;
    stand.add_image(&archive)?;
    let idle_kib = stand.agent_pss_kib()?;
    let mut samples = Vec::new();
    for round in 0..deployments {
        let app = format!("round-{round}");
        let began = Instant::now();
        stand.deploy(&app, "bench")?;
        stand.first_lines(&app, "bench", 1)?;
        samples.push(elapsed_ms(began));
        run(stand
            .fleet(&["rm", "--app", &app, "--device", "bench"])
            .stdout(Stdio::null()))?;
    }
    let median = Summary::of(&mut samples).median;
    Summary::of(&mut samples).print(
        "deploy command to first output over MQTT",
        "punnet-fleet + agent",
        "ms",
        median,
    );
    for index in 0..CONTAINERS {
        stand.deploy(&format!("kept-{index}"), "bench")?;
    }
    let busy_kib = stand.agent_pss_kib()?;
    println!(
        "| manager memory (PSS), idle / {CONTAINERS} containers | punnet agent | {idle_kib} / {busy_kib} KiB | | 1.00 |"
    );
    match dockerd_pss_kib()? {
        Some(kib) => println!(
            "| manager memory (PSS), as it is now | dockerd + containerd | {kib} KiB | | {:.1} |",
            kib as f64 / busy_kib as f64
        ),
        None => println!("| manager memory (PSS) | dockerd | SKIPPED: none is running | | |"),
    }
    stand.remove()
}

/// PSS of a Docker engine that is running already.
fn dockerd_pss_kib() -> Result<Option<u64>> {
    let mut total = None;
    for name in ["dockerd", "containerd", "containerd-shim-runc-v2"] {
        // No such process is pgrep's exit code 1 and no output.
        let pids = output_of(Command::new("pgrep").args(["-x", &name[..name.len().min(15)]]))?.stdout;
        for pid in String::from_utf8_lossy(&pids).lines() {
            *total.get_or_insert(0) += crate::process::pss_kib(pid.parse()?)?;
        }
    }
    Ok(total)
}

struct Runtime {
    name: &'static str,
    program: PathBuf,
    words: &'static [&'static str],
}

impl Runtime {
    fn peer(name: &'static str) -> Self {
        Self {
            name,
            program: name.into(),
            words: &[],
        }
    }

    fn bundle(&self, folder: &Path) -> PathBuf {
        folder.join(self.program.file_name().unwrap_or_default())
    }

    fn run_once(&self, folder: &Path) -> Result<()> {
        let mut command = Command::new(&self.program);
        command
            .args(self.words)
            .arg("--root")
            .arg(folder.join("state"))
            .arg("run")
            .arg("--bundle")
            .arg(self.bundle(folder))
            .arg("bench");
        let output = output_of(command.stdin(Stdio::null()))?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}

/// The specification every runtime is given: what `punnet oci spec` writes, five namespaces, no seccomp, no terminal.
fn make_bundle(punnet: &Path, folder: &Path, runtime: &Runtime) -> Result<()> {
    let bundle = runtime.bundle(folder);
    std::fs::create_dir_all(bundle.join("rootfs"))?;
    std::fs::copy(static_true()?, bundle.join("rootfs/true"))?;
    stdout_of(Command::new(punnet).args(["oci", "spec"]).current_dir(&bundle))?;
    let path = bundle.join("config.json");
    let mut spec: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    // The oldest version all peers in use accept.
    spec["ociVersion"] = "1.0.2".into();
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = serde_json::json!(["/true"]);
    // Raising a limit needs a capability that a container host may lack.
    spec["process"]["rlimits"] = serde_json::json!([]);
    spec["linux"]["seccomp"].take();
    spec["linux"]
        .as_object_mut()
        .context("the specification has no linux part")?
        .remove("seccomp");
    let wanted = ["pid", "mount", "network", "ipc", "uts"].map(|kind| serde_json::json!({ "type": kind }));
    spec["linux"]["namespaces"] = wanted.into_iter().collect();
    let mounts = spec["mounts"]
        .as_array_mut()
        .context("the specification has no mounts")?;
    mounts.retain(|mount| mount["type"] != "cgroup");
    Ok(std::fs::write(&path, serde_json::to_vec(&spec)?)?)
}

/// busybox, which is `true` when it is called so.
fn static_true() -> Result<PathBuf> {
    let found = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.is_file());
    found.context("busybox is not installed (Debian: busybox-static)")
}

struct Summary {
    low: f64,
    median: f64,
    high: f64,
}

impl Summary {
    fn of(samples: &mut [f64]) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |part: f64| samples[((samples.len() - 1) as f64 * part).round() as usize];
        Self {
            low: at(0.25),
            median: at(0.5),
            high: at(0.75),
        }
    }

    fn print(&self, what: &str, program: &str, unit: &str, ours: f64) {
        let Self { low, median, high } = self;
        println!(
            "| {what} | {program} | {median:.1} {unit} | {low:.1} to {high:.1} | {:.2} |",
            median / ours
        );
    }
}
