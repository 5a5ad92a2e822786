//! Asks for keys that only the owner's kernel knows, in virtual time.

use forwarder_common::ids::Epoch;
use forwarder_core::node::{LocalClaim, MapWrite, Node, Now, Output};
use forwarder_core::wire::{Ask, Claim, Message};

use super::mesh::{self, Mesh, START_UNIX_US, id};

const LIFETIME_MS: u64 = 37_000;
/// How long an ask is open at most.
const PATIENCE_US: u64 = 1_000_000;
/// There and back at 100 µs each way.
const ROUND_TRIP_US: u64 = 200;

#[test]
fn a_claim_that_only_the_owners_kernel_knows_is_found_by_asking_and_then_known_to_all() {
    let mut mesh = Mesh::linked(3, 1);
    let mine = (id(2), Epoch::new(0), LIFETIME_MS);
    mesh.kernels.get_mut(&id(2)).unwrap().claims.extend([(7, mine), (8, mine)]);
    let start = mesh.now_us;
    mesh.ask(id(1), 5, 7, 8);
    mesh.run_for(10_000);
    assert_eq!(mesh.answers(id(1), start), [(5, true, ROUND_TRIP_US)]);
    assert_eq!([7, 8].map(|key| mesh.owners(key)), [[Some(2); 3], [Some(2); 3]]);
}

/// Node 2 has claimed 7, then its daemon is another one; a peer that has never heard of the claim has made one of its own, before
/// or after that.
fn contested(is_before: bool) -> Mesh {
    let mut mesh = Mesh::linked(3, 1);
    mesh.unlink(id(2), id(3));
    mesh.claim(id(2), 7, LIFETIME_MS);
    mesh.run_for(1000);
    mesh.unlink(id(1), id(2));
    mesh.unlink(id(1), id(3));
    if is_before {
        mesh.claim(id(3), 7, LIFETIME_MS);
    }
    mesh.start(id(2), Epoch::new(0), 1000);
    mesh.run_for(1000);
    if !is_before {
        mesh.claim(id(3), 7, LIFETIME_MS);
    }
    mesh
}

#[test]
fn a_claim_that_only_the_kernel_knows_stands_against_a_peers_and_is_known_to_all_from_then_on() {
    for is_before in [true, false] {
        let mut mesh = contested(is_before);
        [(1, 2), (2, 3), (1, 3)].iter().for_each(|(a, b)| mesh.link(id(*a), id(*b)));
        mesh.run_for(1_000_000);
        assert_eq!(mesh.owners(7), [Some(2); 3]);
        assert!(mesh.nodes.values().all(|node| node.claim(7, mesh.now(id(1))).unwrap().owner == id(2)));
        assert_eq!(mesh.nodes[&id(2)].counters().conflicts_won, 1);
    }
}

#[test]
fn a_claim_that_has_lost_is_written_over_although_the_kernel_holds_it() {
    let mut mesh = contested(true);
    // The new daemon learns of its own claim first, as one that is made now, and then of the earlier one.
    mesh.kernels.get_mut(&id(2)).unwrap().claims.clear();
    mesh.claim(id(2), 7, LIFETIME_MS);
    mesh.link(id(2), id(3));
    mesh.run_for(1_000_000);
    assert_eq!(mesh.owners(7)[1..], [Some(3), Some(3)]);
    assert_eq!(mesh.nodes[&id(2)].counters().conflicts_lost, 1);
}

#[test]
fn what_is_left_in_the_kernel_of_a_claim_that_has_ended_stands_against_nobody() {
    for (left_ms, owner) in [(8_600, 2), (8_500, 3)] {
        let mut mesh = Mesh::linked(3, 1);
        // By the table's rounded ticks it is not over yet, and this daemon has freed it already.
        mesh.kernels.get_mut(&id(2)).unwrap().claims.insert(7, (id(2), Epoch::new(0), left_ms));
        mesh.ask(id(1), 5, 7, 0);
        mesh.run_for(1000);
        assert_eq!(mesh.answers(id(1), 0)[0].1, owner == 2, "{left_ms} ms");
        mesh.claim(id(3), 7, LIFETIME_MS);
        mesh.run_for(1000);
        assert_eq!(mesh.owners(7), [Some(owner); 3], "{left_ms} ms");
    }
}

