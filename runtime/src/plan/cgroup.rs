//! The cgroup's place and the files written in it. cgroup v2 only: cgroups(7), kernel Documentation/admin-guide/cgroup-v2.rst

use super::{DeviceFilter, HostFacts, NamespacePlan, namespaces};
use crate::error::{Error, Result};
use punnet_spec::{BlockIo, Cpu, HugepageLimit, Linux, Memory, Rdma, Resources, Spec};

/// One write into one file of the cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Field of config.json.
    pub field: &'static str,
    /// Controller that must be enabled; empty for files that every cgroup has.
    pub controller: String,
    /// File, as `pids.max`.
    pub file: String,
    /// What to write.
    pub value: String,
    /// Another file and what to write there, where the kernel has no `file`.
    pub instead: Option<(String, String)>,
    /// Says what holds anyhow where the kernel has no `file`.
    pub optional: bool,
    /// Written once the container's process is there: it could not be made otherwise.
    pub late: bool,
}

/// Where the container lives in the tree, and its limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupPlan {
    /// Components below the hierarchy's root (`absolute`), or beside the caller's own cgroup.
    pub path: Vec<String>,
    /// See `path`.
    pub absolute: bool,
    /// The path came from config.json: not being able to make it is an error.
    pub explicit: bool,
    /// In the order they are written.
    pub limits: Vec<Limit>,
    /// Which devices may be used.
    pub devices: Option<DeviceFilter>,
    /// User id on the host who gets the cgroup: the container manages those below it.
    pub owner: Option<u32>,
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
        devices: None,
        owner: None,
    })
}

/// Who gets the cgroup: the container's user, when it has a cgroup namespace of its own and sees it writable.
/// <https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#cgroup-ownership>
pub fn owner(spec: &Spec, namespaces: &NamespacePlan) -> Option<u32> {
    let is_writable = spec.mounts.iter().any(|mount| {
        mount.source == "cgroup"
            && mount.destination == "/sys/fs/cgroup"
            && !mount.options.iter().any(|option| option == "ro")
    });
    if !is_writable || namespaces.new & namespaces::CGROUP == 0 {
        return None;
    }
    let inside = spec.process.as_ref()?.user.uid;
    if !namespaces.has(namespaces::USER) {
        return Some(inside);
    }
    namespaces
        .uid_map
        .iter()
        .find(|map| {
            inside
                .checked_sub(map.container_id)
                .is_some_and(|past| past < map.size)
        })
        .map(|map| map.host_id + (inside - map.container_id))
}

/// Collects writes.
#[derive(Default)]
struct Limits(Vec<Limit>);

impl Limits {
    fn push(&mut self, field: &'static str, file: &str, value: impl ToString) -> &mut Limit {
        // The files that every cgroup has belong to no controller.
        let controller = file.split('.').next().filter(|name| *name != "cgroup");
        self.0.push(Limit {
            field,
            controller: controller.unwrap_or_default().to_owned(),
            file: file.to_owned(),
            value: value.to_string(),
            ..Limit::default()
        });
        self.0.last_mut().expect("has just been pushed")
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
        // 0 is a limit: no process besides the first.
        limits.push("pids.limit", "pids.max", max_or(limit)).late = limit == 0;
    }
    if let Some(io) = &resources.block_io {
        io_limits(io, &mut limits)?;
    }
    for limit in &resources.hugepage_limits {
        hugepage_limit(limit, &mut limits)?;
    }
    for (device, rdma) in &resources.rdma {
        rdma_limit(device, rdma, &mut limits)?;
    }
    unified_limits(resources, &mut limits)?;
    Ok(limits.0)
}

/// Reservations are limited where the kernel counts them (Linux 5.7), page faults otherwise.
fn hugepage_limit(limit: &HugepageLimit, limits: &mut Limits) -> Result<()> {
    let size = limit.page_size.as_str();
    let number = ["KB", "MB", "GB"].iter().find_map(|unit| size.strip_suffix(unit));
    if !number.is_some_and(|number| number.parse::<u32>().is_ok_and(|number| number > 0)) {
        return Err(Error::config(
            "linux.resources.hugepageLimits",
            format!("{size:?} is not a page size as 2MB"),
        ));
    }
    let value = limit.limit.to_string();
    let instead = (format!("hugetlb.{size}.max"), value.clone());
    let file = format!("hugetlb.{size}.rsvd.max");
    limits.push("hugepageLimits", &file, value).instead = Some(instead);
    Ok(())
}

