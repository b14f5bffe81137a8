//! The connection: when to connect, what to subscribe to, and what to keep away from.
//!
//! An oversized packet ends a connection without saying on which topic it came, and comes again when it is retained. So after
//! one, topics are subscribed one by one; the one on which it happens again is left alone for a growing time, the retained
//! message is cleared, and all else goes on.

use punnet_protocol::topics::Purpose;
use punnet_protocol::{Presence, Rejection, ReplyTo, envelope};

use super::backoff::{Random, pause_ms};
use super::{Action, Core, Job, Level, LinkError, Now};

/// Pauses before connecting again, full jitter (a random part of them).
const RECONNECT_FIRST_MS: u64 = 1_000;
const RECONNECT_MOST_MS: u64 = 60_000;
/// A connection that lasted this long was not a failed attempt.
const STEADY_MS: u64 = 30_000;
/// The broker sends a retained message right behind its answer to the subscription; this long is waited for it.
const SETTLE_MS: u64 = 300;
/// A poisoned topic is tried again: soon, since its message is being cleared, then less and less often.
const QUARANTINE_FIRST_MS: u64 = 5_000;
const QUARANTINE_MOST_MS: u64 = 3_600_000;
/// Two connections taken over within this time: another device may have our name.
const TAKEN_OVER_MS: u64 = 60_000;
/// Then this long (up to twice) is waited, so that the two do not push each other off the broker for ever.
const CLONED_MS: u64 = 600_000;
/// Containers that were running before come first, but the fleet is not kept waiting for longer than this.
const BOOT_HOLD_MS: u64 = 10_000;
/// How often it is looked whether they are up.
const BOOT_POLL_MS: u64 = 50;
/// Messages of ours that the broker has not acknowledged, beyond which no blocks are asked for and no logs are sent.
const UNACKNOWLEDGED_MAX: u32 = 8;
/// Sessions of ours that are remembered, to tell another's presence from our own.
const SESSIONS_KEPT: usize = 8;

#[derive(Debug, PartialEq)]
enum State {
    /// Before the start, or after the goodbye.
    Off,
    Down {
        until: u64,
    },
    Connecting,
    Up {
        since: u64,
    },
}

#[derive(Debug, Default)]
struct Topic {
    subscribed: bool,
    /// Left alone until then.
    quarantined_until: Option<u64>,
    /// How often in a row it was poisoned.
    poisoned: u32,
}

/// The connection's state.
#[derive(Debug)]
pub struct Link {
    state: State,
    starts: u32,
    connections: u16,
    session: u64,
    sessions: [u64; SESSIONS_KEPT],
    failures: u32,
    started_at: u64,
    /// Topics are subscribed one by one.
    probing: bool,
    /// The topic being subscribed, and when its retained message must have come.
    trying: Option<(Purpose, Option<u64>)>,
    topics: [Topic; 3],
    /// The birth was published.
    ready: bool,
    unacknowledged: u32,
    taken_over_at: Option<u64>,
    /// Listen to our own presence, to find out whether another has our name.
    suspicious: bool,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            state: State::Off,
            starts: 0,
            connections: 0,
            session: 0,
            sessions: [0; SESSIONS_KEPT],
            failures: 0,
            started_at: 0,
            probing: false,
            trying: None,
            topics: Default::default(),
            ready: false,
            unacknowledged: 0,
            taken_over_at: None,
            suspicious: false,
        }
    }
}

impl Link {
    pub fn started(&mut self, now: Now, starts: u32) {
        self.starts = starts;
        self.connections = 0;
        if self.state == State::Off {
            self.started_at = now.ms;
            self.state = State::Down { until: now.ms };
        }
    }

    pub fn stop(&mut self) {
        self.state = State::Off;
        self.ready = false;
    }

    pub fn session(&self) -> u64 {
        self.session
    }

    pub fn is_ready(&self) -> bool {
        self.ready
    }

    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// Whether asking for blocks makes sense: answers would come.
    pub fn can_ask(&self) -> bool {
        self.ready && self.topic(Purpose::Block).subscribed
    }

    pub fn has_room(&self) -> bool {
        self.ready && self.unacknowledged < UNACKNOWLEDGED_MAX
    }

    pub fn publishing(&mut self) {
        self.unacknowledged += 1;
    }

    pub fn published(&mut self) {
        self.unacknowledged = self.unacknowledged.saturating_sub(1);
    }

