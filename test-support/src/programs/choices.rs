//! Bytes as a row of choices: a fuzzer's, which learns from them, or random ones. Where they end, each choice is the
//! first.

/// What is left of the bytes.
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// Begins with the first byte.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next byte; 0 where there is none.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number below `bound`, which is at most 65,536.
    pub fn below(&mut self, bound: usize) -> usize {
        let high = if bound > 256 { usize::from(self.byte()) << 8 } else { 0 };
        (high | usize::from(self.byte())) % bound
    }

    /// True once in `bound` times.
    pub fn once_in(&mut self, bound: usize) -> bool {
        self.below(bound) == bound - 1
    }

    /// The first of these half of the times, else any.
    pub fn mostly_first<T: Copy>(&mut self, of: &[T]) -> T {
        let which = self.below(2 * of.len());
        of[if which < of.len() { which } else { 0 }]
    }

    /// The first of these, or now and then any.
    pub fn nearly_always_first<T: Copy>(&mut self, of: &[T]) -> T {
        if self.once_in(8) { self.any(of) } else { of[0] }
    }

    /// Any of these.
    pub fn any<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}
