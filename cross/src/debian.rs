//! Debian's root file system by debootstrap: as a real image of many layers, with layers upon it that replace, remove and hide, made by umoci once and kept
//! below the target directory; and for an emulated board of another architecture, as far as that goes on this one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;
use punnet_boards::Arch;

use crate::build::target_dir;
use crate::kernel::{RELEASE, debian_arch, mirror};
use crate::packages;
use crate::process::stdout_of;

/// Name of the image in the layout.
pub const IMAGE: &str = "debian";

/// Programs it takes, and the Debian package of each.
const PROGRAMS: &[(&str, &str)] = &[("debootstrap", "debootstrap"), ("umoci", "umoci")];

/// The OCI layout that has it. Takes root, and about a minute the first time.
pub fn many_layers() -> Result<PathBuf> {
    let layout = target_dir().join("debian").join(format!("many-layers-{RELEASE}"));
    if layout.is_dir() {
        return Ok(layout);
    }
    packages::ensure(PROGRAMS)?;
    fs::create_dir_all(target_dir().join("debian"))?;
    // Whole or not there.
    let folder = tempfile::tempdir_in(target_dir())?;
    let made = folder.path().join("layout");
    make(folder.path(), &made)?;
    if let Err(error) = fs::rename(&made, &layout)
        && !layout.is_dir()
    {
        return Err(error.into());
    }
    Ok(layout)
}

fn make(folder: &Path, layout: &Path) -> Result<()> {
    let image = format!("{}:{IMAGE}", layout.display());
    let bundle = folder.join("bundle");
    quiet(Command::new("umoci").arg("init").arg("--layout").arg(layout))?;
    umoci(&["new", "--image", &image])?;
    quiet(
        Command::new("umoci")
            .args(["unpack", "--image", &image])
            .arg(&bundle),
    )?;
    quiet(
        Command::new("debootstrap")
            .args(["--variant=minbase", RELEASE])
            .arg(bundle.join("rootfs"))
            .arg(mirror()?),
    )?;
    quiet(
        Command::new("umoci")
            .args(["repack", "--image", &image])
            .arg(&bundle),
    )?;
    // As updates do it: a package's files are replaced and added, lists are removed, a folder has new content and nothing of the old.
    let source = folder.join("source");
    fs::create_dir_all(source.join("etc/dpkg"))?;
    fs::create_dir_all(source.join("usr/local/bin"))?;
    fs::write(source.join("etc/issue"), "replaced\n")?;
    fs::write(source.join("usr/local/bin/new"), "#!/bin/sh\necho new\n")?;
    fs::set_permissions(source.join("usr/local/bin/new"), PermissionsExt::from_mode(0o755))?;
    std::os::unix::fs::symlink("new", source.join("usr/local/bin/link"))?;
    let path = |name: &str| source.join(name).display().to_string();
    umoci(&["insert", "--image", &image, &path("etc"), "/etc"])?;
    umoci(&["insert", "--image", &image, &path("usr/local"), "/usr/local"])?;
    umoci(&["insert", "--image", &image, "--whiteout", "/usr/share/doc"])?;
    umoci(&["insert", "--image", &image, "--whiteout", "/etc/motd"])?;
    umoci(&[
        "insert",
        "--image",
        &image,
        "--opaque",
        &path("etc/dpkg"),
        "/etc/apt",
    ])?;
    umoci(&[
        "insert",
        "--image",
        &image,
        &path("usr/local/bin"),
        "/usr/share/doc",
    ])?;
    umoci(&["config", "--image", &image, "--config.cmd", "/bin/sh"])
}

/// Debian with these packages besides (commas between), fetched and in part unpacked into `root`: `/debootstrap/debootstrap --second-stage` there does the
/// rest, on that architecture. Takes root.
pub fn first_stage(arch: Arch, packages: &str, root: &Path) -> Result<()> {
    packages::ensure(&[("debootstrap", "debootstrap")])?;
    quiet(
        Command::new("debootstrap")
            .args(["--foreign", "--variant=minbase"])
            .arg(format!("--arch={}", debian_arch(arch)))
            .arg(format!("--include={packages}"))
            .arg(RELEASE)
            .arg(root)
            .arg(mirror()?),
    )?;
    // In a container debootstrap makes a link of it, to the container's own.
    let proc = root.join("proc");
    if proc.is_symlink() {
        fs::remove_file(&proc)?;
        fs::create_dir(&proc)?;
    }
    Ok(())
}

fn umoci(words: &[&str]) -> Result<()> {
    quiet(Command::new("umoci").args(words))
}

/// Runs to the end without a word.
fn quiet(command: &mut Command) -> Result<()> {
    stdout_of(command.stdin(Stdio::null())).map(drop)
}
