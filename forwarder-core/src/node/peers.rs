//! The peers: their links, what they said of themselves, and what has arrived of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use forwarder_common::ids::{Epochs, NodeId};

use super::budget::{Budget, CHANGE_US};
use super::error::ProtocolError;
use super::inbox::Inbox;
use crate::now::Now;
use crate::state::State;
use crate::wire::{Claims, Hello, MustEqual, Service};

/// Claims of a peer's epoch that is over are swept from this node's core and kernel so much later at the latest, in
/// microseconds: within two walks of the one, and of a table of thirty million slots.
const FORGET_US: u64 = 30_000_000;

/// What this node knows of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerView<'a> {
    /// The peer.
    pub node: NodeId,
    /// Whether it is linked and has introduced itself.
    pub up: bool,
    /// How it is, by what it said last.
    pub state: State,
    /// Its live epochs when last heard of.
    pub epochs: Epochs,
    /// Where it takes encapsulated packets.
    pub underlay: IpAddr,
    /// Where its links listen.
    pub listen: SocketAddr,
    /// Its claims that this node holds; some seconds of ended ones may be among them.
    pub claims: usize,
    /// What it serves.
    pub services: &'a [Service],
    /// What must be equal on all nodes, as it has it.
    pub must_equal: &'a [MustEqual],
}

/// One peer.
#[derive(Debug)]
pub(super) struct Peer {
    /// The hello of the present or the last link.
    hello: Option<Hello>,
    /// There is a link, on which this node has introduced itself.
    is_linked: bool,
    /// Where it may take tunnel packets, by that link and its certificate; the link's own address first.
    addresses: Vec<IpAddr>,
    /// The sequence of the last hello to it.
    greeting: u32,
    /// Counts the incarnations of its daemon, modulo 256.
    generation: u8,
    /// The present link has brought its hello.
    is_introduced: bool,
    /// When, in microseconds of the monotonic clock.
    introduced_us: u64,
    /// The map says that the peer is up.
    is_up: bool,
    /// All epochs of it of which this node may still hold claims.
    seen: Epochs,
    /// When those of them that are over are seen no more, in microseconds of the monotonic clock.
    forget_at_us: Option<u64>,
    /// Epochs of earlier incarnations of this node's daemon of which it may still hold claims.
    holds: Epochs,
    /// A hello that came too soon, and when it is heard, in microseconds of the monotonic clock.
    deferred: Option<(Hello, u64)>,
    pub(super) budget: Budget,
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
    /// Batches that overtook it.
    pub(super) early: Vec<Claims>,
}

#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: BTreeMap<NodeId, Peer>,
    /// How many are introduced.
    introduced: usize,
    /// What [`Self::held_epochs`] and [`Self::due_us`] say: they are asked for in each turn.
    held: Epochs,
    due_us: Option<u64>,
}

impl Peers {
    /// A link is up, or a new one replaced the old one.
    pub(super) fn link_up(&mut self, peer: NodeId, addresses: Vec<IpAddr>, now: Now) {
        let state = self.peers.entry(peer).or_insert_with(|| Peer::new(now));
        (state.is_linked, state.is_introduced, state.addresses, state.deferred) = (true, false, addresses, None);
        self.count();
    }

    /// The link is gone; whether the peer counted as up.
    pub(super) fn link_down(&mut self, peer: NodeId) -> bool {
        let Some(state) = self.peers.get_mut(&peer) else { return false };
        (state.is_linked, state.is_introduced, state.deferred) = (false, false, None);
        // While it counts as down its claims give way to others: on its next link all of them must come again.
        state.inbox.forget();
        let was_up = std::mem::take(&mut state.is_up);
        self.count();
        was_up
    }

