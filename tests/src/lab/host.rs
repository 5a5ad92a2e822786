//! The lab's hosts, their addresses and their ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use forwarder_common::geneve;

/// The address that all edges share.
pub const VIP4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The same for IPv6.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
/// SIP's port, on the shared address and elsewhere.
pub const SIP: u16 = 5060;
/// The cluster's port on every edge's underlay address.
pub const CLUSTER_PORT: u16 = 7470;
/// The tunnel's port.
pub const TUNNEL_PORT: u16 = geneve::PORT;
/// The edges of a lab that does not say otherwise.
pub const EDGES: u8 = 3;
/// The most edges that a lab may have.
pub const MOST_EDGES: u8 = 8;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The shared address.
    #[must_use]
    pub const fn vip(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(VIP4),
            Self::V6 => IpAddr::V6(VIP6),
        }
    }
}

/// A host of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// Callers, and callees of the carrier.
    Client,
    /// The other side of the edges.
    Carrier,
    /// Between all others; sprays.
    Router,
    /// An edge host, counted from 1.
    Edge(u8),
}

impl Host {
    /// The third number of its IPv4 network, the last of its IPv6 network.
    const fn net(self) -> u8 {
        match self {
            Self::Client => 10,
            Self::Carrier => 20,
            Self::Router => 0,
            Self::Edge(number) => number + 1,
        }
    }

    /// Its name, also that of the router's interface towards it.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Client => "client".to_owned(),
            Self::Carrier => "carrier".to_owned(),
            Self::Router => "router".to_owned(),
            Self::Edge(number) => format!("edge{number}"),
        }
    }

    /// Its own address: an edge's underlay.
    #[must_use]
    pub fn address(self, family: Family) -> IpAddr {
        self.on_link(family, 2)
    }

    /// The address of the router on its link.
    #[must_use]
    pub fn gateway(self, family: Family) -> IpAddr {
        self.on_link(family, 1)
    }

    fn on_link(self, family: Family, host: u8) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::new(10, 9, self.net(), host).into(),
            // Written in hex as the IPv4 number reads in decimal: fd09:20::2 beside 10.9.20.2.
            Family::V6 => {
                let net = u16::from(self.net() / 10) * 16 + u16::from(self.net() % 10);
                Ipv6Addr::new(0xfd09, net, 0, 0, 0, 0, 0, u16::from(host)).into()
            }
        }
    }
}
