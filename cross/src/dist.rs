//! `cargo xtask dist`: what people install. Archives and Debian packages for every architecture, an SBOM, checksums and their signature.
//!
//! ```text
//! <output>/
//!   punnet-VERSION-TARGET.tar.gz        the program, manual, completions, services for each init, board descriptions
//!   punnet_VERSION_DEBARCH.deb
//!   punnet-VERSION-TARGET.cdx.json      CycloneDX 1.5, out of Cargo.lock
//!   SHA256SUMS, SHA256SUMS.sig          of all the above; the signature is ssh-keygen's, with --key
//! ```
//! No root is needed, and the same source gives the same bytes. docs/install.md says how a user checks the signature.

pub mod check;
mod manual;
mod sbom;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use punnet_boards::Arch;

use crate::build::{root, target_dir};
use crate::cross::Compiler;
use crate::image::gzip;
use crate::packages;
use crate::process::{run, stdout_of};

/// Programs it takes, and the Debian package of each.
const PROGRAMS: &[(&str, &str)] = &[
    ("dpkg-deb", "dpkg"),
    ("tar", "tar"),
    ("sha256sum", "coreutils"),
    ("ssh-keygen", "openssh-client"),
];

/// The moment all files are from, unless SOURCE_DATE_EPOCH says another: 2026-01-01, the oldest that this program may run at.
const EPOCH_S: u64 = 1_767_225_600;

/// A signature is of the checksums and of nothing else that the same key signs. ssh-keygen(1), -n
pub const NAMESPACE: &str = "punnet-release";

/// Options of `dist`.
#[derive(clap::Args, Clone)]
pub struct Options {
    /// Into this folder [target/dist]
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Only for these (all): amd64, arm64, arm-v7, arm-v6
    #[arg(long, value_delimiter = ',', value_name = "ARCH")]
    pub arch: Vec<String>,
    /// Sign the checksums with this OpenSSH Ed25519 key (ssh-keygen -t ed25519)
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Take this static binary for this machine's architecture instead of compiling one
    #[arg(long, value_name = "FILE")]
    pub punnet: Option<PathBuf>,
}

/// Debian's architectures and the build that each gets.
///
/// Raspberry Pi OS calls itself armhf on an ARMv6 board, too: a package for ARMv7 would end there with SIGILL. So armhf has the ARMv6 build,
/// as has armel, for Debian on those boards; the ARMv7 build is there as an archive.
const fn debian_architectures(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::Amd64 => &["amd64"],
        Arch::Arm64 => &["arm64"],
        Arch::ArmV6 => &["armhf", "armel"],
        Arch::ArmV7 => &[],
    }
}

const HOST: Arch = if cfg!(target_arch = "aarch64") {
    Arch::Arm64
} else {
    Arch::Amd64
};

/// Makes everything and says what.
pub fn run_command(options: &Options) -> Result<()> {
    let folder = make(options)?;
    let mut files: Vec<_> = fs::read_dir(&folder)?.collect::<Result<_, _>>()?;
    files.sort_by_key(fs::DirEntry::file_name);
    for file in files {
        println!(
            "{:>8} KiB  {}",
            file.metadata()?.len().div_ceil(1024),
            file.path().display()
        );
    }
    Ok(())
}

/// Makes everything into a folder that has nothing else in it.
pub fn make(options: &Options) -> Result<PathBuf> {
    packages::ensure(PROGRAMS)?;
    let output = options
        .output
        .clone()
        .unwrap_or_else(|| target_dir().join("dist"));
    if output.exists() {
        fs::remove_dir_all(&output)?;
    }
    fs::create_dir_all(&output)?;
    let archs = wanted(&options.arch)?;
    let work = tempfile::tempdir()?;
    let native = binary(HOST, options)?;
    let shared = Shared::make(&native, &work.path().join("shared"))?;
    for arch in archs {
        let program = if arch == HOST {
            native.clone()
        } else {
            binary(arch, options)?
        };
        let name = format!("punnet-{VERSION}-{}", arch.target());
        archive(
            &shared,
            &program,
            &work.path().join(&name),
            &output.join(format!("{name}.tar.gz")),
        )?;
        fs::write(
            output.join(format!("{name}.cdx.json")),
            sbom::of("punnet", arch.target())?,
        )?;
        for debian in debian_architectures(arch) {
            let tree = work.path().join(debian);
            package(&shared, &program, debian, &tree, &output)?;
        }
    }
    sums(&output)?;
    if let Some(key) = &options.key {
        sign(&output, key)?;
    }
    Ok(output)
}

/// Of all our crates.
const VERSION: &str = env!("CARGO_PKG_VERSION");

fn wanted(named: &[String]) -> Result<Vec<Arch>> {
    if named.is_empty() {
        return Ok(Arch::ALL.into());
    }
    let parse = |name: &String| {
        serde_json::from_value(name.as_str().into())
            .with_context(|| format!("{name} is none of amd64, arm64, arm-v7, arm-v6"))
    };
    named.iter().map(parse).collect()
}

