//! When the peers are told what should have arrived, and what they are told.
//!
//! A link loses messages when its queue is full or they have waited for too long; and what was made while too much
//! waited was never sent. So a node that has sent something tells its peers a little later up to which number all
//! should have arrived, each peer knows by the numbers what it has not got, and asks for that. When nothing new is
//! made, the last digest is repeated until the peer has confirmed it.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng as _, SeedableRng as _};

use crate::now::Now;

/// Least pause between two digests in microseconds: longer than any way and queue that is worth waiting for.
const DIGEST_US: u64 = 1_000_000;
/// The pause is longer by up to this, in microseconds, so that the nodes do not fall into step.
const JITTER_US: u64 = 250_000;

#[derive(Debug)]
pub(super) struct Digests {
    chance: Xoshiro256PlusPlus,
    at_us: Option<u64>,
    /// What was sent when the last digest was due: by the next one it should have arrived.
    mark: u64,
    /// What the last digest said.
    settled: u64,
}

/// What is said in one round of digests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    /// All below should have arrived.
    pub(super) settled: u64,
    /// That was not said before.
    pub(super) is_news: bool,
    /// A peer that has not confirmed all below must answer. While there are new claims all the time, each digest has
    /// the next one behind it, and nobody needs to answer: then it is 0.
    pub(super) confirmed_below: u64,
    /// Another round must follow, whatever the peers say.
    pub(super) goes_on: bool,
}

impl Digests {
    pub(super) fn new(seed: u64) -> Self {
        let chance = Xoshiro256PlusPlus::seed_from_u64(seed);
        Self { chance, at_us: None, mark: 0, settled: 0 }
    }

    pub(super) const fn due_us(&self) -> Option<u64> {
        self.at_us
    }

    /// Something was sent.
    pub(super) fn schedule(&mut self, now: Now) {
        if self.at_us.is_none() {
            let pause = DIGEST_US + self.chance.next_u64() % JITTER_US;
            self.at_us = Some(now.monotonic_us.saturating_add(pause));
        }
    }

    /// The round that is due, when all below `sent` was sent.
    pub(super) fn begin(&mut self, sent: u64) -> Round {
        let (before, settled) = (self.settled, self.mark);
        (self.settled, self.mark, self.at_us) = (settled, sent, None);
        let is_quiet = sent == settled;
        let confirmed_below = if is_quiet { settled } else { 0 };
        Round { settled, is_news: settled != before, confirmed_below, goes_on: !is_quiet }
    }
}
