//! `process`: what is run in the container, and with which rights.

use crate::is_default;
use serde::{Deserialize, Serialize};

/// The program, its user, its limits and its capabilities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Give the program a pseudo terminal.
    #[serde(default, skip_serializing_if = "is_default")]
    pub terminal: bool,
    /// Size of the terminal at start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console_size: Option<ConsoleSize>,
    /// Ids the program runs with.
    #[serde(default)]
    pub user: User,
    /// argv; the first is looked up in PATH when it has no slash.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// `NAME=value` pairs: the whole environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Absolute working directory.
    pub cwd: String,
    /// Exact capability sets; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// Resource limits of setrlimit(2).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rlimits: Vec<Rlimit>,
    /// Set PR_SET_NO_NEW_PRIVS.
    #[serde(default, skip_serializing_if = "is_default")]
    pub no_new_privileges: bool,
    /// AppArmor profile to change to at exec.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub apparmor_profile: String,
    /// Value for /proc/self/oom_score_adj.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// sched_setattr(2) settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler>,
    /// SELinux label to change to at exec.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selinux_label: String,
    /// ioprio_set(2) settings.
    #[serde(default, rename = "ioPriority", skip_serializing_if = "Option::is_none")]
    pub io_priority: Option<IoPriority>,
    /// CPUs for `exec`'s process.
    #[serde(default, rename = "execCPUAffinity", skip_serializing_if = "Option::is_none")]
    pub exec_cpu_affinity: Option<CpuAffinity>,
}

/// Rows and columns of a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleSize {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
}

/// Ids of the program, as seen inside the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// User id.
    #[serde(default)]
    pub uid: u32,
    /// Group id.
    #[serde(default)]
    pub gid: u32,
    /// File mode creation mask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
    /// Supplementary groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional_gids: Vec<u32>,
    /// Windows only.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub username: String,
}

/// The five capability sets, each a list of `CAP_...` names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// What may ever be gained by executing a file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bounding: Vec<String>,
    /// What is checked by the kernel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub effective: Vec<String>,
    /// What a file's inheritable set may keep.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inheritable: Vec<String>,
    /// What may be made effective.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub permitted: Vec<String>,
    /// What survives execve(2) of an ordinary file by an ordinary user.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ambient: Vec<String>,
}

/// One setrlimit(2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_...`
    #[serde(rename = "type")]
    pub kind: String,
    /// Upper bound for the soft limit.
    pub hard: u64,
    /// What the kernel enforces.
    pub soft: u64,
}

/// ioprio_set(2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoPriority {
    /// `IOPRIO_CLASS_RT`, `IOPRIO_CLASS_BE` or `IOPRIO_CLASS_IDLE`.
    pub class: String,
    /// 0 (highest) to 7.
    #[serde(default)]
    pub priority: u8,
}

/// sched_setattr(2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduler {
    /// `SCHED_...`
    pub policy: String,
    /// -20 (most of the processor) to 19.
    #[serde(default, skip_serializing_if = "is_default")]
    pub nice: i32,
    /// 1 to 99 with `SCHED_FIFO` and `SCHED_RR`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: i32,
    /// `SCHED_FLAG_...`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// Nanoseconds, of `SCHED_DEADLINE`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub runtime: u64,
    /// Nanoseconds, of `SCHED_DEADLINE`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub deadline: u64,
    /// Nanoseconds, of `SCHED_DEADLINE`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub period: u64,
}

/// Processors of a process that `exec` makes, as `0-3,7`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuAffinity {
    /// Of the runtime, before the process is in the container's cgroup.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub initial: String,
    /// Of the process, once it is there.
    #[serde(rename = "final", skip_serializing_if = "String::is_empty")]
    pub last: String,
}
