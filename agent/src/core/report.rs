//! The reported state: sent when something changed, soon but not for each change of a burst.

use punnet_protocol::topics::Purpose;
use punnet_protocol::{AppReport, AppState, Digest, Report, Reported, clipped};

use super::apps::{Aim, App, Busy, UNKNOWN_CODE};
use super::fetch::{Fetcher, Progress};
use super::plan::Step;
use super::wanted::Wanted;
use super::{Core, Now};

/// Changes within this time are one report.
const COALESCE_MS: u64 = 250;
/// Progress of a fetch is reported this often at most.
const PROGRESS_MS: u64 = 1_000;

/// When to report next.
#[derive(Debug, Default)]
pub struct Reporter {
    due_at: Option<u64>,
    sent_at: u64,
    sequence: u64,
    /// What was reported last, `sequence` left out.
    last: Option<Box<Report>>,
}

impl Reporter {
    /// Something changed.
    pub fn touch(&mut self, now: Now) {
        let at = now.ms + COALESCE_MS;
        self.due_at = Some(self.due_at.map_or(at, |due| due.min(at)));
    }

    /// A fetch moved on.
    pub fn touch_progress(&mut self, now: Now) {
        let at = (self.sent_at + PROGRESS_MS).max(now.ms + COALESCE_MS);
        self.due_at = Some(self.due_at.map_or(at, |due| due.min(at)));
    }

    /// Report now, changed or not.
    pub fn force(&mut self, now: Now) {
        self.last = None;
        self.due_at = Some(now.ms);
    }

    /// A new session: its first report counts from 1.
    pub fn new_session(&mut self, now: Now) {
        self.sequence = 0;
        self.force(now);
    }

    pub fn wake_at(&self, ready: bool) -> Option<u64> {
        self.due_at.filter(|_| ready)
    }
}

impl Core {
    pub(super) fn pursue_report(&mut self, now: Now) {
        if !self.link.is_ready() || self.reporter.due_at.is_none_or(|at| now.ms < at) {
            return;
        }
        self.reporter.due_at = None;
        let Some(mut report) = self.report() else {
            return;
        };
        if self.reporter.last.as_deref() == Some(&*report) {
            return;
        }
        self.reporter.sequence += 1;
        self.reporter.sent_at = now.ms;
        report.reported.sequence = self.reporter.sequence;
        self.publish_with(Purpose::Reported, true, |buffer| Ok(report.encode(buffer)?.len()));
        report.reported.sequence = 0;
        self.reporter.last = Some(report);
    }

    /// What there is to report, `sequence` left out.
    fn report(&self) -> Option<Box<Report>> {
        let board = self.board.clone()?;
        let apps = self
            .apps
            .list
            .iter()
            .filter_map(|app| report(app, &self.fetcher))
            .take(punnet_protocol::APPS_MAX);
        let settled = |app: &App| {
            app.busy.is_none() && app.aim == Aim::Wanted && matches!(app.step, Step::Rest | Step::Ended)
        };
        Some(Box::new(Report {
            reported: Reported {
                session: self.link.session(),
                sequence: 0,
                generation: self.journal.generation(),
                converged: self.journal.pending.is_none() && self.apps.list.iter().all(settled),
                board,
                apps: apps.collect(),
            },
            troubles: self.troubles.clone(),
        }))
    }
}

fn report(app: &App, fetcher: &Fetcher) -> Option<AppReport> {
    if app.step == Step::Forget && app.busy.is_none() {
        return None;
    }
    let (state, detail) = state(app, fetcher);
    let image = |version: &Wanted| version.image;
    let manifest = app.fetch.or(app.target().map(image)).unwrap_or(Digest([0; 32]));
    let detail = if app.rolled_back {
        &app.rolled_back_why
    } else {
        detail
    };
    let restarts = app.trial.restarts;
    let made_from = match &app.container {
        Some(seen) => seen.spec,
        None => app.target().map(|target| target.spec),
    };
    Some(AppReport {
        name: app.name.clone(),
        manifest,
        state,
        restarts,
        detail: clipped(detail),
        spec: made_from.unwrap_or(Digest([0; 32])),
    })
}

fn state<'a>(app: &'a App, fetcher: &'a Fetcher) -> (AppState, &'a str) {
    let detail = app.trial.detail.as_str();
    if app.rolled_back {
        return (AppState::RolledBack, detail);
    }
    if let Some(image) = app.fetch {
        return fetching(image, fetcher);
    }
    let code = app.container.as_ref().and_then(|seen| seen.exit_code);
    match (app.busy, app.step) {
        (Some(Busy::Creating | Busy::Starting), _) => (AppState::Starting, detail),
        (Some(Busy::Stopping | Busy::Removing), _) | (None, Step::Stop | Step::Remove | Step::Forget) => {
            (AppState::Stopping, detail)
        }
        (None, Step::Create | Step::Start | Step::Fetch(_)) => (AppState::Waiting, detail),
        (None, Step::Wait(_)) => match (&app.container, code) {
            (Some(_), Some(code)) => {
                let retry_ms = u32::try_from(app.trial.pause_ms).unwrap_or(u32::MAX);
                (AppState::BackingOff { code, retry_ms }, detail)
            }
            _ => (AppState::Failed, detail),
        },
        (None, Step::Ended) if app.is_system() => (
            AppState::Exited {
                code: code.unwrap_or(UNKNOWN_CODE),
            },
            "the new system did not start, or did not get well: the one before runs",
        ),
        (None, Step::Ended) => (
            AppState::Exited {
                code: code.unwrap_or(UNKNOWN_CODE),
            },
            detail,
        ),
        (None, Step::Rest) => (
            AppState::Running {
                pid: app.container.as_ref().map_or(0, |seen| seen.pid),
            },
            detail,
        ),
    }
}

fn fetching(image: Digest, fetcher: &Fetcher) -> (AppState, &str) {
    match (fetcher.progress(&image), fetcher.failure(&image)) {
        (Some(Progress::Importing), _) => (AppState::Importing, ""),
        (
            Some(Progress::Fetching {
                done_bytes,
                total_bytes,
            }),
            _,
        ) => {
            let silent = if fetcher.is_silent() {
                "the fleet does not answer requests for blocks"
            } else {
                ""
            };
            (
                AppState::Fetching {
                    done_bytes,
                    total_bytes,
                },
                silent,
            )
        }
        (None, Some(why)) => (AppState::Failed, why),
        (None, None) => (AppState::Waiting, ""),
    }
}
