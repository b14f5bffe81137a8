//! Commands on their way: each is sent again until it is answered, a bounded number of times, and again to a device that
//! comes back with another session.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use punnet_protocol::{CommandAction, Name};
use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// Time for an answer before the command is sent again: longer than a round trip over a slow mobile link.
pub const RETRY_AFTER: Duration = Duration::from_secs(4);

/// How often a command is sent to one session.
pub const TRIES_MAX: u32 = 5;

/// Commands not answered, of all devices together. A waiting command belongs to somebody who waits at a terminal.
pub const OPEN_MAX: usize = 10_000;

/// A command that is not answered yet.
#[derive(Debug)]
pub struct Open {
    /// What to do.
    pub action: CommandAction,
    /// The session it was signed for.
    pub session: u64,
    /// The signed command.
    pub payload: Vec<u8>,
    /// Kept in the database, and sent again to a later session.
    pub durable: bool,
    /// Who wants to know.
    pub answer: Option<oneshot::Sender<Result<()>>>,
    tries: u32,
    next: Instant,
}

/// All commands not answered.
#[derive(Default)]
pub struct Commands(BTreeMap<(Name, u64), Open>);

/// What [`Commands::due`] found.
#[derive(Debug, Default)]
pub struct Due {
    /// To be sent again: device and signed command.
    pub again: Vec<(Name, Vec<u8>)>,
    /// Given up.
    pub given_up: Vec<(Name, u64, Open)>,
}

impl Open {
    /// A command that has just been sent for the first time.
    pub fn new(action: CommandAction, session: u64, payload: Vec<u8>, now: Instant) -> Self {
        Self {
            action,
            session,
            payload,
            durable: false,
            answer: None,
            tries: 1,
            next: now + RETRY_AFTER,
        }
    }

    /// Tells whoever waits.
    pub fn finish(self, result: Result<()>) {
        if let Some(answer) = self.answer {
            // Nobody waits any more: that is their choice.
            answer.send(result).ok();
        }
    }
}

impl Commands {
    /// Takes up a command; the error gives it back when there are too many.
    pub fn insert(&mut self, device: Name, id: u64, open: Open) -> Result<(), Box<Open>> {
        if self.0.len() >= OPEN_MAX {
            return Err(Box::new(open));
        }
        self.0.insert((device, id), open);
        Ok(())
    }

    /// The command that an answer belongs to, taken out.
    pub fn answered(&mut self, device: &Name, id: u64) -> Option<Open> {
        self.0.remove(&(device.clone(), id))
    }

    /// What is to be sent again and what is given up at `now`.
    pub fn due(&mut self, now: Instant) -> Due {
        let mut due = Due::default();
        let mut over = Vec::new();
        for ((device, id), open) in self.0.iter_mut().filter(|(_, open)| open.next <= now) {
            if open.tries >= TRIES_MAX {
                over.push((device.clone(), *id));
                continue;
            }
            open.tries += 1;
            open.next = now + RETRY_AFTER;
            due.again.push((device.clone(), open.payload.clone()));
        }
        for key in over {
            if let Some(open) = self.0.remove(&key) {
                due.given_up.push((key.0, key.1, open));
            }
        }
        due
    }

    /// Takes out the device's commands that were signed for another session than `session`.
    pub fn of_other_sessions(&mut self, device: &Name, session: u64) -> Vec<(u64, Open)> {
        let of_device = (device.clone(), 0)..=(device.clone(), u64::MAX);
        let ids: Vec<u64> = self
            .0
            .range(of_device)
            .filter(|(_, open)| open.session != session)
            .map(|((_, id), _)| *id)
            .collect();
        ids.into_iter()
            .filter_map(|id| self.answered(device, id).map(|open| (id, open)))
            .collect()
    }
}

/// What is said when a command is given up.
pub fn no_answer(device: &Name) -> Error {
    Error::NoAnswer {
        device: device.to_string(),
        seconds: RETRY_AFTER.as_secs() * u64::from(TRIES_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn a_command_is_sent_again_a_bounded_number_of_times() {
        let mut commands = Commands::default();
        let mut now = Instant::now();
        commands
            .insert(name("pi"), 1, Open::new(CommandAction::Report, 5, vec![7], now))
            .unwrap();
        let mut sent = 1;
        loop {
            assert!(commands.due(now).again.is_empty(), "not before its time");
            now += RETRY_AFTER;
            let due = commands.due(now);
            sent += due.again.len() as u32;
            if let [(device, 1, _)] = due.given_up.as_slice() {
                assert_eq!(*device, name("pi"));
                break;
            }
        }
        assert_eq!(sent, TRIES_MAX);
        assert!(commands.answered(&name("pi"), 1).is_none());
    }

    #[test]
    fn an_answer_ends_the_repeating_and_answers_count_once() {
        let mut commands = Commands::default();
        let now = Instant::now();
        commands
            .insert(name("pi"), 1, Open::new(CommandAction::Report, 5, vec![], now))
            .unwrap();
        assert!(commands.answered(&name("other"), 1).is_none());
        assert!(commands.answered(&name("pi"), 1).is_some());
        assert!(commands.answered(&name("pi"), 1).is_none());
        assert!(commands.due(now + RETRY_AFTER).again.is_empty());
    }

    #[test]
    fn a_new_session_takes_out_what_was_signed_for_the_old_one() {
        let mut commands = Commands::default();
        let now = Instant::now();
        for (device, id, session) in [("pi", 1, 5), ("pi", 2, 6), ("po", 3, 5)] {
            commands
                .insert(
                    name(device),
                    id,
                    Open::new(CommandAction::Report, session, vec![], now),
                )
                .unwrap();
        }
        let old: Vec<u64> = commands
            .of_other_sessions(&name("pi"), 6)
            .into_iter()
            .map(|(id, _)| id)
            .collect();
        assert_eq!(old, [1]);
        assert!(commands.answered(&name("po"), 3).is_some());
    }
}
