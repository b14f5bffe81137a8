//! doctor: whether containers will run on this machine, and what to do where they will not.

use std::process::ExitCode;

use serde::Serialize;

use super::{Given, JSON, Verb, Words};
use crate::doctor::{Facts, Finding, Verdict, examine, worst};
use crate::error::CliError;
use crate::roots::Roots;

/// `punnet doctor`
pub const DOCTOR: Verb = Verb {
    name: "doctor",
    summary: "Check whether this machine can run containers, and say what to do",
    synopsis: "[--json]",
    details: "Looks at the kernel and its options, namespaces, cgroups and each controller, overlayfs, seccomp, landlock, the architecture, disk, memory, clock and\n\
              entropy. Changes nothing. Run it as the user whose containers are meant.\n\
              Exit status: 0 all pass or warn only, 1 something fails.",
    flags: &[JSON],
    words: Words::Between(0, 0),
    act: |roots, given| doctor(roots, &given),
};

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    verdict: Verdict,
    findings: &'a [Finding],
}

fn doctor(roots: &Roots, given: &Given) -> Result<ExitCode, CliError> {
    let findings = examine(&Facts::read(roots)?);
    let verdict = worst(&findings);
    if given.has("json") {
        let report = Report {
            verdict,
            findings: &findings,
        };
        let text = serde_json::to_string_pretty(&report).expect("texts are always JSON");
        println!("{text}");
    } else {
        findings.iter().for_each(print);
    }
    Ok(ExitCode::from(u8::from(verdict == Verdict::Fail)))
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
