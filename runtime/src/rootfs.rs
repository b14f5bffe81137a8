//! Builds the container's root file system from the plan: every mount is made detached and attached by descriptor to a place that the
//! kernel resolved inside the root. What no step here does: follow a path as text.

use crate::error::{Error, OsContext, Result};
use crate::paths::{create_dir_all, create_file, open_in_root, open_no_follow, open_plain, split};
use crate::plan::{DeviceKind, DevicePlan, MountPlan, MountSource, Plan, Propagation};
use crate::{copy_tree, idmap};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::{Mode, SFlag, fstat, makedev, mknodat};
use nix::sys::statfs::{FsType, PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat};
use punnet_sys::attr;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What the host side gives, opened while the process still has the caller's rights on host paths.
pub(crate) struct Sources {
    root: RootSource,
    /// Where the root is attached until pivot_root(2).
    at: OwnedFd,
    /// One per mount of the plan; `None` for those that are not binds.
    binds: Vec<Option<Bind>>,
}

/// What a bind mount shows.
enum Bind {
    /// A mount that is not attached yet.
    Made(OwnedFd),
    /// A place of the host: the mount is made when its turn comes, because Linux 6.8 and later list mounts in the order in which they are made.
    Place(OwnedFd),
}

/// What becomes the root.
enum RootSource {
    Mount(OwnedFd),
    /// An overlay that the root of a user namespace has to make itself, so that it may give away the files that it copies up.
    Overlay {
        lower: Vec<OwnedFd>,
        /// `upperdir` and `workdir`.
        upper: Vec<(String, OwnedFd)>,
    },
}

/// The sources, with the root in its place.
pub(crate) struct Attached {
    root: OwnedFd,
    binds: Vec<Option<Bind>>,
}

fn c_string(text: impl AsRef<[u8]>) -> Result<CString> {
    CString::new(text.as_ref()).map_err(|_| Error::config("mounts", "has a zero byte"))
}

/// Id-mapped binds: made by the runtime before the container's process, because the kernel gives them only to who owns the file system.
#[derive(Default)]
pub(crate) struct Idmapped {
    /// One per mount of the plan.
    mounts: Vec<Option<OwnedFd>>,
    root: Option<OwnedFd>,
    /// Lower layers of an overlay that is the root.
    layers: Vec<OwnedFd>,
}

impl Idmapped {
    /// Makes what the plan asks for.
    pub fn make(plan: &Plan) -> Result<Self> {
        let all = plan.mounts.iter().chain(&plan.root.mount);
        if all.into_iter().all(|mount| mount.idmap.is_none()) {
            return Ok(Self::default());
        }
        let root = plan.root.mount.as_ref().map(open_idmapped).transpose()?;
        let layers = plan.root.mount.as_ref().map(open_layers).transpose()?;
        Ok(Self {
            layers: layers.unwrap_or_default(),
            mounts: plan.mounts.iter().map(open_idmapped).collect::<Result<_>>()?,
            root: root.flatten(),
        })
    }
}

fn open_idmapped(mount: &MountPlan) -> Result<Option<OwnedFd>> {
    let Some(idmap) = &mount.idmap else {
        return Ok(None);
    };
    let Some(bind) = open_bind(mount)? else {
        return Ok(None);
    };
    let namespace = idmap::user_namespace(&idmap.maps)?;
    punnet_sys::mount_idmap(bind.as_fd(), idmap.recursive, namespace.as_fd()).os(
        "map the ids of (does its file system support that?)",
        mount.destination.display(),
    )?;
    Ok(Some(bind))
}

