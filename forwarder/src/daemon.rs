//! The daemon: starts everything in an order that leaves nothing behind when a step fails, and then loops.
//!
//! Claims flow from the ring buffer through the cluster's core to the links, and from the links through the core into
//! the maps. The loop owns core and maps, and waits for nothing but its inputs.

mod interfaces;
mod own;
mod peers;
mod report;
mod settings;
mod slow;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use forwarder_common::{
    abi::ClaimEvent,
    ids::{Epoch, NodeId, Tick},
};
use ring::rand::SecureRandom as _;
use tokio::{
    io::unix::AsyncFd,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use self::{
    interfaces::Interfaces,
    peers::Peers,
    settings::kernel_settings,
    slow::{Around, Slow},
};
use crate::{
    cluster::{
        core::{LocalClaim, MapWrite, Node, NodeSettings, Now, Output, ProtocolError},
        links::{self, Command, Event, Handle},
    },
    config::Config,
    control,
    dataplane::{self, Dataplane, preflight},
    identity::{self, Identity, Secrets},
    metrics, routes,
};

/// Ring-buffer events taken in one turn: the links must not wait for a flood of claims to end.
const EVENTS_A_TURN: usize = 4096;
/// Messages that wait between the loop and the links: about 40,000 claims.
const LINK_QUEUE: usize = 1024;
/// Questions that wait for the loop.
const CALLS: usize = 64;
/// How long a peer counts as up without a link, after this daemon's or its own restart.
const REJOIN: Duration = Duration::from_secs(5);
/// How often the interfaces are looked at: as quick as a failed link is noticed elsewhere.
const INTERFACE_CHECK: Duration = Duration::from_secs(1);

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

/// What the slow path borrows of a daemon. A macro, so that the daemon's other fields stay free.
macro_rules! around {
    ($daemon:ident) => {
        Around {
            config: &$daemon.config,
            dataplane: &mut $daemon.dataplane,
            peers: &$daemon.peers,
            node: &mut $daemon.node,
            now: now(),
        }
    };
}

struct Daemon {
    config: Config,
    identity: Arc<Identity>,
    secrets: Secrets,
    started: Instant,
    interfaces: Interfaces,
    dataplane: Dataplane,
    events: AsyncFd<RingBuf<MapData>>,
    punts: AsyncFd<RingBuf<MapData>>,
    slow: Slow,
    node: Node,
    peers: Peers,
    /// Peers whose daemons have ended in order, and until when they count as up.
    leaving: BTreeMap<NodeId, Instant>,
    links: Handle,
    commands: mpsc::Sender<Command>,
    link_events: mpsc::Receiver<Event>,
    calls: mpsc::Receiver<control::Call>,
    next_hops: mpsc::Receiver<routes::NextHops>,
    /// Served as long as they are kept.
    _servers: (control::Server, Option<metrics::Server>),
}

impl Daemon {
    fn start(config: Config) -> Result<Self> {
        preflight::check()?;
        config.check_host()?;
        let identity = Arc::new(identity::load(&config)?);
        let secrets = identity::secrets(&config.cluster.secret)?;
        warn_of_later_features(&config);

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
            started,
            interfaces,
            dataplane,
            events,
            punts,
            slow,
            node,
            peers,
            leaving: BTreeMap::new(),
            links,
            commands,
            link_events,
            calls,
            next_hops,
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
        self.dataplane.open_hand_over()?;
        let mut rejoined = Box::pin(tokio::time::sleep(REJOIN));
        let mut is_rejoined = false;
        let mut checks = tokio::time::interval(INTERFACE_CHECK);
        checks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let due = self.until_timeout();
            // In the order of their hurry: a late claim breaks a call, a late answer annoys a human.
            tokio::select! {
                biased;
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                ready = self.events.readable_mut() => {
                    let mut ready = ready.context("wait for the claims' ring buffer")?;
                    if drain(ready.get_inner_mut(), &mut self.node, self.dataplane.epoch()) {
                        ready.clear_ready();
                    }
                }
                event = self.link_events.recv() => match event {
                    Some(event) => self.link_event(event)?,
                    None => return Err(anyhow::anyhow!("the cluster's links have ended by themselves")),
                },
                ready = self.punts.readable_mut() => {
                    let mut ready = ready.context("wait for the punted packets' ring buffer")?;
                    let around = &mut around!(self);
                    if self.slow.take_punts(ready.get_inner_mut(), around) {
                        ready.clear_ready();
                    }
                }
                arrived = self.slow.receive() => self.slow.take_datagrams(arrived, &around!(self)),
                Some(hops) = self.next_hops.recv() => self.peers.set_next_hops(hops, &mut self.dataplane)?,
                Some((request, answer)) = self.calls.recv() => {
                    // Whoever asked may have gone.
                    let _ = answer.send(report::answer(&self, request));
                }
                () = &mut rejoined, if !is_rejoined => {
                    is_rejoined = true;
                    self.peers.settle(&mut self.dataplane)?;
                }
                _ = checks.tick() => {
                    self.give_up_leaving();
                    self.dataplane.renew_lease()?;
                    if self.interfaces.check(&mut self.dataplane) {
                        self.slow.set_interfaces(&self.interfaces);
                    }
                }
                () = tokio::time::sleep(due) => {}
            }
            self.slow.timeout(&around!(self));
            self.turn().await?;
        }
        log::info!(
            "stopping: the programs stay attached and go by the claims they have; `forwarder detach` removes them"
        );
        self.stop().await
    }

    /// Packets pass from now on; what the daemon has in hand goes on its way.
    async fn stop(mut self) -> Result<()> {
        self.dataplane.close_hand_over()?;
        while !self.slow.take_punts(self.punts.get_mut(), &mut around!(self)) {
            self.turn().await?;
        }
        self.slow.drain();
        self.turn().await?;
        self.links.shutdown().await;
        Ok(())
    }

    /// Does what slow path and core have decided; each may give the other something to do.
    async fn turn(&mut self) -> Result<()> {
        self.slow.carry_out(&mut around!(self));
        self.node.handle_timeout(now());
        self.carry_out().await?;
        self.slow.carry_out(&mut around!(self));
        Ok(())
    }

    /// Marks down the peers whose daemons have ended and not come back in time.
    fn give_up_leaving(&mut self) {
        let (over, node) = (Instant::now(), &mut self.node);
        self.leaving.retain(|peer, due| {
            let waits = *due > over;
            if !waits {
                node.handle_link_down(*peer, now());
            }
            waits
        });
    }

    fn link_event(&mut self, event: Event) -> Result<()> {
        match event {
            Event::LinkUp { peer, address, again } => {
                if !again {
                    log::info!("node {}: link up, {address}", peer.number());
                }
                self.leaving.remove(&peer);
                self.peers.linked(peer, address);
                self.node.handle_link_up(peer, now());
            }
            Event::LinkDown { peer, reason, leaving } => {
                log::warn!("node {}: link down: {reason}", peer.number());
                self.peers.unlinked(peer, reason, &mut self.dataplane)?;
                if leaving {
                    // Its programs and its proxy go on without the daemon: packets still find their owner there.
                    self.leaving.insert(peer, Instant::now() + REJOIN);
                } else {
                    self.node.handle_link_down(peer, now());
                }
            }
            Event::Message { peer, bytes } => {
                // A peer may ask for a claim that still waits in the ring buffer.
                drain(self.events.get_mut(), &mut self.node, self.dataplane.epoch());
                let result = self.node.handle_message(peer, &bytes, now());
                self.drop_unless_ok(peer, result);
            }
            Event::Datagram { peer, bytes } => {
                let result = self.node.handle_datagram(peer, &bytes, now());
                self.drop_unless_ok(peer, result);
            }
            // Logged and counted by the links.
            Event::Refused { .. } => {}
        }
        Ok(())
    }

    /// Drops the link of a peer that broke the protocol.
    fn drop_unless_ok(&self, peer: NodeId, result: Result<(), ProtocolError>) {
        let Err(error) = result else { return };
        log::warn!("node {}: {error}; its link is dropped", peer.number());
        if self.commands.try_send(Command::Drop { peer, reason: error.to_string() }).is_err() {
            log::warn!("node {}: the links are too busy to drop it", peer.number());
        }
    }

    /// Does what the core has decided.
    async fn carry_out(&mut self) -> Result<()> {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Send { to, message, kind } => self.command(Command::Send { to, message, kind }).await,
                Output::Datagram { to, bytes } => self.command(Command::Datagram { to, bytes }).await,
                Output::Call { peer, address } => self.command(Command::Call { peer, address }).await,
                Output::Forget { peer } => self.command(Command::Forget { peer }).await,
                Output::Map(MapWrite::Claim { key, owner, epoch, remaining_ms }) => {
                    self.dataplane.set_claim(key, owner, epoch, remaining_ms);
                    log::trace!(
                        target: "forwarder::claims",
                        "claim {key:016x} of node {} stands at {}", owner.number(), now().unix_us
                    );
                }
                Output::Map(MapWrite::Peer { node, up, state, epoch, underlay }) => {
                    self.peers.set(node, up, state, epoch, underlay, &mut self.dataplane)?;
                }
                Output::Answer { ticket, owned } => {
                    self.slow.answered(ticket, owned, &around!(self));
                }
                Output::LookUp { ticket, request_key, reply_key } => {
                    let keys = [Some(request_key), Some(reply_key).filter(|key| *key != 0)];
                    let found: Vec<_> = keys.into_iter().flatten().filter_map(|key| self.own_claim(key)).collect();
                    self.node.handle_looked_up(ticket, &found, now());
                }
            }
        }
        Ok(())
    }

    async fn command(&self, command: Command) {
        if self.commands.send(command).await.is_err() {
            log::error!("the cluster's links have ended: nothing reaches the peers any more");
        }
    }

    /// This node's live claim of a key, as the kernel's table has it.
    fn own_claim(&self, key: u64) -> Option<LocalClaim> {
        let (entry, now) = (self.dataplane.claim(key)?, now());
        let is_own = entry.owner() == self.config.node.number() && entry.epoch() == self.dataplane.epoch();
        let ticks = entry.remaining(Tick::at(dataplane::monotonic_ns()));
        let remaining_ms = Tick::milliseconds(u16::try_from(ticks).ok()?);
        is_own.then_some(LocalClaim { key, claimed_at_unix_us: now.unix_us, remaining_ms })
    }

    fn until_timeout(&self) -> Duration {
        match self.node.poll_timeout().into_iter().chain(self.slow.due_us()).min() {
            Some(due) => Duration::from_micros(due.saturating_sub(now().monotonic_us)),
            None => Duration::from_secs(3600),
        }
    }
}

