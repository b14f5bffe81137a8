//! Same source, same bytes: the runtime alone is built for ARMv7 boards once more, in a copy of this repository elsewhere, with another output folder and
//! another cargo home. The compiler is the same: another one's bytes are others.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use punnet_boards::Arch;

use crate::build::{Strip, root};
use crate::cross::{Compiler, Place};
use crate::process::run;

/// The stage of `cargo xtask test`.
pub fn run_in_ci() -> Result<()> {
    let compiler = Compiler::find()?;
    let usual = Place::usual()?;
    let folder = tempfile::Builder::new().prefix("punnet-elsewhere-").tempdir()?;
    let elsewhere = Place {
        source: folder.path().join("source"),
        output: folder.path().join("deeper/output"),
        cargo_home: folder.path().join("cargo-home"),
    };
    copy_source(&elsewhere.source)?;
    symlink(&usual.cargo_home, &elsewhere.cargo_home)?;
    let [one, other] = [usual, elsewhere].map(|place| {
        // Of all boards the one whose C goes through a script of ours; here it has been built for its budget.
        let built = compiler.build_at(&place, "punnet", Arch::ArmV7, &["runtime"], Strip::Yes)?;
        std::fs::read(&built).with_context(|| format!("cannot read {}", built.display()))
    });
    let (one, other) = (one?, other?);
    let differs_at = one.iter().zip(&other).position(|(one, other)| one != other);
    ensure!(
        one == other,
        "the same source gave other bytes elsewhere: {} and {} of them, the first that differs at {differs_at:?}",
        one.len(),
        other.len()
    );
    println!("    {} bytes, the same elsewhere", one.len());
    Ok(())
}

/// The source as it is now, whether it is in git or not.
fn copy_source(to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    let mut pack = Command::new("tar")
        .args(["--exclude=./.git", "--exclude=target", "-cf", "-", "."])
        .current_dir(root())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start tar")?;
    let packed = pack.stdout.take().context("tar was given a pipe")?;
    run(Command::new("tar")
        .args(["-xf", "-"])
        .current_dir(to)
        .stdin(packed))?;
    ensure!(pack.wait()?.success(), "tar cannot read the source");
    Ok(())
}
