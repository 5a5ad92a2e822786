//! The daemon's loop, as `forwarder/src/daemon.rs` has it: failover machine, slow path and core in their order, and
//! what they decide carried out on the model of links and kernel.

use std::time::{Duration, Instant};

use forwarder_common::{clock::Time, ids::NodeId};
use forwarder_core::{
    failover,
    node::{self, MapWrite, Now, State},
    slowpath::Action,
};

use crate::hostile::{Act, Said};

use super::{
    event::{Event, Way},
    host::{ClaimView, Daemon, Host, KernelAnswer, LinkEvent, Order, address, host_at},
    kernel::Question,
    links::{self, Links},
    proxy::Proxies,
    traffic::Message,
    world::World,
};

/// One run of a daemon's loop in so many is timed.
const TIMED: u64 = 64;
/// Pause between two things that a hostile host says, in microseconds: within what a peer may take.
const MALICE_US: u64 = 20_000;
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

/// The loops of all daemons, and what they have taken.
#[derive(Debug, Default)]
pub(super) struct Shell {
    turns: u64,
    /// Turns that were timed, and the time of all of them.
    timed: (u64, Duration),
}

impl Shell {
    /// Mean processor time of a turn in nanoseconds.
    pub(super) fn turn_ns(&self) -> u64 {
        self.timed.1.as_nanos() as u64 / self.timed.0.max(1)
    }

    /// The daemon's loop, until nothing waits for it.
    pub(super) fn pump(&mut self, world: &mut World, links: &mut Links, proxies: &mut Proxies, host: usize) {
        if !world.hosts[host].is_awake() {
            return;
        }
        self.turns += 1;
        let timed = self.turns.is_multiple_of(TIMED).then(Instant::now);
        let now = world.hosts[host].now(world.now_us);
        loop {
            match next_input(world, host, now) {
                Input::Order(Order::Stop) => {
                    let Some(daemon) = &mut world.hosts[host].daemon else { return };
                    daemon.failover.handle_stop(now.monotonic_us);
                }
                Input::Order(Order::Drain(drains)) => {
                    let Some(daemon) = &mut world.hosts[host].daemon else { return };
                    daemon.failover.handle_drain(drains, now.monotonic_us);
                }
                Input::Claims => take_claims(world, host, now),
                Input::Link(event) => link_event(world, host, event, now),
                Input::Evidence(evidence) => {
                    let Host { daemon: Some(daemon), sockets, .. } = &mut world.hosts[host] else { return };
                    if let failover::Evidence::Sockets(inodes) = &evidence
                        && !inodes.is_empty()
                    {
                        sockets.clone_from(inodes);
                    }
                    daemon.failover.handle_evidence(0, &evidence, now.monotonic_us);
                }
                Input::Answer(answer) => take_answer(world, host, answer, now),
                Input::Punts => {
                    let is_rejoining =
                        world.hosts[host].daemon.as_ref().is_some_and(|daemon| daemon.failover.is_rejoining());
                    take_punts(world, host, is_rejoining, now);
                }
                Input::Nothing => {}
            }
            let Host { kernel, daemon: Some(daemon), .. } = &mut world.hosts[host] else { return };
            let Daemon { slow, failover, .. } = daemon;
            slow.handle_timeout(&ClaimView { kernel, failover, now }, now.monotonic_us);
            turn(world, links, proxies, host, now);
            if world.hosts[host].daemon.as_ref().is_some_and(|daemon| daemon.ends) {
                return stop(world, links, proxies, host, now);
            }
            if !has_input(world, host, now) {
                break;
            }
        }
        arm(world, host);
        if let Some(since) = timed {
            self.timed = (self.timed.0 + 1, self.timed.1 + since.elapsed());
        }
    }
}

fn has_input(world: &World, host: usize, now: Now) -> bool {
    let Host { claims, punts, daemon: Some(daemon), .. } = &world.hosts[host] else { return false };
    let has_punts = !punts.is_empty() && !daemon.failover.is_late(now.monotonic_us);
    has_punts
        || !daemon.orders.is_empty()
        || !claims.is_empty()
        || !daemon.link_events.is_empty()
        || !daemon.evidence.is_empty()
        || !daemon.answers.is_empty()
}

