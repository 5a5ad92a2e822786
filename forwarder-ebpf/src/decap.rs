//! Tunnel packets: who sent it, is it ours, and out of the tunnel to the local proxy. Never sent on again.

use aya_ebpf::programs::XdpContext;
use forwarder_common::{
    geneve::{self, Inner},
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
        Ok(()) => Outcome::Decapsulated,
        Err(outcome) => outcome,
    }
}

#[inline(always)] // as above
fn unwrap(ctx: &XdpContext, frame: &Frame, ip: &Ip, udp: &Udp) -> Result<(), Outcome> {
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
    let slot = maps::node(received.node).hop(received.node & 0x3ff).ok_or(Outcome::DecapUnknownPeer)?;
    if maps::peer(slot).is_none_or(|peer| peer.address != source) {
        return Err(Outcome::DecapUnknownPeer);
    }
    let inner = Inner::read(frame, &inside).ok_or(Outcome::DecapMalformed)?;
    let key = config.tag_key[usize::from(received.key_epoch & 1)];
    if inner.tag(key, received.node, received.key_epoch) != received.tag {
        return Err(Outcome::DecapBadTag);
    }
    let ports = inside.udp(frame).ok_or(Outcome::DecapNotService)?;
    ingress::service(inner.destination, ports.destination).ok_or(Outcome::DecapNotService)?;
    packet::decapsulate(ctx, ip.start, start, received.protocol).map_err(|()| Outcome::DecapFailed)
}
