//! save, load, inspect, history, du, verify --repair through the command line.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use xtask::stand::{Stand, json_of};

use crate::build::Bench;
use crate::support::{fails, ok, output, stand_with_image};

/// The image again, without its layers.
fn forget_layers(stand: &Stand) -> PathBuf {
    let archive = stand.path().join("with-layers.tar");
    ok(stand.punnet(&["save", "--output"]).arg(&archive).arg("hello"));
    ok(&mut stand.punnet(&["rmi", "hello"]));
    ok(stand.punnet(&["load", "--tag", "hello"]).arg(&archive));
    archive
}

fn inspected(stand: &Stand) -> Value {
    json_of(&mut stand.punnet(&["inspect", "hello"])).unwrap()[0].clone()
}

fn only_image(stand: &Stand) -> PathBuf {
    inspected(stand)["rootfs"].as_str().unwrap().into()
}

#[test]
fn an_archive_passes_through_pipes_compressed_or_not() {
    let stand = stand_with_image();
    let digest = ok(&mut stand.punnet(&["images", "--quiet"]));
    let saved = output(&mut stand.punnet(&["save", "hello"]));
    assert!(saved.status.success());
    let plain = stand.path().join("plain.tar");
    std::fs::write(&plain, &saved.stdout).unwrap();
    ok(Command::new("gzip").arg("--keep").arg(&plain));
    let compressed = stand.path().join("plain.tar.gz");
    let from_pipe = |path: &Path| {
        let mut cat = Command::new("cat")
            .arg(path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let shown = ok(stand.punnet(&["load"]).stdin(cat.stdout.take().unwrap()));
        assert!(cat.wait().unwrap().success());
        shown
    };
    let from_file = |path: &Path| {
        ok(stand
            .punnet(&["load", "-"])
            .stdin(std::fs::File::open(path).unwrap()))
    };
    let by_path = |path: &Path| ok(stand.punnet(&["load", "--input"]).arg(path));
    for path in [&plain, &compressed] {
        for load in [&from_pipe as &dyn Fn(&Path) -> String, &from_file, &by_path] {
            ok(&mut stand.punnet(&["rmi", "hello"]));
            assert_eq!(load(path), digest, "{}", path.display());
            assert!(ok(&mut stand.punnet(&["images"])).contains("hello:latest"));
        }
    }
    // Nothing of what came through the pipe is left.
    let data = stand.path().join("data/store");
    let left = std::fs::read_dir(&data)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let mut left: Vec<_> = left.collect();
    left.sort();
    assert_eq!(left, ["images", "lock", "objects", "refs", "staging", "version"]);
}

#[test]
fn an_archive_that_ends_early_loads_nothing() {
    let stand = stand_with_image();
    let saved = output(&mut stand.punnet(&["save", "--format", "docker-archive", "hello"])).stdout;
    ok(&mut stand.punnet(&["rmi", "hello"]));
    let cut = stand.path().join("cut.tar");
    std::fs::write(&cut, &saved[..saved.len() / 2]).unwrap();
    fails(
        stand.punnet(&["load"]).stdin(std::fs::File::open(&cut).unwrap()),
        1,
    );
    assert!(ok(&mut stand.punnet(&["images", "--quiet"])).is_empty());
}

#[test]
fn an_image_without_its_layers_is_saved_as_one_and_runs_elsewhere() {
    let stand = stand_with_image();
    forget_layers(&stand);
    let archive = stand.path().join("one.tar");
    let first = output(stand.punnet(&["save", "--output"]).arg(&archive).arg("hello"));
    assert!(first.status.success());
    let told = String::from_utf8_lossy(&first.stderr);
    assert!(told.contains("written as one layer"), "{told}");
    let again = stand.path().join("again.tar");
    ok(stand.punnet(&["save", "--output"]).arg(&again).arg("hello"));
    assert_eq!(std::fs::read(&archive).unwrap(), std::fs::read(again).unwrap());
    ok(&mut stand.punnet(&["rmi", "hello"]));
    ok(stand.punnet(&["load"]).arg(&archive));
    let greeting = ok(&mut stand.punnet(&["run", "--rm", "hello", "--once"]));
    assert!(greeting.contains("hello from a scratch container"));
}

#[test]
fn several_images_travel_in_one_archive() {
    let stand = stand_with_image();
    let context = stand.path().join("hello");
    ok(stand
        .punnet(&["build", "--label", "other=1", "--tag", "other"])
        .arg(context));
    let before = ok(&mut stand.punnet(&["images", "--json"]));
    for format in ["oci-archive", "docker-archive"] {
        let archive = stand.path().join(format);
        let words = ["save", "--format", format, "--output"];
        ok(stand.punnet(&words).arg(&archive).args(["hello", "other"]));
        ok(&mut stand.punnet(&["rmi", "hello", "other"]));
        ok(stand.punnet(&["load", "--keep-blobs"]).arg(&archive));
        let names = |json: &str| -> Vec<Value> {
            let rows: Value = serde_json::from_str(json).unwrap();
            rows.as_array()
                .unwrap()
                .iter()
                .map(|row| row["reference"].clone())
                .collect()
        };
        let after = ok(&mut stand.punnet(&["images", "--json"]));
        assert_eq!(names(&after), names(&before));
        if format == "oci-archive" {
            assert_eq!(after, before, "digests stay");
        }
    }
}

#[test]
fn damage_is_repaired_from_the_layers_and_only_that() {
    let stand = stand_with_image();
    let archive = forget_layers(&stand);
    let root = only_image(&stand);
    let program = root.join("hello");
    let cut = || {
        std::fs::File::options()
            .write(true)
            .open(&program)
            .unwrap()
            .set_len(0)
            .unwrap();
    };
    cut();
    // Without a source there is nothing to repair from, and it stays damaged.
    ok(&mut stand.punnet(&["tag", "hello", "127.0.0.1:1/hello"]));
    const TRY_LATER: i32 = 75;
    fails(&mut stand.punnet(&["verify", "--repair"]), TRY_LATER);
    let shown = ok(stand.punnet(&["verify", "--repair", "--from"]).arg(&archive));
    assert!(shown.contains("repaired 1 files under 1 paths"), "{shown}");
    assert_eq!(ok(&mut stand.punnet(&["verify"])), "");
    // A name that is gone comes back from the object, without a layer.
    std::fs::remove_file(&program).unwrap();
    let shown = ok(stand.punnet(&["verify", "--repair", "--from"]).arg(&archive));
    assert!(shown.contains("from 0 KiB"), "{shown}");
    // And a directory from what is known of it, though nobody can be asked for layers.
    std::fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::remove_file(&program).unwrap();
    let complaint = fails(&mut stand.punnet(&["verify"]), 1);
    assert!(complaint.contains("1 of 1"), "{complaint}");
    let shown = ok(&mut stand.punnet(&["verify", "--repair"]));
    assert!(
        shown.contains(".: mode, owner or time") && shown.contains("and 1 directories and links"),
        "{shown}"
    );
    // What no layer has is removed, and needs none either.
    std::fs::create_dir(root.join("added")).unwrap();
    let complaint = fails(&mut stand.punnet(&["verify"]), 1);
    assert!(complaint.contains("1 of 1"), "{complaint}");
    let shown = ok(&mut stand.punnet(&["verify", "--repair"]));
    assert!(
        shown.contains("added: was added, no layer has it") && shown.contains("removed 1"),
        "{shown}"
    );
    assert!(!root.join("added").exists());
    assert_eq!(ok(&mut stand.punnet(&["verify"])), "");
    // So does the configuration.
    std::fs::write(root.with_file_name("config.json"), "{}").unwrap();
    let complaint = fails(&mut stand.punnet(&["verify"]), 1);
    assert!(complaint.contains("1 of 1"), "{complaint}");
    ok(stand.punnet(&["verify", "--repair", "--from"]).arg(&archive));
    assert_eq!(ok(&mut stand.punnet(&["verify"])), "");
    let greeting = ok(&mut stand.punnet(&["run", "--rm", "hello", "--once"]));
    assert!(greeting.contains("hello from a scratch container"));
    // A container leaves no trace in the tree.
    assert_eq!(ok(&mut stand.punnet(&["verify"])), "");
}

#[test]
fn what_was_built_here_is_repaired_from_its_own_layers() {
    let stand = stand_with_image();
    let program = only_image(&stand).join("hello");
    let whole = std::fs::read(&program).unwrap();
    std::fs::write(&program, "damaged").unwrap();
    fails(&mut stand.punnet(&["verify"]), 1);
    let shown = ok(&mut stand.punnet(&["verify", "--repair"]));
    assert!(shown.contains("repaired 1 files under 1 paths"), "{shown}");
    assert!(std::fs::read(&program).unwrap() == whole);
    assert_eq!(ok(&mut stand.punnet(&["verify"])), "");
}

#[test]
fn what_an_image_is_and_takes_is_told() {
    let stand = stand_with_image();
    let image = inspected(&stand);
    assert_eq!(image["references"], serde_json::json!(["hello:latest"]));
    assert_eq!(image["layers_kept"], true);
    assert_eq!(
        image["config"]["config"]["Entrypoint"],
        serde_json::json!(["/hello"])
    );
    let steps = json_of(&mut stand.punnet(&["history", "--json", "hello"])).unwrap();
    let steps = steps.as_array().unwrap();
    assert!(
        steps
            .iter()
            .any(|step| step["created_by"].as_str().unwrap().starts_with("COPY")
                && step["size_bytes"].as_u64().unwrap() > 0)
    );
    assert!(ok(&mut stand.punnet(&["history", "hello"])).contains("COPY"));
    let usage = json_of(&mut stand.punnet(&["du", "--json"])).unwrap();
    let alone = &usage["images"][0];
    assert_eq!(
        (&alone["shared_bytes"], &usage["garbage_bytes"]),
        (&0.into(), &0.into())
    );
    assert!(alone["layers_bytes"].as_u64().unwrap() > 0);
    // The same files under another configuration cost nothing.
    let context = stand.path().join("hello");
    ok(stand
        .punnet(&["build", "--label", "other=1", "--tag", "other"])
        .arg(context));
    let usage = json_of(&mut stand.punnet(&["du", "--json"])).unwrap();
    for image in usage["images"].as_array().unwrap() {
        assert_eq!(image["shared_bytes"], image["files_bytes"]);
    }
    assert!(ok(&mut stand.punnet(&["du"])).contains("other:latest"));
}

#[test]
fn a_policy_keeps_unsigned_images_from_running() {
    let stand = stand_with_image();
    let key = stand.path().join("key.pem");
    ok(Command::new("openssl")
        .args(["genpkey", "-algorithm", "ed25519", "-out"])
        .arg(&key));
    let public = ok(Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&key));
    let policy = serde_json::json!({
        "version": 1, "keys": { "me": public }, "rules": [{ "images": "hello:", "signed_by": ["me"] }],
    });
    std::fs::write(stand.path().join("data/signatures.json"), policy.to_string()).unwrap();
    let complaint = fails(&mut stand.punnet(&["run", "--rm", "hello", "--once"]), 125);
    assert!(complaint.contains("hello:latest may not run"), "{complaint}");
    fails(&mut stand.punnet(&["create", "--name", "other", "hello"]), 125);
    ok(stand.punnet(&["sign", "--key"]).arg(&key).arg("hello"));
    ok(&mut stand.punnet(&["run", "--rm", "hello", "--once"]));
    // The signature travels with the image.
    let archive = stand.path().join("signed.tar");
    ok(stand.punnet(&["save", "--output"]).arg(&archive).arg("hello"));
    ok(&mut stand.punnet(&["rmi", "hello"]));
    ok(&mut stand.punnet(&["prune"]));
    ok(stand.punnet(&["load"]).arg(&archive));
    ok(&mut stand.punnet(&["run", "--rm", "hello", "--once"]));
    // Under a name that no rule is for it does not run, and neither without one.
    ok(&mut stand.punnet(&["tag", "hello", "else"]));
    fails(&mut stand.punnet(&["run", "--rm", "else", "--once"]), 125);
    let digest = ok(&mut stand.punnet(&["images", "--quiet"]));
    fails(
        &mut stand.punnet(&["run", "--rm", digest.lines().next().unwrap(), "--once"]),
        125,
    );
}

