//! What a container of `punnet run` may do when nobody says anything, and what opens it.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A device with an image named `box` that is busybox and nothing else, in a folder that everybody may enter.
struct Device {
    folder: tempfile::TempDir,
    /// Whom commands run as, when not as the caller.
    user: Option<u32>,
    /// Lines of /etc/subuid and /etc/subgid while they run.
    ranges: String,
}

/// nobody of Debian.
const NOBODY: u32 = 65534;
/// Docker's default capabilities: CAP_CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD,
/// AUDIT_WRITE, SETFCAP.
const DOCKER_CAPABILITIES: u64 = 0xa804_25fb;

impl Device {
    fn new(user: Option<u32>, ranges: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let device = Self {
            folder,
            user,
            ranges: ranges.into(),
        };
        let context = device.path("context");
        std::fs::create_dir(&context).unwrap();
        std::fs::write(
            context.join("Containerfile"),
            "FROM scratch\nCOPY busybox /bin/busybox\nCOPY Containerfile /data\nENV PATH=/bin\n",
        )
        .unwrap();
        for (from, to) in [
            ("/bin/busybox", context.join("busybox")),
            (env!("CARGO_BIN_EXE_punnet"), device.path("punnet")),
        ] {
            let status = Command::new("install")
                .args(["-m", "755", from])
                .arg(to)
                .status()
                .unwrap();
            assert!(status.success());
        }
        for name in ["subuid", "subgid"] {
            std::fs::write(device.path(name), &device.ranges).unwrap();
        }
        std::fs::set_permissions(device.folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        if let Some(user) = user {
            chown(device.folder.path(), Some(user), Some(user)).unwrap();
        }
        device.ok(&["build", "--tag", "box", context.to_str().unwrap()]);
        device
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Exit code, output, complaints of a verb, with the ranges of this device in /etc.
    fn call(&self, words: &[&str]) -> (Option<i32>, String, String) {
        let script = "for name in subuid subgid; do mount --bind $DEVICE/$name /etc/$name || exit 99; done; exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]);
        if let Some(user) = self.user.map(|user| user.to_string()) {
            command.args([
                "setpriv",
                "--reuid",
                &user,
                "--regid",
                &user,
                "--clear-groups",
                "--inh-caps=-all",
            ]);
        }
        command.arg(self.path("punnet")).args(words);
        for (name, folder) in [
            ("PUNNET_DATA_ROOT", "data"),
            ("PUNNET_RUN_ROOT", "run"),
            ("XDG_RUNTIME_DIR", "xdg"),
        ] {
            command.env(name, self.path(folder));
        }
        let output = command
            .env("DEVICE", self.folder.path())
            .current_dir("/")
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        let (code, out, err) = self.call(words);
        assert_eq!(code, Some(0), "{words:?}: {out}{err}");
        out
    }

    /// What a shell in a new container prints.
    #[track_caller]
    fn sh(&self, options: &[&str], script: &str) -> String {
        let words = [&["run", "--rm"], options, &["box", "busybox", "sh", "-c", script]].concat();
        self.ok(&words)
    }
}

/// Says so, and true, when an ordinary user runs the tests: the tests here change /etc in a namespace of their own.
fn not_root(test: &str) -> bool {
    let other = !nix::unistd::geteuid().is_root();
    if other {
        println!("SKIPPED: {test}: needs root");
    }
    other
}

fn field<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    line.unwrap_or_else(|| panic!("no {name} in {text}"))
}

#[test]
fn a_container_that_asks_for_nothing_is_shut_off() {
    if not_root("a_container_that_asks_for_nothing_is_shut_off") {
        return;
    }
    let device = Device::new(None, "");
    let script = "cat /proc/self/status; for kind in pid mnt uts ipc net cgroup; do readlink /proc/self/ns/$kind; done
        cat /proc/kcore /proc/keys /proc/timer_list | wc -c; ls /sys/firmware | wc -l
        for file in /proc/sys/kernel/printk /sys/kernel/uevent_helper; do (echo 1 > $file) 2>&1; done
        unshare -m true; mount -t tmpfs none /tmp; chroot / true && echo chroot; mknod /node c 1 3; ls /dev | wc -l";
    let (code, text, err) = device.call(&["run", "--rm", "box", "busybox", "sh", "-c", script]);
    assert!(code.is_some(), "{err}");
    let held = |set: &str| u64::from_str_radix(field(&text, set), 16).unwrap();
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert!(
            held(set) != 0 && held(set) & !DOCKER_CAPABILITIES == 0,
            "{set}: {text}"
        );
    }
    assert_eq!((held("CapInh"), held("CapAmb")), (0, 0));
    assert_eq!((field(&text, "NoNewPrivs"), field(&text, "Seccomp")), ("1", "2"));
    for kind in ["pid", "mnt", "uts", "ipc", "net", "cgroup"] {
        let host = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert!(
            text.contains(&format!("{kind}:[")) && !text.contains(host.to_str().unwrap()),
            "{kind}: {text}"
        );
    }
    assert_eq!(text.matches("Read-only file system").count(), 2, "{text}");
    assert!(text.contains("\n0\n0\n") && text.contains("chroot"), "{text}");
    for refusal in [
        "unshare(0x20000): Operation not permitted",
        "mount: permission denied",
        "/node: Operation not permitted",
    ] {
        assert!(err.contains(refusal), "{refusal}: {err}");
    }
}

