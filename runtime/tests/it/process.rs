//! What the program sees of itself: ids, capabilities, limits, descriptors, directory; and `exec`.

use crate::bundle::{Bundle, install_bytes};
use crate::references::differs;
use punnet_spec::{Capabilities, Rlimit, Seccomp, SyscallRule};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;

fn status_lines(text: &str, prefix: &str) -> Vec<String> {
    text.lines()
        .filter(|line| line.starts_with(prefix))
        .map(|line| line.split_whitespace().nth(1).unwrap().to_owned())
        .collect()
}

#[test]
fn capability_sets_are_exact() {
    let mut bundle = Bundle::sh("cat /proc/self/status");
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    bundle.process().capabilities = Some(Capabilities {
        bounding: names(&["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"]),
        permitted: names(&["CAP_CHOWN", "CAP_KILL"]),
        effective: names(&["CAP_KILL"]),
        inheritable: names(&["CAP_KILL"]),
        ambient: names(&["CAP_KILL"]),
    });
    bundle.process().user.uid = 1000;
    let text = bundle.output();
    // Inh, Prm, Eff, Bnd, Amb of a program an ordinary user executes: the ambient ones stay.
    let bit = |bits: u64| format!("{bits:016x}");
    assert_eq!(
        status_lines(&text, "Cap"),
        [bit(32), bit(32), bit(32), bit(0b1010_0001), bit(32)],
        "{text}"
    );
}

#[test]
fn no_capabilities_given_is_none_granted() {
    let mut bundle = Bundle::sh("cat /proc/self/status");
    bundle.process().capabilities = None;
    let text = bundle.output();
    assert!(
        status_lines(&text, "Cap")
            .iter()
            .all(|set| set == "0000000000000000"),
        "{text}"
    );
}

#[test]
fn no_new_privs_is_as_asked() {
    for wanted in [true, false] {
        let mut bundle = Bundle::sh("cat /proc/self/status");
        bundle.process().no_new_privileges = wanted;
        assert_eq!(
            status_lines(&bundle.output(), "NoNewPrivs"),
            [u8::from(wanted).to_string()]
        );
    }
}

#[test]
fn ids_groups_umask_and_home_are_the_users() {
    let mut bundle = Bundle::sh("id -u; id -g; id -G; umask; echo $HOME");
    std::fs::create_dir(bundle.rootfs().join("etc")).unwrap();
    std::fs::write(
        bundle.rootfs().join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nweb:x:1000:7::/home/web:/bin/sh\n",
    )
    .unwrap();
    let user = &mut bundle.process().user;
    (user.uid, user.gid, user.umask) = (1000, 7, Some(0o27));
    user.additional_gids = vec![8, 9];
    assert_eq!(bundle.output(), "1000\n7\n7 8 9\n0027\n/home/web\n");
}

#[test]
fn the_umask_is_0022_unless_another_is_asked_for_whatever_the_callers_is() {
    let answer = Bundle::sh("umask").run_after("umask 077");
    assert_eq!((answer.code, answer.out.as_str()), (0, "0022\n"), "{answer:?}");
}

#[test]
fn seccomp_filters_calls_with_and_without_no_new_privs() {
    for no_new_privileges in [true, false] {
        let mut bundle = Bundle::sh("mkdir /dev/x; echo $?; cat /proc/self/status");
        bundle.process().no_new_privileges = no_new_privileges;
        bundle.linux().seccomp = Some(Seccomp {
            default_action: "SCMP_ACT_ALLOW".into(),
            syscalls: vec![SyscallRule {
                names: ["mkdir", "mkdirat"].into_iter().collect(),
                action: "SCMP_ACT_ERRNO".into(),
                errno_ret: Some(28),
                args: Vec::new(),
            }],
            ..Seccomp::default()
        });
        let answer = bundle.run();
        assert!(answer.err.contains("No space left"), "{answer:?}");
        assert_eq!(status_lines(&answer.out, "Seccomp:"), ["2"]);
        assert_eq!(
            status_lines(&answer.out, "CapEff"),
            ["0000000000000020"],
            "what installing needed is gone"
        );
    }
}

#[test]
fn default_seccomp_lets_programs_work_and_denies_namespaces() {
    let mut bundle =
        Bundle::sh("ls /bin | wc -l; unshare -U true || echo denied; (sleep 0; echo child) & wait; id -u");
    bundle.linux().seccomp = Some(punnet_runtime::seccomp::default_seccomp(&[]));
    let answer = bundle.run();
    assert!(answer.out.contains("denied\nchild\n0\n"), "{answer:?}");
}

