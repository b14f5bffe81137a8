//! run, create, exec: processes in containers.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::ExitCode;

use nix::unistd::{getegid, geteuid};
use punnet_images::bundle::{self, BindMount, DeviceNode, IdMaps, Layer, Place, RunOptions};
use punnet_images::users::Users;
use punnet_images::{Digest, Image, platform};
use punnet_runtime::{CreateOptions, ExecOptions};
use punnet_spec::{IdMapping, Spec};

use super::containers::{self, clear_ended, id, runtime};
use super::images::platform_option;
use super::options::{cpu_millis, duration_s, signal_number, size_bytes};
use super::{Flag, Given, Verb, Words, flag, layer, registry, sign, valued};
use crate::container::{Folders, Meta, Owner, file, make_visible, unix_ms};
use crate::error::{CliError, Result};
use crate::id_ranges::{self, Range};
use crate::roots::Roots;

/// Seconds between the stop signal and SIGKILL when nobody says otherwise: Docker's.
const STOP_TIMEOUT_S: u64 = 10;

const RUN_FLAGS: &[Flag] = &[
    valued("name", "NAME", "Name of the container [one is made up]"),
    valued("env", "NAME[=VALUE]", "Environment; without a value the caller's").or('e'),
    valued(
        "volume",
        "SRC:DST[:ro]",
        "Bind a directory or file of this device",
    )
    .or('v'),
    valued("tmpfs", "PATH", "An empty file system in RAM"),
    valued("device", "NODE", "A device node of this device"),
    valued(
        "device-class",
        "CLASS",
        "All nodes of a class of the board: gpio, i2c, serial, spi, video, watchdog",
    ),
    valued(
        "network",
        "none|host",
        "A network of its own with only loopback, or the device's [none]",
    ),
    valued(
        "memory",
        "BYTES",
        "Limit (k, m, g); needs the cgroup v2 memory controller",
    )
    .or('m'),
    valued(
        "pids-limit",
        "N",
        "Limit on processes, 0 for none [2048 where the controller is there]",
    ),
    valued("cpus", "N", "Limit in CPUs, as 0.5"),
    valued("entrypoint", "PROGRAM", "Instead of the image's"),
    valued("user", "USER[:GROUP]", "Instead of the image's").or('u'),
    valued("workdir", "PATH", "Instead of the image's").or('w'),
    valued("hostname", "NAME", "Host name inside [the container's name]"),
    valued(
        "label",
        "NAME=VALUE",
        "Kept with the container, shown by ps --json",
    )
    .or('l'),
    valued("cap-add", "CAPABILITY", "Give a capability; ALL for all"),
    valued("cap-drop", "CAPABILITY", "Take a capability; ALL for all"),
    valued(
        "stop-timeout",
        "SECONDS",
        "Between stop's signal and SIGKILL [10]",
    ),
    valued("stop-signal", "SIGNAL", "Instead of the image's"),
    registry::PULL_POLICY,
    valued(
        "platform",
        "PLATFORM",
        "The image for this platform, as linux/arm64: one for another CPU needs an emulator that the kernel knows (binfmt_misc) [this board's]",
    ),
    valued(
        "userns",
        "auto|host",
        "A user namespace where ids are granted for it, or the device's users [auto]",
    ),
    flag("read-only", "No writable layer"),
    valued(
        "writable-layer",
        "disk|ram|copy",
        "Where what the container writes goes: ram spares the flash and is gone after a reboot; copy needs no overlayfs [disk; copy where the kernel has no overlayfs, or none for this user]",
    ),
    sign::VOUCHED_BY,
    flag(
        "privileged",
        "All capabilities, no system call filter, no masked or read-only kernel files, no user namespace of root's: as good as root on the device",
    ),
    flag("allow-new-privileges", "Let set-id programs raise privileges"),
];

const DETAILS: &str = "The process sees its own processes, mounts, host name, IPC and network, has Docker's default capabilities or fewer, a default system call filter and\n\
    no way to new privileges. An ordinary user's containers run in a user namespace in which that user is root; root's do where /etc/subuid and\n\
    /etc/subgid grant a range to `punnet` or `containers`, unless they get devices, the device's network or --privileged.\n\
    Exit status: the process's own, 128+N when signal N ended it; 125 Punnet failed, 126 not executable, 127 not found.";

