//! Many nodes in virtual time: the real failover machine, core, slow path and claim table of each, in a network that
//! delays, loses, cuts and heals, with SIP transactions whose packets land where they should not.
//!
//! One thread, one queue of events, one seed: the same seed plays the same game to the last byte. What is not real
//! here: the daemon's loop (`shell` is the same in virtual time), the QUIC links (`links` says what they do), the
//! kernel's programs (`kernel` calls their parts), the proxies (`traffic`), and the capacity of wires and processors,
//! which are without bounds.
#![expect(
    clippy::indexing_slicing,
    reason = "indices are the simulation's own; a wrong one is a bug that must stop it"
)]

mod cause;
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
mod shell;
mod summary;
mod traffic;
mod watch;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use fastrand::Rng;
use forwarder_common::{abi::Lifetimes, lifetime};

use self::{
    counts::Counts,
    host::{Host, KernelAnswer, Limits},
    kernel::Question,
    links::{Call, Ending, Flight, Link},
    network::Network,
    queue::Queue,
    reference::Reference,
    traffic::{Message, Transaction},
};

pub use self::cause::Cause;
pub use self::counts::{Fates, Noted, Phase, Traffic};
pub use self::network::REGIONS;
pub use self::reference::Agreement;
pub use self::report::Report;
pub use self::scenario::{Fault, NAMES, Scenario};
pub use self::summary::Summary;
pub use self::traffic::Class;

/// One run of a daemon's loop in so many is timed.
const TIMED: u64 = 64;
/// Keys of a transaction, for the size of the tables: two, and those of another owner where its request was sent again.
const CLAIMS_PER_TRANSACTION: usize = 3;

/// Something that happens.
#[derive(Debug)]
enum Event {
    /// The loop of a daemon wakes up.
    Timer {
        host: usize,
        incarnation: u32,
    },
    /// A daemon that was stopped goes on.
    GoOn {
        host: usize,
        incarnation: u32,
    },
    /// A daemon looks at the sockets of its proxy.
    Look {
        host: usize,
        incarnation: u32,
    },
    /// A probe of the proxy comes back.
    Probe {
        host: usize,
        incarnation: u32,
    },
    Call(Call),
    Handshake(Call),
    Arrival(Flight),
    Ending(Ending),
    Fault(Fault),
    /// A client begins a transaction.
    Begin,
    /// A packet lands, for the `tries`th time.
    Packet {
        transaction: usize,
        step: traffic::Step,
        tries: u32,
    },
    /// A host's programs get a question through the tunnel.
    Question {
        from: usize,
        to: usize,
        question: Question,
    },
    /// A host's daemon gets the answer.
    Answer {
        host: usize,
        incarnation: u32,
        answer: KernelAnswer,
    },
    /// A host gets a packet: from the tunnel, or from its slow path.
    Delivery {
        host: usize,
        message: Message,
        way: Way,
    },
}

/// How a packet came to a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The programs of the host where it landed kept it.
    Landed,
    /// They needed a daemon, and there was none to ask; or another host's did, and this one has none either.
    Unasked { is_relayed: bool },
    /// They had no room for another packet for the daemon.
    Overflowed,
    /// The programs of another host sent it.
    Tunnel { by: usize },
    /// A daemon has decided, of this host or of another one.
    Held { by: usize },
    /// The programs of a host without a daemon sent it to this one's daemon.
    Relayed { by: usize },
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
    /// By host, what waits in the socket of a daemon that is stopped.
    sockets: Vec<Vec<Event>>,
    seeds: Vec<usize>,
    transactions: Vec<Transaction>,
    reference: Reference,
    counts: Counts,
    /// A hash of everything that happened, in its order.
    trace: u64,
    turns: u64,
    timed: (u64, Duration),
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
            lifetimes: lifetime::of_timers(scenario.t1_ms, scenario.timer_c_ms),
            queue: Queue::new(),
            now_us: 0,
            network: Network::new(count, scenario.loss, rng.u64(..)),
            links: (0..count * count).map(|_| Link::default()).collect(),
            sockets: (0..count).map(|_| Vec::new()).collect(),
            seeds: (0..scenario.seeds).map(|seed| seed * count / scenario.seeds).collect(),
            transactions: Vec::new(),
            reference: Reference::default(),
            counts: Counts::new(count),
            trace: scenario.seed,
            turns: 0,
            timed: (0, Duration::ZERO),
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
            Event::Timer { host, incarnation } => {
                if self.hosts[host].incarnation == incarnation {
                    self.pump(host);
                }
            }
            Event::GoOn { host, incarnation } => self.go_on(host, incarnation),
            Event::Look { host, incarnation } => self.look(host, incarnation),
            Event::Probe { host, incarnation } => self.probe(host, incarnation),
            Event::Call(call) => self.call(call),
            Event::Handshake(call) => self.handshake(call),
            Event::Arrival(flight) => self.arrival(flight),
            Event::Ending(ending) => self.ending(ending),
            Event::Fault(fault) => self.fault(fault),
            Event::Begin => self.begin(),
            Event::Packet { transaction, step, tries } => self.packet(transaction, step, tries),
            Event::Question { from, to, question } => self.question(from, to, question),
            Event::Answer { host, incarnation, answer } => self.kernel_answer(host, incarnation, answer),
            Event::Delivery { host, message, way } => self.delivery(host, message, way),
        }
    }

    /// Mixes what happened into the trace.
    fn note(&mut self, a: u64, b: u64, c: u64) {
        for word in [self.now_us, a, b, c] {
            self.trace = (self.trace ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }
}

/// Claims that a node may have to hold: all of the cluster's transactions of the longest lifetime.
fn most_claims(scenario: &Scenario) -> usize {
    let longest_s = (scenario.timer_c_ms + 64 * scenario.t1_ms) / 1000 + 5;
    let seconds = scenario.traffic_s.min(longest_s) as usize;
    (seconds * scenario.rate as usize * CLAIMS_PER_TRANSACTION).max(4096)
}
