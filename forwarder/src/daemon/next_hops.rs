//! How the peers are reached, from the routes, and the one place that writes the peers into the maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::Result;
use forwarder_common::{
    abi::{Address, Peer},
    clock::Clock,
    geneve,
    ids::{Epochs, NodeId},
    net,
};
use tokio::sync::watch;

use crate::{
    dataplane::Dataplane,
    routes::{self, NextHop, NextHops, Unreachable},
};
use forwarder_core::failover::Introduction;

/// The largest IP packet of an Ethernet that is not configured otherwise, in bytes.
const FULL_SIZE: u32 = 1500;

/// What is written of a peer: whether it is up, its live epochs, and how it is reached.
type Written = (bool, Epochs, Peer);

/// The next hops, and the entries of the peers in the maps that are made with them.
#[derive(Debug)]
pub(super) struct NextHopTable {
    source: Address,
    hops: NextHops,
    wanted: watch::Sender<Vec<IpAddr>>,
    /// As last said by the failover machine.
    peers: BTreeMap<NodeId, (bool, Introduction)>,
    clocks: BTreeMap<NodeId, Clock>,
    /// As last written, to write no more than what changes.
    written: BTreeMap<NodeId, Written>,
}

impl NextHopTable {
    /// For the peers of a node at `underlay`, whose next hops are asked for through `wanted`.
    pub(super) const fn new(underlay: IpAddr, wanted: watch::Sender<Vec<IpAddr>>) -> Self {
        Self {
            source: Address::of(underlay),
            hops: NextHops::new(),
            wanted,
            peers: BTreeMap::new(),
            clocks: BTreeMap::new(),
            written: BTreeMap::new(),
        }
    }

    /// Writes what this node takes a peer for.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub(super) fn set(&mut self, id: NodeId, up: bool, said: Introduction, dataplane: &mut Dataplane) -> Result<()> {
        self.peers.insert(id, (up, said));
        let mut wanted: Vec<_> = self.peers.values().map(|(_, said)| said.underlay).collect();
        wanted.sort_unstable();
        wanted.dedup();
        self.wanted.send_if_modified(|current| {
            let changes = *current != wanted;
            *current = wanted;
            changes
        });
        self.write(id, dataplane)
    }

    /// Writes a peer's clock.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub(super) fn set_clock(&mut self, id: NodeId, clock: Clock, dataplane: &mut Dataplane) -> Result<()> {
        self.clocks.insert(id, clock);
        self.write(id, dataplane)
    }

    /// The routes say how peers are reached now.
    pub(super) fn set_next_hops(&mut self, hops: NextHops, dataplane: &mut Dataplane) -> Result<()> {
        for (address, hop) in &hops {
            match hop {
                Ok(hop) => log::debug!("{address} is reached over {} by {:02x?}", hop.interface, hop.mac),
                Err(reason) => log::info!("{address} cannot be reached by the fast path: {reason}"),
            }
        }
        self.hops = hops;
        let ids: Vec<_> = self.peers.keys().copied().collect();
        ids.into_iter().try_for_each(|id| self.write(id, dataplane))
    }

    fn write(&mut self, id: NodeId, dataplane: &mut Dataplane) -> Result<()> {
        let Some((up, said)) = self.peers.get(&id).copied() else { return Ok(()) };
        let mut entry = Peer { address: Address::of(said.underlay), source: self.source, ..Peer::default() };
        entry.served = said.served;
        entry.clock = self.clocks.get(&id).copied().unwrap_or_default();
        if let Some(Ok(hop)) = self.hops.get(&said.underlay) {
            entry.ifindex = hop.ifindex;
            entry.mtu = hop.mtu;
            entry.destination_mac = hop.mac;
            entry.source_mac = hop.source_mac;
        }
        let written = (up, said.epochs, entry);
        if self.written.get(&id) != Some(&written) {
            dataplane.set_peer(id, up, written.1, &entry)?;
            self.written.insert(id, written);
        }
        Ok(())
    }

    /// How a peer at this address is reached, or why it cannot be by the fast path.
    pub(super) fn hop(&self, underlay: IpAddr) -> Option<&Result<NextHop, Unreachable>> {
        self.hops.get(&underlay)
    }

    /// For `status`: what an operator should look at.
    pub(super) fn warnings(&self, interfaces: &[String]) -> impl Iterator<Item = String> {
        let of_hops = self.hops.iter().filter_map(|(address, hop)| match hop {
            Err(reason @ Unreachable::NoNeighbour { .. }) => Some(format!("{address}: {reason}")),
            Err(reason) => Some(format!("{address} cannot be reached by the fast path: {reason}")),
            Ok(hop) if !interfaces.contains(&hop.interface) => Some(format!(
                "{address} is reached over {}, which is not among `interfaces`: its packets come back over it unseen",
                hop.interface
            )),
            Ok(hop) => small_mtu(*address, hop),
        });
        of_hops.chain(self.redirects())
    }

    /// Of each interface over which peers are reached, whether ICMP can redirect the way to them.
    fn redirects(&self) -> impl Iterator<Item = String> {
        let over =
            self.hops.iter().filter_map(|(address, hop)| Some((&hop.as_ref().ok()?.interface, address.is_ipv6())));
        let over: BTreeSet<_> = over.collect();
        over.into_iter().filter(|(interface, v6)| routes::believes_redirects(interface, *v6)).map(|(interface, v6)| {
            let family = if v6 { "ipv6" } else { "ipv4" };
            format!(
                "the kernel believes ICMP redirects at {interface}, which can send the links and the slow path \
                 elsewhere; hint: `sysctl -w net.{family}.conf.all.accept_redirects=0 \
                 net.{family}.conf.{}.accept_redirects=0`",
                // The notation of sysctl(8).
                interface.replace('.', "/")
            )
        })
    }
}

/// A full-size packet must fit the tunnel to take the fast path.
fn small_mtu(address: IpAddr, hop: &NextHop) -> Option<String> {
    let headers = (geneve::TUNNEL + if address.is_ipv4() { net::IPV4 } else { net::IPV6 }) as u32;
    let fits = hop.mtu.saturating_sub(headers);
    (fits < FULL_SIZE).then(|| {
        format!(
            "packets of more than {fits} bytes to {address} take the slow path: the MTU over {} is {}; \
             hint: {} or more",
            hop.interface,
            hop.mtu,
            FULL_SIZE + headers,
        )
    })
}
