//! Says why a message met a wrong node: what stood between the node that decided and the one that has the transaction.

use forwarder_common::{ids::NodeId, verdict::Found};

use super::{
    cause::Cause,
    event::Way,
    host::host_of,
    links::Links,
    traffic::{self, Class, Message, Transaction},
    world::World,
};

/// How long a claim may take to a peer with which its owner is linked, in microseconds: the farthest way, and losses.
const TRANSIT_US: u64 = 1_500_000;

/// Who says why, with all that it looks at.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    pub(super) world: &'a World,
    pub(super) links: &'a Links,
    pub(super) transactions: &'a [Transaction],
}

impl Judge<'_> {
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
                && self.world.hosts[leg.host].has_proxy
                && self.world.hosts[leg.host].proxy_incarnation == leg.incarnation
        };
        let Some(leg) = transaction.legs.iter().find(has_it) else { return Cause::Unknown };
        let key = if message.step.class() == Class::Reply { leg.reply_key } else { transaction.request_key };
        let took_it = self.world.reference.made_us(key, host, self.world.hosts[host].kernel.epoch(), self.world.now_us);
        let cause = self.between(decider, leg.host, key);
        if !matches!(cause, Cause::Unknown) {
            return cause;
        }
        if took_it.is_some_and(|made_us| made_us < self.world.now_us) {
            return Cause::Contested;
        }
        let has_waited = matches!(way, Way::Held { .. }) && self.has_just_gone_on(decider);
        if has_waited { Cause::HeldTooLong } else { cause }
    }

    fn has_just_gone_on(&self, host: usize) -> bool {
        self.world.now_us < self.world.hosts[host].went_on_us + TRANSIT_US
    }

    fn between(&self, decider: usize, owner: usize, key: u64) -> Cause {
        let (here, there) = (&self.world.hosts[decider], &self.world.hosts[owner]);
        let now = here.now(self.world.now_us);
        let Some(made_us) = self.world.reference.made_us(key, owner, there.kernel.epoch(), self.world.now_us) else {
            return Cause::Stale;
        };
        if !self.world.network.is_open(decider, owner) {
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
            // What was claimed before the owner's daemon was stopped may have left only when it went on.
            (Some(_), None) if self.world.now_us < made_us.max(there.went_on_us) + TRANSIT_US => Cause::OnItsWay,
            (Some(daemon), None) if !self.links.is_linked(decider, owner) || !daemon.node.is_synchronised() => {
                Cause::Unlinked
            }
            (Some(_), None) => Cause::Unknown,
        }
    }
}
