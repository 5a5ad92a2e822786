//! What a node with a good certificate can say: every message and gossip record, with the values at the ends of what
//! they can hold, and bytes that are no message.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use fastrand::Rng;
use forwarder_common::ids::{Epoch, Epochs, NodeId};
use forwarder_common::rest::Purpose;
use forwarder_core::node::State;
use forwarder_core::wire::{
    ANSWER_CLAIMS, Answer, Ask, BATCH_CLAIMS, Claim, Claims, DATAGRAM_BYTES, Digest, GOSSIP_PEERS, Gossip,
    HELLO_EQUALS, Hello, LIFETIME_MS, MESSAGE_ANSWERS, MESSAGE_ASKS, Message, MustEqual, REPAIR_RANGES, Repair,
    SNAPSHOT_CLAIMS, STRETCH_NUMBERS, Service, VERSION,
};

/// One sort of things to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    /// Claims as they are made, of any time, lifetime, epoch and number.
    Batches,
    /// The same in large messages.
    Snapshots,
    /// Stretches of numbers without a claim: all of them have ended.
    Ends,
    /// Hellos that each say something else.
    Hellos,
    /// Questions for keys.
    Asks,
    /// Answers to what nobody has asked.
    Answers,
    /// Digests that promise what was never sent.
    Digests,
    /// Repairs that ask for everything, and for what never was.
    Repairs,
    /// Gossip about everybody, with wrong addresses.
    Gossip,
    /// The sender leaves, again and again.
    Leaves,
    /// Datagrams as fast as they go.
    Datagrams,
    /// Streams with nothing in them, or with bytes that are no message.
    Garbage,
    /// A message that is cut off.
    Truncated,
    /// Streams that do not end.
    Unfinished,
    /// The link ends at once, and another one begins.
    Reconnect,
}

impl Act {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Batches,
        Self::Snapshots,
        Self::Ends,
        Self::Hellos,
        Self::Asks,
        Self::Answers,
        Self::Digests,
        Self::Repairs,
        Self::Gossip,
        Self::Leaves,
        Self::Datagrams,
        Self::Garbage,
        Self::Truncated,
        Self::Unfinished,
        Self::Reconnect,
    ];

    /// Whether a node that says it keeps to the protocol.
    #[must_use]
    pub const fn keeps_to_protocol(self) -> bool {
        !matches!(self, Self::Garbage | Self::Truncated | Self::Unfinished | Self::Reconnect)
    }
}

/// Something said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// On a stream of its own.
    Stream(Vec<u8>),
    /// On a stream that does not end.
    Unfinished(Vec<u8>),
    /// In a datagram.
    Datagram(Vec<u8>),
}

/// One who says it.
#[derive(Debug)]
pub struct Script {
    rng: Rng,
    hello: Hello,
    /// The number of its next claim.
    next: u64,
}

impl Script {
    /// One who introduces itself as a node at these addresses.
    #[must_use]
    pub fn new(seed: u64, underlay: IpAddr, listen: SocketAddr) -> Self {
        let mut rng = Rng::with_seed(seed);
        let hello = Hello {
            incarnation: rng.u64(..) | 1,
            sequence: 1,
            epochs: Epochs::from_bits(u16::MAX),
            state: State::Up,
            next: 0,
            your_incarnation: 0,
            your_epochs: Epochs::EMPTY,
            have: 0,
            underlay,
            listen,
            services: Vec::new(),
            must_equal: Vec::new(),
            is_silent: false,
        };
        Self { rng, hello, next: 0 }
    }

    /// The same as a run of a daemon that has introduced itself already.
    #[must_use]
    pub fn of_run(mut self, incarnation: u64) -> Self {
        self.hello.incarnation = incarnation;
        self
    }

    /// What is said first on a link.
    #[must_use]
    pub fn introduction(&self) -> [Vec<u8>; 2] {
        [vec![VERSION], Message::Hello(self.hello.clone()).encode()]
    }

    /// The next thing to say of a sort.
    pub fn say(&mut self, act: Act) -> Said {
        let message = match act {
            Act::Batches => Message::Batch(self.claims(BATCH_CLAIMS)),
            Act::Snapshots => Message::Snapshot(self.claims(SNAPSHOT_CLAIMS)),
            Act::Ends => Message::Batch(Claims { claims: Vec::new(), ..self.claims(0) }),
            Act::Hellos | Act::Reconnect => Message::Hello(self.hello()),
            Act::Asks => Message::Ask((0..MESSAGE_ASKS).map(|_| self.ask()).collect()),
            Act::Answers => Message::Answer((0..MESSAGE_ANSWERS).map(|_| self.answer()).collect()),
            Act::Digests => Message::Digest(Digest { settled: self.number(), must_answer: self.rng.bool() }),
            Act::Repairs => Message::Repair(self.repair()),
            Act::Gossip => return Said::Datagram(self.gossip().encode()),
            Act::Leaves => return Said::Datagram(Gossip::Leaves.encode()),
            Act::Datagrams => return Said::Datagram(self.bytes(DATAGRAM_BYTES)),
            Act::Garbage => return Said::Stream(self.garbage()),
            Act::Truncated => {
                let mut bytes = Message::Snapshot(self.claims(9)).encode();
                bytes.truncate(self.rng.usize(..bytes.len()));
                return Said::Stream(bytes);
            }
            Act::Unfinished => return Said::Unfinished(self.bytes(9000)),
        };
        Said::Stream(message.encode())
    }

