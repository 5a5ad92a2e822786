//! How much of this node's time one peer may take.

use crate::now::Now;

/// Messages that a peer may send at once.
const MESSAGES: u64 = 100_000;
/// Messages a second on top: a flush every 100 µs of three messages.
const MESSAGES_A_SECOND: u64 = 30_000;
/// Claims that a peer may send at once: a snapshot of the largest table.
const CLAIMS: u64 = 5_000_000;
/// Claims a second on top, five times what the busiest edge makes.
const CLAIMS_A_SECOND: u64 = 500_000;
const SECOND_US: u64 = 1_000_000;

/// Two token buckets, counted in millionths so that no time is lost by rounding.
#[derive(Debug)]
pub(super) struct Budget {
    messages: u64,
    claims: u64,
    at_us: u64,
}

impl Budget {
    pub(super) const fn new(now: Now) -> Self {
        Self { messages: MESSAGES * SECOND_US, claims: CLAIMS * SECOND_US, at_us: now.monotonic_us }
    }

    /// Takes one message with so many claims from the budget; false when it is spent.
    pub(super) fn spend(&mut self, claims: usize, now: Now) -> bool {
        let passed_us = now.monotonic_us.saturating_sub(self.at_us);
        self.at_us = now.monotonic_us;
        let refill = |tokens: u64, a_second: u64, most: u64| {
            tokens.saturating_add(passed_us.saturating_mul(a_second)).min(most * SECOND_US)
        };
        self.messages = refill(self.messages, MESSAGES_A_SECOND, MESSAGES);
        self.claims = refill(self.claims, CLAIMS_A_SECOND, CLAIMS);
        let left = (self.messages.checked_sub(SECOND_US), self.claims.checked_sub(claims as u64 * SECOND_US));
        let (Some(messages), Some(claims)) = left else { return false };
        (self.messages, self.claims) = (messages, claims);
        true
    }
}
