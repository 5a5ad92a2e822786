//! What the slow path sends to other nodes is bounded as what the programs send, by buckets of its own.

use std::cell::Cell;

use forwarder_common::{
    abi::{Address, NODES},
    bound::{self, Buckets, CELLS, Costs, NODE_BURST_NS},
    ids::NodeId,
    outcome::Outcome,
};

/// The buckets: cells of keys and sources, one of each node, and one of each node for what its daemon must finish.
#[derive(Debug)]
pub(super) struct Bounds {
    costs: Costs,
    now_ns: u64,
    paid_ns: Box<[Cell<u64>]>,
}

impl Bounds {
    pub(super) fn new(costs: Costs) -> Self {
        Self { costs, now_ns: 0, paid_ns: vec![Cell::new(0); (CELLS + 2 * NODES) as usize].into_boxed_slice() }
    }

    /// The time goes on.
    pub(super) const fn at(&mut self, now_us: u64) {
        self.now_ns = now_us.saturating_mul(1000);
    }

    /// Charges a message of a transaction to `to`.
    ///
    /// # Errors
    /// The bound that it is over; nothing is sent.
    pub(super) fn message(&self, to: NodeId, request_key: u64, bytes: usize) -> Result<(), Outcome> {
        let cells = bound::key_cells(bound::spread(request_key));
        let key_ns = u64::from(self.costs.key_ns);
        if key_ns != 0 && !self.pay_either(cells, self.now_ns, key_ns) {
            return Err(Outcome::SlowOverKey);
        }
        self.packet(to, bytes)
    }

    /// Charges a fragment that `to` is to reassemble.
    ///
    /// # Errors
    /// As [`Self::message`].
    pub(super) fn fragment(&self, to: NodeId, source: Address, hash_key: u64, bytes: usize) -> Result<(), Outcome> {
        let cells = bound::source_cells(bound::spread_source(source.payer(), hash_key));
        let (source_ns, slow_ns) = (self.costs.source(), u64::from(self.costs.slow_ns));
        let bucket = CELLS + NODES + u32::from(to.number());
        if slow_ns != 0
            && !(self.pay_either(cells, self.now_ns, source_ns)
                && self.pay(bucket, self.now_ns, slow_ns, NODE_BURST_NS))
        {
            return Err(Outcome::SlowOverPeer);
        }
        self.packet(to, bytes)
    }

    fn packet(&self, to: NodeId, bytes: usize) -> Result<(), Outcome> {
        let cost_ns = self.costs.packet(bytes as u64);
        if cost_ns != 0 && !self.pay(CELLS + u32::from(to.number()), self.now_ns, cost_ns, NODE_BURST_NS) {
            return Err(Outcome::SlowOverPeer);
        }
        Ok(())
    }
}

impl Buckets for Bounds {
    fn paid_ns(&self, bucket: u32) -> u64 {
        self.paid_ns.get(bucket as usize).map_or(0, Cell::get)
    }

    fn set(&self, bucket: u32, paid_ns: u64) {
        if let Some(word) = self.paid_ns.get(bucket as usize) {
            word.set(paid_ns);
        }
    }

    fn add(&self, bucket: u32, ns: u64) {
        self.set(bucket, self.paid_ns(bucket).saturating_add(ns));
    }
}
