//! Programs for another CPU, in steps of builds and in containers, where the kernel knows an emulator for them and where it does not.
//!
//! What the kernel knows is each user namespace's own since Linux 6.7: most of these tests register emulators in one of theirs. Older kernels have one list for
//! all, which is left alone: a test as root uses what is in it. `cargo xtask test` puts something there in its virtual machine.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::geteuid;
use serde_json::{Value, json};

use punnet_boards::Arch;

use crate::build::{Bench, ORDINARY_UID};
use crate::support::{fails, ok, output};

/// Debian's emulator.
const EMULATOR: &str = "/usr/bin/qemu-aarch64-static";

/// Registers what $1 says, if anything, in a user namespace whose root is an ordinary user, and executes the rest as that user.
const NAMESPACE: &str = r#"
    mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc || exit 77
    if test -n "$1"; then echo "$1" > /proc/sys/fs/binfmt_misc/register || exit 77; fi
    shift
    exec unshare --user --map-user=54321 --map-group=54321 -- "$@""#;

/// An image of a busybox for 64-bit ARM, made by steps that it executes. Its applets are called by path: without one it executes /proc/self/exe,
/// which is the emulator.
const TEXT: &str = "FROM scratch\nCOPY --chmod=755 busybox /bin/busybox\nENV PATH=/bin\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n\
    SHELL [\"/bin/sh\", \"-c\"]\nRUN uname -m > /machine; true\nRUN <<EOF\n#!/bin/sh\necho script >> /machine\nEOF\n\
    CMD [\"/bin/sh\", \"-c\", \"echo from an emulated shell: $(/bin/uname -m)\"]\n";

/// Where the kernel tells of the emulator of 64-bit ARM that Debian's qemu-user-static registers.
const REGISTERED: &str = "/proc/sys/fs/binfmt_misc/qemu-aarch64";

struct Foreign {
    bench: Bench,
    /// What stands before a command so that it is executed where the kernel knows the emulator.
    by: Vec<String>,
}

impl Foreign {
    /// With an emulator that the kernel knows, with these flags of binfmt_misc; `None`, and why, where that cannot be.
    fn with(flags: Option<&str>) -> Option<Self> {
        if std::env::consts::ARCH != "x86_64" {
            println!("SKIPPED: the emulator is of programs that this machine executes itself");
            return None;
        }
        let mut foreign = Self::in_bench(Bench::ordinary());
        // Owned by the user, who therefore could write it.
        if geteuid().is_root() {
            chown(
                foreign.bench.path("punnet"),
                Some(ORDINARY_UID),
                Some(ORDINARY_UID),
            )
            .unwrap();
        }
        // As in Debian's /usr/lib/binfmt.d/qemu-aarch64.conf: of an ELF header class, byte order, kind and machine count.
        let registration = flags.map(|flags| {
            format!(
                r":punnet-test:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:{EMULATOR}:{flags}"
            )
        });
        if geteuid().is_root() {
            let id = ORDINARY_UID.to_string();
            let user = ["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"];
            foreign.by.extend(user.map(str::to_owned));
        }
        let namespace = [
            "unshare",
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            NAMESPACE,
            "sh",
        ];
        foreign.by.extend(namespace.map(str::to_owned));
        foreign.by.push(registration.unwrap_or_default());
        let tried = output(&mut foreign.inside("true", &[]));
        if tried.status.code() == Some(77) {
            println!("SKIPPED: this kernel has one list of emulators for all");
            return None;
        }
        assert!(tried.status.success(), "{tried:?}");
        Some(foreign)
    }

    /// As root, with the emulator that the kernel knows for all; `None`, and why, where there is none.
    fn of_machine() -> Option<Self> {
        let registered = fs::read_to_string(REGISTERED).unwrap_or_default();
        if !geteuid().is_root() || !registered.starts_with("enabled\n") {
            println!("SKIPPED: nobody has registered an emulator for all, or this is not root");
            return None;
        }
        Some(Self::in_bench(Bench::new()))
    }

