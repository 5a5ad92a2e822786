//! What `cargo xtask bench` measures beside the forwarder's programs, and the programs that feed frames to them.
//!
//! A test run hands the same frame to a program again and again. `feed_xdp` and `feed_tc` undo what the last run did to
//! it, give it another text and another key, and call the program by a tail call, so that the finished program is
//! measured as it is. Never attached to anything.
#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "the macros of the entry points give them their context")]

#[path = "yardstick/feed.rs"]
mod feed;

use core::ptr::{read_unaligned, read_volatile, write_unaligned, write_volatile};

use aya_ebpf::{
    bindings::{TC_ACT_UNSPEC, xdp_action, xdp_md},
    helpers::{bpf_redirect, bpf_skb_store_bytes, bpf_xdp_adjust_head, bpf_xdp_store_bytes},
    macros::{classifier, map, xdp},
    maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray},
    programs::{TcContext, XdpContext},
};
use forwarder_common::{
    checksum,
    table::{self, Buckets, Entry, Place, SLOTS},
};

use crate::feed::{
    Feed, Flow, LETTERS, RANDOM, RAW, REALS as REAL_COUNT, Real, TEMPLATES as TEMPLATE_COUNT, Template, letters, mixed,
    next,
};

/// `BPF_F_MMAPABLE` of linux/bpf.h.
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// Runner -> feeding programs.
#[map]
static FEED: Array<Feed> = Array::with_max_entries(1, 0);
/// Runner -> feeding programs.
#[map]
static TEMPLATES: Array<Template> = Array::with_max_entries(TEMPLATE_COUNT, 0);
/// Runner -> `feed_xdp`: the program that is measured.
#[map]
static NEXT_XDP: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// Runner -> `feed_tc`: the program that is measured.
#[map]
static NEXT_TC: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// Runner -> look-ups: as the forwarder's claim table.
#[map]
static TABLE: Array<[u64; SLOTS]> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Runner -> look-ups: buckets of the table less one.
#[map]
static TABLE_MASK: Array<u32> = Array::with_max_entries(1, 0);
/// Runner -> look-ups: the kernel's own table with the same keys.
#[map]
static LRU: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1, 0);
/// Runner -> look-ups: the same without an order of eviction.
#[map]
static HASH: HashMap<u64, u64> = HashMap::with_max_entries(1, 0);
/// Runner -> balancer: flows to servers.
#[map]
static FLOWS: LruHashMap<Flow, u32> = LruHashMap::with_max_entries(1, 0);
/// Runner -> balancer.
#[map]
static REALS: Array<Real> = Array::with_max_entries(REAL_COUNT, 0);
/// Balancer: packets and bytes.
#[map]
static COUNTS: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);
/// Runner -> `send_xdp`: the interface that frames leave through.
#[map]
static SEND: Array<u32> = Array::with_max_entries(1, 0);
/// `drop_xdp` -> runner: packets.
#[map]
static DROPPED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// Look-ups: what was found, so that the compiler keeps the look-up.
#[map]
static SINK: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// What everything is a multiple of.
#[xdp]
fn empty_xdp(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// The same at egress.
#[classifier]
fn empty_tc(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// The end of a frame that was sent: counted, and no more.
#[xdp]
fn drop_xdp(_ctx: XdpContext) -> u32 {
    if let Some(dropped) = DROPPED.get_ptr_mut(0) {
        // SAFETY: a per-CPU value.
        unsafe { *dropped += 1 };
    }
    xdp_action::XDP_DROP
}

/// Sends a frame through an interface, as if this were its sender.
#[xdp]
fn send_xdp(_ctx: XdpContext) -> u32 {
    let Some(ifindex) = SEND.get(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: the helper takes two numbers.
    unsafe { bpf_redirect(*ifindex, 0) as u32 }
}

/// Sends a frame back where it came from with its MAC addresses exchanged: what forwarding costs without any reason for
/// it.
#[xdp]
fn back_xdp(ctx: XdpContext) -> u32 {
    let at = ctx.data();
    if at + 12 > ctx.data_end() {
        return xdp_action::XDP_DROP;
    }
    // SAFETY: just compared with the end of the frame.
    unsafe {
        let [a, b, c] = read_unaligned(at as *const [u32; 3]);
        let [to, from] = [u64::from(a) | u64::from(b as u16) << 32, u64::from(b >> 16) | u64::from(c) << 16];
        write_unaligned(at as *mut [u32; 3], [from as u32, (from >> 32) as u32 | (to as u32) << 16, (to >> 16) as u32]);
    }
    xdp_action::XDP_TX
}

/// Makes the next frame and calls the program that is measured.
#[xdp]
fn feed_xdp(ctx: XdpContext) -> u32 {
    if let Some(feed) = FEED.get_ptr_mut(0) {
        let _ = make_xdp(&ctx, feed);
        // SAFETY: the context is that of this run.
        unsafe { NEXT_XDP.tail_call(&ctx, 0) };
    }
    xdp_action::XDP_ABORTED
}

/// The same at egress.
#[classifier]
fn feed_tc(ctx: TcContext) -> i32 {
    if let Some(feed) = FEED.get_ptr_mut(0) {
        let _ = make_tc(&ctx, feed);
        // SAFETY: the context is that of this run.
        unsafe { NEXT_TC.tail_call(&ctx, 0) };
    }
    0
}

/// A number below `count` from the upper bits of the state.
#[inline(always)]
const fn below(state: u64, count: u32) -> u32 {
    (((state >> 32) * count as u64) >> 32) as u32
}

/// The index of this run.
#[inline(always)]
fn draw(feed: *mut Feed) -> u32 {
    // SAFETY: a map value; test runs of the runner are one at a time.
    unsafe {
        let state = read_volatile(&raw const (*feed).state);
        let (first, count) = ((*feed).first, (*feed).count);
        let (after, drawn) = match (*feed).order {
            RANDOM => (next(state), below(state, count)),
            _ => (state + 1, state as u32),
        };
        write_volatile(&raw mut (*feed).state, after);
        first.wrapping_add(drawn)
    }
}

#[inline(always)]
fn make_xdp(ctx: &XdpContext, feed: *mut Feed) -> Option<()> {
    // SAFETY: a map value.
    let (length, restore, mut patch_at, patch, templates) =
        unsafe { ((*feed).length, (*feed).restore, (*feed).patch_at, (*feed).patch, (*feed).templates) };
    let grown = (ctx.data_end() - ctx.data()) as i32 - length as i32;
    // SAFETY: the context is that of this run; no pointer into the packet is kept. Called in every case, for equal
    // costs.
    unsafe { bpf_xdp_adjust_head(ctx.ctx, grown) };
    let index = draw(feed);
    if restore != 0 {
        let template = TEMPLATES.get_ptr(index & templates & (TEMPLATE_COUNT - 1))?;
        let bytes = ((restore - 1) & 0x7ff) + 1;
        // SAFETY: a template has room for 2048 bytes.
        unsafe {
            bpf_xdp_store_bytes(ctx.ctx, 0, (&raw mut (*template.cast_mut()).bytes).cast(), bytes);
            if templates != 0 {
                patch_at = (*template).patch_at;
            }
        }
    }
    if patch_at != 0 {
        let at = ctx.data() + (patch_at & 0x7ff) as usize;
        if at + 8 <= ctx.data_end() {
            // SAFETY: just compared with the end of the frame.
            unsafe {
                match patch {
                    LETTERS => write_unaligned(at as *mut u64, letters(index)),
                    RAW => write_unaligned(at as *mut u32, index),
                    _ => {}
                }
            }
        }
    }
    Some(())
}

#[inline(always)]
fn make_tc(ctx: &TcContext, feed: *mut Feed) -> Option<()> {
    // SAFETY: a map value.
    let (restore, mut patch_at, templates) = unsafe { ((*feed).restore, (*feed).patch_at, (*feed).templates) };
    let index = draw(feed);
    let skb = ctx.skb.skb;
    if restore != 0 {
        let template = TEMPLATES.get_ptr(index & templates & (TEMPLATE_COUNT - 1))?;
        let bytes = ((restore - 1) & 0x7ff) + 1;
        // SAFETY: a template has room for 2048 bytes.
        unsafe {
            bpf_skb_store_bytes(skb, 0, (&raw const (*template).bytes).cast(), bytes, 0);
            if templates != 0 {
                patch_at = (*template).patch_at;
            }
        }
    }
    if patch_at != 0 {
        let word = letters(index);
        // SAFETY: eight bytes of a local.
        unsafe { bpf_skb_store_bytes(skb, patch_at, (&raw const word).cast(), 8, 0) };
    }
    Some(())
}

/// The keys of a look-up, as they are made for the ones below.
#[inline(always)]
fn key() -> u64 {
    FEED.get_ptr_mut(0).map_or(0, |feed| mixed(draw(feed)))
}

#[inline(always)]
fn keep(found: u64) -> u32 {
    if let Some(sink) = SINK.get_ptr_mut(0) {
        // SAFETY: a per-CPU value.
        unsafe { write_volatile(sink, found) };
    }
    xdp_action::XDP_PASS
}

/// A key and nothing else.
#[xdp]
fn key_alone(_ctx: XdpContext) -> u32 {
    keep(key())
}

/// A key, looked up in the claim table.
#[xdp]
fn table_find(_ctx: XdpContext) -> u32 {
    keep(in_table(key()))
}

/// The same key in the kernel's LRU hash.
#[xdp]
fn lru_find(_ctx: XdpContext) -> u32 {
    // SAFETY: the value is read at once.
    keep(unsafe { LRU.get(key()) }.copied().unwrap_or(0))
}

/// The same key in the kernel's hash.
#[xdp]
fn hash_find(_ctx: XdpContext) -> u32 {
    // SAFETY: as above.
    keep(unsafe { HASH.get(key()) }.copied().unwrap_or(0))
}

/// A new key for the LRU hash, which evicts where it is full.
#[xdp]
fn lru_insert(_ctx: XdpContext) -> u32 {
    let key = key();
    keep(u64::from(LRU.insert(key, key, 0).is_ok()))
}

/// Global, as in the finished program.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn in_table(key: u64) -> u64 {
    let mask = TABLE_MASK.get(0).copied().unwrap_or(0);
    table::find(&Memory, mask, key).map_or(0, |(_, entry)| entry.0)
}

struct Memory;

impl Buckets for Memory {
    type Line = *const u64;

    #[inline(always)]
    fn line(&self, bucket: u32) -> Option<*const u64> {
        Some(TABLE.get_ptr(bucket)?.cast())
    }

    #[inline(always)]
    fn read(&self, line: *const u64, slot: u32) -> Entry {
        // SAFETY: a map value of eight words.
        Entry(unsafe { read_volatile(line.wrapping_add((slot & (SLOTS as u32 - 1)) as usize)) })
    }

    #[inline(always)]
    fn exchange(&self, _place: Place, _old: Entry, _new: Entry) -> bool {
        false
    }

    #[inline(always)]
    fn hide(&mut self, value: u64) -> u64 {
        value
    }
}

/// A layer-4 balancer as small as one can be: flow, server, IP-in-IP. What others have, in the same run.
#[xdp]
fn balancer(ctx: XdpContext) -> u32 {
    balance(&ctx).unwrap_or(xdp_action::XDP_PASS)
}

#[inline(always)]
fn balance(ctx: &XdpContext) -> Option<u32> {
    const HEADERS: usize = 14 + 20 + 8;
    let data = ctx.data();
    if data + HEADERS > ctx.data_end() {
        return None;
    }
    // SAFETY: just compared with the end of the frame.
    let (ether_type, first, protocol, source, destination, ports) = unsafe {
        (
            read_unaligned((data + 12) as *const u16),
            read_unaligned((data + 14) as *const u32),
            read_unaligned((data + 23) as *const u8),
            read_unaligned((data + 26) as *const u32),
            read_unaligned((data + 30) as *const u32),
            read_unaligned((data + 34) as *const u32),
        )
    };
    if ether_type != 0x0800_u16.to_be() || first as u8 != 0x45 || protocol != 17 {
        return None;
    }
    // SAFETY: the value is read at once.
    let real = unsafe { FLOWS.get(Flow([source, destination, ports, u32::from(protocol)])) }.copied()?;
    let real = REALS.get(real & (REAL_COUNT - 1))?;
    let counts = COUNTS.get_ptr_mut(0)?;
    let total = ((first >> 16) as u16).swap_bytes().wrapping_add(20);
    // SAFETY: a per-CPU value.
    unsafe {
        (*counts)[0] += 1;
        (*counts)[1] += u64::from(total);
    }
    encapsulate(ctx.ctx, real, total)
}

#[inline(always)]
fn encapsulate(ctx: *mut xdp_md, real: &Real, total: u16) -> Option<u32> {
    let Real { address, source, macs } = *real;
    // SAFETY: the context is that of this run; pointers are made anew.
    if unsafe { bpf_xdp_adjust_head(ctx, -20) } != 0 {
        return None;
    }
    // SAFETY: as above.
    let (data, end) = unsafe { ((*ctx).data as usize, (*ctx).data_end as usize) };
    if data + 34 > end {
        return None;
    }
    let first = 0x45 | u32::from(total.swap_bytes()) << 16;
    let third = 64 | 4 << 8;
    let sum = u64::from(first) + u64::from(third) + u64::from(source) + u64::from(address);
    let third = third | u32::from(checksum::fold(sum)) << 16;
    // SAFETY: just compared with the end of the frame.
    unsafe {
        write_unaligned(data as *mut [u32; 3], [macs[0], macs[1], macs[2]]);
        write_unaligned((data + 12) as *mut u16, 0x0800_u16.to_be());
        write_unaligned((data + 14) as *mut [u32; 5], [first, 0, third, source, address]);
    }
    Some(xdp_action::XDP_TX)
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Helpers that are the kernel's to GPL programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
