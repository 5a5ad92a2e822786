//! The peers: their links, what they said of themselves, and what has arrived of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use forwarder_common::ids::{Epoch, NodeId};

use super::budget::Budget;
use super::error::ProtocolError;
use super::inbox::Inbox;
use crate::now::Now;
use crate::state::State;
use crate::store::Word;
use crate::wire::{Claims, Hello};

/// What this node knows of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// The peer.
    pub node: NodeId,
    /// Whether it is linked and has introduced itself.
    pub up: bool,
    /// How it is, by what it said last.
    pub state: State,
    /// Its epoch when last heard of.
    pub epoch: Epoch,
    /// Where it takes encapsulated packets.
    pub underlay: IpAddr,
    /// Where its links listen.
    pub listen: SocketAddr,
    /// Its claims that this node holds; some seconds of ended ones may be among them.
    pub claims: usize,
}

/// One peer.
#[derive(Debug)]
pub(super) struct Peer {
    /// The hello of the present or the last link.
    hello: Option<Hello>,
    /// There is a link, on which this node has introduced itself.
    is_linked: bool,
    /// The sequence of the last hello to it.
    greeting: u32,
    /// Counts its links, see [`Word`].
    session: u8,
    /// The present link has brought its hello.
    is_introduced: bool,
    /// The map says that the peer is up.
    is_up: bool,
    budget: Budget,
    /// What has arrived of its claims.
    pub(super) inbox: Inbox,
}

/// What is new by a peer's hello.
#[derive(Debug)]
pub(super) struct Introduction {
    /// It is the first one of a link.
    pub(super) is_first: bool,
    /// The peer was not up, or has changed something that others go by.
    pub(super) is_changed: bool,
    /// The epoch under which it knew an earlier incarnation of this node.
    pub(super) earlier_epoch: Option<Epoch>,
    /// Batches that overtook it.
    pub(super) early: Vec<Claims>,
}

#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: BTreeMap<NodeId, Peer>,
    /// How many are introduced.
    introduced: usize,
}

impl Peers {
    /// A link is up, or a new one replaced the old one.
    pub(super) fn link_up(&mut self, peer: NodeId, now: Now) {
        let state = self.peers.entry(peer).or_insert_with(|| Peer::new(now));
        (state.is_linked, state.is_introduced) = (true, false);
        state.session = Word::next_session(state.session);
        self.count();
    }

    /// The link is gone; what the peer said of itself if it counted as up.
    pub(super) fn link_down(&mut self, peer: NodeId) -> Option<Hello> {
        let state = self.peers.get_mut(&peer)?;
        (state.is_linked, state.is_introduced) = (false, false);
        // While it counts as down its claims give way to others: on its next link all of them must come again.
        state.inbox = Inbox::default();
        let was_up = std::mem::take(&mut state.is_up);
        let hello = state.hello.filter(|_| was_up);
        self.count();
        hello
    }

    /// Takes a hello; `None` if a newer one has overtaken it.
    pub(super) fn take_hello(&mut self, peer: NodeId, hello: Hello) -> Result<Option<Introduction>, ProtocolError> {
        let Some(state) = self.peers.get_mut(&peer) else { return Ok(None) };
        let introduction = state.take_hello(hello)?;
        self.count();
        Ok(introduction)
    }

    pub(super) fn get(&self, peer: NodeId) -> Option<&Peer> {
        self.peers.get(&peer)
    }

    pub(super) fn get_mut(&mut self, peer: NodeId) -> Option<&mut Peer> {
        self.peers.get_mut(&peer)
    }

    /// Those that are linked.
    pub(super) fn linked(&self) -> Vec<NodeId> {
        self.that(|peer| peer.is_linked)
    }

    /// Those that are linked and have introduced themselves.
    pub(super) fn introduced(&self) -> Vec<NodeId> {
        self.that(|peer| peer.is_introduced)
    }

