//! The links: one QUIC connection with mutual TLS to each peer, kept up by themselves.
//!
//! They move bytes and know nothing of claims. A peer's id is what its verified certificate says. Each message is one
//! uni-directional stream, so a lost packet delays nobody else's message; only the hello is read before all others. One
//! task looks after all links and never waits for the daemon; each link runs in a task of its own, whose end or panic is the
//! end of that link and of nothing else.

mod backoff;
mod complaints;
mod handshake;
mod link;
mod mesh;
mod tls;

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use forwarder_common::ids::NodeId;
use quinn::{Connection, Endpoint, EndpointConfig, TokioRuntime};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::core::Kind;
use crate::identity::Identity;
use mesh::Mesh;

/// Longest datagram in bytes: what fits every path that QUIC works on (RFC 9000 §14), with room for its headers.
pub const DATAGRAM_BYTES: usize = 1100;
/// How long [`Handle::shutdown`] waits for the peers to be told.
const FAREWELL: Duration = Duration::from_millis(500);

/// Where to listen, whom to call, who to be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The UDP address of the links; the peers see connections come from it.
    pub listen: SocketAddr,
    /// Peers to call until linked; one that equals `listen` is left out.
    pub seeds: Vec<SocketAddr>,
    /// This node's certificate, key, authorities, id and cluster.
    pub identity: Arc<Identity>,
}

/// What the daemon asks of the links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Send a message; dropped and counted when the peer is not linked, or when its queue is full or too slow.
    Send {
        /// The peer.
        to: NodeId,
        /// One whole message.
        message: Vec<u8>,
        /// What it is: nothing goes out on a link before its hello.
        kind: Kind,
    },
    /// Send an unreliable datagram, at most [`DATAGRAM_BYTES`] long; dropped and counted when the peer is not linked and introduced.
    Datagram {
        /// The peer.
        to: NodeId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Call a member until it is linked or forgotten; its certificate must say that it is this peer. Said again with another
    /// address: call it there.
    Call {
        /// The peer.
        peer: NodeId,
        /// Where its links listen.
        address: SocketAddr,
    },
    /// Call a member no longer; a link that stands is kept, and seeds are called all the same.
    Forget {
        /// The peer.
        peer: NodeId,
    },
    /// Close the link of a peer that broke the protocol, and keep away from it for a second, a minute at most if it goes on.
    Drop {
        /// The peer.
        peer: NodeId,
        /// Why, for the log.
        reason: String,
    },
}

/// What the links tell the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A link stands.
    LinkUp {
        /// The peer.
        peer: NodeId,
        /// Its address.
        address: SocketAddr,
        /// It took the place of one that stood, without a [`Event::LinkDown`] between: the peer may have restarted.
        again: bool,
    },
    /// The link is gone.
    LinkDown {
        /// The peer.
        peer: NodeId,
        /// Why, for people.
        reason: String,
        /// The peer closed it in order, as a daemon does that is stopped or restarted: its host may be well.
        leaving: bool,
    },
    /// A message of a linked peer.
    Message {
        /// The peer.
        peer: NodeId,
        /// One whole message, at most [`super::wire::MESSAGE_BYTES`] long.
        bytes: Vec<u8>,
    },
    /// An unreliable datagram of a linked peer; never before its first message.
    Datagram {
        /// The peer.
        peer: NodeId,
        /// The bytes, at most [`DATAGRAM_BYTES`].
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

/// What the links counted since they were started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LinkCounters {
    /// Handshakes that ended in this node refusing the other's certificate.
    pub refused_certificates: u64,
    /// Connections refused because their node id is this node's own or is linked from another address.
    pub duplicate_nodes: u64,
    /// Links dropped because the peer broke the protocol.
    pub links_dropped: u64,
    /// Links that came up.
    pub links_up: u64,
    /// Links that went down.
    pub links_down: u64,
    /// Messages waiting in the queues of all peers.
    pub queued_messages: u64,
    /// Messages that were not sent: no link, a full queue, or too old; the digest repairs what that was.
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
}

