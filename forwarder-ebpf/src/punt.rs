//! Gives a packet to the daemon: whole, through a ring buffer; then it is dropped here.
//!
//! A punt is a tail call through a map that only a living daemon fills: the kernel empties such a map when its
//! last descriptor is closed, however the daemon died. Then the call does not happen, and the caller relays the packet
//! to a peer or lets it pass. A daemon that is there but stalls gets nothing either, once its lease is over: the packet
//! would wait as long as the daemon does.

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::bpf_ktime_get_coarse_ns,
    programs::XdpContext,
};
use forwarder_common::{
    abi,
    outcome::{Action, Outcome, Punt},
};

use crate::{
    maps,
    packet::{self, Frame},
};

/// Tries to give the packet to the daemon under `reason`; returns only where no daemon lives.
#[inline(always)] // a tail call must be made by the entry program itself
pub(crate) fn punt(ctx: &XdpContext, reason: Outcome) {
    let Some(marks) = maps::marks_ingress() else { return };
    if !maps::lease().has_daemon(maps::now_ns()) {
        return;
    }
    marks.set_reason(reason.number() as u16);
    maps::call_daemon(ctx);
}

/// The tail call's other end: the packet goes into the ring buffer if that has room and the daemon time for it.
#[inline(always)] // the entry program itself
pub(crate) fn run(ctx: &XdpContext) -> Outcome {
    let Some(marks) = maps::marks_ingress() else { return Outcome::PuntOverflow };
    // The class becomes a number that the verifier does not know: what follows is verified once, not for every outcome.
    let class = match Outcome::from_number(u32::from(marks.reason())).map(Outcome::action) {
        Some(Action::Punted(class)) => marks.hide(class.code() as usize),
        Some(Action::Pass | Action::Sent | Action::Dropped | Action::Slow(_)) | None => return Outcome::PuntOverflow,
    };
    // SAFETY: the helper takes nothing and touches nothing.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    let (asks, reason) = (class as u64 == Punt::Asks.code(), u32::from(marks.reason()));
    if maps::may_punt(now, asks) && copy(ctx.ctx, reason).is_some() {
        Outcome::from_number(reason).unwrap_or(Outcome::PuntOverflow)
    } else {
        Punt::decode(class as u64).map_or(Outcome::PuntOverflow, Punt::overflow)
    }
}

/// Copies the frame into the smallest record that it fits.
#[inline(always)] // two sizes
fn copy(ctx: *mut xdp_md, reason: u32) -> Option<()> {
    let length = Frame::xdp(ctx).length();
    // SAFETY: the context is valid for the program's run.
    let ifindex = unsafe { (*ctx).ingress_ifindex };
    let head = abi::Punt { ifindex, length: length as u32, reason, segment: 0 };
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
pub(crate) fn copy_sent(ctx: *mut __sk_buff, reason: Outcome, length: usize, segment: u32) -> Option<()> {
    let length = if length > packet::LARGE { packet::LARGE } else { length };
    let reason = reason.number();
    let head = abi::Punt { ifindex: 0, length: length as u32, reason, segment };
    if length <= packet::SMALL {
        maps::reserve::<{ packet::SMALL }>()?.fill(head, |to| packet::load_sent_small(ctx, to, length))
    } else {
        maps::reserve::<{ packet::LARGE }>()?.fill(head, |to| packet::load_sent_large(ctx, to, length))
    }
}
