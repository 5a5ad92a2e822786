//! What this node takes its peers for.
//!
//! A peer introduces itself on its link, so it is up while it has one. A link that ends says more or less of its peer:
//! where its host seems to go on, the peer stays up for a while, for its programs and its proxy do; where it may be
//! dead, it is down at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use forwarder_common::{
    abi::Served,
    ids::{Epochs, NodeId},
};

use super::last::Candidate;
use super::timers::{AWAY_US, LEASE_TAIL_US, PATH_US, REJOIN_US};
use crate::state::State;

/// What the end of a link says of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEnd {
    /// The peer is kept out, or at fault.
    Gone,
    /// The peer is dead or cut off, or its daemon is, or this host was: nothing was heard of it for
    /// [`super::timers::LINK_IDLE_US`]. Its programs can say more.
    Silent,
    /// The peer's daemon closed the link in order, as one does that is stopped or restarted. Its host may be well.
    Leaving,
    /// The peer is well, daemon and all: it has another link to this node, or it has forgotten this one and says so
    /// (RFC 9000 §10.3), as it does when it has not heard of this host. A daemon that was restarted cannot say that.
    /// One that has closed the link, and whose close was lost, can.
    Well,
}

/// How a peer is, as this node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing was heard of it since this daemon started.
    Unknown,
    /// It has introduced itself, and its link stands.
    Up,
    /// Its link has ended, but it seems to go on: it counts as up.
    Grace {
        /// Until then, in microseconds of the monotonic clock; its programs' answers make it later.
        until_us: u64,
        /// Its daemon goes on as well, so that it can be a reassembler or a successor.
        has_daemon: bool,
    },
    /// It has no link, and counts for nobody.
    Down,
}

impl Phase {
    /// Whether packets are sent to it, and its claims count.
    #[must_use]
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Up | Self::Grace { .. })
    }
}

/// What a peer has said of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// How it is.
    pub state: State,
    /// A proxy of its does not answer, though its sockets are there.
    pub is_silent: bool,
    /// Its live epochs.
    pub epochs: Epochs,
    /// Where it takes tunnel packets.
    pub underlay: IpAddr,
    /// Which of this node's services it has as well.
    pub served: Served,
}

/// One peer.
#[derive(Clone, Debug)]
pub struct Peer {
    /// How it is.
    pub phase: Phase,
    /// What it said last; `None`: nothing yet.
    pub introduction: Option<Introduction>,
    /// The other end of its last link, or of its last attempt.
    pub link: Option<SocketAddr>,
    /// Its link stands.
    pub is_linked: bool,
    /// Why its last link ended, or why none comes up, while it has none.
    pub reason: Option<String>,
    /// Since when it is linked or not, in microseconds of the monotonic clock.
    pub since_us: u64,
}

/// All peers of which anything was ever heard.
#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: BTreeMap<NodeId, Peer>,
    /// A phase, a state or an epoch may be another one than when [`Self::take_changed`] was last asked.
    is_changed: bool,
    /// What [`Self::due_us`] and [`Self::in_grace`] say: they are asked for in each turn of the loop.
    due_us: Option<u64>,
    in_grace: usize,
}

