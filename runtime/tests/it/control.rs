//! pause, resume, update, ps, events, features, and the words around them that engines parse.

use crate::bundle::{Bundle, cgroup_top, wait_until};
use crate::limits::{folder, limited};
use crate::references::differs;
use punnet_spec::{Memory, Resources};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

const MIB: i64 = 1 << 20;

/// A running container with a cgroup of its own, and that cgroup.
fn running(script: &str) -> Option<(Bundle, PathBuf)> {
    let top = cgroup_top()?;
    let mut bundle = Bundle::sh(script);
    bundle.linux().cgroups_path = format!("/control/{}", bundle.id());
    bundle.start();
    let cgroup = format!("{top}/control/{}", bundle.id()).into();
    Some((bundle, cgroup))
}

#[test]
fn a_paused_container_stands_still_until_it_is_resumed() {
    let Some((bundle, _)) = running("while true; do echo x >> /dev/shm/count; done") else {
        return;
    };
    let id = bundle.id();
    let count = || {
        let file = format!("/proc/{}/root/dev/shm/count", bundle.pid());
        std::fs::metadata(file).map_or(0, |file| file.len())
    };
    wait_until("it counts", || count() > 0);
    let answer = bundle.call(&["pause", &id]);
    assert_eq!(answer.code, 0, "{answer:?}");
    assert_eq!(bundle.status(), "paused");
    let before = count();
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(count(), before, "it went on");
    if !differs("paused twice") {
        assert_ne!(bundle.call(&["pause", &id]).code, 0, "paused twice");
    }
    assert_ne!(bundle.call(&["delete", &id]).code, 0, "deleted while paused");
    assert_ne!(bundle.call(&["exec", &id, "true"]).code, 0, "exec while paused");
    assert_eq!(bundle.call(&["resume", &id]).code, 0);
    assert_eq!(bundle.status(), "running");
    wait_until("it goes on", || count() > before);
    if !differs("resumed twice") {
        assert_ne!(bundle.call(&["resume", &id]).code, 0, "resumed twice");
    }
}

#[test]
fn a_paused_container_can_be_killed_and_deleted() {
    let Some((bundle, cgroup)) = running("sleep 100") else {
        return;
    };
    assert_eq!(bundle.call(&["pause", &bundle.id()]).code, 0);
    assert_eq!(bundle.call(&["delete", "--force", &bundle.id()]).code, 0);
    assert_eq!(bundle.status(), "absent");
    assert!(!cgroup.exists(), "a cgroup stayed");
}

