//! start, stop, kill, rm, ps, logs: what is done with containers that exist.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use punnet_json::{ToJson, Writer};
use punnet_logs::{KEPT_BYTES, LogFile};
use punnet_runtime::{ContainerId, CreateOptions, OutOfReach, Runtime, Stdio};
use punnet_spec::Status;

use super::options::{duration_s, signal_number, size_bytes};
use super::{ANY, Given, JSON, Verb, Words, flag, layer, sign, valued};
use crate::container::{Folders, Meta, file, unix_ms};
use crate::error::{CliError, Result, print_chain};
use crate::roots::Roots;

/// Pause between two looks at a container that is ending, or at a log that may grow.
const POLL: Duration = Duration::from_millis(20);

/// How long a killed process may take to be gone: longer than any that is not stuck in the kernel.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// `punnet start NAME...`
pub const START: Verb = Verb {
    name: "start",
    summary: "Start created or stopped containers",
    synopsis: "[--vouched-by KEY] NAME...",
    details: "Output goes to the container's log (punnet logs). No process stays behind but the container's own.\n\
              Where signatures.json says which images may run, that of each container is looked at again (docs/signatures.md).",
    flags: &[sign::VOUCHED_BY],
    words: Words::Between(1, ANY),
    act: |roots, given| {
        let vouched = given.one("vouched-by");
        // Before the first is started: the command may begin anew.
        for name in given.texts(0)? {
            let meta = Folders::of(roots, &name).and_then(|folders| folders.meta());
            out_of_reach_if(meta.is_ok_and(|meta| meta.is_emulated))?;
        }
        for_each(roots, &given, &|roots, folders| {
            sign::check_container(roots, &folders.meta()?, vouched)
                .and_then(|()| start(roots, folders).map_err(layer::with_remedy))
                .map_err(|error| CliError::Engine(error).into())
        })
    },
};

/// `punnet stop NAME...`
pub const STOP: Verb = Verb {
    name: "stop",
    summary: "Ask containers to end, then make them",
    synopsis: "[--time SECONDS] NAME...",
    details: "Sends the image's stop signal (SIGTERM unless it says otherwise), waits, then SIGKILL. A stopped container is no error.",
    flags: &[valued(
        "time",
        "SECONDS",
        "Between the stop signal and SIGKILL [the container's own, 10]",
    )
    .or('t')],
    words: Words::Between(1, ANY),
    act: |roots, given| {
        let timeout_s = given.parsed("time", duration_s)?;
        for_each(roots, &given, &|roots, folders| stop(roots, folders, timeout_s))
    },
};

/// `punnet kill NAME...`
pub const KILL: Verb = Verb {
    name: "kill",
    summary: "Send a signal to containers",
    synopsis: "[--signal SIGNAL] NAME...",
    details: "",
    flags: &[valued("signal", "SIGNAL", "Name or number [KILL]").or('s')],
    words: Words::Between(1, ANY),
    act: |roots, given| {
        let signal = given
            .parsed("signal", signal_number)?
            .unwrap_or(Signal::SIGKILL as i32);
        for_each(roots, &given, &|roots, folders| {
            Ok(runtime(roots)?.kill(&id(folders)?, signal, false)?)
        })
    },
};

/// `punnet rm NAME...`
pub const RM: Verb = Verb {
    name: "rm",
    summary: "Remove containers and what they wrote",
    synopsis: "[--force] NAME...",
    details: "",
    flags: &[flag(
        "force",
        "Kill a running one first; one that is not there, or damaged, is no error",
    )
    .or('f')],
    words: Words::Between(1, ANY),
    act: |roots, given| {
        let force = given.has("force");
        let mut failed = 0;
        for name in given.texts(0)? {
            if let Err(error) = Folders::of(roots, &name).and_then(|folders| remove(roots, &folders, force)) {
                print_chain(&error);
                failed += 1;
            }
        }
        finish(failed, given.words().len())
    },
};

/// `punnet ps`
pub const PS: Verb = Verb {
    name: "ps",
    summary: "List containers",
    synopsis: "[--all] [--json | --quiet]",
    details: "JSON: an array of {id, name, image, manifest, status, pid, exit_code, created_at_s, command, labels, log_dir}; status is created, running or\n\
              stopped; exit_code is null when nobody was there to learn it.",
    flags: &[
        flag("all", "Also those that do not run").or('a'),
        flag("quiet", "Names only").or('q'),
        JSON,
    ],
    words: Words::Between(0, 0),
    act: list,
};

