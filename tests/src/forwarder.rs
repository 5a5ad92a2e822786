//! The forwarder on the edges: certificates, configuration, daemons, and what they counted.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::lab::{EDGES, Family, Host, Lab, SIP, VIP4, VIP6};
use crate::namespace::Namespace;
use crate::poll::poll_until_true;
use crate::process::Process;

/// Where pinned maps and links are.
pub const BPFFS: &str = "/sys/fs/bpf";
/// The cluster's port on every edge's underlay address.
pub const CLUSTER_PORT: u16 = 7470;
/// The tunnel's port.
pub const TUNNEL_PORT: u16 = 6081;
/// How long daemons may take to find each other, and to be found down or up again.
const PATIENCE: Duration = Duration::from_secs(10);

/// The pins of one edge's daemon.
#[must_use]
pub fn pin_folder(prefix: &str, edge: u8) -> PathBuf {
    Path::new(BPFFS).join(format!("{prefix}-edge{edge}"))
}

/// The forwarder's binary: `FORWARDER_BIN`, as `cargo xtask test` sets it, else the workspace's release build.
///
/// # Errors
/// There is none.
pub fn binary() -> Result<PathBuf> {
    let path = std::env::var_os("FORWARDER_BIN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/forwarder"),
        PathBuf::from,
    );
    path.canonicalize().with_context(|| format!("find the forwarder at {}; hint: `cargo xtask build`", path.display()))
}

/// Runs the forwarder outside of any namespace, to its end.
///
/// # Errors
/// It cannot be started. A bad exit code is no error here.
pub fn tool(arguments: &[&str]) -> Result<Output> {
    let binary = binary()?;
    let mut command = Command::new(&binary);
    command.args(arguments).stdin(Stdio::null()).output().with_context(|| format!("run {}", binary.display()))
}

/// Runs the forwarder and demands exit code 0; returns its standard output.
///
/// # Errors
/// Another exit code; the message holds its standard error.
pub fn tool_ok(arguments: &[&str]) -> Result<String> {
    let output = tool(arguments)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "forwarder {} failed ({}): {errors}", arguments.join(" "), output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What one edge's programs counted, by the outcomes' names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes(BTreeMap<String, u64>);

impl Outcomes {
    /// The count of one outcome.
    #[must_use]
    pub fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// What moved since `before`, by name.
    #[must_use]
    pub fn moved(&self, before: &Self) -> BTreeMap<String, u64> {
        let grown = self.0.iter().map(|(name, count)| (name.clone(), count.saturating_sub(before.of(name))));
        grown.filter(|(_, count)| *count > 0).collect()
    }
}

/// The outcomes that move all the time where daemons talk to each other and hosts resolve their neighbours.
pub const BACKGROUND: [&str; 2] = ["not_service", "egress_other"];

/// Fails unless exactly the named outcomes moved, by exactly so much, on one edge; the background is left out.
///
/// # Errors
/// Names both.
pub fn ensure_moved(what: &str, before: &Outcomes, after: &Outcomes, wanted: &[(&str, u64)]) -> Result<()> {
    let mut moved = after.moved(before);
    moved.retain(|name, _| !BACKGROUND.contains(&name.as_str()));
    let wanted: BTreeMap<String, u64> = wanted.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    ensure!(moved == wanted, "{what}: the outcomes that moved are {moved:?}, not {wanted:?}");
    Ok(())
}

/// Fails where an outcome moved on an edge that is not named; for loads whose exact counts chance decides.
///
/// # Errors
/// Names the outcomes.
pub fn ensure_only_moved(what: &str, before: &[Outcomes], after: &[Outcomes], allowed: &[&str]) -> Result<()> {
    for (edge, (before, after)) in (1..).zip(before.iter().zip(after)) {
        let mut moved = after.moved(before);
        moved.retain(|name, _| !BACKGROUND.contains(&name.as_str()) && !allowed.contains(&name.as_str()));
        ensure!(moved.is_empty(), "{what}: at edge {edge} outcomes moved that must not: {moved:?}");
    }
    Ok(())
}

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
    /// More text, at the end.
    pub tail: String,
}

impl Config {
    /// The configuration of an edge in a cluster; `family` is the underlay's.
    #[must_use]
    pub fn new(lab: &Lab, authority: &Authority, edge: u8, family: Family) -> Self {
        let address = |edge: u8| Host::Edge(edge).address(family);
        let endpoint = |edge: u8| format!("\"{}\"", std::net::SocketAddr::new(address(edge), CLUSTER_PORT));
        let seeds: Vec<String> = (1..=EDGES).filter(|other| *other != edge).map(endpoint).collect();
        let file = |name: &str| format!("{:?}", authority.file(name).display().to_string());
        let control = lab.folder().join(format!("edge{edge}.sock"));
        let head = [
            ("node", edge.to_string()),
            ("interfaces", "[\"eth0\"]".to_owned()),
            ("underlay", format!("\"{}\"", address(edge))),
            ("pin_dir", format!("{:?}", pin_folder(lab.prefix(), edge).display().to_string())),
            ("control", format!("{:?}", control.display().to_string())),
            ("claims", "65536".to_owned()),
        ];
        let cluster = [
            ("name", format!("{:?}", authority.name)),
            ("listen", endpoint(edge)),
            ("seeds", format!("[{}]", seeds.join(", "))),
            ("ca", file("ca.pem")),
            ("certificate", file(&format!("node-{edge}.pem"))),
            ("key", file(&format!("node-{edge}.key"))),
            ("secret", file("cluster.secret")),
        ];
        let vips = vec![VIP4.to_string(), VIP6.to_string()];
        Self { node: edge, head: head.into(), cluster: cluster.into(), vips, tail: String::new() }
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
        let services: String =
            self.vips.iter().map(|vip| format!("\n[[service]]\nvip = \"{vip}\"\nport = {SIP}\n")).collect();
        format!("{head}{services}\n[cluster]\n{cluster}\n{}", self.tail)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, self.text()).with_context(|| format!("write {}", path.display()))
    }
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    edge: u8,
    process: Process,
    control: PathBuf,
    config: PathBuf,
    namespace: Namespace,
}

