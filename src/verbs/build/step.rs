//! What a build needs done: images fetched, steps executed as containers, progress shown.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getegid, geteuid};
use punnet_images::build::{Event, Ran, RunStep, SCRIPT_PATH, Worker};
use punnet_images::bundle::{self, BindMount, IdMaps, Place, RunOptions};
use punnet_images::{Error, Image, Platform, Reference, chain};
use punnet_runtime::{ContainerId, CreateOptions, OutOfReach, Runtime};
use punnet_spec::Spec;

use super::work::Work;
use crate::container::file;
use crate::error::{CliError, Result};
use crate::roots::Roots;
use crate::verbs::containers::runtime;
use crate::verbs::{Given, images, registry, sign};

/// Directories below a step's root that fit into one mount option on every kernel (fsconfig(2) takes 255 bytes, and each is
/// `/proc/self/fd/NN:`); more are given one by one, which needs Linux 6.5.
const LOWERS_MAX_AT_ONCE: usize = 14;

/// Host name in steps: the same on every machine, because some programs write it down.
const HOSTNAME: &str = "punnet-build";

/// Bytes of a quiet step's output that are shown when it fails: its end is what matters.
const OUTPUT_BYTES_SHOWN: u64 = 64 * 1024;

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
pub struct Hands<'a> {
    roots: &'a Roots,
    given: &'a Given,
    work: &'a Work,
    shown: Shown,
    own_file: Option<OutOfReach>,
    steps: u32,
}

impl Worker for Hands<'_> {
    fn image(&mut self, name: &Reference, platform: &Platform) -> punnet_images::Result<Image> {
        let image = registry::image_for(self.roots, self.given, name, platform);
        // What a base has is executed by steps: who may not run it may not build on it.
        let checked = image.and_then(|image| {
            sign::check(self.roots, &image, &name.to_string(), None)?;
            Ok(image)
        });
        checked.map_err(|error| match *error {
            CliError::Images(error) => error,
            other => Error::Run(chain(&other)).into(),
        })
    }

    fn run(&mut self, step: &RunStep) -> punnet_images::Result<Ran> {
        self.execute(step)
            .map_err(|error| Error::Run(chain(&error)).into())
    }

    fn tell(&mut self, event: Event<'_>) {
        match (&self.shown, event) {
            (Shown::Not, _) => {}
            (Shown::Json, Event::Cached) => images::print_json(&punnet_json::json!({ "cached": true })),
            (Shown::Lines, Event::Cached) => eprintln!("--> done before"),
            (
                Shown::Json,
                Event::Step {
                    number,
                    all,
                    platform,
                    text,
                },
            ) => images::print_json(&punnet_json::json!({
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

impl<'a> Hands<'a> {
    /// No step has been done yet.
    pub fn new(roots: &'a Roots, given: &'a Given, work: &'a Work, own_file: Option<OutOfReach>) -> Self {
        Self {
            own_file,
            roots,
            given,
            work,
            shown: Shown::of(given),
            steps: 0,
        }
    }

    fn execute(&mut self, step: &RunStep) -> Result<Ran> {
        self.steps += 1;
        let name = format!("build-{}-{}", self.work.name, self.steps);
        let spec = spec(step, &name)?;
        let mounted = spec.mounts.iter().skip(1);
        let mounted = mounted.map(|mount| mount.destination.clone()).collect();
        let write =
            |path: PathBuf, bytes: &[u8]| fs::write(&path, bytes).map_err(file("cannot write", &path));
        let config = spec.to_json();
        write(step.folder.join("config.json"), &config)?;
        let rootfs = step.folder.join("rootfs");
        fs::create_dir(&rootfs).map_err(file("cannot create", &rootfs))?;
        let mut options = CreateOptions::new(&step.folder);
        let quiet_output = step.folder.join("output");
        options.own_file = self.own_file;
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
fn spec(step: &RunStep, name: &str) -> Result<Spec> {
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
        let source =
            source.ok_or_else(|| CliError::usage(format_args!("{} is not UTF-8", path.display())))?;
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
        mounts: script.collect::<Result<_>>()?,
        ..RunOptions::default()
    };
    let seccomp = punnet_runtime::seccomp::named_default_seccomp;
    let mut spec = bundle::spec_for(&step.config, &step.users, &options, &place, seccomp)?;
    let root = spec.mounts.first_mut();
    root.expect("the root file system is the first mount").options = overlay_options(step)?;
    Ok(spec)
}

/// Nothing of overlayfs that a layer cannot say: no redirected directories, no files without their content.
fn overlay_options(step: &RunStep) -> Result<Vec<String>> {
    let text = |path: &Path| {
        let text = path.to_str().filter(|text| !text.contains([',', ':', '\\']));
        text.map(str::to_owned).ok_or_else(|| {
            CliError::usage(format_args!(
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
fn run_to_its_end(runtime: &Runtime, id: &ContainerId, options: &CreateOptions) -> Result<u8> {
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
                return Err(CliError::Interrupted(signal.as_str()).into());
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
fn explain(error: Box<CliError>) -> Box<CliError> {
    let text = chain(&error);
    if text.contains("overlay") {
        return CliError::NoOverlay(error).into();
    }
    error
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

fn open(path: &Path) -> Result<OwnedFd> {
    Ok(File::open(path).map_err(file("cannot open", path))?.into())
}

fn stderr() -> Result<OwnedFd> {
    use std::os::fd::AsFd;
    let copy = std::io::stderr().as_fd().try_clone_to_owned();
    copy.map_err(file("cannot copy", Path::new("standard error")))
}
