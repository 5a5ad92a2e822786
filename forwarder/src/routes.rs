//! Next hops of the peers, from the kernel's routes and neighbours over netlink.
//!
//! The fast path does no routing (`bpf_fib_lookup` costs as much as a whole parse): it sends to the MAC address that
//! was found here, and this is told of every change that may move a peer to another one.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection,
    packet_core::NetlinkMessage,
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia},
    },
    sys::SocketAddr,
};
use tokio::sync::{mpsc, watch};

/// Results that wait for the daemon's loop.
const RESULTS: usize = 4;
/// How long changes are reassembled before the next look.
const SETTLE: Duration = Duration::from_millis(20);
/// A look without a change: netlink messages can be lost, and an unknown neighbour is asked for again.
const RECHECK: Duration = Duration::from_secs(1);

/// How a peer is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Interface index.
    pub ifindex: u32,
    /// Interface name.
    pub interface: String,
    /// Largest IP packet in bytes that the route and the interface take.
    pub mtu: u32,
    /// MAC address of the next hop.
    pub mac: [u8; 6],
    /// MAC address of the interface.
    pub source_mac: [u8; 6],
}

/// Why a peer cannot be reached by the fast path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// The kernel has no route.
    NoRoute(String),
    /// The peer's address is this host's own.
    Local,
    /// The interface is not up, or gone.
    Down(String),
    /// The interface is no plain Ethernet one.
    NotEthernet(String),
    /// The neighbour's MAC address is not known (yet).
    NoNeighbour {
        /// The peer.
        peer: IpAddr,
        /// The router to it, or itself.
        via: IpAddr,
    },
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoute(error) => write!(f, "no route: {error}"),
            Self::Local => write!(f, "its underlay address is this host's own"),
            Self::Down(interface) => write!(f, "interface {interface} is down"),
            Self::NotEthernet(interface) => {
                write!(
                    f,
                    "interface {interface} is no plain Ethernet interface (VLAN devices and tunnels are not used)"
                )
            }
            Self::NoNeighbour { via, .. } => write!(f, "the MAC address of {via} is not known yet"),
        }
    }
}

/// How each peer's address is reached.
pub type NextHops = BTreeMap<IpAddr, Result<NextHop, Unreachable>>;

/// Watches how the addresses in `peers` are reached: all of them each time that anything has changed.
///
/// Call within a tokio runtime.
///
/// # Errors
/// The kernel refuses the netlink socket.
pub fn watch(peers: watch::Receiver<Vec<IpAddr>>) -> Result<mpsc::Receiver<NextHops>> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Neigh,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
        MulticastGroup::Ipv4Rule,
        MulticastGroup::Ipv6Rule,
    ];
    let (connection, handle, messages) =
        new_multicast_connection(&groups).context("watch routes and neighbours over netlink")?;
    tokio::spawn(connection);
    let (sender, receiver) = mpsc::channel(RESULTS);
    tokio::spawn(follow(Netlink { handle }, peers, messages, sender));
    Ok(receiver)
}

