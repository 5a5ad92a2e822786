//! Finds the UDP datagram of an Ethernet frame, with the same reader as the kernel programs.

use std::ops::Range;

use forwarder_common::{
    ids::IpProtocol,
    net::{self, IPV6, Ip, UDP},
    reader::Reader as _,
};

/// What a frame holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A whole UDP datagram, with its payload's place in the frame.
    Datagram(Range<usize>),
    /// UDP, but unreadable: why.
    Unreadable(&'static str),
    /// No UDP over IP.
    Other,
}

/// Looks into a frame; `snapped` says that it was longer than what was captured.
pub(super) fn locate(frame: &[u8], snapped: bool) -> Found {
    let Some(ip) = net::frame(&frame) else { return Found::Other };
    if upper_protocol(&ip, frame) != Some(IpProtocol::UDP) {
        return if ip.extended() { Found::Unreadable("extension-header") } else { Found::Other };
    }
    if ip.fragment {
        return Found::Unreadable("fragment");
    }
    if ip.end > frame.len() {
        return Found::Unreadable(if snapped { "snapped" } else { "malformed" });
    }
    match ip.udp(&frame) {
        // The kernel does not trust either length alone.
        Some(udp) if udp.length >= UDP && ip.payload + udp.length <= ip.end => {
            Found::Datagram(ip.payload + UDP..ip.payload + udp.length)
        }
        _ => Found::Unreadable("malformed"),
    }
}

/// The protocol above IP; of an IPv6 fragment, what its fragment header names.
fn upper_protocol(ip: &Ip, frame: &[u8]) -> Option<IpProtocol> {
    if ip.v6 && ip.fragment { frame.byte(ip.start + IPV6).map(IpProtocol) } else { Some(ip.protocol) }
}
