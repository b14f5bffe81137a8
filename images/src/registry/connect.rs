//! Connections: direct or through a proxy, plain or with TLS. Plain HTTP is spoken to loopback and private addresses only.

use super::http::{ThroughProxy, Transport, Wire};
use super::proxy::{Proxies, Proxy};
use super::url::Origin;
use crate::{Error, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io;
use std::net::{IpAddr, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// For each address of a name.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// A link on which nothing comes for so long is taken for dead.
pub const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);
/// Older than this code no moment is at which it runs: 2026-01-01. A board without a clock begins in 1970, before any certificate.
const BUILD_FLOOR_S: u64 = 1_767_225_600;

/// Makes connections.
pub struct Connector {
    proxies: Proxies,
    ca_file: Option<PathBuf>,
    clock_floor_s: u64,
    tls: OnceLock<Arc<ClientConfig>>,
}

/// Why there is no connection.
pub enum ConnectError {
    /// Trying again may help.
    Lost(io::Error),
    /// It will not.
    Fatal(Box<Error>),
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

impl Connector {
    /// `clock_floor_s`: Unix time that it certainly is, for boards without a clock; 0 when nothing is known.
    pub fn new(proxies: Proxies, ca_file: Option<PathBuf>, clock_floor_s: u64) -> Self {
        Self {
            proxies,
            ca_file,
            clock_floor_s: clock_floor_s.max(BUILD_FLOOR_S),
            tls: OnceLock::new(),
        }
    }

    /// A connection on which requests to this origin can be sent.
    pub fn connect(&self, origin: &Origin) -> Result<Wire, ConnectError> {
        match self.proxies.proxy_for(origin) {
            None => {
                let stream = connect_tcp(origin, !origin.https)?;
                if origin.https {
                    return Ok(Wire::new(self.handshake(origin, Box::new(stream))?));
                }
                Ok(Wire::new(Box::new(stream)))
            }
            Some(proxy) => {
                let stream = connect_tcp(&proxy.origin, false)?;
                let mut wire = Wire::new(Box::new(stream));
                if origin.https {
                    let tunnel = open_tunnel(wire, proxy, origin)?;
                    return Ok(Wire::new(self.handshake(origin, tunnel)?));
                }
                wire.through_proxy = Some(ThroughProxy {
                    authorization: proxy.authorization.clone(),
                });
                Ok(wire)
            }
        }
    }

    /// TLS over a stream, shaken hands to the end so that a bad certificate is told from a bad link.
    fn handshake(
        &self,
        origin: &Origin,
        mut stream: Box<dyn Transport>,
    ) -> Result<Box<dyn Transport>, ConnectError> {
        let config = match self.tls.get() {
            Some(config) => Arc::clone(config),
            None => {
                let config = self.tls_config().map_err(ConnectError::Fatal)?;
                Arc::clone(self.tls.get_or_init(|| config))
            }
        };
        let distrust = |why: String| {
            ConnectError::Fatal(
                Error::Distrust {
                    origin: origin.to_string(),
                    why,
                }
                .into(),
            )
        };
        let name = ServerName::try_from(origin.host.clone())
            .map_err(|_| distrust("its name is none that a certificate can have".to_owned()))?;
        let mut session = ClientConnection::new(config, name).map_err(|error| distrust(error.to_string()))?;
        while session.is_handshaking() {
            if let Err(error) = session.complete_io(&mut stream) {
                return Err(match tls_error(&error) {
                    Some(rustls::Error::InvalidCertificate(why)) => distrust(format!(
                        "its certificate is not accepted ({why}); if it is your own registry, give its certificate authority with \
                         --ca or `ca_file`"
                    )),
                    Some(rustls::Error::InvalidMessage(_)) => distrust(
                        "it does not speak TLS; if it is a plain HTTP registry on your own network, say so with --insecure or `insecure`"
                            .to_owned(),
                    ),
                    _ => ConnectError::Lost(error),
                });
            }
        }
        Ok(Box::new(StreamOwned::new(session, stream)))
    }

    fn tls_config(&self) -> Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = &self.ca_file {
            add_own(&mut roots, path)?;
        }
        if roots.is_empty() {
            let why = "there is no certificate to check it with: install ca-certificates, or give its certificate authority with --ca";
            return Err(Error::Distrust {
                origin: "the registry".to_owned(),
                why: why.to_owned(),
            }
            .into());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clock = Arc::new(Clock {
            floor_s: self.clock_floor_s,
        });
        let config = ClientConfig::builder_with_details(provider, clock)
            .with_safe_default_protocol_versions()
            .expect("ring has the cipher suites of both versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn add_own(roots: &mut RootCertStore, path: &Path) -> Result<()> {
    let pem = std::fs::read(path).map_err(Error::at("read", path))?;
    let unreadable = || Error::malformed(path.display().to_string(), "it holds no certificate in PEM form");
    let before = roots.len();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|_| unreadable())?;
        roots.add(certificate).map_err(|_| unreadable())?;
    }
    if roots.len() == before {
        return Err(unreadable());
    }
    Ok(())
}

/// The clock, never before a moment that has certainly passed.
#[derive(Debug)]
struct Clock {
    floor_s: u64,
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let now_s = UnixTime::now().as_secs().max(self.floor_s);
        Some(UnixTime::since_unix_epoch(Duration::from_secs(now_s)))
    }
}

fn connect_tcp(origin: &Origin, private_only: bool) -> Result<TcpStream, ConnectError> {
    let mut addresses = (origin.host.as_str(), origin.port).to_socket_addrs()?.peekable();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    let mut is_public = false;
    for address in addresses.by_ref() {
        if private_only && !is_private(address.ip()) {
            is_public = true;
            continue;
        }
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Err(error) => last = error,
            Ok(stream) => {
                stream.set_read_timeout(Some(SILENCE_TIMEOUT))?;
                stream.set_write_timeout(Some(SILENCE_TIMEOUT))?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
        }
    }
    if is_public {
        return Err(ConnectError::Fatal(Error::Distrust {
            origin: origin.to_string(),
            why: "it is not on your own network: HTTP without TLS is spoken to loopback and private addresses only".to_owned(),
        }.into()));
    }
    Err(ConnectError::Lost(last))
}

/// Loopback, RFC 1918, link-local, shared (RFC 6598, which overlay networks use) and unique local addresses.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            v4.is_loopback() || v4.is_private() || v4.is_link_local() || (first == 100 && second & 0xc0 == 64)
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_private(v4.into()),
            None => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
        },
    }
}

