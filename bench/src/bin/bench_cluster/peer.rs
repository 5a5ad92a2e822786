//! One daemon without a kernel hook: the core on real links, writing a real claim table, on a thread and CPU of its
//! own.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use forwarder::{
    cluster::links::{self, Event, Handle, Settings},
    config::Deny,
    dataplane::{self, Dataplane, monotonic_ns},
    identity::{Identity, Secrets, init, issue},
};
use forwarder_common::lifetime;
use forwarder_common::rest::{Class, KeyKind, Purpose};
use forwarder_common::{
    abi::{Address, Config, Lifetimes},
    hash,
    ids::{Epoch, Epochs, NodeId},
};
use forwarder_core::node::{Command, LocalClaim, MapWrite, Node, NodeSettings, Now, Output};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::sync::mpsc;

use crate::way::Way;

/// Claims that cores and tables are made for.
pub(crate) const CLAIMS: usize = 1 << 22;
/// Lifetime of the claims in milliseconds: longer than any run.
pub(crate) const LIFETIME_MS: u64 = 240_000;
/// The epoch of all of them.
pub(crate) const EPOCH: Epoch = Epoch::new(1);
/// As in the daemon.
pub(crate) const QUEUE: usize = 1024;

/// The key of an index: any bijection will do, and this one's lower bits are mixed.
pub(crate) const fn key(index: usize) -> u64 {
    (index as u64 + 1).wrapping_mul(hash::GOLDEN)
}

/// The index of a key (the multiplier's inverse modulo 2^64).
pub(crate) const fn index(key: u64) -> usize {
    key.wrapping_mul(0xf1de_83e1_9937_733d) as usize - 1
}

/// The claim of an index, made now.
pub(crate) const fn claim(index: usize, now: Now) -> LocalClaim {
    let (key, claimed_at_unix_us) = (key(index), now.unix_us);
    LocalClaim {
        key,
        claimed_at_unix_us,
        remaining_ms: LIFETIME_MS,
        epoch: EPOCH,
        purpose: Purpose::of(KeyKind::Request, Class::Short),
    }
}

/// Both clocks.
pub(crate) fn now() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { monotonic_us: monotonic_ns() / 1000, unix_us: unix.as_micros() as u64 }
}

pub(crate) fn id(node: u16) -> NodeId {
    NodeId::new(node).unwrap()
}

/// Where that node takes tunnel packets.
pub(crate) fn underlay(node: u16) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 9, 0, node as u8))
}

/// A core of that node.
pub(crate) fn core(node: u16, listen: SocketAddr) -> Node {
    Node::new(NodeSettings {
        node: id(node),
        epochs: Epochs::EMPTY.with(EPOCH),
        underlay: underlay(node),
        listen,
        lifetimes: lifetime::LONGEST,
        claims: CLAIMS,
        seed: u64::from(node),
        services: Vec::new(),
        must_equal: Vec::new(),
    })
}

/// A claim table in the kernel, as the daemon writes it.
pub(crate) fn table(node: u16, claims: u32) -> Result<Dataplane> {
    let config = Config {
        underlay: Address::v4([10, 9, 0, node as u8]),
        node,
        epochs: 1 << 1,
        lifetimes: Lifetimes { proceeding: 57, failed: 18, ended: 11, call: 1700 },
        ..Config::default()
    };
    let secrets = Secrets { hash_key: [1, 2], tag_key: [[0; 2]; 2], tag_epoch: 0 };
    Dataplane::load(&dataplane::Settings { config, secrets, services: Vec::new(), sources: Vec::new(), claims }, None)
}

/// What a peer needs before it starts.
pub(crate) struct Prepared {
    pub(crate) node: Node,
    pub(crate) settings: Settings,
    pub(crate) table: Dataplane,
    /// Gossip goes out.
    pub(crate) gossips: bool,
    /// Where those that are linked wait for each other before they end: with a link go its figures.
    pub(crate) together: Arc<Barrier>,
}

/// What is between two.
#[derive(Clone, Copy)]
pub(crate) struct Between {
    /// The time from one to the other and back.
    pub(crate) rtt: Duration,
    /// How long nothing gets through, again and again.
    pub(crate) stop: Duration,
}

/// Two of one cluster; the first one has so many claims already.
pub(crate) fn pair(claims: usize, between: Between) -> Result<(Prepared, Prepared, Option<Way>)> {
    let folder = tempfile::tempdir().context("make a folder for certificates")?;
    init(folder.path(), "bench")?;
    let free = || UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let (first, second) = (free()?, free()?);
    let Between { rtt, stop } = between;
    let way = if rtt.is_zero() && stop.is_zero() { None } else { Some(Way::open(first, rtt / 2, stop)?) };
    let together = Arc::new(Barrier::new(2));
    let prepare = |node: u16, listen: SocketAddr, seeds: Vec<SocketAddr>| {
        issue(folder.path(), id(node), listen.ip())?;
        let identity = identity(folder.path(), node)?;
        let (node, table) = (core(node, listen), table(node, CLAIMS as u32)?);
        let (settings, together) = (Settings { listen, seeds, identity }, Arc::clone(&together));
        anyhow::Ok(Prepared { node, settings, table, gossips: true, together })
    };
    let seeds = if way.is_some() { Vec::new() } else { vec![second] };
    let mut one = prepare(1, first, seeds)?;
    let two = prepare(2, second, vec![way.as_ref().map_or(first, |way| way.address)])?;
    for index in 0..claims {
        let now = now();
        one.node.handle_local(claim(index, now), now);
    }
    one.node.handle_timeout(now());
    while one.node.poll_output().is_some() {}
    Ok((one, two, way))
}

