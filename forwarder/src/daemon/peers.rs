//! What the daemon knows of its peers, from links, core and routes, and the one place that writes it into the maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use anyhow::Result;
use forwarder_common::{
    abi::{self, Address, Peer},
    geneve,
    ids::{Epoch, NodeId},
    net,
};
use tokio::sync::watch;

use crate::{
    dataplane::Dataplane,
    routes::{NextHop, NextHops, Unreachable},
    status,
};
use forwarder_core::node::State;

/// An address in the form of the maps.
#[must_use]
pub(super) const fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => Address::v4(v4.octets()),
        IpAddr::V6(v6) => Address::v6(v6.octets()),
    }
}

/// The largest IP packet of an Ethernet that is not configured otherwise, in bytes.
const FULL_SIZE: u32 = 1500;

/// One peer.
#[derive(Debug)]
struct Known {
    link: Option<SocketAddr>,
    /// The link stands now.
    linked: bool,
    /// Without a link: the peer's daemon is well all the same.
    is_well: bool,
    state: State,
    reason: Option<String>,
    since: Instant,
    up: bool,
    epoch: Epoch,
    underlay: Option<IpAddr>,
    /// As last written, to write no more than what changes.
    written: Option<(bool, Epoch, Peer)>,
}

/// All peers that were ever linked or written by an earlier daemon.
#[derive(Debug)]
pub(super) struct Peers {
    node: NodeId,
    source: Address,
    known: BTreeMap<NodeId, Known>,
    hops: NextHops,
    wanted: watch::Sender<Vec<IpAddr>>,
    /// Who may gather, and who may take new transactions, as last chosen from.
    choice: (Vec<u16>, Vec<u16>),
    /// By slot, as the kernel has it.
    gatherers: Vec<u16>,
    /// As above.
    takers: Vec<u16>,
}

impl Peers {
    /// Peers of `node` at `underlay`, whose next hops are asked for through `wanted`.
    pub(super) const fn new(node: NodeId, underlay: IpAddr, wanted: watch::Sender<Vec<IpAddr>>) -> Self {
        let source = address(underlay);
        Self {
            node,
            source,
            known: BTreeMap::new(),
            hops: NextHops::new(),
            wanted,
            choice: (Vec::new(), Vec::new()),
            gatherers: Vec::new(),
            takers: Vec::new(),
        }
    }

    fn entry(&mut self, id: NodeId) -> &mut Known {
        self.known.entry(id).or_insert_with(|| Known {
            link: None,
            linked: false,
            is_well: false,
            state: State::Joining,
            reason: None,
            since: Instant::now(),
            up: false,
            epoch: Epoch::new(0),
            underlay: None,
            written: None,
        })
    }

    /// A link stands.
    pub(super) fn linked(&mut self, id: NodeId, address: SocketAddr, dataplane: &mut Dataplane) -> Result<()> {
        self.note_linked(id, address);
        // It may have counted as up all the time, so that nothing else would be said of it.
        self.choose(dataplane)
    }

    fn note_linked(&mut self, id: NodeId, address: SocketAddr) {
        let peer = self.entry(id);
        peer.link = Some(address);
        peer.linked = true;
        peer.reason = None;
        peer.since = Instant::now();
    }

    /// A link is gone. Unless the peer's daemon is well and it was this host that was away, it gathers and takes nothing from now on, though
    /// its node may count as up for a while.
    pub(super) fn unlinked(
        &mut self,
        id: NodeId,
        reason: String,
        is_well: bool,
        dataplane: &mut Dataplane,
    ) -> Result<()> {
        self.note_unlinked(id, reason, is_well);
        self.choose(dataplane)
    }

    fn note_unlinked(&mut self, id: NodeId, reason: String, is_well: bool) {
        let peer = self.entry(id);
        peer.linked = false;
        peer.is_well = is_well;
        peer.reason = Some(reason);
        peer.since = Instant::now();
    }

    /// Who may gather fragments, and who may take new transactions.
    fn able(&self) -> (Vec<u16>, Vec<u16>) {
        let able = || self.known.iter().filter(|(_, peer)| peer.up && (peer.linked || peer.is_well));
        let healthy = able().filter(|(_, peer)| peer.state == State::Up);
        (
            able().map(|(id, _)| id.number()).chain([self.node.number()]).collect(),
            healthy.map(|(id, _)| id.number()).collect(),
        )
    }

    /// The peers whose links stand.
    pub(super) fn linked_ones(&self) -> BTreeSet<NodeId> {
        self.known.iter().filter(|(_, peer)| peer.linked).map(|(id, _)| *id).collect()
    }

