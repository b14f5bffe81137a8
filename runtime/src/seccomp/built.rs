//! The default filter, built while this crate is compiled: a container that takes it as it is pays neither for the text of the profile nor for compiling it.
//!
//! `linux.seccomp.defaultAction` names the program, and nothing stands beside it. The specification has no such action: a runtime that does not know the name refuses
//! the container instead of running it without a filter. Programs are those of [`super::compile`], instruction for instruction; a test compares them.

use super::profile::{
    AF_VSOCK, CLONE_NAMESPACES, ENOSYS, EPERM, GATED, PERSONALITIES, default_seccomp, open_rows,
};
use super::{
    ALLOW, AND, ARCH, ARCHES, ARGS, Arch, JUMP, JUMP_EQ, JUMP_GE, KILL_PROCESS, LOAD, NR, RETURN,
    RETURN_ERRNO, branch, op,
};
use punnet_spec::Seccomp;
use punnet_sys::SockFilter;

/// The default filter of containers whose capabilities open the same calls.
pub(super) struct Built {
    name: &'static str,
    /// Rows of [`GATED`] that are open, one bit each.
    open: u32,
    /// For the kernel.
    pub(super) program: &'static [SockFilter],
}

const CLOSED: u32 = 0;
/// Of all capabilities that `punnet run` gives unasked, one opens calls.
const CHROOT: u32 = rows_that_need(b"SYS_CHROOT");

/// A program in as many bytes as it has.
macro_rules! program {
    ($open:expr) => {{
        const CODE: Code = build(ARCHES, $open);
        static PROGRAM: [SockFilter; CODE.length] = CODE.trimmed();
        &PROGRAM
    }};
}

/// Without capabilities, and with those of a container that asks for nothing. Names stay: they are in the configuration of containers that exist.
static BUILT: [Built; 2] = [
    Built {
        name: "PUNNET_ACT_DEFAULT",
        open: CLOSED,
        program: program!(CLOSED),
    },
    Built {
        name: "PUNNET_ACT_DEFAULT_CHROOT",
        open: CHROOT,
        program: program!(CHROOT),
    },
];

impl Built {
    pub(super) fn by_name(name: &str) -> Option<&'static Self> {
        BUILT.iter().find(|built| built.name == name)
    }

    /// How config.json says it.
    pub(super) fn seccomp(&self) -> Seccomp {
        Seccomp {
            default_action: self.name.to_owned(),
            ..Seccomp::default()
        }
    }
}

/// As [`default_seccomp`], by name where the program is built in. For this runtime only.
pub fn named_default_seccomp(capabilities: &[String]) -> Seccomp {
    let open = open_rows(capabilities);
    BUILT
        .iter()
        .find(|built| built.open == open)
        .map_or_else(|| default_seccomp(capabilities), Built::seccomp)
}

/// What happens to a call.
#[derive(Clone, Copy)]
enum Call {
    Allowed,
    Denied,
    Socket,
    Personality,
    Clone,
    Clone3,
}

/// Arrays are as long as this: no table has as many calls, no program as many instructions. The compiler says when that changes.
const ROOM: usize = 1024;

/// A program that grows.
pub(super) struct Code {
    steps: [SockFilter; ROOM],
    length: usize,
}

impl Code {
    const fn push(&mut self, step: SockFilter) {
        self.steps[self.length] = step;
        self.length += 1;
    }

    const fn extend(&mut self, steps: &[SockFilter]) {
        let mut at = 0;
        while at < steps.len() {
            self.push(steps[at]);
            at += 1;
        }
    }

    const fn trimmed<const N: usize>(&self) -> [SockFilter; N] {
        let mut steps = [op(RETURN, KILL_PROCESS); N];
        let mut at = 0;
        while at < N {
            steps[at] = self.steps[at];
            at += 1;
        }
        steps
    }

    #[cfg(test)]
    pub(super) fn steps(&self) -> &[SockFilter] {
        &self.steps[..self.length]
    }
}

