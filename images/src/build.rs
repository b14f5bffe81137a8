//! Builds images out of a Containerfile.
//!
//! `containerfile` turns text into instructions, `plan` finds the stages that are needed, `stage` applies one instruction after the other, `output`
//! writes the image as an OCI layout. Below them: `expand` fills variables in, `ignore` reads .dockerignore, `copy` takes files from the `context` or from
//! another stage, `layer` writes a layer, `disk` reads what RUN has changed, `cache` remembers steps.
//!
//! The same inputs give the same bytes: entries are sorted, owners are 0 unless `--chown` says otherwise, and every time of what is copied is
//! `source_date_epoch`, or 1970; what RUN has written gets no time later than that.
//!
//! Nothing is executed and nothing is mounted here: RUN and base images come through the [`Worker`]. A build without RUN and without a base needs no
//! mount at all. Each COPY, ADD, RUN and WORKDIR that changes something is one layer.

mod containerfile;

mod expand;
mod plan;

mod stage;

mod output;
mod run;

mod archive;
mod cache;
mod context;
mod copy;
mod disk;
mod ignore;
mod layer;
mod tree;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::oci::Descriptor;
use crate::{Error, Image, Platform, Reference, Result, chain, platform};

use cache::Cache;
pub use cache::{PrunedSteps, prune};
pub use containerfile::{Containerfile, Instruction, Kind, parse};
use context::Context;
use plan::{Origin, Plan, StagePlan};
pub use run::{Ran, RunStep, SCRIPT_PATH};
use stage::{Stage, Stages};

/// Bytes of a Containerfile: far beyond any that a person reads.
const CONTAINERFILE_BYTES_MAX: u64 = 1 << 20;

/// Platforms of one build: twice as many as there are boards for.
const PLATFORMS_MAX: usize = 16;

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
    /// What the image is for; this machine when none is given, an index when several are.
    pub platforms: Vec<Platform>,
    /// The stage to build, by name or number; the last when not given.
    pub target: Option<String>,
    /// Its name in the layout.
    pub reference: Option<Reference>,
    /// Seconds since 1970 for every time in the image (reproducible-builds.org, SOURCE_DATE_EPOCH).
    pub source_date_epoch: Option<u64>,
    /// RUN gets no network.
    pub is_offline: bool,
    /// Steps that were done before are done again.
    pub no_cache: bool,
}

/// Where a build works.
#[derive(Clone, Debug)]
pub struct BuildPlace {
    /// An empty directory of its own, which whoever made it removes; `layout` in it becomes an OCI image layout.
    pub scratch: PathBuf,
    /// Steps of earlier builds, on the same file system; nothing is remembered when not given.
    pub cache: Option<PathBuf>,
}

impl BuildPlace {
    /// Where the image layout is after a build.
    pub fn layout(&self) -> PathBuf {
        self.scratch.join("layout")
    }
}

/// What has been built.
#[derive(Clone, Debug)]
pub struct Built {
    /// Points to the manifest in the layout, or to the index of several.
    pub image: Descriptor,
    /// The manifests, each with its platform.
    pub manifests: Vec<Descriptor>,
}

/// What a build tells while it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A step begins.
    Step {
        /// From 1.
        number: usize,
        /// Of how many.
        all: usize,
        /// What it is built for, when there are several.
        platform: Option<&'a Platform>,
        /// The instruction.
        text: &'a str,
    },
    /// The step was done before; its result is used.
    Cached,
}

/// Does for a build what this crate does not do.
pub trait Worker {
    /// An image of the store, fetched first when it is missing.
    fn image(&mut self, name: &Reference, platform: &Platform) -> Result<Image>;

    /// Executes a step in a container.
    fn run(&mut self, step: &RunStep) -> Result<Ran>;

