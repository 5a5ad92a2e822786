//! What a node does that takes no new transactions or has no daemon.

use forwarder_common::{abi, geneve::Kind};

use super::{
    ME, PEER,
    bench::{Bench, PASS, TX, V4, V6},
    families,
    frames::{Frame, Sip},
};

/// A node with a peer that takes what it does not.
fn with_successor(underlay: bool) -> Bench {
    let mut bench = Bench::new(ME, underlay);
    bench.peer(PEER, true);
    bench.successor(PEER);
    bench
}

#[test]
fn a_node_that_takes_no_new_transactions_sends_them_to_a_healthy_peer_and_keeps_its_own() {
    for (service, underlay) in families() {
        let mut bench = with_successor(underlay);
        bench.renew_lease();
        bench.divert(true);
        let new = Frame::to_vip(service, &Sip::invite("new").bytes());
        let sent = bench.expect_changed(&new, TX, &["diverted"]);
        bench.check_tunnel(&sent, &new, PEER);
        let mut successor = Bench::new(PEER, underlay);
        successor.peer(ME, true);
        successor.expect_changed(&Frame::raw(sent), PASS, &["decapsulated"]);

        bench.claim(ME, Sip::invite("mine").request_key());
        bench.expect(&Frame::to_vip(service, &Sip::invite("mine").bytes()), PASS, &["local_owner"]);
        // Only what begins a transaction is diverted; what nobody owns is a daemon's to ask for, here or at the peer.
        bench.expect_changed(&Frame::to_vip(service, &Sip::response(200, "INVITE", "x").bytes()), TX, &["relayed"]);
        bench.expect_changed(&Frame::to_vip(service, &Sip::request("ACK", "new").bytes()), TX, &["relayed"]);
        bench.successor(0);
        bench.expect(&new, PASS, &["local_new"]);
        bench.successor(PEER);
        bench.unresolved_peer(PEER);
        bench.expect(&new, PASS, &["local_new"]);
        bench.peer(PEER, true);
        bench.expect_changed(&new, TX, &["diverted"]);
        bench.peer(PEER, false);
        bench.expect(&new, PASS, &["local_alone"]);
        bench.peer(PEER, true);
        bench.divert(false);
        bench.expect(&new, PASS, &["local_new"]);
    }
}

#[test]
fn what_only_a_daemon_could_finish_is_relayed_to_a_peers_where_none_lives() {
    for (service, underlay) in families() {
        let mut bench = with_successor(underlay);
        bench.renew_lease();
        let mut helper = Bench::new(PEER, underlay);
        helper.peer(ME, true);
        for (message, punted) in [
            (Sip::response(200, "INVITE", "a").bytes(), "unknown_response"),
            (Sip::request("CANCEL", "a").bytes(), "unknown_cancel"),
            (Sip::request("ACK", "a").bytes(), "unknown_ack"),
            (b"OPTIONS sip:a SIP/2.0\r\nCSeq:\r\n 1 OPTIONS\r\n\r\n".to_vec(), "unread_incomplete"),
        ] {
            let frame = Frame::to_vip(service, &message);
            let sent = bench.expect_changed(&frame, TX, &["relayed"]);
            bench.check_tunnel_with(&sent, &frame, PEER, Kind::Relay);
            // There it looks as if it had come from the wire, to daemon and proxy alike.
            helper.daemon(true);
            let inner = helper.expect_punt_inside(&Frame::raw(sent.clone()), "decap_punted_relayed");
            assert_eq!(&inner[14..], frame.ip_packet(), "{punted}");
            helper.daemon(false);
            let got = helper.expect_changed(&Frame::raw(sent), PASS, &["decap_relayed"]);
            assert_eq!(&got[14..], frame.ip_packet(), "{punted}");
            // With its own daemon it is not sent, and with nobody to send it to it passes.
            bench.daemon(true);
            bench.expect_dropped(&frame);
            bench.daemon(false);
            bench.successor(0);
            bench.expect(&frame, PASS, &[punted]);
            bench.successor(PEER);
        }
        let fragment = Frame::to_vip(service, &Sip::invite("a").bytes()).fragment(0);
        let sent = bench.expect_changed(&fragment, TX, &["forwarded_fragment"]);
        helper.daemon(true);
        helper.expect_punt(&Frame::raw(sent), "decap_punted_fragment");
    }
}

#[test]
fn a_daemon_that_has_long_been_gone_is_no_reason_to_send_anything_to_a_peer() {
    let mut bench = with_successor(V4);
    let (new, reply) = (Sip::invite("new").bytes(), Sip::response(200, "INVITE", "a").bytes());
    let (new, reply) = (Frame::to_vip(V4, &new), Frame::to_vip(V4, &reply));
    bench.renew_lease();
    bench.expect(&new, PASS, &["local_new"]);
    bench.expect_changed(&reply, TX, &["relayed"]);
    // Of what is claimed here now, nobody hears.
    bench.end_lease(3_000);
    bench.expect_changed(&new, TX, &["diverted"]);
    bench.expect_changed(&reply, TX, &["relayed"]);
    // By now the peers may be gone as well.
    bench.end_lease(abi::LeaseWord::GRACE_NS / 1_000_000 + 3_000);
    bench.expect(&new, PASS, &["local_new"]);
    bench.expect(&reply, PASS, &["unknown_response"]);
    bench.expect(&Frame::to_vip(V4, &Sip::invite("a").bytes()).fragment(0), PASS, &["fragment"]);
    bench.divert(true);
    bench.expect(&new, PASS, &["local_new"]);
}

