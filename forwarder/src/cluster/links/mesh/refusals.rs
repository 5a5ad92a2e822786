//! Who is kept out, counted each time and said once a minute.

use std::net::SocketAddr;

use log::{debug, warn};
use quinn::Connection;
use tokio::time::Instant;

use super::super::Event;
use super::super::counts::count;
use super::super::handshake::{Close, Failure};
use super::Mesh;

impl Mesh {
    /// No link came of a handshake.
    pub(super) fn failed(&mut self, address: SocketAddr, called: bool, failure: Failure) {
        let now = Instant::now();
        match failure {
            Failure::Refused(reason) => {
                count(&self.shared.counters.refused_certificates);
                self.refuse(address, &format!("refused {address}: its certificate is not of this cluster ({reason})"));
            }
            Failure::OtherProtocol => {
                count(&self.shared.counters.refused_protocols);
                let hint = "run the same version of the forwarder on all nodes";
                self.refuse(
                    address,
                    &format!("refused {address}: it speaks another protocol on its links; hint: {hint}"),
                );
            }
            Failure::Unwelcome(reason) => {
                if self.failures.may(address.ip(), now) {
                    warn!("cluster: {address} refuses this node: {reason}; trying on");
                }
            }
            Failure::Unreachable(reason) => {
                debug!("cluster: no handshake with {address}: {reason}");
                if called && self.failures.may(address.ip(), now) {
                    warn!("cluster: {address} does not answer ({reason}); trying on");
                }
            }
        }
    }

    pub(super) fn refuse_duplicate(&mut self, connection: &Connection, reason: &str) {
        count(&self.shared.counters.duplicate_nodes);
        Close::DuplicateNode.apply(connection, "another host has this node id");
        self.refuse(connection.remote_address(), reason);
    }

    pub(super) fn refuse(&mut self, address: SocketAddr, reason: &str) {
        if self.refusals.may(address.ip(), Instant::now()) {
            warn!("cluster: {reason}");
            // A daemon too busy to hear of it reads it in the log and the counters.
            let _ = self.events.try_send(Event::Refused { address, reason: reason.to_owned() });
        }
    }
}
