//! The user's verbs on images and containers.

use std::process::Command;
use std::time::{Duration, Instant};

use xtask::process::wait_for;

use crate::support::{containers, fails, ok, output, stand, stand_with_image};

#[test]
fn an_image_is_built_run_and_removed() {
    let stand = stand_with_image();
    let shown = ok(&mut stand.punnet(&["images"]));
    assert!(shown.contains("hello:latest"), "{shown}");
    let greeting = ok(&mut stand.punnet(&["run", "--rm", "--env", "GREETING=servus", "hello", "--once"]));
    assert!(greeting.starts_with("servus: "), "{greeting}");
    assert!(containers(&stand).is_empty());
    ok(&mut stand.punnet(&["verify"]));
    ok(&mut stand.punnet(&["rmi", "hello"]));
    ok(&mut stand.punnet(&["prune"]));
    let objects = std::fs::read_dir(stand.path().join("data/store/objects")).unwrap();
    assert_eq!(
        objects
            .flatten()
            .map(|fan| std::fs::read_dir(fan.path()).unwrap().count())
            .sum::<usize>(),
        0
    );
}

#[test]
fn exit_codes_are_the_ones_docker_s_users_know() {
    let stand = stand_with_image();
    let code = |args: &[&str]| output(&mut stand.punnet(args)).status.code();
    assert_eq!(code(&["run", "--rm", "hello", "--exit", "7"]), Some(7));
    assert_eq!(
        code(&["run", "--rm", "--entrypoint", "/absent", "hello"]),
        Some(127)
    );
    assert_eq!(
        code(&["run", "--rm", "--entrypoint", "/proc", "hello"]),
        Some(126)
    );
    assert_eq!(code(&["run", "--rm", "--pull", "never", "absent"]), Some(125));
    assert_eq!(code(&["run", "--no-such-option"]), Some(2));
    assert_eq!(code(&["no-such-verb"]), Some(2));
    assert_eq!(code(&["--version"]), Some(0));
    assert!(containers(&stand).is_empty(), "what failed to run stays nowhere");
}

#[test]
fn a_suspended_container_is_not_taken_for_an_ended_one() {
    let stand = stand_with_image();
    ok(&mut stand.punnet(&["run", "--detach", "--name", "web", "hello"]));
    let id = containers(&stand)[0]["id"].as_str().unwrap().to_owned();
    let oci = stand.path().join("run/oci").display().to_string();
    let paused = output(&mut stand.punnet(&["oci", "--root", &oci, "pause", &id]));
    let complaint = String::from_utf8_lossy(&paused.stderr).into_owned();
    if complaint.contains("no cgroup") {
        println!("SKIPPED: nothing to suspend it with: {complaint}");
        return;
    }
    assert!(paused.status.success(), "{complaint}");
    assert_eq!(containers(&stand)[0]["status"], "paused");
    for words in [&["start", "web"][..], &["rm", "web"]] {
        let complaint = output(&mut stand.punnet(words));
        assert!(!complaint.status.success(), "{words:?}");
    }
    let complaint = fails(&mut stand.punnet(&["exec", "web", "/hello"]), 125);
    assert!(complaint.contains("paused"), "{complaint}");
    ok(&mut stand.punnet(&["oci", "--root", &oci, "resume", &id]));
    assert_eq!(containers(&stand)[0]["status"], "running");
    ok(&mut stand.punnet(&["stop", "web"]));
}

