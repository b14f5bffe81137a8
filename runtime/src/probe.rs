//! What this kernel can do, asked by trying: for `punnet doctor`. Nothing stays of it.

use nix::errno::Errno;
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
    let args = punnet_sys::CloneArgs {
        namespaces: crate::plan::namespaces_bits::USER,
        ..punnet_sys::CloneArgs::default()
    };
    match punnet_sys::clone3(args)? {
        punnet_sys::Forked::Child => punnet_sys::exit_now(0),
        punnet_sys::Forked::Parent(pid, _) => {
            nix::sys::wait::waitpid(pid, None)?;
            Ok(())
        }
    }
}

/// Whether there is a file system of this type; the kernel loads its module for that. EPERM: only an administrator may ask.
pub fn file_system(kind: &str) -> nix::Result<()> {
    let kind = std::ffi::CString::new(kind).map_err(|_| Errno::EINVAL)?;
    punnet_sys::fsopen(&kind).map(drop)
}