#[test]
fn a_container_older_than_the_policy_starts_only_when_its_image_may_run() {
    let stand = stand_with_image();
    ok(&mut stand.punnet(&["create", "--name", "by-name", "hello", "--once"]));
    let digest = ok(&mut stand.punnet(&["images", "--quiet"]));
    ok(&mut stand.punnet(&["create", "--name", "by-digest", digest.trim(), "--once"]));
    ok(&mut stand.punnet(&["create", "--name", "by-prefix", &digest[7..19], "--once"]));
    let key = "ab".repeat(32);
    let set_policy = |rules: Value| {
        let policy = serde_json::json!({ "version": 1, "keys": { "fleet": key }, "rules": rules });
        std::fs::write(stand.path().join("data/signatures.json"), policy.to_string()).unwrap();
    };
    let starts = |options: &[&str], name: &str| {
        let started = output(&mut stand.punnet(&[&["start"], options, &[name]].concat()));
        if started.status.success() {
            ok(&mut stand.punnet(&["stop", name]));
            return true;
        }
        let complaint = String::from_utf8(started.stderr).unwrap();
        assert!(complaint.contains("may not run"), "{complaint}");
        assert_eq!(started.status.code(), Some(125));
        false
    };
    let signed_by_the_fleet = serde_json::json!({ "images": "", "signed_by": ["fleet"] });
    set_policy(serde_json::json!([signed_by_the_fleet]));
    for name in ["by-name", "by-digest", "by-prefix"] {
        assert!(!starts(&[], name), "{name}");
        assert!(starts(&["--vouched-by", &key], name), "{name}");
        assert!(!starts(&["--vouched-by", &"cd".repeat(32)], name), "{name}");
    }
    // A rule that fits the name lets it start, also when the name has gone to another image since; a digest is no name.
    ok(&mut stand.punnet(&["tag", "hello", "kept"]));
    ok(&mut stand.punnet(&["rmi", "hello"]));
    let by_name = serde_json::json!({ "images": "hello:", "unsigned": true });
    let by_hex = serde_json::json!({ "images": &digest[7..9], "unsigned": true });
    set_policy(serde_json::json!([by_name, by_hex, signed_by_the_fleet]));
    assert!(starts(&[], "by-name"));
    assert!(!starts(&[], "by-digest") && !starts(&[], "by-prefix"));
}

