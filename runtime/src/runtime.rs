//! The verbs on containers: what `punnet oci` and the user's own verbs call. All are synchronous, and must be called from a process without
//! threads: `create`, `run` and `exec` make a process.

use crate::channel::Message;
use crate::error::{Error, OsContext, Result};
use crate::foreground::{self, Signals};
use crate::hooks::{self, HookKind};
use crate::host::{self, HostProc};
use crate::id::ContainerId;
use crate::init::{self, Context, Gate};
use crate::launch::{Around, Launched, Outside, launch};
use crate::listener::Listener;
use crate::plan::namespaces_bits::{MOUNT, PID, USER};
use crate::plan::{self, HostFacts};
use crate::state::{self, Record, StateDir};
use crate::terminal::{self, Stdio};
use crate::{OutOfReach, cgroup, idmap, own_file, program, rootfs};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, getegid, geteuid};
use punnet_spec::{Linux, Process, Spec, State, Status};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Largest config.json: a hundred times any real one.
const CONFIG_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// How long `delete --force` waits for a killed process: longer than any that is not stuck in the kernel.
const KILL_TIMEOUT_MS: u16 = 10_000;

/// The containers below one state root.
#[derive(Clone, Debug)]
pub struct Runtime {
    state_root: PathBuf,
    warnings: Warnings,
}

/// Where warnings go: what the specification wants logged and not failed.
#[derive(Clone)]
pub struct Warnings(Arc<dyn Fn(&str) + Send + Sync>);

impl Warnings {
    /// Calls `log` with each warning.
    pub fn new(log: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(log))
    }

    fn tell(&self, text: &str) {
        (self.0)(text);
    }
}

impl Default for Warnings {
    fn default() -> Self {
        Self::new(|text| eprintln!("warning: {text}"))
    }
}

impl std::fmt::Debug for Warnings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Warnings")
    }
}

/// How to make a container.
#[derive(Debug)]
pub struct CreateOptions {
    /// Directory with config.json.
    pub bundle: PathBuf,
    /// Gets the terminal's master, where the process has one.
    pub console_socket: Option<PathBuf>,
    /// Written with the init's pid.
    pub pid_file: Option<PathBuf>,
    /// Descriptors from 3 up that the program keeps.
    pub preserve_fds: u32,
    /// Start a session keyring (the default).
    pub new_keyring: bool,
    /// `run` in the foreground leaves the container for `delete` when it has ended.
    pub keep: bool,
    /// The program's standard streams, when it has no terminal.
    pub stdio: Stdio,
    /// Lets the kernel's emulators execute a program for another CPU (binfmt_misc), which only a runtime may whose own file is out of reach.
    pub own_file: Option<OutOfReach>,
}

impl CreateOptions {
    /// Defaults, with a bundle.
    pub fn new(bundle: impl Into<PathBuf>) -> Self {
        Self {
            bundle: bundle.into(),
            console_socket: None,
            pid_file: None,
            preserve_fds: 0,
            new_keyring: true,
            keep: false,
            stdio: Stdio::default(),
            own_file: None,
        }
    }
}

/// How to run one more process in a container.
#[derive(Debug)]
pub struct ExecOptions {
    /// What to run; see [`Runtime::config`] for the container's own.
    pub process: Process,
    /// Return once it runs.
    pub detach: bool,
    /// Gets the terminal's master, where the process has one.
    pub console_socket: Option<PathBuf>,
    /// Written with the process' pid.
    pub pid_file: Option<PathBuf>,
    /// Descriptors from 3 up that the program keeps.
    pub preserve_fds: u32,
    /// The program's standard streams, when it has no terminal.
    pub stdio: Stdio,
    /// A cgroup below the container's own that exists; the container's own when `None`.
    pub cgroup: Option<PathBuf>,
    /// Also in a paused container, where the process waits until the container is resumed.
    pub in_paused: bool,
}

impl ExecOptions {
    /// Defaults, with a process.
    pub fn new(process: Process) -> Self {
        Self {
            process,
            detach: false,
            console_socket: None,
            pid_file: None,
            preserve_fds: 0,
            stdio: Stdio::default(),
            cgroup: None,
            in_paused: false,
        }
    }
}

