//! `linux.seccomp` to a BPF program, without libseccomp. Pure: installing it is the last step before execve(2).
//!
//! Shape of a program: check the architecture (an unlisted one is killed), then a binary search over ranges of system call numbers with
//! the same outcome. About eight comparisons a call, and the kernel caches the calls that are always allowed.
//!
//! `SCMP_ACT_NOTIFY` makes a second program beside the first, with the notifications and nothing else. The kernel runs both and takes the
//! stricter answer, so together they say what the rules say; but the one with the notifications can be installed first, and its
//! descriptor handed over while every other call still works.
//!
//! Differences to libseccomp, all on the strict side: x32 is always killed on x86_64; of several conditional rules on one call the
//! first that matches wins, then the unconditional one, then the default. <https://man7.org/linux/man-pages/man2/seccomp.2.html>

mod built;
mod profile;
mod tables;

pub use built::named_default_seccomp;
pub use profile::default_seccomp;

use std::cmp::Ordering;

use crate::error::{Error, Result};
use built::{Built, next_word, parsed};
use punnet_spec::{Names, Seccomp, SyscallArg, SyscallRule};
use punnet_sys::{FILTER_INSTRUCTIONS_MAX, SockFilter};

/// A compiled filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// For the kernel.
    pub program: Vec<SockFilter>,
    /// SECCOMP_FILTER_FLAG_* bits.
    pub flags: u32,
    /// The calls that somebody else decides about.
    pub notify: Option<Notify>,
}

/// The second filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// For the kernel.
    pub program: Vec<SockFilter>,
    /// SECCOMP_FILTER_FLAG_* bits.
    pub flags: u32,
    /// Unix socket of who decides.
    pub listener_path: String,
    /// Opaque words for them.
    pub listener_metadata: String,
}

/// One architecture that the running kernel may see.
struct Arch {
    /// libseccomp's word.
    name: &'static str,
    /// AUDIT_ARCH_* of linux/audit.h.
    audit: u32,
    table: &'static str,
}

impl Arch {
    /// x32 calls have x86_64's architecture: only their numbers tell. The number is in the accumulator.
    const fn x32_check(&self) -> &'static [SockFilter] {
        #[cfg(any(target_arch = "x86_64", test))]
        if self.audit == X86_64.audit {
            return const { &[branch(JUMP_GE, X32_BIT, 0, 1), op(RETURN, KILL_PROCESS)] };
        }
        &[]
    }
}

#[cfg(any(target_arch = "x86_64", test))]
const X86_64: Arch = Arch {
    name: "SCMP_ARCH_X86_64",
    audit: 0xC000_003E,
    table: tables::X86_64,
};
#[cfg(any(target_arch = "x86_64", test))]
const X86: Arch = Arch {
    name: "SCMP_ARCH_X86",
    audit: 0x4000_0003,
    table: tables::X86,
};
#[cfg(any(target_arch = "aarch64", test))]
const AARCH64: Arch = Arch {
    name: "SCMP_ARCH_AARCH64",
    audit: 0xC000_00B7,
    table: tables::AARCH64,
};
#[cfg(any(target_arch = "aarch64", target_arch = "arm", test))]
const ARM: Arch = Arch {
    name: "SCMP_ARCH_ARM",
    audit: 0x4000_0028,
    table: tables::ARM,
};

#[cfg(target_arch = "x86_64")]
const ARCHES: &[&Arch] = &[&X86_64, &X86];
#[cfg(target_arch = "aarch64")]
const ARCHES: &[&Arch] = &[&AARCH64, &ARM];
#[cfg(target_arch = "arm")]
const ARCHES: &[&Arch] = &[&ARM];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm")))]
compile_error!("this target has no table of system calls: a container would run without its filter");

/// libseccomp's words for architectures. Those that never run on ours are listed in profiles for all machines, and skipped here.
const ARCH_PREFIX: &str = "SCMP_ARCH_";
const ARCH_WORDS: [&str; 23] = [
    "X86",
    "X86_64",
    "X32",
    "ARM",
    "AARCH64",
    "MIPS",
    "MIPS64",
    "MIPS64N32",
    "MIPSEL",
    "MIPSEL64",
    "MIPSEL64N32",
    "PPC",
    "PPC64",
    "PPC64LE",
    "S390",
    "S390X",
    "PARISC",
    "PARISC64",
    "RISCV64",
    "LOONGARCH64",
    "M68K",
    "SH",
    "SHEB",
];

