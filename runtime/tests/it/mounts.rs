//! Mount options: recursive ones, propagation, id-mapped mounts, tmpfs with the image's content.

use crate::bundle::{Answer, Bundle, bind};
use crate::references::differs;
use punnet_spec::{Capabilities, Hook, Hooks, IdMapping, Mount, Namespace};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

#[test]
fn recursive_options_reach_the_mounts_below_and_plain_ones_do_not() {
    let outer = tempfile::tempdir().unwrap();
    let below = outer.path().join("below");
    std::fs::create_dir(&below).unwrap();
    let options = |options: &[&str]| {
        let mut bundle = Bundle::sh("cat /proc/self/mountinfo");
        let mut mount = bind(outer.path(), "/vol", options);
        mount.options[0] = "rbind".into();
        bundle.spec.mounts.push(mount);
        let answer = bundle.run_after(&format!("mount -t tmpfs none {}", below.display()));
        assert_eq!(answer.code, 0, "{answer:?}");
        ["/vol", "/vol/below"].map(|place| {
            let line = answer
                .out
                .lines()
                .find(|line| line.split(' ').nth(4) == Some(place))
                .unwrap_or_else(|| panic!("{place} is not mounted: {answer:?}"));
            line.split(' ').nth(5).unwrap().to_owned()
        })
    };
    let has = |text: &str, word: &str| text.split(',').any(|option| option == word);
    let [top, below] = options(&["ro", "nosuid", "noexec"]);
    assert!(
        has(&top, "ro") && has(&top, "noexec") && has(&top, "nosuid"),
        "{top}"
    );
    assert!(has(&below, "rw") && !has(&below, "noexec"), "{below}");
    if differs("options that change recursively") {
        return;
    }
    let [top, below] = options(&["rro", "rnosuid", "rnodev", "rnoexec", "rnoatime", "rnodiratime"]);
    for text in [&top, &below] {
        for word in ["ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime"] {
            assert!(has(text, word), "{text}");
        }
    }
    if differs("rnosymfollow") {
        return;
    }
    let [top, below] = options(&["rnosymfollow"]);
    assert!(
        has(&top, "nosymfollow") && has(&below, "nosymfollow"),
        "{top} {below}"
    );
}

/// The line of mountinfo for a place has the tag of a propagation, or none. proc_pid_mountinfo(5)
#[track_caller]
fn assert_tag(answer: &Answer, place: &str, tag: &str, asked: &str) {
    assert_eq!(answer.code, 0, "{asked}: {answer:?}");
    let mut lines = answer.out.lines();
    let line = lines.find(|line| line.split(' ').nth(4) == Some(place)).unwrap();
    let tags: Vec<&str> = line.split(' ').skip(6).take_while(|word| *word != "-").collect();
    match tag {
        "" => assert!(tags.is_empty(), "{asked}: {line}"),
        tag => assert!(tags.iter().any(|one| one.starts_with(tag)), "{asked}: {line}"),
    }
}

#[test]
fn propagation_of_a_mount_is_as_asked() {
    if differs("propagation_of_a_mount_is_as_asked") {
        return;
    }
    let outer = tempfile::tempdir().unwrap();
    for (option, said) in [
        ("private", ""),
        ("rprivate", ""),
        ("slave", "master:"),
        ("rslave", "master:"),
        ("shared", "shared:"),
        ("rshared", "shared:"),
        ("unbindable", "unbindable"),
        ("runbindable", "unbindable"),
    ] {
        let mut bundle = Bundle::sh("cat /proc/self/mountinfo");
        bundle.spec.mounts.push(bind(outer.path(), "/vol", &[option]));
        // What it is bound from is shared with a group of the host's.
        let path = outer.path().display();
        let script = format!("mount --bind {path} {path}; mount --make-shared {path}");
        let answer = bundle.run_after(&script);
        assert_tag(&answer, "/vol", said, option);
    }
}

#[test]
fn propagation_of_the_root_is_as_asked() {
    for (word, said) in [
        ("private", ""),
        ("slave", "master:"),
        ("shared", "shared:"),
        ("unbindable", "unbindable"),
    ] {
        if word != "private" && differs("a root that is not private") {
            // runc 1.1 leaves it private.
            continue;
        }
        let mut bundle = Bundle::sh("cat /proc/self/mountinfo");
        bundle.linux().rootfs_propagation = word.into();
        let path = bundle.dir.path().display().to_string();
        let script = format!("mount --bind {path} {path}; mount --make-shared {path}; cd {path}");
        let answer = bundle.run_after(&script);
        assert_tag(&answer, "/", said, word);
    }
}