async fn follow(
    netlink: Netlink,
    mut peers: watch::Receiver<Vec<IpAddr>>,
    mut messages: impl Stream<Item = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)> + Unpin,
    sender: mpsc::Sender<NextHops>,
) {
    let mut last = NextHops::new();
    loop {
        let addresses = peers.borrow_and_update().clone();
        match netlink.next_hops(&addresses).await {
            Ok(found) => {
                found.values().for_each(poke);
                if found != last {
                    last.clone_from(&found);
                    if sender.send(found).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => log::warn!("{error:#}"),
        }
        let changed = tokio::select! {
            changed = peers.changed() => changed.is_ok(),
            message = messages.next() => message.is_some(),
            () = tokio::time::sleep(RECHECK) => true,
        };
        if !changed {
            return;
        }
        // Changes come in swarms: one look at the end of a swarm sees them all.
        let settled = tokio::time::Instant::now() + SETTLE;
        while let Ok(Some(_)) = tokio::time::timeout_at(settled, messages.next()).await {}
    }
}

/// Makes the kernel look for a neighbour that it does not know: a datagram to the discard port (RFC 863).
fn poke(found: &Result<NextHop, Unreachable>) {
    if let Err(Unreachable::NoNeighbour { peer, .. }) = found {
        let local: IpAddr = if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        // A failure is what the next look will say.
        let _ = UdpSocket::bind((local, 0)).and_then(|socket| socket.send_to(&[], (*peer, 9)));
    }
}

/// Asks the kernel.
struct Netlink {
    handle: Handle,
}

impl Netlink {
    async fn next_hops(&self, peers: &[IpAddr]) -> Result<NextHops> {
        let links = self.links().await.context("read the interfaces over netlink")?;
        let neighbours = self.neighbours().await.context("read the neighbours over netlink")?;
        let mut found = NextHops::new();
        for peer in peers {
            found.insert(*peer, self.next_hop(*peer, &links, &neighbours).await);
        }
        Ok(found)
    }

    async fn next_hop(
        &self,
        peer: IpAddr,
        links: &BTreeMap<u32, Link>,
        neighbours: &BTreeMap<(u32, IpAddr), [u8; 6]>,
    ) -> Result<NextHop, Unreachable> {
        let route = self.route(peer).await.map_err(|error| Unreachable::NoRoute(error.to_string()))?;
        if route.header.kind != RouteType::Unicast {
            return Err(if route.header.kind == RouteType::Local {
                Unreachable::Local
            } else {
                Unreachable::NoRoute(format!("{:?} route", route.header.kind))
            });
        }
        let route = Route::read(&route, peer);
        let link = links.get(&route.ifindex).ok_or_else(|| Unreachable::Down(route.ifindex.to_string()))?;
        if !link.up {
            return Err(Unreachable::Down(link.name.clone()));
        }
        let Some(source_mac) = link.mac else { return Err(Unreachable::NotEthernet(link.name.clone())) };
        let mac =
            neighbours.get(&(route.ifindex, route.via)).ok_or(Unreachable::NoNeighbour { peer, via: route.via })?;
        Ok(NextHop {
            ifindex: route.ifindex,
            interface: link.name.clone(),
            mtu: route.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)),
            mac: *mac,
            source_mac,
        })
    }

    async fn route(&self, peer: IpAddr) -> Result<RouteMessage, rtnetlink::Error> {
        let request = match peer {
            IpAddr::V4(peer) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(peer, 32).build(),
            IpAddr::V6(peer) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(peer, 128).build(),
        };
        let mut routes = std::pin::pin!(self.handle.route().get(request).execute());
        routes.try_next().await?.ok_or(rtnetlink::Error::RequestFailed)
    }

    async fn links(&self) -> Result<BTreeMap<u32, Link>, rtnetlink::Error> {
        let messages: Vec<_> = self.handle.link().get().execute().try_collect().await?;
        Ok(messages.iter().map(|message| (message.header.index, Link::read(message))).collect())
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the kernel says much more, and new things with each version")]
    async fn neighbours(&self) -> Result<BTreeMap<(u32, IpAddr), [u8; 6]>, rtnetlink::Error> {
        let mut messages = std::pin::pin!(self.handle.neighbours().get().execute());
        let mut known = BTreeMap::new();
        while let Some(message) = messages.try_next().await? {
            if matches!(
                message.header.state,
                NeighbourState::Incomplete | NeighbourState::Failed | NeighbourState::None | NeighbourState::Noarp
            ) {
                continue;
            }
            let (mut address, mut mac) = (None, None);
            for attribute in &message.attributes {
                match attribute {
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::V4(*v4)),
                    NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::V6(*v6)),
                    NeighbourAttribute::LinkLayerAddress(bytes) => mac = <[u8; 6]>::try_from(&bytes[..]).ok(),
                    _ => {}
                }
            }
            if let (Some(address), Some(mac)) = (address, mac) {
                known.insert((message.header.ifindex, address), mac);
            }
        }
        Ok(known)
    }
}

/// What a route to a peer says.
struct Route {
    ifindex: u32,
    via: IpAddr,
    mtu: Option<u32>,
}

impl Route {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the kernel says much more, and new things with each version")]
    fn read(message: &RouteMessage, peer: IpAddr) -> Self {
        let mut route = Self { ifindex: 0, via: peer, mtu: None };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(ifindex) => route.ifindex = *ifindex,
                RouteAttribute::Gateway(address) => route.via = ip(address).unwrap_or(route.via),
                RouteAttribute::Via(RouteVia::Inet6(v6)) => route.via = IpAddr::V6(*v6),
                RouteAttribute::Metrics(metrics) => {
                    route.mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        route
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the kernel says much more, and new things with each version")]
const fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

/// What an interface says.
struct Link {
    name: String,
    up: bool,
    mtu: u32,
    mac: Option<[u8; 6]>,
}

impl Link {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the kernel says much more, and new things with each version")]
    fn read(message: &LinkMessage) -> Self {
        use rtnetlink::packet_route::link::LinkFlags;
        let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
        let up = message.header.flags.contains(LinkFlags::Up) && message.header.flags.contains(LinkFlags::LowerUp);
        let mut link = Self { name: message.header.index.to_string(), up, mtu: 0, mac: None };
        let mut plain = ethernet;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Address(bytes) => link.mac = <[u8; 6]>::try_from(&bytes[..]).ok(),
                LinkAttribute::LinkInfo(infos) => {
                    plain &= !infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Vlan)));
                }
                _ => {}
            }
        }
        if !plain {
            link.mac = None;
        }
        link
    }
}