    /// A number at an end of what 64 bits hold, near what is expected, or any.
    fn number(&mut self) -> u64 {
        match self.rng.u8(..8) {
            0 => 0,
            1 => 1,
            2 => u64::MAX,
            3 => u64::MAX >> 1,
            4 => u64::from(u32::MAX),
            5 => self.next,
            6 => self.next.saturating_add(STRETCH_NUMBERS),
            _ => self.rng.u64(..),
        }
    }

    fn claim(&mut self, number: u64) -> Claim {
        let claimed_at_unix_us = self.number();
        let remaining_ms = match self.rng.u8(..4) {
            0 => 1,
            1 => self.rng.u32(1..300_000),
            _ => LIFETIME_MS as u32,
        };
        let (epoch, purpose) = (Epoch::new(self.rng.u64(..16)), Purpose::decode(self.rng.u8(..16)));
        Claim { key: self.rng.u64(..), claimed_at_unix_us, remaining_ms, epoch, purpose, number }
    }

    /// Claims under the numbers that are due, or now and then far from them.
    fn claims(&mut self, most: usize) -> Claims {
        let first = if self.rng.u8(..16) == 0 { self.number().min(u64::MAX - STRETCH_NUMBERS) } else { self.next };
        let claims: Vec<Claim> = (first..).take(most).map(|number| self.claim(number)).collect();
        let span = if self.rng.u8(..16) == 0 { u32::MAX } else { (most as u32).max(1) };
        let sequence = if self.rng.u8(..16) == 0 { self.rng.u32(..) } else { self.hello.sequence };
        if first == self.next {
            self.next = self.next.saturating_add(u64::from(span));
        }
        Claims { first, span, sequence, claims }
    }

    fn hello(&mut self) -> Hello {
        let step = *self.rng.choice(&[0, 1, 1, 1, 2, u32::MAX / 2]).unwrap_or(&1);
        self.hello.sequence = self.hello.sequence.wrapping_add(step);
        let states = [State::Joining, State::Up, State::Draining, State::ProxyDown];
        let state = *self.rng.choice(&states).unwrap_or(&State::Up);
        let equal = |rng: &mut Rng| MustEqual { what: rng.u8(..), hash: rng.u64(..) };
        Hello {
            epochs: Epochs::from_bits(self.rng.u16(..)),
            state,
            next: self.number(),
            your_incarnation: self.number(),
            your_epochs: Epochs::from_bits(self.rng.u16(..)),
            have: self.number(),
            services: (0..self.rng.usize(..8)).map(|_| self.service()).collect(),
            must_equal: (0..self.rng.usize(..HELLO_EQUALS)).map(|_| equal(&mut self.rng)).collect(),
            is_silent: self.rng.bool(),
            ..self.hello.clone()
        }
    }

    fn service(&mut self) -> Service {
        Service { address: self.address(), transport: self.rng.u8(..), affinity: self.rng.u8(..) }
    }

    fn address(&mut self) -> SocketAddr {
        let ip = match self.rng.u8(..6) {
            0 => Ipv4Addr::UNSPECIFIED.into(),
            1 => Ipv4Addr::BROADCAST.into(),
            2 => Ipv4Addr::LOCALHOST.into(),
            3 => IpAddr::from([224, 0, 0, 1]),
            4 => Ipv6Addr::from(self.rng.u128(..)).into(),
            _ => IpAddr::from([10, 9, self.rng.u8(..8), self.rng.u8(..4)]),
        };
        SocketAddr::new(ip, *self.rng.choice(&[0, 1, 7470, 6081, 5060, u16::MAX]).unwrap_or(&7470))
    }

    fn ask(&mut self) -> Ask {
        Ask { number: self.number(), request_key: self.rng.u64(..), reply_key: self.number() }
    }

    fn answer(&mut self) -> Answer {
        let claims = (0..self.rng.usize(..=ANSWER_CLAIMS)).map(|_| {
            let number = self.number();
            self.claim(number)
        });
        let claims = claims.collect();
        Answer { number: self.number(), claims }
    }

    fn repair(&mut self) -> Repair {
        let range = |script: &mut Self| {
            let (a, b) = (script.number(), script.number());
            if a < b { (a, b) } else { (b, a.saturating_add(1).max(b + u64::from(b < u64::MAX))) }
        };
        let missing = (0..self.rng.usize(..=REPAIR_RANGES)).map(|_| range(self));
        let missing = missing.filter(|(from, to)| from < to).collect();
        Repair { sequence: self.rng.u32(..), pieces: self.rng.u32(..), below: self.number(), missing }
    }

    fn gossip(&mut self) -> Gossip {
        let peer = |script: &mut Self| {
            // Those of the lab more often than others.
            let most = if script.rng.bool() { 5 } else { NodeId::MAX };
            Some((NodeId::new(script.rng.u16(1..=most))?, script.address()))
        };
        Gossip::Linked((0..GOSSIP_PEERS).filter_map(|_| peer(self)).collect())
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.rng.usize(..=most);
        (0..length).map(|_| self.rng.u8(..)).collect()
    }

    fn garbage(&mut self) -> Vec<u8> {
        match self.rng.u8(..4) {
            0 => Vec::new(),
            1 => vec![VERSION, self.rng.u8(..)],
            2 => vec![self.rng.u8(..); 20_000],
            _ => self.bytes(1200),
        }
    }
}
