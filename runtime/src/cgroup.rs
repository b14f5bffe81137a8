//! Makes the container's cgroup, writes its limits, removes it. cgroup v2 only.

use crate::controllers::{ControllerFacts, Missing};
use crate::error::{Error, OsContext, Result};
use crate::paths::open_in_root;
use crate::plan::{CgroupPlan, DeviceFilter, Limit, Without};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{AccessFlags, Pid, Uid, access, geteuid};
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the v2 tree is mounted: alone, or beside v1 controllers.
const PLACES: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// How often removing is tried, a millisecond apart: the kernel lets a cgroup go some time after its last process has ended.
const REMOVE_TRIES: u32 = 2000;

/// A cgroup of ours.
#[derive(Debug)]
pub(crate) struct Cgroup {
    pub path: PathBuf,
    pub fd: OwnedFd,
}

/// Where the v2 tree is mounted.
pub(crate) fn hierarchy() -> Option<&'static Path> {
    let is_v2 =
        |place: &&&str| statfs(**place).is_ok_and(|stat| stat.filesystem_type() == CGROUP2_SUPER_MAGIC);
    PLACES.iter().find(is_v2).map(|place| Path::new(*place))
}

/// The path of the cgroup this plan makes, if there is a v2 tree.
pub(crate) fn path(plan: &CgroupPlan) -> Result<Option<PathBuf>> {
    let Some(mut path) = hierarchy().map(Path::to_owned) else {
        return Ok(None);
    };
    if !plan.absolute {
        path = beside_own(&path)?;
    }
    path.extend(&plan.path);
    // Ours alone: everything in it is killed when the container is deleted.
    if std::fs::read(path.join("cgroup.procs")).is_ok_and(|list| !list.is_empty()) {
        let reason = format!("{} has processes already", path.display());
        return Err(Error::config("linux.cgroupsPath", reason));
    }
    Ok(Some(path))
}

/// Where relative paths begin: the parent of the caller's own cgroup, as with runc. In its own it is itself, and cgroup v2 gives controllers only to
/// the children of cgroups without processes. Its own all the same, where nothing can be made beside it.
pub(crate) fn beside_own(top: &Path) -> Result<PathBuf> {
    let own = top.join(place_of("self")?);
    let parent = own.parent().filter(|parent| parent.starts_with(top));
    let ours = parent.filter(|parent| access(*parent, AccessFlags::W_OK).is_ok());
    Ok(ours.unwrap_or(&own).to_owned())
}

/// Where a process is in the v2 tree. cgroups(7), /proc/PID/cgroup
fn place_of(pid: &str) -> Result<String> {
    let file = format!("/proc/{pid}/cgroup");
    let text = std::fs::read_to_string(&file).os("read", &file)?;
    let place = text.lines().find_map(|line| line.strip_prefix("0::/"));
    Ok(place.unwrap_or_default().to_owned())
}

/// Opens the cgroup that a process is in.
pub(crate) fn of_process(pid: i32) -> Result<Cgroup> {
    let top = hierarchy()
        .ok_or(Errno::ENOENT)
        .os("find", "the cgroup v2 tree")?;
    open(&top.join(place_of(&pid.to_string())?), None)
}

/// Makes the cgroup with its limits. `None` when it cannot be made and nothing depends on it.
pub(crate) fn create(plan: &CgroupPlan, path: Option<&Path>) -> Result<Option<Cgroup>> {
    let Some(path) = path else {
        return match plan.limits.first() {
            Some(limit) => {
                let Missing { problem, remedy } =
                    ControllerFacts::read(None).why_missing(&limit.controller, "/sys/fs/cgroup");
                Err(Error::Limit {
                    what: format!("linux.resources.{}", limit.field),
                    controller: limit.controller.clone(),
                    problem,
                    remedy,
                }
                .into())
            }
            None => Ok(None),
        };
    };
    let base = path.ancestors().nth(plan.path.len()).unwrap_or(path);
    let made = make_directories(plan, base);
    let is_refused = |error: &Error| {
        use Errno::{EACCES, ENOENT, EPERM, EROFS};
        matches!(error.errno(), Some(EACCES | EPERM | EROFS | ENOENT))
    };
    match made {
        Err(error) if plan.limits.is_empty() && !plan.explicit && is_refused(&error) => {
            return Ok(None);
        }
        result => result?,
    }
    for limit in plan.limits.iter().filter(|limit| !limit.late) {
        put_limit(limit, path)?;
    }
    if let Some(owner) = plan.owner.filter(|owner| *owner != geteuid().as_raw()) {
        give_to(path, owner)?;
    }
    open(path, None).map(Some)
}

