//! What is known of the nodes that own claims: whether they are up, and which of their epochs are live.

use forwarder_common::ids::{Epoch, Epochs, NodeId};

/// By node id.
#[derive(Debug)]
pub(super) struct Owners {
    /// Live epochs, as far as they are known.
    epochs: Vec<Option<Epochs>>,
    up: Vec<bool>,
    /// The incarnation that has said all that it claims, in this node's count; `None`: not yet.
    complete: Vec<Option<u8>>,
    /// Claims in the store.
    held: Vec<u32>,
}

impl Owners {
    pub(super) fn new() -> Self {
        let ids = usize::from(NodeId::MAX) + 1;
        Self { epochs: vec![None; ids], up: vec![false; ids], complete: vec![None; ids], held: vec![0; ids] }
    }

    pub(super) fn set_epochs(&mut self, owner: NodeId, epochs: Epochs) {
        if let Some(live) = self.epochs.get_mut(usize::from(owner.number())) {
            *live = Some(epochs);
        }
    }

    pub(super) fn set_up(&mut self, owner: NodeId, is_up: bool) {
        if let Some(up) = self.up.get_mut(usize::from(owner.number())) {
            *up = is_up;
        }
    }

    pub(super) fn set_complete(&mut self, owner: NodeId, generation: Option<u8>) {
        if let Some(complete) = self.complete.get_mut(usize::from(owner.number())) {
            *complete = generation;
        }
    }

    /// Whether another incarnation has said all that it claims since the one of that `generation` spoke.
    pub(super) fn is_left_out(&self, owner: u16, generation: u8) -> bool {
        self.complete.get(usize::from(owner)).copied().flatten().is_some_and(|complete| complete != generation)
    }

    pub(super) fn epochs(&self) -> &[Option<Epochs>] {
        &self.epochs
    }

    /// Whether the owner is up and the epoch live.
    pub(super) fn is_effective(&self, owner: u16, epoch: Epoch) -> bool {
        let is_up = self.up.get(usize::from(owner)).copied().unwrap_or_default();
        is_up && self.live(owner).is_some_and(|live| live.contains(epoch))
    }

    /// Whether the epoch is known to be over.
    pub(super) fn is_stale(&self, owner: u16, epoch: Epoch) -> bool {
        self.live(owner).is_some_and(|live| !live.contains(epoch))
    }

    pub(super) fn held(&self, owner: u16) -> usize {
        self.held.get(usize::from(owner)).map_or(0, |held| *held as usize)
    }

    pub(super) fn add_one(&mut self, owner: u16) {
        if let Some(held) = self.held.get_mut(usize::from(owner)) {
            *held += 1;
        }
    }

    pub(super) fn take_one(&mut self, owner: u16) {
        if let Some(held) = self.held.get_mut(usize::from(owner)) {
            *held = held.saturating_sub(1);
        }
    }

    fn live(&self, owner: u16) -> Option<Epochs> {
        self.epochs.get(usize::from(owner)).copied().flatten()
    }
}
