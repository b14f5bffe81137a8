//! `update`: which files of a cgroup change when limits of a running container do.

use super::{HostFacts, Limit, cgroup, refuse};
use crate::error::{Error, Result};
use punnet_spec::{BlockIo, Cpu, Linux, Memory, Resources, Spec};

/// New limits of a container.
#[derive(Clone, Debug, PartialEq)]
pub struct UpdatePlan {
    /// All that hold from now on.
    pub resources: Resources,
    /// In the order they are written.
    pub limits: Vec<Limit>,
    /// Refuse the whole update when the container uses more than this many bytes now.
    pub memory_bytes_used_max: Option<u64>,
}

/// Plans the step from `before` to what `change` asks for; what `change` leaves out, or sets to 0, stays.
pub fn plan(before: &Resources, change: &Resources) -> Result<UpdatePlan> {
    // Engines send back the rules the container has: no change. Rules cannot be replaced while programs hold devices open.
    if !change.devices.is_empty() && change.devices != before.devices {
        return Err(Error::config(
            "linux.resources.devices",
            "cannot be changed in a container that exists: create a new one",
        ));
    }
    let mut wanted = change.clone();
    wanted.devices.clear();
    if let Some(memory) = &mut wanted.memory {
        complete_memory(memory, before.memory.as_ref());
    }
    if let Some(cpu) = &mut wanted.cpu {
        complete_cpu(cpu, before.cpu.as_ref());
    }
    let spec = Spec {
        oci_version: punnet_spec::OCI_VERSION.to_owned(),
        linux: Some(Linux {
            resources: Some(wanted.clone()),
            ..Linux::default()
        }),
        ..Spec::default()
    };
    refuse::unsupported(&spec, &HostFacts::default())?;
    let limits = cgroup::limits(&wanted)?;
    let memory = wanted.memory.as_ref();
    Ok(UpdatePlan {
        memory_bytes_used_max: memory
            .filter(|memory| memory.check_before_update == Some(true))
            .and_then(|memory| memory.limit.filter(|limit| *limit > 0))
            .map(i64::cast_unsigned),
        resources: merged(before, &wanted),
        limits,
    })
}

/// config.json counts memory and swap together: the one needs the other.
fn complete_memory(memory: &mut Memory, before: Option<&Memory>) {
    let given = |value: Option<i64>| value.filter(|value| *value != 0);
    memory.limit = given(memory.limit);
    memory.swap = given(memory.swap);
    match (memory.limit, memory.swap) {
        (None, Some(_)) => memory.limit = before.and_then(|before| given(before.limit)),
        // Without a limit of memory one of memory and swap together means nothing.
        (Some(limit), None) if limit < 0 => memory.swap = Some(-1),
        _ => {}
    }
}

/// Quota and period are one file.
fn complete_cpu(cpu: &mut Cpu, before: Option<&Cpu>) {
    cpu.quota = cpu.quota.filter(|quota| *quota != 0);
    cpu.period = cpu.period.filter(|period| *period != 0);
    let Some(before) = before else { return };
    match (cpu.quota, cpu.period) {
        (Some(_), None) => cpu.period = before.period,
        (None, Some(_)) => cpu.quota = before.quota,
        _ => {}
    }
}

fn merged(before: &Resources, change: &Resources) -> Resources {
    let mut all = before.clone();
    if let Some(new) = &change.memory {
        let old = all.memory.get_or_insert_with(Memory::default);
        overlay(&mut old.limit, new.limit);
        overlay(&mut old.swap, new.swap);
        overlay(&mut old.reservation, new.reservation.filter(|value| *value != 0));
    }
    if let Some(new) = &change.cpu {
        let old = all.cpu.get_or_insert_with(Cpu::default);
        overlay(&mut old.shares, new.shares.filter(|value| *value != 0));
        overlay(&mut old.quota, new.quota);
        overlay(&mut old.period, new.period);
        overlay(&mut old.burst, new.burst);
        overlay(&mut old.idle, new.idle);
        for (old, new) in [(&mut old.cpus, &new.cpus), (&mut old.mems, &new.mems)] {
            if !new.is_empty() {
                old.clone_from(new);
            }
        }
    }
    if let Some(new) = &change.block_io {
        let old = all.block_io.get_or_insert_with(BlockIo::default);
        overlay(&mut old.weight, new.weight.filter(|value| *value != 0));
        for (old, new) in [
            (&mut old.throttle_read_bps_device, &new.throttle_read_bps_device),
            (&mut old.throttle_write_bps_device, &new.throttle_write_bps_device),
            (&mut old.throttle_read_iops_device, &new.throttle_read_iops_device),
            (
                &mut old.throttle_write_iops_device,
                &new.throttle_write_iops_device,
            ),
        ] {
            if !new.is_empty() {
                old.clone_from(new);
            }
        }
    }
    if change.pids.as_ref().is_some_and(|pids| pids.limit.is_some()) {
        all.pids.clone_from(&change.pids);
    }
    if !change.hugepage_limits.is_empty() {
        all.hugepage_limits.clone_from(&change.hugepage_limits);
    }
    all.rdma.extend(change.rdma.clone());
    all.unified.extend(change.unified.clone());
    all
}

