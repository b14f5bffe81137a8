//! Output of apps on its way from the devices to whoever reads it.
//!
//! A device streams an app's output once, however many read it here: later readers get what is still held and then what
//! comes. A device stops by itself when its lease is not renewed, so that a dead controller costs it nothing.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use punnet_protocol::{AppState, CommandAction, LogChunk, Name, Reported};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// How long a device streams without being asked again.
const LEASE: Duration = Duration::from_secs(120);

/// When the lease is renewed: early enough for a retry of the command.
const RENEW_AFTER: Duration = Duration::from_secs(90);

/// What a renewal asks for again, so that nothing is lost between two leases.
const OVERLAP_BYTES_MAX: u64 = 16 * 1024;

/// Output held for later readers of the same app.
const HELD_BYTES_MAX: usize = 64 * 1024;

/// Chunks that wait for one reader; a slower one sees a gap.
const WAITING_MAX: usize = 256;

/// Streams of all devices together.
const STREAMS_MAX: usize = 1024;

/// How long an app that has ended may still send the end of its output.
const LINGER: Duration = Duration::from_secs(1);

/// What a reader gets; the API writes each as a line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LogEvent {
    /// Output.
    Data {
        /// Where it begins in all the output of its container.
        offset: u64,
        /// Unix milliseconds at which the agent saw it.
        seen_at_ms: u64,
        /// The bytes, base64.
        data: String,
    },
    /// Output that is lost.
    Gap {
        /// How much.
        bytes: u64,
    },
    /// For the reader's eyes: the device is away, the container was started anew.
    Note {
        /// What happened.
        text: String,
    },
    /// Nothing comes after it.
    End {
        /// Why, when it is not simply the end.
        error: Option<String>,
    },
}

/// A place in one app's output: what is new in a chunk, what is missing before it.
#[derive(Debug, Default)]
struct Merge {
    next: Option<u64>,
}

/// What a chunk means for whoever has read up to [`Merge::next`].
#[derive(Debug, PartialEq, Eq)]
enum Merged {
    /// All of it is known.
    Known,
    /// Deliver from this byte of it on; `gap` bytes are missing before.
    New { skip: usize, gap: u64 },
    /// It begins the output of a new container.
    Restarted,
}

impl Merge {
    /// What is to be asked for again, so that nothing is lost. Always less than was read: output that is sent again never
    /// begins at 0, so that 0 tells a new container.
    fn overlap(&self) -> u32 {
        let bytes = self.next.unwrap_or(0).saturating_sub(1).min(OVERLAP_BYTES_MAX);
        u32::try_from(bytes).expect("the bound fits")
    }

    fn take(&mut self, offset: u64, length: usize) -> Merged {
        let end = offset.saturating_add(length as u64);
        let merged = match self.next {
            None => Merged::New { skip: 0, gap: 0 },
            Some(next) if offset >= next => Merged::New {
                skip: 0,
                gap: offset - next,
            },
            Some(_) if offset == 0 => Merged::Restarted,
            Some(next) if end > next => Merged::New {
                skip: usize::try_from(next - offset).unwrap_or(length),
                gap: 0,
            },
            Some(_) => return Merged::Known,
        };
        self.next = Some(end);
        merged
    }
}

struct Reader {
    events: mpsc::Sender<LogEvent>,
    missed: u64,
}

