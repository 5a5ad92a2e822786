//! Shadowed claims: they lost against another node's and are kept for the moment when that one is ineffective or
//! withdrawn.
//!
//! When a node dies or its proxy restarts, its peers hear of it at different times. One that has heard takes over a
//! transaction and claims it, and at one that has not, the claim loses against the dead node's. It must win there as
//! soon as that one is ineffective; and so must, at all nodes alike, one that lost because it was made a moment later.
//! A node that claims what is others' takes as many keys as it may, and all of them come back when it is gone.

use std::collections::BTreeMap;

use forwarder_common::ids::{Epoch, NodeId};

use crate::store::Entry;

/// Most claims kept for each winner, the latest, and of each loser, the first: about 8 MB.
const SHADOWED: usize = 65_536;

#[derive(Debug)]
struct Kept {
    winner: NodeId,
    /// Its place in the order of the winner's.
    at: u64,
    claim: Entry,
}

#[derive(Debug, Default)]
pub(super) struct Shadowed {
    /// By key and number of the owner.
    claims: BTreeMap<(u64, u16), Kept>,
    /// By winner, in the order in which they were kept.
    order: BTreeMap<(NodeId, u64), (u64, NodeId)>,
    /// How many lost against a winner, and how many of an owner are here.
    won: BTreeMap<NodeId, usize>,
    owned: BTreeMap<NodeId, usize>,
    next: u64,
}

impl Shadowed {
    /// `claim` of `key` lost against one of `winner`; `is_version` tells whether what is kept of its owner is an
    /// earlier version of it.
    pub(super) fn keep(&mut self, winner: NodeId, key: u64, claim: Entry, is_version: impl Fn(&Entry) -> bool) {
        let place = (key, claim.owner);
        if let Some(known) = self.claims.get_mut(&(key, claim.owner.number())) {
            known.claim = if is_version(&known.claim) { known.claim.after(claim) } else { claim };
            self.move_to(winner, place);
            return;
        }
        if count(&self.owned, claim.owner) >= SHADOWED {
            return;
        }
        if count(&self.won, winner) >= SHADOWED
            && let Some((_, oldest)) = self.order.range((winner, 0)..).next()
        {
            let (key, owner) = *oldest;
            self.remove(key, owner);
        }
        *self.owned.entry(claim.owner).or_default() += 1;
        let at = self.line_up(winner, place);
        self.claims.insert((key, claim.owner.number()), Kept { winner, at, claim });
    }

    /// What is kept of an owner's claim of a key.
    pub(super) fn get(&self, key: u64, owner: NodeId) -> Option<&Entry> {
        self.claims.get(&(key, owner.number())).map(|kept| &kept.claim)
    }

    /// What is kept of a key.
    pub(super) fn of_key(&self, key: u64) -> impl Iterator<Item = &Entry> {
        self.claims.range((key, 0)..=(key, u16::MAX)).map(|(_, kept)| &kept.claim)
    }

    /// Keeps an owner's claim of a key no longer.
    pub(super) fn remove(&mut self, key: u64, owner: NodeId) -> Option<Entry> {
        let kept = self.claims.remove(&(key, owner.number()))?;
        self.order.remove(&(kept.winner, kept.at));
        take_one(&mut self.won, kept.winner);
        take_one(&mut self.owned, owner);
        Some(kept.claim)
    }

    /// Another node's claim of a key counts: what is kept of the key has lost against that one.
    pub(super) fn set_winner(&mut self, key: u64, winner: NodeId) {
        let owners: Vec<NodeId> = self.of_key(key).map(|claim| claim.owner).collect();
        owners.into_iter().for_each(|owner| self.move_to(winner, (key, owner)));
    }

    /// The keys of what lost against claims of `winner`, those that were kept first at first.
    pub(super) fn won_by(&self, winner: NodeId) -> Vec<u64> {
        self.order.range((winner, 0)..=(winner, u64::MAX)).map(|(_, (key, _))| *key).collect()
    }

    /// Frees what has ended, and what is of an owner and epoch of which nothing is kept.
    pub(super) fn trim(&mut self, now_us: u64, is_swept: impl Fn(NodeId, Epoch) -> bool) {
        let Self { claims, order, won, owned, .. } = self;
        claims.retain(|_, kept| {
            let Entry { owner, epoch, expires_us, .. } = kept.claim;
            let stays = expires_us > now_us && !is_swept(owner, epoch);
            if !stays {
                order.remove(&(kept.winner, kept.at));
                take_one(won, kept.winner);
                take_one(owned, owner);
            }
            stays
        });
    }

    fn move_to(&mut self, winner: NodeId, place: (u64, NodeId)) {
        let (key, owner) = (place.0, place.1.number());
        let Some((before, at)) = self.claims.get(&(key, owner)).map(|kept| (kept.winner, kept.at)) else { return };
        if before == winner {
            return;
        }
        self.order.remove(&(before, at));
        take_one(&mut self.won, before);
        let at = self.line_up(winner, place);
        if let Some(kept) = self.claims.get_mut(&(key, owner)) {
            (kept.winner, kept.at) = (winner, at);
        }
    }

    fn line_up(&mut self, winner: NodeId, place: (u64, NodeId)) -> u64 {
        self.next += 1;
        self.order.insert((winner, self.next), place);
        *self.won.entry(winner).or_default() += 1;
        self.next
    }
}

fn count(counts: &BTreeMap<NodeId, usize>, node: NodeId) -> usize {
    counts.get(&node).copied().unwrap_or(0)
}

fn take_one(counts: &mut BTreeMap<NodeId, usize>, node: NodeId) {
    if let Some(count) = counts.get_mut(&node) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&node);
        }
    }
}
