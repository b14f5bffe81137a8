//! What the runtime's own record of a container tells besides `punnet ps`: state.json, and the cgroup it names.

use std::fs;
use std::path::Path;

use punnet_json::Value;
use punnet_protocol::Name;

/// The record; `None` when there is none.
pub fn read(run_root: &Path, app: &Name) -> Option<Value> {
    let path = run_root.join("oci").join(app.as_str()).join("state.json");
    punnet_json::from_slice(&fs::read(path).ok()?).ok()
}

/// True when the kernel has killed a process of the container at its limit of memory: cgroup v2 memory.events. To be asked before the
/// container is removed, and its cgroup with it.
pub fn out_of_memory(run_root: &Path, app: &Name) -> bool {
    let record = read(run_root, app);
    let events = record
        .as_ref()
        .and_then(|record| record.get("cgroup")?.as_str())
        .and_then(|cgroup| fs::read_to_string(Path::new(cgroup).join("memory.events")).ok());
    events.is_some_and(|events| has_killed(&events))
}

fn has_killed(events: &str) -> bool {
    events
        .lines()
        .filter_map(|line| line.strip_prefix("oom_kill "))
        .any(|count| count.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_for_memory_is_read_from_the_cgroup_that_the_record_names() {
        let folder = tempfile::tempdir().unwrap();
        let app: Name = "leak".parse().unwrap();
        let cgroup = folder.path().join("cgroup");
        let state = folder.path().join("oci/leak");
        fs::create_dir_all(&cgroup).unwrap();
        fs::create_dir_all(&state).unwrap();
        assert!(!out_of_memory(folder.path(), &app), "no record");
        let record = serde_json::json!({ "pid": 7, "cgroup": cgroup });
        fs::write(state.join("state.json"), record.to_string()).unwrap();
        for (events, killed) in [
            ("low 0\noom 1\noom_kill 0\noom_group_kill 0\n", false),
            ("low 0\noom 1\noom_kill 1\noom_group_kill 0\n", true),
            ("", false),
        ] {
            fs::write(cgroup.join("memory.events"), events).unwrap();
            assert_eq!(out_of_memory(folder.path(), &app), killed, "{events:?}");
        }
    }
}
