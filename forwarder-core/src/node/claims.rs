//! Which claim counts: all claims with their merge rule, this node's own by number, and what the kernel is told of
//! them.
//!
//! A daemon that takes over the maps of an earlier one is given this host's claims first of all. When they were made
//! the maps do not say, so they count as made before all others: had another's claim won against one, that one would be
//! in the table.

use forwarder_common::ids::{Epoch, Epochs, NodeId};

use super::effects::Effects;
use super::invites::Invites;
use super::log::Log;
use super::output::MapWrite;
use super::settings::NodeSettings;
use super::shadowed::Shadowed;
use crate::now::Now;
use crate::store::{Entry, LATEST_UNIX_US, Merged, Store, Version};
use crate::wire::{self, LIFETIME_MS};

/// When a restored claim was made, in microseconds of Unix time: before all others.
pub(super) const RESTORED_UNIX_US: u64 = 0;
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
/// What an end in ticks of the kernel's clock may be off by, in microseconds.
const TICK_US: u64 = 5_000_000;

/// A claim that this host's egress program made, or changed the end of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalClaim {
    /// The key.
    pub key: u64,
    /// When the packet left, in microseconds of Unix time.
    pub claimed_at_unix_us: u64,
    /// Lifetime left in milliseconds; more than [`LIFETIME_MS`] counts as that, 0 is ignored.
    pub remaining_ms: u64,
    /// The epoch in which it was made, one of this node's live ones; else the claim is ignored.
    pub epoch: Epoch,
    /// What kind of key it is, 0..=15: 1 a request key, 2 a reply key, 0 not known.
    pub kind: u8,
}

/// What a message of the local proxy says of an INVITE, or of one that it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InviteSign {
    /// The claim of its request key is new, and none that was made for a final reply.
    Begun,
    /// It was sent on under a reply key.
    SentOn {
        /// The reply key, which this node has claimed.
        reply: u64,
    },
    /// A provisional reply has left.
    Provisional {
        /// The server transaction: what the request key gives with the branch of the top Via; 0 without one.
        server: u64,
    },
    /// A final reply has left.
    Final {
        /// As above.
        server: u64,
        /// How long the claims must last from now on, in milliseconds.
        remaining_ms: u64,
    },
    /// An ACK has left.
    Acknowledged {
        /// What the request key gives with the branch of the top Via; 0 without one.
        branch: u64,
        /// As above.
        remaining_ms: u64,
    },
}

/// What came of a peer's claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Nobody held the key.
    New,
    /// The claim of this node with that number won: the peer does not know it, or did not when it claimed.
    Lost(u64),
    /// It was in conflict with another node's, and won, or lost against a third one's.
    Conflict,
    /// Anything else.
    Done,
}

#[derive(Debug)]
pub(super) struct Claims {
    me: NodeId,
    epochs: Epochs,
    capacity: usize,
    store: Store,
    log: Log,
    shadowed: Shadowed,
    invites: Invites,
    sweep_at_us: Option<u64>,
}

impl Claims {
    pub(super) fn new(settings: &NodeSettings) -> Self {
        let NodeSettings { node: me, epochs, claims: capacity, seed, .. } = *settings;
        let mut store = Store::new(capacity, seed);
        store.set_epochs(me, epochs);
        store.set_up(me, true);
        let (log, shadowed) = (Log::default(), Shadowed::default());
        let invites = Invites::new(capacity, seed);
        Self { me, epochs, capacity, store, log, shadowed, invites, sweep_at_us: None }
    }

    pub(super) const fn store(&self) -> &Store {
        &self.store
    }

    pub(super) const fn log(&self) -> &Log {
        &self.log
    }

    /// The live epochs of this node.
    pub(super) const fn epochs(&self) -> Epochs {
        self.epochs
    }

    /// These epochs of this node are live from now on.
    pub(super) fn set_epochs(&mut self, epochs: Epochs) {
        self.epochs = epochs;
        self.store.set_epochs(self.me, epochs);
    }

