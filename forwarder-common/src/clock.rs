//! The nodes' monotonic clocks, by which a tunnel packet is known to be recent. No time of day is trusted.
//!
//! Each node's clock began at another moment. A receiver learns how far a peer's is ahead from the peer's answers to
//! its own questions ([`crate::question`]), whose tickets nobody can replay.

/// A moment of one node's monotonic clock, in units of 2^20 ns (about 1.05 ms); it comes round after 52 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Time(pub u32);

impl Time {
    /// Packets count for so long after they were sent, and for as long before: 3 s, in units of the time. More than
    /// any way between two nodes takes, and less than a replay of a call's messages needs to do harm.
    pub const WINDOW: u32 = 2861;

    /// The moment at `now_ns` of the monotonic clock in nanoseconds.
    #[inline(always)] // one shift
    #[must_use]
    pub const fn at(now_ns: u64) -> Self {
        Self((now_ns >> 20) as u32)
    }
}

/// How a peer's clock is ahead of this node's: what is added to this node's time to get the peer's. Zero while it is
/// not known, and the one unit that lies there counts as the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Clock(pub u32);

impl Clock {
    /// Nothing is known of the peer's clock.
    pub const UNKNOWN: Self = Self(0);

    /// The peer's clock shows `theirs` when this node's shows `ours`.
    #[must_use]
    pub const fn new(theirs: Time, ours: Time) -> Self {
        let ahead = theirs.0.wrapping_sub(ours.0);
        Self(if ahead == 0 { 1 } else { ahead })
    }

    /// Whether what the peer says that it sent at `sent` can have been sent just now; so while its clock is not known.
    #[inline(always)] // a few instructions
    #[must_use]
    pub const fn is_recent(self, sent: Time, now: Time) -> bool {
        let age = now.0.wrapping_add(self.0).wrapping_sub(sent.0);
        self.0 == 0 || age.wrapping_add(Time::WINDOW) <= 2 * Time::WINDOW
    }

    /// Units between two readings of the same clock.
    #[must_use]
    pub const fn distance(self, other: Self) -> u32 {
        self.0.wrapping_sub(other.0).cast_signed().unsigned_abs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_recent_within_the_window_on_both_sides_wherever_the_clocks_are() {
        for (ours, theirs) in [(0, 0), (5, 5), (7, 1_000_000), (u32::MAX, 3), (3, u32::MAX), (1 << 31, 0)] {
            let clock = Clock::new(Time(theirs), Time(ours));
            let is_recent = |sent: u32, later: u32| {
                clock.is_recent(Time(theirs.wrapping_add(sent)), Time(ours.wrapping_add(later)))
            };
            for later in [0, Time::WINDOW - 1] {
                assert!(is_recent(0, later), "{ours} {theirs} {later}");
            }
            assert!(!is_recent(0, Time::WINDOW + 2) && !is_recent(0, 1 << 31), "{ours} {theirs}");
            assert!(is_recent(Time::WINDOW - 1, 0) && !is_recent(Time::WINDOW + 2, 0), "{ours} {theirs}");
        }
    }

    #[test]
    fn nothing_is_too_old_of_a_clock_that_is_not_known() {
        assert!(Clock::UNKNOWN.is_recent(Time(0), Time(1 << 31)));
        assert_eq!(Clock::new(Time(9), Time(9)), Clock(1), "a clock that is known is never the unknown one");
        assert_eq!((Clock(3).distance(Clock(u32::MAX)), Clock(u32::MAX).distance(Clock(3))), (4, 4));
    }
}