/// The identity of a node whose certificate lies in that folder.
pub(crate) fn identity(folder: &Path, node: u16) -> Result<Arc<Identity>> {
    let certificates = |name: String| -> Result<Vec<CertificateDer<'static>>> {
        Ok(CertificateDer::pem_file_iter(folder.join(name))?.collect::<Result<_, _>>()?)
    };
    let mut roots = RootCertStore::empty();
    for ca in certificates("ca.pem".to_owned())? {
        roots.add(ca)?;
    }
    Ok(Arc::new(Identity {
        node: id(node),
        cluster: "bench".to_owned(),
        chain: certificates(format!("node-{node}.pem"))?,
        key: PrivateKeyDer::from_pem_file(folder.join(format!("node-{node}.key")))?,
        roots: Arc::new(roots),
        expires_s: i64::MAX,
        roots_expire_s: i64::MAX,
        deny: Deny::default(),
    }))
}

/// What a peer does.
pub(crate) enum Load {
    /// Makes so many claims a second, as its egress program would, once so many peers are up, and notes when.
    Send { rate: u64, sent: Arc<Vec<AtomicU64>>, peers: usize },
    /// Notes when it has written each claim.
    Receive { arrived: Arc<Vec<AtomicU64>> },
}

/// What became of it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Ended {
    /// CPU time of its thread, system calls included, since it began to make claims, or since its last link stood.
    pub(crate) cpu_ns: u64,
    /// The time since then.
    pub(crate) lasted_ns: u64,
    /// The longest turn of its loop.
    pub(crate) longest_ns: u64,
    /// When the last link stood.
    pub(crate) linked_ns: u64,
    /// What went out over its links in that time.
    pub(crate) sent: Traffic,
    /// Messages that its links did not send.
    pub(crate) dropped: u64,
    /// The most messages that waited for its links.
    pub(crate) queued: u64,
    /// Messages of new claims that it sent.
    pub(crate) batches: u64,
}

/// What goes over links.
#[derive(Clone, Copy, Default)]
pub(crate) struct Traffic {
    /// UDP datagrams.
    pub(crate) packets: u64,
    /// Their bytes with the headers of UDP and IPv4.
    pub(crate) bytes: u64,
}

impl Traffic {
    /// What all links of a node sent.
    fn of(handle: &Handle) -> Self {
        handle.links().iter().fold(Self::default(), |sum, link| Self {
            packets: sum.packets + link.sent_packets,
            bytes: sum.bytes + link.sent_bytes + 28 * link.sent_packets,
        })
    }

    fn since(self, start: Self) -> Self {
        let less = |now: u64, before: u64| now.saturating_sub(before);
        Self { packets: less(self.packets, start.packets), bytes: less(self.bytes, start.bytes) }
    }
}

/// A running peer.
pub(crate) struct Peer {
    end: Arc<AtomicBool>,
    done: Arc<AtomicBool>,
    links: Arc<AtomicUsize>,
    thread: JoinHandle<Result<Ended>>,
}

