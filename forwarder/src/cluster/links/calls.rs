//! Whom to call and when: seeds always, members until they are forgotten, nobody who is linked.
//!
//! Of two nodes that know each other the lower id calls. The higher one calls only when it has waited in vain for a
//! while, so that a pair in which the lower one's calls fail finds together all the same. Time is an argument; nothing
//! here does I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use forwarder_common::ids::NodeId;
use tokio::time::Instant;

use super::backoff::{Backoff, jittered};

/// Calls under way at once: a handshake costs a millisecond of CPU here and there, and an unreachable peer five seconds
/// of wait.
const CALLS: usize = 128;
/// How long the higher id leaves it to the lower one to call; with jitter half of it at least.
pub const CALL_GRACE: Duration = Duration::from_secs(1);
/// Two connections made within this time are two hosts calling each other at once; a later one is a peer that lost the
/// first.
pub(super) const SIMULTANEOUS: Duration = Duration::from_secs(2);
/// Pause between two links that are renewed.
const RENEWAL: Duration = Duration::from_millis(100);

/// Somebody to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Callee {
    /// A seed of the configuration, by its place in the list; whoever answers is welcome.
    Seed(usize),
    /// A member; only this node is welcome.
    Member(NodeId),
}

/// Everything there is to call.
#[derive(Debug)]
pub(super) struct Calls {
    node: NodeId,
    targets: BTreeMap<Callee, Target>,
    /// The targets that wait, in the order of their time.
    due: BTreeSet<(Instant, Callee)>,
    under_way: usize,
    linked: BTreeMap<NodeId, SocketAddr>,
    linked_at: BTreeMap<SocketAddr, NodeId>,
    /// How many targets have an address.
    addresses: BTreeMap<SocketAddr, usize>,
}

#[derive(Debug)]
struct Target {
    address: SocketAddr,
    backoff: Backoff,
    phase: Phase,
    /// Who it is: the member, or who answered at the seed last.
    peer: Option<NodeId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waits(Instant),
    IsCalled(Instant),
    IsLinked,
}

impl Calls {
    pub(super) fn new(node: NodeId, seeds: impl Iterator<Item = SocketAddr>, now: Instant) -> Self {
        let mut calls = Self {
            node,
            targets: BTreeMap::new(),
            due: BTreeSet::new(),
            under_way: 0,
            linked: BTreeMap::new(),
            linked_at: BTreeMap::new(),
            addresses: BTreeMap::new(),
        };
        seeds.enumerate().for_each(|(index, address)| calls.insert(Callee::Seed(index), address, None, now));
        calls
    }

    /// A member that is to be linked. True when a call to another address of it is under way, which is of no use any
    /// more.
    pub(super) fn add(&mut self, peer: NodeId, address: SocketAddr, now: Instant) -> bool {
        let callee = Callee::Member(peer);
        if peer == self.node || self.targets.get(&callee).is_some_and(|target| target.address == address) {
            return false;
        }
        let is_called = self.remove(peer);
        self.insert(callee, address, Some(peer), now + self.grace(Some(peer)));
        if self.linked.contains_key(&peer) {
            self.set(callee, Phase::IsLinked);
        }
        is_called
    }

