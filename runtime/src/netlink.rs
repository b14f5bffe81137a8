//! The few rtnetlink messages that move a network device: written and read as bytes, sent over a socket. rtnetlink(7), netlink(7)

use crate::error::{OsContext, Result};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use std::os::fd::{AsRawFd, OwnedFd};

/// The kernel fills at most this much into one datagram of a dump.
const DATAGRAM_BYTES_MAX: usize = 32 * 1024;
/// How often a list is read again because devices came or went meanwhile: then the kernel may have left out some that stayed.
const DUMP_TRIES: u32 = 100;
/// Datagrams of one answer: a host with more than some hundred thousand devices or addresses is not one of ours.
const DATAGRAMS_MAX: usize = 10_000;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE_EXCL: u16 = 0x600;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_LABEL: u16 = 3;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
const IFF_UP: u32 = 1;
/// Place of nlmsg_flags in a message.
const FLAGS_AT: usize = 6;
/// Size of struct nlmsghdr, ifinfomsg and ifaddrmsg.
const HEADER: usize = 16;
const LINK: usize = 16;
const ADDRESS: usize = 8;

/// A message to the kernel.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        // Sequence number and port: one request at a time, and the kernel knows us.
        bytes.extend([0; 8]);
        bytes.extend(body);
        Self(bytes)
    }

    fn with(mut self, kind: u16, payload: &[u8]) -> Self {
        self.0.extend((payload.len() as u16 + 4).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(payload);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn with_name(self, name: &str) -> Self {
        let mut bytes = name.as_bytes().to_vec();
        bytes.push(0);
        self.with(IFLA_IFNAME, &bytes)
    }

    fn finish(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// struct ifinfomsg
fn link_body(index: i32, flags: u32, change: u32) -> [u8; LINK] {
    let mut body = [0; LINK];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&flags.to_ne_bytes());
    body[12..16].copy_from_slice(&change.to_ne_bytes());
    body
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// One part after another, each with its length in front: messages, or attributes. Stops at the first that is cut off.
struct Parts<'a> {
    bytes: &'a [u8],
    head: usize,
}

impl<'a> Iterator for Parts<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (length, kind) = if self.head == HEADER {
            let length = u32::from_ne_bytes(number(self.bytes, 0)?) as usize;
            (length, u16::from_ne_bytes(number(self.bytes, 4)?))
        } else {
            let length = u16::from_ne_bytes(number(self.bytes, 0)?) as usize;
            // The two highest bits only say how the payload is made.
            (length, u16::from_ne_bytes(number(self.bytes, 2)?) & 0x3fff)
        };
        let payload = self.bytes.get(self.head..length)?;
        self.bytes = self.bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    }
}

/// Whether the first message of a datagram says that what is listed changed while it was; the last of a list says it too.
fn is_interrupted(datagram: &[u8]) -> bool {
    number(datagram, FLAGS_AT).is_some_and(|flags| u16::from_ne_bytes(flags) & NLM_F_DUMP_INTR != 0)
}

fn messages(bytes: &[u8]) -> Parts<'_> {
    Parts { bytes, head: HEADER }
}

fn attributes(bytes: &[u8]) -> Parts<'_> {
    Parts { bytes, head: 4 }
}

/// An address that goes with its device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// struct ifaddrmsg; the index in it is filled in anew.
    body: [u8; ADDRESS],
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Address {
    /// Reads an RTM_NEWADDR; `None` when it is another device's, not permanent, or not of global scope.
    fn parse(payload: &[u8], index: i32) -> Option<Self> {
        let body: [u8; ADDRESS] = number(payload, 0)?;
        let scope = body[3];
        let of = i32::from_ne_bytes(number(&body, 4)?);
        let all = attributes(payload.get(ADDRESS..)?);
        let attributes: Vec<(u16, Vec<u8>)> = all.map(|(kind, value)| (kind, value.to_vec())).collect();
        let long = attributes.iter().find(|(kind, _)| *kind == IFA_FLAGS);
        let flags = match long {
            Some((_, value)) => u32::from_ne_bytes(number(value, 0)?),
            None => body[2].into(),
        };
        if of != index || scope != 0 || flags & IFA_F_PERMANENT == 0 {
            return None;
        }
        // The label names the device, which may get another name; how long it has lived begins anew.
        let attributes = attributes
            .into_iter()
            .filter(|(kind, _)| !matches!(*kind, IFA_LABEL | IFA_CACHEINFO))
            .collect();
        Some(Self { body, attributes })
    }
}

