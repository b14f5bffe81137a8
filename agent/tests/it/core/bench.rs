//! A core with a device and a connection, and a clock that only moves when told to.

use std::collections::VecDeque;

use punnet_agent::core::*;
use punnet_protocol::topics::Purpose;
use punnet_protocol::*;

use crate::device::Device;
use crate::fleet::{Fleet, name};

pub struct Bench {
    pub core: Core,
    pub now: Now,
    pub device: Device,
    pub fleet: Fleet,
    /// What the device published.
    pub sent: Vec<(Purpose, Vec<u8>, bool)>,
    pub acknowledged: Vec<u16>,
    pub subscribed: Vec<Purpose>,
    pub logged: Vec<String>,
    /// The will of the connection that was asked for.
    pub will: Option<Vec<u8>>,
    pub disconnects: u32,
    /// Requests for blocks are answered.
    pub serves_blocks: bool,
    /// Subscriptions are granted at once.
    pub grants: bool,
    next_packet: u16,
    config: Config,
}

impl Bench {
    pub fn new() -> Self {
        Self::with(None)
    }

    pub fn with(fetch_bytes_per_s: Option<u32>) -> Self {
        let fleet = Fleet::new();
        let (home, kitchen, fleet_key) = (name("home"), name("kitchen"), fleet.public_key());
        let config = Config {
            fleet: home,
            device: kitchen,
            fleet_key,
            fetch_bytes_per_s,
            seed: 1,
        };
        let mut bench = Self {
            core: Core::new(config.clone()),
            now: Now {
                ms: 1,
                unix_ms: 1_790_000_000_000,
            },
            device: Device::default(),
            fleet,
            sent: Vec::new(),
            acknowledged: Vec::new(),
            subscribed: Vec::new(),
            logged: Vec::new(),
            will: None,
            disconnects: 0,
            serves_blocks: true,
            grants: true,
            next_packet: 0,
            config,
        };
        bench.restart();
        bench
    }

    /// With a connection.
    pub fn connected() -> Self {
        let mut bench = Self::new();
        bench.connect();
        bench
    }

    /// The agent starts, again.
    pub fn restart(&mut self) {
        self.core = Core::new(self.config.clone());
        self.will = None;
        let disk = self.device.on_disk();
        self.event(Event::Started(disk));
    }

    pub fn connect(&mut self) {
        for _ in 0..1000 {
            if self.will.is_some() {
                break;
            }
            self.pass(100);
        }
        assert!(self.will.take().is_some(), "it does not connect");
        self.event(Event::Connected);
    }

    pub fn event(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.core.step(self.now, event) {
                self.act(action, &mut events);
            }
        }
    }

    fn act(&mut self, action: Action, events: &mut VecDeque<Event>) {
        match action {
            Action::Connect { will } => self.will = Some(will),
            Action::Disconnect => self.disconnects += 1,
            Action::Subscribe(purpose) => {
                self.subscribed.push(purpose);
                if self.grants {
                    events.push_back(Event::Subscribed {
                        purpose,
                        granted: true,
                    });
                }
            }
            Action::Publish {
                purpose,
                payload,
                retain,
            } => {
                events.push_back(Event::Published);
                if purpose == Purpose::Want && self.serves_blocks {
                    let payload = self.fleet.block(&envelope::decode(&payload).unwrap());
                    events.push_back(self.packet(Purpose::Block, payload));
                }
                self.sent.push((purpose, payload, retain));
            }
            Action::Ack(packet) => self.acknowledged.push(packet.id),
            Action::Job(job) => events.extend(self.device.run(job).map(Event::Done)),
            Action::Led(_) => {}
            Action::Log(_, text) => self.logged.push(text),
        }
    }

    fn packet(&mut self, purpose: Purpose, payload: Vec<u8>) -> Event {
        self.next_packet += 1;
        Event::Message {
            purpose,
            packet: Packet {
                connection: 0,
                id: self.next_packet,
            },
            payload,
        }
    }

    /// A message comes; returns its packet's number.
    pub fn message(&mut self, purpose: Purpose, payload: Vec<u8>) -> u16 {
        let event = self.packet(purpose, payload);
        self.event(event);
        self.next_packet
    }

    pub fn desire(&mut self, generation: u64, apps: &[App]) -> u16 {
        let payload = self.fleet.desired(generation, apps);
        self.message(Purpose::Desired, payload)
    }

    /// Time passes, and everything is done when it is due.
    pub fn pass(&mut self, ms: u64) {
        let end = self.now.ms + ms;
        while let Some(at) = self.core.wake_at().filter(|at| *at <= end) {
            self.now.unix_ms += at - self.now.ms;
            self.now.ms = at;
            self.event(Event::Tick);
        }
        self.now.unix_ms += end - self.now.ms;
        self.now.ms = end;
    }

    /// The messages of a kind since the last look.
    pub fn take<T: serde::de::DeserializeOwned>(&mut self, purpose: Purpose) -> Vec<T> {
        let (taken, left) = std::mem::take(&mut self.sent)
            .into_iter()
            .partition(|(of, ..)| *of == purpose);
        self.sent = left;
        let taken: Vec<(Purpose, Vec<u8>, bool)> = taken;
        taken
            .iter()
            .map(|(_, payload, _)| envelope::decode(payload).unwrap())
            .collect()
    }

    /// The only refusal since the last look.
    pub fn refusal(&mut self) -> (ReplyTo, Rejection, String) {
        let replies: Vec<Reply> = self.take(Purpose::Reply);
        let [
            Reply {
                to,
                outcome: Outcome::Rejected { reason, detail },
                ..
            },
        ] = replies.as_slice()
        else {
            panic!("{replies:?}")
        };
        (*to, *reason, detail.as_str().to_owned())
    }

    /// The newest report.
    pub fn report(&mut self) -> Reported {
        self.pass(2000);
        self.take(Purpose::Reported).pop().expect("it reports")
    }

    pub fn session(&mut self) -> u64 {
        let presence: Vec<Presence> = self.take(Purpose::Presence);
        presence.last().unwrap().session
    }

    pub fn exits(&mut self, app: &str, code: i32) {
        self.exits_because(app, code, false);
    }

    pub fn exits_because(&mut self, app: &str, code: i32, out_of_memory: bool) {
        let seen = self.device.containers.get_mut(&name(app)).unwrap();
        (seen.status, seen.exit_code) = (Status::Stopped, Some(code));
        let (app, pid) = (name(app), seen.pid);
        self.event(Event::Exited {
            app,
            pid,
            code: Some(code),
            out_of_memory,
        });
    }
}
