//! What this node takes itself and its peers for, and what follows from it: who is told, what the kernel programs do
//! meanwhile, who takes this node's new transactions and who reassembles fragments.
//!
//! One machine, sans-IO: links that come and go, evidence of the proxies, the operator's word and the passing of time
//! go in by `handle_*`; what is to be done comes out of [`Failover::poll_output`], in order. After each `handle_*` poll
//! until there is none, and call [`Failover::handle_turn`] when [`Failover::poll_timeout`] is due. It knows no claim
//! and no packet.

mod epochs;
mod last;
mod paths;
mod peers;
mod proxy;
mod stall;
pub mod timers;

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    net::{IpAddr, SocketAddr},
};

use forwarder_common::{
    abi::{DATAGRAM_SLOTS, NO_SERVICE, Served},
    clock::{Clock, Time},
    ids::{Epoch, Epochs, NodeId},
    question::Answer,
    rendezvous,
};

use self::{
    epochs::Book,
    last::{Candidate, Last},
    paths::Paths,
    peers::Peers,
    stall::Stall,
    timers::{FRESH_US, JOIN_US, LEASE_RENEWAL_US, LEASE_US, LINGER_US, REJOIN_US, STALL_US},
};
pub use self::{
    epochs::{Given, SHARES},
    paths::Path,
    peers::{Introduction, LinkEnd, Peer, Phase},
    proxy::{Evidence, Health, Proxy, Reason},
};
use crate::state::State;

/// What this node is to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It has started, and does not know yet what its peers know.
    Starting {
        /// An earlier daemon had peers: they look after this node until this one knows them.
        resumes: bool,
        /// Then it serves in any case, in microseconds of the monotonic clock.
        until_us: u64,
    },
    /// It serves.
    Serving,
    /// Its loop stalled for so long that it was dead for all others. They look after this node until it has found them
    /// again.
    Rejoining,
    /// It is about to end: new transactions are left to the peers.
    Stopping {
        /// Then it ends, in microseconds of the monotonic clock.
        at_us: u64,
    },
}

/// What the kernel programs do with what nobody owns, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// New transactions go to their successors.
    pub diverts: bool,
    /// Claims other than those of INVITEs are not made longer.
    pub drains: bool,
    /// Until when the daemon lives at least, in microseconds of the monotonic clock.
    pub until_us: u64,
}

/// What the maps of an earlier daemon of this node say.
#[derive(Clone, Debug)]
pub struct Inherited {
    /// The epochs of its services; `None`: there were no maps.
    pub given: Option<Given>,
    /// Peers that were up.
    pub peers_up: BTreeSet<NodeId>,
    /// Its last lease.
    pub lease: Lease,
}

/// What a machine starts with.
#[derive(Debug)]
pub struct Settings {
    /// This node.
    pub node: NodeId,
    /// VIP and port of each service with its proxy, in the order of the configuration.
    pub services: Vec<(SocketAddr, Proxy)>,
    /// There are peers to wait for.
    pub has_seeds: bool,
    /// So many nodes stay up at least while their proxies are silent and nothing else speaks against them.
    pub keep_up: usize,
    /// What was there before.
    pub inherited: Inherited,
    /// The epoch to begin with where no maps tell of an earlier one: such as claims of this host last had a while ago.
    pub first_epoch: Epoch,
    /// The first ticket of the questions through the tunnel: one that nobody can foresee.
    pub first_ticket: u32,
}

