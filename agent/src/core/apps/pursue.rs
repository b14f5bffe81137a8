//! Bringing each app from what it is to what it shall be, one job at a time, and judging how it fares.

use punnet_protocol::{Digest, Name};

use super::{Aim, App, Busy, CONTAINER_JOBS_MAX, HOLD_MS, STEADY_MS, Trial, UNKNOWN_CODE};
use crate::core::plan::{self, Circumstances, Step};
use crate::core::{Core, Job, Level, Now, Observed, Seen, Status};

impl Core {
    /// One step for each app that has none under way.
    pub(in crate::core) fn pursue_apps(&mut self, now: Now) {
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

    pub(in crate::core) fn container_done(
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
                out_of_memory,
                ..
            }) = app.container
            {
                self.ended(now, name, exit_code, out_of_memory);
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

    pub(in crate::core) fn exited(
        &mut self,
        now: Now,
        name: &Name,
        pid: u32,
        code: Option<i32>,
        out_of_memory: bool,
    ) {
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
            self.ended(now, name, code, out_of_memory);
        }
        self.reporter.touch(now);
    }

    /// The process of an app ended by itself.
    fn ended(&mut self, now: Now, name: &Name, code: Option<i32>, out_of_memory: bool) {
        let Some(app) = self.apps.find(name) else { return };
        let ran_ms = app.trial.running_since.take().map_or(0, |since| now.ms - since);
        let as_wanted =
            app.container.as_ref().and_then(|seen| seen.spec) == app.target().map(|target| target.spec);
        let mut text = code.map_or("it ended while nobody watched".to_owned(), |code| {
            format!("it ended with code {code}")
        });
        if out_of_memory {
            text += ": out of memory, the kernel killed it at its limit";
        }
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
        let over = self
            .apps
            .soaked_at(at)
            .is_some_and(|soaked_at| soaked_at <= now.ms);
        if !app.soaked && over && (!app.is_system() || self.link.is_ready()) {
            let name = app.name.clone();
            self.mark_soaked(now, &name);
        }
    }

    fn mark_soaked(&mut self, now: Now, name: &Name) {
        let Some(app) = self.apps.find(name) else { return };
        app.soaked = true;
        let is_system = app.is_system();
        let Some(spec) = app.target().map(|target| target.spec) else {
            return;
        };
        if !self.journal.record.soaked.contains(&spec) {
            self.journal.record.soaked.push(spec);
            self.journal.dirty = true;
        }
        if is_system {
            self.job(Job::Keep { app: name.clone() });
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
            // The version that runs: the target itself when it is only started anew.
            let target = app.target().filter(|target| app.has(target.spec));
            let timeout_ms = target.map_or(app.stop_timeout_ms, |target| target.stop_timeout_ms);
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
