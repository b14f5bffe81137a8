//! What is left of a panic where panics are a trap instruction and no message, as in the binaries for boards: one line that says where.
//! sigaction(2), signal-safety(7)

use std::io::Write as _;

use crate::{Result, check};

/// What the trap instruction raises: `brk` of 64-bit ARM the first, `udf` of 32-bit ARM and `ud2` of x86-64 the second.
const SIGNALS: [libc::c_int; 2] = [libc::SIGTRAP, libc::SIGILL];

/// What the program was compiled for, as board files call it: addresses are of one build.
const ARCH: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else if cfg!(target_arch = "x86_64") {
    "amd64"
} else if cfg!(target_feature = "v7") {
    "arm-v7"
} else {
    "arm-v6"
};

/// The longest line: every part of it is short and known.
const LINE_BYTES_MAX: usize = 160;

unsafe extern "C" {
    /// Where the program's first byte is in memory: a constant of the linker's (ld.lld, GNU ld). Its address is all there is to it.
    #[link_name = "__executable_start"]
    static START: u8;
}

/// From now on a trap says on standard error where it was, counted from the program's first byte wherever that is in memory; then it ends the
/// process by its signal, as it would have done anyway. execve(2) forgets it. sigaction(2)
pub fn report_traps() -> Result<()> {
    for signal in SIGNALS {
        // SAFETY: all zeros is a sigaction with no flags and an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = report as *const () as usize;
        // Once: when the handler returns, the instruction is executed again, and the default action ends the process.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESETHAND;
        // SAFETY: `report` has the type that SA_SIGINFO asks for and calls only what is safe in a handler; the old action is not asked for.
        check(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) }.into())?;
    }
    Ok(())
}

extern "C" fn report(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: SA_SIGINFO: the kernel has filled it in for us.
    let info = unsafe { &*info };
    if info.si_code <= 0 {
        // A process has sent it: no instruction of ours would raise it again. Blocked until we return, its default action comes then.
        // SAFETY: integers only.
        unsafe { libc::raise(signal) };
        return;
    }
    // SAFETY: of a signal that an instruction raises the kernel tells the address.
    let at = unsafe { info.si_addr() } as usize;
    let mut buffer = [0; LINE_BYTES_MAX];
    let bytes = line(&mut buffer, at.wrapping_sub((&raw const START) as usize));
    // SAFETY: pointer and length are of one slice. Nothing could be done if it failed.
    unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
}

/// Formats without allocating.
fn line(buffer: &mut [u8; LINE_BYTES_MAX], offset: usize) -> &[u8] {
    let mut rest = &mut buffer[..];
    // What does not fit is cut off.
    writeln!(
        rest,
        "punnet {} {ARCH}: internal error at {offset:#x}; please report it with this line",
        env!("CARGO_PKG_VERSION"),
    )
    .ok();
    let left = rest.len();
    &buffer[..LINE_BYTES_MAX - left]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_version_architecture_and_offset() {
        let mut buffer = [0; LINE_BYTES_MAX];
        let said = String::from_utf8(line(&mut buffer, 0x10a2f48).to_vec()).unwrap();
        let version = env!("CARGO_PKG_VERSION");
        let want = format!(
            "punnet {version} {ARCH}: internal error at 0x10a2f48; please report it with this line\n"
        );
        assert_eq!(said, want);
        assert!(line(&mut [0; LINE_BYTES_MAX], usize::MAX).ends_with(b"\n"));
    }
}
