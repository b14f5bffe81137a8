//! `punnet init`, and the two orders to it.

use std::process::ExitCode;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use punnet_init::system;

use super::{Verb, Words};
use crate::error::{CliError, Result};

const HOOKS: punnet_init::Hooks = punnet_init::Hooks {
    check_enrolment: |content| {
        punnet_agent::Enrolment::parse(content).map(|enrolment| enrolment.device.to_string())
    },
};

/// `punnet init`
pub const INIT: Verb = Verb {
    name: "init",
    summary: "Be the first process of a board that is nothing but kernel and initramfs",
    synopsis: "",
    details: "Started by the kernel, as /init of the initramfs that `cargo xtask image` makes. docs/boards.md tells what it does.",
    flags: &[],
    words: Words::Between(0, 1),
    act: |_, given| {
        let role = given.text(0)?;
        Ok(punnet_init::run((!role.is_empty()).then_some(role), HOOKS)?)
    },
};

/// `punnet reboot`
pub const REBOOT: Verb = Verb {
    name: "reboot",
    summary: "Stop all containers and restart the board",
    synopsis: "",
    details: "Only where `punnet init` is PID 1.",
    flags: &[],
    words: Words::Between(0, 0),
    act: |_, _| order(Signal::SIGTERM),
};

/// `punnet poweroff`
pub const POWEROFF: Verb = Verb {
    name: "poweroff",
    summary: "Stop all containers and switch the board off",
    synopsis: "",
    details: "Only where `punnet init` is PID 1.",
    flags: &[],
    words: Words::Between(0, 0),
    act: |_, _| order(Signal::SIGUSR2),
};

/// `punnet system`
pub const SYSTEM: Verb = Verb {
    name: "system",
    summary: "Update the board's own system: kernel, initramfs, device trees",
    synopsis: "[write APP SPEC IMAGE|try|keep|leave|forget]",
    details: "The agent calls this for an app with the device class `system`. write puts the image's folder boot/ into the slot that is not in use, try\n\
              restarts into it once, keep makes it the one to start from; leave and forget drop the record. Without an order: how the last update stands.\n\
              Only where `punnet init` is PID 1 (docs/boards.md).",
    flags: &[],
    words: Words::Between(0, 4),
    act: |roots, given| {
        let order = given.texts(0)?;
        match order.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [] => {
                let slot = system::booted().map_or("-", |slot| slot.name());
                let update = system::record().map_or_else(|| "no update".into(), |update| update.to_string());
                println!("slot {slot}: {}", update.trim_end());
            }
            ["write", app, spec, image] => {
                system::write(app, spec, &super::images::store(roots)?.get(image)?.rootfs())?;
            }
            ["try"] => system::try_it()?,
            ["keep"] => system::keep()?,
            ["leave"] => system::leave()?,
            ["forget"] => system::forget()?,
            _ => {
                return Err(
                    CliError::Usage("punnet system: no such order; see punnet system --help".into()).into(),
                );
            }
        }
        Ok(ExitCode::SUCCESS)
    },
};

/// Another PID 1 may take these signals for something else.
fn order(signal: Signal) -> Result<ExitCode> {
    let command_line = std::fs::read("/proc/1/cmdline").unwrap_or_default();
    if command_line.split(|byte| *byte == 0).next() != Some(b"/init") {
        return Err(
            CliError::Usage("this machine's PID 1 is not punnet init: use its own command".into()).into(),
        );
    }
    kill(Pid::from_raw(1), signal).map_err(|errno| CliError::File {
        what: "cannot signal",
        path: "/proc/1".into(),
        source: errno.into(),
    })?;
    Ok(ExitCode::SUCCESS)
}
