//! The state directory of one container. It lies in RAM, so nothing is synced.
//!
//! ```text
//! <state root>/<id>/          made by mkdir(2): takes the id; locked by flock(2) while the container is made or removed
//!   config.json               the configuration as it was at `create`
//!   state.json                written whole, renamed into place
//!   gate                      socket of a container that waits for `start`
//!   root                      mount point, for a container in the host's mount namespace
//! ```

use crate::error::{Error, OsContext, Result};
use crate::freezer;
use crate::id::ContainerId;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkdir};
use punnet_json::{FromJson, Map, ToJson};
use punnet_spec::{OCI_VERSION, Spec, State, Status};
use std::fs::{File, Metadata};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// What is remembered about a container.
#[derive(Clone, Debug, Default, ToJson, FromJson)]
#[json(rename_all = "camelCase")]
pub(crate) struct Record {
    pub id: String,
    pub bundle: PathBuf,
    #[json(default)]
    pub rootfs: PathBuf,
    /// 0 until the container is set up.
    pub pid: i32,
    /// Field 22 of /proc/PID/stat: tells our process from a later one with the same pid.
    pub pid_start_time: u64,
    /// Seconds since 1970.
    pub created: u64,
    /// Name or number of who created it.
    pub uid: u32,
    pub cgroup: Option<PathBuf>,
    /// CLONE_NEW* bits of the namespaces the container has apart from the host's.
    pub namespaces: u64,
    pub setgroups_denied: bool,
    /// There are poststart or poststop hooks in config.json.
    pub hooks: bool,
    pub annotations: Map<String>,
}

/// The directory of one container.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
}

/// Keeps others from removing what is being made, and from making what is being removed. It ends with the process that holds it, however that ends;
/// processes forked meanwhile hold it, too, until they end or execute a program.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // For those forked meanwhile as well. It was locked, so it can be unlocked.
        self.0.unlock().ok();
    }
}

/// Every cgroup of a container is below this folder.
const CGROUP_TREE: &str = "/sys/fs/cgroup";

/// How often the lock is tried, and how long between: ten seconds, more than any container takes to be made that does not wait for a hook.
const LOCK_TRIES: u32 = 2000;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Only the runtime's own user looks in: config.json may hold secrets in its environment.
const DIRECTORY_MODE: u32 = 0o700;

