//! When and where programs run: scheduler, processors, memory nodes, I/O priority, personality; and rules for hooks and capabilities that the
//! specification has changed since 1.0.

use crate::bundle::Bundle;
use crate::references::differs;
use punnet_spec::{CpuAffinity, Hook, Hooks, IoPriority, MemoryPolicy, Personality, Scheduler};

/// nice, rt_priority and policy of /proc/PID/stat. proc_pid_stat(5)
fn scheduling(stat: &str) -> [&str; 3] {
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    [fields[16], fields[37], fields[38]]
}

#[test]
fn the_scheduler_is_as_asked() {
    if differs("the_scheduler_is_as_asked") {
        return;
    }
    let with = |policy: &str, nice, priority| {
        let mut bundle = Bundle::sh("cat /proc/self/stat");
        bundle.process().scheduler = Some(Scheduler {
            policy: policy.into(),
            nice,
            priority,
            ..Scheduler::default()
        });
        bundle.output()
    };
    assert_eq!(scheduling(&with("SCHED_OTHER", 5, 0)), ["5", "0", "0"]);
    assert_eq!(scheduling(&with("SCHED_OTHER", -5, 0)), ["-5", "0", "0"]);
    assert_eq!(scheduling(&with("SCHED_BATCH", 0, 0)), ["0", "0", "3"]);
    assert_eq!(scheduling(&with("SCHED_IDLE", 0, 0))[2], "5");
    assert_eq!(scheduling(&with("SCHED_FIFO", 0, 7))[1..], ["7", "1"]);
    assert_eq!(scheduling(&with("SCHED_RR", 0, 9))[1..], ["9", "2"]);
}

#[test]
fn exec_runs_on_the_processors_it_is_given_and_init_on_all() {
    if differs("exec_runs_on_the_processors_it_is_given_and_init_on_all") {
        return;
    }
    let processors = |text: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .map(|list| list.trim().to_owned())
            .unwrap()
    };
    let own = processors(&std::fs::read_to_string("/proc/self/status").unwrap());
    let mut bundle = Bundle::sh("sleep 100");
    bundle.process().exec_cpu_affinity = Some(CpuAffinity {
        initial: String::new(),
        last: "0".into(),
    });
    bundle.start();
    let init = std::fs::read_to_string(format!("/proc/{}/status", bundle.pid())).unwrap();
    assert_eq!(processors(&init), own);
    let answer = bundle.call(&["exec", &bundle.id(), "cat", "/proc/self/status"]);
    assert_eq!(processors(&answer.out), "0", "{answer:?}");
    // Without a final list the kernel decides once the process is in the cgroup: with the cpuset controller it may have all again.
    let document = bundle.dir.path().join("process.json");
    let text = r#"{"args":["/bin/cat","/proc/self/status"],"cwd":"/","execCPUAffinity":{"initial":"0"}}"#;
    std::fs::write(&document, text).unwrap();
    let answer = bundle.call(&["exec", "--process", document.to_str().unwrap(), &bundle.id()]);
    assert!(
        ["0".to_owned(), own].contains(&processors(&answer.out)),
        "{answer:?}"
    );
}

#[test]
fn the_memory_policy_is_as_asked_also_in_exec() {
    if differs("the_memory_policy_is_as_asked_also_in_exec") {
        return;
    }
    if !std::path::Path::new("/proc/self/numa_maps").exists() {
        println!("SKIPPED: the kernel has no NUMA");
        return;
    }
    let mut bundle = Bundle::sh("cat /proc/self/numa_maps; sleep 100");
    bundle.linux().memory_policy = Some(MemoryPolicy {
        mode: "MPOL_BIND".into(),
        nodes: "0".into(),
        flags: vec!["MPOL_F_STATIC_NODES".into()],
    });
    bundle.start();
    for maps in [
        std::fs::read_to_string(format!("/proc/{}/numa_maps", bundle.pid())).unwrap(),
        bundle
            .call(&["exec", &bundle.id(), "cat", "/proc/self/numa_maps"])
            .out,
    ] {
        assert!(maps.lines().any(|line| line.contains("bind=static:0")), "{maps}");
    }
    bundle.linux().memory_policy = Some(MemoryPolicy {
        mode: "MPOL_BIND".into(),
        nodes: "1000".into(),
        flags: vec![],
    });
    let bundle = Bundle {
        dir: tempfile::tempdir().unwrap(),
        spec: bundle.spec.clone(),
    };
    std::fs::create_dir(bundle.rootfs()).unwrap();
    let answer = bundle.run();
    assert!(
        answer.code != 0 && answer.err.contains("linux.memoryPolicy"),
        "{answer:?}"
    );
}

