//! The sans-IO node, driven by a network in virtual time.

use std::net::IpAddr;

use forwarder_common::ids::{Epoch, Epochs};
use forwarder_core::node::{Now, ProtocolError};
use forwarder_core::wire::{Message, WireError};

use super::mesh::{Mesh, START_UNIX_US, alone, claim, hello, id, pairs, stretch, underlay};

const LIFETIME_MS: u64 = 37_000;

#[test]
fn a_claim_reaches_every_peer_with_its_remaining_lifetime() {
    let mut mesh = Mesh::linked(3, 1);
    mesh.claim(id(2), 77, LIFETIME_MS);
    mesh.run_for(1000);
    assert_eq!(mesh.owners(77), [Some(2), Some(2), Some(2)]);
    let (_, epoch, remaining_ms) = mesh.kernels[&id(1)].claims[&77];
    assert_eq!((epoch, remaining_ms), (Epoch::new(0), LIFETIME_MS));
    let ages = mesh.nodes[&id(1)].ages();
    assert_eq!((ages.count, ages.max_us), (1, 100));
    assert!(mesh.errors.is_empty());
}

#[test]
fn an_idle_node_sends_at_once_and_a_busy_one_in_batches() {
    let mut mesh = Mesh::linked(9, 1);
    let start = mesh.now_us;
    mesh.sent.clear();
    for key in 0..1000 {
        mesh.claim(id(1), key, LIFETIME_MS);
        mesh.run_for(10);
    }
    mesh.run_for(10_000);
    let times: Vec<u64> = mesh.sent.iter().filter(|sent| sent.to == id(2)).map(|sent| sent.at_us - start).collect();
    assert_eq!(times[0], 0, "the first claim waits for nothing");
    // Eight peers: one batch each 8 × 25 µs.
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 200), "{times:?}");
    assert!((50..=52).contains(&times.len()), "{}", times.len());
    for key in 0..1000 {
        assert_eq!(mesh.owners(key), [Some(1); 9]);
    }
}

#[test]
fn waiting_claims_leave_in_full_messages() {
    let mut mesh = Mesh::linked(2, 1);
    mesh.sent.clear();
    (0..980).for_each(|key| mesh.claim(id(1), key, LIFETIME_MS));
    mesh.run_for(0);
    assert_eq!(mesh.sent.len(), 20, "49 claims a message");
    assert_eq!(mesh.sent.iter().map(|sent| sent.bytes).max(), Some(20 + 49 * 23));
}

#[test]
fn claims_of_one_key_converge_on_the_earliest_whatever_the_network_does() {
    for seed in 0..50 {
        let mut mesh = Mesh::linked(5, seed);
        mesh.latency_us = (50, 20_000);
        let mut expected = Vec::new();
        for key in 0..40 {
            let mut first = None;
            for _ in 0..4 {
                let node = id(1 + mesh.random_below(5) as u16);
                mesh.claim(node, key, LIFETIME_MS);
                if first.is_none_or(|(at, owner)| (mesh.now_us, node) < (at, owner)) {
                    first = Some((mesh.now_us, node));
                }
                let pause = mesh.random_below(3) * 700;
                mesh.run_for(pause);
            }
            expected.push(Some(first.unwrap().1.number()));
        }
        mesh.run_for(1_000_000);
        for (key, owner) in expected.into_iter().enumerate() {
            assert_eq!(mesh.owners(key as u64), [owner; 5], "seed {seed}, key {key}");
        }
    }
}

#[test]
fn a_late_joiner_gets_every_effective_claim() {
    let mut mesh = Mesh::new(3, 1);
    mesh.link(id(1), id(2));
    mesh.run_for(1000);
    (0..10_000).for_each(|key| mesh.claim(id(1 + (key % 2) as u16), key, LIFETIME_MS));
    mesh.claim(id(1), 99_999, 500);
    mesh.run_for(1_000_000);
    mesh.link(id(1), id(3));
    mesh.link(id(2), id(3));
    mesh.run_for(1_000_000);
    let joiner = &mesh.kernels[&id(3)];
    assert_eq!(joiner.claims.len(), 10_000, "all, without the one that ended");
    assert_eq!(joiner.claims[&4].0, id(1));
    assert_eq!(joiner.claims[&5].0, id(2));
    assert_eq!(joiner.claims[&5].2, LIFETIME_MS - 1000, "what was left of it when it was sent");
    assert_eq!(mesh.nodes[&id(3)].ages().count, 0, "a snapshot says nothing about the way of new claims");
}

