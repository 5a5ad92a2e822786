//! What a claim is worth where there is no room for all: one rule for the programs, the daemon, its core and the
//! simulation.
//!
//! First go claims that do not count. Then those of a service, then of an owner, that has half of the room or more:
//! whoever claims without end displaces its own, and gives way to others. Then the one that has the least share of its
//! lifetime left. A newcomer displaces nothing that is worth more than itself.

use crate::{
    abi::{Lifetimes, NO_SERVICE},
    claim,
    ids::{Epochs, Tick},
    lifetime,
    rest::{Class, Rest},
    table::{Buckets, Entry, Place, SLOTS, buckets},
};

/// Claims among which a place is chosen: those of both buckets of a key.
pub const CLAIMS: usize = 2 * SLOTS;

/// A whole share of a claim's lifetime.
const WHOLE: u64 = 255;
const SERVICE_SHIFT: u32 = 8;
const OWNER_SHIFT: u32 = 16;
const COUNTS_SHIFT: u32 = 26;

/// The ticks of its class's lifetime that a claim is measured by. Those of a refused INVITE, which lasts longer than
/// all else that is short, count as whole until they are down to that.
const fn full(class: Class, lifetimes: &Lifetimes) -> u16 {
    let full = match class {
        Class::Short => lifetimes.ended,
        Class::Proceeding => lifetimes.proceeding,
        Class::Call => lifetimes.call,
    };
    if full == 0 { 1 } else { full }
}

/// The share of its lifetime that a claim of this class with `ticks` left has, 0..=255.
#[must_use]
#[inline(always)] // a division
pub const fn share(ticks: u64, class: Class, lifetimes: &Lifetimes) -> u64 {
    let share = ticks * WHOLE / full(class, lifetimes) as u64;
    if share > WHOLE { WHOLE } else { share }
}

/// A claim as it stands for a place: the share of its lifetime that is left (bits 0 to 7), its service (8 to 15), its
/// owner (16 to 25), and whether it counts (26).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Standing(pub u64);

impl Standing {
    /// A claim that counts.
    #[must_use]
    #[inline(always)] // a few instructions
    pub const fn new(owner: u16, service: u8, share: u64) -> Self {
        Self(share | (service as u64) << SERVICE_SHIFT | (owner as u64) << OWNER_SHIFT | 1 << COUNTS_SHIFT)
    }

    /// That of the table's entry with this word beside it; `live` are the live epochs of its owner.
    #[must_use]
    #[inline(always)] // once in a function that the verifier checks alone
    pub fn of(entry: Entry, rest: Rest, now: Tick, live: Epochs, lifetimes: &Lifetimes) -> Self {
        if !claim::is_effective(entry, now, |_| live) {
            return Self(0);
        }
        let ticks = entry.remaining(now);
        // A word of another claim, or none: two that are not written at once may not agree.
        let (service, class) = if rest.is_beside(entry) {
            (rest.service(), rest.purpose().class())
        } else {
            (NO_SERVICE, lifetime::class_of(ticks as u16, lifetimes))
        };
        Self::new(entry.owner(), service, share(ticks, class, lifetimes))
    }

    #[inline(always)] // one instruction
    const fn owner(self) -> u64 {
        self.0 >> OWNER_SHIFT
    }

    /// Owner and service.
    #[inline(always)] // one instruction
    const fn service(self) -> u64 {
        self.0 >> SERVICE_SHIFT
    }
}

/// What a claim is worth; the least goes first. `is_of_many` and `is_of_service_of_many` are 1 if its owner, and its
/// service there, have half of the room or more, else 0.
#[must_use]
#[inline(always)] // a few instructions
pub const fn worth(standing: Standing, is_of_many: u64, is_of_service_of_many: u64) -> u64 {
    let class = 3 - is_of_many - is_of_service_of_many;
    (class << 8 | standing.0 & WHOLE) * (standing.0 >> COUNTS_SHIFT & 1)
}

/// 1 if both are the same, else 0; without a branch. Neither has more than 63 bits.
#[inline(always)] // a few instructions
const fn is_same(one: u64, other: u64) -> u64 {
    1 - (0_u64.wrapping_sub(one ^ other) >> 63)
}

