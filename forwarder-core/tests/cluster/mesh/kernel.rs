//! What the kernel of one host has been told, and what it knows of this host's own claims.

use std::collections::{BTreeMap, BTreeSet};

use forwarder_common::ids::{Epoch, Epochs, NodeId};
use forwarder_common::rest::{Class, KeyKind, Purpose};
use forwarder_core::failover::Introduction;
use forwarder_core::node::{LocalClaim, MapWrite};

use super::underlay;

#[derive(Default)]
pub(crate) struct Kernel {
    /// Owner, epoch and the lifetime that was left when it was written.
    pub(crate) claims: BTreeMap<u64, (NodeId, Epoch, u64)>,
    /// When those end that were written.
    ends_us: BTreeMap<u64, u64>,
    /// Keys whose claims of this host were made by replies.
    answered: BTreeSet<u64>,
    pub(crate) up: BTreeMap<NodeId, (bool, Epochs)>,
    pub(crate) claim_writes: usize,
    pub(crate) peer_writes: usize,
    /// Every answer: its ticket, whether it said owned, and when.
    pub(crate) answers: Vec<(u64, bool, u64)>,
}

impl Kernel {
    /// The egress program claims a key.
    pub(crate) fn claim(&mut self, key: u64, owner: NodeId, epoch: Epoch, remaining_ms: u64, now_us: u64) {
        self.put(key, owner, epoch, remaining_ms, now_us);
    }

    /// The same for a reply to a request that this host has not sent on.
    pub(crate) fn claim_by_reply(&mut self, key: u64, owner: NodeId, epoch: Epoch, remaining_ms: u64, now_us: u64) {
        self.claim(key, owner, epoch, remaining_ms, now_us);
        self.answered.insert(key);
    }

    /// Of what kind the daemon finds a key of this host's claims.
    pub(crate) fn kind(&self, key: u64) -> KeyKind {
        if self.answered.contains(&key) { KeyKind::Answered } else { KeyKind::Request }
    }

    /// What a daemon that takes the maps over finds in them of its own node: the claims in `epoch` that have not ended.
    pub(crate) fn own_claims(&self, node: NodeId, epoch: Epoch, now_us: u64) -> Vec<LocalClaim> {
        let own = self.claims.iter().filter(|(_, (owner, of, _))| (*owner, *of) == (node, epoch));
        let left = own.map(|(key, _)| (*key, self.end_us(*key).unwrap_or(0).saturating_sub(now_us).div_ceil(1000)));
        let claim = |(key, remaining_ms)| {
            let purpose = Purpose::of(self.kind(key), Class::Short);
            LocalClaim { key, claimed_at_unix_us: 0, remaining_ms, epoch, purpose }
        };
        left.map(claim).filter(|claim| claim.remaining_ms > 0).collect()
    }

    /// Whether packets would be sent to the owner of a claim of that epoch.
    pub(crate) fn is_live(&self, owner: NodeId, epoch: Epoch) -> bool {
        self.up.get(&owner).is_some_and(|(up, epochs)| *up && epochs.contains(epoch))
    }

    /// When the claim of a key ends.
    pub(crate) fn end_us(&self, key: u64) -> Option<u64> {
        self.ends_us.get(&key).copied()
    }

    pub(crate) fn write(&mut self, write: MapWrite, now_us: u64) {
        match write {
            MapWrite::Claim { key, owner, epoch, remaining_ms, .. } => {
                assert!(remaining_ms > 0);
                self.put(key, owner, epoch, remaining_ms, now_us);
                self.claim_writes += 1;
            }
            MapWrite::End { key, epoch, was_ms, remaining_ms, .. } => {
                let &(owner, of, _) = self.claims.get(&key).unwrap();
                let left_ms = self.end_us(key).unwrap_or(0).saturating_sub(now_us).div_ceil(1000);
                if of == epoch && left_ms <= was_ms {
                    self.put(key, owner, epoch, remaining_ms, now_us);
                }
            }
        }
    }

    /// A peer has said this of itself, on a link that stands.
    pub(crate) fn introduce(&mut self, peer: NodeId, said: &Introduction) {
        assert_eq!(said.underlay, underlay(peer));
        self.up.insert(peer, (true, said.epochs));
        self.peer_writes += 1;
    }

    /// A peer is down: here that is when its link is.
    pub(crate) fn take_down(&mut self, peer: NodeId) {
        if let Some((up, _)) = self.up.get_mut(&peer) {
            *up = false;
        }
    }

    fn put(&mut self, key: u64, owner: NodeId, epoch: Epoch, remaining_ms: u64, now_us: u64) {
        self.claims.insert(key, (owner, epoch, remaining_ms));
        self.ends_us.insert(key, now_us + remaining_ms * 1000);
    }
}
