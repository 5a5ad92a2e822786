//! The cluster as a pure state machine: what a node does with its own claims, its peers' messages and the passing of
//! time.
//!
//! No socket, clock, task or random number in here: times and a seed are arguments, and what is to be sent or written
//! into the kernel's maps comes out of [`Node::poll_output`]. The shell calls a `handle_*`, then polls outputs until
//! there are none, then sleeps until [`Node::poll_timeout`]. A peer can only ever claim for itself: its id is the
//! shell's word, from its certificate.
//!
//! This file composes the parts; each of them has its own state and knows neither this file nor the others' insides.

mod asks;
mod budget;
mod claims;
mod counters;
mod digests;
mod effects;
mod error;
mod inbox;
mod invites;
mod log;
mod members;
mod outbox;
mod output;
mod peers;
mod ranges;
mod settings;
mod shadowed;
mod withdrawn;

use std::net::IpAddr;

use forwarder_common::abi::{self, ClaimEvent, EVENT_KEPT, EVENT_NEW, Served};
use forwarder_common::ids::{Epoch, Epochs, NodeId, Tick};
use forwarder_common::lifetime::{self, Sign};
use forwarder_common::question::Held;
use forwarder_common::rest::{Class, KeyKind, Purpose};

use self::asks::{Asks, Open, keys};
use self::claims::{Claims, RESTORED_UNIX_US, Taken, Teller};
use self::digests::Digests;
use self::effects::Effects;
use self::members::Members;
use self::outbox::{Outbox, Sender};
use self::peers::{Peer, Peers};
use crate::ages::{AgeSummary, Ages};
use crate::failover::Introduction;
use crate::store::Entry;
use crate::wire::{self, Answer, Ask, Digest, HELLO_SERVICES, Hello, LIFETIME_MS, Message, MustEqual, Repair, Service};

pub use self::claims::{InviteSign, LocalClaim};
pub use self::counters::CoreCounters;
pub use self::error::ProtocolError;
pub use self::output::{Command, Kind, MapWrite, Output};
pub use self::peers::PeerView;
pub use self::settings::NodeSettings;
pub use crate::now::Now;
pub use crate::state::State;
pub use crate::wire::DATAGRAM_BYTES;

/// One node of the cluster.
#[derive(Debug)]
pub struct Node {
    settings: NodeSettings,
    state: State,
    is_silent: bool,
    /// Of the hellos: rises when all peers are to hear something new.
    sequence: u32,
    claims: Claims,
    peers: Peers,
    outbox: Outbox,
    digests: Digests,
    asks: Asks,
    members: Members,
    effects: Effects,
    ages: Ages,
}

impl Node {
    /// A node that knows nobody yet.
    #[must_use]
    pub fn new(settings: NodeSettings) -> Self {
        Self {
            state: State::Joining,
            is_silent: false,
            sequence: 1,
            claims: Claims::new(&settings),
            peers: Peers::default(),
            outbox: Outbox::default(),
            digests: Digests::new(settings.seed),
            asks: Asks::default(),
            members: Members::new(settings.node, settings.listen, settings.seed),
            settings,
            effects: Effects::default(),
            ages: Ages::default(),
        }
    }

    /// A link to `peer` is up, or a new one replaced the old one: introduces this node. The peer may take tunnel
    /// packets at `addresses` and nowhere else: its link's, and those that its certificate names. The first is its
    /// link's.
    pub fn handle_link_up(&mut self, peer: NodeId, addresses: Vec<IpAddr>, now: Now) {
        if peer == self.settings.node {
            return;
        }
        self.peers.link_up(peer, addresses, now);
        self.forget(peer);
        self.greet(peer);
    }

