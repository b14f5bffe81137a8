//! Wrong bundles: a clear error that names the cause, and nothing left behind.

use crate::bundle::{Bundle, install_bytes};
use crate::references::differs;
use punnet_spec::{Memory, Mount, Pids, Resources};
use std::path::Path;

/// Fails with these words and leaves neither a state directory (checked by `run`) nor a cgroup.
fn refused(bundle: &Bundle, words: &[&str]) {
    let answer = bundle.run();
    assert_ne!(answer.code, 0, "{answer:?}");
    for word in words {
        assert!(answer.err.contains(word), "{word}: {answer:?}");
    }
    let cgroup = format!("/sys/fs/cgroup/unified/punnet/{}", bundle.id());
    assert!(!Path::new(&cgroup).exists(), "a cgroup stayed");
}

#[test]
fn a_missing_rootfs_or_bundle_is_named() {
    let bundle = Bundle::sh("true");
    std::fs::rename(bundle.rootfs(), bundle.dir.path().join("moved")).unwrap();
    refused(&bundle, &["rootfs"]);
    let answer = bundle.call(&["run", "--bundle", "/nonexistent", &bundle.id()]);
    assert!(
        answer.code != 0 && answer.err.contains("/nonexistent"),
        "{answer:?}"
    );
}

#[test]
fn an_error_inside_set_up_comes_with_its_cause() {
    if differs("an_error_inside_set_up_comes_with_its_cause") {
        return;
    }
    let tmpfs = |option: &str| Mount {
        destination: "/tmp".into(),
        kind: "tmpfs".into(),
        source: "tmpfs".into(),
        options: vec![option.into()],
        ..Mount::default()
    };
    for (mount, words) in [
        (tmpfs("size=banana"), ["tmpfs", "size"]),
        (tmpfs("fancy"), ["tmpfs", "fancy"]),
        (
            Mount {
                kind: "nofs".into(),
                ..tmpfs("ro")
            },
            ["nofs", "No such device"],
        ),
        (
            Mount {
                kind: "bind".into(),
                source: "/nonexistent/x".into(),
                options: vec![],
                ..tmpfs("")
            },
            ["/nonexistent/x", "No such file"],
        ),
    ] {
        let mut bundle = Bundle::sh("true");
        bundle.spec.mounts.push(mount);
        refused(&bundle, &words);
    }
}

#[test]
fn unsupported_fields_are_refused_by_name_before_anything_is_made() {
    if differs("unsupported_fields_are_refused_by_name_before_anything_is_made") {
        return;
    }
    type Change = fn(&mut Bundle);
    let changes: [(Change, &str); 6] = [
        (
            |bundle| bundle.linux().intel_rdt = Some(punnet_json::json!({})),
            "linux.intelRdt",
        ),
        (
            |bundle| bundle.linux().memory_policy = Some(Default::default()),
            "linux.memoryPolicy",
        ),
        (
            |bundle| bundle.process().apparmor_profile = "strict".into(),
            "process.apparmorProfile",
        ),
        (
            |bundle| bundle.process().selinux_label = "a:b:c".into(),
            "process.selinuxLabel",
        ),
        (
            |bundle| bundle.process().scheduler = Some(Default::default()),
            "process.scheduler",
        ),
        (
            |bundle| bundle.linux().cgroups_path = "a.slice:b:c".into(),
            "linux.cgroupsPath",
        ),
    ];
    let apparmor = std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text == b"Y\n");
    for (change, field) in changes {
        if apparmor && field == "process.apparmorProfile" {
            // There it fails only when the profile is looked for.
            continue;
        }
        let mut bundle = Bundle::sh("true");
        change(&mut bundle);
        refused(&bundle, &[field]);
        assert!(!bundle.state_root().exists(), "{field}: something was made");
    }
}

#[test]
fn limits_without_a_controller_are_refused_with_the_remedy() {
    if differs("limits_without_a_controller_are_refused_with_the_remedy") {
        return;
    }
    // What /proc/cgroups says decides what has to be told: hybrid hosts, a memory controller that is switched off, as on a Raspberry Pi.
    let memory = Resources {
        memory: Some(Memory {
            limit: Some(64 << 20),
            ..Memory::default()
        }),
        ..Resources::default()
    };
    let pids = Resources {
        pids: Some(Pids { limit: Some(5) }),
        ..Resources::default()
    };
    let cgroups = std::fs::read_to_string("/proc/cgroups").unwrap();
    let mut refusals = 0;
    for (name, resources) in [("memory", memory), ("pids", pids)] {
        let row = cgroups
            .lines()
            .find(|line| line.starts_with(&format!("{name}\t")));
        let fields: Vec<&str> = row.unwrap_or_default().split('\t').collect();
        let words = match fields[..] {
            [_, _, _, "0"] => ["switched off", &format!("`cgroup_enable={name}`")],
            [_, hierarchy, ..] if hierarchy != "0" => ["cgroup v1", "systemd.unified_cgroup_hierarchy=1"],
            _ => continue,
        };
        let mut bundle = Bundle::sh("true");
        bundle.linux().resources = Some(resources);
        refused(&bundle, &[&[name], &words[..]].concat());
        refusals += 1;
    }
    if refusals == 0 {
        println!("SKIPPED: this machine can limit memory and processes");
    }
}

