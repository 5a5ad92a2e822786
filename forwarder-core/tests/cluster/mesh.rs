//! Nodes and a network in virtual time: latencies and losses from a seed, a model of each node's kernel map.

#[path = "mesh/kernel.rs"]
mod kernel;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use forwarder_common::abi::Lifetimes;
use forwarder_common::ids::{Epoch, Epochs, NodeId};
use forwarder_common::lifetime;
use forwarder_common::question::Held;
use forwarder_common::rest::{Class, KeyKind, Purpose};
use forwarder_core::node::{
    Command, DATAGRAM_BYTES, InviteSign, Kind, LocalClaim, Node, NodeSettings, Now, Output, ProtocolError, State,
};
use forwarder_core::wire::{Claim, Claims, Hello, MESSAGE_BYTES, PACKET_BYTES};

pub(crate) use self::kernel::Kernel;

/// Unix time of the start, in microseconds.
pub(crate) const START_UNIX_US: u64 = 1_800_000_000_000_000;

pub(crate) fn id(number: u16) -> NodeId {
    NodeId::new(number).unwrap()
}

pub(crate) fn underlay(node: NodeId) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 9, 0, node.number() as u8))
}

pub(crate) fn listen(node: NodeId) -> SocketAddr {
    SocketAddr::new(underlay(node), 7470)
}

/// What a node of that incarnation says of itself.
pub(crate) fn hello(node: NodeId, incarnation: u64, epoch: u64) -> Hello {
    Hello {
        incarnation,
        sequence: 1,
        epochs: Epochs::EMPTY.with(Epoch::new(epoch)),
        state: State::Up,
        next: 0,
        your_incarnation: 0,
        your_epochs: Epochs::EMPTY,
        have: 0,
        underlay: underlay(node),
        listen: listen(node),
        services: Vec::new(),
        must_equal: Vec::new(),
        is_silent: false,
    }
}

/// A claim of a request key in epoch 0.
pub(crate) fn claim(key: u64, claimed_at_unix_us: u64, remaining_ms: u32) -> Claim {
    Claim {
        key,
        claimed_at_unix_us,
        remaining_ms,
        epoch: Epoch::new(0),
        purpose: Purpose::of(KeyKind::Request, Class::Short),
        number: 0,
    }
}

/// A stretch of claims from number `first` on, sent after a node's first hello.
pub(crate) fn stretch(first: u64, claims: Vec<Claim>) -> Claims {
    let claims: Vec<Claim> = (first..).zip(claims).map(|(number, claim)| Claim { number, ..claim }).collect();
    Claims { first, span: claims.len() as u32, sequence: 1, claims }
}

/// The settings of a node with one epoch.
fn settings(node: NodeId, epoch: Epoch, claims: usize, seed: u64) -> NodeSettings {
    NodeSettings {
        node,
        epochs: Epochs::EMPTY.with(epoch),
        underlay: underlay(node),
        listen: listen(node),
        lifetimes: lifetime::LONGEST,
        claims,
        seed,
        services: Vec::new(),
        must_equal: Vec::new(),
    }
}

/// A claim of this host's egress program for a request key.
pub(crate) fn local(key: u64, now: Now, remaining_ms: u64, epoch: Epoch) -> LocalClaim {
    LocalClaim {
        key,
        claimed_at_unix_us: now.unix_us,
        remaining_ms,
        epoch,
        purpose: Purpose::of(KeyKind::Request, Class::Short),
    }
}

/// A node by itself, for tests that are its network.
pub(crate) fn alone(node: NodeId) -> Node {
    Node::new(settings(node, Epoch::new(0), 1 << 20, 1))
}

/// The same where claims last no longer than these lifetimes.
pub(crate) fn alone_with(node: NodeId, lifetimes: Lifetimes) -> Node {
    Node::new(NodeSettings { lifetimes, ..settings(node, Epoch::new(0), 1 << 20, 1) })
}

