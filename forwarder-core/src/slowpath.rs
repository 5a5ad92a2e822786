//! The slow path: the job of the XDP program for the packets that it cannot finish, with the same verdicts.
//!
//! Sans-IO: packets, answers, claims and the time go in by `handle_*`, what is to be done comes out of
//! [`SlowPath::poll_action`]. It never alters what it delivers, never sends on what came through the tunnel whole, and
//! loses nothing silently: with [`Ledger`] every packet is accounted for.
//!
//! A punted packet is located again (`packet`), a fragment waits for its datagram (`reassemble`, `whole`), an unknown
//! reply or CANCEL for its owner (`hold`).

mod bounds;
pub mod hold;
mod interface;
mod ledger;
mod packet;
pub mod reassembly;
mod sent;
mod verdict;
pub mod whole;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use forwarder_common::{
    abi::{Address, Punt},
    ids::NodeId,
    outcome::Outcome,
    sip::full::Unkeyable,
    verdict::Verdict,
};

pub use interface::{Action, Service, Settings, View};
pub use ledger::Ledger;
pub use sent::Sent;

use bounds::Bounds;
use hold::{Held, Hold};
use packet::{Fragment, Message, Packet};
use reassembly::{Arrival, Reassembly};
use verdict::{verdict, without_answer};

/// Whether a wait ends with this look at the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Waits,
    Ends,
}

/// The slow path of one node. After each `handle_*`, poll the actions until there is none.
#[derive(Debug)]
pub struct SlowPath {
    node: NodeId,
    hash_key: [u64; 2],
    hold_us: u64,
    /// Place and affinity `call` by VIP and port.
    services: BTreeMap<([u32; 4], u16), (usize, bool)>,
    vips: BTreeSet<[u32; 4]>,
    hold: Hold,
    reassembly: Reassembly,
    bounds: Bounds,
    actions: VecDeque<Action>,
    ledger: Ledger,
}