/// Something for the shell to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Introduce this node to a peer on its new link ([`crate::node::Node::handle_link_up`]).
    Introduce {
        /// The peer.
        peer: NodeId,
        /// Where it may take tunnel packets.
        addresses: Vec<IpAddr>,
    },
    /// The peer is down: its claims count no more ([`crate::node::Node::handle_link_down`]).
    GiveUp(NodeId),
    /// Write into the kernel's maps what this node takes a peer for.
    Peer {
        /// The peer.
        node: NodeId,
        /// Packets may be sent to it.
        up: bool,
        /// What it said last.
        said: Introduction,
    },
    /// Take a peer down in the kernel's maps that an earlier daemon left up.
    TakeDown(NodeId),
    /// Write a peer's clock into the kernel's maps.
    Clock {
        /// The peer.
        node: NodeId,
        /// Its clock.
        clock: Clock,
    },
    /// Ask the programs of a peer through the tunnel whether they are there.
    Probe {
        /// The peer.
        node: NodeId,
        /// What comes back with the answer ([`Failover::handle_answer`]).
        ticket: u32,
    },
    /// Write who reassembles the datagrams of each slot, 0 for nobody.
    Reassemblers(Vec<u16>),
    /// Write who takes the new transactions of each slot while this node takes none, 0 for nobody.
    Successors(Vec<u16>),
    /// Write the lease.
    Lease(Lease),
    /// The programs may punt: this daemon finishes what they cannot.
    OpenPunts,
    /// The programs must not punt.
    ClosePunts,
    /// Claims are made under these epochs from now on, and no others of this node count: the programs and the peers are
    /// told.
    Epochs(Given),
    /// The peers are told of another state, or of proxies that are silent now or are not any more; the operator's hook
    /// where the state is another one.
    State {
        /// The one before.
        old: State,
        /// The new one.
        new: State,
        /// The node's proxies are silent.
        is_silent: bool,
    },
    /// Something to log.
    Note(Note),
    /// The daemon has lingered for long enough: it ends.
    End,
}

/// Something that an operator may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The loop was late.
    Stalled {
        /// By so much, in microseconds.
        late_us: u64,
        /// All others took this node for dead.
        cut_off: bool,
    },
    /// All peers have forgotten this host at once.
    Away,
    /// A peer counts as down.
    Down(NodeId),
    /// A peer was up before this start, and has not been heard of since.
    Unconfirmed(NodeId),
    /// A proxy is down.
    ProxyDown {
        /// VIP and port of its service.
        service: SocketAddr,
        /// Why.
        reason: Reason,
    },
    /// The proxies are silent here, and too few others are up: so this node stays up.
    KeptUp,
    /// A proxy answers again.
    ProxyBack(SocketAddr),
    /// A proxy has stopped or restarted.
    ProxyEnded(SocketAddr),
    /// Peers hold claims of an earlier incarnation of this host under an epoch that was in use.
    EpochTaken,
    /// A peer cannot be linked: a sentence that names its version of the links' protocol and this node's.
    OtherVersion(String),
}

impl Note {
    /// Whether something is wrong.
    #[must_use]
    pub const fn is_warning(&self) -> bool {
        !matches!(self, Self::Down(_) | Self::ProxyBack(_))
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stalled { late_us, cut_off: false } => write!(f, "this daemon stalled for {} ms", late_us / 1000),
            Self::Stalled { late_us, cut_off: true } => write!(
                f,
                "this daemon stalled for {} ms: its programs and its peers took it for dead, so it joins them anew",
                late_us / 1000
            ),
            Self::Away => write!(f, "all peers have forgotten this host: it was away, so it joins them anew"),
            Self::Down(node) => {
                write!(f, "node {} is down: its transactions are served where their packets land", node.number())
            }
            Self::Unconfirmed(node) => {
                write!(f, "node {} was up before this start and has not been linked since: now down", node.number())
            }
            Self::ProxyDown { service, reason } => write!(f, "the proxy at {service} is down: {reason}"),
            Self::KeptUp => write!(f, "proxies are silent, and too few other nodes are up: this node stays up"),
            Self::ProxyBack(service) => write!(f, "the proxy at {service} answers again"),
            Self::ProxyEnded(service) => {
                write!(f, "the proxy at {service} has stopped or restarted: its transactions are lost")
            }
            Self::OtherVersion(reason) => write!(f, "{reason}"),
            Self::EpochTaken => write!(f, "peers hold claims of an earlier run of this host: its epochs are changed"),
        }
    }
}

/// What the shell was told last, so that it is told changes only.
#[derive(Debug)]
struct Told {
    lease: Lease,
    has_punts: bool,
    able: (Vec<u16>, Vec<u16>),
    reassemblers: Vec<u16>,
    successors: Vec<u16>,
}

