//! Daemons that take over the kernel's maps of an earlier one with this host's claims, in virtual time.

use forwarder_common::ids::Epoch;
use forwarder_common::lifetime;
use forwarder_common::question::Held;
use forwarder_common::rest::{Class, KeyKind, Purpose};
use forwarder_core::node::{Command, Kind, MapWrite, Node, Now, Output};
use forwarder_core::wire::{self, Ask, Claim, Message};

use super::mesh::{self, Mesh, START_UNIX_US, id};

const LIFETIME_MS: u64 = 37_000;

#[test]
fn a_restarted_daemon_answers_asks_for_the_claims_of_the_kernel_before_its_first_batch() {
    let mut node = mesh::alone(id(1));
    let now = Now { monotonic_us: 1, unix_us: START_UNIX_US };
    for key in [7, 8] {
        node.handle_restored(mesh::local(key, now, LIFETIME_MS, Epoch::new(0)), now);
    }
    node.handle_link_up(id(2), vec![mesh::underlay(id(2))], now);
    node.handle_message(id(2), &Message::Hello(mesh::hello(id(2), 1, 0)).encode(), now).unwrap();
    let ask = Ask { number: 5, request_key: 7, reply_key: 8 };
    node.handle_message(id(2), &Message::Ask(vec![ask]).encode(), now).unwrap();
    let answers = sent(&mut node, Kind::Answer);
    let [Message::Answer(answers)] = &answers[..] else { panic!("{answers:?}") };
    let keys: Vec<_> = answers[0].claims.iter().map(|claim| (claim.key, claim.claimed_at_unix_us)).collect();
    assert_eq!(keys, [(8, 0), (7, 0)], "made before all others");
}

fn sent(node: &mut Node, of: Kind) -> Vec<Message> {
    let outputs = std::iter::from_fn(|| node.poll_output());
    let messages = outputs.filter_map(|output| {
        let Output::Link(Command::Send { message, kind, .. }) = output else { return None };
        (kind == of).then(|| Message::decode(&message).unwrap())
    });
    messages.collect()
}

#[test]
fn a_node_that_joins_later_learns_what_an_earlier_daemon_has_claimed() {
    let mut mesh = Mesh::linked(2, 1);
    (0..1000).for_each(|key| mesh.claim(id(2), key, LIFETIME_MS));
    mesh.run_for(1_000_000);
    mesh.unlink(id(1), id(2));
    mesh.start(id(2), Epoch::new(0), 1 << 20);
    mesh.start(id(3), Epoch::new(0), 1 << 20);
    mesh.link(id(1), id(2));
    mesh.link(id(2), id(3));
    mesh.run_for(1_000_000);
    assert!((0..1000).all(|key| mesh.owners(key) == [Some(2); 3]));
    assert!(mesh.nodes[&id(3)].is_synchronised());
    let end_us = |node: u16| mesh.kernels[&id(node)].end_us(7).unwrap();
    assert!(end_us(3).abs_diff(end_us(2)) < 2000, "the end that the kernel says");
}

#[test]
fn the_claims_of_a_node_that_is_gone_are_freed_after_a_minute_and_come_back_with_it() {
    let mut mesh = Mesh::linked(3, 1);
    (0..1000).for_each(|key| mesh.claim(id(2), key, 7_200_000));
    mesh.run_for(5_000_000);
    [1, 3].into_iter().for_each(|node| mesh.unlink(id(node), id(2)));
    mesh.run_for(58_000_000);
    let held = |mesh: &Mesh| [1, 3].map(|node| mesh.nodes[&id(node)].claims());
    assert_eq!(held(&mesh), [1000; 2]);
    mesh.run_for(6_000_000);
    assert_eq!(held(&mesh), [0; 2]);
    assert!([1, 3].iter().all(|node| mesh.nodes[&id(*node)].is_swept(id(2), Epoch::new(0))));
    // Its daemon has been there all the time.
    [1, 3].into_iter().for_each(|node| mesh.link(id(node), id(2)));
    mesh.run_for(1_000_000);
    assert_eq!(held(&mesh), [1000; 2]);
    assert!((0..1000).all(|key| mesh.owners(key) == [Some(2); 3]));
}

