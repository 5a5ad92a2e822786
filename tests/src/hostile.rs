//! A hostile peer: a node with a good certificate and the cluster's secret that says whatever it likes, to real daemons
//! beside real calls. What it may cost nobody else, while it acts and after it is gone: links, calls, memory.

mod peer;
mod script;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use ::forwarder::dataplane::monotonic_ns;
use ::forwarder::identity::{secrets, vni};
use ::forwarder::tunnel::{Question, Tunnel};
use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use forwarder_common::clock::Time;
use forwarder_common::ids::NodeId;
use serde_json::Value;

use self::peer::Peer;
pub use self::script::{Act, Said, Script};
use crate::forwarder::{Authority, Cluster, Config};
use crate::kamailio::Kamailio;
use crate::lab::{CLUSTER_PORT, Family, Host, Lab, SIP, Spray};
use crate::namespace::Namespace;
use crate::poll::poll_until_true;
use crate::sipp::{Counts, Kind, Shape, Sipp};
use crate::traffic::raw::{Part, ip_packet, udp};
use crate::traffic::{Sip, vip};

/// Edges of a lab for it: the last one is the hostile node's.
pub const EDGES: u8 = 4;
/// The hostile node.
pub const HOSTILE: u8 = EDGES;
/// Calls a second.
const RATE: u32 = 20;
/// Until the last call has ended, well or not.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Pause between two tunnel packets.
const TUNNEL_PAUSE: Duration = Duration::from_millis(2);

/// What is to be played.
#[derive(Clone, Debug)]
pub struct Attack {
    /// How long the peer acts, in seconds.
    pub acts_s: u64,
    /// How long the rest is watched after it is gone.
    pub after_s: u64,
    /// What it says.
    pub acts: Vec<Act>,
    /// Whether it sends tunnel packets with the right tag as well.
    pub tunnels: bool,
    /// Chance of everything that it says.
    pub seed: u64,
}

/// What one honest edge was like.
#[derive(Clone, Debug, Default)]
pub struct Edge {
    /// The most memory that its daemon held before and after, in KiB.
    pub memory_kib: [u64; 2],
    /// How old claims were when they had come from a peer, as its status says it: before, while the peer acted, after.
    pub ages: [String; 3],
    /// Claims that its table had, of its own and of all peers, at the end of the acts.
    pub claims: [u64; 2],
    /// Lines of its log about links to honest nodes that ended.
    pub ended: Vec<String>,
}

/// What came of an attack.
#[derive(Clone, Debug)]
pub struct Report {
    /// The honest edges by number.
    pub edges: BTreeMap<u8, Edge>,
    /// The calls, from before the acts until the end.
    pub calls: Counts,
    /// Links on which the hostile node has introduced itself.
    pub links: u64,
    /// Its calls that came to nothing.
    pub refused: u64,
    /// What it said, by sort.
    pub said: Vec<(Act, u64)>,
    /// Tunnel packets that it sent.
    pub tunnelled: u64,
    /// Why its links have ended.
    pub reasons: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { edges, calls, links, refused, said, tunnelled, reasons } = self;
        writeln!(f, "calls         {calls:?}")?;
        writeln!(f, "hostile node  {links} links, {refused} refused, {tunnelled} tunnel packets")?;
        writeln!(f, "said          {said:?}")?;
        for (number, Edge { memory_kib: [before, after], ages, claims: [own, peers], ended }) in edges {
            writeln!(f, "edge {number}        {before} KiB, then {after} KiB; claims {own} own, {peers} of peers")?;
            writeln!(f, "  ages        before {}, meanwhile {}, after {}", ages[0], ages[1], ages[2])?;
            ended.iter().try_for_each(|line| writeln!(f, "  ENDED       {line}"))?;
        }
        reasons.iter().try_for_each(|reason| writeln!(f, "link ended    {reason:?}"))
    }
}

