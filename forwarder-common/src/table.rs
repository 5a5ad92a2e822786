//! The claim table: buckets of eight 64-bit entries, two buckets per key, written by compare-and-swap.
//!
//! Kernel and daemon share it as a memory-mapped array and run these lines on it: [`Buckets`] is the only difference.
//! A new claim takes the place of an empty or expired entry. Where both buckets are full, [`crate::worth`] decides.

use crate::{
    hash,
    ids::{Epoch, NodeId, Tick},
};

/// Entries of a bucket: one cache line.
pub const SLOTS: usize = 8;

const EXPIRES_BITS: u32 = 16;
const OWNER_SHIFT: u32 = 20;
const TAG_SHIFT: u32 = 30;
const TAG: u64 = !((1 << TAG_SHIFT) - 1);

/// One claim: the upper 34 bits of the key, owner (10 bits), epoch (4 bits), expiry (16 bits). 0 is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Entry(pub u64);

impl Entry {
    /// The claim of `owner` in `epoch` on `key` until `expires`.
    #[must_use]
    #[inline(always)] // a few instructions
    pub const fn new(key: u64, owner: u16, epoch: u8, expires: Tick) -> Self {
        Self(
            key & TAG
                | ((owner as u64) & NodeId::MAX as u64) << OWNER_SHIFT
                | ((epoch as u64) & 0xf) << EXPIRES_BITS
                | expires.number() as u64,
        )
    }

    /// Whether this may be a claim on `key`: a false match has a chance of 2^-34 an entry compared.
    #[must_use]
    #[inline(always)] // three instructions
    pub const fn matches(self, key: u64) -> bool {
        (self.0 ^ key) & TAG == 0
    }

    /// The owner's id; 0 if empty.
    #[must_use]
    #[inline(always)] // two instructions
    pub const fn owner(self) -> u16 {
        (self.0 >> OWNER_SHIFT) as u16 & NodeId::MAX
    }

    /// The owner's epoch at the time of the claim.
    #[must_use]
    #[inline(always)] // two instructions
    pub const fn epoch(self) -> Epoch {
        Epoch::new(self.0 >> EXPIRES_BITS)
    }

    /// When it ends.
    #[must_use]
    #[inline(always)] // one instruction
    pub const fn expires(self) -> Tick {
        Tick::new(self.0 as u16)
    }

    /// Ticks until it ends; 0 when expired or empty.
    ///
    /// Without branches: the verifier would follow each of the 2^16 ways through a pair of buckets.
    #[must_use]
    #[inline(always)] // part of the unrolled choice
    pub const fn remaining(self, now: Tick) -> u64 {
        let ahead = (self.0 & 0xffff).wrapping_sub(now.number() as u64) & 0xffff;
        let past = ((ahead >> 15) & 1).wrapping_sub(1);
        let owned = 0_u64.wrapping_sub((0_u64.wrapping_sub(self.owner() as u64)) >> 63);
        ahead & past & owned
    }
}

/// Where an entry lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Bucket.
    pub bucket: u32,
    /// Slot in the bucket, 0..=7.
    pub slot: u32,
}

/// The memory of the table.
pub trait Buckets {
    /// A bucket that was found: in the kernel a pointer.
    type Line: Copy;

    /// The bucket with this number; `None` outside the table.
    fn line(&self, bucket: u32) -> Option<Self::Line>;

    /// The entry in a slot of a bucket, 0..=7.
    fn read(&self, line: Self::Line, slot: u32) -> Entry;

    /// The entry at a place; `None` outside the table.
    #[inline(always)] // a few instructions
    fn load(&self, place: Place) -> Option<Entry> {
        Some(self.read(self.line(place.bucket)?, place.slot))
    }

    /// Puts `new` in the place of `old`; false if something else is there by now.
    fn exchange(&self, place: Place, old: Entry, new: Entry) -> bool;

    /// `value` (16 bits), unknown to the verifier.
    fn hide(&mut self, value: u64) -> u64;
}

/// The two buckets of a key; `mask` is the number of buckets less one.
#[must_use]
#[inline(always)] // a few instructions
pub const fn buckets(key: u64, mask: u32) -> [u32; 2] {
    [key as u32 & mask, (key.wrapping_mul(hash::GOLDEN) >> 32) as u32 & mask]
}

/// The entry that matches `key`, live or not, and where it is.
#[inline(always)] // unrolled: sixteen compares
pub fn find<B: Buckets>(table: &B, mask: u32, key: u64) -> Option<(Place, Entry)> {
    for bucket in buckets(key, mask) {
        let line = table.line(bucket)?;
        for slot in 0..SLOTS as u32 {
            let entry = table.read(line, slot);
            if entry.matches(key) && entry.owner() != 0 {
                return Some((Place { bucket, slot }, entry));
            }
        }
    }
    None
}

