//! Builds an image FROM scratch out of a Containerfile, without running anything.
//!
//! `containerfile` turns text into instructions, `expand` fills variables in, `ignore` reads .dockerignore, `context` finds what COPY names, `layer` writes
//! a layer, and the [`Build`] here applies one instruction after the other. The result is an OCI image layout; the same inputs give the same bytes:
//! entries are sorted, owners are 0 unless `--chown` says otherwise, and every time is `source_date_epoch`, or 1970.
//!
//! Each COPY, ADD and WORKDIR that makes something is one layer. RUN, other stages and other bases are refused by name.

mod containerfile;
mod context;
mod expand;
mod ignore;
mod layer;
mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::oci::{
    self, ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME, ContainerConfig, Descriptor, Empty, History,
    ImageConfig, Index, Manifest, media_type,
};
use crate::{Digest, Error, Platform, Reference, Result, platform};

use containerfile::{Command, Copy};
pub use containerfile::{Containerfile, Instruction, Kind, parse};
use context::Context;
use layer::{Item, Layer};
use tree::{Node, Tree};

/// Bytes of a Containerfile: far beyond any that a person reads.
const CONTAINERFILE_BYTES_MAX: u64 = 1 << 20;

/// What to build, and how.
#[derive(Clone, Debug, Default)]
pub struct BuildOptions {
    /// The directory COPY takes from.
    pub context: PathBuf,
    /// The Containerfile; `Containerfile` or `Dockerfile` in the context when not given.
    pub containerfile: Option<PathBuf>,
    /// Values of ARGs.
    pub build_args: Vec<(String, String)>,
    /// Labels over those of the Containerfile.
    pub labels: Vec<(String, String)>,
    /// What the image is for; this machine when not given.
    pub platform: Option<Platform>,
    /// Its name in the layout.
    pub reference: Option<Reference>,
    /// Seconds since 1970 for every time in the image (reproducible-builds.org, SOURCE_DATE_EPOCH).
    pub source_date_epoch: Option<u64>,
}

/// What has been built.
#[derive(Clone, Debug)]
pub struct Built {
    /// Points to the manifest in the layout.
    pub manifest: Descriptor,
    /// Bytes of all blobs.
    pub bytes: u64,
}

/// Builds into `layout`, an empty directory, which becomes an OCI image layout.
pub fn build(options: &BuildOptions, layout: &Path) -> Result<Built> {
    let file = match &options.containerfile {
        Some(file) => file.clone(),
        None => find_containerfile(&options.context)?,
    };
    let text = read_text(&file)?;
    let name = file.display().to_string();
    let containerfile = parse(&text).map_err(|error| named(error, &name))?;
    let mut build = Build::new(options, layout)?;
    build.check_arguments(&containerfile)?;
    for instruction in &containerfile.instructions {
        build
            .apply(instruction, containerfile.escape)
            .map_err(|error| match error {
                Error::Containerfile { .. } => named(error, &name),
                other => Error::Containerfile {
                    file: name.clone(),
                    line: instruction.line,
                    column: instruction.column,
                    why: chain(&other),
                },
            })?;
    }
    build.finish()
}

/// A failed step is told with its line; what failed in it belongs to the same sentence.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

fn named(error: Error, name: &str) -> Error {
    match error {
        Error::Containerfile {
            line, column, why, ..
        } => Error::Containerfile {
            file: name.into(),
            line,
            column,
            why,
        },
        other => other,
    }
}

fn find_containerfile(context: &Path) -> Result<PathBuf> {
    let candidates = ["Containerfile", "Dockerfile"].map(|name| context.join(name));
    let found = candidates.iter().find(|path| path.is_file()).cloned();
    found.ok_or_else(|| Error::NotFound {
        name: "Containerfile or Dockerfile".into(),
        place: context.into(),
    })
}

fn read_text(path: &Path) -> Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let file = fs::File::open(path).map_err(Error::at("open", path))?;
    file.take(CONTAINERFILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(Error::at("read", path))?;
    if text.len() as u64 > CONTAINERFILE_BYTES_MAX {
        return Err(Error::Limit {
            what: path.display().to_string(),
            limit: format!("{CONTAINERFILE_BYTES_MAX} bytes"),
        });
    }
    Ok(text)
}

