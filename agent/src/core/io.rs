//! What goes into the core and what comes out of it.

use std::sync::Arc;

use punnet_boards::LedPattern;
use punnet_protocol::topics::Purpose;
use punnet_protocol::{BoardInfo, Digest, Name};
use sha2::Sha256;

/// The time of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a clock that never goes back, from any beginning.
    pub ms: u64,
    /// Milliseconds since 1970, as far as the board knows.
    pub unix_ms: u64,
}

/// Something happened.
#[derive(Debug)]
pub enum Event {
    /// First of all: what is there. Sent once.
    Started(Box<OnDisk>),
    /// The broker accepted the connection that [`Action::Connect`] asked for.
    Connected,
    /// There is no connection (any more).
    Disconnected(LinkError),
    /// The broker answered a subscription.
    Subscribed {
        /// To which topic.
        purpose: Purpose,
        /// False when the broker refused it.
        granted: bool,
    },
    /// A message came.
    Message {
        /// On which topic.
        purpose: Purpose,
        /// To acknowledge it with.
        packet: Packet,
        /// Its bytes.
        payload: Vec<u8>,
    },
    /// The broker acknowledged one of our messages.
    Published,
    /// A job ended.
    Done(Done),
    /// A container's process ended.
    Exited {
        /// Of which app.
        app: Name,
        /// Which process.
        pid: u32,
        /// Its code, 128 + signal for a signal; `None` when it was not our child.
        code: Option<i32>,
        /// The kernel ended it, or one of its processes, at its limit of memory.
        out_of_memory: bool,
    },
    /// A container wrote to its log. Sent only after [`Job::WatchLog`].
    LogGrew {
        /// Of which app.
        app: Name,
    },
    /// Something about the board changed.
    Board(BoardInfo),
    /// The time that [`super::Core::wake_at`] named has come.
    Tick,
    /// The agent is about to end: what is still to be sent comes back; then the connection can be closed.
    Goodbye,
}

/// What the agent finds when it starts.
#[derive(Debug)]
pub struct OnDisk {
    /// Contents of the state slots; `None` where there is no file.
    pub slots: [Option<Vec<u8>>; 2],
    /// How often the agent has started, this time included.
    pub starts: u32,
    /// Containers of ours.
    pub containers: Vec<Seen>,
    /// Manifest digests of the images in the store.
    pub images: Vec<Digest>,
    /// Manifest digests of images that are partly here.
    pub partials: Vec<Digest>,
    /// What the board is.
    pub board: BoardInfo,
    /// What is wrong with the board, or could not be found out: a sentence each.
    pub troubles: Vec<String>,
}

/// A container that belongs to an app (label `punnet.app`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Which app.
    pub app: Name,
    /// SHA-256 of the app's encoding it was made from (label `punnet.spec`); `None` when the label is no digest.
    pub spec: Option<Digest>,
    /// How it is.
    pub status: Status,
    /// Its init process, 0 for none.
    pub pid: u32,
    /// How its process ended, when it did and that is known.
    pub exit_code: Option<i32>,
    /// It ended, and the kernel had killed it or one of its processes at its limit of memory.
    pub out_of_memory: bool,
}

/// How a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Made, never started.
    Created,
    /// Its process runs.
    Running,
    /// Its process has ended.
    Stopped,
}

/// What is known of an app's container after a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// Could not be found out.
    Unknown,
    /// There is none.
    Absent,
    /// It is as said.
    Present(Seen),
}

/// Identifies a received packet to the session; of no meaning after the connection it came on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Which connection.
    pub connection: u32,
    /// MQTT packet identifier; 0 for QoS 0.
    pub id: u16,
}

/// Why a connection is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkError {
    /// A packet was larger than we take. Which topic it came on is not known.
    Oversized,
    /// The broker closed an established connection.
    ClosedByPeer,
    /// Anything else; for people.
    Other(String),
}

/// Something shall be done.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Connect, with this will (retained, on the presence topic). Answered by `Connected` or `Disconnected`.
    Connect {
        /// The will's payload.
        will: Vec<u8>,
    },
    /// End the connection; not answered.
    Disconnect,
    /// Subscribe with QoS 1.
    Subscribe(Purpose),
    /// Publish with QoS 1. Answered by `Published`.
    Publish {
        /// On which topic.
        purpose: Purpose,
        /// The bytes.
        payload: Vec<u8>,
        /// Whether the broker keeps it.
        retain: bool,
    },
    /// Acknowledge a received packet.
    Ack(Packet),
    /// Do something on the device.
    Job(Job),
    /// Show this on the status LED.
    Led(LedPattern),
    /// Tell people.
    Log(Level, String),
}

/// How much a log line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something does not work.
    Error,
    /// Something is odd.
    Warn,
    /// Something happened.
    Info,
    /// For those who look for a fault.
    Debug,
}