/// `punnet run IMAGE [ARGUMENTS]`
pub const RUN: Verb = Verb {
    name: "run",
    summary: "Run a command in a new container",
    synopsis: "[OPTIONS] IMAGE [ARGUMENTS]",
    details: DETAILS,
    flags: &FOREGROUND_FLAGS,
    words: Words::CommandAfter(1),
    act: |roots, given| run(roots, &given).map_err(|error| CliError::Engine(error).into()),
};

/// `punnet create IMAGE [ARGUMENTS]`
pub const CREATE: Verb = Verb {
    name: "create",
    summary: "Make a container without starting it",
    synopsis: "[OPTIONS] IMAGE [ARGUMENTS]",
    details: DETAILS,
    flags: RUN_FLAGS,
    words: Words::CommandAfter(1),
    act: |roots, given| {
        let folders = create(roots, &given, false).map_err(CliError::Engine)?;
        println!("{}", folders.name);
        Ok(ExitCode::SUCCESS)
    },
};

/// What `run` has beyond `create`.
const FOREGROUND_FLAGS: [Flag; RUN_FLAGS.len() + 4] = {
    const NONE: Flag = flag("", "");
    let mut flags = [NONE; RUN_FLAGS.len() + 4];
    let mut index = 0;
    while index < RUN_FLAGS.len() {
        let Flag {
            long,
            short,
            value,
            help,
        } = RUN_FLAGS[index];
        flags[index] = Flag {
            long,
            short,
            value,
            help,
        };
        index += 1;
    }
    flags[index] = flag("detach", "Leave it running; its output goes to its log").or('d');
    flags[index + 1] = flag("rm", "Remove the container when it has ended");
    flags[index + 2] = flag("tty", "Give the process a terminal").or('t');
    flags[index + 3] = flag(
        "interactive",
        "Keep standard input open (without it the process gets /dev/null)",
    )
    .or('i');
    flags
};

/// `punnet exec NAME COMMAND`
pub const EXEC: Verb = Verb {
    name: "exec",
    summary: "Run one more command in a running container",
    synopsis: "[OPTIONS] NAME COMMAND [ARGUMENTS]",
    details: "The command has the container's user, environment, capabilities and system call filter unless options say otherwise.",
    flags: &[
        valued("env", "NAME[=VALUE]", "Environment over the container's").or('e'),
        valued("user", "UID[:GID]", "Instead of the container's").or('u'),
        valued("workdir", "PATH", "Instead of the container's").or('w'),
        flag("tty", "Give the process a terminal").or('t'),
        flag(
            "interactive",
            "Keep standard input open (without it the process gets /dev/null)",
        )
        .or('i'),
        flag("detach", "Leave it running").or('d'),
    ],
    words: Words::CommandAfter(1),
    act: |roots, given| exec(roots, &given).map_err(|error| CliError::Engine(error).into()),
};

fn run(roots: &Roots, given: &Given) -> Result<ExitCode> {
    let folders = create(roots, given, given.has("tty"))?;
    let outcome = if given.has("detach") {
        containers::start(roots, &folders).map(|()| {
            println!("{}", folders.name);
            0
        })
    } else {
        run_in_foreground(roots, given, &folders)
    };
    // A container that never ran is of no use to anybody; one that ran is kept for `logs` and `start` unless told otherwise.
    if outcome.is_err() || is_for_now(given) {
        containers::remove(roots, &folders, true)?;
    }
    outcome.map(ExitCode::from).map_err(layer::with_remedy)
}

/// It is removed at its end, and with the process that waits for that.
fn is_for_now(given: &Given) -> bool {
    given.has("rm") && !given.has("detach")
}

