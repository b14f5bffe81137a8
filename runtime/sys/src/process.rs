//! Processes: clone3(2), pidfds, descriptors, signals' dispositions, keyrings.

use crate::{Result, check};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::unistd::Pid;
use std::ffi::{CStr, OsStr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

/// CLONE_NEWTIME of linux/sched.h: nix does not know it.
pub const CLONE_NEWTIME: u64 = 0x80;
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of clone3(2) the caller is on.
#[derive(Debug)]
pub enum Forked {
    /// The caller: the child's pid, and a pidfd of it unless it was made a sibling.
    Parent(Pid, Option<OwnedFd>),
    /// The new process.
    Child,
}

/// What to make with [`clone3`].
#[derive(Clone, Copy, Debug, Default)]
pub struct CloneArgs<'a> {
    /// CLONE_NEW* bits.
    pub namespaces: u64,
    /// Make the child our sibling (CLONE_PARENT).
    pub sibling: bool,
    /// Start the child in this cgroup v2 directory.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Every namespace bit that [`clone3`] takes.
const NAMESPACES: u64 = CLONE_NEWTIME
    | CloneFlags::from_bits_truncate(
        libc::CLONE_NEWNS
            | libc::CLONE_NEWCGROUP
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUSER
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWNET,
    )
    .bits() as u32 as u64;

/// struct clone_args of linux/sched.h, which the libc crate lacks for 32-bit arm.
#[repr(C, align(8))]
#[derive(Default)]
struct RawCloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Makes a process as fork(2) does, in new namespaces and in a cgroup. EDEADLK when the caller has threads: the child would hold
/// their locks. EINVAL for flags that are not namespaces. clone3(2)
pub fn clone3(args: CloneArgs<'_>) -> Result<Forked> {
    if args.namespaces & !NAMESPACES != 0 {
        return Err(Errno::EINVAL);
    }
    // SAFETY: asks the kernel whether we are single-threaded (EINVAL when not) and changes nothing then. unshare(2)
    if unsafe { libc::unshare(libc::CLONE_THREAD) } != 0 {
        return Err(Errno::EDEADLK);
    }
    let mut pidfd: RawFd = -1;
    let mut raw = RawCloneArgs {
        flags: args.namespaces,
        exit_signal: if args.sibling { 0 } else { libc::SIGCHLD as u64 },
        ..RawCloneArgs::default()
    };
    if args.sibling {
        raw.flags |= libc::CLONE_PARENT as u64;
    } else {
        raw.flags |= CLONE_PIDFD;
        raw.pidfd = &raw mut pidfd as usize as u64;
    }
    if let Some(cgroup) = args.cgroup {
        raw.flags |= CLONE_INTO_CGROUP;
        raw.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: no memory is shared (no CLONE_VM, no stack): the child runs on its own copy, as after fork(2), and we have no threads
    // whose locks it could miss. `raw` and `pidfd` live through the call.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut raw, size_of::<RawCloneArgs>()) })?;
    if pid == 0 {
        return Ok(Forked::Child);
    }
    // SAFETY: the kernel made this descriptor for us in the call above.
    let pidfd = (!args.sibling).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
    Ok(Forked::Parent(Pid::from_raw(pid as libc::pid_t), pidfd))
}

/// Joins the namespaces of `kinds` (CLONE_NEW* bits) of the process behind a pidfd, or the one behind a namespace file. setns(2)
pub fn setns(fd: BorrowedFd<'_>, kinds: u64) -> Result<()> {
    // SAFETY: integers only.
    Errno::result(unsafe { libc::setns(fd.as_raw_fd(), kinds as libc::c_int) })?;
    Ok(())
}

/// A descriptor that stands for a process whatever becomes of its pid. pidfd_open(2)
pub fn pidfd_open(pid: Pid) -> Result<OwnedFd> {
    // SAFETY: integers only.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0 as libc::c_uint) })?;
    // SAFETY: the kernel made this descriptor for us in the call above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends a signal; 0 asks only whether the process is there. pidfd_send_signal(2)
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            info,
            0 as libc::c_uint,
        )
    })?;
    Ok(())
}

