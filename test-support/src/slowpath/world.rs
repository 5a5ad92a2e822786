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

/// The node with the slow path.
pub const ME: u16 = 1;
/// Its peer.
pub const PEER: u16 = 2;
/// The interface that packets arrive at.
pub const IFINDEX: u32 = 3;
/// How long a packet may be held, in microseconds.
pub const HOLD_US: u64 = 100_000;

/// A node by its number.
pub fn id(number: u16) -> NodeId {
    NodeId::new(number).unwrap()
}

/// Claim table and peers.
#[derive(Default)]
pub struct Table {
    /// Who owns which key.
    pub claims: BTreeMap<u64, Found>,
    /// Whether the peer is up.
    pub peer_up: bool,
    /// Who takes new transactions, if not this node.
    pub successor: Option<NodeId>,
    /// Who reassembles, if not this node.
    pub reassembler: Option<NodeId>,
    /// The slots whose reassembler was asked for.
    pub slots_asked: RefCell<Vec<usize>>,
    /// Places of the services that the peer lacks.
    pub unserved: BTreeSet<usize>,
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

/// The slow path, what surrounds it, and the time.
pub struct World {
    /// What is tested.
    pub path: SlowPath,
    /// What it looks at.
    pub table: Table,
    /// The time, in microseconds.
    pub now_us: u64,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// With a peer that is up, services at port 5060, and at port 5080 one of affinity `call`.
    pub fn new() -> Self {
        Self::with_costs(Costs::new(&Rates::USUAL))
    }

    /// The same with other bounds on what is sent to peers.
    pub fn with_costs(costs: Costs) -> Self {
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

    /// The node claims a key.
    pub fn own(&mut self, key: u64) {
        self.table.claims.insert(key, Found::Own);
    }

    /// The peer claims a key.
    pub fn peers(&mut self, key: u64) {
        self.table.claims.insert(key, Found::Peer(id(PEER)));
    }

    /// A program punts a frame.
    pub fn punt(&mut self, reason: Outcome, frame: &[u8]) {
        let head = Punt { ifindex: IFINDEX, length: frame.len() as u32, reason: reason.number(), ..Punt::default() };
        self.path.handle_punt(head, frame, &self.table, self.now_us);
    }

    /// A packet of the peer comes through the daemon's socket.
    pub fn tunnel(&mut self, reassemble: bool, packet: &[u8]) {
        self.path.handle_tunnel(id(PEER), reassemble, packet, IFINDEX, &self.table, self.now_us);
    }

    /// The peers have answered whether one of them owns the key that was asked for.
    pub fn answer(&mut self, ticket: u64, owned: bool) {
        self.path.handle_answer(ticket, owned, &self.table, self.now_us);
    }

    /// So many microseconds pass.
    pub fn advance(&mut self, us: u64) {
        self.now_us += us;
        self.path.handle_timeout(&self.table, self.now_us);
    }

    /// What the slow path wants done.
    pub fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.path.poll_action()).collect()
    }

    /// What moved since `before`; by name, so that a failure can be read.
    pub fn moved(&self, before: &Ledger) -> Vec<(&'static str, u64)> {
        let (now, before) = (self.path.counts(), before.outcomes());
        now.zip(before)
            .filter(|((_, now), (_, before))| now != before)
            .map(|((outcome, now), (_, before))| (outcome.name(), now - before))
            .collect()
    }

    /// Does something, and says what came out of it and which outcomes moved.
    pub fn after(&mut self, act: impl FnOnce(&mut Self)) -> (Vec<Action>, Vec<(&'static str, u64)>) {
        let before = self.path.ledger();
        act(self);
        assert_eq!(self.path.ledger().balance(), 0);
        (self.actions(), self.moved(&before))
    }
}

/// The action that gives this packet to the host.
pub fn inject(packet: &[u8]) -> Action {
    Action::Inject { ifindex: IFINDEX, packet: packet.to_vec() }
}

/// The action that sends this packet to the peer.
pub fn forward(packet: &[u8]) -> Action {
    Action::Forward { to: id(PEER), packet: packet.to_vec(), reassemble: false }
}