/// Changes limits of a cgroup that is there, enabling what they need on the way to it.
pub(crate) fn write_limits(path: &Path, limits: &[Limit]) -> Result<()> {
    let top = hierarchy().unwrap_or(path);
    let way: Vec<&Path> = path
        .ancestors()
        .skip(1)
        .take_while(|parent| parent.starts_with(top))
        .collect();
    for parent in way.into_iter().rev() {
        enable_controllers(limits, parent)?;
    }
    limits.iter().try_for_each(|limit| put_limit(limit, path))
}

/// Opens a container's cgroup, or one below it: the kernel keeps `sub` from leading out.
pub(crate) fn open(path: &Path, sub: Option<&Path>) -> Result<Cgroup> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_PATH | OFlag::O_CLOEXEC;
    let fd = nix::fcntl::open(path, flags, Mode::empty()).os("open the cgroup", path.display())?;
    let fd = match sub {
        None => fd,
        Some(sub) => open_in_root(fd.as_fd(), sub, flags)
            .os(&format!("open in the cgroup {}", path.display()), sub.display())?,
    };
    Ok(Cgroup {
        path: path.to_owned(),
        fd,
    })
}

fn put_limit(limit: &Limit, path: &Path) -> Result<()> {
    let is_missing = |result: &std::io::Result<()>| matches!(result, Err(error) if error.kind() == std::io::ErrorKind::NotFound);
    let mut written = put(&path.join(&limit.file), &limit.value);
    if is_missing(&written) && limit.optional {
        return Ok(());
    }
    if let (true, Some((file, value))) = (is_missing(&written), &limit.instead) {
        written = put(&path.join(file), value);
    }
    written.map_err(|error| {
        Error::Limit {
            what: format!("linux.resources.{}", limit.field),
            controller: limit.controller.clone(),
            problem: format!("refusing {:?} in {}: {error}", limit.value, limit.file),
            remedy: "check the value".to_owned(),
        }
        .into()
    })
}

/// Writes the limits that would have kept the container's process from being made.
pub(crate) fn finish(plan: &CgroupPlan, cgroup: Option<&Cgroup>) -> Result<()> {
    let Some(cgroup) = cgroup else { return Ok(()) };
    plan.limits
        .iter()
        .filter(|limit| limit.late)
        .try_for_each(|limit| put_limit(limit, &cgroup.path))
}

/// Gives the cgroup to a user of the host: its directory, and the files that the kernel names for this. cgroups(7), delegation
fn give_to(path: &Path, owner: u32) -> Result<()> {
    const NAMED: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";
    let list = std::fs::read_to_string("/sys/kernel/cgroup/delegate").unwrap_or_else(|_| NAMED.to_owned());
    let give = |path: &Path| nix::unistd::chown(path, Some(Uid::from_raw(owner)), None);
    give(path).os("give away the cgroup", path.display())?;
    for file in list.lines().map(|name| path.join(name)) {
        match give(&file) {
            // A list of what there can be.
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno).os("give away", file.display()),
        }
    }
    Ok(())
}

/// Has the kernel ask the program about every device. False when it cannot and the image's nodes are to be closed instead.
pub(crate) fn guard_devices(filter: &DeviceFilter, cgroup: Option<&Cgroup>) -> Result<bool> {
    let attached = cgroup.ok_or(Errno::ENOENT).and_then(|cgroup| {
        let program = punnet_sys::bpf_prog_load_cgroup_device(&filter.program)?;
        punnet_sys::bpf_prog_attach_cgroup_device(cgroup.fd.as_fd(), program.as_fd())
    });
    match (attached, filter.without) {
        (Ok(()), _) => Ok(true),
        // The kernel may not take such programs from us, or have none; anything else is our mistake.
        (Err(Errno::EPERM | Errno::EACCES | Errno::ENOENT | Errno::ENOSYS), Without::CloseRoot) => Ok(false),
        (Err(errno), _) => Err(Error::config(
            "linux.resources.devices",
            format!(
                "denies devices, and this machine attaches no BPF program to the container's cgroup ({}): mount cgroup v2 at \
                 /sys/fs/cgroup and start as root, or drop CAP_MKNOD from process.capabilities",
                errno.desc()
            ),
        )),
    }
}

/// Writes into a file that must be there: the kernel's files cannot be made.
pub(crate) fn put(path: &Path, value: &str) -> std::io::Result<()> {
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(value.as_bytes())
}

fn make_directories(plan: &CgroupPlan, base: &Path) -> Result<()> {
    let mut path = base.to_owned();
    for part in &plan.path {
        enable_controllers(&plan.limits, &path)?;
        enable_measuring(&path);
        path.push(part);
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            result => result.os("make the cgroup", path.display())?,
        }
    }
    Ok(())
}

