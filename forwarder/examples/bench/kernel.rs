//! The forwarder's object and the yardstick's, loaded and filled; nothing is attached or pinned.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, ProgramArray, RingBuf},
    programs::{Program, ProgramFd, TestRun as _, TestRunOptions},
};
use forwarder::dataplane::monotonic_ns;
use forwarder_common::{
    abi::{self, Config, Lifetimes, Node, Service, ServiceKey, ServiceSlot},
    ids::Tick,
    outcome::{Outcome, SLOTS as OUTCOMES},
    table::{self, Buckets, Entry, Place, SLOTS},
};

use crate::{
    feed::{Feed, Flow, Real, TEMPLATE_BYTES, Template, mixed},
    frames::{HASH_KEY, ME, PEER, TAG_KEY, VNI, peer, underlay, vip_address},
};

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
unsafe impl Pod for Shared<Feed> {}
// SAFETY: as above.
unsafe impl Pod for Shared<Template> {}
// SAFETY: as above.
unsafe impl Pod for Shared<Flow> {}
// SAFETY: as above.
unsafe impl Pod for Shared<Real> {}
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
    fn map(map: &MapData, buckets: u32) -> Result<Self> {
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
            (&self).exchange(place, old, Entry::new(key, owner, EPOCH, now.after(TICKS)));
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

fn take<T>(ebpf: &mut Ebpf, name: &str) -> Result<T>
where
    T: TryFrom<Map, Error = aya::maps::MapError>,
{
    let map = ebpf.take_map(name).with_context(|| format!("find map {name}"))?;
    T::try_from(map).with_context(|| format!("open map {name}"))
}

fn take_array(ebpf: &mut Ebpf, name: &str) -> Result<MapData> {
    match ebpf.take_map(name) {
        Some(Map::Array(data)) => Ok(data),
        _ => bail!("find array {name}"),
    }
}

fn load_all(ebpf: &mut Ebpf, only: impl Fn(&str) -> bool) -> Result<()> {
    for (name, program) in ebpf.programs_mut().filter(|(name, _)| only(name)) {
        match program {
            Program::Xdp(program) => program.load().map_err(|error| short(&error)),
            Program::SchedClassifier(program) => program.load().map_err(|error| short(&error)),
            _ => Ok(()),
        }
        .with_context(|| format!("load {name}"))?;
    }
    Ok(())
}

/// The end of a verifier's log says why.
fn short(error: &aya::programs::ProgramError) -> anyhow::Error {
    let text = match error {
        aya::programs::ProgramError::LoadError { io_error, verifier_log } => format!("{io_error}\n{verifier_log}"),
        other => other.to_string(),
    };
    let tail: Vec<_> = text.lines().rev().take(15).collect();
    anyhow::anyhow!(tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
}

/// One build of the forwarder's programs.
pub(crate) struct Forwarder {
    ebpf: Ebpf,
    pub(crate) table: Table,
    events: RingBuf<MapData>,
    statistics: PerCpuArray<MapData, Shared<[u64; OUTCOMES as usize]>>,
    /// Kept open: programs hold them as well.
    _config: Array<MapData, Shared<Config>>,
}

impl Forwarder {
    /// Loads an object and gives it a service at port 5060 and one peer, reached over `v6` or IPv4.
    pub(crate) fn load(object: &Path, claims: u32, v6: bool) -> Result<Self> {
        let buckets = buckets(claims);
        let mut loader = EbpfLoader::new();
        let mut ebpf = loader
            .map_max_entries("CLAIMS", buckets)
            .load_file(object)
            .with_context(|| format!("load {}", object.display()))?;
        load_all(&mut ebpf, |name| name == "forwarder_ingress" || name == "forwarder_egress")?;
        let table = Table::map(&take_array(&mut ebpf, "CLAIMS")?, buckets)?;
        let config = Config {
            hash_key: [HASH_KEY, [0; 2]],
            tag_key: [TAG_KEY, [0; 2]],
            underlay: underlay(ME, v6),
            bucket_mask: buckets - 1,
            vni: VNI,
            node: ME,
            epoch: EPOCH,
            peers_up: 1,
            lifetimes: Lifetimes { proceeding: 57, failed: 18, ended: 11 },
            ..Config::default()
        };
        let mut services: Array<_, Shared<ServiceSlot>> = take(&mut ebpf, "SERVICES")?;
        for v6 in [false, true] {
            for port in [0, 5060_u16] {
                let key = ServiceKey { vip: vip_address(v6), port: port.to_be(), pad: 0 };
                let service = Service { flags: abi::SERVICE_SET, call_ticks: 0, pad: 0 };
                services.set(key.slot(), Shared(ServiceSlot { key, service }), 0)?;
            }
        }
        let mut ports: Array<_, u64> = take(&mut ebpf, "PORTS")?;
        ports.set(5060 / 64, 1 << (5060 % 64), 0)?;
        let mut peers: Array<_, Shared<abi::Peer>> = take(&mut ebpf, "PEERS")?;
        peers.set(u32::from(PEER), Shared(peer(v6)), 0)?;
        let mut nodes: Array<_, u64> = take(&mut ebpf, "NODES")?;
        nodes.set(u32::from(PEER), Node::new(true, EPOCH, Some(0)).0, 0)?;
        let mut configs: Array<_, Shared<Config>> = take(&mut ebpf, "CONFIG")?;
        configs.set(0, Shared(config), 0)?;
        let (events, statistics) = (take(&mut ebpf, "EVENTS")?, take(&mut ebpf, "STATISTICS")?);
        Ok(Self { ebpf, table, events, statistics, _config: configs })
    }

    /// Events of claims since the last call.
    pub(crate) fn drain(&mut self) -> usize {
        let mut events = 0;
        while self.events.next().is_some() {
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

fn fd(ebpf: &Ebpf, name: &str) -> Result<ProgramFd> {
    let program = ebpf.program(name).with_context(|| format!("find program {name}"))?;
    Ok(program.fd().with_context(|| format!("take the descriptor of {name}"))?.try_clone()?)
}

/// Nanoseconds a run, by the kernel's account, and what the last one returned.
fn run(ebpf: &Ebpf, name: &str, frame: &[u8], repeat: u32) -> Result<(f64, u32)> {
    let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
    let program = ebpf.program(name).with_context(|| format!("find program {name}"))?;
    let ran = match program {
        Program::Xdp(program) => program.test_run(options),
        Program::SchedClassifier(program) => program.test_run(options),
        _ => bail!("run {name}: of another type"),
    }
    .with_context(|| format!("run {name}"))?;
    Ok((ran.duration.as_nanos() as f64, ran.return_value))
}

/// The yardstick's object.
pub(crate) struct Yardstick {
    ebpf: Ebpf,
    feed: Array<MapData, Shared<Feed>>,
    templates: Array<MapData, Shared<Template>>,
    next_xdp: ProgramArray<MapData>,
    next_tc: ProgramArray<MapData>,
    pub(crate) table: Table,
    lru: HashMap<MapData, u64, u64>,
    hash: HashMap<MapData, u64, u64>,
    flows: HashMap<MapData, Shared<Flow>, u32>,
    filled: u32,
}

impl Yardstick {
    /// Loads it with tables of `slots` entries.
    pub(crate) fn load(object: &Path, slots: u32, flows: u32) -> Result<Self> {
        let buckets = slots / SLOTS as u32;
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("TABLE", buckets)
            .map_max_entries("LRU", slots)
            .map_max_entries("HASH", slots)
            .map_max_entries("FLOWS", flows)
            .load_file(object)
            .with_context(|| format!("load {}", object.display()))?;
        load_all(&mut ebpf, |_| true)?;
        let table = Table::map(&take_array(&mut ebpf, "TABLE")?, buckets)?;
        let mut mask: Array<_, u32> = take(&mut ebpf, "TABLE_MASK")?;
        mask.set(0, buckets - 1, 0)?;
        let mut reals: Array<_, Shared<Real>> = take(&mut ebpf, "REALS")?;
        for real in 0..crate::feed::REALS {
            let macs = [0x0202_0202, 0x0404_0202, 0x0404_0404, 0];
            reals.set(real, Shared(Real { address: 0x0a00_000a + real, source: 0x0a00_0009, macs }), 0)?;
        }
        Ok(Self {
            feed: take(&mut ebpf, "FEED")?,
            templates: take(&mut ebpf, "TEMPLATES")?,
            next_xdp: take(&mut ebpf, "NEXT_XDP")?,
            next_tc: take(&mut ebpf, "NEXT_TC")?,
            lru: take(&mut ebpf, "LRU")?,
            hash: take(&mut ebpf, "HASH")?,
            flows: take(&mut ebpf, "FLOWS")?,
            table,
            filled: 0,
            ebpf,
        })
    }

    /// Puts the keys of all indices below `count` into all tables.
    pub(crate) fn fill(&mut self, count: u32) -> Result<()> {
        for index in self.filled..count {
            let key = mixed(index);
            self.table.claim(key, ME);
            self.lru.insert(key, key, 0).context("fill the LRU hash")?;
            self.hash.insert(key, key, 0).context("fill the hash")?;
        }
        self.filled = self.filled.max(count);
        Ok(())
    }

    /// Adds flows of the balancer, by their source addresses.
    pub(crate) fn add_flows(&mut self, flow: Flow, sources: impl Iterator<Item = u32>) -> Result<()> {
        for source in sources {
            let Flow([_, destination, ports, protocol]) = flow;
            let flow = Flow([source, destination, ports, protocol]);
            self.flows.insert(Shared(flow), source % crate::feed::REALS, 0).context("fill the balancer's flows")?;
        }
        Ok(())
    }

    /// Writes what the feeding programs do.
    pub(crate) fn set_feed(&mut self, feed: Feed, texts: &[(Vec<u8>, usize)]) -> Result<()> {
        self.feed.set(0, Shared(feed), 0).context("write map FEED")?;
        for (index, (bytes, patch_at)) in (0..).zip(texts) {
            let mut template = Template { patch_at: *patch_at as u32, pad: 0, bytes: [0; TEMPLATE_BYTES] };
            for (to, from) in template.bytes.iter_mut().zip(bytes) {
                *to = *from;
            }
            self.templates.set(index, Shared(template), 0).context("write map TEMPLATES")?;
        }
        Ok(())
    }

    /// The program that the feeding program calls.
    pub(crate) fn set_next(&mut self, feeder: &str, program: &ProgramFd) -> Result<()> {
        let next = if feeder == "feed_xdp" { &mut self.next_xdp } else { &mut self.next_tc };
        next.set(0, program, 0).context("write map of the measured program")
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
