//! `punnet apps serve`: one loop on one thread that starts what the files say, starts it again when it ends, and stops it in order.
//!
//! Containers are made, started and stopped by commands of our own binary; this process is a child subreaper, so that it learns how they
//! end. It may itself be killed at any time: the containers go on, and the next one finds them.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use punnet_agent::Notifier;
use punnet_apps::plan::{self, Found, Look, Step};
use punnet_logs::{KEPT_BYTES, LogFile};

use super::app::Tracked;
use super::job::{exit_code, has_ended, job, say, verb};
use super::{LABEL_APP, LABEL_SPEC, Order, Orders, read_files, spec_of, system};
use crate::container::{Folders, unix_ms};
use crate::error::{CliError, Result};
use crate::roots::Roots;

/// Between two looks at the size of the logs: a container that writes a megabyte a second stays within some megabytes of RAM.
const LOG_PERIOD: Duration = Duration::from_secs(10);
/// Exit codes of children remembered whose container nobody has looked at yet.
const ORPHANS_KEPT: usize = 32;

/// Serves until SIGTERM or SIGINT, then stops all containers.
pub fn serve(roots: &Roots, folder: &Path) -> Result<ExitCode> {
    let orders = Orders::of(roots)?;
    let _lock = orders.lock()?;
    prctl::set_child_subreaper(true).map_err(system("become a subreaper"))?;
    let mut wanted = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT] {
        wanted.add(signal);
    }
    wanted.thread_block().map_err(system("block signals"))?;
    let signals = SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(system("listen to signals"))?;
    let mut supervisor = Supervisor {
        roots: roots.clone(),
        folder: folder.into(),
        orders,
        signals,
        apps: Vec::new(),
        orphans: Vec::new(),
        began: Instant::now(),
        ending: false,
    };
    supervisor.reload()?;
    let notifier = Notifier::from_environment();
    notifier.ready();
    let mut alive_at = Instant::now();
    let mut logs_at = Instant::now();
    while !(supervisor.ending && supervisor.is_at_rest()) {
        supervisor.begin_all();
        let mut least = LOG_PERIOD.saturating_sub(logs_at.elapsed());
        if let Some(every) = notifier.alive_every {
            least = least.min(every.saturating_sub(alive_at.elapsed()));
        }
        supervisor.wait(least);
        supervisor.read_signals(&notifier);
        supervisor.reap();
        if notifier
            .alive_every
            .is_some_and(|every| alive_at.elapsed() >= every)
        {
            notifier.alive();
            alive_at = Instant::now();
        }
        if logs_at.elapsed() >= LOG_PERIOD {
            supervisor.trim_logs();
            logs_at = Instant::now();
        }
    }
    Ok(ExitCode::SUCCESS)
}

struct Supervisor {
    roots: Roots,
    folder: PathBuf,
    orders: Orders,
    signals: SignalFd,
    apps: Vec<Tracked>,
    orphans: Vec<(Pid, i32)>,
    began: Instant,
    ending: bool,
}

