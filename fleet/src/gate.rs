//! The gate before the embedded broker: devices connect here.
//!
//! Each connection is one device with its own password, speaks MQTT 3.1.1, publishes only to its own topics towards the
//! fleet and subscribes only to its own topics from it. Every packet is decoded and written anew, so that rumqttd sees
//! nothing but well-formed packets. The will is kept here and published on the connection it belongs to, before a newer
//! connection of the same device is let in: it can never mark the newer one as gone.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use punnet_protocol::topics::{self, Purpose};
use punnet_protocol::{NAME_BYTES_MAX, Name};
use rumqttc::mqttbytes::{self, QoS};
use rumqttc::{ConnAck, Connect, ConnectReturnCode, LastWill, Login, Packet, Protocol, Publish};
use rusqlite::Connection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::PACKET_BYTES_MAX;
use crate::broker::{CONNECTIONS_MAX, Embedded};
use crate::db::devices;
use crate::error::Error;
use crate::serve::Counters;

/// From the TCP connection to a complete CONNECT. A slow mobile link needs a few seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A write that makes no progress for so long goes to a device that is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection that is taken over may need to publish its will.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections that have not shown a password yet. Each may hold a CONNECT of [`PACKET_BYTES_MAX`].
const UNKNOWN_MAX: usize = 256;

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

/// Who is connected: what ends the connection, and tells when it has ended.
type Connected = HashMap<Name, (watch::Sender<bool>, JoinHandle<()>)>;

/// The gate.
pub struct Gate {
    fleet: Name,
    database: std::sync::Mutex<Connection>,
    embedded: Embedded,
    counters: Arc<Counters>,
    connected: Mutex<Connected>,
    unknown: Semaphore,
}