#[test]
fn a_healed_partition_converges_on_the_earlier_claims() {
    let mut mesh = Mesh::linked(4, 3);
    let cut: Vec<_> = pairs(4).into_iter().filter(|(a, b)| (a.number() <= 2) != (b.number() <= 2)).collect();
    cut.iter().for_each(|(a, b)| mesh.unlink(*a, *b));
    mesh.claim(id(1), 7, LIFETIME_MS);
    mesh.claim(id(4), 8, LIFETIME_MS);
    mesh.run_for(10_000);
    mesh.claim(id(3), 7, LIFETIME_MS);
    mesh.claim(id(2), 8, LIFETIME_MS);
    mesh.run_for(10_000_000);
    assert_eq!(mesh.owners(7), [Some(1), Some(1), Some(3), Some(3)], "both sides work");
    assert_eq!(mesh.owners(8), [Some(2), Some(2), Some(4), Some(4)], "both sides work");
    cut.iter().for_each(|(a, b)| mesh.link(*a, *b));
    mesh.run_for(1_000_000);
    assert_eq!(mesh.owners(7), [Some(1); 4]);
    assert_eq!(mesh.owners(8), [Some(4); 4]);
}

#[test]
fn of_a_dead_peer_no_claim_is_written_and_none_wins_against_anybody() {
    let mut mesh = Mesh::linked(3, 1);
    mesh.claim(id(1), 7, LIFETIME_MS);
    mesh.run_for(1000);
    let writes = mesh.kernels[&id(2)].claim_writes;
    mesh.unlink(id(1), id(2));
    mesh.unlink(id(1), id(3));
    assert_eq!(mesh.kernels[&id(2)].up[&id(1)], (false, Epochs::EMPTY.with(Epoch::new(0))));
    assert_eq!(mesh.kernels[&id(2)].claim_writes, writes, "no claim is touched");
    mesh.claim(id(2), 7, LIFETIME_MS);
    mesh.run_for(1000);
    assert_eq!(mesh.owners(7), [Some(1), Some(2), Some(2)]);
}

#[test]
fn a_new_epoch_ends_the_claims_of_the_old_one() {
    let mut mesh = Mesh::linked(3, 1);
    mesh.claim(id(1), 7, LIFETIME_MS);
    mesh.run_for(1000);
    mesh.unlink(id(1), id(2));
    mesh.unlink(id(1), id(3));
    mesh.start(id(1), Epoch::new(1), 1000);
    mesh.link(id(1), id(2));
    mesh.link(id(1), id(3));
    mesh.run_for(1000);
    assert_eq!(mesh.kernels[&id(3)].up[&id(1)], (true, Epochs::EMPTY.with(Epoch::new(1))));
    mesh.claim(id(2), 7, LIFETIME_MS);
    mesh.run_for(1000);
    assert_eq!(mesh.owners(7), [Some(2); 3], "the later claim is effective, the earlier is not");
}

#[test]
fn a_replaced_link_keeps_the_peer_up_and_repeats_nothing_to_the_kernel() {
    let mut mesh = Mesh::linked(2, 1);
    (0..100).for_each(|key| mesh.claim(id(1), key, LIFETIME_MS));
    mesh.run_for(1000);
    let writes = mesh.kernels[&id(2)].claim_writes;
    mesh.kernels.get_mut(&id(2)).unwrap().up.clear();
    mesh.link(id(1), id(2));
    mesh.run_for(1_000_000);
    assert_eq!(mesh.kernels[&id(2)].claim_writes, writes);
    assert!(mesh.kernels[&id(2)].up.is_empty(), "the peer was never down");
    assert_eq!(mesh.nodes[&id(2)].counters().snapshots_received, 0, "nor to the peer");
}

#[test]
fn a_refresh_lengthens_the_claim_on_the_peers_and_keeps_its_time() {
    let mut mesh = Mesh::linked(2, 1);
    mesh.claim(id(1), 7, 10_000);
    mesh.run_for(5_000_000);
    let before = mesh.nodes[&id(2)].claim(7, mesh.now(id(2))).unwrap();
    mesh.claim(id(1), 7, 10_000);
    mesh.run_for(1000);
    let after = mesh.nodes[&id(2)].claim(7, mesh.now(id(2))).unwrap();
    assert_eq!(after.claimed_at_unix_us, before.claimed_at_unix_us);
    assert_eq!(after.expires_us - before.expires_us, 5_000_000);
    assert_eq!(mesh.kernels[&id(2)].claim_writes, 2);
    assert_eq!(mesh.nodes[&id(2)].ages().count, 1, "a refresh is no new claim");
    mesh.run_for(14_000_000);
    assert_eq!(mesh.nodes[&id(2)].claim(7, mesh.now(id(2))), None);
    assert_eq!(mesh.nodes[&id(2)].claims(), 0, "what has ended is swept");
}

#[test]
fn an_owner_answers_a_peer_that_claims_in_vain() {
    let mut mesh = Mesh::linked(2, 1);
    mesh.loss = 1000;
    mesh.claim(id(1), 7, LIFETIME_MS);
    mesh.run_for(1000);
    assert_eq!(mesh.owners(7), [Some(1), None], "the network lost it");
    mesh.loss = 0;
    mesh.claim(id(2), 7, LIFETIME_MS);
    mesh.run_for(1000);
    assert_eq!(mesh.owners(7), [Some(1), Some(1)]);
    assert_eq!(mesh.nodes[&id(1)].counters().conflicts_won, 1);
    assert_eq!(mesh.nodes[&id(2)].counters().conflicts_lost, 1);
}

