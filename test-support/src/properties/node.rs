//! Any bytes as a script of links, claims, asks, time, and messages that arrive late, twice, spoilt or made up: a node
//! never panics, answers each ask once, and stays within its bounds.
//!
//! The node has two real peers, which are linked with it alone. A byte is a step, with its arguments behind it.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use forwarder_common::ids::{Epoch, Epochs, NodeId};
use forwarder_common::lifetime;
use forwarder_common::rest::Purpose;
use forwarder_core::node::{Command, InviteSign, LocalClaim, Node, NodeSettings, Now, Output, State};

/// The node that is looked at; the others are its peers.
const ME: usize = 0;
/// Nodes in all.
const NODES: usize = 3;
/// Most claims that a node holds: few, so that a script fills it.
const CLAIMS: usize = 64;
/// When a script begins, in microseconds of both clocks.
const START_US: u64 = 1_000_000_000;
/// Longest time of one script in microseconds: it is to be played many times a second.
const LONGEST_US: u64 = 200_000_000;
/// After so long each ask has its answer, in microseconds.
const SETTLED_US: u64 = 5_000_000;
/// Timeouts in a row that may leave a node due at the same instant.
const TURNS: usize = 64;
/// Most messages on their way: what comes beyond is lost.
const PARCELS: usize = 512;

/// Plays the script in `data`.
///
/// # Panics
/// An ask is not answered once, a timeout leads nowhere, or something grows beyond its bound.
pub fn node(data: &[u8]) {
    Script::new(data).play();
}

/// A message on its way.
#[derive(Clone)]
struct Parcel {
    from: usize,
    to: usize,
    is_datagram: bool,
    bytes: Vec<u8>,
}

struct Script<'a> {
    rest: &'a [u8],
    now_us: u64,
    nodes: [Node; NODES],
    /// Whether a peer is linked.
    links: [bool; NODES],
    parcels: VecDeque<Parcel>,
    /// Answers by the asks' tickets.
    answers: BTreeMap<u64, u32>,
    starts: u64,
}

fn id(node: usize) -> NodeId {
    NodeId::new(node as u16 + 1).expect("a small number")
}

fn underlay(node: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, node as u8 + 1))
}

fn start(node: usize, starts: u64) -> Node {
    let underlay = underlay(node);
    let listen = SocketAddr::new(underlay, 7470);
    Node::new(NodeSettings {
        node: id(node),
        epochs: Epochs::from_bits(1),
        underlay,
        listen,
        lifetimes: lifetime::LONGEST,
        claims: CLAIMS,
        seed: starts,
        services: Vec::new(),
        must_equal: Vec::new(),
    })
}

