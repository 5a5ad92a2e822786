//! The claims of an INVITE end together, at all nodes and in all kernels, in virtual time.

use std::collections::BTreeSet;

use forwarder_common::ids::Epoch;
use forwarder_core::node::{InviteSign, Node, Now};

use super::mesh::{Mesh, START_UNIX_US, alone, id, local};

/// Of an INVITE that is under way, of one that is answered, and of one that is refused.
const PROCEEDING_MS: u64 = 223_000;
const ENDED_MS: u64 = 43_000;
const FAILED_MS: u64 = 77_000;
/// The way there.
const LATE_US: u64 = 200;

const L: u64 = 7;
const REPLIES: [u64; 2] = [101, 102];
/// The server transactions.
const ONE: u64 = 1001;
const OTHER: u64 = 1002;

/// How long the claims of the keys last yet, in seconds: the same at all cores and in all kernels.
fn remaining_s(mesh: &Mesh) -> Vec<u64> {
    let left_s = |end_us: Option<u64>| end_us.unwrap_or(0).saturating_sub(mesh.now_us + LATE_US).div_ceil(1_000_000);
    let of_key = |key: u64| {
        let ends = mesh.nodes.iter().flat_map(|(node, state)| {
            let core = state.claim(key, mesh.now(*node)).map(|held| held.expires_us);
            [left_s(core), left_s(mesh.kernels.get(node).and_then(|kernel| kernel.end_us(key)))]
        });
        let ends: BTreeSet<u64> = ends.collect();
        assert_eq!(ends.len(), 1, "{key}: {ends:?}");
        ends.into_iter().sum()
    };
    [L].into_iter().chain(REPLIES).map(of_key).collect()
}

/// Three nodes; the first one's proxy has got an INVITE, and sent it on by two branches.
fn forked() -> Mesh {
    let mut mesh = Mesh::linked(3, 1);
    mesh.claim(id(1), L, PROCEEDING_MS);
    mesh.sign(id(1), L, InviteSign::Begun);
    mesh.sign(id(1), L, InviteSign::Provisional { server: ONE });
    for reply in REPLIES {
        mesh.claim(id(1), reply, PROCEEDING_MS);
        mesh.sign(id(1), L, InviteSign::SentOn { reply });
    }
    mesh.run_for(1_000_000);
    assert_eq!(remaining_s(&mesh), [222; 3]);
    mesh
}

#[test]
fn all_keys_of_an_answered_invite_end_together_at_all_nodes_and_in_all_kernels() {
    let mut mesh = forked();
    mesh.sign(id(1), L, InviteSign::Final { server: ONE, remaining_ms: ENDED_MS });
    mesh.run_for(1_000_000);
    assert_eq!(remaining_s(&mesh), [42; 3]);
    assert_eq!(mesh.nodes.get(&id(1)).unwrap().counters().claims_ended, 3);
    mesh.run_for(ENDED_MS * 1000 + 2_000_000);
    assert!(mesh.nodes.values().all(|node| node.claims() == 0), "and their memory is free");
}

#[test]
fn a_final_reply_to_somebody_elses_branch_makes_no_claim_of_a_ringing_invite_shorter() {
    let mut mesh = forked();
    mesh.sign(id(1), L, InviteSign::Provisional { server: OTHER });
    mesh.sign(id(1), L, InviteSign::Final { server: OTHER, remaining_ms: FAILED_MS });
    mesh.run_for(1_000_000);
    assert_eq!(remaining_s(&mesh), [221; 3]);
    mesh.sign(id(1), L, InviteSign::Final { server: ONE, remaining_ms: FAILED_MS });
    mesh.run_for(1_000_000);
    assert_eq!(remaining_s(&mesh), [76; 3]);
}

#[test]
fn what_was_sent_on_is_claimed_as_long_as_its_invite_rings() {
    let mut mesh = forked();
    mesh.run_for(100_000_000);
    mesh.claim(id(1), L, PROCEEDING_MS);
    mesh.sign(id(1), L, InviteSign::Provisional { server: ONE });
    mesh.run_for(1_000_000);
    assert_eq!(remaining_s(&mesh), [222; 3]);
}

#[test]
fn an_end_that_the_programs_have_put_off_meanwhile_stays_and_is_told() {
    let mut mesh = forked();
    mesh.run_for(100_000_000);
    // The program has sent the INVITE on once more, but what it says of that waits in the ring buffer.
    mesh.kernels.get_mut(&id(1)).unwrap().claim(REPLIES[0], id(1), Epoch::new(0), PROCEEDING_MS, mesh.now_us);
    mesh.sign(id(1), L, InviteSign::Final { server: ONE, remaining_ms: ENDED_MS });
    let end_us = mesh.kernels.get(&id(1)).unwrap().end_us(REPLIES[0]).unwrap();
    assert_eq!(end_us, mesh.now_us + PROCEEDING_MS * 1000);
    mesh.claim(id(1), REPLIES[0], PROCEEDING_MS);
    mesh.run_for(1_000_000);
    assert_eq!(remaining_s(&mesh), [42, 222, 42]);
}

#[test]
fn of_an_invite_that_an_earlier_daemon_has_seen_begin_nothing_is_concluded() {
    let mut node: Node = alone(id(1));
    let now = Now { monotonic_us: 1, unix_us: START_UNIX_US };
    node.handle_restored(local(L, now, PROCEEDING_MS, Epoch::new(0)), now);
    node.handle_invite(L, InviteSign::Provisional { server: ONE }, now);
    node.handle_invite(L, InviteSign::Final { server: ONE, remaining_ms: ENDED_MS }, now);
    assert_eq!(node.claim(L, now).unwrap().expires_us, now.monotonic_us + PROCEEDING_MS * 1000);
    // Nor of one that a peer owns.
    node.handle_invite(9, InviteSign::Begun, now);
    node.handle_invite(9, InviteSign::Final { server: ONE, remaining_ms: ENDED_MS }, now);
    assert_eq!(node.counters().claims_ended, 0);
}
