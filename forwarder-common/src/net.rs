//! Ethernet, VLAN tags, IPv4, IPv6 and UDP: where a datagram lies in a frame. One path for both families.

use crate::{
    abi::Address,
    hash,
    ids::{EtherType, IpProtocol},
    reader::Reader,
};

/// Length of an Ethernet header without tags.
pub const ETHERNET: usize = 14;
/// Length of a VLAN tag.
pub const VLAN: usize = 4;
/// Length of an IPv4 header without options.
pub const IPV4: usize = 20;
/// Length of an IPv6 header.
pub const IPV6: usize = 40;
/// Length of a UDP header.
pub const UDP: usize = 8;
/// Length of an IPv6 fragment header.
pub const FRAGMENT: usize = 8;

/// An IP packet in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Where its header begins.
    pub start: usize,
    /// Where its payload begins.
    pub payload: usize,
    /// Where it ends by its own account; padding may follow.
    pub end: usize,
    /// IPv6, else IPv4.
    pub v6: bool,
    /// Protocol of the payload: for IPv6 the first next header.
    pub protocol: IpProtocol,
    /// It is a fragment of an IPv4 packet.
    pub fragment: bool,
}

/// A UDP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Udp {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Length with the header, by its own account.
    pub length: usize,
}

/// The IP packet in the Ethernet frame behind `r`, with up to two VLAN tags. `None`: no IP, or no whole header.
#[inline(always)] // the offsets become constants in the kernel
pub fn frame<R: Reader>(r: &R) -> Option<Ip> {
    let mut at = ETHERNET;
    let mut ether_type = EtherType(r.be16(12)?);
    for _ in 0..2 {
        if ether_type == EtherType::VLAN || ether_type == EtherType::VLAN_OUTER {
            ether_type = EtherType(r.be16(at + 2)?);
            at += VLAN;
        }
    }
    ip(r, at, ether_type)
}

/// The IP packet that begins where the reader does, without a frame around it, by the version that it says.
pub fn packet<R: Reader>(r: &R) -> Option<Ip> {
    ip(r, 0, EtherType::IPV4).or_else(|| ip(r, 0, EtherType::IPV6))
}

/// The IP packet at `at`.
#[inline(always)] // as above
pub fn ip<R: Reader>(r: &R, at: usize, ether_type: EtherType) -> Option<Ip> {
    if ether_type == EtherType::IPV4 {
        let w = r.word(at)?;
        let header = usize::from(w as u8 & 0xf) * 4;
        if w as u8 >> 4 != 4 || header < IPV4 {
            return None;
        }
        let total = usize::from(((w >> 16) as u16).swap_bytes());
        // More fragments, or an offset (RFC 791 §3.1).
        let fragment = ((w >> 48) as u16).swap_bytes() & 0x3fff != 0;
        let protocol = IpProtocol(r.byte(at + 9)?);
        return Some(Ip { start: at, payload: at + header, end: at + total, v6: false, protocol, fragment });
    }
    if ether_type == EtherType::IPV6 {
        let w = r.word(at)?;
        if w as u8 >> 4 != 6 {
            return None;
        }
        let length = usize::from(((w >> 32) as u16).swap_bytes());
        let protocol = IpProtocol((w >> 48) as u8);
        return Some(Ip {
            start: at,
            payload: at + IPV6,
            end: at + IPV6 + length,
            v6: true,
            protocol,
            fragment: protocol == IpProtocol::FRAGMENT,
        });
    }
    None
}

impl Ip {
    /// Its length in bytes, by its own account.
    #[must_use]
    #[inline(always)] // one instruction
    pub const fn length(&self) -> usize {
        self.end.wrapping_sub(self.start)
    }

    /// The source address.
    #[inline(always)] // loads at constant offsets
    pub fn source<R: Reader>(&self, r: &R) -> Option<Address> {
        address(r, self.start + if self.v6 { 8 } else { 12 }, self.v6)
    }

