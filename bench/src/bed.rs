//! A network namespace with one veth pair, what its interfaces have counted, and the CPU time of this thread.

use std::{fs, net::UdpSocket, os::fd::AsRawFd as _, process::Command};

use anyhow::{Context as _, Result, ensure};

/// The end that the sender sends through.
pub(crate) const SENDER: &str = "bench0";
/// The other end, where packets arrive.
pub(crate) const RECEIVER: &str = "bench1";
/// The service's address, as in the frames.
const VIP: &str = "192.0.2.10";
/// Where the service's packets go.
const CLIENTS: &str = "198.51.100.0/24";
/// One of them, of which the sender's interface knows the next hop.
pub(crate) const CLIENT: [u8; 4] = [198, 51, 100, 5];

/// The pair, and sockets that nobody reads: what arrives for them is dropped where their queues end.
pub(crate) struct Bed {
    pub(crate) sender: u32,
    pub(crate) receiver: u32,
    sockets: [UdpSocket; 2],
}

impl Bed {
    /// Makes both in a namespace of this thread's own, which goes with it.
    pub(crate) fn make() -> Result<Self> {
        // SAFETY: no memory is handed over.
        ensure!(unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0, "make a network namespace; hint: run as root");
        for name in ["all", "default"] {
            let write = |path: String, value| fs::write(&path, value).with_context(|| format!("write {path}"));
            write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0")?;
            // Nothing of its own is to be said on the pair.
            let _ = write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
        }
        ip("link set lo up")?;
        ip(&format!("link add {SENDER} type veth peer name {RECEIVER}"))?;
        // As the frames have it.
        ip(&format!("link set {RECEIVER} address aa:aa:aa:aa:aa:aa up"))?;
        ip(&format!("link set {SENDER} address 02:00:00:00:00:01 up"))?;
        ip(&format!("address add {VIP}/32 dev lo"))?;
        ip(&format!("route add {CLIENTS} dev {SENDER}"))?;
        // Not the other end's: its stack looks at the address and drops the packet.
        ip(&format!("neighbour add 198.51.100.5 lladdr 02:00:00:00:00:99 dev {SENDER}"))?;
        // Without it frames that are sent as such would need an XDP program to arrive.
        switch_gro_on(RECEIVER)?;
        let socket = |port| UdpSocket::bind((VIP, port)).context("open a socket of the service");
        let sockets = [socket(5060)?, socket(20_000)?];
        Ok(Self { sender: index(SENDER)?, receiver: index(RECEIVER)?, sockets })
    }

    /// A socket of the service, or with `media` one beside it.
    pub(crate) const fn socket(&self, media: bool) -> &UdpSocket {
        if media { &self.sockets[1] } else { &self.sockets[0] }
    }
}

/// Runs `ip`.
pub(crate) fn ip(arguments: &str) -> Result<()> {
    let status = Command::new("ip").args(arguments.split(' ')).status().context("run ip; hint: install iproute2")?;
    ensure!(status.success(), "run ip {arguments}: {status}");
    Ok(())
}

fn index(name: &str) -> Result<u32> {
    let name = std::ffi::CString::new(name).context("use an interface's name")?;
    // SAFETY: the name ends with NUL.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    ensure!(index != 0, "find an interface: {}", std::io::Error::last_os_error());
    Ok(index)
}

fn switch_gro_on(interface: &str) -> Result<()> {
    /// `ETHTOOL_SGRO` of linux/ethtool.h.
    const SET_GRO: u32 = 0x2c;
    /// `SIOCETHTOOL` of linux/sockios.h.
    const ETHTOOL: libc::Ioctl = 0x8946;
    let mut value = [SET_GRO, 1];
    // SAFETY: zeroed bytes are a value of this struct of integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.as_bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    // SAFETY: the request and what it points to are what this call reads, and live through it.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), ETHTOOL, &raw mut request) };
    ensure!(done == 0, "switch GRO on at {interface}: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Packets that an interface has received.
pub(crate) fn received(interface: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/dev").context("read /proc/thread-self/net/dev")?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'));
    let packets = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    packets.with_context(|| format!("read the packets of {interface}"))
}

/// Datagrams that have come as far as a socket's queue.
pub(crate) fn datagrams() -> Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/snmp").context("read /proc/thread-self/net/snmp")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let counts =
        names.split(' ').zip(values.split(' ')).filter(|(name, _)| matches!(*name, "InDatagrams" | "RcvbufErrors"));
    Ok(counts.filter_map(|(_, value)| value.parse::<u64>().ok()).sum())
}

/// CPU time, in nanoseconds, of this thread and of the kernel's thread that does its CPU's network work when there is
/// much.
pub(crate) struct Work {
    schedstat: Option<String>,
}

impl Work {
    /// On this CPU, which the thread must keep to.
    pub(crate) fn on(cpu: usize) -> Self {
        let name = format!("ksoftirqd/{cpu}");
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
        let mut named =
            processes.filter(|path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name));
        Self { schedstat: named.next().map(|path| format!("{}/schedstat", path.display())) }
    }

    /// So far.
    pub(crate) fn ns(&self) -> u64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a local of the right type; this clock always exists.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
        let own = time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned();
        let text = self.schedstat.as_ref().and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        own + text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or_default()
    }
}

/// Sends so many datagrams, these one after the other and again, as many a call as fit.
pub(crate) fn pour(socket: &UdpSocket, payloads: &[&[u8]], count: u32) -> Result<()> {
    const A_CALL: usize = 64;
    let mut to = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 5060_u16.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(CLIENT) },
        sin_zero: [0; 8],
    };
    let mut left = payloads
        .iter()
        .cycle()
        .take(count as usize)
        .map(|payload| libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() });
    loop {
        let mut parts: Vec<_> = left.by_ref().take(A_CALL).collect();
        if parts.is_empty() {
            return Ok(());
        }
        let messages = parts.iter_mut().map(|part| {
            // SAFETY: zeroed bytes are a value of this struct of integers and pointers.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_name = (&raw mut to).cast();
            message.msg_hdr.msg_namelen = size_of_val(&to) as libc::socklen_t;
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
            message
        });
        let mut messages: Vec<_> = messages.collect();
        let mut unsent = &mut messages[..];
        while !unsent.is_empty() {
            // SAFETY: the messages and what they point to live through the call, which only reads the payloads.
            let sent =
                unsafe { libc::sendmmsg(socket.as_raw_fd(), unsent.as_mut_ptr(), unsent.len() as libc::c_uint, 0) };
            ensure!(sent > 0, "send datagrams: {}", std::io::Error::last_os_error());
            unsent = &mut unsent[sent as usize..];
        }
    }
}
