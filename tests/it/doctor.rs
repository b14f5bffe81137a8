//! `punnet doctor` on this machine, and in the virtual machine of `cargo xtask test` on one without the memory controller.

use std::process::{Command, Output};

use serde_json::Value;

/// Runs a shell script with the device binary as `$PUNNET` and mounts of its own.
fn apart(script: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", script])
        .env("PUNNET", env!("CARGO_BIN_EXE_punnet"))
        .env("PUNNET_DATA_ROOT", folder.path().join("data"))
        .env("PUNNET_RUN_ROOT", "/dev/shm/punnet-doctor")
        .output()
        .unwrap()
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

fn finding<'a>(report: &'a Value, check: &str) -> &'a Value {
    let findings = report["findings"].as_array().unwrap();
    findings
        .iter()
        .find(|finding| finding["check"] == check)
        .unwrap_or_else(|| panic!("nothing on {check}: {report}"))
}

#[test]
fn every_part_of_this_machine_is_looked_at_and_containers_can_run_here() {
    let output = apart("$PUNNET doctor --json");
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_ne!(report["verdict"], "fail");
    for check in [
        "kernel",
        "kernel options",
        "architecture",
        "namespaces",
        "user namespaces",
        "cgroups",
        "cgroup controller memory",
        "cgroup controller pids",
        "overlayfs",
        "seccomp",
        "landlock",
        "data root",
        "run root",
        "memory",
        "clock",
        "entropy",
    ] {
        let finding = finding(&report, check);
        assert!(!finding["found"].as_str().unwrap().is_empty(), "{finding}");
        assert_eq!(
            finding["remedy"].is_string(),
            finding["verdict"] != "pass",
            "{finding}"
        );
    }
}

#[test]
fn the_memory_controller_is_judged_as_the_kernel_has_it() {
    let report = report(&apart("$PUNNET doctor --json"));
    let cgroups = std::fs::read_to_string("/proc/cgroups").unwrap();
    let row = cgroups.lines().find(|line| line.starts_with("memory\t")).unwrap();
    let fields: Vec<&str> = row.split('\t').collect();
    let (verdict, words) = match fields[..] {
        // As on a Raspberry Pi, whose firmware says cgroup_disable=memory.
        [_, _, _, "0"] => ("warn", "`cgroup_enable=memory`"),
        [_, "0", _, _] => ("pass", ""),
        _ => ("warn", "systemd.unified_cgroup_hierarchy=1"),
    };
    let finding = finding(&report, "cgroup controller memory");
    assert_eq!(finding["verdict"], verdict, "{finding}");
    assert!(
        finding["remedy"].as_str().unwrap_or_default().contains(words),
        "{finding}"
    );
}

#[test]
fn a_disk_that_is_read_only_or_full_fails() {
    for (options, words) in [
        ("ro", "read-only"),
        ("size=1m", "MiB and"),
        ("nr_inodes=9", "files free"),
    ] {
        let script = format!(
            "mkdir -p $PUNNET_DATA_ROOT && mount -t tmpfs -o {options} none $PUNNET_DATA_ROOT && $PUNNET doctor --json"
        );
        let output = apart(&script);
        let report = report(&output);
        let finding = finding(&report, "data root");
        assert_eq!(
            (output.status.code(), &finding["verdict"]),
            (Some(1), &"fail".into()),
            "{finding}"
        );
        assert!(finding["found"].as_str().unwrap().contains(words), "{finding}");
        assert!(finding["remedy"].is_string(), "{finding}");
    }
}

#[test]
fn people_get_a_line_for_each_check_and_the_remedy_below() {
    let text = String::from_utf8(apart("$PUNNET doctor").stdout).unwrap();
    assert!(text.starts_with("pass  kernel  "), "{text}");
    let warnings = text.lines().filter(|line| line.starts_with("WARN")).count();
    assert_eq!(
        text.lines()
            .filter(|line| line.trim_start().starts_with("-> "))
            .count(),
        warnings,
        "{text}"
    );
}
