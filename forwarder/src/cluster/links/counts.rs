//! What is counted, for all links together and for each peer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forwarder_common::ids::NodeId;
use quinn::{Connection, ConnectionStats};
use serde::Serialize;

/// What the links counted since they were started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LinkCounters {
    /// Calls begun by this node.
    pub calls: u64,
    /// Handshakes that ended in this node refusing the other's certificate, and links ended for it later.
    pub refused_certificates: u64,
    /// Handshakes that failed because the other speaks another protocol on the link.
    pub refused_protocols: u64,
    /// Connections that became no link because the two ends speak different versions of the links' protocol.
    pub refused_versions: u64,
    /// Handshakes that were not begun, or led to no link, because there were too many: under way or lately, in all,
    /// with one address or network, or with one node.
    pub refused_handshakes: u64,
    /// Calls to a member at whose address another node answered.
    pub impostors: u64,
    /// Connections refused because their node id is this node's own or is linked from another address.
    pub duplicate_nodes: u64,
    /// Links dropped because the peer broke the protocol, floods included.
    pub links_dropped: u64,
    /// Links that came up.
    pub links_up: u64,
    /// Links that went down.
    pub links_down: u64,
    /// Messages waiting in the queues of all peers.
    pub queued_messages: u64,
    /// Messages that were not sent: no link, or a full queue; the digest repairs what that was.
    pub dropped_messages: u64,
    /// Datagrams that were not sent: no link, or too long for it.
    pub dropped_datagrams: u64,
}

/// A link as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LinkView {
    /// The peer's node id.
    pub node: u16,
    /// The peer's address.
    pub address: SocketAddr,
    /// Estimated round-trip time in microseconds.
    pub rtt_us: u64,
    /// UDP datagrams sent to it over this link: claims, acknowledgements, and what was sent again.
    pub sent_packets: u64,
    /// Their bytes, without the headers of UDP and IP.
    pub sent_bytes: u64,
    /// Packets to it that were taken for lost, whose messages were sent again.
    pub lost_packets: u64,
    /// Messages that wait for it.
    pub queued_messages: u64,
    /// What they take of this host's memory in bytes, at most twice [`super::QUEUE_BYTES`].
    pub queued_bytes: u64,
    /// Messages to it that were not sent since this daemon started, because its queue was full. The digest repairs
    /// them.
    pub dropped_messages: u64,
    /// When the peer's certificate ends, in seconds since 1970.
    pub expires_s: i64,
}

/// What the links' tasks and the handle share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) counters: Counts,
    linked: Mutex<BTreeMap<NodeId, Linked>>,
}

/// A link that stands.
#[derive(Debug)]
pub(super) struct Linked {
    pub(super) connection: Connection,
    pub(super) traffic: Arc<Traffic>,
    pub(super) expires_s: i64,
}

/// One peer's share.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) queued: AtomicU64,
    pub(super) queued_bytes: AtomicU64,
    pub(super) dropped: AtomicU64,
}

impl Shared {
    pub(super) fn linked(&self) -> MutexGuard<'_, BTreeMap<NodeId, Linked>> {
        // Nothing is left half done under this lock, so a panic of its holder spoils nothing.
        self.linked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn views(&self) -> Vec<LinkView> {
        let view = |(node, link): (&NodeId, &Linked)| {
            let ConnectionStats { udp_tx: sent, path, .. } = link.connection.stats();
            LinkView {
                node: node.number(),
                address: link.connection.remote_address(),
                rtt_us: u64::try_from(path.rtt.as_micros()).unwrap_or(u64::MAX),
                sent_packets: sent.datagrams,
                sent_bytes: sent.bytes,
                lost_packets: path.lost_packets,
                queued_messages: link.traffic.queued.load(Ordering::Relaxed),
                queued_bytes: link.traffic.queued_bytes.load(Ordering::Relaxed),
                dropped_messages: link.traffic.dropped.load(Ordering::Relaxed),
                expires_s: link.expires_s,
            }
        };
        self.linked().iter().map(view).collect()
    }
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) calls: AtomicU64,
    pub(super) refused_certificates: AtomicU64,
    pub(super) refused_protocols: AtomicU64,
    pub(super) refused_versions: AtomicU64,
    pub(super) refused_handshakes: AtomicU64,
    pub(super) impostors: AtomicU64,
    pub(super) duplicate_nodes: AtomicU64,
    pub(super) links_dropped: AtomicU64,
    pub(super) links_up: AtomicU64,
    pub(super) links_down: AtomicU64,
    pub(super) queued_messages: AtomicU64,
    pub(super) dropped_messages: AtomicU64,
    pub(super) dropped_datagrams: AtomicU64,
}

impl Counts {
    pub(super) fn read(&self) -> LinkCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LinkCounters {
            calls: read(&self.calls),
            refused_certificates: read(&self.refused_certificates),
            refused_protocols: read(&self.refused_protocols),
            refused_versions: read(&self.refused_versions),
            refused_handshakes: read(&self.refused_handshakes),
            impostors: read(&self.impostors),
            duplicate_nodes: read(&self.duplicate_nodes),
            links_dropped: read(&self.links_dropped),
            links_up: read(&self.links_up),
            links_down: read(&self.links_down),
            queued_messages: read(&self.queued_messages),
            dropped_messages: read(&self.dropped_messages),
            dropped_datagrams: read(&self.dropped_datagrams),
        }
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