/// The machine.
#[derive(Debug)]
pub struct Failover {
    node: NodeId,
    role: Role,
    /// Claims and states of all peers have arrived once since the start, or nobody is waited for any more.
    joined: bool,
    state: State,
    state_since_us: u64,
    /// The peers were told that this node's proxies are silent.
    is_silent: bool,
    last: Last,
    /// The node is up for want of others alone.
    is_kept: bool,
    draining_since_us: Option<u64>,
    services: Vec<SocketAddr>,
    /// All of them.
    serves: Served,
    proxies: Vec<Proxy>,
    book: Book,
    peers: Peers,
    paths: Paths,
    /// Peers that the maps of an earlier daemon have as up, and that have not introduced themselves since.
    inherited: BTreeSet<NodeId>,
    /// When those are taken down, in microseconds of the monotonic clock.
    settle_at_us: Option<u64>,
    /// When the loop was last known to be in time; `None` before its first turn.
    renewed_us: Option<u64>,
    stall: Option<Stall>,
    told: Told,
    /// Until then the peers' word on epochs from before the start counts, in microseconds of the monotonic clock.
    fresh_until_us: u64,
    outputs: VecDeque<Output>,
}

impl Failover {
    /// A node that starts at `now_us`.
    #[must_use]
    pub fn new(settings: Settings, now_us: u64) -> Self {
        let Settings { node, services, has_seeds, keep_up, inherited, first_epoch, first_ticket } = settings;
        let (services, proxies): (Vec<_>, Vec<_>) = services.into_iter().unzip();
        let Inherited { given, peers_up, lease } = inherited;
        let resumes = !peers_up.is_empty();
        let until_us = now_us.saturating_add(JOIN_US);
        let role = if has_seeds { Role::Starting { resumes, until_us } } else { Role::Serving };
        let given = given.filter(|given| given.services.len() == proxies.len());
        let book = given.map_or_else(|| Book::begin(proxies.len(), first_epoch), Book::resume);
        let serves = (0..NO_SERVICE).take(services.len()).fold(Served::default(), Served::with);
        let mut machine = Self {
            node,
            role,
            joined: !has_seeds,
            state: State::Joining,
            state_since_us: now_us,
            is_silent: false,
            last: Last::new(keep_up),
            is_kept: false,
            draining_since_us: lease.drains.then_some(now_us),
            services,
            serves,
            proxies,
            book,
            peers: Peers::default(),
            paths: Paths::new(first_ticket),
            inherited: peers_up,
            settle_at_us: resumes.then_some(now_us.saturating_add(REJOIN_US)),
            renewed_us: None,
            stall: None,
            told: Told {
                lease,
                has_punts: false,
                able: (Vec::new(), Vec::new()),
                reassemblers: Vec::new(),
                successors: Vec::new(),
            },
            fresh_until_us: now_us.saturating_add(FRESH_US),
            outputs: VecDeque::new(),
        };
        machine.outputs.push_back(Output::Epochs(machine.book.given().clone()));
        machine.settle(now_us);
        machine
    }

    /// A link to a peer at `address` stands, whose certificate names the addresses `named`; `again`: in the place of
    /// one that stood, so that the peer may have restarted.
    pub fn handle_link_up(&mut self, peer: NodeId, address: SocketAddr, named: &[IpAddr], again: bool, now_us: u64) {
        self.notice_stall(now_us);
        if again && let Some(stall) = &mut self.stall {
            stall.ended(peer);
        }
        self.peers.linked(peer, address, now_us);
        let addresses = [address.ip()].iter().chain(named).map(IpAddr::to_canonical).collect();
        self.outputs.push_back(Output::Introduce { peer, addresses });
        self.settle(now_us);
    }

    /// The link to a peer is gone.
    pub fn handle_link_down(&mut self, peer: NodeId, end: LinkEnd, reason: String, now_us: u64) {
        // Before anything is concluded from the end.
        self.notice_stall(now_us);
        let is_excused = self.stall.as_mut().is_some_and(|stall| stall.ended(peer));
        // It was this host that was away.
        let end = if end == LinkEnd::Silent && is_excused { LinkEnd::Well } else { end };
        if self.peers.unlinked(peer, end, reason, now_us) {
            self.give_up(peer);
        } else {
            self.paths.begin(peer, now_us);
        }
        // Of two that have lost each other, either may be the one that was away.
        let is_alone = self.peers.in_grace() > 1 && self.peers.linked_ones().is_empty();
        if end == LinkEnd::Well && is_alone && self.stall.is_none() {
            self.outputs.push_back(Output::Note(Note::Away));
            self.cut_off(Stall::new(BTreeSet::new(), true, now_us), now_us);
        }
        self.settle(now_us);
    }

