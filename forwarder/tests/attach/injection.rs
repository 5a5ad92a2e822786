//! Packets that the daemon puts into the host's own stack: by the real program, to a real socket on the loopback.

use std::{
    net::{Ipv6Addr, UdpSocket},
    os::fd::AsRawFd as _,
    time::Duration,
};

use forwarder::{
    dataplane::{Dataplane, Interface, Settings},
    identity::Secrets,
};
use forwarder_common::{abi, checksum};

use crate::wire::in_a_namespace;

/// The loopback of any namespace.
const LOOPBACK: Interface = Interface { ifindex: 1, mac: [0; 6], generic: false };

fn dataplane() -> Dataplane {
    let secrets = Secrets { hash_key: [1, 2], tag_key: [[3, 4], [5, 6]], tag_epoch: 0 };
    let config = abi::Config { node: 1, ..abi::Config::default() };
    let settings = Settings { config, secrets, services: Vec::new(), sources: Vec::new(), claims: 1024 };
    Dataplane::load(&settings, None).unwrap_or_else(|error| panic!("{error:#} (run as root)"))
}

/// A datagram from port 9 to `port` of the loopback address, as an IP packet. IPv6, whose stack takes such a packet
/// from the loopback interface; IPv4's calls it martian.
fn packet(port: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let address = Ipv6Addr::LOCALHOST.octets();
    let mut datagram = [9_u16.to_be_bytes(), port.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
    datagram.extend(payload);
    let pseudo = [&address[..], &address, &u32::from(length).to_be_bytes(), &[0, 0, 0, 17], &datagram].concat();
    let words = pseudo.chunks(2).map(|pair| u64::from(u16::from_le_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
    datagram[6..8].copy_from_slice(&checksum::fold(words.sum()).to_le_bytes());
    let [high, low] = length.to_be_bytes();
    [&[0x60, 0, 0, 0, high, low, 17, 64][..], &address, &address, &datagram].concat()
}

fn expect_all(lengths: &[usize]) {
    let socket = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    // Each packet costs its socket a page, however short it is.
    let room: libc::c_int = 8 << 20;
    // SAFETY: the option is an int, and lives through the call.
    let set = unsafe {
        let size = size_of_val(&room) as libc::socklen_t;
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, (&raw const room).cast(), size)
    };
    assert_eq!(set, 0);
    let port = socket.local_addr().unwrap().port();
    let payloads: Vec<Vec<u8>> =
        lengths.iter().enumerate().map(|(index, length)| vec![index as u8 + 1; *length]).collect();
    let packets: Vec<_> = payloads.iter().map(|payload| packet(port, payload)).collect();
    dataplane().inject(&LOOPBACK, &packets).unwrap();
    let mut buffer = vec![0; 65_536];
    for (index, payload) in payloads.iter().enumerate() {
        let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("packet {index} of {lengths:?}: {error}"));
        assert!(buffer[..length] == payload[..], "packet {index} of {lengths:?} is another one or has changed");
    }
}

#[test]
fn packets_that_are_injected_arrive_as_they_are_and_in_their_order() {
    in_a_namespace(|_| {
        expect_all(&[100]);
        expect_all(&[10, 1400, 300, 0, 1400, 1]);
        expect_all(&[0; 130]);
    });
}

#[test]
fn injected_packets_larger_than_a_frame_arrive_whole() {
    in_a_namespace(|_| {
        expect_all(&[3000]);
        expect_all(&[20, 3000, 60_000, 5, 20_000]);
    });
}

#[test]
fn a_flood_of_injected_packets_does_not_use_anything_up() {
    in_a_namespace(|_| {
        // More than the machine has page-pool ids, of which a test run with live frames takes one each time.
        let mut dataplane = dataplane();
        let packets = vec![packet(9, &[0; 100]); 1000];
        for thousand in 0..70 {
            dataplane
                .inject(&LOOPBACK, &packets)
                .unwrap_or_else(|error| panic!("after {thousand} thousand: {error:#}"));
        }
    });
}

#[test]
fn a_packet_for_an_interface_that_is_gone_is_refused() {
    let gone = Interface { ifindex: 0x7fff_ffff, ..LOOPBACK };
    let error = dataplane().inject(&gone, &[packet(9, b"late")]).unwrap_err();
    assert!(format!("{error:#}").contains("inject a packet at interface 2147483647"), "{error:#}");
}
