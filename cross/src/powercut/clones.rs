//! Cuts on this machine's kernel: clones of the disk's file while the work goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::device::{Device, Images, Tally};
use super::{Mount, Outer, Random, clone, make_disk};
use crate::process::interrupted;
use crate::registry::{DockerRegistry, Door};
use crate::stand::Programs;

/// Longest time between two cuts, milliseconds: a load of the images takes about so long.
const PAUSE_MS_MAX: u64 = 300;

/// Makes so many cuts.
pub fn cut(programs: &Programs, outer: &Outer, cuts: u32, seed: u64) -> Result<()> {
    let disk = outer.file("disk.img");
    make_disk(&disk)?;
    let registry = DockerRegistry::start(Door::Open)?;
    let images = Images::make(programs, &outer.beside("images"), &registry.address)?;
    let mounted = Mount::file(&disk, &outer.beside("disk"), "commit=1")?;
    let work = Device::new(&programs.punnet, &mounted.0, &outer.beside("run"), &images);
    work.prepare()?;
    let stop = AtomicBool::new(false);
    let mut found = Tally::default();
    let began = Instant::now();
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| work.go_on(0, &stop));
        let mut random = Random(seed);
        let mut cut = || -> Result<()> {
            for number in 1..=cuts {
                ensure!(!interrupted() && !worker.is_finished(), "interrupted");
                std::thread::sleep(Duration::from_millis(random.below(PAUSE_MS_MAX)));
                let image = outer.file("cut.img");
                clone(&disk, &image)?;
                let at = format!("cut {number} of {cuts} (seed {seed})");
                let mounted = Mount::file(&image, &outer.beside("cut"), "noatime")?;
                let device = Device::new(&programs.punnet, &mounted.0, &outer.beside("run-cut"), &images);
                device.check(&mut found).with_context(|| at.clone())?;
                drop(mounted);
                std::fs::remove_file(&image)?;
                if number % 100 == 0 {
                    println!("    {at}: {found}, {:.0} s", began.elapsed().as_secs_f64());
                }
            }
            Ok(())
        };
        let outcome = cut();
        stop.store(true, Ordering::Relaxed);
        let worked = worker
            .join()
            .map_err(|_| anyhow::anyhow!("the work has panicked"))?;
        outcome?;
        println!(
            "    {cuts} cuts in {} pieces of work: {found}; {:.0} s",
            worked?,
            began.elapsed().as_secs_f64()
        );
        Ok(())
    })
}
