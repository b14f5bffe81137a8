//! The user's verbs, one table: what a verb accepts, its help and its completion are the same data.

mod agent;
#[cfg(feature = "agent")]
mod apps;
#[cfg(feature = "images")]
mod archives;
#[cfg(feature = "images")]
mod build;
#[cfg(feature = "images")]
pub(crate) mod containers;
#[cfg(feature = "images")]
mod doctor;
#[cfg(feature = "images")]
pub(crate) mod images;
#[cfg(feature = "init")]
mod init;
#[cfg(feature = "images")]
mod inspect;
#[cfg(feature = "agent")]
mod install;
#[cfg(feature = "images")]
mod layer;
#[cfg(feature = "images")]
mod options;
#[cfg(feature = "images")]
mod progress;
#[cfg(feature = "images")]
mod registry;
#[cfg(feature = "images")]
mod run;
#[cfg(feature = "images")]
mod sign;
#[cfg(feature = "images")]
mod verify;

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use lexopt::{Arg, Parser, ValueExt};

use crate::error::{CliError, Result};
use crate::help;
use crate::roots::Roots;

/// One verb.
pub struct Verb {
    /// What is typed.
    pub name: &'static str,
    /// One sentence without its full stop.
    pub summary: &'static str,
    /// Arguments, as in a manual page's synopsis.
    pub synopsis: &'static str,
    /// Paragraphs below the summary.
    pub details: &'static str,
    /// Options.
    pub flags: &'static [Flag],
    /// What the arguments without a dash are.
    pub words: Words,
    /// Does it.
    pub act: fn(&Roots, Given) -> Result<ExitCode>,
}

/// One option.
pub struct Flag {
    /// Without its dashes.
    pub long: &'static str,
    /// Without its dash.
    pub short: Option<char>,
    /// Name of its value in the help; empty when it takes none.
    pub value: &'static str,
    /// One line.
    pub help: &'static str,
}

/// What a verb does with arguments that are no options.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Words {
    /// From so many to so many of them.
    Between(usize, usize),
    /// At least so many, and from then on everything belongs to the container's command, options too.
    CommandAfter(usize),
}

/// No bound on how many words.
pub const ANY: usize = usize::MAX;

const fn flag(long: &'static str, help: &'static str) -> Flag {
    Flag {
        long,
        short: None,
        value: "",
        help,
    }
}

const fn valued(long: &'static str, value: &'static str, help: &'static str) -> Flag {
    Flag {
        long,
        short: None,
        value,
        help,
    }
}

impl Flag {
    const fn or(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }
}

const JSON: Flag = flag("json", "Print JSON");

/// All of them, in the order of the help.
pub const VERBS: &[Verb] = &[
    #[cfg(feature = "images")]
    run::RUN,
    #[cfg(feature = "images")]
    run::CREATE,
    #[cfg(feature = "images")]
    containers::START,
    #[cfg(feature = "images")]
    containers::STOP,
    #[cfg(feature = "images")]
    containers::KILL,
    #[cfg(feature = "images")]
    containers::RM,
    #[cfg(feature = "images")]
    containers::PS,
    #[cfg(feature = "images")]
    containers::LOGS,
    #[cfg(feature = "images")]
    run::EXEC,
    #[cfg(feature = "images")]
    build::BUILD,
    #[cfg(feature = "images")]
    images::IMAGES,
    #[cfg(feature = "images")]
    registry::PULL,
    #[cfg(feature = "images")]
    registry::PUSH,
    #[cfg(feature = "images")]
    registry::LOGIN,
    #[cfg(feature = "images")]
    registry::LOGOUT,
    #[cfg(feature = "images")]
    inspect::INSPECT,
    #[cfg(feature = "images")]
    inspect::HISTORY,
    #[cfg(feature = "images")]
    inspect::DU,
    #[cfg(feature = "images")]
    archives::LOAD,
    #[cfg(feature = "images")]
    archives::SAVE,
    #[cfg(feature = "images")]
    images::TAG,
    #[cfg(feature = "images")]
    images::RMI,
    #[cfg(feature = "images")]
    images::PRUNE,
    #[cfg(feature = "images")]
    verify::VERIFY,
    #[cfg(feature = "images")]
    doctor::DOCTOR,
    #[cfg(feature = "images")]
    sign::SIGN,
    #[cfg(feature = "agent")]
    agent::AGENT,
    #[cfg(feature = "agent")]
    apps::APPS_VERB,
    #[cfg(feature = "agent")]
    install::INSTALL,
    #[cfg(feature = "agent")]
    install::UNINSTALL,
    #[cfg(feature = "init")]
    init::INIT,
    #[cfg(feature = "init")]
    init::REBOOT,
    #[cfg(feature = "init")]
    init::POWEROFF,
    #[cfg(feature = "init")]
    init::SYSTEM,
    agent::COMPLETION,
];

/// Looks a verb up.
pub fn find(name: &OsStr) -> Result<&'static Verb> {
    // What they were called before they had Docker's names.
    let name = match name.to_str() {
        Some("import") => OsStr::new("load"),
        Some("export") => OsStr::new("save"),
        _ => name,
    };
    let unknown = || CliError::usage(format_args!("there is no verb {:?}", name.to_string_lossy()));
    VERBS.iter().find(|verb| verb.name == name).ok_or_else(unknown)
}

