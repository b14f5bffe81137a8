//! The checks. Each looks at some facts and at nothing else.

use punnet_runtime::ControllerFacts;

use super::{Facts, Finding, Volume};

const MIB: u64 = 1 << 20;

/// The oldest kernel that the runtime works on: mount_setattr(2).
const KERNEL_LEAST: (u32, u32) = (5, 12);
/// From here on everything is used: cgroup.kill (5.14), id-mapped layers of overlayfs (5.19).
const KERNEL_FULL: (u32, u32) = (5, 19);
/// Free space below which the next image will hardly fit.
const FREE_BYTES_LEAST: u64 = 64 * MIB;
/// Free space below which it is time to look.
const FREE_BYTES_GOOD: u64 = 256 * MIB;
/// An image of a usual distribution has some thousands of files.
const FREE_INODES_LEAST: u64 = 5000;
/// Less memory than the kernel, the agent and one small container need.
const MEMORY_BYTES_LEAST: u64 = 48 * MIB;
/// 2026-01-01: no board that runs this binary lives before it.
const CLOCK_LEAST_S: u64 = 1_767_225_600;

/// Options of the kernel, what they are for, and whether nothing works without them.
const OPTIONS: [(&str, &str, bool); 17] = [
    ("NAMESPACES", "isolation", true),
    ("UTS_NS", "host names of their own", true),
    ("IPC_NS", "isolation of IPC", true),
    ("PID_NS", "isolation of processes", true),
    ("NET_NS", "networks of their own", true),
    ("USER_NS", "containers of ordinary users", false),
    ("CGROUPS", "limits", true),
    ("MEMCG", "memory limits", false),
    ("CGROUP_PIDS", "process limits", false),
    ("CFS_BANDWIDTH", "CPU limits", false),
    ("CGROUP_BPF", "device rules", false),
    ("SECCOMP_FILTER", "the system call filter", true),
    ("OVERLAY_FS", "images", true),
    ("TMPFS_XATTR", "file capabilities on tmpfs", false),
    ("POSIX_MQUEUE", "/dev/mqueue", true),
    ("DEVPTS_MULTIPLE_INSTANCES", "terminals", false),
    ("KEYS", "keyrings", false),
];

/// Options that newer kernels no longer have, because they are always on.
const ALWAYS_ON_NOW: [&str; 1] = ["DEVPTS_MULTIPLE_INSTANCES"];

pub fn kernel(facts: &Facts) -> Vec<Finding> {
    let found = format!("Linux {}", facts.release);
    let mut findings = vec![match version(&facts.release) {
        Some(version) if version >= KERNEL_FULL => Finding::pass("kernel", found),
        Some(version) if version >= KERNEL_LEAST => Finding::warn(
            "kernel",
            found,
            "works; 5.19 or later maps the ids of images for user namespaces without a copy",
        ),
        _ => Finding::fail("kernel", found, "use Linux 5.12 or later (mount_setattr)"),
    }];
    let Some(config) = &facts.kernel_config else {
        findings.push(Finding::pass(
            "kernel options",
            "the kernel does not tell its configuration; what follows was tried out",
        ));
        return findings;
    };
    let missing: Vec<_> = OPTIONS
        .iter()
        .filter(|(option, ..)| !is_on(config, option) && !ALWAYS_ON_NOW.contains(option))
        .collect();
    let named = |needed: bool| {
        let words = missing.iter().filter(|(.., fatal)| *fatal == needed);
        let words: Vec<_> = words
            .map(|(option, purpose, _)| format!("CONFIG_{option} ({purpose})"))
            .collect();
        words.join(", ")
    };
    let remedy = "build the kernel with them, or take the distribution's";
    findings.push(match (named(true), named(false)) {
        (fatal, _) if !fatal.is_empty() => {
            Finding::fail("kernel options", format!("missing: {fatal}"), remedy)
        }
        (_, useful) if !useful.is_empty() => {
            Finding::warn("kernel options", format!("missing: {useful}"), remedy)
        }
        _ => Finding::pass("kernel options", "all there"),
    });
    findings
}

/// Whether a kernel's configuration has an option, built in or as a module.
pub fn is_on(config: &str, option: &str) -> bool {
    config.lines().any(|line| {
        let value = line
            .strip_prefix("CONFIG_")
            .and_then(|line| line.strip_prefix(option));
        matches!(value, Some("=y" | "=m"))
    })
}

