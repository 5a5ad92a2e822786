//! What a node tells in a datagram: with whom it has a link, or that it leaves.

use std::net::SocketAddr;

use forwarder_common::ids::NodeId;

use super::bounds::DATAGRAM_BYTES;
use super::bytes::{Reader, put_socket};
use super::error::WireError;

const LINKED: u8 = 1;
const LEAVES: u8 = 2;
/// Bytes of one of the linked peers at most: id, family, address, port.
const PEER_BYTES: usize = 2 + 1 + 16 + 2;
/// Most peers in one datagram.
pub const GOSSIP_PEERS: usize = (DATAGRAM_BYTES - 1) / PEER_BYTES;

/// A datagram between two daemons. Whose it is follows from the link alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gossip {
    /// Some of the peers with which the sender has a link, and where their links listen.
    Linked(Vec<(NodeId, SocketAddr)>),
    /// The sender leaves the cluster.
    Leaves,
    /// What a later daemon says.
    Unknown,
}

impl Gossip {
    /// The bytes of the datagram. Peers beyond [`GOSSIP_PEERS`] are left out: callers send in chunks of that many.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Linked(peers) => {
                let mut out = vec![LINKED];
                for (peer, listen) in peers.iter().take(GOSSIP_PEERS) {
                    out.extend(peer.number().to_be_bytes());
                    put_socket(&mut out, *listen);
                }
                out
            }
            Self::Leaves => vec![LEAVES],
            Self::Unknown => Vec::new(),
        }
    }

    /// What `bytes` say.
    ///
    /// # Errors
    /// The first thing that is wrong with them; no bytes make this function panic.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() > DATAGRAM_BYTES {
            return Err(WireError::Oversized);
        }
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            LINKED => {
                let mut peers = Vec::new();
                while reader.left() > 0 {
                    let node = reader.u16()?;
                    let node = NodeId::new(node).ok_or(WireError::Node(node))?;
                    peers.push((node, reader.socket()?));
                }
                Ok(Self::Linked(peers))
            }
            LEAVES => Ok(Self::Leaves),
            _ => Ok(Self::Unknown),
        }
    }
}
