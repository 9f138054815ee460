//! Chance that can be repeated: numbers from a seed, and decisions that depend on what they are about alone.

/// A stream of numbers (SplitMix64): the same seed gives the same stream.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        scramble(self.0)
    }

    /// A number below `n`, which is not 0.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// True so many times of a thousand.
    pub(super) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// A length of time in milliseconds: every order of magnitude in the range is as likely as any other.
    pub(super) fn time(&mut self, from: u64, to: u64) -> u64 {
        let share = self.below(1 << 20) as f64 / f64::from(1 << 20);
        let (from, to) = (from.max(1) as f64, to.max(1) as f64);
        (from * (to / from).powf(share)) as u64
    }
}

fn scramble(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A number that depends on all of these and on nothing else.
pub(super) fn mix(parts: &[u64]) -> u64 {
    parts.iter().fold(0x1234_5678_9ABC_DEF0, |sum, part| scramble(sum.rotate_left(17) ^ scramble(*part)))
}

/// A number for a text (FNV-1a), the same on every machine.
pub(super) fn text(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}
