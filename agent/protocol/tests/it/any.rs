//! Any message, for the property tests.

use proptest::collection::vec;
use proptest::prelude::*;
use punnet_protocol::*;

pub fn name() -> impl Strategy<Value = Name> {
    "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?".prop_map(|text| text.parse().unwrap())
}

pub fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn text<const N: usize>() -> impl Strategy<Value = Text<N>> {
    any::<String>().prop_map(|text| clipped(&text))
}

fn strings<const N: usize>() -> impl Strategy<Value = Strings<N>> {
    vec("[^\0]{0,40}", 0..6).prop_map(|list| Strings::new(list).unwrap())
}

fn bounded<T: std::fmt::Debug + Clone, const N: usize>(
    element: impl Strategy<Value = T>,
    up_to: usize,
) -> impl Strategy<Value = heapless::Vec<T, N>> {
    vec(element, 0..=up_to).prop_map(|list| list.into_iter().collect())
}

fn image() -> impl Strategy<Value = ImageSource> {
    (text(), digest(), any::<u32>(), any::<u64>()).prop_map(
        |(reference, manifest, manifest_bytes, total_bytes)| ImageSource {
            reference,
            manifest,
            manifest_bytes,
            total_bytes,
        },
    )
}

fn limits() -> impl Strategy<Value = Limits> {
    any::<(Option<u64>, Option<u32>, Option<u32>)>().prop_map(
        |(memory_bytes_max, pids_max, cpu_millis_max)| Limits {
            memory_bytes_max,
            pids_max,
            cpu_millis_max,
        },
    )
}

fn mount() -> impl Strategy<Value = Mount> {
    (text(), text(), any::<bool>()).prop_map(|(source, target, read_only)| Mount {
        source,
        target,
        read_only,
    })
}

pub fn app() -> impl Strategy<Value = App> {
    let policy = prop_oneof![
        Just(RestartPolicy::Never),
        Just(RestartPolicy::OnFailure),
        Just(RestartPolicy::Always)
    ];
    let network = prop_oneof![Just(Network::None), Just(Network::Host)];
    let process = (strings(), strings(), strings(), network, policy, limits());
    let world = (
        bounded(text(), DEVICE_CLASSES_MAX),
        bounded(mount(), MOUNTS_MAX),
        any::<(bool, u32, u32)>(),
    );
    (name(), image(), process, world).prop_map(|(name, image, process, world)| {
        let (entrypoint, args, env, network, restart, limits) = process;
        let (device_classes, mounts, (read_only, stop_timeout_ms, soak_ms)) = world;
        App {
            name,
            image,
            entrypoint,
            args,
            env,
            network,
            restart,
            limits,
            device_classes,
            mounts,
            read_only,
            stop_timeout_ms,
            soak_ms,
        }
    })
}

/// Boxed, and its apps in a std vector until then: proptest moves values about a good deal.
pub fn desired() -> impl Strategy<Value = Box<Desired>> {
    (name(), name(), any::<(u64, u64)>(), vec(app(), 0..=3)).prop_map(|(fleet, device, numbers, apps)| {
        let (generation, signed_at_s) = numbers;
        Box::new(Desired {
            fleet,
            device,
            generation,
            signed_at_s,
            apps: apps.into_iter().collect(),
        })
    })
}

pub fn command() -> impl Strategy<Value = Command> {
    let action = prop_oneof![
        (name(), any::<(u32, u32)>()).prop_map(|(app, n)| CommandAction::StreamLog {
            app,
            tail_bytes: n.0,
            follow_ms: n.1
        }),
        name().prop_map(|app| CommandAction::StopLog { app }),
        name().prop_map(|app| CommandAction::Restart { app }),
        Just(CommandAction::Report),
    ];
    (name(), name(), any::<(u64, u64)>(), action).prop_map(|(fleet, device, numbers, action)| Command {
        fleet,
        device,
        session: numbers.0,
        id: numbers.1,
        action,
    })
}

pub fn want() -> impl Strategy<Value = BlockWant> {
    (digest(), any::<u64>(), any::<u32>()).prop_map(|(blob, offset, length)| BlockWant {
        blob,
        offset,
        length,
    })
}

