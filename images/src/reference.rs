//! Image references by Docker's rules: `[registry/]name[:tag][@digest]`.
//!
//! <https://pkg.go.dev/github.com/distribution/reference>. The familiar short form is the canonical one here: `docker.io/library/x`
//! is `x`, so that a name given in either way is the same name. A name without a registry may as well be a local one.

use crate::{Digest, Error, Result};
use std::fmt;
use std::str::FromStr;

/// Bytes of a whole reference without its digest: it is one file name in the store (NAME_MAX is 255).
pub const REFERENCE_BYTES_MAX: usize = 240;
/// Bytes of a tag: the distribution specification's limit.
pub const TAG_BYTES_MAX: usize = 128;

/// A checked image reference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: Option<String>,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry's host and port, when the reference names one. `None` means Docker Hub, or a local name.
    pub fn registry(&self) -> Option<&str> {
        self.registry.as_deref()
    }

    /// The path in the registry, without `library/` for Docker Hub's own.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag: `latest` when the reference has neither tag nor digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, when the reference has one.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Registry and repository, without tag and digest.
    pub fn name(&self) -> String {
        match &self.registry {
            Some(registry) => format!("{registry}/{}", self.repository),
            None => self.repository.clone(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.name())?;
        if let Some(tag) = &self.tag {
            write!(out, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(out, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = Box<Error>;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why| {
            Box::new(Error::Reference {
                text: text.chars().take(300).collect(),
                why,
            })
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        if rest.len() > REFERENCE_BYTES_MAX {
            return Err(bad("it is longer than 240 bytes"));
        }
        // A colon after the last slash starts the tag; one before it belongs to the registry's port.
        let after_slash = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[after_slash..].find(':') {
            Some(colon) => (
                &rest[..after_slash + colon],
                Some(&rest[after_slash + colon + 1..]),
            ),
            None => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(bad(
                "a tag is letters, digits, `_`, `.` and `-`, at most 128, not starting with `.` or `-`",
            ));
        }
        let (registry, repository) = split_registry(name);
        if registry.is_some_and(|registry| !is_registry(registry)) {
            return Err(bad("the registry is not a host name with an optional port"));
        }
        if repository.is_empty() {
            return Err(bad("the name is empty"));
        }
        if !repository.split('/').all(is_component) {
            return Err(bad(
                "a name is lower-case letters and digits, with single `.`, `_`, `__` or dashes between them",
            ));
        }
        if registry.is_none() && Digest::from_hex(repository).is_some() {
            return Err(bad("64 hex digits are an image id, not a name"));
        }
        let (registry, repository) = familiar(registry, repository);
        let tag = tag.or(digest.is_none().then_some("latest")).map(str::to_owned);
        let reference = Self {
            registry: registry.map(str::to_owned),
            repository: repository.to_owned(),
            tag,
            digest,
        };
        // `:latest` and `docker.io/` may have come to it.
        let tag_bytes = reference.tag.as_ref().map_or(0, |tag| 1 + tag.len());
        if reference.name().len() + tag_bytes > REFERENCE_BYTES_MAX {
            return Err(bad("it is longer than 240 bytes"));
        }
        Ok(reference)
    }
}

/// The first component is a registry when it cannot be part of a name on Docker Hub.
fn split_registry(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (Some(first), rest)
        }
        _ => (None, name),
    }
}

/// Docker Hub's names in their short form, unless that would be read as something else.
fn familiar<'a>(registry: Option<&'a str>, repository: &'a str) -> (Option<&'a str>, &'a str) {
    if !matches!(registry, None | Some("docker.io" | "index.docker.io")) {
        return (registry, repository);
    }
    let short = repository
        .strip_prefix("library/")
        .filter(|rest| !rest.contains('/'))
        .unwrap_or(repository);
    if split_registry(short).0.is_some() || Digest::from_hex(short).is_some() {
        return (Some("docker.io"), repository);
    }
    (None, short)
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=TAG_BYTES_MAX).contains(&tag.len())
        && word(tag.as_bytes()[0])
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !registry.ends_with(']') => (host, Some(port)),
        _ => (registry, None),
    };
    let port_fits =
        port.is_none_or(|port| port.parse::<u16>().is_ok() && port.bytes().all(|b| b.is_ascii_digit()));
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let v6 = |host: &str| {
        host.strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok())
    };
    port_fits && (host.split('.').all(label) || v6(host))
}

/// `[a-z0-9]+` runs joined by `.`, `_`, `__` or any number of dashes.
fn is_component(component: &str) -> bool {
    let alnum = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    if bytes.first().is_none_or(|&b| !alnum(b)) || bytes.last().is_none_or(|&b| !alnum(b)) {
        return false;
    }
    bytes
        .split(|&b| alnum(b))
        .all(|joint| matches!(joint, b"" | b"." | b"_" | b"__") || joint.iter().all(|&b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_take_their_familiar_form() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for (given, shown) in [
            ("hello", "hello:latest"),
            ("hello:1.0", "hello:1.0"),
            ("docker.io/library/busybox", "busybox:latest"),
            ("library/busybox:1", "busybox:1"),
            ("index.docker.io/user/app", "user/app:latest"),
            // Not a host of that name.
            ("docker.io/a.b/c", "docker.io/a.b/c:latest"),
            ("docker.io/localhost/c:1", "docker.io/localhost/c:1"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("[::1]:5000/a:t", "[::1]:5000/a:t"),
            (
                "ghcr.io/home-assistant/core:2026.1",
                "ghcr.io/home-assistant/core:2026.1",
            ),
            ("a--b/c__d.e_f", "a--b/c__d.e_f:latest"),
        ] {
            assert_eq!(given.parse::<Reference>().unwrap().to_string(), shown);
        }
        let with_digest: Reference = format!("app@sha256:{hex}").parse().unwrap();
        assert_eq!(
            (with_digest.tag(), with_digest.digest().map(|d| d.hex())),
            (None, Some(hex.to_owned()))
        );
    }

    #[test]
    fn what_is_not_a_name_is_refused() {
        // With `:latest` it is one byte too long.
        let long = "a".repeat(234);
        for text in [
            "",
            ":tag",
            "Hello",
            "a//b",
            "/a",
            "a/",
            "a:",
            "a:.x",
            "a b",
            "a..b",
            "-a",
            "a-",
            "a___b",
            "a@sha256:00",
            "a:b:c",
            "host.io:port/a",
            "../a",
            "a/../b",
            long.as_str(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_answered_and_what_is_accepted_reads_back_the_same(text in "\\PC{0,60}|[a-z0-9.:/@_-]{0,60}") {
            if let Ok(reference) = text.parse::<Reference>() {
                proptest::prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
            }
        }
    }
}