/// Offsets in struct seccomp_data; all our targets are little-endian.
const NR: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

/// BPF_LD|W|ABS, BPF_ALU|AND|K, BPF_JMP|*, BPF_RET|K of linux/bpf_common.h.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQ: u16 = 0x15;
const JUMP_GT: u16 = 0x25;
const JUMP_GE: u16 = 0x35;
const RETURN: u16 = 0x06;

const KILL_PROCESS: u32 = 0x8000_0000;
/// Numbers from here on are x32 calls.
#[cfg(any(target_arch = "x86_64", test))]
const X32_BIT: u32 = 0x4000_0000;

const fn op(code: u16, k: u32) -> SockFilter {
    SockFilter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

const fn branch(code: u16, k: u32, jt: u8, jf: u8) -> SockFilter {
    SockFilter { code, jt, jf, k }
}

const ALLOW: u32 = 0x7fff_0000;
const NOTIFY: u32 = 0x7fc0_0000;
/// With the errno in the low bits.
const RETURN_ERRNO: u32 = 0x0005_0000;

/// SECCOMP_RET_* value of `SCMP_ACT_...`.
fn action(field: &str, word: &str, data: Option<u32>) -> Result<u32> {
    const EPERM: u32 = 1;
    /// The kernel's MAX_ERRNO.
    const ERRNO_MAX: u32 = 4095;
    let data_16 = data.unwrap_or(EPERM) & 0xffff;
    if let Some(errno) = data {
        if !matches!(word, "SCMP_ACT_ERRNO" | "SCMP_ACT_TRACE") {
            return Err(Error::config(field, format!("{word} takes no errno")));
        }
        if errno > ERRNO_MAX && word == "SCMP_ACT_ERRNO" || errno != data_16 {
            return Err(Error::config(field, format!("{errno} is not an errno")));
        }
    }
    Ok(match word {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => KILL_PROCESS,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_ERRNO" => RETURN_ERRNO | data_16,
        "SCMP_ACT_NOTIFY" => NOTIFY,
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | data_16,
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        "SCMP_ACT_ALLOW" => ALLOW,
        other => return Err(Error::config(field, format!("unknown action {other:?}"))),
    })
}

/// A rule with its action and conditions checked.
#[derive(Clone, Copy)]
struct Rule<'a> {
    names: &'a Names,
    action: u32,
    args: &'a [SyscallArg],
}

/// Compiles a filter for this machine, or takes one that is built in.
pub fn compile(seccomp: &Seccomp) -> Result<Filter> {
    if let Some(built) = Built::by_name(&seccomp.default_action) {
        if *seccomp != built.seccomp() {
            let reason = format!(
                "{} is a whole filter: nothing may stand beside it",
                seccomp.default_action
            );
            return Err(Error::config("linux.seccomp.defaultAction", reason));
        }
        return Ok(Filter {
            program: built.program.to_vec(),
            flags: 0,
            notify: None,
        });
    }
    let known = |name: &str| {
        name.strip_prefix(ARCH_PREFIX)
            .is_some_and(|rest| ARCH_WORDS.contains(&rest))
    };
    if let Some(unknown) = seccomp.architectures.iter().find(|name| !known(name)) {
        return Err(Error::config(
            "linux.seccomp.architectures",
            format!("unknown architecture {unknown:?}"),
        ));
    }
    let listed = |arch: &Arch| seccomp.architectures.iter().any(|name| name == arch.name);
    let arches: Vec<&Arch> = ARCHES
        .iter()
        .enumerate()
        .filter(|(index, arch)| *index == 0 || listed(arch))
        .map(|(_, arch)| *arch)
        .collect();
    let rules = Rules::check(seccomp)?;
    let flags = flags(seccomp)?;
    Ok(Filter {
        program: checked(compile_for(&rules, &arches, Part::Rest))?,
        // One flag is for the second filter only.
        flags: flags & !WAIT_KILLABLE_RECV,
        notify: notify(seccomp, &rules, &arches, flags)?,
    })
}

fn checked(program: Vec<SockFilter>) -> Result<Vec<SockFilter>> {
    if program.len() > FILTER_INSTRUCTIONS_MAX {
        let reason = format!(
            "{} instructions; the kernel takes {FILTER_INSTRUCTIONS_MAX}",
            program.len()
        );
        return Err(Error::config("linux.seccomp", reason));
    }
    Ok(program)
}

