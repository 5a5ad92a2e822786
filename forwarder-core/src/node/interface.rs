//! What goes into the core and what comes out of it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use forwarder_common::ids::{Epoch, NodeId};
use serde::Serialize;

#[cfg(doc)]
use crate::wire::LIFETIME_MS;
use crate::wire::WireError;

/// The time of both clocks of this host, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// `CLOCK_MONOTONIC`: lifetimes and timers.
    pub monotonic_us: u64,
    /// `CLOCK_REALTIME`: the order of claims between hosts.
    pub unix_us: u64,
}

/// How a node is, as it says itself. A peer without a link is down, whatever it said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has just started and does not know yet what it needs: nothing new should be sent to it.
    Joining,
    /// It takes new transactions.
    Up,
    /// It is being taken out of service: it still gets what it owns, and nothing new.
    Draining,
    /// Its proxy does not answer: it still gets what it owns, and nothing new.
    ProxyDown,
}

impl State {
    /// Its name in `status`, in the metrics and for hooks.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Up => "up",
            Self::Draining => "draining",
            Self::ProxyDown => "proxy-down",
        }
    }
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
    /// Where its links listen, as peers reach it.
    pub listen: SocketAddr,
    /// Most claims to hold, those of peers included.
    pub claims: usize,
    /// Randomness for membership and jitter; another one at each start.
    pub seed: u64,
}

/// A claim that this host's egress program made, or changed the end of.
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
    /// Claims that were made before the link came up, or that were lost on it.
    Snapshot,
    /// Questions who owns a key: a packet is held meanwhile.
    Ask,
    /// What this node owns of what it was asked for: a peer holds a packet meanwhile.
    Answer,
    /// What should have arrived.
    Digest,
    /// What has arrived, and what has not.
    Repair,
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
    /// What became of [`super::Node::handle_ask`]; comes after the writes that go with it.
    Answer {
        /// The shell's name for the ask.
        ticket: u64,
        /// A claim stands for one of the keys; the kernel's map has it.
        owned: bool,
    },
    /// Look these keys up in the kernel's table and call [`super::Node::handle_looked_up`] with this ticket: a peer asks for them, and
    /// this daemon does not know them. The kernel may, from before the daemon's start or from a moment ago.
    LookUp {
        /// The core's name for the question.
        ticket: u64,
        /// The request key.
        request_key: u64,
        /// The reply key; 0 for none.
        reply_key: u64,
    },
    /// Send this to a linked peer as an unreliable datagram of at most [`super::DATAGRAM_BYTES`]; drop it if there is no link.
    Datagram {
        /// The peer.
        to: NodeId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// A member that is not linked: call it until it is linked or forgotten. Its certificate must say that it is this peer.
    Call {
        /// The peer.
        peer: NodeId,
        /// Where its links listen.
        address: SocketAddr,
    },
    /// No member any more: stop calling it. Seeds are called all the same.
    Forget {
        /// The peer.
        peer: NodeId,
    },
}

/// A change of the kernel's maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapWrite {
    /// The claim that stands for a key.
    Claim {
        /// The key.
        key: u64,
        /// Whose it is; this node itself where the kernel's map may have lost its claim, or holds a peer's that lost.
        owner: NodeId,
        /// The owner's epoch when it was made.
        epoch: Epoch,
        /// Lifetime left in milliseconds, 1..=[`LIFETIME_MS`].
        remaining_ms: u64,
        /// A peer's claim of a key of which this daemon knew nothing. The kernel may know more: if it has a live claim of this host's
        /// present epoch for the key, call [`super::Node::handle_found`] with that, and do not write this.
        is_new: bool,
    },
    /// A peer came up, changed its state, epoch or address, or went down.
    Peer {
        /// The peer.
        node: NodeId,
        /// Whether packets may be sent to it.
        up: bool,
        /// How it is, by what it said last.
        state: State,
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
    /// Something before the hello.
    BeforeHello,
    /// A hello of another run of the peer's daemon on the same link.
    OtherLife,
    /// More messages or claims than any node has to say.
    Flood,
    /// A datagram that is no gossip.
    Gossip,
    /// Gossip in another node's name.
    Sender,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wire(error) => write!(f, "{error}"),
            Self::BeforeHello => write!(f, "a message before the hello"),
            Self::OtherLife => write!(f, "a second introduction as somebody else"),
            Self::Flood => write!(f, "a flood of messages or claims"),
            Self::Gossip => write!(f, "a datagram that is no gossip"),
            Self::Sender => write!(f, "gossip in another node's name"),
        }
    }
}

impl std::error::Error for ProtocolError {}

/// What the core counted since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CoreCounters {
    /// Claims of this node, new or changed.
    pub claims_local: u64,
    /// Copies of claims sent to peers, snapshots and answers included.
    pub claims_sent: u64,
    /// Claims received from peers, snapshots and answers included.
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
    /// Claims that were left to the digest because too many waited to be sent.
    pub claims_dropped: u64,
    /// Claims that made room for others before their end.
    pub claims_evicted: u64,
    /// Claims that found no place because their owner holds its share of a full store.
    pub claims_refused: u64,
    /// Claims received that were void: of an epoch that is not the peer's.
    pub claims_void: u64,
    /// Batches of an epoch that the peer had not introduced that were not kept for its hello; the digest repairs them.
    pub batches_dropped: u64,
    /// Digests sent.
    pub digests_sent: u64,
    /// Digests received.
    pub digests_received: u64,
    /// Requests for claims that have not arrived, sent.
    pub repairs_sent: u64,
    /// Requests for claims that have not arrived, received.
    pub repairs_received: u64,
    /// Messages that broke the protocol.
    pub protocol_errors: u64,
    /// Claims dated later than their arrival.
    pub claims_from_the_future: u64,
    /// Copies of asks sent to peers.
    pub asks_sent: u64,
    /// Asks of peers that were answered, be it with nothing.
    pub asks_answered: u64,
    /// Asks of this node that ended because a claim came to stand, by an answer or by itself.
    pub asks_found: u64,
    /// Asks of this node that were not sent because too many were open.
    pub asks_overflow: u64,
    /// Datagrams of gossip received.
    pub datagrams_received: u64,
    /// Asks of peers that were not answered because there were too many in a second.
    pub asks_refused: u64,
}

/// What this node knows of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// The peer.
    pub node: NodeId,
    /// Whether it is linked and has introduced itself.
    pub up: bool,
    /// How it is, by what it said last.
    pub state: State,
    /// Its epoch when last heard of.
    pub epoch: Epoch,
    /// Where it takes encapsulated packets.
    pub underlay: IpAddr,
    /// Where its links listen.
    pub listen: SocketAddr,
    /// Its claims that this node holds; some seconds of ended ones may be among them.
    pub claims: usize,
}
