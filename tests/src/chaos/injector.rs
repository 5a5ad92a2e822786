//! Carries a schedule out on the lab, and notes when each fault really began and ended.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::fault::Fault;
use super::journal::Journal;
use super::schedule::Schedule;
use crate::clock::now_us;
use crate::forwarder::{Authority, CLUSTER_PORT, Cluster, Config, TUNNEL_PORT, tool_ok};
use crate::kamailio::Kamailio;
use crate::lab::delay::Delay;
use crate::lab::{Family, Host, Lab};
use crate::poll::poll_until_true;

/// How often the time is looked at.
const STEP: Duration = Duration::from_millis(10);
/// How often the daemons' logs are looked at while one starts or a rotation goes on.
const LOOK: Duration = Duration::from_millis(250);
/// How long a daemon may take to start on a loaded machine, most of which the kernel's verifier takes, and how long a
/// rotation that waits for it.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The files of a rotation, in their order.
const SECRETS: [&str; 3] = ["cluster.secret.1-both", "cluster.secret.2-new-first", "cluster.secret.3-new"];

/// A fault that was carried out, in microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// What it was.
    pub fault: Fault,
    /// When it began.
    pub from_us: u64,
    /// When it was over: a daemon had started, a proxy listened.
    pub to_us: u64,
}

/// Who carries out faults.
#[derive(Debug)]
pub struct Injector<'a> {
    lab: &'a Lab,
    /// The daemons.
    pub cluster: Cluster,
    /// The proxies, edge 1 first.
    pub proxies: Vec<Kamailio>,
    delay: Option<Delay>,
    rotation: Option<Rotation>,
    /// What the daemons have logged, edge 1 first.
    journals: Vec<Journal>,
    looked: Instant,
    /// What was done, by its place in the schedule.
    done: Vec<Option<Done>>,
    /// The faults that are over when a daemon has started: its edge, and the place.
    starting: Vec<(u8, usize)>,
}

/// A rotation on its way.
#[derive(Clone, Debug)]
enum Rotation {
    /// The file of this step is to be put in the place of every node's secret as soon as no daemon starts: of one that
    /// starts meanwhile nobody knows which file it has read.
    Due(usize),
    /// It was put there; by edge, what was to be seen of its daemon then.
    HandedOut(usize, Vec<Journal>),
}

impl<'a> Injector<'a> {
    /// Starts a proxy and a daemon on every edge and waits until all are up.
    ///
    /// # Errors
    /// One does not start.
    pub fn start(lab: &'a Lab, family: Family) -> Result<Self> {
        let proxies = Kamailio::edges(lab, true)?;
        let secrets = lab.folder().join("pki");
        // Each node has its own copy of the secret.
        let change = |mut config: Config| {
            let copy = secrets.join(format!("cluster.secret-{}", config.node));
            // Where there is none, the daemon does not start.
            let _ = fs::copy(secrets.join("cluster.secret"), &copy);
            config.cluster.insert("secret", format!("{:?}", copy.display().to_string()));
            config.probed()
        };
        let mut cluster = Cluster::start_with(lab, family, change)?;
        cluster.daemons.iter_mut().try_for_each(|daemon| daemon.wait_for_state("up"))?;
        let mut journals: Vec<Journal> = cluster.daemons.iter().map(|daemon| Journal::of(daemon.log_file())).collect();
        journals.iter_mut().try_for_each(Journal::look)?;
        Ok(Self {
            lab,
            cluster,
            proxies,
            delay: None,
            rotation: None,
            journals,
            looked: Instant::now(),
            done: Vec::new(),
            starting: Vec::new(),
        })
    }

    /// Plays a schedule; returns after so many seconds, or when the last rotation has ended, with what was done. Each
    /// fault that begins or ends is told.
    ///
    /// # Errors
    /// A fault cannot be carried out, or what it left behind is not as it was.
    pub fn play(&mut self, schedule: &Schedule, seconds: u64, mut tell: impl FnMut(&str)) -> Result<Vec<Done>> {
        let mut turns: Vec<(u64, bool, usize)> = Vec::new();
        for (place, entry) in schedule.0.iter().enumerate() {
            turns.extend([(entry.at_ms, false, place), (entry.end_ms(), true, place)]);
        }
        turns.sort_unstable();
        self.done = vec![None; schedule.0.len()];
        let begun = Instant::now();
        for (at_ms, is_end, place) in turns {
            self.wait_until(begun + Duration::from_millis(at_ms))?;
            let entry = schedule.0.get(place).context("find a fault in the schedule")?;
            let what = || format!("{} {} at {at_ms} ms", if is_end { "end" } else { "begin" }, entry.fault);
            self.wait_before(entry.fault, is_end).with_context(what)?;
            let now = now_us()?;
            if is_end {
                self.end(entry.fault, place).with_context(what)?;
            } else {
                self.begin(entry.fault, place).with_context(what)?;
            }
            tell(&format!("{:>8.3} s {}", begun.elapsed().as_secs_f64(), what()));
            let slot = self.done.get_mut(place).context("note a fault")?;
            let from_us = slot.map_or(now, |done| done.from_us);
            *slot = Some(Done { fault: entry.fault, from_us, to_us: now_us()? });
        }
        self.wait_until(begun + Duration::from_secs(seconds))?;
        poll_until_true("all daemons have started, and the last rotation has ended", TIMEOUT, || {
            self.look()?;
            Ok(self.starting.is_empty() && self.rotation.is_none())
        })?;
        Ok(self.done.iter().flatten().copied().collect())
    }

