//! Daemons without a kernel: the loop of `cluster.rs` on real links, each in a runtime of its own, so that one can die
//! without a farewell.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use forwarder::cluster::Counters;
use forwarder::cluster::links::{self, Event, LinkView, Settings};
use forwarder::config::Deny;
use forwarder::identity::{Identity, init, issue};
use forwarder_common::ids::{Epoch, Epochs};
use forwarder_common::lifetime;
use forwarder_common::rest::{Class, KeyKind, Purpose};
use forwarder_core::failover::LinkEnd;
use forwarder_core::node::{Command, LocalClaim, MapWrite, Node, NodeSettings, Now, Output};
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};

use super::names::{UNDERLAY, id};

const DEADLINE: Duration = Duration::from_secs(20);

/// A cluster's authority in a folder of its own.
pub(crate) struct Authority(TempDir);

impl Authority {
    pub(crate) fn new(cluster: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        init(folder.path(), cluster).unwrap();
        Self(folder)
    }

    /// A certificate of node `node` that ends at another time than the one that is issued.
    pub(crate) fn identity_until(&self, node: u16, cluster: &str, end: OffsetDateTime) -> Identity {
        let read = |name: &str| std::fs::read_to_string(self.0.path().join(name)).unwrap();
        let key = KeyPair::from_pem(&read("ca.key")).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&read("ca.pem"), key).unwrap();
        let mut params = CertificateParams::default();
        let uri = format!("forwarder://{cluster}/node/{node}");
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
        params.not_after = end;
        let key = KeyPair::generate().unwrap();
        let chain = vec![params.signed_by(&key, &issuer).unwrap().der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Identity { chain, key, expires_s: end.unix_timestamp(), ..self.own(node, cluster) }
    }

    /// This authority's certificates are trusted beside those of `other`.
    pub(crate) fn trusting(&self, other: &Self, identity: Identity) -> Identity {
        let mut roots = RootCertStore::empty();
        for authority in [self, other] {
            certificates(&authority.0.path().join("ca.pem")).into_iter().for_each(|ca| roots.add(ca).unwrap());
        }
        Identity { roots: Arc::new(roots), ..identity }
    }

    pub(crate) fn identity(&self, node: u16, cluster: &str) -> Arc<Identity> {
        Arc::new(self.own(node, cluster))
    }

    pub(crate) fn own(&self, node: u16, cluster: &str) -> Identity {
        let folder = self.0.path();
        let file = |name: &str| folder.join(name);
        if !file(&format!("node-{node}.pem")).exists() {
            issue(folder, id(node), "127.0.0.1".parse().unwrap()).unwrap();
        }
        let mut roots = RootCertStore::empty();
        certificates(&file("ca.pem")).into_iter().for_each(|ca| roots.add(ca).unwrap());
        Identity {
            node: id(node),
            cluster: cluster.to_owned(),
            chain: certificates(&file(&format!("node-{node}.pem"))),
            key: PrivateKeyDer::from_pem_file(file(&format!("node-{node}.key"))).unwrap(),
            roots: Arc::new(roots),
            expires_s: i64::MAX,
            roots_expire_s: i64::MAX,
            deny: Deny::default(),
        }
    }
}

fn certificates(file: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(file).unwrap().map(Result::unwrap).collect()
}

/// What a daemon has seen so far.
#[derive(Default)]
pub(crate) struct Seen {
    /// All events but messages.
    pub(crate) events: Vec<Event>,
    pub(crate) claims: BTreeMap<u64, u16>,
    pub(crate) answers: BTreeMap<u64, bool>,
    pub(crate) up: BTreeMap<u16, bool>,
    pub(crate) counters: Counters,
    pub(crate) links: Vec<LinkView>,
}

impl Seen {
    pub(crate) fn refusals(&self) -> Vec<&String> {
        let reasons = self
            .events
            .iter()
            .filter_map(|event| if let Event::Refused { reason, .. } = event { Some(reason) } else { None });
        reasons.collect()
    }

    /// What was said of peers of other versions.
    pub(crate) fn other_versions(&self) -> Vec<(u16, &str)> {
        let said = self.events.iter().filter_map(|event| {
            let Event::OtherVersion { peer, reason, .. } = event else { return None };
            Some((peer.number(), reason.as_str()))
        });
        said.collect()
    }

    pub(crate) fn is_up(&self, node: u16) -> bool {
        self.up.get(&node) == Some(&true)
    }

    /// Why the first link that ended has done so, and what that says of its peer.
    pub(crate) fn end(&self) -> Option<(String, LinkEnd)> {
        self.ends().next()
    }

