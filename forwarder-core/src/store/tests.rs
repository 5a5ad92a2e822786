//! The rule, as properties, and the store beside a map.

use std::collections::BTreeMap;

use forwarder_common::rest::{Class, KeyKind, Purpose};
use proptest::prelude::*;

use super::*;

const SECOND_US: u64 = 1_000_000;
/// How far from its end what the kernel was told can be known to be.
const TOLD_US: u64 = (1 << 19) - 1;

fn node(id: u16) -> NodeId {
    NodeId::new(id).unwrap()
}

fn entry(owner: u16, claimed_at_unix_us: u64, expires_us: u64) -> Entry {
    let epoch = Epoch::new(0);
    let version = Version { generation: 5, number: 0 };
    Entry {
        owner: node(owner),
        epoch,
        purpose: Purpose::of(KeyKind::Request, Class::Short),
        claimed_at_unix_us,
        expires_us,
        told_us: expires_us,
        version,
    }
}

/// Of nodes 1 to 4 all but the last are up, each with epochs 0 and 1 live.
fn store(capacity: usize, salt: u64) -> Store {
    let mut store = Store::new(capacity, salt);
    for owner in 1..=4 {
        store.set_epochs(node(owner), Epochs::from_bits(0b11));
        store.set_up(node(owner), owner != 4);
    }
    store
}

fn merged(claims: &[Entry]) -> Option<Entry> {
    let mut store = store(8, 1);
    for claim in claims {
        store.merge(1, *claim, 0);
    }
    // What the kernel was told is not a part of the rule.
    store.live(1, 0).map(|held| Entry { told_us: held.expires_us, ..held })
}

/// Claims as owners make them: one time for each owner's live epochs and one for each other epoch, and any end with
/// each version.
fn claims() -> impl Strategy<Value = Vec<Entry>> {
    let claim = (1..=4_u16, 0..4_u64, 0..100_u64, 1..1000_u64);
    let claims = proptest::collection::vec(claim, 1..12);
    (claims, proptest::collection::vec(0..4_u64, 16)).prop_map(|(claims, times)| {
        let time = |owner: u16, epoch: u64| times[usize::from(owner - 1) * 4 + epoch.max(1) as usize];
        let entry = |(owner, epoch, number, end)| Entry {
            epoch: Epoch::new(epoch),
            // An owner says one thing under a number.
            version: Version { generation: 5, number: number * 4 + epoch },
            ..entry(owner, time(owner, epoch), end)
        };
        claims.into_iter().map(entry).collect()
    })
}

/// What an owner says of one claim in incarnations that follow each other: the ends, and in which order they arrive,
/// some more than once and some not at all, but the last one does.
fn incarnations() -> impl Strategy<Value = Vec<(u64, Vec<u64>, Vec<usize>)>> {
    let incarnation =
        (0..1000_u64, proptest::collection::vec(1000..2000_u64, 1..100)).prop_flat_map(|(first, ends)| {
            let count = ends.len();
            let arrivals = proptest::collection::vec(0..count, 0..2 * count).prop_map(move |mut arrivals| {
                arrivals.push(count - 1);
                arrivals
            });
            (Just(first), Just(ends), arrivals.prop_shuffle())
        });
    proptest::collection::vec(incarnation, 1..5)
}

