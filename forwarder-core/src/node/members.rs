//! Who belongs to the cluster, and whom to call: by gossip, which the links carry as datagrams.
//!
//! A node tells its linked peers whom it is linked with itself, and where those listen by their own word. Nobody passes
//! on what another has told, and nobody is told to be dead: what is not said again is forgotten. So a lie lives only as
//! long as its teller goes on with it, and nothing is ordered by clocks or counters that a lie, or a clock years ahead,
//! could drive out of everybody's reach. About a linked peer only its own link speaks, and whether it is up is not
//! gossip's to say. A peer that lies can make a node call an address in vain, and no more. A node that is told of
//! one it is not linked with calls it, the lower id at once and the higher one a little later; the full mesh follows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use forwarder_common::ids::NodeId;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng as _, SeedableRng as _};

use super::error::ProtocolError;
use super::output::Command;
use crate::now::Now;
use crate::wire::{GOSSIP_PEERS, Gossip};

/// How long a member that nobody has a link with is called on, in microseconds: a host that restarts is back by then.
const FORGET_US: u64 = 60_000_000;
/// The higher id of two waits this long, in microseconds, for the call of the lower one, which may not have heard of
/// it.
const CALL_LATER_US: u64 = 3_000_000;
/// A member that is told to listen at several addresses is called at each of them for so long, in microseconds.
const CALL_ELSEWHERE_US: u64 = 10_000_000;
/// Links that come up within this time, in microseconds, are told of together.
const NEWS_US: u64 = 20_000;
/// How often a few peers are told what may have been lost, in microseconds. It says again what others say as well.
const ROUND_US: u64 = 500_000;
/// How many peers are told in a round, and one datagram each: a node hears about six a second, however many there are.
const ROUND_PEERS: usize = 3;

/// What one node says of another.
#[derive(Clone, Copy, Debug)]
struct Said {
    listen: SocketAddr,
    at_us: u64,
}

/// A member that this node is not linked with.
#[derive(Debug)]
struct Unlinked {
    /// By those who say so: one place each, so that no liar pushes out what others say. This node's own word is where
    /// its last link led.
    said: BTreeMap<NodeId, Said>,
    /// When it was last said to be a member, in microseconds of the monotonic clock.
    heard_us: u64,
    /// When it is called, or called elsewhere.
    call_at_us: u64,
    /// Where it is called now, and by whose word.
    called: Option<(NodeId, SocketAddr)>,
}

/// The members of the cluster, as far as this node knows.
#[derive(Debug)]
pub(super) struct Members {
    node: NodeId,
    is_ipv4: bool,
    /// Linked peers, with where they listen.
    linked: BTreeMap<NodeId, SocketAddr>,
    /// Those of them that leave.
    leaving: BTreeSet<NodeId>,
    unlinked: BTreeMap<NodeId, Unlinked>,
    /// Linked peers of which nobody else has told yet: all others are told at once.
    news: BTreeSet<NodeId>,
    news_at_us: Option<u64>,
    round_at_us: Option<u64>,
    /// When the next of the unlinked is called or forgotten: found anew when one of them changes, asked for after
    /// every message.
    unlinked_at_us: Option<u64>,
    chance: Xoshiro256PlusPlus,
    commands: VecDeque<Command>,
    /// Set for good by [`Self::leave`].
    left: bool,
}

impl Members {
    pub(super) fn new(node: NodeId, listen: SocketAddr, seed: u64) -> Self {
        Self {
            node,
            is_ipv4: listen.is_ipv4(),
            linked: BTreeMap::new(),
            leaving: BTreeSet::new(),
            unlinked: BTreeMap::new(),
            news: BTreeSet::new(),
            news_at_us: None,
            round_at_us: None,
            unlinked_at_us: None,
            chance: Xoshiro256PlusPlus::seed_from_u64(seed),
            commands: VecDeque::new(),
            left: false,
        }
    }

