//! Packets byte by byte, put on an edge's cable from the router's end: what no kernel would send.

use std::ffi::CString;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::lab::{Family, Host, Lab};

/// The router's end of the cable to an edge.
#[derive(Debug)]
pub struct Cable {
    socket: Socket,
    header: Vec<u8>,
}

impl Cable {
    /// Opens it for packets of a family.
    ///
    /// # Errors
    /// The edge has no eth0, or the kernel refuses.
    pub fn open(lab: &Lab, edge: u8, family: Family) -> Result<Self> {
        let host = Host::Edge(edge);
        let name = host.name();
        let links = lab.host(host).run("ip", &["-json", "link", "show", "dev", "eth0"])?;
        let links: Value = serde_json::from_str(&links).context("read what ip says of eth0")?;
        let mac = links.pointer("/0/address").and_then(Value::as_str).context("find the MAC address of eth0")?;
        let mac: Result<Vec<u8>, _> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
        let ethertype: u16 = match family {
            Family::V4 => 0x0800,
            Family::V6 => 0x86dd,
        };
        // From an address that only the lab has.
        let mut header = mac.context("read the MAC address of eth0")?;
        header.extend([2, 0, 0, 0, 0, 9]);
        header.extend(ethertype.to_be_bytes());
        let socket = lab.host(Host::Router).within(|| {
            let socket = Socket::new(Domain::PACKET, Type::RAW, None).context("open a packet socket")?;
            socket.bind(&link(&name)?).with_context(|| format!("bind a packet socket to {name}"))?;
            Ok(socket)
        })?;
        Ok(Self { socket, header })
    }

    /// Puts an IP packet on it; a cable that is full loses it, as any would.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn send(&self, packet: &[u8]) -> Result<()> {
        match self.socket.send(&[&self.header, packet].concat()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
            result => result.context("put a packet on a cable").map(drop),
        }
    }
}

/// The address of an interface of this thread's namespace.
fn link(name: &str) -> Result<SockAddr> {
    let text = CString::new(name).context("name an interface")?;
    // SAFETY: the name ends with NUL.
    let index = unsafe { libc::if_nametoindex(text.as_ptr()) };
    ensure!(index != 0, "find {name}: {}", std::io::Error::last_os_error());
    // SAFETY: the storage is large enough for a sockaddr_ll, all of whose bytes are zero or set here.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let address = storage.cast::<libc::sockaddr_ll>();
            (*address).sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).unwrap_or_default();
            (*address).sll_ifindex = index.cast_signed();
            *length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or_default();
            Ok(())
        })
    }
    .context("make an interface's address")?;
    Ok(address)
}

/// A fragment's place in its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The datagram's number.
    pub id: u16,
    /// Where it begins, in bytes: a multiple of eight.
    pub offset: u16,
    /// Whether more follow.
    pub more: bool,
}

/// An IP packet that carries UDP, or a fragment of it.
#[must_use]
pub fn ip_packet(source: IpAddr, destination: IpAddr, part: Option<Part>, bytes: &[u8]) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = u16::try_from(20 + bytes.len()).unwrap_or(u16::MAX);
            let flags = part.map_or(0, |part| (part.offset / 8) | if part.more { 0x2000 } else { 0 });
            let mut packet = vec![0x45, 0];
            for word in [total, part.map_or(0, |part| part.id), flags, 64 << 8 | 17, 0] {
                packet.extend(word.to_be_bytes());
            }
            packet.extend(source.octets());
            packet.extend(destination.octets());
            let sum = checksum(&packet);
            packet.splice(10..12, sum.to_be_bytes());
            packet.extend(bytes);
            packet
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let extra = part.map_or(0, |_| 8);
            let length = u16::try_from(extra + bytes.len()).unwrap_or(u16::MAX);
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend(length.to_be_bytes());
            packet.extend([if part.is_some() { 44 } else { 17 }, 64]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            if let Some(Part { id, offset, more }) = part {
                packet.extend([17, 0]);
                packet.extend((offset | u16::from(more)).to_be_bytes());
                packet.extend(u32::from(id).to_be_bytes());
            }
            packet.extend(bytes);
            packet
        }
        _ => Vec::new(),
    }
}

/// A UDP datagram with its header; the checksum is right.
#[must_use]
pub fn udp(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
    let mut datagram = Vec::new();
    for word in [source.port(), destination.port(), length, 0] {
        datagram.extend(word.to_be_bytes());
    }
    datagram.extend(payload);
    let mut pseudo = Vec::new();
    for address in [source.ip(), destination.ip()] {
        match address {
            IpAddr::V4(address) => pseudo.extend(address.octets()),
            IpAddr::V6(address) => pseudo.extend(address.octets()),
        }
    }
    pseudo.extend(17_u16.to_be_bytes());
    pseudo.extend(length.to_be_bytes());
    pseudo.extend(&datagram);
    let sum = checksum(&pseudo);
    datagram.splice(6..8, sum.to_be_bytes());
    datagram
}

/// The Internet checksum (RFC 1071) of bytes in which its own place is zero.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_its_checksum_sums_to_nothing() {
        let ends = [Family::V4, Family::V6].map(|family| (Host::Client.address(family), family.vip()));
        for (source, destination) in ends {
            let part = Part { id: 7, offset: 16, more: true };
            let packet = ip_packet(source, destination, Some(part), b"12345678");
            if source.is_ipv4() {
                assert_eq!(packet.get(..20).map(checksum), Some(0));
                assert_eq!(packet.get(2..8), Some([0, 28, 0, 7, 0x20, 2].as_slice()));
            } else {
                assert_eq!(packet.get(4..7), Some([0, 16, 44].as_slice()));
                assert_eq!(packet.get(40..48), Some([17, 0, 0, 17, 0, 0, 0, 7].as_slice()));
            }
        }
    }
}
