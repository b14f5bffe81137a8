//! Manual pages, man(7), out of the program's own help: one text, one truth.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::stdout_of;

/// `punnet.1` and a `punnet-VERB.1` for each verb.
pub fn pages(program: &Path) -> Result<Vec<(String, String)>> {
    let help = |words: &[&str]| stdout_of(Command::new(program).args(words).arg("--help"));
    let overview = help(&[])?;
    let verbs: Vec<&str> = section(&overview, "Verbs:")
        .filter_map(|line| line.split_whitespace().next())
        .filter(|verb| *verb != "oci")
        .collect();
    let mut pages = vec![(
        "punnet.1".to_owned(),
        page(
            "punnet",
            "containers on small boards, and an agent for a fleet",
            &overview,
            &verbs,
        )?,
    )];
    for verb in &verbs {
        let text = help(&[verb])?;
        let summary = text
            .lines()
            .nth(2)
            .unwrap_or_default()
            .trim_end_matches('.')
            .to_lowercase();
        let name = format!("punnet-{verb}");
        pages.push((format!("{name}.1"), page(&name, &summary, &text, &[])?));
    }
    Ok(pages)
}

/// The indented lines below a heading.
fn section<'a>(help: &'a str, heading: &str) -> impl Iterator<Item = &'a str> {
    let mut lines = help.lines();
    lines.by_ref().find(|line| *line == heading);
    lines.take_while(|line| line.starts_with("  "))
}

fn page(name: &str, summary: &str, help: &str, verbs: &[&str]) -> Result<String> {
    let mut lines = help.lines();
    let usage = lines
        .next()
        .and_then(|line| line.strip_prefix("Usage: "))
        .context("help begins with its usage")?;
    let mut page = format!(
        ".TH {} 1 \"\" \"punnet {}\" \"Punnet\"\n.SH NAME\n{} \\- {}\n.SH SYNOPSIS\n{}\n.SH DESCRIPTION\n",
        escaped(&name.to_uppercase()),
        env!("CARGO_PKG_VERSION"),
        escaped(name),
        escaped(summary),
        escaped(usage)
    );
    for line in lines {
        match line {
            "Options:" => page += ".SH OPTIONS\n",
            "Verbs:" => page += ".SH VERBS\n",
            "" => page += ".PP\n",
            _ if line.starts_with("  ") => {
                let (term, text) = split(line.trim_start());
                page += &format!(".TP\n.B {}\n{}\n", escaped(term), escaped(text));
            }
            _ => page += &format!("{}\n", escaped(line)),
        }
    }
    if verbs.is_empty() {
        page += ".SH SEE ALSO\n.BR punnet (1)\n";
    } else {
        page += ".SH SEE ALSO\n";
        page += &verbs
            .iter()
            .map(|verb| format!(".BR {} (1)", escaped(&format!("punnet-{verb}"))))
            .collect::<Vec<_>>()
            .join(",\n");
        page += "\n";
    }
    // A paragraph in front of a heading is none.
    Ok(page
        .replace(".PP\n.SH", ".SH")
        .replace("DESCRIPTION\n.PP\n", "DESCRIPTION\n"))
}

/// `--name VALUE  what it does`: two blanks stand between; an option that is too long has one, behind its value.
fn split(line: &str) -> (&str, &str) {
    let wide = line
        .find("  ")
        .map(|at| (line[..at].trim_end(), line[at..].trim_start()));
    wide.unwrap_or_else(|| {
        let value = line.match_indices(' ').nth(1).map_or(line.len(), |(at, _)| at);
        (&line[..value], line[value..].trim_start())
    })
}

/// What roff would take for its own.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) {
        format!("\\&{text}")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "this is a test")]

    use super::*;

    #[test]
    fn help_becomes_a_page() {
        let help = "Usage: punnet stop [--time SECONDS] NAME...\n\nAsk containers to end.\n\n.dots and \\ stay\n\nOptions:\n  -t, --time SECONDS           Between [10]\n      --a-rather-long-option VALUE What it does\n  -h, --help                   This text\n";
        let page = page("punnet-stop", "ask", help, &[]).unwrap();
        for part in [
            ".TH PUNNET\\-STOP 1 ",
            "punnet\\-stop \\- ask\n",
            ".SH SYNOPSIS\npunnet stop [\\-\\-time SECONDS] NAME...\n",
            "\n\\&.dots and \\e stay\n.SH OPTIONS\n",
            ".TP\n.B \\-t, \\-\\-time SECONDS\nBetween [10]\n",
            ".B \\-\\-a\\-rather\\-long\\-option VALUE\nWhat it does\n",
        ] {
            assert!(page.contains(part), "no {part:?} in {page}");
        }
    }
}
