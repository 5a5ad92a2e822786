//! Asking the peers who owns a key, and answering them.
//!
//! The slow path asks for a response or CANCEL that no claim places. A peer speaks for itself alone: it answers with
//! its own claims of the keys, or with nothing. An ask ends once: with the first effective claim of its reply key (its
//! request key, if it has no other), however it comes; or when every peer that was asked has spoken or is gone; at the
//! latest after [`ASK_TIMEOUT_US`]. A call that crosses the edge twice has one request key and two owners: only the
//! reply key tells whose a reply is, so a claim of the request key alone waits for what the others say.
//!
//! A flood of packets that nobody owns is a flood of questions, each to all peers. All that this node asks takes a
//! tenth of its time, and of its peers' time together: questions wait for each other and share messages, and those that
//! would wait for too long are not asked. A peer that answers nothing is asked, but nobody waits for it.

use std::collections::{BTreeMap, BTreeSet};

use forwarder_common::ids::NodeId;

use super::budget::{ANSWERING, ASKING, ASKING_KERNELS, KERNEL_NS, Share, asks_ns};
use super::effects::Effects;
use super::output::{Kind, Output};
use crate::now::Now;
use crate::wire::{Answer, Ask, MESSAGE_ANSWERS, MESSAGE_ASKS, Message};

/// How long an ask is open at most, in microseconds. The hold is shorter; this bounds what a peer that never answers
/// costs.
const ASK_TIMEOUT_US: u64 = 1_000_000;
/// How long a peer may take before its kernel programs are asked as well, through the tunnel, in microseconds: its
/// daemon may be dead or the link cut. Twice fits into the default hold.
const ASK_KERNEL_US: u64 = 30_000;
/// Most asks open at a time: more than the slow path asks in [`ASK_TIMEOUT_US`], so that one silent peer fills it
/// never.
const OPEN_ASKS: usize = 16_384;
/// Most asks answered to one peer in one window: nearly twice what a peer's slow path asks in it, burst included.
const PEER_ASKS: u32 = 20_000;
/// The window of [`PEER_ASKS`] in microseconds.
const PEER_ASKS_US: u64 = 1_000_000;
/// How long a question may wait for others to be asked with, in microseconds: half of the default hold.
const LATE_US: u64 = 50_000;
/// Questions that a peer must have left unanswered to count as silent.
const SILENT_ASKS: u32 = 4;
/// How long it must have left the first of them unanswered, in microseconds: longer than a round trip.
const SILENT_US: u64 = 300_000;

/// An ask without an answer.
#[derive(Debug)]
pub(super) struct Open {
    /// The shell's name for it, which may come again later; the number in the messages never does.
    pub(super) ticket: u64,
    pub(super) request_key: u64,
    pub(super) reply_key: u64,
    /// The peers that have not answered yet.
    awaited: Vec<NodeId>,
    until_us: u64,
    /// When the kernel programs of those are asked; `None`: they were.
    kernels_us: Option<u64>,
}

impl Open {
    pub(super) const fn new(ticket: u64, request_key: u64, reply_key: u64, awaited: Vec<NodeId>, now: Now) -> Self {
        let until_us = now.monotonic_us.saturating_add(ASK_TIMEOUT_US);
        let kernels_us = Some(now.monotonic_us.saturating_add(ASK_KERNEL_US));
        Self { ticket, request_key, reply_key, awaited, until_us, kernels_us }
    }

    /// The key whose claim leaves nothing open.
    pub(super) const fn decisive(&self) -> u64 {
        if self.reply_key == 0 { self.request_key } else { self.reply_key }
    }
}

/// Asks of one peer in its present window, and what their answers have taken of its share.
#[derive(Debug, Default)]
struct Rate {
    since_us: u64,
    asks: u32,
    share: Share,
}

/// What a peer was asked since it answered last.
#[derive(Clone, Copy, Debug)]
struct Unanswered {
    since_us: u64,
    asks: u32,
}

