//! images, tag, rmi, prune: what is done with images.

use std::collections::BTreeSet;
use std::process::ExitCode;

use punnet_images::export::Format;
use punnet_images::{Image, Platform, Reference, Store};
use punnet_json::ToJson;

use super::{ANY, Given, JSON, Verb, Words, flag};
use crate::container::Folders;
use crate::error::{CliError, Result, print_chain};
use crate::roots::Roots;

/// `punnet images`
pub const IMAGES: Verb = Verb {
    name: "images",
    summary: "List images",
    synopsis: "[--json | --quiet]",
    details: "JSON: an array of {reference, manifest, size_bytes, files}, one entry for each name; reference is null for an image without one.",
    flags: &[flag("quiet", "Digests only").or('q'), JSON],
    words: Words::Between(0, 0),
    act: list,
};

/// `punnet tag IMAGE NAME`
pub const TAG: Verb = Verb {
    name: "tag",
    summary: "Give an image one more name",
    synopsis: "IMAGE NAME",
    details: "",
    flags: &[],
    words: Words::Between(2, 2),
    act: |roots, given| {
        let store = store(roots)?;
        let image = store.get(given.text(0)?)?;
        store.tag(&image, &given.text(1)?.parse::<Reference>()?)?;
        Ok(ExitCode::SUCCESS)
    },
};

/// `punnet rmi IMAGE...`
pub const RMI: Verb = Verb {
    name: "rmi",
    summary: "Remove names of images, and images with their last name",
    synopsis: "[--force] IMAGE...",
    details: "An image that a container was made from stays unless --force is given; running containers are never touched.",
    flags: &[flag("force", "Also when containers were made from it").or('f')],
    words: Words::Between(1, ANY),
    act: remove,
};

/// `punnet prune`
pub const PRUNE: Verb = Verb {
    name: "prune",
    summary: "Remove images without a name, files no image needs, and remembered build steps",
    synopsis: "[--json]",
    details: "Images that a container was made from stay. While a build is running, the steps of builds stay.",
    flags: &[JSON],
    words: Words::Between(0, 0),
    act: |roots, given| {
        let used = manifests_in_use(roots)?;
        let pruned = store(roots)?.prune(|digest| used.contains(&digest.to_string()))?;
        let steps = super::build::prune(roots)?;
        if given.has("json") {
            let steps = steps.unwrap_or_default();
            print_json(&punnet_json::json!({
                "images": pruned.images, "objects": pruned.objects, "bytes": pruned.bytes,
                "build_steps": steps.steps, "build_bytes": steps.bytes
            }));
        } else {
            println!(
                "removed {} images, {} files, {} KiB",
                pruned.images,
                pruned.objects,
                pruned.bytes.div_ceil(1024)
            );
            match steps {
                Some(steps) if steps.steps == 0 => {}
                Some(steps) => println!(
                    "removed {} build steps, {} KiB",
                    steps.steps,
                    steps.bytes.div_ceil(1024)
                ),
                None => println!("kept the build steps: a build is running"),
            }
        }
        Ok(ExitCode::SUCCESS)
    },
};

/// The store over this data root.
pub fn store(roots: &Roots) -> Result<Store> {
    let data = roots.data()?;
    let has_policy = data.join(punnet_images::signature::policy::FILE_NAME).exists();
    Ok(Store::open(data.join("store"))?.asking_for_signatures(has_policy))
}

/// What `images` and `load` print of an image under one of its names.
#[derive(ToJson)]
pub struct Row {
    reference: Option<String>,
    manifest: String,
    size_bytes: u64,
    files: u64,
}

/// One row for each name.
pub fn rows(image: &Image) -> Vec<Row> {
    let row = |reference| Row {
        reference,
        manifest: image.manifest.to_string(),
        size_bytes: image.summary.size_bytes,
        files: image.summary.files,
    };
    let mut rows: Vec<_> = image
        .references
        .iter()
        .map(|reference| row(Some(reference.to_string())))
        .collect();
    if rows.is_empty() {
        rows.push(row(None));
    }
    rows
}

fn list(roots: &Roots, given: Given) -> Result<ExitCode> {
    let images = store(roots)?.list()?;
    let rows: Vec<_> = images.iter().flat_map(rows).collect();
    if given.has("json") {
        print_json(&rows);
    } else if given.has("quiet") {
        images.iter().for_each(|image| println!("{}", image.manifest));
    } else {
        println!("{:<40} {:<20} {:>10} {:>8}", "NAME", "MANIFEST", "KIB", "FILES");
        for row in rows {
            let name = row.reference.as_deref().unwrap_or("<none>");
            println!(
                "{name:<40} {:<20} {:>10} {:>8}",
                &row.manifest[..19],
                row.size_bytes.div_ceil(1024),
                row.files
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn remove(roots: &Roots, given: Given) -> Result<ExitCode> {
    let store = store(roots)?;
    let used = manifests_in_use(roots)?;
    let mut failed = 0;
    for name in given.texts(0)? {
        let removed = store.get(&name).map_err(CliError::from).and_then(|image| {
            // A name may go while another keeps the image.
            if image.references.len() <= 1
                && used.contains(&image.manifest.to_string())
                && !given.has("force")
            {
                return Err(CliError::ImageInUse(name.clone()));
            }
            Ok(store.remove(&name)?)
        });
        match removed {
            Ok(_) => println!("{name}"),
            Err(error) => {
                print_chain(&error);
                failed += 1;
            }
        }
    }
    if failed == 0 {
        Ok(ExitCode::SUCCESS)
    } else {
        Err(CliError::Some {
            failed,
            all: given.words().len(),
        }
        .into())
    }
}

/// Manifests that containers here were made from.
fn manifests_in_use(roots: &Roots) -> Result<BTreeSet<String>> {
    let folders = Folders::all(roots)?;
    Ok(folders
        .iter()
        .filter_map(|folders| folders.meta().ok())
        .map(|meta| meta.manifest)
        .collect())
}

/// `--platform`.
pub fn platform_option(given: &Given) -> Result<Option<Platform>> {
    Ok(given.one("platform").map(str::parse::<Platform>).transpose()?)
}

/// `NAME=VALUE` options.
pub fn pairs(given: &Given, long: &str) -> Result<Vec<(String, String)>> {
    let pair = |text: &str| {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| CliError::usage(format_args!("--{long} takes NAME=VALUE, not {text:?}")))?;
        Ok((name.to_string(), value.to_string()))
    };
    given.all(long).map(pair).collect()
}

/// `--format`, or what the path says.
pub fn format_of(given: &Given, output: &str) -> Result<Format> {
    match given.one("format") {
        None if output.ends_with('/') => Ok(Format::OciDir),
        None | Some("oci-archive") => Ok(Format::OciArchive),
        Some("oci-dir") => Ok(Format::OciDir),
        Some("docker-archive") => Ok(Format::DockerArchive),
        Some(other) => Err(CliError::usage(format_args!("--format does not take {other:?}"))),
    }
}

/// One line of JSON on standard output.
pub fn print_json(value: &dyn ToJson) {
    println!("{}", punnet_json::to_string(value));
}
