//! verify and repair: all kinds of entries, damaged in all ways.

use crate::store_input::{Made, entry, file, import, pax};
use crate::support::facts_below;
use std::ffi::CStr;
use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::Path;

/// The directory's own time stays, so that what was done in it is found by itself.
fn keeping_time(folder: &Path, change: impl Fn(&Path)) {
    let open = fs::File::open(folder).unwrap();
    let before = open.metadata().unwrap().modified().unwrap();
    change(folder);
    open.set_modified(before).unwrap();
}

/// An image with all kinds of entries, and what `verify` and `repair` make of a damage done to it.
fn check_damage(damage: impl Fn(&Path), problems: &[&str], layers_needed: bool) {
    let layer = [
        entry(b'5', "d/", "", b""),
        entry(b'5', "d/below/", "", b""),
        file("d/below/file", "content"),
        entry(b'2', "d/link", "below", b""),
        entry(b'6', "d/pipe", "", b""),
        file("implied/file", "more"),
    ];
    let mut made = Made::new(&[layer.concat()]);
    let store = made.store();
    let image = import(&store, &made.source()).unwrap();
    assert_eq!(store.verify(&image).unwrap(), []);
    let before = facts_below(&image.rootfs());
    damage(&image.rootfs());
    let found = store.verify(&image).unwrap();
    let mut shown: Vec<String> = found.iter().map(ToString::to_string).collect();
    shown.sort();
    assert_eq!(shown, problems);
    let source = made.source();
    let mut is_fetched = false;
    store
        .repair(&image, &found, &mut |layer| {
            is_fetched = true;
            Ok::<_, Box<punnet_images::Error>>(Box::new(source.blob_of(layer)?) as Box<dyn Read>)
        })
        .unwrap();
    assert_eq!(store.verify(&image).unwrap(), [], "{problems:?}");
    assert_eq!(facts_below(&image.rootfs()), before, "{problems:?}");
    assert_eq!(is_fetched, layers_needed, "{problems:?}");
}

#[test]
fn a_missing_directory_is_named_and_repaired_with_all_that_was_in_it() {
    check_damage(
        |root| fs::remove_dir_all(root.join("d/below")).unwrap(),
        &[
            "d/below/file: is missing",
            "d/below: is missing",
            "d: mode, owner or time has changed",
        ],
        false,
    );
    check_damage(
        |root| fs::remove_dir_all(root).unwrap(),
        &[
            ".: is missing",
            "d/below/file: is missing",
            "d/below: is missing",
            "d/link: is missing",
            "d/pipe: is missing",
            "d: is missing",
            "implied/file: is missing",
            "implied: is missing",
        ],
        false,
    );
}

#[test]
fn what_was_replaced_by_another_kind_is_named_and_repaired() {
    let replace_link = |folder: &Path| {
        fs::remove_file(folder.join("link")).unwrap();
        fs::write(folder.join("link"), "").unwrap();
    };
    check_damage(
        |root| keeping_time(&root.join("d"), replace_link),
        &["d/link: is of another kind than it was"],
        false,
    );
    let replace_pipe = |folder: &Path| {
        fs::remove_file(folder.join("pipe")).unwrap();
        fs::create_dir(folder.join("pipe")).unwrap();
    };
    check_damage(
        |root| keeping_time(&root.join("d"), replace_pipe),
        &["d/pipe: is of another kind than it was"],
        false,
    );
    let replace_directory = |folder: &Path| {
        fs::remove_dir_all(folder.join("below")).unwrap();
        symlink("../implied", folder.join("below")).unwrap();
    };
    check_damage(
        |root| keeping_time(&root.join("d"), replace_directory),
        &[
            "d/below/file: has 4 bytes instead of 7",
            "d/below: is of another kind than it was",
        ],
        false,
    );
    let replace_file = |with: fn(&Path)| {
        move |root: &Path| {
            keeping_time(&root.join("d/below"), |folder| {
                fs::remove_file(folder.join("file")).unwrap();
                with(&folder.join("file"));
            });
        }
    };
    let problem = ["d/below/file: is of another kind than it was"];
    check_damage(
        replace_file(|file| fs::create_dir_all(file.join("with/content")).unwrap()),
        &problem,
        false,
    );
    check_damage(
        replace_file(|file| symlink("/etc/passwd", file).unwrap()),
        &problem,
        false,
    );
}

