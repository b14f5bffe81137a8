//! What CI checks of `dist`, for every architecture: made twice, the same; signed, and the signature holds; good in Debian's eyes; for the processors that
//! docs/install.md names. The package of the machine that runs this is installed, run and purged too.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use punnet_boards::Arch;

use super::{HOST, NAMESPACE, Options, VERSION, debian_architectures, make};
use crate::build::{self, Strip};
use crate::packages;
use crate::process::{output_of, run, stdout_of};
use crate::size;

const PROGRAMS: &[(&str, &str)] = &[
    ("dpkg", "dpkg"),
    ("groff", "groff-base"),
    ("busybox", "busybox-static"),
    ("shellcheck", "shellcheck"),
    ("lintian", "lintian"),
    ("readelf", "binutils"),
];

/// Debian's architectures, and what readelf(1) says of the program in the package of each: where it says `Tag_CPU_arch`, the oldest processor it runs on.
const PACKAGES: [(&str, &[&str]); 4] = [
    ("amd64", &["Advanced Micro Devices X86-64"]),
    ("arm64", &["AArch64"]),
    ("armhf", &["ARM", "Tag_CPU_arch: v6"]),
    ("armel", &["ARM", "Tag_CPU_arch: v6"]),
];

/// The stage of `cargo xtask test`.
pub fn run_in_ci() -> Result<()> {
    packages::ensure(PROGRAMS)?;
    size::boards_in_ci()?;
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let punnet = build::device_binary("punnet", &[], Strip::Yes)?;
    let key = path("key");
    run(Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
        .arg(&key))?;
    let make = |name: &str| {
        make(&Options {
            output: Some(path(name)),
            arch: Vec::new(),
            key: Some(key.clone()),
            punnet: Some(punnet.clone()),
        })
    };
    let (one, two) = (make("one")?, make("two")?);
    run(Command::new("diff").arg("-r").arg(&one).arg(&two)).context("made twice, it differs")?;
    signature(&one, &key)?;
    for arch in Arch::ALL {
        let name = format!("punnet-{VERSION}-{}", arch.target());
        bill(&one.join(format!("{name}.cdx.json")))?;
        archived(&one.join(format!("{name}.tar.gz")), &name)?;
    }
    for (debian, words) in PACKAGES {
        let package = one.join(format!("punnet_{VERSION}_{debian}.deb"));
        contents(&package)?;
        let (unpacked, control) = (
            path(&format!("unpacked-{debian}")),
            path(&format!("control-{debian}")),
        );
        manual(&package, &unpacked)?;
        for_processor(&package, &unpacked, debian, words)?;
        scripts(&package, &control)?;
        lintian(&package)?;
        if debian_architectures(HOST).contains(&debian) {
            installed(&package, &path("root"))?;
        }
    }
    Ok(())
}

/// The archive unpacks into one folder, with a program that may be executed.
fn archived(archive: &Path, name: &str) -> Result<()> {
    let listing = stdout_of(Command::new("tar").arg("-tvzf").arg(archive))?;
    let inside = |line: &str| line.contains(&format!(" {name}/"));
    ensure!(listing.lines().all(inside), "{}: {listing}", archive.display());
    let program = format!(" {name}/punnet");
    let is_program = |line: &str| line.starts_with("-rwxr-xr-x") && line.ends_with(&program);
    ensure!(listing.lines().any(is_program), "no program in {listing}");
    Ok(())
}

/// The package is for this architecture of Debian's, and the program in it for what goes by that name: Raspberry Pi OS is armhf on ARMv6, too.
fn for_processor(package: &Path, unpacked: &Path, debian: &str, words: &[&str]) -> Result<()> {
    let field = stdout_of(
        Command::new("dpkg-deb")
            .arg("--field")
            .arg(package)
            .arg("Architecture"),
    )?;
    ensure!(field.trim() == debian, "{}: {field}", package.display());
    let program = unpacked.join("usr/bin/punnet");
    let elf = stdout_of(Command::new("readelf").args(["-h", "-A", "-l"]).arg(program))?;
    for word in words {
        let is_there = elf.lines().any(|line| line.trim().ends_with(word));
        ensure!(is_there, "{debian}: readelf does not say {word:?}: {elf}");
    }
    ensure!(!elf.contains("INTERP"), "{debian}: it is not static");
    Ok(())
}

/// Debian's own judge. What it only warns of: maintainer scripts that call systemctl, as deb-systemd-invoke is not on every board.
fn lintian(package: &Path) -> Result<()> {
    let mut command = Command::new("lintian");
    command.args(["--fail-on", "error", "--allow-root"]).arg(package);
    run(command.stdout(Stdio::null())).context("lintian finds errors")
}

/// As docs/install.md tells the user to; and a byte that differs is seen.
fn signature(folder: &Path, key: &Path) -> Result<()> {
    let public = fs::read_to_string(key.with_extension("pub"))?;
    let signers = folder.with_extension("signers");
    fs::write(&signers, format!("punnet {public}"))?;
    let verify = |sums: &Path| {
        let mut command = Command::new("ssh-keygen");
        command
            .args(["-Y", "verify", "-I", "punnet", "-n", NAMESPACE, "-f"])
            .arg(&signers);
        command
            .arg("-s")
            .arg(folder.join("SHA256SUMS.sig"))
            .stdin(fs::File::open(sums)?);
        Ok::<_, anyhow::Error>(output_of(&mut command)?.status.success())
    };
    let sums = folder.join("SHA256SUMS");
    ensure!(verify(&sums)?, "the signature does not hold");
    let changed = folder.with_extension("changed");
    fs::write(&changed, fs::read_to_string(&sums)?.replacen('a', "b", 1))?;
    ensure!(!verify(&changed)?, "the signature holds for other bytes");
    run(Command::new("sha256sum")
        .args(["--check", "--quiet", "SHA256SUMS"])
        .current_dir(folder))
}

