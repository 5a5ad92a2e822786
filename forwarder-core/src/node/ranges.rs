//! A set of numbers as ranges, bounded: what of a peer's claims has arrived, and what is yet to be sent to it.

use std::collections::BTreeMap;

/// Disjoint, not touching: end by start, the end excluded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many ranges there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds `from..to`; nothing if that is empty.
    pub(super) fn insert(&mut self, mut from: u64, mut to: u64) {
        if from >= to {
            return;
        }
        // Those that touch it become one with it, from the last one on.
        while let Some((&start, &end)) = self.0.range(..=to).next_back().filter(|(_, end)| **end >= from) {
            self.0.remove(&start);
            (from, to) = (from.min(start), to.max(end));
        }
        self.0.insert(from, to);
    }

    /// The first number below which all are in the set.
    pub(super) fn complete_below(&self) -> u64 {
        self.0.first_key_value().filter(|(from, _)| **from == 0).map_or(0, |(_, to)| *to)
    }

    /// What is not in the set below `end`, in order.
    pub(super) fn missing_below(&self, end: u64) -> impl Iterator<Item = (u64, u64)> {
        let starts = self.0.keys().copied().chain([u64::MAX]);
        let gaps = std::iter::once(0).chain(self.0.values().copied()).zip(starts);
        gaps.map(move |(from, to)| (from, to.min(end)))
            .take_while(move |(from, _)| *from < end)
            .filter(|(from, to)| from < to)
    }

    /// Takes the lowest range out.
    pub(super) fn pop_first(&mut self) -> Option<(u64, u64)> {
        self.0.pop_first()
    }

    /// Takes the highest range out.
    pub(super) fn pop_last(&mut self) -> Option<(u64, u64)> {
        self.0.pop_last()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_the_set_of_their_numbers(
            steps in proptest::collection::vec((0..40_u64, 0..8_u64), 0..30), end in 0..50_u64
        ) {
            let (mut ranges, mut numbers) = (Ranges::default(), BTreeSet::new());
            for (from, length) in steps {
                ranges.insert(from, from + length);
                numbers.extend(from..from + length);
                let all: Vec<u64> = ranges.0.iter().flat_map(|(from, to)| *from..*to).collect();
                prop_assert_eq!(all, numbers.iter().copied().collect::<Vec<_>>());
                let touching = ranges.0.iter().zip(ranges.0.iter().skip(1)).any(|((_, end), (start, _))| end >= start);
                prop_assert!(!touching && ranges.0.iter().all(|(from, to)| from < to));
            }
            let missing: Vec<u64> = ranges.missing_below(end).flat_map(|(from, to)| from..to).collect();
            prop_assert_eq!(missing, (0..end).filter(|number| !numbers.contains(number)).collect::<Vec<_>>());
            prop_assert_eq!(ranges.complete_below(), (0..).find(|number| !numbers.contains(number)).unwrap());
        }
    }
}
