//! Putting packets into the host's own stack, as if the network card had just received them.
//!
//! A test run of a program of the traffic control hooks that redirects a copy of its packet to an interface's ingress:
//! the copy waits in the CPU's backlog (`net.core.netdev_max_backlog`) like one of a card without NAPI, behind native
//! XDP. Live frames of XDP test runs (Linux 5.18) would do too, but each run makes a page pool: some ten times as dear,
//! and the 65,534 ids of the machine's pools come back a second later at the earliest.
//!
//! Generic XDP runs behind that entry, and would punt the packet again: there the packet goes as a tunnel packet from
//! this node to itself, which ingress unpacks and never sends on.

use std::{ffi::CString, io};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf,
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use forwarder_common::{
    abi::{Config, Peer},
    clock::Time,
    geneve::{self, Head, Headers, Inner, Kind, OuterIp, OuterV4, OuterV6, Sender},
    net::{self, Ip},
};

use super::attach;
use forwarder_core::fragments;

/// Largest IP packet of an injected frame: with a tunnel header around it, it fits the page of a test run.
const MTU: usize = 1500;

/// An interface that packets are injected at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub ifindex: u32,
    /// Its MAC address: what has another as destination would not be for this host.
    pub mac: [u8; 6],
    /// XDP is attached to it in generic mode.
    pub generic: bool,
}

impl Interface {
    /// Looks an interface up by its name.
    ///
    /// # Errors
    /// There is none of this name, or it is no Ethernet interface.
    pub fn find(name: &str, generic: bool) -> Result<Self> {
        let c_name = CString::new(name).context("use the interface: its name has a NUL byte")?;
        // SAFETY: the name ends with NUL.
        let ifindex = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
        if ifindex == 0 {
            return Err(io::Error::last_os_error()).with_context(|| format!("find interface {name}"));
        }
        let mac = hardware_address(&c_name).with_context(|| format!("read the MAC address of {name}"))?;
        Ok(Self { ifindex, mac, generic })
    }
}

fn hardware_address(name: &CString) -> io::Result<[u8; 6]> {
    // SAFETY: zeroed bytes are a value of this struct of integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
        *to = from.cast_signed();
    }
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: the request is of the type that this call reads and fills.
    if unsafe { libc::ioctl(fd, libc::SIOCGIFHWADDR, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has succeeded, so this is the member that it filled.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr };
    if address.sa_family != libc::ARPHRD_ETHER {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "it is no Ethernet interface"));
    }
    let mut mac = [0; 6];
    for (to, from) in mac.iter_mut().zip(address.sa_data) {
        *to = from.cast_unsigned();
    }
    Ok(mac)
}

/// What the stack answers for a packet that it has no room for: netdevice.h of Linux.
const NET_RX_DROP: i32 = 1;
/// The first words of `__sk_buff` of linux/bpf.h, as a test run takes them.
type Context = [u32; IFINDEX + 1];
/// The word that says at which interface the packet is.
const IFINDEX: usize = 10;

/// Injects packets in their order, in fragments those that are larger than a frame.
///
/// # Errors
/// The interface is gone or down, or the CPU's backlog is full.
pub(super) fn inject(ebpf: &mut Ebpf, config: &Config, interface: &Interface, packets: &[Vec<u8>]) -> Result<()> {
    let program: &mut SchedClassifier = attach::program(ebpf, attach::INJECT)?;
    for packet in packets {
        for part in fragments::split(packet, MTU)? {
            let frame = if interface.generic { wrapped(config, interface, &part)? } else { plain(interface, &part)? };
            run(program, interface, &frame)?;
        }
    }
    Ok(())
}

fn run(program: &SchedClassifier, interface: &Interface, frame: &[u8]) -> Result<()> {
    let mut context = Context::default();
    context[IFINDEX] = interface.ifindex;
    // SAFETY: an array of integers, which lives through the run.
    let bytes = unsafe { std::slice::from_raw_parts((&raw const context).cast::<u8>(), size_of::<Context>()) };
    let options = TestRunOptions { data_in: Some(frame), ctx_in: Some(bytes), ..TestRunOptions::default() };
    let doing = || format!("inject a packet at interface {}", interface.ifindex);
    match program.test_run(options).with_context(doing)?.return_value.cast_signed() {
        0 => Ok(()),
        NET_RX_DROP => bail!("{}: this CPU's backlog is full; hint: raise net.core.netdev_max_backlog", doing()),
        error => Err(io::Error::from_raw_os_error(-error)).with_context(doing),
    }
}

fn ip(packet: &[u8]) -> Result<Ip> {
    net::packet(&packet).with_context(|| format!("inject a packet of {} bytes: it is no IP packet", packet.len()))
}

fn plain(interface: &Interface, packet: &[u8]) -> Result<Vec<u8>> {
    let kind = ip(packet)?.ether_type().0.to_be_bytes();
    Ok([&interface.mac, &interface.mac, kind.as_slice(), packet].concat())
}

/// The packet in a tunnel from this node to itself.
fn wrapped(config: &Config, interface: &Interface, packet: &[u8]) -> Result<Vec<u8>> {
    let inner = Inner::read(&packet, &ip(packet)?);
    let inner = inner.with_context(|| format!("inject a packet of {} bytes: it is cut off", packet.len()))?;
    let peer = Peer {
        address: config.underlay,
        source: config.underlay,
        destination_mac: interface.mac,
        source_mac: interface.mac,
        ..Peer::default()
    };
    let epoch = config.tag_epoch;
    let key = geneve::tag_key(config.tag_key, epoch);
    let sender = Sender { head: Head::new(config.node, Kind::Local, epoch, Time::default()), vni: config.vni, key };
    Ok(if config.underlay.is_v4() {
        [Headers::<OuterV4>::new(&peer, &sender, &inner).bytes(), packet].concat()
    } else {
        [Headers::<OuterV6>::new(&peer, &sender, &inner).bytes(), packet].concat()
    })
}

const _: () = assert!(OuterV6::LENGTH == net::IPV6);