/// The second filter, when some rule notifies.
fn notify(seccomp: &Seccomp, rules: &Rules<'_>, arches: &[&Arch], flags: u32) -> Result<Option<Notify>> {
    let path = &seccomp.listener_path;
    if path.is_empty() && !seccomp.listener_metadata.is_empty() {
        return Err(Error::config(
            "linux.seccomp.listenerMetadata",
            "needs linux.seccomp.listenerPath",
        ));
    }
    if rules.default != NOTIFY && rules.list.iter().all(|rule| rule.action != NOTIFY) {
        return Ok(None);
    }
    if !path.starts_with('/') {
        return Err(Error::config(
            "linux.seccomp.listenerPath",
            "must be the absolute path of a socket: SCMP_ACT_NOTIFY is used",
        ));
    }
    if rules.may_notify(HAND_OVER) {
        return Err(Error::config(
            "linux.seccomp",
            format!(
                "SCMP_ACT_NOTIFY for {HAND_OVER} cannot be: it hands over the very descriptor that answers"
            ),
        ));
    }
    Ok(Some(Notify {
        program: checked(compile_for(rules, arches, Part::Notify))?,
        // The kernel refuses TSYNC with a listener; we have one thread to synchronise.
        flags: flags & !TSYNC,
        listener_path: path.clone(),
        listener_metadata: seccomp.listener_metadata.clone(),
    }))
}

/// The call by which the listener gets its descriptor.
const HAND_OVER: &str = "sendmsg";

/// SECCOMP_FILTER_FLAG_*
const TSYNC: u32 = 1;
const WAIT_KILLABLE_RECV: u32 = 1 << 5;

fn flags(seccomp: &Seccomp) -> Result<u32> {
    seccomp
        .flags
        .iter()
        .try_fold(0, |bits, flag| match flag.as_str() {
            "SECCOMP_FILTER_FLAG_TSYNC" => Ok(bits | TSYNC),
            "SECCOMP_FILTER_FLAG_LOG" => Ok(bits | 2),
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Ok(bits | 4),
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => Ok(bits | WAIT_KILLABLE_RECV),
            other => Err(Error::config(
                "linux.seccomp.flags",
                format!("unknown flag {other:?}"),
            )),
        })
}

/// Which of the two filters is compiled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Notifications; everything else is allowed.
    Notify,
    /// Everything else; notifications are allowed.
    Rest,
}

/// All rules, checked.
struct Rules<'a> {
    default: u32,
    list: Vec<Rule<'a>>,
}

impl<'a> Rules<'a> {
    fn check(seccomp: &'a Seccomp) -> Result<Self> {
        let field = "linux.seccomp.defaultAction";
        Ok(Self {
            default: action(field, &seccomp.default_action, seccomp.default_errno_ret)?,
            list: seccomp
                .syscalls
                .iter()
                .enumerate()
                .map(|(index, rule)| check_rule(rule, index))
                .collect::<Result<Vec<_>>>()?,
        })
    }

    /// Whether a call can lead to a notification.
    fn may_notify(&self, call: &str) -> bool {
        let mut naming = self
            .list
            .iter()
            .filter(|rule| rule.names.iter().any(|name| name == call));
        let decided = naming.clone().any(|rule| rule.args.is_empty());
        naming.any(|rule| rule.action == NOTIFY) || !decided && self.default == NOTIFY
    }

    /// The same decisions with the actions that belong to the other part allowed.
    fn part(&self, part: Part) -> Rules<'a> {
        let keep = |action: u32| {
            if (action == NOTIFY) == (part == Part::Notify) {
                action
            } else {
                ALLOW
            }
        };
        Rules {
            default: keep(self.default),
            list: self
                .list
                .iter()
                .map(|rule| Rule {
                    action: keep(rule.action),
                    ..*rule
                })
                .collect(),
        }
    }
}

fn compile_for(rules: &Rules<'_>, arches: &[&Arch], part: Part) -> Vec<SockFilter> {
    let rules = rules.part(part);
    let mut program = vec![op(LOAD, ARCH)];
    for arch in arches {
        program.push(branch(JUMP_EQ, arch.audit, 1, 0));
        let start = program.len();
        program.push(op(JUMP, 0));
        compile_arch(arch, &rules, &mut program);
        program[start].k = (program.len() - start - 1) as u32;
    }
    program.push(op(RETURN, KILL_PROCESS));
    program
}

