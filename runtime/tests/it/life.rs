//! create, start, state, kill, delete, run, list, hooks.

use crate::bundle::{Bundle, is_alive, wait_until};
use crate::references::differs;
use punnet_spec::{Hook, Hooks};
use std::process::Stdio;

#[test]
fn exit_status_is_the_programs_own() {
    for (script, code) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("kill -9 $$; exit 3", 3),
        ("sleep 9 & kill -9 $!; wait $!", 137),
    ] {
        // The first process of a pid namespace is deaf to its own SIGKILL: the third line ends by itself.
        assert_eq!(Bundle::sh(script).run().code, code, "{script}");
    }
}

#[test]
fn a_created_container_waits_for_start_from_another_process() {
    let bundle = Bundle::sh("echo started > /out/file; sleep 100");
    let out = tempfile::tempdir().unwrap();
    let mut bundle = bundle;
    bundle
        .spec
        .mounts
        .push(crate::bundle::bind(out.path(), "/out", &[]));
    bundle.write();
    let answer = bundle.call(&["create", "--pid-file", "pid", &bundle.id()]);
    assert_eq!(answer.code, 0, "{answer:?}");
    assert_eq!(bundle.status(), "created");
    let pid = std::fs::read_to_string(bundle.dir.path().join("pid")).unwrap();
    assert_eq!(pid, bundle.pid().to_string());
    assert!(!out.path().join("file").exists());
    assert_eq!(bundle.call(&["start", &bundle.id()]).code, 0);
    assert_eq!(bundle.status(), "running");
    wait_until("the program has run", || out.path().join("file").exists());
    assert_ne!(bundle.call(&["start", &bundle.id()]).code, 0, "started twice");
    assert_ne!(
        bundle.call(&["delete", &bundle.id()]).code,
        0,
        "deleted while running"
    );
    assert_eq!(bundle.call(&["kill", &bundle.id(), "KILL"]).code, 0);
    bundle.wait_for("stopped");
    assert_ne!(
        bundle.call(&["kill", &bundle.id(), "KILL"]).code,
        0,
        "killed while stopped"
    );
    assert_eq!(bundle.call(&["delete", &bundle.id()]).code, 0);
    assert_eq!(bundle.status(), "absent");
}

#[test]
fn an_id_is_taken_once_even_at_the_same_moment() {
    let bundle = Bundle::sh("sleep 100");
    bundle.write();
    let children: Vec<_> = (0..6)
        .map(|_| {
            bundle
                .command(&["create", &bundle.id()])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    let won = children
        .into_iter()
        .filter_map(|mut child| child.wait().ok())
        .filter(|status| status.success())
        .count();
    assert!(won <= 1, "{won} have won");
    // runc 1.1 lets all of them fail now and then.
    if differs("exactly one wins") {
        return;
    }
    assert_eq!(won, 1);
    assert_eq!(bundle.status(), "created");
    let answer = bundle.call(&["create", &bundle.id()]);
    assert!(answer.code != 0 && answer.err.contains("exist"), "{answer:?}");
}

#[test]
fn delete_force_cleans_up_in_every_state() {
    let bundle = Bundle::sh("sleep 100");
    bundle.write();
    let id = bundle.id();
    assert_eq!(bundle.call(&["delete", "--force", &id]).code, 0, "none there");
    bundle.call(&["create", &id]);
    let pid = bundle.pid();
    assert_eq!(bundle.call(&["delete", "--force", &id]).code, 0, "created");
    wait_until("the created process is gone", || !is_alive(pid));
    bundle.start();
    let pid = bundle.pid();
    assert_eq!(bundle.call(&["delete", "--force", &id]).code, 0, "running");
    wait_until("the running process is gone", || !is_alive(pid));
    assert_eq!(bundle.status(), "absent");
}

#[test]
fn a_killed_runtime_leaves_only_what_delete_force_removes() {
    if differs("a_killed_runtime_leaves_only_what_delete_force_removes") {
        return;
    }
    let mut bundle = Bundle::sh("sleep 100");
    let hold = Hook {
        path: "/bin/sleep".into(),
        args: vec!["sleep".into(), "3".into()],
        ..Hook::default()
    };
    bundle.spec.hooks = Some(Hooks {
        create_runtime: vec![hold],
        ..Hooks::default()
    });
    bundle.write();
    let id = bundle.id();
    let mut runtime = bundle
        .command(&["create", &id])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the state directory", || {
        bundle.state_root().join(&id).join("state.json").exists()
    });
    let mut children: Vec<i32> = Vec::new();
    wait_until("its processes", || {
        let list = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", runtime.id())).unwrap();
        children = list.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
        !children.is_empty()
    });
    runtime.kill().unwrap();
    runtime.wait().unwrap();
    assert_eq!(bundle.status(), "creating");
    let answer = bundle.call(&["delete", "--force", &id]);
    assert_eq!(answer.code, 0, "{answer:?}");
    assert!(!bundle.state_root().join(&id).exists());
    for pid in children {
        wait_until("every process is gone", || !is_alive(pid));
    }
    let cgroup = format!("/sys/fs/cgroup/unified/punnet/{id}");
    assert!(!std::path::Path::new(&cgroup).exists());
}