/// A route netlink socket: it belongs to the network namespace it was made in.
#[derive(Debug)]
pub(crate) struct Netlink(OwnedFd);

impl Netlink {
    /// In the caller's network namespace.
    pub fn open() -> Result<Self> {
        let kind = SockType::Raw;
        let protocol = SockProtocol::NetlinkRoute;
        socket(AddressFamily::Netlink, kind, SockFlag::SOCK_CLOEXEC, protocol)
            .os("make", "a netlink socket")
            .map(Self)
    }

    /// Reads a whole list, all of it of one moment.
    fn dump<T>(
        &self,
        kind: u16,
        body: &[u8],
        mut each: impl FnMut(&mut Vec<T>, &[u8]),
    ) -> nix::Result<Vec<T>> {
        for _ in 0..DUMP_TRIES {
            let mut found = Vec::new();
            let request = Request::new(kind, NLM_F_DUMP, body);
            // An answer's kind is its request's less two: RTM_NEW of RTM_GET.
            let wanted = kind - 2;
            match self.call(request, &mut |kind, payload| {
                if kind == wanted {
                    each(&mut found, payload);
                }
            }) {
                Err(Errno::EAGAIN) => {}
                result => return result.map(|()| found),
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Sends a request and gives every message of the answer to `each`. EAGAIN when what is listed has changed meanwhile.
    fn call(&self, request: Request, each: &mut dyn FnMut(u16, &[u8])) -> nix::Result<()> {
        send(self.0.as_raw_fd(), &request.finish(), MsgFlags::empty())?;
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        let mut is_whole = true;
        for _ in 0..DATAGRAMS_MAX {
            let length = match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                length => length?,
            };
            is_whole &= !is_interrupted(&buffer[..length]);
            for (kind, payload) in messages(&buffer[..length]) {
                match kind {
                    NLMSG_DONE if is_whole => return Ok(()),
                    NLMSG_DONE => return Err(Errno::EAGAIN),
                    NLMSG_ERROR => {
                        let negative = number(payload, 0).map_or(0, i32::from_ne_bytes);
                        return match negative {
                            0 => Ok(()),
                            errno => Err(Errno::from_raw(-errno)),
                        };
                    }
                    kind => each(kind, payload),
                }
            }
        }
        Err(Errno::EMSGSIZE)
    }

    /// Index of the device of this name; `None` when there is none.
    pub fn index(&self, name: &str) -> nix::Result<Option<i32>> {
        let mut found = None;
        let request = Request::new(RTM_GETLINK, NLM_F_ACK, &link_body(0, 0, 0)).with_name(name);
        match self.call(request, &mut |kind, payload| {
            if kind == RTM_NEWLINK {
                found = number(payload, 4).map(i32::from_ne_bytes);
            }
        }) {
            Ok(()) => Ok(found),
            Err(Errno::ENODEV) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Indices of all devices.
    pub fn indices(&self) -> nix::Result<Vec<i32>> {
        self.dump(RTM_GETLINK, &link_body(0, 0, 0), |found, payload| {
            found.extend(number(payload, 4).map(i32::from_ne_bytes));
        })
    }

    /// The permanent addresses of global scope of a device.
    pub fn addresses(&self, index: i32) -> nix::Result<Vec<Address>> {
        self.dump(RTM_GETADDR, &[0; ADDRESS], |found, payload| {
            found.extend(Address::parse(payload, index));
        })
    }

    /// Moves a device into another network namespace, where it gets a name.
    pub fn move_to(&self, index: i32, namespace: &OwnedFd, name: &str) -> nix::Result<()> {
        let request = Request::new(RTM_NEWLINK, NLM_F_ACK, &link_body(index, 0, 0))
            .with(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes())
            .with_name(name);
        self.call(request, &mut |_, _| {})
    }

    /// Gives a device an address.
    pub fn add_address(&self, index: i32, address: &Address) -> nix::Result<()> {
        let mut body = address.body;
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        let mut request = Request::new(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE_EXCL, &body);
        for (kind, value) in &address.attributes {
            request = request.with(*kind, value);
        }
        self.call(request, &mut |_, _| {})
    }

    /// Switches a device on.
    pub fn up(&self, index: i32) -> nix::Result<()> {
        let request = Request::new(RTM_NEWLINK, NLM_F_ACK, &link_body(index, IFF_UP, IFF_UP));
        self.call(request, &mut |_, _| {})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let request = Request::new(RTM_NEWLINK, NLM_F_ACK, &link_body(7, IFF_UP, IFF_UP))
            .with_name("eth0")
            .with(IFLA_NET_NS_FD, &9_i32.to_ne_bytes());
        let bytes = [request.finish(), Request::new(NLMSG_DONE, 0, &[]).finish()].concat();
        let read: Vec<_> = messages(&bytes).collect();
        assert_eq!((read.len(), read[0].0, read[1].0), (2, RTM_NEWLINK, NLMSG_DONE));
        assert_eq!(number(read[0].1, 4).map(i32::from_ne_bytes), Some(7));
        let parts: Vec<_> = attributes(&read[0].1[LINK..]).collect();
        assert_eq!(parts[0], (IFLA_IFNAME, &b"eth0\0"[..]));
        assert_eq!(parts[1], (IFLA_NET_NS_FD, &9_i32.to_ne_bytes()[..]));
    }

    #[test]
    fn a_list_that_changed_while_it_was_read_says_so() {
        let whole = Request::new(RTM_NEWADDR, 0x2, &[0; ADDRESS]).finish();
        let changed = Request::new(RTM_NEWADDR, NLM_F_DUMP_INTR, &[0; ADDRESS]).finish();
        assert_eq!(
            [&whole[..], &changed, &[]].map(is_interrupted),
            [false, true, false]
        );
    }

    #[test]
    fn cut_off_bytes_end_the_reading() {
        let bytes = Request::new(RTM_NEWLINK, 0, &link_body(7, 0, 0))
            .with_name("eth0")
            .finish();
        for end in 0..bytes.len() {
            assert_eq!(messages(&bytes[..end]).count(), 0, "{end}");
        }
        // A length of nothing does not go round for ever.
        assert_eq!(messages(&[0; 64]).count(), 0);
        assert_eq!(attributes(&[0; 64]).count(), 0);
    }

    #[test]
    fn only_permanent_addresses_of_global_scope_go_along() {
        let address = |short: u8, scope: u8, long: Option<u32>| {
            let mut body = [2, 24, short, scope, 0, 0, 0, 0];
            body[4..].copy_from_slice(&7_i32.to_ne_bytes());
            let mut request = Request::new(RTM_NEWADDR, 0, &body)
                .with(1, &[192, 0, 2, 7])
                .with(IFA_LABEL, b"eth0\0");
            if let Some(flags) = long {
                request = request.with(IFA_FLAGS, &flags.to_ne_bytes());
            }
            request.finish()[HEADER..].to_vec()
        };
        let kept = Address::parse(&address(0x80, 0, None), 7).unwrap();
        assert_eq!(kept.attributes, [(1, vec![192, 0, 2, 7])]);
        assert!(Address::parse(&address(0, 0, Some(0x80)), 7).is_some());
        for (payload, index) in [
            (address(0x80, 0, None), 8),
            (address(0, 0, None), 7),
            (address(0x80, 253, None), 7),
            (address(0x80, 0, Some(0)), 7),
            (vec![0; 3], 7),
        ] {
            assert_eq!(Address::parse(&payload, index), None);
        }
    }
}
