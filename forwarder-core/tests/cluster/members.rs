//! Who belongs to the cluster, in virtual time: nobody is told by hand but the seed.

use std::net::SocketAddr;

use forwarder_common::ids::{Epoch, NodeId};
use forwarder_core::node::ProtocolError;
use forwarder_core::wire::Gossip;

use super::mesh::{Mesh, id, listen, pairs};

const LIFETIME_MS: u64 = 37_000;
/// How long a member that is down is called on.
const FORGET_US: u64 = 60_000_000;

fn is_up(mesh: &Mesh, node: NodeId, peer: NodeId) -> bool {
    mesh.kernels.get(&node).unwrap().up.get(&peer).is_some_and(|(up, _)| *up)
}

fn everybody_sees_everybody(mesh: &Mesh) -> bool {
    pairs(mesh.nodes.len() as u16).into_iter().all(|(a, b)| is_up(mesh, a, b) && is_up(mesh, b, a))
}

/// All nodes know one seed, node `seed`, and nothing else.
fn seeded(nodes: u16, seed: u16, random: u64) -> Mesh {
    let mut mesh = Mesh::new(nodes, random);
    mesh.is_calling = true;
    (1..=nodes).filter(|node| *node != seed).for_each(|node| mesh.link(id(node), id(seed)));
    mesh
}

#[test]
fn nodes_that_know_one_seed_become_a_full_mesh() {
    for (seed, loss) in [(1, 0), (12, 0), (5, 200)] {
        let mut mesh = seeded(12, seed, u64::from(seed));
        mesh.loss = loss;
        mesh.run_for(if loss == 0 { 3_000_000 } else { 10_000_000 });
        assert!(everybody_sees_everybody(&mesh), "seed {seed}, loss {loss}");
        if loss == 0 {
            assert!(mesh.calls.keys().all(|(from, to)| from < to), "the lower id calls");
        }
        assert!(mesh.nodes.values().all(|node| node.members() == 11));
        assert_eq!(mesh.errors, []);
    }
}

#[test]
fn a_node_that_joins_later_is_known_to_all_within_seconds_and_nobody_is_restarted() {
    let mut mesh = seeded(8, 3, 1);
    mesh.run_for(5_000_000);
    mesh.start(id(9), Epoch::new(0), 1 << 20);
    mesh.link(id(9), id(3));
    mesh.run_for(3_000_000);
    assert!(everybody_sees_everybody(&mesh));
    mesh.claim(id(9), 7, LIFETIME_MS);
    mesh.run_for(10_000);
    assert_eq!(mesh.owners(7), [Some(9); 9]);
}

/// Cuts all links between the nodes up to `last` and the others, as a partition does; nothing links them until
/// [`heal`].
fn part(mesh: &mut Mesh, last: u16) -> Vec<(NodeId, NodeId)> {
    let all = pairs(mesh.nodes.len() as u16);
    let cut: Vec<_> = all.into_iter().filter(|(a, b)| (a.number() <= last) != (b.number() <= last)).collect();
    mesh.cut.extend(cut.iter().copied());
    cut.iter().for_each(|(a, b)| mesh.unlink(*a, *b));
    cut
}

#[test]
fn a_short_partition_heals_by_the_calls_of_the_lower_ids() {
    let mut mesh = seeded(8, 1, 1);
    mesh.run_for(3_000_000);
    part(&mut mesh, 4);
    mesh.run_for(30_000_000);
    assert!(!is_up(&mesh, id(1), id(5)) && is_up(&mesh, id(5), id(8)));
    mesh.cut.clear();
    mesh.run_for(3_000_000);
    assert!(everybody_sees_everybody(&mesh));
    assert_eq!(mesh.errors, []);
}

