//! The store when the disk is full or cannot be written to, at whatever point that begins.

use crate::store_input::{Made, entry, file, import, import_as};
use crate::support::{Mounted, bytes_below, chain, facts_below, noise_text, tool};
use punnet_images::{Error, Result, Store};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

fn many_files() -> Vec<u8> {
    (0..300)
        .flat_map(|number| file(&format!("d{}/f{number}", number % 7), &noise_text(number, 3000)))
        .collect()
}

#[test]
fn a_full_disk_leaves_the_images_that_were_there() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: mounting a small file system takes root");
        return;
    }
    let mut small = Made::new(&[file("a", "small")]);
    let mut large = Made::new(&[many_files(), file("big", &"0".repeat(4 << 20))]);
    let disk = Mounted::tmpfs(&small.folder.path().join("disk"), "size=2m");
    let store = Store::open(disk.0.join("store")).unwrap();
    let kept = import(&store, &small.source()).unwrap();
    let objects = bytes_below(&disk.0.join("store/objects"));
    let error = import(&store, &large.source()).expect_err("it does not fit");
    let cause = match &*error {
        Error::Layer { source, .. } => source,
        other => other,
    };
    assert!(matches!(cause, Error::Full { .. }), "{}", chain(&error));
    let store = Store::open(disk.0.join("store")).unwrap();
    assert_eq!(store.list().unwrap().len(), 1);
    assert!(store.verify(&kept).unwrap().is_empty());
    store.prune(|_| false).unwrap();
    assert_eq!(bytes_below(&disk.0.join("store/objects")), objects);
    assert!(bytes_below(&disk.0.join("store/staging")).is_empty());
}

#[test]
fn layers_that_are_here_already_need_no_space_again() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: mounting a small file system takes root");
        return;
    }
    // Each file is written before it is found to be here: one must have room, not all.
    let layer = |first: usize| -> Vec<u8> {
        (first..first + 20)
            .flat_map(|number| file(&format!("f{number}"), &noise_text(number, 75_000)))
            .collect()
    };
    let mut first = Made::new(&[layer(0)]);
    let mut second = Made::new(&[layer(0), file("new", "small")]);
    let mut unknown = Made::new(&[layer(20)]);
    let disk = Mounted::tmpfs(&first.folder.path().join("disk"), "size=2m");
    let store = Store::open(disk.0.join("store")).unwrap();
    import_as(&store, &first.source(), "first").unwrap();
    // What is on its way is written before it is found to be here: the largest file must have room once.
    assert_full(
        import_as(&store, &unknown.source(), "unknown"),
        "a layer that is new",
    );
    let image = import_as(&store, &second.source(), "second").unwrap();
    assert_eq!(store.verify(&image).unwrap(), []);
}

/// The refusal is about space, and says so.
fn assert_full<T>(result: Result<T>, context: &str) -> bool {
    let error = match result {
        Ok(_) => return false,
        Err(error) => error,
    };
    let cause = match &*error {
        Error::Layer { source, .. } => source,
        other => other,
    };
    assert!(
        matches!(cause, Error::Full { .. }),
        "{context}: {}",
        chain(&error)
    );
    true
}

/// Tries everything on a file system that ends somewhere; returns how many things it refused.
fn use_all_of(options: &str, good: &mut Made, more: &mut Made) -> u32 {
    let at = good.folder.path().join("disk");
    drop(fs::remove_dir(&at));
    let disk = Mounted::tmpfs(&at, options);
    let root = disk.0.join("store");
    let Ok(store) = Store::open(&root) else { return 1 };
    if assert_full(import_as(&store, &good.source(), "good"), options) {
        return 1;
    }
    let before = facts_below(&store.get("good").unwrap().rootfs());
    let mut refused = u32::from(assert_full(import(&store, &more.source()), options));
    refused += u32::from(assert_full(
        store.tag(&store.get("good").unwrap(), &"again".parse().unwrap()),
        options,
    ));
    for image in store.list().unwrap() {
        assert_eq!(store.verify(&image).unwrap(), [], "{options}");
    }
    assert_eq!(
        facts_below(&store.get("good").unwrap().rootfs()),
        before,
        "{options}"
    );
    // What can be given back is, even with nothing left: then there is room again.
    let store = Store::open(&root).unwrap();
    if let Err(error) = store.prune(|_| false) {
        panic!("{options}: {}", chain(&error));
    }
    assert_eq!(
        fs::read_dir(root.join("staging")).unwrap().count(),
        0,
        "{options}"
    );
    for object in bytes_below(&root.join("objects")).keys() {
        assert!(
            fs::metadata(root.join("objects").join(object)).unwrap().nlink() > 1,
            "{options}"
        );
    }
    refused
}

