//! Ingress in packet order: locate, service, key, look up, decide, act. It reads the claim table and never writes.

use aya_ebpf::{bindings::xdp_action, helpers::bpf_redirect, programs::XdpContext};
use forwarder_common::{
    abi::{Address, Config, NO_SERVICE, SERVICE_SET, Service, ServiceKey},
    bound, claim,
    clock::Time,
    coded,
    geneve::{self, Head, Headers, Inner, OuterIp, OuterV4, OuterV6, Sender},
    ids::{Epoch, EtherType, IpProtocol, NodeId, Tick},
    keys::{Affinity, Seen},
    net::{self, Ip, Udp},
    outcome::{Action, Hook, Outcome, Punt},
    question::Held,
    rendezvous,
    rest::KeyKind,
    sip::fast,
    table,
    verdict::{Found, Kind, Verdict, decide, look_up},
};

use crate::{
    decap, key,
    maps::{self, Claims},
    packet::{self, Frame},
    punt,
};

coded! {
    /// Why a packet goes to another node.
    enum Why {
        /// That node owns its transaction.
        Owned = 1,
        /// That node reassembles its datagram.
        Reassembled = 2,
        /// It begins a transaction, and this node takes none.
        Diverted = 3,
        /// Only a daemon can finish it, and none lives here.
        Relayed = 4,
        /// It is that node's question, with the answer.
        Answered = 5,
    }
}

impl Why {
    /// The outcome of a packet that was sent.
    #[inline(always)] // a few compares
    const fn sent(self) -> Outcome {
        match self {
            Self::Owned => Outcome::Forwarded,
            Self::Reassembled => Outcome::ForwardedFragment,
            Self::Diverted => Outcome::Diverted,
            Self::Relayed => Outcome::Relayed,
            Self::Answered => Outcome::DecapAnswered,
        }
    }

    /// The outcome of a packet that could not be sent, given what was in its way.
    #[inline(always)] // a few compares
    const fn not_sent(self, obstacle: Outcome) -> Outcome {
        match self {
            // Bounds are there to be kept.
            _ if matches!(obstacle, Outcome::LocalOverKey | Outcome::LocalOverPeer | Outcome::FragmentOverPeer) => {
                obstacle
            }
            // Whatever is in the way of a fragment, the daemon finds another.
            Self::Reassembled => Outcome::Fragment,
            // What cannot be sent away is served here all the same.
            Self::Diverted => Outcome::LocalNew,
            Self::Answered => Outcome::DecapAsked,
            Self::Owned | Self::Relayed => obstacle,
        }
    }

    #[inline(always)] // a few compares
    const fn tunnel_kind(self) -> geneve::Kind {
        match self {
            Self::Reassembled => geneve::Kind::Reassemble,
            Self::Relayed => geneve::Kind::Relay,
            Self::Answered => geneve::Kind::Answer,
            Self::Owned | Self::Diverted => geneve::Kind::Data,
        }
    }
}

/// A packet for another node.
pub(crate) struct Redirect {
    node: NodeId,
    why: Why,
    /// The service that the packet is for; [`NO_SERVICE`] where that is not known or does not matter.
    service: u8,
}

impl Redirect {
    /// A question goes back with its answer.
    #[inline(always)] // nothing
    pub(crate) const fn answer(node: NodeId) -> Self {
        Self { node, why: Why::Answered, service: NO_SERVICE }
    }
}

/// Where the packet's way ends, and the XDP action if it was sent on.
#[inline(always)] // the entry program itself
pub(crate) fn run(ctx: &XdpContext) -> (Outcome, u32) {
    let frame = Frame::xdp(ctx.ctx);
    // Outside the match, for the compiler would leave it unset on ways that do not need it, and the verifier refuses
    // that.
    let Some(ip) = net::frame(&frame) else { return (Outcome::NotService, xdp_action::XDP_PASS) };
    let redirect = match locate(ctx, &frame, &ip) {
        Ok(redirect) => redirect,
        Err(outcome) => {
            let Some(reason) = outcome.punted() else { return (outcome, xdp_action::XDP_PASS) };
            punt::punt(ctx, reason);
            match without_daemon(ctx, &ip, outcome, reason) {
                Some(redirect) => redirect,
                None => return (outcome, xdp_action::XDP_PASS),
            }
        }
    };
    let Some(marks) = maps::marks_ingress() else { return (Outcome::EncapFailed, xdp_action::XDP_PASS) };
    // Numbers that the verifier does not know: what follows is verified once, not for every way that leads here.
    let Redirect { node, why, service } = redirect;
    let order = marks.hide(usize::from(node.number()) | (why.code() as usize) << WHY_SHIFT) as u16;
    let (node, service) = (order & NodeId::MAX, marks.hide(usize::from(service)) as u8);
    let Some(why) = Why::decode(u64::from(order >> WHY_SHIFT)) else {
        return (Outcome::EncapFailed, xdp_action::XDP_PASS);
    };
    match forward(ctx, &ip, node, why, service) {
        Ok(action) => (why.sent(), action),
        Err(outcome) => {
            let outcome = why.not_sent(outcome);
            if let Some(reason) = outcome.punted() {
                punt::punt(ctx, reason);
            }
            (outcome, xdp_action::XDP_PASS)
        }
    }
}

