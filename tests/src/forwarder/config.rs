//! Certificates and configuration files of the edges.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::tool::tool_ok;
use crate::lab::{CLUSTER_PORT, Family, Host, Lab, SIP, VIP4, VIP6, backbone, pin_folder};

/// A hold that outlasts the pauses of a machine on which all edges, builds and tests share two cores: what a test shows
/// must not depend on how busy that is. Whatever nobody owns is let go as soon as all peers have said so.
const HOLD_MS: &str = "2000";

/// Certificates and the shared secret of one cluster, in a folder.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    name: String,
}

impl Authority {
    /// `forwarder cluster init`.
    ///
    /// # Errors
    /// The forwarder says no.
    pub fn init(folder: &Path, name: &str) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        tool_ok(&["cluster", "init", "--dir", &folder.display().to_string(), "--name", name])?;
        Ok(Self { folder: folder.to_owned(), name: name.to_owned() })
    }

    /// `forwarder cluster issue`: a certificate for a node at an address.
    ///
    /// # Errors
    /// The forwarder says no.
    pub fn issue(&self, node: u8, address: &str) -> Result<()> {
        let folder = self.folder.display().to_string();
        tool_ok(&["cluster", "issue", "--dir", &folder, "--node", &node.to_string(), "--address", address]).map(drop)
    }

    /// A file of its folder.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// How the edges of a cluster reach each other, and how the programs are attached.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// The underlay's family.
    pub family: Family,
    /// Whether the underlay is the backbone on eth1 ([`crate::lab::Wiring::add_backbone`]) instead of eth0.
    pub backbone: bool,
    /// The configuration's `xdp_mode`.
    pub xdp_mode: &'static str,
}

impl From<Family> for Site {
    fn from(family: Family) -> Self {
        Self { family, backbone: false, xdp_mode: "auto" }
    }
}

impl Site {
    /// The underlay address of an edge.
    #[must_use]
    pub fn address(self, edge: u8) -> IpAddr {
        if self.backbone { backbone(edge, self.family, 2) } else { Host::Edge(edge).address(self.family) }
    }
}

/// One edge's configuration, as the lab writes it; tests change a field and write it again.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node id.
    pub node: u8,
    /// Lines of the file before the first table.
    pub head: BTreeMap<&'static str, String>,
    /// Lines of `[cluster]`.
    pub cluster: BTreeMap<&'static str, String>,
    /// The services' addresses, as written.
    pub vips: Vec<String>,
    /// Lines of every service beside its address and port.
    pub service: BTreeMap<&'static str, String>,
    /// Lines of `[timers]`.
    pub timers: BTreeMap<&'static str, String>,
    /// More text, at the end.
    pub tail: String,
    /// What the daemon logs, as `RUST_LOG` says it.
    pub log: &'static str,
}

impl Config {
    /// The configuration of an edge in a cluster; a family alone is that of an underlay on eth0.
    #[must_use]
    pub fn new(lab: &Lab, authority: &Authority, edge: u8, site: impl Into<Site>) -> Self {
        let site = site.into();
        let seeds: Vec<String> = lab.edges().filter(|other| *other != edge).map(|edge| endpoint(site, edge)).collect();
        let file = |name: &str| format!("{:?}", authority.file(name).display().to_string());
        let control = lab.folder().join(format!("edge{edge}.sock"));
        let head = [
            ("node", edge.to_string()),
            ("interfaces", if site.backbone { "[\"eth0\", \"eth1\"]" } else { "[\"eth0\"]" }.to_owned()),
            ("underlay", format!("\"{}\"", site.address(edge))),
            ("xdp_mode", format!("\"{}\"", site.xdp_mode)),
            ("pin_dir", format!("{:?}", pin_folder(lab.prefix(), edge).display().to_string())),
            ("control", format!("{:?}", control.display().to_string())),
            ("claims", "65536".to_owned()),
        ];
        let cluster = [
            ("name", format!("{:?}", authority.name)),
            ("listen", endpoint(site, edge)),
            ("seeds", format!("[{}]", seeds.join(", "))),
            ("ca", file("ca.pem")),
            ("certificate", file(&format!("node-{edge}.pem"))),
            ("key", file(&format!("node-{edge}.key"))),
            ("secret", file("cluster.secret")),
        ];
        let vips = vec![VIP4.to_string(), VIP6.to_string()];
        let timers = [("hold_ms", HOLD_MS.to_owned())];
        Self {
            node: edge,
            head: head.into(),
            cluster: cluster.into(),
            vips,
            service: BTreeMap::new(),
            timers: timers.into(),
            tail: String::new(),
            log: "info,forwarder::daemon=debug,forwarder::claims=trace",
        }
    }

    /// The file's text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut table = |lines: &BTreeMap<&'static str, String>| {
            for (name, value) in lines {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{name} = {value}");
            }
            std::mem::take(&mut text)
        };
        let (head, cluster) = (table(&self.head), table(&self.cluster));
        let (service, timers) = (table(&self.service), table(&self.timers));
        let services: String =
            self.vips.iter().map(|vip| format!("\n[[service]]\nvip = \"{vip}\"\nport = {SIP}\n{service}")).collect();
        format!("{head}{services}\n[cluster]\n{cluster}\n[timers]\n{timers}\n{}", self.tail)
    }

    /// Knows no other edges than these at its start.
    #[must_use]
    pub fn seeded(mut self, site: impl Into<Site>, seeds: &[u8]) -> Self {
        let site = site.into();
        let seeds: Vec<String> = seeds.iter().map(|edge| endpoint(site, *edge)).collect();
        self.cluster.insert("seeds", format!("[{}]", seeds.join(", ")));
        self
    }

    /// Has the local proxy looked after, as an operator would: every 250 ms, down after two probes without an answer.
    #[must_use]
    pub fn probed(mut self) -> Self {
        self.service.insert("probe", "{ interval_ms = 250, failures = 2 }".to_owned());
        self
    }

    /// Shorter timers, so that claims end soon: those of a proxy with T1 of 20 ms and Timer C of 10 s. Nothing is lost
    /// in the lab that would have to be sent again for longer.
    #[must_use]
    pub fn hurried(mut self) -> Self {
        self.timers.insert("t1_ms", "20".to_owned());
        self.timers.insert("timer_c_s", "10".to_owned());
        self
    }

    /// Logs no single claim, as in production: a line for each costs twenty times what the claim does.
    #[must_use]
    pub const fn without_claims_in_log(mut self) -> Self {
        self.log = "info,forwarder::daemon=debug";
        self
    }

    /// Runs a program at each change of state.
    #[must_use]
    pub fn hooked(mut self, program: &Path) -> Self {
        self.tail.push_str(&format!("[hooks]\non_state = {:?}\n", program.display().to_string()));
        self
    }

    /// Writes the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, self.text()).with_context(|| format!("write {}", path.display()))
    }
}

/// Where the daemon of an edge is found by the others, as written in the file.
fn endpoint(site: Site, edge: u8) -> String {
    format!("\"{}\"", SocketAddr::new(site.address(edge), CLUSTER_PORT))
}
