//! Random numbers for positions and times. The same seed gives the same numbers; `SMSBRIDGE_SEED` gives others.

use std::time::Duration;

pub struct Rng(u64);

impl Rng {
    pub fn new() -> Self {
        let seed = std::env::var("SMSBRIDGE_SEED").ok();
        let seed = seed.map_or(1, |seed| seed.parse().expect("SMSBRIDGE_SEED is a number"));
        println!("seed {seed}");
        Self(seed)
    }

    /// SplitMix64.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    pub fn moment(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below((to - from) as usize) as u64)
    }
}