    pub fn wake_at(&self) -> Option<u64> {
        let retries = self.topics.iter().filter_map(|topic| topic.quarantined_until);
        match self.state {
            State::Off | State::Connecting => None,
            State::Down { until } => Some(until),
            State::Up { .. } => match self.trying {
                Some((_, settled_at)) => settled_at,
                None => retries.min(),
            },
        }
    }

    fn topic(&self, purpose: Purpose) -> &Topic {
        &self.topics[index(purpose)]
    }

    /// The next session's number: see [`Presence::session`].
    fn next_session(&mut self, random: &mut Random) {
        self.connections = self.connections.saturating_add(1);
        let low = random.up_to(u64::from(u16::MAX));
        self.session = u64::from(self.starts) << 32 | u64::from(self.connections) << 16 | low;
        self.sessions.rotate_right(1);
        self.sessions[0] = self.session;
    }

    fn poison(&mut self, now: Now, purpose: Purpose) -> u64 {
        let topic = &mut self.topics[index(purpose)];
        topic.poisoned = topic.poisoned.saturating_add(1);
        let pause = pause_ms(topic.poisoned, QUARANTINE_FIRST_MS, QUARANTINE_MOST_MS);
        topic.quarantined_until = Some(now.ms + pause);
        pause
    }
}

/// Place of a topic that devices subscribe to.
fn index(purpose: Purpose) -> usize {
    match purpose {
        Purpose::Desired => 0,
        Purpose::Command => 1,
        _ => 2,
    }
}

impl Core {
    pub(super) fn connected(&mut self, now: Now) {
        self.link.state = State::Up { since: now.ms };
        self.link.unacknowledged = 0;
        self.link.trying = None;
        self.log(Level::Info, format!("connected, session {}", self.link.session));
        if self.link.suspicious {
            self.out.push(Action::Subscribe(Purpose::Presence));
        }
        if !self.link.probing {
            for purpose in Purpose::TO_DEVICE {
                if self.link.topic(purpose).quarantined_until.is_none() {
                    self.out.push(Action::Subscribe(purpose));
                }
            }
        }
    }

    pub(super) fn subscribed(&mut self, now: Now, purpose: Purpose, granted: bool) {
        if purpose == Purpose::Presence {
            return;
        }
        if !granted {
            self.log(
                Level::Error,
                format!("the broker refuses the subscription to {}", purpose.as_str()),
            );
        }
        self.link.topics[index(purpose)].subscribed = true;
        if let Some((trying, settled_at)) = &mut self.link.trying
            && *trying == purpose
        {
            *settled_at = Some(now.ms + SETTLE_MS);
        }
    }

    pub(super) fn disconnected(&mut self, now: Now, error: LinkError) {
        let link = &mut self.link;
        let up_since = match link.state {
            State::Up { since } => Some(since),
            _ => None,
        };
        if link.state == State::Off {
            return;
        }
        let trying = link.trying.take();
        link.ready = false;
        link.topics.iter_mut().for_each(|topic| topic.subscribed = false);
        link.failures = match up_since {
            Some(since) if now.ms - since >= STEADY_MS => 1,
            _ => link.failures.saturating_add(1),
        };
        let most = pause_ms(link.failures, RECONNECT_FIRST_MS, RECONNECT_MOST_MS);
        link.state = State::Down {
            until: now.ms + self.random.up_to(most),
        };
        let text = match &error {
            LinkError::Oversized => "a packet was larger than is taken",
            LinkError::ClosedByPeer => "the broker closed the connection",
            LinkError::Other(text) => text,
        };
        self.log(Level::Warn, format!("not connected: {text}"));
        match error {
            LinkError::Oversized => self.oversized(now, trying.map(|(purpose, _)| purpose)),
            LinkError::ClosedByPeer if up_since.is_some() => self.closed_by_peer(now),
            LinkError::ClosedByPeer | LinkError::Other(_) => {}
        }
        self.fetcher.disconnected();
        self.drop_streams();
        self.commands.reset();
        // The acknowledgement of what is being stored has nowhere to go; the broker sends the message again.
    }

    fn oversized(&mut self, now: Now, trying: Option<Purpose>) {
        self.link.probing = true;
        if let Some(purpose) = trying {
            let pause = self.link.poison(now, purpose);
            let text = format!(
                "the oversized packet is on {}; left alone for {pause} ms",
                purpose.as_str()
            );
            self.log(Level::Error, text);
        }
    }