/// Marks every descriptor from `first` up close-on-exec. close_range(2)
pub fn close_range_cloexec(first: u32) -> Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: nothing is closed now; descriptors stay valid for whoever owns them until execve(2).
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            CLOSE_RANGE_CLOEXEC,
        )
    })?;
    Ok(())
}

/// Resets a signal to its default action. sigaction(2)
pub fn signal_default(signal: i32) -> Result<()> {
    // SAFETY: SIG_DFL runs no code of ours.
    let previous = unsafe { libc::signal(signal, libc::SIG_DFL) };
    if previous == libc::SIG_ERR {
        Err(Errno::last())
    } else {
        Ok(())
    }
}

/// Starts a new session keyring, so that the container does not see the caller's keys. keyctl(2)
pub fn keyctl_join_session_keyring(name: &CStr) -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_ulong = 1;
    // SAFETY: the name ends with a zero.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) })?;
    Ok(())
}

/// Sets the NIS domain name of the uts namespace. setdomainname(2)
pub fn setdomainname(name: &OsStr) -> Result<()> {
    // SAFETY: pointer and length are of the same slice.
    Errno::result(unsafe { libc::setdomainname(name.as_bytes().as_ptr().cast(), name.len() as _) })?;
    Ok(())
}

/// Sets the calling process' I/O priority: class (1 real time, 2 best effort, 3 idle) and level 0 to 7. ioprio_set(2)
pub fn ioprio_set(class: u8, level: u8) -> Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    let value = libc::c_int::from(class) << 13 | libc::c_int::from(level);
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0 as libc::c_int, value) })?;
    Ok(())
}

/// struct sched_attr of linux/sched/types.h, as it is since Linux 5.3. sched_setattr(2)
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedAttr {
    /// Filled in by [`sched_setattr`].
    pub size: u32,
    /// SCHED_*
    pub policy: u32,
    /// SCHED_FLAG_*
    pub flags: u64,
    /// -20 to 19.
    pub nice: i32,
    /// 1 to 99 for real time.
    pub priority: u32,
    /// Nanoseconds, of SCHED_DEADLINE.
    pub runtime: u64,
    /// Nanoseconds, of SCHED_DEADLINE.
    pub deadline: u64,
    /// Nanoseconds, of SCHED_DEADLINE.
    pub period: u64,
    /// With SCHED_FLAG_UTIL_CLAMP_MIN.
    pub util_min: u32,
    /// With SCHED_FLAG_UTIL_CLAMP_MAX.
    pub util_max: u32,
}

/// Sets policy and attributes of the calling thread. sched_setattr(2)
pub fn sched_setattr(attributes: SchedAttr) -> Result<()> {
    let attributes = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        ..attributes
    };
    let (own, flags) = (0 as libc::c_int, 0 as libc::c_uint);
    // SAFETY: `attributes` lives through the call and tells its size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, own, &raw const attributes, flags) })?;
    Ok(())
}

/// Sets the NUMA policy of the calling thread: mode and flags in one, and one bit a node. set_mempolicy(2)
pub fn set_mempolicy(mode: i32, nodes: &[u64]) -> Result<()> {
    let (mask, bits) = match nodes {
        [] => (std::ptr::null(), 0),
        // The kernel reads one bit less than it is told.
        nodes => (nodes.as_ptr(), nodes.len() * 64 + 1),
    };
    // SAFETY: the mask has as many bits as said; 64-bit words are pairs of 32-bit ones on our little-endian targets.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits as libc::c_ulong) })?;
    Ok(())
}

