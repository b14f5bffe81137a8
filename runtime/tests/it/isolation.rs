//! Namespaces, mounts, masked and read-only paths, devices.

use crate::bundle::{Bundle, bind, install, wait_until};
use crate::references::differs;
use punnet_spec::{Mount, Namespace};

#[test]
fn every_new_namespace_differs_from_the_hosts() {
    let kinds = ["pid", "mnt", "uts", "ipc", "net", "cgroup"];
    let bundle =
        Bundle::sh("for kind in pid mnt uts ipc net cgroup user; do readlink /proc/self/ns/$kind; done");
    let text = bundle.output();
    let inside: Vec<&str> = text.lines().collect();
    for (index, kind) in kinds.iter().enumerate() {
        let host = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_ne!(inside[index], host.to_str().unwrap(), "{kind}");
    }
    let host = std::fs::read_link("/proc/self/ns/user").unwrap();
    assert_eq!(inside[6], host.to_str().unwrap(), "user was not asked for");
}

#[test]
fn a_namespace_by_path_is_joined() {
    let first = Bundle::sh("sleep 100");
    first.start();
    let pid = first.pid();
    let mut second = Bundle::sh("for kind in pid net ipc uts; do readlink /proc/self/ns/$kind; done");
    second.spec.hostname.clear();
    second.linux().namespaces = [("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts")]
        .iter()
        .map(|(kind, file)| Namespace {
            kind: (*kind).into(),
            path: format!("/proc/{pid}/ns/{file}"),
        })
        .chain([Namespace {
            kind: "mount".into(),
            path: String::new(),
        }])
        .collect();
    let text = second.output();
    for (line, kind) in text.lines().zip(["pid", "net", "ipc", "uts"]) {
        let expected = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_eq!(line, expected.to_str().unwrap());
    }
    assert_eq!(text.lines().count(), 4);
}

#[test]
fn a_user_namespace_maps_root_to_a_range() {
    let mut bundle = Bundle::sh(
        "id -u; cat /proc/self/uid_map; touch /dev/shm/x && stat -c %u /dev/shm/x; ls /dev/null /dev/full",
    );
    bundle.in_user_namespace(100_000, 200_000, 1000);
    // What the user of the namespace is to change must be theirs.
    let owner = std::process::Command::new("chown")
        .arg("-R")
        .arg("100000:200000")
        .arg(bundle.rootfs())
        .status();
    assert!(owner.unwrap().success());
    let answer = bundle.run();
    let words: Vec<&str> = answer.out.split_whitespace().collect();
    assert_eq!(
        words,
        ["0", "0", "100000", "1000", "0", "/dev/full", "/dev/null"],
        "{answer:?}"
    );
}

#[test]
fn host_name_loopback_and_sysctl_are_the_namespaces_own() {
    let mut bundle = Bundle::sh(
        "hostname; cat /proc/sys/kernel/domainname; ifconfig lo | grep -c UP; cat /proc/sys/net/ipv4/ip_forward",
    );
    bundle.spec.hostname = "box".into();
    bundle
        .linux()
        .sysctl
        .insert("net.ipv4.ip_forward".into(), "1".into());
    bundle
        .linux()
        .sysctl
        .insert("kernel.domainname".into(), "fruit".into());
    assert_eq!(bundle.output(), "box\nfruit\n1\n1\n");
}

#[test]
fn pivot_root_hides_old_root() {
    let canary = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
    let path = canary.path().display();
    let script = format!(
        "ls /; test -e {path} && echo reached; cat /proc/self/mountinfo; cd ..; cd ..; test -e var/tmp && echo climbed"
    );
    let text = Bundle::sh(&script).run().out;
    assert!(!text.contains("reached") && !text.contains("climbed"), "{text}");
    let root: Vec<&str> = text.lines().take_while(|line| !line.contains(" / ")).collect();
    assert_eq!(root, ["bin", "dev", "proc", "sys"], "{text}");
    let mounts = text
        .lines()
        .filter(|line| line.contains(" - ") && line.split(' ').nth(4) == Some("/"))
        .count();
    assert_eq!(mounts, 1, "one mount on /: {text}");
}

