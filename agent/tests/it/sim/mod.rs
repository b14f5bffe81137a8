//! The core in a world of its own that goes wrong in every way a seed can think of.
//!
//! For some thousand steps messages are lost, repeated and reordered, blobs altered, the disk filled, processes crash, and the
//! agent or the whole board goes down between any two actions. Invariants are checked all the time. Then the faults stop, a last
//! desired state is given, and the device must come to run exactly that.
//!
//! `PUNNET_SIM_SEEDS=1000` runs more seeds, `PUNNET_SIM_SEED=n` one of them with all it does.

mod world;

use std::time::Instant;

use world::World;

/// Seeds of an ordinary run; some seconds without optimisation.
const SEEDS: u64 = 60;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

#[test]
fn whatever_happens_the_device_keeps_its_promises_and_converges() {
    if let Some(seed) = number("PUNNET_SIM_SEED") {
        return World::new(seed, true).live();
    }
    let began = Instant::now();
    let seeds = number("PUNNET_SIM_SEEDS").unwrap_or(SEEDS);
    for seed in 0..seeds {
        let lived = std::panic::catch_unwind(|| World::new(seed, false).live());
        if lived.is_err() {
            panic!("seed {seed} failed; see it with PUNNET_SIM_SEED={seed}");
        }
    }
    println!("{seeds} seeds in {:?}", began.elapsed());
}

#[test]
fn a_seed_gives_the_same_life_each_time() {
    let life = || {
        let mut world = World::new(3, false);
        world.live();
        world.trail
    };
    assert_eq!(life(), life());
}
