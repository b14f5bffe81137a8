//! DHCP for IPv4, the client's side (RFC 2131, options of RFC 2132): packets, and a state machine without clock or socket.
//!
//! Every request asks for a broadcast answer: the interface may have no address yet. A lease is renewed by broadcast too, which is
//! what RFC 2131 calls rebinding: one way less that can fail.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::settings::Cidr;

/// Where servers listen.
pub const SERVER_PORT: u16 = 67;
/// Where clients listen.
pub const CLIENT_PORT: u16 = 68;
/// Largest answer read: an Ethernet frame.
pub const PACKET_BYTES_MAX: usize = 1500;

/// Fixed part, up to the magic cookie.
const HEADER_BYTES: usize = 240;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
const BOOTREQUEST: u8 = 1;
const BOOTREPLY: u8 = 2;
const ETHERNET: u8 = 1;
const BROADCAST_FLAG: [u8; 2] = [0x80, 0];

const SUBNET_MASK: u8 = 1;
const ROUTER: u8 = 3;
const DNS: u8 = 6;
const HOST_NAME: u8 = 12;
const NTP: u8 = 42;
const REQUESTED_ADDRESS: u8 = 50;
const LEASE_TIME: u8 = 51;
const MESSAGE_TYPE: u8 = 53;
const SERVER_ID: u8 = 54;
const PARAMETERS: u8 = 55;
const END: u8 = 255;

/// Servers taken of each kind: resolv.conf(5) takes three.
const SERVERS_MAX: usize = 3;
/// A lease shorter than this is treated as this long, or the board would do nothing else.
const LEASE_MIN_S: u32 = 60;
/// A lease without a time: half a day.
const LEASE_DEFAULT_S: u32 = 12 * 3600;
/// First wait for an answer; it doubles up to the next.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// A board that is plugged in later waits no longer than this.
const RETRY_MAX: Duration = Duration::from_secs(32);
/// Requests for an offered address before another offer is looked for.
const REQUESTS_MAX: u32 = 3;

/// What a server said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Offer,
    Ack,
    Nak,
}

/// A lease, or the offer of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Our address.
    pub address: Cidr,
    /// Where the default route goes.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Time servers.
    pub ntp: Vec<Ipv4Addr>,
    /// Who gave it.
    pub server: Ipv4Addr,
    /// How long it is ours.
    pub lasts: Duration,
}

/// Reads an answer to the transaction `xid` of the interface `mac`; `None` when it is anything else.
fn parse(packet: &[u8], xid: u32, mac: [u8; 6]) -> Option<(Kind, Lease)> {
    let four = |at: usize| -> Option<[u8; 4]> { packet.get(at..at + 4)?.try_into().ok() };
    let ours = packet.first() == Some(&BOOTREPLY)
        && four(4)? == xid.to_be_bytes()
        && packet.get(28..34)? == mac
        && four(236)? == MAGIC;
    if !ours {
        return None;
    }
    let (mut kind, mut server, mut prefix) = (None, None, None);
    let (mut gateway, mut dns, mut ntp, mut lasts_s) = (None, Vec::new(), Vec::new(), LEASE_DEFAULT_S);
    for (option, value) in options(packet.get(HEADER_BYTES..)?) {
        let first: Option<[u8; 4]> = value.get(..4).and_then(|bytes| bytes.try_into().ok());
        match option {
            MESSAGE_TYPE => {
                kind = match value {
                    [2] => Some(Kind::Offer),
                    [5] => Some(Kind::Ack),
                    [6] => Some(Kind::Nak),
                    _ => return None,
                }
            }
            SUBNET_MASK => prefix = first.and_then(prefix_of),
            ROUTER => gateway = first.map(Ipv4Addr::from),
            DNS => dns = addresses(value),
            NTP => ntp = addresses(value),
            SERVER_ID => server = first.map(Ipv4Addr::from),
            LEASE_TIME => lasts_s = first.map_or(LEASE_DEFAULT_S, u32::from_be_bytes),
            _ => {}
        }
    }
    let kind = kind?;
    let address = Ipv4Addr::from(four(16)?);
    let unusable = address.is_unspecified() || address.is_broadcast() || address.is_multicast();
    if kind != Kind::Nak && (unusable || address.is_loopback()) {
        return None;
    }
    let lease = Lease {
        address: Cidr {
            address,
            prefix: prefix.unwrap_or(24),
        },
        gateway,
        dns,
        ntp,
        server: server?,
        lasts: Duration::from_secs(lasts_s.max(LEASE_MIN_S).into()),
    };
    Some((kind, lease))
}

