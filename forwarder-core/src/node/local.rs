//! This host's own claims: what the egress program says of them, and what it said to a daemon before this one.
//!
//! A daemon that takes over the maps of an earlier one does not know what that one knew. Only the kernel's table still has this
//! host's claims, without their keys; so a claim is known again when the egress program changes it, when a peer asks for it, or when
//! a peer claims the same key.

use forwarder_common::ids::Tick;

use super::{Entry, LocalClaim, MapWrite, Merged, Node, Now, Output, Word};
use crate::wire::LIFETIME_MS;

/// When a claim was made that this daemon did not know, in microseconds of Unix time: before all that it knows. Had another's
/// claim stood against it, that one would be in the kernel's table.
const FORGOTTEN_UNIX_US: u64 = 0;
/// What may be left in the kernel's table, in milliseconds, of a claim that has ended here: its ends are rounded up to ticks.
pub(super) const ROUNDED_MS: u64 = Tick::milliseconds(2);
/// Most numbers in the log for each claim that the store may hold: beyond it the oldest claims are logged anew.
const LOG_FACTOR: usize = 4;
/// How often that is looked at, in claims.
const LOG_CHECK: u64 = 4096;

impl Node {
    /// Takes a new claim of this host. It goes to the peers at the next [`Self::handle_timeout`] that is due: at once when nothing
    /// was sent for a while, so hand over all waiting claims first, and in their order: of two words about a claim the later one
    /// counts.
    pub fn handle_local(&mut self, claim: LocalClaim, now: Now) {
        self.take_own(claim, false, now);
    }

    /// Takes a claim of this host that the egress program made before, and whose end it has changed. If this daemon does not know the
    /// claim, it counts as made before all others: when it was made nobody knows any more.
    pub fn handle_change(&mut self, claim: LocalClaim, now: Now) {
        self.take_own(claim, true, now);
    }

    /// Takes what the kernel's table has instead of a claim that [`MapWrite::Claim`] calls new: a live claim of this host in its present
    /// epoch. If this daemon did not know of it, it stands, as by [`Self::handle_change`]. If it has lost or ended, it is written over.
    pub fn handle_found(&mut self, claim: LocalClaim, now: Now) {
        if self.last_own(claim.key).is_none() && claim.remaining_ms > ROUNDED_MS {
            self.take_own(claim, true, now);
        } else {
            self.write_claim(claim.key, now);
        }
    }

    fn take_own(&mut self, claim: LocalClaim, is_change: bool, now: Now) {
        let remaining_ms = claim.remaining_ms.min(LIFETIME_MS);
        if remaining_ms == 0 {
            return;
        }
        self.counters.claims_local += 1;
        let me = self.settings.node;
        let claimed_at_unix_us = claim.claimed_at_unix_us.min(now.unix_us);
        let (claimed_at_unix_us, word) = match self.last_own(claim.key) {
            Some(last) => (claimed_at_unix_us, last.word.next()),
            None if is_change => (FORGOTTEN_UNIX_US, Word { session: 0, number: Word::FORGOTTEN }),
            None => (claimed_at_unix_us, Word::default()),
        };
        let entry = Entry {
            owner: me,
            epoch: self.settings.epoch,
            claimed_at_unix_us,
            expires_us: now.monotonic_us.saturating_add(remaining_ms * 1000),
            mark: 0,
            word,
        };
        let merged = self.merge(claim.key, entry, now);
        self.keep_loser(claim.key, entry, merged, now);
        match merged {
            Merged::New | Merged::Known => self.replicate(claim.key, now),
            // Of an earlier epoch.
            Merged::Won(loser) if loser.owner == me => self.replicate(claim.key, now),
            Merged::Won(_) => {
                // The peer's claim may have been written over this one before its event was read.
                self.counters.conflicts_won += 1;
                self.write_claim(claim.key, now);
                self.replicate(claim.key, now);
            }
            Merged::Lost(_) => {
                self.counters.conflicts_lost += 1;
                self.write_claim(claim.key, now);
            }
            Merged::Refused => self.counters.claims_refused += 1,
        }
        self.end_asks_for(claim.key, now);
    }

    /// What this node last said of its own claim of a key in its present epoch, whether that stands, has lost or ended a moment ago.
    fn last_own(&self, key: u64) -> Option<Entry> {
        let held = self.store.last(key)?;
        if self.is_own(&held) {
            return Some(held);
        }
        self.beaten.find(held.owner, key, self.settings.node).filter(|lost| self.is_own(lost))
    }

    /// Logs a claim of this node for the peers.
    pub(super) fn replicate(&mut self, key: u64, now: Now) {
        self.log_claim(key, now);
        if self.log.next().is_multiple_of(LOG_CHECK) && self.log.held() > LOG_FACTOR * self.settings.claims {
            for (number, key) in self.log.take_oldest() {
                if self.store.live(key, now.monotonic_us).is_some_and(|held| self.is_own(&held) && held.mark == number)
                {
                    self.log_claim(key, now);
                }
            }
        }
        self.counters.claims_dropped += self.outbox.push(&self.log, now, self.introduced);
    }

    fn log_claim(&mut self, key: u64, now: Now) {
        if let Some(held) = self.store.live(key, now.monotonic_us) {
            let number = self.log.append(key, held.expires_us);
            self.store.set_mark(key, number);
        }
    }

    fn is_own(&self, entry: &Entry) -> bool {
        entry.owner == self.settings.node && entry.epoch == self.settings.epoch
    }

    /// Tells the kernel what stands of a key of which this daemon knew something.
    pub(super) fn write_claim(&mut self, key: u64, now: Now) {
        self.write(key, false, now);
    }

    /// Tells the kernel what stands; `is_new` if this daemon knew nothing of the key.
    pub(super) fn write(&mut self, key: u64, is_new: bool, now: Now) {
        let Some(held) = self.store.live(key, now.monotonic_us) else { return };
        let remaining_ms = (held.expires_us - now.monotonic_us).div_ceil(1000);
        let Entry { owner, epoch, .. } = held;
        let is_new = is_new && owner != self.settings.node;
        self.outputs.push_back(Output::Map(MapWrite::Claim { key, owner, epoch, remaining_ms, is_new }));
        if owner != self.settings.node {
            self.store.set_mark(key, held.expires_us);
        }
    }
}