/// One line of `list`.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The state document.
    pub state: State,
    /// Seconds since 1970.
    pub created: u64,
    /// User id of who created it.
    pub uid: u32,
    /// Directory of its root file system on the host; empty where mounts make it.
    pub rootfs: PathBuf,
}

impl Runtime {
    /// Containers below this directory, which is made when needed.
    pub fn new(state_root: impl Into<PathBuf>) -> Self {
        Self {
            state_root: state_root.into(),
            warnings: Warnings::default(),
        }
    }

    /// The same with warnings going elsewhere than to standard error.
    #[must_use]
    pub fn with_warnings(self, warnings: Warnings) -> Self {
        Self { warnings, ..self }
    }

    /// `/run/punnet/oci` for root, `$XDG_RUNTIME_DIR/punnet/oci` for others, below /run/user/UID or the home directory where that is not
    /// set: never in a directory where another user could have made it first.
    pub fn default_state_root() -> PathBuf {
        if geteuid().is_root() {
            return PathBuf::from("/run/punnet/oci");
        }
        let named = |name| {
            std::env::var_os(name)
                .filter(|dir| !dir.is_empty())
                .map(PathBuf::from)
        };
        let of_user = PathBuf::from(format!("/run/user/{}", geteuid()));
        let base = named("XDG_RUNTIME_DIR")
            .or_else(|| of_user.is_dir().then_some(of_user))
            .or_else(|| named("HOME").map(|home| home.join(".cache")))
            .unwrap_or_default();
        base.join("punnet/oci")
    }

    pub(crate) fn dir(&self, id: &ContainerId) -> StateDir {
        StateDir::new(&self.state_root, id)
    }

    /// Sets a container up; its process waits for [`Runtime::start`], also from another process. Returns its pid.
    pub fn create(&self, id: &ContainerId, options: &CreateOptions) -> Result<Pid> {
        let (spec, bytes) = load_bundle(&options.bundle)?;
        let terminal = spec.process.as_ref().is_some_and(|process| process.terminal);
        if terminal && options.console_socket.is_none() {
            return Err(Error::config(
                "process.terminal",
                "needs --console-socket, because `create` does not stay",
            ));
        }
        let launched = self.create_with(id, options, &spec, &bytes, true)?;
        Ok(launched.pid)
    }

    /// Creates and starts in one go. With `detach` returns 0 once the program runs; otherwise stays until it ends, deletes the container
    /// and returns its exit status, or 128 and the signal.
    pub fn run(&self, id: &ContainerId, options: &CreateOptions, detach: bool) -> Result<u8> {
        let (spec, bytes) = load_bundle(&options.bundle)?;
        let terminal = spec.process.as_ref().is_some_and(|process| process.terminal);
        if terminal && detach && options.console_socket.is_none() {
            return Err(Error::config(
                "process.terminal",
                "needs --console-socket with --detach",
            ));
        }
        let signals = if detach { None } else { Some(Signals::hold()?) };
        let mut launched = self.create_with(id, options, &spec, &bytes, false)?;
        let started = launched.start().and_then(|()| self.poststart(id, &spec));
        let ended = started.and_then(|()| match &signals {
            None => Ok(0),
            Some(signals) => foreground::wait(
                launched.pid,
                launched.pidfd.as_fd(),
                signals,
                launched.terminal.take(),
            ),
        });
        if (detach || options.keep) && ended.is_ok() {
            return ended;
        }
        drop(signals);
        let cleaned = self.delete(id, true);
        let code = ended?;
        cleaned.map(|()| code)
    }

