//! Asking the loaded explain program about frames, through `BPF_PROG_TEST_RUN`.

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use forwarder_common::abi;

use super::{
    attach,
    maps::{self, Shared},
    verify,
};

const EXPLAIN: &str = "forwarder_explain";
/// The shortest frame that a test run takes.
const SHORTEST: usize = 14;

/// The explain program, loaded but neither attached nor pinned.
pub struct Explainer {
    ebpf: Ebpf,
    explained: Array<MapData, Shared<abi::Explained>>,
}

impl Explainer {
    /// The longest frame that a test run takes without fragments, in bytes: a page less headroom and tail.
    pub const LONGEST: usize = 3498;

    /// Loads the program with the keys of the claim hash.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn load(hash_key: [u64; 2]) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("CLAIMS", 1)
            .load(super::object::OBJECT)
            .context("load the explain program's maps")?;
        let program: &mut Xdp = attach::program(&mut ebpf, EXPLAIN)?;
        program.load().map_err(verify::readable).context("load the explain program")?;
        let mut config: Array<MapData, Shared<abi::Config>> = maps::take(&mut ebpf, "CONFIG")?;
        config
            .set(0, Shared(abi::Config { hash_key, node: 1, ..abi::Config::default() }), 0)
            .context("write map CONFIG")?;
        Ok(Self { explained: maps::take(&mut ebpf, "EXPLAINED")?, ebpf })
    }

    /// What the program reads in a frame: keys, or the outcome that ended its reading.
    ///
    /// # Errors
    /// The frame is longer than a test run can take, or the kernel refuses the run.
    pub fn explain(&mut self, frame: &[u8]) -> Result<abi::Explained> {
        if !(SHORTEST..=Self::LONGEST).contains(&frame.len()) {
            let (length, longest) = (frame.len(), Self::LONGEST);
            bail!("ask the kernel about a frame of {length} bytes: it takes {SHORTEST} to {longest}");
        }
        let program: &mut Xdp = attach::program(&mut self.ebpf, EXPLAIN)?;
        let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::default() };
        program.test_run(options).context("run the explain program on a frame")?;
        Ok(self.explained.get(&0, 0).context("read map EXPLAINED")?.0)
    }
}
