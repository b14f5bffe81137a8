//! verify: all that is in images against what was stored, and what is damaged put back.

use std::io::Read;
use std::process::ExitCode;

use punnet_images::store::{PROBLEMS_MAX, Problem};
use punnet_images::{Image, Source, Store};

use super::images::store;
use super::registry;
use super::{ANY, Given, Verb, Words, flag, valued};
use crate::error::{CliError, Result};
use crate::roots::Roots;

/// Repairs of one image, each of as many problems as are looked at at once: enough for all entries of the largest.
const ROUNDS_MAX: usize = 200;

/// `punnet verify`
pub const VERIFY: Verb = Verb {
    name: "verify",
    summary: "Check all files of images against what was stored",
    synopsis: "[--repair [--from PATH]] [IMAGE...]",
    details: "All images when none is named. Files are read and compared with their digests, directories and links with what they were. What is damaged, and what\n\
              was added though no layer has it, is printed; exit status 1 when there is such and it stays so. --repair puts directories and links back as they\n\
              were, removes what was added, reads those layers again that damaged files came with, and replaces those files and nothing else, in every image\n\
              that has them.",
    flags: &[
        flag("repair", "Put back what is damaged, and remove what was added"),
        valued(
            "from",
            "PATH",
            "Take the layers from this layout directory or archive [those kept here, or the image's registry]",
        ),
    ],
    words: Words::Between(0, ANY),
    act: verify,
};

fn verify(roots: &Roots, given: Given) -> Result<ExitCode> {
    let store = store(roots)?;
    let images = match given.texts(0)?.as_slice() {
        [] => store.list()?,
        names => names
            .iter()
            .map(|name| store.get(name))
            .collect::<Result<_, _>>()?,
    };
    let mut damaged = 0;
    for image in &images {
        let problems = store.verify(image)?;
        problems
            .iter()
            .for_each(|problem| println!("{} {problem}", image.manifest));
        let layers = || layers_of(roots, &given, image);
        let is_whole =
            problems.is_empty() || (given.has("repair") && repair(&store, image, problems, &layers)?);
        damaged += usize::from(!is_whole);
    }
    if damaged == 0 {
        Ok(ExitCode::SUCCESS)
    } else {
        Err(CliError::Damaged {
            damaged,
            all: images.len(),
        }
        .into())
    }
}

/// Where the layers of an image are.
fn layers_of(roots: &Roots, given: &Given, image: &Image) -> Result<Source> {
    if let Some(path) = given.one("from") {
        return Ok(Source::open(path)?);
    }
    if let Some(layout) = image.layout() {
        return Ok(Source::open(layout)?);
    }
    let with_registry = image.references.iter().find(|name| name.registry().is_some());
    match with_registry.or_else(|| image.references.first()) {
        Some(reference) => registry::source_of(roots, given, reference),
        None => Err(CliError::NothingToRepairFrom(image.manifest.to_string()).into()),
    }
}

/// True when nothing is damaged any more.
fn repair(
    store: &Store,
    image: &Image,
    mut problems: Vec<Problem>,
    layers: &dyn Fn() -> Result<Source>,
) -> Result<bool> {
    // Directories, links and files that are whole elsewhere need no layers: then nobody is asked for them.
    let mut source = None;
    for _ in 0..ROUNDS_MAX {
        let repaired = store.repair(image, &problems, &mut |layer| {
            let source = match &source {
                Some(source) => source,
                None => source.insert(layers()?),
            };
            Ok::<_, Box<CliError>>(Box::new(source.blob_of(layer)?) as Box<dyn Read>)
        })?;
        println!(
            "{} repaired {} files under {} paths, from {} KiB of layers, and {} directories and links; removed {}",
            image.manifest,
            repaired.files,
            repaired.paths,
            repaired.read_bytes.div_ceil(1024),
            repaired.nodes,
            repaired.removed
        );
        let were_all = problems.len() < PROBLEMS_MAX;
        problems = store.verify(image)?;
        if were_all || problems.is_empty() {
            break;
        }
    }
    Ok(problems.is_empty())
}
