//! What the network loses, delays, repeats or floods, in virtual time.

use forwarder_common::ids::{Epoch, Epochs};
use forwarder_core::node::{Command, Kind, Node, Now, Output, ProtocolError, State};
use forwarder_core::wire::{Claim, Claims, Digest, Hello, Message, Repair};

use super::mesh::{Mesh, START_UNIX_US, alone, claim, hello, id, local, stretch, underlay};

const LIFETIME_MS: u64 = 37_000;
/// By then whatever was lost once is found missing and has come: two digests and their jitter, and the way.
const REPAIRED_US: u64 = 2_600_000;

/// Nodes of a mesh that do not have exactly these claims, each of the given owner.
fn lacking(mesh: &Mesh, owner: u16, keys: std::ops::Range<u64>) -> Vec<u16> {
    let has = |node: &Node, key| node.claim(key, mesh.now(id(owner))).is_some_and(|held| held.owner == id(owner));
    let lacks = mesh.nodes.iter().filter(|(_, node)| !keys.clone().all(|key| has(node, key)));
    lacks.map(|(node, _)| node.number()).collect()
}

#[test]
fn what_the_network_has_lost_comes_with_the_digest() {
    let mut mesh = Mesh::linked(3, 1);
    mesh.loss = 1000;
    (0..500).for_each(|key| mesh.claim(id(1), key, LIFETIME_MS));
    mesh.run_for(10_000);
    mesh.loss = 0;
    assert_eq!(lacking(&mesh, 1, 0..500), [2, 3]);
    mesh.run_for(REPAIRED_US);
    assert!(lacking(&mesh, 1, 0..500).is_empty());
    let counters = mesh.nodes[&id(1)].counters();
    assert_eq!((counters.repairs_received, counters.claims_dropped), (2, 0));
    mesh.sent.clear();
    mesh.run_for(10_000_000);
    assert!(mesh.sent.is_empty(), "nothing has changed, so nobody says anything: {}", mesh.sent.len());
}

#[test]
fn with_a_fifth_of_all_messages_lost_every_claim_arrives() {
    for seed in 0..4 {
        let mut mesh = Mesh::linked(4, seed);
        (mesh.loss, mesh.latency_us) = (200, (50, 20_000));
        for key in 0..2000 {
            mesh.claim(id(1 + (key % 4) as u16), key, LIFETIME_MS);
            mesh.run_for(500);
        }
        mesh.run_for(25_000_000);
        for owner in 1..=4_u16 {
            let own = (0..2000).filter(|key| key % 4 == u64::from(owner - 1));
            own.for_each(|key| assert_eq!(mesh.owners(key), [Some(owner); 4], "seed {seed}, key {key}"));
        }
    }
}

#[test]
fn more_claims_than_may_wait_are_counted_and_come_with_the_digest() {
    let mut mesh = Mesh::linked(2, 1);
    let now = mesh.now(id(1));
    let node = mesh.nodes.get_mut(&id(1)).unwrap();
    for key in 0..100_000 {
        node.handle_local(local(key, now, LIFETIME_MS, Epoch::new(0)), now);
    }
    assert_eq!((node.waiting() as u64, node.counters().claims_dropped), (65_536, 100_000 - 65_536));
    mesh.run_for(500_000);
    assert_eq!(lacking(&mesh, 1, 0..100_000), [2]);
    mesh.run_for(REPAIRED_US);
    assert!(lacking(&mesh, 1, 0..100_000).is_empty());
}

