//! Golden packets: frames through the loaded programs by `BPF_PROG_TEST_RUN`. Needs root.
//!
//! Each test says which outcomes moved; any other movement fails.

#[path = "golden/bounds.rs"]
mod bounds;
#[path = "golden/egress.rs"]
mod egress;
#[path = "golden/lease.rs"]
mod lease;
#[path = "golden/messages.rs"]
mod messages;
#[path = "golden/questions.rs"]
mod questions;

use bench::{Bench, PASS, TX, V4, V6};
use forwarder_common::{
    abi,
    clock::Time,
    geneve::{self, Head},
    ids::Epoch,
    sip::Kind,
};
use frames::{Frame, Sip};
use test_support::programs::{ME, PEER, bench, frames, leaving};

/// Both families of the service, and of the underlay.
fn families() -> impl Iterator<Item = (bool, bool)> {
    [(V4, V4), (V4, V6), (V6, V4), (V6, V6)].into_iter()
}

#[test]
fn a_request_that_nobody_owns_is_local() {
    let mut bench = Bench::new(ME, V4);
    bench.expect(&Frame::to_vip(V4, &Sip::invite("a").bytes()), PASS, &["local_alone"]);
    bench.peer(PEER, true);
    bench.expect(&Frame::to_vip(V4, &Sip::invite("a").bytes()), PASS, &["local_new"]);
    bench.expect(&Frame::to_vip(V6, &Sip::invite("a").bytes()), PASS, &["local_new"]);
    bench.expect(&Frame::to_vip(V4, &Sip::request("ACK", "a").bytes()), PASS, &["unknown_ack"]);
    bench.expect(&Frame::to_vip(V4, &Sip::request("CANCEL", "a").bytes()), PASS, &["unknown_cancel"]);
    bench.expect(&Frame::to_vip(V4, &Sip::response(200, "INVITE", "a").bytes()), PASS, &["unknown_response"]);
}

#[test]
fn a_message_of_a_peers_transaction_is_sent_to_it_whatever_its_kind() {
    for (service, underlay) in families() {
        let mut bench = Bench::new(ME, underlay);
        bench.peer(PEER, true);
        bench.claim(PEER, Sip::invite("call").request_key());
        bench.claim(PEER, Sip::invite("call").reply_key());
        for message in [
            Sip::invite("call"),
            Sip::invite("call").branch("z9hG4bK-another"),
            Sip::request("ACK", "call"),
            Sip::request("CANCEL", "call"),
            Sip::response(486, "INVITE", "call"),
        ] {
            let frame = Frame::to_vip(service, &message.bytes());
            let sent = bench.expect_changed(&frame, TX, &["forwarded"]);
            bench.check_tunnel(&sent, &frame, PEER);
        }
        bench.expect(&Frame::to_vip(service, &Sip::invite("call").cseq(2).bytes()), PASS, &["local_new"]);
        bench.expect(&Frame::to_vip(service, &Sip::invite("Call").bytes()), PASS, &["local_new"]);
    }
}

#[test]
fn decapsulation_gives_back_the_packet_that_was_encapsulated() {
    for (service, underlay) in families() {
        for tags in 0..=2 {
            let mut sender = Bench::new(ME, underlay);
            sender.peer(PEER, true);
            sender.claim(PEER, Sip::invite("call").request_key());
            let mut owner = Bench::new(PEER, underlay);
            owner.peer(ME, true);
            let frame = Frame::to_vip(service, &Sip::invite("call").bytes()).tagged(tags);
            let sent = sender.expect_changed(&frame, TX, &["forwarded"]);
            let got = owner.expect_changed(&Frame::raw(sent), PASS, &["decapsulated"]);
            assert_eq!(&got[14..], frame.ip_packet(), "service v6 {service}, underlay v6 {underlay}, {tags} tags");
            assert_eq!(got[12..14], if service { [0x86, 0xdd] } else { [8, 0] });
        }
    }
}

