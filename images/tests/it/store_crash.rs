//! The store when its process is killed at any of its system calls: it opens, what was there is whole, what was begun is there whole or not at all,
//! and nothing stays that `prune` does not take.
//!
//! A child does one thing to a store under ptrace(2). Its system calls that change files are counted; then it is done again and again, and killed before the
//! first of them, before the second, and so on: every state of the disk that the program can leave behind is looked at once.

use crate::store_input::{Made, entry, file, import_as};
use crate::support::{Hands, bytes_below, chain, facts_below, noise_text, tool};
use nix::libc;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use punnet_images::build::{self, BuildOptions, BuildPlace};
use punnet_images::{Blobs, Error, ImportOptions, Source, Store};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const ACTION: &str = "PUNNET_TEST_ACTION";
const FOLDER: &str = "PUNNET_TEST_FOLDER";

/// What the child may be told to do, in the folder of the test.
fn act(action: &str, folder: &Path) {
    let store = Store::open(folder.join("store")).unwrap();
    let source = |name: &str| Source::open(folder.join(name)).unwrap();
    match action {
        "import" => drop(import_as(&store, &source("new"), "new").unwrap()),
        "upgrade" => {
            import_as(&store, &source("new"), "app").unwrap();
            store.prune(|_| false).unwrap();
        }
        "build" => build(&store, folder),
        "tag" => store
            .tag(&store.get("good").unwrap(), &"another".parse().unwrap())
            .unwrap(),
        "rmi" => drop(store.remove("app")),
        "prune" => drop(store.prune(|_| false).unwrap()),
        "repair" => {
            let image = store.get("app").unwrap();
            let problems = store.verify(&image).unwrap();
            let old = source("old");
            let mut fetch = |layer: &_| {
                Ok::<_, Box<punnet_images::Error>>(Box::new(old.blob_of(layer)?) as Box<dyn std::io::Read>)
            };
            store.repair(&image, &problems, &mut fetch).unwrap();
        }
        other => match other.split_once(' ') {
            Some(("churn", seed)) => churn(&store, folder, seed.parse().unwrap()),
            Some(("measure", layout)) => measure(&store, &source(layout)),
            _ => panic!("nobody can {other}"),
        },
    }
}

/// Steps of each process that works on a store together with others.
const CHURN_STEPS: u32 = 25;

/// Does one thing after another, as others do at the same time, and looks at what it gets.
fn churn(store: &Store, folder: &Path, seed: u64) {
    let mut state = seed;
    for _ in 0..CHURN_STEPS {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let name = format!("name-{}", state >> 40 & 1);
        let layout = if state >> 41 & 1 == 0 { "new" } else { "old" };
        match state >> 33 & 7 {
            0..=2 => {
                let source = Source::open(folder.join(layout)).unwrap();
                let image = import_as(store, &source, &name).unwrap();
                assert!(not_gone(store.verify(&image)).unwrap_or_default().is_empty());
            }
            3 => drop(not_gone(store.remove(&name))),
            4 => drop(store.prune(|_| false).unwrap()),
            5 => drop(not_gone(
                store.tag(&store.get("good").unwrap(), &name.parse().unwrap()),
            )),
            6 => drop(store.usage().map_err(|error| chain(&error))),
            _ => {
                for image in store.list().unwrap() {
                    assert!(not_gone(store.verify(&image)).unwrap_or_default().is_empty());
                }
            }
        }
        let good = store.get("good").unwrap();
        assert_eq!(store.verify(&good).unwrap(), []);
    }
}

/// `None` when somebody else has removed what was asked for.
fn not_gone<T>(result: punnet_images::Result<T>) -> Option<T> {
    match result {
        Err(error) if matches!(*error, Error::NotFound { .. }) => None,
        other => Some(other.unwrap()),
    }
}

