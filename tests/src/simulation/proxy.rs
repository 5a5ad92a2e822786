//! Packets of transactions: where they land, what kernel and slow path do with them, and what the proxies make of them.
//! And what a daemon sees of its proxy. A look or a probe that finds what the last one found says nothing, so only
//! those after a change are played.

use forwarder::{
    config::{DEFAULT_FAILURES, DEFAULT_PROBE_MS},
    daemon::LOOK_PAUSE,
};
use forwarder_common::{abi, lifetime, net, outcome::Outcome, rest::KeyKind, sip::Kind, verdict::Verdict};
use forwarder_core::failover::Evidence;

use super::{
    event::{Event, Way},
    host::{Host, PUNTS},
    judge::Judge,
    kernel::{Claimed, Punt},
    links::Links,
    traffic::{self, Leg, Message, Step, Transaction},
    world::{ANSWER_US, World},
};

/// How often a sender sends a message again that came to nothing.
const TRIES: u32 = 4;
/// How often the sockets are looked at, in microseconds.
const LOOK_US: u64 = LOOK_PAUSE.as_micros() as u64;
/// Pause between two probes in microseconds: the configuration's default.
const PROBE_US: u64 = DEFAULT_PROBE_MS * 1000;

/// The proxies and the transactions that they have.
#[derive(Debug, Default)]
pub(super) struct Proxies {
    pub(super) transactions: Vec<Transaction>,
}

impl Proxies {
    /// A client begins a transaction, and the next one is due.
    pub(super) fn begin(&mut self, world: &mut World) {
        let end_us = (world.scenario.warm_s + world.scenario.traffic_s) * 1_000_000;
        let pause_us = -(1.0 - world.rng.f64()).ln() * 1e6 / world.scenario.rate as f64;
        let next_us = world.now_us + pause_us as u64;
        if next_us < end_us {
            world.queue.push(next_us, Event::Begin);
        }
        let (number, home) = (self.transactions.len(), world.rng.usize(0..world.hosts.len()));
        let flow = traffic::flow(&mut world.rng);
        let (request_key, _) = traffic::keys(number, home);
        self.transactions.push(Transaction { flow, home, request_key, legs: Vec::new(), is_harmed: false });
        world.counts.transactions += 1;
        for (after_us, step) in traffic::opening(flow, world.scenario.t1_ms * 1000, &mut world.rng) {
            world.queue.push(world.now_us + after_us, Event::Packet { transaction: number, step, tries: 0 });
        }
    }

    /// A packet lands at some node.
    pub(super) fn packet(&mut self, world: &mut World, links: &Links, transaction: usize, step: Step, tries: u32) {
        let Some(host) = landing(world, self.transactions[transaction].home) else { return };
        let message = Message { transaction, step, landed_us: world.now_us };
        world.counts.fates(step.class()).landed += 1;
        world.counts.repeated += u64::from(tries > 0);
        if !world.hosts[host].is_powered {
            return self.is_lost(world, message, tries);
        }
        let Transaction { request_key, legs, .. } = &self.transactions[transaction];
        let reply_key = legs.first().map_or(0, |leg| leg.reply_key);
        let now = world.hosts[host].now(world.now_us);
        let verdict = world.hosts[host].kernel.verdict(step.kind(), *request_key, reply_key, now);
        match verdict {
            Verdict::Local(_) => self.proxy(world, links, host, message, Way::Landed),
            Verdict::ToOwner(to) | Verdict::Divert(to) => {
                world.counts.fates(step.class()).forwarded += 1;
                if let Some(to) = world.peer_index(to) {
                    self.tunnel(world, host, to, message, Way::Tunnel { by: host }, tries);
                }
            }
            Verdict::Ask(_) => self.punt(world, links, host, message, Came::Landed { verdict, tries }),
        }
    }

