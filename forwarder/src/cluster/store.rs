//! Every claim this node knows, its own and its peers', and the rule that says which of two claims stands.
//!
//! The rule is a minimum over (void, claimed at, owner, epoch), so order and repetition of arrivals do not matter and all
//! nodes come to the same owner. Bounded: when full, the claims nearest to their end make room.

use std::collections::BTreeMap;

use forwarder_common::ids::{Epoch, NodeId};

/// Width of an expiry slot in microseconds: expired claims leave the store at most this late.
const SLOT_US: u64 = 1_000_000;
/// Claims looked at to make room for one: beyond it the last one looked at goes, whatever its end.
const EVICTION_LOOKS: usize = 64;

/// One claim as this node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose it is.
    pub owner: NodeId,
    /// The owner's epoch when it was made.
    pub epoch: Epoch,
    /// When it was made: Unix microseconds of the owner's clock, no later than its arrival here.
    pub claimed_at_unix_us: u64,
    /// When it ends: microseconds of this node's monotonic clock.
    pub expires_us: u64,
    /// The end that the kernel's map has been told.
    pub written_us: u64,
}

/// What became of a claim that was merged into the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// Nobody held the key.
    New,
    /// The owner held the key already; its claim lasts at least as long as before.
    Known,
    /// It stands in place of the claim of this node.
    Won(NodeId),
    /// The claim of this node stands.
    Lost(NodeId),
}

/// The claims.
#[derive(Debug)]
pub struct Store {
    entries: BTreeMap<u64, Entry>,
    /// Each key in `entries` is in exactly one slot. It was that of its end once; a claim that was lengthened meanwhile moves
    /// on when the slot comes, one that was replaced by a shorter one stays until then, ended and so invisible.
    slots: BTreeMap<u64, Vec<u64>>,
    capacity: usize,
    evicted: u64,
}

impl Store {
    /// A store for at most `capacity` claims, at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { entries: BTreeMap::new(), slots: BTreeMap::new(), capacity: capacity.max(1), evicted: 0 }
    }

    /// The claims held, with those whose end has passed but that are not swept yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no claim is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Claims that made room for others before their end.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The claim of `key` that is alive at `now_us`.
    #[must_use]
    pub fn live(&self, key: u64, now_us: u64) -> Option<&Entry> {
        self.entries.get(&key).filter(|entry| entry.expires_us > now_us)
    }

    /// The live claims from `key` on, in the order of their keys.
    pub fn live_from(&self, key: u64, now_us: u64) -> impl Iterator<Item = (u64, &Entry)> {
        self.entries.range(key..).filter(move |(_, entry)| entry.expires_us > now_us).map(|(key, entry)| (*key, entry))
    }

    /// Notes that the kernel's map now has the end of `key`'s claim.
    pub fn written(&mut self, key: u64) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.written_us = entry.expires_us;
        }
    }

    /// Merges a claim: the earlier one stands, ties go to the lower node id, a void one stands against nobody.
    ///
    /// A second claim of the same owner in the same epoch keeps the earlier time and the later end. `void` tells whether a
    /// claim of that owner and epoch is void; it must give both claims of one call the same answer for the same arguments.
    pub fn merge(&mut self, key: u64, claim: Entry, void: impl Fn(NodeId, Epoch) -> bool, now_us: u64) -> Merged {
        let Some(held) = self.entries.get_mut(&key) else {
            self.insert(key, claim);
            return Merged::New;
        };
        if held.expires_us <= now_us {
            *held = claim;
            return Merged::New;
        }
        if held.owner == claim.owner && held.epoch == claim.epoch {
            held.claimed_at_unix_us = held.claimed_at_unix_us.min(claim.claimed_at_unix_us);
            held.expires_us = held.expires_us.max(claim.expires_us);
            return Merged::Known;
        }
        let rank = |entry: &Entry| {
            (void(entry.owner, entry.epoch), entry.claimed_at_unix_us, entry.owner, entry.epoch.number())
        };
        if rank(&claim) >= rank(held) {
            return Merged::Lost(held.owner);
        }
        let previous = held.owner;
        *held = claim;
        Merged::Won(previous)
    }

    /// Removes claims whose end has passed, at most `budget` looks; whether more are due.
    pub fn sweep(&mut self, now_us: u64, budget: usize) -> bool {
        for _ in 0..budget {
            let Some(mut slot) = self.slots.first_entry() else { return false };
            if *slot.key() >= slot_of(now_us) {
                return false;
            }
            match slot.get_mut().pop() {
                Some(key) => self.settle(key, now_us),
                None => drop(slot.remove()),
            }
        }
        true
    }

    /// Removes an ended claim whose slot has come; one that was lengthened meanwhile goes to its new slot.
    fn settle(&mut self, key: u64, now_us: u64) {
        match self.entries.get(&key).map(|entry| entry.expires_us) {
            Some(expires_us) if expires_us > now_us => self.slots.entry(slot_of(expires_us)).or_default().push(key),
            Some(_) => drop(self.entries.remove(&key)),
            None => {}
        }
    }

    fn insert(&mut self, key: u64, claim: Entry) {
        if self.entries.len() >= self.capacity {
            self.evict();
        }
        self.entries.insert(key, claim);
        self.slots.entry(slot_of(claim.expires_us)).or_default().push(key);
    }

    /// Removes the claim nearest to its end.
    fn evict(&mut self) {
        let mut looks = 0;
        while let Some(mut slot) = self.slots.first_entry() {
            let due = *slot.key();
            let Some(key) = slot.get_mut().pop() else {
                slot.remove();
                continue;
            };
            looks += 1;
            let end = self.entries.get(&key).map_or(0, |entry| slot_of(entry.expires_us));
            if end > due && looks < EVICTION_LOOKS {
                self.slots.entry(end).or_default().push(key);
                continue;
            }
            if self.entries.remove(&key).is_some() {
                self.evicted += 1;
                return;
            }
        }
    }
}