    /// The core says what a peer is now.
    pub(super) fn set(
        &mut self,
        id: NodeId,
        up: bool,
        state: State,
        epoch: Epoch,
        underlay: IpAddr,
        dataplane: &mut Dataplane,
    ) -> Result<()> {
        let peer = self.entry(id);
        if peer.up && !up {
            log::info!("node {} counts as down: its transactions are served where their packets land", id.number());
        }
        (peer.up, peer.state, peer.epoch, peer.underlay) = (up, state, epoch, Some(underlay));
        self.choose(dataplane)?;
        let mut wanted: Vec<_> = self.known.values().filter_map(|peer| peer.underlay).collect();
        wanted.sort_unstable();
        wanted.dedup();
        self.wanted.send_if_modified(|current| {
            let changes = *current != wanted;
            *current = wanted;
            changes
        });
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
        let ids: Vec<_> = self.known.keys().copied().collect();
        ids.into_iter().try_for_each(|id| self.write(id, dataplane))
    }

    /// Marks down what an earlier daemon left up and no link has confirmed.
    pub(super) fn settle(&self, dataplane: &mut Dataplane) -> Result<()> {
        for id in dataplane.settle_peers(|id| self.known.get(&id).is_some_and(|peer| peer.up))? {
            log::warn!("node {}: up before this start, and no link since: now down", id.number());
        }
        Ok(())
    }

    fn write(&mut self, id: NodeId, dataplane: &mut Dataplane) -> Result<()> {
        let source = self.source;
        let Some(peer) = self.known.get_mut(&id) else { return Ok(()) };
        let Some(underlay) = peer.underlay else { return Ok(()) };
        let mut entry = Peer { address: address(underlay), source, ..Peer::default() };
        if let Some(Ok(hop)) = self.hops.get(&underlay) {
            entry.ifindex = hop.ifindex;
            entry.mtu = hop.mtu;
            entry.destination_mac = hop.mac;
            entry.source_mac = hop.source_mac;
        }
        let state = (peer.up, peer.epoch, entry);
        if peer.written != Some(state) {
            dataplane.set_peer(id, peer.up, peer.epoch, &entry)?;
            peer.written = Some(state);
        }
        Ok(())
    }

    /// Where a peer takes tunnel packets.
    pub(super) fn underlay(&self, id: NodeId) -> Option<IpAddr> {
        self.known.get(&id)?.underlay
    }

    /// Who gathers the fragments of a slot.
    pub(super) fn gatherer(&self, slot: usize) -> Option<NodeId> {
        NodeId::new(*self.gatherers.get(slot)?)
    }

    /// The healthy peer that takes a new transaction with this request key.
    pub(super) fn taker(&self, request_key: u64) -> Option<NodeId> {
        let slot = request_key % u64::from(abi::TAKER_SLOTS);
        NodeId::new(*self.takers.get(usize::try_from(slot).ok()?)?)
    }

    /// Chooses anew who gathers which fragments, and who takes which new transactions, if the peers have changed.
    fn choose(&mut self, dataplane: &mut Dataplane) -> Result<()> {
        let choice = self.able();
        if choice == self.choice {
            return Ok(());
        }
        let (gatherers, takers) = (by_rendezvous(&choice.0), by_rendezvous(&choice.1));
        self.choice = choice;
        if gatherers != self.gatherers {
            dataplane.set_gatherers(&gatherers)?;
            self.gatherers = gatherers;
        }
        if takers != self.takers {
            dataplane.set_takers(&takers)?;
            self.takers = takers;
        }
        Ok(())
    }

    /// Whether any peer is up.
    pub(super) fn any_up(&self) -> bool {
        self.known.values().any(|peer| peer.up)
    }

    /// Whether a node with this id is up.
    pub(super) fn is_live(&self, id: NodeId, epoch: Epoch) -> Option<bool> {
        self.known.get(&id).map(|peer| peer.up && peer.epoch == epoch)
    }

