//! What this kernel can do, asked by trying: for `punnet doctor`. Nothing stays of it.

use crate::plan::namespaces_bits::{MOUNT, USER};
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use std::os::fd::AsFd;
use std::path::Path;

/// Where the cgroup v2 tree is mounted.
pub fn cgroup_root() -> Option<&'static Path> {
    crate::cgroup::hierarchy()
}

/// The cgroup in which those of an ordinary user's containers are made; `None` where no v2 tree is mounted.
pub fn cgroup_of_users_containers() -> Option<std::path::PathBuf> {
    crate::cgroup::beside_own(cgroup_root()?).ok()
}

/// Version of Landlock's interface. ENOSYS: not built in; EOPNOTSUPP: not switched on.
pub fn landlock_version() -> nix::Result<u32> {
    punnet_sys::landlock_version()
}

/// Makes a user namespace, in a process that ends at once.
pub fn user_namespace() -> nix::Result<()> {
    in_namespaces(USER, || Ok(()))
}

/// Whether overlayfs can be mounted in a user namespace. ENODEV: the kernel has none; EPERM: it lets only the administrator (before Linux 5.11).
pub fn overlay_in_user_namespace() -> nix::Result<()> {
    in_namespaces(USER | MOUNT, || {
        let overlay = punnet_sys::fsopen(c"overlay")?;
        match punnet_sys::fsconfig_create(overlay.as_fd()) {
            Err(errno @ (Errno::EPERM | Errno::EACCES)) => Err(errno),
            // That it is to be mounted of nothing is found out after that.
            _ => Ok(()),
        }
    })
}

/// Asks in a process of its own, which ends at once.
fn in_namespaces(namespaces: u64, ask: impl Fn() -> nix::Result<()>) -> nix::Result<()> {
    let args = punnet_sys::CloneArgs {
        namespaces,
        ..punnet_sys::CloneArgs::default()
    };
    match punnet_sys::clone3(args)? {
        punnet_sys::Forked::Child => punnet_sys::exit_now(ask().map_or_else(|errno| errno as i32, |()| 0)),
        punnet_sys::Forked::Parent(pid, _) => match waitpid(pid, None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            WaitStatus::Exited(_, code) => Err(Errno::from_raw(code)),
            _ => Err(Errno::EINTR),
        },
    }
}

/// Whether there is a file system of this type; the kernel loads its module for that. EPERM: only an administrator may ask.
pub fn file_system(kind: &str) -> nix::Result<()> {
    let kind = std::ffi::CString::new(kind).map_err(|_| Errno::EINVAL)?;
    punnet_sys::fsopen(&kind).map(drop)
}
