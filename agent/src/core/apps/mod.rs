//! The apps: what each shall be, what it is, and how it fares.

mod pursue;

use punnet_protocol::{Digest, Name};

use super::backoff::pause_ms;
use super::fetch::Fetcher;
use super::plan::Step;
use super::wanted::Wanted;
use super::{Now, Seen, Status};

/// Pauses before a process that ended, or a container that could not be made, is tried again.
const RESTART_FIRST_MS: u64 = 1_000;
/// Five minutes: what Kubernetes, balena and systemd users are used to as the longest.
const RESTART_MOST_MS: u64 = 300_000;
/// A process that ran this long did not fail at its start: pauses begin small again.
const STEADY_MS: u64 = 60_000;
/// Pause before a container that could not be stopped, removed or looked at is tried again.
const HOLD_MS: u64 = 2_000;
/// Reported when nobody saw how a process ended.
pub const UNKNOWN_CODE: i32 = -1;
/// For a container whose app is no longer known; Docker's default.
const STOP_TIMEOUT_MS: u32 = 10_000;
/// Container jobs at the same time: each is a process of our own binary, and a small board has one to four cores.
const CONTAINER_JOBS_MAX: usize = 2;

/// A container job under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    Creating,
    Starting,
    Stopping,
    Removing,
}

/// Which version of an app shall be in its container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// The one of the desired state.
    Wanted,
    /// The one of the last good desired state: the wanted one failed, or its image is not here yet.
    Good,
}

/// How one version of an app fares.
#[derive(Clone, Debug, Default)]
pub struct Trial {
    /// Which version.
    spec: Option<Digest>,
    /// Starts after the first.
    pub restarts: u32,
    started: bool,
    failures: u32,
    pub pause_ms: u64,
    retry_at: Option<u64>,
    /// The container has to be made anew.
    remake: bool,
    /// When it was first to be made or started.
    tried_at: Option<u64>,
    running_since: Option<u64>,
    /// Why it failed; empty when all is well.
    pub detail: String,
}

/// One app.
#[derive(Debug)]
pub struct App {
    pub name: Name,
    /// As the desired state has it; `None` when it has not.
    pub wanted: Option<Wanted>,
    /// As the last good desired state has it.
    pub good: Option<Wanted>,
    pub container: Option<Seen>,
    pub busy: Option<Busy>,
    pub step: Step,
    pub trial: Trial,
    /// Which version shall be in the container now.
    pub aim: Aim,
    /// An image that has to be fetched for it.
    pub fetch: Option<Digest>,
    /// `wanted` failed its soak.
    pub rolled_back: bool,
    pub rolled_back_why: String,
    pub restart_asked: bool,
    /// The target has run well.
    pub soaked: bool,
    /// Of the version wanted before, which is the one that is stopped.
    stop_timeout_ms: u32,
    /// No job at all before this time.
    hold_until: u64,
}

impl App {
    fn new(name: Name) -> Self {
        Self {
            name,
            wanted: None,
            good: None,
            container: None,
            busy: None,
            step: Step::Rest,
            trial: Trial::default(),
            aim: Aim::Wanted,
            fetch: None,
            rolled_back: false,
            rolled_back_why: String::new(),
            restart_asked: false,
            soaked: false,
            stop_timeout_ms: STOP_TIMEOUT_MS,
            hold_until: 0,
        }
    }

    /// What shall be in the container now.
    pub fn target(&self) -> Option<&Wanted> {
        match self.aim {
            Aim::Wanted => self.wanted.as_ref(),
            Aim::Good => self.good.as_ref(),
        }
    }

    fn has(&self, spec: Digest) -> bool {
        self.container
            .as_ref()
            .is_some_and(|seen| seen.spec == Some(spec))
    }

