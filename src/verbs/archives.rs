//! save, load: images to and from files, directories and streams.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use punnet_images::export::{self, Format, Saved};
use punnet_images::signature;
use punnet_images::{Blobs, Digest, Image, ImportOptions, Reference, Source, platform};

use super::images::{format_of, platform_option, print_json, rows, store};
use super::progress::{Shape, Shown};
use super::{ANY, Given, JSON, Verb, Words, flag, valued};
use crate::container::file;
use crate::error::{CliError, Result};
use crate::roots::Roots;

/// `punnet load [PATH]`
pub const LOAD: Verb = Verb {
    name: "load",
    summary: "Take images in from a file, a directory or standard input",
    synopsis: "[--tag NAME] [--name NAME] [--platform OS/ARCH[/VARIANT]] [--expect DIGEST] [PATH|-]",
    details: "PATH is an OCI image layout directory, an OCI archive or a docker-archive (docker save), on a USB stick for example; archives may be compressed\n\
              with gzip. All images in it are taken unless --name says which. Every digest is checked; an image is there whole or not at all. An image\n\
              for another CPU or system is refused before any layer is read. What comes through a pipe, or is compressed as a whole, is put on the disk\n\
              once more while it is read: an archive has its table of contents at its end.",
    flags: &[
        valued("input", "PATH", "The same as PATH").or('i'),
        valued("tag", "NAME", "Name it gets here [the one it has there]").or('t'),
        valued("name", "NAME", "Which image, when PATH has several"),
        valued(
            "platform",
            "PLATFORM",
            "Take this platform's image [this board's]",
        ),
        valued("expect", "DIGEST", "Refuse any other manifest"),
        flag(
            "keep-blobs",
            "Keep the layers as they are too, so that save gives the same digests",
        ),
        JSON,
    ],
    words: Words::Between(0, 1),
    act: load,
};

/// `punnet save IMAGE...`
pub const SAVE: Verb = Verb {
    name: "save",
    summary: "Write images to a file, a directory or standard output",
    synopsis: "[--output PATH|-] [--format oci-archive|oci-dir|docker-archive] IMAGE...",
    details: "Images built here, or loaded with --keep-blobs, keep their digests. Of others only the files are stored: they are written as one layer, which is\n\
              the same every time, but makes another manifest than the image came with; a line says so.",
    flags: &[
        valued("output", "PATH", "Where to [standard output]").or('o'),
        valued(
            "format",
            "FORMAT",
            "oci-archive, oci-dir or docker-archive [oci-archive; oci-dir when PATH ends in '/']",
        ),
    ],
    words: Words::Between(1, ANY),
    act: save,
};

/// Standard input or output, on the command line.
const STREAM: &str = "-";

