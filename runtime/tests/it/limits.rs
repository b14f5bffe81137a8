//! Limits that the kernel enforces. They need cgroup v2 with its controllers: `cargo xtask test` runs this suite in a virtual machine that has them.

use std::path::PathBuf;

use punnet_spec::{Cpu, Memory, Pids, Resources};

use crate::bundle::{Bundle, only_punnet};

const MIB: i64 = 1 << 20;

/// A bundle in a cgroup of its own with these limits; `None`, and it says so, when this machine cannot enforce them.
pub fn limited(script: &str, resources: Resources) -> Option<Bundle> {
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    if !["memory", "pids", "cpu", "io"]
        .iter()
        .all(|name| controllers.contains(name))
    {
        println!("SKIPPED: no cgroup v2 with all controllers here; the virtual machine has it");
        return None;
    }
    let mut bundle = Bundle::sh(script);
    let id = bundle.id();
    bundle.linux().cgroups_path = format!("/limited/{id}");
    bundle.linux().resources = Some(resources);
    Some(bundle)
}

pub fn folder(bundle: &Bundle) -> PathBuf {
    format!("/sys/fs/cgroup/limited/{}", bundle.id()).into()
}

/// What the kernel has taken of a running container's limits.
#[track_caller]
fn assert_files(bundle: &Bundle, files: &[(&str, &str)]) {
    bundle.start();
    for (file, want) in files {
        let found = std::fs::read_to_string(folder(bundle).join(file)).unwrap();
        assert_eq!(found.trim(), *want, "{file}");
    }
    assert_eq!(bundle.call(&["delete", "--force", &bundle.id()]).code, 0);
    assert!(!folder(bundle).exists(), "a cgroup stayed");
}

fn memory(limit: i64) -> Resources {
    Resources {
        memory: Some(Memory {
            limit: Some(limit),
            swap: Some(limit),
            ..Memory::default()
        }),
        ..Resources::default()
    }
}

#[test]
fn a_container_that_takes_too_much_memory_is_killed_and_its_neighbour_is_not() {
    let (Some(neighbour), Some(greedy)) = (
        limited("sleep 100", memory(4 * MIB)),
        limited("tail /dev/zero", memory(8 * MIB)),
    ) else {
        return;
    };
    neighbour.start();
    let answer = greedy.run();
    assert_eq!(answer.code, 137, "{answer:?}");
    assert_eq!(neighbour.status(), "running");
}

#[test]
fn a_container_fits_in_half_a_mebibyte() {
    if only_punnet("a_container_fits_in_half_a_mebibyte") {
        return;
    }
    let Some(bundle) = limited("echo fits", memory(MIB / 2)) else {
        return;
    };
    assert_eq!(bundle.output(), "fits\n");
}

#[test]
fn forks_beyond_the_limit_fail_inside_only() {
    let resources = Resources {
        pids: Some(Pids { limit: Some(8) }),
        ..Resources::default()
    };
    let Some(bundle) = limited("for i in 1 2 3 4 5 6 7 8 9 10; do sleep 5 & done", resources) else {
        return;
    };
    let answer = bundle.run();
    assert!(
        answer.code != 0 && answer.err.contains("can't fork"),
        "{answer:?}"
    );
}

#[test]
fn a_processor_share_is_all_a_busy_container_gets() {
    let cpu = Cpu {
        quota: Some(20_000),
        period: Some(100_000),
        ..Cpu::default()
    };
    let Some(bundle) = limited(
        "while true; do :; done",
        Resources {
            cpu: Some(cpu),
            ..Resources::default()
        },
    ) else {
        return;
    };
    bundle.start();
    crate::bundle::wait_until("throttled", || {
        let stat = std::fs::read_to_string(folder(&bundle).join("cpu.stat")).unwrap();
        stat.lines().any(|line| {
            line.strip_prefix("nr_throttled ")
                .is_some_and(|count| count != "0")
        })
    });
}

#[test]
fn memory_settings_reach_the_kernel_as_cgroup_v2_has_them() {
    // The runtime specification counts memory and swap together, the kernel swap alone.
    let memory = Memory {
        limit: Some(64 * MIB),
        reservation: Some(32 * MIB),
        swap: Some(96 * MIB),
        ..Memory::default()
    };
    let Some(bundle) = limited(
        "sleep 100",
        Resources {
            memory: Some(memory),
            ..Resources::default()
        },
    ) else {
        return;
    };
    let mib = |count: i64| (count * MIB).to_string();
    assert_files(
        &bundle,
        &[
            ("memory.max", &mib(64)),
            ("memory.low", &mib(32)),
            ("memory.swap.max", &mib(32)),
        ],
    );
}

#[test]
fn processor_settings_reach_the_kernel_as_cgroup_v2_has_them() {
    let cpu = Cpu {
        shares: Some(1024),
        quota: Some(50_000),
        period: Some(100_000),
        cpus: "0".into(),
        ..Cpu::default()
    };
    let Some(bundle) = limited(
        "sleep 100",
        Resources {
            cpu: Some(cpu),
            ..Resources::default()
        },
    ) else {
        return;
    };
    assert_files(
        &bundle,
        &[
            ("cpu.max", "50000 100000"),
            ("cpu.weight", "39"),
            ("cpuset.cpus", "0"),
        ],
    );
}

#[test]
fn unified_settings_are_written_as_they_are_and_wrong_ones_are_named() {
    let with = |name: &str, value: &str| Resources {
        unified: [(name.to_owned(), value.to_owned())].into(),
        ..Resources::default()
    };
    let Some(bundle) = limited("sleep 100", with("memory.high", "33554432")) else {
        return;
    };
    assert_files(&bundle, &[("memory.high", "33554432")]);
    let Some(bundle) = limited("true", with("memory.nonsense", "1")) else {
        return;
    };
    let answer = bundle.run();
    assert!(
        answer.code != 0 && answer.err.contains("memory.nonsense"),
        "{answer:?}"
    );
    if !only_punnet("nothing stays of a container that could not be made") {
        assert!(!folder(&bundle).exists(), "a cgroup stayed");
    }
}
