//! What the board is, as far as Linux tells.

use std::fs;
use std::path::Path;

use nix::sys::statvfs::statvfs;
use nix::sys::utsname::uname;
use punnet_protocol::{Arch, BoardInfo, clipped};

/// Free space is told in steps, so that it is no news each time a file grows.
const DISK_STEP_BYTES: u64 = 1 << 20;

/// Describes this board; `folder` is on the file system that holds the images.
pub fn describe(name: &str, folder: &Path) -> BoardInfo {
    let uname = uname().ok();
    let text = |field: &std::ffi::OsStr| field.to_string_lossy().into_owned();
    let machine = uname
        .as_ref()
        .map(|uname| text(uname.machine()))
        .unwrap_or_default();
    let kernel = uname
        .as_ref()
        .map(|uname| text(uname.release()))
        .unwrap_or_default();
    // Both are 32 bits wide on 32-bit boards.
    #[allow(clippy::useless_conversion, reason = "the types depend on the target")]
    let free = statvfs(folder)
        .map(|stat| u64::from(stat.blocks_available()) * u64::from(stat.fragment_size()))
        .unwrap_or_default();
    BoardInfo {
        arch: arch(&machine),
        agent_version: clipped(env!("CARGO_PKG_VERSION")),
        board: clipped(name),
        kernel: clipped(&kernel),
        memory_bytes: fs::read_to_string("/proc/meminfo")
            .ok()
            .and_then(|text| total_memory(&text))
            .unwrap_or(0),
        disk_free_bytes: free / DISK_STEP_BYTES * DISK_STEP_BYTES,
    }
}

/// What this binary is built for; a 32-bit one tells ARMv6 from ARMv7 by the kernel's word.
fn arch(machine: &str) -> Arch {
    if cfg!(target_arch = "x86_64") {
        Arch::Amd64
    } else if cfg!(target_arch = "aarch64") {
        Arch::Arm64
    } else if machine.starts_with("armv6") {
        Arch::ArmV6
    } else {
        Arch::ArmV7
    }
}

/// `MemTotal` of proc_meminfo(5), in bytes.
fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()
        .map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(
            total_memory("MemTotal:         440924 kB\nMemFree: 1 kB\n"),
            Some(440_924 << 10)
        );
        assert_eq!(total_memory("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn this_machine_is_described() {
        let board = describe("generic", Path::new("/"));
        assert!(board.memory_bytes > 0 && !board.kernel.is_empty() && board.board == "generic");
    }
}