/// The filter for these architectures, with these rows of [`GATED`] open; none may be CAP_SYS_ADMIN's, which changes clone too.
pub(super) const fn build(arches: &[&Arch], open: u32) -> Code {
    assert!(open & rows_that_need(b"SYS_ADMIN") == 0);
    let mut code = Code {
        steps: [op(RETURN, KILL_PROCESS); ROOM],
        length: 0,
    };
    code.push(op(LOAD, ARCH));
    let mut index = 0;
    while index < arches.len() {
        let arch = arches[index];
        let ranges = Ranges::of(&Calls::of(arch, open));
        let x32: &[SockFilter] = arch.x32_check();
        let length = 1 + x32.len() + ranges.size(0, ranges.length);
        code.push(branch(JUMP_EQ, arch.audit, 1, 0));
        code.push(op(JUMP, length as u32));
        code.push(op(LOAD, NR));
        code.extend(x32);
        ranges.search(0, ranges.length, &mut code);
        index += 1;
    }
    code.push(op(RETURN, KILL_PROCESS));
    code
}

/// A call of an architecture's table.
#[derive(Clone, Copy)]
struct Entry<'a> {
    name: &'a [u8],
    number: u32,
    call: Call,
}

/// Calls of an architecture by number.
struct Calls<'a> {
    list: [Entry<'a>; ROOM],
    length: usize,
}

impl<'a> Calls<'a> {
    const fn of(arch: &'a Arch, open: u32) -> Self {
        let mut calls = Self::listed(arch.table.as_bytes());
        let mut row = 0;
        while row < GATED.len() {
            if open >> row & 1 == 0 {
                calls.set(GATED[row].0.as_bytes(), Call::Denied);
            }
            row += 1;
        }
        calls.set(b"socket", Call::Socket);
        calls.set(b"personality", Call::Personality);
        calls.set(b"clone", Call::Clone);
        calls.set(b"clone3", Call::Clone3);
        calls
    }

    /// All of a table, allowed.
    const fn listed(table: &'a [u8]) -> Self {
        const NONE: Entry<'_> = Entry {
            name: b"",
            number: 0,
            call: Call::Allowed,
        };
        let mut calls = Self {
            list: [NONE; ROOM],
            length: 0,
        };
        let mut table = table;
        loop {
            let (name, rest) = next_word(table);
            let (number, rest) = next_word(rest);
            if name.is_empty() {
                return calls;
            }
            let entry = Entry {
                name,
                number: parsed(number),
                ..NONE
            };
            let mut at = calls.length;
            while at > 0 && calls.list[at - 1].number > entry.number {
                calls.list[at] = calls.list[at - 1];
                at -= 1;
            }
            calls.list[at] = entry;
            calls.length += 1;
            table = rest;
        }
    }

    const fn set(&mut self, names: &[u8], call: Call) {
        let mut names = names;
        loop {
            let (name, rest) = next_word(names);
            if name.is_empty() {
                return;
            }
            let mut at = 0;
            while at < self.length && !same(self.list[at].name, name) {
                at += 1;
            }
            if at < self.length {
                self.list[at].call = call;
            }
            names = rest;
        }
    }
}

/// Ranges of numbers with the same outcome, by their first number; the first range starts at 0.
struct Ranges {
    list: [(u32, Call); ROOM],
    length: usize,
}

impl Ranges {
    const fn of(calls: &Calls<'_>) -> Self {
        let mut ranges = Self {
            list: [(0, Call::Denied); ROOM],
            length: 0,
        };
        let (mut next, mut at) = (0, 0);
        while at < calls.length {
            let Entry { number, call, .. } = calls.list[at];
            if number > next {
                ranges.push(next, Call::Denied);
            }
            ranges.push(number, call);
            next = number + 1;
            at += 1;
        }
        ranges.push(next, Call::Denied);
        ranges
    }

    const fn push(&mut self, first: u32, call: Call) {
        if self.length == 0 || self.list[self.length - 1].1 as u8 != call as u8 {
            self.list[self.length] = (first, call);
            self.length += 1;
        }
    }

    /// Instructions of a search in a part of the ranges.
    const fn size(&self, from: usize, to: usize) -> usize {
        if to - from == 1 {
            return leaf(self.list[from].1).len();
        }
        let middle = from + (to - from) / 2;
        let below = self.size(from, middle);
        let jumps = if below > u8::MAX as usize { 2 } else { 1 };
        jumps + below + self.size(middle, to)
    }