proptest! {
    #[test]
    fn the_first_owner_whose_claim_counts_keeps_the_key_whatever_the_times(claims in claims()) {
        let store = store(8, 1);
        let first = claims.iter().find(|claim| store.counts(claim)).or(claims.first()).unwrap();
        prop_assert_eq!(merged(&claims).unwrap().owner, first.owner);
    }

    #[test]
    fn a_repeated_arrival_changes_nothing(claims in claims()) {
        let twice: Vec<Entry> = claims.iter().chain(&claims).copied().collect();
        prop_assert_eq!(merged(&claims), merged(&twice));
    }

    #[test]
    fn an_ineffective_claim_never_wins_against_an_effective_one(claims in claims()) {
        let winner = merged(&claims).unwrap();
        let is_effective = |claim: &Entry| store(8, 1).is_effective(claim.owner, claim.epoch);
        prop_assert_eq!(is_effective(&winner), claims.iter().any(is_effective));
    }

    #[test]
    fn the_last_version_of_a_claim_counts_whatever_the_order_of_arrival(
        incarnations in incarnations(), of_another in any::<bool>()
    ) {
        let mut store = store(8, 1);
        if of_another {
            store.merge(1, entry(2, 9, 5000), 0);
        }
        for (generation, (first, ends, arrivals)) in (250_u8..).chain(0..).zip(&incarnations) {
            for at in arrivals {
                let version = Version { generation, number: first + *at as u64 };
                store.merge(1, Entry { version, ..entry(1, 1, ends[*at]) }, 0);
            }
        }
        store.merge(1, entry(3, 0, 5000), 0);
        let held = store.live(1, 0).unwrap();
        let last = *incarnations.last().unwrap().1.last().unwrap();
        prop_assert_eq!((held.owner, held.expires_us), if of_another { (node(2), 5000) } else { (node(1), last) });
    }

    #[test]
    fn the_store_is_a_map_of_what_has_not_ended(
        steps in proptest::collection::vec((0..300_u64, 1..=3_u16, 0..5_u64, 1..30_u64, 0..3_u64), 1..600),
        salt in any::<u64>()
    ) {
        let (mut store, mut model, mut now) = (store(100_000, salt), BTreeMap::<u64, Entry>::new(), 0);
        for (number, (key, owner, at, seconds, pause)) in (0..).zip(steps) {
            now += pause * SECOND_US;
            let version = Version { generation: 5, number };
            let end_us = now + seconds * SECOND_US;
            let claim = Entry { version, told_us: end_us, ..entry(owner, at, end_us) };
            store.merge(key, claim, now);
            model.retain(|_, held| held.expires_us > now);
            let held = model.entry(key).or_insert(claim);
            if held.owner == claim.owner {
                let told_us = held.told_us.clamp(claim.expires_us - TOLD_US, claim.expires_us + TOLD_US);
                *held = Entry { told_us, ..claim };
            }
            while !store.sweep(now, 4) {}
            prop_assert_eq!(store.len(), model.len());
            for (key, held) in &model {
                prop_assert_eq!(store.live(*key, now), Some(*held));
            }
            for owner in 1..=3 {
                let count = model.values().filter(|held| held.owner == node(owner)).count();
                prop_assert_eq!(store.held_by(node(owner)), count);
            }
        }
        while !store.sweep(now + 60 * SECOND_US, 4) {}
        prop_assert!(store.is_empty() && (1..=3).all(|owner| store.held_by(node(owner)) == 0));
    }

    #[test]
    fn a_full_store_never_grows(
        steps in proptest::collection::vec((any::<u64>(), 1..=3_u16, 1..30_u64), 1..900), capacity in 1..500_usize
    ) {
        let mut store = store(capacity, 1);
        for (key, owner, seconds) in steps {
            store.merge(key, entry(owner, 1, seconds * SECOND_US), 0);
            prop_assert!(store.len() <= capacity);
            prop_assert_eq!(store.len(), store.tables.iter().map(HashTable::len).sum::<usize>());
        }
    }
}

#[test]
fn what_only_an_earlier_incarnation_has_said_gives_way_once_the_present_one_has_said_all() {
    let mut store = store(8, 1);
    let said = |generation| Entry { version: Version { generation, number: 3 }, ..entry(1, 1, 9) };
    store.merge(1, said(5), 0);
    assert_eq!(store.merge(1, entry(2, 0, 9), 0), Merged::Lost(node(1)), "nobody has said so");
    store.set_complete(node(1), Some(5));
    assert_eq!(store.merge(1, entry(2, 0, 9), 0), Merged::Lost(node(1)), "it is the present one");
    store.set_complete(node(1), Some(6));
    assert!(!store.counts(&said(5)) && store.counts(&said(6)));
    assert_eq!(store.merge(1, entry(2, 0, 9), 0), Merged::Won(said(5)));
}

