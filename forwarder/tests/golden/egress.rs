//! What the host sends: what it claims, and what the daemon gets a copy of.

use forwarder::dataplane::OwnClaim;
use forwarder_common::{
    abi::{ClaimEvent, EVENT_KEPT, EVENT_NEW, Lifetimes},
    ids::{Epoch, Epochs},
    lifetime::Sign,
    outcome::Outcome,
    rest::{Class, KeyKind, Stage},
    sip::Kind,
};

use super::{
    ME, PEER,
    bench::{Bench, CALL_TICKS, EPOCH, PASS, TX, V4, V6},
    frames::{Frame, Sip},
};

#[test]
fn the_first_message_that_the_proxy_sends_claims_both_keys() {
    for v6 in [V4, V6] {
        let mut bench = Bench::new(ME, V4);
        let invite = Sip::invite("call");
        bench.send(&Frame::from_vip(v6, &invite.bytes()), "egress_claimed");
        let claims = bench.events();
        assert_eq!(claims.iter().map(|c| c.key).collect::<Vec<_>>(), [invite.request_key(), invite.reply_key()]);
        assert!(bench.owner(invite.request_key()) == ME && bench.owner(invite.reply_key()) == ME);
        bench.send(&Frame::from_vip(v6, &invite.bytes()), "egress_owner");
        assert!(bench.events().is_empty(), "a retransmission says nothing new");
        bench.expect(&Frame::to_vip(v6, &Sip::response(180, "INVITE", "call").bytes()), PASS, &["local_owner"]);
    }
}

#[test]
fn a_reply_claims_the_request_key_and_its_status_sets_the_lifetime() {
    let mut bench = Bench::new(ME, V4);
    let Lifetimes { proceeding, failed, ended, .. } = bench.lifetimes();
    let replies = [(100, "INVITE", proceeding), (486, "INVITE", failed), (200, "INVITE", ended), (200, "BYE", ended)];
    for (status, method, ticks) in replies {
        let call = format!("{status} {method}").replace(' ', "-");
        let reply = Sip::response(status, method, &call);
        bench.send(&Frame::from_vip(V4, &reply.bytes()), "egress_claimed");
        let remaining = bench.remaining(reply.request_key());
        assert!(remaining == ticks || remaining == ticks - 1, "{call}: {remaining} of {ticks}");
    }
    assert_eq!(bench.events().len(), replies.len());
}

#[test]
fn no_message_makes_a_claim_shorter_and_the_daemon_hears_of_those_that_may_end_it() {
    let mut bench = Bench::new(ME, V4);
    let invite = Sip::invite("call");
    let (key, branch) = (invite.request_key(), invite.reply_key());
    let other = Sip::invite("call").branch("z9hG4bK-other").reply_key();
    let proceeding = bench.lifetimes().proceeding;
    let reply = |status| Sip::response(status, "INVITE", "call");
    let of_other = |status| reply(status).branch("z9hG4bK-other");
    let (new, kept) = (EVENT_NEW, EVENT_KEPT);
    let [invites, provisional, last, ack] =
        [Sign::Invite, Sign::Provisional, Sign::Final, Sign::Ack].map(|sign| sign.code() as u8);
    let told = |bench: &mut Bench| -> Vec<_> {
        bench.events().into_iter().map(|event| (event.key, event.other, event.flags, event.sign)).collect()
    };
    // Two branches of one INVITE come to this node; one of them is refused while the other rings.
    for (sip, outcome, expected) in [
        (reply(100), "egress_claimed", Some((key, branch, new, provisional))),
        (of_other(100), "egress_owner", Some((key, other, kept, provisional))),
        (reply(180), "egress_owner", Some((key, branch, kept, provisional))),
        (of_other(486), "egress_owner", Some((key, other, kept, last))),
        (Sip::request("ACK", "call"), "egress_no_claim", Some((key, branch, kept, ack))),
        (Sip::request("CANCEL", "call"), "egress_no_claim", None),
        (reply(200), "egress_owner", Some((key, branch, kept, last))),
    ] {
        bench.send(&Frame::from_vip(V4, &sip.bytes()), outcome);
        assert_eq!(told(&mut bench), Vec::from_iter(expected));
        assert!(bench.remaining(key) + 1 >= proceeding);
    }
    // The daemon says that all of it has ended. Then nothing more of it is worth a word, and it may begin anew.
    bench.set_end(key, EPOCH, 300_000, 30_000);
    assert!((7..=9).contains(&bench.remaining(key)), "{}", bench.remaining(key));
    for (sip, outcome, expected) in [
        (of_other(486), "egress_owner", Some((key, other, 0, last))),
        (of_other(486), "egress_owner", None),
        (Sip::request("ACK", "call"), "egress_no_claim", None),
        (reply(200), "egress_owner", Some((key, branch, kept, last))),
        (reply(183), "egress_owner", Some((key, branch, 0, provisional))),
    ] {
        bench.send(&Frame::from_vip(V4, &sip.bytes()), outcome);
        assert_eq!(told(&mut bench), Vec::from_iter(expected));
    }
    assert!(bench.remaining(key) + 1 >= proceeding);
    bench.send(&Frame::from_vip(V4, &Sip::invite("next").bytes()), "egress_claimed");
    let next = Sip::invite("next");
    let keys = [next.request_key(), next.reply_key()];
    let expected = [(keys[0], 0, new, invites), (keys[1], keys[0], new, invites)];
    assert_eq!(told(&mut bench), expected, "the reply key names the request's");
}

