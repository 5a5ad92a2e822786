//! Who belongs to the cluster: membership by gossip (SWIM, by the crate `foca`), carried as datagrams on the links.
//!
//! Gossip says who exists and where; whether a peer is up is said by its link alone, and who it is by its certificate.
//! So a peer that lies in gossip can make a node call an address in vain, and no more. A node that hears of a member it
//! is not linked to calls it, the lower id at once and the higher one a little later; the full mesh follows. Sans-IO as
//! the core is, of which this is a part.

mod identity;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use foca::{Codec as _, Config, Foca, Notification, PeriodicParams, PostcardCodec, Runtime, Timer};
use forwarder_common::ids::NodeId;
use rand::SeedableRng as _;
use rand::rngs::Xoshiro256PlusPlus;

use self::identity::Member;
use super::error::ProtocolError;
use super::output::{Command, DATAGRAM_BYTES};
use crate::now::Now;

/// How long a member that is down and not linked is called on, in microseconds: a host that restarts is back by then.
const FORGET_US: u64 = 60_000_000;
/// The higher id of two waits this long, in microseconds, for the call of the lower one, which may not have heard of
/// it.
const CALL_LATER_US: u64 = 3_000_000;
/// Pause between announcements to linked peers that gossip does not know yet, in microseconds: datagrams may be lost.
const ANNOUNCE_US: u64 = 1_000_000;
/// Most timers of the gossip: suspicions that lying peers invent. Its own are eight or so.
const TIMERS: usize = 16_384;

/// SWIM's settings for up to some hundreds of nodes over wide areas. A failure is seen by the link within a second;
/// gossip only spreads who exists, so it may be slow and cheap: about ten datagrams a second for each node, however
/// many there are.
const CONFIG: Config = Config {
    probe_period: Duration::from_millis(1500),
    probe_rtt: Duration::from_millis(500),
    num_indirect_probes: NonZeroUsize::new(3).unwrap(),
    max_transmissions: NonZeroU8::new(10).unwrap(),
    suspect_to_down_after: Duration::from_secs(6),
    // A member is an entry of a few dozen bytes for each node id; forgetting it would save nothing.
    remove_down_after: None,
    max_packet_size: NonZeroUsize::new(DATAGRAM_BYTES).unwrap(),
    notify_down_members: true,
    periodic_announce: Some(PeriodicParams {
        frequency: Duration::from_secs(30),
        num_members: NonZeroUsize::new(1).unwrap(),
    }),
    periodic_announce_to_down_members: Some(PeriodicParams {
        frequency: Duration::from_secs(30),
        num_members: NonZeroUsize::new(2).unwrap(),
    }),
    periodic_gossip: Some(PeriodicParams {
        frequency: Duration::from_millis(500),
        num_members: NonZeroUsize::new(3).unwrap(),
    }),
};

type Swim = Foca<Member, PostcardCodec, Xoshiro256PlusPlus, foca::NoCustomBroadcast>;

/// What gossip says of another node.
#[derive(Clone, Copy, Debug)]
struct Known {
    listen: SocketAddr,
    /// Since when it is down, in microseconds of the monotonic clock; `None`: it is alive.
    down_us: Option<u64>,
    /// When to call it, if it is not linked until then.
    call_us: Option<u64>,
    /// The links may be calling it, or may do so when its link is gone.
    called: bool,
}

/// The members of the cluster, as far as this node knows.
pub(super) struct Members {
    node: NodeId,
    listen: SocketAddr,
    seed: u64,
    /// From the first link on: only then is the time known, which tells this incarnation from earlier ones.
    swim: Option<Swim>,
    known: BTreeMap<NodeId, Known>,
    linked: BTreeSet<NodeId>,
    /// Linked peers that gossip does not know yet, with where they listen.
    unannounced: BTreeMap<NodeId, SocketAddr>,
    announce_at_us: Option<u64>,
    /// When the next of `known` is to be called or forgotten: found anew when one of them changes, asked for after
    /// every message.
    known_at_us: Option<u64>,
    /// By when they are due, what foca wants first of those that are due at once, and order.
    timers: BTreeMap<(u64, u8, u64), Timer<Member>>,
    next_timer: u64,
    commands: VecDeque<Command>,
    /// Set for good by [`Self::leave`].
    left: bool,
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Members").field("known", &self.known).field("linked", &self.linked).finish_non_exhaustive()
    }
}

impl Members {
    pub(super) const fn new(node: NodeId, listen: SocketAddr, seed: u64) -> Self {
        Self {
            node,
            listen,
            seed,
            swim: None,
            known: BTreeMap::new(),
            linked: BTreeSet::new(),
            unannounced: BTreeMap::new(),
            announce_at_us: None,
            known_at_us: None,
            timers: BTreeMap::new(),
            next_timer: 0,
            commands: VecDeque::new(),
            left: false,
        }
    }