/// Turns on, for the children of `parent`, what the limits need.
fn enable_controllers(limits: &[Limit], parent: &Path) -> Result<()> {
    if limits.is_empty() {
        return Ok(());
    }
    let read =
        |name: &str| std::fs::read_to_string(parent.join(name)).os("read", parent.join(name).display());
    let (available, enabled) = (read("cgroup.controllers")?, read("cgroup.subtree_control")?);
    for limit in limits {
        let controller = limit.controller.as_str();
        if controller.is_empty() {
            continue;
        }
        let has = |list: &str| list.split_whitespace().any(|name| name == controller);
        let refuse = |Missing { problem, remedy }| {
            Box::new(Error::Limit {
                what: format!("linux.resources.{}", limit.field),
                controller: controller.to_owned(),
                problem,
                remedy,
            })
        };
        if has(&enabled) {
            continue;
        }
        if !has(&available) {
            let facts = ControllerFacts::read(hierarchy());
            return Err(refuse(
                facts.why_missing(controller, &parent.display().to_string()),
            ));
        }
        put(&parent.join("cgroup.subtree_control"), &format!("+{controller}"))
            .map_err(|error| refuse(not_enabled(parent, &error)))?;
    }
    Ok(())
}

/// Controllers that are turned on where they can be, so that containers without limits are measured too, as with other runtimes.
const MEASURING: [&str; 4] = ["cpu", "io", "memory", "pids"];

/// Turns on, for the children of `parent`, what measures; where that cannot be done nothing depends on it.
fn enable_measuring(parent: &Path) {
    let read = |name: &str| std::fs::read_to_string(parent.join(name)).unwrap_or_default();
    let (available, enabled) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    let has = |list: &str, name: &str| list.split_whitespace().any(|word| word == name);
    for controller in MEASURING {
        if has(&available, controller) && !has(&enabled, controller) {
            put(&parent.join("cgroup.subtree_control"), &format!("+{controller}")).ok();
        }
    }
}

/// Why a controller that `parent` has cannot be given to its children.
fn not_enabled(parent: &Path, error: &std::io::Error) -> Missing {
    let remedy = if error.raw_os_error() == Some(Errno::EBUSY as i32) {
        "processes live in that cgroup itself, and cgroup v2 gives controllers only to the children of cgroups without processes: name a \
         cgroup of its own (linux.cgroupsPath), or move them into a child"
    } else {
        "ask the administrator to delegate it (systemd: Delegate=yes)"
    };
    Missing {
        problem: format!("not delegated in {}: {error}", parent.display()),
        remedy: remedy.to_owned(),
    }
}

/// Kills every process of the cgroup. cgroup.kill, Linux 5.14
pub(crate) fn kill_all(path: &Path) -> Result<()> {
    match put(&path.join("cgroup.kill"), "1") {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if !path.exists() {
                return Ok(());
            }
            signal_all(path, nix::sys::signal::Signal::SIGKILL as i32)
        }
        // Removed between opening and writing.
        Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => Ok(()),
        Err(error) => Err(error).os("kill all in", path.display()),
    }
}

/// Sends a signal to every process of the cgroup and of those made below it from inside the container.
pub(crate) fn signal_all(path: &Path, signal: i32) -> Result<()> {
    for pid in processes(path)? {
        match punnet_sys::pidfd_open(pid) {
            Ok(pidfd) => match punnet_sys::pidfd_send_signal(pidfd.as_fd(), signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(errno).os("signal process", pid),
            },
            Err(Errno::ESRCH) => {}
            Err(errno) => return Err(errno).os("signal process", pid),
        }
    }
    Ok(())
}

/// The processes of the cgroup and of those made below it from inside the container; none when it is gone.
pub(crate) fn processes(path: &Path) -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    let mut left = vec![path.to_owned()];
    while let Some(directory) = left.pop() {
        let file = directory.join("cgroup.procs");
        let list = match std::fs::read_to_string(&file) {
            Err(error) if is_gone(&error) => continue,
            list => list.os("read", file.display())?,
        };
        found.extend(
            list.lines()
                .filter_map(|line| line.parse().ok())
                .map(Pid::from_raw),
        );
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if is_gone(&error) => continue,
            entries => entries.os("read", directory.display())?,
        };
        left.extend(
            entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    found.sort_unstable();
    Ok(found)
}

/// A cgroup that is removed meanwhile: its files answer ENODEV where they are open. A threaded one has no list of processes of its own
/// (EOPNOTSUPP): its processes are in the one above.
fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
        || [Errno::ENODEV, Errno::EOPNOTSUPP]
            .iter()
            .any(|errno| error.raw_os_error() == Some(*errno as i32))
}

/// Removes the cgroup and those made below it from inside the container.
pub(crate) fn remove(path: &Path) -> Result<()> {
    for attempt in 0..REMOVE_TRIES {
        match std::fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) && attempt + 1 < REMOVE_TRIES => {
                remove_children(path);
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error).os("remove the cgroup", path.display()),
        }
    }
    Ok(())
}

fn remove_children(path: &Path) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_children(&entry.path());
            // What is still busy is tried again by the caller.
            drop(std::fs::remove_dir(entry.path()));
        }
    }
}
