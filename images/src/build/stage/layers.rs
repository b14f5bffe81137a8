//! Instructions that make a layer of what they bring: COPY, ADD and WORKDIR.

use std::fs::File;
use std::path::PathBuf;

use super::files::StageFiles;
use super::{Stage, StageLayer, Stages, key_of};
use crate::build::containerfile::{Copy, Instruction, mode_of};
use crate::build::copy::{self, Change, Files, Items, join};
use crate::build::disk::{self, Disk};
use crate::build::layer::{Blob, Content, Item, ItemKind, Layer};
use crate::build::plan::{self, Origin};
use crate::build::tree::{Node, NodeKind, Tree};
use crate::build::{Shop, Worker, archive, expand, refuse_whiteout};
use crate::users::Users;
use crate::{Digest, Error, Result};

impl Stage {
    /// WORKDIR: makes the folder, as USER's, when there is none.
    pub(super) fn work_in(&mut self, path: &str, instruction: &Instruction, shop: &Shop<'_>) -> Result<bool> {
        let path = self.absolute(path).map_err(|why| instruction.error(why))?;
        let place = self.tree.resolve(&path).map_err(|why| instruction.error(why))?;
        self.config.working_dir = format!("/{path}");
        if self.tree.has_folder(&place) {
            return Ok(false);
        }
        let user = self.config.user.clone();
        let owner = match numbers(&user) {
            _ if user.is_empty() => (0, 0),
            Some((uid, gid)) => (uid, gid.unwrap_or(0)),
            None => {
                let user = self.users(shop)?.resolve(&user)?;
                (user.uid, user.gid)
            }
        };
        let folder = Item {
            owner,
            ..Item::folder()
        };
        self.add_layer(Items::from([(place, folder)]), owner, shop.context, shop)?;
        Ok(true)
    }

    /// COPY and ADD.
    pub(super) fn copy(
        &mut self,
        copy: &Copy,
        instruction: &Instruction,
        shop: &Shop<'_>,
        done: &Stages,
        worker: &mut dyn Worker,
    ) -> Result<()> {
        let expanded = |text: &String| self.expand(text, instruction, shop);
        let sources = copy.sources.iter().map(expanded).collect::<Result<Vec<_>>>()?;
        let target_text = expanded(&copy.target)?;
        let change = Change {
            mode: (copy.mode.as_ref())
                .map(|text| mode_of(&expanded(text)?).map_err(|why| instruction.error(why)))
                .transpose()?,
            owner: (copy.owner.as_ref())
                .map(|text| self.owner_of(&expanded(text)?, shop))
                .transpose()?,
        };
        let target = self
            .absolute(&target_text)
            .and_then(|target| self.tree.resolve(&target))
            .map_err(|why| instruction.error(why))?;
        let (image, other);
        let files: &dyn Files = match plan::origin(shop.stages, shop.stage.get(), copy) {
            None => shop.context,
            Some(Origin::Stage(index)) => {
                let stage = done
                    .get(&index)
                    .ok_or_else(|| instruction.error(format!("stage {index} is not built")))?;
                other = stage.files(shop)?;
                &other
            }
            Some(Origin::Image(name)) => {
                image = shop.image(&name, &self.platform, worker)?;
                other = image.files(shop)?;
                &other
            }
            Some(Origin::Scratch) => return Err(instruction.error("there is nothing in scratch")),
        };
        let found = copy::find(files, &sources)?;
        let count = found.len() + copy.heredocs.len();
        let is_folder = target_text.ends_with('/') || target_text == "." || self.tree.has_folder(&target);
        if count > 1 && !is_folder {
            return Err(instruction.error("with several sources the destination must end with '/'"));
        }
        let mut items = Items::new();
        for source in &found {
            if copy.is_add && self.add_archive(source, &target, change, shop, &mut items)? {
                continue;
            }
            copy::collect(files, source, &target, is_folder, change, &mut items)?;
        }
        for heredoc in &copy.heredocs {
            let mut text = heredoc.text();
            if heredoc.expands {
                text = expand::expand_text(&text, shop.escape, &|name| self.variable(name))
                    .map_err(|why| instruction.error(why))?;
            }
            let path = if is_folder {
                join(&target, &heredoc.name)
            } else {
                target.clone()
            };
            let item = Item {
                kind: ItemKind::File(Content::Text(text)),
                mode: change.mode.unwrap_or(0o644),
                owner: change.owner.unwrap_or((0, 0)),
            };
            copy::place(&mut items, &heredoc.name, path, item)?;
        }
        if items.is_empty() {
            let names = sources.join(" ");
            return Err(instruction.error(format!("{names} names nothing in {}", files.place().display())));
        }
        self.add_layer(items, change.owner.unwrap_or((0, 0)), files, shop)
    }

    /// Takes an archive of the context apart; false when the file is none.
    fn add_archive(
        &self,
        source: &str,
        target: &str,
        change: Change,
        shop: &Shop<'_>,
        items: &mut Items,
    ) -> Result<bool> {
        let found = shop.context.look(source)?;
        if found.is_none_or(|found| found.kind != NodeKind::File) {
            return Ok(false);
        }
        let file = shop.context.read(&shop.context.real(source)?)?;
        archive::unpack(file, source, target, change, &|| shop.make_folder("add"), items)
    }

    /// `--chown`: a number alone is the group's too, as Docker has it.
    fn owner_of(&self, text: &str, shop: &Shop<'_>) -> Result<(u32, u32)> {
        if let Some((uid, gid)) = numbers(text) {
            return Ok((uid, gid.unwrap_or(uid)));
        }
        let user = self.users(shop)?.resolve(text)?;
        Ok((user.uid, user.gid))
    }