#[test]
fn what_owners_have_claimed_that_are_gone_for_a_minute_is_swept_and_nothing_else() {
    let mut store = store(100, 1);
    let walk = |store: &mut Store, seconds: u64| while !store.sweep(seconds * SECOND_US, 9) {};
    for (key, owner) in (0..).zip([1, 1, 2, 3, 3, 3]) {
        store.merge(key, entry(owner, 1, 10_000 * SECOND_US), 0);
    }
    walk(&mut store, 100);
    store.set_up(node(2), false);
    store.set_up(node(3), false);
    walk(&mut store, 102);
    walk(&mut store, 161);
    assert_eq!(store.len(), 6, "not yet");
    store.set_up(node(2), true);
    walk(&mut store, 162);
    assert_eq!([1, 2, 3].map(|owner| store.held_by(node(owner))), [2, 1, 0]);
    let gone: Vec<usize> = (1..5).filter(|owner| store.gone()[*owner]).collect();
    assert_eq!(gone, [3, 4], "nobody has heard of node 4");
    store.set_up(node(3), true);
    assert!(!store.is_swept(node(3), Epoch::new(0)), "it is back");
}

#[test]
fn what_this_node_owns_makes_room_for_nobody_else() {
    let mut store = store(8, 1);
    store.set_me(node(1));
    for key in 0..8 {
        store.merge(key, entry(1, 1, 10), 0);
    }
    assert_eq!(store.merge(100, entry(2, 1, 1000), 0), Merged::Refused);
    assert!((0..8).all(|key| store.live(key, 0).is_some()));
    assert_eq!(store.merge(100, entry(1, 1, 1000), 0), Merged::New, "but for its own");
    store.set_epochs(node(1), Epochs::from_bits(0b10));
    assert_eq!(store.merge(101, entry(2, 1, 1000), 0), Merged::New, "and what is of an epoch that is over does");
    assert_eq!((store.len(), store.held_by(node(1)), store.held_by(node(2))), (8, 7, 1));
}

#[test]
fn an_ended_claim_wins_against_nobody() {
    let mut store = store(8, 1);
    store.merge(1, entry(1, 1, 100), 0);
    assert_eq!(store.live(1, 100), None);
    assert_eq!(store.merge(1, entry(2, 50, 200), 100), Merged::New);
    assert_eq!(store.live(1, 100).unwrap().owner, node(2));
}

#[test]
fn a_claim_that_ends_earlier_than_said_at_first_ends_then() {
    let mut store = store(8, 1);
    let version = |number, end| Entry { version: Version { generation: 0, number }, ..entry(1, 1, end) };
    for (number, end, ends) in [(0, 240, 240), (1, 40, 40), (0, 240, 40), (1, 41, 41), (2, 100, 100), (1, 41, 100)] {
        store.merge(1, version(number, end), 0);
        assert_eq!(store.live(1, 0).unwrap().expires_us, ends, "version {number}");
    }
    assert_eq!(store.live(1, 100), None);
    while !store.sweep(100, 9) {}
    assert!(store.is_empty());
}

#[test]
fn a_claim_follows_its_owner_from_one_live_epoch_to_another_and_to_none_that_is_over() {
    let mut store = store(8, 1);
    let version = |epoch, number, at| {
        let version = Version { generation: 0, number };
        Entry { epoch: Epoch::new(epoch), version, ..entry(1, at, 100 + number) }
    };
    store.merge(1, version(0, 1, 10), 0);
    assert!(matches!(store.merge(1, version(1, 2, 20), 0), Merged::Known(_)));
    let held = store.live(1, 0).unwrap();
    assert_eq!((held.epoch, held.claimed_at_unix_us, held.expires_us), (Epoch::new(1), 20, 102));
    assert_eq!(store.merge(1, version(9, 3, 5), 0), Merged::Lost(node(1)), "of an epoch that is over");
    store.set_epochs(node(1), Epochs::from_bits(0b1));
    assert!(matches!(store.merge(1, version(0, 4, 30), 0), Merged::Won(_)), "the held one is of one that is over now");
    assert_eq!(store.live(1, 0).unwrap().claimed_at_unix_us, 30);
}

#[test]
fn a_full_store_drops_the_claim_nearest_to_its_end() {
    let mut store = store(2, 1);
    for (key, seconds) in [(1, 3), (2, 2), (1, 9), (2, 10), (3, 5)] {
        store.merge(key, entry(1, 1, seconds * SECOND_US), 0);
    }
    let keys: Vec<u64> = (1..=3).filter(|key| store.live(*key, 0).is_some()).collect();
    assert_eq!((keys, store.evicted()), (vec![2, 3], 1));
}