#[test]
fn a_late_joiner_knows_when_it_knows_all() {
    for loss in [0, 200] {
        let mut mesh = Mesh::new(3, 7);
        mesh.link(id(1), id(2));
        mesh.run_for(1000);
        (0..20_000).for_each(|key| mesh.claim(id(1), key, LIFETIME_MS));
        mesh.run_for(1_000_000);
        assert!(mesh.nodes[&id(3)].is_synchronised(), "alone");
        (mesh.loss, mesh.latency_us) = (loss, (1000, 1001));
        mesh.link(id(1), id(3));
        mesh.link(id(2), id(3));
        assert!(!mesh.nodes[&id(3)].is_synchronised(), "not introduced yet");
        let start = mesh.now_us;
        while !mesh.nodes[&id(3)].is_synchronised() {
            let known = (0..20_000).filter(|key| mesh.nodes[&id(3)].claim(*key, mesh.now(id(3))).is_some()).count();
            assert!(known < 20_000, "it has all and does not know");
            assert!(mesh.now_us - start < 15_000_000, "{known} known");
            mesh.run_for(50_000);
        }
        assert!(lacking(&mesh, 1, 0..20_000).is_empty());
        assert!(loss > 0 || mesh.now_us - start < 200_000, "{}", mesh.now_us - start);
    }
}

#[test]
fn a_feed_has_no_more_on_its_way_than_a_slow_link_can_hold() {
    let mut node = alone(id(1));
    let now = Now { monotonic_us: 1, unix_us: START_UNIX_US };
    for key in 0..500_000 {
        node.handle_local(local(key, now, LIFETIME_MS, Epoch::new(0)), now);
    }
    node.handle_link_up(id(2), vec![underlay(id(2))], now);
    node.handle_message(id(2), &Message::Hello(hello(id(2), 1, 0)).encode(), now).unwrap();
    let mut at_us = 1;
    let mut sent = |node: &mut Node| {
        let mut pieces = 0;
        for _ in 0..200 {
            at_us += 2_000;
            node.handle_timeout(Now { monotonic_us: at_us, ..now });
            let outputs = std::iter::from_fn(|| node.poll_output());
            pieces += outputs
                .filter(|output| matches!(output, Output::Link(Command::Send { kind: Kind::Snapshot, .. })))
                .count();
        }
        (pieces, Now { monotonic_us: at_us, ..now })
    };
    let (pieces, later) = sent(&mut node);
    assert_eq!(pieces, 256);
    assert_eq!(sent(&mut node).0, 0, "the peer has not said that they arrived");
    let report = |pieces| Message::Repair(Repair { sequence: 1, pieces, below: 0, missing: Vec::new() }).encode();
    node.handle_message(id(2), &report(9999), later).unwrap();
    assert_eq!(sent(&mut node).0, 0, "that cannot be");
    node.handle_message(id(2), &report(100), later).unwrap();
    assert_eq!(sent(&mut node).0, 100);
}

#[test]
fn a_claim_that_lost_against_one_that_gave_way_is_there_after_healing() {
    // Node 3 has claimed what node 1 had claimed before, while no link was between nodes 1 and 2.
    let mut mesh = Mesh::linked(3, 1);
    mesh.claim(id(1), 7, LIFETIME_MS);
    mesh.run_for(1000);
    mesh.unlink(id(1), id(2));
    mesh.unlink(id(1), id(3));
    mesh.claim(id(3), 7, LIFETIME_MS);
    mesh.run_for(1000);
    assert_eq!(mesh.owners(7), [Some(1), Some(3), Some(3)]);
    mesh.link(id(1), id(3));
    mesh.run_for(1_000_000);
    mesh.link(id(1), id(2));
    mesh.run_for(1_000_000);
    assert_eq!(mesh.owners(7), [Some(1); 3]);
}

#[test]
fn a_new_epoch_ends_all_earlier_claims_at_once_and_everywhere_without_a_new_link() {
    let mut mesh = Mesh::linked(3, 1);
    mesh.claim(id(1), 7, LIFETIME_MS);
    mesh.run_for(1000);
    let writes = mesh.kernels[&id(2)].claim_writes;
    mesh.set_epoch(id(1), 1);
    mesh.run_for(1000);
    assert_eq!(mesh.kernels[&id(2)].up[&id(1)], (true, Epochs::EMPTY.with(Epoch::new(1))));
    assert_eq!(mesh.kernels[&id(2)].claim_writes, writes, "no claim is touched");
    mesh.claim(id(2), 7, LIFETIME_MS);
    mesh.claim(id(1), 8, LIFETIME_MS);
    mesh.run_for(1000);
    assert_eq!(mesh.owners(7), [Some(2); 3], "the later claim is effective, the earlier is not");
    assert_eq!(mesh.kernels[&id(3)].claims[&8].1, Epoch::new(1));
    assert_eq!(mesh.errors, []);
}