/// A folder stays a folder, and nothing else becomes one: what lies below would come or go unsaid.
fn fits(path: &str, new: &Node, there: &Node) -> Result<()> {
    if (*new == Node::Folder) == (*there == Node::Folder) {
        return Ok(());
    }
    Err(Error::Run(format!(
        "/{path} would be a {} where there is a {} already",
        new.name(),
        there.name()
    )))
}

/// A name that means something else in a layer: whoever unpacks it would remove files instead of making this one.
fn refuse_whiteout(path: &str) -> Result<()> {
    let name = path.rsplit('/').next().unwrap_or(path);
    if !name.starts_with(".wh.") {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!("/{path}"),
        why: "a layer cannot hold a name that begins with .wh. (it says that a file is removed); rename it or put it into .dockerignore".into(),
    })
}

struct Build<'a> {
    options: &'a BuildOptions,
    layout: &'a Path,
    context: Context,
    platform: Platform,
    created: String,
    epoch: u64,
    /// `FROM` has been seen.
    begun: bool,
    arguments: BTreeMap<String, String>,
    /// ARGs from before FROM.
    outer_arguments: BTreeMap<String, String>,
    config: ContainerConfig,
    layers: Vec<Descriptor>,
    diff_ids: Vec<Digest>,
    history: Vec<History>,
    /// What the image holds so far.
    tree: Tree,
    /// Of all blobs so far.
    bytes: u64,
}

impl<'a> Build<'a> {
    fn new(options: &'a BuildOptions, layout: &'a Path) -> Result<Self> {
        let blobs = layout.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(Error::at("create", &blobs))?;
        let epoch = options.source_date_epoch.unwrap_or(0);
        Ok(Self {
            options,
            layout,
            context: Context::open(&options.context)?,
            platform: options.platform.clone().unwrap_or_else(platform::host),
            created: rfc3339(epoch),
            epoch,
            begun: false,
            arguments: BTreeMap::new(),
            outer_arguments: BTreeMap::new(),
            config: ContainerConfig::default(),
            layers: Vec::new(),
            diff_ids: Vec::new(),
            history: Vec::new(),
            tree: Tree::default(),
            bytes: 0,
        })
    }

    /// A value for an ARG that does not exist is a typing error.
    fn check_arguments(&self, containerfile: &Containerfile) -> Result<()> {
        for (name, _) in &self.options.build_args {
            let declared = |instruction: &Instruction| matches!(&instruction.kind, Kind::Arg { name: declared, .. } if declared == name);
            if !containerfile.instructions.iter().any(declared) {
                return Err(Error::Run(format!(
                    "--build-arg {name}: the Containerfile has no ARG of that name"
                )));
            }
        }
        Ok(())
    }

