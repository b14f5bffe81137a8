//! Any JSON.

use std::ops::Index;

use crate::read::Number;
use crate::{Error, FromJson, Map, Reader, ToJson, Writer};

/// Any JSON, for documents of which not everything is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Value {
    /// `null`
    #[default]
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number as it was written: none is rounded.
    Number(Box<str>),
    /// A string.
    String(String),
    /// A list.
    Array(Vec<Value>),
    /// An object.
    Object(Map<Value>),
}

static NULL: Value = Value::Null;

impl Value {
    /// The member of that name, if this is an object that has it.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.as_object()?.get(key)
    }

    /// The text, if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if this is one and whole.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Number(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// The number, if this is one, whole and not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Number(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// The elements, if this is a list.
    pub fn as_array(&self) -> Option<&Vec<Self>> {
        match self {
            Self::Array(list) => Some(list),
            _ => None,
        }
    }

    /// The members, if this is an object.
    pub fn as_object(&self) -> Option<&Map<Self>> {
        match self {
            Self::Object(map) => Some(map),
            _ => None,
        }
    }

    /// The members, if this is an object.
    pub fn as_object_mut(&mut self) -> Option<&mut Map<Self>> {
        match self {
            Self::Object(map) => Some(map),
            _ => None,
        }
    }
}

/// `null` where there is none.
impl Index<&str> for Value {
    type Output = Self;

    fn index(&self, key: &str) -> &Self {
        self.get(key).unwrap_or(&NULL)
    }
}

impl FromJson for Value {
    fn empty() -> Self {
        Self::Null
    }

    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), Error> {
        *self = match reader.peek() {
            Some(b't' | b'f') => Self::Bool(reader.bool()?),
            Some(b'"') => Self::String(reader.string()?.into_owned()),
            Some(b'-' | b'0'..=b'9') => Self::Number(match reader.number()? {
                Number::Whole { text, .. } | Number::Other(text) => text.into(),
            }),
            Some(b'[') => {
                let mut list = Vec::new();
                list.read(reader)?;
                Self::Array(list)
            }
            Some(b'{') => {
                let mut map = Map::new();
                map.read(reader)?;
                Self::Object(map)
            }
            _ if reader.null()? => Self::Null,
            _ => return Err(reader.not_expected("any valid JSON value")),
        };
        Ok(())
    }
}

impl ToJson for Value {
    fn write(&self, writer: &mut Writer) {
        match self {
            Self::Null => writer.plain("null"),
            Self::Bool(value) => value.write(writer),
            Self::Number(text) => writer.plain(text),
            Self::String(text) => writer.string(text),
            Self::Array(list) => list.write(writer),
            Self::Object(map) => map.write(writer),
        }
    }
}
