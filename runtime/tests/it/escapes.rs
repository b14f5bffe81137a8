//! What images and running containers try with paths and mounts: each test fails on a runtime that joins paths as text, or that looks first
//! and mounts later. docs/escapes.md has the table of them.

use crate::bundle::{Bundle, bind, is_emulated};
use crate::references::differs;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use punnet_spec::{Capabilities, DEFAULT_CAPABILITIES, Mount};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// Mounts of one container in the test of races, and how many containers are started: together the thousands of attempts that exploits need.
const MOUNTS_EACH: usize = 60;
const CONTAINERS: usize = 40;
const CONTAINERS_EMULATED: usize = 5;
/// How often the deceived look-then-act of the same test is tried: one in some hundred tries falls for it.
const NAIVE_TRIES_MAX: usize = 200_000;

fn containers() -> usize {
    if is_emulated() {
        CONTAINERS_EMULATED
    } else {
        CONTAINERS
    }
}

#[test]
fn a_mount_target_behind_a_link_stays_inside() {
    if differs("a_mount_target_behind_a_link_stays_inside") {
        return;
    }
    let volume = tempfile::tempdir().unwrap();
    std::fs::write(volume.path().join("file"), "v").unwrap();
    let target = tempfile::tempdir().unwrap();
    let mut bundle = Bundle::sh("cat /link/sub/file");
    symlink(target.path(), bundle.rootfs().join("link")).unwrap();
    bundle.spec.mounts.push(bind(volume.path(), "/link/sub", &[]));
    assert_eq!(bundle.output(), "v");
    assert!(is_empty(target.path()), "made on the host");
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

#[test]
fn proc_and_sys_on_a_link_are_refused() {
    // CVE-2023-27561, CVE-2023-28642, CVE-2019-19921
    for name in ["proc", "sys"] {
        let bundle = Bundle::sh("true");
        std::fs::create_dir(bundle.rootfs().join("elsewhere")).unwrap();
        symlink("/elsewhere", bundle.rootfs().join(name)).unwrap();
        let answer = bundle.run();
        assert!(answer.code != 0 && answer.err.contains(name), "{answer:?}");
    }
}

#[test]
fn mounting_inside_proc_is_refused() {
    // CVE-2019-16884
    if differs("mounting_inside_proc_is_refused") {
        return;
    }
    let volume = tempfile::tempdir().unwrap();
    for destination in ["/proc", "/proc/self/attr", "/link/sys"] {
        let mut bundle = Bundle::sh("true");
        symlink("/proc", bundle.rootfs().join("link")).unwrap();
        bundle.spec.mounts.push(bind(volume.path(), destination, &[]));
        let answer = bundle.run();
        assert!(
            answer.code != 0 && answer.err.contains("proc"),
            "{destination}: {answer:?}"
        );
    }
}

#[test]
fn masks_do_not_come_from_the_image() {
    // CVE-2025-31133: the image's /dev/null is a link to what the attacker wants bound over a masked path.
    let mut bundle = Bundle::sh("cat /masked | wc -c");
    bundle
        .spec
        .mounts
        .retain(|mount| !mount.destination.starts_with("/dev"));
    std::fs::create_dir(bundle.rootfs().join("dev")).unwrap();
    std::fs::write(bundle.rootfs().join("content"), "wanted").unwrap();
    symlink("/content", bundle.rootfs().join("dev/null")).unwrap();
    std::fs::write(bundle.rootfs().join("masked"), "secret").unwrap();
    bundle.linux().masked_paths.push("/masked".into());
    let answer = bundle.run();
    assert!(answer.code != 0 || answer.out == "0\n", "{answer:?}");
}

#[test]
fn a_masked_path_that_is_a_link_hides_what_it_leads_to_inside() {
    let host = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
    std::fs::write(host.path(), "host").unwrap();
    let script = format!("cat {0} /masked | wc -c; stat -c %F {0}", host.path().display());
    let mut bundle = Bundle::sh(&script);
    std::fs::create_dir_all(bundle.rootfs().join("var/tmp")).unwrap();
    let inside = bundle.rootfs().join(host.path().strip_prefix("/").unwrap());
    std::fs::write(&inside, "secret").unwrap();
    symlink(host.path(), bundle.rootfs().join("masked")).unwrap();
    bundle.linux().masked_paths.push("/masked".into());
    assert_eq!(bundle.output(), "0\ncharacter special file\n");
    assert_eq!(std::fs::read(host.path()).unwrap(), b"host");
}

#[test]
fn the_console_is_not_put_where_a_link_leads() {
    // CVE-2025-52565, CVE-2025-52881: a terminal bound over a file of procfs hides it, or takes the writes meant for it.
    if differs("the_console_is_not_put_where_a_link_leads") {
        return;
    }
    let host = tempfile::NamedTempFile::new().unwrap();
    let target = format!("../../../../../../../..{}", host.path().display());
    for link in ["/proc/self/attr/exec", "/proc/sysrq-trigger", target.as_str()] {
        let mut bundle = Bundle::sh("true");
        bundle.process().terminal = true;
        bundle.spec.mounts.retain(|mount| mount.destination != "/dev");
        std::fs::create_dir(bundle.rootfs().join("dev")).unwrap();
        symlink(link, bundle.rootfs().join("dev/console")).unwrap();
        let answer = bundle.run();
        assert!(
            answer.code == 125 && answer.err.contains("/dev/console"),
            "{link}: {answer:?}"
        );
    }
}

#[test]
fn kernel_parameters_are_written_to_the_real_procfs() {
    // CVE-2025-52881, CVE-2019-16884: files of the image stand where the runtime would write.
    if differs("kernel_parameters_are_written_to_the_real_procfs") {
        return;
    }
    let mut bundle = Bundle::sh("sleep 100");
    bundle.spec.mounts.retain(|mount| mount.destination != "/proc");
    bundle.linux().masked_paths.clear();
    bundle.linux().readonly_paths.clear();
    let fake = bundle.rootfs().join("proc/sys/net/ipv4");
    std::fs::create_dir_all(&fake).unwrap();
    std::fs::write(fake.join("ip_forward"), "fake").unwrap();
    std::fs::write(bundle.rootfs().join("target"), "fake").unwrap();
    symlink("/target", fake.join("ip_default_ttl")).unwrap();
    let sysctl = &mut bundle.linux().sysctl;
    sysctl.insert("net.ipv4.ip_forward".into(), "1".into());
    sysctl.insert("net.ipv4.ip_default_ttl".into(), "77".into());
    bundle.start();
    let seen = Command::new("nsenter")
        .arg(format!("--net=/proc/{}/ns/net", bundle.pid()))
        .args([
            "cat",
            "/proc/sys/net/ipv4/ip_forward",
            "/proc/sys/net/ipv4/ip_default_ttl",
        ])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&seen.stdout), "1\n77\n");
    for untouched in [fake.join("ip_forward"), bundle.rootfs().join("target")] {
        assert_eq!(
            std::fs::read(&untouched).unwrap(),
            b"fake",
            "{}",
            untouched.display()
        );
    }
}