fn open_layers(mount: &MountPlan) -> Result<Vec<OwnedFd>> {
    let (MountSource::New { options, .. }, Some(idmap)) = (&mount.source, &mount.idmap) else {
        return Ok(Vec::new());
    };
    let namespace = idmap::user_namespace(&idmap.maps)?;
    let lower = options.iter().find(|(key, _)| key == "lowerdir");
    let paths = lower.and_then(|(_, value)| value.as_deref()).unwrap_or_default();
    let layer = |path: &str| {
        let clone =
            punnet_sys::open_tree_clone(AT_FDCWD, &c_string(path)?, false).os("bind the layer", path)?;
        punnet_sys::mount_idmap(clone.as_fd(), false, namespace.as_fd()).os(
            "map the ids of the layer (does its file system support that?)",
            path,
        )?;
        Ok(clone)
    };
    paths.split(':').map(layer).collect()
}

/// Clones every part of the host that the container gets, as detached mounts; `at` is any directory.
pub(crate) fn open_sources(plan: &Plan, idmapped: &Idmapped, at: &Path) -> Result<Sources> {
    let reuse = |mount: &MountPlan, made: &OwnedFd| {
        made.try_clone()
            .os("use the mount for", mount.destination.display())
    };
    let open = |(index, mount): (usize, &MountPlan)| match idmapped.mounts.get(index) {
        Some(Some(made)) => reuse(mount, made).map(Bind::Made).map(Some),
        // Once ours are separated from the host's mounts, it is too late to share with those.
        _ if plan.root.is_shared() && mount.is_shared() => Ok(open_bind(mount)?.map(Bind::Made)),
        _ => Ok(open_place(mount)?.map(Bind::Place)),
    };
    let binds = plan.mounts.iter().enumerate().map(open).collect::<Result<_>>()?;
    let root = match (&plan.root.mount, &idmapped.root) {
        (Some(mount), _) if !idmapped.layers.is_empty() => overlay_of(mount, &idmapped.layers)?,
        (Some(mount), Some(made)) => RootSource::Mount(reuse(mount, made)?),
        (Some(mount), None) => RootSource::Mount(match open_bind(mount)? {
            Some(bind) => bind,
            None => new_mount(mount)?,
        }),
        (None, _) => {
            let path = &plan.root.path;
            let source = open_plain(path, OFlag::O_PATH | OFlag::O_DIRECTORY)
                .os("open the root file system", path.display())?;
            let clone = punnet_sys::open_tree_clone(source.as_fd(), c"", true)
                .os("bind the root file system", path.display())?;
            make_slave(clone.as_fd()).os("separate the root file system", path.display())?;
            RootSource::Mount(clone)
        }
    };
    let at = open_plain(at, OFlag::O_PATH | OFlag::O_DIRECTORY).os("open", at.display())?;
    Ok(Sources { root, at, binds })
}

fn overlay_of(mount: &MountPlan, layers: &[OwnedFd]) -> Result<RootSource> {
    let MountSource::New { options, .. } = &mount.source else {
        return Err(Error::config("mounts", "an overlay is not a bind mount"));
    };
    let upper = |(key, value): &(String, Option<String>)| {
        let path = value.as_deref().unwrap_or_default();
        let fd =
            open_plain(Path::new(path), OFlag::O_PATH | OFlag::O_DIRECTORY).os("open the layer", path)?;
        Ok((key.clone(), fd))
    };
    Ok(RootSource::Overlay {
        lower: layers
            .iter()
            .map(|layer| layer.try_clone().os("use a layer of", "the root"))
            .collect::<Result<_>>()?,
        upper: options
            .iter()
            .filter(|(key, _)| key == "upperdir" || key == "workdir")
            .map(upper)
            .collect::<Result<_>>()?,
    })
}

/// Links of the host are the host's business, even magic ones: the path is the administrator's.
fn open_place(mount: &MountPlan) -> Result<Option<OwnedFd>> {
    let MountSource::Bind { path, .. } = &mount.source else {
        return Ok(None);
    };
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let place = nix::fcntl::open(path, flags, Mode::empty()).os("bind", path.display())?;
    Ok(Some(place))
}

fn open_bind(mount: &MountPlan) -> Result<Option<OwnedFd>> {
    match open_place(mount)? {
        Some(place) => make_bind(mount, &place).map(Some),
        None => Ok(None),
    }
}