/// Gives the ring buffer's claims to the core; whether it was emptied.
fn drain(events: &mut RingBuf<MapData>, node: &mut Node, epoch: Epoch) -> bool {
    let now = now();
    for _ in 0..EVENTS_A_TURN {
        let Some(item) = events.next() else { return true };
        if item.len() != size_of::<ClaimEvent>() {
            log::error!("a ring-buffer event has {} bytes instead of {}", item.len(), size_of::<ClaimEvent>());
            continue;
        }
        // SAFETY: the length was compared, any bytes are a value of this type, and the read asks for no alignment.
        let event = unsafe { item.as_ptr().cast::<ClaimEvent>().read_unaligned() };
        if event.epoch != epoch.number() {
            // Of an earlier life of the proxy: void.
            continue;
        }
        let age_us = (now.monotonic_us).saturating_sub(event.at_ns / 1000);
        node.handle_local(
            LocalClaim {
                key: event.key,
                claimed_at_unix_us: now.unix_us.saturating_sub(age_us),
                remaining_ms: Tick::milliseconds(event.ticks),
            },
            now,
        );
    }
    false
}

/// Randomness for the core.
fn seed() -> Result<u64> {
    let mut seed = [0; 8];
    ring::rand::SystemRandom::new()
        .fill(&mut seed)
        .map_err(|_| anyhow::anyhow!("ask the kernel for randomness: it gave none"))?;
    Ok(u64::from_ne_bytes(seed))
}

/// Both clocks.
fn now() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { monotonic_us: dataplane::monotonic_ns() / 1000, unix_us: u64::try_from(unix.as_micros()).unwrap_or(u64::MAX) }
}

fn warn_of_later_features(config: &Config) {
    if config.services.iter().any(|service| service.probe.is_some()) {
        log::warn!("`probe` is read but not used by this version: the local proxy counts as up");
    }
    if config.hooks.on_state.is_some() {
        log::warn!("`hooks.on_state` is read but not run by this version");
    }
}
