//! The cgroup's place and the files written in it. cgroup v2 only: cgroups(7), kernel Documentation/admin-guide/cgroup-v2.rst

use super::HostFacts;
use crate::error::{Error, Result};
use punnet_spec::{BlockIo, Cpu, Linux, Memory, Resources};

/// One write into one file of the cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Field of config.json.
    pub field: &'static str,
    /// Controller that must be enabled; empty for files that every cgroup has.
    pub controller: String,
    /// File, as `pids.max`.
    pub file: String,
    /// What to write.
    pub value: String,
}

/// Where the container lives in the tree, and its limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupPlan {
    /// Components below the hierarchy's root (`absolute`), or below the caller's own cgroup.
    pub path: Vec<String>,
    /// See `path`.
    pub absolute: bool,
    /// The path came from config.json: not being able to make it is an error.
    pub explicit: bool,
    /// In the order they are written.
    pub limits: Vec<Limit>,
}

/// Plans `linux.cgroupsPath` and `linux.resources`.
pub fn plan(linux: &Linux, host: &HostFacts) -> Result<CgroupPlan> {
    let given = linux.cgroups_path.as_str();
    if given.contains(':') {
        return Err(Error::config(
            "linux.cgroupsPath",
            format!(
                "{given:?} is for systemd's cgroup driver, which is not supported: use the cgroupfs driver"
            ),
        ));
    }
    if given.split('/').any(|part| part == "..") || given.contains('\0') {
        return Err(Error::config(
            "linux.cgroupsPath",
            format!("{given:?} leaves the cgroup tree"),
        ));
    }
    let path = match given {
        "" if host.euid == 0 => vec!["punnet".to_owned(), host.id.clone()],
        "" => vec![format!("punnet-{}", host.id)],
        given => given
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".")
            .map(str::to_owned)
            .collect(),
    };
    if path.is_empty() {
        return Err(Error::config(
            "linux.cgroupsPath",
            "is the root of the cgroup tree",
        ));
    }
    let absolute = given.starts_with('/') || (host.euid == 0 && given.is_empty());
    let limits = linux
        .resources
        .as_ref()
        .map(limits)
        .transpose()?
        .unwrap_or_default();
    Ok(CgroupPlan {
        path,
        absolute,
        explicit: !given.is_empty(),
        limits,
    })
}

/// Collects writes.
#[derive(Default)]
struct Limits(Vec<Limit>);

impl Limits {
    fn push(&mut self, field: &'static str, file: &str, value: impl ToString) {
        let controller = file.split('.').next().unwrap_or_default().to_owned();
        self.0.push(Limit {
            field,
            controller,
            file: file.to_owned(),
            value: value.to_string(),
        });
    }
}

/// -1 is cgroup v2's word for no limit.
fn max_or(value: i64) -> String {
    if value < 0 {
        "max".to_owned()
    } else {
        value.to_string()
    }
}

/// The writes that `resources` ask for.
pub(super) fn limits(resources: &Resources) -> Result<Vec<Limit>> {
    let mut limits = Limits::default();
    if let Some(memory) = &resources.memory {
        memory_limits(memory, &mut limits)?;
    }
    if let Some(cpu) = &resources.cpu {
        cpu_limits(cpu, &mut limits)?;
    }
    if let Some(limit) = resources.pids.as_ref().and_then(|pids| pids.limit) {
        limits.push(
            "pids.limit",
            "pids.max",
            if limit <= 0 {
                "max".to_owned()
            } else {
                limit.to_string()
            },
        );
    }
    if let Some(io) = &resources.block_io {
        io_limits(io, &mut limits)?;
    }
    for (file, value) in &resources.unified {
        if file.contains('/') || !file.contains('.') || file.starts_with("cgroup.") || file.contains('\0') {
            return Err(Error::config(
                format!("linux.resources.unified.{file}"),
                "is not a controller's file",
            ));
        }
        limits.push("unified", file, value);
    }
    Ok(limits.0)
}