impl Reader {
    /// False when the reader is gone.
    fn send(&mut self, event: &LogEvent, bytes: u64) -> bool {
        if self.missed > 0 && self.events.try_send(LogEvent::Gap { bytes: self.missed }).is_ok() {
            self.missed = 0;
        }
        match self.events.try_send(event.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.missed += bytes;
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }
}

struct Stream {
    merge: Merge,
    held: VecDeque<(LogEvent, usize)>,
    held_bytes: usize,
    readers: Vec<Reader>,
    follow: bool,
    /// The command that the device has not answered yet.
    command: Option<u64>,
    /// When the lease is renewed, or when a stream that ends by itself has been silent for too long.
    renew_at: Instant,
    ends_at: Option<Instant>,
}

/// What shall be sent to a device.
#[derive(Debug, PartialEq)]
pub struct Ask {
    /// To which device.
    pub device: Name,
    /// Whose output; for [`Streams::asked`].
    pub app: Name,
    /// What.
    pub action: CommandAction,
}

/// All streams.
#[derive(Default)]
pub struct Streams(HashMap<(Name, Name), Stream>);

impl Streams {
    /// Adds a reader. Returns what the device has to be asked, if anything; `None` in place of the receiver when there
    /// are too many streams.
    pub fn read(
        &mut self,
        device: &Name,
        app: &Name,
        tail_bytes: u32,
        follow: bool,
        now: Instant,
    ) -> Option<(mpsc::Receiver<LogEvent>, Option<Ask>)> {
        let key = (device.clone(), app.clone());
        if self.0.len() >= STREAMS_MAX && !self.0.contains_key(&key) {
            return None;
        }
        let (events, receiver) = mpsc::channel(WAITING_MAX);
        let mut reader = Reader { events, missed: 0 };
        if let Some(stream) = self.0.get_mut(&key) {
            stream.replay(&mut reader, tail_bytes);
            if !follow && stream.follow {
                reader.send(&LogEvent::End { error: None }, 0);
                return Some((receiver, None));
            }
            stream.readers.push(reader);
            let upgrade = follow && !stream.follow;
            stream.follow |= follow;
            let ask = upgrade.then(|| stream.ask(&key, stream.merge.overlap(), now));
            return Some((receiver, ask));
        }
        let mut stream = Stream {
            merge: Merge::default(),
            held: VecDeque::new(),
            held_bytes: 0,
            readers: vec![reader],
            follow,
            command: None,
            renew_at: now + RENEW_AFTER,
            ends_at: None,
        };
        let ask = stream.ask(&key, tail_bytes, now);
        self.0.insert(key, stream);
        Some((receiver, Some(ask)))
    }

    /// The command with this id went out for a stream.
    pub fn asked(&mut self, device: &Name, app: &Name, id: u64) {
        if let Some(stream) = self.0.get_mut(&(device.clone(), app.clone())) {
            stream.command = Some(id);
        }
    }

    /// A stream's command was not accepted: its readers learn why, and it is over.
    pub fn failed(&mut self, device: &Name, app: &Name, id: u64, why: &str) {
        let key = (device.clone(), app.clone());
        if self.0.get(&key).is_some_and(|stream| stream.command == Some(id)) {
            self.end(&key, Some(why.to_owned()));
        }
    }

    /// Takes a chunk; one that nobody reads is dropped.
    pub fn chunk(&mut self, device: &Name, chunk: &LogChunk, now: Instant) {
        let key = (device.clone(), chunk.app.clone());
        let Some(stream) = self.0.get_mut(&key) else {
            return;
        };
        stream.take(chunk);
        if !stream.follow {
            stream.renew_at = now + RENEW_AFTER;
        }
        if stream.ends_at.is_some() {
            stream.ends_at = Some(now + LINGER);
        }
        if chunk.last && !stream.follow {
            self.end(&key, None);
        }
    }

    /// The device is in a new session: it knows nothing of the streams any more.
    pub fn session_changed(&mut self, device: &Name, now: Instant) -> Vec<Ask> {
        let of_device = self.0.iter_mut().filter(|((of, _), _)| of == device);
        of_device
            .map(|(key, stream)| {
                stream.tell(
                    &LogEvent::Note {
                        text: format!("device '{device}' is connected again"),
                    },
                    0,
                );
                let tail = stream.merge.overlap();
                stream.ask(key, tail, now)
            })
            .collect()
    }

    /// The device went away: its readers learn that they wait.
    pub fn offline(&mut self, device: &Name) {
        for (_, stream) in self.0.iter_mut().filter(|((of, _), _)| of == device) {
            stream.tell(
                &LogEvent::Note {
                    text: format!("device '{device}' is offline; waiting for it"),
                },
                0,
            );
        }
    }

    /// The device reported: streams of apps that have ended for good end soon, others do not.
    pub fn reported(&mut self, device: &Name, reported: &Reported, now: Instant) {
        for ((_, name), stream) in self.0.iter_mut().filter(|((of, _), _)| of == device) {
            let app = reported.apps.iter().find(|app| app.name == *name);
            let over = app.is_some_and(|app| matches!(app.state, AppState::Exited { .. }));
            stream.ends_at = over.then(|| stream.ends_at.unwrap_or(now + LINGER));
        }
    }