#[test]
fn options_of_whole_file_systems_are_set_and_superfluous_ones_do_no_harm() {
    let mut bundle = Bundle::sh("cat /proc/self/mountinfo");
    let tmpfs = |destination: &str, options: &[&str]| Mount {
        destination: destination.into(),
        kind: "tmpfs".into(),
        source: "tmpfs".into(),
        options: options.iter().map(|&option| option.into()).collect(),
        ..Mount::default()
    };
    bundle.spec.mounts.extend([
        tmpfs("/dev/one", &["sync", "dirsync", "size=1m", "mode=1770"]),
        tmpfs(
            "/dev/two",
            &[
                "defaults",
                "async",
                "loud",
                "silent",
                "iversion",
                "noiversion",
                "nolazytime",
                "norelatime",
            ],
        ),
    ]);
    if differs("words that change nothing") {
        // runc 1.1 passes some of them to the file system, which does not know them.
        bundle.spec.mounts.pop();
    }
    let text = bundle.output();
    let options = |place: &str| {
        let line = text
            .lines()
            .find(|line| line.split(' ').nth(4) == Some(place))
            .unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        format!("{},{}", words[5], words[words.len() - 1])
    };
    let one = options("/dev/one");
    for word in ["sync", "dirsync", "size=1024k", "mode=1770"] {
        assert!(one.contains(word), "{one}");
    }
    if text.contains(" /dev/two ") {
        assert!(options("/dev/two").contains("rw"));
    }
}

fn line(host_id: u32) -> Vec<IdMapping> {
    vec![IdMapping {
        container_id: 0,
        host_id,
        size: 1000,
    }]
}

/// A directory whose file system can be id-mapped; `None`, and it says so, where temporary ones are on an overlay.
fn mappable() -> Option<tempfile::TempDir> {
    let directory = tempfile::tempdir().unwrap();
    let kind = nix::sys::statfs::statfs(directory.path())
        .unwrap()
        .filesystem_type();
    if kind == nix::sys::statfs::OVERLAYFS_SUPER_MAGIC {
        println!("SKIPPED: an overlay cannot be id-mapped");
        return None;
    }
    Some(directory)
}