/// Whether the kernel has a cgroup controller switched on.
pub fn known_controller(facts: &Facts, controller: &str) -> bool {
    facts.controllers.has(controller)
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

pub fn platform(facts: &Facts) -> Vec<Finding> {
    let found = format!(
        "{}, kernel {}, images for {}",
        facts.binary, facts.machine, facts.platform
    );
    let is_64bit = matches!(facts.machine.as_str(), "aarch64" | "x86_64");
    vec![if facts.binary == "arm" && is_64bit {
        Finding::warn(
            "architecture",
            found,
            "this is the 32-bit punnet on a 64-bit kernel: it takes 32-bit images; install the aarch64 build for others",
        )
    } else {
        Finding::pass("architecture", found)
    }]
}

pub fn namespaces(facts: &Facts) -> Vec<Finding> {
    let missing: Vec<_> = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"]
        .into_iter()
        .filter(|kind| !facts.namespaces.iter().any(|found| found == kind))
        .collect();
    vec![if missing.is_empty() {
        Finding::pass("namespaces", facts.namespaces.join(" "))
    } else {
        Finding::fail(
            "namespaces",
            format!("the kernel has none of kind {}", missing.join(", ")),
            "use a kernel with CONFIG_NAMESPACES=y and the options below it",
        )
    }]
}

pub fn user_namespaces(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "user namespaces";
    // Root's containers do without; an ordinary user's do not.
    let bad = |found: String, remedy: &str| match facts.euid {
        0 => Finding::warn(CHECK, found, remedy),
        _ => Finding::fail(CHECK, found, remedy),
    };
    let finding = match (&facts.user_namespace, facts.user_namespaces_max) {
        (Ok(()), _) if facts.euid != 0 && !facts.has_id_ranges => Finding::warn(
            CHECK,
            "allowed; with one id only",
            "for images with several users: install the package uidmap, and `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER`",
        ),
        (Ok(()), _) => Finding::pass(CHECK, "allowed"),
        (Err(_), Some(0)) => bad(
            "switched off".to_owned(),
            "sysctl user.max_user_namespaces=10000 (and in /etc/sysctl.d to keep it)",
        ),
        (Err(_), _) if facts.unprivileged_clone.as_deref() == Some("0") => bad(
            "not for ordinary users".to_owned(),
            "sysctl kernel.unprivileged_userns_clone=1 (and in /etc/sysctl.d to keep it)",
        ),
        (Err(why), _) => bad(
            format!("cannot be made: {why}"),
            "use a kernel with CONFIG_USER_NS=y; where AppArmor restricts them: sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    };
    vec![finding]
}

pub fn cgroups(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![match facts.cgroup_root.as_deref() {
        Some("/sys/fs/cgroup") => Finding::pass("cgroups", "version 2"),
        Some(place) => Finding::warn(
            "cgroups",
            format!("version 1, with version 2 at {place}: containers run, limits do not work"),
            "add `systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all` to the kernel command line and reboot",
        ),
        None => Finding::warn(
            "cgroups",
            "no version 2 tree is mounted: containers run, without limits and without `kill --all`",
            "mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        ),
    }];
    for (controller, purpose) in [
        ("memory", "--memory"),
        ("pids", "--pids-limit"),
        ("cpu", "--cpus"),
        ("cpuset", "CPU pinning"),
        ("io", "I/O limits"),
    ] {
        findings.push(cgroup_controller(facts, controller, purpose));
    }
    findings
}

fn cgroup_controller(facts: &Facts, controller: &str, purpose: &str) -> Finding {
    let check = format!("cgroup controller {controller}");
    let known: &ControllerFacts = &facts.controllers;
    let own = facts.own_cgroup.as_ref();
    // An ordinary user has what was delegated to where its containers are made.
    let usable = known.has(controller)
        && own.is_none_or(|own| {
            own.is_writable && own.controllers.split_whitespace().any(|name| name == controller)
        });
    if usable {
        return Finding::pass(&check, "available");
    }
    let place = own.map_or("/sys/fs/cgroup", |own| own.path.as_str());
    let missing = known.why_missing(controller, place);
    Finding::warn(
        &check,
        format!("{}; no {purpose}", missing.problem),
        missing.remedy,
    )
}

pub fn overlay(facts: &Facts) -> Vec<Finding> {
    vec![match facts.overlay {
        true => Finding::pass("overlayfs", "there"),
        false => Finding::fail(
            "overlayfs",
            "the kernel has none, or its module is not installed",
            "modprobe overlay; or use a kernel with CONFIG_OVERLAY_FS",
        ),
    }]
}

pub fn seccomp(facts: &Facts) -> Vec<Finding> {
    let has = |action: &str| {
        facts
            .seccomp_actions
            .split_whitespace()
            .any(|word| word == action)
    };
    vec![if has("errno") && has("kill_process") {
        Finding::pass("seccomp", facts.seccomp_actions.clone())
    } else {
        Finding::fail(
            "seccomp",
            "the kernel has no system call filters",
            "use a kernel with CONFIG_SECCOMP_FILTER=y; --privileged runs without",
        )
    }]
}

pub fn landlock(facts: &Facts) -> Vec<Finding> {
    vec![match &facts.landlock {
        Ok(version) => Finding::pass("landlock", format!("interface {version}")),
        // Programs inside may use it on themselves; the runtime does not need it.
        Err(why) => Finding::pass("landlock", format!("not there ({why}); not needed")),
    }]
}

pub fn storage(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![data_volume(&facts.data)];
    findings.push(match facts.run.kind.as_str() {
        "tmpfs" | "ramfs" => Finding::pass("run root", format!("{} on {}", facts.run.path, facts.run.kind)),
        kind => Finding::warn(
            "run root",
            format!(
                "{} on {kind}: logs and state would wear the flash",
                facts.run.path
            ),
            "use a folder on tmpfs (--run-root, PUNNET_RUN_ROOT)",
        ),
    });
    findings
}

fn data_volume(volume: &Volume) -> Finding {
    const CHECK: &str = "data root";
    let mib = volume.free_bytes / MIB;
    let found = format!(
        "{} on {}, {mib} MiB and {} files free",
        volume.path, volume.kind, volume.free_inodes
    );
    if volume.is_read_only {
        return Finding::fail(
            CHECK,
            format!("{} is read-only", volume.path),
            "mount -o remount,rw; if that fails, look for I/O errors in dmesg: the card may be dying; then choose another --data-root",
        );
    }
    if matches!(volume.kind.as_str(), "vfat" | "exfat" | "ntfs" | "nfs" | "9p") {
        return Finding::fail(
            CHECK,
            format!(
                "{} is on {}, which cannot hold a writable layer",
                volume.path, volume.kind
            ),
            "put it on ext4, btrfs, xfs or f2fs (--data-root, PUNNET_DATA_ROOT)",
        );
    }
    // btrfs counts no files.
    let few_files = volume.inodes > 0 && volume.free_inodes < FREE_INODES_LEAST;
    let remedy = "remove what is not needed: punnet rmi IMAGE, punnet prune";
    if volume.free_bytes < FREE_BYTES_LEAST || few_files {
        Finding::fail(CHECK, found, remedy)
    } else if volume.free_bytes < FREE_BYTES_GOOD {
        Finding::warn(CHECK, found, remedy)
    } else {
        Finding::pass(CHECK, found)
    }
}

pub fn memory(facts: &Facts) -> Vec<Finding> {
    let found = format!("{} MiB", facts.memory_bytes / MIB);
    vec![if facts.memory_bytes >= MEMORY_BYTES_LEAST {
        Finding::pass("memory", found)
    } else {
        Finding::warn(
            "memory",
            found,
            "less than the kernel, the agent and one container need",
        )
    }]
}

pub fn clock(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "clock";
    vec![if facts.clock_s < CLOCK_LEAST_S {
        Finding::warn(
            CHECK,
            format!(
                "stands at {} s after 1970: before this program was made",
                facts.clock_s
            ),
            "set it (NTP), or fit a battery-backed clock: registries over TLS are refused until then; signed orders need no clock",
        )
    } else if facts.has_rtc {
        Finding::pass(CHECK, "set, with a real-time clock")
    } else {
        Finding::pass(
            CHECK,
            "set; no real-time clock: after a power cut it is wrong until NTP answers",
        )
    }]
}

pub fn entropy(facts: &Facts) -> Vec<Finding> {
    vec![if facts.random_is_ready {
        Finding::pass("entropy", "ready")
    } else {
        Finding::warn(
            "entropy",
            "the kernel's random numbers are not ready yet: TLS waits for them",
            "load the board's hardware generator (Raspberry Pi: bcm2835-rng), or run rngd",
        )
    }]
}

#[cfg(test)]
mod tests {
    use super::super::{Verdict, examine, worst};
    use super::*;
    use crate::doctor::facts::OwnCgroup;

    /// A board on which all is well.
    fn good() -> Facts {
        let volume = |path: &str, kind: &str| Volume {
            path: path.into(),
            kind: kind.into(),
            free_bytes: 1 << 30,
            free_inodes: 100_000,
            inodes: 1_000_000,
            is_read_only: false,
        };
        Facts {
            release: "6.12.25+rpt-rpi-v8".into(),
            machine: "aarch64".into(),
            binary: "aarch64",
            platform: "linux/arm64/v8".into(),
            namespaces: ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"]
                .map(String::from)
                .to_vec(),
            user_namespace: Ok(()),
            cgroup_root: Some("/sys/fs/cgroup".into()),
            controllers: ControllerFacts {
                proc_cgroups: String::new(),
                root_controllers: Some("cpuset cpu io memory pids".into()),
            },
            overlay: true,
            seccomp_actions: "kill_process kill_thread trap errno user_notif trace log allow".into(),
            landlock: Ok(5),
            data: volume("/var/lib/punnet", "ext4"),
            run: volume("/run/punnet", "tmpfs"),
            memory_bytes: 512 << 20,
            clock_s: CLOCK_LEAST_S + 1,
            has_rtc: true,
            random_is_ready: true,
            ..Facts::default()
        }
    }

    #[test]
    fn a_good_board_passes() {
        let findings = examine(&good());
        let bad: Vec<_> = findings
            .iter()
            .filter(|finding| finding.verdict != Verdict::Pass)
            .collect();
        assert!(bad.is_empty(), "{bad:?}");
        assert!(findings.iter().all(|finding| finding.remedy.is_empty()));
    }

    /// One thing is wrong, and exactly one check says so, with these words.
    fn check(what: &str, spoil: impl FnOnce(&mut Facts), verdict: Verdict, name: &str, words: &[&str]) {
        let mut facts = good();
        spoil(&mut facts);
        let findings = examine(&facts);
        let bad: Vec<_> = findings
            .iter()
            .filter(|finding| finding.verdict != Verdict::Pass)
            .collect();
        assert_eq!(bad.len(), 1, "{what}: {bad:?}");
        assert_eq!(
            (bad[0].verdict, bad[0].check.as_str()),
            (verdict, name),
            "{what}: {bad:?}"
        );
        assert!(!bad[0].remedy.is_empty(), "{what}");
        let text = format!("{} {}", bad[0].found, bad[0].remedy);
        assert!(words.iter().all(|word| text.contains(word)), "{what}: {text}");
        assert_eq!(worst(&findings), verdict);
    }

    #[test]
    fn each_thing_that_is_wrong_is_named_with_its_remedy() {
        use Verdict::{Fail, Warn};
        check(
            "old",
            |f| f.release = "5.10.103-v7+".into(),
            Fail,
            "kernel",
            &["5.10", "5.12"],
        );
        check(
            "old enough",
            |f| f.release = "5.15.84".into(),
            Warn,
            "kernel",
            &["5.19"],
        );
        check(
            "no version",
            |f| f.release = "unknown".into(),
            Fail,
            "kernel",
            &["unknown"],
        );
        check(
            "options",
            |f| f.kernel_config = Some(config(&["MEMCG", "KEYS"])),
            Warn,
            "kernel options",
            &["CONFIG_MEMCG (memory limits)", "CONFIG_KEYS"],
        );
        check(
            "no overlay",
            |f| f.kernel_config = Some(config(&["OVERLAY_FS"])),
            Fail,
            "kernel options",
            &["images"],
        );
        check(
            "32-bit",
            |f| f.binary = "arm",
            Warn,
            "architecture",
            &["aarch64 build"],
        );
        check(
            "no pids",
            |f| f.namespaces.retain(|kind| kind != "pid"),
            Fail,
            "namespaces",
            &["pid"],
        );
        check(
            "overlay",
            |f| f.overlay = false,
            Fail,
            "overlayfs",
            &["modprobe overlay"],
        );
        check(
            "seccomp",
            |f| f.seccomp_actions.clear(),
            Fail,
            "seccomp",
            &["CONFIG_SECCOMP_FILTER"],
        );
        check(
            "read-only",
            |f| f.data.is_read_only = true,
            Fail,
            "data root",
            &["remount,rw", "dmesg"],
        );
        check(
            "card",
            |f| f.data.kind = "vfat".into(),
            Fail,
            "data root",
            &["vfat", "ext4"],
        );
        check(
            "full",
            |f| f.data.free_bytes = 9 * MIB,
            Fail,
            "data root",
            &["9 MiB", "punnet prune"],
        );
        check(
            "nearly full",
            |f| f.data.free_bytes = 100 * MIB,
            Warn,
            "data root",
            &["100 MiB"],
        );
        check(
            "no files left",
            |f| f.data.free_inodes = 3,
            Fail,
            "data root",
            &["3 files"],
        );
        check(
            "run root",
            |f| f.run.kind = "ext4".into(),
            Warn,
            "run root",
            &["wear", "tmpfs"],
        );
        check(
            "memory",
            |f| f.memory_bytes = 32 * MIB,
            Warn,
            "memory",
            &["32 MiB"],
        );
        check("1970", |f| f.clock_s = 60, Warn, "clock", &["60 s", "NTP"]);
        check(
            "entropy",
            |f| f.random_is_ready = false,
            Warn,
            "entropy",
            &["bcm2835-rng"],
        );
    }

    /// A configuration with everything but these.
    fn config(without: &[&str]) -> String {
        OPTIONS
            .iter()
            .filter(|(option, ..)| !without.contains(option))
            .map(|(option, ..)| format!("CONFIG_{option}=m\n"))
            .collect()
    }

    #[test]
    fn user_namespaces_matter_more_to_ordinary_users() {
        use Verdict::{Fail, Warn};
        let refused = |euid: u32, max: Option<u64>, switch: Option<&str>| {
            let switch = switch.map(str::to_owned);
            move |facts: &mut Facts| {
                facts.euid = euid;
                facts.own_cgroup = None;
                facts.has_id_ranges = true;
                facts.user_namespace = Err("EPERM".into());
                facts.user_namespaces_max = max;
                facts.unprivileged_clone = switch;
            }
        };
        let name = "user namespaces";
        check(
            "root",
            refused(0, Some(0), None),
            Warn,
            name,
            &["user.max_user_namespaces"],
        );
        check(
            "user",
            refused(1000, Some(0), None),
            Fail,
            name,
            &["user.max_user_namespaces"],
        );
        check(
            "debian",
            refused(1000, Some(9), Some("0")),
            Fail,
            name,
            &["unprivileged_userns_clone=1"],
        );
        check(
            "ubuntu",
            refused(1000, Some(9), None),
            Fail,
            name,
            &["EPERM", "apparmor_restrict"],
        );
        let one_id = |facts: &mut Facts| {
            facts.euid = 1000;
            facts.has_id_ranges = false;
        };
        check("one id", one_id, Warn, name, &["uidmap", "add-subuids"]);
    }

    #[test]
    fn controllers_are_missing_for_a_reason() {
        use Verdict::Warn;
        let name = "cgroup controller memory";
        let raspberry = |facts: &mut Facts| {
            facts.controllers.proc_cgroups = "memory\t0\t60\t0\n".into();
            facts.controllers.root_controllers = Some("cpuset cpu io pids".into());
        };
        check(
            "Pi",
            raspberry,
            Warn,
            name,
            &["no --memory", "cgroup_enable=memory", "cmdline.txt"],
        );
        let session = |facts: &mut Facts| {
            facts.euid = 1000;
            facts.has_id_ranges = true;
            facts.own_cgroup = Some(OwnCgroup {
                path: "/sys/fs/cgroup/user.slice".into(),
                controllers: "cpuset cpu io pids".into(),
                is_writable: true,
            });
        };
        check(
            "user",
            session,
            Warn,
            name,
            &["not delegated to /sys/fs/cgroup/user.slice", "Delegate"],
        );
        let hybrid = |facts: &mut Facts| facts.cgroup_root = Some("/sys/fs/cgroup/unified".into());
        check("hybrid", hybrid, Warn, "cgroups", &["unified_cgroup_hierarchy=1"]);
    }
}
