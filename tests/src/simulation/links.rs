//! The links as the daemon's loop sees them: who calls whom, when a link stands, what arrives on it and how late, when
//! it is gone and what that says of the peer.
//!
//! Instead of keep-alives there is one event an idle timeout after an end hears nothing any more. A message that the
//! network loses arrives later, by what QUIC takes to send it again; a datagram does not. A cut does the same to what
//! arrives during it. What reaches a host whose daemon is stopped waits in its socket.

use forwarder::cluster::links::{CALL_GRACE, HANDSHAKE, RETRY_LONGEST};
use forwarder_core::{
    failover::{
        LinkEnd,
        timers::{LINK_IDLE_US, LINK_KEEP_ALIVE_US},
    },
    node::Kind,
};

use super::{
    event::{Call, Ending, Event, Flight, Why},
    host::{CALL_FIRST_US, LinkEvent, Wanted},
    world::World,
};

/// Longest pause after a call that failed.
const CALL_LONGEST_US: u64 = RETRY_LONGEST.as_micros() as u64;
/// How long the higher node id leaves it to the lower one to call; with jitter half of it at least.
const CALL_GRACE_US: u64 = CALL_GRACE.as_micros() as u64;
/// Cryptography of a handshake, both sides.
const HANDSHAKE_US: u64 = 2_000;
/// How long a caller waits for an answer.
const HANDSHAKE_TIMEOUT_US: u64 = HANDSHAKE.as_micros() as u64;
/// How long after a stall the links' tasks run at the latest: each in an order of its own, and before the loop or
/// after.
pub(super) const WAKE_UP_US: u64 = 2_000;

/// What one end of a link hears of the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Hears {
    /// Its packets: at least a keep-alive now and then.
    #[default]
    All,
    /// Nothing.
    Nothing,
    /// Resets: the other end runs and knows nothing of the link (RFC 9000 §10.3).
    Resets,
}

/// One end of a link.
#[derive(Debug, Default)]
struct End {
    /// Of the daemon.
    incarnation: u32,
    is_up: bool,
    hears: Hears,
    /// Since when it hears nothing, in virtual microseconds.
    silent_us: Option<u64>,
    /// Its idle timeout has passed while its daemon was stopped.
    is_overdue: bool,
    /// It is about to notice its end: it takes nothing any more.
    is_over: bool,
    /// The other end's hello has arrived.
    is_introduced: bool,
    /// What has overtaken that.
    waiting: Vec<Vec<u8>>,
}

/// The link between two hosts; the lower index is end 0.
#[derive(Debug, Default)]
pub(super) struct Link {
    session: u32,
    ends: [End; 2],
}

const fn side(host: usize, peer: usize) -> usize {
    (host > peer) as usize
}

/// All links, and what waits in the sockets of daemons that are stopped.
#[derive(Debug)]
pub(super) struct Links {
    hosts: usize,
    links: Vec<Link>,
    /// By host.
    sockets: Vec<Vec<Event>>,
}

impl Links {
    /// Of so many hosts; none stands.
    pub(super) fn new(hosts: usize) -> Self {
        let (links, sockets) = ((0..hosts * hosts).map(|_| Link::default()), (0..hosts).map(|_| Vec::new()));
        Self { hosts, links: links.collect(), sockets: sockets.collect() }
    }

    fn link(&mut self, a: usize, b: usize) -> &mut Link {
        let at = a.min(b) * self.hosts + a.max(b);
        &mut self.links[at]
    }

    fn end(&mut self, host: usize, peer: usize) -> &mut End {
        &mut self.link(host, peer).ends[side(host, peer)]
    }

    /// Whether `host` has a link to `peer`.
    pub(super) fn is_linked(&self, host: usize, peer: usize) -> bool {
        let at = host.min(peer) * self.hosts + host.max(peer);
        self.links[at].ends[side(host, peer)].is_up
    }

    /// `host` calls `target` until they are linked.
    pub(super) fn want(&mut self, world: &mut World, host: usize, target: usize) {
        if host == target || target >= self.hosts {
            return;
        }
        let is_up = self.is_linked(host, target);
        let Some(daemon) = &mut world.hosts[host].daemon else { return };
        let is_known = daemon.wanted.contains_key(&target);
        let fresh = Wanted { backoff_us: CALL_FIRST_US, is_pending: false, is_seed: false };
        let wanted = daemon.wanted.entry(target).or_insert(fresh);
        if !is_up && !wanted.is_pending {
            wanted.is_pending = true;
            let grace_us = if is_known { 0 } else { grace_us(world, host, target) };
            call_after(world, grace_us, host, target);
        }
    }

