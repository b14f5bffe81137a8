//! One app as the supervisor holds it, and a look at its container.

use std::fs;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::process::Child;

use nix::unistd::Pid;
use punnet_apps::App;
use punnet_apps::plan::{Found, Step, pause_ms};

use super::{LABEL_APP, LABEL_SPEC, Orders, spec_of};
use crate::container::Folders;
use crate::error::{CliError, Result};
use crate::roots::Roots;
use crate::verbs::{containers, images};

/// What is kept of a command's complaint.
const COMPLAINT_BYTES_MAX: u64 = 4096;

/// A file's app, or a container whose file is gone.
pub struct Tracked {
    /// The app's name.
    pub name: String,
    /// What the file says; `None` when there is none any more.
    pub wanted: Option<App>,
    /// The file is bad: the container is left as it is.
    pub is_bad: bool,
    /// A person has stopped it.
    pub held: bool,
    /// Made from what the file says.
    pub same: bool,
    /// The container.
    pub found: Found,
    /// Its process, while it runs.
    pub process: Option<(Pid, OwnedFd)>,
    /// The command that works on it, and which step it is.
    pub job: Option<(Step, Child)>,
    /// Has been started, or has failed to: those after it need not wait.
    pub tried: bool,
    /// How it ended.
    pub ended: Option<Option<i32>>,
    /// Failures in a row.
    pub failures: u32,
    /// Milliseconds of the supervisor's clock.
    pub retry_at_ms: u64,
    /// When its process was started.
    pub started_ms: u64,
}

impl Tracked {
    /// One that nothing is known about yet.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            wanted: None,
            is_bad: false,
            held: false,
            same: false,
            found: Found::Absent,
            process: None,
            job: None,
            tried: false,
            ended: None,
            failures: 0,
            retry_at_ms: 0,
            started_ms: 0,
        }
    }

    /// Nothing of it is left.
    pub fn is_over(&self) -> bool {
        self.wanted.is_none() && !self.is_bad && self.job.is_none() && self.found == Found::Absent
    }

    /// Another pause before the next attempt.
    pub fn failed(&mut self, now_ms: u64) {
        self.tried = true;
        self.failures = self.failures.saturating_add(1);
        self.retry_at_ms = now_ms + pause_ms(self.failures);
    }

    /// Looks at the container; an error is one that stands in the way.
    pub fn look(&mut self, roots: &Roots) -> Result<()> {
        self.process = None;
        self.found = Found::Absent;
        let folders = Folders::of(roots, &self.name)?;
        if !folders.bundle.is_dir() {
            return Ok(());
        }
        let Ok(meta) = folders.meta() else {
            // Left half made by a power cut: removed, and made again.
            (self.found, self.same) = (Found::Idle, false);
            return Ok(());
        };
        if meta.labels.get(LABEL_APP) != Some(&self.name) {
            return Err(CliError::NameTaken(self.name.clone()).into());
        }
        self.same = self.wanted.as_ref().is_some_and(|app| {
            let image = images::store(roots)
                .ok()
                .and_then(|store| store.get(&app.image).ok());
            meta.labels.get(LABEL_SPEC) == Some(&spec_of(app))
                && image.is_none_or(|image| image.manifest.to_string() == meta.manifest)
        });
        let runtime = containers::runtime(roots)?;
        let state = containers::status(&runtime, &folders)?;
        let running = state.filter(|state| containers::runs(state.status));
        let pid = running.and_then(|state| state.pid).map(Pid::from_raw);
        self.process = pid.and_then(|pid| Some((pid, punnet_sys::pidfd_open(pid).ok()?)));
        self.found = if self.process.is_some() {
            Found::Running
        } else {
            Found::Idle
        };
        if self.found == Found::Idle {
            let ran = folders.run.join("log").exists();
            self.ended = ran.then(|| folders.exit_code());
            self.tried |= ran;
        }
        self.tried |= self.found == Found::Running;
        Ok(())
    }

    /// Whether the store has its image.
    pub fn image_is_here(&self, roots: &Roots) -> bool {
        let image = self.wanted.as_ref().map(|app| app.image.as_str());
        let store = images::store(roots).ok();
        store
            .zip(image)
            .is_some_and(|(store, image)| store.get(image).is_ok())
    }

    /// What the command said before it failed, in one line.
    pub fn complaint(&self, orders: &Orders) -> String {
        let mut text = String::new();
        let read = fs::File::open(orders.path(&self.name, "job"))
            .and_then(|file| file.take(COMPLAINT_BYTES_MAX).read_to_string(&mut text));
        let last = text.lines().rev().find(|line| line.starts_with("punnet: "));
        match (read, last) {
            (Ok(_), Some(line)) => line["punnet: ".len()..].to_owned(),
            _ => "ended without a word".to_owned(),
        }
    }
}
