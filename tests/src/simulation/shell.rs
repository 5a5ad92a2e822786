//! The daemon's loop, as `forwarder/src/daemon.rs` has it: failover machine, slow path and core in their order, and
//! what they decide carried out on the model of links and kernel.

use std::time::Instant;

use forwarder_common::{clock::Time, ids::NodeId};
use forwarder_core::{
    failover,
    node::{self, LocalClaim, MapWrite, Now, State},
    slowpath::Action,
};

use super::{
    Event, Simulation, TIMED, Way,
    host::{ClaimView, Daemon, Host, KernelAnswer, LinkEvent, Order, address, host_at},
    kernel::{Question, Told},
    traffic::Message,
};

/// What an injection through the daemon costs in microseconds.
const INJECTION_US: u64 = 50;
/// Tries that count for a message that the daemon has sent on: its sender does not know that it was lost.
const TRIES_OVER: u32 = u32::MAX;

/// What the daemon's loop takes in one turn, in the order of their hurry.
enum Input {
    Order(Order),
    Claims,
    Link(LinkEvent),
    Evidence(failover::Evidence),
    Answer(KernelAnswer),
    Punts,
    Nothing,
}

impl Simulation {
    /// The daemon's loop, until nothing waits for it.
    pub(super) fn pump(&mut self, host: usize) {
        if !self.hosts[host].is_awake() {
            return;
        }
        self.turns += 1;
        let timed = self.turns.is_multiple_of(TIMED).then(Instant::now);
        let now = self.hosts[host].now(self.now_us);
        loop {
            match self.next_input(host, now) {
                Input::Order(Order::Stop) => {
                    let Some(daemon) = &mut self.hosts[host].daemon else { return };
                    daemon.failover.handle_stop(now.monotonic_us);
                }
                Input::Order(Order::Drain(drains)) => {
                    let Some(daemon) = &mut self.hosts[host].daemon else { return };
                    daemon.failover.handle_drain(drains, now.monotonic_us);
                }
                Input::Claims => self.take_claims(host, now),
                Input::Link(event) => self.link_event(host, event, now),
                Input::Evidence(evidence) => {
                    let Host { daemon: Some(daemon), sockets, .. } = &mut self.hosts[host] else { return };
                    if let failover::Evidence::Sockets(inodes) = &evidence
                        && !inodes.is_empty()
                    {
                        sockets.clone_from(inodes);
                    }
                    daemon.failover.handle_evidence(0, &evidence, now.monotonic_us);
                }
                Input::Answer(answer) => self.take_answer(host, answer, now),
                Input::Punts => {
                    let is_rejoining = self.daemon(host).is_some_and(|daemon| daemon.failover.is_rejoining());
                    self.take_punts(host, is_rejoining, now);
                }
                Input::Nothing => {}
            }
            let Host { kernel, daemon: Some(daemon), .. } = &mut self.hosts[host] else { return };
            let Daemon { slow, failover, .. } = daemon;
            slow.handle_timeout(&ClaimView { kernel, failover, now }, now.monotonic_us);
            self.turn(host, now);
            if self.daemon(host).is_some_and(|daemon| daemon.ends) {
                return self.stop(host, now);
            }
            if !self.has_input(host, now) {
                break;
            }
        }
        self.arm(host);
        if let Some(since) = timed {
            self.timed = (self.timed.0 + 1, self.timed.1 + since.elapsed());
        }
    }

    fn daemon(&self, host: usize) -> Option<&Daemon> {
        self.hosts[host].daemon.as_ref()
    }

    fn has_input(&self, host: usize, now: Now) -> bool {
        let Host { claims, punts, daemon: Some(daemon), .. } = &self.hosts[host] else { return false };
        let has_punts = !punts.is_empty() && !daemon.failover.is_late(now.monotonic_us);
        has_punts
            || !daemon.orders.is_empty()
            || !claims.is_empty()
            || !daemon.link_events.is_empty()
            || !daemon.evidence.is_empty()
            || !daemon.answers.is_empty()
    }

