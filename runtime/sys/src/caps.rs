//! capabilities(7).

use crate::{Result, check};

/// _LINUX_CAPABILITY_VERSION_3: two 32-bit words per set.
const VERSION_3: u32 = 0x2008_0522;

/// The three sets of capget(2), one bit per capability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapSets {
    /// Checked by the kernel.
    pub effective: u64,
    /// May be made effective.
    pub permitted: u64,
    /// Kept over execve(2) by files that ask for it.
    pub inheritable: u64,
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Sets of the calling thread. capget(2)
pub fn capget() -> Result<CapSets> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    // SAFETY: both pointers are to live values of the layout that version 3 asks for.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok(CapSets {
        effective: join(data[0].effective, data[1].effective),
        permitted: join(data[0].permitted, data[1].permitted),
        inheritable: join(data[0].inheritable, data[1].inheritable),
    })
}

/// Sets of the calling thread. capset(2)
pub fn capset(sets: CapSets) -> Result<()> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let word = |shift: u32| Data {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let data = [word(0), word(32)];
    // SAFETY: both pointers are to live values of the layout that version 3 asks for; the kernel only reads `data`.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })?;
    Ok(())
}

fn prctl(option: libc::c_int, arg2: libc::c_ulong, arg3: libc::c_ulong) -> Result<libc::c_int> {
    const ZERO: libc::c_ulong = 0;
    // SAFETY: the options used in this file take integers only.
    let result = unsafe { libc::prctl(option, arg2, arg3, ZERO, ZERO) };
    nix::errno::Errno::result(result)
}

/// Drops a capability from the bounding set. PR_CAPBSET_DROP(2const)
pub fn cap_bset_drop(cap: u8) -> Result<()> {
    prctl(libc::PR_CAPBSET_DROP, cap.into(), 0)?;
    Ok(())
}

/// Whether the bounding set has a capability; EINVAL when the kernel does not know it. PR_CAPBSET_READ(2const)
pub fn cap_bset_read(cap: u8) -> Result<bool> {
    Ok(prctl(libc::PR_CAPBSET_READ, cap.into(), 0)? == 1)
}

/// Adds a capability to the ambient set. PR_CAP_AMBIENT(2const)
pub fn cap_ambient_raise(cap: u8) -> Result<()> {
    prctl(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong,
        cap.into(),
    )?;
    Ok(())
}

/// Empties the ambient set. PR_CAP_AMBIENT(2const)
pub fn cap_ambient_clear_all() -> Result<()> {
    prctl(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong,
        0,
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capset_of_capget_changes_nothing() {
        let before = capget().unwrap();
        capset(before).unwrap();
        assert_eq!(capget().unwrap(), before);
        assert!(cap_bset_read(200).is_err());
    }
}
