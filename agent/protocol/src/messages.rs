//! The messages, by who sends them.
//!
//! | from | message | topic | retained | signed |
//! |---|---|---|---|---|
//! | fleet | [`Desired`] | desired | yes | yes |
//! | fleet | [`Command`] | command | never | yes |
//! | fleet | [`BlockAnswer`] | block | no | no: content-addressed |
//! | device | [`Presence`] | presence | yes, and as the will | no |
//! | device | [`Report`]: [`Reported`], and troubles if there are any | reported | yes | no |
//! | device | [`Reply`] | reply | no | no |
//! | device | [`BlockWant`] | want | no | no |
//! | device | [`LogChunk`] | log | no | no |
//!
//! Fields are encoded in order and enums by position (postcard): both only ever grow at the end, and a new field means a new
//! schema version, as [`Report`] has it.

use heapless::Vec;
use serde::{Deserialize, Serialize};

use crate::envelope::{self, EnvelopeError};
use crate::{
    APPS_MAX, ARGS_BYTES_MAX, BLOCK_BYTES_MAX, DETAIL_BYTES_MAX, DEVICE_CLASSES_MAX, Digest, ENV_BYTES_MAX,
    LOG_BYTES_MAX, MOUNTS_MAX, Name, PATH_BYTES_MAX, REFERENCE_BYTES_MAX, Strings, TROUBLED_VERSION,
    TROUBLES_MAX, Text,
};

/// What a device shall run: all of it, not a change to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Desired {
    /// The fleet this was signed for.
    pub fleet: Name,
    /// The device this was signed for: another device refuses it.
    pub device: Name,
    /// Grows with every change; a device refuses a smaller one than it has accepted, and the same one with other content.
    pub generation: u64,
    /// Unix seconds when it was signed: a floor for clocks that have none.
    pub signed_at_s: u64,
    /// The apps, names unique.
    pub apps: Vec<App, APPS_MAX>,
}

/// One app: an image and how to run it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct App {
    /// Unique on the device; also the container's name there.
    pub name: Name,
    /// What to run.
    pub image: ImageSource,
    /// Replaces the image's entrypoint when not empty.
    pub entrypoint: Strings<ARGS_BYTES_MAX>,
    /// Replaces the image's command when not empty.
    pub args: Strings<ARGS_BYTES_MAX>,
    /// `KEY=VALUE`, over the image's own.
    pub env: Strings<ENV_BYTES_MAX>,
    /// What the container sees of the network.
    pub network: Network,
    /// What happens when the process ends.
    pub restart: RestartPolicy,
    /// Refused by the device when it cannot enforce them.
    pub limits: Limits,
    /// Names of device classes of the board (gpio, i2c, ...).
    pub device_classes: Vec<Text<32>, DEVICE_CLASSES_MAX>,
    /// Directories of the device.
    pub mounts: Vec<Mount, MOUNTS_MAX>,
    /// No writable layer.
    pub read_only: bool,
    /// Between the stop signal and SIGKILL.
    pub stop_timeout_ms: u32,
    /// How long a new version must run before it counts as good.
    pub soak_ms: u32,
}

/// An image by content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageSource {
    /// For people; never used to find content.
    pub reference: Text<REFERENCE_BYTES_MAX>,
    /// Digest of the OCI image manifest for this device's platform.
    pub manifest: Digest,
    /// Size of the manifest in bytes.
    pub manifest_bytes: u32,
    /// Manifest, config and layers together as transferred, for progress and the check of free space.
    pub total_bytes: u64,
}

/// What a container sees of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// A network namespace of its own with loopback only.
    None,
    /// The device's own network.
    Host,
}

/// What happens when an app's process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// It stays ended.
    Never,
    /// Started again, with growing pauses, when it failed.
    OnFailure,
    /// Started again, with growing pauses, however it ended.
    Always,
}

/// Upper limits, `None` for no limit of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// cgroup v2 memory.max.
    pub memory_bytes_max: Option<u64>,
    /// cgroup v2 pids.max.
    pub pids_max: Option<u32>,
    /// Thousandths of one CPU (cgroup v2 cpu.max).
    pub cpu_millis_max: Option<u32>,
}

/// A bind mount.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path on the device.
    pub source: Text<PATH_BYTES_MAX>,
    /// Absolute path in the container.
    pub target: Text<PATH_BYTES_MAX>,
    /// The container cannot write to it.
    pub read_only: bool,
}