/// The kernel's resource limits: the part of the name after `RLIMIT_`, and the number. getrlimit(2)
#[allow(clippy::unnecessary_cast)] // u32 with glibc, c_int with musl.
pub const RLIMITS: [(&str, u32); 16] = [
    ("CPU", libc::RLIMIT_CPU as u32),
    ("FSIZE", libc::RLIMIT_FSIZE as u32),
    ("DATA", libc::RLIMIT_DATA as u32),
    ("STACK", libc::RLIMIT_STACK as u32),
    ("CORE", libc::RLIMIT_CORE as u32),
    ("RSS", libc::RLIMIT_RSS as u32),
    ("NPROC", libc::RLIMIT_NPROC as u32),
    ("NOFILE", libc::RLIMIT_NOFILE as u32),
    ("MEMLOCK", libc::RLIMIT_MEMLOCK as u32),
    ("AS", libc::RLIMIT_AS as u32),
    ("LOCKS", libc::RLIMIT_LOCKS as u32),
    ("SIGPENDING", libc::RLIMIT_SIGPENDING as u32),
    ("MSGQUEUE", libc::RLIMIT_MSGQUEUE as u32),
    ("NICE", libc::RLIMIT_NICE as u32),
    ("RTPRIO", libc::RLIMIT_RTPRIO as u32),
    ("RTTIME", libc::RLIMIT_RTTIME as u32),
];

/// Sets a resource limit of another process (of the caller for 0). prlimit(2)
pub fn prlimit(pid: Pid, resource: i32, soft: u64, hard: u64) -> Result<()> {
    // struct rlimit64: the soft limit, then the hard one.
    let limit: [u64; 2] = [soft, hard];
    let old = std::ptr::null_mut::<[u64; 2]>();
    // SAFETY: the new limit lives through the call, the old one is not asked for.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, pid.as_raw(), resource, limit.as_ptr(), old) })?;
    Ok(())
}

/// Names the calling thread, in place of the C library's function of that name: that one can name others too, by a path which it formats, and nothing
/// else here needs printf(3), 12 KiB. The standard library is the only caller, of the thread it runs in. prctl(2) PR_SET_NAME
#[cfg(target_env = "musl")]
#[unsafe(no_mangle)]
extern "C" fn pthread_setname_np(_: libc::pthread_t, name: *const libc::c_char) -> libc::c_int {
    // SAFETY: the caller's name is a C string; the kernel reads 16 bytes of it at most.
    unsafe { libc::prctl(libc::PR_SET_NAME, name) }
}

/// Ends the process at once: nothing is flushed or run. `_exit(2)`
pub fn exit_now(code: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(code) }
}

/// Sets or clears close-on-exec, on a descriptor number because the one that `--preserve-fds` means belongs to the caller's parent.
/// EBADF when it is not open. fcntl(2)
pub fn set_cloexec(fd: RawFd, on: bool) -> Result<()> {
    let flag = if on { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: changes a flag only; ownership is not touched.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_SETFD, flag) })?;
    Ok(())
}

/// Restarts the machine and tells its firmware why; returns only when it did not. reboot(2), LINUX_REBOOT_CMD_RESTART2
pub fn restart_with(argument: &std::ffi::CStr) -> nix::errno::Errno {
    use libc::{LINUX_REBOOT_CMD_RESTART2, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2};
    // SAFETY: the argument is a string that outlives the call; the kernel copies up to 256 bytes of it.
    unsafe {
        libc::syscall(
            libc::SYS_reboot,
            LINUX_REBOOT_MAGIC1,
            LINUX_REBOOT_MAGIC2,
            LINUX_REBOOT_CMD_RESTART2,
            argument.as_ptr(),
        )
    };
    nix::errno::Errno::last()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clone3_refuses_a_process_with_threads_and_foreign_flags() {
        // The test harness itself is a thread beside the main one.
        assert_eq!(clone3(CloneArgs::default()).unwrap_err(), Errno::EDEADLK);
        let vm = CloneArgs {
            namespaces: libc::CLONE_VM as u64,
            ..CloneArgs::default()
        };
        assert_eq!(clone3(vm).unwrap_err(), Errno::EINVAL);
    }

    #[test]
    fn pidfd_of_ourselves_answers_signal_zero() {
        let pidfd = pidfd_open(Pid::this()).unwrap();
        pidfd_send_signal(std::os::fd::AsFd::as_fd(&pidfd), 0).unwrap();
    }
}
