//! Where the router sends the packets for the shared address.

use std::fmt::Write as _;

use super::host::{VIP4, VIP6};

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

impl Spray {
    /// One nft file that replaces the table in one step.
    pub(super) fn ruleset(&self, edges: u8) -> String {
        let mut text =
            String::from("table inet spray\ndelete table inet spray\ntable inet spray {\n chain prerouting {\n");
        text.push_str("  type filter hook prerouting priority mangle; policy accept;\n");
        for vip in [format!("ip daddr {VIP4}"), format!("ip6 daddr {VIP6}")] {
            let mut rule = |line: String| {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "  {vip} {line}");
            };
            match self {
                Self::Random => rule(format!("meta mark set numgen random mod {edges} offset 1")),
                Self::RoundRobin => rule(format!("meta mark set numgen inc mod {edges} offset 1")),
                Self::Over(some) => rule(over(some)),
                Self::Apart { port, edge, others } => {
                    rule(over(others));
                    rule(format!("udp sport {port} meta mark set {edge}"));
                }
                Self::To(edge) => rule(format!("meta mark set {edge}")),
                Self::FromPort { port, edge } => {
                    rule(format!("meta mark set numgen random mod {edges} offset 1"));
                    rule(format!("udp sport {port} meta mark set {edge}"));
                }
                Self::Rules(rules) => {
                    rule(format!("meta mark set numgen random mod {edges} offset 1"));
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
}

fn over(edges: &[u8]) -> String {
    let map: Vec<String> = (0..).zip(edges).map(|(place, edge)| format!("{place}: {edge}")).collect();
    format!("meta mark set numgen random mod {} map {{ {} }}", edges.len().max(1), map.join(", "))
}
