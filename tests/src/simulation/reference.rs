//! The reference: somebody who sees everything at once, and what every node must agree on when all has come to rest.

use std::collections::{BTreeMap, BTreeSet};

use forwarder_common::{
    ids::{Epoch, NodeId},
    verdict::Found,
};
use forwarder_core::node::{LocalClaim, Now};

use super::{
    host::{Host, host_of},
    kernel::Told,
};

/// Claims nearer to their end than this, in microseconds, may be gone at one node and not yet at another: a tick of the
/// kernel's table is 4.3 s.
const MARGIN_US: u64 = 6_000_000;
/// Disagreements of one sort that are described.
const EXAMPLES: usize = 2;
/// How much longer than its owner says a claim may last elsewhere, in microseconds: the way there, lost packets
/// included.
const TRANSIT_US: u64 = 3_000_000;
/// How much longer yet in a kernel, in microseconds: two ticks by which lifetimes are rounded up, and the present one.
const TICKS_US: u64 = 12_900_000;
/// Most looks at single claims in one comparison: beyond it only every n-th key is looked at.
const LOOKS: usize = 8_000_000;

/// What one host has said of a key in one epoch.
#[derive(Clone, Copy, Debug)]
struct Said {
    host: usize,
    epoch: Epoch,
    /// The incarnation of the daemon that read the last word; 0 for none yet.
    incarnation: u32,
    /// By the owner's clock; 0 if the daemon does not know.
    claimed_at_unix_us: u64,
    /// When it was made, in virtual microseconds.
    made_us: u64,
    /// When it ends, in virtual microseconds, by its owner's last word, and at the latest by any.
    end_us: u64,
    longest_us: u64,
}

/// All that was ever claimed.
#[derive(Debug, Default)]
pub(super) struct Reference(BTreeMap<u64, Vec<Said>>);

/// What came of a comparison; from `missing` on all must be zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agreement {
    /// Live claims, each compared at every node.
    pub keys: usize,
    /// Keys that more than one living owner claims.
    pub contested: usize,
    /// Keys that may have been won by a claim that is ineffective or over since, or of which two owners have forgotten
    /// that they claimed them: the others' claims, or those, may come back with their proxies' next messages only. If
    /// one owner is left, or goes by its own claim alone, that is not compared.
    pub overtaken: usize,
    /// Keys that more than one living owner claims, of which one has forgotten it by its daemon's restart, because its
    /// kernel had another's claim then. All nodes are compared with each other.
    pub forgotten: usize,
    /// Claims that a node does not have.
    pub missing: usize,
    /// Claims of which a node holds another owner than those that claim the key have settled on, or that they have not
    /// settled.
    pub wrong: usize,
    /// Claims that a node's kernel places elsewhere than its core does.
    pub kernel_differs: usize,
    /// Claims that a node's kernel would go by although their owner or its epoch is gone.
    pub ineffective_believed: usize,
    /// Claims that last longer at a node than their owner ever said.
    pub outlive: usize,
    /// Claims that last longer in a node's core or kernel than their owner said last, because it ended them earlier.
    pub not_shortened: usize,
    /// Claims that end earlier at a node than their owner said last.
    pub cut_short: usize,
    /// Of the forgotten ones, such of which two nodes hold different owners.
    pub split: usize,
    /// The first disagreements in words.
    pub examples: Vec<String>,
}

impl Agreement {
    /// Whether all nodes agree with the reference.
    #[must_use]
    pub const fn holds(&self) -> bool {
        let owners = self.missing + self.wrong + self.kernel_differs + self.ineffective_believed + self.split;
        owners + self.outlive + self.not_shortened + self.cut_short == 0
    }
}

impl Reference {
    /// Takes what a host's egress program said.
    pub(super) fn take(&mut self, node: NodeId, told: Told, at_us: u64) {
        let (claim, epoch, index) = (told.claim, told.claim.epoch, host_of(node));
        let end_us = at_us + claim.remaining_ms * 1000;
        let all = self.0.entry(claim.key).or_default();
        let known = all.iter_mut().find(|said| said.host == index && said.epoch == epoch && said.end_us > at_us);
        if let Some(said) = known {
            said.end_us = end_us;
            said.longest_us = said.longest_us.max(end_us);
        } else {
            all.retain(|said| said.longest_us > at_us);
            all.push(Said {
                host: index,
                epoch,
                incarnation: 0,
                claimed_at_unix_us: claim.claimed_at_unix_us,
                made_us: at_us,
                end_us,
                longest_us: end_us,
            });
        }
    }

    /// A host's daemon has said that its claim ends earlier or later than its egress program did.
    pub(super) fn set_end(&mut self, node: NodeId, key: u64, epoch: Epoch, end_us: u64) {
        let all = self.0.get_mut(&key).into_iter().flatten();
        if let Some(said) = all.rev().find(|said| said.host == host_of(node) && said.epoch == epoch) {
            said.end_us = end_us;
            said.longest_us = said.longest_us.max(end_us);
        }
    }