#[test]
fn a_daemon_that_is_restarted_in_order_tells_of_a_claim_that_one_peer_has_not_heard_of() {
    let mut mesh = Mesh::linked(3, 1);
    mesh.unlink(id(1), id(2));
    mesh.claim(id(2), 7, LIFETIME_MS);
    mesh.claim(id(3), 7, LIFETIME_MS);
    mesh.run_for(1000);
    assert_eq!(mesh.owners(7), [Some(3), Some(2), Some(2)], "node 3 has given way, and node 1 does not know why");
    // It counts as up meanwhile: no link goes down in order.
    mesh.start(id(2), Epoch::new(0), 1000);
    mesh.link(id(1), id(2));
    mesh.link(id(2), id(3));
    mesh.run_for(1_000_000);
    assert_eq!(mesh.owners(7), [Some(2); 3]);
    assert_eq!(mesh.nodes[&id(3)].counters().asks_sent, 1);
}

#[test]
fn a_daemon_that_knows_its_claim_is_not_told_of_it_once_more() {
    let mut node = mesh::alone(id(1));
    let now = Now { monotonic_us: 1, unix_us: START_UNIX_US };
    let peers = Claim { key: 7, claimed_at_unix_us: START_UNIX_US - 5, remaining_ms: 37_000, word: 0 };
    node.handle_link_up(id(2), now);
    node.handle_message(id(2), &Message::Hello(mesh::hello(id(2), 1, 0)).encode(), now).unwrap();
    node.handle_message(id(2), &Message::Batch(mesh::stretch(0, 0, vec![peers])).encode(), now).unwrap();
    let writes = |node: &mut Node| {
        let outputs = std::iter::from_fn(|| node.poll_output());
        let claims = outputs.filter_map(|output| match output {
            Output::Map(MapWrite::Claim { owner, is_new, .. }) => Some((owner.number(), is_new)),
            _ => None,
        });
        claims.collect::<Vec<_>>()
    };
    assert_eq!(writes(&mut node), [(2, true)]);
    // The kernel has a claim of this host, of which the ring buffer tells in the same moment: it was made later.
    let own = LocalClaim { key: 7, claimed_at_unix_us: START_UNIX_US, remaining_ms: LIFETIME_MS };
    node.handle_local(own, now);
    node.handle_found(own, now);
    assert_eq!(writes(&mut node), [(2, false), (2, false)]);
    assert_eq!(node.claim(7, now).unwrap().owner, id(2));
}

#[test]
fn a_shell_that_looks_nothing_up_leaves_nothing_behind() {
    let mut node = mesh::alone(id(1));
    let now = Now { monotonic_us: 1, unix_us: START_UNIX_US };
    node.handle_link_up(id(2), now);
    node.handle_message(id(2), &Message::Hello(mesh::hello(id(2), 1, 0)).encode(), now).unwrap();
    for number in 0..5000 {
        let ask = Message::Ask(vec![Ask { number, request_key: number, reply_key: 0 }]).encode();
        node.handle_message(id(2), &ask, now).unwrap();
    }
    let outputs: Vec<Output> = std::iter::from_fn(|| node.poll_output()).collect();
    let looks = outputs.iter().filter(|output| matches!(output, Output::LookUp { .. })).count();
    assert_eq!(
        (looks, node.counters().asks_answered),
        (4096, 5000 - 4096),
        "what is beyond is answered by what is known"
    );
    let late = Now { monotonic_us: 1 + PATIENCE_US, ..now };
    node.handle_timeout(late);
    node.handle_looked_up(0, &[], late);
    let mut answers = std::iter::from_fn(|| node.poll_output());
    assert!(answers.all(|output| !matches!(output, Output::Send { .. })), "nobody waits for it any more");
}