/// Imports and prints how much memory that took beyond what was there, and what was written.
fn measure(store: &Store, source: &Source) {
    let number = |path: &str, key: &str| -> u64 {
        let text = fs::read_to_string(path).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    // From now on the peak is counted anew (proc_pid_clear_refs(5)).
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let (before, written) = (
        number("/proc/self/status", "VmRSS:"),
        number("/proc/self/io", "wchar:"),
    );
    import_as(store, source, "measured").unwrap();
    let peak_kib = number("/proc/self/status", "VmHWM:") - before;
    println!(
        "\nmeasured {peak_kib} {}",
        number("/proc/self/io", "wchar:") - written
    );
}

fn build(store: &Store, folder: &Path) {
    let scratch = store.scratch().unwrap();
    let options = BuildOptions {
        context: folder.join("context"),
        platforms: vec!["linux/amd64".parse().unwrap()],
        ..BuildOptions::default()
    };
    let place = BuildPlace {
        scratch: scratch.path().into(),
        cache: None,
    };
    let mut hands = Hands::of(&folder.join("store"));
    let built = build::build(&options, &place, &mut hands).unwrap();
    let mut options = ImportOptions {
        name: None,
        platform: "linux/amd64".parse().unwrap(),
        reference: Some("built".parse().unwrap()),
        expect: Some(built.image.digest),
        blobs: Blobs::Take,
        progress: &mut |_| {},
    };
    store
        .import(&Source::open(place.layout()).unwrap(), &mut options)
        .unwrap();
}

/// Not a test of its own: what the tests below start, trace and kill.
#[test]
#[ignore = "runs as a child of the tests beside it"]
fn child() {
    let (Ok(action), Ok(folder)) = (std::env::var(ACTION), std::env::var(FOLDER)) else {
        return;
    };
    println!("\nthread {}", nix::unistd::gettid());
    std::io::stdin().read_line(&mut String::new()).unwrap();
    act(&action, Path::new(&folder));
    std::process::exit(0);
}

fn spawn(action: &str, folder: &Path) -> (Child, Pid) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "store_crash::child",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(ACTION, action)
        .env(FOLDER, folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let thread = lines
        .find_map(|line| {
            line.unwrap()
                .strip_prefix("thread ")
                .map(|number| number.parse().unwrap())
        })
        .unwrap();
    (child, Pid::from_raw(thread))
}

/// Lets the child act and kills it before its `last`th change. Returns how many it has made or begun.
fn run_until(action: &str, folder: &Path, last: Option<u64>) -> u64 {
    let (mut child, thread) = spawn(action, folder);
    let options = ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_EXITKILL;
    ptrace::seize(thread, options).unwrap();
    ptrace::interrupt(thread).unwrap();
    let wait = || waitpid(thread, Some(WaitPidFlag::__WALL));
    wait().unwrap();
    child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    let mut changes = 0;
    loop {
        ptrace::syscall(thread, None).unwrap();
        match wait() {
            Ok(WaitStatus::PtraceSyscall(_)) => {
                if !is_change(thread) {
                    continue;
                }
                changes += 1;
                if Some(changes) == last {
                    kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL).unwrap();
                    while wait().is_ok() {}
                    child.wait().unwrap();
                    return changes;
                }
            }
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(nix::errno::Errno::ECHILD) => break,
            Ok(_) => {}
            Err(errno) => panic!("{errno}"),
        }
    }
    assert!(child.wait().unwrap().success(), "{action} fails by itself");
    changes
}

