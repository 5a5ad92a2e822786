//! The daemon: starts everything in an order that leaves nothing behind when a step fails, and then loops.
//!
//! Claims flow from the ring buffer through the cluster's core to the links, and from the links through the core into
//! the maps. The loop owns core and maps, and waits for nothing but its inputs.

/// What the slow path borrows of a daemon. A macro, so that the daemon's other fields stay free.
macro_rules! around {
    ($daemon:ident) => {
        $crate::daemon::slow::Around {
            config: &$daemon.config,
            dataplane: &mut $daemon.dataplane,
            peers: &$daemon.peers,
            node: &mut $daemon.node,
            now: $crate::daemon::now(),
        }
    };
}

mod drain;
mod hooks;
mod interfaces;
mod lives;
mod mesh;
mod own;
mod peers;
mod probe;
mod report;
mod settings;
mod slow;
mod stand;
mod standing;
mod state;
mod sweep;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use forwarder_common::ids::NodeId;
use tokio::{
    io::unix::AsyncFd,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use self::{
    drain::Drain,
    interfaces::Interfaces,
    mesh::{REJOIN, take_claims},
    peers::Peers,
    settings::{kernel_settings, seed},
    slow::Slow,
    stand::Stand,
    standing::Standing,
    sweep::Sweep,
};
use crate::{
    cluster::links::{self, Command, Event, Handle},
    config::Config,
    control,
    dataplane::{self, Dataplane, preflight},
    identity::{self, Identity, Secrets, Watch},
    metrics, routes,
};
use forwarder_core::node::{Node, NodeSettings, Now};

/// Messages that wait between the loop and the links: about 40,000 claims.
const LINK_QUEUE: usize = 1024;
/// Questions that wait for the loop.
const CALLS: usize = 64;
/// How often the interfaces are looked at: as quick as a failed link is noticed elsewhere.
const INTERFACE_CHECK: Duration = Duration::from_secs(1);

/// How often the programs are told that the daemon lives: five may be late before they take it for dead.
const LEASE_RENEWAL: Duration = Duration::from_millis(250);
/// How long a daemon that is told to end still tells its peers of claims: what the proxy has just got, it sends on by then.
const LINGER: Duration = Duration::from_millis(200);

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// A step of the start fails: nothing stays attached or pinned that was not before.
pub fn run(config: Config) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the asynchronous runtime")?;
    runtime.block_on(async {
        let daemon = Daemon::start(config)?;
        daemon.run().await
    })
}

struct Daemon {
    config: Config,
    identity: Arc<Identity>,
    secrets: Secrets,
    files: Watch,
    started: Instant,
    interfaces: Interfaces,
    dataplane: Dataplane,
    events: AsyncFd<RingBuf<MapData>>,
    punts: AsyncFd<RingBuf<MapData>>,
    slow: Slow,
    node: Node,
    standing: Standing,
    drain: Drain,
    peers: Peers,
    sweep: Sweep,
    /// Peers that seem to be well though their links have ended, and until when they count as up without one.
    parted: BTreeMap<NodeId, Instant>,
    links: Handle,
    commands: mpsc::Sender<Command>,
    link_events: mpsc::Receiver<Event>,
    calls: mpsc::Receiver<control::Call>,
    next_hops: mpsc::Receiver<routes::NextHops>,
    /// The programs hand this daemon what they cannot finish.
    is_handed_over: bool,
    /// When the programs were last told that the daemon lives, or would have been.
    renewed: Instant,
    /// It stood still a moment ago, or has not found its peers again since.
    stand: Option<Stand>,
    /// Served as long as they are kept.
    _servers: (control::Server, Option<metrics::Server>),
}

