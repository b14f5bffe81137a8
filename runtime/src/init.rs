//! What the new process does to itself between clone3(2) and execve(2). [`set_up`] and [`become_process`] hold the order of all security
//! steps; each step is a function elsewhere.

use crate::channel::{Channel, Message};
use crate::error::{Error, OsContext, Result};
use crate::hooks::{self, HookKind};
use crate::host::{HostProc, Labels};
use crate::listener::Listener;
use crate::paths::{create_dir_all, open_plain};
use crate::plan::namespaces_bits::{CGROUP, MOUNT, NETWORK, USER};
use crate::plan::{CapabilityPlan, Confinement, NumberSet, Plan, ProcessPlan};
use crate::terminal::{self, Stdio};
use crate::{OutOfReach, passwd, program, rootfs};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::sys::personality::Persona;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{
    Gid, Pid, Uid, chdir, chroot, fchdir, pivot_root, setgroups, setresgid, setresuid, setsid,
};
use punnet_spec::State;
use punnet_sys::CapSets;
use std::convert::Infallible;
use std::ffi::CString;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Number of CAP_SYS_ADMIN: needed to install a filter without no_new_privs.
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// How the process is told to start.
pub(crate) enum Gate {
    /// By the caller of `create` itself, over the set-up socket.
    Channel,
    /// By another process, over a socket in the state directory.
    Socket(UnixListener),
}

/// Everything [`run`] and [`run_exec`] need besides the plan.
pub(crate) struct Context<'a> {
    pub id: &'a str,
    pub channel: &'a Channel,
    pub gate: Gate,
    pub stdio: &'a Stdio,
    /// Where the root is attached until pivot_root(2): any directory.
    pub attach_at: &'a Path,
    /// For `exec` in a container that shares the host's mount namespace: its root.
    pub root: Option<&'a OwnedFd>,
    /// The container's cgroup, if it has one.
    pub cgroup: Option<&'a Path>,
    /// Binds that the runtime has made for us.
    pub idmapped: &'a rootfs::Idmapped,
    /// Close the device nodes of the image: no program decides about devices.
    pub root_nodev: bool,
    /// Descriptors beyond the standard three that the program keeps.
    pub preserve_fds: u32,
    /// The kernel may choose an emulator for the program.
    pub own_file: Option<OutOfReach>,
    pub new_keyring: bool,
    /// setgroups(2) is not allowed in this user namespace: the groups stay the caller's.
    pub setgroups_denied: bool,
    /// The container's state, for hooks; the pid is filled in by the process itself.
    pub state: &'a State,
    /// The host's procfs, where labels or a seccomp listener ask for it.
    pub proc: Option<&'a HostProc>,
    /// Who decides about system calls, where the filter leaves that to somebody.
    pub listener: Option<&'a Listener<'a>>,
}

/// The container's init. Comes back only with an error.
pub(crate) fn run(context: &Context<'_>, plan: &Plan) -> Result<Infallible> {
    let Some(process) = &plan.process else {
        return Err(Error::config("process", "is missing: there is nothing to run"));
    };
    let labels = Labels::open(context.proc, process)?;
    set_up(context, plan, process)?;
    become_process(
        context,
        process,
        &plan.confinement,
        &labels,
        &plan.hooks.start_container,
    )
}

/// One more process in a container that is there: `exec`. Comes back only with an error.
pub(crate) fn run_exec(
    context: &Context<'_>,
    process: &ProcessPlan,
    confinement: &Confinement,
    namespaces: u64,
) -> Result<Infallible> {
    context.channel.wait_for_go()?;
    let labels = Labels::open(context.proc, process)?;
    prctl::set_dumpable(false).os("set", "PR_SET_DUMPABLE")?;
    leave_session(context)?;
    if let Some(last) = &process.affinity.last {
        set_affinity(last).os("set", "process.execCPUAffinity.final")?;
    }
    if let Some(root) = context.root {
        change_root(root.as_fd())?;
    }
    if namespaces & USER != 0 {
        become_root(context)?;
    }
    if process.terminal {
        let root = open_plain(Path::new("/"), OFlag::O_PATH | OFlag::O_DIRECTORY).os("open", "/")?;
        terminal::open_pair(root.as_fd(), process, context.channel)?;
    }
    become_process(context, process, confinement, &labels, &[])
}

