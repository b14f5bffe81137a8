//! Taking desired states: who signed them, whom they are for, how new they are; and acting on them once durable.

use std::collections::BTreeSet;

use punnet_protocol::envelope::EnvelopeError;
use punnet_protocol::signed::{self, SignedError};
use punnet_protocol::topics::Purpose;
use punnet_protocol::{Desired, DesiredView, Outcome, Rejection, ReplyTo};

use super::journal::{Pending, Record};
use super::wanted::{self, Wanted};
use super::{Action, Core, Job, Level, Now, Packet};

/// Packets that wait for one write to the flash. More of the same are not acknowledged: the broker sends them again.
const PACKETS_MAX: usize = 8;

/// Why a signed payload is not for us to act on.
pub(super) fn refusal(error: SignedError) -> (Rejection, String) {
    let reason = match error {
        SignedError::Signature => Rejection::Signature,
        SignedError::Envelope(EnvelopeError::TooLarge) => Rejection::TooLarge,
        SignedError::Envelope(EnvelopeError::Version(_)) => Rejection::Version,
        SignedError::Envelope(EnvelopeError::Length | EnvelopeError::Checksum | EnvelopeError::Body) => {
            Rejection::Malformed
        }
    };
    (reason, error.to_string())
}

impl Core {
    pub(super) fn desired_message(&mut self, now: Now, packet: Packet, payload: Vec<u8>) {
        match self.judge(&payload) {
            Judged::New {
                generation,
                signed_at_s,
            } => {
                let mut packets = vec![packet];
                if let Some(older) = self.journal.pending.take() {
                    packets.extend(older.packets);
                    packets.truncate(PACKETS_MAX);
                    let to = ReplyTo::Desired {
                        generation: older.generation,
                    };
                    self.reply(to, Outcome::Superseded { by: generation });
                }
                let storage_reported = false;
                self.journal.pending = Some(Pending {
                    generation,
                    signed_at_s,
                    payload,
                    packets,
                    storage_reported,
                });
            }
            // Acknowledged with the one that is on its way to the flash.
            Judged::Waiting => {
                if let Some(pending) = &mut self.journal.pending
                    && pending.packets.len() < PACKETS_MAX
                {
                    pending.packets.push(packet);
                }
            }
            Judged::Known => self.out.push(Action::Ack(packet)),
            Judged::Refused { to, reason, detail } => {
                self.log(Level::Warn, format!("desired state refused: {detail}"));
                self.reject(now, to, reason, &detail);
                self.out.push(Action::Ack(packet));
            }
        }
    }

    fn judge(&self, payload: &[u8]) -> Judged {
        let untrusted = ReplyTo::Packet {
            purpose: Purpose::Desired,
        };
        let mut scratch = vec![0; payload.len()];
        let message = match signed::open::<Desired>(payload, &mut scratch, self.verifier()) {
            Ok(message) => message,
            Err(error) => {
                let (reason, detail) = refusal(error);
                return Judged::Refused {
                    to: untrusted,
                    reason,
                    detail,
                };
            }
        };
        let view = match DesiredView::read(message) {
            Ok(view) => view,
            Err(error) => {
                let (reason, detail) = refusal(error.into());
                return Judged::Refused {
                    to: untrusted,
                    reason,
                    detail,
                };
            }
        };
        let to = ReplyTo::Desired {
            generation: view.generation,
        };
        self.judge_view(&view, payload)
            .unwrap_or_else(|(reason, detail)| Judged::Refused { to, reason, detail })
    }

    fn judge_view(&self, view: &DesiredView<'_>, payload: &[u8]) -> Result<Judged, (Rejection, String)> {
        let DesiredView {
            fleet,
            device,
            generation,
            signed_at_s,
            ..
        } = view;
        if *fleet != self.config.fleet || *device != self.config.device {
            return Err((
                Rejection::NotForUs,
                format!("it is for {device} of fleet {fleet}"),
            ));
        }
        let pending = self.journal.pending.as_ref();
        let durable = self.journal.generation();
        let newest = pending.map_or(durable, |pending| pending.generation);
        if *generation < newest {
            return Err((
                Rejection::Stale,
                format!("generation {newest} has been accepted already"),
            ));
        }
        let newest_payload = pending.map_or(&self.journal.record.desired, |pending| &pending.payload);
        if *generation == newest && generation > &0 && newest_payload != payload {
            return Err((
                Rejection::Conflict,
                format!("generation {newest} has other content here"),
            ));
        }
        if *generation == newest && newest_payload == payload {
            return Ok(if pending.is_some() {
                Judged::Waiting
            } else {
                Judged::Known
            });
        }
        if *generation == 0 {
            return Err((Rejection::Unsupported, "generations begin with 1".into()));
        }
        let mut names = BTreeSet::new();
        for (app, _) in view.apps() {
            if let Some(objection) = wanted::objection(&app) {
                return Err((Rejection::Unsupported, objection));
            }
            if !names.insert(app.name.clone()) {
                return Err((
                    Rejection::Unsupported,
                    format!("two apps are called {}", app.name),
                ));
            }
        }
        Ok(Judged::New {
            generation: *generation,
            signed_at_s: *signed_at_s,
        })
    }

