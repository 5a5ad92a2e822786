//! Many nodes in virtual time: the real core, slow path and claim table of each, in a network that delays, loses, cuts
//! and heals, with SIP transactions whose packets land where they should not.
//!
//! One thread, one queue of events, one seed: the same seed plays the same game to the last byte. What is not real
//! here: the QUIC links (`links` says what they do), the kernel's programs (`kernel` calls their parts), the proxies
//! (`traffic`), and the capacity of wires and processors, which are without bounds.
#![expect(
    clippy::indexing_slicing,
    reason = "indices are the simulation's own; a wrong one is a bug that must stop it"
)]

mod counts;
mod faults;
mod host;
mod kernel;
mod links;
mod network;
mod proxy;
mod queue;
mod reference;
mod report;
mod scenario;
mod traffic;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use fastrand::Rng;
use forwarder_common::abi::Lifetimes;
use forwarder_core::node::{Now, Output, State};

use self::counts::Counts;
use self::host::{Daemon, Host, Limits, host_at};
use self::kernel::lifetimes;
use self::links::{Call, Flight, Link, Silence};
use self::network::Network;
use self::queue::Queue;
use self::reference::Reference;
use self::traffic::{Message, Transaction};

pub use self::counts::{Fates, Traffic};
pub use self::network::REGIONS;
pub use self::reference::Agreement;
pub use self::report::Report;
pub use self::scenario::{Fault, NAMES, Scenario};
pub use self::traffic::Class;

/// A node that is linked with nobody takes transactions after so many microseconds.
const ALONE_US: u64 = 5_000_000;
/// A node that is linked knows what its peers know after so many: a few round trips, and the gossip of who they are.
const JOIN_US: u64 = 1_500_000;
/// One turn of a core in so many is timed.
const TIMED: u64 = 64;
/// Keys of a transaction, for the size of the tables: two, and those of another owner where its request was sent again.
const CLAIMS_PER_TRANSACTION: usize = 3;

/// Something that happens.
#[derive(Debug)]
enum Event {
    /// The shell of a daemon wakes up.
    Timer {
        host: usize,
        life: u32,
    },
    Call(Call),
    Handshake(Call),
    Arrival(Flight),
    Silence(Silence),
    Farewell {
        host: usize,
        peer: usize,
        session: u32,
    },
    GivenUp {
        host: usize,
        peer: usize,
        session: u32,
    },
    Joined {
        host: usize,
        life: u32,
    },
    Fault(Fault),
    /// A client begins a transaction.
    Begin,
    /// A packet lands, for the `tries`th time.
    Packet {
        transaction: usize,
        step: traffic::Step,
        tries: u32,
    },
    /// A proxy gets a packet: from the tunnel, or from the slow path.
    Delivery {
        host: usize,
        message: Message,
        way: Way,
    },
}

/// How a packet came to a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Landed,
    Tunnel,
    Held,
}

/// The cluster and its surroundings.
#[derive(Debug)]
struct Simulation {
    scenario: Scenario,
    limits: Limits,
    lifetimes: Lifetimes,
    queue: Queue<Event>,
    now_us: u64,
    rng: Rng,
    network: Network,
    hosts: Vec<Host>,
    links: Vec<Link>,
    seeds: Vec<usize>,
    transactions: Vec<Transaction>,
    reference: Reference,
    counts: Counts,
    /// A hash of everything that happened, in its order.
    trace: u64,
    turns: u64,
    timed: (u64, Duration),
    outputs: Vec<Output>,
}