#[test]
fn beside_the_claim_of_a_request_key_stands_how_far_its_transaction_has_come() {
    use Stage::{Answered, AnsweredAgain, Begun, Waits};
    let (reply, request) =
        (|status, method| Sip::response(status, method, "call"), |method| Sip::request(method, "call"));
    let invite = [
        (Sip::invite("call"), Begun, Waits),
        (reply(100, "INVITE"), Waits, Waits),
        (reply(486, "INVITE"), Answered, Answered),
        (reply(486, "INVITE"), AnsweredAgain, AnsweredAgain),
        (request("ACK"), Answered, Answered),
        (reply(180, "INVITE"), Waits, Waits),
        (request("CANCEL"), Waits, Waits),
        (request("ACK"), Answered, Answered),
    ];
    let message = [
        (request("MESSAGE"), Begun, Begun),
        (request("MESSAGE"), Begun, Begun),
        (reply(100, "MESSAGE"), Waits, Begun),
        (reply(200, "MESSAGE"), Answered, Begun),
        (reply(200, "MESSAGE"), AnsweredAgain, Begun),
    ];
    let at_once = [(reply(401, "REGISTER"), Answered, Begun)];
    for steps in [&invite[..], &message[..], &at_once[..]] {
        for is_call in [false, true] {
            let bench = Bench::new(ME, V4);
            let mut bench = if is_call { bench.with_affinity_call() } else { bench };
            for (sip, expected, of_call) in steps {
                bench.sent(&Frame::from_vip(V4, &sip.bytes()));
                let own = bench.own_claims();
                let request = |claim: &&OwnClaim| claim.rest.kind().is_some_and(|kind| kind != KeyKind::Reply);
                let [stage] = own.values().filter(request).map(|claim| claim.rest.stage()).collect::<Vec<_>>()[..]
                else {
                    panic!("{own:?}")
                };
                let expected = if is_call { of_call } else { expected };
                assert_eq!(stage, *expected, "{} with {is_call}", sip.bytes().escape_ascii());
            }
        }
    }
    // A claim of another node that counts is left alone, and so is the word that lies beside it.
    let mut bench = Bench::new(ME, V4);
    bench.peer(PEER, true);
    bench.send(&Frame::from_vip(V4, &reply(100, "INVITE").bytes()), "egress_claimed");
    let key = reply(100, "INVITE").request_key();
    bench.claim_for(PEER, key, 100_000);
    bench.send(&Frame::from_vip(V4, &reply(200, "INVITE").bytes()), "egress_foreign");
    bench.claim_for(ME, key, 100_000);
    assert_eq!(bench.own_claims()[&key].rest.stage(), Begun, "made anew by the daemon");
}

