//! A daemon that stood still, as on a virtual machine that is moved, stopped or short of memory.
//!
//! For its peers and for its own programs it was dead, so it comes back as one that has just been started: until it knows its peers'
//! claims again they look after this node, and nobody counts as down only because this daemon was away.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use forwarder_common::ids::NodeId;

use super::mesh::REJOIN;

/// How long after the daemon goes on a link may take to notice that it has ended; one that lasts longer has not.
const NOTICE: Duration = Duration::from_millis(500);

/// What a daemon waits for that goes on.
#[derive(Debug)]
pub(super) struct Rejoin {
    begun: Instant,
    /// Peers whose links stood when the daemon did, and have not ended yet.
    linked: BTreeSet<NodeId>,
}

impl Rejoin {
    /// The daemon goes on at `now`, with links to these peers that may have ended.
    pub(super) const fn begin(linked: BTreeSet<NodeId>, now: Instant) -> Self {
        Self { begun: now, linked }
    }

    /// The link to a peer has ended; whether that is because this daemon stood still.
    pub(super) fn ended(&mut self, peer: NodeId) -> bool {
        self.linked.remove(&peer)
    }

    /// Whether the daemon has waited enough, given whether it has all peers again and knows what they claim.
    pub(super) fn is_over(&self, is_back: bool, now: Instant) -> bool {
        let waited = now.saturating_duration_since(self.begun);
        waited >= REJOIN || (is_back && (self.linked.is_empty() || waited >= NOTICE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_over_when_every_link_has_come_again_or_has_not_ended_and_after_a_while_in_any_case() {
        let (start, peer) = (Instant::now(), |number| NodeId::new(number).unwrap());
        let mut rejoin = Rejoin::begin([peer(2), peer(3)].into(), start);
        assert!(!rejoin.is_over(true, start), "the links do not know yet that they have ended");
        assert!(rejoin.ended(peer(2)) && rejoin.ended(peer(3)));
        assert!(!rejoin.ended(peer(2)) && !rejoin.ended(peer(4)), "those ended for another reason");
        assert!(!rejoin.is_over(false, start + NOTICE) && rejoin.is_over(true, start));
        assert!(rejoin.is_over(false, start + REJOIN));
        let slow = Rejoin::begin([peer(2)].into(), start);
        assert!(slow.is_over(true, start + NOTICE), "only the loop stood still");
    }
}