/// Namespaces, root file system, everything that belongs to the container rather than to one process of it.
fn set_up(context: &Context<'_>, plan: &Plan, process: &ProcessPlan) -> Result<()> {
    let root = Path::new("/");
    let in_userns = plan.namespaces.has(USER);
    // The parent has written the id maps, limits and oom_score_adj, which it may and we may not.
    context.channel.wait_for_go()?;
    // Nobody inside may trace us or open our /proc files while we still hold rights and descriptors of the host.
    prctl::set_dumpable(false).os("set", "PR_SET_DUMPABLE")?;
    leave_session(context)?;
    // Modes of devices and directories are exactly the planned ones; the program's own umask comes later.
    umask(Mode::empty());
    // Host paths are opened with the caller's rights, before we become the container's root.
    let sources = rootfs::open_sources(plan, context.idmapped, context.attach_at)?;
    if plan.namespaces.has(MOUNT) {
        // From here on no mount of ours reaches the host, whatever the host's propagation is.
        let host_root = open_plain(root, OFlag::O_PATH | OFlag::O_DIRECTORY).os("open", "/")?;
        punnet_sys::mount_setattr(host_root.as_fd(), true, 0, 0, punnet_sys::propagation::SLAVE)
            .os("separate", "the mount namespace")?;
    }
    if in_userns {
        become_root(context)?;
    }
    let sources = sources.attach_root(plan, context.root_nodev)?;
    // Only now: the new cgroup namespace has its root at the cgroup we are in, which is the container's.
    if plan.namespaces.new & CGROUP != 0 {
        unshare(CloneFlags::CLONE_NEWCGROUP).os("make", "a cgroup namespace")?;
    }
    set_names(plan)?;
    if plan.namespaces.new & NETWORK != 0 {
        let any = socket(
            AddressFamily::Inet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .os("make", "a socket in the network namespace")?;
        punnet_sys::loopback_up(any.as_fd()).os("bring up", "the loopback interface")?;
    }
    rootfs::write_sysctls(plan)?;
    sources.attach_mounts(plan, context.cgroup)?;
    rootfs::make_devices(sources.root(), plan, in_userns)?;
    if process.terminal {
        terminal::set_up(sources.root(), process, context.channel)?;
    }
    run_create_hooks(context, plan)?;
    // After the hooks, which may still need to see and write.
    rootfs::mask_paths(sources.root(), plan)?;
    rootfs::make_paths_readonly(sources.root(), plan)?;
    create_dir_all(sources.root(), &process.cwd).os("make the working directory", process.cwd.display())?;
    if plan.root.readonly {
        punnet_sys::mount_setattr(sources.root(), false, punnet_sys::attr::RDONLY, 0, 0)
            .os("make read-only", "the root")?;
    }
    if plan.namespaces.has(MOUNT) {
        // The old root lands on top of the new one and is detached: nothing of the host stays reachable. pivot_root(2)
        fchdir(sources.root()).os("enter", "the new root")?;
        pivot_root(".", ".").os("pivot to", "the new root")?;
        umount2(".", MntFlags::MNT_DETACH).os("detach", "the old root")?;
        chdir("/").os("enter", "the new root")?;
    } else {
        // The host's mounts are the container's too, as its configuration asks: only the root can be another. chroot(2)
        change_root(sources.root())?;
    }
    if let Some(propagation) = plan.root.propagation {
        punnet_sys::mount_setattr(sources.root(), propagation.recursive, 0, 0, propagation.kind)
            .os("set the propagation of", "the root")?;
    }
    Ok(())
}

fn change_root(root: BorrowedFd<'_>) -> Result<()> {
    fchdir(root).os("enter", "the container's root")?;
    chroot(".").os("change to", "the container's root")?;
    chdir("/").os("enter", "the container's root")
}

/// Pins the calling process to some processors.
pub(crate) fn set_affinity(processors: &NumberSet) -> nix::Result<()> {
    let mut set = CpuSet::new();
    for processor in processors.iter() {
        set.set(processor)?;
    }
    sched_setaffinity(Pid::from_raw(0), &set)
}

/// What needs rights that the program may not have.
fn set_schedule(process: &ProcessPlan, confinement: &Confinement) -> Result<()> {
    if let Some((class, level)) = process.io_priority {
        punnet_sys::ioprio_set(class, level).os("set", "process.ioPriority")?;
    }
    if let Some(attributes) = process.scheduler {
        punnet_sys::sched_setattr(attributes).os("set", "process.scheduler")?;
    }
    if let Some(personality) = confinement.personality {
        let personality = Persona::from_bits_retain(personality as i32);
        nix::sys::personality::set(personality).os("set", "linux.personality")?;
    }
    if let Some(policy) = &confinement.memory_policy {
        let nodes = policy.nodes.as_ref().map_or(&[][..], |nodes| nodes.words());
        punnet_sys::set_mempolicy(policy.mode, nodes).os(
            "set",
            "linux.memoryPolicy (does the kernel know the mode, and are the nodes there?)",
        )?;
    }
    Ok(())
}

/// Leaves the caller's session, signals and keys behind.
fn leave_session(context: &Context<'_>) -> Result<()> {
    setsid().os("start", "a session")?;
    // Rust ignores SIGPIPE, and a foreground runtime blocks signals: both would be inherited.
    punnet_sys::signal_default(Signal::SIGPIPE as i32).os("reset", "SIGPIPE")?;
    SigSet::empty().thread_set_mask().os("reset", "the signal mask")?;
    if context.new_keyring {
        let name = CString::new(format!("_ses.{}", context.id)).unwrap_or_default();
        match punnet_sys::keyctl_join_session_keyring(&name) {
            // A kernel without keyrings has none to share.
            Ok(()) | Err(Errno::ENOSYS) => {}
            Err(errno) => {
                return Err(errno).os(
                    "start",
                    "a session keyring (--no-new-keyring shares the caller's)",
                );
            }
        }
    }
    Ok(())
}

/// Becomes user and group 0 of the user namespace.
fn become_root(context: &Context<'_>) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(gid, gid, gid).os("become", "group 0 of the user namespace (is it mapped?)")?;
    if !context.setgroups_denied {
        setgroups(&[]).os("drop", "the supplementary groups")?;
    }
    setresuid(uid, uid, uid).os("become", "user 0 of the user namespace (is it mapped?)")
}

fn set_names(plan: &Plan) -> Result<()> {
    if !plan.hostname.is_empty() {
        nix::unistd::sethostname(&plan.hostname).os("set the host name", &plan.hostname)?;
    }
    if !plan.domainname.is_empty() {
        punnet_sys::setdomainname(plan.domainname.as_ref()).os("set the domain name", &plan.domainname)?;
    }
    Ok(())
}

fn run_create_hooks(context: &Context<'_>, plan: &Plan) -> Result<()> {
    let hooks = &plan.hooks;
    if !hooks.prestart.is_empty() || !hooks.create_runtime.is_empty() {
        context.channel.send(&Message::Hooks)?;
        context.channel.wait_for_go()?;
    }
    hooks::run(HookKind::CreateContainer, &hooks.create_container, context.state)
}

/// From a prepared root to the program: ids, capabilities, filter, in the one order that works. Shared by `create` and `exec`.
fn become_process(
    context: &Context<'_>,
    process: &ProcessPlan,
    confinement: &Confinement,
    labels: &Labels,
    start_hooks: &[punnet_spec::Hook],
) -> Result<Infallible> {
    if !process.terminal {
        context.stdio.take()?;
        context.stdio.give_to(process)?;
    }
    // By descriptor and without /proc's links: it lies inside the root (CVE-2024-21626).
    let cwd = open_plain(&process.cwd, OFlag::O_PATH | OFlag::O_DIRECTORY)
        .os("open the working directory", process.cwd.display())?;
    fchdir(&cwd).os("enter the working directory", process.cwd.display())?;
    drop(cwd);
    umask(Mode::from_bits_truncate(process.umask.unwrap_or(0o022)));
    set_schedule(process, confinement)?;
    // The bounding set first: dropping from it needs CAP_SETPCAP, which the ids below may cost us.
    drop_bounding(process.capabilities)?;
    prctl::set_keepcaps(true).os("set", "PR_SET_KEEPCAPS")?;
    set_ids(context, process)?;
    // Where fs.suid_dumpable says so, changing ids has undone it. prctl(2)
    prctl::set_dumpable(false).os("set", "PR_SET_DUMPABLE")?;
    // Without no_new_privs the kernel wants CAP_SYS_ADMIN for a filter: kept until the filter is in.
    let seccomp = confinement.seccomp.as_ref();
    let late = seccomp.is_some() && !process.no_new_privileges;
    set_capabilities(process.capabilities, if late { CAP_SYS_ADMIN } else { 0 })?;
    if process.no_new_privileges {
        prctl::set_no_new_privs().os("set", "PR_SET_NO_NEW_PRIVS")?;
    }
    let mut env = process.env.clone();
    add_home(&mut env, process.uid);
    // As the user, so that what the user may not execute is refused now.
    let program = program::find(&process.args, &env)?;
    let starter = wait_at_gate(context)?;
    let end = || -> Result<Infallible> {
        // Whatever we or our callers left open ends at execve(2), of a hook too.
        punnet_sys::close_range_cloexec(3 + context.preserve_fds).os("close", "inherited descriptors")?;
        hooks::run(HookKind::StartContainer, start_hooks, context.state)?;
        labels.set()?;
        // Last, so that the filter need not allow what set-up does.
        if let (Some(listener), Some(proc)) = (context.listener, context.proc) {
            listener.install(proc, context.state)?;
        }
        if let Some(filter) = seccomp {
            punnet_sys::seccomp_set_mode_filter(&filter.program, filter.flags)
                .os("install", "the seccomp filter")?;
        }
        if late {
            set_capabilities(process.capabilities, 0)?;
        }
        program.execute(&env, context.own_file)
    };
    end().inspect_err(|error| {
        if let Some(mut starter) = starter {
            // The starter may be gone: then nobody wants to know.
            drop(starter.write_all(&error.encode()));
        }
    })
}

fn drop_bounding(plan: CapabilityPlan) -> Result<()> {
    for cap in (0..64).filter(|cap| plan.bounding & 1 << cap == 0) {
        match punnet_sys::cap_bset_drop(cap) {
            Ok(()) => {}
            // The first number that the kernel does not know ends the list.
            Err(Errno::EINVAL) => break,
            // Who may drop nothing may still have nothing to drop.
            Err(Errno::EPERM) if matches!(punnet_sys::cap_bset_read(cap), Ok(false)) => {}
            Err(errno) => {
                return Err(errno).os("drop from the bounding set", format_args!("capability {cap}"));
            }
        }
    }
    Ok(())
}

fn set_ids(context: &Context<'_>, process: &ProcessPlan) -> Result<()> {
    let groups: Vec<Gid> = process.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
    if !context.setgroups_denied {
        setgroups(&groups).os("set", "the supplementary groups")?;
    } else if !groups.is_empty() {
        return Err(Error::config(
            "process.user.additionalGids",
            "needs a range of mapped groups (newgidmap, /etc/subgid)",
        ));
    }
    let (uid, gid) = (Uid::from_raw(process.uid), Gid::from_raw(process.gid));
    setresgid(gid, gid, gid).os("become group", process.gid)?;
    setresuid(uid, uid, uid).os("become user", process.uid)
}

fn set_capabilities(plan: CapabilityPlan, extra: u64) -> Result<()> {
    let sets = CapSets {
        effective: plan.effective | extra,
        permitted: plan.permitted | extra,
        inheritable: plan.inheritable,
    };
    punnet_sys::capset(sets).map_err(|errno| match errno {
        Errno::EPERM => {
            let missing = punnet_sys::capget().map_or(0, |held| sets.permitted & !held.permitted);
            let name = crate::plan::CAPABILITY_NAMES
                .get(missing.trailing_zeros() as usize)
                .unwrap_or(&"?");
            Error::config(
                "process.capabilities",
                format!("CAP_{name} cannot be granted: the runtime does not have it itself"),
            )
        }
        errno => Error::os("set", &"the capabilities", errno),
    })?;
    if extra == 0 || plan.ambient != 0 {
        punnet_sys::cap_ambient_clear_all().os("clear", "the ambient capabilities")?;
        for cap in (0..64).filter(|cap| plan.ambient & 1 << cap != 0) {
            punnet_sys::cap_ambient_raise(cap).os("raise", format_args!("ambient capability {cap}"))?;
        }
    }
    Ok(())
}

/// Programs expect HOME; engines leave it to the runtime to look it up in the container's own /etc/passwd.
fn add_home(env: &mut Vec<CString>, uid: u32) {
    if env.iter().any(|entry| entry.as_bytes().starts_with(b"HOME=")) {
        return;
    }
    let home = passwd::home(uid).unwrap_or_else(|| "/".to_owned());
    env.extend(CString::new(format!("HOME={home}")));
}

/// Waits for `start`; its connection hears of an error from then on, and of success by being closed at execve(2).
fn wait_at_gate(context: &Context<'_>) -> Result<Option<UnixStream>> {
    context.channel.send(&Message::Ready)?;
    // A runtime that ends before it has written down that we exist leaves nobody who could find us: then this is our end, too.
    context.channel.wait_for_go()?;
    let listener = match &context.gate {
        Gate::Channel => return Ok(None),
        Gate::Socket(listener) => listener,
    };
    loop {
        let mut stream = match listener.accept() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            result => result.os("wait for", "start")?.0,
        };
        // A connection that says nothing is a starter that was killed: wait for the next.
        if matches!(stream.read(&mut [0]), Ok(1)) {
            return Ok(Some(stream));
        }
    }
}