/// Bits of a node id, above which a [`Why`] has its place.
const WHY_SHIFT: u32 = NodeId::MAX.count_ones();

/// Where no daemon lives, a peer's can finish the packet: it knows the owner, or asks for it.
#[inline(always)] // rare
fn without_daemon(ctx: &XdpContext, ip: &Ip, outcome: Outcome, punted: Outcome) -> Option<Redirect> {
    match outcome.hook() {
        Hook::Ingress => {}
        // It has come through the tunnel already.
        Hook::Decap => return None,
        // No packet of these arrives.
        Hook::Egress | Hook::Slow => return None,
    }
    let now_ns = maps::now_ns();
    if !maps::lease().knows_peers(now_ns) {
        // Nobody to ask: of a call that crosses the edge twice, the one leg that is known has to do.
        let is_known = matches!(outcome, Outcome::UnknownBranch);
        let request_key = maps::marks_ingress()?.request_key();
        let owner = if is_known { found(maps::config()?, request_key, Tick::at(now_ns)) } else { Found::Nothing };
        let Found::Peer(node) = owner else { return None };
        return Some(Redirect { node, why: Why::Owned, service: NO_SERVICE });
    }
    let slot = ip.datagram_slot(&Frame::xdp(ctx.ctx))?;
    let node = NodeId::new(maps::successor(slot))?;
    let why = match punted.action() {
        Action::Punted(Punt::Reassembles) => Why::Reassembled,
        Action::Punted(Punt::Asks | Punt::Reads) => Why::Relayed,
        Action::Pass | Action::Sent | Action::Dropped | Action::Slow(_) => return None,
    };
    Some(Redirect { node, why, service: NO_SERVICE })
}

/// Down to the verdict; every way but that to another node ends in an error that is its outcome.
#[inline(always)] // as above
fn locate(ctx: &XdpContext, frame: &Frame, ip: &Ip) -> Result<Redirect, Outcome> {
    let Some(udp) = ip.udp(frame) else { return no_datagram(frame, ip) };
    if udp.destination == geneve::PORT {
        return decap::run(ctx, frame, ip, &udp);
    }
    if !maps::is_service_port(udp.destination) {
        return Err(Outcome::NotService);
    }
    let vip = ip.destination(frame).ok_or(Outcome::NotService)?;
    let service = service(vip, udp.destination).ok_or(Outcome::NotService)?;
    let config = maps::config().ok_or(Outcome::NotService)?;
    let index = service.index;
    match message(ctx, frame, ip, &udp, service, config)? {
        Verdict::Local(outcome) | Verdict::Ask(outcome) => Err(outcome),
        Verdict::ToOwner(node) => Ok(Redirect { node, why: Why::Owned, service: index }),
        Verdict::Divert(node) => Ok(Redirect { node, why: Why::Diverted, service: index }),
    }
}

/// The service at an address and port.
#[inline(always)] // one look-up
pub(crate) fn service(vip: Address, port: u16) -> Option<Service> {
    let found = maps::service(&ServiceKey { vip, port: port.to_be(), pad: 0 });
    found.filter(|service| service.flags & SERVICE_SET != 0)
}

/// What is no whole UDP datagram matters only if it is for a service's address.
#[inline(always)] // rare
fn no_datagram(frame: &Frame, ip: &Ip) -> Result<Redirect, Outcome> {
    if !ip.fragment && !ip.extended() && ip.protocol != IpProtocol::UDP {
        return Err(Outcome::NotService);
    }
    let known = ip.destination(frame).and_then(|vip| service(vip, 0)).is_some();
    if !known {
        Err(Outcome::NotService)
    } else if ip.fragment {
        reassemble_elsewhere(frame, ip)
    } else if ip.extended() {
        Err(Outcome::ExtensionHeader)
    } else {
        Err(Outcome::Malformed)
    }
}