#[test]
fn no_release_agent_can_be_reached() {
    // CVE-2022-0492: a user namespace gives the right to mount a v1 hierarchy, whose release_agent the host's root executes.
    let mut bundle = Bundle::sh(
        "mkdir /dev/shm/c
         unshare -U -r -m -C mount -t cgroup -o none,name=own none /dev/shm/c && echo unshared
         for options in none,name=own rdma memory; do mount -t cgroup -o $options none /dev/shm/c && echo mounted; done
         touch /sys/fs/cgroup/x && echo writable
         test -e /sys/fs/cgroup/release_agent && echo there
         echo end",
    );
    let names: Vec<String> = DEFAULT_CAPABILITIES.iter().map(ToString::to_string).collect();
    bundle.process().capabilities = Some(Capabilities::of_root(DEFAULT_CAPABILITIES));
    bundle.linux().seccomp = Some(punnet_runtime::seccomp::default_seccomp(&names));
    assert_eq!(bundle.output(), "end\n");
}

/// Exchanges `swap` and `out` below `root` as fast as the kernel does, until told to stop.
fn exchange(root: &Path, stop: &AtomicBool) {
    let (swap, out) = (root.join("swap"), root.join("out"));
    while !stop.load(Ordering::Relaxed) {
        renameat2(AT_FDCWD, &swap, AT_FDCWD, &out, RenameFlags::RENAME_EXCHANGE).unwrap();
    }
}

