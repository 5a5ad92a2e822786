//! The tunnel: Geneve (RFC 8926) over UDP, inner protocol IP, one option with the sender and a tag.
//!
//! Words are as they lie in memory, read little endian; a header is built whole and stored at once. The tag keeps
//! hosts that cannot see the cluster's secret from injecting packets. The inner packet is not altered at all.

use crate::{
    abi::{Address, Peer},
    checksum,
    clock::Time,
    hash::{GOLDEN_32, SipHash},
    ids::{EtherType, IpProtocol},
    net::{self, Ip},
    reader::Reader,
};

/// The UDP port of Geneve.
pub const PORT: u16 = 6081;
/// Bytes of UDP header, Geneve header and option.
pub const TUNNEL: usize = net::UDP + 8 + 24;

/// Version 0, six words of options; the option is critical (RFC 8926 §3.4).
const START: u64 = 0x4006;
/// Experimental option class, critical type 2, five words of data (RFC 8926 §3.5, §7). The type is the option's
/// version.
const OPTION: u64 = u32::from_le_bytes([0xff, 0x51, 0x82, 0x05]) as u64;
/// Hop limit of the outer packet (RFC 1700).
const HOP_LIMIT: u8 = 64;

/// Of the two keys of the tag that of a key epoch: it lies at the place that the epoch's lowest bit says.
#[must_use]
pub const fn tag_key(keys: [[u64; 2]; 2], key_epoch: u8) -> [u64; 2] {
    let [even, odd] = keys;
    if key_epoch & 1 == 0 { even } else { odd }
}

/// What the receiver is to do with the packet inside. Numbers are never given anew, and a packet of a kind that is not
/// listed is no tunnel packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// It belongs to a transaction of the receiver.
    Data = 0,
    /// It is an IP fragment, for the receiver to reassemble.
    Reassemble = 1,
    /// A daemon gives it, maybe a fragment, to its own node's stack.
    Local = 2,
    /// A node without a daemon could not finish it: the receiver's daemon gives it its verdict.
    Relay = 3,
    /// A daemon asks the receiver's programs whether they know a claim of their node, see [`crate::question`].
    Ask = 4,
    /// A daemon asks whether the receiver's programs are there.
    Probe = 5,
    /// What the programs answer to either.
    Answer = 6,
}

impl Kind {
    /// Its number in the option.
    #[inline(always)] // no instruction
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The kind with this number.
    #[inline(always)] // a compare
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Data),
            1 => Some(Self::Reassemble),
            2 => Some(Self::Local),
            3 => Some(Self::Relay),
            4 => Some(Self::Ask),
            5 => Some(Self::Probe),
            6 => Some(Self::Answer),
            _ => None,
        }
    }
}

/// What the option says before its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Node id of the sender.
    pub node: u16,
    /// What the packet is.
    pub kind: Kind,
    /// Epoch of the tag key.
    pub key_epoch: u8,
    /// When it was sent, by the sender's clock ([`Time::at`]).
    pub time: Time,
    /// For kinds that need one; 0 by now, and not looked at.
    pub argument: u32,
}

impl Head {
    /// What node `node` says of a packet that it sends at `time` with a key of `key_epoch`.
    #[inline(always)] // no instruction
    #[must_use]
    pub const fn new(node: u16, kind: Kind, key_epoch: u8, time: Time) -> Self {
        Self { node, kind, key_epoch, time, argument: 0 }
    }

    /// The words of the option's data before the tag: the second half of the first, and the second.
    #[inline(always)] // built in registers
    const fn words(&self) -> [u64; 2] {
        let named = self.node.swap_bytes() as u64 | (self.kind.number() as u64) << 16 | (self.key_epoch as u64) << 24;
        [named << 32, self.time.0.swap_bytes() as u64 | (self.argument.swap_bytes() as u64) << 32]
    }
}

/// What the tunnel must know of the packet inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// IPv6, else IPv4.
    pub v6: bool,
    /// Length of the IP packet in bytes.
    pub length: u16,
    /// Traffic class.
    pub class: u8,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// The first eight bytes of the IP payload: of a whole datagram the UDP header.
    pub start: u64,
    /// Sum of the IP header for the outer checksum; 0 for IPv4, whose header sums to nothing.
    pub header_sum: u64,
}

