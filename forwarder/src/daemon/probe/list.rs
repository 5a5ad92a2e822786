//! The kernel's list of this network namespace's UDP sockets, and its word of each that ends: sock_diag(7).
//!
//! Nothing that comes over a network is in either. The kernel itself picks the sockets by their ports, so that a look
//! costs this process nothing for the others.

use std::{io, net::SocketAddr, os::fd::AsRawFd as _, time::Duration};

use anyhow::{Context as _, Result};
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, IPPROTO_UDP, SOCK_DIAG_BY_FAMILY, SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use rtnetlink::{
    packet_core::{Emitable as _, NLM_F_DUMP, NetlinkMessage, NetlinkPayload, NetlinkSerializable},
    sys::{Socket, constants::NETLINK_SOCK_DIAG},
};

use crate::netlink::{Kernel, PART, messages};

/// `INET_DIAG_REQ_BYTECODE` of linux/inet_diag.h: the attribute that picks sockets.
const BYTECODE: u16 = 1;
/// `INET_DIAG_BC_JMP` of the same: goes on elsewhere.
const JUMP: u8 = 1;
/// `INET_DIAG_BC_S_EQ` of the same: whether the local port is the one that follows.
const PORT_IS: u8 = 11;
/// `SKNLGRP_INET_UDP_DESTROY` and `SKNLGRP_INET6_UDP_DESTROY` of linux/sock_diag.h.
const ENDS: [u32; 2] = [2, 4];
/// Ends that are read at a time; those that are left wait for the next time, or are lost, which the kernel says.
const BURST: usize = 256;

/// A socket that is bound and not connected: one that takes packets from anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    /// Where it is bound.
    pub(super) local: SocketAddr,
    /// Its inode, which no other socket has as long as it lives.
    pub(super) inode: u64,
    /// It was made to take no IPv4 (`IPV6_V6ONLY`).
    pub(super) only_v6: bool,
}

impl Bound {
    /// Whether it takes what is sent to `service`. One at `::` takes IPv4 as well, unless it was made not to.
    pub(super) fn takes(&self, service: SocketAddr) -> bool {
        let (ip, takes_v4) = (self.local.ip().to_canonical(), self.local.is_ipv4() || !self.only_v6);
        let is_any = ip.is_unspecified() && if service.is_ipv4() { takes_v4 } else { self.local.is_ipv6() };
        self.local.port() == service.port() && (ip == service.ip() || is_any)
    }
}

/// The list.
pub(super) struct List(Kernel);

impl List {
    /// Opens it for the network namespace of this thread.
    ///
    /// # Errors
    /// The kernel has no sock_diag.
    pub(super) fn open() -> Result<Self> {
        Kernel::open(NETLINK_SOCK_DIAG).map(Self)
    }

    /// The sockets that are bound to one of these ports, of both families. The list is read slot by slot while it
    /// changes, and may lack a socket that is there.
    ///
    /// # Errors
    /// The kernel refuses: its module udp_diag is missing.
    pub(super) fn read(&mut self, ports: &[u16]) -> Result<Vec<Bound>> {
        let mut found = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let answer = self.0.ask(Dump::new(family, ports), NLM_F_DUMP);
            let answer = answer
                .context("read the kernel's list of UDP sockets; hint: `modprobe udp_diag`, where it is a module")?;
            found.extend(answer.iter().filter_map(|message| {
                let SockDiagMessage::InetResponse(response) = message else { return None };
                bound(response)
            }));
        }
        Ok(found)
    }
}

/// The kernel's word of each UDP socket that ends.
pub(super) struct Ends {
    socket: Socket,
}