/// Plays an attack on three honest edges while calls go on.
///
/// # Errors
/// The lab or one of its programs fails, or a daemon has ended.
pub fn attack(lab: &Lab, family: Family, attack: &Attack) -> Result<Report> {
    let honest = 1..EDGES;
    let _proxies = honest.clone().map(|edge| Kamailio::edge(lab, edge, true)).collect::<Result<Vec<_>>>()?;
    lab.spray(&Spray::Over(honest.clone().collect()))?;
    let mut cluster = Cluster::start_some(lab, family, honest, |config| config.probed().without_claims_in_log())?;
    cluster.wait_until_linked()?;
    cluster.daemons.iter_mut().try_for_each(|daemon| daemon.wait_for_state("up"))?;
    let mut callee = Sipp::callee(lab, Kind::Call, family, Shape::default())?;
    let seconds = u32::try_from(attack.acts_s + attack.after_s)? + 40;
    let mut caller = Sipp::caller(lab, Kind::Call, family, (seconds * RATE, RATE), Shape::default())?;
    go_on(&caller, 5)?;
    let mut edges = BTreeMap::new();
    look(&mut cluster, &mut edges, 0)?;

    let peer = start(lab, family, &cluster.authority, attack)?;
    let secret = cluster.authority.file("cluster.secret");
    let namespace = lab.host(Host::Edge(HOSTILE));
    let tunnel = attack.tunnels.then(|| Tunnels::start(&namespace, family, &secret, attack.seed)).transpose()?;
    go_on(&caller, attack.acts_s)?;
    look(&mut cluster, &mut edges, 1)?;
    let tunnelled = tunnel.map_or(0, Tunnels::stop);
    let done = Arc::clone(&peer.done);
    drop(peer);

    go_on(&caller, attack.after_s)?;
    let calls = caller.finish(TIMEOUT)?;
    callee.stop()?;
    look(&mut cluster, &mut edges, 2)?;
    cluster.stop()?;
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let reasons = done.reasons.lock().map(|reasons| reasons.clone()).unwrap_or_default();
    let said = Act::ALL.into_iter().zip(done.said.iter().map(count)).filter(|(_, said)| *said > 0).collect();
    let (links, refused) = (count(&done.links), count(&done.refused));
    Ok(Report { edges, calls, links, refused, said, tunnelled, reasons })
}

/// Waits until calls have gone on for so many seconds.
fn go_on(caller: &Sipp, seconds: u64) -> Result<()> {
    let until = caller.begun() + seconds * u64::from(RATE);
    let deadline = Duration::from_secs(seconds * 2 + 20);
    poll_until_true("calls go on", deadline, || Ok(caller.begun() >= until))
}

/// The hostile node, on its edge.
fn start(lab: &Lab, family: Family, authority: &Authority, attack: &Attack) -> Result<Peer> {
    let file = lab.folder().join("hostile.toml");
    Config::new(lab, authority, HOSTILE, family).write(&file)?;
    let own = Host::Edge(HOSTILE).address(family);
    let socket = lab.host(Host::Edge(HOSTILE)).within(|| UdpSocket::bind((own, CLUSTER_PORT)).context("bind"))?;
    Peer::start(&file, socket, &attack.acts, attack.seed)
}

/// Looks at the honest edges: before the acts (0), at their end (1), and after all (2).
fn look(cluster: &mut Cluster, edges: &mut BTreeMap<u8, Edge>, moment: usize) -> Result<()> {
    for daemon in &mut cluster.daemons {
        daemon.process().must_run()?;
        let (status, memory) = (daemon.status()?, daemon.peak_memory_kib()?);
        let edge = edges.entry(daemon.edge()).or_default();
        if let Some(known) = edge.ages.get_mut(moment) {
            *known = ages(&status);
        }
        let [before, after] = &mut edge.memory_kib;
        *if moment == 0 { before } else { after } = memory;
        if moment == 1 {
            let held = |at: &str| status.pointer(at).and_then(Value::as_u64).unwrap_or_default();
            edge.claims = [held("/claims/own"), held("/claims/peers")];
        }
        edge.ended = ended(&daemon.log());
    }
    Ok(())
}

