//! Which file systems of the kernel go where. mount(2)

use nix::mount::MsFlags;

/// One mount.
#[derive(Clone, Copy, Debug)]
pub struct MountStep {
    /// File system type; also what stands in the first column of /proc/mounts.
    pub kind: &'static str,
    /// Where; made when it is not there.
    pub target: &'static str,
    /// MS_*.
    pub flags: MsFlags,
    /// Options of the file system.
    pub options: &'static str,
}

const CLOSED: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);

const fn step(kind: &'static str, target: &'static str, flags: MsFlags, options: &'static str) -> MountStep {
    MountStep {
        kind,
        target,
        flags,
        options,
    }
}

/// What PID 1 itself cannot do without.
pub const FIRST: [MountStep; 3] = [
    step("proc", "/proc", CLOSED, ""),
    step("sysfs", "/sys", CLOSED, ""),
    step("devtmpfs", "/dev", MsFlags::MS_NOSUID, "mode=755"),
];

/// The rest, parents before children. A kernel that lacks one of them is named, and the board goes on.
pub const REST: [MountStep; 8] = [
    step("tmpfs", "/run", CLOSED, "mode=755,size=25%"),
    step(
        "tmpfs",
        "/tmp",
        MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV),
        "mode=1777,size=25%",
    ),
    step(
        "devpts",
        "/dev/pts",
        MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
        "gid=5,mode=620,ptmxmode=666",
    ),
    step("tmpfs", "/dev/shm", CLOSED, "mode=1777,size=25%"),
    step("mqueue", "/dev/mqueue", CLOSED, ""),
    step("cgroup2", "/sys/fs/cgroup", CLOSED, ""),
    step("securityfs", "/sys/kernel/security", CLOSED, ""),
    step("bpf", "/sys/fs/bpf", CLOSED, "mode=700"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_mounted_before_what_is_below_them() {
        let order: Vec<_> = FIRST.iter().chain(&REST).map(|step| step.target).collect();
        for (at, target) in order.iter().enumerate() {
            for later in &order[at + 1..] {
                assert!(
                    !target.starts_with(&format!("{later}/")),
                    "{later} would hide {target}"
                );
            }
        }
    }

    #[test]
    fn only_the_device_file_system_lets_devices_be_opened() {
        for step in FIRST.iter().chain(&REST) {
            let devices = matches!(step.kind, "devtmpfs" | "devpts");
            assert_eq!(
                step.flags.contains(MsFlags::MS_NODEV),
                !devices,
                "{}",
                step.target
            );
            assert!(step.flags.contains(MsFlags::MS_NOSUID), "{}", step.target);
        }
    }
}
