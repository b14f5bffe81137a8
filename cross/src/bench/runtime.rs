//! The runtime beside crun and runc: what each command of a container's life takes, and how much memory.
//!
//! All programs run in a mount namespace of their own that shows cgroup v2 alone, so that crun runs on hosts with both kinds of hierarchy.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;
use serde_json::{Value, json};

use super::peak::peak_kib;
use super::{Options, Summary, WARM_UP_ROUNDS};
use crate::packages;
use crate::process::{interrupted, is_installed, shown, status_kib, stdout_of, wait_for};
use crate::stand::elapsed_ms;

/// How long a container may take to start or to end on a loaded machine.
const SETTLE: Duration = Duration::from_secs(60);

/// The most memory any command may have had, KiB: our goal. Nearly all are clean pages of the binary, which the kernel maps 64 KiB at a time; that the functions
/// of the runtime stand side by side keeps it low (`cargo xtask order`). crun: some 3400.
const HWM_KIB_MAX: u64 = 1024;

/// The same of a binary on this machine's C library, where ours cannot be built: its functions stand as they come.
const LOCAL_HWM_KIB_MAX: u64 = 2900;

/// All rows of the runtime.
pub(super) fn rows(punnet: &Path, is_as_shipped: bool, options: &Options) -> Result<()> {
    with_cgroup2_alone(|| measure(punnet, is_as_shipped, options))
}

/// The rows of memory of a binary with the runtime alone, against its budget.
pub(super) fn rows_of_runtime_alone(punnet: &Path) -> Result<()> {
    with_cgroup2_alone(|| {
        let folder = tempfile::tempdir()?;
        let mut runtime = Runtime::punnet(punnet, folder.path())?;
        runtime.name = "punnet oci, the runtime alone";
        peaks(&runtime, Some(HWM_KIB_MAX))
    })
}

fn with_cgroup2_alone(work: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    // A thread has a mount namespace of its own, which its children inherit and which ends with it.
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                show_cgroup2_alone()?;
                work()
            })
            .join()
            .expect("a measuring thread does not panic")
    })
}

fn show_cgroup2_alone() -> Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    const CGROUPS: &str = "/sys/fs/cgroup";
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    // Over whatever is there: both kinds of hierarchy, or v2 already.
    mount(Some("tmpfs"), CGROUPS, Some("tmpfs"), MsFlags::empty(), none)?;
    Ok(mount(
        Some("cgroup2"),
        CGROUPS,
        Some("cgroup2"),
        MsFlags::empty(),
        none,
    )?)
}

fn measure(punnet: &Path, is_as_shipped: bool, options: &Options) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let runtimes = Runtime::usable(punnet, folder.path())?;
    run_true(&runtimes, options.rounds)?;
    life(&runtimes, options.rounds)?;
    memory(&runtimes)?;
    let (ours, peers) = runtimes.split_first().context("ours is the first")?;
    let budget = if is_as_shipped {
        HWM_KIB_MAX
    } else {
        LOCAL_HWM_KIB_MAX
    };
    peaks(ours, Some(budget))?;
    peers.iter().try_for_each(|peer| peaks(peer, None))?;
    one_after_another(&runtimes[0], options.containers)?;
    many(&runtimes[0], options.containers)
}

/// A container runtime, and how it is called.
struct Runtime {
    name: &'static str,
    words: Vec<String>,
    /// Bundles and state.
    folder: PathBuf,
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // It goes with this mount namespace at the latest.
        if geteuid().is_root() {
            umount2(&self.folder.join("state"), MntFlags::MNT_DETACH).ok();
        }
    }
}

/// What a bundle's process is.
#[derive(Clone, Copy)]
enum Bundle {
    True,
    /// The only one without a mount of cgroups, which takes crun milliseconds.
    TrueWithoutCgroups,
    TrueWithSeccomp,
    Sleep,
}

