//! Looks after all links: calls seeds, answers calls, keeps one connection a peer, keeps out who does not belong.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use forwarder_common::ids::NodeId;
use log::{debug, error, warn};
use quinn::{ClientConfig, Connection, Endpoint, Incoming, VarInt};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::backoff::{Backoff, Seed};
use super::complaints::Complaints;
use super::handshake::{self, Close, Failure};
use super::link::{self, End, Ended, QUEUE_MESSAGES, Queued, Setup, Stop};
use super::{Command, DATAGRAM_BYTES, Event, Settings, Shared, count};
use crate::cluster::core::Kind;

/// Handshakes under way at once; more are refused until some end.
const HANDSHAKES: usize = 64;
/// From this many on, a caller must first prove that its address is its own.
const HANDSHAKES_PROVEN: usize = 16;
/// Two connections made within this time are two hosts calling each other at once; a later one is a peer that lost the first.
const SIMULTANEOUS: Duration = Duration::from_secs(2);
/// A link that lasted this long clears its peer's record.
const FORGIVEN: Duration = Duration::from_secs(60);
/// With nothing to call, look again after this.
const IDLE: Duration = Duration::from_secs(3600);
/// The server name in calls; nobody checks it.
const SERVER_NAME: &str = "forwarder";

/// A connection that is in use.
struct Link {
    id: u64,
    address: SocketAddr,
    /// Who called: of two connections made at once, the lower node id's stays.
    caller: NodeId,
    since: Instant,
    connection: Connection,
    queue: mpsc::Sender<Queued>,
    /// Its hello is queued, so other messages may follow.
    introduced: bool,
    stop: Option<oneshot::Sender<Stop>>,
    task: JoinHandle<bool>,
}

struct Penalty {
    until: Instant,
    backoff: Backoff,
}

/// Which of two connections to a peer stays.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    New,
    Old,
    /// The other host is not the one that is linked.
    Duplicate(SocketAddr),
}

type Handshake = (Option<usize>, SocketAddr, Result<(Connection, NodeId), Failure>);

pub(super) struct Mesh {
    node: NodeId,
    cluster: Arc<str>,
    endpoint: Endpoint,
    client: ClientConfig,
    shared: Arc<Shared>,
    events: mpsc::Sender<Event>,
    seeds: Vec<Seed>,
    links: BTreeMap<NodeId, Link>,
    next_id: u64,
    penalties: BTreeMap<NodeId, Penalty>,
    handshakes: JoinSet<Handshake>,
    /// One report a link, at its end, so no more wait than there are links.
    ended: (mpsc::UnboundedSender<Ended>, mpsc::UnboundedReceiver<Ended>),
    refusals: Complaints,
    failures: Complaints,
}

impl Mesh {
    pub(super) fn new(
        settings: Settings,
        endpoint: Endpoint,
        client: ClientConfig,
        shared: Arc<Shared>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let listen = settings.listen;
        Self {
            node: settings.identity.node,
            cluster: settings.identity.cluster.as_str().into(),
            endpoint,
            client,
            shared,
            events,
            seeds: settings.seeds.into_iter().filter(|seed| *seed != listen).map(Seed::new).collect(),
            links: BTreeMap::new(),
            next_id: 0,
            penalties: BTreeMap::new(),
            handshakes: JoinSet::new(),
            ended: mpsc::unbounded_channel(),
            refusals: Complaints::default(),
            failures: Complaints::default(),
        }
    }

