//! Asking the peers who owns a key, and answering them.
//!
//! The slow path asks for a response or CANCEL that no claim places. A peer speaks for itself alone: it answers with its own
//! claims of the keys, or with nothing. An ask ends once: with the first claim that comes to stand for its reply key (its
//! request key, if it has no other), however it comes; or when every peer that was asked has spoken or is gone; at the latest
//! after [`ASK_PATIENCE_US`]. A call that crosses the edge twice has one request key and two owners: only the reply key tells
//! whose a reply is, so a claim of the request key alone waits for what the others say.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use forwarder_common::ids::NodeId;

use super::local::ROUNDED_MS;
use super::outbox::own_claim;
use super::{CoreCounters, Kind, LocalClaim, Node, Now, Output};
use crate::wire::{Answer, Ask, MESSAGE_ANSWERS, MESSAGE_ASKS, Message};

/// Longest life of an ask in microseconds. The hold is shorter; this bounds what a peer that never answers can cost.
const ASK_PATIENCE_US: u64 = 1_000_000;
/// Most asks open at a time: more than the slow path asks in [`ASK_PATIENCE_US`], so that one silent peer fills it never.
const OPEN_ASKS: usize = 16_384;
/// Most asks answered to one peer in one window: nearly twice what a peer's slow path asks in it, burst included.
const PEER_ASKS: u32 = 20_000;
/// Most look-ups that the shell has not answered; more are answered with what the core knows.
const LOOK_UPS: usize = 4096;
/// The window of [`PEER_ASKS`] in microseconds.
const PEER_ASKS_US: u64 = 1_000_000;

/// An ask without an answer.
#[derive(Debug)]
struct Open {
    /// The shell's name for it, which may come again later; the number in the messages never does.
    ticket: u64,
    request_key: u64,
    reply_key: u64,
    /// The peers that have not answered yet.
    awaited: Vec<NodeId>,
    until_us: u64,
}

impl Open {
    /// The key whose claim leaves nothing open.
    const fn decisive(&self) -> u64 {
        if self.reply_key == 0 { self.request_key } else { self.reply_key }
    }
}

/// An ask of a peer for a key that the shell is looking up in the kernel's table.
#[derive(Debug)]
struct LookUp {
    peer: NodeId,
    ask: Ask,
    until_us: u64,
}

/// Asks of one peer in its present window.
#[derive(Debug, Default)]
struct Rate {
    since_us: u64,
    asks: u32,
}

#[derive(Debug, Default)]
pub(super) struct Asks {
    /// By number: in the order of their ends, because all have the same patience.
    open: BTreeMap<u64, Open>,
    /// (decisive key, number) of every open ask.
    keys: BTreeSet<(u64, u64)>,
    next: u64,
    /// Numbers of this turn, to be sent together.
    unsent: Vec<u64>,
    /// Answers of this turn, to be sent together.
    answers: BTreeMap<NodeId, Vec<Answer>>,
    rates: BTreeMap<NodeId, Rate>,
    /// By ticket, in the order of their ends.
    look_ups: BTreeMap<u64, LookUp>,
    next_look_up: u64,
}

impl Asks {
    /// When the oldest ask has lived for long enough.
    pub(super) fn due_us(&self) -> Option<u64> {
        self.open.first_key_value().map(|(_, open)| open.until_us)
    }

    /// Forgets what was to be said to `peer`.
    pub(super) fn forget(&mut self, peer: NodeId) {
        self.answers.remove(&peer);
        self.look_ups.retain(|_, look_up| look_up.peer != peer);
    }

    /// Begins a look-up and gives its ticket; `None` when too many are under way.
    fn look_up(&mut self, peer: NodeId, ask: Ask, now: Now) -> Option<u64> {
        if self.look_ups.len() >= LOOK_UPS {
            return None;
        }
        let ticket = self.next_look_up;
        self.next_look_up = self.next_look_up.wrapping_add(1);
        let until_us = now.monotonic_us.saturating_add(ASK_PATIENCE_US);
        self.look_ups.insert(ticket, LookUp { peer, ask, until_us });
        Some(ticket)
    }

