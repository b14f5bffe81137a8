//! When and where a process runs: `process.scheduler`, `ioPriority` and `execCPUAffinity`, `linux.memoryPolicy` and `personality`. sched(7),
//! set_mempolicy(2)

use crate::error::{Error, Result};
use punnet_spec::{CpuAffinity, IoPriority, MemoryPolicy, Personality, Scheduler};
use punnet_sys::SchedAttr;

/// Highest number in a list of processors or memory nodes, plus one: what glibc's cpu_set_t and the kernel's MAX_NUMNODES hold.
const NUMBERS_MAX: usize = 1024;

/// A set of small numbers, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumberSet([u64; NUMBERS_MAX / 64]);

impl NumberSet {
    /// Parses a list as `0-3,7`.
    pub fn parse(field: &str, list: &str) -> Result<Self> {
        let wrong = || Error::config(field, format!("{list:?} is not a list of numbers as 0-3,7"));
        let number = |text: &str| {
            text.trim()
                .parse::<usize>()
                .ok()
                .filter(|number| *number < NUMBERS_MAX)
        };
        let mut set = Self([0; NUMBERS_MAX / 64]);
        for part in list.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = number(first).zip(number(last)).ok_or_else(wrong)?;
            if first > last {
                return Err(wrong());
            }
            for bit in first..=last {
                set.0[bit / 64] |= 1 << (bit % 64);
            }
        }
        Ok(set)
    }

    /// The words of the bit mask.
    pub fn words(&self) -> &[u64] {
        &self.0
    }

    /// The numbers in it.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..NUMBERS_MAX).filter(|bit| self.0[bit / 64] >> (bit % 64) & 1 == 1)
    }
}

/// `execCPUAffinity`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AffinityPlan {
    /// For the runtime, which the process inherits until it is in its cgroup.
    pub initial: Option<NumberSet>,
    /// For the process in its cgroup.
    pub last: Option<NumberSet>,
}

/// Plans `process.execCPUAffinity`.
pub fn affinity(given: &CpuAffinity) -> Result<AffinityPlan> {
    let parse = |name: &str, list: &str| {
        if list.is_empty() {
            return Ok(None);
        }
        NumberSet::parse(&format!("process.execCPUAffinity.{name}"), list).map(Some)
    };
    Ok(AffinityPlan {
        initial: parse("initial", &given.initial)?,
        last: parse("final", &given.last)?,
    })
}

/// Finds a word's number, or names the word that is not there.
fn word<T: Copy>(field: &str, words: &[(&str, T)], given: &str) -> Result<T> {
    words
        .iter()
        .find(|(known, _)| *known == given)
        .map(|&(_, value)| value)
        .ok_or_else(|| Error::config(field, format!("unknown word {given:?}")))
}

const FIFO: u32 = 1;
const ROUND_ROBIN: u32 = 2;
const DEADLINE: u32 = 6;

/// SCHED_* of linux/sched.h. `SCHED_ISO` has a number there and no scheduler behind it.
const POLICIES: [(&str, u32); 6] = [
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", FIFO),
    ("SCHED_RR", ROUND_ROBIN),
    ("SCHED_BATCH", 3),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", DEADLINE),
];

