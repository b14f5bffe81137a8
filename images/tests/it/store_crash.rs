//! The store when its process is killed or the disk is full: an image is there whole or not at all, and the next one to open the
//! store can go on.

use crate::store_input::{Made, file, import};
use crate::support::{Mounted, bytes_below, chain, noise_text};
use punnet_images::{Error, Source, Store};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Points in an import at which it is killed.
const KILLS: u32 = 120;
const STORE: &str = "PUNNET_TEST_STORE";
const LAYOUT: &str = "PUNNET_TEST_LAYOUT";

fn many_files() -> Vec<u8> {
    (0..300)
        .flat_map(|number| file(&format!("d{}/f{number}", number % 7), &noise_text(number, 3000)))
        .collect()
}

/// Not a test of its own: what the test below starts and kills.
#[test]
#[ignore = "runs as a child of killed_imports_leave_a_whole_store"]
fn child_imports() {
    let (Ok(store), Ok(layout)) = (std::env::var(STORE), std::env::var(LAYOUT)) else {
        return;
    };
    import(&Store::open(store).unwrap(), &Source::open(layout).unwrap()).unwrap();
}

fn child(folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "store_crash::child_imports",
        "--ignored",
        "--test-threads=1",
    ]);
    command
        .env(STORE, folder.join("store"))
        .env(LAYOUT, folder.join("layout"));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[test]
fn killed_imports_leave_a_whole_store() {
    let mut made = Made::new(&[many_files(), many_files()]);
    drop(made.source());
    let folder = made.folder.path();
    let begun = Instant::now();
    assert!(child(folder).status().unwrap().success());
    let whole = begun.elapsed();
    let (mut before, mut after) = (0, 0);
    for number in 0..KILLS {
        made.store().remove("app").ok();
        let mut running = child(folder).spawn().unwrap();
        std::thread::sleep(whole * number * 3 / (KILLS * 2) + Duration::from_micros(u64::from(number) * 7));
        running.kill().unwrap();
        running.wait().unwrap();
        let store = made.store();
        assert!(
            bytes_below(&folder.join("store/staging")).is_empty(),
            "kill {number}"
        );
        let images = store.list().unwrap();
        for image in &images {
            assert!(store.verify(image).unwrap().is_empty(), "kill {number}");
        }
        *(if images.is_empty() {
            &mut before
        } else {
            &mut after
        }) += 1;
        store.prune(|_| false).unwrap();
    }
    println!("killed {KILLS} imports over {whole:?}: {before} before, {after} after the image was published");
    assert!(
        before >= KILLS / 4,
        "only {before} of {KILLS} kills came in time to prove anything"
    );
    let image = import(&made.store(), &Source::open(folder.join("layout")).unwrap()).unwrap();
    assert_eq!(
        (image.summary.files, made.store().verify(&image).unwrap().len()),
        (300, 0)
    );
    made.store().remove("app").unwrap();
    assert!(bytes_below(&folder.join("store/objects")).is_empty());
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
