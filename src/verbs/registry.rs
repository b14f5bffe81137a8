//! pull, push, login, logout: images from registries and to them.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use punnet_images::oci::Descriptor;
use punnet_images::registry::{self, DOCKER_HUB, Keyring, Options, Proxies, Sent, Settings, Top};
use punnet_images::{Blobs, Digest, Error, Image, ImportOptions, Platform, Reference, Source, platform};

use super::images::{platform_option, print_json, rows, store};
use super::options::size_bytes;
use super::progress::{Shape, Shown};
use super::{Flag, Given, JSON, Verb, Words, flag, valued};
use crate::error::{CliError, Result};
use crate::roots::Roots;

/// Bytes of a password on standard input: tokens take some KiB.
const PASSWORD_BYTES_MAX: u64 = 64 * 1024;

/// `--ca`
pub const CA: Flag = valued(
    "ca",
    "FILE",
    "Trust these certificates (PEM) too, for a registry of your own",
);
/// `--insecure`
pub const INSECURE: Flag = flag(
    "insecure",
    "Speak HTTP without TLS; only to loopback and private addresses",
);

/// `punnet pull REF`
pub const PULL: Verb = Verb {
    name: "pull",
    summary: "Fetch an image from a registry",
    synopsis: "[--platform OS/ARCH[/VARIANT]] [--tag NAME] [--limit-rate BYTES] [--keep-partial] [--ca FILE] [--insecure] [--retries N] [--json | --quiet] REF|URL",
    details: "REF is [REGISTRY/]NAME[:TAG][@DIGEST] by Docker's rules: without a registry it is one of Docker Hub. URL is that of an OCI image layout\n\
              directory on a web server (http:// or https://, with index.json in it), or of an archive (.tar, .tar.gz, .tgz). Prints the manifest's digest.\n\
              An image for another CPU or system is refused before any layer is fetched. A transfer goes on at the byte where the link broke.\n\
              Settings (mirrors, certificates): registries.json in the data root. Passwords: punnet login, then Docker's config.json.\n\
              Proxies: http_proxy, https_proxy, no_proxy. See docs/registries.md.\n\
              Exit status: 75 when the network or the registry failed and the same may work later; otherwise as punnet --help says.",
    flags: &[
        valued(
            "platform",
            "PLATFORM",
            "Take this platform's image [this board's]",
        ),
        valued("tag", "NAME", "Name it gets here [the one it was asked for by]").or('t'),
        valued(
            "limit-rate",
            "BYTES",
            "At most so many bytes of layers a second (k, m, g)",
        ),
        flag(
            "keep-partial",
            "Keep what has arrived until the image is whole: the next pull goes on at the byte, after a reboot too; layers are written twice",
        ),
        CA,
        INSECURE,
        RETRIES,
        flag("quiet", "No progress").or('q'),
        JSON,
    ],
    words: Words::Between(1, 1),
    act: pull,
};

const RETRIES: Flag = valued(
    "retries",
    "N",
    "Failures in a row, without data in between, after which it is given up [8]",
);

/// `punnet push`
pub const PUSH: Verb = Verb {
    name: "push",
    summary: "Send an image to a registry",
    synopsis: "[--from PATH] [--ca FILE] [--insecure] [--retries N] [--quiet] IMAGE [REF]",
    details: "REF is where to, and IMAGE itself when it names a registry. Blobs that the registry has are not sent again; large ones go in chunks, so that a\n\
              broken link costs one chunk. An image built here keeps its digest; of a pulled one only the files are stored: it is sent as one layer.\n\
              With --from, IMAGE is where to, and all that an OCI layout or archive holds is sent: an index when it has several platforms.\n\
              Prints the digest. Logins, settings and exit status are those of punnet pull.",
    flags: &[
        valued(
            "from",
            "PATH",
            "Send what this OCI layout or archive holds, instead of a stored image",
        ),
        CA,
        INSECURE,
        RETRIES,
        flag("quiet", "No progress").or('q'),
    ],
    words: Words::Between(1, 2),
    act: push,
};

/// `punnet login`
pub const LOGIN: Verb = Verb {
    name: "login",
    summary: "Keep a user name and a password for a registry",
    synopsis: "--user NAME [--ca FILE] [--insecure] [REGISTRY] < PASSWORD-FILE",
    details: "The password, or an access token, is read from standard input, tried, and kept in auth.json in the data root, readable by its owner only.\n\
              Without REGISTRY it is for Docker Hub.",
    flags: &[
        valued("user", "NAME", "Who").or('u'),
        flag("password-stdin", "As it always is; for Docker's habit"),
        CA,
        INSECURE,
    ],
    words: Words::Between(0, 1),
    act: login,
};