/// Fragments of one datagram may reach many nodes: each sends them to the same one, by rendezvous.
#[inline(always)] // rare
fn reassemble_elsewhere(frame: &Frame, ip: &Ip) -> Result<Redirect, Outcome> {
    let config = maps::config().ok_or(Outcome::NotService)?;
    if config.peers_up == 0 {
        return Err(Outcome::LocalAlone);
    }
    if ip.end > frame.length() {
        // The tunnel's own lengths would lie as well.
        return Err(Outcome::Malformed);
    }
    let slot = ip.datagram_slot(frame).ok_or(Outcome::Malformed)?;
    match NodeId::new(maps::reassembler(slot)) {
        Some(node) if node.number() != config.node => Ok(Redirect { node, why: Why::Reassembled, service: NO_SERVICE }),
        _ => Err(Outcome::Fragment),
    }
}

/// The verdict for a datagram to a service.
#[inline(always)] // part of the entry program
fn message(
    ctx: &XdpContext,
    frame: &Frame,
    ip: &Ip,
    udp: &Udp,
    service: Service,
    config: &Config,
) -> Result<Verdict, Outcome> {
    let datagram_end = ip.payload + udp.length;
    if udp.length < net::UDP || datagram_end > ip.end || ip.end > frame.length() {
        return Err(Outcome::Malformed);
    }
    let marks = maps::marks_ingress().ok_or(Outcome::NotService)?;
    marks.begin(ip.payload + net::UDP, datagram_end);
    if let Err(why) = key::ingress(ctx.ctx, key::flags(Seen::Arriving, Affinity::of(Some(&service)))) {
        let outcome = why.outcome();
        // Alone, every message is local, whatever it says.
        let alone = config.peers_up == 0 && outcome.punted().is_some();
        return Err(if alone { Outcome::LocalAlone } else { outcome });
    }
    let now_ns = maps::now_ns();
    let now = Tick::at(now_ns);
    let kind = match marks.kind() {
        fast::kind::ACK => Kind::Ack,
        fast::kind::CANCEL => Kind::Cancel,
        fast::kind::RESPONSE => Kind::Response,
        _ => Kind::Request,
    };
    let has_reply_key = Seen::Arriving.has_reply_key(matches!(kind, Kind::Response)) && marks.reply_key() != 0;
    let reply_key = if has_reply_key { Some(marks.reply_key()) } else { None };
    let claimed = look_up(reply_key, || marks.request_key(), |key| found(config, key, now));
    let diverts = matches!(kind, Kind::Request) && matches!(claimed, Found::Nothing) && maps::lease().diverts(now_ns);
    let slot = rendezvous::successor_slot(marks.request_key());
    let successor = if diverts { NodeId::new(maps::successor(slot)) } else { None };
    Ok(decide(kind, claimed, config.peers_up != 0, successor))
}

/// What the table says of a key.
#[inline(always)] // a call
fn found(config: &Config, key: u64, now: Tick) -> Found {
    Found::owned_by(effective(key, u64::from(now.number())) as u16, config.node)
}

/// This node's own claim of a key, if it has one.
#[inline(always)] // a call
pub(crate) fn held(config: &Config, key: u64, kind: KeyKind, now: Tick) -> Option<Held> {
    let claim = effective(key, u64::from(now.number()));
    if claim as u16 != config.node {
        return None;
    }
    Some(Held { kind, epoch: Epoch::new(claim >> EPOCH_SHIFT), ticks: (claim >> TICKS_SHIFT) as u16 })
}

/// Where [`effective`] puts the epoch and the ticks that are left, above the owner.
const EPOCH_SHIFT: u32 = 16;
const TICKS_SHIFT: u32 = 32;

/// The claim of a key that counts: its owner, its epoch and the ticks that are left of it; or 0.
///
/// Global, so that the verifier walks the sixteen compares once, not after every path of the parse.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn effective(key: u64, now: u64) -> u64 {
    let (Some(config), Some(marks)) = (maps::config(), maps::marks_ingress()) else { return 0 };
    let Some((_, entry)) = table::find(&Claims(marks), config.bucket_mask, key) else { return 0 };
    let now = Tick::new(now as u16);
    if !claim::is_effective(entry, now, |id| maps::live_epochs(id, config)) {
        return 0;
    }
    let (owner, epoch) = (u64::from(entry.owner()), u64::from(entry.epoch().number()));
    owner | epoch << EPOCH_SHIFT | entry.remaining(now) << TICKS_SHIFT
}

/// Charges a packet that is about to be sent to the bounds on its transaction or source, and on its node.
#[inline(always)] // part of the entry program
fn within_bounds(
    config: &Config,
    (node, why): (u16, Why),
    (frame, ip): (&Frame, &Ip),
    length: usize,
    now_ns: u64,
) -> Result<(), Outcome> {
    let spread = match why {
        // The asker's own rate is bounded.
        Why::Answered => return Ok(()),
        Why::Owned | Why::Diverted => maps::marks_ingress().map_or(0, |marks| bound::spread_hash(&marks.hash())),
        Why::Reassembled => {
            let source = ip.source(frame).ok_or(Outcome::Malformed)?;
            bound::spread_source(source.payer(), config.hash_key[0])
        }
        Why::Relayed => 0,
    };
    let order = u64::from(node) | why.code() << WHY_SHIFT;
    match Over::decode(over(order, spread, length as u64, now_ns)) {
        None => Ok(()),
        Some(Over::Key) => Err(Outcome::LocalOverKey),
        Some(Over::Peer) => Err(Outcome::LocalOverPeer),
        Some(Over::Fragment) => Err(Outcome::FragmentOverPeer),
    }
}