/// Options up to the end mark or the first that is cut off.
fn options(mut rest: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        while let [0, after @ ..] = rest {
            rest = after;
        }
        let [kind, length, after @ ..] = rest else {
            return None;
        };
        if *kind == END {
            return None;
        }
        let value = after.get(..usize::from(*length))?;
        rest = &after[value.len()..];
        Some((*kind, value))
    })
}

/// The length of a mask's prefix; `None` for one with holes.
fn prefix_of(mask: [u8; 4]) -> Option<u8> {
    let mask = u32::from_be_bytes(mask);
    let prefix = mask.leading_ones();
    (mask.count_ones() == prefix).then_some(prefix as u8)
}

fn addresses(value: &[u8]) -> Vec<Ipv4Addr> {
    let all = value
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| Ipv4Addr::from(*bytes));
    all.take(SERVERS_MAX).collect()
}

#[derive(Debug)]
enum State {
    Selecting,
    Requesting { offer: Lease, sent: u32 },
    Bound { lease: Lease, since: Duration },
}

/// One interface's client. Time is what has gone by since any fixed moment.
#[derive(Debug)]
pub struct Client {
    mac: [u8; 6],
    hostname: String,
    xid: u32,
    state: State,
    due: Duration,
    pause: Duration,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Broadcast this packet.
    Send(Vec<u8>),
    /// This lease is ours now, or still.
    Take(Lease),
    /// The lease is no longer ours.
    Drop(Lease),
}

impl Client {
    /// Begins at once. `xid` is random.
    pub fn new(mac: [u8; 6], hostname: String, xid: u32, now: Duration) -> Self {
        Self {
            mac,
            hostname,
            xid,
            state: State::Selecting,
            due: now,
            pause: RETRY_MIN,
        }
    }

    /// When [`Client::wake`] is to be called.
    pub fn due(&self) -> Duration {
        self.due
    }

    /// The cable was plugged in anew: ask again now, and go on with what there is meanwhile.
    pub fn link_returned(&mut self, now: Duration) {
        (self.pause, self.due) = (RETRY_MIN, now);
    }

    /// Time has come.
    pub fn wake(&mut self, now: Duration) -> Vec<Action> {
        if now < self.due {
            return Vec::new();
        }
        let mut actions = Vec::new();
        match &mut self.state {
            State::Requesting { sent, .. } if *sent < REQUESTS_MAX => *sent += 1,
            State::Requesting { .. } => self.begin(now),
            State::Bound { lease, since } if now >= *since + lease.lasts => {
                actions.push(Action::Drop(lease.clone()));
                self.begin(now);
            }
            _ => {}
        }
        actions.push(Action::Send(self.packet()));
        self.due = now + self.pause;
        if let State::Bound { lease, since } = &self.state {
            self.due = self.due.min(*since + lease.lasts);
        }
        self.pause = (self.pause * 2).min(RETRY_MAX);
        actions
    }

