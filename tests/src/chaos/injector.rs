//! Carries a schedule out on the lab, and notes when each fault really began and ended.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::fault::Fault;
use super::schedule::Schedule;
use crate::clock::now_us;
use crate::forwarder::{Authority, CLUSTER_PORT, Cluster, Config, TUNNEL_PORT, tool_ok};
use crate::kamailio::Kamailio;
use crate::lab::delay::Delay;
use crate::lab::{Family, Host, Lab};

/// How often the time is looked at.
const STEP: Duration = Duration::from_millis(10);
/// How often the daemons are asked how far a rotation has come.
const ROTATION_STEP: Duration = Duration::from_millis(500);
/// The files of a rotation, in their order.
const SECRETS: [&str; 3] = ["cluster.secret.1-both", "cluster.secret.2-new-first", "cluster.secret.3-new"];
/// What a daemon says when it has taken up a secret.
const TAKEN_UP: &str = "the cluster's secret has changed";

/// A fault that was carried out, in microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// What it was.
    pub fault: Fault,
    /// When it began.
    pub from_us: u64,
    /// When it was over: a daemon had been started, a proxy listened.
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
    /// By edge, how often its daemon was started anew.
    starts: Vec<u32>,
}

/// A rotation on its way.
#[derive(Debug)]
struct Rotation {
    /// The file that all are to take up.
    step: usize,
    /// By edge, what its log said of secrets when the file came, and how often its daemon had been started.
    seen: Vec<(usize, u32)>,
    asked: Instant,
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
        let starts = vec![0; cluster.daemons.len()];
        Ok(Self { lab, cluster, proxies, delay: None, rotation: None, starts })
    }

    /// Plays a schedule; returns after so many seconds, with what was done.
    ///
    /// # Errors
    /// A fault cannot be carried out, or what it left behind is not as it was.
    pub fn play(&mut self, schedule: &Schedule, seconds: u64) -> Result<Vec<Done>> {
        let mut turns: Vec<(u64, bool, usize)> = Vec::new();
        for (place, entry) in schedule.0.iter().enumerate() {
            turns.extend([(entry.at_ms, false, place), (entry.end_ms(), true, place)]);
        }
        turns.sort_unstable();
        let (begun, mut done): (Instant, Vec<Option<Done>>) = (Instant::now(), vec![None; schedule.0.len()]);
        for (at_ms, is_end, place) in turns {
            self.wait_until(begun + Duration::from_millis(at_ms))?;
            let entry = schedule.0.get(place).context("find a fault in the schedule")?;
            let now = now_us()?;
            let what = || format!("{} {} at {at_ms} ms", if is_end { "end" } else { "begin" }, entry.fault);
            if is_end {
                self.end(entry.fault).with_context(what)?;
            } else {
                self.begin(entry.fault).with_context(what)?;
            }
            eprintln!("chaos: {:>8.3} s {}", begun.elapsed().as_secs_f64(), what());
            let slot = done.get_mut(place).context("note a fault")?;
            let from_us = slot.map_or(now, |done| done.from_us);
            *slot = Some(Done { fault: entry.fault, from_us, to_us: now_us()? });
        }
        self.wait_until(begun + Duration::from_secs(seconds))?;
        ensure!(self.rotation.is_none(), "a rotation has not ended: {:?}", self.rotation);
        Ok(done.into_iter().flatten().collect())
    }

    fn wait_until(&mut self, due: Instant) -> Result<()> {
        loop {
            self.rotate_on()?;
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::park_timeout(left.min(STEP));
        }
    }

    fn begin(&mut self, fault: Fault) -> Result<()> {
        let name = |edge: u8| Host::Edge(edge).name();
        let router = self.lab.router();
        match fault {
            Fault::KillDaemon(edge) => self.cluster.edge(edge)?.kill(),
            Fault::StopDaemon(edge) => self.cluster.edge(edge)?.process().stop().map(drop),
            Fault::Upgrade(edge) => self.restart(edge),
            Fault::Skew(edge, seconds) => {
                self.cluster.edge(edge)?.skew(seconds);
                self.restart(edge)
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
            Fault::Rotate => {
                tool_ok(&["cluster", "rotate", "--dir", &self.secrets().display().to_string()])?;
                self.hand_out(0)
            }
        }
    }

    fn end(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::KillDaemon(edge) | Fault::StopDaemon(edge) => self.start_daemon(edge),
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

    fn restart(&mut self, edge: u8) -> Result<()> {
        let status = self.cluster.edge(edge)?.process().stop()?;
        ensure!(status.code() == Some(0), "the daemon of edge {edge} ended with {status} after SIGTERM");
        self.start_daemon(edge)
    }

    fn start_daemon(&mut self, edge: u8) -> Result<()> {
        if let Some(starts) = self.starts.get_mut(usize::from(edge) - 1) {
            *starts += 1;
        }
        self.cluster.edge(edge)?.start_again()
    }

    fn secrets(&self) -> PathBuf {
        self.cluster.authority.file("")
    }

    /// Puts a rotation's next file in the place of every node's secret.
    fn hand_out(&mut self, step: usize) -> Result<()> {
        let file = SECRETS.get(step).context("find a step of a rotation")?;
        let folder = self.secrets();
        let mut seen = Vec::new();
        for (daemon, starts) in (1..).zip(&self.starts) {
            let said = self.cluster.edge(daemon)?.log().matches(TAKEN_UP).count();
            seen.push((said, *starts));
            replace(&self.cluster.authority, &folder.join(file), &format!("cluster.secret-{daemon}"))?;
        }
        self.rotation = Some(Rotation { step, seen, asked: Instant::now() });
        Ok(())
    }

    /// Goes on with a rotation as soon as every daemon has taken its file up, or was started after it came.
    fn rotate_on(&mut self) -> Result<()> {
        let Some(rotation) = &mut self.rotation else { return Ok(()) };
        if rotation.asked.elapsed() < ROTATION_STEP {
            return Ok(());
        }
        rotation.asked = Instant::now();
        let ends = (1..).zip(&self.starts).zip(&rotation.seen);
        for ((edge, starts), (said, started)) in ends {
            if starts == started && self.cluster.edge(edge)?.log().matches(TAKEN_UP).count() == *said {
                return Ok(());
            }
        }
        let next = rotation.step + 1;
        if next < SECRETS.len() {
            return self.hand_out(next);
        }
        self.rotation = None;
        // The next rotation begins with the last one's secret.
        let folder = self.secrets();
        replace(&self.cluster.authority, &folder.join("cluster.secret.3-new"), "cluster.secret")?;
        SECRETS.iter().try_for_each(|file| fs::remove_file(folder.join(file)).context("clear up after a rotation"))
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