/// CONNECT (RFC 9110, 9.3.6): what comes after the answer is the origin's.
fn open_tunnel(mut wire: Wire, proxy: &Proxy, origin: &Origin) -> Result<Box<dyn Transport>, ConnectError> {
    let place = origin.host_and_port();
    let mut request = format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n");
    if let Some(authorization) = &proxy.authorization {
        request += &format!("Proxy-Authorization: {authorization}\r\n");
    }
    request += "\r\n";
    wire.write(request.as_bytes())?;
    let head = wire.read_head()?;
    if !(200..300).contains(&head.status) {
        let why = format!("the proxy {} answers with status {}", proxy.origin, head.status);
        return Err(ConnectError::Lost(io::Error::other(why)));
    }
    Ok(wire.into_stream())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_told_from_public_ones() {
        for (address, expected) in [
            ("127.0.0.1", true),
            ("10.0.0.1", true),
            ("172.31.0.1", true),
            ("172.32.0.1", false),
            ("192.168.1.1", true),
            ("169.254.1.1", true),
            ("100.64.0.1", true),
            ("100.128.0.1", false),
            ("8.8.8.8", false),
            ("::1", true),
            ("fd00::1", true),
            ("fe80::1", true),
            ("2001:db8::1", false),
            ("::ffff:10.0.0.1", true),
            ("::ffff:8.8.8.8", false),
        ] {
            assert_eq!(is_private(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn a_board_without_a_clock_lives_in_the_present() {
        let floor_s = UnixTime::now().as_secs() + 1000;
        assert_eq!(Clock { floor_s }.current_time().unwrap().as_secs(), floor_s);
        assert!(Clock { floor_s: 0 }.current_time().unwrap().as_secs() > BUILD_FLOOR_S);
    }

    #[test]
    fn an_own_authority_must_be_a_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        for text in [
            "",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            std::fs::write(&path, text).unwrap();
            let connector = Connector::new(Proxies::default(), Some(path.clone()), 0);
            let error = connector.tls_config().err().unwrap().to_string();
            assert!(error.contains("ca.pem"), "{error}");
        }
    }
}
