//! One connection to the broker after the other, each with an event loop of its own: what rumqttc keeps of a lost session does
//! harm in the next (rumqtt issues 863 and 1056), and nothing of ours needs it: desired states are retained, commands are given
//! again, blocks are asked for again.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use punnet_protocol::topics::{self, Purpose};
use punnet_protocol::{Name, PAYLOAD_BYTES_MAX};
use rumqttc::{
    AsyncClient, ConnectionError, EventLoop, Incoming, LastWill, MqttOptions, Outgoing, Publish, QoS,
    StateError, SubscribeReasonCode, TlsConfiguration, Transport,
};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;

use crate::core::{Event, LinkError, Packet};
use crate::enrolment::Enrolment;

/// A packet's topic and headers beyond its payload: fixed header 5, topic 2 + 145, packet identifier 2, and some to spare.
const PACKET_HEAD_BYTES_MAX: usize = 256;
/// A lost connection is noticed after one and a half of this.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// For TCP, TLS and the broker's answer together.
const CONNECT_S: u64 = 15;
/// Messages under way to the broker; more than the core sends at once.
const INFLIGHT_MAX: u16 = 16;
/// Between us and rumqttc's task, both ways. Small, since each place can hold a payload.
const CHANNEL: usize = 8;
/// Requests kept while the broker takes none; then the connection counts as lost.
const BACKLOG_MAX: usize = 64;

/// How to reach the broker.
pub struct Session {
    fleet: Name,
    device: Name,
    options: MqttOptions,
    connection: Option<Connection>,
    count: u32,
}

struct Connection {
    client: AsyncClient,
    pump: JoinHandle<()>,
    news: Receiver<News>,
    /// Requests that did not fit into the channel yet.
    backlog: VecDeque<Request>,
    /// Subscriptions whose packet identifier is not known yet, then those whose answer has not come.
    asked: VecDeque<Purpose>,
    subscribing: BTreeMap<u16, Purpose>,
}

enum Request {
    Subscribe(String),
    Publish {
        topic: String,
        payload: Vec<u8>,
        retain: bool,
    },
    Ack(u16),
}

/// What the pump tells.
enum News {
    Event(rumqttc::Event),
    Lost(LinkError),
}

impl Session {
    /// A session that is not connected.
    pub fn new(enrolment: &Enrolment, tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        let (fleet, device) = (enrolment.fleet.clone(), enrolment.device.clone());
        // rumqttc makes HOST:PORT of it; rustls wants a bare address.
        let host = &enrolment.broker.host;
        let host = if host.contains(':') && tls.is_none() {
            format!("[{host}]")
        } else {
            host.clone()
        };
        let id = topics::client_id(&fleet, &device);
        let mut options = MqttOptions::new(id.as_str(), host, enrolment.broker.port);
        let bytes_max = PAYLOAD_BYTES_MAX + PACKET_HEAD_BYTES_MAX;
        options
            .set_keep_alive(KEEP_ALIVE)
            .set_clean_session(true)
            .set_manual_acks(true)
            .set_inflight(INFLIGHT_MAX)
            .set_max_packet_size(bytes_max, bytes_max);
        if let Some((username, password)) = &enrolment.login {
            options.set_credentials(username, password);
        }
        if let Some(tls) = tls {
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
        }
        Self {
            fleet,
            device,
            options,
            connection: None,
            count: 0,
        }
    }

    /// Begins to connect, instead of whatever connection there was.
    pub fn connect(&mut self, will: Vec<u8>) {
        self.disconnect();
        self.count = self.count.wrapping_add(1);
        let mut options = self.options.clone();
        options.set_last_will(LastWill::new(
            self.topic(Purpose::Presence),
            will,
            QoS::AtLeastOnce,
            true,
        ));
        let (client, mut events) = AsyncClient::new(options, CHANNEL);
        events.network_options.set_connection_timeout(CONNECT_S);
        let (tell, news) = channel(CHANNEL);
        let pump = tokio::spawn(pump(events, tell));
        let (backlog, asked, subscribing) = Default::default();
        self.connection = Some(Connection {
            client,
            pump,
            news,
            backlog,
            asked,
            subscribing,
        });
    }