#[test]
fn claims_that_overtake_the_hello_of_their_epoch_wait_for_it() {
    for hello_comes in [true, false] {
        let mut mesh = Mesh::linked(2, 1);
        let claim = Claim { epoch: Epoch::new(1), ..claim(7, START_UNIX_US, 37_000) };
        let early = Claims { sequence: 2, ..stretch(0, vec![claim]) };
        mesh.deliver(id(1), id(2), &Message::Batch(early).encode());
        assert_eq!(mesh.owners(7), [None, None]);
        if hello_comes {
            let hello = Message::Hello(mesh.hello_of(id(1), 1, 2)).encode();
            mesh.deliver(id(1), id(2), &hello);
            assert_eq!(mesh.owners(7), [None, Some(1)]);
            continue;
        }
        // If it never comes, the numbers count as missing.
        let digest = Message::Digest(Digest { settled: 1, must_answer: false }).encode();
        mesh.sent.clear();
        mesh.deliver(id(1), id(2), &digest);
        assert_eq!(mesh.sent.iter().map(|sent| sent.kind).collect::<Vec<_>>(), [Kind::Repair]);
    }
}

#[test]
fn an_old_hello_that_comes_after_a_new_one_is_ignored() {
    let mut mesh = Mesh::linked(2, 1);
    for (epoch, sequence, stands) in [(3, 9, 3), (2, 8, 3), (4, 10, 4), (3, 9, 4)] {
        let hello = Message::Hello(mesh.hello_of(id(1), epoch, sequence)).encode();
        mesh.deliver(id(1), id(2), &hello);
        assert_eq!(mesh.kernels[&id(2)].up[&id(1)], (true, Epochs::EMPTY.with(Epoch::new(stands))));
    }
    let other = Message::Hello(hello(id(1), mesh.incarnations[&id(1)] ^ 2, 5)).encode();
    mesh.deliver(id(1), id(2), &other);
    assert_eq!(mesh.errors, [(id(2), ProtocolError::OtherIncarnation)]);
}

#[test]
fn a_state_reaches_all_peers_those_that_are_being_linked_too() {
    let mut mesh = Mesh::new(3, 1);
    mesh.link(id(1), id(2));
    mesh.run_for(1000);
    mesh.link(id(1), id(3));
    let now = mesh.now(id(1));
    mesh.nodes.get_mut(&id(1)).unwrap().set_state(State::Draining, false, now);
    mesh.drain(id(1));
    mesh.run_for(1000);
    for node in [2, 3] {
        let views: Vec<_> = mesh.nodes[&id(node)].peers().map(|peer| (peer.node, peer.up, peer.state.name())).collect();
        assert_eq!(views, [(id(1), true, "draining")]);
    }
}

#[test]
fn claims_of_hours_among_claims_of_seconds_stay_known_to_late_joiners() {
    let mut mesh = Mesh::new(0, 1);
    mesh.start(id(1), Epoch::new(0), 1024);
    mesh.start(id(2), Epoch::new(0), 1024);
    for key in 0..14_000 {
        let is_long = key % 100 == 0;
        mesh.claim(id(1), key, if is_long { 7_200_000 } else { 400 });
        mesh.run_for(200);
    }
    mesh.run_for(5_000_000);
    mesh.link(id(1), id(2));
    mesh.run_for(1_000_000);
    let long = (0..14_000).step_by(100);
    assert!(long.clone().all(|key| mesh.owners(key) == [Some(1), Some(1)]));
    assert_eq!(mesh.kernels[&id(2)].claims.len(), long.count());
    assert!(mesh.nodes[&id(2)].is_synchronised());
}