coded! {
    /// A bound that a packet is over.
    enum Over {
        /// That on its transaction.
        Key = 1,
        /// That on its node.
        Peer = 2,
        /// That on its node or source, where it is a fragment to be reassembled.
        Fragment = 3,
    }
}

/// The code of the bound that a packet is over, with where it goes and why in `order`; 0: it is charged, and goes.
///
/// Global, so that the verifier walks it once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn over(order: u64, spread: u64, length: u64, now_ns: u64) -> u64 {
    let (Some(config), Some(why)) = (maps::config(), Why::decode(order >> WHY_SHIFT)) else { return 0 };
    let costs = &config.costs;
    let node = order as u16 & NodeId::MAX;
    let is_slow = matches!(why, Why::Reassembled | Why::Relayed);
    let over_peer = if matches!(why, Why::Reassembled) { Over::Fragment.code() } else { Over::Peer.code() };
    let (key_ns, source_ns, slow_ns) = (u64::from(costs.key_ns), costs.source(), u64::from(costs.slow_ns));
    if matches!(why, Why::Reassembled) {
        if source_ns != 0 && !maps::may_send_of(bound::source_cells(spread), now_ns, source_ns) {
            return over_peer;
        }
    } else if !is_slow && key_ns != 0 && !maps::may_send_of(bound::key_cells(spread), now_ns, key_ns) {
        return Over::Key.code();
    }
    if is_slow && slow_ns != 0 && !maps::may_send_slow(node, now_ns, slow_ns) {
        return over_peer;
    }
    let packet_ns = costs.packet(length & 0xffff);
    if packet_ns != 0 && !maps::may_send_to(node, now_ns, packet_ns) {
        return over_peer;
    }
    0
}

/// Encapsulates the packet for another node and sends it.
#[inline(always)] // part of the entry program
fn forward(ctx: &XdpContext, ip: &Ip, node: u16, why: Why, service: u8) -> Result<u32, Outcome> {
    let config = maps::config().ok_or(Outcome::Unresolved)?;
    let slot = maps::node(node).hop(node).ok_or(Outcome::Unresolved)?;
    let peer = maps::peer(slot).ok_or(Outcome::Unresolved)?;
    if service != NO_SERVICE && !peer.served.has(service) {
        return Err(Outcome::LocalUnserved);
    }
    if peer.ifindex == 0 {
        return Err(Outcome::Unresolved);
    }
    let frame = Frame::xdp(ctx.ctx);
    let ip = match why {
        // What came around the question is taken away. It is read once more: kept, it would be unset on all other ways.
        Why::Answered => net::ip(&frame, ip.payload + geneve::TUNNEL, EtherType::IPV6).ok_or(Outcome::Malformed)?,
        Why::Owned | Why::Reassembled | Why::Diverted | Why::Relayed => *ip,
    };
    let v4 = peer.address.is_v4();
    let outer = geneve::TUNNEL + if v4 { OuterV4::LENGTH } else { OuterV6::LENGTH };
    let length = usize::from(ip.length() as u16) + outer;
    if length > peer.mtu as usize {
        return Err(Outcome::TooBig);
    }
    let now_ns = maps::now_ns();
    // Before the packet is read: a call takes all registers.
    within_bounds(config, (node, why), (&frame, &ip), length, now_ns)?;
    let inner = Inner::read(&frame, &ip).ok_or(Outcome::Malformed)?;
    let epoch = config.tag_epoch;
    let key = maps::tag_key(config, epoch);
    let sender =
        Sender { head: Head::new(config.node, why.tunnel_kind(), epoch, Time::at(now_ns)), vni: config.vni, key };
    let sent = if v4 {
        packet::encapsulate(ctx, ip.start, Headers::<OuterV4>::new(peer, &sender, &inner))
    } else {
        packet::encapsulate(ctx, ip.start, Headers::<OuterV6>::new(peer, &sender, &inner))
    };
    sent.map_err(|()| Outcome::EncapFailed)?;
    if peer.ifindex == ctx.ingress_ifindex() as u32 {
        return Ok(xdp_action::XDP_TX);
    }
    // SAFETY: the helper takes two numbers.
    Ok(unsafe { bpf_redirect(peer.ifindex, 0) } as u32)
}
