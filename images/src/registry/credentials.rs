//! User names and passwords for registries: Punnet's own file (mode 0600), then Docker's config.json. Both have the same form:
//!
//! ```json
//! { "auths": { "registry.example": { "auth": "base64 of user:password" } } }
//! ```
//! Programs that keep passwords for Docker (`credsStore`, `credHelpers`) are not run; where one would be needed that is said.

use super::settings::DOCKER_HUB;
use super::url::split_scheme;
use crate::base64;
use crate::{Error, Result, oci};
use punnet_json::{FromJson, ToJson};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What Docker calls Docker Hub in its file.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// Bits of a file's mode that let others read a password.
const OTHERS_MAY_READ: u32 = 0o077;

/// How one proves who one is.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// For basic authentication, and for asking for a token.
    Password {
        /// Who.
        user: String,
        /// And the proof.
        password: String,
    },
    /// A refresh token, exchanged for an access token.
    IdentityToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Credentials")
    }
}

impl Credentials {
    /// The value of an `Authorization` header; a token that is to be exchanged has none.
    pub fn basic(&self) -> Option<String> {
        let Self::Password { user, password } = self else {
            return None;
        };
        Some(format!(
            "Basic {}",
            base64::encode(format!("{user}:{password}").as_bytes())
        ))
    }
}

/// What was found for a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// These.
    Credentials(Credentials),
    /// They are kept by a program that is not run.
    Helper(String),
    /// None: anonymous.
    Nothing,
}

/// Where to look.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    /// Punnet's own file.
    pub own: Option<PathBuf>,
    /// Docker's.
    pub docker: Option<PathBuf>,
}

#[derive(Default, ToJson, FromJson)]
#[json(rename_all = "camelCase")]
struct ConfigFile {
    #[json(default)]
    auths: BTreeMap<String, Entry>,
    #[json(default, skip_writing)]
    cred_helpers: BTreeMap<String, String>,
    #[json(default, skip_writing)]
    creds_store: Option<String>,
}

#[derive(Default, ToJson, FromJson)]
struct Entry {
    #[json(default, skip_if_empty)]
    auth: String,
    #[json(default, skip_if_empty)]
    identitytoken: String,
}

impl Keyring {
    /// What is known for a registry, the own file first.
    pub fn find(&self, registry: &str) -> Result<Found> {
        let mut found = Found::Nothing;
        for (path, is_own) in [(&self.own, true), (&self.docker, false)] {
            let Some(path) = path else { continue };
            let config = read(path, is_own)?;
            match config.find(registry, path)? {
                Found::Credentials(credentials) => return Ok(Found::Credentials(credentials)),
                Found::Helper(name) => found = Found::Helper(name),
                Found::Nothing => {}
            }
        }
        Ok(found)
    }

    /// Keeps credentials in the own file.
    pub fn add(&self, registry: &str, user: &str, password: &str) -> Result<()> {
        let auth = base64::encode(format!("{user}:{password}").as_bytes());
        self.change(|config| {
            let entry = Entry {
                auth,
                ..Entry::default()
            };
            config.auths.insert(registry.to_owned(), entry);
        })
    }

    /// Forgets those of the own file; tells whether there were any.
    pub fn remove(&self, registry: &str) -> Result<bool> {
        let mut removed = false;
        self.change(|config| removed = config.auths.remove(registry).is_some())?;
        Ok(removed)
    }

    /// Reads, changes, and writes whole or not at all, readable by its owner only.
    fn change(&self, change: impl FnOnce(&mut ConfigFile)) -> Result<()> {
        let path = self.own.as_deref().unwrap_or(Path::new("auth.json"));
        let mut config = read(path, true)?;
        change(&mut config);
        let temporary = path.with_extension(format!("new-{}", std::process::id()));
        let mut options = File::options();
        let file = options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = file.open(&temporary).map_err(Error::at("create", &temporary))?;
        file.write_all(&oci::to_json(&config))
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&temporary, path))
            .map_err(Error::at("write", path))
    }
}

/// No file, no credentials. A file of our own that others may read is refused: what stands in it is no secret any more.
fn read(path: &Path, is_own: bool) -> Result<ConfigFile> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ConfigFile::default()),
        other => other.map_err(Error::at("read", path))?,
    };
    let mode = fs::metadata(path)
        .map_err(Error::at("look at", path))?
        .permissions()
        .mode();
    if is_own && mode & OTHERS_MAY_READ != 0 {
        let why = "others may read it: change the passwords in it if others use this device, then chmod 600";
        return Err(Error::malformed(path.display().to_string(), why));
    }
    oci::parse(&path.display().to_string(), &bytes)
}

