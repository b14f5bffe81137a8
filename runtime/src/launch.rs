//! Makes the container's process and helps it until it is ready: the outside half of set-up. `init` is the inside half.

use crate::cgroup::Cgroup;
use crate::channel::{Channel, Message};
use crate::error::{Error, OsContext, Result};
use crate::hooks::{self, HookKind};
use crate::net_devices::{self, Moved};
use crate::plan::namespaces_bits::{CGROUP, PID, TIME, USER};
use crate::plan::{Join, NamespacePlan, ProcessPlan};
use crate::{foreground, idmap};
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use punnet_spec::{Hooks, State};
use punnet_sys::{CloneArgs, Forked};
use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A process of the container that is set up and waits.
#[derive(Debug)]
pub(crate) struct Launched {
    pub pid: Pid,
    pub pidfd: OwnedFd,
    pub channel: Channel,
    /// Master of its pseudo terminal.
    pub terminal: Option<OwnedFd>,
}

/// What the new process is to run inside; comes back only with an error.
pub(crate) type Inside<'a> = dyn Fn(&Channel) -> Result<Infallible> + 'a;

/// Namespaces to enter or make around a new process.
pub(crate) enum Around<'a> {
    /// Those of a plan.
    Plan(&'a NamespacePlan),
    /// All of a running container's: its init, and the CLONE_NEW* bits that differ from ours.
    Container(BorrowedFd<'a>, u64),
}

/// What happens on the outside while the process sets itself up.
pub(crate) struct Outside<'a> {
    pub process: &'a ProcessPlan,
    pub hooks: Option<&'a Hooks>,
    pub state: &'a State,
}

/// Makes the process, in one clone3(2) where namespaces are made; in a second one, as our child still, where they are joined.
pub(crate) fn launch(
    around: &Around<'_>,
    cgroup: Option<&Cgroup>,
    outside: &Outside<'_>,
    inside: &Inside<'_>,
) -> Result<Launched> {
    let (ours, theirs) = Channel::pair()?;
    let cgroup = cgroup.map(|cgroup| cgroup.fd.as_fd());
    // A new cgroup namespace is made by the process itself, once it is in its cgroup.
    let (new, join_first) = match around {
        // A process cannot set the clocks of a time namespace that it is in: one must be there before.
        Around::Plan(plan) => (
            plan.new & !CGROUP,
            !plan.join.is_empty() || !plan.time_offsets.is_empty(),
        ),
        Around::Container(..) => (0, true),
    };
    let first = CloneArgs {
        namespaces: if join_first { 0 } else { new },
        sibling: false,
        cgroup,
    };
    let (pid, pidfd) = match punnet_sys::clone3(first).map_err(explain_clone)? {
        Forked::Child => {
            drop(ours);
            if join_first {
                child(&theirs, || {
                    // Inherited by the process that is made in there.
                    if let Some(adjustment) = outside.process.oom_score_adj {
                        adjust_oom_score("self", adjustment)?;
                    }
                    join_and_clone(around, new, &theirs, inside)
                });
            }
            child(&theirs, || inside(&theirs));
        }
        Forked::Parent(pid, pidfd) => (pid, pidfd),
    };
    drop(theirs);
    let (pid, pidfd) = if join_first {
        sibling(pid, &ours)?
    } else {
        (pid, pidfd)
    };
    let pidfd = pidfd.map_or_else(|| punnet_sys::pidfd_open(pid).os("watch process", pid), Ok)?;
    let plan = match around {
        Around::Plan(plan) => Some(*plan),
        Around::Container(..) => None,
    };
    let mut moved = None;
    match accompany(pid, &ours, plan, outside, join_first, &mut moved) {
        Ok(terminal) => Ok(Launched {
            pid,
            pidfd,
            channel: ours,
            terminal,
        }),
        Err(error) => {
            // Before the namespace ends, and virtual devices with it.
            if let Some(moved) = moved {
                moved.back();
            }
            end(pid, pidfd.as_fd());
            Err(error)
        }
    }
}

fn explain_clone(errno: nix::errno::Errno) -> Box<Error> {
    use nix::errno::Errno::{EDEADLK, ENOSPC, EPERM, EUSERS};
    match errno {
        EPERM | ENOSPC | EUSERS => Error::os(
            "make the container's process in its namespaces",
            &"(are user namespaces allowed? see /proc/sys/user/max_user_namespaces)",
            errno,
        ),
        EDEADLK => Error::Setup("the runtime must run in a process without threads".into()).into(),
        errno => Error::os("make", &"the container's process", errno),
    }
}

/// Runs `work` in a new process and ends it; an error is told first.
fn child(channel: &Channel, work: impl FnOnce() -> Result<Infallible>) -> ! {
    let Err(error) = work();
    // If the runtime is gone too there is nobody to tell.
    drop(channel.send(&Message::Failed(error)));
    punnet_sys::exit_now(1)
}