impl SlowPath {
    /// A slow path that has seen nothing yet.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let services: BTreeMap<_, _> = settings
            .services
            .iter()
            .enumerate()
            .map(|(place, service)| {
                ((Address::of(service.address.ip()).0, service.address.port()), (place, service.affinity_call))
            })
            .collect();
        Self {
            node: settings.node,
            hash_key: settings.hash_key,
            hold_us: settings.hold_us,
            vips: services.keys().map(|(vip, _)| *vip).collect(),
            services,
            hold: Hold::new(),
            reassembly: Reassembly::default(),
            bounds: Bounds::new(settings.costs),
            actions: VecDeque::new(),
            ledger: Ledger::default(),
        }
    }

    /// A frame that the kernel punted. Its reason does not matter: the packet is read anew, and the table may say more
    /// by now.
    pub fn handle_punt(&mut self, head: Punt, frame: &[u8], view: &dyn View, now_us: u64) {
        self.ledger.came();
        self.bounds.at(now_us);
        let frame = frame.get(..head.length as usize).unwrap_or(frame);
        let Some(packet) = Packet::of_frame(frame) else { return self.count(Outcome::SlowRefused) };
        if head.reason == Outcome::DecapPuntedFragment.number() {
            match packet.inside() {
                Some((from, reassemble, inner)) => self.tunnelled(from, reassemble, &inner, head.ifindex, view, now_us),
                None => self.count(Outcome::SlowRefused),
            }
        } else if packet.ip.fragment {
            self.fragment(&packet, head.ifindex, view, now_us);
        } else {
            self.judge(packet.bytes.to_vec(), head.ifindex, view, now_us);
        }
    }

    /// A tunnel packet that reached the daemon's socket: the IP packet inside, whose tag the caller has verified, and
    /// whether it carries the mark of a fragment to be reassembled. A local proxy gets it at `ifindex`.
    pub fn handle_tunnel(
        &mut self,
        from: NodeId,
        reassemble: bool,
        packet: &[u8],
        ifindex: u32,
        view: &dyn View,
        now_us: u64,
    ) {
        self.ledger.came();
        self.bounds.at(now_us);
        match Packet::read(packet) {
            Some(packet) => self.tunnelled(from, reassemble, &packet, ifindex, view, now_us),
            None => self.count(Outcome::SlowRefused),
        }
    }

    /// The peers' answer to a question: somebody owns the transaction, so that its claim is on its way; or nobody does,
    /// and the packet waits no longer.
    pub fn handle_answer(&mut self, ticket: u64, owned: bool, view: &dyn View, now_us: u64) {
        self.bounds.at(now_us);
        self.settle(ticket, if owned { Wait::Waits } else { Wait::Ends }, view);
        self.ask_for_branch(ticket, view);
    }

    /// Lets go what has waited long enough.
    pub fn handle_timeout(&mut self, view: &dyn View, now_us: u64) {
        self.bounds.at(now_us);
        self.reassembly.expire(now_us);
        while let Some((ticket, _)) = self.hold.first().filter(|(_, due_us)| *due_us <= now_us) {
            self.settle(ticket, Wait::Ends, view);
        }
    }

    /// The daemon stops: all that waits is delivered locally, fragments as they came.
    pub fn drain_all(&mut self) {
        while let Some(held) = self.hold.first().and_then(|(ticket, _)| self.hold.take(ticket)) {
            self.inject(held.ifindex, held.packet, Outcome::SlowReleased);
        }
        for fragment in self.reassembly.drain() {
            self.inject(fragment.ifindex, fragment.packet, Outcome::SlowReleased);
        }
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        let held = self.hold.first().map(|(_, due_us)| due_us);
        held.into_iter().chain(self.reassembly.due_us()).min()
    }

    /// The kernel refused an action of this slow path: its packet is lost, after it was counted as what it was to be.
    pub fn handle_failure(&mut self) {
        self.count(Outcome::SlowFailed);
    }

    /// A packet on the daemon's socket that is no tunnel packet of a peer.
    pub fn handle_refused(&mut self) {
        self.ledger.came();
        self.count(Outcome::SlowRefused);
    }

    /// From now on keys are made with this one; what waits goes by the old one.
    pub const fn set_hash_key(&mut self, hash_key: [u64; 2]) {
        self.hash_key = hash_key;
    }

    /// How often each outcome of the slow path was reached.
    pub fn counts(&self) -> impl Iterator<Item = (Outcome, u64)> {
        self.ledger().outcomes()
    }

    /// The whole account.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.ledger.with(&self.hold, &self.reassembly)
    }

    fn tunnelled(
        &mut self,
        from: NodeId,
        reassemble: bool,
        packet: &Packet<'_>,
        ifindex: u32,
        view: &dyn View,
        now_us: u64,
    ) {
        let fragment = Fragment::read(packet).filter(|_| packet.ip.fragment && self.is_for_vip(packet));
        match fragment {
            Some(fragment) => {
                let cut_by = (!reassemble).then_some(from);
                self.put(&Arrival { packet: *packet, fragment, ifindex, cut_by }, view, now_us);
            }
            None if !reassemble && self.service(packet).is_some() => {
                self.inject(ifindex, packet.bytes.to_vec(), Outcome::SlowReceived);
            }
            None => self.count(Outcome::SlowRefused),
        }
    }

    /// A fragment from the wire: to the node that reassembles it, or among those that wait here.
    fn fragment(&mut self, packet: &Packet<'_>, ifindex: u32, view: &dyn View, now_us: u64) {
        let place = packet.ip.datagram_slot(&packet.bytes).zip(Fragment::read(packet));
        let Some((slot, fragment)) = place else { return self.count(Outcome::SlowRefused) };
        if !self.is_for_vip(packet) {
            return self.inject(ifindex, packet.bytes.to_vec(), Outcome::SlowNotSip);
        }
        match view.reassembler(slot as usize) {
            Some(to) if to != self.node => {
                let (source, bytes) = (packet.ip.source(&packet.bytes).unwrap_or_default(), packet.bytes.len());
                if let Err(over) = self.bounds.fragment(to, source, self.hash_key[0], bytes) {
                    // Nobody here has the others of its datagram.
                    return self.count(over);
                }
                self.count(Outcome::SlowForwarded);
                self.actions.push_back(Action::Forward { to, packet: packet.bytes.to_vec(), reassemble: true });
            }
            _ => self.put(&Arrival { packet: *packet, fragment, ifindex, cut_by: None }, view, now_us),
        }
    }

    fn put(&mut self, arrival: &Arrival<'_>, view: &dyn View, now_us: u64) {
        self.count(Outcome::SlowReassembling);
        let Some(whole) = self.reassembly.put(arrival, now_us) else { return };
        self.count(Outcome::SlowReassembled);
        if arrival.cut_by.is_none() {
            return self.judge(whole.packet, whole.ifindex, view, now_us);
        }
        // It came through the tunnel for this node: never sent on.
        let is_service = Packet::read(&whole.packet).is_some_and(|packet| self.service(&packet).is_some());
        if is_service {
            self.inject(whole.ifindex, whole.packet, Outcome::SlowReceived);
        } else {
            self.count(Outcome::SlowRefused);
        }
    }

    /// The ordinary verdict for a whole packet.
    fn judge(&mut self, packet: Vec<u8>, ifindex: u32, view: &dyn View, now_us: u64) {
        let message = match self.message(&packet) {
            Ok(message) => message,
            Err(outcome) => return self.inject(ifindex, packet, outcome),
        };
        match verdict(&message, view) {
            Verdict::Local(_) => self.inject(ifindex, packet, Outcome::SlowLocal),
            Verdict::ToOwner(owner) => {
                self.forward(owner, &message, ifindex, packet, Outcome::SlowForwarded, view);
            }
            Verdict::Divert(successor) => {
                self.forward(successor, &message, ifindex, packet, Outcome::SlowDiverted, view);
            }
            Verdict::Ask(why) => {
                let due_us = now_us.saturating_add(self.hold_us);
                let of_branch = matches!(why, Outcome::UnknownBranch);
                self.hold(Held { ifindex, packet, message, due_us, of_branch }, view, now_us);
            }
        }
    }

    /// What the packet says, or what it is counted as where it has no key; it is local then.
    fn message(&self, packet: &[u8]) -> Result<Message, Outcome> {
        let packet = Packet::read(packet).ok_or(Outcome::SlowNotSip)?;
        let (payload, (_, affinity_call)) = self.service(&packet).ok_or(Outcome::SlowNotSip)?;
        Message::read(payload, self.hash_key, affinity_call).map_err(|why| match why {
            Unkeyable::KeepAlive | Unkeyable::NotSip => Outcome::SlowNotSip,
            Unkeyable::StartLine
            | Unkeyable::MissingCallId
            | Unkeyable::MissingCseq
            | Unkeyable::CseqForm
            | Unkeyable::CseqRange => Outcome::SlowLocal,
        })
    }

    fn is_for_vip(&self, packet: &Packet<'_>) -> bool {
        packet.destination().is_some_and(|vip| self.vips.contains(&vip.0))
    }

    /// The payload of a datagram to a service, and that one's place and whether it has affinity `call`.
    fn service<'a>(&self, packet: &Packet<'a>) -> Option<(&'a [u8], (usize, bool))> {
        let (port, payload) = packet.datagram()?;
        Some((payload, *self.services.get(&(packet.destination()?.0, port))?))
    }

    fn hold(&mut self, held: Held, view: &dyn View, now_us: u64) {
        let (message, of_branch) = (held.message, held.of_branch);
        match self.hold.put(held, now_us) {
            Ok(ticket) => {
                self.count(Outcome::SlowHeld);
                self.ask(ticket, &message, of_branch);
            }
            Err(held) => {
                let verdict = without_answer(&message, view);
                self.let_go(held, verdict, Outcome::SlowHoldOverflow, view);
            }
        }
    }

    fn ask(&mut self, ticket: u64, message: &Message, of_branch: bool) {
        // Who owns the transaction is known already where only the branch is asked for.
        let (request, reply) = (message.keys.request, message.keys.reply);
        let request_key = if of_branch { reply.unwrap_or(request) } else { request };
        self.actions.push_back(Action::Ask { ticket, request_key, reply_key: reply.unwrap_or_default() });
    }

    /// Asks for the branch of a packet whose transaction turned out to be owned, once: no claim that comes later ends
    /// its wait.
    fn ask_for_branch(&mut self, ticket: u64, view: &dyn View) {
        let Some(held) = self.hold.waiting(ticket).filter(|held| !held.of_branch) else { return };
        let message = held.message;
        if matches!(verdict(&message, view), Verdict::Ask(Outcome::UnknownBranch)) {
            held.of_branch = true;
            self.ask(ticket, &message, true);
        }
    }

    /// Looks once more for the owner of a packet that waits.
    fn settle(&mut self, ticket: u64, wait: Wait, view: &dyn View) {
        let Some(message) = self.hold.message(ticket) else { return };
        if wait == Wait::Waits && matches!(verdict(&message, view), Verdict::Ask(_)) {
            return;
        }
        if let Some(held) = self.hold.take(ticket) {
            self.let_go(held, without_answer(&message, view), Outcome::SlowReleased, view);
        }
    }

    /// Sends a packet that waits no longer, or could not, on its way; without an owner it is local under `released`.
    fn let_go(&mut self, held: Held, verdict: Verdict, released: Outcome, view: &dyn View) {
        match verdict {
            Verdict::ToOwner(owner) => {
                self.forward(owner, &held.message, held.ifindex, held.packet, Outcome::SlowForwarded, view);
            }
            Verdict::Divert(successor) => {
                self.forward(successor, &held.message, held.ifindex, held.packet, Outcome::SlowDiverted, view);
            }
            Verdict::Local(Outcome::LocalOwner) => self.inject(held.ifindex, held.packet, Outcome::SlowLocal),
            // Nobody owns it; or no peer is left that could.
            Verdict::Local(_) | Verdict::Ask(_) => self.inject(held.ifindex, held.packet, released),
        }
    }

    fn inject(&mut self, ifindex: u32, packet: Vec<u8>, outcome: Outcome) {
        self.count(outcome);
        self.actions.push_back(Action::Inject { ifindex, packet });
    }

    /// Sends a packet to a peer, if that has its service and it is within the bounds; else it is served here.
    fn forward(
        &mut self,
        to: NodeId,
        message: &Message,
        ifindex: u32,
        packet: Vec<u8>,
        outcome: Outcome,
        view: &dyn View,
    ) {
        let place = Packet::read(&packet).and_then(|packet| self.service(&packet).map(|(_, (place, _))| place));
        if place.is_some_and(|place| !view.serves(to, place)) {
            return self.inject(ifindex, packet, Outcome::SlowLocal);
        }
        if let Err(over) = self.bounds.message(to, message.keys.request, packet.len()) {
            return self.inject(ifindex, packet, over);
        }
        if packet.len() <= whole::LONGEST_IN_TUNNEL {
            self.count(outcome);
            self.actions.push_back(Action::Forward { to, packet, reassemble: false });
            return;
        }
        let Some(halves) = Packet::read(&packet).and_then(|whole| whole::halves(&whole)) else {
            return self.inject(ifindex, packet, Outcome::SlowLocal);
        };
        self.count(outcome);
        self.actions.extend(halves.into_iter().map(|packet| Action::Forward { to, packet, reassemble: false }));
    }

    fn count(&mut self, outcome: Outcome) {
        self.ledger.count(outcome);
    }
}
