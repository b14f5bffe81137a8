//! Sending containers' output on request: one read and one unacknowledged chunk at a time for each stream, so that a slow link
//! slows the reading, never the container.

use punnet_protocol::topics::Purpose;
use punnet_protocol::{LogChunkView, Name, Rejection, envelope};

use super::{Core, Job, LogFrom, LogRead, Now};

/// Streams at the same time; more would share one thin link.
const STREAMS_MAX: usize = 4;
/// Room for the envelope and the fields of a chunk.
const CHUNK_BYTES_MAX: usize = punnet_protocol::LOG_BYTES_MAX + 256;
/// A log that is not there yet is looked for this often.
const ABSENT_MS: u64 = 500;

#[derive(Debug)]
struct Stream {
    id: u64,
    app: Name,
    from: LogFrom,
    container: Option<u64>,
    ends_at: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// To be read when there is room to send.
    Due,
    /// A read is under way.
    Reading,
    /// All that there is was sent; until it grows, or until this time.
    Idle(u64),
}

/// All streams of this session.
#[derive(Debug, Default)]
pub struct Streams {
    list: Vec<Stream>,
}

impl Streams {
    /// When a stream ends or looks again.
    pub fn wake_at(&self) -> Option<u64> {
        let at = |stream: &Stream| match stream.state {
            State::Idle(until) => Some(until),
            State::Due | State::Reading => None,
        };
        self.list.iter().filter_map(at).min()
    }
}

impl Core {
    pub(super) fn begin_stream(
        &mut self,
        now: Now,
        id: u64,
        app: Name,
        tail_bytes: u32,
        follow_ms: u32,
    ) -> Result<(), (Rejection, String)> {
        if self.apps.find(&app).is_none() {
            return Err((Rejection::Unknown, format!("no app is called {app}")));
        }
        // A newer request for the same app takes the place of the older.
        self.streams.list.retain(|stream| stream.app != app);
        if self.streams.list.len() == STREAMS_MAX {
            let detail = format!("{STREAMS_MAX} logs are being streamed already; stop one first");
            return Err((Rejection::Unsupported, detail));
        }
        self.job(Job::WatchLog {
            app: app.clone(),
            on: true,
        });
        let (from, ends_at) = (LogFrom::Tail(tail_bytes), now.ms + u64::from(follow_ms));
        self.streams.list.push(Stream {
            id,
            app,
            from,
            container: None,
            ends_at,
            state: State::Due,
        });
        Ok(())
    }

    pub(super) fn stop_stream(&mut self, now: Now, app: &Name) -> Result<(), (Rejection, String)> {
        let Some(at) = self.streams.list.iter().position(|stream| &stream.app == app) else {
            return Err((Rejection::Unknown, format!("no log of {app} is being streamed")));
        };
        self.end_stream(now, at);
        Ok(())
    }

    /// The session is gone, and with it whoever asked.
    pub(super) fn drop_streams(&mut self) {
        for stream in std::mem::take(&mut self.streams.list) {
            self.job(Job::WatchLog {
                app: stream.app,
                on: false,
            });
        }
    }

    pub(super) fn log_grew(&mut self, app: &Name) {
        for stream in self.streams.list.iter_mut().filter(|stream| &stream.app == app) {
            if let State::Idle(_) = stream.state {
                stream.state = State::Due;
            }
        }
    }

    pub(super) fn pursue_streams(&mut self, now: Now) {
        for at in 0..self.streams.list.len() {
            let stream = &mut self.streams.list[at];
            if matches!(stream.state, State::Idle(until) if until <= now.ms) {
                stream.state = State::Due;
            }
            if stream.state == State::Due && self.link.has_room() {
                stream.state = State::Reading;
                let (stream, app, from) = (stream.id, stream.app.clone(), stream.from);
                self.job(Job::ReadLog { stream, app, from });
            }
        }
    }

    pub(super) fn log_read(&mut self, now: Now, id: u64, read: Option<LogRead>) {
        let Some(at) = self.streams.list.iter().position(|stream| stream.id == id) else {
            return;
        };
        let stream = &mut self.streams.list[at];
        let over = now.ms >= stream.ends_at;
        let Some(read) = read else {
            stream.state = State::Idle(stream.ends_at.min(now.ms + ABSENT_MS));
            if over {
                self.end_stream(now, at);
            }
            return;
        };
        let another = stream
            .container
            .replace(read.container)
            .is_some_and(|before| before != read.container);
        if another && stream.from != LogFrom::At(0) {
            // The container was replaced: its output begins anew.
            stream.from = LogFrom::At(0);
            stream.state = State::Due;
            return;
        }
        let end = read.offset + read.data.len() as u64;
        stream.from = LogFrom::At(end);
        let at_end = end >= read.end;
        stream.state = if at_end {
            State::Idle(stream.ends_at)
        } else {
            State::Due
        };
        if !read.data.is_empty() {
            self.send_chunk(now, at, read.offset, &read.data, at_end && over);
        }
        if at_end && over {
            if read.data.is_empty() {
                self.end_stream(now, at);
            } else {
                self.forget_stream(at);
            }
        }
    }

    fn send_chunk(&mut self, now: Now, at: usize, offset: u64, data: &[u8], last: bool) {
        let session = self.link.session();
        let app = &self.streams.list[at].app;
        let chunk = LogChunkView {
            session,
            app,
            offset,
            seen_at_ms: now.unix_ms,
            last,
            data,
        };
        let mut buffer = vec![0; CHUNK_BYTES_MAX];
        let Ok(bytes) = envelope::encode(&chunk, &mut buffer).map(<[u8]>::len) else {
            return;
        };
        buffer.truncate(bytes);
        self.send(Purpose::Log, buffer, false);
    }

    /// Says that nothing more comes.
    fn end_stream(&mut self, now: Now, at: usize) {
        let offset = match self.streams.list[at].from {
            LogFrom::At(offset) => offset,
            LogFrom::Tail(_) => 0,
        };
        self.send_chunk(now, at, offset, &[], true);
        self.forget_stream(at);
    }

    fn forget_stream(&mut self, at: usize) {
        let stream = self.streams.list.remove(at);
        self.job(Job::WatchLog {
            app: stream.app,
            on: false,
        });
    }
}