const SCHEDULER_FLAGS: [(&str, u64); 7] = [
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

/// Plans `process.scheduler`.
pub fn scheduler(given: &Scheduler) -> Result<SchedAttr> {
    let refuse = |name: &str, reason: &str| Err(Error::config(format!("process.scheduler.{name}"), reason));
    if given.policy == "SCHED_ISO" {
        return refuse("policy", "SCHED_ISO is reserved; no kernel schedules by it");
    }
    let policy = word("process.scheduler.policy", &POLICIES, &given.policy)?;
    let flags = given.flags.iter().try_fold(0, |bits, flag| {
        Ok::<_, Box<Error>>(bits | word("process.scheduler.flags", &SCHEDULER_FLAGS, flag)?)
    })?;
    if !(-20..=19).contains(&given.nice) {
        return refuse("nice", "is not within -20 and 19");
    }
    let priorities = if matches!(policy, FIFO | ROUND_ROBIN) {
        1..=99
    } else {
        0..=0
    };
    if !priorities.contains(&given.priority) {
        return refuse(
            "priority",
            "is 1 to 99 with SCHED_FIFO and SCHED_RR, and 0 otherwise",
        );
    }
    let times = [given.runtime, given.deadline, given.period];
    if policy != DEADLINE && times != [0; 3] {
        return refuse("runtime", "and deadline and period belong to SCHED_DEADLINE");
    }
    Ok(SchedAttr {
        policy,
        flags,
        nice: given.nice,
        priority: given.priority.unsigned_abs(),
        runtime: given.runtime,
        deadline: given.deadline,
        period: given.period,
        ..SchedAttr::default()
    })
}

/// `linux.memoryPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPolicyPlan {
    /// MPOL_* with MPOL_F_*.
    pub mode: i32,
    /// Memory nodes; modes without any have none.
    pub nodes: Option<NumberSet>,
}

/// Whether a mode has nodes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nodes {
    None,
    Some,
    Optional,
}

/// MPOL_* of linux/mempolicy.h.
const MODES: [(&str, (i32, Nodes)); 7] = [
    ("MPOL_DEFAULT", (0, Nodes::None)),
    ("MPOL_PREFERRED", (1, Nodes::Optional)),
    ("MPOL_BIND", (2, Nodes::Some)),
    ("MPOL_INTERLEAVE", (3, Nodes::Some)),
    ("MPOL_LOCAL", (4, Nodes::None)),
    ("MPOL_PREFERRED_MANY", (5, Nodes::Some)),
    ("MPOL_WEIGHTED_INTERLEAVE", (6, Nodes::Some)),
];

const MODE_FLAGS: [(&str, i32); 3] = [
    ("MPOL_F_NUMA_BALANCING", 1 << 13),
    ("MPOL_F_RELATIVE_NODES", 1 << 14),
    ("MPOL_F_STATIC_NODES", 1 << 15),
];

/// Plans `linux.memoryPolicy`.
pub fn memory_policy(given: &MemoryPolicy) -> Result<MemoryPolicyPlan> {
    let (mode, wants) = word("linux.memoryPolicy.mode", &MODES, &given.mode)?;
    let flags = given.flags.iter().try_fold(0, |bits, flag| {
        Ok::<_, Box<Error>>(bits | word("linux.memoryPolicy.flags", &MODE_FLAGS, flag)?)
    })?;
    let field = "linux.memoryPolicy.nodes";
    let nodes = match given.nodes.as_str() {
        "" => None,
        list => Some(NumberSet::parse(field, list)?),
    };
    match (wants, nodes) {
        (Nodes::None, Some(_)) => return Err(Error::config(field, format!("{} has none", given.mode))),
        (Nodes::Some, None) => return Err(Error::config(field, format!("{} needs some", given.mode))),
        _ => {}
    }
    Ok(MemoryPolicyPlan {
        mode: mode | flags,
        nodes,
    })
}

/// ioprio_set(2)'s class and level of `process.ioPriority`.
pub fn io_priority(priority: &IoPriority) -> Result<(u8, u8)> {
    const CLASSES: [(&str, u8); 3] = [
        ("IOPRIO_CLASS_RT", 1),
        ("IOPRIO_CLASS_BE", 2),
        ("IOPRIO_CLASS_IDLE", 3),
    ];
    let class = word("process.ioPriority.class", &CLASSES, &priority.class)?;
    if priority.priority > 7 {
        return Err(Error::config("process.ioPriority.priority", "is above 7"));
    }
    Ok((class, priority.priority))
}