    pub(super) fn call(&mut self, world: &mut World, call: Call) {
        let Call { host, target, incarnations, .. } = call;
        if world.hosts[host].incarnation != incarnations[0] {
            return;
        }
        if self.waits_in_socket(world, host, || Event::Call(call)) {
            return;
        }
        let is_up = self.is_linked(host, target);
        let Some(wanted) = wanted(world, host, target) else { return };
        if is_up {
            wanted.is_pending = false;
            return;
        }
        if world.hosts[target].daemon.is_none() || !world.network.is_open(host, target) {
            return call_failed(world, host, target);
        }
        let round_trip_us = world.network.one_way_us(host, target) + world.network.one_way_us(target, host);
        let incarnations = [incarnations[0], world.hosts[target].incarnation];
        let at_us = world.now_us + round_trip_us + HANDSHAKE_US;
        world.queue.push(at_us, Event::Handshake(Call { since_us: world.now_us, incarnations, ..call }));
    }

    pub(super) fn handshake(&mut self, world: &mut World, call: Call) {
        let Call { host, target, since_us, incarnations } = call;
        if world.hosts[host].incarnation != incarnations[0] || world.hosts[host].daemon.is_none() {
            return;
        }
        if self.waits_in_socket(world, host, || Event::Handshake(call)) {
            return;
        }
        let is_there = world.hosts[target].daemon.is_some() && world.hosts[target].incarnation == incarnations[1];
        let is_late = world.now_us > since_us + HANDSHAKE_TIMEOUT_US;
        if !is_there || is_late || !world.network.is_open(host, target) {
            return call_failed(world, host, target);
        }
        if world.hosts[target].stalled_us.is_some() {
            // The caller sends again until its timeout; what is in the socket is answered when the callee goes
            // on.
            let at_us = world.now_us + LINK_KEEP_ALIVE_US;
            return world.queue.push(at_us, Event::Handshake(call));
        }
        if let Some(wanted) = wanted(world, host, target) {
            (wanted.is_pending, wanted.backoff_us) = (false, CALL_FIRST_US);
        }
        let by_side = if side(host, target) == 0 { incarnations } else { [incarnations[1], incarnations[0]] };
        let link = self.link(host, target);
        let is_up = link.ends.each_ref().map(|end| end.is_up);
        if is_up == [true, true] && link.ends.each_ref().map(|end| end.incarnation) == by_side {
            return;
        }
        let ends = by_side.map(|incarnation| End { incarnation, is_up: true, ..End::default() });
        *link = Link { session: link.session + 1, ends };
        world.counts.links_up += 1;
        for (host, peer) in [(host, target), (target, host)] {
            tell(world, host, LinkEvent::Up { peer, again: is_up[side(host, peer)] });
        }
        for (host, peer) in [(host, target), (target, host)] {
            self.review(world, host, peer);
        }
    }

    /// Whether the daemon's process is stopped, so that this waits until it goes on.
    fn waits_in_socket(&mut self, world: &mut World, host: usize, event: impl FnOnce() -> Event) -> bool {
        if world.hosts[host].daemon.is_none() || world.hosts[host].stalled_us.is_none() {
            return false;
        }
        self.sockets[host].push(event());
        true
    }

    /// Puts a message or, without a kind, a datagram on a link.
    pub(super) fn send(&mut self, world: &mut World, from: usize, to: usize, kind: Option<Kind>, bytes: Vec<u8>) {
        if !self.is_linked(from, to) {
            world.counts.unsent += 1;
            return;
        }
        let session = self.link(from, to).session;
        world.counts.sent(from, to, kind, bytes.len());
        let mut delay_us = world.network.one_way_us(from, to);
        let mut tries = 0;
        while world.network.loses() {
            world.counts.lost += 1;
            if kind.is_none() {
                return;
            }
            tries += 1;
            delay_us += world.network.repair_us(from, to, tries);
        }
        world.queue.push(world.now_us + delay_us, Event::Arrival(Flight { from, to, session, kind, bytes }));
    }

    pub(super) fn arrival(&mut self, world: &mut World, flight: Flight) {
        let (from, to, session) = (flight.from, flight.to, flight.session);
        let is_of_this = self.link(from, to).session == session;
        let end = self.end(to, from);
        if !is_of_this || !end.is_up || end.is_over {
            return;
        }
        if !world.network.is_open(from, to) {
            if flight.kind.is_some() {
                let later_us = world.now_us + world.network.repair_us(from, to, 1);
                world.queue.push(later_us, Event::Arrival(flight));
            }
            return;
        }
        if world.hosts[to].stalled_us.is_some() {
            self.sockets[to].push(Event::Arrival(flight));
            return;
        }
        let end = self.end(to, from);
        match flight.kind {
            Some(Kind::Hello) => {
                let first = !std::mem::replace(&mut end.is_introduced, true);
                let waiting = std::mem::take(&mut end.waiting);
                deliver(world, to, from, true, flight.bytes);
                if first {
                    waiting.into_iter().for_each(|bytes| deliver(world, to, from, true, bytes));
                }
            }
            Some(_) if !end.is_introduced => end.waiting.push(flight.bytes),
            None if !end.is_introduced => {}
            kind => deliver(world, to, from, kind.is_some(), flight.bytes),
        }
    }

