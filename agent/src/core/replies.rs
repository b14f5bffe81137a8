//! Messages out. Refusals are rationed: whoever can publish to the device must not make it flood the fleet.

use punnet_protocol::envelope::{self, EnvelopeError};
use punnet_protocol::topics::Purpose;
use punnet_protocol::{Outcome, Rejection, Reply, ReplyTo, clipped};
use serde::Serialize;

use super::{Action, Core, Level, Now};

/// Largest message a device sends: [`punnet_protocol::Report`] with all apps, details and troubles, some 7.5 KiB.
pub const SEND_BYTES_MAX: usize = 8 * 1024;

/// Refusals sent at once; enough for one on each topic and a few of an operator's mistakes.
const REFUSALS_BURST: u32 = 8;
/// Then one each so many milliseconds.
const REFUSAL_MS: u64 = 5_000;

/// A token bucket for refusals.
#[derive(Debug)]
pub struct Replies {
    left: u32,
    refilled_at: u64,
    /// Refusals not sent.
    pub withheld: u64,
}

impl Default for Replies {
    fn default() -> Self {
        Self {
            left: REFUSALS_BURST,
            refilled_at: 0,
            withheld: 0,
        }
    }
}

impl Replies {
    fn take(&mut self, now_ms: u64) -> bool {
        let refills = now_ms.saturating_sub(self.refilled_at) / REFUSAL_MS;
        if refills > 0 {
            self.left = REFUSALS_BURST.min(
                self.left
                    .saturating_add(u32::try_from(refills).unwrap_or(REFUSALS_BURST)),
            );
            self.refilled_at = now_ms;
        }
        let some = self.left > 0;
        self.left -= u32::from(some);
        self.withheld += u64::from(!some);
        some
    }
}

impl Core {
    pub(super) fn publish<T: Serialize>(&mut self, purpose: Purpose, message: &T, retain: bool) {
        self.publish_with(purpose, retain, |buffer| {
            Ok(envelope::encode(message, buffer)?.len())
        });
    }

    /// The same with an encoder that says how many bytes it has written.
    pub(super) fn publish_with(
        &mut self,
        purpose: Purpose,
        retain: bool,
        encode: impl FnOnce(&mut [u8]) -> Result<usize, EnvelopeError>,
    ) {
        let mut buffer = vec![0; SEND_BYTES_MAX];
        match encode(&mut buffer) {
            Ok(bytes) => {
                buffer.truncate(bytes);
                buffer.shrink_to_fit();
                self.send(purpose, buffer, retain);
            }
            Err(error) => self.log(
                Level::Error,
                format!("a message on {} was not sent: {error}", purpose.as_str()),
            ),
        }
    }

    pub(super) fn send(&mut self, purpose: Purpose, payload: Vec<u8>, retain: bool) {
        self.link.publishing();
        self.out.push(Action::Publish {
            purpose,
            payload,
            retain,
        });
    }

    /// Answers while there is a connection (a retained desired state comes before the birth); a controller that missed an answer sees the reported state.
    pub(super) fn reply(&mut self, to: ReplyTo, outcome: Outcome) {
        if self.link.is_up() {
            let session = self.link.session();
            self.publish(Purpose::Reply, &Reply { session, to, outcome }, false);
        }
    }

    /// A rationed refusal.
    pub(super) fn reject(&mut self, now: Now, to: ReplyTo, reason: Rejection, detail: &str) {
        if self.replies.take(now.ms) {
            self.reply(
                to,
                Outcome::Rejected {
                    reason,
                    detail: clipped(detail),
                },
            );
        } else if self.replies.withheld.is_power_of_two() {
            self.log(
                Level::Warn,
                format!("{} refusal(s) not sent, too many at once", self.replies.withheld),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_rationed() {
        let mut replies = Replies::default();
        assert_eq!(
            (0..1000).filter(|_| replies.take(0)).count(),
            REFUSALS_BURST as usize
        );
        assert_eq!(replies.withheld, 1000 - u64::from(REFUSALS_BURST));
        assert!(!replies.take(REFUSAL_MS - 1));
        assert!(replies.take(REFUSAL_MS) && !replies.take(REFUSAL_MS));
        assert_eq!(
            (0..1000).filter(|_| replies.take(1_000_000)).count(),
            REFUSALS_BURST as usize
        );
    }
}
