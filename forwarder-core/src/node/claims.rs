//! Which claim counts: all claims with their merge rule, this node's own by number, and what the kernel is told of
//! them.
//!
//! A daemon that takes over the maps of an earlier one is given this host's claims first of all. When they were made
//! the maps do not say, so they count as made before all others: had another's claim won against one, that one would be
//! in the table.

use forwarder_common::ids::{Epoch, Epochs, NodeId};

use super::effects::Effects;
use super::log::Log;
use super::output::MapWrite;
use super::settings::NodeSettings;
use super::shadowed::Shadowed;
use crate::now::Now;
use crate::store::{Entry, Merged, Store, Word};
use crate::wire::{self, LIFETIME_MS};

/// When a restored claim was made, in microseconds of Unix time: before all others.
const RESTORED_UNIX_US: u64 = 0;
/// Most numbers in the log for each claim that the store may hold: beyond it the oldest claims are logged anew.
const LOG_FACTOR: usize = 4;
/// How often that is looked at, in claims.
const LOG_CHECK: u64 = 4096;
/// Pause between two walks over all claims for those that have ended, in microseconds: they are invisible already, this
/// only frees their memory.
const SWEEP_US: u64 = 2_000_000;
/// Pause between the steps of a walk in microseconds.
const SWEEP_STEP_US: u64 = 10_000;
/// Claims looked at in one step: about 100 µs.
const SWEEP_CLAIMS: usize = 16_384;
/// An end that moves by more than this, in microseconds, is worth a write into the kernel's map, whose own clock ticks
/// in 4.3 s; what is less is the jitter of the way here.
const MOVE_US: u64 = 500_000;

/// A claim that this host's egress program made, or changed the end of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalClaim {
    /// The key.
    pub key: u64,
    /// When the packet left, in microseconds of Unix time.
    pub claimed_at_unix_us: u64,
    /// Lifetime left in milliseconds; more than [`LIFETIME_MS`] counts as that, 0 is ignored.
    pub remaining_ms: u64,
}

/// What came of a peer's claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Nobody held the key.
    New,
    /// The claim of this node with that number won: the peer does not know it, or did not when it claimed.
    Lost(u64),
    /// Anything else.
    Done,
}

#[derive(Debug)]
pub(super) struct Claims {
    me: NodeId,
    epoch: Epoch,
    capacity: usize,
    store: Store,
    log: Log,
    shadowed: Shadowed,
    sweep_at_us: Option<u64>,
}

impl Claims {
    pub(super) fn new(settings: &NodeSettings) -> Self {
        let NodeSettings { node: me, epoch, claims: capacity, seed, .. } = *settings;
        let mut store = Store::new(capacity, seed);
        store.set_epochs(me, Epochs::EMPTY.with(epoch));
        store.set_up(me, true);
        let (log, shadowed) = (Log::default(), Shadowed::default());
        Self { me, epoch, capacity, store, log, shadowed, sweep_at_us: None }
    }

    pub(super) const fn store(&self) -> &Store {
        &self.store
    }

    pub(super) const fn log(&self) -> &Log {
        &self.log
    }

    /// The epoch of this node's claims.
    pub(super) const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// This node's claims are of another epoch from now on.
    pub(super) fn set_epoch(&mut self, epoch: Epoch) {
        self.epoch = epoch;
        self.store.set_epochs(self.me, Epochs::EMPTY.with(epoch));
    }

    /// A peer is up, with this epoch.
    pub(super) fn peer_up(&mut self, peer: NodeId, epoch: Epoch) {
        self.store.set_epochs(peer, Epochs::EMPTY.with(epoch));
        self.store.set_up(peer, true);
    }

    /// A peer is down: its claims are ineffective.
    pub(super) fn peer_down(&mut self, peer: NodeId) {
        self.store.set_up(peer, false);
    }

    /// Whether a claim places packets of `key`: it has not ended, its owner is up and its epoch live.
    pub(super) fn has_effective(&self, key: u64, now: Now) -> bool {
        let held = self.store.live(key, now.monotonic_us);
        held.is_some_and(|held| self.store.is_effective(held.owner, held.epoch))
    }