    /// Looks at what each end of each link hears now.
    pub(super) fn review_all(&mut self, world: &mut World) {
        let hosts = self.hosts;
        for (host, peer) in (0..hosts).flat_map(|host| (0..hosts).map(move |peer| (host, peer))) {
            self.review(world, host, peer);
        }
    }

    fn review(&mut self, world: &mut World, host: usize, peer: usize) {
        if host == peer || !self.is_linked(host, peer) {
            return;
        }
        let (session, incarnation) = {
            let link = self.link(host, peer);
            (link.session, link.ends[side(peer, host)].incarnation)
        };
        let is_same = world.hosts[peer].is_awake() && world.hosts[peer].incarnation == incarnation;
        let hears = match is_same && world.network.is_open(host, peer) {
            false => Hears::Nothing,
            true if self.is_linked(peer, host) => Hears::All,
            true => Hears::Resets,
        };
        let now_us = world.now_us;
        let end = self.end(host, peer);
        let before = std::mem::replace(&mut end.hears, hears);
        if hears == Hears::All {
            (end.silent_us, end.is_overdue) = (None, false);
        } else if end.silent_us.is_none() {
            end.silent_us = Some(now_us);
            await_silence(world, host, peer, session, now_us);
        }
        if hears == Hears::Resets && before != Hears::Resets {
            await_reset(world, host, peer, session);
        }
    }

    pub(super) fn ending(&mut self, world: &mut World, ending: Ending) {
        let Ending { host, peer, session, why } = ending;
        let is_of_this = self.link(host, peer).session == session;
        let end = self.end(host, peer);
        if !is_of_this || !end.is_up {
            return;
        }
        let is_stalled = world.hosts[host].stalled_us.is_some();
        match why {
            Why::Silence { since_us } => {
                let end = self.end(host, peer);
                if end.silent_us != Some(since_us) {
                    return;
                }
                end.is_overdue |= is_stalled;
                if !is_stalled {
                    self.link_down(world, host, peer, LinkEnd::Silent);
                }
            }
            Why::Overdue => self.link_down(world, host, peer, LinkEnd::Silent),
            Why::Reset | Why::Farewell if is_stalled => self.sockets[host].push(Event::Ending(ending)),
            Why::Reset if self.end(host, peer).hears != Hears::Resets => {}
            Why::Reset if world.network.loses() => await_reset(world, host, peer, session),
            Why::Reset => self.link_down(world, host, peer, LinkEnd::Well),
            Why::Farewell => self.link_down(world, host, peer, LinkEnd::Leaving),
        }
    }

    /// The link is gone at `host`.
    fn link_down(&mut self, world: &mut World, host: usize, peer: usize, end: LinkEnd) {
        if !std::mem::replace(&mut self.end(host, peer).is_up, false) {
            return;
        }
        world.counts.links_down += 1;
        // The other end is answered by resets from now on.
        self.review(world, peer, host);
        if wanted(world, host, peer).is_some_and(|wanted| !wanted.is_pending) {
            call_failed(world, host, peer);
        }
        tell(world, host, LinkEvent::Down { peer, end });
    }

    /// The daemon of `host` goes on after its process was stopped for so long: of each link either the idle timeout is
    /// seen first, or what waits in the socket.
    pub(super) fn wake_links(&mut self, world: &mut World, host: usize, stalled_us: u64) {
        for peer in (0..self.hosts).filter(|peer| *peer != host) {
            if !self.is_linked(host, peer) {
                continue;
            }
            let is_overdue =
                self.end(host, peer).is_overdue || stalled_us + world.rng.u64(0..LINK_KEEP_ALIVE_US) >= LINK_IDLE_US;
            if !is_overdue {
                continue;
            }
            let session = self.link(host, peer).session;
            if world.rng.bool() {
                self.end(host, peer).is_over = true;
                let at_us = world.now_us + world.rng.u64(0..WAKE_UP_US);
                world.queue.push(at_us, Event::Ending(Ending { host, peer, session, why: Why::Overdue }));
            } else if self.end(host, peer).silent_us.is_some() {
                // What it reads now was sent before the other end fell silent.
                let now_us = world.now_us;
                let end = self.end(host, peer);
                (end.silent_us, end.is_overdue) = (Some(now_us), false);
                await_silence(world, host, peer, session, now_us);
            }
        }
        for event in std::mem::take(&mut self.sockets[host]) {
            let at_us = world.now_us + world.rng.u64(0..WAKE_UP_US);
            world.queue.push(at_us, event);
        }
    }

