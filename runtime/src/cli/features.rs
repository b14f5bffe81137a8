//! `features`: what this runtime understands, whatever the machine. Each word of the specification is listed when the planner takes it,
//! so the document cannot promise more than the runtime does.
//! <https://github.com/opencontainers/runtime-spec/blob/main/features.md>

use super::{json, print};
use crate::error::Result;
use crate::plan::{self, CAPABILITY_NAMES, HostFacts};
use punnet_json::{Value, json};
use punnet_spec::{Linux, Mount, Namespace, Process, Root, Seccomp, Spec, SyscallArg, SyscallRule};

/// The oldest version whose files we understand.
const OCI_VERSION_MIN: &str = "1.0.0";

/// Mount options of the specification; most of them also stand with a leading `r`, for recursive.
const MOUNT_OPTIONS: &[&str] = &[
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "relatime",
    "remount",
    "ro",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

/// Prints the document.
#[inline(never)]
pub(super) fn run() -> Result<u8> {
    print(&format!("{}\n", json(&document(), true)))
}

fn document() -> Value {
    json!({
        "ociVersionMin": OCI_VERSION_MIN,
        "ociVersionMax": punnet_spec::OCI_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": mount_options(),
        "linux": {
            "namespaces": words(
                &["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
                // One that is joined needs nothing else.
                &|linux, word| linux.namespaces.push(Namespace { kind: word.to_owned(), path: "/x".to_owned() }),
            ),
            "capabilities": CAPABILITY_NAMES.map(|name| format!("CAP_{name}")).as_slice(),
            "cgroup": {
                "v1": false,
                "v2": true,
                "systemd": false,
                "systemdUser": false,
                "rdma": takes(&|spec| {
                    let limit = json!({ "resources": { "rdma": { "mlx5_1": { "hcaHandles": 1 } } } });
                    set(linux_of(spec), limit);
                }),
            },
            "seccomp": seccomp(),
            "apparmor": { "enabled": takes(&|spec| process_of(spec).apparmor_profile = "x".to_owned()) },
            "selinux": { "enabled": takes(&|spec| process_of(spec).selinux_label = "u:r:t:s0".to_owned()) },
            "memoryPolicy": memory_policy(),
            "intelRdt": { "enabled": takes(&|spec| set(linux_of(spec), json!({ "intelRdt": { "closID": "x" } }))) },
            "mountExtensions": { "idmap": { "enabled": takes(&idmap) } },
            "netDevices": { "enabled": takes(&|spec| set(linux_of(spec), json!({ "netDevices": { "eth0": {} } }))) },
        },
        "annotations": { "io.punnet.version": env!("CARGO_PKG_VERSION") },
    })
}

fn mount_options() -> Vec<String> {
    let recursive = MOUNT_OPTIONS.iter().map(|word| format!("r{word}"));
    let mut all: Vec<String> = MOUNT_OPTIONS.iter().map(|word| (*word).to_owned()).collect();
    // On a bind mount a word that means nothing is refused, on a new file system it is passed to the kernel.
    all.extend(recursive.filter(|word| {
        takes(&|spec| {
            spec.mounts.push(Mount {
                kind: "bind".to_owned(),
                ..mount(word)
            });
        })
    }));
    all.retain(|word| takes(&|spec| spec.mounts.push(mount(word))));
    // These need maps besides.
    if takes(&idmap) {
        all.extend(["idmap", "ridmap"].map(str::to_owned));
    }
    all.sort_unstable();
    all.dedup();
    all
}

fn mount(option: &str) -> Mount {
    Mount {
        destination: "/x".to_owned(),
        kind: "tmpfs".to_owned(),
        source: "/x".to_owned(),
        options: vec![option.to_owned()],
        ..Mount::default()
    }
}

fn idmap(spec: &mut Spec) {
    let ids = punnet_spec::IdMapping {
        container_id: 0,
        host_id: 1000,
        size: 1,
    };
    spec.mounts.push(Mount {
        kind: "bind".to_owned(),
        uid_mappings: vec![ids],
        gid_mappings: vec![ids],
        ..mount("bind")
    });
}

fn memory_policy() -> Value {
    let modes = [
        "MPOL_DEFAULT",
        "MPOL_BIND",
        "MPOL_INTERLEAVE",
        "MPOL_WEIGHTED_INTERLEAVE",
        "MPOL_PREFERRED",
        "MPOL_PREFERRED_MANY",
        "MPOL_LOCAL",
    ];
    let flags = [
        "MPOL_F_NUMA_BALANCING",
        "MPOL_F_RELATIVE_NODES",
        "MPOL_F_STATIC_NODES",
    ];
    json!({
        "modes": words(&modes, &|linux, mode| {
            let nodes = if matches!(mode, "MPOL_DEFAULT" | "MPOL_LOCAL") { "" } else { "0" };
            set(linux, json!({ "memoryPolicy": { "mode": mode, "nodes": nodes } }));
        }),
        "flags": words(&flags, &|linux, flag| {
            set(linux, json!({ "memoryPolicy": { "mode": "MPOL_BIND", "nodes": "0", "flags": [flag] } }));
        }),
    })
}

fn seccomp() -> Value {
    let rule = |change: &dyn Fn(&mut Seccomp, &mut SyscallRule)| {
        takes(&|spec| {
            let mut seccomp = Seccomp {
                default_action: "SCMP_ACT_ALLOW".to_owned(),
                ..Seccomp::default()
            };
            let mut rule = SyscallRule {
                names: ["getcwd"].into_iter().collect(),
                action: "SCMP_ACT_ERRNO".to_owned(),
                ..SyscallRule::default()
            };
            change(&mut seccomp, &mut rule);
            seccomp.syscalls.push(rule);
            linux_of(spec).seccomp = Some(seccomp);
        })
    };
    let known = |words: &[&str], change: &dyn Fn(&mut Seccomp, &mut SyscallRule, &str)| -> Vec<String> {
        words
            .iter()
            .filter(|word| rule(&|seccomp, rule| change(seccomp, rule, word)))
            .map(|word| (*word).to_owned())
            .collect()
    };
    let flags = known(
        &[
            "SECCOMP_FILTER_FLAG_TSYNC",
            "SECCOMP_FILTER_FLAG_LOG",
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
        ],
        &|seccomp, _, word| seccomp.flags = vec![word.to_owned()],
    );
    json!({
        "enabled": true,
        "actions": known(
            &[
                "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
            ],
            &|seccomp, rule, word| {
                word.clone_into(&mut rule.action);
                if word == "SCMP_ACT_NOTIFY" {
                    "/x".clone_into(&mut seccomp.listener_path);
                }
            },
        ),
        "operators": known(
            &[
                "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ",
                "SCMP_CMP_NE",
            ],
            &|_, rule, word| {
                rule.args = vec![SyscallArg { op: word.to_owned(), ..SyscallArg::default() }];
            },
        ),
        // Those that some machine of ours can run.
        "archs": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"],
        "knownFlags": &flags,
        "supportedFlags": &flags,
    })
}

/// The words with which a file is taken.
fn words(words: &[&str], change: &dyn Fn(&mut Linux, &str)) -> Vec<String> {
    words
        .iter()
        .filter(|word| takes(&|spec| change(linux_of(spec), word)))
        .map(|word| (*word).to_owned())
        .collect()
}

/// Whether the planner takes a small file with this in it.
fn takes(change: &dyn Fn(&mut Spec)) -> bool {
    let mut spec = Spec {
        oci_version: punnet_spec::OCI_VERSION.to_owned(),
        root: Some(Root {
            path: "rootfs".to_owned(),
            readonly: false,
        }),
        process: Some(Process {
            args: vec!["/x".to_owned()],
            cwd: "/".to_owned(),
            ..Process::default()
        }),
        linux: Some(Linux::default()),
        ..Spec::default()
    };
    change(&mut spec);
    let linux = linux_of(&mut spec);
    for kind in ["mount", "network"] {
        if !linux.namespaces.iter().any(|namespace| namespace.kind == kind) {
            linux.namespaces.push(Namespace {
                kind: kind.to_owned(),
                path: String::new(),
            });
        }
    }
    let host = HostFacts {
        bundle: "/b".into(),
        id: "x".to_owned(),
        // The document is about the runtime, not about this machine.
        apparmor: true,
        selinux: true,
        ..HostFacts::default()
    };
    plan::plan(&spec, &host).is_ok()
}

fn linux_of(spec: &mut Spec) -> &mut Linux {
    spec.linux.get_or_insert_default()
}

fn process_of(spec: &mut Spec) -> &mut Process {
    spec.process.get_or_insert_default()
}

/// A part of `linux` as a file has it, so that this page does not depend on the shape of fields that are only probed.
fn set(linux: &mut Linux, part: Value) {
    if let Ok(read) = punnet_json::from_slice(&punnet_json::to_vec(&part)) {
        *linux = read;
    }
}

#[cfg(test)]
mod tests {
    use super::{Value, document};

    fn list(value: &Value) -> Vec<&str> {
        value
            .as_array()
            .unwrap()
            .iter()
            .map(|word| word.as_str().unwrap())
            .collect()
    }

    #[test]
    fn what_the_planner_takes_is_listed() {
        let document = document();
        let linux = &document["linux"];
        assert_eq!(
            list(&linux["namespaces"]),
            ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"]
        );
        let options = list(&document["mountOptions"]);
        for word in [
            "bind",
            "rbind",
            "ro",
            "rro",
            "rnosuid",
            "nosymfollow",
            "rslave",
            "sync",
            "norelatime",
        ] {
            assert!(options.contains(&word), "{word}: {options:?}");
        }
        for word in ["rsync", "rdefaults", "rremount"] {
            assert!(!options.contains(&word), "{word}");
        }
        assert_eq!(list(&linux["capabilities"]).len(), 41);
        assert!(list(&linux["seccomp"]["actions"]).contains(&"SCMP_ACT_KILL_PROCESS"));
        assert_eq!(list(&linux["seccomp"]["operators"]).len(), 7);
        assert_eq!(linux["cgroup"]["v2"], Value::Bool(true));
        assert_eq!(linux["cgroup"]["systemd"], Value::Bool(false));
        assert_eq!(linux["intelRdt"]["enabled"], Value::Bool(false));
        assert_eq!(list(&linux["memoryPolicy"]["modes"]).len(), 7);
        assert_eq!(list(&linux["memoryPolicy"]["flags"]).len(), 3);
        assert_eq!(linux["apparmor"]["enabled"], Value::Bool(true));
    }
}