/// Something to do once. Answered by exactly one [`Reply`]; a repeated id is answered again but not done again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// The fleet this was signed for.
    pub fleet: Name,
    /// The device this was signed for.
    pub device: Name,
    /// The session ([`Presence::session`]) it is meant for: an old command cannot be replayed to a later one.
    pub session: u64,
    /// Grows within a session.
    pub id: u64,
    /// What to do.
    pub action: CommandAction,
}

/// What a [`Command`] asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum CommandAction {
    /// Send the app's output as [`LogChunk`]s: what is kept of the last `tail_bytes`, then what comes for `follow_ms`.
    StreamLog {
        /// Which app.
        app: Name,
        /// How much of what is there already.
        tail_bytes: u32,
        /// How long to go on; 0 ends after the tail.
        follow_ms: u32,
    },
    /// End a stream early.
    StopLog {
        /// Which app.
        app: Name,
    },
    /// Stop and start an app's container.
    Restart {
        /// Which app.
        app: Name,
    },
    /// Publish [`Reported`] now.
    Report,
}

/// Asks for part of a blob of an image that the desired state names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockWant {
    /// Digest of the blob: manifest, config or layer.
    pub blob: Digest,
    /// First byte wanted.
    pub offset: u64,
    /// Bytes wanted, at most [`BLOCK_BYTES_MAX`].
    pub length: u32,
}

/// Part of a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Digest of the whole blob.
    pub blob: Digest,
    /// Where `data` begins in it.
    pub offset: u64,
    /// Size of the whole blob.
    pub total_bytes: u64,
    /// The bytes; fewer than asked for only at the blob's end.
    pub data: Vec<u8, BLOCK_BYTES_MAX>,
}

/// The answer to a [`BlockWant`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::large_enum_variant,
    reason = "no allocation in this crate; it is decoded in place and used at once"
)]
pub enum BlockAnswer {
    /// The bytes.
    Data(Block),
    /// No bytes, and why.
    Refused {
        /// Digest of the blob asked for.
        blob: Digest,
        /// Why.
        reason: BlockRefusal,
    },
}

/// Why a block is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlockRefusal {
    /// The fleet has no such blob.
    Unknown,
    /// The offset or length lies outside the blob.
    OutOfRange,
    /// Too much asked at once; ask again later.
    Busy,
}

/// Whether a device is there. Retained; also the will, with `online` false.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Grows with each start of the agent and with each of its connections, so that an old will cannot mark a live session
    /// as gone. Bits 63..32 count starts (on flash), 31..16 the connections of that start (in RAM, no flash write for a
    /// lost link; the 65536th makes it count a start), 15..0 are random, so that two devices made from one copied card tell
    /// each other apart. Only its order has a meaning to others.
    pub session: u64,
    /// False in the will and in an orderly goodbye.
    pub online: bool,
}

/// What a device runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reported {
    /// As in [`Presence`].
    pub session: u64,
    /// Grows with every report of a session.
    pub sequence: u64,
    /// The newest generation accepted; 0 before the first.
    pub generation: u64,
    /// True when every app is as `generation` wants it.
    pub converged: bool,
    /// What the device is.
    pub board: BoardInfo,
    /// An entry for each app wanted or still there.
    pub apps: Vec<AppReport, APPS_MAX>,
}

/// What is wrong with a device: a sentence each, for people; a person has to see to them.
pub type Troubles = Vec<Text<DETAIL_BYTES_MAX>, TROUBLES_MAX>;

/// What a device runs, and what is wrong with the device itself: a damaged card, a settings file that cannot be read, a module of another kernel.
///
/// Without troubles it is a [`Reported`] of version 1, byte for byte; with them of version 2, where they follow the fields of version 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// As in version 1.
    pub reported: Reported,
    /// None, where nothing is known to be wrong.
    pub troubles: Troubles,
}

impl Report {
    /// Encodes into `buffer`, in the oldest version that can say it, and returns the payload.
    pub fn encode<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], EnvelopeError> {
        if self.troubles.is_empty() {
            envelope::encode(&self.reported, buffer)
        } else {
            envelope::encode_version(TROUBLED_VERSION, self, buffer)
        }
    }

    /// Decodes a payload of either version.
    pub fn decode(payload: &[u8]) -> Result<Self, EnvelopeError> {
        match envelope::open_any(payload)? {
            (TROUBLED_VERSION, body) => envelope::from_body(body),
            (_, body) => Ok(envelope::from_body::<Reported>(body)?.into()),
        }
    }
}

