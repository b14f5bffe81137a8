//! What the kernel tells each program about its CPU: getauxval(3).

use std::ffi::CStr;

/// AT_PLATFORM: the kernel's name of the CPU, such as `v7l` or `aarch64`. Neither a 32-bit personality nor an old /proc/cpuinfo changes it.
pub fn auxv_platform() -> Option<&'static str> {
    // SAFETY: getauxval(3) has no preconditions.
    let address = unsafe { libc::getauxval(libc::AT_PLATFORM) };
    if address == 0 {
        return None;
    }
    // SAFETY: the kernel has put a string there, above the first thread's stack, where it stays until the process ends.
    let text = unsafe { CStr::from_ptr(address as *const libc::c_char) };
    text.to_str().ok()
}

/// AT_HWCAP: bits of which each architecture's asm/hwcap.h has the meaning; 0 when the kernel tells none.
pub fn auxv_hwcap() -> u64 {
    // SAFETY: getauxval(3) has no preconditions.
    let bits = unsafe { libc::getauxval(libc::AT_HWCAP) };
    bits as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_names_this_cpu() {
        let name = auxv_platform().unwrap();
        let arch = std::env::consts::ARCH;
        assert!(
            name == arch || (arch == "arm" && name.starts_with('v')),
            "{name} on {arch}"
        );
        assert_ne!(auxv_hwcap(), 0);
    }
}