    /// Sends a message through the tunnel to another host.
    pub(super) fn tunnel(&mut self, world: &mut World, from: usize, to: usize, message: Message, way: Way, tries: u32) {
        if !world.network.is_open(from, to) {
            return self.is_lost(world, message, tries);
        }
        let at_us = world.now_us + world.network.one_way_us(from, to);
        world.queue.push(at_us, Event::Delivery { host: to, message, way });
    }

    /// What nobody got is sent again, if its sender waits for something.
    fn is_lost(&mut self, world: &mut World, message: Message, tries: u32) {
        let Message { transaction, step, .. } = message;
        world.counts.fates(step.class()).lost += 1;
        self.transactions[transaction].is_harmed = true;
        again(world, message, tries);
    }

    /// A packet that only a daemon can finish.
    fn punt(&mut self, world: &mut World, links: &Links, host: usize, message: Message, came: Came) {
        let (verdict, tries, is_relayed) = match came {
            Came::Landed { verdict, tries } => (verdict, tries, false),
            // Whatever was unknown there: the daemon reads the packet anew.
            Came::Relayed => (Verdict::Ask(Outcome::DecapRelayed), TRIES, true),
        };
        let now = world.hosts[host].now(world.now_us);
        let Transaction { request_key, legs, .. } = &self.transactions[message.transaction];
        let frame = message.frame(legs.first().map_or(host, |leg| leg.host));
        let slot = net::frame(&frame.as_slice()).and_then(|ip| ip.datagram_slot(&frame.as_slice())).unwrap_or_default();
        let Host { kernel, punts, .. } = &mut world.hosts[host];
        match kernel.punt(verdict, is_relayed, *request_key, slot, now) {
            Punt::ToDaemon if punts.len() >= PUNTS => self.proxy(world, links, host, message, Way::Overflowed),
            Punt::ToDaemon => {
                let head = abi::Punt { ifindex: 1, length: frame.len() as u32, reason: 0, segment: 0 };
                punts.push_back((head, frame));
                world.counts.fates(message.step.class()).held += 1;
                world.wake(host);
            }
            Punt::Relay(to) => {
                world.counts.fates(message.step.class()).relayed += 1;
                if let Some(to) = world.peer_index(to) {
                    self.tunnel(world, host, to, message, Way::Relayed { by: host }, tries);
                }
            }
            Punt::ToOwner(to) => {
                world.counts.fates(message.step.class()).forwarded += 1;
                if let Some(to) = world.peer_index(to) {
                    self.tunnel(world, host, to, message, Way::Tunnel { by: host }, tries);
                }
            }
            Punt::Pass => self.proxy(world, links, host, message, Way::Unasked { is_relayed }),
        }
    }

    /// A packet reaches a host: for its proxy, or for its daemon in another one's stead.
    pub(super) fn delivery(&mut self, world: &mut World, links: &Links, host: usize, message: Message, way: Way) {
        let Way::Relayed { .. } = way else { return self.proxy(world, links, host, message, way) };
        if !world.hosts[host].is_powered {
            return self.is_lost(world, message, TRIES);
        }
        self.punt(world, links, host, message, Came::Relayed);
    }

