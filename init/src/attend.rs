//! The role `attend`: devices that come later, network, time. One loop that waits for any of them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use punnet_boards::Board;

use crate::handover::{self, BOARD};
use crate::net::{self, Interface, Netlink};
use crate::plan::dhcp::{self, Action, Client, Lease};
use crate::plan::modules::Index;
use crate::plan::settings::{Network, Settings};
use crate::plan::{netlink, sntp, uevent};
use crate::{Result, modules, say};

/// A turn of the loop at least this often, for what no event tells.
const TURN_MAX: Duration = Duration::from_secs(60);

/// Never ends by itself.
pub fn run() -> Result<()> {
    let text = modules::index_text();
    let index = crate::plan::modules::parse(&text);
    let devices = Netlink::devices()?;
    let links = Netlink::links()?;
    // What came between `setup` and now.
    modules::coldplug(&index, &mut BTreeSet::new());
    let mut attend = Attend::new(&index)?;
    attend.look_at_links();
    loop {
        attend.wait(&devices, &links);
        let lost = devices.drain(|message| attend.device(message));
        if lost {
            modules::coldplug(attend.index, &mut BTreeSet::new());
        }
        let mut news = lost;
        links.drain(|_| news = true);
        if news {
            attend.look_at_links();
        }
        attend.network();
        attend.time.turn(attend.began.elapsed());
    }
}

/// An interface that is taken care of.
struct Port {
    interface: Interface,
    had_carrier: bool,
    dhcp: Option<(Client, UdpSocket)>,
    lease: Option<Lease>,
}

struct Attend<'a> {
    index: &'a Index<'a>,
    settings: Settings,
    hostname: String,
    requests: Netlink,
    ports: BTreeMap<u32, Port>,
    time: Time,
    began: Instant,
}

impl<'a> Attend<'a> {
    fn new(index: &'a Index<'a>) -> Result<Self> {
        let settings = handover::settings();
        let board = Board::from_json_file(Path::new(BOARD)).ok();
        let time = if settings.ntp.is_empty() {
            Time::new(
                board.map(|board| board.ntp_servers).unwrap_or_default(),
                Others::Dhcp,
            )
        } else {
            Time::new(settings.ntp.clone(), Others::None)
        };
        let requests = Netlink::requests()?;
        let loopback = crate::read_word("/sys/class/net/lo/ifindex").parse().unwrap_or(1);
        if let Err(error) = requests.request(&netlink::link_up(loopback)) {
            say(format_args!("lo: {error}"));
        }
        Ok(Self {
            index,
            settings,
            hostname: crate::read_word("/proc/sys/kernel/hostname"),
            requests,
            ports: BTreeMap::new(),
            time,
            began: Instant::now(),
        })
    }