impl StateDir {
    pub fn new(root: &Path, id: &ContainerId) -> Self {
        Self {
            path: root.join(id.as_str()),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the id: exactly one caller succeeds.
    pub fn create(&self, id: &ContainerId) -> Result<Lock> {
        self.make(id)?;
        // Somebody may have thought the new directory to be what a killed runtime left.
        self.lock(id, || Ok(()))?
            .ok_or_else(|| Error::Setup(format!("container {id} was deleted while it was created")).into())
    }

    fn make(&self, id: &ContainerId) -> Result<()> {
        let mode = Mode::from_bits_truncate(DIRECTORY_MODE);
        match mkdir(&self.path, mode) {
            Err(Errno::ENOENT) => {
                let root = self.path.parent().unwrap_or(Path::new("/"));
                std::fs::create_dir_all(root).os("make the state directory", root.display())?;
                mkdir(&self.path, mode)
            }
            result => result,
        }
        .map_err(|errno| match errno {
            Errno::EEXIST => Error::Exists(id.to_string()).into(),
            errno => Error::os("make the state directory", &self.path.display(), errno),
        })
    }

    /// Waits until nobody makes or removes the container any more; `None` when there is none (any more). When it does not come at once,
    /// `hurry` is called.
    pub fn lock(&self, id: &ContainerId, hurry: impl FnOnce() -> Result<()>) -> Result<Option<Lock>> {
        let mut hurry = Some(hurry);
        for _ in 0..LOCK_TRIES {
            let directory = match File::open(&self.path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                result => result.os("open", self.path.display())?,
            };
            match directory.try_lock() {
                Ok(()) if is_at(&directory, &self.path) => return Ok(Some(Lock(directory))),
                // Removed while we waited, and perhaps made again.
                Ok(()) => continue,
                Err(std::fs::TryLockError::WouldBlock) => {}
                Err(std::fs::TryLockError::Error(error)) => {
                    return Err(error).os("lock", self.path.display());
                }
            }
            if let Some(hurry) = hurry.take() {
                hurry()?;
            }
            std::thread::sleep(LOCK_PAUSE);
        }
        Err(Error::Setup(format!(
            "container {id} is being created or deleted by another process for more than 10 s: is a hook stuck?"
        )).into())
    }

    pub fn exists(&self) -> bool {
        self.path.is_dir()
    }

    /// Where the root of a container without a mount namespace of its own is attached, in the host's.
    pub fn root(&self) -> PathBuf {
        self.path.join("root")
    }

    pub fn remove(&self) -> Result<()> {
        self.detach_root()?;
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result.os("remove", self.path.display()),
        }
    }

    /// Unmounts what is attached at [`StateDir::root`]: what is still there below would be removed with the directory.
    fn detach_root(&self) -> Result<()> {
        let root = self.root();
        if root.symlink_metadata().is_err() {
            return Ok(());
        }
        loop {
            match umount2(&root, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                Ok(()) => {}
                // Nothing is mounted there any more.
                Err(Errno::EINVAL | Errno::ENOENT) => break,
                Err(errno) => return Err(errno).os("unmount", root.display()),
            }
        }
        // Refuses to remove more than an empty directory.
        std::fs::remove_dir(&root).os("remove", root.display())
    }

    pub fn save(&self, record: &Record) -> Result<()> {
        let (file, new) = (self.path.join("state.json"), self.path.join("state.json.new"));
        let bytes = punnet_json::to_vec(record);
        std::fs::write(&new, bytes).os("write", new.display())?;
        std::fs::rename(&new, &file).os("write", file.display())
    }

    /// `None` when `create` has not come far enough to write one.
    pub fn load(&self, id: &ContainerId) -> Result<Option<Record>> {
        let file = self.path.join("state.json");
        match std::fs::read(&file) {
            Ok(bytes) => Record::parse(&bytes).map(Some).map_err(|source| {
                Error::Json {
                    path: file.display().to_string(),
                    source,
                }
                .into()
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if self.exists() {
                    Ok(None)
                } else {
                    Err(Error::NotFound(id.to_string()).into())
                }
            }
            Err(error) => Err(error).os("read", file.display()),
        }
    }

    pub fn save_config(&self, bytes: &[u8]) -> Result<()> {
        let (file, new) = (self.path.join("config.json"), self.path.join("config.json.new"));
        std::fs::write(&new, bytes).os("write", new.display())?;
        std::fs::rename(&new, &file).os("write", file.display())
    }

    pub fn load_config(&self) -> Result<Spec> {
        let file = self.path.join("config.json");
        let bytes = std::fs::read(&file).os("read", file.display())?;
        Spec::from_json(&bytes).map_err(|source| {
            Error::Json {
                path: file.display().to_string(),
                source,
            }
            .into()
        })
    }

    /// The gate's address. A socket's path ends at 108 bytes, so it goes through the directory's descriptor, which must stay open
    /// meanwhile.
    pub fn gate(&self) -> Result<(OwnedFd, PathBuf)> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open(&self.path, flags, Mode::empty()).os("open", self.path.display())?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/gate", directory.as_raw_fd()));
        Ok((directory, path))
    }

    pub fn gate_is_closed(&self) -> bool {
        self.path.join("gate").exists()
    }

    pub fn open_gate(&self) -> Result<()> {
        let gate = self.path.join("gate");
        std::fs::remove_file(&gate).os("remove", gate.display())
    }

    /// Where the container is in its life.
    pub fn status(&self, record: Option<&Record>) -> Status {
        match record {
            Some(record) if record.pid != 0 => match process(record.pid) {
                Some(seen) if seen.start_time == record.pid_start_time && !seen.ended => {
                    if record.cgroup.as_deref().is_some_and(freezer::is_frozen) {
                        Status::Paused
                    } else if self.gate_is_closed() {
                        Status::Created
                    } else {
                        Status::Running
                    }
                }
                _ => Status::Stopped,
            },
            _ => Status::Creating,
        }
    }
}

/// Reads the text of a state.json, as of a container that has ended: whatever it says, nothing is done with what no runtime wrote.
pub fn state_from_json(bytes: &[u8]) -> std::result::Result<State, punnet_json::Error> {
    Ok(Record::parse(bytes)?.to_state(Status::Stopped))
}

impl Record {
    /// Checks as it reads: signals are sent to what a record names, and folders removed.
    fn parse(bytes: &[u8]) -> std::result::Result<Self, punnet_json::Error> {
        let record: Self = punnet_json::from_slice(bytes)?;
        let is_below_the_tree = |path: &PathBuf| {
            let plain = path.components().all(|part| part != Component::ParentDir);
            plain && path != Path::new(CGROUP_TREE) && path.starts_with(CGROUP_TREE)
        };
        if record.pid < 0 || record.pid == 1 {
            return Err(punnet_json::Error::custom("pid is no container's"));
        }
        if ContainerId::new(&record.id).is_err() {
            return Err(punnet_json::Error::custom("id is no container's"));
        }
        if !record.cgroup.as_ref().is_none_or(is_below_the_tree) {
            return Err(punnet_json::Error::custom("cgroup is no container's"));
        }
        Ok(record)
    }

