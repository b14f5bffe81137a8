//! Container ids: checked once at the door, then safe as one component of a path.

use crate::error::{Error, Result};
use std::fmt;

/// Longest id: a cgroup's or a file's name ends at 255 bytes, and we append to it.
pub const ID_BYTES_MAX: usize = 128;

/// A container's name on this machine: letters, digits, `_`, `+`, `-`, `.`, and not `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContainerId(String);

impl ContainerId {
    /// Checks an id.
    pub fn new(id: &str) -> Result<Self> {
        let refuse = |why| {
            Err(Box::new(Error::InvalidId {
                id: id.chars().take(40).collect(),
                why,
            }))
        };
        if id.is_empty() {
            return refuse("it is empty");
        }
        if id.len() > ID_BYTES_MAX {
            return refuse("it is longer than 128 bytes");
        }
        if id == "." || id == ".." {
            return refuse("it names a directory");
        }
        if !id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte))
        {
            return refuse("only letters, digits and _ + - . may be in it");
        }
        Ok(Self(id.to_owned()))
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_harmless_path_component() {
        for good in ["a", "web-1", "A_b+c.d", "0123456789abcdef", "..."] {
            assert!(ContainerId::new(good).is_ok(), "{good}");
        }
        let long = "x".repeat(10 * 1024);
        for bad in ["", ".", "..", "a/b", "a b", "../x", "é", "a\0b", "a\n", &long] {
            let error = ContainerId::new(bad).unwrap_err().to_string();
            assert!(
                error.contains("not a container id") && error.len() < 200,
                "{error}"
            );
        }
    }
}
