//! Growing pauses, and the randomness that keeps a fleet from moving as one.

/// A pause that doubles from `first_ms` with each failure up to `most_ms`; `failures` counts from 1.
pub fn pause_ms(failures: u32, first_ms: u64, most_ms: u64) -> u64 {
    let doublings = failures.saturating_sub(1).min(30);
    first_ms.saturating_mul(1 << doublings).min(most_ms)
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough to spread pauses, not for secrets.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Any of `0..=most`.
    pub fn up_to(&mut self, most: u64) -> u64 {
        self.next() % most.saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_doubles_up_to_its_cap() {
        let pauses: Vec<_> = [0, 1, 2, 3, 4, 5, u32::MAX]
            .map(|n| pause_ms(n, 1000, 6000))
            .into();
        assert_eq!(pauses, [1000, 1000, 2000, 4000, 6000, 6000, 6000]);
    }

    #[test]
    fn jitter_uses_all_of_its_range() {
        let mut random = Random::new(1);
        let drawn: Vec<_> = (0..1000).map(|_| random.up_to(9)).collect();
        assert!((0..=9).all(|value| drawn.contains(&value)) && drawn.iter().all(|&value| value <= 9));
    }
}
