//! One instruction: its keyword, its options and its arguments.

use super::lines::{Joined, marker, split};
use super::{Command, Copy, From, Kind, Run};
use crate::Result;
use crate::oci::Healthcheck;

/// Nanoseconds of one, for durations as Go writes them.
const UNITS_NS: [(&str, i64); 6] = [
    // Before `m` and `s`, which they end with.
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// An instruction's line taken apart.
struct Line<'a> {
    joined: &'a Joined,
    keyword: String,
    escape: char,
    /// Offset and text of what follows the keyword.
    rest_at: usize,
    rest: &'a str,
}

/// Reads one instruction.
pub fn read(joined: &Joined, escape: char) -> Result<Kind> {
    let text = joined.text.as_str();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let rest_at = end + text[end..].len() - text[end..].trim_start().len();
    let line = Line {
        joined,
        keyword: text[..end].to_ascii_uppercase(),
        escape,
        rest_at,
        rest: &text[rest_at..],
    };
    let keyword = line.keyword.as_str();
    match keyword {
        "ONBUILD" => {
            let why = "ONBUILD is not supported: it would run in somebody else's build, unseen; write the instruction there";
            return Err(joined.error(0, why));
        }
        "FROM" | "ARG" | "ENV" | "LABEL" | "COPY" | "ADD" | "ENTRYPOINT" | "CMD" | "WORKDIR" | "USER"
        | "EXPOSE" | "VOLUME" | "STOPSIGNAL" | "RUN" | "SHELL" | "HEALTHCHECK" | "MAINTAINER" => {}
        _ => return Err(joined.error(0, format!("{:?} is no instruction", &text[..end]))),
    }
    if line.rest.is_empty() {
        return Err(joined.error(end, format!("{keyword} needs an argument")));
    }
    match keyword {
        "FROM" => line.from(),
        "ARG" => line.arguments(),
        "ENV" => Ok(Kind::Env(line.pairs()?)),
        "LABEL" => Ok(Kind::Label(line.pairs()?)),
        "COPY" | "ADD" => line.copy(keyword == "ADD").map(Kind::Copy),
        "RUN" => line.run().map(Kind::Run),
        "ENTRYPOINT" => Ok(Kind::Entrypoint(line.command(0)?)),
        "CMD" => Ok(Kind::Cmd(line.command(0)?)),
        "SHELL" => line.shell(),
        "HEALTHCHECK" => line.healthcheck(),
        // A path may have blanks: the rest of the line is one argument.
        "WORKDIR" => Ok(Kind::Workdir(line.rest.trim_end().to_owned())),
        "MAINTAINER" => Ok(Kind::Maintainer(line.rest.trim_end().to_owned())),
        "USER" => Ok(Kind::User(line.one()?)),
        "STOPSIGNAL" => Ok(Kind::StopSignal(line.one()?)),
        "EXPOSE" => Ok(Kind::Expose(line.words_as_text())),
        "VOLUME" => match line.command(0)? {
            Command::Exec(paths) => Ok(Kind::Volume(paths)),
            Command::Shell(_) => Ok(Kind::Volume(line.words_as_text())),
        },
        _ => unreachable!("the keywords were checked above"),
    }
}

impl<'a> Line<'a> {
    fn error(&self, offset: usize, why: impl Into<String>) -> Box<crate::Error> {
        self.joined.error(self.rest_at + offset, why)
    }

    /// Words of the rest, with offsets in the rest.
    fn words(&self) -> Vec<(usize, &'a str)> {
        split(self.rest, self.escape)
    }

    fn words_as_text(&self) -> Vec<String> {
        self.words()
            .into_iter()
            .map(|(_, word)| word.to_owned())
            .collect()
    }

    fn one(&self) -> Result<String> {
        match self.words().as_slice() {
            [(_, word)] => Ok((*word).to_owned()),
            [_, (offset, _), ..] => Err(self.error(*offset, format!("{} takes one argument", self.keyword))),
            [] => Err(self.error(0, format!("{} needs an argument", self.keyword))),
        }
    }

