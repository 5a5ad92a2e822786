//! The yardstick's object, loaded and filled.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, MapData, PerCpuArray, ProgramArray},
    programs::{ProgramFd, TestRun as _, TestRunAttrs, TestRunOptions, Xdp},
};
use forwarder_common::table::SLOTS;

use crate::{
    feed::{Feed, Flow, Real, TEMPLATE_BYTES, Template, mixed},
    frames::ME,
    kernel::{Shared, Table, fd, load_all, run, take, take_array},
};

// SAFETY: `repr(C)` of integers without padding, in all of these.
unsafe impl Pod for Shared<Feed> {}
// SAFETY: as above.
unsafe impl Pod for Shared<Template> {}
// SAFETY: as above.
unsafe impl Pod for Shared<Flow> {}
// SAFETY: as above.
unsafe impl Pod for Shared<Real> {}

/// The yardstick's object.
pub(crate) struct Yardstick {
    pub(crate) ebpf: Ebpf,
    feed: Array<MapData, Shared<Feed>>,
    templates: Array<MapData, Shared<Template>>,
    next_xdp: ProgramArray<MapData>,
    next_tc: ProgramArray<MapData>,
    table: Table,
    lru: HashMap<MapData, u64, u64>,
    hash: HashMap<MapData, u64, u64>,
    flows: HashMap<MapData, Shared<Flow>, u32>,
    send: Array<MapData, u32>,
    dropped: PerCpuArray<MapData, u64>,
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
            send: take(&mut ebpf, "SEND")?,
            dropped: take(&mut ebpf, "DROPPED")?,
            table,
            ebpf,
        })
    }

    /// Puts the keys of all indices below `count` into all tables.
    pub(crate) fn fill(&mut self, count: u32) -> Result<()> {
        for index in 0..count {
            let key = mixed(index);
            self.table.claim(key, ME);
            self.lru.insert(key, key, 0).context("fill the LRU hash")?;
            self.hash.insert(key, key, 0).context("fill the hash")?;
        }
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

    /// The interface that `send_xdp` sends through.
    pub(crate) fn set_send(&mut self, ifindex: u32) -> Result<()> {
        self.send.set(0, ifindex, 0).context("write map SEND")
    }

    /// Frames that `drop_xdp` has got.
    pub(crate) fn dropped(&self) -> Result<u64> {
        Ok(self.dropped.get(&0, 0).context("read map DROPPED")?.iter().sum())
    }

    /// Runs a program on live frames in one run, as if they had come `from` an interface: what it does with them is
    /// done.
    pub(crate) fn run_live(&mut self, name: &str, frame: &[u8], repeat: u32, from: Option<u32>) -> Result<()> {
        /// Frames that are made before they are sent on: a NAPI budget.
        const BATCH: u32 = 64;
        let program: &mut Xdp =
            self.ebpf.program_mut(name).with_context(|| format!("find program {name}"))?.try_into()?;
        // `struct xdp_md` of linux/bpf.h.
        let context = [0, frame.len() as u32, 0, from.unwrap_or_default(), 0, 0_u32];
        let context: Vec<u8> = context.into_iter().flat_map(u32::to_ne_bytes).collect();
        let attrs = TestRunAttrs::new().xdp_live_frames(BATCH.min(repeat));
        let ctx_in = from.is_some().then_some(&context[..]);
        let options = TestRunOptions { data_in: Some(frame), ctx_in, repeat, attrs, ..TestRunOptions::default() };
        program.test_run(options).with_context(|| format!("run {name} on live frames"))?;
        Ok(())
    }
}