    /// How many are linked and have introduced themselves.
    pub(super) const fn introduced_count(&self) -> usize {
        self.introduced
    }

    /// Those that count as up.
    pub(super) fn up(&self) -> Vec<NodeId> {
        self.that(|peer| peer.is_up)
    }

    /// Whether all claims of all linked peers have arrived that they had when they were linked; true without any.
    pub(super) fn is_synchronised(&self) -> bool {
        let mut linked = self.peers.values().filter(|peer| peer.is_linked);
        linked.all(|peer| peer.is_introduced && peer.inbox.is_complete())
    }

    /// Every peer that ever introduced itself, in the order of their ids; `claims` counts those of a peer that are
    /// held.
    pub(super) fn views(&self, claims: impl Fn(NodeId) -> usize) -> impl Iterator<Item = PeerView> {
        self.peers.iter().filter_map(move |(node, peer)| {
            let Hello { state, epoch, underlay, listen, .. } = peer.hello?;
            Some(PeerView { node: *node, up: peer.is_up, state, epoch, underlay, listen, claims: claims(*node) })
        })
    }

    fn that(&self, condition: impl Fn(&Peer) -> bool) -> Vec<NodeId> {
        self.peers.iter().filter(|(_, peer)| condition(peer)).map(|(node, _)| *node).collect()
    }

    fn count(&mut self) {
        self.introduced = self.peers.values().filter(|peer| peer.is_introduced).count();
    }
}

impl Peer {
    fn new(now: Now) -> Self {
        Self {
            hello: None,
            is_linked: false,
            greeting: 0,
            session: 0,
            is_introduced: false,
            is_up: false,
            budget: Budget::new(now),
            inbox: Inbox::default(),
        }
    }

    pub(super) const fn is_linked(&self) -> bool {
        self.is_linked
    }

    pub(super) const fn is_introduced(&self) -> bool {
        self.is_introduced
    }

    pub(super) const fn session(&self) -> u8 {
        self.session
    }

    /// The sequence of the last hello to it.
    pub(super) const fn greeting(&self) -> u32 {
        self.greeting
    }

    /// The sequence of its last hello.
    pub(super) fn sequence(&self) -> u32 {
        self.hello.map_or(0, |hello| hello.sequence)
    }

    /// Takes a message with so many claims from its budget; false when that is spent.
    pub(super) fn spend(&mut self, claims: usize, now: Now) -> bool {
        self.budget.spend(claims, now)
    }

    /// Makes a hello one to this peer: with what is known of it.
    pub(super) fn address(&mut self, hello: Hello) -> Hello {
        self.greeting = hello.sequence;
        let (your_incarnation, have) = self.inbox.have();
        Hello { your_incarnation, your_epoch: self.hello.map(|hello| hello.epoch), have, ..hello }
    }

    fn take_hello(&mut self, hello: Hello) -> Result<Option<Introduction>, ProtocolError> {
        let is_first = !self.is_introduced;
        if !is_first && self.inbox.incarnation() != hello.incarnation {
            return Err(ProtocolError::OtherIncarnation);
        }
        if !is_first && self.hello.is_some_and(|held| hello.sequence.wrapping_sub(held.sequence) > u32::MAX / 2) {
            return Ok(None);
        }
        let same = |held: Hello| {
            (held.state, held.epoch, held.underlay, held.listen)
                == (hello.state, hello.epoch, hello.underlay, hello.listen)
        };
        let is_changed = !self.is_up || !self.hello.is_some_and(same);
        // It has not heard of this incarnation yet when it sends its first hello.
        let earlier_epoch = if self.hello.is_none() { hello.your_epoch } else { None };
        (self.hello, self.is_introduced, self.is_up) = (Some(hello), true, true);
        if is_first {
            self.inbox.begin(hello.incarnation, hello.next);
        }
        let early = self.inbox.take_early();
        Ok(Some(Introduction { is_first, is_changed, earlier_epoch, early }))
    }
}