/// Something on its way.
struct Parcel {
    from: NodeId,
    to: NodeId,
    bytes: Vec<u8>,
    is_datagram: bool,
}

/// A message as the network saw it.
#[derive(Clone)]
pub(crate) struct Sent {
    pub(crate) at_us: u64,
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) bytes: usize,
    pub(crate) kind: Kind,
}

pub(crate) struct Mesh {
    pub(crate) now_us: u64,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) kernels: BTreeMap<NodeId, Kernel>,
    pub(crate) sent: Vec<Sent>,
    pub(crate) errors: Vec<(NodeId, ProtocolError)>,
    /// How far each node's Unix clock is off, in microseconds.
    pub(crate) clock_off_us: BTreeMap<NodeId, i64>,
    /// One-way latency in microseconds: at least the first, less than the second.
    pub(crate) latency_us: (u64, u64),
    /// The incarnation of each node's daemon.
    pub(crate) incarnations: BTreeMap<NodeId, u64>,
    /// Messages after the first hello that the network loses, in a thousand.
    pub(crate) loss: u64,
    /// How much longer than other messages batches take, in microseconds.
    pub(crate) batch_delay_us: u64,
    /// Both keys of the asks that have no answer yet, by the asker and its ticket.
    pub(crate) asked: BTreeMap<(NodeId, u64), (u64, u64)>,
    /// What was asked of programs: who asked whom, the number, and both keys. Nobody answers by itself.
    pub(crate) kernel_asks: Vec<(NodeId, NodeId, u32, (u64, u64))>,
    links: BTreeSet<(NodeId, NodeId)>,
    /// Links that have carried their first hello.
    greeted: BTreeSet<(NodeId, NodeId)>,
    flying: BTreeMap<(u64, u64), Parcel>,
    /// Whom each node's links were told to call and have not been told to forget.
    pub(crate) calls: BTreeMap<(NodeId, NodeId), SocketAddr>,
    /// Whether those calls are made.
    pub(crate) is_calling: bool,
    /// Pairs between which no packet gets through.
    pub(crate) cut: BTreeSet<(NodeId, NodeId)>,
    sequence: u64,
    random: u64,
}

impl Mesh {
    pub(crate) fn new(nodes: u16, seed: u64) -> Self {
        let mut mesh = Self {
            now_us: 1_000_000,
            nodes: BTreeMap::new(),
            kernels: BTreeMap::new(),
            sent: Vec::new(),
            errors: Vec::new(),
            clock_off_us: BTreeMap::new(),
            latency_us: (100, 101),
            incarnations: BTreeMap::new(),
            loss: 0,
            batch_delay_us: 0,
            asked: BTreeMap::new(),
            kernel_asks: Vec::new(),
            links: BTreeSet::new(),
            greeted: BTreeSet::new(),
            flying: BTreeMap::new(),
            calls: BTreeMap::new(),
            is_calling: false,
            cut: BTreeSet::new(),
            sequence: 0,
            random: seed.wrapping_mul(2).wrapping_add(1),
        };
        (1..=nodes).for_each(|node| mesh.start(id(node), Epoch::new(0), 1 << 20));
        mesh
    }

    /// All nodes linked and introduced.
    pub(crate) fn linked(nodes: u16, seed: u64) -> Self {
        let mut mesh = Self::new(nodes, seed);
        mesh.link_all();
        mesh
    }

    /// All nodes linked and introduced; batches take 50 ms longer than all else.
    pub(crate) fn with_late_batches(nodes: u16, seed: u64) -> Self {
        let mut mesh = Self::linked(nodes, seed);
        mesh.batch_delay_us = 50_000;
        mesh.sent.clear();
        mesh
    }

    fn link_all(&mut self) {
        let nodes = self.nodes.len() as u16;
        pairs(nodes).into_iter().for_each(|(a, b)| self.link(a, b));
        self.run_for(1_000_000);
    }

