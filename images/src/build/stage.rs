//! One stage: what its instructions have made so far, and how each of them changes it. RUN is in `run`, the image in `output`.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::containerfile::{Command, Copy, Instruction, Kind, mode_of};
use super::copy::{self, Change, Files, Found, Items, join};
use super::disk::{self, Disk};
use super::layer::{Blob, Content, Item, ItemKind, Layer};
use super::plan::{self, Origin};
use super::tree::{Node, NodeKind, Tree};
use super::{Shop, Worker, archive, expand, refuse_whiteout};
use crate::oci::{ContainerConfig, Empty, History};
use crate::users::Users;
use crate::{Digest, Error, Image, Platform, Reference, Result};

/// What shell form means when no SHELL says otherwise.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// One layer.
#[derive(Clone)]
pub enum StageLayer {
    /// All of the base image.
    Base(Image),
    /// Made by COPY, ADD or WORKDIR; the key is that of the stage with it.
    Copied(Blob, Digest),
    /// Made by RUN: the upper directory, and the key of the stage with it.
    Ran(PathBuf, Digest),
}

/// A stage that is being built, or has been.
#[derive(Clone)]
pub struct Stage {
    pub platform: Platform,
    pub config: ContainerConfig,
    pub author: Option<String>,
    pub layers: Vec<StageLayer>,
    /// Of what was done on the base.
    pub history: Vec<History>,
    /// Name and manifest of the base image.
    pub base: Option<(Reference, Digest)>,
    pub tree: Tree,
    /// Digest of all that its files depend on.
    pub key: Digest,
    /// ARGs that are in force.
    pub arguments: BTreeMap<String, String>,
    /// This stage has a CMD of its own.
    has_own_cmd: bool,
}

/// Finished stages by index.
pub type Stages = BTreeMap<usize, Stage>;

impl Stage {
    /// FROM scratch.
    pub fn scratch(platform: Platform) -> Self {
        Self {
            key: key_of(&["scratch"]),
            platform,
            config: ContainerConfig::default(),
            author: None,
            layers: Vec::new(),
            history: Vec::new(),
            base: None,
            tree: Tree::default(),
            arguments: BTreeMap::new(),
            has_own_cmd: false,
        }
    }

    /// FROM an image.
    pub fn from_image(image: Image, name: Reference, platform: Platform) -> Result<Self> {
        let document = image.config()?;
        if platform.fit(&document.platform(), true).is_none() {
            return Err(Error::WrongPlatform(format!(
                "{name} is stored here for {}, and {platform} is wanted: take that one in first (punnet pull or import with --platform {platform})",
                document.platform()
            )));
        }
        if !document.config.on_build.is_empty() {
            return Err(Error::Unsupported {
                what: format!("{name} as a base"),
                why: "it has ONBUILD instructions, which would run unseen; use another base".into(),
            });
        }
        let mut tree = Tree::default();
        Disk::open(&image.rootfs())?.enter_into(&mut tree, 0)?;
        Ok(Self {
            key: key_of(&["image", &image.manifest.to_string()]),
            config: document.config,
            author: document.author,
            base: Some((name, image.manifest)),
            layers: vec![StageLayer::Base(image)],
            tree,
            ..Self::scratch(platform)
        })
    }

    /// FROM an earlier stage: what it is, without its ARGs.
    pub fn on(earlier: &Self, platform: Platform) -> Self {
        Self {
            platform,
            arguments: BTreeMap::new(),
            has_own_cmd: false,
            ..earlier.clone()
        }
    }

