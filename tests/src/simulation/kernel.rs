//! What the kernel of one host holds: the claim table with its own algorithm, and what it was told of the peers.

use std::{cell::Cell, collections::BTreeSet};

use forwarder_common::{
    abi::{ClaimEvent, DATAGRAM_SLOTS, EVENT_KEPT, EVENT_NEW, LeaseWord, Lifetimes},
    claim::{self, Decision},
    ids::{Epoch, Epochs, NodeId, Tick},
    keys::Seen,
    lifetime::Lifetime,
    question::{self, Answer, Held},
    rendezvous,
    rest::{Class, KeyKind, Purpose, Rest},
    sip::Kind,
    table::{self, Buckets, Entry, Place, SLOTS},
    verdict::{Found, Verdict, decide, look_up, without_answer},
    worth::{self, Scales, Standing, Weighs},
};
use forwarder_core::{
    failover::{Given, Inherited, Introduction, Lease},
    node::{LocalClaim, Now},
};

/// What a daemon asks a peer's programs through the tunnel; both keys are 0 where it asks only whether they are there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub(super) request_key: u64,
    pub(super) reply_key: u64,
    pub(super) ticket: u32,
}

/// What the kernel knows of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) up: bool,
    pub(super) epochs: Epochs,
}

/// What becomes of a packet that only a daemon can finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Punt {
    /// The daemon gets it.
    ToDaemon,
    /// No daemon lives here: that peer's decides.
    Relay(NodeId),
    /// No daemon lives here and nobody can be asked, but one leg of its call is known.
    ToOwner(NodeId),
    /// It passes to the local proxy.
    Pass,
}

/// What the egress program says of a claim that it made or changed, or of a message of the claim's transaction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// As it lies in the ring buffer.
    pub(super) event: ClaimEvent,
    /// The claim as the owner's daemon has it to be.
    pub(super) claim: LocalClaim,
}

impl Told {
    /// The claim is as it was.
    pub(super) const fn is_kept(&self) -> bool {
        self.event.flags == EVENT_KEPT
    }
}

/// A key as the egress program claims it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claimed {
    pub(super) key: u64,
    pub(super) kind: KeyKind,
    /// Of the message.
    pub(super) request_key: u64,
    /// What the request key and the branch of the top Via give.
    pub(super) branch: u64,
}

#[derive(Debug)]
struct Memory(Vec<[Cell<u64>; SLOTS]>);

impl Buckets for &Memory {
    type Line = usize;

    fn line(&self, bucket: u32) -> Option<usize> {
        let bucket = bucket as usize;
        (bucket < self.0.len()).then_some(bucket)
    }

    fn read(&self, line: usize, slot: u32) -> Entry {
        Entry(self.0[line][slot as usize].get())
    }

    fn exchange(&self, place: Place, old: Entry, new: Entry) -> bool {
        let slot = &self.0[place.bucket as usize][place.slot as usize];
        let is_same = slot.get() == old.0;
        if is_same {
            slot.set(new.0);
        }
        is_same
    }

    fn hide(&mut self, value: u64) -> u64 {
        value
    }
}

/// The maps of one host. They outlive its daemons.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) node: NodeId,
    /// Under which epochs the proxy claims; `None` before the first daemon.
    pub(super) given: Option<Given>,
    lease: LeaseWord,
    /// A daemon holds the program by which packets are punted: it goes with the daemon.
    pub(super) has_punts: bool,
    /// By slot, 0 for nobody.
    successors: Vec<u16>,
    memory: Memory,
    /// The words beside the entries.
    rests: Vec<[u64; SLOTS]>,
    lifetimes: Lifetimes,
    mask: u32,
    /// By node id.
    peers: Vec<Option<Peer>>,
    up: usize,
    /// Live claims that gave way in a full table.
    pub(super) evicted: u64,
}

impl Kernel {
    /// Empty maps with room for `claims` claims at half load, of a cluster of at most `nodes` nodes.
    pub(super) fn new(node: NodeId, claims: usize, nodes: usize, lifetimes: Lifetimes) -> Self {
        let buckets = (claims * 2 / SLOTS).next_power_of_two();
        let memory = Memory((0..buckets).map(|_| Default::default()).collect());
        Self {
            node,
            given: None,
            lease: LeaseWord::default(),
            has_punts: false,
            successors: vec![0; DATAGRAM_SLOTS as usize],
            rests: vec![[0; SLOTS]; buckets],
            lifetimes,
            memory,
            mask: buckets as u32 - 1,
            peers: vec![None; nodes + 1],
            up: 0,
            evicted: 0,
        }
    }