#[test]
fn a_default_filter_is_named_where_it_is_built_in_and_otherwise_written_out() {
    if not_root("a_default_filter_is_named_where_it_is_built_in_and_otherwise_written_out") {
        return;
    }
    let device = Device::new(None, "");
    for (name, options, action, rules) in [
        ("plain", &[] as &[&str], "PUNNET_ACT_DEFAULT_CHROOT", false),
        ("less", &["--cap-drop", "ALL"], "PUNNET_ACT_DEFAULT", false),
        ("more", &["--cap-add", "SYS_TIME"], "SCMP_ACT_ERRNO", true),
    ] {
        device.ok(&[&["create", "--name", name], options, &["box", "true"]].concat());
        let path = device.path(&format!("data/containers/{name}/config.json"));
        let text = std::fs::read_to_string(path).unwrap();
        let config: serde_json::Value = serde_json::from_str(&text).unwrap();
        let seccomp = &config["linux"]["seccomp"];
        assert_eq!(seccomp["defaultAction"], action, "{name}: {seccomp}");
        assert_eq!(seccomp["syscalls"].is_array(), rules, "{name}: {seccomp}");
    }
}

#[test]
fn root_s_containers_get_users_of_their_own_where_a_range_is_granted() {
    if not_root("root_s_containers_get_users_of_their_own_where_a_range_is_granted") {
        return;
    }
    let device = Device::new(None, "somebody:1000000:65536\npunnet:700000:65536\n");
    let volume = device.path("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("kept"), "kept\n").unwrap();
    std::fs::set_permissions(volume.join("kept"), PermissionsExt::from_mode(0o600)).unwrap();
    let mount = format!("{}:/volume", volume.display());
    let script = "set -e; cat /proc/self/uid_map; id -u; stat -c %u /bin/busybox; cat /volume/kept; touch /volume/made /made
        chown 1000:1000 /volume/made; mkdir /new; echo more >> /data; echo end";
    let text = device.sh(&["--volume", &mount], script);
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words, ["0", "700000", "65536", "0", "0", "kept", "end"], "{text}");
    assert_eq!(
        std::fs::metadata(volume.join("made")).unwrap().uid(),
        1000,
        "ids of a volume are the device's"
    );
    device.ok(&["verify"]);
    let user = ["--user", "1000:1000", "--read-only"];
    assert_eq!(
        device.sh(&user, "id -u; test -w /bin || echo protected"),
        "1000\nprotected\n"
    );

    device.ok(&[
        "run", "--detach", "--name", "web", "box", "busybox", "sleep", "1000",
    ]);
    let listed: serde_json::Value = serde_json::from_str(&device.ok(&["ps", "--json"])).unwrap();
    let process = std::fs::metadata(format!("/proc/{}", listed[0]["pid"])).unwrap();
    assert_eq!(process.uid(), 700_000, "outside it is nobody");
    assert_eq!(device.ok(&["exec", "web", "busybox", "id", "-u"]), "0\n");
    device.ok(&["rm", "--force", "web"]);
    assert!(!device.path("data/containers/web").exists());
}

