//! The cluster as a pure state machine: what a node does with its own claims, its peers' messages and the passing of time.
//!
//! No socket, clock, task or random number in here: times are arguments, and what is to be sent or written into the kernel's
//! maps comes out of [`Node::poll_output`]. The shell calls a `handle_*`, then polls outputs until there are none, then sleeps
//! until [`Node::poll_timeout`]. A peer can only ever claim for itself: its id is the shell's word, from its certificate.

mod asks;
mod interface;
mod outbox;

use std::collections::{BTreeMap, VecDeque};

use forwarder_common::ids::{Epoch, NodeId};

use self::asks::Asks;
use self::outbox::Outbox;
use super::ages::{AgeSummary, Ages};
use super::members::Members;
use super::store::{Entry, Merged, Store};
use super::wire::{Claim, Hello, LIFETIME_MS, Message, WireError};

pub use self::interface::{
    CoreCounters, Kind, LocalClaim, MapWrite, NodeSettings, Now, Output, PeerView, ProtocolError, State,
};

/// Longest datagram between two nodes in bytes: with QUIC's headers it fits into the least packet that any path carries.
pub const DATAGRAM_BYTES: usize = 1100;
/// Pause between sweeps of ended claims in microseconds: they are invisible already, this only frees their memory.
const SWEEP_US: u64 = 100_000;
/// Claims looked at in one sweep: at 100,000 claims/s from each of a few peers, all that end in the pause, in about 5 ms.
const SWEEP_CLAIMS: usize = 32_768;
/// A longer end than this, in microseconds, is worth a write into the kernel's map, whose own clock ticks in 4.3 s; what is
/// shorter is the jitter of the way here.
const EXTENSION_US: u64 = 500_000;

#[derive(Debug, Default)]
struct Peer {
    /// The hello of the present or the last link.
    hello: Option<Hello>,
    /// There is a link, on which this node has introduced itself.
    linked: bool,
    /// The present link has brought its hello.
    introduced: bool,
    /// The map says that the peer is up.
    up: bool,
}

/// One node of the cluster.
#[derive(Debug)]
pub struct Node {
    settings: NodeSettings,
    state: State,
    store: Store,
    peers: BTreeMap<NodeId, Peer>,
    /// Peers that are linked and have introduced themselves.
    introduced: usize,
    outbox: Outbox,
    asks: Asks,
    members: Members,
    outputs: VecDeque<Output>,
    sweep_at_us: Option<u64>,
    ages: Ages,
    counters: CoreCounters,
}

impl Node {
    /// A node that knows nobody yet.
    #[must_use]
    pub fn new(settings: NodeSettings) -> Self {
        Self {
            settings,
            state: State::Joining,
            store: Store::new(settings.claims),
            peers: BTreeMap::new(),
            introduced: 0,
            outbox: Outbox::default(),
            asks: Asks::default(),
            members: Members::new(settings.node, settings.listen, settings.seed),
            outputs: VecDeque::new(),
            sweep_at_us: None,
            ages: Ages::default(),
            counters: CoreCounters::default(),
        }
    }

    /// Takes a claim of this host. It goes to the peers at the next [`Self::handle_timeout`] that is due: at once when nothing
    /// was sent for a while, so hand over all waiting claims first.
    pub fn handle_local(&mut self, claim: LocalClaim, now: Now) {
        let remaining_ms = claim.remaining_ms.min(LIFETIME_MS);
        if remaining_ms == 0 {
            return;
        }
        self.counters.claims_local += 1;
        let expires_us = now.monotonic_us.saturating_add(remaining_ms * 1000);
        let entry = Entry {
            owner: self.settings.node,
            epoch: self.settings.epoch,
            claimed_at_unix_us: claim.claimed_at_unix_us.min(now.unix_us),
            expires_us,
            written_us: expires_us,
        };
        let merged = self.merge(claim.key, entry, now);
        match merged {
            Merged::New | Merged::Known => self.replicate(claim.key, merged == Merged::Known, now),
            Merged::Won(_) => {
                // The peer's claim may have been written over this one before its event was read.
                self.counters.conflicts_won += 1;
                self.write_claim(claim.key, now);
                self.replicate(claim.key, false, now);
            }
            Merged::Lost(_) => {
                self.counters.conflicts_lost += 1;
                self.write_claim(claim.key, now);
            }
        }
        self.end_asks_for(claim.key, now);
    }