impl Peer {
    /// Starts it on this CPU.
    pub(crate) fn start(prepared: Prepared, cpu: usize, load: Load) -> Self {
        let (end, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let links = Arc::new(AtomicUsize::new(0));
        let (ended, finished, linked) = (Arc::clone(&end), Arc::clone(&done), Arc::clone(&links));
        let thread = thread::spawn(move || {
            crate::cpu::pin(cpu)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(run(prepared, load, &ended, &finished, &linked))
        });
        Self { end, done, links, thread }
    }

    /// Links that have come up so far.
    pub(crate) fn links(&self) -> usize {
        self.links.load(Ordering::Acquire)
    }

    /// Waits until it has made all its claims.
    pub(crate) fn wait_done(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        while !self.done.load(Ordering::Acquire) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it, and all that it is linked to.
    pub(crate) fn stop<const N: usize>(peers: [Self; N]) -> [Ended; N] {
        peers.iter().for_each(|peer| peer.end.store(true, Ordering::Release));
        peers.map(|peer| peer.thread.join().unwrap().unwrap())
    }
}

/// CPU time of this thread.
pub(crate) fn cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local of the right type; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

async fn run(
    prepared: Prepared,
    load: Load,
    end: &AtomicBool,
    done: &AtomicBool,
    linked: &AtomicUsize,
) -> Result<Ended> {
    let Prepared { mut node, settings, table, gossips, together } = prepared;
    let (commands, commanded) = mpsc::channel(QUEUE);
    let (events, mut happened) = mpsc::channel(QUEUE);
    let handle = links::spawn(settings, commanded, events)?;
    let (mut ended, mut start, mut maker) = (Ended::default(), Start::default(), Maker::default());
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !end.load(Ordering::Acquire) {
        tokio::select! {
            event = happened.recv() => {
                if let Some(Event::LinkUp { .. }) = &event {
                    (ended.linked_ns, ended.longest_ns) = (monotonic_ns(), 0);
                    start = Start::now(&handle);
                    linked.fetch_add(1, Ordering::AcqRel);
                }
                take(&mut node, event);
            }
            _ = ticks.tick() => {}
        }
        let turn = monotonic_ns();
        if let Load::Send { rate, sent, peers } = &load {
            if maker.begins(&node, turn, *peers) {
                start = Start::now(&handle);
            }
            done.store(maker.make(&mut node, turn, *rate, sent), Ordering::Release);
        }
        node.handle_timeout(now());
        carry_out(&mut node, &commands, &table, &load, gossips).await?;
        ended.longest_ns = ended.longest_ns.max(monotonic_ns() - turn);
        ended.queued = ended.queued.max(handle.counters().queued_messages);
    }
    (ended.cpu_ns, ended.lasted_ns) = (cpu_ns() - start.cpu_ns, monotonic_ns() - start.at_ns);
    ended.sent = Traffic::of(&handle).since(start.sent);
    ended.batches = node.counters().batches_sent;
    ended.dropped = handle.counters().dropped_messages;
    together.wait();
    handle.shutdown().await;
    Ok(ended)
}

/// What is not counted.
#[derive(Clone, Copy, Default)]
struct Start {
    at_ns: u64,
    cpu_ns: u64,
    sent: Traffic,
}

impl Start {
    fn now(handle: &Handle) -> Self {
        Self { at_ns: monotonic_ns(), cpu_ns: cpu_ns(), sent: Traffic::of(handle) }
    }
}

/// Makes claims.
#[derive(Default)]
struct Maker {
    /// When it begins; 0 while its peers are not up.
    start: u64,
    has_begun: bool,
    made: usize,
}

impl Maker {
    /// Whether it begins now: half a second after so many peers are up.
    fn begins(&mut self, node: &Node, turn: u64, peers: usize) -> bool {
        if self.start == 0 && node.peers().filter(|peer| peer.up).count() >= peers {
            self.start = turn + 500_000_000;
        }
        let begins = !self.has_begun && self.start != 0 && turn >= self.start;
        self.has_begun |= begins;
        begins
    }

    /// Makes those that are due; whether it has made all.
    fn make(&mut self, node: &mut Node, turn: u64, rate: u64, sent: &[AtomicU64]) -> bool {
        if !self.has_begun {
            return false;
        }
        let due = turn.saturating_sub(self.start) as u128 * u128::from(rate) / 1_000_000_000;
        while self.made < sent.len().min(due as usize) {
            let now = now();
            sent[self.made].store(monotonic_ns(), Ordering::Relaxed);
            node.handle_local(claim(self.made, now), now);
            self.made += 1;
        }
        self.made == sent.len()
    }
}

pub(crate) fn take(node: &mut Node, event: Option<Event>) {
    match event {
        Some(Event::LinkUp { peer, .. }) => node.handle_link_up(peer, vec![underlay(peer.number())], now()),
        Some(Event::LinkDown { peer, .. }) => node.handle_link_down(peer, now()),
        Some(Event::Message { peer, bytes }) => node.handle_message(peer, &bytes, now()).unwrap(),
        Some(Event::Datagram { peer, bytes }) => node.handle_datagram(peer, &bytes, now()).unwrap(),
        Some(Event::Refused { .. } | Event::OtherVersion { .. }) | None => {}
    }
}

async fn carry_out(
    node: &mut Node,
    commands: &mpsc::Sender<Command>,
    table: &Dataplane,
    load: &Load,
    gossips: bool,
) -> Result<()> {
    while let Some(output) = node.poll_output() {
        let command = match output {
            Output::Link(Command::Datagram { .. }) if !gossips => continue,
            Output::Link(command) => command,
            Output::Map(MapWrite::Claim { key, owner, epoch, purpose, remaining_ms }) => {
                table.set_claim(key, owner, epoch, purpose, remaining_ms);
                if let Load::Receive { arrived } = load
                    && let Some(at) = arrived.get(index(key))
                {
                    let _ = at.compare_exchange(0, monotonic_ns(), Ordering::Relaxed, Ordering::Relaxed);
                }
                continue;
            }
            Output::Map(MapWrite::End { .. })
            | Output::Introduced { .. }
            | Output::Answer { .. }
            | Output::AskKernel { .. } => continue,
        };
        commands.send(command).await.context("hand a command to the links")?;
    }
    Ok(())
}
