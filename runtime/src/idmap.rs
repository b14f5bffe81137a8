//! Writes a new user namespace's id maps, from outside; makes one for the maps alone. user_namespaces(7)

use crate::channel::{Channel, Message};
use crate::error::{Error, OsContext, Result};
use crate::foreground;
use crate::plan::namespaces_bits::USER;
use crate::plan::{Maps, NamespacePlan};
use nix::unistd::{Gid, Pid, Uid, getegid, geteuid, setresgid, setresuid};
use punnet_spec::IdMapping;
use punnet_sys::{CloneArgs, Forked};
use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::Command;

/// What kind of maps the caller may write.
fn is_own_single(map: &[IdMapping], own: u32) -> bool {
    matches!(map, [one] if one.size == 1 && one.host_id == own)
}

/// Whether the processes of the namespace will not be allowed to change their groups.
pub(crate) fn setgroups_denied(plan: &NamespacePlan) -> bool {
    !plan.uid_map.is_empty()
        && plan.unprivileged
        && is_own_single(&plan.uid_map, geteuid().as_raw())
        && is_own_single(&plan.gid_map, getegid().as_raw())
}

/// Writes uid_map and gid_map of our child `pid`.
pub(crate) fn write(plan: &NamespacePlan, pid: Pid) -> Result<()> {
    if plan.uid_map.is_empty() {
        return Ok(());
    }
    let file = |name: &str| format!("/proc/{pid}/{name}");
    let put = |name: &str, text: &str| std::fs::write(file(name), text).os("write", file(name));
    if !plan.unprivileged {
        put("uid_map", &lines(&plan.uid_map))?;
        return put("gid_map", &lines(&plan.gid_map));
    }
    if setgroups_denied(plan) {
        // The kernel takes an ordinary user's gid_map only when groups cannot be dropped: a group may also deny.
        put("setgroups", "deny")?;
        put("uid_map", &lines(&plan.uid_map))?;
        return put("gid_map", &lines(&plan.gid_map));
    }
    helper("newuidmap", pid, &plan.uid_map, "/etc/subuid")?;
    helper("newgidmap", pid, &plan.gid_map, "/etc/subgid")
}

/// A user namespace with these maps that nobody is in.
pub(crate) fn user_namespace(maps: &Maps) -> Result<OwnedFd> {
    let (uid_map, gid_map) = match maps {
        Maps::Given(uids, gids) => (uids, gids),
        Maps::Namespace(path) => return File::open(path).map(OwnedFd::from).os("open", path.display()),
    };
    let (ours, theirs) = Channel::pair()?;
    let args = CloneArgs {
        namespaces: USER,
        ..CloneArgs::default()
    };
    let (pid, pidfd) = match punnet_sys::clone3(args).os("make", "a user namespace for a mount")? {
        Forked::Child => {
            drop(ours);
            // Holds the namespace until the runtime lets go of its end.
            drop(theirs.receive());
            punnet_sys::exit_now(0)
        }
        Forked::Parent(pid, pidfd) => (pid, pidfd),
    };
    drop(theirs);
    let plan = NamespacePlan {
        uid_map: uid_map.clone(),
        gid_map: gid_map.clone(),
        ..NamespacePlan::default()
    };
    let file = format!("/proc/{pid}/ns/user");
    let namespace = write(&plan, pid).and_then(|()| File::open(&file).os("open", &file));
    drop((ours, pidfd));
    foreground::exit_status(pid)?;
    namespace.map(OwnedFd::from)
}

/// Does `work` in a process of its own that is root of a user namespace with these maps: what an ordinary user's containers left of other users'
/// files can be changed by nobody else. To be called from a process without threads.
pub fn as_root_of(
    uid_map: &[IdMapping],
    gid_map: &[IdMapping],
    work: impl FnOnce() -> std::result::Result<(), String>,
) -> Result<()> {
    let (ours, theirs) = Channel::pair()?;
    let args = CloneArgs {
        namespaces: USER,
        ..CloneArgs::default()
    };
    let (pid, _pidfd) = match punnet_sys::clone3(args).os("make", "a user namespace")? {
        Forked::Child => {
            drop(ours);
            let become_root = || {
                theirs.wait_for_go()?;
                let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
                setresgid(gid, gid, gid).os("become", "group 0 of a user namespace")?;
                setresuid(uid, uid, uid).os("become", "user 0 of a user namespace")?;
                work().map_err(|why| Error::Setup(why).into())
            };
            if let Err(error) = become_root() {
                // If nobody listens any more nobody wants to know.
                drop(theirs.send(&Message::Failed(error)));
            }
            punnet_sys::exit_now(0)
        }
        Forked::Parent(pid, pidfd) => (pid, pidfd),
    };
    drop(theirs);
    let plan = NamespacePlan {
        uid_map: uid_map.to_vec(),
        gid_map: gid_map.to_vec(),
        unprivileged: !geteuid().is_root(),
        ..NamespacePlan::default()
    };
    let mapped = write(&plan, pid).and_then(|()| ours.send(&Message::Go));
    let ended = match mapped {
        Ok(()) => ours.receive(),
        Err(error) => Err(error),
    };
    drop(ours);
    foreground::exit_status(pid)?;
    match ended? {
        Message::Failed(error) => Err(error),
        _ => Ok(()),
    }
}

fn lines(map: &[IdMapping]) -> String {
    map.iter().fold(String::new(), |mut text, one| {
        // Writing to a String cannot fail.
        writeln!(text, "{} {} {}", one.container_id, one.host_id, one.size).unwrap_or_default();
        text
    })
}

/// Maps with ranges need the set-user-id helpers of shadow, which know what the administrator granted.
fn helper(program: &str, pid: Pid, map: &[IdMapping], granted: &str) -> Result<()> {
    let numbers = map
        .iter()
        .flat_map(|one| [one.container_id, one.host_id, one.size])
        .map(|number| number.to_string());
    let output = Command::new(program)
        .arg(pid.to_string())
        .args(numbers)
        .output()
        .map_err(|error| {
            Error::config(
                "linux.uidMappings",
                format!("a range of ids needs {program}, which cannot be run: {error} (package uidmap)"),
            )
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::config(
        "linux.uidMappings",
        format!("{program} refuses: {said} (is the range in {granted}?)"),
    ))
}
