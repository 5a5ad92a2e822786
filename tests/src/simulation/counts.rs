//! What is counted while a simulation runs.

use forwarder_core::ages::Ages;
use forwarder_core::node::Kind;

use super::traffic::Class;

/// What became of the messages of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fates {
    /// Messages that landed.
    pub landed: u64,
    /// Of these, sent to the owner by the kernel of the node where they landed.
    pub forwarded: u64,
    /// Of these, held and asked for.
    pub held: u64,
    /// Met a proxy that has nothing to do with their transaction while one that has it runs.
    pub wrong: u64,
    /// Nobody had their transaction any more: its owner's proxy is gone.
    pub ownerless: u64,
    /// Sent to a node that was off, or over a path that was cut.
    pub lost: u64,
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
    /// By phase, and in it by class.
    pub(super) phases: Vec<(&'static str, [Fates; Class::ALL.len()])>,
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
        let phases = vec![("all", Default::default())];
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
        if self.phases.len() == 1 && self.phases[0].1 == <[Fates; Class::ALL.len()]>::default() {
            self.phases.clear();
        }
        self.phases.push((name, Default::default()));
    }

    /// The present phase's account of a class.
    pub(super) fn fates(&mut self, class: Class) -> &mut Fates {
        let last = self.phases.len() - 1;
        &mut self.phases[last].1[class as usize]
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
