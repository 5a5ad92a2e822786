//! Cables, addresses and routes.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use anyhow::{Result, ensure};

use super::host::{Family, Host, MOST_EDGES, VIP4, VIP6};
use super::pass;
use crate::namespace::Namespace;

/// The routing table of edge 1 is this plus one.
const TABLE: u16 = 100;

/// All hosts' namespaces and the cables between them.
#[derive(Debug)]
pub struct Wiring {
    prefix: String,
    edges: u8,
    hosts: Vec<(Host, Namespace)>,
    /// Links of XDP programs at the router.
    links: RefCell<Vec<OwnedFd>>,
}

impl Wiring {
    /// Makes the namespaces and connects each host to the router.
    pub(super) fn make(prefix: &str, edges: u8) -> Result<Self> {
        ensure!((1..=MOST_EDGES).contains(&edges), "make {edges} edges: 1 to {MOST_EDGES} have addresses");
        let mut wiring = Self { prefix: prefix.to_owned(), edges, hosts: Vec::new(), links: RefCell::default() };
        // What was made before a failure goes at once.
        wiring.wire().inspect_err(|_| wiring.remove())?;
        Ok(wiring)
    }

    fn wire(&mut self) -> Result<()> {
        let hosts = [Host::Router, Host::Client, Host::Carrier].into_iter().chain((1..=self.edges).map(Host::Edge));
        for host in hosts {
            let namespace = Namespace::make(format!("{}-{}", self.prefix, host.name()))?;
            self.hosts.push((host, namespace));
        }
        let router = self.host(Host::Router);
        router.sysctl(&[
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            // The router sprays: a redirect would teach the edges a way around it.
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/default/send_redirects", "0"),
        ])?;
        for (host, namespace) in self.hosts.iter().filter(|(host, _)| *host != Host::Router) {
            connect(&router, *host, namespace)?;
        }
        for option in ["-4", "-6"] {
            let rule = |edge| format!("rule add fwmark {edge} lookup {}\n", TABLE + u16::from(edge));
            let batch: String = (1..=self.edges).map(rule).collect();
            router.run_with_input("ip", &[option, "-batch", "-"], &batch)?;
        }
        for edge in 1..=self.edges {
            steer(&router, edge)?;
            self.pass(&Host::Edge(edge).name())?;
        }
        Ok(())
    }

    /// The namespace of a host; one that was never made where there is no such host.
    pub(super) fn host(&self, host: Host) -> Namespace {
        let found = self.hosts.iter().find(|(known, _)| *known == host);
        found.map_or_else(|| Namespace::unmade(&self.prefix), |(_, namespace)| namespace.clone())
    }

    /// Ends what runs in the namespaces and deletes them.
    pub(super) fn remove(&self) {
        for (_, namespace) in &self.hosts {
            namespace.remove();
        }
    }

