//! The slow path's account: no packet without an outcome.

use forwarder_common::outcome::{Hook, Outcome};

use super::{gather::Gather, hold::Hold};

const FIRST: u32 = Outcome::SlowLocal.number();
/// Up to the last outcome of the slow path.
const LENGTH: usize = (Outcome::SlowFailed.number() - FIRST + 1) as usize;

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
    pub gathering: u64,
    /// Bytes that held packets cost, at most [`super::hold::BYTES`].
    pub held_bytes: usize,
    /// Bytes that waiting fragments cost, at most [`super::gather::BYTES`].
    pub gathering_bytes: usize,
    counts: [u64; LENGTH],
}

impl Ledger {
    pub(super) const fn came(&mut self) {
        self.packets += 1;
    }

    pub(super) fn count(&mut self, outcome: Outcome) {
        if let Some(count) = slot(outcome).and_then(|slot| self.counts.get_mut(slot)) {
            *count += 1;
        }
    }

    /// With what waits at this moment.
    pub(super) fn with(self, hold: &Hold, gather: &Gather) -> Self {
        let mut all = Self {
            joined: gather.joined(),
            held: hold.len() as u64,
            gathering: gather.waiting(),
            held_bytes: hold.bytes(),
            gathering_bytes: gather.bytes(),
            ..self
        };
        if let Some(count) = slot(Outcome::SlowDroppedFragment).and_then(|slot| all.counts.get_mut(slot)) {
            *count = gather.dropped();
        }
        all
    }

    /// How often an outcome was reached.
    #[must_use]
    pub fn of(&self, outcome: Outcome) -> u64 {
        slot(outcome).and_then(|slot| self.counts.get(slot)).copied().unwrap_or_default()
    }

    /// All outcomes of the slow path, in the order of their numbers.
    pub fn outcomes(self) -> impl Iterator<Item = (Outcome, u64)> {
        let slow = Outcome::ALL.iter().copied().filter(|outcome| outcome.hook() == Hook::Slow);
        slow.map(move |outcome| (outcome, self.of(outcome)))
    }

    /// Packets that came in, and datagrams made of fragments, less all that left, was dropped, or waits: 0.
    ///
    /// `SlowHeld` and `SlowReassembling` count beginnings of a wait, and `SlowFailed` counts an end a second time.
    #[must_use]
    pub fn balance(&self) -> i128 {
        const ENDS: [Outcome; 9] = [
            Outcome::SlowLocal,
            Outcome::SlowForwarded,
            Outcome::SlowDiverted,
            Outcome::SlowReceived,
            Outcome::SlowReleased,
            Outcome::SlowHoldOverflow,
            Outcome::SlowDroppedFragment,
            Outcome::SlowRefused,
            Outcome::SlowNotSip,
        ];
        let ended: u64 = ENDS.iter().map(|outcome| self.of(*outcome)).sum();
        let came = i128::from(self.packets) + i128::from(self.of(Outcome::SlowReassembled));
        came - i128::from(ended + self.joined + self.held + self.gathering)
    }
}

fn slot(outcome: Outcome) -> Option<usize> {
    usize::try_from(outcome.number().checked_sub(FIRST)?).ok()
}
