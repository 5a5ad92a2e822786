//! How much of this node's time one peer may take.
//!
//! This is the only place that says so. The links read what a peer sends one by one and wait for the loop with each, so
//! a peer that sends faster than it is heard is slowed down (streams) or loses what it sends (datagrams).

use crate::now::Now;

/// Messages that a peer may send at once.
const MESSAGES: u64 = 100_000;
/// Messages a second on top: a flush every 100 µs of three messages.
const MESSAGES_A_SECOND: u64 = 30_000;
/// A stream without a message weighs as many: an honest peer has one or two on each link.
const NOTHING: u64 = 100;
/// Claims that a peer may send at once: a snapshot of the largest table.
const CLAIMS: u64 = 5_000_000;
/// Claims a second on top, five times what the busiest edge makes.
const CLAIMS_A_SECOND: u64 = 500_000;
/// Datagrams that a peer may send at once.
const DATAGRAMS: u64 = 1000;
/// Datagrams a second on top: news come in fifty at most, and all else in six.
const DATAGRAMS_A_SECOND: u64 = 100;
const SECOND_US: u64 = 1_000_000;

/// A token bucket, counted in millionths so that no time is lost by rounding.
#[derive(Debug)]
struct Bucket {
    left: u64,
    most: u64,
    a_second: u64,
    at_us: u64,
}

impl Bucket {
    const fn new(most: u64, a_second: u64, now: Now) -> Self {
        Self { left: most * SECOND_US, most, a_second, at_us: now.monotonic_us }
    }

    /// Takes so many tokens; false, and none are taken, if there are fewer.
    fn spend(&mut self, tokens: u64, now: Now) -> bool {
        let passed_us = now.monotonic_us.saturating_sub(self.at_us);
        self.at_us = now.monotonic_us;
        self.left = self.left.saturating_add(passed_us.saturating_mul(self.a_second)).min(self.most * SECOND_US);
        let left = self.left.checked_sub(tokens.saturating_mul(SECOND_US));
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }
}

/// What a peer may still send.
#[derive(Debug)]
pub(super) struct Budget {
    messages: Bucket,
    claims: Bucket,
    datagrams: Bucket,
}

impl Budget {
    pub(super) const fn new(now: Now) -> Self {
        Self {
            messages: Bucket::new(MESSAGES, MESSAGES_A_SECOND, now),
            claims: Bucket::new(CLAIMS, CLAIMS_A_SECOND, now),
            datagrams: Bucket::new(DATAGRAMS, DATAGRAMS_A_SECOND, now),
        }
    }

    /// Takes one message with so many claims from the budget; false when it is spent.
    pub(super) fn message(&mut self, claims: usize, now: Now) -> bool {
        self.messages.spend(1, now) && self.claims.spend(claims as u64, now)
    }

    /// Takes a stream without a message from the budget; false when it is spent.
    pub(super) fn nothing(&mut self, now: Now) -> bool {
        self.messages.spend(NOTHING, now)
    }

    /// Takes a datagram from the budget; false when it is spent.
    pub(super) fn datagram(&mut self, now: Now) -> bool {
        self.datagrams.spend(1, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(monotonic_us: u64) -> Now {
        Now { monotonic_us, unix_us: 0 }
    }

    #[test]
    fn a_bucket_allows_its_burst_and_its_rate_and_no_more() {
        let mut bucket = Bucket::new(100, 10, at(5));
        assert!((0..100).all(|_| bucket.spend(1, at(5))));
        assert!(!bucket.spend(1, at(5)));
        // For an hour at its rate, and then at twice that until the burst is used up.
        let mut bucket = Bucket::new(100, 10, at(0));
        assert!((1..36_000).all(|n| bucket.spend(1, at(100_000 * n))));
        let allowed = (1..1000).take_while(|n| bucket.spend(1, at(3_600_000_000 + 50_000 * n))).count();
        assert!((190..=210).contains(&allowed), "{allowed}");
    }

    #[test]
    fn what_is_refused_is_not_charged() {
        let mut bucket = Bucket::new(100, 10, at(0));
        assert!(!bucket.spend(101, at(0)) && bucket.spend(100, at(0)));
    }
}