#[test]
fn a_detached_container_lives_by_itself() {
    let stand = stand_with_image();
    ok(&mut stand.punnet(&["run", "--detach", "--name", "web", "hello"]));
    assert_eq!(containers(&stand)[0]["status"], "running");
    let complaint = fails(
        &mut stand.punnet(&["run", "--detach", "--name", "web", "hello"]),
        125,
    );
    assert!(complaint.contains("web exists already"), "{complaint}");
    assert_eq!(
        ok(&mut stand.punnet(&["exec", "web", "/hello", "--once"]))
            .lines()
            .count(),
        1
    );
    let complaint = fails(&mut stand.punnet(&["rm", "web"]), 1);
    assert!(complaint.contains("running"), "{complaint}");
    // It runs, and says something when it gets a processor.
    wait_for("the first line", Duration::from_secs(60), || {
        let said = ok(&mut stand.punnet(&["logs", "web"]));
        Ok(said.contains("process 1").then_some(()))
    })
    .unwrap();
    let began = Instant::now();
    ok(&mut stand.punnet(&["stop", "web"]));
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "the stop signal has not reached the process"
    );
    assert_eq!(containers(&stand)[0]["status"], "stopped");
    let complaint = fails(&mut stand.punnet(&["exec", "web", "/hello"]), 125);
    assert!(complaint.contains("not running"), "{complaint}");
    ok(&mut stand.punnet(&["start", "web"]));
    assert!(
        ok(&mut stand.punnet(&["logs", "web"])).contains("told to end"),
        "the log goes on over a restart"
    );
    ok(&mut stand.punnet(&["rm", "--force", "web"]));
    assert!(containers(&stand).is_empty());
    stand.remove().unwrap();
}

#[test]
fn a_writable_layer_belongs_to_one_container_and_read_only_has_none() {
    let stand = stand_with_image();
    let volume = stand.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let mount = format!("{}:/data", volume.display());
    ok(&mut stand.punnet(&["run", "--detach", "--name", "one", "--volume", &mount, "hello"]));
    let root = |name: &str| {
        let pid = containers(&stand)
            .iter()
            .find(|found| found["name"] == name)
            .unwrap()["pid"]
            .as_i64()
            .unwrap();
        std::path::PathBuf::from(format!("/proc/{pid}/root"))
    };
    std::fs::write(root("one").join("new"), "x").unwrap();
    std::fs::write(root("one").join("data/shared"), "y").unwrap();
    assert!(volume.join("shared").exists());
    ok(&mut stand.punnet(&["run", "--detach", "--name", "two", "--read-only", "hello"]));
    assert!(!root("two").join("new").exists());
    let error = std::fs::write(root("two").join("new"), "x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    ok(&mut stand.punnet(&["rm", "--force", "one", "two"]));
    ok(&mut stand.punnet(&["verify"]));
}

#[test]
fn an_image_for_another_cpu_or_system_is_refused_in_one_sentence() {
    let stand = stand();
    for (platform, words) in [("linux/riscv64", "riscv64"), ("windows/amd64", "windows")] {
        let layout = stand.path().join(platform.replace('/', "-"));
        stand.build_hello_for(platform, &layout, &[]).unwrap();
        let complaint = fails(stand.punnet(&["load"]).arg(&layout), 1);
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
        assert!(
            complaint.contains(words) && complaint.contains("linux/"),
            "{complaint}"
        );
    }
    assert!(ok(&mut stand.punnet(&["images", "--quiet"])).is_empty());
}

#[test]
fn what_cannot_be_limited_is_not_run_without_the_limit() {
    let stand = stand_with_image();
    let run = output(&mut stand.punnet(&["run", "--rm", "--memory", "8m", "hello", "--once"]));
    let complaint = String::from_utf8_lossy(&run.stderr);
    // Where the host has the controller the limit holds; where not, the reason and the remedy are named.
    assert!(
        run.status.success() || (complaint.contains("memory") && run.status.code() == Some(125)),
        "{complaint}"
    );
}

#[test]
fn damage_in_the_store_is_found_and_named() {
    let stand = stand_with_image();
    let images = stand.path().join("data/store/images");
    let image = std::fs::read_dir(&images)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let file = image.join("rootfs/hello");
    let length = file.metadata().unwrap().len();
    std::fs::File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(0)
        .unwrap();
    let shown = output(&mut stand.punnet(&["verify"]));
    assert_eq!(shown.status.code(), Some(1));
    let text = String::from_utf8_lossy(&shown.stdout);
    assert!(
        text.contains(&format!("hello: has 0 bytes instead of {length}")),
        "{text}"
    );
}

#[test]
fn images_survive_save_and_load_with_their_digest() {
    let stand = stand_with_image();
    let digest = ok(&mut stand.punnet(&["images", "--quiet"]));
    for (format, name) in [("oci-archive", "a.tar"), ("oci-dir", "a-dir")] {
        let path = stand.path().join(name);
        ok(stand
            .punnet(&["save", "--format", format, "--output"])
            .arg(&path)
            .arg("hello"));
        ok(&mut stand.punnet(&["rmi", "hello"]));
        assert_eq!(
            ok(stand
                .punnet(&["load", "--tag", "hello", "--keep-blobs"])
                .arg(&path)),
            digest
        );
    }
    let path = stand.path().join("docker.tar");
    ok(stand
        .punnet(&["save", "--format", "docker-archive", "--output"])
        .arg(&path)
        .arg("hello"));
    ok(&mut stand.punnet(&["rmi", "hello"]));
    ok(stand.punnet(&["load"]).arg(&path));
    assert!(
        ok(&mut stand.punnet(&["run", "--rm", "hello", "--once"])).contains("hello from a scratch container")
    );
}

#[test]
fn help_is_complete_and_completion_is_a_script() {
    let stand = stand();
    let overview = ok(&mut stand.punnet(&["--help"]));
    for verb in ["run", "build", "agent", "logs", "oci"] {
        assert!(overview.contains(&format!("\n  {verb} ")), "{verb} is missing");
    }
    assert!(ok(&mut stand.punnet(&["run", "--help"])).contains("Exit status"));
    let script = ok(&mut stand.punnet(&["completion", "bash"]));
    let checked = std::process::Command::new("bash")
        .args(["-n", "-c", &script])
        .status()
        .unwrap();
    assert!(checked.success());
}

#[test]
fn a_link_named_punnet_oci_is_the_oci_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("punnet-oci");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_punnet"), &link).unwrap();
    let version = ok(Command::new(&link).arg("--version"));
    assert!(version.starts_with("punnet-oci version"), "{version}");
    let mut list = Command::new(&link);
    list.arg("--root")
        .arg(folder.path())
        .args(["list", "--format", "json"]);
    assert_eq!(ok(&mut list).trim(), "[]");
}

