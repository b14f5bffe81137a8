//! `cargo xtask engines`: podman, dockerd and containerd on punnet-oci, in the virtual machine, where limits act and nothing of the host's can
//! be harmed. Each thing an engine does is a check with a name; all are made, and the failed ones are named at the end.
//!
//! The host's part builds the runtime and starts the machine, in which this program runs again with `--here`.

mod containerd;
mod docker;
mod habits;
mod images;
mod podman;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::build::{Strip, cargo, device_binary, existing, target_dir};
use crate::packages;
use crate::process::{output_of, run};
use crate::vm::Machine;

/// Programs the checks need, and the Debian package of each.
const PROGRAMS: &[(&str, &str)] = &[
    ("podman", "podman"),
    ("conmon", "conmon"),
    ("dockerd", "docker.io"),
    ("containerd", "containerd"),
    ("iptables", "iptables"),
    ("busybox", "busybox-static"),
];

/// How long all of it may take: some three minutes are usual, with every engine emulated.
const TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// How long one command of an engine may take, and one condition may be waited for. Five seconds are usual.
const PATIENCE: Duration = Duration::from_secs(120);

/// Programs of busybox that the image has.
const APPLETS: &[&str] = &[
    "sh", "cat", "echo", "sleep", "id", "tty", "env", "pwd", "tail", "test",
];

/// The service that the checks look at from outside.
const SERVICE: &str =
    "echo started; echo kept >> /data/file; trap 'echo stopping; exit 0' TERM; while :; do sleep 0.1; done";

/// Options of `engines`.
#[derive(clap::Args)]
pub struct Options {
    /// Check another runtime instead, which is installed: crun or runc
    #[arg(long)]
    runtime: Option<PathBuf>,
    /// Run on this machine instead of a virtual one
    #[arg(long, requires = "punnet")]
    here: bool,
    /// The device binary whose images the engines get, instead of one that is built
    #[arg(long)]
    punnet: Option<PathBuf>,
}

impl Options {
    /// What CI checks.
    pub fn of_ours() -> Self {
        Self {
            runtime: None,
            here: false,
            punnet: None,
        }
    }
}

/// Runs the checks.
pub fn run_all(options: &Options) -> Result<()> {
    if options.here {
        let runtime = options.runtime.as_deref().context("--here needs --runtime")?;
        let punnet = options.punnet.as_deref().context("--here needs --punnet")?;
        return check_all(runtime, punnet);
    }
    packages::ensure(PROGRAMS)?;
    let runtime = match &options.runtime {
        Some(runtime) => runtime.clone(),
        None => {
            run(cargo().args(["build", "--quiet", "--locked", "--package", "punnet-runtime"]))?;
            existing(target_dir().join("debug/punnet-oci"))?
        }
    };
    let program = std::env::current_exe().context("who am I")?;
    let punnet = match &options.punnet {
        Some(punnet) => punnet.clone(),
        None => device_binary("punnet", &[], Strip::Yes)?,
    };
    let mut command = vec![
        program.display().to_string(),
        "engines".to_owned(),
        "--here".to_owned(),
    ];
    for (option, path) in [("--runtime", &runtime), ("--punnet", &punnet)] {
        command.extend([option.to_owned(), path.display().to_string()]);
    }
    let code = Machine::new(&command)?.run(TIMEOUT)?;
    ensure!(code == 0, "checks of the engines failed in the virtual machine");
    Ok(())
}

/// Podman beside docker and containerd: the machine has two processors.
fn check_all(runtime: &Path, punnet: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let image = image(folder.path())?;
    let failed = std::thread::scope(|scope| {
        let podman = scope.spawn(|| podman::check(runtime, &image, punnet, folder.path()));
        let others = scope.spawn(|| docker::check(runtime, &image, punnet, folder.path()));
        let mut failed = Vec::new();
        for thread in [podman, others] {
            match thread.join() {
                Ok(Ok(more)) => failed.extend(more),
                Ok(Err(error)) => failed.push(format!("{error:#}")),
                Err(_) => failed.push("a thread of the checks panicked".to_owned()),
            }
        }
        failed
    });
    ensure!(failed.is_empty(), "failed: {}", failed.join("; "));
    Ok(())
}

/// The root file system of the image all engines import: a static busybox, as a tar archive.
fn image(folder: &Path) -> Result<PathBuf> {
    let root = folder.join("root");
    for name in ["bin", "etc", "tmp"] {
        std::fs::create_dir_all(root.join(name))?;
    }
    std::fs::copy(packages::busybox()?, root.join("bin/busybox"))?;
    for applet in APPLETS {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
    }
    std::fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/:/bin/sh\nuser:x:7:8::/home:/bin/sh\n",
    )?;
    std::fs::write(root.join("etc/group"), "root:x:0:\ngroup:x:8:\n")?;
    std::fs::write(root.join("etc/text"), "not a program\n")?;
    let archive = folder.join("root.tar");
    run(Command::new("tar")
        .arg("-C")
        .arg(&root)
        .arg("-cf")
        .arg(&archive)
        .arg("."))?;
    Ok(archive)
}

/// What a command answered.
#[derive(Debug)]
struct Answer {
    code: Option<i32>,
    out: String,
    err: String,
}

/// An engine's command line.
struct Engine {
    name: &'static str,
    words: Vec<String>,
}

impl Engine {
    fn new(name: &'static str, words: &[&str]) -> Self {
        Self {
            name,
            words: words.iter().map(|word| (*word).to_owned()).collect(),
        }
    }

    /// Runs a command to its end, whatever comes of it.
    fn call(&self, words: &[&str]) -> Result<Answer> {
        let mut command = Command::new("timeout");
        command
            .arg(PATIENCE.as_secs().to_string())
            .args(&self.words)
            .args(words)
            .stdin(std::process::Stdio::null());
        let output = output_of(&mut command)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        Ok(Answer {
            code: output.status.code(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        })
    }

    /// Runs a command that must succeed; what it printed.
    fn ok(&self, words: &[&str]) -> Result<String> {
        let answer = self.call(words)?;
        ensure!(
            answer.code == Some(0),
            "{} {}: {answer:?}",
            self.name,
            words.join(" ")
        );
        Ok(answer.out)
    }
}

/// Makes the checks of one engine and remembers which failed.
struct Checks {
    engine: &'static str,
    failed: Vec<String>,
}

impl Checks {
    fn new(engine: &'static str) -> Self {
        Self {
            engine,
            failed: Vec::new(),
        }
    }

    /// One check; the next are made whatever comes of it.
    fn check(&mut self, name: &str, check: impl FnOnce() -> Result<()>) {
        let began = Instant::now();
        let result = check();
        let seconds = began.elapsed().as_secs_f64();
        match result {
            Ok(()) => println!("{} {name} ... ok ({seconds:.0} s)", self.engine),
            Err(error) => {
                println!("{} {name} ... FAILED ({seconds:.0} s): {error:#}", self.engine);
                self.failed.push(format!("{} {name}", self.engine));
            }
        }
    }
}

/// An ordinary user's PATH may leave out where servers look for mount(8) and others.
fn path_with_sbin() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin:/sbin")
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    bail!("{what}: found {found:?}, wanted {wanted:?}")
}
