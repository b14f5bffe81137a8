//! From an image to the configuration of a container: Docker's habits as a pure function.
//!
//! The root file system is the mount with destination `/`: an overlay of the image's tree and the container's own `upper` directory, or of the tree and
//! empty mount points, read-only. It is mounted in the container's mount namespace, so nothing of it can stay behind on the host. `root.path` names a directory
//! beside it only because other programs expect one. An image's VOLUMEs need no mount of their own: the writable layer holds them.

use std::path::{Path, PathBuf};

use punnet_spec::{
    Capabilities, Cpu, DEFAULT_CAPABILITIES, DEFAULT_PATH, Device, DeviceCgroup, IdMapping, Linux,
    MASKED_PATHS, Memory, Mount, Namespace, OCI_VERSION, Pids, Process, READONLY_PATHS, Resources, Root,
    Seccomp, Spec, default_mounts,
};

use crate::oci::ContainerConfig;
use crate::users::Users;
use crate::{Error, Result};

/// Microseconds that a CPU limit is counted over: the kernel's default (cgroup v2 cpu.max).
const CPU_PERIOD_US: u64 = 100_000;

/// What of the host's network set-up a container on the host's network needs to see.
const HOST_NETWORK_FILES: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/hostname"];

/// What the user asks for beyond the image.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Replaces the image's entrypoint, and puts its command out of force.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command.
    pub args: Vec<String>,
    /// `KEY=VALUE`, over the image's.
    pub env: Vec<String>,
    /// Replaces the image's working directory.
    pub workdir: Option<String>,
    /// `USER[:GROUP]`, replaces the image's.
    pub user: Option<String>,
    /// Host name inside.
    pub hostname: String,
    /// The host's network instead of one of its own with nothing but loopback.
    pub host_network: bool,
    /// Directories and files of the host.
    pub mounts: Vec<BindMount>,
    /// Empty file systems in RAM, by path.
    pub tmpfs: Vec<String>,
    /// Device nodes.
    pub devices: Vec<DeviceNode>,
    /// No writable layer.
    pub read_only: bool,
    /// Where what the container writes goes.
    pub layer: Layer,
    /// cgroup v2 memory.max, and no swap beyond it.
    pub memory_bytes_max: Option<u64>,
    /// cgroup v2 pids.max.
    pub pids_max: Option<u32>,
    /// Thousandths of a CPU.
    pub cpu_millis_max: Option<u32>,
    /// Capabilities given, with or without `CAP_`, or `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities taken, before the others are given.
    pub cap_drop: Vec<String>,
    /// All capabilities, no system call filter, nothing masked, /sys writable.
    pub privileged: bool,
    /// The process has a terminal.
    pub terminal: bool,
    /// Set-id programs may raise privileges.
    pub new_privileges: bool,
}

/// Where what a container writes goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Layer {
    /// `upper` and `work` in the bundle, over the image's tree (overlayfs).
    #[default]
    OnDisk,
    /// `upper` and `work` in this folder, which is in RAM: nothing is written to flash, and it is gone after a reboot.
    InRam(PathBuf),
    /// `rootfs` in the bundle is a copy of the image's tree.
    Copied,
}

/// A directory or file of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindMount {
    /// Absolute path on the host.
    pub source: String,
    /// Absolute path in the container.
    pub target: String,
    /// The container cannot write to it.
    pub read_only: bool,
}

/// A device node of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceNode {
    /// Path on the host and in the container.
    pub path: String,
    /// `c` or `b`.
    pub kind: String,
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
}

/// Directory of a read-only container's bundle that has what its mounts go to.
pub const MOUNTPOINTS: &str = "mountpoints";

/// Users and groups of a user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMaps {
    /// uid_map; 0 is among them.
    pub users: Vec<IdMapping>,
    /// gid_map; 0 is among them.
    pub groups: Vec<IdMapping>,
}

fn has_id(map: &[IdMapping], id: u32) -> bool {
    map.iter().any(|one| {
        id.checked_sub(one.container_id)
            .is_some_and(|offset| offset < one.size)
    })
}

fn count_of_ids(map: &[IdMapping]) -> u64 {
    map.iter().map(|one| u64::from(one.size)).sum()
}