    /// What a daemon that starts takes over.
    pub(super) fn inherited(&self) -> Inherited {
        let is_up = |id: &u16| self.peers[usize::from(*id)].is_some_and(|peer| peer.up);
        let peers_up: BTreeSet<NodeId> = (1..self.peers.len() as u16).filter(is_up).filter_map(NodeId::new).collect();
        let (diverts, drains) = (self.lease.says_divert(), self.lease.drains());
        let lease = Lease { diverts, drains, until_us: self.lease.until_ns() / 1000 };
        Inherited { given: self.given.clone(), peers_up, lease }
    }

    /// The epoch of the proxy's claims.
    pub(super) fn epoch(&self) -> Epoch {
        self.given.as_ref().and_then(|given| given.services.first().copied()).unwrap_or(Epoch::new(0))
    }

    /// Bytes of the claim table and of its keys.
    pub(super) const fn table_bytes(&self) -> usize {
        (self.memory.0.len() + self.rests.len()) * SLOTS * size_of::<u64>()
    }

    /// Writes a claim that the core takes for the one that counts.
    pub(super) fn set_claim(
        &mut self,
        key: u64,
        (owner, epoch): (NodeId, Epoch),
        purpose: Purpose,
        remaining_ms: u64,
        now: Now,
    ) {
        let tick = tick(now);
        let expires = tick.after(Tick::covering_ms(remaining_ms));
        let entry = Entry::new(key, owner.number(), epoch.number(), expires);
        self.put(key, entry, Rest::for_purpose(key, purpose), tick);
    }

    /// Writes what the daemon takes a peer for.
    pub(super) fn set_peer(&mut self, node: NodeId, up: bool, said: Introduction) {
        self.peers[usize::from(node.number())] = Some(Peer { up, epochs: said.epochs });
        self.count_peers();
    }

    /// Takes a peer down that an earlier daemon left up.
    pub(super) fn take_down(&mut self, node: NodeId) {
        if let Some(peer) = &mut self.peers[usize::from(node.number())] {
            peer.up = false;
        }
        self.count_peers();
    }

    fn count_peers(&mut self) {
        self.up = self.peers.iter().flatten().filter(|peer| peer.up).count();
    }

    /// Writes what is done with what nobody owns, and until when the daemon lives at least.
    pub(super) const fn set_lease(&mut self, lease: Lease) {
        self.lease = LeaseWord::new(lease.diverts, lease.drains, lease.until_us * 1000);
    }

    /// Writes who takes the new transactions of each slot while this node takes none, 0 for nobody.
    pub(super) fn set_successors(&mut self, successors: Vec<u16>) {
        self.successors = successors;
    }

    /// Whether the node drains: see [`forwarder_common::lifetime::of`].
    pub(super) const fn drains(&self) -> bool {
        self.lease.drains()
    }

    /// What becomes of a packet that needs a daemon: [`Verdict::Ask`]. One that was relayed here is not relayed again.
    pub(super) fn punt(&self, verdict: Verdict, is_relayed: bool, request_key: u64, slot: u32, now: Now) -> Punt {
        let now_ns = now.monotonic_us * 1000;
        if self.has_punts && self.lease.has_daemon(now_ns) {
            return Punt::ToDaemon;
        }
        if is_relayed {
            return Punt::Pass;
        }
        if self.lease.knows_peers(now_ns) {
            return self.successor(slot).map_or(Punt::Pass, Punt::Relay);
        }
        match verdict {
            Verdict::Ask(outcome) => match without_answer(outcome, || self.owner(request_key, now)) {
                Found::Peer(owner) => Punt::ToOwner(owner),
                Found::Nothing | Found::Own | Found::OtherBranch => Punt::Pass,
            },
            Verdict::Local(_) | Verdict::ToOwner(_) | Verdict::Divert(_) => Punt::Pass,
        }
    }

    fn successor(&self, slot: u32) -> Option<NodeId> {
        NodeId::new(*self.successors.get(slot as usize % self.successors.len().max(1))?)
    }

    /// What the table has for a key, live or not.
    pub(super) fn entry(&self, key: u64) -> Option<Entry> {
        table::find(&&self.memory, self.mask, key).map(|(_, entry)| entry)
    }

