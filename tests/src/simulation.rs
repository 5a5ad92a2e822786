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
mod event;
mod fault;
mod host;
mod judge;
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
mod world;

use std::time::Instant;

use anyhow::Result;

use self::{
    event::Event,
    host::Order,
    links::{Links, WAKE_UP_US},
    proxy::Proxies,
    shell::Shell,
    world::World,
};

pub use self::cause::Cause;
pub use self::counts::{Fates, Noted, Phase, Traffic};
pub use self::fault::Fault;
pub use self::network::REGIONS;
pub use self::reference::Agreement;
pub use self::report::Report;
pub use self::scenario::{NAMES, Scenario};
pub use self::summary::Summary;
pub use self::traffic::Class;

/// The parts of a simulation, and what happens to them in its order.
#[derive(Debug)]
struct Simulation {
    world: World,
    links: Links,
    proxies: Proxies,
    shell: Shell,
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
    simulation.world.counts.begin();
    let end_us = begin_us + scenario.traffic_s * 1_000_000;
    simulation.world.queue.push(begin_us, Event::Begin);
    simulation.play_until(end_us);
    let loaded = report::resident_bytes();
    let memory = report::Memory { before, idle, loaded };
    let mut report = Report::after_traffic(&simulation.world, memory);
    simulation.play_until(end_us + scenario.settle_s * 1_000_000);
    let Simulation { world, links, proxies, shell } = &simulation;
    let harmed = proxies.transactions.iter().filter(|transaction| transaction.is_harmed).count() as u64;
    report.finish(world, harmed, links.unlinked(world), shell.turn_ns(), start.elapsed());
    Ok(report)
}

impl Simulation {
    fn new(scenario: Scenario) -> Result<Self> {
        let world = World::new(scenario)?;
        let links = Links::new(world.hosts.len());
        Ok(Self { world, links, proxies: Proxies::default(), shell: Shell::default() })
    }

    fn play_until(&mut self, until_us: u64) {
        while let Some((at_us, event)) = self.world.queue.pop(until_us) {
            self.world.now_us = at_us;
            self.happen(event);
            // What it was told may give a daemon something to do, and what that does another one.
            while let Some(host) = self.world.next_wake() {
                self.shell.pump(&mut self.world, &mut self.links, &mut self.proxies, host);
            }
        }
        self.world.now_us = until_us;
    }

    fn happen(&mut self, event: Event) {
        let Self { world, links, proxies, .. } = self;
        match event {
            Event::Timer { host, incarnation } => {
                if world.hosts[host].incarnation == incarnation {
                    world.wake(host);
                }
            }
            Event::GoOn { host, incarnation } => self.go_on(host, incarnation),
            Event::Look { host, incarnation } => proxy::look(world, host, incarnation),
            Event::Probe { host, incarnation } => proxy::probe(world, host, incarnation),
            Event::Call(call) => links.call(world, call),
            Event::Handshake(call) => links.handshake(world, call),
            Event::Arrival(flight) => links.arrival(world, flight),
            Event::Ending(ending) => links.ending(world, ending),
            Event::Fault(fault) => self.fault(fault),
            Event::Malice { host } => shell::malice(world, links, host),
            Event::Begin => proxies.begin(world),
            Event::Packet { transaction, step, tries } => proxies.packet(world, links, transaction, step, tries),
            Event::Question { from, to, question } => shell::question(world, from, to, question),
            Event::Answer { host, incarnation, answer } => shell::kernel_answer(world, host, incarnation, answer),
            Event::Delivery { host, message, way } => proxies.delivery(world, links, host, message, way),
        }
    }

    fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::CutRegion(region) => {
                self.world.network.cut_region(region, Some(self.world.now_us));
                self.links.review_all(&mut self.world);
            }
            Fault::HealRegion(region) => {
                self.world.network.cut_region(region, None);
                self.links.review_all(&mut self.world);
            }
            Fault::CutHost(host) => {
                self.world.network.cut_host(host, Some(self.world.now_us));
                self.links.review_all(&mut self.world);
            }
            Fault::HealHost(host) => {
                self.world.network.cut_host(host, None);
                self.links.review_all(&mut self.world);
            }
            Fault::Crash(host) => {
                self.world.hosts[host].wants_daemon = false;
                shell::end_daemon(&mut self.world, &mut self.links, host, false);
                self.world.hosts[host].crash();
            }
            Fault::Boot(host) => {
                if !self.world.hosts[host].is_powered {
                    let limits = self.world.limits;
                    self.world.hosts[host].boot(limits);
                    shell::start_daemon(&mut self.world, &mut self.links, host);
                }
            }
            Fault::KillDaemon(host) => {
                self.world.hosts[host].wants_daemon = false;
                shell::end_daemon(&mut self.world, &mut self.links, host, false);
            }
            Fault::StopDaemon(host) => {
                self.world.hosts[host].wants_daemon = false;
                self.order(host, Order::Stop);
            }
            Fault::StartDaemon(host) => shell::start_daemon(&mut self.world, &mut self.links, host),
            Fault::Stall(host, ms) => self.stall(host, ms),
            Fault::StopProxy(host) => self.stop_proxy(host),
            Fault::StartProxy(host) => self.start_proxy(host),
            Fault::RestartProxy(host) => {
                self.stop_proxy(host);
                self.start_proxy(host);
            }
            Fault::SilenceProxy(host) => proxy::silence(&mut self.world, host, true),
            Fault::WakeProxy(host) => proxy::silence(&mut self.world, host, false),
            Fault::Drain(host) => self.order(host, Order::Drain(true)),
            Fault::Undrain(host) => self.order(host, Order::Drain(false)),
            Fault::TurnHostile(host) => {
                let seed = self.world.rng.u64(..);
                self.world.hosts[host].turn_hostile(seed);
                self.stop_proxy(host);
                self.world.queue.push(self.world.now_us, Event::Malice { host });
            }
            Fault::EndHostile(host) => {
                self.world.hosts[host].wants_daemon = false;
                shell::end_daemon(&mut self.world, &mut self.links, host, false);
            }
            Fault::Phase(name) => self.world.counts.phase(name),
        }
        // A crash takes a host's route with it, and a phase begins with the routes that there are.
        self.world.count_routes();
    }

    /// The operator tells the daemon something, if there is one. A stopped one hears of it when it goes on.
    fn order(&mut self, host: usize, order: Order) {
        if let Some(daemon) = &mut self.world.hosts[host].daemon {
            daemon.orders.push_back(order);
            self.world.wake(host);
        }
    }

    /// The daemon's process is stopped, until it goes on so much later.
    fn stall(&mut self, host: usize, ms: u64) {
        let owner = &mut self.world.hosts[host];
        if !owner.is_awake() {
            return;
        }
        owner.stalled_us = Some(self.world.now_us);
        let incarnation = owner.incarnation;
        self.world.queue.push(self.world.now_us + ms * 1000, Event::GoOn { host, incarnation });
        self.links.review_all(&mut self.world);
    }

    /// The daemon's process goes on: its loop at once, or only when its links have.
    fn go_on(&mut self, host: usize, incarnation: u32) {
        let owner = &mut self.world.hosts[host];
        let Some(since_us) = owner.stalled_us.filter(|_| owner.incarnation == incarnation) else { return };
        (owner.stalled_us, owner.went_on_us) = (None, self.world.now_us);
        let stalled_us = self.world.now_us - since_us;
        owner.longest_stall_us = owner.longest_stall_us.max(stalled_us);
        self.links.wake_links(&mut self.world, host, stalled_us);
        self.links.review_all(&mut self.world);
        self.world.look_soon(host);
        let at_us = self.world.now_us + self.world.rng.u64(0..WAKE_UP_US);
        self.world.queue.push(at_us, Event::Timer { host, incarnation });
    }

    fn stop_proxy(&mut self, host: usize) {
        let owner = &mut self.world.hosts[host];
        if owner.has_proxy {
            owner.has_proxy = false;
            owner.proxy_incarnation += 1;
            proxy::changed(&mut self.world, host);
        }
    }

    fn start_proxy(&mut self, host: usize) {
        let owner = &mut self.world.hosts[host];
        if owner.is_powered && !owner.has_proxy {
            owner.has_proxy = true;
            proxy::changed(&mut self.world, host);
        }
    }
}