#[test]
fn the_daemon_ends_a_claim_as_it_knows_it_and_none_that_the_program_has_made_longer() {
    let mut bench = Bench::new(ME, V4);
    bench.peer(PEER, true);
    let key = |number: u64| number << 40;
    bench.claim_for(ME, key(1), 200_000);
    bench.set_end(key(1), EPOCH, 200_000, 40_000);
    assert!((9..=11).contains(&bench.remaining(key(1))));
    bench.set_end(key(1), EPOCH, 40_000, 230_000);
    assert!(bench.remaining(key(1)) >= 53, "it may last longer as well");
    // Longer than the daemon knew; another's; of another run; none.
    bench.claim_for(ME, key(2), 200_000);
    bench.claim_for(PEER, key(3), 200_000);
    bench.claim_in(ME, key(4), Epoch::new(3));
    for number in 2..=5 {
        let before = bench.entry(key(number));
        bench.set_end(key(number), EPOCH, 40_000, 30_000);
        assert_eq!(bench.entry(key(number)), before, "{number}");
    }
}

#[test]
fn ack_and_cancel_claim_nothing_and_a_peers_effective_claim_stays() {
    let mut bench = Bench::new(ME, V4);
    bench.peer(PEER, true);
    bench.send(&Frame::from_vip(V4, &Sip::request("ACK", "call").bytes()), "egress_no_claim");
    bench.send(&Frame::from_vip(V4, &Sip::request("CANCEL", "call").bytes()), "egress_no_claim");
    assert!(bench.events().is_empty());
    let key = Sip::invite("call").request_key();
    bench.claim(PEER, key);
    bench.send(&Frame::from_vip(V4, &Sip::response(100, "INVITE", "call").bytes()), "egress_foreign");
    assert_eq!(bench.owner(key), PEER);
    bench.peer(PEER, false);
    bench.send(&Frame::from_vip(V4, &Sip::response(100, "INVITE", "call").bytes()), "egress_claimed");
    assert_eq!(bench.owner(key), ME);
}

#[test]
fn cancel_makes_an_own_claim_last_but_a_final_reply_may_end_it_earlier() {
    let mut bench = Bench::new(ME, V4);
    let message = Sip::request("MESSAGE", "call");
    bench.send(&Frame::from_vip(V4, &message.bytes()), "egress_claimed");
    bench.send(&Frame::from_vip(V4, &Sip::request("CANCEL", "call").bytes()), "egress_owner");
    let remaining = bench.remaining(message.request_key());
    assert!(remaining + 1 >= bench.lifetimes().failed, "{remaining}");
}

#[test]
fn a_request_from_a_source_claims_the_request_key_alone() {
    for v6 in [V4, V6] {
        let mut bench = Bench::new(ME, V4).with_sources();
        let invite = Sip::invite("far-leg");
        bench.send(&Frame::from_vip(v6, &invite.bytes()).with_another_source(), "egress_claimed");
        assert_eq!(bench.events().iter().map(|c| c.key).collect::<Vec<_>>(), [invite.request_key()]);
    }
}

#[test]
fn what_leaves_from_no_service_and_no_source_claims_nothing_and_the_daemon_is_shown_some() {
    let invite = Sip::invite("call");
    for v6 in [V4, V6] {
        let others = [
            (Bench::new(ME, V4), Frame::from_vip(v6, &invite.bytes()).with_another_source()),
            // The address alone, the port alone, and a fragment, of which the first one has the port.
            (Bench::new(ME, V4).with_sources(), Frame::from_vip_port(v6, 5061, &invite.bytes())),
            (Bench::new(ME, V4).with_sources(), Frame::from_vip_port(v6, 0, &invite.bytes())),
            (Bench::new(ME, V4), Frame::from_vip(v6, &invite.padded_to(1400)).with_another_source().fragment(0)),
        ];
        for (mut bench, frame) in others {
            bench.renew_lease();
            bench.send(&frame, "egress_not_service");
            bench.send(&frame, "egress_not_service");
            assert!(bench.events().is_empty() && bench.own_claims().is_empty());
            let shown = bench.punts();
            let reason = Outcome::EgressNotService.number();
            // One a second and CPU.
            assert!(!shown.is_empty() && shown.len() < 3, "{}", shown.len());
            assert!(shown.iter().all(|(head, bytes)| head.reason == reason && bytes == frame.bytes()));
        }
    }
}

