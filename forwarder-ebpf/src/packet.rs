//! Packet bytes: the reader over a frame, and the two ways to change one. A frame's pointers are reached here only.

use core::{
    arch::asm,
    ptr::{read_unaligned, write_unaligned},
};

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS, xdp_md},
    helpers::{bpf_clone_redirect, bpf_skb_load_bytes, bpf_xdp_adjust_head, bpf_xdp_load_bytes},
    programs::{TcContext, XdpContext},
};
use forwarder_common::{
    abi::Address,
    geneve::{Headers, OuterIp},
    ids::EtherType,
    net,
    reader::Reader,
};

/// Bytes of a frame that fit a small record of the daemon's ring buffer.
pub(crate) const SMALL: usize = 2048;
/// Bytes of a frame that fit a large one.
pub(crate) const LARGE: usize = 8192;

/// Largest offset that a read can have: the parser's bound and all headers are well below it.
const MASK: usize = 0xfff;

/// A frame, from its Ethernet header to its end.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    data: usize,
    end: usize,
}

impl Frame {
    /// The frame of an XDP program.
    #[inline(always)] // packet pointers live in registers
    pub(crate) fn xdp(ctx: *mut xdp_md) -> Self {
        // SAFETY: the context is valid for the program's run.
        unsafe { Self { data: (*ctx).data as usize, end: (*ctx).data_end as usize } }
    }

    /// The linear part of a TC program's frame.
    #[inline(always)] // as above
    pub(crate) fn tc(ctx: *mut __sk_buff) -> Self {
        // SAFETY: as above.
        unsafe { Self { data: (*ctx).data as usize, end: (*ctx).data_end as usize } }
    }

    /// Its length in bytes.
    #[inline(always)] // one instruction
    pub(crate) fn length(&self) -> usize {
        self.end - self.data
    }
}

/// `x` modulo 2^16 with no ties to it: the verifier refines what is tied, and then prunes nothing.
#[inline(always)] // one instruction
fn fresh(x: usize) -> usize {
    let mut y = x;
    // SAFETY: one instruction on one register.
    unsafe { asm!("{0} &= 65535", inout(reg) y, options(nomem, nostack)) }
    y
}

#[inline(always)] // one load
fn load(at: usize) -> u64 {
    // SAFETY: the caller has compared `at + 8` with the end of the frame.
    unsafe { read_unaligned(at as *const u64) }
}

impl Reader for Frame {
    #[inline(always)] // the verifier must see the bounds check beside the use
    fn word(&self, off: usize) -> Option<u64> {
        let at = self.data + (off & MASK);
        if at + 8 <= self.end {
            return Some(load(at));
        }
        // The last eight bytes of the frame, shifted.
        let back = fresh(self.end - self.data).wrapping_sub(8);
        let at = self.data + (back & MASK);
        if at + 8 > self.end {
            return None;
        }
        let past = off.wrapping_sub(back);
        if past >= 8 { None } else { Some(load(at) >> (past * 8)) }
    }

    #[inline(always)] // as above
    fn block(&self, off: usize) -> Option<[u64; 4]> {
        let at = self.data + (off & MASK);
        if at + 32 > self.end {
            return None;
        }
        Some([load(at), load(at + 8), load(at + 16), load(at + 24)])
    }
}

/// Replaces the Ethernet header, which ends at `ip_start`, by the tunnel's headers.
///
/// # Errors
/// The kernel has no room before the packet; it is as it was.
#[inline(always)] // once per IP version of the underlay
pub(crate) fn encapsulate<I: OuterIp>(ctx: &XdpContext, ip_start: usize, headers: Headers<I>) -> Result<(), ()> {
    let delta = ip_start as i32 - Headers::<I>::LENGTH as i32;
    // SAFETY: the context is valid; no pointer into the packet is used after this but fresh ones.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, delta) } != 0 {
        return Err(());
    }
    let data = ctx.data();
    if data + Headers::<I>::LENGTH > ctx.data_end() {
        return Err(());
    }
    // SAFETY: just compared with the end of the frame.
    unsafe { write_unaligned(data as *mut Headers<I>, headers) };
    Ok(())
}

