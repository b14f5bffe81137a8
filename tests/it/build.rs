//! `punnet build`: steps that run, as root and as an ordinary user, and what is left when they fail or are stopped.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Lines, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{fails, ok, output};
use xtask::process::wait_for;
use xtask::registry::{DockerRegistry, Door};

/// The beginning of a Containerfile whose image has a shell and its programs.
const SHELL: &str = "FROM scratch AS shell\nCOPY --chmod=755 busybox /bin/busybox\nENV PATH=/bin\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n\
     RUN busybox --install -s /bin\n";

/// A user who is nobody else on the machine.
pub const ORDINARY_UID: u32 = 54_321;

/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(45);

/// A data root, a run root and a context with a static busybox.
pub struct Bench {
    folder: TempDir,
    is_ordinary: bool,
}

impl Bench {
    /// For the user who runs the tests.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["context", "data", "run", "home"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let busybox = ok(Command::new("sh").args(["-c", "command -v busybox"]));
        fs::copy(busybox.trim(), folder.path().join("context/busybox")).unwrap();
        Self {
            folder,
            is_ordinary: !geteuid().is_root(),
        }
    }

    /// The same for a user without rights: another one than root when the tests run as root.
    pub fn ordinary() -> Self {
        let mut bench = Self::new();
        if geteuid().is_root() {
            let program = bench.path("punnet");
            fs::copy(env!("CARGO_BIN_EXE_punnet"), &program).unwrap();
            fs::set_permissions(bench.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
            for name in ["data", "run", "home"] {
                std::os::unix::fs::chown(bench.path(name), Some(ORDINARY_UID), Some(ORDINARY_UID)).unwrap();
            }
        }
        bench.is_ordinary = true;
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn punnet(&self, args: &[&str]) -> Command {
        self.punnet_by(&[], args)
    }

    /// The same, executed by another program.
    pub fn punnet_by(&self, by: &[&str], args: &[&str]) -> Command {
        let mut words: Vec<OsString> = Vec::new();
        let is_other = self.is_ordinary && geteuid().is_root();
        if is_other {
            let id = ORDINARY_UID.to_string();
            words.extend(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"].map(OsString::from));
        }
        words.extend(by.iter().map(OsString::from));
        words.push(match is_other {
            true => self.path("punnet").into(),
            false => env!("CARGO_BIN_EXE_punnet").into(),
        });
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .args(args)
            .env("PUNNET_DATA_ROOT", self.path("data"))
            .env("PUNNET_RUN_ROOT", self.path("run"))
            .env("HOME", self.path("home"))
            .env_remove("SOURCE_DATE_EPOCH");
        command
    }

    /// `punnet build` of this text with these options.
    pub fn build(&self, text: &str, options: &[&str]) -> Command {
        let file = self.path("Containerfile");
        fs::write(&file, text).unwrap();
        let mut command = self.punnet(&["build"]);
        command.args(options).arg("--file").arg(file);
        command.arg(self.path("context"));
        command
    }

    /// What builds have left behind while none runs.
    pub fn left(&self) -> Vec<PathBuf> {
        let work = fs::read_dir(self.path("data/build/work")).unwrap();
        let states = fs::read_dir(self.path("run/oci")).into_iter().flatten();
        work.chain(states).map(|entry| entry.unwrap().path()).collect()
    }

    /// The unpacked tree of an image.
    pub fn rootfs(&self, digest: &str) -> PathBuf {
        let hex = digest.trim().strip_prefix("sha256:").unwrap();
        self.path("data/store/images").join(hex).join("rootfs")
    }

    /// Its blobs as an OCI layout.
    fn layout(&self, digest: &str) -> PathBuf {
        self.rootfs(digest).with_file_name("layout")
    }
}

/// Paths below a folder, without the shell's programs.
fn paths_below(root: &Path) -> BTreeSet<String> {
    let found = ok(Command::new("find")
        .arg(root)
        .args(["-mindepth", "1", "-printf", "%P %y %m %l\\n"]));
    let own = |line: &&str| !line.starts_with("bin/");
    found.lines().filter(own).map(str::to_owned).collect()
}

const STEPS: &str = "ARG WHO=nobody\nENV GREETING=\"hello $WHO\"\nWORKDIR /work\n\
    RUN echo \"$GREETING $WHO $PWD\" > said; mkdir -p gone/below kept/below; touch gone/file kept/file kept/below/file\n\
    RUN rm -r gone && rm -r kept && mkdir kept && touch kept/new && ln said again && ln -s said soft && chmod 600 said\n\
    RUN <<EOF\n#!/bin/busybox sh\n# a script of its own\nreadlink /proc/self/exe > script\necho \"$0\" >> script\nEOF\n\
    RUN <<EOF\ncat > two <<INNER\n1\nINNER\necho 2 >> two\nEOF\n\
    RUN [\"busybox\", \"touch\", \"exec form $WHO\"]\nRUN true\nCMD [\"cat\", \"/work/said\"]\n";

#[track_caller]
fn check_steps(bench: &Bench) {
    let text = format!("{SHELL}{STEPS}");
    let options = ["--tag", "steps", "--build-arg", "WHO=you"];
    let first = output(&mut bench.build(&text, &options));
    let progress = String::from_utf8_lossy(&first.stderr).into_owned();
    assert!(first.status.success(), "{progress}");
    assert!(progress.contains("STEP 9/15: RUN echo"), "{progress}");
    let digest = String::from_utf8(first.stdout).unwrap();
    assert_eq!(
        ok(&mut bench.punnet(&["run", "--rm", "steps"])),
        "hello you you /work\n"
    );
    let root = bench.rootfs(&digest);
    let read = |name: &str| fs::read_to_string(root.join("work").join(name)).unwrap();
    assert_eq!(read("script"), "/bin/busybox\n/.punnet-script\n");
    assert_eq!(read("two"), "1\n2\n");
    let names: BTreeSet<String> = paths_below(&root)
        .into_iter()
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();
    // What steps have seen of the host is not in the image: no /proc, /sys, /dev and no /etc/resolv.conf.
    let want = [
        "bin",
        "work",
        "work/again",
        "work/exec",
        "work/kept",
        "work/kept/new",
        "work/said",
        "work/script",
        "work/soft",
        "work/two",
    ];
    assert_eq!(names, want.map(String::from).into());
    // umoci reads the same out of the layers: whiteouts, opaque directories, hard links.
    let unpacked = bench.path("unpacked");
    let layout = format!("{}:latest", bench.layout(&digest).display());
    ok(Command::new("umoci")
        .args(["unpack", "--rootless", "--image", &layout])
        .arg(&unpacked));
    assert_eq!(paths_below(&unpacked.join("rootfs")), paths_below(&root));
    let inode = |name: &str| {
        fs::metadata(unpacked.join("rootfs/work").join(name))
            .unwrap()
            .ino()
    };
    assert_eq!(inode("said"), inode("again"));
    // Nothing is done again, until it is asked for; and then it comes to the same.
    let again = output(&mut bench.build(&text, &options));
    let progress = String::from_utf8_lossy(&again.stderr).into_owned();
    assert_eq!(String::from_utf8_lossy(&again.stdout), digest);
    assert_eq!(progress.matches("--> done before").count(), 7, "{progress}");
    let anew = output(&mut bench.build(&text, &[&options[..], &["--no-cache"]].concat()));
    let progress = String::from_utf8_lossy(&anew.stderr).into_owned();
    assert_eq!(String::from_utf8_lossy(&anew.stdout), digest, "{progress}");
    assert!(!progress.contains("--> done before"), "{progress}");
    assert_eq!(bench.left(), Vec::<PathBuf>::new());
    let pruned: Value = serde_json::from_str(&ok(&mut bench.punnet(&["prune", "--json"]))).unwrap();
    assert!(pruned["build_steps"].as_u64().unwrap() >= 7, "{pruned}");
    ok(&mut bench.punnet(&["verify", "steps"]));
}

#[test]
fn steps_run_and_their_changes_are_layers() {
    check_steps(&Bench::new());
}

#[test]
fn steps_of_an_ordinary_user_run_and_their_changes_are_layers() {
    check_steps(&Bench::ordinary());
}

#[test]
fn an_image_is_built_on_another_with_or_without_its_layers() {
    let bench = Bench::new();
    ok(&mut bench.build(SHELL, &["--quiet", "--tag", "shell:1"]));
    let text = "FROM shell:1\nRUN echo 1 > /one && rm /bin/vi\n";
    let digest = ok(&mut bench.build(text, &["--quiet", "--tag", "derived"]));
    let root = bench.rootfs(&digest);
    assert!(
        root.join("one").exists() && root.join("bin/cat").is_symlink() && !root.join("bin/vi").is_symlink()
    );
    // Another data root has only the tree of the base.
    let archive = bench.path("shell.tar");
    ok(bench.punnet(&["save", "shell:1", "--output"]).arg(&archive));
    let other = Bench::new();
    ok(other.punnet(&["load"]).arg(&archive));
    let digest = ok(&mut other.build(text, &["--quiet", "--tag", "derived"]));
    assert_eq!(paths_below(&other.rootfs(&digest)), paths_below(&root));
    let config: Value = serde_json::from_str(&ok(&mut other.punnet(&["inspect", "derived"]))).unwrap();
    assert!(config.to_string().contains("PATH=/bin"), "{config}");
    let options = ["--quiet", "--pull", "never"];
    let complaint = fails(&mut bench.build("FROM missing:2\n", &options), 1);
    assert!(complaint.contains(":1:1: no image `missing:2`"), "{complaint}");
}

#[test]
fn a_base_that_is_not_here_is_fetched_for_the_platform_that_is_built() {
    let registry = DockerRegistry::start(Door::Open).unwrap();
    let bench = Bench::new();
    let archive = bench.path("shell.oci.tar");
    let name = format!("{}/shell:1", registry.address);
    let own = punnet_images::platform::host();
    let options = [
        "--quiet",
        &format!("--platform={own},linux/loong9"),
        "--output",
        archive.to_str().unwrap(),
    ];
    let text = "FROM scratch\nARG TARGETARCH\nCOPY --chmod=755 busybox /bin/busybox\nENV FOR=$TARGETARCH\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n";
    ok(&mut bench.build(text, &options));
    ok(bench
        .punnet(&["push", "--quiet", "--insecure", "--from"])
        .arg(&archive)
        .arg(&name));
    let fresh = Bench::new();
    let text = "ARG BASE\nFROM $BASE\nRUN echo $FOR > /for\n";
    let base = format!("--build-arg=BASE={name}");
    let digest = ok(&mut fresh.build(text, &["--quiet", "--insecure", &base]));
    let built_for = fs::read_to_string(fresh.rootfs(&digest).join("for")).unwrap();
    assert_eq!(built_for.trim(), own.architecture);
    // The other platform's base is another image; the name stays with this board's.
    let text = "ARG BASE\nFROM $BASE\nCOPY busybox /copy\n";
    let options = ["--quiet", "--insecure", &base, "--platform=linux/loong9"];
    let digest = ok(&mut fresh.build(text, &options));
    let config = fs::read_to_string(fresh.rootfs(&digest).with_file_name("config.json")).unwrap();
    assert!(config.contains("FOR=loong9"), "{config}");
    let inspected = ok(&mut fresh.punnet(&["inspect", &name]));
    assert!(inspected.contains(&own.architecture), "{inspected}");
    let missing = format!("FROM {}/nothing\n", registry.address);
    let complaint = fails(&mut fresh.build(&missing, &["--quiet", "--insecure"]), 1);
    assert!(complaint.contains(":1:1:"), "{complaint}");
}

#[test]
fn users_and_owners_are_those_of_the_image() {
    if !geteuid().is_root() {
        println!("SKIPPED: an ordinary user has only one id to give");
        return;
    }
    let bench = Bench::new();
    let text = format!(
        "{SHELL}COPY <<EOF /etc/passwd\napp:x:1234:1235::/home/app:/bin/sh\nEOF\n\
         RUN mkdir -p /home/app && chown 1234:1235 /home/app && chmod 2750 /home/app\n\
         USER app\nWORKDIR /home/app/sub\nRUN id -u > /home/app/id && echo $HOME >> /home/app/id && ! touch /refused\n\
         COPY --chown=app busybox .\n"
    );
    let digest = ok(&mut bench.build(&text, &["--quiet"]));
    let root = bench.rootfs(&digest);
    assert_eq!(
        fs::read_to_string(root.join("home/app/id")).unwrap(),
        "1234\n/home/app\n"
    );
    for (path, mode) in [
        ("home/app", 0o2750),
        ("home/app/sub", 0o755),
        ("home/app/sub/busybox", 0o755),
    ] {
        let found = fs::metadata(root.join(path)).unwrap();
        assert_eq!(
            (found.uid(), found.gid(), found.mode() & 0o7777),
            (1234, 1235, mode),
            "{path}"
        );
    }
}

#[test]
fn a_failed_step_is_told_with_its_place_and_leaves_nothing() {
    let bench = Bench::new();
    let text = format!("{SHELL}\n  RUN echo loud; echo on both >&2; exit 7\n");
    let failed = output(&mut bench.build(&text, &["--tag", "failed"]));
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert_eq!(failed.status.code(), Some(1), "{said}");
    assert_eq!(failed.stdout, b"");
    for part in [
        "loud\n",
        "on both\n",
        "Containerfile:7:3: the command ended with exit status 7",
    ] {
        assert!(said.contains(part), "{said}");
    }
    // Quiet, the step is heard only because it failed.
    let quiet = output(&mut bench.build(&text, &["--quiet"]));
    let said = String::from_utf8_lossy(&quiet.stderr).into_owned();
    assert!(said.starts_with("loud\non both\npunnet: "), "{said}");
    let missing = fails(
        &mut bench.build(&format!("{SHELL}RUN [\"/not/there\"]\n"), &["--quiet"]),
        1,
    );
    assert!(
        missing.contains(":6:1:") && missing.contains("/not/there"),
        "{missing}"
    );
    assert_eq!(ok(&mut bench.punnet(&["images", "--quiet"])), "");
    assert_eq!(bench.left(), Vec::<PathBuf>::new());
}

/// Starts a build whose step says that it runs, and waits until it does.
fn start_long_build(bench: &Bench) -> (Child, Lines<BufReader<ChildStderr>>) {
    let text = format!("{SHELL}RUN trap '' INT TERM; echo running; sleep 1000\n");
    let mut command = bench.build(&text, &["--tag", "long"]);
    let mut child = command
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let running = lines.by_ref().map(Result::unwrap).find(|line| line == "running");
    assert!(running.is_some(), "the step did not run");
    (child, lines)
}

/// Processes whose root is a step of this bench.
fn steps_running(bench: &Bench) -> usize {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let is_step = |entry: &fs::DirEntry| {
        let cgroup = fs::read_to_string(entry.path().join("mountinfo")).unwrap_or_default();
        let own = bench.path("data/build").display().to_string();
        cgroup
            .lines()
            .any(|line| line.contains(" / / ") && line.contains(&own))
    };
    all.filter(is_step).count()
}

#[test]
fn a_stopped_build_ends_its_step_and_removes_its_folder() {
    let bench = Bench::new();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (mut child, said) = start_long_build(&bench);
        assert!(steps_running(&bench) > 0);
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1));
        let last = said.map(Result::unwrap).last().unwrap();
        assert!(last.contains(&format!(":6:1: interrupted by {signal}")), "{last}");
        assert_eq!(bench.left(), Vec::<PathBuf>::new(), "{signal}");
        assert_eq!(steps_running(&bench), 0, "{signal}");
    }
}

