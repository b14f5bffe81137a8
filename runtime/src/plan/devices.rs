//! `linux.resources.devices` to an extended BPF program that the kernel asks before a device is opened or made in the container's
//! cgroup. Pure: `cgroup` attaches it. <https://docs.kernel.org/bpf/prog_cgroup_device.html>
//!
//! cgroup v1 had a list, to which every rule was written in turn. Here the same rules are asked from the last to the first, and the
//! last one that speaks of a device and of a kind of access decides about it: read, write and mknod each for itself. What no rule speaks of is
//! denied, as runc and crun do.

use super::{CapabilityPlan, NamespacePlan, capability_number, namespaces};
use crate::error::{Error, Result};
use punnet_spec::{DeviceCgroup, Linux};
use punnet_sys::BpfInsn;

/// Most rules: the program of the longest kind of rule stays below the 4096 instructions that every kernel takes.
const RULES_MAX: usize = 500;

const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

/// BPF_DEVCG_DEV_* of linux/bpf.h.
const BLOCK: i32 = 1;
const CHAR: i32 = 2;

/// A rule, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    allow: bool,
    /// BPF_DEVCG_DEV_*; all when absent.
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    /// BPF_DEVCG_ACC_* bits.
    access: u8,
}

impl Rule {
    /// Speaks of every device and every access: what stands before it does not matter.
    fn is_total(&self) -> bool {
        self.access == ALL && self.kind.is_none() && self.major.is_none() && self.minor.is_none()
    }
}

/// What can be done where no program can be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// The program cannot make nodes, and what is in /dev is what config.json names: closing the nodes of the image is enough.
    CloseRoot,
    /// Nothing.
    Refuse,
}

/// The device rules of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFilter {
    /// For the kernel.
    pub program: Vec<BpfInsn>,
    /// When the kernel does not take it.
    pub without: Without,
}

/// Allowed after all rules, as runc and crun do: making nodes (opening them is another thing), the default devices, terminals.
const DEFAULT_RULES: [Rule; 11] = {
    const fn node(major: i32, minor: Option<i32>) -> Rule {
        Rule {
            allow: true,
            kind: Some(CHAR),
            major: Some(major),
            minor,
            access: ALL,
        }
    }
    const fn make(kind: i32) -> Rule {
        Rule {
            allow: true,
            kind: Some(kind),
            major: None,
            minor: None,
            access: MKNOD,
        }
    }
    [
        make(CHAR),
        make(BLOCK),
        node(1, Some(3)),
        node(1, Some(5)),
        node(1, Some(7)),
        node(1, Some(8)),
        node(1, Some(9)),
        node(5, Some(0)),
        node(5, Some(1)),
        node(5, Some(2)),
        node(136, None),
    ]
};

/// Plans `linux.resources.devices`; `None` when all devices are allowed.
pub fn plan(
    linux: &Linux,
    capabilities: Option<CapabilityPlan>,
    namespaces: &NamespacePlan,
) -> Result<Option<DeviceFilter>> {
    let given = linux
        .resources
        .as_ref()
        .map_or(&[][..], |resources| &resources.devices);
    if given.is_empty() {
        return Ok(None);
    }
    if given.len() > RULES_MAX {
        let reason = format!("more than {RULES_MAX} rules");
        return Err(Error::config("linux.resources.devices", reason));
    }
    let mut rules = given
        .iter()
        .enumerate()
        .map(|(index, rule)| check(rule, index))
        .collect::<Result<Vec<_>>>()?;
    let total = rules.iter().rposition(Rule::is_total);
    if total.is_some_and(|total| rules[total..].iter().all(|rule| rule.allow)) {
        return Ok(None);
    }
    rules.drain(..total.unwrap_or(0));
    rules.extend(DEFAULT_RULES);
    let mknod = 1 << capability_number("CAP_MKNOD").unwrap_or_default();
    let makes_nodes = capabilities.is_some_and(|capabilities| capabilities.bounding & mknod != 0);
    Ok(Some(DeviceFilter {
        program: compile(&rules),
        without: if makes_nodes && !namespaces.has(namespaces::USER) {
            Without::Refuse
        } else {
            Without::CloseRoot
        },
    }))
}

fn check(rule: &DeviceCgroup, index: usize) -> Result<Rule> {
    let field = |name: &str| format!("linux.resources.devices[{index}].{name}");
    let kind = match rule.kind.as_str() {
        "" | "a" => None,
        "c" => Some(CHAR),
        "b" => Some(BLOCK),
        other => return Err(Error::config(field("type"), format!("unknown type {other:?}"))),
    };
    // -1 is runc's word for all.
    let number = |name: &str, value: Option<i64>| match value {
        None | Some(-1) => Ok(None),
        Some(value) => i32::try_from(value)
            .ok()
            .filter(|number| *number >= 0)
            .map(Some)
            .ok_or_else(|| Error::config(field(name), format!("{value} is not a device number"))),
    };
    let access = rule.access.chars().try_fold(0, |bits, letter| match letter {
        'r' => Ok(bits | READ),
        'w' => Ok(bits | WRITE),
        'm' => Ok(bits | MKNOD),
        other => Err(Error::config(
            field("access"),
            format!("unknown access {other:?}"),
        )),
    })?;
    Ok(Rule {
        allow: rule.allow,
        kind,
        major: number("major", rule.major)?,
        minor: number("minor", rule.minor)?,
        // Left out is all, as with the other fields.
        access: if access == 0 { ALL } else { access },
    })
}

