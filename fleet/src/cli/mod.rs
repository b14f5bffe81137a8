//! The command line of `punnet-fleet`.

mod args;
mod deploy;
mod logs;
mod table;
mod units;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser};
use serde::Serialize;

pub use args::Cli;
use args::{AppArgs, EnrollArgs, ImagesVerb, ServeArgs, Verb};

use crate::broker_url::BrokerUrl;
use crate::client::Client;
use crate::db::{self, settings};
use crate::enrolment::{self, Wish};
use crate::error::Error;
use crate::image_store;
use crate::key::FleetKey;
use crate::serve;
use crate::session::BrokerOptions;
use crate::state_dir::StateDir;
use crate::view::{self, AppChange, AppRequest, ImageView};

/// Runs the program and says how it ended.
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        // Whoever read our output had enough of it.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("punnet-fleet: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    if let Verb::Completions { shell } = cli.verb {
        clap_complete::generate(shell, &mut Cli::command(), "punnet-fleet", &mut std::io::stdout());
        return Ok(ExitCode::SUCCESS);
    }
    let state = StateDir::open(&state_path(cli.state)?)?;
    match cli.verb {
        Verb::Serve(args) => serve(state, args)?,
        Verb::Ping { json } => ping(&state, json)?,
        Verb::Keygen { force } => {
            let key = FleetKey::make(&state, force)?;
            say(&key.public_hex())?;
        }
        Verb::Enroll(args) => enroll(&state, args)?,
        Verb::Devices { json } => {
            let (devices, _) = Client::new(&state)?.devices(None, None)?;
            show(json, &devices, || table::devices(&devices, crate::now_s()))?;
        }
        Verb::Images { verb } => images(&state, verb.unwrap_or(ImagesVerb::Ls { json: false }))?,
        Verb::Deploy(args) => return deploy::run(&Client::new(&state)?, *args),
        Verb::Start(args) => change(&state, args, AppChange::Start)?,
        Verb::Stop(args) => change(&state, args, AppChange::Stop)?,
        Verb::Restart(args) => change(&state, args, AppChange::Restart)?,
        Verb::Rm(args) => change(&state, args, AppChange::Remove)?,
        Verb::Status { device, json } => {
            let (devices, _) = Client::new(&state)?.devices(device.as_ref(), None)?;
            show(json, &devices, || table::status(&devices))?;
        }
        Verb::Logs(args) => return logs::run(&Client::new(&state)?, &args),
        Verb::Completions { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// `--state`, or `/var/lib/punnet-fleet` for root, or the user's state directory (XDG base directory specification).
fn state_path(given: Option<PathBuf>) -> Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path);
    }
    let of_env = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if of_env("HOME").is_none_or(|home| home == Path::new("/root")) {
        return Ok("/var/lib/punnet-fleet".into());
    }
    let base = of_env("XDG_STATE_HOME").or_else(|| of_env("HOME").map(|home| home.join(".local/state")));
    Ok(base
        .context("no --state, and HOME is not set")?
        .join("punnet-fleet"))
}

fn serve(state: StateDir, args: ServeArgs) -> Result<()> {
    let external = args
        .broker
        .map(|url| external_broker(url, args.broker_ca, args.broker_cert, args.broker_key));
    let options = serve::Options {
        listen: args.listen,
        external: external.transpose()?,
        api: args.api,
        public_url: args.public_url,
        fleet: args.fleet,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(serve::serve(state, options));
    // rumqttd's threads and open log readers end with the process.
    runtime.shutdown_background();
    Ok(served?)
}

fn external_broker(
    url: BrokerUrl,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<BrokerOptions> {
    let read =
        |path: &PathBuf| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let client_pem = match (&cert, &key) {
        (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
        _ => None,
    };
    Ok(BrokerOptions {
        url,
        ca_pem: ca.as_ref().map(read).transpose()?,
        client_pem,
    })
}

fn ping(state: &StateDir, json: bool) -> Result<()> {
    let pong = Client::new(state)?.ping()?;
    if json {
        return say_json(&pong);
    }
    let broker = match (&pong.broker_error, pong.connected) {
        (_, true) => "connected".into(),
        (None, false) => "connecting".into(),
        (Some(why), false) => format!("not connected: {}", crate::state::printable(why)),
    };
    say(&format!(
        "fleet '{}', punnet-fleet {}\nbroker {}: {broker}",
        pong.fleet, pong.version, pong.broker
    ))
}

fn enroll(state: &StateDir, args: EnrollArgs) -> Result<()> {
    let (key, is_new) = FleetKey::read_or_make(state)?;
    if is_new {
        eprintln!("made a new fleet key: {}", state.key().display());
    }
    let mut connection = db::open(state)?;
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    settings::fleet(&transaction, args.fleet.as_ref())?;
    let wish = Wish {
        broker: args.broker,
        ca: args.ca,
        client: args.client_cert.zip(args.client_key),
    };
    let enrolment = enrolment::make(&transaction, &key, &args.name, &wish)?;
    // The file first: a password that is stored but was never written helps nobody.
    match &args.output {
        Some(path) => enrolment::write(&enrolment, path)?,
        None => say(enrolment::to_json(&enrolment)?.trim_end())?,
    }
    transaction.commit()?;
    if let Some(path) = &args.output {
        say(&format!(
            "enrolled '{}' of fleet '{}': {}",
            args.name,
            enrolment.fleet,
            path.display()
        ))?;
    }
    Ok(())
}

fn images(state: &StateDir, verb: ImagesVerb) -> Result<()> {
    let mut connection = db::open(state)?;
    match verb {
        ImagesVerb::Add { path, name } => {
            let image = image_store::add(&mut connection, &state.blobs(), &path, name.as_deref())?;
            let view = view::image(&image);
            say(&format!(
                "added {}: {}, {}, {}",
                view.reference,
                view.platforms.join(" "),
                units::bytes_text(view.bytes),
                view.digest
            ))
        }
        ImagesVerb::Ls { json } => {
            let views: Vec<ImageView> = db::images::all(&connection)?.iter().map(view::image).collect();
            show(json, &views, || table::images(&views))
        }
        ImagesVerb::Rm { references } => references.iter().try_for_each(|reference| {
            let reference = image_store::reference(reference)?;
            image_store::remove(&mut connection, &state.blobs(), &reference)?;
            say(&format!("removed {reference}"))
        }),
    }
}

fn change(state: &StateDir, args: AppArgs, change: AppChange) -> Result<()> {
    let client = Client::new(state)?;
    for device in args.device {
        let app = args.app.clone();
        client.change_app(&AppRequest { app, device, change })?;
    }
    Ok(())
}

/// Prints to standard output; a closed pipe is an error here, not a panic.
fn say(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").context("cannot write to standard output")
}

fn say_json<T: Serialize>(value: &T) -> Result<()> {
    say(&serde_json::to_string_pretty(value)?)
}

fn show<T: Serialize>(json: bool, value: &T, table: impl FnOnce() -> String) -> Result<()> {
    if json { say_json(value) } else { say(&table()) }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .or_else(|| error.root_cause().downcast_ref())
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
        && error.downcast_ref::<Error>().is_none()
}
