//! The bytes of each version. The files in `tests/golden` are never edited: whoever makes this test fail has changed the wire,
//! and needs a new schema version.

use std::fmt::Debug;
use std::path::Path;

use punnet_protocol::signed::Signed;
use punnet_protocol::topics::Purpose;
use punnet_protocol::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{sign, verify};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub fn app() -> App {
    App {
        name: name("hello"),
        image: ImageSource {
            reference: clipped("registry.example/hello:1"),
            manifest: Digest([0xa1; 32]),
            manifest_bytes: 529,
            total_bytes: 70_000,
        },
        entrypoint: Strings::new(["/bin/hello"]).unwrap(),
        args: Strings::new(["--name", "kitchen", ""]).unwrap(),
        env: Strings::new(["TZ=UTC", "A=b c"]).unwrap(),
        network: Network::Host,
        restart: RestartPolicy::OnFailure,
        limits: Limits {
            memory_bytes_max: Some(16 << 20),
            pids_max: Some(32),
            cpu_millis_max: None,
        },
        device_classes: [clipped("gpio"), clipped("i2c")].into_iter().collect(),
        mounts: [Mount {
            source: clipped("/var/lib/x"),
            target: clipped("/data"),
            read_only: true,
        }]
        .into_iter()
        .collect(),
        read_only: true,
        stop_timeout_ms: 10_000,
        soak_ms: 30_000,
    }
}

pub fn desired() -> Desired {
    Desired {
        fleet: name("home"),
        device: name("kitchen"),
        generation: 7,
        signed_at_s: 1_790_000_000,
        apps: [app()].into_iter().collect(),
    }
}

fn command_of(id: u64, action: CommandAction) -> Command {
    Command {
        fleet: name("home"),
        device: name("kitchen"),
        session: 3 << 32 | 1 << 16 | 77,
        id,
        action,
    }
}

pub fn command() -> Command {
    command_of(
        1,
        CommandAction::StreamLog {
            app: name("hello"),
            tail_bytes: 4096,
            follow_ms: 60_000,
        },
    )
}

fn report(name_text: &str, state: AppState, restarts: u32, detail: &str) -> AppReport {
    AppReport {
        name: name(name_text),
        manifest: Digest([0xa1; 32]),
        state,
        restarts,
        detail: clipped(detail),
        spec: Digest([0x5e; 32]),
    }
}

pub fn reported() -> Reported {
    Reported {
        session: 3 << 32 | 1 << 16 | 77,
        sequence: 12,
        generation: 7,
        converged: false,
        board: BoardInfo {
            arch: Arch::ArmV6,
            agent_version: clipped("0.1.0"),
            board: clipped("rpi-zero"),
            kernel: clipped("6.12.0-rpi"),
            memory_bytes: 512 << 20,
            disk_free_bytes: 3 << 30,
        },
        apps: [
            report("waiting", AppState::Waiting, 0, ""),
            report(
                "fetching",
                AppState::Fetching {
                    done_bytes: 300,
                    total_bytes: 70_000,
                },
                0,
                "",
            ),
            report("importing", AppState::Importing, 0, ""),
            report("starting", AppState::Starting, 0, ""),
            report("running", AppState::Running { pid: 4242 }, 2, ""),
            report("exited", AppState::Exited { code: 137 }, 0, ""),
            report(
                "backing-off",
                AppState::BackingOff {
                    code: -1,
                    retry_ms: 2000,
                },
                5,
                "it ended with code -1",
            ),
            report("failed", AppState::Failed, 0, "no space left"),
            report("rolled-back", AppState::RolledBack, 0, ""),
            report("stopping", AppState::Stopping, 0, ""),
        ]
        .into_iter()
        .collect(),
    }
}

