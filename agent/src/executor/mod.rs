//! Doing what the core decides: files, and containers through our own binary.
//!
//! Small file work is done at once; what takes long runs as a task and tells of its end by a [`Message`].

mod blobs;
mod board;
mod child;
mod containers;
mod logs;
mod record;
mod state;
mod system;
mod watch;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use punnet_protocol::{App, BoardInfo, Digest, Name};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

pub use blobs::Blobs;
pub use board::describe as describe_board;
pub use child::{Punnet, WaitedFor};
pub use state::State;

use crate::core::{Done, Event, Job, Level, Observed, OnDisk, Seen, Status};
use containers::{Listing, create_args, parse_images, parse_ps, start_args};
use logs::Logs;
use watch::Watches;

/// Time for commands that only look, make or remove: a card that is being written to can hold them up for long.
const COMMAND_TIME: Duration = Duration::from_secs(60);
/// Time to make a container, or to write a system to its slot.
const CREATE_TIME: Duration = Duration::from_secs(600);
/// Time to unpack an image: some gigabytes onto a slow card.
const IMPORT_TIME: Duration = Duration::from_secs(3600);
/// Between two attempts to find out what is there.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Beyond an app's own stop timeout.
const STOP_EXTRA: Duration = Duration::from_secs(30);

/// What tasks tell the executor.
pub enum Message {
    /// A job that needs nothing more ended.
    Done(Done),
    /// A container job ended; what `ps` shows then.
    Container {
        app: Name,
        error: Option<String>,
        listing: Option<Listing>,
    },
    /// Containers and images were looked at.
    Refreshed { listing: Listing, images: Vec<Digest> },
    /// A watched process ended.
    Exited { app: Name, pid: u32, code: Option<i32> },
}

/// The executor.
pub struct Executor {
    state: State,
    blobs: Blobs,
    punnet: Punnet,
    watches: Watches,
    logs: Logs,
    log_dirs: BTreeMap<Name, PathBuf>,
    board_name: String,
    fleet_key: [u8; 32],
    messages: UnboundedReceiver<Message>,
    tell: UnboundedSender<Message>,
}

impl Executor {
    /// An executor for the containers of `punnet`'s roots, and the key whose desired states it is given.
    pub fn new(state: State, punnet: Punnet, board_name: String, fleet_key: [u8; 32]) -> Self {
        let (tell, messages) = unbounded_channel();
        Self {
            blobs: Blobs::new(state.folder()),
            watches: Watches::new(tell.clone()),
            logs: Logs::new(),
            log_dirs: BTreeMap::new(),
            state,
            punnet,
            board_name,
            fleet_key,
            messages,
            tell,
        }
    }

    /// What is there, for the core to begin with; what could not be found out are its troubles.
    pub async fn look(&mut self) -> OnDisk {
        let mut troubles = Vec::new();
        let (starts, counted) = self.state.count_start();
        troubles.extend(
            counted
                .err()
                .map(|error| format!("cannot count this start: {error}")),
        );
        // Without the list of images what is made already can start all the same.
        let listing = ps(&self.punnet)
            .await
            .map_err(|error| troubles.push(error))
            .unwrap_or_default();
        let images = images(&self.punnet)
            .await
            .map_err(|error| troubles.push(error))
            .unwrap_or_default();
        if !troubles.is_empty() {
            self.refresh();
        }
        let containers = self.take_listing(listing);
        let (slots, partials) = (self.state.slots(), self.blobs.partials());
        OnDisk {
            slots,
            starts,
            containers,
            images,
            partials,
            board: self.board(),
            troubles,
        }
    }

    /// What the board is now.
    pub fn board(&self) -> BoardInfo {
        describe_board(&self.board_name, self.state.folder())
    }

    /// The next event; safe to drop while it waits.
    pub async fn next(&mut self) -> Vec<Event> {
        tokio::select! {
            Some(message) = self.messages.recv() => self.take(message),
            grown = self.logs.grown() => grown.into_iter().map(|app| Event::LogGrew { app }).collect(),
        }
    }

    /// Reaps orphans; to be called on SIGCHLD.
    pub fn reap(&mut self) {
        self.watches.reap_orphans(&self.punnet.waited_for);
    }

