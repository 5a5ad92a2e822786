//! What the maps say of an address or a key.

use forwarder_common::{
    abi::{Address, Config, SERVICE_SET, Service, ServiceKey},
    claim,
    ids::{Epoch, Tick},
    question::Held,
    rest::KeyKind,
    table,
    verdict::Found,
};

use crate::maps::{self, Claims};

/// The service at an address and port.
#[inline(always)] // one look-up
pub(crate) fn service(vip: Address, port: u16) -> Option<Service> {
    let found = maps::service(&ServiceKey { vip, port: port.to_be(), pad: 0 });
    found.filter(|service| service.flags & SERVICE_SET != 0)
}

/// What the table says of a key.
#[inline(always)] // a call
pub(crate) fn found(config: &Config, key: u64, now: Tick) -> Found {
    Found::owned_by(effective(key, u64::from(now.number())) as u16, config.node)
}

/// This node's own claim of a key, if it has one.
#[inline(always)] // a call
pub(crate) fn held(config: &Config, key: u64, kind: KeyKind, now: Tick) -> Option<Held> {
    let claim = effective(key, u64::from(now.number()));
    if claim as u16 != config.node {
        return None;
    }
    Some(Held { kind, epoch: Epoch::new(claim >> EPOCH_SHIFT), ticks: (claim >> TICKS_SHIFT) as u16 })
}

/// Where [`effective`] puts the epoch and the ticks that are left, above the owner.
const EPOCH_SHIFT: u32 = 16;
const TICKS_SHIFT: u32 = 32;

/// The claim of a key that counts: its owner, its epoch and the ticks that are left of it; or 0.
///
/// Global, so that the verifier walks the sixteen compares once, not after every path of the parse.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn effective(key: u64, now: u64) -> u64 {
    let (Some(config), Some(marks)) = (maps::config(), maps::marks_ingress()) else { return 0 };
    let Some((_, entry)) = table::find(&Claims(marks), config.bucket_mask, key) else { return 0 };
    let now = Tick::new(now as u16);
    if !claim::is_effective(entry, now, |id| maps::live_epochs(id, config)) {
        return 0;
    }
    let (owner, epoch) = (u64::from(entry.owner()), u64::from(entry.epoch().number()));
    owner | epoch << EPOCH_SHIFT | entry.remaining(now) << TICKS_SHIFT
}
