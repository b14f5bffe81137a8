//! build: images out of a Containerfile. Steps run as containers of our own runtime, in a work folder that dies with its build.
//!
//! ```text
//! <data root>/build/
//!   cache/                 steps that need not be done again (punnet_images::build)
//!   work/<pid>-<n>/        one build; <pid>-<n>.lock beside it is held by who builds (flock(2): it dies with its holder)
//!     layout/ blobs/ layers/ run-<n>/ ...
//!     container            name of the container of a RUN, written before there is one
//! ```
//! A build that was killed may leave a work folder and a running step. The next `build` or `prune` ends the step and removes the folder.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getegid, geteuid};
use punnet_images::build::{
    self, BuildOptions, BuildPlace, Built, Event, PrunedSteps, Ran, RunStep, SCRIPT_PATH, Worker,
};
use punnet_images::bundle::{self, BindMount, IdMaps, Place, RunOptions};
use punnet_images::export::{self, Format};
use punnet_images::{Error, Image, ImportOptions, Platform, Reference, Source, Store, chain, platform};
use punnet_runtime::{ContainerId, CreateOptions, Runtime};
use punnet_spec::Spec;

use super::containers::runtime;
use super::{Given, JSON, Verb, Words, flag, images, registry, sign, valued};
use crate::container::file;
use crate::error::CliError;
use crate::roots::Roots;

/// Directories below a step's root that fit into one mount option on every kernel (fsconfig(2) takes 255 bytes, and each is
/// `/proc/self/fd/NN:`); more are given one by one, which needs Linux 6.5.
const LOWERS_MAX_AT_ONCE: usize = 14;

/// Host name in steps: the same on every machine, because some programs write it down.
const HOSTNAME: &str = "punnet-build";

/// Bytes of a quiet step's output that are shown when it fails: its end is what matters.
const OUTPUT_BYTES_SHOWN: u64 = 64 * 1024;

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

fn build(roots: &Roots, given: Given) -> Result<ExitCode, CliError> {
    let options = options(&given)?;
    let output = given.one("output").map(output).transpose()?;
    if options.platforms.len() > 1
        && output
            .as_ref()
            .is_some_and(|(format, _)| *format == Format::DockerArchive)
    {
        return Err(CliError::Usage(
            "a docker-archive has room for one platform".into(),
        ));
    }
    let data = roots.data()?;
    let store = images::store(roots)?;
    reclaim(roots)?;
    let work = Work::make(&data)?;
    let place = BuildPlace {
        scratch: work.path.clone(),
        cache: Some(data.join("build/cache")),
    };
    let mut hands = Hands {
        roots,
        given: &given,
        work: &work,
        shown: Shown::of(&given),
        steps: 0,
    };
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
        images::print_json(&serde_json::json!({
            "manifest": built.image.digest, "reference": reference.map(ToString::to_string), "platforms": platforms
        }));
    } else {
        println!("{}", built.image.digest);
    }
    Ok(ExitCode::SUCCESS)
}

fn platform_row(manifest: &punnet_images::oci::Descriptor) -> serde_json::Value {
    let platform = manifest.platform.as_ref().map(ToString::to_string);
    serde_json::json!({ "platform": platform, "manifest": manifest.digest })
}

fn options(given: &Given) -> Result<BuildOptions, CliError> {
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok();
    let bad_epoch = || CliError::Usage("SOURCE_DATE_EPOCH is not a number of seconds".into());
    let platforms = given.all("platform").flat_map(|list| list.split(','));
    let is_offline = match given.one("network") {
        None | Some("host") => false,
        Some("none") => true,
        Some(other) => {
            return Err(CliError::Usage(format!(
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
            .collect::<Result<_, CliError>>()?,
        target: given.one("target").map(str::to_owned),
        reference: given.one("tag").map(str::parse::<Reference>).transpose()?,
        source_date_epoch: epoch
            .map(|text| text.parse().map_err(|_| bad_epoch()))
            .transpose()?,
        is_offline,
        no_cache: given.has("no-cache"),
    })
}

fn build_arg(text: &str) -> Result<(String, String), CliError> {
    match text.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => match std::env::var(text) {
            Ok(value) => Ok((text.to_owned(), value)),
            Err(_) => Err(CliError::Usage(format!(
                "--build-arg {text} has no value, and the environment has none either"
            ))),
        },
    }
}

/// `PATH`, or Docker's `type=oci,dest=PATH`.
fn output(text: &str) -> Result<(Format, PathBuf), CliError> {
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
                return Err(CliError::Usage(why));
            }
        }
    }
    format
        .zip(path)
        .ok_or_else(|| CliError::Usage("--output type=... needs dest=PATH".into()))
}