/// A mount of its own of a place, with its options.
fn make_bind(mount: &MountPlan, place: &OwnedFd) -> Result<OwnedFd> {
    let shown = &mount.destination.display();
    let recursive = matches!(mount.source, MountSource::Bind { recursive: true, .. });
    let clone =
        punnet_sys::open_tree_clone(place.as_fd(), c"", recursive).os("make the bind mount for", shown)?;
    if !mount.is_shared() {
        // What is mounted inside must not appear outside, unless asked for.
        make_slave(clone.as_fd()).os("separate the bind mount for", shown)?;
    }
    set_attributes(&clone, mount).os("set the options of the bind mount for", shown)?;
    Ok(clone)
}

fn make_slave(mount: BorrowedFd<'_>) -> nix::Result<()> {
    punnet_sys::mount_setattr(mount, true, 0, 0, punnet_sys::propagation::SLAVE)
}

fn set_attributes(fd: &OwnedFd, mount: &MountPlan) -> nix::Result<()> {
    if mount.set | mount.clear != 0 {
        punnet_sys::mount_setattr(fd.as_fd(), false, mount.set, mount.clear, 0)?;
    }
    if mount.set_recursive | mount.clear_recursive != 0 {
        punnet_sys::mount_setattr(fd.as_fd(), true, mount.set_recursive, mount.clear_recursive, 0)?;
    }
    Ok(())
}

/// Makes a new file system, not attached anywhere yet.
fn new_mount(mount: &MountPlan) -> Result<OwnedFd> {
    match &mount.source {
        MountSource::New {
            kind,
            source,
            options,
        } => {
            // Copying up needs to write first.
            let attributes = if mount.copy_up {
                0
            } else {
                mount.set | mount.set_recursive
            };
            new_file_system(kind, source, options, attributes)
        }
        MountSource::Cgroup => new_file_system("cgroup2", "cgroup", &[], mount.set | mount.set_recursive),
        MountSource::Bind { path, .. } => Err(Error::config(
            "mounts",
            format!("{} was not opened", path.display()),
        )),
    }
}

fn new_file_system(
    kind: &str,
    source: &str,
    options: &[(String, Option<String>)],
    attributes: u64,
) -> Result<OwnedFd> {
    let fs = punnet_sys::fsopen(&c_string(kind)?).os("mount a file system of type", kind)?;
    // Descriptors of directories with long names, open until the file system is made.
    let mut held = Vec::new();
    if !source.is_empty() {
        set_option(&fs, "source", source, &mut held).map_err(|errno| fs_error(&fs, kind, "source", errno))?;
    }
    for (key, value) in options {
        let name = c_string(key)?;
        match value {
            Some(value) => set_option(&fs, key, value, &mut held),
            None => punnet_sys::fsconfig_set_flag(fs.as_fd(), &name),
        }
        .map_err(|errno| fs_error(&fs, kind, key, errno))?;
    }
    punnet_sys::fsconfig_create(fs.as_fd()).map_err(|errno| fs_error(&fs, kind, "", errno))?;
    punnet_sys::fsmount(fs.as_fd(), attributes).os("mount a file system of type", kind)
}