/// personality(2) value of `linux.personality`.
pub fn personality(given: &Personality) -> Result<u32> {
    if let Some(flag) = given.flags.first() {
        let reason = format!("unknown flag {flag:?}: the specification has none");
        return Err(Error::config("linux.personality.flags", reason));
    }
    const DOMAINS: [(&str, u32); 2] = [("LINUX", 0), ("LINUX32", 8)];
    word("linux.personality.domain", &DOMAINS, &given.domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers_are_sets() {
        let check = |list: &str| {
            NumberSet::parse("f", list)
                .map(|set| set.iter().collect::<Vec<_>>())
                .ok()
        };
        assert_eq!(check("0-3,7"), Some(vec![0, 1, 2, 3, 7]));
        assert_eq!(check("64, 1023"), Some(vec![64, 1023]));
        for bad in ["", ",", "3-1", "1024", "-1", "a", "0-", "1-2-3"] {
            assert_eq!(check(bad), None, "{bad}");
        }
    }

    #[test]
    fn schedulers_are_the_kernels_and_wrong_ones_are_named() {
        let with = |policy: &str, priority, runtime, flags: &[&str]| Scheduler {
            policy: policy.into(),
            priority,
            runtime,
            flags: flags.iter().map(|&flag| flag.into()).collect(),
            ..Scheduler::default()
        };
        let fifo = scheduler(&with("SCHED_FIFO", 7, 0, &["SCHED_FLAG_RESET_ON_FORK"])).unwrap();
        assert_eq!((fifo.policy, fifo.priority, fifo.flags), (1, 7, 1));
        for (bad, field) in [
            (with("SCHED_FAST", 0, 0, &[]), "policy"),
            (with("SCHED_ISO", 0, 0, &[]), "policy"),
            (with("SCHED_RR", 0, 0, &[]), "priority"),
            (with("SCHED_OTHER", 1, 0, &[]), "priority"),
            (with("SCHED_BATCH", 0, 9, &[]), "runtime"),
            (with("SCHED_IDLE", 0, 0, &["SCHED_FLAG_ODD"]), "flags"),
            (
                Scheduler {
                    nice: 20,
                    ..with("SCHED_OTHER", 0, 0, &[])
                },
                "nice",
            ),
        ] {
            let error = scheduler(&bad).unwrap_err().to_string();
            assert!(error.contains(&format!("process.scheduler.{field}")), "{error}");
        }
    }

    #[test]
    fn memory_policies_have_nodes_where_their_mode_has() {
        let check = |mode: &str, nodes: &str, flags: &[&str]| {
            memory_policy(&MemoryPolicy {
                mode: mode.into(),
                nodes: nodes.into(),
                flags: flags.iter().map(|&flag| flag.into()).collect(),
            })
            .map(|plan| (plan.mode, plan.nodes.map(|set| set.iter().collect::<Vec<_>>())))
            .map_err(|error| error.to_string())
        };
        assert_eq!(check("MPOL_DEFAULT", "", &[]), Ok((0, None)));
        assert_eq!(
            check("MPOL_BIND", "0,2", &["MPOL_F_STATIC_NODES"]),
            Ok((2 | 1 << 15, Some(vec![0, 2])))
        );
        for (mode, nodes, flags, field) in [
            ("MPOL_LOCAL", "0", &[][..], "nodes"),
            ("MPOL_INTERLEAVE", "", &[], "nodes"),
            ("MPOL_BIND", "x", &[], "nodes"),
            ("MPOL_NEAR", "0", &[], "mode"),
            ("MPOL_BIND", "0", &["MPOL_F_ODD"], "flags"),
        ] {
            let error = check(mode, nodes, flags).unwrap_err();
            assert!(error.contains(&format!("linux.memoryPolicy.{field}")), "{error}");
        }
    }

    #[test]
    fn io_classes_and_personalities_are_known_words() {
        let io = |class: &str, priority| {
            io_priority(&IoPriority {
                class: class.into(),
                priority,
            })
        };
        assert_eq!(io("IOPRIO_CLASS_IDLE", 4).unwrap(), (3, 4));
        assert!(io("IOPRIO_CLASS_BE", 8).is_err() && io("BE", 1).is_err());
        let domain = |domain: &str, flags: &[&str]| {
            personality(&Personality {
                domain: domain.into(),
                flags: flags.iter().map(|&flag| flag.into()).collect(),
            })
        };
        assert_eq!(domain("LINUX32", &[]).unwrap(), 8);
        assert!(domain("LINUX64", &[]).is_err() && domain("LINUX", &["X"]).is_err());
    }
}
