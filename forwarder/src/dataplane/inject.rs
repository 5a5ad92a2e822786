//! Putting packets into the host's own stack, as if the network card had just received them.
//!
//! A test run of a program that passes all, with live frames (Linux 5.18, commit b530e9e1063e), enters the stack behind
//! native XDP. Generic XDP runs behind that entry, and would punt the packet again: there the packet goes as a tunnel
//! packet from this node to itself, which ingress unpacks and never sends on.

use std::{ffi::CString, io};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf,
    programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp},
};
use forwarder_common::{
    abi::{Config, Peer},
    geneve::{self, Headers, Inner, OuterIp, OuterV4, OuterV6, Sender},
    ids::EtherType,
    net,
};

use super::{attach, maps::Maps};
use crate::fragments;

/// Frames injected in one run. More would spare page-pool ids in a flood, but on a busy host packets of such runs got lost
/// behind native XDP on veth, for a reason that is not found yet.
const FRAMES_A_RUN: usize = 1;
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

/// `xdp_md` of linux/bpf.h, as a test run takes it.
#[repr(C)]
struct Context {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// Injects packets in their order, in fragments those that are larger than a frame.
///
/// Each run takes one of the kernel's 65,534 page-pool ids, which it gives back a second later at the earliest.
pub(super) fn inject(
    ebpf: &mut Ebpf,
    maps: &mut Maps,
    config: &Config,
    interface: &Interface,
    packets: &[Vec<u8>],
) -> Result<()> {
    let mut frames = Vec::new();
    for packet in packets {
        for part in fragments::split(packet, MTU)? {
            frames.push(if interface.generic { wrapped(config, interface, &part)? } else { plain(interface, &part) });
        }
    }
    frames.chunks(FRAMES_A_RUN).try_for_each(|frames| run(ebpf, maps, interface, frames))
}

fn run(ebpf: &mut Ebpf, maps: &mut Maps, interface: &Interface, frames: &[Vec<u8>]) -> Result<()> {
    let program: &mut Xdp = attach::program(ebpf, attach::INJECT)?;
    // The program makes each frame of the run shorter, which always works.
    let Some(longest) = frames.iter().max_by_key(|frame| frame.len()) else { return Ok(()) };
    maps.set_injections(frames, longest.len())?;
    let context = Context {
        data: 0,
        data_end: u32::try_from(longest.len())?,
        data_meta: 0,
        ingress_ifindex: interface.ifindex,
        rx_queue_index: 0,
        egress_ifindex: 0,
    };
    // SAFETY: a struct of six integers without padding, which lives through the run.
    let bytes = unsafe { std::slice::from_raw_parts((&raw const context).cast::<u8>(), size_of::<Context>()) };
    let count = u32::try_from(frames.len())?;
    let options = TestRunOptions {
        data_in: Some(longest),
        ctx_in: Some(bytes),
        repeat: count,
        attrs: TestRunAttrs::new().xdp_live_frames(count),
        ..TestRunOptions::default()
    };
    program.test_run(options).with_context(|| format!("inject {count} packets"))?;
    match maps.failed_injections()? {
        0 => Ok(()),
        failed => bail!("inject {count} packets: {failed} did not fit"),
    }
}

fn ether_type(packet: &[u8]) -> EtherType {
    if packet.first().is_some_and(|first| first >> 4 == 6) { EtherType::IPV6 } else { EtherType::IPV4 }
}

fn plain(interface: &Interface, packet: &[u8]) -> Vec<u8> {
    let kind = ether_type(packet).0.to_be_bytes();
    [&interface.mac, &interface.mac, kind.as_slice(), packet].concat()
}

/// The packet in a tunnel from this node to itself.
fn wrapped(config: &Config, interface: &Interface, packet: &[u8]) -> Result<Vec<u8>> {
    let inner = net::ip(&packet, 0, ether_type(packet)).and_then(|ip| Inner::read(&packet, &ip));
    let Some(inner) = inner else { bail!("inject a packet of {} bytes: it is no IP packet", packet.len()) };
    let peer = Peer {
        address: config.underlay,
        source: config.underlay,
        destination_mac: interface.mac,
        source_mac: interface.mac,
        ..Peer::default()
    };
    let epoch = config.tag_epoch;
    let key = if epoch & 1 == 0 { config.tag_key[0] } else { config.tag_key[1] };
    let sender = Sender { node: config.node, vni: config.vni, flags: geneve::LOCAL, key_epoch: epoch, key };
    Ok(if config.underlay.is_v4() {
        [Headers::<OuterV4>::new(&peer, &sender, &inner).bytes(), packet].concat()
    } else {
        [Headers::<OuterV6>::new(&peer, &sender, &inner).bytes(), packet].concat()
    })
}

const _: () = assert!(OuterV6::LENGTH == net::IPV6);