    fn wait(&self, devices: &Netlink, links: &Netlink) {
        let now = self.began.elapsed();
        let mut soonest = self.time.due();
        let mut fds = vec![
            PollFd::new(devices.as_fd(), PollFlags::POLLIN),
            PollFd::new(links.as_fd(), PollFlags::POLLIN),
        ];
        for (client, socket) in self.ports.values().filter_map(|port| port.dhcp.as_ref()) {
            soonest = soonest.min(client.due());
            fds.push(PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        }
        fds.extend(
            self.time
                .asked
                .as_ref()
                .map(|(socket, _)| PollFd::new(socket.as_fd(), PollFlags::POLLIN)),
        );
        let pause = soonest.saturating_sub(now).min(TURN_MAX) + Duration::from_millis(1);
        // EINTR is as good as a turn.
        poll(
            &mut fds,
            PollTimeout::try_from(pause).unwrap_or(PollTimeout::ZERO),
        )
        .ok();
    }

    fn device(&self, message: &[u8]) {
        let event = uevent::parse(message).filter(|event| event.action == "add");
        if let Some(modalias) = event.and_then(|event| event.modalias) {
            modules::load_for(self.index, modalias);
        }
    }

    /// Takes up interfaces that are new, forgets those that are gone, notices cables.
    fn look_at_links(&mut self) {
        let there = net::interfaces();
        self.ports.retain(|_, port| there.contains(&port.interface));
        for interface in there {
            let now = self.began.elapsed();
            if let Some(port) = self.ports.get_mut(&interface.index) {
                let carrier = interface.has_carrier();
                if let Some((client, _)) = port.dhcp.as_mut().filter(|_| carrier && !port.had_carrier) {
                    client.link_returned(now);
                }
                port.had_carrier = carrier;
            } else if self.settings.network != Network::Off {
                self.take_up(interface, now);
            }
        }
    }

    fn take_up(&mut self, interface: Interface, now: Duration) {
        let (index, name) = (interface.index, interface.name.clone());
        if let Err(error) = self.requests.request(&netlink::link_up(index)) {
            say(format_args!("{name} cannot be switched on: {error}"));
            return;
        }
        let mut port = Port {
            had_carrier: interface.has_carrier(),
            dhcp: None,
            lease: None,
            interface,
        };
        match self.settings.network {
            Network::Static { address, gateway } if self.ports.is_empty() => {
                let lease = Lease {
                    address,
                    gateway,
                    dns: Vec::new(),
                    ntp: Vec::new(),
                    server: Ipv4Addr::UNSPECIFIED,
                    lasts: Duration::MAX,
                };
                self.take(&port.interface, &lease);
                port.lease = Some(lease);
            }
            Network::Dhcp => match dhcp_socket(&name) {
                Ok(socket) => {
                    let client = Client::new(port.interface.mac, self.hostname.clone(), random() as u32, now);
                    port.dhcp = Some((client, socket));
                }
                Err(error) => say(format_args!("{name}: no DHCP: {error}")),
            },
            Network::Static { .. } | Network::Off => {}
        }
        self.ports.insert(index, port);
        self.name_servers();
    }

    fn network(&mut self) {
        let now = self.began.elapsed();
        let mut todo = Vec::new();
        for port in self.ports.values_mut() {
            let Some((client, socket)) = &mut port.dhcp else {
                continue;
            };
            let mut packet = [0; dhcp::PACKET_BYTES_MAX];
            let mut actions = Vec::new();
            while let Ok(length) = socket.recv(&mut packet) {
                actions.extend(client.receive(&packet[..length], now));
            }
            actions.extend(client.wake(now));
            for action in actions {
                match action {
                    Action::Send(packet) => {
                        // Asked again soon when it does not go out.
                        drop(socket.send_to(&packet, (Ipv4Addr::BROADCAST, dhcp::SERVER_PORT)));
                    }
                    other => todo.push((port.interface.clone(), other)),
                }
            }
        }
        for (interface, action) in todo {
            self.settle(&interface, action);
        }
    }

    fn settle(&mut self, interface: &Interface, action: Action) {
        let lease = match action {
            Action::Take(lease) => {
                self.take(interface, &lease);
                Some(lease)
            }
            Action::Drop(lease) => {
                say(format_args!(
                    "{}: the lease of {} is over",
                    interface.name, lease.address.address
                ));
                let gone = netlink::remove_address(interface.index, lease.address);
                if let Err(error) = self.requests.request(&gone) {
                    say(format_args!("{}: {error}", interface.name));
                }
                None
            }
            Action::Send(_) => return,
        };
        if let Some(port) = self.ports.get_mut(&interface.index) {
            port.lease = lease;
        }
        self.name_servers();
    }

    /// Gives the interface the lease's address and route.
    fn take(&mut self, interface: &Interface, lease: &Lease) {
        let known = self
            .ports
            .get(&interface.index)
            .and_then(|port| port.lease.as_ref())
            .is_some_and(|old| old.address == lease.address && old.gateway == lease.gateway);
        if known {
            return;
        }
        let address = netlink::add_address(interface.index, lease.address);
        let route = lease
            .gateway
            .map(|gateway| netlink::default_route(interface.index, gateway));
        for request in [Some(address), route].into_iter().flatten() {
            if let Err(error) = self.requests.request(&request) {
                say(format_args!("{}: {error}", interface.name));
            }
        }
        say(format_args!(
            "{} is {}/{}",
            interface.name, lease.address.address, lease.address.prefix
        ));
        self.time.network_came(&lease.ntp, self.began.elapsed());
    }

    fn name_servers(&self) {
        let mut servers = self.settings.dns.clone();
        if servers.is_empty() {
            let leases = self.ports.values().filter_map(|port| port.lease.as_ref());
            servers = leases.flat_map(|lease| lease.dns.iter().copied()).collect();
        }
        if let Err(error) = net::write_name_servers(&servers) {
            say(format_args!("cannot write /etc/resolv.conf: {error}"));
        }
    }
}

/// A socket that speaks through this interface only, address or not. socket(7)
fn dhcp_socket(interface: &str) -> std::io::Result<UdpSocket> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    setsockopt(&made, sockopt::ReuseAddr, &true)?;
    setsockopt(&made, sockopt::Broadcast, &true)?;
    setsockopt(&made, sockopt::BindToDevice, &OsString::from(interface))?;
    bind(
        std::os::fd::AsRawFd::as_raw_fd(&made),
        &SockaddrIn::new(0, 0, 0, 0, dhcp::CLIENT_PORT),
    )?;
    Ok(UdpSocket::from(made))
}

