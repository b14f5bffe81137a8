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

/// A description of the machine that runs the tests, as far as the tests can know it.
fn this_machine() -> Value {
    serde_json::json!({
        "name": "this", "description": "What runs the tests", "arch": "amd64", "memory_budget_kib": 65_536, "cpu": "x86-64",
        "device_classes": { "null": { "nodes": ["/dev/null"] } },
    })
}

#[test]
fn this_machine_is_what_its_description_says_and_another_is_not() {
    if std::env::consts::ARCH != "x86_64" {
        println!("SKIPPED: the description is of an x86-64 machine");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("board.json");
    let check = |board: &Value| {
        std::fs::write(&path, board.to_string()).unwrap();
        apart(&format!("$PUNNET doctor --json --board {}", path.display()))
    };
    let good = check(&this_machine());
    let seen = report(&good);
    assert_eq!(good.status.code(), Some(0), "{seen}");
    assert_eq!(finding(&seen, "device class null")["found"], "/dev/null");
    assert_eq!(finding(&seen, "processor")["verdict"], "pass");

    let mut wrong = this_machine();
    wrong["arch"] = "arm-v6".into();
    wrong["kernel_modules"] = serde_json::json!(["bcm2835_wdt_absent"]);
    wrong["kernel_command_line"] = serde_json::json!(["dwc_otg.lpm_enable=0"]);
    wrong["watchdog"] = serde_json::json!({ "node": "/dev/watchdog99", "timeout_s": 15 });
    wrong["status_led"] = serde_json::json!({ "class": "ACT_absent" });
    wrong["device_classes"]["camera"] = serde_json::json!({ "nodes": ["/dev/absent*"] });
    let bad = check(&wrong);
    let seen = report(&bad);
    assert_eq!(bad.status.code(), Some(1));
    for (check, verdict) in [
        ("processor", "fail"),
        ("board's modules", "fail"),
        ("kernel command line", "fail"),
        ("watchdog", "fail"),
        ("status LED", "fail"),
        ("device class camera", "warn"),
    ] {
        let finding = finding(&seen, check);
        assert_eq!(finding["verdict"], verdict, "{finding}");
        assert!(finding["remedy"].is_string(), "{finding}");
    }
    let mut unknown = this_machine();
    unknown["colour"] = "red".into();
    let refused = check(&unknown);
    let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        complaint.contains("board.json") && complaint.contains("line 1 column"),
        "{complaint}"
    );
}
