//! The orderly end: containers stopped, processes ended, data on the disk, file systems read-only, then the kernel's last act.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, sync};

use crate::handover::{DATA_ROOT, TRY, keep_clock};
use crate::{mount, say};

/// How long the agent may take to stop all containers: as long as it gives each of them, and some more.
const AGENT_WAIT: Duration = Duration::from_secs(90);
/// Between SIGTERM and SIGKILL for what is left.
const REST_WAIT: Duration = Duration::from_secs(3);
/// What tells the Pi's firmware to take tryboot.txt in place of config.txt, once: partition 0 is the default one. Raspberry Pi
/// documentation, "Fail-safe OS updates (tryboot)".
const TRY_BOOT: &std::ffi::CStr = c"0 tryboot";
/// Between two looks.
const POLL: Duration = Duration::from_millis(100);

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// SIGTERM, Ctrl-Alt-Del, `punnet reboot`.
    Restart,
    /// SIGUSR1.
    Halt,
    /// SIGUSR2, SIGPWR, `punnet poweroff`.
    PowerOff,
}

impl End {
    /// For people.
    pub const fn said(self) -> &'static str {
        match self {
            Self::Restart => "restarting",
            Self::Halt => "halting",
            Self::PowerOff => "switching off",
        }
    }
}

/// Ends every process but us, `first` before all: those stop containers in order. `turn` waits a little, reaps, and tells whether one of them
/// still runs.
pub fn stop(first: &[Option<Pid>], mut turn: impl FnMut(Duration) -> bool) {
    if first.iter().any(Option::is_some) {
        for pid in first.iter().flatten() {
            signal(*pid, Signal::SIGTERM);
        }
        let began = Instant::now();
        while turn(POLL) {
            if began.elapsed() > AGENT_WAIT {
                say("the containers do not end");
                break;
            }
        }
    }
    let all = Pid::from_raw(-1);
    signal(all, Signal::SIGTERM);
    let began = Instant::now();
    // ESRCH: nobody is left.
    while kill(all, None).is_ok() && began.elapsed() < REST_WAIT {
        turn(POLL);
    }
    signal(all, Signal::SIGKILL);
    turn(POLL);
}

fn signal(whom: Pid, signal: Signal) {
    // It may just have ended.
    kill(whom, signal).ok();
}

/// Brings the data to rest and ends the board; what is returned is why it did not.
pub fn end(end: End) -> nix::errno::Errno {
    if let Err(error) = keep_clock() {
        say(format_args!("the time is not kept: {error}"));
    }
    sync();
    // Lazily: what a container still holds must not keep the rest from being clean.
    if umount2(DATA_ROOT, MntFlags::empty()).is_err()
        && let Err(error) = mount("", DATA_ROOT, None, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, "")
    {
        say(format_args!("the data partition is not read-only: {error}"));
    }
    sync();
    if end == End::Restart && Path::new(TRY).exists() {
        return punnet_sys::restart_with(TRY_BOOT);
    }
    let mode = match end {
        End::Restart => RebootMode::RB_AUTOBOOT,
        End::Halt => RebootMode::RB_HALT_SYSTEM,
        End::PowerOff => RebootMode::RB_POWER_OFF,
    };
    match reboot(mode) {
        Err(errno) => errno,
        Ok(never) => match never {},
    }
}