    /// The destination address.
    #[inline(always)] // as above
    pub fn destination<R: Reader>(&self, r: &R) -> Option<Address> {
        address(r, self.start + if self.v6 { 24 } else { 16 }, self.v6)
    }

    /// The UDP header of an unfragmented UDP packet, if it is whole.
    #[inline(always)] // as above
    pub fn udp<R: Reader>(&self, r: &R) -> Option<Udp> {
        if self.protocol != IpProtocol::UDP || self.fragment {
            return None;
        }
        self.ports(r)
    }

    /// Where the UDP header of a datagram's first fragment begins; `None` for other fragments and protocols.
    #[inline(always)] // as above
    pub fn first_fragment<R: Reader>(&self, r: &R) -> Option<usize> {
        if !self.fragment {
            return None;
        }
        if self.v6 {
            // Next header, and an offset of zero (RFC 8200 §4.5); the lower three bits are flags.
            let w = r.word(self.payload)?;
            let offset = ((w >> 16) as u16).swap_bytes() & 0xfff8;
            return (w as u8 == IpProtocol::UDP.0 && offset == 0).then_some(self.payload + FRAGMENT);
        }
        let offset = r.be16(self.start + 6)? & 0x1fff;
        (self.protocol == IpProtocol::UDP && offset == 0).then_some(self.payload)
    }

    /// The slot of [`crate::abi::DATAGRAM_SLOTS`] that all fragments of this fragment's datagram share, on every node.
    #[inline(always)] // as above
    pub fn datagram_slot<R: Reader>(&self, r: &R) -> Option<u32> {
        // In IPv6 the protocol behind the fragment header may differ between fragments (RFC 8200 §4.5): it is left out.
        let id = if self.v6 { (r.word(self.payload)? >> 32) as u32 } else { r.word(self.start + 4)? as u32 & 0xffff };
        Some(datagram_slot(self.source(r)?, self.destination(r)?, self.protocol.0, id))
    }

    /// A number that the fragments of one datagram of this host share, and those of others most likely do not.
    #[inline(always)] // as above
    pub fn datagram<R: Reader>(&self, r: &R) -> Option<u64> {
        let id = if self.v6 { r.word(self.payload)? >> 32 } else { r.word(self.start + 4)? & 0xffff };
        let Address([a, b, c, d]) = self.destination(r)?;
        let destination = u64::from(a ^ c.rotate_left(16)) << 32 | u64::from(b.rotate_left(16) ^ d);
        // Never zero, which stands for none.
        Some((destination.wrapping_mul(hash::GOLDEN) ^ id) | 1 << 63)
    }

    /// What a UDP header at the payload's start would say.
    #[inline(always)] // as above
    pub fn ports<R: Reader>(&self, r: &R) -> Option<Udp> {
        let w = r.word(self.payload)?;
        let part = |shift: u32| ((w >> shift) as u16).swap_bytes();
        Some(Udp { source: part(0), destination: part(16), length: usize::from(part(32)) })
    }

    /// What an Ethernet header in front of it says.
    #[must_use]
    #[inline(always)] // one choice
    pub const fn ether_type(&self) -> EtherType {
        if self.v6 { EtherType::IPV6 } else { EtherType::IPV4 }
    }

    /// Whether the packet hides its upper layer behind an extension header of IPv6 (RFC 8200 §4), or behind an
    /// authentication header (RFC 4302), which IPv4 has as well.
    #[must_use]
    #[inline(always)] // a few compares
    pub const fn extended(&self) -> bool {
        const AUTHENTICATION: u8 = 51;
        self.protocol.0 == AUTHENTICATION || self.v6 && matches!(self.protocol.0, 0 | 43 | 60 | 135 | 139 | 140)
    }
}

