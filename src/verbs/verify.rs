//! verify: every file of images against its digest, and what is damaged put back.

use std::io::Read;
use std::process::ExitCode;

use punnet_images::store::Problem;
use punnet_images::{Image, Source, Store};

use super::images::store;
use super::registry;
use super::{ANY, Given, Verb, Words, flag, valued};
use crate::error::CliError;
use crate::roots::Roots;

/// `punnet verify`
pub const VERIFY: Verb = Verb {
    name: "verify",
    summary: "Check every file of images against its digest",
    synopsis: "[--repair [--from PATH]] [IMAGE...]",
    details: "All images when none is named. Each damaged file is printed; exit status 1 when something is damaged and stays so. --repair reads the layers again,\n\
              until the damaged files have been found in them, and replaces those and nothing else, in every image that has them.",
    flags: &[
        flag("repair", "Put back what is damaged"),
        valued(
            "from",
            "PATH",
            "Take the layers from this layout directory or archive [those kept here, or the image's registry]",
        ),
    ],
    words: Words::Between(0, ANY),
    act: verify,
};

fn verify(roots: &Roots, given: Given) -> Result<ExitCode, CliError> {
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
        if problems.is_empty() {
            continue;
        }
        if given.has("repair") && repair(&store, image, &problems, &layers_of(roots, &given, image)?)? {
            continue;
        }
        damaged += 1;
    }
    if damaged == 0 {
        Ok(ExitCode::SUCCESS)
    } else {
        Err(CliError::Damaged {
            damaged,
            all: images.len(),
        })
    }
}

/// Where the layers of an image are.
fn layers_of(roots: &Roots, given: &Given, image: &Image) -> Result<Source, CliError> {
    if let Some(path) = given.one("from") {
        return Ok(Source::open(path)?);
    }
    if let Some(layout) = image.layout() {
        return Ok(Source::open(layout)?);
    }
    let with_registry = image.references.iter().find(|name| name.registry().is_some());
    match with_registry.or_else(|| image.references.first()) {
        Some(reference) => registry::source_of(roots, given, reference),
        None => Err(CliError::NothingToRepairFrom(image.manifest.to_string())),
    }
}

/// True when nothing is damaged any more.
fn repair(store: &Store, image: &Image, problems: &[Problem], source: &Source) -> Result<bool, CliError> {
    let repaired = store.repair(image, problems, &mut |layer| {
        Ok(Box::new(source.blob_of(layer)?) as Box<dyn Read>)
    })?;
    println!(
        "{} repaired {} files under {} paths, from {} KiB of layers",
        image.manifest,
        repaired.files,
        repaired.paths,
        repaired.read_bytes.div_ceil(1024)
    );
    Ok(store.verify(image)?.is_empty())
}
