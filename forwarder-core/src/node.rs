//! The cluster as a pure state machine: what a node does with its own claims, its peers' messages and the passing of time.
//!
//! No socket, clock, task or random number in here: times and a seed are arguments, and what is to be sent or written into the
//! kernel's maps comes out of [`Node::poll_output`]. The shell calls a `handle_*`, then polls outputs until there are none, then
//! sleeps until [`Node::poll_timeout`]. A peer can only ever claim for itself: its id is the shell's word, from its certificate.

mod asks;
mod beaten;
mod budget;
mod inbox;
mod interface;
mod local;
mod log;
mod outbox;
mod ranges;
mod receive;
mod repair;
mod views;

use std::collections::{BTreeMap, VecDeque};

use forwarder_common::ids::{Epoch, NodeId};

use self::asks::Asks;
use self::beaten::Beaten;
use self::budget::Budget;
use self::inbox::Inbox;
use self::log::Log;
use self::outbox::{Outbox, Sender};
use self::repair::Digests;
use crate::ages::Ages;
use crate::members::Members;
use crate::store::{Entry, Merged, Store, Word};
use crate::wire::{Hello, Message, WireError};

pub use self::interface::{
    CoreCounters, Kind, LocalClaim, MapWrite, NodeSettings, Now, Output, PeerView, ProtocolError, State,
};

/// Longest datagram between two nodes in bytes: with QUIC's headers it fits into the least packet that any path carries.
pub const DATAGRAM_BYTES: usize = 1100;
/// Pause between two walks over all claims for those that have ended, in microseconds: they are invisible already, this only frees
/// their memory.
const SWEEP_US: u64 = 2_000_000;
/// Pause between the steps of a walk in microseconds.
const SWEEP_STEP_US: u64 = 10_000;
/// Claims looked at in one step: about 100 µs.
const SWEEP_CLAIMS: usize = 16_384;

#[derive(Debug)]
struct Peer {
    /// The hello of the present or the last link.
    hello: Option<Hello>,
    /// There is a link, on which this node has introduced itself.
    linked: bool,
    /// The sequence of the last hello to it.
    greeting: u32,
    /// Counts its links, see [`Word`].
    session: u8,
    /// The present link has brought its hello.
    introduced: bool,
    /// The map says that the peer is up.
    up: bool,
    inbox: Inbox,
    budget: Budget,
}