impl Supervisor {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Reads files and orders, looks at the containers. What is as before is not touched.
    fn reload(&mut self) -> Result<()> {
        let files = read_files(&self.folder)?;
        let before: Vec<_> = self
            .apps
            .iter_mut()
            .map(|app| {
                app.is_bad = false;
                (app.name.clone(), app.wanted.take())
            })
            .collect();
        for (name, read) in files.all {
            let app = tracked(&mut self.apps, &name);
            match read {
                Ok(wanted) => {
                    let old = before.iter().find(|(known, _)| *known == name);
                    if old.is_some_and(|(_, old)| old.as_ref() != Some(&wanted)) {
                        // Somebody has mended it: tried at once.
                        (app.failures, app.retry_at_ms) = (0, 0);
                    }
                    app.wanted = Some(wanted);
                }
                Err(error) => {
                    // The container of before, if any, goes on; and nothing waits for it.
                    (app.is_bad, app.tried) = (true, true);
                    tell_once(&name, &self.orders, &error);
                }
            }
        }
        // Containers whose file is gone.
        for folders in Folders::all(&self.roots)? {
            let label = folders
                .meta()
                .ok()
                .and_then(|meta| meta.labels.get(LABEL_APP).cloned());
            if label.is_some_and(|label| label == folders.name) {
                tracked(&mut self.apps, &folders.name);
            }
        }
        let began_ms = self.now_ms();
        for app in self
            .apps
            .iter_mut()
            .filter(|app| app.job.is_none() && !app.is_bad)
        {
            let order = self.orders.take(&app.name);
            app.held = order == Some(Order::Stop);
            let process = app.process.take();
            if let Err(error) = app.look(&self.roots) {
                stands_in_the_way(app, &self.orders, began_ms, &error);
            }
            if app.found == Found::Idle && process.is_some() {
                // It has ended since: it counts as running until its end has been noted, with its exit code.
                (app.found, app.process, app.ended) = (Found::Running, process, None);
            }
            if order == Some(Order::Start) {
                (app.failures, app.retry_at_ms, app.ended) = (0, 0, None);
            }
        }
        self.apps.retain(|app| !app.is_over());
        self.apps.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(())
    }

    /// Begins what is next for each app that nothing works on.
    fn begin_all(&mut self) {
        for index in 0..self.apps.len() {
            if self.apps[index].job.is_some() || self.apps[index].is_bad && !self.ending {
                continue;
            }
            let step = self.next(index);
            if step != Step::Nothing {
                self.begin(index, step);
            }
        }
    }

    fn next(&self, index: usize) -> Step {
        let app = &self.apps[index];
        if self.ending {
            let runs = |other: &Tracked| other.found == Found::Running || other.job.is_some();
            let needed = self
                .apps
                .iter()
                .any(|other| runs(other) && is_after(other, &app.name));
            let waits = self.now_ms() < app.retry_at_ms;
            return if app.found == Found::Running && !needed && !waits {
                Step::Stop
            } else {
                Step::Nothing
            };
        }
        let tried = |name: &str| {
            self.apps
                .iter()
                .all(|other| other.name != name || other.tried || other.held)
        };
        let after = app.wanted.as_ref().map_or(&[][..], |wanted| &wanted.after);
        let step = plan::next(
            self.now_ms(),
            &Look {
                wanted: app.wanted.is_some(),
                held: app.held,
                found: app.found,
                same: app.same,
                image_is_here: app.found == Found::Running || app.image_is_here(&self.roots),
                ended: app.ended,
                restart: app
                    .wanted
                    .as_ref()
                    .map_or(punnet_apps::Restart::Never, |wanted| wanted.restart),
                retry_at_ms: app.retry_at_ms,
                after_others: after.iter().all(|(name, _)| tried(name.as_str())),
            },
        );
        // One transfer at a time: small boards have neither the memory nor the link for more.
        let pulls = |other: &Tracked| other.job.as_ref().is_some_and(|(step, _)| *step == Step::Pull);
        if step == Step::Pull && self.apps.iter().any(pulls) {
            return Step::Nothing;
        }
        step
    }

    fn begin(&mut self, index: usize, step: Step) {
        let now_ms = self.now_ms();
        let app = &mut self.apps[index];
        let mut words: Vec<String> = match step {
            Step::Pull => vec!["pull".into(), "--quiet".into()],
            Step::Create => vec!["create".into(), "--name".into(), app.name.clone()],
            Step::Start => vec!["start".into(), app.name.clone()],
            Step::Stop => vec!["stop".into(), app.name.clone()],
            Step::Remove => vec!["rm".into(), "--force".into(), app.name.clone()],
            Step::Nothing => return,
        };
        if let Some(wanted) = &app.wanted {
            match step {
                Step::Pull => words.push(wanted.image.clone()),
                Step::Create => {
                    let label = |name: &str, value: &str| ["--label".to_owned(), format!("{name}={value}")];
                    words.extend(label(LABEL_APP, &app.name));
                    words.extend(label(LABEL_SPEC, &spec_of(wanted)));
                    words.extend(["--pull".into(), "never".into()]);
                    words.extend(wanted.create_args());
                }
                _ => {}
            }
        }
        match job(&self.roots, &self.orders, &app.name, &words) {
            Ok(child) => app.job = Some((step, child)),
            Err(error) => {
                say(&app.name, &error);
                app.failed(now_ms);
            }
        }
    }