/// Takes the image for this board in. One for another board may be stored as well: it is only running it that needs the CPU.
fn keep(store: &Store, source: &Source, built: &Built, options: &BuildOptions) -> Result<(), CliError> {
    let wanted = match options.platforms.as_slice() {
        [one] => one.clone(),
        _ => platform::host(),
    };
    let mut import = ImportOptions {
        name: None,
        platform: wanted.clone(),
        reference: options.reference.clone(),
        expect: (built.manifests.len() == 1).then_some(built.image.digest),
        keep_blobs: true,
        progress: &mut |_| {},
    };
    match store.import(source, &mut import) {
        Err(Error::WrongPlatform(_)) if built.manifests.len() > 1 => {
            eprintln!("punnet: none of the images is for this board ({wanted}): the store has got none");
            Ok(())
        }
        other => Ok(other.map(drop)?),
    }
}

/// Ends what killed builds have left running, and removes their folders.
pub fn reclaim(roots: &Roots) -> Result<(), CliError> {
    let parent = roots.data()?.join("build/work");
    let entries = match fs::read_dir(&parent) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(file("cannot list", &parent))?,
    };
    for entry in entries {
        let lock_path = entry.map_err(file("cannot list", &parent))?.path();
        if lock_path.extension().is_none_or(|extension| extension != "lock") {
            continue;
        }
        let Ok(lock) = File::options().write(true).open(&lock_path) else {
            continue;
        };
        let Ok(_lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else {
            continue;
        };
        let folder = lock_path.with_extension("");
        if let Ok(name) = fs::read_to_string(folder.join("container")) {
            runtime(roots)?.delete(&ContainerId::new(&name)?, true)?;
        }
        clear(&folder, &lock_path)?;
    }
    Ok(())
}

/// Forgets all steps. `None` while somebody builds.
pub fn prune(roots: &Roots) -> Result<Option<PrunedSteps>, CliError> {
    reclaim(roots)?;
    Ok(build::prune(&roots.data()?.join("build/cache"))?)
}

fn clear(folder: &Path, lock_path: &Path) -> Result<(), CliError> {
    punnet_images::remove_tree(folder)?;
    Ok(punnet_images::remove_tree(lock_path)?)
}

/// A folder that ends with this value.
struct Work {
    path: PathBuf,
    name: String,
    lock_path: PathBuf,
    _lock: Flock<File>,
}

impl Work {
    fn make(data: &Path) -> Result<Self, CliError> {
        let parent = data.join("build/work");
        fs::create_dir_all(&parent).map_err(file("cannot create", &parent))?;
        let name = std::process::id().to_string();
        let (path, lock_path) = (parent.join(&name), parent.join(format!("{name}.lock")));
        let mut options = File::options();
        let opened = options.write(true).create(true).truncate(false).open(&lock_path);
        let opened = opened.map_err(file("cannot create", &lock_path))?;
        // Whoever had this number before is gone, or somebody else is just removing what is left of it.
        let lock = Flock::lock(opened, FlockArg::LockExclusive)
            .map_err(|(_, errno)| file("cannot lock", &lock_path)(errno.into()))?;
        if !lock_path.exists() {
            return Self::make(data);
        }
        fs::create_dir(&path).map_err(file("cannot create", &path))?;
        Ok(Self {
            path,
            name,
            lock_path,
            _lock: lock,
        })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(error) = clear(&self.path, &self.lock_path) {
            crate::error::print_chain(&error);
        }
    }
}

/// How progress is shown.
enum Shown {
    Lines,
    Json,
    Not,
}

impl Shown {
    fn of(given: &Given) -> Self {
        match (given.has("json"), given.has("quiet")) {
            (true, _) => Self::Json,
            (false, true) => Self::Not,
            (false, false) => Self::Lines,
        }
    }
}

/// What the builder needs done.
struct Hands<'a> {
    roots: &'a Roots,
    given: &'a Given,
    work: &'a Work,
    shown: Shown,
    steps: u32,
}

impl Worker for Hands<'_> {
    fn image(&mut self, name: &Reference, platform: &Platform) -> punnet_images::Result<Image> {
        let image = registry::base_of_build(self.roots, self.given, name, platform);
        // What a base has is executed by steps: who may not run it may not build on it.
        let checked = image.and_then(|image| {
            sign::check(self.roots, &image, &name.to_string())?;
            Ok(image)
        });
        checked.map_err(|error| match error {
            CliError::Images(error) => error,
            other => Error::Run(chain(&other)),
        })
    }

    fn run(&mut self, step: &RunStep) -> punnet_images::Result<Ran> {
        check_emulation(&step.platform)?;
        self.execute(step).map_err(|error| Error::Run(chain(&error)))
    }

    fn tell(&mut self, event: Event<'_>) {
        match (&self.shown, event) {
            (Shown::Not, _) => {}
            (Shown::Json, Event::Cached) => images::print_json(&serde_json::json!({ "cached": true })),
            (Shown::Lines, Event::Cached) => eprintln!("--> done before"),
            (
                Shown::Json,
                Event::Step {
                    number,
                    all,
                    platform,
                    text,
                },
            ) => images::print_json(&serde_json::json!({
                "step": number, "of": all, "instruction": text, "platform": platform.map(ToString::to_string)
            })),
            (
                Shown::Lines,
                Event::Step {
                    number,
                    all,
                    platform,
                    text,
                },
            ) => {
                let platform = platform.map_or(String::new(), |platform| format!("[{platform}] "));
                eprintln!("STEP {number}/{all}: {platform}{text}");
            }
        }
    }
}