#[test]
fn rlimits_are_set_and_a_raise_that_fails_is_named() {
    let mut bundle = Bundle::sh("cat /proc/self/limits");
    bundle.process().rlimits = vec![Rlimit {
        kind: "RLIMIT_NOFILE".into(),
        soft: 77,
        hard: 88,
    }];
    let text = bundle.output();
    let line = text
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    assert!(line.contains(" 77 ") && line.contains(" 88 "), "{line}");
    if differs("a raise that fails is named") {
        return;
    }
    bundle.process().rlimits = vec![Rlimit {
        kind: "RLIMIT_NOFILE".into(),
        soft: 77,
        hard: 1 << 40,
    }];
    let answer = bundle.run();
    assert!(
        answer.code == 125 && answer.err.contains("RLIMIT_NOFILE"),
        "{answer:?}"
    );
}

#[test]
fn descriptors_of_the_caller_do_not_leak_unless_preserved() {
    let bundle = Bundle::sh("ls /proc/self/fd");
    bundle.write();
    let file = std::fs::File::open("/etc/hostname").unwrap();
    let third = nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_DUPFD(20)).unwrap();
    // ls itself opens the directory as 3.
    let words = ["run", &bundle.id()];
    let out = bundle.command(&words).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&out.stdout)
            .split_whitespace()
            .collect::<Vec<_>>(),
        ["0", "1", "2", "3"],
        "{out:?}"
    );
    punnet_sys::set_cloexec(file.as_raw_fd(), true).unwrap();
    punnet_sys::set_cloexec(third, true).unwrap();
}

#[test]
fn preserved_descriptors_reach_the_program() {
    use std::io::Write;
    let bundle = Bundle::sh("cat <&3");
    bundle.write();
    let mut given = tempfile::NamedTempFile::new().unwrap();
    given.write_all(b"passed on").unwrap();
    // The shell gives the runtime its descriptor 3, as an engine does.
    let line = format!("exec 3<{}; exec \"$@\"", given.path().display());
    let out = std::process::Command::new("/bin/sh")
        .args(["-c", &line, "sh"])
        .arg(crate::bundle::runtime())
        .arg("--root")
        .arg(bundle.state_root())
        .args(["run", "--preserve-fds", "1", &bundle.id()])
        .current_dir(bundle.dir.path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "passed on", "{out:?}");
}

#[test]
fn working_directory_is_made_and_lies_inside() {
    let mut bundle = Bundle::sh("pwd");
    bundle.process().cwd = "/srv/new".into();
    assert_eq!(bundle.output(), "/srv/new\n");
}

#[test]
fn path_is_searched_and_failures_have_their_own_codes() {
    let code = |args: &[&str]| {
        let bundle = Bundle::args(args);
        std::fs::write(bundle.rootfs().join("bin/plain"), "text").unwrap();
        std::fs::create_dir(bundle.rootfs().join("bin/dir")).unwrap();
        bundle.run()
    };
    assert_eq!(code(&["true"]).code, 0);
    assert_eq!(code(&["false"]).code, 1);
    if differs("126 and 127") {
        return;
    }
    for (program, expected, word) in [
        ("nope", 127, "not found"),
        ("/bin/nope", 127, "not found"),
        ("plain", 126, "permission denied"),
        ("/bin/dir", 126, "directory"),
    ] {
        let answer = code(&[program]);
        assert_eq!(answer.code, expected, "{answer:?}");
        assert!(
            answer.err.contains(word) && answer.err.contains(program),
            "{answer:?}"
        );
    }
}

#[test]
fn a_foreign_program_is_named() {
    let bundle = Bundle::args(&["/bin/foreign"]);
    let mut elf = b"\x7fELF\x01\x01\x01".to_vec();
    elf.resize(64, 0);
    elf[16] = 2;
    elf[18] = 40;
    install_bytes(elf, &bundle.rootfs().join("bin/foreign"));
    let answer = bundle.run();
    assert_ne!(answer.code, 0);
    if differs("the name of the architecture") {
        return;
    }
    assert!(
        answer.code == 126 && answer.err.contains("built for arm"),
        "{answer:?}"
    );
    // The same from `start`, in another process than `create`.
    bundle.write();
    bundle.call(&["create", &bundle.id()]);
    let answer = bundle.call(&["start", &bundle.id()]);
    assert!(
        answer.code != 0 && answer.err.contains("built for arm"),
        "{answer:?}"
    );
    bundle.wait_for("stopped");
}

