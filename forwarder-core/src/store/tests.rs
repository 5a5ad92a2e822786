//! The rule, as properties, and the store beside a map.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const SECOND_US: u64 = 1_000_000;

fn node(id: u16) -> NodeId {
    NodeId::new(id).unwrap()
}

fn entry(owner: u16, claimed_at_unix_us: u64, expires_us: u64) -> Entry {
    let epoch = Epoch::new(0);
    Entry { owner: node(owner), epoch, claimed_at_unix_us, expires_us, mark: 0, word: Word::default() }
}

/// Of nodes 1 to 4 all but the last are up, each in epoch 0.
fn store(capacity: usize, salt: u64) -> Store {
    let mut store = Store::new(capacity, salt);
    for owner in 1..=4 {
        store.set_epochs(node(owner), Epochs::EMPTY.with(Epoch::new(0)));
        store.set_up(node(owner), owner != 4);
    }
    store
}

fn merged(claims: &[Entry]) -> Option<Entry> {
    let mut store = store(8, 1);
    for claim in claims {
        store.merge(1, *claim, 0);
    }
    store.live(1, 0)
}

/// Claims as owners make them: one time for each owner and epoch, and any end with each of their words.
fn claims() -> impl Strategy<Value = Vec<Entry>> {
    let claim = (1..=4_u16, 0..3_u64, 0..100_u8, 1..1000_u64);
    let claims = proptest::collection::vec(claim, 1..12);
    (claims, proptest::collection::vec(0..4_u64, 12), any::<u8>()).prop_map(|(claims, times, first)| {
        let time = |owner: u16, epoch: u64| times[usize::from(owner - 1) * 3 + epoch as usize];
        let entry = |(owner, epoch, words, end)| Entry {
            epoch: Epoch::new(epoch),
            word: word_after(Word { session: 5, number: first }, words),
            ..entry(owner, time(owner, epoch), end)
        };
        claims.into_iter().map(entry).collect()
    })
}

fn word_after(first: Word, words: u8) -> Word {
    (0..words).fold(first, |word, _| word.next())
}

/// What an owner says of one claim over links that follow each other: the ends, and in which order they arrive, some
/// more than once and some not at all, but the last one does.
fn sessions() -> impl Strategy<Value = Vec<(u8, Vec<u64>, Vec<usize>)>> {
    let session = (any::<u8>(), proptest::collection::vec(1000..2000_u64, 1..100)).prop_flat_map(|(first, ends)| {
        let count = ends.len();
        let arrivals = proptest::collection::vec(0..count, 0..2 * count).prop_map(move |mut arrivals| {
            arrivals.push(count - 1);
            arrivals
        });
        (Just(first), Just(ends), arrivals.prop_shuffle())
    });
    proptest::collection::vec(session, 1..5)
}

