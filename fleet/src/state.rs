//! What a message changes: pure functions from what is known of a device and a message to what is known then and what
//! shall be done.
//!
//! Messages of devices are not signed: whoever controls the broker can write them. So they change what is shown, and which
//! generation number is used next, and nothing else; each number they bring is bounded.

use punnet_protocol::topics::Purpose;
use punnet_protocol::{Arch, Outcome, Presence, Rejection, Reply, ReplyTo, Report, Reported, Troubles};
use serde::{Deserialize, Serialize};

/// How far one report may raise the generation. A controller restored from an old backup catches up in one step; a
/// lying broker needs 10^13 reports to use the numbers up.
pub const GENERATION_RAISE_MAX: u64 = 1_000_000;

/// What is known of a device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Device {
    /// Of the newest desired state signed for it; 0 before the first.
    pub generation: u64,
    /// A desired state is stored for it.
    pub has_desired: bool,
    /// The newest session heard of; 0 before the first.
    pub session: u64,
    /// It is connected to the broker.
    pub online: bool,
    /// When it last said something, Unix seconds.
    pub seen_s: Option<u64>,
    /// What it last reported.
    pub reported: Option<Reported>,
    /// What it then said to be wrong with itself, and a person has to see to.
    pub troubles: Troubles,
    /// What it last rejected and has not accepted since.
    pub refusal: Option<Refusal>,
}

/// Something the device rejected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What, for people: `desired state 7`.
    pub of: String,
    /// The generation when it was a desired state.
    pub generation: Option<u64>,
    /// Why, for programs.
    pub reason: String,
    /// Why, for people.
    pub detail: String,
    /// When, Unix seconds.
    pub at_s: u64,
}

/// What a message leads to beside the changed [`Device`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// The device is in another session: ask for a report, send open commands again.
    pub session_changed: bool,
    /// The architecture is known now, or another than before: choose manifests again.
    pub arch_changed: bool,
    /// The device has accepted a generation that we never signed: sign a newer one.
    pub sign_above: Option<u64>,
    /// Something else lay where the desired state was: publish it again.
    pub desired_replaced: bool,
    /// A command was answered.
    pub answered: Option<(u64, Outcome)>,
}

/// Why a message changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// It is of a session that is over.
    OldSession,
    /// It was known already.
    Known,
}

/// A message as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Unix seconds.
    pub now_s: u64,
    /// The broker had it stored: no sign of life.
    pub retained: bool,
}

/// Seconds for which refusals of the same kind lead to no further publishing: two that cannot agree, or somebody who goes on replacing
/// the desired state, must not make a storm.
const PUBLISH_AGAIN_S: u64 = 60;

impl Device {
    /// Its architecture, once reported.
    pub fn arch(&self) -> Option<Arch> {
        self.reported.as_ref().map(|reported| reported.board.arch)
    }

    /// It runs what it shall run.
    pub fn converged(&self) -> bool {
        let up_to_date = |reported: &Reported| reported.converged && reported.generation == self.generation;
        self.refusal.is_none() && self.reported.as_ref().is_some_and(up_to_date)
    }

    /// Takes a [`Presence`].
    ///
    /// A birth of any session counts, also a lower one: a device whose storage was replaced counts from the start. A will
    /// counts only for the session it belongs to.
    pub fn presence(&mut self, presence: Presence, arrival: Arrival) -> Result<Effects, Ignored> {
        if !presence.online && presence.session != self.session {
            return Err(Ignored::OldSession);
        }
        let session_changed = presence.session != self.session;
        if !session_changed && presence.online == self.online {
            return Err(Ignored::Known);
        }
        self.session = presence.session;
        self.online = presence.online;
        self.saw_live(arrival);
        Ok(Effects {
            session_changed,
            ..Effects::default()
        })
    }

    /// Takes a [`Report`].
    pub fn reported(&mut self, report: impl Into<Report>, arrival: Arrival) -> Result<Effects, Ignored> {
        let Report { reported, troubles } = report.into();
        if reported.session < self.session {
            return Err(Ignored::OldSession);
        }
        let known = |old: &Reported| old.session == reported.session && old.sequence >= reported.sequence;
        if self.reported.as_ref().is_some_and(known) {
            return Err(Ignored::Known);
        }
        let mut effects = Effects {
            session_changed: reported.session != self.session,
            arch_changed: self.arch() != Some(reported.board.arch),
            ..Effects::default()
        };
        let ahead = reported.generation.saturating_sub(self.generation);
        if (1..=GENERATION_RAISE_MAX).contains(&ahead) {
            effects.sign_above = Some(reported.generation);
        }
        let outlived = |refusal: &Refusal| refusal.generation.is_some_and(|g| g <= reported.generation);
        if self.refusal.as_ref().is_some_and(outlived) {
            self.refusal = None;
        }
        self.session = reported.session;
        self.online |= !arrival.retained;
        self.saw_live(arrival);
        (self.reported, self.troubles) = (Some(reported), troubles);
        Ok(effects)
    }