/// Sets a string option. A list of directories that is longer than fsconfig(2) takes is given by descriptors.
fn set_option(fs: &OwnedFd, key: &str, value: &str, held: &mut Vec<OwnedFd>) -> nix::Result<()> {
    let text = |value: &str| CString::new(value).map_err(|_| Errno::EINVAL);
    let is_directory = matches!(key, "lowerdir" | "upperdir" | "workdir");
    if value.len() <= punnet_sys::FSCONFIG_STRING_MAX || !is_directory {
        return punnet_sys::fsconfig_set_string(fs.as_fd(), &text(key)?, &text(value)?);
    }
    let mut short = Vec::new();
    for path in value.split(':') {
        let fd = open_plain(Path::new(path), OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        short.push(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        held.push(fd);
    }
    punnet_sys::fsconfig_set_string(fs.as_fd(), &text(key)?, &text(&short.join(":"))?)
}

/// The kernel says more than an errno through the file system's descriptor. fsopen(2)
fn fs_error(fs: &OwnedFd, kind: &str, key: &str, errno: Errno) -> Box<Error> {
    let mut bytes = [0; 256];
    let said = nix::unistd::read(fs, &mut bytes).unwrap_or(0);
    let said = String::from_utf8_lossy(&bytes[..said]);
    let said = said
        .get(2..)
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .map(|text| format!(" ({text})"));
    let option = if key.is_empty() {
        String::new()
    } else {
        format!(" with option {key}")
    };
    Error::os(
        "mount a file system of type",
        &format_args!("{kind}{option}{}", said.unwrap_or_default()),
        errno,
    )
}

impl Sources {
    /// Attaches the root somewhere in our own mount namespace, as the container's root user.
    pub fn attach_root(self, plan: &Plan, nodev: bool) -> Result<Attached> {
        let root = match self.root {
            RootSource::Mount(root) => root,
            RootSource::Overlay { lower, upper } => make_overlay(plan, &lower, &upper, &self.at)?,
        };
        punnet_sys::move_mount(root.as_fd(), self.at.as_fd()).os("attach", "the root file system")?;
        if nodev {
            punnet_sys::mount_setattr(root.as_fd(), true, attr::NODEV, 0, 0)
                .os("close the devices of", "the root file system")?;
        }
        let binds = self.binds;
        Ok(Attached { root, binds })
    }
}

/// The layers are named by descriptor: the container's root may not walk the host's folders.
fn make_overlay(
    plan: &Plan,
    lower: &[OwnedFd],
    upper: &[(String, OwnedFd)],
    at: &OwnedFd,
) -> Result<OwnedFd> {
    let Some(mount) = &plan.root.mount else {
        return Err(Error::config("mounts", "an overlay is a mount"));
    };
    let MountSource::New {
        kind,
        source,
        options,
    } = &mount.source
    else {
        return Err(Error::config("mounts", "an overlay is not a bind mount"));
    };
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    for layer in lower {
        // overlayfs takes attached mounts only; it keeps a copy of its own, and these go with the old root.
        punnet_sys::move_mount(layer.as_fd(), at.as_fd()).os("attach a layer of", "the root")?;
    }
    let given = options.iter().map(|(key, value)| {
        let opened = upper.iter().find(|(name, _)| name == key);
        let value = match (key.as_str(), opened) {
            ("lowerdir", _) => Some(lower.iter().map(name).collect::<Vec<_>>().join(":")),
            (_, Some((_, fd))) => Some(name(fd)),
            _ => value.clone(),
        };
        (key.clone(), value)
    });
    let options: Vec<_> = given.collect();
    new_file_system(kind, source, &options, mount.set | mount.set_recursive)
}

impl Attached {
    /// The root's mount.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Attaches every mount of the plan, in order.
    pub fn attach_mounts(&self, plan: &Plan, cgroup: Option<&Path>) -> Result<()> {
        for (mount, bind) in plan.mounts.iter().zip(&self.binds) {
            let made;
            let fd = match bind {
                Some(Bind::Made(bind)) => bind,
                Some(Bind::Place(place)) => {
                    made = make_bind(mount, place)?;
                    &made
                }
                None => {
                    made = match &mount.source {
                        MountSource::Cgroup => cgroup_mount(mount, plan, cgroup)?,
                        _ => new_mount(mount).or_else(|error| fallback(mount, plan, error))?,
                    };
                    &made
                }
            };
            attach(self.root(), mount, fd)?;
        }
        Ok(())
    }
}

/// The container's view of the cgroup tree: a mount of its own where it has a cgroup namespace, otherwise its own cgroup's directory. A new
/// cgroup2 mount without a namespace would show the whole host and reset the options of the host's mount.
fn cgroup_mount(mount: &MountPlan, plan: &Plan, own: Option<&Path>) -> Result<OwnedFd> {
    if plan.namespaces.has(crate::plan::namespaces_bits::CGROUP) {
        return new_mount(mount).or_else(|error| fallback(mount, plan, error));
    }
    bind_from_host(mount, own.unwrap_or(Path::new("/sys/fs/cgroup")))
}

/// Binds a part of the host in the place of a file system of its own, with the same options for all that is mounted there.
fn bind_from_host(mount: &MountPlan, path: &Path) -> Result<OwnedFd> {
    let shown = &path.display();
    let clone = punnet_sys::open_tree_clone(AT_FDCWD, &c_string(path.as_os_str().as_bytes())?, true)
        .os("bind the host's", shown)?;
    make_slave(clone.as_fd()).os("separate the bind mount of", shown)?;
    let set = (mount.set | mount.set_recursive) & !attr::ATIME;
    punnet_sys::mount_setattr(clone.as_fd(), true, set, 0, 0)
        .os("set the options of the bind mount of", shown)?;
    Ok(clone)
}

/// What the kernel does not give to a user namespace is bound from the host, as runc and crun do: only file systems that show the same
/// there.
fn fallback(mount: &MountPlan, plan: &Plan, error: Box<Error>) -> Result<OwnedFd> {
    use crate::plan::namespaces_bits::{NETWORK, PID, USER};
    let denied = matches!(error.errno(), Some(Errno::EPERM | Errno::EBUSY));
    let host_path = match &mount.source {
        _ if !denied || !plan.namespaces.has(USER) => return Err(error),
        MountSource::Cgroup => "/sys/fs/cgroup",
        MountSource::New { kind, .. } if kind == "sysfs" && !plan.namespaces.has(NETWORK) => "/sys",
        MountSource::New { kind, .. } if kind == "mqueue" => "/dev/mqueue",
        MountSource::New { kind, .. } if kind == "proc" && !plan.namespaces.has(PID) => "/proc",
        _ => return Err(error),
    };
    bind_from_host(mount, Path::new(host_path)).map_err(|_| error)
}

/// Files of procfs over which something else may be mounted: they show numbers, and lxcfs replaces them.
const PROC_FILES: [&str; 9] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/net/dev",
];

fn is_procfs(fd: &OwnedFd) -> nix::Result<bool> {
    Ok(fstatfs(fd)?.filesystem_type() == PROC_SUPER_MAGIC)
}

fn is_directory(fd: &OwnedFd) -> nix::Result<bool> {
    Ok(SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR)
}

fn attach(root: BorrowedFd<'_>, mount: &MountPlan, fd: &OwnedFd) -> Result<()> {
    let shown = &mount.destination.display();
    let refuse = |reason: &str| Err(Error::config("mounts", format!("{shown}: {reason}")));
    // What is bound can be anything; the root of a file system is a directory, and we know which it is.
    let is_bind = mount.new_kind().is_none();
    let mut target = if !is_bind || is_directory(fd).os("inspect the mount for", shown)? {
        create_dir_all(root, &mount.destination)
    } else {
        create_file(root, &mount.destination)
    }
    .os("make the mount point", shown)?;
    let is_proc =
        mount.new_kind() == Some("proc") || is_bind && is_procfs(fd).os("inspect the mount for", shown)?;
    if is_proc || mount.new_kind() == Some("sysfs") {
        // A link here would put the kernel's files where the checks below do not look.
        let itself = open_no_follow(root, &mount.destination).os("inspect", shown)?;
        if !is_directory(&itself).os("inspect", shown)? {
            return refuse("is a symbolic link in the image; proc and sysfs are mounted on directories only");
        }
        // What was looked at is what is mounted on: a link may have been there a moment ago.
        target = itself;
    }
    let known = PROC_FILES
        .iter()
        .any(|known| mount.destination == Path::new(known));
    if !is_proc
        && !known
        && (is_procfs(&target).os("inspect", shown)? || mount.destination == Path::new("/proc"))
    {
        return refuse("lies inside procfs: mounting there is not allowed");
    }
    if mount.copy_up {
        copy_tree::copy(&target, fd).os("copy into the tmpfs what is in", shown)?;
        set_attributes(fd, mount).os("set the options of", shown)?;
    }
    punnet_sys::move_mount(fd.as_fd(), target.as_fd()).os("mount on", shown)?;
    for Propagation { kind, recursive } in &mount.propagation {
        punnet_sys::mount_setattr(fd.as_fd(), *recursive, 0, 0, *kind).os("set the propagation of", shown)?;
    }
    Ok(())
}

/// Makes the device nodes and the links of /dev.
pub(crate) fn make_devices(root: BorrowedFd<'_>, plan: &Plan, in_userns: bool) -> Result<()> {
    let mut directory = None;
    for device in &plan.devices {
        make_device(root, device, in_userns, &mut directory)?;
    }
    if !plan.setup_dev {
        return Ok(());
    }
    let dev = create_dir_all(root, Path::new("/dev")).os("make", "/dev")?;
    const LINKS: [(&str, &str); 5] = [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("pts/ptmx", "ptmx"),
    ];
    for (target, name) in LINKS {
        if name == "ptmx" {
            match unlinkat(&dev, name, UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno).os("replace", "/dev/ptmx"),
            }
        }
        match symlinkat(target, &dev, name) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno).os("link", format_args!("/dev/{name}")),
        }
    }
    Ok(())
}