    /// Starts a node, or starts it anew with nothing but its kernel's map: its own claims in that it is given first.
    pub(crate) fn start(&mut self, node: NodeId, epoch: Epoch, claims: usize) {
        let seed = self.random_below(u64::MAX);
        self.incarnations.insert(node, seed | 1);
        let mut state = Node::new(settings(node, epoch, claims, seed));
        let own = self.kernels.entry(node).or_default().own_claims(node, epoch, self.now_us);
        let now = self.now(node);
        own.into_iter().for_each(|claim| state.handle_restored(claim, now));
        self.nodes.insert(node, state);
        self.drain(node);
    }

    pub(crate) fn now(&self, node: NodeId) -> Now {
        let off = self.clock_off_us.get(&node).copied().unwrap_or(0);
        Now { monotonic_us: self.now_us, unix_us: (START_UNIX_US + self.now_us).saturating_add_signed(off) }
    }

    pub(crate) fn link(&mut self, a: NodeId, b: NodeId) {
        for (from, to) in [(a, b), (b, a)] {
            // No message of the link before this one comes after its end.
            self.flying.retain(|_, parcel| (parcel.from, parcel.to) != (from, to));
            self.links.insert((from, to));
            self.greeted.remove(&(from, to));
            let now = self.now(from);
            self.nodes.get_mut(&from).unwrap().handle_link_up(to, vec![underlay(to)], now);
            self.drain(from);
        }
    }

    pub(crate) fn unlink(&mut self, a: NodeId, b: NodeId) {
        for (from, to) in [(a, b), (b, a)] {
            self.links.remove(&(from, to));
            self.flying.retain(|_, parcel| (parcel.from, parcel.to) != (from, to));
            let now = self.now(from);
            self.nodes.get_mut(&from).unwrap().handle_link_down(to, now);
            self.kernels.get_mut(&from).unwrap().take_down(to);
            self.drain(from);
        }
    }

    /// The host claims a key now, as its egress program would: the kernel's map has it first.
    pub(crate) fn claim(&mut self, node: NodeId, key: u64, remaining_ms: u64) {
        let now = self.now(node);
        let state = self.nodes.get_mut(&node).unwrap();
        let kernel = self.kernels.get_mut(&node).unwrap();
        let epoch = state.own_epochs().iter().next().unwrap();
        kernel.claim(key, node, epoch, remaining_ms, self.now_us);
        state.handle_local(local(key, now, remaining_ms, epoch), now);
        self.drain(node);
    }

    /// The host's proxy sends a reply to a request that it has not sent on, and the egress program claims its key.
    pub(crate) fn claim_by_reply(&mut self, node: NodeId, key: u64, remaining_ms: u64) {
        let now = self.now(node);
        let (state, kernel) = (self.nodes.get_mut(&node).unwrap(), self.kernels.get_mut(&node).unwrap());
        let epoch = state.own_epochs().iter().next().unwrap();
        kernel.claim_by_reply(key, node, epoch, remaining_ms, self.now_us);
        let purpose = Purpose::of(kernel.kind(key), Class::Short);
        state.handle_local(LocalClaim { purpose, ..local(key, now, remaining_ms, epoch) }, now);
        self.drain(node);
    }

    /// The host's egress program tells of a message of an INVITE.
    pub(crate) fn sign(&mut self, node: NodeId, request: u64, sign: InviteSign) {
        let now = self.now(node);
        self.nodes.get_mut(&node).unwrap().handle_invite(request, sign, now);
        self.drain(node);
    }

    /// Asks as the slow path does when a packet has neither claim in the kernel's map.
    pub(crate) fn ask(&mut self, node: NodeId, ticket: u64, request_key: u64, reply_key: u64) {
        self.ask_in_turn(node, ticket, request_key, reply_key);
        self.drain(node);
    }

    /// Asks, and leaves the outputs for later, as when more asks come in the same turn.
    pub(crate) fn ask_in_turn(&mut self, node: NodeId, ticket: u64, request_key: u64, reply_key: u64) {
        let now = self.now(node);
        assert_eq!(self.asked.insert((node, ticket), (request_key, reply_key)), None, "a ticket that is in use");
        self.nodes.get_mut(&node).unwrap().handle_ask(ticket, request_key, reply_key, now);
    }