fn check_rule(rule: &SyscallRule, index: usize) -> Result<Rule<'_>> {
    let field = |name: &str| format!("linux.seccomp.syscalls[{index}].{name}");
    if rule.names.is_empty() {
        return Err(Error::config(field("names"), "is empty"));
    }
    if rule.args.len() > CONDITIONS_MAX {
        return Err(Error::config(
            field("args"),
            format!("has more than {CONDITIONS_MAX} conditions"),
        ));
    }
    for arg in &rule.args {
        if arg.index > 5 {
            return Err(Error::config(
                field("args"),
                format!("index {} is above 5", arg.index),
            ));
        }
        if comparison(arg, 1).is_none() {
            return Err(Error::config(
                field("args"),
                format!("unknown operator {:?}", arg.op),
            ));
        }
    }
    Ok(Rule {
        names: &rule.names,
        action: action(&field("action"), &rule.action, rule.errno_ret)?,
        args: &rule.args,
    })
}

/// What happens to one system call: these rules in order, then the action.
#[derive(Clone, PartialEq, Eq)]
struct Outcome {
    conditions: Vec<u32>,
    action: u32,
}

impl Outcome {
    const fn always(action: u32) -> Self {
        Self {
            conditions: Vec::new(),
            action,
        }
    }
}

fn compile_arch(arch: &Arch, rules: &Rules<'_>, program: &mut Vec<SockFilter>) {
    // (number, rule): a call may be named by several rules, whose order counts.
    let (mut calls, mut near) = (Vec::new(), 0);
    for (rule, Rule { names, .. }) in (0..).zip(&rules.list) {
        calls.extend(
            names
                .iter()
                .filter_map(|name| Some((number_in(arch.table, name, &mut near)?, rule))),
        );
    }
    calls.sort_unstable_by_key(|&(number, rule)| u64::from(number) << 32 | u64::from(rule));
    program.push(op(LOAD, NR));
    program.extend(arch.x32_check());
    search(&ranges(&calls, rules), rules, program);
}

/// How many entries are looked at before the rest of the table is searched.
const NEAR: usize = 4;

/// The number of a call in a table. `near` is where the last one was found: lists are mostly sorted as the table is, and the next is not far.
fn number_in(table: &str, name: &str, near: &mut usize) -> Option<u32> {
    let table = table.as_bytes();
    // Both are where an entry starts, or the end.
    let (mut from, mut to) = (0, table.len());
    let (mut at, mut tries) = (*near, NEAR);
    while from < to {
        if tries == 0 || at == to {
            at = from + (to - from) / 2;
            while at > from && (table[at - 1] != b' ' || table[at].is_ascii_digit()) {
                at -= 1;
            }
        }
        tries = tries.saturating_sub(1);
        let (found, number, next) = entry(table, at);
        match found.cmp(name.as_bytes()) {
            Ordering::Equal => {
                *near = next;
                return Some(parsed(number));
            }
            Ordering::Less => (from, at) = (next, next),
            Ordering::Greater => (to, tries) = (at, 0),
        }
    }
    None
}

/// The entry that starts there: name, number, and where the next one starts or the table ends.
fn entry(table: &[u8], start: usize) -> (&[u8], &[u8], usize) {
    let (name, rest) = next_word(&table[start..]);
    let (number, rest) = next_word(rest);
    (name, number, (table.len() - rest.len() + 1).min(table.len()))
}

/// Ranges of numbers with the same outcome: (first number, outcome), the first starting at 0.
fn ranges(calls: &[(u32, u32)], rules: &Rules<'_>) -> Vec<(u32, Outcome)> {
    let mut ranges = vec![(0, Outcome::always(rules.default))];
    let mut push = |first: u32, outcome: Outcome| match ranges.last_mut() {
        Some(last) if last.0 == first => last.1 = outcome,
        Some(last) if last.1 == outcome => {}
        _ => ranges.push((first, outcome)),
    };
    for named in calls.chunk_by(|one, other| one.0 == other.0) {
        let mut outcome = Outcome::always(rules.default);
        for &(_, index) in named {
            let rule = &rules.list[index as usize];
            if rule.args.is_empty() {
                outcome.action = rule.action;
            } else {
                outcome.conditions.push(index);
            }
        }
        let number = named[0].0;
        push(number, outcome);
        push(number + 1, Outcome::always(rules.default));
    }
    // Replacing an outcome in place can leave equal neighbours.
    ranges.dedup_by(|later, earlier| later.1 == earlier.1);
    ranges
}