/// `punnet logout`
pub const LOGOUT: Verb = Verb {
    name: "logout",
    summary: "Forget the password for a registry",
    synopsis: "[REGISTRY]",
    details: "Only the one that `punnet login` has kept; Docker's files are left alone.",
    flags: &[],
    words: Words::Between(0, 1),
    act: logout,
};

/// `--pull` of run, create and build.
pub const PULL_POLICY: Flag = valued(
    "pull",
    "WHEN",
    "Fetch the image from its registry: missing, always or never [missing]",
);

/// The image that `run` and `create` are asked for, fetched as `--pull` says.
pub fn image_to_run(roots: &Roots, given: &Given) -> Result<Image> {
    let name = given.text(0)?;
    let reference = name.parse::<Reference>();
    if let (Some(wanted), Ok(reference), Err(_)) =
        (platform_option(given)?, &reference, name.parse::<Digest>())
    {
        return image_for(roots, given, reference, &wanted);
    }
    let stored = store(roots)?.get(name);
    match given.one("pull") {
        None | Some("missing") => match (stored, reference) {
            // A digest alone does not say which registry has it.
            (Err(error), Ok(reference))
                if matches!(*error, Error::NotFound { .. }) && name.parse::<Digest>().is_err() =>
            {
                fetch(roots, given, &reference)
            }
            (stored, _) => Ok(stored?),
        },
        Some("always") => fetch(roots, given, &reference?),
        Some("never") => Ok(stored?),
        Some(other) => Err(CliError::usage(format_args!(
            "--pull takes missing, always or never, not {other:?}"
        ))),
    }
}

/// An image where its name says that it is, by the settings of this board.
pub fn source_of(roots: &Roots, given: &Given, reference: &Reference) -> Result<Source> {
    let settings = settings(roots, given, reference.registry())?;
    let options = options(roots, given, Shape::choose(false, true))?;
    Ok(registry::open(reference, &settings, &options)?)
}

/// Fetches an image by the settings of this board, showing progress where somebody looks.
fn fetch(roots: &Roots, given: &Given, reference: &Reference) -> Result<Image> {
    let shape = Shape::choose(false, false);
    let source = registry::open(
        reference,
        &settings(roots, given, reference.registry())?,
        &options(roots, given, shape)?,
    )?;
    let platform = platform_option(given)?.unwrap_or_else(platform::host);
    take_in(roots, &source, platform, Some(reference.clone()), shape)
}

/// The image of a platform that a build begins with, or that is to be run, fetched as `--pull` says. One that is stored for another platform under this name keeps the name.
pub fn image_for(roots: &Roots, given: &Given, reference: &Reference, wanted: &Platform) -> Result<Image> {
    let stored = store(roots)?.get(&reference.to_string());
    let fits = |image: &Image| Ok::<_, Box<Error>>(wanted.fit(&image.config()?.platform(), true).is_some());
    let (is_missing, is_other) = match &stored {
        Ok(image) => (false, !fits(image)?),
        Err(error) if matches!(**error, Error::NotFound { .. }) => (true, false),
        Err(_) => (false, false),
    };
    let is_wanted = match given.one("pull") {
        None | Some("missing") => is_missing || is_other,
        Some("always") => true,
        Some("never") => false,
        Some(other) => {
            let why = format!("--pull takes missing, always or never, not {other:?}");
            return Err(CliError::Usage(why).into());
        }
    };
    if !is_wanted {
        return Ok(stored?);
    }
    let is_own = platform::host()
        .fit(wanted, platform::host_runs_32bit_arm())
        .is_some();
    let shape = Shape::choose(false, given.has("quiet") || given.has("json"));
    let settings = settings(roots, given, reference.registry())?;
    let source = registry::open(reference, &settings, &options(roots, given, shape)?)?;
    let name = (is_own || is_missing).then(|| reference.clone());
    take_in(roots, &source, wanted.clone(), name, shape)
}

