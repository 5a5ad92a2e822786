//! Questions through the tunnel, which the programs answer, and the clocks that they teach.

use forwarder_common::{
    clock::Time,
    geneve::{self, Kind},
    ids::Epochs,
    net,
    question::{Answer, Held},
    rest::KeyKind,
};

use super::{
    ME, PEER,
    bench::{Bench, EPOCH, PASS, TX, V4, V6},
    families,
    frames::{Frame, Sip},
};

const LIVE: Epochs = Epochs::EMPTY.with(EPOCH);

#[test]
fn the_programs_answer_whether_their_node_owns_a_key_whoever_lives_beside_them() {
    let (request, reply, foreign) = (1 << 40 | 1, 1 << 41 | 2, 1 << 42 | 3);
    for underlay in [V4, V6] {
        let mut asker = Bench::new(PEER, underlay);
        asker.peer(ME, true);
        let mut bench = Bench::new(ME, underlay);
        bench.peer(PEER, true);
        bench.claim(ME, request);
        bench.claim(ME, reply);
        bench.claim(PEER, foreign);
        for (keys, kind) in [
            ((request, 0), Some(KeyKind::Request)),
            ((request, reply), Some(KeyKind::Reply)),
            ((request, foreign), Some(KeyKind::Request)),
            ((foreign, reply), Some(KeyKind::Reply)),
            ((foreign, 0), None),
            ((9, 8), None),
        ] {
            for lives in [false, true] {
                bench.daemon(lives);
                if lives {
                    bench.renew_lease();
                } else {
                    bench.end_lease(100);
                }
                let question = asker.question(ME, Kind::Ask, keys, 0x0102_0304);
                let sent = bench.expect_changed(&question, TX, &["decap_answered"]);
                let Answer { held, epochs, has_daemon } = bench.check_answer(&sent, &question, PEER);
                assert_eq!((held.map(|held| held.kind), epochs, has_daemon), (kind, LIVE, lives), "{keys:x?}");
                assert!(held.is_none_or(|Held { epoch, ticks, .. }| epoch == EPOCH && ticks > 0));
                // The asker's programs leave it to its daemon's socket.
                asker.expect(&Frame::raw(sent), PASS, &["decap_answer"]);
            }
        }
    }
}

#[test]
fn a_probe_is_answered_without_a_look_at_the_table() {
    for underlay in [V4, V6] {
        let mut asker = Bench::new(PEER, underlay);
        asker.peer(ME, true);
        let mut bench = Bench::new(ME, underlay);
        bench.peer(PEER, true);
        bench.claim(ME, 1 << 40);
        let question = asker.question(ME, Kind::Probe, (1 << 40, 0), 9);
        let sent = bench.expect_changed(&question, TX, &["decap_answered"]);
        assert_eq!(bench.check_answer(&sent, &question, PEER).held, None);
    }
}

#[test]
fn a_question_without_a_way_back_is_left_to_the_daemon_and_one_of_nobody_is_refused() {
    let asker = Bench::new(PEER, V4);
    let question = asker.question(ME, Kind::Ask, (1 << 40, 0), 9);
    let mut bench = Bench::new(ME, V4);
    bench.expect(&question, PASS, &["decap_unknown_peer"]);
    bench.unresolved_peer(PEER);
    bench.expect(&question, PASS, &["decap_asked"]);
}

#[test]
fn what_was_sent_long_ago_or_in_the_future_stays_in_the_tunnel_once_the_peers_clock_is_known() {
    for (underlay, service) in families() {
        let mut sender = Bench::new(PEER, underlay);
        sender.peer(ME, true);
        sender.claim(ME, Sip::invite("call").request_key());
        let frame = Frame::to_vip(service, &Sip::invite("call").bytes());
        let sent = sender.expect_changed(&frame, TX, &["forwarded"]);
        let at = geneve::receive(&sent.as_slice(), net::frame(&sent.as_slice()).unwrap().payload + net::UDP);
        let (sent_at, sent) = (at.unwrap().head.time, Frame::raw(sent));
        let mut bench = Bench::new(ME, underlay);
        // The bounds themselves are in the unit tests: here a second may pass between any two lines.
        for (later, moved) in [
            (0, "decapsulated"),
            (20 * Time::WINDOW, "decap_stale"),
            ((20 * Time::WINDOW).wrapping_neg(), "decap_stale"),
            (1 << 31, "decap_stale"),
        ] {
            bench.peer_with_clock(PEER, Time(sent_at.0.wrapping_add(later)));
            if moved == "decap_stale" {
                bench.expect(&sent, PASS, &[moved]);
                // A question is answered all the same: by it the clock is learned.
                let question = sender.question(ME, Kind::Probe, (0, 0), 9);
                bench.expect_changed(&question, TX, &["decap_answered"]);
            } else {
                bench.expect_changed(&sent, PASS, &[moved]);
            }
        }
        bench.peer(PEER, true);
        bench.expect_changed(&sent, PASS, &["decapsulated"]);
    }
}