/// Plays a scenario to its end.
///
/// # Errors
/// It has no nodes, or more than there are node ids.
pub fn run(scenario: &Scenario) -> Result<Report> {
    let start = Instant::now();
    let before = report::resident_bytes();
    let mut simulation = Simulation::new(scenario.clone())?;
    let begin_us = scenario.warm_s * 1_000_000;
    simulation.play_until(begin_us);
    let idle = report::resident_bytes();
    simulation.counts.begin();
    let end_us = begin_us + scenario.traffic_s * 1_000_000;
    simulation.queue.push(begin_us, Event::Begin);
    simulation.play_until(end_us);
    let loaded = report::resident_bytes();
    let memory = report::Memory { before, idle, loaded };
    let mut report = Report::after_traffic(&simulation, memory);
    simulation.play_until(end_us + scenario.settle_s * 1_000_000);
    report.finish(&simulation, start.elapsed());
    Ok(report)
}

impl Simulation {
    fn new(scenario: Scenario) -> Result<Self> {
        let mut rng = Rng::with_seed(scenario.seed);
        let limits = Limits { hosts: scenario.nodes, claims: most_claims(&scenario), hold_us: scenario.hold_ms * 1000 };
        let mut hosts = Vec::new();
        for index in 0..scenario.nodes {
            let hour_us = 3_600_000_000_i64;
            let clock_us = if scenario.clocks { rng.i64(-hour_us..=hour_us) } else { 0 };
            hosts.push(Host::new(index, clock_us, limits).context("make a host; hint: there are 1023 node ids")?);
        }
        let count = hosts.len();
        let mut simulation = Self {
            lifetimes: lifetimes(scenario.t1_ms, scenario.timer_c_ms),
            queue: Queue::new(),
            now_us: 0,
            network: Network::new(count, scenario.loss, rng.u64(..)),
            links: (0..count * count).map(|_| Link::default()).collect(),
            seeds: (0..scenario.seeds).map(|seed| seed * count / scenario.seeds).collect(),
            transactions: Vec::new(),
            reference: Reference::default(),
            counts: Counts::new(count),
            trace: scenario.seed,
            turns: 0,
            timed: (0, Duration::ZERO),
            outputs: Vec::new(),
            hosts,
            rng,
            limits,
            scenario,
        };
        simulation.schedule();
        Ok(simulation)
    }

    /// Everything that is known to happen from the start on.
    fn schedule(&mut self) {
        for host in (0..self.hosts.len()).filter(|host| !self.scenario.later.contains(host)) {
            let at_us = self.rng.u64(0..2_000_000);
            self.queue.push(at_us, Event::Fault(Fault::Boot(host)));
        }
        for (at_s, fault) in self.scenario.faults.clone() {
            let at_us = self.scenario.warm_s * 1_000_000 + (at_s * 1e6) as u64;
            self.queue.push(at_us, Event::Fault(fault));
        }
    }