impl Inner {
    /// Reads what is needed of the packet `ip`.
    #[inline(always)] // loads from the packet
    pub fn read<R: Reader>(r: &R, ip: &Ip) -> Option<Self> {
        let first = r.word(ip.start)?;
        let mut header_sum = 0;
        let class = if ip.v6 {
            for part in 0..5 {
                header_sum += checksum::word(r.word(ip.start + 8 * part)?);
            }
            ((first as u16).swap_bytes() >> 4) as u8
        } else {
            (first >> 8) as u8
        };
        Some(Self {
            v6: ip.v6,
            length: ip.length() as u16,
            class,
            source: ip.source(r)?,
            destination: ip.destination(r)?,
            start: r.word(ip.payload)?,
            header_sum,
        })
    }

    /// The tag of this packet under `key`, with what the option says of it. Of the IP payload it covers the first eight
    /// bytes, whatever the protocol.
    #[inline(always)] // the hash stays in registers
    #[must_use]
    pub fn tag(&self, key: [u64; 2], head: &Head) -> u64 {
        let mut hash = SipHash::new(key);
        let named = u64::from(head.node) | (u64::from(head.key_epoch) << 16) | (u64::from(head.kind.number()) << 24);
        hash.put(named | (u64::from(self.length) << 32));
        hash.put(u64::from(head.time.0) | (u64::from(head.argument) << 32));
        for Address([a, b, c, d]) in [self.source, self.destination] {
            hash.put(u64::from(a) | (u64::from(b) << 32));
            hash.put(u64::from(c) | (u64::from(d) << 32));
        }
        hash.put(self.start);
        hash.finish(56)
    }

    /// A source port from the dynamic range that spreads flows over queues and paths (RFC 8926 §3.3).
    #[inline(always)] // a few instructions
    #[must_use]
    const fn source_port(&self) -> u16 {
        let Address([a, b, c, d]) = self.source;
        let mixed = (a ^ b ^ c ^ d ^ self.start as u32).wrapping_mul(GOLDEN_32);
        0xc000 | (mixed >> 16) as u16
    }

    /// Sum of all its bytes, given that its own checksums are right (as in the kernel's local checksum offload).
    #[inline(always)] // a few instructions
    const fn sum(&self) -> u64 {
        let Address([a, b, c, d]) = self.source;
        let Address([e, f, g, h]) = self.destination;
        // The mapped form of IPv4 adds one 0xffff a side, which a sum does not feel.
        let addresses = a as u64 + b as u64 + c as u64 + d as u64 + e as u64 + f as u64 + g as u64 + h as u64;
        let length = (self.start >> 32) & 0xffff;
        let pseudo = addresses + length + (IpProtocol::UDP.0 as u64) * 256;
        checksum::fold(pseudo) as u64 + self.header_sum
    }
}

/// Who sends, and with what.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    /// What the option says.
    pub head: Head,
    /// The cluster's network identifier, 24 bits.
    pub vni: u32,
    /// The tag key of the head's epoch.
    pub key: [u64; 2],
}

/// Outer Ethernet, IP, UDP and Geneve headers; `I` is the IP header.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed)]
pub struct Headers<I> {
    destination_mac: [u8; 6],
    source_mac: [u8; 6],
    ether_type: [u8; 2],
    ip: I,
    tunnel: [u64; 5],
}

/// An outer IP header.
pub trait OuterIp: Sized {
    /// Its length in bytes.
    const LENGTH: usize = size_of::<Self>();
    /// Its Ethernet protocol number.
    const ETHER_TYPE: EtherType;
    /// Whether the UDP checksum must be there (RFC 8200 §8.1).
    const CHECKSUM: bool;

    /// The header of a packet of `payload` bytes to `peer`.
    fn new(peer: &Peer, payload: u16, class: u8) -> Self;
}

/// An outer IPv4 header.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct OuterV4(pub [u32; 5]);

/// An outer IPv6 header.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct OuterV6(pub [u32; 10]);

impl OuterIp for OuterV4 {
    const ETHER_TYPE: EtherType = EtherType::IPV4;
    const CHECKSUM: bool = false;

    #[inline(always)] // built in registers
    fn new(peer: &Peer, payload: u16, class: u8) -> Self {
        let total = (payload + net::IPV4 as u16).swap_bytes();
        let Address([_, _, _, source]) = peer.source;
        let Address([_, _, _, destination]) = peer.address;
        let first = 0x45 | (u32::from(class) << 8) | (u32::from(total) << 16);
        // Not to be fragmented; an identification is not needed then (RFC 6864 §4).
        let second = u32::from_le_bytes([0, 0, 0x40, 0]);
        let third = u32::from_le_bytes([HOP_LIMIT, IpProtocol::UDP.0, 0, 0]);
        let sum = [first, second, third, source, destination].iter().fold(0, |sum, part| sum + u64::from(*part));
        Self([first, second, third | (u32::from(checksum::fold(sum)) << 16), source, destination])
    }
}

