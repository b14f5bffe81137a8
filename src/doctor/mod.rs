//! What `punnet doctor` says about a machine: a pure function from [`Facts`] to findings. `facts` reads them.

pub mod board;
mod checks;
mod facts;

pub use facts::{Facts, Volume};

use punnet_json::ToJson;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ToJson)]
#[json(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// Something will not work, or not well; the rest does.
    Warn,
    /// Containers will not run.
    Fail,
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq, ToJson)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do; empty when nothing is to be done.
    #[json(skip_if_empty)]
    pub remedy: String,
}

impl Finding {
    fn pass(check: &str, found: impl Into<String>) -> Self {
        Self {
            check: check.to_owned(),
            verdict: Verdict::Pass,
            found: found.into(),
            remedy: String::new(),
        }
    }

    fn warn(check: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Warn,
            remedy: remedy.into(),
            ..Self::pass(check, found)
        }
    }

    fn fail(check: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Fail,
            ..Self::warn(check, found, remedy)
        }
    }
}

/// Everything there is to say, what matters most first.
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let checks: [fn(&Facts) -> Vec<Finding>; 12] = [
        checks::kernel,
        checks::platform,
        checks::namespaces,
        checks::user_namespaces,
        checks::cgroups,
        checks::overlay,
        checks::seccomp,
        checks::landlock,
        checks::storage,
        checks::memory,
        checks::clock,
        checks::entropy,
    ];
    checks.iter().flat_map(|check| check(facts)).collect()
}

/// The worst of them.
pub fn worst(findings: &[Finding]) -> Verdict {
    findings
        .iter()
        .map(|finding| finding.verdict)
        .max()
        .unwrap_or(Verdict::Pass)
}
