//! The store when the disk is full or cannot be written to, at whatever point that begins.

use crate::store_input::{Made, file, import};
use crate::support::{Mounted, bytes_below, chain, noise_text};
use punnet_images::{Error, Store};

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
    let cause = match &error {
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