    fn next_input(&mut self, host: usize, now: Now) -> Input {
        let Host { claims, punts, daemon: Some(daemon), .. } = &mut self.hosts[host] else { return Input::Nothing };
        if let Some(order) = daemon.orders.pop_front() {
            return Input::Order(order);
        }
        if !claims.is_empty() {
            return Input::Claims;
        }
        if let Some(event) = daemon.link_events.pop_front() {
            return Input::Link(event);
        }
        if let Some(evidence) = daemon.evidence.pop_front() {
            return Input::Evidence(evidence);
        }
        if let Some(answer) = daemon.answers.pop_front() {
            return Input::Answer(answer);
        }
        let has_punts = !punts.is_empty() && !daemon.failover.is_late(now.monotonic_us);
        if has_punts { Input::Punts } else { Input::Nothing }
    }

    /// Does what failover, slow path and core have decided; each may give the others something to do.
    fn turn(&mut self, host: usize, now: Now) {
        let Some(daemon) = &mut self.hosts[host].daemon else { return };
        daemon.failover.handle_seen(daemon.node.held_epochs());
        daemon.failover.handle_turn(|| daemon.node.is_synchronised(), now.monotonic_us);
        self.carry_out_failover(host, now);
        self.carry_out_slow(host, now);
        if let Some(daemon) = &mut self.hosts[host].daemon {
            daemon.node.handle_timeout(now);
        }
        self.carry_out_core(host, now);
        self.carry_out_slow(host, now);
    }

    fn link_event(&mut self, host: usize, event: LinkEvent, now: Now) {
        let (LinkEvent::Up { peer, .. }
        | LinkEvent::Down { peer, .. }
        | LinkEvent::Message { peer, .. }
        | LinkEvent::Datagram { peer, .. }) = event;
        let (id, underlay) = (self.hosts[peer].node, address(peer));
        let Some(daemon) = &mut self.hosts[host].daemon else { return };
        let taken = match event {
            LinkEvent::Up { again, .. } => {
                daemon.failover.handle_link_up(id, underlay, again, now.monotonic_us);
                self.carry_out_failover(host, now);
                Ok(())
            }
            LinkEvent::Down { end, .. } => {
                daemon.failover.handle_link_down(id, end, format!("{end:?}"), now.monotonic_us);
                self.carry_out_failover(host, now);
                Ok(())
            }
            LinkEvent::Message { bytes, .. } => {
                // A peer may ask for a claim that still waits in the ring buffer, or in the other one.
                self.take_claims(host, now);
                let Some(daemon) = &self.hosts[host].daemon else { return };
                let lays_aside = daemon.failover.is_rejoining() || daemon.failover.is_late(now.monotonic_us);
                self.take_punts(host, lays_aside, now);
                let Some(daemon) = &mut self.hosts[host].daemon else { return };
                daemon.node.handle_message(id, &bytes, now)
            }
            LinkEvent::Datagram { bytes, .. } => daemon.node.handle_datagram(id, &bytes, now),
        };
        if let Err(error) = taken {
            // All speak the protocol: this is a bug of the core.
            self.counts.protocol_errors.push(format!("{id:?} to {:?}: {error}", self.hosts[host].node));
        }
    }

    /// Sends a question through the tunnel.
    fn ask(&mut self, from: usize, to: NodeId, question: Question) {
        let Some(to) = self.peer_index(to) else { return };
        if self.network.is_open(from, to) {
            let at_us = self.now_us + self.network.one_way_us(from, to);
            self.queue.push(at_us, Event::Question { from, to, question });
        }
    }

    /// The programs answer, daemon or not.
    pub(super) fn question(&mut self, from: usize, to: usize, question: Question) {
        if !self.hosts[to].is_powered || !self.network.is_open(to, from) {
            return;
        }
        let now = self.hosts[to].now(self.now_us);
        let answer = self.hosts[to].kernel.answer(&question, now);
        let time = Time::at(now.monotonic_us * 1000);
        let (at_us, incarnation) = (self.now_us + self.network.one_way_us(to, from), self.hosts[from].incarnation);
        let answer = KernelAnswer { peer: to, question, answer, time };
        self.queue.push(at_us, Event::Answer { host: from, incarnation, answer });
    }

    /// An answer reaches the daemon's socket.
    pub(super) fn kernel_answer(&mut self, host: usize, incarnation: u32, answer: KernelAnswer) {
        let owner = &mut self.hosts[host];
        if owner.incarnation != incarnation {
            return;
        }
        if let Some(daemon) = &mut owner.daemon {
            daemon.answers.push_back(answer);
            self.pump(host);
        }
    }

