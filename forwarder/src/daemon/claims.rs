//! This host's claims as the kernel has them: what the egress program says of them, and what the maps hold at the
//! start.

use aya::maps::{MapData, RingBuf};
use forwarder_common::{
    abi::ClaimEvent,
    ids::{Epoch, Epochs},
};
use forwarder_core::node::{LocalClaim, Node};

use super::clock::now;
use crate::dataplane::{Dataplane, OwnClaim};

/// Ring-buffer events taken in one turn: the links must not wait for a flood of claims to end.
const EVENTS_A_TURN: usize = 4096;

/// Gives the core the claims of this host that the maps have from before this daemon's start. Call it before the first
/// link, and before the ring buffer is read: what that says of them came later.
pub(super) fn restore_claims(node: &mut Node, dataplane: &Dataplane) {
    let now = now();
    let mut restored = 0;
    for OwnClaim { key, epoch, remaining_ms, rest } in dataplane.own_claims() {
        let purpose = rest.purpose();
        node.handle_restored(LocalClaim { key, claimed_at_unix_us: now.unix_us, remaining_ms, epoch, purpose }, now);
        restored += 1;
    }
    if restored != 0 {
        log::info!("{restored} effective claims of this node are known from its maps");
    }
}

/// Gives the ring buffer's claims to the core; whether it was emptied.
pub(super) fn take_claims(events: &mut RingBuf<MapData>, node: &mut Node, epochs: Epochs) -> bool {
    let now = now();
    for _ in 0..EVENTS_A_TURN {
        let Some(item) = events.next() else { return true };
        if item.len() != size_of::<ClaimEvent>() {
            log::error!("a ring-buffer event has {} bytes instead of {}", item.len(), size_of::<ClaimEvent>());
            continue;
        }
        // SAFETY: the length was compared, any bytes are a value of this type, and the read asks for no alignment.
        let event = unsafe { item.as_ptr().cast::<ClaimEvent>().read_unaligned() };
        if !epochs.contains(Epoch::new(event.epoch.into())) {
            // Of an earlier run of the proxy.
            continue;
        }
        node.handle_event(&event, now);
    }
    false
}
