//! Builds of the forwarder's programs, loaded and configured; nothing is pinned.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf},
    programs::{Program, ProgramFd, TestRun as _, TestRunOptions},
};
use forwarder::dataplane::monotonic_ns;
use forwarder_common::{
    abi::{self, Config, Lifetimes, Node, Service, ServiceKey, ServiceSlot},
    bound::Costs,
    ids::{Epochs, Tick},
    outcome::{Outcome, SLOTS as OUTCOMES},
    table::{self, Buckets, Entry, Place, SLOTS},
};

use crate::frames::{HASH_KEY, ME, PEER, TAG_KEY, VNI, peer, underlay, vip_address};

/// A layout that aya may copy.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Shared<T: Copy + 'static>(pub(crate) T);

// SAFETY: `repr(C)` of integers without padding, in all of these.
unsafe impl Pod for Shared<Config> {}
// SAFETY: as above.
unsafe impl Pod for Shared<ServiceSlot> {}
// SAFETY: as above.
unsafe impl Pod for Shared<abi::Peer> {}
// SAFETY: as above.
unsafe impl Pod for Shared<[u64; OUTCOMES as usize]> {}

/// The epoch of both nodes.
const EPOCH: u8 = 5;
/// Lifetime of claims in ticks: longer than any benchmark.
const TICKS: u16 = 2000;

/// A claim table in memory that kernel and runner share.
pub(crate) struct Table {
    entries: &'static [AtomicU64],
}

impl Table {
    pub(crate) fn map(map: &MapData, buckets: u32) -> Result<Self> {
        let entries = buckets as usize * SLOTS;
        let (protection, fd) = (libc::PROT_READ | libc::PROT_WRITE, map.fd().as_fd().as_raw_fd());
        // SAFETY: a new shared mapping of a map made with BPF_F_MMAPABLE; the kernel checks the length.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), entries * 8, protection, libc::MAP_SHARED, fd, 0) };
        if memory == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error()).context("map a claim table into memory");
        }
        // SAFETY: the mapping has that length and is never unmapped.
        Ok(Self { entries: unsafe { std::slice::from_raw_parts(memory.cast::<AtomicU64>(), entries) } })
    }

    /// Buckets less one.
    pub(crate) fn mask(&self) -> u32 {
        (self.entries.len() / SLOTS) as u32 - 1
    }

    /// Entries of an owner.
    pub(crate) fn claims_of(&self, owner: u16) -> usize {
        self.entries.iter().filter(|entry| Entry(entry.load(Ordering::Relaxed)).owner() == owner).count()
    }

    /// Empties it.
    pub(crate) fn clear(&self) {
        for entry in self.entries {
            entry.store(0, Ordering::Relaxed);
        }
    }

    /// Claims a key.
    pub(crate) fn claim(&self, key: u64, owner: u16) {
        let now = Tick::at(monotonic_ns());
        let mut table = self;
        if let Some((place, old)) =
            table::find(&table, self.mask(), key).or_else(|| table::choose(&mut table, self.mask(), key, now))
        {
            (&self).exchange(place, old, entry(key, owner));
        }
    }
}

fn entry(key: u64, owner: u16) -> Entry {
    Entry::new(key, owner, EPOCH, Tick::at(monotonic_ns()).after(TICKS))
}

/// Where a build has its claims.
pub(crate) enum Claims {
    /// As it is shipped.
    Table(Table),
    /// In the kernel's hash, in the build that does without the table.
    Lru(HashMap<MapData, u64, u64>),
}

impl Claims {
    /// Claims a key.
    pub(crate) fn claim(&mut self, key: u64, owner: u16) -> Result<()> {
        match self {
            Self::Table(table) => table.claim(key, owner),
            Self::Lru(lru) => lru.insert(key, entry(key, owner).0, 0).context("fill the LRU hash")?,
        }
        Ok(())
    }

    /// Empties the table.
    pub(crate) fn clear(&self) {
        if let Self::Table(table) = self {
            table.clear();
        }
    }
}

impl Buckets for &Table {
    type Line = u32;

    fn line(&self, bucket: u32) -> Option<u32> {
        (bucket <= self.mask()).then_some(bucket)
    }

