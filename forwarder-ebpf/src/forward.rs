//! To another node: why a packet goes there, the bounds on that, and the tunnel packet.

use aya_ebpf::{bindings::xdp_action, helpers::bpf_redirect, programs::XdpContext};
use forwarder_common::{
    abi::{Config, NO_SERVICE},
    bound,
    clock::Time,
    coded,
    geneve::{self, Head, Headers, Inner, OuterIp, OuterV4, OuterV6, Sender},
    ids::{EtherType, NodeId},
    net::{self, Ip},
    outcome::Outcome,
};

use crate::{
    maps,
    packet::{self, Frame},
};

coded! {
    /// Why a packet goes to another node.
    pub(crate) enum Why {
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
    pub(crate) const fn sent(self) -> Outcome {
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
    pub(crate) const fn not_sent(self, obstacle: Outcome) -> Outcome {
        // Bounds are there to be kept.
        if matches!(obstacle, Outcome::LocalOverKey | Outcome::LocalOverPeer | Outcome::FragmentOverPeer) {
            return obstacle;
        }
        match self {
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
    pub(crate) node: NodeId,
    pub(crate) why: Why,
    /// The service that the packet is for; [`NO_SERVICE`] where that is not known or does not matter.
    pub(crate) service: u8,
}

impl Redirect {
    /// A question goes back with its answer.
    #[inline(always)] // nothing
    pub(crate) const fn answer(node: NodeId) -> Self {
        Self { node, why: Why::Answered, service: NO_SERVICE }
    }
}

/// Bits of a node id, above which a [`Why`] has its place.
pub(crate) const WHY_SHIFT: u32 = NodeId::MAX.count_ones();

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
pub(crate) fn run(ctx: &XdpContext, ip: &Ip, node: u16, why: Why, service: u8) -> Result<u32, Outcome> {
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
    let key = geneve::tag_key(config.tag_key, epoch);
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