fn next_input(world: &mut World, host: usize, now: Now) -> Input {
    let Host { claims, punts, daemon: Some(daemon), .. } = &mut world.hosts[host] else { return Input::Nothing };
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

/// Sends a question through the tunnel.
fn ask(world: &mut World, from: usize, to: NodeId, question: Question) {
    let Some(to) = world.peer_index(to) else { return };
    if world.network.is_open(from, to) {
        let at_us = world.now_us + world.network.one_way_us(from, to);
        world.queue.push(at_us, Event::Question { from, to, question });
    }
}

/// The programs answer, daemon or not.
pub(super) fn question(world: &mut World, from: usize, to: usize, question: Question) {
    if !world.hosts[to].is_powered || !world.network.is_open(to, from) {
        return;
    }
    let now = world.hosts[to].now(world.now_us);
    let answer = world.hosts[to].kernel.answer(&question, now);
    let time = Time::at(now.monotonic_us * 1000);
    let (at_us, incarnation) = (world.now_us + world.network.one_way_us(to, from), world.hosts[from].incarnation);
    let answer = KernelAnswer { peer: to, question, answer, time };
    world.queue.push(at_us, Event::Answer { host: from, incarnation, answer });
}

/// A hostile daemon says something to all its peers.
pub(super) fn malice(world: &mut World, links: &mut Links, host: usize) {
    let acts: Vec<Act> = Act::ALL.into_iter().filter(|act| act.keeps_to_protocol()).collect();
    let act = acts[world.rng.usize(0..acts.len())];
    for to in 0..world.hosts.len() {
        let Some(script) = world.hosts[host].daemon.as_mut().and_then(|daemon| daemon.script.as_mut()) else { return };
        let said = script.say(act);
        if to == host || !links.is_linked(host, to) {
            continue;
        }
        match said {
            Said::Stream(bytes) | Said::Unfinished(bytes) => {
                // None of its hellos is the first of a link.
                links.send(world, host, to, Some(node::Kind::Batch), bytes);
            }
            Said::Datagram(bytes) => links.send(world, host, to, None, bytes),
        }
    }
    world.queue.push(world.now_us + MALICE_US, Event::Malice { host });
}

/// An answer reaches the daemon's socket.
pub(super) fn kernel_answer(world: &mut World, host: usize, incarnation: u32, answer: KernelAnswer) {
    let owner = &mut world.hosts[host];
    if owner.incarnation != incarnation {
        return;
    }
    if let Some(daemon) = &mut owner.daemon {
        daemon.answers.push_back(answer);
        world.wake(host);
    }
}

fn take_answer(world: &mut World, host: usize, answer: KernelAnswer, now: Now) {
    let KernelAnswer { peer, question: Question { request_key, reply_key, ticket }, answer, time } = answer;
    let peer = world.hosts[peer].node;
    let Some(daemon) = &mut world.hosts[host].daemon else { return };
    if request_key == 0 && reply_key == 0 {
        daemon.failover.handle_answer(peer, ticket, time, answer, now.monotonic_us);
    } else {
        daemon.node.handle_kernel_answer(peer, ticket, answer.held, now);
    }
}

/// Gives the ring buffer's claims to the core.
fn take_claims(world: &mut World, host: usize, now: Now) {
    let owner = &mut world.hosts[host];
    let Some(daemon) = &mut owner.daemon else { return };
    for (_, told) in std::mem::take(&mut owner.claims) {
        if told.claim.epoch != owner.kernel.epoch() {
            // Of an earlier run of the proxy.
            continue;
        }
        daemon.node.handle_event(&told.event, now);
        if !told.is_kept() {
            world.reference.read(owner.node, owner.incarnation, told);
        }
    }
}

/// Takes the ring buffer's punted packets: as the daemon does, those of one turn, or only lays them aside.
fn take_punts(world: &mut World, host: usize, lays_aside: bool, now: Now) {
    let owner = &mut world.hosts[host];
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

fn take_late(world: &mut World, host: usize, now: Now) {
    let Host { kernel, daemon: Some(daemon), .. } = &mut world.hosts[host] else { return };
    let Daemon { slow, failover, late, .. } = daemon;
    for (head, frame) in std::mem::take(late) {
        slow.handle_punt(head, &frame, &ClaimView { kernel, failover, now }, now.monotonic_us);
    }
}

fn carry_out_failover(world: &mut World, host: usize, now: Now) {
    use failover::Output;
    while let Some(output) = world.hosts[host].daemon.as_mut().and_then(|daemon| daemon.failover.poll_output()) {
        let Host { kernel, daemon: Some(daemon), is_routed, .. } = &mut world.hosts[host] else { return };
        match output {
            Output::Introduce { peer, addresses } => daemon.node.handle_link_up(peer, addresses, now),
            Output::GiveUp(peer) => daemon.node.handle_link_down(peer, now),
            Output::Peer { node, up, said } => kernel.set_peer(node, up, said),
            // All packets are sent just now.
            Output::Clock { .. } => {}
            Output::Probe { node, ticket } => {
                ask(world, host, node, Question { request_key: 0, reply_key: 0, ticket });
            }
            Output::TakeDown(peer) => kernel.take_down(peer),
            // All datagrams are whole.
            Output::Reassemblers(_) => {}
            Output::Successors(nodes) => kernel.set_successors(nodes),
            Output::Lease(lease) => kernel.set_lease(lease),
            Output::OpenPunts => {
                kernel.has_punts = true;
                take_late(world, host, now);
            }
            Output::ClosePunts => kernel.has_punts = false,
            Output::Epochs(given) => {
                daemon.node.set_epochs(given.live(), now);
                kernel.given = Some(given);
            }
            Output::State { new, is_silent, .. } => {
                daemon.node.set_state(new, is_silent, now);
                // The operator's hook.
                *is_routed = new == State::Up;
                world.count_routes();
            }
            Output::Note(note) => world.counts.noted(&note),
            Output::End => daemon.ends = true,
        }
    }
}

fn link_event(world: &mut World, host: usize, event: LinkEvent, now: Now) {
    let (LinkEvent::Up { peer, .. }
    | LinkEvent::Down { peer, .. }
    | LinkEvent::Message { peer, .. }
    | LinkEvent::Datagram { peer, .. }) = event;
    let (id, underlay) = (world.hosts[peer].node, address(peer));
    let Some(daemon) = &mut world.hosts[host].daemon else { return };
    let taken = match event {
        LinkEvent::Up { again, .. } => {
            daemon.failover.handle_link_up(id, underlay, &[], again, now.monotonic_us);
            carry_out_failover(world, host, now);
            Ok(())
        }
        LinkEvent::Down { end, .. } => {
            daemon.failover.handle_link_down(id, end, format!("{end:?}"), now.monotonic_us);
            carry_out_failover(world, host, now);
            Ok(())
        }
        LinkEvent::Message { bytes, .. } => {
            // A peer may ask for a claim that still waits in the ring buffer, or in the other one.
            take_claims(world, host, now);
            let Some(daemon) = &world.hosts[host].daemon else { return };
            let lays_aside = daemon.failover.is_rejoining() || daemon.failover.is_late(now.monotonic_us);
            take_punts(world, host, lays_aside, now);
            let Some(daemon) = &mut world.hosts[host].daemon else { return };
            daemon.node.handle_message(id, &bytes, now)
        }
        LinkEvent::Datagram { bytes, .. } => daemon.node.handle_datagram(id, &bytes, now),
    };
    if let Err(error) = taken {
        // All speak the protocol, but for those who mean harm: this is a bug of the core.
        if world.hosts[peer].daemon.as_ref().is_some_and(|daemon| daemon.script.is_some()) {
            return;
        }
        world.counts.protocol_errors.push(format!("{id:?} to {:?}: {error}", world.hosts[host].node));
    }
}

/// What the core writes into the maps.
fn write(world: &mut World, host: usize, write: MapWrite, now: Now) {
    match write {
        MapWrite::Claim { key, owner, epoch, purpose, remaining_ms } => {
            world.hosts[host].kernel.set_claim(key, (owner, epoch), purpose, remaining_ms, now);
        }
        MapWrite::End { key, epoch, class, was_ms, remaining_ms } => {
            let owner = &mut world.hosts[host];
            if owner.kernel.set_end((key, epoch), class, (was_ms, remaining_ms), now) {
                world.reference.set_end(owner.node, key, epoch, world.now_us + remaining_ms * 1000);
            }
        }
    }
}

fn carry_out_core(world: &mut World, links: &mut Links, host: usize, now: Now) {
    use node::{Command, Output};
    while let Some(output) = world.hosts[host].daemon.as_mut().and_then(|daemon| daemon.node.poll_output()) {
        match output {
            Output::Link(Command::Send { to, message, kind }) => {
                if let Some(to) = world.peer_index(to) {
                    links.send(world, host, to, Some(kind), message);
                }
            }
            Output::Link(Command::Datagram { to, bytes }) => {
                if let Some(to) = world.peer_index(to) {
                    links.send(world, host, to, None, bytes);
                }
            }
            Output::Link(Command::Call { address, .. }) => {
                if let Some(target) = host_at(address) {
                    links.want(world, host, target);
                }
            }
            Output::Link(Command::Forget { peer }) => {
                if let Some(target) = world.peer_index(peer) {
                    links::forget(world, host, target);
                }
            }
            // A breach is counted where the message is handled.
            Output::Link(Command::Drop { .. }) => {}
            Output::Map(change) => write(world, host, change, now),
            Output::Introduced { peer, said } => {
                if let Some(daemon) = &mut world.hosts[host].daemon {
                    daemon.failover.handle_introduction(peer, said, now.monotonic_us);
                }
                // Before the answer that follows it.
                carry_out_failover(world, host, now);
            }
            Output::AskKernel { to, number, request_key, reply_key } => {
                ask(world, host, to, Question { request_key, reply_key, ticket: number });
            }
            Output::Answer { ticket, owned } => {
                let Host { kernel, daemon: Some(daemon), .. } = &mut world.hosts[host] else { return };
                let Daemon { slow, failover, .. } = daemon;
                slow.handle_answer(ticket, owned, &ClaimView { kernel, failover, now }, now.monotonic_us);
            }
        }
    }
}

fn carry_out_slow(world: &mut World, proxies: &mut Proxies, host: usize, now: Now) {
    while let Some(daemon) = &mut world.hosts[host].daemon {
        let Some(action) = daemon.slow.poll_action() else { break };
        match action {
            Action::Inject { packet, .. } => {
                if let Some(message) = Message::of_packet(&packet) {
                    let (at_us, way) = (world.now_us + INJECTION_US, Way::Held { by: host });
                    world.queue.push(at_us, Event::Delivery { host, message, way });
                }
            }
            Action::Forward { to, packet, .. } => {
                if let (Some(message), Some(to)) = (Message::of_packet(&packet), world.peer_index(to)) {
                    proxies.tunnel(world, host, to, message, Way::Held { by: host }, TRIES_OVER);
                }
            }
            Action::Ask { ticket, request_key, reply_key } => {
                daemon.node.handle_ask(ticket, request_key, reply_key, now);
            }
        }
    }
}

/// Does what failover, slow path and core have decided; each may give the others something to do.
fn turn(world: &mut World, links: &mut Links, proxies: &mut Proxies, host: usize, now: Now) {
    let Some(daemon) = &mut world.hosts[host].daemon else { return };
    daemon.failover.handle_seen(daemon.node.held_epochs(), now.monotonic_us);
    daemon.failover.handle_turn(|| daemon.node.is_synchronised(), now.monotonic_us);
    carry_out_failover(world, host, now);
    carry_out_slow(world, proxies, host, now);
    if let Some(daemon) = &mut world.hosts[host].daemon {
        daemon.node.handle_timeout(now);
    }
    carry_out_core(world, links, host, now);
    carry_out_slow(world, proxies, host, now);
}

/// Lets the loop wake up when any of its parts asks for it.
fn arm(world: &mut World, host: usize) {
    let at_us = world.now_us;
    let owner = &mut world.hosts[host];
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
        world.queue.push(due_us, Event::Timer { host, incarnation });
    }
}

/// Starts the daemon; where one runs that is told to end, as soon as it has.
pub(super) fn start_daemon(world: &mut World, links: &mut Links, host: usize) {
    let owner = &mut world.hosts[host];
    owner.wants_daemon = owner.is_powered;
    if owner.daemon.is_some() || !owner.is_powered {
        return;
    }
    let seed = world.rng.u64(..);
    let restored = world.hosts[host].start_daemon(&world.seeds, seed, world.limits, world.now_us);
    world.reference.restore(&world.hosts[host], &restored, world.now_us);
    for seed in world.seeds.clone() {
        links.want(world, host, seed);
    }
    world.look_soon(host);
    world.wake(host);
}

/// The daemon's process is gone: its lease ends by itself, and the way to it at once.
pub(super) fn end_daemon(world: &mut World, links: &mut Links, host: usize, in_order: bool) {
    let owner = &mut world.hosts[host];
    if owner.daemon.take().is_none() {
        return;
    }
    owner.stalled_us = None;
    owner.kernel.has_punts = false;
    links.end_links(world, host, in_order);
    if world.hosts[host].wants_daemon {
        start_daemon(world, links, host);
    }
}

/// The daemon has lingered for long enough: what it has in hand goes on its way, and its links end in order.
fn stop(world: &mut World, links: &mut Links, proxies: &mut Proxies, host: usize, now: Now) {
    world.hosts[host].kernel.has_punts = false;
    take_late(world, host, now);
    take_punts(world, host, false, now);
    turn(world, links, proxies, host, now);
    if let Some(daemon) = &mut world.hosts[host].daemon {
        daemon.slow.drain_all();
    }
    turn(world, links, proxies, host, now);
    end_daemon(world, links, host, true);
}
