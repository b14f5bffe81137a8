//! The tools: the demo interrupted and kept, and what is missing on a machine.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use xtask::stand::Programs;

use crate::support::{ok, output, programs, xtask};

/// The demo on the programs of this build; all it makes lies in `folder`.
fn demo(folder: &Path) -> Command {
    let [programs_folder, made] = ["programs", "made"].map(|name| folder.join(name));
    std::fs::create_dir(&programs_folder).unwrap();
    std::fs::create_dir(&made).unwrap();
    let Programs { punnet, fleet, hello } = programs();
    for (program, name) in [(punnet, "punnet"), (fleet, "punnet-fleet"), (hello, "hello")] {
        symlink(program, programs_folder.join(name)).unwrap();
    }
    let mut command = Command::new(xtask());
    command.args(["demo", "--programs"]).arg(programs_folder);
    command.env("TMPDIR", made);
    command
}

#[track_caller]
fn assert_nothing_left(folder: &Path) {
    let made: Vec<_> = std::fs::read_dir(folder.join("made")).unwrap().collect();
    assert!(made.is_empty(), "{made:?}");
    let processes = Command::new("pgrep")
        .args(["--list-full", "--full"])
        .arg(folder)
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&processes.stdout),
        "",
        "processes outlived the demo"
    );
}

#[test]
fn ctrl_c_cleans_up_wherever_the_demo_is() {
    for moment in ["starting the controller", "enrolling", "deploying", "cleaning up"] {
        let folder = tempfile::tempdir().unwrap();
        // A process group of its own is what a terminal gives a command, and what Ctrl-C signals.
        let mut child = demo(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        for line in lines.map(Result::unwrap) {
            if line.contains(moment) {
                killpg(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
            }
            said.push(line);
        }
        let status = child.wait().unwrap();
        assert!(said.iter().any(|line| line.contains(moment)), "{said:#?}");
        assert_eq!(status.success(), moment == "cleaning up", "{moment}: {said:#?}");
        assert_nothing_left(folder.path());
    }
}

#[test]
fn a_kept_demo_can_be_looked_at_and_ended_as_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let said = ok(demo(folder.path()).arg("--keep").stderr(Stdio::null()));
    let after = |heading: &str| {
        let mut lines = said.lines().skip_while(|line| !line.starts_with(heading)).skip(1);
        lines.next().unwrap().trim().to_owned()
    };
    let status = output(Command::new("sh").args(["-c", &after("Still running")]));
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(
        text.contains("hello") && text.contains("running"),
        "{said}\n{text}"
    );
    output(Command::new("sh").args(["-c", &after("End it")]));
    assert_nothing_left(folder.path());
}

#[test]
fn programs_that_cannot_be_installed_are_named_with_their_packages() {
    programs();
    let empty = tempfile::tempdir().unwrap();
    let mut command = Command::new(xtask());
    command.args(["test", "--only", "programs"]);
    let complaint = complaint_of(command.env("PATH", empty.path()));
    assert!(
        complaint.contains("please install first: apt-get install"),
        "{complaint}"
    );
    for package in ["skopeo", "umoci", "busybox-static"] {
        assert!(complaint.contains(package), "{complaint}");
    }
}

#[test]
fn a_machine_that_cannot_build_for_boards_is_told_what_brings_it() {
    programs();
    // Debian's compiler is known by its path: its source is hidden, where it is installed.
    let script = "[ ! -d /usr/lib/rustlib/src ] || mount -t tmpfs none /usr/lib/rustlib/src; PATH=$1; exec \"$2\" build --board raspberry-pi-zero";
    let mut command = Command::new("unshare");
    command.args([
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-e",
        "-c",
        script,
        "sh",
    ]);
    let empty = tempfile::tempdir().unwrap();
    let complaint = complaint_of(command.arg(empty.path()).arg(xtask()));
    for advice in [
        "no compiler here has the source of its standard library",
        "rustup component add rust-src",
        "apt-get install rustc-web cargo-web rust-web-src",
    ] {
        assert!(complaint.contains(advice), "{complaint}");
    }
}

fn complaint_of(command: &mut Command) -> String {
    let output = output(command.env("RUST_BACKTRACE", "0"));
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    complaint
}
