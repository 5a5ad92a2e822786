//! What a configuration says, with its limits and defaults.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use forwarder_common::{bound::Rates, ids::NodeId};

/// Where maps and links are pinned unless the file says otherwise.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/forwarder";
/// Where the daemon answers unless the file says otherwise.
pub const DEFAULT_CONTROL: &str = "/run/forwarder/control.sock";
/// Milliseconds between two probes of a proxy unless the file says otherwise.
pub const DEFAULT_PROBE_MS: u64 = 1000;
/// Failures in a row that make a proxy down unless the file says otherwise.
pub const DEFAULT_FAILURES: u32 = 3;
/// Seconds that a hook may take unless the file says otherwise.
pub const DEFAULT_HOOK_S: u64 = 10;
/// Claims to hold unless the file says otherwise.
pub const DEFAULT_CLAIMS: u32 = 1 << 20;
/// Fewest claims: below it the table is too small to spread its buckets.
pub const MIN_CLAIMS: u32 = 1 << 10;
/// Most claims: 256 MiB of table, twice the slots of 8 bytes.
pub const MAX_CLAIMS: u32 = 16 << 20;
/// Nodes that stay up in any case unless the file says otherwise.
pub const DEFAULT_KEEP_UP: u16 = 1;
/// Longest name of a cluster in bytes: it is part of a URI in every certificate.
pub const MAX_CLUSTER_NAME: usize = 64;
/// Most seeds: every node of the largest cluster.
pub const MAX_SEEDS: usize = NodeId::MAX as usize;
/// Most entries of `deny`: far more than a cluster has nodes.
pub const MAX_DENIED: usize = 4096;
/// Longest name of an interface in bytes (IFNAMSIZ less its NUL).
pub const MAX_INTERFACE_NAME: usize = 15;

/// How the XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver where it can, else in the stack.
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the stack: works everywhere, and costs more.
    Generic,
}

/// What a service's transactions are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// Call-ID and CSeq number: the proxy keeps state for a transaction only.
    Transaction,
    /// Call-ID alone: the server keeps state for the whole call.
    Call,
}

impl Affinity {
    /// The word in configuration and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transaction => "transaction",
            Self::Call => "call",
        }
    }
}

/// How the local proxy of a service is probed with OPTIONS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Milliseconds between two probes, 100..=3,600,000.
    pub interval_ms: u64,
    /// Unanswered probes in a row after which the proxy counts as down, 1..=100.
    pub failures: u32,
}

/// An address and port on which the local proxy serves SIP over UDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The address that the nodes share; a unicast address by its form.
    pub vip: IpAddr,
    /// The UDP port, 1..=65535.
    pub port: u16,
    /// What its transactions are told apart by.
    pub affinity: Affinity,
    /// Other addresses and ports from which its proxy sends; none of them a service's or another one's source.
    pub sources: Vec<SocketAddr>,
    /// How its proxy is probed; `None` for not at all.
    pub probe: Option<Probe>,
}

/// The cluster and this node's way into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its name, as in every certificate: letters, digits, `.`, `_`, `-`, at most [`MAX_CLUSTER_NAME`] bytes.
    pub name: String,
    /// Where this node listens for its peers (UDP); the port is not 0.
    pub listen: SocketAddr,
    /// The other nodes' `listen` addresses, without this node's own; empty for a node that stands alone.
    pub seeds: Vec<SocketAddr>,
    /// Certificates (PEM) of the authorities that sign the nodes'.
    pub ca: PathBuf,
    /// This node's certificate chain (PEM), its own first.
    pub certificate: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
    /// The secret from which the keys of claim hash and tunnel tag are derived.
    pub secret: PathBuf,
    /// Who is kept out, whatever its certificate says.
    pub deny: Deny,
    /// So many nodes stay up at least while the proxies are silent everywhere, 0..=1023.
    pub keep_up: u16,
}

