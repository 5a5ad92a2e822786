//! Packets of transactions: where they land, what kernel and slow path do with them, and what the proxies make of them.

use forwarder_common::{abi, lifetime, net, outcome::Outcome, sip::fast::kind, verdict::Verdict};
use forwarder_core::node::Now;

use super::{
    Event, Simulation, Way,
    host::{Host, PUNTS},
    kernel::Punt,
    traffic::{self, Leg, Message, Step, Transaction},
};

/// How often a sender sends a message again that came to nothing.
const TRIES: u32 = 4;

impl Simulation {
    /// A client begins a transaction, and the next one is due.
    pub(super) fn begin(&mut self) {
        let end_us = (self.scenario.warm_s + self.scenario.traffic_s) * 1_000_000;
        let pause_us = -(1.0 - self.rng.f64()).ln() * 1e6 / self.scenario.rate as f64;
        let next_us = self.now_us + pause_us as u64;
        if next_us < end_us {
            self.queue.push(next_us, Event::Begin);
        }
        let (number, home) = (self.transactions.len(), self.rng.usize(0..self.hosts.len()));
        let flow = traffic::flow(&mut self.rng);
        let (request_key, _) = traffic::keys(number, home);
        self.transactions.push(Transaction { flow, home, request_key, legs: Vec::new(), is_harmed: false });
        self.counts.transactions += 1;
        for (after_us, step) in traffic::opening(flow, self.scenario.t1_ms * 1000, &mut self.rng) {
            self.queue.push(self.now_us + after_us, Event::Packet { transaction: number, step, tries: 0 });
        }
    }

    /// A packet lands at some node.
    pub(super) fn packet(&mut self, transaction: usize, step: Step, tries: u32) {
        let Some(host) = self.landing(self.transactions[transaction].home) else { return };
        let message = Message { transaction, step, landed_us: self.now_us };
        self.counts.fates(step.class()).landed += 1;
        self.counts.repeated += u64::from(tries > 0);
        if !self.hosts[host].is_powered {
            return self.is_lost(message, tries);
        }
        let Transaction { request_key, legs, .. } = &self.transactions[transaction];
        let reply_key = legs.first().map_or(0, |leg| leg.reply_key);
        let now = self.hosts[host].now(self.now_us);
        let verdict = self.hosts[host].kernel.verdict(step.kind(), *request_key, reply_key, now);
        match verdict {
            Verdict::Local(_) => self.proxy(host, message, Way::Landed),
            Verdict::ToOwner(to) | Verdict::Divert(to) => {
                self.counts.fates(step.class()).forwarded += 1;
                if let Some(to) = self.peer_index(to) {
                    self.tunnel(host, to, message, Way::Tunnel { by: host }, tries);
                }
            }
            Verdict::Ask(_) => self.punt(host, message, verdict, None, tries, now),
        }
    }

    /// Where a packet lands: at its home, or now and then at any other node. A home that no route leads to has a
    /// stand-in.
    fn landing(&mut self, home: usize) -> Option<usize> {
        let routed: Vec<usize> = (0..self.hosts.len()).filter(|host| self.hosts[*host].is_routed).collect();
        if routed.is_empty() {
            return None;
        }
        if self.rng.u32(0..100) < self.scenario.elsewhere_percent {
            return routed.get(self.rng.usize(0..routed.len())).copied();
        }
        let at = routed.partition_point(|host| *host < home);
        routed.get(at).or(routed.first()).copied()
    }

    /// Sends a message through the tunnel to another host.
    pub(super) fn tunnel(&mut self, from: usize, to: usize, message: Message, way: Way, tries: u32) {
        if !self.network.is_open(from, to) {
            return self.is_lost(message, tries);
        }
        let at_us = self.now_us + self.network.one_way_us(from, to);
        self.queue.push(at_us, Event::Delivery { host: to, message, way });
    }

    /// What nobody got is sent again, if its sender waits for something.
    fn is_lost(&mut self, message: Message, tries: u32) {
        let Message { transaction, step, .. } = message;
        self.counts.fates(step.class()).lost += 1;
        self.transactions[transaction].is_harmed = true;
        self.again(message, tries);
    }

    fn again(&mut self, message: Message, tries: u32) {
        let Message { transaction, step, .. } = message;
        if step.is_repeated() && tries < TRIES {
            let at_us = self.now_us + ((self.scenario.t1_ms * 1000) << tries);
            self.queue.push(at_us, Event::Packet { transaction, step, tries: tries + 1 });
        }
    }

