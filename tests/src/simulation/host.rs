//! One simulated host: its clocks, its kernel, its proxy, and its daemon, in which the real failover machine, core and
//! slow path run.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use forwarder::{
    cluster::links::RETRY_FIRST,
    config::{DEFAULT_FAILURES, DEFAULT_KEEP_UP},
    daemon::EPOCH_SECONDS,
};
use forwarder_common::{
    abi::{Lifetimes, PUNT_BYTES, Punt},
    bound::{Costs, Rates},
    clock::Time,
    ids::{Epoch, Epochs, NodeId, Tick},
    question::Answer,
    verdict::Found,
};
use forwarder_core::{
    failover::{self, Evidence, Failover, LinkEnd, Proxy},
    node::{LocalClaim, Node, NodeSettings, Now},
    slowpath::{self, SlowPath, View},
};

use crate::hostile::Script;

use super::{
    kernel::{Kernel, Question, Told},
    traffic::{HASH_KEY, PORT, VIP},
};

/// Unix time at the start of the simulation, in microseconds: any will do that leaves an hour for slow clocks.
const START_UNIX_US: u64 = 1_800_000_000_000_000;
/// Uptime of every host at the start, in microseconds, before its own share.
const START_UPTIME_US: u64 = 10_000_000;
/// Punted packets that the ring buffer holds: a record has 2 KiB, its head of 16 bytes, and the ring's own of 8.
pub(super) const PUNTS: usize = PUNT_BYTES as usize / (2048 + 24);

/// First pause after a call that failed.
pub(super) const CALL_FIRST_US: u64 = RETRY_FIRST.as_micros() as u64;

/// A peer that the links call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Pause before the next call if one fails.
    pub(super) backoff_us: u64,
    /// A call is under way or due.
    pub(super) is_pending: bool,
    /// It is called whether it is a member or not.
    pub(super) is_seed: bool,
}

/// What the links tell the daemon's loop.
#[derive(Debug)]
pub(super) enum LinkEvent {
    Up { peer: usize, again: bool },
    Down { peer: usize, end: LinkEnd },
    Message { peer: usize, bytes: Vec<u8> },
    Datagram { peer: usize, bytes: Vec<u8> },
}

/// What a peer's programs answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct KernelAnswer {
    pub(super) peer: usize,
    pub(super) question: Question,
    pub(super) answer: Answer,
    pub(super) time: Time,
}

/// What the operator tells the daemon.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// It is to end.
    Stop,
    /// The node is to be taken out of service, or back.
    Drain(bool),
}

/// A punted packet, as the ring buffer has it.
pub(super) type Punted = (Punt, Vec<u8>);

/// The daemon's process.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) node: Node,
    pub(super) slow: SlowPath,
    pub(super) failover: Failover,
    /// What it says beside what it should.
    pub(super) script: Option<Script>,
    /// The seed of its core, which names the run.
    seed: u64,
    /// What waits for the loop.
    pub(super) orders: VecDeque<Order>,
    pub(super) link_events: VecDeque<LinkEvent>,
    pub(super) evidence: VecDeque<Evidence>,
    pub(super) answers: VecDeque<KernelAnswer>,
    /// Punted packets that wait until it knows its peers again.
    pub(super) late: Vec<Punted>,
    /// The proxy's sockets at the last look.
    pub(super) looked: Option<BTreeSet<u64>>,
    /// When the loop wakes up, in virtual microseconds.
    pub(super) timer_us: u64,
    pub(super) wanted: BTreeMap<usize, Wanted>,
    /// The loop ends after this turn.
    pub(super) ends: bool,
}

