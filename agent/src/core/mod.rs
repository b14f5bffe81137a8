//! The agent's decisions: events in, actions out. No I/O, no clock, no randomness but a seed.
//!
//! The same core runs under tokio on a board ([`crate::run`]) and under the simulator of `tests/it/sim`, which loses, repeats and
//! reorders messages and cuts power between any two actions.
//!
//! **Invariant:** nothing becomes an [`Action`] that creates or starts a container but an app out of a desired state whose
//! signature was checked and which is durable.

mod apps;
mod backoff;
mod command;
mod desired;
mod fetch;
mod io;
mod journal;
mod link;
mod manifest;
mod plan;
mod replies;
mod report;
mod streams;
mod transfer;
mod wanted;

use punnet_boards::LedPattern;
use punnet_protocol::topics::Purpose;
use punnet_protocol::{BoardInfo, Digest, Name, Presence, TROUBLES_MAX, Troubles, clipped};
use ring::signature::{ED25519, UnparsedPublicKey};

pub use io::{
    Action, Done, Event, Job, Level, LinkError, LogFrom, LogRead, Now, Observed, OnDisk, Opened, Packet,
    Seen, Status,
};
pub use journal::{RECORD_BYTES_MAX, SLOTS};

use apps::Apps;
use backoff::Random;
use command::Commands;
use fetch::Fetcher;
use journal::Journal;
use link::Link;
use replies::Replies;
use report::Reporter;
use streams::Streams;

/// Who this device is and how it shall behave; fixed while the agent runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// The fleet.
    pub fleet: Name,
    /// This device.
    pub device: Name,
    /// Ed25519 public key of the fleet.
    pub fleet_key: [u8; 32],
    /// Upper limit for asking image blocks, bytes a second; `None` for as fast as the link goes.
    pub fetch_bytes_per_s: Option<u32>,
    /// For pauses only, so that a fleet does not reconnect as one.
    pub seed: u64,
}

/// The state machine.
#[derive(Debug)]
pub struct Core {
    config: Config,
    random: Random,
    journal: Journal,
    link: Link,
    apps: Apps,
    fetcher: Fetcher,
    replies: Replies,
    commands: Commands,
    streams: Streams,
    reporter: Reporter,
    board: Option<BoardInfo>,
    /// They stay so until the next start.
    troubles: Troubles,
    led: Option<LedPattern>,
    out: Vec<Action>,
    stepped_at: u64,
}

impl Core {
    /// A core that waits for [`Event::Started`].
    pub fn new(config: Config) -> Self {
        Self {
            random: Random::new(config.seed),
            config,
            journal: Journal::default(),
            link: Link::default(),
            apps: Apps::default(),
            fetcher: Fetcher::default(),
            replies: Replies::default(),
            commands: Commands::default(),
            streams: Streams::default(),
            reporter: Reporter::default(),
            board: None,
            troubles: Troubles::new(),
            led: None,
            out: Vec::new(),
            stepped_at: 0,
        }
    }

    /// Takes one event and returns what shall be done, in order.
    pub fn step(&mut self, now: Now, event: Event) -> Vec<Action> {
        match event {
            Event::Started(disk) => self.started(now, *disk),
            Event::Connected => self.connected(now),
            Event::Disconnected(error) => self.disconnected(now, error),
            Event::Subscribed { purpose, granted } => self.subscribed(now, purpose, granted),
            Event::Message {
                purpose,
                packet,
                payload,
            } => self.message(now, purpose, packet, payload),
            Event::Published => self.link.published(),
            Event::Done(done) => self.done(now, done),
            Event::Exited {
                app,
                pid,
                code,
                out_of_memory,
            } => self.exited(now, &app, pid, code, out_of_memory),
            Event::LogGrew { app } => self.log_grew(&app),
            Event::Board(board) => self.board(now, board),
            Event::Tick => {}
            Event::Goodbye => self.goodbye(),
        }
        if self.board.is_some() {
            self.pursue(now);
        }
        self.stepped_at = now.ms;
        std::mem::take(&mut self.out)
    }

    /// When [`Event::Tick`] is wanted at the latest, in [`Now::ms`].
    pub fn wake_at(&self) -> Option<u64> {
        [
            self.link.wake_at(),
            self.apps.wake_at(),
            self.fetcher.wake_at(),
            self.streams.wake_at(),
            self.reporter.wake_at(self.link.is_ready()),
            self.journal.wake_at(),
        ]
        .into_iter()
        .flatten()
        // What was due at the last step and was not done waits for an event.
        .filter(|at| *at > self.stepped_at)
        .min()
    }

