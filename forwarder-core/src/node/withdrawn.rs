//! Claims that their owners have withdrawn, because an earlier one of another node counts: this node's own, for peers
//! that have not heard of it yet, and those of peers, against earlier versions that come after the withdrawal.

use std::collections::{BTreeMap, VecDeque};

use forwarder_common::ids::{Epoch, NodeId};
use forwarder_common::rest::Purpose;

use crate::store::Version;

/// How long a peer's withdrawal is remembered, in microseconds: much longer than any message is on its way.
const REMEMBERED_US: u64 = 60_000_000;
/// Most of them of one peer; one that withdraws more may be believed what it has withdrawn.
const REMEMBERED: usize = 65_536;

/// A claim of this node that it has withdrawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Withdrawal {
    /// In the log.
    pub(super) number: u64,
    pub(super) epoch: Epoch,
    pub(super) purpose: Purpose,
    /// When the claim would have ended: nobody holds it after that.
    pub(super) until_us: u64,
}

/// Of a peer: versions by key, and in the order in which they were heard.
#[derive(Debug, Default)]
struct Of {
    versions: BTreeMap<u64, Version>,
    order: VecDeque<(u64, u64)>,
}

#[derive(Debug, Default)]
pub(super) struct Withdrawn {
    own: BTreeMap<u64, Withdrawal>,
    heard: BTreeMap<NodeId, Of>,
}

impl Withdrawn {
    /// This node has withdrawn its claim of a key.
    pub(super) fn put(&mut self, key: u64, withdrawal: Withdrawal) {
        self.own.insert(key, withdrawal);
    }

    /// This node's withdrawal of a key.
    pub(super) fn get(&self, key: u64) -> Option<Withdrawal> {
        self.own.get(&key).copied()
    }

    /// This node claims the key again.
    pub(super) fn remove(&mut self, key: u64) {
        self.own.remove(&key);
    }

    /// A peer has withdrawn its claim of a key.
    pub(super) fn hear(&mut self, peer: NodeId, key: u64, version: Version, now_us: u64) {
        let of = self.heard.entry(peer).or_default();
        if of.order.len() < REMEMBERED {
            let known = of.versions.entry(key).or_insert(version);
            *known = if version.order(*known).is_gt() { version } else { *known };
            of.order.push_back((now_us.saturating_add(REMEMBERED_US), key));
        }
    }

    /// Whether a peer has withdrawn this version of its claim of a key, as far as is remembered.
    pub(super) fn covers(&self, peer: NodeId, key: u64, version: Version) -> bool {
        let withdrawn = self.heard.get(&peer).and_then(|of| of.versions.get(&key));
        withdrawn.is_some_and(|withdrawn| version.order(*withdrawn).is_le())
    }

    /// Forgets what nobody needs any more.
    pub(super) fn trim(&mut self, now_us: u64) {
        self.own.retain(|_, withdrawal| withdrawal.until_us > now_us);
        for of in self.heard.values_mut() {
            while of.order.front().is_some_and(|(until_us, _)| *until_us <= now_us) {
                let Some((_, key)) = of.order.pop_front() else { break };
                // One that was heard twice is forgotten with the first time.
                of.versions.remove(&key);
            }
        }
        self.heard.retain(|_, of| !of.order.is_empty());
    }
}