#[test]
fn a_daemon_that_has_stalled_is_given_nothing_and_a_peers_is() {
    let mut bench = with_successor(V4);
    let reply = Frame::to_vip(V4, &Sip::response(200, "INVITE", "a").bytes());
    let fragment = Frame::to_vip(V4, &Sip::invite("a").bytes()).fragment(0);
    bench.daemon(true);
    bench.expect_dropped(&reply);
    bench.end_lease(3_000);
    let sent = bench.expect_changed(&reply, TX, &["relayed"]);
    bench.check_tunnel_with(&sent, &reply, PEER, Kind::Relay);
    bench.expect_changed(&fragment, TX, &["forwarded_fragment"]);
    // By now the peers may be gone as well.
    bench.end_lease(abi::LeaseWord::GRACE_NS / 1_000_000 + 3_000);
    bench.expect(&reply, PASS, &["unknown_response"]);
    bench.expect(&fragment, PASS, &["fragment"]);
    // It can do no more for its peers either.
    let mut helper = Bench::new(PEER, V4);
    helper.peer(ME, true);
    helper.daemon(true);
    helper.expect_punt_inside(&Frame::raw(sent.clone()), "decap_punted_relayed");
    helper.end_lease(3_000);
    helper.expect_changed(&Frame::raw(sent), PASS, &["decap_relayed"]);
    bench.renew_lease();
    bench.expect_dropped(&reply);
    // Whoever closes what is closed already does no harm.
    bench.daemon(false);
    bench.daemon(false);
}

#[test]
fn what_a_peer_relays_is_never_sent_on_by_the_kernel() {
    let mut bench = with_successor(V4);
    bench.renew_lease();
    let sent = bench.expect_changed(&Frame::to_vip(V4, &Sip::response(200, "INVITE", "a").bytes()), TX, &["relayed"]);
    let mut helper = Bench::new(PEER, V4);
    helper.peer(ME, true);
    helper.successor(ME);
    helper.renew_lease();
    helper.claim(ME, Sip::invite("a").request_key());
    helper.expect_changed(&Frame::raw(sent), PASS, &["decap_relayed"]);
}

#[test]
fn while_the_secret_of_the_tag_is_replaced_claims_are_found_as_before() {
    let mut bench = Bench::new(ME, V4);
    bench.peer(PEER, true);
    let invite = Sip::invite("call").branch("z9hG4bK-b");
    bench.claim(PEER, invite.request_key());
    let frame = Frame::to_vip(V4, &invite.bytes());
    let sent = bench.expect_changed(&frame, TX, &["forwarded"]);
    bench.check_tunnel(&sent, &frame, PEER);
    bench.replace_tag();
    let sent = bench.expect_changed(&frame, TX, &["forwarded"]);
    bench.check_tunnel_of_other_tag(&sent, &frame, PEER);
    bench.send(&Frame::from_vip(V4, &Sip::response(200, "MESSAGE", "new").bytes()), "egress_claimed");
    assert_eq!(bench.events().iter().map(|event| event.key).collect::<Vec<_>>(), [Sip::invite("new").request_key()]);
}

#[test]
fn a_draining_node_makes_no_claims_longer_but_those_of_invites() {
    let mut bench = Bench::new(ME, V4);
    bench.drain(true);
    let message = Sip::request("MESSAGE", "message");
    bench.claim_for(ME, message.request_key(), 1);
    bench.send(&Frame::from_vip(V4, &Sip::response(200, "MESSAGE", "message").bytes()), "egress_owner");
    assert!(bench.remaining(message.request_key()) < bench.lifetimes().ended);
    let invite = Sip::invite("invite");
    bench.claim_for(ME, invite.request_key(), 1);
    bench.send(&Frame::from_vip(V4, &Sip::response(180, "INVITE", "invite").bytes()), "egress_owner");
    assert!(bench.remaining(invite.request_key()) + 1 >= bench.lifetimes().proceeding);
    bench.drain(false);
    bench.send(&Frame::from_vip(V4, &Sip::response(200, "MESSAGE", "message").bytes()), "egress_owner");
    assert!(bench.remaining(message.request_key()) + 1 >= bench.lifetimes().ended);
}

#[test]
fn fragments_behind_a_first_one_without_a_key_are_copied_to_the_daemon_and_no_others() {
    for v6 in [V4, V6] {
        let mut bench = Bench::new(ME, V4);
        let keyed = Frame::from_vip(v6, &Sip::invite("keyed").padded_to(1400));
        let keyless = Frame::from_vip(v6, &[b"INVITE sip:a SIP/2.0\r\nX: ".as_slice(), &[b'x'; 1400]].concat());
        bench.pinned(|bench| {
            bench.send(&keyless.clone().fragment(0), "egress_punted");
            bench.send(&keyless.clone().fragment(99), "egress_punted");
            assert_eq!(bench.punts().len(), 2);
            bench.send(&keyless.fragment(99).identified(77), "egress_fragment");
            bench.send(&keyed.clone().fragment(0).identified(78), "egress_claimed");
            bench.send(&keyed.fragment(99).identified(78), "egress_fragment");
            assert_eq!(bench.punts().len(), 0);
        });
    }
}