#[test]
fn a_cgroup_with_processes_is_not_taken_over() {
    if differs("a_cgroup_with_processes_is_not_taken_over") {
        return;
    }
    let first = Bundle::sh("sleep 100");
    first.start();
    let mut second = Bundle::sh("true");
    second.linux().cgroups_path = format!("/punnet/{}", first.id());
    let answer = second.run();
    assert!(
        answer.code != 0 && answer.err.contains("has processes"),
        "{answer:?}"
    );
    assert_eq!(first.status(), "running");
}

#[test]
fn garbage_in_config_json_is_an_error_and_never_a_crash() {
    let good = {
        let bundle = Bundle::sh("true");
        String::from_utf8(bundle.spec.to_json()).unwrap()
    };
    let huge = format!(
        "{{\"ociVersion\":\"1.0.0\",\"mounts\":[{}]}}",
        "{\"destination\":\"/x\"},".repeat(50_000).trim_end_matches(',')
    );
    let mut texts = vec![
        String::new(),
        "{}".into(),
        "[]".into(),
        "null".into(),
        "{\"ociVersion\":3}".into(),
        huge,
        "[".repeat(10_000),
    ];
    // Each field's value replaced by one of another type.
    for value in [
        "null",
        "-1",
        "\"x\"",
        "[[]]",
        "{\"a\":{}}",
        "1e400",
        "18446744073709551616",
    ] {
        for (index, _) in good.match_indices(": ") {
            let rest = &good[index + 2..];
            let end = rest.find(",\n").unwrap_or(0);
            if !rest.starts_with(['{', '[']) && end > 0 {
                texts.push(format!("{}{value}{}", &good[..index + 2], &rest[end..]));
            }
        }
    }
    for cut in (0..good.len()).step_by(97) {
        texts.push(good[..cut].to_owned());
    }
    let host = punnet_runtime::plan::HostFacts {
        bundle: "/b".into(),
        id: "x".into(),
        ..Default::default()
    };
    let mut planned = 0;
    for text in &texts {
        // Pure, so that thousands are quick; the command line is tried on a few below.
        if let Ok(spec) = punnet_spec::Spec::from_json(text.as_bytes()) {
            planned += usize::from(punnet_runtime::plan::plan(&spec, &host).is_ok());
        }
    }
    assert!(
        planned < texts.len() / 2,
        "{planned} of {} were taken",
        texts.len()
    );
    let bundle = Bundle::sh("true");
    for text in texts.iter().take(7) {
        std::fs::write(bundle.dir.path().join("config.json"), text).unwrap();
        let answer = bundle.call(&["run", &bundle.id()]);
        assert!(
            (1..=125).contains(&answer.code) && !answer.err.is_empty(),
            "{answer:?}"
        );
        assert!(!answer.err.contains("panicked"), "{answer:?}");
    }
}

#[test]
fn wrong_ids_are_refused() {
    let bundle = Bundle::sh("true");
    bundle.write();
    let long = "x".repeat(10 * 1024);
    for id in ["../x", "a/b", "", "a b", &long] {
        if id == "a b" && differs("ids with spaces") {
            continue;
        }
        for words in [
            &["create", id][..],
            &["start", id],
            &["state", id],
            &["kill", id, "KILL"],
            &["exec", id, "true"],
            &["delete", id],
        ] {
            assert_ne!(bundle.call(words).code, 0, "{words:?}");
        }
    }
    assert!(!bundle.dir.path().join("x").exists());
    if differs("an id that leads out of the folder of states") {
        return;
    }
    // Below that folder this would be the bundle's root.
    bundle.call(&["delete", "--force", "../rootfs"]);
    assert!(bundle.rootfs().join("bin/sh").exists());
}

#[test]
fn systemd_cgroup_gets_a_clear_answer() {
    if differs("systemd_cgroup_gets_a_clear_answer") {
        return;
    }
    let bundle = Bundle::sh("true");
    let answer = bundle.call(&["--systemd-cgroup", "create", &bundle.id()]);
    assert!(answer.code != 0 && answer.err.contains("cgroupfs"), "{answer:?}");
}

