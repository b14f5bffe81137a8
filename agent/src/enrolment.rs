//! The enrolment file: which fleet this device belongs to and how it reaches the broker. The format is in ARCHITECTURE.md.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use punnet_json::FromJson;
use punnet_protocol::{Digest, Name};

use crate::{AgentError, Result};

/// An enrolment file holds three PEM texts at most.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// A checked enrolment. It has no `Debug`: it carries secrets.
#[derive(Clone, PartialEq)]
pub struct Enrolment {
    /// The fleet.
    pub fleet: Name,
    /// This device.
    pub device: Name,
    /// Where the broker is.
    pub broker: Broker,
    /// User name and password for it.
    pub login: Option<(String, String)>,
    /// Ed25519 public key of the fleet.
    pub fleet_key: [u8; 32],
    /// Certificates trusted to sign the broker's, in PEM; those of the system when `None`.
    pub ca_pem: Option<String>,
    /// Certificate and key of this device, in PEM.
    pub client_pem: Option<(String, String)>,
}

/// Where a broker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Name or address; an IPv6 address without its brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// `mqtts://`
    pub tls: bool,
}

#[derive(FromJson)]
#[json(deny_unknown_fields)]
struct RawEnrolment {
    version: u32,
    fleet: String,
    device: String,
    broker: String,
    username: Option<String>,
    password: Option<String>,
    fleet_key: String,
    ca_pem: Option<String>,
    client_cert_pem: Option<String>,
    client_key_pem: Option<String>,
}

impl Enrolment {
    /// Reads and checks a file that nobody but its owner may read.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&read_private(path)?).map_err(|why| {
            AgentError::Enrolment {
                path: path.into(),
                why,
            }
            .into()
        })
    }

    /// Checks the content of a file.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let raw: RawEnrolment = punnet_json::from_slice(json).map_err(|error| error.to_string())?;
        if raw.version != 1 {
            return Err(format!(
                "version {} is not known to this agent, only 1",
                raw.version
            ));
        }
        let name = |key: &str, text: &str| text.parse::<Name>().map_err(|why| format!("{key}: {why}"));
        let (fleet, device) = (name("fleet", &raw.fleet)?, name("device", &raw.device)?);
        let broker: Broker = parse_broker(&raw.broker)?;
        let login = match (raw.username, raw.password) {
            (Some(username), password) => Some((username, password.unwrap_or_default())),
            (None, None) => None,
            (None, Some(_)) => return Err("a password without a username".into()),
        };
        let client_pem = match (raw.client_cert_pem, raw.client_key_pem) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err("client_cert_pem and client_key_pem go together".into()),
        };
        if !broker.tls && (raw.ca_pem.is_some() || client_pem.is_some()) {
            return Err("certificates are for mqtts://, the broker's address begins with mqtt://".into());
        }
        let fleet_key = format!("sha256:{}", raw.fleet_key)
            .parse()
            .map(|Digest(bytes)| bytes);
        let fleet_key = fleet_key.map_err(|_| "fleet_key is 64 of 0-9 and a-f")?;
        Ok(Self {
            fleet,
            device,
            broker,
            login,
            fleet_key,
            ca_pem: raw.ca_pem,
            client_pem,
        })
    }

    /// The enrolment to use: `given`, which is kept for the next time, or the one kept.
    pub fn take_up(given: Option<&Path>, kept: &Path) -> Result<Self> {
        let Some(given) = given else {
            return match fs::exists(kept) {
                Ok(false) => Err(AgentError::NotEnrolled { path: kept.into() }.into()),
                _ => Self::read(kept),
            };
        };
        let enrolment = Self::read(given)?;
        let content = read_private(given)?;
        if fs::read(kept).ok().as_deref() != Some(&content) {
            write_private(kept, &content)?;
        }
        Ok(enrolment)
    }
}

fn parse_broker(url: &str) -> Result<Broker, String> {
    let (tls, rest) = match (url.strip_prefix("mqtt://"), url.strip_prefix("mqtts://")) {
        (Some(rest), _) => (false, rest),
        (_, Some(rest)) => (true, rest),
        _ => return Err(format!("broker {url:?} does not begin with mqtt:// or mqtts://")),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let wrong = || format!("broker {url:?} is not mqtt://HOST[:PORT]");
    let (host, port) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or_else(wrong)?;
            (
                host,
                if after.is_empty() {
                    None
                } else {
                    Some(after.strip_prefix(':').ok_or_else(wrong)?)
                },
            )
        }
        None => rest
            .split_once(':')
            .map_or((rest, None), |(host, port)| (host, Some(port))),
    };
    let port = match port {
        Some(port) => port.parse().map_err(|_| wrong())?,
        None if tls => 8883,
        None => 1883,
    };
    if host.is_empty() || host.contains(['/', '@', '?', '#', ' ']) {
        return Err(wrong());
    }
    Ok(Broker {
        host: host.to_owned(),
        port,
        tls,
    })
}

