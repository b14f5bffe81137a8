//! Interfaces, addresses and routes: rtnetlink(7) and /sys/class/net.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

use crate::plan::netlink::acknowledgement;
use crate::{InitError, Result, read_word};

/// ARPHRD_ETHER of linux/if_arp.h
const ETHERNET: &str = "1";
/// Multicast group of interfaces' changes. rtnetlink(7)
const RTMGRP_LINK: u32 = 1;
/// Multicast group of the kernel's own device events.
const UEVENT_GROUP: u32 = 1;
/// An event of the kernel is at most 2 KiB, a link's message some more.
const MESSAGE_BYTES_MAX: usize = 8192;

/// A socket of the kernel's news, or for requests.
pub struct Netlink(OwnedFd);

impl Netlink {
    /// For requests.
    pub fn requests() -> Result<Self> {
        Self::open(SockProtocol::NetlinkRoute, SockFlag::SOCK_CLOEXEC, 0)
    }

    /// News of interfaces.
    pub fn links() -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        Self::open(SockProtocol::NetlinkRoute, flags, RTMGRP_LINK)
    }

    /// News of devices.
    pub fn devices() -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        Self::open(SockProtocol::NetlinkKObjectUEvent, flags, UEVENT_GROUP)
    }

    fn open(protocol: SockProtocol, flags: SockFlag, groups: u32) -> Result<Self> {
        let opened = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol).and_then(|socket| {
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
            Ok(socket)
        });
        opened.map(Self).map_err(InitError::at("open", "netlink"))
    }

    /// Sends a request and waits for the kernel's answer.
    pub fn request(&self, message: &[u8]) -> Result<(), Errno> {
        nix::sys::socket::send(self.0.as_raw_fd(), message, MsgFlags::empty())?;
        let mut answer = [0; MESSAGE_BYTES_MAX];
        loop {
            let length = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
            match acknowledgement(&answer[..length]) {
                Some(0) => return Ok(()),
                Some(code) => return Err(Errno::from_raw(code)),
                None => {}
            }
        }
    }

    /// What is in the queue; the second value is true when news were lost because there were too many.
    pub fn drain(&self, mut take: impl FnMut(&[u8])) -> bool {
        let mut message = [0; MESSAGE_BYTES_MAX];
        let mut lost = false;
        loop {
            match recv(self.0.as_raw_fd(), &mut message, MsgFlags::empty()) {
                Ok(length) => take(&message[..length]),
                Err(Errno::ENOBUFS) => lost = true,
                Err(Errno::EINTR) => {}
                Err(_) => return lost,
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// An Ethernet interface of the board itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// `eth0`
    pub name: String,
    /// The kernel's number of it.
    pub index: u32,
    /// Its hardware address.
    pub mac: [u8; 6],
}

impl Interface {
    /// True while a cable is in.
    pub fn has_carrier(&self) -> bool {
        // Reading fails while the interface is down.
        read_word(Path::new("/sys/class/net").join(&self.name).join("carrier")) == "1"
    }
}

/// The board's Ethernet interfaces; bridges and pairs that containers make have no device behind them.
pub fn interfaces() -> Vec<Interface> {
    let mut found: Vec<_> = fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let (folder, name) = (entry.path(), entry.file_name().into_string().ok()?);
            let real = folder.join("device").exists() && read_word(folder.join("type")) == ETHERNET;
            let index = read_word(folder.join("ifindex")).parse().ok()?;
            let mac = mac(&read_word(folder.join("address")))?;
            real.then_some(Interface { name, index, mac })
        })
        .collect();
    found.sort_unstable_by_key(|interface| interface.index);
    found
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// resolv.conf(5)
pub fn write_name_servers(servers: &[Ipv4Addr]) -> std::io::Result<()> {
    let text: String = servers
        .iter()
        .map(|server| format!("nameserver {server}\n"))
        .collect();
    fs::write("/etc/resolv.conf", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardware_address_has_six_bytes() {
        assert_eq!(mac("02:00:00:0a:ff:07"), Some([2, 0, 0, 10, 255, 7]));
        for text in ["", "02:00", "02:00:00:00:00:07:08", "xx:00:00:00:00:07"] {
            assert_eq!(mac(text), None, "{text}");
        }
    }

    #[test]
    fn the_kernel_acknowledges_or_refuses_a_request() {
        let netlink = Netlink::requests().unwrap();
        // Interface 0 does not exist.
        assert!(netlink.request(&crate::plan::netlink::link_up(0)).is_err());
    }
}