    /// No link comes up with a peer that speaks another version of the links' protocol; `reason` is a sentence that
    /// names both. It says nothing of the peer's host. To be told at each attempt: it is noted where something changes.
    pub fn handle_other_version(&mut self, peer: NodeId, address: SocketAddr, reason: String, now_us: u64) {
        if self.peers.has_other_version(peer, address, &reason, now_us) {
            self.outputs.push_back(Output::Note(Note::OtherVersion(reason)));
        }
    }

    /// A linked peer has introduced itself, or says something else than before.
    pub fn handle_introduction(&mut self, peer: NodeId, said: Introduction, now_us: u64) {
        self.inherited.remove(&peer);
        self.peers.introduced(peer, said, now_us);
        self.tell_peer(peer);
        if self.paths.get(peer).is_none() {
            self.paths.begin(peer, now_us);
        }
        self.settle(now_us);
    }

    /// The programs of a peer, or its daemon, have answered through the tunnel at `theirs` of the peer's clock.
    pub fn handle_answer(&mut self, peer: NodeId, ticket: u32, theirs: Time, answer: Answer, now_us: u64) {
        let Some(clock) = self.paths.answered(peer, ticket, theirs, now_us) else { return };
        if let Some(clock) = clock {
            self.outputs.push_back(Output::Clock { node: peer, clock });
        }
        if self.peers.answered(peer, answer.epochs, answer.has_daemon, now_us) {
            self.tell_peer(peer);
            self.settle(now_us);
        }
    }

    /// A peer may hold claims of this node under these epochs, from this or an earlier incarnation of its daemon.
    ///
    /// Those that are in use are given up for that only for [`timers::FRESH_US`] after the start.
    pub fn handle_seen(&mut self, seen: Epochs, now_us: u64) {
        if now_us < self.fresh_until_us && self.book.take(seen) {
            self.outputs.push_back(Output::Note(Note::EpochTaken));
            self.outputs.push_back(Output::Epochs(self.book.given().clone()));
        }
    }

    /// Something was seen of the proxy of a service, by the service's place in the configuration.
    pub fn handle_evidence(&mut self, service: usize, evidence: &Evidence, now_us: u64) {
        let Some((proxy, address)) = self.proxies.get_mut(service).zip(self.services.get(service)) else { return };
        let (address, was_down) = (*address, proxy.reason().is_some());
        let has_ended = proxy.handle(evidence, now_us);
        match proxy.reason() {
            Some(reason) if !was_down => {
                self.outputs.push_back(Output::Note(Note::ProxyDown { service: address, reason: reason.clone() }));
            }
            None if was_down => self.outputs.push_back(Output::Note(Note::ProxyBack(address))),
            Some(_) | None => {}
        }
        if has_ended {
            self.book.renew(service);
            self.outputs.push_back(Output::Note(Note::ProxyEnded(address)));
            self.outputs.push_back(Output::Epochs(self.book.given().clone()));
        }
        self.settle(now_us);
    }

    /// The operator takes the node out of service, or back; whether that is a change.
    pub fn handle_drain(&mut self, drains: bool, now_us: u64) -> bool {
        if drains == self.drains() {
            return false;
        }
        self.draining_since_us = drains.then_some(now_us);
        self.settle(now_us);
        true
    }

    /// The daemon is told to end: it does so [`LINGER_US`] later.
    pub fn handle_stop(&mut self, now_us: u64) {
        if !self.is_stopping() {
            self.role = Role::Stopping { at_us: now_us.saturating_add(LINGER_US) };
            self.settle(now_us);
        }
    }