#[test]
fn tags_before_a_tunnel_packet_stay_before_the_packet_inside() {
    for tags in 0..=2 {
        let mut sender = Bench::new(ME, V4);
        sender.peer(PEER, true);
        sender.claim(PEER, Sip::invite("call").request_key());
        let inner = Frame::to_vip(V4, &Sip::invite("call").bytes());
        let sent = Frame::raw(sender.expect_changed(&inner, TX, &["forwarded"])).tagged(tags);
        let mut owner = Bench::new(PEER, V4);
        owner.peer(ME, true);
        let got = owner.expect_changed(&sent, PASS, &["decapsulated"]);
        let l2 = 14 + 4 * tags;
        assert_eq!(got[..l2], sent.bytes()[..l2]);
        assert_eq!(&got[l2..], inner.ip_packet());
    }
}

#[test]
fn an_ethernet_padding_is_not_part_of_the_packet() {
    let mut bench = Bench::new(ME, V4);
    bench.peer(PEER, true);
    bench.claim(PEER, Sip::invite("call").request_key());
    let frame = Frame::to_vip(V4, &Sip::invite("call").bytes()).padded(10);
    let sent = bench.expect_changed(&frame, TX, &["forwarded"]);
    bench.check_tunnel(&sent, &frame, PEER);
}

#[test]
fn replies_are_told_apart_by_the_branch_that_their_owner_put_into_via() {
    let mut bench = Bench::new(ME, V4);
    bench.peer(PEER, true);
    bench.peer(3, true);
    // One call crosses the edge twice: the first leg is node 2's, the second node 3's.
    bench.claim(PEER, Sip::invite("call").request_key());
    bench.claim(3, Sip::invite("call").branch("z9hG4bK-leg2").reply_key());
    let second = Frame::to_vip(V4, &Sip::response(180, "INVITE", "call").branch("z9hG4bK-leg2").bytes());
    let sent = bench.expect_changed(&second, TX, &["forwarded"]);
    bench.check_tunnel(&sent, &second, 3);
    let first = Frame::to_vip(V4, &Sip::response(180, "INVITE", "call").branch("z9hG4bK-leg1").bytes());
    bench.claim(PEER, Sip::invite("call").branch("z9hG4bK-leg1").reply_key());
    let sent = bench.expect_changed(&first, TX, &["forwarded"]);
    bench.check_tunnel(&sent, &first, PEER);
}

#[test]
fn a_reply_under_a_branch_that_nobody_has_claimed_yet_is_asked_for() {
    for owner in [ME, PEER] {
        let mut bench = Bench::new(ME, V4);
        bench.peer(PEER, true);
        bench.claim(owner, Sip::invite("call").request_key());
        let reply = Frame::to_vip(V4, &Sip::response(180, "INVITE", "call").branch("z9hG4bK-leg2").bytes());
        bench.daemon(true);
        bench.expect_punt(&reply, "punted_unknown_branch");
        // With no daemon anywhere the transaction's owner has to do.
        bench.daemon(false);
        bench.end_lease(abi::LeaseWord::GRACE_NS / 1_000_000 + 3_000);
        if owner == PEER {
            let sent = bench.expect_changed(&reply, TX, &["forwarded"]);
            bench.check_tunnel(&sent, &reply, PEER);
        } else {
            bench.expect(&reply, PASS, &["unknown_branch"]);
        }
        bench.successor(PEER);
        bench.renew_lease();
        bench.expect_changed(&reply, TX, &["relayed"]);
    }
}

#[test]
fn only_a_live_claim_of_a_live_peer_in_the_same_epoch_counts() {
    let mut bench = Bench::new(ME, V4);
    bench.peer(PEER, true);
    bench.peer(3, true);
    let key = Sip::invite("call").request_key();
    let frame = Frame::to_vip(V4, &Sip::invite("call").bytes());
    bench.claim(PEER, key);
    bench.expect_changed(&frame, TX, &["forwarded"]);
    bench.peer(PEER, false);
    bench.expect(&frame, PASS, &["local_new"]);
    bench.peer_in(PEER, true, Epoch::new(9));
    bench.expect(&frame, PASS, &["local_new"]);
    bench.peer(PEER, true);
    bench.expect_changed(&frame, TX, &["forwarded"]);
    bench.claim_in(ME, key, Epoch::new(9));
    bench.expect(&frame, PASS, &["local_new"]);
    bench.claim(ME, key);
    bench.expect(&frame, PASS, &["local_owner"]);
}

