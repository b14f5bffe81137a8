//! The apps: what each shall be, what it is, and how it fares.

use punnet_protocol::{Digest, Name};

use super::backoff::pause_ms;
use super::fetch::Fetcher;
use super::plan::{self, Circumstances, Step};
use super::wanted::Wanted;
use super::{Core, Job, Level, Now, Observed, Seen, Status};

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
        self.list.iter_mut().for_each(|app| app.wanted = None);
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
        let soaks = self
            .list
            .iter()
            .filter(|app| !app.soaked)
            .filter_map(App::soaked_at);
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

impl Core {
    /// One step for each app that has none under way.
    pub(super) fn pursue_apps(&mut self, now: Now) {
        for at in 0..self.apps.list.len() {
            self.soak(now, at);
            self.pursue_app(now, at);
        }
        // At once: a desired state that comes later may want the same name again.
        self.apps
            .list
            .retain(|app| app.busy.is_some() || app.step != Step::Forget);
        self.commit_good(now);
    }

    fn pursue_app(&mut self, now: Now, at: usize) {
        let jobs = self.apps.list.iter().filter(|app| app.busy.is_some()).count();
        let app = &mut self.apps.list[at];
        if app.busy.is_some() {
            return;
        }
        if let Some(seen) = &mut app.container {
            recall_end(seen, &self.journal.record.ended);
        }
        let before = (app.step, app.aim, app.fetch);
        (app.aim, app.fetch) = app.choose_aim(&self.fetcher);
        let spec = app.target().map(|target| target.spec);
        if app.trial.spec != spec {
            let Trial {
                running_since,
                started,
                ..
            } = app.trial;
            let started = started && spec.is_some_and(|spec| app.has(spec));
            app.trial = Trial {
                spec,
                running_since,
                started,
                ..Trial::default()
            };
        }
        let about = Circumstances {
            image_here: app.target().is_some_and(|target| self.fetcher.has(&target.image)),
            retry_at: app.trial.retry_at,
            restart_asked: app.restart_asked,
            remake: app.trial.remake,
        };
        app.step = plan::next(now.ms, app.target(), app.container.as_ref(), about);
        let mut touched = (app.step, app.aim, app.fetch) != before;
        if jobs < CONTAINER_JOBS_MAX
            && now.ms >= app.hold_until
            && let Some((busy, job)) = begin(now, app)
        {
            app.busy = Some(busy);
            touched = true;
            let (starts, of) = (
                busy == Busy::Starting,
                app.container.as_ref().and_then(|seen| seen.spec),
            );
            if starts
                && self
                    .journal
                    .record
                    .ended
                    .iter()
                    .any(|(spec, _)| Some(*spec) == of)
            {
                self.journal.record.ended.retain(|(spec, _)| Some(*spec) != of);
                self.journal.dirty = true;
            }
            self.job(job);
        }
        if touched {
            self.reporter.touch(now);
        }
    }

    pub(super) fn container_done(
        &mut self,
        now: Now,
        name: &Name,
        error: Option<String>,
        observed: Observed,
    ) {
        self.reporter.touch(now);
        let Some(app) = self.apps.find(name) else { return };
        let Some(busy) = app.busy.take() else { return };
        let started_before = app.trial.started;
        match observed {
            Observed::Unknown => app.hold_until = now.ms + HOLD_MS,
            Observed::Absent => app.observe(now, None),
            Observed::Present(seen) => app.observe(now, Some(seen)),
        }
        let unknown = app.hold_until > now.ms;
        // A start that a predecessor of this agent had begun is as good as our own.
        let runs = busy == Busy::Starting && app.is_running();
        if let Some(error) = error.filter(|_| !runs) {
            self.log(Level::Error, format!("{name}: {error}"));
            self.container_failed(now, name, busy, error);
        } else if busy == Busy::Starting {
            app.trial.restarts += u32::from(started_before);
            app.trial.started = true;
            app.trial.detail.clear();
            // It may have ended before anybody could look.
            if let Some(Seen {
                status: Status::Stopped,
                exit_code,
                ..
            }) = app.container
            {
                self.ended(now, name, exit_code);
            }
        }
        if unknown {
            self.job(Job::Refresh);
        }
    }

    fn container_failed(&mut self, now: Now, name: &Name, busy: Busy, error: String) {
        let Some(app) = self.apps.find(name) else { return };
        if matches!(busy, Busy::Stopping | Busy::Removing) {
            app.hold_until = now.ms + HOLD_MS;
            app.trial.detail = error;
            return;
        }
        app.failed(now, error.clone());
        // A container that could not be started is made anew.
        app.trial.remake = busy == Busy::Starting;
        let soak_ms = app.target().map_or(0, |target| u64::from(target.soak_ms));
        let tried_for = now.ms - app.trial.tried_at.unwrap_or(now.ms);
        // The image may be gone from the store.
        self.job(Job::Refresh);
        if tried_for >= soak_ms {
            self.roll_back(now, name, error);
        }
    }

    pub(super) fn exited(&mut self, now: Now, name: &Name, pid: u32, code: Option<i32>) {
        let Some(app) = self.apps.find(name) else { return };
        let Some(seen) = &mut app.container else { return };
        if seen.status != Status::Running || seen.pid != pid {
            return;
        }
        seen.status = Status::Stopped;
        seen.exit_code = code;
        let asked_to_stop = app.busy == Some(Busy::Stopping);
        if asked_to_stop {
            app.trial.running_since = None;
        } else {
            self.ended(now, name, code);
        }
        self.reporter.touch(now);
    }