#[test]
fn scripts_run_with_their_interpreter() {
    let bundle = Bundle::args(&["/bin/script", "one", "two"]);
    install_bytes(
        "#!/bin/sh -e\necho $0 $#; false; echo never\n",
        &bundle.rootfs().join("bin/script"),
    );
    let answer = bundle.run();
    assert_eq!(
        (answer.code, answer.out.as_str()),
        (1, "/bin/script 2\n"),
        "{answer:?}"
    );
}

#[test]
fn exec_runs_in_the_same_namespaces_with_its_own_settings() {
    let mut bundle = Bundle::sh("sleep 100");
    bundle.spec.hostname = "inside".into();
    bundle.linux().seccomp = Some(punnet_runtime::seccomp::default_seccomp(&[]));
    bundle.start();
    let id = bundle.id();
    assert_eq!(bundle.call(&["exec", &id, "hostname"]).out, "inside\n");
    assert_eq!(bundle.call(&["exec", &id, "sh", "-c", "exit 9"]).code, 9);
    if !differs("--cwd and --env of exec") {
        let words = [
            "exec",
            "--cwd",
            "/bin",
            "--env",
            "A=1",
            &id,
            "sh",
            "-c",
            "pwd; echo $A",
        ];
        assert_eq!(bundle.call(&words).out, "/bin\n1\n");
    }
    assert_eq!(
        bundle
            .call(&["exec", "--user", "5:6", &id, "sh", "-c", "id -u; id -g"])
            .out,
        "5\n6\n"
    );
    let status = bundle.call(&["exec", &id, "cat", "/proc/self/status"]).out;
    assert_eq!(status_lines(&status, "Seccomp:"), ["2"]);
    assert_eq!(status_lines(&status, "CapBnd"), ["0000000000000020"]);
    for kind in ["pid", "mnt", "uts", "ipc", "net"] {
        let link = format!("/proc/{}/ns/{kind}", bundle.pid());
        let init = std::fs::read_link(link).unwrap();
        let path = format!("/proc/self/ns/{kind}");
        assert_eq!(
            bundle.call(&["exec", &id, "readlink", &path]).out.trim(),
            init.to_str().unwrap()
        );
    }
    let document = bundle.dir.path().join("process.json");
    std::fs::write(
        &document,
        r#"{"args":["sh","-c","echo $B"],"cwd":"/","env":["PATH=/bin","B=2"],"user":{"uid":1,"gid":1}}"#,
    )
    .unwrap();
    assert_eq!(
        bundle
            .call(&["exec", "--process", document.to_str().unwrap(), &id])
            .out,
        "2\n"
    );
    if differs("127 from exec") {
        return;
    }
    for (program, code) in [("nope", 127), ("/bin", 126), ("/bin/sh/x", 127)] {
        assert_eq!(bundle.call(&["exec", &id, program]).code, code, "{program}");
    }
    let cgroup = std::fs::read_to_string(format!("/proc/{}/cgroup", bundle.pid())).unwrap();
    let own = |text: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix("0::").map(str::to_owned))
    };
    assert!(own(&cgroup).is_some_and(|path| path.ends_with(&id)), "{cgroup}");
}

#[test]
fn exec_needs_a_running_container() {
    let bundle = Bundle::sh("true");
    bundle.start();
    bundle.wait_for("stopped");
    assert_ne!(bundle.call(&["exec", &bundle.id(), "true"]).code, 0);
}

#[test]
fn links_to_programs_are_followed_inside_the_root() {
    let bundle = Bundle::args(&["/bin/outer"]);
    symlink("/bin/inner", bundle.rootfs().join("bin/outer")).unwrap();
    symlink("../../../bin/true", bundle.rootfs().join("bin/inner")).unwrap();
    // busybox looks at the name it is called by.
    let mut bundle = bundle;
    bundle.process().args = vec!["/bin/outer".into()];
    let answer = bundle.run();
    assert!(
        answer.err.contains("applet not found") && answer.code == 127,
        "{answer:?}"
    );
}
