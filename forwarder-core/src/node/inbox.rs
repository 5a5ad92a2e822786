//! What has arrived of one peer's claims, by the numbers that it gives them.
//!
//! A peer's numbers are its own word and mean nothing but to itself: one that lies about them is sent less, or more, of
//! its own.

use super::ranges::Ranges;
use crate::wire::{Claims, REPAIR_RANGES, Repair};

/// Most ranges kept: a gap for each message that a slow link has lost in the seconds until they are repaired, and more.
const RANGES: usize = 1024;
/// Messages of a snapshot between two reports to their sender, who lets sixteen times as many be on their way.
const REPORT_PIECES: u32 = 16;
/// Most batches kept that overtook the hello that they go by, which is a moment behind.
const EARLY: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// The incarnation of the peer's daemon that the numbers are of.
    incarnation: u64,
    got: Ranges,
    /// What the peer had made when it introduced itself on the present link.
    target: u64,
    /// Messages of snapshots on the present link.
    pieces: u32,
    unreported: u32,
    early: Vec<Claims>,
}

impl Inbox {
    /// The peer's first hello on a new link: another incarnation of its daemon begins at 0.
    pub(super) fn begin(&mut self, incarnation: u64, next: u64) {
        let got = if incarnation == self.incarnation { std::mem::take(&mut self.got) } else { Ranges::default() };
        *self = Self { incarnation, got, target: next, ..Self::default() };
    }

    /// Nothing has arrived; which incarnation of the peer's daemon it was stays known.
    pub(super) fn forget(&mut self) {
        *self = Self { incarnation: self.incarnation, ..Self::default() };
    }

    /// The incarnation, and the number below which everything of it has arrived.
    pub(super) fn have(&self) -> (u64, u64) {
        (self.incarnation, self.got.complete_below())
    }

    pub(super) const fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Whether everything has arrived that the peer had when it introduced itself.
    pub(super) fn is_complete(&self) -> bool {
        self.got.complete_below() >= self.target
    }

    /// `from..to` has arrived.
    pub(super) fn got(&mut self, from: u64, to: u64) {
        self.got.insert(from, to);
        if self.got.len() > RANGES {
            // It will be sent again; nothing is lost by that.
            self.got.pop_last();
        }
    }

    /// Whether anything below `settled` has not arrived.
    pub(super) fn is_missing_below(&self, settled: u64) -> bool {
        self.got.complete_below() < settled
    }

    /// A message of a snapshot has arrived; whether to report. One more is due when nothing is missing any more.
    pub(super) fn piece(&mut self, was_complete: bool) -> bool {
        self.pieces = self.pieces.wrapping_add(1);
        self.unreported += 1;
        self.unreported >= REPORT_PIECES || (!was_complete && self.is_complete())
    }

    /// What the peer is to know: what has arrived, and what is missing below `settled`.
    pub(super) fn report(&mut self, sequence: u32, settled: u64) -> Repair {
        self.unreported = 0;
        let missing = self.got.missing_below(settled).take(REPAIR_RANGES).collect();
        Repair { sequence, pieces: self.pieces, below: self.got.complete_below(), missing }
    }

    /// Keeps a batch for the hello that it has overtaken; false when too many are kept.
    pub(super) fn keep_early(&mut self, claims: Claims) -> bool {
        let kept = self.early.len() < EARLY;
        if kept {
            self.early.push(claims);
        }
        kept
    }

    pub(super) fn take_early(&mut self) -> Vec<Claims> {
        std::mem::take(&mut self.early)
    }
}
