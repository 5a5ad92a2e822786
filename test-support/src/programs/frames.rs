//! SIP messages and the frames that carry them.

use std::net::IpAddr;

use forwarder_common::hash;

/// The key of the claim hash.
pub const HASH_KEY: [u64; 2] = [3, 4];

/// The service's address.
pub fn vip(v6: bool) -> IpAddr {
    if v6 { "2001:db8::10".parse().unwrap() } else { "192.0.2.10".parse().unwrap() }
}

/// Where clients are.
pub fn client(v6: bool) -> IpAddr {
    if v6 { "2001:db8:1::5".parse().unwrap() } else { "198.51.100.5".parse().unwrap() }
}

/// A message in the plain form.
#[derive(Clone)]
pub struct Sip {
    start: String,
    method: String,
    call_id: String,
    cseq: u32,
    branch: String,
}

impl Sip {
    /// An INVITE.
    pub fn invite(call_id: &str) -> Self {
        Self::request("INVITE", call_id)
    }

    /// A request of any method.
    pub fn request(method: &str, call_id: &str) -> Self {
        Self {
            start: format!("{method} sip:bob@example.com SIP/2.0"),
            method: method.to_owned(),
            call_id: call_id.to_owned(),
            cseq: 1,
            branch: "z9hG4bK-1".to_owned(),
        }
    }

    /// A response to a request of this method.
    pub fn response(status: u16, method: &str, call_id: &str) -> Self {
        Self { start: format!("SIP/2.0 {status} Reason"), method: method.to_owned(), ..Self::request(method, call_id) }
    }

    /// The same under another CSeq number.
    pub fn cseq(mut self, cseq: u32) -> Self {
        self.cseq = cseq;
        self
    }

    /// The same under another branch.
    pub fn branch(mut self, branch: &str) -> Self {
        branch.clone_into(&mut self.branch);
        self
    }

    /// The message as it travels.
    pub fn bytes(&self) -> Vec<u8> {
        let Self { start, method, call_id, cseq, branch } = self;
        format!(
            "{start}\r\nVia: SIP/2.0/UDP 198.51.100.5:5060;rport;branch={branch}\r\nMax-Forwards: 70\r\n\
             From: <sip:alice@example.com>;tag=1\r\nTo: <sip:bob@example.com>\r\nCall-ID: {call_id}\r\n\
             CSeq: {cseq} {method}\r\nContent-Length: 0\r\n\r\n"
        )
        .into_bytes()
    }

    /// The same message with a body that makes it `length` bytes long.
    pub fn padded_to(&self, length: usize) -> Vec<u8> {
        let mut bytes = self.bytes();
        bytes.resize(length, b'x');
        bytes
    }

    /// The key `L`.
    pub fn request_key(&self) -> u64 {
        hash::keys(HASH_KEY, self.call_id.as_bytes(), self.cseq, b"").0
    }

    /// The key `X`.
    pub fn reply_key(&self) -> u64 {
        hash::keys(HASH_KEY, self.call_id.as_bytes(), self.cseq, self.branch.as_bytes()).1
    }

    /// The request key of a service of affinity `call`.
    pub fn call_key(&self) -> u64 {
        hash::keys(HASH_KEY, self.call_id.as_bytes(), 0, b"").0
    }
}

/// An Ethernet frame with an IP packet.
#[derive(Clone)]
pub struct Frame {
    bytes: Vec<u8>,
    l3: usize,
    padding: usize,
}

impl Frame {
    /// A message from the client to the service.
    pub fn to_vip(v6: bool, message: &[u8]) -> Self {
        Self::udp(v6, 5060, 5060, message)
    }

    /// A datagram from the client to the service's address.
    pub fn udp(v6: bool, source: u16, destination: u16, payload: &[u8]) -> Self {
        Self::datagram(client(v6), vip(v6), source, destination, payload)
    }

    /// A message from the service to the client.
    pub fn from_vip(v6: bool, message: &[u8]) -> Self {
        Self::datagram(vip(v6), client(v6), 5060, 5060, message)
    }

    /// The same from another port of the service's address.
    pub fn from_vip_port(v6: bool, port: u16, message: &[u8]) -> Self {
        Self::datagram(vip(v6), client(v6), port, 5060, message)
    }