    fn take_answer(&mut self, host: usize, answer: KernelAnswer, now: Now) {
        let KernelAnswer { peer, question: Question { request_key, reply_key, ticket }, answer, time } = answer;
        let peer = self.hosts[peer].node;
        let Some(daemon) = &mut self.hosts[host].daemon else { return };
        if request_key == 0 && reply_key == 0 {
            daemon.failover.handle_answer(peer, ticket, time, answer, now.monotonic_us);
        } else {
            daemon.node.handle_kernel_answer(peer, ticket, answer.held, now);
        }
    }

    /// Gives the ring buffer's claims to the core.
    fn take_claims(&mut self, host: usize, now: Now) {
        let owner = &mut self.hosts[host];
        let Some(daemon) = &mut owner.daemon else { return };
        for (at_us, told) in std::mem::take(&mut owner.claims) {
            let Told { claim, epoch } = told;
            if epoch != owner.kernel.epoch() {
                // Of an earlier run of the proxy.
                continue;
            }
            let remaining_ms = claim.remaining_ms.saturating_sub((self.now_us - at_us) / 1000);
            daemon.node.handle_local(LocalClaim { remaining_ms, ..claim }, now);
            self.reference.read(owner.node, owner.incarnation, told);
        }
    }

    /// Takes the ring buffer's punted packets: as the daemon does, those of one turn, or only lays them aside.
    fn take_punts(&mut self, host: usize, lays_aside: bool, now: Now) {
        let owner = &mut self.hosts[host];
        let Host { kernel, daemon: Some(daemon), punts, .. } = owner else { return };
        let Daemon { slow, failover, late, .. } = daemon;
        for (head, frame) in punts.drain(..) {
            if lays_aside {
                late.push((head, frame));
            } else {
                slow.handle_punt(head, &frame, &ClaimView { kernel, failover, now }, now.monotonic_us);
            }
        }
    }

    fn take_late(&mut self, host: usize, now: Now) {
        let Host { kernel, daemon: Some(daemon), .. } = &mut self.hosts[host] else { return };
        let Daemon { slow, failover, late, .. } = daemon;
        for (head, frame) in std::mem::take(late) {
            slow.handle_punt(head, &frame, &ClaimView { kernel, failover, now }, now.monotonic_us);
        }
    }

    fn carry_out_failover(&mut self, host: usize, now: Now) {
        use failover::Output;
        while let Some(output) = self.hosts[host].daemon.as_mut().and_then(|daemon| daemon.failover.poll_output()) {
            let Host { kernel, daemon: Some(daemon), is_routed, .. } = &mut self.hosts[host] else { return };
            match output {
                Output::Introduce(peer) => daemon.node.handle_link_up(peer, now),
                Output::GiveUp(peer) => daemon.node.handle_link_down(peer, now),
                Output::Peer { node, up, said } => kernel.set_peer(node, up, said),
                // All packets are sent just now.
                Output::Clock { .. } => {}
                Output::Probe { node, ticket } => {
                    self.ask(host, node, Question { request_key: 0, reply_key: 0, ticket });
                }
                Output::TakeDown(peer) => kernel.take_down(peer),
                // All datagrams are whole.
                Output::Reassemblers(_) => {}
                Output::Successors(nodes) => kernel.set_successors(nodes),
                Output::Lease(lease) => kernel.set_lease(lease),
                Output::OpenPunts => {
                    kernel.has_punts = true;
                    self.take_late(host, now);
                }
                Output::ClosePunts => kernel.has_punts = false,
                Output::Epochs(given) => {
                    daemon.node.set_epochs([given.others].into_iter().collect(), now);
                    kernel.given = Some(given);
                }
                Output::State { new, .. } => {
                    daemon.node.set_state(new, now);
                    // The operator's hook.
                    *is_routed = new == State::Up;
                }
                Output::Note(note) => self.counts.noted(&note),
                Output::End => daemon.ends = true,
            }
        }
    }