#[test]
fn what_does_not_fit_or_has_no_next_hop_passes() {
    let mut bench = Bench::new(ME, V4);
    let key = Sip::invite("call").request_key();
    bench.unresolved_peer(PEER);
    bench.claim(PEER, key);
    bench.expect(&Frame::to_vip(V4, &Sip::invite("call").bytes()), PASS, &["unresolved"]);
    bench.peer(PEER, true);
    // 1500 of MTU less 60 of tunnel, 28 of IP and UDP headers.
    let message = Sip::invite("call");
    let fits = message.padded_to(1500 - 60 - 28);
    bench.expect_changed(&Frame::to_vip(V4, &fits), TX, &["forwarded"]);
    bench.expect(&Frame::to_vip(V4, &message.padded_to(1500 - 60 - 27)), PASS, &["too_big"]);
}

#[test]
fn what_is_a_peers_that_lacks_the_service_is_served_where_it_landed() {
    let mut bench = Bench::new(ME, V4);
    bench.claim(PEER, Sip::invite("call").request_key());
    let (known, new) = (Sip::invite("call").bytes(), Sip::invite("new").bytes());
    bench.renew_lease();
    bench.divert(true);
    bench.successor(PEER);
    for (index, v6) in [(0, V4), (1, V6)] {
        bench.peer_serving(PEER, &[1 - index]);
        bench.expect(&Frame::to_vip(v6, &known), PASS, &["local_unserved"]);
        bench.expect(&Frame::to_vip(v6, &new), PASS, &["local_new"]);
        bench.peer_serving(PEER, &[index, 255 - index]);
        bench.expect_changed(&Frame::to_vip(v6, &known), TX, &["forwarded"]);
        bench.expect_changed(&Frame::to_vip(v6, &new), TX, &["diverted"]);
    }
}

#[test]
fn what_is_not_for_a_service_is_untouched() {
    let mut bench = Bench::new(ME, V4);
    bench.peer(PEER, true);
    bench.claim(PEER, Sip::invite("call").request_key());
    let sip = Sip::invite("call").bytes();
    for v6 in [V4, V6] {
        bench.expect(&Frame::udp(v6, 40_000, 16_384, &[0x80; 172]), PASS, &["not_service"]);
        bench.expect(&Frame::udp(v6, 5060, 5061, &sip), PASS, &["not_service"]);
        bench.expect(&Frame::to_vip(v6, &sip).with_another_destination(), PASS, &["not_service"]);
        bench.expect(&Frame::to_vip(v6, &sip).protocol(6), PASS, &["not_service"]);
        bench.expect(
            &Frame::udp(v6, 5060, 6081, b"somebody else's Geneve, not to the underlay"),
            PASS,
            &["not_service"],
        );
    }
    bench.expect(&Frame::raw(vec![0xff; 14]), PASS, &["not_service"]);
    bench.expect(&Frame::raw([[0xff; 12].as_slice(), &[8, 6], &[0; 28]].concat()), PASS, &["not_service"]);
}

#[test]
fn what_is_no_sip_on_the_port_passes_under_its_name() {
    let mut bench = Bench::new(ME, V4);
    bench.peer(PEER, true);
    let stun = [&[0, 1, 0, 8, 0x21, 0x12, 0xa4, 0x42][..], &[7; 20]].concat();
    for (payload, outcome) in [
        (&b""[..], "keep_alive"),
        (b"\r\n", "keep_alive"),
        (b"\r\n\r\n", "keep_alive"),
        (b"\0\0\0\0", "keep_alive"),
        (&stun, "not_sip"),
        (&[0x80; 172], "not_sip"),
        (b"SIP/2.0 20\r\n\r\n", "not_sip"),
        (b"hello", "not_sip"),
        (b"0", "not_sip"),
        (b"jaK\0", "not_sip"),
        (b"keepalive\r\n", "not_sip"),
        (b"\r\nhello", "keep_alive"),
        (&[0; 64], "keep_alive"),
        (&b"\r\n".repeat(20), "keep_alive"),
        (&[0; 65], "unread_form"),
        (b"A SIP/2.0\ncall:x\nh:1", "unread_incomplete"),
        (b"OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/UDP h\r\n\r\n", "unread_incomplete"),
        (b"GET / HTTP/1.1\r\nVia: a\r\nCall-ID: b\r\nCSeq: 1 GET\r\n\r\n", "unread_form"),
        (b"OPTIONS sip:a SIP/2.0\r\nVia: x\r\nCall-ID:\r\n b\r\nCSeq: 1 OPTIONS\r\n\r\n", "unread_form"),
    ] {
        for v6 in [V4, V6] {
            bench.expect(&Frame::to_vip(v6, payload), PASS, &[outcome]);
        }
    }
    let long = [b"OPTIONS sip:a SIP/2.0\r\n".as_slice(), "X: 12345678901234567890\r\n".repeat(100).as_bytes()].concat();
    bench.expect(&Frame::to_vip(V4, &long), PASS, &["unread_bounds"]);
}

