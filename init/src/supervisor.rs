//! PID 1: starts the roles, starts them again, reaps, feeds the watchdog, shuts down.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use nix::mount::MsFlags;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, chdir, chroot, dup2_stderr, dup2_stdin, dup2_stdout};

use crate::agent;
use crate::handover::{APPS, CONSOLE, NOTIFY, TRIAL, WATCHDOG};
use crate::plan::health::{ALIVE_PERIOD, Agent, FEED_PERIOD, is_healthy, restart_pause};
use crate::plan::mounts::FIRST;
use crate::shutdown::{self, End};
use crate::{InitError, Result, make_and_mount, mount, say};

/// How long the roles wait for `setup`: longer than it waits for disks, and a card that replays a long journal.
const SETUP_WAIT: Duration = Duration::from_secs(120);
/// How long a system on trial has to reach its fleet and to run all apps for the time that the fleet asks for.
const TRIAL_TIME: Duration = Duration::from_secs(1800);
/// What the agent may say at once.
const MESSAGE_BYTES_MAX: usize = 256;

/// PID 1's life. Returns only when not even the first steps could be done, and the kernel panics and starts again.
pub fn run() -> Result<ExitCode> {
    leave_rootfs()?;
    FIRST.iter().try_for_each(make_and_mount)?;
    console_to_stdio();
    let uptime = crate::read_word("/proc/uptime");
    say(format_args!(
        "PID 1, {} s after the kernel",
        uptime.split(' ').next().unwrap_or_default()
    ));
    if let Err(error) = nix::sys::reboot::set_cad_enabled(false) {
        say(format_args!(
            "Ctrl-Alt-Del restarts the board out of order: {error}"
        ));
    }
    let mut supervisor = Supervisor::new()?;
    supervisor.spawn(Role::Setup);
    supervisor.wait_for_setup();
    supervisor.trial_until = Path::new(TRIAL).exists().then(|| Instant::now() + trial_time());
    supervisor.notify = supervisor.listen();
    supervisor.watchdog = open_watchdog();
    // What the board is for comes first.
    supervisor.spawn(Role::Agent);
    if Path::new(APPS).exists() {
        supervisor.spawn(Role::Apps);
    }
    supervisor.spawn(Role::Attend);
    if Path::new(CONSOLE).exists() {
        supervisor.spawn(Role::Console);
    }
    loop {
        if let Some(end) = supervisor.turn() {
            supervisor.end(end);
        }
    }
}

/// `punnet.trial=SECONDS` on the kernel's command line is for trying out.
fn trial_time() -> Duration {
    let given = crate::kernel_word("trial").and_then(|word| word.parse().ok());
    given.map_or(TRIAL_TIME, Duration::from_secs)
}

/// Puts a mount on top of rootfs, which pivot_root(2) could not leave: containers need it. The files stay where they are.
fn leave_rootfs() -> Result<()> {
    const ROOT: &str = "/root";
    std::fs::create_dir_all(ROOT).map_err(InitError::at("make", ROOT))?;
    mount("/", ROOT, None, MsFlags::MS_BIND, "")?;
    chdir(ROOT).map_err(InitError::at("enter", ROOT))?;
    mount(".", "/", None, MsFlags::MS_MOVE, "")?;
    chroot(".").map_err(InitError::at("make the root", ROOT))?;
    chdir("/").map_err(InitError::at("enter", "/"))
}

/// The kernel may have started us without a console: Rust's start-up has put /dev/null in its place then.
fn console_to_stdio() {
    let given = std::fs::read_link("/proc/self/fd/0").is_ok_and(|path| path != Path::new("/dev/null"));
    if !given && let Ok(console) = OpenOptions::new().read(true).write(true).open("/dev/console") {
        // Without it there is nobody to tell.
        dup2_stdin(&console).and_then(|()| dup2_stdout(&console)).ok();
        dup2_stderr(&console).ok();
    }
}

/// The hardware's watchdog, armed.
struct Watchdog(File);

fn open_watchdog() -> Option<Watchdog> {
    let text = std::fs::read_to_string(WATCHDOG).ok()?;
    let (node, seconds) = text.trim().split_once(' ')?;
    match File::options().write(true).open(node) {
        Ok(file) => {
            match punnet_sys::watchdog_set_timeout(file.as_fd(), seconds.parse().ok()?) {
                Ok(seconds) => say(format_args!(
                    "{node} restarts the board when it is not fed for {seconds} s"
                )),
                Err(error) => say(format_args!("{node} keeps its own timeout: {error}")),
            }
            Some(Watchdog(file))
        }
        Err(error) => {
            say(format_args!("no watchdog: cannot open {node}: {error}"));
            None
        }
    }
}

