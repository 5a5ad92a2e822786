//! The links as the core sees them: who calls whom, when a link stands, what arrives on it and how late, when it is
//! gone.
//!
//! Instead of keep-alives there is one event a second after a host or a path falls silent. A message that the network
//! loses arrives later, by what QUIC takes to send it again; a datagram does not. A cut does the same to what arrives
//! during it.

use forwarder_core::node::Kind;

use super::host::{Wanted, host_of};
use super::{Event, JOIN_US, Simulation};

/// Silence after which a link is gone, in microseconds (`max_idle_timeout` of the links).
const IDLE_US: u64 = 1_000_000;
/// The last keep-alive may have been sent so long before the silence began.
const KEEP_ALIVE_US: u64 = 250_000;
/// First pause after a call that failed.
pub(super) const CALL_FIRST_US: u64 = 100_000;
/// Longest pause after a call that failed.
const CALL_LONGEST_US: u64 = 5_000_000;
/// How long a peer whose daemon has ended in order counts as up.
const REJOIN_US: u64 = 5_000_000;
/// Cryptography of a handshake, both sides.
const HANDSHAKE_US: u64 = 2_000;

/// The link between two hosts; the lower index is side 0.
#[derive(Debug, Default)]
pub(super) struct Link {
    session: u32,
    lives: [u32; 2],
    up: [bool; 2],
    introduced: [bool; 2],
    waiting: [Vec<Vec<u8>>; 2],
}

/// Bytes on their way over a link.
#[derive(Debug)]
pub(super) struct Flight {
    from: usize,
    to: usize,
    session: u32,
    /// `None` is a datagram.
    kind: Option<Kind>,
    bytes: Vec<u8>,
}

/// A call, or its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    host: usize,
    target: usize,
    lives: [u32; 2],
}

/// A side of a link that may have to notice that the other is silent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    host: usize,
    peer: usize,
    session: u32,
    since_us: u64,
}

const fn side(host: usize, peer: usize) -> usize {
    (host > peer) as usize
}

impl Simulation {
    fn link(&mut self, a: usize, b: usize) -> &mut Link {
        let at = a.min(b) * self.hosts.len() + a.max(b);
        &mut self.links[at]
    }

    fn is_up(&mut self, host: usize, peer: usize) -> bool {
        self.link(host, peer).up[side(host, peer)]
    }

    /// `host` calls `target` until they are linked.
    pub(super) fn want(&mut self, host: usize, target: usize) {
        if host == target || target >= self.hosts.len() {
            return;
        }
        let is_up = self.is_up(host, target);
        let Some(daemon) = &mut self.hosts[host].daemon else { return };
        let fresh = Wanted { backoff_us: CALL_FIRST_US, is_pending: false, is_seed: false };
        let wanted = daemon.wanted.entry(target).or_insert(fresh);
        if !is_up && !wanted.is_pending {
            wanted.is_pending = true;
            self.call_after(0, host, target);
        }
    }

    /// `target` is no member any more.
    pub(super) fn forget(&mut self, host: usize, target: usize) {
        let Some(daemon) = &mut self.hosts[host].daemon else { return };
        if daemon.wanted.get(&target).is_some_and(|wanted| !wanted.is_seed) {
            daemon.wanted.remove(&target);
        }
    }

    fn call_after(&mut self, pause_us: u64, host: usize, target: usize) {
        let lives = [self.hosts[host].daemon_life, self.hosts[target].daemon_life];
        self.queue.push(self.now_us + pause_us, Event::Call(Call { host, target, lives }));
    }

    fn wanted(&mut self, host: usize, target: usize) -> Option<&mut Wanted> {
        self.hosts[host].daemon.as_mut()?.wanted.get_mut(&target)
    }

    pub(super) fn call(&mut self, call: Call) {
        let Call { host, target, lives } = call;
        if self.hosts[host].daemon_life != lives[0] {
            return;
        }
        let is_up = self.is_up(host, target);
        let Some(wanted) = self.wanted(host, target) else { return };
        if is_up {
            wanted.is_pending = false;
            return;
        }
        if self.hosts[target].daemon.is_none() || !self.network.is_open(host, target) {
            return self.call_failed(call);
        }
        let round_trip_us = self.network.one_way_us(host, target) + self.network.one_way_us(target, host);
        let lives = [lives[0], self.hosts[target].daemon_life];
        let at_us = self.now_us + round_trip_us + HANDSHAKE_US;
        self.queue.push(at_us, Event::Handshake(Call { host, target, lives }));
    }