    /// A host's daemon has read what the egress program said. To one that did not know of the claim it is a new one.
    pub(super) fn read(&mut self, node: NodeId, incarnation: u32, told: Told) {
        let (claim, epoch, index) = (told.claim, told.claim.epoch, host_of(node));
        let all = self.0.get_mut(&claim.key).into_iter().flatten();
        let Some(said) = all.rev().find(|said| said.host == index && said.epoch == epoch) else { return };
        if said.incarnation != incarnation {
            (said.incarnation, said.claimed_at_unix_us) = (incarnation, claim.claimed_at_unix_us);
        }
    }

    /// A host's new daemon was given these claims by the maps: to it they were made before all others.
    pub(super) fn restore(&mut self, host: &Host, claims: &[LocalClaim], at_us: u64) {
        let (index, epoch) = (host_of(host.node), host.kernel.epoch());
        for claim in claims {
            let all = self.0.get_mut(&claim.key).into_iter().flatten();
            let Some(said) = all.rev().find(|said| said.host == index && said.epoch == epoch) else { continue };
            (said.claimed_at_unix_us, said.incarnation) = (0, host.incarnation);
            // Else the ring buffer has the last word.
            if !host.claims.iter().any(|(_, told)| told.claim.key == claim.key && !told.is_kept()) {
                said.end_us = at_us + claim.remaining_ms * 1000;
                said.longest_us = said.longest_us.max(said.end_us);
            }
        }
    }

    /// When a host made its claim of a key under an epoch, in virtual microseconds, if it has not ended by `at_us`.
    pub(super) fn made_us(&self, key: u64, host: usize, epoch: Epoch, at_us: u64) -> Option<u64> {
        let of_it = |said: &&Said| said.host == host && said.epoch == epoch && said.end_us > at_us;
        self.0.get(&key)?.iter().find(of_it).map(|said| said.made_us)
    }

    /// Compares all nodes that run with the reference.
    pub(super) fn compare(&self, hosts: &[Host], at_us: u64) -> Agreement {
        let mut agreement = Agreement::default();
        let step = (self.0.len() * hosts.len()).div_ceil(LOOKS).max(1);
        for (key, all) in self.0.iter().step_by(step) {
            let lives = |said: &&Said| {
                let host = &hosts[said.host];
                said.end_us > at_us + MARGIN_US && host.is_powered && host.kernel.epoch() == said.epoch
            };
            let living: Vec<Said> = all.iter().filter(lives).copied().collect();
            let is_overtaken = !living.is_empty() && overtaken(hosts, all, at_us);
            agreement.keys += usize::from(!living.is_empty());
            agreement.contested += usize::from(living.len() > 1);
            agreement.overtaken += usize::from(is_overtaken);
            let is_forgotten = living.len() > 1 && living.iter().any(|said| is_forgotten(hosts, said));
            agreement.forgotten += usize::from(is_forgotten && !is_overtaken);
            // Which of several it is they settle among themselves; that must be one.
            let holds = |said: &&Said| living.len() == 1 || holds_itself(hosts, said, *key, at_us);
            let mut holders = living.iter().filter(holds);
            let owner = match (holders.next(), holders.next()) {
                (_, Some(_)) | (None, None) if is_forgotten || is_overtaken => {
                    agreement.look_among(hosts, *key, all, at_us);
                    continue;
                }
                (owner, None) if owner.is_some() || living.is_empty() => owner.copied(),
                _ => {
                    agreement.wrong += 1;
                    agreement.example("not settled", || format!("{key:016x}: {living:?} of {all:?}"));
                    continue;
                }
            };
            if is_overtaken && living.len() == 1 {
                continue;
            }
            for host in hosts.iter().filter(|host| host.daemon.is_some()) {
                agreement.look(hosts, host, *key, owner, all, at_us);
            }
        }
        agreement
    }
}

impl Agreement {
    fn look(&mut self, hosts: &[Host], host: &Host, key: u64, owner: Option<Said>, all: &[Said], at_us: u64) {
        let now = host.now(at_us);
        let placed = match host.kernel.owner(key, now) {
            Found::Nothing | Found::OtherBranch => None,
            Found::Own => Some(host_of(host.node)),
            Found::Peer(peer) => Some(host_of(peer)),
        };
        let mut broken = Vec::new();
        if placed.is_some_and(|index| is_ineffective(hosts, host, index, all)) {
            self.ineffective_believed += 1;
            broken.push("ineffective believed");
        }
        if let Some(owner) = owner {
            broken.extend(self.look_at_living(hosts, host, key, owner, placed, at_us));
        }
        for sort in broken {
            self.example(sort, || {
                let held = host.daemon.as_ref().and_then(|daemon| daemon.node.claim(key, now));
                let place = host_of(host.node);
                format!("{key:016x} at host {place}: core {held:?}, kernel {placed:?}, reference {owner:?} of {all:?}")
            });
        }
    }