#[test]
fn a_peer_that_floods_is_dropped_and_the_others_are_not_disturbed() {
    let batch = Message::Batch(stretch(0, Vec::new())).encode();
    let full: Vec<Claim> = (0..355).map(|key| claim(key, 1, 1000)).collect();
    let snapshot = Message::Snapshot(stretch(0, full)).encode();
    // Of five seconds of work: 10 µs each, and 355 claims of 900 ns.
    let floods = [(batch, 490_000, 550_000), (snapshot, 4_900_000 / 330, 5_500_000 / 330), (Vec::new(), 900, 1400)];
    for (flood, least, most) in floods {
        let mut mesh = Mesh::linked(3, 1);
        let mut sent = 0;
        while mesh.errors.is_empty() {
            mesh.deliver(id(2), id(1), &flood);
            sent += 1;
            assert!(sent < most, "{sent}");
        }
        assert!(sent > least, "{sent}");
        assert_eq!(mesh.errors, [(id(1), ProtocolError::Flood)]);
        mesh.claim(id(3), 77_777, LIFETIME_MS);
        mesh.run_for(1000);
        assert_eq!(mesh.owners(77_777), [Some(3); 3]);
    }
}

#[test]
fn claims_in_conflict_cost_their_sender_more() {
    let mut mesh = Mesh::linked(3, 1);
    for key in 0..20_000 {
        mesh.claim(id(1), key, LIFETIME_MS);
    }
    mesh.run_for(5_000_000);
    let until_dropped = |mesh: &mut Mesh, flood: &[u8]| {
        mesh.errors.clear();
        let sent = (0..2_000_000).take_while(|_| {
            mesh.deliver(id(2), id(1), flood);
            mesh.errors.is_empty()
        });
        sent.count()
    };
    // Later than those of node 1, which win: 49 of 2.4 µs and 10 µs for the message.
    let late: Vec<Claim> = (0..49).map(|key| claim(key, u64::MAX, 30_000)).collect();
    let sent = until_dropped(&mut mesh, &Message::Batch(stretch(0, late)).encode());
    assert!((38_000..42_000).contains(&sent), "{sent}");
}

#[test]
fn a_storm_of_hellos_is_heard_twice_a_second_and_its_last_word_counts() {
    let mut mesh = Mesh::linked(3, 1);
    let writes = |mesh: &Mesh| mesh.kernels[&id(1)].peer_writes;
    let (before, states) = (writes(&mesh), [State::Draining, State::Up, State::ProxyDown]);
    for round in 0..15_001_u32 {
        let state = states[round as usize % 3];
        let hello = Hello { state, ..mesh.hello_of(id(2), 0, 100 + round) };
        mesh.deliver(id(2), id(1), &Message::Hello(hello).encode());
        mesh.run_for(666);
    }
    let written = writes(&mesh) - before;
    assert!((10..=32).contains(&written), "{written} writes in ten seconds");
    assert!(mesh.nodes[&id(1)].counters().hellos_deferred > 9_000);
    mesh.run_for(600_000);
    let state = |mesh: &Mesh| mesh.nodes[&id(1)].peers().find(|peer| peer.node == id(2)).unwrap().state;
    assert_eq!((state(&mesh), mesh.errors.len()), (State::Draining, 0), "the last word");
    // A node that says little is heard at once.
    mesh.run_for(5_000_000);
    let hello = Hello { state: State::Up, ..mesh.hello_of(id(2), 0, 90_000) };
    mesh.deliver(id(2), id(1), &Message::Hello(hello).encode());
    assert_eq!(state(&mesh), State::Up);
}

