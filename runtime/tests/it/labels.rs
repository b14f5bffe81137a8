//! Labels of security modules. The virtual machine has AppArmor; what a kernel without it answers is in `bad_input`.

use crate::bundle::{Bundle, only_punnet};
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
    if only_punnet("the name of the field") {
        return;
    }
    assert!(
        answer.err.contains("process.apparmorProfile") && answer.err.contains("punnet-none"),
        "{answer:?}"
    );
}