    /// A linked peer has introduced itself.
    pub(super) fn introduced(&mut self, peer: NodeId, listen: SocketAddr, now: Now) {
        self.linked.insert(peer, listen);
        self.leaving.remove(&peer);
        // Its own memory of an earlier link is not others' word.
        let by_others = |unlinked: Unlinked| unlinked.said.keys().any(|speaker| *speaker != self.node);
        let is_news = !self.unlinked.remove(&peer).is_some_and(by_others);
        self.schedule();
        if self.left {
            return;
        }
        let all: Vec<_> = self.told().filter(|(other, _)| *other != peer).collect();
        for part in all.chunks(GOSSIP_PEERS) {
            self.tell(peer, part.to_vec());
        }
        if is_news {
            self.news.insert(peer);
            self.news_at_us.get_or_insert(now.monotonic_us.saturating_add(NEWS_US));
        }
        self.round_at_us.get_or_insert(now.monotonic_us.saturating_add(ROUND_US));
    }

    /// The link to a peer is gone.
    pub(super) fn unlinked(&mut self, peer: NodeId, now: Now) {
        let Some(listen) = self.linked.remove(&peer) else { return };
        self.news.remove(&peer);
        if self.leaving.remove(&peer) {
            self.commands.push_back(Command::Forget { peer });
        } else {
            self.said(self.node, peer, listen, now);
        }
        self.schedule();
    }

    /// Takes a datagram of a linked peer.
    pub(super) fn handle(&mut self, peer: NodeId, bytes: &[u8], now: Now) -> Result<(), ProtocolError> {
        match Gossip::decode(bytes).map_err(ProtocolError::Gossip)? {
            Gossip::Linked(members) => {
                for (member, listen) in members {
                    self.said(peer, member, listen, now);
                }
                self.schedule();
            }
            Gossip::Leaves if self.linked.contains_key(&peer) => drop(self.leaving.insert(peer)),
            Gossip::Leaves | Gossip::Unknown => {}
        }
        Ok(())
    }

    /// Does what is due.
    pub(super) fn timeout(&mut self, now: Now) {
        let is_due = |at: Option<u64>| at.is_some_and(|at| at <= now.monotonic_us);
        if is_due(self.news_at_us) {
            self.news_at_us = None;
            self.tell_news();
        }
        if is_due(self.round_at_us) {
            let again = now.monotonic_us.saturating_add(ROUND_US);
            self.round_at_us = (!self.linked.is_empty() && !self.left).then_some(again);
            self.tell_some();
        }
        if is_due(self.unlinked_at_us) {
            self.forget(now);
            let due = |(_, member): &(&NodeId, &Unlinked)| member.call_at_us <= now.monotonic_us;
            let due: Vec<NodeId> = self.unlinked.iter().filter(due).map(|(peer, _)| *peer).collect();
            due.into_iter().for_each(|peer| self.call(peer, now));
            self.schedule();
        }
    }

    /// When [`Self::timeout`] is due, in microseconds of the monotonic clock.
    pub(super) fn due_us(&self) -> Option<u64> {
        [self.news_at_us, self.round_at_us, self.unlinked_at_us].into_iter().flatten().min()
    }

