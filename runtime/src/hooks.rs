//! Runs hooks: the container's state on standard input, a timeout, and failure of any as failure of the operation.
//! <https://github.com/opencontainers/runtime-spec/blob/main/config.md#posix-platform-hooks>

use crate::error::{Error, OsContext, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use punnet_spec::{Hook, State, Status};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};

/// The six points, by their names in config.json.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HookKind {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl HookKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }
}

/// Runs the hooks of one point in order; the first that fails ends it.
pub(crate) fn run(kind: HookKind, hooks: &[Hook], state: &State) -> Result<()> {
    if hooks.is_empty() {
        return Ok(());
    }
    let mut state = state.clone();
    if matches!(kind, HookKind::CreateContainer | HookKind::StartContainer) {
        // In the container's namespaces the process' id is what it sees itself.
        state.pid = Some(Pid::this().as_raw());
    }
    if matches!(kind, HookKind::Prestart | HookKind::StartContainer) {
        // Those of `prestart` were called between create and start when they were the only ones, and programs rely on it.
        state.status = Status::Created;
    }
    let document = punnet_json::to_vec(&state);
    hooks.iter().try_for_each(|hook| run_one(kind, hook, &document))
}

/// Runs the hooks after a container's end: all of them, whatever becomes of one. What failed is told as warnings.
pub(crate) fn run_poststop(hooks: &[Hook], state: &State, warn: impl Fn(&str)) {
    for hook in hooks {
        if let Err(error) = run(HookKind::Poststop, std::slice::from_ref(hook), state) {
            warn(&error.chain());
        }
    }
}

fn run_one(kind: HookKind, hook: &Hook, document: &[u8]) -> Result<()> {
    let failed = |why: String| {
        Box::new(Error::Hook {
            kind: kind.as_str(),
            path: hook.path.clone(),
            why,
        })
    };
    let mut command = Command::new(&hook.path);
    if let Some((name, args)) = hook.args.split_first() {
        command.arg0(name).args(args);
    }
    command
        .env_clear()
        .envs(hook.env.iter().filter_map(|entry| entry.split_once('=')));
    // A hook's output must not end up in what an engine parses of ours.
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    let mut child = command
        .spawn()
        .map_err(|error| failed(format!("cannot be run: {error}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook that does not read its input is no failure.
        drop(stdin.write_all(document));
    }
    if let Some(seconds) = hook.timeout {
        let pid = Pid::from_raw(child.id().cast_signed());
        let pidfd = punnet_sys::pidfd_open(pid).os("watch hook", &hook.path)?;
        let timeout = PollTimeout::try_from(seconds.saturating_mul(1000)).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, timeout).os("watch hook", &hook.path)? == 0 {
            child.kill().os("kill hook", &hook.path)?;
            child.wait().os("wait for hook", &hook.path)?;
            return Err(failed(format!("did not end within {seconds} s")));
        }
    }
    let status = child.wait().os("wait for hook", &hook.path)?;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(failed(format!("ended with status {code}"))),
        (_, signal) => Err(failed(format!(
            "was ended by signal {}",
            signal.unwrap_or_default()
        ))),
    }
}
