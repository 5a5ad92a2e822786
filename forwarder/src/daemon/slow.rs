//! The slow path's surroundings: punted packets and tunnel packets in, injections, tunnel packets and questions out.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use forwarder_common::{
    abi::Punt,
    bound::Costs,
    clock::{Clock, Time},
    ids::NodeId,
    outcome::Outcome,
    question::Answer,
};

use super::{context::Context, egress, interfaces::Interfaces, strangers::Strangers};
use crate::{
    config::{Affinity, Config},
    dataplane::{Dataplane, Interface},
    identity::{self, Secrets},
    tunnel::{DATAGRAM, Question, Received, Tunnel},
};
use forwarder_core::{
    failover::{Failover, Path},
    node::Now,
    slowpath::{self, Action, Sent, SlowPath},
};

/// Punted packets taken in one turn: claims must not wait for a flood to end.
const PUNTS_A_TURN: usize = 64;
/// Tunnel packets taken in one turn.
const DATAGRAMS_A_TURN: usize = 64;

/// The slow path with what it works with.
pub(super) struct Slow {
    path: SlowPath,
    sent: Sent,
    strangers: Strangers,
    hash_key: [u64; 2],
    tunnel: Tunnel,
    interfaces: BTreeMap<u32, Interface>,
    /// Where packets arrive that came through the socket.
    main: u32,
    buffer: Vec<u8>,
    /// What waits until the daemon knows its peers again.
    late: Vec<(Punt, Vec<u8>)>,
    /// What peers' programs have answered, until the daemon takes it.
    answers: Vec<KernelAnswer>,
}

/// What a peer's programs have answered.
pub(super) struct KernelAnswer {
    pub(super) from: NodeId,
    pub(super) question: Question,
    pub(super) answer: Answer,
    /// When it was sent, by the peer's clock.
    pub(super) time: Time,
}

impl Slow {
    /// Opens the tunnel socket; nothing is handed over yet.
    pub(super) fn open(config: &Config, secrets: &Secrets, interfaces: &Interfaces) -> Result<Self> {
        let services = config.services.iter().map(|service| slowpath::Service {
            address: SocketAddr::new(service.vip, service.port),
            affinity_call: matches!(service.affinity, Affinity::Call),
        });
        let path = SlowPath::new(&slowpath::Settings {
            node: config.node,
            hash_key: secrets.hash_key,
            services: services.collect(),
            hold_us: config.timers.hold_ms * 1000,
            costs: Costs::new(&config.forward),
        });
        let vni = identity::vni(&config.cluster.name);
        let tunnel = Tunnel::open(config.underlay, config.node, vni, secrets.tag_key, secrets.tag_epoch)?;
        let mut slow = Self {
            path,
            sent: Sent::default(),
            strangers: Strangers::default(),
            hash_key: secrets.hash_key,
            tunnel,
            interfaces: BTreeMap::new(),
            main: 0,
            buffer: vec![0; DATAGRAM],
            late: Vec::new(),
            answers: Vec::new(),
        };
        slow.set_interfaces(interfaces);
        Ok(slow)
    }

    /// From now on keys and tags are made with these.
    pub(super) fn set_secrets(&mut self, secrets: &Secrets) {
        self.hash_key = secrets.hash_key;
        self.path.set_hash_key(self.hash_key);
        self.tunnel.set_keys(secrets.tag_key, secrets.tag_epoch);
    }

    /// From now on packets are injected at these.
    pub(super) fn set_interfaces(&mut self, interfaces: &Interfaces) {
        self.main = interfaces.attached().next().map_or(0, |interface| interface.ifindex);
        self.interfaces = interfaces.attached().map(|interface| (interface.ifindex, interface.clone())).collect();
    }

    /// Takes punted packets out of the ring buffer; whether it was emptied. While the daemon `rejoins` and cannot ask
    /// for their owners, those that have arrived are only laid aside: as many as were in the ring buffer, since no more
    /// are handed over.
    pub(super) fn take_punts(
        &mut self,
        punts: &mut RingBuf<MapData>,
        rejoins: bool,
        context: &mut Context<'_>,
    ) -> bool {
        for _ in 0..PUNTS_A_TURN {
            let Some(item) = punts.next() else { return true };
            let Some((head, frame)) = item.split_at_checked(size_of::<Punt>()) else {
                log::error!("a punted packet's record has {} bytes: too few for its head", item.len());
                continue;
            };
            // SAFETY: the length was compared, any bytes are a value of this type, and the read asks for no alignment.
            let head = unsafe { head.as_ptr().cast::<Punt>().read_unaligned() };
            let frame = frame.get(..head.length as usize).unwrap_or(frame);
            if head.reason == Outcome::EgressPunted.number() {
                egress::claim(self.hash_key, frame, head.segment, context);
                if let Some(packet) = self.sent.put(frame, context.now.monotonic_us) {
                    egress::claim_packet(self.hash_key, &packet, context);
                }
            } else if head.reason == Outcome::EgressNotService.number() {
                self.strangers.put(frame, context.now.monotonic_us);
            } else if rejoins {
                self.late.push((head, frame.to_vec()));
            } else {
                self.path.handle_punt(head, frame, &context.claim_view(), context.now.monotonic_us);
            }
        }
        false
    }

    /// For `status`: what looks like a proxy's and claims nothing.
    pub(super) fn warnings(&self, now_us: u64) -> impl Iterator<Item = String> {
        self.strangers.warnings(now_us)
    }

