//! The daemon: starts everything in an order that leaves nothing behind when a step fails, and then loops.
//!
//! Claims flow from the ring buffer through the cluster's core to the links, and from the links through the core into
//! the maps. The loop owns core and maps, and waits for nothing but its inputs.

/// What the parts of a daemon borrow of it. A macro, so that the daemon's other fields stay free.
macro_rules! context {
    ($daemon:ident) => {
        $crate::daemon::context::Context {
            config: &$daemon.config,
            dataplane: &mut $daemon.dataplane,
            failover: &$daemon.failover,
            node: &mut $daemon.node,
            now: $crate::daemon::clock::now(),
        }
    };
}

mod census;
mod claims;
mod clock;
mod context;
mod drain;
mod egress;
mod hooks;
mod interfaces;
mod next_hops;
mod probe;
mod proxies;
mod report;
mod settings;
mod slow;
mod sockets;
mod strangers;
mod sweep;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use forwarder_common::ids::NodeId;
use forwarder_core::{
    failover::{self, Failover, timers::LINGER_US},
    node::{self, Command, MapWrite, Node, NodeSettings, ProtocolError, State},
};
use tokio::{
    io::unix::AsyncFd,
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
};

use self::{
    census::Census,
    claims::{restore_claims, take_claims},
    clock::now,
    drain::Drain,
    hooks::Hooks,
    interfaces::Interfaces,
    next_hops::NextHopTable,
    proxies::Proxies,
    report::Sources,
    settings::{first_epoch, kernel_settings, lifetimes, must_equal, seed, told_services},
    slow::{KernelAnswer, Slow},
    sweep::Sweep,
};
pub use self::{probe::LOOK_PAUSE, settings::EPOCH_SECONDS};
use crate::{
    cluster::links::{self, Event, Handle},
    config::Config,
    control::{self, Request, Response},
    dataplane::{Dataplane, preflight},
    identity::{self, Change, Identity, Secrets, Watch},
    metrics, routes,
    tunnel::Question,
};

