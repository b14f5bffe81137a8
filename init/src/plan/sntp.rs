//! SNTP, the client's side: RFC 4330. One packet out, one in.

/// Size of a packet without extensions.
pub const PACKET_BYTES: usize = 48;
/// Where servers listen unless their name says otherwise.
const PORT: u16 = 123;
/// Seconds from 1900, where NTP begins, to 1970.
const UNIX_EPOCH_S: u64 = 2_208_988_800;
/// One turn of the 32-bit seconds: era 1 begins in 2036.
const ERA_S: u64 = 1 << 32;
/// Version 4, mode 3: client.
const CLIENT: u8 = 4 << 3 | 3;

/// `HOST` or `HOST:PORT`; an IPv6 address with a port has brackets. RFC 3986, section 3.2.2
pub fn host_and_port(server: &str) -> (&str, u16) {
    if let Some((host, rest)) = server.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let port = rest.strip_prefix(':').and_then(|port| port.parse().ok());
        return (host, port.unwrap_or(PORT));
    }
    let named = server
        .split_once(':')
        .and_then(|(host, port)| Some((host, port.parse().ok()?)));
    named.unwrap_or((server, PORT))
}

/// A request. The server sends `cookie` back, which nobody else knows: no time of ours is told.
pub fn request(cookie: u64) -> [u8; PACKET_BYTES] {
    let mut packet = [0; PACKET_BYTES];
    packet[0] = CLIENT;
    packet[40..48].copy_from_slice(&cookie.to_be_bytes());
    packet
}

/// The time of an answer, milliseconds since 1970; `None` when it is none to this request, or the server does not know the time.
/// `floor_s` (seconds since 1970) picks the era: the time is never before it.
pub fn time_ms(answer: &[u8], cookie: u64, floor_s: u64) -> Option<u64> {
    let word = |at: usize| Some(u32::from_be_bytes(answer.get(at..at + 4)?.try_into().ok()?));
    let flags = *answer.first()?;
    let (leap, mode, stratum) = (flags >> 6, flags & 7, *answer.get(1)?);
    let echoed = u64::from(word(24)?) << 32 | u64::from(word(28)?);
    if leap == 3 || mode != 4 || !(1..=15).contains(&stratum) || echoed != cookie {
        return None;
    }
    let (seconds, fraction) = (u64::from(word(40)?), u64::from(word(44)?));
    if seconds == 0 {
        return None;
    }
    let mut since_1900 = seconds;
    while since_1900 < floor_s + UNIX_EPOCH_S {
        since_1900 += ERA_S;
    }
    Some((since_1900 - UNIX_EPOCH_S) * 1000 + ((fraction * 1000) >> 32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(cookie: u64, since_1900: u32) -> [u8; PACKET_BYTES] {
        let mut packet = [0; PACKET_BYTES];
        packet[0] = 4 << 3 | 4;
        packet[1] = 2;
        packet[24..32].copy_from_slice(&cookie.to_be_bytes());
        packet[40..44].copy_from_slice(&since_1900.to_be_bytes());
        packet[44] = 0x80;
        packet
    }

    #[test]
    fn an_answer_to_our_request_is_taken_and_others_are_not() {
        let now = 1_800_000_000;
        let good = answer(7, (now + UNIX_EPOCH_S) as u32);
        assert_eq!(time_ms(&good, 7, now - 5), Some(now * 1000 + 500));
        assert_eq!(request(7)[40..], good[24..32]);
        type Spoil = fn(&mut [u8; PACKET_BYTES]);
        let spoils: [Spoil; 5] = [
            |p| p[0] |= 3 << 6,
            |p| p[0] = 4 << 3 | 3,
            |p| p[1] = 0,
            |p| p[1] = 16,
            |p| p[31] ^= 1,
        ];
        for (case, spoil) in spoils.iter().enumerate() {
            let mut bad = good;
            spoil(&mut bad);
            assert_eq!(time_ms(&bad, 7, 0), None, "case {case}");
        }
        assert_eq!(time_ms(&good[..47], 7, 0), None);
        assert_eq!(time_ms(&[], 7, 0), None);
    }

    #[test]
    fn a_server_listens_at_port_123_unless_its_name_says_otherwise() {
        for (server, want) in [
            ("pool.ntp.org", ("pool.ntp.org", 123)),
            ("192.0.2.1:4123", ("192.0.2.1", 4123)),
            ("2001:db8::1", ("2001:db8::1", 123)),
            ("[2001:db8::1]:4123", ("2001:db8::1", 4123)),
            ("[2001:db8::1]", ("2001:db8::1", 123)),
            ("host:", ("host:", 123)),
            ("host:65536", ("host:65536", 123)),
        ] {
            assert_eq!(host_and_port(server), want);
        }
    }

    #[test]
    fn time_goes_on_after_2036() {
        let in_2040 = 2_208_988_800_u64;
        let packet = answer(1, (in_2040 + UNIX_EPOCH_S - ERA_S) as u32);
        assert_eq!(time_ms(&packet, 1, 1_800_000_000), Some(in_2040 * 1000 + 500));
    }
}
