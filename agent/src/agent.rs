//! The agent itself: one loop on one thread.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use punnet_boards::{Board, Led, LedPattern};
use punnet_protocol::Digest;
use sha2::{Digest as _, Sha256};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep_until;

use crate::core::{Action, Config, Core, Event, Level, Now};
use crate::enrolment::Enrolment;
use crate::executor::{Executor, Punnet, State, WaitedFor, level_name};
use crate::notify::Notifier;
use crate::session::Session;
use crate::tls::TimeFloor;
use crate::{AgentError, Result, tls};

/// getaddrinfo(3) of musl and of glibc needs some tens of kilobytes.
const RESOLVER_STACK_BYTES: usize = 256 * 1024;
/// For the last messages to the broker.
const GOODBYE: Duration = Duration::from_secs(2);
/// Without an event for so long, the agent has come to rest: what it needed to start and to connect is not needed soon.
const AT_REST: Duration = Duration::from_secs(3);
/// For each container with `stop_containers`.
const STOP: Duration = Duration::from_secs(60);

/// How to run the agent.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// `--data-root`: images, containers and the agent's own state.
    pub data_root: PathBuf,
    /// `--run-root`: what is gone after a reboot.
    pub run_root: PathBuf,
    /// An enrolment file to take up and keep; `None` for the one kept.
    pub enrolment: Option<PathBuf>,
    /// Stop all containers when the agent ends; otherwise they go on.
    pub stop_containers: bool,
    /// Upper limit for fetching images over MQTT, bytes a second.
    pub fetch_bytes_per_s: Option<u32>,
    /// What the board is: its name is reported, its LED shows how the agent does.
    pub board: Board,
    /// What is wrong with the board, besides what the file says that `PUNNET_TROUBLES` in the environment names.
    pub troubles: Vec<String>,
    /// The `punnet` to run; `None` for this very program.
    pub program: Option<PathBuf>,
    /// The least that is logged to standard error.
    pub log_level: Level,
}

/// Runs the agent until SIGTERM or SIGINT. Blocks; to be called from a process with one thread.
pub fn run(options: AgentOptions) -> Result<()> {
    let state = State::open(&options.data_root)?;
    let kept = state.folder().join("enrolment.json");
    let enrolment = Enrolment::take_up(options.enrolment.as_deref(), &kept)?;
    let floor = TimeFloor::default();
    let tls = if enrolment.broker.tls {
        Some(tls::client_config(&enrolment, &floor)?)
    } else {
        None
    };
    let system = |operation| move |source| AgentError::System { operation, source };
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(io::Error::from)
        .map_err(system("become a subreaper"))?;
    // The one thread besides ours resolves the broker's name, and ends when that is done.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .thread_stack_size(RESOLVER_STACK_BYTES)
        .thread_keep_alive(Duration::from_secs(1))
        .enable_all()
        .build();
    let runtime = runtime.map_err(system("start the event loop"))?;
    let session = Session::new(&enrolment, tls);
    runtime.block_on(async {
        let mut agent = Agent::new(options, &enrolment, state, session, floor)?;
        agent.serve().await;
        Ok(())
    })
}

struct Agent {
    options: AgentOptions,
    core: Core,
    executor: Executor,
    session: Session,
    floor: TimeFloor,
    led: Option<Led>,
    /// What is wrong with the board: a person has to see to it.
    troubles: Vec<String>,
    began: Instant,
    /// When memory is given back, unless something happens before.
    rest_at: Option<Instant>,
    end: [Signal; 2],
    child: Signal,
}

impl Agent {
    fn new(
        options: AgentOptions,
        enrolment: &Enrolment,
        state: State,
        session: Session,
        floor: TimeFloor,
    ) -> Result<Self> {
        let listen = |kind| {
            signal(kind).map_err(|source| AgentError::System {
                operation: "listen to signals",
                source,
            })
        };
        let end = [listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?];
        let child = listen(SignalKind::child())?;
        let punnet = Punnet {
            program: options
                .program
                .clone()
                .unwrap_or_else(|| Path::new("/proc/self/exe").into()),
            data_root: options.data_root.clone(),
            run_root: options.run_root.clone(),
            waited_for: WaitedFor::default(),
        };
        let config = Config {
            fleet: enrolment.fleet.clone(),
            device: enrolment.device.clone(),
            fleet_key: enrolment.fleet_key,
            fetch_bytes_per_s: options.fetch_bytes_per_s,
            seed: seed(enrolment),
        };
        let led = options
            .board
            .status_led
            .as_ref()
            .and_then(|led| match Led::open(led) {
                Ok(led) => Some(led),
                Err(error) => {
                    log(
                        options.log_level,
                        Level::Warn,
                        &format!("the status LED: {error}"),
                    );
                    None
                }
            });
        options
            .troubles
            .iter()
            .for_each(|trouble| log(options.log_level, Level::Error, trouble));
        let mut troubles = troubles_of_board();
        troubles.extend(options.troubles.iter().cloned());
        let executor = Executor::new(state, punnet, options.board.name.clone(), enrolment.fleet_key);
        let (core, began) = (Core::new(config), Instant::now());
        Ok(Self {
            options,
            core,
            executor,
            session,
            floor,
            led,
            troubles,
            began,
            rest_at: None,
            end,
            child,
        })
    }