#[derive(Debug, Default)]
pub(super) struct Asks {
    /// By number: in the order of their ends, because all wait equally long.
    open: BTreeMap<u64, Open>,
    /// (decisive key, number) of every open ask.
    keys: BTreeSet<(u64, u64)>,
    next: u64,
    /// The first ask whose kernel programs were not asked yet.
    kernels_from: u64,
    /// Numbers of this turn, to be sent together.
    unsent: Vec<u64>,
    /// Answers of this turn, to be sent together.
    answers: BTreeMap<NodeId, Vec<Answer>>,
    rates: BTreeMap<NodeId, Rate>,
    unanswered: BTreeMap<NodeId, Unanswered>,
    /// What questions to daemons have taken, and those to programs.
    asking: Share,
    asking_kernels: Share,
    /// The time of the last input: outputs are asked for without one.
    now: Now,
}

impl Asks {
    /// When the oldest ask has lived for long enough, kernel programs are to be asked, or there is time for what waits.
    pub(super) fn due_us(&self) -> Option<u64> {
        let unsent_us = (!self.unsent.is_empty()).then(|| self.asking.left_us());
        let kernels_us = self.open.range(self.kernels_from..).next().and_then(|(_, open)| open.kernels_us);
        let until_us = self.open.first_key_value().map(|(_, open)| open.until_us);
        kernels_us.into_iter().chain(until_us).chain(unsent_us).min()
    }

    /// Asks the kernel programs of the peers that have not answered in time.
    pub(super) fn ask_kernels(&mut self, now: Now, effects: &mut Effects) {
        // Asks are in the order of their beginnings.
        for (number, open) in self.open.range_mut(self.kernels_from..) {
            if open.kernels_us.is_some_and(|at_us| at_us > now.monotonic_us) {
                break;
            }
            open.kernels_us = None;
            self.kernels_from = number.wrapping_add(1);
            for to in &open.awaited {
                ask_kernel(&mut self.asking_kernels, *to, *number, open, now, effects);
            }
        }
    }

    /// Whether a peer leaves unanswered what it is asked.
    fn is_silent(&self, peer: NodeId, now: Now) -> bool {
        self.unanswered.get(&peer).is_some_and(|unanswered| {
            let since_us = now.monotonic_us.saturating_sub(unanswered.since_us);
            unanswered.asks >= SILENT_ASKS && since_us >= SILENT_US
        })
    }

    /// Those of these peers whose answers are waited for: all but the silent ones, unless there is no other.
    pub(super) fn awaited(&self, peers: Vec<NodeId>, now: Now) -> Vec<NodeId> {
        let answering: Vec<NodeId> = peers.iter().copied().filter(|peer| !self.is_silent(*peer, now)).collect();
        if answering.is_empty() { peers } else { answering }
    }

    /// A peer has answered something.
    pub(super) fn answered(&mut self, peer: NodeId) {
        self.unanswered.remove(&peer);
    }

    /// The ask with this number in the lower half of its own, if it is open.
    pub(super) fn by_low_half(&self, low: u32) -> Option<(u64, &Open)> {
        let number = (self.next & !u64::from(u32::MAX)) | u64::from(low);
        let number = if number < self.next { number } else { number.checked_sub(1 << 32)? };
        Some((number, self.open.get(&number)?))
    }

    /// Forgets what was to be said to `peer`, and what it has not answered.
    pub(super) fn forget(&mut self, peer: NodeId) {
        self.answers.remove(&peer);
        self.unanswered.remove(&peer);
    }