impl Hands<'_> {
    fn execute(&mut self, step: &RunStep) -> Result<Ran, CliError> {
        self.steps += 1;
        let name = format!("build-{}-{}", self.work.name, self.steps);
        let spec = spec(step, &name)?;
        let mounted = spec.mounts.iter().skip(1);
        let mounted = mounted.map(|mount| mount.destination.clone()).collect();
        let write =
            |path: PathBuf, bytes: &[u8]| fs::write(&path, bytes).map_err(file("cannot write", &path));
        let config = spec.to_json().expect("a specification of ours is always JSON");
        write(step.folder.join("config.json"), &config)?;
        let rootfs = step.folder.join("rootfs");
        fs::create_dir(&rootfs).map_err(file("cannot create", &rootfs))?;
        let mut options = CreateOptions::new(&step.folder);
        let quiet_output = step.folder.join("output");
        options.stdio.stdin = Some(open(Path::new("/dev/null"))?);
        // Standard output is for the digest alone.
        let (stdout, stderr) = if matches!(self.shown, Shown::Not) {
            let file_at = |path: &Path| File::create(path).map_err(file("cannot create", path));
            let output = file_at(&quiet_output)?;
            let other = output.try_clone().map_err(file("cannot open", &quiet_output))?;
            (output.into(), other.into())
        } else {
            (stderr()?, stderr()?)
        };
        (options.stdio.stdout, options.stdio.stderr) = (Some(stdout), Some(stderr));
        let runtime = runtime(self.roots)?;
        let id = ContainerId::new(&name)?;
        let marker = self.work.path.join("container");
        write(marker.clone(), name.as_bytes())?;
        let ran = run_to_its_end(&runtime, &id, &options);
        let removed = runtime.delete(&id, true);
        let code = ran.map_err(explain)?;
        removed?;
        fs::remove_file(&marker).map_err(file("cannot remove", &marker))?;
        if code != 0 && matches!(self.shown, Shown::Not) {
            show_end(&quiet_output);
        }
        Ok(Ran { code, mounted })
    }
}

/// A step's container: as `punnet run` makes one, on the trees of the build.
fn spec(step: &RunStep, name: &str) -> Result<Spec, CliError> {
    let lowest = step.lowers.last().cloned().unwrap_or_default();
    let place = Place {
        image_rootfs: lowest,
        bundle: step.folder.clone(),
        // A user's containers take what cgroup was delegated, if any: naming one would demand it.
        cgroup: if geteuid().is_root() {
            format!("/punnet/{name}")
        } else {
            String::new()
        },
        euid: geteuid().as_raw(),
        maps: (!geteuid().is_root()).then(|| IdMaps::of_one(geteuid().as_raw(), getegid().as_raw())),
        host_files: bundle::host_network_files(),
    };
    let script = step.script.iter().map(|path| {
        let source = path.to_str().map(str::to_owned);
        let source = source.ok_or_else(|| CliError::Usage(format!("{} is not UTF-8", path.display())))?;
        Ok(BindMount {
            source,
            target: SCRIPT_PATH.into(),
            read_only: true,
        })
    });
    let options = RunOptions {
        args: step.command.clone(),
        hostname: HOSTNAME.into(),
        host_network: !step.is_offline,
        mounts: script.collect::<Result<_, CliError>>()?,
        ..RunOptions::default()
    };
    let seccomp = punnet_runtime::seccomp::named_default_seccomp;
    let mut spec = bundle::spec_for(&step.config, &step.users, &options, &place, seccomp)?;
    let root = spec.mounts.first_mut();
    root.expect("the root file system is the first mount").options = overlay_options(step)?;
    Ok(spec)
}

