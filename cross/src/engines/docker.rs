//! dockerd with `--add-runtime`, and then the containerd below it.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::habits::{Habits, IMAGE};
use super::images::Ours;
use super::{Checks, Engine, PATIENCE, containerd};
use crate::process::{Server, wait_for};

/// Debian's client: another vendor's may come first on the PATH.
const CLIENT: &str = "/usr/bin/docker";

/// The checks that failed.
pub fn check(runtime: &Path, archive: &Path, punnet: &Path, folder: &Path) -> Result<Vec<String>> {
    let runtime = runtime.to_str().context("a path of ours is UTF-8")?;
    let socket = folder.join("docker.sock");
    let _containerd = containerd::start(folder)?;
    let _dockerd = start(runtime, folder)?;
    let engine = Engine::new(
        "docker",
        &[CLIENT, "--host", &format!("unix://{}", socket.display())],
    );
    wait_for("dockerd to answer", PATIENCE, || {
        Ok((engine.call(&["version"])?.code == Some(0)).then_some(()))
    })?;
    let mut checks = Checks::new("docker");
    let habits = Habits {
        engine: &engine,
        // Debian's kernel has AppArmor and this machine has no apparmor_parser to load docker's profile with.
        run: &["--runtime", "checked", "--security-opt", "apparmor=unconfined"],
        limit_shown: "32MiB",
        tells_out_of_memory: true,
    };
    habits.check(&mut checks, archive);
    checks.check("lists the processes of a container", || top(&habits));
    // OCI archives are read by docker 25 and newer.
    let ours = Ours::new(punnet, folder, "beside-docker")?;
    ours.check(&habits, &["docker-archive"], &mut checks);
    let saved = folder.join("saved.tar");
    checks.check("saves an image", || {
        engine
            .ok(&["save", "--output", &saved.display().to_string(), IMAGE])
            .map(drop)
    });
    let mut failed = checks.failed;
    failed.extend(containerd::check(runtime, folder, &saved));
    Ok(failed)
}

fn start(runtime: &str, folder: &Path) -> Result<Server> {
    let path = |name: &str| folder.join(name).display().to_string();
    let log = std::fs::File::create(folder.join("dockerd.log"))?;
    Server::start(
        "dockerd",
        Command::new("dockerd")
            .args([
                "--log-level",
                "warn",
                "--iptables=false",
                "--ip6tables=false",
                "--bridge=none",
            ])
            .args([
                "--containerd",
                &path("containerd.sock"),
                "--add-runtime",
                &format!("checked={runtime}"),
            ])
            .args(["--exec-root", "/run/dockerd", "--pidfile", &path("dockerd.pid")])
            .args(["--host", &format!("unix://{}", path("docker.sock"))])
            .env("PATH", super::path_with_sbin())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log),
    )
}

fn top(habits: &Habits<'_>) -> Result<()> {
    let engine = habits.engine;
    let mut words = vec!["run", "--detach", "--name", "listed", "--network", "none"];
    words.extend(habits.run);
    words.extend([IMAGE, "sleep", "1000"]);
    engine.ok(&words)?;
    let table = engine.ok(&["top", "listed"])?;
    ensure!(
        table.contains("sleep 1000") && table.lines().count() == 2,
        "{table}"
    );
    engine.ok(&["rm", "--force", "listed"]).map(drop)
}