    /// A proxy gets a message.
    pub(super) fn proxy(&mut self, world: &mut World, links: &Links, host: usize, message: Message, way: Way) {
        let Message { transaction, step, landed_us } = message;
        world.note(host as u64, transaction as u64, step as u64);
        let Host { is_powered, has_proxy, is_silent, .. } = world.hosts[host];
        if !is_powered || !has_proxy || is_silent {
            return self.is_lost(world, message, TRIES);
        }
        let since_us = world.now_us - landed_us;
        match way {
            Way::Landed | Way::Unasked { .. } | Way::Overflowed | Way::Relayed { .. } => {}
            Way::Tunnel { .. } => world.counts.forwards.record(since_us),
            Way::Held { .. } => world.counts.waits.record(since_us),
        }
        let takes = self.takes(world, host, message);
        match takes {
            Takes::Right => {}
            Takes::Ownerless => {
                world.counts.fates(step.class()).ownerless += 1;
                return;
            }
            Takes::Wrong => {
                let cause = Judge { world, links, transactions: &self.transactions }.cause(host, message, way);
                world.counts.wrong(step.class(), cause);
                self.transactions[transaction].is_harmed = true;
                if matches!(step, Step::Cancel | Step::RefusalAck) {
                    // 481, or nothing: the call goes on as if nobody had said anything.
                    return;
                }
            }
        }
        self.egress(world, host, message);
        // A callee or client reacts to the first copy.
        let reacts = takes == Takes::Right && !matches!(step, Step::InviteAgain | Step::RequestAgain);
        if reacts || step.class() == traffic::Class::Reply {
            let flow = self.transactions[transaction].flow;
            for (after_us, step) in traffic::follow_up(flow, step, &mut world.rng) {
                world.queue.push(world.now_us + after_us, Event::Packet { transaction, step, tries: 0 });
            }
        }
    }

    /// Whether the proxy at `host` can do something with the message. A request makes it one that can.
    fn takes(&mut self, world: &mut World, host: usize, message: Message) -> Takes {
        let Message { transaction, step, .. } = message;
        let hosts = &world.hosts;
        let lives = |leg: &Leg| hosts[leg.host].has_proxy && hosts[leg.host].proxy_incarnation == leg.incarnation;
        let Transaction { legs, .. } = &self.transactions[transaction];
        let is_here = legs.iter().any(|leg| leg.host == host && lives(leg));
        let is_anywhere = legs.iter().any(&lives);
        match step.class() {
            traffic::Class::First | traffic::Class::Again if !is_here => {
                let (_, reply_key) = traffic::keys(transaction, host);
                let incarnation = hosts[host].proxy_incarnation;
                self.transactions[transaction].legs.push(Leg { host, incarnation, reply_key });
                if is_anywhere { Takes::Wrong } else { Takes::Right }
            }
            traffic::Class::First | traffic::Class::Again => Takes::Right,
            // The callee answers the leg that reached it first.
            traffic::Class::Reply => match legs.first() {
                Some(leg) if !lives(leg) => Takes::Ownerless,
                Some(leg) if leg.host == host => Takes::Right,
                _ => Takes::Wrong,
            },
            traffic::Class::Cancel | traffic::Class::Ack if !is_anywhere => Takes::Ownerless,
            traffic::Class::Cancel | traffic::Class::Ack if is_here => Takes::Right,
            traffic::Class::Cancel | traffic::Class::Ack => Takes::Wrong,
        }
    }

    /// The proxy sends what it sends after such a message, and the egress program claims.
    fn egress(&mut self, world: &mut World, host: usize, message: Message) {
        let Message { transaction, step, .. } = message;
        let request_key = self.transactions[transaction].request_key;
        let leg = self.transactions[transaction].legs.iter().find(|leg| leg.host == host);
        let reply_key = leg.map(|leg| leg.reply_key);
        let owner = &mut world.hosts[host];
        let now = owner.now(world.now_us);
        for (message_kind, method, status) in step.emits() {
            let drains = owner.kernel.drains();
            let lifetime = lifetime::of(*message_kind, *method, *status, &world.lifetimes, 0, drains);
            let is_request = !matches!(*message_kind, Kind::Response | Kind::Ack);
            // Of the one branch that the client has sent, or of the one that the proxy has.
            let branch = if *message_kind == Kind::Response { !request_key } else { reply_key.unwrap_or_default() };
            let request = (request_key, KeyKind::of_request_key(*message_kind, *status));
            let keys = [Some(request), reply_key.map(|key| (key, KeyKind::Reply))];
            for (key, kind) in keys.into_iter().flatten().filter(|(_, kind)| is_request || *kind != KeyKind::Reply) {
                let claimed = Claimed { key, kind, request_key, branch };
                if let Some(told) = owner.kernel.claim(claimed, lifetime, now) {
                    if !told.is_kept() {
                        world.reference.take(owner.node, told, world.now_us);
                    }
                    owner.claims.push_back((world.now_us, told));
                }
            }
        }
        world.wake(host);
    }
}