    /// Seconds since 1970 that it certainly is by now: the newest signed message accepted.
    pub fn time_floor_s(&self) -> u64 {
        self.journal.time_floor_s()
    }

    /// The newest generation that is durable.
    pub fn generation(&self) -> u64 {
        self.journal.generation()
    }

    fn started(&mut self, now: Now, disk: OnDisk) {
        self.journal = Journal::read(&disk.slots);
        self.link.started(now, disk.starts);
        self.board = Some(disk.board);
        self.troubles = disk
            .troubles
            .iter()
            .map(|text| clipped(text))
            .take(TROUBLES_MAX)
            .collect();
        self.fetcher.started(disk.images, disk.partials);
        self.apps.observe_all(now, disk.containers);
        self.restore(now);
        self.reporter.touch(now);
    }

    /// Everything that follows from the state and the time rather than from one event.
    fn pursue(&mut self, now: Now) {
        self.pursue_apps(now);
        self.save(now);
        self.pursue_fetch(now);
        self.pursue_link(now);
        self.pursue_streams(now);
        self.pursue_report(now);
        self.show_led();
    }

    fn message(&mut self, now: Now, purpose: Purpose, packet: Packet, payload: Vec<u8>) {
        // An empty payload is how MQTT clears a retained message; it is seen by whoever is subscribed.
        if payload.is_empty() {
            self.out.push(Action::Ack(packet));
            return;
        }
        match purpose {
            Purpose::Desired => self.desired_message(now, packet, payload),
            Purpose::Command => {
                self.command_message(now, &payload);
                self.out.push(Action::Ack(packet));
            }
            Purpose::Block => {
                self.block_message(now, &payload);
                self.out.push(Action::Ack(packet));
            }
            Purpose::Presence => {
                self.presence_message(now, &payload);
                self.out.push(Action::Ack(packet));
            }
            Purpose::Reported | Purpose::Reply | Purpose::Want | Purpose::Log => {
                self.out.push(Action::Ack(packet));
            }
        }
    }

    fn done(&mut self, now: Now, done: Done) {
        match done {
            Done::Persisted(result) => self.persisted(now, result),
            Done::StartCounted(starts) => self.link.started(now, starts),
            Done::Container { app, error, observed } => self.container_done(now, &app, error, observed),
            Done::Refreshed { containers, images } => {
                self.fetcher.set_images(images);
                self.apps.observe_all(now, containers);
                self.reporter.touch(now);
            }
            // What does not stay kept is seen at the next start.
            Done::Kept(Err(error)) => self.log(Level::Error, format!("the system is not kept: {error}")),
            Done::Kept(Ok(())) => {}
            Done::LogRead { stream, result } => self.log_read(now, stream, result),
            done => self.fetch_done(now, done),
        }
    }

    fn board(&mut self, now: Now, board: BoardInfo) {
        if self.board.as_ref() != Some(&board) {
            self.board = Some(board);
            self.reporter.touch(now);
        }
    }

    fn goodbye(&mut self) {
        let presence = Presence {
            session: self.link.session(),
            online: false,
        };
        if self.link.is_ready() {
            self.publish(Purpose::Presence, &presence, true);
        }
        self.link.stop();
    }

    /// Verifies with the fleet's key.
    fn verifier(&self) -> impl Fn(&[u8], &[u8; 64]) -> bool + use<> {
        let key = UnparsedPublicKey::new(&ED25519, self.config.fleet_key);
        move |bytes, signature| key.verify(bytes, signature).is_ok()
    }

    fn job(&mut self, job: Job) {
        self.out.push(Action::Job(job));
    }

    fn log(&mut self, level: Level, text: String) {
        self.out.push(Action::Log(level, text));
    }

    fn show_led(&mut self) {
        let pattern = if self.apps.any_failed(&self.fetcher) {
            LedPattern::Fast
        } else if self.fetcher.is_busy() || self.apps.any_busy() || !self.link.is_ready() {
            LedPattern::Slow
        } else {
            LedPattern::Steady
        };
        if self.led != Some(pattern) {
            self.led = Some(pattern);
            self.out.push(Action::Led(pattern));
        }
    }
}

/// Lower-case hexadecimal, as OCI layouts name blobs and as labels carry digests.
pub fn hex(digest: &Digest) -> String {
    let text = digest.to_string();
    text.strip_prefix("sha256:").unwrap_or_default().to_owned()
}
