//! What the specification says of operations as such, whatever the container: runtime.md, and the ground of the validation programs of
//! opencontainers/runtime-tools. Their other subjects have files of their own here.

use crate::bundle::{Bundle, cgroup_top, wait_until};
use crate::references::differs;
use punnet_spec::{Hook, Hooks};
use serde_json::Value;
use std::path::Path;

#[test]
fn operations_without_an_id_or_on_an_unknown_one_are_errors() {
    let bundle = Bundle::sh("true");
    bundle.write();
    for verb in ["create", "start", "state", "kill", "delete"] {
        assert_ne!(bundle.call(&[verb]).code, 0, "{verb} without an id");
    }
    for words in [
        &["start", "absent"][..],
        &["state", "absent"],
        &["kill", "absent", "KILL"],
        &["delete", "absent"],
        &["exec", "absent", "true"],
        &["pause", "absent"],
        &["resume", "absent"],
        &["ps", "absent"],
    ] {
        let answer = bundle.call(words);
        assert!(
            answer.code != 0 && !answer.err.is_empty(),
            "{words:?}: {answer:?}"
        );
    }
    assert_eq!(bundle.status(), "absent");
}

#[test]
fn a_container_without_a_process_never_starts() {
    let mut bundle = Bundle::sh("true");
    bundle.spec.process = None;
    bundle.write();
    let created = bundle.call(&["create", &bundle.id()]).code == 0;
    assert!(!created || bundle.call(&["start", &bundle.id()]).code != 0);
}

#[test]
fn unknown_properties_and_annotations_are_no_error_and_a_wrong_version_is() {
    let mut bundle = Bundle::sh("true");
    bundle
        .spec
        .annotations
        .insert("org.example.unknown".to_owned(), "value".to_owned());
    let mut config: Value = serde_json::from_slice(&bundle.spec.to_json()).unwrap();
    config["unknown"] = "value".into();
    config["linux"]["unknown"] = serde_json::json!({ "more": 1 });
    let path = bundle.dir.path().join("config.json");
    std::fs::write(&path, config.to_string()).unwrap();
    let answer = bundle.call(&["run", &bundle.id()]);
    assert_eq!(answer.code, 0, "{answer:?}");
    if differs("a wrong version") {
        return;
    }
    config["ociVersion"] = "invalid".into();
    std::fs::write(&path, config.to_string()).unwrap();
    assert_ne!(bundle.call(&["run", &bundle.id()]).code, 0);
}

#[test]
fn changes_of_config_json_after_create_have_no_effect() {
    let mut bundle = Bundle::sh("hostname > /dev/shm/name; sleep 100");
    bundle.spec.hostname = "before".into();
    bundle.write();
    assert_eq!(bundle.call(&["create", &bundle.id()]).code, 0);
    bundle.spec.hostname = "after".into();
    bundle.process().args = vec!["/bin/false".to_owned()];
    bundle.write();
    assert_eq!(bundle.call(&["start", &bundle.id()]).code, 0);
    let name = format!("/proc/{}/root/dev/shm/name", bundle.pid());
    wait_until("the program of before", || {
        std::fs::read_to_string(&name).is_ok_and(|name| name == "before\n")
    });
}

#[test]
fn delete_removes_what_create_made_and_nothing_else() {
    let Some(top) = cgroup_top() else {
        return;
    };
    let mut bundle = Bundle::sh("sleep 100");
    let id = bundle.id();
    let (parent, neighbour) = (
        format!("{top}/theirs-{id}"),
        format!("{top}/theirs-{id}/neighbour"),
    );
    std::fs::create_dir_all(&neighbour).unwrap();
    bundle.linux().cgroups_path = format!("/theirs-{id}/ours");
    bundle.start();
    let ours = format!("{parent}/ours");
    assert!(Path::new(&ours).exists());
    assert_eq!(bundle.call(&["delete", "--force", &id]).code, 0);
    let (gone, kept) = (!Path::new(&ours).exists(), Path::new(&neighbour).exists());
    for folder in [&neighbour, &parent] {
        std::fs::remove_dir(folder).unwrap();
    }
    assert!(
        gone && kept,
        "the container's cgroup gone: {gone}, the neighbour's kept: {kept}"
    );
}

