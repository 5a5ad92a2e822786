//! Floods of half-datagrams.

use forwarder_common::outcome::Outcome;
use forwarder_core::slowpath::reassembly;

use super::{
    packets::{V4, V6, cut, datagram_from, fragment, frame, invite, sip, with_id},
    world::{World, inject},
};

fn half(client: u16, v6: bool, id: u16, length: usize) -> Vec<u8> {
    let packet = datagram_from(client, v6, 5060, &vec![b'x'; length + 64]);
    cut(&packet, id, &[length & !7]).remove(0)
}

fn punt(world: &mut World, part: &[u8]) {
    world.punt(Outcome::PuntedFragment, &frame(part, 0, 0));
}

/// A call in two fragments gets through.
fn call_gets_through(world: &mut World, id: u16) -> bool {
    let packet = with_id(&sip(V4, &invite("call").repeat(9)), id);
    world.actions();
    cut(&packet, id, &[512]).iter().for_each(|part| punt(world, part));
    world.actions() == [inject(&packet)]
}

#[test]
fn a_flood_of_halves_stays_under_the_bounds_and_calls_get_through() {
    for (v6, length) in [(V4, 16), (V4, 1480), (V6, 1240), (V4, 60_000)] {
        let mut world = World::new();
        for number in 0..6000_u16 {
            // As many sources as there are packets: no bound on a source helps.
            punt(&mut world, &half(number, v6, number, length));
            let ledger = world.path.ledger();
            assert!(
                ledger.reassembling_bytes <= reassembly::BYTES && ledger.reassembling <= reassembly::DATAGRAMS as u64
            );
            if number % 1000 == 0 {
                assert!(call_gets_through(&mut world, number), "{length} at {number}");
            }
        }
        let ledger = world.path.ledger();
        assert!(ledger.reassembling > 200 && ledger.of(Outcome::SlowDroppedFragment) > 1500, "{ledger:?}");
        assert_eq!(ledger.balance(), 0);
        world.advance(reassembly::AGE_US);
        let ledger = world.path.ledger();
        assert_eq!((ledger.reassembling, ledger.reassembling_bytes, ledger.balance()), (0, 0, 0));
    }
}

#[test]
fn one_source_cannot_push_out_the_datagrams_of_others() {
    for length in [16, 1480, 60_000] {
        let mut world = World::new();
        let packet = with_id(&sip(V4, &invite("call").repeat(9)), 1);
        let parts = cut(&packet, 1, &[512]);
        punt(&mut world, &parts[0]);
        for id in 0..5000 {
            punt(&mut world, &half(9, V4, id, length));
        }
        let ledger = world.path.ledger();
        assert!(ledger.reassembling_bytes <= reassembly::SOURCE_BYTES + 3000, "{ledger:?}");
        assert!(ledger.reassembling <= reassembly::SOURCE_DATAGRAMS as u64 + 1, "{ledger:?}");
        world.actions();
        punt(&mut world, &parts[1]);
        assert_eq!(world.actions(), [inject(&packet)]);
    }
}

#[test]
fn addresses_of_one_ipv6_network_are_one_source() {
    let mut world = World::new();
    for number in 0..2000_u16 {
        let mut part = half(9, V6, 1, 64);
        part[22..24].copy_from_slice(&number.to_be_bytes());
        punt(&mut world, &part);
    }
    assert_eq!(world.path.ledger().reassembling, reassembly::SOURCE_DATAGRAMS as u64);
}

#[test]
fn a_datagram_of_endless_tiny_fragments_is_given_up() {
    for v6 in [V4, V6] {
        let packet = sip(v6, &[b'x'; 60_000]);
        let header = &packet[..if v6 { 40 } else { 20 }];
        let mut world = World::new();
        for number in 0..5000 {
            punt(&mut world, &fragment(header, 1, number * 16, &[b'x'; 8], true));
            let ledger = world.path.ledger();
            assert!(ledger.reassembling <= reassembly::FRAGMENTS as u64 && ledger.reassembling_bytes < 40_000);
        }
        let ledger = world.path.ledger();
        assert_eq!((ledger.reassembling, ledger.of(Outcome::SlowDroppedFragment)), (0, 5000));
    }
}

#[test]
fn a_path_with_an_mtu_of_576_bytes_carries_the_longest_datagram() {
    let packet = with_id(&sip(V4, &vec![b'x'; 65_507]), 1);
    let places: Vec<usize> = (1..119).map(|number| number * 552).collect();
    let parts = cut(&packet, 1, &places);
    assert_eq!(parts.len(), 119);
    let mut world = World::new();
    parts.iter().rev().for_each(|part| punt(&mut world, part));
    assert_eq!(world.actions(), [inject(&packet)]);
}
