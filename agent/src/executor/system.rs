//! The board's system as an app: what `punnet system` is asked for in place of a container's verbs, and how it looks in a listing.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use punnet_boards::slots::{FILE, FILE_BYTES_MAX, Slot, Stage, SystemUpdate};
use punnet_protocol::{App, Digest, Name};

use super::containers::Row;
use crate::core::{Job, Seen, Status};

/// Exit code of a system that was started and did not stay: what a process gives that fails.
const FAILED: i32 = 1;
/// PID 1 runs as long as the system does.
pub const PID: u32 = 1;

/// The arguments that put an app's image into a slot; `None` for an app that is a container.
pub fn write_args(app: &App, spec: &Digest) -> Option<Vec<OsString>> {
    let is_system = app
        .device_classes
        .iter()
        .any(|class| class.as_str() == punnet_boards::slots::DEVICE_CLASS);
    is_system.then(|| {
        let words = ["system".into(), "write".into(), app.name.to_string()];
        let digests = [spec, &app.image.manifest].map(ToString::to_string);
        words.into_iter().chain(digests).map(OsString::from).collect()
    })
}

/// What a container's job means for the app that is the system: which order to `punnet system`.
pub fn order(data_root: &Path, job: &Job) -> Option<(Name, &'static str)> {
    let (app, order) = match job {
        // Restarts the board: what comes of it is seen after that.
        Job::Start { app } => (app, "try"),
        Job::Stop { app, .. } => (app, "leave"),
        Job::Remove { app } => (app, "forget"),
        _ => return None,
    };
    is(data_root, app).then(|| (app.clone(), order))
}

/// Whether an app is the system on record.
pub fn is(data_root: &Path, app: &Name) -> bool {
    row(data_root).is_some_and(|row| row.seen.app == *app)
}

/// The app that is the system, as `punnet ps` would show it; `None` when no update was ever written.
pub fn row(data_root: &Path) -> Option<Row> {
    let mut text = String::new();
    File::open(data_root.join(FILE))
        .ok()?
        .take(FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .ok()?;
    let command_line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    row_of(&text.parse().ok()?, Slot::booted(&command_line))
}

fn row_of(update: &SystemUpdate, booted: Option<Slot>) -> Option<Row> {
    let app: Name = update.app.parse().ok()?;
    let (status, exit_code) = match update.stage {
        Stage::Written => (Status::Created, None),
        _ if update.runs(booted) => (Status::Running, None),
        Stage::Tried | Stage::Kept => (Status::Stopped, Some(FAILED)),
        Stage::Left => (Status::Stopped, Some(0)),
    };
    let seen = Seen {
        app,
        spec: update.spec.parse().ok(),
        pid: if status == Status::Running { PID } else { 0 },
        status,
        exit_code,
        out_of_memory: false,
    };
    // It has no log: the kernel's own messages are on the serial line.
    Some(Row {
        seen,
        log_dir: PathBuf::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_runs_only_when_its_slot_does() {
        use Stage::{Kept, Left, Tried, Written};
        for (stage, booted, status, code) in [
            (Written, Slot::A, Status::Created, None),
            (Tried, Slot::A, Status::Stopped, Some(1)),
            (Tried, Slot::B, Status::Running, None),
            (Kept, Slot::B, Status::Running, None),
            (Kept, Slot::A, Status::Stopped, Some(1)),
            (Left, Slot::B, Status::Stopped, Some(0)),
        ] {
            let update = SystemUpdate {
                app: "system".into(),
                spec: Digest([7; 32]).to_string(),
                slot: Slot::B,
                stage,
            };
            let seen = row_of(&update, Some(booted)).unwrap().seen;
            assert_eq!(
                (seen.status, seen.exit_code),
                (status, code),
                "{stage:?} from {booted:?}"
            );
            assert_eq!(seen.spec, Some(Digest([7; 32])));
        }
    }
}
