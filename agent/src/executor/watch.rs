//! Learning that containers end, without a process behind each: the agent is a child subreaper, so a container's init becomes its
//! child when the command that made it has ended.
//!
//! Nobody waits for "any child": each process is waited for by its id, so that tokio's own children are left to tokio.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use punnet_protocol::Name;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;

use super::Message;
use super::child::WaitedFor;

/// Exit codes of orphans remembered: a container may end before anybody could look at it.
const ORPHANS_KEPT: usize = 32;

struct Watch {
    pid: u32,
    task: JoinHandle<()>,
    /// Its end was told.
    ended: bool,
}

/// All processes watched.
pub struct Watches {
    by_app: BTreeMap<Name, Watch>,
    orphans: VecDeque<(u32, i32)>,
    tell: UnboundedSender<Message>,
}

impl Watches {
    pub fn new(tell: UnboundedSender<Message>) -> Self {
        Self {
            by_app: BTreeMap::new(),
            orphans: VecDeque::new(),
            tell,
        }
    }

    /// Tells when this process ends; nothing when it is watched already. False when it is not there any more.
    pub fn watch(&mut self, app: &Name, pid: u32) -> bool {
        if self
            .by_app
            .get(app)
            .is_some_and(|watch| watch.pid == pid && !watch.ended)
        {
            return true;
        }
        let Ok(id) = i32::try_from(pid) else { return false };
        let Ok(pidfd) = punnet_sys::pidfd_open(Pid::from_raw(id)) else {
            return false;
        };
        let (tell, name) = (self.tell.clone(), app.clone());
        let task = tokio::spawn(async move {
            let code = ended(pidfd).await;
            // Nobody listens once the agent ends.
            drop(tell.send(Message::Exited { app: name, pid, code }));
        });
        if let Some(before) = self.by_app.insert(
            app.clone(),
            Watch {
                pid,
                task,
                ended: false,
            },
        ) {
            before.task.abort();
        }
        true
    }

    /// The end of a process was reported by its watch; false when it is known already.
    pub fn note_end(&mut self, app: &Name, pid: u32) -> bool {
        match self.by_app.get_mut(app) {
            Some(watch) if watch.pid == pid => !std::mem::replace(&mut watch.ended, true),
            _ => false,
        }
    }

    /// The exit code of an app's process that is seen to have ended, if it can be known now.
    pub fn take_code(&mut self, app: &Name, pid: u32) -> Option<i32> {
        let pid = match self.by_app.get_mut(app) {
            Some(watch) if pid == 0 || watch.pid == pid => {
                if watch.ended {
                    return None;
                }
                watch.ended = true;
                watch.pid
            }
            _ => pid,
        };
        let known = self.orphans.iter().position(|(orphan, _)| *orphan == pid);
        if let Some(at) = known {
            return self.orphans.remove(at).map(|(_, code)| code);
        }
        let id = Pid::from_raw(i32::try_from(pid).ok().filter(|pid| *pid > 0)?);
        code(waitid(Id::Pid(id), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG).ok()?)
    }

    /// Reaps what was left to us and belongs to nobody, such as a daemon that an `exec` left behind.
    pub fn reap_orphans(&mut self, waited_for: &WaitedFor) {
        let ours: BTreeSet<u32> = self
            .by_app
            .values()
            .filter(|watch| !watch.ended)
            .map(|watch| watch.pid)
            .collect();
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        while let Ok(status) = waitid(Id::All, peek) {
            let Some(pid) = status.pid() else { return };
            let number = pid.as_raw().unsigned_abs();
            let waited = waited_for
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .contains(&number);
            if waited || ours.contains(&number) {
                // Whoever waits for it takes it; the next SIGCHLD brings us back.
                return;
            }
            match waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG).map(code) {
                Ok(Some(code)) => {
                    self.orphans.push_back((number, code));
                    if self.orphans.len() > ORPHANS_KEPT {
                        self.orphans.pop_front();
                    }
                }
                _ => return,
            }
        }
    }
}

/// Waits for the end of a process; its exit code when it was our child.
async fn ended(pidfd: OwnedFd) -> Option<i32> {
    let pidfd = super::readable(pidfd).ok()?;
    loop {
        // A pidfd is readable when its process has ended (pidfd_open(2)).
        let mut ready = pidfd.readable().await.ok()?;
        match waitid(
            Id::PIDFd(pidfd.get_ref().as_fd()),
            WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG,
        ) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => ready.clear_ready(),
            Ok(status) => return code(status),
            Err(_) => return None,
        }
    }
}

/// As shells count: 128 + the signal that ended it.
fn code(status: WaitStatus) -> Option<i32> {
    match status {
        WaitStatus::Exited(_, code) => Some(code),
        WaitStatus::Signaled(_, signal, _) => Some(128 + signal as i32),
        _ => None,
    }
}