#[test]
fn the_io_priority_is_as_asked() {
    if differs("the_io_priority_is_as_asked") {
        return;
    }
    for (class, priority, said) in [
        ("IOPRIO_CLASS_BE", 6, "best-effort: prio 6"),
        ("IOPRIO_CLASS_IDLE", 0, "idle"),
        ("IOPRIO_CLASS_RT", 1, "realtime: prio 1"),
    ] {
        let mut bundle = Bundle::sh("ionice -p $$");
        bundle.process().io_priority = Some(IoPriority {
            class: class.into(),
            priority,
        });
        let text = bundle.output();
        assert!(text.contains(said), "{text}");
    }
}

#[test]
fn the_personality_is_as_asked_also_in_exec() {
    if cfg!(not(target_arch = "x86_64")) {
        println!("SKIPPED: uname changes its word on x86_64");
        return;
    }
    let mut bundle = Bundle::sh("uname -m; sleep 100");
    bundle.linux().personality = Some(Personality {
        domain: "LINUX32".into(),
        flags: vec![],
    });
    bundle.start();
    if differs("the personality of exec") {
        // runc 1.1 has no personality; crun sets it for init only.
        return;
    }
    assert_eq!(bundle.call(&["exec", &bundle.id(), "uname", "-m"]).out, "i686\n");
    let personality = std::fs::read_to_string(format!("/proc/{}/personality", bundle.pid())).unwrap();
    assert_eq!(personality.trim(), "00000008");
}

#[test]
fn the_oom_score_is_as_asked_and_otherwise_left_as_it_is() {
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let mut bundle = Bundle::sh("cat /proc/self/oom_score_adj");
    assert_eq!(bundle.output(), own);
    bundle.process().oom_score_adj = Some(321);
    assert_eq!(bundle.output(), "321\n");
}

#[test]
fn the_domain_name_is_the_namespaces_own() {
    if differs("the_domain_name_is_the_namespaces_own") {
        // runc 1.1 and crun 1.8 are older than the field.
        return;
    }
    let mut bundle = Bundle::sh("cat /proc/sys/kernel/domainname");
    bundle.spec.domainname = "fruit".into();
    assert_eq!(bundle.output(), "fruit\n");
    assert_ne!(
        std::fs::read_to_string("/proc/sys/kernel/domainname").unwrap(),
        "fruit\n"
    );
    bundle
        .linux()
        .namespaces
        .retain(|namespace| namespace.kind != "uts");
    bundle.spec.hostname.clear();
    let answer = bundle.run();
    assert!(
        answer.code == 125 && answer.err.contains("domainname"),
        "{answer:?}"
    );
}

#[test]
fn unknown_capabilities_are_left_out_with_a_warning() {
    let mut bundle = Bundle::sh("cat /proc/self/status");
    let sets = bundle.process().capabilities.as_mut().unwrap();
    for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
        set.push("CAP_FLY".into());
    }
    let answer = bundle.run();
    assert_eq!(answer.code, 0, "{answer:?}");
    assert!(answer.out.contains("CapEff:\t0000000000000020"), "{answer:?}");
    if differs("the words of the warning") {
        return;
    }
    assert!(
        answer.err.contains("warning") && answer.err.contains("CAP_FLY"),
        "{answer:?}"
    );
}

#[test]
fn the_start_hook_is_told_that_the_container_is_created() {
    let mut bundle = Bundle::sh("cat /dev/shm/state");
    bundle
        .spec
        .annotations
        .insert("org.example.key".into(), "value".into());
    bundle.spec.hooks = Some(Hooks {
        start_container: vec![Hook {
            path: "/bin/sh".into(),
            args: vec!["sh".into(), "-c".into(), "cat > /dev/shm/state".into()],
            ..Hook::default()
        }],
        ..Hooks::default()
    });
    let text = bundle.output();
    let state: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(state["annotations"]["org.example.key"], "value", "{text}");
    assert_eq!(state["id"], bundle.id().as_str());
    if differs("status and pid in startContainer hooks") {
        return;
    }
    assert_eq!(state["status"], "created", "{text}");
    assert_eq!(state["pid"], 1, "{text}");
}

#[test]
fn every_poststop_hook_runs_and_a_failing_one_is_a_warning() {
    let mut bundle = Bundle::sh("true");
    let log = bundle.dir.path().join("log");
    let append = |word: &str| Hook {
        path: "/bin/sh".into(),
        args: vec![
            "sh".into(),
            "-c".into(),
            format!("echo {word} >> {}", log.display()),
        ],
        ..Hook::default()
    };
    let fails = Hook {
        path: "/bin/false".into(),
        ..Hook::default()
    };
    bundle.spec.hooks = Some(Hooks {
        poststop: vec![append("one"), fails, append("two")],
        ..Hooks::default()
    });
    let answer = bundle.run();
    assert_eq!(answer.code, 0, "{answer:?}");
    let text = std::fs::read_to_string(&log).unwrap();
    if differs("hooks after one that has failed") {
        return;
    }
    assert_eq!(text, "one\ntwo\n");
    assert!(
        answer.err.contains("warning: poststop hook /bin/false"),
        "{answer:?}"
    );
}
