//! Extended attributes by descriptor. xattr(7)

use nix::errno::Errno;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sets an attribute. fsetxattr(2)
pub fn fsetxattr(fd: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> nix::Result<()> {
    // SAFETY: the name ends with NUL, the value is as long as said, and the kernel only reads them.
    let result = unsafe {
        libc::fsetxattr(
            fd.as_raw_fd(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    Errno::result(result).map(drop)
}

/// Removes an attribute. fremovexattr(2)
pub fn fremovexattr(fd: BorrowedFd<'_>, name: &CStr) -> nix::Result<()> {
    // SAFETY: the name ends with NUL, and the kernel only reads it.
    let result = unsafe { libc::fremovexattr(fd.as_raw_fd(), name.as_ptr()) };
    Errno::result(result).map(drop)
}

/// Reads an attribute into `buffer` and returns its length; with an empty buffer only the length. fgetxattr(2)
pub fn fgetxattr(fd: BorrowedFd<'_>, name: &CStr, buffer: &mut [u8]) -> nix::Result<usize> {
    // SAFETY: the name ends with NUL, and the kernel writes at most the length given.
    let result = unsafe {
        libc::fgetxattr(
            fd.as_raw_fd(),
            name.as_ptr(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
        )
    };
    Errno::result(result).map(|length| length as usize)
}

/// Reads the names, each closed by NUL, into `buffer` and returns their length; with an empty buffer only the length. flistxattr(2)
pub fn flistxattr(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<usize> {
    // SAFETY: the kernel writes at most the length given.
    let result = unsafe { libc::flistxattr(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    Errno::result(result).map(|length| length as usize)
}
