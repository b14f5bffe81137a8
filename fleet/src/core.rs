//! The running controller's heart: takes messages and requests one after the other, keeps the database, decides what goes
//! out. Everything it waits for is the database.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use punnet_protocol::topics::Purpose;
use punnet_protocol::{BlockWant, Command, CommandAction, LogChunk, Name, Report, envelope};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use crate::blocks::Blocks;
use crate::commands::{self, Commands, Open};
use crate::db::{self, Writer, devices};
use crate::desired::Signer;
use crate::error::{Error, Result};
use crate::log_streams::{Ask, LogEvent, Streams};
use crate::message::{self, Applied, Message};
use crate::serve::Counters;
use crate::session::{Incoming, Outbox};
use crate::state::{self, Arrival, Device, Effects, Ignored};

/// How often leases and retries are looked at.
const TICK: Duration = Duration::from_millis(500);

/// What the API asks of the core.
pub enum Request {
    /// Send a command and answer when the device has.
    Restart {
        /// To which device.
        device: Name,
        /// Which app.
        app: Name,
        /// Where the device's answer goes.
        answer: oneshot::Sender<Result<()>>,
    },
    /// Read an app's output.
    ReadLog {
        /// Of which device.
        device: Name,
        /// Of which app.
        app: Name,
        /// How much of what is there already.
        tail_bytes: u32,
        /// Go on with what comes.
        follow: bool,
        /// Where the events are to be had.
        answer: oneshot::Sender<Result<mpsc::Receiver<LogEvent>>>,
    },
}

/// The core.
pub struct Core {
    /// Signs.
    pub signer: Arc<Signer>,
    /// The database.
    pub writer: Writer,
    /// To the broker.
    pub outbox: Arc<Outbox>,
    /// To the block thread.
    pub blocks: Blocks,
    /// What was ignored.
    pub counters: Arc<Counters>,
    /// Counts changes that a reader of the API may want to see.
    pub changes: watch::Sender<u64>,
    /// Why the broker is not connected.
    pub broker_error: watch::Sender<Option<String>>,
    /// Commands on their way.
    pub commands: Commands,
    /// Output on its way.
    pub streams: Streams,
}

