//! Ingress in packet order: locate, service, key, look up, decide, act. It reads the claim table and never writes.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use forwarder_common::{
    abi::{Config, NO_SERVICE, Service},
    geneve,
    ids::{IpProtocol, NodeId, Tick},
    keys::{Affinity, Seen},
    net::{self, Ip, Udp},
    outcome::{Action, Hook, Outcome, Punt},
    rendezvous,
    sip::Kind,
    verdict::{Found, Verdict, decide, look_up, without_answer},
};

use crate::{
    decap,
    forward::{self, Redirect, WHY_SHIFT, Why},
    key,
    lookup::{found, service},
    maps,
    packet::Frame,
    punt,
};

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
    match forward::run(ctx, &ip, node, why, service) {
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
    if ip.extended() {
        // The outer checksum is worked out from a UDP header at the payload's start.
        return None;
    }
    let now_ns = maps::now_ns();
    if !maps::lease().knows_peers(now_ns) {
        // Nobody to ask: of a call that crosses the edge twice, the one leg that is known has to do.
        let (config, request_key) = (maps::config()?, maps::marks_ingress()?.request_key());
        let owner = without_answer(outcome, || found(config, request_key, Tick::at(now_ns)));
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
    } else if !ip.extended() {
        Err(Outcome::Malformed)
    } else if maps::config().is_none_or(|config| config.peers_up == 0) {
        Err(Outcome::LocalAlone)
    } else {
        Err(Outcome::ExtensionHeader)
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
        Some(_) | None => Err(Outcome::Fragment),
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
    // A message with a key has a kind.
    let kind = marks.kind().ok_or(Outcome::Malformed)?;
    let has_reply_key = Seen::Arriving.has_reply_key(matches!(kind, Kind::Response)) && marks.reply_key() != 0;
    let reply_key = if has_reply_key { Some(marks.reply_key()) } else { None };
    let claimed = look_up(reply_key, || marks.request_key(), |key| found(config, key, now));
    let diverts = matches!(kind, Kind::Request) && matches!(claimed, Found::Nothing) && maps::lease().diverts(now_ns);
    let slot = rendezvous::successor_slot(marks.request_key());
    let successor = if diverts { NodeId::new(maps::successor(slot)) } else { None };
    Ok(decide(kind, claimed, config.peers_up != 0, successor))
}