    /// The same of the last one.
    pub(crate) fn last_end(&self) -> Option<(String, LinkEnd)> {
        self.ends().last()
    }

    fn ends(&self) -> impl Iterator<Item = (String, LinkEnd)> {
        self.events.iter().filter_map(|event| {
            if let Event::LinkDown { reason, end, .. } = event { Some((reason.clone(), *end)) } else { None }
        })
    }

    pub(crate) fn downs(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, Event::LinkDown { .. })).count()
    }

    /// Links that were ended. Not counted are those that fell silent: a machine that stalls for a second makes them so.
    pub(crate) fn ended(&self) -> usize {
        let is_silence = |reason: &str| ["timed out", "reset by peer"].iter().any(|why| reason.contains(why));
        let is_ended = |event: &&Event| matches!(event, Event::LinkDown { reason, .. } if !is_silence(reason));
        self.events.iter().filter(is_ended).count()
    }
}

/// The daemon's loop of `cluster.rs`, without a kernel.
pub(crate) struct Daemon {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Mutex<Seen>>,
    pub(crate) claims: mpsc::UnboundedSender<u64>,
    pub(crate) asks: mpsc::UnboundedSender<u64>,
    pub(crate) commands: mpsc::Sender<Command>,
    /// Certificates to take up.
    pub(crate) identities: mpsc::UnboundedSender<Arc<Identity>>,
    /// True for a farewell.
    end: Option<oneshot::Sender<bool>>,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    pub(crate) fn start(identity: &Arc<Identity>, listen: SocketAddr, seeds: &[SocketAddr]) -> Self {
        Self::start_that(true, identity, listen, seeds)
    }

    /// Calls its seeds alone, whomever gossip tells it of.
    pub(crate) fn start_aloof(identity: &Arc<Identity>, listen: SocketAddr, seeds: &[SocketAddr]) -> Self {
        Self::start_that(false, identity, listen, seeds)
    }

    /// Nodes 1 and 2 of one cluster, which call each other, linked.
    pub(crate) fn pair(authority: &Authority) -> (Self, Self) {
        let (a, b) = (free("127.0.0.1"), free("127.0.0.1"));
        let one = Self::start(&authority.identity(1, "edge"), a, &[b]);
        let two = Self::start(&authority.identity(2, "edge"), b, &[a]);
        one.poll_until("node 2 comes up", |seen| seen.is_up(2));
        two.poll_until("node 1 comes up", |seen| seen.is_up(1));
        (one, two)
    }

    fn start_that(calls_members: bool, identity: &Arc<Identity>, listen: SocketAddr, seeds: &[SocketAddr]) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (claims, local) = mpsc::unbounded_channel();
        let (asks, asked) = mpsc::unbounded_channel();
        let (commands, commanded) = mpsc::channel(1024);
        let (identities, renewed) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel();
        let settings = Settings { listen, seeds: seeds.to_vec(), identity: Arc::clone(identity) };
        let links = (settings, calls_members);
        let body = run(links, Arc::clone(&seen), (local, asked), (commands.clone(), commanded), renewed, ended);
        let thread = std::thread::spawn(move || {
            // Dropped with all its tasks in mid-flight unless the body says farewell: that is what a kill looks like.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(body);
        });
        Self { address: listen, seen, claims, asks, commands, identities, end: Some(end), thread: Some(thread) }
    }

    pub(crate) fn kill(mut self) {
        self.end(false);
    }

    pub(crate) fn shut_down(mut self) {
        self.end(true);
    }

    fn end(&mut self, farewell: bool) {
        if let Some(end) = self.end.take() {
            let _ = end.send(farewell);
        }
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok(), "the daemon panicked");
        }
    }

    #[track_caller]
    pub(crate) fn poll_until(&self, what: &str, mut condition: impl FnMut(&Seen) -> bool) -> Duration {
        let start = Instant::now();
        while start.elapsed() < DEADLINE {
            if condition(&self.seen.lock().unwrap()) {
                return start.elapsed();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let seen = self.seen.lock().unwrap();
        panic!("{what}: not within {DEADLINE:?}; up {:?}, events {:?}, {:?}", seen.up, seen.events, seen.counters);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end(false);
        }
    }
}

fn core(settings: &Settings) -> Node {
    let me = settings.identity.node;
    Node::new(NodeSettings {
        node: me,
        epochs: Epochs::EMPTY.with(Epoch::new(0)),
        underlay: UNDERLAY,
        listen: settings.listen,
        lifetimes: lifetime::LONGEST,
        claims: 1 << 20,
        seed: u64::from(me.number()),
        services: Vec::new(),
        must_equal: Vec::new(),
    })
}