#[test]
fn lengths_that_lie_fragments_and_extension_headers_pass() {
    let mut bench = Bench::new(ME, V4);
    bench.peer(PEER, true);
    bench.claim(PEER, Sip::invite("call").request_key());
    let sip = Sip::invite("call").bytes();
    for v6 in [V4, V6] {
        let frame = Frame::to_vip(v6, &sip);
        bench.expect(&frame.clone().udp_length(7), PASS, &["malformed"]);
        bench.expect(&frame.clone().udp_length(frame.bytes().len() as u16), PASS, &["malformed"]);
        bench.expect(&frame.clone().cut(20), PASS, &["malformed"]);
        bench.expect(&frame.clone().fragment(0), PASS, &["fragment"]);
    }
    bench.expect(&Frame::to_vip(V6, &sip).protocol(60), PASS, &["extension_header"]);
    // A fragment that is not there as far as it says would make the tunnel's lengths lie.
    bench.reassembler(PEER);
    for v6 in [V4, V6] {
        let fragment = Frame::to_vip(v6, &sip).fragment(0);
        bench.expect_changed(&fragment, TX, &["forwarded_fragment"]);
        bench.expect(&fragment.cut(1), PASS, &["malformed"]);
    }
    // A message that goes on behind the datagram's end is cut off, whatever follows.
    bench.expect(&Frame::to_vip(V4, &sip).udp_length(8 + 60), PASS, &["unread_incomplete"]);
}

#[test]
fn what_is_behind_extension_headers_is_the_daemons_to_read_and_comes_out_of_the_tunnel_as_it_is() {
    let sip = Sip::invite("a").bytes();
    for header in [0, 43, 60, 51, 135] {
        let mut bench = Bench::new(ME, V4);
        let frame = Frame::to_vip(V6, &sip).behind(header);
        bench.expect(&frame, PASS, &["local_alone"]);
        bench.peer(PEER, true);
        bench.expect(&frame, PASS, &["extension_header"]);
        bench.daemon(true);
        bench.expect_punt(&frame, "punted_extension_header");
    }
    let (mut sender, mut owner) = (Bench::new(PEER, V4), Bench::new(ME, V4));
    sender.peer(ME, true);
    owner.peer(PEER, true);
    for (v6, header) in [(V6, 60), (V6, 51), (V4, 51)] {
        let inside = Frame::to_vip(v6, &sip).behind(header);
        let sent = sender.tunnelled(ME, Head::new(PEER, geneve::Kind::Data, 0, Time(7)), &inside.bytes()[14..]);
        let out = owner.expect_changed(&sent, PASS, &["decapsulated"]);
        assert!(out.ends_with(&inside.bytes()[14..]), "{header}");
    }
}

