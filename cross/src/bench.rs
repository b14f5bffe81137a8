//! `cargo xtask bench`: speed and memory, beside the peers that are installed, in one run.
//!
//! Programs take turns, so that a slow second hits all of them; each row gives median, quartiles and the ratio of medians to ours.

mod disk;
mod entries;
mod images;
mod offer;
mod peak;
mod pull;
pub(crate) mod runtime;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use punnet_boards::Arch;

use crate::cross::Compiler;
use crate::process::{interrupted, is_installed, output_of, run};
use crate::stand::{Broker, Programs, Stand, elapsed_ms};

/// Rounds thrown away before measuring: caches and cgroup creation settle.
const WARM_UP_ROUNDS: usize = 3;

/// Containers kept alive for the memory row of the agent.
const CONTAINERS: usize = 10;

/// PSS of the agent with that many containers, KiB: our goal, and a test.
const AGENT_PSS_KIB_MAX: u64 = 2048;

/// The agent gives back what it needed to start once nothing has happened for 3 s; a new app counts as good, which is an event, after 5 s.
const REST: Duration = Duration::from_secs(12);

/// Options of `bench`.
#[derive(clap::Args)]
pub struct Options {
    /// Measured rounds of each row
    #[arg(long, default_value_t = 30)]
    rounds: usize,
    /// Containers of the rows that start many
    #[arg(long, default_value_t = 100)]
    containers: usize,
    /// Rounds of the deployment row, each of which takes about a second
    #[arg(long, default_value_t = 5)]
    deployments: usize,
    /// Pull 300 MB in many files and 1 GiB in one, instead of a twentieth of that: takes some ten minutes and 10 GB
    #[arg(long)]
    full: bool,
    /// Only the rows of images
    #[arg(long)]
    images: bool,
    /// Use the programs in this folder instead of building them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

impl Options {
    /// Enough to see every row made: the tests assert no time.
    pub fn shortest() -> Self {
        Self {
            rounds: 3,
            containers: 10,
            deployments: 1,
            full: false,
            images: false,
            programs: None,
        }
    }
}

/// Runs all rows.
pub fn run_all(options: &Options) -> Result<()> {
    let (mut programs, compiler) = match &options.programs {
        Some(folder) => (Programs::in_folder(folder), None),
        None => (Programs::build()?, compiler_as_shipped()),
    };
    let mut runtime_alone = None;
    if let Some((compiler, arch)) = compiler {
        programs.punnet = compiler.build("punnet", arch, &[])?;
        // The rows of images have nothing of it.
        if !options.images {
            runtime_alone = Some(compiler.build("punnet", arch, &["runtime"])?);
        }
    }
    println!("| what | program | median | quartiles | ratio to punnet |\n|---|---|---|---|---|");
    if !options.images {
        runtime::rows(&programs.punnet, runtime_alone.is_some(), options)?;
        if let Some(punnet) = runtime_alone {
            runtime::rows_of_runtime_alone(&punnet)?;
        }
    }
    images::rows(&programs.punnet, options)?;
    if options.images {
        return Ok(());
    }
    build_rows(Stand::new(programs.clone())?, options.rounds)?;
    fleet_rows(programs, options.deployments)
}

/// What builds the device binary that boards get, on musl, where it can be built here.
fn compiler_as_shipped() -> Option<(Compiler, Arch)> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => Arch::Amd64,
        "aarch64" => Arch::Arm64,
        _ => return None,
    };
    match Compiler::find() {
        Ok(compiler) => Some((compiler, arch)),
        Err(error) => {
            println!("    (measured with this machine's C library, not with musl: {error:#})");
            None
        }
    }
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
    let idle_kib = pss_at_rest_kib(&stand)?;
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
    let busy_kib = pss_at_rest_kib(&stand)?;
    println!(
        "| manager memory (PSS), idle / {CONTAINERS} containers | punnet agent | {idle_kib} / {busy_kib} KiB | | 1.00 |"
    );
    println!(
        "| manager memory (PSS) for each of {CONTAINERS} containers | punnet agent | {} KiB | | |",
        busy_kib.saturating_sub(idle_kib).div_ceil(CONTAINERS as u64)
    );
    match dockerd_pss_kib()? {
        Some(kib) => println!(
            "| manager memory (PSS), as it is now | dockerd + containerd | {kib} KiB | | {:.1} |",
            kib as f64 / busy_kib as f64
        ),
        None => println!("| manager memory (PSS) | dockerd | SKIPPED: none is running | | |"),
    }
    stand.remove()?;
    ensure!(
        busy_kib <= AGENT_PSS_KIB_MAX,
        "the agent's memory with {CONTAINERS} containers is {busy_kib} KiB; its budget is {AGENT_PSS_KIB_MAX} KiB"
    );
    Ok(())
}

/// The agent's memory once it rests; it may just have been woken, as by a report that was due.
fn pss_at_rest_kib(stand: &Stand) -> Result<u64> {
    const TRIES: usize = 20;
    std::thread::sleep(REST);
    let mut kib = stand.agent_pss_kib()?;
    for _ in 1..TRIES {
        if kib <= AGENT_PSS_KIB_MAX {
            break;
        }
        std::thread::sleep(Duration::from_secs(1));
        kib = stand.agent_pss_kib()?;
    }
    Ok(kib)
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