    /// The process of an app ended by itself.
    fn ended(&mut self, now: Now, name: &Name, code: Option<i32>) {
        let Some(app) = self.apps.find(name) else { return };
        let ran_ms = app.trial.running_since.take().map_or(0, |since| now.ms - since);
        let as_wanted =
            app.container.as_ref().and_then(|seen| seen.spec) == app.target().map(|target| target.spec);
        let text = code.map_or("it ended while nobody watched".to_owned(), |code| {
            format!("it ended with code {code}")
        });
        if ran_ms >= STEADY_MS {
            app.trial.failures = 0;
        }
        let spec = app.container.as_ref().and_then(|seen| seen.spec);
        let soaked = app.soaked;
        let stays = app
            .target()
            .is_some_and(|target| plan::stays_ended(target.restart, code));
        app.failed(
            now,
            if code == Some(0) {
                String::new()
            } else {
                text.clone()
            },
        );
        self.log(Level::Info, format!("{name}: {text} after {ran_ms} ms"));
        if stays && let Some(spec) = spec {
            self.journal
                .record
                .ended
                .push((spec, code.unwrap_or(UNKNOWN_CODE)));
            self.journal.dirty = true;
        }
        if !as_wanted || soaked {
            return;
        }
        match code {
            Some(0) if stays => self.mark_soaked(now, name),
            Some(code) if code != 0 => self.roll_back(now, name, format!("{text} within its soak")),
            _ => {}
        }
    }

    /// Goes back to the version before, when there is one; this one is refused from now on.
    fn roll_back(&mut self, now: Now, name: &Name, why: String) {
        let Some(app) = self.apps.find(name) else { return };
        let Some(spec) = app.wanted.as_ref().map(|wanted| wanted.spec) else {
            return;
        };
        let another = app.good.as_ref().is_some_and(|good| good.spec != spec);
        if app.rolled_back || app.soaked || app.aim != Aim::Wanted || !another {
            return;
        }
        app.rolled_back = true;
        app.rolled_back_why.clone_from(&why);
        self.journal.record.refused.push(spec);
        self.journal.dirty = true;
        self.reporter.touch(now);
        self.log(
            Level::Error,
            format!("{name}: goes back to the version before: {why}"),
        );
    }

    fn soak(&mut self, now: Now, at: usize) {
        let app = &self.apps.list[at];
        if !app.soaked && app.soaked_at().is_some_and(|soaked_at| soaked_at <= now.ms) {
            let name = app.name.clone();
            self.mark_soaked(now, &name);
        }
    }

    fn mark_soaked(&mut self, now: Now, name: &Name) {
        let Some(app) = self.apps.find(name) else { return };
        app.soaked = true;
        let Some(spec) = app.target().map(|target| target.spec) else {
            return;
        };
        if !self.journal.record.soaked.contains(&spec) {
            self.journal.record.soaked.push(spec);
            self.journal.dirty = true;
        }
        self.reporter.touch(now);
    }

    /// Keeps the desired state as the one to go back to once all of it has run well.
    fn commit_good(&mut self, now: Now) {
        let record = &mut self.journal.record;
        let mut wanted = self.apps.list.iter().filter(|app| app.wanted.is_some());
        if record.desired == record.good || !wanted.all(|app| app.soaked && !app.rolled_back) {
            return;
        }
        record.good.clone_from(&record.desired);
        self.journal.dirty = true;
        self.apps
            .list
            .iter_mut()
            .for_each(|app| app.good.clone_from(&app.wanted));
        let generation = self.journal.generation();
        self.log(Level::Info, format!("generation {generation} has run well"));
        self.reporter.touch(now);
    }
}

/// After a reboot a container that has ended looks like one that was never started, and nobody knows its code any more.
fn recall_end(seen: &mut Seen, ended: &[(Digest, i32)]) {
    if seen.status != Status::Running
        && seen.exit_code.is_none()
        && let Some((_, code)) = ended.iter().find(|(spec, _)| Some(*spec) == seen.spec)
    {
        seen.status = Status::Stopped;
        seen.exit_code = Some(*code);
    }
}

/// The job for an app's step; `None` when there is none to do.
fn begin(now: Now, app: &mut App) -> Option<(Busy, Job)> {
    let name = app.name.clone();
    match app.step {
        Step::Create => {
            app.trial.tried_at.get_or_insert(now.ms);
            let target = app.target()?;
            let (spec, encoded) = (target.spec, target.encoded.clone());
            Some((
                Busy::Creating,
                Job::Create {
                    app: name,
                    spec,
                    encoded,
                },
            ))
        }
        Step::Start => {
            app.trial.tried_at.get_or_insert(now.ms);
            app.restart_asked = false;
            Some((Busy::Starting, Job::Start { app: name }))
        }
        Step::Stop => {
            let timeout_ms = app
                .target()
                .map_or(STOP_TIMEOUT_MS, |target| target.stop_timeout_ms);
            Some((
                Busy::Stopping,
                Job::Stop {
                    app: name,
                    timeout_ms,
                },
            ))
        }
        Step::Remove => {
            app.trial.remake = false;
            Some((Busy::Removing, Job::Remove { app: name }))
        }
        Step::Rest | Step::Ended | Step::Forget | Step::Fetch(_) | Step::Wait(_) => {
            app.restart_asked &= app.step != Step::Ended;
            None
        }
    }
}
