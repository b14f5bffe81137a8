//! `cargo xtask oci-validation DIR`: the validation programs of opencontainers/runtime-tools, built in DIR, on punnet-oci beside crun and runc, all in
//! one virtual machine. A table of programs and runtimes; it fails where a test fails on punnet-oci that passes on one of the others.
//!
//! Nothing of the suite is here: docs/runtime-spec.md says how it is built, and what came of it.

use std::collections::BTreeMap;
use std::io::{Read, Seek, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::build::{cargo, existing, root, target_dir};
use crate::packages;
use crate::process::run;
use crate::vm::Machine;

/// The runtimes beside ours.
const REFERENCES: [&str; 2] = ["crun", "runc"];

/// Programs that are needed, and the Debian package of each.
const PROGRAMS: &[(&str, &str)] = &[
    ("crun", "crun"),
    ("runc", "runc"),
    ("secilc", "secilc"),
    ("apparmor_parser", "apparmor"),
];

/// Two of the programs ask for a label, which crun drops and we refuse where the kernel has none: all run where SELinux is on, but this one, which runs
/// where AppArmor is. A kernel has one of them.
const APPARMOR: &str = "linux_process_apparmor_profile";
const WITH_SELINUX: &str = "security=selinux selinux=1 enforcing=0";
const WITH_APPARMOR: &str = "security=apparmor";

/// The profile that it asks for and does not bring; it allows everything.
const PROFILE: &str = "profile acme_secure_profile flags=(attach_disconnected) {
    file, capability, network, mount, umount, pivot_root, signal, ptrace, unix,
}
";

/// How long all of it may take, emulated: some ten minutes are usual.
const TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// How long one program may take: five seconds are usual, but some wait for what never happens on some runtime.
const PROGRAM_TIMEOUT_SECONDS: u32 = 60;

/// Options of `oci-validation`.
#[derive(clap::Args)]
pub struct Options {
    /// Run only the programs whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Print what the programs of punnet-oci have written where tests fail
    #[arg(long)]
    verbose: bool,
    /// Run this punnet-oci on this machine instead of building one and booting a virtual machine
    #[arg(long, value_name = "RUNTIME")]
    here: Option<PathBuf>,
    /// The suite's folder, with `runtimetest` and validation/*/*.t built in it
    folder: PathBuf,
}

/// Runs the suite.
pub fn run_command(options: &Options) -> Result<()> {
    let folder = options.folder.canonicalize().context("cannot find the suite")?;
    if let Some(runtime) = &options.here {
        return compare(runtime, &folder, options);
    }
    packages::ensure(PROGRAMS)?;
    run(cargo().args(["build", "--quiet", "--locked", "--package", "punnet-runtime"]))?;
    let runtime = existing(target_dir().join("debug/punnet-oci"))?;
    let program = std::env::current_exe().context("who am I")?;
    let text = |path: &Path| path.display().to_string();
    let mut command = vec![text(&program), "oci-validation".to_owned(), "--here".to_owned()];
    command.extend([text(&runtime), text(&folder)]);
    command.extend(
        options
            .only
            .iter()
            .flat_map(|only| ["--only".to_owned(), only.clone()]),
    );
    command.extend(options.verbose.then(|| "--verbose".to_owned()));
    let only = options.only.as_deref().unwrap_or_default();
    let all = programs(&folder, only)?;
    let mut failed = Vec::new();
    for (words, wanted) in [(WITH_SELINUX, false), (WITH_APPARMOR, true)] {
        if !all.iter().any(|program| wants_apparmor(program) == wanted) {
            continue;
        }
        let machine = Machine::new(&command)?.with_visible(&text(&folder));
        let code = machine.with_kernel_words(words).run(TIMEOUT)?;
        if code != 0 {
            failed.push(format!("with {words}: exit code {code}"));
        }
    }
    ensure!(
        failed.is_empty(),
        "the validation programs, {}",
        failed.join("; ")
    );
    Ok(())
}

/// Every program on every runtime.
fn compare(runtime: &Path, folder: &Path, options: &Options) -> Result<()> {
    let has_apparmor = load_profile()?;
    load_policy()?;
    let mut programs = programs(folder, options.only.as_deref().unwrap_or_default())?;
    programs.retain(|program| wants_apparmor(program) == has_apparmor);
    let runtimes = std::iter::once(runtime).chain(REFERENCES.iter().map(Path::new));
    let runtimes: Vec<_> = runtimes.collect();
    println!("| program | punnet-oci | crun | runc |\n|---|---|---|---|");
    let (mut whole, mut worse) = (vec![0; runtimes.len()], Vec::new());
    for program in &programs {
        let name = program.file_stem().unwrap_or_default().to_string_lossy();
        let outcomes = runtimes
            .iter()
            .map(|runtime| outcome(program, runtime, folder))
            .collect::<Result<Vec<_>>>()?;
        let cells: Vec<_> = outcomes.iter().map(Outcome::cell).collect();
        println!("| {name} | {} |", cells.join(" | "));
        for (count, outcome) in whole.iter_mut().zip(&outcomes) {
            *count += usize::from(outcome.is_passed());
        }
        let found = outcomes[1..]
            .iter()
            .flat_map(|reference| outcomes[0].worse_than(reference));
        worse.extend(found.map(|test| format!("{name}: {test}")));
        if options.verbose && !outcomes[0].is_passed() {
            println!("{}", outcomes[0].text);
        }
    }
    let counts: Vec<_> = whole.iter().map(ToString::to_string).collect();
    println!("| passed, of {} | {} |", programs.len(), counts.join(" | "));
    worse.dedup();
    ensure!(worse.is_empty(), "worse than a reference:\n{}", worse.join("\n"));
    Ok(())
}

