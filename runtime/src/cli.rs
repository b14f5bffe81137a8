//! The command line that container engines use (`punnet oci`, `punnet-oci`): runc's verbs, options before or after the id.
//! What a verb does is in `runtime`; here is only how it is called and what is printed.

mod args;
mod events;
mod features;
mod help;
mod processes;
mod update;

use crate::error::{EXIT_RUNTIME, Error, OsContext, Result};
use crate::runtime::{CreateOptions, ExecOptions, Listed, Runtime, Warnings};
use crate::terminal::Stdio;
use args::{Args, parse};
use nix::sys::signal::Signal;
use nix::unistd::{getegid, geteuid};
use punnet_json::{Map, ToJson};
use punnet_spec::{Capabilities, OCI_VERSION, Process, Spec};
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

/// Runs the command line behind `punnet oci` or `punnet-oci`; `arguments` are without the program's name.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let args = match parse(arguments) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("punnet-oci: {}", error.chain());
            return ExitCode::from(EXIT_RUNTIME);
        }
    };
    let log = Log::new(&args);
    log.write(Level::Debug, &format!("{} {:?}", args.verb, args.rest));
    match dispatch(&args) {
        Ok(code) => {
            log.write(Level::Debug, &format!("{} ended with {code}", args.verb));
            ExitCode::from(code)
        }
        Err(error) => {
            log.write(Level::Error, &error.chain());
            ExitCode::from(failure_code(&args, &error))
        }
    }
}

/// `run` and `exec` speak of the program with 126 and 127, of themselves with 125; for the rest 1 is what engines know.
fn failure_code(args: &Args, error: &Error) -> u8 {
    const EXIT_FAILURE: u8 = 1;
    match args.verb.as_str() {
        "run" | "exec" => error.exit_code(),
        _ => EXIT_FAILURE,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    /// With --debug only.
    Debug,
    Warning,
    Error,
}

/// Where a verb's messages go.
#[derive(Clone)]
struct Log {
    path: Option<PathBuf>,
    json: bool,
    debug: bool,
}

impl Log {
    fn new(args: &Args) -> Self {
        Self {
            path: args.log.clone(),
            json: args.log_format == "json",
            debug: args.debug,
        }
    }

    /// To the log file in the form asked for, where engines look for the last error, and to standard error for people; what --debug tells
    /// goes there only when there is no file.
    fn write(&self, level: Level, text: &str) {
        let word = match level {
            Level::Debug if !self.debug => return,
            Level::Debug => "debug",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        match (level, &self.path) {
            (Level::Error, _) => eprintln!("punnet-oci: {text}"),
            (Level::Debug, Some(_)) => {}
            (Level::Debug | Level::Warning, _) => eprintln!("punnet-oci: {word}: {text}"),
        }
        let Some(path) = &self.path else { return };
        let time = timestamp(now());
        let line = if self.json {
            let message = punnet_json::to_string(&text);
            format!("{{\"level\":\"{word}\",\"msg\":{message},\"time\":\"{time}\"}}\n")
        } else {
            format!("time=\"{time}\" level={word} msg={text:?}\n")
        };
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
            eprintln!("punnet-oci: cannot write {}: {error}", path.display());
        }
    }
}

fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// RFC 3339 in UTC. The calendar is Howard Hinnant's days-from-civil turned round.
fn timestamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The verbs are functions of their own, not parts of this one: what is not executed need not be in memory.
fn dispatch(args: &Args) -> Result<u8> {
    if args.help || args.verb.is_empty() && !args.version {
        return print(&format!("{}\n", help::text(&args.verb)));
    }
    if args.verb == "help" {
        let verb = args
            .rest
            .first()
            .and_then(|word| word.to_str())
            .unwrap_or_default();
        return print(&format!("{}\n", help::text(verb)));
    }
    if args.version {
        return print(&format!(
            "punnet-oci version {}\nspec: {OCI_VERSION}\n",
            env!("CARGO_PKG_VERSION")
        ));
    }
    if args.systemd_cgroup {
        return Err(Error::Usage(
            "--systemd-cgroup is not supported: configure the engine for the cgroupfs driver (podman: cgroup_manager = \"cgroupfs\"; \
             docker: \"exec-opts\": [\"native.cgroupdriver=cgroupfs\"])"
                .to_owned(),
        ).into());
    }
    if args.no_pivot {
        return Err(Error::Usage(
            "--no-pivot is not supported: without pivot_root the host's files stay reachable".to_owned(),
        )
        .into());
    }
    // Warnings go where errors go.
    let log = Log::new(args);
    let warnings = Warnings::new(move |text| log.write(Level::Warning, text));
    let runtime =
        Runtime::new(args.root.clone().unwrap_or_else(Runtime::default_state_root)).with_warnings(warnings);
    match args.verb.as_str() {
        "create" => runtime.create(&args.id()?, &create_options(args)).map(|_| 0),
        "start" => runtime.start(&args.id()?).map(|()| 0),
        "run" => runtime.run(&args.id()?, &create_options(args), args.detach),
        "state" => state(&runtime, args),
        "kill" => kill(&runtime, args),
        "delete" => runtime.delete(&args.id()?, args.force).map(|()| 0),
        "exec" => exec(&runtime, args),
        "list" => list(&runtime, args),
        "ps" => processes::run(&runtime, args),
        "events" => events::run(&runtime, args),
        "pause" => runtime.pause(&args.id()?).map(|()| 0),
        "resume" => runtime.resume(&args.id()?).map(|()| 0),
        "update" => {
            let id = args.id()?;
            runtime.update(&id, &update::resources(args)?).map(|()| 0)
        }
        "features" => features::run(),
        "spec" => spec(args),
        other => Err(Error::usage(format_args!(
            "unknown command {other:?}; `punnet-oci --help` lists them"
        ))),
    }
}

fn print(text: &str) -> Result<u8> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .os("write to", "standard output")?;
    Ok(0)
}

