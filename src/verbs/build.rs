//! build: images out of a Containerfile. Steps run as containers of our own runtime (build/step.rs), in a work folder that dies with its build
//! (build/work.rs).

mod step;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;

use punnet_images::build::{self, BuildOptions, BuildPlace, Built};
use punnet_images::export::{self, Format};
use punnet_images::{Blobs, Error, ImportOptions, Platform, Reference, Source, Store, platform};

use super::{Given, JSON, Verb, Words, containers, flag, images, registry, valued};
use crate::error::{CliError, Result};
use crate::roots::Roots;
use step::Hands;
use work::Work;

pub use work::{prune, reclaim};

/// `punnet build CONTEXT`
pub const BUILD: Verb = Verb {
    name: "build",
    summary: "Build an image from a Containerfile",
    synopsis: "[OPTIONS] CONTEXT",
    details: "The Containerfile is read as Docker reads a Dockerfile; docs/containerfile.md says what is supported and what differs. COPY takes files from CONTEXT, without\n\
              what its .dockerignore leaves out. RUN executes in a container of Punnet's own, with the rights that `punnet run` gives and, unless --network says\n\
              otherwise, on this device's network, since steps mostly fetch something. It needs overlayfs; as an ordinary user also user namespaces, and there\n\
              root is the only user a step can be. Base images come from the store, and are fetched from their registries when it has none.\n\
              \n\
              Steps done before are not done again as long as nothing they depend on has changed; `punnet prune` forgets them. The same inputs give the same digest:\n\
              SOURCE_DATE_EPOCH sets every time in the image (1970 otherwise). What RUN does is the same only if its commands are.\n\
              \n\
              Prints the manifest's digest; progress and the output of steps go to standard error. With --json each step is an object {step, of, instruction, platform}\n\
              or {cached} on standard output, and the last one is {manifest, reference, platforms}. With several platforms the digest is that of their index, which\n\
              --output writes; the store gets the image for this board. A step for another CPU needs an emulator that the kernel knows (binfmt_misc).\n\
              \n\
              Exit status: 0 built; 1 failed, with file, line and column of the instruction; 2 the command line makes no sense.\n\
              \n\
              Examples:\n  \
                punnet build --tag app .\n  \
                punnet build --tag app --target test --build-arg VERSION=1.2 --no-cache .\n  \
                punnet build --platform linux/amd64,linux/arm64,linux/arm/v7,linux/arm/v6 --output app.oci.tar .",
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
            "The Containerfile [CONTEXT/Containerfile, CONTEXT/Dockerfile]; - is standard input",
        )
        .or('f'),
        valued(
            "output",
            "PATH",
            "Write the image there too: an OCI archive, or a layout directory when it ends in '/'; also type=oci|docker,dest=PATH",
        )
        .or('o'),
        valued(
            "platform",
            "PLATFORM",
            "What the image is for, as linux/arm/v7 [this board]; several with commas, or given more than once",
        ),
        valued("build-arg", "NAME[=VALUE]", "Value of an ARG; without a value the environment's"),
        valued("label", "NAME=VALUE", "A label over those of the Containerfile"),
        valued("target", "STAGE", "Build this stage and what it needs [the last]"),
        valued("network", "host|none", "What RUN can reach: all that this device can, or nothing [host]"),
        flag("no-cache", "Do every step again"),
        registry::PULL_POLICY,
        registry::CA,
        registry::INSECURE,
        flag("quiet", "Only the digest; a step's output only when it fails").or('q'),
        JSON,
    ],
    words: Words::Between(1, 1),
    act: build,
};

fn build(roots: &Roots, given: Given) -> Result<ExitCode> {
    let options = options(&given)?;
    let output = given.one("output").map(output).transpose()?;
    if options.platforms.len() > 1
        && output
            .as_ref()
            .is_some_and(|(format, _)| *format == Format::DockerArchive)
    {
        return Err(CliError::Usage("a docker-archive has room for one platform".into()).into());
    }
    let own = |wanted: &Platform| {
        let fit = platform::host().fit(wanted, platform::host_runs_32bit_arm());
        fit.is_some()
    };
    // Before anything is made: the command may begin anew.
    let own_file = containers::out_of_reach_if(!options.platforms.iter().all(own))?;
    let data = roots.data()?;
    let store = images::store(roots)?;
    reclaim(roots)?;
    let work = Work::make(&data)?;
    let place = BuildPlace {
        scratch: work.path.clone(),
        cache: Some(data.join("build/cache")),
    };
    let mut hands = Hands::new(roots, &given, &work, own_file);
    let built = build::build(&options, &place, &mut hands)?;
    let source = Source::open(place.layout())?;
    let reference = options.reference.as_ref();
    if let Some((format, path)) = &output {
        export::write(&source, &built.image, reference, *format, path)?;
    }
    if output.is_none() || reference.is_some() {
        keep(&store, &source, &built, &options)?;
    }
    if given.has("json") {
        let platforms: Vec<_> = built.manifests.iter().map(platform_row).collect();
        images::print_json(&punnet_json::json!({
            "manifest": built.image.digest, "reference": reference.map(ToString::to_string), "platforms": platforms
        }));
    } else {
        println!("{}", built.image.digest);
    }
    Ok(ExitCode::SUCCESS)
}

