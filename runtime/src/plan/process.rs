//! `process`: ids, capabilities, limits, environment.

use super::schedule::{self, AffinityPlan};
use crate::error::{Error, Result};
use punnet_spec::{Capabilities, Process};
use punnet_sys::SchedAttr;
use std::ffi::CString;

/// Capability names in the order of their numbers. capabilities(7)
pub const CAPABILITY_NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Number of a `CAP_...` name, in any case.
pub fn capability_number(name: &str) -> Option<u8> {
    let prefix = name.get(..4)?;
    let rest = &name[4..];
    if !prefix.eq_ignore_ascii_case("CAP_") {
        return None;
    }
    CAPABILITY_NAMES
        .iter()
        .position(|known| known.eq_ignore_ascii_case(rest))
        .map(|number| number as u8)
}

/// The five sets, one bit per capability. None given is none granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilityPlan {
    /// Limits what execve(2) can ever give.
    pub bounding: u64,
    /// Checked by the kernel.
    pub effective: u64,
    /// May be made effective.
    pub permitted: u64,
    /// Kept by files that ask for it.
    pub inheritable: u64,
    /// Kept by all files.
    pub ambient: u64,
}

/// One setrlimit(2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RlimitPlan {
    /// As in config.json.
    pub name: String,
    /// RLIMIT_* value.
    pub resource: i32,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// One process of the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessPlan {
    /// Gets a pseudo terminal.
    pub terminal: bool,
    /// Rows and columns, when given.
    pub console_size: Option<(u16, u16)>,
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// File mode creation mask.
    pub umask: Option<u32>,
    /// argv, at least one.
    pub args: Vec<CString>,
    /// Environment.
    pub env: Vec<CString>,
    /// Absolute.
    pub cwd: std::path::PathBuf,
    /// Capability sets.
    pub capabilities: CapabilityPlan,
    /// Resource limits.
    pub rlimits: Vec<RlimitPlan>,
    /// Set no_new_privs.
    pub no_new_privileges: bool,
    /// oom_score_adj.
    pub oom_score_adj: Option<i32>,
    /// ioprio_set(2)'s class and level.
    pub io_priority: Option<(u8, u8)>,
    /// sched_setattr(2)'s attributes.
    pub scheduler: Option<SchedAttr>,
    /// Processors, of a process that `exec` makes.
    pub affinity: AffinityPlan,
    /// Profile to change to at execve(2); none for `unconfined`.
    pub apparmor_profile: Option<String>,
    /// Label to change to at execve(2).
    pub selinux_label: Option<String>,
    /// What is asked for and left out, in the user's words.
    pub warnings: Vec<String>,
}

/// Plans one process. `missing` are the capabilities that the runtime cannot grant.
pub fn plan(process: &Process, missing: u64) -> Result<ProcessPlan> {
    if process.args.is_empty() {
        return Err(Error::config("process.args", "is empty: there is nothing to run"));
    }
    if !process.cwd.starts_with('/') || process.cwd.contains('\0') {
        return Err(Error::config(
            "process.cwd",
            format!("{:?} is not an absolute path", process.cwd),
        ));
    }
    if let Some(adjustment) = process
        .oom_score_adj
        .filter(|value| !(-1000..=1000).contains(value))
    {
        return Err(Error::config(
            "process.oomScoreAdj",
            format!("{adjustment} is not within -1000 and 1000"),
        ));
    }
    let mut warnings = Vec::new();
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Ok(ProcessPlan {
        terminal: process.terminal,
        console_size: console_size(process)?,
        uid: id("process.user.uid", process.user.uid)?,
        gid: id("process.user.gid", process.user.gid)?,
        groups: process
            .user
            .additional_gids
            .iter()
            .map(|&gid| id("process.user.additionalGids", gid))
            .collect::<Result<_>>()?,
        umask: process.user.umask.map(|mask| mask & 0o777),
        args: strings("process.args", &process.args)?,
        env: strings("process.env", &process.env)?,
        cwd: super::mounts::absolute(&process.cwd),
        capabilities: capabilities(process.capabilities.as_ref(), missing, &mut warnings)?,
        rlimits: rlimits(process)?,
        no_new_privileges: process.no_new_privileges,
        oom_score_adj: process.oom_score_adj,
        io_priority: process
            .io_priority
            .as_ref()
            .map(schedule::io_priority)
            .transpose()?,
        scheduler: process.scheduler.as_ref().map(schedule::scheduler).transpose()?,
        affinity: process
            .exec_cpu_affinity
            .as_ref()
            .map(schedule::affinity)
            .transpose()?
            .unwrap_or_default(),
        apparmor_profile: given(&process.apparmor_profile).filter(|profile| profile != "unconfined"),
        selinux_label: given(&process.selinux_label),
        warnings,
    })
}