impl OuterIp for OuterV6 {
    const ETHER_TYPE: EtherType = EtherType::IPV6;
    const CHECKSUM: bool = true;

    #[inline(always)] // built in registers
    fn new(peer: &Peer, payload: u16, class: u8) -> Self {
        let first = (0x6000_0000 | (u32::from(class) << 20)).swap_bytes();
        let second =
            u32::from(payload.swap_bytes()) | (u32::from(IpProtocol::UDP.0) << 16) | (u32::from(HOP_LIMIT) << 24);
        let Address([a, b, c, d]) = peer.source;
        let Address([e, f, g, h]) = peer.address;
        Self([first, second, a, b, c, d, e, f, g, h])
    }
}

impl<I: OuterIp> Headers<I> {
    /// Length in bytes.
    pub const LENGTH: usize = size_of::<Self>();

    /// The headers that carry `inner` from `sender` to `peer`. The length must fit the peer's MTU.
    #[inline(always)] // built on the stack of the one function that stores it
    pub fn new(peer: &Peer, sender: &Sender, inner: &Inner) -> Self {
        let length = inner.length.wrapping_add(TUNNEL as u16);
        // The lower two bits are ECN: the tunnel takes no part in it.
        let ip = I::new(peer, length, inner.class & 0xfc);
        let ports = u64::from(inner.source_port().swap_bytes()) | (u64::from(PORT.swap_bytes()) << 16);
        let [geneve, option, time, tag] = header(sender, inner);
        let mut tunnel = [ports | (u64::from(length.swap_bytes()) << 32), geneve, option, time, tag];
        // A fragment's bytes have no sum that could be known from its header (RFC 6935 allows none at all).
        if I::CHECKSUM && inner.start >> 48 != 0 && !matches!(sender.head.kind, Kind::Reassemble) {
            tunnel[0] |= u64::from(outer_checksum(peer, inner, &tunnel, length)) << 48;
        }
        Self {
            destination_mac: peer.destination_mac,
            source_mac: peer.source_mac,
            ether_type: I::ETHER_TYPE.0.to_be_bytes(),
            ip,
            tunnel,
        }
    }

    /// The bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8] {
        // SAFETY: a packed struct of integers has no padding, and a byte slice asks for no alignment.
        unsafe { core::slice::from_raw_parts((&raw const *self).cast::<u8>(), size_of::<Self>()) }
    }
}

/// Geneve header and option, as four words: what a socket sends before the packet.
#[inline(always)] // built in registers
#[must_use]
pub fn header(sender: &Sender, inner: &Inner) -> [u64; 4] {
    let protocol = if inner.v6 { EtherType::IPV6 } else { EtherType::IPV4 };
    let vni = u64::from((sender.vni << 8).swap_bytes());
    let [named, time] = sender.head.words();
    let geneve = START | (u64::from(protocol.0.swap_bytes()) << 16) | (vni << 32);
    [geneve, OPTION | named, time, inner.tag(sender.key, &sender.head)]
}

/// UDP checksum of the outer packet; where the inner packet has none (IPv4), neither has the tunnel (RFC 6935).
#[inline(always)] // once per packet over IPv6
fn outer_checksum(peer: &Peer, inner: &Inner, tunnel: &[u64; 5], length: u16) -> u16 {
    let Address([a, b, c, d]) = peer.source;
    let Address([e, f, g, h]) = peer.address;
    let mut sum = inner.sum() + u64::from(length.swap_bytes()) + u64::from(IpProtocol::UDP.0) * 256;
    for part in [a, b, c, d, e, f, g, h] {
        sum += u64::from(part);
    }
    for part in tunnel {
        sum += checksum::word(*part);
    }
    let checksum = checksum::fold(sum);
    if checksum == 0 { 0xffff } else { checksum }
}

/// What a tunnel header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Protocol of the packet inside.
    pub protocol: EtherType,
    /// Network identifier.
    pub vni: u32,
    /// What the option says.
    pub head: Head,
    /// The tag.
    pub tag: u64,
}

