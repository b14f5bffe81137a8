//! Many short names in one piece of memory: a profile has hundreds, and a String each would take three times as much.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A list of names, in JSON an array of strings.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Names {
    text: String,
    /// Where in the text each name ends.
    ends: Vec<usize>,
}

impl Names {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// All, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let mut start = 0;
        self.ends
            .iter()
            .map(move |&end| &self.text[std::mem::replace(&mut start, end)..end])
    }

    fn push(&mut self, name: &str) {
        self.text.push_str(name);
        self.ends.push(self.text.len());
    }
}

impl<'a> FromIterator<&'a str> for Names {
    fn from_iter<I: IntoIterator<Item = &'a str>>(names: I) -> Self {
        let mut all = Self::default();
        names.into_iter().for_each(|name| all.push(name));
        all
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Serialize for Names {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(List)
    }
}

struct List;

impl<'de> Visitor<'de> for List {
    type Value = Names;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of strings")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Names, A::Error> {
        let mut names = Names::default();
        while list.next_element_seed(Next(&mut names))?.is_some() {}
        Ok(names)
    }
}

/// Takes one name straight from the text that is read.
struct Next<'a>(&'a mut Names);

impl<'de> DeserializeSeed<'de> for Next<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Next<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, name: &str) -> Result<(), E> {
        self.0.push(name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Names;

    #[test]
    fn names_come_out_as_they_went_in() {
        let text = r#"["read","","a\u0000b","é","write"]"#;
        let names: Names = serde_json::from_str(text).unwrap();
        assert_eq!(
            names.iter().collect::<Vec<_>>(),
            ["read", "", "a\0b", "é", "write"]
        );
        assert_eq!(serde_json::to_string(&names).unwrap(), text);
        assert_eq!(format!("{names:?}"), r#"["read", "", "a\0b", "é", "write"]"#);
        assert!(!names.is_empty() && Names::default().is_empty());
    }

    #[test]
    fn what_is_no_array_of_strings_is_named() {
        for (text, expected) in [
            (r#"["read",1]"#, "a string"),
            (r#""read""#, "an array of strings"),
        ] {
            let error = serde_json::from_str::<Names>(text).unwrap_err().to_string();
            assert!(error.contains(&format!("expected {expected}")), "{error}");
        }
    }
}
