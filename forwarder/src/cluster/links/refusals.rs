//! Who is kept out, counted each time and said once a minute.

use std::net::SocketAddr;
use std::sync::Arc;

use log::{debug, warn};
use quinn::Connection;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::complaints::Complaints;
use super::counts::{Shared, count};
use super::event::Event;
use super::handshake::{Close, Failure};

pub(super) struct Refusals {
    shared: Arc<Shared>,
    events: mpsc::Sender<Event>,
    /// Those whom this node keeps out.
    refused: Complaints,
    /// Those who keep this node out, or do not answer.
    failed: Complaints,
}

impl Refusals {
    pub(super) fn new(shared: Arc<Shared>, events: mpsc::Sender<Event>) -> Self {
        Self { shared, events, refused: Complaints::default(), failed: Complaints::default() }
    }

    /// No link came of a handshake.
    pub(super) fn handshake(&mut self, address: SocketAddr, called: bool, failure: Failure) {
        let now = Instant::now();
        match failure {
            Failure::Refused(reason) => {
                count(&self.shared.counters.refused_certificates);
                self.say(address, &format!("refused {address}: its certificate is not of this cluster ({reason})"));
            }
            Failure::OtherProtocol => {
                count(&self.shared.counters.refused_protocols);
                let hint = "run the same version of the forwarder on all nodes";
                self.say(address, &format!("refused {address}: it speaks another protocol on its links; hint: {hint}"));
            }
            Failure::Unwelcome(reason) => {
                if self.failed.may(address.ip(), now) {
                    warn!("cluster: {address} refuses this node: {reason}; trying on");
                }
            }
            Failure::Misdirected(wanted) => {
                debug!("cluster: {address} has called node {} here", wanted.number());
            }
            Failure::Unreachable(reason) => {
                debug!("cluster: no handshake with {address}: {reason}");
                if called && self.failed.may(address.ip(), now) {
                    warn!("cluster: {address} does not answer ({reason}); trying on");
                }
            }
        }
    }

    /// Another host has the node id of the one at the other end.
    pub(super) fn duplicate(&mut self, connection: &Connection, reason: &str) {
        count(&self.shared.counters.duplicate_nodes);
        Close::DuplicateNode.apply(connection, "another host has this node id");
        self.say(connection.remote_address(), reason);
    }

    /// Another node than the one that was called has answered.
    pub(super) fn impostor(&mut self, connection: &Connection, reason: &str) {
        count(&self.shared.counters.impostors);
        Close::OtherNode.apply(connection, "another node was called");
        self.say(connection.remote_address(), reason);
    }

    /// A link was ended for its peer's certificate.
    pub(super) fn untrusted(&mut self, address: SocketAddr, reason: &str) {
        count(&self.shared.counters.refused_certificates);
        self.say(address, reason);
    }

    fn say(&mut self, address: SocketAddr, reason: &str) {
        if self.refused.may(address.ip(), Instant::now()) {
            warn!("cluster: {reason}");
            // A daemon too busy to hear of it reads it in the log and the counters.
            let _ = self.events.try_send(Event::Refused { address, reason: reason.to_owned() });
        }
    }
}
