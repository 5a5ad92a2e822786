//! An XDP program that passes everything, for the router's ends of the cables: without one there, veth leaves packets
//! that an XDP program at the other end transmits lying in its ring until something else comes (`veth_xdp_flush` of
//! Linux).

use std::ffi::CString;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use anyhow::{Context as _, Result, ensure};

/// `BPF_PROG_LOAD` and `BPF_LINK_CREATE` of bpf(2).
const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
/// `BPF_PROG_TYPE_XDP` and `BPF_XDP`.
const TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
/// `XDP_FLAGS_DRV_MODE`.
const NATIVE: u32 = 4;
/// `r0 = XDP_PASS; exit`.
const PROGRAM: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];

/// The head of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log: [u32; 4],
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// The head of `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct Create {
    prog_fd: RawFd,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches it to an interface of this thread's namespace, until the descriptor is closed.
pub(super) fn attach(interface: &str) -> Result<OwnedFd> {
    let name = CString::new(interface).context("name an interface")?;
    // SAFETY: the name ends with NUL.
    let target_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) };
    ensure!(target_ifindex != 0, "find {interface}: {}", std::io::Error::last_os_error());
    let load = Load {
        prog_type: TYPE_XDP,
        insn_cnt: 2,
        insns: PROGRAM.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log: [0; 4],
        kern_version: 0,
        prog_flags: 0,
        prog_name: *b"lab_pass\0\0\0\0\0\0\0\0",
        prog_ifindex: 0,
        expected_attach_type: ATTACH_XDP,
    };
    let program = bpf(PROG_LOAD, &load).context("load an XDP program that passes all")?;
    let create = Create { prog_fd: program.as_raw_fd(), target_ifindex, attach_type: ATTACH_XDP, flags: NATIVE };
    bpf(LINK_CREATE, &create).with_context(|| format!("attach an XDP program to {interface}"))
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> Result<OwnedFd> {
    // SAFETY: bpf(2) reads at most the given length of the structure, which is alive, as is what it points to.
    let status = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    ensure!(status >= 0, "bpf: {}", std::io::Error::last_os_error());
    // SAFETY: both commands answer with a descriptor that belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(status).context("read a descriptor")?) })
}
