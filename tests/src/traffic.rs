//! Single packets: for tests in which a proxy would say too much.
//!
//! A test that plays a proxy itself knows exactly which packet met which claim.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::{Family, Host, Lab, SIP};

pub mod raw;

/// How long a packet may take through the lab.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Bytes of a socket's receive buffer: room for a burst that nobody reads yet.
const BUFFER: usize = 4 << 20;

/// A UDP socket of a host of the lab.
#[derive(Debug)]
pub struct Endpoint(UdpSocket);

impl Endpoint {
    /// Binds in `host`.
    ///
    /// # Errors
    /// The address is not the host's, or the port is taken.
    pub fn bind(lab: &Lab, host: Host, address: IpAddr, port: u16) -> Result<Self> {
        let at = SocketAddr::new(address, port);
        let bound = lab.host(host).within(|| UdpSocket::bind(at).context("bind"));
        let socket = bound.with_context(|| format!("bind {at} in {}", host.name()))?;
        socket.set_read_timeout(Some(TIMEOUT)).context("set a time limit")?;
        socket2::SockRef::from(&socket).set_recv_buffer_size(BUFFER).context("set the socket's buffer")?;
        Ok(Self(socket))
    }

    /// A client's socket at SIP's port.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub fn client(lab: &Lab, family: Family) -> Result<Self> {
        Self::bind(lab, Host::Client, Host::Client.address(family), SIP)
    }

    /// A socket in a proxy's place: the shared address and SIP's port on an edge.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub fn proxy(lab: &Lab, edge: u8, family: Family) -> Result<Self> {
        Self::bind(lab, Host::Edge(edge), family.vip(), SIP)
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn send(&self, payload: &[u8], to: SocketAddr) -> Result<()> {
        self.0.send_to(payload, to).with_context(|| format!("send to {to}")).map(drop)
    }

    /// Sends many datagrams of `size` bytes, the last of which may be shorter, as one packet that the kernel or the
    /// network card cuts (generic segmentation offload).
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn send_segments(&self, payloads: &[u8], size: u16, to: SocketAddr) -> Result<()> {
        for (segment, payloads) in [(size, payloads), (0, &[])] {
            let value = libc::c_int::from(segment);
            let length = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or_default();
            // SAFETY: the descriptor is open, the value alive and as long as said.
            let status = unsafe {
                libc::setsockopt(
                    self.0.as_raw_fd(),
                    libc::SOL_UDP,
                    libc::UDP_SEGMENT,
                    (&raw const value).cast(),
                    length,
                )
            };
            ensure!(status == 0, "set a segment size: {}", std::io::Error::last_os_error());
            if segment > 0 {
                self.send(payloads, to)?;
            }
        }
        Ok(())
    }

    /// The next datagram and where it came from.
    ///
    /// # Errors
    /// None comes within three seconds.
    pub fn receive(&self) -> Result<(Vec<u8>, SocketAddr)> {
        let mut buffer = vec![0; 65_535];
        let (length, from) = self.0.recv_from(&mut buffer).context("receive a datagram")?;
        buffer.truncate(length);
        Ok((buffer, from))
    }

    /// Fails if a datagram waits that nobody asked for.
    ///
    /// # Errors
    /// One does.
    pub fn is_empty(&self) -> Result<bool> {
        self.0.set_nonblocking(true).context("look without waiting")?;
        let waits = self.0.peek_from(&mut [0]).is_ok();
        self.0.set_nonblocking(false).context("look without waiting")?;
        Ok(!waits)
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn address(&self) -> Result<SocketAddr> {
        self.0.local_addr().context("ask for the socket's address")
    }
}

/// The shared address with SIP's port.
#[must_use]
pub const fn vip(family: Family) -> SocketAddr {
    SocketAddr::new(family.vip(), SIP)
}

/// Sends bytes as the whole of what follows the IP header, UDP header included: for lengths and checksums that lie.
///
/// # Errors
/// The kernel refuses.
pub fn send_raw_udp(lab: &Lab, from: Host, family: Family, to: IpAddr, segment: &[u8]) -> Result<()> {
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    lab.host(from).within(|| {
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::UDP)).context("open a raw socket")?;
        socket.send_to(segment, &SocketAddr::new(to, 0).into()).with_context(|| format!("send raw bytes to {to}"))?;
        Ok(())
    })
}

/// The parts of a SIP message that make its keys.
#[derive(Clone, Debug)]
pub struct Sip<'a> {
    /// The Call-ID.
    pub call_id: &'a str,
    /// The CSeq number.
    pub cseq: u32,
    /// The method, also that in the CSeq.
    pub method: &'a str,
    /// The branch of the one Via.
    pub branch: &'a str,
    /// Where the Via says that replies go.
    pub via: SocketAddr,
}

impl Sip<'_> {
    /// The request.
    #[must_use]
    pub fn request(&self) -> Vec<u8> {
        self.message(&format!("{} sip:service@example.com SIP/2.0", self.method))
    }

    /// A response to it, such as `180 Ringing`.
    #[must_use]
    pub fn response(&self, status: &str) -> Vec<u8> {
        self.message(&format!("SIP/2.0 {status}"))
    }

    fn message(&self, start: &str) -> Vec<u8> {
        let Self { call_id, cseq, method, branch, via } = self;
        let text = format!(
            "{start}\r\nVia: SIP/2.0/UDP {via};branch={branch}\r\nMax-Forwards: 70\r\n\
             From: <sip:a@example.com>;tag=1\r\nTo: <sip:b@example.com>\r\nCall-ID: {call_id}\r\n\
             CSeq: {cseq} {method}\r\nContent-Length: 0\r\n\r\n"
        );
        text.into_bytes()
    }
}

/// A message made so many bytes long by a header before its last.
#[must_use]
pub fn padded_to(message: &[u8], size: usize) -> Vec<u8> {
    const START: &str = "X-Padding: ";
    let text = String::from_utf8_lossy(message);
    let missing = size.saturating_sub(message.len() + START.len() + 2);
    text.replacen("Content-Length:", &format!("{START}{}\r\nContent-Length:", "p".repeat(missing)), 1).into_bytes()
}