    fn play_until(&mut self, until_us: u64) {
        while let Some((at_us, event)) = self.queue.pop(until_us) {
            self.now_us = at_us;
            self.happen(event);
        }
        self.now_us = until_us;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Timer { host, life } => {
                if self.hosts[host].daemon_life == life {
                    self.pump(host);
                }
            }
            Event::Call(call) => self.call(call),
            Event::Handshake(call) => self.handshake(call),
            Event::Arrival(flight) => self.arrival(flight),
            Event::Silence(silence) => self.silence(silence),
            Event::Farewell { host, peer, session } => self.farewell(host, peer, session),
            Event::GivenUp { host, peer, session } => self.given_up(host, peer, session),
            Event::Joined { host, life } => {
                if self.hosts[host].daemon_life == life {
                    self.becomes_up(host);
                    self.pump(host);
                }
            }
            Event::Fault(fault) => self.fault(fault),
            Event::Begin => self.begin(),
            Event::Packet { transaction, step, tries } => self.packet(transaction, step, tries),
            Event::Delivery { host, message, way } => self.proxy(host, message, way),
        }
    }

    /// Mixes what happened into the trace.
    fn note(&mut self, a: u64, b: u64, c: u64) {
        for word in [self.now_us, a, b, c] {
            self.trace = (self.trace ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }

    /// The daemon's loop, until nothing is left to do: slow path, core, and what both have decided.
    fn pump(&mut self, host: usize) {
        self.turns += 1;
        let timed = self.turns.is_multiple_of(TIMED).then(Instant::now);
        let now = self.hosts[host].now(self.now_us);
        loop {
            let mut outputs = std::mem::take(&mut self.outputs);
            let mut goes_on = self.slow_path(host, now);
            let Some(daemon) = &mut self.hosts[host].daemon else { break };
            if daemon.node.poll_timeout().is_some_and(|due| due <= now.monotonic_us) {
                daemon.node.handle_timeout(now);
            }
            while let Some(output) = daemon.node.poll_output() {
                outputs.push(output);
            }
            for output in outputs.drain(..) {
                // The slow path gets something to do.
                goes_on |= matches!(output, Output::Answer { .. });
                self.carry_out(host, output, now);
            }
            self.outputs = outputs;
            if !goes_on {
                break;
            }
        }
        self.arm(host);
        if let Some(since) = timed {
            self.timed = (self.timed.0 + 1, self.timed.1 + since.elapsed());
        }
    }

    fn carry_out(&mut self, host: usize, output: Output, now: Now) {
        match output {
            Output::Send { to, message, kind } => {
                if let Some(to) = self.peer_index(to) {
                    self.send(host, to, Some(kind), message);
                }
            }
            Output::Datagram { to, bytes } => {
                if let Some(to) = self.peer_index(to) {
                    self.send(host, to, None, bytes);
                }
            }
            Output::Map(write) => self.hosts[host].kernel.write(write, now),
            Output::Answer { ticket, owned } => {
                let Host { kernel, daemon: Some(daemon), .. } = &mut self.hosts[host] else { return };
                daemon.slow.handle_answer(ticket, owned, &Host::sight(kernel, now), now.monotonic_us);
            }
            Output::Call { address, .. } => {
                if let Some(target) = host_at(address) {
                    self.want(host, target);
                }
            }
            Output::Forget { peer } => {
                if let Some(target) = self.peer_index(peer) {
                    self.forget(host, target);
                }
            }
        }
    }

    /// Lets the shell wake up when core or slow path ask for it.
    fn arm(&mut self, host: usize) {
        let at_us = self.now_us;
        let owner = &mut self.hosts[host];
        let Some(Daemon { node, slow, .. }) = &owner.daemon else { return };
        let Some(due) = [node.poll_timeout(), slow.poll_timeout()].into_iter().flatten().min() else { return };
        // A microsecond at least, as any shell: what is overdue after a turn must not stop the time.
        let due_us = owner.virtual_us(due).max(at_us + 1);
        let life = owner.daemon_life;
        let Some(daemon) = &mut owner.daemon else { return };
        if daemon.timer_us <= at_us || due_us < daemon.timer_us {
            daemon.timer_us = due_us;
            self.queue.push(due_us, Event::Timer { host, life });
        }
    }

    /// A node that was joining takes transactions; its hook announces the route.
    fn becomes_up(&mut self, host: usize) {
        let joining = self.hosts[host].daemon.as_ref().is_some_and(|daemon| daemon.state == State::Joining);
        if joining {
            self.hosts[host].is_routed = true;
            self.set_state(host, State::Up);
        }
    }

    fn set_state(&mut self, host: usize, state: State) {
        let owner = &mut self.hosts[host];
        let now = owner.now(self.now_us);
        owner.kernel.diverts = matches!(state, State::Draining | State::ProxyDown);
        owner.kernel.drains = state == State::Draining;
        if let Some(daemon) = &mut owner.daemon {
            daemon.state = state;
            daemon.node.set_state(state, now);
        }
    }
}

/// Claims that a node may have to hold: all of the cluster's transactions of the longest lifetime.
fn most_claims(scenario: &Scenario) -> usize {
    let longest_s = (scenario.timer_c_ms + 64 * scenario.t1_ms) / 1000 + 5;
    let seconds = scenario.traffic_s.min(longest_s) as usize;
    (seconds * scenario.rate as usize * CLAIMS_PER_TRANSACTION).max(4096)
}
