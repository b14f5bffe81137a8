//! The enrolment file: what a device needs to find its fleet and to know its word (ARCHITECTURE.md, "Enrolment file").

use std::fs;
use std::path::{Path, PathBuf};

use punnet_protocol::Name;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use crate::broker_url::BrokerUrl;
use crate::db::{devices, settings};
use crate::error::{Error, Result};
use crate::key::FleetKey;
use crate::state_dir::write_atomic;

/// Version of the file's layout.
pub const VERSION: u32 = 1;

/// The file's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolment {
    /// [`VERSION`].
    pub version: u32,
    /// The fleet's name.
    pub fleet: Name,
    /// The device's name.
    pub device: Name,
    /// Where the broker is, without user and password.
    pub broker: String,
    /// For the broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// For the broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// The fleet's public key, 64 hex digits.
    pub fleet_key: String,
    /// Whom to trust for `mqtts://`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// The device's own certificate for mutual TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert_pem: Option<String>,
    /// Its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key_pem: Option<String>,
}

/// What an enrolment is made from, beside what the state directory knows.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The broker; the running or last controller's when not given.
    pub broker: Option<BrokerUrl>,
    /// PEM files for `mqtts://`.
    pub ca: Option<PathBuf>,
    /// The device's certificate and key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Enrols `device`: a new password, whose hash is stored, and the file's content. Enrolling again replaces the password.
pub fn make(connection: &Connection, key: &FleetKey, device: &Name, wish: &Wish) -> Result<Enrolment> {
    let broker = match &wish.broker {
        Some(given) => given.clone(),
        None => stored_broker(connection)?,
    };
    // A login in the URL is one that the external broker knows; otherwise the device's own.
    let (username, password) = match &broker.login {
        Some((user, password)) => {
            devices::enrol(connection, device, Some(password))?;
            (user.clone(), password.clone())
        }
        None => (device.to_string(), devices::enrol(connection, device, None)?),
    };
    let (client_cert_pem, client_key_pem) = match &wish.client {
        Some((certificate, key)) => (Some(read_pem(certificate)?), Some(read_pem(key)?)),
        None => (None, None),
    };
    Ok(Enrolment {
        version: VERSION,
        fleet: settings::fleet(connection, None)?,
        device: device.clone(),
        broker: broker.to_string(),
        username: Some(username),
        password: Some(password),
        fleet_key: key.public_hex(),
        ca_pem: wish.ca.as_deref().map(read_pem).transpose()?,
        client_cert_pem,
        client_key_pem,
    })
}

/// Writes the file, readable by its owner only.
pub fn write(enrolment: &Enrolment, path: &Path) -> Result<()> {
    write_atomic(path, to_json(enrolment)?.as_bytes(), 0o600)
}

/// The file as text.
pub fn to_json(enrolment: &Enrolment) -> Result<String> {
    let mut text =
        serde_json::to_string_pretty(enrolment).map_err(|why| Error::invalid("enrolment file", why))?;
    text.push('\n');
    Ok(text)
}

fn stored_broker(connection: &Connection) -> Result<BrokerUrl> {
    let stored = settings::get(connection, settings::PUBLIC_URL)?.ok_or_else(|| {
        Error::invalid(
            "broker",
            "where devices reach it is not known yet; start `punnet-fleet serve` (with --public-url when it listens on \
             every address), or give --broker mqtt://HOST:PORT",
        )
    })?;
    stored
        .parse()
        .map_err(|why| Error::invalid("broker in the database", why))
}

fn read_pem(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    if !text.contains("-----BEGIN ") {
        return Err(Error::invalid(path.display().to_string(), "it is no PEM file"));
    }
    Ok(text)
}