    /// Runs until told to stop or until the daemon is gone.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>, mut stopped: oneshot::Receiver<()>) {
        let endpoint = self.endpoint.clone();
        loop {
            let next_call = self.call_due();
            tokio::select! {
                _ = &mut stopped => break,
                command = commands.recv() => match command {
                    Some(Command::Send { to, message, kind }) => self.send(to, message, kind),
                    Some(Command::Datagram { to, bytes }) => self.send_datagram(to, bytes),
                    Some(Command::Call { .. } | Command::Forget { .. }) => {}
                    Some(Command::Drop { peer, reason }) => self.drop_link(peer, reason),
                    None => break,
                },
                incoming = endpoint.accept() => match incoming {
                    Some(incoming) => self.answer(incoming),
                    None => {
                        error!("cluster: the socket is lost; this node is cut off from its peers until it is restarted");
                        break;
                    }
                },
                Some(handshake) = self.handshakes.join_next() => match handshake {
                    Ok((call, address, result)) => self.finished(call, address, result),
                    // Which one failed is not known; to call somebody twice is harmless.
                    Err(_) => self.seeds.iter_mut().for_each(|seed| seed.calling = false),
                },
                Some(ended) = self.ended.1.recv() => self.ended(ended),
                () = sleep_until(next_call) => {}
            }
        }
        endpoint.close(VarInt::from_u32(Close::Ended as u32), b"shutting down");
    }

    fn send(&mut self, to: NodeId, message: Vec<u8>, kind: Kind) {
        let dropped = &self.shared.counters.dropped_messages;
        let Some(link) = self.links.get_mut(&to) else { return count(dropped) };
        link.introduced |= kind == Kind::Hello;
        if !link.introduced {
            // It was meant for the link before this one; nothing is lost, the snapshot that follows the hello has it.
            return;
        }
        self.shared.counters.queued_messages.fetch_add(1, Ordering::Relaxed);
        match link.queue.try_send(Queued { message, kind, at: Instant::now() }) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => {
                self.shared.counters.queued_messages.fetch_sub(1, Ordering::Relaxed);
                count(dropped);
            }
        }
    }

    fn send_datagram(&mut self, to: NodeId, bytes: Vec<u8>) {
        let link = self.links.get(&to).filter(|link| link.introduced && bytes.len() <= DATAGRAM_BYTES);
        // An error is a path too narrow, or a link that has just ended; the queue of unsent ones is bounded and drops the oldest.
        if link.is_none_or(|link| link.connection.send_datagram(bytes.into()).is_err()) {
            count(&self.shared.counters.dropped_datagrams);
        }
    }

    fn drop_link(&mut self, peer: NodeId, reason: String) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        // An error, here and below, is a link that has ended by itself meanwhile.
        if let Some(stop) = link.stop.take() {
            let _ = stop.send(Stop::Dropped(reason));
        }
    }

    /// Calls the seeds whose time has come; when the next one's comes.
    fn call_due(&mut self) -> Instant {
        let now = Instant::now();
        let mut next = now + IDLE;
        for (index, seed) in self.seeds.iter_mut().enumerate() {
            let linked = self.links.iter().any(|(peer, link)| seed.leads_to(*peer, link.address));
            if linked || seed.calling {
                continue;
            }
            if seed.next_call > now {
                next = next.min(seed.next_call);
                continue;
            }
            seed.calling = true;
            let (address, cluster) = (seed.address, Arc::clone(&self.cluster));
            let call = self.endpoint.connect_with(self.client.clone(), address, SERVER_NAME);
            self.handshakes.spawn(async move {
                let result = match call {
                    Ok(connecting) => handshake::finish(connecting, &cluster).await,
                    Err(error) => Err(Failure::Unreachable(error.to_string())),
                };
                (Some(index), address, result)
            });
        }
        next
    }

    fn answer(&mut self, incoming: Incoming) {
        let under_way = self.handshakes.len();
        if under_way >= HANDSHAKES {
            return incoming.refuse();
        }
        if under_way >= HANDSHAKES_PROVEN && incoming.may_retry() {
            // An error is a caller that cannot be asked to prove its address, which `may_retry` has ruled out.
            let _ = incoming.retry();
            return;
        }
        let (address, cluster) = (incoming.remote_address(), Arc::clone(&self.cluster));
        self.handshakes.spawn(async move {
            let result = match incoming.accept() {
                Ok(connecting) => handshake::finish(connecting, &cluster).await,
                Err(error) => Err(Failure::of(&error)),
            };
            (None, address, result)
        });
    }

    fn finished(&mut self, call: Option<usize>, address: SocketAddr, result: Result<(Connection, NodeId), Failure>) {
        let now = Instant::now();
        if let Some(seed) = call.and_then(|index| self.seeds.get_mut(index)) {
            seed.calling = false;
            // Only a link that carried something ends the series of pauses: see `ended`.
            seed.next_call = now + seed.backoff.fail();
            seed.peer = result.as_ref().ok().map(|(_, peer)| *peer).or(seed.peer);
        }
        match result {
            Ok((connection, peer)) => self.established(connection, peer, call.is_some()),
            Err(Failure::Refused(reason)) => {
                count(&self.shared.counters.refused_certificates);
                self.refuse(address, &format!("refused {address}: its certificate is not of this cluster ({reason})"));
            }
            Err(Failure::Unwelcome(reason)) => {
                if self.failures.may(address.ip(), now) {
                    warn!("cluster: {address} refuses this node: {reason}; trying on");
                }
            }
            Err(Failure::Unreachable(reason)) => {
                debug!("cluster: no handshake with {address}: {reason}");
                if call.is_some() && self.failures.may(address.ip(), now) {
                    warn!("cluster: seed {address} does not answer ({reason}); trying on");
                }
            }
        }
    }

    fn established(&mut self, connection: Connection, peer: NodeId, called: bool) {
        let (address, id) = (connection.remote_address(), peer.number());
        if peer == self.node {
            return self.refuse_duplicate(
                &connection,
                &format!(
                    "refused {address}: its certificate is of node {id}, as is this host's; \
                     hint: issue each host a certificate of its own, and leave this host out of `seeds`"
                ),
            );
        }
        if self.penalties.get(&peer).is_some_and(|penalty| penalty.until > Instant::now()) {
            return Close::Protocol.apply(&connection, "broke the protocol a little while ago");
        }
        let caller = if called { self.node } else { peer };
        match self.links.get(&peer).map_or(Choice::New, |old| choose(old, caller, address)) {
            Choice::New => self.add(connection, peer, caller),
            Choice::Old => Close::Replaced.apply(&connection, "there is another connection"),
            Choice::Duplicate(other) => self.refuse_duplicate(
                &connection,
                &format!(
                    "refused {address}: its certificate is of node {id}, which is linked from {other}; \
                     hint: issue each host a certificate of its own"
                ),
            ),
        }
    }

    fn add(&mut self, connection: Connection, peer: NodeId, caller: NodeId) {
        let (queue, waiting) = mpsc::channel(QUEUE_MESSAGES);
        let (stop, stopped) = oneshot::channel();
        let previous = self.links.remove(&peer).map(|mut old| {
            if let Some(stop) = old.stop.take() {
                let _ = stop.send(Stop::Replaced);
            }
            old.task
        });
        self.next_id += 1;
        let (id, address) = (self.next_id, connection.remote_address());
        debug!("cluster: connected to node {} at {address}", peer.number());
        let task = tokio::spawn(link::run(Setup {
            peer,
            id,
            connection: connection.clone(),
            called: caller == self.node,
            queue: waiting,
            stop: stopped,
            previous,
            events: self.events.clone(),
            shared: Arc::clone(&self.shared),
            ended: self.ended.0.clone(),
        }));
        let since = Instant::now();
        let stop = Some(stop);
        let link = Link { id, address, caller, since, connection, queue, introduced: false, stop, task };
        self.links.insert(peer, link);
    }

    fn ended(&mut self, ended: Ended) {
        let Ended { peer, id, end, announced } = ended;
        let now = Instant::now();
        let Some(link) = self.links.get(&peer).filter(|link| link.id == id) else { return };
        let (address, lasted) = (link.address, now.saturating_duration_since(link.since));
        self.links.remove(&peer);
        debug!("cluster: lost node {} at {address}: {end}", peer.number());
        if lasted > FORGIVEN {
            self.penalties.remove(&peer);
        }
        let mut not_before = now;
        if matches!(end, End::Dropped(_) | End::Oversized) {
            count(&self.shared.counters.links_dropped);
            let fresh = || Penalty { until: now, backoff: Backoff::of_penalties() };
            let penalty = self.penalties.entry(peer).or_insert_with(fresh);
            penalty.until = now + penalty.backoff.fail();
            not_before = penalty.until;
        }
        for seed in self.seeds.iter_mut().filter(|seed| seed.leads_to(peer, address)) {
            if announced {
                seed.backoff.succeed();
            }
            seed.next_call = not_before + seed.backoff.fail();
        }
    }

    fn refuse_duplicate(&mut self, connection: &Connection, reason: &str) {
        count(&self.shared.counters.duplicate_nodes);
        Close::DuplicateNode.apply(connection, "another host has this node id");
        self.refuse(connection.remote_address(), reason);
    }

    fn refuse(&mut self, address: SocketAddr, reason: &str) {
        if self.refusals.may(address.ip(), Instant::now()) {
            warn!("cluster: {reason}");
            // A daemon too busy to hear of it reads it in the log and the counters.
            let _ = self.events.try_send(Event::Refused { address, reason: reason.to_owned() });
        }
    }
}

/// Both sides decide alike: of two connections made at once the lower node id's stays, later on the newer one.
fn choose(old: &Link, caller: NodeId, address: SocketAddr) -> Choice {
    if old.connection.close_reason().is_some() {
        return Choice::New;
    }
    if old.address != address {
        return Choice::Duplicate(old.address);
    }
    if caller > old.caller && old.since.elapsed() < SIMULTANEOUS { Choice::Old } else { Choice::New }
}
