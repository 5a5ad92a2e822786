//! What the links tell the daemon.

use std::net::{IpAddr, SocketAddr};

use forwarder_common::ids::NodeId;
use forwarder_core::failover::LinkEnd;

/// What the links tell the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A link stands.
    LinkUp {
        /// The peer.
        peer: NodeId,
        /// Its address.
        address: SocketAddr,
        /// Those that its certificate names.
        named: Vec<IpAddr>,
        /// It took the place of one that stood, without a [`Event::LinkDown`] between: the peer may have restarted.
        again: bool,
    },
    /// The link is gone.
    LinkDown {
        /// The peer.
        peer: NodeId,
        /// Why, for people.
        reason: String,
        /// What that says of the peer.
        end: LinkEnd,
    },
    /// No link comes up: the peer speaks another version of the links' protocol. Said at each attempt, which are few. A
    /// link that stood until then ends by [`Event::LinkDown`] alone, for the same reason.
    OtherVersion {
        /// The peer.
        peer: NodeId,
        /// Its address.
        address: SocketAddr,
        /// A sentence that names both nodes' versions.
        reason: String,
    },
    /// A message of a linked peer.
    Message {
        /// The peer.
        peer: NodeId,
        /// One whole message, at most [`forwarder_core::wire::MESSAGE_BYTES`] long; empty for a stream without one.
        bytes: Vec<u8>,
    },
    /// An unreliable datagram of a linked peer; never before its first message.
    Datagram {
        /// The peer.
        peer: NodeId,
        /// The bytes, at most [`forwarder_core::node::DATAGRAM_BYTES`].
        bytes: Vec<u8>,
    },
    /// Somebody was kept out; at most once a minute for each address, the counters have all of them.
    Refused {
        /// Who it was.
        address: SocketAddr,
        /// Why: one sentence that names the address.
        reason: String,
    },
}