impl Bundle {
    const ALL: [Self; 4] = [
        Self::True,
        Self::TrueWithoutCgroups,
        Self::TrueWithSeccomp,
        Self::Sleep,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::True => "true",
            Self::TrueWithoutCgroups => "true-without-cgroups",
            Self::TrueWithSeccomp => "true-seccomp",
            Self::Sleep => "sleep",
        }
    }

    /// What the row says.
    fn row(self) -> &'static str {
        match self {
            Self::True => "run `true` from a bundle",
            Self::TrueWithoutCgroups => "run `true` without /sys/fs/cgroup",
            Self::TrueWithSeccomp => "run `true` with the default seccomp filter",
            Self::Sleep => "run `sleep`",
        }
    }
}

impl Runtime {
    /// Punnet first, then the peers that run here; of the others it is said why not.
    fn usable(punnet: &Path, folder: &Path) -> Result<Vec<Self>> {
        let ours = Self::punnet(punnet, &folder.join("punnet-oci"))?;
        ours.run_to_end(Bundle::True)?;
        let mut usable = vec![ours];
        let peers: [(&str, &[&str]); 2] = [
            // Without a cgroup where it would need the right to raise limits: the less it does, the harder for us.
            ("crun", &["crun", "--cgroup-manager", "disabled"]),
            ("runc", &["runc"]),
        ];
        for (name, words) in peers {
            if !is_installed(name) {
                println!("| run `true` from a bundle | {name} | SKIPPED: not installed | | |");
                continue;
            }
            let runtime = Self {
                name,
                words: words.iter().map(|word| (*word).to_owned()).collect(),
                folder: folder.join(name),
            };
            runtime.make_bundles(punnet)?;
            match runtime.run_to_end(Bundle::True) {
                Ok(()) => usable.push(runtime),
                Err(error) => println!("| run `true` from a bundle | {name} | SKIPPED: {error:#} | | |"),
            }
        }
        Ok(usable)
    }

    /// Only ours.
    fn punnet(punnet: &Path, folder: &Path) -> Result<Self> {
        let runtime = Self {
            name: "punnet oci",
            words: vec![punnet.display().to_string(), "oci".to_owned()],
            folder: folder.to_owned(),
        };
        runtime.make_bundles(punnet)?;
        Ok(runtime)
    }

    /// Every command of a container's life, done by `each`.
    fn every_command(&self, mut each: impl FnMut(&str, &[String]) -> Result<()>) -> Result<()> {
        let bundle = |bundle| self.bundle(bundle).display().to_string();
        let (runs, with_seccomp, sleeps) = (
            bundle(Bundle::True),
            bundle(Bundle::TrueWithSeccomp),
            bundle(Bundle::Sleep),
        );
        let commands: [(&str, &[&str]); 12] = [
            ("run", &["run", "--bundle", &runs, "bench-run"]),
            (
                "run with the default seccomp filter",
                &["run", "--bundle", &with_seccomp, "bench-run"],
            ),
            ("create", &["create", "--bundle", &sleeps, "bench"]),
            ("start", &["start", "bench"]),
            ("state", &["state", "bench"]),
            ("list", &["list"]),
            ("exec", &["exec", "bench", "/true"]),
            ("ps", &["ps", "bench"]),
            ("pause", &["pause", "bench"]),
            ("resume", &["resume", "bench"]),
            ("kill", &["kill", "bench", "KILL"]),
            ("delete", &["delete", "bench"]),
        ];
        for (what, words) in commands {
            // Here crun has no cgroup, and an ordinary user has none: nothing lists or stops their processes.
            if ["ps", "pause", "resume"].contains(&what) && (self.name == "crun" || !geteuid().is_root()) {
                continue;
            }
            if what == "delete" {
                self.wait_until("stopped")?;
            }
            each(what, &self.words_of(words)).with_context(|| self.words_of(words).join(" "))?;
        }
        Ok(())
    }