    /// One turn of the loop: call it in each, first, and when [`Self::poll_timeout`] is due. `is_synchronised`: all
    /// that the linked peers knew when they were linked has arrived ([`crate::node::Node::is_synchronised`]). It is
    /// asked for only where something waits for it, because it looks at every peer.
    pub fn handle_turn(&mut self, is_synchronised: impl FnOnce() -> bool, now_us: u64) {
        self.notice_stall(now_us);
        let waits = self.stall.is_some() || matches!(self.role, Role::Starting { .. });
        // Without a peer that is up there is nobody yet to know anything of.
        let is_synchronised = waits && self.peers.any_up() && is_synchronised();
        for peer in self.peers.end_grace(now_us) {
            self.give_up(peer);
        }
        let is_in_grace = |peer| self.peers.get(peer).is_some_and(|peer| matches!(peer.phase, Phase::Grace { .. }));
        for (node, ticket) in self.paths.due(now_us, is_in_grace) {
            self.outputs.push_back(Output::Probe { node, ticket });
        }
        if self.settle_at_us.is_some_and(|at_us| at_us <= now_us) {
            self.settle_at_us = None;
            for peer in std::mem::take(&mut self.inherited) {
                self.outputs.push_back(Output::Note(Note::Unconfirmed(peer)));
                self.outputs.push_back(Output::TakeDown(peer));
            }
        }
        let is_back = is_synchronised && self.peers.in_grace() == 0;
        self.stall.take_if(|stall| stall.is_past(is_back, now_us));
        match self.role {
            Role::Starting { until_us, .. } if is_synchronised || until_us <= now_us => self.serve(),
            Role::Rejoining if !self.stall.as_ref().is_some_and(Stall::is_cut_off) => self.serve(),
            Role::Stopping { at_us } if at_us <= now_us => self.outputs.push_back(Output::End),
            Role::Starting { .. } | Role::Serving | Role::Rejoining | Role::Stopping { .. } => {}
        }
        self.settle(now_us);
    }

    /// When [`Self::handle_turn`] is due, in microseconds of the monotonic clock.
    #[must_use]
    pub fn poll_timeout(&self, now_us: u64) -> u64 {
        let role = match self.role {
            Role::Starting { until_us, .. } => Some(until_us),
            Role::Stopping { at_us } => Some(at_us),
            Role::Serving | Role::Rejoining => None,
        };
        let stall = self.stall.as_ref().map(|stall| stall.due_us(now_us));
        let renewal = self.renewed_us.map_or(now_us, |renewed_us| renewed_us.saturating_add(LEASE_RENEWAL_US));
        [role, stall, self.settle_at_us, self.last.due_us(), self.peers.due_us(), self.paths.due_us()]
            .into_iter()
            .flatten()
            .fold(renewal, u64::min)
    }

    /// The next thing to do, if any.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What this node is to itself.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// What the peers were told that this node is, and since when in microseconds of the monotonic clock.
    #[must_use]
    pub const fn state(&self) -> (State, u64) {
        (self.state, self.state_since_us)
    }

    /// Whether the node is up though its proxies are silent, for want of others.
    #[must_use]
    pub const fn is_kept_up(&self) -> bool {
        self.is_kept
    }

    /// Since when the operator takes the node out of service, in microseconds of the monotonic clock.
    #[must_use]
    pub const fn draining_since_us(&self) -> Option<u64> {
        self.draining_since_us
    }

    /// The proxies, in the order of the services.
    #[must_use]
    pub fn proxies(&self) -> &[Proxy] {
        &self.proxies
    }

    /// The epochs under which claims are made.
    #[must_use]
    pub const fn epochs(&self) -> &Given {
        self.book.given()
    }

    /// The peers by their ids.
    pub fn peers(&self) -> impl Iterator<Item = (NodeId, &Peer)> {
        self.peers.iter()
    }

    /// One peer.
    #[must_use]
    pub fn peer(&self, id: NodeId) -> Option<&Peer> {
        self.peers.get(id)
    }

    /// The way to a peer through the tunnel.
    #[must_use]
    pub fn path(&self, id: NodeId) -> Option<&Path> {
        self.paths.get(id)
    }

    /// Whether any peer is up.
    #[must_use]
    pub fn any_up(&self) -> bool {
        self.peers.any_up()
    }

    /// How many peers take new transactions.
    #[must_use]
    pub fn healthy(&self) -> usize {
        self.peers.healthy().count()
    }

    /// The epochs of a peer whose claims count, none of one that is down; `None`: nothing is known of it.
    #[must_use]
    pub fn live_epochs(&self, owner: NodeId) -> Option<Epochs> {
        self.peers.live_epochs(owner)
    }

    /// Whether new transactions go to their successors.
    #[must_use]
    pub const fn diverts(&self) -> bool {
        self.told.lease.diverts
    }

    /// Whether this node looks for its peers again, so that nothing can be asked of them.
    #[must_use]
    pub const fn is_rejoining(&self) -> bool {
        matches!(self.role, Role::Rejoining)
    }

