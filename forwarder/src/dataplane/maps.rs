//! The maps but for the claim table: typed writes and reads.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, Pod,
    maps::{Array, MapData, MapError, PerCpuArray, ProgramArray, RingBuf},
    programs::ProgramFd,
};
use forwarder_common::{
    abi::{self, LeaseWord, Node, Peer, SERVICE_PROBES, SERVICE_SLOTS, ServiceKey, ServiceSlot},
    ids::{Epochs, NodeId},
    outcome::SLOTS,
};

/// A layout of [`abi`] that aya may copy to and from the kernel.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Shared<T: Copy + 'static>(pub T);

// SAFETY: each is `repr(C)` of integers with named padding (sizes are asserted in `abi`): any bytes are a value.
unsafe impl Pod for Shared<abi::Config> {}
// SAFETY: as above.
unsafe impl Pod for Shared<ServiceSlot> {}
// SAFETY: as above.
unsafe impl Pod for Shared<Peer> {}
// SAFETY: as above.
unsafe impl Pod for Shared<abi::Explained> {}
// SAFETY: an array of integers.
unsafe impl Pod for Shared<[u64; SLOTS as usize]> {}

/// The maps that the daemon writes or reads.
pub(super) struct Maps {
    config: Array<MapData, Shared<abi::Config>>,
    services: Array<MapData, Shared<ServiceSlot>>,
    ports: Array<MapData, u64>,
    nodes: Array<MapData, u64>,
    /// What is in the map before, which this alone writes: to weigh a claim in a full table sixteen words are read.
    known: Vec<u64>,
    peers: Array<MapData, Shared<Peer>>,
    statistics: PerCpuArray<MapData, Shared<[u64; SLOTS as usize]>>,
    daemon: ProgramArray<MapData>,
    reassemblers: Array<MapData, u16>,
    successors: Array<MapData, u16>,
    lease: Array<MapData, u64>,
    /// The claim table's map and that of the keys beside it, to be memory-mapped.
    pub(super) claims: MapData,
    pub(super) keys: MapData,
}

/// Takes a map out of the object.
pub(super) fn take<T>(ebpf: &mut Ebpf, name: &str) -> Result<T>
where
    T: TryFrom<aya::maps::Map, Error = MapError>,
{
    let map = ebpf.take_map(name).with_context(|| format!("find map {name} in the kernel programs"))?;
    T::try_from(map).with_context(|| format!("open map {name}"))
}

/// Takes an array out of the object, to be memory-mapped.
fn take_array(ebpf: &mut Ebpf, name: &str) -> Result<MapData> {
    match ebpf.take_map(name) {
        Some(aya::maps::Map::Array(map)) => Ok(map),
        _ => bail!("find map {name} in the kernel programs"),
    }
}

/// The ring buffer with this node's claims.
pub(super) fn events(ebpf: &mut Ebpf) -> Result<RingBuf<MapData>> {
    take(ebpf, "EVENTS")
}

/// The ring buffer with packets for the daemon.
pub(super) fn punts(ebpf: &mut Ebpf) -> Result<RingBuf<MapData>> {
    take(ebpf, "PUNTS")
}

/// The services map with these services: each in the first free slot from its own on.
fn laid_out(services: &[(ServiceKey, abi::Service)]) -> Result<Vec<ServiceSlot>> {
    let mut slots = vec![ServiceSlot::default(); SERVICE_SLOTS as usize];
    for (key, service) in services {
        let mut places = (0..SERVICE_PROBES).map(|probe| (key.slot() + probe) % SERVICE_SLOTS);
        let free = places.find(|place| slots.get(*place as usize).is_some_and(|slot| slot.service.flags == 0));
        let slot = free.and_then(|place| slots.get_mut(place as usize));
        let slot =
            slot.context("find room for a service: too many with addresses alike; hint: give them other addresses")?;
        *slot = ServiceSlot { key: *key, service: *service };
    }
    Ok(slots)
}