    /// Takes an edge's eth0 down and up again.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn bounce(&self, edge: u8) -> Result<()> {
        self.down(edge)?;
        self.up(edge)
    }

    /// Gives an edge's eth0 another MAC address, and has the router forget the one it knew.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_mac(&self, edge: u8, mac: &str) -> Result<()> {
        self.host(Host::Edge(edge)).run("ip", &["link", "set", "eth0", "address", mac])?;
        self.host(Host::Router).run("ip", &["neigh", "flush", "all"]).map(drop)
    }

    /// Takes an edge's eth0 down.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn down(&self, edge: u8) -> Result<()> {
        self.host(Host::Edge(edge)).run("ip", &["link", "set", "eth0", "down"]).map(drop)
    }

    /// Takes it up again, with the addresses and routes that the kernel has forgotten.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn up(&self, edge: u8) -> Result<()> {
        let host = Host::Edge(edge);
        let namespace = self.host(host);
        let (gateway4, gateway6) = (host.gateway(Family::V4), host.gateway(Family::V6));
        let batch = format!(
            "link set eth0 up\naddr replace {}/64 dev eth0 nodad\nroute add default via {gateway4}\n\
             route add default via {gateway6}\n",
            host.address(Family::V6)
        );
        namespace.run_with_input("ip", &["-batch", "-"], &batch).map(drop)
    }

    /// Deletes an edge's eth0 and makes another.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn replace_cable(&self, edge: u8) -> Result<()> {
        let host = Host::Edge(edge);
        let router = self.host(Host::Router);
        router.run("ip", &["link", "delete", &host.name()])?;
        connect(&router, host, &self.host(host))?;
        steer(&router, edge)?;
        self.pass(&host.name())
    }

    /// Lets the router take what an XDP program transmits at the other end of this cable.
    fn pass(&self, name: &str) -> Result<()> {
        let link = self.host(Host::Router).within(|| pass::attach(name))?;
        self.links.borrow_mut().push(link);
        Ok(())
    }

    /// Gives each edge a second cable, eth1, to the router, with networks of its own; the edges reach each other's
    /// through it. An underlay there makes the forwarder send on another interface than packets come in.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add_backbone(&self) -> Result<()> {
        let router = self.host(Host::Router);
        for edge in 1..=self.edges {
            let namespace = self.host(Host::Edge(edge));
            let (name, peer) = (format!("core{edge}"), namespace.name());
            let mut outer =
                format!("link add name {name} type veth peer name eth1 netns {peer}\nlink set dev {name} up\n");
            let mut inner = "link set eth1 up\n".to_owned();
            for (family, length) in [(Family::V4, 24), (Family::V6, 64)] {
                let (gateway, address) = (backbone(edge, family, 1), backbone(edge, family, 2));
                // Writing to a string cannot fail. The lab's IPv4 addresses need no flag against duplicates, nor mind
                // it.
                let _ = writeln!(outer, "addr add {gateway}/{length} dev {name} nodad");
                let _ = writeln!(inner, "addr add {address}/{length} dev eth1 nodad");
                for other in (1..=self.edges).filter(|other| *other != edge) {
                    let _ = writeln!(inner, "route add {}/{length} via {gateway}", backbone(other, family, 0));
                }
            }
            router.run_with_input("ip", &["-batch", "-"], &outer)?;
            namespace.run_with_input("ip", &["-batch", "-"], &inner)?;
            namespace.run("ethtool", &["-K", "eth1", "tx", "off"])?;
            router.run("ethtool", &["-K", &name, "tx", "off"])?;
            self.pass(&name)?;
        }
        Ok(())
    }
}

/// A cable between a host's eth0 and the router's interface of the host's name.
fn connect(router: &Namespace, host: Host, namespace: &Namespace) -> Result<()> {
    let (name, peer) = (host.name(), namespace.name());
    let link = format!("link add name {name} type veth peer name eth0 netns {peer}\nlink set dev {name} up\n");
    let gateways = Family::BOTH.map(|family| (host.gateway(family), host.address(family)));
    let [(gateway4, address4), (gateway6, address6)] = gateways;
    let addresses = format!("addr add {gateway4}/24 dev {name}\naddr add {gateway6}/64 dev {name} nodad\n");
    router.run_with_input("ip", &["-batch", "-"], &(link + &addresses))?;
    let mut batch =
        format!("link set eth0 up\naddr add {address4}/24 dev eth0\naddr add {address6}/64 dev eth0 nodad\n");
    // Writing to a string cannot fail.
    let _ = write!(batch, "route add default via {gateway4}\nroute add default via {gateway6}\n");
    if let Host::Edge(_) = host {
        let _ = write!(batch, "addr replace {VIP4}/32 dev lo\naddr replace {VIP6}/128 dev lo nodad\n");
    }
    namespace.run_with_input("ip", &["-batch", "-"], &batch)?;
    // Checksums are whole on the wire: a program that rewrites a packet must not meet half of one.
    namespace.run("ethtool", &["-K", "eth0", "tx", "off"])?;
    router.run("ethtool", &["-K", &name, "tx", "off"]).map(drop)
}

/// Packets with mark N go to edge N.
fn steer(router: &Namespace, edge: u8) -> Result<()> {
    let table = (TABLE + u16::from(edge)).to_string();
    [("-4", Family::V4), ("-6", Family::V6)].into_iter().try_for_each(|(option, family)| {
        let address = Host::Edge(edge).address(family).to_string();
        router.run("ip", &[option, "route", "add", "default", "via", &address, "table", &table]).map(drop)
    })
}

/// An address of an edge's backbone network: 10.9.101.2 and fd09:101::2 at edge 1, 1 for the router, 0 for the network.
#[must_use]
pub fn backbone(edge: u8, family: Family, host: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 9, 100 + edge, host).into(),
        Family::V6 => Ipv6Addr::new(0xfd09, 0x100 + u16::from(edge), 0, 0, 0, 0, 0, u16::from(host)).into(),
    }
}
