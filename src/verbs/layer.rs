//! Where what a container writes goes: over the image's tree on the disk, over it in RAM, or into a copy of its own.

use std::path::Path;

use nix::errno::Errno;
use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};
use nix::unistd::geteuid;
use punnet_images::Image;
use punnet_images::bundle::Layer;

use super::Given;
use crate::container::{Folders, file};
use crate::error::{CliError, Result};

/// statfs(2); nix has no name for it.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6_u32 as _);

/// What `--writable-layer` says, or what this kernel can do.
pub fn choose(given: &Given, folders: &Folders) -> Result<Layer> {
    match given.one("writable-layer") {
        None => Ok(match why_not_overlay(overlay()) {
            None => Layer::OnDisk,
            Some(why) => {
                eprintln!("punnet: {why}: the container gets a copy of the image's files");
                Layer::Copied
            }
        }),
        Some("disk") => Ok(Layer::OnDisk),
        Some("copy") => Ok(Layer::Copied),
        Some("ram") => {
            assert_in_ram(
                folders
                    .run
                    .ancestors()
                    .find(|path| path.exists())
                    .unwrap_or(Path::new("/")),
            )?;
            Ok(Layer::InRam(folders.ram_layer()))
        }
        Some(other) => Err(CliError::usage(format_args!(
            "--writable-layer takes disk, ram or copy, not {other:?}"
        ))),
    }
}

/// Where the kernel has overlayfs and refuses it here (to this user, on this file system), says what can be done.
pub fn with_remedy(error: Box<CliError>) -> Box<CliError> {
    match &*error {
        // The container's own process tells it as text.
        CliError::Runtime(refused) if refused.chain().contains("file system of type overlay") => {
            CliError::OverlayRefused(refused.chain()).into()
        }
        _ => error,
    }
}

/// Copies the image's files.
pub fn copy(image: &Image, to: &Path) -> Result<()> {
    image.copy_to(to)?;
    Ok(())
}

/// Asks the kernel, which loads its module for that: root's containers are asked for as root, an ordinary user's in a user namespace like theirs.
fn overlay() -> nix::Result<()> {
    if !geteuid().is_root() {
        return punnet_runtime::probe::overlay_in_user_namespace();
    }
    let listed = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let is_overlay = |line: &str| line.trim_start_matches("nodev").trim() == "overlay";
    match listed.lines().any(is_overlay) {
        true => Ok(()),
        false => punnet_runtime::probe::file_system("overlay"),
    }
}

/// What stands against it. Another error is told by the mount, which knows more.
fn why_not_overlay(asked: nix::Result<()>) -> Option<&'static str> {
    match asked {
        Err(Errno::ENODEV) => Some("this kernel has no overlayfs (CONFIG_OVERLAY_FS)"),
        Err(Errno::EPERM | Errno::EACCES) if !geteuid().is_root() => {
            Some("this kernel refuses overlayfs to the containers of an ordinary user (Linux 5.11 does not)")
        }
        _ => None,
    }
}

/// What is promised to be in RAM is.
fn assert_in_ram(path: &Path) -> Result<()> {
    let kind = statfs(path)
        .map_err(|errno| file("cannot look at", path)(errno.into()))?
        .filesystem_type();
    if [TMPFS_MAGIC, RAMFS_MAGIC].contains(&kind) {
        return Ok(());
    }
    Err(CliError::usage(format_args!(
        "--writable-layer ram: {} is not in RAM; choose a --run-root on a tmpfs",
        path.display()
    )))
}
