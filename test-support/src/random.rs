//! A small seeded generator, so that a failure can be run again.

/// The generator xorshift64*.
pub struct Random(u64);

impl Random {
    /// Starts from `seed`, which is not 0.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number in `0..bound`; `bound` is not 0.
    pub const fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    /// True once in `bound` times.
    pub const fn once_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}