#[test]
fn masked_paths_are_empty_and_readonly_paths_cannot_be_written() {
    let mut bundle = Bundle::sh(
        "cat /proc/keys | wc -c; ls /sys/firmware | wc -l; ls /secret | wc -l; cat /file | wc -c
         echo 1 > /proc/sys/kernel/printk; touch /sys/firmware/x; touch /kept/x; echo end",
    );
    std::fs::create_dir(bundle.rootfs().join("secret")).unwrap();
    std::fs::write(bundle.rootfs().join("secret/key"), "key").unwrap();
    std::fs::write(bundle.rootfs().join("file"), "content").unwrap();
    std::fs::create_dir(bundle.rootfs().join("kept")).unwrap();
    bundle.spec.root.as_mut().unwrap().readonly = false;
    bundle
        .linux()
        .masked_paths
        .extend(["/secret".into(), "/file".into(), "/not/there".into()]);
    bundle.linux().readonly_paths.push("/kept".into());
    let answer = bundle.run();
    assert_eq!(answer.out, "0\n0\n0\n0\nend\n", "{answer:?}");
    assert_eq!(
        answer.err.matches("Read-only file system").count(),
        3,
        "{answer:?}"
    );
}

#[test]
fn readonly_root_cannot_be_written_and_its_mounts_can() {
    let script = "touch /x; touch /dev/shm/x && echo ok";
    let mut bundle = Bundle::sh(script);
    let answer = bundle.run();
    assert!(
        answer.err.contains("Read-only") && answer.out == "ok\n",
        "{answer:?}"
    );
    bundle.spec.root.as_mut().unwrap().readonly = false;
    assert_eq!(bundle.run().err, "");
    assert!(bundle.rootfs().join("x").exists());
}

#[test]
fn bind_mounts_carry_their_options() {
    let mut bundle = Bundle::sh(
        "touch /ro/x; cat /ro/file; cp /bin/busybox /noexec/b; /noexec/true; echo $?; cat /one; touch /rw/made",
    );
    let (ro, noexec, rw) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
    );
    std::fs::write(ro.path().join("file"), "content\n").unwrap();
    install("/bin/busybox", &noexec.path().join("true"));
    bundle.spec.mounts.extend([
        bind(ro.path(), "/ro", &["ro"]),
        bind(noexec.path(), "/noexec", &["noexec", "nosuid", "nodev"]),
        bind(rw.path(), "/deep/inside/../../rw", &["rw"]),
        bind(&ro.path().join("file"), "/one", &["ro", "rprivate"]),
    ]);
    let answer = bundle.run();
    assert!(answer.err.contains("/ro/x: Read-only"), "{answer:?}");
    assert!(answer.out.contains("content\n126\ncontent\n"), "{answer:?}");
    assert!(rw.path().join("made").exists());
}

#[test]
fn default_devices_work_and_others_are_made_as_asked() {
    let mut bundle = Bundle::sh(
        "echo x > /dev/null; head -c 3 /dev/zero | wc -c; stat -c '%F %a %u %t:%T' /dev/extra; readlink /dev/fd; mknod /dev/y c 1 3 || echo denied",
    );
    bundle.linux().devices.push(punnet_spec::Device {
        path: "/dev/extra".into(),
        kind: "c".into(),
        major: 1,
        minor: 5,
        file_mode: Some(0o620),
        uid: Some(7),
        gid: None,
    });
    let text = bundle.output();
    assert_eq!(
        text,
        "3\ncharacter special file 620 7 1:5\n/proc/self/fd\ndenied\n"
    );
}

