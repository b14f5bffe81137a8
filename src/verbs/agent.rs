//! `punnet agent`, and what shells need.

use std::process::ExitCode;

use super::{Verb, Words};
use crate::error::CliError;
use crate::help;

/// `punnet completion SHELL`
pub const COMPLETION: Verb = Verb {
    name: "completion",
    summary: "Print a completion script for bash, zsh or fish",
    synopsis: "bash|zsh|fish",
    details: "Bash: punnet completion bash > /etc/bash_completion.d/punnet",
    flags: &[],
    words: Words::Between(1, 1),
    act: |_, given| {
        let shell = given.text(0)?;
        let script = help::completion(shell)
            .ok_or_else(|| CliError::usage(format_args!("no completion for the shell {shell:?}")))?;
        print!("{script}");
        Ok(ExitCode::SUCCESS)
    },
};

/// `punnet agent`
#[cfg(feature = "agent")]
pub const AGENT: Verb = Verb {
    name: "agent",
    summary: "Take orders from a fleet controller over MQTT",
    synopsis: "[--enrolment FILE] [--stop-containers] [--fetch-rate BYTES] [--log-level LEVEL]",
    details: "Starts what the device last ran, then connects. With --enrolment the file (punnet-fleet enroll) is checked and kept under the data root; later starts\n\
              need it no more. Only messages signed by the fleet's key count. SIGTERM ends the agent and leaves the containers running. Logs to standard error.",
    flags: &[
        super::valued(
            "enrolment",
            "FILE",
            "Take this enrolment up, in place of any before",
        ),
        super::flag("stop-containers", "Stop all containers when the agent ends"),
        super::valued(
            "fetch-rate",
            "BYTES",
            "Fetch images with at most so many bytes a second (k, m)",
        ),
        super::valued("log-level", "LEVEL", "error, warn, info or debug [info]"),
    ],
    words: Words::Between(0, 0),
    act: |roots, given| {
        use punnet_agent::core::Level;
        let level = |text: &str| match text {
            "error" => Some(Level::Error),
            "warn" => Some(Level::Warn),
            "info" => Some(Level::Info),
            "debug" => Some(Level::Debug),
            _ => None,
        };
        let (board, trouble) = roots.board()?;
        let rate = |text: &str| super::options::size_bytes(text)?.try_into().ok();
        let options = punnet_agent::AgentOptions {
            data_root: roots.data()?,
            run_root: roots.run()?,
            enrolment: given.one("enrolment").map(Into::into),
            stop_containers: given.has("stop-containers"),
            fetch_bytes_per_s: given.parsed("fetch-rate", rate)?,
            board,
            troubles: trouble.into_iter().collect(),
            program: None,
            log_level: given.parsed("log-level", level)?.unwrap_or(Level::Info),
        };
        punnet_agent::run(options)?;
        Ok(ExitCode::SUCCESS)
    },
};