fn load(roots: &Roots, given: Given) -> Result<ExitCode> {
    let store = store(roots)?;
    let path = given
        .one("input")
        .or(given.text(0).ok())
        .filter(|path| !path.is_empty());
    let source = open(roots, path.unwrap_or(STREAM))?;
    let wanted: Vec<Option<String>> = match given.one("name") {
        Some(name) => vec![Some(name.to_owned())],
        None => names(&source),
    };
    let single = wanted.len() == 1;
    if !single && (given.one("tag").is_some() || given.one("expect").is_some()) {
        return Err(CliError::usage(format_args!(
            "{} holds several images: say which with --name",
            source.path().display()
        )));
    }
    for name in &wanted {
        let mut shown = Shown::new(Shape::choose(given.has("json"), !std::io::stderr().is_terminal()));
        let mut progress = |progress| shown.show(progress);
        // A name in a layout may be a bare tag or anything else: then the image has only its digest here.
        let own_name = || name.as_ref().and_then(|name| name.parse().ok());
        let mut options = ImportOptions {
            name: name.as_deref(),
            platform: platform_option(&given)?.unwrap_or_else(platform::host),
            reference: match given.one("tag") {
                Some(tag) => Some(tag.parse::<Reference>()?),
                None => own_name(),
            },
            expect: given.one("expect").map(str::parse::<Digest>).transpose()?,
            blobs: match given.has("keep-blobs") {
                true => Blobs::Keep,
                false => Blobs::Leave,
            },
            progress: &mut progress,
        };
        let image = store.import(&source, &mut options)?;
        shown.end();
        if given.has("json") {
            rows(&image).iter().for_each(|row| print_json(row));
        } else {
            println!("{}", image.manifest);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The names in the source, each once; one `None` when there is none.
fn names(source: &Source) -> Vec<Option<String>> {
    let mut names: Vec<_> = source.images().into_iter().map(|image| image.name).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        // Opening it has found no image, which importing says best.
        names.push(None);
    }
    names
}

/// A file or directory where it lies; anything else is put on the disk of the store first.
fn open(roots: &Roots, path: &str) -> Result<Source> {
    let stream = || Ok(Source::from_stream(std::io::stdin().lock(), &spool(roots)?)?);
    if path == STREAM {
        let stdin = Path::new("/dev/stdin");
        if std::io::stdin().is_terminal() {
            return Err(CliError::Usage(
                "nothing to load: give a PATH, or an archive on standard input".into(),
            )
            .into());
        }
        // `punnet load <FILE` needs no copy.
        return match stdin.metadata() {
            Ok(found) if found.is_file() => open_file(roots, stdin),
            _ => stream(),
        };
    }
    open_file(roots, Path::new(path))
}

fn open_file(roots: &Roots, path: &Path) -> Result<Source> {
    if path.is_file() {
        let mut opened = std::fs::File::open(path).map_err(file("cannot open", path))?;
        let mut magic = [0; 2];
        if opened.read_exact(&mut magic).is_ok() && magic == export::GZIP_MAGIC {
            let whole = std::fs::File::open(path).map_err(file("cannot open", path))?;
            return Ok(Source::from_stream(whole, &spool(roots)?)?);
        }
    }
    Ok(Source::open(path)?)
}

/// Where streams are put: the disk that the image goes to as well.
fn spool(roots: &Roots) -> Result<PathBuf> {
    Ok(roots.data()?.join("store"))
}

fn save(roots: &Roots, given: Given) -> Result<ExitCode> {
    let output = given.one("output").unwrap_or(STREAM);
    if output == STREAM && std::io::stdout().is_terminal() {
        return Err(CliError::Usage(
            "an archive is not for a terminal: give --output PATH, or send it on with a pipe".into(),
        )
        .into());
    }
    let store = store(roots)?;
    let mut images = Vec::new();
    for name in given.texts(0)? {
        let image = store.get(&name)?;
        let references = names_to_save(&image, &name);
        let (source, manifest) = image.source()?;
        if manifest.digest != image.manifest {
            eprintln!(
                "punnet: {name} is written as one layer, because its own were not kept: its manifest is {} there, {} here",
                manifest.digest, image.manifest
            );
        }
        let evidence = store.evidence(&image.manifest)?;
        if manifest.digest == image.manifest
            && !evidence.signatures.is_empty()
            && format_of(&given, output)? != Format::DockerArchive
        {
            let name = references
                .first()
                .map_or_else(|| "image".to_owned(), Reference::name);
            let tagged = format!("{name}:{}", signature::tag_of(&image.manifest)).parse()?;
            let (source, manifest) = Source::of_signatures(&evidence.signatures);
            images.push(Saved {
                source,
                manifest,
                references: vec![tagged],
            });
        }
        images.push(Saved {
            source,
            manifest,
            references,
        });
    }
    let format = format_of(&given, output)?;
    if output == STREAM {
        export::write_stream(&images, format, Box::new(std::io::stdout()), &spool(roots)?)?;
    } else {
        export::write_all(&images, format, Path::new(output))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The name it was asked for by, or the first of its names.
fn names_to_save(image: &Image, asked: &str) -> Vec<Reference> {
    let asked = asked.parse::<Reference>().ok();
    let asked = asked.filter(|reference| image.references.contains(reference));
    asked
        .or_else(|| image.references.first().cloned())
        .into_iter()
        .collect()
}