    fn make_bundles(&self, punnet: &Path) -> Result<()> {
        let state = self.folder.join("state");
        std::fs::create_dir_all(&state)?;
        // All keep it below /run, which is RAM.
        if geteuid().is_root() {
            let none = None::<&str>;
            mount(Some("tmpfs"), &state, Some("tmpfs"), MsFlags::empty(), none)?;
        }
        for bundle in Bundle::ALL {
            let folder = self.bundle(bundle);
            std::fs::create_dir_all(folder.join("rootfs"))?;
            for applet in ["true", "sleep"] {
                std::fs::copy(packages::busybox()?, folder.join("rootfs").join(applet))?;
            }
            stdout_of(Command::new(punnet).args(["oci", "spec"]).current_dir(&folder))?;
            let path = folder.join("config.json");
            let mut spec = serde_json::from_slice(&std::fs::read(&path)?)?;
            prepare(&mut spec, bundle)?;
            std::fs::write(&path, serde_json::to_vec(&spec)?)?;
        }
        Ok(())
    }

    fn bundle(&self, bundle: Bundle) -> PathBuf {
        self.folder.join(bundle.name())
    }

    fn words_of(&self, words: &[&str]) -> Vec<String> {
        let state = self.folder.join("state").display().to_string();
        let all = self.words.iter().map(String::as_str);
        let all = all.chain(["--root", &state]).chain(words.iter().copied());
        all.map(str::to_owned).collect()
    }

    fn command(&self, words: &[&str]) -> Command {
        let words = self.words_of(words);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        command
    }

    fn do_it(&self, words: &[&str]) -> Result<()> {
        succeeds(&mut self.command(words))
    }

    fn run_to_end(&self, bundle: Bundle) -> Result<()> {
        self.do_it(&[
            "run",
            "--bundle",
            &self.bundle(bundle).display().to_string(),
            "bench",
        ])
    }

    fn state(&self) -> Result<Value> {
        Ok(serde_json::from_str(&stdout_of(
            &mut self.command(&["state", "bench"]),
        )?)?)
    }

    fn wait_until(&self, status: &str) -> Result<()> {
        wait_for(&format!("a container that is {status}"), SETTLE, || {
            Ok(self
                .state()
                .ok()
                .filter(|state| state["status"] == status)
                .map(drop))
        })
    }
}

fn succeeds(command: &mut Command) -> Result<()> {
    // Not over pipes: a container that goes on living would hold them open.
    let log = tempfile::NamedTempFile::new()?;
    let status = command
        .stdout(Stdio::null())
        .stderr(log.reopen()?)
        .status()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    ensure!(
        status.success(),
        "{}",
        std::fs::read_to_string(log.path())?.trim()
    );
    Ok(())
}

/// What `punnet oci spec` writes, with the mounts that `spec` of crun and of runc write too, and what all peers and hosts take: five namespaces, no limits to
/// raise, no terminal.
fn prepare(spec: &mut Value, bundle: Bundle) -> Result<()> {
    // The oldest version all peers in use accept.
    spec["ociVersion"] = "1.0.2".into();
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = match bundle {
        Bundle::Sleep => json!(["/sleep", "1000000"]),
        _ => json!(["/true"]),
    };
    // Raising a limit needs a capability that a container host may lack.
    spec["process"]["rlimits"] = json!([]);
    let linux = spec["linux"]
        .as_object_mut()
        .context("the specification has no linux part")?;
    if !matches!(bundle, Bundle::TrueWithSeccomp) {
        linux.remove("seccomp");
    } else if !linux.contains_key("seccomp") {
        let filter = punnet_runtime::seccomp::default_seccomp(&[]);
        linux.insert(
            "seccomp".into(),
            serde_json::from_slice(&punnet_json::to_vec(&filter))?,
        );
    }
    linux.remove("resources");
    let wanted = ["pid", "mount", "network", "ipc", "uts"].map(|kind| json!({ "type": kind }));
    linux.insert("namespaces".into(), wanted.into_iter().collect());
    if matches!(bundle, Bundle::TrueWithoutCgroups) {
        let mounts = spec["mounts"].as_array_mut();
        let mounts = mounts.context("the specification has no mounts")?;
        mounts.retain(|mount| mount["type"] != "cgroup");
    }
    Ok(())
}