fn binary(arch: Arch, options: &Options) -> Result<PathBuf> {
    match &options.punnet {
        Some(file) if arch == HOST => Ok(file.clone()),
        _ => Compiler::find()?.build("punnet", arch, &[]),
    }
}

/// What is the same on every architecture; the program itself writes it.
struct Shared {
    folder: PathBuf,
}

impl Shared {
    fn make(program: &Path, folder: &Path) -> Result<Self> {
        let at = |path: &str| folder.join(path);
        for path in ["man", "completions", "boards", "services"] {
            fs::create_dir_all(at(path))?;
        }
        for (name, page) in manual::pages(program)? {
            fs::write(at("man").join(name), page)?;
        }
        for shell in ["bash", "zsh", "fish"] {
            let script = stdout_of(Command::new(program).args(["completion", shell]))?;
            fs::write(at("completions").join(shell), script)?;
        }
        for found in punnet_boards::load_all(&root().join("board-configs"))? {
            let path = at("boards").join(format!("{}.json", found.board.name));
            fs::write(path, serde_json::to_string_pretty(&found.board)? + "\n")?;
        }
        for (init, made, kept) in [
            (
                "systemd",
                "etc/systemd/system",
                &["punnet-agent.service", "punnet-apps.service"],
            ),
            ("openrc", "etc/init.d", &["punnet-agent", "punnet-apps"]),
        ] {
            let scratch = tempfile::tempdir()?;
            let mut install = Command::new(program);
            install.args([
                "install",
                "--init",
                init,
                "--program",
                "/usr/bin/punnet",
                "--root",
            ]);
            run(install.arg(scratch.path()).stdout(Stdio::null()))?;
            fs::create_dir_all(at("services").join(init))?;
            for name in kept {
                let text = fs::read_to_string(scratch.path().join(made).join(name))?;
                let text = text.replace("# Written by `punnet install`.", "# From the package punnet.");
                fs::write(at("services").join(init).join(name), text)?;
            }
        }
        Ok(Self {
            folder: folder.into(),
        })
    }

    /// Copies one of its folders' files to where they go; what is named `.1` is compressed when it goes into a package.
    fn copy(&self, from: &str, to: &Path, compress: bool) -> Result<()> {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(self.folder.join(from))? {
            let entry = entry?;
            let name = entry
                .file_name()
                .into_string()
                .ok()
                .context("our names are ASCII")?;
            let content = fs::read(entry.path())?;
            if compress {
                put(&to.join(name + ".gz"), &gzip(&content)?, 0o644)?;
            } else {
                put(&to.join(name), &content, 0o644)?;
            }
        }
        Ok(())
    }
}

fn put(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    fs::create_dir_all(path.parent().context("a path has a parent")?)?;
    fs::write(path, content)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

fn archive(shared: &Shared, program: &Path, tree: &Path, output: &Path) -> Result<()> {
    put(&tree.join("punnet"), &fs::read(program)?, 0o755)?;
    for name in [
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "docs/install.md",
        "docs/apps.md",
    ] {
        let path = Path::new(name).file_name().context("a file has a name")?;
        put(&tree.join(path), &fs::read(root().join(name))?, 0o644)?;
    }
    for folder in ["man", "completions", "boards"] {
        shared.copy(folder, &tree.join(folder), false)?;
    }
    for init in ["systemd", "openrc"] {
        shared.copy(
            &format!("services/{init}"),
            &tree.join("services").join(init),
            false,
        )?;
    }
    folders_readable(tree)?;
    let name = tree.file_name().context("the tree has a name")?;
    let packed = Command::new("tar")
        .args([
            "--create",
            "--format=ustar",
            "--sort=name",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
        ])
        .arg(format!("--mtime=@{}", epoch_s()))
        .arg("-C")
        .arg(tree.parent().context("the tree has a parent")?)
        .arg(name)
        .output()?;
    ensure!(
        packed.status.success(),
        "tar: {}",
        String::from_utf8_lossy(&packed.stderr)
    );
    Ok(fs::write(output, gzip(&packed.stdout)?)?)
}

/// The umask of whoever packs is nobody's business.
fn folders_readable(tree: &Path) -> Result<()> {
    fs::set_permissions(tree, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(tree)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders_readable(&entry.path())?;
        }
    }
    Ok(())
}

fn epoch_s() -> u64 {
    let given = std::env::var("SOURCE_DATE_EPOCH")
        .ok()
        .and_then(|text| text.parse().ok());
    given.unwrap_or(EPOCH_S)
}

