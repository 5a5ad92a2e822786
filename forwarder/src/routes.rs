//! Next hops of the peers, from the kernel's routes and neighbours over netlink.
//!
//! The fast path does no routing (`bpf_fib_lookup` costs as much as a whole parse): it sends to the MAC address that
//! was found here, and this is told of every change that may move a peer to another one. What is asked for is the FIB's
//! own entry: the route that a packet would take now has besides what ICMP has taught the kernel, a smaller path MTU or
//! a redirect, and anybody can forge that.

use std::{
    collections::BTreeMap,
    fmt, fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    sync::Arc,
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
        route::{
            RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
            RouteType, RouteVia,
        },
    },
    sys::SocketAddr,
};
use tokio::sync::{Notify, mpsc, watch};

/// Results that wait for the daemon's loop.
const RESULTS: usize = 4;
/// How long changes are collected before the next look.
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

/// Notifies each time that the kernel says something of an interface: that it comes or goes, up or down, or has another
/// MAC address. Call within a tokio runtime.
///
/// # Errors
/// The kernel refuses the netlink socket.
pub fn watch_links() -> Result<Arc<Notify>> {
    let (connection, handle, mut messages) =
        new_multicast_connection(&[MulticastGroup::Link]).context("watch interfaces over netlink")?;
    tokio::spawn(connection);
    let news = Arc::new(Notify::new());
    let teller = Arc::clone(&news);
    tokio::spawn(async move {
        // The connection lasts as long as the handle.
        let _handle = handle;
        while messages.next().await.is_some() && Arc::strong_count(&teller) > 1 {
            let settled = tokio::time::Instant::now() + SETTLE;
            while let Ok(Some(_)) = tokio::time::timeout_at(settled, messages.next()).await {}
            teller.notify_one();
        }
    });
    Ok(news)
}

/// Whether the kernel takes an ICMP redirect that comes in by this interface: then whoever can send one in the
/// gateway's name changes the way of the links and of the slow path to a peer. The fast path goes by none.
#[must_use]
pub fn believes_redirects(interface: &str, v6: bool) -> bool {
    let read = |of: &str, what: &str| {
        let family = if v6 { "ipv6" } else { "ipv4" };
        let text = fs::read_to_string(format!("/proc/sys/net/{family}/conf/{of}/{what}"));
        text.is_ok_and(|text| text.trim() != "0")
    };
    let (all, own) = (read("all", "accept_redirects"), read(interface, "accept_redirects"));
    // As IN_DEV_RX_REDIRECTS of linux/inetdevice.h and ndisc_redirect_rcv() of net/ipv6 have it.
    match (v6, read(interface, "forwarding")) {
        (true, forwards) => own && !forwards,
        (false, true) => all && own,
        (false, false) => all || own,
    }
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
        Route::read(&route, peer).next_hop(peer, links, neighbours)
    }

    async fn route(&self, peer: IpAddr) -> Result<RouteMessage, rtnetlink::Error> {
        let mut request = match peer {
            IpAddr::V4(peer) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(peer, 32).build(),
            IpAddr::V6(peer) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(peer, 128).build(),
        };
        request.header.flags |= RouteFlags::FibMatch;
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
#[derive(Debug, PartialEq, Eq)]
struct Route {
    /// Where packets may go next, in the order of interface and address: the same at each look.
    hops: Vec<Hop>,
    mtu: Option<u32>,
    /// The kernel names a nexthop object and not what it holds (`nexthop_compat_mode` is 0).
    object: Option<u32>,
}

/// One of a route's next hops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Hop {
    ifindex: u32,
    via: IpAddr,
}

impl Route {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the kernel says much more, and new things with each version")]
    fn read(message: &RouteMessage, peer: IpAddr) -> Self {
        let mut route = Self { hops: Vec::new(), mtu: None, object: None };
        let ifindex = message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(ifindex) => Some(*ifindex),
            _ => None,
        });
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::MultiPath(hops) => route.hops.extend(hops.iter().filter_map(|hop| Hop::of(hop, peer))),
                RouteAttribute::NhId(id) => route.object = Some(*id),
                RouteAttribute::Metrics(metrics) => {
                    route.mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        let single = ifindex.map(|ifindex| Hop { ifindex, via: via(&message.attributes, peer) });
        route.hops.extend(single.filter(|_| route.hops.is_empty()));
        route.hops.sort_unstable();
        route
    }

    /// The first of the next hops over which a packet can be sent now, else why the first cannot be used.
    fn next_hop(
        &self,
        peer: IpAddr,
        links: &BTreeMap<u32, Link>,
        neighbours: &BTreeMap<(u32, IpAddr), [u8; 6]>,
    ) -> Result<NextHop, Unreachable> {
        let of = |hop: &Hop| hop.next_hop(self.mtu, peer, links, neighbours);
        let mut found = self.hops.iter().map(of).collect::<Vec<_>>();
        let best = found
            .iter()
            .position(Result::is_ok)
            // One that only waits for its neighbour is asked for it.
            .or_else(|| found.iter().position(|hop| matches!(hop, Err(Unreachable::NoNeighbour { .. }))));
        if !found.is_empty() {
            return found.swap_remove(best.unwrap_or(0));
        }
        Err(Unreachable::NoRoute(match self.object {
            Some(id) => format!("it has nexthop object {id}; hint: `sysctl -w net.ipv4.nexthop_compat_mode=1`"),
            None => "no next hop of it is up".to_owned(),
        }))
    }
}

impl Hop {
    /// One of several; `None`: the kernel does not use it.
    fn of(hop: &RouteNextHop, peer: IpAddr) -> Option<Self> {
        let is_dead = hop.flags.intersects(RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown);
        (!is_dead).then(|| Self { ifindex: hop.interface_index, via: via(&hop.attributes, peer) })
    }

    fn next_hop(
        self,
        mtu: Option<u32>,
        peer: IpAddr,
        links: &BTreeMap<u32, Link>,
        neighbours: &BTreeMap<(u32, IpAddr), [u8; 6]>,
    ) -> Result<NextHop, Unreachable> {
        let Self { ifindex, via } = self;
        let link = links.get(&ifindex).ok_or_else(|| Unreachable::Down(ifindex.to_string()))?;
        if !link.up {
            return Err(Unreachable::Down(link.name.clone()));
        }
        let Some(source_mac) = link.mac else { return Err(Unreachable::NotEthernet(link.name.clone())) };
        let mac = neighbours.get(&(ifindex, via)).ok_or(Unreachable::NoNeighbour { peer, via })?;
        let mtu = mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu));
        Ok(NextHop { ifindex, interface: link.name.clone(), mtu, mac: *mac, source_mac })
    }
}

/// The router that a route or a next hop names, else the peer itself.
fn via(attributes: &[RouteAttribute], peer: IpAddr) -> IpAddr {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a route says much more, and new things with each version")]
    let named = attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    });
    named.unwrap_or(peer)
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