/// A host.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) node: NodeId,
    /// How far its clock is from the true time, plus [`START_UNIX_US`].
    unix_us: u64,
    uptime_us: u64,
    pub(super) is_powered: bool,
    /// The operator wants a daemon: one that ends is followed by another.
    pub(super) wants_daemon: bool,
    /// Routers send packets here.
    pub(super) is_routed: bool,
    pub(super) kernel: Kernel,
    pub(super) has_proxy: bool,
    /// It answers nothing.
    pub(super) is_silent: bool,
    /// Of the proxy: the transactions of an earlier one are gone.
    pub(super) proxy_incarnation: u32,
    /// Of the daemon: what was meant for an earlier one is not for this one.
    pub(super) incarnation: u32,
    pub(super) daemon: Option<Daemon>,
    /// Since when the daemon's process is stopped, in virtual microseconds.
    pub(super) stalled_us: Option<u64>,
    /// When it went on last, in virtual microseconds.
    pub(super) went_on_us: u64,
    /// The longest that it was stopped, in microseconds.
    pub(super) longest_stall_us: u64,
    /// The claims' ring buffer: what the egress program has said and no daemon has read, with the virtual time.
    pub(super) claims: VecDeque<(u64, Told)>,
    /// The ring buffer of punted packets.
    pub(super) punts: VecDeque<Punted>,
    /// The proxy's sockets as a daemon has seen them last, in a file that a reboot empties.
    pub(super) sockets: BTreeSet<u64>,
}

/// What one daemon is started with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) hosts: usize,
    pub(super) claims: usize,
    pub(super) hold_us: u64,
    pub(super) lifetimes: Lifetimes,
}

impl Host {
    /// A host that is off, whose clock is `clock_us` from the true time.
    pub(super) fn new(index: usize, clock_us: i64, limits: Limits) -> Option<Self> {
        let node = NodeId::new(u16::try_from(index + 1).ok()?)?;
        Some(Self {
            node,
            unix_us: START_UNIX_US.saturating_add_signed(clock_us),
            uptime_us: START_UPTIME_US + index as u64 * 7_777_777,
            is_powered: false,
            wants_daemon: false,
            is_routed: false,
            kernel: Kernel::new(node, limits.claims, limits.hosts, limits.lifetimes),
            has_proxy: false,
            is_silent: false,
            proxy_incarnation: 0,
            incarnation: 0,
            daemon: None,
            stalled_us: None,
            went_on_us: 0,
            longest_stall_us: 0,
            claims: VecDeque::new(),
            punts: VecDeque::new(),
            sockets: BTreeSet::new(),
        })
    }

    /// Both clocks of this host at a virtual time.
    pub(super) const fn now(&self, at_us: u64) -> Now {
        Now { monotonic_us: self.uptime_us + at_us, unix_us: self.unix_us + at_us }
    }

    /// The virtual time of a time of the monotonic clock.
    pub(super) const fn virtual_us(&self, monotonic_us: u64) -> u64 {
        monotonic_us.saturating_sub(self.uptime_us)
    }

    /// Boots: an empty kernel, and a proxy.
    pub(super) fn boot(&mut self, limits: Limits) {
        self.kernel = Kernel::new(self.node, limits.claims, limits.hosts, limits.lifetimes);
        (self.is_powered, self.has_proxy, self.is_silent) = (true, true, false);
    }

    /// Its daemon means harm from now on.
    pub(super) fn turn_hostile(&mut self, seed: u64) {
        let listen = address(usize::from(self.node.number()) - 1);
        if let Some(daemon) = &mut self.daemon {
            // The daemon's own core names its run so.
            daemon.script = Some(Script::new(seed, listen.ip(), listen).of_run(daemon.seed | 1));
        }
    }

    /// Loses its power, and with it all that it does not write down.
    pub(super) fn crash(&mut self) {
        (self.is_powered, self.is_routed, self.has_proxy, self.wants_daemon) = (false, false, false, false);
        self.proxy_incarnation += 1;
        self.claims.clear();
        self.punts.clear();
        self.sockets.clear();
    }

    /// The sockets of the proxy that runs, none without one.
    pub(super) fn proxy_sockets(&self) -> BTreeSet<u64> {
        self.has_proxy.then_some(u64::from(self.proxy_incarnation) + 1).into_iter().collect()
    }

    /// Whether the daemon runs, and is not stopped.
    pub(super) const fn is_awake(&self) -> bool {
        self.daemon.is_some() && self.stalled_us.is_none()
    }

