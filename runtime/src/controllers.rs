//! Why a cgroup v2 controller is not there, and what to do about it: a pure function of what the kernel tells. cgroups(7)

/// What the kernel tells about controllers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControllerFacts {
    /// Contents of /proc/cgroups.
    pub proc_cgroups: String,
    /// `cgroup.controllers` at the root of the v2 tree; `None` where no v2 tree is mounted.
    pub root_controllers: Option<String>,
}

/// What keeps a controller from being used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What is wrong, as the end of "the cgroup controller `x` is ...".
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

/// What makes a host use cgroup v2 and nothing else.
const ONLY_V2: &str =
    "add `systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all` to the kernel command line and reboot";

impl ControllerFacts {
    /// Reads them; `root` is where the v2 tree is mounted.
    pub fn read(root: Option<&std::path::Path>) -> Self {
        let text = |path: &std::path::Path| std::fs::read_to_string(path).ok();
        Self {
            proc_cgroups: text("/proc/cgroups".as_ref()).unwrap_or_default(),
            root_controllers: root.and_then(|root| text(&root.join("cgroup.controllers"))),
        }
    }

    /// Whether the root of the v2 tree has it.
    pub fn has(&self, controller: &str) -> bool {
        let list = self.root_controllers.as_deref().unwrap_or_default();
        list.split_whitespace().any(|name| name == controller)
    }

    /// Why `controller` is not available in the cgroup `place`.
    pub fn why_missing(&self, controller: &str, place: &str) -> Missing {
        // v1 knew io by another name.
        let name = if controller == "io" { "blkio" } else { controller };
        let row = self.proc_cgroups.lines().find_map(|line| {
            let mut fields = line.split_whitespace();
            (fields.next()? == name).then_some(())?;
            let hierarchy: u32 = fields.next()?.parse().ok()?;
            Some((hierarchy, fields.nth(1)? == "1"))
        });
        let missing = |problem: &str, remedy: &str| Missing {
            problem: problem.to_owned(),
            remedy: remedy.to_owned(),
        };
        match row {
            _ if self.has(controller) => missing(
                &format!("not delegated to {place}"),
                "ask the administrator to delegate it (systemd: `Delegate=yes` in the unit; for users, `Delegate=cpu cpuset io memory pids` in \
                 /etc/systemd/system/user@.service.d/delegate.conf)",
            ),
            Some((_, false)) => missing(
                // By `cgroup_disable=`, which the Raspberry Pi's firmware adds for memory.
                "switched off on the kernel command line",
                &format!(
                    "add `cgroup_enable={controller}` to it (on a Raspberry Pi: to the one line of /boot/firmware/cmdline.txt) and reboot",
                ),
            ),
            Some((hierarchy, true)) if hierarchy != 0 => missing("in use by cgroup v1", ONLY_V2),
            _ if self.root_controllers.is_none() => missing(
                "not usable: no cgroup v2 tree is mounted at /sys/fs/cgroup",
                ONLY_V2,
            ),
            _ => missing(
                "not in this kernel",
                &format!("use a kernel with {}", kernel_option(controller)),
            ),
        }
    }
}

fn kernel_option(controller: &str) -> &'static str {
    match controller {
        "memory" => "CONFIG_MEMCG=y",
        "pids" => "CONFIG_CGROUP_PIDS=y",
        "cpu" => "CONFIG_CGROUP_SCHED=y and CONFIG_CFS_BANDWIDTH=y",
        "cpuset" => "CONFIG_CPUSETS=y",
        "io" => "CONFIG_BLK_CGROUP=y and CONFIG_BLK_DEV_THROTTLING=y",
        "hugetlb" => "CONFIG_CGROUP_HUGETLB=y",
        "rdma" => "CONFIG_CGROUP_RDMA=y",
        _ => "that controller",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n";

    #[test]
    fn the_reason_and_the_remedy_fit_the_machine() {
        for (what, rows, root, controller, problem, remedy) in [
            (
                "a Raspberry Pi as its firmware boots it",
                "memory\t0\t60\t0\npids\t0\t60\t1\n",
                Some("cpuset cpu io pids"),
                "memory",
                "switched off",
                "`cgroup_enable=memory` to it (on a Raspberry Pi: to the one line of /boot/firmware/cmdline.txt)",
            ),
            (
                "a hybrid host",
                "memory\t4\t15\t1\n",
                Some("hugetlb"),
                "memory",
                "cgroup v1",
                "systemd.unified_cgroup_hierarchy=1",
            ),
            (
                "io is blkio there",
                "blkio\t7\t1\t1\n",
                Some(""),
                "io",
                "cgroup v1",
                "cgroup_no_v1=all",
            ),
            (
                "a user's session",
                "memory\t0\t60\t1\n",
                Some("cpu io memory pids"),
                "memory",
                "not delegated to /sys/fs/cgroup/user.slice",
                "Delegate=yes",
            ),
            (
                "no v2 tree",
                "memory\t0\t1\t1\n",
                None,
                "memory",
                "no cgroup v2 tree",
                "unified",
            ),
            (
                "ARMv6's kernel",
                "memory\t0\t1\t1\n",
                Some("memory"),
                "cpuset",
                "not in this kernel",
                "CONFIG_CPUSETS",
            ),
            (
                "no /proc/cgroups",
                "",
                Some(""),
                "pids",
                "not in this kernel",
                "CONFIG_CGROUP_PIDS",
            ),
        ] {
            let facts = ControllerFacts {
                proc_cgroups: format!("{HEAD}{rows}"),
                root_controllers: root.map(str::to_owned),
            };
            let missing = facts.why_missing(controller, "/sys/fs/cgroup/user.slice");
            assert!(missing.problem.contains(problem), "{what}: {missing:?}");
            assert!(missing.remedy.contains(remedy), "{what}: {missing:?}");
        }
    }
}