    /// Does one instruction.
    pub fn apply(
        &mut self,
        instruction: &Instruction,
        shop: &Shop<'_>,
        done: &Stages,
        worker: &mut dyn Worker,
    ) -> Result<()> {
        let expand = |stage: &Self, text: &str| stage.expand(text, instruction, shop);
        let all = |stage: &Self, texts: &[String]| {
            let texts = texts.iter().map(|text| expand(stage, text));
            texts.collect::<Result<Vec<_>>>()
        };
        let mut layered = false;
        match &instruction.kind {
            Kind::From(_) => return Ok(()),
            Kind::Arg(arguments) => {
                for (name, default) in arguments {
                    self.take_argument(name, default.as_deref(), instruction, shop)?;
                }
            }
            Kind::Env(pairs) => {
                // All values are those from before the instruction: `ENV a=1 b=$a` does not see the new `a`.
                let expanded = pairs
                    .iter()
                    .map(|(name, value)| Ok((expand(self, name)?, expand(self, value)?)));
                for (name, value) in expanded.collect::<Result<Vec<_>>>()? {
                    self.set_env(&name, &value);
                }
            }
            Kind::Label(pairs) => {
                for (name, value) in pairs {
                    let pair = (expand(self, name)?, expand(self, value)?);
                    self.config.labels.extend([pair]);
                }
            }
            Kind::Shell(words) => self.config.shell.clone_from(words),
            Kind::Entrypoint(command) => {
                self.config.entrypoint = Some(self.words(command));
                // The base's CMD was meant for the base's entrypoint.
                if !self.has_own_cmd {
                    self.config.cmd = None;
                }
            }
            Kind::Cmd(command) => {
                self.config.cmd = Some(self.words(command));
                self.has_own_cmd = true;
            }
            Kind::Healthcheck(check, line) => {
                let mut check = check.clone();
                if let Some(line) = line {
                    check.test = vec!["CMD-SHELL".into(), line.clone()];
                }
                self.config.healthcheck = Some(check);
            }
            Kind::User(user) => self.config.user = expand(self, user)?,
            Kind::Maintainer(name) => self.author = Some(name.clone()),
            Kind::StopSignal(signal) => self.config.stop_signal = Some(expand(self, signal)?),
            Kind::Expose(ports) => {
                for port in all(self, ports)? {
                    let known =
                        port_of(&port).ok_or_else(|| instruction.error(format!("{port:?} is no port")))?;
                    self.config.exposed_ports.insert(known, Empty {});
                }
            }
            Kind::Volume(paths) => {
                let paths = all(self, paths)?.into_iter().map(|path| (path, Empty {}));
                self.config.volumes.extend(paths);
            }
            Kind::Workdir(path) => {
                let path = expand(self, path)?;
                layered = self.work_in(&path, instruction, shop)?;
            }
            Kind::Copy(copy) => {
                self.copy(copy, instruction, shop, done, worker)?;
                layered = true;
            }
            Kind::Run(run) => layered = self.run(run, instruction, shop, worker)?,
        }
        if !matches!(instruction.kind, Kind::Arg(_)) {
            self.history.push(History {
                created: Some(shop.created.clone()),
                created_by: Some(instruction.text.clone()),
                comment: None,
                empty_layer: !layered,
            });
        }
        Ok(())
    }

    fn expand(&self, text: &str, instruction: &Instruction, shop: &Shop<'_>) -> Result<String> {
        expand::expand(text, shop.escape, &|name| self.variable(name)).map_err(|why| instruction.error(why))
    }

    fn take_argument(
        &mut self,
        name: &str,
        default: Option<&str>,
        instruction: &Instruction,
        shop: &Shop<'_>,
    ) -> Result<()> {
        let value = match (plan::given(shop.options, name), default) {
            (Some(given), _) => Some(given.clone()),
            (None, Some(default)) => Some(self.expand(default, instruction, shop)?),
            // What stood before FROM is for FROM alone, until an ARG of the same name takes it up.
            (None, None) => {
                let outer = shop.outer_arguments.get(name).cloned();
                outer.or_else(|| plan::predefined(name, &shop.target, &shop.host))
            }
        };
        self.arguments.extend(value.map(|value| (name.to_owned(), value)));
        Ok(())
    }