#[test]
fn what_a_container_writes_goes_where_it_was_asked_to() {
    let stand = stand_with_image();
    // A run root in RAM, whatever the stand's is.
    let ram = tempfile::tempdir_in("/dev/shm").unwrap();
    let in_ram = |args: &[&str]| {
        let mut command = stand.punnet(&["--run-root"]);
        command.arg(ram.path()).args(args);
        command
    };
    for (layer, at) in [
        ("ram", ram.path().join("containers/one/layer/upper/new")),
        ("copy", stand.path().join("data/containers/one/rootfs/new")),
        ("disk", stand.path().join("data/containers/one/upper/new")),
    ] {
        ok(&mut in_ram(&[
            "run",
            "--detach",
            "--name",
            "one",
            "--writable-layer",
            layer,
            "hello",
        ]));
        let shown = json_of(&mut in_ram(&["ps", "--all", "--json"])).unwrap();
        let pid = shown[0]["pid"].as_i64().unwrap();
        std::fs::write(format!("/proc/{pid}/root/new"), "x").unwrap();
        assert_eq!(std::fs::read_to_string(&at).unwrap(), "x", "{layer}");
        // It is there again after a stop, and after a reboot unless it was in RAM.
        ok(&mut in_ram(&["stop", "one"]));
        ok(&mut in_ram(&["start", "one"]));
        assert!(at.exists(), "{layer}");
        ok(&mut in_ram(&["stop", "one"]));
        std::fs::remove_dir_all(ram.path().join("containers")).unwrap();
        ok(&mut in_ram(&["start", "one"]));
        assert_eq!(at.exists(), layer != "ram", "{layer}");
        ok(&mut in_ram(&["rm", "--force", "one"]));
        assert!(!at.exists());
        ok(&mut stand.punnet(&["verify"]));
    }
    // A copy may be read-only as well, and what is no RAM is not taken for it.
    ok(&mut in_ram(&[
        "run",
        "--rm",
        "--read-only",
        "--writable-layer",
        "copy",
        "hello",
        "--once",
    ]));
    let elsewhere = tempfile::tempdir_in("/var/tmp").unwrap();
    let mut on_disk = stand.punnet(&["--run-root"]);
    on_disk
        .arg(elsewhere.path())
        .args(["run", "--rm", "--writable-layer", "ram", "hello", "--once"]);
    let complaint = fails(&mut on_disk, 125);
    assert!(complaint.contains("not in RAM"), "{complaint}");
}