#[test]
fn what_a_killed_build_leaves_goes_with_the_next_build_or_prune() {
    let bench = Bench::new();
    for next in ["build", "prune"] {
        let (mut child, _said) = start_long_build(&bench);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!bench.left().is_empty());
        match next {
            "build" => drop(ok(&mut bench.build("FROM scratch\n", &["--quiet"]))),
            _ => drop(ok(&mut bench.punnet(&["prune"]))),
        }
        assert_eq!(bench.left(), Vec::<PathBuf>::new(), "{next}");
        assert_eq!(steps_running(&bench), 0, "{next}");
    }
}

/// A file system in RAM that goes with this value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, options: &str) -> Self {
        ok(Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(&at));
        Self(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        output(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

#[test]
fn what_a_power_cut_leaves_of_a_step_goes_with_the_next_prune() {
    let bench = Bench::new();
    // Names are on the disk before data: of the file with the container's name there is nothing in it.
    let work = bench.path("data/build/work");
    fs::create_dir_all(work.join("1234/run-1")).unwrap();
    fs::write(work.join("1234/container"), "").unwrap();
    fs::write(work.join("1234.lock"), "").unwrap();
    ok(&mut bench.punnet(&["prune"]));
    assert_eq!(bench.left(), Vec::<PathBuf>::new());
}

#[test]
fn a_full_disk_ends_a_build_in_words_and_the_next_one_goes_on() {
    if !geteuid().is_root() {
        println!("SKIPPED: mounting a small disk needs root");
        return;
    }
    let bench = Bench::new();
    let _disk = SmallDisk::mount(bench.path("data"), "size=16m");
    ok(&mut bench.build(SHELL, &["--quiet", "--tag", "shell"]));
    let noise = "dd if=/dev/urandom of=/noise bs=1M";
    let step = format!("FROM shell\nRUN {noise} count=100\n");
    let said = output(&mut bench.build(&step, &[]));
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    for part in [
        "No space left on device",
        ":2:1: the command ended with exit status 1",
    ] {
        assert!(said.contains(part), "{said}");
    }
    // What a step has written fits, and its layer does not.
    let layer = format!("FROM shell\nRUN {noise} count=7\n");
    let complaint = fails(&mut bench.build(&layer, &["--quiet"]), 1);
    assert!(
        complaint.contains("no space left") && complaint.contains("punnet prune"),
        "{complaint}"
    );
    let large = fs::File::create(bench.path("context/large")).unwrap();
    std::io::copy(
        &mut fs::File::open("/dev/urandom").unwrap().take(20 << 20),
        &mut &large,
    )
    .unwrap();
    let complaint = fails(&mut bench.build("FROM shell\nCOPY large /\n", &["--quiet"]), 1);
    assert!(complaint.contains("no space left"), "{complaint}");
    assert_eq!(bench.left(), Vec::<PathBuf>::new());
    ok(&mut bench.punnet(&["prune"]));
    ok(&mut bench.punnet(&["verify"]));
    ok(&mut bench.build(
        "FROM shell\nRUN echo 1 > /small\n",
        &["--quiet", "--tag", "small"],
    ));
}

#[test]
fn steps_have_the_devices_network_unless_told_otherwise() {
    let bench = Bench::new();
    let text = format!(
        "{SHELL}RUN ls /sys/class/net > /net; test -s /etc/resolv.conf && touch /resolv; true\nRUN --network=none cat /proc/net/dev > /none\n"
    );
    let own = ok(Command::new("ls").arg("/sys/class/net"));
    let root = bench.rootfs(&ok(&mut bench.build(&text, &["--quiet"])));
    assert_eq!(fs::read_to_string(root.join("net")).unwrap(), own);
    let has_resolver = fs::metadata("/etc/resolv.conf").is_ok_and(|found| found.len() > 0);
    assert_eq!(root.join("resolv").exists(), has_resolver);
    let interfaces = |text: &str| -> Vec<String> {
        let names = text.lines().filter_map(|line| line.split_once(':'));
        names.map(|(name, _)| name.trim().to_owned()).collect()
    };
    let none = fs::read_to_string(root.join("none")).unwrap();
    assert!(
        interfaces(&none).contains(&"lo".to_owned()) && none.lines().count() <= 4,
        "{none}"
    );
    let text = format!("{SHELL}RUN cat /proc/net/route > /routes; test ! -e /etc/resolv.conf\n");
    let root = bench.rootfs(&ok(&mut bench.build(&text, &["--quiet", "--network", "none"])));
    let routes = fs::read_to_string(root.join("routes")).unwrap();
    assert_eq!(routes.lines().count(), 1, "{routes}");
}

#[test]
fn several_platforms_are_an_index_and_the_store_gets_this_boards_image() {
    let bench = Bench::new();
    let archive = bench.path("all.oci.tar");
    let options = [
        "--json",
        "--tag=app",
        "--platform=linux/amd64,linux/arm64",
        "--platform=linux/arm/v7,linux/arm/v6",
        "--output",
        archive.to_str().unwrap(),
    ];
    let text = "FROM scratch\nARG TARGETARCH\nCOPY busybox /\nLABEL arch=$TARGETARCH\n";
    let said = ok(&mut bench.build(text, &options));
    let events: Vec<Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events.len(), 17, "{said}");
    assert_eq!(events[0]["of"], 16);
    let platforms: Vec<_> = events[16]["platforms"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["platform"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        platforms,
        ["linux/amd64", "linux/arm64/v8", "linux/arm/v7", "linux/arm/v6"]
    );
    let raw = ok(Command::new("skopeo")
        .args(["inspect", "--raw"])
        .arg(format!("oci-archive:{}", archive.display())));
    assert!(raw.contains("\"variant\":\"v6\""), "{raw}");
    let stored = ok(&mut bench.punnet(&["images", "--quiet"]));
    assert_eq!(stored.lines().count(), 1);
    let mine = format!("{:?}", events[16]["platforms"]);
    assert!(mine.contains(stored.trim()), "{stored} of {mine}");
}

#[test]
fn podman_loads_what_a_build_writes_for_docker() {
    if !geteuid().is_root() {
        println!("SKIPPED: podman needs root to load without a session");
        return;
    }
    let bench = Bench::new();
    let archive = bench.path("app.tar");
    let output = format!("--output=type=docker,dest={}", archive.display());
    let text = format!("{SHELL}LABEL is=ours\nUSER 7\nCMD [\"cat\"]\n");
    ok(&mut bench.build(&text, &["--quiet", "--tag", "example.test/app:1", &output]));
    let podman = |args: &[&str]| {
        let mut command = Command::new("podman");
        command.arg("--root").arg(bench.path("podman"));
        command.arg("--runroot").arg(bench.path("podman-run"));
        ok(command.args(["--storage-driver", "vfs"]).args(args))
    };
    podman(&["load", "--quiet", "--input", archive.to_str().unwrap()]);
    let told: Value = serde_json::from_str(&podman(&["image", "inspect", "example.test/app:1"])).unwrap();
    assert_eq!(told[0]["Labels"]["is"], "ours", "{told}");
    assert_eq!(told[0]["User"], "7");
    assert_eq!(told[0]["RootFS"]["Layers"].as_array().unwrap().len(), 2);
}

/// Fields of a configuration that both builders must set alike.
fn comparable(config: &Value) -> Value {
    let mut config = config["config"].clone();
    // Docker's fields have no place in OCI documents of the other builder.
    for name in ["Healthcheck", "Shell", "OnBuild"] {
        config.as_object_mut().unwrap().remove(name);
    }
    if let Some(labels) = config["Labels"].as_object_mut() {
        labels.retain(|name, _| !name.starts_with("io.buildah"));
    }
    config
}

#[test]
fn buildah_makes_the_same_configuration_and_files_of_the_same_containerfile() {
    if !geteuid().is_root() {
        println!("SKIPPED: buildah needs root to build without a session");
        return;
    }
    let bench = Bench::new();
    fs::create_dir(bench.path("context/dir")).unwrap();
    for name in ["a.txt", "b.txt", "c.md"] {
        fs::write(bench.path("context/dir").join(name), name).unwrap();
    }
    fs::write(bench.path("context/.dockerignore"), "**/*.md\n").unwrap();
    let text = "ARG BASE=scratch\nFROM $BASE AS one\nCOPY --chown=3:4 dir/*.txt /x/\nFROM $BASE\nARG V=1\nARG W=${V:-no}${X:+yes}\n\
        ENV A=\"a $V\" B=${W}\nENV A=$A-$B\nLABEL l.one=\"two words\" l.two=$A\nCOPY --from=one /x /y/\nCOPY --chmod=640 dir /z\nADD [\"dir/a.txt\", \"/z/q r\"]\n\
        WORKDIR /w\nWORKDIR sub\nUSER 5:6\nEXPOSE 80 53/udp\nVOLUME /data\nSTOPSIGNAL SIGINT\nENTRYPOINT [\"/e\", \"1\"]\nCMD c $A\n";
    let digest = ok(&mut bench.build(text, &["--quiet", "--build-arg", "V=7"]));
    let root = bench.path("buildah");
    let layout = bench.path("theirs");
    let storage = [
        "--root".into(),
        root.join("root"),
        "--runroot".into(),
        root.join("run"),
        "--storage-driver".into(),
        "vfs".into(),
    ];
    let mut command = Command::new("buildah");
    command.args(&storage).args([
        "build",
        "--quiet",
        "--isolation",
        "chroot",
        "--build-arg",
        "V=7",
        "--tag",
        "theirs",
        "--file",
    ]);
    ok(command
        .arg(bench.path("Containerfile"))
        .arg(bench.path("context")));
    let mut push = Command::new("buildah");
    push.args(&storage).args(["push", "--quiet", "theirs"]);
    ok(push.arg(format!("oci:{}:latest", layout.display())));
    let config = |layout: &Path, name: &str| -> Value {
        let image = format!("oci:{}{name}", layout.display());
        serde_json::from_str(&ok(Command::new("skopeo").args(["inspect", "--config", &image]))).unwrap()
    };
    let (theirs, ours) = (config(&layout, ":latest"), config(&bench.layout(&digest), ""));
    let mut theirs_config = comparable(&theirs);
    // buildah gives every image a PATH; Docker does so only for RUN.
    theirs_config["Env"]
        .as_array_mut()
        .unwrap()
        .retain(|pair| !pair.as_str().unwrap().starts_with("PATH="));
    assert_eq!(theirs_config, comparable(&ours));
    let unpacked = bench.path("unpacked");
    ok(Command::new("umoci")
        .args(["unpack", "--image", &format!("{}:latest", layout.display())])
        .arg(&unpacked));
    assert_eq!(
        paths_below(&unpacked.join("rootfs")),
        paths_below(&bench.rootfs(&digest))
    );
}

#[test]
fn a_disk_that_is_full_or_read_only_does_not_touch_what_runs() {
    if !geteuid().is_root() {
        println!("SKIPPED: mounting a small disk needs root");
        return;
    }
    let bench = Bench::new();
    let disk = SmallDisk::mount(bench.path("data"), "size=16m");
    ok(&mut bench.build(SHELL, &["--quiet", "--tag", "shell"]));
    let script = "echo kept > /kept; while :; do echo up; sleep 0.1; done";
    ok(&mut bench.punnet(&[
        "run",
        "--detach",
        "--name",
        "web",
        "--network",
        "none",
        "shell",
        "sh",
        "-c",
        script,
    ]));
    let lines = || ok(&mut bench.punnet(&["logs", "web"])).lines().count();
    let lives = |when: &str| {
        let before = lines();
        let goes_on = wait_for("the next line", PATIENCE, || Ok((lines() > before).then_some(())));
        goes_on.unwrap_or_else(|error| panic!("{when}: {error:#}"));
        let read = ok(&mut bench.punnet(&["exec", "web", "cat", "/kept"]));
        assert_eq!(read, "kept\n", "{when}");
        ok(&mut bench.punnet(&["verify"]));
    };
    lives("at first");
    // As full as it gets, and something more to take in.
    let mut fill = fs::File::create(bench.path("data/fill")).unwrap();
    let full = std::io::copy(&mut std::io::repeat(1), &mut fill).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    drop(fill);
    let complaint = fails(
        &mut bench.build("FROM scratch\nCOPY busybox /other\n", &["--quiet"]),
        1,
    );
    assert!(complaint.contains("no space left"), "{complaint}");
    lives("with the disk full");
    fs::remove_file(bench.path("data/fill")).unwrap();
    ok(Command::new("mount").args(["-o", "remount,ro"]).arg(&disk.0));
    for words in [&["tag", "shell", "other"][..], &["prune"]] {
        let complaint = fails(&mut bench.punnet(words), 1);
        assert!(complaint.contains("Read-only file system"), "{complaint}");
    }
    lives("with the disk read-only");
    ok(Command::new("mount").args(["-o", "remount,rw"]).arg(&disk.0));
    ok(&mut bench.punnet(&["rm", "--force", "web"]));
}
