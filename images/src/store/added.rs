//! What somebody has put into an image's tree though no layer has it: files, directories, and all else that has a name.
//!
//! The lists in an image's folder name all that is in its tree, up to a million paths: more than is kept in memory, and `verify` writes nothing. So paths are
//! dealt into parts by their hashes, and of each part the sum of the hashes is compared, of the lists and of the tree. Only the paths of parts that differ are
//! then compared one by one.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::OFlag;

use super::nodes::{Kind, NODES, for_each_node};
use super::tree;
use super::unpack::key;
use super::verify::for_each_file;
use crate::{Error, Result};

/// Parts: with one name too many in an image of a million, some 4000 paths are compared.
const PARTS: usize = 256;

/// Listed paths that are compared at once, if one part has not more: 8 bytes each.
const KEYS_MAX: usize = 32 * 1024;

/// The paths that the lists have whose hashes end alike.
#[derive(Clone, Copy, Default)]
struct Part {
    count: usize,
    /// Of the hashes, and of those of the tree taken away: 0 when both have the same paths.
    sum: u64,
}

/// The paths of an image's lists, as far as they are kept.
pub struct Listed([Part; PARTS]);

impl Listed {
    /// None yet.
    pub fn new() -> Self {
        Self([Part::default(); PARTS])
    }

    /// All that the lists in the image's folder name.
    pub fn of(folder: &Path) -> Result<Self> {
        let mut listed = Self::new();
        for_each_listed(folder, &mut |path| listed.add(path))?;
        Ok(listed)
    }

    /// Adds a path.
    pub fn add(&mut self, path: &Path) {
        let key = key(path);
        let part = &mut self.0[part_of(key)];
        part.count += 1;
        part.sum = part.sum.wrapping_add(key);
    }

    /// Calls `act` with each path in the tree that the lists do not have, until it returns false. Of a directory that was added there is only its own. An image
    /// that was stored before its directories were listed is passed over.
    pub fn for_each_added(
        mut self,
        folder: &Path,
        root: &OwnedFd,
        act: &mut dyn FnMut(&Path) -> Result<bool>,
    ) -> Result<()> {
        if !folder.join(NODES).exists() {
            return Ok(());
        }
        for_each_found(folder, root, &mut |path| {
            let key = key(path);
            let part = &mut self.0[part_of(key)];
            part.sum = part.sum.wrapping_sub(key);
            Ok(true)
        })?;
        let mut differing = (0..PARTS).filter(|&part| self.0[part].sum != 0).peekable();
        while let Some(first) = differing.next() {
            let (mut chosen, mut count) = ([false; PARTS], self.0[first].count);
            chosen[first] = true;
            while let Some(next) = differing.next_if(|&next| count + self.0[next].count <= KEYS_MAX) {
                chosen[next] = true;
                count += self.0[next].count;
            }
            if !compare(folder, root, &chosen, act)? {
                break;
            }
        }
        Ok(())
    }
}

/// Calls `act` with what was added of the chosen parts; false when that is enough.
fn compare(
    folder: &Path,
    root: &OwnedFd,
    chosen: &[bool; PARTS],
    act: &mut dyn FnMut(&Path) -> Result<bool>,
) -> Result<bool> {
    let mut known = Vec::new();
    for_each_listed(folder, &mut |path| {
        let key = key(path);
        known.extend(chosen[part_of(key)].then_some(key));
    })?;
    known.sort_unstable();
    for_each_found(folder, root, &mut |path| {
        let key = key(path);
        let is_added = chosen[part_of(key)] && known.binary_search(&key).is_err();
        if is_added { act(path) } else { Ok(true) }
    })
}

fn part_of(key: u64) -> usize {
    key as usize % PARTS
}

fn for_each_listed(folder: &Path, act: &mut dyn FnMut(&Path)) -> Result<()> {
    for_each_node(folder, &mut |node| {
        act(node.path);
        Ok(())
    })?;
    for_each_file(folder, &mut |record| {
        act(record.path);
        Ok(())
    })
}

/// Calls `act` with the root's path, and with that of each name in each directory that the lists have; false when it has had enough. What is no directory any
/// more, or is behind something that has become a link, is another kind of damage.
fn for_each_found(folder: &Path, root: &OwnedFd, act: &mut dyn FnMut(&Path) -> Result<bool>) -> Result<bool> {
    let mut goes_on = act(Path::new(""))?;
    for_each_node(folder, &mut |node| {
        if !goes_on || node.kind != Kind::Directory {
            return Ok(());
        }
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY;
        let Ok(found) = tree::open_unlinked(root, tree::at_root(node.path), flags) else {
            return Ok(());
        };
        let failed = |error| Error::io("list", node.path, error);
        for entry in fs::read_dir(tree::at(&found, OsStr::new("."))).map_err(failed)? {
            goes_on = act(&node.path.join(entry.map_err(failed)?.file_name()))?;
            if !goes_on {
                break;
            }
        }
        Ok(())
    })?;
    Ok(goes_on)
}