/// Reads the Geneve header and option at `at`; `None` if it is not of the form that this version sends.
#[inline(always)] // loads from the packet
pub fn receive<R: Reader>(r: &R, at: usize) -> Option<Received> {
    let geneve = r.word(at)?;
    let option = r.word(at + 8)?;
    let time = r.word(at + 16)?;
    let tag = r.word(at + 24)?;
    if geneve & 0xffff != START || option & 0xffff_ffff != OPTION || geneve >> 56 != 0 {
        return None;
    }
    Some(Received {
        protocol: EtherType(((geneve >> 16) as u16).swap_bytes()),
        vni: ((geneve >> 32) as u32).swap_bytes() >> 8,
        head: Head {
            node: ((option >> 32) as u16).swap_bytes(),
            kind: Kind::new((option >> 48) as u8)?,
            key_epoch: (option >> 56) as u8,
            time: Time((time as u32).swap_bytes()),
            argument: ((time >> 32) as u32).swap_bytes(),
        },
        tag,
    })
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    use crate::{abi::Served, clock::Clock};

    const HEAD: Head =
        Head { node: 513, kind: Kind::Relay, key_epoch: 1, time: Time(0x0102_0304), argument: 0x0506_0708 };

    /// The plain checksum of RFC 1071 over bytes.
    fn sum(bytes: &[u8]) -> u64 {
        bytes.chunks(2).map(|pair| u64::from(u16::from_le_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))).sum()
    }

    fn pseudo(source: &[u8], destination: &[u8], udp: &[u8]) -> u64 {
        sum(source) + sum(destination) + u64::from((udp.len() as u16).to_be()) + 17 * 256 + sum(udp)
    }

    /// A UDP packet with right checksums.
    fn packet(v6: bool, source: [u8; 16], text: &[u8]) -> Vec<u8> {
        let mut udp = Vec::from([0x13, 0xc4, 0x13, 0xc4]);
        udp.extend(((text.len() + 8) as u16).to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(text);
        let width = if v6 { 16 } else { 4 };
        let destination = [7_u8; 16];
        let check = checksum::fold(pseudo(&source[..width], &destination[..width], &udp));
        let check = if check == 0 { 0xffff } else { check };
        udp[6..8].copy_from_slice(&check.to_le_bytes());
        let mut packet = Vec::new();
        if v6 {
            packet.extend([0x6b, 0x80, 0, 1]);
            packet.extend((udp.len() as u16).to_be_bytes());
            packet.extend([17, 60]);
        } else {
            packet.extend([0x45, 0xb8]);
            packet.extend((20 + udp.len() as u16).to_be_bytes());
            packet.extend([0, 1, 0x40, 0, 60, 17, 0, 0]);
        }
        packet.extend(&source[..width]);
        packet.extend(&destination[..width]);
        if !v6 {
            let check = checksum::fold(sum(&packet));
            packet[10..12].copy_from_slice(&check.to_le_bytes());
        }
        packet.extend(udp);
        packet
    }

    fn peer(v6: bool) -> Peer {
        let (address, source) = if v6 {
            (Address::v6([0xfd, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]), Address::v6([0xfd; 16]))
        } else {
            (Address::v4([10, 9, 3, 2]), Address::v4([10, 9, 2, 2]))
        };
        Peer {
            address,
            source,
            ifindex: 3,
            mtu: 1500,
            destination_mac: [2; 6],
            source_mac: [4; 6],
            clock: Clock::UNKNOWN,
            served: Served::ALL,
        }
    }

    fn encapsulated<I: OuterIp>(peer: &Peer, inner: &[u8]) -> Vec<u8> {
        let ether_type = if inner[0] >> 4 == 6 { EtherType::IPV6 } else { EtherType::IPV4 };
        let ip = net::ip(&inner, 0, ether_type).unwrap();
        let sender = Sender { head: HEAD, vni: 0x00ab_cdef, key: [5, 6] };
        let headers = Headers::<I>::new(peer, &sender, &Inner::read(&inner, &ip).unwrap());
        let mut frame = Vec::from(headers.bytes());
        frame.extend(inner);
        frame
    }

    proptest! {
        #[test]
        fn what_is_sent_is_received_with_right_checksums(
            v6: bool, outer_v6: bool, source: [u8; 16], text in vec(any::<u8>(), 0..600),
        ) {
            let inner = packet(v6, source, &text);
            let peer = peer(outer_v6);
            let frame = if outer_v6 {
                encapsulated::<OuterV6>(&peer, &inner)
            } else {
                encapsulated::<OuterV4>(&peer, &inner)
            };
            let r = &frame[..];
            let ip = net::frame(&r).unwrap();
            prop_assert_eq!((ip.v6, ip.end), (outer_v6, frame.len()));
            prop_assert_eq!((ip.source(&r).unwrap(), ip.destination(&r).unwrap()), (peer.source, peer.address));
            let udp = ip.udp(&r).unwrap();
            prop_assert_eq!((udp.destination, udp.length), (PORT, frame.len() - ip.payload));
            let got = receive(&r, ip.payload + 8).unwrap();
            prop_assert_eq!((got.vni, got.head), (0x00ab_cdef, HEAD));
            let start = ip.payload + TUNNEL;
            prop_assert_eq!(&frame[start..], &inner[..]);
            let inside = net::ip(&r, start, got.protocol).unwrap();
            prop_assert_eq!(Inner::read(&r, &inside).unwrap().tag([5, 6], &HEAD), got.tag);
            if outer_v6 {
                let total = pseudo(&frame[22..38], &frame[38..54], &frame[54..]);
                prop_assert_eq!(checksum::fold(total), 0, "UDP checksum");
            } else {
                prop_assert_eq!(checksum::fold(sum(&frame[14..34])), 0, "IPv4 header checksum");
                prop_assert_eq!(&frame[40..42], &[0, 0]);
            }
        }

        #[test]
        fn any_changed_bit_of_addresses_ports_or_length_changes_the_tag(v6: bool, bit in 0..320_usize) {
            let inner = packet(v6, [9; 16], b"text");
            let (from, bits) = if v6 { (8, 256 + 64) } else { (12, 64 + 64) };
            let mut changed = inner.clone();
            let bit = bit % bits;
            changed[from + bit / 8] ^= 1 << (bit % 8);
            let tag = |bytes: &[u8]| {
                let kind = if v6 { EtherType::IPV6 } else { EtherType::IPV4 };
                let ip = net::ip(&bytes, 0, kind).unwrap();
                Inner::read(&bytes, &ip).unwrap().tag([5, 6], &HEAD)
            };
            prop_assert_ne!(tag(&inner), tag(&changed));
        }
    }

    #[test]
    fn other_forms_of_geneve_are_refused() {
        let frame = encapsulated::<OuterV4>(&peer(false), &packet(false, [1; 16], b"x"));
        // Version and length of the options, critical, the last byte of the header, class, type (1 is that of version
        // 1), length, kind.
        let bad = [(42, 4), (42, 7), (43, 0), (49, 1), (50, 0), (51, 0), (52, 0x81), (52, 0x83), (53, 3), (53, 6)];
        let kinds = (7..=u8::MAX).map(|kind| (56, kind));
        for (at, value) in bad.into_iter().chain(kinds) {
            let mut bad = frame.clone();
            bad[at] = value;
            assert_eq!(receive(&&bad[..], 42), None, "{value} at byte {at}");
        }
        for cut in 0..74 {
            assert!(receive(&&frame[..cut], 42).is_none() || cut > 66, "cut at {cut}");
        }
    }
    #[test]
    fn the_option_lies_where_the_documents_say() {
        let head = Head { kind: Kind::Reassemble, ..HEAD };
        let inner = packet(false, [1; 16], b"x");
        let ip = net::ip(&&inner[..], 0, EtherType::IPV4).unwrap();
        let sender = Sender { head, vni: 0x00ab_cdef, key: [5, 6] };
        let [geneve, option, time, tag] =
            header(&sender, &Inner::read(&&inner[..], &ip).unwrap()).map(u64::to_le_bytes);
        assert_eq!(geneve, [6, 0x40, 0x08, 0x00, 0xab, 0xcd, 0xef, 0]);
        assert_eq!(option, [0xff, 0x51, 0x82, 5, 2, 1, 1, 1]);
        assert_eq!(time, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_ne!(tag, [0; 8]);
        assert_eq!(TUNNEL, 40);
    }

    #[test]
    fn whatever_the_option_says_is_in_the_tag() {
        let inner = packet(false, [1; 16], b"x");
        let ip = net::ip(&&inner[..], 0, EtherType::IPV4).unwrap();
        let inner = Inner::read(&&inner[..], &ip).unwrap();
        let changed = [
            Head { node: 514, ..HEAD },
            Head { kind: Kind::Data, ..HEAD },
            Head { key_epoch: 0, ..HEAD },
            Head { time: Time(0), ..HEAD },
            Head { argument: 0, ..HEAD },
        ];
        for head in changed {
            assert_ne!(inner.tag([5, 6], &head), inner.tag([5, 6], &HEAD), "{head:?}");
        }
    }

    #[test]
    fn kinds_have_the_numbers_that_they_always_had() {
        for (kind, number) in [(Kind::Data, 0), (Kind::Reassemble, 1), (Kind::Local, 2), (Kind::Relay, 3)] {
            assert_eq!((kind.number(), Kind::new(number)), (number, Some(kind)));
        }
    }
}