impl From<Reported> for Report {
    fn from(reported: Reported) -> Self {
        Self {
            reported,
            troubles: Vec::new(),
        }
    }
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BoardInfo {
    /// CPU architecture.
    pub arch: Arch,
    /// Version of the agent.
    pub agent_version: Text<32>,
    /// Name of the board's description, or `generic`.
    pub board: Text<64>,
    /// Kernel release (uname -r).
    pub kernel: Text<64>,
    /// RAM in bytes.
    pub memory_bytes: u64,
    /// Free bytes where images are stored.
    pub disk_free_bytes: u64,
}

/// CPU architectures by their OCI platform names (GOARCH and variant).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Arch {
    /// linux/amd64
    Amd64,
    /// linux/arm64 (v8)
    Arm64,
    /// linux/arm/v7
    ArmV7,
    /// linux/arm/v6
    ArmV6,
}

/// One app as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppReport {
    /// Which app.
    pub name: Name,
    /// The image it runs, or will.
    pub manifest: Digest,
    /// Where it stands.
    pub state: AppState,
    /// Starts after the first, since the agent took this version up.
    pub restarts: u32,
    /// For people: why it failed or waits; empty when all is well.
    pub detail: Text<DETAIL_BYTES_MAX>,
    /// SHA-256 of the encoded [`App`] that its container was made from, or without a container will be: tells the process of
    /// these settings from that of the ones before.
    pub spec: Digest,
}

/// Where an app stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppState {
    /// Nothing done yet.
    Waiting,
    /// Its image is being fetched.
    Fetching {
        /// Bytes here and verified or being so.
        done_bytes: u64,
        /// Bytes in all.
        total_bytes: u64,
    },
    /// Its image is being unpacked into the store.
    Importing,
    /// Its container is being created.
    Starting,
    /// Its process runs.
    Running {
        /// Process id on the device.
        pid: u32,
    },
    /// Its process ended and policy says that it stays so.
    Exited {
        /// Exit code; 128 + signal when a signal ended it.
        code: i32,
    },
    /// Its process ended and will be started again.
    BackingOff {
        /// As in `Exited`.
        code: i32,
        /// Pause before the next start.
        retry_ms: u32,
    },
    /// It could not be fetched, unpacked or started; `detail` says why. Tried again later.
    Failed,
    /// The version wanted failed its soak; the one before runs again and this one is refused.
    RolledBack,
    /// It is being stopped.
    Stopping,
}

/// The answer to a [`Desired`], a [`Command`] or a packet that was neither.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// As in [`Presence`].
    pub session: u64,
    /// What is answered.
    pub to: ReplyTo,
    /// The answer.
    pub outcome: Outcome,
}

/// What a [`Reply`] answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplyTo {
    /// A desired state, by its generation.
    Desired {
        /// From the message.
        generation: u64,
    },
    /// A command, by its id.
    Command {
        /// From the message.
        id: u64,
    },
    /// A packet whose content could not be trusted or read, by the topic it came on.
    Packet {
        /// Which of the device's topics.
        purpose: crate::topics::Purpose,
    },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Durable and being acted on.
    Accepted,
    /// Not acted on.
    Rejected {
        /// For programs.
        reason: Rejection,
        /// For people.
        detail: Text<DETAIL_BYTES_MAX>,
    },
    /// A newer one took its place.
    Superseded {
        /// Generation or id of the newer one.
        by: u64,
    },
}

/// Why something was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rejection {
    /// No envelope of ours, or not the version, length or checksum it says.
    Malformed,
    /// Larger than the limit.
    TooLarge,
    /// The schema version is not known.
    Version,
    /// The signature is not the fleet key's.
    Signature,
    /// Meant for another fleet or device.
    NotForUs,
    /// A generation, session or id older than one already accepted.
    Stale,
    /// The same generation with other content.
    Conflict,
    /// Well-formed, but it cannot be done here; the detail says what.
    Unsupported,
    /// No such app.
    Unknown,
    /// It could not be stored: disk full or read-only.
    Storage,
}

/// Part of an app's output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogChunk {
    /// As in [`Presence`].
    pub session: u64,
    /// Which app.
    pub app: Name,
    /// Position of `data` in all the output of this container; a gap to the chunk before is output that was dropped.
    pub offset: u64,
    /// Unix milliseconds at which the agent saw it.
    pub seen_at_ms: u64,
    /// True on the last chunk of a stream.
    pub last: bool,
    /// The bytes as the process wrote them.
    pub data: Vec<u8, LOG_BYTES_MAX>,
}
