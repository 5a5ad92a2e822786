//! Any bytes as what arrives at the tunnel's socket: nothing goes by without its tag, its sender's address and a recent
//! time, and what is let in is what another reader finds there.
//!
//! The first byte says what is right about the datagram, the others are the datagram, or what a peer puts into one.

use std::{
    cell::OnceCell,
    net::{IpAddr, Ipv4Addr},
    process,
};

use forwarder::tunnel::{Received, Tunnel};
use forwarder_common::{
    clock::{Clock, Time},
    geneve::{self, Head, Inner, Kind, Sender},
    ids::{EtherType, NodeId},
    net,
    question::{self, Answer},
};
use tokio::runtime::{Builder, Runtime};

const KEYS: [[u64; 2]; 2] = [[1, 2], [3, 4]];
const VNI: u32 = 0x0070_0771;
const PEER: u16 = 2;
/// The peer's clock is so far ahead of this node's, in milliseconds.
const AHEAD: u32 = 1000;
const NOW: Time = Time(500_000);
/// Bytes of Geneve header and option.
const HEADER: usize = geneve::TUNNEL - net::UDP;

/// Reads `data` as a datagram of a peer.
///
/// # Panics
/// It is let in though something is wrong with it, or kept out though all is right.
pub fn tunnel(data: &[u8]) {
    thread_local!(static SOCKET: OnceCell<(Runtime, Tunnel)> = const { OnceCell::new() });
    let Some((how, rest)) = data.split_first() else { return };
    SOCKET.with(|socket| {
        let (_, tunnel) = socket.get_or_init(open);
        let datagram = if how & 1 == 0 { rest.to_vec() } else { sent_by_a_peer(rest) };
        let from = if how & 2 == 0 { address(PEER) } else { address(PEER + 1) };
        check(tunnel, &datagram, from);
        // A byte that is another one.
        if let [at, to, ..] = rest {
            let mut spoilt = datagram;
            let length = spoilt.len();
            if let Some(byte) = spoilt.get_mut(usize::from(*at) % length.max(1)) {
                *byte ^= to;
            }
            check(tunnel, &spoilt, from);
        }
    });
}

fn address(node: u16) -> IpAddr {
    Ipv4Addr::new(10, 9, 0, node as u8).into()
}

/// The socket, at an address that no other process of this kind has; nothing is sent to it.
fn open() -> (Runtime, Tunnel) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let [.., a, b, c] = process::id().to_be_bytes();
    let local = Ipv4Addr::new(127, 64 | a & 63, b, c).into();
    let node = NodeId::new(1).expect("a node");
    let tunnel = runtime.block_on(async { Tunnel::open(local, node, VNI, KEYS, 0) }).expect("a loopback address");
    (runtime, tunnel)
}

/// A packet of a peer in the tunnel, with a right tag.
fn sent_by_a_peer(rest: &[u8]) -> Vec<u8> {
    let [node, kind, epoch, a, b, c, d, packet @ ..] = rest else { return Vec::new() };
    let v6 = packet.first().is_some_and(|first| first >> 4 == 6);
    let protocol = if v6 { EtherType::IPV6 } else { EtherType::IPV4 };
    let Some(inner) = net::ip(&packet, 0, protocol).and_then(|ip| Inner::read(&packet, &ip)) else { return Vec::new() };
    let head = Head {
        node: u16::from(*node),
        kind: Kind::new(kind % 7).expect("one of the first seven"),
        key_epoch: *epoch,
        time: Time(NOW.0.wrapping_add(AHEAD).wrapping_add_signed(i32::from(i16::from_be_bytes([*a, *b])))),
        argument: u32::from_be_bytes([*a, *b, *c, *d]),
    };
    let sender = Sender { head, vni: if *c == 0xff { VNI ^ u32::from(*d) } else { VNI }, key: key(*epoch) };
    [&geneve::header(&sender, &inner).map(u64::to_le_bytes).concat(), packet].concat()
}

fn key(epoch: u8) -> [u64; 2] {
    KEYS[usize::from(epoch & 1)]
}

fn check(tunnel: &Tunnel, datagram: &[u8], from: IpAddr) {
    let clock = Clock::new(Time(NOW.0 + AHEAD), NOW);
    let peer = |node: NodeId| (node.number() == PEER).then(|| (address(PEER), clock));
    let got = tunnel.read(datagram, from, NOW, peer);
    assert_eq!(got, expected(datagram, from), "{}", datagram.escape_ascii());
}

/// What a reader that is in no hurry finds, field by field (RFC 8926 §3.4).
fn expected(datagram: &[u8], from: IpAddr) -> Option<(NodeId, Received<'_>)> {
    let (header, packet) = datagram.split_at_checked(HEADER)?;
    // Version 0 and six words of options; a critical option; protocol; network identifier and a reserved byte.
    let protocol = match header[2..4] {
        [0x08, 0x00] => EtherType::IPV4,
        [0x86, 0xdd] => EtherType::IPV6,
        _ => return None,
    };
    let [_, a, b, c] = VNI.to_be_bytes();
    if header[..2] != [6, 0x40] || header[4..8] != [a, b, c, 0] || header[8..12] != [0xff, 0x51, 0x82, 5] {
        return None;
    }
    let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let head = Head {
        node: u16::from_be_bytes([header[12], header[13]]),
        kind: Kind::new(header[14])?,
        key_epoch: header[15],
        time: Time(number(16)),
        argument: number(20),
    };
    if head.node != PEER || from != address(PEER) {
        return None;
    }
    let v6 = protocol == EtherType::IPV6;
    let (version, least) = if v6 { (6, 40) } else { (4, 20) };
    if packet.first()? >> 4 != version {
        return None;
    }
    let length = match (v6, packet) {
        (true, [_, _, _, _, a, b, ..]) => 40 + usize::from(u16::from_be_bytes([*a, *b])),
        (false, [first, _, a, b, ..]) if first & 15 >= 5 => usize::from(u16::from_be_bytes([*a, *b])),
        _ => return None,
    };
    // A payload of nothing has no first eight bytes.
    let payload = if v6 { least } else { usize::from(packet[0] & 15) * 4 };
    if packet.len() != length || length <= payload {
        return None;
    }
    let ip = net::ip(&packet, 0, protocol)?;
    let inner = Inner::read(&packet, &ip)?;
    let [a, b, c, d, e, f, g, h] = header[24..] else { return None };
    // As it lies in memory.
    if inner.tag(key(head.key_epoch), &head) != u64::from_le_bytes([a, b, c, d, e, f, g, h]) {
        return None;
    }
    let (request_key, reply_key) = question::keys(inner.source);
    let asked = forwarder::tunnel::Question { request_key, reply_key, ticket: question::ticket(inner.start) };
    let late = head.time.0.wrapping_sub(AHEAD).wrapping_sub(NOW.0).cast_signed().unsigned_abs();
    let received = match head.kind {
        Kind::Data | Kind::Reassemble | Kind::Local | Kind::Relay if late <= Time::WINDOW => {
            Received::Packet { reassemble: head.kind == Kind::Reassemble, packet }
        }
        Kind::Data | Kind::Reassemble | Kind::Local | Kind::Relay => return None,
        Kind::Ask | Kind::Probe => Received::Question(asked, packet),
        Kind::Answer => Received::Answer { question: asked, answer: Answer::of(inner.destination)?, time: head.time },
    };
    Some((NodeId::new(head.node)?, received))
}