    /// Whether the daemon is about to end.
    #[must_use]
    pub const fn is_stopping(&self) -> bool {
        matches!(self.role, Role::Stopping { .. })
    }

    /// Whether the loop is so late that [`Self::handle_turn`] will find a stall.
    #[must_use]
    pub fn is_late(&self, now_us: u64) -> bool {
        self.renewed_us.is_some_and(|renewed_us| now_us.saturating_sub(renewed_us) >= STALL_US)
    }

    /// The peer that takes a new transaction with this request key while this node takes none; `None`: it stays here.
    #[must_use]
    pub fn successor(&self, request_key: u64) -> Option<NodeId> {
        NodeId::new(*self.told.successors.get(rendezvous::successor_slot(request_key) as usize)?)
    }

    /// The node that reassembles the datagrams of a slot.
    #[must_use]
    pub fn reassembler(&self, slot: usize) -> Option<NodeId> {
        NodeId::new(*self.told.reassemblers.get(slot)?)
    }

    const fn drains(&self) -> bool {
        self.draining_since_us.is_some()
    }

    fn serve(&mut self) {
        self.joined = true;
        self.role = Role::Serving;
    }

    /// Notices if the loop is late, before anything is concluded from what happened meanwhile.
    fn notice_stall(&mut self, now_us: u64) {
        let Some(renewed_us) = self.renewed_us else {
            self.renewed_us = Some(now_us);
            return;
        };
        let late_us = now_us.saturating_sub(renewed_us);
        if late_us < LEASE_RENEWAL_US {
            return;
        }
        self.renewed_us = Some(now_us);
        self.last.lengthen(late_us - LEASE_RENEWAL_US);
        if late_us >= STALL_US {
            self.stalled(late_us, now_us);
        }
        if self.told.has_punts {
            self.told.lease.until_us = now_us.saturating_add(LEASE_US);
            self.outputs.push_back(Output::Lease(self.told.lease));
        }
    }

    fn stalled(&mut self, late_us: u64, now_us: u64) {
        let cut_off = late_us >= LEASE_US;
        self.outputs.push_back(Output::Note(Note::Stalled { late_us, cut_off }));
        self.paths.again(now_us);
        // Nobody could come back meanwhile.
        self.settle_at_us = self.settle_at_us.map(|at_us| at_us.saturating_add(late_us));
        if let Role::Starting { until_us, .. } = &mut self.role {
            *until_us = until_us.saturating_add(late_us);
        }
        let linked = self.peers.linked_ones();
        if linked.is_empty() && self.peers.in_grace() == 0 {
            return;
        }
        self.peers.lengthen_grace(late_us);
        let stall = match self.stall.take() {
            Some(mut stall) => {
                stall.again(linked, cut_off, late_us);
                stall
            }
            None => Stall::new(linked, cut_off, now_us),
        };
        if cut_off { self.cut_off(stall, now_us) } else { self.stall = Some(stall) }
    }

    /// Until this node knows its peers again they look after it.
    fn cut_off(&mut self, stall: Stall, now_us: u64) {
        self.stall = Some(stall);
        if !self.is_stopping() {
            self.role = Role::Rejoining;
        }
        if std::mem::replace(&mut self.told.has_punts, false) {
            self.outputs.push_back(Output::ClosePunts);
        }
        // As if the lease ended now: the peers look after this node for as long as they would after a death at this
        // moment.
        self.told.lease.until_us = now_us;
        self.outputs.push_back(Output::Lease(self.told.lease));
    }

    fn give_up(&mut self, peer: NodeId) {
        if self.peers.get(peer).is_some_and(|peer| peer.introduction.is_some()) {
            self.outputs.push_back(Output::Note(Note::Down(peer)));
        }
        self.tell_peer(peer);
        self.paths.end(peer);
        self.outputs.push_back(Output::GiveUp(peer));
    }

    fn tell_peer(&mut self, node: NodeId) {
        let Some(peer) = self.peers.get(node) else { return };
        if let Some(said) = peer.introduction {
            self.outputs.push_back(Output::Peer { node, up: peer.phase.is_up(), said });
        }
    }

