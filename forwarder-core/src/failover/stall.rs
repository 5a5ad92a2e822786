//! The last stall of the daemon's loop, while anything follows from it.
//!
//! Links may have ended meanwhile, and no peer is to count as down for that. After a longer stall this node was dead
//! for its peers and its own programs, so it comes back as if just started: until it knows its peers' claims again,
//! they look after this node.

use std::collections::BTreeSet;

use forwarder_common::ids::NodeId;

use super::timers::{REJOIN_US, STALL_NOTICE_US};

#[derive(Debug)]
pub(super) struct Stall {
    /// When the loop went on.
    over_us: u64,
    /// Peers whose links stood before it, and have not ended yet.
    linked: BTreeSet<NodeId>,
    /// This node was dead for all others.
    cut_off: bool,
}

impl Stall {
    /// The loop goes on at `now_us`, with links to these peers that may have ended.
    pub(super) const fn new(linked: BTreeSet<NodeId>, cut_off: bool, now_us: u64) -> Self {
        Self { over_us: now_us, linked, cut_off }
    }

    /// The loop stalled once more, for so long, before all was well again: that time does not count.
    pub(super) fn again(&mut self, linked: BTreeSet<NodeId>, cut_off: bool, stalled_us: u64) {
        self.linked.extend(linked);
        self.cut_off |= cut_off;
        self.over_us = self.over_us.saturating_add(stalled_us);
    }

    /// The link to a peer has ended, or another has taken its place; whether it stood before the stall.
    pub(super) fn ended(&mut self, peer: NodeId) -> bool {
        self.linked.remove(&peer)
    }

    /// Whether this node was dead for all others, and has to find its peers again.
    pub(super) const fn is_cut_off(&self) -> bool {
        self.cut_off
    }

    /// Whether nothing follows from it any more, given whether this node has all peers again and knows what they claim.
    pub(super) fn is_past(&self, is_back: bool, now_us: u64) -> bool {
        let waited_us = now_us.saturating_sub(self.over_us);
        let is_noticed = self.linked.is_empty() || waited_us >= STALL_NOTICE_US;
        waited_us >= REJOIN_US || (is_noticed && (is_back || !self.cut_off))
    }

    /// When it is past by time alone, or may be, in microseconds of the monotonic clock.
    pub(super) const fn due_us(&self, now_us: u64) -> u64 {
        let noticed_us = self.over_us.saturating_add(STALL_NOTICE_US);
        if noticed_us > now_us { noticed_us } else { self.over_us.saturating_add(REJOIN_US) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_US: u64 = 7_000_000;

    fn peer(number: u16) -> NodeId {
        NodeId::new(number).unwrap()
    }

    #[test]
    fn a_node_that_was_cut_off_is_back_when_every_link_is_or_has_not_ended_and_after_a_while_in_any_case() {
        let mut stall = Stall::new([peer(2), peer(3)].into(), true, START_US);
        assert!(!stall.is_past(true, START_US), "the links do not know yet that they have ended");
        assert!(stall.ended(peer(2)) && stall.ended(peer(3)));
        assert!(!stall.ended(peer(2)) && !stall.ended(peer(4)), "those ended for another reason");
        assert!(!stall.is_past(false, START_US + STALL_NOTICE_US) && stall.is_past(true, START_US));
        assert!(stall.is_past(false, START_US + REJOIN_US));
        let only_the_loop = Stall::new([peer(2)].into(), true, START_US);
        assert!(only_the_loop.is_past(true, START_US + STALL_NOTICE_US));
    }

    #[test]
    fn a_short_stall_excuses_the_ends_of_links_for_a_moment() {
        let mut stall = Stall::new([peer(2)].into(), false, START_US);
        assert!(!stall.is_past(false, START_US) && stall.ended(peer(2)) && stall.is_past(false, START_US));
        assert!(Stall::new([peer(2)].into(), false, START_US).is_past(false, START_US + STALL_NOTICE_US));
    }

    #[test]
    fn a_second_stall_lengthens_the_wait_by_itself_and_excuses_the_links_that_stood_by_then() {
        let stalled_us = 2 * REJOIN_US;
        let mut stall = Stall::new([peer(2), peer(3)].into(), true, START_US);
        assert!(stall.ended(peer(2)));
        stall.again([peer(2)].into(), false, stalled_us);
        let over_us = START_US + stalled_us;
        assert!(stall.is_cut_off() && !stall.is_past(true, over_us));
        assert!(stall.ended(peer(2)) && stall.ended(peer(3)) && stall.is_past(true, over_us));
        assert!(!stall.is_past(false, over_us) && stall.is_past(false, over_us + REJOIN_US), "not for ever");
    }

    #[test]
    fn it_is_looked_at_when_it_may_be_past() {
        let stall = Stall::new([peer(2)].into(), true, START_US);
        assert_eq!(stall.due_us(START_US), START_US + STALL_NOTICE_US);
        assert_eq!(stall.due_us(START_US + STALL_NOTICE_US), START_US + REJOIN_US);
    }
}