#[test]
fn what_a_peer_claims_lasts_no_longer_than_a_claim_of_its_class_can() {
    let lifetimes = lifetime::of_timers(500, 180_000, 7_200_000);
    let mut node = mesh::alone_with(id(1), lifetimes);
    let now = Now { monotonic_us: 1, unix_us: START_UNIX_US };
    node.handle_link_up(id(2), vec![mesh::underlay(id(2))], now);
    node.handle_message(id(2), &Message::Hello(mesh::hello(id(2), 1, 0)).encode(), now).unwrap();
    let classes = [Class::Short, Class::Proceeding, Class::Call];
    let purposes = classes.map(|class| Purpose::of(KeyKind::Request, class)).into_iter().chain([Purpose::UNKNOWN]);
    let claim = |(key, purpose)| Claim { purpose, ..mesh::claim(key, 1, wire::LIFETIME_MS as u32) };
    let claims: Vec<Claim> = (1..).zip(purposes).map(claim).collect();
    node.handle_message(id(2), &Message::Batch(mesh::stretch(0, claims.clone())).encode(), now).unwrap();
    let outputs = std::iter::from_fn(|| node.poll_output());
    let written = outputs.filter_map(|output| {
        let Output::Map(MapWrite::Claim { purpose, remaining_ms, .. }) = output else { return None };
        Some((purpose, remaining_ms / 1000))
    });
    let expected: Vec<_> = claims.iter().map(|claim| claim.purpose).zip([85, 231, 7215, 85]).collect();
    assert_eq!(written.collect::<Vec<_>>(), expected);
}

#[test]
fn what_the_programs_of_a_peer_say_lasts_no_longer_than_any_claim_can() {
    let mut node = mesh::alone_with(id(1), lifetime::of_timers(500, 180_000, 7_200_000));
    let now = Now { monotonic_us: 1, unix_us: START_UNIX_US };
    let later = Now { monotonic_us: 40_001, unix_us: START_UNIX_US + 40_000 };
    node.handle_link_up(id(2), vec![mesh::underlay(id(2))], now);
    node.handle_message(id(2), &Message::Hello(mesh::hello(id(2), 1, 0)).encode(), now).unwrap();
    node.handle_ask(1, 7, 8, now);
    while node.poll_output().is_some() {}
    node.handle_timeout(later);
    let number = std::iter::from_fn(|| node.poll_output()).find_map(|output| {
        let Output::AskKernel { number, .. } = output else { return None };
        Some(number)
    });
    let held = Held { kind: KeyKind::Request, epoch: Epoch::new(0), ticks: 30_000 };
    node.handle_kernel_answer(id(2), number.unwrap(), Some(held), later);
    let written = std::iter::from_fn(|| node.poll_output()).find_map(|output| {
        let Output::Map(MapWrite::Claim { purpose, remaining_ms, .. }) = output else { return None };
        Some((purpose.class(), remaining_ms / 1000))
    });
    assert_eq!(written, Some((Class::Call, 7206)));
}

#[test]
fn a_daemon_that_starts_takes_those_for_gone_of_whom_it_has_not_heard_for_a_minute() {
    let mut mesh = Mesh::linked(2, 1);
    mesh.start(id(1), Epoch::new(0), 1 << 20);
    mesh.link(id(1), id(2));
    let gone = |mesh: &Mesh| -> Vec<bool> { (1..4).map(|node| mesh.nodes[&id(1)].gone()[node]).collect() };
    mesh.run_for(58_000_000);
    assert_eq!(gone(&mesh), [false; 3]);
    mesh.run_for(6_000_000);
    assert_eq!(gone(&mesh), [false, false, true]);
}

