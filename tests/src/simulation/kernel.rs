//! What the kernel of one host holds: the claim table with its own algorithm, and what it was told of the peers.

use std::cell::Cell;

use forwarder_common::{
    abi::Lifetimes,
    ids::{Epoch, NodeId, Tick},
    lifetime::Lifetime,
    table::{self, Buckets, Entry, Place, SLOTS},
    verdict::{Found, Kind, Verdict, decide},
};
use forwarder_core::node::{LocalClaim, MapWrite, Now, State};

/// T4 of RFC 3261 §17.1.1.2 in milliseconds.
const T4_MS: u64 = 5000;

/// The lifetimes that the daemon derives from SIP's timers.
pub(super) fn lifetimes(t1_ms: u64, timer_c_ms: u64) -> Lifetimes {
    let final_ms = 64 * t1_ms + T4_MS;
    Lifetimes {
        proceeding: Tick::covering_ms(timer_c_ms + final_ms),
        failed: Tick::covering_ms(64 * t1_ms + final_ms),
        ended: Tick::covering_ms(final_ms),
    }
}

/// What the kernel knows of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) up: bool,
    pub(super) epoch: Epoch,
    pub(super) state: State,
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

/// The maps of one host.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) node: NodeId,
    pub(super) epoch: Epoch,
    /// The node takes no new transactions.
    pub(super) diverts: bool,
    /// The node drains: see [`forwarder_common::lifetime::of`].
    pub(super) drains: bool,
    memory: Memory,
    /// The key of the claim of this node that was made in a slot.
    keys: Vec<[u64; SLOTS]>,
    mask: u32,
    /// By node id.
    peers: Vec<Option<Peer>>,
    up: usize,
    /// Live claims that gave way in a full table.
    pub(super) evicted: u64,
}

impl Kernel {
    /// Empty maps with room for `claims` claims at half load, of a cluster of at most `nodes` nodes.
    pub(super) fn new(node: NodeId, epoch: Epoch, claims: usize, nodes: usize) -> Self {
        let buckets = (claims * 2 / SLOTS).next_power_of_two();
        let memory = Memory((0..buckets).map(|_| Default::default()).collect());
        Self {
            node,
            epoch,
            diverts: false,
            drains: false,
            keys: vec![[0; SLOTS]; buckets],
            memory,
            mask: buckets as u32 - 1,
            peers: vec![None; nodes + 1],
            up: 0,
            evicted: 0,
        }
    }

    /// Bytes of the claim table and of its keys.
    pub(super) const fn table_bytes(&self) -> usize {
        (self.memory.0.len() + self.keys.len()) * SLOTS * size_of::<u64>()
    }

    /// What the core has decided.
    pub(super) fn write(&mut self, write: MapWrite, now: Now) {
        match write {
            MapWrite::Claim { key, owner, epoch, remaining_ms } => {
                let tick = tick(now);
                let expires = tick.after(Tick::covering_ms(remaining_ms));
                self.put(key, Entry::new(key, owner.number(), epoch.number(), expires), tick);
            }
            MapWrite::Peer { node, up, state, epoch, .. } => {
                self.peers[usize::from(node.number())] = Some(Peer { up, epoch, state });
                self.up = self.peers.iter().flatten().filter(|peer| peer.up).count();
            }
        }
    }

    /// What the table says of a key.
    pub(super) fn owner(&self, key: u64, now: Now) -> Found {
        let Some((_, entry)) = table::find(&&self.memory, self.mask, key) else { return Found::Nothing };
        if !self.is_live(entry, tick(now)) {
            return Found::Nothing;
        }
        match NodeId::new(entry.owner()) {
            Some(owner) if owner == self.node => Found::Own,
            Some(owner) => Found::Peer(owner),
            None => Found::Nothing,
        }
    }

    /// This node's own live claims, for a daemon that takes over the maps; when they were made they do not tell.
    pub(super) fn own_claims(&self, now: Now) -> Vec<LocalClaim> {
        let (entries, keys) = (self.memory.0.iter().flatten(), self.keys.iter().flatten());
        let own = entries.map(|entry| Entry(entry.get())).zip(keys).filter_map(|(entry, key)| {
            let ticks = u16::try_from(entry.remaining(tick(now))).ok().filter(|ticks| *ticks != 0)?;
            let is_mine = self.is_own(entry) && entry.matches(*key);
            is_mine.then(|| LocalClaim { key: *key, claimed_at_unix_us: 0, remaining_ms: Tick::milliseconds(ticks) })
        });
        own.collect()
    }