    /// Compares all nodes with each other.
    fn look_among(&mut self, hosts: &[Host], key: u64, all: &[Said], at_us: u64) {
        let nodes = hosts.iter().filter(|host| host.daemon.is_some());
        let placed = |host: &Host| match host.kernel.owner(key, host.now(at_us)) {
            Found::Nothing | Found::OtherBranch => None,
            Found::Own => Some(host_of(host.node)),
            Found::Peer(peer) => Some(host_of(peer)),
        };
        let cores = nodes.clone().filter_map(|host| Some(belief(host, key, at_us)?.0));
        let believed: BTreeSet<usize> = nodes.clone().filter_map(placed).chain(cores).collect();
        if believed.len() > 1 {
            self.split += 1;
            self.example("split", || {
                let views = nodes.map(|host| {
                    (host_of(host.node), host.incarnation, belief(host, key, at_us).map(|b| b.0), placed(host))
                });
                format!("{key:016x}: {:?} of {all:?}", views.collect::<Vec<_>>())
            });
        }
    }

    fn example(&mut self, sort: &str, describe: impl FnOnce() -> String) {
        if self.examples.iter().filter(|example| example.starts_with(sort)).count() < EXAMPLES {
            self.examples.push(format!("{sort}: {}", describe()));
        }
    }

    fn look_at_living(
        &mut self,
        hosts: &[Host],
        host: &Host,
        key: u64,
        owner: Said,
        placed: Option<usize>,
        at_us: u64,
    ) -> Option<&'static str> {
        // A daemon that took over a running kernel does not know what was claimed before, nor what was said of it; the
        // kernel does.
        let orphaned = is_forgotten(hosts, &owner);
        let Some((held, expires_us)) = belief(host, key, at_us) else {
            if orphaned || host.incarnation > 1 && placed == Some(owner.host) {
                return None;
            }
            self.missing += 1;
            return Some("missing");
        };
        if held != owner.host {
            self.wrong += 1;
            return Some("wrong");
        }
        let kernel_us = at_us + host.kernel.remaining_us(key, host.now(at_us));
        // What has waited in the socket of a daemon that was stopped lasts from then on.
        let transit_us = TRANSIT_US + host.longest_stall_us;
        if !orphaned && (expires_us > owner.end_us + transit_us || kernel_us > owner.end_us + transit_us + TICKS_US) {
            self.not_shortened += 1;
            return Some("not shortened");
        }
        if !orphaned && expires_us + TRANSIT_US < owner.end_us {
            self.cut_short += 1;
            return Some("cut short");
        }
        if placed != Some(held) {
            self.kernel_differs += 1;
            return Some("kernel differs");
        }
        if expires_us > owner.longest_us + transit_us {
            self.outlive += 1;
            return Some("longer than said");
        }
        None
    }
}

/// Whether an owner's daemon was restarted after the last word about its claim.
fn is_forgotten(hosts: &[Host], said: &Said) -> bool {
    said.incarnation != hosts[said.host].incarnation
}

/// Whether the key may have been won by a claim that is ineffective now or that its owner has ended since, or was
/// claimed by two owners that have forgotten it.
fn overtaken(hosts: &[Host], all: &[Said], at_us: u64) -> bool {
    let is_gone = |said: &Said| {
        let host = &hosts[said.host];
        !host.is_powered || host.kernel.epoch() != said.epoch || said.end_us <= at_us + MARGIN_US
    };
    let forgotten = all.iter().filter(|said| is_forgotten(hosts, said)).count();
    all.len() > 1 && (all.iter().any(is_gone) || forgotten > 1)
}

/// Whether the host that has said so goes by its own claim.
fn holds_itself(hosts: &[Host], said: &Said, key: u64, at_us: u64) -> bool {
    let host = &hosts[said.host];
    match belief(host, key, at_us) {
        Some((owner, _)) => owner == said.host,
        None => matches!(host.kernel.owner(key, host.now(at_us)), Found::Own),
    }
}

/// Whom a node's core holds to be a key's owner, and until when in virtual time.
fn belief(host: &Host, key: u64, at_us: u64) -> Option<(usize, u64)> {
    let now: Now = host.now(at_us);
    let entry = host.daemon.as_ref()?.node.claim(key, now)?;
    Some((host_of(entry.owner), host.virtual_us(entry.expires_us)))
}

/// Whether the claim of `index` that a kernel goes by is of an owner that is gone, or of an epoch that is.
fn is_ineffective(hosts: &[Host], host: &Host, index: usize, all: &[Said]) -> bool {
    let owner = &hosts[index];
    let epoch = owner.kernel.epoch();
    let is_live = if owner.node == host.node {
        host.kernel.epoch() == epoch
    } else {
        let peer = host.kernel.peer(usize::from(owner.node.number()));
        peer.is_some_and(|peer| peer.epochs == [epoch].into_iter().collect())
    };
    let is_known = all.iter().any(|said| said.host == index && said.epoch == epoch);
    !owner.is_powered || !is_live || !is_known
}