fn read_private(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(AgentError::file("read", path))?;
    let metadata = file.metadata().map_err(AgentError::file("read", path))?;
    let wrong = |why: &str| {
        Box::new(AgentError::Enrolment {
            path: path.into(),
            why: why.to_owned(),
        })
    };
    if metadata.mode() & 0o077 != 0 {
        return Err(wrong("others may read its secrets; run `chmod 600` on it"));
    }
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut content)
        .map_err(AgentError::file("read", path))?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(wrong("it is larger than 64 KiB"));
    }
    Ok(content)
}

fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(AgentError::file("write", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn json(change: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) -> Vec<u8> {
        let text = format!(
            r#"{{"version":1,"fleet":"home","device":"kitchen","broker":"mqtt://192.0.2.7:1884","fleet_key":"{KEY}"}}"#
        );
        let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
        change(value.as_object_mut().unwrap());
        serde_json::to_vec(&value).unwrap()
    }

    #[test]
    fn the_least_enrolment_is_read() {
        let enrolment = Enrolment::parse(&json(|_| {})).ok().unwrap();
        assert_eq!(
            enrolment.broker,
            Broker {
                host: "192.0.2.7".into(),
                port: 1884,
                tls: false
            }
        );
        assert_eq!((enrolment.fleet_key[0], enrolment.fleet_key[1]), (0x00, 0x11));
        assert!(enrolment.login.is_none() && enrolment.client_pem.is_none());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (key, value, why) in [
            ("version", serde_json::json!(2), "version 2"),
            ("fleet", serde_json::json!("Home"), "a name is"),
            ("broker", serde_json::json!("http://x"), "mqtt://"),
            ("broker", serde_json::json!("mqtt://"), "HOST"),
            ("broker", serde_json::json!("mqtt://a:b"), "HOST"),
            ("broker", serde_json::json!("mqtt://user@a"), "HOST"),
            ("fleet_key", serde_json::json!(&KEY[1..]), "fleet_key"),
            ("password", serde_json::json!("x"), "without a username"),
            ("client_key_pem", serde_json::json!("x"), "go together"),
            ("ca_pem", serde_json::json!("x"), "mqtts://"),
            ("surprise", serde_json::json!(1), "surprise"),
        ] {
            let error = Enrolment::parse(&json(|map| drop(map.insert(key.into(), value))))
                .err()
                .unwrap();
            assert!(error.contains(why), "{error:?} does not say {why:?}");
        }
    }

    #[test]
    fn brokers_have_default_ports_and_bracketed_addresses() {
        for (url, host, port, tls) in [
            ("mqtt://broker", "broker", 1883, false),
            ("mqtts://broker/", "broker", 8883, true),
            ("mqtt://[2001:db8::1]:99", "2001:db8::1", 99, false),
            ("mqtts://[::1]", "::1", 8883, true),
        ] {
            assert_eq!(
                parse_broker(url).unwrap(),
                Broker {
                    host: host.into(),
                    port,
                    tls
                },
                "{url}"
            );
        }
    }

    #[test]
    fn a_file_others_may_read_is_refused_and_a_private_one_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (given, kept) = (folder.path().join("given.json"), folder.path().join("kept.json"));
        fs::write(&given, json(|_| {})).unwrap();
        let error = Enrolment::take_up(None, &kept).err().unwrap();
        assert!(matches!(*error, AgentError::NotEnrolled { .. }));
        fs::set_permissions(&given, fs::Permissions::from_mode(0o640)).unwrap();
        let error = Enrolment::take_up(Some(&given), &kept).err().unwrap().to_string();
        assert!(error.contains("chmod 600") && !kept.exists(), "{error}");
        fs::set_permissions(&given, fs::Permissions::from_mode(0o600)).unwrap();
        Enrolment::take_up(Some(&given), &kept).ok().unwrap();
        fs::remove_file(&given).unwrap();
        assert!(Enrolment::take_up(None, &kept).is_ok());
        assert_eq!(fs::metadata(&kept).unwrap().mode() & 0o777, 0o600);
    }
}