#[test]
fn a_target_a_mode_and_an_owner_that_changed_are_named_and_repaired() {
    let lead_elsewhere = |folder: &Path| {
        fs::remove_file(folder.join("link")).unwrap();
        symlink("elsewhere", folder.join("link")).unwrap();
    };
    check_damage(
        |root| keeping_time(&root.join("d"), lead_elsewhere),
        &["d/link: leads elsewhere than it did"],
        false,
    );
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    check_damage(
        |root| {
            open(&root.join("d/below"), 0o777);
            open(&root.join("d/pipe"), 0o777);
        },
        &[
            "d/below: mode, owner or time has changed",
            "d/pipe: mode, owner or time has changed",
        ],
        false,
    );
    if nix::unistd::geteuid().is_root() {
        check_damage(
            |root| {
                chown(root.join("implied"), Some(7), None).unwrap();
                lchown(root.join("d/link"), None, Some(7)).unwrap();
            },
            &[
                "d/link: mode, owner or time has changed",
                "implied: mode, owner or time has changed",
            ],
            false,
        );
    }
    check_damage(
        |root| fs::write(root.join("d/below/file"), "CONTENT").unwrap(),
        &["d/below/file: content or metadata has changed"],
        true,
    );
}

#[test]
fn what_no_layer_has_is_named_and_removed() {
    check_damage(
        |root| keeping_time(root, |root| fs::write(root.join("file"), "x").unwrap()),
        &["file: was added, no layer has it"],
        false,
    );
    let add_all_kinds = |folder: &Path| {
        fs::create_dir_all(folder.join("new/below")).unwrap();
        fs::write(folder.join("new/below/file"), "x").unwrap();
        symlink("nowhere", folder.join("new-link")).unwrap();
        nix::unistd::mkfifo(&folder.join("new-pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::hard_link(folder.join("below/file"), folder.join("again")).unwrap();
    };
    check_damage(
        |root| keeping_time(&root.join("d"), add_all_kinds),
        &[
            "d/again: was added, no layer has it",
            "d/new-link: was added, no layer has it",
            "d/new-pipe: was added, no layer has it",
            "d/new: was added, no layer has it",
        ],
        false,
    );
    // The time of a directory tells, too.
    check_damage(
        |root| fs::write(root.join("implied/new"), "x").unwrap(),
        &[
            "implied/new: was added, no layer has it",
            "implied: mode, owner or time has changed",
        ],
        false,
    );
    // A name for a name: as many as there were, and neither the one that is gone nor the one that came passes for the other.
    let exchange = |folder: &Path| fs::rename(folder.join("file"), folder.join("other")).unwrap();
    check_damage(
        |root| keeping_time(&root.join("d/below"), exchange),
        &[
            "d/below/file: is missing",
            "d/below/other: was added, no layer has it",
        ],
        false,
    );
    // What a link that stands for a directory shows is not in that directory.
    let replace_directory = |root: &Path| {
        fs::remove_dir_all(root.join("d")).unwrap();
        symlink("implied", root.join("d")).unwrap();
    };
    check_damage(
        |root| keeping_time(root, replace_directory),
        &[
            "d/below/file: is missing",
            "d/below: is missing",
            "d/link: is missing",
            "d/pipe: is missing",
            "d: is of another kind than it was",
        ],
        false,
    );
}

#[test]
fn what_was_added_outside_of_the_tree_stays_when_a_link_to_it_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "x").unwrap();
    check_damage(
        |root| keeping_time(root, |root| symlink(folder.path(), root.join("out")).unwrap()),
        &["out: was added, no layer has it"],
        false,
    );
    assert_eq!(fs::read_to_string(folder.path().join("file")).unwrap(), "x");
}

#[test]
fn attributes_that_were_added_changed_or_lost_are_named_and_repaired() {
    let attribute = |name: &'static CStr, value: &'static [u8]| {
        move |path: &Path| {
            let file = fs::File::open(path).unwrap();
            punnet_sys::fsetxattr(file.as_fd(), name, value).unwrap();
        }
    };
    let note = attribute(c"user.note", b"x");
    let overlay = attribute(c"user.overlay.opaque", b"y");
    check_damage(
        |root| note(&root.join("d/below")),
        &["d/below: extended attributes have changed"],
        false,
    );
    check_damage(
        |root| overlay(&root.join("implied")),
        &["implied: extended attributes have changed"],
        false,
    );
    check_damage(|root| note(root), &[".: extended attributes have changed"], false);
    // A file's own are part of its object.
    check_damage(
        |root| note(&root.join("d/below/file")),
        &["d/below/file: content or metadata has changed"],
        true,
    );
    check_damage(
        |root| overlay(&root.join("d/below/file")),
        &["d/below/file: extended attributes have changed"],
        true,
    );
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: file capabilities and trusted attributes take root");
        return;
    }
    // CAP_NET_RAW, permitted and effective: capability.h, VFS_CAP_REVISION_2.
    const RAW: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let capable = attribute(c"security.capability", RAW);
    check_damage(
        |root| capable(&root.join("implied/file")),
        &["implied/file: content or metadata has changed"],
        true,
    );
    let trusted = attribute(c"trusted.overlay.opaque", b"y");
    check_damage(
        |root| trusted(&root.join("d")),
        &["d: extended attributes have changed"],
        false,
    );
}

