//! Proxies by environment, by the rules of Go's programs, which Docker's users know: `http_proxy`, `https_proxy` and `no_proxy`, in lower or
//! upper case. Loopback is never asked for through a proxy.
//!
//! <https://pkg.go.dev/golang.org/x/net/http/httpproxy>

use super::url::{Origin, split_scheme};
use crate::base64;
use crate::{Error, Result};
use std::net::IpAddr;

/// A proxy and how to prove who one is.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Where it is: spoken to by HTTP.
    pub origin: Origin,
    /// Value of the `Proxy-Authorization` header.
    pub authorization: Option<String>,
}

/// What the environment says.
#[derive(Clone, Default)]
pub struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    none: Vec<String>,
}

impl Proxies {
    /// From the process's environment.
    pub fn from_environment() -> Result<Self> {
        Self::from(|name| std::env::var(name).ok())
    }

    /// From any.
    pub fn from(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let find = |name: &str| {
            let lower = variable(name).filter(|value| !value.is_empty());
            lower.or_else(|| variable(&name.to_ascii_uppercase()).filter(|value| !value.is_empty()))
        };
        let proxy = |name: &str| match find(name) {
            Some(text) => parse(name, &text).map(Some),
            None => Ok(None),
        };
        let none = find("no_proxy").unwrap_or_default();
        Ok(Self {
            http: proxy("http_proxy")?,
            https: proxy("https_proxy")?,
            none: none
                .split(',')
                .map(|entry| entry.trim().to_ascii_lowercase())
                .filter(|entry| !entry.is_empty())
                .collect(),
        })
    }

    /// The proxy to go through.
    pub fn proxy_for(&self, origin: &Origin) -> Option<&Proxy> {
        let proxy = if origin.https { &self.https } else { &self.http };
        let direct = origin.is_loopback() || self.none.iter().any(|entry| is_meant(entry, origin));
        proxy.as_ref().filter(|_| !direct)
    }
}

fn parse(name: &str, text: &str) -> Result<Proxy> {
    let unreadable = || {
        Box::new(Error::Unsupported {
            what: format!("the proxy of {name}"),
            why: "write http://[user:password@]host[:port]".to_owned(),
        })
    };
    let rest = match split_scheme(text) {
        Some((false, rest)) => rest,
        None if !text.contains("://") => text,
        _ => return Err(unreadable()),
    };
    let rest = rest.split('/').next().unwrap_or_default();
    let (user, authority) = match rest.rsplit_once('@') {
        Some((user, authority)) => (Some(user), authority),
        None => (None, rest),
    };
    Ok(Proxy {
        origin: Origin::parse(false, authority).ok_or_else(unreadable)?,
        authorization: user.map(|user| format!("Basic {}", base64::encode(&unescape(user)))),
    })
}

/// Percent-decodes a user name and a password.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = (first == b'%')
            .then(|| after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok()))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    bytes
}

/// Whether an entry of `no_proxy` means this origin: `*`, a domain and what is below it, `.domain` for only what is below, an address, a
/// range of addresses, each but the range with an optional port.
fn is_meant(entry: &str, origin: &Origin) -> bool {
    let address = origin.host.parse::<IpAddr>().ok();
    if let Some((network, bits)) = entry.split_once('/') {
        let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else {
            return false;
        };
        return address.is_some_and(|address| same_network(network, address, bits));
    }
    let (name, port) = match entry.rsplit_once(':') {
        Some((name, port)) if entry.parse::<IpAddr>().is_err() => (name, port.parse::<u16>().ok()),
        _ => (entry, None),
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    if port.is_some_and(|port| port != origin.port) {
        return false;
    }
    let name = name.strip_prefix('*').unwrap_or(name);
    match name.strip_prefix('.') {
        _ if name.is_empty() => true,
        Some(_) => origin.host.ends_with(name),
        None => {
            let below = || {
                origin
                    .host
                    .strip_suffix(name)
                    .is_some_and(|rest| rest.ends_with('.'))
            };
            origin.host == name || (address.is_none() && below())
        }
    }
}

fn same_network(network: IpAddr, address: IpAddr, bits: u32) -> bool {
    let (network, address, width) = match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            (u128::from(network.to_bits()), u128::from(address.to_bits()), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => (network.to_bits(), address.to_bits(), 128),
        _ => return false,
    };
    bits <= width && (network ^ address).checked_shr(width - bits).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::url::Url;

    #[test]
    fn the_environment_decides_who_goes_through_a_proxy() {
        let proxies = |none: &str| {
            let none = none.to_owned();
            Proxies::from(move |name| match name {
                "http_proxy" => Some("proxy.lan:3128".into()),
                "HTTPS_PROXY" => Some("http://us%65r:p%40ss@proxy.lan:3129/".into()),
                "no_proxy" => Some(none.clone()),
                _ => None,
            })
            .unwrap()
        };
        for (none, url, expected) in [
            ("", "http://a.example", Some(3128)),
            ("", "https://a.example", Some(3129)),
            ("", "http://localhost:5000", None),
            ("", "https://127.0.0.7", None),
            ("", "https://[::1]", None),
            ("*", "https://a.example", None),
            ("a.example", "https://a.example", None),
            ("a.example", "https://b.a.example", None),
            ("a.example", "https://ba.example", Some(3129)),
            (".a.example", "https://a.example", Some(3129)),
            (".a.example", "https://b.a.example", None),
            ("*.a.example", "https://b.a.example", None),
            ("x, A.example:5000", "https://a.example:5000", None),
            ("a.example:5000", "https://a.example", Some(3129)),
            ("10.0.0.0/8", "https://10.1.2.3", None),
            ("10.0.0.0/8", "https://11.1.2.3", Some(3129)),
            ("10.1.2.3", "https://10.1.2.3", None),
            ("2.3", "https://10.1.2.3", Some(3129)),
            ("0.0.0.0/0", "https://10.1.2.3", None),
            ("fd00::/8", "https://[fd12::1]", None),
            ("10.0.0.0/99", "https://10.1.2.3", Some(3129)),
        ] {
            let origin = Url::parse(url).unwrap().origin;
            let proxies = proxies(none);
            let found = proxies.proxy_for(&origin).map(|proxy| proxy.origin.port);
            assert_eq!(found, expected, "{url} with no_proxy={none}");
        }
        let proxies = proxies("");
        let https = proxies.https.unwrap();
        assert_eq!(
            https.authorization.unwrap(),
            format!("Basic {}", base64::encode(b"user:p@ss"))
        );
    }

    #[test]
    fn a_proxy_that_is_none_of_ours_is_refused_without_its_password() {
        for text in ["https://user:pw@p", "socks5://user:pw@p", "http://user:pw@p:x"] {
            let error = Proxies::from(|_| Some(text.into())).err().unwrap().to_string();
            assert!(error.contains("http_proxy") && !error.contains("pw@"), "{error}");
        }
    }
}