#[test]
fn a_long_partition_is_forgotten_and_heals_by_one_call_of_a_seed() {
    let mut mesh = seeded(8, 1, 2);
    mesh.run_for(3_000_000);
    let cut = part(&mut mesh, 4);
    mesh.run_for(20_000_000 + FORGET_US + 60_000_000);
    assert!(cut.iter().all(|pair| !mesh.calls.contains_key(pair)), "all are forgotten");
    mesh.cut.clear();
    mesh.run_for(10_000_000);
    assert!(!is_up(&mesh, id(1), id(5)), "nobody calls");
    mesh.link(id(1), id(8));
    mesh.run_for(20_000_000);
    assert!(everybody_sees_everybody(&mesh));
    assert!(mesh.nodes.values().all(|node| node.members() == 7));
    assert_eq!(mesh.errors, []);
}

#[test]
fn a_node_that_leaves_is_forgotten_and_one_that_only_lost_its_link_is_called() {
    for leaves in [true, false] {
        let mut mesh = seeded(6, 1, 3);
        mesh.run_for(3_000_000);
        if leaves {
            mesh.nodes.get_mut(&id(6)).unwrap().leave();
            mesh.drain(id(6));
            mesh.run_for(3_000_000);
            assert!(
                (1..=5).all(|node| mesh.nodes[&id(node)].members() == 4),
                "told by gossip, before any link is gone"
            );
            assert!(is_up(&mesh, id(2), id(6)), "gossip takes nobody down that is linked");
        }
        for node in 1..=5 {
            mesh.cut.insert((id(node), id(6)));
            mesh.unlink(id(node), id(6));
        }
        mesh.run_for(FORGET_US / 2);
        assert_eq!(mesh.calls.contains_key(&(id(2), id(6))), !leaves, "the grace");
        mesh.run_for(FORGET_US);
        assert!(mesh.calls.keys().all(|(_, to)| *to != id(6)), "who is down for good is called no more");
    }
}

#[test]
fn a_restarted_node_takes_its_old_place_also_with_a_clock_set_back() {
    for off in [0, -600_000_000] {
        let mut mesh = seeded(5, 1, 4);
        mesh.run_for(3_000_000);
        (1..=4).for_each(|node| mesh.unlink(id(node), id(5)));
        mesh.clock_off_us.insert(id(5), off);
        mesh.start(id(5), Epoch::new(1), 1 << 20);
        mesh.link(id(5), id(1));
        mesh.run_for(60_000_000);
        assert!(everybody_sees_everybody(&mesh), "{off}");
        assert!(mesh.nodes.values().all(|node| node.members() == 4), "{off}");
    }
}

/// What a node may say of others, as bytes.
fn linked(peers: &[(u16, SocketAddr)]) -> Vec<u8> {
    Gossip::Linked(peers.iter().map(|(peer, listen)| (id(*peer), *listen)).collect()).encode()
}

#[test]
fn a_flood_of_gossip_loses_gossip_and_is_heard_again_a_second_later() {
    let mut mesh = Mesh::linked(3, 1);
    let gossip = linked(&[(2, listen(id(2)))]);
    let count = |mesh: &Mesh| {
        let counters = mesh.nodes[&id(1)].counters();
        (counters.datagrams_received, counters.datagrams_refused)
    };
    let before = count(&mesh).0;
    (0..50_000).for_each(|_| mesh.deliver_datagram(id(3), id(1), &gossip));
    let (received, refused) = count(&mesh);
    assert!((900..=1000).contains(&(received - before)), "{received} of 50,000 after {before}");
    assert_eq!(received - before + refused, 50_000);
    mesh.run_for(1_000_000);
    let (received, refused) = count(&mesh);
    (0..80).for_each(|_| mesh.deliver_datagram(id(3), id(1), &gossip));
    assert_eq!(count(&mesh), (received + 80, refused));
    assert!(mesh.errors.is_empty() && everybody_sees_everybody(&mesh), "{:?}", mesh.errors);
}