fn run_in_foreground(roots: &Roots, given: &Given, folders: &Folders) -> Result<u8> {
    let runtime = runtime(roots)?;
    clear_ended(&runtime, folders)?;
    folders.make_run()?;
    let mut options = CreateOptions::new(&folders.bundle);
    if !given.has("interactive") && !given.has("tty") {
        options.stdio.stdin = Some(dev_null()?);
    }
    options.own_file = containers::out_of_reach_if(folders.meta()?.is_emulated)?;
    let code = runtime.run(&id(folders)?, &options, false)?;
    folders.write_exit_code(code.into())?;
    Ok(code)
}

/// Makes the container's folder: claimed, filled, and only then it exists.
fn create(roots: &Roots, given: &Given, terminal: bool) -> Result<Folders> {
    let image = registry::image_to_run(roots, given)?;
    sign::check(roots, &image, given.text(0)?, given.one("vouched-by"))?;
    let config = image.container_config()?;
    let is_emulated = is_emulated(given, &image)?;
    // Before anything is made: the command may begin anew.
    containers::out_of_reach_if(is_emulated)?;
    let name = given.one("name").map_or_else(made_up_name, str::to_owned);
    let folders = Folders::of(roots, &name)?;
    let mut options = run_options(roots, given, &name, terminal)?;
    options.layer = layer::choose(given, &folders)?;
    if options.privileged {
        eprintln!(
            "punnet: --privileged: {name} has every capability, no system call filter, no masked or read-only kernel files and no limit on device \
             nodes: it can do whatever you can on this device"
        );
    }
    let place = Place {
        image_rootfs: image.rootfs(),
        bundle: folders.bundle.clone(),
        cgroup: cgroup_of(&folders),
        euid: geteuid().as_raw(),
        maps: user_namespace(given, &options)?,
        host_files: bundle::host_network_files(),
    };
    let spec = bundle::spec_for(
        &config,
        &Users::read(&image.rootfs())?,
        &options,
        &place,
        punnet_runtime::seccomp::named_default_seccomp,
    )?;
    let stop_signal = given
        .one("stop-signal")
        .or(config.stop_signal.as_deref())
        .unwrap_or("TERM");
    let bad_signal = || CliError::usage(format_args!("{stop_signal:?} is no signal"));
    // What is written there is the container's root user's.
    let root_of = |map: &[IdMapping], own| map.first().map_or(own, |line| line.host_id);
    let own_group = getegid().as_raw();
    let owner = match &place.maps {
        Some(maps) => (root_of(&maps.users, place.euid), root_of(&maps.groups, own_group)),
        None => (place.euid, own_group),
    };
    let meta = Meta {
        image: given.text(0)?.to_owned(),
        manifest: image.manifest.to_string(),
        command: bundle::command(&config, &options)?,
        created_at_s: unix_ms() / 1000,
        labels: labels(given)?,
        stop_signal: signal_number(stop_signal).ok_or_else(bad_signal)?,
        stop_timeout_s: given
            .parsed("stop-timeout", duration_s)?
            .unwrap_or(STOP_TIMEOUT_S),
        ram_layer: matches!(options.layer, Layer::InRam(_)).then_some(owner),
        is_emulated,
    };
    folders.claim()?;
    let filled = fill(&folders, &image, &options, &spec, owner);
    let config_json = spec.to_json();
    let written = filled.and_then(|()| match is_for_now(given) {
        true => folders.write_for_now(&config_json, &meta),
        false => folders.write(&config_json, &meta),
    });
    if let Err(error) = written {
        // The first error is the one to tell; what cannot be removed now has no record and is removed with rm --force.
        drop(folders.remove());
        return Err(error);
    }
    Ok(folders)
}

/// Whether the image's programs are for another CPU, which has to be asked for.
fn is_emulated(given: &Given, image: &Image) -> Result<bool> {
    let built_for = image.config()?.platform();
    let own = platform::check(&built_for, &platform::host(), platform::host_runs_32bit_arm());
    match platform_option(given)? {
        Some(wanted) => platform::check(&built_for, &wanted, true)?,
        None => return Ok(own.map(|()| false)?),
    }
    Ok(own.is_err())
}