    /// Whether a hello is heard now. One that says something new too soon after others did is heard later, unless a
    /// newer one comes before.
    pub(super) fn hears(&mut self, peer: NodeId, hello: &Hello, now: Now) -> Result<bool, ProtocolError> {
        let Some(state) = self.peers.get_mut(&peer) else { return Ok(true) };
        state.judge(hello)?;
        let is_first = !state.is_introduced;
        if !is_first && is_newer(state.sequence(), hello.sequence) {
            // Overtaken.
            return Ok(true);
        }
        let is_stale = |known: &(Hello, u64)| !is_newer(known.0.sequence, hello.sequence);
        let was_deferred = state.deferred.take_if(|known| is_first || is_stale(known));
        if is_first || !state.says_news(hello) || state.budget.change(now) {
            self.count();
            return Ok(true);
        }
        let due_us = was_deferred.map_or(now.monotonic_us.saturating_add(CHANGE_US), |(_, due_us)| due_us);
        if state.deferred.is_none() {
            state.deferred = Some((hello.clone(), due_us));
        }
        self.count();
        Ok(false)
    }

    /// The hellos that came too soon and are due.
    pub(super) fn take_deferred(&mut self, now: Now) -> Vec<(NodeId, Hello)> {
        let due = |(_, at_us): &mut (Hello, u64)| *at_us <= now.monotonic_us;
        let deferred = self.peers.iter_mut().filter_map(|(node, peer)| Some((*node, peer.deferred.take_if(due)?.0)));
        let deferred = deferred.collect();
        self.count();
        deferred
    }

    /// Takes a hello; `None` if a newer one has overtaken it.
    pub(super) fn take_hello(
        &mut self,
        peer: NodeId,
        hello: Hello,
        my_incarnation: u64,
        now: Now,
    ) -> Result<Option<Introduction>, ProtocolError> {
        let Some(state) = self.peers.get_mut(&peer) else { return Ok(None) };
        let introduction = state.take_hello(hello, my_incarnation, now)?;
        self.count();
        Ok(introduction)
    }

    /// Epochs of earlier incarnations of this node's daemon of which peers may still hold claims.
    pub(super) const fn held_epochs(&self) -> Epochs {
        self.held
    }

    /// When [`Self::forget_epochs`] is due, in microseconds of the monotonic clock.
    pub(super) const fn due_us(&self) -> Option<u64> {
        self.due_us
    }

    /// Forgets epochs of peers that have been over for long enough; the linked peers of which it has forgotten some.
    pub(super) fn forget_epochs(&mut self, now: Now) -> Vec<NodeId> {
        let mut forgotten = Vec::new();
        for (node, peer) in &mut self.peers {
            if peer.forget_at_us.take_if(|at| *at <= now.monotonic_us).is_some() {
                peer.seen = peer.hello.as_ref().map_or(Epochs::EMPTY, |hello| hello.epochs);
                forgotten.extend(peer.is_linked.then_some(*node));
            }
        }
        self.count();
        forgotten
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
    pub(super) fn views(&self, claims: impl Fn(NodeId) -> usize) -> impl Iterator<Item = PeerView<'_>> {
        self.peers.iter().filter_map(move |(node, peer)| {
            let Hello { state, epochs, underlay, listen, ref services, ref must_equal, .. } = *peer.hello.as_ref()?;
            let (up, claims) = (peer.is_up, claims(*node));
            Some(PeerView { node: *node, up, state, epochs, underlay, listen, claims, services, must_equal })
        })
    }

    fn that(&self, condition: impl Fn(&Peer) -> bool) -> Vec<NodeId> {
        self.peers.iter().filter(|(_, peer)| condition(peer)).map(|(node, _)| *node).collect()
    }

    /// Works out anew what is asked for more often than it changes.
    fn count(&mut self) {
        let peers = self.peers.values();
        self.introduced = peers.clone().filter(|peer| peer.is_introduced).count();
        let deferred_us = |peer: &Peer| peer.deferred.as_ref().map(|(_, at_us)| *at_us);
        self.due_us = peers.clone().flat_map(|peer| [peer.forget_at_us, deferred_us(peer)]).flatten().min();
        self.held = Epochs::from_bits(peers.fold(0, |held, peer| held | peer.holds.bits()));
    }
}

