//! Fields that we do not implement and that tighten security or change what the container means: refused by name, before anything
//! is made.

use crate::error::{Error, Result};
use punnet_spec::{Process, Spec};

/// The highest version of the specification we know the meaning of.
const KNOWN_MAJOR: &str = "1";

/// Goes through the whole file.
pub fn unsupported(spec: &Spec) -> Result<()> {
    let version = &spec.oci_version;
    if version.split('.').next() != Some(KNOWN_MAJOR) {
        return Err(Error::config(
            "ociVersion",
            format!("{version:?} is not a version 1"),
        ));
    }
    if spec.vm.is_some() {
        return refuse("vm", "this runtime makes containers, not virtual machines");
    }
    if let Some(process) = &spec.process {
        unsupported_in_process(process)?;
    }
    for (index, mount) in spec.mounts.iter().enumerate() {
        if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
            return refuse(
                &format!("mounts[{index}].uidMappings"),
                "id-mapped mounts are not supported yet",
            );
        }
    }
    let Some(linux) = &spec.linux else { return Ok(()) };
    let not_yet = "not supported yet";
    let refused = [
        (linux.intel_rdt.is_some(), "linux.intelRdt"),
        (linux.memory_policy.is_some(), "linux.memoryPolicy"),
        (!linux.net_devices.is_empty(), "linux.netDevices"),
        (!linux.mount_label.is_empty(), "linux.mountLabel"),
        (!linux.time_offsets.is_empty(), "linux.timeOffsets"),
    ];
    if let Some((_, field)) = refused.iter().find(|(present, _)| *present) {
        return refuse(field, not_yet);
    }
    let Some(resources) = &linux.resources else {
        return Ok(());
    };
    let refused = [
        (resources.network.is_some(), "linux.resources.network"),
        (!resources.rdma.is_empty(), "linux.resources.rdma"),
        (
            !resources.hugepage_limits.is_empty(),
            "linux.resources.hugepageLimits",
        ),
    ];
    match refused.iter().find(|(present, _)| *present) {
        Some((_, field)) => refuse(field, not_yet),
        None => Ok(()),
    }
}

/// The part that `exec` reads too.
pub fn unsupported_in_process(process: &Process) -> Result<()> {
    let refused = [
        (process.scheduler.is_some(), "process.scheduler"),
        (process.exec_cpu_affinity.is_some(), "process.execCPUAffinity"),
        (!process.selinux_label.is_empty(), "process.selinuxLabel"),
        (
            !process.apparmor_profile.is_empty() && process.apparmor_profile != "unconfined",
            "process.apparmorProfile",
        ),
    ];
    match refused.iter().find(|(present, _)| *present) {
        Some((_, field)) => refuse(
            field,
            "not supported yet; the container would run with less protection than asked for",
        ),
        None => Ok(()),
    }
}

fn refuse(field: &str, reason: &str) -> Result<()> {
    Err(Error::config(field, reason))
}
