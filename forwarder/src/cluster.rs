//! How the nodes tell each other about claims.
//!
//! [`forwarder_core::node`] decides and does no I/O, [`links`] moves bytes over mutual TLS and decides nothing, and
//! [`forwarder_core::wire`] is what they say. The daemon's loop owns the [`forwarder_core::node::Node`]: it gives it
//! what the links and the egress program tell, after each input it calls `handle_timeout`, and it carries out each
//! output of `poll_output` in order. The links never wait for the loop before they take a command, so the loop may wait
//! for them. When their events end, the links are broken and the daemon ends with an error.

use forwarder_core::node::CoreCounters;
use serde::Serialize;

pub mod links;

/// What core and links counted, for `status` and the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Claims, batches, conflicts.
    #[serde(flatten)]
    pub core: CoreCounters,
    /// Links, refusals, queues.
    #[serde(flatten)]
    pub links: links::LinkCounters,
}