/// Nodes and certificates that are kept out of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deny {
    /// Node ids, whatever certificate they show.
    pub nodes: BTreeSet<u16>,
    /// SHA-256 of certificates (DER), whosever they are.
    pub fingerprints: BTreeSet<[u8; 32]>,
}

/// Timers, from which the lifetimes of claims follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// SIP's T1 in milliseconds (RFC 3261 §17.1.1.1), 10..=10,000.
    pub t1_ms: u64,
    /// SIP's Timer C in seconds (RFC 3261 §16.6), 1..=86,400.
    pub timer_c_s: u64,
    /// Lifetime in seconds of a claim of affinity `call`, 1..=129,600.
    pub call_ttl_s: u64,
    /// Longest wait in milliseconds of a packet whose owner is being asked for, 0..=5,000.
    pub hold_ms: u64,
}

/// Programs that the daemon runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Run with the old and the new state at each change.
    pub on_state: Option<PathBuf>,
    /// Seconds after which a hook that still runs is ended, 1..=600.
    pub timeout_s: u64,
}

/// A whole configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file that it was read from, absolute; `None` where there was only its text.
    pub file: Option<PathBuf>,
    /// This node's id, as in its certificate.
    pub node: NodeId,
    /// Interfaces to attach to: at least one, no two the same.
    pub interfaces: Vec<String>,
    /// This node's unicast address, to which its peers send tunnel packets; never a VIP.
    pub underlay: IpAddr,
    /// How the XDP program is attached.
    pub xdp_mode: XdpMode,
    /// Folder in bpffs for pinned maps and links.
    pub pin_dir: PathBuf,
    /// The control socket.
    pub control: PathBuf,
    /// Where metrics are served; `None` for not at all.
    pub metrics: Option<SocketAddr>,
    /// Claims to hold, [`MIN_CLAIMS`]..=[`MAX_CLAIMS`].
    pub claims: u32,
    /// The services: 1 to [`forwarder_common::abi::MAX_SERVICES`], no two with the same address and port.
    pub services: Vec<Service>,
    /// The cluster.
    pub cluster: Cluster,
    /// The timers.
    pub timers: Timers,
    /// How much is sent to one node, and of one transaction.
    pub forward: Rates,
    /// The hooks.
    pub hooks: Hooks,
}

impl Config {
    /// Checks what the file names on this host: that the interfaces are there and the hook can be run.
    ///
    /// # Errors
    /// One sentence that names what is not there, and a hint.
    pub fn check_host(&self) -> anyhow::Result<()> {
        let present = interfaces_present()?;
        for name in &self.interfaces {
            if !present.contains(name) {
                let list = present.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                bail!("find interface {name}: no such interface; hint: this host has {list}");
            }
        }
        if let Some(hook) = &self.hooks.on_state {
            check_hook(hook).with_context(|| format!("find hook {}", hook.display()))?;
        }
        Ok(())
    }
}

/// The names of the interfaces in this network namespace.
///
/// # Errors
/// /proc cannot be read.
pub fn interfaces_present() -> anyhow::Result<BTreeSet<String>> {
    // Not /sys/class/net: that shows the namespace in which /sys was mounted, not the one this process is in.
    let path = "/proc/thread-self/net/dev";
    let text = fs::read_to_string(path).with_context(|| format!("list interfaces from {path}"))?;
    Ok(text.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim().to_owned()).collect())
}

fn check_hook(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let about = fs::metadata(path).map_err(|error| anyhow::anyhow!("{error}; hint: correct `on_state` in [hooks]"))?;
    if !about.is_file() || about.permissions().mode() & 0o111 == 0 {
        bail!("it cannot be run; hint: make it an executable file (chmod +x)");
    }
    Ok(())
}

/// Whether `name` can be the name of a cluster: it must stand in a URI as it is.
#[must_use]
pub fn is_cluster_name(name: &str) -> bool {
    let fits = (1..=MAX_CLUSTER_NAME).contains(&name.len());
    fits && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}