/// A 32-bit ARM program of nothing but headers, whose build attributes name this CPU architecture (Tag_CPU_arch).
fn arm_program(cpu_arch: u8) -> Vec<u8> {
    let attributes = [&b"A\x12\0\0\0aeabi\0\x01\x07\0\0\0\x06"[..], &[cpu_arch]].concat();
    let mut file = b"\x7fELF\x01\x01\x01".to_vec();
    file.resize(92, 0);
    for (at, value) in [
        (16, 2),
        (18, 40),
        (20, 1),
        (32, 52),
        (40, 52),
        (46, 40),
        (48, 1),
        (56, 3),
        (58, 0x7000),
        (68, 92),
        (72, attributes.len() as u16),
    ] {
        file[at..at + 2].copy_from_slice(&u16::to_le_bytes(value));
    }
    file.extend(attributes);
    file
}

#[test]
fn programs_that_cannot_be_executed_say_why() {
    if differs("programs_that_cannot_be_executed_say_why") {
        return;
    }
    let this = format!("this board is {}", std::env::consts::ARCH);
    let mut power = arm_program(10);
    power[18] = 21;
    for (program, mode, code, words) in [
        (arm_program(10), 0o755, 126, ["built for armv7", &this]),
        (arm_program(7), 0o755, 126, ["built for armv6", &this]),
        (power, 0o755, 126, ["built for powerpc", &this]),
        (
            b"text".to_vec(),
            0o755,
            126,
            ["neither a program nor a script", ""],
        ),
        (Vec::new(), 0o755, 126, ["is empty", ""]),
        (b"#!/bin/sh\n".to_vec(), 0o644, 126, ["permission denied", ""]),
        (
            b"#!/no/such\n".to_vec(),
            0o755,
            126,
            ["interpreter /no/such", "not found"],
        ),
    ] {
        let bundle = Bundle::args(&["/program"]);
        let path = bundle.rootfs().join("program");
        install_bytes(&program, &path);
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        let answer = bundle.run();
        assert_eq!(answer.code, code, "{answer:?}");
        assert!(
            words.iter().all(|word| answer.err.contains(word)),
            "{words:?}: {answer:?}"
        );
    }
    for (args, code) in [
        ("/absent", 127),
        ("absent", 127),
        ("/bin", 126),
        ("/bin/sh/x", 127),
    ] {
        let answer = Bundle::args(&[args]).run();
        assert_eq!(answer.code, code, "{args}: {answer:?}");
        assert!(answer.err.contains(args), "{answer:?}");
    }
}

#[test]
fn links_that_go_round_in_the_root_are_an_error() {
    if differs("links_that_go_round_in_the_root_are_an_error") {
        return;
    }
    for (change, word) in [
        (
            |bundle: &mut Bundle| bundle.process().cwd = "/round/x".into(),
            "/round",
        ),
        (
            |bundle: &mut Bundle| bundle.process().args[0] = "/round".into(),
            "/round",
        ),
        (
            |bundle: &mut Bundle| {
                let mount = Mount {
                    destination: "/round/mount".into(),
                    kind: "tmpfs".into(),
                    ..Mount::default()
                };
                bundle.spec.mounts.push(mount);
            },
            "/round/mount",
        ),
        (
            |bundle: &mut Bundle| bundle.linux().masked_paths.push("/round".into()),
            "/round",
        ),
        (
            |bundle: &mut Bundle| bundle.linux().readonly_paths.push("/round/x".into()),
            "/round",
        ),
    ] as [(fn(&mut Bundle), &str); 5]
    {
        let mut bundle = Bundle::sh("true");
        std::os::unix::fs::symlink("about", bundle.rootfs().join("round")).unwrap();
        std::os::unix::fs::symlink("round", bundle.rootfs().join("about")).unwrap();
        change(&mut bundle);
        refused(&bundle, &[word]);
    }
}

#[test]
fn a_damaged_state_is_named_and_deleted_by_force() {
    if differs("a_damaged_state_is_named_and_deleted_by_force") {
        return;
    }
    for text in [
        "",
        "{}",
        "[1]",
        "{\"id\":\"x\",\"cgroup\":\"/\"}",
        "\0\0\0",
        "{\"pid\":-1",
    ] {
        let bundle = Bundle::sh("sleep 100");
        bundle.start();
        let (pid, file) = (
            bundle.pid(),
            bundle.state_root().join(bundle.id()).join("state.json"),
        );
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, text).unwrap();
        for verb in ["state", "kill", "delete", "start"] {
            let answer = bundle.call(&[verb, &bundle.id()]);
            assert!(
                answer.code == 1 && answer.err.contains("state.json"),
                "{verb}: {answer:?}"
            );
        }
        assert_eq!(bundle.call(&["list"]).code, 0);
        // Who can say what it was ends it; who cannot removes the remains.
        std::fs::write(&file, whole).unwrap();
        assert_eq!(bundle.call(&["kill", &bundle.id(), "KILL"]).code, 0);
        crate::bundle::wait_until("it has ended", || !crate::bundle::is_alive(pid));
        std::fs::write(&file, text).unwrap();
        assert_eq!(
            bundle.call(&["delete", "--force", &bundle.id()]).code,
            0,
            "{text}"
        );
        assert_eq!(bundle.status(), "absent");
    }
}
