//! The maps but for the claim table: typed writes and reads.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, MapData, PerCpuArray, ProgramArray, RingBuf},
    programs::ProgramFd,
};
use forwarder_common::{
    abi::{self, Duty, Node, Peer, ServiceKey},
    ids::{Epoch, NodeId},
    net::GATHER_SLOTS,
    outcome::SLOTS,
};

/// A layout of [`abi`] that aya may copy to and from the kernel.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Shared<T: Copy + 'static>(pub T);

// SAFETY: each is `repr(C)` of integers with named padding (sizes are asserted in `abi`): any bytes are a value.
unsafe impl Pod for Shared<abi::Config> {}
// SAFETY: as above.
unsafe impl Pod for Shared<abi::Service> {}
// SAFETY: as above.
unsafe impl Pod for Shared<ServiceKey> {}
// SAFETY: as above.
unsafe impl Pod for Shared<Peer> {}
// SAFETY: as above.
unsafe impl Pod for Shared<abi::Explained> {}
// SAFETY: an array of integers.
unsafe impl Pod for Shared<[u64; SLOTS as usize]> {}

// SAFETY: as above.
unsafe impl Pod for Shared<abi::Injection> {}

/// The maps that the daemon writes or reads.
pub(super) struct Maps {
    config: Array<MapData, Shared<abi::Config>>,
    services: HashMap<MapData, Shared<ServiceKey>, Shared<abi::Service>>,
    ports: Array<MapData, u64>,
    nodes: Array<MapData, u64>,
    peers: Array<MapData, Shared<Peer>>,
    statistics: PerCpuArray<MapData, Shared<[u64; SLOTS as usize]>>,
    daemon: ProgramArray<MapData>,
    gather: Array<MapData, u16>,
    takers: Array<MapData, u16>,
    duty: Array<MapData, u64>,
    injections: Array<MapData, Shared<abi::Injection>>,
    injected: Array<MapData, u64>,
    /// The claim table's map, to be memory-mapped.
    pub(super) claims: MapData,
}

/// Takes a map out of the object.
pub(super) fn take<T>(ebpf: &mut Ebpf, name: &str) -> Result<T>
where
    T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    let map = ebpf.take_map(name).with_context(|| format!("find map {name} in the kernel programs"))?;
    T::try_from(map).with_context(|| format!("open map {name}"))
}

/// The ring buffer with this node's claims.
pub(super) fn events(ebpf: &mut Ebpf) -> Result<RingBuf<MapData>> {
    take(ebpf, "EVENTS")
}

/// The ring buffer with packets for the daemon.
pub(super) fn punts(ebpf: &mut Ebpf) -> Result<RingBuf<MapData>> {
    take(ebpf, "PUNTS")
}

