//! The claims of this node in the order in which they were made or lengthened, by number.
//!
//! What the peers are sent are stretches of this log, so each of them knows by the numbers what it has not got. A key's
//! last number is in its entry in the store: under earlier ones it counts as gone. Chunks whose claims have all ended
//! are freed.

use std::collections::VecDeque;

/// Claims of one chunk: 32 kB.
const CHUNK: u64 = 4096;

#[derive(Debug, Default)]
struct Chunk {
    /// Empty once all have ended.
    keys: Vec<u64>,
    /// The latest end of its claims when they were logged, in microseconds of the monotonic clock.
    until_us: u64,
}

#[derive(Debug, Default)]
pub(super) struct Log {
    chunks: VecDeque<Chunk>,
    /// The number of the first chunk's first key.
    base: u64,
    next: u64,
}

impl Log {
    /// The number of the next claim.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// Numbers that memory is held for.
    pub(super) fn held(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.keys.capacity()).sum()
    }

    /// Adds a claim that ends at `until_us` and gives its number.
    pub(super) fn append(&mut self, key: u64, until_us: u64) -> u64 {
        let number = self.next;
        self.next += 1;
        if number.is_multiple_of(CHUNK) || self.chunks.is_empty() {
            if self.chunks.is_empty() {
                self.base = number - number % CHUNK;
            }
            self.chunks.push_back(Chunk::default());
        }
        if let Some(chunk) = self.chunks.back_mut() {
            // A chunk that was freed is begun anew in the middle: numbers before are gone.
            let at = (number % CHUNK) as usize;
            if chunk.keys.len() < at {
                chunk.keys.resize(at, 0);
            }
            chunk.keys.push(key);
            chunk.until_us = chunk.until_us.max(until_us);
        }
        number
    }

    /// The first number from `from` on, at most `to`, under which a claim may be alive.
    pub(super) fn skip_ended(&self, mut from: u64, to: u64, now_us: u64) -> u64 {
        from = from.max(self.base);
        while from < to {
            match self.chunk(from) {
                Some(chunk) if chunk.until_us > now_us => return from,
                _ => from = (from / CHUNK + 1) * CHUNK,
            }
        }
        to
    }

    /// The key of a number.
    pub(super) fn key(&self, number: u64) -> Option<u64> {
        self.chunk(number)?.keys.get((number % CHUNK) as usize).copied()
    }

    /// Frees what has ended.
    pub(super) fn trim(&mut self, now_us: u64) {
        for chunk in self.chunks.iter_mut().filter(|chunk| chunk.until_us <= now_us) {
            chunk.keys = Vec::new();
        }
        while self.chunks.len() > 1 && self.chunks.front().is_some_and(|chunk| chunk.keys.is_empty()) {
            self.chunks.pop_front();
            self.base += CHUNK;
        }
    }

    /// Takes the oldest full chunk out: its keys with their numbers.
    pub(super) fn take_oldest(&mut self) -> Vec<(u64, u64)> {
        if self.chunks.len() < 2 {
            return Vec::new();
        }
        let base = self.base;
        self.base += CHUNK;
        let keys = self.chunks.pop_front().unwrap_or_default().keys;
        keys.into_iter().enumerate().map(|(at, key)| (base + at as u64, key)).collect()
    }

    fn chunk(&self, number: u64) -> Option<&Chunk> {
        self.chunks.get(usize::try_from(number.checked_sub(self.base)? / CHUNK).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_keys_until_all_claims_around_them_have_ended() {
        let mut log = Log::default();
        for number in 0..3 * CHUNK {
            assert_eq!(log.append(number * 7, 100 + number / CHUNK), number);
        }
        assert_eq!((log.key(0), log.key(CHUNK + 5), log.key(3 * CHUNK)), (Some(0), Some((CHUNK + 5) * 7), None));
        log.trim(99);
        assert_eq!(log.skip_ended(5, 3 * CHUNK, 99), 5);
        log.trim(101);
        assert_eq!((log.key(0), log.key(CHUNK + 5)), (None, None));
        assert_eq!(log.skip_ended(5, 3 * CHUNK, 101), 2 * CHUNK);
        assert_eq!(log.skip_ended(5, CHUNK, 101), CHUNK);
        log.trim(1000);
        assert_eq!((log.next(), log.held(), log.skip_ended(0, 3 * CHUNK, 1000)), (3 * CHUNK, 0, 3 * CHUNK));
        assert_eq!(log.append(9, 2000), 3 * CHUNK);
        assert_eq!((log.key(3 * CHUNK), log.skip_ended(0, 4 * CHUNK, 1500)), (Some(9), 3 * CHUNK));
    }

    #[test]
    fn a_chunk_that_was_freed_half_full_goes_on_under_the_same_numbers() {
        let mut log = Log::default();
        for key in 0..10 {
            log.append(key, 100);
        }
        log.trim(200);
        assert_eq!((log.append(77, 300), log.key(10), log.next()), (10, Some(77), 11));
        assert_eq!(log.skip_ended(0, 11, 250), 0);
    }

    #[test]
    fn a_long_life_among_short_ones_can_be_taken_out() {
        let mut log = Log::default();
        for key in 0..=CHUNK {
            log.append(key, if key == 3 { 1 << 40 } else { 100 });
        }
        log.trim(200);
        let oldest = log.take_oldest();
        assert_eq!((oldest.len() as u64, oldest[3]), (CHUNK, (3, 3)));
        assert_eq!((log.key(3), log.take_oldest()), (None, Vec::new()));
    }
}