    /// What the table says of a key.
    pub(super) fn owner(&self, key: u64, now: Now) -> Found {
        Found::of(self.entry(key), self.node, tick(now), |id| self.live_epochs(id))
    }

    /// What the programs answer to a question of a peer.
    pub(super) fn answer(&self, question: &Question, now: Now) -> Answer {
        let held = question::held(question.request_key, question.reply_key, |key, kind| {
            let entry = self.entry(key).filter(|_| self.owner(key, now) == Found::Own)?;
            Some(Held { kind, epoch: entry.epoch(), ticks: entry.remaining(tick(now)) as u16 })
        });
        let has_daemon = self.lease.has_daemon(now.monotonic_us * 1000);
        Answer { held, epochs: Epochs::EMPTY.with(self.epoch()), has_daemon }
    }

    /// This node's own live claims, for a daemon that takes over the maps; when they were made they do not tell.
    pub(super) fn own_claims(&self, now: Now) -> Vec<LocalClaim> {
        let buckets = self.memory.0.iter().zip(&self.rests).zip(0..);
        let slots = buckets.flat_map(|((entries, rests), bucket)| {
            entries.iter().zip(rests).map(move |(entry, rest)| (Entry(entry.get()), Rest(*rest), bucket))
        });
        let own = slots.filter_map(|(entry, rest, bucket)| {
            let ticks = u16::try_from(entry.remaining(tick(now))).ok().filter(|ticks| *ticks != 0)?;
            let key = rest.key(entry, bucket, self.mask).filter(|_| self.is_own(entry))?;
            let (remaining_ms, epoch, purpose) = (Tick::milliseconds(ticks), entry.epoch(), rest.purpose());
            Some(LocalClaim { key, claimed_at_unix_us: 0, remaining_ms, epoch, purpose })
        });
        own.collect()
    }

    /// What is left of the claim that the table has for a key, in microseconds, rounded up to ticks; 0 for none.
    pub(super) fn remaining_us(&self, key: u64, now: Now) -> u64 {
        self.entry(key).map_or(0, |entry| Tick::milliseconds(entry.remaining(tick(now)) as u16) * 1000)
    }

    /// Whether any peer is up.
    pub(super) const fn peer_up(&self) -> bool {
        self.up > 0
    }

    /// What the kernel knows of the peers, by node id.
    pub(super) fn peer(&self, node: usize) -> Option<Peer> {
        self.peers.get(node).copied().flatten()
    }

    /// The verdict of the ingress program: replies by `X`, all else by `L`.
    pub(super) fn verdict(&self, kind: Kind, request_key: u64, reply_key: u64, now: Now) -> Verdict {
        let has_reply_key = Seen::Arriving.has_reply_key(kind == Kind::Response);
        let found = look_up(has_reply_key.then_some(reply_key), || request_key, |key| self.owner(key, now));
        let diverts = self.lease.diverts(now.monotonic_us * 1000);
        let successor = if diverts { self.successor(rendezvous::successor_slot(request_key)) } else { None };
        decide(kind, found, self.peer_up(), successor)
    }

    /// The egress program for one key; what goes into the ring buffer.
    pub(super) fn claim(&mut self, claimed: Claimed, lifetime: Lifetime, now: Now) -> Option<Told> {
        let Claimed { key, kind, request_key, branch } = claimed;
        let tick = tick(now);
        let live = |id| self.live_epochs(id);
        let effective = self.entry(key).filter(|entry| claim::is_effective(*entry, tick, live));
        let lifetime = claim::lifetime(effective, lifetime, self.node.number(), tick);
        let decision = claim::decide(effective, lifetime, self.node.number(), tick);
        let sender = self.epoch();
        let is_kept = decision == Decision::Tell;
        let epoch = if is_kept { sender } else { Epoch::new(claim::epoch(effective, sender.number()).into()) };
        let flags = match decision {
            Decision::New => EVENT_NEW,
            Decision::Refresh => 0,
            Decision::Tell => EVENT_KEPT,
            Decision::Keep | Decision::Foreign | Decision::NoClaim => return None,
        };
        if !is_kept {
            let entry = Entry::new(key, self.node.number(), epoch.number(), tick.after(lifetime.ticks));
            self.put(key, entry, Rest::of(key, 0, kind, lifetime.class), tick);
        }
        let event = ClaimEvent {
            key,
            other: lifetime.tied_to(kind, request_key, branch),
            at_ns: now.monotonic_us * 1000,
            ticks: lifetime.ticks,
            epoch: epoch.number(),
            flags,
            service: 0,
            kind: kind.code() as u8,
            class: lifetime.class.code() as u8,
            sign: lifetime.sign.code() as u8,
        };
        let remaining_ms = Tick::milliseconds(lifetime.ticks);
        let purpose = Purpose::of(kind, lifetime.class);
        let claim = LocalClaim { key, claimed_at_unix_us: now.unix_us, remaining_ms, epoch, purpose };
        Some(Told { event, claim })
    }