impl IdMaps {
    /// Root inside is this user and group, and there are no others.
    pub fn of_one(user: u32, group: u32) -> Self {
        let line = |host_id| {
            vec![IdMapping {
                container_id: 0,
                host_id,
                size: 1,
            }]
        };
        Self {
            users: line(user),
            groups: line(group),
        }
    }

    /// Refuses a user that is not among those there are, and says what there is.
    fn check(&self, user: &punnet_spec::User) -> Result<()> {
        let mut groups = std::iter::once(&user.gid).chain(&user.additional_gids);
        if has_id(&self.users, user.uid) && groups.all(|gid| has_id(&self.groups, *gid)) {
            return Ok(());
        }
        let wanted = format!("the image wants user {}:{}", user.uid, user.gid);
        Err(Error::Run(match count_of_ids(&self.users) {
            1 => format!(
                "{wanted}, but an ordinary user has only one id to give, which is root inside: run it as root, with --user 0, or have a range \
                 of ids granted (`punnet doctor` says how)"
            ),
            count => format!(
                "{wanted}, but only {count} ids are mapped: have a larger range granted in /etc/subuid and /etc/subgid"
            ),
        }).into())
    }
}

/// Where the container is made, and by whom.
#[derive(Clone, Debug)]
pub struct Place {
    /// The image's tree.
    pub image_rootfs: PathBuf,
    /// The container's bundle; `upper` and `work` are in it.
    pub bundle: PathBuf,
    /// cgroups_path of the specification.
    pub cgroup: String,
    /// Effective user of who runs it; 0 for root.
    pub euid: u32,
    /// The user namespace, when there is one.
    pub maps: Option<IdMaps>,
    /// Files of [`HOST_NETWORK_FILES`] that exist.
    pub host_files: Vec<String>,
}

impl Place {
    /// Only root may map the ids of mounts. An ordinary user's files are root's inside, whoever they were for in the image.
    fn maps_ids_of_mounts(&self) -> bool {
        self.euid == 0 && self.maps.is_some()
    }
}

/// The host's network files that exist.
pub fn host_network_files() -> Vec<String> {
    HOST_NETWORK_FILES
        .iter()
        .filter(|path| Path::new(path).is_file())
        .map(ToString::to_string)
        .collect()
}

/// The container's configuration. `seccomp` makes the filter for a set of capabilities.
pub fn spec_for(
    image: &ContainerConfig,
    users: &Users,
    options: &RunOptions,
    place: &Place,
    seccomp: impl FnOnce(&[String]) -> Seccomp,
) -> Result<Spec> {
    let user = users.resolve(options.user.as_deref().unwrap_or(&image.user))?;
    if let Some(maps) = &place.maps {
        maps.check(&user)?;
    }
    let capabilities = capabilities(options)?;
    let filter = (!options.privileged).then(|| seccomp(&capabilities));
    let sets = if user.uid == 0 {
        let names: Vec<&str> = capabilities.iter().map(String::as_str).collect();
        Capabilities::of_root(&names)
    } else {
        // What a set-id program could still gain is the bounding set; the process itself starts with nothing, as with Docker.
        Capabilities {
            bounding: capabilities,
            ..Capabilities::default()
        }
    };
    let process = Process {
        terminal: options.terminal,
        args: command(image, options)?,
        env: environment(image, options, &user.home),
        cwd: working_directory(image, options)?,
        user: user.ids,
        capabilities: Some(sets),
        no_new_privileges: !options.new_privileges,
        ..Process::default()
    };
    Ok(Spec {
        oci_version: OCI_VERSION.to_owned(),
        process: Some(process),
        root: Some(Root {
            path: "rootfs".into(),
            readonly: options.read_only,
        }),
        hostname: options.hostname.clone(),
        mounts: mounts(options, place)?,
        linux: Some(linux(options, place, filter)),
        annotations: Default::default(),
        ..Spec::default()
    })
}