    /// The desired state in the journal is the one to act on from now.
    pub(super) fn desired_is_durable(&mut self, now: Now) {
        let generation = self.journal.generation();
        self.log(Level::Info, format!("generation {generation} accepted"));
        self.reply(ReplyTo::Desired { generation }, Outcome::Accepted);
        let wanted = self.read_back(&self.journal.record.desired).unwrap_or_default();
        let still = |spec: &punnet_protocol::Digest| wanted.iter().any(|app| app.spec == *spec);
        self.journal.record.soaked.retain(still);
        self.journal.record.refused.retain(still);
        self.journal.record.ended.retain(|(spec, _)| still(spec));
        self.act_on(now, wanted);
    }

    /// Takes up where the agent was when it ended, before any network is there.
    pub(super) fn restore(&mut self, now: Now) {
        if self.journal.record.desired.is_empty() {
            return;
        }
        match self.read_back(&self.journal.record.desired) {
            Some(wanted) => {
                let (generation, apps) = (self.journal.generation(), wanted.len());
                self.log(
                    Level::Info,
                    format!("generation {generation} of before: {apps} app(s)"),
                );
                self.act_on(now, wanted);
            }
            None => {
                self.log(
                    Level::Error,
                    "the stored desired state is not signed for this device; nothing is run".into(),
                );
                // Another fleet's, after a new enrolment: its generations mean nothing to this one.
                let time_floor_s = self.journal.record.time_floor_s;
                self.journal.record = Record {
                    time_floor_s,
                    ..Record::default()
                };
            }
        }
    }

    fn act_on(&mut self, now: Now, wanted: Vec<Wanted>) {
        self.apps.want(wanted);
        let good = self.read_back(&self.journal.record.good).unwrap_or_default();
        self.apps.remember_good(good);
        let record = &self.journal.record;
        let mut keep = Vec::new();
        for app in &mut self.apps.list {
            let spec = app.wanted.as_ref().map(|wanted| wanted.spec);
            let known = |list: &[punnet_protocol::Digest]| spec.is_some_and(|spec| list.contains(&spec));
            // Without a version to go back to there is nothing left but to try.
            app.rolled_back = known(&record.refused) && app.good.is_some();
            app.soaked = app.rolled_back || known(&record.soaked);
            if app.soaked && app.is_system() {
                // Power may have been cut between the one record and the other.
                keep.push(Job::Keep {
                    app: app.name.clone(),
                });
            }
            if !app.rolled_back {
                app.rolled_back_why.clear();
            } else if app.rolled_back_why.is_empty() {
                app.rolled_back_why = "it failed before the agent was restarted".into();
            }
        }
        keep.into_iter().for_each(|job| self.job(job));
        self.reporter.touch(now);
    }

    /// The apps of a payload of ours, checked as when it came.
    fn read_back(&self, payload: &[u8]) -> Option<Vec<Wanted>> {
        let mut scratch = vec![0; payload.len()];
        let message = signed::open::<Desired>(payload, &mut scratch, self.verifier()).ok()?;
        let view = DesiredView::read(message).ok()?;
        let ours = view.fleet == self.config.fleet && view.device == self.config.device;
        ours.then(|| {
            view.apps()
                .map(|(app, encoded)| Wanted::new(&app, encoded))
                .collect()
        })
    }

    /// Tells the controller once that its desired state cannot be stored; it is tried again until it can.
    pub(super) fn storage_failed(&mut self, now: Now, error: &str) {
        let Some(pending) = &mut self.journal.pending else {
            return;
        };
        if std::mem::replace(&mut pending.storage_reported, true) {
            return;
        }
        let to = ReplyTo::Desired {
            generation: pending.generation,
        };
        self.reject(now, to, Rejection::Storage, error);
    }
}

enum Judged {
    /// To be made durable and acted on.
    New { generation: u64, signed_at_s: u64 },
    /// The very one that is being made durable.
    Waiting,
    /// The very one that is durable.
    Known,
    Refused {
        to: ReplyTo,
        reason: Rejection,
        detail: String,
    },
}
