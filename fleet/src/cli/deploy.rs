//! `punnet-fleet deploy`: sends the request, and with `--wait` follows it to its end on every device.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use punnet_protocol::Name;

use super::args::DeployArgs;
use super::{say, say_json};
use crate::client::Client;
use crate::progress::Progress;
use crate::spec::AppSpec;
use crate::view::{Changed, DeployRequest};

/// Runs `deploy`.
pub fn run(client: &Client, args: DeployArgs) -> Result<ExitCode> {
    let (wait, json) = (args.wait, args.json);
    let request = request(args);
    let changed = client.deploy(&request)?;
    if json {
        say_json(&changed)?;
    }
    match wait {
        Some(time) => follow(client, &request.app, &changed, time, json),
        None => {
            for change in changed.iter().filter(|_| !json) {
                let waits = if change.manifest.is_none() {
                    ", once it has reported its platform"
                } else {
                    ""
                };
                say(&format!(
                    "{}: generation {} is on its way{waits}",
                    change.device, change.generation
                ))?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn request(args: DeployArgs) -> DeployRequest {
    DeployRequest {
        app: args.app,
        image: args.image,
        devices: (!args.all).then_some(args.device),
        spec: AppSpec {
            entrypoint: args.entrypoint.into_iter().collect(),
            args: args.args,
            env: args.env,
            network: args.network,
            restart: args.restart,
            memory_bytes_max: args.memory,
            pids_max: args.pids,
            cpu_millis_max: args.cpus,
            device_classes: args.device_class,
            mounts: args.mount,
            read_only: args.read_only,
            stop_timeout_ms: millis(args.stop_timeout),
            soak_ms: millis(args.soak),
        },
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// Prints each device's progress as it changes, until all have ended or the time is up.
fn follow(client: &Client, app: &Name, changed: &[Changed], time: Duration, quiet: bool) -> Result<ExitCode> {
    let until = Instant::now() + time;
    let one = (changed.len() == 1).then(|| &changed[0].device);
    let mut last: BTreeMap<Name, Progress> = BTreeMap::new();
    let mut count = None;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let (devices, newest) = client.devices(one, count.map(|count| (count, left)))?;
        count = Some(newest);
        for change in changed {
            let progress = match devices.iter().find(|device| device.name == change.device) {
                Some(device) => device.progress(app, change.generation),
                None => Progress::Failed("it is not enrolled any more".into()),
            };
            if last.get(&change.device) != Some(&progress) {
                report(&change.device, &progress, quiet)?;
                last.insert(change.device.clone(), progress);
            }
        }
        if !last
            .values()
            .any(|progress| matches!(progress, Progress::Doing(_)))
        {
            let failed = last
                .values()
                .any(|progress| matches!(progress, Progress::Failed(_)));
            return Ok(if failed {
                ExitCode::FAILURE
            } else {
                ExitCode::SUCCESS
            });
        }
        if Instant::now() >= until {
            break;
        }
    }
    for (device, progress) in last {
        if let Progress::Doing(text) = progress {
            eprintln!("{device}: not running after {} s: {text}", time.as_secs());
        }
    }
    Ok(ExitCode::FAILURE)
}

fn report(device: &Name, progress: &Progress, quiet: bool) -> Result<()> {
    match progress {
        Progress::Failed(text) => eprintln!("{device}: failed: {text}"),
        Progress::Doing(text) if !quiet => eprintln!("{device}: {text}"),
        Progress::Done(text) if !quiet => say(&format!("{device}: {text}"))?,
        Progress::Doing(_) | Progress::Done(_) => {}
    }
    Ok(())
}
