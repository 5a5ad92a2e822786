//! The cluster and its surroundings: what every part of a simulation reads and changes.

use std::collections::VecDeque;

use anyhow::{Context as _, Result};
use fastrand::Rng;
use forwarder_common::{abi::Lifetimes, hash, ids::NodeId, lifetime};

use super::{
    counts::Counts,
    event::Event,
    fault::Fault,
    host::{Host, Limits, host_of},
    network::Network,
    queue::Queue,
    reference::Reference,
    scenario::Scenario,
};

/// Keys of a transaction, for the size of the tables: two, and those of another owner where its request was sent again.
const CLAIMS_PER_TRANSACTION: usize = 3;

/// What a proxy takes to answer in microseconds, and a daemon to look at its sockets.
pub(super) const ANSWER_US: u64 = 1_000;

/// Time, chance, network and hosts.
#[derive(Debug)]
pub(super) struct World {
    pub(super) scenario: Scenario,
    pub(super) limits: Limits,
    pub(super) lifetimes: Lifetimes,
    pub(super) queue: Queue<Event>,
    pub(super) now_us: u64,
    pub(super) rng: Rng,
    pub(super) network: Network,
    pub(super) hosts: Vec<Host>,
    /// Hosts that all others call when they start.
    pub(super) seeds: Vec<usize>,
    pub(super) reference: Reference,
    pub(super) counts: Counts,
    /// A hash of everything that happened, in its order.
    pub(super) trace: u64,
    /// Hosts for whose daemon something has come, in the order in which it has.
    wakes: VecDeque<usize>,
}

impl World {
    /// The world of a scenario before its first event.
    pub(super) fn new(scenario: Scenario) -> Result<Self> {
        let mut rng = Rng::with_seed(scenario.seed);
        let lifetimes = lifetime::of_timers(scenario.t1_ms, scenario.timer_c_ms, 0);
        let (claims, hold_us) = (most_claims(&scenario), scenario.hold_ms * 1000);
        let limits = Limits { hosts: scenario.nodes, claims, hold_us, lifetimes };
        let mut hosts = Vec::new();
        for index in 0..scenario.nodes {
            let hour_us = 3_600_000_000_i64;
            let clock_us = if scenario.clocks { rng.i64(-hour_us..=hour_us) } else { 0 };
            hosts.push(Host::new(index, clock_us, limits).context("make a host; hint: there are 1023 node ids")?);
        }
        let count = hosts.len();
        let mut world = Self {
            lifetimes,
            queue: Queue::new(),
            now_us: 0,
            network: Network::new(count, scenario.loss, rng.u64(..)),
            seeds: (0..scenario.seeds).map(|seed| seed * count / scenario.seeds).collect(),
            reference: Reference::default(),
            counts: Counts::new(count),
            trace: scenario.seed,
            wakes: VecDeque::new(),
            hosts,
            rng,
            limits,
            scenario,
        };
        world.schedule();
        Ok(world)
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

    /// Something has come for the daemon of a host: its loop turns before anything else happens.
    pub(super) fn wake(&mut self, host: usize) {
        self.wakes.push_back(host);
    }

    /// The next host for whose daemon something has come.
    pub(super) fn next_wake(&mut self) -> Option<usize> {
        self.wakes.pop_front()
    }

    /// A daemon has started, or goes on: it looks at its proxy's sockets at once.
    pub(super) fn look_soon(&mut self, host: usize) {
        let incarnation = self.hosts[host].incarnation;
        self.queue.push(self.now_us + ANSWER_US, Event::Look { host, incarnation });
    }

    /// The index of a peer in an output of the core.
    /// Counts the hosts to which routes lead.
    pub(super) fn count_routes(&mut self) {
        self.counts.routed(self.hosts.iter().filter(|host| host.is_routed).count());
    }

    pub(super) fn peer_index(&self, node: NodeId) -> Option<usize> {
        Some(host_of(node)).filter(|index| *index < self.hosts.len())
    }

    /// Mixes what happened into the trace.
    pub(super) fn note(&mut self, a: u64, b: u64, c: u64) {
        for word in [self.now_us, a, b, c] {
            self.trace = (self.trace ^ word).wrapping_mul(hash::GOLDEN).rotate_left(29);
        }
    }
}

/// Claims that a node may have to hold: all of the cluster's transactions of the longest lifetime.
fn most_claims(scenario: &Scenario) -> usize {
    let longest_s = (scenario.timer_c_ms + 64 * scenario.t1_ms) / 1000 + 5;
    let seconds = scenario.traffic_s.min(longest_s) as usize;
    (seconds * scenario.rate as usize * CLAIMS_PER_TRANSACTION).max(4096)
}