    /// The link to `peer` is gone, and with it the peer: its claims stay, but are ineffective.
    pub fn handle_link_down(&mut self, peer: NodeId, now: Now) {
        self.forget(peer);
        if self.peers.link_down(peer) {
            self.claims.peer_down(peer);
        }
        if self.peers.get(peer).is_none() {
            return;
        }
        self.members.unlinked(peer, now);
        self.revive(peer, now);
        for open in self.asks.gone(peer) {
            self.end_ask(&open, now);
        }
    }

    /// This node is in another state, or its proxies fall silent or answer again: all peers are told at once.
    pub fn set_state(&mut self, state: State, is_silent: bool, now: Now) {
        if (self.state, self.is_silent) != (state, is_silent) {
            (self.state, self.is_silent) = (state, is_silent);
            self.greet_all(now);
        }
    }

    /// These epochs of this node are live from now on: its claims of others are ineffective at once, here and at all
    /// peers.
    pub fn set_epochs(&mut self, epochs: Epochs, now: Now) {
        if self.claims.epochs() != epochs {
            self.claims.set_epochs(epochs);
            self.greet_all(now);
            self.revive(self.settings.node, now);
        }
    }

    /// What must be equal on all nodes has changed here: all peers are told.
    pub fn set_must_equal(&mut self, must_equal: Vec<MustEqual>, now: Now) {
        if self.settings.must_equal != must_equal {
            self.settings.must_equal = must_equal;
            self.greet_all(now);
        }
    }

    /// This node leaves the cluster in order: the others need not call it any more. The links' own farewell follows. A
    /// node that only restarts does not leave.
    pub fn leave(&mut self) {
        self.members.leave();
    }

    /// Takes a claim of this host that the kernel's maps had when this daemon took them over: one made before all
    /// others. Call it before the first link, and before the claims that come from the egress program.
    pub fn handle_restored(&mut self, claim: LocalClaim, now: Now) {
        self.claims.restore(claim, now, &mut self.effects);
        self.push(now);
    }

    /// Takes a claim of this host, a new one or one whose end has changed. It goes to the peers at the next
    /// [`Self::handle_timeout`] that is due: at once when nothing was sent for a while, so hand in all waiting claims
    /// first, and in their order: of two versions of a claim the later one counts.
    pub fn handle_local(&mut self, claim: LocalClaim, now: Now) {
        self.claims.take_own(claim, now, &mut self.effects);
        self.push(now);
        self.end_asks_for(claim.key, now);
    }

    /// Takes what a message of this host's proxy says of the INVITE with that request key; after
    /// [`Self::handle_local`], if the message has made its claims or made them longer.
    ///
    /// The claims of an INVITE end together when it has ended, earlier than the programs have said: that goes to the
    /// peers as another version of each, and into the kernel's map as [`MapWrite::End`].
    pub fn handle_invite(&mut self, request: u64, sign: InviteSign, now: Now) {
        let before = self.claims.log().next();
        self.claims.take_sign(request, sign, now, &mut self.effects);
        if self.claims.log().next() != before {
            self.push(now);
        }
    }

    /// Whether the INVITE with that request key has yet to end, see [`Self::handle_invite`]; `None`: its claim is none
    /// of this node's, or was made before this daemon's start.
    #[must_use]
    pub fn is_invite_waiting(&self, request: u64) -> Option<bool> {
        self.claims.is_waiting(request)
    }

