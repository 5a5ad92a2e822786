//! What was lost on the way is found and sent again.
//!
//! A link loses messages when its queue is full or they have waited for too long; and what was made while too much waited was never
//! sent. So a node that has sent something tells its peers a little later up to which number all should have arrived, each
//! peer knows by the numbers what it has not got, and asks for that. When nothing new is made, the last digest is repeated until the
//! peer has confirmed it.

use forwarder_common::ids::NodeId;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng as _, SeedableRng as _};

use super::{Kind, Node, Now, Output};
use crate::wire::{Digest, Message, Repair};

/// Least pause between two digests in microseconds: longer than any way and queue that is worth waiting for.
const DIGEST_US: u64 = 1_000_000;
/// The pause is longer by up to this, in microseconds, so that the nodes do not fall into step.
const JITTER_US: u64 = 250_000;

/// When the next digest is due, and what it says.
#[derive(Debug)]
pub(super) struct Digests {
    chance: Xoshiro256PlusPlus,
    at_us: Option<u64>,
    /// What was sent when the last digest was due: by the next one it should have arrived.
    mark: u64,
    /// The last digest's word.
    settled: u64,
}

impl Digests {
    pub(super) fn new(seed: u64) -> Self {
        let chance = Xoshiro256PlusPlus::seed_from_u64(seed);
        Self { chance, at_us: None, mark: 0, settled: 0 }
    }

    pub(super) const fn due_us(&self) -> Option<u64> {
        self.at_us
    }

    /// Something was sent.
    pub(super) fn schedule(&mut self, now: Now) {
        if self.at_us.is_none() {
            let pause = DIGEST_US + self.chance.next_u64() % JITTER_US;
            self.at_us = Some(now.monotonic_us.saturating_add(pause));
        }
    }
}

impl Node {
    /// Whether this node knows the claims of all its linked peers that they had when they were linked; true without any.
    #[must_use]
    pub fn is_synchronised(&self) -> bool {
        let mut linked = self.peers.values().filter(|peer| peer.linked);
        linked.all(|peer| peer.introduced && peer.inbox.is_complete())
    }

    pub(super) fn send_digests(&mut self, now: Now) {
        let (before, settled) = (self.digests.settled, self.digests.mark);
        self.digests.settled = settled;
        self.digests.mark = self.outbox.sent();
        // While there are new claims all the time, each digest has the next one behind it, and nobody needs to answer.
        let quiet = if self.digests.mark == settled { settled } else { 0 };
        let mut goes_on = self.digests.mark != settled;
        for peer in self.introduced() {
            let must_answer = self.outbox.owes_report(peer, self.greeting(peer), quiet);
            goes_on |= must_answer;
            if settled != before || must_answer {
                self.counters.digests_sent += 1;
                let message = Message::Digest(Digest { settled, must_answer }).encode();
                self.outputs.push_back(Output::Send { to: peer, message, kind: Kind::Digest });
            }
        }
        self.digests.at_us = None;
        if goes_on {
            self.digests.schedule(now);
        }
    }

    pub(super) fn take_digest(&mut self, peer: NodeId, digest: Digest) {
        self.counters.digests_received += 1;
        let is_missing = self.peers.get(&peer).is_some_and(|state| state.inbox.is_missing_below(digest.settled));
        if is_missing || digest.must_answer {
            self.report(peer, digest.settled);
        }
    }

    pub(super) fn take_repair(&mut self, peer: NodeId, repair: &Repair, now: Now) {
        if !repair.missing.is_empty() {
            self.counters.repairs_received += 1;
        }
        self.outbox.reported(peer, repair, now);
        if repair.sequence != self.greeting(peer) {
            // A hello was lost, or is on its way still: it may come twice.
            self.greet(peer);
        }
        self.digests.schedule(now);
    }

    /// The sequence of the last hello that a linked peer was sent.
    fn greeting(&self, peer: NodeId) -> u32 {
        self.peers.get(&peer).map_or(0, |state| state.greeting)
    }

    /// Tells a peer what of its claims has arrived, and what below `settled` has not.
    pub(super) fn report(&mut self, peer: NodeId, settled: u64) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let sequence = state.hello.map_or(0, |hello| hello.sequence);
        let repair = state.inbox.report(sequence, settled);
        if !repair.missing.is_empty() {
            self.counters.repairs_sent += 1;
        }
        let message = Message::Repair(repair).encode();
        self.outputs.push_back(Output::Send { to: peer, message, kind: Kind::Repair });
    }
}