#[test]
fn exec_in_a_paused_container_waits_for_resume_when_told_to() {
    if differs("exec_in_a_paused_container_waits_for_resume_when_told_to") {
        return;
    }
    let Some((bundle, cgroup)) = running("sleep 100") else {
        return;
    };
    let id = bundle.id();
    assert_eq!(bundle.call(&["pause", &id]).code, 0);
    let mut exec = bundle
        .command(&["exec", "--ignore-paused", &id, "true"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let processes = || std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
    wait_until("the process is there", || processes().lines().count() > 1);
    assert!(exec.try_wait().unwrap().is_none(), "it ran");
    assert_eq!(bundle.call(&["resume", &id]).code, 0);
    assert!(exec.wait().unwrap().success());
}

#[test]
fn exec_goes_into_a_cgroup_below_the_containers_own() {
    // crun 1.8 has the option, and joins nothing on cgroup v2.
    if differs("exec_goes_into_a_cgroup_below_the_containers_own") {
        return;
    }
    let Some((bundle, cgroup)) = running("sleep 100") else {
        return;
    };
    let id = bundle.id();
    std::fs::create_dir(cgroup.join("inner")).unwrap();
    let place = |words: &[&str]| {
        let mut all = vec!["exec"];
        all.extend(words);
        all.extend([id.as_str(), "cat", "/proc/self/cgroup"]);
        let answer = bundle.call(&all);
        assert_eq!(answer.code, 0, "{answer:?}");
        answer
            .out
            .lines()
            .find(|line| line.starts_with("0::"))
            .unwrap()
            .to_owned()
    };
    let own = place(&[]);
    assert_eq!(
        place(&["--cgroup", "inner"]),
        format!("{}/inner", own.trim_end_matches('/'))
    );
    assert_eq!(place(&["--cgroup", "/../../inner/"]), place(&["--cgroup=inner"]));
    for wrong in ["absent", "memory:inner", ""] {
        let answer = bundle.call(&["exec", "--cgroup", wrong, &id, "true"]);
        assert!(answer.code != 0 && answer.err.contains("cgroup"), "{answer:?}");
    }
}

#[test]
fn exec_goes_where_init_is_when_the_container_has_divided_its_cgroup() {
    // cgroup v2 takes no process where controllers are given to children.
    let script = "cd /sys/fs/cgroup && mkdir inner && echo $$ > inner/cgroup.procs && echo +pids > cgroup.subtree_control && sleep 100";
    let Some(mut bundle) = limited(script, Resources::default()) else {
        return;
    };
    for mount in &mut bundle.spec.mounts {
        mount
            .options
            .retain(|option| mount.destination != "/sys/fs/cgroup" || option != "ro");
    }
    bundle.start();
    let control = folder(&bundle).join("cgroup.subtree_control");
    wait_until("it has divided its cgroup", || {
        std::fs::read_to_string(&control).is_ok_and(|text| text.contains("pids"))
    });
    let answer = bundle.call(&["exec", &bundle.id(), "cat", "/proc/self/cgroup"]);
    assert_eq!(
        (answer.code, answer.out.as_str()),
        (0, "0::/inner\n"),
        "{answer:?}"
    );
}

#[test]
fn ps_lists_every_process_of_the_container() {
    let Some((bundle, cgroup)) = running("sleep 100 & sleep 101 & wait") else {
        return;
    };
    let id = bundle.id();
    let kernel = || {
        let text = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
        text.lines().map(|pid| pid.parse().unwrap()).collect::<Vec<i64>>()
    };
    wait_until("three processes", || kernel().len() == 3);
    let answer = bundle.call(&["ps", "--format", "json", &id]);
    let list: Vec<i64> = serde_json::from_str(&answer.out).unwrap();
    assert_eq!(list, kernel(), "{answer:?}");
    if differs("the table of ps(1)") {
        return;
    }
    let table = bundle.call(&["ps", &id]).out;
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.lines().next().unwrap().contains("PID"), "{table}");
    assert!(table.contains("sleep 101"), "{table}");
    let table = bundle.call(&["ps", &id, "-o", "pid,args", "-e"]).out;
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(bundle.call(&["ps", &id, "--format=json"]).out.starts_with('['));
    bundle.call(&["kill", &id, "KILL"]);
    bundle.wait_for("stopped");
    assert_eq!(bundle.call(&["ps", "--format", "json", &id]).out, "[]\n");
}

#[test]
fn signals_to_all_reach_processes_in_cgroups_below() {
    let Some((bundle, cgroup)) = running("trap '' TERM; sleep 100 & wait; sleep 100") else {
        return;
    };
    let id = bundle.id();
    let processes = |name: &str| {
        let text = std::fs::read_to_string(cgroup.join(name).join("cgroup.procs")).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    wait_until("two processes", || processes("").len() == 2);
    let inner = cgroup.join("inner");
    std::fs::create_dir(&inner).unwrap();
    let child = processes("")
        .into_iter()
        .find(|pid| *pid != bundle.pid().to_string())
        .unwrap();
    std::fs::write(inner.join("cgroup.procs"), &child).unwrap();
    // The shell's child has the shell's trap, so it is SIGKILL that must find it; the init is deaf to it only inside.
    assert_eq!(bundle.call(&["kill", "--all", &id, "KILL"]).code, 0);
    bundle.wait_for("stopped");
    wait_until("the child is gone", || processes("inner").is_empty());
}

#[test]
fn update_changes_the_limits_it_names_and_keeps_the_others() {
    let memory = Memory {
        limit: Some(64 * MIB),
        swap: Some(64 * MIB),
        ..Memory::default()
    };
    let resources = Resources {
        memory: Some(memory),
        ..Resources::default()
    };
    let Some(bundle) = limited("sleep 100", resources) else {
        return;
    };
    bundle.start();
    let id = bundle.id();
    let file = |name: &str| {
        let text = std::fs::read_to_string(folder(&bundle).join(name)).unwrap();
        text.trim().to_owned()
    };
    let update = |words: &[&str]| {
        let mut all = vec!["update"];
        all.extend(words);
        all.push(&id);
        bundle.call(&all)
    };
    let answer = update(&[
        "--pids-limit",
        "17",
        "--cpu-quota",
        "20000",
        "--cpu-period",
        "100000",
    ]);
    assert_eq!(answer.code, 0, "{answer:?}");
    assert_eq!(
        (file("pids.max"), file("cpu.max")),
        ("17".into(), "20000 100000".into())
    );
    assert_eq!(file("memory.max"), (64 * MIB).to_string());
    let answer = update(&["--memory", "33554432", "--memory-swap", "50331648"]);
    assert_eq!(answer.code, 0, "{answer:?}");
    assert_eq!(
        (file("memory.max"), file("memory.swap.max")),
        ((32 * MIB).to_string(), (16 * MIB).to_string())
    );
    let path = bundle.dir.path().join("resources.json");
    std::fs::write(&path, r#"{"memory":{"limit":41943040},"cpu":{"shares":2048}}"#).unwrap();
    let answer = update(&["--resources", path.to_str().unwrap()]);
    assert_eq!(answer.code, 0, "{answer:?}");
    assert_eq!(
        (file("memory.max"), file("cpu.weight")),
        ((40 * MIB).to_string(), "79".into())
    );
    assert_eq!(file("pids.max"), "17");
    if differs("remembered limits complete later ones") {
        return;
    }
    let answer = update(&["--memory-swap", "1"]);
    assert!(
        answer.code != 0 && answer.err.contains("memory.swap"),
        "{answer:?}"
    );
    std::fs::write(&path, r#"{"memory":{"limit":4096,"checkBeforeUpdate":true}}"#).unwrap();
    let answer = update(&["-r", path.to_str().unwrap()]);
    assert!(
        answer.code != 0 && answer.err.contains("checkBeforeUpdate"),
        "{answer:?}"
    );
    assert_eq!(file("memory.max"), (40 * MIB).to_string());
}

#[test]
fn update_without_a_container_or_limits_says_so() {
    let bundle = Bundle::sh("true");
    assert_ne!(
        bundle.call(&["update", "--pids-limit", "1", &bundle.id()]).code,
        0
    );
    if differs("update without limits is refused") {
        return;
    }
    bundle.start();
    let answer = bundle.call(&["update", &bundle.id()]);
    assert!(answer.code != 0 && answer.err.contains("--memory"), "{answer:?}");
}

#[test]
fn events_print_what_is_used_and_who_ran_out_of_memory() {
    if differs("events_print_what_is_used_and_who_ran_out_of_memory") {
        return;
    }
    let memory = Memory {
        limit: Some(16 * MIB),
        swap: Some(16 * MIB),
        ..Memory::default()
    };
    let resources = Resources {
        memory: Some(memory),
        ..Resources::default()
    };
    let Some(bundle) = limited(
        "while ! test -e /dev/shm/go; do sleep 0.1; done; (tail /dev/zero); while test -e /dev/shm/go; do sleep 0.1; done",
        resources,
    ) else {
        return;
    };
    bundle.start();
    let id = bundle.id();
    let answer = bundle.call(&["events", "--stats", &id]);
    let line: Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!(
        (&line["type"], &line["id"]),
        (&"stats".into(), &id.as_str().into())
    );
    let data = &line["data"];
    assert!(data["cpu"]["usage"]["total"].as_u64() > Some(0), "{data}");
    assert!(data["memory"]["usage"]["usage"].as_u64() > Some(0), "{data}");
    assert_eq!(data["memory"]["usage"]["limit"], 16 * MIB);
    assert!(data["memory"]["raw"]["anon"].is_u64(), "{data}");
    assert!(data["pids"]["current"].as_u64() > Some(0), "{data}");
    let mut events = bundle
        .command(&["events", "--interval", "100ms", &id])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(events.stdout.take().unwrap()).lines();
    let mut oom = false;
    for (number, line) in lines.enumerate() {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let go = PathBuf::from(format!("/proc/{}/root/dev/shm/go", bundle.pid()));
        match line["type"].as_str() {
            Some("oom") if !oom => {
                oom = true;
                std::fs::remove_file(go).unwrap();
            }
            Some("stats") if number == 0 => std::fs::write(go, "").unwrap(),
            _ => {}
        }
    }
    assert!(oom, "no event of running out of memory");
    assert!(events.wait().unwrap().success());
}

#[test]
fn features_are_the_specifications_document() {
    if differs("features_are_the_specifications_document") {
        return;
    }
    let answer = Bundle::sh("true").call(&["features"]);
    let features: Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!(features["ociVersionMin"], "1.0.0");
    let has = |list: &Value, word: &str| list.as_array().unwrap().iter().any(|entry| entry == word);
    assert!(has(&features["hooks"], "createContainer"));
    assert!(has(&features["mountOptions"], "rro"));
    assert!(has(&features["linux"]["namespaces"], "cgroup"));
    assert!(has(&features["linux"]["capabilities"], "CAP_BPF"));
    assert_eq!(features["linux"]["cgroup"]["v2"], true);
    assert!(has(&features["linux"]["seccomp"]["actions"], "SCMP_ACT_ERRNO"));
}

#[test]
fn state_and_list_have_the_fields_that_engines_read() {
    let bundle = Bundle::sh("sleep 100");
    bundle.start();
    let answer = bundle.call(&["state", &bundle.id()]);
    let state: Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!(state["id"], bundle.id());
    assert_eq!(state["pid"], bundle.pid());
    assert_eq!(state["bundle"], bundle.dir.path().to_str().unwrap());
    assert!(state["created"].as_str().unwrap().ends_with('Z'), "{state}");
    assert!(state["owner"].is_string(), "{state}");
    if !differs("the absolute path of the root") {
        assert_eq!(state["rootfs"], bundle.rootfs().to_str().unwrap());
    }
    let table = bundle.call(&["list"]).out;
    let heading: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    if !differs("the heading of the list") {
        assert_eq!(heading, ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    }
}

#[test]
fn errors_go_to_the_log_as_json_where_engines_look_for_them() {
    let bundle = Bundle::sh("true");
    let log = bundle.dir.path().join("log.json");
    let log_option = log.to_str().unwrap();
    let answer = bundle.call(&["--log", log_option, "--log-format=json", "state", "absent"]);
    assert_eq!(answer.code, 1, "{answer:?}");
    let text = std::fs::read_to_string(&log).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["level"], "error", "{text}");
    assert_ne!(last["msg"].as_str().unwrap(), "", "{text}");
    let quiet = bundle.call(&["--log", log_option, "--log-format", "json", "list"]);
    assert_eq!((quiet.code, quiet.err.as_str()), (0, ""));
    bundle.call(&["--debug", "--log", log_option, "--log-format", "json", "list"]);
    let text = std::fs::read_to_string(&log).unwrap();
    if differs("--debug says what was done") {
        return;
    }
    assert!(
        text.lines()
            .any(|line| serde_json::from_str::<Value>(line).unwrap()["level"] == "debug"),
        "{text}"
    );
}

#[test]
fn killing_what_has_ended_is_told_in_the_words_that_containerd_knows() {
    let bundle = Bundle::sh("exit 0");
    bundle.start();
    bundle.wait_for("stopped");
    let answer = bundle.call(&["kill", &bundle.id(), "TERM"]);
    assert_eq!(answer.code, 1, "{answer:?}");
    let known = [
        "container not running",
        "no such process",
        "process already finished",
        "not running",
    ];
    // It does not look at capitals.
    let said = answer.err.to_lowercase();
    assert!(known.iter().any(|words| said.contains(words)), "{answer:?}");
    let answer = bundle.call(&["kill", "--all", &bundle.id(), "KILL"]);
    assert_eq!(answer.code, 0, "{answer:?}");
}

#[test]
fn run_keep_leaves_the_container_for_delete() {
    if differs("run_keep_leaves_the_container_for_delete") {
        return;
    }
    let bundle = Bundle::sh("exit 4");
    bundle.write();
    assert_eq!(bundle.call(&["run", "--keep", &bundle.id()]).code, 4);
    assert_eq!(bundle.status(), "stopped");
    assert_eq!(bundle.call(&["delete", &bundle.id()]).code, 0);
}