    fn in_bench(bench: Bench) -> Self {
        let package = xtask::debian_package("busybox-static", Arch::Arm64).unwrap();
        fs::copy(package.join("bin/busybox"), bench.path("context/busybox")).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_punnet"), bench.path("punnet")).unwrap();
        fs::write(bench.path("Containerfile"), TEXT).unwrap();
        Self {
            bench,
            by: Vec::new(),
        }
    }

    /// A command where the kernel knows the emulator.
    fn inside(&self, program: &str, args: &[&str]) -> Command {
        let words: Vec<&str> = self.by.iter().map(String::as_str).chain([program]).collect();
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .args(args)
            .env("PUNNET_DATA_ROOT", self.bench.path("data"))
            .env("PUNNET_RUN_ROOT", self.bench.path("run"))
            .env("HOME", self.bench.path("home"));
        command
    }

    fn punnet(&self, args: &[&str]) -> Command {
        self.inside(self.bench.path("punnet").to_str().unwrap(), args)
    }

    fn build(&self) -> Command {
        let file = self.bench.path("Containerfile");
        let context = self.bench.path("context");
        let [file, context] = [&file, &context].map(|path| path.to_str().unwrap());
        self.punnet(&[
            "build",
            "--quiet",
            "--tag=app",
            "--platform=linux/arm64",
            "--file",
            file,
            context,
        ])
    }
}

fn check_that_it_runs(foreign: &Foreign) {
    let digest = ok(&mut foreign.build());
    let machine = foreign.bench.rootfs(&digest).join("machine");
    assert_eq!(fs::read_to_string(machine).unwrap(), "aarch64\nscript\n");
    let said = "from an emulated shell: aarch64\n";
    let run = ["run", "--pull=never", "--platform=linux/arm64"];
    assert_eq!(
        ok(&mut foreign.punnet(&[&run[..], &["--rm", "app"]].concat())),
        said
    );
    let wrong = fails(&mut foreign.punnet(&["run", "--rm", "app"]), 125);
    assert!(
        wrong.contains("linux/arm64") && wrong.contains("linux/amd64"),
        "{wrong}"
    );
    let wrong = fails(
        &mut foreign.punnet(&["run", "--pull=never", "--platform=linux/arm/v7", "app"]),
        125,
    );
    assert!(
        wrong.contains("linux/arm64") && wrong.contains("linux/arm/v7"),
        "{wrong}"
    );
    // Made by one command and started by others, in one namespace of users.
    let others = r#"set -e
        punnet=$0
        $punnet create --pull=never --platform=linux/arm64 --name=long app /bin/sh -c '/bin/sleep 1000; true'
        $punnet start long
        $punnet exec long /bin/uname -m
        $punnet rm --force long
        $punnet run --detach --pull=never --platform=linux/arm64 --name=short app
        while $punnet ps --quiet | grep -q short; do sleep 0.1; done
        $punnet logs short
        $punnet rm short"#;
    let program = foreign.bench.path("punnet");
    let said = ok(&mut foreign.inside("sh", &["-c", others, program.to_str().unwrap()]));
    assert_eq!(
        said,
        "long\nlong\naarch64\nshort\nfrom an emulated shell: aarch64\n"
    );
}

#[test]
fn an_emulator_that_the_kernel_has_opened_executes_steps_and_containers() {
    let Some(foreign) = Foreign::with(Some("F")) else {
        return;
    };
    check_that_it_runs(&foreign);
}

#[test]
fn an_emulator_that_all_know_executes_what_root_starts() {
    let Some(foreign) = Foreign::of_machine() else {
        return;
    };
    check_that_it_runs(&foreign);
    check_that_a_bundle_runs(&foreign, &[]);
}