    fn set_env(&mut self, name: &str, value: &str) {
        let env = &mut self.config.env;
        let pair = format!("{name}={value}");
        // The place of the first mention stays, as with Docker.
        match env.iter_mut().find(|other| other.split('=').next() == Some(name)) {
            Some(earlier) => *earlier = pair,
            None => env.push(pair),
        }
    }

    /// ENV goes over ARG.
    fn variable(&self, name: &str) -> Option<String> {
        let of_env = |pair: &String| {
            pair.split_once('=')
                .filter(|(other, _)| *other == name)
                .map(|(_, value)| value.to_owned())
        };
        let env = self.config.env.iter().find_map(of_env);
        env.or_else(|| self.arguments.get(name).cloned())
    }

    /// What shell form is run by.
    pub fn shell(&self) -> Vec<String> {
        if self.config.shell.is_empty() {
            DEFAULT_SHELL.map(String::from).to_vec()
        } else {
            self.config.shell.clone()
        }
    }

    /// A command as a list of words.
    pub fn words(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(line) => {
                let mut words = self.shell();
                words.push(line.clone());
                words
            }
        }
    }

    /// A path of the image without its leading slash; relative ones begin at WORKDIR.
    fn absolute(&self, path: &str) -> std::result::Result<String, String> {
        let whole = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("{}/{path}", self.config.working_dir)
        };
        let mut parts = Vec::new();
        for part in whole.split('/').filter(|part| !part.is_empty() && *part != ".") {
            match part {
                ".." => drop(
                    parts
                        .pop()
                        .ok_or_else(|| format!("{path:?} leads above the root"))?,
                ),
                part => parts.push(part),
            }
        }
        Ok(parts.join("/"))
    }

    /// WORKDIR: makes the folder, as USER's, when there is none.
    fn work_in(&mut self, path: &str, instruction: &Instruction, shop: &Shop<'_>) -> Result<bool> {
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

    fn copy(
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
                    let file = shop.blobs.join(blob.digest.hex());
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
            if let Some(blob) = cache.find_blob(&key, &shop.blobs)? {
                return Ok(blob);
            }
            Some((cache, key))
        }
    };
    let mut layer = Layer::create(&shop.blobs)?;
    for (path, item) in items {
        layer.add(path, item, shop.epoch, files)?;
    }
    let blob = layer.finish()?;
    if let Some((cache, key)) = key {
        cache.put_blob(&key, &blob, &shop.blobs)?;
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

/// A digest of words, each told apart from the next.
pub fn key_of(words: &[&str]) -> Digest {
    let mut text = String::from("punnet-build-1");
    for word in words {
        text += &format!(" {} {word}", word.len());
    }
    Digest::of(text.as_bytes())
}

/// A stage's files: its tree says what there is and in which layer.
pub struct StageFiles<'a> {
    tree: &'a Tree,
    disks: Vec<Disk>,
    place: PathBuf,
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
        self.tree.resolve(path).map_err(Error::Run)
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
        let missing = || Error::NotFound {
            name: path.to_owned(),
            place: self.place.clone(),
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

/// `UID` or `UID:GID`; `None` when names have to be looked up.
fn numbers(text: &str) -> Option<(u32, Option<u32>)> {
    match text.split_once(':') {
        Some((uid, gid)) => Some((uid.parse().ok()?, Some(gid.parse().ok()?))),
        None => Some((text.parse().ok()?, None)),
    }
}

/// `80`, `80/udp`, `80-82/tcp`; tcp when nothing is said.
fn port_of(text: &str) -> Option<String> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
    (first > 0 && first <= last && matches!(protocol, "tcp" | "udp" | "sctp"))
        .then(|| format!("{range}/{protocol}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_a_protocol() {
        let cases = [
            ("80", Some("80/tcp")),
            ("53/udp", Some("53/udp")),
            ("1-3", Some("1-3/tcp")),
            ("0", None),
            ("3-1", None),
            ("80/icmp", None),
            ("x", None),
        ];
        for (text, want) in cases {
            assert_eq!(port_of(text).as_deref(), want, "{text}");
        }
    }
}