#[test]
fn a_clock_an_hour_off_loses_no_claim() {
    for off in [-3_600_000_000, 3_600_000_000] {
        let mut mesh = Mesh::linked(3, 1);
        mesh.clock_off_us.insert(id(2), off);
        mesh.claim(id(2), 7, LIFETIME_MS);
        mesh.claim(id(1), 8, LIFETIME_MS);
        mesh.run_for(1000);
        assert_eq!(mesh.owners(7), [Some(2); 3]);
        assert_eq!(mesh.owners(8), [Some(1); 3]);
        let now = mesh.now(id(1));
        let held = mesh.nodes[&id(1)].claim(7, now).unwrap();
        let claimed_at = mesh.nodes[&id(2)].claim(7, mesh.now(id(2))).unwrap().claimed_at_unix_us;
        assert_eq!(held.claimed_at_unix_us, claimed_at, "all nodes compare the same numbers");
        assert_eq!(held.expires_us, now.monotonic_us - 900 + LIFETIME_MS * 1000, "no clock is in a lifetime");
        assert_eq!(mesh.nodes[&id(1)].counters().claims_from_the_future, u64::from(off > 0));
    }
}

#[test]
fn a_hello_names_no_underlay_address_but_the_links_and_the_certificates() {
    let named: [IpAddr; 2] = ["10.9.7.2", "2001:db8::2"].map(|address| address.parse().unwrap());
    let good = ["10.9.0.2", "10.9.7.2", "2001:db8::2"].map(|said| (said, true));
    let bad = ["::ffff:10.9.7.2", "10.9.0.3", "2001:db8::3"].map(|said| (said, false));
    for (said, is_good) in good.into_iter().chain(bad) {
        let (mut node, now) = (alone(id(1)), Now { monotonic_us: 0, unix_us: START_UNIX_US });
        let said: IpAddr = said.parse().unwrap();
        let mut hello = hello(id(2), 1, 0);
        let wrong = ProtocolError::Underlay { said, link: Some(underlay(id(2))) };
        node.handle_link_up(id(2), [&[underlay(id(2))], &named[..]].concat(), now);
        let mut say = |underlay| {
            (hello.underlay, hello.sequence) = (underlay, hello.sequence + 1);
            node.handle_message(id(2), &Message::Hello(hello.clone()).encode(), now)
        };
        assert_eq!(say(said), if is_good { Ok(()) } else { Err(wrong) }, "{said}");
        assert_eq!(say(underlay(id(2))), Ok(()));
        assert_eq!(say(said), if is_good { Ok(()) } else { Err(wrong) }, "{said}, after a good one");
    }
}

#[test]
fn a_peer_that_breaks_the_protocol_is_found_out_and_changes_nothing() {
    let batch = Message::Batch(stretch(0, vec![claim(7, 1, 1000)])).encode();
    let mut mesh = Mesh::new(2, 1);
    let start = Now { monotonic_us: 0, unix_us: START_UNIX_US };
    mesh.nodes.get_mut(&id(1)).unwrap().handle_link_up(id(2), vec![underlay(id(2))], start);
    mesh.deliver(id(2), id(1), &batch);
    let mut newer = batch.clone();
    newer[0] = 4;
    mesh.deliver(id(2), id(1), &newer);
    mesh.deliver(id(2), id(1), &vec![3; 9000]);
    let wire = |error| (id(1), ProtocolError::Wire(error));
    let expected = [(id(1), ProtocolError::BeforeHello), wire(WireError::Version(4)), wire(WireError::Oversized)];
    assert_eq!(mesh.errors, expected);
    assert_eq!(mesh.nodes[&id(1)].counters().protocol_errors, 3);
    assert_eq!(mesh.owners(7), [None, None]);
    assert!(mesh.kernels[&id(1)].up.is_empty());
}

#[test]
fn a_message_of_a_link_that_is_gone_is_ignored() {
    let mut mesh = Mesh::new(2, 1);
    mesh.deliver(id(2), id(1), &[9, 9, 9]);
    assert!(mesh.errors.is_empty());
}

#[test]
fn a_node_alone_sends_nothing_and_keeps_nothing_waiting() {
    let mut mesh = Mesh::new(1, 1);
    (0..1000).for_each(|key| mesh.claim(id(1), key, LIFETIME_MS));
    mesh.run_for(1000);
    assert_eq!((mesh.sent.len(), mesh.nodes[&id(1)].waiting()), (0, 0));
}

#[test]
fn one_seed_gives_one_history() {
    let history = |seed| {
        let mut mesh = Mesh::linked(4, seed);
        mesh.latency_us = (50, 5000);
        mesh.loss = 100;
        for key in 0..200 {
            let node = id(1 + mesh.random_below(4) as u16);
            mesh.claim(node, key % 50, LIFETIME_MS);
            mesh.run_for(30);
        }
        mesh.run_for(1_000_000);
        mesh.sent.iter().map(|sent| (sent.at_us, sent.from, sent.to, sent.bytes)).collect::<Vec<_>>()
    };
    assert_eq!(history(5), history(5));
    assert_ne!(history(5), history(6));
}