    /// Takes a [`Reply`].
    pub fn reply(&mut self, reply: Reply, arrival: Arrival) -> Result<Effects, Ignored> {
        if reply.session < self.session {
            return Err(Ignored::OldSession);
        }
        let mut effects = Effects {
            session_changed: reply.session != self.session,
            ..Effects::default()
        };
        self.session = reply.session;
        self.online |= !arrival.retained;
        self.saw_live(arrival);
        match (reply.to, reply.outcome) {
            (ReplyTo::Command { id }, outcome) => effects.answered = Some((id, outcome)),
            (ReplyTo::Desired { generation }, Outcome::Accepted) => self.accepted(generation),
            (ReplyTo::Desired { generation }, Outcome::Rejected { reason, detail }) => {
                // An answer to an older one says nothing about the newest.
                if generation >= self.generation {
                    let of = format!("desired state {generation}");
                    self.refusal = Some(refusal(of, Some(generation), reason, &detail, arrival));
                }
            }
            (ReplyTo::Packet { purpose }, Outcome::Rejected { reason, detail }) => {
                let of = format!("a packet on its {} topic", purpose.as_str());
                let lately = |refusal: &Refusal| {
                    refusal.of == of && arrival.now_s.saturating_sub(refusal.at_s) < PUBLISH_AGAIN_S
                };
                effects.desired_replaced =
                    purpose == Purpose::Desired && !self.refusal.as_ref().is_some_and(lately);
                self.refusal = Some(refusal(of, None, reason, &detail, arrival));
            }
            (ReplyTo::Desired { .. } | ReplyTo::Packet { .. }, _) => {}
        }
        Ok(effects)
    }

    fn accepted(&mut self, generation: u64) {
        // What cannot be read has no generation: accepting the newest one settles that too.
        let settled = |refusal: &Refusal| refusal.generation.is_none_or(|g| g <= generation);
        if generation >= self.generation && self.refusal.as_ref().is_some_and(settled) {
            self.refusal = None;
        }
    }

    fn saw_live(&mut self, arrival: Arrival) {
        if !arrival.retained {
            self.seen_s = Some(arrival.now_s);
        }
    }
}

/// A rejection in words, for those that the device did not explain itself.
pub fn rejection_words(reason: Rejection) -> &'static str {
    match reason {
        Rejection::Malformed => "it is damaged or no message of ours",
        Rejection::TooLarge => "it is too large for the device",
        Rejection::Version => "the device speaks another protocol version",
        Rejection::Signature => {
            "it is not signed with the key the device was enrolled with; enrol the device again"
        }
        Rejection::NotForUs => "it is for another fleet or device",
        Rejection::Stale => "the device has accepted a newer one already",
        Rejection::Conflict => "the device has accepted the same generation with other content",
        Rejection::Unsupported => "the device cannot do it",
        Rejection::Unknown => "the device has no such app",
        Rejection::Storage => "the device cannot store it; is its disk full?",
    }
}

/// Text of a device made fit for a terminal and a log: no control characters.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// Why an outcome is a rejection, in words; `None` when it is none.
pub fn rejection_text(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Rejected { reason, detail } if detail.is_empty() => Some(rejection_words(*reason).into()),
        Outcome::Rejected { detail, .. } => Some(printable(detail)),
        Outcome::Superseded { by } => Some(format!("a newer one ({by}) took its place")),
        Outcome::Accepted => None,
    }
}

fn refusal(
    of: String,
    generation: Option<u64>,
    reason: Rejection,
    detail: &str,
    arrival: Arrival,
) -> Refusal {
    let detail = if detail.is_empty() {
        rejection_words(reason).into()
    } else {
        printable(detail)
    };
    Refusal {
        of,
        generation,
        reason: format!("{reason:?}").to_lowercase(),
        detail,
        at_s: arrival.now_s,
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