    /// Begins a job. What is done at once is returned.
    pub fn begin(&mut self, job: Job) -> Option<Done> {
        if let Some((app, order)) = system::order(&self.punnet.data_root, &job) {
            self.container(app, ["system".to_owned(), order.into()], IMPORT_TIME);
            return None;
        }
        match job {
            Job::Persist { slot, record } => Some(Done::Persisted(
                self.state
                    .persist(slot, &record)
                    .map_err(|error| error.to_string()),
            )),
            Job::CountStart => Some(Done::StartCounted(self.state.count_start().0)),
            Job::OpenBlob {
                image,
                blob,
                need_bytes,
            } => {
                let blobs = self.blobs.clone();
                self.spawn(async move {
                    let result = blobs.open(&image, &blob, need_bytes).await;
                    Message::Done(Done::BlobOpened { blob, result })
                });
                None
            }
            Job::AppendBlob {
                image,
                blob,
                offset,
                data,
            } => Some(Done::BlobAppended {
                blob,
                result: self.blobs.append(&image, &blob, offset, &data),
            }),
            Job::FinishBlob { image, blob } => Some(Done::BlobFinished {
                blob,
                result: self.blobs.finish(&image, &blob),
            }),
            Job::ReadBlob { image, blob } => Some(Done::BlobRead {
                blob,
                result: self.blobs.read(&image, &blob),
            }),
            Job::DropBlob { image, blob } => {
                self.blobs.drop_blob(&image, &blob);
                Some(Done::Dropped)
            }
            Job::DropImage { image } => {
                self.blobs.drop_image(&image);
                Some(Done::Dropped)
            }
            Job::Import {
                image,
                manifest_bytes,
                media_type,
                reference,
            } => self.import(image, manifest_bytes, &media_type, &reference),
            Job::Create { app, spec, encoded } => {
                self.create(app, spec, &encoded);
                None
            }
            Job::Start { app } => {
                let args = start_args(&app, &self.fleet_key);
                self.container(app, args, COMMAND_TIME);
                None
            }
            Job::Stop { app, timeout_ms } => {
                let seconds = timeout_ms.div_ceil(1000);
                let args = [
                    "stop".to_owned(),
                    "--time".into(),
                    seconds.to_string(),
                    app.to_string(),
                ];
                self.container(app, args, Duration::from_secs(seconds.into()) + STOP_EXTRA);
                None
            }
            Job::Remove { app } => {
                self.logs.watch(&app, None);
                let args = ["rm".to_owned(), "--force".into(), app.to_string()];
                self.container(app, args, COMMAND_TIME);
                None
            }
            Job::Keep { app } => {
                let (punnet, is_system) = (self.punnet.clone(), system::is(&self.punnet.data_root, &app));
                self.spawn(async move {
                    let result = match is_system {
                        true => punnet.run(["system", "keep"], COMMAND_TIME).await.map(drop),
                        false => Ok(()),
                    };
                    Message::Done(Done::Kept(result))
                });
                None
            }
            Job::Refresh => {
                self.refresh();
                None
            }
            Job::ReadLog { stream, app, from } => {
                let result = self
                    .log_dirs
                    .get(&app)
                    .and_then(|folder| logs::read(folder, from));
                Some(Done::LogRead { stream, result })
            }
            Job::WatchLog { app, on } => {
                self.logs.stream(&app, on);
                None
            }
        }
    }

    /// Stops all running containers of ours, for an agent that ends and shall leave nothing behind.
    pub async fn stop_all(&mut self, time: Duration) {
        let Ok(listing) = ps(&self.punnet).await else {
            return;
        };
        for row in listing
            .rows
            .iter()
            .filter(|row| row.seen.status == Status::Running && row.seen.pid != system::PID)
        {
            let app = row.seen.app.to_string();
            // The next one is stopped all the same; what stays is shown by `punnet ps`.
            drop(self.punnet.run(["stop".to_owned(), app], time).await);
        }
    }

    fn spawn(&self, task: impl Future<Output = Message> + Send + 'static) {
        self.spawn_boxed(Box::pin(task));
    }

    /// Of one type for all: what tokio does with a task is some KiB of code for each.
    fn spawn_boxed(&self, task: Pin<Box<dyn Future<Output = Message> + Send>>) {
        let tell = self.tell.clone();
        tokio::spawn(async move {
            // Nobody listens once the agent ends.
            drop(tell.send(task.await));
        });
    }

    fn import(&self, image: Digest, bytes: u64, media_type: &str, reference: &str) -> Option<Done> {
        let layout = match self.blobs.complete(&image, bytes, media_type, reference) {
            Ok(layout) => layout,
            Err(error) => {
                return Some(Done::Imported {
                    image,
                    result: Err(error),
                });
            }
        };
        let (punnet, blobs) = (self.punnet.clone(), self.blobs.clone());
        self.spawn(async move {
            let args = [
                "load".into(),
                "--json".into(),
                "--expect".into(),
                image.to_string().into(),
                layout.into(),
            ];
            let result = punnet
                .run::<std::ffi::OsString>(args, IMPORT_TIME)
                .await
                .map(drop);
            if result.is_ok() {
                blobs.drop_image(&image);
            }
            Message::Done(Done::Imported { image, result })
        });
        None
    }

    fn create(&self, app: Name, spec: Digest, encoded: &Arc<[u8]>) {
        let punnet = self.punnet.clone();
        let decoded = postcard::from_bytes::<App>(encoded);
        let args = decoded
            .map(|app| {
                system::write_args(&app, &spec).unwrap_or_else(|| create_args(&app, &spec, &self.fleet_key))
            })
            .map_err(|_| "the app does not decode".to_owned());
        self.spawn(async move {
            let result = match args {
                Ok(args) => punnet.run(args, CREATE_TIME).await.map(drop),
                Err(error) => Err(error),
            };
            let listing = ps(&punnet).await.ok();
            if let (Err(_), Some(listing)) = (&result, &listing)
                && listing.of(&app).is_none()
                && !listing.others.iter().any(|name| name == app.as_str())
            {
                // What a power cut left half made has a name but is no container; the next attempt finds the name free.
                drop(punnet.run(["rm", "--force", app.as_str()], COMMAND_TIME).await);
            }
            Message::Container {
                app,
                error: result.err(),
                listing,
            }
        });
    }

