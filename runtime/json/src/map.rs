//! The members of an object whose names are free.

use std::ops::Index;

use crate::{Error, FromJson, Reader, ToJson, Writer};

/// Values by name, in the order of the names: `BTreeMap` in a tenth of the code, for the few entries that documents have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map<V>(Vec<(String, V)>);

impl<V> Map<V> {
    /// None.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn place(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| other.as_str().cmp(name))
    }

    /// The value of that name.
    pub fn get(&self, name: &str) -> Option<&V> {
        self.place(name).ok().map(|at| &self.0[at].1)
    }

    /// Takes the place of what had this name, which is returned.
    pub fn insert(&mut self, name: String, value: V) -> Option<V> {
        match self.place(&name) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, value)),
            Err(at) => {
                self.0.insert(at, (name, value));
                None
            }
        }
    }

    /// Takes out what had this name.
    pub fn remove(&mut self, name: &str) -> Option<V> {
        self.place(name).ok().map(|at| self.0.remove(at).1)
    }

    /// All, in the order of their names.
    pub fn iter(&self) -> Iter<'_, V> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// All names, in their order.
    pub fn keys(&self) -> impl Iterator<Item = &String> {
        self.0.iter().map(|(name, _)| name)
    }

    /// All values, in the order of their names.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }

    /// Puts in order what was appended; of equal names the last counts.
    fn sort(&mut self) {
        self.0.sort_by(|a, b| a.0.cmp(&b.0));
        self.0.dedup_by(|later, earlier| {
            let is_same = later.0 == earlier.0;
            if is_same {
                std::mem::swap(later, earlier);
            }
            is_same
        });
    }
}

/// What [`Map::iter`] gives.
pub type Iter<'a, V> =
    std::iter::Map<std::slice::Iter<'a, (String, V)>, fn(&'a (String, V)) -> (&'a String, &'a V)>;

impl<V> Default for Map<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V> Index<&str> for Map<V> {
    type Output = V;

    fn index(&self, name: &str) -> &V {
        self.get(name).expect("no entry found for key")
    }
}

impl<V> Extend<(String, V)> for Map<V> {
    fn extend<I: IntoIterator<Item = (String, V)>>(&mut self, more: I) {
        self.0.extend(more);
        self.sort();
    }
}

impl<V> FromIterator<(String, V)> for Map<V> {
    fn from_iter<I: IntoIterator<Item = (String, V)>>(all: I) -> Self {
        let mut map = Self::new();
        map.extend(all);
        map
    }
}

impl<V, const N: usize> From<[(String, V); N]> for Map<V> {
    fn from(all: [(String, V); N]) -> Self {
        all.into_iter().collect()
    }
}

impl<V> IntoIterator for Map<V> {
    type Item = (String, V);
    type IntoIter = std::vec::IntoIter<(String, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, V> IntoIterator for &'a Map<V> {
    type Item = (&'a String, &'a V);
    type IntoIter = Iter<'a, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().map(|(name, value)| (name, value))
    }
}

impl<V: FromJson> FromJson for Map<V> {
    fn empty() -> Self {
        Self::new()
    }

    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), Error> {
        self.0.clear();
        reader.map("a map", &mut |reader, name| {
            let at = self.0.len();
            self.0.push((name.into_owned(), V::empty()));
            self.0[at].1.read(reader)
        })?;
        self.sort();
        Ok(())
    }
}

impl<V: ToJson> ToJson for Map<V> {
    fn write(&self, writer: &mut Writer) {
        writer.map(&mut |writer| self.0.iter().for_each(|(name, value)| writer.member(name, value)));
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Map;
    use std::collections::BTreeMap;

    proptest::proptest! {
        #[test]
        fn it_is_as_a_map_of_the_standard_library(entries: Vec<(String, u8)>, name: String) {
            let want: BTreeMap<_, _> = entries.iter().cloned().collect();
            let whole: Map<u8> = entries.iter().cloned().collect();
            let mut grown = Map::new();
            for (name, value) in entries {
                grown.insert(name, value);
            }
            let pairs = |map: &Map<u8>| map.iter().map(|(name, value)| (name.clone(), *value)).collect::<Vec<_>>();
            assert_eq!(pairs(&whole), want.clone().into_iter().collect::<Vec<_>>());
            assert_eq!(whole, grown);
            assert_eq!(whole.get(&name), want.get(&name));
            for name in want.keys() {
                assert_eq!(grown.remove(name), want.get(name).copied());
            }
            assert!(grown.is_empty());
        }
    }
}