    fn create_with(
        &self,
        id: &ContainerId,
        options: &CreateOptions,
        spec: &Spec,
        bytes: &[u8],
        gate: bool,
    ) -> Result<Launched> {
        let bundle =
            std::fs::canonicalize(&options.bundle).os("open the bundle", options.bundle.display())?;
        let labels = Labels::of(spec.linux.as_ref(), spec.process.as_ref());
        let host = HostFacts {
            bundle,
            new_keyring: options.new_keyring,
            ..host_facts(id, &labels)?
        };
        let plan = plan::plan(spec, &host)?;
        let own_file = if plan.namespaces.joins(PID)
            || !plan.hooks.start_container.is_empty()
            || program::is_foreign(&plan)
        {
            Some(own_file::guard()?)
        } else {
            options.own_file
        };
        let host = HostFacts { own_file, ..host };
        for warning in plan.process.iter().flat_map(|process| &process.warnings) {
            self.warnings.tell(warning);
        }
        if plan.process.is_none() {
            return Err(Error::config("process", "is missing: there is nothing to run"));
        }
        give_back_code();
        let dir = self.dir(id);
        let lock = dir.create(id)?;
        let made = create_in(&dir, options, spec, bytes, &plan, &host, gate);
        drop(lock);
        if made.is_err() {
            // The first error is the one to tell; what stays behind `delete --force` removes.
            drop(self.delete(id, true));
        }
        made
    }

    /// Lets a created container run its program. An error of the last steps, as of execve(2), comes back here. Where a hook fails, nothing stays
    /// of the container.
    pub fn start(&self, id: &ContainerId) -> Result<()> {
        let dir = self.dir(id);
        let record = dir.load(id)?;
        let status = dir.status(record.as_ref());
        if status != Status::Created {
            return Err(Error::WrongStatus {
                operation: "start",
                id: id.to_string(),
                status,
            }
            .into());
        }
        let has_hooks = record.is_some_and(|record| record.hooks);
        let started = open_gate(&dir, id).and_then(|()| match has_hooks {
            true => self.poststart(id, &dir.load_config()?),
            false => Ok(()),
        });
        if started
            .as_ref()
            .is_err_and(|error| matches!(**error, Error::Hook { .. }))
        {
            // The first error is the one to tell; what stays behind `delete --force` removes.
            drop(self.delete(id, true));
        }
        started
    }

    fn poststart(&self, id: &ContainerId, spec: &Spec) -> Result<()> {
        match &spec.hooks {
            Some(hooks) if !hooks.poststart.is_empty() => {
                let record = self.dir(id).load(id)?.unwrap_or_default();
                // Also of a program that has ended already: these hooks hear of its start.
                let state = record.to_state(Status::Running);
                hooks::run(HookKind::Poststart, &hooks.poststart, &state)
            }
            _ => Ok(()),
        }
    }

    /// The state document.
    pub fn state(&self, id: &ContainerId) -> Result<State> {
        self.inspect(id).map(|listed| listed.state)
    }

    /// One line of [`Runtime::list`].
    pub fn inspect(&self, id: &ContainerId) -> Result<Listed> {
        let dir = self.dir(id);
        let record = dir.load(id)?;
        let status = dir.status(record.as_ref());
        let record = record.unwrap_or_else(|| Record {
            id: id.to_string(),
            ..Record::default()
        });
        Ok(listed(record, status))
    }

    /// The configuration the container was created with.
    pub fn config(&self, id: &ContainerId) -> Result<Spec> {
        let dir = self.dir(id);
        dir.load(id)?;
        dir.load_config()
    }

    /// Sends a signal to the container's init, or with `all` to every process of it.
    pub fn kill(&self, id: &ContainerId, signal: i32, all: bool) -> Result<()> {
        let dir = self.dir(id);
        let record = dir.load(id)?.unwrap_or_default();
        let status = dir.status(Some(&record));
        if all && let Some(cgroup) = &record.cgroup {
            return if signal == Signal::SIGKILL as i32 {
                cgroup::kill_all(cgroup)
            } else {
                cgroup::signal_all(cgroup, signal)
            };
        }
        if !matches!(status, Status::Created | Status::Running | Status::Paused) {
            return Err(Error::WrongStatus {
                operation: "kill",
                id: id.to_string(),
                status,
            }
            .into());
        }
        match watch(&record)? {
            Some(pidfd) => {
                punnet_sys::pidfd_send_signal(pidfd.as_fd(), signal).os("send a signal to container", id)
            }
            None => Err(Error::WrongStatus {
                operation: "kill",
                id: id.to_string(),
                status: Status::Stopped,
            }
            .into()),
        }
    }