impl<'a> Script<'a> {
    fn new(rest: &'a [u8]) -> Self {
        let nodes = [0, 1, 2].map(|node| start(node, node as u64 + 1));
        let (parcels, answers) = (VecDeque::new(), BTreeMap::new());
        Self { rest, now_us: START_US, nodes, links: [false; NODES], parcels, answers, starts: NODES as u64 }
    }

    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        *first
    }

    fn number(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let (bytes, rest) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = rest;
        bytes.to_vec()
    }

    /// One of the node's peers.
    fn peer(&mut self) -> usize {
        1 + usize::from(self.byte()) % (NODES - 1)
    }

    fn now(&self) -> Now {
        Now { monotonic_us: self.now_us, unix_us: self.now_us }
    }

    fn play(mut self) {
        while !self.rest.is_empty() {
            self.step();
            self.check();
        }
        self.deliver_all();
        self.advance(self.now_us + SETTLED_US);
        self.check();
        assert_eq!(self.nodes[ME].asks(), 0);
        assert!(self.answers.values().all(|answers| *answers == 1), "{:?}", self.answers);
    }

    fn step(&mut self) {
        match self.byte() % 16 {
            0 => {
                let us = u64::from(self.number()) * 1000;
                self.advance((self.now_us + us).min(START_US + LONGEST_US));
            }
            1 => self.claim(),
            2 => {
                let peer = self.peer();
                self.link(peer, true);
            }
            3 => {
                let peer = self.peer();
                self.link(peer, false);
            }
            4 => self.deliver_all(),
            5 => {
                let at = self.byte();
                if let Some(parcel) = self.take(at) {
                    self.deliver(parcel);
                }
            }
            6 => {
                let at = self.byte();
                drop(self.take(at));
            }
            7 => {
                let at = self.byte();
                if let Some(parcel) = self.take(at) {
                    self.deliver(parcel.clone());
                    self.deliver(parcel);
                }
            }
            8 => self.spoil(),
            9 => self.make_up(),
            10 => self.ask(),
            11 => {
                let state =
                    [State::Joining, State::Up, State::Draining, State::ProxyDown][usize::from(self.byte() % 4)];
                self.nodes[ME].set_state(state, state == State::ProxyDown, self.now());
            }
            12 => {
                let (node, epoch) = (usize::from(self.byte()) % NODES, self.byte());
                self.nodes[node].set_epochs(Epochs::from_bits(u16::from(epoch)), self.now());
            }
            13 => {
                let peer = self.peer();
                self.link(peer, false);
                self.starts += 1;
                self.nodes[peer] = start(peer, self.starts);
            }
            14 => {
                let node = usize::from(self.byte()) % NODES;
                self.nodes[node].leave();
            }
            15 => self.sign(),
            _ => {}
        }
        self.poll_all();
    }

    /// A host's egress program tells its daemon of a claim, or an earlier daemon has left it in the kernel.
    fn claim(&mut self) {
        let (node, key, length) = (self.byte(), self.number(), self.byte());
        let now = self.now();
        let remaining_ms = u64::from(length) * 200;
        let (claimed_at_unix_us, epoch) = (now.unix_us, Epoch::new(u64::from(key)));
        let (key, purpose) = (u64::from(key), Purpose::UNKNOWN);
        let claim = LocalClaim { key, claimed_at_unix_us, remaining_ms, epoch, purpose };
        let is_restored = node & 0x80 != 0;
        let node = &mut self.nodes[usize::from(node) % NODES];
        if is_restored { node.handle_restored(claim, now) } else { node.handle_local(claim, now) }
    }

    /// A host's egress program tells its daemon of a message of an INVITE.
    fn sign(&mut self) {
        let (node, request, sign, branch) = (self.byte(), self.number(), self.byte(), u64::from(self.byte()));
        let (now, remaining_ms) = (self.now(), u64::from(sign) * 200);
        let sign = match sign % 5 {
            0 => InviteSign::Begun,
            1 => InviteSign::SentOn { reply: branch },
            2 => InviteSign::Provisional { server: branch },
            3 => InviteSign::Final { server: branch, remaining_ms },
            _ => InviteSign::Acknowledged { branch, remaining_ms },
        };
        self.nodes[usize::from(node) % NODES].handle_invite(u64::from(request), sign, now);
    }

    fn ask(&mut self) {
        let (request, reply) = (self.number(), self.number());
        let ticket = self.answers.len() as u64;
        self.answers.insert(ticket, 0);
        let now = self.now();
        self.nodes[ME].handle_ask(ticket, u64::from(request), u64::from(reply), now);
    }

    /// Both ends of a link learn that it is there, or that it is gone with all that was on it.
    fn link(&mut self, peer: usize, is_up: bool) {
        if !is_up && !self.links[peer] {
            return;
        }
        let now = self.now();
        self.links[peer] = is_up;
        self.parcels.retain(|parcel| parcel.from != peer && parcel.to != peer);
        for (one, other) in [(ME, peer), (peer, ME)] {
            let node = &mut self.nodes[one];
            if is_up {
                node.handle_link_up(id(other), vec![underlay(other)], now);
            } else {
                node.handle_link_down(id(other), now);
            }
        }
        self.poll_all();
    }

    /// One of the messages on their way.
    fn take(&mut self, at: u8) -> Option<Parcel> {
        let at = usize::from(at) % self.parcels.len().max(1);
        self.parcels.remove(at)
    }

    /// A message arrives with one byte changed.
    fn spoil(&mut self) {
        let (which, at, to) = (self.byte(), usize::from(self.number()), self.byte());
        let Some(mut parcel) = self.take(which) else { return };
        let at = at % parcel.bytes.len().max(1);
        if let Some(byte) = parcel.bytes.get_mut(at) {
            *byte = to;
        }
        self.deliver(parcel);
    }

    /// A peer says what no node would.
    fn make_up(&mut self) {
        let (how, length) = (self.byte(), usize::from(self.number() % 1500));
        let bytes = self.bytes(length);
        let (from, is_datagram) = (1 + usize::from(how) % (NODES - 1), how & 0x80 != 0);
        self.deliver(Parcel { from, to: ME, is_datagram, bytes });
    }

    fn deliver_all(&mut self) {
        // Answers to what arrives arrive too, but not without end.
        for _ in 0..PARCELS {
            let Some(parcel) = self.parcels.pop_front() else { break };
            self.deliver(parcel);
        }
    }

    fn deliver(&mut self, parcel: Parcel) {
        let Parcel { from, to, is_datagram, bytes } = parcel;
        let peer = from.max(to);
        if !self.links[peer] {
            return;
        }
        let (now, node) = (self.now(), &mut self.nodes[to]);
        let taken = if is_datagram {
            node.handle_datagram(id(from), &bytes, now)
        } else {
            node.handle_message(id(from), &bytes, now)
        };
        if taken.is_err() {
            self.link(peer, false);
        }
        self.poll_all();
    }

    /// Lets time pass until `end`, with the timeouts that are due until then.
    fn advance(&mut self, end: u64) {
        let mut turns = 0;
        loop {
            let due = self.nodes.iter().enumerate().filter_map(|(node, state)| Some((state.poll_timeout()?, node)));
            let Some((at, node)) = due.min().filter(|(at, _)| *at <= end) else { break };
            turns = if at > self.now_us { 0 } else { turns + 1 };
            assert!(turns < TURNS * NODES, "node {node} is due again and again");
            self.now_us = self.now_us.max(at);
            let now = self.now();
            self.nodes[node].handle_timeout(now);
            self.poll_all();
        }
        self.now_us = self.now_us.max(end);
    }

    fn poll_all(&mut self) {
        for node in 0..NODES {
            while let Some(output) = self.nodes[node].poll_output() {
                self.carry_out(node, output);
            }
        }
    }

    fn carry_out(&mut self, from: usize, output: Output) {
        let (to, bytes, is_datagram) = match output {
            Output::Link(Command::Send { to, message, .. }) => (to, message, false),
            Output::Link(Command::Datagram { to, bytes }) => (to, bytes, true),
            Output::Answer { ticket, .. } => {
                *self.answers.entry(ticket).or_default() += 1;
                return;
            }
            Output::Map(_)
            | Output::Introduced { .. }
            | Output::AskKernel { .. }
            | Output::Link(Command::Call { .. } | Command::Forget { .. } | Command::Drop { .. }) => return,
        };
        let to = usize::from(to.number()) - 1;
        let is_linked = self.links.get(from.max(to)).copied().unwrap_or_default();
        if is_linked && (from == ME) != (to == ME) && self.parcels.len() < PARCELS {
            self.parcels.push_back(Parcel { from, to, is_datagram, bytes });
        }
    }

    /// Nothing grows beyond its bound.
    fn check(&self) {
        for node in &self.nodes {
            assert!(node.claims() <= CLAIMS, "{} claims", node.claims());
            let of_peers: usize = node.peers().map(|peer| peer.claims).sum();
            assert!(of_peers <= node.claims(), "{of_peers} claims of peers among {}", node.claims());
            assert!(node.asks() <= self.answers.len());
        }
    }
}
