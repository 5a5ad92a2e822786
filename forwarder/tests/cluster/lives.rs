//! A host that comes back with nothing but its certificate.

use forwarder_common::ids::Epoch;

use super::mesh::{Mesh, id};

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
    assert!((1..=3).all(|node| earlier(&mesh, node).is_empty()), "nobody has had an earlier life");

    // One peer does not see the second life of three.
    for (epoch, peers) in [(9, &[2][..]), (14, &[2, 3])] {
        [2, 3].iter().for_each(|peer| mesh.unlink(id(1), id(*peer)));
        mesh.start(id(1), Epoch::new(epoch), 1 << 20);
        peers.iter().for_each(|peer| mesh.link(id(1), id(*peer)));
        mesh.run_for(1_000_000);
    }
    assert_eq!(earlier(&mesh, 1), [5, 9]);
    assert!((2..=3).all(|node| earlier(&mesh, node).is_empty()), "a link that comes back is no other life");
}

#[test]
fn a_claim_of_an_epoch_that_is_over_does_not_come_back_with_the_epochs_number() {
    let mut mesh = Mesh::linked(3, 1);
    mesh.claim(id(1), 77, 240_000);
    mesh.run_for(1_000_000);
    for life in 1..=16 {
        let now = mesh.now(id(1));
        mesh.nodes.get_mut(&id(1)).unwrap().set_epoch(Epoch::new(life), now);
        mesh.drain(id(1));
        mesh.run_for(5_000_000);
    }
    assert_eq!(mesh.nodes[&id(1)].epoch(), Epoch::new(0));
    for (node, core) in &mesh.nodes {
        assert_eq!((core.claim(77, mesh.now(*node)), core.claims()), (None, 0), "node {}", node.number());
    }
}