    /// Takes what was laid aside.
    pub(super) fn take_late(&mut self, context: &Context<'_>) {
        for (head, frame) in std::mem::take(&mut self.late) {
            self.path.handle_punt(head, &frame, &context.claim_view(), context.now.monotonic_us);
        }
    }

    /// Takes a datagram that has arrived and all that wait behind it.
    pub(super) fn take_datagrams(&mut self, arrived: io::Result<(usize, SocketAddr)>, context: &Context<'_>) {
        let mut next = arrived;
        for left in (0..DATAGRAMS_A_TURN).rev() {
            match next {
                Ok((length, from)) => self.take_datagram(length, from.ip(), context),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An ICMP error of an earlier packet to a peer that is gone, such as port unreachable.
                Err(error) => log::debug!("receive a tunnel packet: {error}"),
            }
            if left == 0 {
                // What is received now would have no turn.
                return;
            }
            next = self.tunnel.try_receive(&mut self.buffer);
        }
    }

    fn take_datagram(&mut self, length: usize, from: IpAddr, context: &Context<'_>) {
        let datagram = self.buffer.get(..length).unwrap_or_default();
        let (now, now_us) = (time(context.now), context.now.monotonic_us);
        let peer = |id| {
            let clock = context.failover.path(id).map_or(Clock::UNKNOWN, Path::clock);
            Some((underlay(context.failover, id)?, clock))
        };
        match self.tunnel.read(datagram, from, now, peer) {
            Some((node, Received::Packet { reassemble, packet })) => {
                self.path.handle_tunnel(node, reassemble, packet, self.main, &context.claim_view(), now_us);
            }
            Some((_, Received::Question(question, packet))) => {
                let answer = context.answer(&question);
                if let Err(error) = self.tunnel.answer(from, packet, answer, now) {
                    log::debug!("answer {from} through the tunnel: {error}");
                }
            }
            Some((from, Received::Answer { question, answer, time })) => {
                self.answers.push(KernelAnswer { from, question, answer, time });
            }
            None => self.path.handle_refused(),
        }
    }

    /// What peers' programs have answered since the last call.
    pub(super) fn take_answers(&mut self) -> Vec<KernelAnswer> {
        std::mem::take(&mut self.answers)
    }

    /// Asks a peer's programs.
    pub(super) fn ask(&self, to: NodeId, question: &Question, failover: &Failover, now: Now) {
        let Some(address) = underlay(failover, to) else { return };
        if let Err(error) = self.tunnel.ask(address, question, time(now)) {
            log::debug!("ask node {} through the tunnel: {error}", to.number());
        }
    }

    /// Waits for a datagram.
    pub(super) async fn receive(&mut self) -> io::Result<(usize, SocketAddr)> {
        self.tunnel.receive(&mut self.buffer).await
    }

    /// The peers have answered a question.
    pub(super) fn answered(&mut self, ticket: u64, owned: bool, context: &Context<'_>) {
        self.path.handle_answer(ticket, owned, &context.claim_view(), context.now.monotonic_us);
    }

    /// Lets go what has waited long enough.
    pub(super) fn timeout(&mut self, context: &Context<'_>) {
        self.path.handle_timeout(&context.claim_view(), context.now.monotonic_us);
        self.sent.handle_timeout(context.now.monotonic_us);
    }

    /// When [`Self::timeout`] is due, in microseconds of the monotonic clock.
    pub(super) fn due_us(&self) -> Option<u64> {
        self.path.poll_timeout().into_iter().chain(self.sent.poll_timeout()).min()
    }

    /// Lets everything go that waits: the daemon stops.
    pub(super) fn drain(&mut self) {
        self.path.drain_all();
    }

    /// Packets by outcome of the slow path.
    pub(super) fn outcomes(&self) -> impl Iterator<Item = (Outcome, u64)> {
        self.path.counts()
    }

    /// Does what the slow path has decided; what it asks goes to the cluster's core.
    pub(super) fn carry_out(&mut self, context: &mut Context<'_>) {
        while let Some(action) = self.path.poll_action() {
            let done = match action {
                Action::Inject { ifindex, packet } => self.inject(ifindex, &[packet], context.dataplane),
                Action::Forward { to, packet, reassemble } => self
                    .forward(to, &packet, reassemble, context)
                    .with_context(|| format!("send a packet to node {}", to.number())),
                Action::Ask { ticket, request_key, reply_key } => {
                    context.node.handle_ask(ticket, request_key, reply_key, context.now);
                    Ok(())
                }
            };
            if let Err(error) = done {
                log::debug!("{error:#}");
                self.path.handle_failure();
            }
        }
    }

    fn forward(&self, to: NodeId, packet: &[u8], reassemble: bool, context: &Context<'_>) -> Result<()> {
        let address = underlay(context.failover, to).context("its underlay address is not known")?;
        self.tunnel.send(address, packet, reassemble, time(context.now)).context("the kernel refuses it")
    }

    fn inject(&self, ifindex: u32, packets: &[Vec<u8>], dataplane: &mut Dataplane) -> Result<()> {
        let interface = self.interfaces.get(&ifindex).or_else(|| self.interfaces.get(&self.main));
        dataplane.inject(interface.context("inject a packet: no interface is known")?, packets)
    }
}

/// The time in the tunnel's form.
const fn time(now: Now) -> Time {
    Time::at(now.monotonic_us.saturating_mul(1000))
}

/// Where a peer takes tunnel packets.
fn underlay(failover: &Failover, id: NodeId) -> Option<IpAddr> {
    Some(failover.peer(id)?.introduction?.underlay)
}
