//! A daemon that stood still, as one that is stopped or short of memory.
//!
//! Its links may have ended meanwhile, and nobody is to count as down for that. After a longer stand it was dead for its peers and its
//! own programs, so it comes back as one that has just been started: until it knows its peers' claims again they look after this node.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use forwarder_common::ids::NodeId;

use super::mesh::REJOIN;

/// A stand from here on may have ended links: a second without a word, of which the pause between two keep-alives had gone before.
pub(super) const SHORT: Duration = Duration::from_millis(750);
/// How long after the daemon goes on a link may take to notice that it has ended; one that lasts longer has not.
const NOTICE: Duration = Duration::from_millis(500);

/// The last stand, while anything follows from it.
#[derive(Debug)]
pub(super) struct Stand {
    over: Instant,
    /// Peers whose links stood when the daemon did, and have not ended yet.
    linked: BTreeSet<NodeId>,
    /// The daemon was dead for all others.
    is_death: bool,
}

impl Stand {
    /// The daemon goes on at `now`, with links to these peers that may have ended.
    pub(super) const fn new(linked: BTreeSet<NodeId>, is_death: bool, now: Instant) -> Self {
        Self { over: now, linked, is_death }
    }

    /// It stood still once more, for so long, before all was well again: that time does not count.
    pub(super) fn again(&mut self, linked: BTreeSet<NodeId>, is_death: bool, stood: Duration) {
        self.linked.extend(linked);
        self.is_death |= is_death;
        self.over += stood;
    }

    /// The link to a peer has ended, or another has taken its place; whether it stood when the daemon did.
    pub(super) fn ended(&mut self, peer: NodeId) -> bool {
        self.linked.remove(&peer)
    }

    /// Whether the daemon was dead for all others, and has to find its peers again.
    pub(super) const fn is_death(&self) -> bool {
        self.is_death
    }

    /// Whether nothing follows from it any more, given whether this node has all peers again and knows what they claim.
    pub(super) fn is_past(&self, is_back: bool, now: Instant) -> bool {
        let waited = now.saturating_duration_since(self.over);
        let is_noticed = self.linked.is_empty() || waited >= NOTICE;
        waited >= REJOIN || (is_noticed && (is_back || !self.is_death))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u16) -> NodeId {
        NodeId::new(number).unwrap()
    }

    #[test]
    fn a_death_is_past_when_every_link_has_come_again_or_has_not_ended_and_after_a_while_in_any_case() {
        let start = Instant::now();
        let mut stand = Stand::new([peer(2), peer(3)].into(), true, start);
        assert!(!stand.is_past(true, start), "the links do not know yet that they have ended");
        assert!(stand.ended(peer(2)) && stand.ended(peer(3)));
        assert!(!stand.ended(peer(2)) && !stand.ended(peer(4)), "those ended for another reason");
        assert!(!stand.is_past(false, start + NOTICE) && stand.is_past(true, start));
        assert!(stand.is_past(false, start + REJOIN));
        let only_the_loop = Stand::new([peer(2)].into(), true, start);
        assert!(only_the_loop.is_past(true, start + NOTICE));
    }

    #[test]
    fn a_short_stand_excuses_the_ends_of_links_for_a_moment() {
        let start = Instant::now();
        let mut stand = Stand::new([peer(2)].into(), false, start);
        assert!(!stand.is_past(false, start) && stand.ended(peer(2)) && stand.is_past(false, start));
        assert!(Stand::new([peer(2)].into(), false, start).is_past(false, start + NOTICE));
    }

    #[test]
    fn a_second_stand_lengthens_the_wait_by_itself_and_excuses_the_links_that_stood_by_then() {
        let (start, stood) = (Instant::now(), 2 * REJOIN);
        let mut stand = Stand::new([peer(2), peer(3)].into(), true, start);
        assert!(stand.ended(peer(2)));
        stand.again([peer(2)].into(), false, stood);
        assert!(stand.is_death() && !stand.is_past(true, start + stood));
        assert!(stand.ended(peer(2)) && stand.ended(peer(3)) && stand.is_past(true, start + stood));
        assert!(!stand.is_past(false, start + stood) && stand.is_past(false, start + stood + REJOIN), "not for ever");
    }
}
