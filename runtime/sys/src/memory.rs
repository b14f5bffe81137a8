//! Memory of this process: madvise(2).

use std::ops::Range;

use crate::{Result, check};

/// Gives back the pages of this program's own code and constants that are mapped, by madvise(2) with MADV_DONTNEED: what is needed again comes
/// back from the page cache at the price of a fault. Nothing is lost: the linker lays only what is never written between these two addresses.
///
/// # Errors
/// EINVAL from a kernel that knows no such range; nothing has changed then.
pub fn madvise_dontneed_program() -> Result<()> {
    let pages = program();
    // SAFETY: the range is a private mapping of our file that is only read and executed, so its pages come back as they are.
    check(unsafe { libc::syscall(libc::SYS_madvise, pages.start, pages.len(), libc::MADV_DONTNEED) })
        .map(drop)
}

/// The whole pages of this program that are only read and executed.
fn program() -> Range<usize> {
    // Laid by the linker (GNU ld's and LLVM's): where the file's read-only part begins, and where its code ends.
    unsafe extern "C" {
        static __executable_start: u8;
        static etext: u8;
    }
    let start = (&raw const __executable_start).addr();
    let end = (&raw const etext).addr();
    // The last page may hold the beginning of what is written.
    let page = page_size();
    start..start + end.saturating_sub(start) / page * page
}

fn page_size() -> usize {
    // SAFETY: sysconf reads a constant.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    /// How much of this program's code is mapped now, by proc_pid_smaps(5).
    fn code_kib() -> u64 {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut counts = false;
        let mut kib = 0;
        for line in maps.lines() {
            let mut words = line.split_whitespace();
            let first = words.next().unwrap_or_default();
            if first.contains('-') && !first.ends_with(':') {
                counts = line.contains(" r-xp ") && line.contains("punnet_sys");
            } else if counts && first == "Rss:" {
                kib += words.next().unwrap().parse::<u64>().unwrap();
            }
        }
        kib
    }

    #[test]
    fn given_back_code_still_runs_and_is_no_longer_counted() {
        // Every page is mapped first: other tests run beside this one, and what they touch meanwhile must not outweigh what was given back.
        for page in super::program().step_by(super::page_size()) {
            // SAFETY: the linker's symbols bound what is mapped and readable.
            std::hint::black_box(unsafe { std::ptr::with_exposed_provenance::<u8>(page).read_volatile() });
        }
        let before = code_kib();
        super::madvise_dontneed_program().unwrap();
        let after = code_kib();
        assert!(after < before, "{after} KiB mapped, {before} KiB before");
    }
}
