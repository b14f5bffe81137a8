//! Landlock: only whether it is there. landlock(7)

use crate::{Result, check};

/// The number is the same on every architecture; the libc crate lacks it for some.
const SYS_LANDLOCK_CREATE_RULESET: libc::c_long = 444;
const LANDLOCK_CREATE_RULESET_VERSION: libc::c_uint = 1;

/// The version of the interface. landlock_create_ruleset(2)
pub fn landlock_version() -> Result<u32> {
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag and no attributes the kernel only answers.
    let version = check(unsafe {
        libc::syscall(
            SYS_LANDLOCK_CREATE_RULESET,
            none,
            0_usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    })?;
    Ok(version as u32)
}