    /// The end of a claim of this node is another one, from `was_ms` to `remaining_ms`, and it is of that class; false
    /// where the programs have made it longer meanwhile.
    pub(super) fn set_end(
        &mut self,
        (key, epoch): (u64, Epoch),
        class: Class,
        (was_ms, remaining_ms): (u64, u64),
        now: Now,
    ) -> bool {
        let tick = tick(now);
        let Some((place, entry)) = table::find(&&self.memory, self.mask, key) else { return false };
        let ended = claim::ended(entry, (key, epoch), self.node.number(), was_ms, remaining_ms, tick);
        let is_set = ended.is_some_and(|ended| (&self.memory).exchange(place, entry, ended));
        if is_set {
            let rest = &mut self.rests[place.bucket as usize][place.slot as usize];
            *rest = Rest(*rest).with_class(class).0;
        }
        is_set
    }

    /// Whether an entry is a claim of this node under a live epoch.
    pub(super) fn is_own(&self, entry: Entry) -> bool {
        entry.owner() == self.node.number() && entry.epoch() == self.epoch()
    }

    /// The live epochs of a node, this one or a peer; none of one that is down.
    fn live_epochs(&self, id: u16) -> Epochs {
        if id == self.node.number() {
            return Epochs::EMPTY.with(self.epoch());
        }
        self.peer(usize::from(id)).map_or(Epochs::EMPTY, |peer| claim::live(peer.up, peer.epochs))
    }

    fn put(&mut self, key: u64, entry: Entry, rest: Rest, tick: Tick) {
        let mut memory = &self.memory;
        let known = table::find(&memory, self.mask, key);
        let chosen = known.or_else(|| table::choose(&mut memory, self.mask, key, tick));
        let is_full = known.is_none() && chosen.is_some_and(|(_, old)| old.remaining(tick) != 0);
        let found = if is_full { self.room(key, entry, rest, tick) } else { chosen };
        // One of two is lost: another's, or this.
        self.evicted += u64::from(is_full);
        let Some((place, old)) = found else { return };
        if (&self.memory).exchange(place, old, entry) {
            self.rests[place.bucket as usize][place.slot as usize] = rest.0;
        }
    }

    /// What gives way in a full table.
    fn room(&self, key: u64, entry: Entry, rest: Rest, tick: Tick) -> Option<(Place, Entry)> {
        let standing =
            |entry: Entry, rest| Standing::of(entry, rest, tick, self.live_epochs(entry.owner()), &self.lifetimes);
        let mut weighed = Weighed { kernel: self, tick, scales: Scales::new(standing(entry, rest)) };
        worth::make_room(&mut weighed, self.mask, key).ok()
    }
}

/// The table while its claims are weighed.
struct Weighed<'a> {
    kernel: &'a Kernel,
    tick: Tick,
    scales: Scales,
}

impl Buckets for Weighed<'_> {
    type Line = usize;

    fn line(&self, bucket: u32) -> Option<usize> {
        (&self.kernel.memory).line(bucket)
    }

    fn read(&self, line: usize, slot: u32) -> Entry {
        (&self.kernel.memory).read(line, slot)
    }

    fn exchange(&self, place: Place, old: Entry, new: Entry) -> bool {
        (&self.kernel.memory).exchange(place, old, new)
    }

    fn hide(&mut self, value: u64) -> u64 {
        value
    }
}

impl Weighs for Weighed<'_> {
    fn weigh(&mut self, number: usize, place: Place) {
        let entry = self.load(place).unwrap_or_default();
        let rest = Rest(self.kernel.rests[place.bucket as usize][place.slot as usize]);
        let live = self.kernel.live_epochs(entry.owner());
        self.scales.put(number, Standing::of(entry, rest, self.tick, live, &self.kernel.lifetimes));
    }

    fn worth(&mut self, number: usize) -> u64 {
        self.scales.worth(number)
    }
}

fn tick(now: Now) -> Tick {
    Tick::at(now.monotonic_us * 1000)
}
