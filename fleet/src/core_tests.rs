//! Whatever comes on whatever topic: the core counts it, drops it, and goes on.

use proptest::collection::vec;
use proptest::prelude::*;
use punnet_protocol::{
    AppReport, AppState, Arch, BoardInfo, Digest, Outcome, PAYLOAD_BYTES_MAX, Presence, Rejection, Reply,
    ReplyTo, Reported, clipped,
};

use super::*;
use crate::blocks::{ANSWERS_MAX, BlockServer};
use crate::key::FleetKey;
use crate::state_dir::StateDir;

const PURPOSES: [Purpose; 8] = [
    Purpose::Desired,
    Purpose::Command,
    Purpose::Block,
    Purpose::Presence,
    Purpose::Reported,
    Purpose::Reply,
    Purpose::Want,
    Purpose::Log,
];

/// Numbers that counters and positions break at, and small ones that meet each other.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..4_u64,
        Just(u64::MAX),
        Just(1 << 63),
        Just((1 << 63) - 1),
        Just(1 << 32),
        any::<u64>()
    ]
}

fn purpose() -> impl Strategy<Value = Purpose> {
    (0..PURPOSES.len()).prop_map(|at| PURPOSES[at])
}

fn sealed<T: serde::Serialize>(message: &T) -> Vec<u8> {
    let mut buffer = vec![0; PAYLOAD_BYTES_MAX];
    envelope::encode(message, &mut buffer).unwrap().to_vec()
}

fn presence() -> impl Strategy<Value = (Purpose, Vec<u8>)> {
    (number(), any::<bool>())
        .prop_map(|(session, online)| (Purpose::Presence, sealed(&Presence { session, online })))
}

fn reported() -> impl Strategy<Value = (Purpose, Vec<u8>)> {
    let state = prop_oneof![
        Just(AppState::Waiting),
        (number(), number()).prop_map(|(done_bytes, total_bytes)| AppState::Fetching {
            done_bytes,
            total_bytes
        }),
        any::<u32>().prop_map(|pid| AppState::Running { pid }),
        any::<i32>().prop_map(|code| AppState::Exited { code }),
        Just(AppState::RolledBack),
    ]
    .boxed();
    (
        number(),
        number(),
        number(),
        any::<bool>(),
        vec((state, ".{0,40}", any::<u32>()), 0..17),
        0..4_usize,
    )
        .prop_map(|(session, sequence, generation, converged, apps, arch)| {
            let apps = apps.into_iter().take(punnet_protocol::APPS_MAX).enumerate();
            let apps = apps.map(|(n, (state, detail, restarts))| AppReport {
                name: format!("app{}", n % 3).parse().unwrap(),
                manifest: Digest([n as u8; 32]),
                state,
                restarts,
                detail: clipped(&detail),
                spec: Digest([n as u8; 32]),
            });
            let reported = Reported {
                session,
                sequence,
                generation,
                converged,
                board: BoardInfo {
                    arch: [Arch::Amd64, Arch::Arm64, Arch::ArmV7, Arch::ArmV6][arch],
                    agent_version: clipped("\u{1b}[2J"),
                    board: clipped(""),
                    kernel: clipped("6"),
                    memory_bytes: session,
                    disk_free_bytes: sequence,
                },
                apps: apps.collect(),
            };
            (Purpose::Reported, sealed(&reported))
        })
}

fn reply() -> impl Strategy<Value = (Purpose, Vec<u8>)> {
    let to = prop_oneof![
        number().prop_map(|generation| ReplyTo::Desired { generation }),
        number().prop_map(|id| ReplyTo::Command { id }),
        purpose().prop_map(|purpose| ReplyTo::Packet { purpose }),
    ];
    let outcome = prop_oneof![
        Just(Outcome::Accepted),
        ".{0,60}".prop_map(|why| Outcome::Rejected {
            reason: Rejection::Unsupported,
            detail: clipped(&why)
        }),
        number().prop_map(|by| Outcome::Superseded { by }),
    ];
    (number(), to, outcome)
        .prop_map(|(session, to, outcome)| (Purpose::Reply, sealed(&Reply { session, to, outcome })))
}

