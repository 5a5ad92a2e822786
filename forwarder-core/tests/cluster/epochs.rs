//! A host that comes back with nothing but its certificate.

use forwarder_common::ids::{Epoch, Epochs};
use forwarder_core::wire::Message;

use super::mesh::{Mesh, claim, id, local, stretch};

fn earlier(mesh: &Mesh, node: u16) -> Vec<u8> {
    mesh.nodes.get(&id(node)).unwrap().held_epochs().iter().map(Epoch::number).collect()
}

#[test]
fn a_host_that_comes_back_learns_under_which_epochs_its_peers_knew_it() {
    let mut mesh = Mesh::linked(3, 1);
    mesh.set_epoch(id(1), 5);
    mesh.run_for(1_000_000);
    assert!((1..=3).all(|node| earlier(&mesh, node).is_empty()), "no node has had an earlier incarnation");

    // One peer does not see the second incarnation of three.
    for (epoch, peers) in [(9, &[2][..]), (14, &[2, 3])] {
        [2, 3].iter().for_each(|peer| mesh.unlink(id(1), id(*peer)));
        mesh.start(id(1), Epoch::new(epoch), 1 << 20);
        peers.iter().for_each(|peer| mesh.link(id(1), id(*peer)));
        mesh.run_for(1_000_000);
    }
    // Node 2 holds claims of the second incarnation, if it made any; of the first one both may.
    assert_eq!(earlier(&mesh, 1), [0, 5, 9]);
    assert!((2..=3).all(|node| earlier(&mesh, node).is_empty()), "a link that comes back is no other incarnation");
    mesh.run_for(40_000_000);
    assert_eq!(earlier(&mesh, 1), [0_u8; 0], "what is over is swept, and the peers say so");
}

#[test]
fn a_claim_of_an_epoch_that_is_over_does_not_come_back_with_the_epochs_number() {
    let mut mesh = Mesh::linked(3, 1);
    mesh.claim(id(1), 77, 240_000);
    mesh.run_for(1_000_000);
    for epoch in 1..=16 {
        mesh.set_epoch(id(1), epoch);
        mesh.run_for(5_000_000);
    }
    assert_eq!(mesh.nodes[&id(1)].own_epochs(), Epochs::EMPTY.with(Epoch::new(0)));
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
        mesh.set_epoch(id(3), epoch);
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
        mesh.set_epoch(id(2), epoch);
        mesh.run_for(1_000_000);
    };
    set_epoch(&mut mesh, 1);
    mesh.deliver(id(2), id(1), &Message::Batch(stretch(0, vec![claim(9, 1, 240_000)])).encode());
    assert_eq!(mesh.nodes[&id(1)].counters().claims_void, 1, "it is late, not early");
    for epoch in 2..=16 {
        set_epoch(&mut mesh, epoch);
    }
    assert_eq!(mesh.nodes[&id(1)].claim(9, mesh.now(id(1))), None);
    assert_eq!(mesh.nodes[&id(1)].counters().batches_dropped, 0);
}

#[test]
fn a_link_that_was_cut_makes_no_epoch_one_of_an_earlier_incarnation() {
    let mut mesh = Mesh::linked(2, 1);
    mesh.set_epoch(id(1), 5);
    mesh.run_for(1_000_000);
    mesh.unlink(id(1), id(2));
    mesh.link(id(1), id(2));
    mesh.run_for(1_000_000);
    assert_eq!(earlier(&mesh, 1), [0_u8; 0]);
}

#[test]
fn the_end_of_one_epoch_takes_the_claims_of_no_other() {
    let mut mesh = Mesh::linked(3, 1);
    let (first, second) = (Epoch::new(3), Epoch::new(4));
    mesh.set_epochs(id(1), Epochs::EMPTY.with(first).with(second));
    for (key, epoch) in [(7, first), (8, second), (9, Epoch::new(5))] {
        let now = mesh.now(id(1));
        mesh.nodes.get_mut(&id(1)).unwrap().handle_local(local(key, now, 240_000, epoch), now);
    }
    mesh.run_for(1000);
    assert_eq!([7, 8].map(|key| mesh.owners(key)[1..].to_vec()), [[Some(1); 2], [Some(1); 2]], "both in one batch");
    assert_eq!(mesh.nodes[&id(1)].claims(), 2, "what is of an epoch that is not live is no claim");
    // The proxy of the first epoch restarts.
    mesh.set_epochs(id(1), Epochs::EMPTY.with(second).with(Epoch::new(5)));
    mesh.run_for(1000);
    mesh.claim(id(2), 7, 37_000);
    mesh.claim(id(2), 8, 37_000);
    mesh.run_for(1_000_000);
    assert_eq!([7, 8].map(|key| mesh.owners(key)[1]), [Some(2), Some(1)]);
    assert_eq!(mesh.kernels[&id(3)].claims[&8].1, second);
}

#[test]
fn a_claim_whose_later_version_is_of_another_live_epoch_outlives_the_first_one() {
    let mut mesh = Mesh::linked(2, 1);
    let (first, second) = (Epoch::new(3), Epoch::new(4));
    mesh.set_epochs(id(1), Epochs::EMPTY.with(first).with(second));
    for epoch in [first, second] {
        let now = mesh.now(id(1));
        mesh.nodes.get_mut(&id(1)).unwrap().handle_local(local(7, now, 240_000, epoch), now);
        mesh.run_for(1000);
    }
    assert_eq!(mesh.kernels[&id(2)].claims[&7].1, second, "the kernel is told, though it ends as before");
    mesh.set_epochs(id(1), Epochs::EMPTY.with(second));
    mesh.claim(id(2), 7, 37_000);
    mesh.run_for(1_000_000);
    assert_eq!(mesh.owners(7)[1], Some(1));
}