fn slot_of(expires_us: u64) -> u64 {
    expires_us / SLOT_US
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(id: u16) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn entry(owner: u16, claimed_at_unix_us: u64, expires_us: u64) -> Entry {
        Entry { owner: node(owner), epoch: Epoch::new(0), claimed_at_unix_us, expires_us, written_us: 0 }
    }

    fn nobody_void(_: NodeId, _: Epoch) -> bool {
        false
    }

    /// Epoch 0 is the current one of all but node 4, whose claims are void.
    fn void(owner: NodeId, epoch: Epoch) -> bool {
        epoch != Epoch::new(0) || owner.number() == 4
    }

    fn merged(claims: &[Entry]) -> Option<Entry> {
        let mut store = Store::new(8);
        for claim in claims {
            store.merge(1, *claim, void, 0);
        }
        store.live(1, 0).copied()
    }

    /// Claims as owners make them: one time for each owner and epoch, whatever their ends.
    fn claims() -> impl Strategy<Value = Vec<Entry>> {
        let claim = (1..=4_u16, 0..3_u64, 1..1000_u64);
        (proptest::collection::vec(claim, 1..8), proptest::collection::vec(0..4_u64, 12)).prop_map(|(claims, times)| {
            let time = |owner: u16, epoch: u64| times[usize::from(owner - 1) * 3 + epoch as usize];
            claims
                .into_iter()
                .map(|(owner, epoch, end)| Entry { epoch: Epoch::new(epoch), ..entry(owner, time(owner, epoch), end) })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn the_order_of_arrival_does_not_matter(
            (claims, shuffled) in claims().prop_flat_map(|claims| (Just(claims.clone()), Just(claims).prop_shuffle()))
        ) {
            prop_assert_eq!(merged(&claims), merged(&shuffled));
        }

        #[test]
        fn a_repeated_arrival_changes_nothing(claims in claims()) {
            let twice: Vec<Entry> = claims.iter().chain(&claims).copied().collect();
            prop_assert_eq!(merged(&claims), merged(&twice));
        }

        #[test]
        fn groups_may_be_merged_first(claims in claims(), at in any::<prop::sample::Index>()) {
            let (left, right) = claims.split_at(at.index(claims.len()));
            let grouped: Vec<Entry> = merged(left).into_iter().chain(merged(right)).collect();
            let (whole, grouped) = (merged(&claims), merged(&grouped));
            prop_assert_eq!(whole, grouped);
        }

        #[test]
        fn a_void_claim_never_beats_a_valid_one(claims in claims()) {
            let winner = merged(&claims).unwrap();
            if claims.iter().any(|claim| !void(claim.owner, claim.epoch)) {
                prop_assert!(!void(winner.owner, winner.epoch));
            }
        }

        #[test]
        fn every_claim_is_in_exactly_one_slot_and_none_outlives_a_sweep(
            steps in proptest::collection::vec((0..40_u64, 1..=3_u16, 0..5_u64, 1..30_u64, 0..3_u64), 1..200)
        ) {
            let mut store = Store::new(16);
            let mut now = 0;
            for (key, owner, at, seconds, pause) in steps {
                now += pause * SLOT_US;
                store.merge(key, entry(owner, at, now + seconds * SLOT_US), nobody_void, now);
                while store.sweep(now, 4) {}
                prop_assert!(store.len() <= 16);
                let mut slotted: Vec<u64> = store.slots.values().flatten().copied().collect();
                slotted.sort_unstable();
                let keys: Vec<u64> = store.entries.keys().copied().collect();
                prop_assert_eq!(slotted, keys);
            }
            while store.sweep(now + 60 * SLOT_US, 4) {}
            prop_assert!(store.is_empty());
        }
    }

    #[test]
    fn the_earlier_claim_stands_and_a_tie_goes_to_the_lower_id() {
        assert_eq!(merged(&[entry(1, 20, 9), entry(2, 10, 9)]).unwrap().owner, node(2));
        assert_eq!(merged(&[entry(3, 10, 9), entry(2, 10, 9)]).unwrap().owner, node(2));
    }

    #[test]
    fn an_ended_claim_stands_against_nobody() {
        let mut store = Store::new(8);
        store.merge(1, entry(1, 1, 100), nobody_void, 0);
        assert_eq!(store.live(1, 100), None);
        assert_eq!(store.merge(1, entry(2, 50, 200), nobody_void, 100), Merged::New);
        assert_eq!(store.live(1, 100).unwrap().owner, node(2));
    }

    #[test]
    fn a_full_store_drops_the_claim_nearest_to_its_end() {
        let mut store = Store::new(2);
        store.merge(1, entry(1, 1, 3 * SLOT_US), nobody_void, 0);
        store.merge(2, entry(1, 1, 2 * SLOT_US), nobody_void, 0);
        store.merge(1, entry(1, 1, 9 * SLOT_US), nobody_void, 0);
        store.merge(2, entry(1, 1, 10 * SLOT_US), nobody_void, 0);
        store.merge(3, entry(1, 1, 5 * SLOT_US), nobody_void, 0);
        let keys: Vec<u64> = store.entries.keys().copied().collect();
        assert_eq!((keys, store.evicted()), (vec![2, 3], 1));
    }
}