/// True at the entry of a system call that changes files. At the entry the result is set to ENOSYS (ptrace(2)).
#[cfg(target_arch = "x86_64")]
fn is_change(thread: Pid) -> bool {
    let registers = ptrace::getregs(thread).unwrap();
    if registers.rax as i64 != -i64::from(libc::ENOSYS) {
        return false;
    }
    let makes = |flags: u64| flags & (libc::O_CREAT | libc::O_TRUNC) as u64 != 0;
    match registers.orig_rax as i64 {
        libc::SYS_openat => makes(registers.rdx),
        libc::SYS_open => makes(registers.rsi),
        number => CHANGES.contains(&number),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn is_change(_: Pid) -> bool {
    false
}

#[cfg(target_arch = "x86_64")]
const CHANGES: &[i64] = &[
    libc::SYS_write,
    libc::SYS_pwrite64,
    libc::SYS_writev,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_syncfs,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlink,
    libc::SYS_symlinkat,
    libc::SYS_link,
    libc::SYS_linkat,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_rmdir,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_chmod,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_fsetxattr,
];

/// A killed process loses nothing that the kernel has: a disk would only make hundreds of syncs slow.
fn in_ram() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// A folder with a store that has the images `good` and `app`, an image without a name and a file that no image has, and with sources for more.
fn prepare() -> tempfile::TempDir {
    let folder = in_ram();
    let shared = file("shared", &noise_text(1, 3000));
    let image = |name: &str, entries: &[Vec<u8>]| {
        let mut made = Made::new(&[[shared.as_slice(), &entries.concat()].concat()]);
        drop(made.source());
        tool(
            "cp",
            &[
                "-a",
                made.folder.path().join("layout").to_str().unwrap(),
                folder.path().join(name).to_str().unwrap(),
            ],
        );
    };
    image(
        "good-layout",
        &[file("d/good", "good"), entry(b'1', "link", "d/good", b"")],
    );
    image(
        "old",
        &[
            file("old", "old"),
            file("in-all", "same"),
            file("folder/lost", "lost"),
            entry(b'2', "folder/link", "lost", b""),
        ],
    );
    image("nameless", &[file("nameless", "1")]);
    image(
        "new",
        &[
            file("in-all", "same"),
            entry(b'5', "d/", "", b""),
            file("d/new", &noise_text(2, 70_000)),
            entry(b'1', "link", "d/new", b""),
            entry(b'2', "symlink", "d/new", b""),
            entry(b'6', "pipe", "", b""),
            file("d/new", "replaced"),
        ],
    );
    fs::create_dir(folder.path().join("context")).unwrap();
    fs::write(folder.path().join("context/program"), "program").unwrap();
    fs::write(
        folder.path().join("context/Containerfile"),
        "FROM scratch\nCOPY program /d/\nCMD [\"/d/program\"]\n",
    )
    .unwrap();
    let store = Store::open(folder.path().join("store")).unwrap();
    for (layout, name) in [("good-layout", "good"), ("old", "app"), ("nameless", "nameless")] {
        import_as(&store, &Source::open(folder.path().join(layout)).unwrap(), name).unwrap();
    }
    fs::remove_file(folder.path().join("store/refs/nameless:latest")).unwrap();
    fs::create_dir_all(folder.path().join("store/objects/ff")).unwrap();
    fs::write(
        folder.path().join("store/objects/ff").join("f".repeat(62)),
        "garbage",
    )
    .unwrap();
    folder
}

/// Names and what they name.
fn names(store: &Store) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    for image in store.list().unwrap() {
        for reference in &image.references {
            names.insert(reference.to_string(), image.manifest.to_string());
        }
    }
    names
}

/// Nothing is there but what images are made of.
fn assert_nothing_leaked(root: &Path, context: &str) {
    let mut parts: Vec<_> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    parts.sort();
    assert_eq!(
        parts,
        ["images", "lock", "objects", "refs", "staging", "version"],
        "{context}"
    );
    assert_eq!(
        fs::read_dir(root.join("staging")).unwrap().count(),
        0,
        "{context}"
    );
    for object in bytes_below(&root.join("objects")).keys() {
        let links = fs::metadata(root.join("objects").join(object)).unwrap().nlink();
        assert!(links > 1, "{context}: no image has {}", object.display());
    }
}

/// Kills `action` before each of its changes; returns how many that were.
fn kill_everywhere(action: &str, damage: impl Fn(&Path)) -> u64 {
    if !cfg!(target_arch = "x86_64") {
        println!("SKIPPED: reading system call numbers is written for x86-64");
        return 0;
    }
    let base = prepare();
    damage(&base.path().join("store"));
    let fresh = || {
        let folder = tempfile::tempdir().unwrap();
        tool(
            "cp",
            &[
                "-a",
                &format!("{}/.", base.path().display()),
                folder.path().to_str().unwrap(),
            ],
        );
        folder
    };
    let undisturbed = fresh();
    let changes = run_until(action, undisturbed.path(), None);
    let finished = names(&Store::open(undisturbed.path().join("store")).unwrap());
    let before = names(&Store::open(base.path().join("store")).unwrap());
    let good = facts_below(
        &Store::open(base.path().join("store"))
            .unwrap()
            .get("good")
            .unwrap()
            .rootfs(),
    );
    for number in 1..=changes {
        let context = format!("{action}, killed before change {number} of {changes}");
        let folder = fresh();
        run_until(action, folder.path(), Some(number));
        let root = folder.path().join("store");
        let store = Store::open(&root).unwrap();
        assert_eq!(
            facts_below(&store.get("good").unwrap().rootfs()),
            good,
            "{context}"
        );
        for image in store.list().unwrap() {
            let is_being_repaired = action == "repair"
                && image
                    .references
                    .iter()
                    .any(|name| name.to_string() == "app:latest");
            assert!(
                is_being_repaired || store.verify(&image).unwrap().is_empty(),
                "{context}: {image:?}"
            );
        }
        let now = names(&store);
        for (name, digest) in &now {
            let allowed = [before.get(name), finished.get(name)];
            assert!(allowed.contains(&Some(digest)), "{context}: {name} is {digest}");
        }
        for name in before.keys().filter(|name| finished.contains_key(*name)) {
            assert!(now.contains_key(name), "{context}: {name} is gone");
        }
        store.prune(|_| false).unwrap();
        assert_nothing_leaked(&root, &context);
        if action != "rmi" || now.contains_key("app:latest") {
            act(action, folder.path());
        }
        assert_eq!(
            names(&Store::open(&root).unwrap()),
            finished,
            "{context}, and done again"
        );
        for image in store.list().unwrap() {
            assert!(
                store.verify(&image).unwrap().is_empty(),
                "{context}, and done again"
            );
        }
    }
    println!("{action}: killed before each of its {changes} changes");
    changes
}

#[test]
fn many_processes_may_work_on_one_store() {
    let folder = prepare();
    let mut children: Vec<_> = (0..6)
        .map(|seed| spawn(&format!("churn {seed}"), folder.path()).0)
        .collect();
    for child in &mut children {
        child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }
    for (seed, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "process {seed}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let root = folder.path().join("store");
    let store = Store::open(&root).unwrap();
    for image in store.list().unwrap() {
        assert_eq!(store.verify(&image).unwrap(), []);
    }
    store.prune(|_| false).unwrap();
    assert_nothing_leaked(&root, "six processes");
}

/// KiB at most that an import may take beyond what the process has, whatever the image.
const IMPORT_PEAK_KIB_MAX: u64 = 6 << 10;

#[test]
fn an_import_takes_little_memory_and_writes_the_files_once() {
    let folder = prepare();
    let many: Vec<u8> = (0..6000)
        .flat_map(|number| {
            file(
                &format!("d{}/f{number}", number % 97),
                &noise_text(number % 50, 1500),
            )
        })
        .collect();
    let large = file("large", &noise_text(3, 1 << 20).repeat(24));
    // What repeats lies farther behind than memory is held for it.
    let far = file("large", &noise_text(3, 5 << 20).repeat(5));
    for (name, layer) in [("many-files", many), ("one-file", large), ("zstd", far)] {
        let mut made = Made::new(&[layer]);
        let source = made.source().path().display().to_string();
        let layout = folder.path().join(name).display().to_string();
        match name {
            "zstd" => {
                let (from, to) = (format!("oci:{source}"), format!("oci:{layout}"));
                let skopeo = ["copy", "--dest-compress-format", "zstd", &from, &to];
                tool("skopeo", &skopeo).unwrap();
            }
            _ => drop(tool("cp", &["-a", &source, &layout])),
        }
        let (mut child, _) = spawn(&format!("measure {name}"), folder.path());
        child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("measured "))
            .unwrap();
        let (peak_kib, written) = line.split_once(' ').unwrap();
        let (peak_kib, written): (u64, u64) = (peak_kib.parse().unwrap(), written.parse().unwrap());
        let size = Store::open(folder.path().join("store"))
            .unwrap()
            .get("measured")
            .unwrap()
            .summary
            .size_bytes;
        println!("{name}: {size} bytes unpacked, {written} written, {peak_kib} KiB more at the peak");
        assert!(peak_kib <= IMPORT_PEAK_KIB_MAX, "{name}: {peak_kib} KiB");
        // The list of files is the rest: some hundred bytes each.
        let list = if name == "many-files" { 6000 * 100 } else { 0 };
        // What zstd looks back at goes into a file of 8 MiB, over and over.
        let again = if name == "zstd" { size } else { 0 };
        assert!(
            written <= size + size / 20 + list + again,
            "{name}: {written} for {size}"
        );
    }
}

#[test]
fn an_import_may_be_killed_anywhere() {
    assert!(kill_everywhere("import", |_| {}) > 50);
}

#[test]
fn an_upgrade_may_be_killed_anywhere() {
    assert!(kill_everywhere("upgrade", |_| {}) > 60);
}

#[test]
fn a_build_may_be_killed_anywhere() {
    assert!(kill_everywhere("build", |_| {}) > 40);
}

#[test]
fn tagging_may_be_killed_anywhere() {
    assert!(kill_everywhere("tag", |_| {}) >= 4);
}

#[test]
fn removing_may_be_killed_anywhere() {
    assert!(kill_everywhere("rmi", |_| {}) > 10);
}

#[test]
fn pruning_may_be_killed_anywhere() {
    assert!(kill_everywhere("prune", |_| {}) > 10);
}

#[test]
fn a_repair_may_be_killed_anywhere() {
    let damage = |root: &Path| {
        let image = Store::open(root).unwrap().get("app").unwrap();
        let cut = fs::File::options()
            .write(true)
            .open(image.rootfs().join("old"))
            .unwrap();
        cut.set_len(0).unwrap();
        fs::remove_file(image.rootfs().join("in-all")).unwrap();
        fs::remove_dir_all(image.rootfs().join("folder")).unwrap();
    };
    assert!(kill_everywhere("repair", damage) > 10);
}