/// Nothing of overlayfs that a layer cannot say: no redirected directories, no files without their content.
fn overlay_options(step: &RunStep) -> Result<Vec<String>, CliError> {
    let text = |path: &Path| {
        let text = path.to_str().filter(|text| !text.contains([',', ':', '\\']));
        text.map(str::to_owned).ok_or_else(|| {
            CliError::Usage(format!(
                "the path {} has a comma, colon or backslash, which overlayfs cannot take: move the data root",
                path.display()
            ))
        })
    };
    let lowers = step
        .lowers
        .iter()
        .map(|path| text(path))
        .collect::<Result<Vec<_>, _>>()?;
    let mut words = if lowers.len() <= LOWERS_MAX_AT_ONCE {
        vec![format!("lowerdir={}", lowers.join(":"))]
    } else {
        lowers.iter().map(|lower| format!("lowerdir+={lower}")).collect()
    };
    words.push(format!("upperdir={}", text(&step.folder.join("upper"))?));
    words.push(format!("workdir={}", text(&step.folder.join("work"))?));
    let more: &[&str] = if geteuid().is_root() {
        &["redirect_dir=off", "metacopy=off", "index=off"]
    } else {
        // Without trusted attributes, which a user namespace cannot set.
        &["userxattr"]
    };
    words.extend(more.iter().map(ToString::to_string));
    Ok(words)
}

/// Runs a container; signals that ask us to end, end it.
fn run_to_its_end(runtime: &Runtime, id: &ContainerId, options: &CreateOptions) -> Result<u8, CliError> {
    let mut signals = SigSet::empty();
    let ending = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];
    ending
        .iter()
        .chain(&[Signal::SIGCHLD])
        .for_each(|signal| signals.add(*signal));
    let failed = |errno: nix::errno::Errno| file("cannot wait for", Path::new("the step"))(errno.into());
    // Held back before there is a container, so that none is lost.
    signals.thread_block().map_err(failed)?;
    let ended = (|| {
        let pid = runtime.create(id, options)?;
        runtime.start(id)?;
        loop {
            if let Some(code) = exit_code(pid).map_err(failed)? {
                return Ok(code);
            }
            let signal = signals.wait().map_err(failed)?;
            if signal != Signal::SIGCHLD {
                runtime.kill(id, Signal::SIGKILL as i32, false)?;
                return Err(CliError::Interrupted(signal.as_str()));
            }
        }
    })();
    signals.thread_unblock().map_err(failed)?;
    ended
}

fn exit_code(pid: Pid) -> nix::Result<Option<u8>> {
    let code = |code: i32| Some(u8::try_from(code).unwrap_or(u8::MAX));
    Ok(match waitpid(pid, Some(WaitPidFlag::WNOHANG))? {
        WaitStatus::Exited(_, status) => code(status),
        WaitStatus::Signaled(_, signal, _) => code(128 + signal as i32),
        _ => None,
    })
}

/// What to do when the root file system of a step cannot be.
fn explain(error: CliError) -> CliError {
    let text = chain(&error);
    if text.contains("overlay") {
        return CliError::NoOverlay(Box::new(error));
    }
    error
}

/// Programs of another CPU are executed only when the kernel knows an emulator for them.
fn check_emulation(wanted: &Platform) -> punnet_images::Result<()> {
    let host = platform::host();
    if host.fit(wanted, platform::host_runs_32bit_arm()).is_some() || has_emulator(wanted) {
        return Ok(());
    }
    Err(Error::WrongPlatform(format!(
        "RUN would execute programs for {wanted} on this {host} machine, and the kernel knows no emulator for them: install one that registers with \
         binfmt_misc (Debian: qemu-user-static), build on a board of that kind, or copy what is built already"
    )))
}

fn has_emulator(wanted: &Platform) -> bool {
    let name = match wanted.architecture.as_str() {
        "arm64" => "aarch64",
        "amd64" => "x86_64",
        "386" => "i386",
        other => other,
    };
    let entry = Path::new("/proc/sys/fs/binfmt_misc").join(format!("qemu-{name}"));
    // The interpreter must be open already (F): the step's root file system has none.
    fs::read_to_string(entry).is_ok_and(|text| {
        let fixed = |line: &str| {
            line.strip_prefix("flags:")
                .is_some_and(|flags| flags.contains('F'))
        };
        text.lines().next() == Some("enabled") && text.lines().any(fixed)
    })
}

fn show_end(path: &Path) {
    use std::io::{Seek, SeekFrom};
    let shown = File::open(path).and_then(|mut output| {
        let size = output.metadata()?.len();
        output.seek(SeekFrom::Start(size.saturating_sub(OUTPUT_BYTES_SHOWN)))?;
        let mut text = Vec::new();
        output.take(OUTPUT_BYTES_SHOWN).read_to_end(&mut text)?;
        std::io::stderr().write_all(&text)
    });
    if let Err(error) = shown {
        eprintln!("punnet: cannot show the step's output: {error}");
    }
}

fn open(path: &Path) -> Result<OwnedFd, CliError> {
    Ok(File::open(path).map_err(file("cannot open", path))?.into())
}

fn stderr() -> Result<OwnedFd, CliError> {
    use std::os::fd::AsFd;
    let copy = std::io::stderr().as_fd().try_clone_to_owned();
    copy.map_err(file("cannot copy", Path::new("standard error")))
}