fn json(value: &dyn ToJson, pretty: bool) -> String {
    if pretty {
        punnet_json::to_string_pretty(value)
    } else {
        punnet_json::to_string(value)
    }
}

fn create_options(args: &Args) -> CreateOptions {
    CreateOptions {
        console_socket: args.console_socket.clone(),
        pid_file: args.pid_file.clone(),
        preserve_fds: args.preserve_fds,
        new_keyring: !args.no_new_keyring,
        keep: args.keep,
        ..CreateOptions::new(args.bundle.clone().unwrap_or_else(|| ".".into()))
    }
}

/// What `state` and `list` print: the specification's document, and the fields that runc adds and engines read.
#[derive(ToJson)]
#[json(rename_all = "camelCase")]
struct StateLine<'a> {
    oci_version: &'a str,
    id: &'a str,
    /// 0 when there is no process.
    pid: i32,
    status: &'static str,
    bundle: &'a str,
    rootfs: &'a Path,
    created: String,
    #[json(skip_if_empty)]
    annotations: &'a Map<String>,
    owner: String,
}

impl<'a> StateLine<'a> {
    fn new(listed: &'a Listed) -> Self {
        let state = &listed.state;
        Self {
            oci_version: &state.oci_version,
            id: &state.id,
            pid: state.pid.unwrap_or(0),
            status: state.status.as_str(),
            bundle: &state.bundle,
            rootfs: &listed.rootfs,
            created: timestamp(listed.created),
            annotations: &state.annotations,
            owner: owner(listed.uid),
        }
    }
}

/// The user's name, or the number of one without.
fn owner(uid: u32) -> String {
    crate::user_name(uid).unwrap_or_else(|| uid.to_string())
}

#[inline(never)]
fn state(runtime: &Runtime, args: &Args) -> Result<u8> {
    let listed = runtime.inspect(&args.id()?)?;
    print(&format!("{}\n", json(&StateLine::new(&listed), true)))
}

#[inline(never)]
fn kill(runtime: &Runtime, args: &Args) -> Result<u8> {
    let word = args.rest.get(1).and_then(|word| word.to_str()).unwrap_or("TERM");
    runtime.kill(&args.id()?, signal(word)?, args.all)?;
    Ok(0)
}

/// `9`, `KILL` or `SIGKILL`, and the real-time ones as numbers.
fn signal(word: &str) -> Result<i32> {
    /// The highest real-time signal.
    const SIGNAL_MAX: i32 = 64;
    if let Ok(number) = word.parse::<i32>() {
        return match number {
            0..=SIGNAL_MAX => Ok(number),
            _ => Err(Error::usage(format_args!("{number} is not a signal"))),
        };
    }
    let upper = word.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    Signal::from_str(&name)
        .map(|signal| signal as i32)
        .map_err(|_| Error::usage(format_args!("unknown signal {word:?}")))
}

#[inline(never)]
fn list(runtime: &Runtime, args: &Args) -> Result<u8> {
    let list = runtime.list()?;
    if args.quiet {
        return print(
            &list
                .iter()
                .map(|one| format!("{}\n", one.state.id))
                .collect::<String>(),
        );
    }
    match args.format.as_str() {
        "json" => {
            let lines: Vec<_> = list.iter().map(StateLine::new).collect();
            print(&format!("{}\n", json(&lines, false)))
        }
        "table" | "" => {
            let heading = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
            let rows = list.iter().map(StateLine::new).map(|line| {
                [
                    line.id.to_owned(),
                    line.pid.to_string(),
                    line.status.to_owned(),
                    line.bundle.to_owned(),
                    line.created,
                    line.owner,
                ]
            });
            print(&columns(
                &std::iter::once(heading).chain(rows).collect::<Vec<_>>(),
            ))
        }
        other => Err(Error::usage(format_args!(
            "unknown format {other:?}: json or table"
        ))),
    }
}