impl Ends {
    /// Listens in the network namespace of this thread; needs `CAP_NET_ADMIN` there.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn open() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG).context("open a netlink socket for sockets that end")?;
        socket.bind_auto().context("bind a netlink socket")?;
        for group in ENDS {
            socket.add_membership(group).context("listen for sockets that end")?;
        }
        socket.set_non_blocking(true).context("listen for sockets that end without waiting")?;
        Ok(Self { socket })
    }

    /// Waits until any UDP socket has ended, for so long at most.
    pub(super) fn wait(&self, limit: Duration) {
        let mut wanted = libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let limit_ms = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the pointer is to one local entry, and so many are given.
        unsafe { libc::poll(&raw mut wanted, 1, limit_ms) };
    }

    /// Whether one with one of these ports has ended, of those that wait to be read; so, too, where the kernel says
    /// that it could not tell of all.
    pub(super) fn take(&self, ports: &[u16]) -> bool {
        let mut buffer = Vec::with_capacity(PART);
        let mut any = false;
        for _ in 0..BURST {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Ok(_) => any |= messages(&buffer).any(|message| message.map_or(true, |message| is_of(&message, ports))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => any = true,
            }
        }
        any
    }
}

fn is_of(message: &NetlinkMessage<SockDiagMessage>, ports: &[u16]) -> bool {
    let NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) = &message.payload else { return true };
    ports.contains(&response.header.socket_id.source_port)
}

fn bound(response: &InetResponse) -> Option<Bound> {
    let header = &response.header;
    let local = SocketAddr::new(header.socket_id.source_address, header.socket_id.source_port);
    let only_v6 = response.nlas.iter().any(|nla| matches!(nla, Nla::SkV6Only(true)));
    // A socket without an inode belongs to the kernel, or to nobody any more.
    (header.inode != 0).then_some(Bound { local, inode: header.inode.into(), only_v6 })
}

/// A request for the sockets that a filter picks.
#[derive(Debug)]
struct Dump {
    request: InetRequest,
    filter: Vec<u8>,
}

impl Dump {
    fn new(family: u8, ports: &[u16]) -> Self {
        let socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
        let request = InetRequest {
            family,
            protocol: IPPROTO_UDP,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::CLOSE,
            socket_id,
        };
        Self { request, filter: filter(ports) }
    }
}

impl NetlinkSerializable for Dump {
    fn message_type(&self) -> u16 {
        SOCK_DIAG_BY_FAMILY
    }

    fn buffer_len(&self) -> usize {
        self.request.buffer_len() + 4 + self.filter.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (request, attribute) = buffer.split_at_mut(self.request.buffer_len());
        self.request.emit(request);
        let length = u16::try_from(attribute.len()).unwrap_or(u16::MAX);
        let head = [length.to_ne_bytes(), BYTECODE.to_ne_bytes()].concat();
        attribute.iter_mut().zip(head.iter().chain(&self.filter)).for_each(|(to, from)| *to = *from);
    }
}

