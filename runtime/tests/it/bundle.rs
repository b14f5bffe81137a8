//! A bundle with a busybox root file system in a temporary directory, and the runtime run on it.

use nix::poll::{PollFd, PollFlags, poll};
use punnet_spec::{Capabilities, Spec};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

pub const APPLETS: &[&str] = &[
    "sh", "cat", "ls", "id", "echo", "sleep", "mkdir", "readlink", "hostname", "grep", "touch", "true",
    "false", "env", "pwd", "tty", "test", "mount", "ps", "wc", "unshare", "chroot", "kill", "stat", "ip",
    "seq", "mknod", "umask", "head", "dd", "ifconfig", "stty", "ionice", "uname", "rmdir", "cut", "ln",
];

/// Which runtime is tested.
pub fn runtime() -> PathBuf {
    match std::env::var("RUNTIME").as_deref() {
        Ok(reference @ ("crun" | "runc")) => installed(reference),
        _ => env!("CARGO_BIN_EXE_punnet-oci").into(),
    }
}

/// Whole paths: some tests copy the runtime.
fn installed(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let mut places = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    let found = places.find(|place| place.join(program).exists());
    found
        .unwrap_or_else(|| panic!("{program} is not installed"))
        .join(program)
}

/// An emulated machine, as that of `cargo xtask vm`, takes some twenty times as long: there a sample of many equal tries has to do.
pub fn is_emulated() -> bool {
    let vendor = std::fs::read_to_string("/sys/class/dmi/id/sys_vendor").unwrap_or_default();
    vendor.starts_with("QEMU")
}

/// Copies a program from another process: a descriptor of ours that could write it would pass into whatever other tests fork
/// meanwhile, and executing it then answers "Text file busy" (execve(2), ETXTBSY).
pub fn install(program: impl AsRef<Path>, to: &Path) {
    let status = Command::new("install")
        .args(["-m", "755"])
        .arg(program.as_ref())
        .arg(to)
        .status()
        .unwrap();
    assert!(status.success(), "install {}: {status}", to.display());
}

/// The same for a program that the test makes itself.
pub fn install_bytes(program: impl AsRef<[u8]>, to: &Path) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), program).unwrap();
    install(file.path(), to);
}

/// What a command answered.
#[derive(Debug)]
pub struct Answer {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        Self {
            code: output
                .status
                .code()
                .unwrap_or_else(|| 1000 + output.status.signal().unwrap()),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

pub struct Bundle {
    pub dir: tempfile::TempDir,
    pub spec: Spec,
}

impl Bundle {
    /// A bundle whose process is a shell with this script.
    pub fn sh(script: &str) -> Self {
        Self::args(&["/bin/sh", "-c", script])
    }