/// What waits between the loop and the links: about 40,000 claims.
const LINK_QUEUE: usize = 1024;
/// What was read on the links and waits for the loop. Few: there all stand in one line, and before it each peer has one
/// message and one datagram. So a peer that sends as fast as it may keeps others' claims waiting for this many
/// messages.
const HEARD_QUEUE: usize = 16;
/// Questions that wait for the loop.
const CALLS: usize = 64;
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
        // Before the start, which takes a while: what comes meanwhile ends the daemon in order as soon as it runs.
        let terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        Daemon::start(config)?.run(terminate, interrupt).await
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
    census: Census,
    events: AsyncFd<RingBuf<MapData>>,
    punts: AsyncFd<RingBuf<MapData>>,
    slow: Slow,
    node: Node,
    failover: Failover,
    proxies: Proxies,
    hooks: Option<Hooks>,
    next_hop_table: NextHopTable,
    drain: Drain,
    sweep: Sweep,
    links: Handle,
    commands: mpsc::Sender<Command>,
    link_events: mpsc::Receiver<Event>,
    calls: mpsc::Receiver<control::Call>,
    next_hops: mpsc::Receiver<routes::NextHops>,
    /// The loop ends after this turn.
    ends: bool,
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
        let (wanted, watched) = watch::channel(Vec::new());
        let next_hops = routes::watch(watched)?;

        let mut dataplane = Dataplane::load(&kernel_settings(&config, &secrets), Some(&config.pin_dir))?;
        dataplane.follow_logs()?;
        let census = Census::start(Arc::clone(dataplane.claims()), config.node)?;
        let events = dataplane.take_events()?;
        // SAFETY: a ring buffer keeps the descriptor of its map until it is dropped, and gives no other.
        let events = unsafe { AsyncFd::register(events) }.context("wait for the claims' ring buffer")?;
        let punts = dataplane.take_punts()?;
        // SAFETY: as above.
        let punts = unsafe { AsyncFd::register(punts) }.context("wait for the punted packets' ring buffer")?;
        // Peers link what answers, and take a node down that then says nothing; loading the programs takes a while.
        let (commands, to_links) = mpsc::channel(LINK_QUEUE);
        let (from_links, link_events) = mpsc::channel(HEARD_QUEUE);
        let settings = links::Settings {
            listen: config.cluster.listen,
            seeds: config.cluster.seeds.clone(),
            identity: Arc::clone(&identity),
        };
        let links = links::spawn(settings, to_links, from_links)?;
        let proxies = Proxies::watch(&config)?;
        let failover = new_failover(&config, &proxies, &dataplane)?;
        let interfaces = Interfaces::attach(&config.interfaces, config.xdp_mode, &mut dataplane)?;
        let slow = Slow::open(&config, &secrets, &interfaces)?;
        dataplane.set_self()?;
        dataplane.keep();
        let mut node = new_node(&config, &secrets, &failover)?;
        restore_claims(&mut node, &dataplane);
        let next_hop_table = NextHopTable::new(config.underlay, wanted);
        let hooks = new_hooks(&config);
        let servers = (control, metrics);
        Ok(Self {
            config,
            identity,
            secrets,
            files,
            started: Instant::now(),
            interfaces,
            dataplane,
            census,
            events,
            punts,
            slow,
            node,
            failover,
            proxies,
            hooks,
            next_hop_table,
            drain: Drain::default(),
            sweep: Sweep::default(),
            links,
            commands,
            link_events,
            calls,
            next_hops,
            ends: false,
            _servers: servers,
        })
    }

    async fn run(mut self, mut terminate: Signal, mut interrupt: Signal) -> Result<()> {
        log::info!("node {} of cluster {} runs", self.config.node.number(), self.identity.cluster);
        let mut checks = tokio::time::interval(INTERFACE_CHECK);
        checks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.turn().await?;
        while !self.ends {
            let due = self.until_timeout();
            // In the order of their hurry: a late claim breaks a call, a late answer annoys a human.
            tokio::select! {
                biased;
                // Who asks twice is in a hurry.
                _ = terminate.recv() => if self.is_told_to_stop_again() { break },
                _ = interrupt.recv() => if self.is_told_to_stop_again() { break },
                ready = self.events.readable_mut() => {
                    let mut ready = ready.context("wait for the claims' ring buffer")?;
                    if take_claims(ready.get_inner_mut(), &mut self.node, self.dataplane.epochs()) {
                        ready.clear_ready();
                    }
                }
                event = self.link_events.recv() => match event {
                    Some(event) => self.link_event(event).await?,
                    None => return Err(anyhow::anyhow!("the cluster's links have ended by themselves")),
                },
                Some((service, evidence)) = self.proxies.seen() => {
                    self.failover.handle_evidence(service, &evidence, now().monotonic_us);
                }
                // After a stall they are only laid aside, but it is not noticed yet.
                ready = self.punts.readable_mut(), if !self.failover.is_late(now().monotonic_us) => {
                    let mut ready = ready.context("wait for the punted packets' ring buffer")?;
                    // What the program said of a claim before comes first.
                    take_claims(self.events.get_mut(), &mut self.node, self.dataplane.epochs());
                    if self.slow.take_punts(ready.get_inner_mut(), self.failover.is_rejoining(), &mut context!(self)) {
                        ready.clear_ready();
                    }
                }
                arrived = self.slow.receive() => self.slow.take_datagrams(arrived, &context!(self)),
                Some(hops) = self.next_hops.recv() => self.next_hop_table.set_next_hops(hops, &mut self.dataplane)?,
                Some((request, answer)) = self.calls.recv() => {
                    match self.answer(request) {
                        Response::Status(status) => self.census.answer(status, answer),
                        // Whoever asked may have gone.
                        response @ (Response::Owner(_) | Response::Drain(_) | Response::Error(_)) => {
                            drop(answer.send(response));
                        }
                    }
                }
                _ = checks.tick() => self.check()?,
                () = self.interfaces.changed() => self.check_interfaces(),
                () = tokio::time::sleep(due) => {}
            }
            self.slow.timeout(&context!(self));
            self.turn().await?;
        }
        log::info!(
            "stopping: the programs stay attached and go by the claims they have; `forwarder detach` removes them"
        );
        self.stop().await
    }

    /// Looks at what nobody tells of.
    fn check(&mut self) -> Result<()> {
        self.sweep.step(&self.node, self.dataplane.claims());
        self.take_up_files()?;
        self.check_interfaces();
        Ok(())
    }

    fn check_interfaces(&mut self) {
        if self.interfaces.check(&mut self.dataplane) {
            self.slow.set_interfaces(&self.interfaces);
        }
    }

    /// New transactions go to the peers from now on, and a little later the daemon ends; whether it was told before.
    fn is_told_to_stop_again(&mut self) -> bool {
        let again = self.failover.is_stopping();
        log::info!("told to stop: new transactions are left to the peers, for {} ms", LINGER_US / 1000);
        self.failover.handle_stop(now().monotonic_us);
        again
    }

    /// Packets pass from now on; what the daemon has in hand goes on its way.
    async fn stop(mut self) -> Result<()> {
        self.dataplane.close_punts()?;
        self.slow.take_late(&context!(self));
        while !self.slow.take_punts(self.punts.get_mut(), false, &mut context!(self)) {
            self.turn().await?;
        }
        self.slow.drain();
        self.turn().await?;
        self.links.shutdown().await;
        if let Some(hooks) = self.hooks {
            hooks.finish().await;
        }
        Ok(())
    }

    /// Does what failover, slow path and core have decided; each may give the others something to do.
    async fn turn(&mut self) -> Result<()> {
        self.take_answers();
        self.failover.handle_seen(self.node.held_epochs(), now().monotonic_us);
        // However much else there is to do: without it the programs take this daemon for dead.
        self.failover.handle_turn(|| self.node.is_synchronised(), now().monotonic_us);
        self.carry_out_failover()?;
        self.slow.carry_out(&mut context!(self));
        self.node.handle_timeout(now());
        self.carry_out_core().await?;
        self.slow.carry_out(&mut context!(self));
        Ok(())
    }

    /// Takes what peers' programs have answered through the tunnel.
    fn take_answers(&mut self) {
        for KernelAnswer { from, question, answer, time } in self.slow.take_answers() {
            if question.is_for_claim() {
                self.node.handle_kernel_answer(from, question.ticket, answer.held, now());
            } else {
                self.failover.handle_answer(from, question.ticket, time, answer, now().monotonic_us);
            }
        }
    }

    fn until_timeout(&self) -> Duration {
        let now_us = now().monotonic_us;
        let due = self.node.poll_timeout().into_iter().chain(self.slow.due_us());
        let due_us = due.fold(self.failover.poll_timeout(now_us), u64::min);
        Duration::from_micros(due_us.saturating_sub(now_us))
    }

    /// Takes up certificates and secrets that have changed; those that are of no use are said and left.
    fn take_up_files(&mut self) -> Result<()> {
        for change in self.files.look() {
            match change {
                Ok(Change::Identity(identity)) => self.set_identity(Arc::from(identity)),
                Ok(Change::Secrets(secrets)) => {
                    // The programs and the slow path within one turn: a key under one and not the other finds no claim.
                    self.dataplane.set_secrets(&secrets)?;
                    self.slow.set_secrets(&secrets);
                    log::info!("the cluster's secret has changed: key epoch {}", secrets.tag_epoch);
                    if secrets.hash_key != self.secrets.hash_key {
                        self.node.set_must_equal(must_equal(&self.config, &secrets), now());
                        log::warn!("`hash` of the secret has changed: claims made before are not found any more");
                    }
                    self.secrets = secrets;
                }
                Err(error) => log::error!("{error:#}"),
            }
        }
        Ok(())
    }

    fn set_identity(&mut self, identity: Arc<Identity>) {
        match self.links.set_identity(Arc::clone(&identity)) {
            Ok(()) => {
                log::info!("certificates or `deny` have changed: this node's certificate ends {}", identity.expires());
                self.identity = identity;
            }
            Err(error) => log::error!("{error:#}"),
        }
    }

    async fn link_event(&mut self, event: Event) -> Result<()> {
        let now_us = now().monotonic_us;
        match event {
            Event::LinkUp { peer, address, named, again } => {
                if !again {
                    log::info!("node {}: link up, {address}", peer.number());
                }
                self.failover.handle_link_up(peer, address, &named, again, now_us);
                self.carry_out_failover()?;
            }
            Event::LinkDown { peer, reason, end } => {
                log::warn!("node {}: link down: {reason}", peer.number());
                self.failover.handle_link_down(peer, end, reason, now_us);
                self.carry_out_failover()?;
            }
            Event::OtherVersion { peer, address, reason } => {
                self.failover.handle_other_version(peer, address, reason, now_us);
                self.carry_out_failover()?;
            }
            Event::Message { peer, bytes } => {
                // A peer may ask for a claim that still waits in the ring buffer.
                take_claims(self.events.get_mut(), &mut self.node, self.dataplane.epochs());
                // Or in the other one, where the program could not read the message. After a stall those are laid
                // aside.
                let lays_aside = self.failover.is_rejoining() || self.failover.is_late(now_us);
                self.slow.take_punts(self.punts.get_mut(), lays_aside, &mut context!(self));
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

    /// Answers a question; an error is an answer as well.
    fn answer(&mut self, request: Request) -> Response {
        match request {
            Request::Status => match report::status(&self.sources()) {
                Ok(status) => Response::Status(Box::new(status)),
                Err(error) => Response::Error(format!("{error:#}")),
            },
            Request::Owner { call_id, cseq, branch } => {
                Response::Owner(report::owner(&self.sources(), &call_id, cseq, branch.as_deref()))
            }
            Request::Drain => self.set_drain(true),
            Request::Undrain => self.set_drain(false),
            Request::Progress => self.drain_progress(false),
        }
    }

    fn set_drain(&mut self, drains: bool) -> Response {
        let changed = self.failover.handle_drain(drains, now().monotonic_us);
        if changed {
            log::info!(
                "the operator {}",
                if drains { "drains this node" } else { "takes this node back into service" }
            );
            self.drain = Drain::default();
        }
        self.drain_progress(changed)
    }

    fn drain_progress(&mut self, changed: bool) -> Response {
        let mut drain = std::mem::take(&mut self.drain);
        let progress = report::drain_progress(&self.sources(), &mut drain, changed);
        self.drain = drain;
        progress
    }

    fn sources(&self) -> Sources<'_> {
        Sources {
            config: &self.config,
            identity: &self.identity,
            secrets: &self.secrets,
            files: &self.files,
            started: self.started,
            interfaces: &self.interfaces,
            dataplane: &self.dataplane,
            slow: &self.slow,
            node: &self.node,
            failover: &self.failover,
            hooks: self.hooks.as_ref(),
            next_hop_table: &self.next_hop_table,
            links: &self.links,
        }
    }

    /// Drops the link of a peer that broke the protocol.
    fn drop_unless_ok(&self, peer: NodeId, result: Result<(), ProtocolError>) {
        let Err(error) = result else { return };
        log::warn!("node {}: {error}; its link is dropped", peer.number());
        if self.commands.try_send(Command::Drop { peer, reason: error.to_string() }).is_err() {
            log::warn!("node {}: the links are too busy to drop it", peer.number());
        }
    }

    /// Does what the failover machine has decided.
    fn carry_out_failover(&mut self) -> Result<()> {
        use failover::Output;
        while let Some(output) = self.failover.poll_output() {
            match output {
                Output::Introduce { peer, addresses } => self.node.handle_link_up(peer, addresses, now()),
                Output::GiveUp(peer) => self.node.handle_link_down(peer, now()),
                Output::Peer { node, up, said } => self.next_hop_table.set(node, up, said, &mut self.dataplane)?,
                Output::Clock { node, clock } => self.next_hop_table.set_clock(node, clock, &mut self.dataplane)?,
                Output::Probe { node, ticket } => {
                    let question = Question { request_key: 0, reply_key: 0, ticket };
                    self.slow.ask(node, &question, &self.failover, now());
                }
                Output::TakeDown(peer) => self.dataplane.take_down(peer)?,
                Output::Reassemblers(nodes) => self.dataplane.set_reassemblers(&nodes)?,
                Output::Successors(nodes) => self.dataplane.set_successors(&nodes)?,
                Output::Lease(lease) => self.dataplane.set_lease(lease)?,
                Output::OpenPunts => {
                    self.dataplane.open_punts()?;
                    self.slow.take_late(&context!(self));
                }
                Output::ClosePunts => self.dataplane.close_punts()?,
                Output::Epochs(given) => {
                    let live = given.live();
                    let numbers: Vec<_> = live.iter().map(|epoch| epoch.number().to_string()).collect();
                    log::info!("live epochs: {}", numbers.join(", "));
                    self.dataplane.set_epochs(&given)?;
                    self.node.set_epochs(live, now());
                }
                Output::State { old, new, is_silent } => {
                    self.node.set_state(new, is_silent, now());
                    if old != new {
                        self.tell_state(old, new);
                    }
                }
                Output::Note(note) if note.is_warning() => log::warn!("{note}"),
                Output::Note(note) => log::info!("{note}"),
                Output::End => self.ends = true,
            }
        }
        Ok(())
    }

    fn tell_state(&self, old: State, new: State) {
        log::info!("this node is {} (was {})", new.name(), old.name());
        if let Some(hooks) = &self.hooks {
            hooks.tell(new);
        }
    }

    /// Does what the core has decided.
    async fn carry_out_core(&mut self) -> Result<()> {
        use node::Output;
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Link(command) => self.command(command).await,
                Output::Map(MapWrite::Claim { key, owner, epoch, purpose, remaining_ms }) => {
                    self.dataplane.set_claim(key, owner, epoch, purpose, remaining_ms);
                    log::trace!(
                        target: "forwarder::claims",
                        "claim {key:016x} of node {} stands at {}", owner.number(), now().unix_us
                    );
                }
                Output::Map(MapWrite::End { key, epoch, class, was_ms, remaining_ms }) => {
                    self.dataplane.set_end(key, epoch, class, was_ms, remaining_ms);
                }
                Output::Introduced { peer, said } => {
                    self.failover.handle_introduction(peer, said, now().monotonic_us);
                    // Before the answer that follows it.
                    self.carry_out_failover()?;
                }
                Output::AskKernel { to, number, request_key, reply_key } => {
                    let question = Question { request_key, reply_key, ticket: number };
                    self.slow.ask(to, &question, &self.failover, now());
                }
                Output::Answer { ticket, owned } => {
                    self.slow.answered(ticket, owned, &context!(self));
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
}

fn new_failover(config: &Config, proxies: &Proxies, dataplane: &Dataplane) -> Result<Failover> {
    let settings = failover::Settings {
        node: config.node,
        services: proxies.known(config),
        has_seeds: !config.cluster.seeds.is_empty(),
        keep_up: usize::from(config.cluster.keep_up),
        inherited: dataplane.inherited(),
        first_epoch: first_epoch(),
        first_ticket: seed()? as u32,
    };
    Ok(Failover::new(settings, now().monotonic_us))
}

fn new_node(config: &Config, secrets: &Secrets, failover: &Failover) -> Result<Node> {
    Ok(Node::new(NodeSettings {
        node: config.node,
        epochs: failover.epochs().live(),
        underlay: config.underlay,
        listen: config.cluster.listen,
        lifetimes: lifetimes(config),
        claims: config.claims as usize,
        seed: seed()?,
        services: told_services(config),
        must_equal: must_equal(config, secrets),
    }))
}

fn new_hooks(config: &Config) -> Option<Hooks> {
    let path = config.hooks.on_state.clone()?;
    let (node, cluster) = (config.node, config.cluster.name.clone());
    Some(Hooks::new(hooks::Settings { path, limit: Duration::from_secs(config.hooks.timeout_s), node, cluster }))
}
