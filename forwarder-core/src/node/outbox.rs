//! What is sent to the peers, and when.
//!
//! New claims go to all peers as stretches of the log: at once when nothing was sent for a while, else at most every
//! `max(100 µs, 25 µs a peer)`, because the cost of sending follows packets times peers. Each peer has a feed beside
//! that: what it has not got, because its link is new or has lost something, goes to it in large messages, of which so
//! many may be on their way. A claim's remaining lifetime is computed when it leaves, and one that lost or ended
//! meanwhile stays here.

use std::collections::BTreeMap;

use forwarder_common::ids::NodeId;

use super::claims::Claims;
use super::effects::Effects;
use super::output::Kind;
use super::ranges::Ranges;
use crate::now::Now;
use crate::wire::{self, BATCH_CLAIMS, Message, Repair, SNAPSHOT_CLAIMS, STRETCH_NUMBERS};

/// Shortest pause between two flushes in microseconds.
const PAUSE_US: u64 = 100;
/// What each peer adds to the pause in microseconds.
const PAUSE_PER_PEER_US: u64 = 25;
/// Most claims waiting for all peers: more than half a second at 100,000 claims/s. Beyond it the oldest are left to the
/// digest.
const WAITING_CLAIMS: u64 = 65_536;
/// Most messages for each peer in one flush; what is left goes in the next one.
const FLUSH_MESSAGES: usize = 64;
/// Pause between two steps of the feeds in microseconds.
const FEED_US: u64 = 2_000;
/// Numbers looked at in one step, for all feeds: about a millisecond, 4 million claims a second.
const FEED_NUMBERS: u64 = 8_192;
/// Messages of one feed on their way: 2 MB, so that a slow link delays them and loses none.
const FEED_PIECES: u32 = 256;
/// Most ranges that one feed keeps; beyond it the gap between the last two is sent as well.
const FEED_RANGES: usize = 4_096;
/// A feed whose peer reports nothing new for so long, in microseconds, has lost what was on its way.
const STALLED_US: u64 = 1_000_000;

/// What one peer has not got.
#[derive(Debug, Default)]
struct Feed {
    pending: Ranges,
    /// Messages sent over the present link, and how many of them have arrived.
    pieces: u32,
    arrived: u32,
    /// The peer has said that it has all below, and this hello.
    confirmed: u64,
    greeted: Option<u32>,
    /// When a message left or was reported to have arrived, in microseconds.
    moved_us: u64,
}

impl Feed {
    const fn on_their_way(&self) -> u32 {
        self.pieces.wrapping_sub(self.arrived)
    }

    fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.on_their_way() == 0
    }

    fn may_send(&self) -> bool {
        !self.pending.is_empty() && self.on_their_way() < FEED_PIECES
    }

    fn add(&mut self, from: u64, to: u64) {
        self.pending.insert(from, to);
        if self.pending.len() > FEED_RANGES
            && let (Some((_, end)), Some((start, _))) = (self.pending.pop_last(), self.pending.pop_last())
        {
            self.pending.insert(start, end);
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// All below was sent, or is in the feeds.
    sent: u64,
    feeds: BTreeMap<NodeId, Feed>,
    flush_at_us: Option<u64>,
    flushed_us: Option<u64>,
    feed_at_us: Option<u64>,
}

impl Outbox {
    /// Claims below `next` are logged for all `peers` peers; how many older ones do not wait any more because too many
    /// do.
    pub(super) fn push(&mut self, next: u64, now: Now, peers: usize) -> u64 {
        if peers == 0 {
            self.sent = next;
            return 0;
        }
        let given_up = next.saturating_sub(self.sent).saturating_sub(WAITING_CLAIMS);
        self.sent += given_up;
        self.schedule(now, peers);
        given_up
    }

    /// Sends one of the claims once more, to one peer that claimed it in vain.
    pub(super) fn assert_to(&mut self, peer: NodeId, number: u64, now: Now) {
        if number < self.sent {
            self.feed(peer, number, number + 1, now);
        }
    }

    /// A peer has introduced itself on a new link, and has all below `have`.
    pub(super) fn begin(&mut self, peer: NodeId, have: u64, now: Now) {
        let from = have.min(self.sent);
        self.feeds.insert(peer, Feed { confirmed: from, moved_us: now.monotonic_us, ..Feed::default() });
        self.feed(peer, from, self.sent, now);
    }

    /// A peer says what has arrived; how many numbers it is sent again.
    pub(super) fn reported(&mut self, peer: NodeId, repair: &Repair, now: Now) -> u64 {
        let (sent, mut again) = (self.sent, 0_u64);
        let Some(feed) = self.feeds.get_mut(&peer) else { return 0 };
        feed.greeted = Some(repair.sequence);
        feed.confirmed = feed.confirmed.max(repair.below.min(sent));
        let is_new = repair.pieces.wrapping_sub(feed.arrived) <= feed.on_their_way() && repair.pieces != feed.arrived;
        if is_new {
            (feed.arrived, feed.moved_us) = (repair.pieces, now.monotonic_us);
        } else if now.monotonic_us.saturating_sub(feed.moved_us) >= STALLED_US {
            (feed.arrived, feed.pieces, feed.moved_us) = (repair.pieces, repair.pieces, now.monotonic_us);
        }
        // What is still on its way is not missing.
        if feed.is_idle() {
            for (from, to) in &repair.missing {
                again = again.saturating_add((*to).min(sent).saturating_sub(*from));
                self.feed(peer, *from, (*to).min(sent), now);
            }
        }
        self.feed_at_us.get_or_insert(now.monotonic_us);
        again
    }

    /// Drops what waits for one peer only.
    pub(super) fn forget(&mut self, peer: NodeId) {
        self.feeds.remove(&peer);
    }

    /// Of the claims below `next`, those that wait to be sent to all peers.
    pub(super) fn waiting(&self, next: u64) -> usize {
        usize::try_from(next.saturating_sub(self.sent)).unwrap_or(usize::MAX)
    }

    /// All below was sent, or is in the feeds.
    pub(super) const fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether a peer has something to report: what it was fed, the hello of this sequence, or that it has all below
    /// `number`.
    pub(super) fn owes_report(&self, peer: NodeId, sequence: u32, number: u64) -> bool {
        let owes = |feed: &Feed| !feed.is_idle() || feed.greeted != Some(sequence) || feed.confirmed < number;
        self.feeds.get(&peer).is_some_and(owes)
    }

    pub(super) fn due_us(&self) -> Option<u64> {
        [self.flush_at_us, self.feed_at_us].into_iter().flatten().min()
    }

    /// Sends what is due to the peers in `up`.
    pub(super) fn send(&mut self, sender: &mut Sender<'_>, up: &[NodeId]) {
        let now_us = sender.now.monotonic_us;
        let due = |at: Option<u64>| at.is_some_and(|at| at <= now_us);
        if due(self.flush_at_us) {
            self.flush(sender, up);
        }
        if due(self.feed_at_us) {
            self.step_feeds(sender);
        }
    }

    fn feed(&mut self, peer: NodeId, from: u64, to: u64, now: Now) {
        if let Some(feed) = self.feeds.get_mut(&peer) {
            feed.add(from, to);
            self.feed_at_us.get_or_insert(now.monotonic_us);
        }
    }

    fn schedule(&mut self, now: Now, peers: usize) {
        let idle_from = self.flushed_us.map_or(0, |at| at.saturating_add(pause_us(peers)));
        self.flush_at_us.get_or_insert(idle_from.max(now.monotonic_us));
    }

    fn flush(&mut self, sender: &mut Sender<'_>, up: &[NodeId]) {
        let end = sender.claims.log().next();
        for _ in 0..FLUSH_MESSAGES {
            let to = end.min(self.sent + BATCH_CLAIMS as u64);
            if self.sent == to {
                break;
            }
            sender.batch(self.sent, to, up);
            self.sent = to;
        }
        self.flushed_us = Some(sender.now.monotonic_us);
        self.flush_at_us = None;
        if self.sent < end {
            self.schedule(sender.now, up.len());
        }
    }

    /// One message for each peer that waits for some, in turns, so that a large snapshot delays nobody's small one.
    fn step_feeds(&mut self, sender: &mut Sender<'_>) {
        let mut budget = FEED_NUMBERS;
        let mut is_done = false;
        while budget > 0 && !is_done {
            is_done = true;
            for (peer, feed) in &mut self.feeds {
                if budget == 0 || !feed.may_send() {
                    continue;
                }
                let Some((from, to)) = feed.pending.pop_first() else { continue };
                is_done = false;
                let (next, looks) = sender.snapshot(*peer, from, to, budget);
                budget = budget.saturating_sub(looks.max(1));
                feed.pending.insert(next, to);
                feed.pieces = feed.pieces.wrapping_add(1);
                feed.moved_us = sender.now.monotonic_us;
            }
        }
        let again = sender.now.monotonic_us.saturating_add(FEED_US);
        self.feed_at_us = self.feeds.values().any(Feed::may_send).then_some(again);
    }
}

fn pause_us(peers: usize) -> u64 {
    PAUSE_US.max(PAUSE_PER_PEER_US.saturating_mul(peers as u64))
}

/// Everything that turning numbers into messages needs.
pub(super) struct Sender<'a> {
    pub(super) claims: &'a Claims,
    /// Of the last hello to all peers.
    pub(super) sequence: u32,
    pub(super) effects: &'a mut Effects,
    pub(super) now: Now,
}

impl Sender<'_> {
    /// Sends the numbers `from..to` as they are logged, at most [`BATCH_CLAIMS`].
    fn batch(&mut self, from: u64, to: u64, peers: &[NodeId]) {
        let claims: Vec<wire::Claim> = (from..to).filter_map(|number| self.claims.numbered(number, self.now)).collect();
        self.effects.counters.batches_sent += peers.len() as u64;
        self.effects.counters.claims_sent += (claims.len() * peers.len()) as u64;
        self.effects.send_to_all(peers, &Message::Batch(self.stretch(from, to, claims)), Kind::Batch);
    }

    /// Sends the next message for a feed, of what still counts of `from..to`; where to go on, and how many numbers were
    /// looked at.
    fn snapshot(&mut self, peer: NodeId, from: u64, to: u64, budget: u64) -> (u64, u64) {
        let most = to.min(from.saturating_add(u64::from(u32::MAX)));
        let (mut claims, mut at, mut looks) = (Vec::new(), from, 0);
        while looks < budget && claims.len() < SNAPSHOT_CLAIMS {
            at = self.claims.log().skip_ended(at, most, self.now.monotonic_us);
            if at >= most || at - from >= STRETCH_NUMBERS {
                break;
            }
            claims.extend(self.claims.numbered(at, self.now));
            at += 1;
            looks += 1;
        }
        self.effects.counters.snapshots_sent += 1;
        self.effects.counters.claims_sent += claims.len() as u64;
        self.effects.send(peer, &Message::Snapshot(self.stretch(from, at, claims)), Kind::Snapshot);
        (at, looks)
    }

    fn stretch(&self, from: u64, to: u64, claims: Vec<wire::Claim>) -> wire::Claims {
        wire::Claims { first: from, span: (to - from) as u32, sequence: self.sequence, claims }
    }
}
