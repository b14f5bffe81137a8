//! What a hostile program can get of the runtime that starts it or enters its container: its file, its descriptors, its directory, its
//! capabilities. docs/escapes.md has the table of them.

use crate::bundle::{Bundle, bind, install, install_bytes, is_emulated, runtime, wait_until};
use crate::references::differs;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use punnet_spec::{Capabilities, Hook, Hooks};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};

/// `exec` calls in the tests that race with them.
const EXECS: usize = 25;

/// `exec` calls until the intruder must have seen one: one of the first few is usual.
const RACES_MAX: usize = 2000;

/// The runtime on this bundle, with two directories of the host open as descriptors 7 and 8 that nobody has marked close-on-exec.
fn call_with_leaks(bundle: &Bundle, words: &[&str]) -> crate::bundle::Answer {
    let command = bundle.command(words);
    let output = Command::new("sh")
        .args(["-c", "exec 7</ 8</etc \"$@\"", "sh"])
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(bundle.dir.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    output.into()
}

#[test]
fn descriptors_that_callers_leak_do_not_get_in() {
    // CVE-2024-21626
    let script = "for fd in /proc/self/fd/*; do readlink $fd; done; echo end";
    let mut bundle = Bundle::sh(script);
    let hook = Hook {
        path: "/bin/sh".into(),
        args: vec![
            "sh".into(),
            "-c".into(),
            "for fd in /proc/self/fd/*; do readlink $fd; done >/dev/shm/fds; true".into(),
        ],
        env: vec!["PATH=/bin".into()],
        ..Hook::default()
    };
    bundle.process().args[2] = format!("cat /dev/shm/fds; {script}");
    bundle.spec.hooks = Some(Hooks {
        start_container: vec![hook],
        ..Hooks::default()
    });
    bundle.write();
    let answer = call_with_leaks(&bundle, &["run", &bundle.id()]);
    assert!(answer.code == 0 && answer.out.ends_with("end\n"), "{answer:?}");
    let open: Vec<&str> = answer.out.lines().collect();
    assert!(
        !open.contains(&"/") && !open.iter().any(|path| path.contains("etc")),
        "{answer:?}"
    );
    let bundle = Bundle::sh("sleep 100");
    bundle.start();
    let answer = call_with_leaks(
        &bundle,
        &[
            "exec",
            &bundle.id(),
            "sh",
            "-c",
            "for fd in /proc/self/fd/*; do readlink $fd; done; true",
        ],
    );
    let open: Vec<&str> = answer.out.lines().collect();
    assert!(
        !open.contains(&"/") && !open.iter().any(|path| path.contains("etc")),
        "{answer:?}"
    );
}

#[test]
fn a_working_directory_through_a_leaked_descriptor_is_refused() {
    if differs("a_working_directory_through_a_leaked_descriptor_is_refused") {
        return;
    }
    // CVE-2024-21626
    for fd in 3..12 {
        let mut bundle = Bundle::sh("ls");
        bundle.process().cwd = format!("/proc/self/fd/{fd}");
        bundle.write();
        assert_ne!(call_with_leaks(&bundle, &["run", &bundle.id()]).code, 0, "{fd}");
        let mut bundle = Bundle::sh("ls");
        symlink(format!("/proc/self/fd/{fd}"), bundle.rootfs().join("link")).unwrap();
        bundle.process().cwd = "/link".into();
        bundle.write();
        assert_ne!(call_with_leaks(&bundle, &["run", &bundle.id()]).code, 0, "{fd}");
    }
    let bundle = Bundle::sh("sleep 100");
    symlink("/proc/self/fd/7", bundle.rootfs().join("link")).unwrap();
    bundle.start();
    for cwd in ["/proc/self/fd/7", "/proc/self/fd/7/etc", "/link"] {
        let answer = call_with_leaks(&bundle, &["exec", "--cwd", cwd, &bundle.id(), "ls"]);
        assert!(answer.code != 0 && answer.out.is_empty(), "{cwd}: {answer:?}");
    }
}

#[test]
fn the_runtimes_own_file_is_never_what_is_executed() {
    // CVE-2019-5736
    if differs("the_runtimes_own_file_is_never_what_is_executed") {
        return;
    }
    for how in ["link", "script", "unreadable script", "direct"] {
        let mut bundle = Bundle::args(&["/bin/trick", "--version"]);
        let trick = bundle.rootfs().join("bin/trick");
        match how {
            "link" => symlink("/proc/self/exe", &trick).unwrap(),
            "script" => install_bytes("#!/proc/self/exe\n", &trick),
            "unreadable script" => {
                // Without CAP_DAC_OVERRIDE only the kernel may read it.
                install_bytes("#!/proc/self/exe\n", &trick);
                std::fs::set_permissions(&trick, PermissionsExt::from_mode(0o111)).unwrap();
            }
            _ => bundle.process().args[0] = "/proc/self/exe".into(),
        }
        let answer = bundle.run();
        assert!([126, 127].contains(&answer.code), "{how}: {answer:?}");
        assert!(!answer.out.contains("punnet-oci version"), "{how}: {answer:?}");
    }
}

/// A copy of the runtime in the bundle's directory: if an attack succeeds, it is the copy that is overwritten.
fn own_runtime(bundle: &Bundle) -> std::path::PathBuf {
    let copy = bundle.dir.path().join("punnet-oci");
    install(runtime(), &copy);
    copy
}

#[test]
fn exec_runs_from_a_file_that_cannot_be_written_afterwards() {
    // CVE-2019-5736: whoever has a path to the file waits until nobody executes it.
    if differs("exec_runs_from_a_file_that_cannot_be_written_afterwards") {
        return;
    }
    let bundle = Bundle::sh("sleep 100");
    bundle.start();
    let copy = own_runtime(&bundle);
    let marker = bundle.rootfs().join("entered");
    let mut child = Command::new(&copy)
        .arg("--root")
        .arg(bundle.state_root())
        .args(["exec", &bundle.id(), "sh", "-c", "echo entered; read line"])
        .stdin(Stdio::piped())
        .stdout(std::fs::File::create(&marker).unwrap())
        .spawn()
        .unwrap();
    wait_until("exec has entered", || {
        std::fs::read(&marker).unwrap() == b"entered\n"
    });
    let exe = format!("/proc/{}/exe", child.id());
    let handle = open(exe.as_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
    drop(child.stdin.take());
    child.wait().unwrap();
    let again = format!("/proc/self/fd/{}", handle.as_raw_fd());
    let error = std::fs::File::options().write(true).open(again).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn an_exec_into_a_container_that_may_trace_does_not_cost_the_runtimes_file() {
    // CVE-2019-5736 with CAP_SYS_PTRACE, which opens even the files of processes that are not dumpable: the intruder waits for the runtime to
    // appear, keeps its file open, and writes it when nobody executes it any more.
    let watch = "until test -e /seen; do for exe in /proc/[0-9]*/exe; do
            if test -e $exe && ! test $exe -ef /bin/busybox && command exec 9<$exe; then echo >/seen; break; fi
        done; done 2>/dev/null
        until test -e /idle; do sleep 0.01; done
        echo owned >/proc/self/fd/9
        echo $? >/tried; sleep 100";
    let mut bundle = Bundle::sh(watch);
    bundle.process().capabilities = Some(Capabilities::of_root(&["CAP_DAC_OVERRIDE", "CAP_SYS_PTRACE"]));
    bundle.spec.root.as_mut().unwrap().readonly = false;
    bundle.start();
    let copy = own_runtime(&bundle);
    let seen = || bundle.rootfs().join("seen").exists();
    let mut tries = 0..RACES_MAX;
    while !seen() && tries.next().is_some() {
        let mut exec = Command::new(&copy);
        exec.arg("--root")
            .arg(bundle.state_root())
            .args(["exec", &bundle.id(), "/bin/true"]);
        let answer: crate::bundle::Answer = exec.output().unwrap().into();
        assert_eq!(answer.code, 0, "{answer:?}");
    }
    assert!(seen(), "the attack is too weak to prove anything");
    std::fs::write(bundle.rootfs().join("idle"), "").unwrap();
    let tried = bundle.rootfs().join("tried");
    let status = || std::fs::read_to_string(&tried).unwrap_or_default();
    wait_until("the intruder has tried", || status().ends_with('\n'));
    assert_ne!(status(), "0\n", "the file was opened for writing");
    let same = std::fs::read(&copy).unwrap() == std::fs::read(runtime()).unwrap();
    assert!(same, "the file has changed");
}

#[test]
fn processes_inside_cannot_look_into_the_runtime() {
    // `exec` enters the namespaces of a hostile program, which watches for it: as root, and as root of a user namespace with every capability.
    for in_userns in [false, true] {
        let mut bundle = Bundle::sh(
            "while true; do for exe in /proc/[0-9]*/exe; do case $(readlink $exe) in ''|*/busybox) ;; *) echo $exe >> /out/seen;; esac; done; done",
        );
        let out = tempfile::tempdir().unwrap();
        std::fs::set_permissions(out.path(), PermissionsExt::from_mode(0o777)).unwrap();
        bundle.spec.mounts.push(bind(out.path(), "/out", &[]));
        if in_userns {
            bundle.in_user_namespace(100_000, 100_000, 1000);
            let owner = Command::new("chown")
                .arg("-R")
                .arg("100000:100000")
                .arg(bundle.rootfs())
                .status();
            assert!(owner.unwrap().success());
            bundle.process().capabilities = Some(Capabilities::of_root(&["CAP_SYS_PTRACE", "CAP_SYS_ADMIN"]));
        }
        bundle.start();
        for _ in 0..if is_emulated() { EXECS / 5 } else { EXECS } {
            assert_eq!(bundle.call(&["exec", &bundle.id(), "true"]).code, 0);
        }
        let seen = std::fs::read_to_string(out.path().join("seen"));
        assert!(seen.is_err(), "user namespace: {in_userns}: {seen:?}");
    }
}

#[test]
fn nothing_is_inheritable_unless_config_json_says_so() {
    // CVE-2022-24769, CVE-2022-29162: inheritable capabilities come back to any program whose file has them.
    let mut bundle = Bundle::sh("grep -E 'Cap(Inh|Amb)' /proc/self/status; sleep 100");
    bundle.process().capabilities = Some(Capabilities::of_root(&["CAP_KILL", "CAP_NET_RAW"]));
    bundle.process().args[2] = "grep Cap /proc/self/status".into();
    let none = |text: &str, set: &str| {
        text.lines()
            .any(|line| line.starts_with(set) && line.ends_with("\t0000000000000000"))
    };
    let text = bundle.output();
    assert!(none(&text, "CapInh") && none(&text, "CapAmb"), "{text}");
    bundle.process().args[2] = "sleep 100".into();
    bundle.start();
    for words in [
        &["exec", "--cap", "CAP_NET_ADMIN"][..],
        &["exec", "--cap", "CAP_NET_ADMIN", "--user", "1000"],
        &["exec", "--user", "1000:1000"],
    ] {
        let id = bundle.id();
        let words: Vec<&str> = words
            .iter()
            .copied()
            .chain([id.as_str(), "grep", "Cap", "/proc/self/status"])
            .collect();
        let answer = bundle.call(&words);
        assert!(
            answer.code == 0 && none(&answer.out, "CapInh") && none(&answer.out, "CapAmb"),
            "{words:?}: {answer:?}"
        );
    }
}
