//! Which devices a program can use: rules of the cgroup, nodes of the image, nodes that the program makes.

use crate::bundle::Bundle;
use crate::references::differs;
use punnet_spec::{Capabilities, Device, DeviceCgroup, Resources};
use std::process::Command;

/// /dev/kmsg: every kernel has it, CAP_SYSLOG may open it, and no container gets it.
const KMSG: (i64, i64) = (1, 11);

fn rule(allow: bool, number: Option<(i64, i64)>, access: &str) -> DeviceCgroup {
    DeviceCgroup {
        allow,
        kind: if number.is_some() {
            "c".into()
        } else {
            String::new()
        },
        major: number.map(|(major, _)| major),
        minor: number.map(|(_, minor)| minor),
        access: access.into(),
    }
}

/// A bundle that makes a node of its own and opens it, and may do so.
fn maker(rules: Vec<DeviceCgroup>) -> Bundle {
    let mut bundle = Bundle::sh(
        "mknod /dev/made c 1 11 || echo no node
         (: < /dev/made) 2> /dev/null && echo read; (: >> /dev/made) 2> /dev/null && echo write; echo end",
    );
    bundle.process().capabilities = Some(Capabilities::of_root(&["CAP_MKNOD", "CAP_SYSLOG"]));
    bundle.linux().resources = Some(Resources {
        devices: rules,
        ..Resources::default()
    });
    bundle
}

#[test]
fn device_rules_hold_for_nodes_that_the_program_makes() {
    for (rules, expected) in [
        (vec![rule(false, None, "rwm")], "end\n"),
        (vec![rule(true, None, "rwm")], "read\nwrite\nend\n"),
        (
            vec![rule(false, None, "rwm"), rule(true, Some(KMSG), "r")],
            "read\nend\n",
        ),
        (
            vec![rule(false, None, "rwm"), rule(true, Some(KMSG), "rw")],
            "read\nwrite\nend\n",
        ),
        (
            vec![rule(true, None, "rwm"), rule(false, Some(KMSG), "w")],
            "read\nend\n",
        ),
    ] {
        assert_eq!(maker(rules.clone()).output(), expected, "{rules:?}");
    }
}

#[test]
fn device_rules_hold_for_nodes_of_the_image_and_in_exec() {
    let with = |rules| {
        let mut bundle = Bundle::sh("(: < /bin/kmsg) 2> /dev/null && echo open; sleep 100");
        let node = bundle.rootfs().join("bin/kmsg");
        let made = Command::new("mknod").arg(&node).args(["c", "1", "11"]).status();
        assert!(made.unwrap().success());
        bundle.process().capabilities = Some(Capabilities::of_root(&["CAP_SYSLOG"]));
        bundle.linux().resources = Some(Resources {
            devices: rules,
            ..Resources::default()
        });
        bundle.start();
        let open = "(: < /bin/kmsg) 2> /dev/null && echo open; echo end";
        bundle.call(&["exec", &bundle.id(), "/bin/sh", "-c", open]).out
    };
    assert_eq!(with(vec![rule(false, None, "rwm")]), "end\n");
    assert_eq!(
        with(vec![rule(false, None, "rwm"), rule(true, Some(KMSG), "r")]),
        "open\nend\n"
    );
}

#[test]
fn default_devices_work_behind_rules_that_deny_all() {
    let mut bundle = Bundle::sh(
        "for name in null zero full random urandom; do (: < /dev/$name) && echo $name; done; echo x > /dev/null; ls -l /dev/extra | cut -c 1",
    );
    bundle.linux().resources = Some(Resources {
        devices: vec![rule(false, None, "rwm")],
        ..Resources::default()
    });
    bundle.linux().devices.push(Device {
        path: "/dev/extra".into(),
        kind: "p".into(),
        file_mode: Some(0o600),
        ..Device::default()
    });
    assert_eq!(bundle.output(), "null\nzero\nfull\nrandom\nurandom\np\n");
}

#[test]
fn without_a_cgroup_rules_close_the_image_and_are_refused_to_who_makes_nodes() {
    if differs("without_a_cgroup_rules_close_the_image_and_are_refused_to_who_makes_nodes") {
        return;
    }
    let mut bundle = maker(vec![rule(false, None, "rwm")]);
    bundle
        .spec
        .mounts
        .retain(|mount| mount.destination != "/sys/fs/cgroup");
    let answer = bundle.run_after("umount -R /sys/fs/cgroup");
    assert_eq!(answer.code, 125, "{answer:?}");
    for word in ["linux.resources.devices", "BPF", "CAP_MKNOD"] {
        assert!(answer.err.contains(word), "{answer:?}");
    }
    bundle.process().capabilities = Some(Capabilities::of_root(&["CAP_SYSLOG"]));
    bundle.process().args[2] = "(: < /bin/kmsg) 2> /dev/null && echo open; echo end".into();
    let made = Command::new("mknod")
        .arg(bundle.rootfs().join("bin/kmsg"))
        .args(["c", "1", "11"])
        .status();
    assert!(made.unwrap().success());
    let answer = bundle.run_after("umount -R /sys/fs/cgroup");
    assert_eq!((answer.code, answer.out.as_str()), (0, "end\n"), "{answer:?}");
}
