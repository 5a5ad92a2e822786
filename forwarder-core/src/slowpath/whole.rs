//! One packet out of its fragments, and a packet that no tunnel packet can hold in two fragments.

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header, defrag::IpDefragBuf};

use forwarder_common::{geneve, net};

use super::packet::Packet;
use crate::fragments;

/// The longest packet that fits one tunnel packet over IPv4: 65,535 bytes less an IPv4 and a UDP header, the tunnel's
/// header and its option.
pub const LONGEST_IN_TUNNEL: usize = 65_535 - 20 - geneve::TUNNEL;

/// The data of fragments that came in the order of their offsets, joined. `None`: they do not fit together.
pub(super) fn join<'a>(length: usize, parts: impl Iterator<Item = (u16, bool, &'a [u8])>) -> Option<Vec<u8>> {
    let mut whole = IpDefragBuf::new(IpNumber::UDP, Vec::with_capacity(length), Vec::new());
    for (offset, more, data) in parts {
        whole.add(IpFragOffset::try_new(offset >> 3).ok()?, more, data).ok()?;
    }
    whole.is_complete().then(|| whole.take_bufs().0)
}

/// The packet whose first fragment is `first` and whose whole IP payload is `data`. `None`: too long for its header.
pub(super) fn packet(first: &Packet<'_>, data: &[u8]) -> Option<Vec<u8>> {
    let mut packet = Vec::with_capacity(first.ip.payload + data.len());
    if first.ip.v6 {
        let (mut header, rest) = Ipv6Header::from_slice(first.bytes).ok()?;
        // What follows is named by the fragment header of the first fragment (RFC 8200 §4.5).
        header.next_header = Ipv6FragmentHeader::from_slice(rest).ok()?.0.next_header;
        header.set_payload_length(data.len()).ok()?;
        packet.extend(header.to_bytes());
    } else {
        let (mut header, _) = Ipv4Header::from_slice(first.bytes).ok()?;
        header.more_fragments = false;
        header.fragment_offset = IpFragOffset::ZERO;
        header.set_payload_len(data.len()).ok()?;
        header.header_checksum = header.calc_header_checksum();
        packet.extend(header.to_bytes());
    }
    packet.extend(data);
    Some(packet)
}

/// The packet as two fragments of about the same size, each too long for one frame: they go from socket to socket.
pub(super) fn halves(packet: &Packet<'_>) -> Option<Vec<Vec<u8>>> {
    let half = (packet.ip.end.checked_sub(packet.ip.payload)? / 2).next_multiple_of(8);
    fragments::split(packet.bytes, packet.ip.payload + net::FRAGMENT + half).ok()
}
