//! Room for a new claim where both buckets of its key are full. Which claim gives way is decided in
//! `forwarder_common::worth`, as for the daemon.
//!
//! Functions of their own, called from the entry program: a claim that finds room never comes here.

use forwarder_common::{
    ids::Tick,
    lifetime::Lifetime,
    table::{Buckets as _, Entry, Place},
    worth::{self, CLAIMS, NoRoom, Standing, Weighs},
};

use crate::maps::{self, Claims};

/// Frees a place for a claim on `key`, with this lifetime, packed, of that service; 0 if all claims there are worth
/// more than it, or another writer was faster.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn egress_room(key: u64, lifetime: u64, service: u64) -> u64 {
    let (Some(config), Some(marks)) = (maps::config(), maps::marks_egress()) else { return 0 };
    let lifetime = Lifetime::unpack(lifetime);
    let share = worth::share(u64::from(lifetime.ticks), lifetime.class, &config.lifetimes);
    maps::set_weighed(CLAIMS, Standing::new(config.node, service as u8, share).0);
    match worth::make_room(&mut Claims(marks), config.bucket_mask, key) {
        Ok((place, entry)) => u64::from(Claims(marks).exchange(place, entry, Entry::default())),
        Err(NoRoom::WorthMore | NoRoom::Changed) => 0,
    }
}

/// Notes how the claim in a slot of a bucket stands. This and the next are global so that the verifier walks them once
/// and not for each of sixteen.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_weigh(number: u64, bucket: u64, slot: u64) -> u64 {
    let (Some(config), Some(marks)) = (maps::config(), maps::marks_egress()) else { return 0 };
    let place = Place { bucket: bucket as u32, slot: slot as u32 };
    let Some(entry) = Claims(marks).load(place) else { return 0 };
    let live = maps::live_epochs(entry.owner(), config);
    let now = Tick::at(maps::now_ns());
    let standing = Standing::of(entry, maps::rest(place), now, live, &config.lifetimes);
    maps::set_weighed(number as usize, standing.0);
    0
}

/// What the claim with that number is worth.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_worth(number: u64) -> u64 {
    let Some(marks) = maps::marks_egress() else { return 0 };
    let at = |number| Standing(maps::weighed(number));
    worth::among(at(number as usize), at, |number| marks.hide(number as usize) as u64)
}

impl Weighs for Claims<'_> {
    #[inline(always)] // a call
    fn weigh(&mut self, number: usize, place: Place) {
        egress_weigh(number as u64, u64::from(place.bucket), u64::from(place.slot));
    }

    #[inline(always)] // a call
    fn worth(&mut self, number: usize) -> u64 {
        egress_worth(number as u64)
    }
}
