//! Handing a packet to the daemon: whole, through a ring buffer, and then dropped here.
//!
//! The hand-over is a tail call through a map that only a living daemon fills: the kernel empties such a map when its
//! last descriptor is closed, however the daemon died. Then the call does not happen and the packet passes. A daemon that is
//! there but stands still gets nothing either, once its lease is over: the packet would wait as long as the daemon does.

use aya_ebpf::{
    bindings::{__sk_buff, xdp_action, xdp_md},
    helpers::bpf_ktime_get_coarse_ns,
    programs::XdpContext,
};
use forwarder_common::{abi::Punt, outcome::Outcome};

use crate::{
    maps,
    packet::{self, Frame},
};

/// Tries to hand the packet over under `reason`; returns only where no daemon lives.
#[inline(always)] // a tail call must be made by the entry program itself
pub fn hand_over(ctx: &XdpContext, reason: Outcome) {
    let Some(marks) = maps::marks_ingress() else { return };
    if !maps::duty().has_daemon(maps::now_ns()) {
        return;
    }
    marks.set_reason(reason.number() as u16);
    maps::call_daemon(ctx);
}

/// The tail call's other end: the packet goes into the ring buffer, or passes if that has no room or no time for it.
#[inline(always)] // the entry program itself
pub fn run(ctx: &XdpContext) -> u32 {
    let Some(reason) = maps::marks_ingress().map(|marks| u32::from(marks.reason())) else {
        return xdp_action::XDP_PASS;
    };
    // SAFETY: the helper takes nothing and touches nothing.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    let asks = reason == Outcome::PuntedUnknownResponse.number()
        || reason == Outcome::PuntedUnknownCancel.number()
        || reason == Outcome::PuntedUnknownAck.number()
        || reason == Outcome::PuntedUnknownBranch.number()
        || reason == Outcome::DecapPuntedRelayed.number();
    if !maps::may_punt(now, asks) || copy(ctx.ctx, reason).is_none() {
        if reason == Outcome::PuntedFragment.number() || reason == Outcome::DecapPuntedFragment.number() {
            maps::count(Outcome::FragmentOverflow);
            return xdp_action::XDP_DROP;
        }
        maps::count(Outcome::PuntOverflow);
        return xdp_action::XDP_PASS;
    }
    maps::count_number(reason);
    xdp_action::XDP_DROP
}

/// Copies the frame into the smallest record that it fits.
#[inline(always)] // two sizes
fn copy(ctx: *mut xdp_md, reason: u32) -> Option<()> {
    let length = Frame::xdp(ctx).length();
    // SAFETY: the context is valid for the program's run.
    let ifindex = unsafe { (*ctx).ingress_ifindex };
    let head = Punt { ifindex, length: length as u32, reason, segment: 0 };
    if length <= packet::SMALL {
        maps::reserve::<{ packet::SMALL }>()?.fill(head, |to| packet::load_small(ctx, to, length))
    } else if length <= packet::LARGE {
        maps::reserve::<{ packet::LARGE }>()?.fill(head, |to| packet::load_large(ctx, to, length))
    } else {
        None
    }
}

/// Gives the daemon a copy of the first bytes of a packet that the host sends; the packet itself goes on.
#[inline(always)] // rare
pub fn copy_sent(ctx: *mut __sk_buff, length: usize, segment: u32) -> Option<()> {
    let length = if length > packet::LARGE { packet::LARGE } else { length };
    let reason = Outcome::EgressPunted.number();
    let head = Punt { ifindex: 0, length: length as u32, reason, segment };
    if length <= packet::SMALL {
        maps::reserve::<{ packet::SMALL }>()?.fill(head, |to| packet::load_sent_small(ctx, to, length))
    } else {
        maps::reserve::<{ packet::LARGE }>()?.fill(head, |to| packet::load_sent_large(ctx, to, length))
    }
}