/// Judged by the schema itself, which CycloneDX's own library brings.
fn bill(file: &Path) -> Result<()> {
    const JUDGE: &str = "import sys\nfrom cyclonedx.schema import SchemaVersion\nfrom cyclonedx.validation.json import JsonStrictValidator\n\
        judge = JsonStrictValidator(SchemaVersion.V1_5)\ntext = open(sys.argv[1]).read()\nerror = judge.validate_str(text)\n\
        sys.exit(str(error)) if error else None\nassert judge.validate_str(text.replace('\"type\": \"library\"', '\"type\": \"nothing\"', 1))\n";
    if stdout_of(Command::new("python3").args(["-c", "import cyclonedx.validation.json, jsonschema"]))
        .is_err()
    {
        let mut pip = Command::new("python3");
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "cyclonedx-python-lib[json-validation]",
        ]);
        run(&mut pip).context("the schema of CycloneDX is in the Python package cyclonedx-python-lib")?;
    }
    run(Command::new("python3").args(["-c", JUDGE]).arg(file))
}

fn contents(package: &Path) -> Result<()> {
    let listing = stdout_of(Command::new("dpkg-deb").arg("--contents").arg(package))?;
    for (mode, path) in [
        ("-rwxr-xr-x root/root", "./usr/bin/punnet"),
        (
            "-rw-r--r-- root/root",
            "./usr/lib/systemd/system/punnet-agent.service",
        ),
        ("-rw-r--r-- root/root", "./usr/share/man/man1/punnet-run.1.gz"),
        (
            "-rw-r--r-- root/root",
            "./usr/share/bash-completion/completions/punnet",
        ),
        (
            "-rw-r--r-- root/root",
            "./usr/share/punnet/boards/raspberry-pi-4.json",
        ),
        ("drwxr-xr-x root/root", "./usr/bin/"),
    ] {
        let is_there = listing
            .lines()
            .any(|line| line.starts_with(mode) && line.ends_with(path));
        ensure!(is_there, "no {mode} {path} in {listing}");
    }
    Ok(())
}

fn manual(package: &Path, folder: &Path) -> Result<()> {
    run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(folder))?;
    let pages = folder.join("usr/share/man/man1");
    for entry in fs::read_dir(&pages)? {
        let script = format!("gzip -dc {} | groff -man -ww -z 2>&1", entry?.path().display());
        let complaint = stdout_of(Command::new("sh").args(["-c", &script]))?;
        ensure!(complaint.is_empty(), "{script}: {complaint}");
    }
    run(Command::new("bash")
        .args(["-n", "-e"])
        .arg(folder.join("usr/share/bash-completion/completions/punnet")))
}

fn scripts(package: &Path, folder: &Path) -> Result<()> {
    run(Command::new("dpkg-deb").arg("--control").arg(package).arg(folder))?;
    for script in ["postinst", "prerm", "postrm"] {
        run(Command::new("shellcheck").arg(folder.join(script)))?;
    }
    Ok(())
}

/// Into a root that holds a shell and nothing else.
fn installed(package: &Path, root: &Path) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        println!("    SKIPPED: dpkg --root runs maintainer scripts below another root, which root may");
        return Ok(());
    }
    for folder in [
        "bin",
        "var/lib/dpkg/info",
        "var/lib/dpkg/updates",
        "dev",
        "tmp",
        "etc",
    ] {
        fs::create_dir_all(root.join(folder))?;
    }
    // A file stands in for the device: nothing is mounted here.
    for file in ["var/lib/dpkg/status", "dev/null"] {
        fs::write(root.join(file), "")?;
    }
    fs::copy(packages::busybox()?, root.join("bin/busybox"))?;
    for applet in ["sh", "mkdir", "rm", "xargs", "["] {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    let dpkg = |words: &[&str]| {
        let mut command = Command::new("dpkg");
        command
            .arg(format!("--root={}", root.display()))
            .arg("--force-architecture")
            .args(words);
        run(command.stdout(Stdio::null()))
    };
    let inside = |words: &[&str]| stdout_of(Command::new("chroot").arg(root).args(words));
    dpkg(&["--install", &package.display().to_string()])?;
    let said = inside(&["/usr/bin/punnet", "--version"])?;
    ensure!(
        said.contains(env!("CARGO_PKG_VERSION")),
        "the installed program says {said:?}"
    );
    fs::write(root.join("etc/punnet/apps/web.yaml"), "image: web\n")?;
    let said = inside(&["/usr/bin/punnet", "apps", "check"])?;
    ensure!(said.contains("web: good"), "the installed program says {said:?}");
    // A package's services are left to the package.
    let said = inside(&[
        "/usr/bin/punnet",
        "install",
        "--init",
        "systemd",
        "--program",
        "/usr/bin/punnet",
        "--dry-run",
    ])?;
    ensure!(!said.contains(".service"), "{said}");
    fs::create_dir_all(root.join("var/lib/punnet/store"))?;
    dpkg(&["--remove", "punnet"])?;
    ensure!(
        !root.join("usr/bin/punnet").exists(),
        "removed, the program is still there"
    );
    ensure!(
        root.join("etc/punnet/apps/web.yaml").exists(),
        "removing has taken the user's files"
    );
    dpkg(&["--purge", "punnet"])?;
    let left: Vec<_> = [
        "etc/punnet",
        "var/lib/punnet",
        "usr/share/punnet",
        "usr/lib/systemd",
    ]
    .into_iter()
    .filter(|path| root.join(path).exists())
    .collect();
    ensure!(left.is_empty(), "purged, but there is still {left:?}");
    Ok(())
}