fn pull(roots: &Roots, given: Given) -> Result<ExitCode> {
    let shape = Shape::choose(given.has("json"), given.has("quiet"));
    let text = given.text(0)?;
    let tag = given.one("tag").map(str::parse::<Reference>).transpose()?;
    let mut options = options(roots, &given, shape)?;
    let store = store(roots)?;
    if given.has("keep-partial") {
        options.partial = Some(store.partial(text));
    }
    let (source, reference) = if text.contains("://") {
        let settings = Settings::read(&settings_path(roots)?)?;
        let settings = with_ca(settings, &given, host_of(text));
        let source = registry::open_url(text, settings, &options, &roots.data()?.join("store"))?;
        let images = source.images();
        let own = images.first().filter(|_| images.len() == 1);
        let own = own.and_then(|image| image.name.as_ref()?.parse().ok());
        (source, tag.or(own))
    } else {
        let reference: Reference = text.parse()?;
        let source = registry::open(
            &reference,
            &settings(roots, &given, reference.registry())?,
            &options,
        )?;
        (source, Some(tag.unwrap_or(reference)))
    };
    let platform = platform_option(&given)?.unwrap_or_else(platform::host);
    let image = take_in(roots, &source, platform, reference, shape);
    // What may still be of use is kept; what is damaged is not, or it would be damaged for ever.
    let is_temporary = |error: &CliError| matches!(error, CliError::Images(error) if error.is_temporary());
    if !image.as_ref().is_err_and(|error| is_temporary(error)) {
        store.remove_partial(text)?;
    }
    let image = image?;
    if shape == Shape::Json {
        rows(&image).iter().for_each(|row| print_json(row));
    } else {
        println!("{}", image.manifest);
    }
    Ok(ExitCode::SUCCESS)
}

fn take_in(
    roots: &Roots,
    source: &Source,
    platform: Platform,
    reference: Option<Reference>,
    shape: Shape,
) -> Result<Image> {
    let store = store(roots)?;
    let mut shown = Shown::new(shape);
    let mut progress = |progress| shown.show(progress);
    let mut import = ImportOptions {
        name: None,
        platform,
        reference,
        expect: None,
        blobs: Blobs::Leave,
        progress: &mut progress,
    };
    let image = store.import(source, &mut import);
    shown.end();
    Ok(image?)
}

fn push(roots: &Roots, given: Given) -> Result<ExitCode> {
    let reference: Reference = given.text(given.words().len() - 1)?.parse()?;
    let (source, top) = match given.one("from") {
        Some(path) => {
            let source = Source::open(path)?;
            let top = Top::of_all(&source)?;
            (source, top)
        }
        None => {
            let image = store(roots)?.get(given.text(0)?)?;
            let (source, manifest) = image.source()?;
            if manifest.digest != image.manifest {
                eprintln!(
                    "punnet: {} is sent as one layer, because its own were not kept: its manifest is {} there, {} here",
                    given.text(0)?,
                    manifest.digest,
                    image.manifest
                );
            }
            let top = Top::of(&source, manifest)?;
            (source, top)
        }
    };
    let elsewhere = blobs_elsewhere(roots, &reference)?;
    let shape = Shape::choose(false, given.has("quiet"));
    let options = options(roots, &given, shape)?;
    let settings = settings(roots, &given, reference.registry())?;
    let mut told = |blob: &Descriptor, sent| {
        if shape != Shape::Nothing {
            let done = match sent {
                Sent::AlreadyThere => "was there",
                Sent::Mounted => "was taken from another repository",
                Sent::Uploaded => "sent",
            };
            eprintln!("{} ({} KiB) {done}", blob.digest, blob.size.div_ceil(1024));
        }
    };
    registry::push(
        &source, &top, &reference, &settings, &options, &elsewhere, &mut told,
    )?;
    println!("{}", top.descriptor.digest);
    Ok(ExitCode::SUCCESS)
}

/// Layers of stored images that the same registry is known to have in other repositories.
fn blobs_elsewhere(roots: &Roots, to: &Reference) -> Result<BTreeMap<Digest, String>> {
    let (registry, repository) = registry::place(to);
    let mut known = BTreeMap::new();
    for image in store(roots)?.list()? {
        let place = image.references.iter().map(registry::place);
        let mut others = place.filter(|(name, other)| *name == registry && *other != repository);
        if let Some((_, other)) = others.next() {
            let layers = image.manifest_document()?.layers;
            known.extend(layers.iter().map(|layer| (layer.digest, other.clone())));
        }
    }
    Ok(known)
}

