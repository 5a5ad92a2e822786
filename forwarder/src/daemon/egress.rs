//! Claims for messages of the local proxy that the egress program could not read: the full grammar, and each segment.

use forwarder_common::{
    hash,
    keys::{Affinity, Keys, Seen},
    lifetime::Lifetime,
    net::{self, Ip},
    rest::KeyKind,
    sip::{Kind, Method, full},
    verdict::Found,
};

use forwarder_core::slowpath::View as _;

use super::context::Context;

/// Claims what the messages in a frame say that this host has sent, in segments of `segment` bytes if that is not 0.
pub(super) fn claim(hash_key: [u64; 2], frame: &[u8], segment: u32, context: &mut Context<'_>) {
    if let Some(ip) = net::frame(&frame) {
        claim_ip(hash_key, frame, ip, segment, context);
    }
}

/// The same for a bare IP packet.
pub(super) fn claim_packet(hash_key: [u64; 2], packet: &[u8], context: &mut Context<'_>) {
    if let Some(ip) = net::packet(&packet) {
        claim_ip(hash_key, packet, ip, 0, context);
    }
}

fn claim_ip(hash_key: [u64; 2], frame: &[u8], ip: Ip, segment: u32, context: &mut Context<'_>) {
    let Some(payload) = payload(frame, ip) else { return };
    let port = Ip { payload: payload.0 - net::UDP, ..ip }.ports(&frame).map(|udp| udp.source);
    let from = ip.source(&frame).zip(port).and_then(|(source, port)| context.dataplane.sender(source, port));
    let Some(from) = from else { return };
    let (affinity, seen) = (Affinity::of(Some(&from)), Seen::leaving(Some(&from)));
    let text = frame.get(payload.0..payload.1).unwrap_or_default();
    let size = if segment == 0 { text.len().max(1) } else { segment as usize };
    for message in text.chunks(size) {
        let Ok(message) = full::read(message) else { continue };
        let method = Method::of(message.method);
        let lifetime = context.dataplane.lifetime(message.kind, method, message.status, affinity);
        let keys = Keys::of(&message, seen, affinity.is_call(), hash_key);
        let branch = message.branch.filter(|branch| !branch.is_empty());
        let branch = branch.map_or(0, |branch| hash::keys(hash_key, message.call_id, message.cseq, branch).1);
        let is_refused = message.kind == Kind::Ack && affinity.is_call() && !acknowledges_2xx(keys, context);
        let lifetime = if is_refused { Lifetime::ANSWERED } else { lifetime };
        let reply = keys.reply.filter(|_| message.kind != Kind::Ack).map(|key| (key, KeyKind::Reply));
        let request = (keys.request, KeyKind::of_request_key(message.kind, message.status.unwrap_or_default()));
        for (key, kind) in [request].into_iter().chain(reply) {
            let other = lifetime.tied_to(kind, keys.request, branch);
            if let Some(event) = context.dataplane.claim_own((key, other), kind, lifetime, &from) {
                context.node.handle_event(&event, context.now);
            }
        }
    }
}

/// Whether an ACK is that of a 2xx, as the program tells it.
fn acknowledges_2xx(keys: Keys, context: &Context<'_>) -> bool {
    keys.reply.is_some_and(|key| context.claim_view().owner(key) != Found::Own)
}

/// Where the UDP payload of a packet begins and ends, as far as the frame has it.
fn payload(frame: &[u8], ip: Ip) -> Option<(usize, usize)> {
    let udp = if ip.fragment { ip.first_fragment(&frame)? } else { ip.udp(&frame).map(|_| ip.payload)? };
    let length = Ip { payload: udp, ..ip }.ports(&frame)?.length;
    Some((udp + net::UDP, (udp + length).min(ip.end).min(frame.len())))
}
