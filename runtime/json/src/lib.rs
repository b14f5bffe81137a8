//! JSON documents of a known shape, in few bytes of code.
//!
//! serde's derives write out, for every type, the whole loop over an object's members, twice, with the ways out of each error; on a device that is a tenth
//! of the binary. Here a type has a table of its members and two functions that give them by number, and one reader and one writer do the rest for all.
//! The words of the errors, their places and the written bytes are `serde_json`'s; the tests hold one beside the other. Numbers with fractions are kept as
//! they are written: nothing here counts with them.
//!
//! What is read: RFC 8259, at most 128 levels deep. Unknown members are skipped, or refused with `deny_unknown_fields`; a member that comes twice is refused.
#![forbid(unsafe_code)]

mod error;
mod map;
mod read;
mod types;
mod value;
mod write;

pub use error::Error;
pub use map::Map;
pub use punnet_json_derive::{FromJson, ToJson};
pub use read::Reader;
pub use value::Value;
pub use write::Writer;

/// What can be read.
pub trait FromJson {
    /// What `read` begins with, and what stays of members that are missing.
    fn empty() -> Self
    where
        Self: Sized;

    /// Reads the next value.
    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), Error>;
}

/// What can be written.
pub trait ToJson {
    /// Writes one value.
    fn write(&self, writer: &mut Writer);

    /// Whether it may be left out, where the type's description says so.
    fn is_empty(&self) -> bool {
        false
    }
}

/// A struct's members, to be read. Derived.
pub trait Object {
    /// Their names.
    fn shape(&self) -> &'static Shape;
    /// One of them, by its place in the shape.
    fn member(&mut self, index: usize) -> &mut dyn FromJson;
}

/// A struct's members, to be written. Derived.
pub trait Members {
    /// Their names.
    fn shape(&self) -> &'static Shape;
    /// One of them, by its place in the shape.
    fn member(&self, index: usize) -> &dyn ToJson;
}

/// What the members of a struct are called.
pub struct Shape {
    /// What is said to be missing where something else stands: `struct` and its name.
    pub expected: &'static str,
    /// Others are errors.
    pub closed: bool,
    /// In the order in which they are written.
    pub fields: &'static [Field],
}

/// One member's description.
pub struct Field {
    key: &'static str,
    required: bool,
    null_is_default: bool,
    skipped_if_empty: bool,
    never_written: bool,
}

impl Field {
    /// For the derives.
    pub const fn new(
        key: &'static str,
        required: bool,
        null_is_default: bool,
        skipped_if_empty: bool,
        never_written: bool,
    ) -> Self {
        Self {
            key,
            required,
            null_is_default,
            skipped_if_empty,
            never_written,
        }
    }
}

/// For the derives: indices come from the shape.
#[cold]
pub fn no_such_member() -> ! {
    unreachable!("members are asked for by their place in the shape")
}

/// Reads a document that is one value.
pub fn from_slice<T: FromJson>(bytes: &[u8]) -> Result<T, Error> {
    let mut value = T::empty();
    read_into(&mut value, bytes)?;
    Ok(value)
}

/// Reads a document that is one value.
pub fn from_str<T: FromJson>(text: &str) -> Result<T, Error> {
    from_slice(text.as_bytes())
}

fn read_into(value: &mut dyn FromJson, bytes: &[u8]) -> Result<(), Error> {
    let mut reader = Reader::new(bytes);
    value.read(&mut reader)?;
    reader.end()
}

/// Writes without blanks.
pub fn to_vec(value: &dyn ToJson) -> Vec<u8> {
    to_string(value).into_bytes()
}

/// Writes indented by two blanks a level.
pub fn to_vec_pretty(value: &dyn ToJson) -> Vec<u8> {
    to_string_pretty(value).into_bytes()
}

/// Writes without blanks.
pub fn to_string(value: &dyn ToJson) -> String {
    let mut writer = Writer::new(false);
    value.write(&mut writer);
    writer.into_text()
}

/// Writes indented by two blanks a level.
pub fn to_string_pretty(value: &dyn ToJson) -> String {
    let mut writer = Writer::new(true);
    value.write(&mut writer);
    writer.into_text()
}

/// What would be written, to be changed or put into other documents.
pub fn to_value(value: &dyn ToJson) -> Value {
    let text = to_vec(value);
    from_slice(&text).unwrap_or_default()
}

/// One more member of a [`Value`] that is an object. For [`json!`].
pub fn insert(object: &mut Map<Value>, key: &str, value: Value) {
    object.insert(key.to_owned(), value);
}

/// Any value of whatever kind, which is skipped; one knows only that it was there.
pub struct Ignored;

impl FromJson for Ignored {
    fn empty() -> Self {
        Self
    }

    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), Error> {
        reader.skip()
    }
}

/// A [`Value`] as it is written, as `serde_json::json!` makes one: objects with literal keys, lists of objects or of expressions, and expressions of what is [`ToJson`].
#[macro_export]
macro_rules! json {
    (null) => {
        $crate::Value::Null
    };
    ({ $($members:tt)* }) => {{
        let mut object = ::std::default::Default::default();
        $crate::json!(@members object $($members)*);
        $crate::Value::Object(object)
    }};
    ([ $({ $($members:tt)* }),+ $(,)? ]) => {
        $crate::Value::Array(::std::vec![$($crate::json!({ $($members)* })),+])
    };
    ([ $($element:expr),* $(,)? ]) => {
        $crate::Value::Array(::std::vec![$($crate::to_value(&$element)),*])
    };
    (@members $object:ident) => {};
    (@members $object:ident $key:literal : null $(, $($rest:tt)*)?) => {
        $crate::insert(&mut $object, $key, $crate::Value::Null);
        $crate::json!(@members $object $($($rest)*)?);
    };
    (@members $object:ident $key:literal : { $($members:tt)* } $(, $($rest:tt)*)?) => {
        $crate::insert(&mut $object, $key, $crate::json!({ $($members)* }));
        $crate::json!(@members $object $($($rest)*)?);
    };
    (@members $object:ident $key:literal : [ $($elements:tt)* ] $(, $($rest:tt)*)?) => {
        $crate::insert(&mut $object, $key, $crate::json!([ $($elements)* ]));
        $crate::json!(@members $object $($($rest)*)?);
    };
    (@members $object:ident $key:literal : $value:expr $(, $($rest:tt)*)?) => {
        $crate::insert(&mut $object, $key, $crate::to_value(&$value));
        $crate::json!(@members $object $($($rest)*)?);
    };
    ($value:expr) => {
        $crate::to_value(&$value)
    };
}