/// Names are unique below one data root; the cgroup tree has those of all.
fn cgroup_of(folders: &Folders) -> String {
    let whole = Digest::of(folders.bundle.as_os_str().as_encoded_bytes()).hex();
    // A user's containers take what cgroup was delegated, if any: naming one would demand it.
    if geteuid().is_root() {
        format!("/punnet/{}-{}", folders.name, &whole[..8])
    } else {
        String::new()
    }
}

/// Names in /etc/subuid and /etc/subgid whose ranges root's containers take.
const RANGE_OWNERS: [&str; 2] = ["punnet", "containers"];

/// The users and groups of the container, when they are to be its own.
fn user_namespace(given: &Given, options: &RunOptions) -> Result<Option<IdMaps>> {
    let line = |container_id, range: Range| IdMapping {
        container_id,
        host_id: range.first,
        size: range.count,
    };
    let wanted = match given.one("userns") {
        None | Some("auto") => true,
        Some("host") => false,
        Some(other) => {
            return Err(CliError::usage(format_args!(
                "--userns takes auto or host, not {other:?}"
            )));
        }
    };
    if geteuid().is_root() {
        // Devices and the device's network belong to the device's users: in a namespace of others their rights would not hold.
        // A copy of the image's files has the image's owners, which nothing maps.
        let opened = options.privileged
            || options.host_network
            || !options.devices.is_empty()
            || options.layer == Layer::Copied;
        let ranges = RANGE_OWNERS.iter().find_map(|name| id_ranges::of(name, None));
        return Ok(ranges.filter(|_| wanted && !opened).map(|ranges| IdMaps {
            users: vec![line(0, ranges.users)],
            groups: vec![line(0, ranges.groups)],
        }));
    }
    if !wanted {
        return Err(CliError::Usage(
            "--userns host is for root: an ordinary user's containers need a user namespace".into(),
        )
        .into());
    }
    let mut maps = IdMaps::of_one(geteuid().as_raw(), getegid().as_raw());
    if let Some(ranges) = id_ranges::of_caller() {
        maps.users.push(line(1, ranges.users));
        maps.groups.push(line(1, ranges.groups));
    }
    Ok(Some(maps))
}

/// Processes of a container that says nothing else: a fork bomb ends there, and no sensible program comes near. Podman's.
const PIDS_MAX: u32 = 2048;

/// The limit asked for, or the default where it can be enforced: a default must not keep containers from running.
fn pids_max(asked: Option<u32>) -> Option<u32> {
    match asked {
        Some(0) => None,
        Some(limit) => Some(limit),
        None if geteuid().is_root() => {
            let root = punnet_runtime::probe::cgroup_root()?;
            let has = |name: &str| {
                let text = fs::read_to_string(root.join(name)).unwrap_or_default();
                text.split_whitespace().any(|word| word == "pids")
            };
            // The real root has no type; a cgroup namespace's may have processes in it, which keep controllers from its children.
            let can_enable = has("cgroup.controllers") && !root.join("cgroup.type").exists();
            (can_enable || has("cgroup.subtree_control")).then_some(PIDS_MAX)
        }
        None => None,
    }
}

fn fill(folders: &Folders, image: &Image, options: &RunOptions, spec: &Spec, owner: Owner) -> Result<()> {
    let writable: &[&str] = match options.layer {
        Layer::Copied => &[],
        _ if options.read_only => &[bundle::MOUNTPOINTS],
        Layer::OnDisk => &["upper", "work"],
        // Made at each start.
        Layer::InRam(_) => &[],
    };
    for name in writable.iter().chain(&["rootfs"]) {
        // The upper directory is the root directory that the container sees.
        make_visible(&folders.bundle.join(name), owner)?;
    }
    let rootfs = folders.bundle.join("rootfs");
    if options.layer == Layer::Copied {
        layer::copy(image, &rootfs)?;
    }
    if options.read_only {
        let copied = options.layer == Layer::Copied;
        make_mountpoints(
            &if copied {
                rootfs
            } else {
                folders.bundle.join(bundle::MOUNTPOINTS)
            },
            spec,
        )?;
    }
    Ok(())
}