impl Gate {
    /// Makes the gate before `embedded`.
    pub fn new(fleet: Name, database: Connection, embedded: Embedded, counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self {
            fleet,
            database: database.into(),
            embedded,
            counters,
            connected: Mutex::default(),
            unknown: Semaphore::new(UNKNOWN_MAX),
        })
    }

    /// Takes connections for ever.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    tokio::spawn(self.clone().admit(stream, from));
                }
                // Out of descriptors, mostly: those that end will free some.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Reads and checks the CONNECT, takes the place of an older connection of the device, then pumps.
    async fn admit(self: Arc<Self>, stream: TcpStream, from: SocketAddr) {
        let Ok(slot) = self.unknown.try_acquire() else {
            return;
        };
        stream.set_nodelay(true).ok();
        let (read, mut write) = stream.into_split();
        let mut device = PacketReader::new(read);
        let Ok(Ok(Packet::Connect(connect))) = timeout(CONNECT_TIMEOUT, device.next()).await else {
            return self.deny(from, None, "it sent no MQTT 3.1.1 CONNECT");
        };
        let name = match self.check(&connect) {
            Ok(name) => name,
            Err((code, why)) => {
                self.deny(
                    from,
                    connect.login.as_ref().map(|login| login.username.as_str()),
                    why,
                );
                write_packet(&mut write, &Packet::ConnAck(ConnAck::new(code, false)))
                    .await
                    .ok();
                return;
            }
        };
        drop(slot);
        let mut connected = self.connected.lock().await;
        while let Some((end, task)) = connected.remove(&name) {
            drop(connected);
            end.send(true).ok();
            timeout(TAKEOVER_TIMEOUT, task).await.ok();
            connected = self.connected.lock().await;
        }
        connected.retain(|_, (_, task)| !task.is_finished());
        if connected.len() >= CONNECTIONS_MAX - 1 {
            self.deny(
                from,
                Some(name.as_str()),
                "there are as many connections as the embedded broker has room for",
            );
            return;
        }
        let (end_in, end) = watch::channel(false);
        let task = tokio::spawn(self.clone().pump(name.clone(), connect, device, write, end));
        connected.insert(name, (end_in, task));
    }

    /// The device that this CONNECT proves to be.
    fn check(&self, connect: &Connect) -> Result<Name, (ConnectReturnCode, &'static str)> {
        let no = |why| (ConnectReturnCode::NotAuthorized, why);
        if connect.protocol != Protocol::V4 {
            return Err((
                ConnectReturnCode::RefusedProtocolVersion,
                "it does not speak MQTT 3.1.1",
            ));
        }
        if connect.keep_alive == 0 {
            return Err(no(
                "it asks for no keep-alive, so nobody would learn that it is gone",
            ));
        }
        let Some(login) = &connect.login else {
            return Err(no("it gave no user name and password"));
        };
        let name = login
            .username
            .parse::<Name>()
            .map_err(|_| no("its user name is no device name"))?;
        let fits = self
            .database
            .lock()
            .map_err(|_| Error::Ending)
            .and_then(|db| devices::password_fits(&db, name.as_str(), &login.password))
            .map_err(|_| {
                (
                    ConnectReturnCode::ServiceUnavailable,
                    "the database cannot be read",
                )
            })?;
        if !fits {
            return Err((
                ConnectReturnCode::BadUserNamePassword,
                "its password is wrong or it is not enrolled",
            ));
        }
        if connect.client_id != topics::client_id(&self.fleet, &name).as_str() {
            return Err((
                ConnectReturnCode::BadClientId,
                "its client id is not punnet-FLEET-DEVICE",
            ));
        }
        if connect
            .last_will
            .as_ref()
            .is_some_and(|will| self.publish_topic(&name, &will.topic).is_none())
        {
            return Err(no("its will is for a topic that is not its own"));
        }
        Ok(name)
    }

    /// Carries packets until either side ends, then publishes the will unless the device said goodbye.
    async fn pump(
        self: Arc<Self>,
        name: Name,
        connect: Connect,
        mut device: PacketReader,
        mut to_device: OwnedWriteHalf,
        mut end: watch::Receiver<bool>,
    ) {
        let quiet_max = Duration::from_secs(u64::from(connect.keep_alive) * 3 / 2);
        let will = connect.last_will.clone();
        let Ok((mut from_broker, mut broker)) = self.connect_inside(connect).await else {
            return;
        };
        let upward = async {
            loop {
                let packet = match timeout(quiet_max, device.next()).await {
                    Ok(Ok(packet)) => packet,
                    Ok(Err(_)) | Err(_) => return false,
                };
                if packet == Packet::Disconnect {
                    return true;
                }
                if !self.allowed(&name, &packet) {
                    self.counters.denied_by_gate.add();
                    crate::warn(&format!(
                        "device '{name}' was cut off: it sent a packet that no device may send"
                    ));
                    return false;
                }
                if write_packet(&mut broker, &packet).await.is_err() {
                    return false;
                }
            }
        };
        let downward = carry(&mut from_broker, &mut to_device);
        let goodbye = tokio::select! {
            goodbye = upward => goodbye,
            _ = downward => false,
            _ = end.changed() => false,
        };
        if let Some(will) = will.filter(|_| !goodbye) {
            write_packet(&mut broker, &will_packet(will)).await.ok();
        }
        write_packet(&mut broker, &Packet::Disconnect).await.ok();
        // rumqttd has read all of it when it closes.
        let mut rest = [0; 1024];
        let drained = async { while from_broker.read(&mut rest).await.is_ok_and(|n| n > 0) {} };
        timeout(Duration::from_secs(1), drained).await.ok();
    }

    /// Opens the connection to rumqttd for a device that was let in. The CONNACK goes to the device like all that follows.
    async fn connect_inside(&self, mut connect: Connect) -> io::Result<(OwnedReadHalf, OwnedWriteHalf)> {
        let (user, password) = &self.embedded.login;
        connect.login = Some(Login {
            username: user.clone(),
            password: password.clone(),
        });
        connect.last_will = None;
        connect.clean_session = true;
        // The keep-alive is watched here; rumqttd shall not be faster.
        connect.keep_alive = u16::MAX;
        let stream = TcpStream::connect(self.embedded.address).await?;
        stream.set_nodelay(true)?;
        let (read, mut write) = stream.into_split();
        write_packet(&mut write, &Packet::Connect(connect)).await?;
        Ok((read, write))
    }

    /// True for what a device may send once it is connected.
    fn allowed(&self, name: &Name, packet: &Packet) -> bool {
        match packet {
            Packet::Publish(publish) => {
                // Nothing, retained, takes a poisoned message off one of its own topics.
                let clears = publish.payload.is_empty() && self.subscribe_topic(name, &publish.topic);
                publish.qos != QoS::ExactlyOnce
                    && (clears || self.publish_topic(name, &publish.topic).is_some())
            }
            Packet::Subscribe(subscribe) => subscribe
                .filters
                .iter()
                .all(|f| f.qos != QoS::ExactlyOnce && self.subscribe_topic(name, &f.path)),
            Packet::Unsubscribe(unsubscribe) => {
                unsubscribe.topics.iter().all(|t| self.subscribe_topic(name, t))
            }
            Packet::PubAck(_) | Packet::PingReq => true,
            _ => false,
        }
    }

    fn publish_topic(&self, name: &Name, topic: &str) -> Option<Purpose> {
        let (device, purpose) = topics::parse(&self.fleet, topic)?;
        (device == *name && Purpose::TO_FLEET.contains(&purpose)).then_some(purpose)
    }

    fn subscribe_topic(&self, name: &Name, filter: &str) -> bool {
        // Its presence too: so a device finds out that another one has its name.
        let allowed = |purpose| purpose == Purpose::Presence || Purpose::TO_DEVICE.contains(&purpose);
        topics::parse(&self.fleet, filter)
            .is_some_and(|(device, purpose)| device == *name && allowed(purpose))
    }

    fn deny(&self, from: SocketAddr, user: Option<&str>, why: &str) {
        self.counters.denied_by_gate.add();
        let user: String = user.unwrap_or("nobody").chars().take(NAME_BYTES_MAX).collect();
        crate::warn(&format!(
            "connection from {from} as '{}' refused: {why}",
            crate::state::printable(&user)
        ));
    }
}