/// punnet on a kernel whose first fsopen(2) in a process fails so, by strace(1) with these options, and whose list of file systems has no overlay.
fn without_overlayfs(stand: &Stand, tracing: &[&str], error: &str, args: &[&str]) -> Command {
    let listed = std::fs::read_to_string("/proc/filesystems").unwrap();
    let others: Vec<&str> = listed
        .lines()
        .filter(|line| !line.ends_with("\toverlay"))
        .collect();
    let list = stand.path().join("filesystems");
    std::fs::write(&list, others.join("\n")).unwrap();
    let punnet = stand.punnet(args);
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "sh",
            "-c",
            "mount --bind \"$0\" /proc/filesystems && exec \"$@\"",
        ])
        .arg(&list)
        .arg("strace")
        .args(tracing)
        .args(["-qqq", "-o", "/dev/null", "-e", "trace=fsopen", "-e"])
        .arg(format!("inject=fsopen:error={error}:when=1"))
        .arg(punnet.get_program())
        .args(punnet.get_args());
    command
}

#[test]
fn a_kernel_without_overlayfs_gets_a_copy_and_says_so() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: only root can put another list in the place of /proc/filesystems");
        return;
    }
    let stand = stand_with_image();
    // The first call is the question whether there is one; that of the container's process would be its root.
    let run = ["run", "--name", "one", "hello", "--once"];
    let ran = output(&mut without_overlayfs(&stand, &[], "ENODEV", &run));
    let (greeting, said) = (
        String::from_utf8(ran.stdout).unwrap(),
        String::from_utf8(ran.stderr).unwrap(),
    );
    assert!(greeting.contains("hello from a scratch container"), "{said}");
    assert!(
        said.contains("this kernel has no overlayfs") && said.contains("a copy"),
        "{said}"
    );
    assert!(stand.path().join("data/containers/one/rootfs/hello").is_file());
    assert_eq!(ok(&mut stand.punnet(&["verify"])), "");
    // Where it is there and refused, the error says what does not need it.
    let run = ["run", "--rm", "--writable-layer", "disk", "hello", "--once"];
    let refused = fails(&mut without_overlayfs(&stand, &["-f"], "EPERM", &run), 125);
    assert!(
        refused.contains("type overlay: EPERM") && refused.contains("--writable-layer copy"),
        "{refused}"
    );
}

