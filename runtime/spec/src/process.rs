//! `process`: what is run in the container, and with which rights.

use punnet_json::{FromJson, ToJson};

/// The program, its user, its limits and its capabilities.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "camelCase")]
pub struct Process {
    /// Give the program a pseudo terminal.
    #[json(default, skip_if_empty)]
    pub terminal: bool,
    /// Size of the terminal at start.
    #[json(default, skip_if_empty)]
    pub console_size: Option<ConsoleSize>,
    /// Ids the program runs with.
    #[json(default)]
    pub user: User,
    /// argv; the first is looked up in PATH when it has no slash.
    #[json(default, skip_if_empty)]
    pub args: Vec<String>,
    /// `NAME=value` pairs: the whole environment.
    #[json(default, skip_if_empty)]
    pub env: Vec<String>,
    /// Absolute working directory.
    pub cwd: String,
    /// Exact capability sets; absent: none.
    #[json(default, skip_if_empty)]
    pub capabilities: Option<Capabilities>,
    /// Resource limits of setrlimit(2).
    #[json(default, skip_if_empty)]
    pub rlimits: Vec<Rlimit>,
    /// Set PR_SET_NO_NEW_PRIVS.
    #[json(default, skip_if_empty)]
    pub no_new_privileges: bool,
    /// AppArmor profile to change to at exec.
    #[json(default, skip_if_empty)]
    pub apparmor_profile: String,
    /// Value for /proc/self/oom_score_adj.
    #[json(default, skip_if_empty)]
    pub oom_score_adj: Option<i32>,
    /// sched_setattr(2) settings.
    #[json(default, skip_if_empty)]
    pub scheduler: Option<Scheduler>,
    /// SELinux label to change to at exec.
    #[json(default, skip_if_empty)]
    pub selinux_label: String,
    /// ioprio_set(2) settings.
    #[json(default, rename = "ioPriority", skip_if_empty)]
    pub io_priority: Option<IoPriority>,
    /// CPUs for `exec`'s process.
    #[json(default, rename = "execCPUAffinity", skip_if_empty)]
    pub exec_cpu_affinity: Option<CpuAffinity>,
}

/// Rows and columns of a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
pub struct ConsoleSize {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
}

/// Ids of the program, as seen inside the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "camelCase")]
pub struct User {
    /// User id.
    #[json(default)]
    pub uid: u32,
    /// Group id.
    #[json(default)]
    pub gid: u32,
    /// File mode creation mask.
    #[json(default, skip_if_empty)]
    pub umask: Option<u32>,
    /// Supplementary groups.
    #[json(default, skip_if_empty)]
    pub additional_gids: Vec<u32>,
    /// Windows only.
    #[json(default, skip_if_empty)]
    pub username: String,
}

/// The five capability sets, each a list of `CAP_...` names.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(default)]
pub struct Capabilities {
    /// What may ever be gained by executing a file.
    #[json(skip_if_empty)]
    pub bounding: Vec<String>,
    /// What is checked by the kernel.
    #[json(skip_if_empty)]
    pub effective: Vec<String>,
    /// What a file's inheritable set may keep.
    #[json(skip_if_empty)]
    pub inheritable: Vec<String>,
    /// What may be made effective.
    #[json(skip_if_empty)]
    pub permitted: Vec<String>,
    /// What survives execve(2) of an ordinary file by an ordinary user.
    #[json(skip_if_empty)]
    pub ambient: Vec<String>,
}

/// One setrlimit(2).
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
pub struct Rlimit {
    /// `RLIMIT_...`
    #[json(rename = "type")]
    pub kind: String,
    /// Upper bound for the soft limit.
    pub hard: u64,
    /// What the kernel enforces.
    pub soft: u64,
}

/// ioprio_set(2).
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
pub struct IoPriority {
    /// `IOPRIO_CLASS_RT`, `IOPRIO_CLASS_BE` or `IOPRIO_CLASS_IDLE`.
    pub class: String,
    /// 0 (highest) to 7.
    #[json(default)]
    pub priority: u8,
}

/// sched_setattr(2).
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
pub struct Scheduler {
    /// `SCHED_...`
    pub policy: String,
    /// -20 (most of the processor) to 19.
    #[json(default, skip_if_empty)]
    pub nice: i32,
    /// 1 to 99 with `SCHED_FIFO` and `SCHED_RR`.
    #[json(default, skip_if_empty)]
    pub priority: i32,
    /// `SCHED_FLAG_...`
    #[json(default, skip_if_empty)]
    pub flags: Vec<String>,
    /// Nanoseconds, of `SCHED_DEADLINE`.
    #[json(default, skip_if_empty)]
    pub runtime: u64,
    /// Nanoseconds, of `SCHED_DEADLINE`.
    #[json(default, skip_if_empty)]
    pub deadline: u64,
    /// Nanoseconds, of `SCHED_DEADLINE`.
    #[json(default, skip_if_empty)]
    pub period: u64,
}

/// Processors of a process that `exec` makes, as `0-3,7`.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(default)]
pub struct CpuAffinity {
    /// Of the runtime, before the process is in the container's cgroup.
    #[json(skip_if_empty)]
    pub initial: String,
    /// Of the process, once it is there.
    #[json(rename = "final", skip_if_empty)]
    pub last: String,
}