    /// A linked peer has introduced itself.
    pub(super) fn introduced(&mut self, peer: NodeId, listen: SocketAddr, now: Now) {
        self.linked.insert(peer);
        if let Some(known) = self.known.get_mut(&peer) {
            (known.called, known.call_us) = (true, None);
        }
        if self.known.get(&peer).is_none_or(|known| known.down_us.is_some()) {
            self.unannounced.insert(peer, listen);
            self.announce(peer, listen, now);
            self.announce_at_us.get_or_insert(now.monotonic_us.saturating_add(ANNOUNCE_US));
        }
        self.schedule();
    }

    /// The link to a peer is gone.
    pub(super) fn unlinked(&mut self, peer: NodeId, now: Now) {
        self.linked.remove(&peer);
        self.unannounced.remove(&peer);
        if let Some(known) = self.known.get_mut(&peer) {
            // The grace of one that gossip holds for down begins when its link does not say otherwise any more.
            known.down_us = known.down_us.map(|_| now.monotonic_us);
        }
        self.call(peer, now);
        self.schedule();
    }

    /// Takes a datagram of a linked peer.
    pub(super) fn handle(&mut self, peer: NodeId, bytes: &[u8], now: Now) -> Result<(), ProtocolError> {
        let header = PostcardCodec.decode_header(bytes).map_err(|_| ProtocolError::Gossip)?;
        let sender: Member = header.src;
        if sender.node != peer {
            return Err(ProtocolError::Sender);
        }
        self.with_swim(now, |swim, runtime| swim.handle_data(bytes, runtime)).map_err(|_| ProtocolError::Gossip)
    }

    /// Does what is due.
    pub(super) fn timeout(&mut self, now: Now) {
        while let Some(first) = self.timers.first_entry().filter(|first| first.key().0 <= now.monotonic_us) {
            let timer = first.remove();
            // An error is a round that was cut short, by a pause of this host for instance; the next one goes well.
            let _ = self.with_swim(now, |swim, runtime| swim.handle_timer(timer, runtime));
        }
        if self.announce_at_us.is_some_and(|at| at <= now.monotonic_us) {
            let again: Vec<(NodeId, SocketAddr)> = self.unannounced.iter().map(|(peer, at)| (*peer, *at)).collect();
            again.into_iter().for_each(|(peer, listen)| self.announce(peer, listen, now));
            let pause = now.monotonic_us.saturating_add(ANNOUNCE_US);
            self.announce_at_us = if self.unannounced.is_empty() { None } else { Some(pause) };
        }
        if self.known_at_us.is_none_or(|at| at > now.monotonic_us) {
            return;
        }
        let late = |known: &Known| known.call_us.is_some_and(|at| at <= now.monotonic_us);
        let late: Vec<NodeId> = self.known.iter().filter(|(_, known)| late(known)).map(|(peer, _)| *peer).collect();
        late.into_iter().for_each(|peer| self.call_now(peer));
        self.forget(now);
        self.schedule();
    }

    /// When [`Self::timeout`] is due, in microseconds of the monotonic clock.
    pub(super) fn due_us(&self) -> Option<u64> {
        let timer = self.timers.first_key_value().map(|((at, ..), _)| *at);
        [timer, self.announce_at_us, self.known_at_us].into_iter().flatten().min()
    }

    fn schedule(&mut self) {
        let forget = self.gone().map(|(_, at)| at).min();
        let call = self.known.values().filter_map(|known| known.call_us).min();
        self.known_at_us = [forget, call].into_iter().flatten().min();
    }

