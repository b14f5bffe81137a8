//! TLS to the broker: rustls with ring, and a clock that a board without one can trust.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};

use crate::enrolment::Enrolment;
use crate::{AgentError, Result};

/// Older than this code no moment is at which it runs: 2026-01-01.
const BUILD_FLOOR_S: u64 = 1_767_225_600;

/// Seconds since 1970 that it certainly is; shared with whoever learns better.
#[derive(Clone, Debug, Default)]
pub struct TimeFloor(Arc<AtomicU64>);

impl TimeFloor {
    /// It is at least this late.
    pub fn raise(&self, unix_s: u64) {
        self.0.fetch_max(unix_s, Ordering::Relaxed);
    }

    /// The later of the clock and the floor.
    fn now_s(&self, clock_s: u64) -> u64 {
        clock_s.max(self.0.load(Ordering::Relaxed)).max(BUILD_FLOOR_S)
    }
}

impl TimeProvider for TimeFloor {
    fn current_time(&self) -> Option<UnixTime> {
        let clock_s = UnixTime::now().as_secs();
        Some(UnixTime::since_unix_epoch(Duration::from_secs(
            self.now_s(clock_s),
        )))
    }
}

/// The client's side of TLS for an enrolment.
pub fn client_config(enrolment: &Enrolment, floor: &TimeFloor) -> Result<Arc<ClientConfig>> {
    let tls = |error: &dyn std::fmt::Display| Box::new(AgentError::Tls(error.to_string()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_details(provider, Arc::new(floor.clone()))
        .with_safe_default_protocol_versions()
        .map_err(|error| tls(&error))?
        .with_root_certificates(roots(enrolment)?);
    let config = match &enrolment.client_pem {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let certificates =
                CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
            let certificates =
                certificates.map_err(|_| AgentError::Tls("client_cert_pem is not PEM".into()))?;
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
            let key =
                key.map_err(|_| AgentError::Tls("client_key_pem is not a private key in PEM".into()))?;
            builder
                .with_client_auth_cert(certificates, key)
                .map_err(|error| tls(&error))?
        }
    };
    Ok(Arc::new(config))
}

fn roots(enrolment: &Enrolment) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    match &enrolment.ca_pem {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|_| AgentError::Tls("ca_pem is not PEM".into()))?;
                roots
                    .add(certificate)
                    .map_err(|error| AgentError::Tls(format!("ca_pem: {error}")))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        let why = "no certificate to check the broker's with: give ca_pem in the enrolment file, or install ca-certificates";
        return Err(AgentError::Tls(why.into()).into());
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_never_before_the_floor() {
        let floor = TimeFloor::default();
        assert_eq!(floor.now_s(0), BUILD_FLOOR_S);
        floor.raise(BUILD_FLOOR_S + 5);
        floor.raise(7);
        assert_eq!(floor.now_s(0), BUILD_FLOOR_S + 5);
        assert_eq!(floor.now_s(BUILD_FLOOR_S + 9), BUILD_FLOOR_S + 9);
    }

    #[test]
    fn an_enrolment_without_any_trusted_certificate_is_refused() {
        let json = format!(
            r#"{{"version":1,"fleet":"home","device":"k","broker":"mqtts://b","fleet_key":"{}","ca_pem":"x"}}"#,
            "0".repeat(64)
        );
        let enrolment = Enrolment::parse(json.as_bytes()).ok().unwrap();
        let error = client_config(&enrolment, &TimeFloor::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("ca_pem"), "{error}");
    }
}
