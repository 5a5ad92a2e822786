//! Claims that lost against another node's, kept for the moment when that one is void.
//!
//! When a node dies or its proxy restarts, its peers hear of it at different times. One that has heard takes over a transaction and
//! claims it, and at one that has not, the claim loses against the dead node's. It must stand there as soon as that is void; and so
//! must, at all nodes alike, one that lost because it was made a moment later.

use std::collections::{BTreeMap, VecDeque};

use forwarder_common::ids::{Epoch, NodeId};

use super::asks::send_asks;
use super::{Node, Now};
use crate::store::{Entry, Merged};
use crate::wire::Ask;

/// Most claims kept for each winner, the latest: two nodes claim one key only where a packet outran a claim, or in a takeover.
const BEATEN: usize = 1024;
/// The number of an ask whose answer nobody waits for.
const NOBODYS: u64 = u64::MAX;

#[derive(Debug, Default)]
pub(super) struct Beaten(BTreeMap<NodeId, VecDeque<(u64, Entry)>>);

impl Beaten {
    /// `claim` of `key` lost against one of `winner`.
    pub(super) fn keep(&mut self, winner: NodeId, key: u64, claim: Entry) {
        let known = self.find(winner, key, claim.owner).filter(|known| known.is_same_claim(&claim));
        let claims = self.0.entry(winner).or_default();
        claims.retain(|(held, other)| *held != key || other.owner != claim.owner);
        if claims.len() >= BEATEN {
            claims.pop_front();
        }
        claims.push_back((key, known.map_or(claim, |known| known.after(claim))));
    }

    /// The claim of `key` by `owner` that lost against one of `winner`.
    pub(super) fn find(&self, winner: NodeId, key: u64, owner: NodeId) -> Option<Entry> {
        let mut claims = self.0.get(&winner)?.iter();
        claims.find(|(held, other)| *held == key && other.owner == owner).map(|(_, claim)| *claim)
    }

    /// Frees what has ended, and what is of an epoch that is over.
    pub(super) fn trim(&mut self, now_us: u64, is_over: impl Fn(NodeId, Epoch) -> bool) {
        for claims in self.0.values_mut() {
            claims.retain(|(_, claim)| claim.expires_us > now_us && !is_over(claim.owner, claim.epoch));
        }
        self.0.retain(|_, claims| !claims.is_empty());
    }
}

impl Node {
    /// Keeps what lost in a merge, unless it is void already.
    pub(super) fn keep_loser(&mut self, key: u64, claim: Entry, merged: Merged, now: Now) {
        let (winner, loser) = match merged {
            Merged::Won(loser) => (claim.owner, loser),
            Merged::Lost(winner) => (winner, claim),
            Merged::New | Merged::Known | Merged::Refused => return,
        };
        if winner != loser.owner && loser.expires_us > now.monotonic_us && !self.is_void(loser.owner, loser.epoch) {
            self.beaten.keep(winner, key, loser);
        }
    }

    /// The daemon of `winner` is another one in the same epoch and may have forgotten claims of which not all nodes have heard. It is
    /// asked for those that won against this node's own: so it looks in its kernel's table and tells everybody.
    pub(super) fn remind(&mut self, winner: NodeId, now: Now) {
        let Some(claims) = self.beaten.0.get(&winner) else { return };
        let is_mine = |claim: &Entry| claim.owner == self.settings.node && claim.expires_us > now.monotonic_us;
        let mine = claims.iter().filter(|(_, claim)| is_mine(claim));
        let asks = mine.map(|(key, _)| Ask { number: NOBODYS, request_key: *key, reply_key: 0 });
        send_asks(&asks.collect::<Vec<_>>(), &[winner], &mut self.outputs, &mut self.counters);
    }

    /// The claims of `winner` may be void now: what has lost against them is merged once more.
    pub(super) fn revive_beaten(&mut self, winner: NodeId, now: Now) {
        for (key, claim) in self.beaten.0.remove(&winner).unwrap_or_default() {
            if claim.expires_us <= now.monotonic_us || self.is_void(claim.owner, claim.epoch) {
                continue;
            }
            // What was heard of it since is the later word.
            let heard = self.store.live(key, now.monotonic_us).filter(|held| held.is_same_claim(&claim));
            let Entry { expires_us, word, .. } = heard.unwrap_or(claim);
            let claim = Entry { expires_us, word, ..claim };
            let merged = self.merge(key, claim, now);
            self.keep_loser(key, claim, merged, now);
            if matches!(merged, Merged::New | Merged::Won(_)) {
                self.write(key, merged == Merged::New, now);
                if claim.owner == self.settings.node {
                    self.replicate(key, now);
                }
            }
        }
    }
}