#[test]
fn what_is_no_gossip_breaks_the_protocol_and_what_a_later_version_says_does_not() {
    let mut mesh = Mesh::linked(3, 1);
    mesh.deliver_datagram(id(2), id(1), &[0xff; 40]);
    assert_eq!(mesh.errors, []);
    // Cut off, no node's id, no address family, too long.
    let wrong: [&[u8]; 5] = [&[], &[1, 0], &[1, 0, 0, 4, 10, 0, 0, 1, 0, 9], &[1, 0, 7, 5, 10, 0, 0, 1], &[0; 1101]];
    wrong.into_iter().for_each(|bytes| mesh.deliver_datagram(id(2), id(1), bytes));
    assert!(mesh.errors.iter().all(|(node, error)| *node == id(1) && matches!(error, ProtocolError::Gossip(_))));
    assert_eq!((mesh.errors.len(), mesh.nodes[&id(1)].counters().protocol_errors), (5, 5));
}

/// Another address of this network, at which nobody listens.
fn nowhere(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 9, 9, 9], port))
}

#[test]
fn what_is_said_of_linked_peers_has_no_effect_and_what_is_said_of_others_ends_with_its_teller() {
    let mut mesh = Mesh::linked(4, 1);
    mesh.is_calling = true;
    // Node 4 lies, as often as it may, about the linked ones, about node 1 itself, and about a node that is not there.
    let lie = linked(&[(1, nowhere(1)), (2, nowhere(2)), (3, nowhere(3)), (4, nowhere(4)), (9, nowhere(9))]);
    for _ in 0..500 {
        mesh.deliver_datagram(id(4), id(1), &lie);
        mesh.run_for(10_000);
    }
    assert!(everybody_sees_everybody(&mesh));
    let calls: Vec<_> = mesh.calls.iter().map(|((from, to), at)| (from.number(), to.number(), *at)).collect();
    assert_eq!(calls, [(1, 9, nowhere(9))], "nobody passes on what it was told");
    mesh.run_for(FORGET_US + 1_000_000);
    assert!(mesh.calls.is_empty() && everybody_sees_everybody(&mesh) && mesh.errors.is_empty());
}

#[test]
fn two_nodes_that_are_lied_to_about_each_other_find_together_all_the_same() {
    // By the seed, node 1, they are told the truth at the same time; node 6 goes on lying.
    let mut mesh = Mesh::new(6, 1);
    mesh.is_calling = true;
    for node in [2, 3] {
        mesh.cut.insert((id(2), id(3)));
        mesh.link(id(1), id(node));
        mesh.link(id(node), id(6));
    }
    mesh.link(id(1), id(6));
    for round in 0..600 {
        if round == 100 {
            mesh.cut.clear();
        }
        for (to, about) in [(2, 3), (3, 2)] {
            mesh.deliver_datagram(id(6), id(to), &linked(&[(about, nowhere(1 + round % 7))]));
        }
        mesh.run_for(100_000);
    }
    assert!(is_up(&mesh, id(2), id(3)) && is_up(&mesh, id(3), id(2)));
}

#[test]
fn a_node_whose_clock_was_twelve_years_ahead_is_no_stranger_when_it_is_right() {
    const YEARS_US: i64 = 12 * 365 * 86_400 * 1_000_000;
    let mut mesh = seeded(5, 1, 4);
    mesh.clock_off_us.insert(id(5), YEARS_US);
    mesh.start(id(5), Epoch::new(1), 1 << 20);
    mesh.link(id(5), id(1));
    mesh.run_for(5_000_000);
    assert!(everybody_sees_everybody(&mesh));
    (1..=4).for_each(|node| mesh.unlink(id(node), id(5)));
    mesh.clock_off_us.clear();
    mesh.start(id(5), Epoch::new(2), 1 << 20);
    mesh.link(id(5), id(1));
    mesh.run_for(5_000_000);
    assert!(everybody_sees_everybody(&mesh) && mesh.errors.is_empty(), "{:?}", mesh.errors);
    assert!(mesh.nodes.values().all(|node| node.members() == 4));
}
