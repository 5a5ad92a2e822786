//! What is known of the nodes that own claims: whether they are up, and which of their epochs are live.

use forwarder_common::{
    claim,
    ids::{Epoch, Epochs, NodeId},
};

/// An owner that has been down for so long, in microseconds, is gone: as long as its programs may speak for it without
/// its daemon.
const GONE_US: u64 = 60_000_000;

/// By node id.
#[derive(Debug)]
pub(super) struct Owners {
    /// Live epochs, as far as they are known.
    epochs: Vec<Option<Epochs>>,
    up: Vec<bool>,
    /// Since when each is known to be down, in microseconds of the monotonic clock.
    down_since_us: Vec<Option<u64>>,
    gone: Vec<bool>,
    /// The incarnation that has said all that it claims, in this node's count; `None`: not yet.
    complete: Vec<Option<u8>>,
    /// Claims in the store.
    held: Vec<u32>,
}

impl Owners {
    pub(super) fn new() -> Self {
        let ids = usize::from(NodeId::MAX) + 1;
        Self {
            epochs: vec![None; ids],
            up: vec![false; ids],
            down_since_us: vec![None; ids],
            gone: vec![false; ids],
            complete: vec![None; ids],
            held: vec![0; ids],
        }
    }

    pub(super) fn set_epochs(&mut self, owner: NodeId, epochs: Epochs) {
        if let Some(live) = self.epochs.get_mut(usize::from(owner.number())) {
            *live = Some(epochs);
        }
    }

    pub(super) fn set_up(&mut self, owner: NodeId, is_up: bool) {
        let at = usize::from(owner.number());
        if let (Some(up), Some(gone)) = (self.up.get_mut(at), self.gone.get_mut(at)) {
            *up = is_up;
            *gone &= !is_up;
        }
    }

    /// Looks who is down, and since when: who has been for [`GONE_US`] is gone. One that nobody has heard of since this
    /// daemon's start is down from the first look on.
    pub(super) fn look(&mut self, now_us: u64) {
        let owners = self.up.iter().zip(&mut self.down_since_us).zip(&mut self.gone);
        for ((is_up, since_us), is_gone) in owners {
            if *is_up {
                *since_us = None;
            } else {
                *is_gone = now_us.saturating_sub(*since_us.get_or_insert(now_us)) >= GONE_US;
            }
        }
    }

    /// Which of them are gone, as of the last look.
    pub(super) fn gone(&self) -> &[bool] {
        &self.gone
    }

    /// Whether no claim of the owner and epoch is kept: the epoch is over, or the owner is gone. It says all its claims
    /// anew when it is back.
    pub(super) fn is_swept(&self, owner: u16, epoch: Epoch) -> bool {
        self.is_stale(owner, epoch) || self.gone.get(usize::from(owner)).copied().unwrap_or_default()
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
        claim::live(is_up, self.live(owner).unwrap_or(Epochs::EMPTY)).contains(epoch)
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