/// Eight bytes that nobody guesses; early at boot the kernel may have collected little, which is enough here.
fn random() -> u64 {
    let mut bytes = [0; 8];
    // Zeros then: worse, and no reason to be without network.
    drop(File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)));
    u64::from_le_bytes(bytes)
}

/// First pause after a time server was asked; it doubles.
const ASK_AGAIN_MIN: Duration = Duration::from_secs(4);
/// Longest pause until the time is known.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(300);
/// Between two looks at a clock that is right: a crystal drifts a second in this time at worst.
const CHECK_AGAIN: Duration = Duration::from_secs(6 * 3600);
/// Differences below this are left alone.
const DIFFERENCE_MIN_MS: u64 = 200;
/// Flash is written only when the time kept there is older than this.
const KEPT_AGE_MAX_S: u64 = 24 * 3600;

/// Who else may name time servers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Others {
    /// The router; its own are asked first.
    Dhcp,
    /// Nobody: a person has named some.
    None,
}

/// The clock.
struct Time {
    servers: Vec<String>,
    others: Others,
    from_dhcp: Vec<Ipv4Addr>,
    due: Option<Duration>,
    pause: Duration,
    asked: Option<(UdpSocket, u64)>,
    turn: usize,
}

impl Time {
    const fn new(servers: Vec<String>, others: Others) -> Self {
        Self {
            servers,
            others,
            from_dhcp: Vec::new(),
            due: None,
            pause: ASK_AGAIN_MIN,
            asked: None,
            turn: 0,
        }
    }

    fn due(&self) -> Duration {
        self.due.unwrap_or(Duration::MAX)
    }

    fn network_came(&mut self, servers: &[Ipv4Addr], now: Duration) {
        if self.others == Others::Dhcp {
            self.from_dhcp = servers.to_vec();
        }
        (self.due, self.pause) = (Some(now), ASK_AGAIN_MIN);
    }

    fn turn(&mut self, now: Duration) {
        if self.answered(now) || now < self.due() {
            return;
        }
        (self.due, self.pause) = (Some(now + self.pause), (self.pause * 2).min(ASK_AGAIN_MAX));
        let from_dhcp = self.from_dhcp.iter().map(Ipv4Addr::to_string);
        let servers: Vec<_> = from_dhcp.chain(self.servers.iter().cloned()).collect();
        if servers.is_empty() {
            self.due = None;
            return;
        }
        let server = &servers[self.turn % servers.len()];
        self.turn += 1;
        // A name that does not resolve holds this loop up for the resolver's ten seconds: leases are renewed with more in hand.
        let address = sntp::host_and_port(server)
            .to_socket_addrs()
            .ok()
            .and_then(|mut addresses| addresses.find(SocketAddr::is_ipv4));
        self.asked = address.and_then(|address| ask(address).ok());
    }

    /// True when an answer came and the clock is right now.
    fn answered(&mut self, now: Duration) -> bool {
        let Some((socket, cookie)) = &self.asked else {
            return false;
        };
        let mut answer = [0; sntp::PACKET_BYTES];
        let floor_s = handover::kept_clock_s();
        let Some(time_ms) = socket
            .recv(&mut answer)
            .ok()
            .and_then(|length| sntp::time_ms(&answer[..length], *cookie, floor_s))
        else {
            return false;
        };
        self.asked = None;
        (self.due, self.pause) = (Some(now + CHECK_AGAIN), ASK_AGAIN_MIN);
        set_clock(time_ms);
        true
    }
}

fn ask(server: SocketAddr) -> std::io::Result<(UdpSocket, u64)> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(server)?;
    let cookie = random();
    socket.send(&sntp::request(cookie))?;
    Ok((socket, cookie))
}

fn set_clock(time_ms: u64) {
    let unix = std::time::SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now_ms = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
    if now_ms.abs_diff(time_ms) >= DIFFERENCE_MIN_MS {
        let time = TimeSpec::from(Duration::from_millis(time_ms));
        match clock_settime(ClockId::CLOCK_REALTIME, time) {
            Ok(()) => say(format_args!(
                "the clock is set by {} ms",
                i128::from(time_ms) - i128::from(now_ms)
            )),
            Err(error) => say(format_args!("cannot set the clock: {error}")),
        }
    }
    if handover::kept_clock_s() + KEPT_AGE_MAX_S < time_ms / 1000
        && let Err(error) = handover::keep_clock()
    {
        say(format_args!("the time is not kept: {error}"));
    }
}
