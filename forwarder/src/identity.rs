//! Who this node is: its certificate, its key, the authorities of its cluster, and the cluster's secret.
//!
//! A node's id comes from its certificate and from nothing that it says: a SAN URI `forwarder://CLUSTER/node/ID`.

mod dates;
mod files;
mod issue;
mod node;
mod peer;
mod secrets;
mod watch;

use ring::digest;

pub use self::{
    dates::{WARN_DAYS, ending, rfc3339},
    issue::{CA_DAYS, NODE_DAYS, init, issue, rotate},
    node::{Identity, Peer, load},
    peer::{PeerIdError, peer_id},
    secrets::{Secrets, secrets},
    watch::{Change, Watch},
};

/// The 24-bit Geneve network identifier of a cluster: the first 24 bits of SHA-256 of its name.
#[must_use]
pub fn vni(cluster: &str) -> u32 {
    let hash = digest::digest(&digest::SHA256, cluster.as_bytes());
    hash.as_ref().iter().take(3).fold(0, |vni, byte| (vni << 8) | u32::from(*byte))
}