/// deb(5), by dpkg-deb: files are root's, times are the epoch.
fn package(shared: &Shared, program: &Path, debian: &str, tree: &Path, output: &Path) -> Result<()> {
    let at = |path: &str| tree.join(path);
    put(&at("usr/bin/punnet"), &fs::read(program)?, 0o755)?;
    shared.copy("man", &at("usr/share/man/man1"), true)?;
    shared.copy("boards", &at("usr/share/punnet/boards"), false)?;
    shared.copy("services/systemd", &at("usr/lib/systemd/system"), false)?;
    for (shell, path) in [
        ("bash", "usr/share/bash-completion/completions/punnet"),
        ("zsh", "usr/share/zsh/vendor-completions/_punnet"),
        ("fish", "usr/share/fish/vendor_completions.d/punnet.fish"),
    ] {
        put(
            &at(path),
            &fs::read(shared.folder.join("completions").join(shell))?,
            0o644,
        )?;
    }
    let doc = at("usr/share/doc/punnet");
    put(&doc.join("copyright"), COPYRIGHT.as_bytes(), 0o644)?;
    put(&doc.join("changelog.gz"), &gzip(changelog()?.as_bytes())?, 0o644)?;
    put(
        &doc.join("CHANGELOG.md.gz"),
        &gzip(&fs::read(root().join("CHANGELOG.md"))?)?,
        0o644,
    )?;
    for name in ["install.md", "apps.md"] {
        put(&doc.join(name), &fs::read(root().join("docs").join(name))?, 0o644)?;
    }
    put(
        &at("usr/share/lintian/overrides/punnet"),
        OVERRIDES.as_bytes(),
        0o644,
    )?;
    let kib = fs::metadata(program)?.len().div_ceil(1024);
    let control = format!(
        "Package: punnet\nVersion: {VERSION}\nArchitecture: {debian}\nMaintainer: {MAINTAINER}\nInstalled-Size: {kib}\n\
         Section: admin\nPriority: optional\nHomepage: https://github.com/punnet/punnet\nRecommends: ca-certificates\nSuggests: uidmap\n\
         Description: container runtime and fleet agent for small boards\n \
         Builds, fetches and runs OCI containers on Raspberry Pi-class boards with no\n daemon and hardly any memory of its own, from files in /etc/punnet/apps or as\n \
         an MQTT fleet controller says. One static program.\n"
    );
    put(&at("DEBIAN/control"), control.as_bytes(), 0o644)?;
    for (name, script) in [
        ("preinst", include_str!("dist/preinst.sh")),
        ("postinst", include_str!("dist/postinst.sh")),
        ("prerm", include_str!("dist/prerm.sh")),
        ("postrm", include_str!("dist/postrm.sh")),
    ] {
        // Only Debian's armel has processors that are too old for it.
        if name != "preinst" || debian == "armel" {
            put(&at("DEBIAN").join(name), script.as_bytes(), 0o755)?;
        }
    }
    put(&at("DEBIAN/md5sums"), md5sums(tree)?.as_bytes(), 0o644)?;
    folders_readable(tree)?;
    let mut pack = Command::new("dpkg-deb");
    pack.args(["--root-owner-group", "-Zxz", "--threads-max=1", "--build"]);
    pack.arg(tree)
        .arg(output.join(format!("punnet_{VERSION}_{debian}.deb")));
    run(pack
        .env("SOURCE_DATE_EPOCH", epoch_s().to_string())
        .stdout(Stdio::null()))
}

const MAINTAINER: &str = "The Punnet authors <punnet@punnet.example>";

/// deb-changelog(5); what has changed is told elsewhere.
fn changelog() -> Result<String> {
    let date = stdout_of(
        Command::new("date")
            .args(["--utc", "--rfc-email", "--date"])
            .arg(format!("@{}", epoch_s()))
            .env("LC_ALL", "C"),
    )?;
    Ok(format!(
        "punnet ({VERSION}) stable; urgency=medium\n\n  * See CHANGELOG.md.gz.\n\n -- {MAINTAINER}  {date}"
    ))
}

/// lintian(1): what Debian takes for a fault, and is meant.
const OVERRIDES: &str = "\
# One static file that runs on any board, whatever C library is there.
punnet: statically-linked-binary
# A static program at no fixed address looks like a library.
punnet: shared-library-lacks-prerequisites
";

const COPYRIGHT: &str = "\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: punnet
Source: https://github.com/punnet/punnet

Files: *
Copyright: 2026 The Punnet authors
License: Apache-2.0
 On Debian systems the text is in /usr/share/common-licenses/Apache-2.0.
";

fn md5sums(tree: &Path) -> Result<String> {
    let script = "find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum";
    stdout_of(Command::new("sh").args(["-c", script]).current_dir(tree))
}

fn sums(output: &Path) -> Result<()> {
    let text = stdout_of(
        Command::new("sh")
            .args(["-c", "LC_ALL=C sha256sum -- *"])
            .current_dir(output),
    )?;
    Ok(fs::write(output.join("SHA256SUMS"), text)?)
}

/// Ed25519 signatures have no randomness: the same key and bytes give the same signature.
fn sign(output: &Path, key: &Path) -> Result<()> {
    let mut command = Command::new("ssh-keygen");
    command
        .args(["-q", "-Y", "sign", "-n", NAMESPACE, "-f"])
        .arg(key)
        .arg(output.join("SHA256SUMS"));
    run(command.stdin(Stdio::null()).stderr(Stdio::null()))
        .with_context(|| format!("cannot sign with {}", key.display()))
}
