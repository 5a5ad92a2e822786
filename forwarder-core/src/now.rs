//! The time, as the shell reads it.

/// The time of both clocks of this host, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// `CLOCK_MONOTONIC`: lifetimes and timers.
    pub monotonic_us: u64,
    /// `CLOCK_REALTIME`: the order of claims between hosts.
    pub unix_us: u64,
}