#[test]
fn an_id_mapped_mount_shows_other_owners_and_changes_none() {
    let Some(volume) = mappable() else { return };
    std::fs::set_permissions(volume.path(), PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::write(volume.path().join("old"), "").unwrap();
    let mut bundle = Bundle::sh("stat -c %u:%g /vol/old; touch /vol/new && stat -c %u:%g /vol/new");
    let mut mount = bind(volume.path(), "/vol", &["idmap"]);
    (mount.uid_mappings, mount.gid_mappings) = (line(5000), line(6000));
    bundle.spec.mounts.push(mount);
    let user = &mut bundle.process().user;
    (user.uid, user.gid) = (5007, 6007);
    let answer = bundle.run();
    if differs("an_id_mapped_mount_shows_other_owners_and_changes_none") {
        // runc 1.1 has no id-mapped mounts, crun 1.8 only with a user namespace.
        return;
    }
    assert_eq!(
        (answer.code, answer.out.as_str()),
        (0, "5000:6000\n5007:6007\n"),
        "{answer:?}"
    );
    let made = std::fs::metadata(volume.path().join("new")).unwrap();
    assert_eq!((made.uid(), made.gid()), (7, 7));
}

#[test]
fn an_id_mapped_mount_takes_the_maps_of_the_containers_user_namespace() {
    if differs("an_id_mapped_mount_takes_the_maps_of_the_containers_user_namespace") {
        return;
    }
    let Some(volume) = mappable() else { return };
    std::fs::write(volume.path().join("file"), "").unwrap();
    for option in ["idmap", "ridmap"] {
        let mut bundle = Bundle::sh("stat -c %u:%g /vol/file; touch /vol/made; stat -c %u:%g /vol/made");
        bundle.linux().namespaces.push(Namespace {
            kind: "user".into(),
            path: String::new(),
        });
        bundle.linux().uid_mappings = line(100_000);
        bundle.linux().gid_mappings = line(200_000);
        bundle.linux().resources = None;
        bundle.spec.mounts.push(bind(volume.path(), "/vol", &[option]));
        // The root is the user's, the volume is not.
        let owner = Command::new("chown")
            .args(["-R", "100000:200000"])
            .arg(bundle.rootfs())
            .status();
        assert!(owner.unwrap().success());
        assert_eq!(bundle.output(), "0:0\n0:0\n", "{option}");
        let made = std::fs::metadata(volume.path().join("made")).unwrap();
        assert_eq!((made.uid(), made.gid()), (0, 0), "{option}");
    }
}

#[test]
fn a_tmpfs_may_begin_with_the_images_content() {
    let mut bundle = Bundle::sh(
        "cat /srv/file /srv/sub/inner; readlink /srv/link; stat -c '%a %u' /srv /srv/file; touch /srv/new && ls /srv; touch /fixed/x",
    );
    let root = bundle.rootfs();
    std::fs::create_dir_all(root.join("srv/sub")).unwrap();
    std::fs::create_dir(root.join("fixed")).unwrap();
    std::fs::write(root.join("fixed/kept"), "").unwrap();
    std::fs::write(root.join("srv/file"), "one\n").unwrap();
    std::fs::write(root.join("srv/sub/inner"), "two\n").unwrap();
    // Followed it would bring a file of the host in.
    symlink("/etc/shadow", root.join("srv/link")).unwrap();
    std::fs::set_permissions(root.join("srv"), PermissionsExt::from_mode(0o751)).unwrap();
    std::fs::set_permissions(root.join("srv/file"), PermissionsExt::from_mode(0o644)).unwrap();
    std::os::unix::fs::chown(root.join("srv/file"), Some(7), Some(7)).unwrap();
    let tmpfs = |destination: &str, options: &[&str]| Mount {
        destination: destination.into(),
        kind: "tmpfs".into(),
        source: "tmpfs".into(),
        options: options.iter().map(|&option| option.into()).collect(),
        ..Mount::default()
    };
    bundle.spec.mounts.extend([
        tmpfs("/srv", &["tmpcopyup", "nosuid"]),
        tmpfs("/fixed", &["tmpcopyup", "ro"]),
    ]);
    let answer = bundle.run();
    let first = answer.out.lines().take(3).collect::<Vec<_>>();
    assert_eq!(first, ["one", "two", "/etc/shadow"], "{answer:?}");
    assert!(!root.join("srv/new").exists());
    if differs("owners and modes") {
        // runc 1.1 leaves the tmpfs' own mode.
        return;
    }
    let rest = answer.out.lines().skip(3).collect::<Vec<_>>();
    assert_eq!(
        rest,
        ["751 0", "644 7", "file", "link", "new", "sub"],
        "{answer:?}"
    );
    assert!(answer.err.contains("/fixed/x: Read-only"), "{answer:?}");
}

#[test]
fn mounts_are_listed_in_the_order_of_config_json() {
    let outer = tempfile::tempdir().unwrap();
    let mut bundle = Bundle::sh("cat /proc/self/mountinfo");
    for (index, kind) in ["tmpfs", "bind", "tmpfs", "shared", "tmpfs"].iter().enumerate() {
        let place = format!("/place{index}");
        bundle.spec.mounts.push(match *kind {
            "tmpfs" => Mount {
                destination: place,
                kind: "tmpfs".into(),
                source: "tmpfs".into(),
                ..Mount::default()
            },
            "shared" => bind(outer.path(), &place, &["shared"]),
            _ => bind(outer.path(), &place, &[]),
        });
    }
    let text = bundle.output();
    let places = text.lines().filter_map(|line| line.split(' ').nth(4));
    let places: Vec<&str> = places.filter(|place| place.starts_with("/place")).collect();
    assert_eq!(
        places,
        ["/place0", "/place1", "/place2", "/place3", "/place4"],
        "{text}"
    );
}

#[test]
fn what_is_mounted_in_a_shared_volume_appears_outside_when_the_root_is_shared_too() {
    let outer = tempfile::tempdir().unwrap();
    let seen = tempfile::NamedTempFile::new().unwrap();
    for (propagation, count) in [("rshared", "1\n"), ("rslave", "0\n")] {
        let mut bundle = Bundle::sh("mkdir -p /vol/inner && mount -t tmpfs inner /vol/inner");
        bundle.process().capabilities = Some(Capabilities::of_root(&["CAP_SYS_ADMIN"]));
        bundle.linux().rootfs_propagation = propagation.into();
        bundle
            .spec
            .mounts
            .push(bind(outer.path(), "/vol", &["rbind", "rshared"]));
        // A poststop hook runs in the runtime's mount namespace, when the container's is gone.
        let script = format!(
            "grep -c '{}/inner' /proc/self/mountinfo > {}",
            outer.path().display(),
            seen.path().display()
        );
        bundle.spec.hooks = Some(Hooks {
            poststop: vec![Hook {
                path: "/bin/sh".into(),
                args: vec!["sh".into(), "-c".into(), format!("{script} || true")],
                env: vec!["PATH=/bin:/usr/bin".into()],
                ..Hook::default()
            }],
            ..Hooks::default()
        });
        let path = outer.path().display();
        let answer = bundle.run_after(&format!("mount --bind {path} {path}; mount --make-shared {path}"));
        assert_eq!(answer.code, 0, "{answer:?}");
        assert_eq!(
            std::fs::read_to_string(seen.path()).unwrap(),
            count,
            "{propagation}: {answer:?}"
        );
    }
}
