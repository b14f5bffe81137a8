//! Requests to rtnetlink(7), as bytes: an interface up, an address, a route. Read as much as an acknowledgement tells.

use std::net::Ipv4Addr;

use super::settings::Cidr;

const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;

const AF_INET: u8 = 2;
const IFF_UP: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTN_UNICAST: u8 = 1;

/// Length of nlmsghdr.
const HEADER_BYTES: usize = 16;

/// Brings an interface up.
pub fn link_up(index: u32) -> Vec<u8> {
    // ifinfomsg: family, padding, type, index, flags, mask of flags.
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend(IFF_UP.to_ne_bytes());
    body.extend(IFF_UP.to_ne_bytes());
    message(RTM_NEWLINK, 0, body)
}

/// Gives an interface an address, or takes the same one up anew.
pub fn add_address(index: u32, cidr: Cidr) -> Vec<u8> {
    message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, address(index, cidr))
}

/// Takes an address away.
pub fn remove_address(index: u32, cidr: Cidr) -> Vec<u8> {
    message(RTM_DELADDR, 0, address(index, cidr))
}

/// The default route through `gateway`; of two interfaces the one with the smaller index is preferred.
pub fn default_route(index: u32, gateway: Ipv4Addr) -> Vec<u8> {
    // rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags.
    let mut body = vec![
        AF_INET,
        0,
        0,
        0,
        RT_TABLE_MAIN,
        RTPROT_BOOT,
        RT_SCOPE_UNIVERSE,
        RTN_UNICAST,
        0,
        0,
        0,
        0,
    ];
    attribute(&mut body, RTA_GATEWAY, &gateway.octets());
    attribute(&mut body, RTA_OIF, &index.to_ne_bytes());
    attribute(&mut body, RTA_PRIORITY, &(100 + index).to_ne_bytes());
    message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body)
}

/// The errno of an acknowledgement, 0 for done; `None` when it is no acknowledgement.
pub fn acknowledgement(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let code = i32::from_ne_bytes(answer.get(HEADER_BYTES..HEADER_BYTES + 4)?.try_into().ok()?);
    (kind == NLMSG_ERROR).then_some(code.saturating_neg())
}

fn address(index: u32, cidr: Cidr) -> Vec<u8> {
    // ifaddrmsg: family, prefix length, flags, scope, index.
    let mut body = vec![AF_INET, cidr.prefix, 0, RT_SCOPE_UNIVERSE];
    body.extend(index.to_ne_bytes());
    attribute(&mut body, IFA_LOCAL, &cidr.address.octets());
    attribute(&mut body, IFA_ADDRESS, &cidr.address.octets());
    body
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).expect("attributes here are four bytes long");
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn message(kind: u16, flags: u16, body: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(HEADER_BYTES + body.len()).expect("requests here are some dozen bytes");
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
    // Sequence and port: one request at a time, and the kernel knows who asks.
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_say_what_is_there() {
        let cidr = Cidr {
            address: [192, 0, 2, 7].into(),
            prefix: 24,
        };
        for (bytes, length) in [
            (link_up(2), 32),
            (add_address(2, cidr), 40),
            (default_route(2, [192, 0, 2, 1].into()), 52),
        ] {
            assert_eq!(bytes.len(), length);
            assert_eq!(u32::from_ne_bytes(bytes[..4].try_into().unwrap()), length as u32);
        }
    }

    #[test]
    fn an_acknowledgement_tells_its_errno() {
        let mut answer = vec![36, 0, 0, 0];
        answer.extend(NLMSG_ERROR.to_ne_bytes());
        answer.extend([0; 10]);
        answer.extend((-17_i32).to_ne_bytes());
        assert_eq!(acknowledgement(&answer), Some(17));
        answer[4] = 16;
        assert_eq!(acknowledgement(&answer), None);
        assert_eq!(acknowledgement(&answer[..19]), None);
    }
}