fn memory_limits(memory: &Memory, limits: &mut Limits) -> Result<()> {
    let only_v1 = [
        (memory.kernel.is_some_and(|value| value > 0), "kernel"),
        (memory.kernel_tcp.is_some_and(|value| value > 0), "kernelTCP"),
        (memory.swappiness.is_some(), "swappiness"),
        (memory.disable_oom_killer == Some(true), "disableOOMKiller"),
    ];
    if let Some((_, name)) = only_v1.iter().find(|(present, _)| *present) {
        return Err(Error::config(
            format!("linux.resources.memory.{name}"),
            "exists in cgroup v1 only",
        ));
    }
    if let Some(limit) = memory.limit.filter(|limit| *limit != 0) {
        limits.push("memory.limit", "memory.max", max_or(limit));
    }
    if let Some(low) = memory.reservation.filter(|low| *low != 0) {
        limits.push("memory.reservation", "memory.low", max_or(low));
    }
    // config.json counts memory and swap together, cgroup v2 counts swap alone.
    match (memory.swap.filter(|swap| *swap != 0), memory.limit.unwrap_or(0)) {
        (None, _) => {}
        (Some(swap), _) if swap < 0 => limits.push("memory.swap", "memory.swap.max", "max"),
        (Some(swap), limit) if limit > 0 && swap >= limit => {
            limits.push("memory.swap", "memory.swap.max", swap - limit);
        }
        (Some(_), limit) => {
            let reason =
                format!("counts memory and swap together: it must be at least memory.limit ({limit})");
            return Err(Error::config("linux.resources.memory.swap", reason));
        }
    }
    Ok(())
}

/// Microseconds of a period when only the quota is given: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

/// cgroup v1 shares 2 to 262144 onto cgroup v2 weights 1 to 10000, as crun does.
fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn cpu_limits(cpu: &Cpu, limits: &mut Limits) -> Result<()> {
    if cpu.realtime_runtime.is_some_and(|value| value != 0)
        || cpu.realtime_period.is_some_and(|value| value != 0)
    {
        return Err(Error::config(
            "linux.resources.cpu.realtimeRuntime",
            "exists in cgroup v1 only",
        ));
    }
    if let Some(shares) = cpu.shares.filter(|shares| *shares != 0) {
        limits.push("cpu.shares", "cpu.weight", weight_of_shares(shares));
    }
    let quota = cpu.quota.filter(|quota| *quota != 0);
    let period = cpu.period.filter(|period| *period != 0);
    if quota.is_some() || period.is_some() {
        let quota = quota
            .filter(|quota| *quota > 0)
            .map_or("max".to_owned(), |quota| quota.to_string());
        limits.push(
            "cpu.quota",
            "cpu.max",
            format!("{quota} {}", period.unwrap_or(CPU_PERIOD_US)),
        );
    }
    if let Some(burst) = cpu.burst {
        limits.push("cpu.burst", "cpu.max.burst", burst);
    }
    if let Some(idle) = cpu.idle {
        limits.push("cpu.idle", "cpu.idle", idle);
    }
    if !cpu.cpus.is_empty() {
        limits.push("cpu.cpus", "cpuset.cpus", &cpu.cpus);
    }
    if !cpu.mems.is_empty() {
        limits.push("cpu.mems", "cpuset.mems", &cpu.mems);
    }
    Ok(())
}