#[test]
fn overlay_on_slash_is_the_root_and_leaves_nothing_on_the_host() {
    if differs("overlay_on_slash_is_the_root_and_leaves_nothing_on_the_host") {
        return;
    }
    let mut bundle = Bundle::sh("echo new > /made; cat /lower; ls /");
    // Longer than one fsconfig(2) string.
    let long = bundle.dir.path().join("x".repeat(120)).join("y".repeat(120));
    let (lower, upper, work) = (long.join("lower"), long.join("upper"), long.join("work"));
    for dir in [&upper, &work] {
        std::fs::create_dir_all(dir).unwrap();
    }
    std::fs::rename(bundle.rootfs(), &lower).unwrap();
    std::fs::write(lower.join("lower"), "from below\n").unwrap();
    let option = |name: &str, path: &std::path::Path| format!("{name}={}", path.display());
    bundle.spec.root = None;
    bundle.spec.mounts.insert(
        0,
        Mount {
            destination: "/".into(),
            kind: "overlay".into(),
            source: "overlay".into(),
            options: vec![
                option("lowerdir", &lower),
                option("upperdir", &upper),
                option("workdir", &work),
            ],
            ..Mount::default()
        },
    );
    let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let text = bundle.output();
    assert!(text.starts_with("from below\n"), "{text}");
    assert_eq!(std::fs::read_to_string(upper.join("made")).unwrap(), "new\n");
    assert!(!lower.join("made").exists());
    let after = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(
        before.lines().filter(|line| line.contains("overlay")).count(),
        after.lines().filter(|line| line.contains("overlay")).count()
    );
}

#[test]
fn mounts_inside_do_not_reach_the_host() {
    let shared = tempfile::tempdir().unwrap();
    let mut bundle = Bundle::sh("mount -t tmpfs none /vol && touch /vol/inside; ls /vol");
    bundle.process().capabilities = Some(punnet_spec::Capabilities::of_root(&["CAP_SYS_ADMIN"]));
    bundle.spec.mounts.push(bind(shared.path(), "/vol", &[]));
    assert_eq!(bundle.output(), "inside\n");
    assert_eq!(std::fs::read_dir(shared.path()).unwrap().count(), 0);
}