#[test]
fn what_arrives_at_a_source_is_for_no_service() {
    let mut bench = Bench::new(ME, V4).with_sources();
    for v6 in [V4, V6] {
        let invite = Frame::to_vip(v6, &Sip::invite("call").bytes());
        bench.expect(&invite.clone().with_another_destination(), PASS, &["not_service"]);
        bench.expect(&invite, PASS, &["local_alone"]);
    }
}

#[test]
fn a_message_from_a_source_of_a_call_with_one_owner_ends_no_claim_of_it_earlier() {
    let mut bench = Bench::new(ME, V4).with_affinity_call().with_sources();
    let key = Sip::invite("call").call_key();
    let ok = Sip::response(200, "INVITE", "call").bytes();
    bench.send(&Frame::from_vip(V4, &ok), "egress_claimed");
    assert!(bench.remaining(key) > 1690);
    bench.send(&Frame::from_vip(V4, &ok).with_another_source(), "egress_owner");
    assert!(bench.remaining(key) > 1690);
}

#[test]
fn a_call_is_claimed_as_long_as_one_only_where_there_is_one() {
    let Lifetimes { proceeding, failed, ended, .. } = Bench::new(ME, V4).lifetimes();
    let call = CALL_TICKS;
    let ok = |method| Sip::response(200, method, "call");
    let no = |status, method| Sip::response(status, method, "call");
    let (invite, bye) = (Sip::invite("call"), Sip::request("BYE", "call").branch("z9hG4bK-bye"));
    let (of_2xx, of_refusal) = (Sip::request("ACK", "call").branch("z9hG4bK-2xx"), Sip::request("ACK", "call"));
    for (what, messages, ticks) in [
        ("an OPTIONS that is refused", vec![no(404, "OPTIONS")], ended),
        ("an OPTIONS", vec![ok("OPTIONS")], ended),
        ("an INVITE that rings", vec![no(180, "INVITE")], proceeding),
        ("an INVITE that is refused", vec![no(486, "INVITE")], failed),
        ("a REGISTER that is challenged", vec![no(401, "REGISTER")], ended),
        ("a call", vec![no(180, "INVITE"), ok("INVITE")], call),
        ("a binding", vec![ok("REGISTER")], call),
        ("a subscription", vec![ok("SUBSCRIBE")], call),
        ("a far leg that rings", vec![invite.clone()], proceeding),
        ("a far leg that was refused", vec![invite.clone(), of_refusal], proceeding),
        ("a far leg that was answered", vec![invite, of_2xx.clone()], call),
        ("an ACK that passes through", vec![of_2xx], 0),
        ("a BYE by itself", vec![bye], ended),
    ] {
        let mut bench = Bench::new(ME, V4).with_affinity_call();
        for sip in messages {
            bench.sent(&Frame::from_vip(V4, &sip.bytes()));
        }
        let remaining = bench.remaining(Sip::invite("call").call_key());
        assert!(remaining == ticks || remaining + 1 == ticks, "{what}: {remaining} of {ticks}");
    }
}

