//! Programs and stands that the tests share.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;
use xtask::build::{self, Strip};
use xtask::stand::{Programs, Stand, json_of};

/// The device binary under test, the controller built beside it, the example program static as it must be.
pub fn programs() -> Programs {
    static HELLO: OnceLock<PathBuf> = OnceLock::new();
    let hello = HELLO.get_or_init(|| {
        // One at a time, as people build them: together they would share features, and be built anew.
        for package in ["punnet-fleet", "xtask"] {
            let status = build::cargo()
                .args(["build", "--quiet", "--locked", "--package", package])
                .status()
                .unwrap();
            assert!(status.success(), "{package} does not build");
        }
        build::device_binary("hello", &[], Strip::Yes).unwrap()
    });
    Programs {
        punnet: env!("CARGO_BIN_EXE_punnet").into(),
        fleet: beside("punnet-fleet"),
        hello: hello.clone(),
    }
}

/// `cargo xtask`'s program, as built beside by [`programs`].
pub fn xtask() -> PathBuf {
    beside("xtask")
}

fn beside(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_punnet")).with_file_name(name)
}

/// A stand on which nothing runs yet.
pub fn stand() -> Stand {
    Stand::new(programs()).unwrap()
}

/// A stand whose device has the example image as `hello`.
pub fn stand_with_image() -> Stand {
    let stand = stand();
    stand.build_hello().unwrap();
    stand
}

/// Runs to the end.
pub fn output(command: &mut Command) -> Output {
    command.output().unwrap()
}

/// Runs to the end; must succeed; what it printed.
#[track_caller]
pub fn ok(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?} ended with {}: {stderr}",
        output.status
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Runs to the end; must fail with this exit code; what it complained.
#[track_caller]
pub fn fails(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {stderr}");
    assert!(
        stderr.lines().count() <= 2,
        "an error is one or two lines: {stderr}"
    );
    stderr
}

/// `punnet ps --all --json`
pub fn containers(stand: &Stand) -> Vec<Value> {
    json_of(&mut stand.punnet(&["ps", "--all", "--json"]))
        .unwrap()
        .as_array()
        .unwrap()
        .clone()
}

/// How many processes of the example run below this stand: an app that ran twice would show.
pub fn processes_of(stand: &Stand, app: &str) -> usize {
    let label = format!("PUNNET_STAND={}", stand.path().display());
    let mut count = 0;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let has = |pair: &str| {
            environment
                .split(|&b| b == 0)
                .any(|found| found == pair.as_bytes())
        };
        count +=
            usize::from(command.starts_with(b"/hello") && has(&label) && has(&format!("HOSTNAME={app}")));
    }
    count
}
