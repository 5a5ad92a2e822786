//! Where the router sends the packets for the shared address.

use std::fmt::Write as _;

use anyhow::Result;

use crate::forwarder::CLUSTER_PORT;
use crate::namespace::Namespace;

use super::{EDGES, Host, Lab, VIP4, VIP6};

/// The router's way with packets for the shared address.
#[derive(Clone, Debug)]
pub enum Spray {
    /// Each packet to a random edge.
    Random,
    /// Each packet to the next edge, round and round.
    RoundRobin,
    /// Everything to one edge.
    To(u8),
    /// Each packet to a random one of these edges.
    Over(Vec<u8>),
    /// Everything to a random edge, except what a rule names; the last rule that fits counts.
    Rules(Vec<Rule>),
    /// Everything to a random edge, except what comes from a UDP port: that to one edge.
    FromPort {
        /// The port.
        port: u16,
        /// The edge.
        edge: u8,
    },
    /// What comes from a UDP port to one edge, all else to a random one of others.
    Apart {
        /// The port.
        port: u16,
        /// The edge.
        edge: u8,
        /// The others.
        others: Vec<u8>,
    },
}

/// Sends what begins with four certain bytes to one edge.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The first four bytes of the UDP payload, such as `INVI` or `SIP/`.
    pub begins: [u8; 4],
    /// The edge.
    pub edge: u8,
}

impl Rule {
    /// Responses.
    pub const RESPONSES: [u8; 4] = *b"SIP/";

    /// A rule for packets that begin so.
    #[must_use]
    pub const fn new(begins: [u8; 4], edge: u8) -> Self {
        Self { begins, edge }
    }
}

impl Lab {
    /// Changes the router's way at once, for packets from now on.
    ///
    /// # Errors
    /// `nft` refuses.
    pub fn spray(&self, spray: &Spray) -> Result<()> {
        set(&self.host(Host::Router), spray)
    }

    /// Cuts an edge off: the router drops what comes from it and what goes to it.
    ///
    /// # Errors
    /// `nft` refuses.
    pub fn cut_off(&self, edge: u8) -> Result<()> {
        let name = Host::Edge(edge).name();
        let text = format!(
            "table inet cut {{\n chain forward {{\n  type filter hook forward priority filter; policy accept;\n  \
             iifname \"{name}\" drop\n  oifname \"{name}\" drop\n }}\n}}\n"
        );
        self.host(Host::Router).run_with_input("nft", &["-f", "-"], &text).map(drop)
    }

    /// Loses so many of a hundred packets of the daemons' own, on their way between any two edges.
    ///
    /// # Errors
    /// `nft` refuses.
    pub fn lose_links(&self, percent: u8) -> Result<()> {
        self.links(&format!("udp dport {CLUSTER_PORT} numgen random mod 100 < {percent} drop"))
    }

    /// Cuts the daemon of an edge off from all others; calls still pass.
    ///
    /// # Errors
    /// `nft` refuses.
    pub fn cut_links(&self, edge: u8) -> Result<()> {
        let name = Host::Edge(edge).name();
        self.links(&format!(
            "iifname \"{name}\" udp dport {CLUSTER_PORT} drop\n  oifname \"{name}\" udp dport {CLUSTER_PORT} drop"
        ))
    }

    /// Lets no packet of an edge's daemon through to the others; theirs still reach it.
    ///
    /// # Errors
    /// `nft` refuses.
    pub fn mute_links(&self, edge: u8) -> Result<()> {
        self.links(&format!("iifname \"{}\" udp dport {CLUSTER_PORT} drop", Host::Edge(edge).name()))
    }

    fn links(&self, rules: &str) -> Result<()> {
        let text = format!(
            "table inet links {{\n chain forward {{\n  type filter hook forward priority filter; policy accept;\n  \
             {rules}\n }}\n}}\n"
        );
        self.host(Host::Router).run_with_input("nft", &["-f", "-"], &text).map(drop)
    }

    /// Lets the daemons' packets pass again.
    ///
    /// # Errors
    /// Nothing was in their way.
    pub fn mend_links(&self) -> Result<()> {
        self.host(Host::Router).run("nft", &["delete", "table", "inet", "links"]).map(drop)
    }

    /// Connects all edges again.
    ///
    /// # Errors
    /// None was cut off.
    pub fn reconnect(&self) -> Result<()> {
        self.host(Host::Router).run("nft", &["delete", "table", "inet", "cut"]).map(drop)
    }
}

/// Changes the way of a router.
pub(super) fn set(router: &Namespace, spray: &Spray) -> Result<()> {
    router.run_with_input("nft", &["-f", "-"], &ruleset(spray)).map(drop)
}

/// One nft file that replaces the table in one step.
fn ruleset(spray: &Spray) -> String {
    let mut text = String::from("table inet spray\ndelete table inet spray\ntable inet spray {\n chain prerouting {\n");
    text.push_str("  type filter hook prerouting priority mangle; policy accept;\n");
    for vip in [format!("ip daddr {VIP4}"), format!("ip6 daddr {VIP6}")] {
        let mut rule = |line: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {vip} {line}");
        };
        match spray {
            Spray::Random => rule(format!("meta mark set numgen random mod {EDGES} offset 1")),
            Spray::RoundRobin => rule(format!("meta mark set numgen inc mod {EDGES} offset 1")),
            Spray::Over(edges) => rule(over(edges)),
            Spray::Apart { port, edge, others } => {
                rule(over(others));
                rule(format!("udp sport {port} meta mark set {edge}"));
            }
            Spray::To(edge) => rule(format!("meta mark set {edge}")),
            Spray::FromPort { port, edge } => {
                rule(format!("meta mark set numgen random mod {EDGES} offset 1"));
                rule(format!("udp sport {port} meta mark set {edge}"));
            }
            Spray::Rules(rules) => {
                rule(format!("meta mark set numgen random mod {EDGES} offset 1"));
                for Rule { begins, edge } in rules {
                    let word = u32::from_be_bytes(*begins);
                    rule(format!("udp dport 5060 @th,64,32 {word:#x} meta mark set {edge}"));
                }
            }
        }
    }
    text.push_str(" }\n}\n");
    text
}

fn over(edges: &[u8]) -> String {
    let map: Vec<String> = (0..).zip(edges).map(|(place, edge)| format!("{place}: {edge}")).collect();
    format!("meta mark set numgen random mod {} map {{ {} }}", edges.len().max(1), map.join(", "))
}