    /// Opens an ask of `linked` peers; false when too many are open, or when it would have to wait for too long.
    pub(super) fn open(&mut self, open: Open, linked: usize, now: Now) -> bool {
        self.now = now;
        // It goes with the last message that is not full; the others go before it.
        let before = self.unsent.len() - self.unsent.len() % MESSAGE_ASKS;
        let work_ns = asks_ns(before).saturating_mul(linked as u64);
        if self.open.len() >= OPEN_ASKS || !self.asking.bears(work_ns, ASKING, LATE_US, now) {
            return false;
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.keys.insert((open.decisive(), number));
        self.open.insert(number, open);
        self.unsent.push(number);
        true
    }

    fn close(&mut self, number: u64) -> Option<Open> {
        let open = self.open.remove(&number)?;
        self.keys.remove(&(open.decisive(), number));
        Some(open)
    }

    /// Ends and gives the asks that `key` decides.
    pub(super) fn close_for(&mut self, key: u64) -> Vec<Open> {
        let numbers: Vec<u64> = self.keys.range((key, 0)..=(key, u64::MAX)).map(|(_, number)| *number).collect();
        numbers.into_iter().filter_map(|number| self.close(number)).collect()
    }

    /// `peer` has spoken and has not decided the ask; the ask, if that ends it because nobody else is awaited.
    pub(super) fn heard(&mut self, number: u64, peer: NodeId) -> Option<Open> {
        let open = self.open.get_mut(&number)?;
        open.awaited.retain(|awaited| *awaited != peer);
        if open.awaited.is_empty() { self.close(number) } else { None }
    }

    /// `peer` will not answer any more; ends and gives the asks that awaited nobody else.
    pub(super) fn gone(&mut self, peer: NodeId) -> Vec<Open> {
        let numbers: Vec<u64> = self.open.keys().copied().collect();
        numbers.into_iter().filter_map(|number| self.heard(number, peer)).collect()
    }

    /// Ends and gives an ask that has lived for long enough, if there is one.
    pub(super) fn expired(&mut self, now: Now) -> Option<Open> {
        let (number, open) = self.open.first_key_value()?;
        let (number, over) = (*number, open.until_us <= now.monotonic_us);
        if over { self.close(number) } else { None }
    }

    /// Whether a message of so many asks is answered, of one of so many peers: each has its part of the time for
    /// answers.
    pub(super) fn admits_message(&mut self, peer: NodeId, asks: usize, peers: usize, now: Now) -> bool {
        let share = &mut self.rates.entry(peer).or_default().share;
        let is_left = share.is_left(now);
        if is_left {
            share.spend(asks_ns(asks), ANSWERING.saturating_mul(peers.max(1) as u64), now);
        }
        is_left
    }

    /// Whether one more ask of `peer` is answered.
    pub(super) fn admits(&mut self, peer: NodeId, now: Now) -> bool {
        let rate = self.rates.entry(peer).or_default();
        if now.monotonic_us.saturating_sub(rate.since_us) >= PEER_ASKS_US {
            (rate.since_us, rate.asks) = (now.monotonic_us, 0);
        }
        rate.asks = rate.asks.saturating_add(1);
        rate.asks <= PEER_ASKS
    }

    /// Whether something waits for the end of the turn.
    pub(super) fn is_waiting(&self) -> bool {
        !self.unsent.is_empty() || !self.answers.is_empty()
    }

    /// The time is this.
    pub(super) const fn at(&mut self, now: Now) {
        self.now = now;
    }

    /// Sends the asks that wait to `peers` if there is time for them, and the answers to whom they are for. Of all
    /// that are `up`, the programs of the silent ones are asked at once.
    pub(super) fn send(&mut self, peers: &[NodeId], up: &[NodeId], effects: &mut Effects) {
        if !self.unsent.is_empty() && self.asking.is_left(self.now) {
            self.send_unsent(peers, up, effects);
        }
        for (peer, answers) in std::mem::take(&mut self.answers) {
            effects.counters.asks_answered += answers.len() as u64;
            effects.counters.claims_sent += answers.iter().map(|answer| answer.claims.len() as u64).sum::<u64>();
            for chunk in answers.chunks(MESSAGE_ANSWERS) {
                effects.send(peer, &Message::Answer(chunk.to_vec()), Kind::Answer);
            }
        }
    }

    fn send_unsent(&mut self, peers: &[NodeId], up: &[NodeId], effects: &mut Effects) {
        let now = self.now;
        let unsent = std::mem::take(&mut self.unsent);
        let asks: Vec<Ask> = unsent.into_iter().filter_map(|number| self.ask(number)).collect();
        if asks.is_empty() {
            return;
        }
        self.asking.spend(asks_ns(asks.len()).saturating_mul(peers.len() as u64), ASKING, now);
        send(&asks, peers, effects);
        for peer in up {
            if self.is_silent(*peer, now) {
                for ask in &asks {
                    let Some(open) = self.open.get(&ask.number) else { continue };
                    ask_kernel(&mut self.asking_kernels, *peer, ask.number, open, now, effects);
                }
            }
            let since_us = now.monotonic_us;
            let unanswered = self.unanswered.entry(*peer).or_insert(Unanswered { since_us, asks: 0 });
            unanswered.asks = unanswered.asks.saturating_add(asks.len() as u32);
        }
    }

    /// Sends `peer` once more what it has not answered: the asks may have been lost with its old link.
    pub(super) fn send_again(&self, peer: NodeId, effects: &mut Effects) {
        let sent_below = self.unsent.first().copied().unwrap_or(u64::MAX);
        let awaiting = self.open.range(..sent_below).filter(|(_, open)| open.awaited.contains(&peer));
        let asks: Vec<Ask> = awaiting.filter_map(|(number, _)| self.ask(*number)).collect();
        send(&asks, &[peer], effects);
    }

    /// The answer to an ask of a peer, sent at the end of the turn.
    pub(super) fn answer(&mut self, peer: NodeId, answer: Answer) {
        self.answers.entry(peer).or_default().push(answer);
    }

    /// The keys of all open asks.
    pub(super) fn asked(&self) -> BTreeSet<u64> {
        self.open.values().flat_map(|open| keys(open.request_key, open.reply_key)).collect()
    }

    /// How many asks are open.
    pub(super) fn open_count(&self) -> usize {
        self.open.len()
    }

    /// An ask as it travels, if it is still open.
    fn ask(&self, number: u64) -> Option<Ask> {
        let open = self.open.get(&number)?;
        Some(Ask { number, request_key: open.request_key, reply_key: open.reply_key })
    }
}

/// The reply key, if there is one, and the request key.
pub(super) fn keys(request_key: u64, reply_key: u64) -> impl Iterator<Item = u64> {
    let reply_key = Some(reply_key).filter(|key| *key != 0 && *key != request_key);
    reply_key.into_iter().chain([request_key])
}

/// Asks the programs of a peer, as long as there is time for that.
fn ask_kernel(share: &mut Share, to: NodeId, number: u64, open: &Open, now: Now, effects: &mut Effects) {
    if !share.is_left(now) {
        return;
    }
    share.spend(KERNEL_NS, ASKING_KERNELS, now);
    effects.counters.asks_by_tunnel += 1;
    let (request_key, reply_key) = (open.request_key, open.reply_key);
    effects.push(Output::AskKernel { to, number: number as u32, request_key, reply_key });
}

fn send(asks: &[Ask], peers: &[NodeId], effects: &mut Effects) {
    effects.counters.asks_sent += (asks.len() * peers.len()) as u64;
    for chunk in asks.chunks(MESSAGE_ASKS) {
        effects.send_to_all(peers, &Message::Ask(chunk.to_vec()), Kind::Ask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type End = fn(&mut Asks, Now, NodeId) -> Vec<Open>;

    fn open(keys: (u64, u64), awaited: &[u16]) -> Open {
        let awaited = awaited.iter().filter_map(|node| NodeId::new(*node)).collect();
        Open { ticket: 5, request_key: keys.0, reply_key: keys.1, awaited, until_us: ASK_TIMEOUT_US, kernels_us: None }
    }

    #[test]
    fn an_ask_that_has_ended_leaves_nothing_behind() {
        let (late, peer) = (Now { monotonic_us: ASK_TIMEOUT_US, unix_us: 0 }, NodeId::new(2).unwrap());
        let ends: [End; 4] = [
            |asks, _, _| asks.close_for(8),
            |asks, _, peer| asks.gone(peer),
            |asks, _, peer| asks.heard(0, peer).into_iter().collect(),
            |asks, late, _| asks.expired(late).into_iter().collect(),
        ];
        for end in ends {
            let mut asks = Asks::default();
            assert!(asks.open(open((7, 8), &[2]), 1, Now::default()));
            assert!(asks.close_for(7).is_empty(), "the request key does not decide");
            assert!(matches!(end(&mut asks, late, peer)[..], [Open { ticket: 5, .. }]));
            let mut effects = Effects::default();
            asks.send(&[peer], &[peer], &mut effects);
            assert!(asks.open.is_empty() && asks.keys.is_empty() && asks.unsent.is_empty() && effects.is_empty());
            assert_eq!(asks.due_us(), None);
        }
    }
}