    /// The next thing to do for the links.
    pub(super) fn poll(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Tells the others that this node leaves.
    pub(super) fn leave(&mut self, now: Now) {
        if self.swim.is_some() && !self.left {
            // An error is a member that cannot be written down, and that was at the start.
            let _ = self.with_swim(now, |swim, runtime| swim.leave_cluster(runtime));
            self.left = true;
        }
    }

    /// The members that gossip says are alive, this node not counted.
    pub(super) fn alive(&self) -> usize {
        self.known.values().filter(|known| known.down_us.is_none()).count()
    }

    fn announce(&mut self, peer: NodeId, listen: SocketAddr, now: Now) {
        if self.left {
            return;
        }
        // An announcement finds its peer by the node id alone, whichever its present incarnation is.
        let to = Member { node: peer, listen, began_us: 0 };
        let _ = self.with_swim(now, |swim, runtime| swim.announce(to, runtime));
    }

    /// Calls a member that is alive and not linked, or sees to that later.
    fn call(&mut self, peer: NodeId, now: Now) {
        if self.node < peer {
            self.call_now(peer);
        } else if let Some(known) = self.known.get_mut(&peer).filter(|_| !self.linked.contains(&peer)) {
            known.call_us.get_or_insert(now.monotonic_us.saturating_add(CALL_LATER_US));
        }
    }

    fn call_now(&mut self, peer: NodeId) {
        let Some(known) = self.known.get_mut(&peer) else { return };
        known.call_us = None;
        if known.down_us.is_none() && !self.linked.contains(&peer) && !self.left {
            known.called = true;
            self.commands.push_back(Command::Call { peer, address: known.listen });
        }
    }

    /// Members that are called although gossip holds them for down, with the end of their grace.
    fn gone(&self) -> impl Iterator<Item = (NodeId, u64)> {
        let gone = self.known.iter().filter(|(peer, known)| known.called && !self.linked.contains(*peer));
        gone.filter_map(|(peer, known)| Some((*peer, known.down_us?.saturating_add(FORGET_US))))
    }

    fn forget(&mut self, now: Now) {
        let over: Vec<NodeId> = self.gone().filter(|(_, at)| *at <= now.monotonic_us).map(|(peer, _)| peer).collect();
        for peer in over {
            if let Some(known) = self.known.get_mut(&peer) {
                known.called = false;
            }
            self.commands.push_back(Command::Forget { peer });
        }
    }

    /// Lets foca act, and does what it wants done.
    fn with_swim<T>(&mut self, now: Now, act: impl FnOnce(&mut Swim, &mut Wishes) -> T) -> T {
        let (node, listen, seed) = (self.node, self.listen, self.seed);
        let swim = self.swim.get_or_insert_with(|| {
            let member = Member { node, listen, began_us: now.unix_us };
            Foca::new(member, CONFIG, Xoshiro256PlusPlus::seed_from_u64(seed), PostcardCodec)
        });
        let mut wishes = Wishes::default();
        let result = act(swim, &mut wishes);
        for (to, bytes) in wishes.datagrams {
            if self.linked.contains(&to) {
                self.commands.push_back(Command::Datagram { to, bytes });
            }
        }
        for (timer, after) in wishes.timers {
            if self.timers.len() < TIMERS {
                let due_us = now.monotonic_us.saturating_add(u64::try_from(after.as_micros()).unwrap_or(u64::MAX));
                self.next_timer += 1;
                self.timers.insert((due_us, urgency(&timer), self.next_timer), timer);
            }
        }
        if !wishes.changes.is_empty() {
            for (member, alive) in wishes.changes {
                self.changed(member, alive, now);
            }
            self.schedule();
        }
        result
    }

    fn changed(&mut self, member: Member, alive: Option<bool>, now: Now) {
        let peer = member.node;
        if peer == self.node {
            return;
        }
        let is_linked = self.linked.contains(&peer);
        let new = || Known { listen: member.listen, down_us: Some(now.monotonic_us), call_us: None, called: is_linked };
        let known = self.known.entry(peer).or_insert_with(new);

        let moved = known.listen != member.listen;
        known.listen = member.listen;
        match alive {
            Some(true) => {
                known.down_us = None;
                self.unannounced.remove(&peer);
                self.call(peer, now);
            }
            Some(false) => known.down_us = Some(now.monotonic_us),
            None if moved => self.call(peer, now),
            None => {}
        }
    }
}

/// What foca wants first of what is due at the same time: the end of a probe before the next one.
const fn urgency(timer: &Timer<Member>) -> u8 {
    match timer {
        Timer::SendIndirectProbe { .. } => 0,
        Timer::ProbeRandomMember(_) => 1,
        Timer::ChangeSuspectToDown { .. } => 2,
        Timer::PeriodicAnnounce(_)
        | Timer::PeriodicGossip(_)
        | Timer::PeriodicAnnounceDown(_)
        | Timer::RemoveDown(_) => 3,
    }
}

/// What foca asks for in one turn.
#[derive(Default)]
struct Wishes {
    datagrams: Vec<(NodeId, Vec<u8>)>,
    timers: Vec<(Timer<Member>, Duration)>,
    /// A member, and whether it is alive now if that has changed.
    changes: Vec<(Member, Option<bool>)>,
}

impl Runtime<Member> for Wishes {
    fn notify(&mut self, notification: Notification<'_, Member>) {
        match notification {
            Notification::MemberUp(member) => self.changes.push((*member, Some(true))),
            Notification::MemberDown(member) => self.changes.push((*member, Some(false))),
            Notification::Rename(_, member) => self.changes.push((*member, None)),
            Notification::Active | Notification::Idle | Notification::Defunct | Notification::Rejoin(_) => {}
        }
    }

    fn send_to(&mut self, to: Member, data: &[u8]) {
        self.datagrams.push((to.node, data.to_vec()));
    }

    fn submit_after(&mut self, timer: Timer<Member>, after: Duration) {
        self.timers.push((timer, after));
    }
}