    fn closed_by_peer(&mut self, now: Now) {
        let before = self.link.taken_over_at.replace(now.ms);
        if before.is_some_and(|before| now.ms - before < TAKEN_OVER_MS) {
            self.link.suspicious = true;
        }
    }

    /// Another session under our name, while ours is up.
    pub(super) fn presence_message(&mut self, now: Now, payload: &[u8]) {
        let Ok(presence) = envelope::decode::<Presence>(payload) else {
            return;
        };
        let ours = self.link.sessions.contains(&presence.session);
        let older = presence.session >> 32 < u64::from(self.link.starts);
        if ours || older || !self.link.suspicious {
            return;
        }
        let pause = CLONED_MS + self.random.up_to(CLONED_MS);
        let device = &self.config.device;
        let text = format!(
            "cloned identity: another device is connected as {device}; enrol one of them anew. Waits {pause} ms"
        );
        self.log(Level::Error, text);
        self.link.state = State::Down {
            until: now.ms + pause,
        };
        self.link.ready = false;
        self.link
            .topics
            .iter_mut()
            .for_each(|topic| topic.subscribed = false);
        self.link.trying = None;
        self.fetcher.disconnected();
        self.drop_streams();
        self.commands.reset();
        self.out.push(Action::Disconnect);
    }

    pub(super) fn pursue_link(&mut self, now: Now) {
        match self.link.state {
            State::Off | State::Connecting => {}
            State::Down { until } if now.ms < until => {}
            State::Down { .. } if self.holds_for_boot(now) => {
                self.link.state = State::Down {
                    until: now.ms + BOOT_POLL_MS,
                };
            }
            State::Down { .. } => self.connect(),
            State::Up { .. } => self.pursue_topics(now),
        }
    }

    /// The containers of before come up before the network is touched.
    fn holds_for_boot(&self, now: Now) -> bool {
        let first = self.link.connections == 0 && self.link.failures == 0;
        first && self.apps.any_busy() && now.ms < self.link.started_at + BOOT_HOLD_MS
    }

    fn connect(&mut self) {
        if self.link.connections == u16::MAX {
            // Its answer sets the count back; the next attempt has a session of its own either way.
            self.job(Job::CountStart);
        }
        self.link.next_session(&mut self.random);
        self.link.state = State::Connecting;
        let will = Presence {
            session: self.link.session,
            online: false,
        };
        let mut buffer = [0; 64];
        let will = envelope::encode(&will, &mut buffer)
            .map(<[u8]>::to_vec)
            .unwrap_or_default();
        self.out.push(Action::Connect { will });
    }

    fn pursue_topics(&mut self, now: Now) {
        if let Some((purpose, settled_at)) = self.link.trying {
            if settled_at.is_none_or(|at| now.ms < at) {
                return;
            }
            self.link.trying = None;
            let topic = &mut self.link.topics[index(purpose)];
            topic.quarantined_until = None;
            topic.poisoned = 0;
        }
        if let Some(purpose) = self.next_topic(now) {
            self.link.trying = Some((purpose, None));
            self.out.push(Action::Subscribe(purpose));
            return;
        }
        let waiting = |topic: &Topic| !topic.subscribed && topic.quarantined_until.is_none();
        if !self.link.ready && !self.link.topics.iter().any(waiting) {
            self.link.probing = false;
            self.become_ready(now);
        }
    }

    /// The next topic to subscribe by itself: each in turn after an oversized packet, and poisoned ones whose time has come.
    fn next_topic(&self, now: Now) -> Option<Purpose> {
        Purpose::TO_DEVICE.into_iter().find(|&purpose| {
            let topic = self.link.topic(purpose);
            match topic.quarantined_until {
                // First the clearing, which comes with the birth.
                Some(until) => !topic.subscribed && self.link.ready && now.ms >= until,
                None => !topic.subscribed && self.link.probing,
            }
        })
    }

    fn become_ready(&mut self, now: Now) {
        self.link.ready = true;
        let session = self.link.session;
        self.publish(
            Purpose::Presence,
            &Presence {
                session,
                online: true,
            },
            true,
        );
        for purpose in Purpose::TO_DEVICE {
            if self.link.topic(purpose).quarantined_until.is_some() {
                self.send(purpose, Vec::new(), true);
                let detail = "a packet on it is larger than is taken; a retained one was cleared";
                self.reject(now, ReplyTo::Packet { purpose }, Rejection::TooLarge, detail);
            }
        }
        self.reporter.new_session(now);
    }
}