#[test]
fn a_peer_that_claims_without_end_displaces_its_own_claims_and_leaves_half_to_the_others() {
    let mut store = store(1000, 1);
    for key in 0..200 {
        store.merge(key, entry(1, 1, 10 * SECOND_US), 0);
    }
    for key in 1000..9000 {
        store.merge(key, entry(2, 1, 1000 * SECOND_US), 0);
    }
    assert!((0..200).all(|key| store.live(key, 0).is_some()));
    assert_eq!((store.held_by(node(1)), store.held_by(node(2)), store.len()), (200, 800, 1000));
    for key in 200..250 {
        store.merge(key, entry(3, 1, 10 * SECOND_US), 0);
    }
    assert_eq!((store.held_by(node(3)), store.len()), (50, 1000), "others still get in");
    for key in 300..1000 {
        store.merge(key, entry(3, 1, 10 * SECOND_US), 0);
    }
    let held = [1, 2, 3].map(|owner| store.held_by(node(owner)));
    assert!((450..=500).contains(&held[1]) && held.iter().sum::<usize>() == 1000, "{held:?}");
}

#[test]
fn a_full_store_keeps_what_is_worth_more_than_a_newcomer() {
    let mut store = store(4, 1);
    let lifetimes = Lifetimes { proceeding: 52, failed: 18, ended: 10, call: 1678 };
    store.set_lifetimes(lifetimes);
    store.set_up(node(4), true);
    let claim = |owner, class, seconds| {
        let purpose = Purpose::of(KeyKind::Request, class);
        Entry { purpose, ..entry(owner, 1, seconds * SECOND_US) }
    };
    for (key, owner, class, seconds) in
        [(1, 1, Class::Short, 30), (2, 2, Class::Proceeding, 60), (3, 3, Class::Call, 1000), (4, 4, Class::Call, 5000)]
    {
        store.merge(key, claim(owner, class, seconds), 0);
    }
    let keys = |store: &Store| -> Vec<u64> { (1..=7).filter(|key| store.live(*key, 0).is_some()).collect() };
    assert_eq!(store.merge(5, claim(1, Class::Call, 500), 0), Merged::Refused, "a fourteenth of its lifetime is left");
    assert_eq!(store.merge(6, claim(1, Class::Short, 30), 0), Merged::New);
    assert_eq!(keys(&store), [1, 2, 4, 6], "the least share, and not the next end");
    store.set_up(node(4), false);
    assert_eq!(store.merge(7, claim(2, Class::Call, 9), 0), Merged::New);
    assert_eq!(keys(&store), [1, 2, 6, 7], "what does not count goes first");
}

#[test]
fn a_claim_takes_32_bytes_and_keeps_its_fields() {
    assert_eq!(size_of::<Held>(), 32);
    let full = Entry {
        owner: node(1023),
        epoch: Epoch::new(15),
        purpose: Purpose::decode(15),
        claimed_at_unix_us: LATEST_UNIX_US,
        expires_us: (1 << 49) - 1,
        told_us: (1 << 49) - 1,
        version: Version { generation: 255, number: (1 << 44) - 1 },
    };
    assert_eq!(Held::new(5, &full).entry(), Some(full));
    let version = Version::default();
    let least = Entry {
        owner: node(1),
        epoch: Epoch::new(0),
        purpose: Purpose::UNKNOWN,
        expires_us: 1,
        told_us: 1,
        version,
        ..full
    };
    assert_eq!(Held::new(5, &least).entry(), Some(least));
    assert_eq!(Held::new(5, &Entry { expires_us: u64::MAX, ..least }).entry().unwrap().expires_us, (1 << 49) - 1);
    for off in [-500_000, -1, 1, 500_000] {
        let told_us = 1_000_000_u64.saturating_add_signed(off);
        let near = Entry { expires_us: 1_000_000, told_us, ..full };
        assert_eq!(Held::new(5, &near).entry(), Some(near));
    }
    for told_us in [0, 1 << 40] {
        let far = Held::new(5, &Entry { expires_us: 1 << 30, told_us, ..full }).entry().unwrap();
        assert_eq!(far.told_us.abs_diff(far.expires_us), TOLD_US, "it is told that it is far");
    }
}