#[test]
fn kill_sends_the_signal_that_is_named() {
    for (signal, word) in [("TERM", "TERM"), ("USR1", "SIGUSR1"), ("USR2", "12")] {
        let script = format!(
            "trap 'echo {signal} > /dev/shm/got' {signal}; echo > /dev/shm/ready; while true; do sleep 0.05; done"
        );
        let bundle = Bundle::sh(&script);
        bundle.start();
        let file = |name: &str| {
            let path = format!("/proc/{}/root/dev/shm/{name}", bundle.pid());
            std::fs::read_to_string(path).unwrap_or_default()
        };
        wait_until("the trap", || !file("ready").is_empty());
        let answer = bundle.call(&["kill", &bundle.id(), word]);
        assert_eq!(answer.code, 0, "{answer:?}");
        wait_until("the signal", || file("got") == format!("{signal}\n"));
        assert_eq!(bundle.status(), "running");
    }
}

#[test]
fn a_created_container_can_be_killed() {
    let bundle = Bundle::sh("true");
    bundle.write();
    assert_eq!(bundle.call(&["create", &bundle.id()]).code, 0);
    assert_eq!(bundle.call(&["kill", &bundle.id(), "KILL"]).code, 0);
    bundle.wait_for("stopped");
    assert_ne!(bundle.call(&["start", &bundle.id()]).code, 0);
    assert_eq!(bundle.call(&["delete", &bundle.id()]).code, 0);
}

#[test]
fn hooks_read_the_state_as_it_is_at_their_time() {
    let mut bundle = Bundle::sh("sleep 100");
    let place = bundle.dir.path().to_owned();
    let hook = |name: &str| {
        vec![Hook {
            path: "/bin/sh".into(),
            args: vec![
                "sh".into(),
                "-c".into(),
                format!("cat > {}/{name}", place.display()),
            ],
            env: vec!["PATH=/bin:/usr/bin".into()],
            ..Hook::default()
        }]
    };
    bundle
        .spec
        .annotations
        .insert("key".to_owned(), "value".to_owned());
    bundle.spec.hooks = Some(Hooks {
        prestart: hook("prestart"),
        create_runtime: hook("create"),
        poststart: hook("start"),
        poststop: hook("stop"),
        ..Hooks::default()
    });
    bundle.start();
    let pid = bundle.pid();
    assert_eq!(bundle.call(&["delete", "--force", &bundle.id()]).code, 0);
    for (name, status) in [
        ("prestart", "created"),
        ("create", "creating"),
        ("start", "running"),
        ("stop", "stopped"),
    ] {
        let text = std::fs::read_to_string(place.join(name)).unwrap();
        let state: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(state["id"], bundle.id(), "{text}");
        assert_eq!(state["bundle"], place.to_str().unwrap(), "{text}");
        assert_eq!(state["annotations"]["key"], "value", "{text}");
        if name != "stop" {
            assert_eq!(state["pid"], pid, "{text}");
        }
        // The references say "created" here and there.
        if !differs("the status in each kind of hook") {
            assert_eq!(state["status"], status, "{text}");
        }
    }
}

#[test]
fn list_is_empty_where_there_is_nothing() {
    let bundle = Bundle::sh("true");
    let answer = bundle.call(&["list", "--format", "json"]);
    assert_eq!(answer.code, 0, "{answer:?}");
    let list: Value = serde_json::from_str(&answer.out).unwrap();
    assert!(
        list.is_null() || list.as_array().is_some_and(Vec::is_empty),
        "{list}"
    );
}