#[test]
fn an_emulator_in_the_image_executes_steps_and_containers() {
    let Some(foreign) = Foreign::with(Some("")) else {
        return;
    };
    fs::copy(EMULATOR, foreign.bench.path("context/emulator")).unwrap();
    let copied = TEXT.replacen("ENV", &format!("COPY --chmod=755 emulator {EMULATOR}\nENV"), 1);
    fs::write(foreign.bench.path("Containerfile"), copied).unwrap();
    check_that_it_runs(&foreign);
}

#[test]
fn a_step_that_nothing_emulates_says_what_is_needed() {
    let Some(foreign) = Foreign::with(None) else {
        return;
    };
    let complaint = fails(&mut foreign.build(), 1);
    for part in [
        ":4:1:",
        "built for aarch64",
        "this board is x86_64",
        "binfmt_misc",
        "qemu-user-static",
    ] {
        assert!(complaint.contains(part), "{complaint}");
    }
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
    assert_eq!(foreign.bench.left(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn an_emulator_that_the_container_does_not_have_is_named() {
    let Some(foreign) = Foreign::with(Some("")) else {
        return;
    };
    let complaint = fails(&mut foreign.build(), 1);
    for part in [":4:1:", "emulator for aarch64 is not in the container", "flag F"] {
        assert!(complaint.contains(part), "{complaint}");
    }
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
}

#[test]
fn an_emulated_container_is_made_by_a_file_that_nobody_can_write() {
    // CVE-2019-5736: what is executed by its path may have become anything by then.
    let Some(foreign) = Foreign::with(Some("F")) else {
        return;
    };
    ok(&mut foreign.build());
    let marker = foreign.bench.path("marker");
    let script = "echo entered; read line; true";
    let args = [
        "run",
        "--rm",
        "--interactive",
        "--platform=linux/arm64",
        "app",
        "/bin/sh",
        "-c",
        script,
    ];
    let mut child = foreign
        .punnet(&args)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(&marker).unwrap())
        .spawn()
        .unwrap();
    xtask::process::wait_for("the container", std::time::Duration::from_secs(45), || {
        Ok((fs::read(&marker)? == b"entered\n").then_some(()))
    })
    .unwrap();
    let own = fs::read_link(format!("/proc/{}/exe", child.id()));
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    let own = own.unwrap().display().to_string();
    assert!(own.starts_with("/memfd:punnet"), "{own}");
}

#[test]
fn an_engines_bundle_for_another_cpu_runs() {
    let Some(foreign) = Foreign::with(Some("F")) else {
        return;
    };
    check_that_a_bundle_runs(&foreign, &["--rootless"]);
}

fn check_that_a_bundle_runs(foreign: &Foreign, options: &[&str]) {
    let bundle = foreign.bench.path("run/bundle");
    let bin = bundle.join("rootfs/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::copy(foreign.bench.path("context/busybox"), bin.join("busybox")).unwrap();
    fs::set_permissions(bin.join("busybox"), PermissionsExt::from_mode(0o755)).unwrap();
    symlink("busybox", bin.join("uname")).unwrap();
    if !foreign.by.is_empty() {
        chown_all(&bundle);
    }
    let bundle = bundle.to_str().unwrap();
    ok(&mut foreign.punnet(&[&["oci", "spec", "--bundle", bundle], options].concat()));
    let path = Path::new(bundle).join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["process"]["args"] = json!(["uname", "-m"]);
    config["process"]["terminal"] = json!(false);
    fs::write(&path, config.to_string()).unwrap();
    let run = ["oci", "run", "--bundle", bundle, "foreign"];
    assert_eq!(ok(&mut foreign.punnet(&run)), "aarch64\n");
}

fn chown_all(folder: &Path) {
    if geteuid().is_root() {
        let id = format!("{ORDINARY_UID}:{ORDINARY_UID}");
        ok(Command::new("chown").args(["--recursive", &id]).arg(folder));
    }
}
