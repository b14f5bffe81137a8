//! `http` and `https` URLs, as far as a registry client needs them. Parsed once: what comes out has no byte that could end a header line.
//!
//! <https://www.rfc-editor.org/rfc/rfc3986>

use std::fmt;

/// Bytes of a URL: signed links of storage services take some 2 KiB.
const URL_BYTES_MAX: usize = 8 * 1024;

/// Who is spoken to: scheme, host and port. Credentials belong to one origin and never go to another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// TLS.
    pub https: bool,
    /// In lower case; an IPv6 address without its brackets.
    pub host: String,
    /// The scheme's own when none was given.
    pub port: u16,
}

/// A URL without user and fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Who is asked.
    pub origin: Origin,
    /// For what: path and query, beginning with a slash.
    pub target: String,
}

impl Origin {
    /// From `host[:port]`.
    pub fn parse(https: bool, authority: &str) -> Option<Self> {
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                let port = match rest {
                    "" => None,
                    rest => Some(rest.strip_prefix(':')?),
                };
                (host, port)
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let is_host = |host: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
            !host.is_empty() && host.len() <= 253 && host.bytes().all(fits)
        };
        let default = if https { 443 } else { 80 };
        let port = match port {
            None | Some("") => default,
            Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
                digits.parse().ok().filter(|&port| port > 0)?
            }
            Some(_) => return None,
        };
        is_host(host).then(|| Self {
            https,
            host: host.to_ascii_lowercase(),
            port,
        })
    }

    /// `host[:port]` as the `Host` header has it.
    pub fn authority(&self) -> String {
        let default = if self.https { 443 } else { 80 };
        if self.port == default {
            self.bracketed()
        } else {
            format!("{}:{}", self.bracketed(), self.port)
        }
    }

    /// `host:port`, the port always: what a proxy is asked to connect to.
    pub fn host_and_port(&self) -> String {
        format!("{}:{}", self.bracketed(), self.port)
    }

    fn bracketed(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        }
    }

    /// `localhost` and loopback addresses.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self
                .host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }

    /// A place there.
    pub fn url(&self, target: impl Into<String>) -> Url {
        Url {
            origin: self.clone(),
            target: target.into(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(out, "{scheme}://{}", self.authority())
    }
}

impl Url {
    /// An absolute URL. One that carries a user name is none: credentials come from where they are kept.
    pub fn parse(text: &str) -> Option<Self> {
        let (https, rest) = split_scheme(text)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let origin = Origin::parse(https, &rest[..end])?;
        Some(Self {
            origin,
            target: target(&rest[end..])?,
        })
    }

    /// Where a `Location` header seen here points to.
    pub fn join(&self, location: &str) -> Option<Self> {
        if split_scheme(location).is_some() {
            return Self::parse(location);
        }
        if let Some(rest) = location.strip_prefix("//") {
            let scheme = if self.origin.https { "https" } else { "http" };
            return Self::parse(&format!("{scheme}://{rest}"));
        }
        let path = self.target.split('?').next().unwrap_or_default();
        let folder = &path[..path.rfind('/').map_or(0, |slash| slash + 1)];
        let joined = match location.as_bytes().first()? {
            b'/' => location.to_owned(),
            b'?' => format!("{path}{location}"),
            _ => format!("{folder}{location}"),
        };
        Some(self.origin.url(target(&joined)?))
    }

    /// With one more parameter in its query.
    pub fn with_parameter(&self, name: &str, value: &str) -> Self {
        let joint = if self.target.contains('?') { '&' } else { '?' };
        self.origin
            .url(format!("{}{joint}{name}={}", self.target, escape(value)))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A signed link's query is as good as a password: it is not for error messages.
        let path = self.target.split('?').next().unwrap_or_default();
        write!(out, "{}{path}", self.origin)
    }
}

/// `https://x` is TLS and `x`.
pub fn split_scheme(text: &str) -> Option<(bool, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    match scheme.to_ascii_lowercase().as_str() {
        "https" => Some((true, rest)),
        "http" => Some((false, rest)),
        _ => None,
    }
}

/// Path and query, checked, without a fragment.
fn target(text: &str) -> Option<String> {
    let text = text.split('#').next().unwrap_or_default();
    let fits = text.len() <= URL_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| match text.as_bytes().first() {
        Some(b'/') => text.to_owned(),
        _ => format!("/{text}"),
    })
}

/// Percent-encodes what has a meaning in a query. Colons and slashes have none there.
pub fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:/,".contains(&byte) {
            escaped.push(byte as char);
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(url: &Url) -> String {
        format!("{}{}", url.origin, url.target)
    }

    #[test]
    fn urls_are_read_or_refused() {
        for (text, expected) in [
            ("https://Example.org", Some("https://example.org/")),
            ("http://a:80/x?y=z#f", Some("http://a/x?y=z")),
            ("https://[::1]:5000/v2/", Some("https://[::1]:5000/v2/")),
            ("https://a?x", Some("https://a/?x")),
            ("ftp://a/", None),
            ("https://", None),
            ("https://user:password@a/", None),
            ("https://a:b/", None),
            ("https://a:0/", None),
            ("https://a:70000/", None),
            ("https://a/\r\nX: y", None),
            ("https://a/ b", None),
            ("https://[::1", None),
            ("//a/", None),
        ] {
            assert_eq!(
                Url::parse(text).as_ref().map(whole).as_deref(),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn a_location_is_joined_to_where_it_was_seen() {
        let base = Url::parse("https://r.example:5000/v2/x/blobs/uploads/?a=b").unwrap();
        for (location, expected) in [
            ("http://other/y", Some("http://other/y")),
            ("//other/y", Some("https://other/y")),
            ("/y?z", Some("https://r.example:5000/y?z")),
            ("y", Some("https://r.example:5000/v2/x/blobs/uploads/y")),
            ("?c=d", Some("https://r.example:5000/v2/x/blobs/uploads/?c=d")),
            ("", None),
            ("/\n", None),
        ] {
            assert_eq!(
                base.join(location).as_ref().map(whole).as_deref(),
                expected,
                "{location}"
            );
        }
        assert_eq!(
            base.with_parameter("digest", "sha256:0 &").target,
            "/v2/x/blobs/uploads/?a=b&digest=sha256:0%20%26"
        );
    }

    proptest::proptest! {
        #[test]
        fn what_is_accepted_reads_back_the_same(text in "https?://[a-z0-9.:\\[\\]]{0,20}[/?#a-z ]{0,20}|\\PC{0,40}") {
            if let Some(url) = Url::parse(&text) {
                let again = Url::parse(&whole(&url));
                proptest::prop_assert_eq!(again.as_ref(), Some(&url));
            }
        }
    }
}