    pub fn args(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let bin = dir.path().join("rootfs/bin");
        std::fs::create_dir_all(&bin).unwrap();
        install("/bin/busybox", &bin.join("busybox"));
        for applet in APPLETS {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        let mut spec = Spec::default_for(None);
        spec.oci_version = "1.0.2".to_owned();
        let process = spec.process.as_mut().unwrap();
        process.terminal = false;
        process.args = args.iter().map(|&arg| arg.to_owned()).collect();
        process.capabilities = Some(Capabilities::of_root(&["CAP_KILL"]));
        Self { dir, spec }
    }

    pub fn process(&mut self) -> &mut punnet_spec::Process {
        self.spec.process.as_mut().unwrap()
    }

    pub fn linux(&mut self) -> &mut punnet_spec::Linux {
        self.spec.linux.as_mut().unwrap()
    }

    /// A user namespace with `size` ids from these on, without limits.
    pub fn in_user_namespace(&mut self, user: u32, group: u32, size: u32) {
        let map = |host_id| {
            vec![punnet_spec::IdMapping {
                container_id: 0,
                host_id,
                size,
            }]
        };
        let linux = self.linux();
        (linux.uid_mappings, linux.gid_mappings) = (map(user), map(group));
        linux.resources = None;
        linux.namespaces.push(punnet_spec::Namespace {
            kind: "user".to_owned(),
            path: String::new(),
        });
    }

    pub fn rootfs(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    pub fn state_root(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn write(&self) {
        std::fs::write(self.dir.path().join("config.json"), self.spec.to_json()).unwrap();
    }

    /// The runtime with its state in the bundle's directory.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(runtime());
        command
            .arg("--root")
            .arg(self.state_root())
            .args(words)
            .current_dir(self.dir.path());
        command
    }

    /// Any verb, to its end. Its output goes to files: a container that stays must not keep us waiting for a pipe's end.
    pub fn call(&self, words: &[&str]) -> Answer {
        let (out, err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let mut child = self
            .command(words)
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(err.try_clone().unwrap())
            .spawn()
            .unwrap();
        let status = wait_in_time(&mut child, words);
        let text = |mut file: std::fs::File| {
            use std::io::{Read, Seek};
            file.rewind().unwrap();
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            bytes
        };
        Output {
            status,
            stdout: text(out),
            stderr: text(err),
        }
        .into()
    }

    /// `run` of the bundle as it is now.
    pub fn run(&self) -> Answer {
        self.write();
        let answer = self.call(&["run", &self.id()]);
        assert!(
            !self.state_root().join(self.id()).exists(),
            "a state directory stayed: {answer:?}"
        );
        answer
    }

    /// `run` in a mount namespace of its own, after a script that changes what is mounted there.
    pub fn run_after(&self, script: &str) -> Answer {
        self.write();
        let script = format!("set -e\n{script}\nexec \"$@\"");
        Command::new("unshare")
            .args(["-m", "--propagation", "private", "sh", "-c", &script, "sh"])
            .arg(runtime())
            .arg("--root")
            .arg(self.state_root())
            .args(["run", &self.id()])
            .current_dir(self.dir.path())
            .output()
            .unwrap()
            .into()
    }

    /// Runs and expects success.
    pub fn output(&self) -> String {
        let answer = self.run();
        assert_eq!(answer.code, 0, "{answer:?}");
        answer.out
    }

    /// An id no other test uses: other runtimes share a cgroup tree.
    pub fn id(&self) -> String {
        let name = self.dir.path().file_name().unwrap().to_str().unwrap();
        format!("it{}", name.replace('.', ""))
    }

    /// Status from the state document.
    pub fn status(&self) -> String {
        let answer = self.call(&["state", &self.id()]);
        let state: serde_json::Value = serde_json::from_str(&answer.out).unwrap_or_default();
        state["status"].as_str().unwrap_or("absent").to_owned()
    }

    pub fn pid(&self) -> i32 {
        let answer = self.call(&["state", &self.id()]);
        serde_json::from_str::<serde_json::Value>(&answer.out).unwrap()["pid"]
            .as_i64()
            .unwrap() as i32
    }

    /// Creates and starts, detached.
    pub fn start(&self) {
        self.write();
        let answer = self.call(&["create", &self.id()]);
        assert_eq!(answer.code, 0, "{answer:?}");
        let answer = self.call(&["start", &self.id()]);
        assert_eq!(answer.code, 0, "{answer:?}");
    }

    pub fn wait_for(&self, status: &str) {
        wait_until(status, || self.status() == status);
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        self.call(&["delete", "--force", &self.id()]);
    }
}

/// How long one command of a runtime may take: some ten milliseconds are usual, some hundred in an emulated machine.
const COMMAND_TIMEOUT_MS: u16 = 60_000;

/// Waits for a command's end; one that never ends is killed, and is a failed test instead of a suite that hangs.
#[track_caller]
pub fn wait_in_time(child: &mut Child, words: &[&str]) -> ExitStatus {
    let pidfd = punnet_sys::pidfd_open(nix::unistd::Pid::from_raw(child.id().cast_signed())).unwrap();
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    if poll(&mut fds, COMMAND_TIMEOUT_MS).unwrap() == 0 {
        child.kill().unwrap();
        child.wait().unwrap();
        panic!("{words:?} did not end within {COMMAND_TIMEOUT_MS} ms");
    }
    child.wait().unwrap()
}

/// Where the tree of cgroup v2 is mounted. None, and it says so, where there is none.
pub fn cgroup_top() -> Option<&'static str> {
    let top = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .find(|place| Path::new(place).join("cgroup.controllers").exists());
    if top.is_none() {
        println!("SKIPPED: no cgroup v2 here");
    }
    top
}

/// Polls for up to 10 s.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("never: {what}");
}

/// Whether a process is there and not a zombie.
pub fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

pub fn bind(source: &Path, destination: &str, options: &[&str]) -> punnet_spec::Mount {
    punnet_spec::Mount {
        destination: destination.to_owned(),
        kind: "bind".to_owned(),
        source: source.to_str().unwrap().to_owned(),
        options: std::iter::once(&"bind")
            .chain(options)
            .map(|&option| option.to_owned())
            .collect(),
        ..Default::default()
    }
}
