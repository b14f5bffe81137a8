//! The verbs on a container that exists: pause, resume, update, the list of its processes, what it uses.

use crate::error::{Error, OsContext, Result};
use crate::id::ContainerId;
use crate::plan;
use crate::runtime::{Runtime, give_back_code};
use crate::state::{Record, StateDir};
use crate::stats::{self, Stats};
use crate::{cgroup, freezer};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use punnet_spec::{Resources, Status};
use std::io::{Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

impl Runtime {
    /// Suspends every process of a container. Returns once all are suspended.
    pub fn pause(&self, id: &ContainerId) -> Result<()> {
        let (_, record, status) = self.load(id)?;
        if !matches!(status, Status::Created | Status::Running) {
            return Err(wrong("pause", id, status));
        }
        freezer::freeze(cgroup_of(&record, id)?)
    }

    /// Lets a paused container go on.
    pub fn resume(&self, id: &ContainerId) -> Result<()> {
        let (_, record, status) = self.load(id)?;
        if status != Status::Paused {
            return Err(wrong("resume", id, status));
        }
        freezer::thaw(cgroup_of(&record, id)?)
    }

    /// Changes the limits of a container; what `change` leaves out stays.
    pub fn update(&self, id: &ContainerId, change: &Resources) -> Result<()> {
        let (dir, record, status) = self.load(id)?;
        if !matches!(status, Status::Created | Status::Running | Status::Paused) {
            return Err(wrong("update", id, status));
        }
        let mut config = dir.load_config()?;
        let linux = config.linux.get_or_insert_default();
        let before = linux.resources.take().unwrap_or_default();
        let plan = plan::plan_update(&before, change)?;
        let path = cgroup_of(&record, id)?;
        if let Some(max) = plan.memory_bytes_used_max {
            let used = stats::read(path)?.memory.usage.usage;
            if used > max {
                return Err(Error::config(
                    "linux.resources.memory.checkBeforeUpdate",
                    format!("container {id} uses {used} bytes, more than the new limit of {max}"),
                ));
            }
        }
        cgroup::write_limits(path, &plan.limits)?;
        linux.resources = Some(plan.resources);
        dir.save_config(&config.to_json())
    }

    /// Process ids of a container, as the host counts; none once it has stopped.
    pub fn processes(&self, id: &ContainerId) -> Result<Vec<Pid>> {
        let (_, record, status) = self.load(id)?;
        if status == Status::Stopped {
            return Ok(Vec::new());
        }
        cgroup::processes(cgroup_of(&record, id)?)
    }

    /// What a container uses.
    pub fn stats(&self, id: &ContainerId) -> Result<Stats> {
        let (_, record, status) = self.load(id)?;
        if !matches!(status, Status::Created | Status::Running | Status::Paused) {
            return Err(wrong("measure", id, status));
        }
        stats::read(cgroup_of(&record, id)?)
    }

    /// Watches a container from now on.
    pub fn watch(&self, id: &ContainerId) -> Result<Watch> {
        let (_, record, status) = self.load(id)?;
        let pidfd = crate::runtime::watch(&record)?;
        let Some(pidfd) = pidfd.filter(|_| status != Status::Stopped) else {
            return Err(wrong("watch", id, Status::Stopped));
        };
        Watch::new(pidfd, cgroup_of(&record, id)?)
    }

    /// Directory, record and status of a container.
    fn load(&self, id: &ContainerId) -> Result<(StateDir, Record, Status)> {
        let dir = self.dir(id);
        let record = dir.load(id)?;
        let status = dir.status(record.as_ref());
        give_back_code();
        Ok((dir, record.unwrap_or_default(), status))
    }
}

fn wrong(operation: &'static str, id: &ContainerId, status: Status) -> Box<Error> {
    Error::WrongStatus {
        operation,
        id: id.to_string(),
        status,
    }
    .into()
}

fn cgroup_of<'a>(record: &'a Record, id: &ContainerId) -> Result<&'a Path> {
    record.cgroup.as_deref().ok_or_else(|| {
        Box::new(Error::Setup(format!(
            "container {id} has no cgroup of its own: cgroup v2 is not mounted at /sys/fs/cgroup, or not delegated to this user"
        )))
    })
}

/// A container that is watched: its end, and the out-of-memory killer in it.
#[derive(Debug)]
pub struct Watch {
    pidfd: OwnedFd,
    /// memory.events, where the memory controller is enabled.
    memory: Option<std::fs::File>,
    kills: u64,
}

/// What [`Watch::wait`] saw first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The time is over.
    Nothing,
    /// The out-of-memory killer has ended a process of the container.
    OutOfMemory,
    /// The container's init has ended.
    End,
}

impl Watch {
    fn new(pidfd: OwnedFd, cgroup: &Path) -> Result<Self> {
        let path = cgroup.join("memory.events");
        let memory = match std::fs::File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            file => Some(file.os("watch", path.display())?),
        };
        let mut watch = Self {
            pidfd,
            memory,
            kills: 0,
        };
        watch.kills = watch.count_kills();
        Ok(watch)
    }

    /// Waits up to this long.
    pub fn wait(&mut self, time: Duration) -> Result<Seen> {
        let mut fds = vec![PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        if let Some(memory) = &self.memory {
            fds.push(PollFd::new(memory.as_fd(), PollFlags::POLLPRI));
        }
        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).os("watch", "the container"),
        }
        let ended = fds[0].any().unwrap_or(true);
        drop(fds);
        // Also at the end: the process that was killed may have been the container's init.
        let kills = self.count_kills();
        if kills > self.kills {
            self.kills = kills;
            return Ok(Seen::OutOfMemory);
        }
        Ok(if ended { Seen::End } else { Seen::Nothing })
    }

    /// `oom_kill` of memory.events; unchanged once the cgroup is gone.
    fn count_kills(&mut self) -> u64 {
        let Some(file) = &mut self.memory else { return 0 };
        let mut text = String::new();
        if file.rewind().is_err() || file.read_to_string(&mut text).is_err() {
            return self.kills;
        }
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.parse().ok()).unwrap_or(self.kills)
    }
}