    /// A packet that only a daemon can finish; `relayed_by`: it has come from a host without one.
    fn punt(
        &mut self,
        host: usize,
        message: Message,
        verdict: Verdict,
        relayed_by: Option<usize>,
        tries: u32,
        now: Now,
    ) {
        let Transaction { request_key, legs, .. } = &self.transactions[message.transaction];
        let frame = message.frame(legs.first().map_or(host, |leg| leg.host));
        let slot = net::frame(&frame.as_slice()).and_then(|ip| ip.datagram_slot(&frame.as_slice())).unwrap_or_default();
        let Host { kernel, punts, .. } = &mut self.hosts[host];
        match kernel.punt(verdict, relayed_by.is_some(), *request_key, slot, now) {
            Punt::ToDaemon if punts.len() >= PUNTS => self.proxy(host, message, Way::Overflowed),
            Punt::ToDaemon => {
                let head = abi::Punt { ifindex: 1, length: frame.len() as u32, reason: 0, segment: 0 };
                punts.push_back((head, frame));
                self.counts.fates(message.step.class()).held += 1;
                self.pump(host);
            }
            Punt::Relay(to) => {
                self.counts.fates(message.step.class()).relayed += 1;
                if let Some(to) = self.peer_index(to) {
                    self.tunnel(host, to, message, Way::Relayed { by: host }, tries);
                }
            }
            Punt::ToOwner(to) => {
                self.counts.fates(message.step.class()).forwarded += 1;
                if let Some(to) = self.peer_index(to) {
                    self.tunnel(host, to, message, Way::Tunnel { by: host }, tries);
                }
            }
            Punt::Pass => self.proxy(host, message, Way::Unasked { is_relayed: relayed_by.is_some() }),
        }
    }

    /// A packet reaches a host: for its proxy, or for its daemon in another one's stead.
    pub(super) fn delivery(&mut self, host: usize, message: Message, way: Way) {
        let Way::Relayed { by } = way else { return self.proxy(host, message, way) };
        if !self.hosts[host].is_powered {
            return self.is_lost(message, TRIES);
        }
        let now = self.hosts[host].now(self.now_us);
        // Whatever was unknown there: the daemon reads the packet anew.
        let verdict = Verdict::Ask(Outcome::DecapRelayed);
        self.punt(host, message, verdict, Some(by), TRIES, now);
    }

    /// A proxy gets a message.
    pub(super) fn proxy(&mut self, host: usize, message: Message, way: Way) {
        let Message { transaction, step, landed_us } = message;
        self.note(host as u64, transaction as u64, step as u64);
        if !self.hosts[host].is_powered || !self.hosts[host].has_proxy {
            return self.is_lost(message, TRIES);
        }
        let since_us = self.now_us - landed_us;
        match way {
            Way::Landed | Way::Unasked { .. } | Way::Overflowed | Way::Relayed { .. } => {}
            Way::Tunnel { .. } => self.counts.forwards.record(since_us),
            Way::Held { .. } => self.counts.waits.record(since_us),
        }
        let takes = self.takes(host, message);
        match takes {
            Takes::Right => {}
            Takes::Ownerless => {
                self.counts.fates(step.class()).ownerless += 1;
                return;
            }
            Takes::Wrong => {
                let cause = self.cause(host, message, way);
                self.counts.wrong(step.class(), cause);
                self.transactions[transaction].is_harmed = true;
                if matches!(step, Step::Cancel | Step::RefusalAck) {
                    // 481, or nothing: the call goes on as if nobody had said anything.
                    return;
                }
            }
        }
        self.egress(host, message);
        // A callee or client reacts to the first copy.
        let reacts = takes == Takes::Right && !matches!(step, Step::InviteAgain | Step::RequestAgain);
        if reacts || step.class() == traffic::Class::Reply {
            let flow = self.transactions[transaction].flow;
            for (after_us, step) in traffic::follow_up(flow, step, &mut self.rng) {
                self.queue.push(self.now_us + after_us, Event::Packet { transaction, step, tries: 0 });
            }
        }
    }

    /// Whether the proxy at `host` can do something with the message. A request makes it one that can.
    fn takes(&mut self, host: usize, message: Message) -> Takes {
        let Message { transaction, step, .. } = message;
        let hosts = &self.hosts;
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
    fn egress(&mut self, host: usize, message: Message) {
        let Message { transaction, step, .. } = message;
        let request_key = self.transactions[transaction].request_key;
        let leg = self.transactions[transaction].legs.iter().find(|leg| leg.host == host);
        let reply_key = leg.map(|leg| leg.reply_key);
        let owner = &mut self.hosts[host];
        let now = owner.now(self.now_us);
        for (message_kind, invite, status) in step.emits() {
            let drains = owner.kernel.drains();
            let Some(lifetime) = lifetime::of(*message_kind, *invite, *status, &self.lifetimes, 0, drains) else {
                continue;
            };
            let reply_key = reply_key.filter(|_| *message_kind != kind::RESPONSE);
            for key in [Some(request_key), reply_key].into_iter().flatten() {
                if let Some(told) = owner.kernel.claim(key, lifetime, now) {
                    self.reference.take(owner.node, told, self.now_us);
                    owner.claims.push_back((self.now_us, told));
                }
            }
        }
        self.pump(host);
    }
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
