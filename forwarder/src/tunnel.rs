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
    abi::Address,
    clock::{Clock, Time},
    geneve::{self, Head, Inner, Kind, Sender},
    ids::NodeId,
    net,
    question::{self, Answer},
    tunnel::{self, Receiver, Taken},
};
use tokio::net::UdpSocket;

/// Bytes of the socket's receive buffer that are asked for: some hundred packets of 20 kB.
const RECEIVE_BUFFER: libc::c_int = 4 << 20;
/// `udp.h` of Linux.
const UDP_NO_CHECK6_RX: libc::c_int = 102;
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
pub enum Received<'a> {
    /// An IP packet for this node.
    Packet {
        /// It is a fragment to be reassembled here.
        reassemble: bool,
        /// The packet.
        packet: &'a [u8],
    },
    /// A question that this node's programs have not answered.
    Question(Question, &'a [u8]),
    /// What a peer's programs or daemon answer to a question of this node.
    Answer {
        /// What was asked.
        question: Question,
        /// The answer.
        answer: Answer,
        /// When it was sent, by the peer's clock.
        time: Time,
    },
}

/// What was asked through the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The request key, 0 for none.
    pub request_key: u64,
    /// The reply key, 0 for none.
    pub reply_key: u64,
    /// The asker's name for it.
    pub ticket: u32,
}

impl Question {
    /// Whether it asks for a claim, or else only whether somebody answers.
    #[must_use]
    pub const fn is_for_claim(&self) -> bool {
        self.request_key != 0 || self.reply_key != 0
    }
}

/// What the daemon knows of senders, at a moment.
struct Knowledge<'a, P> {
    tunnel: &'a Tunnel,
    peer: P,
    now: Time,
}