/// Work on the device. Jobs on the journal and on blobs are done in the order given, those of one app too; others may
/// overtake each other. Each but `WatchLog` is answered by one [`Done`].
#[derive(Clone, Debug, PartialEq)]
pub enum Job {
    /// Make a slot's file hold `record`, durably.
    Persist {
        /// Which slot.
        slot: usize,
        /// All of the file.
        record: Vec<u8>,
    },
    /// Count one more start, durably.
    CountStart,
    /// Find or make the place for a blob.
    OpenBlob {
        /// The image it is part of.
        image: Digest,
        /// The blob.
        blob: Digest,
        /// Bytes of the image still to come: refused when the disk has less.
        need_bytes: u64,
    },
    /// Add bytes at the end of a partial blob.
    AppendBlob {
        /// The image it is part of.
        image: Digest,
        /// The blob.
        blob: Digest,
        /// Where the bytes belong: the partial blob is that long.
        offset: u64,
        /// The bytes.
        data: Vec<u8>,
    },
    /// A blob is whole and its digest was found right: make it durable under its name.
    FinishBlob {
        /// The image it is part of.
        image: Digest,
        /// The blob.
        blob: Digest,
    },
    /// Forget what is there of a blob.
    DropBlob {
        /// The image it is part of.
        image: Digest,
        /// The blob.
        blob: Digest,
    },
    /// Read a whole blob.
    ReadBlob {
        /// The image it is part of.
        image: Digest,
        /// The blob.
        blob: Digest,
    },
    /// Put an image whose blobs are all here into the store, then forget the blobs.
    Import {
        /// The image.
        image: Digest,
        /// Size of its manifest.
        manifest_bytes: u64,
        /// Media type of its manifest.
        media_type: String,
        /// What people call it.
        reference: String,
    },
    /// Forget what is there of an image that is not in the store.
    DropImage {
        /// The image.
        image: Digest,
    },
    /// Make an app's container, not yet running.
    Create {
        /// The app; also the container's name.
        app: Name,
        /// For its `punnet.spec` label.
        spec: Digest,
        /// The app as signed (postcard).
        encoded: Arc<[u8]>,
    },
    /// Start the process of an app's container that is made or has stopped.
    Start {
        /// The app.
        app: Name,
    },
    /// Stop it.
    Stop {
        /// The app.
        app: Name,
        /// Between the stop signal and SIGKILL.
        timeout_ms: u32,
    },
    /// Remove it.
    Remove {
        /// The app.
        app: Name,
    },
    /// It has shown that it is well: a system on trial is the one to start from now on. Nothing to do for a container.
    Keep {
        /// The app.
        app: Name,
    },
    /// Look at containers and images again.
    Refresh,
    /// Read of an app's output.
    ReadLog {
        /// Which stream wants it.
        stream: u64,
        /// Whose output.
        app: Name,
        /// From where.
        from: LogFrom,
    },
    /// Say when an app's output grows, or say it no more.
    WatchLog {
        /// Whose output.
        app: Name,
        /// Whether to watch.
        on: bool,
    },
}

/// Where to read a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFrom {
    /// This many bytes before its end.
    Tail(u32),
    /// At this position.
    At(u64),
}

/// A job ended.
#[derive(Debug)]
pub enum Done {
    /// [`Job::Persist`].
    Persisted(Result<(), String>),
    /// [`Job::CountStart`], with the new count.
    StartCounted(u32),
    /// [`Job::OpenBlob`].
    BlobOpened {
        /// The blob.
        blob: Digest,
        /// What is there of it.
        result: Result<Opened, String>,
    },
    /// [`Job::AppendBlob`].
    BlobAppended {
        /// The blob.
        blob: Digest,
        /// How long the partial blob is now.
        result: Result<u64, String>,
    },
    /// [`Job::FinishBlob`].
    BlobFinished {
        /// The blob.
        blob: Digest,
        /// Whether it worked.
        result: Result<(), String>,
    },
    /// [`Job::ReadBlob`].
    BlobRead {
        /// The blob.
        blob: Digest,
        /// Its bytes.
        result: Result<Vec<u8>, String>,
    },
    /// [`Job::DropBlob`] or [`Job::DropImage`].
    Dropped,
    /// [`Job::Import`].
    Imported {
        /// The image.
        image: Digest,
        /// Whether it is in the store.
        result: Result<(), String>,
    },
    /// [`Job::Create`], [`Job::Start`], [`Job::Stop`], [`Job::Remove`].
    Container {
        /// The app.
        app: Name,
        /// Why it did not work.
        error: Option<String>,
        /// How the container is now.
        observed: Observed,
    },
    /// [`Job::Keep`].
    Kept(Result<(), String>),
    /// [`Job::Refresh`].
    Refreshed {
        /// Containers of ours.
        containers: Vec<Seen>,
        /// Manifest digests in the store.
        images: Vec<Digest>,
    },
    /// [`Job::ReadLog`].
    LogRead {
        /// Which stream wanted it.
        stream: u64,
        /// What was read; `None` when the app has no log yet.
        result: Option<LogRead>,
    },
}

/// What is there of a blob.
#[derive(Debug)]
pub enum Opened {
    /// All of it, checked.
    Whole,
    /// Its beginning.
    Part {
        /// How many bytes.
        bytes: u64,
        /// A hash that has seen them.
        hash: Box<Sha256>,
    },
}

/// Part of a container's output.
#[derive(Debug)]
pub struct LogRead {
    /// Tells containers apart: a new one begins at 0 again.
    pub container: u64,
    /// Position of `data`; later than asked for when that is no longer kept.
    pub offset: u64,
    /// The bytes, at most [`punnet_protocol::LOG_BYTES_MAX`].
    pub data: Vec<u8>,
    /// Where the output ends now.
    pub end: u64,
}
