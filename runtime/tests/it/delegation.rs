//! Where relative places in the cgroup tree begin, and a part of it that belongs to an ordinary user, as systemd gives it with Delegate=yes: the
//! user's processes are in one cgroup of the part, the containers' cgroups are made beside that. cgroups(7), delegation

use crate::bundle::{Answer, Bundle, cgroup_top, runtime, wait_until};
use crate::limits::limited;
use crate::references::differs;
use crate::rootless::{UID, for_user, rootless};
use punnet_spec::{Memory, Pids, Resources};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A part of the tree with one cgroup `own` in it; removed with the test.
struct Part(PathBuf);

impl Part {
    fn new(top: &str, name: &str) -> Self {
        let part = Self(Path::new(top).join(name));
        std::fs::create_dir_all(part.0.join("own")).unwrap();
        part
    }

    /// Runs the words as a process of `own`.
    fn call(&self, bundle: &Bundle, words: &[&str]) -> Answer {
        let script = format!("echo $$ > {}/own/cgroup.procs && exec \"$@\"", self.0.display());
        Command::new("sh")
            .args(["-c", &script, "sh"])
            .args(words)
            .current_dir(bundle.dir.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
            .into()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        wait_until("the cgroups are empty", || {
            ["own", "apps", ""].iter().all(|name| {
                let folder = self.0.join(name);
                std::fs::remove_dir(&folder).is_ok() || !folder.exists()
            })
        });
    }
}

#[test]
fn a_relative_cgroups_path_begins_beside_the_runtimes_own_cgroup() {
    if differs("a_relative_cgroups_path_begins_beside_the_runtimes_own_cgroup") {
        return;
    }
    let Some(top) = cgroup_top() else {
        return;
    };
    // In its own the kernel would give it no controllers: the runtime is there.
    let mut bundle = Bundle::sh("exec >/dev/null 2>&1; sleep 100");
    let part = Part::new(top, &format!("beside-{}", bundle.id()));
    bundle.linux().cgroups_path = "apps/inner".into();
    bundle.write();
    let runtime = runtime().display().to_string();
    let root = bundle.state_root().display().to_string();
    let answer = part.call(
        &bundle,
        &[&runtime, "--root", &root, "run", "--detach", &bundle.id()],
    );
    assert_eq!(answer.code, 0, "{answer:?}");
    let found = std::fs::read_to_string(format!("/proc/{}/cgroup", bundle.pid())).unwrap();
    assert_eq!(bundle.call(&["delete", "--force", &bundle.id()]).code, 0);
    let wanted = format!("0::/beside-{}/apps/inner\n", bundle.id());
    assert!(found.ends_with(&wanted), "{found}");
}

#[test]
fn an_ordinary_user_limits_containers_where_a_subtree_is_delegated() {
    if differs("an_ordinary_user_limits_containers_where_a_subtree_is_delegated") {
        return;
    }
    if limited("true", Resources::default()).is_none() {
        return;
    }
    for (path, place) in [("", "punnet-r"), ("apps/r", "apps/r")] {
        let mut bundle = rootless("cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max; tail /dev/zero");
        bundle.linux().cgroups_path = path.into();
        bundle.linux().resources = Some(Resources {
            memory: Some(Memory {
                limit: Some(8 << 20),
                swap: Some(8 << 20),
                ..Memory::default()
            }),
            pids: Some(Pids { limit: Some(20) }),
            ..Resources::default()
        });
        bundle.write();
        let part = Part::new("/sys/fs/cgroup", &format!("user-{}", bundle.id()));
        // What systemd gives to the user of a unit.
        for name in [
            "",
            "cgroup.procs",
            "cgroup.subtree_control",
            "cgroup.threads",
            "own",
            "own/cgroup.procs",
        ] {
            std::os::unix::fs::chown(part.0.join(name), Some(UID), Some(UID)).unwrap();
        }
        let words = for_user(&bundle, &["run", "r"]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let answer = part.call(&bundle, &words);
        // Ended by the kernel, for the memory it took.
        assert_eq!(
            (answer.code, answer.out.as_str()),
            (137, "8388608\n20\n"),
            "{answer:?}"
        );
        assert!(!part.0.join(place).exists(), "a cgroup stayed");
    }
}