    /// Whether peers look after this node: nobody would hear of a claim that is made here.
    const fn is_looked_after(&self) -> bool {
        matches!(self.role, Role::Starting { resumes: true, .. } | Role::Rejoining | Role::Stopping { .. })
    }

    /// Says what has changed.
    fn settle(&mut self, now_us: u64) {
        self.choose();
        self.settle_lease();
        let may_punt = matches!(self.role, Role::Starting { resumes: false, .. } | Role::Serving);
        if may_punt && !self.told.has_punts && self.renewed_us.is_some() {
            // Until now a peer's daemon has finished what this node's programs could not.
            self.told.has_punts = true;
            self.told.lease.until_us = now_us.saturating_add(LEASE_US);
            self.outputs.push_back(Output::Lease(self.told.lease));
            self.outputs.push_back(Output::OpenPunts);
        }
        self.settle_state(now_us);
    }

    /// The programs are told before the peers are: one that hears of a drain may look at once whether it is one.
    fn settle_lease(&mut self) {
        let diverts = self.drains() || !self.proxies.iter().all(Proxy::is_alive) || self.is_looked_after();
        let lease = Lease { diverts, drains: self.drains(), ..self.told.lease };
        if lease != self.told.lease {
            self.told.lease = lease;
            self.outputs.push_back(Output::Lease(lease));
        }
    }

    fn settle_state(&mut self, now_us: u64) {
        let any = |health: fn(&Health) -> bool| self.proxies.iter().any(|proxy| health(proxy.health()));
        let is_down = any(|health| matches!(health, Health::Down(_)));
        // One that has stopped is evidence, whatever the others are.
        let is_silent = is_down && self.proxies.iter().all(|proxy| proxy.is_alive() || proxy.is_silent());
        let is_out = self.drains() || !self.joined || any(|health| matches!(health, Health::Unknown));
        let is_kept = !is_out && is_silent && self.settle_last(now_us);
        let new = if self.drains() {
            State::Draining
        } else if is_out {
            State::Joining
        } else if is_down && !is_kept {
            State::ProxyDown
        } else {
            State::Up
        };
        if is_out || !is_silent {
            self.last.reset();
            self.is_kept = false;
        }
        if (new, is_silent) != (self.state, self.is_silent) {
            self.outputs.push_back(Output::State { old: self.state, new, is_silent });
        }
        self.is_silent = is_silent;
        if new != self.state {
            (self.state, self.state_since_us) = (new, now_us);
        }
    }

    /// Whether this node is up from now on though its proxies are silent.
    fn settle_last(&mut self, now_us: u64) -> bool {
        let is_up = self.state == State::Up;
        if self.role != Role::Serving {
            // It does not know how its peers are, or it ends.
            self.last.reset();
            return is_up;
        }
        let me = Candidate { is_silent: true, is_out: !is_up, id: self.node };
        let stays = self.last.stays(me, self.peers.candidates(self.serves));
        let is_up = self.last.settle(is_up, stays, now_us);
        let is_kept = is_up && stays;
        if is_kept && !self.is_kept {
            self.outputs.push_back(Output::Note(Note::KeptUp));
        }
        self.is_kept = is_kept;
        is_up
    }

    /// Chooses anew who reassembles what, and who takes which new transactions, if the peers have changed.
    fn choose(&mut self) {
        // Until a peer is heard of, what an earlier daemon has chosen is the best that is known.
        if !self.peers.take_changed() {
            return;
        }
        let with_daemon = self.peers.with_daemon().map(|(id, _)| id.number());
        let able =
            (with_daemon.chain([self.node.number()]).collect(), self.peers.healthy().map(NodeId::number).collect());
        if able == self.told.able {
            return;
        }
        let (reassemblers, successors) = (by_slot(&able.0), by_slot(&able.1));
        self.told.able = able;
        if reassemblers != self.told.reassemblers {
            self.told.reassemblers.clone_from(&reassemblers);
            self.outputs.push_back(Output::Reassemblers(reassemblers));
        }
        if successors != self.told.successors {
            self.told.successors.clone_from(&successors);
            self.outputs.push_back(Output::Successors(successors));
        }
    }
}

/// A node for each slot, 0 where there are none.
fn by_slot(nodes: &[u16]) -> Vec<u16> {
    (0..DATAGRAM_SLOTS).map(|slot| rendezvous::choose(slot, nodes.iter().copied()).unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests;