#[test]
fn an_ordinary_user_whom_overlayfs_is_refused_gets_a_copy_and_is_told() {
    let bench = Bench::ordinary();
    let text =
        "FROM scratch\nCOPY --chmod=755 busybox /bin/busybox\nCMD [\"/bin/busybox\", \"echo\", \"here\"]\n";
    ok(&mut bench.build(text, &["--quiet", "--tag", "app"]));
    for (error, why) in [
        ("EPERM", "refuses overlayfs to the containers of an ordinary user"),
        ("ENODEV", "this kernel has no overlayfs"),
    ] {
        // The first process that is made asks the kernel; the second is the container's.
        let inject = format!("inject=clone3:error={error}:when=1");
        let strace = [
            "strace",
            "-qqq",
            "-o",
            "/dev/null",
            "-e",
            "trace=clone3",
            "-e",
            &inject,
        ];
        let ran = output(&mut bench.punnet_by(&strace, &["run", "--name", error, "app"]));
        let said = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(String::from_utf8(ran.stdout).unwrap(), "here\n", "{said}");
        assert!(
            said.contains(why) && said.contains("a copy of the image's files"),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
        let copy = format!("data/containers/{error}/rootfs/bin/busybox");
        assert!(bench.path(&copy).is_file());
    }
    let ran = output(&mut bench.punnet_by(&[], &["run", "--rm", "app"]));
    assert!(ran.status.success() && ran.stderr.is_empty(), "{ran:?}");
}
