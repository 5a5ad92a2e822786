//! One packet that bytes make up, through a loaded program and by the host's account.

use std::net::IpAddr;

use forwarder_common::{
    clock::Time,
    geneve::{self, Head, Inner, Kind, Sender},
    ids::EtherType,
    net,
    outcome::Outcome,
};

use super::{
    ME, PEER,
    arriving::{self, DOWN, Daemon},
    bench::{Bench, TAG_KEY, V4, V6, VNI, other_source, underlay},
    choices::Choices,
    frames::{Frame, client, vip},
    grammar, leaving,
    odd::{self, Ends},
};

/// The longest frame of a test run: a page less headroom and tail.
const LONGEST: usize = 3_400;

/// Nodes that stand as a packet wants them to, loaded once.
pub struct Nodes {
    /// Those that packets arrive at: without affinity `call`, and with it; and how each stands.
    arriving: [(Bench, Option<arriving::Setting>); 2],
    /// Those that packets leave from, one for each setting.
    leaving: Vec<(leaving::Setting, Bench)>,
}

impl Nodes {
    /// Loads the programs of each.
    pub fn load() -> Self {
        let bench = || Bench::new(ME, V4);
        let leaving = leaving::SETTINGS.map(|setting| (setting, setting.bench()));
        Self { arriving: [(bench(), None), (bench().with_affinity_call(), None)], leaving: leaving.into() }
    }

    /// Plays the packet that `data` makes up; where its way ended.
    ///
    /// # Panics
    /// Program and host differ.
    pub fn play(&mut self, data: &[u8]) -> Outcome {
        let mut choices = Choices::new(data);
        // What to do, and how the node stands: changing that is what takes time.
        let (way, stand) = (choices.below(3), choices.byte());
        let is_odd = choices.once_in(2);
        if way == 0 {
            let (setting, bench) = &mut self.leaving[usize::from(stand) % leaving::SETTINGS.len()];
            let mut frame = leaves(&mut choices, is_odd);
            // Of a packet that the host sends the kernel has the headers.
            let headers = match frame[12..14] {
                [0x08, 0x00] => net::IPV4,
                [0x86, 0xdd] => net::IPV6,
                _ => 1,
            };
            frame.resize(frame.len().clamp(net::ETHERNET + headers, LONGEST), 0);
            let (frame, setting) = (Frame::raw(frame), *setting);
            return leaving::check(bench, &mut |bound| choices.below(bound), &frame, setting).outcome;
        }
        let setting = setting(stand);
        let (bench, stands) = &mut self.arriving[usize::from(setting.is_call)];
        setting.put(bench, *stands);
        *stands = Some(setting);
        let mut frame = if way == 1 { arrives(&mut choices, is_odd) } else { tunnelled(&mut choices, is_odd) };
        frame.truncate(LONGEST);
        arriving::check(bench, &mut |bound| choices.below(bound), &frame, setting)
    }
}

/// How the node stands, by the bits of a byte; mostly as nodes do.
fn setting(stand: u8) -> arriving::Setting {
    let bit = |bit: u32| stand >> bit & 1 != 0;
    arriving::Setting {
        is_call: bit(0),
        daemon: [Daemon::Lives, Daemon::Dead, Daemon::Over, Daemon::Gone][usize::from(stand >> 1 & 3)],
        has_peer: !bit(3) || bit(4),
        reassembler: if bit(5) { ME } else { PEER },
        successor: if bit(6) { 0 } else { PEER },
        diverts: bit(7),
    }
}

fn payload(choices: &mut Choices<'_>) -> Vec<u8> {
    if choices.once_in(12) {
        let odd: [&[u8]; 8] = [
            b"",
            b"\r\n\r\n",
            b"\0\0\0\0",
            b"\0\x01\0\x08\x21\x12\xa4\x42abcdefghijkl",
            &[0x80; 172],
            b"hello",
            b"GET / HTTP/1.1\r\nVia: a\r\nCall-ID: b\r\nCSeq: 1 GET\r\n\r\n",
            &[b'\n'; 600],
        ];
        return choices.any(&odd).to_vec();
    }
    let mut message = grammar::message(choices);
    if choices.once_in(8) {
        // Up to what no tunnel packet holds.
        let length = message.len().max(choices.below(1_500));
        message.resize(length, b'x');
    }
    message
}