    /// A packet came in.
    pub fn receive(&mut self, packet: &[u8], now: Duration) -> Vec<Action> {
        let Some((kind, lease)) = parse(packet, self.xid, self.mac) else {
            return Vec::new();
        };
        match (&self.state, kind) {
            (State::Selecting, Kind::Offer) => {
                self.state = State::Requesting {
                    offer: lease,
                    sent: 0,
                };
                (self.pause, self.due) = (RETRY_MIN, now);
                self.wake(now)
            }
            (State::Requesting { offer, .. }, Kind::Ack) if offer.server == lease.server => {
                self.take(lease, now, None)
            }
            (State::Bound { lease: old, .. }, Kind::Ack) => {
                let gone = (old.address != lease.address).then(|| old.clone());
                self.take(lease, now, gone)
            }
            (State::Requesting { offer, .. }, Kind::Nak) if offer.server == lease.server => {
                self.begin(now);
                Vec::new()
            }
            (State::Bound { lease: old, .. }, Kind::Nak) if old.server == lease.server => {
                let actions = vec![Action::Drop(old.clone())];
                self.begin(now);
                actions
            }
            _ => Vec::new(),
        }
    }

    fn take(&mut self, lease: Lease, now: Duration, gone: Option<Lease>) -> Vec<Action> {
        // RFC 2131 4.4.5: renewed when half of it is over.
        (self.due, self.pause) = (now + lease.lasts / 2, RETRY_MAX);
        self.state = State::Bound {
            lease: lease.clone(),
            since: now,
        };
        gone.map(Action::Drop)
            .into_iter()
            .chain([Action::Take(lease)])
            .collect()
    }

    fn begin(&mut self, now: Duration) {
        self.state = State::Selecting;
        self.xid = self.xid.wrapping_add(1);
        (self.pause, self.due) = (RETRY_MIN, now + RETRY_MIN);
    }