    fn call_failed(&mut self, call: Call) {
        let jitter = 0.5 + 0.5 * self.rng.f64();
        let Some(wanted) = self.wanted(call.host, call.target) else { return };
        wanted.is_pending = true;
        let pause_us = (wanted.backoff_us as f64 * jitter) as u64;
        wanted.backoff_us = (wanted.backoff_us * 2).min(CALL_LONGEST_US);
        self.call_after(pause_us, call.host, call.target);
    }

    pub(super) fn handshake(&mut self, call: Call) {
        let Call { host, target, lives } = call;
        if self.hosts[host].daemon_life != lives[0] || self.hosts[host].daemon.is_none() {
            return;
        }
        let reached = self.hosts[target].daemon.is_some() && self.hosts[target].daemon_life == lives[1];
        if !reached || !self.network.is_open(host, target) {
            return self.call_failed(call);
        }
        if let Some(wanted) = self.wanted(host, target) {
            (wanted.is_pending, wanted.backoff_us) = (false, CALL_FIRST_US);
        }
        let by_side = if side(host, target) == 0 { lives } else { [lives[1], lives[0]] };
        let link = self.link(host, target);
        if link.up == [true, true] && link.lives == by_side {
            return;
        }
        *link = Link { session: link.session + 1, lives: by_side, up: [true; 2], ..Link::default() };
        self.counts.links_up += 1;
        for (host, peer) in [(host, target), (target, host)] {
            self.linked(host, peer);
        }
    }

    fn linked(&mut self, host: usize, peer: usize) {
        let id = self.hosts[peer].node;
        let now = self.hosts[host].now(self.now_us);
        if let Some(daemon) = &mut self.hosts[host].daemon {
            daemon.node.handle_link_up(id, now);
        }
        let life = self.hosts[host].daemon_life;
        self.queue.push(self.now_us + JOIN_US, Event::Joined { host, life });
        self.pump(host);
    }

    /// Puts a message or, without a kind, a datagram on a link.
    pub(super) fn send(&mut self, from: usize, to: usize, kind: Option<Kind>, bytes: Vec<u8>) {
        if !self.is_up(from, to) {
            self.counts.unsent += 1;
            return;
        }
        let session = self.link(from, to).session;
        self.counts.sent(from, to, kind, bytes.len());
        let mut delay_us = self.network.one_way_us(from, to);
        let mut tries = 0;
        while self.network.loses() {
            self.counts.lost += 1;
            if kind.is_none() {
                return;
            }
            tries += 1;
            delay_us += self.network.repair_us(from, to, tries);
        }
        self.queue.push(self.now_us + delay_us, Event::Arrival(Flight { from, to, session, kind, bytes }));
    }

    pub(super) fn arrival(&mut self, flight: Flight) {
        let (from, to, place) = (flight.from, flight.to, side(flight.to, flight.from));
        let is_open = self.network.is_open(from, to);
        let link = self.link(from, to);
        if link.session != flight.session || !link.up[place] {
            return;
        }
        if !is_open {
            if flight.kind.is_some() {
                let later_us = self.now_us + self.network.repair_us(from, to, 1);
                self.queue.push(later_us, Event::Arrival(flight));
            }
            return;
        }
        match flight.kind {
            Some(Kind::Hello) => {
                let first = !std::mem::replace(&mut link.introduced[place], true);
                let waiting = std::mem::take(&mut link.waiting[place]);
                self.deliver(to, from, true, &flight.bytes);
                if first {
                    waiting.iter().for_each(|bytes| self.deliver(to, from, true, bytes));
                }
            }
            Some(_) if !link.introduced[place] => link.waiting[place].push(flight.bytes),
            None if !link.introduced[place] => {}
            kind => self.deliver(to, from, kind.is_some(), &flight.bytes),
        }
    }

    fn deliver(&mut self, host: usize, peer: usize, is_message: bool, bytes: &[u8]) {
        self.note(host as u64, peer as u64, bytes.len() as u64);
        let id = self.hosts[peer].node;
        let now = self.hosts[host].now(self.now_us);
        let Some(daemon) = &mut self.hosts[host].daemon else { return };
        let taken = if is_message {
            self.counts.delivered += 1;
            daemon.node.handle_message(id, bytes, now)
        } else {
            daemon.node.handle_datagram(id, bytes, now)
        };
        if let Err(error) = taken {
            // All speak the protocol: this is a bug of the core.
            self.counts.protocol_errors.push(format!("{id:?} to {:?}: {error}", self.hosts[host].node));
        }
        self.pump(host);
    }

