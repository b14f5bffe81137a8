//! Bounded text and bounded lists of strings, as they travel and as they are held.

use core::fmt;

use heapless::{String, Vec};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Text of at most `N` bytes.
pub type Text<const N: usize> = String<N>;

/// The longest prefix of `text` that fits, cut at a character boundary.
pub fn clipped<const N: usize>(text: &str) -> Text<N> {
    let mut end = text.len().min(N);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Text::try_from(&text[..end]).unwrap_or_default()
}

/// Strings packed one behind the other, `N` bytes in all, each closed by a NUL byte as execve(2) wants them.
///
/// One bound for the whole list: an app may have many short arguments or a few long ones.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Strings<const N: usize>(Vec<u8, N>);

/// Why a list of strings does not fit its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StringsError {
    /// The strings and their closing NUL bytes take more than `bytes_max`.
    TooLong {
        /// The bound.
        bytes_max: usize,
    },
    /// A string has a NUL byte inside.
    Nul,
}

impl fmt::Display for StringsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { bytes_max } => {
                write!(f, "the strings together are longer than {bytes_max} bytes")
            }
            Self::Nul => f.write_str("a string has a NUL byte inside"),
        }
    }
}

impl core::error::Error for StringsError {}

impl<const N: usize> Strings<N> {
    /// Packs `strings` in order.
    pub fn new<S: AsRef<str>>(strings: impl IntoIterator<Item = S>) -> Result<Self, StringsError> {
        let mut packed = Self::default();
        for string in strings {
            packed.push(string.as_ref())?;
        }
        Ok(packed)
    }

    /// Adds one string at the end; on error the list is as before.
    pub fn push(&mut self, string: &str) -> Result<(), StringsError> {
        if string.bytes().any(|b| b == 0) {
            return Err(StringsError::Nul);
        }
        let before = self.0.len();
        let added = self
            .0
            .extend_from_slice(string.as_bytes())
            .and_then(|()| self.0.extend_from_slice(&[0]));
        if added.is_err() {
            self.0.truncate(before);
            return Err(StringsError::TooLong { bytes_max: N });
        }
        Ok(())
    }

    /// The strings in order.
    pub fn iter(&self) -> StringsIter<'_> {
        StringsIter(&self.0)
    }

    /// True when there is no string.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<const N: usize> fmt::Debug for Strings<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a, const N: usize> IntoIterator for &'a Strings<N> {
    type Item = &'a str;
    type IntoIter = StringsIter<'a>;
    fn into_iter(self) -> StringsIter<'a> {
        self.iter()
    }
}

/// Iterator over [`Strings`].
#[derive(Clone)]
pub struct StringsIter<'a>(&'a [u8]);

impl<'a> Iterator for StringsIter<'a> {
    type Item = &'a str;
    fn next(&mut self) -> Option<&'a str> {
        let end = self.0.iter().position(|&b| b == 0)?;
        let (string, rest) = self.0.split_at(end);
        self.0 = &rest[1..];
        Some(core::str::from_utf8(string).expect("checked when the list was made"))
    }
}

impl<const N: usize> Serialize for Strings<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Strings<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = <&'de [u8]>::deserialize(deserializer)?;
        if bytes.last().is_some_and(|&b| b != 0) {
            return Err(de::Error::custom("a list of strings does not end with NUL"));
        }
        core::str::from_utf8(bytes).map_err(|_| de::Error::custom("a string is not UTF-8"))?;
        Vec::from_slice(bytes)
            .map(Self)
            .map_err(|_| de::Error::custom("the strings are too long"))
    }
}