/// Wall time of `run`, and of the bare kernel work: unshare(1) with the same namespaces.
fn run_true(runtimes: &[Runtime], rounds: usize) -> Result<()> {
    for bundle in [Bundle::True, Bundle::TrueWithoutCgroups, Bundle::TrueWithSeccomp] {
        let mut samples = vec![Vec::new(); runtimes.len() + 1];
        for round in 0..WARM_UP_ROUNDS + rounds {
            for (index, samples) in samples.iter_mut().enumerate() {
                ensure!(!interrupted(), "interrupted");
                let began = Instant::now();
                match runtimes.get(index) {
                    Some(runtime) => runtime.run_to_end(bundle)?,
                    None => succeeds(Command::new("unshare").args(["-pmnuif", "/bin/true"]))?,
                }
                if round >= WARM_UP_ROUNDS {
                    samples.push(elapsed_ms(began));
                }
            }
        }
        let names = runtimes
            .iter()
            .map(|runtime| runtime.name)
            .chain(["unshare -pmnuif"]);
        print(bundle.row(), names, samples);
    }
    Ok(())
}

fn print<'a>(what: &str, names: impl Iterator<Item = &'a str>, mut samples: Vec<Vec<f64>>) {
    let ours = Summary::of(&mut samples[0]).median;
    for (name, mut samples) in names.zip(samples) {
        Summary::of(&mut samples).print(what, name, "ms", ours);
    }
}

/// Each command of a container's life.
fn life(runtimes: &[Runtime], rounds: usize) -> Result<()> {
    const STEPS: [&str; 5] = ["create", "start", "exec", "kill", "delete"];
    // By step, then by runtime.
    let mut samples = vec![vec![Vec::new(); runtimes.len()]; STEPS.len()];
    for round in 0..WARM_UP_ROUNDS + rounds {
        for (index, runtime) in runtimes.iter().enumerate() {
            ensure!(!interrupted(), "interrupted");
            let bundle = runtime.bundle(Bundle::Sleep).display().to_string();
            let commands: [&[&str]; STEPS.len()] = [
                &["create", "--bundle", &bundle, "bench"],
                &["start", "bench"],
                &["exec", "bench", "/true"],
                &["kill", "bench", "KILL"],
                &["delete", "bench"],
            ];
            for (step, words) in commands.into_iter().enumerate() {
                if STEPS[step] == "delete" {
                    runtime.wait_until("stopped")?;
                }
                let began = Instant::now();
                runtime.do_it(words)?;
                if round >= WARM_UP_ROUNDS {
                    samples[step][index].push(elapsed_ms(began));
                }
            }
        }
    }
    for (step, samples) in STEPS.into_iter().zip(samples) {
        print(step, runtimes.iter().map(|runtime| runtime.name), samples);
    }
    Ok(())
}

/// How long `run` has to come to rest once its container runs.
const REST: Duration = Duration::from_millis(200);

/// What `run` keeps while its container runs, whose parent it is.
fn memory(runtimes: &[Runtime]) -> Result<()> {
    let mut ours = None;
    for runtime in runtimes {
        let bundle = runtime.bundle(Bundle::Sleep).display().to_string();
        let mut child = runtime
            .command(&["run", "--bundle", &bundle, "bench"])
            .spawn()
            .context("cannot start a runtime")?;
        let resident = runtime.wait_until("running").and_then(|()| {
            std::thread::sleep(REST);
            status_kib(&format!("/proc/{}/status", child.id()), "VmRSS:")
        });
        runtime.do_it(&["kill", "bench", "KILL"])?;
        child.wait()?;
        let resident = resident?;
        let ours = *ours.get_or_insert(resident);
        println!(
            "| RSS of `run` while its container runs | {} | {resident} KiB | | {:.2} |",
            runtime.name,
            resident as f64 / ours as f64
        );
    }
    Ok(())
}

