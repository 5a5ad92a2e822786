//! Replies and CANCELs that wait for their owner.

use forwarder_common::{outcome::Outcome, verdict::Found};
use forwarder_core::slowpath::{Action, hold};

use super::{
    packets::{V4, V6, cancel, frame, reply, reply_key, request_key, sip},
    world::{HOLD_US, PEER, World, forward, id, inject},
};

/// Punts a message that nobody owns, and gives its ticket.
fn hold(world: &mut World, packet: &[u8]) -> u64 {
    world.punt(Outcome::PuntedUnknownResponse, &frame(packet, 0, 0));
    match world.actions()[..] {
        [Action::Ask { ticket, .. }] => ticket,
        ref other => panic!("not held: {other:?}"),
    }
}

#[test]
fn an_answer_that_brings_a_claim_sends_the_packet_on_at_once() {
    for (key, message) in [(request_key("call"), cancel("call")), (reply_key("call", "z9hG4bK-1"), reply("call"))] {
        let mut world = World::new();
        let packet = sip(V4, &message);
        let ticket = hold(&mut world, &packet);
        world.peers(request_key("another"));
        assert_eq!(world.after(|world| world.answer(ticket, true)), (vec![], vec![]));
        world.peers(key);
        let got = world.after(|world| world.answer(ticket, true));
        assert_eq!(got, (vec![forward(&packet)], vec![("slow_forwarded", 1)]));
        assert_eq!(world.after(|world| world.answer(ticket, true)), (vec![], vec![]));
        assert_eq!(world.path.poll_timeout(), None);
    }
}

#[test]
fn a_claim_of_this_node_or_of_nobody_that_lives_decides_as_well() {
    let mut world = World::new();
    let packet = sip(V6, &cancel("call"));
    let ticket = hold(&mut world, &packet);
    // A claim of a node that is down came to stand: as if there were none.
    assert_eq!(world.after(|world| world.answer(ticket, true)), (vec![], vec![]));
    world.own(request_key("call"));
    let got = world.after(|world| world.answer(ticket, true));
    assert_eq!(got, (vec![inject(&packet)], vec![("slow_local", 1)]));
}

#[test]
fn a_packet_that_a_node_without_a_daemon_relays_gets_its_ordinary_verdict() {
    let mut world = World::new();
    let packet = sip(V4, &reply("call"));
    let ticket = {
        world.punt(Outcome::DecapPuntedRelayed, &frame(&packet, 0, 0));
        match world.actions()[..] {
            [Action::Ask { ticket, .. }] => ticket,
            ref other => panic!("not held: {other:?}"),
        }
    };
    world.peers(reply_key("call", "z9hG4bK-1"));
    let got = world.after(|world| world.answer(ticket, true));
    assert_eq!(got, (vec![forward(&packet)], vec![("slow_forwarded", 1)]));
}

#[test]
fn a_node_that_takes_no_new_transactions_sends_them_to_a_healthy_peer_and_nothing_else() {
    let mut world = World::new();
    world.table.successor = Some(id(PEER));
    let new = sip(V4, &super::packets::invite("new"));
    let got = world.after(|world| world.punt(Outcome::PuntedUnread, &frame(&new, 0, 0)));
    assert_eq!(got, (vec![forward(&new)], vec![("slow_diverted", 1)]));
    world.own(request_key("mine"));
    let mine = sip(V4, &super::packets::invite("mine"));
    let got = world.after(|world| world.punt(Outcome::PuntedUnread, &frame(&mine, 0, 0)));
    assert_eq!(got, (vec![inject(&mine)], vec![("slow_local", 1)]));
    hold(&mut world, &sip(V4, &cancel("unknown")));
}