impl Watchdog {
    fn feed(&mut self) {
        // Any byte but 'V', which would switch it off. When it cannot be fed, it does what it is for.
        drop(self.0.write_all(b"\0"));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Setup,
    Attend,
    Agent,
    Apps,
    Console,
}

impl Role {
    const ALL: [Self; 5] = [Self::Setup, Self::Attend, Self::Agent, Self::Apps, Self::Console];

    const fn name(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Attend => "attend",
            Self::Agent => "agent",
            Self::Apps => "apps",
            Self::Console => "console",
        }
    }
}

/// A role's process, or its pause.
#[derive(Clone, Copy, Default)]
struct Process {
    pid: Option<Pid>,
    began: Option<Instant>,
    again: Option<Instant>,
    quick_ends: u32,
}

struct Supervisor {
    signals: SignalFd,
    notify: Option<UnixDatagram>,
    watchdog: Option<Watchdog>,
    fed: Option<Instant>,
    processes: [Process; Role::ALL.len()],
    agent_spoke: Option<Instant>,
    starving: bool,
    trial_until: Option<Instant>,
}

impl Supervisor {
    fn new() -> Result<Self> {
        let mut wanted = SigSet::empty();
        for signal in [
            Signal::SIGCHLD,
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGUSR1,
            Signal::SIGUSR2,
            Signal::SIGPWR,
        ] {
            wanted.add(signal);
        }
        wanted.thread_block().map_err(InitError::at("block", "signals"))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&wanted, flags).map_err(InitError::at("listen to", "signals"))?;
        Ok(Self {
            signals,
            notify: None,
            watchdog: None,
            fed: None,
            processes: [Process::default(); Role::ALL.len()],
            agent_spoke: None,
            starving: false,
            trial_until: None,
        })
    }

    /// Where the agent says that it lives. Without it the watchdog would bite, so it is not armed then.
    fn listen(&self) -> Option<UnixDatagram> {
        let socket = UnixDatagram::bind(NOTIFY).and_then(|socket| {
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        socket
            .map_err(|error| say(format_args!("cannot listen at {NOTIFY}: {error}")))
            .ok()
    }

    fn spawn(&mut self, role: Role) {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("punnet").args(["init", role.name()]);
        if role == Role::Agent {
            self.agent_spoke = None;
            if self.notify.is_some() {
                command.env("NOTIFY_SOCKET", NOTIFY);
                // It speaks twice in this time.
                command.env("WATCHDOG_USEC", (2 * ALIVE_PERIOD).as_micros().to_string());
            }
        }
        let process = &mut self.processes[role as usize];
        process.began = Some(Instant::now());
        process.again = None;
        match command.spawn() {
            // Reaped below, with all others.
            Ok(child) => process.pid = i32::try_from(child.id()).ok().map(Pid::from_raw),
            Err(error) => {
                say(format_args!("cannot start {}: {error}", role.name()));
                self.note_end(role);
            }
        }
    }

    fn wait_for_setup(&mut self) {
        let began = Instant::now();
        while self.processes[Role::Setup as usize].pid.is_some() {
            if began.elapsed() > SETUP_WAIT {
                say("setup takes long; going on without it");
                return;
            }
            self.sleep(Duration::from_secs(1));
            self.reap();
        }
    }

    /// Waits for something and sees to it; an order to end is returned.
    fn turn(&mut self) -> Option<End> {
        self.sleep(FEED_PERIOD);
        let end = self.read_signals();
        self.reap();
        self.hear_agent();
        self.feed();
        if end.is_none() && self.trial_is_over() {
            say("the system on trial did not get well: the one before is started again");
            return Some(End::Restart);
        }
        for role in Role::ALL {
            let due = self.processes[role as usize].again;
            if due.is_some_and(|due| due <= Instant::now()) {
                self.spawn(role);
            }
        }
        end
    }

    fn sleep(&self, most: Duration) {
        let now = Instant::now();
        let soonest = self
            .processes
            .iter()
            .filter_map(|process| process.again)
            .map(|at| at.saturating_duration_since(now))
            .fold(most, Duration::min);
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(
            self.notify
                .as_ref()
                .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)),
        );
        let timeout = PollTimeout::try_from(soonest + Duration::from_millis(1)).unwrap_or(PollTimeout::ZERO);
        // EINTR is as good as a turn.
        poll(&mut fds, timeout).ok();
    }

    fn read_signals(&mut self) -> Option<End> {
        let mut end = None;
        while let Ok(Some(info)) = self.signals.read_signal() {
            end = match Signal::try_from(info.ssi_signo.cast_signed()) {
                Ok(Signal::SIGTERM | Signal::SIGINT) => Some(End::Restart),
                Ok(Signal::SIGUSR1) => Some(End::Halt),
                Ok(Signal::SIGUSR2 | Signal::SIGPWR) => Some(End::PowerOff),
                _ => end,
            };
        }
        end
    }

    fn reap(&mut self) {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            let Some(pid) = status.pid() else { return };
            let ours = Role::ALL
                .into_iter()
                .find(|role| self.processes[*role as usize].pid == Some(pid));
            if let Some(role) = ours {
                if !matches!(status, WaitStatus::Exited(_, 0)) {
                    say(format_args!("{} ended: {status:?}", role.name()));
                }
                self.note_end(role);
                if matches!(status, WaitStatus::Exited(_, agent::NOT_ENROLLED)) {
                    // Nothing changes that before the next start.
                    self.processes[role as usize].again = None;
                }
            }
        }
    }

    fn note_end(&mut self, role: Role) {
        let process = &mut self.processes[role as usize];
        process.pid = None;
        if role == Role::Setup {
            return;
        }
        let ran_for = process.began.map(|began| began.elapsed()).unwrap_or_default();
        let (pause, quick_ends) = restart_pause(process.quick_ends, ran_for);
        process.quick_ends = quick_ends;
        process.again = Some(Instant::now() + pause);
    }

    fn hear_agent(&mut self) {
        let mut message = [0; MESSAGE_BYTES_MAX];
        while let Some(Ok(length)) = self.notify.as_ref().map(|socket| socket.recv(&mut message)) {
            if message[..length].starts_with(b"READY=1") || message[..length].starts_with(b"WATCHDOG=1") {
                self.agent_spoke = Some(Instant::now());
            }
        }
    }

    fn agent_health(&self) -> Agent {
        let process = self.processes[Role::Agent as usize];
        match (process.pid, self.agent_spoke, process.began) {
            (None, ..) | (_, None, None) => Agent::Away,
            (Some(_), Some(spoke), _) => Agent::Spoke(spoke.elapsed()),
            (Some(_), None, Some(began)) => Agent::Starting(began.elapsed()),
        }
    }

    fn feed(&mut self) {
        let healthy = self.notify.is_none() || is_healthy(self.agent_health());
        if healthy == self.starving {
            self.starving = !healthy;
            say(if healthy {
                "the agent answers again"
            } else {
                "the agent does not answer: the watchdog is no longer fed"
            });
        }
        let due = self.fed.is_none_or(|fed| fed.elapsed() >= FEED_PERIOD / 2);
        if let Some(watchdog) = self.watchdog.as_mut().filter(|_| healthy && due) {
            watchdog.feed();
            self.fed = Some(Instant::now());
        }
    }

    /// Whether a system on trial has had all its time and nobody has kept it.
    fn trial_is_over(&self) -> bool {
        self.trial_until.is_some_and(|until| Instant::now() >= until) && Path::new(TRIAL).exists()
    }

    /// Ends all, in order, and the board. Comes back only when the kernel does not want to.
    fn end(&mut self, end: End) {
        say(end.said());
        let roles = [Role::Agent, Role::Apps];
        let pids = roles.map(|role| self.processes[role as usize].pid);
        shutdown::stop(&pids, |for_long| {
            self.sleep(for_long);
            self.read_signals();
            self.reap();
            if let Some(watchdog) = &mut self.watchdog {
                watchdog.feed();
            }
            let runs = |role: &Role| {
                pids.iter()
                    .flatten()
                    .any(|pid| self.processes[*role as usize].pid == Some(*pid))
            };
            roles.iter().any(runs)
        });
        let error = shutdown::end(end);
        say(format_args!("the kernel does not end: {error}"));
    }
}
