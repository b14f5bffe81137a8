//! Limits that the kernel enforces. They need cgroup v2 with its controllers: `cargo xtask test` runs this suite in a virtual machine that has them.

use std::path::PathBuf;

use punnet_spec::{BlockIo, Cpu, HugepageLimit, Memory, Pids, Rdma, Resources, ThrottleDevice, WeightDevice};

use crate::bundle::Bundle;
use crate::references::differs;

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
    if differs("a_container_fits_in_half_a_mebibyte") {
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
    if !differs("nothing stays of a container that could not be made") {
        assert!(!folder(&bundle).exists(), "a cgroup stayed");
    }
}

#[test]
fn bursts_and_idleness_reach_the_kernel() {
    if differs("bursts_and_idleness_reach_the_kernel") {
        // crun 1.8 does not know bursts.
        return;
    }
    let cpu = Cpu {
        quota: Some(50_000),
        period: Some(100_000),
        burst: Some(20_000),
        ..Cpu::default()
    };
    let with = |cpu| Resources {
        cpu: Some(cpu),
        ..Resources::default()
    };
    let Some(bundle) = limited("sleep 100", with(cpu)) else {
        return;
    };
    assert_files(
        &bundle,
        &[("cpu.max", "50000 100000"), ("cpu.max.burst", "20000")],
    );
    let idle = Cpu {
        idle: Some(1),
        ..Cpu::default()
    };
    if let Some(bundle) = limited("sleep 100", with(idle)) {
        assert_files(&bundle, &[("cpu.idle", "1")]);
    }
}

#[test]
fn no_process_beside_the_first_is_a_limit() {
    if differs("no_process_beside_the_first_is_a_limit") {
        // The specification says so since 1.3; the references are older and take 0 for none.
        return;
    }
    let resources = Resources {
        pids: Some(Pids { limit: Some(0) }),
        ..Resources::default()
    };
    let Some(bundle) = limited("echo alone; (echo forked); echo end", resources) else {
        return;
    };
    let answer = bundle.run();
    assert!(
        answer.out == "alone\n" && answer.err.contains("can't fork"),
        "{answer:?}"
    );
}

/// Number of the machine's first disk.
fn disk() -> (i64, i64) {
    let text = std::fs::read_to_string("/sys/block/vda/dev").unwrap();
    let (major, minor) = text.trim().split_once(':').unwrap();
    (major.parse().unwrap(), minor.parse().unwrap())
}

#[test]
fn io_settings_reach_the_kernel_as_cgroup_v2_has_them() {
    let Some(mut bundle) = limited("sleep 100", Resources::default()) else {
        return;
    };
    let (major, minor) = disk();
    let throttle = |rate| vec![ThrottleDevice { major, minor, rate }];
    bundle.linux().resources = Some(Resources {
        block_io: Some(BlockIo {
            throttle_read_bps_device: throttle(1 << 20),
            throttle_write_bps_device: throttle(1 << 21),
            throttle_read_iops_device: throttle(100),
            throttle_write_iops_device: throttle(200),
            ..BlockIo::default()
        }),
        ..Resources::default()
    });
    let expected = format!("{major}:{minor} rbps=1048576 wbps=2097152 riops=100 wiops=200");
    assert_files(&bundle, &[("io.max", &expected)]);
}

#[test]
fn weights_of_bfq_are_those_of_the_file() {
    let Some(mut bundle) = limited("sleep 100", Resources::default()) else {
        return;
    };
    // The module brings the file.
    let loaded = std::process::Command::new("modprobe").arg("bfq").status();
    let scheduler = "/sys/block/vda/queue/scheduler";
    if !loaded.is_ok_and(|status| status.success()) || std::fs::write(scheduler, "bfq").is_err() {
        println!("SKIPPED: no BFQ in this kernel");
        return;
    }
    bundle.linux().resources = Some(Resources {
        block_io: Some(BlockIo {
            weight: Some(300),
            ..BlockIo::default()
        }),
        ..Resources::default()
    });
    assert_files(&bundle, &[("io.bfq.weight", "default 300")]);
    let (major, minor) = disk();
    bundle.linux().resources = Some(Resources {
        block_io: Some(BlockIo {
            weight_device: vec![WeightDevice {
                major,
                minor,
                weight: Some(500),
                leaf_weight: None,
            }],
            ..BlockIo::default()
        }),
        ..Resources::default()
    });
    assert_files(
        &bundle,
        &[("io.bfq.weight", &format!("default 100\n{major}:{minor} 500"))],
    );
}

#[test]
fn huge_pages_are_limited_where_they_are_reserved() {
    let Some(bundle) = limited(
        "sleep 100",
        Resources {
            hugepage_limits: vec![HugepageLimit {
                page_size: "2MB".into(),
                limit: 4 << 20,
            }],
            ..Resources::default()
        },
    ) else {
        return;
    };
    // The references limit page faults.
    let file = if differs("where huge pages are reserved") {
        "hugetlb.2MB.max"
    } else {
        "hugetlb.2MB.rsvd.max"
    };
    assert_files(&bundle, &[(file, "4194304")]);
}

#[test]
fn rdma_devices_are_limited_and_unknown_ones_are_named() {
    if differs("rdma_devices_are_limited_and_unknown_ones_are_named") {
        // crun 1.8 knows neither.
        return;
    }
    let with = |device: &str| Resources {
        rdma: [(
            device.to_owned(),
            Rdma {
                hca_handles: Some(3),
                hca_objects: Some(10),
            },
        )]
        .into(),
        ..Resources::default()
    };
    let Some(bundle) = limited("true", with("none0")) else {
        return;
    };
    let answer = bundle.run();
    assert!(
        answer.code != 0 && answer.err.contains("linux.resources.rdma"),
        "{answer:?}"
    );
    let run = |words: &[&str]| {
        let status = std::process::Command::new(words[0]).args(&words[1..]).status();
        status.is_ok_and(|status| status.success())
    };
    let made = run(&["modprobe", "rdma_rxe"])
        && run(&["ip", "link", "add", "rdma0", "type", "dummy"])
        && run(&["ip", "link", "set", "rdma0", "up"])
        && run(&["rdma", "link", "add", "rxe0", "type", "rxe", "netdev", "rdma0"]);
    if !made {
        println!("SKIPPED: no RDMA device can be made here");
        return;
    }
    if let Some(bundle) = limited("sleep 100", with("rxe0")) {
        assert_files(&bundle, &[("rdma.max", "rxe0 hca_handle=3 hca_object=10")]);
    }
}

#[test]
fn a_writable_cgroup_belongs_to_the_containers_user() {
    use std::os::unix::fs::MetadataExt;
    if differs("a_writable_cgroup_belongs_to_the_containers_user") {
        // crun 1.8 leaves it with root.
        return;
    }
    let Some(mut bundle) = limited("mkdir /sys/fs/cgroup/own && sleep 100", Resources::default()) else {
        return;
    };
    bundle.process().user.uid = 1000;
    for mount in &mut bundle.spec.mounts {
        mount
            .options
            .retain(|option| mount.destination != "/sys/fs/cgroup" || option != "ro");
    }
    bundle.start();
    crate::bundle::wait_until("its own cgroup", || folder(&bundle).join("own").exists());
    let owner = |file: &str| std::fs::metadata(folder(&bundle).join(file)).unwrap().uid();
    assert_eq!(
        [
            "",
            "cgroup.procs",
            "cgroup.subtree_control",
            "pids.max",
            "cgroup.freeze"
        ]
        .map(owner),
        [1000, 1000, 1000, 0, 0]
    );
}
