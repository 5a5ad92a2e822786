//! The lab itself: client, carrier, router and edges, wired, addressed and cleaned up.
//!
//! Every name begins with a prefix that holds this process's id, so that two runs do not meet; what a killed run left
//! behind goes at the next start. All traffic stays inside.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::namespace::Namespace;
use crate::needs;

pub mod bgp;
pub mod delay;
mod host;
mod pass;
mod router;
pub mod routing;
pub mod slots;
pub mod spray;
mod wiring;

pub use host::{CLUSTER_PORT, EDGES, Family, Host, MOST_EDGES, SIP, TUNNEL_PORT, VIP4, VIP6};
pub use router::Router;
use slots::Slot;
pub use spray::Spray;
pub use wiring::{Wiring, backbone};

/// Where pinned maps and links are.
pub const BPFFS: &str = "/sys/fs/bpf";
/// How every lab's names begin, before the process id.
const FAMILY: &str = "siplab";

/// The pins of one edge's daemon.
#[must_use]
pub fn pin_folder(prefix: &str, edge: u8) -> PathBuf {
    Path::new(BPFFS).join(format!("{prefix}-edge{edge}"))
}

/// A wired lab. Dropping it ends what runs inside and deletes it.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    folder: PathBuf,
    keep: Cell<bool>,
    wiring: Wiring,
    router: Router,
    _slot: Slot,
}

impl Lab {
    /// Makes a lab of three edges; every packet goes to a random one.
    ///
    /// # Errors
    /// Not root, a program is missing, or the kernel refuses.
    pub fn new() -> Result<Self> {
        Self::with_edges(EDGES)
    }

    /// The same with more edges or fewer, up to [`MOST_EDGES`].
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_edges(edges: u8) -> Result<Self> {
        needs::check()?;
        Self::make(Slot::take()?, edges)
    }

    /// The same, while there is no other lab on the machine.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn alone_with_edges(edges: u8) -> Result<Self> {
        needs::check()?;
        Self::make(Slot::take_all()?, edges)
    }

    fn make(slot: Slot, edges: u8) -> Result<Self> {
        remove_stale();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("{FAMILY}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(&prefix);
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let wiring = Wiring::make(&prefix, edges).context("wire the lab")?;
        let router = Router::new(wiring.host(Host::Router), edges);
        router.spray(&Spray::Random)?;
        Ok(Self { prefix, folder, keep: Cell::new(false), wiring, router, _slot: slot })
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
        Self::alone_with_edges(EDGES)?.test(body)
    }

    /// Runs a test in it, as [`Self::run`] does.
    ///
    /// # Errors
    /// The body's own error.
    pub fn test(self, body: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let result = body(&self);
        if result.is_err() {
            self.keep();
        }
        result.with_context(|| format!("captures, logs and status are in {}", self.folder.display()))
    }

    /// Leaves its folder where it is when the lab goes.
    pub fn keep(&self) {
        self.keep.set(true);
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

    /// The namespace of a host. That of an edge that the lab does not have does not exist: what enters it fails.
    #[must_use]
    pub fn host(&self, host: Host) -> Namespace {
        self.wiring.host(host)
    }

    /// Its router.
    #[must_use]
    pub const fn router(&self) -> &Router {
        &self.router
    }

    /// Its cables.
    #[must_use]
    pub const fn wiring(&self) -> &Wiring {
        &self.wiring
    }

    /// Changes the router's way with packets for the shared address, at once.
    ///
    /// # Errors
    /// `nft` refuses.
    pub fn spray(&self, spray: &Spray) -> Result<()> {
        self.router.spray(spray)
    }

    /// All edges' numbers.
    pub fn edges(&self) -> impl Iterator<Item = u8> + use<> {
        1..=self.router.edges()
    }

    /// Whether a UDP socket is bound to `port` in a host.
    ///
    /// # Errors
    /// The socket tables cannot be read.
    pub fn has_port(&self, host: Host, port: u16) -> Result<bool> {
        let sockets = self.host(host).within(sockets)?;
        Ok(sockets.iter().any(|(bound, _)| *bound == port))
    }

    /// The datagrams that the UDP sockets at `port` of a host had no room for so far, or all its UDP sockets.
    ///
    /// # Errors
    /// The socket tables cannot be read.
    pub fn dropped(&self, host: Host, port: Option<u16>) -> Result<u64> {
        let sockets = self.host(host).within(sockets)?;
        let wanted = |bound: u16| port.is_none_or(|port| port == bound);
        Ok(sockets.iter().filter(|(bound, _)| wanted(*bound)).map(|(_, dropped)| dropped).sum())
    }
}

/// The UDP sockets of this thread's namespace: port, and datagrams dropped for want of room.
fn sockets() -> Result<Vec<(u16, u64)>> {
    let mut found = Vec::new();
    for table in ["udp", "udp6"] {
        let path = format!("/proc/thread-self/net/{table}");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        found.extend(text.lines().skip(1).filter_map(socket));
    }
    Ok(found)
}

/// A line of such a table: the second word ends with the port in hex, the last one counts the drops.
fn socket(line: &str) -> Option<(u16, u64)> {
    let (_, port) = line.split_whitespace().nth(1)?.rsplit_once(':')?;
    Some((u16::from_str_radix(port, 16).ok()?, line.split_whitespace().last()?.parse().ok()?))
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

/// Ctrl-C ends this process at any point, with nothing left behind; `first` is done before.
///
/// # Errors
/// The signals cannot be listened for.
pub fn remove_all_on_signals(first: impl FnOnce() + Send + 'static) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("listen for Ctrl-C")?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            first();
            remove_all();
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

/// Ends and deletes the labs of the processes that `ends` names: programs, namespaces, pins. Folders stay: one of a
/// dead process may be what a failed test kept.
fn sweep(ends: impl Fn(u32) -> bool) {
    for namespace in Namespace::named(FAMILY) {
        if owner(namespace.name()).is_some_and(&ends) {
            namespace.remove();
        }
    }
    let Ok(pins) = std::fs::read_dir(BPFFS) else { return };
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
        self.wiring.remove();
        for edge in self.edges() {
            // A daemon that was killed leaves its pins; with the namespaces gone nobody needs them.
            let _ = std::fs::remove_dir_all(pin_folder(&self.prefix, edge));
        }
        if !self.keep.get() && !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}
