//! What an owner says of its claim later counts everywhere, in virtual time.

use forwarder_common::ids::{Epoch, NodeId};
use forwarder_core::node::{Kind, Node};

use super::mesh::{Mesh, id};

/// Of an INVITE that is under way, and of one that is answered.
const PROCEEDING_MS: u64 = 245_000;
const ENDED_MS: u64 = 47_000;
/// By then whatever was lost once is found missing and has come.
const REPAIRED_US: u64 = 2_600_000;
/// By how much an end may move before the kernel hears of it.
const MOVE_US: u64 = 500_000;
/// The way there.
const LATE_US: u64 = 200;

/// How long the claim of a key lasts yet at each node, in milliseconds: by its core and by its kernel.
fn remaining(mesh: &Mesh, key: u64) -> Vec<(u64, u64)> {
    let left = |end_us: Option<u64>| end_us.unwrap_or(0).saturating_sub(mesh.now_us + LATE_US).div_ceil(1000);
    let of = |(node, state): (&NodeId, &Node)| {
        let held = state.claim(key, mesh.now(*node));
        (left(held.map(|held| held.expires_us)), left(mesh.kernels.get(node).and_then(|kernel| kernel.end_us(key))))
    };
    mesh.nodes.iter().map(of).collect()
}

#[test]
fn an_answered_call_lasts_at_all_nodes_and_in_all_kernels_no_longer_than_its_owner_says() {
    let mut mesh = Mesh::linked(3, 1);
    mesh.claim(id(1), 7, PROCEEDING_MS);
    mesh.run_for(1_000_000);
    assert_eq!(remaining(&mesh, 7), [(PROCEEDING_MS - 1000, PROCEEDING_MS - 1000); 3]);
    mesh.claim(id(1), 7, ENDED_MS);
    mesh.run_for(1_000_000);
    assert_eq!(remaining(&mesh, 7), [(ENDED_MS - 1000, ENDED_MS - 1000); 3]);
    mesh.run_for(ENDED_MS * 1000 + 2_000_000);
    assert!(mesh.nodes.values().all(|node| node.claims() == 0), "and its memory is free");
}

#[test]
fn the_last_word_counts_also_where_it_came_first_or_had_to_be_repaired() {
    for seed in 0..30 {
        let mut mesh = Mesh::linked(3, seed);
        (mesh.latency_us, mesh.loss) = ((50, 20_000), 300);
        for key in 0..40 {
            for turn in 0..1 + mesh.random_below(6) {
                mesh.claim(id(1), key, if turn % 2 == 0 { PROCEEDING_MS } else { ENDED_MS });
                let pause = mesh.random_below(3000);
                mesh.run_for(pause);
            }
        }
        mesh.loss = 0;
        mesh.run_for(REPAIRED_US);
        for key in 0..40 {
            let ends: Vec<u64> = mesh.kernels.values().map(|kernel| kernel.end_us(key).unwrap()).collect();
            let near = |end: &u64| end.abs_diff(ends[0]) < MOVE_US + 20_000;
            assert!(ends.iter().all(near), "seed {seed}, key {key}: {ends:?}");
        }
    }
}

#[test]
fn a_peer_that_was_cut_off_hears_the_last_word_with_its_next_link() {
    let mut mesh = Mesh::linked(2, 1);
    mesh.claim(id(1), 7, PROCEEDING_MS);
    mesh.run_for(1_000_000);
    mesh.unlink(id(1), id(2));
    // More words than a number can tell apart.
    for turn in 0..200 {
        mesh.claim(id(1), 7, if turn % 2 == 0 { PROCEEDING_MS } else { ENDED_MS });
    }
    mesh.link(id(1), id(2));
    mesh.run_for(1_000_000);
    assert_eq!(remaining(&mesh, 7), [(ENDED_MS - 1000, ENDED_MS - 1000); 2]);
}

#[test]
fn the_words_of_a_new_daemon_count_although_it_has_forgotten_the_earlier_ones() {
    for changes in 0..100 {
        let mut mesh = Mesh::linked(2, 1);
        (0..=changes).for_each(|_| mesh.claim(id(1), 7, PROCEEDING_MS));
        mesh.run_for(1_000_000);
        mesh.unlink(id(1), id(2));
        mesh.start(id(1), Epoch::new(0), 1000);
        mesh.link(id(1), id(2));
        mesh.run_for(1_000_000);
        mesh.claim(id(1), 7, ENDED_MS);
        mesh.run_for(1_000_000);
        assert_eq!(remaining(&mesh, 7), [(ENDED_MS - 1000, ENDED_MS - 1000); 2], "after {changes} changes");
    }
}

#[test]
fn a_claim_that_is_made_again_at_its_end_is_no_old_version() {
    let mut mesh = Mesh::linked(2, 1);
    (0..3).for_each(|_| mesh.claim(id(1), 7, ENDED_MS));
    // It has ended at its owner, and not yet at the peer.
    mesh.run_for(ENDED_MS * 1000 + 20);
    assert!(mesh.nodes[&id(2)].claim(7, mesh.now(id(2))).is_some(), "too late");
    mesh.claim(id(1), 7, ENDED_MS);
    mesh.run_for(1_000_000);
    assert_eq!(remaining(&mesh, 7), [(ENDED_MS - 1000, ENDED_MS - 1000); 2]);
}

#[test]
fn an_answer_to_an_ask_does_not_undo_a_later_word() {
    let mut mesh = Mesh::with_late_batches(2, 1);
    mesh.claim(id(1), 7, PROCEEDING_MS);
    mesh.run_for(1000);
    mesh.claim(id(1), 7, ENDED_MS);
    mesh.ask(id(2), 5, 7, 0);
    mesh.run_for(1000);
    assert_eq!(remaining(&mesh, 7)[1].0, ENDED_MS - 1, "the batch with the first word is on its way still");
    mesh.run_for(REPAIRED_US);
    let (passed_ms, later_ms) = (REPAIRED_US / 1000 + 1, 50);
    let left: Vec<u64> = remaining(&mesh, 7).iter().map(|(core, _)| *core).collect();
    assert_eq!(
        left,
        [ENDED_MS - passed_ms, ENDED_MS - passed_ms + later_ms],
        "the same word came again by a longer way"
    );
    assert!(mesh.sent.iter().any(|sent| sent.kind == Kind::Batch));
}