    /// Options in front, each given to `take` as name and value, which says whether it knows it. Returns the words that follow.
    fn options(
        &self,
        take: &mut dyn FnMut(&str, &str) -> std::result::Result<(), String>,
    ) -> Result<Vec<(usize, &'a str)>> {
        let words = self.words();
        let count = words
            .iter()
            .take_while(|(_, word)| word.starts_with("--"))
            .count();
        for (offset, flag) in &words[..count] {
            let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
            take(name, value).map_err(|why| self.error(*offset, format!("{flag}: {why}")))?;
        }
        Ok(words[count..].to_vec())
    }

    fn from(&self) -> Result<Kind> {
        let mut platform = None;
        let words = self.options(&mut |name, value| match name {
            "--platform" if !value.is_empty() => {
                platform = Some(value.to_owned());
                Ok(())
            }
            "--platform" => Err("it takes OS/ARCH[/VARIANT]".into()),
            _ => Err("FROM has no such option".into()),
        })?;
        let (image, name) = match words.as_slice() {
            [(_, image)] => (*image, None),
            [(_, image), (_, word), (offset, name)] if word.eq_ignore_ascii_case("as") => {
                let name = stage_name(name)
                    .ok_or_else(|| self.error(*offset, format!("{name:?} is no name of a stage")))?;
                (*image, Some(name))
            }
            _ => return Err(self.error(0, "FROM takes IMAGE or IMAGE AS NAME")),
        };
        Ok(Kind::From(From {
            image: image.to_owned(),
            platform,
            name,
        }))
    }

    fn arguments(&self) -> Result<Kind> {
        let argument = |(offset, word): &(usize, &str)| {
            let (name, default) = word
                .split_once('=')
                .map_or((*word, None), |(name, default)| (name, Some(default.to_owned())));
            if is_name(name) {
                Ok((name.to_owned(), default))
            } else {
                Err(self.error(*offset, "ARG takes NAME or NAME=DEFAULT"))
            }
        };
        Ok(Kind::Arg(
            self.words().iter().map(argument).collect::<Result<_>>()?,
        ))
    }