fn io_limits(io: &BlockIo, limits: &mut Limits) -> Result<()> {
    if io.leaf_weight.is_some() || io.weight_device.iter().any(|device| device.leaf_weight.is_some()) {
        return Err(Error::config(
            "linux.resources.blockIO.leafWeight",
            "exists in cgroup v1 only",
        ));
    }
    if let Some(weight) = io.weight.filter(|weight| *weight != 0) {
        // 10 to 1000 onto 1 to 10000, as crun does.
        let weight = 1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990;
        limits.push("blockIO.weight", "io.weight", format!("default {weight}"));
    }
    if !io.weight_device.is_empty() {
        return Err(Error::config(
            "linux.resources.blockIO.weightDevice",
            "not supported yet",
        ));
    }
    for (devices, key) in [
        (&io.throttle_read_bps_device, "rbps"),
        (&io.throttle_write_bps_device, "wbps"),
        (&io.throttle_read_iops_device, "riops"),
        (&io.throttle_write_iops_device, "wiops"),
    ] {
        for device in devices {
            let rate = if device.rate == 0 {
                "max".to_owned()
            } else {
                device.rate.to_string()
            };
            limits.push(
                "blockIO.throttle",
                "io.max",
                format!("{}:{} {key}={rate}", device.major, device.minor),
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, resources: &str, euid: u32) -> String {
        let linux = Linux {
            cgroups_path: path.into(),
            resources: Some(serde_json::from_str(resources).unwrap()),
            ..Linux::default()
        };
        let host = HostFacts {
            euid,
            id: "web".into(),
            ..HostFacts::default()
        };
        match plan(&linux, &host) {
            Err(error) => error.to_string(),
            Ok(plan) => {
                let writes = plan
                    .limits
                    .iter()
                    .map(|limit| format!(" {}={}", limit.file, limit.value));
                format!(
                    "{}{}{}",
                    if plan.absolute { "/" } else { "" },
                    plan.path.join("/"),
                    writes.collect::<String>()
                )
            }
        }
    }

    #[test]
    fn paths_and_limits_become_files() {
        for (path, resources, euid, expected) in [
            ("", "{}", 0, "/punnet/web"),
            ("", "{}", 1000, "punnet-web"),
            ("/a//b", "{}", 0, "/a/b"),
            ("", r#"{"pids":{"limit":7}}"#, 0, "/punnet/web pids.max=7"),
            ("", r#"{"pids":{"limit":-1}}"#, 0, "/punnet/web pids.max=max"),
            (
                "",
                r#"{"memory":{"limit":100,"swap":150}}"#,
                0,
                "/punnet/web memory.max=100 memory.swap.max=50",
            ),
            (
                "",
                r#"{"memory":{"limit":-1,"swap":-1}}"#,
                0,
                "/punnet/web memory.max=max memory.swap.max=max",
            ),
            (
                "",
                r#"{"cpu":{"shares":1024,"quota":50000}}"#,
                0,
                "/punnet/web cpu.weight=39 cpu.max=50000 100000",
            ),
            (
                "",
                r#"{"cpu":{"cpus":"0-1","idle":1}}"#,
                0,
                "/punnet/web cpu.idle=1 cpuset.cpus=0-1",
            ),
            (
                "",
                r#"{"blockIO":{"weight":10,"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":5}]}}"#,
                0,
                "/punnet/web io.weight=default 1 io.max=8:0 rbps=5",
            ),
            (
                "",
                r#"{"unified":{"memory.high":"1M"}}"#,
                0,
                "/punnet/web memory.high=1M",
            ),
        ] {
            assert_eq!(check(path, resources, euid), expected);
        }
    }

    #[test]
    fn what_cannot_be_enforced_is_named() {
        for (path, resources, word) in [
            ("system.slice:docker:web", "{}", "systemd"),
            ("/a/../../b", "{}", "leaves"),
            ("/", "{}", "root of the cgroup tree"),
            ("", r#"{"memory":{"swappiness":1}}"#, "swappiness"),
            ("", r#"{"memory":{"limit":100,"swap":50}}"#, "memory.swap"),
            ("", r#"{"unified":{"../x.y":"1"}}"#, "not a controller"),
            ("", r#"{"unified":{"cgroup.procs":"1"}}"#, "not a controller"),
        ] {
            let text = check(path, resources, 0);
            assert!(text.contains(word), "{text}");
        }
    }
}