    /// No member any more. True when a call to it is under way.
    pub(super) fn remove(&mut self, peer: NodeId) -> bool {
        let callee = Callee::Member(peer);
        // Out of the order of times and the number of calls first.
        let is_called = self.targets.get(&callee).is_some_and(|target| matches!(target.phase, Phase::IsCalled(_)));
        self.set(callee, Phase::IsLinked);
        let Some(target) = self.targets.remove(&callee) else { return false };
        if let Some(count) = self.addresses.get_mut(&target.address) {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&target.address);
            }
        }
        is_called
    }

    /// When the next call is due; `None` while there is nobody to call, or too many are being called.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().filter(|_| self.under_way < CALLS).map(|(at, _)| *at)
    }

    /// The next to call at `now`; it counts as called until [`Self::ended`].
    pub(super) fn take_due(&mut self, now: Instant) -> Option<(Callee, SocketAddr)> {
        let (_, callee) = *self.due.first().filter(|(at, _)| *at <= now && self.under_way < CALLS)?;
        self.set(callee, Phase::IsCalled(now));
        self.targets.get(&callee).map(|target| (callee, target.address))
    }

    /// A call has ended, and `peer` is who answered; without a link to it there will be another call.
    pub(super) fn ended(&mut self, callee: Callee, peer: Option<NodeId>, now: Instant) {
        let Some(target) = self.targets.get_mut(&callee) else { return };
        target.peer = peer.filter(|_| matches!(callee, Callee::Seed(_))).or(target.peer);
        let (known, address) = (target.peer, target.address);
        // Only a link that carried something ends the series of pauses: see `lost`.
        let pause = target.backoff.fail();
        let is_linked =
            known.is_some_and(|peer| self.linked.contains_key(&peer)) || self.linked_at.contains_key(&address);
        let waits = Phase::Waits(now + pause + self.grace(known));
        self.set(callee, if is_linked { Phase::IsLinked } else { waits });
    }

    /// A link to `peer` at `address` is in use: nothing that leads there is called until it is lost.
    pub(super) fn linked(&mut self, peer: NodeId, address: SocketAddr) {
        if let Some(before) = self.linked.insert(peer, address) {
            self.linked_at.remove(&before);
        }
        self.linked_at.insert(address, peer);
        for callee in self.leading_to(peer, address) {
            if self.targets.get(&callee).is_some_and(|target| matches!(target.phase, Phase::Waits(_))) {
                self.set(callee, Phase::IsLinked);
            }
        }
    }

    /// Calls linked peers all the same, where it is known whom to call, each from its time on and one after another,
    /// because each new link begins with a snapshot: the new connection takes the link's place.
    pub(super) fn renew_all(&mut self, peers: impl Iterator<Item = (NodeId, Instant)>, now: Instant) {
        for (place, (peer, from)) in (0..).zip(peers) {
            self.renew(peer, now.max(from) + jittered(RENEWAL) + RENEWAL * place);
        }
    }

    fn renew(&mut self, peer: NodeId, at: Instant) {
        let Some(address) = self.linked.get(&peer).copied() else { return };
        let is_idle = |callee: &Callee| self.targets.get(callee).is_some_and(|target| target.phase == Phase::IsLinked);
        if let Some(callee) = self.leading_to(peer, address).into_iter().rfind(is_idle) {
            self.set(callee, Phase::Waits(at));
        }
    }

    /// The link to `peer` is lost. One that carried something at least forgives the failures before it.
    pub(super) fn lost(&mut self, peer: NodeId, carried: bool, not_before: Instant) {
        let Some(address) = self.linked.remove(&peer) else { return };
        self.linked_at.remove(&address);
        for callee in self.leading_to(peer, address) {
            let Some(target) = self.targets.get_mut(&callee) else { continue };
            if matches!(target.phase, Phase::IsCalled(_)) {
                continue;
            }
            if carried {
                target.backoff.succeed();
            }
            let (pause, known) = (target.backoff.fail(), target.peer);
            self.set(callee, Phase::Waits(not_before + pause + self.grace(known)));
        }
    }

    /// The calls under way that lead to `peer` or to `address`, with their begin.
    pub(super) fn under_way(&self, peer: NodeId, address: SocketAddr) -> Vec<(Callee, Instant)> {
        let since = |callee: Callee| match self.targets.get(&callee)?.phase {
            Phase::IsCalled(since) => Some((callee, since)),
            Phase::Waits(_) | Phase::IsLinked => None,
        };
        self.leading_to(peer, address).into_iter().filter_map(since).collect()
    }

    /// Whether a seed or a member listens at `address`.
    pub(super) fn knows(&self, address: SocketAddr) -> bool {
        self.addresses.contains_key(&address)
    }

    fn insert(&mut self, callee: Callee, address: SocketAddr, peer: Option<NodeId>, at: Instant) {
        let target = Target { address, backoff: Backoff::of_calls(), phase: Phase::IsLinked, peer };
        self.targets.insert(callee, target);
        *self.addresses.entry(address).or_default() += 1;
        self.set(callee, Phase::Waits(at));
    }

    fn leading_to(&self, peer: NodeId, address: SocketAddr) -> Vec<Callee> {
        let seeds = self.targets.range(..=Callee::Seed(usize::MAX));
        let seeds = seeds.filter(|(_, seed)| seed.address == address || seed.peer == Some(peer));
        seeds.map(|(callee, _)| *callee).chain([Callee::Member(peer)]).collect()
    }

    fn set(&mut self, callee: Callee, phase: Phase) {
        let Some(target) = self.targets.get_mut(&callee) else { return };
        match target.phase {
            Phase::Waits(at) => drop(self.due.remove(&(at, callee))),
            Phase::IsCalled(_) => self.under_way -= 1,
            Phase::IsLinked => {}
        }
        target.phase = phase;
        match phase {
            Phase::Waits(at) => drop(self.due.insert((at, callee))),
            Phase::IsCalled(_) => self.under_way += 1,
            Phase::IsLinked => {}
        }
    }

    fn grace(&self, peer: Option<NodeId>) -> Duration {
        if peer.is_some_and(|peer| peer < self.node) { jittered(CALL_GRACE) } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u16) -> NodeId {
        NodeId::new(number).unwrap()
    }

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// Node 5 with the seeds at ports 1 and 2.
    fn calls(now: Instant) -> Calls {
        Calls::new(id(5), [at(1), at(2)].into_iter(), now)
    }

    #[test]
    fn seeds_are_called_at_once_and_again_until_they_are_linked() {
        let start = Instant::now();
        let mut calls = calls(start);
        assert_eq!(calls.take_due(start), Some((Callee::Seed(0), at(1))));
        assert_eq!(calls.take_due(start), Some((Callee::Seed(1), at(2))));
        assert_eq!((calls.take_due(start), calls.next()), (None, None), "nobody is called twice at once");
        calls.ended(Callee::Seed(0), None, start);
        let again = calls.next().unwrap();
        assert!(again > start && calls.take_due(start).is_none());
        assert_eq!(calls.take_due(again), Some((Callee::Seed(0), at(1))));
        // It calls by itself meanwhile: the address is enough to know it.
        calls.linked(id(7), at(1));
        calls.ended(Callee::Seed(0), None, again);
        assert_eq!(calls.next(), None);
        calls.lost(id(7), true, again);
        assert!(calls.next().is_some_and(|at| at > again));
    }

    #[test]
    fn the_lower_id_calls_at_once_and_the_higher_one_only_after_a_grace() {
        let start = Instant::now();
        let mut calls = Calls::new(id(5), std::iter::empty(), start);
        calls.add(id(5), at(5), start);
        assert_eq!(calls.next(), None, "never oneself");
        calls.add(id(9), at(9), start);
        assert_eq!(calls.take_due(start), Some((Callee::Member(id(9)), at(9))));
        calls.add(id(3), at(3), start);
        let due = calls.next().unwrap();
        assert!((start + CALL_GRACE / 2..=start + CALL_GRACE).contains(&due));
        calls.linked(id(3), at(3));
        assert_eq!(calls.next(), None, "the lower one has called");
        calls.lost(id(3), true, start);
        assert!(calls.next().is_some_and(|at| at >= start + CALL_GRACE / 2));
    }

    #[test]
    fn a_linked_peer_is_called_once_more_when_its_link_is_to_be_renewed() {
        let start = Instant::now();
        let mut calls = calls(start);
        calls.linked(id(7), at(1));
        calls.linked(id(8), at(2));
        assert_eq!(calls.next(), None);
        let then = start + CALL_GRACE;
        calls.renew(id(7), then);
        calls.renew(id(9), then);
        assert_eq!((calls.next(), calls.take_due(start)), (Some(then), None));
        assert_eq!(calls.take_due(then), Some((Callee::Seed(0), at(1))));
        calls.ended(Callee::Seed(0), Some(id(7)), then);
        assert_eq!(calls.next(), None);
    }

    #[test]
    fn a_member_is_forgotten_and_its_new_address_replaces_the_old_one() {
        let start = Instant::now();
        let mut calls = Calls::new(id(5), std::iter::empty(), start);
        assert!(!calls.add(id(9), at(9), start));
        assert!(calls.knows(at(9)));
        calls.take_due(start).unwrap();
        assert!(!calls.add(id(9), at(9), start), "the same again changes nothing");
        assert!(calls.add(id(9), at(10), start), "the call to the old address is of no use");
        assert!(calls.knows(at(10)) && !calls.knows(at(9)));
        assert_eq!(calls.take_due(start), Some((Callee::Member(id(9)), at(10))));
        assert!(calls.remove(id(9)));
        assert_eq!((calls.next(), calls.under_way, calls.knows(at(10))), (None, 0, false));
        calls.ended(Callee::Member(id(9)), None, start);
        assert_eq!(calls.next(), None, "a result that comes too late");
    }

    #[test]
    fn calls_under_way_are_bounded_and_the_next_ones_follow() {
        let start = Instant::now();
        let mut calls = Calls::new(id(1), std::iter::empty(), start);
        assert!(!(2..=400).any(|node| calls.add(id(node), at(node), start)));
        let first: Vec<_> = std::iter::from_fn(|| calls.take_due(start)).collect();
        assert_eq!((first.len(), calls.next()), (CALLS, None));
        for (callee, address) in &first {
            let Callee::Member(peer) = *callee else { panic!("{callee:?}") };
            calls.linked(peer, *address);
            calls.ended(*callee, Some(peer), start);
        }
        assert_eq!(std::iter::from_fn(|| calls.take_due(start)).count(), CALLS, "none of the first ones again");
    }
}