/// Entrypoint and command, as Docker combines them.
pub fn command(image: &ContainerConfig, options: &RunOptions) -> Result<Vec<String>> {
    let none = Vec::new();
    let (entrypoint, command) = match &options.entrypoint {
        Some(entrypoint) => (entrypoint, &none),
        None => (
            image.entrypoint.as_ref().unwrap_or(&none),
            image.cmd.as_ref().unwrap_or(&none),
        ),
    };
    let rest = if options.args.is_empty() {
        command
    } else {
        &options.args
    };
    let words: Vec<String> = entrypoint.iter().chain(rest).cloned().collect();
    if words.is_empty() {
        return Err(Error::Run(
            "nothing to run: the image has no ENTRYPOINT and no CMD, and no command was given".into(),
        )
        .into());
    }
    Ok(words)
}

/// The image's, over the defaults, under the user's; the place of the first mention stays.
fn environment(image: &ContainerConfig, options: &RunOptions, home: &str) -> Vec<String> {
    let mut defaults = vec![
        DEFAULT_PATH.to_owned(),
        format!("HOSTNAME={}", options.hostname),
        format!("HOME={home}"),
    ];
    if options.terminal {
        defaults.push("TERM=xterm".into());
    }
    let mut merged: Vec<String> = Vec::new();
    for pair in defaults.iter().chain(&image.env).chain(&options.env) {
        let name = pair.split('=').next().unwrap_or_default();
        let same = |other: &&mut String| other.split('=').next() == Some(name);
        match merged.iter_mut().find(same) {
            Some(earlier) => earlier.clone_from(pair),
            None => merged.push(pair.clone()),
        }
    }
    merged
}

fn working_directory(image: &ContainerConfig, options: &RunOptions) -> Result<String> {
    let path = options.workdir.as_deref().unwrap_or(&image.working_dir);
    match path {
        "" => Ok("/".into()),
        path if path.starts_with('/') => Ok(path.into()),
        path => Err(Error::Run(format!("the working directory {path:?} is not absolute")).into()),
    }
}

fn mounts(options: &RunOptions, place: &Place) -> Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    if options.layer != Layer::Copied {
        mounts.push(root_mount(options, place)?);
    }
    let mut defaults = default_mounts(options.host_network);
    if options.privileged {
        defaults
            .iter_mut()
            .filter(|mount| mount.destination.starts_with("/sys"))
            .for_each(|mount| {
                mount.options.retain(|option| option != "ro");
            });
    }
    /// Group of terminals.
    const TTY: u32 = 5;
    if place.maps.as_ref().is_some_and(|maps| !has_id(&maps.groups, TTY)) {
        defaults
            .iter_mut()
            .for_each(|mount| mount.options.retain(|option| option != "gid=5"));
    }
    mounts.extend(defaults);
    if options.host_network {
        mounts.extend(place.host_files.iter().map(|path| bind(path, path, true)));
    }
    for path in &options.tmpfs {
        let words = ["nosuid", "nodev", "noexec", "mode=1777"]
            .map(String::from)
            .to_vec();
        let destination = inside("--tmpfs", path)?.to_owned();
        mounts.push(Mount {
            destination,
            kind: "tmpfs".into(),
            source: "tmpfs".into(),
            options: words,
            ..Mount::default()
        });
    }
    for mount in &options.mounts {
        if !mount.source.starts_with('/') {
            return Err(Error::Run(format!(
                "--volume takes an absolute path on this device, not {:?}",
                mount.source
            ))
            .into());
        }
        let mut volume = bind(&mount.source, inside("--volume", &mount.target)?, mount.read_only);
        if place.maps_ids_of_mounts() {
            // The owners of its files are the same inside and outside.
            volume.options.push("ridmap".into());
        }
        mounts.push(volume);
    }
    if place.euid != 0 {
        // An ordinary user cannot make device nodes: the host's are bound in.
        mounts.extend(
            options
                .devices
                .iter()
                .map(|device| bind(&device.path, &device.path, false)),
        );
    }
    Ok(mounts)
}

/// A path in the container that a mount may go to.
fn inside<'a>(option: &str, path: &'a str) -> Result<&'a str> {
    let plain = path.split('/').all(|part| part != "..");
    if path.starts_with('/') && plain && !path.trim_matches('/').is_empty() {
        return Ok(path);
    }
    Err(Error::Run(format!(
        "{option} takes an absolute path in the container below `/`, without `..`, not {path:?}"
    ))
    .into())
}