/// What a claim is worth among those for which there is room, by their numbers from 0 on, and the newcomer, which is
/// number [`CLAIMS`].
///
/// Free of branches, for the verifier would follow each way through sixteen claims; `hide` makes a number of 16 bits
/// one that it does not know.
#[inline(always)] // one place in each program
pub fn among(claim: Standing, at: impl Fn(usize) -> Standing, mut hide: impl FnMut(u64) -> u64) -> u64 {
    let (mut owners, mut services) = (0, 0);
    for number in 0..CLAIMS {
        let other = at(number);
        owners += is_same(claim.owner(), other.owner());
        services += is_same(claim.service(), other.service());
    }
    let below_half = SLOTS as u64 - 1;
    let (owners, services) = (hide(owners), hide(services));
    worth(claim, below_half.wrapping_sub(owners) >> 63, below_half.wrapping_sub(services) >> 63)
}

/// The number of the claim that is worth least, and what it is worth. Of those that are worth the same it is the first,
/// and never the newcomer.
#[inline(always)] // one place in each program
pub fn least(mut worth_of: impl FnMut(usize) -> u64) -> (u64, u64) {
    let mut least = worth_of(CLAIMS) << 8 | CLAIMS as u64;
    for number in 0..CLAIMS {
        let candidate = worth_of(number) << 8 | number as u64;
        let smaller = 0_u64.wrapping_sub(candidate.wrapping_sub(least) >> 63);
        least ^= (least ^ candidate) & smaller;
    }
    (least & 0xff, least >> 8)
}

/// The claims of both buckets of a key and the newcomer, on the host.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scales([Standing; CLAIMS + 1]);

impl Scales {
    /// Empty but for the newcomer.
    #[must_use]
    pub fn new(newcomer: Standing) -> Self {
        let mut scales = Self::default();
        scales.put(CLAIMS, newcomer);
        scales
    }

    /// The claim with this number stands so.
    pub fn put(&mut self, number: usize, standing: Standing) {
        if let Some(at) = self.0.get_mut(number) {
            *at = standing;
        }
    }

    /// What the claim with this number is worth.
    #[must_use]
    pub fn worth(&self, number: usize) -> u64 {
        let at = |number: usize| self.0.get(number).copied().unwrap_or_default();
        among(at(number), at, |number| number)
    }
}

/// A table whose claims are weighed against each other and a newcomer, see [`least`].
pub trait Weighs: Buckets {
    /// Looks how the claim at a place stands: it has that number from now on.
    fn weigh(&mut self, number: usize, place: Place);

    /// What the claim with this number is worth; the newcomer's is [`CLAIMS`].
    fn worth(&mut self, number: usize) -> u64;
}

/// Why no entry gives way to a newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// All of them are worth more than it.
    WorthMore,
    /// Another writer was faster: weigh again.
    Changed,
}

