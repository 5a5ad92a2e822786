//! A host that comes back with nothing but its certificate.

use forwarder_common::ids::Epoch;
use forwarder_core::wire::{Claim, Message};

use super::mesh::{Mesh, id, stretch};

fn earlier(mesh: &Mesh, node: u16) -> Vec<u8> {
    mesh.nodes.get(&id(node)).unwrap().earlier_epochs().map(Epoch::number).collect()
}

#[test]
fn a_host_that_comes_back_learns_under_which_epochs_its_peers_knew_it() {
    let mut mesh = Mesh::linked(3, 1);
    let now = mesh.now(id(1));
    mesh.nodes.get_mut(&id(1)).unwrap().set_epoch(Epoch::new(5), now);
    mesh.drain(id(1));
    mesh.run_for(1_000_000);
    assert!((1..=3).all(|node| earlier(&mesh, node).is_empty()), "no node has had an earlier incarnation");

    // One peer does not see the second incarnation of three.
    for (epoch, peers) in [(9, &[2][..]), (14, &[2, 3])] {
        [2, 3].iter().for_each(|peer| mesh.unlink(id(1), id(*peer)));
        mesh.start(id(1), Epoch::new(epoch), 1 << 20);
        peers.iter().for_each(|peer| mesh.link(id(1), id(*peer)));
        mesh.run_for(1_000_000);
    }
    assert_eq!(earlier(&mesh, 1), [5, 9]);
    assert!((2..=3).all(|node| earlier(&mesh, node).is_empty()), "a link that comes back is no other incarnation");
}

#[test]
fn a_claim_of_an_epoch_that_is_over_does_not_come_back_with_the_epochs_number() {
    let mut mesh = Mesh::linked(3, 1);
    mesh.claim(id(1), 77, 240_000);
    mesh.run_for(1_000_000);
    for epoch in 1..=16 {
        let now = mesh.now(id(1));
        mesh.nodes.get_mut(&id(1)).unwrap().set_epoch(Epoch::new(epoch), now);
        mesh.drain(id(1));
        mesh.run_for(5_000_000);
    }
    assert_eq!(mesh.nodes[&id(1)].epoch(), Epoch::new(0));
    for (node, core) in &mesh.nodes {
        assert_eq!((core.claim(77, mesh.now(*node)), core.claims()), (None, 0), "node {}", node.number());
    }
}

#[test]
fn a_claim_that_has_lost_does_not_come_back_with_its_epochs_number_either() {
    let mut mesh = Mesh::linked(3, 1);
    mesh.claim(id(2), 7, 240_000);
    mesh.claim(id(3), 7, 240_000);
    mesh.run_for(1_000_000);
    assert_eq!(mesh.owners(7), [Some(2); 3]);
    for epoch in 1..=16 {
        let now = mesh.now(id(3));
        mesh.nodes.get_mut(&id(3)).unwrap().set_epoch(Epoch::new(epoch), now);
        mesh.drain(id(3));
        mesh.run_for(5_000_000);
    }
    mesh.unlink(id(1), id(2));
    mesh.run_for(1_000_000);
    let owner = mesh.nodes[&id(1)].claim(7, mesh.now(id(1))).map(|claim| claim.owner);
    assert_eq!(owner, Some(id(2)), "its own, though ineffective; that of node 3 is of an epoch that is long over");
}

#[test]
fn a_batch_of_an_epoch_that_is_over_does_not_wait_for_its_number_to_come_round() {
    let mut mesh = Mesh::linked(2, 1);
    let set_epoch = |mesh: &mut Mesh, epoch| {
        let now = mesh.now(id(2));
        mesh.nodes.get_mut(&id(2)).unwrap().set_epoch(Epoch::new(epoch), now);
        mesh.drain(id(2));
        mesh.run_for(1_000_000);
    };
    set_epoch(&mut mesh, 1);
    let claim = Claim { key: 9, claimed_at_unix_us: 1, remaining_ms: 240_000, word: 0 };
    mesh.deliver(id(2), id(1), &Message::Batch(stretch(0, 0, vec![claim])).encode());
    for epoch in 2..=16 {
        set_epoch(&mut mesh, epoch);
    }
    assert_eq!(mesh.nodes[&id(1)].claim(9, mesh.now(id(1))), None);
    assert_eq!(mesh.nodes[&id(1)].counters().batches_dropped, 1);
}
