//! A slow path with the table and the peers around it, and its time.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use forwarder_common::{
    abi::Punt,
    bound::{Costs, Rates},
    ids::NodeId,
    outcome::Outcome,
    verdict::Found,
};
use forwarder_core::slowpath::{Action, Ledger, Service, Settings, SlowPath, View};

use super::packets::HASH_KEY;

pub(crate) const ME: u16 = 1;
pub(crate) const PEER: u16 = 2;
pub(crate) const IFINDEX: u32 = 3;
pub(crate) const HOLD_US: u64 = 100_000;

pub(crate) fn id(number: u16) -> NodeId {
    NodeId::new(number).unwrap()
}

/// Claim table and peers.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) claims: BTreeMap<u64, Found>,
    pub(crate) peer_up: bool,
    pub(crate) successor: Option<NodeId>,
    pub(crate) reassembler: Option<NodeId>,
    pub(crate) slots_asked: RefCell<Vec<usize>>,
    /// Places of the services that the peer lacks.
    pub(crate) unserved: BTreeSet<usize>,
}

impl View for Table {
    fn owner(&self, key: u64) -> Found {
        self.claims.get(&key).copied().unwrap_or(Found::Nothing)
    }

    fn serves(&self, _: NodeId, service: usize) -> bool {
        !self.unserved.contains(&service)
    }

    fn peer_up(&self) -> bool {
        self.peer_up
    }

    fn successor(&self, _: u64) -> Option<NodeId> {
        self.successor
    }

    fn reassembler(&self, slot: usize) -> Option<NodeId> {
        self.slots_asked.borrow_mut().push(slot);
        self.reassembler
    }
}

pub(crate) struct World {
    pub(crate) path: SlowPath,
    pub(crate) table: Table,
    pub(crate) now_us: u64,
}

impl World {
    /// With a peer that is up, services at port 5060, and at port 5080 one of affinity `call`.
    pub(crate) fn new() -> Self {
        Self::with_costs(Costs::new(&Rates::USUAL))
    }

    /// The same with other bounds on what is sent to peers.
    pub(crate) fn with_costs(costs: Costs) -> Self {
        let service = |address: &str, affinity_call| Service { address: address.parse().unwrap(), affinity_call };
        let services = vec![
            service("192.0.2.10:5060", false),
            service("[2001:db8::10]:5060", false),
            service("192.0.2.10:5080", true),
            service("[2001:db8::10]:5080", true),
        ];
        let settings = Settings { node: id(ME), hash_key: HASH_KEY, services, hold_us: HOLD_US, costs };
        Self { path: SlowPath::new(&settings), table: Table { peer_up: true, ..Table::default() }, now_us: 1_000_000 }
    }

    pub(crate) fn own(&mut self, key: u64) {
        self.table.claims.insert(key, Found::Own);
    }

    pub(crate) fn peers(&mut self, key: u64) {
        self.table.claims.insert(key, Found::Peer(id(PEER)));
    }

    pub(crate) fn punt(&mut self, reason: Outcome, frame: &[u8]) {
        let head = Punt { ifindex: IFINDEX, length: frame.len() as u32, reason: reason.number(), ..Punt::default() };
        self.path.handle_punt(head, frame, &self.table, self.now_us);
    }

    pub(crate) fn tunnel(&mut self, reassemble: bool, packet: &[u8]) {
        self.path.handle_tunnel(id(PEER), reassemble, packet, IFINDEX, &self.table, self.now_us);
    }

    pub(crate) fn answer(&mut self, ticket: u64, owned: bool) {
        self.path.handle_answer(ticket, owned, &self.table, self.now_us);
    }

    pub(crate) fn advance(&mut self, us: u64) {
        self.now_us += us;
        self.path.handle_timeout(&self.table, self.now_us);
    }

    pub(crate) fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.path.poll_action()).collect()
    }

    /// What moved since `before`; by name, so that a failure can be read.
    pub(crate) fn moved(&self, before: &Ledger) -> Vec<(&'static str, u64)> {
        let (now, before) = (self.path.counts(), before.outcomes());
        now.zip(before)
            .filter(|((_, now), (_, before))| now != before)
            .map(|((outcome, now), (_, before))| (outcome.name(), now - before))
            .collect()
    }

    /// Does something, and says what came out of it and which outcomes moved.
    pub(crate) fn after(&mut self, act: impl FnOnce(&mut Self)) -> (Vec<Action>, Vec<(&'static str, u64)>) {
        let before = self.path.ledger();
        act(self);
        assert_eq!(self.path.ledger().balance(), 0);
        (self.actions(), self.moved(&before))
    }
}

pub(crate) fn inject(packet: &[u8]) -> Action {
    Action::Inject { ifindex: IFINDEX, packet: packet.to_vec() }
}

pub(crate) fn forward(packet: &[u8]) -> Action {
    Action::Forward { to: id(PEER), packet: packet.to_vec(), reassemble: false }
}