#[test]
fn the_answer_that_nobody_owns_it_releases_locally_and_the_answer_that_somebody_does_waits_for_the_claim() {
    let mut world = World::new();
    let packet = sip(V4, &reply("call"));
    let ticket = hold(&mut world, &packet);
    assert_eq!(world.after(|world| world.answer(ticket, true)), (vec![], vec![]));
    assert_eq!(world.after(|world| world.answer(ticket + 1, false)), (vec![], vec![]));
    let got = world.after(|world| world.answer(ticket, false));
    assert_eq!(got, (vec![inject(&packet)], vec![("slow_released", 1)]));
    assert_eq!(world.after(|world| world.answer(ticket, false)), (vec![], vec![]));

    // The claim stands by the time the answer is here.
    for (found, expected) in [
        (Found::Own, (vec![inject(&packet)], "slow_local")),
        (Found::Nothing, (vec![inject(&packet)], "slow_released")),
    ] {
        let ticket = hold(&mut world, &packet);
        world.table.claims.insert(request_key("call"), found);
        let got = world.after(|world| world.answer(ticket, false));
        assert_eq!(got, (expected.0, vec![(expected.1, 1)]));
        world.table.claims.clear();
    }
    let ticket = hold(&mut world, &packet);
    world.peers(reply_key("call", "z9hG4bK-1"));
    let got = world.after(|world| world.answer(ticket, true));
    assert_eq!(got, (vec![forward(&packet)], vec![("slow_forwarded", 1)]));
}

#[test]
fn a_reply_under_a_branch_that_nobody_has_claimed_yet_waits_for_that_claim_and_goes_by_the_transaction_at_last() {
    for (by_transaction, by_branch) in [(Found::Own, Found::Peer(id(PEER))), (Found::Peer(id(PEER)), Found::Own)] {
        let action = |found, packet: &[u8]| if found == Found::Own { inject(packet) } else { forward(packet) };
        let outcome = |found| if found == Found::Own { "slow_local" } else { "slow_forwarded" };
        let mut world = World::new();
        let packet = sip(V4, &reply("call"));
        let branch = reply_key("call", "z9hG4bK-1");
        world.table.claims.insert(request_key("call"), by_transaction);
        world.punt(Outcome::PuntedUnknownBranch, &frame(&packet, 0, 0));
        let [Action::Ask { ticket, request_key, reply_key }] = world.actions()[..] else { panic!("not asked") };
        assert_eq!((request_key, reply_key), (branch, branch), "who owns the transaction is known");
        assert_eq!(world.after(|world| world.answer(ticket, true)), (vec![], vec![]));
        world.table.claims.insert(branch, by_branch);
        let got = world.after(|world| world.answer(ticket, true));
        assert_eq!(got, (vec![action(by_branch, &packet)], vec![(outcome(by_branch), 1)]));

        world.table.claims.remove(&branch);
        let ticket = hold(&mut world, &packet);
        let got = world.after(|world| world.answer(ticket, false));
        assert_eq!(got, (vec![action(by_transaction, &packet)], vec![(outcome(by_transaction), 1)]));
    }
}

#[test]
fn where_the_transaction_turns_out_to_be_owned_but_the_branch_does_not_the_branch_is_asked_for_once_more() {
    let branch = reply_key("call", "z9hG4bK-1");
    for branch_is_claimed in [true, false] {
        let mut world = World::new();
        let packet = sip(V4, &reply("call"));
        let ticket = hold(&mut world, &packet);
        world.peers(request_key("call"));
        let ask = Action::Ask { ticket, request_key: branch, reply_key: branch };
        assert_eq!(world.after(|world| world.answer(ticket, true)), (vec![ask], vec![]));
        if branch_is_claimed {
            world.peers(branch);
        }
        // Nobody knows the branch: then the transaction's owner has to do, and at once.
        let got = world.after(|world| world.answer(ticket, branch_is_claimed));
        assert_eq!(got, (vec![forward(&packet)], vec![("slow_forwarded", 1)]));
    }
}

#[test]
fn the_deadline_releases_locally_and_not_before() {
    let mut world = World::new();
    let packet = sip(V4, &reply("call"));
    hold(&mut world, &packet);
    assert_eq!(world.path.poll_timeout(), Some(world.now_us + HOLD_US));
    assert_eq!(world.after(|world| world.advance(HOLD_US - 1)), (vec![], vec![]));
    let late = sip(V4, &reply("later"));
    hold(&mut world, &late);
    assert_eq!(world.after(|world| world.advance(1)), (vec![inject(&packet)], vec![("slow_released", 1)]));
    // With no peer left nobody else can own it.
    world.table.peer_up = false;
    assert_eq!(world.after(|world| world.advance(HOLD_US)), (vec![inject(&late)], vec![("slow_released", 1)]));
    assert_eq!(world.path.poll_timeout(), None);
}