    /// The stage's users and groups.
    pub fn users(&self, shop: &Shop<'_>) -> Result<Users> {
        let files = self.files(shop)?;
        let read = |path: &str| -> Result<String> {
            match files.look(path)? {
                Some(found) if found.kind == NodeKind::File => {
                    Users::read_file(files.read(&files.real(path)?)?)
                }
                _ => Ok(String::new()),
            }
        };
        Ok(Users::of(read("etc/passwd")?, read("etc/group")?))
    }

    /// Adds a layer of these items, parents that the image does not have included.
    fn add_layer(
        &mut self,
        mut items: Items,
        owner: (u32, u32),
        files: &dyn Files,
        shop: &Shop<'_>,
    ) -> Result<()> {
        let paths: Vec<String> = items.keys().cloned().collect();
        for parent in paths.iter().flat_map(|path| Tree::parents(path)) {
            if let Some(item) = items.get(parent) {
                copy::fits(parent, &NodeKind::Folder, &item.node_kind())?;
                continue;
            }
            let implied = Item {
                owner,
                ..Item::folder()
            };
            match self.tree.kind(parent) {
                Some(kind) => copy::fits(parent, &NodeKind::Folder, kind)?,
                None => drop(items.insert(parent.to_owned(), implied)),
            }
        }
        for (path, item) in &items {
            refuse_whiteout(path)?;
            self.tree
                .kind(path)
                .map_or(Ok(()), |there| copy::fits(path, &item.node_kind(), there))?;
        }
        let blob = layer_of(&items, files, shop)?;
        let layer = self.layers.len();
        for (path, item) in items {
            let node = Node {
                kind: item.node_kind(),
                mode: item.mode,
                owner: item.owner,
                layer,
            };
            self.tree.set(path, node);
        }
        self.key = key_of(&["copy", &self.key.hex(), &blob.diff_id.hex()]);
        self.layers.push(StageLayer::Copied(blob, self.key));
        Ok(())
    }

    /// Directories of the layers, the base first.
    pub fn directories(&self, shop: &Shop<'_>) -> Result<Vec<PathBuf>> {
        let directory = |layer: &StageLayer| match layer {
            StageLayer::Base(image) => Ok(image.rootfs()),
            StageLayer::Ran(upper, _) => Ok(upper.clone()),
            StageLayer::Copied(blob, key) => {
                let path = shop.scratch.join("layers").join(key.hex());
                if !path.is_dir() {
                    let parent = shop.scratch.join("layers");
                    std::fs::create_dir_all(&parent).map_err(Error::at("create", &parent))?;
                    let file = shop.scratch.join(blob.digest.hex());
                    let file = File::open(&file).map_err(Error::at("open", &file))?;
                    disk::unpack_below(file, &path, &self.tree)?;
                }
                Ok(path)
            }
        };
        self.layers.iter().map(directory).collect()
    }

    /// Its files, to copy from.
    pub fn files(&self, shop: &Shop<'_>) -> Result<StageFiles<'_>> {
        let disks = self.directories(shop)?;
        Ok(StageFiles {
            tree: &self.tree,
            disks: disks.iter().map(|path| Disk::open(path)).collect::<Result<_>>()?,
            place: PathBuf::from("the stage"),
        })
    }
}

/// Writes a layer, or finds the one that was written of the same.
fn layer_of(items: &Items, files: &dyn Files, shop: &Shop<'_>) -> Result<Blob> {
    let key = match shop.cache {
        None => None,
        Some(cache) => {
            let key = key_of_items(items, files, shop.epoch)?;
            if let Some(blob) = cache.find_blob(&key, shop.scratch)? {
                return Ok(blob);
            }
            Some((cache, key))
        }
    };
    let mut layer = Layer::create(shop.scratch)?;
    for (path, item) in items {
        layer.add(path, item, shop.epoch, files)?;
    }
    let blob = layer.finish()?;
    if let Some((cache, key)) = key {
        cache.put_blob(&key, &blob, shop.scratch)?;
    }
    Ok(blob)
}

fn key_of_items(items: &Items, files: &dyn Files, epoch: u64) -> Result<Digest> {
    let mut hasher = crate::HashingWriter::new(std::io::sink());
    let mut add = |text: &str| {
        use std::io::Write;
        write!(hasher, "{} {text} ", text.len()).map_err(Error::Stream)
    };
    add(&format!("copied {epoch}"))?;
    for (path, item) in items {
        add(path)?;
        add(&format!("{} {}:{}", item.mode, item.owner.0, item.owner.1))?;
        match &item.kind {
            ItemKind::Folder => add("folder")?,
            ItemKind::Symlink(target) => add(&format!("link {target}"))?,
            ItemKind::File(content) => {
                let (bytes, size) = content.open(files)?;
                let mut bytes = crate::HashingReader::new(bytes);
                std::io::copy(&mut bytes, &mut std::io::sink()).map_err(Error::Stream)?;
                add(&format!("file {size} {}", bytes.finish().1))?;
            }
        }
    }
    Ok(hasher.finish().2)
}

/// `UID` or `UID:GID`; `None` when names have to be looked up.
fn numbers(text: &str) -> Option<(u32, Option<u32>)> {
    match text.split_once(':') {
        Some((uid, gid)) => Some((uid.parse().ok()?, Some(gid.parse().ok()?))),
        None => Some((text.parse().ok()?, None)),
    }
}
