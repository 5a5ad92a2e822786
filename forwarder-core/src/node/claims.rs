//! Which claim counts: all claims, this node's own by number, and what the kernel is told of them.
//!
//! Of two nodes that claim one key their owners settle which claim counts; all others believe the claim that they have
//! heard of first until its owner withdraws it. An owner whose claim a peer must have known of keeps it, and says it
//! again as made before all others. Else the two compare times, then ids. Whose claim is not before the other's
//! withdraws it, but no more often for one peer than [`Budget::may_win`] says: a peer that says of all keys that it has
//! claimed them first gets those few. The order that the owners compare only ever moves a claim forward, so of several
//! owners the first never withdraws, and all others do once they have heard of it.
//!
//! A daemon that takes over the maps of an earlier one is given this host's claims first of all. When they were made
//! the maps do not say, so they count as made before all others: had another's claim won against one, that one would be
//! in the table.

use std::collections::BTreeSet;

use forwarder_common::abi::Lifetimes;
use forwarder_common::ids::{Epoch, Epochs, NodeId, Tick};
use forwarder_common::lifetime;
use forwarder_common::rest::{Class, Purpose};

use super::budget::Budget;
use super::effects::Effects;
use super::invites::Invites;
use super::log::Log;
use super::output::MapWrite;
use super::settings::NodeSettings;
use super::shadowed::Shadowed;
use super::withdrawn::{Withdrawal, Withdrawn};
use crate::now::Now;
use crate::store::{Entry, LATEST_UNIX_US, Merged, Store, Version};
use crate::wire::{self, LIFETIME_MS};

/// When a restored claim was made, and one that this node keeps against a peer that must have known of it, in
/// microseconds of Unix time: before all others.
pub(super) const RESTORED_UNIX_US: u64 = 0;
/// A claim that this node has made so long ago, in microseconds, is known to all that have been linked for as long: a
/// fresh claim of the key was made later, whatever its time says.
const KNOWN_US: u64 = 250_000;
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
/// Ticks by which an end that was set may lie behind the one that was meant.
const ROUNDED: u16 = 2;

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
    /// What it was made for.
    pub purpose: Purpose,
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
    /// It was in conflict with one of this node, which has said something anew for the peers.
    Logged,
    /// Anything else.
    Done,
}

/// Who says that it has claimed something.
#[derive(Debug)]
pub(super) struct Teller<'a> {
    pub(super) peer: NodeId,
    /// The incarnation of its daemon, in this node's count.
    pub(super) generation: u8,
    /// For how long it has been introduced on its link, in microseconds.
    pub(super) linked_us: u64,
    /// It says so as soon as it has claimed it.
    pub(super) is_fresh: bool,
    /// What this node has logged below this number was sent to it, or is on its way.
    pub(super) sent: u64,
    pub(super) budget: &'a mut Budget,
}

#[derive(Debug)]
pub(super) struct Claims {
    me: NodeId,
    epochs: Epochs,
    lifetimes: Lifetimes,
    capacity: usize,
    store: Store,
    log: Log,
    shadowed: Shadowed,
    withdrawn: Withdrawn,
    /// Claims of this node stay although those of peers are before them, because those have won too many.
    is_owing: bool,
    invites: Invites,
    sweep_at_us: u64,
}

