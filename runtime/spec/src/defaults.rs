//! The configuration that `punnet oci spec` writes: the one `runc spec` writes, with a cgroup namespace.

use crate::{
    Capabilities, DeviceCgroup, IdMapping, Linux, Mount, Namespace, OCI_VERSION, Process, Resources, Rlimit,
    Root, Spec, User,
};

/// PATH of a container that says nothing else.
pub const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What Docker grants a container by default, less CAP_MKNOD and CAP_AUDIT_WRITE, which need no longer be given: devices come from
/// config.json, and nothing in a scratch image writes audit records.
pub const DEFAULT_CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Kernel files that tell too much, hidden from containers.
pub const MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Kernel files that change the host, made read-only in containers.
pub const READONLY_PATHS: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Capabilities of the `spec` command's configuration: runc's choice.
const SPEC_CAPABILITIES: &[&str] = &["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];

impl Spec {
    /// The configuration the `spec` command writes: a shell on a terminal in `rootfs`. With `rootless`, one that an ordinary user
    /// can run: a user namespace that maps root to `uid` and `gid`, the host's network, no limits.
    pub fn default_for(rootless: Option<(u32, u32)>) -> Self {
        Self {
            oci_version: OCI_VERSION.to_owned(),
            process: Some(Process {
                terminal: true,
                user: User::default(),
                args: vec!["sh".to_owned()],
                env: vec![DEFAULT_PATH.to_owned(), "TERM=xterm".to_owned()],
                cwd: "/".to_owned(),
                capabilities: Some(Capabilities::of_root(SPEC_CAPABILITIES)),
                rlimits: vec![Rlimit {
                    kind: "RLIMIT_NOFILE".to_owned(),
                    hard: 1024,
                    soft: 1024,
                }],
                no_new_privileges: true,
                ..Process::default()
            }),
            root: Some(Root {
                path: "rootfs".to_owned(),
                readonly: true,
            }),
            hostname: "punnet".to_owned(),
            mounts: default_mounts(rootless.is_some()),
            linux: Some(Linux::default_for(rootless)),
            ..Self::default()
        }
    }
}

impl Linux {
    /// Namespaces, masked and read-only paths of [`Spec::default_for`].
    pub fn default_for(rootless: Option<(u32, u32)>) -> Self {
        let mut kinds = vec!["pid", "ipc", "uts", "mount", "cgroup"];
        kinds.push(if rootless.is_some() { "user" } else { "network" });
        let map = |host_id| {
            vec![IdMapping {
                container_id: 0,
                host_id,
                size: 1,
            }]
        };
        let deny_all = DeviceCgroup {
            allow: false,
            access: "rwm".to_owned(),
            ..DeviceCgroup::default()
        };
        Self {
            uid_mappings: rootless.map(|(uid, _)| map(uid)).unwrap_or_default(),
            gid_mappings: rootless.map(|(_, gid)| map(gid)).unwrap_or_default(),
            resources: rootless.is_none().then(|| Resources {
                devices: vec![deny_all],
                ..Resources::default()
            }),
            namespaces: kinds
                .into_iter()
                .map(|kind| Namespace {
                    kind: kind.to_owned(),
                    path: String::new(),
                })
                .collect(),
            masked_paths: owned(MASKED_PATHS),
            readonly_paths: owned(READONLY_PATHS),
            ..Self::default()
        }
    }
}

impl Capabilities {
    /// The same names in the bounding, effective and permitted sets: for a program that runs as root. Nothing is inheritable.
    pub fn of_root(names: &[&str]) -> Self {
        let names = owned(names);
        Self {
            bounding: names.clone(),
            effective: names.clone(),
            permitted: names,
            ..Self::default()
        }
    }
}

/// The mounts every container expects. With `host_network` the host's /sys is bound read-only in place of a new sysfs, which the kernel
/// gives only to the owner of the network namespace.
pub fn default_mounts(host_network: bool) -> Vec<Mount> {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| Mount {
        destination: destination.to_owned(),
        kind: kind.to_owned(),
        source: source.to_owned(),
        options: owned(options),
        ..Mount::default()
    };
    let devpts: &[&str] = &[
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
        "gid=5",
    ];
    let devpts = if host_network { &devpts[..5] } else { devpts };
    let sys = if host_network {
        mount(
            "/sys",
            "none",
            "/sys",
            &["rbind", "nosuid", "noexec", "nodev", "ro"],
        )
    } else {
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"])
    };
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount("/dev/pts", "devpts", "devpts", devpts),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        sys,
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
        ),
    ]
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_configuration_survives_a_round_trip() {
        for rootless in [None, Some((1000, 1000))] {
            let spec = Spec::default_for(rootless);
            assert_eq!(Spec::from_json(&spec.to_json()).unwrap(), spec);
        }
    }

    #[test]
    fn unknown_fields_are_ignored_and_wrong_types_are_named() {
        let spec =
            Spec::from_json(br#"{"ociVersion":"1.3.0","future":{"x":[1]},"root":{"path":"r","new":1}}"#)
                .unwrap();
        assert_eq!(spec.root.unwrap().path, "r");
        let error = Spec::from_json(br#"{"ociVersion":"1.3.0","mounts":[{"destination":7}]}"#).unwrap_err();
        assert!(error.to_string().contains("expected a string"), "{error}");
    }

    #[test]
    fn field_names_are_the_specifications() {
        let text = r#"{"ociVersion":"1.3.0","process":{"cwd":"/","ioPriority":{"class":"IOPRIO_CLASS_BE","priority":4},
            "execCPUAffinity":{},"oomScoreAdj":3,"user":{"additionalGids":[1]}},
            "linux":{"uidMappings":[{"containerID":1,"hostID":2,"size":3}],"intelRdt":{},
            "resources":{"blockIO":{"throttleReadIOPSDevice":[{"major":1,"minor":2,"rate":3}]},
            "memory":{"kernelTCP":1,"disableOOMKiller":true}}}}"#;
        let spec = Spec::from_json(text.as_bytes()).unwrap();
        let process = spec.process.unwrap();
        assert!(process.exec_cpu_affinity.is_some() && process.io_priority.is_some());
        assert_eq!(process.user.additional_gids, [1]);
        let linux = spec.linux.unwrap();
        assert!(linux.intel_rdt.is_some());
        assert_eq!(linux.uid_mappings[0].host_id, 2);
        let resources = linux.resources.unwrap();
        assert_eq!(resources.block_io.unwrap().throttle_read_iops_device[0].rate, 3);
        assert_eq!(resources.memory.unwrap().disable_oom_killer, Some(true));
    }
}