#[test]
fn every_message_of_a_call_renews_its_claim_and_the_class_is_noted() {
    let mut bench = Bench::new(ME, V4).with_affinity_call();
    let key = Sip::invite("call").call_key();
    bench.send(&Frame::from_vip(V4, &Sip::response(180, "INVITE", "call").bytes()), "egress_claimed");
    assert_eq!(bench.own_claims()[&key].rest.class(), Some(Class::Proceeding));
    bench.send(&Frame::from_vip(V4, &Sip::response(200, "INVITE", "call").bytes()), "egress_owner");
    assert_eq!(bench.own_claims()[&key].rest.class(), Some(Class::Call));
    // More is left than an INVITE that rings could have.
    bench.set_end(key, EPOCH, 9_000_000, 300_000);
    assert!((60..=73).contains(&bench.remaining(key)), "{}", bench.remaining(key));
    bench.events();
    bench.send(&Frame::from_vip(V4, &Sip::response(200, "INFO", "call").bytes()), "egress_owner");
    assert!(bench.remaining(key) + 1 >= CALL_TICKS);
    let told: Vec<_> = bench.events().into_iter().map(|event| (event.key, event.ticks, event.class)).collect();
    assert_eq!(told, [(key, CALL_TICKS, Class::Call.code() as u8)], "and peers hear of it");
    // The daemon goes by the same rule.
    bench.set_end(key, EPOCH, 9_000_000, 300_000);
    assert!(bench.claims_own(key, Kind::Cancel, None));
    assert!(bench.remaining(key) + 1 >= CALL_TICKS);
    // One that has been silent too long is a transaction's at the most.
    bench.set_end(key, EPOCH, 9_000_000, 20_000);
    bench.send(&Frame::from_vip(V4, &Sip::response(200, "INFO", "call").bytes()), "egress_owner");
    assert!(bench.remaining(key) <= bench.lifetimes().ended);
}

#[test]
fn a_claim_has_room_in_a_table_that_a_peer_has_filled_and_in_one_that_is_full_of_what_does_not_count() {
    let filled = |bench: &Bench| {
        for number in 0..20_000_u64 {
            bench.claim_for(PEER, number.wrapping_mul(0x9e37_79b9_7f4a_7c15), 200_000);
        }
    };
    let calls = || (0..200).map(|number| Sip::invite(&format!("call-{number}")));
    let mut bench = Bench::new(ME, V4);
    bench.peer(PEER, true);
    filled(&bench);
    for invite in calls() {
        bench.send(&Frame::from_vip(V4, &invite.bytes()), "egress_claimed");
    }
    let has = |bench: &Bench, key| bench.owner(key) == ME;
    let kept = calls().filter(|invite| has(&bench, invite.request_key()) && has(&bench, invite.reply_key())).count();
    assert_eq!(kept, 200, "none has given way to another");
    assert_eq!(bench.events().len(), 400);
    // The peer claims on. What it takes is where this node has half of two buckets itself, by chance: of 2048 slots its
    // 400 claims are spread over, that is one pair in seventy, until these claims have given way.
    filled(&bench);
    let kept = calls().filter(|invite| has(&bench, invite.request_key())).count();
    assert!(kept > 170, "{kept} of 200");
    bench.peer(PEER, false);
    bench.send(&Frame::from_vip(V4, &Sip::invite("later").bytes()), "egress_claimed");
}

#[test]
fn the_daemon_claims_for_a_message_as_egress_would() {
    let mut bench = Bench::new(ME, V4);
    bench.peer(PEER, true);
    let key = |number: u64| number << 40;
    // A CANCEL makes no claim, and revives none of its node's that has ended or that belongs to another run of the
    // proxy.
    bench.claim_in(ME, key(2), Epoch::new(3));
    bench.claim_in(PEER, key(3), Epoch::new(3));
    for nothing in [1, 2, 3] {
        assert!(!bench.claims_own(key(nothing), Kind::Cancel, None), "{nothing}");
        assert!(bench.claims_own(key(nothing), Kind::Request, None), "{nothing}");
        assert_eq!((bench.owner(key(nothing)), bench.remaining(key(nothing))), (ME, bench.lifetimes().proceeding));
    }
    bench.claim(PEER, key(4));
    assert!(!bench.claims_own(key(4), Kind::Request, None));
    assert_eq!(bench.owner(key(4)), PEER);
    bench.claim_for(ME, key(5), 1000);
    assert!(bench.claims_own(key(5), Kind::Cancel, None), "a claim that counts lasts longer");
    assert_eq!(bench.remaining(key(5)), bench.lifetimes().failed);
    assert!(!bench.claims_own(key(5), Kind::Cancel, None), "and nothing has changed");
}