#[test]
fn repeated_and_invented_numbers_harm_nobody_but_their_sender() {
    let mut mesh = Mesh::linked(3, 1);
    let claim = |key| claim(key, 1, 37_000);
    for first in [0, 5, 5, u64::MAX - 1, 1 << 40] {
        mesh.deliver(id(2), id(1), &Message::Batch(stretch(first, vec![claim(first)])).encode());
    }
    (0..5000).for_each(|number| {
        mesh.deliver(id(2), id(1), &Message::Batch(stretch(10 + 2 * number, vec![claim(3)])).encode());
    });
    let span = Claims { span: u32::MAX, ..stretch(1 << 50, Vec::new()) };
    mesh.deliver(id(2), id(1), &Message::Batch(span).encode());
    let missing = vec![(0, u64::MAX), (3, 4)];
    mesh.deliver(id(2), id(1), &Message::Repair(Repair { sequence: 7, pieces: 77, below: u64::MAX, missing }).encode());
    mesh.deliver(id(2), id(1), &Message::Digest(Digest { settled: u64::MAX, must_answer: true }).encode());
    mesh.run_for(5_000_000);
    assert_eq!(mesh.errors, []);
    assert_eq!(mesh.owners(5)[0], Some(2), "its own claims are its own affair");
    mesh.claim(id(3), 8, LIFETIME_MS);
    mesh.claim(id(1), 9, LIFETIME_MS);
    mesh.run_for(5_000_000);
    assert_eq!([8, 9].map(|key| mesh.owners(key)), [[Some(3); 3], [Some(1); 3]]);
}

#[test]
fn a_takeover_stands_also_where_the_dead_owner_was_still_believed_alive() {
    for restarts in [false, true] {
        let mut mesh = Mesh::linked(3, 1);
        mesh.claim(id(3), 7, LIFETIME_MS);
        mesh.run_for(1000);
        if restarts {
            mesh.deliver(id(3), id(1), &Message::Hello(mesh.hello_of(id(3), 1, 99)).encode());
        } else {
            mesh.unlink(id(3), id(1));
        }
        mesh.claim(id(1), 7, LIFETIME_MS);
        mesh.run_for(1000);
        assert_eq!(mesh.owners(7)[1], Some(3), "node 2 has not heard of it");
        if restarts {
            mesh.deliver(id(3), id(2), &Message::Hello(mesh.hello_of(id(3), 1, 99)).encode());
        } else {
            mesh.unlink(id(3), id(2));
        }
        assert_eq!(mesh.owners(7)[1], Some(1));
    }
}

#[test]
fn a_feed_whose_messages_come_late_goes_on_by_the_peers_own_count() {
    let mut node = alone(id(1));
    let at = |monotonic_us| Now { monotonic_us, unix_us: START_UNIX_US };
    for key in 0..150_000 {
        node.handle_local(local(key, at(1), LIFETIME_MS, Epoch::new(0)), at(1));
    }
    node.handle_link_up(id(2), vec![underlay(id(2))], at(1));
    node.handle_message(id(2), &Message::Hello(hello(id(2), 1, 0)).encode(), at(1)).unwrap();
    let mut pieces = Vec::new();
    let mut step = |node: &mut Node, us| {
        node.handle_timeout(at(us));
        for output in std::iter::from_fn(|| node.poll_output()) {
            if let Output::Link(Command::Send { message, kind: Kind::Snapshot, .. }) = output {
                let Ok(Message::Snapshot(claims)) = Message::decode(&message) else { panic!("no snapshot") };
                pieces.push((claims.first, claims.first + u64::from(claims.span)));
            }
        }
        pieces.clone()
    };
    for us in 1..200 {
        step(&mut node, us * 2000);
    }
    let first = step(&mut node, 400_000);
    assert_eq!(first.len(), 256);
    // More than a second later none has arrived, so what is missing is sent again; then they all come after all.
    let report = |pieces, below, missing| Message::Repair(Repair { sequence: 1, pieces, below, missing }).encode();
    node.handle_message(id(2), &report(0, 0, vec![(0, 150_000)]), at(2_000_000)).unwrap();
    let second = step(&mut node, 2_000_000);
    assert!(second.len() > first.len());
    node.handle_message(id(2), &report(256, first[255].1, Vec::new()), at(2_100_000)).unwrap();
    node.handle_message(id(2), &report(256, first[255].1, Vec::new()), at(4_000_000)).unwrap();
    (0..300).for_each(|us| drop(step(&mut node, 4_000_000 + us * 2000)));
    let all = step(&mut node, 5_000_000);
    assert_eq!(all.last().unwrap().1, 150_000);
}