    /// For `status`: the peers by id, and then the seeds that no peer was ever linked from.
    pub(super) fn report(&self, seeds: &[SocketAddr], rtt_us: impl Fn(u16) -> Option<u64>) -> Vec<status::Peer> {
        let known = self.known.iter().map(|(id, peer)| {
            let hop = peer.underlay.and_then(|underlay| self.hops.get(&underlay));
            status::Peer {
                node: id.number(),
                address: peer.underlay.map_or_else(|| "unknown".to_owned(), |underlay| underlay.to_string()),
                link: if peer.up { "up" } else { "down" }.to_owned(),
                epoch: peer.epoch.number(),
                rtt_us: rtt_us(id.number()),
                since_s: peer.since.elapsed().as_secs(),
                next_hop: hop.and_then(|hop| hop.as_ref().ok()).map(next_hop),
                state: if peer.up { peer.state.name() } else { "down" }.to_owned(),
                reason: peer.reason.clone().or_else(|| hop.and_then(|hop| Some(hop.as_ref().err()?.to_string()))),
                ..status::Peer::default()
            }
        });
        let linked: Vec<_> = self.known.values().filter_map(|peer| peer.link).collect();
        let unknown = seeds.iter().filter(|seed| !linked.contains(seed)).map(|seed| status::Peer {
            address: seed.to_string(),
            link: "down".to_owned(),
            state: "down".to_owned(),
            reason: Some("a seed that has not answered yet".to_owned()),
            ..status::Peer::default()
        });
        known.chain(unknown).collect()
    }

    /// For `status`: what an operator should look at.
    pub(super) fn warnings(&self, interfaces: &[String]) -> impl Iterator<Item = String> {
        self.hops.iter().filter_map(|(address, hop)| match hop {
            Err(reason @ Unreachable::NoNeighbour { .. }) => Some(format!("{address}: {reason}")),
            Err(reason) => Some(format!("{address} cannot be reached by the fast path: {reason}")),
            Ok(hop) if !interfaces.contains(&hop.interface) => Some(format!(
                "{address} is reached over {}, which is not among `interfaces`: its packets come back over it unseen",
                hop.interface
            )),
            Ok(hop) => small_mtu(*address, hop),
        })
    }
}

/// A full-size packet must fit the tunnel to take the fast path.
fn small_mtu(address: IpAddr, hop: &NextHop) -> Option<String> {
    let headers = (geneve::TUNNEL + if address.is_ipv4() { net::IPV4 } else { net::IPV6 }) as u32;
    let fits = hop.mtu.saturating_sub(headers);
    (fits < FULL_SIZE).then(|| {
        format!(
            "packets of more than {fits} bytes to {address} take the slow path: the MTU over {} is {}; hint: {} or more",
            hop.interface,
            hop.mtu,
            FULL_SIZE + headers,
        )
    })
}

/// A node for each slot, 0 where there are none.
///
/// Rendezvous hashing: every node that has the same choice chooses the same, and when one goes, only its slots move.
fn by_rendezvous(nodes: &[u16]) -> Vec<u16> {
    (0..u64::from(net::GATHER_SLOTS))
        .map(|slot| nodes.iter().copied().max_by_key(|node| weight(slot, *node)).unwrap_or_default())
        .collect()
}

/// How much a node wants a slot: any good mixing will do, as long as all nodes use the same.
const fn weight(slot: u64, node: u16) -> u64 {
    let mut x = (slot << 16 | node as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn next_hop(hop: &NextHop) -> status::NextHop {
    let mac: Vec<_> = hop.mac.iter().map(|byte| format!("{byte:02x}")).collect();
    status::NextHop { interface: hop.interface.clone(), mac: mac.join(":"), mtu: hop.mtu }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_gathers_and_takes_with_a_link_or_where_this_host_was_away() {
        let (id, address) = (|number| NodeId::new(number).unwrap(), "10.9.3.2:7470".parse().unwrap());
        let mut peers = Peers::new(id(1), "10.9.2.2".parse().unwrap(), watch::channel(Vec::new()).0);
        for number in [2, 3] {
            peers.note_linked(id(number), address);
            let peer = peers.entry(id(number));
            (peer.up, peer.state) = (true, State::Up);
        }
        peers.entry(id(3)).state = State::Draining;
        assert_eq!(peers.able(), (vec![2, 3, 1], vec![2]));
        peers.note_unlinked(id(2), "reset by peer".to_owned(), true);
        assert_eq!(peers.able(), (vec![2, 3, 1], vec![2]), "it is well");
        peers.note_unlinked(id(2), "the daemon ends".to_owned(), false);
        assert_eq!(peers.able(), (vec![3, 1], vec![]), "its node is up for a while, without a daemon");
        peers.note_linked(id(2), address);
        assert_eq!(peers.able(), (vec![2, 3, 1], vec![2]), "and back, though the core had nothing to say of it");
        peers.entry(id(2)).up = false;
        assert_eq!(peers.able(), (vec![3, 1], vec![]));
    }
}