    /// Binary search: the number is in the accumulator.
    const fn search(&self, from: usize, to: usize, code: &mut Code) {
        if to - from == 1 {
            return code.extend(leaf(self.list[from].1));
        }
        let middle = from + (to - from) / 2;
        let (below, first) = (self.size(from, middle), self.list[middle].0);
        if below > u8::MAX as usize {
            code.push(branch(JUMP_GE, first, 0, 1));
            code.push(op(JUMP, below as u32));
        } else {
            code.push(branch(JUMP_GE, first, below as u8, 0));
        }
        self.search(from, middle, code);
        self.search(middle, to, code);
    }
}

const DENY: SockFilter = op(RETURN, RETURN_ERRNO | EPERM);
/// The first argument's words.
const HIGH: SockFilter = op(LOAD, ARGS + 4);
const LOW: SockFilter = op(LOAD, ARGS);

const fn leaf(call: Call) -> &'static [SockFilter] {
    const SOCKET: [SockFilter; 6] = [
        HIGH,
        branch(JUMP_EQ, 0, 0, 2),
        LOW,
        branch(JUMP_EQ, AF_VSOCK as u32, 1, 0),
        op(RETURN, ALLOW),
        DENY,
    ];
    const CLONE: [SockFilter; 8] = [
        HIGH,
        op(AND, (CLONE_NAMESPACES >> 32) as u32),
        branch(JUMP_EQ, 0, 0, 4),
        LOW,
        op(AND, CLONE_NAMESPACES as u32),
        branch(JUMP_EQ, 0, 0, 1),
        op(RETURN, ALLOW),
        DENY,
    ];
    const PERSONALITY: [SockFilter; 5 * PERSONALITIES.len() + 1] = {
        let mut code = [DENY; 5 * PERSONALITIES.len() + 1];
        let mut at = 0;
        while at < PERSONALITIES.len() {
            let value = PERSONALITIES[at];
            code[5 * at] = HIGH;
            code[5 * at + 1] = branch(JUMP_EQ, (value >> 32) as u32, 0, 3);
            code[5 * at + 2] = LOW;
            code[5 * at + 3] = branch(JUMP_EQ, value as u32, 0, 1);
            code[5 * at + 4] = op(RETURN, ALLOW);
            at += 1;
        }
        code
    };
    match call {
        Call::Allowed => const { &[op(RETURN, ALLOW)] },
        Call::Denied => const { &[DENY] },
        Call::Socket => &SOCKET,
        Call::Personality => &PERSONALITY,
        Call::Clone => &CLONE,
        Call::Clone3 => const { &[op(RETURN, RETURN_ERRNO | ENOSYS)] },
    }
}

/// Rows of [`GATED`] that a capability opens, one bit each.
const fn rows_that_need(capability: &[u8]) -> u32 {
    let (mut rows, mut row) = (0, 0);
    while row < GATED.len() {
        if lists(GATED[row].1.as_bytes(), capability) {
            rows |= 1 << row;
        }
        row += 1;
    }
    rows
}

/// The first word and what follows it. No word is left when it is empty.
pub(super) const fn next_word(text: &[u8]) -> (&[u8], &[u8]) {
    let mut text = text;
    while let [b' ', rest @ ..] = text {
        text = rest;
    }
    let mut end = 0;
    while end < text.len() && text[end] != b' ' {
        end += 1;
    }
    text.split_at(end)
}

const fn lists(words: &[u8], wanted: &[u8]) -> bool {
    let mut words = words;
    loop {
        let (word, rest) = next_word(words);
        if word.is_empty() {
            return false;
        }
        if same(word, wanted) {
            return true;
        }
        words = rest;
    }
}

const fn same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut at = 0;
    while at < one.len() {
        if one[at] != other[at] {
            return false;
        }
        at += 1;
    }
    true
}

pub(super) const fn parsed(digits: &[u8]) -> u32 {
    let (mut number, mut at) = (0, 0);
    while at < digits.len() {
        number = number * 10 + (digits[at] - b'0') as u32;
        at += 1;
    }
    number
}
