//! Any bytes as a script of punts, tunnel packets, claims, answers and time: the slow path never panics, accounts for
//! each packet, stays within its bounds, and what goes in whole comes out as it was.
//!
//! A byte from 32 on begins a SIP message, which ends at a NUL or with the script; smaller ones are steps with
//! arguments.

use std::collections::BTreeMap;

use forwarder_common::{abi::Punt, geneve::Kind, net, outcome::Outcome, verdict::Found};
use forwarder_core::slowpath::{Action, hold, reassembly, whole};

use crate::slowpath::{
    packets::{HASH_KEY, cut, datagram, frame, tunnel, with_id},
    world::{HOLD_US, IFINDEX, PEER, World, id},
};

/// Plays the script in `data`.
///
/// # Panics
/// A packet is lost or comes out changed, or something grows beyond its bound.
pub fn slowpath(data: &[u8]) {
    Script::new(data).play();
}

/// The longest payload of a UDP datagram over IPv4.
const LONGEST: usize = 65_507;

/// Bytes by which the messages of one script are made longer in all: one is enough to meet each bound of one packet.
const LENGTHENED: usize = 2 * LONGEST;

/// How messages arrive.
#[derive(Clone, Copy, Default)]
struct Way {
    v6: bool,
    affinity_call: bool,
    /// VLAN tags.
    tags: usize,
    /// In fragments, cut at multiples of this; 0 for whole.
    step: usize,
    /// The last fragment comes first.
    reversed: bool,
    /// Through the daemon's socket.
    socket: bool,
    /// Through the tunnel to the kernel: only fragments do.
    decap: bool,
    /// The message is repeated up to this many bytes.
    length: usize,
}

/// Length of an IP header.
const fn header(v6: bool) -> usize {
    if v6 { net::IPV6 } else { net::IPV4 }
}

struct Script<'a> {
    rest: &'a [u8],
    world: World,
    way: Way,
    packets: u64,
    /// Actions: injected, forwarded, asked.
    actions: [u64; 3],
    /// Whole packets that went in and have not come out.
    whole: BTreeMap<Vec<u8>, i64>,
    /// A byte of the next packet or frame that becomes another.
    spoil: Option<(u16, u8)>,
    /// What is left of [`LENGTHENED`].
    budget: usize,
    /// Keys of the last message.
    keys: (u64, u64),
    serial: u16,
    /// Whether there were bytes that could spoil the fragments of a message, or time in which they are dropped.
    is_disturbed: bool,
}