    /// A peer is up, with these live epochs.
    pub(super) fn peer_up(&mut self, peer: NodeId, epochs: Epochs) {
        self.store.set_epochs(peer, epochs);
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

    /// Takes one claim of a peer, said by the incarnation of its daemon that is the `generation`th here; an ineffective
    /// one is as good as none.
    pub(super) fn take(
        &mut self,
        (peer, generation): (NodeId, u8),
        claim: &wire::Claim,
        now: Now,
        effects: &mut Effects,
    ) -> Taken {
        let wire::Claim { key, claimed_at_unix_us, remaining_ms, epoch, kind, number } = *claim;
        effects.counters.claims_received += 1;
        if !self.store.is_effective(peer, epoch) {
            effects.counters.claims_void += 1;
            return Taken::Done;
        }
        effects.counters.claims_from_the_future += u64::from(claimed_at_unix_us > now.unix_us);
        let entry = Entry {
            owner: peer,
            epoch,
            kind,
            // As its owner says, whatever this host's clock: all nodes must compare the same numbers.
            claimed_at_unix_us: claimed_at_unix_us.min(LATEST_UNIX_US),
            expires_us: now.monotonic_us.saturating_add(u64::from(remaining_ms) * 1000),
            told_us: 0,
            version: Version { generation, number },
        };
        match self.merge(key, entry, now) {
            Merged::New => {
                self.write(key, now, effects);
                return Taken::New;
            }
            Merged::Known(before) => {
                let worth_it =
                    |held: Entry| held.expires_us.abs_diff(held.told_us) > MOVE_US || held.epoch != before.epoch;
                if self.store.live(key, now.monotonic_us).is_some_and(worth_it) {
                    self.write(key, now, effects);
                }
            }
            Merged::Won(loser) => {
                effects.counters.conflicts_lost += u64::from(loser.owner == self.me);
                self.write(key, now, effects);
                return Taken::Conflict;
            }
            Merged::Lost(winner) if winner == self.me => {
                effects.counters.conflicts_won += 1;
                let held = self.store.live(key, now.monotonic_us);
                return held.map_or(Taken::Done, |held| Taken::Lost(held.version.number));
            }
            Merged::Lost(_) => return Taken::Conflict,
            Merged::Refused => effects.counters.claims_refused += 1,
        }
        Taken::Done
    }

    /// Takes a claim of this host that the maps had at the start of this daemon.
    pub(super) fn restore(&mut self, claim: LocalClaim, now: Now, effects: &mut Effects) {
        self.take_own(LocalClaim { claimed_at_unix_us: RESTORED_UNIX_US, ..claim }, now, effects);
    }

    /// Takes a claim of this host, or a change of one, and logs it for the peers.
    pub(super) fn take_own(&mut self, claim: LocalClaim, now: Now, effects: &mut Effects) {
        let LocalClaim { key, claimed_at_unix_us, remaining_ms, epoch, kind } = claim;
        let remaining_ms = remaining_ms.min(LIFETIME_MS);
        if remaining_ms == 0 || !self.epochs.contains(epoch) {
            return;
        }
        effects.counters.claims_local += 1;
        let expires_us = now.monotonic_us.saturating_add(remaining_ms * 1000);
        let entry = Entry {
            owner: self.me,
            epoch,
            kind,
            claimed_at_unix_us: claimed_at_unix_us.min(now.unix_us).min(LATEST_UNIX_US),
            expires_us,
            told_us: 0,
            // Whatever becomes of it: under a number of which nothing is in the store the peers are sent nothing.
            version: Version { generation: 0, number: self.log.append(key, expires_us) },
        };
        match self.merge(key, entry, now) {
            Merged::New | Merged::Known(_) => {}
            // Of an epoch that is over.
            Merged::Won(loser) if loser.owner == self.me => {}
            Merged::Won(_) => {
                // The peer's claim may have been written over this one before its event was read.
                effects.counters.conflicts_won += 1;
                self.write(key, now, effects);
            }
            Merged::Lost(_) => {
                effects.counters.conflicts_lost += 1;
                self.write(key, now, effects);
            }
            Merged::Refused => effects.counters.claims_refused += 1,
        }
        self.log_anew(now);
    }

    /// Takes what a message says of the INVITE with that request key, after what it says of its claims.
    pub(super) fn take_sign(&mut self, request: u64, sign: InviteSign, now: Now, effects: &mut Effects) {
        let Some(held) = self.own(request, now) else { return };
        match sign {
            InviteSign::Begun => self.invites.begin(request, held.expires_us),
            InviteSign::SentOn { reply } => self.invites.sent_on(request, reply),
            InviteSign::Provisional { server } => {
                self.invites.set_end(request, held.expires_us);
                self.invites.provisional(request, server);
                // It rings on: the replies to what was sent on are waited for as long.
                let request_end = held.expires_us;
                for reply in self.invites.replies(request) {
                    if self.own(reply, now).is_some_and(|held| held.expires_us.saturating_add(TICK_US) < request_end) {
                        self.set_end(reply, request_end, now, effects);
                    }
                }
            }
            InviteSign::Final { server, remaining_ms } => {
                if self.invites.answered(request, server) {
                    self.end_invite(request, remaining_ms, now, effects);
                }
            }
            InviteSign::Acknowledged { branch, remaining_ms } => {
                if self.invites.acknowledged(request, branch) {
                    self.end_invite(request, remaining_ms, now, effects);
                }
            }
        }
    }

    /// The keys of an INVITE end together.
    fn end_invite(&mut self, request: u64, remaining_ms: u64, now: Now, effects: &mut Effects) {
        let end_us = now.monotonic_us.saturating_add(remaining_ms.saturating_mul(1000));
        self.invites.set_end(request, end_us);
        for key in self.invites.replies(request).into_iter().chain([request]) {
            if self.own(key, now).is_some_and(|held| held.expires_us > end_us) {
                effects.counters.claims_ended += 1;
                self.set_end(key, end_us, now, effects);
            }
        }
    }

    /// A claim of this node ends at another time than the programs have said: here, at the peers and in the kernel.
    fn set_end(&mut self, key: u64, end_us: u64, now: Now, effects: &mut Effects) {
        let Some(held) = self.own(key, now) else { return };
        let version = Version { generation: 0, number: self.log.append(key, end_us) };
        self.merge(key, Entry { expires_us: end_us, version, ..held }, now);
        let left_ms = |end_us: u64| end_us.saturating_sub(now.monotonic_us).div_ceil(1000);
        let (was_ms, remaining_ms) = (left_ms(held.expires_us), left_ms(end_us));
        effects.write(MapWrite::End { key, epoch: held.epoch, was_ms, remaining_ms });
    }

    /// This node's claim of a key, if it counts.
    fn own(&self, key: u64, now: Now) -> Option<Entry> {
        self.store.live(key, now.monotonic_us).filter(|held| self.is_own(held))
    }

    /// The claims of `winner` may be ineffective now: what has lost against them is merged once more. Whether any of
    /// this node's was logged for the peers.
    pub(super) fn revive(&mut self, winner: NodeId, now: Now, effects: &mut Effects) -> bool {
        let mut is_logged = false;
        for (key, claim) in self.shadowed.take(winner) {
            if claim.expires_us <= now.monotonic_us || !self.store.is_effective(claim.owner, claim.epoch) {
                continue;
            }
            // What was heard of it since is the later version.
            let held = self.store.live(key, now.monotonic_us).filter(|held| self.store.are_versions(held, &claim));
            let Entry { claimed_at_unix_us, .. } = claim;
            let claim = held.map_or(claim, |held| Entry { claimed_at_unix_us, ..held });
            if !matches!(self.merge(key, claim, now), Merged::New | Merged::Won(_)) {
                continue;
            }
            self.write(key, now, effects);
            if claim.owner == self.me {
                self.log_again(key, now);
                is_logged = true;
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
            self.store.set_told(key);
        }
    }

    /// The claim of a number as it travels, if it still counts under that one.
    pub(super) fn numbered(&self, number: u64, now: Now) -> Option<wire::Claim> {
        self.own_of(self.log.key(number)?, now).filter(|claim| claim.number == number)
    }

    /// The claim of a key as it travels, if it is this node's.
    pub(super) fn own_of(&self, key: u64, now: Now) -> Option<wire::Claim> {
        let held = self.own(key, now)?;
        let remaining_ms = u32::try_from((held.expires_us - now.monotonic_us).div_ceil(1000)).ok()?;
        let Entry { claimed_at_unix_us, epoch, kind, version, .. } = held;
        Some(wire::Claim { key, claimed_at_unix_us, remaining_ms, epoch, kind, number: version.number })
    }

    /// When [`Self::sweep`] is due, in microseconds of the monotonic clock.
    pub(super) const fn sweep_at_us(&self) -> Option<u64> {
        self.sweep_at_us
    }

    /// Frees a part of what has ended or is stale.
    pub(super) fn sweep(&mut self, now: Now) {
        let is_done = self.store.sweep(now.monotonic_us, SWEEP_CLAIMS);
        self.log.trim(now.monotonic_us);
        self.invites.sweep(now.monotonic_us, SWEEP_CLAIMS);
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
            Merged::New | Merged::Known(_) | Merged::Refused => return merged,
        };
        let counts = loser.expires_us > now.monotonic_us && self.store.is_effective(loser.owner, loser.epoch);
        if winner != loser.owner && counts {
            self.shadowed.keep(winner, key, loser, |known| self.store.are_versions(known, &loser));
        }
        merged
    }

    /// Logs the oldest claims anew where the log grows too long.
    fn log_anew(&mut self, now: Now) {
        if self.log.next().is_multiple_of(LOG_CHECK) && self.log.held() > LOG_FACTOR * self.capacity {
            for (number, key) in self.log.take_oldest() {
                let held = self.own(key, now);
                if held.is_some_and(|held| held.version.number == number) {
                    self.log_again(key, now);
                }
            }
        }
    }

    /// Gives this node's claim of a key another number.
    fn log_again(&mut self, key: u64, now: Now) {
        if let Some(held) = self.store.live(key, now.monotonic_us) {
            let number = self.log.append(key, held.expires_us);
            self.store.set_number(key, number);
        }
    }

    fn is_own(&self, entry: &Entry) -> bool {
        entry.owner == self.me && self.epochs.contains(entry.epoch)
    }
}
