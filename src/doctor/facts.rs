//! Reads what the checks look at. What cannot be read is left at what it would be on a machine that lacks it.

use std::fs;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, access, geteuid};
use punnet_runtime::{ControllerFacts, probe};

use crate::error::Result;
use crate::id_ranges;
use crate::roots::Roots;

/// Longest configuration of a kernel, unpacked: ten times a usual one.
const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// Everything the checks look at.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Effective user id.
    pub euid: u32,
    /// `uname -r`
    pub release: String,
    /// `uname -m`
    pub machine: String,
    /// What this binary was built for.
    pub binary: &'static str,
    /// Images that are chosen for this board.
    pub platform: String,
    /// Lines of the kernel's configuration, when it tells.
    pub kernel_config: Option<String>,
    /// Kinds in /proc/self/ns.
    pub namespaces: Vec<String>,
    /// Whether a user namespace could be made, and why not.
    pub user_namespace: Result<(), String>,
    /// /proc/sys/user/max_user_namespaces
    pub user_namespaces_max: Option<u64>,
    /// /proc/sys/kernel/unprivileged_userns_clone, where there is one (Debian).
    pub unprivileged_clone: Option<String>,
    /// The user has ranges of ids and the programs to map them.
    pub has_id_ranges: bool,
    /// Where the cgroup v2 tree is mounted.
    pub cgroup_root: Option<String>,
    /// What the kernel tells about controllers.
    pub controllers: ControllerFacts,
    /// The cgroup an ordinary user's containers would live in.
    pub own_cgroup: Option<OwnCgroup>,
    /// There is overlayfs.
    pub overlay: bool,
    /// Actions that filters may take.
    pub seccomp_actions: String,
    /// Version of Landlock, or why it is not there.
    pub landlock: Result<u32, String>,
    /// Where images and containers are.
    pub data: Volume,
    /// Where logs and state are.
    pub run: Volume,
    /// All the memory there is.
    pub memory_bytes: u64,
    /// Unix time.
    pub clock_s: u64,
    /// There is a real-time clock.
    pub has_rtc: bool,
    /// The kernel's random numbers can be used.
    pub random_is_ready: bool,
}

/// A cgroup in which a user makes others.
#[derive(Clone, Debug, Default)]
pub struct OwnCgroup {
    /// Its folder.
    pub path: String,
    /// What it has.
    pub controllers: String,
    /// Children can be made in it.
    pub is_writable: bool,
}

/// A folder and the file system it is on.
#[derive(Clone, Debug, Default)]
pub struct Volume {
    /// The folder; it need not exist yet.
    pub path: String,
    /// Type of the file system.
    pub kind: String,
    /// For those without privileges.
    pub free_bytes: u64,
    /// Files that can still be made.
    pub free_inodes: u64,
    /// Files there can be; 0 where nobody counts them.
    pub inodes: u64,
    /// Nothing can be written.
    pub is_read_only: bool,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            euid: 0,
            release: String::new(),
            machine: String::new(),
            binary: "",
            platform: String::new(),
            kernel_config: None,
            namespaces: Vec::new(),
            user_namespace: Err(String::new()),
            user_namespaces_max: None,
            unprivileged_clone: None,
            has_id_ranges: false,
            cgroup_root: None,
            controllers: ControllerFacts::default(),
            own_cgroup: None,
            overlay: false,
            seccomp_actions: String::new(),
            landlock: Err(String::new()),
            data: Volume::default(),
            run: Volume::default(),
            memory_bytes: 0,
            clock_s: 0,
            has_rtc: false,
            random_is_ready: false,
        }
    }
}

