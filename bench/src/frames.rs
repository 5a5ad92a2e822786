//! SIP messages of a given length, plain and varied, and the frames that carry them.

use forwarder_common::{
    abi::{Address, Peer, Served},
    checksum,
    clock::{Clock, Time},
    geneve::{self, Head, Headers, Inner, OuterV4, OuterV6, Sender},
    hash,
    ids::EtherType,
    net,
};

use crate::feed::{letters, next};

/// Keys of the claim hash.
pub(crate) const HASH_KEY: [u64; 2] = [3, 4];
/// Keys of the tunnel tag.
pub(crate) const TAG_KEY: [u64; 2] = [11, 22];
/// Network identifier of the cluster.
pub(crate) const VNI: u32 = 0x0012_3456;
/// This node.
pub(crate) const ME: u16 = 1;
/// The other node.
pub(crate) const PEER: u16 = 2;

/// What is measured: length of the message and its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Invite,
    Ok,
}

/// A message in which eight letters of the Call-ID are left open.
#[derive(Clone)]
pub(crate) struct Message {
    pub(crate) bytes: Vec<u8>,
    /// Where the letters are in the bytes.
    pub(crate) letters_at: usize,
    call_id: String,
    cseq: u32,
    branch: String,
}

const LETTERS: &str = "aaaaaaaa";

impl Message {
    /// The message of the anchors: Call-ID at about 320 of an INVITE's 550 bytes.
    pub(crate) fn plain(kind: Kind, length: usize) -> Self {
        Self::build(kind, length, None)
    }

    /// Another order of headers and other lengths for each seed.
    pub(crate) fn varied(kind: Kind, length: usize, seed: u32) -> Self {
        Self::build(kind, length, Some(seed))
    }

    fn build(kind: Kind, length: usize, seed: Option<u32>) -> Self {
        let mut random = Random(u64::from(seed.unwrap_or(7)) + 1);
        let mut vary = |most: usize| if seed.is_some() { random.below(most) } else { most / 2 };
        let call_id = format!("{}{LETTERS}@198.51.100.5", &"a84b4c76e66710f1d9c2"[..12 + vary(8)]);
        let (method, cseq) = ("INVITE", 1 + vary(100_000) as u32);
        let branch = format!("z9hG4bK{}", &"776asdhds776asdhds776"[..10 + vary(11)]);
        let user = |n: usize| &"alice.in.wonderland.of.chess"[..5 + n];
        let mut lines = vec![
            format!("Max-Forwards: {}", 60 + vary(10)),
            format!("Via: SIP/2.0/UDP 198.51.100.5:5060;rport;branch={branch}"),
            format!("From: <sip:{}@example.com>;tag=1928301774", user(vary(10))),
            format!("To: <sip:{}@example.com>", user(vary(10))),
            format!("Contact: <sip:{}@198.51.100.5:5060>", user(vary(10))),
            format!("Call-ID: {call_id}"),
            format!("CSeq: {cseq} {method}"),
        ];
        let start = match kind {
            Kind::Invite => {
                lines.insert(4, "Record-Route: <sip:198.51.100.9;lr;ftag=1928301774>".to_owned());
                lines.push("Allow: INVITE, ACK, BYE".to_owned());
                format!("INVITE sip:{}@example.com SIP/2.0", user(vary(20)))
            }
            Kind::Ok => "SIP/2.0 200 OK".to_owned(),
        };
        if seed.is_some() {
            for i in (1..lines.len()).rev() {
                lines.swap(i, vary(i + 1));
            }
        }
        let mut text = format!("{start}\r\n{}\r\nContent-Length: ", lines.join("\r\n"));
        let body = length.saturating_sub(text.len() + "123\r\n\r\n".len());
        text.push_str(&format!("{body:03}\r\n\r\n"));
        let mut bytes = text.into_bytes();
        assert!(bytes.len() <= length, "{length} bytes are too few for {}", bytes.len());
        while bytes.len() < length {
            let line = b"a=rtpmap:0 PCMU/8000\r\n";
            bytes.extend(&line[..line.len().min(length - bytes.len())]);
        }
        let at = bytes.windows(8).position(|window| window == LETTERS.as_bytes()).unwrap();
        Self { bytes, letters_at: at, call_id, cseq, branch }
    }

    /// The request key and the reply key with the letters of `index`.
    pub(crate) fn keys(&self, index: u32) -> (u64, u64) {
        let mut call_id = self.call_id.clone().into_bytes();
        let at = call_id.windows(8).position(|window| window == LETTERS.as_bytes()).unwrap();
        call_id[at..at + 8].copy_from_slice(&letters(index).to_le_bytes());
        hash::keys(HASH_KEY, &call_id, self.cseq, self.branch.as_bytes())
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 = next(next(self.0));
        (self.0 >> 33) as usize % most
    }
}