impl Claims {
    pub(super) fn new(settings: &NodeSettings) -> Self {
        let NodeSettings { node: me, epochs, lifetimes, claims: capacity, seed, .. } = *settings;
        let mut store = Store::new(capacity, seed);
        store.set_epochs(me, epochs);
        store.set_up(me, true);
        store.set_me(me);
        store.set_lifetimes(lifetimes);
        let (log, shadowed, withdrawn) = (Log::default(), Shadowed::default(), Withdrawn::default());
        let invites = Invites::new(capacity, seed);
        Self {
            me,
            epochs,
            lifetimes,
            capacity,
            store,
            log,
            shadowed,
            withdrawn,
            is_owing: false,
            invites,
            sweep_at_us: 0,
        }
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

    /// The incarnation of a peer's daemon, in this node's count, has said all that it claims; `None`: a link has
    /// begun, on which it may be yet to do so.
    pub(super) fn set_complete(&mut self, peer: NodeId, generation: Option<u8>) {
        self.store.set_complete(peer, generation);
    }

    /// Takes one claim of a peer; an ineffective one is as good as none.
    pub(super) fn take(
        &mut self,
        teller: &mut Teller<'_>,
        claim: &wire::Claim,
        now: Now,
        effects: &mut Effects,
    ) -> Taken {
        let wire::Claim { key, claimed_at_unix_us, remaining_ms, epoch, purpose, number } = *claim;
        let peer = teller.peer;
        effects.counters.claims_received += 1;
        let version = Version { generation: teller.generation, number };
        // The same at all nodes, for their timers must be equal. A claim that its owner has out of its maps is longer
        // by what [`Tick::covering_ms`] has rounded up when its end was set.
        let most_ms = Tick::milliseconds(lifetime::most(purpose.class(), &self.lifetimes).saturating_add(ROUNDED));
        let remaining_ms = u64::from(remaining_ms).min(most_ms);
        if remaining_ms == 0 {
            return self.take_withdrawal(peer, key, version, now, effects);
        }
        if !self.store.is_effective(peer, epoch) {
            effects.counters.claims_void += 1;
            return Taken::Done;
        }
        if self.withdrawn.covers(peer, key, version) {
            return Taken::Done;
        }
        effects.counters.claims_from_the_future += u64::from(claimed_at_unix_us > now.unix_us);
        let entry = Entry {
            owner: peer,
            epoch,
            purpose,
            // As its owner says, whatever this host's clock: both owners must compare the same numbers.
            claimed_at_unix_us: claimed_at_unix_us.min(LATEST_UNIX_US),
            expires_us: now.monotonic_us.saturating_add(remaining_ms * 1000),
            told_us: 0,
            version,
        };
        if let Some(own) = self.own(key, now) {
            return self.arbitrate(key, own, entry, teller, now, effects);
        }
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
            Merged::Won(_) => {
                self.write(key, now, effects);
                return Taken::Conflict;
            }
            Merged::Lost(_) => return Taken::Conflict,
            Merged::Refused => effects.counters.claims_refused += 1,
        }
        Taken::Done
    }

    /// A peer claims what this node has claimed: one of the two claims counts from now on.
    fn arbitrate(
        &mut self,
        key: u64,
        own: Entry,
        theirs: Entry,
        teller: &mut Teller<'_>,
        now: Now,
        effects: &mut Effects,
    ) -> Taken {
        let is_asserted = own.claimed_at_unix_us == RESTORED_UNIX_US;
        // A reply that went astray claims what its owner has claimed before, however late this node hears of that.
        let is_stray = own.is_of_a_reply() && !theirs.is_of_a_reply();
        let is_known = !is_asserted
            && !is_stray
            && teller.is_fresh
            && teller.linked_us >= KNOWN_US
            && now.unix_us.saturating_sub(own.claimed_at_unix_us) >= KNOWN_US
            && own.version.number < teller.sent;
        let is_before = theirs.is_before(&own);
        if !is_known && is_before && teller.budget.may_win(now) {
            self.withdraw(key, own, theirs, now, effects);
            return Taken::Logged;
        }
        effects.counters.conflicts_won += 1;
        self.shadow(self.me, key, theirs);
        let asserted = Entry { claimed_at_unix_us: RESTORED_UNIX_US, ..own };
        // Another that was made before all others, by its owner's word, may be before this one all the same.
        self.is_owing |= is_before && !is_known || theirs.is_before(&asserted);
        if is_asserted && is_before {
            // It would say the same again, and so without end.
            return Taken::Conflict;
        }
        if is_asserted || !(is_known || is_before) {
            return Taken::Lost(own.version.number);
        }
        effects.counters.conflicts_asserted += 1;
        self.store.replace(key, asserted);
        self.log_again(key, now);
        Taken::Logged
    }

    /// A peer's claim counts, and this node's does not any more: the peers are told so.
    fn withdraw(&mut self, key: u64, own: Entry, theirs: Entry, now: Now, effects: &mut Effects) {
        effects.counters.conflicts_lost += 1;
        let known = self.shadowed.remove(key, theirs.owner).filter(|known| self.store.are_versions(known, &theirs));
        let theirs = known.map_or(theirs, |known| known.after(theirs));
        self.store.replace(key, theirs);
        self.shadow(theirs.owner, key, own);
        self.shadowed.set_winner(key, theirs.owner);
        let Entry { epoch, purpose, expires_us: until_us, .. } = own;
        let number = self.log.append(key, until_us);
        self.withdrawn.put(key, Withdrawal { number, epoch, purpose, until_us });
        self.log_anew(now);
        self.write(key, now, effects);
    }

