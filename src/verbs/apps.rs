//! apps: the containers of this board's own files.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use punnet_json::{ToJson, json};

use super::{ANY, Given, JSON, Verb, Words, containers, valued};
use crate::apps::{LABEL_APP, Order, Orders, read_files, serve};
use crate::container::Folders;
use crate::error::{CliError, Result};
use crate::install::APPS;
use crate::roots::Roots;

/// Between two looks at what the server does.
const POLL: Duration = Duration::from_millis(50);
/// For the server to do what it was told, beyond the time a container has to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// `punnet apps`
pub const APPS_VERB: Verb = Verb {
    name: "apps",
    summary: "Run the apps of /etc/punnet/apps, one file each, without any controller",
    synopsis: "[--folder DIR] [--json] [status | check | serve | reload | start NAME... | stop NAME... | restart NAME...]",
    details: "NAME.yaml holds the image and how to run it; docs/apps.md has every key. `serve` starts them, starts them again as `restart:` says, and stops them in\n\
              order when it ends; `punnet install` starts it at boot. `reload` takes up changed files: only what has changed is started anew, a bad file\n\
              leaves its container as it is. `check` names what is wrong with line and column. An image comes from the store, else it is pulled. `stop` holds\n\
              until `start`, or until the next boot.",
    flags: &[
        valued("folder", "DIR", "Where the files are [/etc/punnet/apps]"),
        JSON,
    ],
    words: Words::Between(0, ANY),
    act: apps,
};

fn apps(roots: &Roots, given: Given) -> Result<ExitCode> {
    let words = given.texts(0)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let folder = Path::new(given.one("folder").unwrap_or(APPS));
    match words[..] {
        [] | ["status"] => status(roots, folder, given.has("json")),
        ["check"] => check(folder),
        ["serve"] => serve(roots, folder),
        ["reload"] => Orders::of(roots)?.tell().map(|()| ExitCode::SUCCESS),
        ["stop", ref names @ ..] if !names.is_empty() => order(roots, folder, names, &[Order::Stop]),
        ["start", ref names @ ..] if !names.is_empty() => order(roots, folder, names, &[Order::Start]),
        ["restart", ref names @ ..] if !names.is_empty() => {
            order(roots, folder, names, &[Order::Stop, Order::Start])
        }
        _ => Err(CliError::usage(format_args!(
            "punnet apps wants: {}",
            APPS_VERB.synopsis
        ))),
    }
}

fn check(folder: &Path) -> Result<ExitCode> {
    let files = read_files(folder)?;
    let mut failed = 0;
    for (name, read) in &files.all {
        match read {
            Ok(app) => println!("{name}: good, {}", app.image),
            Err(error) => {
                eprintln!("punnet: {error}");
                failed += 1;
            }
        }
    }
    Ok(ExitCode::from(u8::from(failed > 0)))
}

/// What `--json` prints of each.
#[derive(ToJson)]
struct Row {
    name: String,
    image: String,
    status: &'static str,
    pid: Option<i32>,
    exit_code: Option<i32>,
    error: Option<String>,
}

fn status(roots: &Roots, folder: &Path, json: bool) -> Result<ExitCode> {
    let orders = Orders::of(roots)?;
    let served = orders.server().is_some();
    let rows = rows(roots, folder, &orders)?;
    if json {
        super::images::print_json(&json!({ "served": served, "apps": rows }));
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "{:<20} {:<28} {:<12} {:>8}  LAST ERROR",
        "NAME", "IMAGE", "STATUS", "PID"
    );
    for row in rows {
        let pid = row.pid.map_or_else(String::new, |pid| pid.to_string());
        let status = row.exit_code.map_or_else(
            || row.status.to_owned(),
            |code| format!("{} ({code})", row.status),
        );
        let error = row.error.unwrap_or_default();
        println!(
            "{:<20} {:<28} {status:<12} {pid:>8}  {error}",
            row.name, row.image
        );
    }
    if !served {
        eprintln!("punnet: nobody serves them now: `systemctl start punnet-apps`, or `punnet apps serve`");
    }
    Ok(ExitCode::SUCCESS)
}

fn rows(roots: &Roots, folder: &Path, orders: &Orders) -> Result<Vec<Row>> {
    let runtime = containers::runtime(roots)?;
    let mut rows = Vec::new();
    for (name, read) in read_files(folder)?.all {
        let folders = Folders::of(roots, &name)?;
        let ours = folders
            .meta()
            .is_ok_and(|meta| meta.labels.get(LABEL_APP) == Some(&name));
        let state = if ours {
            containers::status(&runtime, &folders)?
        } else {
            None
        };
        let running = state.filter(|state| containers::runs(state.status));
        let (image, bad) = match read {
            Ok(app) => (app.image, None),
            Err(error) => (String::new(), Some(error)),
        };
        let status = match (&running, &bad) {
            (Some(_), _) => "running",
            (None, Some(_)) => "bad file",
            (None, None) if orders.is_held(&name) => "stopped",
            _ => "waiting",
        };
        let exit_code = folders.exit_code().filter(|_| ours && running.is_none());
        rows.push(Row {
            status: if status == "waiting" && exit_code.is_some() {
                "ended"
            } else {
                status
            },
            pid: running.and_then(|state| state.pid),
            exit_code,
            error: bad.or_else(|| orders.error(&name)),
            name,
            image,
        });
    }
    Ok(rows)
}

/// Leaves orders and waits until they are obeyed.
fn order(roots: &Roots, folder: &Path, names: &[&str], wanted: &[Order]) -> Result<ExitCode> {
    let orders = Orders::of(roots)?;
    let files = read_files(folder)?;
    for name in names {
        match files.all.iter().find(|(known, _)| known == name) {
            None => return Err(CliError::NoApp((*name).into(), folder.into()).into()),
            Some((_, Err(error))) => return Err(CliError::Usage(error.clone()).into()),
            Some((_, Ok(_))) => {}
        }
    }
    for order in wanted {
        orders.server().map_or_else(|| orders.tell(), |_| Ok(()))?;
        for name in names {
            orders.note_error(name, None);
            Folders::of(roots, name)?.forget_exit_code()?;
            orders.give(name, *order)?;
        }
        orders.tell()?;
        for name in names {
            wait(roots, &orders, name, *order)?;
        }
    }
    names.iter().for_each(|name| println!("{name}"));
    Ok(ExitCode::SUCCESS)
}

fn wait(roots: &Roots, orders: &Orders, name: &str, order: Order) -> Result<()> {
    let runtime = containers::runtime(roots)?;
    let folders = Folders::of(roots, name)?;
    let stop_s = folders.meta().map_or(0, |meta| meta.stop_timeout_s);
    let began = Instant::now();
    while began.elapsed() < PATIENCE + Duration::from_secs(stop_s) {
        let runs =
            containers::status(&runtime, &folders)?.is_some_and(|state| containers::runs(state.status));
        let taken = order == Order::Stop || !orders.path(name, "order").exists();
        // A short program has ended before anybody looked.
        let ran = taken && folders.exit_code().is_some();
        match order {
            Order::Stop if !runs => return Ok(()),
            Order::Start if runs || ran => return Ok(()),
            Order::Start if taken && began.elapsed() > POLL && orders.error(name).is_some() => {
                let error = orders.error(name).unwrap_or_default();
                return Err(CliError::AppFailed(name.into(), error).into());
            }
            _ => std::thread::sleep(POLL),
        }
    }
    let error = orders
        .error(name)
        .unwrap_or_else(|| "it takes longer than it may".into());
    Err(CliError::AppFailed(name.into(), error).into())
}
