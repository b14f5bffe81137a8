//! Telling systemd that the agent is up and alive (sd_notify(3)): one datagram to the socket that the environment names.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager, when there is one that wants to know.
pub struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants to hear that the agent is alive: half of what it waits.
    pub alive_every: Option<Duration>,
}

impl Notifier {
    /// Reads `NOTIFY_SOCKET` and `WATCHDOG_USEC`.
    pub fn from_environment() -> Self {
        let name = std::env::var("NOTIFY_SOCKET").ok();
        let address = name.and_then(|name| match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name).ok(),
            None => SocketAddr::from_pathname(&name).ok(),
        });
        let socket = address.and_then(|address| Some((UnixDatagram::unbound().ok()?, address)));
        let micros = std::env::var("WATCHDOG_USEC")
            .ok()
            .and_then(|text| text.parse().ok());
        let alive_every = micros
            .filter(|_| socket.is_some())
            .map(|micros: u64| Duration::from_micros(micros / 2));
        Self { socket, alive_every }
    }

    /// The containers of before are being started; what depends on the agent can go on.
    pub fn ready(&self) {
        self.send(b"READY=1");
    }

    /// The loop turns.
    pub fn alive(&self) {
        self.send(b"WATCHDOG=1");
    }

    /// The agent is about to end.
    pub fn stopping(&self) {
        self.send(b"STOPPING=1");
    }

    fn send(&self, state: &[u8]) {
        if let Some((socket, address)) = &self.socket {
            // A service manager that does not listen is no reason to do anything else.
            socket.send_to_addr(state, address).ok();
        }
    }
}
