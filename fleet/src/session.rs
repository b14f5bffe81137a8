//! The controller's MQTT session: one event loop per connection, clean session, everything published again after a
//! reconnect.
//!
//! What is to be sent waits in the [`Outbox`]; nothing that handles messages ever waits for the broker, so that a full
//! queue one way cannot stop the other way.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use punnet_protocol::topics::{self, Purpose};
use punnet_protocol::{Name, PAYLOAD_BYTES_MAX};
use ring::rand::{SecureRandom, SystemRandom};
use rumqttc::{
    AsyncClient, ClientError, Event, EventLoop, MqttOptions, Packet, Publish, QoS, SubscribeReasonCode,
    TlsConfiguration, Transport,
};
use rusqlite::Connection;
use tokio::sync::{Notify, mpsc, watch};

use crate::PACKET_BYTES_MAX;
use crate::broker_url::BrokerUrl;
use crate::db::devices;
use crate::error::{Error, Result};
use crate::serve::Counters;

/// Largest packet taken from the broker: all that MQTT allows. A smaller limit would end the connection at a larger
/// packet, again and again when that is retained; a server has the memory to read it and throw it away.
const INCOMING_BYTES_MAX: usize = 256 * 1024 * 1024 + 5;

/// Publishes that rumqttc holds before the event loop takes them.
const REQUESTS_MAX: usize = 64;

/// Commands that wait for the broker; older ones make room, they are repeated anyway.
const COMMANDS_MAX: usize = 4096;

/// Pause before a reconnect: random up to a ceiling that doubles from the first to the second.
const PAUSE_MS_MIN: u64 = 100;
const PAUSE_MS_MAX: u64 = 15_000;

/// The broker notices after one and a half of it that the controller is gone, and the controller that the broker is.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How to reach the broker.
#[derive(Clone)]
pub struct BrokerOptions {
    /// Where it is, with the controller's login.
    pub url: BrokerUrl,
    /// PEM of whom to trust for `mqtts://`; the system's when `None`.
    pub ca_pem: Option<Vec<u8>>,
    /// PEM of the controller's certificate and key.
    pub client_pem: Option<(Vec<u8>, Vec<u8>)>,
}

/// A message from the broker, or news about the connection to it.
#[derive(Debug)]
pub enum Incoming {
    /// Connected and subscribed.
    Connected,
    /// Not connected any more, and why.
    Disconnected(String),
    /// A message on a device's topic. Nothing of its content is checked.
    Message {
        /// By the topic.
        device: Name,
        /// By the topic.
        purpose: Purpose,
        /// Its content.
        payload: Bytes,
        /// The broker had it stored.
        retained: bool,
    },
}

/// What waits to be published.
#[derive(Default)]
pub struct Outbox {
    waiting: Mutex<Waiting>,
    added: Notify,
}

#[derive(Default)]
struct Waiting {
    desired: BTreeSet<Name>,
    commands: VecDeque<(Name, Vec<u8>)>,
}

impl Outbox {
    /// Has the device's desired state published. Whatever is newest in the database when its turn comes is what goes out, so
    /// an older one can never overwrite a newer one on the broker.
    pub fn desired(&self, device: Name) {
        self.with(|waiting| {
            waiting.desired.insert(device);
        });
    }

    /// Has a signed command published.
    pub fn command(&self, device: Name, payload: Vec<u8>) {
        self.with(|waiting| {
            if waiting.commands.len() >= COMMANDS_MAX {
                waiting.commands.pop_front();
            }
            waiting.commands.push_back((device, payload));
        });
    }

    fn with(&self, change: impl FnOnce(&mut Waiting)) {
        change(
            &mut self
                .waiting
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner()),
        );
        self.added.notify_one();
    }

    fn take(&self) -> Option<(Name, Option<Vec<u8>>)> {
        let mut waiting = self
            .waiting
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((device, payload)) = waiting.commands.pop_front() {
            return Some((device, Some(payload)));
        }
        waiting.desired.pop_first().map(|device| (device, None))
    }
}

/// One block answer on its way: the device and the payload.
pub type BlockOut = (Name, Vec<u8>);