/// `punnet logs NAME`
pub const LOGS: Verb = Verb {
    name: "logs",
    summary: "Print what a container has written",
    synopsis: "[--follow] [--tail BYTES] NAME",
    details: "The last 256 KiB are kept, in RAM.",
    flags: &[
        flag("follow", "Go on until the container ends").or('f'),
        valued("tail", "BYTES", "Begin so many bytes before the end").or('n'),
    ],
    words: Words::Between(1, 1),
    act: logs,
};

/// The runtime over this run root.
pub fn runtime(roots: &Roots) -> Result<Runtime> {
    Ok(Runtime::new(roots.run()?.join("oci")))
}

/// A container's name as the runtime takes it.
pub fn id(folders: &Folders) -> Result<ContainerId> {
    Ok(ContainerId::new(&folders.name)?)
}

/// Where a container is in its life; `None` when the runtime has never seen it, or a reboot has ended it.
pub fn status(runtime: &Runtime, folders: &Folders) -> Result<Option<punnet_spec::State>> {
    match runtime.state(&id(folders)?) {
        Err(error) if matches!(*error, punnet_runtime::Error::NotFound(_)) => Ok(None),
        other => Ok(Some(other?)),
    }
}

/// Whether the program is there; one that an engine's `pause` has suspended is.
pub fn runs(status: Status) -> bool {
    matches!(status, Status::Running | Status::Paused)
}

/// Makes way for a new start: what has ended is forgotten, what runs is an error.
pub fn clear_ended(runtime: &Runtime, folders: &Folders) -> Result<()> {
    match status(runtime, folders)?.map(|state| state.status) {
        Some(status) if runs(status) => Err(CliError::Running(folders.name.clone()).into()),
        // Created or creating: somebody was killed on the way.
        Some(_) => Ok(runtime.delete(&id(folders)?, true)?),
        None => Ok(()),
    }
}

/// What a container for another CPU takes: the process may be executed anew for it, if it was not before.
pub fn out_of_reach_if(is_emulated: bool) -> Result<Option<OutOfReach>> {
    Ok(is_emulated.then(punnet_runtime::guard_own_file).transpose()?)
}

/// Creates the container's process and lets it run, its output going to the log.
pub fn start(roots: &Roots, folders: &Folders) -> Result<()> {
    let runtime = runtime(roots)?;
    let is_emulated = folders.meta()?.is_emulated;
    clear_ended(&runtime, folders)?;
    folders.make_run()?;
    folders.forget_exit_code()?;
    let log: OwnedFd = punnet_logs::open_for_container(&folders.run)?.into();
    let null = std::path::Path::new("/dev/null");
    let mut options = CreateOptions::new(&folders.bundle);
    options.stdio = Stdio {
        stdin: Some(
            std::fs::File::open(null)
                .map_err(file("cannot open", null))?
                .into(),
        ),
        stderr: Some(log.try_clone().map_err(file("cannot open", &folders.run))?),
        stdout: Some(log),
    };
    options.own_file = out_of_reach_if(is_emulated)?;
    let id = id(folders)?;
    runtime.create(&id, &options)?;
    runtime.start(&id).inspect_err(|_| {
        // The error of the start is the one to tell.
        drop(runtime.delete(&id, true));
    })?;
    Ok(())
}

