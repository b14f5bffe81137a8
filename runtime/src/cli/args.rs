//! The words of the command line, parsed once for all verbs: an option means the same wherever it stands before the container's id or
//! after it. For `exec` everything from the command on is the command's own, for `ps` everything after the id is that of ps(1).

use crate::error::{Error, Result};
use crate::id::ContainerId;
use lexopt::{Arg, Parser, ValueExt};
use std::ffi::OsString;
use std::path::PathBuf;

/// Every option of every verb.
#[derive(Debug, Default)]
pub(super) struct Args {
    pub verb: String,
    /// Words that are not options: the id, then what the verb wants.
    pub rest: Vec<OsString>,
    pub help: bool,
    pub version: bool,
    pub root: Option<PathBuf>,
    pub log: Option<PathBuf>,
    pub log_format: String,
    pub debug: bool,
    pub systemd_cgroup: bool,
    pub bundle: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    pub console_socket: Option<PathBuf>,
    pub preserve_fds: u32,
    pub no_pivot: bool,
    pub no_new_keyring: bool,
    pub detach: bool,
    pub process: Option<PathBuf>,
    pub cap: Vec<String>,
    pub env: Vec<String>,
    pub cwd: Option<String>,
    pub user: Option<String>,
    pub additional_gids: Vec<u32>,
    pub no_new_privs: bool,
    pub tty: bool,
    pub force: bool,
    pub all: bool,
    pub quiet: bool,
    pub keep: bool,
    pub cgroup: Option<String>,
    pub ignore_paused: bool,
    pub process_label: Option<String>,
    pub apparmor: Option<String>,
    pub stats: bool,
    pub interval: Option<String>,
    pub resources: Option<PathBuf>,
    /// Limits of `update` by the names of its options.
    pub limits: Vec<(String, String)>,
    pub format: String,
    pub rootless: bool,
}

impl Args {
    /// The container's id.
    pub fn id(&self) -> Result<ContainerId> {
        let Some(word) = self.rest.first() else {
            return Err(Error::usage(format_args!("{} needs a container's id", self.verb)));
        };
        ContainerId::new(&word.to_string_lossy())
    }
}

fn usage(error: impl std::fmt::Display) -> Box<Error> {
    Error::usage(format_args!("{error}; see --help"))
}

/// Splits the words up.
pub(super) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Args> {
    let mut args = Args::default();
    let mut parser = Parser::from_args(arguments);
    while let Some(arg) = parser.next().map_err(usage)? {
        match arg {
            Arg::Value(word) if args.verb.is_empty() => args.verb = word.to_string_lossy().into_owned(),
            Arg::Value(word) => {
                let is_command = args.verb == "exec" && (!args.rest.is_empty() || args.process.is_some());
                args.rest.push(word);
                if is_command {
                    args.rest.extend(parser.raw_args().map_err(usage)?);
                }
                if args.verb == "ps" {
                    ps_words(&mut args, &mut parser).map_err(usage)?;
                }
            }
            Arg::Short(letter) => short(&mut args, letter, &mut parser).map_err(usage)?,
            Arg::Long(name) => {
                let name = name.to_owned();
                long(&mut args, &name, &mut parser).map_err(usage)?;
            }
        }
    }
    Ok(args)
}

/// What follows the id of `ps`: our own `--format` may still come first.
fn ps_words(args: &mut Args, parser: &mut Parser) -> std::result::Result<(), lexopt::Error> {
    let mut words = parser.raw_args()?.peekable();
    while let Some(word) = words.peek().and_then(|word| word.to_str()) {
        match word.strip_prefix("--format") {
            Some("") => {
                words.next();
                args.format = words.next().ok_or("--format needs a value")?.string()?;
            }
            Some(value) if value.starts_with('=') => {
                args.format = value[1..].to_owned();
                words.next();
            }
            _ => break,
        }
    }
    args.rest.extend(words);
    Ok(())
}

fn short(args: &mut Args, letter: char, parser: &mut Parser) -> std::result::Result<(), lexopt::Error> {
    let name = match letter {
        'h' => "help",
        'v' => "version",
        'b' => "bundle",
        'd' => "detach",
        'p' => "process",
        'c' => "cap",
        'e' => "env",
        'u' => "user",
        't' => "tty",
        'f' if args.verb == "list" || args.verb == "ps" => "format",
        'r' if args.verb == "update" => "resources",
        'f' => "force",
        'a' => "all",
        'g' => "additional-gids",
        'q' => "quiet",
        other => return Err(Arg::Short(other).unexpected()),
    };
    long(args, name, parser)
}