/// Rows and columns; without a terminal the specification wants them ignored.
fn console_size(process: &Process) -> Result<Option<(u16, u16)>> {
    let Some(size) = process.console_size.filter(|_| process.terminal) else {
        return Ok(None);
    };
    match (size.height.try_into(), size.width.try_into()) {
        (Ok(rows), Ok(columns)) => Ok(Some((rows, columns))),
        _ => Err(Error::config(
            "process.consoleSize",
            format!("{}x{} is more than a terminal has", size.height, size.width),
        )),
    }
}

/// -1 means "leave as it is" to the set*id calls.
fn id(field: &str, id: u32) -> Result<u32> {
    if id == u32::MAX {
        Err(Error::config(field, format!("{id} is not an id")))
    } else {
        Ok(id)
    }
}

fn strings(field: &str, strings: &[String]) -> Result<Vec<CString>> {
    strings
        .iter()
        .map(|text| {
            CString::new(text.as_str()).map_err(|_| Error::config(field, format!("{text:?} has a zero byte")))
        })
        .collect()
}

/// The specification wants a capability that is not known or cannot be granted to be left out with a warning: less is granted than asked for.
fn capabilities(
    given: Option<&Capabilities>,
    missing: u64,
    warnings: &mut Vec<String>,
) -> Result<CapabilityPlan> {
    let Some(given) = given else {
        return Ok(CapabilityPlan::default());
    };
    let mut warn = |text: String| {
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    };
    let mut set = |names: &[String]| {
        let mut bits = 0_u64;
        for name in names {
            match capability_number(name) {
                None => warn(format!(
                    "process.capabilities: unknown capability {name:?} is left out"
                )),
                Some(number) if missing >> number & 1 == 1 => warn(format!(
                    "process.capabilities: {name} cannot be granted, the runtime does not have it itself: it is left out"
                )),
                Some(number) => bits |= 1 << number,
            }
        }
        bits
    };
    let (permitted, inheritable) = (set(&given.permitted), set(&given.inheritable));
    let plan = CapabilityPlan {
        bounding: set(&given.bounding),
        effective: set(&given.effective),
        permitted,
        inheritable,
        // The kernel keeps a capability ambient only while it is permitted and inheritable; runc's own `spec` asks for
        // more, so the rest is left out as the kernel would.
        ambient: set(&given.ambient) & permitted & inheritable,
    };
    if plan.effective & !plan.permitted != 0 {
        return Err(Error::config(
            "process.capabilities.effective",
            "has capabilities that are not permitted",
        ));
    }
    Ok(plan)
}

/// RLIMIT_* values. getrlimit(2)
fn rlimit_number(name: &str) -> Option<i32> {
    const NAMES: [(&str, u32); 16] = punnet_sys::RLIMITS;
    let rest = name.strip_prefix("RLIMIT_")?;
    NAMES
        .iter()
        .find(|(known, _)| *known == rest)
        .map(|&(_, number)| number as i32)
}

