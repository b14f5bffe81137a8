//! What a process says and how it ends when it meets a trap instruction, as a panic is one in the binaries for boards. Each is this program once more.

#![allow(clippy::unwrap_used, reason = "this is a test")]

use std::arch::asm;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

/// Which of the tests' other sides this process is.
const SIDE: &str = "PUNNET_TEST_TRAP";

/// What LLVM makes of a panic that aborts at once.
#[inline(never)]
fn trap() {
    // SAFETY: raises a signal and nothing else.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        asm!("ud2");
        #[cfg(target_arch = "aarch64")]
        asm!("brk #1");
        #[cfg(target_arch = "arm")]
        asm!("udf #254");
    }
}

const RAISED: i32 = if cfg!(target_arch = "aarch64") {
    libc::SIGTRAP
} else {
    libc::SIGILL
};

#[test]
#[ignore = "the other side of those below"]
fn other_side() {
    punnet_sys::report_traps().unwrap();
    match std::env::var(SIDE).unwrap_or_default().as_str() {
        "trap" => {
            unsafe extern "C" {
                #[link_name = "__executable_start"]
                static START: u8;
            }
            // Where the trap is.
            println!("at {}", trap as *const () as usize - (&raw const START) as usize);
            trap();
        }
        "sent" => {
            nix::sys::signal::raise(RAISED.try_into().unwrap()).unwrap();
        }
        "executes" => {
            let said = Command::new("grep")
                .args(["SigCgt", "/proc/self/status"])
                .output()
                .unwrap();
            println!("caught: {}", String::from_utf8_lossy(&said.stdout));
        }
        _ => {}
    }
}

fn run(side: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "other_side"])
        .env(SIDE, side)
        .output()
        .unwrap()
}

#[test]
fn a_trap_says_where_it_was_and_ends_the_process_by_its_signal() {
    let output = run("trap");
    assert_eq!(output.status.signal(), Some(RAISED), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    let line = said
        .strip_prefix(concat!("punnet ", env!("CARGO_PKG_VERSION"), " "))
        .unwrap();
    let at = line
        .split("internal error at 0x")
        .nth(1)
        .unwrap()
        .split(';')
        .next()
        .unwrap();
    let at = usize::from_str_radix(at, 16).unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let start = out.split("at ").nth(1).unwrap().lines().next().unwrap();
    let start: usize = start.parse().unwrap();
    assert!(
        (start..start + 64).contains(&at),
        "{at} is not in the function at {start}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn a_signal_that_somebody_sends_ends_the_process_without_a_word() {
    let output = run("sent");
    assert_eq!(output.status.signal(), Some(RAISED), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_program_that_is_executed_inherits_nothing() {
    let output = run("executes");
    assert!(output.status.success(), "{output:?}");
    let out = String::from_utf8(output.stdout).unwrap();
    let mask = out
        .split("SigCgt:")
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap();
    let mask = u64::from_str_radix(mask, 16).unwrap();
    assert_eq!(mask & (1 << (RAISED - 1)), 0, "{out}");
}