    /// A path or a host has fallen silent: whoever is linked over it notices within a second.
    pub(super) fn fall_silent(&mut self, is_silent: impl Fn(&Self, usize, usize) -> bool) {
        let hosts = self.hosts.len();
        for (host, peer) in (0..hosts).flat_map(|host| (0..hosts).map(move |peer| (host, peer))) {
            if host == peer || !is_silent(self, host, peer) || !self.is_up(host, peer) {
                continue;
            }
            let (session, since_us) = (self.link(host, peer).session, self.now_us);
            let at_us = since_us + IDLE_US - self.rng.u64(0..KEEP_ALIVE_US);
            self.queue.push(at_us, Event::Silence(Silence { host, peer, session, since_us }));
        }
    }

    pub(super) fn silence(&mut self, silence: Silence) {
        let Silence { host, peer, session, since_us } = silence;
        let life = self.link(host, peer).lives[side(peer, host)];
        let is_gone = self.hosts[peer].daemon.is_none() || self.hosts[peer].daemon_life != life;
        let is_cut = self.network.cut_since_us(host, peer).is_some_and(|cut_us| cut_us <= since_us);
        if self.link(host, peer).session == session && (is_gone || is_cut) {
            self.link_down(host, peer, false);
        }
    }

    /// The link is gone at `host`, because of silence, or because the peer's daemon said farewell.
    fn link_down(&mut self, host: usize, peer: usize, in_order: bool) {
        let place = side(host, peer);
        if !std::mem::replace(&mut self.link(host, peer).up[place], false) {
            return;
        }
        self.counts.links_down += 1;
        let session = self.link(host, peer).session;
        if in_order {
            self.queue.push(self.now_us + REJOIN_US, Event::GivenUp { host, peer, session });
        } else {
            self.peer_down(host, peer);
        }
        if let Some(wanted) = self.wanted(host, peer).filter(|wanted| !wanted.is_pending) {
            wanted.is_pending = true;
            self.call_failed(Call { host, target: peer, lives: [0, 0] });
        }
    }

    /// The peer whose daemon has ended in order has not come back.
    pub(super) fn given_up(&mut self, host: usize, peer: usize, session: u32) {
        let place = side(host, peer);
        let link = self.link(host, peer);
        if link.session == session && !link.up[place] {
            self.peer_down(host, peer);
        }
    }

    fn peer_down(&mut self, host: usize, peer: usize) {
        let id = self.hosts[peer].node;
        let now = self.hosts[host].now(self.now_us);
        if let Some(daemon) = &mut self.hosts[host].daemon {
            daemon.node.handle_link_down(id, now);
            self.pump(host);
        }
    }

    /// The daemon ends: in order, so that its peers hear of it, or not. Its own side of each link is gone.
    pub(super) fn end_daemon(&mut self, host: usize, in_order: bool) {
        let now = self.hosts[host].now(self.now_us);
        if in_order && let Some(daemon) = &mut self.hosts[host].daemon {
            daemon.node.leave(now);
            self.pump(host);
        }
        let taken = self.hosts[host].daemon.take();
        if taken.is_none() {
            return;
        }
        if !in_order {
            self.fall_silent(|_, _, peer| peer == host);
        }
        for peer in 0..self.hosts.len() {
            if peer == host || !std::mem::replace(&mut self.link(host, peer).up[side(host, peer)], false) {
                continue;
            }
            if in_order && self.network.is_open(host, peer) {
                let session = self.link(host, peer).session;
                let at_us = self.now_us + self.network.one_way_us(host, peer);
                self.queue.push(at_us, Event::Farewell { host: peer, peer: host, session });
            }
        }
    }

    pub(super) fn farewell(&mut self, host: usize, peer: usize, session: u32) {
        if self.link(host, peer).session == session {
            self.link_down(host, peer, true);
        }
    }

    /// Pairs of running daemons that are not linked with each other.
    pub(super) fn unlinked(&self) -> usize {
        let runs = |host: usize| self.hosts[host].daemon.is_some();
        let pairs = (0..self.hosts.len()).flat_map(|low| (low + 1..self.hosts.len()).map(move |high| (low, high)));
        let linked = |low: usize, high: usize| self.links[low * self.hosts.len() + high].up == [true, true];
        pairs.filter(|(low, high)| runs(*low) && runs(*high) && !linked(*low, *high)).count()
    }

    /// The index of a peer in an output of the core.
    pub(super) fn peer_index(&self, node: forwarder_common::ids::NodeId) -> Option<usize> {
        Some(host_of(node)).filter(|index| *index < self.hosts.len())
    }
}