async fn run(
    (settings, calls_members): (Settings, bool),
    seen: Arc<Mutex<Seen>>,
    (mut local, mut asked): (mpsc::UnboundedReceiver<u64>, mpsc::UnboundedReceiver<u64>),
    (commands, commanded): (mpsc::Sender<Command>, mpsc::Receiver<Command>),
    mut renewed: mpsc::UnboundedReceiver<Arc<Identity>>,
    mut end: oneshot::Receiver<bool>,
) {
    let mut node = core(&settings);
    let (events, mut happened) = mpsc::channel(1024);
    let handle = links::spawn(settings, commanded, events).unwrap();
    let start = Instant::now();
    let now = || Now {
        monotonic_us: start.elapsed().as_micros() as u64,
        unix_us: SystemTime::UNIX_EPOCH.elapsed().unwrap().as_micros() as u64,
    };
    let farewell = loop {
        let due = node.poll_timeout().map_or(u64::MAX, |at| at.saturating_sub(now().monotonic_us));
        let pause = Duration::from_micros(due.min(10_000));
        tokio::select! {
            farewell = &mut end => break farewell.unwrap_or(false),
            Some(event) = happened.recv() => {
                let drop = take(&mut node, &event, now());
                note(&mut seen.lock().unwrap(), event);
                if let Some(drop) = drop {
                    commands.send(drop).await.unwrap();
                }
            }
            Some(key) = local.recv() => {
                let claim = LocalClaim {
                    key,
                    claimed_at_unix_us: now().unix_us,
                    remaining_ms: 37_000,
                    epoch: Epoch::new(0),
                    purpose: Purpose::of(KeyKind::Request, Class::Short),
                };
                node.handle_local(claim, now());
            }
            Some(identity) = renewed.recv() => handle.set_identity(identity).unwrap(),
            Some(key) = asked.recv() => node.handle_ask(key, key, 0, now()),
            () = tokio::time::sleep(pause) => {}
        }
        node.handle_timeout(now());
        while let Some(output) = node.poll_output() {
            match output {
                Output::Link(Command::Call { .. }) if !calls_members => {}
                Output::Link(command) => commands.send(command).await.unwrap(),
                Output::Map(write) => apply(&mut seen.lock().unwrap(), write),
                Output::Introduced { peer, .. } => drop(seen.lock().unwrap().up.insert(peer.number(), true)),
                // No programs run behind these nodes.
                Output::AskKernel { .. } => {}
                Output::Answer { ticket, owned } => drop(seen.lock().unwrap().answers.insert(ticket, owned)),
            }
        }
        let mut seen = seen.lock().unwrap();
        seen.counters = Counters { core: node.counters(), links: handle.counters() };
        seen.links = handle.links();
    };
    if farewell {
        handle.shutdown().await;
    }
}

fn take(node: &mut Node, event: &Event, now: Now) -> Option<Command> {
    match event {
        Event::LinkUp { peer, address, named, .. } => {
            let addresses = [address.ip()].iter().chain(named).copied().collect();
            node.handle_link_up(*peer, addresses, now);
        }
        Event::LinkDown { peer, .. } => node.handle_link_down(*peer, now),
        Event::Message { peer, bytes } => {
            let error = node.handle_message(*peer, bytes, now).err()?;
            return Some(Command::Drop { peer: *peer, reason: error.to_string() });
        }
        Event::Datagram { peer, bytes } => {
            let error = node.handle_datagram(*peer, bytes, now).err()?;
            return Some(Command::Drop { peer: *peer, reason: error.to_string() });
        }
        Event::Refused { .. } | Event::OtherVersion { .. } => {}
    }
    None
}

/// A peer is down here when its link is.
fn note(seen: &mut Seen, event: Event) {
    if let Event::LinkDown { peer, .. } = &event
        && let Some(up) = seen.up.get_mut(&peer.number())
    {
        *up = false;
    }
    if !matches!(event, Event::Message { .. }) {
        seen.events.push(event);
    }
}

fn apply(seen: &mut Seen, write: MapWrite) {
    match write {
        MapWrite::Claim { key, owner, .. } => drop(seen.claims.insert(key, owner.number())),
        // No INVITE is told of here.
        MapWrite::End { .. } => {}
    }
}

/// An address of the loopback that nobody listens on, another one each time.
pub(crate) fn free(ip: &str) -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<SocketAddr>> = Mutex::new(BTreeSet::new());
    loop {
        let address = UdpSocket::bind((ip, 0)).unwrap().local_addr().unwrap();
        if GIVEN.lock().unwrap().insert(address) {
            return address;
        }
    }
}
