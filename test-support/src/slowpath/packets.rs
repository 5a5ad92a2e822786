//! IP packets, frames and fragments, made by another library than the one under test where that is possible.

use etherparse::{Ethernet2Header, PacketBuilder};
use forwarder_common::{
    clock::Time,
    geneve::{self, Head, Inner, Kind, Sender},
    hash,
    ids::{EtherType, NodeId},
    net,
};

/// The key of the claim hash.
pub const HASH_KEY: [u64; 2] = [3, 4];
/// An address family.
pub const V4: bool = false;
/// An address family.
pub const V6: bool = true;

/// A SIP message: start line, branch, Call-ID and CSeq are what matters.
pub fn message(start: &str, call_id: &str, branch: &str) -> Vec<u8> {
    let method = start.split(' ').next().unwrap().replace("SIP/2.0", "INVITE");
    format!(
        "{start}\r\nVia: SIP/2.0/UDP 198.51.100.5;branch={branch}\r\nCall-ID: {call_id}\r\nCSeq: 7 {method}\r\n\
         Content-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

/// An INVITE.
pub fn invite(call_id: &str) -> Vec<u8> {
    message("INVITE sip:bob@example.com SIP/2.0", call_id, "z9hG4bK-1")
}

/// Its CANCEL.
pub fn cancel(call_id: &str) -> Vec<u8> {
    message("CANCEL sip:bob@example.com SIP/2.0", call_id, "z9hG4bK-1")
}

/// A response to it.
pub fn reply(call_id: &str) -> Vec<u8> {
    message("SIP/2.0 180 Ringing", call_id, "z9hG4bK-1")
}

/// The key `L` of the messages above.
pub fn request_key(call_id: &str) -> u64 {
    hash::keys(HASH_KEY, call_id.as_bytes(), 7, b"").0
}

/// The key `X` of the messages above.
pub fn reply_key(call_id: &str, branch: &str) -> u64 {
    hash::keys(HASH_KEY, call_id.as_bytes(), 7, branch.as_bytes()).1
}

/// A datagram from a client to a VIP, as an IP packet.
pub fn datagram(v6: bool, port: u16, payload: &[u8]) -> Vec<u8> {
    datagram_from(5, v6, port, payload)
}

/// The same from one of many clients.
pub fn datagram_from(client: u16, v6: bool, port: u16, payload: &[u8]) -> Vec<u8> {
    let [high, low] = client.to_be_bytes();
    let mut bytes = Vec::new();
    if v6 {
        let source = [0x20, 1, 0xd, 0xb8, 0, 0, high, low, 0, 0, 0, 0, 0, 0, 0, 5];
        let vip = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
        PacketBuilder::ipv6(source, vip, 60).udp(5060, port).write(&mut bytes, payload).unwrap();
    } else {
        PacketBuilder::ipv4([198, 51, high, low], [192, 0, 2, 10], 60)
            .udp(5060, port)
            .write(&mut bytes, payload)
            .unwrap();
    }
    bytes
}

/// A datagram to the first service.
pub fn sip(v6: bool, payload: &[u8]) -> Vec<u8> {
    datagram(v6, 5060, payload)
}

/// An Ethernet frame around an IP packet, with VLAN tags before and padding behind it.
pub fn frame(packet: &[u8], tags: usize, padding: usize) -> Vec<u8> {
    let ether_type = etherparse::EtherType(if packet[0] >> 4 == 6 { 0x86dd } else { 0x800 });
    let mut bytes = Ethernet2Header { source: [2; 6], destination: [4; 6], ether_type }.to_bytes().to_vec();
    for _ in 0..tags {
        bytes.splice(12..12, [0x81, 0, 0, 9]);
    }
    bytes.extend(packet);
    bytes.resize(bytes.len() + padding, 0xee);
    bytes
}

/// The fragments of a packet, cut at these places of its IP payload (multiples of eight, rising).
pub fn cut(packet: &[u8], id: u16, places: &[usize]) -> Vec<Vec<u8>> {
    let v6 = packet[0] >> 4 == 6;
    let (header, data) = packet.split_at(if v6 { 40 } else { 20 });
    let mut starts = vec![0];
    starts.extend(places.iter().copied().filter(|place| *place < data.len()));
    let ends = starts.iter().skip(1).copied().chain([data.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(start, end)| fragment(header, id, *start, &data[*start..end], end < data.len()))
        .collect()
}

/// One fragment; nothing is checked, so that impossible ones can be made.
pub fn fragment(header: &[u8], id: u16, start: usize, data: &[u8], more: bool) -> Vec<u8> {
    let mut bytes = header.to_vec();
    if header[0] >> 4 == 6 {
        bytes[4..6].copy_from_slice(&(data.len() as u16 + 8).to_be_bytes());
        bytes[6] = 44;
        bytes.extend([17, 0]);
        bytes.extend((start as u16 | u16::from(more)).to_be_bytes());
        bytes.extend((u32::from(id) | 0xabcd_0000).to_be_bytes());
    } else {
        bytes[2..4].copy_from_slice(&((header.len() + data.len()) as u16).to_be_bytes());
        bytes[4..6].copy_from_slice(&id.to_be_bytes());
        bytes[6..8].copy_from_slice(&((start / 8) as u16 | if more { 0x2000 } else { 0 }).to_be_bytes());
        bytes[10..12].fill(0);
        let sum = etherparse::Ipv4Header::from_slice(&bytes).unwrap().0.calc_header_checksum();
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    bytes.extend(data);
    bytes
}

/// The packet with the identification that reassembly leaves in an IPv4 header.
pub fn with_id(packet: &[u8], id: u16) -> Vec<u8> {
    if packet[0] >> 4 == 6 {
        return packet.to_vec();
    }
    let mut header = etherparse::Ipv4Header::from_slice(packet).unwrap().0;
    header.identification = id;
    header.dont_fragment = false;
    header.header_checksum = header.calc_header_checksum();
    [&header.to_bytes(), &packet[20..]].concat()
}

/// A tunnel packet of `from` around an IP packet.
pub fn tunnel(from: NodeId, kind: Kind, inner: &[u8]) -> Vec<u8> {
    let protocol = if inner[0] >> 4 == 6 { EtherType::IPV6 } else { EtherType::IPV4 };
    let ip = net::ip(&inner, 0, protocol).unwrap();
    let sender = Sender { head: Head::new(from.number(), kind, 0, Time::default()), vni: 7, key: [5, 6] };
    let words = geneve::header(&sender, &Inner::read(&inner, &ip).unwrap());
    let payload = [&words.map(u64::to_le_bytes).concat(), inner].concat();
    let mut bytes = Vec::new();
    PacketBuilder::ipv4([10, 9, 3, 2], [10, 9, 2, 2], 64)
        .udp(50_000, geneve::PORT)
        .write(&mut bytes, &payload)
        .unwrap();
    bytes
}