/// The slot of fragments by the fields that make a datagram (RFC 791 §3.2, RFC 8200 §4.5).
///
/// `protocol` is that of the IP header (44 for IPv6), `id` is as it lies in memory.
#[inline(always)] // a few instructions
#[must_use]
pub const fn datagram_slot(source: Address, destination: Address, protocol: u8, id: u32) -> u32 {
    let (Address([a, b, c, d]), Address([e, f, g, h])) = (source, destination);
    let mixed = a ^ b ^ c ^ d ^ e ^ f ^ g ^ h ^ id ^ ((protocol as u32) << 16);
    mixed.wrapping_mul(hash::GOLDEN_32) >> 22
}

#[inline(always)] // as above
fn address<R: Reader>(r: &R, at: usize, v6: bool) -> Option<Address> {
    let a = r.word(at)?;
    if !v6 {
        return Some(Address([0, 0, Address::MAPPED, a as u32]));
    }
    let b = r.word(at + 8)?;
    Some(Address([a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(options: usize) -> ([u8; 80], usize) {
        let mut packet = [0; 80];
        packet[0] = 0x45 + (options / 4) as u8;
        packet[3] = (IPV4 + options + UDP + 3) as u8;
        packet[9] = 17;
        packet[12..20].copy_from_slice(&[192, 0, 2, 1, 192, 0, 2, 10]);
        packet[20 + options..28 + options].copy_from_slice(&[0x13, 0xc4, 0x13, 0xc5, 0, 11, 0, 0]);
        (packet, IPV4 + options + UDP + 3)
    }

    #[test]
    fn tags_and_options_are_stepped_over() {
        for tags in 0..=2 {
            for options in [0, 4, 40] {
                let (packet, length) = v4(options);
                let mut bytes = [0_u8; 128];
                let mut at = 12;
                for tag in 0..tags {
                    bytes[at..at + 2].copy_from_slice(if tag == 0 && tags == 2 { &[0x88, 0xa8] } else { &[0x81, 0] });
                    at += VLAN;
                }
                bytes[at..at + 2].copy_from_slice(&[8, 0]);
                bytes[at + 2..at + 2 + 80].copy_from_slice(&packet);
                let r = &bytes[..at + 2 + length];
                let ip = frame(&r).unwrap();
                assert_eq!((ip.start, ip.length(), ip.payload), (at + 2, length, at + 2 + IPV4 + options));
                assert_eq!(ip.source(&r), Some(Address::v4([192, 0, 2, 1])));
                assert_eq!(ip.destination(&r), Some(Address::v4([192, 0, 2, 10])));
                assert_eq!(ip.udp(&r), Some(Udp { source: 5060, destination: 5061, length: 11 }));
            }
        }
    }

    #[test]
    fn fragments_and_extension_headers_are_no_datagrams() {
        let (mut packet, length) = v4(0);
        packet[6] = 0x20;
        let r = &packet[..length];
        let first = ip(&r, 0, EtherType::IPV4).unwrap();
        assert!(first.fragment && first.udp(&r).is_none());
        packet[6] = 0x40; // don't fragment
        let r = &packet[..length];
        assert!(!ip(&r, 0, EtherType::IPV4).unwrap().fragment);

        let mut six = [0_u8; 60];
        six[0] = 0x60;
        for (next, fragment, extended) in [(17, false, false), (44, true, false), (0, false, true), (60, false, true)] {
            six[6] = next;
            let r = &six[..];
            let ip = ip(&r, 0, EtherType::IPV6).unwrap();
            assert_eq!((ip.fragment, ip.extended()), (fragment, extended));
            assert_eq!(ip.udp(&r).is_some(), next == 17);
        }
    }

    #[test]
    fn what_is_cut_or_no_ip_is_none() {
        let (packet, length) = v4(0);
        for cut in 0..length {
            let r = &packet[..cut];
            let _ = ip(&r, 0, EtherType::IPV4).and_then(|ip| ip.udp(&r));
        }
        let r = &packet[..length];
        assert_eq!(ip(&r, 0, EtherType(0x0806)), None);
        assert_eq!(ip(&r, 0, EtherType::IPV6), None);
        assert_eq!(frame(&&[0_u8; 13][..]), None);
    }
}
