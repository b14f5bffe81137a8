//! The agent without its executor: the real core and session on a [`Device`] where everything works.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use punnet_agent::core::*;
use punnet_agent::session::Session;
use punnet_agent::{Broker, Enrolment};
use punnet_protocol::topics::Purpose;

use crate::device::Device;
use crate::fleet::{Fleet, name};

pub struct Node {
    pub device: Device,
    pub logged: Vec<String>,
    pub subscribed: Vec<Purpose>,
    core: Core,
    session: Session,
    config: Config,
    began: Instant,
}

impl Node {
    pub fn new(port: u16, fleet: &Fleet) -> Self {
        Self::with_starts(port, fleet, 0)
    }

    /// A device that has started so often before.
    pub fn with_starts(port: u16, fleet: &Fleet, starts: u32) -> Self {
        let (home, kitchen, fleet_key) = (name("home"), name("kitchen"), fleet.public_key());
        let broker = Broker {
            host: "127.0.0.1".into(),
            port,
            tls: false,
        };
        let (login, ca_pem, client_pem) = (None, None, None);
        let enrolment = Enrolment {
            fleet: home.clone(),
            device: kitchen.clone(),
            broker,
            login,
            fleet_key,
            ca_pem,
            client_pem,
        };
        let seed = u64::from(starts) + 1;
        let config = Config {
            fleet: home,
            device: kitchen,
            fleet_key,
            fetch_bytes_per_s: None,
            seed,
        };
        let mut node = Self {
            device: Device {
                starts,
                ..Device::default()
            },
            logged: Vec::new(),
            subscribed: Vec::new(),
            core: Core::new(config.clone()),
            session: Session::new(&enrolment, None),
            config,
            began: Instant::now(),
        };
        node.restart();
        node
    }

    pub fn restart(&mut self) {
        self.session.disconnect();
        self.logged.clear();
        self.core = Core::new(self.config.clone());
        let disk = self.device.on_disk();
        self.event(Event::Started(disk));
    }

    /// Lives on until something is so.
    pub async fn until(&mut self, is_so: impl Fn(&Self) -> bool) {
        while !is_so(self) {
            let wake = self
                .core
                .wake_at()
                .map(|at| self.began + Duration::from_millis(at));
            // The condition may depend on others: looked at now and then.
            let look = Instant::now() + Duration::from_millis(20);
            tokio::select! {
                event = self.session.next() => event.into_iter().for_each(|event| self.event(event)),
                () = tokio::time::sleep_until(wake.unwrap_or(look).min(look).into()) => self.event(Event::Tick),
            }
        }
    }

    pub async fn goodbye(&mut self) {
        self.event(Event::Goodbye);
        self.session.goodbye(Duration::from_secs(5)).await;
    }

    pub fn said(&self, text: &str) -> bool {
        self.logged.iter().any(|line| line.contains(text))
    }

    fn event(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let ms = self.began.elapsed().as_millis() as u64;
            for action in self.core.step(Now { ms, unix_ms: 0 }, event) {
                match action {
                    Action::Connect { will } => self.session.connect(will),
                    Action::Disconnect => self.session.disconnect(),
                    Action::Subscribe(purpose) => {
                        self.subscribed.push(purpose);
                        self.session.subscribe(purpose);
                    }
                    Action::Publish {
                        purpose,
                        payload,
                        retain,
                    } => self.session.publish(purpose, payload, retain),
                    Action::Ack(packet) => self.session.ack(packet),
                    Action::Job(job) => events.extend(self.device.run(job).map(Event::Done)),
                    Action::Led(_) => {}
                    Action::Log(_, text) => self.logged.push(text),
                }
            }
        }
    }
}