/// The most memory each command has had, against the budget if there is one. What a container's own process takes before it is the program is not in it.
fn peaks(runtime: &Runtime, budget_kib: Option<u64>) -> Result<()> {
    read_anew(Path::new(&runtime.words[0]))?;
    runtime.every_command(|what, words| {
        let peak = peak_kib(words)?;
        println!("| peak RSS of `{what}` | {} | {peak} KiB | | |", runtime.name);
        let Some(budget) = budget_kib else {
            return Ok(());
        };
        ensure!(
            peak <= budget,
            "`{what}` has needed {peak} KiB of memory; its budget is {budget} KiB: `cargo xtask order` puts the functions side by side that are needed by now"
        );
        Ok(())
    })
}

/// Of a file that was just written, Linux maps the large pieces it was written in; a board's program has been read from its disk.
fn read_anew(program: &Path) -> Result<()> {
    let Ok(file) = std::fs::File::open(program) else {
        return Ok(());
    };
    file.sync_all()?;
    Ok(posix_fadvise(
        &file,
        0,
        0,
        PosixFadviseAdvice::POSIX_FADV_DONTNEED,
    )?)
}

/// Does every command of a container's life through `each`, which is told what it is and in which words, and waits for its end.
pub(crate) fn every_command(
    punnet: &Path,
    each: impl FnMut(&str, &[String]) -> Result<()> + Send,
) -> Result<()> {
    with_cgroup2_alone(|| {
        let folder = tempfile::tempdir()?;
        Runtime::punnet(punnet, folder.path())?.every_command(each)
    })
}

/// Many containers, each gone before the next: whether the last takes as long as the first.
fn one_after_another(runtime: &Runtime, count: usize) -> Result<()> {
    let mut samples = Vec::new();
    for _ in 0..count {
        ensure!(!interrupted(), "interrupted");
        let began = Instant::now();
        runtime.run_to_end(Bundle::True)?;
        samples.push(elapsed_ms(began));
    }
    print_tenths(
        &format!("one of {count} after another"),
        runtime.name,
        &mut samples,
    );
    Ok(())
}

fn print_tenths(what: &str, name: &str, samples: &mut [f64]) {
    let tenth = (samples.len() / 10).max(1);
    let at = samples.len() - tenth;
    let last = Summary::of(&mut samples[at..]).median;
    let first = Summary::of(&mut samples[..tenth]).median;
    println!(
        "| {what}, first / last tenth | {name} | {first:.1} / {last:.1} ms | | {:.2} |",
        last / first
    );
}

/// What a folder takes of the file system it is in, KiB: of RAM, where that is tmpfs.
fn taken_kib(folder: &Path) -> Result<u64> {
    let text = stdout_of(Command::new("du").arg("-sk").arg(folder))?;
    let first = text.split_whitespace().next().context("du has said nothing")?;
    Ok(first.parse()?)
}

/// Many containers, each staying: whether the last takes as long as the first.
fn many(runtime: &Runtime, count: usize) -> Result<()> {
    let bundle = runtime.bundle(Bundle::Sleep).display().to_string();
    let mut samples = Vec::new();
    let mut started = 0;
    let outcome = (0..count).try_for_each(|number| {
        ensure!(!interrupted(), "interrupted");
        let began = Instant::now();
        runtime.do_it(&["run", "--detach", "--bundle", &bundle, &format!("many-{number}")])?;
        samples.push(elapsed_ms(began));
        started += 1;
        Ok(())
    });
    let state_kib = taken_kib(&runtime.folder.join("state"))?;
    for number in 0..started {
        runtime.do_it(&["delete", "--force", &format!("many-{number}")])?;
    }
    outcome?;
    print_tenths(&format!("one of {count} kept alive"), runtime.name, &mut samples);
    println!(
        "| state for each of {count} kept alive, no process | {} | {} KiB | | |",
        runtime.name,
        state_kib.div_ceil(count as u64)
    );
    Ok(())
}