    /// A peer has withdrawn its claim of a key: the best one that has lost against it counts.
    fn take_withdrawal(&mut self, peer: NodeId, key: u64, version: Version, now: Now, effects: &mut Effects) -> Taken {
        effects.counters.claims_withdrawn += 1;
        self.withdrawn.hear(peer, key, version, now.monotonic_us);
        let is_later = |entry: &Entry| version.order(entry.version).is_gt();
        if self.shadowed.get(key, peer).is_some_and(is_later) {
            self.shadowed.remove(key, peer);
        }
        let held = self.store.live(key, now.monotonic_us).filter(|held| held.owner == peer && is_later(held));
        let Some(Entry { epoch, purpose, .. }) = held else { return Taken::Done };
        self.store.remove(key);
        match self.promote(key, now, effects) {
            Some(true) => Taken::Logged,
            Some(false) => Taken::Conflict,
            None => {
                // The kernel goes by it for a tick or two, until that whose claim counts is heard.
                effects.write(MapWrite::Claim { key, owner: peer, epoch, purpose, remaining_ms: 1 });
                Taken::Done
            }
        }
    }

    /// Takes a claim of this host that the maps had at the start of this daemon.
    pub(super) fn restore(&mut self, claim: LocalClaim, now: Now, effects: &mut Effects) {
        self.take_own(LocalClaim { claimed_at_unix_us: RESTORED_UNIX_US, ..claim }, now, effects);
    }

