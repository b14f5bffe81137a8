//! Which namespaces are made, which are joined, the id maps, and the kernel parameters they allow. namespaces(7)

use super::HostFacts;
use crate::error::{Error, Result};
use nix::sched::CloneFlags;
use punnet_spec::{IdMapping, Linux};
use std::path::PathBuf;

pub(crate) const USER: u64 = CloneFlags::CLONE_NEWUSER.bits() as u32 as u64;
pub(crate) const MOUNT: u64 = CloneFlags::CLONE_NEWNS.bits() as u32 as u64;
pub(crate) const PID: u64 = CloneFlags::CLONE_NEWPID.bits() as u32 as u64;
pub(crate) const UTS: u64 = CloneFlags::CLONE_NEWUTS.bits() as u32 as u64;
pub(crate) const IPC: u64 = CloneFlags::CLONE_NEWIPC.bits() as u32 as u64;
pub(crate) const NETWORK: u64 = CloneFlags::CLONE_NEWNET.bits() as u32 as u64;
pub(crate) const CGROUP: u64 = CloneFlags::CLONE_NEWCGROUP.bits() as u32 as u64;
pub(crate) const TIME: u64 = punnet_sys::CLONE_NEWTIME;

/// The kernel's bound on lines of a uid_map (UID_GID_MAP_MAX_EXTENTS).
const MAPPINGS_MAX: usize = 340;

/// A namespace to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// CLONE_NEW* bit.
    pub kind: u64,
    /// The specification's word.
    pub name: &'static str,
    /// Namespace file.
    pub path: PathBuf,
}

/// Namespaces of the container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespacePlan {
    /// CLONE_NEW* bits to make.
    pub new: u64,
    /// Namespaces to join: the user namespace first, it owns the others.
    pub join: Vec<Join>,
    /// Lines of uid_map; empty without a new user namespace.
    pub uid_map: Vec<IdMapping>,
    /// Lines of gid_map.
    pub gid_map: Vec<IdMapping>,
    /// The caller may not write these maps itself: only a single line for its own id.
    pub unprivileged: bool,
}

impl NamespacePlan {
    /// Whether the container has a namespace of this kind apart from the runtime's, new or joined.
    pub fn has(&self, kind: u64) -> bool {
        self.all() & kind != 0
    }

    /// Whether a namespace of this kind is joined: others are in it already.
    pub fn joins(&self, kind: u64) -> bool {
        self.join.iter().any(|join| join.kind == kind)
    }

    /// CLONE_NEW* bits of every namespace the container has apart from the runtime's.
    pub fn all(&self) -> u64 {
        self.join.iter().fold(self.new, |bits, join| bits | join.kind)
    }
}

fn parse(kind: &str) -> Option<(u64, &'static str)> {
    const KINDS: [(u64, &str); 8] = [
        (USER, "user"),
        (MOUNT, "mount"),
        (PID, "pid"),
        (UTS, "uts"),
        (IPC, "ipc"),
        (NETWORK, "network"),
        (CGROUP, "cgroup"),
        (TIME, "time"),
    ];
    KINDS.into_iter().find(|(_, name)| *name == kind)
}

/// Plans `linux.namespaces`, `uidMappings` and `gidMappings`.
pub fn plan(linux: &Linux, host: &HostFacts) -> Result<NamespacePlan> {
    let mut plan = NamespacePlan {
        unprivileged: host.euid != 0,
        ..NamespacePlan::default()
    };
    for (index, namespace) in linux.namespaces.iter().enumerate() {
        let field = || format!("linux.namespaces[{index}]");
        let Some((kind, name)) = parse(&namespace.kind) else {
            return Err(Error::config(
                field(),
                format!("unknown type {:?}", namespace.kind),
            ));
        };
        if plan.has(kind) {
            return Err(Error::config(field(), format!("a second {name} namespace")));
        }
        if namespace.path.is_empty() {
            plan.new |= kind;
        } else if namespace.path.starts_with('/') && !namespace.path.contains('\0') {
            plan.join.push(Join {
                kind,
                name,
                path: PathBuf::from(&namespace.path),
            });
        } else {
            return Err(Error::config(field(), "the path must be absolute"));
        }
    }
    plan.join.sort_by_key(|join| join.kind != USER);
    if plan.new & MOUNT == 0 {
        return Err(Error::config(
            "linux.namespaces",
            "a new mount namespace is needed: the root would change for the host",
        ));
    }
    if plan.new & USER != 0 {
        plan.uid_map = mappings("linux.uidMappings", &linux.uid_mappings, host.euid)?;
        plan.gid_map = mappings("linux.gidMappings", &linux.gid_mappings, host.egid)?;
    } else if plan.has(USER) {
        // Joined: its maps are there already, whatever config.json repeats.
    } else if !linux.uid_mappings.is_empty() || !linux.gid_mappings.is_empty() {
        return Err(Error::config(
            "linux.uidMappings",
            "id mappings need a user namespace",
        ));
    } else if host.euid != 0 {
        return Err(Error::config(
            "linux.namespaces",
            "an ordinary user needs a user namespace here (`punnet oci spec --rootless` writes such a file)",
        ));
    }
    Ok(plan)
}

