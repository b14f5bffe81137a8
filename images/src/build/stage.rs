//! One stage: what its instructions have made so far, and how each of them changes it. COPY, ADD and WORKDIR are in `layers`, what may be
//! copied from a stage in `files`, RUN is in `run`, the image in `output`.

mod files;
mod layers;

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::containerfile::{Command, Instruction, Kind};
use super::disk::Disk;
use super::layer::Blob;
use super::plan;
use super::tree::Tree;
use super::{Shop, Worker, expand};
use crate::oci::{ContainerConfig, Empty, History};
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
            )).into());
        }
        if !document.config.on_build.is_empty() {
            return Err(Error::Unsupported {
                what: format!("{name} as a base"),
                why: "it has ONBUILD instructions, which would run unseen; use another base".into(),
            }
            .into());
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
}

/// A digest of words, each told apart from the next.
pub fn key_of(words: &[&str]) -> Digest {
    let mut text = String::from("punnet-build-1");
    for word in words {
        text += &format!(" {} {word}", word.len());
    }
    Digest::of(text.as_bytes())
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
