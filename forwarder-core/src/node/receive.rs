//! What a node does with its peers' messages. Their order is free but for the first hello of a link, so a claim may come before the
//! hello that makes it valid, and an old hello after a new one.

use forwarder_common::ids::{Epoch, NodeId};

use super::{Node, Now, ProtocolError, is_void, peer_write};
use crate::store::{Entry, Merged, Word};
use crate::wire::{Claim, Claims, Hello, Message};

/// An end that moves by more than this, in microseconds, is worth a write into the kernel's map, whose own clock ticks in 4.3 s; what
/// is less is the jitter of the way here.
const MOVE_US: u64 = 500_000;

impl Node {
    pub(super) fn take(&mut self, peer: NodeId, bytes: &[u8], now: Now) -> Result<(), ProtocolError> {
        // A message may still wait in the shell's queue when its link is gone.
        let Some(state) = self.peers.get_mut(&peer).filter(|state| state.linked) else { return Ok(()) };
        let message = Message::decode(bytes).map_err(ProtocolError::Wire)?;
        if !state.budget.spend(message.claims(), now) {
            return Err(ProtocolError::Flood);
        }
        match message {
            Message::Hello(hello) => return self.take_hello(peer, hello, now),
            _ if !state.introduced => return Err(ProtocolError::BeforeHello),
            Message::Batch(claims) => {
                self.counters.batches_received += 1;
                self.take_batch(peer, claims, now);
            }
            Message::Snapshot(claims) => {
                self.counters.snapshots_received += 1;
                self.take_snapshot(peer, &claims, now);
            }
            Message::Ask(asks) => self.take_asks(peer, &asks, now),
            Message::Answer(answers) => self.take_answers(peer, &answers, now),
            Message::Digest(digest) => self.take_digest(peer, digest),
            Message::Repair(repair) => self.take_repair(peer, &repair, now),
        }
        Ok(())
    }

    fn take_hello(&mut self, peer: NodeId, hello: Hello, now: Now) -> Result<(), ProtocolError> {
        // While the peer does not count yet: it gets the asks of this turn below.
        self.send_asks();
        let life = self.life();
        let Some(state) = self.peers.get_mut(&peer) else { return Ok(()) };
        let first = !state.introduced;
        if !first && state.inbox.life() != hello.life {
            return Err(ProtocolError::OtherLife);
        }
        if !first && state.hello.is_some_and(|held| hello.sequence.wrapping_sub(held.sequence) > u32::MAX / 2) {
            // A newer one has overtaken it.
            return Ok(());
        }
        let same = |held: Hello| {
            (held.state, held.epoch, held.underlay, held.listen)
                == (hello.state, hello.epoch, hello.underlay, hello.listen)
        };
        let changed = !state.up || !state.hello.is_some_and(same);
        let forgets = state.hello.is_some_and(|held| held.life != hello.life && held.epoch == hello.epoch);
        if let (None, Some(epoch)) = (state.hello, hello.your_epoch) {
            // It has not heard of this life yet when it says its first word.
            self.earlier_epochs |= 1 << epoch.number();
        }
        (state.hello, state.introduced, state.up) = (Some(hello), true, true);
        self.store.set_epoch(peer, hello.epoch);
        if first {
            state.inbox.begin(hello.life, hello.next);
            self.outbox.begin(peer, if hello.your_life == life { hello.have } else { 0 }, now);
        }
        let early = state.inbox.take_early();
        self.count_introduced();
        if changed {
            self.outputs.push_back(peer_write(peer, true, hello));
            self.revive_beaten(peer, now);
            self.end_asks_that_stand(now);
        }
        if first {
            self.ask_again(peer);
            self.members.introduced(peer, hello.listen, now);
            if forgets {
                self.remind(peer, now);
            }
        }
        // It is to be confirmed, by a digest if nothing else is said.
        self.digests.schedule(now);
        for claims in early {
            // Of the sixteen numbers of epochs the eight before the present one are behind it.
            if claims.epoch.number().wrapping_sub(hello.epoch.number()) & 0xf >= 8 {
                // It was not early but late, and would seem valid when its epoch's number comes round.
                self.counters.batches_dropped += 1;
            } else {
                self.take_batch(peer, claims, now);
            }
        }
        Ok(())
    }

    fn take_batch(&mut self, peer: NodeId, claims: Claims, now: Now) {
        if self.is_void(peer, claims.epoch) {
            // Its hello is a moment behind, or it is of an epoch that is over. Its numbers stay missing.
            let kept = self.peers.get_mut(&peer).is_some_and(|state| state.inbox.keep_early(claims));
            self.counters.batches_dropped += u64::from(!kept);
            return;
        }
        for claim in &claims.claims {
            self.take_claim(peer, claims.epoch, claim, claim.word == 0, now);
        }
        self.got(peer, &claims);
    }

    fn take_snapshot(&mut self, peer: NodeId, claims: &Claims, now: Now) {
        let was_complete = self.peers.get(&peer).is_some_and(|state| state.inbox.is_complete());
        if !self.is_void(peer, claims.epoch) {
            for claim in &claims.claims {
                self.take_claim(peer, claims.epoch, claim, false, now);
            }
            self.got(peer, claims);
        }
        if self.peers.get_mut(&peer).is_some_and(|state| state.inbox.piece(was_complete)) {
            self.report(peer, 0);
        }
    }

    fn got(&mut self, peer: NodeId, claims: &Claims) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.inbox.got(claims.first, claims.first.saturating_add(u64::from(claims.span)));
        }
    }

    /// Takes one claim of a peer; a void one is as good as none.
    pub(super) fn take_claim(&mut self, peer: NodeId, epoch: Epoch, claim: &Claim, fresh: bool, now: Now) {
        self.counters.claims_received += 1;
        if is_void(&self.settings, &self.peers, peer, epoch) {
            self.counters.claims_void += 1;
            return;
        }
        self.counters.claims_from_the_future += u64::from(claim.claimed_at_unix_us > now.unix_us);
        let session = self.peers.get(&peer).map_or(0, |state| state.session);
        let entry = Entry {
            owner: peer,
            epoch,
            // As its owner says, whatever this host's clock: all nodes must compare the same numbers.
            claimed_at_unix_us: claim.claimed_at_unix_us,
            expires_us: now.monotonic_us.saturating_add(u64::from(claim.remaining_ms) * 1000),
            mark: 0,
            word: Word { session, number: claim.word },
        };
        let me = self.settings.node;
        let merged = self.merge(claim.key, entry, now);
        self.keep_loser(claim.key, entry, merged, now);
        match merged {
            Merged::New => {
                if fresh {
                    self.ages.record(now.unix_us.saturating_sub(claim.claimed_at_unix_us));
                }
                self.write(claim.key, true, now);
            }
            Merged::Known => {
                let worth_it = |held: Entry| held.expires_us.abs_diff(held.mark) > MOVE_US;
                if self.store.live(claim.key, now.monotonic_us).is_some_and(worth_it) {
                    self.write_claim(claim.key, now);
                }
            }
            Merged::Won(loser) => {
                self.counters.conflicts_lost += u64::from(loser.owner == me);
                self.write_claim(claim.key, now);
            }
            Merged::Lost(winner) if winner == me => {
                // The peer made its claim before it heard of this one, or did not hear of it.
                self.counters.conflicts_won += 1;
                if let Some(held) = self.store.live(claim.key, now.monotonic_us) {
                    self.outbox.assert_to(peer, held.mark, now);
                }
            }
            Merged::Lost(_) => {}
            Merged::Refused => self.counters.claims_refused += 1,
        }
        self.end_asks_for(claim.key, now);
    }
}
