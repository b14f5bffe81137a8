//! `linux`: namespaces, devices, resources, seccomp.

use crate::{Names, Value};
use punnet_json::{FromJson, Map, ToJson};

/// Everything particular to Linux.
#[derive(Clone, Debug, Default, PartialEq, ToJson, FromJson)]
#[json(rename_all = "camelCase", default)]
pub struct Linux {
    /// User ids of the user namespace.
    #[json(skip_if_empty)]
    pub uid_mappings: Vec<IdMapping>,
    /// Group ids of the user namespace.
    #[json(skip_if_empty)]
    pub gid_mappings: Vec<IdMapping>,
    /// Kernel parameters, by dotted name.
    #[json(skip_if_empty)]
    pub sysctl: Map<String>,
    /// Limits.
    #[json(skip_if_empty)]
    pub resources: Option<Resources>,
    /// Where in the cgroup tree.
    #[json(skip_if_empty)]
    pub cgroups_path: String,
    /// Namespaces to make or to join.
    #[json(skip_if_empty)]
    pub namespaces: Vec<Namespace>,
    /// Device nodes beyond the default ones.
    #[json(skip_if_empty)]
    pub devices: Vec<Device>,
    /// Host network devices to move in.
    #[json(skip_if_empty)]
    pub net_devices: Map<NetDevice>,
    /// System call filter.
    #[json(skip_if_empty)]
    pub seccomp: Option<Seccomp>,
    /// Propagation of the root mount: `shared`, `slave`, `private`, `unbindable`, or recursive with an `r` before.
    #[json(skip_if_empty)]
    pub rootfs_propagation: String,
    /// Paths made unreadable.
    #[json(skip_if_empty)]
    pub masked_paths: Vec<String>,
    /// Paths made read-only.
    #[json(skip_if_empty)]
    pub readonly_paths: Vec<String>,
    /// SELinux label of the mounts.
    #[json(skip_if_empty)]
    pub mount_label: String,
    /// Intel cache allocation.
    #[json(skip_if_empty)]
    pub intel_rdt: Option<Value>,
    /// NUMA memory policy.
    #[json(skip_if_empty)]
    pub memory_policy: Option<MemoryPolicy>,
    /// personality(2).
    #[json(skip_if_empty)]
    pub personality: Option<Personality>,
    /// Offsets of the time namespace, by clock name.
    #[json(skip_if_empty)]
    pub time_offsets: Map<TimeOffset>,
}