    /// Takes one claim of a peer, which came over the peer's link of that `session`; an ineffective one is as good as
    /// none.
    pub(super) fn take(
        &mut self,
        (peer, epoch, session): (NodeId, Epoch, u8),
        claim: &wire::Claim,
        now: Now,
        effects: &mut Effects,
    ) -> Taken {
        effects.counters.claims_received += 1;
        if !self.store.is_effective(peer, epoch) {
            effects.counters.claims_void += 1;
            return Taken::Done;
        }
        effects.counters.claims_from_the_future += u64::from(claim.claimed_at_unix_us > now.unix_us);
        let entry = Entry {
            owner: peer,
            epoch,
            // As its owner says, whatever this host's clock: all nodes must compare the same numbers.
            claimed_at_unix_us: claim.claimed_at_unix_us,
            expires_us: now.monotonic_us.saturating_add(u64::from(claim.remaining_ms) * 1000),
            mark: 0,
            word: Word { session, number: claim.word },
        };
        match self.merge(claim.key, entry, now) {
            Merged::New => {
                self.write(claim.key, now, effects);
                return Taken::New;
            }
            Merged::Known => {
                let worth_it = |held: Entry| held.expires_us.abs_diff(held.mark) > MOVE_US;
                if self.store.live(claim.key, now.monotonic_us).is_some_and(worth_it) {
                    self.write(claim.key, now, effects);
                }
            }
            Merged::Won(loser) => {
                effects.counters.conflicts_lost += u64::from(loser.owner == self.me);
                self.write(claim.key, now, effects);
            }
            Merged::Lost(winner) if winner == self.me => {
                effects.counters.conflicts_won += 1;
                let held = self.store.live(claim.key, now.monotonic_us);
                return held.map_or(Taken::Done, |held| Taken::Lost(held.mark));
            }
            Merged::Lost(_) => {}
            Merged::Refused => effects.counters.claims_refused += 1,
        }
        Taken::Done
    }

    /// Takes a claim of this host that the maps had at the start of this daemon; whether it was logged for the peers.
    pub(super) fn restore(&mut self, claim: LocalClaim, now: Now, effects: &mut Effects) -> bool {
        self.take_own(LocalClaim { claimed_at_unix_us: RESTORED_UNIX_US, ..claim }, now, effects)
    }

    /// Takes a claim of this host, or a change of one; whether it was logged for the peers.
    pub(super) fn take_own(&mut self, claim: LocalClaim, now: Now, effects: &mut Effects) -> bool {
        let remaining_ms = claim.remaining_ms.min(LIFETIME_MS);
        if remaining_ms == 0 {
            return false;
        }
        effects.counters.claims_local += 1;
        let claimed_at_unix_us = claim.claimed_at_unix_us.min(now.unix_us);
        let word = self.last_own(claim.key).map_or_else(Word::default, |last| last.word.next());
        let entry = Entry {
            owner: self.me,
            epoch: self.epoch,
            claimed_at_unix_us,
            expires_us: now.monotonic_us.saturating_add(remaining_ms * 1000),
            mark: 0,
            word,
        };
        match self.merge(claim.key, entry, now) {
            Merged::New | Merged::Known => {}
            // Of an earlier epoch.
            Merged::Won(loser) if loser.owner == self.me => {}
            Merged::Won(_) => {
                // The peer's claim may have been written over this one before its event was read.
                effects.counters.conflicts_won += 1;
                self.write(claim.key, now, effects);
            }
            Merged::Lost(_) => {
                effects.counters.conflicts_lost += 1;
                self.write(claim.key, now, effects);
                return false;
            }
            Merged::Refused => {
                effects.counters.claims_refused += 1;
                return false;
            }
        }
        self.log_claim(claim.key, now);
        true
    }

    /// The claims of `winner` may be ineffective now: what has lost against them is merged once more. Whether any was
    /// logged for the peers.
    pub(super) fn revive(&mut self, winner: NodeId, now: Now, effects: &mut Effects) -> bool {
        let mut is_logged = false;
        for (key, claim) in self.shadowed.take(winner) {
            if claim.expires_us <= now.monotonic_us || !self.store.is_effective(claim.owner, claim.epoch) {
                continue;
            }
            // What was heard of it since is the later word.
            let heard = self.store.live(key, now.monotonic_us).filter(|held| held.is_same_claim(&claim));
            let Entry { expires_us, word, .. } = heard.unwrap_or(claim);
            let claim = Entry { expires_us, word, ..claim };
            let merged = self.merge(key, claim, now);
            if matches!(merged, Merged::New | Merged::Won(_)) {
                self.write(key, now, effects);
                if claim.owner == self.me {
                    self.log_claim(key, now);
                    is_logged = true;
                }
            }
        }
        is_logged
    }

