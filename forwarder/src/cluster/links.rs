//! The links: one QUIC connection with mutual TLS to each peer, kept up by themselves.
//!
//! They move bytes and know nothing of claims. A peer's id is what its verified certificate says. Each message is one
//! uni-directional stream, so a lost packet delays nobody else's message; only the version and the hello are read
//! before all others. One task looks after all links and never waits for the daemon; each link runs in a task of its
//! own, whose end or panic is the end of that link and of nothing else.

mod backoff;
mod calls;
mod complaints;
mod counts;
mod end;
mod event;
mod handshake;
mod handshakes;
mod link;
mod mesh;
mod opening;
mod penalties;
mod queue;
mod rates;
mod read;
mod refusals;
mod socket;
mod table;
mod tls;
mod trust;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use forwarder_common::ids::NodeId;
use forwarder_core::node::Command;
use quinn::{Endpoint, EndpointConfig, TokioRuntime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

pub use self::backoff::{RETRY_FIRST, RETRY_LONGEST};
pub use self::calls::CALL_GRACE;
pub use self::counts::{LinkCounters, LinkView};
pub use self::event::Event;
pub use self::handshake::HANDSHAKE;
pub use self::queue::QUEUE_BYTES;
use self::{counts::Shared, mesh::Mesh, trust::Trust};
use crate::identity::Identity;

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

/// The running links. Dropping it ends them without telling the peers; [`Self::shutdown`] tells them.
#[derive(Debug)]
pub struct Handle {
    shared: Arc<Shared>,
    node: NodeId,
    cluster: String,
    trust: mpsc::UnboundedSender<Trust>,
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
        self.shared.views()
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> LinkCounters {
        self.shared.counters.read()
    }

    /// Takes another certificate, other authorities or another list of the denied. New handshakes go by them at once;
    /// links that stand are kept, but for those whose peer would not be let in any more. Each link ends with its peer's
    /// certificate.
    ///
    /// # Errors
    /// It is another node's or another cluster's, or of no use: the one before it stays in use.
    pub fn set_identity(&self, identity: Arc<Identity>) -> anyhow::Result<()> {
        if (identity.node, &identity.cluster) != (self.node, &self.cluster) {
            bail!(
                "take another certificate: it is of node {} of cluster {:?}; hint: a node keeps its id until it is \
                 restarted",
                identity.node.number(),
                identity.cluster
            );
        }
        let (server, client) = (tls::server(&identity)?, tls::client(&identity)?);
        self.endpoint.set_server_config(Some(server));
        // An error is links that have ended: there is nobody left to show a certificate to.
        let _ = self.trust.send(Trust { identity, client });
        Ok(())
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

/// Starts the links; call it within a tokio runtime. When the links end by themselves, which a healthy daemon never
/// sees, the events end, and the daemon goes on with the claims it has.
///
/// # Errors
/// The address cannot be listened on, a seed is of the other address family, or the certificate or its key are
/// unusable.
pub fn spawn(
    settings: Settings,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
) -> anyhow::Result<Handle> {
    let listen = settings.listen;
    if let Some(seed) = settings.seeds.iter().find(|seed| seed.is_ipv4() != listen.is_ipv4()) {
        bail!("call seed {seed}: its address family is not that of listen {listen}; hint: give both as IPv4 or IPv6");
    }
    let server = tls::server(&settings.identity)?;
    let client = tls::client(&settings.identity)?;
    let socket = socket::bind(listen)?;
    let endpoint = Endpoint::new(EndpointConfig::default(), Some(server), socket, Arc::new(TokioRuntime))
        .with_context(|| format!("listen on {listen}"))?;
    let (node, cluster) = (settings.identity.node, settings.identity.cluster.clone());
    let (shared, (trust, new_trust)) = (Arc::new(Shared::default()), mpsc::unbounded_channel());
    let (stop, stopped) = oneshot::channel();
    let seeds = settings.seeds.into_iter().filter(move |seed| *seed != listen);
    let trusted = Trust { identity: settings.identity, client };
    let mesh = Mesh::new(endpoint.clone(), seeds, trusted, new_trust, Arc::clone(&shared), events);
    let task = tokio::spawn(mesh.run(commands, stopped));
    Ok(Handle { shared, node, cluster, trust, stop: Some(stop), task: Some(task), endpoint })
}
