//! `ps`: the container's processes as JSON, or as ps(1) of the host describes them.

use super::args::Args;
use super::{json, print};
use crate::error::{Error, Result};
use crate::runtime::Runtime;
use std::process::Command;

/// What ps(1) is asked when nothing is said.
const DEFAULT_WORDS: [&str; 1] = ["-ef"];

/// Prints the list.
#[inline(never)]
pub(super) fn run(runtime: &Runtime, args: &Args) -> Result<u8> {
    let pids: Vec<i32> = runtime
        .processes(&args.id()?)?
        .into_iter()
        .map(nix::unistd::Pid::as_raw)
        .collect();
    match args.format.as_str() {
        "json" => print(&format!("{}\n", json(&pids, false))),
        "table" | "" => print(&table(args, &pids)?),
        other => Err(Error::usage(format_args!(
            "unknown format {other:?}: json or table"
        ))),
    }
}

fn table(args: &Args, pids: &[i32]) -> Result<String> {
    let mut command = Command::new("ps");
    match args.rest.get(1..) {
        Some(words @ [_, ..]) => command.args(words),
        _ => command.args(DEFAULT_WORDS),
    };
    let failed = |why: String| {
        Error::usage(format_args!(
            "ps of this machine {why}; --format json lists process ids"
        ))
    };
    let output = command
        .output()
        .map_err(|error| failed(format!("cannot be run: {error}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(format!(
            "says: {}",
            said.lines().next().unwrap_or_default()
        )));
    }
    select(&String::from_utf8_lossy(&output.stdout), pids)
        .ok_or_else(|| failed("prints no column PID".to_owned()))
}

/// The heading, and the lines whose column PID is one of these.
fn select(listing: &str, pids: &[i32]) -> Option<String> {
    let mut lines = listing.lines();
    let heading = lines.next()?;
    let column = heading.split_whitespace().position(|word| word == "PID")?;
    let is_ours = |line: &&str| {
        line.split_whitespace()
            .nth(column)
            .and_then(|word| word.parse().ok())
            .is_some_and(|pid: i32| pids.contains(&pid))
    };
    let mut text = format!("{heading}\n");
    for line in lines.filter(is_ours) {
        text += line;
        text.push('\n');
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::select;

    #[test]
    fn lines_are_chosen_by_the_column_of_the_heading() {
        let listing =
            "UID          PID    PPID CMD\nroot           1       0 init\nroot          12       1 sleep 1\n";
        assert_eq!(
            select(listing, &[12]).unwrap(),
            "UID          PID    PPID CMD\nroot          12       1 sleep 1\n"
        );
        assert_eq!(select("  PID TTY\n    1 ?\n", &[]).unwrap(), "  PID TTY\n");
        assert!(select("USER\nroot\n", &[1]).is_none());
    }
}
