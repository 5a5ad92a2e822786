//! One simulated host: its clocks, its kernel, and its daemon, in which the real core and the real slow path run.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use forwarder_common::{ids::Epoch, ids::NodeId, verdict::Found};
use forwarder_core::node::{LocalClaim, Node, NodeSettings, Now, State};
use forwarder_core::slowpath::{self, SlowPath, View};

use super::kernel::Kernel;
use super::traffic::{HASH_KEY, PORT, VIP};

/// Unix time at the start of the simulation, in microseconds: any will do that leaves an hour for slow clocks.
const START_UNIX_US: u64 = 1_800_000_000_000_000;
/// Uptime of every host at the start, in microseconds, before its own share.
const START_UPTIME_US: u64 = 10_000_000;

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

/// The daemon's process.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) node: Node,
    pub(super) slow: SlowPath,
    /// When the shell wakes up, in virtual microseconds.
    pub(super) timer_us: u64,
    pub(super) wanted: BTreeMap<usize, Wanted>,
    pub(super) state: State,
}

/// A host.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) node: NodeId,
    /// How far its clock is from the true time, plus [`START_UNIX_US`].
    unix_us: u64,
    uptime_us: u64,
    pub(super) is_powered: bool,
    /// Routers send packets here.
    pub(super) is_routed: bool,
    pub(super) kernel: Kernel,
    /// Lives of the proxy: an earlier one's transactions are gone.
    pub(super) proxy_life: u32,
    /// Lives of the daemon: what was meant for an earlier one is not for this one.
    pub(super) daemon_life: u32,
    pub(super) daemon: Option<Daemon>,
    /// What the egress program has said while no daemon read it, with the virtual time.
    pub(super) ring: Vec<(u64, LocalClaim)>,
}

/// What one daemon is started with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) hosts: usize,
    pub(super) claims: usize,
    pub(super) hold_us: u64,
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
            is_routed: false,
            kernel: Kernel::new(node, Epoch::new(0), limits.claims, limits.hosts),
            proxy_life: 0,
            daemon_life: 0,
            daemon: None,
            ring: Vec::new(),
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

    /// Starts the daemon, which takes the maps as they are.
    pub(super) fn start_daemon(&mut self, seeds: &[usize], seed: u64, limits: Limits) {
        let index = usize::from(self.node.number()) - 1;
        let node = Node::new(NodeSettings {
            node: self.node,
            epoch: self.kernel.epoch,
            underlay: address(index).ip(),
            listen: address(index),
            claims: limits.claims,
            seed,
        });
        let slow = SlowPath::new(&slowpath::Settings {
            node: self.node,
            hash_key: HASH_KEY,
            services: vec![slowpath::Service {
                address: SocketAddr::new(IpAddr::from(VIP), PORT),
                affinity_call: false,
            }],
            hold_us: limits.hold_us,
        });
        let wanted = Wanted { backoff_us: super::links::CALL_FIRST_US, is_pending: false, is_seed: true };
        let seeds = seeds.iter().filter(|seed| **seed != index).map(|seed| (*seed, wanted));
        self.daemon_life += 1;
        self.daemon = Some(Daemon { node, slow, timer_us: u64::MAX, wanted: seeds.collect(), state: State::Joining });
    }

    /// The slow path's view of the host's maps.
    pub(super) const fn sight(kernel: &Kernel, now: Now) -> Sight<'_> {
        Sight { kernel, now }
    }
}

/// Claims and peers, for the slow path.
#[derive(Debug)]
pub(super) struct Sight<'a> {
    kernel: &'a Kernel,
    now: Now,
}

impl View for Sight<'_> {
    fn owner(&self, key: u64) -> Found {
        self.kernel.owner(key, self.now)
    }

    fn peer_up(&self) -> bool {
        self.kernel.peer_up()
    }

    fn taker(&self, request_key: u64) -> Option<NodeId> {
        self.kernel.taker(request_key)
    }

    fn gatherer(&self, _slot: usize) -> Option<NodeId> {
        None
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
