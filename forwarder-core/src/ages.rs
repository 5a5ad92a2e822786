//! How old claims are when they arrive: a histogram with eight buckets per power of two, so that a percentile is
//! within an eighth of the truth in 4 kB, however many claims there were.

use serde::Serialize;

const STEPS: u64 = 8;
const BUCKETS: usize = 62 * STEPS as usize;

/// What was seen, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AgeSummary {
    /// Claims counted.
    pub count: u64,
    /// Median in microseconds, at most an eighth too high; 0 when nothing was counted.
    pub p50_us: u64,
    /// 99th percentile in microseconds, at most an eighth too high; 0 when nothing was counted.
    pub p99_us: u64,
    /// The oldest in microseconds.
    pub max_us: u64,
}

/// The histogram.
#[derive(Clone, Debug)]
pub struct Ages {
    buckets: Vec<u64>,
    count: u64,
    max_us: u64,
}

impl Default for Ages {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0, max_us: 0 }
    }
}

impl Ages {
    /// Counts one age.
    pub fn record(&mut self, age_us: u64) {
        if let Some(bucket) = self.buckets.get_mut(bucket_of(age_us)) {
            *bucket += 1;
        }
        self.count += 1;
        self.max_us = self.max_us.max(age_us);
    }

    /// The summary so far.
    #[must_use]
    pub fn summary(&self) -> AgeSummary {
        AgeSummary { count: self.count, p50_us: self.percentile(50), p99_us: self.percentile(99), max_us: self.max_us }
    }

    fn percentile(&self, percent: u64) -> u64 {
        let rank = (self.count * percent).div_ceil(100);
        let mut seen = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            seen += bucket;
            if seen >= rank && seen > 0 {
                return highest_of(index).min(self.max_us);
            }
        }
        0
    }
}

fn bucket_of(age_us: u64) -> usize {
    if age_us < STEPS {
        return age_us as usize;
    }
    let shift = u64::from(age_us.ilog2()) - 3;
    ((shift + 1) * STEPS + ((age_us >> shift) - STEPS)) as usize
}

/// The largest age that falls into a bucket.
fn highest_of(index: usize) -> u64 {
    let index = index as u64;
    if index < STEPS {
        return index;
    }
    let shift = index / STEPS - 1;
    let step = STEPS + index % STEPS;
    (u128::from(step + 1) << shift).saturating_sub(1).min(u128::from(u64::MAX)) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percentiles_are_within_an_eighth() {
        let mut ages = Ages::default();
        (1..=1000).for_each(|us| ages.record(us));
        let summary = ages.summary();
        assert_eq!((summary.count, summary.max_us), (1000, 1000));
        assert!((500..=563).contains(&summary.p50_us), "{summary:?}");
        assert!((990..=1000).contains(&summary.p99_us), "{summary:?}");
    }

    #[test]
    fn nothing_counted_is_all_zero() {
        assert_eq!(Ages::default().summary(), AgeSummary::default());
    }

    proptest! {
        #[test]
        fn each_age_has_a_bucket_that_holds_it(age in any::<u64>()) {
            let bucket = bucket_of(age);
            prop_assert!(bucket < BUCKETS);
            prop_assert!(age <= highest_of(bucket));
            prop_assert!(bucket == 0 || age > highest_of(bucket - 1));
        }
    }
}