fn ends(from: IpAddr, to: IpAddr, ports: (u16, u16)) -> Ends {
    Ends { source: (from, ports.0), destination: (to, ports.1) }
}

/// What the host sends: its proxies, their other sockets, and others.
fn leaves(choices: &mut Choices<'_>, is_odd: bool) -> Vec<u8> {
    let v6 = choices.any(&[V4, V6]);
    let from = choices.nearly_always_first(&[vip, other_source, client])(v6);
    let port = choices.nearly_always_first(&[5060, 5061, 0, 514]);
    let ends = ends(from, client(v6), (port, 5060));
    let payload = payload(choices);
    let datagram = odd::udp(choices, is_odd, ends, &payload);
    let packet = odd::ip(choices, is_odd, ends, &datagram);
    odd::frame(choices, is_odd, &packet)
}

/// What arrives from anywhere.
fn arrives(choices: &mut Choices<'_>, is_odd: bool) -> Vec<u8> {
    let packet = for_service(choices, is_odd);
    odd::frame(choices, is_odd, &packet)
}

fn for_service(choices: &mut Choices<'_>, is_odd: bool) -> Vec<u8> {
    let v6 = choices.any(&[V4, V6]);
    let to = choices.nearly_always_first(&[vip, other_source])(v6);
    let port = choices.nearly_always_first(&[5060, 5061, 6081, 0]);
    let ends = ends(client(v6), to, (5060, port));
    let payload = payload(choices);
    let datagram = odd::udp(choices, is_odd, ends, &payload);
    odd::ip(choices, is_odd, ends, &datagram)
}

/// What a peer sends through the tunnel, or somebody who would like to be one.
fn tunnelled(choices: &mut Choices<'_>, is_odd: bool) -> Vec<u8> {
    let node = choices.nearly_always_first(&[PEER, DOWN, ME, 4, 1023, u16::MAX]);
    let kind = Kind::new(choices.below(7) as u8).unwrap();
    let is_question = matches!(kind, Kind::Ask | Kind::Probe | Kind::Answer) && !choices.once_in(4);
    let inside = if is_question {
        forwarder_common::question::packet(choices.byte().into(), choices.byte().into(), 7).to_vec()
    } else {
        for_service(choices, is_odd)
    };
    let protocol = if inside[0] >> 4 == 6 { EtherType::IPV6 } else { EtherType::IPV4 };
    let inner = net::ip(&inside.as_slice(), 0, protocol).and_then(|ip| Inner::read(&inside.as_slice(), &ip));
    let key_epoch = choices.nearly_always_first(&[0, 1, 2, 255]);
    let head = Head { node, kind, key_epoch, time: Time(choices.byte().into()), argument: choices.byte().into() };
    let key = if key_epoch & 1 == 0 { TAG_KEY } else { [0; 2] };
    let sender = Sender { head, vni: choices.nearly_always_first(&[VNI, VNI, VNI, 0]), key };
    let mut header = match inner {
        Some(inner) => geneve::header(&sender, &inner).map(u64::to_le_bytes).concat(),
        None => vec![0; geneve::TUNNEL - net::UDP],
    };
    if is_odd && choices.once_in(3) {
        let at = choices.below(header.len());
        header[at] ^= choices.byte();
    }
    let address = |node: u16| [10, 9, 0, node as u8].into();
    assert_eq!(underlay(PEER, V4), super::bench::address(address(PEER)));
    let from = if choices.once_in(8) { 77 } else { node };
    let to = if choices.once_in(16) { 78 } else { ME };
    let ends = ends(address(from), address(to), (0xc123, geneve::PORT));
    let is_outer_odd = is_odd && choices.once_in(3);
    let datagram = odd::udp(choices, is_outer_odd, ends, &[header, inside].concat());
    let packet = odd::ip(choices, is_outer_odd, ends, &datagram);
    odd::frame(choices, is_outer_odd, &packet)
}