    /// Takes a claim of this host, or a change of one, and logs it for the peers.
    pub(super) fn take_own(&mut self, claim: LocalClaim, now: Now, effects: &mut Effects) {
        let LocalClaim { key, claimed_at_unix_us, remaining_ms, epoch, purpose } = claim;
        let remaining_ms = remaining_ms.min(LIFETIME_MS);
        if remaining_ms == 0 || !self.epochs.contains(epoch) {
            return;
        }
        effects.counters.claims_local += 1;
        let expires_us = now.monotonic_us.saturating_add(remaining_ms * 1000);
        // It stays as old as it is, also if it was said to be made before all others, or was withdrawn.
        let known = self.own(key, now).or_else(|| self.shadowed.get(key, self.me).copied());
        let oldest_us = known.filter(|known| self.is_own(known)).map_or(u64::MAX, |known| known.claimed_at_unix_us);
        let entry = Entry {
            owner: self.me,
            epoch,
            purpose: made_for(known.filter(|known| self.is_own(known)), purpose),
            claimed_at_unix_us: claimed_at_unix_us.min(now.unix_us).min(oldest_us).min(LATEST_UNIX_US),
            expires_us,
            told_us: 0,
            // Whatever becomes of it: under a number of which nothing is in the store the peers are sent nothing.
            version: Version { generation: 0, number: self.log.append(key, expires_us) },
        };
        match self.merge(key, entry, now) {
            Merged::New | Merged::Known(_) => self.withdrawn.remove(key),
            Merged::Won(before) => {
                self.withdrawn.remove(key);
                // Not of an epoch that is over.
                if before.owner != self.me {
                    // The peer's claim may have been written over this one before its event was read.
                    effects.counters.conflicts_won += 1;
                    self.write(key, now, effects);
                }
            }
            // A peer's was heard of before this one was made: events are read before messages.
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
                        self.set_end(reply, request_end, Class::Proceeding, now, effects);
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

    /// Whether the INVITE with that request key has yet to end; `None`: it is not known.
    pub(super) fn is_waiting(&self, request: u64) -> Option<bool> {
        self.invites.is_waiting(request)
    }

    /// The keys of an INVITE end together.
    fn end_invite(&mut self, request: u64, remaining_ms: u64, now: Now, effects: &mut Effects) {
        let end_us = now.monotonic_us.saturating_add(remaining_ms.saturating_mul(1000));
        self.invites.set_end(request, end_us);
        for key in self.invites.replies(request).into_iter().chain([request]) {
            if self.own(key, now).is_some_and(|held| held.expires_us > end_us) {
                effects.counters.claims_ended += 1;
                self.set_end(key, end_us, Class::Short, now, effects);
            }
        }
    }

    /// A claim of this node ends at another time than the programs have said: here, at the peers and in the kernel.
    fn set_end(&mut self, key: u64, end_us: u64, class: Class, now: Now, effects: &mut Effects) {
        let Some(held) = self.own(key, now) else { return };
        let version = Version { generation: 0, number: self.log.append(key, end_us) };
        let purpose = held.purpose.with_class(class);
        self.merge(key, Entry { purpose, expires_us: end_us, version, ..held }, now);
        let left_ms = |end_us: u64| end_us.saturating_sub(now.monotonic_us).div_ceil(1000);
        let (was_ms, remaining_ms) = (left_ms(held.expires_us), left_ms(end_us));
        effects.write(MapWrite::End { key, epoch: held.epoch, class, was_ms, remaining_ms });
    }

    /// This node's claim of a key, if it counts.
    fn own(&self, key: u64, now: Now) -> Option<Entry> {
        self.store.live(key, now.monotonic_us).filter(|held| self.is_own(held))
    }

    /// Claims of `winner` may not count any more: what has lost against those counts instead. Whether any of this
    /// node's was logged for the peers.
    pub(super) fn revive(&mut self, winner: NodeId, now: Now, effects: &mut Effects) -> bool {
        let mut is_logged = false;
        for key in self.shadowed.won_by(winner) {
            match self.store.live(key, now.monotonic_us) {
                Some(held) if self.store.counts(&held) => self.shadowed.set_winner(key, held.owner),
                _ => is_logged |= self.promote(key, now, effects) == Some(true),
            }
        }
        is_logged
    }

    /// No claim of a key that is held counts: of those that have lost one does now, and one of a peer before that of
    /// this node, which is withdrawn. Whether it is one of this node, logged for the peers; `None`: there is none.
    fn promote(&mut self, key: u64, now: Now, effects: &mut Effects) -> Option<bool> {
        let is_left = |claim: &&Entry| claim.expires_us > now.monotonic_us && self.store.counts(claim);
        let order =
            |claim: &&Entry| (claim.owner == self.me, claim.is_of_a_reply(), claim.claimed_at_unix_us, claim.owner);
        let best = self.shadowed.of_key(key).filter(is_left).min_by_key(order).copied()?;
        self.shadowed.remove(key, best.owner);
        self.shadowed.set_winner(key, best.owner);
        if !self.store.replace(key, best) && self.store.merge(key, best, now.monotonic_us) == Merged::Refused {
            effects.counters.claims_refused += 1;
            return None;
        }
        self.write(key, now, effects);
        let is_own = best.owner == self.me;
        if is_own {
            self.withdrawn.remove(key);
            self.log_again(key, now);
        }
        Some(is_own)
    }

    /// Withdraws what peers have claimed before, as far as those may win by now. Whether anything was logged.
    fn settle(&mut self, mut may_win: impl FnMut(NodeId) -> bool, now: Now, effects: &mut Effects) -> bool {
        let (mut is_logged, mut refused) = (false, BTreeSet::new());
        self.is_owing = false;
        for key in self.shadowed.won_by(self.me) {
            let Some(own) = self.own(key, now) else { continue };
            let is_left = |claim: &&Entry| claim.expires_us > now.monotonic_us && self.store.counts(claim);
            let first = self.shadowed.of_key(key).filter(is_left).find(|claim| claim.is_before(&own)).copied();
            let Some(theirs) = first else { continue };
            if !refused.contains(&theirs.owner) && may_win(theirs.owner) {
                self.withdraw(key, own, theirs, now, effects);
                is_logged = true;
            } else {
                self.is_owing = true;
                refused.insert(theirs.owner);
            }
        }
        is_logged
    }

    /// Tells the kernel which claim counts for a key.
    pub(super) fn write(&mut self, key: u64, now: Now, effects: &mut Effects) {
        let Some(held) = self.store.live(key, now.monotonic_us) else { return };
        let remaining_ms = (held.expires_us - now.monotonic_us).div_ceil(1000);
        let Entry { owner, epoch, purpose, .. } = held;
        effects.write(MapWrite::Claim { key, owner, epoch, purpose, remaining_ms });
        if owner != self.me {
            self.store.set_told(key);
        }
    }

    /// The claim of a number as it travels, if it still counts under that one.
    pub(super) fn numbered(&self, number: u64, now: Now) -> Option<wire::Claim> {
        let key = self.log.key(number)?;
        let claim = self.own_of(key, now).filter(|claim| claim.number == number);
        claim.or_else(|| self.withdrawal(key, now).filter(|claim| claim.number == number))
    }

    /// This node's withdrawal of a key as it travels.
    fn withdrawal(&self, key: u64, now: Now) -> Option<wire::Claim> {
        let known = self.withdrawn.get(key).filter(|known| known.until_us > now.monotonic_us)?;
        let Withdrawal { number, epoch, purpose, .. } = known;
        Some(wire::Claim { key, claimed_at_unix_us: 0, remaining_ms: 0, epoch, purpose, number })
    }

    /// The claim of a key as it travels, if it is this node's.
    pub(super) fn own_of(&self, key: u64, now: Now) -> Option<wire::Claim> {
        let held = self.own(key, now)?;
        let remaining_ms = u32::try_from((held.expires_us - now.monotonic_us).div_ceil(1000)).ok()?;
        let Entry { claimed_at_unix_us, epoch, purpose, version, .. } = held;
        Some(wire::Claim { key, claimed_at_unix_us, remaining_ms, epoch, purpose, number: version.number })
    }

    /// When [`Self::sweep`] is due, in microseconds of the monotonic clock.
    pub(super) const fn sweep_at_us(&self) -> u64 {
        self.sweep_at_us
    }

    /// Frees a part of what has ended, is stale, or is of an owner that is gone; whether anything was logged for the
    /// peers. `may_win` takes from what a peer may win.
    pub(super) fn sweep(&mut self, may_win: impl FnMut(NodeId) -> bool, now: Now, effects: &mut Effects) -> bool {
        let is_done = self.store.sweep(now.monotonic_us, SWEEP_CLAIMS);
        self.log.trim(now.monotonic_us);
        self.invites.sweep(now.monotonic_us, SWEEP_CLAIMS);
        let mut is_logged = false;
        if is_done {
            self.shadowed.trim(now.monotonic_us, |owner, epoch| self.store.is_swept(owner, epoch));
            self.withdrawn.trim(now.monotonic_us);
            is_logged = self.is_owing && self.settle(may_win, now, effects);
        }
        let pause = if is_done { SWEEP_US } else { SWEEP_STEP_US };
        self.sweep_at_us = now.monotonic_us.saturating_add(pause);
        is_logged
    }

    /// Merges a claim, and keeps it for later if it lost.
    fn merge(&mut self, key: u64, claim: Entry, now: Now) -> Merged {
        let merged = self.store.merge(key, claim, now.monotonic_us);
        match merged {
            Merged::Lost(winner) if winner != claim.owner && self.store.counts(&claim) => {
                self.shadow(winner, key, claim);
            }
            Merged::New | Merged::Won(_) => {
                self.shadowed.remove(key, claim.owner);
                self.shadowed.set_winner(key, claim.owner);
                self.is_owing |= claim.owner == self.me && self.shadowed.of_key(key).next().is_some();
            }
            Merged::Lost(_) | Merged::Known(_) | Merged::Refused => {}
        }
        merged
    }

    /// Keeps a claim that has lost against one of `winner`.
    fn shadow(&mut self, winner: NodeId, key: u64, claim: Entry) {
        self.shadowed.keep(winner, key, claim, |known| self.store.are_versions(known, &claim));
    }

    /// Logs the oldest claims anew where the log grows too long.
    fn log_anew(&mut self, now: Now) {
        if self.log.next().is_multiple_of(LOG_CHECK) && self.log.held() > LOG_FACTOR * self.capacity {
            for (number, key) in self.log.take_oldest() {
                let held = self.own(key, now);
                if held.is_some_and(|held| held.version.number == number) {
                    self.log_again(key, now);
                }
                let withdrawn = self.withdrawn.get(key).filter(|known| known.number == number);
                if let Some(known) = withdrawn.filter(|known| known.until_us > now.monotonic_us) {
                    let number = self.log.append(key, known.until_us);
                    self.withdrawn.put(key, Withdrawal { number, ..known });
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

/// What a claim of this node was made for that a message has made, or made longer: what has made it says which kind of
/// key it is, the message which class.
const fn made_for(known: Option<Entry>, message: Purpose) -> Purpose {
    match known {
        Some(Entry { purpose, .. }) if purpose.kind().is_some() => purpose.with_class(message.class()),
        Some(_) | None => message,
    }
}
