//! doctor: whether containers will run on this machine, and what to do where they will not.

use std::process::ExitCode;

use punnet_boards::{Arch, Board};
use punnet_json::ToJson;

use super::{Given, JSON, Verb, Words, flag};
use crate::doctor::{Facts, Finding, Verdict, board, examine, worst};
use crate::error::{CliError, Result};
use crate::roots::Roots;

/// `punnet doctor`
pub const DOCTOR: Verb = Verb {
    name: "doctor",
    summary: "Check whether this machine can run containers, and say what to do",
    synopsis: "[--board [NAME|FILE]] [--json]",
    details: "Looks at the kernel and its options, namespaces, cgroups and each controller, overlayfs, seccomp, landlock, the architecture, disk, memory, clock and\n\
              entropy. With --board it looks, besides, whether this board is what its description says: processor, kernel options, modules, command line, devices of each\n\
              class, watchdog, LED, memory. The description is /etc/punnet/board.json, a file, or a name of /usr/share/punnet/boards. Changes nothing. Run it as the user whose containers are meant.\n\
              Exit status: 0 all pass or warn only, 1 something fails.",
    flags: &[flag("board", "Check the board, too, by its description"), JSON],
    words: Words::Between(0, 1),
    act: |roots, given| doctor(roots, &given),
};

/// What `--json` prints.
#[derive(ToJson)]
struct Report<'a> {
    verdict: Verdict,
    findings: &'a [Finding],
}

fn doctor(roots: &Roots, given: &Given) -> Result<ExitCode> {
    let facts = Facts::read(roots)?;
    let mut findings = examine(&facts);
    if given.has("board") {
        let board = described(roots, given.text(0)?)?;
        let own = board::BoardFacts::read(&board, &facts.release);
        findings.extend(board::examine(&board, &facts, &own));
    } else if !given.words().is_empty() {
        return Err(CliError::Usage("a board is named with --board".into()).into());
    }
    let verdict = worst(&findings);
    if given.has("json") {
        let report = Report {
            verdict,
            findings: &findings,
        };
        println!("{}", punnet_json::to_string_pretty(&report));
    } else {
        findings.iter().for_each(print);
    }
    Ok(ExitCode::from(u8::from(verdict == Verdict::Fail)))
}

/// Descriptions that packages bring (board-configs/, resolved).
const BOARDS: &str = "/usr/share/punnet/boards";

/// The board's own description, a file, or one of those that were installed.
fn described(roots: &Roots, named: &str) -> Result<Board> {
    let path = match named {
        "" => match roots.board_file()? {
            Some(path) => path,
            None => return Ok(Board::generic(Arch::OWN)),
        },
        path if path.contains(['/', '.']) => path.into(),
        name => std::path::Path::new(BOARDS).join(name).with_extension("json"),
    };
    Ok(Board::from_json_file(&path)?)
}

fn print(finding: &Finding) {
    let word = match finding.verdict {
        Verdict::Pass => "pass",
        Verdict::Warn => "WARN",
        Verdict::Fail => "FAIL",
    };
    println!("{word}  {:<24} {}", finding.check, finding.found);
    if !finding.remedy.is_empty() {
        println!("      {:<24} -> {}", "", finding.remedy);
    }
}
