//! ICMP messages, put on a cable by hand.

use std::{
    ffi::CString,
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// One end of a cable, to put packets on.
pub(crate) struct Frames {
    socket: OwnedFd,
    interface: String,
}

impl Frames {
    /// The end with this name, in this thread's namespace.
    pub(crate) fn at(interface: &str) -> Self {
        // SAFETY: it takes no pointers.
        let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        assert!(socket >= 0, "open a packet socket: {}", io::Error::last_os_error());
        // SAFETY: the kernel has just given this descriptor to nobody else.
        Self { socket: unsafe { OwnedFd::from_raw_fd(socket) }, interface: interface.to_owned() }
    }

    /// "Fragmentation needed" about an echo reply that `to` is said to have sent to `peer`.
    pub(crate) fn too_big(&self, from: &str, to: &str, peer: &str, mtu: u16) {
        let reply = packet(1, address(to), address(peer), &[0; 8]);
        self.icmp(from, to, [3, 4], [0, 0, mtu.to_be_bytes()[0], mtu.to_be_bytes()[1]], &reply);
    }

    /// "Redirect for the host" about a datagram from port 6081 of `to` to that of `peer`.
    pub(crate) fn redirect(&self, from: &str, to: &str, peer: &str, router: &str) {
        let [high, low] = 6081_u16.to_be_bytes();
        let sent = packet(17, address(to), address(peer), &[high, low, high, low, 0, 8, 0, 0]);
        self.icmp(from, to, [5, 1], address(router), &sent);
    }

    fn icmp(&self, from: &str, to: &str, kind: [u8; 2], rest: [u8; 4], quoted: &[u8]) {
        let mut message = [&kind[..], &[0, 0], &rest, quoted].concat();
        let sum = sum(&message);
        message[2..4].copy_from_slice(&sum);
        self.send(&packet(1, address(from), address(to), &message));
    }

    fn send(&self, packet: &[u8]) {
        let name = CString::new(self.interface.as_str()).unwrap();
        let to = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: (libc::ETH_P_IP as u16).to_be(),
            // SAFETY: the name ends with NUL and lives through the call.
            sll_ifindex: unsafe { libc::if_nametoindex(name.as_ptr()) }.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [255; 8],
        };
        // SAFETY: both pointers are to live values of the given lengths.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const to).cast(),
                size_of_val(&to) as u32,
            )
        };
        assert_eq!(sent, packet.len().cast_signed(), "send by {}: {}", self.interface, io::Error::last_os_error());
    }
}

fn address(text: &str) -> [u8; 4] {
    text.parse::<Ipv4Addr>().unwrap().octets()
}

fn packet(protocol: u8, from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let [high, low] = (20 + payload.len() as u16).to_be_bytes();
    let mut packet = vec![0x45, 0, high, low, 0, 1, 0, 0, 64, protocol, 0, 0];
    packet.extend([from, to].concat());
    let sum = sum(&packet);
    packet[10..12].copy_from_slice(&sum);
    packet.extend(payload);
    packet
}

/// RFC 1071.
fn sum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    (!((sum & 0xffff) as u16 + (sum >> 16) as u16)).to_be_bytes()
}