    /// The daemon's process is gone, and its ends of all links with it: after it has closed them in order, or not.
    pub(super) fn end_links(&mut self, world: &mut World, host: usize, in_order: bool) {
        self.sockets[host].clear();
        for peer in (0..self.hosts).filter(|peer| *peer != host) {
            if !std::mem::replace(&mut self.end(host, peer).is_up, false) {
                continue;
            }
            if in_order && world.network.is_open(host, peer) {
                let session = self.link(host, peer).session;
                let at_us = world.now_us + world.network.one_way_us(host, peer);
                world.queue.push(at_us, Event::Ending(Ending { host: peer, peer: host, session, why: Why::Farewell }));
            }
        }
        self.review_all(world);
    }

    /// Pairs of running daemons that are not linked with each other.
    pub(super) fn unlinked(&self, world: &World) -> usize {
        let runs = |host: usize| world.hosts[host].daemon.is_some();
        let pairs = (0..self.hosts).flat_map(|low| (low + 1..self.hosts).map(move |high| (low, high)));
        let is_linked = |low: usize, high: usize| self.is_linked(low, high) && self.is_linked(high, low);
        pairs.filter(|(low, high)| runs(*low) && runs(*high) && !is_linked(*low, *high)).count()
    }
}

/// `target` is no member any more.
pub(super) fn forget(world: &mut World, host: usize, target: usize) {
    let Some(daemon) = &mut world.hosts[host].daemon else { return };
    if daemon.wanted.get(&target).is_some_and(|wanted| !wanted.is_seed) {
        daemon.wanted.remove(&target);
    }
}

/// The higher node id leaves it to the lower one to call.
fn grace_us(world: &mut World, host: usize, target: usize) -> u64 {
    if target < host { world.rng.u64(CALL_GRACE_US / 2..=CALL_GRACE_US) } else { 0 }
}

fn call_after(world: &mut World, pause_us: u64, host: usize, target: usize) {
    let incarnations = [world.hosts[host].incarnation, world.hosts[target].incarnation];
    let since_us = world.now_us + pause_us;
    world.queue.push(since_us, Event::Call(Call { host, target, since_us, incarnations }));
}

fn call_failed(world: &mut World, host: usize, target: usize) {
    let jitter = 0.5 + 0.5 * world.rng.f64();
    let grace_us = grace_us(world, host, target);
    let Some(wanted) = wanted(world, host, target) else { return };
    wanted.is_pending = true;
    let pause_us = (wanted.backoff_us as f64 * jitter) as u64;
    wanted.backoff_us = (wanted.backoff_us * 2).min(CALL_LONGEST_US);
    call_after(world, pause_us + grace_us, host, target);
}

/// Tells the daemon's loop.
fn tell(world: &mut World, host: usize, event: LinkEvent) {
    if let Some(daemon) = &mut world.hosts[host].daemon {
        daemon.link_events.push_back(event);
        world.wake(host);
    }
}

fn deliver(world: &mut World, host: usize, peer: usize, is_message: bool, bytes: Vec<u8>) {
    world.note(host as u64, peer as u64, bytes.len() as u64);
    world.counts.delivered += u64::from(is_message);
    let event = if is_message { LinkEvent::Message { peer, bytes } } else { LinkEvent::Datagram { peer, bytes } };
    tell(world, host, event);
}

/// The last keep-alive may have been sent a while before the silence began.
fn await_silence(world: &mut World, host: usize, peer: usize, session: u32, since_us: u64) {
    let at_us = since_us + LINK_IDLE_US - world.rng.u64(0..LINK_KEEP_ALIVE_US);
    world.queue.push(at_us, Event::Ending(Ending { host, peer, session, why: Why::Silence { since_us } }));
}

/// The next keep-alive is answered by a reset.
fn await_reset(world: &mut World, host: usize, peer: usize, session: u32) {
    let round_trip_us = world.network.one_way_us(host, peer) + world.network.one_way_us(peer, host);
    let at_us = world.now_us + world.rng.u64(0..LINK_KEEP_ALIVE_US) + round_trip_us;
    world.queue.push(at_us, Event::Ending(Ending { host, peer, session, why: Why::Reset }));
}

fn wanted(world: &mut World, host: usize, target: usize) -> Option<&mut Wanted> {
    world.hosts[host].daemon.as_mut()?.wanted.get_mut(&target)
}
