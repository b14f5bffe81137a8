//! Which images may run: a file in the data root. Without the file every image may.
//!
//! ```json
//! { "version": 1,
//!   "keys": { "fleet": "64 hex digits", "vendor": "-----BEGIN PUBLIC KEY-----\n...\n-----END PUBLIC KEY-----\n" },
//!   "rules": [ { "images": "registry.example.org/vendor/", "signed_by": ["vendor"] },
//!              { "images": "localhost/", "unsigned": true },
//!              { "images": "", "signed_by": ["fleet"] } ] }
//! ```
//! The first rule whose `images` an image's name begins with decides; an image that no rule fits is refused, and so is a file that is not understood whole.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use punnet_json::FromJson;

use super::{Evidence, PublicKey};
use crate::oci;
use crate::{Digest, Error, Reference, Result};

/// Name of the file in the data root.
pub const FILE_NAME: &str = "signatures.json";

/// A policy that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    keys: BTreeMap<String, PublicKey>,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    images: String,
    /// Names of keys, any of which suffices; none when the image needs no signature.
    signed_by: Option<Vec<String>>,
}

#[derive(FromJson)]
#[json(deny_unknown_fields)]
struct RawPolicy {
    version: u32,
    #[json(default)]
    keys: BTreeMap<String, String>,
    rules: Vec<RawRule>,
}

#[derive(FromJson)]
#[json(deny_unknown_fields)]
struct RawRule {
    images: String,
    #[json(default)]
    signed_by: Vec<String>,
    #[json(default)]
    unsigned: bool,
}

impl Policy {
    /// The policy of this data root; `None` when there is none.
    pub fn read(data_root: &Path) -> Result<Option<Self>> {
        let path = data_root.join(FILE_NAME);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", &path, error)),
            Ok(bytes) => Self::parse(&bytes).map(Some),
        }
    }

    /// From the file's bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let bad = |why: String| Error::malformed(FILE_NAME, why);
        let raw: RawPolicy = oci::parse(FILE_NAME, bytes)?;
        if raw.version != 1 {
            return Err(bad(format!(
                "its version is {}, this punnet knows 1",
                raw.version
            )));
        }
        let mut keys = BTreeMap::new();
        for (name, text) in raw.keys {
            let key = PublicKey::parse(&text).map_err(|error| bad(format!("key {name}: {error}")))?;
            keys.insert(name, key);
        }
        let mut rules = Vec::new();
        for RawRule {
            images,
            signed_by,
            unsigned,
        } in raw.rules
        {
            if unsigned != signed_by.is_empty() {
                return Err(bad(format!(
                    "the rule for {images:?} needs either `signed_by` or `unsigned`"
                )));
            }
            if let Some(name) = signed_by.iter().find(|name| !keys.contains_key(*name)) {
                return Err(bad(format!(
                    "the rule for {images:?} names a key {name:?} that is not among `keys`"
                )));
            }
            rules.push(Rule {
                images,
                signed_by: (!unsigned).then_some(signed_by),
            });
        }
        Ok(Self { keys, rules })
    }

    /// Refuses an image that may not run. `asked` is the name it is run under; `None` for an image without one, to which only a rule for all applies.
    ///
    /// `vouched` is a key whose signature over the manifest's digest the caller has checked itself: the fleet's, over a desired state.
    pub fn check(
        &self,
        asked: Option<&Reference>,
        manifest: &Digest,
        evidence: &Evidence,
        vouched: Option<&PublicKey>,
    ) -> Result<()> {
        let name = asked.map_or_else(String::new, ToString::to_string);
        let shown = if name.is_empty() {
            manifest.to_string()
        } else {
            name.clone()
        };
        let refused = |why: String| {
            Err(Box::new(Error::Untrusted {
                image: shown.clone(),
                why,
            }))
        };
        let Some(rule) = self.rules.iter().find(|rule| name.starts_with(&rule.images)) else {
            return refused(format!("no rule of {FILE_NAME} fits it"));
        };
        let Some(signed_by) = &rule.signed_by else {
            return Ok(());
        };
        let keys: Vec<&PublicKey> = signed_by.iter().filter_map(|name| self.keys.get(name)).collect();
        if vouched.is_some_and(|key| keys.contains(&key)) || evidence.shows(manifest, &keys) {
            return Ok(());
        }
        let wanted = signed_by.join(" or ");
        if evidence.signatures.is_empty() {
            return refused(format!(
                "it has no signature, and {FILE_NAME} wants one of {wanted}"
            ));
        }
        refused(format!(
            "none of its {} signatures is one of {wanted} over this image, which {FILE_NAME} wants",
            evidence.signatures.len()
        ))
    }
}