    /// Takes what the egress program has told of a message of this host's proxy, or what the daemon has claimed in its
    /// place: the claim, if that is new or lasts longer now, and what the message says of its INVITE.
    ///
    /// The event's epoch must be a live one; an earlier one is ignored with its claim. As for order, see
    /// [`Self::handle_local`].
    pub fn handle_event(&mut self, event: &ClaimEvent, now: Now) {
        let ClaimEvent { key, other, at_ns, ticks, epoch, flags, kind, class, sign, .. } = *event;
        let age_us = now.monotonic_us.saturating_sub(at_ns / 1000);
        // The event may be old: the ring buffer outlives daemons.
        let remaining_ms = Tick::milliseconds(ticks).saturating_sub(age_us / 1000);
        if flags != EVENT_KEPT {
            let claimed_at_unix_us = now.unix_us.saturating_sub(age_us);
            let epoch = Epoch::new(epoch.into());
            let purpose = Purpose::of_codes(kind, class);
            self.handle_local(LocalClaim { key, claimed_at_unix_us, remaining_ms, epoch, purpose }, now);
        }
        let sign = Sign::decode(sign.into());
        // With affinity `call` the claim is not the INVITE's, and no message says anything of one.
        let is_proceeding = Class::decode(class.into()) == Some(Class::Proceeding) && sign != Some(Sign::Nothing);
        if KeyKind::decode(kind.into()) == Some(KeyKind::Reply) {
            if is_proceeding {
                self.handle_invite(other, InviteSign::SentOn { reply: key }, now);
            }
            return;
        }
        if flags == EVENT_NEW && is_proceeding {
            self.handle_invite(key, InviteSign::Begun, now);
        }
        let sign = match sign {
            Some(Sign::Provisional) => InviteSign::Provisional { server: other },
            Some(Sign::Final) => InviteSign::Final { server: other, remaining_ms },
            Some(Sign::Ack) => InviteSign::Acknowledged { branch: other, remaining_ms },
            Some(Sign::Nothing | Sign::Invite) | None => return,
        };
        self.handle_invite(key, sign, now);
    }

    /// Asks who owns `reply_key` or `request_key`; 0 as reply key means none. Give one for replies only: nobody claims
    /// that of a CANCEL, and the ask would wait for every peer.
    ///
    /// Exactly one [`Output::Answer`] with this `ticket` follows: at once if this node knows, nobody is linked, too
    /// many asks are open or there is no time for one more, else within a second. A peer whose daemon has not yet read
    /// a claim from its ring buffer says that it owns nothing, and the claim follows as a batch: the shell reads all
    /// waiting claims before it hands over a message.
    pub fn handle_ask(&mut self, ticket: u64, request_key: u64, reply_key: u64, now: Now) {
        let is_effective = |key: &u64| self.claims.has_effective(*key, now);
        let effective: Vec<u64> = keys(request_key, reply_key).filter(is_effective).collect();
        if !effective.is_empty() {
            // The packet came up because the kernel found nothing: its table has lost the claim, or is yet to be told.
            effective.into_iter().for_each(|key| self.claims.write(key, now, &mut self.effects));
            return self.answer(ticket, true);
        }
        let up = self.peers.up();
        if up.is_empty() {
            return self.answer(ticket, false);
        }
        let open = Open::new(ticket, request_key, reply_key, self.asks.awaited(up, now), now);
        if !self.asks.open(open, self.peers.introduced_count(), now) {
            self.effects.counters.asks_overflow += 1;
            self.answer(ticket, false);
        }
    }

    /// The kernel programs of a peer have answered the question `number` of [`Output::AskKernel`]: with a claim of
    /// theirs, or with none.
    ///
    /// The claim is written into this host's table, and nowhere else: the peer's daemon tells of it, with its number,
    /// when there is one again.
    pub fn handle_kernel_answer(&mut self, peer: NodeId, number: u32, held: Option<Held>, now: Now) {
        self.asks.answered(peer);
        let Some((number, open)) = self.asks.by_low_half(number) else { return };
        let key = held.map(|held| match held.kind {
            KeyKind::Request | KeyKind::Answered => open.request_key,
            KeyKind::Reply => open.reply_key,
        });
        let is_decisive = key == Some(open.decisive());
        if let Some((held, key)) = held.zip(key).filter(|(held, key)| *key != 0 && held.ticks != 0) {
            // Its programs do not say which class it is.
            let lifetimes = &self.settings.lifetimes;
            let ticks = held.ticks.min(lifetime::most(Class::Call, lifetimes));
            let purpose = Purpose::of(held.kind, lifetime::class_of(ticks, lifetimes));
            let remaining_ms = Tick::milliseconds(ticks);
            self.effects.write(MapWrite::Claim { key, owner: peer, epoch: held.epoch, purpose, remaining_ms });
            if is_decisive {
                for open in self.asks.close_for(key) {
                    self.effects.counters.asks_found += 1;
                    self.answer(open.ticket, true);
                }
                return;
            }
        }
        if let Some(open) = self.asks.heard(number, peer) {
            self.end_ask(&open, now);
        }
    }

