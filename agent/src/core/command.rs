//! Commands: checked, done once, answered once each time they come.

use std::collections::VecDeque;

use punnet_protocol::topics::Purpose;
use punnet_protocol::{Command, CommandAction, Outcome, Rejection, ReplyTo, clipped, signed};

use super::{Core, Level, Now};

/// Answers kept for commands that come again. A controller has few commands under way; an older id is refused as stale.
const ANSWERS_MAX: usize = 16;

/// What has been answered in this session.
#[derive(Debug, Default)]
pub struct Commands {
    newest: u64,
    answers: VecDeque<(u64, Outcome)>,
}

impl Commands {
    /// A new session: ids begin anew.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

impl Core {
    pub(super) fn command_message(&mut self, now: Now, payload: &[u8]) {
        let mut scratch = vec![0; payload.len()];
        let command: Command = match signed::decode(payload, &mut scratch, self.verifier()) {
            Ok(command) => command,
            Err(error) => {
                let (reason, detail) = super::desired::refusal(error);
                self.log(Level::Warn, format!("command refused: {detail}"));
                return self.reject(
                    now,
                    ReplyTo::Packet {
                        purpose: Purpose::Command,
                    },
                    reason,
                    &detail,
                );
            }
        };
        let to = ReplyTo::Command { id: command.id };
        if command.fleet != self.config.fleet || command.device != self.config.device {
            let detail = format!("it is for {} of fleet {}", command.device, command.fleet);
            return self.reject(now, to, Rejection::NotForUs, &detail);
        }
        if command.session != self.link.session() {
            let detail = format!(
                "it is for session {}, this is {}",
                command.session,
                self.link.session()
            );
            return self.reject(now, to, Rejection::Stale, &detail);
        }
        if let Some((_, outcome)) = self.commands.answers.iter().find(|(id, _)| *id == command.id) {
            let outcome = outcome.clone();
            return self.reply(to, outcome);
        }
        if command.id <= self.commands.newest {
            let detail = format!("id {} has been seen", self.commands.newest);
            return self.reject(now, to, Rejection::Stale, &detail);
        }
        let outcome = self.carry_out(now, command.id, command.action);
        self.commands.newest = command.id;
        if self.commands.answers.len() == ANSWERS_MAX {
            self.commands.answers.pop_front();
        }
        self.commands.answers.push_back((command.id, outcome.clone()));
        self.reply(to, outcome);
    }

    fn carry_out(&mut self, now: Now, id: u64, action: CommandAction) -> Outcome {
        let done = match action {
            CommandAction::Report => {
                self.reporter.force(now);
                Ok(())
            }
            CommandAction::Restart { app } => match self.apps.find(&app) {
                Some(app) if app.target().is_some() => {
                    app.restart_asked = true;
                    Ok(())
                }
                _ => Err((Rejection::Unknown, format!("no app is called {app}"))),
            },
            CommandAction::StreamLog {
                app,
                tail_bytes,
                follow_ms,
            } => self.begin_stream(now, id, app, tail_bytes, follow_ms),
            CommandAction::StopLog { app } => self.stop_stream(now, &app),
        };
        match done {
            Ok(()) => Outcome::Accepted,
            Err((reason, detail)) => Outcome::Rejected {
                reason,
                detail: clipped(&detail),
            },
        }
    }
}
