//! `events`: one line of JSON for each measurement and for each process that ran out of memory, until the container ends.

use super::args::Args;
use super::{json, print};
use crate::control::Seen;
use crate::error::{Error, Result};
use crate::runtime::Runtime;
use crate::stats::Stats;
use punnet_json::ToJson;
use std::time::{Duration, Instant};

/// Between two measurements, unless told otherwise: runc's.
const INTERVAL: Duration = Duration::from_secs(5);

#[derive(ToJson)]
struct Line<'a> {
    #[json(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[json(skip_if_empty)]
    data: Option<Stats>,
}

/// Prints until there is nothing more to come; with `--stats` one measurement.
#[inline(never)]
pub(super) fn run(runtime: &Runtime, args: &Args) -> Result<u8> {
    let id = args.id()?;
    let tell = |kind, data| {
        let line = Line {
            kind,
            id: id.as_str(),
            data,
        };
        print(&format!("{}\n", json(&line, false)))
    };
    if args.stats {
        return tell("stats", Some(runtime.stats(&id)?));
    }
    let interval = match &args.interval {
        Some(text) => duration(text)?,
        None => INTERVAL,
    };
    let mut watch = runtime.watch(&id)?;
    let mut next = Instant::now();
    loop {
        if Instant::now() >= next {
            match runtime.stats(&id) {
                Ok(stats) => tell("stats", Some(stats))?,
                Err(error) => match *error {
                    // It has ended meanwhile: the watch says so too.
                    Error::WrongStatus { .. } | Error::NotFound(_) => 0,
                    other => return Err(other.into()),
                },
            };
            next += interval;
        }
        match watch.wait(next.saturating_duration_since(Instant::now()))? {
            Seen::Nothing => {}
            Seen::OutOfMemory => drop(tell("oom", None)?),
            Seen::End => return Ok(0),
        }
    }
}

/// As Go writes durations: `5s`, `250ms`, `1m30s`.
fn duration(text: &str) -> Result<Duration> {
    let wrong = || {
        Error::usage(format_args!(
            "--interval {text:?}: a time is needed, as 5s or 250ms"
        ))
    };
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|letter: char| !letter.is_ascii_digit())
            .ok_or_else(wrong)?;
        let number: u32 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let unit = rest
            .find(|letter: char| letter.is_ascii_digit())
            .unwrap_or(rest.len());
        let one = match &rest[..unit] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return Err(wrong()),
        };
        total = one
            .checked_mul(number)
            .and_then(|time| total.checked_add(time))
            .ok_or_else(wrong)?;
        rest = &rest[unit..];
    }
    if total.is_zero() {
        return Err(wrong());
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_written_as_in_go() {
        for (text, ms) in [("5s", 5000), ("250ms", 250), ("1m30s", 90_000), ("2h", 7_200_000)] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for bad in ["", "5", "s", "0s", "-1s", "1x", "99999999999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
