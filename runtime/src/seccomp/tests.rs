//! The program is run by a small evaluator of classic BPF: every architecture on any machine.

use super::*;

const EPERM: u32 = 0x0005_0001;

/// What the kernel would answer to a call.
fn run(program: &[SockFilter], audit: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_le_bytes());
    data.extend(audit.to_le_bytes());
    data.extend([0; 8]);
    data.extend(args.iter().flat_map(|arg| arg.to_le_bytes()));
    let (mut at, mut word) = (0, 0_u32);
    // Jumps only go forward, so the program ends within its length.
    for _ in 0..=program.len() {
        let step = program[at];
        at += 1;
        let taken = match step.code {
            LOAD => {
                let k = step.k as usize;
                word = u32::from_le_bytes(data[k..k + 4].try_into().unwrap());
                continue;
            }
            AND => {
                word &= step.k;
                continue;
            }
            RETURN => return step.k,
            JUMP => {
                at += step.k as usize;
                continue;
            }
            JUMP_EQ => word == step.k,
            JUMP_GT => word > step.k,
            JUMP_GE => word >= step.k,
            other => panic!("unknown operation {other:#x}"),
        };
        at += usize::from(if taken { step.jt } else { step.jf });
    }
    panic!("no end");
}

/// The filter without notifications.
fn rest(seccomp: &Seccomp, arches: &[&Arch]) -> Vec<SockFilter> {
    compile_for(&Rules::check(seccomp).unwrap(), arches, Part::Rest)
}

fn number(arch: &Arch, name: &str) -> u32 {
    let words: Vec<&str> = arch.table.split(' ').collect();
    let at = words
        .iter()
        .position(|word| *word == name)
        .unwrap_or_else(|| panic!("{} has no {name}", arch.name));
    words[at + 1].parse().unwrap()
}

fn rule(names: &[&str], action: &str, args: Vec<SyscallArg>) -> SyscallRule {
    SyscallRule {
        names: names.iter().copied().collect(),
        action: action.into(),
        errno_ret: None,
        args,
    }
}

fn arg(op: &str, value: u64, value_two: u64) -> SyscallArg {
    SyscallArg {
        index: 2,
        value,
        value_two,
        op: op.into(),
    }
}

fn filter(default: &str, syscalls: Vec<SyscallRule>) -> Seccomp {
    Seccomp {
        default_action: default.into(),
        syscalls,
        ..Seccomp::default()
    }
}

#[test]
fn tables_are_sorted_and_pair_names_with_numbers() {
    for arch in [&X86_64, &X86, &AARCH64, &ARM] {
        let words: Vec<&str> = arch.table.split(' ').collect();
        let names: Vec<&str> = words.iter().step_by(2).copied().collect();
        assert!(names.is_sorted(), "{}", arch.name);
        let numbers: std::collections::BTreeSet<&str> = words.iter().skip(1).step_by(2).copied().collect();
        assert_eq!(numbers.len(), names.len(), "{}: two names of one call", arch.name);
        assert!(
            words
                .iter()
                .skip(1)
                .step_by(2)
                .all(|number| number.parse::<u32>().is_ok()),
            "{}",
            arch.name
        );
    }
    assert_eq!(
        (
            number(&X86_64, "openat"),
            number(&AARCH64, "openat"),
            number(&ARM, "openat")
        ),
        (257, 56, 322)
    );
    assert_eq!(
        (number(&ARM, "clock_gettime64"), number(&ARM, "set_tls")),
        (403, 983_045)
    );
}

#[test]
fn the_order_of_the_names_makes_no_difference() {
    for arch in [&X86_64, &X86, &AARCH64, &ARM] {
        let mut names: Vec<&str> = arch.table.split(' ').step_by(2).collect();
        names.push("no_such_call");
        let program = |names: &[&str]| {
            let allowed = rule(names, "SCMP_ACT_ALLOW", Vec::new());
            rest(&filter("SCMP_ACT_ERRNO", vec![allowed]), &[arch])
        };
        let sorted = program(&names);
        names.reverse();
        assert_eq!(program(&names), sorted, "{}", arch.name);
        let half = names.len() / 2;
        names.rotate_left(half);
        assert_eq!(program(&names), sorted, "{}", arch.name);
    }
}

