//! For any bytes: looking for IP and a tunnel in them never panics, another library reads the same there, and what is
//! sent through the tunnel is what arrives.

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice};
use forwarder_common::{
    abi::{self, Address, Peer},
    checksum,
    clock::Time,
    geneve::{self, Head, Headers, Inner, Kind, OuterIp, OuterV4, OuterV6, Received, Sender},
    ids::EtherType,
    net::{self, Ip},
};

const KEY: [u64; 2] = [5, 6];

/// Looks for IP and a tunnel in `data`, and sends what there is through a tunnel.
///
/// # Panics
/// Another library reads it otherwise, or it arrives otherwise.
pub fn frames(data: &[u8]) {
    if let Some(received) = geneve::receive(&data, 0) {
        only_form(data, &received);
    }
    let Some(ip) = net::frame(&data) else { return };
    look(data, &ip);
    same_as_etherparse(data, &ip);
    // A packet that is whole, with a UDP header.
    if ip.payload + net::UDP <= ip.end && ip.end <= data.len() {
        through_tunnel::<OuterV4>(data, &ip);
        through_tunnel::<OuterV6>(data, &ip);
    }
}

/// All that is asked of a packet; only that it does not panic.
fn look(data: &[u8], ip: &Ip) {
    let _ = (ip.length(), ip.extended(), ip.udp(&data), ip.ports(&data), ip.first_fragment(&data));
    assert!(ip.datagram_slot(&data).is_none_or(|slot| slot < abi::DATAGRAM_SLOTS));
    let _ = geneve::receive(&data, ip.payload + net::UDP);
}

fn same_as_etherparse(data: &[u8], ip: &Ip) {
    let bytes = &data[ip.start..];
    let (source, destination) = (ip.source(&data), ip.destination(&data));
    if ip.v6 {
        let Ok(header) = Ipv6HeaderSlice::from_slice(bytes) else { return };
        assert_eq!(source, Some(Address::v6(header.source())));
        assert_eq!(destination, Some(Address::v6(header.destination())));
        assert_eq!(ip.end, ip.payload + usize::from(header.payload_length()));
        assert_eq!(ip.protocol.0, header.next_header().0);
    } else {
        let Ok(header) = Ipv4HeaderSlice::from_slice(bytes) else { return };
        assert_eq!(source, Some(Address::v4(header.source())));
        assert_eq!(destination, Some(Address::v4(header.destination())));
        assert_eq!((ip.payload, ip.length()), (ip.start + header.slice().len(), usize::from(header.total_len())));
        assert_eq!((ip.protocol.0, ip.fragment), (header.protocol().0, header.is_fragmenting_payload()));
    }
}

/// Whatever is accepted as a tunnel header is what this program writes.
fn only_form(data: &[u8], received: &Received) {
    let v6 = match received.protocol {
        EtherType::IPV4 => false,
        EtherType::IPV6 => true,
        _ => return,
    };
    let Received { vni, head, .. } = *received;
    let sender = Sender { head, vni, key: KEY };
    let nothing = Address([0; 4]);
    let inner = Inner { v6, length: 0, class: 0, source: nothing, destination: nothing, start: 0, header_sum: 0 };
    let [first, second, third, _] = geneve::header(&sender, &inner).map(u64::to_le_bytes);
    assert_eq!(data[..24], [first, second, third].concat());
}

fn through_tunnel<I: OuterIp>(data: &[u8], ip: &Ip) {
    let Some(inner) = Inner::read(&data, ip) else { return };
    // The Ethernet header is at hand and otherwise unused.
    let [a, b, c, d, e, f, g, ..] = *data else { return };
    let head = Head {
        node: u16::from_be_bytes([a, b]),
        kind: Kind::new(f % 7).expect("one of the first seven"),
        key_epoch: g,
        time: Time(u32::from_be_bytes([d, e, f, g])),
        argument: u32::from_be_bytes([a, b, c, d]),
    };
    let sender = Sender { head, vni: u32::from_be_bytes([0, c, d, e]), key: KEY };
    let peer = Peer {
        address: Address::v4([10, 9, 3, a]),
        source: Address::v4([10, 9, 2, b]),
        destination_mac: [c; 6],
        source_mac: [d; 6],
        ..Peer::default()
    };
    let packet = &data[ip.start..ip.end];
    let frame = [Headers::<I>::new(&peer, &sender, &inner).bytes(), packet].concat();
    arrives(&frame, packet, &peer, &sender);
    let header = frame.len() - packet.len() + net::UDP - geneve::TUNNEL;
    let mut changed = frame[header..].to_vec();
    changed[usize::from(e) % (geneve::TUNNEL - net::UDP)] ^= a;
    if let Some(received) = geneve::receive(&&changed[..], 0) {
        only_form(&changed, &received);
    }
}

fn arrives(frame: &[u8], packet: &[u8], peer: &Peer, sender: &Sender) {
    let outer = net::frame(&frame).expect("an IP packet");
    assert_eq!((outer.end, outer.fragment), (frame.len(), false));
    let ends = (outer.source(&frame), outer.destination(&frame));
    assert_eq!(ends, (Some(peer.source), Some(peer.address)));
    if !outer.v6 {
        let words = frame[outer.start..outer.payload].chunks_exact(2);
        let sum = words.map(|pair| u64::from(u16::from_le_bytes([pair[0], pair[1]]))).sum();
        assert_eq!(checksum::fold(sum), 0, "IPv4 header checksum");
    }
    let udp = outer.udp(&frame).expect("a UDP header");
    assert_eq!((udp.destination, udp.length), (geneve::PORT, outer.end - outer.payload));
    let got = geneve::receive(&frame, outer.payload + net::UDP).expect("a tunnel header");
    assert_eq!((got.vni, got.head), (sender.vni, sender.head));
    let start = outer.payload + geneve::TUNNEL;
    assert_eq!(&frame[start..], packet);
    let inside = net::ip(&frame, start, got.protocol).expect("the packet inside");
    let again = Inner::read(&frame, &inside).expect("what the tunnel must know");
    assert_eq!(again.tag(sender.key, &got.head), got.tag);
}