pub fn answer() -> impl Strategy<Value = BlockAnswer> {
    let reason = prop_oneof![
        Just(BlockRefusal::Unknown),
        Just(BlockRefusal::OutOfRange),
        Just(BlockRefusal::Busy)
    ];
    prop_oneof![
        (digest(), any::<u64>(), any::<u64>(), bounded(any::<u8>(), 600)).prop_map(
            |(blob, offset, total_bytes, data)| {
                BlockAnswer::Data(Block {
                    blob,
                    offset,
                    total_bytes,
                    data,
                })
            }
        ),
        (digest(), reason).prop_map(|(blob, reason)| BlockAnswer::Refused { blob, reason }),
    ]
}

pub fn presence() -> impl Strategy<Value = Presence> {
    any::<(u64, bool)>().prop_map(|(session, online)| Presence { session, online })
}

pub fn reported() -> impl Strategy<Value = Reported> {
    let state = prop_oneof![
        Just(AppState::Waiting),
        any::<(u64, u64)>().prop_map(|(done_bytes, total_bytes)| AppState::Fetching {
            done_bytes,
            total_bytes
        }),
        Just(AppState::Importing),
        Just(AppState::Starting),
        any::<u32>().prop_map(|pid| AppState::Running { pid }),
        any::<i32>().prop_map(|code| AppState::Exited { code }),
        any::<(i32, u32)>().prop_map(|(code, retry_ms)| AppState::BackingOff { code, retry_ms }),
        Just(AppState::Failed),
        Just(AppState::RolledBack),
        Just(AppState::Stopping),
    ];
    let app = (name(), digest(), state, any::<u32>(), text(), digest()).prop_map(
        |(name, manifest, state, restarts, detail, spec)| AppReport {
            name,
            manifest,
            state,
            restarts,
            detail,
            spec,
        },
    );
    let arch = prop_oneof![
        Just(Arch::Amd64),
        Just(Arch::Arm64),
        Just(Arch::ArmV7),
        Just(Arch::ArmV6)
    ];
    let board = (arch, text(), text(), text(), any::<(u64, u64)>()).prop_map(
        |(arch, agent_version, board, kernel, n)| BoardInfo {
            arch,
            agent_version,
            board,
            kernel,
            memory_bytes: n.0,
            disk_free_bytes: n.1,
        },
    );
    (any::<(u64, u64, u64, bool)>(), board, bounded(app, 4)).prop_map(|(n, board, apps)| Reported {
        session: n.0,
        sequence: n.1,
        generation: n.2,
        converged: n.3,
        board,
        apps,
    })
}

pub fn report() -> impl Strategy<Value = Report> {
    (reported(), bounded(text(), TROUBLES_MAX)).prop_map(|(reported, troubles)| Report { reported, troubles })
}

pub fn reply() -> impl Strategy<Value = Reply> {
    use punnet_protocol::topics::Purpose;
    let to = prop_oneof![
        any::<u64>().prop_map(|generation| ReplyTo::Desired { generation }),
        any::<u64>().prop_map(|id| ReplyTo::Command { id }),
        proptest::sample::select([Purpose::TO_DEVICE.as_slice(), &Purpose::TO_FLEET].concat())
            .prop_map(|purpose| ReplyTo::Packet { purpose }),
    ];
    let reason = proptest::sample::select(vec![
        Rejection::Malformed,
        Rejection::TooLarge,
        Rejection::Version,
        Rejection::Signature,
        Rejection::NotForUs,
        Rejection::Stale,
        Rejection::Conflict,
        Rejection::Unsupported,
        Rejection::Unknown,
        Rejection::Storage,
    ]);
    let outcome = prop_oneof![
        Just(Outcome::Accepted),
        (reason, text()).prop_map(|(reason, detail)| Outcome::Rejected { reason, detail }),
        any::<u64>().prop_map(|by| Outcome::Superseded { by }),
    ];
    (any::<u64>(), to, outcome).prop_map(|(session, to, outcome)| Reply { session, to, outcome })
}

pub fn log_chunk() -> impl Strategy<Value = LogChunk> {
    (name(), any::<(u64, u64, u64, bool)>(), bounded(any::<u8>(), 300)).prop_map(|(app, n, data)| LogChunk {
        session: n.0,
        app,
        offset: n.1,
        seen_at_ms: n.2,
        last: n.3,
        data,
    })
}