    fn read(&self, line: u32, slot: u32) -> Entry {
        let slot = self.entries.get(line as usize * SLOTS + slot as usize);
        Entry(slot.map_or(0, |slot| slot.load(Ordering::Relaxed)))
    }

    fn exchange(&self, place: Place, old: Entry, new: Entry) -> bool {
        self.entries
            .get(place.bucket as usize * SLOTS + place.slot as usize)
            .is_some_and(|slot| slot.compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Relaxed).is_ok())
    }

    fn hide(&mut self, value: u64) -> u64 {
        value
    }
}

/// Buckets of a table for so many claims, as the daemon sizes it.
pub(crate) const fn buckets(claims: u32) -> u32 {
    claims.next_power_of_two() * 2 / SLOTS as u32
}

pub(crate) fn take<T>(ebpf: &mut Ebpf, name: &str) -> Result<T>
where
    T: TryFrom<Map, Error = aya::maps::MapError>,
{
    let map = ebpf.take_map(name).with_context(|| format!("find map {name}"))?;
    T::try_from(map).with_context(|| format!("open map {name}"))
}

pub(crate) fn take_array(ebpf: &mut Ebpf, name: &str) -> Result<MapData> {
    match ebpf.take_map(name) {
        Some(Map::Array(data)) => Ok(data),
        _ => bail!("find array {name}"),
    }
}

pub(crate) fn load_all(ebpf: &mut Ebpf, only: impl Fn(&str) -> bool) -> Result<()> {
    for (name, program) in ebpf.programs_mut().filter(|(name, _)| only(name)) {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the object has programs of these two types only")]
        let loaded = match program {
            Program::Xdp(program) => program.load().map_err(|error| short(&error)),
            Program::SchedClassifier(program) => program.load().map_err(|error| short(&error)),
            _ => Ok(()),
        };
        loaded.with_context(|| format!("load {name}"))?;
    }
    Ok(())
}