/// What the mounts go to: a directory, or a file where a file is bound. What lies in another mount is made there by the runtime.
fn make_mountpoints(folder: &Path, spec: &Spec) -> Result<()> {
    let targets: Vec<&str> = spec
        .mounts
        .iter()
        .map(|mount| mount.destination.trim_matches('/'))
        .collect();
    for mount in &spec.mounts {
        let target = mount.destination.trim_matches('/');
        let inside_another = targets.iter().any(|other| {
            !other.is_empty()
                && target
                    .strip_prefix(other)
                    .is_some_and(|rest| rest.starts_with('/'))
        });
        if target.is_empty() || inside_another {
            continue;
        }
        let path = folder.join(target);
        let is_file = mount.kind == "bind" && Path::new(&mount.source).is_file();
        let parent = if is_file {
            path.parent().unwrap_or(folder)
        } else {
            &path
        };
        fs::create_dir_all(parent).map_err(file("cannot create", parent))?;
        if is_file {
            fs::File::create(&path).map_err(file("cannot create", &path))?;
        }
    }
    Ok(())
}

fn run_options(roots: &Roots, given: &Given, name: &str, terminal: bool) -> Result<RunOptions> {
    let owned = |long| given.all(long).map(str::to_owned).collect();
    Ok(RunOptions {
        entrypoint: given.one("entrypoint").map(|program| vec![program.to_owned()]),
        args: given.texts(1)?,
        env: environment(given),
        workdir: given.one("workdir").map(str::to_owned),
        user: given.one("user").map(str::to_owned),
        hostname: given.one("hostname").unwrap_or(name).to_owned(),
        host_network: match given.one("network") {
            None | Some("none") => false,
            Some("host") => true,
            Some(other) => {
                return Err(CliError::usage(format_args!(
                    "--network takes none or host, not {other:?}"
                )));
            }
        },
        mounts: given.all("volume").map(volume).collect::<Result<_, _>>()?,
        tmpfs: owned("tmpfs"),
        devices: devices(roots, given)?,
        read_only: given.has("read-only"),
        layer: Layer::OnDisk,
        memory_bytes_max: given.parsed("memory", size_bytes)?,
        pids_max: pids_max(given.parsed("pids-limit", |text| text.parse().ok())?),
        cpu_millis_max: given.parsed("cpus", cpu_millis)?,
        cap_add: owned("cap-add"),
        cap_drop: owned("cap-drop"),
        privileged: given.has("privileged"),
        terminal,
        new_privileges: given.has("allow-new-privileges"),
    })
}

/// `NAME=VALUE`, or `NAME` for the caller's value, which may be none.
fn environment(given: &Given) -> Vec<String> {
    let pair = |text: &str| match text.contains('=') {
        true => Some(text.to_owned()),
        false => std::env::var(text).ok().map(|value| format!("{text}={value}")),
    };
    given.all("env").filter_map(pair).collect()
}

fn volume(text: &str) -> Result<BindMount> {
    let bad = || CliError::usage(format_args!("--volume takes SRC:DST or SRC:DST:ro, not {text:?}"));
    let mut parts = text.split(':');
    let (Some(source), Some(target)) = (parts.next(), parts.next()) else {
        return Err(bad());
    };
    let read_only = match parts.next() {
        None | Some("rw") => false,
        Some("ro") => true,
        Some(_) => return Err(bad()),
    };
    if parts.next().is_some() {
        return Err(bad());
    }
    if !Path::new(source).exists() {
        return Err(CliError::usage(format_args!(
            "--volume: there is no {source} on this device"
        )));
    }
    Ok(BindMount {
        source: source.into(),
        target: target.into(),
        read_only,
    })
}

fn devices(roots: &Roots, given: &Given) -> Result<Vec<DeviceNode>> {
    let mut nodes: Vec<std::path::PathBuf> = given.all("device").map(Into::into).collect();
    if given.all("device-class").next().is_some() {
        let (board, trouble) = roots.board()?;
        if let Some(trouble) = trouble {
            eprintln!("punnet: {trouble}");
        }
        for class in given.all("device-class") {
            nodes.extend(class_nodes(&board, class)?);
        }
    }
    nodes.iter().map(|path| device(path)).collect()
}

