//! What bounds the messages of the wire.

use forwarder_common::ids::Tick;

/// The protocol's version: a node drops the link of a peer that speaks another one.
pub const VERSION: u8 = 3;
/// Longest message in bytes, which only a snapshot may have: there is no hurry for one, and few large ones cost less.
pub const MESSAGE_BYTES: usize = 8192;
/// Longest message of any other kind in bytes: with QUIC's own headers it fits into one packet of 1,200 bytes, the
/// least that any path carries.
pub const PACKET_BYTES: usize = 1150;
/// Longest remaining lifetime in milliseconds (39 h): the kernel's clock of lifetimes reaches no further.
pub const LIFETIME_MS: u64 = Tick::milliseconds(Tick::LONGEST);
/// Longest datagram between two nodes in bytes: with QUIC's headers it fits into the least packet that any path
/// carries.
pub const DATAGRAM_BYTES: usize = 1100;