/// The end of a verifier's log says why.
fn short(error: &aya::programs::ProgramError) -> anyhow::Error {
    let text = if let aya::programs::ProgramError::LoadError { io_error, verifier_log } = error {
        format!("{io_error}\n{verifier_log}")
    } else {
        error.to_string()
    };
    let tail: Vec<_> = text.lines().rev().take(15).collect();
    anyhow::anyhow!(tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
}

/// One build of the forwarder's programs.
pub(crate) struct Forwarder {
    pub(crate) ebpf: Ebpf,
    pub(crate) claims: Claims,
    /// Of a build with the egress program.
    pub(crate) events: Option<RingBuf<MapData>>,
    statistics: PerCpuArray<MapData, Shared<[u64; OUTCOMES as usize]>>,
    /// Kept open: programs hold them as well.
    _config: Array<MapData, Shared<Config>>,
}

/// What a build is loaded for.
#[derive(Clone, Copy)]
pub(crate) struct Loading {
    /// Claims that it has room for; half of that in the table's slots.
    pub(crate) claims: u32,
    /// The peer's underlay.
    pub(crate) v6: bool,
    /// Interface that leads to the peer.
    pub(crate) ifindex: u32,
}

impl Forwarder {
    /// Loads an object and gives it a service at port 5060 and one peer.
    pub(crate) fn load(object: &Path, loading: Loading) -> Result<Self> {
        let Loading { claims, v6, ifindex } = loading;
        let buckets = buckets(claims);
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("CLAIMS", buckets)
            .map_max_entries("KEYS", buckets)
            .map_max_entries("LRU", buckets * SLOTS as u32)
            .load_file(object)
            .with_context(|| format!("load {}", object.display()))?;
        load_all(&mut ebpf, |name| name == "forwarder_ingress" || name == "forwarder_egress")?;
        let claims = match ebpf.take_map("LRU") {
            Some(lru) => Claims::Lru(HashMap::try_from(lru).context("open map LRU")?),
            None => Claims::Table(Table::map(&take_array(&mut ebpf, "CLAIMS")?, buckets)?),
        };
        let config = Config {
            hash_key: HASH_KEY,
            tag_key: [TAG_KEY, [0; 2]],
            underlay: underlay(ME, v6),
            bucket_mask: buckets - 1,
            vni: VNI,
            node: ME,
            epochs: 1 << EPOCH,
            peers_up: 1,
            lifetimes: Lifetimes { proceeding: 57, failed: 18, ended: 11, call: 1700 },
            // Of bounds that all packets are charged to and none reaches.
            costs: Costs { key_ns: 1, packet_ns: 1, byte: 1, slow_ns: 1 },
            ..Config::default()
        };
        let mut services: Array<_, Shared<ServiceSlot>> = take(&mut ebpf, "SERVICES")?;
        for v6 in [false, true] {
            for port in [0, 5060_u16] {
                let key = ServiceKey { vip: vip_address(v6), port: port.to_be(), pad: 0 };
                let service = Service { flags: abi::SERVICE_SET, epoch: EPOCH, ..Service::default() };
                services.set(key.slot(), Shared(ServiceSlot { key, service }), 0)?;
            }
        }
        let mut ports: Array<_, u64> = take(&mut ebpf, "PORTS")?;
        ports.set(5060 / 64, 1 << (5060 % 64), 0)?;
        let mut peers: Array<_, Shared<abi::Peer>> = take(&mut ebpf, "PEERS")?;
        peers.set(u32::from(PEER), Shared(abi::Peer { ifindex, ..peer(v6) }), 0)?;
        let mut nodes: Array<_, u64> = take(&mut ebpf, "NODES")?;
        nodes.set(u32::from(PEER), Node::new(true, Epochs::from_bits(1 << EPOCH), Some(0)).0, 0)?;
        let mut configs: Array<_, Shared<Config>> = take(&mut ebpf, "CONFIG")?;
        configs.set(0, Shared(config), 0)?;
        let events = ebpf.take_map("EVENTS").map(RingBuf::try_from).transpose().context("open map EVENTS")?;
        let statistics = take(&mut ebpf, "STATISTICS")?;
        Ok(Self { ebpf, claims, events, statistics, _config: configs })
    }

    /// Events of claims since the last call.
    pub(crate) fn drain(&mut self) -> usize {
        let mut events = 0;
        while self.events.as_mut().is_some_and(|ring| ring.next().is_some()) {
            events += 1;
        }
        events
    }

    /// Packets by outcome.
    pub(crate) fn outcomes(&self) -> Result<BTreeMap<&'static str, u64>> {
        let per_cpu = self.statistics.get(&0, 0).context("read map STATISTICS")?;
        let sum = |number: u32| per_cpu.iter().filter_map(|counts| counts.0.get(number as usize)).sum();
        Ok(Outcome::ALL.iter().map(|outcome| (outcome.name(), sum(outcome.number()))).collect())
    }

    /// A program of it.
    pub(crate) fn fd(&self, name: &str) -> Result<ProgramFd> {
        fd(&self.ebpf, name)
    }

    /// Runs a program.
    pub(crate) fn run(&self, name: &str, frame: &[u8], repeat: u32) -> Result<(f64, u32)> {
        run(&self.ebpf, name, frame, repeat)
    }
}

pub(crate) fn fd(ebpf: &Ebpf, name: &str) -> Result<ProgramFd> {
    let program = ebpf.program(name).with_context(|| format!("find program {name}"))?;
    Ok(program.fd().with_context(|| format!("take the descriptor of {name}"))?.try_clone()?)
}

/// Nanoseconds a run, by the kernel's account, and what the last one returned.
pub(crate) fn run(ebpf: &Ebpf, name: &str, frame: &[u8], repeat: u32) -> Result<(f64, u32)> {
    let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
    let program = ebpf.program(name).with_context(|| format!("find program {name}"))?;
    #[expect(clippy::wildcard_enum_match_arm, reason = "the object has programs of these two types only")]
    let ran = match program {
        Program::Xdp(program) => program.test_run(options),
        Program::SchedClassifier(program) => program.test_run(options),
        _ => bail!("run {name}: of another type"),
    }
    .with_context(|| format!("run {name}"))?;
    Ok((ran.duration.as_nanos() as f64, ran.return_value))
}