proptest! {
    #[test]
    fn the_order_of_arrival_does_not_matter(
        (claims, shuffled) in claims().prop_flat_map(|claims| (Just(claims.clone()), Just(claims).prop_shuffle()))
    ) {
        prop_assert_eq!(merged(&claims), merged(&shuffled));
    }

    #[test]
    fn a_repeated_arrival_changes_nothing(claims in claims()) {
        let twice: Vec<Entry> = claims.iter().chain(&claims).copied().collect();
        prop_assert_eq!(merged(&claims), merged(&twice));
    }

    #[test]
    fn groups_may_be_merged_first(claims in claims(), at in any::<prop::sample::Index>()) {
        let (left, right) = claims.split_at(at.index(claims.len()));
        let grouped: Vec<Entry> = merged(left).into_iter().chain(merged(right)).collect();
        let (whole, grouped) = (merged(&claims), merged(&grouped));
        prop_assert_eq!(whole, grouped);
    }

    #[test]
    fn an_ineffective_claim_never_wins_against_an_effective_one(claims in claims()) {
        let winner = merged(&claims).unwrap();
        let is_effective = |claim: &Entry| store(8, 1).is_effective(claim.owner, claim.epoch);
        prop_assert_eq!(is_effective(&winner), claims.iter().any(is_effective));
    }

    #[test]
    fn the_last_word_about_a_claim_counts_whatever_the_order_of_arrival(sessions in sessions(), of_another in 0..3_u64) {
        let mut store = store(8, 1);
        store.merge(1, entry(2, of_another, 5000), 0);
        for (session, (first, ends, arrivals)) in (0_u8..).zip(&sessions) {
            for at in arrivals {
                let word = word_after(Word { session, number: *first }, *at as u8);
                store.merge(1, Entry { word, ..entry(1, 1, ends[*at]) }, 0);
            }
        }
        let held = store.live(1, 0).unwrap();
        let last = *sessions.last().unwrap().1.last().unwrap();
        prop_assert_eq!((held.owner, held.expires_us), if of_another == 0 { (node(2), 5000) } else { (node(1), last) });
    }

    #[test]
    fn the_store_is_a_map_of_what_has_not_ended(
        steps in proptest::collection::vec((0..300_u64, 1..=3_u16, 0..5_u64, 1..30_u64, 0..3_u64), 1..600), salt in any::<u64>()
    ) {
        let (mut store, mut model, mut now) = (store(100_000, salt), BTreeMap::<u64, Entry>::new(), 0);
        let mut words = BTreeMap::<(u64, u16), Word>::new();
        for (key, owner, at, seconds, pause) in steps {
            now += pause * SECOND_US;
            let word = words.entry((key, owner)).or_default();
            *word = word.next();
            let claim = Entry { word: *word, ..entry(owner, at, now + seconds * SECOND_US) };
            store.merge(key, claim, now);
            model.retain(|_, held| held.expires_us > now);
            let held = model.entry(key).or_insert(claim);
            if held.owner == claim.owner {
                let claimed_at_unix_us = held.claimed_at_unix_us.min(at);
                *held = Entry { claimed_at_unix_us, ..claim };
            } else if (claim.claimed_at_unix_us, claim.owner) < (held.claimed_at_unix_us, held.owner) {
                *held = claim;
            }
            while !store.sweep(now + LINGER_US, 4) {}
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
fn the_earlier_claim_wins_and_a_tie_goes_to_the_lower_id() {
    assert_eq!(merged(&[entry(1, 20, 9), entry(2, 10, 9)]).unwrap().owner, node(2));
    assert_eq!(merged(&[entry(3, 10, 9), entry(2, 10, 9)]).unwrap().owner, node(2));
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
    let word = |number, end| Entry { word: Word { session: 0, number }, ..entry(1, 1, end) };
    for (number, end, ends) in [(0, 240, 240), (1, 40, 40), (0, 240, 40), (1, 41, 41), (2, 100, 100), (1, 41, 100)] {
        store.merge(1, word(number, end), 0);
        assert_eq!(store.live(1, 0).unwrap().expires_us, ends, "word {number}");
    }
    assert_eq!(store.live(1, 100), None);
}

#[test]
fn a_claim_that_has_ended_is_kept_for_a_moment_so_that_its_owner_can_go_on_with_it() {
    let mut store = store(8, 1);
    store.merge(1, Entry { word: Word { session: 0, number: 7 }, ..entry(1, 1, 100) }, 0);
    while !store.sweep(LINGER_US + 99, 9) {}
    assert_eq!((store.live(1, 100), store.last(1).unwrap().word.number), (None, 7));
    while !store.sweep(LINGER_US + 100, 9) {}
    assert_eq!(store.last(1), None);
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
fn a_peer_that_claims_without_end_displaces_its_own_claims_and_leaves_a_quarter_to_the_others() {
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
}

#[test]
fn a_claim_takes_32_bytes_and_keeps_its_fields() {
    assert_eq!(size_of::<Held>(), 32);
    let full = Entry {
        owner: node(1023),
        epoch: Epoch::new(15),
        claimed_at_unix_us: u64::MAX,
        expires_us: (1 << 49) - 1,
        mark: (1 << 49) - 1,
        word: Word { session: 127, number: 255 },
    };
    assert_eq!(Held::new(5, &full).entry(), Some(full));
    let least = Entry { owner: node(1), epoch: Epoch::new(0), expires_us: 1, mark: 0, word: Word::default(), ..full };
    assert_eq!(Held::new(5, &least).entry(), Some(least));
    assert_eq!(Held::new(5, &Entry { expires_us: u64::MAX, ..least }).entry().unwrap().expires_us, (1 << 49) - 1);
}
