//! How much is sent to one peer, and of one transaction.

use forwarder_common::bound::{Costs, Rates};

use super::{
    ME, PEER,
    bench::{Bench, DROP, PASS, TX, V4, V6},
    families,
    frames::{Frame, Sip},
};

/// So much time of a bucket that nothing is left of it for the rest of the test.
const ALL: u32 = u32::MAX;

/// A node with two peers and a call of each of them.
fn with_peers(underlay: bool, costs: Costs) -> Bench {
    let mut bench = Bench::new(ME, underlay).with_costs(costs);
    bench.peer(PEER, true);
    bench.peer(3, true);
    for (node, call) in [(PEER, "a"), (PEER, "b"), (3, "c")] {
        bench.claim(node, Sip::invite(call).request_key());
        bench.claim(node, Sip::invite(call).reply_key());
    }
    bench
}

fn invite(v6: bool, call: &str) -> Frame {
    Frame::to_vip(v6, &Sip::invite(call).bytes())
}

#[test]
fn of_one_transaction_no_more_is_sent_than_its_bound_whatever_the_message() {
    for (service, underlay) in families() {
        let mut bench = with_peers(underlay, Costs { key_ns: ALL, ..Costs::default() });
        // Two cells, each of which one packet uses up.
        let reply = Frame::to_vip(service, &Sip::response(486, "INVITE", "a").bytes());
        bench.expect_changed(&invite(service, "a"), TX, &["forwarded"]);
        bench.expect_changed(&reply, TX, &["forwarded"]);
        for frame in [invite(service, "a"), reply, Frame::to_vip(service, &Sip::request("CANCEL", "a").bytes())] {
            bench.expect(&frame, PASS, &["local_over_key"]);
        }
        // Other transactions of the same owner, and others', are not concerned.
        bench.expect_changed(&invite(service, "b"), TX, &["forwarded"]);
        bench.expect_changed(&invite(service, "c"), TX, &["forwarded"]);
    }
}

#[test]
fn to_one_peer_no_more_is_sent_than_its_bound() {
    for (service, underlay) in families() {
        for costs in [Costs { packet_ns: ALL, ..Costs::default() }, Costs { byte: ALL, ..Costs::default() }] {
            let mut bench = with_peers(underlay, costs);
            bench.expect_changed(&invite(service, "a"), TX, &["forwarded"]);
            bench.expect(&invite(service, "a"), PASS, &["local_over_peer"]);
            bench.expect(&invite(service, "b"), PASS, &["local_over_peer"]);
            bench.expect_changed(&invite(service, "c"), TX, &["forwarded"]);
            bench.expect(&invite(service, "new"), PASS, &["local_new"]);
        }
    }
}

#[test]
fn a_bound_on_a_peer_lets_through_what_it_says() {
    let rates = Rates { packets: 1000, ..Rates::default() };
    let mut bench = with_peers(V4, Costs::new(&rates));
    let frames = (0..300).map(|number| {
        let call = format!("call-{number}");
        bench.claim(PEER, Sip::invite(&call).request_key());
        invite(V4, &call)
    });
    let frames: Vec<Frame> = frames.collect();
    // The claims take a while; this does not.
    let begin = std::time::Instant::now();
    let sent = bench.count_sent(frames.iter().cycle().take(2000));
    let most = 250 + 3 + begin.elapsed().as_millis() as usize + 11;
    assert!((250..=most).contains(&sent), "{sent} of {most}");
}

#[test]
fn what_is_diverted_is_bounded_too() {
    for costs in [Costs { key_ns: ALL, ..Costs::default() }, Costs { packet_ns: ALL, ..Costs::default() }] {
        let mut bench = Bench::new(ME, V4).with_costs(costs);
        bench.peer(PEER, true);
        bench.successor(PEER);
        bench.renew_lease();
        bench.divert(true);
        bench.expect_changed(&invite(V4, "new"), TX, &["diverted"]);
        if costs.key_ns == 0 {
            bench.expect(&invite(V4, "new"), PASS, &["local_over_peer"]);
            bench.expect(&invite(V4, "newer"), PASS, &["local_over_peer"]);
        } else {
            bench.expect_changed(&invite(V4, "new"), TX, &["diverted"]);
            bench.expect(&invite(V4, "new"), PASS, &["local_over_key"]);
            bench.expect_changed(&invite(V4, "newer"), TX, &["diverted"]);
        }
    }
}

#[test]
fn what_a_peers_daemon_must_finish_is_bounded_apart_from_the_rest() {
    for (service, underlay) in families() {
        let mut bench = with_peers(underlay, Costs { slow_ns: ALL, ..Costs::default() });
        bench.reassembler(PEER);
        let fragment = Frame::to_vip(service, &Sip::invite("a").padded_to(1200)).fragment(64);
        bench.expect_changed(&fragment, TX, &["forwarded_fragment"]);
        bench.expect(&fragment, DROP, &["fragment_over_peer"]);
        // Another identification and another source are no way around it.
        bench.expect(&fragment.clone().with_another_source(), DROP, &["fragment_over_peer"]);
        bench.expect_changed(&invite(service, "a"), TX, &["forwarded"]);

        let mut bench = with_peers(underlay, Costs { slow_ns: ALL, ..Costs::default() });
        bench.successor(PEER);
        bench.renew_lease();
        let unknown = Frame::to_vip(service, &Sip::response(200, "INVITE", "x").bytes());
        bench.expect_changed(&unknown, TX, &["relayed"]);
        bench.expect(&unknown, PASS, &["local_over_peer"]);
        bench.expect_changed(&invite(service, "a"), TX, &["forwarded"]);
    }
}

#[test]
fn without_a_bound_all_is_sent() {
    let mut bench = with_peers(V6, Costs::new(&Rates::default()));
    assert_eq!(bench.count_sent([&invite(V6, "a"); 5000]), 5000);
}

#[test]
fn by_default_no_transaction_that_is_repeated_as_sip_does_meets_a_bound() {
    let mut bench = with_peers(V4, Costs::new(&Rates::USUAL));
    for number in 0..300 {
        let call = format!("call-{number}");
        bench.claim(PEER, Sip::invite(&call).request_key());
        // An INVITE is sent seven times within 32 s, a reply eleven times (RFC 3261 §17.1.1.2, §17.2.1); here at once.
        assert_eq!(bench.count_sent([&invite(V4, &call); 11]), 11, "{number}");
    }
}