    /// Shows how far it is.
    fn tell(&mut self, event: Event<'_>);
}

/// Builds, and leaves an OCI image layout in the place.
pub fn build(options: &BuildOptions, place: &BuildPlace, worker: &mut dyn Worker) -> Result<Built> {
    let (name, text) = containerfile_of(options)?;
    let file = parse(&text).map_err(|error| named(error, &name))?;
    let layout = place.layout();
    let layout_blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&layout_blobs).map_err(Error::at("create", &layout_blobs))?;
    let cache = place
        .cache
        .as_ref()
        .map(|root| Cache::open(root, !options.no_cache))
        .transpose()?;
    let context = Context::new(&options.context)?;
    let host = platform::host();
    let platforms = match options.platforms.as_slice() {
        [] => vec![host.clone()],
        given => given.to_vec(),
    };
    if platforms.len() > PLATFORMS_MAX {
        return Err(Error::Limit {
            what: "the number of platforms".into(),
            limit: PLATFORMS_MAX.to_string(),
        }
        .into());
    }
    let plans = platforms
        .iter()
        .map(|target| plan::plan(&file, options, target, &host).map_err(|error| named(error, &name)))
        .collect::<Result<Vec<_>>>()?;
    let steps_of = |plan: &Plan| -> usize {
        let needed = plan
            .needed
            .iter()
            .map(|index| plan.stages[*index].instructions.len() + 1);
        needed.sum()
    };
    let epoch = options.source_date_epoch.unwrap_or(0);
    let mut progress = Progress {
        done: 0,
        all: plans.iter().map(steps_of).sum(),
    };
    let images = RefCell::new(BTreeMap::new());
    let made = Cell::new(0);
    let mut manifests = Vec::new();
    for (target, plan) in platforms.iter().zip(&plans) {
        let shop = Shop {
            options,
            scratch: &place.scratch,
            layout: &layout,
            cache: &cache,
            context: &context,
            created: rfc3339(epoch),
            epoch,
            escape: file.escape,
            host: host.clone(),
            target: target.clone(),
            several: platforms.len() > 1,
            outer_arguments: &plan.outer_arguments,
            stages: &plan.stages,
            stage: Cell::new(0),
            images: &images,
            made: &made,
        };
        let stage = build_stages(&file, plan, &shop, &mut progress, worker, &name)?;
        manifests.push(stage.write(&shop)?);
    }
    output::finish(&layout, manifests, options.reference.as_ref())
}

/// What all steps of one platform's build share.
struct Shop<'a> {
    options: &'a BuildOptions,
    /// With the layers, also those that no image will have.
    scratch: &'a Path,
    layout: &'a Path,
    cache: &'a Option<Cache>,
    context: &'a Context,
    created: String,
    epoch: u64,
    escape: char,
    host: Platform,
    target: Platform,
    /// There are other platforms too.
    several: bool,
    outer_arguments: &'a BTreeMap<String, String>,
    stages: &'a [StagePlan],
    /// Index of the one that is being built.
    stage: Cell<usize>,
    images: &'a RefCell<BTreeMap<(String, String), Rc<Stage>>>,
    made: &'a Cell<u32>,
}

struct Progress {
    done: usize,
    all: usize,
}

impl Shop<'_> {
    /// A stage that is just an image.
    fn image(&self, name: &str, platform: &Platform, worker: &mut dyn Worker) -> Result<Rc<Stage>> {
        let key = (name.to_owned(), platform.to_string());
        if let Some(known) = self.images.borrow().get(&key) {
            return Ok(known.clone());
        }
        let reference: Reference = name.parse()?;
        let image = worker.image(&reference, platform)?;
        let stage = Rc::new(Stage::from_image(image, reference, platform.clone())?);
        self.images.borrow_mut().insert(key, stage.clone());
        Ok(stage)
    }

    /// An empty directory for one step.
    fn make_folder(&self, kind: &str) -> Result<PathBuf> {
        self.made.set(self.made.get() + 1);
        let path = self.scratch.join(format!("{kind}-{}", self.made.get()));
        fs::create_dir(&path).map_err(Error::at("create", &path))?;
        Ok(path)
    }
}