#[test]
fn every_verb_has_help_that_names_its_options() {
    if differs("every_verb_has_help_that_names_its_options") {
        return;
    }
    let bundle = Bundle::sh("true");
    for (verb, words) in [
        (
            "create",
            &[
                "--bundle",
                "--pid-file",
                "--console-socket",
                "--preserve-fds",
                "--no-pivot",
                "--no-new-keyring",
            ][..],
        ),
        ("run", &["--detach", "--keep"]),
        (
            "exec",
            &[
                "--process",
                "--cgroup",
                "--cap",
                "--env",
                "--cwd",
                "--user",
                "--tty",
                "--ignore-paused",
            ],
        ),
        ("kill", &["--all"]),
        ("delete", &["--force"]),
        ("list", &["--format", "--quiet"]),
        ("ps", &["--format"]),
        ("events", &["--stats", "--interval"]),
        ("update", &["--resources", "--memory", "--pids-limit"]),
        ("start", &[]),
        ("state", &[]),
        ("pause", &[]),
        ("resume", &[]),
        ("features", &[]),
        ("spec", &["--bundle"]),
    ] {
        for call in [&[verb, "--help"][..], &["help", verb]] {
            let answer = bundle.call(call);
            assert_eq!(answer.code, 0, "{answer:?}");
            assert!(answer.out.contains(&format!("punnet-oci {verb}")), "{answer:?}");
            for word in words {
                assert!(answer.out.contains(word), "{verb} {word}");
            }
        }
    }
    for call in [&["--help"][..], &["help"], &[]] {
        assert!(bundle.call(call).out.contains("--systemd-cgroup"));
    }
    let answer = bundle.call(&["--version"]);
    assert!(answer.out.contains("spec: 1."), "{answer:?}");
}

#[test]
fn options_may_stand_before_the_id_and_after_it() {
    if differs("options_may_stand_before_the_id_and_after_it") {
        return;
    }
    let bundle = Bundle::sh("sleep 100");
    bundle.write();
    let (id, folder) = (bundle.id(), bundle.dir.path().display().to_string());
    for words in [
        &["create", &id, "--bundle", &folder, "--pid-file", "pid"][..],
        &["start", &id],
        &["exec", "--env", "A=b", &id, "sh", "-c", "test $A = b"],
        &["kill", &id, "KILL", "--all"],
        &["delete", &id, "--force"],
    ] {
        let answer = bundle.call(words);
        assert_eq!(answer.code, 0, "{words:?}: {answer:?}");
    }
    assert!(bundle.dir.path().join("pid").exists());
    assert_eq!(bundle.status(), "absent");
}

#[test]
fn no_pivot_is_refused_with_its_reason() {
    if differs("no_pivot_is_refused_with_its_reason") {
        return;
    }
    let bundle = Bundle::sh("true");
    bundle.write();
    let answer = bundle.call(&["create", "--no-pivot", &bundle.id()]);
    assert!(
        answer.code != 0 && answer.err.contains("--no-pivot") && answer.err.contains("pivot_root"),
        "{answer:?}"
    );
    assert_eq!(bundle.status(), "absent");
}

#[test]
fn the_session_keyring_is_the_containers_own_unless_told_otherwise() {
    if differs("the_session_keyring_is_the_containers_own_unless_told_otherwise") {
        return;
    }
    let keys = |words: &[&str]| {
        let mut bundle = Bundle::sh("cat /proc/keys");
        bundle.linux().masked_paths.clear();
        bundle.write();
        let id = bundle.id();
        let answer = bundle.call(&[&["run"], words, &[&id]].concat());
        assert_eq!(answer.code, 0, "{answer:?}");
        answer.out.contains(&format!("_ses.{id}"))
    };
    assert!(keys(&[]));
    assert!(!keys(&["--no-new-keyring"]));
}

#[test]
fn spec_writes_a_configuration_that_runs() {
    let bundle = Bundle::sh("");
    let folder = bundle.dir.path().display().to_string();
    assert_eq!(bundle.call(&["spec", "--bundle", &folder]).code, 0);
    let path = bundle.dir.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!(["echo", "made"]);
    std::fs::write(&path, config.to_string()).unwrap();
    let answer = bundle.call(&["run", &bundle.id()]);
    assert_eq!((answer.code, answer.out.as_str()), (0, "made\n"), "{answer:?}");
    // What is there is not written over.
    assert_ne!(bundle.call(&["spec", "--bundle", &folder]).code, 0);
    assert!(std::fs::read_to_string(&path).unwrap().contains("made"));
}
