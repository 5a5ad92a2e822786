//! What the daemon sees of its proxy: the sockets at each look, and the answers to probes.
//!
//! A look that finds what the last one found says nothing, so only those after a change are played. The same holds for
//! probes: a proxy that answered and answers is as it was.

use forwarder_core::failover::Evidence;

use super::{Event, Simulation};

/// How often the sockets are looked at, in microseconds.
const LOOK_US: u64 = 250_000;
/// Pause between two probes in microseconds: the configuration's default.
const PROBE_US: u64 = 1_000_000;
/// What a proxy takes to answer in microseconds.
const ANSWER_US: u64 = 1_000;

impl Simulation {
    /// The proxy of a host has changed: the next look finds it, or the next probe.
    pub(super) fn proxy_changed(&mut self, host: usize) {
        let incarnation = self.hosts[host].incarnation;
        let (look_us, probe_us) = (self.rng.u64(0..LOOK_US), self.rng.u64(0..PROBE_US));
        self.queue.push(self.now_us + look_us, Event::Look { host, incarnation });
        self.queue.push(self.now_us + probe_us, Event::Probe { host, incarnation });
    }

    /// A daemon has started, or goes on: it looks at once.
    pub(super) fn look_soon(&mut self, host: usize) {
        let incarnation = self.hosts[host].incarnation;
        self.queue.push(self.now_us + ANSWER_US, Event::Look { host, incarnation });
    }

    pub(super) fn look(&mut self, host: usize, incarnation: u32) {
        let owner = &mut self.hosts[host];
        if !owner.is_awake() || owner.incarnation != incarnation {
            return;
        }
        let sockets = owner.proxy_sockets();
        let Some(daemon) = &mut owner.daemon else { return };
        if daemon.looked.as_ref() == Some(&sockets) {
            return;
        }
        daemon.looked = Some(sockets.clone());
        daemon.evidence.push_back(Evidence::Sockets(sockets));
        // Other sockets are probed at once.
        self.queue.push(self.now_us + ANSWER_US, Event::Probe { host, incarnation });
        self.pump(host);
    }

    /// The proxy answers a probe, or is silent.
    pub(super) fn probe(&mut self, host: usize, incarnation: u32) {
        let owner = &mut self.hosts[host];
        if !owner.is_awake() || owner.incarnation != incarnation {
            return;
        }
        let (now, has_proxy) = (owner.now(self.now_us), owner.has_proxy);
        let Some(daemon) = &mut owner.daemon else { return };
        let sent_us = now.monotonic_us - ANSWER_US;
        daemon.evidence.push_back(if has_proxy { Evidence::Answered { sent_us } } else { Evidence::Silent });
        self.pump(host);
    }
}