impl<'a> Script<'a> {
    fn new(rest: &'a [u8]) -> Self {
        Self {
            rest,
            world: World::new(),
            way: Way::default(),
            packets: 0,
            actions: [0; 3],
            whole: BTreeMap::new(),
            spoil: None,
            budget: LENGTHENED,
            keys: (0, 0),
            serial: 0,
            is_disturbed: false,
        }
    }

    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        *first
    }

    fn number(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (bytes, rest) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = rest;
        bytes
    }

    fn play(mut self) {
        while let Some(first) = self.rest.first() {
            if *first < b' ' {
                self.step();
            } else {
                let end = self.rest.iter().position(|byte| *byte == 0).unwrap_or(self.rest.len());
                let text = self.bytes(end);
                self.message(text);
            }
            self.check();
        }
        self.end();
    }

    fn step(&mut self) {
        match self.byte() {
            1 => self.turn(),
            2 => self.way.length = usize::from(self.number()).min(LONGEST),
            3 => self.claim(),
            4 => {
                let (ticket, owned) = (u64::from(self.byte()), self.byte() & 1 != 0);
                self.world.answer(ticket, owned);
            }
            5 => {
                let us = u64::from(self.number()) * 100;
                self.is_disturbed |= us != 0;
                self.world.advance(us);
            }
            6 => {
                let flags = self.byte();
                self.world.table.peer_up = flags & 1 != 0;
                self.world.table.reassembler = (flags & 2 != 0).then(|| id(PEER));
                // Fragments that came before wait here for others that now go elsewhere.
                self.is_disturbed = true;
            }
            7 => self.raw_punt(),
            8 => {
                let (reassemble, length) = (self.byte() & 1 != 0, usize::from(self.number()));
                let packet = self.bytes(length);
                self.is_disturbed = true;
                self.packets += 1;
                self.world.tunnel(reassemble, packet);
            }
            9 => self.world.path.handle_failure(),
            10 => {
                self.packets += 1;
                self.world.path.handle_refused();
            }
            11 => {
                self.is_disturbed = true;
                self.world.path.drain_all();
            }
            12 => {
                self.spoil = Some((self.number(), self.byte()));
                self.is_disturbed = true;
            }
            _ => {}
        }
    }

    fn turn(&mut self) {
        let flags = self.byte();
        let bit = |bit: u32| flags >> bit & 1 != 0;
        let step = 8 * usize::from(self.byte());
        self.way = Way {
            v6: bit(0),
            affinity_call: bit(1),
            tags: usize::from(bit(2)) + usize::from(bit(3)),
            reversed: bit(4),
            socket: bit(5),
            decap: bit(6),
            step,
            length: self.way.length,
        };
    }

    /// A claim of the last message's key comes or goes.
    fn claim(&mut self) {
        let what = self.byte();
        let key = if what & 1 == 0 { self.keys.0 } else { self.keys.1 };
        let found = [Found::Own, Found::Peer(id(PEER)), Found::Nothing][usize::from(what / 2 % 3)];
        self.world.table.claims.insert(key, found);
    }

    fn raw_punt(&mut self) {
        let (reason, cut, length) = (self.byte(), self.byte(), usize::from(self.number()));
        let frame = self.bytes(length);
        let head = Punt {
            ifindex: IFINDEX,
            // Mostly the truth.
            length: if cut == 0 { u32::MAX } else { (frame.len() + 128 - usize::from(cut).min(128)) as u32 },
            reason: u32::from(reason),
            ..Punt::default()
        };
        self.is_disturbed = true;
        self.packets += 1;
        self.world.path.handle_punt(head, frame, &self.world.table, self.world.now_us);
    }

    fn message(&mut self, text: &[u8]) {
        let way = self.way;
        if let Ok(message) = forwarder_common::sip::full::read(text) {
            let cseq = if way.affinity_call { 0 } else { message.cseq };
            self.keys =
                forwarder_common::hash::keys(HASH_KEY, message.call_id, cseq, message.branch.unwrap_or_default());
        }
        let mut payload = text.to_vec();
        let length = way.length.min(payload.len() + self.budget);
        self.budget -= length.saturating_sub(payload.len());
        while payload.len() < length {
            payload.extend_from_within(..text.len().min(length - payload.len()));
        }
        self.serial = self.serial.wrapping_add(1);
        let port = if way.affinity_call { 5080 } else { 5060 };
        let packet = with_id(&datagram(way.v6, port, &payload), self.serial);
        // A packet that is not cut is no fragment, and does not travel as one.
        if way.step == 0 || packet.len() - header(way.v6) <= way.step {
            if self.spoil.is_none() {
                *self.whole.entry(packet.clone()).or_default() += 1;
            }
            return self.arrive(&packet, false);
        }
        self.fragments(packet);
    }

    fn fragments(&mut self, packet: Vec<u8>) {
        let places: Vec<usize> = (1..reassembly::FRAGMENTS).map(|piece| piece * self.way.step).collect();
        let mut parts = cut(&packet, self.serial, &places);
        if self.way.reversed {
            parts.reverse();
        }
        if !self.is_disturbed {
            *self.whole.entry(packet).or_default() += 1;
        }
        for part in &parts {
            self.arrive(part, true);
        }
    }

    fn arrive(&mut self, packet: &[u8], is_fragment: bool) {
        self.packets += 1;
        let way = self.way;
        let is_inside = is_fragment && way.decap && packet.len() <= whole::LONGEST_IN_TUNNEL;
        let mut bytes = match packet {
            packet if way.socket => packet.to_vec(),
            packet if is_inside => frame(&tunnel(id(PEER), Kind::Reassemble, packet), way.tags, 0),
            packet => frame(packet, way.tags, 0),
        };
        if let Some((at, to)) = self.spoil.take() {
            let at = usize::from(at) % bytes.len();
            bytes[at] = to;
        }
        if way.socket {
            self.world.tunnel(false, &bytes);
        } else {
            let reason = if is_inside { Outcome::DecapPuntedFragment } else { Outcome::PuntedFragment };
            self.world.punt(reason, &bytes);
        }
    }

    /// Nothing is unaccounted for, and nothing grows beyond its bound.
    fn check(&mut self) {
        for action in self.world.actions() {
            let (kind, packet) = match action {
                Action::Inject { packet, .. } => (0, packet),
                Action::Forward { packet, .. } => {
                    assert!(packet.len() <= whole::LONGEST_IN_TUNNEL);
                    (1, packet)
                }
                Action::Ask { .. } => (2, Vec::new()),
            };
            self.actions[kind] += 1;
            self.whole.entry(packet).and_modify(|count| *count -= 1);
        }
        let ledger = self.world.path.ledger();
        assert_eq!((ledger.balance(), ledger.packets), (0, self.packets));
        assert!(ledger.held <= hold::PACKETS as u64 && ledger.held_bytes <= hold::BYTES);
        assert!(ledger.reassembling_bytes <= reassembly::BYTES);
        let sum = |outcomes: &[Outcome]| outcomes.iter().map(|outcome| ledger.of(*outcome)).sum::<u64>();
        use Outcome::{SlowForwarded, SlowHeld, SlowHoldOverflow, SlowLocal, SlowNotSip, SlowReceived, SlowReleased};
        let injected = sum(&[SlowLocal, SlowReceived, SlowReleased, SlowHoldOverflow, SlowNotSip]);
        assert_eq!(self.actions[0], injected);
        assert!(self.actions[1] >= ledger.of(SlowForwarded), "one that is too long leaves in halves");
        // Once for the transaction, and perhaps once more for the branch.
        let held = ledger.of(SlowHeld);
        assert!((held..=2 * held).contains(&self.actions[2]));
    }

    /// All waits over: nothing is left, and every whole packet has come out as it was.
    fn end(mut self) {
        self.world.advance(HOLD_US.max(reassembly::AGE_US));
        self.check();
        let ledger = self.world.path.ledger();
        assert_eq!((ledger.held, ledger.reassembling, ledger.held_bytes, ledger.reassembling_bytes), (0, 0, 0, 0));
        assert_eq!(self.world.path.poll_timeout(), None);
        for (packet, count) in self.whole {
            assert!(count <= 0 || packet.len() > whole::LONGEST_IN_TUNNEL, "{count} copies of a packet are lost");
        }
    }
}