#[test]
fn signals_reach_the_program_of_a_foreground_run() {
    let bundle = Bundle::sh("trap 'exit 42' TERM; echo ready > /out/ready; while true; do sleep 0.1; done");
    let out = tempfile::tempdir().unwrap();
    let mut bundle = bundle;
    bundle
        .spec
        .mounts
        .push(crate::bundle::bind(out.path(), "/out", &[]));
    bundle.write();
    let mut child = bundle
        .command(&["run", &bundle.id()])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("ready", || out.path().join("ready").exists());
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id() as i32),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(42));
}

#[test]
fn list_shows_every_container() {
    let bundle = Bundle::sh("sleep 100");
    bundle.start();
    let answer = bundle.call(&["list", "--format", "json"]);
    let list: serde_json::Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!(list[0]["id"], bundle.id().as_str());
    assert_eq!(list[0]["status"], "running");
    assert_eq!(list[0]["pid"], bundle.pid());
    assert_eq!(bundle.call(&["list", "-q"]).out.trim(), bundle.id());
    assert!(
        bundle
            .call(&["list"])
            .out
            .lines()
            .nth(1)
            .unwrap()
            .contains("running")
    );
}

#[test]
fn hooks_run_in_order_with_the_state_on_standard_input() {
    let mut bundle = Bundle::sh("true");
    let log = bundle.dir.path().join("log");
    let hook = |name: &str| {
        let script = format!("echo {name} $(grep -o '\"status\":[^,]*') >> {}", log.display());
        vec![Hook {
            path: "/bin/sh".into(),
            args: vec!["sh".into(), "-c".into(), script],
            env: vec!["PATH=/bin:/usr/bin".into()],
            ..Hook::default()
        }]
    };
    bundle.spec.hooks = Some(Hooks {
        prestart: hook("prestart"),
        create_runtime: hook("createRuntime"),
        create_container: Vec::new(),
        start_container: Vec::new(),
        poststart: hook("poststart"),
        poststop: hook("poststop"),
    });
    let answer = bundle.run();
    assert_eq!(answer.code, 0, "{answer:?}");
    let text = std::fs::read_to_string(&log).unwrap();
    let names: Vec<&str> = text.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(
        names,
        ["prestart", "createRuntime", "poststart", "poststop"],
        "{text}"
    );
    assert!(text.lines().all(|line| line.contains("status")), "{text}");
}

#[test]
fn a_failing_or_slow_hook_fails_create_and_leaves_nothing() {
    for (hook, word) in [
        (
            Hook {
                path: "/bin/false".into(),
                ..Hook::default()
            },
            "hook",
        ),
        (
            Hook {
                path: "/bin/sleep".into(),
                args: vec!["sleep".into(), "9".into()],
                timeout: Some(1),
                ..Hook::default()
            },
            "hook",
        ),
    ] {
        let mut bundle = Bundle::sh("true");
        bundle.spec.hooks = Some(Hooks {
            create_runtime: vec![hook],
            ..Hooks::default()
        });
        let answer = bundle.run();
        assert!(answer.code != 0 && answer.err.contains(word), "{answer:?}");
    }
}