/// Whether an entry other than the one at `kept` matches `key`: of two writers that found none, each may have put one.
#[inline(always)] // unrolled, as above
pub fn is_twice<B: Buckets>(table: &B, mask: u32, key: u64, kept: Place) -> bool {
    for bucket in buckets(key, mask) {
        let Some(line) = table.line(bucket) else { return false };
        for slot in 0..SLOTS as u32 {
            let entry = table.read(line, slot);
            if entry.matches(key) && entry.owner() != 0 && (Place { bucket, slot }) != kept {
                return true;
            }
        }
    }
    false
}

/// The place for a new claim on `key`, and what gives way there; `None` if another writer was faster: choose again.
#[inline(always)] // unrolled, and free of branches but for the last choice
pub fn choose<B: Buckets>(table: &mut B, mask: u32, key: u64, now: Tick) -> Option<(Place, Entry)> {
    let [first, second] = buckets(key, mask);
    let (a, a_live) = weakest(table, first, now)?;
    let (b, b_live) = weakest(table, second, now)?;
    // Remaining ticks decide; among empty places the emptier bucket, which keeps both from filling up.
    let (a_rank, b_rank) = ((a >> 4 << 4) + a_live, (b >> 4 << 4) + b_live);
    let (place, remaining) = if a_rank <= b_rank {
        (Place { bucket: first, slot: (a & 7) as u32 }, a >> 4)
    } else {
        (Place { bucket: second, slot: (b & 7) as u32 }, b >> 4)
    };
    let entry = table.load(place)?;
    // What was written there since it was chosen is not what was to give way.
    if entry.remaining(now) == remaining { Some((place, entry)) } else { None }
}