    fn wait_until(&mut self, due: Instant) -> Result<()> {
        loop {
            if self.looked.elapsed() >= LOOK {
                self.look()?;
            }
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::park_timeout(left.min(STEP));
        }
    }

    /// Looks at what the daemons have logged, and goes on with what waits for it.
    fn look(&mut self) -> Result<()> {
        self.looked = Instant::now();
        if self.starting.is_empty() && self.rotation.is_none() {
            return Ok(());
        }
        self.journals.iter_mut().try_for_each(Journal::look)?;
        let now = now_us()?;
        for (edge, place) in std::mem::take(&mut self.starting) {
            if self.journal(edge)?.is_starting() {
                self.cluster.edge(edge)?.process().must_run()?;
                self.starting.push((edge, place));
            } else if let Some(Some(done)) = self.done.get_mut(place) {
                done.to_us = now;
            }
        }
        self.rotate_on()
    }

    /// Waits for what a fault needs: a daemon that starts can be told nothing, and stops no earlier than it has
    /// started.
    fn wait_before(&mut self, fault: Fault, is_end: bool) -> Result<()> {
        let edge = match fault {
            _ if is_end => return Ok(()),
            Fault::StopDaemon(edge) | Fault::Upgrade(edge) | Fault::Skew(edge, _) | Fault::Drain(edge) => edge,
            Fault::KillDaemon(_)
            | Fault::Stall(_)
            | Fault::KillProxy(_)
            | Fault::Flap(_)
            | Fault::CutHost(_)
            | Fault::CutLinks(_)
            | Fault::CutTunnel(_)
            | Fault::LoseLinks(_)
            | Fault::LoseTunnel(_)
            | Fault::DelayLinks(_)
            | Fault::DelayTunnel(_)
            | Fault::Rotate => return Ok(()),
        };
        poll_until_true(&format!("the daemon of edge {edge} has started"), TIMEOUT, || {
            self.look()?;
            Ok(!self.journal(edge)?.is_starting())
        })
    }

    fn journal(&mut self, edge: u8) -> Result<&mut Journal> {
        self.journals.get_mut(usize::from(edge) - 1).context("find a daemon's log")
    }

    fn begin(&mut self, fault: Fault, place: usize) -> Result<()> {
        let name = |edge: u8| Host::Edge(edge).name();
        let router = self.lab.router();
        match fault {
            Fault::KillDaemon(edge) => {
                self.starting.retain(|(starting, _)| *starting != edge);
                self.journal(edge)?.ended();
                self.cluster.edge(edge)?.kill()
            }
            Fault::StopDaemon(edge) => self.stop_daemon(edge),
            Fault::Upgrade(edge) => self.restart(edge, place),
            Fault::Skew(edge, seconds) => {
                self.cluster.edge(edge)?.skew(seconds);
                self.restart(edge, place)
            }
            Fault::Stall(edge) => {
                self.cluster.edge(edge)?.process().signal(libc::SIGSTOP);
                Ok(())
            }
            Fault::KillProxy(edge) => {
                let proxy = self.proxies.get_mut(usize::from(edge) - 1).context("find a proxy")?;
                proxy.kill()
            }
            Fault::Flap(edge) => self.lab.wiring().down(edge),
            Fault::CutHost(edge) => {
                let (host, rules) = (name(edge), rules(fault));
                router.drop_where(&rules, &format!("iifname \"{host}\" drop\n  oifname \"{host}\" drop"))
            }
            Fault::CutLinks(edge) | Fault::CutTunnel(edge) => {
                let port = if matches!(fault, Fault::CutLinks(_)) { CLUSTER_PORT } else { TUNNEL_PORT };
                let drops = ["iifname", "oifname"].map(|way| format!("{way} \"{}\" udp dport {port} drop", name(edge)));
                router.drop_where(&rules(fault), &drops.join("\n  "))
            }
            Fault::LoseLinks(percent) | Fault::LoseTunnel(percent) => {
                let port = if matches!(fault, Fault::LoseLinks(_)) { CLUSTER_PORT } else { TUNNEL_PORT };
                router.drop_where(&rules(fault), &format!("udp dport {port} numgen random mod 100 < {percent} drop"))
            }
            Fault::DelayLinks(ms) | Fault::DelayTunnel(ms) => {
                let port = if matches!(fault, Fault::DelayLinks(_)) { CLUSTER_PORT } else { TUNNEL_PORT };
                self.delay = Some(Delay::start(router, port, Duration::from_millis(u64::from(ms)))?);
                Ok(())
            }
            Fault::Drain(edge) => self.cluster.edge(edge)?.tell(&["drain"]).map(drop),
            // The one before waits for a daemon that is away or stalled.
            Fault::Rotate if self.rotation.is_some() => Ok(()),
            Fault::Rotate => {
                tool_ok(&["cluster", "rotate", "--dir", &self.secrets().display().to_string()])?;
                self.rotation = Some(Rotation::Due(0));
                self.look()
            }
        }
    }

