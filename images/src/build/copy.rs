//! What COPY and ADD take, and from where: the context, an earlier stage or an image look the same here.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use super::ignore;
use super::layer::{Content, Item, ItemKind};
use super::tree::NodeKind;
use crate::{Error, Result};

/// Entries that one COPY takes: a bound on the memory of the list.
pub const ITEMS_MAX: usize = 1_000_000;

/// A tree of files to copy from. Paths have no leading slash.
pub trait Files {
    /// What a path leads to, links followed; `None` when nothing is there.
    fn look(&self, path: &str) -> Result<Option<Found>>;

    /// The same path without links in it.
    fn real(&self, path: &str) -> Result<String>;

    /// The names in a folder, in order; none when it is none.
    fn names(&self, folder: &str) -> Result<Vec<String>>;

    /// All below a folder without what is hidden, relative to it, links as links, in order.
    fn below(&self, folder: &str) -> Result<Vec<(String, Found)>>;

    /// Whether COPY is to take it for missing.
    fn hides(&self, path: &str) -> Result<bool>;

    /// Opens a regular file for reading; its path has no links.
    fn read(&self, path: &str) -> Result<File>;

    /// Where all this is, for messages.
    fn place(&self) -> &Path;
}

/// A file that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub kind: NodeKind,
    pub mode: u32,
    pub owner: (u32, u32),
}

/// How copies differ from what they are copied from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// `--chmod`
    pub mode: Option<u32>,
    /// `--chown`
    pub owner: Option<(u32, u32)>,
}

/// What an instruction brings, by its path in the image.
pub type Items = BTreeMap<String, Item>;

/// The paths that sources name, patterns resolved. Each must name something.
pub fn find(files: &dyn Files, sources: &[String]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for source in sources {
        if source.split('/').any(|part| part == "..") {
            return Err(outside(files, source));
        }
        let parts: Vec<&str> = source
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".")
            .collect();
        let before = found.len();
        resolve(files, "", &parts, &mut found)?;
        found[before..].sort_unstable();
        if found.len() == before {
            return Err(Error::NotFound {
                name: source.clone(),
                place: files.place().into(),
            }
            .into());
        }
    }
    Ok(found)
}

fn resolve(files: &dyn Files, at: &str, parts: &[&str], found: &mut Vec<String>) -> Result<()> {
    let Some((first, rest)) = parts.split_first() else {
        if at.is_empty() || !files.hides(at)? {
            found.push(at.to_owned());
        }
        return Ok(());
    };
    if !ignore::is_pattern(first) {
        let below = join(at, first);
        return match files.look(&below)? {
            None => Ok(()),
            Some(_) => resolve(files, &below, rest, found),
        };
    }
    for name in files.names(at)? {
        if ignore::fits(first, &name) {
            resolve(files, &join(at, &name), rest, found)?;
        }
    }
    Ok(())
}

/// What a source brings: the file itself, or everything in the directory but not the directory.
pub fn collect(
    files: &dyn Files,
    source: &str,
    target: &str,
    into_folder: bool,
    change: Change,
    items: &mut Items,
) -> Result<()> {
    // The source itself is followed when it is a link; links below it are copied as links.
    let found = files.look(source)?.ok_or_else(|| Error::NotFound {
        name: source.into(),
        place: files.place().into(),
    })?;
    let real = files.real(source)?;
    if found.kind != NodeKind::Folder {
        let name = source.rsplit('/').next().unwrap_or(source);
        let path = if into_folder {
            join(target, name)
        } else {
            target.to_owned()
        };
        return place(items, source, path, item(&real, found, change)?);
    }
    for (path, found) in files.below(&real)? {
        if items.len() > ITEMS_MAX {
            return Err(Error::Limit {
                what: format!("what COPY takes from {source:?}"),
                limit: format!("{ITEMS_MAX} entries"),
            }
            .into());
        }
        let from = join(&real, &path);
        let item = item(&from, found, change)?;
        place(items, &from, join(target, &path), item)?;
    }
    Ok(())
}

fn item(path: &str, found: Found, change: Change) -> Result<Item> {
    let kind = match found.kind {
        NodeKind::Folder => ItemKind::Folder,
        NodeKind::File => ItemKind::File(Content::Path(path.to_owned())),
        NodeKind::Link(target) => ItemKind::Symlink(target),
        NodeKind::Other => {
            return Err(Error::Unsupported {
                what: format!("copying {path:?}"),
                why: "it is neither file, directory nor symbolic link".into(),
            }
            .into());
        }
    };
    Ok(Item {
        kind,
        mode: change.mode.unwrap_or(found.mode),
        owner: change.owner.unwrap_or(found.owner),
    })
}

/// Takes an entry up. Of several files for one place the last counts; a file and a folder cannot both be there.
pub fn place(items: &mut Items, from: &str, path: String, item: Item) -> Result<()> {
    if let Some(there) = items.get(&path) {
        fits(&path, &item.node_kind(), &there.node_kind()).map_err(|error| {
            let other = match &there.kind {
                ItemKind::File(Content::Path(source)) => format!("{source:?}"),
                _ => "another source".to_owned(),
            };
            Error::Run(format!("{from:?} and {other} cannot both be copied: {error}"))
        })?;
    }
    items.insert(path, item);
    Ok(())
}

/// A folder stays a folder, and nothing else becomes one: what lies below would come or go unsaid.
pub fn fits(path: &str, new: &NodeKind, there: &NodeKind) -> Result<()> {
    if (*new == NodeKind::Folder) == (*there == NodeKind::Folder) {
        return Ok(());
    }
    Err(Error::Run(format!(
        "/{path} would be a {} where there is a {} already",
        new.name(),
        there.name()
    ))
    .into())
}

/// A path that leads out of where it may lead.
pub fn outside(files: &dyn Files, path: &str) -> Box<Error> {
    Error::Unsupported {
        what: format!("{path:?}"),
        why: format!("it lies outside of the context {}", files.place().display()),
    }
    .into()
}

/// A name below a folder.
pub fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    }
}
