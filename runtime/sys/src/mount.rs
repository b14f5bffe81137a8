//! Mounts by file descriptor: fsopen(2), fsconfig(2), fsmount(2), open_tree(2), move_mount(2), mount_setattr(2).

use crate::{Result, check};
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// MOUNT_ATTR_* of linux/mount.h.
pub mod attr {
    /// Read-only.
    pub const RDONLY: u64 = 0x1;
    /// Ignore set-user-id bits and file capabilities.
    pub const NOSUID: u64 = 0x2;
    /// Devices cannot be opened.
    pub const NODEV: u64 = 0x4;
    /// Nothing can be executed.
    pub const NOEXEC: u64 = 0x8;
    /// The bits that hold the atime mode.
    pub const ATIME: u64 = 0x70;
    /// Atime mode: relative (the value 0).
    pub const RELATIME: u64 = 0x0;
    /// Atime mode: never.
    pub const NOATIME: u64 = 0x10;
    /// Atime mode: always.
    pub const STRICTATIME: u64 = 0x20;
    /// No atime on directories.
    pub const NODIRATIME: u64 = 0x80;
    /// Symbolic links are not followed.
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// Propagation types: MS_* of linux/mount.h.
pub mod propagation {
    /// Cannot be bound, and private.
    pub const UNBINDABLE: u64 = 1 << 17;
    /// Mounts stay here.
    pub const PRIVATE: u64 = 1 << 18;
    /// Mounts come in and do not go out.
    pub const SLAVE: u64 = 1 << 19;
    /// Mounts come in and go out.
    pub const SHARED: u64 = 1 << 20;
}

const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const OPEN_TREE_CLONE: libc::c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;

/// The longest string fsconfig(2) takes: the kernel copies 256 bytes with the ending zero.
pub const FSCONFIG_STRING_MAX: usize = 255;

/// Wraps a descriptor that the kernel has just made.
fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: called only with the result of a system call that made this descriptor for us alone.
    unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) }
}

/// Starts to configure a new file system. fsopen(2)
pub fn fsopen(kind: &CStr) -> Result<OwnedFd> {
    // SAFETY: `kind` ends with a zero.
    check(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) }).map(owned)
}

/// Sets a key to a string of at most [`FSCONFIG_STRING_MAX`] bytes. fsconfig(2)
pub fn fsconfig_set_string(fs: BorrowedFd<'_>, key: &CStr, value: &CStr) -> Result<()> {
    let (command, aux) = (FSCONFIG_SET_STRING, 0 as libc::c_int);
    // SAFETY: both strings end with a zero.
    check(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            fs.as_raw_fd(),
            command,
            key.as_ptr(),
            value.as_ptr(),
            aux,
        )
    })?;
    Ok(())
}

/// Sets a key without a value. fsconfig(2)
pub fn fsconfig_set_flag(fs: BorrowedFd<'_>, key: &CStr) -> Result<()> {
    let (command, value, aux) = (FSCONFIG_SET_FLAG, std::ptr::null::<u8>(), 0 as libc::c_int);
    // SAFETY: the key ends with a zero; the value must be null for this command.
    check(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            fs.as_raw_fd(),
            command,
            key.as_ptr(),
            value,
            aux,
        )
    })?;
    Ok(())
}

/// Makes the file system as configured. fsconfig(2)
pub fn fsconfig_create(fs: BorrowedFd<'_>) -> Result<()> {
    let (command, null, aux) = (FSCONFIG_CMD_CREATE, std::ptr::null::<u8>(), 0 as libc::c_int);
    // SAFETY: key and value must be null for this command.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), command, null, null, aux) })?;
    Ok(())
}

/// Makes a detached mount of a configured file system, with [`attr`] flags. fsmount(2)
pub fn fsmount(fs: BorrowedFd<'_>, attributes: u64) -> Result<OwnedFd> {
    let attributes = attributes as libc::c_uint;
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_fsmount, fs.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) }).map(owned)
}

/// Clones the mount at `path` below `dir` (at `dir` itself when empty), with the mounts under it when `recursive`, as a detached
/// tree. open_tree(2)
pub fn open_tree_clone(dir: BorrowedFd<'_>, path: &CStr, recursive: bool) -> Result<OwnedFd> {
    let depth = if recursive {
        libc::AT_RECURSIVE as libc::c_uint
    } else {
        0
    };
    let flags =
        OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint | libc::AT_EMPTY_PATH as libc::c_uint | depth;
    // SAFETY: the path ends with a zero.
    check(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) }).map(owned)
}

/// Attaches a detached mount on top of what `target` refers to. move_mount(2)
pub fn move_mount(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    let (from, to, empty) = (mount.as_raw_fd(), target.as_raw_fd(), c"".as_ptr());
    // SAFETY: the paths are an empty constant.
    check(unsafe { libc::syscall(libc::SYS_move_mount, from, empty, to, empty, flags) })?;
    Ok(())
}

/// Changes [`attr`] flags and the [`propagation`] (0 to keep) of the mount `mount` refers to, and of those under it when
/// `recursive`. mount_setattr(2)
pub fn mount_setattr(
    mount: BorrowedFd<'_>,
    recursive: bool,
    set: u64,
    clear: u64,
    propagation: u64,
) -> Result<()> {
    set_attributes(mount, recursive, [set, clear, propagation, 0])
}

/// Shows the owners of a detached mount's files through the maps of a user namespace. EINVAL for file systems that cannot. mount_setattr(2),
/// MOUNT_ATTR_IDMAP
pub fn mount_idmap(mount: BorrowedFd<'_>, recursive: bool, user_namespace: BorrowedFd<'_>) -> Result<()> {
    const IDMAP: u64 = 0x10_0000;
    let namespace = user_namespace.as_raw_fd().cast_unsigned();
    set_attributes(mount, recursive, [IDMAP, 0, 0, namespace.into()])
}

/// `change`: attributes to set, to clear, propagation, a user namespace.
fn set_attributes(mount: BorrowedFd<'_>, recursive: bool, change: [u64; 4]) -> Result<()> {
    let [attr_set, attr_clr, propagation, userns_fd] = change;
    let change = libc::mount_attr {
        attr_set,
        attr_clr,
        propagation,
        userns_fd,
    };
    let depth = if recursive { libc::AT_RECURSIVE } else { 0 };
    let flags = (libc::AT_EMPTY_PATH | depth) as libc::c_uint;
    let (size, empty) = (size_of::<libc::mount_attr>(), c"".as_ptr());
    // SAFETY: `change` lives through the call and `size` is its size.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            empty,
            flags,
            &raw const change,
            size,
        )
    })?;
    Ok(())
}
