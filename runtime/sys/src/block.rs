//! Disks, file systems and watchdogs by ioctl(2).

use crate::Result;
use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Reads a disk's partition table anew; EBUSY while one of its partitions is in use. BLKRRPART of linux/fs.h
pub fn reread_partitions(disk: BorrowedFd<'_>) -> Result<()> {
    const BLKRRPART: u32 = 0x125f;
    // SAFETY: the request takes no argument.
    Errno::result(unsafe { libc::ioctl(disk.as_raw_fd(), BLKRRPART as _, 0 as libc::c_int) })?;
    Ok(())
}

/// Grows a mounted ext4 file system, any directory of which is given, to so many of its blocks. EXT4_IOC_RESIZE_FS of linux/ext4.h
pub fn ext4_resize(directory: BorrowedFd<'_>, blocks: u64) -> Result<()> {
    const EXT4_IOC_RESIZE_FS: u32 = 0x4008_6610;
    // SAFETY: the request reads a 64-bit number.
    Errno::result(unsafe { libc::ioctl(directory.as_raw_fd(), EXT4_IOC_RESIZE_FS as _, &raw const blocks) })?;
    Ok(())
}

/// Sets a watchdog's timeout in seconds and returns the one that the hardware has taken. WDIOC_SETTIMEOUT of linux/watchdog.h
pub fn watchdog_set_timeout(watchdog: BorrowedFd<'_>, seconds: i32) -> Result<i32> {
    const WDIOC_SETTIMEOUT: u32 = 0xc004_5706;
    let mut timeout: libc::c_int = seconds;
    // SAFETY: the request reads and writes an int.
    Errno::result(unsafe { libc::ioctl(watchdog.as_raw_fd(), WDIOC_SETTIMEOUT as _, &raw mut timeout) })?;
    Ok(timeout)
}
