//! What the daemon lends to its parts for one turn, and what they see of claims and peers.

use forwarder_common::{
    ids::{Epochs, NodeId, Tick},
    question::{self, Answer, Held},
    verdict::Found,
};
use forwarder_core::{
    failover::Failover,
    node::{Node, Now},
    slowpath::View,
};

use crate::{
    config::Config,
    dataplane::{self, Dataplane},
    tunnel::Question,
};

/// What the daemon lends to the slow path for one turn.
pub(super) struct Context<'a> {
    pub(super) config: &'a Config,
    pub(super) dataplane: &'a mut Dataplane,
    pub(super) failover: &'a Failover,
    pub(super) node: &'a mut Node,
    pub(super) now: Now,
}

/// What the slow path sees of claims and peers.
pub(super) struct ClaimView<'a> {
    pub(super) node: NodeId,
    pub(super) dataplane: &'a Dataplane,
    pub(super) failover: &'a Failover,
}

impl ClaimView<'_> {
    /// The epochs of a node whose claims count, this one or a peer: none of one that is down. `None`: nothing is known
    /// of it.
    pub(super) fn live_epochs(&self, id: u16) -> Option<Epochs> {
        match NodeId::new(id)? {
            me if me == self.node => Some(self.dataplane.epochs()),
            peer => self.failover.live_epochs(peer),
        }
    }
}

impl Context<'_> {
    pub(super) const fn claim_view(&self) -> ClaimView<'_> {
        ClaimView { node: self.config.node, dataplane: self.dataplane, failover: self.failover }
    }

    /// What this node's programs would answer.
    pub(super) fn answer(&self, question: &Question) -> Answer {
        let (view, now) = (self.claim_view(), Tick::at(dataplane::monotonic_ns()));
        let held = question::held(question.request_key, question.reply_key, |key, kind| {
            let entry = self.dataplane.claim(key).filter(|_| view.owner(key) == Found::Own)?;
            Some(Held { kind, epoch: entry.epoch(), ticks: entry.remaining(now) as u16 })
        });
        Answer { held, epochs: self.dataplane.epochs(), has_daemon: true }
    }
}

impl View for ClaimView<'_> {
    fn owner(&self, key: u64) -> Found {
        let now = Tick::at(dataplane::monotonic_ns());
        Found::of(self.dataplane.claim(key), self.node, now, |id| self.live_epochs(id).unwrap_or(Epochs::EMPTY))
    }

    fn serves(&self, node: NodeId, service: usize) -> bool {
        let said = self.failover.peer(node).and_then(|peer| peer.introduction);
        said.zip(u8::try_from(service).ok()).is_none_or(|(said, index)| said.served.has(index))
    }

    fn peer_up(&self) -> bool {
        self.failover.any_up()
    }

    fn successor(&self, request_key: u64) -> Option<NodeId> {
        if self.failover.diverts() { self.failover.successor(request_key) } else { None }
    }

    fn reassembler(&self, slot: usize) -> Option<NodeId> {
        self.failover.reassembler(slot).filter(|node| *node != self.node)
    }
}