    /// Starts the daemon, which takes the maps as they are; gives the claims that it was given by them.
    pub(super) fn start_daemon(&mut self, seeds: &[usize], seed: u64, limits: Limits, at_us: u64) -> Vec<LocalClaim> {
        let index = usize::from(self.node.number()) - 1;
        let now = self.now(at_us);
        let service = SocketAddr::new(IpAddr::from(VIP), PORT);
        let seeds: Vec<usize> = seeds.iter().copied().filter(|seed| *seed != index).collect();
        let settings = failover::Settings {
            node: self.node,
            services: vec![(service, Proxy::new(Some(DEFAULT_FAILURES), self.sockets.clone()))],
            has_seeds: !seeds.is_empty(),
            keep_up: usize::from(DEFAULT_KEEP_UP),
            inherited: self.kernel.inherited(),
            first_epoch: Epoch::new(now.unix_us / 1_000_000 / EPOCH_SECONDS),
            first_ticket: seed as u32,
        };
        let failover = Failover::new(settings, now.monotonic_us);
        let mut node = Node::new(NodeSettings {
            node: self.node,
            epochs: failover.epochs().live(),
            underlay: address(index).ip(),
            listen: address(index),
            lifetimes: limits.lifetimes,
            claims: limits.claims,
            seed,
            services: Vec::new(),
            must_equal: Vec::new(),
        });
        let restored = self.kernel.own_claims(now);
        restored.iter().for_each(|claim| node.handle_restored(*claim, now));
        let slow = SlowPath::new(&slowpath::Settings {
            node: self.node,
            hash_key: HASH_KEY,
            services: vec![slowpath::Service { address: service, affinity_call: false }],
            hold_us: limits.hold_us,
            costs: Costs::new(&Rates::USUAL),
        });
        let wanted = Wanted { backoff_us: CALL_FIRST_US, is_pending: false, is_seed: true };
        self.incarnation += 1;
        self.daemon = Some(Daemon {
            node,
            slow,
            failover,
            script: None,
            seed,
            orders: VecDeque::new(),
            link_events: VecDeque::new(),
            evidence: VecDeque::new(),
            answers: VecDeque::new(),
            late: Vec::new(),
            looked: None,
            timer_us: u64::MAX,
            wanted: seeds.into_iter().map(|seed| (seed, wanted)).collect(),
            ends: false,
        });
        restored
    }
}

/// Claims and peers, as the slow path sees them: claims of the kernel's table, peers of the failover machine.
#[derive(Debug)]
pub(super) struct ClaimView<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) failover: &'a Failover,
    pub(super) now: Now,
}

impl View for ClaimView<'_> {
    fn owner(&self, key: u64) -> Found {
        let live = |id| {
            let peer = NodeId::new(id).filter(|id| *id != self.kernel.node);
            let of_peer = |id| self.failover.live_epochs(id).unwrap_or(Epochs::EMPTY);
            peer.map_or_else(|| Epochs::EMPTY.with(self.kernel.epoch()), of_peer)
        };
        Found::of(self.kernel.entry(key), self.kernel.node, Tick::at(self.now.monotonic_us * 1000), live)
    }

    fn serves(&self, _node: NodeId, _service: usize) -> bool {
        // All nodes have the one service.
        true
    }

    fn peer_up(&self) -> bool {
        self.failover.any_up()
    }

    fn successor(&self, request_key: u64) -> Option<NodeId> {
        if self.failover.diverts() { self.failover.successor(request_key) } else { None }
    }

    fn reassembler(&self, slot: usize) -> Option<NodeId> {
        self.failover.reassembler(slot).filter(|node| *node != self.kernel.node)
    }
}

/// Where a host's links listen.
pub(super) fn address(index: usize) -> SocketAddr {
    let [_, _, high, low] = (index as u32).to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 9, high, low)), 7600)
}

/// Whose links listen there.
pub(super) fn host_at(address: SocketAddr) -> Option<usize> {
    match address.ip() {
        IpAddr::V4(ip) => {
            let [_, _, high, low] = ip.octets();
            Some(usize::from(u16::from_be_bytes([high, low])))
        }
        IpAddr::V6(_) => None,
    }
}

/// The host whose node id this is.
pub(super) fn host_of(node: NodeId) -> usize {
    usize::from(node.number()).saturating_sub(1)
}