fn rdma_limit(device: &str, rdma: &Rdma, limits: &mut Limits) -> Result<()> {
    let refuse = |reason: &str| Err(Error::config(format!("linux.resources.rdma.{device}"), reason));
    if device.is_empty() || device.contains(char::is_whitespace) || device.contains('\0') {
        return refuse("is not a device's name");
    }
    let mut value = device.to_owned();
    for (key, number) in [("hca_handle", rdma.hca_handles), ("hca_object", rdma.hca_objects)] {
        if let Some(number) = number {
            value += &format!(" {key}={number}");
        }
    }
    if value == device {
        return refuse("has neither hcaHandles nor hcaObjects");
    }
    limits.push("rdma", "rdma.max", value);
    Ok(())
}

/// Files by which the runtime itself moves, stops and kills the container.
const OWN_FILES: [&str; 6] = [
    "cgroup.procs",
    "cgroup.threads",
    "cgroup.kill",
    "cgroup.freeze",
    "cgroup.type",
    "cgroup.subtree_control",
];

fn unified_limits(resources: &Resources, limits: &mut Limits) -> Result<()> {
    for (file, value) in &resources.unified {
        let refuse = |reason: &str| Err(Error::config(format!("linux.resources.unified.{file}"), reason));
        if file.contains('/') || !file.contains('.') || file.starts_with('.') || file.contains('\0') {
            return refuse("is not a file of a cgroup");
        }
        if OWN_FILES.contains(&file.as_str()) {
            return refuse("belongs to the runtime");
        }
        // The kernel takes one line at a time.
        for line in value.lines().filter(|line| !line.is_empty()) {
            limits.push("unified", file, line);
        }
    }
    Ok(())
}