    fn packet(&self) -> Vec<u8> {
        let mut packet = vec![0; HEADER_BYTES];
        packet[..3].copy_from_slice(&[BOOTREQUEST, ETHERNET, 6]);
        packet[4..8].copy_from_slice(&self.xid.to_be_bytes());
        packet[10..12].copy_from_slice(&BROADCAST_FLAG);
        packet[28..34].copy_from_slice(&self.mac);
        packet[236..240].copy_from_slice(&MAGIC);
        let mut option = |kind: u8, value: &[u8]| {
            packet.push(kind);
            packet.push(value.len() as u8);
            packet.extend(value);
        };
        match &self.state {
            State::Selecting => option(MESSAGE_TYPE, &[1]),
            State::Requesting { offer, .. } => {
                option(MESSAGE_TYPE, &[3]);
                option(REQUESTED_ADDRESS, &offer.address.address.octets());
                option(SERVER_ID, &offer.server.octets());
            }
            State::Bound { .. } => option(MESSAGE_TYPE, &[3]),
        }
        option(HOST_NAME, self.hostname.as_bytes());
        option(PARAMETERS, &[SUBNET_MASK, ROUTER, DNS, NTP, LEASE_TIME]);
        packet.push(END);
        if let State::Bound { lease, .. } = &self.state {
            // ciaddr: the address that is ours already.
            packet[12..16].copy_from_slice(&lease.address.address.octets());
        }
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn answer(kind: u8, xid: u32, lease_s: u32) -> Vec<u8> {
        let mut packet = vec![0; HEADER_BYTES];
        packet[0] = BOOTREPLY;
        packet[4..8].copy_from_slice(&xid.to_be_bytes());
        packet[16..20].copy_from_slice(&[192, 0, 2, 7]);
        packet[28..34].copy_from_slice(&MAC);
        packet[236..240].copy_from_slice(&MAGIC);
        packet.extend([53, 1, kind, 0, 0, 54, 4, 192, 0, 2, 1, 1, 4, 255, 255, 255, 0]);
        packet.extend([3, 4, 192, 0, 2, 1, 6, 8, 192, 0, 2, 2, 192, 0, 2, 3, 51, 4]);
        packet.extend(lease_s.to_be_bytes());
        packet.push(END);
        packet
    }

    fn kinds(actions: &[Action]) -> Vec<String> {
        let name = |action: &Action| match action {
            Action::Send(packet) => format!("send {}", packet[HEADER_BYTES + 2]),
            Action::Take(lease) => format!("take {}", lease.address.address),
            Action::Drop(lease) => format!("drop {}", lease.address.address),
        };
        actions.iter().map(name).collect()
    }

    #[test]
    fn a_lease_is_asked_for_taken_renewed_and_given_up() {
        let mut client = Client::new(MAC, "kitchen".into(), 9, s(0));
        assert_eq!(kinds(&client.wake(s(0))), ["send 1"]);
        assert_eq!(kinds(&client.receive(&answer(2, 9, 600), s(0))), ["send 3"]);
        let taken = client.receive(&answer(5, 9, 600), s(1));
        assert_eq!(kinds(&taken), ["take 192.0.2.7"]);
        let Action::Take(lease) = &taken[0] else {
            panic!("not taken")
        };
        assert_eq!(
            (lease.address.prefix, lease.gateway),
            (24, Some([192, 0, 2, 1].into()))
        );
        assert_eq!(lease.dns.len(), 2);
        assert_eq!(client.due(), s(301));
        // No answer to the renewal: asked again, and dropped when the time is over.
        let mut now = client.due();
        let mut seen = Vec::new();
        while seen.last().is_none_or(|last| last != "drop 192.0.2.7") {
            seen.extend(
                kinds(&client.wake(now))
                    .into_iter()
                    .filter(|kind| kind != "send 1"),
            );
            now = client.due();
        }
        assert!(now >= s(601) && seen.len() > 3, "{seen:?} at {now:?}");
    }

    #[test]
    fn a_refusal_begins_anew_under_another_number() {
        let mut client = Client::new(MAC, String::new(), 9, s(0));
        client.wake(s(0));
        client.receive(&answer(2, 9, 600), s(0));
        assert_eq!(kinds(&client.receive(&answer(6, 9, 600), s(0))), [""; 0]);
        assert_eq!(kinds(&client.wake(s(1))), ["send 1"]);
        assert_eq!(
            kinds(&client.receive(&answer(2, 9, 600), s(1))),
            [""; 0],
            "an answer to the request before"
        );
        assert_eq!(kinds(&client.receive(&answer(2, 10, 600), s(1))), ["send 3"]);
    }

    #[test]
    fn an_offer_that_nobody_acknowledges_is_given_up() {
        let mut client = Client::new(MAC, String::new(), 9, s(0));
        client.wake(s(0));
        client.receive(&answer(2, 9, 600), s(0));
        let mut sent = Vec::new();
        for _ in 0..5 {
            let now = client.due();
            sent.extend(kinds(&client.wake(now)));
        }
        assert!(sent.contains(&"send 1".to_owned()), "{sent:?}");
    }

    #[test]
    fn answers_that_are_not_ours_or_make_no_sense_are_nothing() {
        type Spoil = fn(&mut Vec<u8>);
        let spoils: [Spoil; 7] = [
            |p| p[0] = BOOTREQUEST,
            |p| p[7] ^= 1,
            |p| p[33] ^= 1,
            |p| p[236] = 0,
            |p| p.truncate(HEADER_BYTES + 3),
            |p| p[16..20].copy_from_slice(&[127, 0, 0, 1]),
            |p| p[16..20].copy_from_slice(&[255; 4]),
        ];
        for (case, spoil) in spoils.iter().enumerate() {
            let mut packet = answer(2, 9, 600);
            spoil(&mut packet);
            assert_eq!(parse(&packet, 9, MAC), None, "case {case}");
        }
        let short = parse(&answer(5, 9, 0), 9, MAC).unwrap().1;
        assert_eq!(short.lasts, s(60));
        assert_eq!(prefix_of([255, 0, 255, 0]), None);
    }

    proptest::proptest! {
        #[test]
        fn any_packet_is_survived(packet: Vec<u8>, cut in 0_usize..300, byte: u8) {
            let mut client = Client::new(MAC, "x".into(), 9, s(0));
            client.wake(s(0));
            client.receive(&packet, s(0));
            let mut near = answer(2, 9, 600);
            let at = cut % near.len();
            near[at] = byte;
            client.receive(&near, s(0));
            near.truncate(at);
            client.receive(&near, s(0));
        }
    }
}