    /// The next thing to do for the links.
    pub(super) fn poll(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Tells the others that this node leaves.
    pub(super) fn leave(&mut self) {
        if !self.left {
            self.left = true;
            let bytes = Gossip::Leaves.encode();
            let tell = |to: &NodeId| Command::Datagram { to: *to, bytes: bytes.clone() };
            self.commands.extend(self.linked.keys().map(tell));
        }
    }

    /// The members that are linked, and those that others say are; this node is not counted.
    pub(super) fn alive(&self) -> usize {
        let others = |member: &&Unlinked| member.said.keys().any(|speaker| *speaker != self.node);
        self.linked.len() - self.leaving.len() + self.unlinked.values().filter(others).count()
    }

    /// Somebody says where a member listens. What is said of a linked peer, of this node itself or of an address that
    /// cannot be called has no effect.
    fn said(&mut self, speaker: NodeId, member: NodeId, listen: SocketAddr, now: Now) {
        let is_callable = listen.is_ipv4() == self.is_ipv4
            && listen.port() != 0
            && !listen.ip().is_unspecified()
            && !listen.ip().is_multicast();
        if member == self.node || member == speaker || self.linked.contains_key(&member) || !is_callable {
            return;
        }
        let wait_us = if self.node < member { 0 } else { CALL_LATER_US };
        let new = || Unlinked {
            said: BTreeMap::new(),
            heard_us: now.monotonic_us,
            call_at_us: now.monotonic_us.saturating_add(wait_us),
            called: None,
        };
        let unlinked = self.unlinked.entry(member).or_insert_with(new);
        unlinked.said.insert(speaker, Said { listen, at_us: now.monotonic_us });
        unlinked.heard_us = now.monotonic_us;
    }

    /// Calls a member where somebody says that it listens; if it is called already, then where somebody else says.
    fn call(&mut self, peer: NodeId, now: Now) {
        let Some(member) = self.unlinked.get_mut(&peer) else { return };
        member.call_at_us = now.monotonic_us.saturating_add(CALL_ELSEWHERE_US);
        let forgotten = |said: &Said| said.at_us.saturating_add(FORGET_US) <= now.monotonic_us;
        member.said.retain(|_, said| !forgotten(said));
        // From the last one on whose word was taken, and around.
        let last = member.called.map(|(speaker, _)| speaker);
        let (before, behind): (Vec<_>, Vec<_>) = member.said.iter().partition(|(speaker, _)| Some(**speaker) <= last);
        let elsewhere = |said: &Said| member.called.is_none_or(|(_, address)| address != said.listen);
        let next = behind.into_iter().chain(before).find(|(_, said)| elsewhere(said));
        let Some((speaker, address)) = next.map(|(speaker, said)| (*speaker, said.listen)) else { return };
        member.called = Some((speaker, address));
        if !self.left {
            self.commands.push_back(Command::Call { peer, address });
        }
    }

    fn forget(&mut self, now: Now) {
        let is_over = |member: &Unlinked| member.heard_us.saturating_add(FORGET_US) <= now.monotonic_us;
        self.unlinked.retain(|peer, member| {
            if is_over(member) {
                self.commands.push_back(Command::Forget { peer: *peer });
            }
            !is_over(member)
        });
    }

    fn schedule(&mut self) {
        let at = |member: &Unlinked| member.call_at_us.min(member.heard_us.saturating_add(FORGET_US));
        self.unlinked_at_us = self.unlinked.values().map(at).min();
    }

    /// Whom the others are told of.
    fn told(&self) -> impl Iterator<Item = (NodeId, SocketAddr)> {
        self.linked.iter().filter(|(peer, _)| !self.leaving.contains(peer)).map(|(peer, listen)| (*peer, *listen))
    }

    fn tell(&mut self, to: NodeId, peers: Vec<(NodeId, SocketAddr)>) {
        if !peers.is_empty() && !self.left {
            self.commands.push_back(Command::Datagram { to, bytes: Gossip::Linked(peers).encode() });
        }
    }

    fn tell_news(&mut self) {
        let news = std::mem::take(&mut self.news);
        let news: Vec<_> = self.told().filter(|(peer, _)| news.contains(peer)).collect();
        let peers: Vec<NodeId> = self.linked.keys().copied().collect();
        for to in peers {
            let others: Vec<_> = news.iter().filter(|(peer, _)| *peer != to).copied().collect();
            others.chunks(GOSSIP_PEERS).for_each(|part| self.tell(to, part.to_vec()));
        }
    }

    /// Tells some peers of some of the linked ones, of all if one datagram holds them.
    fn tell_some(&mut self) {
        let all: Vec<_> = self.told().collect();
        for _ in 0..ROUND_PEERS.min(self.linked.len()) {
            let at = self.below(self.linked.len());
            let Some(to) = self.linked.keys().nth(at).copied() else { return };
            let first = self.below(all.len().max(1));
            let around = all.iter().cycle().skip(first).take(all.len());
            let part = around.filter(|(peer, _)| *peer != to).take(GOSSIP_PEERS).copied().collect();
            self.tell(to, part);
        }
    }

    /// Any number below `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        (self.chance.next_u64() % bound as u64) as usize
    }
}
