//! The cluster as a pure state machine: what a node does with its own claims, its peers' messages and the passing of time.
//!
//! No socket, clock, task or random number in here: times are arguments, and what is to be sent or written into the kernel's
//! maps comes out of [`Node::poll_output`]. The shell calls a `handle_*`, then polls outputs until there are none, then sleeps
//! until [`Node::poll_timeout`]. A peer can only ever claim for itself: its id is the shell's word, from its certificate.

mod outbox;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::IpAddr;

use forwarder_common::ids::{Epoch, NodeId};
use serde::Serialize;

use super::ages::{AgeSummary, Ages};
use super::store::{Entry, Merged, Store};
use super::wire::{Claim, Hello, LIFETIME_MS, Message, WireError};
use outbox::Outbox;

/// Pause between sweeps of ended claims in microseconds: they are invisible already, this only frees their memory.
const SWEEP_US: u64 = 100_000;
/// Claims looked at in one sweep: at 100,000 claims/s from each of a few peers, all that end in the pause, in about 5 ms.
const SWEEP_CLAIMS: usize = 32_768;
/// A longer end than this, in microseconds, is worth a write into the kernel's map, whose own clock ticks in 4.3 s; what is
/// shorter is the jitter of the way here.
const EXTENSION_US: u64 = 500_000;

/// The time of both clocks of this host, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// `CLOCK_MONOTONIC`: lifetimes and timers.
    pub monotonic_us: u64,
    /// `CLOCK_REALTIME`: the order of claims between hosts.
    pub unix_us: u64,
}

/// Who this node is.
#[derive(Clone, Copy, Debug)]
pub struct NodeSettings {
    /// Its id, as in its certificate.
    pub node: NodeId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Where it takes encapsulated packets.
    pub underlay: IpAddr,
    /// Most claims to hold, those of peers included.
    pub claims: usize,
}

/// A claim that this host's egress program made, or made longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalClaim {
    /// The key.
    pub key: u64,
    /// When the packet left, in microseconds of Unix time.
    pub claimed_at_unix_us: u64,
    /// Lifetime left in milliseconds; more than [`LIFETIME_MS`] counts as that, 0 is ignored.
    pub remaining_ms: u64,
}

/// What a message is, for the shell's queues and counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first message of a link.
    Hello,
    /// New claims.
    Batch,
    /// Claims that stood before the link came up.
    Snapshot,
}

/// Something for the shell to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this to a linked peer. The hello must arrive first; the order of all else is free.
    Send {
        /// The peer.
        to: NodeId,
        /// The encoded message.
        message: Vec<u8>,
        /// What it is.
        kind: Kind,
    },
    /// Write this into the kernel's maps.
    Map(MapWrite),
}

/// A change of the kernel's maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapWrite {
    /// The claim that stands for a key.
    Claim {
        /// The key.
        key: u64,
        /// Whose it is; this node itself where the kernel's map may hold a peer's claim that lost.
        owner: NodeId,
        /// The owner's epoch when it was made.
        epoch: Epoch,
        /// Lifetime left in milliseconds, 1..=[`LIFETIME_MS`].
        remaining_ms: u64,
    },
    /// A peer came up, changed its epoch or address, or went down.
    Peer {
        /// The peer.
        node: NodeId,
        /// Whether packets may be sent to it.
        up: bool,
        /// Its epoch.
        epoch: Epoch,
        /// Where it takes encapsulated packets.
        underlay: IpAddr,
    },
}

/// Why a peer's message breaks the protocol; the shell drops the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// The bytes are no message of this version.
    Wire(WireError),
    /// Claims before the hello.
    BeforeHello,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wire(error) => write!(f, "{error}"),
            Self::BeforeHello => write!(f, "claims before the hello"),
        }
    }
}

impl std::error::Error for ProtocolError {}

/// What the core counted since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CoreCounters {
    /// Claims of this node, new or lengthened.
    pub claims_local: u64,
    /// Copies of claims sent to peers, snapshots included.
    pub claims_sent: u64,
    /// Claims received from peers, snapshots included.
    pub claims_received: u64,
    /// Batches sent.
    pub batches_sent: u64,
    /// Batches received.
    pub batches_received: u64,
    /// Messages of snapshots sent.
    pub snapshots_sent: u64,
    /// Messages of snapshots received.
    pub snapshots_received: u64,
    /// Claims of this node that lost against a peer's earlier one.
    pub conflicts_lost: u64,
    /// Claims of peers that lost against one of this node.
    pub conflicts_won: u64,
    /// Claims that were not sent because too many waited; the next snapshot carries them, the digest will.
    pub claims_dropped: u64,
    /// Claims that made room for others before their end.
    pub claims_evicted: u64,
    /// Messages that broke the protocol.
    pub protocol_errors: u64,
    /// Claims dated later than their arrival.
    pub claims_from_the_future: u64,
}