/// The nodes of a class of this board. None at all is an error: the app would start without what it asked for.
fn class_nodes(board: &punnet_boards::Board, class: &str) -> Result<Vec<std::path::PathBuf>> {
    let known = board.device_classes.get(class).ok_or_else(|| {
        let classes: Vec<_> = board.device_classes.keys().map(String::as_str).collect();
        CliError::usage(format_args!(
            "there is no device class {class:?}; there are: {}",
            classes.join(", ")
        ))
    })?;
    let nodes = known.present();
    if nodes.is_empty() {
        return Err(CliError::usage(format_args!(
            "this board has no device of class {class} ({})",
            known.nodes.join(", ")
        )));
    }
    Ok(nodes)
}

fn device(path: &Path) -> Result<DeviceNode> {
    let metadata = fs::metadata(path).map_err(file("cannot look at the device", path))?;
    let kind = if metadata.file_type().is_block_device() {
        "b"
    } else {
        "c"
    };
    if !metadata.file_type().is_block_device() && !metadata.file_type().is_char_device() {
        return Err(CliError::usage(format_args!(
            "{} is no device node",
            path.display()
        )));
    }
    let text = path
        .to_str()
        .ok_or_else(|| CliError::usage(format_args!("{} is not UTF-8", path.display())))?;
    let number = |number: u64| i64::try_from(number).unwrap_or(0);
    let (major, minor) = (
        nix::sys::stat::major(metadata.rdev()),
        nix::sys::stat::minor(metadata.rdev()),
    );
    Ok(DeviceNode {
        path: text.into(),
        kind: kind.into(),
        major: number(major),
        minor: number(minor),
    })
}

fn labels(given: &Given) -> Result<punnet_json::Map<String>> {
    let pair = |text: &str| {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| CliError::usage(format_args!("--label takes NAME=VALUE, not {text:?}")))?;
        Ok((name.to_owned(), value.to_owned()))
    };
    given.all("label").map(pair).collect()
}

/// Not secret and not for ever: enough that two containers started by hand do not meet.
fn made_up_name() -> String {
    format!("c{:x}-{:x}", unix_ms() & 0xff_ffff, std::process::id())
}

fn dev_null() -> Result<std::os::fd::OwnedFd> {
    let null = Path::new("/dev/null");
    Ok(fs::File::open(null).map_err(file("cannot open", null))?.into())
}

fn exec(roots: &Roots, given: &Given) -> Result<ExitCode> {
    let folders = Folders::existing(roots, given.text(0)?)?;
    let runtime = runtime(roots)?;
    if containers::status(&runtime, &folders)?.is_none_or(|state| !containers::runs(state.status)) {
        return Err(CliError::NotRunning(folders.name).into());
    }
    if given.words().len() < 2 {
        return Err(CliError::Usage("punnet exec wants: NAME COMMAND [ARGUMENTS]".into()).into());
    }
    let container = id(&folders)?;
    let mut process = runtime.config(&container)?.process.unwrap_or_default();
    process.args = given.texts(1)?;
    process.terminal = given.has("tty");
    for pair in environment(given) {
        let name = pair.split('=').next().unwrap_or_default().to_owned();
        process.env.retain(|other| other.split('=').next() != Some(&name));
        process.env.push(pair);
    }
    if let Some(path) = given.one("workdir") {
        process.cwd = path.into();
    }
    if let Some(user) = given.one("user") {
        let (uid, gid) = user.split_once(':').unwrap_or((user, "0"));
        let number = |text: &str| {
            text.parse()
                .map_err(|_| CliError::usage(format_args!("--user takes numbers here, not {user:?}")))
        };
        process.user = punnet_spec::User {
            uid: number(uid)?,
            gid: number(gid)?,
            ..punnet_spec::User::default()
        };
    }
    let mut options = ExecOptions::new(process);
    options.detach = given.has("detach");
    if !given.has("interactive") && !given.has("tty") {
        options.stdio.stdin = Some(dev_null()?);
    }
    Ok(ExitCode::from(runtime.exec(&container, &options)?))
}