    /// Takes a datagram of a linked peer. One that is more than a peer has to send is not looked at.
    ///
    /// # Errors
    /// It breaks the protocol; the link must be dropped and not be built again at once.
    pub fn handle_datagram(&mut self, peer: NodeId, bytes: &[u8], now: Now) -> Result<(), ProtocolError> {
        let Some(state) = self.peers.get_mut(peer).filter(|state| state.is_introduced()) else {
            // It has overtaken the hello, or its link is gone.
            return Ok(());
        };
        if !state.budget.datagram(now) {
            self.effects.counters.datagrams_refused += 1;
            return Ok(());
        }
        self.effects.counters.datagrams_received += 1;
        let handled = self.members.handle(peer, bytes, now);
        self.effects.counters.protocol_errors += u64::from(handled.is_err());
        handled
    }

    /// Takes a message of a linked peer. The order of messages is free but for the first hello of a link, so a claim
    /// may come before the hello that makes it effective, and an old hello after a new one. No bytes at all stand for a
    /// stream without a message, which costs its sender more of its budget.
    ///
    /// # Errors
    /// The message breaks the protocol; the link must be dropped and not be built again at once. What the message
    /// said up to there has had no effect.
    pub fn handle_message(&mut self, peer: NodeId, bytes: &[u8], now: Now) -> Result<(), ProtocolError> {
        let handled = self.take(peer, bytes, now);
        self.effects.counters.protocol_errors += u64::from(handled.is_err());
        handled
    }

    /// Does what is due at `now`; harmless when nothing is.
    pub fn handle_timeout(&mut self, now: Now) {
        self.asks.at(now);
        while let Some(open) = self.asks.expired(now) {
            self.end_ask(&open, now);
        }
        // Somebody waits for these, and nobody for a batch.
        self.send_asks();
        self.asks.ask_kernels(now, &mut self.effects);
        self.members.timeout(now);
        let due = |at: Option<u64>| at.is_some_and(|at| at <= now.monotonic_us);
        if due(self.outbox.due_us()) {
            let introduced = self.peers.introduced();
            let (claims, sequence, effects) = (&self.claims, self.sequence, &mut self.effects);
            self.outbox.send(&mut Sender { claims, sequence, effects, now }, &introduced);
            self.digests.schedule(now);
        }
        if due(self.digests.due_us()) {
            self.send_digests(now);
        }
        if due(Some(self.claims.sweep_at_us())) {
            self.sweep(now);
        }
        if due(self.peers.due_us()) {
            self.peers.forget_epochs(now).into_iter().for_each(|peer| self.greet(peer));
            for (peer, hello) in self.peers.take_deferred(now) {
                // It was looked at when it came.
                let _ = self.take_hello(peer, hello, now);
            }
        }
    }