fn bind(source: &str, target: &str, read_only: bool) -> Mount {
    let mut options = vec!["rbind".to_owned(), "rprivate".into(), "nosuid".into()];
    if read_only {
        options.push("ro".into());
    }
    Mount {
        destination: target.into(),
        kind: "bind".into(),
        source: source.into(),
        options,
        ..Mount::default()
    }
}

fn root_mount(options: &RunOptions, place: &Place) -> Result<Mount> {
    let text = |path: &Path| {
        let text = path.to_str().filter(|text| !text.contains([',', ':', '\\']));
        text.map(str::to_owned).ok_or_else(|| {
            Error::Run(format!("the path {} has a comma, colon or backslash, which overlayfs cannot take: move the data root", path.display()))
        })
    };
    let rootfs = text(&place.image_rootfs)?;
    let mut words = if options.read_only {
        // Below the image lie the empty directories that mounts go to: an image FROM scratch has none, and nothing can be made in it any more.
        let mountpoints = text(&place.bundle.join(MOUNTPOINTS))?;
        vec![format!("lowerdir={rootfs}:{mountpoints}")]
    } else {
        let folder = match &options.layer {
            Layer::InRam(folder) => folder,
            _ => &place.bundle,
        };
        let (upper, work) = (text(&folder.join("upper"))?, text(&folder.join("work"))?);
        vec![
            format!("lowerdir={rootfs}"),
            format!("upperdir={upper}"),
            format!("workdir={work}"),
        ]
    };
    if place.maps_ids_of_mounts() {
        words.push("idmap".into());
    }
    let (kind, source) = ("overlay", "overlay".to_owned());
    Ok(Mount {
        destination: "/".into(),
        kind: kind.into(),
        source,
        options: words,
        ..Mount::default()
    })
}

fn linux(options: &RunOptions, place: &Place, seccomp: Option<Seccomp>) -> Linux {
    let rootless = place.euid != 0;
    let mut kinds = vec!["pid", "ipc", "uts", "mount", "cgroup"];
    if !options.host_network {
        kinds.push("network");
    }
    if place.maps.is_some() {
        kinds.push("user");
    }
    let maps = place.maps.clone();
    let (users, groups) = maps.map(|maps| (maps.users, maps.groups)).unwrap_or_default();
    let owned = |paths: &[&str]| {
        if options.privileged {
            Vec::new()
        } else {
            paths.iter().map(ToString::to_string).collect()
        }
    };
    Linux {
        namespaces: kinds
            .into_iter()
            .map(|kind| Namespace {
                kind: kind.into(),
                path: String::new(),
            })
            .collect(),
        uid_mappings: users,
        gid_mappings: groups,
        devices: if rootless {
            Vec::new()
        } else {
            options.devices.iter().map(DeviceNode::to_spec).collect()
        },
        resources: resources(options, rootless),
        cgroups_path: place.cgroup.clone(),
        masked_paths: owned(MASKED_PATHS),
        readonly_paths: owned(READONLY_PATHS),
        seccomp,
        ..Linux::default()
    }
}

fn resources(options: &RunOptions, rootless: bool) -> Option<Resources> {
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let memory = options.memory_bytes_max.map(|limit| Memory {
        limit: Some(bytes(limit)),
        swap: Some(bytes(limit)),
        ..Memory::default()
    });
    let cpu = options.cpu_millis_max.map(|millis| Cpu {
        quota: Some(bytes(u64::from(millis) * CPU_PERIOD_US / 1000)),
        period: Some(CPU_PERIOD_US),
        ..Cpu::default()
    });
    let pids = options.pids_max.map(|limit| Pids {
        limit: Some(limit.into()),
    });
    let mut devices = Vec::new();
    if !rootless && !options.privileged {
        devices.push(DeviceCgroup {
            allow: false,
            access: "rwm".into(),
            ..DeviceCgroup::default()
        });
        devices.extend(options.devices.iter().map(|device| DeviceCgroup {
            allow: true,
            kind: device.kind.clone(),
            major: Some(device.major),
            minor: Some(device.minor),
            access: "rw".into(),
        }));
    }
    let resources = Resources {
        memory,
        cpu,
        pids,
        devices,
        ..Resources::default()
    };
    (resources != Resources::default()).then_some(resources)
}

impl DeviceNode {
    fn to_spec(&self) -> Device {
        Device {
            path: self.path.clone(),
            kind: self.kind.clone(),
            major: self.major,
            minor: self.minor,
            file_mode: Some(0o666),
            uid: Some(0),
            gid: Some(0),
        }
    }
}

