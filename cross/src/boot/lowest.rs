//! `cargo xtask boot --lowest-memory`: the least RAM with which a board enrols, fetches an image over MQTT and runs it.

use anyhow::{Context, Result, bail};

use super::BoardPrograms;
use super::story::{Story, Variant};

/// Between these it is searched, MiB: with the one every board of ours must work, with the other no kernel of Debian's starts.
pub const ENOUGH_MIB: u32 = 64;
const TOO_LITTLE_MIB: u32 = 24;

/// Prints each try, and at the end the least that worked: with all modules of the board's file, and without those that only devices ask for.
pub fn search(board: &str, programs: &BoardPrograms, variant: Variant) -> Result<()> {
    let mut found = Vec::new();
    for no_hotplug in [false, true] {
        let variant = Variant {
            no_hotplug,
            ..variant
        };
        found.push(least(board, programs, variant)?);
    }
    println!(
        "{board}: the least RAM with which it enrols, fetches and runs an app is {} MiB, without the modules for hotplug {} MiB",
        found[0], found[1]
    );
    Ok(())
}

fn least(board: &str, programs: &BoardPrograms, variant: Variant) -> Result<u32> {
    try_with(board, programs, variant, ENOUGH_MIB)
        .with_context(|| format!("{board} does not even work with {ENOUGH_MIB} MiB"))?;
    let (mut works, mut fails) = (ENOUGH_MIB, TOO_LITTLE_MIB);
    while works - fails > 1 {
        let mib = fails.midpoint(works);
        match try_with(board, programs, variant, mib) {
            Ok(()) => works = mib,
            Err(error) => {
                println!("{mib} MiB: {}", last_line(&format!("{error:#}")));
                fails = mib;
            }
        }
        if crate::process::interrupted() {
            bail!("interrupted");
        }
    }
    Ok(works)
}

/// What the kernel or the board said before it went quiet.
fn last_line(error: &str) -> &str {
    let telling = |line: &&str| {
        ["Kernel panic", "nitramfs unpacking failed", "Out of memory"]
            .iter()
            .any(|text| line.contains(text))
    };
    error
        .lines()
        .find(telling)
        .or_else(|| error.lines().last())
        .unwrap_or_default()
        .trim()
}

fn try_with(board: &str, programs: &BoardPrograms, variant: Variant, mib: u32) -> Result<()> {
    let variant = Variant {
        memory_mib: Some(mib),
        is_tried: true,
        ..variant
    };
    let mut story = Story::new(board, programs.clone(), variant)?;
    story.switch_on()?;
    story.wait_online()?;
    story.deploy_first()?;
    println!("{mib} MiB: works");
    story.tell_memory()?;
    story.cut_power()
}
