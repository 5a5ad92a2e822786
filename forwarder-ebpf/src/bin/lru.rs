//! The ingress program as it is shipped, but for its claim table: the kernel's LRU hash in its place, with the same
//! keys and values. What `cargo xtask bench` compares the table with. Never attached to anything.
//!
//! It takes the shipped files as they are: they name `forwarder_common`, which is this crate here, with another
//! `table::find`.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)] // as in main.rs
#![expect(dead_code, reason = "the shipped files serve egress as well")]
#![expect(clippy::needless_pass_by_value, reason = "as in main.rs")]

extern crate forwarder_common as common;
extern crate self as forwarder_common;

#[path = "../decap.rs"]
mod decap;
#[path = "../forward.rs"]
mod forward;
#[path = "../ingress.rs"]
mod ingress;
#[path = "../key.rs"]
mod key;
#[path = "../lookup.rs"]
mod lookup;
#[path = "../maps.rs"]
mod maps;
#[path = "../packet.rs"]
mod packet;
#[path = "../punt.rs"]
mod punt;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use common::outcome::Action;
pub use common::{
    abi, bound, claim, clock, coded, geneve, ids, keys, marks, net, outcome, question, reader, rendezvous, rest, sip,
    tunnel, verdict,
};

/// The claim table's functions, with a look-up in the LRU hash.
pub mod table {
    use aya_ebpf::{macros::map, maps::LruHashMap};
    pub use common::table::*;

    /// Runner -> ingress: keys to entries as the claim table has them.
    #[map]
    static LRU: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1, 0);

    /// Hides the claim table's function of this name.
    #[inline(always)] // a helper call
    pub fn find<B: Buckets>(_table: &B, _mask: u32, key: u64) -> Option<(Place, Entry)> {
        // SAFETY: the value is read at once.
        let entry = unsafe { LRU.get(key) }.copied()?;
        Some((Place { bucket: 0, slot: 0 }, Entry(entry)))
    }
}

/// As in main.rs.
#[xdp]
#[inline(always)] // a tail call must be made by the entry program itself
fn forwarder_ingress(ctx: XdpContext) -> u32 {
    let (outcome, sent) = ingress::run(&ctx);
    maps::count(outcome);
    match outcome.action() {
        Action::Sent => sent,
        Action::Pass | Action::Punted(_) | Action::Dropped | Action::Slow(_) => xdp_action::XDP_PASS,
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Helpers that are the kernel's to GPL programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