    /// A link to `peer` stands, or a new one replaced the old one: introduces this node.
    pub fn handle_link_up(&mut self, peer: NodeId, _now: Now) {
        if peer == self.settings.node {
            return;
        }
        let state = self.peers.entry(peer).or_default();
        (state.linked, state.introduced) = (true, false);
        self.count_introduced();
        self.forget(peer);
        self.greet(peer);
    }

    /// This node is in another state: all peers are told at once.
    pub fn set_state(&mut self, state: State, _now: Now) {
        if self.state != state {
            self.state = state;
            self.greet_all();
        }
    }

    /// The proxy of this node begins another life: its claims of earlier ones are void at once, here and at all peers.
    pub fn set_epoch(&mut self, epoch: Epoch, _now: Now) {
        if self.settings.epoch != epoch {
            self.settings.epoch = epoch;
            self.greet_all();
        }
    }

    /// This node leaves the cluster in order: the others need not call it any more. The links' own farewell follows. A node that
    /// only restarts does not leave.
    pub fn leave(&mut self, now: Now) {
        self.members.leave(now);
    }

    /// Takes a datagram of a linked peer.
    ///
    /// # Errors
    /// It breaks the protocol; the link must be dropped and not be built again at once.
    pub fn handle_datagram(&mut self, peer: NodeId, bytes: &[u8], now: Now) -> Result<(), ProtocolError> {
        if !self.peers.get(&peer).is_some_and(|state| state.introduced) {
            // It has overtaken the hello, or its link is gone.
            return Ok(());
        }
        self.counters.datagrams_received += 1;
        let handled = match bytes.len() {
            0..=DATAGRAM_BYTES => self.members.handle(peer, bytes, now),
            _ => Err(ProtocolError::Wire(WireError::Oversized)),
        };
        self.counters.protocol_errors += u64::from(handled.is_err());
        handled
    }

    /// The members of the cluster that gossip says are alive, linked or not; this node is not counted.
    #[must_use]
    pub fn members(&self) -> usize {
        self.members.alive()
    }

    /// Takes a message of a linked peer.
    ///
    /// # Errors
    /// The message breaks the protocol; the link must be dropped and not be built again at once. What the message
    /// said up to there has had no effect.
    pub fn handle_message(&mut self, peer: NodeId, bytes: &[u8], now: Now) -> Result<(), ProtocolError> {
        let handled = self.take(peer, bytes, now);
        self.counters.protocol_errors += u64::from(handled.is_err());
        handled
    }

    /// The link to `peer` is gone, and with it the peer: its claims stay, but stand against nobody.
    pub fn handle_link_down(&mut self, peer: NodeId, now: Now) {
        self.forget(peer);
        let Some(state) = self.peers.get_mut(&peer) else { return };
        (state.linked, state.introduced) = (false, false);
        self.members.unlinked(peer, now);
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if let (true, Some(hello)) = (state.up, state.hello) {
            state.up = false;
            self.outputs.push_back(peer_write(peer, false, hello));
        }
        self.count_introduced();
        self.end_asks_of_gone(peer, now);
    }

    /// Does what is due at `now`; harmless when nothing is.
    pub fn handle_timeout(&mut self, now: Now) {
        self.end_expired_asks(now);
        self.asks.end_look_ups(now);
        // Somebody waits for these, and nobody for a batch.
        self.send_asks();
        self.members.timeout(now);
        if self.outbox.due_us().is_some_and(|at| at <= now.monotonic_us) {
            let up = self.introduced();
            self.outbox.send(&self.settings, &self.store, &up, &mut self.outputs, &mut self.counters, now);
        }
        if self.sweep_at_us.is_some_and(|at| at <= now.monotonic_us) {
            self.store.sweep(now.monotonic_us, SWEEP_CLAIMS);
            let again = now.monotonic_us.saturating_add(SWEEP_US);
            self.sweep_at_us = if self.store.is_empty() { None } else { Some(again) };
        }
    }