#[test]
fn source_date_epoch_decides_the_digest_and_must_be_a_number() {
    let stand = stand_with_image();
    let build = |epoch: &str| {
        let mut command = stand.punnet(&["build"]);
        command
            .arg(stand.path().join("hello"))
            .env("SOURCE_DATE_EPOCH", epoch);
        command
    };
    let [first, again, other] = ["1000", "1000", "2000"].map(|epoch| ok(&mut build(epoch)));
    assert!(first.starts_with("sha256:"), "{first}");
    assert_eq!(first, again);
    assert_ne!(first, other);
    let complaint = fails(&mut build("yesterday"), 2);
    assert!(complaint.contains("SOURCE_DATE_EPOCH"), "{complaint}");
}

#[test]
fn a_full_disk_stops_a_build_and_leaves_the_images_that_were_there() {
    let stand = stand_with_image();
    let before = ok(&mut stand.punnet(&["images", "--json"]));
    let context = stand.path().join("hello");
    // More than any disk's reserve: the limit of a file's size stands for the full disk's error on every machine (setrlimit(2), EFBIG).
    let mut command = Command::new("sh");
    let punnet = stand.punnet(&["build", "--quiet", "--no-cache", "--tag", "second"]);
    command.args(["-c", "ulimit -f 100; trap '' XFSZ; exec \"$@\"", "sh"]);
    command
        .arg(punnet.get_program())
        .args(punnet.get_args())
        .arg(context);
    let complaint = fails(&mut command, 1);
    assert!(complaint.contains("cannot write"), "{complaint}");
    assert_eq!(ok(&mut stand.punnet(&["images", "--json"])), before);
    ok(&mut stand.punnet(&["verify"]));
}