/// Where a packet lands: at its home, or now and then at any other node. A home that no route leads to has a
/// stand-in.
fn landing(world: &mut World, home: usize) -> Option<usize> {
    let routed: Vec<usize> = (0..world.hosts.len()).filter(|host| world.hosts[*host].is_routed).collect();
    if routed.is_empty() {
        return None;
    }
    if world.rng.u32(0..100) < world.scenario.elsewhere_percent {
        return routed.get(world.rng.usize(0..routed.len())).copied();
    }
    let at = routed.partition_point(|host| *host < home);
    routed.get(at).or(routed.first()).copied()
}

fn again(world: &mut World, message: Message, tries: u32) {
    let Message { transaction, step, .. } = message;
    if step.is_repeated() && tries < TRIES {
        let at_us = world.now_us + ((world.scenario.t1_ms * 1000) << tries);
        world.queue.push(at_us, Event::Packet { transaction, step, tries: tries + 1 });
    }
}

/// The proxy of a host has changed: the next look finds it, or the next probe.
pub(super) fn changed(world: &mut World, host: usize) {
    let incarnation = world.hosts[host].incarnation;
    let (look_us, probe_us) = (world.rng.u64(0..LOOK_US), world.rng.u64(0..PROBE_US));
    world.queue.push(world.now_us + look_us, Event::Look { host, incarnation });
    world.queue.push(world.now_us + probe_us, Event::Probe { host, incarnation });
}

/// A proxy that has fallen silent, or answers again, is probed as often as it takes to notice.
pub(super) fn silence(world: &mut World, host: usize, is_silent: bool) {
    let owner = &mut world.hosts[host];
    owner.is_silent = is_silent;
    let incarnation = owner.incarnation;
    let first_us = world.now_us + world.rng.u64(0..PROBE_US);
    for probe in 0..u64::from(DEFAULT_FAILURES) {
        world.queue.push(first_us + probe * PROBE_US, Event::Probe { host, incarnation });
    }
}

pub(super) fn look(world: &mut World, host: usize, incarnation: u32) {
    let owner = &mut world.hosts[host];
    if !owner.is_awake() || owner.incarnation != incarnation {
        return;
    }
    let sockets = owner.proxy_sockets();
    let Some(daemon) = &mut owner.daemon else { return };
    if daemon.looked.as_ref() == Some(&sockets) {
        return;
    }
    daemon.looked = Some(sockets.clone());
    daemon.evidence.push_back(Evidence::Sockets(sockets));
    // Other sockets are probed at once.
    world.queue.push(world.now_us + ANSWER_US, Event::Probe { host, incarnation });
    world.wake(host);
}

/// The proxy answers a probe, or is silent.
pub(super) fn probe(world: &mut World, host: usize, incarnation: u32) {
    let owner = &mut world.hosts[host];
    if !owner.is_awake() || owner.incarnation != incarnation {
        return;
    }
    let (now, answers) = (owner.now(world.now_us), owner.has_proxy && !owner.is_silent);
    let Some(daemon) = &mut owner.daemon else { return };
    let sent_us = now.monotonic_us - ANSWER_US;
    daemon.evidence.push_back(if answers { Evidence::Answered { sent_us } } else { Evidence::Silent });
    world.wake(host);
}

/// How a packet came that only a daemon can finish.
#[derive(Clone, Copy, Debug)]
enum Came {
    /// From the network, for the `tries`th time, with the program's verdict.
    Landed { verdict: Verdict, tries: u32 },
    /// From a host without a daemon.
    Relayed,
}

/// What a proxy can do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    /// It has the transaction, or nobody has it and the message begins it.
    Right,
    /// Another proxy has the transaction.
    Wrong,
    /// The proxy that had it is gone.
    Ownerless,
}
