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

/// A network device that moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetDevicePlan {
    /// Name on the host.
    pub host: String,
    /// Name in the container; `%d` becomes the first free number.
    pub inside: String,
}

impl NetDevicePlan {
    /// Whether the kernel chooses the name.
    pub fn is_template(&self) -> bool {
        self.inside.contains('%')
    }
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
    /// Clocks of the new time namespace: lines for /proc/PID/timens_offsets.
    pub time_offsets: String,
    /// Network devices to move in.
    pub net_devices: Vec<NetDevicePlan>,
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
    if !plan.has(MOUNT) && plan.has(USER) {
        return Err(Error::config(
            "linux.namespaces",
            "a mount namespace is needed with a user namespace: its root may not mount anything in the host's",
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
    plan.time_offsets = time_offsets(linux, &plan)?;
    plan.net_devices = net_devices(linux, &plan)?;
    Ok(plan)
}

/// Plans `linux.timeOffsets`. time_namespaces(7)
fn time_offsets(linux: &Linux, plan: &NamespacePlan) -> Result<String> {
    const NANOSECONDS: u32 = 1_000_000_000;
    let refuse = |field: &str, reason: &str| Err(Error::config(field, reason));
    if linux.time_offsets.is_empty() {
        return Ok(String::new());
    }
    if plan.new & TIME == 0 {
        return refuse("linux.timeOffsets", "needs a new time namespace");
    }
    if plan.unprivileged {
        return refuse(
            "linux.timeOffsets",
            "only root may set clocks (CAP_SYS_TIME), also those of a namespace",
        );
    }
    let mut lines = String::new();
    for (clock, offset) in &linux.time_offsets {
        let field = format!("linux.timeOffsets.{clock}");
        if !["monotonic", "boottime"].contains(&clock.as_str()) {
            return refuse(&field, "is neither monotonic nor boottime");
        }
        if offset.nanosecs >= NANOSECONDS {
            return refuse(&field, "has a second or more of nanoseconds");
        }
        lines += &format!("{clock} {} {}\n", offset.secs, offset.nanosecs);
    }
    Ok(lines)
}

/// Plans `linux.netDevices`.
fn net_devices(linux: &Linux, plan: &NamespacePlan) -> Result<Vec<NetDevicePlan>> {
    /// IFNAMSIZ with its ending zero.
    const NAME_BYTES_MAX: usize = 15;
    let mut devices: Vec<NetDevicePlan> = Vec::with_capacity(linux.net_devices.len());
    for (host, device) in &linux.net_devices {
        let refuse = |reason: &str| Err(Error::config(format!("linux.netDevices.{host}"), reason));
        let inside = if device.name.is_empty() {
            host
        } else {
            &device.name
        };
        let is_name = |name: &str| {
            !matches!(name, "" | "." | "..")
                && name.len() <= NAME_BYTES_MAX
                && !name.contains(|c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace())
        };
        let percent = inside.matches('%').count();
        if !is_name(host) || !is_name(inside) || percent != inside.matches("%d").count() || percent > 1 {
            return refuse("is not a network device's name");
        }
        if !plan.has(NETWORK) {
            return refuse("needs a network namespace: it is the container's already");
        }
        if plan.unprivileged {
            return refuse("only root may move a network device of the host");
        }
        if percent == 0 && devices.iter().any(|other| other.inside == *inside) {
            return refuse("has the name of another one in the container");
        }
        devices.push(NetDevicePlan {
            host: host.clone(),
            inside: inside.clone(),
        });
    }
    Ok(devices)
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
        } else if matches!(dotted.as_str(), "kernel.domainname" | "kernel.hostname") {
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
            (&[("pid", ""), ("user", "/u")], 0, "mount namespace is needed"),
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

    fn check_json(text: &str, euid: u32) -> std::result::Result<NamespacePlan, String> {
        let host = HostFacts {
            euid,
            ..HostFacts::default()
        };
        plan(&punnet_json::from_str(text).unwrap(), &host).map_err(|error| error.to_string())
    }

    #[test]
    fn time_offsets_are_lines_for_the_kernel() {
        let with = |namespaces: &str, offsets: &str, euid| {
            let text = format!(
                r#"{{"namespaces":[{{"type":"mount"}},{{"type":"user"}}{namespaces}],"timeOffsets":{{{offsets}}}}}"#
            );
            check_json(&text, euid).map(|plan| plan.time_offsets)
        };
        let time = r#",{"type":"time"}"#;
        assert_eq!(
            with(
                time,
                r#""monotonic":{"secs":-5,"nanosecs":7},"boottime":{"secs":9}"#,
                0
            )
            .unwrap(),
            "boottime 9 0\nmonotonic -5 7\n"
        );
        for (namespaces, offsets, euid, word) in [
            ("", r#""boottime":{"secs":1}"#, 0, "needs a new time namespace"),
            (
                r#",{"type":"time","path":"/t"}"#,
                r#""boottime":{}"#,
                0,
                "needs a new time",
            ),
            (time, r#""boottime":{"secs":1}"#, 1000, "only root"),
            (time, r#""realtime":{"secs":1}"#, 0, "timeOffsets.realtime"),
            (time, r#""boottime":{"nanosecs":1000000000}"#, 0, "nanoseconds"),
        ] {
            let error = with(namespaces, offsets, euid).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn network_devices_have_names_and_a_namespace() {
        let with = |devices: &str, euid| {
            let text = format!(
                r#"{{"namespaces":[{{"type":"mount"}},{{"type":"user"}},{{"type":"network"}}],"netDevices":{{{devices}}}}}"#
            );
            check_json(&text, euid).map(|plan| {
                let name = |device: &NetDevicePlan| format!("{}>{}", device.host, device.inside);
                plan.net_devices.iter().map(name).collect::<Vec<_>>()
            })
        };
        let good = with(
            r#""eth0":{},"eth1":{"name":"lan"},"eth2":{"name":"wan%d"},"eth3":{"name":"wan%d"}"#,
            0,
        );
        assert_eq!(
            good.unwrap(),
            ["eth0>eth0", "eth1>lan", "eth2>wan%d", "eth3>wan%d"]
        );
        for (devices, euid, word) in [
            (r#""a/b":{}"#, 0, "not a network device's name"),
            (
                r#""eth0":{"name":"sixteen_letters_"}"#,
                0,
                "not a network device's name",
            ),
            (r#""eth0":{"name":"x%s"}"#, 0, "not a network device's name"),
            (r#""eth0":{"name":"x%d%d"}"#, 0, "not a network device's name"),
            (r#""eth0":{"name":"x"},"eth1":{"name":"x"}"#, 0, "another one"),
            (r#""eth0":{}"#, 1000, "only root"),
        ] {
            let error = with(devices, euid).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
        let error = check_json(r#"{"namespaces":[{"type":"mount"}],"netDevices":{"eth0":{}}}"#, 0);
        assert!(error.unwrap_err().contains("needs a network namespace"));
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