#[test]
fn a_directorys_own_attributes_are_put_back() {
    let folder = entry(b'5', "d/", "", b"");
    let folder = pax(
        &[("SCHILY.xattr.user.one", "1"), ("SCHILY.xattr.user.two", "2: 3")],
        folder,
    );
    let mut made = Made::new(&[folder]);
    let store = made.store();
    let image = import(&store, &made.source()).unwrap();
    assert_eq!(store.verify(&image).unwrap(), []);
    let open = || fs::File::open(image.rootfs().join("d")).unwrap();
    let value = || {
        let mut value = [0; 16];
        let length = punnet_sys::fgetxattr(open().as_fd(), c"user.two", &mut value).unwrap();
        value[..length].to_vec()
    };
    let repaired = |problems: usize| {
        let found = store.verify(&image).unwrap();
        assert_eq!(found.len(), problems, "{found:?}");
        let none =
            |_: &_| -> Result<Box<dyn Read>, Box<punnet_images::Error>> { panic!("no layer is needed") };
        store.repair(&image, &found, &mut { none }).unwrap();
        assert_eq!(store.verify(&image).unwrap(), []);
        assert_eq!(value(), b"2: 3");
    };
    punnet_sys::fremovexattr(open().as_fd(), c"user.two").unwrap();
    repaired(1);
    punnet_sys::fsetxattr(open().as_fd(), c"user.two", b"other").unwrap();
    repaired(1);
    fs::remove_dir(image.rootfs().join("d")).unwrap();
    // The root's time, too.
    repaired(2);
}

#[test]
fn lists_that_a_power_cut_has_shortened_are_not_taken_for_whole() {
    for name in ["files", "nodes"] {
        let mut made = Made::new(&[[file("one", "1"), file("d/two", "2")].concat()]);
        let store = made.store();
        let image = import(&store, &made.source()).unwrap();
        let list = image.rootfs().with_file_name(name);
        let whole = fs::read(&list).unwrap();
        for length in 0..whole.len() {
            fs::write(&list, &whole[..length]).unwrap();
            let error = store.verify(&image).unwrap_err().to_string();
            assert!(error.contains("the image's list of"), "{error}");
        }
    }
}

#[test]
fn an_image_stored_before_there_were_lists_of_layers_and_directories_is_repaired_too() {
    let mut made = Made::new(&[file("one", "1"), file("d/two", "2"), file("three", "3")]);
    let store = made.store();
    let image = import(&store, &made.source()).unwrap();
    for list in ["nodes", "layers"] {
        fs::remove_file(image.rootfs().with_file_name(list)).unwrap();
    }
    assert_eq!(store.verify(&image).unwrap(), []);
    for damaged in ["one", "d/two"] {
        fs::write(image.rootfs().join(damaged), "").unwrap();
    }
    let problems = store.verify(&image).unwrap();
    assert_eq!(problems.len(), 2);
    let source = made.source();
    let fetch = &mut |layer: &_| {
        Ok::<_, Box<punnet_images::Error>>(Box::new(source.blob_of(layer)?) as Box<dyn Read>)
    };
    store.repair(&image, &problems, fetch).unwrap();
    assert_eq!(store.verify(&image).unwrap(), []);
}

#[test]
fn a_file_that_two_layers_have_is_looked_for_in_the_one_that_counts() {
    let mut made = Made::new(&[
        [file("same", "1"), file("only-below", "1")].concat(),
        file("above", "2"),
        [file("same", "3"), file("top", "3")].concat(),
    ]);
    let store = made.store();
    let image = import(&store, &made.source()).unwrap();
    for (damaged, layer) in [("only-below", 0), ("above", 1), ("same", 2)] {
        fs::write(image.rootfs().join(damaged), "").unwrap();
        let problems = store.verify(&image).unwrap();
        let source = made.source();
        let mut fetched = Vec::new();
        let mut fetch = |layer: &punnet_images::oci::Descriptor| {
            fetched.push(layer.digest);
            Ok::<_, Box<punnet_images::Error>>(Box::new(source.blob_of(layer)?) as Box<dyn Read>)
        };
        store.repair(&image, &problems, &mut fetch).unwrap();
        assert_eq!(fetched, [made.manifest.layers[layer].digest], "{damaged}");
        assert_eq!(store.verify(&image).unwrap(), [], "{damaged}");
    }
}