/// Registers.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const LEFT: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

/// Operations of linux/bpf_common.h and linux/bpf.h, the 32-bit ones where it matters.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb4;
const MOVE_REGISTER: u8 = 0xbc;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

fn op(code: u8, to: u8, immediate: i32) -> BpfInsn {
    BpfInsn {
        code,
        registers: to,
        offset: 0,
        immediate,
    }
}

fn load(to: u8, offset: i16) -> BpfInsn {
    BpfInsn {
        code: LOAD_WORD,
        registers: to | CONTEXT << 4,
        offset,
        immediate: 0,
    }
}

fn copy(to: u8, from: u8) -> BpfInsn {
    BpfInsn {
        code: MOVE_REGISTER,
        registers: to | from << 4,
        offset: 0,
        immediate: 0,
    }
}

fn answer(allow: bool) -> [BpfInsn; 2] {
    [op(MOVE, RESULT, i32::from(allow)), op(EXIT, 0, 0)]
}

/// The program: struct bpf_cgroup_dev_ctx holds the access in the high half of its first word and the type in the low one, then the
/// numbers. `LEFT` holds the kinds of access that nothing has decided about, never none.
fn compile(rules: &[Rule]) -> Vec<BpfInsn> {
    let mut program = vec![
        load(KIND, 0),
        copy(LEFT, KIND),
        op(SHIFT_RIGHT, LEFT, 16),
        op(AND, KIND, 0xffff),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules.iter().rev() {
        program.extend(compile_rule(rule));
        if rule.is_total() {
            // The kernel takes no instruction that is never reached.
            return program;
        }
    }
    program.extend(answer(false));
    program
}

fn compile_rule(rule: &Rule) -> Vec<BpfInsn> {
    let mut code: Vec<BpfInsn> = Vec::with_capacity(8);
    // Jumps go behind the rule: their distances are filled in at the end.
    for (register, number) in [(KIND, rule.kind), (MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(number) = number {
            code.push(op(JUMP_NOT_EQUAL, register, number));
        }
    }
    match (rule.allow, rule.access) {
        (_, ALL) => {}
        (true, access) => {
            code.push(op(AND, LEFT, i32::from(ALL & !access)));
            code.push(op(JUMP_NOT_EQUAL, LEFT, 0));
        }
        (false, access) => {
            code.push(copy(SCRATCH, LEFT));
            code.push(op(AND, SCRATCH, access.into()));
            code.push(op(JUMP_EQUAL, SCRATCH, 0));
        }
    }
    code.extend(answer(rule.allow));
    let end = code.len();
    for (at, instruction) in code.iter_mut().enumerate() {
        if matches!(instruction.code, JUMP_EQUAL | JUMP_NOT_EQUAL) {
            instruction.offset = (end - at - 1) as i16;
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would answer.
    fn run(program: &[BpfInsn], kind: i32, major: u32, minor: u32, access: u8) -> bool {
        let context = [u32::from(access) << 16 | kind as u32, major, minor];
        let mut registers = [0_u32; 11];
        let mut at = 0;
        // Jumps only go forward, so the program ends within its length.
        for _ in 0..program.len() {
            let step = program[at];
            at += 1;
            let (to, from) = (usize::from(step.registers & 15), usize::from(step.registers >> 4));
            let immediate = step.immediate as u32;
            match step.code {
                LOAD_WORD => registers[to] = context[step.offset as usize / 4],
                MOVE => registers[to] = immediate,
                MOVE_REGISTER => registers[to] = registers[from],
                AND => registers[to] &= immediate,
                SHIFT_RIGHT => registers[to] >>= immediate,
                JUMP_EQUAL if registers[to] == immediate => at += step.offset as usize,
                JUMP_NOT_EQUAL if registers[to] != immediate => at += step.offset as usize,
                JUMP_EQUAL | JUMP_NOT_EQUAL => {}
                EXIT => return registers[0] == 1,
                other => panic!("unknown operation {other:#x}"),
            }
        }
        panic!("no end");
    }

    fn filter(
        rules: &str,
        capabilities: u64,
        namespaces: u64,
    ) -> std::result::Result<Option<DeviceFilter>, String> {
        let linux: Linux =
            punnet_json::from_str(&format!(r#"{{"resources":{{"devices":{rules}}}}}"#)).unwrap();
        let capabilities = CapabilityPlan {
            bounding: capabilities,
            ..CapabilityPlan::default()
        };
        let namespaces = NamespacePlan {
            new: namespaces,
            ..NamespacePlan::default()
        };
        plan(&linux, Some(capabilities), &namespaces).map_err(|error| error.to_string())
    }

    #[test]
    fn the_last_rule_that_speaks_of_an_access_decides() {
        let rules = r#"[
            {"allow":true,"type":"b","major":8,"access":"rwm"},
            {"allow":false},
            {"allow":true,"type":"c","major":10,"minor":229,"access":"rw"},
            {"allow":true,"type":"b","major":8,"minor":0,"access":"r"},
            {"allow":true,"type":"b","major":8,"minor":0,"access":"w"},
            {"allow":true,"type":"c","major":4,"access":"rwm"},
            {"allow":false,"type":"c","major":4,"minor":7,"access":"w"}]"#;
        let program = filter(rules, 0, 0).unwrap().unwrap().program;
        for (kind, major, minor, access, expected) in [
            (CHAR, 1, 3, READ | WRITE, true),
            (CHAR, 136, 77, READ | WRITE, true),
            (CHAR, 1, 1, READ, false),
            (CHAR, 10, 229, READ | WRITE, true),
            (CHAR, 10, 229, READ, true),
            (CHAR, 10, 229, READ | MKNOD, true),
            (BLOCK, 10, 229, READ, false),
            (CHAR, 10, 228, READ, false),
            (BLOCK, 8, 0, READ | WRITE, true),
            (BLOCK, 8, 1, READ, false),
            (BLOCK, 8, 1, MKNOD, true),
            (CHAR, 4, 6, READ | WRITE, true),
            (CHAR, 4, 7, READ, true),
            (CHAR, 4, 7, READ | WRITE, false),
        ] {
            assert_eq!(
                run(&program, kind, major, minor, access),
                expected,
                "{kind} {major}:{minor} {access}"
            );
        }
    }

    #[test]
    fn a_list_without_a_denial_still_is_a_list_of_what_is_allowed() {
        let rules = r#"[{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}]"#;
        let program = filter(rules, 0, 0).unwrap().unwrap().program;
        assert!(run(&program, CHAR, 10, 229, READ) && !run(&program, CHAR, 10, 230, READ));
    }

    #[test]
    fn nothing_is_filtered_where_all_is_allowed() {
        for rules in [
            "[]",
            r#"[{"allow":true,"access":"rwm"}]"#,
            r#"[{"allow":false},{"allow":true,"type":"a"}]"#,
        ] {
            assert_eq!(filter(rules, 0, 0).unwrap(), None, "{rules}");
        }
        let taken_back = r#"[{"allow":true},{"allow":false,"type":"c","major":10}]"#;
        let program = filter(taken_back, 0, 0).unwrap().unwrap().program;
        assert!(!run(&program, CHAR, 10, 0, READ) && run(&program, CHAR, 11, 0, READ));
    }

    #[test]
    fn no_instruction_is_out_of_reach() {
        for rules in [
            r#"[{"allow":false}]"#,
            r#"[{"allow":true},{"allow":false,"access":"m"}]"#,
            r#"[{"allow":true,"type":"b","access":"r"},{"allow":false}]"#,
        ] {
            let program = filter(rules, 0, 0).unwrap().unwrap().program;
            let mut reached = vec![false; program.len()];
            reached[0] = true;
            for (at, step) in program.iter().enumerate() {
                assert!(reached[at], "{rules}: {at}");
                if matches!(step.code, JUMP_EQUAL | JUMP_NOT_EQUAL) {
                    reached[at + 1 + step.offset as usize] = true;
                }
                if step.code != EXIT && at + 1 < program.len() {
                    reached[at + 1] = true;
                }
            }
            assert_eq!(program.last().unwrap().code, EXIT);
        }
    }

    #[test]
    fn without_a_program_the_image_is_closed_unless_nodes_can_be_made() {
        let deny = r#"[{"allow":false}]"#;
        let mknod = 1 << 27;
        for (capabilities, namespaces, expected) in [
            (0, 0, Without::CloseRoot),
            (mknod, 0, Without::Refuse),
            (mknod, namespaces::USER, Without::CloseRoot),
        ] {
            let filter = filter(deny, capabilities, namespaces).unwrap().unwrap();
            assert_eq!(filter.without, expected);
        }
    }

    #[test]
    fn wrong_rules_are_named() {
        for (rule, field) in [
            (r#"{"allow":true,"type":"x"}"#, "[0].type"),
            (r#"{"allow":true,"access":"rx"}"#, "[0].access"),
            (r#"{"allow":true,"major":-2}"#, "[0].major"),
            (r#"{"allow":true,"minor":4294967296}"#, "[0].minor"),
        ] {
            let error = filter(&format!("[{rule}]"), 0, 0).unwrap_err();
            assert!(error.contains(field), "{error}");
        }
        let many = format!("[{}]", vec![r#"{"allow":true}"#; RULES_MAX + 1].join(","));
        assert!(filter(&many, 0, 0).is_err());
    }
}
