//! The broker's URL: `mqtt://[user:password@]host[:port]` or `mqtts://...`.

use std::fmt;
use std::str::FromStr;

/// A broker as it is reached.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    /// `mqtts`.
    pub tls: bool,
    /// Name or address; an IPv6 address without its brackets.
    pub host: String,
    /// 1883, or 8883 with TLS, when not given.
    pub port: u16,
    /// User and password.
    pub login: Option<(String, String)>,
}

/// Why a text is no broker URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a broker is mqtt://HOST:PORT or mqtts://HOST:PORT, with USER:PASSWORD@ before HOST when it asks for them: {0}"
)]
pub struct BrokerUrlError(&'static str);

impl FromStr for BrokerUrl {
    type Err = BrokerUrlError;

    fn from_str(text: &str) -> Result<Self, BrokerUrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(BrokerUrlError("it has no ://"))?;
        let tls = match scheme {
            "mqtt" => false,
            "mqtts" => true,
            _ => return Err(BrokerUrlError("the scheme is neither mqtt nor mqtts")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // The last @: a password may have one.
        let (login, address) = match rest.rsplit_once('@') {
            Some((login, address)) => {
                let (user, password) = login
                    .split_once(':')
                    .ok_or(BrokerUrlError("the password is missing"))?;
                (
                    Some((percent_decoded(user)?, percent_decoded(password)?)),
                    address,
                )
            }
            None => (None, rest),
        };
        let (host, port) = split_port(address)?;
        if host.is_empty() || host.contains(['/', '?', '#', ' ']) {
            return Err(BrokerUrlError("the host is missing or has a path behind it"));
        }
        let port = match port {
            Some(port) => port
                .parse()
                .map_err(|_| BrokerUrlError("the port is not a number up to 65535"))?,
            None if tls => 8883,
            None => 1883,
        };
        if port == 0 {
            return Err(BrokerUrlError("port 0 cannot be reached"));
        }
        Ok(Self {
            tls,
            host: host.into(),
            port,
            login,
        })
    }
}

/// Without the password: this is what is printed and stored.
impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn split_port(address: &str) -> Result<(&str, Option<&str>), BrokerUrlError> {
    if let Some(rest) = address.strip_prefix('[') {
        let (host, rest) = rest
            .split_once(']')
            .ok_or(BrokerUrlError("the ] after the IPv6 address is missing"))?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(BrokerUrlError("only a port may follow the ]")),
        };
    }
    match address.split_once(':') {
        Some((_, port)) if port.contains(':') => Err(BrokerUrlError("an IPv6 address stands in [ ]")),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((address, None)),
    }
}

fn percent_decoded(text: &str) -> Result<String, BrokerUrlError> {
    const BAD: BrokerUrlError = BrokerUrlError("a % is not followed by two hexadecimal digits");
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).ok_or(BAD);
        let value = digit()? * 16 + digit()?;
        decoded.push(u8::try_from(value).expect("two hexadecimal digits are a byte"));
    }
    String::from_utf8(decoded).map_err(|_| BrokerUrlError("user or password is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart_as_people_write_them() {
        let check = |text: &str, tls, host: &str, port, login: Option<(&str, &str)>| {
            let expected = BrokerUrl {
                tls,
                host: host.into(),
                port,
                login: login.map(|(user, password)| (user.into(), password.into())),
            };
            assert_eq!(text.parse::<BrokerUrl>().unwrap(), expected, "{text}");
        };
        check("mqtt://pi.local", false, "pi.local", 1883, None);
        check("mqtts://pi.local/", true, "pi.local", 8883, None);
        check("mqtt://10.0.0.1:2883", false, "10.0.0.1", 2883, None);
        check("mqtt://[::1]:2883", false, "::1", 2883, None);
        check("mqtts://u:p%40ss:w@h:1", true, "h", 1, Some(("u", "p@ss:w")));
        check("mqtt://u:p@x@h", false, "h", 1883, Some(("u", "p@x")));
    }

    #[test]
    fn what_is_no_broker_is_refused() {
        for bad in [
            "",
            "h",
            "http://h",
            "mqtt://",
            "mqtt://:1",
            "mqtt://h:0",
            "mqtt://h:65536",
            "mqtt://h:x",
            "mqtt://u@h",
            "mqtt://::1:5",
            "mqtt://[::1",
            "mqtt://[::1]x",
            "mqtt://h/path",
            "mqtt://u:%zz@h",
        ] {
            assert!(bad.parse::<BrokerUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_is_never_printed() {
        let url: BrokerUrl = "mqtt://u:secret@h".parse().unwrap();
        assert_eq!(format!("{url} {url:?}"), "mqtt://h:1883 mqtt://h:1883");
    }
}
