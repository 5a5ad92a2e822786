//! What a scenario does to hosts and network.

use super::{Event, Fault, Simulation, host::Order, links::WAKE_UP_US};

impl Simulation {
    pub(super) fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::CutRegion(region) => {
                self.network.cut_region(region, Some(self.now_us));
                self.review_all();
            }
            Fault::HealRegion(region) => {
                self.network.cut_region(region, None);
                self.review_all();
            }
            Fault::CutHost(host) => {
                self.network.cut_host(host, Some(self.now_us));
                self.review_all();
            }
            Fault::HealHost(host) => {
                self.network.cut_host(host, None);
                self.review_all();
            }
            Fault::Crash(host) => {
                self.hosts[host].wants_daemon = false;
                self.end_daemon(host, false);
                self.hosts[host].crash();
            }
            Fault::Boot(host) => {
                if !self.hosts[host].is_powered {
                    self.hosts[host].boot(self.limits);
                    self.start_daemon(host);
                }
            }
            Fault::KillDaemon(host) => {
                self.hosts[host].wants_daemon = false;
                self.end_daemon(host, false);
            }
            Fault::StopDaemon(host) => {
                self.hosts[host].wants_daemon = false;
                self.order(host, Order::Stop);
            }
            Fault::StartDaemon(host) => self.start_daemon(host),
            Fault::Stall(host, ms) => self.stall(host, ms),
            Fault::StopProxy(host) => self.stop_proxy(host),
            Fault::StartProxy(host) => self.start_proxy(host),
            Fault::RestartProxy(host) => {
                self.stop_proxy(host);
                self.start_proxy(host);
            }
            Fault::Drain(host) => self.order(host, Order::Drain(true)),
            Fault::Undrain(host) => self.order(host, Order::Drain(false)),
            Fault::Phase(name) => self.counts.phase(name),
        }
    }

    /// The operator tells the daemon something, if there is one. A stopped one hears of it when it goes on.
    fn order(&mut self, host: usize, order: Order) {
        if let Some(daemon) = &mut self.hosts[host].daemon {
            daemon.orders.push_back(order);
            self.pump(host);
        }
    }

    /// Starts the daemon; where one runs that is told to end, as soon as it has.
    pub(super) fn start_daemon(&mut self, host: usize) {
        let owner = &mut self.hosts[host];
        owner.wants_daemon = owner.is_powered;
        if owner.daemon.is_some() || !owner.is_powered {
            return;
        }
        let seed = self.rng.u64(..);
        let restored = self.hosts[host].start_daemon(&self.seeds, seed, self.limits, self.now_us);
        self.reference.restore(&self.hosts[host], &restored, self.now_us);
        for seed in self.seeds.clone() {
            self.want(host, seed);
        }
        self.look_soon(host);
        self.pump(host);
    }

    /// The daemon's process is stopped, until it goes on so much later.
    fn stall(&mut self, host: usize, ms: u64) {
        let owner = &mut self.hosts[host];
        if !owner.is_awake() {
            return;
        }
        owner.stalled_us = Some(self.now_us);
        let incarnation = owner.incarnation;
        self.queue.push(self.now_us + ms * 1000, Event::GoOn { host, incarnation });
        self.review_all();
    }

    /// The daemon's process goes on: its loop at once, or only when its links have.
    pub(super) fn go_on(&mut self, host: usize, incarnation: u32) {
        let owner = &mut self.hosts[host];
        let Some(since_us) = owner.stalled_us.filter(|_| owner.incarnation == incarnation) else { return };
        (owner.stalled_us, owner.went_on_us) = (None, self.now_us);
        let stalled_us = self.now_us - since_us;
        owner.longest_stall_us = owner.longest_stall_us.max(stalled_us);
        self.wake_links(host, stalled_us);
        self.review_all();
        self.look_soon(host);
        let at_us = self.now_us + self.rng.u64(0..WAKE_UP_US);
        self.queue.push(at_us, Event::Timer { host, incarnation });
    }

    fn stop_proxy(&mut self, host: usize) {
        let owner = &mut self.hosts[host];
        if owner.has_proxy {
            owner.has_proxy = false;
            owner.proxy_incarnation += 1;
            self.proxy_changed(host);
        }
    }

    fn start_proxy(&mut self, host: usize) {
        let owner = &mut self.hosts[host];
        if owner.is_powered && !owner.has_proxy {
            owner.has_proxy = true;
            self.proxy_changed(host);
        }
    }
}
