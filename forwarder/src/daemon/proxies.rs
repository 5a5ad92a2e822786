//! What is seen of the services' proxies: their answers to probes, and their sockets, also those of before this start.

use std::net::SocketAddr;

use anyhow::Result;
use forwarder_core::failover::{Evidence, Proxy};
use tokio::sync::mpsc;

use super::{
    probe::{self, Seen},
    sockets::Sockets,
};
use crate::config::Config;

/// What is seen of proxies and waits for the loop.
const SEEN: usize = 256;

/// The sources of evidence.
#[derive(Debug)]
pub(super) struct Proxies {
    services: Vec<SocketAddr>,
    seen: mpsc::Receiver<Seen>,
    sockets: Sockets,
}

impl Proxies {
    /// Begins to look after the proxies that are to be probed. Call within a tokio runtime.
    ///
    /// # Errors
    /// The kernel gives no randomness or no thread.
    pub(super) fn watch(config: &Config) -> Result<Self> {
        let (sender, seen) = mpsc::channel(SEEN);
        probe::spawn(&config.services, &sender)?;
        let services = config.services.iter().map(|service| SocketAddr::new(service.vip, service.port)).collect();
        Ok(Self { services, seen, sockets: Sockets::open(&config.control) })
    }

    /// What is known of them at the start: each service with its proxy.
    pub(super) fn known(&self, config: &Config) -> Vec<(SocketAddr, Proxy)> {
        let of = |(service, address): (&crate::config::Service, &SocketAddr)| {
            let failures = service.probe.as_ref().map(|probe| probe.failures);
            (*address, Proxy::new(failures, self.sockets.inodes(*address)))
        };
        config.services.iter().zip(&self.services).map(of).collect()
    }

    /// Waits until something is seen of a proxy; remembers its sockets for the next daemon.
    pub(super) async fn seen(&mut self) -> Option<Seen> {
        let (service, evidence) = self.seen.recv().await?;
        if let (Evidence::Sockets(inodes), Some(address)) = (&evidence, self.services.get(service))
            && !inodes.is_empty()
        {
            self.sockets.set(*address, inodes);
        }
        Some((service, evidence))
    }
}