/// A frame and where its payload begins.
#[derive(Clone)]
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
    pub(crate) payload: usize,
}

fn vip(v6: bool) -> Vec<u8> {
    if v6 { [[0x20, 1, 0xd, 0xb8], [0; 4], [0; 4], [0, 0, 0, 0x10]].concat() } else { vec![192, 0, 2, 10] }
}

fn client(v6: bool) -> Vec<u8> {
    if v6 { [[0x20, 1, 0xd, 0xb8], [0, 1, 0, 0], [0; 4], [0, 0, 0, 5]].concat() } else { vec![198, 51, 100, 5] }
}

/// The service's address as the maps have it.
pub(crate) fn vip_address(v6: bool) -> Address {
    address(&vip(v6))
}

fn address(bytes: &[u8]) -> Address {
    match bytes.try_into() {
        Ok(v4) => Address::v4(v4),
        Err(_) => Address::v6(bytes.try_into().unwrap()),
    }
}

/// The underlay address of a node.
pub(crate) fn underlay(node: u16, v6: bool) -> Address {
    if v6 {
        address(&[[0xfd, 9, 0, 0], [0; 4], [0; 4], [0, 0, 0, node as u8]].concat())
    } else {
        Address::v4([10, 9, 0, node as u8])
    }
}

/// How this node reaches the other one, back through the interface that test runs arrive at.
pub(crate) fn peer(v6: bool) -> Peer {
    Peer {
        address: underlay(PEER, v6),
        source: underlay(ME, v6),
        ifindex: 1,
        mtu: 9000,
        destination_mac: [2, 0, 0, 0, 0, PEER as u8],
        source_mac: [2, 0, 0, 0, 0, ME as u8],
        clock: Clock::UNKNOWN,
        served: Served::ALL,
    }
}

/// A datagram to the service, or with `out` from it.
pub(crate) fn datagram(v6: bool, out: bool, port: u16, payload: &[u8]) -> Frame {
    packet(v6, out, 17, port, payload)
}

/// A TCP SYN to the service's address.
pub(crate) fn syn(v6: bool) -> Frame {
    packet(v6, false, 6, 443, &[0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0])
}

fn packet(v6: bool, out: bool, protocol: u8, port: u16, payload: &[u8]) -> Frame {
    let mut bytes = vec![0xaa; 12];
    let length = payload.len() as u16 + 8;
    let (from, to) = if out { (vip(v6), client(v6)) } else { (client(v6), vip(v6)) };
    if v6 {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 5]);
        bytes.extend(length.to_be_bytes());
        bytes.extend([protocol, 60]);
    } else {
        bytes.extend([8, 0, 0x45, 0]);
        bytes.extend((length + 20).to_be_bytes());
        bytes.extend([0, 7, 0x40, 0, 60, protocol, 0, 0]);
    }
    bytes.extend(from);
    bytes.extend(to);
    if !v6 {
        let sum = bytes[14..34].chunks(2).map(|pair| u64::from(u16::from_le_bytes([pair[0], pair[1]]))).sum();
        bytes[24..26].copy_from_slice(&checksum::fold(sum).to_le_bytes());
    }
    let (source, destination) = if out { (port, 5060) } else { (5060, port) };
    for number in [source, destination, length, 0xbeef] {
        bytes.extend(number.to_be_bytes());
    }
    let at = bytes.len();
    bytes.extend(payload);
    Frame { bytes, payload: at }
}

/// The tunnel packet with which the other node sends this frame here.
pub(crate) fn tunnelled(v6: bool, frame: &Frame) -> Frame {
    let inner = &frame.bytes[14..];
    let ether_type = EtherType(u16::from_be_bytes([frame.bytes[12], frame.bytes[13]]));
    let ip = net::ip(&inner, 0, ether_type).unwrap();
    let there = peer(v6);
    let back = Peer { address: there.source, source: there.address, ..there };
    let sender = Sender { head: Head::new(PEER, geneve::Kind::Data, 0, Time::default()), vni: VNI, key: TAG_KEY };
    let inner_fields = Inner::read(&inner, &ip).unwrap();
    let mut bytes = if v6 {
        Headers::<OuterV6>::new(&back, &sender, &inner_fields).bytes().to_vec()
    } else {
        Headers::<OuterV4>::new(&back, &sender, &inner_fields).bytes().to_vec()
    };
    let payload = bytes.len();
    bytes.extend(inner);
    Frame { bytes, payload }
}