#[test]
fn with_no_peer_up_nothing_is_held() {
    for text in [reply("call"), cancel("call")] {
        let mut world = World::new();
        world.table.peer_up = false;
        let packet = sip(V4, &text);
        let got = world.after(|world| world.punt(Outcome::PuntedUnknownResponse, &frame(&packet, 0, 0)));
        assert_eq!(got, (vec![inject(&packet)], vec![("slow_local", 1)]));
    }
}

#[test]
fn a_daemon_that_stops_delivers_what_waits() {
    let mut world = World::new();
    let held = sip(V4, &reply("call"));
    hold(&mut world, &held);
    let parts = super::packets::cut(&sip(V6, &reply("large")), 1, &[64, 128]);
    world.punt(Outcome::PuntedFragment, &frame(&parts[1], 0, 0));
    world.punt(Outcome::PuntedFragment, &frame(&parts[0], 0, 0));
    let got = world.after(|world| world.path.drain_all());
    let expected = [&held, &parts[0], &parts[1]].map(|packet| inject(packet));
    assert_eq!(got, (expected.to_vec(), vec![("slow_released", 3)]));
    let ledger = world.path.ledger();
    assert_eq!((ledger.held, ledger.reassembling, ledger.held_bytes, ledger.reassembling_bytes), (0, 0, 0, 0));
}

#[test]
fn past_the_bound_on_arrivals_a_packet_passes_and_time_gives_room_again() {
    let mut world = World::new();
    let packet = sip(V4, &reply("call"));
    let frame = frame(&packet, 0, 0);
    let got =
        world.after(|world| (0..hold::BURST + 5).for_each(|_| world.punt(Outcome::PuntedUnknownResponse, &frame)));
    assert_eq!(got.1, [("slow_held", hold::BURST), ("slow_hold_overflow", 5)]);
    assert_eq!(got.0[hold::BURST as usize..], vec![inject(&packet); 5]);
    // One hundredth of a second gives room for one hundredth of what a second takes.
    world.advance(10_000);
    let got = world.after(|world| (0..1000).for_each(|_| world.punt(Outcome::PuntedUnknownResponse, &frame)));
    assert_eq!(got.1, [("slow_held", hold::PER_SECOND / 100), ("slow_hold_overflow", 1000 - hold::PER_SECOND / 100)]);
}

#[test]
fn the_bounds_on_packets_and_bytes_hold_whatever_time_passes() {
    for (length, bound) in [(300, hold::PACKETS), (60_000, hold::BYTES / 60_000 - 1)] {
        let mut world = World::new();
        let mut text = reply("call");
        text.resize(length, b'x');
        let packet = sip(V4, &text);
        let frame = frame(&packet, 0, 0);
        for _ in 0..hold::PACKETS + 100 {
            world.now_us += 1_000_000 / hold::PER_SECOND;
            world.punt(Outcome::PuntedUnknownResponse, &frame);
        }
        let ledger = world.path.ledger();
        assert!(ledger.held_bytes <= hold::BYTES && ledger.held as usize <= hold::PACKETS);
        assert!(ledger.held as usize >= bound - 1, "{}", ledger.held);
        assert_eq!(ledger.of(Outcome::SlowHoldOverflow) + ledger.held, hold::PACKETS as u64 + 100);
        let got = world.after(|world| world.advance(u64::MAX / 2));
        assert_eq!(got.1, [("slow_released", ledger.held)]);
        assert_eq!(world.path.ledger().held_bytes, 0);
    }
}

#[test]
fn a_packet_that_the_kernel_refuses_is_counted_as_lost() {
    let mut world = World::new();
    let packet = sip(V4, &super::packets::invite("call"));
    let got = world.after(|world| {
        world.punt(Outcome::PuntedUnread, &frame(&packet, 0, 0));
        world.path.handle_failure();
    });
    assert_eq!(got.1, [("slow_local", 1), ("slow_failed", 1)]);
}