#[test]
fn a_tunnel_packet_that_is_not_a_peers_is_left_alone_and_counted() {
    for underlay in [V4, V6] {
        let mut sender = Bench::new(PEER, underlay);
        sender.peer(ME, true);
        sender.claim(ME, Sip::invite("call").request_key());
        let good = sender.expect_changed(&Frame::to_vip(V4, &Sip::invite("call").bytes()), TX, &["forwarded"]);
        let mut bench = Bench::new(ME, underlay);
        let ip = if underlay { 40 } else { 20 };
        let geneve = 14 + ip + 8;
        bench.expect(&Frame::raw(good.clone()), PASS, &["decap_unknown_peer"]);
        bench.peer(PEER, true);
        let changed = |at: usize, to: u8| {
            let mut bytes = good.clone();
            assert_ne!(bytes[at], to);
            bytes[at] = to;
            Frame::raw(bytes)
        };
        bench.expect(&changed(geneve + 1, 0), PASS, &["decap_malformed"]);
        bench.expect(&changed(geneve + 4, 0xee), PASS, &["decap_malformed"]); // network identifier
        bench.expect(&changed(geneve + 13, 9), PASS, &["decap_unknown_peer"]); // sender
        bench.expect(&changed(geneve + 10, 0x81), PASS, &["decap_malformed"]); // an earlier version's option
        for (kind, moved) in [(1, "decap_bad_tag"), (4, "decap_bad_tag"), (6, "decap_bad_tag"), (7, "decap_malformed")]
        {
            bench.expect(&changed(geneve + 14, kind), PASS, &[moved]);
        }
        // Time, argument and tag.
        for at in [16, 20, 24] {
            bench.expect(&changed(geneve + at, good[geneve + at] ^ 1), PASS, &["decap_bad_tag"]);
        }
        let inner = geneve + 32;
        bench.expect(&changed(inner + 12, 0xcc), PASS, &["decap_bad_tag"]); // inner source address
        bench.expect(&changed(14 + ip - 1, 77), PASS, &["not_service"]); // outer destination
        bench.expect(&Frame::raw(good[..geneve + 28].to_vec()), PASS, &["decap_malformed"]);
        bench.expect_changed(&Frame::raw(good), PASS, &["decapsulated"]);
    }
}

#[test]
fn what_comes_out_of_the_tunnel_must_be_for_a_service() {
    let mut sender = Bench::with_services(PEER, V4, &[(V4, 5060), (V4, 5080)]);
    sender.peer(ME, true);
    sender.claim(ME, Sip::invite("call").request_key());
    let frame = Frame::udp(V4, 5060, 5080, &Sip::invite("call").bytes());
    let sent = sender.expect_changed(&frame, TX, &["forwarded"]);
    let mut bench = Bench::new(ME, V4);
    bench.peer(PEER, true);
    bench.expect(&Frame::raw(sent), PASS, &["decap_not_service"]);
}

#[test]
fn with_a_daemon_that_lives_what_cannot_be_finished_is_punted() {
    for v6 in [V4, V6] {
        let mut bench = Bench::new(ME, V4);
        bench.peer(PEER, true);
        bench.daemon(true);
        bench.expect_punt(&Frame::to_vip(v6, &Sip::response(200, "INVITE", "a").bytes()), "punted_unknown_response");
        bench.expect_punt(&Frame::to_vip(v6, &Sip::request("CANCEL", "a").bytes()), "punted_unknown_cancel");
        bench.expect_punt(&Frame::to_vip(v6, &Sip::request("ACK", "a").bytes()), "punted_unknown_ack");
        bench.expect_punt(&Frame::to_vip(v6, b"OPTIONS sip:a SIP/2.0\r\nCSeq:\r\n 1 OPTIONS\r\n\r\n"), "punted_unread");
        bench.expect_punt(&Frame::to_vip(v6, &Sip::invite("a").bytes()).fragment(0), "punted_fragment");
        bench.expect_punt(&Frame::to_vip(v6, &Sip::invite("a").bytes()).behind(51), "punted_extension_header");
        bench.expect(&Frame::to_vip(v6, &Sip::invite("a").bytes()), PASS, &["local_new"]);
        bench.claim(PEER, Sip::invite("big").request_key());
        bench.expect_punt(&Frame::to_vip(v6, &Sip::invite("big").padded_to(1452)), "punted_too_big");
        bench.expect_punt(&Frame::to_vip(v6, &Sip::invite("big").padded_to(2100)), "punted_too_big");
        bench.unresolved_peer(PEER);
        bench.expect_punt(&Frame::to_vip(v6, &Sip::invite("big").bytes()), "punted_unresolved");
        bench.daemon(false);
        bench.expect(&Frame::to_vip(v6, &Sip::response(200, "INVITE", "a").bytes()), PASS, &["unknown_response"]);
        bench.expect(&Frame::to_vip(v6, &Sip::invite("big").bytes()), PASS, &["unresolved"]);
    }
}

