//! Tunnel packets: who sent it, is it ours, and out of the tunnel to the local proxy. Never sent on again;
//! a relayed packet gets the verdict of this host's daemon.

use aya_ebpf::{helpers::bpf_ktime_get_coarse_ns, programs::XdpContext};
use aya_log_ebpf::warn;
use forwarder_common::{
    coded,
    geneve::{self, Inner, Kind},
    ids::NodeId,
    net::{self, Ip, Udp},
    outcome::Outcome,
};

use crate::{
    ingress, maps,
    packet::{self, Frame},
};

coded! {
    /// Why a packet to the tunnel port of this node is not taken out of the tunnel. It passes as it is.
    enum Refused {
        /// It is no well-formed tunnel packet of this cluster.
        Malformed = 1,
        /// It does not come from the address of the node that it names.
        UnknownPeer = 2,
        /// Its tag is wrong.
        BadTag = 3,
        /// The packet inside is for no service.
        NotService = 4,
        /// The kernel failed.
        Failed = 5,
    }
}

impl Refused {
    #[inline(always)] // a few compares
    const fn outcome(self) -> Outcome {
        match self {
            Self::Malformed => Outcome::DecapMalformed,
            Self::UnknownPeer => Outcome::DecapUnknownPeer,
            Self::BadTag => Outcome::DecapBadTag,
            Self::NotService => Outcome::DecapNotService,
            Self::Failed => Outcome::DecapFailed,
        }
    }
}

/// Where the tunnel packet's way ends, unless it is punted.
#[inline(always)] // the entry program's second half
pub(crate) fn run(ctx: &XdpContext, frame: &Frame, ip: &Ip, udp: &Udp) -> Outcome {
    match unwrap(ctx, frame, ip, udp) {
        Ok(outcome) => outcome,
        Err(refused) => {
            complain(refused.code());
            refused.outcome()
        }
    }
}

/// Says why a tunnel packet was refused, once a second and CPU at most: a peer with another secret must not be silent.
///
/// Global, so that the verifier walks the log records apart from the packet's paths.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn complain(code: u64) -> u64 {
    let Some(refused) = Refused::decode(code) else { return 0 };
    // SAFETY: the helper takes nothing and touches nothing.
    if !maps::may_log(unsafe { bpf_ktime_get_coarse_ns() }) {
        return 0;
    }
    match refused {
        Refused::Malformed => {
            warn!((), "a packet to the tunnel port is no tunnel packet of this cluster and version: passed");
        }
        Refused::UnknownPeer => warn!((), "a tunnel packet comes from an address that is no peer's: passed"),
        Refused::BadTag => {
            warn!((), "a tunnel packet has a wrong tag: passed; hint: is cluster.secret the same everywhere?");
        }
        Refused::NotService => {
            warn!((), "a tunnel packet is for no service of this node: passed; hint: compare the services");
        }
        Refused::Failed => warn!((), "a tunnel packet could not be unpacked: passed"),
    }
    1
}

#[inline(always)] // as above
fn unwrap(ctx: &XdpContext, frame: &Frame, ip: &Ip, udp: &Udp) -> Result<Outcome, Refused> {
    let config = maps::config().ok_or(Refused::Malformed)?;
    if ip.destination(frame) != Some(config.underlay) {
        // Somebody else's Geneve.
        return Ok(Outcome::NotService);
    }
    let received = geneve::receive(frame, ip.payload + net::UDP).ok_or(Refused::Malformed)?;
    let start = ip.payload + geneve::TUNNEL;
    let inside = net::ip(frame, start, received.protocol).ok_or(Refused::Malformed)?;
    if received.vni != config.vni || inside.end != ip.payload + udp.length || ip.end > frame.length() {
        return Err(Refused::Malformed);
    }
    let source = ip.source(frame).ok_or(Refused::Malformed)?;
    let head = received.head;
    let slot = maps::node(head.node).hop(head.node & NodeId::MAX).ok_or(Refused::UnknownPeer)?;
    if maps::peer(slot).is_none_or(|peer| peer.address != source) {
        return Err(Refused::UnknownPeer);
    }
    let inner = Inner::read(frame, &inside).ok_or(Refused::Malformed)?;
    let key = maps::tag_key(config, head.key_epoch);
    if inner.tag(key, &head) != received.tag {
        return Err(Refused::BadTag);
    }
    let port = match (inside.udp(frame), head.kind) {
        (Some(udp), _) => udp.destination,
        // A fragment names no port: its address alone must be a service's.
        (None, Kind::Reassemble) if inside.fragment => 0,
        (None, Kind::Local) if inside.fragment && head.node == config.node => 0,
        (None, Kind::Data | Kind::Reassemble | Kind::Local | Kind::Relay) => return Err(Refused::NotService),
    };
    ingress::service(inner.destination, port).ok_or(Refused::NotService)?;
    let outcome = match head.kind {
        Kind::Data => Outcome::Decapsulated,
        Kind::Reassemble => return Ok(Outcome::DecapFragment),
        Kind::Local => Outcome::DecapInjected,
        // From here on as if it had arrived here in the first place.
        Kind::Relay => Outcome::DecapRelayed,
    };
    packet::decapsulate(ctx, ip.start, start, received.protocol).map_err(|()| Refused::Failed)?;
    Ok(outcome)
}