    /// Drops the look-ups that the shell has not answered in time: nobody waits for them any more.
    pub(super) fn end_look_ups(&mut self, now: Now) {
        while self.look_ups.first_entry().is_some_and(|first| first.get().until_us <= now.monotonic_us) {
            self.look_ups.pop_first();
        }
    }

    /// Opens an ask; false when too many are open.
    fn open(&mut self, open: Open) -> bool {
        if self.open.len() >= OPEN_ASKS {
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
    fn close_for(&mut self, key: u64) -> Vec<Open> {
        let numbers: Vec<u64> = self.keys.range((key, 0)..=(key, u64::MAX)).map(|(_, number)| *number).collect();
        numbers.into_iter().filter_map(|number| self.close(number)).collect()
    }

    /// `peer` has spoken and has not decided the ask; the ask, if that ends it because nobody else is awaited.
    fn heard(&mut self, number: u64, peer: NodeId) -> Option<Open> {
        let open = self.open.get_mut(&number)?;
        open.awaited.retain(|awaited| *awaited != peer);
        if open.awaited.is_empty() { self.close(number) } else { None }
    }

    /// `peer` will not answer any more; ends and gives the asks that awaited nobody else.
    fn gone(&mut self, peer: NodeId) -> Vec<Open> {
        let numbers: Vec<u64> = self.open.keys().copied().collect();
        numbers.into_iter().filter_map(|number| self.heard(number, peer)).collect()
    }

    /// Ends and gives an ask that has lived for long enough, if there is one.
    fn expired(&mut self, now: Now) -> Option<Open> {
        let (number, open) = self.open.first_key_value()?;
        let (number, over) = (*number, open.until_us <= now.monotonic_us);
        if over { self.close(number) } else { None }
    }

    /// Whether one more ask of `peer` is answered.
    fn admits(&mut self, peer: NodeId, now: Now) -> bool {
        let rate = self.rates.entry(peer).or_default();
        if now.monotonic_us.saturating_sub(rate.since_us) >= PEER_ASKS_US {
            *rate = Rate { since_us: now.monotonic_us, asks: 0 };
        }
        rate.asks = rate.asks.saturating_add(1);
        rate.asks <= PEER_ASKS
    }

    /// Sends the asks of this turn to `peers`, and the answers to whom they are for.
    fn send(&mut self, peers: &[NodeId], outputs: &mut VecDeque<Output>, counters: &mut CoreCounters) {
        let unsent = std::mem::take(&mut self.unsent);
        let asks: Vec<Ask> = unsent.into_iter().filter_map(|number| self.ask(number)).collect();
        send_asks(&asks, peers, outputs, counters);
        for (peer, answers) in std::mem::take(&mut self.answers) {
            counters.asks_answered += answers.len() as u64;
            counters.claims_sent += answers.iter().map(|answer| answer.claims.len() as u64).sum::<u64>();
            for chunk in answers.chunks(MESSAGE_ANSWERS) {
                let message = Message::Answer(chunk.to_vec()).encode();
                outputs.push_back(Output::Send { to: peer, message, kind: Kind::Answer });
            }
        }
    }

    /// Sends `peer` once more what it has not answered: the asks may have been lost with its old link.
    fn send_again(&self, peer: NodeId, outputs: &mut VecDeque<Output>, counters: &mut CoreCounters) {
        let awaiting = self.open.iter().filter(|(_, open)| open.awaited.contains(&peer));
        let asks: Vec<Ask> = awaiting.filter_map(|(number, _)| self.ask(*number)).collect();
        send_asks(&asks, &[peer], outputs, counters);
    }

    /// An ask as it travels, if it is still open.
    fn ask(&self, number: u64) -> Option<Ask> {
        let open = self.open.get(&number)?;
        Some(Ask { number, request_key: open.request_key, reply_key: open.reply_key })
    }
}

impl Node {
    /// Asks who owns `reply_key` or `request_key`; 0 as reply key means none. Give one for replies only: nobody claims that of a
    /// CANCEL, and the ask would wait for every peer.
    ///
    /// Exactly one [`Output::Answer`] with this `ticket` follows: at once if this node knows, nobody is linked or too many asks
    /// are open, else within a second. A peer whose daemon has not yet read a claim from its ring buffer says that it owns
    /// nothing, and the claim follows as a batch: the shell reads all waiting claims before it hands over a message.
    pub fn handle_ask(&mut self, ticket: u64, request_key: u64, reply_key: u64, now: Now) {
        let standing: Vec<u64> = keys(request_key, reply_key).filter(|key| self.stands(*key, now)).collect();
        if !standing.is_empty() {
            // The packet came up because the kernel found nothing: its table has lost the claim, or is yet to be told.
            standing.into_iter().for_each(|key| self.write_claim(key, now));
            return self.answer(ticket, true);
        }
        let up = self.peers.iter().filter(|(_, peer)| peer.up);
        let awaited: Vec<NodeId> = up.map(|(node, _)| *node).collect();
        if awaited.is_empty() {
            return self.answer(ticket, false);
        }
        let until_us = now.monotonic_us.saturating_add(ASK_PATIENCE_US);
        if !self.asks.open(Open { ticket, request_key, reply_key, awaited, until_us }) {
            self.counters.asks_overflow += 1;
            self.answer(ticket, false);
        }
    }

    /// Asks of this node that have no answer yet.
    #[must_use]
    pub fn asks(&self) -> usize {
        self.asks.open.len()
    }

    pub(super) fn take_asks(&mut self, peer: NodeId, asks: &[Ask], now: Now) {
        for ask in asks {
            if !self.asks.admits(peer, now) {
                // No answer rather than a wrong one: the asker's own patience ends it.
                self.counters.asks_refused += 1;
                continue;
            }
            let known =
                keys(ask.request_key, ask.reply_key).all(|key| self.store.live(key, now.monotonic_us).is_some());
            let ticket = if known { None } else { self.asks.look_up(peer, *ask, now) };
            let Ask { request_key, reply_key, .. } = *ask;
            match ticket {
                Some(ticket) => self.outputs.push_back(Output::LookUp { ticket, request_key, reply_key }),
                None => self.answer_peer(peer, ask, now),
            }
        }
    }

    /// Takes what the kernel's table has for an [`Output::LookUp`]: the live claims of this host in its present epoch, none if
    /// there is none. They are claims like any other from then on, as by [`Self::handle_change`], and the peer that asked gets its
    /// answer.
    pub fn handle_looked_up(&mut self, ticket: u64, found: &[LocalClaim], now: Now) {
        let Some(LookUp { peer, ask, .. }) = self.asks.look_ups.remove(&ticket) else { return };
        for claim in found {
            // What the core knows it knows to the microsecond, and the table to the tick.
            if self.store.live(claim.key, now.monotonic_us).is_none() && claim.remaining_ms > ROUNDED_MS {
                self.handle_change(*claim, now);
            }
        }
        self.answer_peer(peer, &ask, now);
    }

    fn answer_peer(&mut self, peer: NodeId, ask: &Ask, now: Now) {
        let own = |key: u64| {
            let entry = self.store.live(key, now.monotonic_us)?;
            own_claim(&self.settings, key, &entry, now)
        };
        let claims = keys(ask.request_key, ask.reply_key).filter_map(own).collect();
        self.asks.answers.entry(peer).or_default().push(Answer {
            number: ask.number,
            epoch: self.settings.epoch,
            claims,
        });
    }

    pub(super) fn take_answers(&mut self, peer: NodeId, answers: &[Answer], now: Now) {
        for answer in answers {
            for claim in &answer.claims {
                self.take_claim(peer, answer.epoch, claim, false, now);
            }
            if let Some(open) = self.asks.heard(answer.number, peer) {
                self.end_ask(&open, now);
            }
        }
    }

    /// Ends the asks that a key decides if a claim stands for it; what the kernel must know of it has been written before.
    pub(super) fn end_asks_for(&mut self, key: u64, now: Now) {
        if self.asks.open.is_empty() || !self.stands(key, now) {
            return;
        }
        for open in self.asks.close_for(key) {
            self.end_ask(&open, now);
        }
    }

    /// A peer came up or is in a new epoch: claims of it may stand that did not.
    pub(super) fn end_asks_that_stand(&mut self, now: Now) {
        let open = self.asks.open.values();
        let asked: BTreeSet<u64> = open.flat_map(|open| keys(open.request_key, open.reply_key)).collect();
        for key in asked {
            if self.stands(key, now) {
                self.write_claim(key, now);
                self.end_asks_for(key, now);
            }
        }
    }

    /// Asks `peer` once more on its new link.
    pub(super) fn ask_again(&mut self, peer: NodeId) {
        self.asks.send_again(peer, &mut self.outputs, &mut self.counters);
    }

    pub(super) fn end_asks_of_gone(&mut self, peer: NodeId, now: Now) {
        self.asks.gone(peer).iter().for_each(|open| self.end_ask(open, now));
    }

    pub(super) fn end_expired_asks(&mut self, now: Now) {
        while let Some(open) = self.asks.expired(now) {
            self.end_ask(&open, now);
        }
    }

    /// Sends the asks and answers of this turn.
    pub(super) fn send_asks(&mut self) {
        if !self.asks.unsent.is_empty() || !self.asks.answers.is_empty() {
            let introduced = self.introduced();
            self.asks.send(&introduced, &mut self.outputs, &mut self.counters);
        }
    }

    /// Whether a claim places packets of `key`: it is alive, and its owner is up in that epoch.
    fn stands(&self, key: u64, now: Now) -> bool {
        self.store.live(key, now.monotonic_us).is_some_and(|held| !self.is_void(held.owner, held.epoch))
    }

    fn end_ask(&mut self, open: &Open, now: Now) {
        let owned = keys(open.request_key, open.reply_key).any(|key| self.stands(key, now));
        self.counters.asks_found += u64::from(owned);
        self.answer(open.ticket, owned);
    }

    fn answer(&mut self, ticket: u64, owned: bool) {
        self.outputs.push_back(Output::Answer { ticket, owned });
    }
}

/// The reply key, if there is one, and the request key.
fn keys(request_key: u64, reply_key: u64) -> impl Iterator<Item = u64> {
    let reply_key = Some(reply_key).filter(|key| *key != 0 && *key != request_key);
    reply_key.into_iter().chain([request_key])
}

pub(super) fn send_asks(asks: &[Ask], peers: &[NodeId], outputs: &mut VecDeque<Output>, counters: &mut CoreCounters) {
    counters.asks_sent += (asks.len() * peers.len()) as u64;
    for chunk in asks.chunks(MESSAGE_ASKS) {
        let message = Message::Ask(chunk.to_vec()).encode();
        for peer in peers {
            outputs.push_back(Output::Send { to: *peer, message: message.clone(), kind: Kind::Ask });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type End = fn(&mut Asks, Now, NodeId) -> Vec<Open>;

    fn open(keys: (u64, u64), awaited: &[u16]) -> Open {
        let awaited = awaited.iter().filter_map(|node| NodeId::new(*node)).collect();
        Open { ticket: 5, request_key: keys.0, reply_key: keys.1, awaited, until_us: ASK_PATIENCE_US }
    }

    #[test]
    fn an_ask_that_has_ended_leaves_nothing_behind() {
        let (late, peer) = (Now { monotonic_us: ASK_PATIENCE_US, unix_us: 0 }, NodeId::new(2).unwrap());
        let ends: [End; 4] = [
            |asks, _, _| asks.close_for(8),
            |asks, _, peer| asks.gone(peer),
            |asks, _, peer| asks.heard(0, peer).into_iter().collect(),
            |asks, late, _| asks.expired(late).into_iter().collect(),
        ];
        for end in ends {
            let mut asks = Asks::default();
            assert!(asks.open(open((7, 8), &[2])));
            assert!(asks.close_for(7).is_empty(), "the request key does not decide");
            assert!(matches!(end(&mut asks, late, peer)[..], [Open { ticket: 5, .. }]));
            let mut outputs = VecDeque::new();
            asks.send(&[peer], &mut outputs, &mut CoreCounters::default());
            assert!(asks.open.is_empty() && asks.keys.is_empty() && asks.unsent.is_empty() && outputs.is_empty());
            assert_eq!(asks.due_us(), None);
        }
    }
}
