//! The lab itself: client, carrier, router and edges, wired, addressed and cleaned up.
//!
//! Every name begins with a prefix that holds this process's id, so that two runs do not meet; what a killed run left
//! behind goes at the next start. All traffic stays inside.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};

use crate::namespace::Namespace;
use crate::needs;

pub mod bgp;
pub mod delay;
mod pass;
pub mod routing;
pub mod slots;
pub mod spray;
mod wiring;

use slots::Slot;
pub use spray::Spray;
pub use wiring::backbone;

/// The address that all edges share.
pub const VIP4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The same for IPv6.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
/// SIP's port, on the shared address and elsewhere.
pub const SIP: u16 = 5060;
/// The most edges that a lab has.
pub const EDGES: u8 = 3;
/// How every lab's names begin, before the process id.
const FAMILY: &str = "siplab";

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

/// A wired lab. Dropping it ends what runs inside and deletes it.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    folder: PathBuf,
    keep: Cell<bool>,
    hosts: Vec<(Host, Namespace)>,
    /// Links of XDP programs at the router.
    links: RefCell<Vec<OwnedFd>>,
    _slot: Slot,
}

impl Lab {
    /// Makes a lab of three edges; every packet goes to a random one.
    ///
    /// # Errors
    /// Not root, a program is missing, or the kernel refuses.
    pub fn new() -> Result<Self> {
        needs::check()?;
        Self::make(Slot::take()?)
    }

    fn make(slot: Slot) -> Result<Self> {
        remove_stale();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("{FAMILY}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(&prefix);
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let mut lab =
            Self { prefix, folder, keep: Cell::new(false), hosts: Vec::new(), links: RefCell::default(), _slot: slot };
        wiring::wire(&mut lab).context("wire the lab")?;
        lab.spray(&Spray::Random)?;
        Ok(lab)
    }

    /// Runs a test in a lab of its own. Where it fails, captures, logs and status stay and the error names their
    /// folder.
    ///
    /// # Errors
    /// The lab cannot be made, or the body's own error.
    pub fn run(body: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        Self::new()?.test(body)
    }

    /// As [`Self::run`], while there is no other lab on the machine: for a test that needs all of its processors.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_alone(body: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        needs::check()?;
        Self::make(Slot::take_all()?)?.test(body)
    }

    fn test(self, body: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let result = body(&self);
        if result.is_err() {
            self.keep.set(true);
        }
        result.with_context(|| format!("captures, logs and status are in {}", self.folder.display()))
    }

    /// How its names begin.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A folder for logs, captures and sockets; it goes with the lab unless the test fails.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The namespace of a host. That of an edge above [`EDGES`] does not exist: what enters it fails.
    #[must_use]
    pub fn host(&self, host: Host) -> Namespace {
        let found = self.hosts.iter().find(|(known, _)| *known == host);
        found.map_or_else(|| Namespace::unmade(&self.prefix), |(_, namespace)| namespace.clone())
    }

    /// All edges.
    pub fn edges(&self) -> impl Iterator<Item = Host> + use<> {
        (1..=EDGES).map(Host::Edge)
    }

    /// Whether a UDP socket is bound to `port` in a host.
    ///
    /// # Errors
    /// The socket tables cannot be read.
    pub fn has_port(&self, host: Host, port: u16) -> Result<bool> {
        self.host(host).within(|| port_is_bound(port))
    }
}

/// Reads this thread's own socket tables.
fn port_is_bound(port: u16) -> Result<bool> {
    let wanted = format!(":{port:04X}");
    for table in ["udp", "udp6"] {
        let path = format!("/proc/thread-self/net/{table}");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let locals = text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1));
        if locals.into_iter().any(|local| local.ends_with(&wanted)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Deletes what labs of processes that no longer live left behind.
fn remove_stale() {
    sweep(|pid| !Path::new(&format!("/proc/{pid}")).exists());
}

/// Deletes every lab of this process, at once, for a program that is told to stop in the middle.
pub fn remove_all() {
    let own = std::process::id();
    sweep(|pid| pid == own);
    let Ok(folders) = std::fs::read_dir(std::env::temp_dir()) else { return };
    for folder in folders.flatten() {
        if folder.file_name().to_str().and_then(owner) == Some(own) {
            // What cannot be removed is a folder of logs, no more.
            let _ = std::fs::remove_dir_all(folder.path());
        }
    }
}

/// Ends and deletes the labs of the processes that `ends` names: programs, namespaces, pins. Folders stay: one of a
/// dead process may be what a failed test kept.
fn sweep(ends: impl Fn(u32) -> bool) {
    for namespace in Namespace::named(FAMILY) {
        if owner(namespace.name()).is_some_and(&ends) {
            namespace.remove();
        }
    }
    let Ok(pins) = std::fs::read_dir(crate::forwarder::BPFFS) else { return };
    for pin in pins.flatten() {
        if pin.file_name().to_str().and_then(owner).is_some_and(&ends) {
            // Removing the pins frees maps and links; nothing else refers to them.
            let _ = std::fs::remove_dir_all(pin.path());
        }
    }
}

/// The process whose lab has a thing of that name.
fn owner(name: &str) -> Option<u32> {
    let (pid, _) = name.strip_prefix(FAMILY)?.split_once('-')?;
    pid.parse().ok()
}

impl Drop for Lab {
    fn drop(&mut self) {
        for (_, namespace) in &self.hosts {
            namespace.remove();
        }
        for edge in 1..=EDGES {
            // A daemon that was killed leaves its pins; with the namespaces gone nobody needs them.
            let _ = std::fs::remove_dir_all(crate::forwarder::pin_folder(&self.prefix, edge));
        }
        if !self.keep.get() && !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}
