//! The root file system and its device nodes.

use super::mounts::{MountPlan, Propagation, parse_propagation};
use super::{HostFacts, mounts};
use crate::error::{Error, Result};
use punnet_spec::{Linux, Spec};
use std::path::{Path, PathBuf};

/// Where the root comes from, and how it ends up.
#[derive(Clone, Debug)]
pub struct RootPlan {
    /// The directory to bind, when no mount brings the root.
    pub path: PathBuf,
    /// A mount with destination `/`: takes the place of `path`, inside the container's own mount namespace.
    pub mount: Option<MountPlan>,
    /// Read-only once everything is in place.
    pub readonly: bool,
    /// Propagation of the root mount.
    pub propagation: Option<Propagation>,
}

impl RootPlan {
    /// Whether mounts of the container may appear on the host: engines say so where they share a volume's mounts.
    pub fn is_shared(&self) -> bool {
        self.propagation
            .as_ref()
            .is_some_and(|asked| asked.kind == punnet_sys::propagation::SHARED)
    }
}

/// What mknod(2) makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// Character device.
    Char,
    /// Block device.
    Block,
    /// Named pipe.
    Fifo,
}

/// A device node inside the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePlan {
    /// Absolute path.
    pub path: PathBuf,
    /// What it is.
    pub kind: DeviceKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Takes the mount with destination `/` out of the list, or `root.path`.
pub fn plan(spec: &Spec, mut mounts: Vec<MountPlan>, host: &HostFacts) -> Result<(RootPlan, Vec<MountPlan>)> {
    let linux = spec.linux.as_ref();
    let words = linux.map_or("", |linux| linux.rootfs_propagation.as_str());
    let propagation = match words {
        "" => None,
        word => Some(parse_propagation(word).ok_or_else(|| {
            Error::config("linux.rootfsPropagation", format!("unknown propagation {word:?}"))
        })?),
    };
    let first = mounts
        .iter()
        .position(|mount| mount.destination == Path::new("/"));
    let mount = first.map(|index| mounts.remove(index));
    if mounts.iter().any(|mount| mount.destination == Path::new("/")) {
        return Err(Error::config("mounts", "more than one has destination /"));
    }
    let path = match (&spec.root, &mount) {
        (Some(root), _) if root.path.contains('\0') => {
            return Err(Error::config("root.path", "has a zero byte"));
        }
        (Some(root), None) if root.path.is_empty() => return Err(Error::config("root.path", "is empty")),
        (Some(root), _) => host.bundle.join(&root.path),
        (None, Some(_)) => PathBuf::new(),
        (None, None) => {
            return Err(Error::config(
                "root",
                "is missing, and no mount has destination /",
            ));
        }
    };
    let readonly = spec.root.as_ref().is_some_and(|root| root.readonly);
    Ok((
        RootPlan {
            path,
            mount,
            readonly,
            propagation,
        },
        mounts,
    ))
}

/// Devices that every container gets.
/// <https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#default-devices>
const DEFAULT_DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Mode of a device node that says nothing else.
const DEVICE_MODE: u32 = 0o666;

/// The default devices, then `linux.devices`, which may replace them.
pub fn devices(linux: &Linux) -> Result<Vec<DevicePlan>> {
    let mut plan: Vec<DevicePlan> = DEFAULT_DEVICES
        .iter()
        .map(|&(name, major, minor)| DevicePlan {
            path: Path::new("/dev").join(name),
            kind: DeviceKind::Char,
            major,
            minor,
            mode: DEVICE_MODE,
            uid: 0,
            gid: 0,
        })
        .collect();
    for (index, device) in linux.devices.iter().enumerate() {
        let field = |name: &str| format!("linux.devices[{index}].{name}");
        let kind = match device.kind.as_str() {
            "c" | "u" => DeviceKind::Char,
            "b" => DeviceKind::Block,
            "p" => DeviceKind::Fifo,
            other => return Err(Error::config(field("type"), format!("unknown type {other:?}"))),
        };
        if !device.path.starts_with('/') || device.path.contains('\0') || device.path.ends_with('/') {
            return Err(Error::config(
                field("path"),
                "must be the absolute path of a file",
            ));
        }
        let number = |name: &str, value: i64| {
            u32::try_from(value)
                .map_err(|_| Error::config(field(name), format!("{value} is not a device number")))
        };
        let path = mounts::absolute(&device.path);
        plan.retain(|other| other.path != path);
        plan.push(DevicePlan {
            path,
            kind,
            major: number("major", device.major)?,
            minor: number("minor", device.minor)?,
            mode: device.file_mode.unwrap_or(DEVICE_MODE) & 0o7777,
            uid: device.uid.unwrap_or(0),
            gid: device.gid.unwrap_or(0),
        });
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::NamespacePlan;
    use punnet_spec::{Device, Mount, Root};

    fn overlay() -> Mount {
        Mount {
            destination: "/".into(),
            kind: "overlay".into(),
            source: "overlay".into(),
            ..Mount::default()
        }
    }

    fn root_of(spec: &Spec) -> std::result::Result<RootPlan, String> {
        let host = HostFacts {
            bundle: "/b".into(),
            ..HostFacts::default()
        };
        let namespaces = NamespacePlan::default();
        let mounts = spec
            .mounts
            .iter()
            .map(|mount| mounts::plan(mount, 0, "", &namespaces, &host).unwrap())
            .collect();
        plan(spec, mounts, &host)
            .map(|(root, _)| root)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn root_is_a_mount_on_slash_or_a_directory_of_the_bundle() {
        let root = Some(Root {
            path: "rootfs".into(),
            readonly: true,
        });
        let plain = root_of(&Spec {
            root: root.clone(),
            ..Spec::default()
        })
        .unwrap();
        assert_eq!(
            (plain.path.as_path(), plain.readonly),
            (Path::new("/b/rootfs"), true)
        );
        let mounted = root_of(&Spec {
            root,
            mounts: vec![overlay()],
            ..Spec::default()
        })
        .unwrap();
        assert!(mounted.mount.is_some() && mounted.readonly);
        assert!(
            root_of(&Spec {
                mounts: vec![overlay(), overlay()],
                ..Spec::default()
            })
            .unwrap_err()
            .contains("more than one")
        );
        assert!(root_of(&Spec::default()).unwrap_err().contains("is missing"));
    }

    #[test]
    fn configured_devices_replace_default_ones() {
        let device = |path: &str, kind: &str, major| Device {
            path: path.into(),
            kind: kind.into(),
            major,
            ..Device::default()
        };
        let plan = devices(&Linux {
            devices: vec![device("/dev/null", "c", 9), device("/dev/x", "b", 8)],
            ..Linux::default()
        });
        let plan = plan.unwrap();
        assert_eq!(plan.len(), 7);
        assert!(
            plan.iter()
                .any(|device| device.path == Path::new("/dev/null") && device.major == 9)
        );
        for bad in [
            device("dev/x", "c", 1),
            device("/dev/x", "q", 1),
            device("/dev/x", "c", -1),
        ] {
            assert!(
                devices(&Linux {
                    devices: vec![bad],
                    ..Linux::default()
                })
                .is_err()
            );
        }
    }
}