    fn end(&mut self, fault: Fault, place: usize) -> Result<()> {
        match fault {
            Fault::KillDaemon(edge) | Fault::StopDaemon(edge) => self.start_daemon(edge, place),
            Fault::Stall(edge) => {
                self.cluster.edge(edge)?.process().signal(libc::SIGCONT);
                Ok(())
            }
            Fault::KillProxy(edge) => {
                let proxy = self.proxies.get_mut(usize::from(edge) - 1).context("find a proxy")?;
                *proxy = Kamailio::edge(self.lab, edge, true)?;
                Ok(())
            }
            Fault::Flap(edge) => self.lab.wiring().up(edge),
            Fault::CutHost(_)
            | Fault::CutLinks(_)
            | Fault::CutTunnel(_)
            | Fault::LoseLinks(_)
            | Fault::LoseTunnel(_) => self.lab.router().let_through(&rules(fault)),
            Fault::DelayLinks(_) | Fault::DelayTunnel(_) => {
                self.delay = None;
                Ok(())
            }
            Fault::Drain(edge) => self.cluster.edge(edge)?.tell(&["undrain"]).map(drop),
            // The first two are over when the daemon was started, a rotation when all have taken the last file up.
            Fault::Upgrade(_) | Fault::Skew(..) | Fault::Rotate => Ok(()),
        }
    }

    fn stop_daemon(&mut self, edge: u8) -> Result<()> {
        let status = self.cluster.edge(edge)?.process().stop()?;
        ensure!(status.code() == Some(0), "the daemon of edge {edge} ended with {status} after SIGTERM");
        self.journal(edge)?.ended();
        Ok(())
    }

    fn restart(&mut self, edge: u8, place: usize) -> Result<()> {
        self.stop_daemon(edge)?;
        self.start_daemon(edge, place)
    }

    fn start_daemon(&mut self, edge: u8, place: usize) -> Result<()> {
        self.journal(edge)?.begun()?;
        self.starting.push((edge, place));
        self.cluster.edge(edge)?.start_again()
    }

    fn secrets(&self) -> PathBuf {
        self.cluster.authority.file("")
    }

    /// Goes on with a rotation as soon as every daemon has taken its file up, or has read it when it started.
    fn rotate_on(&mut self) -> Result<()> {
        let next = match &self.rotation {
            None => return Ok(()),
            Some(Rotation::Due(step)) => *step,
            Some(Rotation::HandedOut(step, then)) => {
                let has = |(now, then): (&Journal, &Journal)| now.has_taken_up_since(then);
                if !self.journals.iter().zip(then).all(has) {
                    return Ok(());
                }
                step + 1
            }
        };
        let folder = self.secrets();
        let Some(file) = SECRETS.get(next) else {
            self.rotation = None;
            // The next rotation begins with the last one's secret.
            replace(&self.cluster.authority, &folder.join("cluster.secret.3-new"), "cluster.secret")?;
            return SECRETS
                .iter()
                .try_for_each(|file| fs::remove_file(folder.join(file)).context("clear up after a rotation"));
        };
        self.rotation = Some(Rotation::Due(next));
        if self.journals.iter().any(Journal::is_starting) {
            return Ok(());
        }
        for edge in self.lab.edges() {
            replace(&self.cluster.authority, &folder.join(file), &format!("cluster.secret-{edge}"))?;
        }
        self.rotation = Some(Rotation::HandedOut(next, self.journals.clone()));
        Ok(())
    }
}

/// The router's name for the rules of a fault.
fn rules(fault: Fault) -> String {
    fault.edge().map_or_else(|| fault.word().to_owned(), |edge| format!("{}-{edge}", fault.word()))
}

/// Puts a copy of a file in another's place, in one step.
fn replace(authority: &Authority, from: &std::path::Path, name: &str) -> Result<()> {
    let passing = authority.file(&format!("{name}.new"));
    fs::copy(from, &passing).with_context(|| format!("copy {}", from.display()))?;
    fs::rename(&passing, authority.file(name)).with_context(|| format!("replace {name}"))
}