/// Binary search: the number is in the accumulator.
fn search(ranges: &[(u32, Outcome)], rules: &Rules<'_>, program: &mut Vec<SockFilter>) {
    if let [(_, outcome)] = ranges {
        for &index in &outcome.conditions {
            program.extend(condition(&rules.list[index as usize]));
        }
        program.push(op(RETURN, outcome.action));
        return;
    }
    let (left, right) = ranges.split_at(ranges.len() / 2);
    let start = program.len();
    program.push(branch(JUMP_GE, right[0].0, 0, 0));
    search(left, rules, program);
    let below = program.len() - start - 1;
    match u8::try_from(below) {
        Ok(length) => program[start].jt = length,
        // Conditional jumps reach 255 instructions: go through an unconditional one.
        Err(_) => {
            program[start].jf = 1;
            program.insert(start + 1, op(JUMP, below as u32));
        }
    }
    search(right, rules, program);
}

/// Most comparisons in one rule: a jump over all of them must fit in 8 bits (6 instructions each).
const CONDITIONS_MAX: usize = 40;

/// All conditions of a rule, then its action; falls through when one does not hold.
fn condition(rule: &Rule<'_>) -> Vec<SockFilter> {
    let mut code = vec![op(RETURN, rule.action)];
    for arg in rule.args.iter().rev() {
        // `skip`: from the end of this comparison over the rest of the rule.
        if let Some(mut comparison) = comparison(arg, code.len() as u8) {
            comparison.extend(code);
            code = comparison;
        }
    }
    code
}

/// Compares one 64-bit argument as two words: falls out of its end when it holds, jumps `skip` further when not.
fn comparison(arg: &SyscallArg, skip: u8) -> Option<Vec<SockFilter>> {
    let low_at = ARGS + 8 * (arg.index % 6);
    let high_at = low_at + 4;
    let (high, low) = ((arg.value >> 32) as u32, arg.value as u32);
    // `jt`/`jf` count from the next instruction.
    let code = match arg.op.as_str() {
        "SCMP_CMP_EQ" => vec![
            op(LOAD, high_at),
            branch(JUMP_EQ, high, 0, 2 + skip),
            op(LOAD, low_at),
            branch(JUMP_EQ, low, 0, skip),
        ],
        "SCMP_CMP_NE" => vec![
            op(LOAD, high_at),
            branch(JUMP_EQ, high, 0, 2),
            op(LOAD, low_at),
            branch(JUMP_EQ, low, skip, 0),
        ],
        "SCMP_CMP_MASKED_EQ" => {
            let (high_want, low_want) = ((arg.value_two >> 32) as u32, arg.value_two as u32);
            vec![
                op(LOAD, high_at),
                op(AND, high),
                branch(JUMP_EQ, high_want, 0, 3 + skip),
                op(LOAD, low_at),
                op(AND, low),
                branch(JUMP_EQ, low_want, 0, skip),
            ]
        }
        // Greater: high greater, or high equal and low greater.
        "SCMP_CMP_GT" => ordered(high_at, high, low_at, branch(JUMP_GT, low, 0, skip), true, skip),
        "SCMP_CMP_GE" => ordered(high_at, high, low_at, branch(JUMP_GE, low, 0, skip), true, skip),
        // Less is "not greater or equal".
        "SCMP_CMP_LT" => ordered(high_at, high, low_at, branch(JUMP_GE, low, skip, 0), false, skip),
        "SCMP_CMP_LE" => ordered(high_at, high, low_at, branch(JUMP_GT, low, skip, 0), false, skip),
        _ => return None,
    };
    Some(code)
}

/// high > K decides (`greater_holds`), high < K decides the other way, high == K leaves it to `last` on the low word.
fn ordered(
    high_at: u32,
    high: u32,
    low_at: u32,
    last: SockFilter,
    greater_holds: bool,
    skip: u8,
) -> Vec<SockFilter> {
    const REST: u8 = 3;
    let (greater, less) = if greater_holds {
        (REST, 2 + skip)
    } else {
        (REST + skip, 2)
    };
    vec![
        op(LOAD, high_at),
        branch(JUMP_GT, high, greater, 0),
        branch(JUMP_EQ, high, 0, less),
        op(LOAD, low_at),
        last,
    ]
}

#[cfg(test)]
mod tests;
