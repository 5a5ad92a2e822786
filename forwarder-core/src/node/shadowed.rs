//! Shadowed claims: they lost against another node's and are kept for the moment when that one is ineffective.
//!
//! When a node dies or its proxy restarts, its peers hear of it at different times. One that has heard takes over a
//! transaction and claims it, and at one that has not, the claim loses against the dead node's. It must win there as
//! soon as that one is ineffective; and so must, at all nodes alike, one that lost because it was made a moment later.

use std::collections::{BTreeMap, VecDeque};

use forwarder_common::ids::{Epoch, NodeId};

use crate::store::Entry;

/// Most claims kept for each winner, the latest: two nodes claim one key only where a packet outran a claim, or in a
/// takeover.
const SHADOWED: usize = 1024;

/// By the winner.
#[derive(Debug, Default)]
pub(super) struct Shadowed(BTreeMap<NodeId, VecDeque<(u64, Entry)>>);

impl Shadowed {
    /// `claim` of `key` lost against one of `winner`; `is_version` tells whether what is kept of its owner is an
    /// earlier version of it.
    pub(super) fn keep(&mut self, winner: NodeId, key: u64, claim: Entry, is_version: impl Fn(&Entry) -> bool) {
        let claims = self.0.entry(winner).or_default();
        let at = claims.iter().position(|(held, other)| *held == key && other.owner == claim.owner);
        let known = at.and_then(|at| claims.remove(at)).map(|(_, known)| known).filter(is_version);
        if claims.len() >= SHADOWED {
            claims.pop_front();
        }
        claims.push_back((key, known.map_or(claim, |known| known.after(claim))));
    }

    /// Takes out what lost against claims of `winner`.
    pub(super) fn take(&mut self, winner: NodeId) -> VecDeque<(u64, Entry)> {
        self.0.remove(&winner).unwrap_or_default()
    }

    /// Frees what has ended, and what is of an epoch that is over.
    pub(super) fn trim(&mut self, now_us: u64, is_stale: impl Fn(NodeId, Epoch) -> bool) {
        for claims in self.0.values_mut() {
            claims.retain(|(_, claim)| claim.expires_us > now_us && !is_stale(claim.owner, claim.epoch));
        }
        self.0.retain(|_, claims| !claims.is_empty());
    }
}