    /// Forgets a stopped container and what was made for it. With `force` kills it first, and succeeds when there is none.
    pub fn delete(&self, id: &ContainerId, force: bool) -> Result<()> {
        let dir = self.dir(id);
        if !force {
            deletable(&dir, id, force)?;
        }
        // Killed, it is given up by whoever is making it; and one whose runtime was killed has the lock itself until it executes its program.
        let hurry = || match dir.load(id) {
            Ok(Some(record)) if force => {
                kill_and_wait(id, &record)?;
                record.cgroup.as_deref().map_or(Ok(()), cgroup::kill_all)
            }
            _ => Ok(()),
        };
        let Some(_lock) = dir.lock(id, hurry)? else {
            return if force {
                Ok(())
            } else {
                Err(Error::NotFound(id.to_string()).into())
            };
        };
        let record = deletable(&dir, id, force)?;
        kill_and_wait(id, &record)?;
        if let Some(path) = &record.cgroup {
            cgroup::kill_all(path)?;
            cgroup::remove(path)?;
        }
        let config = if record.hooks {
            dir.load_config().ok()
        } else {
            None
        };
        dir.remove()?;
        if let Some(hooks) = config.and_then(|config| config.hooks) {
            let state = record.to_state(Status::Stopped);
            hooks::run_poststop(&hooks.poststop, &state, |text| self.warnings.tell(text));
        }
        Ok(())
    }

    /// Every container, in the order of their ids.
    pub fn list(&self) -> Result<Vec<Listed>> {
        let entries = match std::fs::read_dir(&self.state_root) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.os("read", self.state_root.display())?,
        };
        let mut list = Vec::new();
        for entry in entries {
            let entry = entry.os("read", self.state_root.display())?;
            let Some(id) = entry
                .file_name()
                .to_str()
                .and_then(|name| ContainerId::new(name).ok())
            else {
                continue;
            };
            let dir = self.dir(&id);
            // One that is deleted meanwhile, or damaged, does not hide the others.
            let record = dir.load(&id).unwrap_or_default();
            if !dir.exists() {
                continue;
            }
            let status = dir.status(record.as_ref());
            let record = record.unwrap_or_else(|| Record {
                id: id.to_string(),
                ..Record::default()
            });
            list.push(listed(record, status));
        }
        list.sort_unstable_by(|a, b| a.state.id.cmp(&b.state.id));
        Ok(list)
    }

    /// Runs one more process in a container. Returns its exit status (128 and the signal), or 0 when detached.
    pub fn exec(&self, id: &ContainerId, options: &ExecOptions) -> Result<u8> {
        let own_file = own_file::guard()?;
        let dir = self.dir(id);
        let record = dir.load(id)?;
        let status = dir.status(record.as_ref());
        let wrong = |status| {
            Box::new(Error::WrongStatus {
                operation: "exec in",
                id: id.to_string(),
                status,
            })
        };
        let Some(record) = record.filter(|_| match status {
            Status::Created | Status::Running => true,
            Status::Paused => options.in_paused,
            Status::Creating | Status::Stopped => false,
        }) else {
            return Err(wrong(status));
        };
        if options.process.terminal && options.detach && options.console_socket.is_none() {
            return Err(Error::config(
                "process.terminal",
                "needs --console-socket with --detach",
            ));
        }
        let linux = dir.load_config()?.linux.unwrap_or_default();
        let host = host_facts(id, &Labels::of(None, Some(&options.process)))?;
        let missing = if record.namespaces & USER == 0 {
            host.capabilities_missing
        } else {
            0
        };
        let process = plan::plan_process(&options.process, missing, &host)?;
        for warning in &process.warnings {
            self.warnings.tell(warning);
        }
        let confinement = plan::plan_confinement(&linux)?;
        let listener = Listener::connect(confinement.seccomp.as_ref())?;
        let proc = HostProc::open_for(&process, listener.is_some())?;
        let state = record.to_state(status);
        let root = if record.namespaces & MOUNT == 0 {
            let link = format!("/proc/{}/root", record.pid);
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            Some(open(link.as_str(), flags, Mode::empty()).os("open", link)?)
        } else {
            None
        };
        // After opening: it is the same process still.
        let init = watch(&record)?.ok_or_else(|| wrong(Status::Stopped))?;
        let cgroup = match (&record.cgroup, &options.cgroup) {
            (Some(path), sub) => Some(cgroup::open(path, sub.as_deref())?),
            (None, None) => None,
            (None, Some(sub)) => {
                return Err(Error::usage(format_args!(
                    "container {id} has no cgroup, so there is no {} in it",
                    sub.display()
                )));
            }
        };
        give_back_code();
        let signals = if options.detach {
            None
        } else {
            Some(Signals::hold()?)
        };
        let inside = |channel: &crate::channel::Channel| {
            let context = Context {
                id: id.as_str(),
                channel,
                gate: Gate::Channel,
                stdio: &options.stdio,
                attach_at: Path::new("/"),
                root: root.as_ref(),
                cgroup: None,
                root_nodev: false,
                idmapped: &rootfs::Idmapped::default(),
                preserve_fds: options.preserve_fds,
                own_file: Some(own_file),
                new_keyring: true,
                setgroups_denied: record.setgroups_denied,
                state: &state,
                proc: proc.as_ref(),
                listener: listener.as_ref(),
            };
            init::run_exec(&context, &process, &confinement, record.namespaces)
        };
        if let Some(initial) = &process.affinity.initial {
            init::set_affinity(initial).os("set", "process.execCPUAffinity.initial")?;
        }
        let around = Around::Container(init.as_fd(), record.namespaces);
        let outside = Outside {
            process: &process,
            hooks: None,
            state: &state,
        };
        let mut launched = match launch(&around, cgroup.as_ref(), &outside, &inside) {
            // The container has moved its processes below and turned controllers on: none may be at its top any more.
            Err(error) if options.cgroup.is_none() && error.errno() == Some(Errno::EBUSY) => {
                let own = cgroup::of_process(record.pid)?;
                launch(&around, Some(&own), &outside, &inside)?
            }
            launched => launched?,
        };
        let ready = publish(
            &mut launched,
            options.console_socket.as_deref(),
            options.pid_file.as_deref(),
        );
        if let Err(error) = ready {
            crate::launch::end(launched.pid, launched.pidfd.as_fd());
            return Err(error);
        }
        launched.start()?;
        match &signals {
            None => Ok(0),
            Some(signals) => foreground::wait(
                launched.pid,
                launched.pidfd.as_fd(),
                signals,
                launched.terminal.take(),
            ),
        }
    }
}

