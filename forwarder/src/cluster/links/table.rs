//! The connections that are in use, one a peer at most.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use forwarder_common::ids::NodeId;
use quinn::Connection;
use rustls::pki_types::CertificateDer;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::calls::SIMULTANEOUS;
use super::end::Stop;
use super::queue;
use crate::identity::Identity;

/// A connection that is in use.
pub(super) struct Link {
    pub(super) id: u64,
    pub(super) address: SocketAddr,
    /// Who called: of two connections made at once, the lower node id's stays.
    pub(super) caller: NodeId,
    pub(super) since: Instant,
    pub(super) connection: Connection,
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) expires_s: i64,
    pub(super) queue: queue::Sender,
    /// Its hello is queued, so other messages may follow.
    pub(super) introduced: bool,
    pub(super) stop: Option<oneshot::Sender<Stop>>,
    pub(super) task: JoinHandle<bool>,
}

/// Which of two connections to a peer stays.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    New,
    Old,
    /// The other host is not the one that is linked.
    Duplicate(SocketAddr),
}

/// All of them.
#[derive(Default)]
pub(super) struct Table(BTreeMap<NodeId, Link>);

impl Link {
    /// Tells the link's task to end. An error is a link that has ended by itself meanwhile.
    fn stop(&mut self, why: Stop) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(why);
        }
    }

    /// Both sides decide alike: of two connections made at once the lower node id's stays, later on the newer one.
    fn or(&self, caller: NodeId, address: SocketAddr) -> Choice {
        if self.connection.close_reason().is_some() {
            return Choice::New;
        }
        if self.address != address {
            return Choice::Duplicate(self.address);
        }
        if caller > self.caller && self.since.elapsed() < SIMULTANEOUS { Choice::Old } else { Choice::New }
    }
}

impl Table {
    pub(super) fn contains(&self, peer: NodeId) -> bool {
        self.0.contains_key(&peer)
    }

    pub(super) fn get(&self, peer: NodeId) -> Option<&Link> {
        self.0.get(&peer)
    }

    pub(super) fn get_mut(&mut self, peer: NodeId) -> Option<&mut Link> {
        self.0.get_mut(&peer)
    }

    /// Whether a new connection to `peer` takes the place of the one that is in use.
    pub(super) fn choose(&self, peer: NodeId, caller: NodeId, address: SocketAddr) -> Choice {
        self.0.get(&peer).map_or(Choice::New, |old| old.or(caller, address))
    }

    pub(super) fn insert(&mut self, peer: NodeId, link: Link) {
        self.0.insert(peer, link);
    }

    /// Takes a link out that another connection replaces; the task that ends it.
    pub(super) fn replace(&mut self, peer: NodeId) -> Option<JoinHandle<bool>> {
        let mut old = self.0.remove(&peer)?;
        old.stop(Stop::Replaced);
        Some(old.task)
    }

    /// Takes a link out that has ended, unless another one has its place already.
    pub(super) fn remove(&mut self, peer: NodeId, id: u64) -> Option<Link> {
        if self.0.get(&peer)?.id != id {
            return None;
        }
        self.0.remove(&peer)
    }

    pub(super) fn stop(&mut self, peer: NodeId, why: Stop) {
        if let Some(link) = self.0.get_mut(&peer) {
            link.stop(why);
        }
    }

    /// Ends the links whose peers `identity` would not let in.
    pub(super) fn stop_untrusted(&mut self, identity: &Identity) {
        for link in self.0.values_mut() {
            if let Err(reason) = identity.admit_again(&link.chain) {
                link.stop(Stop::Untrusted(format!("its certificate is not of this cluster any more ({reason})")));
            }
        }
    }

    /// Ends the links whose peers' certificates have ended, by `now_s` in seconds since 1970.
    pub(super) fn stop_expired(&mut self, now_s: i64) {
        for link in self.0.values_mut().filter(|link| link.expires_s < now_s) {
            link.stop(Stop::Untrusted("its certificate has ended".to_owned()));
        }
    }

    /// The linked peers, with the time from which on a new connection is not taken for the other of two calls at once.
    pub(super) fn renewable(&self) -> impl Iterator<Item = (NodeId, Instant)> {
        self.0.iter().map(|(peer, link)| (*peer, link.since + SIMULTANEOUS))
    }
}