/// Checks one map; an empty one becomes root inside = the caller outside, where the caller is an ordinary user.
pub(super) fn mappings(field: &str, given: &[IdMapping], caller: u32) -> Result<Vec<IdMapping>> {
    if given.is_empty() {
        return Ok(vec![IdMapping {
            container_id: 0,
            host_id: caller,
            size: 1,
        }]);
    }
    if given.len() > MAPPINGS_MAX {
        return Err(Error::config(field, format!("more than {MAPPINGS_MAX} lines")));
    }
    for mapping in given {
        let fits = |first: u32| first.checked_add(mapping.size).is_some();
        if mapping.size == 0 || !fits(mapping.container_id) || !fits(mapping.host_id) {
            return Err(Error::config(
                field,
                format!("{mapping:?} is empty or ends past the last id"),
            ));
        }
    }
    Ok(given.to_vec())
}

/// Kernel parameters, as paths below /proc/sys: only those that belong to a namespace of the container.
pub fn sysctls(linux: &Linux, namespaces: &NamespacePlan) -> Result<Vec<(String, String)>> {
    const IPC_NAMES: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let mut plan = Vec::with_capacity(linux.sysctl.len());
    for (name, value) in &linux.sysctl {
        let field = || format!("linux.sysctl.{name}");
        // A name may be written with slashes, as sysctl(8) allows: then dots are literal.
        let path = if name.contains('/') {
            name.clone()
        } else {
            name.replace('.', "/")
        };
        let dotted = path.replace('/', ".");
        let bad = |part: &str| part.is_empty() || part == "." || part == "..";
        if path.split('/').any(bad) || path.contains('\0') {
            return Err(Error::config(field(), "not a parameter's name"));
        }
        let (kind, word) = if dotted.starts_with("net.") {
            (NETWORK, "network")
        } else if dotted.starts_with("fs.mqueue.") || IPC_NAMES.contains(&dotted.as_str()) {
            (IPC, "ipc")
        } else if dotted == "kernel.domainname" {
            (UTS, "uts")
        } else if dotted.starts_with("user.") {
            (USER, "user")
        } else {
            return Err(Error::config(
                field(),
                "belongs to the host as a whole: set it there",
            ));
        };
        if !namespaces.has(kind) {
            return Err(Error::config(
                field(),
                format!("would change the host's: it needs a {word} namespace"),
            ));
        }
        plan.push((path, value.clone()));
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use punnet_spec::Namespace;

    fn linux(kinds: &[(&str, &str)]) -> Linux {
        let namespaces = kinds
            .iter()
            .map(|(kind, path)| Namespace {
                kind: (*kind).to_owned(),
                path: (*path).to_owned(),
            })
            .collect();
        Linux {
            namespaces,
            ..Linux::default()
        }
    }

    fn check(kinds: &[(&str, &str)], euid: u32) -> std::result::Result<NamespacePlan, String> {
        let host = HostFacts {
            euid,
            egid: euid,
            ..HostFacts::default()
        };
        plan(&linux(kinds), &host).map_err(|error| error.to_string())
    }

    #[test]
    fn user_namespace_is_joined_first() {
        let plan = check(&[("network", "/n"), ("user", "/u"), ("mount", "")], 0).unwrap();
        assert_eq!(
            plan.join.iter().map(|join| join.name).collect::<Vec<_>>(),
            ["user", "network"]
        );
        assert_eq!(plan.new, MOUNT);
    }

    #[test]
    fn wrong_namespaces_are_named() {
        for (kinds, euid, word) in [
            (&[("mount", ""), ("disk", "")][..], 0, "unknown type \"disk\""),
            (&[("mount", ""), ("mount", "")], 0, "a second mount"),
            (&[("pid", "")], 0, "mount namespace is needed"),
            (&[("mount", ""), ("network", "relative")], 0, "must be absolute"),
            (&[("mount", "")], 1000, "--rootless"),
        ] {
            let error = check(kinds, euid).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn ordinary_user_is_root_inside() {
        let plan = check(&[("mount", ""), ("user", "")], 1000).unwrap();
        assert_eq!(
            plan.uid_map,
            [IdMapping {
                container_id: 0,
                host_id: 1000,
                size: 1
            }]
        );
    }

    #[test]
    fn sysctl_of_the_host_is_refused_and_of_the_namespace_planned() {
        let own = NamespacePlan {
            new: NETWORK | IPC,
            ..NamespacePlan::default()
        };
        let check = |name: &str, own: &NamespacePlan| {
            let sysctl = [(name.to_owned(), "1".to_owned())].into_iter().collect();
            sysctls(
                &Linux {
                    sysctl,
                    ..Linux::default()
                },
                own,
            )
            .map(|plan| plan[0].0.clone())
            .ok()
        };
        assert_eq!(
            check("net.ipv4.ip_forward", &own).as_deref(),
            Some("net/ipv4/ip_forward")
        );
        assert_eq!(
            check("net/ipv4/conf/eth0.1/forwarding", &own).as_deref(),
            Some("net/ipv4/conf/eth0.1/forwarding")
        );
        assert_eq!(check("kernel.sem", &own).as_deref(), Some("kernel/sem"));
        for bad in [
            "kernel.core_pattern",
            "net..x",
            "net/../kernel/core_pattern",
            "vm.swappiness",
        ] {
            assert_eq!(check(bad, &own), None, "{bad}");
        }
        assert_eq!(check("net.ipv4.ip_forward", &NamespacePlan::default()), None);
    }
}
