//! What images and programs try: each test fails on a runtime that joins paths as text.

use crate::bundle::{Bundle, bind, install_bytes, only_punnet};
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn a_mount_target_behind_a_link_stays_inside() {
    let volume = tempfile::tempdir().unwrap();
    std::fs::write(volume.path().join("file"), "v").unwrap();
    let target = tempfile::tempdir().unwrap();
    let mut bundle = Bundle::sh("cat /link/sub/file");
    symlink(target.path(), bundle.rootfs().join("link")).unwrap();
    bundle.spec.mounts.push(bind(volume.path(), "/link/sub", &[]));
    assert_eq!(bundle.output(), "v");
    assert_eq!(
        std::fs::read_dir(target.path()).unwrap().count(),
        0,
        "made on the host"
    );
}

#[test]
fn proc_on_a_link_is_refused() {
    // CVE-2023-27561, CVE-2019-19921
    let bundle = Bundle::sh("true");
    std::fs::create_dir(bundle.rootfs().join("elsewhere")).unwrap();
    symlink("/elsewhere", bundle.rootfs().join("proc")).unwrap();
    let answer = bundle.run();
    assert!(answer.code != 0 && answer.err.contains("/proc"), "{answer:?}");
}

#[test]
fn mounting_inside_proc_is_refused() {
    // CVE-2019-16884
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
fn a_working_directory_through_a_leaked_descriptor_is_refused() {
    // CVE-2024-21626
    for fd in 3..12 {
        let mut bundle = Bundle::sh("ls");
        bundle.process().cwd = format!("/proc/self/fd/{fd}");
        let answer = bundle.run();
        assert_ne!(answer.code, 0, "{answer:?}");
        let mut bundle = Bundle::sh("ls");
        symlink(format!("/proc/self/fd/{fd}"), bundle.rootfs().join("link")).unwrap();
        bundle.process().cwd = "/link".into();
        assert_ne!(bundle.run().code, 0);
    }
}

#[test]
fn the_runtimes_own_file_is_never_what_is_executed() {
    // CVE-2019-5736
    if only_punnet("the_runtimes_own_file_is_never_what_is_executed") {
        return;
    }
    for how in ["link", "script", "direct"] {
        let mut bundle = Bundle::args(&["/bin/trick", "--version"]);
        let trick = bundle.rootfs().join("bin/trick");
        match how {
            "link" => symlink("/proc/self/exe", &trick).unwrap(),
            "script" => install_bytes("#!/proc/self/exe\n", &trick),
            _ => bundle.process().args[0] = "/proc/self/exe".into(),
        }
        let answer = bundle.run();
        assert!([126, 127].contains(&answer.code), "{how}: {answer:?}");
        assert!(!answer.out.contains("punnet-oci version"), "{how}: {answer:?}");
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
fn swapping_a_link_under_a_mount_target_never_leads_out() {
    // CVE-2021-30465: one directory is a plain one and a link to the host in turn, while containers start.
    let volume = tempfile::tempdir().unwrap();
    let host = tempfile::tempdir().unwrap();
    let mut bundle = Bundle::sh("true");
    bundle.spec.mounts.push(bind(volume.path(), "/swap/inner", &[]));
    bundle.write();
    let (root, stop) = (bundle.rootfs(), AtomicBool::new(false));
    std::fs::create_dir_all(root.join("plain")).unwrap();
    symlink(host.path(), root.join("out")).unwrap();
    let answers = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for from in ["plain", "out"] {
                    std::fs::rename(root.join(from), root.join("swap")).ok();
                    std::fs::rename(root.join("swap"), root.join(from)).ok();
                }
            }
        });
        let answers: Vec<_> = (0..60)
            .map(|_| bundle.call(&["run", &bundle.id()]).code)
            .collect();
        stop.store(true, Ordering::Relaxed);
        answers
    });
    assert_eq!(
        std::fs::read_dir(host.path()).unwrap().count(),
        0,
        "something was made on the host"
    );
    assert_eq!(answers.len(), 60);
}

#[test]
fn processes_inside_cannot_look_into_the_runtime() {
    // `exec` enters the namespaces of a hostile program, which watches for it.
    let mut bundle = Bundle::sh(
        "while true; do for exe in /proc/[0-9]*/exe; do case $(readlink $exe) in *punnet-oci*) echo $exe >> /out/seen;; esac; done; done",
    );
    let out = tempfile::tempdir().unwrap();
    bundle.spec.mounts.push(bind(out.path(), "/out", &[]));
    bundle.start();
    for _ in 0..20 {
        assert_eq!(bundle.call(&["exec", &bundle.id(), "true"]).code, 0);
    }
    assert!(
        !out.path().join("seen").exists(),
        "{:?}",
        std::fs::read_to_string(out.path().join("seen"))
    );
}