#[test]
fn space_may_end_at_any_point() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: mounting a small file system takes root");
        return;
    }
    let mut good = Made::new(&[file("good", &noise_text(1, 9000))]);
    let entries = [
        entry(b'5', "d/", "", b""),
        file("d/one", &noise_text(2, 9000)),
        file("d/two", &noise_text(3, 20_000)),
        entry(b'1', "link", "d/one", b""),
        entry(b'2', "symlink", "d/one", b""),
        entry(b'6', "pipe", "", b""),
    ];
    let mut more = Made::new(&[entries.concat()]);
    let mut refused = 0;
    let sizes = (24..140).step_by(4).map(|kib| format!("size={kib}k"));
    let inodes = (10..70).map(|count| format!("nr_inodes={count}"));
    let all: Vec<String> = sizes.chain(inodes).collect();
    for options in &all {
        refused += u32::from(use_all_of(options, &mut good, &mut more) > 0);
    }
    println!("{refused} of {} file systems were too small", all.len());
    assert!(refused > 40 && (refused as usize) < all.len(), "{refused}");
}

#[test]
fn a_disk_that_cannot_be_written_to_is_read_and_named() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: mounting a file system takes root");
        return;
    }
    let mut good = Made::new(&[file("good", "good")]);
    let mut more = Made::new(&[file("more", "more")]);
    let disk = Mounted::tmpfs(&good.folder.path().join("disk"), "size=2m");
    let root = disk.0.join("store");
    import_as(&Store::open(&root).unwrap(), &good.source(), "good").unwrap();
    fs::write(root.join("staging/1-0.lock"), "").unwrap();
    fs::create_dir(root.join("staging/1-0")).unwrap();
    tool("mount", &["-o", "remount,ro", disk.0.to_str().unwrap()]);
    let store = Store::open(&root).unwrap();
    let image = store.get("good").unwrap();
    assert_eq!(store.verify(&image).unwrap(), []);
    assert_eq!(store.usage().unwrap().images.len(), 1);
    let name = "other".parse().unwrap();
    for error in [
        import(&store, &more.source()).unwrap_err(),
        store.tag(&image, &name).unwrap_err(),
        store.remove("good").unwrap_err(),
        store.prune(|_| false).unwrap_err(),
    ] {
        assert!(
            chain(&error).contains("Read-only file system"),
            "{}",
            chain(&error)
        );
    }
    assert_eq!(store.verify(&store.get("good").unwrap()).unwrap(), []);
}

/// Bytes that the files below a folder take on the disk, each file once.
fn disk_bytes(folder: &Path) -> u64 {
    let (mut seen, mut bytes) = (BTreeSet::new(), 0);
    for path in bytes_below(folder).keys() {
        let found = fs::symlink_metadata(folder.join(path)).unwrap();
        if seen.insert(found.ino()) {
            bytes += found.blocks() * 512;
        }
    }
    bytes
}

#[test]
fn an_image_that_shares_nine_tenths_costs_one_tenth() {
    let image = |first: usize| {
        let files = (first..first + 200)
            .flat_map(|number| file(&format!("d/f{number}"), &noise_text(number, 20_000)));
        Made::new(&[files.collect::<Vec<u8>>()])
    };
    let (mut first, mut second) = (image(0), image(20));
    let store = first.store();
    let root = first.folder.path().join("store");
    let a = import_as(&store, &first.source(), "a").unwrap();
    let one = disk_bytes(&root);
    let b = import_as(&store, &second.source(), "b").unwrap();
    let both = disk_bytes(&root);
    println!(
        "one image {one} bytes, both {both}: the second costs {} %",
        (both - one) * 100 / one
    );
    assert!((both - one) * 100 <= one * 14, "{one} and then {both}");
    // The same inode is the same pages in memory.
    let inode = |path: std::path::PathBuf| fs::metadata(path).unwrap().ino();
    for number in 20..200 {
        let name = format!("d/f{number}");
        assert_eq!(inode(a.rootfs().join(&name)), inode(b.rootfs().join(&name)));
    }
    let usage = store.usage().unwrap();
    assert_eq!(usage.images[1].own_bytes(), 20 * 20_000);
    assert_eq!(usage.images[1].shared_bytes, 180 * 20_000);
}
