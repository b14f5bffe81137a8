//! Containers' output: kept within its bound, read for streams, and watched so that a quiet container wakes nobody.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use punnet_logs::{KEPT_BYTES, LogFile};
use punnet_protocol::{LOG_BYTES_MAX, Name};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use crate::core::{LogFrom, LogRead};

/// After a write no more is looked at for this long: a container that writes all the time costs a few wake-ups a second.
const QUIET: Duration = Duration::from_millis(1000);
/// The same while somebody watches.
const QUIET_STREAMED: Duration = Duration::from_millis(100);

/// Reads of a log; `None` when there is none.
pub fn read(folder: &Path, from: LogFrom) -> Option<LogRead> {
    let log = LogFile::open(folder).ok()?;
    // Another container's log is another file.
    let container = fs::metadata(folder.join("log")).ok()?.ino();
    let end = log.end().ok()?;
    let offset = match from {
        LogFrom::Tail(bytes) => end.saturating_sub(bytes.into()),
        // Its writer may have truncated it: then it begins anew.
        LogFrom::At(offset) if offset > end => 0,
        LogFrom::At(offset) => offset,
    };
    let mut data = vec![0; LOG_BYTES_MAX];
    let (offset, read) = log.read_from(offset, &mut data).ok()?;
    data.truncate(read);
    Some(LogRead {
        container,
        offset,
        data,
        end,
    })
}

struct Log {
    folder: PathBuf,
    watch: Option<WatchDescriptor>,
    /// When to look and to watch again.
    again_at: Option<Instant>,
    end: u64,
}

/// The logs of running containers.
pub struct Logs {
    inotify: Option<Queue>,
    logs: BTreeMap<Name, Log>,
    streamed: Vec<Name>,
}

/// The kernel's queue, and the same again for tokio to wait on.
struct Queue {
    inotify: Inotify,
    ready: AsyncFd<OwnedFd>,
}

impl Queue {
    fn new() -> Option<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok()?;
        let ready = super::readable(inotify.as_fd().try_clone_to_owned().ok()?).ok()?;
        Some(Self { inotify, ready })
    }
}

impl Logs {
    pub fn new() -> Self {
        Self {
            inotify: Queue::new(),
            logs: BTreeMap::new(),
            streamed: Vec::new(),
        }
    }

    /// Looks after an app's log in this folder, or no more.
    pub fn watch(&mut self, app: &Name, folder: Option<&Path>) {
        let Some(folder) = folder else {
            if let Some(mut log) = self.logs.remove(app) {
                self.disarm(&mut log);
            }
            return;
        };
        if self.logs.get(app).is_none_or(|log| log.folder != folder) {
            let now = Some(Instant::now());
            let log = Log {
                folder: folder.into(),
                watch: None,
                again_at: now,
                end: 0,
            };
            self.logs.insert(app.clone(), log);
        }
    }

    /// Whether somebody wants to know when an app's log grows.
    pub fn stream(&mut self, app: &Name, on: bool) {
        self.streamed.retain(|streamed| streamed != app);
        if on {
            self.streamed.push(app.clone());
            if let Some(log) = self.logs.get_mut(app) {
                log.again_at = Some(Instant::now());
            }
        }
    }

    /// Waits until streamed logs grow; trims all on the way. Safe to drop while it waits.
    pub async fn grown(&mut self) -> Vec<Name> {
        loop {
            let due = self.logs.values().filter_map(|log| log.again_at).min();
            tokio::select! {
                () = written(self.inotify.as_ref()) => self.written(),
                () = until(due) => {
                    let grown = self.look_again();
                    if !grown.is_empty() {
                        return grown;
                    }
                }
            }
        }
    }

    /// Logs were written to: looked at after a moment, so that a burst is one look.
    fn written(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        while let Ok(events) = inotify.inotify.read_events() {
            for event in events {
                let Some((app, log)) = self.logs.iter_mut().find(|(_, log)| log.watch == Some(event.wd))
                else {
                    continue;
                };
                // IN_ONESHOT has removed the watch.
                log.watch = None;
                let streamed = self.streamed.contains(app);
                log.again_at = Some(Instant::now() + if streamed { QUIET_STREAMED } else { QUIET });
            }
        }
    }

    /// Arms the watch again of logs that are due, then keeps them within their bound.
    fn look_again(&mut self) -> Vec<Name> {
        let now = Instant::now();
        let mut grown = Vec::new();
        for (app, log) in self
            .logs
            .iter_mut()
            .filter(|(_, log)| log.again_at.is_some_and(|at| at <= now))
        {
            let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ONESHOT;
            // First the watch, then the look: what is written in between is seen by one of them.
            let path = log.folder.join("log");
            log.watch = self
                .inotify
                .as_ref()
                .and_then(|inotify| inotify.inotify.add_watch(&path, flags).ok());
            log.again_at = log.watch.is_none().then_some(now + QUIET);
            let Some(end) = tend(&log.folder) else { continue };
            if end != std::mem::replace(&mut log.end, end) && self.streamed.contains(app) {
                grown.push(app.clone());
            }
        }
        grown
    }

    fn disarm(&self, log: &mut Log) {
        if let (Some(inotify), Some(watch)) = (&self.inotify, log.watch.take()) {
            // The file may be gone, and its watch with it.
            inotify.inotify.rm_watch(watch).ok();
        }
    }
}

/// Notes the time of what was written and drops what is beyond the bound; returns where the log ends.
fn tend(folder: &Path) -> Option<u64> {
    let log = LogFile::open(folder).ok()?;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    // What cannot be noted or trimmed now is at the next write.
    drop(log.note_time(u64::try_from(now.as_millis()).unwrap_or(u64::MAX)));
    drop(log.trim(KEPT_BYTES));
    log.end().ok()
}

async fn written(inotify: Option<&Queue>) {
    match inotify {
        Some(queue) => match queue.ready.readable().await {
            Ok(mut ready) => ready.clear_ready(),
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