fn long(args: &mut Args, name: &str, parser: &mut Parser) -> std::result::Result<(), lexopt::Error> {
    match name {
        "help" => args.help = true,
        "version" => args.version = true,
        "root" => args.root = Some(parser.value()?.into()),
        "log" => args.log = Some(parser.value()?.into()),
        "log-format" => args.log_format = parser.value()?.string()?,
        "debug" => args.debug = flag(parser)?,
        "systemd-cgroup" => args.systemd_cgroup = flag(parser)?,
        "bundle" => args.bundle = Some(parser.value()?.into()),
        "pid-file" => args.pid_file = Some(parser.value()?.into()),
        "console-socket" => args.console_socket = Some(parser.value()?.into()),
        "preserve-fds" => args.preserve_fds = parser.value()?.parse()?,
        "no-pivot" => args.no_pivot = flag(parser)?,
        "no-new-keyring" => args.no_new_keyring = flag(parser)?,
        "detach" => args.detach = flag(parser)?,
        "process" => args.process = Some(parser.value()?.into()),
        "cap" => args.cap.push(parser.value()?.string()?),
        "env" => args.env.push(parser.value()?.string()?),
        "cwd" => args.cwd = Some(parser.value()?.string()?),
        "user" => args.user = Some(parser.value()?.string()?),
        "additional-gids" => args.additional_gids.push(parser.value()?.parse()?),
        "no-new-privs" => args.no_new_privs = flag(parser)?,
        "tty" => args.tty = flag(parser)?,
        "force" => args.force = flag(parser)?,
        "all" => args.all = flag(parser)?,
        "quiet" => args.quiet = flag(parser)?,
        "format" => args.format = parser.value()?.string()?,
        "rootless" if args.verb == "spec" => args.rootless = flag(parser)?,
        "keep" => args.keep = flag(parser)?,
        "cgroup" => args.cgroup = Some(parser.value()?.string()?),
        "ignore-paused" => args.ignore_paused = flag(parser)?,
        "process-label" => args.process_label = Some(parser.value()?.string()?),
        "apparmor" => args.apparmor = Some(parser.value()?.string()?),
        "stats" => args.stats = flag(parser)?,
        "interval" => args.interval = Some(parser.value()?.string()?),
        "resources" => args.resources = Some(parser.value()?.into()),
        limit if args.verb == "update" && super::update::OPTIONS.contains(&limit) => {
            args.limits.push((limit.to_owned(), parser.value()?.string()?));
        }
        // runc's: says whether cgroups may fail, which we decide by whether limits are asked for; and who reaps orphans, which nobody has to.
        "rootless" => drop(parser.value()?),
        "no-subreaper" => drop(flag(parser)?),
        other => return Err(Arg::Long(other).unexpected()),
    }
    Ok(())
}

/// A switch, alone or as `--switch=true`.
fn flag(parser: &mut Parser) -> std::result::Result<bool, lexopt::Error> {
    match parser.optional_value() {
        None => Ok(true),
        Some(value) => value.parse::<bool>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str) -> Args {
        parse(line.split(' ').map(OsString::from)).unwrap()
    }

    #[test]
    fn options_stand_before_or_after_the_id() {
        for line in [
            "--root /r create --bundle /b --pid-file p web",
            "--root=/r create web -b /b --pid-file=p",
        ] {
            let args = check(line);
            assert_eq!(
                (args.verb.as_str(), args.id().unwrap().as_str()),
                ("create", "web")
            );
            assert_eq!(args.root, Some("/r".into()));
            assert_eq!(
                (args.bundle, args.pid_file),
                (Some("/b".into()), Some("p".into()))
            );
        }
        assert!(check("delete web --force").force && check("delete -f web").force);
        assert_eq!(check("list -f json").format, "json");
        assert_eq!(check("kill --all web KILL").rest, ["web", "KILL"]);
    }

    #[test]
    fn the_command_of_exec_keeps_its_options() {
        let args = check("exec -t --env A=1 web ls -l --all -t");
        assert_eq!(args.rest, ["web", "ls", "-l", "--all", "-t"]);
        assert!(args.tty && !args.all);
        assert_eq!(check("exec web -t ls -t").rest, ["web", "ls", "-t"]);
        assert_eq!(check("exec web -- ls -t").rest, ["web", "ls", "-t"]);
    }

    #[test]
    fn what_follows_the_id_of_ps_is_for_ps() {
        for line in [
            "ps --format json web -e -o pid",
            "ps web --format json -e -o pid",
            "ps web --format=json -e -o pid",
        ] {
            let args = check(line);
            assert_eq!(args.format, "json", "{line}");
            assert_eq!(args.rest, ["web", "-e", "-o", "pid"], "{line}");
        }
        assert_eq!(check("ps -f json web").format, "json");
    }

    #[test]
    fn limits_belong_to_update() {
        let args = check("update web --memory 64m --pids-limit=9 -r -");
        let limit = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(args.limits, [limit("memory", "64m"), limit("pids-limit", "9")]);
        assert_eq!(args.resources, Some("-".into()));
        assert!(parse(["create", "--memory", "1"].map(OsString::from).into_iter()).is_err());
    }

    #[test]
    fn unknown_options_are_named() {
        let error = parse(["create", "--colour", "web"].map(OsString::from).into_iter()).unwrap_err();
        assert!(error.to_string().contains("colour"), "{error}");
    }
}
