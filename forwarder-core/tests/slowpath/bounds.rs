//! How much the slow path sends to one peer, and of one transaction.

use forwarder_common::{bound::Costs, outcome::Outcome};

use super::{
    packets::{V4, cut, datagram_from, frame, invite, request_key, sip},
    world::{PEER, World, forward, id, inject},
};

const ALL: u32 = u32::MAX;

fn punt(world: &mut World, packet: &[u8]) {
    world.punt(Outcome::PuntedUnread, &frame(packet, 0, 0));
}

/// Of a call of a peer, and of another one.
fn calls(world: &mut World) -> [Vec<u8>; 2] {
    ["a", "b"].map(|call| {
        world.peers(request_key(call));
        sip(V4, &invite(call))
    })
}

#[test]
fn what_is_more_than_one_transaction_or_one_peer_is_sent_is_local() {
    for (costs, sent, over) in [
        (Costs { key_ns: ALL, ..Costs::default() }, 2, "slow_over_key"),
        (Costs { packet_ns: ALL, ..Costs::default() }, 1, "slow_over_peer"),
        (Costs { byte: ALL, ..Costs::default() }, 1, "slow_over_peer"),
    ] {
        let mut world = World::with_costs(costs);
        let [packet, other] = calls(&mut world);
        for _ in 0..sent {
            let (actions, moved) = world.after(|world| punt(world, &packet));
            assert_eq!((actions, moved), (vec![forward(&packet)], vec![("slow_forwarded", 1)]));
        }
        let (actions, moved) = world.after(|world| punt(world, &packet));
        assert_eq!((actions, moved), (vec![inject(&packet)], vec![(over, 1)]));
        let (_, moved) = world.after(|world| punt(world, &other));
        assert_eq!(moved, [(if over == "slow_over_key" { "slow_forwarded" } else { over }, 1)]);
        assert_eq!(world.path.ledger().balance(), 0);
        // Later there is room again.
        world.advance(9_000_000_000);
        let (_, moved) = world.after(|world| punt(world, &packet));
        assert_eq!(moved, [("slow_forwarded", 1)]);
    }
}

#[test]
fn fragments_for_one_reassembler_are_bounded_and_what_is_more_is_dropped() {
    let mut world = World::with_costs(Costs { slow_ns: ALL, ..Costs::default() });
    world.table.reassembler = Some(id(PEER));
    let whole = sip(V4, &invite("a").repeat(9));
    let parts = cut(&whole, 7, &[512]);
    let (actions, moved) = world.after(|world| world.punt(Outcome::PuntedFragment, &frame(&parts[0], 0, 0)));
    assert_eq!((actions.len(), moved), (1, vec![("slow_forwarded", 1)]));
    let (actions, moved) = world.after(|world| world.punt(Outcome::PuntedFragment, &frame(&parts[1], 0, 0)));
    assert_eq!((actions, moved), (vec![], vec![("slow_over_peer", 1)]));
    let [packet, _] = calls(&mut world);
    assert_eq!(world.after(|world| punt(world, &packet)).0, [forward(&packet)]);
    assert_eq!(world.path.ledger().balance(), 0);
}

#[test]
fn fragments_of_one_source_take_no_more_than_its_share_of_a_peers_daemon() {
    // A hundred a second, of which one source has a quarter.
    let mut world = World::with_costs(Costs { slow_ns: 10_000_000, ..Costs::default() });
    world.table.reassembler = Some(id(PEER));
    let [loud, quiet] =
        [1, 2].map(|client| frame(&cut(&datagram_from(client, V4, 5060, &[b'x'; 64]), 7, &[16])[0], 0, 0));
    let sent_of = |world: &mut World, fragment: &[u8]| {
        world.punt(Outcome::PuntedFragment, fragment);
        world.actions().len()
    };
    let (mut sent, mut others) = (0, 0);
    for n in 0..4000 {
        sent += sent_of(&mut world, &loud);
        others += if n % 40 == 0 { sent_of(&mut world, &quiet) } else { 0 };
        world.advance(2500);
    }
    // Ten seconds, and the second that comes at once.
    assert!((240..=280).contains(&sent), "{sent}");
    assert_eq!(others, 100, "another source is not concerned");
}