impl Daemon {
    fn start(config: Config) -> Result<Self> {
        preflight::check()?;
        config.check_host()?;
        let identity = Arc::new(identity::load(&config)?);
        let secrets = identity::secrets(&config.cluster.secret)?;
        let files = Watch::new(&config, secrets);

        let (caller, calls) = mpsc::channel(CALLS);
        let control = control::serve(&config.control, caller.clone())?;
        let metrics = config.metrics.map(|address| metrics::serve(address, caller)).transpose()?;
        let (commands, to_links) = mpsc::channel(LINK_QUEUE);
        let (from_links, link_events) = mpsc::channel(LINK_QUEUE);
        let settings = links::Settings {
            listen: config.cluster.listen,
            seeds: config.cluster.seeds.clone(),
            identity: Arc::clone(&identity),
        };
        let links = links::spawn(settings, to_links, from_links)?;
        let (wanted, watched) = watch::channel(Vec::new());
        let next_hops = routes::watch(watched)?;

        let mut dataplane = Dataplane::load(&kernel_settings(&config, &secrets), Some(&config.pin_dir))?;
        dataplane.follow_logs()?;
        let events = dataplane.take_events()?;
        // SAFETY: a ring buffer keeps the descriptor of its map until it is dropped, and gives no other.
        let events = unsafe { AsyncFd::register(events) }.context("wait for the claims' ring buffer")?;
        let punts = dataplane.take_punts()?;
        // SAFETY: as above.
        let punts = unsafe { AsyncFd::register(punts) }.context("wait for the punted packets' ring buffer")?;
        let standing = Standing::start(&config, dataplane.drains(), now())?;
        let interfaces = Interfaces::attach(&config.interfaces, config.xdp_mode, &mut dataplane)?;
        let slow = Slow::open(&config, &secrets, &interfaces)?;
        dataplane.set_self()?;
        dataplane.keep();
        let node = Node::new(NodeSettings {
            node: config.node,
            epoch: dataplane.epoch(),
            underlay: config.underlay,
            listen: config.cluster.listen,
            claims: config.claims as usize,
            seed: seed()?,
        });
        let peers = Peers::new(config.node, config.underlay, wanted);
        let servers = (control, metrics);
        let started = Instant::now();
        Ok(Self {
            config,
            identity,
            secrets,
            files,
            started,
            interfaces,
            dataplane,
            events,
            punts,
            slow,
            node,
            standing,
            drain: Drain::default(),
            peers,
            sweep: Sweep::default(),
            parted: BTreeMap::new(),
            links,
            commands,
            link_events,
            calls,
            next_hops,
            is_handed_over: false,
            renewed: started,
            stand: None,
            _servers: servers,
        })
    }