/// Whether labels are asked for: only then is the kernel asked for the modules behind them.
struct Labels {
    apparmor: bool,
    selinux: bool,
}

impl Labels {
    fn of(linux: Option<&Linux>, process: Option<&Process>) -> Self {
        let mount = linux.is_some_and(|linux| !linux.mount_label.is_empty());
        Self {
            apparmor: process.is_some_and(|process| !process.apparmor_profile.is_empty()),
            selinux: mount || process.is_some_and(|process| !process.selinux_label.is_empty()),
        }
    }
}

fn host_facts(id: &ContainerId, labels: &Labels) -> Result<HostFacts> {
    Ok(HostFacts {
        id: id.to_string(),
        euid: geteuid().as_raw(),
        egid: getegid().as_raw(),
        capabilities_missing: !punnet_sys::capget()
            .os("read", "the runtime's capabilities")?
            .permitted,
        apparmor: labels.apparmor && host::has_apparmor(),
        selinux: labels.selinux && host::has_selinux(),
        ..HostFacts::default()
    })
}

/// Tells the process that waits at the gate to go on, and waits until it runs its program.
fn open_gate(dir: &StateDir, id: &ContainerId) -> Result<()> {
    let (_directory, gate) = dir.gate()?;
    let mut stream = UnixStream::connect(&gate).os("reach the container", id)?;
    stream.write_all(b"S").os("start", id)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).os("start", id)?;
    dir.open_gate()?;
    if answer.is_empty() {
        Ok(())
    } else {
        Err(Error::decode(&answer))
    }
}