fn login(roots: &Roots, given: Given) -> Result<ExitCode> {
    let registry = registry_word(&given)?;
    let user = given
        .one("user")
        .filter(|user| !user.is_empty() && !user.contains(':'));
    let user =
        user.ok_or_else(|| CliError::Usage("punnet login wants --user NAME, without a colon in it".into()))?;
    if std::io::stdin().is_terminal() {
        return Err(CliError::Usage(
            "the password is read from standard input: punnet login --user NAME < FILE".into(),
        )
        .into());
    }
    let mut password = String::new();
    std::io::stdin()
        .take(PASSWORD_BYTES_MAX)
        .read_to_string(&mut password)
        .map_err(|source| CliError::File {
            what: "cannot read the password from",
            path: "/dev/stdin".into(),
            source,
        })?;
    let password = password.trim_end_matches(['\r', '\n']);
    // Tried before it is kept, from a file of its own: what was kept before stays until the new one is known to be right.
    let data = roots.data()?;
    std::fs::create_dir_all(&data).map_err(crate::container::file("cannot create", &data))?;
    let trial = data.join(format!(".login-{}.json", std::process::id()));
    let mut options = options(roots, &given, Shape::Lines)?;
    let kept = std::mem::replace(
        &mut options.keyring,
        Keyring {
            own: Some(trial.clone()),
            docker: None,
        },
    );
    options.keyring.add(&registry, user, password)?;
    let tried = registry::check_login(&registry, &settings(roots, &given, Some(&registry))?, &options);
    let removed = std::fs::remove_file(&trial).map_err(crate::container::file("cannot remove", &trial));
    tried?;
    removed?;
    kept.add(&registry, user, password)?;
    println!("logged in to {registry} as {user}");
    Ok(ExitCode::SUCCESS)
}

fn logout(roots: &Roots, given: Given) -> Result<ExitCode> {
    let registry = registry_word(&given)?;
    if keyring(roots)?.remove(&registry)? {
        println!("logged out of {registry}");
    } else {
        println!("there was no login to {registry}");
    }
    Ok(ExitCode::SUCCESS)
}

fn registry_word(given: &Given) -> Result<String> {
    match given.words().len() {
        0 => Ok(DOCKER_HUB.to_owned()),
        _ => Ok(registry::registry_name(given.text(0)?).to_owned()),
    }
}

fn settings_path(roots: &Roots) -> Result<PathBuf> {
    Ok(roots.data()?.join("registries.json"))
}

/// The board's settings with what the command line says about this registry.
fn settings(roots: &Roots, given: &Given, registry: Option<&str>) -> Result<Settings> {
    let name = registry.unwrap_or(DOCKER_HUB);
    let mut settings = with_ca(Settings::read(&settings_path(roots)?)?, given, name);
    if given.has("insecure") {
        settings.registry(name).insecure = Some(true);
    }
    Ok(settings)
}

fn with_ca(mut settings: Settings, given: &Given, registry: &str) -> Settings {
    if let Some(path) = given.one("ca") {
        settings.registry(registry).ca_file = Some(path.into());
    }
    settings
}

/// `host[:port]` of a URL; what is none is refused when it is opened.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

fn keyring(roots: &Roots) -> Result<Keyring> {
    let folder = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let docker = folder("DOCKER_CONFIG").or_else(|| Some(folder("HOME")?.join(".docker")));
    Ok(Keyring {
        own: Some(roots.data()?.join("auth.json")),
        docker: docker.map(|folder| folder.join("config.json")),
    })
}

fn options(roots: &Roots, given: &Given, shape: Shape) -> Result<Options> {
    let number = |text: &str| text.parse().ok();
    // The store was written at that moment: now is later, whatever a board without a clock believes.
    let written = std::fs::metadata(roots.data()?.join("store/refs")).map(|found| found.mtime());
    Ok(Options {
        keyring: keyring(roots)?,
        proxies: Proxies::from_environment()?,
        retries: given
            .parsed("retries", number)?
            .unwrap_or(Options::default().retries),
        partial: None,
        rate_bytes_per_s: given.parsed("limit-rate", |text| size_bytes(text).filter(|&rate| rate > 0))?,
        clock_floor_s: written
            .ok()
            .and_then(|seconds| seconds.try_into().ok())
            .unwrap_or(0),
        notify: Arc::new(move |notice| shape.notice(notice)),
    })
}
