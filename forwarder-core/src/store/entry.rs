//! One claim, and what becomes of it when its owner says more of it.

use std::cmp::Ordering;

use forwarder_common::ids::{Epoch, NodeId};

use super::word::Word;

/// One claim as this node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose it is.
    pub owner: NodeId,
    /// The owner's epoch when it was made.
    pub epoch: Epoch,
    /// When it was made: Unix microseconds of the owner's clock, however wrong that is.
    pub claimed_at_unix_us: u64,
    /// When it ends: microseconds of this node's monotonic clock.
    pub expires_us: u64,
    /// Of a claim of this node its number in the log, of a peer's the end that the kernel's map has been told.
    pub mark: u64,
    /// Which of its owner's words about it this is.
    pub word: Word,
}

impl Entry {
    /// What is known of a claim after another word about it has arrived: the later word counts, of two equal ones that
    /// which lets it last longer. The time of the claim is the earliest that was ever said.
    #[must_use]
    pub fn after(self, arrives: Self) -> Self {
        let (expires_us, word) = match arrives.word.order(self.word) {
            Ordering::Greater => (arrives.expires_us, arrives.word),
            Ordering::Equal => (arrives.expires_us.max(self.expires_us), self.word),
            Ordering::Less => (self.expires_us, self.word),
        };
        let claimed_at_unix_us = arrives.claimed_at_unix_us.min(self.claimed_at_unix_us);
        Self { claimed_at_unix_us, expires_us, word, ..self }
    }

    /// Whether both are one claim: of one owner in one epoch.
    #[must_use]
    pub fn is_same_claim(&self, other: &Self) -> bool {
        (self.owner, self.epoch) == (other.owner, other.epoch)
    }
}
