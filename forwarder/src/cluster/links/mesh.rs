//! Looks after all links: calls seeds and members, answers calls, keeps one connection a peer, keeps out who does not
//! belong.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use forwarder_common::ids::NodeId;
use log::{debug, error};
use quinn::{Endpoint, VarInt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::backoff::jittered;
use super::calls::{Callee, Calls};
use super::counts::{Shared, Traffic, count};
use super::end::{End, Ended, Stop};
use super::event::Event;
use super::handshake::{Close, Verified};
use super::handshakes::{Answer, Handshakes, Outcome};
use super::link::{self, Setup};
use super::penalties::Penalties;
use super::queue;
use super::refusals::Refusals;
use super::table::{Choice, Link, Table};
use super::trust::Trust;
use crate::identity;
use forwarder_core::{
    failover::timers::LINK_PARKED_US,
    node::{Command, DATAGRAM_BYTES, Kind},
};

/// How long a caller waits for this node's own call to it, which is to be the link: a round trip, unless a packet is
/// lost.
const PARKED: Duration = Duration::from_micros(LINK_PARKED_US);
/// Pause before a peer that speaks another version of the protocol is called again. It is not kept out: one that is
/// upgraded calls by itself.
const OTHER_VERSION: Duration = Duration::from_secs(15);
/// A link that lasted this long clears its peer's record.
const FORGIVEN: Duration = Duration::from_secs(60);
/// How often certificates are compared with the clock.
const EXPIRY_CHECK: Duration = Duration::from_secs(1);
/// Commands taken in one turn: incoming calls must not wait for a flood of claims to end.
const COMMANDS_A_TURN: usize = 256;

pub(super) struct Mesh {
    node: NodeId,
    endpoint: Endpoint,
    trust: Trust,
    new_trust: mpsc::UnboundedReceiver<Trust>,
    shared: Arc<Shared>,
    events: mpsc::Sender<Event>,
    calls: Calls,
    handshakes: Handshakes,
    links: Table,
    /// Callers that wait for this node's own call to them, until when.
    parked: BTreeMap<NodeId, (Verified, Instant)>,
    /// At most one for each node id that there can be.
    traffic: BTreeMap<NodeId, Arc<Traffic>>,
    next_id: u64,
    penalties: Penalties,
    /// One report a link, at its end, so no more wait than there are links.
    ended: (mpsc::UnboundedSender<Ended>, mpsc::UnboundedReceiver<Ended>),
    refusals: Refusals,
}

impl Mesh {
    pub(super) fn new(
        endpoint: Endpoint,
        seeds: impl Iterator<Item = SocketAddr>,
        trust: Trust,
        new_trust: mpsc::UnboundedReceiver<Trust>,
        shared: Arc<Shared>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let node = trust.identity.node;
        Self {
            node,
            endpoint,
            trust,
            new_trust,
            shared: Arc::clone(&shared),
            events: events.clone(),
            calls: Calls::new(node, seeds, Instant::now()),
            handshakes: Handshakes::new(Instant::now()),
            links: Table::default(),
            parked: BTreeMap::new(),
            traffic: BTreeMap::new(),
            next_id: 0,
            penalties: Penalties::default(),
            ended: mpsc::unbounded_channel(),
            refusals: Refusals::new(shared, events),
        }
    }

    /// Runs until told to stop or until the daemon is gone.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>, mut stopped: oneshot::Receiver<()>) {
        let endpoint = self.endpoint.clone();
        let mut checks = interval(EXPIRY_CHECK);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.call_due();
            let wake = self.calls.next().into_iter().chain(self.parked.values().map(|(_, until)| *until)).min();
            tokio::select! {
                _ = &mut stopped => break,
                command = commands.recv() => {
                    let Some(command) = command else { break };
                    self.command(command);
                    for _ in 1..COMMANDS_A_TURN {
                        let Ok(command) = commands.try_recv() else { break };
                        self.command(command);
                    }
                }
                incoming = endpoint.accept() => match incoming {
                    Some(incoming) => {
                        let is_stranger = !self.calls.knows(incoming.remote_address());
                        if self.handshakes.answer(incoming, is_stranger, &self.trust.identity) == Answer::Refused {
                            count(&self.shared.counters.refused_handshakes);
                        }
                    }
                    None => {
                        error!("cluster: the socket is lost; this node is cut off from its peers until it is \
                             restarted");
                        break;
                    }
                },
                Some(outcome) = self.handshakes.next() => {
                    outcome.into_iter().for_each(|outcome| self.finished(outcome));
                }
                Some(ended) = self.ended.1.recv() => self.ended(ended),
                Some(trust) = self.new_trust.recv() => self.set_trust(trust),
                _ = checks.tick() => self.end_expired(),
                () = async { sleep_until(wake.unwrap_or_else(Instant::now)).await }, if wake.is_some() => {}
            }
        }
        endpoint.close(VarInt::from_u32(Close::Ended as u32), b"shutting down");
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Send { to, message, kind } => self.send(to, message, kind),
            Command::Datagram { to, bytes } => self.send_datagram(to, bytes),
            Command::Call { peer, address } => {
                if self.calls.add(peer, address, Instant::now()) {
                    self.handshakes.abort(Callee::Member(peer));
                }
            }
            Command::Forget { peer } => {
                if self.calls.remove(peer) {
                    self.handshakes.abort(Callee::Member(peer));
                }
            }
            Command::Drop { peer, reason } => self.links.stop(peer, Stop::Dropped(reason)),
        }
    }

    fn send(&mut self, to: NodeId, message: Vec<u8>, kind: Kind) {
        let Some(link) = self.links.get_mut(to) else { return count(&self.shared.counters.dropped_messages) };
        link.introduced |= kind == Kind::Hello;
        // Before the hello it was meant for the link before this one; the snapshot that follows the hello has it.
        if link.introduced {
            link.queue.push(message, kind);
        }
    }

    fn send_datagram(&mut self, to: NodeId, bytes: Vec<u8>) {
        let link = self.links.get(to).filter(|link| link.introduced && bytes.len() <= DATAGRAM_BYTES);
        // An error is a path too narrow, or a link that has just ended; the queue of unsent ones is bounded and drops
        // the oldest.
        if link.is_none_or(|link| link.connection.send_datagram(bytes.into()).is_err()) {
            count(&self.shared.counters.dropped_datagrams);
        }
    }

    /// New handshakes go by it; links that stand are kept unless it would not let their peers in. Those that are linked
    /// by this node's old certificate are shown the new one before that ends.
    fn set_trust(&mut self, trust: Trust) {
        let is_renewed = trust.identity.chain != self.trust.identity.chain;
        self.trust = trust;
        self.links.stop_untrusted(&self.trust.identity);
        if is_renewed {
            self.calls.renew_all(self.links.renewable(), Instant::now());
        }
    }

    fn end_expired(&mut self) {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.links.stop_expired(i64::try_from(unix).unwrap_or(i64::MAX));
    }

    /// Calls those whose time has come, and takes the callers for which this node's own call took too long.
    fn call_due(&mut self) {
        let now = Instant::now();
        while let Some((callee, address)) = self.calls.take_due(now) {
            count(&self.shared.counters.calls);
            self.handshakes.call(callee, address, &self.endpoint, &self.trust.client, &self.trust.identity);
        }
        while let Some(peer) = self.parked.iter().find(|(_, (_, until))| *until <= now).map(|(peer, _)| *peer) {
            if let Some((verified, _)) = self.parked.remove(&peer) {
                self.give_up_calls(peer, verified.connection.remote_address());
                self.established(verified, peer);
            }
        }
    }

    fn finished(&mut self, outcome: Outcome) {
        let Outcome { address, callee, result } = outcome;
        let peer = result.as_ref().ok().map(|verified| verified.peer.node);
        match result {
            Ok(verified) => self.connected(verified, callee),
            Err(failure) => self.refusals.handshake(address, callee.is_some(), failure),
        }
        let Some(callee) = callee else { return };
        self.calls.ended(callee, peer, Instant::now());
        let waits = |peer: &NodeId, calls: &Calls, address| calls.under_way(*peer, address).is_empty();
        let over = self
            .parked
            .iter()
            .find(|(peer, (verified, _))| waits(peer, &self.calls, verified.connection.remote_address()));
        // This node's own call has failed, or another node has answered it.
        if let Some(peer) = over.map(|(peer, _)| *peer)
            && let Some((verified, _)) = self.parked.remove(&peer)
        {
            self.established(verified, peer);
        }
    }

    /// A handshake is done: decides whether a call reached whom it was for, and whether a caller is to wait for this
    /// node's own call.
    fn connected(&mut self, verified: Verified, callee: Option<Callee>) {
        let (peer, address) = (verified.peer.node, verified.connection.remote_address());
        match callee {
            Some(Callee::Member(member)) if member != peer => {
                let (found, wanted) = (peer.number(), member.number());
                let reason =
                    format!("refused {address}: node {wanted} was called, and its certificate is of node {found}");
                return self.refusals.impostor(&verified.connection, &reason);
            }
            Some(_) => return self.established(verified, self.node),
            None => {}
        }
        let calls = self.calls.under_way(peer, address);
        let is_young = |since: Instant| since.elapsed() < PARKED;
        if self.node < peer && !self.links.contains(peer) && calls.iter().any(|(_, since)| is_young(*since)) {
            self.parked.insert(peer, (verified, Instant::now() + PARKED));
            return;
        }
        self.give_up_calls(peer, address);
        self.established(verified, peer);
    }

    /// Calls to a peer that is linked by its own are of no use any more.
    fn give_up_calls(&mut self, peer: NodeId, address: SocketAddr) {
        for (callee, _) in self.calls.under_way(peer, address) {
            self.handshakes.abort(callee);
            self.calls.ended(callee, None, Instant::now());
        }
    }

    fn established(&mut self, verified: Verified, caller: NodeId) {
        let (connection, peer) = (&verified.connection, verified.peer.node);
        let (address, id) = (connection.remote_address(), peer.number());
        if peer == self.node {
            let reason = format!(
                "refused {address}: its certificate is of node {id}, as is this host's; \
                 hint: issue each host a certificate of its own, and leave this host out of `seeds`"
            );
            return self.refusals.duplicate(&verified.connection, &reason);
        }
        if self.penalties.is_kept_out(peer, Instant::now()) {
            return Close::Protocol.apply(connection, "broke the protocol a little while ago");
        }
        // What this node has called itself is paced by its own pauses.
        if caller == peer && !self.handshakes.links(peer) {
            count(&self.shared.counters.refused_handshakes);
            return Close::Ended.apply(connection, "too many connections");
        }
        match self.links.choose(peer, caller, address) {
            Choice::New => self.add(verified, caller),
            Choice::Old => Close::Replaced.apply(connection, "there is another connection"),
            Choice::Duplicate(other) => {
                let reason = format!(
                    "refused {address}: its certificate is of node {id}, which is linked from {other}; \
                     hint: issue each host a certificate of its own"
                );
                self.refusals.duplicate(&verified.connection, &reason);
            }
        }
    }

    fn add(&mut self, verified: Verified, caller: NodeId) {
        let Verified { connection, peer, chain } = verified;
        let identity::Peer { node, expires_s, addresses: named } = peer;
        let traffic = Arc::clone(self.traffic.entry(node).or_default());
        let (queue, waiting) = queue::queue(&traffic, &self.shared);
        let (stop, stopped) = oneshot::channel();
        let previous = self.links.replace(node);
        if let Some((parked, _)) = self.parked.remove(&node) {
            Close::Replaced.apply(&parked.connection, "there is another connection");
        }
        self.next_id += 1;
        let (id, address) = (self.next_id, connection.remote_address());
        debug!("cluster: connected to node {} at {address}", node.number());
        let task = tokio::spawn(link::run(Setup {
            peer: node,
            id,
            connection: connection.clone(),
            expires_s,
            named,
            traffic,
            queue: waiting,
            stop: stopped,
            previous,
            events: self.events.clone(),
            shared: Arc::clone(&self.shared),
            ended: self.ended.0.clone(),
        }));
        let (since, stop) = (Instant::now(), Some(stop));
        let link =
            Link { id, address, caller, since, connection, chain, expires_s, queue, introduced: false, stop, task };
        self.links.insert(node, link);
        self.calls.linked(node, address);
    }

    fn ended(&mut self, ended: Ended) {
        let Ended { peer, id, end, announced } = ended;
        let now = Instant::now();
        let Some(link) = self.links.remove(peer, id) else { return };
        let (address, lasted) = (link.address, now.saturating_duration_since(link.since));
        debug!("cluster: lost node {} at {address}: {end}", peer.number());
        if lasted > FORGIVEN {
            self.penalties.forgive(peer);
        }
        let mut not_before = now;
        if end.is_breach() {
            count(&self.shared.counters.links_dropped);
            not_before = self.penalties.add(peer, now);
        }
        if matches!(end, End::Version { .. }) {
            count(&self.shared.counters.refused_versions);
            not_before = now + jittered(OTHER_VERSION);
        }
        if let End::Untrusted(reason) = &end {
            let reason = format!("ended the link to node {} at {address}: {reason}", peer.number());
            self.refusals.untrusted(address, &reason);
        }
        self.calls.lost(peer, announced, not_before);
    }
}