    async fn run(mut self) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        log::info!(
            "node {} of cluster {} runs, epoch {}",
            self.config.node.number(),
            self.identity.cluster,
            self.dataplane.epoch().number()
        );
        let mut ends: Option<tokio::time::Instant> = None;
        let mut rejoined = Box::pin(tokio::time::sleep(REJOIN));
        let mut is_rejoined = false;
        let mut checks = tokio::time::interval(INTERFACE_CHECK);
        checks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.renewed = Instant::now();
        let mut lease = tokio::time::interval(LEASE_RENEWAL);
        lease.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let due = self.until_timeout();
            // In the order of their hurry: a late claim breaks a call, a late answer annoys a human.
            tokio::select! {
                biased;
                // Who asks twice is in a hurry.
                _ = terminate.recv() => if ends.replace(self.begin_to_stop()).is_some() { break },
                _ = interrupt.recv() => if ends.replace(self.begin_to_stop()).is_some() { break },
                () = tokio::time::sleep_until(ends.unwrap_or_else(tokio::time::Instant::now)), if ends.is_some() => break,
                ready = self.events.readable_mut() => {
                    let mut ready = ready.context("wait for the claims' ring buffer")?;
                    if take_claims(ready.get_inner_mut(), &mut self.node, self.dataplane.epoch()) {
                        ready.clear_ready();
                    }
                }
                event = self.link_events.recv() => match event {
                    Some(event) => self.link_event(event)?,
                    None => return Err(anyhow::anyhow!("the cluster's links have ended by themselves")),
                },
                Some(seen) = self.standing.seen() => self.standing.take(&seen, now()),
                // After a stand they are only laid aside, but it is not noticed yet.
                ready = self.punts.readable_mut(), if !self.may_have_stood() => {
                    let mut ready = ready.context("wait for the punted packets' ring buffer")?;
                    // What the program said of a claim before comes first.
                    take_claims(self.events.get_mut(), &mut self.node, self.dataplane.epoch());
                    let rejoins = self.stand.as_ref().is_some_and(Stand::is_death);
                    let around = &mut around!(self);
                    if self.slow.take_punts(ready.get_inner_mut(), rejoins, around) {
                        ready.clear_ready();
                    }
                }
                arrived = self.slow.receive() => self.slow.take_datagrams(arrived, &around!(self)),
                Some(hops) = self.next_hops.recv() => self.peers.set_next_hops(hops, &mut self.dataplane)?,
                Some((request, answer)) = self.calls.recv() => {
                    // Whoever asked may have gone.
                    let _ = answer.send(self.answer(request));
                }
                () = &mut rejoined, if !is_rejoined => {
                    if self.may_have_stood() {
                        // No peer could come back meanwhile.
                        rejoined.as_mut().reset(tokio::time::Instant::now() + REJOIN);
                    } else {
                        is_rejoined = true;
                        self.peers.settle(&mut self.dataplane)?;
                    }
                }
                _ = lease.tick() => {}
                _ = checks.tick() => self.check()?,
                () = tokio::time::sleep(due) => {}
            }
            // However much there is to do: without it the programs take this daemon for dead.
            self.keep_lease()?;
            self.slow.timeout(&around!(self));
            self.turn().await?;
        }
        log::info!(
            "stopping: the programs stay attached and go by the claims they have; `forwarder detach` removes them"
        );
        self.stop().await
    }

    /// Looks at what nobody tells of.
    fn check(&mut self) -> Result<()> {
        self.keep_lease()?;
        self.give_up_parted();
        self.sweep();
        self.take_up_files()?;
        if self.interfaces.check(&mut self.dataplane) {
            self.slow.set_interfaces(&self.interfaces);
        }
        Ok(())
    }

    /// Tells the programs that this daemon lives, once it knows its peers, and notices if it has not done so in time.
    fn keep_lease(&mut self) -> Result<()> {
        let now = Instant::now();
        let stood = now.saturating_duration_since(self.renewed);
        if stood < LEASE_RENEWAL {
            return Ok(());
        }
        self.renewed = now;
        if stood >= stand::SHORT {
            self.stood_still(stood, now)?;
        }
        if self.is_handed_over { self.dataplane.renew_lease(dataplane::monotonic_ns()) } else { Ok(()) }
    }

    fn may_have_stood(&self) -> bool {
        self.renewed.elapsed() >= stand::SHORT
    }

    fn stood_still(&mut self, stood: Duration, now: Instant) -> Result<()> {
        let is_death = stood >= dataplane::LEASE;
        let what = if is_death { ": its programs and its peers took it for dead" } else { "" };
        log::warn!("this daemon stood still for {} ms{what}", stood.as_millis());
        let linked = self.peers.linked_ones();
        if linked.is_empty() && self.parted.is_empty() {
            return Ok(());
        }
        // Nobody could come back meanwhile.
        self.parted.values_mut().for_each(|due| *due += stood);
        match &mut self.stand {
            Some(stand) => stand.again(linked, is_death, stood),
            None => self.stand = Some(Stand::new(linked, is_death, now)),
        }
        if is_death { self.leave_to_peers() } else { Ok(()) }
    }

    /// Until this daemon knows its peers again they look after this node.
    fn leave_to_peers(&mut self) -> Result<()> {
        self.is_handed_over = false;
        self.dataplane.close_hand_over()?;
        self.dataplane.end_lease(dataplane::monotonic_ns())
    }

    /// Whether this daemon was dead for all others and has not found them again.
    fn rejoins(&self) -> bool {
        self.stand.as_ref().is_some_and(Stand::is_death)
    }

    /// New transactions go to the peers from now on; until when the claims of the last ones are waited for.
    fn begin_to_stop(&mut self) -> tokio::time::Instant {
        self.standing.stop();
        tokio::time::Instant::now() + LINGER
    }

    /// Packets pass from now on; what the daemon has in hand goes on its way.
    async fn stop(mut self) -> Result<()> {
        self.dataplane.close_hand_over()?;
        self.slow.take_late(&around!(self));
        while !self.slow.take_punts(self.punts.get_mut(), false, &mut around!(self)) {
            self.turn().await?;
        }
        self.slow.drain();
        self.turn().await?;
        self.links.shutdown().await;
        self.standing.finish().await;
        Ok(())
    }

    /// Does what slow path and core have decided; each may give the other something to do.
    async fn turn(&mut self) -> Result<()> {
        // Without a peer that is up there is nobody yet to know anything of.
        let is_synchronised = self.peers.any_up() && self.node.is_synchronised();
        let is_back = is_synchronised && self.parted.is_empty();
        self.stand.take_if(|stand| stand.is_past(is_back, Instant::now()));
        self.standing.set_rejoins(self.rejoins());
        self.standing.carry_out(is_synchronised, &mut self.node, &mut self.dataplane, now())?;
        let knows_peers = !self.rejoins() && (self.standing.is_joined() || !self.dataplane.resumes());
        if !self.is_handed_over && knows_peers && !self.standing.stops() {
            // Until now a peer's daemon has finished what this node's programs could not.
            self.dataplane.open_hand_over()?;
            self.is_handed_over = true;
            self.slow.take_late(&around!(self));
        }
        self.slow.carry_out(&mut around!(self));
        self.node.handle_timeout(now());
        self.carry_out().await?;
        self.slow.carry_out(&mut around!(self));
        Ok(())
    }

    fn until_timeout(&self) -> Duration {
        match self.node.poll_timeout().into_iter().chain(self.slow.due_us()).chain(self.standing.due_us()).min() {
            Some(due) => Duration::from_micros(due.saturating_sub(now().monotonic_us)),
            None => Duration::from_secs(3600),
        }
    }
}

/// Both clocks.
fn now() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { monotonic_us: dataplane::monotonic_ns() / 1000, unix_us: u64::try_from(unix.as_micros()).unwrap_or(u64::MAX) }
}