#[test]
fn container_hooks_run_in_the_containers_namespaces() {
    let mut bundle = Bundle::sh("cat /dev/shm/start");
    let log = tempfile::NamedTempFile::new().unwrap();
    let hook = |path: &str, script: String| {
        vec![Hook {
            path: path.into(),
            args: vec!["sh".into(), "-c".into(), script],
            env: vec!["PATH=/bin:/usr/bin".into()],
            ..Hook::default()
        }]
    };
    bundle.spec.hostname = "inside".into();
    bundle.spec.hooks = Some(Hooks {
        // Before pivot_root: the host's files, the container's namespaces.
        create_container: hook(
            "/bin/sh",
            format!("readlink /proc/self/ns/uts > {}", log.path().display()),
        ),
        // After: the container's files.
        start_container: hook(
            "/bin/sh",
            "hostname > /dev/shm/start; ls / >> /dev/shm/start".into(),
        ),
        ..Hooks::default()
    });
    let text = bundle.output();
    let seen = std::fs::read_to_string(log.path()).unwrap();
    let host = std::fs::read_link("/proc/self/ns/uts").unwrap();
    assert!(
        seen.starts_with("uts:") && seen.trim() != host.to_str().unwrap(),
        "{seen}"
    );
    assert_eq!(text, "inside\nbin\ndev\nproc\nsys\n");
}

#[test]
fn a_bundle_made_by_runc_spec_runs() {
    if !std::process::Command::new("runc")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
    {
        println!("SKIPPED: runc is not installed");
        return;
    }
    let bundle = Bundle::sh("");
    let dir = bundle.dir.path();
    let made = std::process::Command::new("runc")
        .args(["spec", "--bundle"])
        .arg(dir)
        .status()
        .unwrap();
    assert!(made.success());
    let text = std::fs::read_to_string(dir.join("config.json")).unwrap();
    let text = text
        .replace("\"terminal\": true", "\"terminal\": false")
        .replace("\"sh\"", "\"sh\", \"-c\", \"hostname; exit 3\"");
    std::fs::write(dir.join("config.json"), text).unwrap();
    let answer = bundle.call(&["run", &bundle.id()]);
    assert_eq!((answer.code, answer.out.as_str()), (3, "runc\n"), "{answer:?}");
}

#[test]
fn a_container_whose_start_hooks_fail_is_ended_and_destroyed() {
    if differs("a_container_whose_start_hooks_fail_is_ended_and_destroyed") {
        return;
    }
    for at_start in [true, false] {
        let mut bundle = Bundle::sh("sleep 100");
        let stopped = bundle.dir.path().join("stopped");
        // startContainer hooks are programs of the container, poststart hooks of the host.
        let failing = vec![Hook {
            path: "/bin/false".into(),
            ..Hook::default()
        }];
        let mut hooks = Hooks {
            poststop: vec![Hook {
                path: "/bin/touch".into(),
                args: vec!["touch".into(), stopped.display().to_string()],
                ..Hook::default()
            }],
            ..Hooks::default()
        };
        *(if at_start {
            &mut hooks.start_container
        } else {
            &mut hooks.poststart
        }) = failing;
        bundle.spec.hooks = Some(hooks);
        bundle.write();
        let answer = bundle.call(&["create", &bundle.id()]);
        assert_eq!(answer.code, 0, "{answer:?}");
        let pid = bundle.pid();
        let answer = bundle.call(&["start", &bundle.id()]);
        assert!(answer.code != 0 && answer.err.contains("hook"), "{answer:?}");
        wait_until("the program is gone", || !is_alive(pid));
        assert_eq!(bundle.status(), "absent");
        assert!(stopped.exists(), "poststop hooks are run");
    }
}