/// A range of ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
pub struct IdMapping {
    /// First id inside.
    #[json(rename = "containerID")]
    pub container_id: u32,
    /// First id outside.
    #[json(rename = "hostID")]
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

/// A namespace to make, or to join when it has a path.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
pub struct Namespace {
    /// `pid`, `network`, `mount`, `ipc`, `uts`, `user`, `cgroup` or `time`.
    #[json(rename = "type")]
    pub kind: String,
    /// A namespace file such as /proc/PID/ns/net.
    #[json(default, skip_if_empty)]
    pub path: String,
}

/// A clock's offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(default)]
pub struct TimeOffset {
    /// Seconds.
    pub secs: i64,
    /// Nanoseconds.
    pub nanosecs: u32,
}

/// A device node.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "camelCase")]
pub struct Device {
    /// Absolute path inside the container.
    pub path: String,
    /// `c`, `u`, `b` or `p`.
    #[json(rename = "type")]
    pub kind: String,
    /// Major number.
    #[json(default)]
    pub major: i64,
    /// Minor number.
    #[json(default)]
    pub minor: i64,
    /// Permission bits.
    #[json(default, skip_if_empty)]
    pub file_mode: Option<u32>,
    /// Owner inside the container.
    #[json(default, skip_if_empty)]
    pub uid: Option<u32>,
    /// Group inside the container.
    #[json(default, skip_if_empty)]
    pub gid: Option<u32>,
}

/// A network device that moves into the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(default)]
pub struct NetDevice {
    /// Its name there; as on the host when empty. `%d` becomes the first free number.
    #[json(skip_if_empty)]
    pub name: String,
}

/// set_mempolicy(2).
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
pub struct MemoryPolicy {
    /// `MPOL_...`
    pub mode: String,
    /// As `0-3,7`.
    #[json(default, skip_if_empty)]
    pub nodes: String,
    /// `MPOL_F_...`
    #[json(default, skip_if_empty)]
    pub flags: Vec<String>,
}

/// personality(2).
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
pub struct Personality {
    /// `LINUX` or `LINUX32`.
    pub domain: String,
    /// None are defined.
    #[json(default, skip_if_empty)]
    pub flags: Vec<String>,
}

/// Limits of the container's cgroup.
#[derive(Clone, Debug, Default, PartialEq, ToJson, FromJson)]
#[json(rename_all = "camelCase", default)]
pub struct Resources {
    /// Device rules, later ones win.
    #[json(skip_if_empty)]
    pub devices: Vec<DeviceCgroup>,
    /// Memory controller.
    #[json(skip_if_empty)]
    pub memory: Option<Memory>,
    /// Cpu and cpuset controllers.
    #[json(skip_if_empty)]
    pub cpu: Option<Cpu>,
    /// Pids controller.
    #[json(skip_if_empty)]
    pub pids: Option<Pids>,
    /// Io controller.
    #[json(rename = "blockIO", skip_if_empty)]
    pub block_io: Option<BlockIo>,
    /// Hugetlb controller.
    #[json(skip_if_empty)]
    pub hugepage_limits: Vec<HugepageLimit>,
    /// net_cls and net_prio of cgroup v1.
    #[json(skip_if_empty)]
    pub network: Option<NetworkPriorities>,
    /// Rdma controller, by device.
    #[json(skip_if_empty)]
    pub rdma: Map<Rdma>,
    /// cgroup v2 files, by name.
    #[json(skip_if_empty)]
    pub unified: Map<String>,
}

/// One device rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
pub struct DeviceCgroup {
    /// Allow, or deny.
    pub allow: bool,
    /// `a`, `c` or `b`; empty is `a`.
    #[json(default, rename = "type", skip_if_empty)]
    pub kind: String,
    /// Any when absent.
    #[json(default, skip_if_empty)]
    pub major: Option<i64>,
    /// Any when absent.
    #[json(default, skip_if_empty)]
    pub minor: Option<i64>,
    /// Of `r`, `w`, `m`.
    #[json(default, skip_if_empty)]
    pub access: String,
}

/// Memory limits in bytes; -1 is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "camelCase", default)]
pub struct Memory {
    /// memory.max
    #[json(skip_if_empty)]
    pub limit: Option<i64>,
    /// memory.low
    #[json(skip_if_empty)]
    pub reservation: Option<i64>,
    /// Memory and swap together, as cgroup v1 counted.
    #[json(skip_if_empty)]
    pub swap: Option<i64>,
    /// cgroup v1 only.
    #[json(skip_if_empty)]
    pub kernel: Option<i64>,
    /// cgroup v1 only.
    #[json(rename = "kernelTCP", skip_if_empty)]
    pub kernel_tcp: Option<i64>,
    /// cgroup v1 only.
    #[json(skip_if_empty)]
    pub swappiness: Option<u64>,
    /// cgroup v1 only.
    #[json(rename = "disableOOMKiller", skip_if_empty)]
    pub disable_oom_killer: Option<bool>,
    /// cgroup v1 only.
    #[json(skip_if_empty)]
    pub use_hierarchy: Option<bool>,
    /// Refuse a limit below what is used now.
    #[json(skip_if_empty)]
    pub check_before_update: Option<bool>,
}

/// Cpu limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "camelCase", default)]
pub struct Cpu {
    /// cgroup v1's shares (2 to 262144), converted to cpu.weight.
    #[json(skip_if_empty)]
    pub shares: Option<u64>,
    /// Microseconds of cpu time in a period; -1 is no limit.
    #[json(skip_if_empty)]
    pub quota: Option<i64>,
    /// Microseconds saved up for bursts.
    #[json(skip_if_empty)]
    pub burst: Option<u64>,
    /// Microseconds of a period.
    #[json(skip_if_empty)]
    pub period: Option<u64>,
    /// cgroup v1 only.
    #[json(skip_if_empty)]
    pub realtime_runtime: Option<i64>,
    /// cgroup v1 only.
    #[json(skip_if_empty)]
    pub realtime_period: Option<u64>,
    /// cpuset.cpus
    #[json(skip_if_empty)]
    pub cpus: String,
    /// cpuset.mems
    #[json(skip_if_empty)]
    pub mems: String,
    /// cpu.idle
    #[json(skip_if_empty)]
    pub idle: Option<i64>,
}

/// Number of tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
pub struct Pids {
    /// pids.max; 0 or less is no limit.
    #[json(default, skip_if_empty)]
    pub limit: Option<i64>,
}

/// Block device weights and throttles.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "camelCase", default)]
pub struct BlockIo {
    /// 10 to 1000, converted to io.bfq.weight.
    #[json(skip_if_empty)]
    pub weight: Option<u16>,
    /// cgroup v1 only.
    #[json(skip_if_empty)]
    pub leaf_weight: Option<u16>,
    /// Weight of one device.
    #[json(skip_if_empty)]
    pub weight_device: Vec<WeightDevice>,
    /// Bytes read per second.
    #[json(skip_if_empty)]
    pub throttle_read_bps_device: Vec<ThrottleDevice>,
    /// Bytes written per second.
    #[json(skip_if_empty)]
    pub throttle_write_bps_device: Vec<ThrottleDevice>,
    /// Reads per second.
    #[json(rename = "throttleReadIOPSDevice", skip_if_empty)]
    pub throttle_read_iops_device: Vec<ThrottleDevice>,
    /// Writes per second.
    #[json(rename = "throttleWriteIOPSDevice", skip_if_empty)]
    pub throttle_write_iops_device: Vec<ThrottleDevice>,
}

/// Weight of one block device.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "camelCase")]
pub struct WeightDevice {
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// 10 to 1000.
    #[json(default, skip_if_empty)]
    pub weight: Option<u16>,
    /// cgroup v1 only.
    #[json(default, skip_if_empty)]
    pub leaf_weight: Option<u16>,
}

/// Throttle of one block device.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
pub struct ThrottleDevice {
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Bytes or operations per second.
    pub rate: u64,
}

/// Limit of one huge page size.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "camelCase")]
pub struct HugepageLimit {
    /// As in `2MB`.
    pub page_size: String,
    /// Bytes.
    pub limit: u64,
}

/// net_cls and net_prio of cgroup v1.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(default)]
pub struct NetworkPriorities {
    /// Class of the packets.
    #[json(rename = "classID", skip_if_empty)]
    pub class_id: Option<u32>,
    /// Priorities by interface.
    #[json(skip_if_empty)]
    pub priorities: Vec<InterfacePriority>,
}

/// Priority of one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
pub struct InterfacePriority {
    /// Interface on the host.
    pub name: String,
    /// Its priority.
    pub priority: u32,
}

/// Limits of one RDMA device.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "camelCase", default)]
pub struct Rdma {
    /// Handles.
    #[json(skip_if_empty)]
    pub hca_handles: Option<u32>,
    /// Objects.
    #[json(skip_if_empty)]
    pub hca_objects: Option<u32>,
}

/// A system call filter in libseccomp's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "camelCase")]
pub struct Seccomp {
    /// `SCMP_ACT_...` for calls that no rule names.
    pub default_action: String,
    /// errno of the default action.
    #[json(default, skip_if_empty)]
    pub default_errno_ret: Option<u32>,
    /// `SCMP_ARCH_...`; the native one is always filtered.
    #[json(default, skip_if_empty)]
    pub architectures: Vec<String>,
    /// `SECCOMP_FILTER_FLAG_...`
    #[json(default, skip_if_empty)]
    pub flags: Vec<String>,
    /// Socket for SCMP_ACT_NOTIFY.
    #[json(default, skip_if_empty)]
    pub listener_path: String,
    /// Opaque words for the listener.
    #[json(default, skip_if_empty)]
    pub listener_metadata: String,
    /// The rules.
    #[json(default, skip_if_empty)]
    pub syscalls: Vec<SyscallRule>,
}

/// One rule for some system calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "camelCase")]
pub struct SyscallRule {
    /// Names; those a kernel or an architecture lacks are skipped.
    pub names: Names,
    /// `SCMP_ACT_...`
    pub action: String,
    /// errno of SCMP_ACT_ERRNO, or the message of SCMP_ACT_TRACE.
    #[json(default, skip_if_empty)]
    pub errno_ret: Option<u32>,
    /// All must hold.
    #[json(default, skip_if_empty)]
    pub args: Vec<SyscallArg>,
}

/// A condition on one argument.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "camelCase")]
pub struct SyscallArg {
    /// 0 to 5.
    pub index: u32,
    /// Compared with, or the mask.
    pub value: u64,
    /// The masked value.
    #[json(default, skip_if_empty)]
    pub value_two: u64,
    /// `SCMP_CMP_...`
    pub op: String,
}
