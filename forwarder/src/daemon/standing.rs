//! The node's state with what it is learned from (probes, sockets, the operator) and who is told of it: the peers by the
//! core, the programs, the operator's hook.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use forwarder_common::ids::Epoch;
use tokio::sync::mpsc;

use super::{
    hooks::{self, Hooks, Run},
    lives::Lives,
    probe::{self, Seen},
    state::{Evidence, Output, Proxy, States},
};
use crate::{config::Config, dataplane::Dataplane};
use forwarder_core::node::{Node, Now, State};

/// What is seen of proxies and waits for the loop.
const SEEN: usize = 256;

/// State, sources and listeners.
pub(super) struct Standing {
    states: States,
    seen: mpsc::Receiver<Seen>,
    hooks: Option<Hooks>,
    lives: Lives,
    services: Vec<SocketAddr>,
    /// The daemon is about to end.
    stops: bool,
    /// The daemon stood still and does not know its peers again yet.
    rejoins: bool,
}

impl Standing {
    /// Begins to look after the proxies. Call within a tokio runtime.
    ///
    /// # Errors
    /// The kernel gives no randomness or no thread.
    pub(super) fn start(config: &Config, drains: bool, now: Now) -> Result<Self> {
        let (sender, seen) = mpsc::channel(SEEN);
        probe::spawn(&config.services, &sender)?;
        let services: Vec<_> =
            config.services.iter().map(|service| SocketAddr::new(service.vip, service.port)).collect();
        let lives = Lives::open(&config.control);
        let proxies = config.services.iter().zip(&services).map(|(service, address)| {
            let failures = service.probe.as_ref().map(|probe| probe.failures);
            Proxy::new(failures, lives.inodes(*address))
        });
        let mut states = States::new(proxies.collect(), drains, now.monotonic_us);
        if config.cluster.seeds.is_empty() {
            // There is nobody to wait for.
            states.handle_synchronised(now.monotonic_us);
        }
        let hooks = config.hooks.on_state.clone().map(|path| {
            let (node, cluster) = (config.node, config.cluster.name.clone());
            Hooks::new(hooks::Settings { path, limit: Duration::from_secs(config.hooks.timeout_s), node, cluster })
        });
        Ok(Self { states, seen, hooks, lives, services, stops: false, rejoins: false })
    }

    /// Waits until something is seen of a proxy.
    pub(super) async fn seen(&mut self) -> Option<Seen> {
        self.seen.recv().await
    }

    /// Takes what was seen.
    pub(super) fn take(&mut self, (service, evidence): &Seen, now: Now) {
        let reason = |states: &States| states.proxies().get(*service).and_then(Proxy::reason).cloned();
        let before = reason(&self.states);
        self.states.handle_evidence(*service, evidence, now.monotonic_us);
        let after = reason(&self.states);
        let Some(address) = self.services.get(*service) else { return };
        match (&before, &after) {
            (None, Some(reason)) => log::warn!("the proxy at {address} is down: {reason}"),
            (Some(_), None) => log::info!("the proxy at {address} answers again"),
            _ => {}
        }
        if let Evidence::Sockets(inodes) = evidence
            && !inodes.is_empty()
        {
            self.lives.set(*address, inodes);
        }
    }

    /// The operator takes the node out of service, or back; whether that is a change.
    pub(super) fn drain(&mut self, drains: bool, now: Now) -> bool {
        self.states.handle_drain(drains, now.monotonic_us)
    }

    /// The daemon is about to end: from the next [`Self::carry_out`] on, new transactions are left to the peers.
    pub(super) const fn stop(&mut self) {
        self.stops = true;
    }

    /// Whether the daemon is about to end.
    pub(super) const fn stops(&self) -> bool {
        self.stops
    }

    /// Whether the daemon looks for its peers again: until then, new transactions are left to them.
    pub(super) const fn set_rejoins(&mut self, rejoins: bool) {
        self.rejoins = rejoins;
    }

    /// Whether the node knows of its peers what it can.
    pub(super) const fn is_joined(&self) -> bool {
        self.states.is_joined()
    }