    pub fn is_system(&self) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| wanted.is_system)
    }

    fn is_running(&self) -> bool {
        self.container
            .as_ref()
            .is_some_and(|seen| seen.status == Status::Running)
    }

    /// Which version to aim at, and which image has to be fetched for it.
    ///
    /// As long as the wanted image is not here, the good version stands in for it, unless another one runs.
    fn choose_aim(&self, images: &Fetcher) -> (Aim, Option<Digest>) {
        let Some(wanted) = &self.wanted else {
            return (Aim::Wanted, None);
        };
        match &self.good {
            Some(good) if self.rolled_back => {
                let here = images.has(&good.image) || self.has(good.spec);
                (Aim::Good, (!here).then_some(good.image))
            }
            _ if images.has(&wanted.image) || self.has(wanted.spec) => (Aim::Wanted, None),
            Some(good) if self.has(good.spec) || (images.has(&good.image) && !self.is_running()) => {
                (Aim::Good, Some(wanted.image))
            }
            _ => (Aim::Wanted, Some(wanted.image)),
        }
    }

    /// When its soak is over, for a wanted version that runs.
    fn soaked_at(&self) -> Option<u64> {
        let wanted = self.wanted.as_ref().filter(|_| self.aim == Aim::Wanted)?;
        let runs = self.is_running() && self.has(wanted.spec);
        runs.then_some(self.trial.running_since? + u64::from(wanted.soak_ms))
    }

    fn failed(&mut self, now: Now, detail: String) {
        let trial = &mut self.trial;
        trial.failures = trial.failures.saturating_add(1);
        trial.pause_ms = pause_ms(trial.failures, RESTART_FIRST_MS, RESTART_MOST_MS);
        trial.retry_at = Some(now.ms + trial.pause_ms);
        trial.detail = detail;
    }

    fn observe(&mut self, now: Now, seen: Option<Seen>) {
        let runs = seen.as_ref().is_some_and(|seen| seen.status == Status::Running);
        self.container = seen;
        self.trial.started |= runs;
        self.trial.running_since = if runs {
            self.trial.running_since.or(Some(now.ms))
        } else {
            None
        };
    }
}

/// All apps, wanted or still there.
#[derive(Debug, Default)]
pub struct Apps {
    pub list: Vec<App>,
}

impl Apps {
    pub fn find(&mut self, name: &Name) -> Option<&mut App> {
        self.list.iter_mut().find(|app| &app.name == name)
    }

    fn entry(&mut self, name: &Name) -> &mut App {
        let at = self
            .list
            .iter()
            .position(|app| &app.name == name)
            .unwrap_or_else(|| {
                self.list.push(App::new(name.clone()));
                self.list.len() - 1
            });
        &mut self.list[at]
    }

    /// What the desired state wants, instead of what it wanted before.
    pub fn want(&mut self, wanted: Vec<Wanted>) {
        for app in &mut self.list {
            app.stop_timeout_ms = app
                .wanted
                .take()
                .map_or(app.stop_timeout_ms, |before| before.stop_timeout_ms);
        }
        for wanted in wanted {
            let app = self.entry(&wanted.name);
            app.wanted = Some(wanted);
        }
    }

    /// What the last good desired state wants.
    pub fn remember_good(&mut self, good: Vec<Wanted>) {
        self.list.iter_mut().for_each(|app| app.good = None);
        for good in good {
            if let Some(app) = self.find(&good.name) {
                app.good = Some(good);
            }
        }
    }

    /// How all containers of ours are. Apps with a job under way are left to its end.
    pub fn observe_all(&mut self, now: Now, containers: Vec<Seen>) {
        for app in self.list.iter_mut().filter(|app| app.busy.is_none()) {
            if !containers.iter().any(|seen| seen.app == app.name) {
                app.observe(now, None);
            }
        }
        for seen in containers {
            let app = self.entry(&seen.app);
            if app.busy.is_none() {
                app.observe(now, Some(seen));
            }
        }
    }

    /// When an app's soak is over. A system has to let every other app be as it shall be for as long.
    pub fn soaked_at(&self, at: usize) -> Option<u64> {
        let app = &self.list[at];
        let own = app.soaked_at()?;
        if !app.is_system() {
            return Some(own);
        }
        let soak_ms = app.wanted.as_ref().map_or(0, |wanted| u64::from(wanted.soak_ms));
        let mut others = self.list.iter().filter(|other| !other.is_system());
        others.try_fold(own, |latest, other| {
            let since = match other.step {
                _ if other.busy.is_some() => None,
                Step::Rest => other.trial.running_since,
                Step::Ended => Some(0),
                _ => None,
            };
            Some(latest.max(since? + soak_ms))
        })
    }

    pub fn wake_at(&self) -> Option<u64> {
        let of_app = |app: &App| {
            let due = match app.step {
                Step::Wait(at) => Some(at),
                Step::Stop | Step::Remove | Step::Create | Step::Start if app.hold_until > 0 => {
                    Some(app.hold_until)
                }
                _ => None,
            };
            if app.busy.is_some() { None } else { due }
        };
        let soaks = (0..self.list.len())
            .filter(|at| !self.list[*at].soaked)
            .filter_map(|at| self.soaked_at(at));
        self.list.iter().filter_map(of_app).chain(soaks).min()
    }

    pub fn any_busy(&self) -> bool {
        self.list.iter().any(|app| app.busy.is_some())
    }

    pub fn any_failed(&self, fetcher: &Fetcher) -> bool {
        self.list.iter().any(|app| {
            let fetch_failed = app.fetch.is_some_and(|image| fetcher.failure(&image).is_some());
            fetch_failed || app.rolled_back || matches!(app.step, Step::Wait(_))
        })
    }
}
