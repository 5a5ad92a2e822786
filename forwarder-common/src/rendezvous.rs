//! Which node takes what: rendezvous hashing. Nodes that know the same nodes choose the same, and when one goes, only
//! what it had moves.

use crate::{
    abi::{DATAGRAM_SLOTS, SUCCESSOR_SLOTS},
    hash,
};

const _: () = assert!(SUCCESSOR_SLOTS == DATAGRAM_SLOTS && SUCCESSOR_SLOTS.is_power_of_two());

/// The slot by which the successor for a new transaction is chosen, below [`SUCCESSOR_SLOTS`].
#[inline(always)] // one instruction
#[must_use]
pub const fn successor_slot(request_key: u64) -> u32 {
    request_key as u32 & (SUCCESSOR_SLOTS - 1)
}

/// The one of these nodes that takes a slot: a new transaction's, or that of a datagram in fragments
/// ([`crate::net::datagram_slot`]).
#[must_use]
pub fn choose(slot: u32, nodes: impl IntoIterator<Item = u16>) -> Option<u16> {
    nodes.into_iter().max_by_key(|node| weight(slot, *node))
}

/// How much a node wants a slot: any good mixing will do, as long as all nodes use the same.
const fn weight(slot: u32, node: u16) -> u64 {
    let mut x = ((slot as u64) << 16 | node as u64).wrapping_mul(hash::GOLDEN);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_share_the_slots_and_only_those_of_one_that_goes_move() {
        let all = [1, 2, 3, 700, 1023];
        for gone in all {
            let rest = all.into_iter().filter(|node| *node != gone);
            let had = (0..SUCCESSOR_SLOTS).filter(|slot| choose(*slot, all) == Some(gone));
            assert!((150..260).contains(&had.count()), "node {gone}");
            for slot in 0..SUCCESSOR_SLOTS {
                let before = choose(slot, all).filter(|node| *node != gone);
                assert!(before.is_none_or(|before| choose(slot, rest.clone()) == Some(before)), "slot {slot}");
            }
        }
        assert_eq!(choose(0, []), None);
    }

    #[test]
    fn the_choice_is_the_same_in_every_version_and_whatever_the_order() {
        let choices = [0, 1, 2, 3, 1022, 1023].map(|slot| choose(slot, [1, 2, 3]).unwrap());
        assert_eq!(choices, [1, 1, 3, 2, 2, 2]);
        assert_eq!(choices, [0, 1, 2, 3, 1022, 1023].map(|slot| choose(slot, [3, 1, 2]).unwrap()));
        assert_eq!([0, 0x3ff, 0x400, u64::MAX].map(successor_slot), [0, 0x3ff, 0, 0x3ff]);
    }
}