    /// `KEY=VALUE ...`, or the old form `KEY the rest of the line`.
    fn pairs(&self) -> Result<Vec<(String, String)>> {
        let words = self.words();
        let (_, first) = words.first().copied().unwrap_or_default();
        if !first.contains('=') {
            let value = self.rest[first.len()..].trim();
            if value.is_empty() {
                return Err(self.error(0, format!("{first:?} has no value: NAME=VALUE")));
            }
            return Ok(vec![(first.to_owned(), value.to_owned())]);
        }
        let pair = |(offset, word): &(usize, &str)| match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(self.error(*offset, format!("{word:?} is not NAME=VALUE"))),
        };
        words.iter().map(pair).collect()
    }

    fn copy(&self, is_add: bool) -> Result<Copy> {
        let mut copy = Copy {
            is_add,
            ..Copy::default()
        };
        let words = self.options(&mut |name, value| copy_option(&mut copy, name, value))?;
        let begin = words.first().map_or(self.rest.len(), |(offset, _)| *offset);
        // A pattern such as `[ab].txt` begins with a bracket too.
        let array = if is_array(&self.rest[begin..]) {
            match self.command(begin)? {
                Command::Exec(paths) => Some(paths),
                Command::Shell(_) => None,
            }
        } else {
            None
        };
        let mut paths = array.unwrap_or_else(|| words.iter().map(|(_, word)| (*word).to_owned()).collect());
        copy.target = paths.pop().unwrap_or_default();
        copy.sources = paths;
        if copy.sources.is_empty() {
            return Err(self.error(begin, "needs at least a source and a destination"));
        }
        if !self.joined.heredocs.is_empty() {
            copy.heredocs.clone_from(&self.joined.heredocs);
            copy.sources.retain(|source| marker(source).is_none());
            if copy.from.is_some() {
                return Err(self.error(begin, "a here-document does not come --from anywhere"));
            }
            if marker(&copy.target).is_some() {
                return Err(self.error(begin, "the destination is a here-document"));
            }
        }
        let url = |source: &&String| source.contains("://") || source.starts_with("git@");
        if let Some(url) = copy.sources.iter().find(|source| is_add && url(source)) {
            return Err(self.error(
                begin,
                format!("ADD {url}: nothing is fetched while building; fetch it first and COPY it, or fetch it with RUN"),
            ));
        }
        Ok(copy)
    }

    fn run(&self) -> Result<Run> {
        let mut is_offline = false;
        let words = self.options(&mut |name, value| match (name, value) {
            ("--network", "none") => {
                is_offline = true;
                Ok(())
            }
            ("--network", "default") => Ok(()),
            ("--network", _) => {
                Err("none or default; punnet build --network says what the default is".into())
            }
            ("--mount", _) => Err(
                "mounts while building are not supported; COPY what is needed, and remove it in the same RUN"
                    .into(),
            ),
            ("--security" | "--device", _) => {
                Err("a step has the rights of an ordinary container and no others".into())
            }
            _ => Err("RUN has no such option".into()),
        })?;
        let begin = words.first().map_or(self.rest.len(), |(offset, _)| *offset);
        let line = self.rest[begin..].trim();
        if line.is_empty() {
            return Err(self.error(0, "RUN needs a command"));
        }
        let heredocs = &self.joined.heredocs;
        let (command, script) = match (heredocs.as_slice(), words.as_slice()) {
            ([script], [_]) => (Command::Exec(Vec::new()), Some(script.clone())),
            ([], _) => {
                // `[ -e /x ] && y` is a line for a shell.
                let array = punnet_json::from_str::<Vec<String>>(line).ok();
                let array = array.filter(|words| !words.is_empty());
                (
                    array.map_or_else(|| Command::Shell(line.into()), Command::Exec),
                    None,
                )
            }
            _ => (Command::Shell(self.joined.with_heredocs(line)), None),
        };
        Ok(Run {
            command,
            script,
            is_offline,
        })
    }

    fn shell(&self) -> Result<Kind> {
        match self.command(0)? {
            Command::Exec(words) if !words.is_empty() => Ok(Kind::Shell(words)),
            _ => Err(self.error(0, "SHELL takes a JSON array, as [\"/bin/sh\", \"-c\"]")),
        }
    }

    fn healthcheck(&self) -> Result<Kind> {
        let mut check = Healthcheck::default();
        let words = self.options(&mut |name, value| healthcheck_option(&mut check, name, value))?;
        let (offset, first) = words.first().copied().unwrap_or((self.rest.len(), ""));
        match (first.to_ascii_uppercase().as_str(), words.len()) {
            ("NONE", 1) if check == Healthcheck::default() => {
                check.test = vec!["NONE".into()];
                Ok(Kind::Healthcheck(check, None))
            }
            ("CMD", 2..) => match self.command(words[1].0)? {
                Command::Exec(words) => {
                    check.test = std::iter::once("CMD".to_owned()).chain(words).collect();
                    Ok(Kind::Healthcheck(check, None))
                }
                Command::Shell(line) => Ok(Kind::Healthcheck(check, Some(line))),
            },
            _ => Err(self.error(offset, "HEALTHCHECK takes NONE, or options and CMD COMMAND")),
        }
    }

    /// A JSON array when it begins like one; one that is broken is an error rather than a line for a shell.
    fn command(&self, begin: usize) -> Result<Command> {
        let rest = &self.rest[begin..];
        if !rest.trim_start().starts_with('[') {
            return Ok(Command::Shell(rest.trim().to_owned()));
        }
        punnet_json::from_str(rest).map(Command::Exec).map_err(|error| {
            let column = error.column().saturating_sub(1).min(rest.len());
            let why = error.to_string();
            let why = why.split(" at line ").next().unwrap_or_default().to_owned();
            self.error(
                begin + floor_boundary(rest, column),
                format!("this is no JSON array of strings: {why}"),
            )
        })
    }
}