impl Maps {
    /// Takes them out of the object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self> {
        let Some(aya::maps::Map::Array(claims)) = ebpf.take_map("CLAIMS") else {
            bail!("find map CLAIMS in the kernel programs");
        };
        Ok(Self {
            config: take(ebpf, "CONFIG")?,
            services: take(ebpf, "SERVICES")?,
            ports: take(ebpf, "PORTS")?,
            nodes: take(ebpf, "NODES")?,
            peers: take(ebpf, "PEERS")?,
            statistics: take(ebpf, "STATISTICS")?,
            daemon: take(ebpf, "DAEMON")?,
            gather: take(ebpf, "GATHER")?,
            takers: take(ebpf, "TAKERS")?,
            duty: take(ebpf, "DUTY")?,
            injections: take(ebpf, "INJECTIONS")?,
            injected: take(ebpf, "INJECTED")?,
            claims,
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

    /// Writes the services, the addresses alone and the port bits, and removes what is no longer there.
    pub(super) fn set_services(&mut self, services: &[(ServiceKey, abi::Service)]) -> Result<()> {
        let mut wanted = services.to_vec();
        for (key, _) in services {
            let address = ServiceKey { port: 0, ..*key };
            if !wanted.iter().any(|(known, _)| *known == address) {
                wanted.push((address, abi::Service { flags: abi::SERVICE_SET, ..abi::Service::default() }));
            }
        }
        for (key, service) in &wanted {
            self.services.insert(Shared(*key), Shared(*service), 0).context("write map SERVICES")?;
        }
        let known: Vec<_> = self.services.keys().collect::<Result<_, _>>().context("read map SERVICES")?;
        for key in known.iter().filter(|key| !wanted.iter().any(|(wanted, _)| *wanted == key.0)) {
            self.services.remove(key).context("remove from map SERVICES")?;
        }
        for word in 0..abi::PORT_WORDS {
            let ports = services.iter().map(|(key, _)| u16::from_be(key.port));
            let bits = ports.filter(|port| u32::from(*port) / 64 == word).fold(0, |bits, port| bits | 1 << (port % 64));
            self.ports.set(word, bits, 0).context("write map PORTS")?;
        }
        Ok(())
    }

    /// Writes a peer into the half of its two slots that is not in use, and then its word, which names that half.
    pub(super) fn set_peer(&mut self, id: NodeId, up: bool, epoch: Epoch, peer: &Peer) -> Result<()> {
        let number = id.number();
        let before = self.node(id)?;
        let half = u32::from(before.hop(number).is_some_and(|slot| slot < abi::NODES));
        let after = Node::new(up, epoch.number(), Some(half));
        let slot = u32::from(number) + half * abi::NODES;
        self.peers.set(slot, Shared(*peer), 0).context("write map PEERS")?;
        self.nodes.set(u32::from(number), after.0, 0).context("write map NODES")
    }

    /// The peers that are up.
    pub(super) fn peers_up(&self) -> Result<BTreeMap<NodeId, bool>> {
        let mut up = BTreeMap::new();
        for id in (1..=NodeId::MAX).filter_map(NodeId::new) {
            if self.node(id)?.is_up() {
                up.insert(id, true);
            }
        }
        Ok(up)
    }

    /// What is known of a node.
    pub(super) fn node(&self, id: NodeId) -> Result<Node> {
        Ok(Node(self.nodes.get(&u32::from(id.number()), 0).context("read map NODES")?))
    }

    /// Marks a peer down and leaves all else that is known of it.
    pub(super) fn set_down(&mut self, id: NodeId) -> Result<()> {
        let down = self.node(id)?.down();
        self.nodes.set(u32::from(id.number()), down.0, 0).context("write map NODES")
    }

    /// From now on packets are handed to the daemon, by this program; the kernel ends that when the daemon dies.
    pub(super) fn open_hand_over(&mut self, program: &ProgramFd) -> Result<()> {
        self.daemon.set(0, program, 0).context("write map DAEMON")
    }

    /// From now on packets that would be handed to the daemon pass.
    pub(super) fn close_hand_over(&mut self) -> Result<()> {
        self.daemon.clear_index(&0).context("clear map DAEMON")
    }

    /// Writes who gathers the fragments of each slot, 0 for nobody.
    pub(super) fn set_gatherers(&mut self, gatherers: &[u16]) -> Result<()> {
        for (slot, node) in (0..GATHER_SLOTS).zip(gatherers) {
            self.gather.set(slot, *node, 0).context("write map GATHER")?;
        }
        Ok(())
    }

    /// Writes who takes the new transactions of each slot, 0 for nobody.
    pub(super) fn set_takers(&mut self, takers: &[u16]) -> Result<()> {
        for (slot, node) in (0..abi::TAKER_SLOTS).zip(takers) {
            self.takers.set(slot, *node, 0).context("write map TAKERS")?;
        }
        Ok(())
    }

    /// What this node does with what nobody owns.
    pub(super) fn duty(&self) -> Result<Duty> {
        Ok(Duty(self.duty.get(&0, 0).context("read map DUTY")?))
    }

    /// Writes it.
    pub(super) fn set_duty(&mut self, duty: Duty) -> Result<()> {
        self.duty.set(0, duty.0, 0).context("write map DUTY")
    }

    /// Writes the frames of the next injection, at most [`abi::INJECTIONS`], whose run has frames of `longest` bytes.
    pub(super) fn set_injections(&mut self, frames: &[Vec<u8>], longest: usize) -> Result<()> {
        for (index, frame) in (0..abi::INJECTIONS).zip(frames) {
            let mut injection = abi::Injection { length: 0, shrink: 0, frame: [0; abi::INJECTION_BYTES] };
            let Some(room) = injection.frame.get_mut(..frame.len()) else {
                bail!("inject a frame of {} bytes: it has room for {} at most", frame.len(), abi::INJECTION_BYTES);
            };
            room.copy_from_slice(frame);
            injection.length = u32::try_from(frame.len())?;
            injection.shrink = u32::try_from(longest.saturating_sub(frame.len()))?;
            self.injections.set(index, Shared(injection), 0).context("write map INJECTIONS")?;
        }
        for entry in [abi::INJECTION_NEXT, abi::INJECTION_FAILED] {
            self.injected.set(entry, 0, 0).context("write map INJECTED")?;
        }
        Ok(())
    }

    /// Frames of the last injection that failed.
    pub(super) fn failed_injections(&self) -> Result<u64> {
        self.injected.get(&abi::INJECTION_FAILED, 0).context("read map INJECTED")
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
