//! The verbs that need no running controller, and what they leave on disk.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn run(state: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_punnet-fleet"))
        .arg("--state")
        .arg(state)
        .args(words)
        .output()
        .unwrap()
}

fn error(state: &Path, words: &[&str]) -> String {
    let output = run(state, words);
    assert_eq!(output.status.code(), Some(1), "{words:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn enrolling_works_without_a_controller_and_the_file_is_private() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let file = folder.path().join("pi.json");
    let words = [
        "enroll",
        "pi",
        "-o",
        file.to_str().unwrap(),
        "--broker",
        "mqtt://192.0.2.7",
    ];
    assert!(run(&state, &words).status.success());
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(&state), 0o700);
    for private in ["fleet.key", "fleet.sqlite3"] {
        assert_eq!(mode(&state.join(private)), 0o600, "{private}");
    }
    let enrolment: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(enrolment["version"], 1);
    assert_eq!(enrolment["fleet"], "home");
    assert_eq!(enrolment["broker"], "mqtt://192.0.2.7:1883");
    assert_eq!(enrolment["username"], "pi");
    assert_eq!(enrolment["fleet_key"].as_str().unwrap().len(), 64);
    let password = enrolment["password"].as_str().unwrap();
    let database = std::fs::read(state.join("fleet.sqlite3")).unwrap();
    assert!(
        !database
            .windows(password.len())
            .any(|part| part == password.as_bytes()),
        "only its hash is kept"
    );
}

#[test]
fn enrolling_says_when_the_broker_is_not_known() {
    let folder = tempfile::tempdir().unwrap();
    let text = error(folder.path(), &["enroll", "pi"]);
    assert!(text.contains("give --broker mqtt://HOST:PORT"), "{text}");
    let output = run(folder.path(), &["enroll", "Bad_Name", "--broker", "mqtt://h"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("a name is 1 to 63 of a-z"));
}

#[test]
fn a_key_is_replaced_only_by_force() {
    let folder = tempfile::tempdir().unwrap();
    let first = run(folder.path(), &["keygen"]);
    assert!(first.status.success());
    assert!(error(folder.path(), &["keygen"]).contains("--force replaces it"));
    let second = run(folder.path(), &["keygen", "--force"]);
    assert!(second.status.success());
    assert_ne!(first.stdout, second.stdout);
    std::fs::write(folder.path().join("fleet.key"), b"no key").unwrap();
    let text = error(folder.path(), &["enroll", "pi", "--broker", "mqtt://h"]);
    assert!(text.contains("no Ed25519 key in PKCS#8"), "{text}");
}

#[test]
fn the_fleets_name_is_fixed_the_first_time() {
    let folder = tempfile::tempdir().unwrap();
    let enroll = |fleet| ["enroll", "pi", "--broker", "mqtt://h", "--fleet", fleet];
    assert!(run(folder.path(), &enroll("north")).status.success());
    let text = error(folder.path(), &enroll("south"));
    assert!(text.contains("belongs to fleet 'north', not 'south'"), "{text}");
}

#[test]
fn an_image_that_is_none_is_refused_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file.tar");
    std::fs::write(&file, b"this is no tar archive").unwrap();
    let text = error(
        folder.path(),
        &["images", "add", file.to_str().unwrap(), "--name", "x"],
    );
    assert!(text.contains(file.to_str().unwrap()), "{text}");
    assert!(error(folder.path(), &["images", "rm", "x"]).contains("the image store has no 'x:latest'"));
}

#[test]
fn every_verb_explains_itself() {
    let folder = tempfile::tempdir().unwrap();
    for verb in [
        "serve",
        "ping",
        "keygen",
        "enroll",
        "devices",
        "images",
        "deploy",
        "start",
        "stop",
        "restart",
        "rm",
        "status",
        "logs",
        "completions",
    ] {
        let output = run(folder.path(), &[verb, "--help"]);
        assert!(output.status.success(), "{verb}");
    }
    let completions = run(folder.path(), &["completions", "bash"]);
    assert!(
        String::from_utf8(completions.stdout)
            .unwrap()
            .contains("punnet-fleet")
    );
}