impl Verb {
    /// Reads the rest of the command line and acts.
    pub fn run(&'static self, roots: &Roots, mut parser: Parser) -> Result<ExitCode> {
        match self.parse(&mut parser)? {
            Some(given) => (self.act)(roots, given),
            None => Ok(help::print_verb(self)),
        }
    }

    /// `None` when help is asked for.
    fn parse(&self, parser: &mut Parser) -> Result<Option<Given>> {
        let mut given = Given {
            flags: Vec::new(),
            words: Vec::new(),
        };
        let (least, most) = match self.words {
            Words::Between(least, most) => (least, most),
            Words::CommandAfter(least) => (least, ANY),
        };
        while let Some(arg) = parser.next()? {
            let flag = match &arg {
                Arg::Short('h') | Arg::Long("help") => return Ok(None),
                Arg::Long(long) => self.flags.iter().find(|flag| flag.long == *long),
                Arg::Short(short) => self.flags.iter().find(|flag| flag.short == Some(*short)),
                Arg::Value(word) => {
                    given.words.push(word.clone());
                    if self.words == Words::CommandAfter(given.words.len()) {
                        given.words.extend(parser.raw_args()?);
                    }
                    continue;
                }
            };
            let Some(flag) = flag else {
                return Err(arg.unexpected().into());
            };
            let value = if flag.value.is_empty() {
                String::new()
            } else {
                parser.value()?.string()?
            };
            given.flags.push((flag.long, value));
        }
        if given.words.len() < least || given.words.len() > most {
            return Err(CliError::usage(format_args!(
                "punnet {} wants: {}",
                self.name, self.synopsis
            )));
        }
        Ok(Some(given))
    }
}

/// What stood on the command line.
pub struct Given {
    flags: Vec<(&'static str, String)>,
    words: Vec<OsString>,
}

impl Given {
    /// True when an option without value was given.
    pub fn has(&self, long: &str) -> bool {
        self.flags.iter().any(|(name, _)| *name == long)
    }

    /// An option's value; the last one counts.
    pub fn one(&self, long: &str) -> Option<&str> {
        self.flags
            .iter()
            .rev()
            .find(|(name, _)| *name == long)
            .map(|(_, value)| value.as_str())
    }

    /// All values of an option that may be repeated.
    pub fn all<'a>(&'a self, long: &'a str) -> impl Iterator<Item = &'a str> {
        self.flags
            .iter()
            .filter(move |(name, _)| *name == long)
            .map(|(_, value)| value.as_str())
    }

    /// An option's value, parsed.
    pub fn parsed<T>(&self, long: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>> {
        let Some(text) = self.one(long) else {
            return Ok(None);
        };
        parse(text)
            .map(Some)
            .ok_or_else(|| CliError::usage(format_args!("--{long} does not take {text:?}")))
    }

    /// Arguments without a dash.
    pub fn words(&self) -> &[OsString] {
        &self.words
    }

    /// One of them as text.
    pub fn text(&self, index: usize) -> Result<&str> {
        let word = self.words.get(index).map(OsString::as_os_str).unwrap_or_default();
        word.to_str()
            .ok_or_else(|| CliError::usage(format_args!("{word:?} is not UTF-8")))
    }

    /// All of them from `first` on as text.
    pub fn texts(&self, first: usize) -> Result<Vec<String>> {
        (first..self.words.len())
            .map(|index| self.text(index).map(str::to_string))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(verb: &str, line: &str) -> Result<Option<Given>> {
        find(OsStr::new(verb))
            .unwrap()
            .parse(&mut Parser::from_args(line.split_whitespace()))
    }

    #[test]
    fn options_behind_the_image_belong_to_the_container() {
        let given = parse("run", "--rm -e A=1 --env B=2 hello --rm -x")
            .unwrap()
            .unwrap();
        assert!(given.has("rm"));
        assert_eq!(given.all("env").collect::<Vec<_>>(), ["A=1", "B=2"]);
        assert_eq!(given.texts(0).unwrap(), ["hello", "--rm", "-x"]);
    }

    #[test]
    fn what_a_verb_does_not_know_is_named() {
        let error = parse("run", "--no-such-option x").err().unwrap().to_string();
        assert!(error.contains("--no-such-option"), "{error}");
        let error = parse("tag", "only-one").err().unwrap().to_string();
        assert!(error.contains("IMAGE"), "{error}");
        assert!(find(OsStr::new("rnu")).err().unwrap().to_string().contains("rnu"));
    }

    #[test]
    fn no_verb_has_an_option_twice() {
        for verb in VERBS {
            for (index, flag) in verb.flags.iter().enumerate() {
                let twin = |other: &Flag| {
                    other.long == flag.long || (flag.short.is_some() && other.short == flag.short)
                };
                assert!(
                    !verb.flags[..index].iter().any(twin),
                    "{} has --{} twice",
                    verb.name,
                    flag.long
                );
            }
        }
    }
}