/// Each column as wide as its widest word and three spaces, and never below 12: runc's.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    const WIDTH_MIN: usize = 12;
    const GAP: usize = 3;
    let width = |column: usize| {
        let widest = rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        (widest + GAP).max(WIDTH_MIN)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (word, width) in row.iter().zip(&widths) {
            text += &format!("{word:<width$}");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

#[inline(never)]
fn spec(args: &Args) -> Result<u8> {
    let bundle = args.bundle.clone().unwrap_or_else(|| ".".into());
    let path = bundle.join("config.json");
    let rootless = args.rootless.then(|| (geteuid().as_raw(), getegid().as_raw()));
    let mut text = Spec::default_for(rootless).to_json();
    text.push(b'\n');
    let mut file = std::fs::File::create_new(&path).os("make", path.display())?;
    file.write_all(&text).os("write", path.display())?;
    Ok(0)
}

#[inline(never)]
fn exec(runtime: &Runtime, args: &Args) -> Result<u8> {
    // Before anything is read that cannot be read twice.
    crate::own_file::guard()?;
    let id = args.id()?;
    let process = match &args.process {
        Some(path) => read_process(path)?,
        None => container_process(runtime, &id, args)?,
    };
    let options = ExecOptions {
        cgroup: args.cgroup.as_deref().map(sub_cgroup).transpose()?,
        in_paused: args.ignore_paused,
        process,
        detach: args.detach,
        console_socket: args.console_socket.clone(),
        pid_file: args.pid_file.clone(),
        preserve_fds: args.preserve_fds,
        stdio: Stdio::default(),
    };
    runtime.exec(&id, &options)
}

/// `[CONTROLLER:]PATH`: a controller of cgroup v1 has no place in a v2 tree.
fn sub_cgroup(word: &str) -> Result<PathBuf> {
    match word.split_once(':') {
        None if !word.is_empty() => Ok(word.into()),
        _ => Err(Error::usage(format_args!(
            "--cgroup {word:?}: a path below the container's cgroup is needed; cgroup v2 has no controllers with paths of their own"
        ))),
    }
}

fn read_process(path: &Path) -> Result<Process> {
    let bytes = std::fs::read(path).os("read", path.display())?;
    punnet_json::from_slice(&bytes).map_err(|source| {
        Error::Json {
            path: path.display().to_string(),
            source,
        }
        .into()
    })
}

/// The container's own process with what the command line changes.
fn container_process(runtime: &Runtime, id: &crate::ContainerId, args: &Args) -> Result<Process> {
    let mut process = runtime.config(id)?.process.unwrap_or_default();
    let mut words = Vec::new();
    for word in args.rest.iter().skip(1) {
        let word = word
            .to_str()
            .ok_or_else(|| Error::usage(format_args!("{} is not UTF-8", word.display())))?;
        words.push(word.to_owned());
    }
    if words.is_empty() {
        return Err(Error::Usage(
            "exec needs a command after the container's id, or --process FILE".to_owned(),
        )
        .into());
    }
    process.args = words;
    process.terminal = args.tty;
    process.env.extend(args.env.iter().cloned());
    if let Some(cwd) = &args.cwd {
        process.cwd.clone_from(cwd);
    }
    if let Some(user) = &args.user {
        (process.user.uid, process.user.gid) = parse_user(user, process.user.gid)?;
    }
    process.user.additional_gids.extend(&args.additional_gids);
    process.no_new_privileges |= args.no_new_privs;
    if let Some(label) = &args.process_label {
        process.selinux_label.clone_from(label);
    }
    if let Some(profile) = &args.apparmor {
        process.apparmor_profile.clone_from(profile);
    }
    if !args.cap.is_empty() {
        let sets = process.capabilities.get_or_insert_with(Capabilities::default);
        for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
            set.extend(args.cap.iter().cloned());
        }
    }
    Ok(process)
}

/// `UID` or `UID:GID`.
fn parse_user(user: &str, gid: u32) -> Result<(u32, u32)> {
    let (uid, given) = user
        .split_once(':')
        .map_or((user, None), |(uid, gid)| (uid, Some(gid)));
    let number = |text: &str| {
        text.parse().map_err(|_| {
            Error::usage(format_args!(
                "--user {user:?}: numbers are needed, as 1000 or 1000:1000"
            ))
        })
    };
    Ok((number(uid)?, given.map_or(Ok(gid), number)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stamps_are_calendar_dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(timestamp(seconds), text);
        }
    }

    #[test]
    fn signals_are_names_or_numbers() {
        for (word, number) in [("9", 9), ("KILL", 9), ("sigterm", 15), ("34", 34), ("0", 0)] {
            assert_eq!(signal(word).unwrap(), number);
        }
        for bad in ["", "SIGFUN", "-1", "65"] {
            assert!(signal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn users_are_numbers() {
        assert_eq!(parse_user("7", 3).unwrap(), (7, 3));
        assert_eq!(parse_user("7:8", 3).unwrap(), (7, 8));
        assert!(parse_user("root", 3).is_err() && parse_user("7:", 3).is_err());
    }
}