/// The defaults, less what is dropped, and what is added.
fn capabilities(options: &RunOptions) -> Result<Vec<String>> {
    if options.privileged {
        return Ok(owned_all());
    }
    let mut names: Vec<String> = DEFAULT_CAPABILITIES.iter().map(ToString::to_string).collect();
    for name in &options.cap_drop {
        match capability(name)?.as_str() {
            "ALL" => names.clear(),
            name => names.retain(|other| other != name),
        }
    }
    for name in &options.cap_add {
        match capability(name)?.as_str() {
            "ALL" => names = owned_all(),
            name if !names.iter().any(|other| other == name) => names.push(name.into()),
            _ => {}
        }
    }
    Ok(names)
}

fn owned_all() -> Vec<String> {
    ALL_CAPABILITIES
        .iter()
        .map(|name| format!("CAP_{name}"))
        .collect()
}

fn capability(text: &str) -> Result<String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    match name {
        "ALL" => Ok("ALL".into()),
        name if ALL_CAPABILITIES.contains(&name) => Ok(format!("CAP_{name}")),
        _ => Err(Error::Run(format!(
            "there is no capability {text:?} (capabilities(7) lists them)"
        ))
        .into()),
    }
}

/// capabilities(7), by number.
const ALL_CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn line(container_id: u32, host_id: u32, size: u32) -> Vec<IdMapping> {
        vec![IdMapping {
            container_id,
            host_id,
            size,
        }]
    }

    fn place(euid: u32) -> Place {
        Place {
            image_rootfs: "/store/images/x/rootfs".into(),
            bundle: "/data/containers/c".into(),
            cgroup: "/punnet/c".into(),
            euid,
            maps: (euid != 0).then(|| IdMaps::of_one(euid, euid)),
            host_files: vec!["/etc/resolv.conf".into()],
        }
    }

    fn image() -> ContainerConfig {
        ContainerConfig {
            entrypoint: Some(vec!["/entry".into()]),
            cmd: Some(vec!["one".into()]),
            env: vec!["PATH=/bin".into(), "A=image".into()],
            ..ContainerConfig::default()
        }
    }

    fn spec(image: &ContainerConfig, options: &RunOptions, euid: u32) -> Result<Spec> {
        spec_for(image, &Users::default(), options, &place(euid), |_| {
            Seccomp::default()
        })
    }

    #[test]
    fn entrypoint_and_command_combine_as_with_docker() {
        let words = |entrypoint: Option<&str>, args: &[&str]| {
            let entrypoint = entrypoint.map(|word| vec![word.to_owned()]);
            let args = args.iter().map(ToString::to_string).collect();
            command(
                &image(),
                &RunOptions {
                    entrypoint,
                    args,
                    ..RunOptions::default()
                },
            )
            .unwrap()
            .join(" ")
        };
        assert_eq!(words(None, &[]), "/entry one");
        assert_eq!(words(None, &["two", "three"]), "/entry two three");
        assert_eq!(words(Some("/other"), &[]), "/other");
        assert_eq!(words(Some("/other"), &["two"]), "/other two");
        assert!(
            command(&ContainerConfig::default(), &RunOptions::default())
                .unwrap_err()
                .to_string()
                .contains("nothing to run")
        );
    }

    #[test]
    fn the_user_s_environment_goes_over_the_image_s_over_the_defaults() {
        let options = RunOptions {
            env: vec!["A=user".into(), "B=2".into()],
            hostname: "h".into(),
            ..RunOptions::default()
        };
        assert_eq!(
            environment(&image(), &options, "/root"),
            ["PATH=/bin", "HOSTNAME=h", "HOME=/root", "A=user", "B=2"]
        );
    }

    #[test]
    fn the_root_is_an_overlay_or_the_tree_itself_read_only() {
        let writable = spec(&image(), &RunOptions::default(), 0).unwrap();
        assert_eq!(writable.mounts[0].destination, "/");
        assert_eq!(
            writable.mounts[0].options.join(","),
            "lowerdir=/store/images/x/rootfs,upperdir=/data/containers/c/upper,workdir=/data/containers/c/work"
        );
        let read_only = spec(
            &image(),
            &RunOptions {
                read_only: true,
                ..RunOptions::default()
            },
            0,
        )
        .unwrap();
        assert_eq!(
            (
                read_only.mounts[0].kind.as_str(),
                read_only.mounts[0].options.join(",").as_str()
            ),
            (
                "overlay",
                "lowerdir=/store/images/x/rootfs:/data/containers/c/mountpoints"
            )
        );
        assert!(read_only.root.unwrap().readonly);
    }

    #[test]
    fn what_is_written_goes_where_the_layer_is() {
        let with = |layer| {
            let options = RunOptions {
                layer,
                ..RunOptions::default()
            };
            spec(&image(), &options, 0).unwrap()
        };
        let in_ram = with(Layer::InRam("/run/punnet/c/layer".into()));
        assert_eq!(
            in_ram.mounts[0].options.join(","),
            "lowerdir=/store/images/x/rootfs,upperdir=/run/punnet/c/layer/upper,workdir=/run/punnet/c/layer/work"
        );
        let copied = with(Layer::Copied);
        assert!(copied.mounts.iter().all(|mount| mount.destination != "/"));
        assert_eq!(copied.root.unwrap().path, "rootfs");
    }

    #[test]
    fn an_ordinary_user_gets_a_user_namespace_with_one_id() {
        let linux = spec(&image(), &RunOptions::default(), 1000)
            .unwrap()
            .linux
            .unwrap();
        assert_eq!(
            linux.uid_mappings,
            [IdMapping {
                container_id: 0,
                host_id: 1000,
                size: 1
            }]
        );
        assert!(linux.namespaces.iter().any(|namespace| namespace.kind == "user"));
        assert_eq!(linux.resources, None);
        let other = ContainerConfig {
            user: "7".into(),
            ..image()
        };
        assert!(
            spec(&other, &RunOptions::default(), 1000)
                .unwrap_err()
                .to_string()
                .contains("only one id")
        );
        assert_eq!(
            spec(&other, &RunOptions::default(), 0)
                .unwrap()
                .process
                .unwrap()
                .user
                .uid,
            7
        );
    }

    #[test]
    fn root_s_user_namespace_maps_layers_and_volumes_and_an_ordinary_user_s_does_not() {
        let options = RunOptions {
            mounts: vec![BindMount {
                source: "/data".into(),
                target: "/data".into(),
                read_only: true,
            }],
            user: Some("1000:1000".into()),
            ..RunOptions::default()
        };
        let mapped = |euid: u32| {
            let maps = IdMaps {
                users: line(0, 100_000, 65536),
                groups: line(0, 200_000, 65536),
            };
            let place = Place {
                maps: Some(maps),
                ..place(euid)
            };
            spec_for(&image(), &Users::default(), &options, &place, |_| {
                Seccomp::default()
            })
            .unwrap()
        };
        for (euid, expected) in [(0, true), (1000, false)] {
            let spec = mapped(euid);
            let words = |target: &str| {
                let mount = spec.mounts.iter().find(|mount| mount.destination == target);
                mount.unwrap().options.join(",")
            };
            assert_eq!(words("/").ends_with(",idmap"), expected);
            assert_eq!(words("/data").ends_with(",ridmap"), expected);
            assert!(words("/dev/pts").contains("gid=5"));
            let linux = spec.linux.unwrap();
            assert_eq!(
                (linux.uid_mappings[0].host_id, linux.gid_mappings[0].host_id),
                (100_000, 200_000)
            );
            assert!(linux.namespaces.iter().any(|namespace| namespace.kind == "user"));
        }
    }

    #[test]
    fn a_user_outside_the_mapped_range_is_refused_with_what_there_is() {
        let maps = IdMaps {
            users: line(0, 100_000, 1000),
            groups: line(0, 100_000, 1000),
        };
        let error = |user: &str| {
            let place = Place {
                maps: Some(maps.clone()),
                ..place(1000)
            };
            let options = RunOptions {
                user: Some(user.into()),
                ..RunOptions::default()
            };
            spec_for(&image(), &Users::default(), &options, &place, |_| {
                Seccomp::default()
            })
            .err()
            .map(|error| error.to_string())
        };
        assert_eq!(error("999:999"), None);
        for user in ["1000:0", "0:1000", "4294967295:0"] {
            assert!(error(user).unwrap().contains("only 1000 ids"), "{user}");
        }
    }

    #[test]
    fn the_network_is_its_own_unless_it_is_the_host_s() {
        let kinds = |host_network| {
            let spec = spec(
                &image(),
                &RunOptions {
                    host_network,
                    ..RunOptions::default()
                },
                0,
            )
            .unwrap();
            let own = spec
                .linux
                .unwrap()
                .namespaces
                .iter()
                .any(|namespace| namespace.kind == "network");
            (
                own,
                spec.mounts
                    .iter()
                    .any(|mount| mount.destination == "/etc/resolv.conf"),
            )
        };
        assert_eq!(kinds(false), (true, false));
        assert_eq!(kinds(true), (false, true));
    }

    #[test]
    fn capabilities_are_dropped_before_others_are_added() {
        let given = |add: &[&str], drop: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
            capabilities(&RunOptions {
                cap_add: owned(add),
                cap_drop: owned(drop),
                ..RunOptions::default()
            })
        };
        assert_eq!(given(&["net_admin"], &["ALL"]).unwrap(), ["CAP_NET_ADMIN"]);
        assert_eq!(
            given(&[], &["CAP_CHOWN"]).unwrap().len(),
            DEFAULT_CAPABILITIES.len() - 1
        );
        assert_eq!(given(&["all"], &[]).unwrap().len(), ALL_CAPABILITIES.len());
        assert!(
            given(&["CAP_FLY"], &[])
                .unwrap_err()
                .to_string()
                .contains("CAP_FLY")
        );
    }

    #[test]
    fn a_user_that_is_not_root_starts_without_capabilities() {
        let options = RunOptions {
            user: Some("9".into()),
            ..RunOptions::default()
        };
        let sets = spec(&image(), &options, 0)
            .unwrap()
            .process
            .unwrap()
            .capabilities
            .unwrap();
        assert!(sets.effective.is_empty() && sets.permitted.is_empty() && sets.ambient.is_empty());
    }

    #[test]
    fn limits_become_cgroup_values() {
        let options = RunOptions {
            memory_bytes_max: Some(1 << 20),
            pids_max: Some(9),
            cpu_millis_max: Some(1500),
            ..RunOptions::default()
        };
        let resources = spec(&image(), &options, 0)
            .unwrap()
            .linux
            .unwrap()
            .resources
            .unwrap();
        let memory = resources.memory.unwrap();
        assert_eq!((memory.limit, memory.swap), (Some(1 << 20), Some(1 << 20)));
        assert_eq!(
            (resources.pids.unwrap().limit, resources.cpu.unwrap().quota),
            (Some(9), Some(150_000))
        );
    }

    #[test]
    fn paths_that_cannot_be_mounted_are_refused() {
        let volume = |source: &str, target: &str| {
            let mounts = vec![BindMount {
                source: source.into(),
                target: target.into(),
                read_only: false,
            }];
            spec(
                &image(),
                &RunOptions {
                    mounts,
                    ..RunOptions::default()
                },
                0,
            )
            .map(drop)
        };
        volume("/a", "/b/c").unwrap();
        for (source, target) in [("a", "/b"), ("/a", "b"), ("/a", "/"), ("/a", "/b/../c")] {
            assert!(volume(source, target).is_err(), "{source}:{target}");
        }
        let odd = Place {
            image_rootfs: "/a:b".into(),
            ..place(0)
        };
        let error = spec_for(&image(), &Users::default(), &RunOptions::default(), &odd, |_| {
            Seccomp::default()
        })
        .unwrap_err();
        assert!(error.to_string().contains("/a:b"), "{error}");
    }

    #[test]
    fn privileged_opens_what_it_says() {
        let spec = spec(
            &image(),
            &RunOptions {
                privileged: true,
                ..RunOptions::default()
            },
            0,
        )
        .unwrap();
        let linux = spec.linux.unwrap();
        assert!(linux.seccomp.is_none() && linux.masked_paths.is_empty() && linux.readonly_paths.is_empty());
        assert_eq!(
            spec.process.unwrap().capabilities.unwrap().effective.len(),
            ALL_CAPABILITIES.len()
        );
    }
}
