//! The router between all hosts: where it sends what is for the shared address, and what it does not let through.

use anyhow::Result;

use super::host::{CLUSTER_PORT, Host, TUNNEL_PORT};
use super::spray::Spray;
use crate::namespace::Namespace;

/// The lab's router.
#[derive(Clone, Debug)]
pub struct Router {
    namespace: Namespace,
    edges: u8,
}

impl Router {
    /// The router in that namespace, of so many edges.
    pub(super) const fn new(namespace: Namespace, edges: u8) -> Self {
        Self { namespace, edges }
    }

    /// Its namespace.
    #[must_use]
    pub const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// How many edges it has.
    #[must_use]
    pub const fn edges(&self) -> u8 {
        self.edges
    }

    /// Changes its way with packets for the shared address at once, for packets from now on.
    ///
    /// # Errors
    /// `nft` refuses.
    pub fn spray(&self, spray: &Spray) -> Result<()> {
        self.namespace.run_with_input("nft", &["-f", "-"], &spray.ruleset(self.edges)).map(drop)
    }

    /// Cuts an edge off: the router drops what comes from it and what goes to it.
    ///
    /// # Errors
    /// `nft` refuses.
    pub fn cut_off(&self, edge: u8) -> Result<()> {
        let name = Host::Edge(edge).name();
        self.drop_where("cut", &format!("iifname \"{name}\" drop\n  oifname \"{name}\" drop"))
    }

    /// Connects all edges again.
    ///
    /// # Errors
    /// None was cut off.
    pub fn reconnect(&self) -> Result<()> {
        self.let_through("cut")
    }

    /// Loses so many of a hundred packets of the daemons' own, on their way between any two edges.
    ///
    /// # Errors
    /// `nft` refuses.
    pub fn lose_links(&self, percent: u8) -> Result<()> {
        self.drop_where("links", &format!("udp dport {CLUSTER_PORT} numgen random mod 100 < {percent} drop"))
    }

    /// Cuts an edge off from all others, links and tunnel; what comes from and goes to the clients still passes.
    ///
    /// # Errors
    /// `nft` refuses.
    pub fn cut_links(&self, edge: u8) -> Result<()> {
        let (name, ports) = (Host::Edge(edge).name(), format!("{{ {CLUSTER_PORT}, {TUNNEL_PORT} }}"));
        let rules = format!("iifname \"{name}\" udp dport {ports} drop\n  oifname \"{name}\" udp dport {ports} drop");
        self.drop_where("links", &rules)
    }

    /// Lets no packet of an edge through to the others, of links and tunnel; theirs still reach it.
    ///
    /// # Errors
    /// `nft` refuses.
    pub fn mute_links(&self, edge: u8) -> Result<()> {
        let ports = format!("{{ {CLUSTER_PORT}, {TUNNEL_PORT} }}");
        self.drop_where("links", &format!("iifname \"{}\" udp dport {ports} drop", Host::Edge(edge).name()))
    }

    /// Lets the daemons' packets pass again.
    ///
    /// # Errors
    /// Nothing was in their way.
    pub fn mend_links(&self) -> Result<()> {
        self.let_through("links")
    }

    /// Puts rules into the way of what it forwards, in place of those of the same name.
    ///
    /// # Errors
    /// `nft` refuses.
    pub fn drop_where(&self, name: &str, rules: &str) -> Result<()> {
        let text = format!(
            "table inet {name}\ndelete table inet {name}\ntable inet {name} {{\n chain forward {{\n  \
             type filter hook forward priority filter; policy accept;\n  {rules}\n }}\n}}\n"
        );
        self.namespace.run_with_input("nft", &["-f", "-"], &text).map(drop)
    }

    /// Takes rules out of the way.
    ///
    /// # Errors
    /// There are none of that name.
    pub fn let_through(&self, name: &str) -> Result<()> {
        self.namespace.run("nft", &["delete", "table", "inet", name]).map(drop)
    }
}