/// What this node knows of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// The peer.
    pub node: NodeId,
    /// Whether it is linked and has introduced itself.
    pub up: bool,
    /// Its epoch when last heard of.
    pub epoch: Epoch,
    /// Where it takes encapsulated packets.
    pub underlay: IpAddr,
}

#[derive(Debug, Default)]
struct Peer {
    /// The hello of the present or the last link.
    hello: Option<Hello>,
    /// The present link has brought its hello.
    introduced: bool,
    /// The map says that the peer is up.
    up: bool,
}

/// One node of the cluster.
#[derive(Debug)]
pub struct Node {
    settings: NodeSettings,
    store: Store,
    peers: BTreeMap<NodeId, Peer>,
    outbox: Outbox,
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
            store: Store::new(settings.claims),
            peers: BTreeMap::new(),
            outbox: Outbox::default(),
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
    }

    /// A link to `peer` stands, or a new one replaced the old one: introduces this node.
    pub fn handle_link_up(&mut self, peer: NodeId, _now: Now) {
        if peer == self.settings.node {
            return;
        }
        self.peers.entry(peer).or_default().introduced = false;
        self.outbox.forget(peer);
        let hello = Hello { epoch: self.settings.epoch, underlay: self.settings.underlay };
        self.outputs.push_back(Output::Send { to: peer, message: Message::Hello(hello).encode(), kind: Kind::Hello });
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
    pub fn handle_link_down(&mut self, peer: NodeId, _now: Now) {
        self.outbox.forget(peer);
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.introduced = false;
        if let (true, Some(hello)) = (state.up, state.hello) {
            state.up = false;
            self.outputs.push_back(peer_write(peer, false, hello));
        }
    }

    /// Does what is due at `now`; harmless when nothing is.
    pub fn handle_timeout(&mut self, now: Now) {
        let up: Vec<NodeId> = self.peers.iter().filter(|(_, peer)| peer.introduced).map(|(node, _)| *node).collect();
        self.outbox.send(&self.settings, &self.store, &up, &mut self.outputs, &mut self.counters, now);
        if self.sweep_at_us.is_some_and(|at| at <= now.monotonic_us) {
            self.store.sweep(now.monotonic_us, SWEEP_CLAIMS);
            let again = now.monotonic_us.saturating_add(SWEEP_US);
            self.sweep_at_us = if self.store.is_empty() { None } else { Some(again) };
        }
    }

    /// The next thing to do, if any.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] is due, in microseconds of the monotonic clock; in the past means now.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        [self.outbox.due_us(), self.sweep_at_us].into_iter().flatten().min()
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
            Some(PeerView { node: *node, up: peer.up, epoch: hello.epoch, underlay: hello.underlay })
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
        }
        Ok(())
    }

    fn take_hello(&mut self, peer: NodeId, hello: Hello, now: Now) {
        let state = self.peers.entry(peer).or_default();
        let changed = !state.up || state.hello != Some(hello);
        if !state.introduced {
            self.outbox.begin_snapshot(peer, now);
        }
        *state = Peer { hello: Some(hello), introduced: true, up: true };
        if changed {
            self.outputs.push_back(peer_write(peer, true, hello));
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
                let kept = self.outbox.assert_to(peer, claim.key, now, self.introduced());
                self.counters.claims_dropped += u64::from(!kept);
            }
            Merged::Lost(_) => {}
        }
    }

    fn merge(&mut self, key: u64, entry: Entry, now: Now) -> Merged {
        let (settings, peers) = (&self.settings, &self.peers);
        let void = |owner: NodeId, epoch: Epoch| {
            if owner == settings.node {
                return epoch != settings.epoch;
            }
            let valid = |peer: &Peer| peer.up && peer.hello.is_some_and(|hello| hello.epoch == epoch);
            !peers.get(&owner).is_some_and(valid)
        };
        if self.sweep_at_us.is_none() {
            self.sweep_at_us = Some(now.monotonic_us.saturating_add(SWEEP_US));
        }
        self.store.merge(key, entry, void, now.monotonic_us)
    }

    fn replicate(&mut self, key: u64, refresh: bool, now: Now) {
        let introduced = self.introduced();
        if introduced > 0 {
            let kept = self.outbox.push(key, refresh, now, introduced);
            self.counters.claims_dropped += u64::from(!kept);
        }
    }

    /// Linked peers that have introduced themselves.
    fn introduced(&self) -> usize {
        self.peers.values().filter(|peer| peer.introduced).count()
    }

    fn write_claim(&mut self, key: u64, now: Now) {
        let Some(held) = self.store.live(key, now.monotonic_us) else { return };
        let remaining_ms = (held.expires_us - now.monotonic_us).div_ceil(1000);
        let write = MapWrite::Claim { key, owner: held.owner, epoch: held.epoch, remaining_ms };
        self.outputs.push_back(Output::Map(write));
        self.store.written(key);
    }
}

fn peer_write(node: NodeId, up: bool, hello: Hello) -> Output {
    Output::Map(MapWrite::Peer { node, up, epoch: hello.epoch, underlay: hello.underlay })
}
