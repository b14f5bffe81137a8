//! seccomp(2).

use crate::{Result, check};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// One classic BPF instruction, as linux/filter.h lays it out.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SockFilter {
    /// Operation.
    pub code: u16,
    /// Jump when true.
    pub jt: u8,
    /// Jump when false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

#[repr(C)]
struct SockFprog {
    len: libc::c_ushort,
    filter: *const SockFilter,
}

/// The most instructions the kernel takes (BPF_MAXINSNS).
pub const FILTER_INSTRUCTIONS_MAX: usize = 4096;

/// Installs a filter on the calling thread. EINVAL when the program is longer than [`FILTER_INSTRUCTIONS_MAX`]. seccomp(2)
pub fn seccomp_set_mode_filter(program: &[SockFilter], flags: u32) -> Result<()> {
    install(program, flags & !NEW_LISTENER).map(drop)
}

/// Installs a filter and returns the descriptor that receives its notifications. seccomp_unotify(2)
pub fn seccomp_set_mode_filter_listener(program: &[SockFilter], flags: u32) -> Result<OwnedFd> {
    let fd = install(program, flags | NEW_LISTENER)?;
    // SAFETY: with this flag the kernel returns a descriptor that it has made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// SECCOMP_FILTER_FLAG_NEW_LISTENER
const NEW_LISTENER: u32 = 8;

fn install(program: &[SockFilter], flags: u32) -> Result<libc::c_long> {
    if program.len() > FILTER_INSTRUCTIONS_MAX {
        return Err(nix::errno::Errno::EINVAL);
    }
    let program = SockFprog {
        len: program.len() as libc::c_ushort,
        filter: program.as_ptr(),
    };
    // SAFETY: `program` describes a live slice of instructions; the kernel copies and verifies it.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    })
}
