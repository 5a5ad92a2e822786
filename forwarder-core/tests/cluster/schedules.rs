//! What holds of asks and claims whatever happens when.

use std::collections::{BTreeMap, BTreeSet};

use forwarder_common::ids::{Epoch, NodeId};
use forwarder_core::node::Node;
use proptest::prelude::*;

use super::mesh::{Mesh, id, pairs};

const LIFETIME_MS: u64 = 37_000;
/// How long an ask is open at most.
const TIMEOUT_US: u64 = 1_000_000;
/// How much later than its owner says a claim may end at a peer: the way there.
const LATE_US: i64 = 21_000;
/// How much later an end may be by its owner's restart: the next daemon is told whole milliseconds.
const RESTORED_US: i64 = 1000;
/// How much later an end may be in its owner's kernel, which is told whole milliseconds when the claim comes back.
const ROUNDED_US: i64 = 1000;
/// By how much an end may move before the kernel hears of it.
const MOVE_US: i64 = 500_000;

#[derive(Clone, Debug)]
enum Step {
    Claim { node: u16, key: u64, remaining_ms: u64 },
    Ask { node: u16, request_key: u64, reply_key: u64 },
    Link { pair: usize },
    Unlink { pair: usize },
    Lose { per_mille: u64 },
    Pass { us: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (node, key) = (|| 1..=4_u16, || 1..12_u64);
    let step = prop_oneof![
        3 => (node(), key(), 1..3000_u64).prop_map(|(node, key, remaining_ms)| Step::Claim { node, key, remaining_ms }),
        6 => (node(), key(), 0..12_u64)
            .prop_map(|(node, request_key, reply_key)| Step::Ask { node, request_key, reply_key }),
        1 => (0..6_usize).prop_map(|pair| Step::Link { pair }),
        1 => (0..6_usize).prop_map(|pair| Step::Unlink { pair }),
        1 => prop_oneof![Just(0_u64), 0..1000_u64].prop_map(|per_mille| Step::Lose { per_mille }),
        6 => prop_oneof![0..300_u64, 0..20_000_u64, 0..900_000_u64].prop_map(|us| Step::Pass { us }),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    #[test]
    fn every_ask_has_exactly_one_answer_within_a_second(seed in any::<u64>(), steps in steps()) {
        let mut mesh = Mesh::with_late_batches(4, seed >> 1);
        mesh.latency_us = (50, 20_000);
        let pairs = pairs(4);
        let mut asked = BTreeMap::new();
        for (ticket, step) in steps.into_iter().enumerate() {
            match step {
                Step::Claim { node, key, remaining_ms } => mesh.claim(id(node), key, remaining_ms),
                Step::Ask { node, request_key, reply_key } => {
                    asked.insert((id(node), ticket as u64), mesh.now_us);
                    mesh.ask(id(node), ticket as u64, request_key, reply_key);
                }
                Step::Link { pair } => mesh.link(pairs[pair].0, pairs[pair].1),
                Step::Unlink { pair } => mesh.unlink(pairs[pair].0, pairs[pair].1),
                Step::Lose { per_mille } => mesh.loss = per_mille,
                Step::Pass { us } => mesh.run_for(us),
            }
        }
        mesh.run_for(TIMEOUT_US);
        prop_assert!(mesh.asked.is_empty(), "without an answer: {:?}", mesh.asked);
        let mut answered = BTreeMap::new();
        for (node, kernel) in &mesh.kernels {
            for (ticket, _, at_us) in &kernel.answers {
                prop_assert!(at_us - asked[&(*node, *ticket)] <= TIMEOUT_US);
                prop_assert_eq!(answered.insert((*node, *ticket), *at_us), None);
            }
        }
        prop_assert_eq!(answered.len(), asked.len());
        prop_assert!(mesh.nodes.values().all(|node| node.asks() == 0));
        prop_assert_eq!(&mesh.errors, &[]);
    }

    #[test]
    fn without_loss_whatever_a_linked_peer_owns_is_found(
        seed in any::<u64>(), owner in 2..=4_u16, pause_us in 0..49_000_u64, keys in (1..9_u64, 0..9_u64)
    ) {
        let mut mesh = Mesh::with_late_batches(4, seed >> 1);
        mesh.latency_us = (50, 20_000);
        mesh.claim(id(owner), keys.0, LIFETIME_MS);
        mesh.run_for(pause_us);
        let start = mesh.now_us;
        mesh.ask(id(1), 5, keys.1 + 100, keys.0);
        mesh.run_for(40_000);
        let answers = mesh.answers(id(1), start);
        prop_assert!(matches!(answers[..], [(5, true, 0..40_000)]), "{:?}", answers);
    }
}

#[derive(Clone, Debug)]
enum Turn {
    Claim { node: u16, key: u64, remaining_ms: u64 },
    Link { pair: usize },
    Unlink { pair: usize },
    Lose { per_mille: u64 },
    Restart { node: u16 },
    NewEpoch { node: u16 },
    RestartDaemon { node: u16 },
    Pass { us: u64 },
}

fn turns(restarts: u32, daemons: u32) -> impl Strategy<Value = Vec<Turn>> {
    let (node, pair) = (|| 1..=4_u16, || 0..6_usize);
    let remaining_ms = prop_oneof![20_000..30_000_u64, 60_000..90_000_u64];
    let turn = prop_oneof![
        12 => (node(), 1..15_u64, remaining_ms)
            .prop_map(|(node, key, remaining_ms)| Turn::Claim { node, key, remaining_ms }),
        2 => pair().prop_map(|pair| Turn::Link { pair }),
        2 => pair().prop_map(|pair| Turn::Unlink { pair }),
        1 => prop_oneof![Just(0_u64), 0..900_u64].prop_map(|per_mille| Turn::Lose { per_mille }),
        restarts => node().prop_map(|node| Turn::Restart { node }),
        restarts => node().prop_map(|node| Turn::NewEpoch { node }),
        daemons => node().prop_map(|node| Turn::RestartDaemon { node }),
        8 => prop_oneof![0..300_u64, 0..20_000_u64, 0..900_000_u64].prop_map(|us| Turn::Pass { us }),
    ];
    proptest::collection::vec(turn, 1..80)
}

/// Plays the turns with clocks that may be an hour off, then links everybody and loses nothing more for as long as it
/// takes to repair.
fn played(seed: u64, turns: Vec<Turn>) -> Mesh {
    let mut mesh = Mesh::linked(4, seed >> 1);
    mesh.latency_us = (50, 20_000);
    for node in 1..=4 {
        let off_us = [-3_600_000_000, 0, 3_600_000_000].get(mesh.random_below(4) as usize).copied().unwrap_or(0);
        mesh.clock_off_us.insert(id(node), off_us);
    }
    let (pairs, mut down, mut epochs) = (pairs(4), BTreeSet::new(), BTreeMap::new());
    for turn in turns {
        match turn {
            Turn::Claim { node, key, remaining_ms } => mesh.claim(id(node), key, remaining_ms),
            Turn::Link { pair } => {
                let (a, b) = *pairs.get(pair).unwrap();
                mesh.link(a, b);
                down.remove(&(a, b));
            }
            Turn::Unlink { pair } => {
                let (a, b) = *pairs.get(pair).unwrap();
                mesh.unlink(a, b);
                down.insert((a, b));
            }
            Turn::Lose { per_mille } => mesh.loss = per_mille,
            Turn::Restart { node } | Turn::RestartDaemon { node } => {
                for (a, b) in pairs.iter().filter(|(a, b)| [*a, *b].contains(&id(node))) {
                    mesh.unlink(*a, *b);
                    down.insert((*a, *b));
                }
                let epoch = epochs.entry(node).or_insert(0_u64);
                *epoch += u64::from(matches!(turn, Turn::Restart { .. }));
                mesh.start(id(node), Epoch::new(*epoch), 1 << 20);
            }
            Turn::NewEpoch { node } => {
                let epoch = epochs.entry(node).or_insert(0_u64);
                *epoch += 1;
                mesh.set_epoch(id(node), *epoch);
            }
            Turn::Pass { us } => mesh.run_for(us),
        }
    }
    mesh.loss = 0;
    down.into_iter().for_each(|(a, b)| mesh.link(a, b));
    mesh.run_for(10_000_000);
    mesh
}

/// The owner of a key that each node goes by: that of a live claim of a node that is up in that epoch, or its own.
fn owners(mesh: &Mesh, key: u64) -> Vec<Option<u16>> {
    let owner = |node: &NodeId| {
        let held = mesh.nodes.get(node)?.claim(key, mesh.now(*node))?;
        let is_live = mesh.nodes.get(&held.owner)?.own_epochs().contains(held.epoch);
        let is_up = held.owner == *node || mesh.kernels.get(node)?.is_live(held.owner, held.epoch);
        (is_live && is_up).then_some(held.owner.number())
    };
    mesh.nodes.keys().map(owner).collect()
}

/// Nodes at which a claim ends at another time than at its owner, by core or kernel, and by how many microseconds.
fn wrong_ends(mesh: &Mesh, key: u64, late_us: i64) -> Vec<(u16, i64, i64)> {
    let mut wrong = Vec::new();
    for (node, state) in &mesh.nodes {
        let Some(held) = state.claim(key, mesh.now(*node)) else { continue };
        let said = mesh.kernels.get(&held.owner).and_then(|kernel| kernel.end_us(key)).unwrap_or(0);
        let kernel = mesh.kernels.get(node).and_then(|kernel| kernel.end_us(key)).unwrap_or(0);
        let off = |end_us: u64| end_us.cast_signed() - said.cast_signed();
        let (by_core, by_kernel) = (off(held.expires_us), off(kernel));
        if !(-ROUNDED_US..late_us).contains(&by_core) || !(-MOVE_US..late_us + MOVE_US).contains(&by_kernel) {
            wrong.push((node.number(), by_core, by_kernel));
        }
    }
    wrong
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn all_nodes_come_to_the_same_owner_whatever_was_cut_lost_or_overtaken(seed in any::<u64>(), turns in turns(0, 0)) {
        let mesh = played(seed, turns);
        for key in 1..15 {
            let owners = owners(&mesh, key);
            prop_assert!(owners.iter().all(|owner| *owner == owners[0]), "key {key}: {owners:?}");
        }
        prop_assert!(mesh.nodes.values().all(Node::is_synchronised));
        prop_assert_eq!(&mesh.errors, &[]);
    }

    #[test]
    fn every_claim_ends_everywhere_when_its_owner_said_last(seed in any::<u64>(), turns in turns(0, 0)) {
        let mesh = played(seed, turns);
        for key in 1..15 {
            prop_assert_eq!(wrong_ends(&mesh, key, LATE_US), [], "key {}", key);
        }
    }

    #[test]
    fn all_nodes_come_to_the_same_owner_after_restarts_of_daemons_alone(seed in any::<u64>(), turns in turns(0, 1)) {
        let mesh = played(seed, turns);
        for key in 1..15 {
            let owners = owners(&mesh, key);
            prop_assert!(owners.iter().all(|owner| *owner == owners[0]), "key {key}: {owners:?}");
            prop_assert_eq!(wrong_ends(&mesh, key, LATE_US + RESTORED_US), [], "key {}", key);
        }
        prop_assert!(mesh.nodes.values().all(Node::is_synchronised));
        prop_assert_eq!(&mesh.errors, &[]);
    }

    #[test]
    fn no_two_nodes_go_by_different_owners_after_restarts_and_new_epochs(seed in any::<u64>(), turns in turns(1, 0)) {
        let mesh = played(seed, turns);
        for key in 1..15 {
            let mut named: Vec<u16> = owners(&mesh, key).into_iter().flatten().collect();
            named.dedup();
            prop_assert!(named.len() <= 1, "key {key}: {:?}", owners(&mesh, key));
        }
        prop_assert!(mesh.nodes.values().all(Node::is_synchronised));
        prop_assert_eq!(&mesh.errors, &[]);
    }
}