    /// When [`Self::carry_out`] is due, in microseconds of the monotonic clock.
    pub(super) fn due_us(&self) -> Option<u64> {
        self.states.poll_timeout()
    }

    /// Tells everybody what has become of the node.
    ///
    /// # Errors
    /// The kernel refuses a write.
    pub(super) fn carry_out(
        &mut self,
        is_synchronised: bool,
        node: &mut Node,
        dataplane: &mut Dataplane,
        now: Now,
    ) -> Result<()> {
        if dataplane.is_fresh() && node.earlier_epochs().any(|epoch| epoch == dataplane.epoch()) {
            log::warn!("peers know claims of an earlier life of this host under epoch {}", dataplane.epoch().number());
            set_epoch(node, dataplane, now)?;
        }
        if is_synchronised && !self.states.is_joined() {
            self.states.handle_synchronised(now.monotonic_us);
        }
        self.states.handle_timeout(now.monotonic_us);
        // The programs first: a peer that hears of a drain may look at once whether it is one.
        // Without a daemon, or while it does not know its peers again, nobody would hear of a claim that is made here.
        let is_cut_off = self.stops || self.rejoins || (dataplane.resumes() && !self.states.is_joined());
        let diverts = self.states.diverts() || is_cut_off;
        if diverts != dataplane.diverts() {
            dataplane.set_divert(diverts)?;
        }
        if self.states.drains() != dataplane.drains() {
            dataplane.set_draining(self.states.drains())?;
        }
        while let Some(output) = self.states.poll_output() {
            match output {
                Output::Changed { old, new } => {
                    log::info!("this node is {} (was {})", new.name(), old.name());
                    node.set_state(new, now);
                    if let Some(hooks) = &self.hooks {
                        hooks.tell(new);
                    }
                }
                Output::NewEpoch => {
                    log::warn!("the proxy's life has ended: its claims are void");
                    set_epoch(node, dataplane, now)?;
                }
            }
        }
        Ok(())
    }

    /// Waits for the hook.
    pub(super) async fn finish(self) {
        if let Some(hooks) = self.hooks {
            hooks.finish().await;
        }
    }

    /// The state, and since when in microseconds of the monotonic clock.
    pub(super) const fn state(&self) -> (State, u64) {
        (self.states.state(), self.states.since_us())
    }

    /// Since when the operator takes the node out of service, in microseconds of the monotonic clock.
    pub(super) const fn draining_since_us(&self) -> Option<u64> {
        self.states.draining_since_us()
    }

    /// The proxies, in the order of the services.
    pub(super) fn proxies(&self) -> &[Proxy] {
        self.states.proxies()
    }

    /// The last run of the hook that has ended.
    pub(super) fn last_run(&self) -> Option<Run> {
        self.hooks.as_ref()?.last()
    }
}

/// Begins another epoch.
fn set_epoch(node: &mut Node, dataplane: &mut Dataplane, now: Now) -> Result<()> {
    let earlier: Vec<_> = if dataplane.is_fresh() { node.earlier_epochs().collect() } else { Vec::new() };
    let epoch = next_epoch(dataplane.epoch(), &earlier);
    log::info!("epoch {}", epoch.number());
    dataplane.set_epoch(epoch)?;
    node.set_epoch(epoch, now);
    Ok(())
}

/// The first epoch after `current` under which nobody knows claims of an earlier life.
fn next_epoch(current: Epoch, earlier: &[Epoch]) -> Epoch {
    let after = |step: u64| Epoch::new(u64::from(current.number()) + step);
    (1..16).map(after).find(|epoch| !earlier.contains(epoch)).unwrap_or_else(|| after(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_epoch_is_one_that_no_earlier_life_had() {
        let table: [(u64, &[u64], u64); 5] = [
            (3, &[], 4),
            (15, &[], 0),
            (3, &[4], 5),
            (14, &[15, 0, 2], 1),
            (7, &[0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15], 8),
        ];
        for (current, earlier, expected) in table {
            let earlier: Vec<_> = earlier.iter().copied().map(Epoch::new).collect();
            assert_eq!(next_epoch(Epoch::new(current), &earlier), Epoch::new(expected), "{current} {earlier:?}");
        }
    }
}
