//! `punnet-fleet logs`: the app's bytes to standard output, everything else to standard error.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::args::LogsArgs;
use crate::client::Client;
use crate::log_streams::{LogEvent, decode};

/// Runs `logs`.
pub fn run(client: &Client, args: &LogsArgs) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    for event in client.logs(&args.device, &args.app, args.tail, args.follow)? {
        match event? {
            LogEvent::Data { data, .. } => {
                let bytes = decode(&data).context("the controller sent output that is no base64")?;
                let written = out.write_all(&bytes).and_then(|()| out.flush());
                written.context("cannot write to standard output")?;
            }
            LogEvent::Gap { bytes } => eprintln!("punnet-fleet: {bytes} bytes of output are missing here"),
            LogEvent::Note { text } => eprintln!("punnet-fleet: {text}"),
            LogEvent::End { error: None } => return Ok(ExitCode::SUCCESS),
            LogEvent::End { error: Some(why) } => {
                eprintln!("punnet-fleet: {why}");
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    eprintln!("punnet-fleet: the controller ended");
    Ok(ExitCode::FAILURE)
}