fn rlimits(process: &Process) -> Result<Vec<RlimitPlan>> {
    let mut plan: Vec<RlimitPlan> = Vec::with_capacity(process.rlimits.len());
    for limit in &process.rlimits {
        let refuse = |reason: String| Err(Error::config("process.rlimits", reason));
        let Some(resource) = rlimit_number(&limit.kind) else {
            return refuse(format!("unknown limit {:?}", limit.kind));
        };
        if limit.soft > limit.hard {
            return refuse(format!("the soft limit of {} is above the hard one", limit.kind));
        }
        if plan.iter().any(|other| other.resource == resource) {
            return refuse(format!("{} is given twice", limit.kind));
        }
        plan.push(RlimitPlan {
            name: limit.kind.clone(),
            resource,
            soft: limit.soft,
            hard: limit.hard,
        });
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use punnet_spec::Rlimit;

    fn process() -> Process {
        Process {
            args: vec!["x".into()],
            cwd: "/".into(),
            ..Process::default()
        }
    }

    #[test]
    fn capability_sets_are_exact() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let given = Capabilities {
            bounding: names(&["CAP_CHOWN", "cap_kill"]),
            permitted: names(&["CAP_KILL"]),
            effective: names(&["CAP_KILL"]),
            ambient: names(&["CAP_KILL"]),
            ..Capabilities::default()
        };
        let plan = plan(
            &Process {
                capabilities: Some(given),
                ..process()
            },
            0,
        )
        .unwrap()
        .capabilities;
        assert_eq!(
            plan,
            CapabilityPlan {
                bounding: 0b10_0001,
                permitted: 32,
                effective: 32,
                ..CapabilityPlan::default()
            }
        );
        assert_eq!(
            super::plan(&process(), 0).unwrap().capabilities,
            CapabilityPlan::default()
        );
    }

    #[test]
    fn capabilities_that_cannot_be_granted_are_left_out_with_a_warning() {
        let names = vec!["CAP_FLY".into(), "CAP_CHOWN".into(), "CAP_KILL".into()];
        let given = Capabilities {
            bounding: names.clone(),
            permitted: names.clone(),
            effective: names,
            ..Capabilities::default()
        };
        let plan = plan(
            &Process {
                capabilities: Some(given),
                ..process()
            },
            1,
        )
        .unwrap();
        assert_eq!(
            (plan.capabilities.effective, plan.capabilities.bounding),
            (32, 32)
        );
        let warnings = plan.warnings.join("\n");
        assert_eq!(plan.warnings.len(), 2, "{warnings}");
        assert!(
            warnings.contains("CAP_FLY") && warnings.contains("CAP_CHOWN"),
            "{warnings}"
        );
    }

    #[test]
    fn a_console_size_without_a_terminal_is_ignored() {
        let size = punnet_spec::ConsoleSize {
            height: u32::MAX,
            width: 1,
        };
        let plan = plan(
            &Process {
                console_size: Some(size),
                ..process()
            },
            0,
        );
        assert_eq!(plan.unwrap().console_size, None);
    }

    #[test]
    fn capability_numbers_are_the_kernels() {
        for (name, number) in [
            ("CAP_CHOWN", 0),
            ("CAP_SYS_ADMIN", 21),
            ("CAP_MKNOD", 27),
            ("CAP_CHECKPOINT_RESTORE", 40),
        ] {
            assert_eq!(capability_number(name), Some(number));
        }
        for bad in ["", "CAP", "CAP_", "CHOWN", "CAP_NOPE", "ééé"] {
            assert_eq!(capability_number(bad), None, "{bad}");
        }
    }

    #[test]
    fn wrong_processes_are_named() {
        let rlimit = |kind: &str, soft, hard| {
            vec![Rlimit {
                kind: kind.into(),
                soft,
                hard,
            }]
        };
        for (bad, word) in [
            (
                Process {
                    args: vec![],
                    ..process()
                },
                "nothing to run",
            ),
            (
                Process {
                    cwd: "tmp".into(),
                    ..process()
                },
                "process.cwd",
            ),
            (
                Process {
                    env: vec!["A\0=b".into()],
                    ..process()
                },
                "process.env",
            ),
            (
                Process {
                    rlimits: rlimit("RLIMIT_FUN", 1, 1),
                    ..process()
                },
                "RLIMIT_FUN",
            ),
            (
                Process {
                    rlimits: rlimit("RLIMIT_CPU", 2, 1),
                    ..process()
                },
                "above the hard",
            ),
            (
                Process {
                    oom_score_adj: Some(2000),
                    ..process()
                },
                "oomScoreAdj",
            ),
            (
                Process {
                    terminal: true,
                    console_size: Some(punnet_spec::ConsoleSize {
                        height: 1 << 16,
                        width: 1,
                    }),
                    ..process()
                },
                "consoleSize",
            ),
        ] {
            let error = plan(&bad, 0).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
