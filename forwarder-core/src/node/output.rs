//! What the shell is to do.

use std::net::SocketAddr;

use forwarder_common::ids::{Epoch, NodeId};
use forwarder_common::rest::{Class, Purpose};

use crate::failover::Introduction;

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

/// Something for the links to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Send this to a linked peer. The hello must arrive first; the order of all else is free. Dropped and counted when
    /// the peer is not linked, or when too much waits for it.
    Send {
        /// The peer.
        to: NodeId,
        /// The encoded message.
        message: Vec<u8>,
        /// What it is: nothing goes out on a link before its hello.
        kind: Kind,
    },
    /// Send this to a linked and introduced peer as an unreliable datagram of at most [`crate::wire::DATAGRAM_BYTES`];
    /// dropped and counted if there is no such link.
    Datagram {
        /// The peer.
        to: NodeId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Call a member until it is linked or forgotten; its certificate must say that it is this peer. Said again with
    /// another address: call it there.
    Call {
        /// The peer.
        peer: NodeId,
        /// Where its links listen.
        address: SocketAddr,
    },
    /// No member any more: stop calling it. A link that stands is kept, and seeds are called all the same.
    Forget {
        /// The peer.
        peer: NodeId,
    },
    /// Close the link of a peer that broke the protocol, and keep away from it for a second, a minute at most if it
    /// goes on. The shell says so where a [`super::ProtocolError`] came back.
    Drop {
        /// The peer.
        peer: NodeId,
        /// Why, for the log and for the peer.
        reason: String,
    },
}

/// Something for the shell to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask this of the links.
    Link(Command),
    /// Write this into the kernel's maps.
    Map(MapWrite),
    /// A peer has introduced itself on its link, or says something new of itself: for the failover machine
    /// ([`crate::failover::Failover::handle_introduction`]), before the outputs that follow.
    Introduced {
        /// The peer.
        peer: NodeId,
        /// What it says.
        said: Introduction,
    },
    /// What became of [`super::Node::handle_ask`]; comes after the writes that go with it.
    Answer {
        /// The shell's name for the ask.
        ticket: u64,
        /// A claim of one of the keys is effective; the kernel's map has it.
        owned: bool,
    },
    /// Ask the kernel programs of a peer through the tunnel for its claims of these keys, 0 for no key: its daemon has
    /// not answered. What they say is given to [`super::Node::handle_kernel_answer`].
    AskKernel {
        /// The peer.
        to: NodeId,
        /// What comes back with the answer.
        number: u32,
        /// The request key.
        request_key: u64,
        /// The reply key.
        reply_key: u64,
    },
}

/// A change of the claims in the kernel's maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapWrite {
    /// The claim that counts for a key.
    Claim {
        /// The key.
        key: u64,
        /// Whose it is; this node itself where the kernel's map may have lost its claim, or holds a peer's that lost.
        owner: NodeId,
        /// The owner's epoch when it was made.
        epoch: Epoch,
        /// What it was made for.
        purpose: Purpose,
        /// Lifetime left in milliseconds, 1..=[`crate::wire::LIFETIME_MS`].
        remaining_ms: u64,
    },
    /// A claim of this node's, which the kernel's map has, ends at another time than the programs have said.
    End {
        /// The key.
        key: u64,
        /// Its epoch.
        epoch: Epoch,
        /// The class that it has from now on.
        class: Class,
        /// The lifetime left in milliseconds, as far as was known. Where the map has more than that, the programs have
        /// made the claim longer meanwhile, and it stays as it is: they have said so, or are about to.
        was_ms: u64,
        /// The lifetime left from now on, in milliseconds.
        remaining_ms: u64,
    },
}