impl Core {
    /// Runs until the session or the API are gone.
    pub async fn run(
        mut self,
        mut incoming: mpsc::Receiver<Incoming>,
        mut requests: mpsc::Receiver<Request>,
    ) {
        self.reload_commands().await;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = incoming.recv() => match message {
                    Some(message) => self.incoming(message).await,
                    None => return,
                },
                request = requests.recv() => match request {
                    Some(request) => self.request(request).await,
                    None => return,
                },
                _ = tick.tick() => self.tick().await,
            }
        }
    }

    async fn incoming(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Connected => {
                self.broker_error.send_replace(None);
                self.changed();
            }
            Incoming::Disconnected(why) => {
                if self.broker_error.send_replace(Some(why.clone())).as_ref() != Some(&why) {
                    crate::warn(&format!(
                        "not connected to the broker, trying again: {}",
                        state::printable(&why)
                    ));
                }
            }
            Incoming::Message {
                device,
                purpose,
                payload,
                retained,
            } => {
                let arrival = Arrival {
                    now_s: crate::now_s(),
                    retained,
                };
                self.message(device, purpose, payload, arrival).await;
            }
        }
    }

    /// Takes one message. Whatever is in it, the worst is that it is counted and dropped.
    async fn message(&mut self, device: Name, purpose: Purpose, payload: Bytes, arrival: Arrival) {
        let decoded = match purpose {
            Purpose::Presence => envelope::decode(&payload).map(Message::Presence),
            Purpose::Reported => Report::decode(&payload).map(|report| Message::Reported(Box::new(report))),
            Purpose::Reply => envelope::decode(&payload).map(|reply| Message::Reply(Box::new(reply))),
            Purpose::Want => match envelope::decode::<BlockWant>(&payload) {
                Ok(want) => return self.blocks.want(device, want),
                Err(error) => Err(error),
            },
            Purpose::Log => match envelope::decode::<LogChunk>(&payload) {
                Ok(chunk) => return self.streams.chunk(&device, &chunk, Instant::now()),
                Err(error) => Err(error),
            },
            Purpose::Desired | Purpose::Command | Purpose::Block => return self.counters.bad_topic.add(),
        };
        let Ok(message) = decoded else {
            return self.counters.malformed.add();
        };
        match self.apply(device.clone(), message, arrival).await {
            Ok(Some((before, after, effects))) => self.follow_up(device, &before, &after, effects).await,
            Ok(None) => {}
            Err(error) => crate::warn(&format!(
                "a message of device '{device}' was lost: {}",
                error.chain()
            )),
        }
    }

    /// Changes the device's row. `None` when the message was ignored, which is counted.
    async fn apply(
        &self,
        name: Name,
        message: Message,
        arrival: Arrival,
    ) -> Result<Option<(Device, Device, Effects)>> {
        let signer = self.signer.clone();
        let applied = self
            .writer
            .run(move |db| message::apply(db, &signer, &name, message, arrival))
            .await?;
        match applied {
            Applied::Changed(change) => return Ok(Some(*change)),
            Applied::Unknown => self.counters.unknown_device.add(),
            Applied::Ignored(Ignored::OldSession) => self.counters.old_session.add(),
            Applied::Ignored(Ignored::Known) => self.counters.known.add(),
        }
        Ok(None)
    }

    async fn follow_up(&mut self, device: Name, before: &Device, after: &Device, effects: Effects) {
        let now = Instant::now();
        if after.generation != before.generation || effects.desired_replaced {
            self.outbox.desired(device.clone());
        }
        if let Some(reported) = after
            .reported
            .as_ref()
            .filter(|_| after.reported != before.reported)
        {
            self.streams.reported(&device, reported, now);
        }
        if effects.session_changed {
            self.session_changed(&device, after.session).await;
            // Its reports may have been taken for old ones until now.
            if after.session < before.session {
                self.send(&device, after.session, CommandAction::Report, false, None)
                    .await;
            }
        }
        if before.online && !after.online {
            self.streams.offline(&device);
        }
        if let Some((id, outcome)) = effects.answered {
            self.answered(&device, id, state::rejection_text(&outcome)).await;
        }
        self.changed();
    }

    /// The device is in a session that knows nothing of what was asked in the one before.
    async fn session_changed(&mut self, device: &Name, session: u64) {
        // The broker has it retained, unless somebody took it away or put something else there.
        self.outbox.desired(device.clone());
        for (id, open) in self.commands.of_other_sessions(device, session) {
            self.forget_durable(device, id, &open).await;
            if open.durable {
                let (action, answer) = (open.action, open.answer);
                self.send(device, session, action, true, answer).await;
            }
        }
        for ask in self.streams.session_changed(device, Instant::now()) {
            self.ask(ask, session).await;
        }
    }

    async fn answered(&mut self, device: &Name, id: u64, rejection: Option<String>) {
        let Some(open) = self.commands.answered(device, id) else {
            return;
        };
        self.forget_durable(device, id, &open).await;
        if let CommandAction::StreamLog { app, .. } = &open.action
            && let Some(why) = &rejection
        {
            self.streams
                .failed(device, app, id, &format!("device '{device}' rejected it: {why}"));
        }
        open.finish(match rejection {
            None => Ok(()),
            Some(why) => Err(Error::Rejected {
                device: device.to_string(),
                why,
            }),
        });
    }

    async fn request(&mut self, request: Request) {
        match request {
            Request::Restart { device, app, answer } => match self.session_of(&device).await {
                Ok(session) => {
                    self.send(
                        &device,
                        session,
                        CommandAction::Restart { app },
                        true,
                        Some(answer),
                    )
                    .await;
                }
                Err(error) => {
                    answer.send(Err(error)).ok();
                }
            },
            Request::ReadLog {
                device,
                app,
                tail_bytes,
                follow,
                answer,
            } => {
                let events = self.read_log(device, app, tail_bytes, follow).await;
                answer.send(events).ok();
            }
        }
    }

    async fn read_log(
        &mut self,
        device: Name,
        app: Name,
        tail_bytes: u32,
        follow: bool,
    ) -> Result<mpsc::Receiver<LogEvent>> {
        let session = self.session_of(&device).await?;
        let (events, ask) = self
            .streams
            .read(&device, &app, tail_bytes, follow, Instant::now())
            .ok_or_else(|| Error::Conflict("too many log streams are open; end some of them".into()))?;
        if let Some(ask) = ask {
            self.ask(ask, session).await;
        }
        Ok(events)
    }

    /// The session of a device that is online.
    async fn session_of(&self, device: &Name) -> Result<u64> {
        let name = device.clone();
        let row = self.writer.run(move |db| devices::get(db, &name)).await?;
        if row.online {
            Ok(row.session)
        } else {
            Err(Error::Offline(device.to_string()))
        }
    }

    async fn ask(&mut self, ask: Ask, session: u64) {
        let Ask { device, app, action } = ask;
        if let Some(id) = self.send(&device, session, action, false, None).await {
            self.streams.asked(&device, &app, id);
        }
    }

    /// Signs and sends a command, and repeats it until it is answered. Returns its id.
    async fn send(
        &mut self,
        device: &Name,
        session: u64,
        action: CommandAction,
        durable: bool,
        answer: Option<oneshot::Sender<Result<()>>>,
    ) -> Option<u64> {
        let (signer, name, wanted) = (self.signer.clone(), device.clone(), action.clone());
        let signed = self
            .writer
            .run(move |db| {
                let id = devices::take_command_id(db, &name)?;
                if durable {
                    db::commands::insert(db, &name, id, session, &wanted)?;
                }
                let fleet = signer.fleet.clone();
                let payload = signer.sign(&Command {
                    fleet,
                    device: name,
                    session,
                    id,
                    action: wanted,
                })?;
                Ok((id, payload))
            })
            .await;
        let (id, payload) = match signed {
            Ok(signed) => signed,
            Err(error) => {
                match answer {
                    Some(answer) => answer.send(Err(error)).unwrap_or_default(),
                    None => crate::warn(&format!(
                        "a command for device '{device}' was not sent: {}",
                        error.chain()
                    )),
                }
                return None;
            }
        };
        self.outbox.command(device.clone(), payload.clone());
        let mut open = Open::new(action, session, payload, Instant::now());
        (open.durable, open.answer) = (durable, answer);
        if let Err(open) = self.commands.insert(device.clone(), id, open) {
            self.forget_durable(device, id, &open).await;
            open.finish(Err(Error::Conflict(
                "too many commands are not answered yet; try again later".into(),
            )));
            return None;
        }
        Some(id)
    }

    async fn tick(&mut self) {
        let due = self.commands.due(Instant::now());
        for (device, payload) in due.again {
            self.outbox.command(device, payload);
        }
        for (device, id, open) in due.given_up {
            self.forget_durable(&device, id, &open).await;
            if let CommandAction::StreamLog { app, .. } = &open.action {
                self.streams
                    .failed(&device, app, id, &commands::no_answer(&device).to_string());
            }
            open.finish(Err(commands::no_answer(&device)));
        }
        for ask in self.streams.tick(Instant::now()) {
            // A device that is away is asked again when it is back.
            if let Ok(session) = self.session_of(&ask.device).await {
                self.ask(ask, session).await;
            }
        }
    }

    async fn forget_durable(&self, device: &Name, id: u64, open: &Open) {
        if !open.durable {
            return;
        }
        let name = device.clone();
        if let Err(error) = self
            .writer
            .run(move |db| db::commands::remove(db, &name, id))
            .await
        {
            crate::warn(&format!(
                "a command of device '{device}' stays in the database: {}",
                error.chain()
            ));
        }
    }

    /// Takes up what a controller before this one had sent and got no answer to.
    async fn reload_commands(&mut self) {
        let signer = self.signer.clone();
        let loaded = self.writer.run(move |db| {
            let stored = db::commands::all(db)?.into_iter();
            stored
                .map(|(device, id, session, action)| {
                    let fleet = signer.fleet.clone();
                    let command = Command {
                        fleet,
                        device,
                        session,
                        id,
                        action,
                    };
                    signer.sign(&command).map(|payload| (command, payload))
                })
                .collect::<Result<Vec<_>>>()
        });
        match loaded.await {
            Ok(loaded) => {
                for (
                    Command {
                        device,
                        session,
                        id,
                        action,
                        ..
                    },
                    payload,
                ) in loaded
                {
                    let mut open = Open::new(action, session, payload, Instant::now());
                    open.durable = true;
                    if self.commands.insert(device, id, open).is_err() {
                        return;
                    }
                }
            }
            Err(error) => crate::warn(&format!("commands of the last run are lost: {}", error.chain())),
        }
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