/// A directory that becomes a link to `host` and back all the time, while `work` is done.
fn while_exchanged<T>(root: &Path, host: &Path, work: impl FnOnce() -> T) -> T {
    std::fs::create_dir_all(root.join("swap")).unwrap();
    symlink(host, root.join("out")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| exchange(root, &stop));
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        done.unwrap()
    })
}

#[test]
fn the_exchange_of_these_tests_deceives_who_looks_first() {
    // The measure of the test below: the same attack on the way runtimes used to do it.
    let (root, host) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let root = root.path().canonicalize().unwrap();
    let fell = while_exchanged(&root, host.path(), || {
        (0..NAIVE_TRIES_MAX).any(|_| {
            let parent = root.join("swap");
            let looked = parent.canonicalize().is_ok_and(|path| path.starts_with(&root));
            let inner = parent.join("inner");
            if looked && std::fs::create_dir(&inner).is_ok() {
                drop(std::fs::remove_dir(&inner));
            }
            !is_empty(host.path())
        })
    });
    assert!(fell, "the attack is too weak to prove anything");
}

#[test]
fn exchanging_a_mount_target_for_a_link_never_leads_out() {
    if differs("exchanging_a_mount_target_for_a_link_never_leads_out") {
        return;
    }
    // CVE-2021-30465
    let (volume, host) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut bundle = Bundle::sh("true");
    for number in 0..MOUNTS_EACH {
        // The second half finds its targets there, as restarted containers do.
        let target = format!("/swap/inner{}", number % (MOUNTS_EACH / 2));
        bundle.spec.mounts.push(bind(volume.path(), &target, &[]));
    }
    bundle.write();
    // The race may cost any of these starts.
    while_exchanged(&bundle.rootfs(), host.path(), || {
        for _ in 0..containers() {
            bundle.call(&["run", &bundle.id()]);
        }
    });
    assert!(is_empty(host.path()), "something was made on the host");
    assert!(is_empty(volume.path()), "something was made in the volume");
    // Left alone, the same container starts: it was not refused for another reason.
    let (swap, out) = (bundle.rootfs().join("swap"), bundle.rootfs().join("out"));
    if swap.is_symlink() {
        std::fs::rename(&out, bundle.rootfs().join("directory")).unwrap();
        std::fs::remove_file(&swap).unwrap();
        std::fs::rename(bundle.rootfs().join("directory"), &swap).unwrap();
    }
    let answer = bundle.call(&["run", &bundle.id()]);
    assert_eq!(answer.code, 0, "{answer:?}");
}

#[test]
fn exchanging_the_place_of_procfs_never_leaves_its_files_unmasked() {
    if differs("exchanging_the_place_of_procfs_never_leaves_its_files_unmasked") {
        return;
    }
    // CVE-2019-19921: the masks belong on the procfs that the program sees.
    let mut bundle = Bundle::sh("test -e /proc/self && cat /proc/keys /proc/timer_list | wc -c");
    bundle.spec.mounts.insert(
        0,
        Mount {
            destination: "/swap/proc".into(),
            kind: "proc".into(),
            source: "proc".into(),
            ..Mount::default()
        },
    );
    bundle.write();
    let host = tempfile::tempdir().unwrap();
    let answers: Vec<_> = while_exchanged(&bundle.rootfs(), host.path(), || {
        (0..containers())
            .map(|_| bundle.call(&["run", &bundle.id()]))
            .collect()
    });
    for answer in answers {
        assert!(answer.code != 0 || answer.out == "0\n", "{answer:?}");
    }
    assert!(is_empty(host.path()), "something was made on the host");
}