    fn datagram(from: IpAddr, to: IpAddr, source: u16, destination: u16, payload: &[u8]) -> Self {
        let mut bytes = vec![0xaa; 12];
        let length = payload.len() as u16 + 8;
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                bytes.extend([8, 0, 0x45, 0xb8]);
                bytes.extend((length + 20).to_be_bytes());
                bytes.extend([0, 7, 0x40, 0, 60, 17, 0, 0]);
                bytes.extend(from.octets());
                bytes.extend(to.octets());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                bytes.extend([0x86, 0xdd, 0x6b, 0x80, 0, 5]);
                bytes.extend(length.to_be_bytes());
                bytes.extend([17, 60]);
                bytes.extend(from.octets());
                bytes.extend(to.octets());
            }
            _ => panic!("two families"),
        }
        for number in [source, destination, length, 0xbeef] {
            bytes.extend(number.to_be_bytes());
        }
        bytes.extend(payload);
        Self { bytes, l3: 14, padding: 0 }
    }

    /// A frame of these bytes.
    pub const fn raw(bytes: Vec<u8>) -> Self {
        Self { bytes, l3: 14, padding: 0 }
    }

    /// The same frame, whose IP packet begins there.
    pub fn starting_at(mut self, l3: usize) -> Self {
        self.l3 = l3;
        self
    }

    /// The frame as it travels.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The packet behind Ethernet and tags, without padding.
    pub fn ip_packet(&self) -> &[u8] {
        &self.bytes[self.l3..self.bytes.len() - self.padding]
    }

    fn v6(&self) -> bool {
        self.bytes[self.l3] >> 4 == 6
    }

    fn l4(&self) -> usize {
        self.l3 + if self.v6() { 40 } else { 20 }
    }

    /// With VLAN tags before the packet.
    pub fn tagged(mut self, tags: usize) -> Self {
        for _ in 0..tags {
            self.bytes.splice(12..12, [0x81, 0, 0, 9]);
        }
        self.l3 += 4 * tags;
        self
    }

    /// With bytes behind the IP packet.
    pub fn padded(mut self, bytes: usize) -> Self {
        self.bytes.extend(vec![0; bytes]);
        self.padding = bytes;
        self
    }

    /// The same without so many bytes at its end.
    pub fn cut(mut self, bytes: usize) -> Self {
        self.bytes.truncate(self.bytes.len() - bytes);
        self
    }

    /// The same with another length in its UDP header.
    pub fn udp_length(mut self, length: u16) -> Self {
        let at = self.l4() + 4;
        self.bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
        self
    }

    /// The same with another protocol in its IP header.
    pub fn protocol(mut self, protocol: u8) -> Self {
        let at = self.l3 + if self.v6() { 6 } else { 9 };
        self.bytes[at] = protocol;
        self
    }

    /// Of an IPv6 frame, behind an extension header of this number, such as 60 for destination options; behind an
    /// authentication header (51) in both families.
    pub fn behind(mut self, header: u8) -> Self {
        const AUTHENTICATION: u8 = 51;
        let payload = self.l3 + if self.v6() { 40 } else { 20 };
        let authentication = [&[17, 4][..], &[0; 22]].concat();
        let options = vec![17, 0, 1, 4, 0, 0, 0, 0];
        let bytes = if header == AUTHENTICATION { authentication } else { options };
        self.bytes.splice(payload..payload, bytes);
        let length = (self.bytes.len() - if self.v6() { payload } else { self.l3 }) as u16;
        let at = self.l3 + if self.v6() { 4 } else { 2 };
        self.bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
        self.protocol(header)
    }

    /// As a fragment of a datagram, at `offset` in units of eight bytes, with more to follow.
    pub fn fragment(mut self, offset: u16) -> Self {
        if self.v6() {
            let payload = self.l3 + 40;
            let [high, low] = (offset << 3 | 1).to_be_bytes();
            self.bytes.splice(payload..payload, [17, 0, high, low, 0, 0, 0, 9]);
            let length = (self.bytes.len() - payload) as u16;
            self.bytes[self.l3 + 4..self.l3 + 6].copy_from_slice(&length.to_be_bytes());
            return self.protocol(44);
        }
        let [high, low] = (0x2000 | offset).to_be_bytes();
        let at = self.l3 + 6;
        self.bytes[at..at + 2].copy_from_slice(&[high, low]);
        self
    }

    /// The identification that the fragments of a datagram share; call it after [`Self::fragment`].
    pub fn identified(mut self, id: u8) -> Self {
        let at = self.l3 + if self.v6() { 40 + 7 } else { 5 };
        self.bytes[at] = id;
        self
    }

    /// The same to an address that is no service's.
    pub fn with_another_destination(mut self) -> Self {
        let last = self.l4() - 1;
        self.bytes[last] ^= 0x80;
        self
    }

    /// The same from an address that is no service's.
    pub fn with_another_source(mut self) -> Self {
        let last = self.l4() - if self.v6() { 17 } else { 5 };
        self.bytes[last] ^= 0x80;
        self
    }
}