/// Builds the stages that are needed, one after the other; returns the last.
fn build_stages(
    file: &Containerfile,
    plan: &Plan,
    shop: &Shop<'_>,
    progress: &mut Progress,
    worker: &mut dyn Worker,
    name: &str,
) -> Result<Stage> {
    let mut done = Stages::new();
    for index in &plan.needed {
        let stage_plan = &plan.stages[*index];
        shop.stage.set(*index);
        let from = &file.instructions[stage_plan.at];
        tell(shop, progress, worker, from);
        let mut stage = match &stage_plan.base {
            Origin::Scratch => Stage::scratch(stage_plan.platform.clone()),
            Origin::Stage(earlier) => {
                let missing = || from.error("the stage is not built");
                Stage::on(
                    done.get(earlier).ok_or_else(missing)?,
                    stage_plan.platform.clone(),
                )
            }
            Origin::Image(image) => {
                let stage = shop
                    .image(image, &stage_plan.platform, worker)
                    .map_err(|error| placed(error, from, name))?;
                Stage::on(&stage, stage_plan.platform.clone())
            }
        };
        for instruction in &file.instructions[stage_plan.instructions.clone()] {
            tell(shop, progress, worker, instruction);
            stage
                .apply(instruction, shop, &done, worker)
                .map_err(|error| placed(error, instruction, name))?;
        }
        done.insert(*index, stage);
    }
    let last = done.pop_last().map(|(_, stage)| stage);
    last.ok_or_else(|| Error::Run("there is no stage to build".into()).into())
}

fn tell(shop: &Shop<'_>, progress: &mut Progress, worker: &mut dyn Worker, instruction: &Instruction) {
    progress.done += 1;
    worker.tell(Event::Step {
        number: progress.done,
        all: progress.all,
        platform: shop.several.then_some(&shop.target),
        text: instruction.first_line(),
    });
}

/// A failed step is told with its line; what failed in it belongs to the same sentence.
fn placed(error: Box<Error>, instruction: &Instruction, name: &str) -> Box<Error> {
    match *error {
        Error::Containerfile { .. } => named(error, name),
        // What to do about it has nothing to do with the line.
        Error::Full { .. } => error,
        other => Box::new(Error::Containerfile {
            file: name.to_owned(),
            line: instruction.line,
            column: instruction.column,
            why: chain(&other),
        }),
    }
}

fn named(mut error: Box<Error>, name: &str) -> Box<Error> {
    if let Error::Containerfile { file, .. } = &mut *error {
        *file = name.into();
    }
    error
}

/// The Containerfile's name and text; `-` is standard input.
fn containerfile_of(options: &BuildOptions) -> Result<(String, String)> {
    let path = match &options.containerfile {
        Some(path) if path == Path::new("-") => {
            return Ok(("standard input".into(), read_text(std::io::stdin(), path)?));
        }
        Some(path) => path.clone(),
        None => find_containerfile(&options.context)?,
    };
    let file = fs::File::open(&path).map_err(Error::at("open", &path))?;
    Ok((path.display().to_string(), read_text(file, &path)?))
}

fn find_containerfile(context: &Path) -> Result<PathBuf> {
    let candidates = ["Containerfile", "Dockerfile"].map(|name| context.join(name));
    let found = candidates.iter().find(|path| path.is_file()).cloned();
    found.ok_or_else(|| {
        Error::NotFound {
            name: "Containerfile or Dockerfile".into(),
            place: context.into(),
        }
        .into()
    })
}

fn read_text(from: impl std::io::Read, path: &Path) -> Result<String> {
    let mut text = String::new();
    let mut from = from.take(CONTAINERFILE_BYTES_MAX + 1);
    std::io::Read::read_to_string(&mut from, &mut text).map_err(Error::at("read", path))?;
    if text.len() as u64 > CONTAINERFILE_BYTES_MAX {
        return Err(Error::Limit {
            what: path.display().to_string(),
            limit: format!("{CONTAINERFILE_BYTES_MAX} bytes"),
        }
        .into());
    }
    Ok(text)
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
    }.into())
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
}