/// In the first child: enters namespaces, then makes the real process as a sibling, which therefore is the runtime's child.
fn join_and_clone(
    around: &Around<'_>,
    new: u64,
    channel: &Channel,
    inside: &Inside<'_>,
) -> Result<Infallible> {
    if new & USER == 0 {
        // Whoever is in there already could trace us from the moment we enter. With a user namespace of our own nobody is, and its maps
        // must be written by the caller, which may write the files of dumpable processes only.
        prctl::set_dumpable(false).os("set", "PR_SET_DUMPABLE")?;
    }
    let into_new_pids = match around {
        Around::Plan(plan) => {
            set_clocks(plan)?;
            join(&plan.join)?;
            true
        }
        Around::Container(init, kinds) => {
            // A container may have none of its own.
            if *kinds != 0 {
                punnet_sys::setns(*init, *kinds).os("join", "the namespaces of the container")?;
            }
            kinds & PID != 0
        }
    };
    if !into_new_pids {
        channel.send(&Message::Pid(0))?;
        return inside(channel);
    }
    let has_clocks = matches!(around, Around::Plan(plan) if !plan.time_offsets.is_empty());
    let args = CloneArgs {
        namespaces: if has_clocks { new & !TIME } else { new },
        sibling: true,
        cgroup: None,
    };
    match punnet_sys::clone3(args).map_err(explain_clone)? {
        Forked::Child => child(channel, || inside(channel)),
        Forked::Parent(pid, _) => {
            channel.send(&Message::Pid(pid.as_raw()))?;
            punnet_sys::exit_now(0)
        }
    }
}

/// Makes a time namespace for the processes to come, and sets its clocks while none is in it. time_namespaces(7)
fn set_clocks(plan: &NamespacePlan) -> Result<()> {
    if plan.time_offsets.is_empty() {
        return Ok(());
    }
    unshare(CloneFlags::from_bits_retain(TIME as i32)).os("make", "a time namespace")?;
    let file = "/proc/self/timens_offsets";
    std::fs::write(file, &plan.time_offsets).os("set linux.timeOffsets in", file)
}

fn join(namespaces: &[Join]) -> Result<()> {
    let opened = namespaces
        .iter()
        .map(|join| {
            let fd = open(&join.path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
            fd.os(&format!("open the {} namespace", join.name), join.path.display())
        })
        .collect::<Result<Vec<_>>>()?;
    for (join, fd) in namespaces.iter().zip(&opened) {
        punnet_sys::setns(fd.as_fd(), join.kind)
            .os(&format!("join the {} namespace", join.name), join.path.display())?;
    }
    Ok(())
}

/// Learns which process the first child made, and lets the first child go.
fn sibling(first: Pid, channel: &Channel) -> Result<(Pid, Option<OwnedFd>)> {
    match channel.receive()? {
        Message::Pid(0) => Ok((first, None)),
        Message::Pid(pid) => {
            foreground::exit_status(first)?;
            Ok((Pid::from_raw(pid), None))
        }
        other => {
            foreground::exit_status(first)?;
            Err(failure(other))
        }
    }
}

fn failure(message: Message) -> Box<Error> {
    match message {
        Message::Failed(error) => error,
        _ => Error::InitDied.into(),
    }
}

fn adjust_oom_score(process: &str, adjustment: i32) -> Result<()> {
    let file = format!("/proc/{process}/oom_score_adj");
    std::fs::write(&file, adjustment.to_string()).os("set oomScoreAdj in", file)
}

/// Gives the process what only the outside may give, and waits until it is ready.
fn accompany(
    pid: Pid,
    channel: &Channel,
    plan: Option<&NamespacePlan>,
    outside: &Outside<'_>,
    oom_score_is_set: bool,
    moved: &mut Option<Moved>,
) -> Result<Option<OwnedFd>> {
    if let Some(plan) = plan {
        idmap::write(plan, pid)?;
        *moved = net_devices::move_in(&plan.net_devices, pid)?;
    }
    let process = outside.process;
    for limit in &process.rlimits {
        punnet_sys::prlimit(pid, limit.resource, limit.soft, limit.hard).os(
            "set",
            format_args!("{} to {}:{}", limit.name, limit.soft, limit.hard),
        )?;
    }
    if let Some(adjustment) = process.oom_score_adj.filter(|_| !oom_score_is_set) {
        adjust_oom_score(&pid.to_string(), adjustment)?;
    }
    channel.send(&Message::Go)?;
    let mut terminal = None;
    loop {
        match channel.receive()? {
            Message::Ready => return Ok(terminal),
            Message::Terminal(master) => terminal = Some(master),
            Message::Hooks => {
                let state = State {
                    pid: Some(pid.as_raw()),
                    ..outside.state.clone()
                };
                if let Some(hooks) = outside.hooks {
                    hooks::run(HookKind::Prestart, &hooks.prestart, &state)?;
                    hooks::run(HookKind::CreateRuntime, &hooks.create_runtime, &state)?;
                }
                channel.send(&Message::Go)?;
            }
            other => return Err(failure(other)),
        }
    }
}

impl Launched {
    /// Lets a process that waits on the channel execute its program, and waits until it has.
    pub fn start(&self) -> Result<()> {
        let started = self
            .channel
            .send(&Message::Go)
            .and_then(|()| match self.channel.receive()? {
                Message::Closed => Ok(()),
                other => Err(failure(other)),
            });
        started.inspect_err(|_| end(self.pid, self.pidfd.as_fd()))
    }
}

/// Kills and reaps a child that is of no use any more.
pub(crate) fn end(pid: Pid, pidfd: BorrowedFd<'_>) {
    // It may have ended by itself, and may have been reaped: both are what we want.
    punnet_sys::pidfd_send_signal(pidfd, nix::sys::signal::Signal::SIGKILL as i32).ok();
    foreground::exit_status(pid).ok();
}