impl Maps {
    /// Takes them out of the object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self> {
        let (claims, keys) = (take_array(ebpf, "CLAIMS")?, take_array(ebpf, "KEYS")?);
        let nodes: Array<MapData, u64> = take(ebpf, "NODES")?;
        let known = (0..abi::NODES).map(|id| nodes.get(&id, 0)).collect::<Result<_, _>>().context("read map NODES")?;
        Ok(Self {
            config: take(ebpf, "CONFIG")?,
            services: take(ebpf, "SERVICES")?,
            ports: take(ebpf, "PORTS")?,
            nodes,
            known,
            peers: take(ebpf, "PEERS")?,
            statistics: take(ebpf, "STATISTICS")?,
            daemon: take(ebpf, "DAEMON")?,
            reassemblers: take(ebpf, "REASSEMBLERS")?,
            successors: take(ebpf, "SUCCESSORS")?,
            lease: take(ebpf, "LEASE")?,
            claims,
            keys,
        })
    }

    /// The configuration entry, if one was written.
    pub(super) fn config(&self) -> Result<Option<abi::Config>> {
        let config = self.config.get(&0, 0).context("read map CONFIG")?.0;
        Ok((config.node != 0).then_some(config))
    }

    /// Writes the configuration entry.
    pub(super) fn set_config(&mut self, config: &abi::Config) -> Result<()> {
        self.config.set(0, Shared(*config), 0).context("write map CONFIG")
    }

    /// The service that the map has under a key, if any.
    pub(super) fn service(&self, key: &ServiceKey) -> Result<Option<abi::Service>> {
        for probe in 0..SERVICE_PROBES {
            let index = (key.slot() + probe) % SERVICE_SLOTS;
            let slot = self.services.get(&index, 0).context("read map SERVICES")?.0;
            if slot.service.flags != 0 && slot.key == *key {
                return Ok(Some(slot.service));
            }
        }
        Ok(None)
    }

    /// Writes the services, their sources, the addresses alone and the port bits, and removes what is no longer there.
    pub(super) fn set_services(
        &mut self,
        services: &[(ServiceKey, abi::Service)],
        sources: &[(ServiceKey, u8)],
    ) -> Result<()> {
        let mut wanted = services.to_vec();
        for (key, index) in sources {
            let Some((_, service)) = services.get(usize::from(*index)) else { continue };
            wanted.push((*key, service.source()));
        }
        // Those of services first: an address that is a source's as well is a service's.
        for (key, entry) in wanted.clone() {
            let address = ServiceKey { port: 0, ..key };
            if !wanted.iter().any(|(known, _)| *known == address) {
                let flags = entry.flags & (abi::SERVICE_SET | abi::SERVICE_SOURCE);
                wanted.push((address, abi::Service { flags, ..abi::Service::default() }));
            }
        }
        let slots = laid_out(&wanted)?;
        for (index, slot) in (0..).zip(&slots) {
            if self.services.get(&index, 0).context("read map SERVICES")?.0 != *slot {
                self.services.set(index, Shared(*slot), 0).context("write map SERVICES")?;
            }
        }
        for word in 0..abi::PORT_WORDS {
            let keys = services.iter().map(|(key, _)| key).chain(sources.iter().map(|(key, _)| key));
            let ports = keys.map(|key| u16::from_be(key.port));
            let bits = ports.filter(|port| u32::from(*port) / 64 == word).fold(0, |bits, port| bits | 1 << (port % 64));
            self.ports.set(word, bits, 0).context("write map PORTS")?;
        }
        Ok(())
    }

    /// Writes a peer into the half of its two slots that is not in use, and then its word, which names that half.
    pub(super) fn set_peer(&mut self, id: NodeId, up: bool, epochs: Epochs, peer: &Peer) -> Result<()> {
        let number = id.number();
        let before = self.node(id);
        let half = u32::from(before.hop(number).is_some_and(|slot| slot < abi::NODES));
        let after = Node::new(up, epochs, Some(half));
        let slot = u32::from(number) + half * abi::NODES;
        self.peers.set(slot, Shared(*peer), 0).context("write map PEERS")?;
        self.set_node(id, after)
    }

    fn set_node(&mut self, id: NodeId, node: Node) -> Result<()> {
        let number = id.number();
        self.nodes.set(u32::from(number), node.0, 0).context("write map NODES")?;
        if let Some(known) = self.known.get_mut(usize::from(number)) {
            *known = node.0;
        }
        Ok(())
    }

    /// The peers that are up.
    pub(super) fn peers_up(&self) -> Result<BTreeMap<NodeId, bool>> {
        let mut up = BTreeMap::new();
        for id in (1..=NodeId::MAX).filter_map(NodeId::new) {
            if self.node(id).is_up() {
                up.insert(id, true);
            }
        }
        Ok(up)
    }

    /// What is known of a node.
    pub(super) fn node(&self, id: NodeId) -> Node {
        Node(self.known.get(usize::from(id.number())).copied().unwrap_or_default())
    }

    /// Marks a peer down and leaves all else that is known of it.
    pub(super) fn set_down(&mut self, id: NodeId) -> Result<()> {
        self.set_node(id, self.node(id).down())
    }

    /// From now on packets are punted, by this program; the kernel ends that when the daemon dies.
    pub(super) fn open_punts(&mut self, program: &ProgramFd) -> Result<()> {
        self.daemon.set(0, program, 0).context("write map DAEMON")
    }

    /// From now on packets that would be punted are relayed or pass.
    pub(super) fn close_punts(&mut self) -> Result<()> {
        match self.daemon.clear_index(&0) {
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            cleared => cleared.context("clear map DAEMON"),
        }
    }

    /// Writes who reassembles the fragments of each slot, 0 for nobody.
    pub(super) fn set_reassemblers(&mut self, reassemblers: &[u16]) -> Result<()> {
        for (slot, node) in (0..abi::DATAGRAM_SLOTS).zip(reassemblers) {
            self.reassemblers.set(slot, *node, 0).context("write map REASSEMBLERS")?;
        }
        Ok(())
    }

    /// Writes who takes the new transactions of each slot, 0 for nobody.
    pub(super) fn set_successors(&mut self, successors: &[u16]) -> Result<()> {
        for (slot, node) in (0..abi::SUCCESSOR_SLOTS).zip(successors) {
            self.successors.set(slot, *node, 0).context("write map SUCCESSORS")?;
        }
        Ok(())
    }

    /// What this node does with what nobody owns.
    pub(super) fn lease(&self) -> Result<LeaseWord> {
        Ok(LeaseWord(self.lease.get(&0, 0).context("read map LEASE")?))
    }

    /// Writes it.
    pub(super) fn set_lease(&mut self, lease: LeaseWord) -> Result<()> {
        self.lease.set(0, lease.0, 0).context("write map LEASE")
    }

    /// The counters, summed over all CPUs.
    pub(super) fn statistics(&self) -> Result<[u64; SLOTS as usize]> {
        let per_cpu = self.statistics.get(&0, 0).context("read map STATISTICS")?;
        let mut sums = [0; SLOTS as usize];
        for counts in per_cpu.iter() {
            for (sum, count) in sums.iter_mut().zip(counts.0) {
                *sum += count;
            }
        }
        Ok(sums)
    }
}