    /// The document that `state` prints and hooks read.
    pub fn to_state(&self, status: Status) -> State {
        State {
            oci_version: OCI_VERSION.to_owned(),
            id: self.id.clone(),
            status,
            pid: (self.pid != 0 && status != Status::Stopped).then_some(self.pid),
            bundle: self.bundle.display().to_string(),
            annotations: self.annotations.clone(),
        }
    }
}

/// Whether the open directory is still the one of that name.
fn is_at(directory: &File, path: &Path) -> bool {
    let same = |there: &Metadata, open: &Metadata| (there.dev(), there.ino()) == (open.dev(), open.ino());
    matches!((path.metadata(), directory.metadata()), (Ok(there), Ok(open)) if same(&there, &open))
}

/// What /proc/PID/stat tells.
pub(crate) struct Seen {
    pub start_time: u64,
    /// A zombie, or about to be gone.
    pub ended: bool,
}

/// Looks a pid up; `None` when there is no such process.
pub(crate) fn process(pid: i32) -> Option<Seen> {
    parse_stat(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Fields 3 and 22; the name in field 2 may hold anything, spaces and brackets too. proc_pid_stat(5)
fn parse_stat(stat: &[u8]) -> Option<Seen> {
    let end_of_name = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&stat[end_of_name + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X" | "x");
    Some(Seen {
        start_time: fields.nth(18)?.parse().ok()?,
        ended,
    })
}

/// Start time of a child of ours that has not been reaped.
pub(crate) fn start_time(pid: Pid) -> Result<u64> {
    process(pid.as_raw())
        .map(|seen| seen.start_time)
        .ok_or(Errno::ESRCH)
        .os("inspect process", pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_whatever_the_process_calls_itself() {
        let rest = "S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        for name in ["sh", "a b", ") S 9", "((("] {
            let seen = parse_stat(format!("12 ({name}) {rest}").as_bytes()).unwrap();
            assert_eq!((seen.start_time, seen.ended), (4711, false), "{name}");
        }
        assert!(
            parse_stat(b"12 (x) Z 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 1 0")
                .unwrap()
                .ended
        );
        for garbage in [&b""[..], b"12", b"12 (x) S 1", b"12 (x)"] {
            assert!(parse_stat(garbage).is_none());
        }
    }

    #[test]
    fn a_reused_pid_is_not_our_container() {
        let root = tempfile::tempdir().unwrap();
        let id = ContainerId::new("x").unwrap();
        let dir = StateDir::new(root.path(), &id);
        drop(dir.create(&id).unwrap());
        let own = std::process::id().cast_signed();
        let true_time = process(own).unwrap().start_time;
        let record = |pid_start_time| Record {
            pid: own,
            pid_start_time,
            ..Record::default()
        };
        assert_eq!(dir.status(Some(&record(true_time))), Status::Running);
        assert_eq!(dir.status(Some(&record(true_time + 1))), Status::Stopped);
        assert_eq!(dir.status(None), Status::Creating);
    }

    #[test]
    fn a_damaged_record_harms_nobody() {
        let good = Record {
            id: "x".into(),
            pid: 4711,
            cgroup: Some("/sys/fs/cgroup/unified/punnet/x".into()),
            ..Record::default()
        };
        let good = punnet_json::to_string(&good);
        assert_eq!(state_from_json(good.as_bytes()).unwrap().id, "x");
        for (from, to) in [
            ("/sys/fs/cgroup/unified/punnet/x", "/"),
            ("/sys/fs/cgroup/unified/punnet/x", "/sys/fs/cgroup"),
            ("/sys/fs/cgroup/unified/punnet/x", "/sys/fs/cgroup/../../../home"),
            ("/sys/fs/cgroup/unified/punnet/x", "relative"),
            ("4711", "-1"),
            ("4711", "1"),
            ("4711", "99999999999"),
            ("\"x\"", "\"../x\""),
            ("}", ""),
        ] {
            assert!(good.contains(from));
            assert!(
                state_from_json(good.replace(from, to).as_bytes()).is_err(),
                "{to}"
            );
        }
    }

    #[test]
    fn an_id_is_taken_once() {
        let root = tempfile::tempdir().unwrap();
        let id = ContainerId::new("x").unwrap();
        let dir = StateDir::new(&root.path().join("made/as/needed"), &id);
        let lock = dir.create(&id).unwrap();
        assert!(matches!(*dir.create(&id).unwrap_err(), Error::Exists(_)));
        drop(lock);
        assert!(dir.load(&id).unwrap().is_none());
        dir.remove().unwrap();
        assert!(matches!(*dir.load(&id).unwrap_err(), Error::NotFound(_)));
    }
}
