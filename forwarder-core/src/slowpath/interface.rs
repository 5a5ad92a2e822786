//! What the daemon tells the slow path, and what the slow path asks of it.

use std::net::SocketAddr;

use forwarder_common::{bound::Costs, ids::NodeId, verdict::Found};

/// A service of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// VIP and UDP port.
    pub address: SocketAddr,
    /// Its key is the Call-ID alone.
    pub affinity_call: bool,
}

/// What the slow path goes by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node.
    pub node: NodeId,
    /// Key of the claim hash.
    pub hash_key: [u64; 2],
    /// All services, as the kernel has them.
    pub services: Vec<Service>,
    /// How long an unknown reply or CANCEL waits for its owner, in microseconds.
    pub hold_us: u64,
    /// What packets cost that are sent to other nodes, of buckets of this slow path.
    pub costs: Costs,
}

/// What the slow path may ask of the claim table and the peers, at the moment it decides.
pub trait View {
    /// What the claim table says of a key.
    fn owner(&self, key: u64) -> Found;
    /// Whether a peer has a service of this node as well, by the service's place in the settings.
    fn serves(&self, node: NodeId, service: usize) -> bool;
    /// Whether any peer is up.
    fn peer_up(&self) -> bool;
    /// The peer that a new transaction with this request key goes to while this node takes none; `None` is this one.
    fn successor(&self, request_key: u64) -> Option<NodeId>;
    /// The node that reassembles the fragments of a slot below [`forwarder_common::abi::DATAGRAM_SLOTS`]; `None` is
    /// this one.
    fn reassembler(&self, slot: usize) -> Option<NodeId>;
}

/// What the daemon is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Deliver to the local proxy as if it had just arrived.
    Inject {
        /// Interface to arrive at.
        ifindex: u32,
        /// An IP packet of up to 65,575 bytes (IPv6 with the longest payload); on shutdown also single fragments.
        packet: Vec<u8>,
    },
    /// Send through the tunnel.
    Forward {
        /// The peer.
        to: NodeId,
        /// An IP packet of at most [`super::whole::LONGEST_IN_TUNNEL`] bytes.
        packet: Vec<u8>,
        /// The packet is a fragment that the peer reassembles. A fragment without this mark is half of a datagram for
        /// the peer itself that was too long for one tunnel packet.
        reassemble: bool,
    },
    /// Ask all peers who owns a transaction, and hand the answer to [`super::SlowPath::handle_answer`].
    Ask {
        /// Names the question.
        ticket: u64,
        /// The request key `L`.
        request_key: u64,
        /// The reply key `X`; 0 for none.
        reply_key: u64,
    },
}
