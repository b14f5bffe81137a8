//! build, images, tag, rmi, prune: what is done with images.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use punnet_images::build::{self, BuildOptions};
use punnet_images::export::{self, Format};
use punnet_images::{Image, ImportOptions, Platform, Reference, Source, Store, platform};
use serde::Serialize;

use super::{ANY, Given, JSON, Verb, Words, flag, valued};
use crate::container::Folders;
use crate::error::{CliError, print_chain};
use crate::roots::Roots;

/// `punnet build CONTEXT`
pub const BUILD: Verb = Verb {
    name: "build",
    summary: "Build an image from a Containerfile",
    synopsis: "[--tag NAME] [--file FILE] [--output PATH] [--platform OS/ARCH[/VARIANT]] [--build-arg NAME=VALUE]... [--label NAME=VALUE]... CONTEXT",
    details: "FROM scratch with ADD, ARG, CMD, COPY, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME and WORKDIR. The same inputs give the same\n\
              digest; SOURCE_DATE_EPOCH sets every time in the image (1970 otherwise). Prints the manifest's digest. With --output the image is written as\n\
              an OCI archive as well, or as an OCI layout directory when PATH ends in '/'.",
    flags: &[
        valued(
            "tag",
            "NAME",
            "Name in the store; without it and without --output the image has only its digest",
        )
        .or('t'),
        valued(
            "file",
            "FILE",
            "The Containerfile [CONTEXT/Containerfile, CONTEXT/Dockerfile]",
        )
        .or('f'),
        valued("output", "PATH", "Write the image there too").or('o'),
        valued("platform", "PLATFORM", "What the image is for [this board]"),
        valued("build-arg", "NAME=VALUE", "Value of an ARG"),
        valued("label", "NAME=VALUE", "A label over those of the Containerfile"),
        JSON,
    ],
    words: Words::Between(1, 1),
    act: build,
};

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
    summary: "Remove images without a name and files no image needs",
    synopsis: "[--json]",
    details: "Images that a container was made from stay.",
    flags: &[JSON],
    words: Words::Between(0, 0),
    act: |roots, given| {
        let used = manifests_in_use(roots)?;
        let pruned = store(roots)?.prune(|digest| used.contains(&digest.to_string()))?;
        if given.has("json") {
            print_json(&pruned);
        } else {
            println!(
                "removed {} images, {} files, {} KiB",
                pruned.images,
                pruned.objects,
                pruned.bytes.div_ceil(1024)
            );
        }
        Ok(ExitCode::SUCCESS)
    },
};

/// The store over this data root.
pub fn store(roots: &Roots) -> Result<Store, CliError> {
    let data = roots.data()?;
    let has_policy = data.join(punnet_images::signature::policy::FILE_NAME).exists();
    Ok(Store::open(data.join("store"))?.asking_for_signatures(has_policy))
}

fn build(roots: &Roots, given: Given) -> Result<ExitCode, CliError> {
    let store = store(roots)?;
    let reference = given.one("tag").map(str::parse::<Reference>).transpose()?;
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok();
    let bad_epoch = || CliError::Usage("SOURCE_DATE_EPOCH is not a number of seconds".into());
    let options = BuildOptions {
        context: PathBuf::from(&given.words()[0]),
        containerfile: given.one("file").map(PathBuf::from),
        build_args: pairs(&given, "build-arg")?,
        labels: pairs(&given, "label")?,
        platform: platform_option(&given)?,
        reference: reference.clone(),
        source_date_epoch: epoch
            .map(|text| text.parse().map_err(|_| bad_epoch()))
            .transpose()?,
    };
    // The layout is made in the store: on the same disk, and gone with this value or, when this process is killed, with the next that opens the store.
    let scratch = store.scratch()?;
    let built = build::build(&options, scratch.path())?;
    let source = Source::open(scratch.path())?;
    if let Some(output) = given.one("output") {
        export::write(
            &source,
            &built.manifest,
            reference.as_ref(),
            format_of(&given, output)?,
            Path::new(output),
        )?;
    }
    if given.one("output").is_none() || reference.is_some() {
        // An image for another board may be built here and is stored like any other: it is only running it that needs the CPU.
        let platform = options.platform.clone().unwrap_or_else(platform::host);
        let mut import = ImportOptions {
            name: None,
            platform,
            reference: reference.clone(),
            expect: Some(built.manifest.digest),
            keep_blobs: true,
            progress: &mut |_| {},
        };
        store.import(&source, &mut import)?;
    }
    if given.has("json") {
        print_json(
            &serde_json::json!({ "manifest": built.manifest.digest, "reference": reference.map(|name| name.to_string()) }),
        );
    } else {
        println!("{}", built.manifest.digest);
    }
    Ok(ExitCode::SUCCESS)
}

/// What `images` and `load` print of an image under one of its names.
#[derive(Serialize)]
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

fn list(roots: &Roots, given: Given) -> Result<ExitCode, CliError> {
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

fn remove(roots: &Roots, given: Given) -> Result<ExitCode, CliError> {
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
        })
    }
}

/// Manifests that containers here were made from.
fn manifests_in_use(roots: &Roots) -> Result<BTreeSet<String>, CliError> {
    let folders = Folders::all(roots)?;
    Ok(folders
        .iter()
        .filter_map(|folders| folders.meta().ok())
        .map(|meta| meta.manifest)
        .collect())
}

/// `--platform`.
pub fn platform_option(given: &Given) -> Result<Option<Platform>, CliError> {
    Ok(given.one("platform").map(str::parse::<Platform>).transpose()?)
}

fn pairs(given: &Given, long: &str) -> Result<Vec<(String, String)>, CliError> {
    let pair = |text: &str| {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| CliError::Usage(format!("--{long} takes NAME=VALUE, not {text:?}")))?;
        Ok((name.to_string(), value.to_string()))
    };
    given.all(long).map(pair).collect()
}

/// `--format`, or what the path says.
pub fn format_of(given: &Given, output: &str) -> Result<Format, CliError> {
    match given.one("format") {
        None if output.ends_with('/') => Ok(Format::OciDir),
        None | Some("oci-archive") => Ok(Format::OciArchive),
        Some("oci-dir") => Ok(Format::OciDir),
        Some("docker-archive") => Ok(Format::DockerArchive),
        Some(other) => Err(CliError::Usage(format!("--format does not take {other:?}"))),
    }
}

/// One line of JSON on standard output.
pub fn print_json(value: &impl Serialize) {
    println!(
        "{}",
        serde_json::to_string(value).expect("rows of strings and numbers are always JSON")
    );
}