#[test]
fn alone_a_node_hands_nothing_over() {
    let mut bench = Bench::new(ME, V4);
    bench.daemon(true);
    for v6 in [V4, V6] {
        bench.expect(&Frame::to_vip(v6, &Sip::response(200, "INVITE", "a").bytes()), PASS, &["local_alone"]);
        bench.expect(&Frame::to_vip(v6, b"OPTIONS sip:a SIP/2.0\r\nCSeq:\r\n 1 A\r\n\r\n"), PASS, &["local_alone"]);
        bench.expect(&Frame::to_vip(v6, &Sip::invite("a").bytes()).fragment(0), PASS, &["local_alone"]);
    }
    assert!(bench.punts().is_empty());
}

#[test]
fn fragments_go_to_the_node_that_reassembles_them_and_there_to_the_daemon() {
    for (service, underlay) in families() {
        let mut sender = Bench::new(ME, underlay);
        sender.peer(PEER, true);
        sender.daemon(true);
        sender.reassembler(PEER);
        let mut reassembler = Bench::new(PEER, underlay);
        reassembler.peer(ME, true);
        reassembler.daemon(true);
        for offset in [0, 99] {
            let frame = Frame::to_vip(service, &Sip::invite("call").padded_to(1200)).fragment(offset);
            let sent = Frame::raw(sender.expect_changed(&frame, TX, &["forwarded_fragment"]));
            reassembler.expect_punt(&sent, "decap_punted_fragment");
            reassembler.daemon(false);
            reassembler.expect(&sent, PASS, &["decap_fragment"]);
            reassembler.daemon(true);
        }
        sender.reassembler(ME);
        sender.expect_punt(&Frame::to_vip(service, &Sip::invite("a").bytes()).fragment(0), "punted_fragment");
        // Too big for the tunnel: the daemon has a socket for it.
        sender.reassembler(PEER);
        sender.expect_punt(&Frame::to_vip(service, &Sip::invite("a").padded_to(1440)).fragment(0), "punted_fragment");
    }
}

#[test]
fn a_flood_for_the_daemon_passes_beyond_its_share() {
    let mut bench = Bench::new(ME, V4);
    bench.peer(PEER, true);
    bench.daemon(true);
    let reply = Frame::to_vip(V4, &Sip::response(200, "INVITE", "a").bytes());
    let (handed, passed) = bench.flood(&reply, 20_000);
    assert!(handed >= 1000 && passed > 0, "{handed} handed over, {passed} passed");
    // Fragments have a share of their own; beyond it they are dropped.
    bench.punts();
    let fragment = Frame::to_vip(V4, &Sip::invite("a").bytes()).fragment(0);
    bench.expect_punt(&fragment, "punted_fragment");
    assert_eq!(bench.flood(&fragment, 5_000).1, 0, "a fragment passed");
}

#[test]
fn affinity_call_has_one_key_for_all_requests_of_a_call() {
    let mut bench = Bench::new(ME, V4).with_affinity_call();
    bench.peer(PEER, true);
    bench.claim(PEER, Sip::invite("call").call_key());
    for message in [Sip::invite("call"), Sip::request("BYE", "call").cseq(7), Sip::response(200, "BYE", "call").cseq(9)]
    {
        bench.expect_changed(&Frame::to_vip(V4, &message.bytes()), TX, &["forwarded"]);
    }
    bench.send(&Frame::from_vip(V4, &Sip::invite("mine").cseq(3).bytes()), "egress_claimed");
    assert_eq!(bench.owner(Sip::invite("mine").call_key()), ME);
}

#[test]
fn the_kinds_of_messages_are_those_of_the_full_reader() {
    for (method, kind) in [("INVITE", Kind::Request), ("ACK", Kind::Ack), ("CANCEL", Kind::Cancel)] {
        let bytes = Sip::request(method, "call").bytes();
        assert_eq!(forwarder_common::sip::full::read(&bytes).unwrap().kind, kind);
    }
}
