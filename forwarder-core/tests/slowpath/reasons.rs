//! What becomes of a packet, by its reason, its message and what the table says.

use forwarder_common::{abi::Punt, geneve::Kind, outcome::Outcome};
use forwarder_core::slowpath::Action;

use super::{
    packets::{V4, V6, cancel, cut, datagram, frame, invite, message, reply, reply_key, request_key, sip, tunnel},
    world::{IFINDEX, PEER, World, forward, id, inject},
};

/// The reasons whose packet is whole: all get the ordinary verdict.
const REASONS: [Outcome; 5] = [
    Outcome::PuntedUnread,
    Outcome::PuntedUnknownResponse,
    Outcome::PuntedUnknownCancel,
    Outcome::PuntedTooBig,
    Outcome::PuntedUnresolved,
];

#[test]
fn what_is_behind_extension_headers_is_read_and_goes_on_with_them() {
    let plain = sip(V6, &invite("call"));
    let chains: [(u8, &[u8]); 5] = [
        (0, &[17, 0, 1, 4, 0, 0, 0, 0]),
        (43, &[17, 0, 0, 0, 0, 0, 0, 0]),
        (60, &[44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0, 7]),
        (0, &[60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0]),
        (51, &[17, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ];
    for (first, chain) in chains {
        let mut packet = [&plain[..40], chain, &plain[40..]].concat();
        packet[6] = first;
        let length = (packet.len() - 40) as u16;
        packet[4..6].copy_from_slice(&length.to_be_bytes());
        let punt = |world: &mut World| world.punt(Outcome::PuntedExtensionHeader, &frame(&packet, 0, 0));
        let mut world = World::new();
        assert_eq!(world.after(punt), (vec![inject(&packet)], vec![("slow_local", 1)]), "{first}");
        world.peers(request_key("call"));
        assert_eq!(world.after(punt), (vec![forward(&packet)], vec![("slow_forwarded", 1)]), "{first}");
        // Behind them is no UDP for a service: it is delivered as it is.
        packet[40 + chain.len() + 3] ^= 1;
        let punt = |world: &mut World| world.punt(Outcome::PuntedExtensionHeader, &frame(&packet, 0, 0));
        assert_eq!(world.after(punt), (vec![inject(&packet)], vec![("slow_not_sip", 1)]), "{first}");
    }
}

#[test]
fn every_reason_gets_the_verdict_of_the_table_as_it_is_now() {
    let ack = message("ACK sip:bob@example.com SIP/2.0", "call", "z9hG4bK-1");
    for reason in REASONS {
        for v6 in [V4, V6] {
            for text in [&invite("call"), &ack, &cancel("call"), &reply("call")] {
                let packet = sip(v6, text);
                let frame = frame(&packet, 0, 0);
                let asks = [&b"CANCEL"[..], b"ACK", b"SIP/2.0"].iter().any(|start| text.starts_with(start));

                let mut world = World::new();
                let decisive =
                    if text.starts_with(b"SIP") { reply_key("call", "z9hG4bK-1") } else { request_key("call") };
                world.own(decisive);
                let got = world.after(|world| world.punt(reason, &frame));
                assert_eq!(got, (vec![inject(&packet)], vec![("slow_local", 1)]));

                let mut world = World::new();
                world.peers(decisive);
                let got = world.after(|world| world.punt(reason, &frame));
                assert_eq!(got, (vec![forward(&packet)], vec![("slow_forwarded", 1)]));

                world.table.peer_up = false;
                let got = world.after(|world| world.punt(reason, &frame));
                assert_eq!(got, (vec![inject(&packet)], vec![("slow_local", 1)]));

                let mut world = World::new();
                let (actions, moved) = world.after(|world| world.punt(reason, &frame));
                if asks {
                    let reply_key = if text.starts_with(b"SIP") { reply_key("call", "z9hG4bK-1") } else { 0 };
                    let ask = Action::Ask { ticket: 1, request_key: request_key("call"), reply_key };
                    assert_eq!((actions, moved), (vec![ask], vec![("slow_held", 1)]));
                } else {
                    assert_eq!((actions, moved), (vec![inject(&packet)], vec![("slow_local", 1)]));
                }
            }
        }
    }
}

#[test]
fn what_is_a_peers_that_lacks_the_service_is_served_where_it_landed() {
    for v6 in [V4, V6] {
        let packet = sip(v6, &invite("call"));
        let frame = frame(&packet, 0, 0);
        let mut world = World::new();
        world.peers(request_key("call"));
        world.table.unserved = [usize::from(v6)].into();
        let got = world.after(|world| world.punt(Outcome::PuntedUnread, &frame));
        assert_eq!(got, (vec![inject(&packet)], vec![("slow_local", 1)]));
        world.table.claims.clear();
        world.table.successor = Some(id(PEER));
        let got = world.after(|world| world.punt(Outcome::PuntedUnread, &frame));
        assert_eq!(got, (vec![inject(&packet)], vec![("slow_local", 1)]), "nor does it take new ones");
        world.table.unserved = [usize::from(!v6)].into();
        let got = world.after(|world| world.punt(Outcome::PuntedUnread, &frame));
        assert_eq!(got, (vec![forward(&packet)], vec![("slow_diverted", 1)]), "the other service is no matter");
    }
}

#[test]
fn a_reply_is_looked_up_by_its_branch_before_its_call() {
    let packet = sip(V4, &reply("call"));
    let mut world = World::new();
    world.own(request_key("call"));
    world.peers(reply_key("call", "z9hG4bK-1"));
    let got = world.after(|world| world.punt(Outcome::PuntedUnread, &frame(&packet, 0, 0)));
    assert_eq!(got, (vec![forward(&packet)], vec![("slow_forwarded", 1)]));
    let other = sip(V4, &message("SIP/2.0 180 Ringing", "call", "z9hG4bK-2"));
    let got = world.after(|world| world.punt(Outcome::PuntedUnread, &frame(&other, 0, 0)));
    let branch = reply_key("call", "z9hG4bK-2");
    let ask = Action::Ask { ticket: 1, request_key: branch, reply_key: branch };
    assert_eq!(got, (vec![ask], vec![("slow_held", 1)]), "another leg of the call, whose owner is not known yet");
    // A request with the same branch is no reply.
    let request = sip(V4, &invite("call"));
    let got = world.after(|world| world.punt(Outcome::PuntedUnread, &frame(&request, 0, 0)));
    assert_eq!(got, (vec![inject(&request)], vec![("slow_local", 1)]));
}

#[test]
fn forms_that_only_the_full_grammar_reads_have_the_key_of_the_plain_form() {
    let long = "X-Filler: 0123456789\r\n".repeat(300);
    let forms = [
        "INVITE sip:b SIP/2.0\r\nCall-ID:\r\n\tcall\r\nCSeq:\r\n 7\r\n INVITE\r\nVia: SIP/2.0/UDP h\r\n\r\n".to_owned(),
        "\r\n\r\nINVITE sip:b SIP/2.0\nI : call\ncseq\t: 007 INVITE\n\n".to_owned(),
        format!("INVITE sip:b SIP/2.0\r\n{long}Call-ID: call\r\nCSeq: 7 INVITE\r\n\r\n"),
        "INVITE sip:b SIP/2.0\r\nX: a\rb\r\nCall-ID: call\r\nCSeq: 00000000000000007 INVITE\r\n\r\n".to_owned(),
    ];
    for text in forms {
        let packet = sip(V4, text.as_bytes());
        let mut world = World::new();
        world.peers(request_key("call"));
        let got = world.after(|world| world.punt(Outcome::PuntedUnread, &frame(&packet, 0, 0)));
        assert_eq!(got, (vec![forward(&packet)], vec![("slow_forwarded", 1)]), "{text}");
    }
}

#[test]
fn a_service_of_affinity_call_is_keyed_by_the_call_alone() {
    let key = forwarder_common::hash::keys(super::packets::HASH_KEY, b"call", 0, b"").0;
    for v6 in [V4, V6] {
        let mut world = World::new();
        world.peers(key);
        let packet = datagram(v6, 5080, &invite("call"));
        let got = world.after(|world| world.punt(Outcome::PuntedUnread, &frame(&packet, 0, 0)));
        assert_eq!(got, (vec![forward(&packet)], vec![("slow_forwarded", 1)]));
        let packet = sip(v6, &invite("call"));
        let got = world.after(|world| world.punt(Outcome::PuntedUnread, &frame(&packet, 0, 0)));
        assert_eq!(got, (vec![inject(&packet)], vec![("slow_local", 1)]));
    }
}

#[test]
fn what_has_no_key_is_local_under_its_name() {
    for (port, payload, outcome) in [
        (5060, &b""[..], "slow_not_sip"),
        (5060, b"\r\n\r\n", "slow_not_sip"),
        (5060, &[0x80; 172], "slow_not_sip"),
        (5060, b"GET / HTTP/1.1\r\n\r\n", "slow_not_sip"),
        (5061, &invite("call"), "slow_not_sip"),
        (5060, b"INVITE sip:b SIP/2.0\r\nCSeq: 7 INVITE\r\n\r\n", "slow_local"),
        (5060, b"INVITE sip:b SIP/2.0\r\nCall-ID: call\r\n\r\n", "slow_local"),
        (5060, b"INVITE sip:b SIP/2.0\r\nCall-ID: call\r\nCSeq: 4294967296 INVITE\r\n\r\n", "slow_local"),
    ] {
        for v6 in [V4, V6] {
            let packet = datagram(v6, port, payload);
            let mut world = World::new();
            world.peers(request_key("call"));
            let got = world.after(|world| world.punt(Outcome::PuntedUnread, &frame(&packet, 0, 0)));
            assert_eq!(got, (vec![inject(&packet)], vec![(outcome, 1)]));
        }
    }
}

#[test]
fn tags_and_padding_are_no_part_of_the_packet_and_the_record_may_be_longer_than_the_frame() {
    for v6 in [V4, V6] {
        for (tags, padding) in [(0, 0), (1, 0), (2, 7), (0, 60)] {
            let packet = sip(v6, &invite("call"));
            let mut bytes = frame(&packet, tags, padding);
            let head = Punt {
                ifindex: IFINDEX,
                length: bytes.len() as u32,
                reason: Outcome::PuntedUnread.number(),
                ..Punt::default()
            };
            bytes.resize(2048, 0x55);
            let mut world = World::new();
            let got = world.after(|world| world.path.handle_punt(head, &bytes, &world.table, world.now_us));
            assert_eq!(got, (vec![inject(&packet)], vec![("slow_local", 1)]), "{tags} tags");
        }
    }
}

#[test]
fn what_is_no_whole_packet_is_refused() {
    let packet = sip(V4, &invite("call"));
    let whole = frame(&packet, 0, 0);
    for bad in [&whole[..0], &whole[..13], &whole[..20], &whole[..whole.len() - 1], &[0xff; 80]] {
        let mut world = World::new();
        let got = world.after(|world| world.punt(Outcome::PuntedUnread, bad));
        assert_eq!(got, (vec![], vec![("slow_refused", 1)]));
        let got = world.after(|world| world.punt(Outcome::DecapPuntedFragment, bad));
        assert_eq!(got, (vec![], vec![("slow_refused", 1)]));
    }
    // What follows the frame in its record is no part of it.
    let head = Punt {
        ifindex: IFINDEX,
        length: whole.len() as u32 - 1,
        reason: Outcome::PuntedUnread.number(),
        ..Punt::default()
    };
    let mut world = World::new();
    let got = world.after(|world| world.path.handle_punt(head, &whole, &world.table, world.now_us));
    assert_eq!(got, (vec![], vec![("slow_refused", 1)]));
    let got = world.after(|world| world.path.handle_refused());
    assert_eq!(got, (vec![], vec![("slow_refused", 1)]));
}

#[test]
fn lengths_that_lie_pass_as_they_are() {
    for v6 in [V4, V6] {
        for length in [0_u16, 7, 5000] {
            let mut packet = sip(v6, &invite("call"));
            let at = if v6 { 44 } else { 24 };
            packet[at..at + 2].copy_from_slice(&length.to_be_bytes());
            let mut world = World::new();
            let got = world.after(|world| world.punt(Outcome::PuntedUnread, &frame(&packet, 0, 0)));
            assert_eq!(got, (vec![inject(&packet)], vec![("slow_not_sip", 1)]));
        }
    }
}

#[test]
fn what_came_through_the_tunnel_is_local_whatever_the_table_says() {
    for v6 in [V4, V6] {
        let mut world = World::new();
        world.peers(request_key("call"));
        let packet = sip(v6, &invite("call").repeat(20));
        let got = world.after(|world| world.tunnel(false, &packet));
        assert_eq!(got, (vec![inject(&packet)], vec![("slow_received", 1)]));
    }
}

#[test]
fn what_came_through_the_tunnel_for_no_service_is_refused() {
    let mut elsewhere = sip(V4, &invite("call"));
    elsewhere[19] ^= 1;
    let first = cut(&elsewhere, 1, &[64]).remove(0);
    let whole = sip(V4, &invite("call"));
    for (reassemble, packet) in [
        (false, &datagram(V4, 5061, b"to another port")[..]),
        (false, &elsewhere),
        (true, &first),
        // Marked as a fragment, and none.
        (true, &whole),
        (false, &[]),
        (false, &whole[..50]),
    ] {
        let mut world = World::new();
        let got = world.after(|world| world.tunnel(reassemble, packet));
        assert_eq!(got, (vec![], vec![("slow_refused", 1)]));
    }
}

#[test]
fn a_punted_tunnel_packet_is_unwrapped_and_its_fragment_reassembled() {
    for v6 in [V4, V6] {
        let whole = super::packets::with_id(&sip(v6, &invite("call")), 9);
        let parts = cut(&whole, 9, &[64]);
        let mut world = World::new();
        world.peers(request_key("call"));
        // A fragment from the tunnel stays here, whoever should reassemble it by now.
        world.table.reassembler = Some(id(PEER));
        let tunnelled = |part: &[u8]| frame(&tunnel(id(PEER), Kind::Reassemble, part), 0, 3);
        let got = world.after(|world| world.punt(Outcome::DecapPuntedFragment, &tunnelled(&parts[1])));
        assert_eq!(got, (vec![], vec![("slow_reassembling", 1)]));
        let got = world.after(|world| world.punt(Outcome::DecapPuntedFragment, &tunnelled(&parts[0])));
        let moved = vec![("slow_forwarded", 1), ("slow_reassembling", 1), ("slow_reassembled", 1)];
        assert_eq!(got, (vec![forward(&whole)], moved));
        assert!(world.table.slots_asked.borrow().is_empty());
    }
}

#[test]
fn a_punted_tunnel_packet_of_another_form_is_refused() {
    let part = cut(&sip(V4, &invite("call")), 9, &[64]).remove(0);
    let good = tunnel(id(PEER), Kind::Reassemble, &part);
    // Port, version, protocol inside, sender, kind, and the packet inside.
    for (at, to) in [(23, 0), (28, 0x44), (30, 0x86), (41, 0), (42, 4), (60, 0x65)] {
        let mut bad = good.clone();
        assert_ne!(bad[at], to);
        bad[at] = to;
        let mut world = World::new();
        let got = world.after(|world| world.punt(Outcome::DecapPuntedFragment, &frame(&bad, 0, 0)));
        assert_eq!(got, (vec![], vec![("slow_refused", 1)]), "byte {at}");
    }
}