fn wants_apparmor(program: &Path) -> bool {
    program.file_stem().is_some_and(|name| name == APPARMOR)
}

/// Loads the profile where AppArmor is on; whether it is.
fn load_profile() -> Result<bool> {
    let enabled = std::fs::read("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
    if enabled != b"Y\n" {
        return Ok(false);
    }
    let top = Path::new("/sys/kernel/security");
    if !top.join("apparmor").exists() {
        run(Command::new("mount").args(["-t", "securityfs", "none"]).arg(top))?;
    }
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(PROFILE.as_bytes())?;
    run(Command::new("apparmor_parser").arg("--replace").arg(file.path()))?;
    Ok(true)
}

/// Where SELinux is on: the policy that the runtime's own tests have.
fn load_policy() -> Result<()> {
    let top = Path::new("/sys/fs/selinux");
    if !top.exists() {
        return Ok(());
    }
    let policy = tempfile::NamedTempFile::new()?;
    run(Command::new("mount").args(["-t", "selinuxfs", "none"]).arg(top))?;
    run(Command::new("secilc")
        .args(["--policyvers", "33", "--filecontexts", "/dev/null", "--output"])
        .arg(policy.path())
        .arg(root().join("runtime/tests/it/labels.cil")))?;
    // The kernel takes it in one write(2).
    std::fs::write(top.join("load"), std::fs::read(policy.path())?).context("cannot load the SELinux policy")
}

/// validation/NAME/NAME.t
fn programs(folder: &Path, only: &str) -> Result<Vec<PathBuf>> {
    let place = folder.join("validation");
    let entries = std::fs::read_dir(&place).with_context(|| format!("cannot read {}", place.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let program = entry.path().join(format!("{name}.t"));
        if name.contains(only) && program.is_file() {
            found.push(program);
        }
    }
    found.sort();
    ensure!(!found.is_empty(), "no built program in {}", place.display());
    Ok(found)
}

/// What a program said of a runtime.
struct Outcome {
    /// By the words of the test: whether it passed, every time.
    tests: BTreeMap<String, bool>,
    code: Option<i32>,
    text: String,
}

fn outcome(program: &Path, runtime: &Path, folder: &Path) -> Result<Outcome> {
    let mut command = Command::new("timeout");
    let seconds = PROGRAM_TIMEOUT_SECONDS.to_string();
    command.args(["--kill-after", "5", &seconds]).arg(program);
    // Not a pipe: a container that stays would hold it open.
    let mut output = tempfile::tempfile()?;
    command.current_dir(folder).env("RUNTIME", runtime);
    command.stdin(Stdio::null());
    let status = command
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .status()?;
    let mut bytes = Vec::new();
    output.rewind()?;
    output.read_to_end(&mut bytes)?;
    Ok(Outcome::of(
        status.code(),
        String::from_utf8_lossy(&bytes).into_owned(),
    ))
}

impl Outcome {
    /// Reads the Test Anything Protocol (testanything.org). What is skipped is no test.
    fn of(code: Option<i32>, text: String) -> Self {
        let mut tests = BTreeMap::new();
        for line in text.lines() {
            let (passed, rest) = match (line.strip_prefix("ok "), line.strip_prefix("not ok ")) {
                (Some(rest), _) => (true, rest),
                (_, Some(rest)) => (false, rest),
                _ => continue,
            };
            let (words, directive) = rest.split_once(" # ").unwrap_or((rest, ""));
            if directive.starts_with("SKIP") || directive.starts_with("TODO") {
                continue;
            }
            let words = words.trim_start_matches(|letter: char| letter.is_ascii_digit());
            let words = words.trim_start_matches([' ', '-']);
            *tests.entry(words.to_owned()).or_insert(true) &= passed;
        }
        Self { tests, code, text }
    }

    fn is_passed(&self) -> bool {
        self.code == Some(0) && self.tests.values().all(|passed| *passed)
    }

    fn cell(&self) -> String {
        let passed = self.tests.values().filter(|passed| **passed).count();
        let ending = match self.code {
            Some(0) => "",
            Some(124) => ", never ended",
            _ => ", failed",
        };
        match self.tests.len() {
            0 if self.code == Some(0) => "skipped".to_owned(),
            count => format!("{passed}/{count}{ending}"),
        }
    }

    /// What passes there and not here.
    fn worse_than(&self, reference: &Self) -> Vec<String> {
        let failed = |words: &&String| self.tests.get(*words) == Some(&false);
        let passed = reference.tests.iter().filter(|(_, passed)| **passed);
        let mut found: Vec<_> = passed.map(|(words, _)| words).filter(failed).cloned().collect();
        if found.is_empty() && reference.is_passed() && !self.is_passed() {
            found.push("the program as a whole".to_owned());
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::Outcome;

    #[test]
    fn what_passes_elsewhere_and_not_here_is_worse() {
        let of = |code, text: &str| Outcome::of(Some(code), text.to_owned());
        let good = of(0, "TAP version 13\nok 1 - a\nok 2 - b\nok 3 # SKIP no c\n1..3\n");
        assert!(good.is_passed() && good.cell() == "2/2");
        let bad = of(0, "ok 1 - a\nnot ok 2 - b\nok 3 - b\n");
        assert_eq!(
            (bad.cell().as_str(), bad.worse_than(&good)),
            ("1/2", vec!["b".to_owned()])
        );
        assert_eq!(good.worse_than(&bad), Vec::<String>::new());
        let ended = of(1, "ok 1 - a\n");
        assert_eq!(ended.worse_than(&good), ["the program as a whole"]);
        assert_eq!(of(124, "").cell(), "0/0, never ended");
        assert_eq!(of(0, "ok 1 # SKIP no cgroup\n").cell(), "skipped");
    }
}
