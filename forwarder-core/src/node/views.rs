//! What can be asked of a node: for `status`, the metrics, the slow path and the tests.

use forwarder_common::ids::{Epoch, NodeId};

use super::{CoreCounters, Node, Now, PeerView};
use crate::ages::AgeSummary;
use crate::store::Entry;
use crate::wire::Hello;

impl Node {
    /// The live claim of a key: its owner, epoch, claim time and end.
    #[must_use]
    pub fn claim(&self, key: u64, now: Now) -> Option<Entry> {
        self.store.live(key, now.monotonic_us)
    }

    /// This node's epoch.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.settings.epoch
    }

    /// The present epochs of all nodes, by their ids, as far as they are known.
    #[must_use]
    pub fn epochs(&self) -> &[Option<Epoch>] {
        self.store.epochs()
    }

    /// Whether a node is known to have begun another epoch.
    #[must_use]
    pub fn is_over(&self, owner: NodeId, epoch: Epoch) -> bool {
        self.store.is_over(owner, epoch)
    }

    /// Claims held, those of peers included; some seconds of ended ones may be among them.
    #[must_use]
    pub const fn claims(&self) -> usize {
        self.store.len()
    }

    /// Claims that wait to be sent, those that only some peers have not got not counted.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.outbox.waiting(&self.log)
    }

    /// The members of the cluster that gossip says are alive, linked or not; this node is not counted.
    #[must_use]
    pub fn members(&self) -> usize {
        self.members.alive()
    }

    /// Every peer that ever introduced itself, in the order of their ids.
    pub fn peers(&self) -> impl Iterator<Item = PeerView> {
        self.peers.iter().filter_map(|(node, peer)| {
            let Hello { state, epoch, underlay, listen, .. } = peer.hello?;
            let claims = self.store.held_by(*node);
            Some(PeerView { node: *node, up: peer.up, state, epoch, underlay, listen, claims })
        })
    }

    /// The epochs under which peers have known earlier runs of this node's daemon: claims of them may still stand there.
    pub fn earlier_epochs(&self) -> impl Iterator<Item = Epoch> {
        (0..16).filter(|number| self.earlier_epochs >> number & 1 != 0).map(Epoch::new)
    }

    /// How old new claims were when they arrived, by the owner's and this host's clock.
    #[must_use]
    pub fn ages(&self) -> AgeSummary {
        self.ages.summary()
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> CoreCounters {
        CoreCounters { claims_evicted: self.store.evicted(), ..self.counters }
    }
}