/// `directory`: the one that the device before was made in, as most are in the same.
fn make_device<'a>(
    root: BorrowedFd<'_>,
    device: &'a DevicePlan,
    in_userns: bool,
    directory: &mut Option<(&'a Path, OwnedFd)>,
) -> Result<()> {
    let shown = &device.path.display();
    if in_userns {
        return bind_device(root, device);
    }
    let (path, name) = split(&device.path).os("make device", shown)?;
    let parent = match directory {
        Some((known, parent)) if *known == path => &*parent,
        other => {
            let made = create_dir_all(root, path).os("make the directory of device", shown)?;
            &other.insert((path, made)).1
        }
    };
    let kind = kind_flag(device.kind);
    let number = makedev(device.major.into(), device.minor.into());
    match mknodat(parent, name, kind, Mode::from_bits_truncate(device.mode), number) {
        // We are in somebody's user namespace ourselves.
        Err(Errno::EPERM) => return bind_device(root, device),
        Err(Errno::EEXIST) => {
            let itself = open_no_follow(root, &device.path).os("inspect", shown)?;
            return check_device(&itself, device);
        }
        result => result.os("make device", shown)?,
    }
    if (device.uid, device.gid) == (0, 0) {
        // Whose it is already: we are root here, and not of a user namespace.
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
    fchownat(
        parent,
        name,
        Some(uid),
        Some(gid),
        nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW,
    )
    .os("give away device", shown)
}

fn kind_flag(kind: DeviceKind) -> SFlag {
    match kind {
        DeviceKind::Char => SFlag::S_IFCHR,
        DeviceKind::Block => SFlag::S_IFBLK,
        DeviceKind::Fifo => SFlag::S_IFIFO,
    }
}

/// A node of that name that is something else would be used in the device's place.
fn check_device(fd: &OwnedFd, device: &DevicePlan) -> Result<()> {
    let shown = &device.path.display();
    let stat = fstat(fd).os("inspect", shown)?;
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    let number = makedev(device.major.into(), device.minor.into());
    if kind == kind_flag(device.kind) && (device.kind == DeviceKind::Fifo || stat.st_rdev == number) {
        return Ok(());
    }
    Err(Error::config(
        "linux.devices",
        format!(
            "{shown} is there and is not device {}:{}",
            device.major, device.minor
        ),
    ))
}

/// Binds the host's node of the same name, where mknod(2) is not allowed.
fn bind_device(root: BorrowedFd<'_>, device: &DevicePlan) -> Result<()> {
    let shown = &device.path.display();
    let node = open_plain(&device.path, OFlag::O_PATH | OFlag::O_NOFOLLOW).os("open the host's", shown)?;
    check_device(&node, device)?;
    let clone = punnet_sys::open_tree_clone(node.as_fd(), c"", false).os("bind the host's", shown)?;
    let target = create_file(root, &device.path).os("make the mount point", shown)?;
    punnet_sys::move_mount(clone.as_fd(), target.as_fd()).os("bind", shown)
}

/// Hides paths: a directory behind an empty read-only one, a file behind the null device.
pub(crate) fn mask_paths(root: BorrowedFd<'_>, plan: &Plan) -> Result<()> {
    if plan.masked_paths.is_empty() {
        return Ok(());
    }
    // The real one: what the image or a mount put at /dev/null does not count.
    let null = open_plain(Path::new("/dev/null"), OFlag::O_PATH | OFlag::O_NOFOLLOW)
        .os("open the host's", "/dev/null")?;
    let real = DevicePlan {
        path: "/dev/null".into(),
        kind: DeviceKind::Char,
        major: 1,
        minor: 3,
        mode: 0,
        uid: 0,
        gid: 0,
    };
    check_device(&null, &real)?;
    let mut empty: Option<OwnedFd> = None;
    for path in &plan.masked_paths {
        let shown = &path.display();
        let target = match open_in_root(root, path, OFlag::O_PATH) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => continue,
            result => result.os("open for masking", shown)?,
        };
        let cover = if !is_directory(&target).os("inspect", shown)? {
            punnet_sys::open_tree_clone(null.as_fd(), c"", false).os("mask", shown)?
        } else if let Some(empty) = &empty {
            punnet_sys::open_tree_clone(empty.as_fd(), c"", false).os("mask", shown)?
        } else {
            let locked = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
            new_file_system(
                "tmpfs",
                "tmpfs",
                &[("nr_inodes".to_owned(), Some("2".to_owned()))],
                locked,
            )?
        };
        punnet_sys::move_mount(cover.as_fd(), target.as_fd()).os("mask", shown)?;
        if empty.is_none() && is_directory(&cover).os("inspect", shown)? {
            empty = Some(cover);
        }
    }
    Ok(())
}