fn platform_row(manifest: &punnet_images::oci::Descriptor) -> punnet_json::Value {
    let platform = manifest.platform.as_ref().map(ToString::to_string);
    punnet_json::json!({ "platform": platform, "manifest": manifest.digest })
}

fn options(given: &Given) -> Result<BuildOptions> {
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok();
    let bad_epoch = || {
        Box::new(CliError::Usage(
            "SOURCE_DATE_EPOCH is not a number of seconds".into(),
        ))
    };
    let platforms = given.all("platform").flat_map(|list| list.split(','));
    let is_offline = match given.one("network") {
        None | Some("host") => false,
        Some("none") => true,
        Some(other) => {
            return Err(CliError::usage(format_args!(
                "--network takes host or none, not {other:?}"
            )));
        }
    };
    Ok(BuildOptions {
        context: PathBuf::from(&given.words()[0]),
        containerfile: given.one("file").map(PathBuf::from),
        build_args: given.all("build-arg").map(build_arg).collect::<Result<_, _>>()?,
        labels: images::pairs(given, "label")?,
        platforms: platforms
            .map(|text| Ok(text.trim().parse::<Platform>()?))
            .collect::<Result<_>>()?,
        target: given.one("target").map(str::to_owned),
        reference: given.one("tag").map(str::parse::<Reference>).transpose()?,
        source_date_epoch: epoch
            .map(|text| text.parse().map_err(|_| bad_epoch()))
            .transpose()?,
        is_offline,
        no_cache: given.has("no-cache"),
    })
}

fn build_arg(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => match std::env::var(text) {
            Ok(value) => Ok((text.to_owned(), value)),
            Err(_) => Err(CliError::usage(format_args!(
                "--build-arg {text} has no value, and the environment has none either"
            ))),
        },
    }
}

/// `PATH`, or Docker's `type=oci,dest=PATH`.
fn output(text: &str) -> Result<(Format, PathBuf)> {
    if !text.starts_with("type=") {
        let format = if text.ends_with('/') {
            Format::OciDir
        } else {
            Format::OciArchive
        };
        return Ok((format, text.into()));
    }
    let (mut format, mut path) = (None, None);
    for pair in text.split(',') {
        match pair.split_once('=') {
            Some(("type", "oci")) => format = Some(Format::OciArchive),
            Some(("type", "docker")) => format = Some(Format::DockerArchive),
            Some(("dest", dest)) if !dest.is_empty() => path = Some(PathBuf::from(dest)),
            _ => {
                let why = format!("--output takes PATH or type=oci|docker,dest=PATH, not {pair:?}");
                return Err(CliError::Usage(why).into());
            }
        }
    }
    format
        .zip(path)
        .ok_or_else(|| CliError::Usage("--output type=... needs dest=PATH".into()).into())
}

/// Takes the image for this board in. One for another board may be stored as well: it is only running it that needs the CPU.
fn keep(store: &Store, source: &Source, built: &Built, options: &BuildOptions) -> Result<()> {
    let wanted = match options.platforms.as_slice() {
        [one] => one.clone(),
        _ => platform::host(),
    };
    let mut import = ImportOptions {
        name: None,
        platform: wanted.clone(),
        reference: options.reference.clone(),
        expect: (built.manifests.len() == 1).then_some(built.image.digest),
        blobs: Blobs::Take,
        progress: &mut |_| {},
    };
    match store.import(source, &mut import) {
        Err(error) if matches!(*error, Error::WrongPlatform(_)) && built.manifests.len() > 1 => {
            eprintln!("punnet: none of the images is for this board ({wanted}): the store has got none");
            Ok(())
        }
        other => Ok(other.map(drop)?),
    }
}