    /// Renews leases, ends what is over, forgets readers that have gone. Returns what is to be asked.
    pub fn tick(&mut self, now: Instant) -> Vec<Ask> {
        let mut asks = Vec::new();
        let mut over = Vec::new();
        for (key, stream) in &mut self.0 {
            stream.readers.retain(|reader| !reader.events.is_closed());
            if stream.readers.is_empty() {
                let (device, app) = key.clone();
                asks.push(Ask {
                    device,
                    app: app.clone(),
                    action: CommandAction::StopLog { app },
                });
                over.push((key.clone(), None));
            } else if stream.ends_at.is_some_and(|at| at <= now) {
                over.push((key.clone(), None));
            } else if !stream.follow && stream.renew_at <= now {
                let why = format!(
                    "device '{}' sends nothing more; its output may not end here",
                    key.0
                );
                over.push((key.clone(), Some(why)));
            } else if stream.follow && stream.renew_at <= now {
                let tail = stream.merge.overlap();
                asks.push(stream.ask(key, tail, now));
            }
        }
        for (key, error) in over {
            self.end(&key, error);
        }
        asks
    }

    fn end(&mut self, key: &(Name, Name), error: Option<String>) {
        if let Some(mut stream) = self.0.remove(key) {
            stream.tell(&LogEvent::End { error }, 0);
        }
    }
}

impl Stream {
    fn ask(&mut self, (device, app): &(Name, Name), tail_bytes: u32, now: Instant) -> Ask {
        self.renew_at = now + RENEW_AFTER;
        let lease_ms = u32::try_from(LEASE.as_millis()).expect("a lease is minutes");
        let follow_ms = if self.follow { lease_ms } else { 0 };
        let action = CommandAction::StreamLog {
            app: app.clone(),
            tail_bytes,
            follow_ms,
        };
        Ask {
            device: device.clone(),
            app: app.clone(),
            action,
        }
    }

    fn take(&mut self, chunk: &LogChunk) {
        // The end of a stream, which may stand anywhere.
        if chunk.data.is_empty() {
            return;
        }
        let skip = match self.merge.take(chunk.offset, chunk.data.len()) {
            Merged::Known => return,
            Merged::Restarted => {
                self.tell(
                    &LogEvent::Note {
                        text: format!("'{}' was started anew", chunk.app),
                    },
                    0,
                );
                0
            }
            Merged::New { skip, gap } => {
                if gap > 0 {
                    self.tell(&LogEvent::Gap { bytes: gap }, 0);
                }
                skip
            }
        };
        let data = &chunk.data[skip..];
        if data.is_empty() {
            return;
        }
        let event = LogEvent::Data {
            offset: chunk.offset + skip as u64,
            seen_at_ms: chunk.seen_at_ms,
            data: encode(data),
        };
        self.tell(&event, data.len() as u64);
        self.held_bytes += data.len();
        self.held.push_back((event, data.len()));
        while self.held_bytes > HELD_BYTES_MAX
            && let Some((_, bytes)) = self.held.pop_front()
        {
            self.held_bytes -= bytes;
        }
    }

    fn tell(&mut self, event: &LogEvent, bytes: u64) {
        self.readers.retain_mut(|reader| reader.send(event, bytes));
    }

    /// Gives a new reader the last whole chunks that fit in `tail_bytes`.
    fn replay(&self, reader: &mut Reader, tail_bytes: u32) {
        let mut left = tail_bytes as usize;
        let fits = |(_, bytes): &&(LogEvent, usize)| {
            let fits = *bytes <= left;
            left = left.saturating_sub(*bytes);
            fits
        };
        let wanted = self.held.iter().rev().take_while(fits).count();
        for (event, bytes) in self.held.iter().skip(self.held.len() - wanted) {
            reader.send(event, *bytes as u64);
        }
    }
}

fn encode(data: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(data)
}

/// The bytes of a [`LogEvent::Data`].
pub fn decode(data: &str) -> Option<Vec<u8>> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(data).ok()
}

#[cfg(test)]
#[path = "log_streams_tests.rs"]
mod tests;