    /// The next thing to do, if any.
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.effects.is_empty() {
            self.send_asks();
        }
        self.effects.pop().or_else(|| self.members.poll().map(Output::Link))
    }

    /// When [`Self::handle_timeout`] is due, in microseconds of the monotonic clock; in the past means now.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        let claims = [self.outbox.due_us(), self.digests.due_us(), Some(self.claims.sweep_at_us())];
        claims.into_iter().chain([self.asks.due_us(), self.members.due_us(), self.peers.due_us()]).flatten().min()
    }

    /// The live claim of a key: its owner, epoch, claim time and end.
    #[must_use]
    pub fn claim(&self, key: u64, now: Now) -> Option<Entry> {
        self.claims.store().live(key, now.monotonic_us)
    }

    /// This node's live epochs.
    #[must_use]
    pub const fn own_epochs(&self) -> Epochs {
        self.claims.epochs()
    }

    /// The live epochs of all nodes, by their ids, as far as they are known.
    #[must_use]
    pub fn epochs(&self) -> &[Option<Epochs>] {
        self.claims.store().epochs()
    }

    /// Which nodes have been down for a minute, by their ids.
    #[must_use]
    pub fn gone(&self) -> &[bool] {
        self.claims.store().gone()
    }

    /// Whether no claim of a node and epoch is kept, here and in the kernel's table: the epoch is known to be over, or
    /// the node has been down for a minute.
    #[must_use]
    pub fn is_swept(&self, owner: NodeId, epoch: Epoch) -> bool {
        self.claims.store().is_swept(owner, epoch)
    }

    /// Epochs of earlier incarnations of this node's daemon of which peers may still hold claims.
    #[must_use]
    pub fn held_epochs(&self) -> Epochs {
        self.peers.held_epochs()
    }

    /// Claims held, those of peers included; some seconds of ended ones may be among them.
    #[must_use]
    pub const fn claims(&self) -> usize {
        self.claims.store().len()
    }

    /// Claims that wait to be sent, those that only some peers have not got not counted.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.outbox.waiting(self.claims.log().next())
    }

    /// Asks of this node that have no answer yet.
    #[must_use]
    pub fn asks(&self) -> usize {
        self.asks.open_count()
    }

    /// Whether this node knows the claims of all its linked peers that they had when they were linked; true without
    /// any.
    #[must_use]
    pub fn is_synchronised(&self) -> bool {
        self.peers.is_synchronised()
    }

    /// The members of the cluster: those that are linked, and those that linked ones say are; this node is not counted.
    #[must_use]
    pub fn members(&self) -> usize {
        self.members.alive()
    }

    /// Every peer that ever introduced itself, in the order of their ids.
    pub fn peers(&self) -> impl Iterator<Item = PeerView<'_>> {
        self.peers.views(|node| self.claims.store().held_by(node))
    }

    /// How old new claims were when they arrived, by the owner's and this host's clock.
    #[must_use]
    pub fn ages(&self) -> AgeSummary {
        self.ages.summary()
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> CoreCounters {
        CoreCounters { claims_evicted: self.claims.store().evicted(), ..self.effects.counters }
    }

    fn take(&mut self, peer: NodeId, bytes: &[u8], now: Now) -> Result<(), ProtocolError> {
        // A message may still wait in the shell's queue when its link is gone.
        let Some(state) = self.peers.get_mut(peer).filter(|state| state.is_linked()) else { return Ok(()) };
        if bytes.is_empty() {
            return if state.budget.nothing(now) { Ok(()) } else { Err(ProtocolError::Flood) };
        }
        let message = Message::decode(bytes).map_err(ProtocolError::Wire)?;
        if !state.budget.message(&message, now) {
            return Err(ProtocolError::Flood);
        }
        match message {
            Message::Hello(hello) => return self.take_hello(peer, hello, now),
            _ if !state.is_introduced() => return Err(ProtocolError::BeforeHello),
            Message::Batch(claims) => {
                self.effects.counters.batches_received += 1;
                self.take_batch(peer, claims, now);
            }
            Message::Snapshot(claims) => {
                self.effects.counters.snapshots_received += 1;
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
        self.asks.at(now);
        self.send_asks();
        if !self.peers.hears(peer, &hello, now)? {
            self.effects.counters.hellos_deferred += 1;
            return Ok(());
        }
        let (incarnation, said) = (self.incarnation(), introduction(&hello, &self.settings.services));
        let Hello { epochs, listen, your_incarnation, have, .. } = hello;
        let Some(new) = self.peers.take_hello(peer, hello, incarnation, now)? else { return Ok(()) };
        self.claims.peer_up(peer, epochs);
        if new.is_first {
            self.claims.set_complete(peer, None);
            self.outbox.begin(peer, if your_incarnation == incarnation { have } else { 0 }, now);
        }
        if new.is_changed {
            self.effects.introduced(peer, said);
            self.revive(peer, now);
            self.end_effective_asks(now);
        }
        if new.is_first {
            // They may have been lost with its old link.
            self.asks.send_again(peer, &mut self.effects);
            self.members.introduced(peer, listen, now);
        }
        // It is to be confirmed, by a digest if nothing else is said.
        self.digests.schedule(now);
        for claims in new.early {
            self.take_batch(peer, claims, now);
        }
        if new.is_first {
            self.complete(peer, now);
        }
        Ok(())
    }

    fn take_batch(&mut self, peer: NodeId, claims: wire::Claims, now: Now) {
        let Some(state) = self.peers.get_mut(peer) else { return };
        if state.is_early(claims.sequence) {
            // Its hello is a moment behind. Until it comes the numbers stay missing.
            self.effects.counters.batches_dropped += u64::from(!state.inbox.keep_early(claims));
            return;
        }
        for claim in &claims.claims {
            self.take_claim(peer, claim, true, now);
        }
        self.got(peer, &claims, now);
    }

    fn take_snapshot(&mut self, peer: NodeId, claims: &wire::Claims, now: Now) {
        let Some(state) = self.peers.get(peer) else { return };
        let was_complete = state.inbox.is_complete();
        if !state.is_early(claims.sequence) {
            for claim in &claims.claims {
                self.take_claim(peer, claim, false, now);
            }
            self.got(peer, claims, now);
        }
        if self.peers.get_mut(peer).is_some_and(|state| state.inbox.piece(was_complete)) {
            self.report(peer, 0);
        }
    }

    fn got(&mut self, peer: NodeId, claims: &wire::Claims, now: Now) {
        let Some(state) = self.peers.get_mut(peer) else { return };
        let was_complete = state.inbox.is_complete();
        state.inbox.got(claims.first, claims.first.saturating_add(u64::from(claims.span)));
        if !was_complete {
            self.complete(peer, now);
        }
    }

    /// If a peer has said all that it claimed before its link: what only earlier incarnations of its daemon have said
    /// gives way to others' claims. It has been withdrawn, or its kernel has lost it.
    fn complete(&mut self, peer: NodeId, now: Now) {
        let Some(state) = self.peers.get(peer).filter(|state| state.inbox.is_complete()) else { return };
        self.claims.set_complete(peer, Some(state.generation()));
        self.revive(peer, now);
    }

    /// Takes a claim of a peer; `is_fresh` if it came as soon as it was made.
    fn take_claim(&mut self, peer: NodeId, claim: &wire::Claim, is_fresh: bool, now: Now) {
        let sent = self.outbox.sent();
        let Some(state) = self.peers.get_mut(peer) else { return };
        let (generation, linked_us) = (state.generation(), state.linked_us(now));
        let mut teller = Teller { peer, generation, linked_us, is_fresh, sent, budget: &mut state.budget };
        match self.claims.take(&mut teller, claim, now, &mut self.effects) {
            // Of a restored one nobody knows when it was made.
            Taken::New if is_fresh && claim.claimed_at_unix_us != RESTORED_UNIX_US => {
                let age_us = now.unix_us.saturating_sub(claim.claimed_at_unix_us);
                // A peer that lies about its clock does not hide how old the others' claims are.
                if age_us <= LIFETIME_MS * 1000 {
                    self.ages.record(age_us);
                }
            }
            Taken::Lost(number) => {
                self.charge_conflict(peer);
                self.outbox.assert_to(peer, number, now);
            }
            Taken::Logged => {
                self.charge_conflict(peer);
                self.push(now);
            }
            Taken::Conflict => self.charge_conflict(peer),
            Taken::New | Taken::Done => {}
        }
        self.end_asks_for(claim.key, now);
    }

    fn sweep(&mut self, now: Now) {
        let (peers, effects) = (&mut self.peers, &mut self.effects);
        let may_win = |peer| peers.get_mut(peer).is_some_and(|state| state.budget.may_win(now));
        if self.claims.sweep(may_win, now, effects) {
            self.push(now);
        }
    }

    fn charge_conflict(&mut self, peer: NodeId) {
        if let Some(state) = self.peers.get_mut(peer) {
            state.budget.conflict();
        }
    }

    /// The claims of `winner` may be ineffective now.
    fn revive(&mut self, winner: NodeId, now: Now) {
        if self.claims.revive(winner, now, &mut self.effects) {
            self.push(now);
        }
    }

    /// Claims were logged for the peers.
    fn push(&mut self, now: Now) {
        let (next, peers) = (self.claims.log().next(), self.peers.introduced_count());
        self.effects.counters.claims_dropped += self.outbox.push(next, now, peers);
    }

    fn take_asks(&mut self, peer: NodeId, asks: &[Ask], now: Now) {
        if !self.asks.admits_message(peer, asks.len(), self.peers.introduced_count(), now) {
            self.effects.counters.asks_refused += asks.len() as u64;
            return;
        }
        for ask in asks {
            if !self.asks.admits(peer, now) {
                // No answer rather than a wrong one: the asker's own timeout ends the wait.
                self.effects.counters.asks_refused += 1;
                continue;
            }
            let claims = keys(ask.request_key, ask.reply_key).filter_map(|key| self.claims.own_of(key, now)).collect();
            self.asks.answer(peer, Answer { number: ask.number, claims });
        }
    }

    fn take_answers(&mut self, peer: NodeId, answers: &[Answer], now: Now) {
        self.asks.answered(peer);
        for answer in answers {
            for claim in &answer.claims {
                self.take_claim(peer, claim, false, now);
            }
            if let Some(open) = self.asks.heard(answer.number, peer) {
                self.end_ask(&open, now);
            }
        }
    }

    fn take_digest(&mut self, peer: NodeId, digest: Digest) {
        self.effects.counters.digests_received += 1;
        let is_missing = self.peers.get(peer).is_some_and(|state| state.inbox.is_missing_below(digest.settled));
        if is_missing || digest.must_answer {
            self.report(peer, digest.settled);
        }
    }

    fn take_repair(&mut self, peer: NodeId, repair: &Repair, now: Now) {
        self.effects.counters.repairs_received += u64::from(!repair.missing.is_empty());
        let again = self.outbox.reported(peer, repair, now);
        if let Some(state) = self.peers.get_mut(peer) {
            state.budget.repair(again);
        }
        if self.peers.get(peer).is_some_and(|state| state.greeting() != repair.sequence) {
            // A hello was lost, or is on its way still: it may come twice.
            self.greet(peer);
        }
        self.digests.schedule(now);
    }

    /// Ends the asks that a key decides if a claim of it is effective; what the kernel must know of it has been written
    /// before.
    fn end_asks_for(&mut self, key: u64, now: Now) {
        if self.asks.open_count() == 0 || !self.claims.has_effective(key, now) {
            return;
        }
        for open in self.asks.close_for(key) {
            self.end_ask(&open, now);
        }
    }

    /// A peer came up or is in a new epoch: claims of it may be effective that were not.
    fn end_effective_asks(&mut self, now: Now) {
        for key in self.asks.asked() {
            if self.claims.has_effective(key, now) {
                self.claims.write(key, now, &mut self.effects);
                self.end_asks_for(key, now);
            }
        }
    }

    fn end_ask(&mut self, open: &Open, now: Now) {
        let owned = keys(open.request_key, open.reply_key).any(|key| self.claims.has_effective(key, now));
        self.effects.counters.asks_found += u64::from(owned);
        self.answer(open.ticket, owned);
    }

    fn answer(&mut self, ticket: u64, owned: bool) {
        self.effects.push(Output::Answer { ticket, owned });
    }

    /// Sends the asks and answers of this turn.
    fn send_asks(&mut self) {
        if self.asks.is_waiting() {
            self.asks.send(&self.peers.introduced(), &self.peers.up(), &mut self.effects);
        }
    }

    fn send_digests(&mut self, now: Now) {
        let round = self.digests.begin(self.outbox.sent());
        let (settled, mut goes_on) = (round.settled, round.goes_on);
        for peer in self.peers.introduced() {
            let greeting = self.peers.get(peer).map_or(0, Peer::greeting);
            let must_answer = self.outbox.owes_report(peer, greeting, round.confirmed_below);
            goes_on |= must_answer;
            if round.is_news || must_answer {
                self.effects.counters.digests_sent += 1;
                self.effects.send(peer, &Message::Digest(Digest { settled, must_answer }), Kind::Digest);
            }
        }
        if goes_on {
            self.digests.schedule(now);
        }
    }

    /// Tells a peer what of its claims has arrived, and what below `settled` has not.
    fn report(&mut self, peer: NodeId, settled: u64) {
        let Some(state) = self.peers.get_mut(peer) else { return };
        let sequence = state.sequence();
        let repair = state.inbox.report(sequence, settled);
        self.effects.counters.repairs_sent += u64::from(!repair.missing.is_empty());
        self.effects.send(peer, &Message::Repair(repair), Kind::Repair);
    }

    /// Tells a linked peer who this node is.
    fn greet(&mut self, peer: NodeId) {
        let NodeSettings { underlay, listen, ref services, ref must_equal, .. } = self.settings;
        let hello = Hello {
            incarnation: self.incarnation(),
            sequence: self.sequence,
            epochs: self.claims.epochs(),
            state: self.state,
            next: self.claims.log().next(),
            your_incarnation: 0,
            your_epochs: Epochs::EMPTY,
            have: 0,
            underlay,
            listen,
            services: services.clone(),
            must_equal: must_equal.clone(),
            is_silent: self.is_silent,
        };
        let Some(state) = self.peers.get_mut(peer) else { return };
        self.effects.send(peer, &Message::Hello(state.address(hello)), Kind::Hello);
    }

    fn greet_all(&mut self, now: Now) {
        self.digests.schedule(now);
        self.sequence = self.sequence.wrapping_add(1);
        self.peers.linked().into_iter().for_each(|peer| self.greet(peer));
    }

    /// This run's name; 0 is nobody's.
    const fn incarnation(&self) -> u64 {
        self.settings.seed | 1
    }

    /// Drops what was meant for the present link of a peer.
    fn forget(&mut self, peer: NodeId) {
        self.outbox.forget(peer);
        self.asks.forget(peer);
    }
}

/// What a peer says of itself, given this node's services.
fn introduction(hello: &Hello, mine: &[Service]) -> Introduction {
    let Hello { state, is_silent, epochs, underlay, ref services, .. } = *hello;
    let same = |mine: &Service| {
        services.iter().any(|theirs| (theirs.address, theirs.transport) == (mine.address, mine.transport))
    };
    let told = (0..abi::NO_SERVICE).zip(mine).filter(|(_, mine)| same(mine));
    // A hello without services is of a node that does not say, and one with the most may lack some.
    let served = match services.len() {
        0 | HELLO_SERVICES.. => Served::ALL,
        _ => told.fold(Served::default(), |served, (index, _)| served.with(index)),
    };
    Introduction { state, is_silent, epochs, underlay, served }
}
