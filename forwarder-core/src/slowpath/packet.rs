//! Whole IP packets: out of a frame, out of a tunnel packet, and what the message inside is about.
//!
//! The same readers as in the kernel, over bytes; SIP by the full grammar. It never alters a byte.

use etherparse::IpSlice;
use forwarder_common::{
    abi::Address,
    geneve::{self, Kind as Carried},
    ids::{IpProtocol, NodeId},
    keys::{Keys, Seen},
    net::{self, Ip},
    reader::Reader as _,
    sip::{
        Kind,
        full::{self, Unkeyable},
    },
};

/// One IP packet, without what surrounded it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    /// The packet, from its header to the end that the header names.
    pub(super) bytes: &'a [u8],
    /// What lies where; `start` is 0 and `end` the length of `bytes`.
    pub(super) ip: Ip,
}

impl<'a> Packet<'a> {
    /// The packet at the start of `bytes`; padding behind it is cut. `None`: no IP, or cut off.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let ip = net::packet(&bytes)?;
        let bytes = bytes.get(..ip.end)?;
        (ip.payload <= ip.end).then_some(Self { bytes, ip })
    }

    /// The packet in an Ethernet frame with up to two VLAN tags.
    pub(super) fn of_frame(frame: &'a [u8]) -> Option<Self> {
        Self::read(frame.get(net::frame(&frame)?.start..)?)
    }

    /// The packet inside this tunnel packet, the node that sent it and whether it carries the mark of a fragment to be
    /// reassembled. The tag is not looked at.
    pub(super) fn inside(&self) -> Option<(NodeId, bool, Self)> {
        let udp = self.ip.udp(&self.bytes)?;
        let end = self.ip.payload.checked_add(udp.length)?;
        let received = geneve::receive(&self.bytes, self.ip.payload + net::UDP)?;
        let inner = Self::read(self.bytes.get(self.ip.payload + geneve::TUNNEL..end)?)?;
        let expected = inner.ip.ether_type();
        let reassemble = match received.head.kind {
            Carried::Reassemble => true,
            Carried::Data | Carried::Local | Carried::Relay => false,
            Carried::Ask | Carried::Probe | Carried::Answer => return None,
        };
        let is_tunnel = udp.destination == geneve::PORT && received.protocol == expected;
        is_tunnel.then_some((NodeId::new(received.head.node)?, reassemble, inner))
    }

    /// Its destination address.
    pub(super) fn destination(&self) -> Option<Address> {
        self.ip.destination(&self.bytes)
    }

    /// Its UDP datagram: destination port and payload. `None`: a fragment, no UDP, or lengths that contradict.
    pub(super) fn datagram(&self) -> Option<(u16, &'a [u8])> {
        let ip = if self.ip.extended() { self.behind_extensions()? } else { self.ip };
        let udp = ip.udp(&self.bytes)?;
        let end = ip.payload.checked_add(udp.length)?;
        // Reading starts behind the header, so a length below eight fails here.
        Some((udp.destination, self.bytes.get(ip.payload + net::UDP..end)?))
    }

    /// What lies behind its extension headers, as if there were none.
    fn behind_extensions(&self) -> Option<Ip> {
        let slice = IpSlice::from_slice(self.bytes).ok()?;
        let behind = slice.payload();
        let payload = self.bytes.len().checked_sub(behind.payload.len())?;
        let fragment = behind.fragmented;
        Some(Ip { payload, protocol: IpProtocol(behind.ip_number.0), fragment, ..self.ip })
    }
}

/// What an IP fragment says of its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fragment {
    /// Identification: 16 bits in IPv4, 32 in IPv6.
    pub(super) id: u32,
    /// Where its data belongs, in bytes; a multiple of eight.
    pub(super) offset: u16,
    /// More of the datagram follows.
    pub(super) more: bool,
    /// Where its data begins in the packet.
    pub(super) data: usize,
}

impl Fragment {
    /// Reads the fragment fields of a packet that is one; `None` if they are cut off.
    pub(super) fn read(packet: &Packet<'_>) -> Option<Self> {
        let (r, ip) = (&packet.bytes, &packet.ip);
        if ip.v6 {
            // Next header, reserved, offset and flags, identification (RFC 8200 §4.5).
            let data = ip.payload.checked_add(net::FRAGMENT)?;
            let place = r.be16(ip.payload + 2)?;
            let id = (u32::from(r.be16(ip.payload + 4)?) << 16) | u32::from(r.be16(ip.payload + 6)?);
            return (data <= ip.end).then_some(Self { id, offset: place & !7, more: place & 1 != 0, data });
        }
        // Flags and offset in units of eight bytes (RFC 791 §3.1).
        let place = r.be16(6)?;
        let id = u32::from(r.be16(4)?);
        Some(Self { id, offset: (place & 0x1fff) << 3, more: place & 0x2000 != 0, data: ip.payload })
    }
}

/// What a verdict needs of a SIP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// Kind of message.
    pub(super) kind: Kind,
    /// Its keys.
    pub(super) keys: Keys,
}

impl Message {
    /// Reads a UDP payload by the full grammar. With `affinity_call` the CSeq number is not in the keys.
    ///
    /// # Errors
    /// Says why there is no key.
    pub(super) fn read(payload: &[u8], hash_key: [u64; 2], affinity_call: bool) -> Result<Self, Unkeyable> {
        let message = full::read(payload)?;
        let keys = Keys::of(&message, Seen::Arriving, affinity_call, hash_key);
        Ok(Self { kind: message.kind, keys })
    }
}