/// The weakest entry of a bucket as `remaining << 4 | slot`, and how many are live.
#[inline(always)] // unrolled
fn weakest<B: Buckets>(table: &mut B, bucket: u32, now: Tick) -> Option<(u64, u64)> {
    let (mut weakest, mut live) = (u64::MAX >> 1, 0);
    let line = table.line(bucket)?;
    for slot in 0..SLOTS as u32 {
        let remaining = table.read(line, slot).remaining(now);
        let candidate = remaining << 4 | u64::from(slot);
        // 1 if the candidate is smaller, hidden: as a comparison it would become a branch.
        let smaller = 0_u64.wrapping_sub(table.hide(candidate.wrapping_sub(weakest) >> 63));
        weakest ^= (weakest ^ candidate) & smaller;
        live += 0_u64.wrapping_sub(remaining) >> 63;
    }
    let live = table.hide(live);
    Some((weakest, live))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use core::cell::RefCell;
    use std::{vec, vec::Vec};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        abi::{Lifetimes, NO_SERVICE},
        ids::Epochs,
        lifetime,
        rest::{Class, KeyKind, Rest},
        sip::{Kind, Method},
        worth::{NoRoom, Scales, Standing, Weighs, make_room},
    };

    struct Memory(RefCell<Vec<[u64; SLOTS]>>);

    impl Buckets for Memory {
        type Line = u32;

        fn line(&self, bucket: u32) -> Option<u32> {
            (self.0.borrow().len() > bucket as usize).then_some(bucket)
        }

        fn read(&self, line: u32, slot: u32) -> Entry {
            Entry(self.0.borrow()[line as usize][slot as usize])
        }

        fn exchange(&self, place: Place, old: Entry, new: Entry) -> bool {
            let slot = &mut self.0.borrow_mut()[place.bucket as usize][place.slot as usize];
            let same = *slot == old.0;
            if same {
                *slot = new.0;
            }
            same
        }

        fn hide(&mut self, value: u64) -> u64 {
            value
        }
    }

    fn memory(buckets: usize) -> Memory {
        Memory(RefCell::new(vec![[0; SLOTS]; buckets]))
    }

    const LIFETIMES: Lifetimes = Lifetimes { proceeding: 52, failed: 18, ended: 10, call: 1678 };
    const BUCKETS: u32 = 1 << 10;
    /// A table of the usual size has so many times the slots of this one.
    const SCALE: u64 = (1 << 21) / (BUCKETS as u64 * SLOTS as u64);

    /// A table with the words beside it, in which claims are weighed; all epochs are live.
    struct Table {
        memory: Memory,
        rests: Vec<[u64; SLOTS]>,
        now: Tick,
        scales: Scales,
        /// The rule of before: whichever is nearest to its end gives way.
        by_end: bool,
    }

    /// A claim as it is made.
    #[derive(Clone, Copy)]
    struct Made {
        owner: u16,
        service: u8,
        class: Class,
        ticks: u16,
    }

    impl Table {
        fn new(by_end: bool) -> Self {
            let rests = vec![[0; SLOTS]; BUCKETS as usize];
            Self { memory: memory(BUCKETS as usize), rests, now: Tick::new(1), scales: Scales::default(), by_end }
        }

        fn standing(&self, entry: Entry, rest: u64) -> Standing {
            Standing::of(entry, Rest(rest), self.now, Epochs::from_bits(u16::MAX), &LIFETIMES)
        }

        /// What had to give way, if anything did; `Err` if the claim was not kept.
        fn claim(&mut self, key: u64, made: Made) -> Result<Option<(Entry, Standing)>, NoRoom> {
            let Made { owner, service, class, ticks } = made;
            let entry = Entry::new(key, owner, 0, self.now.after(ticks));
            let rest = Rest::of(key, service, KeyKind::Request, class);
            let mask = BUCKETS - 1;
            let (mut place, mut old) = choose(self, mask, key, self.now).unwrap();
            if old.remaining(self.now) != 0 && !self.by_end {
                self.scales = Scales::new(self.standing(entry, rest.0));
                (place, old) = make_room(self, mask, key)?;
            }
            let was = self.standing(old, self.rests[place.bucket as usize][place.slot as usize]);
            assert!(self.exchange(place, old, entry));
            self.rests[place.bucket as usize][place.slot as usize] = rest.0;
            Ok((old.remaining(self.now) != 0).then_some((old, was)))
        }

        fn has(&self, key: u64) -> bool {
            find(self, BUCKETS - 1, key).is_some_and(|(_, entry)| entry.remaining(self.now) != 0)
        }
    }

    impl Buckets for Table {
        type Line = u32;

        fn line(&self, bucket: u32) -> Option<u32> {
            self.memory.line(bucket)
        }

        fn read(&self, line: u32, slot: u32) -> Entry {
            self.memory.read(line, slot)
        }

        fn exchange(&self, place: Place, old: Entry, new: Entry) -> bool {
            self.memory.exchange(place, old, new)
        }

        fn hide(&mut self, value: u64) -> u64 {
            value
        }
    }

    impl Weighs for Table {
        fn weigh(&mut self, number: usize, place: Place) {
            let entry = self.load(place).unwrap();
            let standing = self.standing(entry, self.rests[place.bucket as usize][place.slot as usize]);
            self.scales.put(number, standing);
        }

        fn worth(&mut self, number: usize) -> u64 {
            self.scales.worth(number)
        }
    }

    /// Keys that nobody else has.
    struct Keys(u64);

    impl Keys {
        fn next(&mut self) -> u64 {
            self.0 += 1;
            mixed(self.0)
        }
    }

    /// What has so many a second has so many in a tick of this table.
    const fn a_tick(a_second: u64) -> u64 {
        a_second * 4295 / 1000 / SCALE
    }

    #[test]
    fn invites_at_15_000_a_second_push_out_next_to_no_short_claim_before_its_time() {
        let lost = |by_end| {
            let (mut table, mut keys) = (Table::new(by_end), Keys(0));
            let (mut short, mut early) = (0, 0);
            for _ in 0..3 * LIFETIMES.proceeding {
                table.now = table.now.after(1);
                for number in 0..a_tick(15_000) {
                    // All over the cluster.
                    let owner = 1 + (number % 8) as u16;
                    let rings = Made { owner, service: NO_SERVICE, class: Class::Proceeding, ticks: 52 };
                    let ends = Made { owner: 20, class: Class::Short, ticks: 10, ..rings };
                    let given = if number % 20 == 0 { Some(table.claim(keys.next(), ends)) } else { None };
                    for given in [given, Some(table.claim(keys.next(), rings))].into_iter().flatten() {
                        let Ok(Some((old, _))) = given else { continue };
                        early += u32::from(old.owner() == 20 && old.remaining(table.now) > 5);
                    }
                    short += u32::from(number % 20 == 0);
                }
            }
            (early, short)
        };
        let ((before, short), (now, _)) = (lost(true), lost(false));
        assert!(before * 3 > short, "{before} of {short} in the first half of their lives, by the rule of before");
        // A few lie among claims that are all younger yet.
        assert!(now * 200 < short, "{now} of {short}");
    }

    #[test]
    fn requests_that_are_refused_or_calls_of_one_service_push_out_no_calls_of_another() {
        let call = Made { owner: 1, service: 8, class: Class::Call, ticks: LIFETIMES.call };
        let lost = |by_end, flood: Made, a_second: u64| {
            let (mut table, mut keys) = (Table::new(by_end), Keys(0));
            let honest: Vec<u64> = (0..BUCKETS * 2).map(|_| keys.next()).collect();
            for key in &honest {
                table.claim(*key, call).unwrap();
            }
            // They have half of their lives before them yet.
            for _ in 0..LIFETIMES.call / 2 {
                table.now = table.now.after(1);
                for _ in 0..a_tick(a_second) {
                    let _ = table.claim(keys.next(), flood);
                }
            }
            honest.iter().filter(|key| !table.has(**key)).count() * 100 / honest.len()
        };
        // An OPTIONS that is answered with 404 takes what such a message is given.
        let refused = lifetime::of(Kind::Response, Method::Other, 404, &LIFETIMES, LIFETIMES.call, false);
        let refused = Made { owner: 1, service: 7, class: refused.class, ticks: refused.ticks };
        assert_eq!(lost(false, refused, 300), 0);
        // Calls that are set up, twice as many as the table has room for.
        let calls = Made { service: 7, ..call };
        let (before, now) = (lost(true, calls, 1200), lost(false, calls, 1200));
        assert!(before > 50 && now < 2, "{before} % by the rule of before, {now} % now");
    }

    #[test]
    fn an_owner_that_writes_as_fast_as_it_may_pushes_out_next_to_nobody_and_others_have_room() {
        let lost = |by_end| {
            let (mut table, mut keys) = (Table::new(by_end), Keys(0));
            let of = |owner| Made { owner, service: NO_SERVICE, class: Class::Proceeding, ticks: 26 };
            let honest: Vec<u64> = (0..BUCKETS * 3).map(|_| keys.next()).collect();
            for (key, owner) in honest.iter().zip((1..=4).cycle()) {
                table.claim(*key, of(owner)).unwrap();
            }
            let hostile = Made { owner: 9, service: NO_SERVICE, class: Class::Call, ticks: LIFETIMES.call };
            (0..BUCKETS * 40).for_each(|_| {
                let _ = table.claim(keys.next(), hostile);
            });
            let lost = honest.iter().filter(|key| !table.has(**key)).count() * 1000 / honest.len();
            let later: Vec<u64> = (0..BUCKETS / 2).map(|_| keys.next()).collect();
            let given: Vec<_> = later.iter().map(|key| table.claim(*key, of(5))).collect();
            let from_others = given.iter().filter(|given| !matches!(given, Ok(Some((old, _))) if old.owner() == 9));
            (lost, from_others.count() * 1000 / later.len(), later.iter().filter(|key| !table.has(**key)).count())
        };
        assert!(lost(true).0 > 900, "by the rule of before");
        let (lost, from_others, later) = lost(false);
        assert!(lost < 20 && from_others < 60, "of 1000: {lost} are lost, {from_others} newcomers displace others'");
        assert!(later < 5, "{later} newcomers are lost again");
    }

    fn mixed(mut x: u64) -> u64 {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    proptest! {
        #[test]
        fn an_entry_keeps_what_it_was_given(key: u64, owner in 1..=NodeId::MAX, epoch in 0..16_u8, at: u16, now: u16) {
            let entry = Entry::new(key, owner, epoch, Tick::new(at));
            prop_assert!(entry.matches(key));
            prop_assert!(!entry.matches(key ^ (1 << 30)));
            prop_assert_eq!((entry.owner(), entry.epoch().number(), entry.expires()), (owner, epoch, Tick::new(at)));
            let now = Tick::new(now);
            prop_assert_eq!(entry.remaining(now), u64::from(Tick::new(at).remaining(now)));
            prop_assert_eq!(Entry(entry.0 & 0xffff).remaining(now), 0, "an empty entry is never live");
        }
    }

    #[test]
    fn half_full_no_claim_is_lost_and_all_are_found() {
        let mask = (1 << 12) - 1;
        let mut table = memory(mask as usize + 1);
        let now = Tick::new(100);
        let claims = (mask as u64 + 1) * SLOTS as u64 / 2;
        for key in (0..claims).map(mixed) {
            let (place, old) = choose(&mut table, mask, key, now).unwrap();
            assert_eq!(old.remaining(now), 0, "a live claim gave way");
            assert!(table.exchange(place, old, Entry::new(key, 1, 0, Tick::new(150))));
        }
        assert!((0..claims).map(mixed).all(|key| find(&table, mask, key).unwrap().1.matches(key)));
        assert_eq!((claims..2 * claims).map(mixed).filter(|key| find(&table, mask, *key).is_some()).count(), 0);
    }

    #[test]
    fn in_a_full_table_the_claim_nearest_to_its_end_gives_way() {
        let mut table = memory(1);
        let now = Tick::new(0xfff0);
        for slot in 0..SLOTS as u64 {
            let (place, old) = choose(&mut table, 0, slot << 40, now).unwrap();
            assert!(table.exchange(place, old, Entry::new(slot << 40, 1, 0, now.after(40 - slot as u16))));
        }
        let (_, old) = choose(&mut table, 0, 9 << 40, now).unwrap();
        assert!(old.matches(7 << 40));
    }
}