impl Facts {
    /// Reads them on this machine.
    pub fn read(roots: &Roots) -> Result<Self> {
        let name = nix::sys::utsname::uname().ok();
        let text = |name: Option<&std::ffi::OsStr>| name.unwrap_or_default().to_string_lossy().into_owned();
        let release = text(name.as_ref().map(|name| name.release()));
        let cgroup_root = probe::cgroup_root();
        Ok(Self {
            euid: geteuid().as_raw(),
            machine: text(name.as_ref().map(|name| name.machine())),
            binary: std::env::consts::ARCH,
            platform: punnet_images::platform::host().to_string(),
            kernel_config: kernel_config(&release),
            namespaces: names_in("/proc/self/ns"),
            user_namespace: probe::user_namespace().map_err(|errno| errno.to_string()),
            user_namespaces_max: line("/proc/sys/user/max_user_namespaces")
                .and_then(|text| text.parse().ok()),
            unprivileged_clone: line("/proc/sys/kernel/unprivileged_userns_clone"),
            has_id_ranges: id_ranges::of_caller().is_some(),
            cgroup_root: cgroup_root.map(|path| path.display().to_string()),
            controllers: ControllerFacts::read(cgroup_root),
            own_cgroup: probe::cgroup_of_users_containers()
                .filter(|_| !geteuid().is_root())
                .map(|folder| own_cgroup(&folder)),
            overlay: has_overlay(&release),
            seccomp_actions: line("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default(),
            landlock: probe::landlock_version().map_err(|errno| errno.to_string()),
            data: volume(&roots.data()?),
            run: volume(&roots.run()?),
            memory_bytes: memory_bytes(),
            clock_s: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            has_rtc: Path::new("/sys/class/rtc/rtc0").exists(),
            random_is_ready: random_is_ready(),
            release,
        })
    }
}

fn line(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn names_in(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.ends_with("_for_children"))
        .collect();
    names.sort_unstable();
    names
}

/// In the kernel itself, or where distributions put it.
fn kernel_config(release: &str) -> Option<String> {
    if let Ok(packed) = fs::File::open("/proc/config.gz") {
        let mut text = String::new();
        flate2::read::GzDecoder::new(Box::new(packed) as Box<dyn Read>)
            .take(CONFIG_BYTES_MAX)
            .read_to_string(&mut text)
            .ok()?;
        return Some(text);
    }
    [
        format!("/boot/config-{release}"),
        format!("/lib/modules/{release}/config"),
    ]
    .iter()
    .find_map(|path| fs::read_to_string(path).ok())
}

fn own_cgroup(folder: &Path) -> OwnCgroup {
    OwnCgroup {
        controllers: fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default(),
        is_writable: access(folder, AccessFlags::W_OK).is_ok(),
        path: folder.display().to_string(),
    }
}

/// An ordinary user may not ask the kernel to load the module: whether there is one has to do.
fn has_overlay(release: &str) -> bool {
    let listed = |path: &str| fs::read_to_string(path).is_ok_and(|text| text.contains("overlay"));
    probe::file_system("overlay").is_ok()
        || listed("/proc/filesystems")
        || listed(&format!("/lib/modules/{release}/modules.dep"))
}

#[allow(clippy::unnecessary_cast, reason = "these are narrower on 32-bit boards")]
fn volume(path: &Path) -> Volume {
    let there = path
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let there = there.canonicalize().unwrap_or_else(|_| PathBuf::from("/"));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let stat = statvfs(&there).ok();
    let number = |read: fn(&nix::sys::statvfs::Statvfs) -> u64| stat.as_ref().map_or(0, read);
    Volume {
        path: path.display().to_string(),
        kind: kind_of(&mounts, &there),
        free_bytes: number(|stat| stat.blocks_available() as u64 * stat.fragment_size() as u64),
        free_inodes: number(|stat| stat.files_available() as u64),
        inodes: number(|stat| stat.files() as u64),
        is_read_only: stat.is_some_and(|stat| stat.flags().contains(FsFlags::ST_RDONLY)),
    }
}

/// Type of the file system that `path` is on: the last mount of the longest mount point above it. proc_pid_mountinfo(5)
fn kind_of(mounts: &str, path: &Path) -> String {
    let mut best = (0, "unknown");
    for mount in mounts.lines() {
        let Some((place, kind)) = mount.split_once(" - ") else {
            continue;
        };
        let (Some(point), Some(kind)) = (place.split(' ').nth(4), kind.split(' ').next()) else {
            continue;
        };
        if path.starts_with(point) && point.len() >= best.0 {
            best = (point.len(), kind);
        }
    }
    best.1.to_owned()
}

fn memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() << 10
}

/// Reading without waiting answers only when the generator has been seeded. random(4)
fn random_is_ready() -> bool {
    let source = fs::File::options()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open("/dev/random");
    source.is_ok_and(|mut source| source.read_exact(&mut [0]).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_s_file_system_is_the_one_mounted_last_and_nearest() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/root rw\n2 1 0:5 / /var rw shared:1 - btrfs x rw\n3 1 0:6 / /var rw - xfs y rw\n4 1 0:7 / /var/lib/other rw - nfs z rw\n";
        for (path, kind) in [
            ("/var/lib/punnet", "xfs"),
            ("/etc", "ext4"),
            ("/variable", "ext4"),
            ("/var/lib/other/x", "nfs"),
        ] {
            assert_eq!(kind_of(mounts, Path::new(path)), kind, "{path}");
        }
        assert_eq!(kind_of("", Path::new("/")), "unknown");
    }
}