/// Node 2 has claimed 7, then its daemon is another one; a peer that has never heard of the claim has made one of its
/// own, before or after that.
fn contested(is_before: bool, knows_claim: bool) -> Mesh {
    let mut mesh = Mesh::linked(3, 1);
    mesh.unlink(id(2), id(3));
    mesh.claim(id(2), 7, LIFETIME_MS);
    mesh.run_for(1000);
    mesh.unlink(id(1), id(2));
    mesh.unlink(id(1), id(3));
    if is_before {
        mesh.claim(id(3), 7, LIFETIME_MS);
    }
    if !knows_claim {
        mesh.kernels.get_mut(&id(2)).unwrap().claims.clear();
    }
    mesh.start(id(2), Epoch::new(0), 1000);
    mesh.run_for(1000);
    if !is_before {
        mesh.claim(id(3), 7, LIFETIME_MS);
    }
    mesh
}

#[test]
fn a_restored_claim_wins_against_a_peers_and_is_known_to_all_from_then_on() {
    for is_before in [true, false] {
        let mut mesh = contested(is_before, true);
        [(1, 2), (2, 3), (1, 3)].iter().for_each(|(a, b)| mesh.link(id(*a), id(*b)));
        mesh.run_for(1_000_000);
        assert_eq!(mesh.owners(7), [Some(2); 3]);
        assert!(mesh.nodes.values().all(|node| node.claim(7, mesh.now(id(1))).unwrap().owner == id(2)));
        assert_eq!(mesh.nodes[&id(3)].counters().conflicts_lost, 1);
    }
}

#[test]
fn a_claim_that_has_lost_is_written_over_although_the_kernel_holds_it() {
    let mut mesh = contested(true, false);
    // The new daemon learns of its own claim first, as one that is made now, and then of the earlier one.
    mesh.claim(id(2), 7, LIFETIME_MS);
    mesh.link(id(2), id(3));
    mesh.run_for(1_000_000);
    assert_eq!(mesh.owners(7)[1..], [Some(3), Some(3)]);
    assert_eq!(mesh.nodes[&id(2)].counters().conflicts_lost, 1);
}

#[test]
fn of_two_restored_claims_of_one_key_the_lower_nodes_wins_everywhere() {
    let mut mesh = Mesh::new(3, 1);
    for node in [2, 3] {
        mesh.claim(id(node), 7, LIFETIME_MS);
        mesh.start(id(node), Epoch::new(0), 1000);
    }
    [(1, 3), (1, 2), (2, 3)].iter().for_each(|(a, b)| mesh.link(id(*a), id(*b)));
    mesh.run_for(1_000_000);
    assert_eq!(mesh.owners(7), [Some(2); 3]);
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
    assert!(mesh.nodes.values().all(|node| node.counters().asks_sent == 0), "without a question");
}

#[test]
fn what_the_egress_program_says_after_the_start_changes_the_restored_claim() {
    let mut mesh = Mesh::linked(2, 1);
    mesh.claim(id(2), 7, 240_000);
    mesh.unlink(id(1), id(2));
    mesh.start(id(2), Epoch::new(0), 1000);
    mesh.link(id(1), id(2));
    mesh.run_for(1_000_000);
    mesh.claim(id(2), 7, LIFETIME_MS);
    mesh.run_for(1_000_000);
    let claim = mesh.nodes[&id(1)].claim(7, mesh.now(id(1))).unwrap();
    assert_eq!(claim.claimed_at_unix_us, 0, "it stays the one made before all others");
    let left_us = claim.expires_us - mesh.now_us;
    assert!((35_900_000..36_100_000).contains(&left_us), "{left_us}");
    // A claim of the same key that a peer made meanwhile, as an honest peer would tell of it.
    let late = mesh::claim(7, 1, 240_000);
    mesh.deliver(id(1), id(2), &Message::Batch(mesh::stretch(0, vec![late])).encode());
    assert_eq!(mesh.owners(7), [Some(2); 2]);
}