/// Everything a session needs for as long as the controller runs.
pub struct Session {
    /// The fleet.
    pub fleet: Name,
    /// How to reach the broker.
    pub broker: BrokerOptions,
    /// For the desired states.
    pub database: Connection,
    /// What is to be sent.
    pub outbox: Arc<Outbox>,
    /// Blocks to be sent.
    pub blocks: mpsc::Receiver<BlockOut>,
    /// Where messages go.
    pub incoming: mpsc::Sender<Incoming>,
    /// True while connected and subscribed.
    pub connected: watch::Sender<bool>,
    /// What was ignored.
    pub counters: Arc<Counters>,
}

impl Session {
    /// Connects, and connects again, until the controller ends.
    pub async fn run(self, options: MqttOptions) {
        let Self {
            fleet,
            database,
            outbox,
            mut blocks,
            incoming,
            connected,
            counters,
            ..
        } = self;
        let mut sender = Sender {
            fleet,
            database,
            outbox,
        };
        let mut failures = 0;
        loop {
            let (client, mut events) = AsyncClient::new(options.clone(), REQUESTS_MAX);
            events.network_options.set_connection_timeout(10);
            events.network_options.set_tcp_nodelay(true);
            let reader = Reader {
                fleet: &sender.fleet.clone(),
                client: &client,
                incoming: &incoming,
                counters: &counters,
            };
            let why = match reader.subscribe(&mut events).await {
                Err(why) => why,
                Ok(()) => {
                    failures = 0;
                    connected.send_replace(true);
                    incoming.send(Incoming::Connected).await.ok();
                    let why = tokio::select! {
                        why = reader.read(&mut events) => why,
                        why = sender.send(&client, &mut blocks) => why,
                    };
                    connected.send_replace(false);
                    why
                }
            };
            if incoming.send(Incoming::Disconnected(why)).await.is_err() {
                return;
            }
            tokio::time::sleep(pause(failures)).await;
            failures += 1;
        }
    }

    /// The broker options in rumqttc's words.
    pub fn options(&self) -> Result<MqttOptions> {
        let url = &self.broker.url;
        // rumqttc makes HOST:PORT of it; rustls wants a bare address.
        let host = match url.host.contains(':') && !url.tls {
            true => format!("[{}]", url.host),
            false => url.host.clone(),
        };
        // Not a device's client id: those begin with `punnet-`.
        let mut options = MqttOptions::new(format!("punnet.fleet.{}", self.fleet), host, url.port);
        options.set_keep_alive(KEEP_ALIVE);
        options.set_clean_session(true);
        options.set_max_packet_size(INCOMING_BYTES_MAX, PACKET_BYTES_MAX);
        if let Some((user, password)) = &url.login {
            options.set_credentials(user, password);
        }
        if url.tls {
            options.set_transport(Transport::tls_with_config(self.tls()?));
        }
        Ok(options)
    }

    fn tls(&self) -> Result<TlsConfiguration> {
        // Already set when another part of the process was first: it is the same one.
        rustls::crypto::ring::default_provider().install_default().ok();
        match &self.broker.ca_pem {
            Some(ca) => Ok(TlsConfiguration::Simple {
                ca: ca.clone(),
                alpn: None,
                client_auth: self.broker.client_pem.clone(),
            }),
            None if self.broker.client_pem.is_some() => {
                Err(Error::invalid("--broker-cert", "it needs --broker-ca as well"))
            }
            None => Ok(TlsConfiguration::default()),
        }
    }
}

/// Full jitter: many clients of a broker that was restarted do not come back at the same moment.
fn pause(failures: u32) -> Duration {
    let ceiling = PAUSE_MS_MIN
        .saturating_mul(1 << failures.min(10))
        .min(PAUSE_MS_MAX);
    let mut random = [0; 8];
    // Without random numbers the longest pause is the safe one.
    match SystemRandom::new().fill(&mut random) {
        Ok(()) => Duration::from_millis(u64::from_le_bytes(random) % ceiling),
        Err(_) => Duration::from_millis(ceiling),
    }
}

struct Reader<'a> {
    fleet: &'a Name,
    client: &'a AsyncClient,
    incoming: &'a mpsc::Sender<Incoming>,
    counters: &'a Counters,
}

