//! The program of the example image: says where it runs, then one line a second until it is told to end.
//!
//! `hello [--once] [--exit CODE] [--fill MIB] [--uptime]`: end after the first line; end with this code; use up so much memory first; begin
//! with how long the kernel had been running. The greeting is `$GREETING`.

#![forbid(unsafe_code)]

use std::io::Write;
use std::os::fd::AsFd;
use std::process::ExitCode;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let greeting = std::env::var("GREETING").unwrap_or_else(|_| "hello from a scratch container".into());
    if args.iter().any(|arg| arg == "--uptime") {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
        let seconds = uptime.split_whitespace().next().unwrap_or_default();
        say(&format!("{greeting}: {seconds} s after the kernel"));
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    say(&format!(
        "{greeting}: {} on {}, process {}",
        std::env::consts::ARCH,
        host.trim(),
        std::process::id()
    ));
    let number = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1)?.parse::<usize>().ok()
    };
    if let Some(code) = number("--exit").and_then(|code| u8::try_from(code).ok()) {
        return ExitCode::from(code);
    }
    // Written to, so that the kernel must give it.
    let filled = number("--fill").map(|mib| vec![1_u8; mib << 20]);
    std::hint::black_box(&filled);
    if args.iter().any(|arg| arg == "--once") {
        return ExitCode::SUCCESS;
    }
    count_until_terminated().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

/// The first process of a PID namespace gets no signal it has not asked for (pid_namespaces(7)): ask for SIGTERM, or `stop` must wait and kill.
fn count_until_terminated() -> nix::Result<()> {
    let mut wanted = SigSet::empty();
    wanted.add(Signal::SIGTERM);
    wanted.thread_block()?;
    let signals = SignalFd::new(&wanted)?;
    for second in 1_u64.. {
        let mut ready = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, PollTimeout::from(1000_u16))? > 0 {
            say("told to end");
            break;
        }
        say(&format!("up {second} s"));
    }
    Ok(())
}

/// A reader that has gone away is no reason to end.
fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    drop(writeln!(stdout, "{line}").and_then(|()| stdout.flush()));
}
