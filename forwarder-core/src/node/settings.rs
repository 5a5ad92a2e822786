//! What a node is made with.

use std::net::{IpAddr, SocketAddr};

use forwarder_common::abi::Lifetimes;
use forwarder_common::ids::{Epochs, NodeId};

use crate::wire::{MustEqual, Service};

/// Who this node is.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Its id, as in its certificate.
    pub node: NodeId,
    /// Its live epochs.
    pub epochs: Epochs,
    /// Where it takes encapsulated packets.
    pub underlay: IpAddr,
    /// Where its links listen, as peers reach it.
    pub listen: SocketAddr,
    /// How long claims may last by their class, the same on all nodes: what a peer says beyond that is cut off.
    pub lifetimes: Lifetimes,
    /// Most claims to hold, those of peers included.
    pub claims: usize,
    /// Randomness for membership and jitter; another one at each start.
    pub seed: u64,
    /// What it serves; peers are told.
    pub services: Vec<Service>,
    /// What must be equal on all nodes; peers are told.
    pub must_equal: Vec<MustEqual>,
}
