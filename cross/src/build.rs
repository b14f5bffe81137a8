//! Building our own programs.

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process::{run, stdout_of};

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("cross/ is a folder of the repository")
}

/// Makes a file have this content, from one moment to the next, and leaves it alone when it has: others may be reading it.
pub fn keep(path: &Path, text: &str, mode: u32) -> Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|found| found == text) {
        return Ok(());
    }
    let folder = path.parent().context("a file is in a folder")?;
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    std::fs::set_permissions(file.path(), Permissions::from_mode(mode))?;
    file.into_temp_path().persist(path)?;
    Ok(())
}

/// Where cargo writes.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The cargo that runs us.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// How a static binary for this machine is made.
pub struct StaticTarget {
    /// The Rust target triple.
    pub triple: String,
    /// False when the C library of this machine has no static half: then the binary is dynamic.
    pub is_static: bool,
}

/// Picks the musl target when it is installed, else glibc's static half.
pub fn static_target() -> Result<StaticTarget> {
    let version = stdout_of(Command::new("rustc").arg("-vV"))?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc -vV names no host")?;
    let musl = host.replace("-gnu", "-musl");
    let sysroot = stdout_of(Command::new("rustc").args(["--print", "sysroot"]))?;
    if Path::new(sysroot.trim())
        .join("lib/rustlib")
        .join(&musl)
        .join("lib")
        .is_dir()
    {
        return Ok(StaticTarget {
            triple: musl,
            is_static: true,
        });
    }
    let libc = stdout_of(Command::new("cc").arg("-print-file-name=libc.a"))?;
    Ok(StaticTarget {
        triple: host.into(),
        is_static: Path::new(libc.trim()).is_absolute(),
    })
}

/// Whether symbols are left in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Strip {
    /// As we ship it.
    Yes,
    /// For looking into it.
    No,
    /// With line tables besides: a build for a board, compiled once more in a folder of its own.
    NoAndLines,
}

/// Builds `package` as small as we ship it and returns the path of its binary.
pub fn device_binary(package: &str, features: &[&str], strip: Strip) -> Result<PathBuf> {
    let target = static_target()?;
    let mut command = cargo();
    command.args([
        "build",
        "--release",
        "--locked",
        "--package",
        package,
        "--target",
        &target.triple,
    ]);
    // A folder of its own for each feature set, so that one does not undo the other's work.
    let folder = target_dir().join("device").join(features_name(features));
    command.arg("--target-dir").arg(&folder);
    if !features.is_empty() {
        command.args(["--no-default-features", "--features", &features.join(",")]);
    }
    if target.is_static {
        command.env("RUSTFLAGS", "-Ctarget-feature=+crt-static");
    }
    // Linked once, with its symbols.
    run(command.env("CARGO_PROFILE_RELEASE_STRIP", "none"))?;
    let linked = existing(folder.join(&target.triple).join("release").join(package))?;
    match strip {
        Strip::Yes => stripped(&linked, &folder.join("stripped")),
        Strip::No | Strip::NoAndLines => Ok(linked),
    }
}

/// A copy without symbols in this folder, made anew when it is older.
fn stripped(binary: &Path, folder: &Path) -> Result<PathBuf> {
    let copy = folder.join(binary.file_name().context("a binary has a name")?);
    let changed = |path: &Path| std::fs::metadata(path)?.modified();
    if changed(&copy).is_ok_and(|copied| changed(binary).is_ok_and(|linked| copied >= linked)) {
        return Ok(copy);
    }
    std::fs::create_dir_all(folder)?;
    // Under another name first: the old one may be running.
    let new = copy.with_extension(std::process::id().to_string());
    run(Command::new("strip").arg("-o").args([&new, binary]))?;
    std::fs::rename(&new, &copy)?;
    Ok(copy)
}

/// Builds the fleet controller for this machine and returns the path of its binary.
pub fn fleet_binary() -> Result<PathBuf> {
    run(cargo().args([
        "build",
        "--profile",
        "server",
        "--locked",
        "--package",
        "punnet-fleet",
    ]))?;
    existing(target_dir().join("server/punnet-fleet"))
}

/// A folder name for a feature set; none named is all.
pub(crate) fn features_name(features: &[&str]) -> String {
    if features.is_empty() {
        "full".into()
    } else {
        features.join("-")
    }
}

pub(crate) fn existing(path: PathBuf) -> Result<PathBuf> {
    ensure!(path.is_file(), "cargo has built no {}", path.display());
    Ok(path)
}
