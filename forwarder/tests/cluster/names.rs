//! Nodes by their numbers, with the addresses that they say they have.

use std::net::{IpAddr, Ipv4Addr};

use forwarder_common::ids::NodeId;

pub(crate) fn id(number: u16) -> NodeId {
    NodeId::new(number).unwrap()
}

pub(crate) fn underlay(node: NodeId) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 9, 0, node.number() as u8))
}