    /// Tells the kernel which claim counts for a key.
    pub(super) fn write(&mut self, key: u64, now: Now, effects: &mut Effects) {
        let Some(held) = self.store.live(key, now.monotonic_us) else { return };
        let remaining_ms = (held.expires_us - now.monotonic_us).div_ceil(1000);
        let Entry { owner, epoch, .. } = held;
        effects.write(MapWrite::Claim { key, owner, epoch, remaining_ms });
        if owner != self.me {
            self.store.set_mark(key, held.expires_us);
        }
    }

    /// The claim of a number as it travels, if it still counts under that one.
    pub(super) fn numbered(&self, number: u64, now: Now) -> Option<wire::Claim> {
        let key = self.log.key(number)?;
        let entry = self.store.live(key, now.monotonic_us).filter(|entry| entry.mark == number)?;
        self.own(key, &entry, now)
    }

    /// The claim of a key as it travels, if it is this node's.
    pub(super) fn own_of(&self, key: u64, now: Now) -> Option<wire::Claim> {
        self.own(key, &self.store.live(key, now.monotonic_us)?, now)
    }

    /// When [`Self::sweep`] is due, in microseconds of the monotonic clock.
    pub(super) const fn sweep_at_us(&self) -> Option<u64> {
        self.sweep_at_us
    }

    /// Frees a part of what has ended or is stale.
    pub(super) fn sweep(&mut self, now: Now) {
        let is_done = self.store.sweep(now.monotonic_us, SWEEP_CLAIMS);
        self.log.trim(now.monotonic_us);
        self.shadowed.trim(now.monotonic_us, |owner, epoch| self.store.is_stale(owner, epoch));
        let pause = if is_done { SWEEP_US } else { SWEEP_STEP_US };
        let again = now.monotonic_us.saturating_add(pause);
        self.sweep_at_us = if self.store.is_empty() { None } else { Some(again) };
    }

    /// Merges a claim, and keeps the one that lost unless it is ineffective already.
    fn merge(&mut self, key: u64, claim: Entry, now: Now) -> Merged {
        if self.sweep_at_us.is_none() {
            self.sweep_at_us = Some(now.monotonic_us.saturating_add(SWEEP_US));
        }
        let merged = self.store.merge(key, claim, now.monotonic_us);
        let (winner, loser) = match merged {
            Merged::Won(loser) => (claim.owner, loser),
            Merged::Lost(winner) => (winner, claim),
            Merged::New | Merged::Known | Merged::Refused => return merged,
        };
        let counts = loser.expires_us > now.monotonic_us && self.store.is_effective(loser.owner, loser.epoch);
        if winner != loser.owner && counts {
            self.shadowed.keep(winner, key, loser);
        }
        merged
    }

    /// What this node last said of its own claim of a key in its present epoch, whether that counts, is shadowed or
    /// ended a moment ago.
    fn last_own(&self, key: u64) -> Option<Entry> {
        let held = self.store.last(key)?;
        if self.is_own(&held) {
            return Some(held);
        }
        self.shadowed.find(held.owner, key, self.me).filter(|lost| self.is_own(lost))
    }

    /// Logs a claim of this node for the peers, and old ones anew where the log grows too long.
    fn log_claim(&mut self, key: u64, now: Now) {
        self.append(key, now);
        if self.log.next().is_multiple_of(LOG_CHECK) && self.log.held() > LOG_FACTOR * self.capacity {
            for (number, key) in self.log.take_oldest() {
                let held = self.store.live(key, now.monotonic_us);
                if held.is_some_and(|held| self.is_own(&held) && held.mark == number) {
                    self.append(key, now);
                }
            }
        }
    }

    fn append(&mut self, key: u64, now: Now) {
        if let Some(held) = self.store.live(key, now.monotonic_us) {
            let number = self.log.append(key, held.expires_us);
            self.store.set_mark(key, number);
        }
    }

    fn is_own(&self, entry: &Entry) -> bool {
        entry.owner == self.me && entry.epoch == self.epoch
    }

    fn own(&self, key: u64, entry: &Entry, now: Now) -> Option<wire::Claim> {
        if !self.is_own(entry) {
            return None;
        }
        let remaining_ms = u32::try_from(entry.expires_us.saturating_sub(now.monotonic_us).div_ceil(1000)).ok()?;
        let Entry { claimed_at_unix_us, word, .. } = *entry;
        Some(wire::Claim { key, claimed_at_unix_us, remaining_ms, word: word.number })
    }
}