/// The running links. Dropping it ends them without telling the peers; [`Self::shutdown`] tells them.
#[derive(Debug)]
pub struct Handle {
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
    endpoint: Endpoint,
}

impl Handle {
    /// The address that is listened on, with the port that the system chose where 0 was asked for.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        self.endpoint.local_addr().context("ask the cluster's socket for its address")
    }

    /// The links that stand, in the order of node ids.
    #[must_use]
    pub fn links(&self) -> Vec<LinkView> {
        let view = |(node, connection): (&NodeId, &Connection)| LinkView {
            node: node.number(),
            address: connection.remote_address(),
            rtt_us: u64::try_from(connection.rtt().as_micros()).unwrap_or(u64::MAX),
        };
        self.shared.linked().iter().map(view).collect()
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> LinkCounters {
        self.shared.counters.read()
    }

    /// Closes all links so that the peers see it at once, and waits for that half a second at most.
    pub async fn shutdown(mut self) {
        drop(self.stop.take());
        if let Some(task) = self.task.take() {
            // An error is a task that panicked: it is gone as well.
            let _ = task.await;
        }
        let _ = tokio::time::timeout(FAREWELL, self.endpoint.wait_idle()).await;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Starts the links; call it within a tokio runtime. When the links end by themselves, which a healthy daemon never sees, the
/// events end, and the daemon goes on with the claims it has.
///
/// # Errors
/// The address cannot be listened on, a seed is of the other address family, or the certificate or its key are unusable.
pub fn spawn(
    settings: Settings,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
) -> anyhow::Result<Handle> {
    let listen = settings.listen;
    if let Some(seed) = settings.seeds.iter().find(|seed| seed.is_ipv4() != listen.is_ipv4()) {
        anyhow::bail!(
            "call seed {seed}: its address family is not that of listen {listen}; hint: give both as IPv4 or IPv6"
        );
    }
    let server = tls::server(&settings.identity)?;
    let client = tls::client(&settings.identity)?;
    let endpoint = bind(listen, server)?;
    let shared = Arc::new(Shared::default());
    let (stop, stopped) = oneshot::channel();
    let mesh = Mesh::new(settings, endpoint.clone(), client, Arc::clone(&shared), events);
    let task = tokio::spawn(mesh.run(commands, stopped));
    Ok(Handle { shared, stop: Some(stop), task: Some(task), endpoint })
}

fn bind(listen: SocketAddr, server: quinn::ServerConfig) -> anyhow::Result<Endpoint> {
    let socket = UdpSocket::bind(listen).map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => "another process has this port; stop it or change `listen` in [cluster]",
            std::io::ErrorKind::AddrNotAvailable => "give an address of this host as `listen` in [cluster]",
            std::io::ErrorKind::PermissionDenied => "take a port above 1023, or run as root",
            _ => "check `listen` in [cluster]",
        };
        anyhow::anyhow!("listen on {listen}: {error}; hint: {hint}")
    })?;
    Endpoint::new(EndpointConfig::default(), Some(server), socket, Arc::new(TokioRuntime))
        .with_context(|| format!("listen on {listen}"))
}

/// What the links' tasks and the handle share.
#[derive(Debug, Default)]
struct Shared {
    counters: Counts,
    linked: Mutex<BTreeMap<NodeId, Connection>>,
}

impl Shared {
    fn linked(&self) -> MutexGuard<'_, BTreeMap<NodeId, Connection>> {
        // Nothing is left half done under this lock, so a panic of its holder spoils nothing.
        self.linked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Counts {
    refused_certificates: AtomicU64,
    duplicate_nodes: AtomicU64,
    links_dropped: AtomicU64,
    links_up: AtomicU64,
    links_down: AtomicU64,
    queued_messages: AtomicU64,
    dropped_messages: AtomicU64,
    dropped_datagrams: AtomicU64,
}

impl Counts {
    fn read(&self) -> LinkCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LinkCounters {
            refused_certificates: read(&self.refused_certificates),
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

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