    fn container(&self, app: Name, args: impl IntoIterator<Item = String>, time: Duration) {
        let args: Vec<String> = args.into_iter().collect();
        let punnet = self.punnet.clone();
        self.spawn(async move {
            let error = punnet.run(args, time).await.err();
            let listing = ps(&punnet).await.ok();
            Message::Container { app, error, listing }
        });
    }

    fn refresh(&self) {
        let punnet = self.punnet.clone();
        self.spawn(async move {
            loop {
                if let (Ok(listing), Ok(images)) = (ps(&punnet).await, images(&punnet).await) {
                    return Message::Refreshed { listing, images };
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        });
    }

    fn take(&mut self, message: Message) -> Vec<Event> {
        match message {
            Message::Done(Done::Imported { image, result }) => {
                vec![
                    Event::Done(Done::Imported { image, result }),
                    Event::Board(self.board()),
                ]
            }
            Message::Done(done) => vec![Event::Done(done)],
            Message::Container { app, error, listing } => {
                let observed = match listing {
                    None => Observed::Unknown,
                    Some(listing) => match listing.of(&app).cloned() {
                        None => Observed::Absent,
                        Some(row) => Observed::Present(self.take_row(row)),
                    },
                };
                vec![Event::Done(Done::Container { app, error, observed })]
            }
            Message::Refreshed { listing, images } => {
                let containers = self.take_listing(listing);
                vec![Event::Done(Done::Refreshed { containers, images })]
            }
            Message::Exited { app, pid, code } => {
                if !self.watches.note_end(&app, pid) {
                    return Vec::new();
                }
                self.note_exit_code(&app, code);
                // Orphans behind it in the kernel's list had to wait.
                self.reap();
                let out_of_memory = record::out_of_memory(&self.punnet.run_root, &app);
                vec![Event::Exited {
                    app,
                    pid,
                    code,
                    out_of_memory,
                }]
            }
        }
    }

    fn take_listing(&mut self, listing: Listing) -> Vec<Seen> {
        listing.rows.into_iter().map(|row| self.take_row(row)).collect()
    }

    /// Watches what runs, and completes what `ps` could not know.
    fn take_row(&mut self, row: containers::Row) -> Seen {
        let containers::Row { mut seen, log_dir } = row;
        let running = seen.status == Status::Running;
        if running && !self.watches.watch(&seen.app, seen.pid) {
            // It ended between the listing and now.
            seen.status = Status::Stopped;
        }
        if seen.status == Status::Stopped && seen.exit_code.is_none() {
            self.watches.reap_orphans(&self.punnet.waited_for);
            let pid = if seen.pid == 0 {
                self.pid_on_record(&seen.app)
            } else {
                seen.pid
            };
            seen.exit_code = self.watches.take_code(&seen.app, pid);
            self.note_exit_code(&seen.app, seen.exit_code);
        }
        seen.out_of_memory =
            seen.status == Status::Stopped && record::out_of_memory(&self.punnet.run_root, &seen.app);
        if !log_dir.as_os_str().is_empty() {
            self.logs.watch(&seen.app, running.then_some(log_dir.as_path()));
            self.log_dirs.insert(seen.app.clone(), log_dir);
        }
        seen
    }

    /// The process id in the runtime's state of a container that has ended.
    fn pid_on_record(&self, app: &Name) -> u32 {
        let state = record::read(&self.punnet.run_root, app);
        let pid = state.as_ref().and_then(|state| state.get("pid")?.as_u64());
        pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0)
    }

    /// Leaves the exit code where `punnet ps` looks for it: only the agent learns it.
    fn note_exit_code(&self, app: &Name, code: Option<i32>) {
        let folder = self.punnet.run_root.join("containers").join(app.as_str());
        if let Some(code) = code {
            // For people; the agent itself goes by what it was told.
            drop(std::fs::write(folder.join("exit_code"), code.to_string()));
        }
    }
}

async fn ps(punnet: &Punnet) -> Result<Listing, String> {
    let mut listing = parse_ps(&punnet.run(["ps", "--all", "--json"], COMMAND_TIME).await?)?;
    listing.rows.extend(system::row(&punnet.data_root));
    Ok(listing)
}

async fn images(punnet: &Punnet) -> Result<Vec<Digest>, String> {
    parse_images(&punnet.run(["images", "--json"], COMMAND_TIME).await?)
}

/// Waits for a descriptor to become readable.
#[expect(
    deprecated,
    reason = "an OwnedFd keeps its descriptor, which is all that the unsafe form wants to be told"
)]
fn readable(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

/// A level's name, for the log.
pub fn level_name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
    }
}