/// Ends a container's process; one that does not run is fine.
pub fn stop(roots: &Roots, folders: &Folders, timeout_s: Option<u64>) -> Result<()> {
    let runtime = runtime(roots)?;
    let meta = folders.meta()?;
    let running =
        || Ok::<_, Box<CliError>>(status(&runtime, folders)?.is_some_and(|state| runs(state.status)));
    if !running()? {
        return Ok(());
    }
    let timeout = Duration::from_secs(timeout_s.unwrap_or(meta.stop_timeout_s));
    for (signal, timeout) in [
        (meta.stop_signal, timeout),
        (Signal::SIGKILL as i32, KILL_TIMEOUT),
    ] {
        match runtime.kill(&id(folders)?, signal, false) {
            Err(error) if matches!(*error, punnet_runtime::Error::WrongStatus { .. }) => return Ok(()),
            other => other?,
        }
        let began = Instant::now();
        while began.elapsed() < timeout {
            if !running()? {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
    }
    Err(CliError::StillRunning(folders.name.clone()).into())
}

/// Removes a container with everything of it.
pub fn remove(roots: &Roots, folders: &Folders, force: bool) -> Result<()> {
    let runtime = runtime(roots)?;
    if !force {
        if !folders.bundle.is_dir() {
            return Err(CliError::NoContainer(folders.name.clone()).into());
        }
        if status(&runtime, folders)?.is_some_and(|state| runs(state.status)) {
            return Err(CliError::StillRunning(folders.name.clone()).into());
        }
    }
    runtime.delete(&id(folders)?, true)?;
    folders.remove()
}

struct Row {
    id: String,
    name: String,
    status: &'static str,
    pid: Option<i32>,
    exit_code: Option<i32>,
    log_dir: std::path::PathBuf,
    meta: Meta,
}

impl ToJson for Row {
    fn write(&self, writer: &mut Writer) {
        writer.map(&mut |writer| {
            writer.member("id", &self.id);
            writer.member("name", &self.name);
            writer.member("status", &self.status);
            writer.member("pid", &self.pid);
            writer.member("exit_code", &self.exit_code);
            writer.member("log_dir", &self.log_dir);
            writer.members(&self.meta);
        });
    }
}

fn list(roots: &Roots, given: Given) -> Result<ExitCode> {
    let runtime = runtime(roots)?;
    let mut rows = Vec::new();
    for folders in Folders::all(roots)? {
        // Half made, half removed or damaged: shown by nobody, removed by rm --force.
        let Ok(meta) = folders.meta() else { continue };
        let state = status(&runtime, &folders)?;
        let running = state.as_ref().is_some_and(|state| runs(state.status));
        if !running && !given.has("all") {
            continue;
        }
        let started_once = state.is_some() || folders.run.join("log").exists();
        rows.push(Row {
            status: match &state {
                Some(state) if running => state.status.as_str(),
                _ if started_once => "stopped",
                _ => "created",
            },
            pid: state.filter(|_| running).and_then(|state| state.pid),
            exit_code: if running { None } else { folders.exit_code() },
            log_dir: folders.run.clone(),
            id: folders.name.clone(),
            name: folders.name.clone(),
            meta,
        });
    }
    if given.has("json") {
        super::images::print_json(&rows);
    } else if given.has("quiet") {
        rows.iter().for_each(|row| println!("{}", row.name));
    } else {
        println!(
            "{:<20} {:<28} {:<14} {:>8}  COMMAND",
            "NAME", "IMAGE", "STATUS", "PID"
        );
        for row in &rows {
            let status = row
                .exit_code
                .map_or_else(|| row.status.to_string(), |code| format!("exited ({code})"));
            let pid = row.pid.map_or_else(String::new, |pid| pid.to_string());
            println!(
                "{:<20} {:<28} {status:<14} {pid:>8}  {}",
                row.name,
                row.meta.image,
                row.meta.command.join(" ")
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn logs(roots: &Roots, given: Given) -> Result<ExitCode> {
    let folders = Folders::existing(roots, given.text(0)?)?;
    let runtime = runtime(roots)?;
    let log = match LogFile::open(&folders.run) {
        Err(error) if error.is_missing() => {
            return Ok(ExitCode::SUCCESS);
        }
        other => other?,
    };
    let tail = given.parsed("tail", size_bytes)?.unwrap_or(u64::MAX);
    let mut offset = log.end()?.saturating_sub(tail);
    let mut buffer = [0; 16 * 1024];
    loop {
        // Asked before reading: what is written between the two is read in the next round.
        let running = status(&runtime, &folders)?.is_some_and(|state| runs(state.status));
        let (from, read) = log.read_from(offset, &mut buffer)?;
        if from > offset && offset > 0 {
            eprintln!("punnet: {} bytes of output were dropped here", from - offset);
        }
        offset = from + read as u64;
        match io::stdout()
            .write_all(&buffer[..read])
            .and_then(|()| io::stdout().flush())
        {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            other => other.map_err(file("cannot write to", std::path::Path::new("standard output")))?,
        }
        if read > 0 {
            continue;
        }
        if !given.has("follow") || !running {
            break;
        }
        std::thread::sleep(POLL);
    }
    // Whoever comes by keeps the log small.
    log.note_time(unix_ms())?;
    log.trim(KEPT_BYTES)?;
    Ok(ExitCode::SUCCESS)
}

/// Does the same to each container named, prints each name that went well, goes on after an error.
fn for_each(roots: &Roots, given: &Given, act: &dyn Fn(&Roots, &Folders) -> Result<()>) -> Result<ExitCode> {
    let names = given.texts(0)?;
    // One alone keeps its own exit code.
    if let [name] = names.as_slice() {
        act(roots, &Folders::existing(roots, name)?)?;
        println!("{name}");
        return Ok(ExitCode::SUCCESS);
    }
    let mut failed = 0;
    for name in &names {
        match Folders::existing(roots, name).and_then(|folders| act(roots, &folders)) {
            Ok(()) => println!("{name}"),
            Err(error) => {
                print_chain(&error);
                failed += 1;
            }
        }
    }
    finish(failed, names.len())
}

fn finish(failed: usize, all: usize) -> Result<ExitCode> {
    if failed == 0 {
        Ok(ExitCode::SUCCESS)
    } else {
        Err(CliError::Some { failed, all }.into())
    }
}
