//! Takes claims out of the kernel's table that are of epochs that are over, or of nodes that are gone.
//!
//! They are ineffective from the moment at which an epoch begins or their owner goes down, because the programs compare
//! epochs. But an epoch has one of sixteen numbers: where a proxy dies again and again, they come round while claims of
//! its first run still last. And a node that is back may count again with what an earlier daemon has said of it.

use forwarder_common::ids::{Epochs, NodeId};

use crate::dataplane::Table;
use forwarder_core::node::Node;

/// Slots looked at in one step: 8 MB of memory, some milliseconds. A table for a million claims takes two steps.
const STEP: usize = 1 << 20;

/// A walk over the table that begins wherever the last one ended.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// The epochs at the last step, and who was gone, by node id.
    epochs: Vec<Option<Epochs>>,
    gone: Vec<bool>,
    next: usize,
    /// Slots still to be looked at.
    left: usize,
}

impl Sweep {
    /// Looks at the next slots, if there has been another epoch, or a node has gone, since all were looked at.
    pub(super) fn step(&mut self, node: &Node, claims: &Table) {
        let slots = claims.slots();
        if self.epochs != node.epochs() || self.gone != node.gone() {
            (self.epochs, self.gone, self.left) = (node.epochs().to_vec(), node.gone().to_vec(), slots);
        }
        let to = slots.min(self.next + self.left.min(STEP));
        let is_swept = |owner, epoch| NodeId::new(owner).is_some_and(|owner| node.is_swept(owner, epoch));
        claims.clear(self.next..to, is_swept);
        self.left -= to - self.next;
        self.next = if to == slots { 0 } else { to };
    }
}

#[cfg(test)]
mod tests {
    use forwarder_common::{
        ids::{Epoch, Tick},
        lifetime, table,
    };
    use forwarder_core::node::{NodeSettings, Now};

    use super::*;
    use crate::dataplane::Rules;

    fn node_after(seconds: &[u64]) -> Node {
        let mut node = Node::new(NodeSettings {
            node: NodeId::new(1).unwrap(),
            epochs: Epochs::EMPTY.with(Epoch::new(5)),
            underlay: "10.9.0.1".parse().unwrap(),
            listen: "10.9.0.1:7470".parse().unwrap(),
            lifetimes: lifetime::LONGEST,
            claims: 1024,
            seed: 1,
            services: Vec::new(),
            must_equal: Vec::new(),
        });
        for seconds in seconds {
            node.handle_timeout(Now { monotonic_us: seconds * 1_000_000, unix_us: 0 });
        }
        node
    }

    #[test]
    fn claims_that_an_earlier_daemon_has_left_of_a_node_that_is_gone_are_taken_out() {
        let (claims, now) = (Table::anonymous(8), Tick::new(9));
        let rules = Rules { now, lifetimes: &lifetime::LONGEST, live: &|_| Epochs::EMPTY };
        for (key, owner) in [(1_u64, 1), (2, 2), (3, 3)] {
            let entry = table::Entry::new(key << 40, owner, 5, now.after(30_000));
            assert!(claims.set(key << 40, entry, None, &rules));
        }
        let mut sweep = Sweep::default();
        let node = NodeId::new(1).unwrap();
        sweep.step(&node_after(&[100, 159]), &claims);
        assert_eq!(claims.live(node, now), (1, 2), "they may be linked soon");
        sweep.step(&node_after(&[100, 160]), &claims);
        assert_eq!(claims.live(node, now), (1, 0));
    }
}