impl Daemon {
    /// Starts the daemon of an edge; it may still be looking for its peers.
    ///
    /// # Errors
    /// The binary is missing or cannot be started.
    pub fn start(lab: &Lab, edge: u8, config: &Config) -> Result<Self> {
        let path = lab.folder().join(format!("edge{edge}.toml"));
        config.write(&path)?;
        let namespace = lab.host(Host::Edge(edge));
        let mut command = namespace.command(&binary()?.display().to_string());
        command.args(["run", "--config"]).arg(&path).env("RUST_LOG", "info,forwarder::claims=trace");
        let log = lab.folder().join(format!("forwarder-edge{edge}.log"));
        let process = Process::start(&format!("forwarder of edge {edge}"), &mut command, &log)?;
        Ok(Self { edge, process, control: lab.folder().join(format!("edge{edge}.sock")), config: path, namespace })
    }

    /// Its status.
    ///
    /// # Errors
    /// It does not answer.
    pub fn status(&self) -> Result<Value> {
        let text = tool_ok(&["status", "--json", "--control", &self.control.display().to_string()])?;
        serde_json::from_str(&text).with_context(|| format!("read the status of edge {}", self.edge))
    }

    /// What its programs counted.
    ///
    /// # Errors
    /// It does not answer, or the answer has no outcomes.
    pub fn outcomes(&self) -> Result<Outcomes> {
        let status = self.status()?;
        let outcomes = status.get("outcomes").and_then(Value::as_object);
        let outcomes = outcomes.with_context(|| format!("find outcomes in the status of edge {}", self.edge))?;
        Ok(Outcomes(outcomes.iter().filter_map(|(name, count)| Some((name.clone(), count.as_u64()?))).collect()))
    }

    /// How many of its peers are up.
    ///
    /// # Errors
    /// It does not answer.
    pub fn peers_up(&self) -> Result<usize> {
        let status = self.status()?;
        let peers = status.get("peers").and_then(Value::as_array).context("find the peers in the status")?;
        Ok(peers.iter().filter(|peer| peer.get("state").and_then(Value::as_str) == Some("up")).count())
    }

    /// Waits until so many of its peers are up, no more and no fewer.
    ///
    /// # Errors
    /// Not within ten seconds, or the daemon has ended.
    pub fn wait_for_peers(&mut self, count: usize) -> Result<()> {
        let what = format!("edge {} sees {count} peers up", self.edge);
        poll_until_true(&what, PATIENCE, || {
            self.process.must_run()?;
            // The control socket comes a moment after the process.
            Ok(self.peers_up().is_ok_and(|up| up == count))
        })
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Its control socket.
    #[must_use]
    pub fn control(&self) -> &Path {
        &self.control
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Runs another command of the forwarder in the daemon's namespace; returns its output whatever its exit code.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn command(&self, arguments: &[&str]) -> Result<Output> {
        let binary = binary()?.display().to_string();
        self.namespace.command(&binary).args(arguments).stdin(Stdio::null()).output().context("run the forwarder")
    }
}

/// A daemon on every edge, all of one cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Edge 1 first.
    pub daemons: Vec<Daemon>,
    /// Its certificates.
    pub authority: Authority,
    folder: PathBuf,
}

impl Cluster {
    /// Starts it and waits until each daemon sees all others up. `family` is the underlay's.
    ///
    /// # Errors
    /// A daemon ends, or they do not find each other within ten seconds.
    pub fn start(lab: &Lab, family: Family) -> Result<Self> {
        let authority = Authority::init(&lab.folder().join("pki"), "lab")?;
        let mut daemons = Vec::new();
        for edge in 1..=EDGES {
            authority.issue(edge, &Host::Edge(edge).address(family).to_string())?;
            daemons.push(Daemon::start(lab, edge, &Config::new(lab, &authority, edge, family))?);
        }
        for daemon in &mut daemons {
            daemon.wait_for_peers(usize::from(EDGES) - 1)?;
        }
        Ok(Self { daemons, authority, folder: lab.folder().to_owned() })
    }

    /// What each edge's programs counted.
    ///
    /// # Errors
    /// A daemon does not answer.
    pub fn outcomes(&self) -> Result<Vec<Outcomes>> {
        self.daemons.iter().map(Daemon::outcomes).collect()
    }

    /// The daemon of one edge.
    ///
    /// # Errors
    /// There is no such edge.
    pub fn edge(&mut self, edge: u8) -> Result<&mut Daemon> {
        let found = self.daemons.iter_mut().find(|daemon| daemon.edge == edge);
        found.with_context(|| format!("find the daemon of edge {edge}"))
    }

    /// Ends all daemons in order, and demands that each says it went well.
    ///
    /// # Errors
    /// One ends with another exit code than 0.
    pub fn stop(&mut self) -> Result<()> {
        for daemon in &mut self.daemons {
            let status = daemon.process.stop()?;
            if status.code() != Some(0) {
                bail!("the daemon of edge {} ended with {status} after SIGTERM", daemon.edge);
            }
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Kept with the lab's folder where a test fails; otherwise it goes with it.
        for daemon in &self.daemons {
            if let Ok(status) = daemon.status() {
                let _ = fs::write(self.folder.join(format!("status-edge{}.json", daemon.edge)), status.to_string());
            }
        }
    }
}
