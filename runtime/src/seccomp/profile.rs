//! The default filter, equal in spirit to Docker's: every call of the tables is allowed save those listed here. The tables are fixed at
//! compile time, so a call that a newer kernel adds is refused until somebody has looked at it.

use super::{ARCHES, Arch};
use crate::plan::capability_number;
use punnet_spec::{Names, Seccomp, SyscallArg, SyscallRule};

/// Calls that need one of some capabilities (`CAP_` left out) in the container, or that are never given: none listed.
pub(super) const GATED: &[(&str, &str)] = &[
    (
        "_sysctl afs_syscall bdflush break create_module ftime get_kernel_syms getpmsg gtty idle io_uring_enter",
        "",
    ),
    (
        "io_uring_register io_uring_setup lock mpx nfsservctl oldfstat oldlstat oldolduname oldstat olduname",
        "",
    ),
    (
        "pciconfig_iobase pciconfig_read pciconfig_write prof profil putpmsg query_module security stty sysfs tuxcall",
        "",
    ),
    (
        "ulimit uselib userfaultfd ustat vm86 vm86old vserver swapon swapoff pivot_root kexec_load kexec_file_load",
        "",
    ),
    (
        "add_key keyctl request_key open_tree_attr statmount listmount lsm_set_self_attr",
        "",
    ),
    (
        "fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount open_tree",
        "SYS_ADMIN",
    ),
    (
        "quotactl quotactl_fd setdomainname sethostname setns umount umount2 unshare",
        "SYS_ADMIN",
    ),
    ("bpf", "SYS_ADMIN BPF"),
    ("perf_event_open", "SYS_ADMIN PERFMON"),
    ("syslog", "SYS_ADMIN SYSLOG"),
    ("reboot", "SYS_BOOT"),
    ("chroot", "SYS_CHROOT"),
    ("delete_module init_module finit_module", "SYS_MODULE"),
    ("acct", "SYS_PACCT"),
    (
        "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev",
        "SYS_PTRACE",
    ),
    ("iopl ioperm", "SYS_RAWIO"),
    ("settimeofday stime clock_settime clock_settime64", "SYS_TIME"),
    ("vhangup", "SYS_TTY_CONFIG"),
    (
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node move_pages migrate_pages",
        "SYS_NICE",
    ),
    ("open_by_handle_at", "DAC_READ_SEARCH"),
];

/// CLONE_NEW* bits of clone(2)'s flags: making namespaces opens the kernel's less walked paths.
pub(super) const CLONE_NAMESPACES: u64 = 0x7E02_0000;
/// AF_VSOCK reaches the hypervisor's host past every network namespace.
pub(super) const AF_VSOCK: u64 = 40;
/// Harmless values of personality(2): plain, 32-bit uname, both with old uname, and the query.
pub(super) const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
pub(super) const ENOSYS: u32 = 38;
pub(super) const EPERM: u32 = 1;

/// The default filter for a container with these capabilities (`CAP_...` names: its bounding set).
pub fn default_seccomp(capabilities: &[String]) -> Seccomp {
    profile_for(ARCHES, capabilities)
}

/// Whether one of the capabilities is one of the gate's.
fn opens(capabilities: &[String], gate: &str) -> bool {
    let held = |number| {
        capabilities
            .iter()
            .any(|name| capability_number(name) == Some(number))
    };
    gate.split(' ')
        .any(|name| capability_number(&format!("CAP_{name}")).is_some_and(held))
}

/// Rows of [`GATED`] that these capabilities open, one bit each.
pub(super) fn open_rows(capabilities: &[String]) -> u32 {
    GATED
        .iter()
        .enumerate()
        .filter(|(_, (_, gate))| opens(capabilities, gate))
        .fold(0, |rows, (row, _)| rows | 1 << row)
}

pub(super) fn profile_for(arches: &[&Arch], capabilities: &[String]) -> Seccomp {
    let open = open_rows(capabilities);
    let admin = opens(capabilities, "SYS_ADMIN");
    let mut denied: Vec<&str> = vec!["socket", "personality", "clone", "clone3"];
    for (row, (calls, _)) in GATED.iter().enumerate() {
        if open >> row & 1 == 0 {
            denied.extend(calls.split(' '));
        }
    }
    let mut allowed: Vec<&str> = Vec::with_capacity(512);
    for arch in arches {
        for name in arch
            .table
            .split(' ')
            .filter(|word| word.starts_with(|first: char| !first.is_ascii_digit()))
        {
            if !name.is_empty() && !denied.contains(&name) {
                allowed.push(name);
            }
        }
    }
    allowed.sort_unstable();
    allowed.dedup();
    let mut rules = vec![
        allow(allowed.into_iter().collect(), None),
        allow(words("socket"), Some(arg("SCMP_CMP_NE", AF_VSOCK, 0))),
    ];
    rules.extend(PERSONALITIES.map(|value| allow(words("personality"), Some(arg("SCMP_CMP_EQ", value, 0)))));
    if admin {
        rules.push(allow(words("clone clone3"), None));
    } else {
        rules.push(allow(
            words("clone"),
            Some(arg("SCMP_CMP_MASKED_EQ", CLONE_NAMESPACES, 0)),
        ));
        // Its flags are behind a pointer, so they cannot be checked; ENOSYS makes the C libraries fall back to clone.
        rules.push(SyscallRule {
            names: words("clone3"),
            action: "SCMP_ACT_ERRNO".to_owned(),
            errno_ret: Some(ENOSYS),
            args: Vec::new(),
        });
    }
    Seccomp {
        default_action: "SCMP_ACT_ERRNO".to_owned(),
        default_errno_ret: Some(EPERM),
        architectures: arches.iter().map(|arch| arch.name.to_owned()).collect(),
        syscalls: rules,
        ..Seccomp::default()
    }
}

fn words(text: &str) -> Names {
    text.split(' ').collect()
}

fn arg(op: &str, value: u64, value_two: u64) -> SyscallArg {
    SyscallArg {
        index: 0,
        value,
        value_two,
        op: op.to_owned(),
    }
}

fn allow(names: Names, condition: Option<SyscallArg>) -> SyscallRule {
    SyscallRule {
        names,
        action: "SCMP_ACT_ALLOW".to_owned(),
        errno_ret: None,
        args: condition.into_iter().collect(),
    }
}