fn want() -> impl Strategy<Value = (Purpose, Vec<u8>)> {
    (any::<u8>(), number(), any::<u32>()).prop_map(|(blob, offset, length)| {
        (
            Purpose::Want,
            sealed(&BlockWant {
                blob: Digest([blob; 32]),
                offset,
                length,
            }),
        )
    })
}

fn log() -> impl Strategy<Value = (Purpose, Vec<u8>)> {
    (number(), number(), any::<bool>(), vec(any::<u8>(), 0..50)).prop_map(|(session, offset, last, data)| {
        let data = heapless::Vec::from_slice(&data).unwrap();
        let app = "app1".parse().unwrap();
        (
            Purpose::Log,
            sealed(&LogChunk {
                session,
                app,
                offset,
                seen_at_ms: session,
                last,
                data,
            }),
        )
    })
}

/// Noise, whole messages with hostile numbers, and such messages with a few bytes changed.
fn packet() -> impl Strategy<Value = (Purpose, Vec<u8>)> {
    let noise = (purpose(), vec(any::<u8>(), 0..200));
    // Boxed: proptest holds the values of all alternatives on the stack.
    let messages = || {
        prop_oneof![
            presence().boxed(),
            reported().boxed(),
            reply().boxed(),
            want().boxed(),
            log().boxed()
        ]
        .boxed()
    };
    let bent = (
        messages(),
        any::<proptest::sample::Index>(),
        any::<u8>(),
        purpose(),
    )
        .prop_map(|((_, mut payload), at, with, purpose)| {
            let at = at.index(payload.len());
            payload[at] ^= with;
            (purpose, payload)
        });
    prop_oneof![1 => noise.boxed(), 4 => messages(), 1 => bent.boxed()]
}

struct Rig {
    core: Core,
    _folder: tempfile::TempDir,
    _reader: mpsc::Receiver<LogEvent>,
}

fn rig() -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path()).unwrap();
    let connection = db::open(&state).unwrap();
    let pi: Name = "pi".parse().unwrap();
    devices::enrol(&connection, &pi, None).unwrap();
    let counters = Arc::new(Counters::default());
    let (answers, mut answered) = mpsc::channel(ANSWERS_MAX);
    std::thread::spawn(move || while answered.blocking_recv().is_some() {});
    let blocks = Blocks::start(BlockServer {
        database: db::open_reader(&state).unwrap(),
        blobs: state.blobs(),
        answers,
        counters: counters.clone(),
    });
    let mut streams = Streams::default();
    let app = "app1".parse().unwrap();
    let (reader, _) = streams.read(&pi, &app, 100, true, Instant::now()).unwrap();
    let core = Core {
        signer: Arc::new(Signer {
            fleet: "home".parse().unwrap(),
            key: FleetKey::make(&state, false).unwrap(),
        }),
        writer: Writer::start(connection).unwrap(),
        outbox: Arc::default(),
        blocks: blocks.unwrap(),
        counters,
        changes: watch::Sender::new(0),
        broker_error: watch::Sender::new(None),
        commands: Commands::default(),
        streams,
    };
    Rig {
        core,
        _folder: folder,
        _reader: reader,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_message_stops_the_core_and_an_honest_device_is_heard_after_all_of_them(
        packets in vec((packet(), any::<bool>(), any::<bool>()), 1..40)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let Rig { mut core, _folder, _reader } = rig();
            let name: Name = "pi".parse().unwrap();
            for ((purpose, payload), retained, known) in packets {
                let device = if known { name.clone() } else { "stranger".parse().unwrap() };
                let arrival = Arrival { now_s: 1, retained };
                core.message(device, purpose, payload.into(), arrival).await;
            }
            let birth = sealed(&Presence { session: 77, online: true });
            core.message(name.clone(), Purpose::Presence, birth.into(), Arrival { now_s: 2, retained: false }).await;
            let device = core.writer.run(move |db| devices::get(db, &name)).await.unwrap();
            assert!(device.online && device.session == 77);
        });
    }
}