fn listed(record: Record, status: Status) -> Listed {
    Listed {
        state: record.to_state(status),
        created: record.created,
        uid: record.uid,
        rootfs: record.rootfs,
    }
}

fn load_bundle(bundle: &Path) -> Result<(Spec, Vec<u8>)> {
    let path = bundle.join("config.json");
    let file = std::fs::File::open(&path).os("open", path.display())?;
    // The kernel knows how much there is to read.
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let mut bytes = Vec::with_capacity(length.min(CONFIG_BYTES_MAX) as usize + 1);
    file.take(CONFIG_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .os("read", path.display())?;
    if bytes.len() as u64 > CONFIG_BYTES_MAX {
        return Err(Error::config(
            "(file)",
            format!("is larger than {CONFIG_BYTES_MAX} bytes"),
        ));
    }
    let spec = Spec::from_json(&bytes).map_err(|source| Error::Json {
        path: path.display().to_string(),
        source,
    })?;
    Ok((spec, bytes))
}

/// Between two parts of a command: what the first has mapped of the program is not what the second needs. A kernel that refuses leaves it mapped.
pub(crate) fn give_back_code() {
    punnet_sys::madvise_dontneed_program().ok();
}

/// The part of `create` that leaves something behind, in the order in which `delete --force` can undo it at any point.
fn create_in(
    dir: &StateDir,
    options: &CreateOptions,
    spec: &Spec,
    bytes: &[u8],
    plan: &plan::Plan,
    host: &HostFacts,
    gate: bool,
) -> Result<Launched> {
    let Some(process) = &plan.process else {
        return Err(Error::config("process", "is missing"));
    };
    let cgroup_path = cgroup::path(&plan.cgroup)?;
    let mut record = Record {
        id: host.id.clone(),
        bundle: host.bundle.clone(),
        rootfs: spec
            .root
            .as_ref()
            .map(|root| host.bundle.join(&root.path))
            .unwrap_or_default(),
        created: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        uid: host.euid,
        cgroup: cgroup_path.clone(),
        namespaces: plan.namespaces.all(),
        setgroups_denied: idmap::setgroups_denied(&plan.namespaces),
        hooks: !plan.hooks.poststart.is_empty() || !plan.hooks.poststop.is_empty(),
        annotations: spec.annotations.clone(),
        ..Record::default()
    };
    // The cgroup is written down before it is made.
    dir.save(&record)?;
    dir.save_config(bytes)?;
    let cgroup = cgroup::create(&plan.cgroup, cgroup_path.as_deref())?;
    record.cgroup = cgroup.as_ref().map(|cgroup| cgroup.path.clone());
    let root_nodev = match &plan.cgroup.devices {
        Some(filter) => !cgroup::guard_devices(filter, cgroup.as_ref())?,
        None => false,
    };
    let waits_for_start = gate;
    let mut gate = if gate {
        let (_directory, path) = dir.gate()?;
        Some(UnixListener::bind(&path).os("make the gate in", dir.path().display())?)
    } else {
        None
    };
    let state = record.to_state(Status::Creating);
    let idmapped = rootfs::Idmapped::make(plan)?;
    let listener = Listener::connect(plan.confinement.seccomp.as_ref())?;
    let proc = HostProc::open_for(process, listener.is_some())?;
    let gate = std::cell::Cell::new(gate.take());
    let attach_at = if plan.namespaces.has(MOUNT) {
        dir.path().to_owned()
    } else {
        std::fs::create_dir(dir.root()).os("make", dir.root().display())?;
        dir.root()
    };
    let inside = |channel: &crate::channel::Channel| {
        let context = Context {
            id: &host.id,
            channel,
            gate: gate.take().map_or(Gate::Channel, Gate::Socket),
            stdio: &options.stdio,
            attach_at: &attach_at,
            root: None,
            cgroup: record.cgroup.as_deref(),
            root_nodev,
            idmapped: &idmapped,
            preserve_fds: options.preserve_fds,
            own_file: host.own_file,
            new_keyring: host.new_keyring,
            setgroups_denied: record.setgroups_denied,
            state: &state,
            proc: proc.as_ref(),
            listener: listener.as_ref(),
        };
        init::run(&context, plan)
    };
    let outside = Outside {
        process,
        hooks: Some(&plan.hooks),
        state: &state,
    };
    let mut launched = launch(
        &Around::Plan(&plan.namespaces),
        cgroup.as_ref(),
        &outside,
        &inside,
    )?;
    let limited = cgroup::finish(&plan.cgroup, cgroup.as_ref());
    let done = limited
        .and_then(|()| state::start_time(launched.pid))
        .and_then(|start_time| {
            record.pid = launched.pid.as_raw();
            record.pid_start_time = start_time;
            dir.save(&record)?;
            publish(
                &mut launched,
                options.console_socket.as_deref(),
                options.pid_file.as_deref(),
            )?;
            if waits_for_start {
                launched.channel.send(&Message::Go)
            } else {
                Ok(())
            }
        });
    if let Err(error) = done {
        crate::launch::end(launched.pid, launched.pidfd.as_fd());
        return Err(error);
    }
    Ok(launched)
}

/// Tells the outside about a new process: its terminal, its pid.
fn publish(launched: &mut Launched, console_socket: Option<&Path>, pid_file: Option<&Path>) -> Result<()> {
    if let (Some(path), Some(master)) = (console_socket, &launched.terminal) {
        terminal::send_to_console_socket(path, master.as_fd())?;
        launched.terminal = None;
    }
    if let Some(path) = pid_file {
        // Engines poll for the file: it appears whole.
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        std::fs::write(&new, launched.pid.to_string()).os("write", path.display())?;
        std::fs::rename(&new, path).os("write", path.display())?;
    }
    Ok(())
}

/// A pidfd of the container's init, if that still is the process we made.
pub(crate) fn watch(record: &Record) -> Result<Option<OwnedFd>> {
    if record.pid == 0 {
        return Ok(None);
    }
    let pidfd = match punnet_sys::pidfd_open(Pid::from_raw(record.pid)) {
        Err(Errno::ESRCH | Errno::EINVAL) => return Ok(None),
        result => result.os("watch process", record.pid)?,
    };
    // After opening: the pid cannot be given to another process while this holds.
    let same = state::process(record.pid).is_some_and(|seen| seen.start_time == record.pid_start_time);
    Ok(same.then_some(pidfd))
}

/// What is known of a container that may be deleted as it is, or by force.
fn deletable(dir: &StateDir, id: &ContainerId, force: bool) -> Result<Record> {
    let record = match dir.load(id) {
        // A damaged state.json must not keep `--force` from cleaning up.
        Err(_) if force => None,
        record => record?,
    };
    let status = dir.status(record.as_ref());
    if !force && status != Status::Stopped {
        return Err(Error::WrongStatus {
            operation: "delete",
            id: id.to_string(),
            status,
        }
        .into());
    }
    Ok(record.unwrap_or_default())
}

fn kill_and_wait(id: &ContainerId, record: &Record) -> Result<()> {
    let Some(pidfd) = watch(record)? else {
        return Ok(());
    };
    match punnet_sys::pidfd_send_signal(pidfd.as_fd(), Signal::SIGKILL as i32) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(errno) => return Err(errno).os("kill container", id),
    }
    // Without a pid namespace its other processes live on, and are found by their cgroup.
    if record.namespaces & PID == 0
        && let Some(path) = &record.cgroup
    {
        cgroup::kill_all(path)?;
    }
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    let ended = loop {
        match poll(&mut fds, PollTimeout::from(KILL_TIMEOUT_MS)) {
            Err(Errno::EINTR) => {}
            result => break result.os("wait for container", id)?,
        }
    };
    if ended == 0 {
        return Err(Error::Setup(format!(
            "container {id} has not ended 10 s after SIGKILL: it is stuck in the kernel"
        ))
        .into());
    }
    // Ours to reap when we made it; otherwise its parent's.
    nix::sys::wait::waitpid(
        Pid::from_raw(record.pid),
        Some(nix::sys::wait::WaitPidFlag::WNOHANG),
    )
    .ok();
    Ok(())
}