    async fn serve(&mut self) {
        let mut disk = self.executor.look().await;
        disk.troubles
            .iter()
            .for_each(|trouble| log(self.options.log_level, Level::Error, trouble));
        // What is wrong with the board comes first: the rest may follow from it.
        disk.troubles.splice(0..0, self.troubles.iter().cloned());
        self.step(Event::Started(Box::new(disk)));
        let notifier = Notifier::from_environment();
        notifier.ready();
        let mut alive_at = Instant::now();
        loop {
            let wake = self
                .core
                .wake_at()
                .map(|at| (self.began + Duration::from_millis(at)).into());
            let blink = self.led.as_ref().and_then(|led| led.pattern().half_period_ms());
            let [terminate, interrupt] = &mut self.end;
            tokio::select! {
                event = self.session.next() => event.into_iter().for_each(|event| self.step(event)),
                events = self.executor.next() => events.into_iter().for_each(|event| self.step(event)),
                () = until(wake) => self.step(Event::Tick),
                () = pause(blink) => self.blink(),
                () = until(self.rest_at.map(Into::into)) => self.rest(),
                () = until(notifier.alive_every.map(|every| (alive_at + every).into())) => {
                    alive_at = Instant::now();
                    notifier.alive();
                }
                _ = self.child.recv() => self.executor.reap(),
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        notifier.stopping();
        self.step(Event::Goodbye);
        self.session.goodbye(GOODBYE).await;
        if self.options.stop_containers {
            self.executor.stop_all(STOP).await;
        }
    }

    /// Gives the core an event and does what it says; jobs that are done at once give it more.
    fn step(&mut self, event: Event) {
        self.rest_at = Some(Instant::now() + AT_REST);
        let mut events = std::collections::VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.core.step(self.now(), event) {
                self.act(action, &mut events);
            }
        }
        self.floor.raise(self.core.time_floor_s());
    }

    fn act(&mut self, action: Action, events: &mut std::collections::VecDeque<Event>) {
        match action {
            Action::Connect { will } => self.session.connect(will),
            Action::Disconnect => self.session.disconnect(),
            Action::Subscribe(purpose) => self.session.subscribe(purpose),
            Action::Publish {
                purpose,
                payload,
                retain,
            } => self.session.publish(purpose, payload, retain),
            Action::Ack(packet) => self.session.ack(packet),
            Action::Job(job) => events.extend(self.executor.begin(job).map(Event::Done)),
            Action::Led(pattern) => {
                // Nothing that the apps do mends the board.
                let pattern = if self.troubles.is_empty() {
                    pattern
                } else {
                    LedPattern::Fast
                };
                if let Some(Err(error)) = self.led.as_mut().map(|led| led.show(pattern)) {
                    log(
                        self.options.log_level,
                        Level::Warn,
                        &format!("the status LED: {error}"),
                    );
                }
            }
            Action::Log(level, text) => log(self.options.log_level, level, &text),
        }
    }

    /// Lets go of the pages of the program that were mapped on the way here; what stays mapped is what the loop needs.
    fn rest(&mut self) {
        self.rest_at = None;
        if let Err(errno) = punnet_sys::madvise_dontneed_program() {
            log(
                self.options.log_level,
                Level::Debug,
                &format!("memory is not given back: {errno}"),
            );
        }
    }

    fn blink(&mut self) {
        if let Some(Err(error)) = self.led.as_mut().map(Led::tick) {
            log(
                self.options.log_level,
                Level::Warn,
                &format!("the status LED: {error}"),
            );
            self.led = None;
        }
    }

    fn now(&self) -> Now {
        let unix = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Now {
            ms: millis(self.began.elapsed()),
            unix_ms: millis(unix),
        }
    }
}

/// What `punnet init` has found wrong, a line each in the file that `PUNNET_TROUBLES` in the environment names; it has been said there.
fn troubles_of_board() -> Vec<String> {
    let Some(file) = std::env::var_os("PUNNET_TROUBLES") else {
        return Vec::new();
    };
    match std::fs::read_to_string(&file) {
        Ok(text) => text.lines().map(str::to_owned).collect(),
        Err(error) => vec![format!("cannot read {}: {error}", Path::new(&file).display())],
    }
}

/// Different on each device and at each start; it spreads pauses and needs to be no secret.
fn seed(enrolment: &Enrolment) -> u64 {
    let mut hash = Sha256::new();
    hash.update(enrolment.device.as_str());
    hash.update(std::process::id().to_le_bytes());
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    hash.update(now.as_nanos().to_le_bytes());
    // Two copies of one card that boot at the same second of a clock that stands still.
    let unique = std::fs::read("/proc/sys/kernel/random/uuid").unwrap_or_default();
    hash.update(unique);
    let Digest(bytes) = Digest(hash.finalize().into());
    bytes
        .iter()
        .take(8)
        .fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}

/// One line an event on standard error; systemd's or a terminal's clock tells when. Written at once: on a serial console others write too.
fn log(least: Level, level: Level, text: &str) {
    if level <= least {
        let line = format!("punnet agent: {}: {text}\n", level_name(level));
        eprint!("{line}");
    }
}

async fn until(wake: Option<tokio::time::Instant>) {
    match wake {
        Some(wake) => sleep_until(wake).await,
        None => std::future::pending().await,
    }
}

async fn pause(ms: Option<u32>) {
    match ms {
        Some(ms) => tokio::time::sleep(Duration::from_millis(ms.into())).await,
        None => std::future::pending().await,
    }
}
