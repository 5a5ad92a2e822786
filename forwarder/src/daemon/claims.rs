//! This host's claims as the kernel has them: what the egress program says of them, and what its table holds.

use aya::maps::{MapData, RingBuf};
use forwarder_common::{
    abi::{ClaimEvent, EVENT_BYTES, EVENT_NEW},
    ids::{Epoch, NodeId, Tick},
};
use forwarder_core::node::{LocalClaim, Node};

use super::now;
use crate::dataplane::{self, Dataplane};

/// Ring-buffer events taken in one turn: the links must not wait for a flood of claims to end.
const EVENTS_A_TURN: usize = 4096;
/// Turns in which all is taken that a full ring buffer holds, each event with its header of eight bytes.
const RING_TURNS: usize = EVENT_BYTES as usize / (size_of::<ClaimEvent>() + 8) / EVENTS_A_TURN + 1;

/// The live claim of a key by this host in its present epoch, as the kernel's table has it; when it was made that does not tell.
pub(super) fn own_claim(dataplane: &Dataplane, node: NodeId, key: u64) -> Option<LocalClaim> {
    let entry = dataplane.claim(key)?;
    let is_own = entry.owner() == node.number() && entry.epoch() == dataplane.epoch();
    let ticks = entry.remaining(Tick::at(dataplane::monotonic_ns()));
    let remaining_ms = Tick::milliseconds(u16::try_from(ticks).ok()?);
    (is_own && remaining_ms != 0).then_some(LocalClaim { key, claimed_at_unix_us: now().unix_us, remaining_ms })
}

/// Gives all of the ring buffer's claims to the core.
pub(super) fn take_all_claims(events: &mut RingBuf<MapData>, node: &mut Node, epoch: Epoch) {
    let _ = (0..RING_TURNS).any(|_| take_claims(events, node, epoch));
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
        };
        if event.flags & EVENT_NEW != 0 { node.handle_local(claim, now) } else { node.handle_change(claim, now) }
    }
    false
}
