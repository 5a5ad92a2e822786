//! One daemon without a kernel hook: the core on real links, writing a real claim table, on a thread and CPU of its own.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use forwarder::{
    cluster::{
        core::{LocalClaim, MapWrite, Node, NodeSettings, Now, Output},
        links::{self, Command, Event, Settings},
    },
    config::Deny,
    dataplane::{self, Dataplane, monotonic_ns},
    identity::{Identity, Secrets, init, issue},
};
use forwarder_common::{
    abi::{Address, Config, Lifetimes},
    ids::{Epoch, NodeId},
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::sync::mpsc;

/// Claims that cores and tables are made for.
pub(crate) const CLAIMS: usize = 1 << 22;
/// Lifetime of the claims in milliseconds: longer than any run.
pub(crate) const LIFETIME_MS: u64 = 240_000;
/// As in the daemon.
const QUEUE: usize = 1024;

/// The key of an index: any bijection will do, and this one's lower bits are mixed.
pub(crate) const fn key(index: usize) -> u64 {
    (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The index of a key (the multiplier's inverse modulo 2^64).
const fn index(key: u64) -> usize {
    key.wrapping_mul(0xf1de_83e1_9937_733d) as usize - 1
}

/// Both clocks.
pub(crate) fn now() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { monotonic_us: monotonic_ns() / 1000, unix_us: unix.as_micros() as u64 }
}

pub(crate) fn id(node: u16) -> NodeId {
    NodeId::new(node).unwrap()
}

/// A core of that node.
pub(crate) fn core(node: u16, listen: SocketAddr) -> Node {
    Node::new(NodeSettings {
        node: id(node),
        epoch: Epoch::new(1),
        underlay: IpAddr::V4(Ipv4Addr::new(10, 9, 0, node as u8)),
        listen,
        claims: CLAIMS,
        seed: u64::from(node),
    })
}

/// A claim table in the kernel, as the daemon writes it.
pub(crate) fn table(node: u16, claims: u32) -> Result<Dataplane> {
    let config = Config {
        underlay: Address::v4([10, 9, 0, node as u8]),
        node,
        epoch: 1,
        lifetimes: Lifetimes { proceeding: 57, failed: 18, ended: 11 },
        ..Config::default()
    };
    let secrets = Secrets { hash_key: [1, 2], previous_hash_key: None, tag_key: [[0; 2]; 2], tag_epoch: 0 };
    Dataplane::load(&dataplane::Settings { config, secrets, services: Vec::new(), claims }, None)
}

/// What a peer needs before it starts.
pub(crate) struct Prepared {
    node: Node,
    identity: Arc<Identity>,
    listen: SocketAddr,
    seeds: Vec<SocketAddr>,
    table: Dataplane,
}

/// Two of one cluster; the first one has so many claims already.
pub(crate) fn pair(claims: usize) -> Result<(Prepared, Prepared)> {
    let folder = tempfile::tempdir().context("make a folder for certificates")?;
    init(folder.path(), "bench")?;
    let free = || UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let (first, second) = (free()?, free()?);
    let prepare = |node: u16, listen: SocketAddr, seed: SocketAddr| {
        anyhow::Ok(Prepared {
            node: core(node, listen),
            identity: identity(folder.path(), node)?,
            listen,
            seeds: vec![seed],
            table: table(node, CLAIMS as u32)?,
        })
    };
    let (mut one, two) = (prepare(1, first, second)?, prepare(2, second, first)?);
    for index in 0..claims {
        let now = now();
        let claim = LocalClaim { key: key(index), claimed_at_unix_us: now.unix_us, remaining_ms: LIFETIME_MS };
        one.node.handle_local(claim, now);
    }
    one.node.handle_timeout(now());
    while one.node.poll_output().is_some() {}
    Ok((one, two))
}

fn identity(folder: &Path, node: u16) -> Result<Arc<Identity>> {
    issue(folder, id(node), IpAddr::V4(Ipv4Addr::LOCALHOST))?;
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
    /// Makes so many claims a second, as its egress program would, and notes when.
    Send { rate: u64, sent: Arc<Vec<AtomicU64>> },
    /// Notes when it has written each claim.
    Receive { arrived: Arc<Vec<AtomicU64>> },
}

/// What became of it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Ended {
    /// CPU time of its thread, system calls included, since the link stood.
    pub(crate) cpu_ns: u64,
    /// The longest turn of its loop.
    pub(crate) longest_ns: u64,
    /// When the link stood.
    pub(crate) linked_ns: u64,
}

/// A running peer.
pub(crate) struct Peer {
    end: Arc<AtomicBool>,
    done: Arc<AtomicBool>,
    thread: JoinHandle<Result<Ended>>,
}

impl Peer {
    /// Starts it on this CPU.
    pub(crate) fn start(prepared: Prepared, cpu: usize, load: Load) -> Self {
        let (end, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (ended, finished) = (Arc::clone(&end), Arc::clone(&done));
        let thread = thread::spawn(move || {
            crate::pin(cpu);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(run(prepared, load, &ended, &finished))
        });
        Self { end, done, thread }
    }

    /// Waits until it has made all its claims.
    pub(crate) fn wait_done(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while !self.done.load(Ordering::Acquire) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it.
    pub(crate) fn stop(self) -> Ended {
        self.end.store(true, Ordering::Release);
        self.thread.join().unwrap().unwrap()
    }
}

fn cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local of the right type; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

async fn run(prepared: Prepared, load: Load, end: &AtomicBool, done: &AtomicBool) -> Result<Ended> {
    let Prepared { mut node, identity, listen, seeds, table } = prepared;
    let (commands, commanded) = mpsc::channel(QUEUE);
    let (events, mut happened) = mpsc::channel(QUEUE);
    let handle = links::spawn(Settings { listen, seeds, identity }, commanded, events)?;
    let (mut ended, mut cpu, mut made, mut start) = (Ended::default(), 0, 0, 0);
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !end.load(Ordering::Acquire) {
        tokio::select! {
            event = happened.recv() => {
                if let Some(Event::LinkUp { .. }) = &event {
                    (cpu, ended.linked_ns, ended.longest_ns) = (cpu_ns(), monotonic_ns(), 0);
                }
                take(&mut node, event);
            }
            _ = ticks.tick() => {}
        }
        let turn = monotonic_ns();
        if let Load::Send { rate, sent } = &load {
            start = if start == 0 && is_up(&node) { turn + 500_000_000 } else { start };
            let due =
                if start == 0 { 0 } else { turn.saturating_sub(start) as u128 * u128::from(*rate) / 1_000_000_000 };
            while made < sent.len().min(due as usize) {
                let now = now();
                sent[made].store(monotonic_ns(), Ordering::Relaxed);
                let claim = LocalClaim { key: key(made), claimed_at_unix_us: now.unix_us, remaining_ms: LIFETIME_MS };
                node.handle_local(claim, now);
                made += 1;
            }
            done.store(made == sent.len(), Ordering::Release);
        }
        node.handle_timeout(now());
        carry_out(&mut node, &commands, &table, &load).await?;
        ended.longest_ns = ended.longest_ns.max(monotonic_ns() - turn);
    }
    ended.cpu_ns = cpu_ns() - cpu;
    handle.shutdown().await;
    Ok(ended)
}

fn is_up(node: &Node) -> bool {
    node.peers().any(|peer| peer.up)
}

fn take(node: &mut Node, event: Option<Event>) {
    match event {
        Some(Event::LinkUp { peer, .. }) => node.handle_link_up(peer, now()),
        Some(Event::LinkDown { peer, .. }) => node.handle_link_down(peer, now()),
        Some(Event::Message { peer, bytes }) => node.handle_message(peer, &bytes, now()).unwrap(),
        Some(Event::Datagram { peer, bytes }) => node.handle_datagram(peer, &bytes, now()).unwrap(),
        Some(Event::Refused { .. }) | None => {}
    }
}

async fn carry_out(node: &mut Node, commands: &mpsc::Sender<Command>, table: &Dataplane, load: &Load) -> Result<()> {
    while let Some(output) = node.poll_output() {
        let command = match output {
            Output::Send { to, message, kind } => Command::Send { to, message, kind },
            Output::Datagram { to, bytes } => Command::Datagram { to, bytes },
            Output::Call { peer, address } => Command::Call { peer, address },
            Output::Forget { peer } => Command::Forget { peer },
            Output::Map(MapWrite::Claim { key, owner, epoch, remaining_ms }) => {
                table.set_claim(key, owner, epoch, remaining_ms);
                if let Load::Receive { arrived } = load
                    && let Some(at) = arrived.get(index(key))
                {
                    let _ = at.compare_exchange(0, monotonic_ns(), Ordering::Relaxed, Ordering::Relaxed);
                }
                continue;
            }
            Output::LookUp { ticket, .. } => {
                node.handle_looked_up(ticket, &[], now());
                continue;
            }
            Output::Map(MapWrite::Peer { .. }) | Output::Answer { .. } => continue,
        };
        commands.send(command).await.context("hand a command to the links")?;
    }
    Ok(())
}
