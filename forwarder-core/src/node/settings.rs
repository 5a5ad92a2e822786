//! What a node is made with.

use std::net::{IpAddr, SocketAddr};

use forwarder_common::ids::{Epoch, NodeId};

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
