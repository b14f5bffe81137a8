//! The fleet's Ed25519 key (RFC 8032): what devices accept desired states and commands from.
//!
//! PKCS#8 in one file, 0600. It never leaves this machine; devices get the public half with their enrolment.

use std::fs;

use punnet_protocol::signed::SIGNATURE_BYTES;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::error::{Error, Result};
use crate::state_dir::{StateDir, write_atomic};

/// The fleet's key pair.
pub struct FleetKey(Ed25519KeyPair);

impl FleetKey {
    /// Reads the key; `None` when there is none yet.
    pub fn read(state: &StateDir) -> Result<Option<Self>> {
        let path = state.key();
        let document = match fs::read(&path) {
            Ok(document) => document,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        // `maybe_unchecked`: a PKCS#8 version 1 file, as OpenSSL writes it, has no public key to check against.
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(&document)
            .map(|pair| Some(Self(pair)))
            .map_err(|why| {
                Error::invalid(
                    path.display().to_string(),
                    format!("no Ed25519 key in PKCS#8 ({why})"),
                )
            })
    }

    /// Reads the key, or makes one; true when it is new.
    pub fn read_or_make(state: &StateDir) -> Result<(Self, bool)> {
        match Self::read(state)? {
            Some(key) => Ok((key, false)),
            None => Ok((Self::make(state, false)?, true)),
        }
    }

    /// Makes a new key. An existing one is only replaced when `replace`: every device enrolled with it refuses the new one.
    pub fn make(state: &StateDir, replace: bool) -> Result<Self> {
        let path = state.key();
        if path.exists() && !replace {
            return Err(Error::Conflict(format!(
                "{} is there already; --force replaces it, and then every device must be enrolled again",
                path.display()
            )));
        }
        let failed = || Error::invalid("Ed25519 key", "the system's random numbers are not available");
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| failed())?;
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).map_err(|_| failed())?;
        write_atomic(&path, document.as_ref(), 0o600)?;
        Ok(Self(pair))
    }

    /// The public key in 64 hex digits.
    pub fn public_hex(&self) -> String {
        crate::hex(self.0.public_key().as_ref())
    }

    /// Signs `bytes`.
    pub fn sign(&self, bytes: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.0
            .sign(bytes)
            .as_ref()
            .try_into()
            .expect("an Ed25519 signature has 64 bytes")
    }
}
