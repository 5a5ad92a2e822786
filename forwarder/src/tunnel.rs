//! The daemon's end of the tunnel: a UDP socket at the Geneve port, for packets that the fast path cannot send.
//!
//! The kernel fragments what leaves here and reassembles what arrives, so that a packet of any size gets through. What
//! the fast path does not take out of the tunnel reaches this socket as well; here, too, nothing goes by without its
//! tag.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket as StdSocket},
    os::fd::AsRawFd as _,
};

use anyhow::{Context as _, Result, anyhow};
use forwarder_common::{
    geneve::{self, Head, Inner, Kind, Sender},
    ids::{EtherType, NodeId},
    net,
};
use tokio::net::UdpSocket;

/// Bytes of the socket's receive buffer that are asked for: some hundred packets of 20 kB.
const RECEIVE_BUFFER: libc::c_int = 4 << 20;
/// Largest datagram, and so the buffer to receive in.
pub const DATAGRAM: usize = 65_535;

/// The socket, and who this node is in the tunnel.
#[derive(Debug)]
pub struct Tunnel {
    socket: UdpSocket,
    /// The same socket, to send without asking the runtime first whether it may.
    sender: StdSocket,
    node: NodeId,
    vni: u32,
    tag_key: [[u64; 2]; 2],
    tag_epoch: u8,
}

/// A tunnel packet of a peer.
#[derive(Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// The peer.
    pub from: NodeId,
    /// The packet is a fragment to be reassembled here.
    pub reassemble: bool,
    /// The IP packet inside.
    pub packet: &'a [u8],
}

impl Tunnel {
    /// Opens the socket at this node's underlay address; call within a tokio runtime.
    ///
    /// # Errors
    /// The address is not this host's, or another program has the port.
    pub fn open(underlay: IpAddr, node: NodeId, vni: u32, tag_key: [[u64; 2]; 2], tag_epoch: u8) -> Result<Self> {
        let port = geneve::PORT;
        let socket = StdSocket::bind((underlay, port)).map_err(|error| {
            #[expect(
                clippy::wildcard_enum_match_arm,
                reason = "all other errors have one hint, and there are new ones with each Rust"
            )]
            let hint = match error.kind() {
                io::ErrorKind::AddrNotAvailable => "`underlay` must be an address of this host",
                io::ErrorKind::AddrInUse => "another program has the Geneve port: stop it, or give it another address",
                _ => "correct `underlay`",
            };
            anyhow!("listen for tunnel packets on {}: {error}; hint: {hint}", SocketAddr::from((underlay, port)))
        })?;
        prepare(&socket, underlay).context("prepare the socket for tunnel packets")?;
        let sender = socket.try_clone().context("share the socket for tunnel packets")?;
        let socket = UdpSocket::from_std(socket).context("wait for tunnel packets")?;
        Ok(Self { socket, sender, node, vni, tag_key, tag_epoch })
    }

    /// From now on tags are made and checked with these.
    pub const fn set_keys(&mut self, tag_key: [[u64; 2]; 2], tag_epoch: u8) {
        self.tag_key = tag_key;
        self.tag_epoch = tag_epoch;
    }

    /// Waits for a datagram: its length and who sent it.
    ///
    /// # Errors
    /// The socket is broken.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.socket.recv_from(buffer).await
    }

    /// The next datagram that has arrived.
    ///
    /// # Errors
    /// None has ([`io::ErrorKind::WouldBlock`]), or the socket is broken.
    pub fn try_receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.socket.try_recv_from(buffer)
    }

    /// Reads a datagram from `from`, whose node `address_of` must know; `None`: it is no tunnel packet of a peer.
    #[must_use]
    pub fn read<'a>(
        &self,
        datagram: &'a [u8],
        from: IpAddr,
        address_of: impl Fn(NodeId) -> Option<IpAddr>,
    ) -> Option<Received<'a>> {
        let header = geneve::receive(&datagram, 0)?;
        let packet = datagram.get(geneve::TUNNEL - net::UDP..)?;
        let ip = net::ip(&packet, 0, header.protocol)?;
        let node = NodeId::new(header.head.node)?;
        if header.vni != self.vni || ip.length() != packet.len() || address_of(node) != Some(from) {
            return None;
        }
        let key = if header.head.key_epoch & 1 == 0 { self.tag_key[0] } else { self.tag_key[1] };
        if Inner::read(&packet, &ip)?.tag(key, &header.head) != header.tag {
            return None;
        }
        Some(Received { from: node, reassemble: header.head.kind == Kind::Reassemble, packet })
    }

    /// Sends an IP packet to the node at `to`.
    ///
    /// # Errors
    /// It is no IP packet, is too large for one datagram, or the socket's buffer is full.
    pub fn send(&self, to: IpAddr, packet: &[u8], reassemble: bool) -> io::Result<()> {
        let kind = if packet.first().is_some_and(|first| first >> 4 == 6) { EtherType::IPV6 } else { EtherType::IPV4 };
        let inner = net::ip(&packet, 0, kind).and_then(|ip| Inner::read(&packet, &ip));
        let inner = inner.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it is no IP packet"))?;
        let key = if self.tag_epoch & 1 == 0 { self.tag_key[0] } else { self.tag_key[1] };
        let kind = if reassemble { Kind::Reassemble } else { Kind::Data };
        let sender = Sender { head: Head::new(self.node.number(), kind, self.tag_epoch), vni: self.vni, key };
        let mut datagram: Vec<u8> =
            geneve::header(&sender, &inner).iter().flat_map(|word| word.to_le_bytes()).collect();
        datagram.extend(packet);
        self.sender.send_to(&datagram, (to, geneve::PORT)).map(drop)
    }
}