    fn carry_out_core(&mut self, host: usize, now: Now) {
        use node::{Command, Output};
        while let Some(output) = self.hosts[host].daemon.as_mut().and_then(|daemon| daemon.node.poll_output()) {
            match output {
                Output::Link(Command::Send { to, message, kind }) => {
                    if let Some(to) = self.peer_index(to) {
                        self.send(host, to, Some(kind), message);
                    }
                }
                Output::Link(Command::Datagram { to, bytes }) => {
                    if let Some(to) = self.peer_index(to) {
                        self.send(host, to, None, bytes);
                    }
                }
                Output::Link(Command::Call { address, .. }) => {
                    if let Some(target) = host_at(address) {
                        self.want(host, target);
                    }
                }
                Output::Link(Command::Forget { peer }) => {
                    if let Some(target) = self.peer_index(peer) {
                        self.forget(host, target);
                    }
                }
                // A breach is counted where the message is handled.
                Output::Link(Command::Drop { .. }) => {}
                Output::Map(write) => self.write(host, write, now),
                Output::AskKernel { to, number, request_key, reply_key } => {
                    self.ask(host, to, Question { request_key, reply_key, ticket: number });
                }
                Output::Answer { ticket, owned } => {
                    let Host { kernel, daemon: Some(daemon), .. } = &mut self.hosts[host] else { return };
                    let Daemon { slow, failover, .. } = daemon;
                    slow.handle_answer(ticket, owned, &ClaimView { kernel, failover, now }, now.monotonic_us);
                }
            }
        }
    }

    /// What the core writes into the maps.
    fn write(&mut self, host: usize, write: MapWrite, now: Now) {
        match write {
            MapWrite::Claim { key, owner, epoch, remaining_ms } => {
                self.hosts[host].kernel.set_claim(key, owner, epoch, remaining_ms, now);
            }
            // The failover machine has said so.
            MapWrite::Peer { up: false, .. } => {}
            MapWrite::Peer { node, up: true, state, epochs, underlay, served } => {
                let said = failover::Introduction { state, epochs, underlay, served };
                if let Some(daemon) = &mut self.hosts[host].daemon {
                    daemon.failover.handle_introduction(node, said, now.monotonic_us);
                }
                // Before the answer that follows it.
                self.carry_out_failover(host, now);
            }
        }
    }

    fn carry_out_slow(&mut self, host: usize, now: Now) {
        while let Some(daemon) = &mut self.hosts[host].daemon {
            let Some(action) = daemon.slow.poll_action() else { break };
            match action {
                Action::Inject { packet, .. } => {
                    if let Some(message) = Message::of_packet(&packet) {
                        let (at_us, way) = (self.now_us + INJECTION_US, Way::Held { by: host });
                        self.queue.push(at_us, Event::Delivery { host, message, way });
                    }
                }
                Action::Forward { to, packet, .. } => {
                    if let (Some(message), Some(to)) = (Message::of_packet(&packet), self.peer_index(to)) {
                        self.tunnel(host, to, message, Way::Held { by: host }, TRIES_OVER);
                    }
                }
                Action::Ask { ticket, request_key, reply_key } => {
                    daemon.node.handle_ask(ticket, request_key, reply_key, now);
                }
            }
        }
    }

    /// The daemon has lingered for long enough: what it has in hand goes on its way, and its links end in order.
    fn stop(&mut self, host: usize, now: Now) {
        self.hosts[host].kernel.has_punts = false;
        self.take_late(host, now);
        self.take_punts(host, false, now);
        self.turn(host, now);
        if let Some(daemon) = &mut self.hosts[host].daemon {
            daemon.slow.drain_all();
        }
        self.turn(host, now);
        self.end_daemon(host, true);
    }

    /// Lets the loop wake up when any of its parts asks for it.
    fn arm(&mut self, host: usize) {
        let at_us = self.now_us;
        let owner = &mut self.hosts[host];
        let now_us = owner.now(at_us).monotonic_us;
        let Some(Daemon { node, slow, failover, .. }) = &owner.daemon else { return };
        let due = node.poll_timeout().into_iter().chain(slow.poll_timeout());
        let due = due.fold(failover.poll_timeout(now_us), u64::min);
        // A microsecond at least, as any shell: what is overdue after a turn must not stop the time.
        let due_us = owner.virtual_us(due).max(at_us + 1);
        let incarnation = owner.incarnation;
        let Some(daemon) = &mut owner.daemon else { return };
        if daemon.timer_us <= at_us || due_us < daemon.timer_us {
            daemon.timer_us = due_us;
            self.queue.push(due_us, Event::Timer { host, incarnation });
        }
    }

    /// The daemon's process is gone: its lease ends by itself, and the way to it at once.
    pub(super) fn end_daemon(&mut self, host: usize, in_order: bool) {
        let owner = &mut self.hosts[host];
        if owner.daemon.take().is_none() {
            return;
        }
        owner.stalled_us = None;
        owner.kernel.has_punts = false;
        self.end_links(host, in_order);
        if self.hosts[host].wants_daemon {
            self.start_daemon(host);
        }
    }
}
