//! The host as a process of the container still needs it while it sets itself up: the host's procfs, for labels and for its own number
//! there. Opened before the namespaces change, never looked up by path afterwards.

use crate::error::{Error, OsContext, Result};
use crate::plan::ProcessPlan;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::Mode;
use nix::sys::statfs::{FsType, PROC_SUPER_MAGIC, statfs};
use std::os::fd::OwnedFd;
use std::path::Path;

/// SELINUX_MAGIC of linux/magic.h.
const SELINUXFS: i64 = 0xf97c_ff8c;

/// Whether AppArmor decides on this machine.
pub(crate) fn has_apparmor() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"))
}

/// Whether SELinux decides on this machine: then its file system is there.
pub(crate) fn has_selinux() -> bool {
    statfs("/sys/fs/selinux").is_ok_and(|stat| stat.filesystem_type() == FsType(SELINUXFS as _))
}

/// The host's procfs.
#[derive(Debug)]
pub(crate) struct HostProc(OwnedFd);

impl HostProc {
    /// Opens it where the process will need it: for labels, or to say its number to a seccomp listener.
    pub fn open_for(process: &ProcessPlan, listener: bool) -> Result<Option<Self>> {
        if !listener && process.apparmor_profile.is_none() && process.selinux_label.is_none() {
            return Ok(None);
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open("/proc", flags, Mode::empty()).os("open", "/proc")?;
        if !crate::rootfs::is_on(&fd, PROC_SUPER_MAGIC).os("inspect", "/proc")? {
            return Err(Error::Setup("/proc of the host is not a procfs".to_owned()));
        }
        Ok(Some(Self(fd)))
    }

    /// The calling process' number as the host sees it.
    pub fn own_pid(&self) -> Result<i32> {
        let link = readlinkat(&self.0, "thread-self").os("read", "/proc/thread-self")?;
        link.to_str()
            .and_then(|text| text.split('/').next())
            .and_then(|number| number.parse().ok())
            .ok_or(Errno::ESRCH)
            .os("read", "/proc/thread-self")
    }

    /// Sets the labels that the next execve(2) takes on.
    pub fn set_labels(&self, process: &ProcessPlan) -> Result<()> {
        if let Some(profile) = &process.apparmor_profile {
            let value = format!("exec {profile}");
            // The shared file belongs to another module where several are active.
            match self.write("thread-self/attr/apparmor/exec", &value) {
                Err(Errno::ENOENT) => self.write("thread-self/attr/exec", &value),
                result => result,
            }
            .os("change to the AppArmor profile (is it loaded?)", profile)?;
        }
        if let Some(label) = &process.selinux_label {
            self.write("thread-self/attr/exec", label)
                .os("change to the SELinux label", label)?;
        }
        Ok(())
    }

    fn write(&self, path: &str, value: &str) -> nix::Result<()> {
        // Nothing mounted over a file of procfs can stand in for it (CVE-2019-16884).
        let how = OpenHow::new().flags(OFlag::O_WRONLY | OFlag::O_CLOEXEC).resolve(
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        );
        let file = openat2(&self.0, Path::new(path), how)?;
        let written = nix::unistd::write(&file, value.as_bytes())?;
        if written == value.len() {
            Ok(())
        } else {
            Err(Errno::EIO)
        }
    }
}