/// Has the kernel fragment what is too large, instead of refusing it, and keep what arrives in a burst.
fn prepare(socket: &StdSocket, underlay: IpAddr) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    ignore_path_mtu(socket, underlay)?;
    // More than the system's limit needs CAP_NET_ADMIN, which the daemon has.
    set(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)
        .or_else(|_| set(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BUFFER))
}

/// From now on the kernel neither learns a path's MTU from ICMP messages about packets of this socket, which anybody
/// can forge, nor goes by one that it has learned otherwise: what is larger than the interface's MTU leaves in
/// fragments. `local`: where the socket is bound.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn ignore_path_mtu(socket: &StdSocket, local: IpAddr) -> io::Result<()> {
    match local {
        IpAddr::V4(_) => set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT),
        IpAddr::V6(_) => set(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_OMIT),
    }
}

fn set(socket: &StdSocket, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is an integer of the length that is given, and lives through the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const KEYS: [[u64; 2]; 2] = [[1, 2], [3, 4]];

    fn node(id: u16) -> NodeId {
        NodeId::new(id).unwrap()
    }

    /// An IPv4 packet with `payload` bytes behind a UDP header.
    fn packet(payload: usize) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 10, 19, 196, 19, 196];
        packet.extend((payload as u16 + 8).to_be_bytes());
        packet.extend([0, 0]);
        packet.resize(28 + payload, 7);
        let length = packet.len() as u16;
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        packet
    }

    #[tokio::test]
    async fn what_one_node_sends_the_other_reads_and_nobody_else_may() {
        let to = Ipv4Addr::new(127, 0, 77, 1);
        let from = Ipv4Addr::new(127, 0, 77, 2);
        let receiver = Tunnel::open(to.into(), node(1), 9, KEYS, 0).unwrap();
        let sender = Tunnel::open(from.into(), node(2), 9, KEYS, 1).unwrap();
        for size in [0, 1400, 20_000, 65_400] {
            sender.send(to.into(), &packet(size), size == 1400).unwrap();
            let mut buffer = vec![0; DATAGRAM];
            let (length, source) = receiver.receive(&mut buffer).await.unwrap();
            assert_eq!(source.ip(), IpAddr::from(from));
            let known = |id: NodeId| (id == node(2)).then_some(IpAddr::from(from));
            let read = |bytes: &[u8], source: IpAddr| receiver.read(bytes, source, known).is_some();
            let good = &buffer[..length];
            let got = receiver.read(good, source.ip(), known).unwrap();
            assert_eq!(got, Received { from: node(2), reassemble: size == 1400, packet: &packet(size) });
            assert!(!read(good, to.into()), "another address");
            assert!(!read(&good[..length - 1], source.ip()), "cut off");
            for at in [0, 4, 9, 13, 14, 16, 20, 24, 32 + 13] {
                let mut bad = good.to_vec();
                bad[at] ^= 1;
                assert!(!read(&bad, source.ip()), "byte {at}");
            }
        }
        assert!(sender.send(to.into(), b"no packet", false).is_err());
    }

    #[tokio::test]
    async fn an_address_of_another_host_is_refused_in_one_sentence() {
        let error = Tunnel::open(Ipv4Addr::new(192, 0, 2, 99).into(), node(1), 9, KEYS, 0).unwrap_err().to_string();
        assert!(error.starts_with("listen for tunnel packets on 192.0.2.99:6081: "), "{error}");
        assert!(error.ends_with("hint: `underlay` must be an address of this host"), "{error}");
    }
}