fn will_packet(will: LastWill) -> Packet {
    let mut publish = Publish::from_bytes(will.topic, QoS::AtMostOnce, will.message);
    publish.retain = will.retain;
    Packet::Publish(publish)
}

/// Lets the controller's own session through to rumqttd as it is; what it gains is [`acknowledge_at_once`].
pub async fn relay(listener: TcpListener, broker: SocketAddr) {
    while let Ok((near, _)) = listener.accept().await {
        let Ok(far) = TcpStream::connect(broker).await else {
            continue;
        };
        near.set_nodelay(true).ok();
        far.set_nodelay(true).ok();
        let ((mut near_read, mut near_write), (mut far_read, mut far_write)) =
            (near.into_split(), far.into_split());
        tokio::spawn(async move {
            tokio::select! {
                _ = carry(&mut near_read, &mut far_write) => {}
                _ = carry(&mut far_read, &mut near_write) => {}
            }
        });
    }
}

/// tcp(7) TCP_QUICKACK. rumqttd leaves Nagle's algorithm on, as many devices do: the second of two small packets then waits
/// for the acknowledgement of the first, and Linux delays that by 40 ms. The kernel takes the wish back now and then, so it
/// is made with every read.
fn acknowledge_at_once(stream: &OwnedReadHalf) {
    // Without it everything works, only later.
    stream.as_ref().set_quickack(true).ok();
}

async fn carry(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        acknowledge_at_once(from);
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        timeout(WRITE_TIMEOUT, to.write_all(&buffer[..count])).await??;
    }
}

async fn write_packet(to: &mut OwnedWriteHalf, packet: &Packet) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    packet
        .write(&mut buffer, PACKET_BYTES_MAX)
        .map_err(io::Error::other)?;
    timeout(WRITE_TIMEOUT, to.write_all(&buffer)).await?
}

/// Reads packets of one device.
struct PacketReader {
    from: OwnedReadHalf,
    buffer: BytesMut,
}

impl PacketReader {
    fn new(from: OwnedReadHalf) -> Self {
        Self {
            from,
            buffer: BytesMut::with_capacity(READ_BYTES),
        }
    }

    /// The next packet; an error when the connection ends or what comes is no MQTT.
    async fn next(&mut self) -> io::Result<Packet> {
        loop {
            match Packet::read(&mut self.buffer, PACKET_BYTES_MAX) {
                Ok(packet) => return Ok(packet),
                Err(mqttbytes::Error::InsufficientBytes(_)) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
            self.buffer.reserve(READ_BYTES);
            acknowledge_at_once(&self.from);
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
