//! Many short names in one piece of memory: a profile has hundreds, and a String each would take three times as much.

use std::fmt;

use punnet_json::{FromJson, Reader, ToJson, Writer};

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

impl FromJson for Names {
    fn empty() -> Self {
        Self::default()
    }

    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), punnet_json::Error> {
        *self = Self::default();
        reader.array("an array of strings", &mut |reader| {
            self.push(&reader.string()?);
            Ok(())
        })
    }
}

impl ToJson for Names {
    fn write(&self, writer: &mut Writer) {
        writer.array(&mut |writer| self.iter().for_each(|name| writer.element(&name)));
    }

    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Names;

    #[test]
    fn names_come_out_as_they_went_in() {
        let text = r#"["read","","a\u0000b","é","write"]"#;
        let names: Names = punnet_json::from_str(text).unwrap();
        assert_eq!(
            names.iter().collect::<Vec<_>>(),
            ["read", "", "a\0b", "é", "write"]
        );
        assert_eq!(punnet_json::to_string(&names), text);
        assert_eq!(format!("{names:?}"), r#"["read", "", "a\0b", "é", "write"]"#);
        assert!(!names.is_empty() && Names::default().is_empty());
    }

    #[test]
    fn what_is_no_array_of_strings_is_named() {
        for (text, expected) in [
            (r#"["read",1]"#, "a string"),
            (r#""read""#, "an array of strings"),
        ] {
            let error = punnet_json::from_str::<Names>(text).unwrap_err().to_string();
            assert!(error.contains(&format!("expected {expected}")), "{error}");
        }
    }
}
