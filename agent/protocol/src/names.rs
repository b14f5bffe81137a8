//! Names and digests, checked once when they come in.

use core::fmt;
use core::str::FromStr;

use heapless::String;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::NAME_BYTES_MAX;

/// The name of a fleet, a device or an app: a DNS label (RFC 1123), 1 to 63 of `a-z`, `0-9` and `-`, no `-` at either end.
///
/// So it can stand in a topic, a path, a client id and a host name without quoting.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String<NAME_BYTES_MAX>);

/// The text is no [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameError;

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a name is 1 to {NAME_BYTES_MAX} of a-z, 0-9 and '-', with no '-' at either end"
        )
    }
}

impl core::error::Error for NameError {}

impl Name {
    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = text
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if text.is_empty() || !allowed || text.starts_with('-') || text.ends_with('-') {
            return Err(NameError);
        }
        String::try_from(text).map(Self).map_err(|_| NameError)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0.as_str(), f)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Through a bounded string, so that both borrowing formats (postcard) and copying ones (JSON) work.
        let text = String::<NAME_BYTES_MAX>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// A SHA-256 digest (OCI image-spec descriptor.md, "Digests"): 32 bytes on the wire, `sha256:<64 hex>` for people.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl FromStr for Digest {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, &'static str> {
        const WANT: &str = "a digest is sha256: and 64 of 0-9 and a-f";
        let hex = text.strip_prefix("sha256:").ok_or(WANT)?.as_bytes();
        if hex.len() != 64 {
            return Err(WANT);
        }
        let nibble = |b: u8| match b {
            b'0'..=b'9' => Ok(b - b'0'),
            b'a'..=b'f' => Ok(b - b'a' + 10),
            _ => Err(WANT),
        };
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
