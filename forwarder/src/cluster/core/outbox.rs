//! What waits to be sent, and when it goes.
//!
//! Keys wait, not claims: a claim's remaining lifetime is computed when it leaves, and one that lost or ended meanwhile
//! stays here. Everything waiting leaves at once when nothing was sent for a while, else at most every
//! `max(100 µs, 25 µs a peer)`, because the cost of sending follows packets times peers.

use std::collections::{BTreeMap, VecDeque};

use forwarder_common::ids::NodeId;

use super::{CoreCounters, Kind, NodeSettings, Now, Output};
use crate::cluster::store::{Entry, Store};
use crate::cluster::wire::{Claim, MESSAGE_CLAIMS, Message};

/// Shortest pause between two flushes in microseconds.
const PAUSE_US: u64 = 100;
/// What each peer adds to the pause in microseconds.
const PAUSE_PER_PEER_US: u64 = 25;
/// Most claims waiting for all peers: more than half a second at 100,000 claims/s, 1 MB.
const WAITING_CLAIMS: usize = 65_536;
/// Most claims waiting to be asserted to one peer.
const ASSERTED_CLAIMS: usize = 4_096;
/// Most messages for each peer in one flush; what is left goes in the next one.
const FLUSH_MESSAGES: usize = 64;
/// Pause between two steps of the snapshots in microseconds.
const SNAPSHOT_US: u64 = 2_000;
/// Messages in one step, for all peers that wait for a snapshot: 1.6 million claims a second.
const SNAPSHOT_MESSAGES: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Keys for all peers, with whether it is a refresh.
    waiting: VecDeque<(u64, bool)>,
    /// Keys for one peer that claimed them in vain.
    asserted: BTreeMap<NodeId, VecDeque<u64>>,
    /// Peers that get a snapshot, with the key from which to go on.
    snapshots: VecDeque<(NodeId, u64)>,
    flush_at_us: Option<u64>,
    flushed_us: Option<u64>,
    snapshot_at_us: Option<u64>,
}

impl Outbox {
    /// Queues a claim for all `peers` peers; false when too many wait.
    pub(super) fn push(&mut self, key: u64, refresh: bool, now: Now, peers: usize) -> bool {
        if self.waiting.len() >= WAITING_CLAIMS {
            return false;
        }
        self.waiting.push_back((key, refresh));
        self.schedule(now, peers);
        true
    }

    /// Queues a claim for one of the `peers` peers; false when too many wait.
    pub(super) fn assert_to(&mut self, peer: NodeId, key: u64, now: Now, peers: usize) -> bool {
        let keys = self.asserted.entry(peer).or_default();
        if keys.len() >= ASSERTED_CLAIMS {
            return false;
        }
        keys.push_back(key);
        self.schedule(now, peers);
        true
    }

    /// All live claims of this node go to `peer`.
    pub(super) fn begin_snapshot(&mut self, peer: NodeId, now: Now) {
        self.snapshots.retain(|(to, _)| *to != peer);
        self.snapshots.push_back((peer, 0));
        self.snapshot_at_us.get_or_insert(now.monotonic_us);
    }

    /// Drops what waits for one peer only.
    pub(super) fn forget(&mut self, peer: NodeId) {
        self.asserted.remove(&peer);
        self.snapshots.retain(|(to, _)| *to != peer);
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len() + self.asserted.values().map(VecDeque::len).sum::<usize>()
    }

    pub(super) fn due_us(&self) -> Option<u64> {
        [self.flush_at_us, self.snapshot_at_us].into_iter().flatten().min()
    }

    /// Sends what is due to the peers in `up`.
    pub(super) fn send(
        &mut self,
        settings: &NodeSettings,
        store: &Store,
        up: &[NodeId],
        outputs: &mut VecDeque<Output>,
        counters: &mut CoreCounters,
        now: Now,
    ) {
        let due = |at: Option<u64>| at.is_some_and(|at| at <= now.monotonic_us);
        let mut sender = Sender { settings, store, outputs, counters, now };
        if due(self.flush_at_us) {
            self.flush(&mut sender, up);
        }
        if due(self.snapshot_at_us) {
            self.step_snapshots(&mut sender);
        }
    }

    fn schedule(&mut self, now: Now, peers: usize) {
        let idle_from = self.flushed_us.map_or(0, |at| at.saturating_add(pause_us(peers)));
        self.flush_at_us.get_or_insert(idle_from.max(now.monotonic_us));
    }

