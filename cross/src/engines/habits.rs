//! What podman and docker do alike, by the same words.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{Checks, Engine, PATIENCE, SERVICE, expect};
use crate::process::wait_for;

/// Name of the image that is imported.
pub const IMAGE: &str = "box";

/// An engine with Docker's command line, and the options of its `run` that are needed here.
pub struct Habits<'a> {
    pub engine: &'a Engine,
    pub run: &'a [&'a str],
    /// How this engine's `stats` writes 32 MiB.
    pub limit_shown: &'a str,
    /// Whether `inspect` tells that a container ran out of memory: podman's conmon misses it with any runtime here.
    pub tells_out_of_memory: bool,
}

impl Habits<'_> {
    /// Every check, in the order in which one prepares the next.
    pub fn check(&self, checks: &mut Checks, archive: &Path) {
        checks.check("imports an image", || {
            self.engine
                .ok(&["import", &archive.display().to_string(), IMAGE])
                .map(drop)
        });
        self.run_once(checks);
        self.service(checks);
        self.control(checks);
        self.life(checks);
        checks.check("ends a container that takes too much memory", || {
            self.out_of_memory()
        });
    }

    /// `run` with these options before the image and these words behind it.
    fn words<'b>(&'b self, options: &[&'b str], command: &[&'b str]) -> Vec<&'b str> {
        let mut words = vec!["run", "--network", "none"];
        words.extend(self.run);
        words.extend(options);
        words.push(IMAGE);
        words.extend(command);
        words
    }

    fn run_once(&self, checks: &mut Checks) {
        checks.check("runs a program and passes on its output and status", || {
            let script = ["sh", "-c", "echo out; echo err >&2; exit 7"];
            let answer = self.engine.call(&self.words(&["--rm"], &script))?;
            expect("status", answer.code, Some(7))?;
            expect("output", answer.out.as_str(), "out")?;
            expect("error output", answer.err.as_str(), "err")
        });
        checks.check("runs a program on a terminal", || {
            let out = self.engine.ok(&self.words(&["--rm", "-t"], &["tty"]))?;
            expect("terminal", out.as_str(), "/dev/pts/0")
        });
        checks.check("names a program that is not there", || {
            let answer = self.engine.call(&self.words(&["--rm"], &["absent"]))?;
            expect("status", answer.code, Some(127))?;
            let told = answer.err.contains("absent") && answer.err.contains("not found");
            ensure!(told, "{answer:?}");
            Ok(())
        });
        checks.check("names a program that cannot be executed", || {
            let answer = self.engine.call(&self.words(&["--rm"], &["/etc/text"]))?;
            expect("status", answer.code, Some(126))?;
            ensure!(answer.err.contains("/etc/text"), "{answer:?}");
            Ok(())
        });
    }

    fn service(&self, checks: &mut Checks) {
        checks.check("starts a service with limits and volumes", || {
            let options = [
                "--detach",
                "--name",
                "service",
                "--memory",
                "32m",
                "--memory-swap",
                "32m",
                "--pids-limit",
                "50",
                "--cpus",
                "0.5",
                "--volume",
                "kept:/data",
                "--volume",
                "/etc:/host:ro",
            ];
            self.engine.ok(&self.words(&options, &["sh", "-c", SERVICE]))?;
            wait_for("the service's first line", PATIENCE, || {
                let text = self.engine.ok(&["logs", "service"])?;
                Ok(text.contains("started").then_some(()))
            })
        });
        checks.check("applies the limits", || {
            for (file, wanted) in [
                ("memory.max", "33554432"),
                ("pids.max", "50"),
                ("cpu.max", "50000 100000"),
            ] {
                let path = format!("/sys/fs/cgroup/{file}");
                expect(file, self.exec(&[], &["cat", &path])?.as_str(), wanted)?;
            }
            Ok(())
        });
        checks.check("mounts a volume and a read-only folder", || {
            expect("volume", self.exec(&[], &["cat", "/data/file"])?.as_str(), "kept")?;
            let name = std::fs::read_to_string("/etc/hostname").context("the machine has a name")?;
            expect(
                "folder",
                self.exec(&[], &["cat", "/host/hostname"])?.as_str(),
                name.trim(),
            )?;
            let answer = self
                .engine
                .call(&["exec", "service", "sh", "-c", "echo > /host/x"])?;
            ensure!(answer.code != Some(0), "it can be written: {answer:?}");
            Ok(())
        });
        checks.check("execs a program and passes on its output and status", || {
            let script = "id -u; id -g; pwd; echo $WORD; exit 3";
            let options = ["--user", "7:8", "--env", "WORD=spoken", "--workdir", "/tmp"];
            let mut words = vec!["exec"];
            words.extend(options);
            words.extend(["service", "sh", "-c", script]);
            let answer = self.engine.call(&words)?;
            expect("status", answer.code, Some(3))?;
            expect("output", answer.out.as_str(), "7\n8\n/tmp\nspoken")
        });
        checks.check("execs a program on a terminal", || {
            let found = self.exec(&["-t"], &["tty"])?;
            ensure!(found.starts_with("/dev/pts/"), "{found}");
            Ok(())
        });
        checks.check("names a program to exec that is not there", || {
            let answer = self.engine.call(&["exec", "service", "absent"])?;
            // docker 20.10 says 126 here whatever the runtime.
            ensure!(matches!(answer.code, Some(126 | 127)), "{answer:?}");
            ensure!((answer.err + &answer.out).contains("not found"), "not named");
            Ok(())
        });
        checks.check("reads the logs", || {
            expect("logs", self.engine.ok(&["logs", "service"])?.as_str(), "started")
        });
    }

    fn control(&self, checks: &mut Checks) {
        checks.check("shows what a container uses", || {
            let shown = self
                .engine
                .ok(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "service"])?;
            let (used, limit) = shown.split_once(" / ").with_context(|| shown.clone())?;
            ensure!(
                !used.starts_with("0B") && limit.contains(self.limit_shown),
                "{shown}"
            );
            Ok(())
        });
        checks.check("pauses and goes on", || {
            self.engine.ok(&["pause", "service"])?;
            expect("paused", self.inspect("{{.State.Status}}")?.as_str(), "paused")?;
            self.engine.ok(&["unpause", "service"])?;
            expect("resumed", self.inspect("{{.State.Status}}")?.as_str(), "running")
        });
        checks.check("changes the limits", || {
            self.engine
                .ok(&["update", "--memory", "24m", "--memory-swap", "24m", "service"])?;
            let found = self.exec(&[], &["cat", "/sys/fs/cgroup/memory.max"])?;
            expect("memory.max", found.as_str(), "25165824")?;
            let found = self.exec(&[], &["cat", "/sys/fs/cgroup/pids.max"])?;
            expect("pids.max", found.as_str(), "50")
        });
    }

    fn life(&self, checks: &mut Checks) {
        checks.check("stops with the program's own signal handler", || {
            self.engine.ok(&["stop", "--time", "60", "service"])?;
            expect("status", self.inspect("{{.State.ExitCode}}")?.as_str(), "0")?;
            let logs = self.engine.ok(&["logs", "service"])?;
            expect("logs", logs.as_str(), "started\nstopping")
        });
        checks.check("starts again and keeps the volume", || {
            self.engine.ok(&["start", "service"])?;
            wait_for("the volume's second line", PATIENCE, || {
                Ok((self.exec(&[], &["cat", "/data/file"])? == "kept\nkept").then_some(()))
            })
        });
        checks.check("restarts", || {
            let before = self.inspect("{{.State.Pid}}")?;
            self.engine.ok(&["restart", "--time", "60", "service"])?;
            let after = self.inspect("{{.State.Pid}}")?;
            ensure!(before != after && after != "0", "process {before}, then {after}");
            expect("status", self.inspect("{{.State.Status}}")?.as_str(), "running")
        });
        checks.check("removes a running container and all that was made for it", || {
            let id = self.inspect("{{.Id}}")?;
            self.engine.ok(&["rm", "--force", "service"])?;
            wait_for("every trace to be gone", PATIENCE, || {
                Ok((!has_trace("/run", &id) && !has_trace("/sys/fs/cgroup", &id)).then_some(()))
            })
        });
    }

    fn out_of_memory(&self) -> Result<()> {
        let options = ["--name", "greedy", "--memory", "16m", "--memory-swap", "16m"];
        let answer = self.engine.call(&self.words(&options, &["tail", "/dev/zero"]))?;
        expect("status", answer.code, Some(137))?;
        if self.tells_out_of_memory {
            wait_for("the engine to hear of it", PATIENCE, || {
                let shown = self
                    .engine
                    .ok(&["inspect", "--format", "{{.State.OOMKilled}}", "greedy"])?;
                Ok((shown == "true").then_some(()))
            })?;
        }
        self.engine.ok(&["rm", "greedy"]).map(drop)
    }

    fn exec(&self, options: &[&str], command: &[&str]) -> Result<String> {
        let mut words = vec!["exec"];
        words.extend(options);
        words.push("service");
        words.extend(command);
        self.engine.ok(&words)
    }

    fn inspect(&self, what: &str) -> Result<String> {
        self.engine.ok(&["inspect", "--format", what, "service"])
    }
}

/// Whether any file below has this id in its name.
fn has_trace(folder: &str, id: &str) -> bool {
    let mut left = vec![std::path::PathBuf::from(folder)];
    while let Some(folder) = left.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().contains(id) {
                return true;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(entry.path());
            }
        }
    }
    false
}