#[test]
fn arguments_are_compared_as_64_bits() {
    const BIG: u64 = 0x1_0000_0005;
    type Case<'a> = (&'a str, u64, u64, &'a [u64], &'a [u64]);
    let cases: &[Case<'_>] = &[
        ("SCMP_CMP_EQ", BIG, 0, &[BIG], &[5, BIG + 1, 0x2_0000_0005]),
        ("SCMP_CMP_NE", BIG, 0, &[5, BIG + 1, 0x2_0000_0005], &[BIG]),
        (
            "SCMP_CMP_LT",
            BIG,
            0,
            &[0, 5, 6, BIG - 1],
            &[BIG, BIG + 1, 0x2_0000_0000, u64::MAX],
        ),
        ("SCMP_CMP_LE", BIG, 0, &[0, 6, BIG], &[BIG + 1, 0x2_0000_0000]),
        ("SCMP_CMP_GT", BIG, 0, &[BIG + 1, 0x2_0000_0000], &[0, 6, BIG]),
        ("SCMP_CMP_GE", BIG, 0, &[BIG, 0x2_0000_0000], &[0, 6, BIG - 1]),
        (
            "SCMP_CMP_MASKED_EQ",
            0xf_0000_000f,
            BIG,
            &[BIG, BIG | 0x10],
            &[5, BIG | 0x2_0000_0000, BIG | 2],
        ),
    ];
    for (op, value, two, holds, fails) in cases {
        // Between two other conditions, so that jumps over more than one are taken.
        let any = || SyscallArg {
            index: 0,
            value: 0,
            value_two: 0,
            op: "SCMP_CMP_GE".into(),
        };
        let conditions = vec![any(), arg(op, *value, *two), any()];
        let seccomp = filter(
            "SCMP_ACT_ERRNO",
            vec![rule(&["read"], "SCMP_ACT_ALLOW", conditions)],
        );
        for arch in [&X86_64, &AARCH64, &ARM] {
            let program = rest(&seccomp, &[arch]);
            let check = |value: u64| run(&program, arch.audit, number(arch, "read"), [0, 0, value, 0, 0, 0]);
            for value in *holds {
                assert_eq!(check(*value), ALLOW, "{op} {value:#x}");
            }
            for value in *fails {
                assert_eq!(check(*value), EPERM, "{op} {value:#x}");
            }
        }
    }
}

