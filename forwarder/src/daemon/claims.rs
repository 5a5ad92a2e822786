//! This host's claims as the kernel has them: what the egress program says of them, and what the maps hold at the
//! start.

use aya::maps::{MapData, RingBuf};
use forwarder_common::{
    abi::{ClaimEvent, EVENT_KEPT, EVENT_NEW},
    ids::{Epoch, Epochs, Tick},
    lifetime::Sign,
    rest::{Class, KeyKind},
};
use forwarder_core::node::{InviteSign, LocalClaim, Node, Now};

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
        let kind = rest.kind().map_or(0, |kind| kind.code() as u8);
        node.handle_restored(LocalClaim { key, claimed_at_unix_us: now.unix_us, remaining_ms, epoch, kind }, now);
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
        take_claim(&event, node, now);
    }
    false
}

/// Gives the core what a message of the local proxy has made of one key, by the program's word or the daemon's own.
pub(super) fn take_claim(event: &ClaimEvent, node: &mut Node, now: Now) {
    let ClaimEvent { key, other, at_ns, ticks, epoch, flags, kind, class, sign, .. } = *event;
    let age_us = (now.monotonic_us).saturating_sub(at_ns / 1000);
    // The event may be old: the ring buffer outlives daemons.
    let remaining_ms = Tick::milliseconds(ticks).saturating_sub(age_us / 1000);
    if flags != EVENT_KEPT {
        let claimed_at_unix_us = now.unix_us.saturating_sub(age_us);
        let epoch = Epoch::new(epoch.into());
        node.handle_local(LocalClaim { key, claimed_at_unix_us, remaining_ms, epoch, kind }, now);
    }
    let is_proceeding = Class::decode(class.into()) == Some(Class::Proceeding);
    if u64::from(kind) == KeyKind::Reply.code() {
        if is_proceeding {
            node.handle_invite(other, InviteSign::SentOn { reply: key }, now);
        }
        return;
    }
    if flags == EVENT_NEW && is_proceeding {
        node.handle_invite(key, InviteSign::Begun, now);
    }
    let sign = match Sign::decode(sign.into()) {
        Some(Sign::Provisional) => InviteSign::Provisional { server: other },
        Some(Sign::Final) => InviteSign::Final { server: other, remaining_ms },
        Some(Sign::Ack) => InviteSign::Acknowledged { branch: other, remaining_ms },
        Some(Sign::Nothing | Sign::Invite) | None => return,
    };
    node.handle_invite(key, sign, now);
}