#[cfg(test)]
mod tests {
    use forwarder_common::abi::{Address, MAX_SERVICES, SERVICE_SET, Service};

    use super::*;

    #[test]
    fn as_many_services_as_can_be_configured_find_room_and_are_found() {
        let service = Service { flags: SERVICE_SET, ..Service::default() };
        let ways: [fn(u32) -> (Address, u16); 4] = [
            |n| (Address::v4([192, 0, 2, n as u8]), 5060),
            |n| (Address::v4([192, 0, 2, 10]), 5060 + n as u16),
            |n| (Address::v4([10, n as u8, 0, 1]), 5060 + 2 * (n % 4) as u16),
            |n| (Address::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, n as u8, 0, 0, 0, 0, 0, 0, 0, 1]), 5060),
        ];
        for way in ways {
            let keys = (0..MAX_SERVICES).map(way).flat_map(|(vip, port)| {
                [ServiceKey { vip, port: port.to_be(), pad: 0 }, ServiceKey { vip, port: 0, pad: 0 }]
            });
            let mut wanted: Vec<_> = keys.map(|key| (key, service)).collect();
            wanted.sort_by_key(|(key, _)| (key.vip.0, key.port));
            wanted.dedup();
            let slots = laid_out(&wanted).unwrap();
            for (key, _) in &wanted {
                let place = (0..SERVICE_PROBES)
                    .map(|probe| slots[((key.slot() + probe) % SERVICE_SLOTS) as usize])
                    .find(|slot| slot.service.flags == 0 || slot.key == *key);
                assert_eq!(place.unwrap().key, *key);
            }
        }
    }
}