    /// What is left of the claim that the table has for a key, in microseconds, rounded up to ticks; 0 for none.
    pub(super) fn remaining_us(&self, key: u64, now: Now) -> u64 {
        let found = table::find(&&self.memory, self.mask, key);
        found.map_or(0, |(_, entry)| Tick::milliseconds(entry.remaining(tick(now)) as u16) * 1000)
    }

    /// Whether any peer is up.
    pub(super) const fn peer_up(&self) -> bool {
        self.up > 0
    }

    /// What the kernel knows of the peers, by node id.
    pub(super) fn peer(&self, node: usize) -> Option<Peer> {
        self.peers.get(node).copied().flatten()
    }

    /// Whom a new transaction goes to while this node takes none: all nodes that see the same peers choose the same.
    pub(super) fn taker(&self, request_key: u64) -> Option<NodeId> {
        if !self.diverts {
            return None;
        }
        let healthy = (1..self.peers.len()).filter(|id| self.peer(*id).is_some_and(|p| p.up && p.state == State::Up));
        let chosen = healthy.max_by_key(|id| {
            (request_key & 0x3ff ^ (*id as u64) << 10).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
        })?;
        NodeId::new(u16::try_from(chosen).ok()?)
    }

    /// The verdict of the ingress program: replies by `X`, all else by `L`.
    pub(super) fn verdict(&self, kind: Kind, request_key: u64, reply_key: u64, now: Now) -> Verdict {
        let by_request = self.owner(request_key, now);
        let found = match kind {
            Kind::Response => match (self.owner(reply_key, now), by_request) {
                (Found::Nothing, Found::Nothing) => Found::Nothing,
                (Found::Nothing, _) => Found::OtherBranch,
                (found, _) => found,
            },
            Kind::Request | Kind::Ack | Kind::Cancel => by_request,
        };
        decide(kind, found, self.peer_up(), self.taker(request_key))
    }

    /// The egress program for one key; what goes into the ring buffer.
    pub(super) fn claim(&mut self, key: u64, lifetime: Lifetime, now: Now) -> Option<LocalClaim> {
        let tick = tick(now);
        let known = table::find(&&self.memory, self.mask, key).map(|(_, entry)| entry);
        let standing = known.filter(|entry| self.is_live(*entry, tick));
        match standing {
            // A live claim of a live peer is not overwritten.
            Some(entry) if entry.owner() != self.node.number() => return None,
            Some(entry) if !lifetime.changes(entry.remaining(tick) as u16) => return None,
            None if !lifetime.claims => return None,
            _ => {}
        }
        let expires = tick.after(lifetime.ticks);
        let entry = Entry::new(key, self.node.number(), self.epoch.number(), expires);
        if let Some(place) = self.put(key, entry, tick) {
            self.keys[place.bucket as usize][place.slot as usize] = key;
        }
        let remaining_ms = Tick::milliseconds(lifetime.ticks);
        Some(LocalClaim { key, claimed_at_unix_us: now.unix_us, remaining_ms })
    }

    fn is_own(&self, entry: Entry) -> bool {
        entry.owner() == self.node.number() && entry.epoch() == self.epoch
    }

    fn is_live(&self, entry: Entry, tick: Tick) -> bool {
        let of_live_peer =
            || self.peer(usize::from(entry.owner())).is_some_and(|peer| peer.up && peer.epoch == entry.epoch());
        entry.remaining(tick) != 0 && (self.is_own(entry) || of_live_peer())
    }

    fn put(&mut self, key: u64, entry: Entry, tick: Tick) -> Option<Place> {
        let mut memory = &self.memory;
        let found = table::find(&memory, self.mask, key).or_else(|| {
            let chosen = table::choose(&mut memory, self.mask, key, tick);
            self.evicted += u64::from(chosen.is_some_and(|(_, old)| old.remaining(tick) != 0));
            chosen
        });
        let (place, old) = found?;
        memory.exchange(place, old, entry).then_some(place)
    }
}

fn tick(now: Now) -> Tick {
    Tick::at(now.monotonic_us * 1000)
}
