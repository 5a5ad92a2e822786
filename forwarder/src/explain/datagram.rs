//! Finds the UDP datagram of a captured frame, whatever is around it: link layers, fragments, the cluster's tunnel.

use std::borrow::Cow;

use etherparse::{
    IpNumber, IpSlice, Ipv6ExtensionsSlice, SlicedPacket,
    defrag::{IpDefragPayloadVec, IpDefragPool},
};
use forwarder_common::{
    geneve::{self, Kind},
    ids::{EtherType, IpProtocol},
    net::{self, ETHERNET, Ip, UDP},
    outcome::Outcome,
    reader::Reader as _,
};
use pcap_parser::Linktype;

use super::{
    capture::Packet,
    link::{self, Inside, be16},
};

/// Packets in packets that are opened: one more than what the tunnel makes, an edge behind another Geneve network.
const TUNNELS_MAX: usize = 3;
/// How long a datagram may stay incomplete, in frames of the capture. This bounds the memory to 256 MB.
const FRAMES_MAX: u64 = 4096;

/// What a frame holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// A whole UDP datagram.
    Datagram(Datagram<'a>),
    /// UDP, or a frame that is not read: why, and what is around it.
    Unreadable(String, Around),
    /// No UDP, and nothing that could hide it: its protocol.
    Other(String),
}

/// A whole UDP datagram.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Datagram<'a> {
    /// Its payload.
    pub(super) payload: Cow<'a, [u8]>,
    /// What is around it.
    pub(super) around: Around,
    /// The IP packet that it is in, unless it came in fragments.
    pub(super) packet: Option<&'a [u8]>,
}

/// What the datagram is in, but for one Ethernet header with up to two VLAN tags and IP.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Around {
    /// From outside in.
    pub(super) names: Vec<String>,
    /// It is in a tunnel packet.
    pub(super) is_tunnelled: bool,
    /// What the kernel programs make of this frame before they come to the payload; `None`: they read it.
    pub(super) outcome: Option<Outcome>,
}

/// Opens one frame after the other; fragments wait for the others of their datagram.
pub(super) struct Opener {
    /// By the layers that they came in.
    fragments: IpDefragPool<u64, Vec<String>>,
}

/// Where in a capture.
#[derive(Clone, Copy)]
struct At {
    frame: u64,
    snapped: bool,
}

impl Opener {
    pub(super) fn new() -> Self {
        Self { fragments: IpDefragPool::new() }
    }