impl ConfigFile {
    fn find(&self, registry: &str, path: &Path) -> Result<Found> {
        let fits = |key: &&String| plain_name(key) == registry;
        if let Some(helper) = self.cred_helpers.keys().find(fits) {
            return Ok(Found::Helper(self.cred_helpers[helper].clone()));
        }
        let entry = self
            .auths
            .iter()
            .find(|(key, _)| fits(key))
            .map(|(_, entry)| entry);
        let unreadable = || {
            let why = format!("the entry of {registry} is not base64 of user:password");
            Error::malformed(path.display().to_string(), why)
        };
        match entry {
            Some(entry) if !entry.identitytoken.is_empty() => Ok(Found::Credentials(
                Credentials::IdentityToken(entry.identitytoken.clone()),
            )),
            Some(entry) if !entry.auth.is_empty() => {
                let text = base64::decode(&entry.auth).and_then(|bytes| String::from_utf8(bytes).ok());
                let text = text.ok_or_else(unreadable)?;
                let (user, password) = text.split_once(':').ok_or_else(unreadable)?;
                Ok(Found::Credentials(Credentials::Password {
                    user: user.to_owned(),
                    password: password.trim_end_matches('\0').to_owned(),
                }))
            }
            // Docker leaves an empty entry behind when a helper has the password.
            Some(_) | None if self.creds_store.is_some() => {
                Ok(Found::Helper(self.creds_store.clone().unwrap_or_default()))
            }
            _ => Ok(Found::Nothing),
        }
    }
}

/// A key of `auths` as a registry's name: keys may be URLs.
fn plain_name(key: &str) -> &str {
    if key == DOCKER_HUB_KEY {
        return DOCKER_HUB;
    }
    let rest = split_scheme(key).map_or(key, |(_, rest)| rest);
    match rest.split('/').next().unwrap_or_default() {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
        name => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_file_is_read_by_registry() {
        let json = r#"{
            "auths": {
                "https://index.docker.io/v1/": {"auth": "aHViOmI6Yw=="},
                "https://old.example/v2/": {"auth": "b2xkOng="},
                "token.example": {"auth": "MDAwOg==", "identitytoken": "t"},
                "broken.example": {"auth": "?"},
                "empty.example": {}
            },
            "credHelpers": {"cloud.example": "cloud-login"},
            "HttpHeaders": {"ignored": "yes"}
        }"#;
        let config: ConfigFile = punnet_json::from_str(json).unwrap();
        let password = |user: &str, password: &str| {
            Found::Credentials(Credentials::Password {
                user: user.into(),
                password: password.into(),
            })
        };
        for (registry, expected) in [
            ("docker.io", password("hub", "b:c")),
            ("old.example", password("old", "x")),
            (
                "token.example",
                Found::Credentials(Credentials::IdentityToken("t".into())),
            ),
            ("cloud.example", Found::Helper("cloud-login".into())),
            ("empty.example", Found::Nothing),
            ("other.example", Found::Nothing),
        ] {
            assert_eq!(
                config.find(registry, Path::new("f")).unwrap(),
                expected,
                "{registry}"
            );
        }
        assert!(config.find("broken.example", Path::new("f")).is_err());
    }

    #[test]
    fn the_own_file_is_private_and_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let (own, docker) = (folder.path().join("auth.json"), folder.path().join("config.json"));
        fs::write(
            &docker,
            r#"{"auths":{"a":{"auth":"ZDpk"},"b":{"auth":"ZDpk"}},"credsStore":"s"}"#,
        )
        .unwrap();
        let keyring = Keyring {
            own: Some(own.clone()),
            docker: Some(docker),
        };
        keyring.add("a", "me", "secret").unwrap();
        assert_eq!(fs::metadata(&own).unwrap().permissions().mode() & 0o777, 0o600);
        let user = |registry: &str| match keyring.find(registry).unwrap() {
            Found::Credentials(Credentials::Password { user, .. }) => user,
            other => format!("{other:?}"),
        };
        assert_eq!((user("a"), user("b")), ("me".into(), "d".into()));
        assert_eq!(user("c"), r#"Helper("s")"#);
        assert!(keyring.remove("a").unwrap() && !keyring.remove("a").unwrap());
        assert_eq!(user("a"), "d");
        fs::set_permissions(&own, fs::Permissions::from_mode(0o644)).unwrap();
        let error = keyring.find("a").unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn credentials_are_not_shown() {
        let password = "xyzzy".to_owned();
        let user = password.clone();
        assert!(!format!("{:?}", Credentials::Password { user, password }).contains("xyzzy"));
    }
}