impl<P: Fn(NodeId) -> Option<(IpAddr, Clock)>> Receiver for Knowledge<'_, P> {
    type Peer = NodeId;

    fn vni(&self) -> u32 {
        self.tunnel.vni
    }

    fn peer(&self, node: u16) -> Option<(NodeId, Address, Clock)> {
        let node = NodeId::new(node)?;
        let (address, clock) = (self.peer)(node)?;
        Some((node, Address::of(address), clock))
    }

    fn tag_key(&self, key_epoch: u8) -> [u64; 2] {
        geneve::tag_key(self.tunnel.tag_key, key_epoch)
    }

    fn now(&self) -> Time {
        self.now
    }
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

    /// Reads a datagram from `from`, whose node `peer` must know with its clock; with the node. `None`: it is no tunnel
    /// packet of a peer, or not sent just now.
    #[must_use]
    pub fn read<'a>(
        &self,
        datagram: &'a [u8],
        from: IpAddr,
        now: Time,
        peer: impl Fn(NodeId) -> Option<(IpAddr, Clock)>,
    ) -> Option<(NodeId, Received<'a>)> {
        let receiver = Knowledge { tunnel: self, peer, now };
        let taken = tunnel::take(&datagram, (0, datagram.len()), Address::of(from), &receiver).ok()?;
        let Taken { peer: node, head, inside, inner, .. } = taken;
        let packet = datagram.get(inside.start..)?;
        let (request_key, reply_key) = question::keys(inner.source);
        let question = Question { request_key, reply_key, ticket: question::ticket(inner.start) };
        let received = match head.kind {
            Kind::Data | Kind::Local | Kind::Relay => Received::Packet { reassemble: false, packet },
            Kind::Reassemble => Received::Packet { reassemble: true, packet },
            Kind::Ask | Kind::Probe => Received::Question(question, packet),
            Kind::Answer => Received::Answer { question, answer: Answer::of(inner.destination)?, time: head.time },
        };
        Some((node, received))
    }

    /// Asks the programs of the node at `to`.
    ///
    /// # Errors
    /// The socket's buffer is full, or the kernel has no route.
    pub fn ask(&self, to: IpAddr, question: &Question, now: Time) -> io::Result<()> {
        let kind = if question.is_for_claim() { Kind::Ask } else { Kind::Probe };
        let packet = question::packet(question.request_key, question.reply_key, question.ticket);
        self.send_as(to, &packet, kind, now)
    }

    /// Answers the question in `packet` of the node at `to`.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn answer(&self, to: IpAddr, packet: &[u8], answer: Answer, now: Time) -> io::Result<()> {
        let mut packet = packet.to_vec();
        let Address(words) = answer.address();
        for (to, from) in packet.iter_mut().skip(question::DESTINATION).zip(words.map(u32::to_ne_bytes).as_flattened())
        {
            *to = *from;
        }
        self.send_as(to, &packet, Kind::Answer, now)
    }

    /// Sends an IP packet to the node at `to`.
    ///
    /// # Errors
    /// It is no IP packet, is too large for one datagram, or the socket's buffer is full.
    pub fn send(&self, to: IpAddr, packet: &[u8], reassemble: bool, now: Time) -> io::Result<()> {
        self.send_as(to, packet, if reassemble { Kind::Reassemble } else { Kind::Data }, now)
    }

    fn send_as(&self, to: IpAddr, packet: &[u8], carried: Kind, now: Time) -> io::Result<()> {
        let inner = net::packet(&packet).and_then(|ip| Inner::read(&packet, &ip));
        let inner = inner.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it is no IP packet"))?;
        let key = geneve::tag_key(self.tag_key, self.tag_epoch);
        let head = Head::new(self.node.number(), carried, self.tag_epoch, now);
        let sender = Sender { head, vni: self.vni, key };
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
    if underlay.is_ipv6() {
        // What a program sends has no UDP checksum where the packet inside has none (RFC 6935).
        set(socket, libc::IPPROTO_UDP, UDP_NO_CHECK6_RX, 1)?;
    }
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

    use forwarder_common::ids::Epochs;

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
            let (now, clock) = (Time(70), Clock(1000));
            sender.send(to.into(), &packet(size), size == 1400, Time(1070)).unwrap();
            let mut buffer = vec![0; DATAGRAM];
            let (length, source) = receiver.receive(&mut buffer).await.unwrap();
            assert_eq!(source.ip(), IpAddr::from(from));
            let known = |id: NodeId| (id == node(2)).then_some((IpAddr::from(from), clock));
            let read = |bytes: &[u8], source: IpAddr| receiver.read(bytes, source, now, known).is_some();
            let good = &buffer[..length];
            let got = receiver.read(good, source.ip(), now, known).unwrap();
            assert_eq!(got, (node(2), Received::Packet { reassemble: size == 1400, packet: &packet(size) }));
            let later = Time(now.0 + Time::WINDOW + 1);
            assert!(receiver.read(good, source.ip(), later, known).is_none(), "a replay");
            assert!(!read(good, to.into()), "another address");
            assert!(!read(&good[..length - 1], source.ip()), "cut off");
            for at in [0, 4, 9, 13, 14, 16, 20, 24, 32 + 13] {
                let mut bad = good.to_vec();
                bad[at] ^= 1;
                assert!(!read(&bad, source.ip()), "byte {at}");
            }
        }
        assert!(sender.send(to.into(), b"no packet", false, Time(0)).is_err());
    }

    #[tokio::test]
    async fn a_question_comes_back_with_its_answer() {
        for (here, there) in [("127.0.77.3", "127.0.77.4"), ("::1", "::1")] {
            let (here, there): (IpAddr, IpAddr) = (here.parse().unwrap(), there.parse().unwrap());
            let asker = Tunnel::open(here, node(1), 9, KEYS, 0).unwrap();
            let Ok(asked) = Tunnel::open(there, node(2), 9, KEYS, 1) else {
                // One socket is both where the host has one loopback address.
                let question = Question { request_key: 0, reply_key: 0, ticket: 7 };
                asker.ask(here, &question, Time(5)).unwrap();
                let mut buffer = vec![0; DATAGRAM];
                let (length, _) = asker.receive(&mut buffer).await.unwrap();
                let got = asker.read(&buffer[..length], here, Time(0), |_| Some((here, Clock(0)))).unwrap();
                assert!(matches!(got, (_, Received::Question(same, _)) if same == question), "{got:?}");
                continue;
            };
            let question = Question { request_key: 1 << 60, reply_key: 0, ticket: u32::MAX };
            asker.ask(there, &question, Time(5)).unwrap();
            let (mut buffer, mut back) = (vec![0; DATAGRAM], vec![0; DATAGRAM]);
            let (length, _) = asked.receive(&mut buffer).await.unwrap();
            let old = Time(u32::MAX / 2);
            let got = asked.read(&buffer[..length], here, old, |_| Some((here, Clock(1)))).unwrap();
            let (from, Received::Question(same, packet)) = got else { panic!("{got:?}") };
            assert_eq!((from, same), (node(1), question), "whatever the clocks show");
            let answer = Answer { held: None, epochs: Epochs::from_bits(6), has_daemon: true };
            asked.answer(here, packet, answer, Time(9)).unwrap();
            let (length, _) = asker.receive(&mut back).await.unwrap();
            let got = asker.read(&back[..length], there, old, |_| Some((there, Clock(1)))).unwrap();
            assert_eq!(got, (node(2), Received::Answer { question, answer, time: Time(9) }));
        }
    }

    #[tokio::test]
    async fn an_address_of_another_host_is_refused_in_one_sentence() {
        let error = Tunnel::open(Ipv4Addr::new(192, 0, 2, 99).into(), node(1), 9, KEYS, 0).unwrap_err().to_string();
        assert!(error.starts_with("listen for tunnel packets on 192.0.2.99:6081: "), "{error}");
        assert!(error.ends_with("hint: `underlay` must be an address of this host"), "{error}");
    }
}
