//! What is in a stage, for COPY --from.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::build::copy::{Files, Found};
use crate::build::disk::Disk;
use crate::build::tree::{Node, NodeKind, Tree};
use crate::{Error, Result};

/// A stage's files: its tree says what there is and in which layer.
pub struct StageFiles<'a> {
    pub(super) tree: &'a Tree,
    pub(super) disks: Vec<Disk>,
    pub(super) place: PathBuf,
}

impl StageFiles<'_> {
    fn found(node: &Node) -> Found {
        Found {
            kind: node.kind.clone(),
            mode: node.mode,
            owner: node.owner,
        }
    }
}

impl Files for StageFiles<'_> {
    fn look(&self, path: &str) -> Result<Option<Found>> {
        let path = self.real(path)?;
        if path.is_empty() {
            return Ok(Some(Found {
                kind: NodeKind::Folder,
                mode: 0o755,
                owner: (0, 0),
            }));
        }
        Ok(self.tree.get(&path).map(Self::found))
    }

    fn real(&self, path: &str) -> Result<String> {
        self.tree.resolve(path).map_err(|why| Error::Run(why).into())
    }

    fn names(&self, folder: &str) -> Result<Vec<String>> {
        let folder = self.real(folder)?;
        let skip = if folder.is_empty() { 0 } else { folder.len() + 1 };
        let below = self.tree.below(&folder).map(|(path, _)| &path[skip..]);
        Ok(below
            .filter(|name| !name.contains('/'))
            .map(str::to_owned)
            .collect())
    }

    fn below(&self, folder: &str) -> Result<Vec<(String, Found)>> {
        let skip = if folder.is_empty() { 0 } else { folder.len() + 1 };
        let below = self.tree.below(folder);
        Ok(below
            .map(|(path, node)| (path[skip..].to_owned(), Self::found(node)))
            .collect())
    }

    fn hides(&self, _path: &str) -> Result<bool> {
        Ok(false)
    }

    fn read(&self, path: &str) -> Result<File> {
        let missing = || {
            Box::new(Error::NotFound {
                name: path.to_owned(),
                place: self.place.clone(),
            })
        };
        let node = self.tree.get(path).ok_or_else(missing)?;
        self.disks
            .get(node.layer)
            .ok_or_else(missing)?
            .read(Path::new(path))
    }

    fn place(&self) -> &Path {
        &self.place
    }
}
