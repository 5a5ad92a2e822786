//! Random scripts of everything at once: whatever happens, each packet has one end, and is what it was.

use std::collections::BTreeMap;

use forwarder_common::{abi::Punt, geneve::Kind, outcome::Outcome, verdict::Found};
use forwarder_core::slowpath::{Action, hold, reassembly};
use proptest::{collection::vec, prelude::*};

use super::{
    packets::{cancel, cut, frame, invite, reply, reply_key, request_key, sip, tunnel, with_id},
    world::{HOLD_US, PEER, World, id},
};

/// Something that happens.
#[derive(Clone, Debug)]
enum Event {
    Message { kind: u8, call: u8, v6: bool, serial: u16 },
    Datagram { call: u8, v6: bool, pieces: usize, skip: Option<usize>, way: u8 },
    Tunnel { call: u8, v6: bool, serial: u16 },
    Claim { call: u8, reply: bool, owner: u8 },
    Forget { call: u8 },
    Answer { ticket: u64, owned: bool },
    Time { us: u64 },
    Peers { up: bool, reassembler: bool },
    Garbage { reason: u32, bytes: Vec<u8>, tunnel: bool },
    Mutated { call: u8, v6: bool, at: usize, to: u8, cut: usize },
}

fn event() -> impl Strategy<Value = Event> {
    let call = 0..6_u8;
    prop_oneof![
        6 => (0..3_u8, call.clone(), any::<bool>(), any::<u16>())
            .prop_map(|(kind, call, v6, serial)| Event::Message { kind, call, v6, serial }),
        4 => (call.clone(), any::<bool>(), 2..6_usize, proptest::option::of(0..6_usize), 0..3_u8)
            .prop_map(|(call, v6, pieces, skip, way)| Event::Datagram { call, v6, pieces, skip, way }),
        2 => (call.clone(), any::<bool>(), any::<u16>())
            .prop_map(|(call, v6, serial)| Event::Tunnel { call, v6, serial }),
        4 => (call.clone(), any::<bool>(), 0..3_u8)
            .prop_map(|(call, reply, owner)| Event::Claim { call, reply, owner }),
        1 => call.clone().prop_map(|call| Event::Forget { call }),
        3 => (0..60_u64, any::<bool>()).prop_map(|(ticket, owned)| Event::Answer { ticket, owned }),
        3 => (0..200_000_u64).prop_map(|us| Event::Time { us }),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(up, reassembler)| Event::Peers { up, reassembler }),
        2 => (30..45_u32, vec(any::<u8>(), 0..120), any::<bool>())
            .prop_map(|(reason, bytes, tunnel)| Event::Garbage { reason, bytes, tunnel }),
        4 => (call, any::<bool>(), 0..120_usize, any::<u8>(), 0..40_usize)
            .prop_map(|(call, v6, at, to, cut)| Event::Mutated { call, v6, at, to, cut }),
    ]
}

/// What was done to the slow path, and what it did.
struct Script {
    world: World,
    packets: u64,
    out: Vec<Action>,
    /// Whole packets that went in, and how often.
    whole: BTreeMap<Vec<u8>, i64>,
    serial: u16,
}

impl Script {
    fn new() -> Self {
        Self { world: World::new(), packets: 0, out: Vec::new(), whole: BTreeMap::new(), serial: 0 }
    }

    fn punt(&mut self, reason: Outcome, frame: &[u8]) {
        self.packets += 1;
        self.world.punt(reason, frame);
    }

    fn text(kind: u8, call: u8, serial: u16) -> Vec<u8> {
        let name = call.to_string();
        let mut text = match kind {
            0 => invite(&name),
            1 => cancel(&name),
            _ => reply(&name),
        };
        text.extend(serial.to_be_bytes());
        text
    }

    fn play(&mut self, event: &Event) {
        match event {
            Event::Message { kind, call, v6, serial } => {
                let packet = sip(*v6, &Self::text(*kind, *call, *serial));
                self.punt(Outcome::PuntedUnread, &frame(&packet, 0, 0));
                *self.whole.entry(packet).or_default() += 1;
            }
            Event::Datagram { call, v6, pieces, skip, way } => self.datagram(*call, *v6, *pieces, *skip, *way),
            Event::Tunnel { call, v6, serial } => {
                let packet = sip(*v6, &Self::text(2, *call, *serial));
                self.packets += 1;
                self.world.tunnel(false, &packet);
                *self.whole.entry(packet).or_default() += 1;
            }
            Event::Claim { call, reply, owner } => {
                let name = call.to_string();
                let key = if *reply { reply_key(&name, "z9hG4bK-1") } else { request_key(&name) };
                let found = [Found::Own, Found::Peer(id(PEER)), Found::Nothing][usize::from(*owner)];
                self.world.table.claims.insert(key, found);
            }
            Event::Forget { call } => {
                self.world.table.claims.remove(&request_key(&call.to_string()));
            }
            Event::Answer { ticket, owned } => self.world.answer(*ticket, *owned),
            Event::Time { us } => self.world.advance(*us),
            Event::Peers { up, reassembler } => {
                self.world.table.peer_up = *up;
                self.world.table.reassembler = reassembler.then_some(id(PEER));
            }
            Event::Garbage { reason, bytes, tunnel: false } => {
                self.punt(Outcome::from_number(*reason).unwrap(), bytes);
            }
            Event::Garbage { reason, bytes, tunnel: true } => {
                self.packets += 1;
                self.world.tunnel(reason % 2 == 0, bytes);
            }
            Event::Mutated { call, v6, at, to, cut } => self.mutated(*call, *v6, *at, *to, *cut),
        }
        self.check();
    }