impl Report {
    /// Demands that nobody but the hostile node was harmed.
    ///
    /// # Errors
    /// A link between honest nodes has ended, a call was lost, or a daemon has grown by more than `most_kib`.
    pub fn ensure_harmless(&self, most_kib: u64) -> Result<()> {
        let Counts { calls, successful, failed, .. } = self.calls;
        ensure!(failed == 0 && successful == calls && calls > 0, "calls were lost: {:?}\n{self}", self.calls);
        for (number, Edge { memory_kib: [before, after], ended, .. }) in &self.edges {
            ensure!(ended.is_empty(), "edge {number} has lost links to honest nodes\n{self}");
            ensure!(*after < before + most_kib, "edge {number} has grown\n{self}");
        }
        Ok(())
    }
}

/// Ends of links to others than the hostile node.
fn ended(log: &str) -> Vec<String> {
    let own = format!("node {HOSTILE}: ");
    let is_end = |line: &&str| line.contains(": link down") || line.contains("its link is dropped");
    log.lines().filter(is_end).filter(|line| !line.contains(&own)).map(str::to_owned).collect()
}

/// What a status says of the age of claims.
fn ages(status: &Value) -> String {
    status.pointer("/replication/age_us").map_or_else(|| "unknown".to_owned(), Value::to_string)
}

/// Tunnel packets with the right tag and source: to services and to nobody, fragments, questions.
#[derive(Debug)]
struct Tunnels {
    /// Dropped to stop.
    stop: mpsc::Sender<()>,
    thread: JoinHandle<u64>,
}

impl Tunnels {
    fn start(namespace: &Namespace, family: Family, secret: &std::path::Path, seed: u64) -> Result<Self> {
        let keys = secrets(secret)?;
        let own = Host::Edge(HOSTILE).address(family);
        let node = NodeId::new(u16::from(HOSTILE)).context("name the hostile node")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let tunnel = namespace.within(|| {
            let _inside = runtime.enter();
            Tunnel::open(own, node, vni("lab"), keys.tag_key, keys.tag_epoch)
        })?;
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let _inside = runtime.enter();
            let (mut rng, mut sent) = (Rng::with_seed(seed), 0);
            while stopped.recv_timeout(TUNNEL_PAUSE) == Err(mpsc::RecvTimeoutError::Timeout) {
                for edge in 1..HOSTILE {
                    let to = Host::Edge(edge).address(family);
                    // A full buffer loses it.
                    sent += u64::from(one(&tunnel, &mut rng, family, to).is_ok());
                }
            }
            sent
        });
        Ok(Self { stop, thread })
    }

    fn stop(self) -> u64 {
        drop(self.stop);
        self.thread.join().unwrap_or_default()
    }
}

fn one(tunnel: &Tunnel, rng: &mut Rng, family: Family, to: IpAddr) -> std::io::Result<()> {
    let now = Time::at(monotonic_ns());
    let (client, service) = (SocketAddr::new(Host::Client.address(family), SIP), vip(family));
    let call_id = format!("{:x}@hostile", rng.u64(..));
    let sip = Sip { call_id: &call_id, cseq: 1, method: "INVITE", branch: "z9hG4bKh", via: vip(family) };
    match rng.u8(..6) {
        0 => tunnel.send(
            to,
            &ip_packet(client.ip(), service.ip(), None, &udp(client, service, &sip.response("180 Ringing"))),
            false,
            now,
        ),
        // For nobody.
        1 => tunnel.send(to, &ip_packet(client.ip(), to, None, &udp(client, (to, 22).into(), b"x")), false, now),
        2 => {
            let part = Part { id: rng.u16(..), offset: rng.u16(..8000) / 8 * 8, more: rng.bool() };
            tunnel.send(to, &ip_packet(client.ip(), service.ip(), Some(part), &[7; 64]), true, now)
        }
        // Of another day.
        3 => tunnel.send(
            to,
            &ip_packet(client.ip(), service.ip(), None, &udp(client, service, b"x")),
            false,
            Time(rng.u32(..)),
        ),
        4 => tunnel.ask(to, &Question { request_key: rng.u64(..), reply_key: rng.u64(..), ticket: rng.u32(..) }, now),
        _ => tunnel.ask(to, &Question { request_key: 0, reply_key: 0, ticket: rng.u32(..) }, now),
    }
}
