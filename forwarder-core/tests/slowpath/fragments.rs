//! Datagrams made whole from fragments.

use forwarder_common::outcome::Outcome;
use forwarder_core::slowpath::{Action, reassembly, whole};
use proptest::{collection::vec, prelude::*};

use super::{
    packets::{V4, V6, cut, datagram, fragment, frame, invite, request_key, sip, with_id},
    world::{IFINDEX, ME, PEER, World, forward, id, inject},
};

const ID: u16 = 77;

/// A message of this many bytes, with a body that shows where a byte came from.
fn long(length: usize) -> Vec<u8> {
    let mut text = invite("call");
    text.extend((text.len()..length).map(|at| (at * 31 / 7 % 251) as u8));
    text
}

fn punt(world: &mut World, part: &[u8]) {
    world.punt(Outcome::PuntedFragment, &frame(part, 0, 0));
}

/// The parts, punted in this order: what came out, and which outcomes moved.
fn punt_all(world: &mut World, parts: &[Vec<u8>]) -> (Vec<Action>, Vec<(&'static str, u64)>) {
    world.after(|world| parts.iter().for_each(|part| punt(world, part)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_order_and_every_duplicate_of_fragments_makes_the_same_packet(
        v6: bool,
        length in prop_oneof![200..3000_usize, 200..=65_507_usize],
        places in vec(1..8180_usize, 1..40),
        order in vec(any::<u32>(), 128),
        copies in vec(0..128_usize, 0..10),
        ours: bool,
    ) {
        let packet = with_id(&sip(v6, &long(length)), ID);
        let place = |place: &usize| (place * 8 % packet.len()) & !7;
        let mut places: Vec<usize> = places.iter().map(place).filter(|at| *at > 0).collect();
        places.sort_unstable();
        places.dedup();
        let parts = cut(&packet, ID, &places);
        prop_assume!(parts.len() > 1);
        let mut shuffled: Vec<usize> = (0..parts.len()).collect();
        shuffled.sort_by_key(|index| order[*index]);
        // A copy comes somewhere before the last fragment of the first sending.
        for copy in &copies {
            let at = *copy % (shuffled.len() - 1);
            shuffled.insert(at + 1, shuffled[at]);
        }
        let sent: Vec<Vec<u8>> = shuffled.iter().map(|index| parts[*index].clone()).collect();
        let mut world = World::new();
        if !ours {
            world.peers(request_key("call"));
        }
        let (actions, moved) = punt_all(&mut world, &sent);
        if ours || packet.len() > whole::LONGEST_IN_TUNNEL {
            prop_assert_eq!(actions.len(), if ours { 1 } else { 2 });
        }
        if ours {
            prop_assert_eq!(&actions, &vec![inject(&packet)]);
        } else if packet.len() <= whole::LONGEST_IN_TUNNEL {
            prop_assert_eq!(&actions, &vec![forward(&packet)]);
        }
        let end = if ours { "slow_local" } else { "slow_forwarded" };
        let mut expected = vec![(end, 1), ("slow_reassembling", sent.len() as u64), ("slow_reassembled", 1)];
        if !copies.is_empty() {
            expected.push(("slow_dropped_fragment", copies.len() as u64));
        }
        prop_assert_eq!(moved, expected);
        let ledger = world.path.ledger();
        prop_assert_eq!((ledger.reassembling, ledger.reassembling_bytes, ledger.joined), (0, 0, parts.len() as u64));
    }

    #[test]
    fn a_forged_fragment_never_moves_or_mixes_the_bytes_of_others(
        v6: bool, victim in 0..4_usize, start in 0..160_usize, length in 0..600_usize,
        more: bool, order in vec(any::<u32>(), 5),
    ) {
        let packet = with_id(&sip(v6, &long(1000)), ID);
        let mut parts = cut(&packet, ID, &[256, 512, 768]);
        let header = if v6 { 40 } else { 20 };
        let forged = start * 8..start * 8 + length;
        parts.insert(victim, fragment(&packet[..header], ID, forged.start, &vec![0xff; length], more));
        let mut shuffled: Vec<usize> = (0..5).collect();
        shuffled.sort_by_key(|index| order[*index]);
        let sent: Vec<Vec<u8>> = shuffled.iter().map(|index| parts[*index].clone()).collect();
        let mut world = World::new();
        let (actions, _) = punt_all(&mut world, &sent);
        for action in actions {
            let Action::Inject { packet: got, .. } = action else { panic!("{action:?}") };
            // Nobody can tell a forged fragment that fits from a true one; but it stays where it says that it is.
            let (got, true_data) = (&got[header..], &packet[header..]);
            prop_assert!(got.len() == true_data.len() || got.len() == forged.end, "{} bytes", got.len());
            for (at, byte) in got.iter().enumerate() {
                let is_forged = *byte == 0xff && forged.contains(&at);
                prop_assert!(is_forged || true_data.get(at) == Some(byte), "byte {at}");
            }
        }
        world.advance(reassembly::AGE_US);
        prop_assert_eq!(world.path.ledger().reassembling_bytes, 0);
    }
}

#[test]
fn overlapping_and_contradictory_fragments_void_their_datagram_and_what_follows_of_it() {
    for v6 in [V4, V6] {
        let packet = with_id(&sip(v6, &long(1000)), ID);
        let header = &packet[..if v6 { 40 } else { 20 }];
        let data = &packet[header.len()..];
        let part = |start: usize, end: usize, more| fragment(header, ID, start, &data[start..end], more);
        let total = data.len();
        let cases: [(&str, Vec<Vec<u8>>); 7] = [
            ("overlaps the one before", vec![part(0, 256, true), part(248, 512, true)]),
            ("overlaps the one behind", vec![part(256, 512, true), part(0, 264, true)]),
            ("covers another", vec![part(256, 512, true), part(0, 768, true)]),
            ("another end", vec![part(768, total, false), part(512, 768, false)]),
            ("an end before what is there", vec![part(512, 768, true), part(256, 512, false)]),
            ("behind the end", vec![part(512, 768, false), part(768, 992, true)]),
            ("same place, other bytes", vec![part(0, 256, true), fragment(header, ID, 0, &[7; 256], true)]),
        ];
        for (what, bad) in cases {
            let mut world = World::new();
            let (actions, moved) = punt_all(&mut world, &bad);
            assert_eq!(
                (actions, moved),
                (vec![], vec![("slow_reassembling", 2), ("slow_dropped_fragment", 2)]),
                "{what}"
            );
            let (actions, moved) = punt_all(&mut world, &cut(&packet, ID, &[256, 512]));
            assert_eq!(
                (actions, moved),
                (vec![], vec![("slow_reassembling", 3), ("slow_dropped_fragment", 3)]),
                "{what}"
            );
            // Its time over, the identification is free again.
            world.advance(reassembly::AGE_US);
            let (actions, _) = punt_all(&mut world, &cut(&packet, ID, &[256, 512]));
            assert_eq!(actions, [inject(&packet)], "{what}");
        }
    }
}

#[test]
fn a_fragment_that_can_be_part_of_no_datagram_is_dropped_and_harms_no_other() {
    for v6 in [V4, V6] {
        let packet = with_id(&sip(v6, &long(600)), ID);
        let header = &packet[..if v6 { 40 } else { 20 }];
        let mut world = World::new();
        let bad = [
            fragment(header, ID, 8, &[1; 13], true),
            fragment(header, ID, 8, &[], true),
            fragment(header, ID, 65_528, &[1; 16], false),
        ];
        let got = punt_all(&mut world, &bad);
        assert_eq!(got, (vec![], vec![("slow_reassembling", 3), ("slow_dropped_fragment", 3)]));
        let (actions, _) = punt_all(&mut world, &cut(&packet, ID, &[64]));
        assert_eq!(actions, [inject(&packet)]);
    }
}

#[test]
fn an_ipv6_packet_in_one_fragment_is_whole_and_apart_from_others_of_its_identification() {
    let packet = sip(V6, &long(600));
    let parts = cut(&packet, ID, &[64]);
    let mut world = World::new();
    punt(&mut world, &parts[0]);
    let small = sip(V6, &invite("small"));
    let got = world.after(|world| punt(world, &cut(&small, ID, &[])[0]));
    assert_eq!(got, (vec![inject(&small)], vec![("slow_local", 1), ("slow_reassembling", 1), ("slow_reassembled", 1)]));
    let (actions, _) = punt_all(&mut world, &parts[1..]);
    assert_eq!(actions, [inject(&packet)]);
}

#[test]
fn fragments_of_different_datagrams_are_kept_apart() {
    let packets = [(V4, 1), (V4, 2), (V6, 1), (V6, 2)].map(|(v6, id)| with_id(&sip(v6, &long(500 + id as usize)), id));
    let parts: Vec<_> = packets.iter().zip([1, 2, 1, 2]).map(|(packet, id)| cut(packet, id, &[104])).collect();
    let mut world = World::new();
    for part in &parts {
        punt(&mut world, &part[1]);
    }
    let firsts: Vec<Vec<u8>> = parts.iter().map(|part| part[0].clone()).collect();
    let (actions, _) = punt_all(&mut world, &firsts);
    assert_eq!(actions, packets.map(|packet| inject(&packet)));
}

#[test]
fn a_fragment_of_another_nodes_slot_goes_there_as_it_is() {
    for v6 in [V4, V6] {
        let parts = cut(&sip(v6, &long(900)), ID, &[256]);
        let mut world = World::new();
        world.table.reassembler = Some(id(PEER));
        let got = punt_all(&mut world, &parts);
        let forwarded =
            parts.iter().map(|part| Action::Forward { to: id(PEER), packet: part.clone(), reassemble: true }).collect();
        assert_eq!(got, (forwarded, vec![("slow_forwarded", 2)]));
        let slots = world.table.slots_asked.take();
        assert!(slots[0] == slots[1] && slots[0] < 1024);
        // The slot is this node's own.
        world.table.reassembler = Some(id(ME));
        let (actions, _) = punt_all(&mut world, &parts);
        assert_eq!(actions.len(), 1);
        // The same fragments, from the tunnel, are reassembled here, whoever's slot it is.
        world.table.reassembler = Some(id(PEER));
        let got = world.after(|world| parts.iter().for_each(|part| world.tunnel(true, part)));
        assert_eq!(got.1, [("slow_local", 1), ("slow_reassembling", 2), ("slow_reassembled", 1)]);
    }
}

#[test]
fn fragments_for_no_vip_and_datagrams_for_no_service_are_delivered_as_they_are() {
    for v6 in [V4, V6] {
        let mut elsewhere = sip(v6, &long(900));
        elsewhere[if v6 { 39 } else { 19 }] ^= 1;
        let parts = cut(&elsewhere, ID, &[256]);
        let mut world = World::new();
        let got = punt_all(&mut world, &parts);
        assert_eq!(got, (parts.iter().map(|part| inject(part)).collect(), vec![("slow_not_sip", 2)]));
        let other = with_id(&datagram(v6, 53, &long(900)), ID);
        let got = punt_all(&mut world, &cut(&other, ID, &[256]));
        let moved = vec![("slow_not_sip", 1), ("slow_reassembling", 2), ("slow_reassembled", 1)];
        assert_eq!(got, (vec![inject(&other)], moved));
    }
}

#[test]
fn an_incomplete_datagram_is_given_up_at_its_age() {
    let parts = cut(&sip(V4, &long(900)), ID, &[256, 512]);
    let mut world = World::new();
    punt(&mut world, &parts[0]);
    let due = world.now_us + reassembly::AGE_US;
    world.advance(1000);
    // Its age counts from the first fragment: a trickle keeps nothing alive.
    punt(&mut world, &parts[1]);
    assert_eq!(world.path.poll_timeout(), Some(due));
    assert_eq!(world.after(|world| world.advance(reassembly::AGE_US - 1001)), (vec![], vec![]));
    assert_eq!(world.after(|world| world.advance(1)), (vec![], vec![("slow_dropped_fragment", 2)]));
    assert_eq!(world.path.poll_timeout(), None);
}

#[test]
fn a_datagram_too_long_for_one_tunnel_packet_reaches_its_owner_in_two_and_is_local_there() {
    for v6 in [V4, V6] {
        let fits = whole::LONGEST_IN_TUNNEL - if v6 { 48 } else { 28 };
        for (length, pieces) in [(fits, 1), (fits + 1, 2), (65_507, 2)] {
            let packet = with_id(&sip(v6, &long(length)), ID);
            let mut reassembler = World::new();
            reassembler.peers(request_key("call"));
            let (actions, moved) = punt_all(&mut reassembler, &cut(&packet, ID, &[1448, 2896, 30_000, 60_000]));
            assert_eq!(moved, [("slow_forwarded", 1), ("slow_reassembling", 5), ("slow_reassembled", 1)]);
            assert_eq!(actions.len(), pieces);
            // The owner's table may name somebody else by now: it goes no further.
            let mut owner = World::new();
            owner.peers(request_key("call"));
            owner.table.reassembler = Some(id(PEER));
            let got = owner.after(|owner| {
                for action in actions {
                    let Action::Forward { to, packet, reassemble } = action else { panic!("{action:?}") };
                    assert!(
                        to == id(PEER)
                            && !reassemble
                            && packet.len() <= whole::LONGEST_IN_TUNNEL
                            && packet.len() > 30_000
                    );
                    owner.tunnel(reassemble, &packet);
                }
            });
            assert_eq!(got.0, [inject(&packet)]);
            let moved = if pieces == 1 {
                vec![("slow_received", 1)]
            } else {
                vec![("slow_received", 1), ("slow_reassembling", 2), ("slow_reassembled", 1)]
            };
            assert_eq!(got.1, moved);
        }
    }
}

#[test]
fn halves_from_a_peer_are_kept_apart_from_fragments_as_they_were_sent_and_from_other_peers() {
    for v6 in [V4, V6] {
        let packet = with_id(&sip(v6, &long(65_500)), ID);
        let data = packet.len() - if v6 { 40 } else { 20 };
        let mut owner = World::new();
        // A fragment of the same datagram that came here when this node reassembled its slot.
        punt(&mut owner, &cut(&packet, ID, &[1448]).remove(0));
        let first = cut(&packet, ID, &[32_000]).remove(0);
        owner.path.handle_tunnel(id(3), false, &first, IFINDEX, &owner.table, owner.now_us);
        let halves = cut(&packet, ID, &[(data / 2) & !7]);
        let got = owner.after(|owner| halves.iter().for_each(|half| owner.tunnel(false, half)));
        let moved = vec![("slow_received", 1), ("slow_reassembling", 2), ("slow_reassembled", 1)];
        assert_eq!(got, (vec![inject(&packet)], moved));
        assert_eq!(owner.path.ledger().reassembling, 2);
    }
}

#[test]
fn halves_for_no_service_are_refused_once_they_are_whole() {
    for v6 in [V4, V6] {
        let parts = cut(&datagram(v6, 53, &long(900)), ID, &[256]);
        let mut owner = World::new();
        let got = owner.after(|owner| parts.iter().for_each(|part| owner.tunnel(false, part)));
        assert_eq!(got, (vec![], vec![("slow_reassembling", 2), ("slow_reassembled", 1), ("slow_refused", 1)]));
    }
}
