//! The forwarder on the edges: certificates, configuration, daemons, and what they counted.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::lab::{Host, Lab};
use crate::namespace::Namespace;
use crate::poll::poll_until_true;
use crate::process::Process;

pub mod config;
pub mod outcomes;
mod skew;
mod tool;

pub use crate::lab::{CLUSTER_PORT, TUNNEL_PORT, pin_folder};
pub use config::{Authority, Config, Site};
pub use outcomes::{Moved, Moves, Outcomes, Snapshot};
pub use tool::{binary, tool, tool_ok};

/// How long daemons may take to find each other, and to be found down or up again.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    edge: u8,
    process: Process,
    control: PathBuf,
    config: PathBuf,
    namespace: Namespace,
    /// How far its clock is from the machine's, in seconds.
    skew_s: i32,
    /// What it logs.
    log: &'static str,
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
        let process = launch(edge, &namespace, &path, 0, config.log)?;
        let control = lab.folder().join(format!("edge{edge}.sock"));
        Ok(Self { edge, process, control, config: path, namespace, skew_s: 0, log: config.log })
    }

    /// Ends it with SIGKILL, in the middle of what it does.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.process.stop_with(libc::SIGKILL).map(drop)
    }

    /// Its edge.
    #[must_use]
    pub const fn edge(&self) -> u8 {
        self.edge
    }

    /// Starts it again, after it has ended, with the same configuration and log.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_again(&mut self) -> Result<()> {
        self.process = launch(self.edge, &self.namespace, &self.config, self.skew_s, self.log)?;
        Ok(())
    }

    /// Puts its clock forward by so many seconds, or back, from its next start on.
    pub const fn skew(&mut self, seconds: i32) {
        self.skew_s = seconds;
    }

    /// The most memory that it has ever held, in KiB (`VmHWM` of proc(5)).
    ///
    /// # Errors
    /// It has ended.
    pub fn peak_memory_kib(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.process.id());
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        peak.with_context(|| format!("find VmHWM in {path}"))
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
        Ok(outcomes.iter().filter_map(|(name, count)| Some((name.clone(), count.as_u64()?))).collect())
    }

    /// Its node's state: `joining`, `up`, `draining` or `proxy-down`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn state(&self) -> Result<String> {
        let status = self.status()?;
        let state = status.get("state").and_then(|state| state.as_str().or_else(|| state.get("name")?.as_str()));
        Ok(state.context("find the state in the status")?.to_owned())
    }

    /// The epoch of its node.
    ///
    /// # Errors
    /// It does not answer.
    pub fn epoch(&self) -> Result<u64> {
        let status = self.status()?;
        status.get("epoch").and_then(Value::as_u64).context("find the epoch in the status")
    }

    /// Waits until its node is in a state.
    ///
    /// # Errors
    /// Not within ten seconds, or the daemon has ended.
    pub fn wait_for_state(&mut self, state: &str) -> Result<()> {
        let what = format!("edge {} is {state}", self.edge);
        poll_until_true(&what, TIMEOUT, || {
            self.process.must_run()?;
            // The control socket comes a moment after the process.
            Ok(self.state().is_ok_and(|now| now == state))
        })
    }

    /// Runs a command of the forwarder that talks to the daemon and demands that it goes well; returns its output.
    ///
    /// # Errors
    /// It fails.
    pub fn tell(&self, arguments: &[&str]) -> Result<String> {
        let control = self.control.display().to_string();
        tool_ok(&[arguments, &["--control", &control]].concat())
    }

    /// How many of its peers are up and have a known next hop.
    ///
    /// # Errors
    /// It does not answer.
    pub fn peers_up(&self) -> Result<usize> {
        let status = self.status()?;
        let peers = status.get("peers").and_then(Value::as_array).context("find the peers in the status")?;
        let up = |peer: &&Value| peer.get("link").and_then(Value::as_str) == Some("up");
        Ok(peers.iter().filter(up).filter(|peer| peer.get("next_hop").is_some_and(Value::is_object)).count())
    }

    /// The node that owns a transaction, as this daemon sees it; asked for as a reply where a branch is given.
    ///
    /// # Errors
    /// It does not answer.
    pub fn owner(&self, call_id: &str, cseq: u32, branch: Option<&str>) -> Result<Option<u64>> {
        let (cseq, control) = (cseq.to_string(), self.control.display().to_string());
        let mut arguments = vec!["owner", call_id, &cseq];
        arguments.extend(branch);
        arguments.extend(["--json", "--control", &control]);
        let text = tool_ok(&arguments)?;
        let answer: Value = serde_json::from_str(&text).context("read the answer of `forwarder owner`")?;
        Ok(answer.get("owner").and_then(Value::as_u64))
    }

    /// Waits until so many of its peers are up, no more and no fewer.
    ///
    /// # Errors
    /// Not within ten seconds, or the daemon has ended.
    pub fn wait_for_peers(&mut self, count: usize) -> Result<()> {
        let what = format!("edge {} sees {count} peers up", self.edge);
        poll_until_true(&what, TIMEOUT, || {
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

    /// The file of its log, which earlier runs of it have begun.
    #[must_use]
    pub fn log_file(&self) -> &Path {
        self.process.log()
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

/// Runs the daemon of an edge; its log is beside its configuration. Its wall clock is `skew_s` seconds from the
/// machine's; its monotonic clock is the machine's, as the kernel programs' is.
fn launch(edge: u8, namespace: &Namespace, config: &Path, skew_s: i32, log: &str) -> Result<Process> {
    let mut command = namespace.command(&binary()?.display().to_string());
    command.args(["run", "--config"]).arg(config).env("RUST_LOG", log);
    if skew_s != 0 {
        command.env("LD_PRELOAD", skew::library()?).env(skew::SECONDS, skew_s.to_string());
    }
    let file = config.with_file_name(format!("forwarder-edge{edge}.log"));
    Process::start(&format!("forwarder of edge {edge}"), &mut command, &file)
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Stays with the lab's folder where a test fails; otherwise it goes with it.
        if let Ok(status) = self.status() {
            let _ = std::fs::write(self.control.with_extension("status.json"), status.to_string());
        }
    }
}

/// A daemon on every edge, all of one cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Edge 1 first.
    pub daemons: Vec<Daemon>,
    /// Its certificates.
    pub authority: Authority,
}

impl Cluster {
    /// Starts it and waits until each daemon sees all others up; a family alone is that of an underlay on eth0.
    ///
    /// # Errors
    /// A daemon ends, or they do not find each other within ten seconds.
    pub fn start(lab: &Lab, site: impl Into<Site>) -> Result<Self> {
        Self::start_with(lab, site, |config| config)
    }

    /// The same, with other configurations than the usual.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(lab: &Lab, site: impl Into<Site>, change: impl Fn(Config) -> Config) -> Result<Self> {
        let mut cluster = Self::start_some(lab, site, lab.edges(), change)?;
        cluster.wait_until_linked()?;
        Ok(cluster)
    }

    /// The same with daemons on some edges only; they may still be looking for each other. Certificates are there for
    /// all.
    ///
    /// # Errors
    /// A daemon cannot be started.
    pub fn start_some(
        lab: &Lab,
        site: impl Into<Site>,
        edges: impl IntoIterator<Item = u8>,
        change: impl Fn(Config) -> Config,
    ) -> Result<Self> {
        let site = site.into();
        let authority = Authority::init(&lab.folder().join("pki"), "lab")?;
        for edge in lab.edges() {
            authority.issue(edge, &site.address(edge).to_string())?;
        }
        let start = |edge| Daemon::start(lab, edge, &change(Config::new(lab, &authority, edge, site)));
        let daemons: Result<Vec<Daemon>> = edges.into_iter().map(start).collect();
        Ok(Self { daemons: daemons?, authority })
    }

    /// Waits until every daemon sees all others up.
    ///
    /// # Errors
    /// Not within ten seconds, or one has ended.
    pub fn wait_until_linked(&mut self) -> Result<()> {
        let others = self.daemons.len() - 1;
        self.daemons.iter_mut().try_for_each(|daemon| daemon.wait_for_peers(others))
    }

    /// What each edge counted so far.
    ///
    /// # Errors
    /// A daemon does not answer.
    pub fn outcomes(&self) -> Result<Snapshot> {
        self.daemons.iter().map(|daemon| Ok((daemon.edge, daemon.outcomes()?))).collect()
    }

    /// What some edges counted so far, where the daemons of others are dead.
    ///
    /// # Errors
    /// One of them does not answer.
    pub fn outcomes_of(&self, edges: &[u8]) -> Result<Snapshot> {
        let daemons = self.daemons.iter().filter(|daemon| edges.contains(&daemon.edge));
        daemons.map(|daemon| Ok((daemon.edge, daemon.outcomes()?))).collect()
    }

    /// Waits until every daemon names this owner of a transaction.
    ///
    /// # Errors
    /// Not within five seconds.
    pub fn wait_for_owner(&self, call_id: &str, cseq: u32, branch: Option<&str>, owner: u8) -> Result<()> {
        let what = format!("every edge knows that {owner} owns {call_id}");
        poll_until_true(&what, Duration::from_secs(5), || {
            for daemon in &self.daemons {
                if daemon.owner(call_id, cseq, branch)? != Some(u64::from(owner)) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
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
