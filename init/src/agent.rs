//! The roles `agent` and `apps`: become `punnet agent` and `punnet apps serve` with what `setup` has found.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use crate::handover::{DATA_ROOT, ENROLMENT, TROUBLES};
use crate::{InitError, Result};

/// Exit code of a board that belongs to no fleet. sysexits.h: EX_CONFIG
pub const NOT_ENROLLED: i32 = 78;

/// Replaces this process; returns only when there is nothing to run it with, or it cannot be.
pub fn run() -> Result<ExitCode> {
    let given = Path::new(ENROLMENT);
    let kept = Path::new(DATA_ROOT).join("agent/enrolment.json");
    if !given.exists() && !kept.exists() {
        crate::say(
            "this board is not enrolled: put the file that `punnet-fleet enroll` writes on the boot partition, as enrolment.json, and restart",
        );
        return Ok(ExitCode::from(NOT_ENROLLED as u8));
    }
    let mut command = Command::new("/proc/self/exe");
    command.arg0("punnet").args(["agent", "--stop-containers"]);
    if given.exists() {
        command.arg("--enrolment").arg(given);
    }
    if std::fs::metadata(TROUBLES).is_ok_and(|troubles| troubles.len() > 0) {
        command.env("PUNNET_TROUBLES", TROUBLES);
    }
    Err(InitError::at("execute", "/proc/self/exe")(command.exec()))
}

/// Replaces this process by the server of the apps.
pub fn run_apps() -> Result<ExitCode> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("punnet").args(["apps", "serve"]);
    Err(InitError::at("execute", "/proc/self/exe")(command.exec()))
}
