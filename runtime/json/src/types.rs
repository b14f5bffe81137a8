//! What is read and written of the standard library's types.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::{Error, FromJson, Reader, ToJson, Writer};

type Result<T> = std::result::Result<T, Error>;

macro_rules! integers {
    ($($type:ident)*) => {$(
        impl FromJson for $type {
            fn empty() -> Self {
                0
            }
            fn read(&mut self, reader: &mut Reader<'_>) -> Result<()> {
                let least = ($type::MIN as i64).unsigned_abs();
                // The range was checked.
                *self = reader.integer(least, $type::MAX as u64, stringify!($type))? as $type;
                Ok(())
            }
        }
        impl ToJson for $type {
            fn write(&self, writer: &mut Writer) {
                #[allow(unused_comparisons)]
                let is_negative = *self < 0;
                let bits = *self as u64;
                writer.number(is_negative, if is_negative { bits.wrapping_neg() } else { bits });
            }
            fn is_empty(&self) -> bool {
                *self == 0
            }
        }
    )*};
}

integers!(u8 u16 u32 u64 usize i8 i16 i32 i64);

impl FromJson for bool {
    fn empty() -> Self {
        false
    }
    fn read(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        *self = reader.bool()?;
        Ok(())
    }
}

impl ToJson for bool {
    fn write(&self, writer: &mut Writer) {
        writer.plain(if *self { "true" } else { "false" });
    }
    fn is_empty(&self) -> bool {
        !self
    }
}

impl ToJson for () {
    fn write(&self, writer: &mut Writer) {
        writer.plain("null");
    }
}

impl FromJson for String {
    fn empty() -> Self {
        Self::new()
    }
    fn read(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        *self = reader.string()?.into_owned();
        Ok(())
    }
}

impl ToJson for String {
    fn write(&self, writer: &mut Writer) {
        writer.string(self);
    }
    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl ToJson for str {
    fn write(&self, writer: &mut Writer) {
        writer.string(self);
    }
    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl FromJson for PathBuf {
    fn empty() -> Self {
        Self::new()
    }
    fn read(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        *self = reader.string_for("path string")?.into_owned().into();
        Ok(())
    }
}

/// What is not UTF-8 in it is replaced.
impl ToJson for Path {
    fn write(&self, writer: &mut Writer) {
        writer.string(&self.to_string_lossy());
    }
}

impl ToJson for PathBuf {
    fn write(&self, writer: &mut Writer) {
        self.as_path().write(writer);
    }
}

impl<T: ToJson + ?Sized> ToJson for &T {
    fn write(&self, writer: &mut Writer) {
        (**self).write(writer);
    }
    fn is_empty(&self) -> bool {
        (**self).is_empty()
    }
}

impl<T: FromJson> FromJson for Box<T> {
    fn empty() -> Self {
        Self::new(T::empty())
    }
    fn read(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        (**self).read(reader)
    }
}

impl<T: ToJson + ?Sized> ToJson for Box<T> {
    fn write(&self, writer: &mut Writer) {
        (**self).write(writer);
    }
    fn is_empty(&self) -> bool {
        (**self).is_empty()
    }
}

impl<T: FromJson> FromJson for Option<T> {
    fn empty() -> Self {
        None
    }
    fn read(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        if reader.null()? {
            *self = None;
            return Ok(());
        }
        self.insert(T::empty()).read(reader)
    }
}

impl<T: ToJson> ToJson for Option<T> {
    fn write(&self, writer: &mut Writer) {
        match self {
            None => writer.plain("null"),
            Some(value) => value.write(writer),
        }
    }
    fn is_empty(&self) -> bool {
        self.is_none()
    }
}

impl<T: FromJson> FromJson for Vec<T> {
    fn empty() -> Self {
        Self::new()
    }
    fn read(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        self.clear();
        reader.array("a sequence", &mut |reader| {
            let index = self.len();
            self.push(T::empty());
            self[index].read(reader)
        })
    }
}

impl<T: ToJson> ToJson for Vec<T> {
    fn write(&self, writer: &mut Writer) {
        self.as_slice().write(writer);
    }
    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl<T: ToJson, const N: usize> ToJson for [T; N] {
    fn write(&self, writer: &mut Writer) {
        self.as_slice().write(writer);
    }
}

impl<T: ToJson> ToJson for [T] {
    fn write(&self, writer: &mut Writer) {
        writer.array(&mut |writer| self.iter().for_each(|value| writer.element(value)));
    }
    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl<T: FromJson> FromJson for BTreeMap<String, T> {
    fn empty() -> Self {
        Self::new()
    }
    fn read(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        self.clear();
        reader.map("a map", &mut |reader, key| {
            let mut value = T::empty();
            value.read(reader)?;
            self.insert(key.into_owned(), value);
            Ok(())
        })
    }
}

impl<K: AsRef<str>, T: ToJson> ToJson for BTreeMap<K, T> {
    fn write(&self, writer: &mut Writer) {
        writer.map(&mut |writer| {
            self.iter()
                .for_each(|(key, value)| writer.member(key.as_ref(), value));
        });
    }
    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl<A: FromJson, B: FromJson> FromJson for (A, B) {
    fn empty() -> Self {
        (A::empty(), B::empty())
    }
    fn read(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        let mut count = 0;
        reader.array("a tuple of size 2", &mut |reader| {
            count += 1;
            match count {
                1 => self.0.read(reader),
                2 => self.1.read(reader),
                _ => Err(reader.error("trailing characters")),
            }
        })?;
        match count {
            2 => Ok(()),
            _ => Err(reader.error(format!("invalid length {count}, expected a tuple of size 2"))),
        }
    }
}

impl<A: ToJson, B: ToJson> ToJson for (A, B) {
    fn write(&self, writer: &mut Writer) {
        writer.array(&mut |writer| {
            writer.element(&self.0);
            writer.element(&self.1);
        });
    }
}