fn copy_option(copy: &mut Copy, name: &str, value: &str) -> std::result::Result<(), String> {
    let has_variable = value.contains('$');
    match name {
        _ if value.is_empty() && name != "--link" => {
            return Err("it needs a value, or COPY and ADD have no such option".into());
        }
        "--chown" => copy.owner = Some(value.to_owned()),
        "--chmod" => {
            if !has_variable {
                mode_of(value)?;
            }
            copy.mode = Some(value.to_owned());
        }
        "--from" if copy.is_add => return Err("ADD takes from the context only; use COPY".into()),
        "--from" if has_variable => {
            return Err("a variable cannot stand here; give the image a stage: FROM $IMAGE AS name".into());
        }
        "--from" => copy.from = Some(value.to_owned()),
        // Here every layer stands for itself anyway.
        "--link" if matches!(value, "" | "true" | "false") => {}
        "--checksum" | "--keep-git-dir" | "--unpack" | "--exclude" | "--parents" | "--link" => {
            return Err("this option is not supported".into());
        }
        _ => return Err("COPY and ADD have no such option".into()),
    }
    Ok(())
}

/// `--chmod`.
pub fn mode_of(text: &str) -> std::result::Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| "permissions are an octal number, as 755".into())
}

fn healthcheck_option(check: &mut Healthcheck, name: &str, value: &str) -> std::result::Result<(), String> {
    let duration = || duration_ns(value).ok_or("it takes a time of at least 1ms, as 30s or 1m30s".to_owned());
    match name {
        "--interval" => check.interval = duration()?,
        "--timeout" => check.timeout = duration()?,
        "--start-period" => check.start_period = duration()?,
        "--start-interval" => check.start_interval = duration()?,
        "--retries" => {
            let retries = value.parse().ok().filter(|count| (1..=1_000_000).contains(count));
            check.retries = retries.ok_or("it takes a number from 1 on")?;
        }
        _ => return Err("HEALTHCHECK has no such option".into()),
    }
    Ok(())
}

/// Go's durations: `1h2m3.5s`, `100ms`. At least a millisecond, as Docker wants it.
pub fn duration_ns(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut sum = 0i64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (unit, factor) = UNITS_NS.iter().find(|(unit, _)| rest[end..].starts_with(unit))?;
        sum = sum.checked_add(times(&rest[..end], *factor)?)?;
        rest = &rest[end + unit.len()..];
    }
    Some(sum).filter(|sum| *sum >= 1_000_000)
}

/// A decimal number of digits and at most one point, as many times as that: what is left of the last unit is cut off.
fn times(number: &str, factor: i64) -> Option<i64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|digit| digit.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole = if whole.is_empty() {
        0
    } else {
        whole.parse::<i64>().ok()?
    };
    let mut product = whole.checked_mul(factor)?;
    let mut place = factor;
    for digit in fraction.bytes() {
        place /= 10;
        product = product.checked_add(i64::from(digit - b'0') * place)?;
    }
    Some(product)
}

fn stage_name(text: &str) -> Option<String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
    (first && text.bytes().all(allowed)).then(|| text.to_ascii_lowercase())
}

fn is_name(text: &str) -> bool {
    let first = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    first && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Whether a list of paths is written as a JSON array of strings.
fn is_array(text: &str) -> bool {
    let inside = text.trim_start().strip_prefix('[').map(str::trim_start);
    inside.is_some_and(|inside| inside.starts_with('"'))
}

fn floor_boundary(text: &str, mut offset: usize) -> usize {
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}