    /// Looks into a frame.
    pub(super) fn open<'a>(&mut self, packet: &Packet<'a>) -> Found<'a> {
        if packet.frame.is_multiple_of(FRAMES_MAX / 8) {
            self.fragments.retain(|frame| *frame + FRAMES_MAX > packet.frame);
        }
        let is_ethernet = packet.link == Linktype::ETHERNET;
        let read = if is_ethernet { net::frame(&packet.bytes) } else { None };
        let outcome = if is_ethernet { outcome(read) } else { None };
        match link::strip(packet.link, packet.bytes) {
            Inside::Ip(at, names) => {
                let names = if read.is_some() { &[][..] } else { &names };
                let around =
                    Around { names: names.iter().map(ToString::to_string).collect(), outcome, ..Around::default() };
                let place = At { frame: packet.frame, snapped: packet.snapped };
                self.ip(packet.bytes.get(at..).unwrap_or_default(), around, place, 0)
            }
            Inside::Other(name) => Found::Other(name.to_owned()),
            Inside::Unread(why) => {
                Found::Unreadable(format!("not read: {why}"), Around { outcome, ..Around::default() })
            }
        }
    }

    /// Looks into an IP packet, behind which padding may follow.
    fn ip<'a>(&mut self, bytes: &'a [u8], mut around: Around, place: At, depth: usize) -> Found<'a> {
        let unreadable = |why: &str, around| Found::Unreadable(why.to_owned(), around);
        let Some(ip) = net::packet(&bytes) else { return unreadable("malformed", around) };
        let named = upper_protocol(&ip, bytes);
        let Some(packet) = bytes.get(..ip.end) else {
            let may_be_udp = named == IpProtocol::UDP || ip.extended();
            let why = if place.snapped { "snapped" } else { "malformed" };
            return if may_be_udp { unreadable(why, around) } else { other(named) };
        };
        let Ok(slice) = IpSlice::from_slice(packet) else {
            let why = if ip.extended() { "extension-header" } else { "malformed" };
            return if named == IpProtocol::UDP || ip.extended() { unreadable(why, around) } else { other(named) };
        };
        let payload = slice.payload();
        if payload.ip_number != IpNumber::UDP && !(payload.fragmented && may_hide_udp(payload.ip_number)) {
            return other(IpProtocol(payload.ip_number.0));
        }
        if !payload.fragmented {
            if ip.extended() || ip.protocol != IpProtocol::UDP {
                around.names.push("extension headers".to_owned());
            }
            return self.udp(Cow::Borrowed(payload.payload), Some(packet), around, place, depth);
        }
        let whole = SlicedPacket::from_ip(packet).ok().and_then(|sliced| {
            self.fragments.process_sliced_packet(&sliced, place.frame, around.names.clone()).ok().flatten()
        });
        let Some(whole) = whole else { return unreadable("fragment", around) };
        around.names.push("fragments".to_owned());
        match behind_extensions(whole) {
            Some(payload) => self.udp(Cow::Owned(payload), None, around, place, depth),
            None => unreadable("extension-header", around),
        }
    }

    /// Looks into a UDP datagram, from its header on.
    fn udp<'a>(
        &mut self,
        datagram: Cow<'a, [u8]>,
        packet: Option<&'a [u8]>,
        around: Around,
        place: At,
        depth: usize,
    ) -> Found<'a> {
        let (port, length) = (be16(&datagram, 2), be16(&datagram, 4).map(usize::from));
        // The kernel does not trust either length alone.
        let Some(length) = length.filter(|length| (UDP..=datagram.len()).contains(length)) else {
            return Found::Unreadable("malformed".to_owned(), around);
        };
        let payload = match datagram {
            Cow::Borrowed(bytes) => Cow::Borrowed(bytes.get(UDP..length).unwrap_or_default()),
            Cow::Owned(mut bytes) => {
                bytes.truncate(length);
                Cow::Owned(bytes.split_off(UDP))
            }
        };
        if port != Some(geneve::PORT) || depth == TUNNELS_MAX {
            return Found::Datagram(Datagram { payload, around, packet });
        }
        match payload {
            Cow::Borrowed(bytes) => self.tunnel(bytes, around, place, depth),
            Cow::Owned(bytes) => owned(self.tunnel(&bytes, around, place, depth)),
        }
    }

    /// Looks into a tunnel packet, the cluster's or another Geneve packet (RFC 8926 §3.4).
    fn tunnel<'a>(&mut self, geneve: &'a [u8], mut around: Around, place: At, depth: usize) -> Found<'a> {
        let Some((start, protocol)) = geneve.first().zip(be16(geneve, 2)) else {
            return Found::Unreadable("malformed".to_owned(), around);
        };
        let inside = geneve.get(8 + usize::from(start & 0x3f) * 4..).unwrap_or_default();
        (around.outcome, around.is_tunnelled) = (None, true);
        let ours = geneve::receive(&geneve, 0);
        around.names.push(match ours {
            Some(received) => format!("Geneve of node {}, {}", received.head.node, word(received.head.kind)),
            None => "Geneve".to_owned(),
        });
        match ours.map(|received| received.head.kind) {
            Some(Kind::Ask | Kind::Probe) => return Found::Unreadable("question".to_owned(), around),
            Some(Kind::Answer) => return Found::Unreadable("answer".to_owned(), around),
            Some(Kind::Data | Kind::Reassemble | Kind::Local | Kind::Relay) | None => {}
        }
        if start >> 6 != 0 {
            return Found::Unreadable(format!("not read: Geneve version {}", start >> 6), around);
        }
        match EtherType(protocol) {
            EtherType::IPV4 | EtherType::IPV6 => self.ip(inside, around, place, depth + 1),
            // Ethernet in Geneve, as virtual networks have it.
            EtherType(0x6558) => match link::strip(Linktype::ETHERNET, inside) {
                Inside::Ip(at, names) => {
                    around.names.extend(names.into_iter().map(str::to_owned));
                    self.ip(inside.get(at..).unwrap_or_default(), around, place, depth + 1)
                }
                Inside::Other(name) => Found::Other(name.to_owned()),
                Inside::Unread(why) => Found::Unreadable(format!("not read: {why}"), around),
            },
            EtherType(other) => Found::Unreadable(format!("not read: Ethernet type {other:#06x}"), around),
        }
    }
}

