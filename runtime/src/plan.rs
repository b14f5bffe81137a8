//! config.json to a plan: pure functions from a parsed [`Spec`] and some [`HostFacts`] to plain data. Nothing here touches the
//! machine, and nothing panics whatever the file says. What acts on the plan is in `launch`, `init`, `rootfs`, `cgroup`.

mod cgroup;
mod devices;
mod mounts;
mod namespaces;
mod process;
mod refuse;
mod rootfs;
mod schedule;
mod update;

pub use cgroup::{CgroupPlan, Limit};
pub use devices::{DeviceFilter, Without};
pub use mounts::{IdmapPlan, Maps, MountPlan, MountSource, Propagation};
pub use namespaces::{Join, NamespacePlan, NetDevicePlan};
pub use process::{CAPABILITY_NAMES, CapabilityPlan, ProcessPlan, RlimitPlan, capability_number};
pub use rootfs::{DeviceKind, DevicePlan, RootPlan};
pub use schedule::{AffinityPlan, MemoryPolicyPlan, NumberSet};
pub use update::{UpdatePlan, plan as plan_update};

use crate::error::{Error, Result};
use crate::seccomp::{self, Filter};
use punnet_spec::{Hooks, Spec};
use std::path::{Path, PathBuf};

/// What the plan depends on besides config.json.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Absolute path of the bundle: relative paths start there.
    pub bundle: PathBuf,
    /// Container id: part of the default cgroup's path.
    pub id: String,
    /// Effective user id of the caller: 0 maps and limits by itself.
    pub euid: u32,
    /// Effective group id of the caller.
    pub egid: u32,
    /// Give processes a new session keyring.
    pub new_keyring: bool,
    /// Capabilities that the caller does not have, one bit each: they cannot be granted without a user namespace.
    pub capabilities_missing: u64,
    /// AppArmor decides on this machine; looked up only when a profile is asked for.
    pub apparmor: bool,
    /// SELinux decides on this machine; looked up only when a label is asked for.
    pub selinux: bool,
    /// Nothing inside can write the runtime's own file: the kernel may choose an emulator for the program.
    pub own_file: Option<crate::OutOfReach>,
}

/// Everything `create` does, decided.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Namespaces to make and to join.
    pub namespaces: NamespacePlan,
    /// The root file system.
    pub root: RootPlan,
    /// Mounts below it, in order.
    pub mounts: Vec<MountPlan>,
    /// Device nodes; none when the host's /dev is bound in.
    pub devices: Vec<DevicePlan>,
    /// Make the /dev symlinks and nodes at all.
    pub setup_dev: bool,
    /// Paths to hide.
    pub masked_paths: Vec<PathBuf>,
    /// Paths to make read-only.
    pub readonly_paths: Vec<PathBuf>,
    /// Files below /proc/sys and what to write to them.
    pub sysctl: Vec<(String, String)>,
    /// Host name, when set.
    pub hostname: String,
    /// Domain name, when set.
    pub domainname: String,
    /// The program; `start` needs one, `create` does not.
    pub process: Option<ProcessPlan>,
    /// The cgroup and its limits.
    pub cgroup: CgroupPlan,
    /// What every process of the container is subject to.
    pub confinement: Confinement,
    /// Hooks as configured.
    pub hooks: Hooks,
}

/// What every process of a container is subject to, also one that `exec` makes.
#[derive(Clone, Debug, Default)]
pub struct Confinement {
    /// The system call filter.
    pub seccomp: Option<Filter>,
    /// personality(2) value.
    pub personality: Option<u32>,
    /// NUMA policy.
    pub memory_policy: Option<MemoryPolicyPlan>,
}

/// Decides everything, or says which field cannot be done and why.
pub fn plan(spec: &Spec, host: &HostFacts) -> Result<Plan> {
    refuse::unsupported(spec, host)?;
    let linux = spec.linux.clone().unwrap_or_default();
    let namespaces = namespaces::plan(&linux, host)?;
    let missing = if namespaces.has(namespaces::USER) {
        0
    } else {
        host.capabilities_missing
    };
    let process = spec
        .process
        .as_ref()
        .map(|process| plan_process(process, missing, host))
        .transpose()?;
    let mounts = spec
        .mounts
        .iter()
        .enumerate()
        .map(|(index, mount)| mounts::plan(mount, index, &linux.mount_label, &namespaces, host))
        .collect::<Result<Vec<_>>>()?;
    let (root, mounts) = rootfs::plan(spec, mounts, host)?;
    let capabilities = process.as_ref().map(|process| process.capabilities);
    let setup_dev = !mounts
        .iter()
        .any(|mount| mount.is_bind() && mount.destination == Path::new("/dev"));
    let uts = namespaces.has(namespaces::UTS);
    for (field, value) in [("hostname", &spec.hostname), ("domainname", &spec.domainname)] {
        if !value.is_empty() && !uts {
            return Err(Error::config(
                field,
                "would change the host's: it needs a uts namespace",
            ));
        }
    }
    Ok(Plan {
        devices: if setup_dev {
            rootfs::devices(&linux)?
        } else {
            Vec::new()
        },
        setup_dev,
        masked_paths: linux
            .masked_paths
            .iter()
            .map(|path| mounts::absolute(path))
            .collect(),
        readonly_paths: linux
            .readonly_paths
            .iter()
            .map(|path| mounts::absolute(path))
            .collect(),
        sysctl: namespaces::sysctls(&linux, &namespaces)?,
        hostname: spec.hostname.clone(),
        domainname: spec.domainname.clone(),
        cgroup: CgroupPlan {
            devices: devices::plan(&linux, capabilities, &namespaces)?,
            owner: cgroup::owner(spec, &namespaces),
            ..cgroup::plan(&linux, host)?
        },
        confinement: plan_confinement(&linux)?,
        hooks: spec.hooks.clone().unwrap_or_default(),
        namespaces,
        root,
        mounts,
        process,
    })
}

/// Decides about one process: the container's own, or one more for `exec`. `missing` are the capabilities that cannot be granted.
pub fn plan_process(process: &punnet_spec::Process, missing: u64, host: &HostFacts) -> Result<ProcessPlan> {
    refuse::unsupported_in_process(process, host)?;
    process::plan(process, missing)
}

/// Decides what every process of the container is subject to.
pub fn plan_confinement(linux: &punnet_spec::Linux) -> Result<Confinement> {
    Ok(Confinement {
        seccomp: linux.seccomp.as_ref().map(seccomp::compile).transpose()?,
        personality: linux
            .personality
            .as_ref()
            .map(schedule::personality)
            .transpose()?,
        memory_policy: linux
            .memory_policy
            .as_ref()
            .map(schedule::memory_policy)
            .transpose()?,
    })
}

/// CLONE_NEW* bits as `u64`, for those who apply the plan.
pub(crate) mod namespaces_bits {
    pub(crate) use super::namespaces::{CGROUP, MOUNT, NETWORK, PID, TIME, USER};
}