#[test]
fn without_a_cgroup_namespace_only_the_own_cgroup_is_seen() {
    if differs("without_a_cgroup_namespace_only_the_own_cgroup_is_seen") {
        return;
    }
    // Other tests mount elsewhere meanwhile.
    let mounts = || {
        let text = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let of_sys = |line: &&str| {
            line.split(' ')
                .nth(1)
                .is_some_and(|place| place.starts_with("/sys"))
        };
        text.lines().filter(of_sys).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = mounts();
    for namespaced in [true, false] {
        let mut bundle =
            Bundle::sh("cat /sys/fs/cgroup/cgroup.procs; touch /sys/fs/cgroup/x 2>&1 | grep -c Read-only");
        if !namespaced {
            bundle
                .linux()
                .namespaces
                .retain(|namespace| namespace.kind != "cgroup");
        }
        let text = bundle.output();
        let pids: Vec<&str> = text.lines().collect();
        // The shell, cat, and the line of grep.
        assert_eq!((pids.len(), pids[0], pids[2]), (3, "1", "1"), "{text}");
    }
    assert_eq!(before, mounts());
}

#[test]
fn clocks_of_a_time_namespace_are_ahead_by_what_is_asked_also_in_exec() {
    if differs("clocks_of_a_time_namespace_are_ahead_by_what_is_asked_also_in_exec") {
        // runc 1.1 has no time namespaces.
        return;
    }
    const AHEAD: i64 = 1_000_000;
    let offset = |secs| punnet_spec::TimeOffset { secs, nanosecs: 5 };
    for user in [false, true] {
        let mut bundle = Bundle::sh("cat /proc/uptime; cat /proc/self/timens_offsets; sleep 100");
        let own = |kind: &str| Namespace {
            kind: kind.into(),
            path: String::new(),
        };
        bundle.linux().namespaces.push(own("time"));
        if user {
            let map = vec![punnet_spec::IdMapping {
                container_id: 0,
                host_id: 0,
                size: 1,
            }];
            bundle.linux().namespaces.push(own("user"));
            bundle.linux().uid_mappings = map.clone();
            bundle.linux().gid_mappings = map;
            bundle.linux().resources = None;
            bundle.spec.mounts.retain(|mount| mount.destination != "/dev/pts");
        }
        bundle.linux().time_offsets = [
            ("boottime".to_owned(), offset(AHEAD)),
            ("monotonic".to_owned(), offset(7)),
        ]
        .into();
        bundle.start();
        let text = bundle.call(&[
            "exec",
            &bundle.id(),
            "cat",
            "/proc/uptime",
            "/proc/self/timens_offsets",
        ]);
        let words: Vec<&str> = text.out.split_whitespace().collect();
        let uptime: f64 = words[0].parse().unwrap();
        assert!(uptime > AHEAD as f64, "{text:?}");
        assert_eq!(
            words[2..],
            ["monotonic", "7", "5", "boottime", "1000000", "5"],
            "{text:?}"
        );
        let host = std::fs::read_link("/proc/self/ns/time").unwrap();
        assert_ne!(
            std::fs::read_link(format!("/proc/{}/ns/time", bundle.pid())).unwrap(),
            host
        );
    }
}

#[test]
fn a_namespace_of_another_type_is_refused() {
    let mut bundle = Bundle::sh("true");
    for namespace in &mut bundle.linux().namespaces {
        if namespace.kind == "network" {
            namespace.path = "/proc/self/ns/ipc".into();
        }
    }
    let answer = bundle.run();
    assert_ne!(answer.code, 0, "{answer:?}");
}

/// Links of a process' namespaces.
fn namespaces_of(pid: &str) -> Vec<std::path::PathBuf> {
    ["mnt", "pid", "net", "uts", "ipc", "cgroup"]
        .iter()
        .map(|kind| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap())
        .collect()
}

fn is_mounted_below(folder: &std::path::Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.contains(&format!(" {}/", folder.display()))
}

#[test]
fn what_config_json_does_not_name_is_the_hosts_mounts_too() {
    let mut bundle = Bundle::sh("sleep 100");
    bundle.linux().namespaces.clear();
    bundle.linux().masked_paths.clear();
    bundle.linux().readonly_paths.clear();
    bundle.spec.hostname.clear();
    bundle.linux().cgroups_path = format!("/inherited/{}", bundle.id());
    bundle.start();
    assert_eq!(namespaces_of(&bundle.pid().to_string()), namespaces_of("self"));
    // The root is the container's all the same, also for exec.
    if !differs("exec without a namespace to join") {
        let answer = bundle.call(&["exec", &bundle.id(), "ls", "/"]);
        assert_eq!(answer.out, "bin\ndev\nproc\nsys\n", "{answer:?}");
    }
    assert_eq!(bundle.call(&["delete", "--force", &bundle.id()]).code, 0);
    assert!(bundle.rootfs().join("bin/busybox").exists(), "its files are gone");
    if !differs("mounts in the host's namespace are removed") {
        assert!(!is_mounted_below(bundle.dir.path()), "mounts stayed");
    }
}

#[test]
fn a_failed_create_in_the_hosts_mount_namespace_leaves_no_mount() {
    if differs("a_failed_create_in_the_hosts_mount_namespace_leaves_no_mount") {
        return;
    }
    let mut bundle = Bundle::args(&["/absent"]);
    bundle
        .linux()
        .namespaces
        .retain(|namespace| namespace.kind != "mount");
    assert_eq!(bundle.run().code, 127);
    assert!(!is_mounted_below(bundle.dir.path()), "mounts stayed");
    assert!(bundle.rootfs().join("bin/busybox").exists(), "its files are gone");
}

#[test]
fn a_mount_namespace_by_path_is_joined() {
    let mut other = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sleep", "1000"])
        .spawn()
        .unwrap();
    let pid = other.id().to_string();
    wait_until("a mount namespace", || {
        namespaces_of(&pid)[0] != namespaces_of("self")[0]
    });
    let mut bundle = Bundle::sh("readlink /proc/self/ns/mnt; ls /");
    for namespace in &mut bundle.linux().namespaces {
        if namespace.kind == "mount" {
            namespace.path = format!("/proc/{pid}/ns/mnt");
        }
    }
    let expected = format!("{}\nbin\ndev\nproc\nsys\n", namespaces_of(&pid)[0].display());
    assert_eq!(bundle.output(), expected);
    assert!(!is_mounted_below(bundle.dir.path()), "mounts reached the host");
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn options_of_a_file_system_mean_nothing_on_a_bind_mount() {
    let mut bundle = Bundle::sh("cat /volume/file");
    let volume = tempfile::tempdir().unwrap();
    std::fs::write(volume.path().join("file"), "v").unwrap();
    bundle.spec.mounts.push(crate::bundle::bind(
        volume.path(),
        "/volume",
        &["mode=755", "size=65536k"],
    ));
    assert_eq!(bundle.output(), "v");
}

#[test]
fn the_layers_of_an_overlay_root_are_mapped_and_stay_as_they_are() {
    if differs("the_layers_of_an_overlay_root_are_mapped_and_stay_as_they_are") {
        return;
    }
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let mut bundle = Bundle::sh(
        "stat -c %u:%g /secret; cat /secret; echo more >> /secret && cat /secret; chown 7:8 /secret && stat -c %u:%g /secret
         rm -r /folder && mkdir /folder && ls -A /folder | wc -l; touch /made; cat /proc/self/uid_map",
    );
    let path = |name: &str| bundle.dir.path().join(name);
    let text = |name: &str| path(name).display().to_string();
    for name in ["upper", "work", "rootfs/folder", "mountpoints"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    std::fs::write(path("rootfs/secret"), "secret\n").unwrap();
    std::fs::write(path("rootfs/folder/old"), "").unwrap();
    std::fs::set_permissions(path("rootfs/secret"), PermissionsExt::from_mode(0o600)).unwrap();
    for name in ["upper", "work"] {
        std::os::unix::fs::chown(path(name), Some(100_000), Some(200_000)).unwrap();
    }
    // Nobody else gets near the layers: they are reached by descriptor.
    std::fs::set_permissions(bundle.dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let root = Mount {
        destination: "/".into(),
        kind: "overlay".into(),
        source: "overlay".into(),
        options: vec![
            format!("lowerdir={}:{}", text("rootfs"), text("mountpoints")),
            format!("upperdir={}", text("upper")),
            format!("workdir={}", text("work")),
            "idmap".into(),
        ],
        ..Mount::default()
    };
    let (secret, upper) = (path("rootfs/secret"), path("upper"));
    bundle.spec.mounts.insert(0, root);
    bundle.spec.root = None;
    bundle.in_user_namespace(100_000, 200_000, 65536);
    bundle.process().capabilities = Some(punnet_spec::Capabilities::of_root(
        punnet_spec::DEFAULT_CAPABILITIES,
    ));
    let answer = bundle.run();
    let words: Vec<&str> = answer.out.split_whitespace().collect();
    assert_eq!(
        words,
        [
            "0:0", "secret", "secret", "more", "7:8", "0", "0", "100000", "65536"
        ],
        "{answer:?}"
    );
    let owner = |path: &std::path::Path| {
        let metadata = std::fs::metadata(path).unwrap();
        (metadata.uid(), metadata.gid())
    };
    assert_eq!(std::fs::read(&secret).unwrap(), b"secret\n");
    assert_eq!(owner(&secret), (0, 0));
    assert_eq!(owner(&upper.join("secret")), (100_007, 200_008));
    assert_eq!(owner(&upper.join("made")), (100_000, 200_000));
}