fn memory_limits(memory: &Memory, limits: &mut Limits) -> Result<()> {
    let only_v1 = [
        (memory.kernel.is_some_and(|value| value > 0), "kernel"),
        (memory.kernel_tcp.is_some_and(|value| value > 0), "kernelTCP"),
        (memory.swappiness.is_some(), "swappiness"),
        (memory.disable_oom_killer == Some(true), "disableOOMKiller"),
        (memory.use_hierarchy == Some(false), "useHierarchy: false"),
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
        (Some(swap), _) if swap < 0 => {
            limits.push("memory.swap", "memory.swap.max", "max").optional = true;
        }
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
    if let (Some(burst), Some(quota)) = (cpu.burst, quota.filter(|quota| *quota > 0))
        && burst > quota.unsigned_abs()
    {
        let reason = format!("is above linux.resources.cpu.quota ({quota})");
        return Err(Error::config("linux.resources.cpu.burst", reason));
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
        io_weight("blockIO.weight", "default", weight, limits)?;
    }
    for device in &io.weight_device {
        let Some(weight) = device.weight else {
            return Err(Error::config(
                "linux.resources.blockIO.weightDevice",
                "has neither weight nor leafWeight",
            ));
        };
        let number = format!("{}:{}", device.major, device.minor);
        io_weight("blockIO.weightDevice", &number, weight, limits)?;
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

/// BFQ has cgroup v1's weights; the other schedulers 1 to 10000, onto which they are spread as crun does.
fn io_weight(field: &'static str, device: &str, weight: u16, limits: &mut Limits) -> Result<()> {
    if !(10..=1000).contains(&weight) {
        return Err(Error::config(
            format!("linux.resources.{field}"),
            format!("{weight} is not within 10 and 1000"),
        ));
    }
    let spread = 1 + (u64::from(weight) - 10) * 9999 / 990;
    limits
        .push(field, "io.bfq.weight", format!("{device} {weight}"))
        .instead = Some(("io.weight".to_owned(), format!("{device} {spread}")));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, resources: &str, euid: u32) -> String {
        let linux = Linux {
            cgroups_path: path.into(),
            resources: Some(punnet_json::from_str(resources).unwrap()),
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
                let writes = plan.limits.iter().map(|limit| {
                    let instead = limit.instead.as_ref();
                    let instead = instead.map(|(file, value)| format!(" or {file}={value}"));
                    format!(" {}={}{}", limit.file, limit.value, instead.unwrap_or_default())
                });
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
                "/punnet/web io.bfq.weight=default 10 or io.weight=default 1 io.max=8:0 rbps=5",
            ),
            (
                "",
                r#"{"blockIO":{"weightDevice":[{"major":8,"minor":16,"weight":1000}]}}"#,
                0,
                "/punnet/web io.bfq.weight=8:16 1000 or io.weight=8:16 10000",
            ),
            (
                "",
                r#"{"hugepageLimits":[{"pageSize":"2MB","limit":209715200}]}"#,
                0,
                "/punnet/web hugetlb.2MB.rsvd.max=209715200 or hugetlb.2MB.max=209715200",
            ),
            (
                "",
                r#"{"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10},"rxe3":{"hcaObjects":7}}}"#,
                0,
                "/punnet/web rdma.max=mlx5_1 hca_handle=3 hca_object=10 rdma.max=rxe3 hca_object=7",
            ),
            (
                "",
                r#"{"unified":{"io.max":"259:0 rbps=1\n253:0 wiops=2","cgroup.max.depth":"3"}}"#,
                0,
                "/punnet/web cgroup.max.depth=3 io.max=259:0 rbps=1 io.max=253:0 wiops=2",
            ),
            ("", r#"{"pids":{"limit":0}}"#, 0, "/punnet/web pids.max=0"),
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
    fn what_holds_anyhow_may_be_missing_and_no_process_is_a_limit_for_later() {
        let limits = |resources: &str| {
            let linux = Linux {
                resources: Some(punnet_json::from_str(resources).unwrap()),
                ..Linux::default()
            };
            plan(&linux, &HostFacts::default()).unwrap().limits
        };
        let swap = limits(r#"{"memory":{"limit":100,"swap":-1}}"#);
        assert_eq!((swap[0].optional, swap[1].optional), (false, true));
        assert!(!limits(r#"{"memory":{"limit":100,"swap":100}}"#)[1].optional);
        assert!(limits(r#"{"pids":{"limit":0}}"#)[0].late);
        assert!(!limits(r#"{"pids":{"limit":1}}"#)[0].late);
    }

    #[test]
    fn the_cgroup_belongs_to_the_containers_user_when_it_can_write_there() {
        let spec = |uid: u32, options: &[&str]| Spec {
            process: Some(punnet_spec::Process {
                user: punnet_spec::User {
                    uid,
                    ..Default::default()
                },
                ..Default::default()
            }),
            mounts: vec![punnet_spec::Mount {
                destination: "/sys/fs/cgroup".into(),
                kind: "cgroup".into(),
                source: "cgroup".into(),
                options: options.iter().map(|&option| option.into()).collect(),
                ..Default::default()
            }],
            ..Spec::default()
        };
        let mapped = NamespacePlan {
            new: namespaces::CGROUP | namespaces::USER,
            uid_map: vec![punnet_spec::IdMapping {
                container_id: 0,
                host_id: 100_000,
                size: 1000,
            }],
            ..NamespacePlan::default()
        };
        let plain = NamespacePlan {
            new: namespaces::CGROUP,
            ..NamespacePlan::default()
        };
        assert_eq!(owner(&spec(7, &["nosuid"]), &mapped), Some(100_007));
        assert_eq!(owner(&spec(7, &["nosuid"]), &plain), Some(7));
        assert_eq!(owner(&spec(5000, &[]), &mapped), None);
        assert_eq!(owner(&spec(7, &["ro"]), &mapped), None);
        assert_eq!(owner(&spec(7, &[]), &NamespacePlan::default()), None);
    }

    #[test]
    fn what_cannot_be_enforced_is_named() {
        for (path, resources, word) in [
            ("system.slice:docker:web", "{}", "systemd"),
            ("/a/../../b", "{}", "leaves"),
            ("/", "{}", "root of the cgroup tree"),
            ("", r#"{"memory":{"swappiness":1}}"#, "swappiness"),
            ("", r#"{"memory":{"limit":100,"swap":50}}"#, "memory.swap"),
            ("", r#"{"memory":{"useHierarchy":false}}"#, "useHierarchy"),
            ("", r#"{"memory":{"kernel":1}}"#, "memory.kernel"),
            ("", r#"{"memory":{"disableOOMKiller":true}}"#, "disableOOMKiller"),
            ("", r#"{"cpu":{"realtimeRuntime":1}}"#, "realtimeRuntime"),
            ("", r#"{"cpu":{"quota":5,"burst":6}}"#, "cpu.burst"),
            ("", r#"{"blockIO":{"weight":5}}"#, "blockIO.weight"),
            ("", r#"{"blockIO":{"leafWeight":50}}"#, "leafWeight"),
            (
                "",
                r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0}]}}"#,
                "weightDevice",
            ),
            (
                "",
                r#"{"hugepageLimits":[{"pageSize":"2/MB","limit":1}]}"#,
                "hugepageLimits",
            ),
            ("", r#"{"rdma":{"a b":{"hcaHandles":1}}}"#, "rdma.a b"),
            ("", r#"{"rdma":{"a":{}}}"#, "rdma.a"),
            ("", r#"{"unified":{"../x.y":"1"}}"#, "not a file"),
            (
                "",
                r#"{"unified":{"cgroup.procs":"1"}}"#,
                "belongs to the runtime",
            ),
        ] {
            let text = check(path, resources, 0);
            assert!(text.contains(word), "{text}");
        }
    }
}