    fn apply(&mut self, instruction: &Instruction, escape: char) -> Result<()> {
        let expand = |build: &Self, text: &str| {
            let value = |name: &str| build.variable(name);
            expand::expand(text, escape, &value).map_err(|why| instruction.error(why))
        };
        let all = |build: &Self, texts: &[String]| {
            texts
                .iter()
                .map(|text| expand(build, text))
                .collect::<Result<Vec<_>>>()
        };
        if !self.begun && !matches!(instruction.kind, Kind::From { .. } | Kind::Arg { .. }) {
            return Err(instruction.error("the first instruction is FROM (only ARG may stand before it)"));
        }
        let mut layered = false;
        match &instruction.kind {
            Kind::From { image } => {
                let image = expand(self, image)?;
                if self.begun {
                    return Err(instruction.error("a second FROM is not supported: one stage, FROM scratch"));
                }
                if image != "scratch" {
                    return Err(
                        instruction.error(format!("FROM {image} is not supported: only FROM scratch is"))
                    );
                }
                self.begun = true;
                // What stood before FROM is for FROM alone, until an ARG of the same name takes it up.
                self.outer_arguments = std::mem::take(&mut self.arguments);
                return Ok(());
            }
            Kind::Arg { name, default } => {
                let given = self
                    .options
                    .build_args
                    .iter()
                    .rev()
                    .find(|(given, _)| given == name)
                    .map(|(_, value)| value.clone());
                let value = match (given, default) {
                    (Some(value), _) => Some(value),
                    (None, Some(default)) => Some(expand(self, default)?),
                    (None, None) => self
                        .outer_arguments
                        .get(name)
                        .cloned()
                        .or_else(|| self.predefined(name)),
                };
                self.arguments.extend(value.map(|value| (name.clone(), value)));
                return Ok(());
            }
            Kind::Env(pairs) => {
                // All values are those from before the instruction: `ENV a=1 b=$a` does not see the new `a`.
                let expanded = pairs.iter().map(|(name, value)| Ok((name, expand(self, value)?)));
                for (name, value) in expanded.collect::<Result<Vec<_>>>()? {
                    let pair = format!("{name}={value}");
                    self.config
                        .env
                        .retain(|other| other.split('=').next() != Some(name));
                    self.config.env.push(pair);
                }
            }
            Kind::Label(pairs) => {
                for (name, value) in pairs {
                    self.config
                        .labels
                        .insert(expand(self, name)?, expand(self, value)?);
                }
            }
            // Docker drops a base image's CMD here; FROM scratch there is none, and the file's own stays.
            Kind::Entrypoint(command) => self.config.entrypoint = Some(words(command)),
            Kind::Cmd(command) => self.config.cmd = Some(words(command)),
            Kind::User(user) => self.config.user = expand(self, user)?,
            Kind::StopSignal(signal) => self.config.stop_signal = Some(expand(self, signal)?),
            Kind::Expose(ports) => {
                for port in all(self, ports)? {
                    self.config.exposed_ports.insert(
                        port_of(&port).ok_or_else(|| instruction.error(format!("{port:?} is no port")))?,
                        Empty {},
                    );
                }
            }
            Kind::Volume(paths) => self
                .config
                .volumes
                .extend(all(self, paths)?.into_iter().map(|path| (path, Empty {}))),
            Kind::Workdir(path) => {
                let path = self
                    .absolute(&expand(self, path)?)
                    .map_err(|why| instruction.error(why))?;
                self.config.working_dir = format!("/{path}");
                let place = self.tree.resolve(&path).map_err(|why| instruction.error(why))?;
                layered = self.make_folder(&place)?;
            }
            Kind::Copy(copy) => {
                let copy = Copy {
                    sources: all(self, &copy.sources)?,
                    target: expand(self, &copy.target)?,
                    ..copy.clone()
                };
                self.copy(&copy, instruction)?;
                layered = true;
            }
        }
        self.history.push(History {
            created: Some(self.created.clone()),
            created_by: Some(instruction.text.clone()),
            comment: None,
            empty_layer: !layered,
        });
        Ok(())
    }

    /// ENV goes over ARG.
    fn variable(&self, name: &str) -> Option<String> {
        let of_env = |pair: &String| {
            pair.split_once('=')
                .filter(|(other, _)| *other == name)
                .map(|(_, value)| value.to_owned())
        };
        self.config
            .env
            .iter()
            .find_map(of_env)
            .or_else(|| self.arguments.get(name).cloned())
    }

