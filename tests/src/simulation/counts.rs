//! What is counted while a simulation runs.

use std::fmt;

use forwarder_core::{ages::Ages, failover::Note, node::Kind};

use super::{cause::Cause, traffic::Class};

/// What became of the messages of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fates {
    /// Messages that landed.
    pub landed: u64,
    /// Of these, sent to the owner by the kernel of the node where they landed.
    pub forwarded: u64,
    /// Of these, held and asked for.
    pub held: u64,
    /// Sent to a peer's daemon by a node that had none.
    pub relayed: u64,
    /// Met a proxy that has nothing to do with their transaction while one that has it runs.
    pub wrong: u64,
    /// Nobody had their transaction any more: its owner's proxy is gone.
    pub ownerless: u64,
    /// Sent to a node that was off, or over a path that was cut.
    pub lost: u64,
}

impl Fates {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            landed: self.landed + other.landed,
            forwarded: self.forwarded + other.forwarded,
            held: self.held + other.held,
            relayed: self.relayed + other.relayed,
            wrong: self.wrong + other.wrong,
            ownerless: self.ownerless + other.ownerless,
            lost: self.lost + other.lost,
        }
    }
}

/// What is counted apart: from one moment of a scenario to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Phase {
    /// Its name.
    pub name: &'static str,
    /// What became of the messages, by class.
    pub fates: [Fates; Class::ALL.len()],
    /// Why those that met a wrong node did, by [`Cause`].
    pub causes: [u64; Cause::ALL.len()],
    /// Hosts to which routes led: the fewest at any moment, and those at the end. `None`: no route came or went.
    pub routed: Option<(usize, usize)>,
}

/// What the failover machines have noted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// Stalls of a daemon's loop.
    pub stalls: u64,
    /// Of these, such that all others took the node for dead.
    pub cut_off: u64,
    /// Nodes that were forgotten by all their peers at once.
    pub away: u64,
    /// Peers that were given up, each by each of its peers.
    pub down: u64,
    /// Proxies that have stopped or restarted.
    pub proxies_ended: u64,
    /// Epochs that were given up because peers knew them from before.
    pub epochs_taken: u64,
}

impl Noted {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            stalls: self.stalls + other.stalls,
            cut_off: self.cut_off + other.cut_off,
            away: self.away + other.away,
            down: self.down + other.down,
            proxies_ended: self.proxies_ended + other.proxies_ended,
            epochs_taken: self.epochs_taken + other.epochs_taken,
        }
    }
}

impl fmt::Display for Noted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stalls, cut_off, away, down, proxies_ended, epochs_taken } = self;
        write!(
            f,
            "{stalls} stalls, {cut_off} of them longer than a lease; {away} nodes away; {down} peers given up;\n\
             {:18}{proxies_ended} proxies ended, {epochs_taken} epochs in use already",
            ""
        )
    }
}

/// What one kind of traffic between daemons came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// What it is; `None` are datagrams.
    pub kind: Option<Kind>,
    /// Messages sent.
    pub messages: u64,
    /// Their bytes, QUIC and what is below it not counted.
    pub bytes: u64,
}

/// Everything that is counted.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) phases: Vec<Phase>,
    pub(super) noted: Noted,
    pub(super) transactions: u64,
    pub(super) repeated: u64,
    /// How long held messages waited, and how much later than they landed forwarded ones reached a proxy.
    pub(super) waits: Ages,
    pub(super) forwards: Ages,
    traffic: Vec<Traffic>,
    /// By host, bytes of messages and datagrams.
    pub(super) sent_bytes: Vec<u64>,
    pub(super) received_bytes: Vec<u64>,
    pub(super) delivered: u64,
    /// Packets between daemons that the network lost.
    pub(super) lost: u64,
    /// Messages for a peer without a link.
    pub(super) unsent: u64,
    pub(super) links_up: u64,
    pub(super) links_down: u64,
    pub(super) protocol_errors: Vec<String>,
}

impl Counts {
    pub(super) fn new(hosts: usize) -> Self {
        let (sent_bytes, received_bytes) = (vec![0; hosts], vec![0; hosts]);
        let phases = vec![Phase { name: "all", ..Phase::default() }];
        Self { phases, sent_bytes, received_bytes, ..Self::default() }
    }

    /// The traffic between daemons is counted from now on.
    pub(super) fn begin(&mut self) {
        self.traffic.clear();
        self.sent_bytes.fill(0);
        self.received_bytes.fill(0);
    }

    /// What happens from now on counts for another phase.
    pub(super) fn phase(&mut self, name: &'static str) {
        if self.phases.len() == 1 && self.phases[0].fates == <[Fates; Class::ALL.len()]>::default() {
            self.phases.clear();
        }
        let routed = self.phases.last().and_then(|phase| phase.routed).map(|(_, hosts)| (hosts, hosts));
        self.phases.push(Phase { name, routed, ..Phase::default() });
    }

    /// Routes lead to so many hosts.
    pub(super) fn routed(&mut self, hosts: usize) {
        let last = self.phases.len() - 1;
        let routed = &mut self.phases[last].routed;
        *routed = Some((routed.map_or(hosts, |(fewest, _)| fewest.min(hosts)), hosts));
    }

    /// The present phase's account of a class.
    pub(super) fn fates(&mut self, class: Class) -> &mut Fates {
        let last = self.phases.len() - 1;
        &mut self.phases[last].fates[class as usize]
    }

    /// A message has met a wrong node.
    pub(super) fn wrong(&mut self, class: Class, cause: Cause) {
        self.fates(class).wrong += 1;
        let last = self.phases.len() - 1;
        self.phases[last].causes[cause as usize] += 1;
    }

    /// A failover machine has noted something.
    pub(super) const fn noted(&mut self, note: &Note) {
        let Noted { stalls, cut_off, away, down, proxies_ended, epochs_taken } = &mut self.noted;
        match note {
            Note::Stalled { cut_off: is_cut_off, .. } => {
                *stalls += 1;
                *cut_off += *is_cut_off as u64;
            }
            Note::Away => *away += 1,
            Note::Down(_) | Note::Unconfirmed(_) => *down += 1,
            Note::ProxyEnded(_) => *proxies_ended += 1,
            Note::EpochTaken => *epochs_taken += 1,
            Note::ProxyDown { .. } | Note::ProxyBack(_) | Note::KeptUp | Note::OtherVersion(_) => {}
        }
    }

    pub(super) fn sent(&mut self, from: usize, to: usize, kind: Option<Kind>, bytes: usize) {
        self.sent_bytes[from] += bytes as u64;
        self.received_bytes[to] += bytes as u64;
        let known = self.traffic.iter().position(|traffic| traffic.kind == kind);
        let at = known.unwrap_or_else(|| {
            self.traffic.push(Traffic { kind, messages: 0, bytes: 0 });
            self.traffic.len() - 1
        });
        self.traffic[at].messages += 1;
        self.traffic[at].bytes += bytes as u64;
    }

    /// Traffic between daemons by kind, the largest first.
    pub(super) fn traffic(&self) -> Vec<Traffic> {
        let mut traffic = self.traffic.clone();
        traffic.sort_by_key(|traffic| std::cmp::Reverse(traffic.bytes));
        traffic
    }
}