/// Makes paths read-only, with all that is mounted below them.
pub(crate) fn make_paths_readonly(root: BorrowedFd<'_>, plan: &Plan) -> Result<()> {
    for path in &plan.readonly_paths {
        let shown = &path.display();
        let target = match open_in_root(root, path, OFlag::O_PATH) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => continue,
            result => result.os("open to make read-only", shown)?,
        };
        let clone = punnet_sys::open_tree_clone(target.as_fd(), c"", true).os("make read-only", shown)?;
        punnet_sys::mount_setattr(clone.as_fd(), true, attr::RDONLY, 0, 0).os("make read-only", shown)?;
        punnet_sys::move_mount(clone.as_fd(), target.as_fd()).os("make read-only", shown)?;
    }
    Ok(())
}

/// Writes kernel parameters through a procfs of our own, which is never attached: nothing in the container can stand in its way.
pub(crate) fn write_sysctls(plan: &Plan) -> Result<()> {
    if plan.sysctl.is_empty() {
        return Ok(());
    }
    let proc = new_file_system("proc", "proc", &[], attr::NOSUID | attr::NODEV | attr::NOEXEC)?;
    for (path, value) in &plan.sysctl {
        let full = Path::new("/sys").join(path);
        let file = open_in_root(proc.as_fd(), &full, OFlag::O_WRONLY).os("set the kernel parameter", path)?;
        nix::unistd::write(&file, value.as_bytes()).os("set the kernel parameter", path)?;
    }
    Ok(())
}

/// Whether a descriptor is on a file system of this type.
pub(crate) fn is_on(fd: &OwnedFd, kind: FsType) -> nix::Result<bool> {
    Ok(fstatfs(fd)?.filesystem_type() == kind)
}