/// A filter in the kernel's byte code (linux/inet_diag.h) that picks the sockets bound to one of these ports, at most
/// 5,000 of them.
///
/// For each port: where it is the socket's, a jump to the end, which picks; else on to the next port. Behind the last
/// one the way leads beyond the end, which does not pick.
fn filter(ports: &[u16]) -> Vec<u8> {
    const BLOCK: u16 = 12;
    /// An instruction: its code, where it goes on if what it asks is so, and if it is not, in bytes from itself.
    fn instruction(code: u8, yes: u8, no: u16) -> [u8; 4] {
        let no = no.to_ne_bytes();
        [code, yes, no[0], no[1]]
    }
    let mut filter = Vec::new();
    for (port, left) in ports.iter().zip((0..ports.len()).rev()) {
        let to_end = u16::try_from(left).unwrap_or(u16::MAX).saturating_mul(BLOCK);
        let no = if left == 0 { BLOCK + 4 } else { BLOCK };
        filter.extend(instruction(PORT_IS, 8, no));
        filter.extend(instruction(0, 0, *port));
        filter.extend(instruction(JUMP, 4, to_end.saturating_add(4)));
    }
    filter
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv6Addr, UdpSocket},
        os::linux::fs::MetadataExt as _,
        time::Instant,
    };

    use super::*;

    #[test]
    fn a_service_is_taken_by_its_own_address_and_by_all_addresses() {
        let table = [
            ("192.0.2.10:5060", false, "192.0.2.10:5060", true),
            ("0.0.0.0:5060", false, "192.0.2.10:5060", true),
            ("[::]:5060", false, "192.0.2.10:5060", true),
            ("[::]:5060", true, "192.0.2.10:5060", false),
            ("[::ffff:192.0.2.10]:5060", false, "192.0.2.10:5060", true),
            ("[::]:5060", false, "[2001:db8::10]:5060", true),
            ("[::]:5060", true, "[2001:db8::10]:5060", true),
            ("[2001:db8::10]:5060", true, "[2001:db8::10]:5060", true),
            ("0.0.0.0:5060", false, "[2001:db8::10]:5060", false),
            ("[2001:db8::11]:5060", false, "[2001:db8::10]:5060", false),
            ("192.0.2.10:5061", false, "192.0.2.10:5060", false),
            ("192.0.2.11:5060", false, "192.0.2.10:5060", false),
        ];
        for (local, only_v6, service, expected) in table {
            let bound = Bound { local: local.parse().unwrap(), inode: 1, only_v6 };
            assert_eq!(bound.takes(service.parse().unwrap()), expected, "{local} {only_v6} {service}");
        }
    }

    fn v6(only: bool) -> (UdpSocket, u16) {
        use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt::set_ipv6_v6only};
        let socket = socket(AddressFamily::INET6, SocketType::DGRAM, None).unwrap();
        set_ipv6_v6only(&socket, only).unwrap();
        bind(&socket, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))).unwrap();
        let socket = UdpSocket::from(socket);
        let port = socket.local_addr().unwrap().port();
        (socket, port)
    }

    #[test]
    fn the_list_has_what_is_bound_to_these_ports_and_nothing_else() {
        let crowd: Vec<_> = (0..500).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let port = |socket: &UdpSocket| socket.local_addr().unwrap().port();
        let (first, last) = (port(&crowd[0]), port(&crowd[499]));
        let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
        connected.connect(crowd[0].local_addr().unwrap()).unwrap();
        let (both, both_port) = v6(false);
        // The kernel may give a socket of IPv6 alone the port of one of the crowd.
        let (only, only_port) = loop {
            let (only, only_port) = v6(true);
            if !crowd.iter().chain([&connected]).any(|other| port(other) == only_port) {
                break (only, only_port);
            }
        };
        let ports = [first, port(&connected), both_port, last, only_port];
        let mut list = List::open().unwrap();
        for _ in 0..2 {
            let mut found = list.read(&ports).unwrap();
            found.sort_by_key(|bound| ports.iter().position(|port| *port == bound.local.port()));
            let of = |socket: &UdpSocket, only_v6| {
                let inode = std::fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap().st_ino();
                Bound { local: socket.local_addr().unwrap(), inode, only_v6 }
            };
            assert_eq!(found, [of(&crowd[0], false), of(&both, false), of(&crowd[499], false), of(&only, true)]);
            assert_eq!(list.read(&[first]).unwrap(), [of(&crowd[0], false)]);
        }
    }

    #[test]
    fn the_kernel_tells_of_a_socket_that_ends_and_whose_port_it_had() {
        let ends = Ends::open().unwrap_or_else(|error| panic!("{error:#} (run as root)"));
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(socket) = UdpSocket::bind(at) else { continue };
            let port = socket.local_addr().unwrap().port();
            assert!(!ends.take(&[port]), "it has not ended");
            drop(socket);
            let end = Instant::now() + Duration::from_secs(20);
            while !ends.take(&[port]) {
                assert!(Instant::now() < end, "nothing is said of a socket at {at} that has ended");
                ends.wait(Duration::from_secs(1));
            }
            assert!(!ends.take(&[port]), "it has ended once");
        }
    }
}
