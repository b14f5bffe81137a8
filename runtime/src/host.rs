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
            return Err(Error::Setup("/proc of the host is not a procfs".to_owned()).into());
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

    /// Opens one of the calling process' own attributes.
    fn attribute(&self, name: &str) -> nix::Result<OwnedFd> {
        // Nothing mounted over a file of procfs can stand in for it (CVE-2019-16884).
        let how = OpenHow::new().flags(OFlag::O_WRONLY | OFlag::O_CLOEXEC).resolve(
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        );
        openat2(&self.0, Path::new(&format!("thread-self/attr/{name}")), how)
    }
}

/// Labels that the next execve(2) takes on. Their files are opened while the process still is the caller's: later they belong to
/// nobody it may be.
#[derive(Debug, Default)]
pub(crate) struct Labels {
    apparmor: Option<(OwnedFd, String)>,
    selinux: Option<(OwnedFd, String)>,
}

impl Labels {
    /// Opens what this process will need.
    pub fn open(proc: Option<&HostProc>, process: &ProcessPlan) -> Result<Self> {
        let Some(proc) = proc else {
            return Ok(Self::default());
        };
        let apparmor = process.apparmor_profile.as_ref().map(|profile| {
            // The file of all modules belongs to another one where several are active.
            match proc.attribute("apparmor/exec") {
                Err(Errno::ENOENT) => proc.attribute("exec"),
                result => result,
            }
            .os("prepare process.apparmorProfile", profile)
            .map(|file| (file, profile.clone()))
        });
        let selinux = process.selinux_label.as_ref().map(|label| {
            proc.attribute("exec")
                .os("prepare process.selinuxLabel", label)
                .map(|file| (file, label.clone()))
        });
        Ok(Self {
            apparmor: apparmor.transpose()?,
            selinux: selinux.transpose()?,
        })
    }

    /// Sets them.
    pub fn set(&self) -> Result<()> {
        if let Some((file, profile)) = &self.apparmor {
            nix::unistd::write(file, format!("exec {profile}").as_bytes())
                .os("set process.apparmorProfile (is the profile loaded?)", profile)?;
        }
        if let Some((file, label)) = &self.selinux {
            nix::unistd::write(file, label.as_bytes()).os("set process.selinuxLabel", label)?;
        }
        Ok(())
    }
}