/// What the kernel programs make of a frame in which they find this, if they do not come to a payload.
fn outcome(read: Option<Ip>) -> Option<Outcome> {
    match read {
        None => Some(Outcome::NotService),
        Some(ip) if ip.fragment => Some(Outcome::Fragment),
        Some(ip) if ip.extended() => Some(Outcome::ExtensionHeader),
        Some(ip) => (ip.protocol != IpProtocol::UDP).then_some(Outcome::NotService),
    }
}

/// What a tunnel packet of this kind carries.
const fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Data => "to the owner",
        Kind::Reassemble => "to reassemble",
        Kind::Local => "to its own stack",
        Kind::Relay => "relayed",
        Kind::Ask => "asks for a claim",
        Kind::Probe => "asks whether it is there",
        Kind::Answer => "answers",
    }
}

/// The protocol above IP; of an IPv6 fragment, what its fragment header names.
fn upper_protocol(ip: &Ip, packet: &[u8]) -> IpProtocol {
    let named = if ip.v6 && ip.fragment { packet.byte(ip.start + net::IPV6) } else { None };
    named.map_or(ip.protocol, IpProtocol)
}

/// Whether UDP may be behind it: of the extension headers, all but that of ESP, which nobody else can open.
fn may_hide_udp(number: IpNumber) -> bool {
    number.is_ipv6_ext_header_value() && number != IpNumber::ENCAPSULATING_SECURITY_PAYLOAD
}

/// The UDP datagram of a packet that came in fragments, which may begin with extension headers. `None`: another one.
fn behind_extensions(whole: IpDefragPayloadVec) -> Option<Vec<u8>> {
    if whole.ip_number == IpNumber::UDP {
        return Some(whole.payload);
    }
    let (_, number, rest) = Ipv6ExtensionsSlice::from_slice(whole.ip_number, &whole.payload).ok()?;
    (number == IpNumber::UDP).then(|| rest.to_vec())
}

fn other<'a>(protocol: IpProtocol) -> Found<'a> {
    let name = match protocol.0 {
        1 => "ICMP",
        6 => "TCP",
        50 => "ESP",
        58 => "ICMPv6",
        132 => "SCTP",
        number => return Found::Other(format!("IP protocol {number}")),
    };
    Found::Other(name.to_owned())
}

/// The same, without what it borrows.
fn owned<'a>(found: Found<'_>) -> Found<'a> {
    match found {
        Found::Datagram(Datagram { payload, around, .. }) => {
            Found::Datagram(Datagram { payload: Cow::Owned(payload.into_owned()), around, packet: None })
        }
        Found::Unreadable(why, around) => Found::Unreadable(why, around),
        Found::Other(name) => Found::Other(name),
    }
}

/// An Ethernet frame around a bare IP packet, for who wants one.
pub(super) fn frame(packet: &[u8]) -> Vec<u8> {
    let v6 = packet.first().is_some_and(|first| first >> 4 == 6);
    let EtherType(ether_type) = if v6 { EtherType::IPV6 } else { EtherType::IPV4 };
    let mut frame = Vec::with_capacity(ETHERNET + packet.len());
    frame.extend([0; 12]);
    frame.extend(ether_type.to_be_bytes());
    frame.extend(packet);
    frame
}
