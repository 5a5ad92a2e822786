//! How many handshakes are begun, and for whom: each costs a third of a millisecond of CPU, and strangers begin as many
//! as they like.
//!
//! What is refused here has cost the reading of one packet. This node's own calls are not counted, so a node that is
//! flooded finds its peers all the same.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use forwarder_common::ids::NodeId;
use tokio::time::Instant;

/// So many at once, and one more each `pause`.
#[derive(Clone, Copy, Debug)]
struct Limit {
    at_once: u32,
    pause: Duration,
}

/// From one block of addresses: a host that comes back is called by all its peers, perhaps from one network.
const OF_BLOCK: Limit = Limit { at_once: 1000, pause: Duration::from_millis(50) };
/// From all who are neither seeds nor members: 3 % of a CPU.
const OF_STRANGERS: Limit = Limit { at_once: 2000, pause: Duration::from_millis(10) };
/// From all others.
const OF_KNOWN: Limit = Limit { at_once: 2000, pause: Duration::from_millis(5) };
/// From known addresses that nobody has proven, which anybody can write into a packet.
const UNPROVEN: Limit = Limit { at_once: 50, pause: Duration::from_millis(50) };
/// Requests to prove an address. A packet and no signature each.
const REQUESTS: Limit = Limit { at_once: 2000, pause: Duration::from_millis(1) };
/// Refusals that are said. The others are silence, which costs nothing.
const REFUSALS: Limit = Limit { at_once: 100, pause: Duration::from_millis(10) };
/// Connections of one node that has shown its certificate: each new link has the peer sent all claims.
const OF_NODE: Limit = Limit { at_once: 20, pause: Duration::from_secs(1) };
/// Blocks remembered. Beyond that only the totals count.
const BLOCKS: usize = 4096;

/// What is left of a limit: when all of it will be.
#[derive(Clone, Copy, Debug)]
struct Left(Instant);

impl Left {
    fn take(&mut self, limit: Limit, now: Instant) -> bool {
        let next = self.0.max(now);
        if next.duration_since(now) > limit.pause * (limit.at_once - 1) {
            return false;
        }
        self.0 = next + limit.pause;
        true
    }
}

/// The limits of this node.
#[derive(Debug)]
pub(super) struct Rates {
    blocks: HashMap<IpAddr, Left>,
    nodes: HashMap<NodeId, Left>,
    strangers: Left,
    known: Left,
    unproven: Left,
    requests: Left,
    refusals: Left,
}

impl Rates {
    pub(super) fn new(now: Instant) -> Self {
        let left = Left(now);
        Self {
            blocks: HashMap::new(),
            nodes: HashMap::new(),
            strangers: left,
            known: left,
            unproven: left,
            requests: left,
            refusals: left,
        }
    }

    /// Whether a handshake with a caller of a proven or known address is begun.
    pub(super) fn begins(&mut self, address: IpAddr, is_stranger: bool, now: Instant) -> bool {
        if self.blocks.len() >= BLOCKS {
            self.blocks.retain(|_, left| left.0 > now);
        }
        let block = block(address);
        if self.blocks.len() < BLOCKS || self.blocks.contains_key(&block) {
            let left = self.blocks.entry(block).or_insert(Left(now));
            if !left.take(OF_BLOCK, now) {
                return false;
            }
        }
        if is_stranger { self.strangers.take(OF_STRANGERS, now) } else { self.known.take(OF_KNOWN, now) }
    }

    /// Whether a caller of a known address need not prove it.
    pub(super) fn trusts(&mut self, now: Instant) -> bool {
        self.unproven.take(UNPROVEN, now)
    }

    /// Whether a caller is asked to prove its address.
    pub(super) fn asks(&mut self, now: Instant) -> bool {
        self.requests.take(REQUESTS, now)
    }

    /// Whether a caller is told that it is refused.
    pub(super) fn says_no(&mut self, now: Instant) -> bool {
        self.refusals.take(REFUSALS, now)
    }

    /// Whether a node may have another connection. At most one entry for each node id that there can be.
    pub(super) fn links(&mut self, peer: NodeId, now: Instant) -> bool {
        self.nodes.entry(peer).or_insert(Left(now)).take(OF_NODE, now)
    }
}

/// The addresses that one host may have for itself: one of IPv4, a /64 of IPv6.
pub(super) fn block(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        address @ IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(rates: &mut Rates, addresses: impl Iterator<Item = IpAddr>, is_stranger: bool, now: Instant) -> u32 {
        addresses.map(|address| u32::from(rates.begins(address, is_stranger, now))).sum()
    }

    #[test]
    fn one_address_and_one_network_of_ipv6_have_one_share() {
        let now = Instant::now();
        let v4 = |n: u32| IpAddr::from(n.to_be_bytes());
        let of_64 = |n: u128| IpAddr::from((0x2001_0db8_u128 << 96 | n).to_be_bytes());
        let mut rates = Rates::new(now);
        assert_eq!(begun(&mut rates, (0..5000).map(|_| v4(7)), false, now), OF_BLOCK.at_once);
        assert_eq!(begun(&mut rates, (0..5000).map(|_| v4(7)), false, now + Duration::from_secs(10)), 200);
        let mut rates = Rates::new(now);
        assert_eq!(begun(&mut rates, (0..5000).map(of_64), true, now), OF_BLOCK.at_once);
        assert_eq!(begun(&mut rates, (0..10).map(|n| of_64(n << 64)), true, now), 9, "another network, but for one");
    }

    #[test]
    fn strangers_from_everywhere_leave_the_known_their_share_and_memory_is_bounded() {
        let now = Instant::now();
        let mut rates = Rates::new(now);
        let all = |from: u32| (from..from + 100_000).map(|n| IpAddr::from(n.to_be_bytes()));
        assert_eq!(begun(&mut rates, all(0), true, now), OF_STRANGERS.at_once);
        assert!(begun(&mut rates, all(0), true, now + Duration::from_secs(1)) <= 101);
        assert!(rates.blocks.len() <= BLOCKS);
        assert!(rates.begins(IpAddr::from([10, 9, 1, 2]), false, now), "a member");
    }

    #[test]
    fn a_node_that_connects_again_and_again_has_to_wait() {
        let (now, node) = (Instant::now(), NodeId::new(3).unwrap());
        let mut rates = Rates::new(now);
        assert_eq!((0..100).filter(|_| rates.links(node, now)).count(), 20);
        assert!(rates.links(NodeId::new(4).unwrap(), now) && !rates.links(node, now));
        assert!(rates.links(node, now + Duration::from_secs(2)));
    }
}
