//! Images of more entries than are kept in memory, and what is known of directories until the end.

use crate::store_input::{Made, entry, file, import, pax};
use punnet_images::store::Damage;
use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

/// More than a table of the store keeps in memory.
const MANY: usize = 7500;

/// More than the parts that the paths of a tree are dealt into.
const ADDED: usize = 600;

#[test]
fn whiteouts_and_digests_hold_in_an_image_of_very_many_entries() {
    let first: Vec<u8> = (0..MANY)
        .flat_map(|number| file(&format!("d/old-{number}"), &number.to_string()))
        .collect();
    // The whiteouts stand behind what this layer makes: it must be known of each name that it did.
    let second: Vec<u8> = (0..MANY)
        .flat_map(|number| file(&format!("d/new-{number}"), &format!("new {number}")))
        .chain(file("d/old-7", "again"))
        .chain(file("e/.wh.none", ""))
        .chain(file("d/.wh..wh..opq", ""))
        .collect();
    let mut made = Made::new(&[first, second]);
    let store = made.store();
    let image = import(&store, &made.source()).unwrap();
    let folder = image.rootfs().join("d");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), MANY + 1);
    assert_eq!(fs::read_to_string(folder.join("old-7")).unwrap(), "again");
    assert_eq!(image.summary.files, MANY as u64 + 1);
    assert_eq!(store.verify(&image).unwrap(), []);
    fs::write(folder.join("new-7499"), "changed").unwrap();
    assert_eq!(store.verify(&image).unwrap().len(), 1);
    // And of what was added.
    for number in 0..ADDED {
        fs::write(folder.join(format!("added-{number}")), "").unwrap();
    }
    let problems = store.verify(&image).unwrap();
    let added = problems.iter().filter(|problem| problem.damage == Damage::Added);
    // The changed file and the directory's time.
    assert_eq!((added.count(), problems.len()), (ADDED, ADDED + 2));
    let source = made.source();
    let mut fetch =
        |layer: &_| Ok::<_, Box<punnet_images::Error>>(Box::new(source.blob_of(layer)?) as Box<dyn Read>);
    let repaired = store.repair(&image, &problems, &mut fetch).unwrap();
    assert_eq!((repaired.removed, repaired.files), (ADDED as u64, 1));
    assert_eq!(store.verify(&image).unwrap(), []);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), MANY + 1);
}

#[test]
fn a_tree_of_very_many_names_and_links_is_saved_whole_and_in_order() {
    let name = |number: usize| format!("d/{number:05}");
    let layer: Vec<u8> = (0..MANY)
        .flat_map(|number| {
            let link = entry(b'1', &format!("d/{number:05}-link"), &name(number), b"");
            [file(&name(number), &number.to_string()), link].concat()
        })
        // In the midst of the others.
        .chain(file("d/03000-below/file", "x"))
        .chain(file("z", "last"))
        .collect();
    let mut made = Made::new(&[layer]);
    let store = made.store();
    let image = import(&store, &made.source()).unwrap();
    let before = fs::read_dir(image.rootfs().parent().unwrap()).unwrap().count();
    let (source, descriptor) = image.source().unwrap();
    let (manifest, _) = source.read_manifest(&descriptor).unwrap();
    let mut archive = tar::Archive::new(source.blob_of(&manifest.layers[0]).unwrap());
    let mut names = Vec::new();
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        if let Some(link) = entry.link_name().unwrap() {
            assert_eq!(format!("{}-link", link.display()), path.display().to_string());
        }
        names.push((path, entry.header().entry_type().is_hard_link()));
    }
    // The root, d, d/03000-below and its file, z.
    assert_eq!(names.len(), 2 * MANY + 5);
    assert_eq!(names.iter().filter(|(_, is_link)| *is_link).count(), MANY);
    assert!(names.windows(2).all(|pair| pair[0].0 < pair[1].0));
    // What did not stay in memory has left nothing behind.
    let after = fs::read_dir(image.rootfs().parent().unwrap()).unwrap().count();
    assert_eq!(after, before);
}

#[test]
fn a_directory_is_what_its_last_entry_says_or_as_if_no_entry_had_been() {
    let folder = |name: &str, mtime: &str, note: (&str, &str)| {
        let note = (format!("SCHILY.xattr.user.{}", note.0), note.1);
        pax(&[("mtime", mtime), (&note.0, note.1)], entry(b'5', name, "", b""))
    };
    let first = [
        folder("kept/", "1000.5", ("first", "1")),
        file("kept/file", "x"),
        folder("gone/", "2000", ("first", "1")),
        folder("gone/below/", "2000", ("first", "1")),
        file("gone/below/file", "x"),
    ];
    let second = [
        folder("kept/", "3000.25", ("second", "2")),
        file("kept/later", "y"),
        file(".wh.gone", ""),
        file("gone/below/new", "z"),
    ];
    let mut made = Made::new(&[first.concat(), second.concat()]);
    let store = made.store();
    let image = import(&store, &made.source()).unwrap();
    let names = |path: &str| {
        let folder = fs::File::open(image.rootfs().join(path)).unwrap();
        let mut names = vec![0; 1024];
        let count = punnet_sys::flistxattr(folder.as_fd(), &mut names).unwrap();
        String::from_utf8(names[..count].to_vec()).unwrap()
    };
    let time = |path: &str| {
        let found = fs::metadata(image.rootfs().join(path)).unwrap();
        (found.mtime(), found.mtime_nsec())
    };
    assert_eq!(time("kept"), (3000, 250_000_000));
    for path in ["gone", "gone/below", ""] {
        assert_eq!(time(path), (0, 0), "{path:?}");
    }
    let kept = names("kept");
    assert!(
        kept.contains("user.second") && !kept.contains("user.first"),
        "{kept}"
    );
    assert!(!names("gone").contains("user."));
}
