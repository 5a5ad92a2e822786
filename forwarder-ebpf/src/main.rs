//! The kernel side: entry points and what each outcome means for the packet.
//!
//! Ingress (XDP) sends packets of an in-flight transaction to its owner and takes them out of the tunnel there; egress
//! (TC) claims what the local proxy says. Nothing here waits or allocates. Doubt means pass: dropped is only what the
//! daemon has in hand, and fragments beyond what it can reassemble.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)] // three short blocks, in packet.rs and maps.rs
#![expect(clippy::needless_pass_by_value, reason = "the macros of the entry points give them their context")]

mod decap;
mod egress;
mod explain;
mod forward;
mod ingress;
mod key;
mod lookup;
mod maps;
mod packet;
mod punt;
mod room;

use aya_ebpf::{
    bindings::{TC_ACT_UNSPEC, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use forwarder_common::outcome::{Action, Outcome};

/// XDP: ingress and decapsulation.
#[xdp]
#[inline(always)] // a tail call must be made by the entry program itself
fn forwarder_ingress(ctx: XdpContext) -> u32 {
    let (outcome, sent) = ingress::run(&ctx);
    maps::count(outcome);
    xdp(outcome, sent)
}

/// XDP, called by ingress while a daemon lives: packets into its hands.
#[xdp]
fn forwarder_punt(ctx: XdpContext) -> u32 {
    let outcome = punt::run(&ctx);
    maps::count(outcome);
    xdp(outcome, xdp_action::XDP_PASS)
}

/// What an outcome means for a packet that has arrived; `sent` is how a packet to another node leaves.
#[inline(always)] // a few compares
fn xdp(outcome: Outcome, sent: u32) -> u32 {
    match outcome.action() {
        Action::Pass => xdp_action::XDP_PASS,
        Action::Sent => sent,
        Action::Punted(_) | Action::Dropped => xdp_action::XDP_DROP,
        // The daemon's to count.
        Action::Slow(_) => xdp_action::XDP_PASS,
    }
}

/// TC egress: claims. Other programs on the hook go on after it.
#[classifier]
fn forwarder_egress(ctx: TcContext) -> i32 {
    maps::count(egress::run(&ctx));
    // Whatever was claimed, no packet of the host's own is held up.
    TC_ACT_UNSPEC
}

/// XDP, for test runs only: the keys of a frame.
#[xdp]
fn forwarder_explain(ctx: XdpContext) -> u32 {
    explain::run(&ctx);
    xdp_action::XDP_PASS
}

/// TC, for test runs only: a copy of the run's packet enters the host's stack at the run's interface. Returns 0, or
/// what the stack refused it with.
#[classifier]
fn forwarder_inject(ctx: TcContext) -> i32 {
    packet::inject(&ctx)
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The helpers that this program calls are the kernel's to GPL programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
