//! What this node is to its peers: joining, up, draining or proxy-down. Sans-IO: times are arguments, effects are outputs.
//!
//! The operator's word comes first (draining), then what is not known yet (joining), then the proxies: the node is up only
//! while the proxy of every probed service answers. A peer that has no link to this node shows it as down.

mod proxy;

use std::collections::VecDeque;

use self::proxy::Health;
pub(super) use self::proxy::{Evidence, Proxy};
use forwarder_core::node::State;

/// How long a node waits at its start for what its peers know, in microseconds: then it is alone, or they are too slow.
pub(super) const JOIN_US: u64 = 5_000_000;

/// Something that has come of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// The node is in another state.
    Changed { old: State, new: State },
    /// A proxy's life has ended: what the node has claimed so far is void.
    NewEpoch,
}

/// The state with all that it follows from.
#[derive(Debug)]
pub(super) struct States {
    state: State,
    since_us: u64,
    proxies: Vec<Proxy>,
    joined: bool,
    join_by_us: u64,
    draining_since_us: Option<u64>,
    outputs: VecDeque<Output>,
}

impl States {
    /// A node that starts at `now_us` with these proxies, one a service; `drains` if it did before this start.
    pub(super) fn new(proxies: Vec<Proxy>, drains: bool, now_us: u64) -> Self {
        let mut states = Self {
            state: State::Joining,
            since_us: now_us,
            proxies,
            joined: false,
            join_by_us: now_us.saturating_add(JOIN_US),
            draining_since_us: drains.then_some(now_us),
            outputs: VecDeque::new(),
        };
        states.settle(now_us);
        states
    }

    /// Claims and states of all peers that there are have arrived.
    pub(super) fn handle_synchronised(&mut self, now_us: u64) {
        self.joined = true;
        self.settle(now_us);
    }

    /// Something is known of the proxy of a service, by the service's place in the configuration.
    pub(super) fn handle_evidence(&mut self, service: usize, evidence: &Evidence, now_us: u64) {
        let Some(proxy) = self.proxies.get_mut(service) else { return };
        if proxy.handle(evidence, now_us) {
            self.outputs.push_back(Output::NewEpoch);
        }
        self.settle(now_us);
    }

    /// The operator takes the node out of service, or back; whether that is a change.
    pub(super) fn handle_drain(&mut self, drains: bool, now_us: u64) -> bool {
        if drains == self.drains() {
            return false;
        }
        self.draining_since_us = drains.then_some(now_us);
        self.settle(now_us);
        true
    }

    /// Does what is due at `now_us`; harmless when nothing is.
    pub(super) fn handle_timeout(&mut self, now_us: u64) {
        if now_us >= self.join_by_us {
            self.joined = true;
        }
        self.settle(now_us);
    }

    /// When [`Self::handle_timeout`] is due, in microseconds of the monotonic clock.
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        (!self.joined).then_some(self.join_by_us)
    }

    /// What has come of the inputs, in their order.
    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The state now.
    pub(super) const fn state(&self) -> State {
        self.state
    }

    /// Since when, in microseconds of the monotonic clock.
    pub(super) const fn since_us(&self) -> u64 {
        self.since_us
    }

    /// Whether the operator takes the node out of service.
    pub(super) const fn drains(&self) -> bool {
        self.draining_since_us.is_some()
    }

    /// Since when, in microseconds of the monotonic clock.
    pub(super) const fn draining_since_us(&self) -> Option<u64> {
        self.draining_since_us
    }

    /// Whether new transactions are better off at a healthy peer. Joining alone is no reason: a proxy that answers can serve.
    pub(super) fn diverts(&self) -> bool {
        self.drains() || !self.proxies.iter().all(Proxy::is_alive)
    }

    /// The proxies, in the order of the services.
    pub(super) fn proxies(&self) -> &[Proxy] {
        &self.proxies
    }

    /// Whether the node knows of its peers what it can.
    pub(super) const fn is_joined(&self) -> bool {
        self.joined
    }

    fn settle(&mut self, now_us: u64) {
        let any = |health: fn(&Health) -> bool| self.proxies.iter().any(|proxy| health(proxy.health()));
        let new = if self.drains() {
            State::Draining
        } else if !self.joined || any(|health| matches!(health, Health::Unknown)) {
            State::Joining
        } else if any(|health| matches!(health, Health::Down(_))) {
            State::ProxyDown
        } else {
            State::Up
        };
        if new != self.state {
            self.outputs.push_back(Output::Changed { old: self.state, new });
            (self.state, self.since_us) = (new, now_us);
        }
    }
}

#[cfg(test)]
mod tests;