    /// A datagram in fragments by one of three ways, perhaps with one missing.
    fn datagram(&mut self, call: u8, v6: bool, pieces: usize, skip: Option<usize>, way: u8) {
        self.serial += 1;
        let packet = with_id(&sip(v6, &Self::text(2, call, self.serial).repeat(4)), self.serial);
        let parts = cut(&packet, self.serial, &(1..pieces).map(|piece| piece * 64).collect::<Vec<_>>());
        for (index, part) in parts.iter().enumerate() {
            if skip == Some(index) {
                continue;
            }
            match way {
                0 => self.punt(Outcome::PuntedFragment, &frame(part, 0, 0)),
                1 => self.punt(Outcome::DecapPuntedFragment, &frame(&tunnel(id(PEER), Kind::Reassemble, part), 0, 0)),
                _ => {
                    self.packets += 1;
                    self.world.tunnel(index % 2 == 0, part);
                }
            }
        }
    }

    /// A tunnel packet, a fragment or a message with one byte changed and its end cut off.
    fn mutated(&mut self, call: u8, v6: bool, at: usize, to: u8, length: usize) {
        let packet = sip(v6, &Self::text(0, call, 0));
        let part = cut(&packet, 5, &[64]).remove(usize::from(to) % 2);
        let mut bytes = match at % 3 {
            0 => frame(&packet, 0, 0),
            1 => frame(&part, 0, 0),
            _ => frame(&tunnel(id(PEER), Kind::Reassemble, &part), 0, 0),
        };
        let at = at % bytes.len();
        bytes[at] = to;
        bytes.truncate(bytes.len() - length.min(bytes.len()));
        let reason = if to.is_multiple_of(2) { Outcome::DecapPuntedFragment } else { Outcome::PuntedFragment };
        self.punt(reason, &bytes);
    }

    fn check(&mut self) {
        self.out.extend(self.world.actions());
        let ledger = self.world.path.ledger();
        assert_eq!((ledger.balance(), ledger.packets), (0, self.packets));
        assert!(ledger.held_bytes <= hold::BYTES && ledger.reassembling_bytes <= reassembly::BYTES);
        let sum = |outcomes: &[Outcome]| outcomes.iter().map(|outcome| ledger.of(*outcome)).sum::<u64>();
        let injected = self.out.iter().filter(|action| matches!(action, Action::Inject { .. })).count() as u64;
        let forwarded = self.out.iter().filter(|action| matches!(action, Action::Forward { .. })).count() as u64;
        let asked = self.out.iter().filter(|action| matches!(action, Action::Ask { .. })).count() as u64;
        use Outcome::{SlowHoldOverflow, SlowLocal, SlowNotSip, SlowReceived, SlowReleased};
        assert_eq!(injected, sum(&[SlowLocal, SlowReceived, SlowReleased, SlowHoldOverflow, SlowNotSip]));
        assert_eq!(forwarded, sum(&[Outcome::SlowForwarded]));
        // Once for the transaction, and perhaps once more for the branch.
        let held = sum(&[Outcome::SlowHeld]);
        assert!((held..=2 * held).contains(&asked), "{asked} questions about {held} packets");
    }

    /// All waits over: every packet is where it must be.
    fn end(mut self, by_drain: bool) {
        if by_drain {
            self.world.path.drain_all();
        } else {
            self.world.advance(HOLD_US.max(reassembly::AGE_US));
        }
        self.check();
        let ledger = self.world.path.ledger();
        assert_eq!((ledger.held, ledger.reassembling, ledger.held_bytes, ledger.reassembling_bytes), (0, 0, 0, 0));
        assert_eq!(self.world.path.poll_timeout(), None);
        for action in self.out {
            if let Action::Inject { packet, .. } | Action::Forward { packet, .. } = action {
                self.whole.entry(packet).and_modify(|count| *count -= 1);
            }
        }
        for (packet, count) in self.whole {
            assert!(count <= 0, "{count} copies of a packet are lost: {packet:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_lost_silently_whatever_happens(events in vec(event(), 0..120), by_drain: bool) {
        let mut script = Script::new();
        for event in &events {
            script.play(event);
        }
        script.end(by_drain);
    }

    #[test]
    fn garbage_never_panics(
        frames in vec((0..64_u32, vec(any::<u8>(), 0..200), 0..4_u8, any::<u32>()), 0..60),
    ) {
        let mut world = World::new();
        for (reason, mut bytes, kind, length) in frames {
            // Some look like IP, in a frame or out of a tunnel.
            let at = if kind < 2 { 14 } else { 0 };
            if bytes.len() > at + 1 && kind != 1 {
                bytes[at] = if kind % 2 == 0 { 0x45 } else { 0x60 };
            }
            if kind < 2 && bytes.len() > 14 {
                bytes[12..14].copy_from_slice(if kind == 0 { &[8, 0] } else { &[0x86, 0xdd] });
            }
            if kind < 2 {
                let head = Punt { ifindex: 1, length, reason, ..Punt::default() };
                world.path.handle_punt(head, &bytes, &world.table, world.now_us);
            } else {
                world.tunnel(length % 2 == 0, &bytes);
            }
            prop_assert_eq!(world.path.ledger().balance(), 0);
        }
        world.advance(reassembly::AGE_US);
        prop_assert_eq!(world.path.poll_timeout(), None);
    }
}
