//! Takes claims of epochs that are over out of the kernel's table.
//!
//! They are ineffective from the moment at which an epoch begins, because the programs compare epochs. But an epoch has
//! one of sixteen numbers: where a proxy dies again and again, they come round while claims of its first run still
//! last.

use forwarder_common::ids::{Epochs, NodeId};

use crate::dataplane::Table;
use forwarder_core::node::Node;

/// Slots looked at in one step: 8 MB of memory, some milliseconds. A table for a million claims takes two steps.
const STEP: usize = 1 << 20;

/// A walk over the table that begins wherever the last one ended.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// The epochs at the last step, by node id.
    epochs: Vec<Option<Epochs>>,
    next: usize,
    /// Slots still to be looked at.
    left: usize,
}

impl Sweep {
    /// Looks at the next slots, if there has been another epoch since all were looked at.
    pub(super) fn step(&mut self, node: &Node, claims: &Table) {
        let slots = claims.slots();
        if self.epochs != node.epochs() {
            (self.epochs, self.left) = (node.epochs().to_vec(), slots);
        }
        let to = slots.min(self.next + self.left.min(STEP));
        let is_stale = |owner, epoch| NodeId::new(owner).is_some_and(|owner| node.is_stale(owner, epoch));
        claims.clear(self.next..to, is_stale);
        self.left -= to - self.next;
        self.next = if to == slots { 0 } else { to };
    }
}