    /// The programs of `peer` answer a node.
    pub(crate) fn kernel_answer(&mut self, node: NodeId, peer: NodeId, number: u32, held: Option<Held>) {
        let now = self.now(node);
        self.nodes.get_mut(&node).unwrap().handle_kernel_answer(peer, number, held, now);
        self.drain(node);
    }

    /// What a node has been answered so far, in order, with the time since `start_us`.
    pub(crate) fn answers(&self, node: NodeId, start_us: u64) -> Vec<(u64, bool, u64)> {
        let answers = self.kernels.get(&node).unwrap().answers.iter();
        answers.map(|(ticket, owned, at_us)| (*ticket, *owned, at_us - start_us)).collect()
    }

    pub(crate) fn run_for(&mut self, us: u64) {
        let end = self.now_us + us;
        loop {
            let timers = self.nodes.iter().filter_map(|(node, state)| Some((state.poll_timeout()?, *node)));
            let timer = timers.min();
            let arrival = self.flying.keys().next().copied();
            let next = timer.map(|(at, _)| at).into_iter().chain(arrival.map(|(at, _)| at)).min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.now_us = self.now_us.max(at);
            if self.is_calling {
                self.answer_calls();
            }
            if let Some(key) = arrival.filter(|(arrival_at, _)| *arrival_at == at) {
                let Parcel { from, to, bytes, is_datagram } = self.flying.remove(&key).unwrap();
                if is_datagram { self.deliver_datagram(from, to, &bytes) } else { self.deliver(from, to, &bytes) }
            } else if let Some((_, node)) = timer {
                let now = self.now(node);
                self.nodes.get_mut(&node).unwrap().handle_timeout(now);
                self.drain(node);
            }
        }
        self.now_us = end;
    }

    pub(crate) fn deliver(&mut self, from: NodeId, to: NodeId, bytes: &[u8]) {
        let now = self.now(to);
        if let Err(error) = self.nodes.get_mut(&to).unwrap().handle_message(from, bytes, now) {
            self.errors.push((to, error));
        }
        self.drain(to);
    }

    /// Another epoch of a node's only proxy.
    pub(crate) fn set_epoch(&mut self, node: NodeId, epoch: u64) {
        self.set_epochs(node, Epochs::EMPTY.with(Epoch::new(epoch)));
    }

    /// Other live epochs of a node.
    pub(crate) fn set_epochs(&mut self, node: NodeId, epochs: Epochs) {
        let now = self.now(node);
        self.nodes.get_mut(&node).unwrap().set_epochs(epochs, now);
        self.drain(node);
    }

    /// What a node of this mesh might say of itself.
    pub(crate) fn hello_of(&self, node: NodeId, epoch: u64, sequence: u32) -> Hello {
        Hello { sequence, ..hello(node, *self.incarnations.get(&node).unwrap(), epoch) }
    }

    pub(crate) fn deliver_datagram(&mut self, from: NodeId, to: NodeId, bytes: &[u8]) {
        let now = self.now(to);
        if let Err(error) = self.nodes.get_mut(&to).unwrap().handle_datagram(from, bytes, now) {
            self.errors.push((to, error));
        }
        self.drain(to);
    }

    /// The links do as they are told: who is called and can be reached is linked.
    fn answer_calls(&mut self) {
        let open = self.calls.iter().filter(|((from, to), address)| {
            let reaches = **address == listen(*to) && self.nodes.contains_key(to);
            reaches && !self.links.contains(&(*from, *to)) && !self.cut.contains(&(*from.min(to), *from.max(to)))
        });
        let open: Vec<(NodeId, NodeId)> = open.map(|(pair, _)| *pair).collect();
        open.into_iter().for_each(|(from, to)| self.link(from, to));
    }

