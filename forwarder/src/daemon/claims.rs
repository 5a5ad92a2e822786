//! This host's claims as the kernel has them: what the egress program says of them, and what the maps hold at the
//! start.

use aya::maps::{MapData, RingBuf};
use forwarder_common::{
    abi::ClaimEvent,
    ids::{Epoch, Tick},
};
use forwarder_core::node::{LocalClaim, Node};

use super::now;

/// Ring-buffer events taken in one turn: the links must not wait for a flood of claims to end.
const EVENTS_A_TURN: usize = 4096;

/// Gives the core the claims of this host that the maps have from before this daemon's start. Call it before the first
/// link, and before the ring buffer is read: what that says of them came later.
pub(super) fn restore_claims(node: &mut Node, claims: impl IntoIterator<Item = LocalClaim>) {
    let now = now();
    claims.into_iter().for_each(|claim| node.handle_restored(claim, now));
}

/// Gives the ring buffer's claims to the core; whether it was emptied.
pub(super) fn take_claims(events: &mut RingBuf<MapData>, node: &mut Node, epoch: Epoch) -> bool {
    let now = now();
    for _ in 0..EVENTS_A_TURN {
        let Some(item) = events.next() else { return true };
        if item.len() != size_of::<ClaimEvent>() {
            log::error!("a ring-buffer event has {} bytes instead of {}", item.len(), size_of::<ClaimEvent>());
            continue;
        }
        // SAFETY: the length was compared, any bytes are a value of this type, and the read asks for no alignment.
        let event = unsafe { item.as_ptr().cast::<ClaimEvent>().read_unaligned() };
        if event.epoch != epoch.number() {
            // Of an earlier run of the proxy.
            continue;
        }
        let age_us = (now.monotonic_us).saturating_sub(event.at_ns / 1000);
        let claim = LocalClaim {
            key: event.key,
            claimed_at_unix_us: now.unix_us.saturating_sub(age_us),
            // The event may be old: the ring buffer outlives daemons.
            remaining_ms: Tick::milliseconds(event.ticks).saturating_sub(age_us / 1000),
            epoch,
            kind: 0,
        };
        node.handle_local(claim, now);
    }
    false
}
