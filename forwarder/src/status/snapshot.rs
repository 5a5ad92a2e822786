//! The snapshot's fields.
//!
//! The names of the fields are an interface: scripts read them. New ones are added, none is renamed.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

/// A whole snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// This node's id.
    pub node: u16,
    /// The epoch of this node's first service, 0..=15.
    pub epoch: u8,
    /// The cluster's name.
    pub cluster: String,
    /// `joining`, `up`, `draining` or `proxy-down`.
    pub state: String,
    /// Seconds since the daemon started.
    pub uptime_s: u64,
    /// The daemon's process id.
    pub pid: u32,
    /// The interfaces and how the programs are attached.
    pub interfaces: Vec<Interface>,
    /// The services.
    pub services: Vec<Service>,
    /// The claim table.
    pub claims: Claims,
    /// The configured and known peers, by node id.
    pub peers: Vec<Peer>,
    /// Packets by the name of their outcome, since the maps were made.
    pub outcomes: BTreeMap<String, u64>,
    /// What went over the links.
    pub replication: Replication,
    /// This node's certificate.
    pub certificate: Certificate,
    /// What an operator should look at, one sentence each.
    pub warnings: Vec<String>,
    /// Seconds since the node's state is what it is.
    #[serde(default)]
    pub state_since_s: u64,
    /// Seconds since the operator takes the node out of service; `None` while it is in service.
    #[serde(default)]
    pub draining_s: Option<u64>,
    /// The last run of the hook; `None` before it, and without a hook.
    #[serde(default)]
    pub hook: Option<Hook>,
    /// Other nodes of the cluster that are alive, as its members tell each other; linked ones are among `peers`.
    #[serde(default)]
    pub members: u64,
    /// All that core and links have counted, by the names of [`crate::cluster::Counters`]' fields.
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
}

/// A run of the operator's hook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// The state that the node left.
    pub old: String,
    /// The state that it came to.
    pub new: String,
    /// Seconds since the run ended.
    pub ended_s: u64,
    /// Why it counts as failed; `None`: it does not.
    pub failure: Option<String>,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// `native` or `generic`.
    pub xdp: String,
    /// `tcx` or `clsact`.
    pub egress: String,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The shared address.
    pub vip: IpAddr,
    /// The UDP port.
    pub port: u16,
    /// `transaction` or `call`.
    pub affinity: String,
    /// Its proxy: `alive`, `down`, `unknown` before anything is known of it, or `unprobed`, which counts as alive.
    #[serde(default)]
    pub proxy: String,
    /// Why the proxy is down.
    #[serde(default)]
    pub reason: Option<String>,
}

/// The claim table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Unexpired claims of this node.
    pub own: u64,
    /// Unexpired claims of its peers.
    pub peers: u64,
    /// Claims that the configuration asks to hold.
    pub capacity: u64,
    /// Slots of the table.
    pub table_entries: u64,
    /// Unexpired claims of each node that has any, by its id.
    #[serde(default)]
    pub by_owner: BTreeMap<u16, u64>,
    /// Claims that the daemon did not write because the table was full of others that are worth more.
    #[serde(default)]
    pub not_kept: u64,
}

impl Claims {
    /// How full the table is, in percent of what it is made for: the claims that the configuration asks to hold.
    #[must_use]
    pub fn percent(&self) -> u64 {
        (self.own + self.peers).saturating_mul(100) / self.capacity.max(1)
    }
}

/// A peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its node id; 0 while only its address is known.
    pub node: u16,
    /// Its underlay address.
    pub address: String,
    /// `up` or `down`.
    pub link: String,
    /// The lowest of its live epochs, 0..=15.
    pub epoch: u8,
    /// Round-trip time of its link in microseconds.
    pub rtt_us: Option<u64>,
    /// Seconds since the link came up or went down.
    pub since_s: u64,
    /// How its packets leave; `None` while that is not known.
    pub next_hop: Option<NextHop>,
    /// Why the link is down or the next hop is not known.
    pub reason: Option<String>,
    /// Messages that wait to be sent to it.
    #[serde(default)]
    pub queued_messages: u64,
    /// Messages to it that were not sent since the daemon started; their claims are repaired.
    #[serde(default)]
    pub dropped_messages: u64,
    /// UDP datagrams sent to it since its link came up: claims, acknowledgements, and what was sent again.
    #[serde(default)]
    pub sent_packets: u64,
    /// Their bytes, without the headers of UDP and IP.
    #[serde(default)]
    pub sent_bytes: u64,
    /// Those of them that were taken for lost; what was in them was sent again.
    #[serde(default)]
    pub lost_packets: u64,
    /// When its certificate ends, RFC 3339; `None` while it is not linked.
    #[serde(default)]
    pub certificate_expires: Option<String>,
    /// How it is, by its own word: `joining`, `up`, `draining` or `proxy-down`; `down` while it does not count as up.
    #[serde(default)]
    pub state: String,
}

/// How a peer's packets leave this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    /// The interface.
    pub interface: String,
    /// The MAC address of the next hop.
    pub mac: String,
    /// Largest outer packet in bytes.
    pub mtu: u32,
}

/// What went over the links since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replication {
    /// Claims sent, once for each peer.
    pub claims_sent: u64,
    /// Claims received.
    pub claims_received: u64,
    /// Batches sent.
    pub batches_sent: u64,
    /// Batches received.
    pub batches_received: u64,
    /// Peers refused for their certificate.
    pub refused_certificates: u64,
    /// Links dropped for what came over them.
    pub protocol_errors: u64,
    /// Claims that wait to be sent.
    pub send_queue: u64,
    /// Questions about the owner of a held message, once for each peer.
    #[serde(default)]
    pub asks_sent: u64,
    /// Questions that a peer has answered with its claim.
    #[serde(default)]
    pub asks_found: u64,
    /// Age of received claims, from the packet that made them to their place in the table; `None` before the first.
    pub age_us: Option<Age>,
}

/// A distribution in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Age {
    /// How many were measured.
    pub count: u64,
    /// Median.
    pub p50: u64,
    /// 99th percentile.
    pub p99: u64,
    /// The largest.
    pub max: u64,
}

/// This node's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// When it ends, RFC 3339.
    pub expires: String,
    /// Whole days until then, negative once it has ended.
    pub days_left: i64,
    /// When the first of the authorities' certificates ends, RFC 3339.
    #[serde(default)]
    pub authorities_expire: String,
}