/// One node of the cluster.
#[derive(Debug)]
pub struct Node {
    settings: NodeSettings,
    state: State,
    /// Epochs of earlier lives, a bit each.
    earlier_epochs: u16,
    /// Of the hellos.
    sequence: u32,
    store: Store,
    log: Log,
    peers: BTreeMap<NodeId, Peer>,
    /// Peers that are linked and have introduced themselves.
    introduced: usize,
    outbox: Outbox,
    digests: Digests,
    beaten: Beaten,
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
        let mut store = Store::new(settings.claims, settings.seed);
        store.set_epoch(settings.node, settings.epoch);
        Self {
            settings,
            state: State::Joining,
            earlier_epochs: 0,
            sequence: 0,
            store,
            log: Log::default(),
            peers: BTreeMap::new(),
            introduced: 0,
            outbox: Outbox::default(),
            digests: Digests::new(settings.seed),
            beaten: Beaten::default(),
            asks: Asks::default(),
            members: Members::new(settings.node, settings.listen, settings.seed),
            outputs: VecDeque::new(),
            sweep_at_us: None,
            ages: Ages::default(),
            counters: CoreCounters::default(),
        }
    }

    /// A link to `peer` stands, or a new one replaced the old one: introduces this node.
    pub fn handle_link_up(&mut self, peer: NodeId, now: Now) {
        if peer == self.settings.node {
            return;
        }
        let state = self.peers.entry(peer).or_insert_with(|| Peer::new(now));
        (state.linked, state.introduced) = (true, false);
        state.session = Word::next_session(state.session);
        self.count_introduced();
        self.forget(peer);
        self.sequence = self.sequence.wrapping_add(1);
        self.greet(peer);
    }

    /// This node is in another state: all peers are told at once.
    pub fn set_state(&mut self, state: State, now: Now) {
        if self.state != state {
            self.state = state;
            self.greet_all(now);
        }
    }

    /// The proxy of this node begins another life: its claims of earlier ones are void at once, here and at all peers.
    pub fn set_epoch(&mut self, epoch: Epoch, now: Now) {
        if self.settings.epoch != epoch {
            self.settings.epoch = epoch;
            self.store.set_epoch(self.settings.node, epoch);
            self.greet_all(now);
            self.revive_beaten(self.settings.node, now);
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
        let Some(state) = self.peers.get_mut(&peer).filter(|state| state.introduced) else {
            // It has overtaken the hello, or its link is gone.
            return Ok(());
        };
        self.counters.datagrams_received += 1;
        let handled = match bytes.len() {
            _ if !state.budget.spend(0, now) => Err(ProtocolError::Flood),
            0..=DATAGRAM_BYTES => self.members.handle(peer, bytes, now),
            _ => Err(ProtocolError::Wire(WireError::Oversized)),
        };
        self.counters.protocol_errors += u64::from(handled.is_err());
        handled
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
        // While it counts as down its claims give way to others: on its next link all of them must come again.
        state.inbox = Inbox::default();
        if let (true, Some(hello)) = (state.up, state.hello) {
            state.up = false;
            self.outputs.push_back(peer_write(peer, false, hello));
        }
        self.members.unlinked(peer, now);
        self.count_introduced();
        self.revive_beaten(peer, now);
        self.end_asks_of_gone(peer, now);
    }

    /// Does what is due at `now`; harmless when nothing is.
    pub fn handle_timeout(&mut self, now: Now) {
        self.end_expired_asks(now);
        self.asks.end_look_ups(now);
        // Somebody waits for these, and nobody for a batch.
        self.send_asks();
        self.members.timeout(now);
        let due = |at: Option<u64>| at.is_some_and(|at| at <= now.monotonic_us);
        if due(self.outbox.due_us()) {
            let up = self.introduced();
            let Self { settings, store, log, outputs, counters, .. } = self;
            self.outbox.send(&mut Sender { settings, store, log, outputs, counters, now }, &up);
            self.digests.schedule(now);
        }
        if due(self.digests.due_us()) {
            self.send_digests(now);
        }
        if due(self.sweep_at_us) {
            let is_over = self.store.sweep(now.monotonic_us, SWEEP_CLAIMS);
            self.log.trim(now.monotonic_us);
            self.beaten.trim(now.monotonic_us, |owner, epoch| self.store.is_over(owner, epoch));
            let pause = if is_over { SWEEP_US } else { SWEEP_STEP_US };
            let again = now.monotonic_us.saturating_add(pause);
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
        let claims = [self.outbox.due_us(), self.digests.due_us(), self.sweep_at_us];
        claims.into_iter().chain([self.asks.due_us(), self.members.due_us()]).flatten().min()
    }

    /// Tells a linked peer who this node is.
    fn greet(&mut self, peer: NodeId) {
        let NodeSettings { epoch, underlay, listen, .. } = self.settings;
        let (life, sequence, state, next) = (self.life(), self.sequence, self.state, self.log.next());
        let Some(peer_state) = self.peers.get_mut(&peer) else { return };
        peer_state.greeting = sequence;
        let (your_life, have) = peer_state.inbox.have();
        let your_epoch = peer_state.hello.map(|hello| hello.epoch);
        let hello = Hello { life, sequence, epoch, state, underlay, listen, next, your_life, your_epoch, have };
        self.outputs.push_back(Output::Send { to: peer, message: Message::Hello(hello).encode(), kind: Kind::Hello });
    }

    fn greet_all(&mut self, now: Now) {
        self.digests.schedule(now);
        self.sequence = self.sequence.wrapping_add(1);
        let linked: Vec<NodeId> = self.peers.iter().filter(|(_, peer)| peer.linked).map(|(node, _)| *node).collect();
        linked.into_iter().for_each(|peer| self.greet(peer));
    }

    /// This run's name; 0 is nobody's.
    const fn life(&self) -> u64 {
        self.settings.seed | 1
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
}

impl Peer {
    fn new(now: Now) -> Self {
        let (inbox, budget) = (Inbox::default(), Budget::new(now));
        Self { hello: None, linked: false, greeting: 0, session: 0, introduced: false, up: false, inbox, budget }
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
    let Hello { state, epoch, underlay, .. } = hello;
    Output::Map(MapWrite::Peer { node, up, state, epoch, underlay })
}