    /// The next thing to do, if any.
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.outputs.is_empty() {
            self.send_asks();
        }
        self.outputs.pop_front().or_else(|| self.members.poll())
    }

    /// When [`Self::handle_timeout`] is due, in microseconds of the monotonic clock; in the past means now.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        let due = [self.outbox.due_us(), self.asks.due_us(), self.members.due_us(), self.sweep_at_us];
        due.into_iter().flatten().min()
    }

    /// The live claim of a key: its owner, epoch, claim time and end.
    #[must_use]
    pub fn claim(&self, key: u64, now: Now) -> Option<Entry> {
        self.store.live(key, now.monotonic_us).copied()
    }

    /// Claims held, those of peers included; up to a second of ended ones may be among them.
    #[must_use]
    pub fn claims(&self) -> usize {
        self.store.len()
    }

    /// Claims that wait to be sent, those of snapshots not counted.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.outbox.waiting()
    }

    /// Every peer that ever introduced itself, in the order of their ids.
    pub fn peers(&self) -> impl Iterator<Item = PeerView> {
        self.peers.iter().filter_map(|(node, peer)| {
            let hello = peer.hello?;
            Some(PeerView {
                node: *node,
                up: peer.up,
                state: hello.state,
                epoch: hello.epoch,
                underlay: hello.underlay,
                listen: hello.listen,
            })
        })
    }

    /// How old new claims were when they arrived, by the owner's and this host's clock.
    #[must_use]
    pub fn ages(&self) -> AgeSummary {
        self.ages.summary()
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> CoreCounters {
        CoreCounters { claims_evicted: self.store.evicted(), ..self.counters }
    }

    fn take(&mut self, peer: NodeId, bytes: &[u8], now: Now) -> Result<(), ProtocolError> {
        // A message may still wait in the shell's queue when its link is gone.
        let Some(state) = self.peers.get(&peer) else { return Ok(()) };
        let message = Message::decode(bytes).map_err(ProtocolError::Wire)?;
        match message {
            Message::Hello(hello) => self.take_hello(peer, hello, now),
            _ if !state.introduced => return Err(ProtocolError::BeforeHello),
            Message::Batch(claims) => {
                self.counters.batches_received += 1;
                for claim in &claims {
                    self.take_claim(peer, claim, !claim.refresh, now);
                }
            }
            Message::Snapshot(claims) => {
                self.counters.snapshots_received += 1;
                for claim in &claims {
                    self.take_claim(peer, claim, false, now);
                }
            }
            Message::Ask(asks) => self.take_asks(peer, &asks, now),
            Message::Answer(answers) => self.take_answers(peer, &answers, now),
        }
        Ok(())
    }

    fn take_hello(&mut self, peer: NodeId, hello: Hello, now: Now) {
        // While the peer does not count yet: it gets the asks of this turn below.
        self.send_asks();
        let state = self.peers.entry(peer).or_default();
        let (changed, first) = (!state.up || state.hello != Some(hello), !state.introduced);
        if first {
            self.outbox.begin_snapshot(peer, now);
        }
        *state = Peer { hello: Some(hello), linked: true, introduced: true, up: true };
        self.count_introduced();
        if changed {
            self.outputs.push_back(peer_write(peer, true, hello));
            self.end_asks_that_stand(now);
        }
        if first {
            self.ask_again(peer);
            self.members.introduced(peer, hello.listen, now);
        }
    }

    fn take_claim(&mut self, peer: NodeId, claim: &Claim, fresh: bool, now: Now) {
        self.counters.claims_received += 1;
        self.counters.claims_from_the_future += u64::from(claim.claimed_at_unix_us > now.unix_us);
        let entry = Entry {
            owner: peer,
            epoch: claim.epoch,
            claimed_at_unix_us: claim.claimed_at_unix_us.min(now.unix_us),
            expires_us: now.monotonic_us.saturating_add(u64::from(claim.remaining_ms) * 1000),
            written_us: 0,
        };
        let me = self.settings.node;
        match self.merge(claim.key, entry, now) {
            Merged::New => {
                if fresh {
                    self.ages.record(now.unix_us.saturating_sub(claim.claimed_at_unix_us));
                }
                self.write_claim(claim.key, now);
            }
            Merged::Known => {
                let worth_it = |held: &Entry| held.expires_us > held.written_us.saturating_add(EXTENSION_US);
                if self.store.live(claim.key, now.monotonic_us).is_some_and(worth_it) {
                    self.write_claim(claim.key, now);
                }
            }
            Merged::Won(loser) => {
                self.counters.conflicts_lost += u64::from(loser == me);
                self.write_claim(claim.key, now);
            }
            Merged::Lost(winner) if winner == me => {
                // The peer made its claim before it heard of this one, or did not hear of it.
                self.counters.conflicts_won += 1;
                let kept = self.outbox.assert_to(peer, claim.key, now, self.introduced);
                self.counters.claims_dropped += u64::from(!kept);
            }
            Merged::Lost(_) => {}
        }
        self.end_asks_for(claim.key, now);
    }

    /// Tells a linked peer who this node is.
    fn greet(&mut self, peer: NodeId) {
        let NodeSettings { epoch, underlay, listen, .. } = self.settings;
        let hello = Hello { epoch, state: self.state, underlay, listen };
        self.outputs.push_back(Output::Send { to: peer, message: Message::Hello(hello).encode(), kind: Kind::Hello });
    }

    fn greet_all(&mut self) {
        let linked: Vec<NodeId> = self.peers.iter().filter(|(_, peer)| peer.linked).map(|(node, _)| *node).collect();
        linked.into_iter().for_each(|peer| self.greet(peer));
    }

    fn merge(&mut self, key: u64, entry: Entry, now: Now) -> Merged {
        let (settings, peers) = (&self.settings, &self.peers);
        let void = |owner: NodeId, epoch: Epoch| is_void(settings, peers, owner, epoch);
        if self.sweep_at_us.is_none() {
            self.sweep_at_us = Some(now.monotonic_us.saturating_add(SWEEP_US));
        }
        self.store.merge(key, entry, void, now.monotonic_us)
    }

    fn is_void(&self, owner: NodeId, epoch: Epoch) -> bool {
        is_void(&self.settings, &self.peers, owner, epoch)
    }

    fn replicate(&mut self, key: u64, refresh: bool, now: Now) {
        if self.introduced > 0 {
            let kept = self.outbox.push(key, refresh, now, self.introduced);
            self.counters.claims_dropped += u64::from(!kept);
        }
    }

    /// Drops what was meant for the present link of a peer.
    fn forget(&mut self, peer: NodeId) {
        self.outbox.forget(peer);
        self.asks.forget(peer);
    }

    fn introduced(&self) -> Vec<NodeId> {
        self.peers.iter().filter(|(_, peer)| peer.introduced).map(|(node, _)| *node).collect()
    }

    fn count_introduced(&mut self) {
        self.introduced = self.peers.values().filter(|peer| peer.introduced).count();
    }

    fn write_claim(&mut self, key: u64, now: Now) {
        let Some(held) = self.store.live(key, now.monotonic_us) else { return };
        let remaining_ms = (held.expires_us - now.monotonic_us).div_ceil(1000);
        let write = MapWrite::Claim { key, owner: held.owner, epoch: held.epoch, remaining_ms };
        self.outputs.push_back(Output::Map(write));
        self.store.written(key);
    }
}

/// Whether a claim of that owner and epoch stands against nobody.
fn is_void(settings: &NodeSettings, peers: &BTreeMap<NodeId, Peer>, owner: NodeId, epoch: Epoch) -> bool {
    if owner == settings.node {
        return epoch != settings.epoch;
    }
    let valid = |peer: &Peer| peer.up && peer.hello.is_some_and(|hello| hello.epoch == epoch);
    !peers.get(&owner).is_some_and(valid)
}

fn peer_write(node: NodeId, up: bool, hello: Hello) -> Output {
    Output::Map(MapWrite::Peer { node, up, state: hello.state, epoch: hello.epoch, underlay: hello.underlay })
}