#[test]
fn every_call_of_every_table_gets_the_action_its_rule_says() {
    for arch in [&X86_64, &X86, &AARCH64, &ARM] {
        let words: Vec<&str> = arch.table.split(' ').collect();
        let names: Vec<&str> = words.iter().step_by(2).copied().collect();
        let (even, odd): (Vec<_>, Vec<_>) = names.iter().enumerate().partition(|(index, _)| index % 2 == 0);
        let pick =
            |list: Vec<(usize, &&'static str)>| list.into_iter().map(|(_, name)| *name).collect::<Vec<_>>();
        let (even, odd) = (pick(even), pick(odd));
        let program = rest(
            &filter(
                "SCMP_ACT_TRAP",
                vec![
                    rule(&even, "SCMP_ACT_ALLOW", vec![]),
                    rule(&odd, "SCMP_ACT_LOG", vec![]),
                ],
            ),
            &[arch],
        );
        assert!(program.len() < FILTER_INSTRUCTIONS_MAX);
        for name in &even {
            assert_eq!(
                run(&program, arch.audit, number(arch, name), [0; 6]),
                ALLOW,
                "{name}"
            );
        }
        for name in &odd {
            assert_eq!(
                run(&program, arch.audit, number(arch, name), [0; 6]),
                0x7ffc_0000,
                "{name}"
            );
        }
        assert_eq!(run(&program, arch.audit, 5000, [0; 6]), 0x0003_0000);
    }
}

#[test]
fn foreign_architectures_and_x32_are_killed() {
    let seccomp = filter("SCMP_ACT_ALLOW", vec![rule(&["mount"], "SCMP_ACT_ERRNO", vec![])]);
    let program = rest(&seccomp, &[&X86_64]);
    assert_eq!(run(&program, X86_64.audit, 0, [0; 6]), ALLOW);
    assert_eq!(
        run(&program, X86_64.audit, number(&X86_64, "mount"), [0; 6]),
        EPERM
    );
    assert_eq!(run(&program, X86.audit, 0, [0; 6]), KILL_PROCESS);
    assert_eq!(run(&program, X86_64.audit, X32_BIT | 165, [0; 6]), KILL_PROCESS);
    let both = rest(&seccomp, &[&X86_64, &X86]);
    assert_eq!(run(&both, X86.audit, number(&X86, "mount"), [0; 6]), EPERM);
    assert_eq!(run(&both, ARM.audit, 0, [0; 6]), KILL_PROCESS);
}

#[test]
fn default_profile_denies_what_escapes_use_and_allows_what_programs_need() {
    let profile = default_seccomp(&["CAP_CHOWN".to_owned()]);
    for arch in ARCHES {
        let program = rest(&profile, &[arch]);
        let check =
            |name: &str, first: u64| run(&program, arch.audit, number(arch, name), [first, 0, 0, 0, 0, 0]);
        for name in [
            "mount",
            "bpf",
            "keyctl",
            "unshare",
            "setns",
            "reboot",
            "userfaultfd",
            "io_uring_setup",
            "open_tree",
        ] {
            assert_eq!(check(name, 0), EPERM, "{name}");
        }
        for name in [
            "read",
            "openat",
            "execve",
            "futex",
            "getrandom",
            "capset",
            "prctl",
            "exit_group",
            "ptrace",
            "memfd_create",
        ] {
            assert_eq!(check(name, 0), ALLOW, "{name}");
        }
        assert_eq!(check("clone3", 0), 0x0005_0026);
        assert_eq!((check("clone", 17), check("clone", 0x1000_0011)), (ALLOW, EPERM));
        assert_eq!(
            (check("personality", 8), check("personality", 0x40_0000)),
            (ALLOW, EPERM)
        );
    }
    assert_eq!(
        run(
            &rest(&profile, ARCHES),
            ARCHES[0].audit,
            number(ARCHES[0], "socket"),
            [40, 0, 0, 0, 0, 0]
        ),
        EPERM
    );
    let admin = default_seccomp(&["CAP_SYS_ADMIN".to_owned()]);
    let program = rest(&admin, ARCHES);
    assert_eq!(
        run(&program, ARCHES[0].audit, number(ARCHES[0], "mount"), [0; 6]),
        ALLOW
    );
}

/// Capabilities whose filter is built in: of none, of `punnet run`, of one more that opens no calls, of `--cap-drop CHROOT`.
fn of_built_filters() -> [Vec<String>; 4] {
    let default: Vec<String> = punnet_spec::DEFAULT_CAPABILITIES
        .iter()
        .map(ToString::to_string)
        .collect();
    let more = [&default[..], &["CAP_NET_ADMIN".to_owned()]].concat();
    let less = default
        .iter()
        .filter(|name| *name != "CAP_SYS_CHROOT")
        .cloned()
        .collect();
    [Vec::new(), default, more, less]
}

#[test]
fn built_filters_are_the_compiled_ones_on_every_architecture() {
    for capabilities in of_built_filters() {
        let open = profile::open_rows(&capabilities);
        for arches in [&[&X86_64, &X86] as &[&Arch], &[&AARCH64, &ARM], &[&ARM]] {
            let compiled = rest(&profile::profile_for(arches, &capabilities), arches);
            let built = built::build(arches, open);
            assert!(built.steps() == compiled, "{}: {capabilities:?}", arches[0].name);
        }
        let named = compile(&named_default_seccomp(&capabilities)).unwrap();
        assert!(named == compile(&default_seccomp(&capabilities)).unwrap());
    }
}

#[test]
fn a_built_filter_decides_every_call_as_its_profile() {
    for capabilities in of_built_filters() {
        let named = named_default_seccomp(&capabilities);
        assert!(named.syscalls.is_empty(), "built in: {capabilities:?}");
        let built = compile(&named).unwrap().program;
        let compiled = compile(&default_seccomp(&capabilities)).unwrap().program;
        // Both words of what the conditions look at, and their neighbours.
        let mut firsts = vec![0, 1, 17, 39, 40, 41, 0x1000_0011, 0x7E02_0000, u64::MAX];
        firsts.extend([8, 0x2_0000, 0x2_0008, 0xffff_ffff, 0x40_0000]);
        firsts.extend(firsts.clone().into_iter().map(|first| first | 1 << 32));
        for audit in [X86_64.audit, X86.audit, AARCH64.audit, ARM.audit, 0] {
            let numbers = (0..600)
                .chain(983_040..983_050)
                .chain([X32_BIT, X32_BIT | 165, u32::MAX]);
            for number in numbers {
                for &first in &firsts {
                    let decide = |program: &[SockFilter]| run(program, audit, number, [first, 0, 0, 0, 0, 0]);
                    assert_eq!(
                        decide(&built),
                        decide(&compiled),
                        "{audit:#x} {number} {first:#x}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_profile_that_is_not_built_in_is_written_out() {
    for capability in ["CAP_SYS_ADMIN", "CAP_SYS_TIME", "CAP_BPF"] {
        let capabilities = [capability.to_owned()];
        assert_eq!(
            named_default_seccomp(&capabilities),
            default_seccomp(&capabilities)
        );
    }
}

#[test]
fn the_name_of_a_built_filter_stands_alone_and_others_are_refused() {
    let named = named_default_seccomp(&[]);
    let beside = [
        Seccomp {
            syscalls: vec![rule(&["mount"], "SCMP_ACT_ALLOW", vec![])],
            ..named.clone()
        },
        Seccomp {
            default_errno_ret: Some(1),
            ..named.clone()
        },
        Seccomp {
            architectures: vec!["SCMP_ARCH_X86_64".into()],
            ..named.clone()
        },
    ];
    for seccomp in beside {
        let error = compile(&seccomp).unwrap_err().to_string();
        assert!(error.contains("PUNNET_ACT_DEFAULT"), "{error}");
    }
    let unknown = filter("PUNNET_ACT_DEFAULT_ADMIN", vec![]);
    let action = filter(
        "SCMP_ACT_ALLOW",
        vec![rule(&["read"], &named.default_action, vec![])],
    );
    for seccomp in [unknown, action] {
        let error = compile(&seccomp).unwrap_err().to_string();
        assert!(error.contains("unknown action \"PUNNET_ACT_DEFAULT"), "{error}");
    }
}

#[test]
fn gated_names_exist_somewhere() {
    // A typing error in the list of the profile would allow the call.
    let known = |name: &str| {
        [&X86_64, &X86, &AARCH64, &ARM]
            .iter()
            .any(|arch| arch.table.split(' ').any(|word| word == name))
    };
    for (calls, _) in profile::GATED {
        for name in calls.split(' ') {
            assert!(known(name), "{name}");
        }
    }
}

#[test]
fn actions_are_the_kernels() {
    for (word, errno, expected) in [
        ("SCMP_ACT_KILL", None, 0),
        ("SCMP_ACT_KILL_THREAD", None, 0),
        ("SCMP_ACT_KILL_PROCESS", None, KILL_PROCESS),
        ("SCMP_ACT_TRAP", None, 0x0003_0000),
        ("SCMP_ACT_ERRNO", None, EPERM),
        ("SCMP_ACT_ERRNO", Some(38), 0x0005_0026),
        ("SCMP_ACT_TRACE", Some(7), 0x7ff0_0007),
        ("SCMP_ACT_LOG", None, 0x7ffc_0000),
        ("SCMP_ACT_ALLOW", None, ALLOW),
        ("SCMP_ACT_NOTIFY", None, NOTIFY),
    ] {
        assert_eq!(action("f", word, errno).unwrap(), expected, "{word}");
    }
}

#[test]
fn two_filters_with_notifications_decide_as_the_rules_say() {
    let seccomp = Seccomp {
        listener_path: "/s".into(),
        listener_metadata: "words".into(),
        flags: vec![
            "SECCOMP_FILTER_FLAG_TSYNC".into(),
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV".into(),
        ],
        ..filter(
            "SCMP_ACT_ALLOW",
            vec![
                rule(&["mkdir"], "SCMP_ACT_NOTIFY", vec![arg("SCMP_CMP_EQ", 7, 0)]),
                rule(&["mkdir", "rmdir"], "SCMP_ACT_ERRNO", vec![]),
                rule(&["mount"], "SCMP_ACT_NOTIFY", vec![]),
                rule(&["swapon"], "SCMP_ACT_KILL", vec![]),
            ],
        )
    };
    let rules = Rules::check(&seccomp).unwrap();
    let (first, second) = (
        compile_for(&rules, &[&X86_64], Part::Notify),
        compile_for(&rules, &[&X86_64], Part::Rest),
    );
    // The kernel takes the lowest of the actions, read as signed numbers.
    let check = |name: &str, third: u64| {
        let answer = |program: &[SockFilter]| {
            run(
                program,
                X86_64.audit,
                number(&X86_64, name),
                [0, 0, third, 0, 0, 0],
            )
        };
        answer(&first).cast_signed().min(answer(&second).cast_signed()) as u32
    };
    for (name, third, expected) in [
        ("mkdir", 7, NOTIFY),
        ("mkdir", 8, EPERM),
        ("rmdir", 7, EPERM),
        ("mount", 0, NOTIFY),
        ("swapon", 0, 0),
        ("read", 0, ALLOW),
    ] {
        assert_eq!(check(name, third), expected, "{name}");
    }
    let filter = compile(&seccomp).unwrap();
    let notify = filter.notify.unwrap();
    assert_eq!((filter.flags, notify.flags), (TSYNC, WAIT_KILLABLE_RECV));
    assert_eq!(notify.listener_metadata, "words");
}

#[test]
fn a_listener_that_no_rule_needs_is_ignored() {
    let seccomp = Seccomp {
        listener_path: "/s".into(),
        ..filter("SCMP_ACT_ALLOW", vec![])
    };
    assert_eq!(compile(&seccomp).unwrap().notify, None);
}

#[test]
fn what_cannot_be_enforced_is_named() {
    let notify = filter("SCMP_ACT_ALLOW", vec![rule(&["read"], "SCMP_ACT_NOTIFY", vec![])]);
    let operator = filter(
        "SCMP_ACT_ALLOW",
        vec![rule(&["read"], "SCMP_ACT_ERRNO", vec![arg("SCMP_CMP_XX", 0, 0)])],
    );
    let flag = Seccomp {
        flags: vec!["SECCOMP_FILTER_FLAG_NEW".into()],
        ..filter("SCMP_ACT_ALLOW", vec![])
    };
    let arch = Seccomp {
        architectures: vec!["SCMP_ARCH_X86_64".into(), "SCMP_ARCH_PDP11".into()],
        ..filter("SCMP_ACT_ALLOW", vec![])
    };
    let metadata = Seccomp {
        listener_metadata: "words".into(),
        ..filter("SCMP_ACT_ALLOW", vec![])
    };
    let with_listener = |seccomp| Seccomp {
        listener_path: "/s".into(),
        ..seccomp
    };
    let hand_over = with_listener(filter(
        "SCMP_ACT_ALLOW",
        vec![rule(
            &["sendmsg"],
            "SCMP_ACT_NOTIFY",
            vec![arg("SCMP_CMP_EQ", 1, 0)],
        )],
    ));
    let by_default = with_listener(filter("SCMP_ACT_NOTIFY", vec![]));
    let errno = |action: &str, errno| {
        let rules = vec![SyscallRule {
            errno_ret: Some(errno),
            ..rule(&["read"], action, vec![])
        }];
        filter("SCMP_ACT_ALLOW", rules)
    };
    for (seccomp, word) in [
        (notify, "listenerPath"),
        (hand_over, "sendmsg"),
        (by_default, "sendmsg"),
        (errno("SCMP_ACT_KILL", 1), "takes no errno"),
        (errno("SCMP_ACT_ERRNO", 4096), "not an errno"),
        (errno("SCMP_ACT_TRACE", 1 << 16), "not an errno"),
        (
            filter("SCMP_ACT_ALLOW", vec![rule(&[], "SCMP_ACT_KILL", vec![])]),
            "names",
        ),
        (operator, "SCMP_CMP_XX"),
        (flag, "FLAG_NEW"),
        (arch, "PDP11"),
        (metadata, "listenerMetadata"),
        (filter("SCMP_ACT_MAYBE", vec![]), "SCMP_ACT_MAYBE"),
    ] {
        let error = compile(&seccomp).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}