    /// What BuildKit gives to an ARG of these names.
    fn predefined(&self, name: &str) -> Option<String> {
        match name {
            "TARGETPLATFORM" => Some(self.platform.to_string()),
            "TARGETOS" => Some(self.platform.os.clone()),
            "TARGETARCH" => Some(self.platform.architecture.clone()),
            "TARGETVARIANT" => Some(self.platform.variant.clone().unwrap_or_default()),
            _ => None,
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

    fn make_folder(&mut self, path: &str) -> Result<bool> {
        if self.tree.has_folder(path) {
            return Ok(false);
        }
        self.add_layer(BTreeMap::from([(path.to_owned(), Item::folder())]), (0, 0))?;
        Ok(true)
    }

    fn copy(&mut self, copy: &Copy, instruction: &Instruction) -> Result<()> {
        let target = self
            .absolute(&copy.target)
            .and_then(|target| self.tree.resolve(&target))
            .map_err(|why| instruction.error(why))?;
        let found = self.context.find(&copy.sources, copy.is_add)?;
        let into_folder = copy.target.ends_with('/')
            || copy.target == "."
            || found.len() > 1
            || self.tree.has_folder(&target);
        if found.len() > 1
            && !copy.target.ends_with('/')
            && copy.target != "."
            && !self.tree.has_folder(&target)
        {
            return Err(instruction.error("with several sources the destination must end with '/'"));
        }
        let mut items = BTreeMap::new();
        for source in found {
            self.context
                .collect(&source, &target, into_folder, copy.mode, &mut items)?;
        }
        if items.is_empty() {
            return Err(instruction.error(format!("{} names nothing in the context", copy.sources.join(" "))));
        }
        self.add_layer(items, copy.owner)
    }

    /// Writes a layer of these items, parents that the image does not have included.
    fn add_layer(&mut self, mut items: BTreeMap<String, Item>, owner: (u32, u32)) -> Result<()> {
        let paths: Vec<String> = items.keys().cloned().collect();
        for path in paths {
            for (at, _) in path.match_indices('/') {
                let parent = &path[..at];
                if let Some(item) = items.get(parent) {
                    fits(parent, &Node::Folder, &item.node())?;
                    continue;
                }
                match self.tree.get(parent) {
                    Some(node) => fits(parent, &Node::Folder, node)?,
                    None => drop(items.insert(parent.to_owned(), Item::folder())),
                }
            }
        }
        for (path, item) in &items {
            refuse_whiteout(path)?;
            self.tree
                .get(path)
                .map_or(Ok(()), |there| fits(path, &item.node(), there))?;
        }
        let mut layer = Layer::create(&self.layout.join("blobs/sha256"), self.epoch)?;
        for (path, item) in &items {
            layer.add(path, item, owner, &self.context)?;
            self.tree.set(path.clone(), item.node());
        }
        let (descriptor, diff_id) = layer.finish()?;
        self.bytes += descriptor.size;
        self.layers.push(descriptor);
        self.diff_ids.push(diff_id);
        Ok(())
    }

    fn finish(mut self) -> Result<Built> {
        if !self.begun {
            return Err(Error::Containerfile {
                file: String::new(),
                line: 1,
                column: 1,
                why: "there is no FROM".into(),
            });
        }
        self.config.labels.extend(self.options.labels.iter().cloned());
        let config = ImageConfig {
            created: Some(self.created.clone()),
            architecture: self.platform.architecture.clone(),
            os: self.platform.os.clone(),
            variant: self.platform.variant.clone(),
            config: std::mem::take(&mut self.config),
            rootfs: oci::RootFs {
                kind: "layers".into(),
                diff_ids: std::mem::take(&mut self.diff_ids),
            },
            history: std::mem::take(&mut self.history),
            ..ImageConfig::default()
        };
        let config = self.write_blob(media_type::CONFIG, &oci::to_json(&config))?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: media_type::MANIFEST.into(),
            config,
            layers: std::mem::take(&mut self.layers),
            annotations: BTreeMap::new(),
        };
        let mut manifest = self.write_blob(media_type::MANIFEST, &oci::to_json(&manifest))?;
        manifest.platform = Some(self.platform.clone());
        if let Some(reference) = &self.options.reference {
            manifest
                .annotations
                .insert(ANNOTATION_IMAGE_NAME.into(), reference.to_string());
            manifest.annotations.insert(
                ANNOTATION_REF_NAME.into(),
                reference.tag().unwrap_or("latest").into(),
            );
        }
        write(
            &self.layout.join("oci-layout"),
            br#"{"imageLayoutVersion":"1.0.0"}"#,
        )?;
        write(
            &self.layout.join("index.json"),
            &oci::to_json(&Index::of(vec![manifest.clone()])),
        )?;
        Ok(Built {
            manifest,
            bytes: self.bytes,
        })
    }

    fn write_blob(&mut self, media_type: &str, bytes: &[u8]) -> Result<Descriptor> {
        let descriptor = Descriptor::of(media_type, bytes);
        write(
            &self.layout.join("blobs/sha256").join(descriptor.digest.hex()),
            bytes,
        )?;
        self.bytes += descriptor.size;
        Ok(descriptor)
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(Error::at("write", path))
}

fn words(command: &Command) -> Vec<String> {
    match command {
        Command::Exec(words) => words.clone(),
        Command::Shell(line) => vec!["/bin/sh".into(), "-c".into(), line.clone()],
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

/// RFC 3339 in UTC. Days to a civil date by counting from 1 March of the year 0, so that the leap day is the last of its year.
fn rfc3339(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_dates() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
        ];
        for (seconds, want) in cases {
            assert_eq!(rfc3339(seconds), want);
        }
    }

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