fn overlay<T>(old: &mut Option<T>, new: Option<T>) {
    if new.is_some() {
        *old = new;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(before: &str, change: &str) -> std::result::Result<String, String> {
        let parse = |text: &str| punnet_json::from_str::<Resources>(text).unwrap();
        let plan = plan(&parse(before), &parse(change)).map_err(|error| error.to_string())?;
        Ok(plan
            .limits
            .iter()
            .map(|limit| format!("{}={} ", limit.file, limit.value))
            .collect())
    }

    #[test]
    fn only_what_changes_is_written() {
        let before =
            r#"{"memory":{"limit":100,"swap":150},"cpu":{"quota":5,"period":10},"pids":{"limit":9}}"#;
        for (change, files) in [
            ("{}", ""),
            (r#"{"pids":{"limit":7}}"#, "pids.max=7 "),
            (r#"{"memory":{"limit":200}}"#, "memory.max=200 "),
            (
                r#"{"memory":{"limit":0,"swap":0},"cpu":{"quota":0,"shares":0}}"#,
                "",
            ),
            (
                r#"{"memory":{"limit":-1}}"#,
                "memory.max=max memory.swap.max=max ",
            ),
            (r#"{"memory":{"swap":130}}"#, "memory.max=100 memory.swap.max=30 "),
            (r#"{"cpu":{"quota":7}}"#, "cpu.max=7 10 "),
            (r#"{"cpu":{"period":20}}"#, "cpu.max=5 20 "),
            (r#"{"cpu":{"cpus":"0"}}"#, "cpuset.cpus=0 "),
        ] {
            assert_eq!(check(before, change).as_deref(), Ok(files), "{change}");
        }
    }

    #[test]
    fn limits_are_remembered_for_the_next_update() {
        let parse = |text: &str| punnet_json::from_str::<Resources>(text).unwrap();
        let first = plan(
            &parse(r#"{"memory":{"limit":100}}"#),
            &parse(r#"{"memory":{"limit":300},"cpu":{"cpus":"0"}}"#),
        );
        let second = plan(&first.unwrap().resources, &parse(r#"{"memory":{"swap":400}}"#)).unwrap();
        let limits: Vec<_> = second.limits.iter().map(|limit| limit.value.as_str()).collect();
        assert_eq!(limits, ["300", "100"]);
        assert_eq!(second.resources.cpu.unwrap().cpus, "0");
    }

    #[test]
    fn what_cannot_be_changed_is_refused() {
        for (before, change, word) in [
            ("{}", r#"{"devices":[{"allow":false}]}"#, "devices"),
            ("{}", r#"{"memory":{"swap":100}}"#, "memory.swap"),
            (
                r#"{"memory":{"limit":100}}"#,
                r#"{"memory":{"swap":50}}"#,
                "memory.swap",
            ),
        ] {
            assert!(check(before, change).unwrap_err().contains(word), "{change}");
        }
        let same = r#"{"devices":[{"allow":true,"access":"rw"}]}"#;
        assert_eq!(check(same, same).as_deref(), Ok(""));
    }

    #[test]
    fn a_check_before_the_update_has_the_new_limit() {
        let change = punnet_json::from_str(r#"{"memory":{"limit":9,"checkBeforeUpdate":true}}"#).unwrap();
        assert_eq!(
            plan(&Resources::default(), &change)
                .unwrap()
                .memory_bytes_used_max,
            Some(9)
        );
    }
}