impl Peers {
    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeId, &Peer)> {
        self.peers.iter().map(|(id, peer)| (*id, peer))
    }

    pub(super) fn get(&self, id: NodeId) -> Option<&Peer> {
        self.peers.get(&id)
    }

    fn entry(&mut self, id: NodeId, now_us: u64) -> &mut Peer {
        self.peers.entry(id).or_insert(Peer {
            phase: Phase::Unknown,
            introduction: None,
            link: None,
            is_linked: false,
            reason: None,
            since_us: now_us,
        })
    }

    /// A link stands. A peer in grace is up again: it has said nothing else than before.
    pub(super) fn linked(&mut self, id: NodeId, address: SocketAddr, now_us: u64) {
        let peer = self.entry(id, now_us);
        (peer.link, peer.is_linked, peer.reason, peer.since_us) = (Some(address), true, None, now_us);
        if matches!(peer.phase, Phase::Grace { .. }) {
            peer.phase = Phase::Up;
        }
        self.changed();
    }

    /// The peer has introduced itself on its link, or says something else than before.
    pub(super) fn introduced(&mut self, id: NodeId, introduction: Introduction, now_us: u64) {
        let peer = self.entry(id, now_us);
        peer.introduction = Some(introduction);
        if peer.is_linked {
            peer.phase = Phase::Up;
        }
        self.changed();
    }

    /// A link is gone; whether that takes the peer down at once.
    pub(super) fn unlinked(&mut self, id: NodeId, end: LinkEnd, reason: String, now_us: u64) -> bool {
        let peer = self.entry(id, now_us);
        (peer.is_linked, peer.reason, peer.since_us) = (false, Some(reason), now_us);
        let until_us = |wait_us| now_us.saturating_add(wait_us);
        peer.phase = match (peer.phase, end) {
            (Phase::Unknown | Phase::Down, LinkEnd::Gone | LinkEnd::Silent | LinkEnd::Leaving | LinkEnd::Well) => {
                peer.phase
            }
            (_, LinkEnd::Gone) => Phase::Down,
            (_, LinkEnd::Silent) => Phase::Grace { until_us: until_us(PATH_US), has_daemon: false },
            (_, LinkEnd::Leaving) => Phase::Grace { until_us: until_us(REJOIN_US), has_daemon: false },
            (_, LinkEnd::Well) => Phase::Grace { until_us: until_us(REJOIN_US), has_daemon: true },
        };
        let is_down = !peer.phase.is_up();
        self.changed();
        is_down
    }

    /// A peer without a link has none because it speaks another version; whether that is news.
    pub(super) fn has_other_version(&mut self, id: NodeId, address: SocketAddr, reason: &str, now_us: u64) -> bool {
        let peer = self.entry(id, now_us);
        if peer.is_linked || peer.reason.as_deref() == Some(reason) {
            return false;
        }
        (peer.link, peer.reason) = (Some(address), Some(reason.to_owned()));
        true
    }

    /// The programs of a peer have answered through the tunnel; whether that says something new of it.
    pub(super) fn answered(&mut self, id: NodeId, epochs: Epochs, has_daemon: bool, now_us: u64) -> bool {
        let Some(peer) = self.peers.get_mut(&id) else { return false };
        let since_us = now_us.saturating_sub(peer.since_us);
        let (Phase::Grace { until_us, has_daemon: had_daemon }, Some(said)) = (&mut peer.phase, &mut peer.introduction)
        else {
            return false;
        };
        if since_us >= AWAY_US {
            return false;
        }
        *until_us = (*until_us).max(now_us.saturating_add(PATH_US)).min(peer.since_us.saturating_add(AWAY_US));
        // The lease of one that was killed goes on for a moment.
        let is_sure = since_us > LEASE_TAIL_US;
        let is_new = said.epochs != epochs || (is_sure && *had_daemon != has_daemon);
        said.epochs = epochs;
        if is_sure {
            *had_daemon = has_daemon;
        }
        self.changed();
        is_new
    }

    /// Nobody could come back for so long.
    pub(super) fn lengthen_grace(&mut self, by_us: u64) {
        for peer in self.peers.values_mut() {
            if let Phase::Grace { until_us, .. } = &mut peer.phase {
                *until_us = until_us.saturating_add(by_us);
            }
        }
        self.changed();
    }

    /// Takes down and gives the peers whose links have not come back in time.
    pub(super) fn end_grace(&mut self, now_us: u64) -> Vec<NodeId> {
        if self.due_us.is_none_or(|due_us| due_us > now_us) {
            return Vec::new();
        }
        let is_over = |peer: &Peer| matches!(peer.phase, Phase::Grace { until_us, .. } if until_us <= now_us);
        let over = self.peers.iter_mut().filter(|(_, peer)| is_over(peer));
        let ended = over.map(|(id, peer)| {
            peer.phase = Phase::Down;
            *id
        });
        let ended = ended.collect();
        self.changed();
        ended
    }

    /// When the next grace ends, in microseconds of the monotonic clock.
    pub(super) const fn due_us(&self) -> Option<u64> {
        self.due_us
    }

    /// How many are in grace.
    pub(super) const fn in_grace(&self) -> usize {
        self.in_grace
    }

    /// Whether something may have changed by which reassemblers and successors are chosen, since this was last asked.
    pub(super) const fn take_changed(&mut self) -> bool {
        std::mem::replace(&mut self.is_changed, false)
    }

    fn changed(&mut self) {
        let until = |peer: &Peer| match peer.phase {
            Phase::Grace { until_us, .. } => Some(until_us),
            Phase::Unknown | Phase::Up | Phase::Down => None,
        };
        let graces = self.peers.values().filter_map(until);
        (self.is_changed, self.in_grace, self.due_us) = (true, graces.clone().count(), graces.min());
    }

    /// The peers whose links stand.
    pub(super) fn linked_ones(&self) -> BTreeSet<NodeId> {
        self.peers.iter().filter(|(_, peer)| peer.is_linked).map(|(id, _)| *id).collect()
    }

    pub(super) fn any_up(&self) -> bool {
        self.peers.values().any(|peer| peer.phase.is_up())
    }

    /// The peers with a daemon that can finish what this node's programs cannot: the reassemblers, beside this node.
    pub(super) fn with_daemon(&self) -> impl Iterator<Item = (NodeId, &Introduction)> {
        let has_daemon = |peer: &Peer| matches!(peer.phase, Phase::Up | Phase::Grace { has_daemon: true, .. });
        self.iter()
            .filter(move |(_, peer)| has_daemon(peer))
            .filter_map(|(id, peer)| Some((id, peer.introduction.as_ref()?)))
    }

    /// The peers that are up, or could be in spite of their silent proxies, and that have all of these services
    /// of this node's.
    pub(super) fn candidates(&self, services: Served) -> impl Iterator<Item = Candidate> {
        self.iter().filter_map(move |(id, peer)| {
            let said = peer.introduction.as_ref().filter(|_| peer.phase.is_up())?;
            let is_out = match said.state {
                State::Up => false,
                // Nobody would take one without a link back into service.
                State::ProxyDown if said.is_silent && peer.phase == Phase::Up => true,
                State::ProxyDown | State::Joining | State::Draining => return None,
            };
            let lacks = services.0.iter().zip(said.served.0).any(|(mine, theirs)| mine & !theirs != 0);
            (!lacks).then_some(Candidate { is_silent: said.is_silent, is_out, id })
        })
    }

    /// The peers that take new transactions.
    pub(super) fn healthy(&self) -> impl Iterator<Item = NodeId> {
        self.with_daemon().filter(|(_, said)| said.state == State::Up && !said.is_silent).map(|(id, _)| id)
    }

    /// The epochs of a peer whose claims count, none of one that is down; `None`: nothing is known of it.
    pub(super) fn live_epochs(&self, owner: NodeId) -> Option<Epochs> {
        let peer = self.get(owner)?;
        let said = peer.introduction.filter(|_| peer.phase.is_up());
        Some(said.map_or(Epochs::EMPTY, |said| said.epochs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u16) -> NodeId {
        NodeId::new(number).unwrap()
    }

    fn introduction(state: State) -> Introduction {
        Introduction {
            state,
            is_silent: false,
            epochs: Epochs::from_bits(1),
            underlay: "10.9.3.2".parse().unwrap(),
            served: Served::ALL,
        }
    }

    fn able(peers: &Peers) -> (Vec<u16>, Vec<u16>) {
        let number = |id: NodeId| id.number();
        (peers.with_daemon().map(|(id, _)| number(id)).collect(), peers.healthy().map(number).collect())
    }

    #[test]
    fn a_peer_reassembles_and_takes_over_with_a_link_or_where_this_host_was_away() {
        let address = "10.9.3.2:7470".parse().unwrap();
        let mut peers = Peers::default();
        for (number, state) in [(2, State::Up), (3, State::Draining)] {
            peers.linked(id(number), address, 0);
            assert_eq!(peers.get(id(number)).unwrap().phase, Phase::Unknown, "it has not introduced itself");
            peers.introduced(id(number), introduction(state), 0);
        }
        assert_eq!(able(&peers), (vec![2, 3], vec![2]));
        assert!(!peers.unlinked(id(2), LinkEnd::Well, "reset by peer".to_owned(), 5));
        assert_eq!(able(&peers), (vec![2, 3], vec![2]), "it is well");
        assert!(!peers.unlinked(id(2), LinkEnd::Leaving, "the daemon ends".to_owned(), 5));
        assert_eq!(able(&peers), (vec![3], vec![]), "its node is up for a while, without a daemon");
        assert_eq!((peers.in_grace(), peers.live_epochs(id(2))), (1, Some(Epochs::from_bits(1))));
        peers.linked(id(2), address, 6);
        assert_eq!(able(&peers), (vec![2, 3], vec![2]), "and back, though it has said nothing yet");
        assert!(!peers.unlinked(id(2), LinkEnd::Silent, "timed out".to_owned(), 7));
        assert_eq!(able(&peers), (vec![3], vec![]), "only its programs can say whether its host is there");
        assert_eq!(peers.end_grace(7 + PATH_US), vec![id(2)]);
        assert_eq!(able(&peers), (vec![3], vec![]));
        assert_eq!(peers.live_epochs(id(2)), Some(Epochs::EMPTY));
        assert_eq!(peers.live_epochs(id(4)), None);
    }

    #[test]
    fn a_grace_ends_once_and_lasts_longer_by_what_this_host_was_away() {
        let mut peers = Peers::default();
        peers.linked(id(2), "10.9.3.2:7470".parse().unwrap(), 0);
        peers.introduced(id(2), introduction(State::Up), 0);
        assert_eq!(peers.due_us(), None);
        peers.unlinked(id(2), LinkEnd::Leaving, String::new(), 10);
        assert_eq!(peers.due_us(), Some(10 + REJOIN_US));
        peers.lengthen_grace(90);
        assert_eq!(peers.end_grace(99 + REJOIN_US), vec![]);
        assert_eq!(peers.end_grace(100 + REJOIN_US), vec![id(2)]);
        assert_eq!((peers.end_grace(u64::MAX), peers.due_us(), peers.any_up()), (vec![], None, false));
    }

    #[test]
    fn a_peer_whose_programs_answer_stays_up_for_a_minute_and_no_longer() {
        let mut peers = Peers::default();
        peers.linked(id(2), "10.9.3.2:7470".parse().unwrap(), 0);
        peers.introduced(id(2), introduction(State::Up), 0);
        assert!(!peers.answered(id(2), Epochs::from_bits(4), false, 0), "what its link says counts");
        peers.unlinked(id(2), LinkEnd::Silent, String::new(), 0);
        let mut now_us = 0;
        while now_us < AWAY_US {
            assert_eq!(peers.end_grace(now_us), vec![], "{now_us}");
            assert!(!peers.answered(id(2), Epochs::from_bits(1), false, now_us));
            now_us += PATH_US - 1;
        }
        assert_eq!(peers.end_grace(AWAY_US), vec![id(2)]);
        assert!(!peers.answered(id(2), Epochs::from_bits(1), false, AWAY_US), "nobody is up by its programs alone");
        assert_eq!(peers.live_epochs(id(2)), Some(Epochs::EMPTY));
    }

    #[test]
    fn the_programs_say_which_epochs_live_and_once_a_lease_would_be_over_whether_a_daemon_does() {
        let mut peers = Peers::default();
        peers.linked(id(2), "10.9.3.2:7470".parse().unwrap(), 0);
        peers.introduced(id(2), introduction(State::Up), 0);
        peers.unlinked(id(2), LinkEnd::Silent, String::new(), 0);
        assert!(!peers.answered(id(2), Epochs::from_bits(1), true, LEASE_TAIL_US), "it may be a dead one's lease");
        assert_eq!(able(&peers), (vec![], vec![]));
        assert!(peers.answered(id(2), Epochs::from_bits(2), true, LEASE_TAIL_US + 1), "only the links are cut");
        assert_eq!((able(&peers), peers.live_epochs(id(2))), ((vec![2], vec![2]), Some(Epochs::from_bits(2))));
        assert!(peers.answered(id(2), Epochs::from_bits(2), false, LEASE_TAIL_US + 2));
        assert_eq!(able(&peers), (vec![], vec![]));
    }

    #[test]
    fn a_peer_that_never_introduced_itself_is_up_for_no_reason_whatever_ends_its_link() {
        for end in [LinkEnd::Gone, LinkEnd::Silent, LinkEnd::Leaving, LinkEnd::Well] {
            let mut peers = Peers::default();
            peers.linked(id(2), "10.9.3.2:7470".parse().unwrap(), 0);
            assert!(peers.unlinked(id(2), end, String::new(), 1));
            assert!(!peers.any_up() && peers.in_grace() == 0);
        }
    }
}
