//! Ethernet, VLAN tags, IPv4, IPv6 and UDP around a payload: whole and right, or odd in any of their fields.

use std::net::IpAddr;

use super::choices::Choices;

/// Ends of a datagram.
#[derive(Clone, Copy)]
pub struct Ends {
    /// Address and port that it comes from.
    pub source: (IpAddr, u16),
    /// Address and port that it goes to.
    pub destination: (IpAddr, u16),
}

/// A field that is mostly right, and else one of these.
fn field(choices: &mut Choices<'_>, is_odd: bool, right: usize, wrong: &[usize]) -> usize {
    if is_odd && choices.once_in(10) { choices.any(wrong) } else { right }
}

/// A number as two bytes; what does not fit is cut.
fn be16(number: usize) -> [u8; 2] {
    (number as u16).to_be_bytes()
}

/// A UDP datagram, or what looks like one.
pub fn udp(choices: &mut Choices<'_>, is_odd: bool, ends: Ends, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() + 8;
    let less = length - choices.below(length + 1);
    let told = field(choices, is_odd, length, &[0, 7, 8, 9, less, length + 1, length + 200, 65_535]);
    let sum = field(choices, true, 0xbeef, &[0, 0xffff]);
    [&be16(ends.source.1.into()), &be16(ends.destination.1.into()), &be16(told), &be16(sum), payload].concat()
}

/// An IP packet around what follows its header; both addresses are of one family.
pub fn ip(choices: &mut Choices<'_>, is_odd: bool, ends: Ends, rest: &[u8]) -> Vec<u8> {
    match (ends.source.0, ends.destination.0) {
        (IpAddr::V4(from), IpAddr::V4(to)) => v4(choices, is_odd, from.octets(), to.octets(), rest),
        (IpAddr::V6(from), IpAddr::V6(to)) => v6(choices, is_odd, from.octets(), to.octets(), rest),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => panic!("two families"),
    }
}

fn v4(choices: &mut Choices<'_>, is_odd: bool, from: [u8; 4], to: [u8; 4], rest: &[u8]) -> Vec<u8> {
    // No operation, a route, or rubbish (RFC 791 §3.1).
    let options: &[u8] = match if is_odd { choices.below(8) } else { 0 } {
        1 => &[1; 4],
        2 => &[0x83, 7, 4, 192, 0, 2, 1, 0],
        3 => &[1; 40],
        4 => &[0xff; 12],
        _ => &[],
    };
    let header = 20 + options.len();
    let words = field(choices, is_odd, header / 4, &[0, 4, 5, 6, 15]);
    let total = header + rest.len();
    let less = total - choices.below(total.min(600) + 1);
    let told = field(choices, is_odd, total, &[0, 19, 20, 27, 28, less, total + 1, total + 200, 65_535]);
    let place = field(choices, is_odd, 0x4000, &[0, 0x2000, 0x2001, 1, 0x1fff, 0x3fff, 0x8000, 0xa000, 0x6000]);
    let version = field(choices, is_odd, 4, &[0, 5, 6, 15]);
    let protocol = field(choices, is_odd, 17, &[6, 1, 0, 4, 41, 44, 136, 255]);
    let mut packet = vec![(version << 4 | words) as u8, choices.byte()];
    packet.extend(be16(told));
    // One of two identifications.
    packet.extend([7, choices.below(2) as u8]);
    packet.extend(be16(place));
    packet.extend([60, protocol as u8]);
    packet.extend(be16(field(choices, true, 0xabcd, &[0, 0xffff])));
    [&packet, &from[..], &to, options, rest].concat()
}

fn v6(choices: &mut Choices<'_>, is_odd: bool, from: [u8; 16], to: [u8; 16], rest: &[u8]) -> Vec<u8> {
    // Hop-by-hop options, a fragment header, routing, destination options, authentication, and two of them (RFC 8200
    // §4).
    let place = choices.any(&[0_u8, 1, 8, 9, 0xf8, 0xff]);
    let fragment = [17, 0, 0, place, 0, 0, 0, 7];
    let (first, extension): (usize, &[u8]) = match if is_odd { choices.below(12) } else { 0 } {
        1 => (0, &[17, 0, 1, 4, 0, 0, 0, 0]),
        2 | 3 => (44, &fragment),
        4 => (43, &[17, 0, 0, 0, 0, 0, 0, 0]),
        5 => (60, &[44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 7]),
        6 => (51, &[17, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]),
        7 => (44, &[60, 0, 0, 1, 0, 0, 0, 7, 17, 0, 1, 4, 0, 0, 0, 0]),
        8 => (44, &[17, 0, 0]),
        _ => (17, &[]),
    };
    let length = extension.len() + rest.len();
    let less = length - choices.below(length.min(600) + 1);
    let told = field(choices, is_odd, length, &[0, 7, 8, less, length + 1, length + 200, 65_535, 65_500]);
    let next = field(choices, is_odd, first, &[17, 0, 44, 58, 59, 6, 43, 60, 135, 139, 140, 255]);
    let version = field(choices, is_odd, 6, &[0, 4, 7]);
    let mut packet = vec![(version << 4) as u8 | choices.byte() & 15, choices.byte(), 0, 5];
    packet.extend(be16(told));
    packet.extend([next as u8, 60]);
    [&packet, &from[..], &to, extension, rest].concat()
}

/// A frame around an IP packet: up to three VLAN tags before it, padding behind it, or cut off.
pub fn frame(choices: &mut Choices<'_>, is_odd: bool, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xaa; 12];
    for _ in 0..if choices.once_in(4) { choices.below(4) } else { 0 } {
        frame.extend(choices.any(&[[0x81, 0, 0, 9], [0x88, 0xa8, 0x20, 0]]));
    }
    let own = if packet.first().is_some_and(|first| first >> 4 == 6) { 0x86dd } else { 0x0800 };
    frame.extend(be16(field(choices, is_odd, own, &[0x0800, 0x86dd, 0x0806, 0x8100, 0x88a8, 0x8847, 0x0600])));
    frame.extend(packet);
    if choices.once_in(6) {
        frame.resize(frame.len() + choices.below(60), choices.any(&[0, 0xee, b'\n', b' ']));
    }
    if is_odd && choices.once_in(8) {
        let length = choices.below(frame.len() + 1);
        frame.truncate(length);
    }
    // The shortest that there is.
    frame.resize(frame.len().max(14), 0);
    frame
}
