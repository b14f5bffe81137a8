//! podman with `--runtime`, and `podman build`.

use std::path::Path;

use anyhow::{Context, Result};

use super::habits::{Habits, IMAGE};
use super::images::Ours;
use super::{Checks, Engine, expect};

/// The checks that failed.
pub fn check(runtime: &Path, archive: &Path, punnet: &Path, folder: &Path) -> Result<Vec<String>> {
    let runtime = runtime.to_str().context("a path of ours is UTF-8")?;
    let global = [
        "podman",
        "--cgroup-manager",
        "cgroupfs",
        "--events-backend",
        "file",
        "--log-level",
        "error",
        "--runtime",
        runtime,
    ];
    let engine = Engine::new("podman", &global);
    let mut checks = Checks::new("podman");
    let habits = Habits {
        engine: &engine,
        run: &[],
        limit_shown: "33.55MB",
        tells_out_of_memory: false,
    };
    habits.check(&mut checks, archive);
    checks.check("builds an image with RUN and runs it", || build(&engine));
    let ours = Ours::new(punnet, folder, "beside-podman")?;
    ours.check(&habits, &["docker-archive", "oci-archive"], &mut checks);
    Ok(checks.failed)
}

fn build(engine: &Engine) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let text = format!(
        "FROM {IMAGE}\nRUN echo made > /file && test -d /proc/self\nUSER 7\nCMD [\"cat\", \"/file\"]\n"
    );
    std::fs::write(folder.path().join("Containerfile"), text)?;
    let folder = folder.path().display().to_string();
    engine.ok(&[
        "build",
        "--isolation",
        "oci",
        "--network",
        "none",
        "--tag",
        "built",
        &folder,
    ])?;
    let out = engine.ok(&["run", "--rm", "--network", "none", "built"])?;
    expect("output", out.as_str(), "made")
}