#[test]
fn what_the_host_sends_besides_sip_is_no_claim() {
    let mut bench = Bench::new(ME, V4);
    for v6 in [V4, V6] {
        bench.send(&Frame::from_vip(v6, &[0x80; 172]), "egress_other");
        bench.send(&Frame::from_vip(v6, b"\r\n\r\n"), "egress_other");
        bench.send(&Frame::from_vip(v6, &Sip::invite("call").bytes()).fragment(99), "egress_fragment");
        bench.send(&Frame::udp(v6, 514, 514, b"Syslog says hello"), "egress_other");
    }
    assert!(bench.events().is_empty());
}

#[test]
fn the_first_fragment_that_the_proxy_sends_claims() {
    for v6 in [V4, V6] {
        let mut bench = Bench::new(ME, V4);
        let invite = Sip::invite("call");
        bench.send(&Frame::from_vip(v6, &invite.padded_to(1400)).fragment(0), "egress_claimed");
        assert!(bench.owner(invite.request_key()) == ME && bench.owner(invite.reply_key()) == ME);
    }
}

#[test]
fn empty_lines_before_a_message_that_the_proxy_relays_do_not_hide_it() {
    for v6 in [V4, V6] {
        let mut bench = Bench::new(ME, V4);
        let message = [b"\r\n\r\n".as_slice(), &Sip::invite("call").bytes()].concat();
        bench.send(&Frame::from_vip(v6, &message), "egress_punted");
        bench.send(&Frame::from_vip_port(v6, 5061, &message), "egress_other");
        bench.send(&Frame::from_vip(v6, b"\r\n\r\n"), "egress_other");
        assert_eq!(bench.punts().len(), 1);
    }
}

#[test]
fn white_space_before_a_message_or_a_method_without_letters_does_not_hide_it() {
    for v6 in [V4, V6] {
        let mut bench = Bench::new(ME, V4);
        for white in [" ", "\t", "\0", " \r\n\0\t"] {
            let message = [white.as_bytes(), &Sip::invite("call").bytes()].concat();
            bench.send(&Frame::from_vip(v6, &message), "egress_punted");
            bench.send(&Frame::from_vip_port(v6, 5061, &message), "egress_other");
            assert_eq!(bench.punts().len(), 1);
        }
        for nothing in [" ", "    ", "\0\0\0\0"] {
            bench.send(&Frame::from_vip(v6, nothing.as_bytes()), "egress_other");
        }
        let odd = Sip::request("!-%*_+", "odd");
        bench.send(&Frame::from_vip(v6, &odd.bytes()), "egress_claimed");
        bench.send(&Frame::from_vip_port(v6, 5061, &odd.bytes()), "egress_other");
        assert_eq!(bench.owner(odd.request_key()), ME);
    }
}

#[test]
fn what_the_proxy_sends_in_an_awkward_form_is_copied_to_the_daemon() {
    let mut bench = Bench::new(ME, V4);
    for v6 in [V4, V6] {
        let frame = Frame::from_vip(
            v6,
            b"SIP/2.0 200 OK\r\nv: SIP/2.0/UDP h;branch=b\r\ni:\r\n folded\r\nCSeq: 1 INVITE\r\n\r\n",
        );
        bench.send(&frame, "egress_punted");
        let punts = bench.punts();
        assert_eq!(punts.len(), 1);
        assert_eq!(punts[0].1, frame.bytes());
        assert!(bench.events().is_empty());
    }
}

