//! Labels of security modules. The virtual machine has AppArmor, or SELinux when it is booted with `security=selinux selinux=1`; what a kernel without
//! them answers is in `bad_input`.

use crate::bundle::Bundle;
use crate::references::differs;
use std::io::Write;
use std::process::{Command, Stdio};

const PROFILE: &str = "punnet-it";

/// Loads a profile that allows everything besides writing in /dev/shm. False, and it says so, where AppArmor is not active.
fn load_profile() -> bool {
    let enabled = std::fs::read("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
    if enabled != b"Y\n" {
        println!("SKIPPED: AppArmor is not active here; the virtual machine has it");
        return false;
    }
    if !std::path::Path::new("/sys/kernel/security/apparmor").exists() {
        let mounted = Command::new("mount")
            .args(["-t", "securityfs", "none", "/sys/kernel/security"])
            .status();
        assert!(mounted.unwrap().success());
    }
    let text = format!(
        "profile {PROFILE} flags=(attach_disconnected) {{\n file,\n capability,\n network,\n mount,\n umount,\n pivot_root,\n signal,\n ptrace,\n unix,\n \
         deny /dev/shm/** w,\n}}\n"
    );
    let mut parser = Command::new("apparmor_parser")
        .arg("--replace")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    parser.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(parser.wait().unwrap().success());
    true
}

#[test]
fn an_apparmor_profile_confines_the_program_and_what_exec_runs() {
    if !load_profile() {
        return;
    }
    for (uid, no_new_privileges) in [(0, true), (1000, true), (1000, false)] {
        let script = "cat /proc/self/attr/current; touch /dev/shm/x || echo denied; sleep 100";
        let mut bundle = Bundle::sh(script);
        bundle.process().apparmor_profile = PROFILE.into();
        bundle.process().user.uid = uid;
        bundle.process().no_new_privileges = no_new_privileges;
        bundle.start();
        let current = format!("/proc/{}/attr/current", bundle.pid());
        assert_eq!(
            std::fs::read_to_string(current).unwrap(),
            format!("{PROFILE} (enforce)\n")
        );
        let words = [
            "exec",
            &bundle.id(),
            "sh",
            "-c",
            "cat /proc/self/attr/current; touch /dev/shm/y || echo denied",
        ];
        let answer = bundle.call(&words);
        assert_eq!(answer.out, format!("{PROFILE} (enforce)\ndenied\n"), "{answer:?}");
    }
}

#[test]
fn an_apparmor_profile_that_is_not_loaded_is_named() {
    if !load_profile() {
        return;
    }
    let mut bundle = Bundle::sh("true");
    bundle.process().apparmor_profile = "punnet-none".into();
    let answer = bundle.run();
    assert_ne!(answer.code, 0, "{answer:?}");
    if differs("apparmorProfile by name") {
        return;
    }
    assert!(
        answer.err.contains("process.apparmorProfile") && answer.err.contains("punnet-none"),
        "{answer:?}"
    );
}

/// Loads a policy that knows these labels. False, and it says so, where SELinux is not active.
fn load_policy() -> bool {
    let top = std::path::Path::new("/sys/fs/selinux");
    if !top.exists() {
        println!("SKIPPED: SELinux is not active here; cargo xtask test boots a virtual machine that has it");
        return false;
    }
    if !top.join("load").exists() {
        let mounted = Command::new("mount")
            .args(["-t", "selinuxfs", "none"])
            .arg(top)
            .status();
        assert!(mounted.unwrap().success());
    }
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy");
    let compiled = Command::new("secilc")
        // As new as Debian's kernel reads.
        .args(["--policyvers", "33", "--filecontexts", "/dev/null", "--output"])
        .arg(&policy)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/labels.cil"))
        .status();
    assert!(compiled.unwrap().success());
    // The kernel takes it in one write(2).
    std::fs::write(top.join("load"), std::fs::read(policy).unwrap()).unwrap();
    true
}

#[test]
fn selinux_labels_are_those_of_the_program_its_file_systems_and_of_what_exec_runs() {
    if !load_policy() {
        return;
    }
    const PROGRAM: &str = "system_u:system_r:container_t:s0:c1,c2";
    const FILES: &str = "system_u:object_r:container_file_t:s0:c1,c2";
    for no_new_privileges in [true, false] {
        let mut bundle = Bundle::sh("touch /dev/shm/made; sleep 100");
        bundle.process().selinux_label = PROGRAM.into();
        bundle.process().no_new_privileges = no_new_privileges;
        bundle.linux().mount_label = FILES.into();
        bundle.start();
        let label = |text: String| text.trim_end_matches(['\0', '\n']).to_owned();
        let current = format!("/proc/{}/attr/current", bundle.pid());
        assert_eq!(label(std::fs::read_to_string(current).unwrap()), PROGRAM);
        let words = ["exec", &bundle.id(), "cat", "/proc/self/attr/current"];
        let answer = bundle.call(&words);
        assert_eq!(
            (answer.code, label(answer.out)),
            (0, PROGRAM.to_owned()),
            "{no_new_privileges}"
        );
        let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", bundle.pid())).unwrap();
        for place in ["/dev", "/dev/shm", "/dev/pts"] {
            let mut lines = mounts.lines();
            let line = lines.find(|line| line.split(' ').nth(4) == Some(place)).unwrap();
            assert!(line.contains(&format!("context=\"{FILES}\"")), "{line}");
        }
    }
}

#[test]
fn a_selinux_label_that_the_policy_does_not_know_is_named() {
    if !load_policy() {
        return;
    }
    let mut bundle = Bundle::sh("true");
    bundle.process().selinux_label = "system_u:system_r:unknown_t:s0".into();
    let answer = bundle.run();
    assert_ne!(answer.code, 0, "{answer:?}");
    if differs("selinuxLabel by name") {
        return;
    }
    assert!(
        answer.err.contains("process.selinuxLabel") && answer.err.contains("unknown_t"),
        "{answer:?}"
    );
}