fn hex(bytes: &[u8]) -> String {
    let lines: Vec<_> = bytes
        .chunks(32)
        .map(|line| line.iter().map(|b| format!("{b:02x}")).collect::<String>())
        .collect();
    lines.join("\n") + "\n"
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// The bytes on file. `PUNNET_WRITE_GOLDEN=1` writes a file that does not exist yet, never one that does.
fn golden(file: &str, payload: &[u8]) -> Vec<u8> {
    golden_of("v1", file, payload)
}

fn golden_of(version: &str, file: &str, payload: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(version)
        .join(file)
        .with_extension("hex");
    if !path.exists() && std::env::var_os("PUNNET_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, hex(payload)).unwrap();
    }
    unhex(&std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

fn plain<T: Serialize + DeserializeOwned + PartialEq + Debug>(file: &str, message: &T) {
    let mut buffer = vec![0; PAYLOAD_BYTES_MAX];
    let payload = envelope::encode(message, &mut buffer).unwrap();
    let golden = golden(file, payload);
    assert_eq!(hex(payload), hex(&golden), "{file}: the encoder");
    assert_eq!(
        &envelope::decode::<T>(&golden).unwrap(),
        message,
        "{file}: the decoder"
    );
}

fn signed_by_fleet<T: Signed + PartialEq + Debug>(file: &str, message: &T) {
    let mut buffer = vec![0; PAYLOAD_BYTES_MAX];
    let payload = signed::encode(message, &mut buffer, sign).unwrap();
    let golden = golden(file, payload);
    assert_eq!(hex(payload), hex(&golden), "{file}: the encoder");
    let mut scratch = vec![0; golden.len()];
    assert_eq!(
        &signed::decode::<T>(&golden, &mut scratch, verify).unwrap(),
        message,
        "{file}: the decoder"
    );
}

#[test]
fn desired_is_as_in_version_1() {
    signed_by_fleet("desired", &desired());
}

#[test]
fn commands_are_as_in_version_1() {
    signed_by_fleet("command-stream-log", &command());
    signed_by_fleet(
        "command-stop-log",
        &command_of(2, CommandAction::StopLog { app: name("hello") }),
    );
    signed_by_fleet(
        "command-restart",
        &command_of(3, CommandAction::Restart { app: name("hello") }),
    );
    signed_by_fleet("command-report", &command_of(u64::MAX, CommandAction::Report));
}

#[test]
fn blocks_are_as_in_version_1() {
    plain(
        "block-want",
        &BlockWant {
            blob: Digest([0xb2; 32]),
            offset: 16_384,
            length: 3616,
        },
    );
    let data = heapless::Vec::from_slice(b"some bytes of a layer").unwrap();
    let block = Block {
        blob: Digest([0xb2; 32]),
        offset: 16_384,
        total_bytes: 20_000,
        data,
    };
    plain("block-data", &BlockAnswer::Data(block));
    for (file, reason) in [
        ("block-refused-unknown", BlockRefusal::Unknown),
        ("block-refused-out-of-range", BlockRefusal::OutOfRange),
        ("block-refused-busy", BlockRefusal::Busy),
    ] {
        plain(
            file,
            &BlockAnswer::Refused {
                blob: Digest([0xb2; 32]),
                reason,
            },
        );
    }
}

#[test]
fn presence_is_as_in_version_1() {
    plain(
        "presence-online",
        &Presence {
            session: 3 << 32 | 1 << 16 | 77,
            online: true,
        },
    );
    plain(
        "presence-offline",
        &Presence {
            session: 3 << 32 | 1 << 16 | 77,
            online: false,
        },
    );
}

#[test]
fn reported_is_as_in_version_1() {
    plain("reported", &reported());
}

#[test]
fn a_report_with_troubles_is_as_in_version_2_and_one_without_as_in_version_1() {
    let troubled = Report {
        troubles: ["no data partition", ""].map(clipped).into_iter().collect(),
        ..reported().into()
    };
    for (version, report) in [("v2", troubled), ("v1", reported().into())] {
        let mut buffer = vec![0; PAYLOAD_BYTES_MAX];
        let payload = report.encode(&mut buffer).unwrap();
        let golden = golden_of(version, "reported", payload);
        assert_eq!(hex(payload), hex(&golden), "{version}: the encoder");
        assert_eq!(Report::decode(&golden).unwrap(), report, "{version}: the decoder");
    }
}

#[test]
fn a_controller_of_version_1_names_the_version_that_it_does_not_know() {
    let payload = golden_of("v2", "reported", &[]);
    assert_eq!(
        envelope::decode::<Reported>(&payload).unwrap_err(),
        envelope::EnvelopeError::Version(TROUBLED_VERSION)
    );
}

#[test]
fn replies_are_as_in_version_1() {
    let session = 3 << 32 | 1 << 16 | 77;
    let rejected = |reason, detail| Outcome::Rejected {
        reason,
        detail: clipped(detail),
    };
    plain(
        "reply-desired-accepted",
        &Reply {
            session,
            to: ReplyTo::Desired { generation: 7 },
            outcome: Outcome::Accepted,
        },
    );
    plain(
        "reply-desired-superseded",
        &Reply {
            session,
            to: ReplyTo::Desired { generation: 7 },
            outcome: Outcome::Superseded { by: 8 },
        },
    );
    plain(
        "reply-command-rejected",
        &Reply {
            session,
            to: ReplyTo::Command { id: 3 },
            outcome: rejected(Rejection::Unknown, "no app named x"),
        },
    );
    let reasons = [
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
    ];
    let purposes = [Purpose::TO_DEVICE.as_slice(), &Purpose::TO_FLEET].concat();
    for (at, reason) in reasons.into_iter().enumerate() {
        let to = ReplyTo::Packet {
            purpose: purposes[at % purposes.len()],
        };
        let file = format!("reply-packet-{}", format!("{reason:?}").to_lowercase());
        plain(
            &file,
            &Reply {
                session,
                to,
                outcome: rejected(reason, "why"),
            },
        );
    }
}

#[test]
fn log_chunk_is_as_in_version_1() {
    let data = heapless::Vec::from_slice(b"hello, world\n").unwrap();
    let (session, app) = (3 << 32 | 1 << 16 | 77, name("hello"));
    plain(
        "log",
        &LogChunk {
            session,
            app,
            offset: 512,
            seen_at_ms: 1_790_000_000_123,
            last: true,
            data,
        },
    );
}