/// Takes away what lies between the Ethernet header, which ends at `ip_start`, and the packet at `inner_start`.
///
/// # Errors
/// The kernel refused; the frame is as it was.
#[inline(always)] // once
pub(crate) fn decapsulate(
    ctx: &XdpContext,
    ip_start: usize,
    inner_start: usize,
    protocol: EtherType,
) -> Result<(), ()> {
    let frame = Frame::xdp(ctx.ctx);
    let (Some(a), Some(b), Some(c)) = (frame.word(0), frame.word(8), frame.word(16)) else { return Err(()) };
    let delta = inner_start as i32 - ip_start as i32;
    // SAFETY: as in `encapsulate`.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, delta) } != 0 {
        return Err(());
    }
    let data = ctx.data();
    if data + net::ETHERNET + 2 * net::VLAN > ctx.data_end() {
        return Err(());
    }
    let protocol = protocol.0.to_be();
    // SAFETY: the longest Ethernet header was compared with the end of the frame; an IP packet follows the shorter.
    unsafe {
        write_unaligned(data as *mut u64, a);
        match ip_start {
            net::ETHERNET => {
                write_unaligned((data + 8) as *mut u32, b as u32);
                write_unaligned((data + 12) as *mut u16, protocol);
            }
            18 => {
                write_unaligned((data + 8) as *mut u64, b);
                write_unaligned((data + 16) as *mut u16, protocol);
            }
            _ => {
                write_unaligned((data + 8) as *mut u64, b);
                write_unaligned((data + 16) as *mut u32, c as u32);
                write_unaligned((data + 20) as *mut u16, protocol);
            }
        }
    }
    Ok(())
}

/// Writes an address into the frame; `None`: it ends before.
#[inline(always)] // one store
pub(crate) fn store(frame: &Frame, off: usize, address: Address) -> Option<()> {
    let at = frame.data + (off & MASK);
    if at + size_of::<Address>() > frame.end {
        return None;
    }
    // SAFETY: just compared with the end of the frame.
    unsafe { write_unaligned(at as *mut Address, address) };
    Some(())
}

/// A length that the verifier knows to be 1..=`$size`, a power of two.
macro_rules! bounded {
    ($length:expr, $mask:literal) => {{
        let mut length = $length;
        // SAFETY: three instructions on one register. Apart, the compiler would undo them, and Linux 6.1 needs them.
        unsafe {
            asm!("{0} += -1", concat!("{0} &= ", $mask), "{0} += 1", inout(reg) length, options(nomem, nostack));
        }
        length as u32
    }};
}

/// Puts a copy of a packet into the host's stack, as received at the interface that the packet is at.
#[inline(always)] // one helper call
pub(crate) fn inject(ctx: &TcContext) -> i32 {
    // SAFETY: the context is valid, and no packet pointer is used after this.
    unsafe {
        let ifindex = (*ctx.skb.skb).ifindex;
        bpf_clone_redirect(ctx.skb.skb, ifindex, u64::from(BPF_F_INGRESS)) as i32
    }
}

/// Copies the first `length` bytes of a frame, at most [`SMALL`].
#[inline(always)] // one helper call
pub(crate) fn load_small(ctx: *mut xdp_md, to: *mut u8, length: usize) -> bool {
    let length = bounded!(length, 2047);
    // SAFETY: the record has room for 2048 bytes.
    unsafe { bpf_xdp_load_bytes(ctx, 0, to.cast(), length) == 0 }
}

/// Copies the first `length` bytes of a frame, at most [`LARGE`].
#[inline(always)] // one helper call
pub(crate) fn load_large(ctx: *mut xdp_md, to: *mut u8, length: usize) -> bool {
    let length = bounded!(length, 8191);
    // SAFETY: the record has room for 8192 bytes.
    unsafe { bpf_xdp_load_bytes(ctx, 0, to.cast(), length) == 0 }
}

/// As [`load_small`] for a packet that the host sends.
#[inline(always)] // one helper call
pub(crate) fn load_sent_small(ctx: *mut __sk_buff, to: *mut u8, length: usize) -> bool {
    let length = bounded!(length, 2047);
    // SAFETY: the record has room for 2048 bytes.
    unsafe { bpf_skb_load_bytes(ctx.cast_const().cast(), 0, to.cast(), length) == 0 }
}

/// As [`load_large`] for a packet that the host sends.
#[inline(always)] // one helper call
pub(crate) fn load_sent_large(ctx: *mut __sk_buff, to: *mut u8, length: usize) -> bool {
    let length = bounded!(length, 8191);
    // SAFETY: the record has room for 8192 bytes.
    unsafe { bpf_skb_load_bytes(ctx.cast_const().cast(), 0, to.cast(), length) == 0 }
}