/// The entry that gives way to a newcomer on `key` where both buckets are full, and where it is.
///
/// # Errors
/// None does.
#[inline(always)] // one place in each program
pub fn make_room<B: Weighs>(table: &mut B, mask: u32, key: u64) -> Result<(Place, Entry), NoRoom> {
    let [first, second] = buckets(key, mask);
    for slot in 0..SLOTS {
        table.weigh(slot, Place { bucket: first, slot: slot as u32 });
        table.weigh(SLOTS + slot, Place { bucket: second, slot: slot as u32 });
    }
    let (number, worth) = least(|number| table.worth(number));
    if number >= CLAIMS as u64 {
        return Err(NoRoom::WorthMore);
    }
    let slot = number as u32 % SLOTS as u32;
    let place = Place { bucket: if number < SLOTS as u64 { first } else { second }, slot };
    let entry = table.load(place).ok_or(NoRoom::Changed)?;
    // What was written there since is not what was weighed.
    table.weigh(number as usize, place);
    if table.worth(number as usize) == worth { Ok((place, entry)) } else { Err(NoRoom::Changed) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::Epoch,
        rest::{KeyKind, Purpose},
    };

    const LIFETIMES: Lifetimes = Lifetimes { proceeding: 52, failed: 18, ended: 10, call: 1678 };
    const NOW: Tick = Tick::new(1000);

    fn choice(claims: impl Fn(u16) -> Standing, newcomer: Standing) -> u64 {
        let mut scales = Scales::new(newcomer);
        (0..CLAIMS).for_each(|slot| scales.put(slot, claims(slot as u16)));
        least(|number| scales.worth(number)).0
    }

    #[test]
    fn the_least_claim_gives_way_and_a_newcomer_to_what_is_worth_more() {
        let various = |slot: u16| Standing::new(slot + 1, NO_SERVICE, 100 + u64::from(slot ^ 5));
        let new = |share| Standing::new(99, NO_SERVICE, share);
        assert_eq!(choice(various, new(255)), 5, "the least share of its lifetime left");
        assert_eq!(choice(various, new(100)), 5, "as much as the newcomer");
        assert_eq!(choice(various, new(99)), CLAIMS as u64, "less than all others: it is not kept");
        let void = |slot| if slot == 9 { Standing(0) } else { various(slot) };
        assert_eq!(choice(void, new(1)), 9, "what does not count goes before all");
    }

    #[test]
    fn who_has_half_or_more_displaces_its_own_and_gives_way_to_others() {
        let of = |owner: u16, service: u8, share| Standing::new(owner, service, share);
        // Node 2 has eight of sixteen, with their whole lifetimes; those of others are nearly over.
        let eight = |slot| if slot < 8 { of(2, NO_SERVICE, 250) } else { of(3 + slot, NO_SERVICE, 5) };
        assert_eq!(choice(eight, of(2, NO_SERVICE, 255)), 0, "its ninth displaces one of its own");
        assert_eq!(choice(eight, of(2, NO_SERVICE, 3)), CLAIMS as u64, "or nothing");
        assert_eq!(choice(eight, of(99, NO_SERVICE, 1)), 0, "anybody else displaces its");
        let seven = |slot| if slot < 7 { of(2, NO_SERVICE, 250) } else { of(3 + slot, NO_SERVICE, 5) };
        assert_eq!(choice(seven, of(99, NO_SERVICE, 255)), 7, "seven are not half");
        // All are this node's; service 7 has nine of them.
        let services = |slot| if slot < 9 { of(1, 7, 250) } else { of(1, 8, 5) };
        assert_eq!(choice(services, of(1, 8, 200)), 0);
        assert_eq!(choice(services, of(1, 7, 255)), 0);
        let three = |slot| if slot < 7 { of(1, 7, 250) } else { of(1, 8 + slot as u8 % 2, 5) };
        assert_eq!(choice(three, of(1, 9, 255)), 7, "no service has half");
    }

    #[test]
    fn a_claim_stands_by_its_class_and_counts_or_is_worth_nothing() {
        let live = Epochs::EMPTY.with(Epoch::new(4));
        let key = 77 << 40;
        let standing =
            |epoch, ticks, rest| Standing::of(Entry::new(key, 2, epoch, NOW.after(ticks)), rest, NOW, live, &LIFETIMES);
        let rest = |class| Rest::for_purpose(key, Purpose::of(KeyKind::Request, class));
        for (class, ticks, share) in [
            (Class::Short, 5, 127),
            (Class::Short, 10, 255),
            (Class::Short, 18, 255),
            (Class::Proceeding, 26, 127),
            (Class::Call, 26, 3),
            (Class::Call, 1678, 255),
        ] {
            let expected = Standing::new(2, NO_SERVICE, share);
            assert_eq!(standing(4, ticks, rest(class)), expected, "{class:?} {ticks}");
        }
        let (of_service, of_another) = (Rest::of(key, 7, KeyKind::Reply, Class::Short), Rest::new(key ^ 1 << 44));
        assert_eq!(standing(4, 5, of_service), Standing::new(2, 7, 127));
        assert_eq!(standing(4, 26, of_another), Standing::new(2, NO_SERVICE, 127), "by what is left");
        assert_eq!([standing(5, 5, of_service), standing(4, 0, of_service)], [Standing(0); 2]);
        assert_eq!(worth(Standing(0), 0, 0), 0);
        let whole = Standing::new(2, 7, 255);
        assert!(worth(whole, 1, 1) < worth(whole, 1, 0) && worth(whole, 1, 0) < worth(whole, 0, 0));
    }
}