impl Reader<'_> {
    /// Polls until the broker has granted all subscriptions.
    async fn subscribe(&self, events: &mut EventLoop) -> Result<(), String> {
        loop {
            match events.poll().await.map_err(|error| chain(&error))? {
                Event::Incoming(Packet::ConnAck(_)) => {
                    let filters = Purpose::TO_FLEET.map(|purpose| {
                        let filter = topics::filter(self.fleet, purpose);
                        rumqttc::SubscribeFilter::new(filter.as_str().to_owned(), QoS::AtLeastOnce)
                    });
                    self.client
                        .try_subscribe_many(filters)
                        .map_err(|error| error.to_string())?;
                }
                Event::Incoming(Packet::SubAck(ack)) => {
                    if ack.return_codes.contains(&SubscribeReasonCode::Failure) {
                        return Err(format!(
                            "the broker does not let us subscribe to punnet/{}/+/...",
                            self.fleet
                        ));
                    }
                    return Ok(());
                }
                Event::Incoming(Packet::Publish(publish)) => self.hand_over(publish).await?,
                _ => {}
            }
        }
    }

    /// Polls until the connection ends; returns why.
    async fn read(&self, events: &mut EventLoop) -> String {
        loop {
            let handled = match events.poll().await {
                Ok(Event::Incoming(Packet::Publish(publish))) => self.hand_over(publish).await,
                Ok(_) => Ok(()),
                Err(error) => Err(chain(&error)),
            };
            if let Err(why) = handled {
                return why;
            }
        }
    }

    async fn hand_over(&self, publish: Publish) -> Result<(), String> {
        let Some((device, purpose)) = topics::parse(self.fleet, &publish.topic) else {
            self.counters.bad_topic.add();
            return Ok(());
        };
        if publish.payload.len() > PAYLOAD_BYTES_MAX {
            self.counters.too_large.add();
            return Ok(());
        }
        let message = Incoming::Message {
            device,
            purpose,
            payload: publish.payload,
            retained: publish.retain,
        };
        self.incoming
            .send(message)
            .await
            .map_err(|_| "the controller is ending".into())
    }
}

struct Sender {
    fleet: Name,
    database: Connection,
    outbox: Arc<Outbox>,
}

impl Sender {
    /// Publishes all desired states, then whatever comes; returns why it cannot go on.
    async fn send(&mut self, client: &AsyncClient, blocks: &mut mpsc::Receiver<BlockOut>) -> String {
        // Asked for while there was no connection: the devices that ask go on asking.
        while blocks.try_recv().is_ok() {}
        match devices::names(&self.database) {
            Ok(names) => names.into_iter().for_each(|name| self.outbox.desired(name)),
            Err(error) => return error.chain(),
        }
        loop {
            let sent = match self.outbox.take() {
                Some((device, Some(command))) => {
                    self.publish(client, &device, Purpose::Command, command).await
                }
                Some((device, None)) => self.publish_desired(client, &device).await,
                None => tokio::select! {
                    () = self.outbox.added.notified() => Ok(()),
                    block = blocks.recv() => match block {
                        Some((device, payload)) => self.publish(client, &device, Purpose::Block, payload).await,
                        None => return "the controller is ending".into(),
                    },
                },
            };
            if let Err(why) = sent {
                return why;
            }
        }
    }

    async fn publish_desired(&mut self, client: &AsyncClient, device: &Name) -> Result<(), String> {
        match devices::desired(&self.database, device).map_err(|error| error.chain())? {
            Some(payload) => self.publish(client, device, Purpose::Desired, payload).await,
            None => Ok(()),
        }
    }

    async fn publish(
        &mut self,
        client: &AsyncClient,
        device: &Name,
        purpose: Purpose,
        payload: Vec<u8>,
    ) -> Result<(), String> {
        let topic = topics::topic(&self.fleet, device, purpose);
        let retain = purpose == Purpose::Desired;
        let sent = client
            .publish(topic.as_str(), QoS::AtLeastOnce, retain, payload)
            .await;
        sent.map_err(|error: ClientError| error.to_string())
    }
}

/// The error with its causes, each said once: rumqttc's errors often repeat theirs.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let level = error.to_string();
        if !text.contains(&level) {
            text.push_str(": ");
            text.push_str(&level);
        }
        cause = error.source();
    }
    text
}