    /// Whose the key is, by each node's kernel map in the order of the nodes.
    pub(crate) fn owners(&self, key: u64) -> Vec<Option<u16>> {
        self.kernels.values().map(|kernel| kernel.claims.get(&key).map(|(owner, ..)| owner.number())).collect()
    }

    pub(crate) fn random_below(&mut self, bound: u64) -> u64 {
        // xorshift64
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }

    pub(crate) fn drain(&mut self, node: NodeId) {
        while let Some(output) = self.nodes.get_mut(&node).unwrap().poll_output() {
            match output {
                Output::Link(Command::Send { to, message, kind }) => self.send(node, to, message, kind),
                Output::Map(write) => self.kernels.get_mut(&node).unwrap().write(write, self.now_us),
                Output::Introduced { peer, said } => self.kernels.get_mut(&node).unwrap().introduce(peer, &said),
                Output::Answer { ticket, owned } => self.answered(node, ticket, owned),
                Output::AskKernel { to, number, request_key, reply_key } => {
                    self.kernel_asks.push((node, to, number, (request_key, reply_key)));
                }
                Output::Link(Command::Datagram { to, bytes }) => self.send_datagram(node, to, bytes),
                Output::Link(Command::Call { peer, address }) => drop(self.calls.insert((node, peer), address)),
                Output::Link(Command::Forget { peer }) => drop(self.calls.remove(&(node, peer))),
                Output::Link(Command::Drop { peer, reason }) => panic!("{peer:?}: {reason}: that is the shell's word"),
            }
        }
    }

    /// Every ask is answered once, and after the kernel has what the answer speaks of.
    fn answered(&mut self, node: NodeId, ticket: u64, owned: bool) {
        let kernel = self.kernels.get_mut(&node).unwrap();
        let Some((request_key, reply_key)) = self.asked.remove(&(node, ticket)) else {
            panic!("a second answer to ask {ticket} of node {}", node.number())
        };
        let places = |key: &u64| {
            let claim = kernel.claims.get(key);
            claim.is_some_and(|(owner, epoch, _)| *owner == node || kernel.is_live(*owner, *epoch))
        };
        assert!(!owned || [request_key, reply_key].iter().any(places), "the answer comes before the claim");
        kernel.answers.push((ticket, owned, self.now_us));
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Vec<u8>, kind: Kind) {
        let most = if kind == Kind::Snapshot { MESSAGE_BYTES } else { PACKET_BYTES };
        assert!(message.len() <= most, "all but snapshots must fit into one packet");
        let is_first = kind == Kind::Hello && self.greeted.insert((from, to));
        self.sent.push(Sent { at_us: self.now_us, from, to, bytes: message.len(), kind });
        let lost = !is_first && self.random_below(1000) < self.loss;
        if lost || !self.links.contains(&(from, to)) {
            return;
        }
        // As on the links, only the first hello keeps its place.
        let (least, below) = self.latency_us;
        let latency = if is_first { least / 2 } else { least + self.random_below(below - least) };
        let late = if kind == Kind::Batch { self.batch_delay_us } else { 0 };
        self.sequence += 1;
        let parcel = Parcel { from, to, bytes: message, is_datagram: false };
        self.flying.insert((self.now_us + latency + late, self.sequence), parcel);
    }

    fn send_datagram(&mut self, from: NodeId, to: NodeId, bytes: Vec<u8>) {
        assert!(bytes.len() <= DATAGRAM_BYTES, "a datagram must fit into one packet");
        let lost = self.random_below(1000) < self.loss;
        if lost || !self.links.contains(&(from, to)) {
            return;
        }
        let (least, below) = self.latency_us;
        let latency = least + self.random_below(below - least);
        self.sequence += 1;
        let parcel = Parcel { from, to, bytes, is_datagram: true };
        self.flying.insert((self.now_us + latency, self.sequence), parcel);
    }
}

pub(crate) fn pairs(nodes: u16) -> Vec<(NodeId, NodeId)> {
    (1..=nodes).flat_map(|a| (a + 1..=nodes).map(move |b| (id(a), id(b)))).collect()
}
