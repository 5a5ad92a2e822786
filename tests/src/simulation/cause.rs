//! Why a message met a wrong node: what stood between the node that decided and the one that has the transaction.

use forwarder_common::{ids::NodeId, verdict::Found};

use super::{
    Simulation, Way,
    host::host_of,
    traffic::{self, Class, Message},
};

/// How long a claim may take to a peer with which its owner is linked, in microseconds: the farthest way, and losses.
const TRANSIT_US: u64 = 1_500_000;

/// Why a message met a wrong node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// The owner has just claimed it, and the deciding node has not heard of that yet.
    OnItsWay,
    /// No packet passes between the deciding node and the owner.
    Cut,
    /// The owner's daemon is dead, so that its node counts as down, although its proxy goes on.
    OwnerDead,
    /// The same, but its daemon is stopped.
    OwnerStalled,
    /// Both daemons run, but are not linked again yet, or what the owner claimed before is on its way.
    Unlinked,
    /// The owner's daemon was dead or stopped when the owner claimed, and has told nobody yet.
    Untold,
    /// The deciding node has no daemon that would have heard of the claim, and no peer was asked.
    NoDaemon,
    /// The same, but its daemon is stopped.
    Stalled,
    /// The owner's claim is of an epoch that is over: it was made before its daemon saw that the proxy had restarted.
    Stale,
    /// Two nodes have it: it was sent to the other one.
    Contested,
    /// A node without a daemon sent it to another one for its daemon to decide, and that had none either.
    RelayedInVain,
    /// The deciding node's daemon was stopped while it held it, and let it go before it read what its peers said.
    HeldTooLong,
    /// The deciding node's ring buffer for punted packets was full.
    Overflowed,
    /// None of these.
    Unknown,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::OnItsWay,
        Self::Cut,
        Self::OwnerDead,
        Self::OwnerStalled,
        Self::Unlinked,
        Self::Untold,
        Self::NoDaemon,
        Self::Stalled,
        Self::Stale,
        Self::Contested,
        Self::RelayedInVain,
        Self::HeldTooLong,
        Self::Overflowed,
        Self::Unknown,
    ];

    /// Its name in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OnItsWay => "owner's claim on its way",
            Self::Cut => "cut off from the owner",
            Self::OwnerDead => "owner's daemon dead",
            Self::OwnerStalled => "owner's daemon stalled",
            Self::Unlinked => "not linked with the owner again yet",
            Self::Untold => "owner's daemon was away when it claimed",
            Self::NoDaemon => "no daemon here, peers not asked",
            Self::Stalled => "daemon here stalled",
            Self::Stale => "owner's claim of an epoch that is over",
            Self::Contested => "two nodes have it",
            Self::RelayedInVain => "relayed to a node without a daemon",
            Self::HeldTooLong => "held over a stall of the daemon here",
            Self::Overflowed => "too many punts",
            Self::Unknown => "unknown",
        }
    }
}

impl Simulation {
    /// Why `host` has got a message of which another node has the transaction.
    pub(super) fn cause(&self, host: usize, message: Message, way: Way) -> Cause {
        let decider = match way {
            Way::Tunnel { by } | Way::Held { by } | Way::Relayed { by } => by,
            Way::Overflowed => return Cause::Overflowed,
            Way::Landed | Way::Unasked { is_relayed: false } => host,
            Way::Unasked { is_relayed: true } => return Cause::RelayedInVain,
        };
        let transaction = &self.transactions[message.transaction];
        let has_it = |leg: &&traffic::Leg| {
            leg.host != host
                && self.hosts[leg.host].has_proxy
                && self.hosts[leg.host].proxy_incarnation == leg.incarnation
        };
        let Some(leg) = transaction.legs.iter().find(has_it) else { return Cause::Unknown };
        let key = if message.step.class() == Class::Reply { leg.reply_key } else { transaction.request_key };
        let took_it = self.reference.made_us(key, host, self.hosts[host].kernel.epoch(), self.now_us);
        let cause = self.between(decider, leg.host, key);
        if !matches!(cause, Cause::Unknown) {
            return cause;
        }
        if took_it.is_some_and(|made_us| made_us < self.now_us) {
            return Cause::Contested;
        }
        let has_waited = matches!(way, Way::Held { .. }) && self.has_just_gone_on(decider);
        if has_waited { Cause::HeldTooLong } else { cause }
    }

    fn has_just_gone_on(&self, host: usize) -> bool {
        self.now_us < self.hosts[host].went_on_us + TRANSIT_US
    }

    fn between(&self, decider: usize, owner: usize, key: u64) -> Cause {
        let (here, there) = (&self.hosts[decider], &self.hosts[owner]);
        let now = here.now(self.now_us);
        let Some(made_us) = self.reference.made_us(key, owner, there.kernel.epoch(), self.now_us) else {
            return Cause::Stale;
        };
        if !self.network.is_open(decider, owner) {
            return Cause::Cut;
        }
        let is_up = here.kernel.peer(usize::from(there.node.number())).is_some_and(|peer| peer.up);
        if !is_up && decider != owner {
            return match (&there.daemon, there.stalled_us) {
                (None, _) => Cause::OwnerDead,
                (Some(_), Some(_)) => Cause::OwnerStalled,
                (Some(_), None) => Cause::Unlinked,
            };
        }
        let other = |id: NodeId| host_of(id) != owner;
        match here.kernel.owner(key, now) {
            Found::Peer(peer) if other(peer) => return Cause::Contested,
            Found::Own if decider != owner => return Cause::Contested,
            Found::Nothing | Found::OtherBranch | Found::Own | Found::Peer(_) => {}
        }
        if there.claims.iter().any(|(_, told)| told.claim.key == key) {
            return Cause::Untold;
        }
        match (&here.daemon, here.stalled_us) {
            (None, _) => Cause::NoDaemon,
            (Some(_), Some(_)) => Cause::Stalled,
            (Some(_), None) if self.now_us < made_us + TRANSIT_US => Cause::OnItsWay,
            (Some(daemon), None) if !self.is_linked(decider, owner) || !daemon.node.is_synchronised() => {
                Cause::Unlinked
            }
            (Some(_), None) => Cause::Unknown,
        }
    }
}