    /// Waits for a signal, the end of a container, the time of the next attempt, or `most`.
    fn wait(&self, most: Duration) {
        let now_ms = self.now_ms();
        let waiting = |app: &&Tracked| app.retry_at_ms > now_ms && app.job.is_none();
        let soonest = self
            .apps
            .iter()
            .filter(waiting)
            .map(|app| app.retry_at_ms - now_ms)
            .min();
        let timeout = soonest.map_or(most, |ms| most.min(Duration::from_millis(ms)));
        let mut fds: Vec<PollFd> = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let watched = |app: &Tracked| -> bool { app.job.is_none() };
        let processes = self
            .apps
            .iter()
            .filter(|app| watched(app))
            .filter_map(|app| app.process.as_ref());
        let pidfds: Vec<BorrowedFd> = processes.map(|(_, fd)| fd.as_fd()).collect();
        fds.extend(pidfds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)));
        let timeout = PollTimeout::try_from(timeout + Duration::from_millis(1)).unwrap_or(PollTimeout::ZERO);
        // EINTR is as good as a turn.
        poll(&mut fds, timeout).ok();
    }

    fn read_signals(&mut self, notifier: &Notifier) {
        let mut reload = false;
        while let Ok(Some(info)) = self.signals.read_signal() {
            match Signal::try_from(info.ssi_signo.cast_signed()) {
                Ok(Signal::SIGHUP) => reload = true,
                Ok(Signal::SIGTERM | Signal::SIGINT) => {
                    notifier.stopping();
                    self.ending = true;
                }
                _ => {}
            }
        }
        if reload && let Err(error) = self.reload() {
            say("reload", &error);
        }
    }

    /// Takes the ends of commands and containers.
    fn reap(&mut self) {
        loop {
            let status = waitpid(None, Some(WaitPidFlag::WNOHANG));
            let Some((pid, code)) = status.ok().and_then(exit_code) else {
                break;
            };
            let raw = pid.as_raw().unsigned_abs();
            let of_job = |app: &Tracked| app.job.as_ref().is_some_and(|(_, child)| child.id() == raw);
            match self.apps.iter().position(of_job) {
                Some(index) => self.job_ended(index, code == 0),
                None => {
                    self.orphans.push((pid, code));
                    if self.orphans.len() > ORPHANS_KEPT {
                        self.orphans.remove(0);
                    }
                }
            }
        }
        for index in 0..self.apps.len() {
            let app = &self.apps[index];
            let over = app.process.as_ref().is_some_and(|(_, fd)| has_ended(fd.as_fd()));
            if over && app.job.is_none() {
                self.process_ended(index);
            }
        }
    }

    fn job_ended(&mut self, index: usize, well: bool) {
        let now_ms = self.now_ms();
        let app = &mut self.apps[index];
        let Some((step, _)) = app.job.take() else { return };
        let before = app.process.as_ref().map(|(pid, _)| *pid);
        if let Err(error) = app.look(&self.roots) {
            stands_in_the_way(app, &self.orders, now_ms, &error);
            return;
        }
        if !well {
            let complaint = app.complaint(&self.orders);
            say(&app.name, format_args!("cannot {}: {complaint}", verb(step)));
            self.orders.note_error(&app.name, Some(&complaint));
            app.failed(now_ms);
            return;
        }
        match step {
            Step::Start => {
                (app.tried, app.started_ms, app.retry_at_ms) = (true, now_ms, 0);
                self.orders.note_error(&app.name, None);
                say(&app.name, "started");
                if app.found == Found::Idle {
                    self.process_ended(index);
                }
            }
            Step::Stop => {
                say(&app.name, "stopped");
                if let Some(pid) = before {
                    self.note_exit_code(index, pid);
                }
            }
            _ => {}
        }
        // A bad file, or a new order, may have come meanwhile.
        if let Err(error) = self.reload() {
            say("reload", &error);
        }
    }

    fn process_ended(&mut self, index: usize) {
        let now_ms = self.now_ms();
        let app = &mut self.apps[index];
        // One that ended at once was never seen: its process id is in the runtime's record.
        let recorded = || {
            let path = self
                .roots
                .run()
                .ok()?
                .join("oci")
                .join(&app.name)
                .join("state.json");
            let record: punnet_json::Value = punnet_json::from_slice(&fs::read(path).ok()?).ok()?;
            Some(Pid::from_raw(i32::try_from(record.get("pid")?.as_i64()?).ok()?))
        };
        let pid = app.process.take().map(|(pid, _)| pid).or_else(recorded);
        app.found = Found::Idle;
        let code = pid.and_then(|pid| self.note_exit_code(index, pid));
        let app = &mut self.apps[index];
        app.ended = Some(code);
        let ran_ms = now_ms.saturating_sub(app.started_ms);
        let soak_ms = app.wanted.as_ref().map_or(0, |wanted| u64::from(wanted.soak_ms));
        if ran_ms >= soak_ms {
            app.failures = 0;
        }
        app.failed(now_ms);
        let how = code.map_or("ended".to_owned(), |code| format!("exited ({code})"));
        say(&app.name, format_args!("{how} after {ran_ms} ms"));
    }

    /// For `ps`, and for whether it is started again.
    fn note_exit_code(&mut self, index: usize, pid: Pid) -> Option<i32> {
        let known = self.orphans.iter().position(|(orphan, _)| *orphan == pid);
        let code = match known {
            Some(at) => self.orphans.remove(at).1,
            // It may have ended since children were last looked for; one of before us is not our child.
            None => exit_code(waitpid(pid, Some(WaitPidFlag::WNOHANG)).ok()?)?.1,
        };
        let name = &self.apps[index].name;
        if let Err(error) = Folders::of(&self.roots, name).and_then(|folders| folders.write_exit_code(code)) {
            say(name, &error);
        }
        Some(code)
    }

    fn is_at_rest(&self) -> bool {
        self.apps
            .iter()
            .all(|app| app.job.is_none() && app.found != Found::Running)
    }

    fn trim_logs(&self) {
        for app in self.apps.iter().filter(|app| app.found == Found::Running) {
            let Ok(folders) = Folders::of(&self.roots, &app.name) else {
                continue;
            };
            let trimmed = LogFile::open(&folders.run).and_then(|log| {
                log.note_time(unix_ms())?;
                log.trim(KEPT_BYTES)
            });
            if let Err(error) = trimmed {
                say(&app.name, &error);
            }
        }
    }
}

/// The app of this name, which may be new.
fn tracked<'a>(apps: &'a mut Vec<Tracked>, name: &str) -> &'a mut Tracked {
    let at = apps.iter().position(|app| app.name == name).unwrap_or_else(|| {
        apps.push(Tracked::new(name));
        apps.len() - 1
    });
    &mut apps[at]
}

fn is_after(app: &Tracked, name: &str) -> bool {
    let after = app.wanted.as_ref().map_or(&[][..], |wanted| &wanted.after);
    after.iter().any(|(before, _)| before.as_str() == name)
}

/// Files are read again after each step: what is wrong with one is no news then.
fn tell_once(app: &str, orders: &Orders, error: &str) {
    if orders.error(app).as_deref() != Some(error) {
        say(app, error);
        orders.note_error(app, Some(error));
    }
}

fn stands_in_the_way(app: &mut Tracked, orders: &Orders, now_ms: u64, error: &CliError) {
    tell_once(&app.name, orders, &error.to_string());
    app.failed(now_ms);
    // Nothing is done to a container that is not ours.
    app.is_bad = true;
}
