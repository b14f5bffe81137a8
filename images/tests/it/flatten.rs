//! An image whose layers were not kept, written as one layer made of its tree: nothing of the tree is lost, the bytes are the same every
//! time, and other programs read it.

use crate::store_input::{Made, entry, file, import, pax};
use crate::support::{facts_below, tool};
use punnet_images::export::{self, Format};
use punnet_images::{HashingReader, Image, Reference, Source, Store};
use std::fs;
use std::os::unix::fs::MetadataExt;

/// One of everything that a tree can hold.
fn layers() -> [Vec<u8>; 2] {
    let long = "n".repeat(90);
    let deep = format!("{long}/{long}/{long}");
    let base = [
        entry(b'5', "d/", "", b""),
        pax(
            &[
                ("mtime", "1234567890.123456789"),
                ("SCHILY.xattr.user.note", "kept"),
            ],
            file("d/fine", "content"),
        ),
        pax(&[("path", &deep)], file("short", "long name")),
        pax(&[("linkpath", &deep)], entry(b'2', "d/symlink", "short", b"")),
        pax(&[("mtime", "-1.5")], entry(b'2', "before", "d/fine", b"")),
        entry(b'6', "pipe", "", b""),
        file("implied/folder/file", "x"),
        file("d/one", "linked"),
        entry(b'1', "a-link", "d/one", b""),
        file("d/equal", "not linked"),
        file("equal", "not linked"),
        file("empty", ""),
        file("d/exact", &"b".repeat(512)),
        pax(&[("uid", "3000000"), ("gid", "7")], file("owned", "x")),
    ];
    [
        base.concat(),
        [file(".wh.empty", ""), file("d/one", "replaced")].concat(),
    ]
}

fn imported() -> (Made, Store, Image) {
    let mut made = Made::new(&layers());
    let store = made.store();
    let image = import(&store, &made.source()).unwrap();
    (made, store, image)
}

fn exported(made: &Made, image: &Image, format: Format, name: &str) -> std::path::PathBuf {
    let (source, descriptor) = image.source().unwrap();
    let to = made.folder.path().join(name);
    let reference: Reference = "example.org/app:1.0".parse().unwrap();
    export::write(&source, &descriptor, Some(&reference), format, &to).unwrap();
    to
}

#[test]
fn a_tree_comes_back_from_its_layer_as_it_was() {
    let (made, _, image) = imported();
    for (format, name) in [
        (Format::OciDir, "dir"),
        (Format::OciArchive, "oci.tar"),
        (Format::DockerArchive, "docker.tar"),
    ] {
        let again = Store::open(made.folder.path().join(format!("store-{name}"))).unwrap();
        let source = Source::open(exported(&made, &image, format, name)).unwrap();
        let second = import(&again, &source).unwrap();
        assert_eq!(
            facts_below(&second.rootfs()),
            facts_below(&image.rootfs()),
            "{name}"
        );
        assert_eq!(again.verify(&second).unwrap(), []);
    }
}

#[test]
fn the_layer_is_the_same_every_time_and_everywhere() {
    let digests: Vec<_> = (0..2)
        .map(|_| {
            let (_made, _, image) = imported();
            let (source, descriptor) = image.source().unwrap();
            let (manifest, config) = source.read_manifest(&descriptor).unwrap();
            let mut layer = HashingReader::new(source.blob_of(&manifest.layers[0]).unwrap());
            std::io::copy(&mut layer, &mut std::io::sink()).unwrap();
            assert_eq!(
                layer.finish(),
                (manifest.layers[0].size, config.rootfs.diff_ids[0])
            );
            let steps = config.history.iter().filter(|step| !step.empty_layer).count();
            assert_eq!(steps, 1, "one layer, one step");
            descriptor.digest
        })
        .collect();
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn files_are_hard_links_where_the_image_says_so_and_not_where_the_store_shares_them() {
    let mut made = Made::new(&[[
        file("one", "linked"),
        entry(b'1', "two", "one", b""),
        file("equal-1", "same"),
        file("equal-2", "same"),
    ]
    .concat()]);
    let image = import(&made.store(), &made.source()).unwrap();
    let inode = |name: &str| fs::metadata(image.rootfs().join(name)).unwrap().ino();
    assert_eq!(inode("equal-1"), inode("equal-2"));
    let (source, descriptor) = image.source().unwrap();
    let (manifest, _) = source.read_manifest(&descriptor).unwrap();
    let mut archive = tar::Archive::new(source.blob_of(&manifest.layers[0]).unwrap());
    let kinds: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (
                entry.path().unwrap().display().to_string(),
                entry.header().entry_type(),
            )
        })
        .filter(|(path, _)| path != "./")
        .collect();
    let (regular, link) = (tar::EntryType::Regular, tar::EntryType::Link);
    let expected = [
        ("equal-1", regular),
        ("equal-2", regular),
        ("one", regular),
        ("two", link),
    ];
    assert_eq!(kinds, expected.map(|(name, kind)| (name.to_owned(), kind)));
}

#[test]
fn skopeo_and_umoci_read_the_layer() {
    let (made, _, image) = imported();
    let layout = exported(&made, &image, Format::OciDir, "dir");
    let at = format!("oci:{}:1.0", layout.display());
    let copied = format!("oci:{}:copy", made.folder.path().join("copied").display());
    if tool("skopeo", &["copy", "--insecure-policy", &at, &copied]).is_none() {
        return;
    }
    let bundle = made.folder.path().join("bundle");
    let (at, to) = (format!("{}:1.0", layout.display()), bundle.display().to_string());
    let mut arguments = vec!["unpack", "--image", &at, &to];
    if !nix::unistd::geteuid().is_root() {
        arguments.insert(1, "--rootless");
    }
    if tool("umoci", &arguments).is_none() {
        return;
    }
    let mut ours = facts_below(&image.rootfs());
    let mut theirs = facts_below(&bundle.join("rootfs"));
    if !nix::unistd::geteuid().is_root() {
        // An ordinary user's umoci keeps owners as attributes.
        ours.values_mut()
            .chain(theirs.values_mut())
            .for_each(|facts| facts.xattrs.clear());
    }
    assert_eq!(theirs, ours);
}

#[test]
fn a_copy_has_all_of_the_tree_and_shares_nothing_with_the_store() {
    let (made, store, image) = imported();
    let copy = made.folder.path().join("copy");
    fs::create_dir(&copy).unwrap();
    let bytes = image.copy_to(&copy).unwrap();
    assert!(bytes > 0);
    assert_eq!(facts_below(&copy), facts_below(&image.rootfs()));
    fs::write(copy.join("d/equal"), "written to").unwrap();
    assert_eq!(fs::read_to_string(copy.join("equal")).unwrap(), "not linked");
    assert_eq!(store.verify(&image).unwrap(), []);
}