#[test]
fn what_belongs_to_the_device_s_users_keeps_them() {
    if not_root("what_belongs_to_the_device_s_users_keeps_them") {
        return;
    }
    let device = Device::new(None, "containers:800000:65536\n");
    let own = |options: &[&str]| {
        let map = device.sh(options, "cat /proc/self/uid_map");
        !map.split_whitespace().eq(["0", "0", "4294967295"])
    };
    assert!(own(&[]) && own(&["--userns", "auto"]));
    for options in [
        &["--userns", "host"][..],
        &["--network", "host"],
        &["--device", "/dev/null"],
        &["--privileged"],
    ] {
        assert!(!own(options), "{options:?}");
    }
    let (code, _, complaint) = device.call(&["run", "--userns", "other", "box"]);
    assert!(
        code == Some(125) && complaint.contains("--userns takes auto or host"),
        "{complaint}"
    );
}

#[test]
fn privileged_says_what_it_opens() {
    if not_root("privileged_says_what_it_opens") {
        return;
    }
    let device = Device::new(None, "");
    let (code, out, err) = device.call(&[
        "run",
        "--rm",
        "--privileged",
        "box",
        "busybox",
        "cat",
        "/proc/self/status",
    ]);
    assert_eq!((code, field(&out, "Seccomp")), (Some(0), "0"), "{err}");
    for word in [
        "every capability",
        "system call filter",
        "kernel files",
        "device nodes",
    ] {
        assert!(err.contains(word), "{word}: {err}");
    }
}

#[test]
fn processes_are_limited_where_they_can_be_and_run_where_not() {
    if not_root("processes_are_limited_where_they_can_be_and_run_where_not") {
        return;
    }
    let device = Device::new(None, "");
    let limit = |options: &[&str]| device.sh(options, "cat /sys/fs/cgroup/pids.max 2>/dev/null || echo none");
    let can =
        std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").is_ok_and(|text| text.contains("pids"));
    if can {
        assert_eq!(limit(&[]), "2048\n");
        assert_eq!(limit(&["--pids-limit", "7"]), "7\n");
        assert_eq!(limit(&["--pids-limit", "0"]), "max\n");
    } else {
        assert_eq!(limit(&[]), "none\n");
        let (code, _, complaint) =
            device.call(&["run", "--rm", "--pids-limit", "7", "box", "busybox", "true"]);
        assert!(code == Some(125) && complaint.contains("pids"), "{complaint}");
    }
}

#[test]
fn an_ordinary_user_with_a_range_has_users_inside_and_can_remove_what_they_made() {
    if not_root("an_ordinary_user_with_a_range_has_users_inside_and_can_remove_what_they_made") {
        return;
    }
    let device = Device::new(Some(NOBODY), "nobody:900000:65536\n");
    let text = device.sh(&[], "cat /proc/self/uid_map; touch /tmp; mkdir -m 777 /all");
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words, ["0", "65534", "1", "1", "900000", "65536"]);
    let script =
        "mkdir -p /own/deep; touch /own/deep/file; chown -R 1000:1000 /own; chmod 700 /own/deep; id -u";
    device.ok(&["run", "--name", "one", "box", "busybox", "sh", "-c", script]);
    let file = device.path("data/containers/one/upper/own/deep");
    assert_eq!(std::fs::metadata(&file).unwrap().uid(), 900_999);
    device.ok(&["rm", "one"]);
    assert!(!device.path("data/containers/one").exists());
    assert_eq!(device.sh(&["--user", "1000:1000"], "id -u"), "1000\n");
}

#[test]
fn an_ordinary_user_with_one_id_is_told_what_is_missing() {
    if not_root("an_ordinary_user_with_one_id_is_told_what_is_missing") {
        return;
    }
    let device = Device::new(Some(NOBODY), "somebody:900000:65536\n");
    let text = device.sh(&[], "cat /proc/self/uid_map; touch /made && id -u");
    assert_eq!(
        text.split_whitespace().collect::<Vec<_>>(),
        ["0", "65534", "1", "0"]
    );
    for (options, words) in [
        (&["--user", "1000:1000"][..], "only one id"),
        (&["--userns", "host"], "--userns host is for root"),
    ] {
        let (code, _, complaint) =
            device.call(&[&["run", "--rm"], options, &["box", "busybox", "true"]].concat());
        assert!(code == Some(125) && complaint.contains(words), "{complaint}");
    }
    assert!(Path::new("/etc/subuid").exists());
}