    fn flush(&mut self, sender: &mut Sender<'_>, up: &[NodeId]) {
        for _ in 0..FLUSH_MESSAGES {
            let chunk: Vec<(u64, bool)> = self.waiting.drain(..self.waiting.len().min(MESSAGE_CLAIMS)).collect();
            if chunk.is_empty() {
                break;
            }
            sender.batch(chunk, up);
        }
        for peer in up {
            let Some(keys) = self.asserted.get_mut(peer) else { continue };
            for _ in 0..FLUSH_MESSAGES {
                let chunk: Vec<(u64, bool)> =
                    keys.drain(..keys.len().min(MESSAGE_CLAIMS)).map(|key| (key, true)).collect();
                if chunk.is_empty() {
                    break;
                }
                sender.batch(chunk, std::slice::from_ref(peer));
            }
        }
        self.asserted.retain(|_, keys| !keys.is_empty());
        self.flushed_us = Some(sender.now.monotonic_us);
        self.flush_at_us = None;
        if !self.waiting.is_empty() || !self.asserted.is_empty() {
            self.schedule(sender.now, up.len());
        }
    }

    fn step_snapshots(&mut self, sender: &mut Sender<'_>) {
        for _ in 0..SNAPSHOT_MESSAGES {
            let Some((peer, from)) = self.snapshots.pop_front() else { break };
            if let Some(next) = sender.snapshot(peer, from) {
                // The peers take turns, so that a large snapshot delays nobody's small one.
                self.snapshots.push_back((peer, next));
            }
        }
        let again = sender.now.monotonic_us.saturating_add(SNAPSHOT_US);
        self.snapshot_at_us = if self.snapshots.is_empty() { None } else { Some(again) };
    }
}

fn pause_us(peers: usize) -> u64 {
    PAUSE_US.max(PAUSE_PER_PEER_US.saturating_mul(peers as u64))
}

/// Everything that turning keys into messages needs.
struct Sender<'a> {
    settings: &'a NodeSettings,
    store: &'a Store,
    outputs: &'a mut VecDeque<Output>,
    counters: &'a mut CoreCounters,
    now: Now,
}

impl Sender<'_> {
    fn batch(&mut self, keys: Vec<(u64, bool)>, to: &[NodeId]) {
        let now_us = self.now.monotonic_us;
        let claims: Vec<Claim> = keys
            .into_iter()
            .filter_map(|(key, refresh)| {
                own_claim(self.settings, key, self.store.live(key, now_us)?, refresh, self.now)
            })
            .collect();
        if claims.is_empty() {
            return;
        }
        self.counters.batches_sent += to.len() as u64;
        self.counters.claims_sent += (claims.len() * to.len()) as u64;
        let message = Message::Batch(claims).encode();
        for peer in to {
            self.outputs.push_back(Output::Send { to: *peer, message: message.clone(), kind: Kind::Batch });
        }
    }

    /// Sends the next message of a snapshot; the key from which to go on, if that was not all.
    fn snapshot(&mut self, to: NodeId, from: u64) -> Option<u64> {
        let live = self.store.live_from(from, self.now.monotonic_us);
        let mut own = live.filter_map(|(key, entry)| own_claim(self.settings, key, entry, true, self.now));
        let claims: Vec<Claim> = own.by_ref().take(MESSAGE_CLAIMS).collect();
        let next = own.next().map(|claim| claim.key);
        drop(own);
        if !claims.is_empty() {
            self.counters.snapshots_sent += 1;
            self.counters.claims_sent += claims.len() as u64;
            let message = Message::Snapshot(claims).encode();
            self.outputs.push_back(Output::Send { to, message, kind: Kind::Snapshot });
        }
        next
    }
}

/// A claim as it travels, if it is this node's.
pub(super) fn own_claim(settings: &NodeSettings, key: u64, entry: &Entry, refresh: bool, now: Now) -> Option<Claim> {
    if entry.owner != settings.node || entry.epoch != settings.epoch {
        return None;
    }
    let remaining_ms = u32::try_from(entry.expires_us.saturating_sub(now.monotonic_us).div_ceil(1000)).ok()?;
    Some(Claim { key, claimed_at_unix_us: entry.claimed_at_unix_us, remaining_ms, epoch: entry.epoch, refresh })
}