#[test]
fn each_service_claims_under_its_own_epoch_and_the_restart_of_one_proxy_leaves_the_others_claims() {
    let mut bench = Bench::with_services(ME, V4, &[(V4, 5060), (V4, 5080)]).with_sources();
    bench.peer(PEER, true);
    bench.epochs(&[3, 4]);
    let (one, two, three) = (Sip::invite("one"), Sip::invite("two"), Sip::invite("three"));
    let from = |port: u16, sip: &Sip| Frame::from_vip_port(V4, port, &sip.bytes());
    bench.send(&from(5060, &one), "egress_claimed");
    bench.send(&from(5080, &two), "egress_claimed");
    bench.send(&from(5060, &three).with_another_source(), "egress_claimed");
    let told = |event: ClaimEvent| (event.key, event.epoch, event.service, event.kind, event.class);
    let (request, reply, proceeding) = (1, 2, 2);
    let claimed: Vec<_> = bench.events().into_iter().map(told).collect();
    let expected = [
        (one.request_key(), 3, 0, request, proceeding),
        (one.reply_key(), 3, 0, reply, proceeding),
        (two.request_key(), 4, 1, request, proceeding),
        (two.reply_key(), 4, 1, reply, proceeding),
        (three.request_key(), 3, 0, request, proceeding),
    ];
    assert_eq!(claimed, expected);
    let own = bench.own_claims();
    let kept = |key: &u64| {
        let OwnClaim { epoch, rest, .. } = own[key];
        (*key, epoch.number(), rest.service(), rest.kind().unwrap().code(), rest.class().unwrap().code())
    };
    assert_eq!(own.len(), expected.len());
    for (key, epoch, service, kind, class) in expected {
        assert_eq!(kept(&key), (key, epoch, service, kind.into(), class.into()));
    }

    // The first proxy restarts, and with it the epoch of what its sources have sent.
    bench.epochs(&[7, 4]);
    let answer = |call: &str| Frame::to_vip(V4, &Sip::response(180, "INVITE", call).bytes());
    bench.expect(&answer("one"), PASS, &["unknown_response"]);
    bench.expect(&answer("two"), PASS, &["local_owner"]);
    bench.expect(&answer("three"), PASS, &["unknown_response"]);
    let own: Vec<u64> = bench.own_claims().into_keys().collect();
    let mut expected = [two.request_key(), two.reply_key()];
    expected.sort_unstable();
    assert_eq!(own, expected);
    // A claim stays of the run that made it, whoever changes its end; one that is ineffective is made anew.
    bench.send(&from(5060, &Sip::response(200, "INVITE", "two")), "egress_owner");
    bench.send(&from(5060, &Sip::response(200, "INVITE", "one")), "egress_claimed");
    let claimed: Vec<_> = bench.events().into_iter().map(told).collect();
    // The first has left the claim as it was, and so tells who has sent it. The second one is all that is known of its
    // transaction now: a reply's claim.
    assert_eq!(claimed, [(two.request_key(), 7, 0, 3, 1), (one.request_key(), 7, 0, 3, 1)]);
    let own = bench.own_claims();
    assert_eq!([&two, &one].map(|message| own[&message.request_key()].epoch.number()), [4, 7]);
}

#[test]
fn a_peers_claims_count_by_the_epochs_that_are_live_there() {
    let mut bench = Bench::new(ME, V4);
    let epochs = Epochs::EMPTY.with(Epoch::new(2)).with(Epoch::new(15));
    bench.peer_with(PEER, epochs);
    let reply = Frame::to_vip(V4, &Sip::response(180, "INVITE", "call").bytes());
    for (epoch, outcome) in [(2, Some("forwarded")), (15, Some("forwarded")), (0, None), (3, None), (14, None)] {
        for key in [Sip::invite("call").request_key(), Sip::invite("call").reply_key()] {
            bench.claim_in(PEER, key, Epoch::new(epoch));
        }
        match outcome {
            Some(outcome) => drop(bench.expect_changed(&reply, TX, &[outcome])),
            None => bench.expect(&reply, PASS, &["unknown_response"]),
        }
    }
}
