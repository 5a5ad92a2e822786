//! Tunnel packets: who sent it, is it ours, and out of the tunnel to the local proxy. Never sent on again.

use aya_ebpf::{helpers::bpf_ktime_get_coarse_ns, programs::XdpContext};
use aya_log_ebpf::warn;
use forwarder_common::{
    geneve::{self, Inner, Kind},
    ids::NodeId,
    net::{self, Ip, Udp},
    outcome::Outcome,
};

use crate::{
    ingress, maps,
    packet::{self, Frame},
};

/// Where the tunnel packet's way ends.
#[inline(always)] // the entry program's second half
pub fn run(ctx: &XdpContext, frame: &Frame, ip: &Ip, udp: &Udp) -> Outcome {
    match unwrap(ctx, frame, ip, udp) {
        Ok(outcome) => outcome,
        Err(outcome) => {
            let is_fine = matches!(outcome, Outcome::NotService | Outcome::DecapFragment | Outcome::DecapRelayed);
            if !is_fine {
                complain(u64::from(outcome.number()));
            }
            outcome
        }
    }
}

/// Says why a tunnel packet was refused, once a second and CPU at most: a peer with another secret must not be silent.
///
/// Global, so that the verifier walks the log records apart from the packet's paths.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn complain(outcome: u64) -> u64 {
    const MALFORMED: u64 = Outcome::DecapMalformed.number() as u64;
    const UNKNOWN_PEER: u64 = Outcome::DecapUnknownPeer.number() as u64;
    const BAD_TAG: u64 = Outcome::DecapBadTag.number() as u64;
    const NOT_SERVICE: u64 = Outcome::DecapNotService.number() as u64;
    // SAFETY: the helper takes nothing and touches nothing.
    if !maps::may_log(unsafe { bpf_ktime_get_coarse_ns() }) {
        return 0;
    }
    match outcome {
        MALFORMED => warn!((), "a packet to the tunnel port is no tunnel packet of this cluster and version: passed"),
        UNKNOWN_PEER => warn!((), "a tunnel packet comes from an address that is no peer's: passed"),
        BAD_TAG => warn!((), "a tunnel packet has a wrong tag: passed; hint: is cluster.secret the same everywhere?"),
        NOT_SERVICE => warn!((), "a tunnel packet is for no service of this node: passed; hint: compare the services"),
        _ => warn!((), "a tunnel packet could not be unpacked: passed"),
    }
    1
}

#[inline(always)] // as above
fn unwrap(ctx: &XdpContext, frame: &Frame, ip: &Ip, udp: &Udp) -> Result<Outcome, Outcome> {
    let config = maps::config().ok_or(Outcome::DecapMalformed)?;
    if ip.destination(frame) != Some(config.underlay) {
        // Somebody else's Geneve.
        return Err(Outcome::NotService);
    }
    let received = geneve::receive(frame, ip.payload + net::UDP).ok_or(Outcome::DecapMalformed)?;
    let start = ip.payload + geneve::TUNNEL;
    let inside = net::ip(frame, start, received.protocol).ok_or(Outcome::DecapMalformed)?;
    if received.vni != config.vni || inside.end != ip.payload + udp.length || ip.end > frame.length() {
        return Err(Outcome::DecapMalformed);
    }
    let source = ip.source(frame).ok_or(Outcome::DecapMalformed)?;
    let head = received.head;
    let slot = maps::node(head.node).hop(head.node & NodeId::MAX).ok_or(Outcome::DecapUnknownPeer)?;
    if maps::peer(slot).is_none_or(|peer| peer.address != source) {
        return Err(Outcome::DecapUnknownPeer);
    }
    let inner = Inner::read(frame, &inside).ok_or(Outcome::DecapMalformed)?;
    let key = config.tag_key[usize::from(head.key_epoch & 1)];
    if inner.tag(key, &head) != received.tag {
        return Err(Outcome::DecapBadTag);
    }
    let port = match (inside.udp(frame), head.kind) {
        (Some(udp), _) => udp.destination,
        // A fragment names no port: its address alone must be a service's.
        (None, Kind::Reassemble) if inside.fragment => 0,
        (None, Kind::Local) if inside.fragment && head.node == config.node => 0,
        (None, Kind::Data | Kind::Reassemble | Kind::Local | Kind::Relay) => return Err(Outcome::DecapNotService),
    };
    ingress::service(inner.destination, port).ok_or(Outcome::DecapNotService)?;
    let outcome = match head.kind {
        Kind::Data => Ok(Outcome::Decapsulated),
        Kind::Reassemble => return Err(Outcome::DecapFragment),
        Kind::Local => Ok(Outcome::DecapInjected),
        // From here on as if it had arrived here in the first place.
        Kind::Relay => Err(Outcome::DecapRelayed),
    };
    packet::decapsulate(ctx, ip.start, start, received.protocol).map_err(|()| Outcome::DecapFailed)?;
    outcome
}
