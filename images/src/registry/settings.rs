//! What the owner of a board says about registries (`registries.json`), and from that: where an image is asked for.
//!
//! ```json
//! { "registries": {
//!     "docker.io":         { "mirrors": ["https://mirror.lan:5000/hub"] },
//!     "registry.lan:5000": { "insecure": true },
//!     "hub.example":       { "ca_file": "/etc/ssl/hub.pem" } } }
//! ```

use super::url::{Origin, Url};
use crate::{Error, Reference, Result, oci};
use punnet_json::FromJson;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The name Docker Hub goes by in references and settings.
pub const DOCKER_HUB: &str = "docker.io";
/// Where Docker Hub answers.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";
/// Mirrors of one registry: each may have to be waited for.
const MIRRORS_MAX: usize = 8;

/// What is known about registries by name (`host[:port]`, `docker.io` for Docker Hub).
#[derive(Clone, Debug, Default, FromJson)]
#[json(deny_unknown_fields)]
pub struct Settings {
    #[json(default)]
    registries: BTreeMap<String, Registry>,
}

/// What is known about one.
#[derive(Clone, Debug, Default, FromJson)]
#[json(deny_unknown_fields)]
pub struct Registry {
    /// Asked first, in this order: URLs, whose path comes before the repository's name.
    #[json(default)]
    pub mirrors: Vec<String>,
    /// Certificates (PEM) to check this one's with, instead of the system's.
    #[json(default)]
    pub ca_file: Option<PathBuf>,
    /// Speak HTTP without TLS. Only to loopback and private addresses.
    #[json(default)]
    pub insecure: Option<bool>,
}

/// One place that may have an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Whose credentials are used: a registry's name.
    pub registry: String,
    /// Who is asked.
    pub origin: Origin,
    /// For which repository.
    pub repository: String,
    /// Certificates to check it with.
    pub ca_file: Option<PathBuf>,
}

impl Settings {
    /// Reads the file; without one there is nothing to know.
    pub fn read(path: &Path) -> Result<Self> {
        match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Error::io("read", path, error)),
            Ok(bytes) => oci::parse(&path.display().to_string(), &bytes),
        }
    }

    /// What is known about this one, to add to it.
    pub fn registry(&mut self, name: &str) -> &mut Registry {
        self.registries.entry(name.to_owned()).or_default()
    }

    /// The registry itself.
    pub fn endpoint(&self, registry: &str, repository: &str) -> Result<Endpoint> {
        let known = self.registries.get(registry);
        let host = if registry == DOCKER_HUB {
            DOCKER_HUB_HOST
        } else {
            registry
        };
        let unreadable = || {
            Box::new(Error::Reference {
                text: registry.to_owned(),
                why: "the registry is not a host name with an optional port",
            })
        };
        let mut origin = Origin::parse(true, host).ok_or_else(unreadable)?;
        let ca_file = known.and_then(|known| known.ca_file.clone());
        // As every engine does: on loopback nobody listens in. Whoever has a certificate there says so.
        let insecure = known.and_then(|known| known.insecure);
        if insecure.unwrap_or(origin.is_loopback() && ca_file.is_none()) {
            origin = Origin::parse(false, host).ok_or_else(unreadable)?;
        }
        Ok(Endpoint {
            registry: registry.to_owned(),
            origin,
            repository: repository.to_owned(),
            ca_file,
        })
    }

    /// Where to ask for an image: mirrors, then the registry itself.
    pub fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>> {
        let (registry, repository) = place(reference);
        let mut endpoints = Vec::new();
        let mirrors = self
            .registries
            .get(registry)
            .map(|known| known.mirrors.as_slice());
        for text in mirrors.unwrap_or_default().iter().take(MIRRORS_MAX) {
            endpoints.push(self.mirror(text, &repository)?);
        }
        endpoints.push(self.endpoint(registry, &repository)?);
        Ok(endpoints)
    }

    fn mirror(&self, text: &str, repository: &str) -> Result<Endpoint> {
        let url = Url::parse(text).filter(|url| !url.target.contains('?'));
        let url =
            url.ok_or_else(|| Error::malformed("registries.json", format!("mirror `{text}` is not a URL")))?;
        let registry = url.origin.authority();
        let prefix = url.target.trim_matches('/');
        let joint = if prefix.is_empty() { "" } else { "/" };
        Ok(Endpoint {
            ca_file: self
                .registries
                .get(&registry)
                .and_then(|known| known.ca_file.clone()),
            registry,
            repository: format!("{prefix}{joint}{repository}"),
            origin: url.origin,
        })
    }
}

impl Endpoint {
    /// A place of the distribution API below the repository: `manifests/TAG`, `blobs/DIGEST`, `blobs/uploads/`.
    pub fn url(&self, below: &str) -> Url {
        self.origin.url(format!("/v2/{}/{below}", self.repository))
    }
}

/// Registry and repository as the registry calls it: Docker Hub's own images are in `library/`.
pub fn place(reference: &Reference) -> (&str, String) {
    let registry = reference.registry().unwrap_or(DOCKER_HUB);
    let repository = reference.repository();
    if registry == DOCKER_HUB && !repository.contains('/') {
        return (registry, format!("library/{repository}"));
    }
    (registry, repository.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(json: &str) -> Settings {
        punnet_json::from_str(json).unwrap()
    }

    #[test]
    fn a_reference_has_its_places() {
        let known = settings(
            r#"{"registries":{
                "docker.io":{"mirrors":["http://mirror.lan:5000/hub/","https://m.example"]},
                "lan:5000":{"insecure":true},
                "localhost:5001":{"ca_file":"/ca.pem"},
                "127.0.0.1:5002":{"insecure":false}}}"#,
        );
        for (reference, expected) in [
            (
                "busybox",
                "http://mirror.lan:5000/v2/hub/library/busybox/x https://m.example/v2/library/busybox/x \
                 https://registry-1.docker.io/v2/library/busybox/x",
            ),
            (
                "user/app:1",
                "http://mirror.lan:5000/v2/hub/user/app/x https://m.example/v2/user/app/x https://registry-1.docker.io/v2/user/app/x",
            ),
            ("ghcr.io/a/b", "https://ghcr.io/v2/a/b/x"),
            ("quay.io/b", "https://quay.io/v2/b/x"),
            ("lan:5000/b", "http://lan:5000/v2/b/x"),
            ("localhost:5000/b", "http://localhost:5000/v2/b/x"),
            ("127.0.0.1/b", "http://127.0.0.1/v2/b/x"),
            ("[::1]:5000/b", "http://[::1]:5000/v2/b/x"),
            ("localhost:5001/b", "https://localhost:5001/v2/b/x"),
            ("127.0.0.1:5002/b", "https://127.0.0.1:5002/v2/b/x"),
        ] {
            let endpoints = known.endpoints(&reference.parse().unwrap()).unwrap();
            let urls: Vec<_> = endpoints
                .iter()
                .map(|endpoint| endpoint.url("x").to_string())
                .collect();
            assert_eq!(urls.join(" "), expected, "{reference}");
        }
    }

    #[test]
    fn a_setting_that_is_not_known_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registries.json");
        fs::write(&path, r#"{"registries":{"a":{"tls_verify":false}}}"#).unwrap();
        let error = Settings::read(&path).unwrap_err().to_string();
        assert!(
            error.contains("tls_verify") && error.contains("registries.json"),
            "{error}"
        );
        assert!(Settings::read(&folder.path().join("absent")).is_ok());
    }
}