impl Peer {
    fn new(now: Now) -> Self {
        Self {
            hello: None,
            is_linked: false,
            addresses: Vec::new(),
            greeting: 0,
            generation: 0,
            is_introduced: false,
            introduced_us: 0,
            is_up: false,
            seen: Epochs::EMPTY,
            forget_at_us: None,
            holds: Epochs::EMPTY,
            deferred: None,
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

    /// For how long it has been introduced on its link, in microseconds.
    pub(super) const fn linked_us(&self, now: Now) -> u64 {
        if self.is_introduced { now.monotonic_us.saturating_sub(self.introduced_us) } else { 0 }
    }

    /// Which incarnation of its daemon this is, in this node's count, modulo 256.
    pub(super) const fn generation(&self) -> u8 {
        self.generation
    }

    /// The sequence of the last hello to it.
    pub(super) const fn greeting(&self) -> u32 {
        self.greeting
    }

    /// The sequence of its last hello.
    pub(super) fn sequence(&self) -> u32 {
        self.hello.as_ref().map_or(0, |hello| hello.sequence)
    }

    /// Whether what was sent under this sequence of its hellos overtook that hello.
    pub(super) fn is_early(&self, sequence: u32) -> bool {
        is_newer(sequence, self.sequence())
    }

    /// Makes a hello one to this peer: with what is known of it.
    pub(super) fn address(&mut self, hello: Hello) -> Hello {
        self.greeting = hello.sequence;
        let (your_incarnation, have) = self.inbox.have();
        Hello { your_incarnation, your_epochs: self.seen, have, ..hello }
    }

    /// Whether a hello is one that this peer may say on its link.
    fn judge(&self, hello: &Hello) -> Result<(), ProtocolError> {
        if !self.addresses.contains(&hello.underlay) {
            return Err(ProtocolError::Underlay { said: hello.underlay, link: self.addresses.first().copied() });
        }
        if self.is_introduced && self.inbox.incarnation() != hello.incarnation {
            return Err(ProtocolError::OtherIncarnation);
        }
        Ok(())
    }

    /// Whether a hello says something that others go by, and that the last one has not said.
    fn says_news(&self, hello: &Hello) -> bool {
        let is_same = |known: &Hello| {
            (known.state, known.is_silent, known.epochs, known.underlay, known.listen, &known.services)
                == (hello.state, hello.is_silent, hello.epochs, hello.underlay, hello.listen, &hello.services)
        };
        !self.is_up || !self.hello.as_ref().is_some_and(is_same)
    }

    fn take_hello(
        &mut self,
        hello: Hello,
        my_incarnation: u64,
        now: Now,
    ) -> Result<Option<Introduction>, ProtocolError> {
        self.judge(&hello)?;
        let is_first = !self.is_introduced;
        if !is_first && is_newer(self.sequence(), hello.sequence) {
            return Ok(None);
        }
        let known = self.hello.as_ref();
        if known.is_none_or(|known| known.incarnation != hello.incarnation) {
            self.generation = self.generation.wrapping_add(1);
        }
        let is_changed = self.says_news(&hello);
        self.seen = hello.epochs.iter().fold(self.seen, Epochs::with);
        if self.seen == hello.epochs {
            self.forget_at_us = None;
        } else {
            self.forget_at_us = Some(now.monotonic_us.saturating_add(FORGET_US));
        }
        let knows_me = hello.your_incarnation == my_incarnation;
        let held = if knows_me { self.holds.bits() & hello.your_epochs.bits() } else { hello.your_epochs.bits() };
        self.holds = Epochs::from_bits(held);
        if is_first {
            self.inbox.begin(hello.incarnation, hello.next);
            self.introduced_us = now.monotonic_us;
        }
        (self.hello, self.is_introduced, self.is_up) = (Some(hello), true, true);
        Ok(Some(Introduction { is_first, is_changed, early: self.inbox.take_early() }))
    }
}

/// Whether a sequence comes after another; they come round.
const fn is_newer(sequence: u32, other: u32) -> bool {
    let ahead = sequence.wrapping_sub(other);
    ahead != 0 && ahead <= u32::MAX / 2
}
