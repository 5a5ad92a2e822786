//! The slow path's account: no packet without an outcome.

use forwarder_common::outcome::{Account, Action, Hook, Outcome};

use super::{hold::Hold, reassembly::Reassembly};

/// What came in, and what became of it. [`Self::balance`] is 0 at every moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Packets that came in: punted frames and tunnel packets.
    pub packets: u64,
    /// Fragments that became part of a whole datagram.
    pub joined: u64,
    /// Packets that wait for an owner.
    pub held: u64,
    /// Fragments that wait for the others of their datagram.
    pub reassembling: u64,
    /// Bytes that held packets cost, at most [`super::hold::BYTES`].
    pub held_bytes: usize,
    /// Bytes that waiting fragments cost, at most [`super::reassembly::BYTES`].
    pub reassembling_bytes: usize,
    /// By the outcome's number; those of other hooks stay 0.
    counts: Counts,
}

impl Ledger {
    pub(super) const fn came(&mut self) {
        self.packets += 1;
    }

    pub(super) fn count(&mut self, outcome: Outcome) {
        *self.counts.of_mut(outcome) += 1;
    }

    /// With what waits at this moment.
    pub(super) fn with(self, hold: &Hold, reassemble: &Reassembly) -> Self {
        let mut all = Self {
            joined: reassemble.joined(),
            held: hold.len() as u64,
            reassembling: reassemble.waiting(),
            held_bytes: hold.bytes(),
            reassembling_bytes: reassemble.bytes(),
            ..self
        };
        *all.counts.of_mut(Outcome::SlowDroppedFragment) = reassemble.dropped();
        all
    }

    /// How often an outcome was reached.
    #[must_use]
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.counts.of(outcome)
    }

    /// All outcomes of the slow path, in the order of their numbers.
    pub fn outcomes(self) -> impl Iterator<Item = (Outcome, u64)> {
        let slow = Outcome::ALL.iter().copied().filter(|outcome| outcome.hook() == Hook::Slow);
        slow.map(move |outcome| (outcome, self.of(outcome)))
    }

    /// Packets that came in, and datagrams made of fragments, less all that left, was dropped, or waits: 0.
    #[must_use]
    pub fn balance(&self) -> i128 {
        let sum = |account| -> u64 {
            let of_account = self.outcomes().filter(|(outcome, _)| outcome.action() == Action::Slow(account));
            of_account.map(|(_, count)| count).sum()
        };
        let came = i128::from(self.packets) + i128::from(sum(Account::Made));
        came - i128::from(sum(Account::Ended) + self.joined + self.held + self.reassembling)
    }
}

/// A count for each outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts([u64; Outcome::ALL.len()]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; Outcome::ALL.len()])
    }
}

#[expect(clippy::indexing_slicing, reason = "numbers of outcomes are dense from 0 on")]
impl Counts {
    const fn of(&self, outcome: Outcome) -> u64 {
        self.0[outcome.number() as usize]
    }

    const fn of_mut(&mut self, outcome: Outcome) -> &mut u64 {
        &mut self.0[outcome.number() as usize]
    }
}
