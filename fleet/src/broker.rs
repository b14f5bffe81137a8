//! The embedded broker: rumqttd on a loopback port that only the [`gate`](crate::gate) and the controller know the
//! password of.
//!
//! rumqttd checks no topics: every client may publish and subscribe everywhere, a topic that begins with a multi-byte
//! character ends its router thread, and the will of a connection that is taken over is published for the new one. So no
//! device talks to it directly; the gate stands before it and lets through what a device may say.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use punnet_protocol::{BLOCK_BYTES_MAX, PAYLOAD_BYTES_MAX};
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, SegmentConfig, ServerSettings};

use crate::PACKET_BYTES_MAX;
use crate::error::{Error, Result};

/// Devices and controller at once. rumqttd makes room for all of them when it starts, about 2 KB each; a larger fleet
/// wants a broker of its own (`--broker`).
pub const CONNECTIONS_MAX: usize = 10_000;

/// The user name that gate and controller use towards rumqttd.
const USER: &str = "punnet-fleet";

/// How long the broker may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages of the controller's five subscriptions that may wait for it: each log keeps at least this many bytes. At 16
/// KiB for a large report it is a burst of 256.
const FLEET_SEGMENT_BYTES: usize = 4 * 1024 * 1024;

/// Blocks that may wait for one device: what it can have asked for at once (see [`crate::blocks`]), and as much again.
const BLOCK_SEGMENT_BYTES: usize = crate::blocks::WANTS_PER_DEVICE_MAX * (BLOCK_BYTES_MAX + 64);

/// Segments of each log beside the one being written.
const SEGMENTS: usize = 2;

/// The running broker. It ends with the process: rumqttd has no way to stop.
pub struct Embedded {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it asks of every client.
    pub login: (String, String),
}

/// Starts rumqttd and returns when it takes connections.
pub fn start() -> Result<Embedded> {
    let address = free_port()?;
    let password = crate::hex(&crate::db::devices::random::<32>()?);
    let mut broker = Broker::new(config(address, &password));
    let failed = |source| Error::Network {
        operation: "start the broker on",
        address: address.to_string(),
        source,
    };
    thread::Builder::new()
        .name("broker".into())
        .spawn(move || {
            // Its errors show as a port on which nobody listens.
            broker.start().ok();
        })
        .map_err(failed)?;
    wait_until_listening(address).map_err(failed)?;
    Ok(Embedded {
        address,
        login: (USER.into(), password),
    })
}

fn config(listen: SocketAddr, password: &str) -> Config {
    let connections = ConnectionSettings {
        connection_timeout_ms: 5_000,
        max_payload_size: PACKET_BYTES_MAX,
        max_inflight_count: 100,
        auth: Some(HashMap::from([(USER.to_owned(), password.to_owned())])),
        external_auth: None,
        dynamic_filters: true,
    };
    let server = ServerSettings {
        name: "punnet".into(),
        listen,
        tls: None,
        // Only the gate connects, and it has its own limits.
        next_connection_delay_ms: 0,
        connections,
    };
    let segment = |max_segment_size| SegmentConfig {
        max_segment_size,
        max_segment_count: SEGMENTS,
    };
    let router = RouterConfig {
        max_connections: CONNECTIONS_MAX,
        max_outgoing_packet_count: 200,
        max_segment_size: FLEET_SEGMENT_BYTES,
        max_segment_count: SEGMENTS,
        custom_segment: Some(HashMap::from([
            ("punnet/+/+/block".to_owned(), segment(BLOCK_SEGMENT_BYTES)),
            // Only the newest counts, and it always stays.
            ("punnet/+/+/desired".to_owned(), segment(1024)),
            // Commands are repeated until they are answered.
            ("punnet/+/+/command".to_owned(), segment(16 * 1024)),
        ])),
        initialized_filters: None,
        ..RouterConfig::default()
    };
    const { assert!(FLEET_SEGMENT_BYTES > PAYLOAD_BYTES_MAX) };
    Config {
        id: 0,
        router,
        v4: Some(HashMap::from([("punnet".to_owned(), server)])),
        ..Config::default()
    }
}

/// A port that is free now. Between this and rumqttd's bind somebody else could take it; then nobody with our password
/// answers there, and the start fails.
fn free_port() -> Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(|source| Error::Network {
            operation: "listen on",
            address: "127.0.0.1:0".into(),
            source,
        })
}

fn wait_until_listening(address: SocketAddr) -> std::io::Result<()> {
    let until = Instant::now() + START_TIMEOUT;
    loop {
        match TcpStream::connect(address) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}