    /// Drops the connection. An orderly end is for whoever calls it: the broker publishes the will.
    pub fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.pump.abort();
        }
    }

    /// Says goodbye to the broker (no will is published) and waits until that is sent.
    pub async fn goodbye(&mut self, time: Duration) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        let sent = tokio::time::timeout(time, async {
            while !connection.backlog.is_empty() && connection.news.recv().await.is_some() {
                connection.flush();
            }
            if connection.client.disconnect().await.is_ok() {
                while let Some(News::Event(event)) = connection.news.recv().await {
                    if event == rumqttc::Event::Outgoing(Outgoing::Disconnect) {
                        break;
                    }
                }
            }
        });
        // Late or not, the agent ends.
        drop(sent.await);
        connection.pump.abort();
    }

    /// Subscribes to a topic of this device.
    pub fn subscribe(&mut self, purpose: Purpose) {
        let topic = self.topic(purpose);
        if let Some(connection) = &mut self.connection {
            connection.asked.push_back(purpose);
            connection.request(Request::Subscribe(topic));
        }
    }

    /// Publishes on a topic of this device.
    pub fn publish(&mut self, purpose: Purpose, payload: Vec<u8>, retain: bool) {
        let topic = self.topic(purpose);
        if let Some(connection) = &mut self.connection {
            connection.request(Request::Publish {
                topic,
                payload,
                retain,
            });
        }
    }

    /// Acknowledges a packet, if it came on this connection.
    pub fn ack(&mut self, packet: Packet) {
        if packet.connection == self.count
            && packet.id != 0
            && let Some(connection) = &mut self.connection
        {
            connection.request(Request::Ack(packet.id));
        }
    }

    /// The next event; for ever pending without a connection. Safe to drop while it waits.
    pub async fn next(&mut self) -> Option<Event> {
        let Some(connection) = &mut self.connection else {
            return std::future::pending().await;
        };
        let news = connection
            .news
            .recv()
            .await
            .unwrap_or(News::Lost(LinkError::Other("its task ended".into())));
        let lost = match news {
            News::Lost(error) => Some(error),
            News::Event(_) if connection.backlog.len() > BACKLOG_MAX => {
                Some(LinkError::Other("the broker takes no messages".into()))
            }
            News::Event(event) => {
                connection.flush();
                return self.take(event);
            }
        };
        self.disconnect();
        let (host, port) = self.options.broker_address();
        let named = |error| match error {
            LinkError::Other(text) => LinkError::Other(format!("{host}:{port}: {text}")),
            other => other,
        };
        lost.map(named).map(Event::Disconnected)
    }

    fn take(&mut self, event: rumqttc::Event) -> Option<Event> {
        let connection = self.connection.as_mut()?;
        match event {
            rumqttc::Event::Incoming(Incoming::ConnAck(_)) => Some(Event::Connected),
            rumqttc::Event::Incoming(Incoming::PubAck(_)) => Some(Event::Published),
            rumqttc::Event::Incoming(Incoming::Publish(publish)) => Some(self.message(publish)),
            rumqttc::Event::Outgoing(Outgoing::Subscribe(id)) => {
                let purpose = connection.asked.pop_front()?;
                connection.subscribing.insert(id, purpose);
                None
            }
            rumqttc::Event::Incoming(Incoming::SubAck(answer)) => {
                let purpose = connection.subscribing.remove(&answer.pkid)?;
                let granted = answer
                    .return_codes
                    .iter()
                    .all(|code| matches!(code, SubscribeReasonCode::Success(_)));
                Some(Event::Subscribed { purpose, granted })
            }
            _ => None,
        }
    }

    fn message(&self, publish: Publish) -> Event {
        let packet = Packet {
            connection: self.count,
            id: publish.pkid,
        };
        // A topic that is not ours can only come from a broker that is mistaken: taken for one nobody listens to.
        let purpose = topics::parse(&self.fleet, &publish.topic)
            .filter(|(device, _)| *device == self.device)
            .map_or(Purpose::Reply, |(_, purpose)| purpose);
        Event::Message {
            purpose,
            packet,
            payload: publish.payload.into(),
        }
    }

    fn topic(&self, purpose: Purpose) -> String {
        topics::topic(&self.fleet, &self.device, purpose)
            .as_str()
            .to_owned()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.disconnect();
    }
}

impl Connection {
    fn request(&mut self, request: Request) {
        self.backlog.push_back(request);
        self.flush();
    }

    /// Hands over what fits; the rest when the pump has moved on.
    fn flush(&mut self) {
        while let Some(request) = self.backlog.front() {
            let handed = match request {
                Request::Subscribe(topic) => self.client.try_subscribe(topic, QoS::AtLeastOnce),
                Request::Publish {
                    topic,
                    payload,
                    retain,
                } => self
                    .client
                    .try_publish(topic, QoS::AtLeastOnce, *retain, payload.clone()),
                Request::Ack(id) => {
                    let mut publish = Publish::new("", QoS::AtLeastOnce, Vec::new());
                    publish.pkid = *id;
                    self.client.try_ack(&publish)
                }
            };
            if handed.is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }
}

/// Polls one connection until it is lost.
async fn pump(mut events: EventLoop, tell: Sender<News>) {
    loop {
        let (news, lost) = match events.poll().await {
            Ok(event) => (News::Event(event), false),
            Err(error) => (News::Lost(cause(error)), true),
        };
        if tell.send(news).await.is_err() || lost {
            return;
        }
    }
}

fn cause(error: ConnectionError) -> LinkError {
    match &error {
        ConnectionError::MqttState(StateError::Deserialization(
            rumqttc::Error::PayloadSizeLimitExceeded(_),
        )) => LinkError::Oversized,
        ConnectionError::MqttState(StateError::ConnectionAborted) => LinkError::ClosedByPeer,
        ConnectionError::Io(io)
        | ConnectionError::MqttState(
            StateError::Io(io) | StateError::Deserialization(rumqttc::Error::Io(io)),
        ) if matches!(
            io.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe
        ) =>
        {
            LinkError::ClosedByPeer
        }
        _ => LinkError::Other(error.to_string()),
    }
}
