//! What a scenario does to hosts and network.

use forwarder_common::ids::Epoch;
use forwarder_core::node::{LocalClaim, State};

use super::host::Host;
use super::{ALONE_US, Event, Fault, Simulation};

impl Simulation {
    pub(super) fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::CutRegion(region) => {
                self.network.cut_region(region, Some(self.now_us));
                self.fall_silent(|this, a, b| !this.network.is_open(a, b));
            }
            Fault::HealRegion(region) => self.network.cut_region(region, None),
            Fault::CutHost(host) => {
                self.network.cut_host(host, Some(self.now_us));
                self.fall_silent(|this, a, b| !this.network.is_open(a, b));
            }
            Fault::HealHost(host) => self.network.cut_host(host, None),
            Fault::Crash(host) => {
                self.end_daemon(host, false);
                let owner = &mut self.hosts[host];
                (owner.is_powered, owner.is_routed) = (false, false);
                owner.proxy_life += 1;
                owner.ring.clear();
            }
            Fault::Boot(host) => self.boot(host),
            Fault::KillDaemon(host) => self.end_daemon(host, false),
            Fault::StopDaemon(host) => self.end_daemon(host, true),
            Fault::StartDaemon(host) => self.start_daemon(host),
            Fault::RestartProxy(host) => self.restart_proxy(host),
            Fault::Drain(host) => {
                self.hosts[host].is_routed = false;
                self.set_state(host, State::Draining);
                self.pump(host);
            }
            Fault::Undrain(host) => {
                self.hosts[host].is_routed = true;
                self.set_state(host, State::Up);
                self.pump(host);
            }
            Fault::Phase(name) => self.counts.phase(name),
        }
    }

    fn boot(&mut self, host: usize) {
        if self.hosts[host].is_powered {
            return;
        }
        let (limits, lives) = (self.limits, u64::from(self.hosts[host].daemon_life));
        let owner = &mut self.hosts[host];
        // Another epoch at each boot; the first of all is 0.
        let epoch = Epoch::new(u64::from(owner.kernel.epoch.number()) + u64::from(lives > 0));
        owner.kernel = super::kernel::Kernel::new(owner.node, epoch, limits.claims, limits.hosts);
        owner.is_powered = true;
        self.start_daemon(host);
    }

    fn start_daemon(&mut self, host: usize) {
        if self.hosts[host].daemon.is_some() || !self.hosts[host].is_powered {
            return;
        }
        let seed = self.rng.u64(..);
        self.hosts[host].start_daemon(&self.seeds, seed, self.limits);
        let life = self.hosts[host].daemon_life;
        let now = self.hosts[host].now(self.now_us);
        self.queue.push(self.now_us + ALONE_US, Event::Joined { host, life });
        let restored = self.hosts[host].kernel.own_claims(now);
        self.reference.restore(&self.hosts[host], &restored, self.now_us);
        let Host { ring, daemon: Some(daemon), .. } = &mut self.hosts[host] else { return };
        restored.into_iter().for_each(|claim| daemon.node.handle_restored(claim, now));
        // The ring buffer is pinned: the next daemon reads what nobody read.
        for (at_us, claim) in ring.drain(..) {
            let remaining_ms = claim.remaining_ms.saturating_sub((self.now_us - at_us) / 1000);
            daemon.node.handle_local(LocalClaim { remaining_ms, ..claim }, now);
        }
        for seed in self.seeds.clone() {
            self.want(host, seed);
        }
        self.pump(host);
    }

    /// The proxy begins another life: nobody knows its transactions any more.
    fn restart_proxy(&mut self, host: usize) {
        let owner = &mut self.hosts[host];
        if !owner.is_powered {
            return;
        }
        let now = owner.now(self.now_us);
        let epoch = Epoch::new(u64::from(owner.kernel.epoch.number()) + 1);
        owner.proxy_life += 1;
        owner.kernel.epoch = epoch;
        owner.ring.clear();
        if let Some(daemon) = &mut owner.daemon {
            daemon.node.set_epoch(epoch, now);
        }
        self.pump(host);
    }
}
